"""Each guard, and the product without it.

A guard that can be removed with no world noticing is not needed, or the worlds are too kind. So
`test_guards` removes each, and some world must fail.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from unittest.mock import patch

from mlplatform.control.lease import Lease
from mlplatform.control.reconcile import _Loop
from mlplatform.control.retry import RetryingStore
from mlplatform.core.digest import Buffer, Digests, Evidence
from mlplatform.core.manifest import FileEntry
from mlplatform.core.plan import Plan
from mlplatform.ports.store import ALWAYS, Condition, Part, Stat, Upload
from mlplatform.replication.effects import Replicas
from mlplatform.replication.parts import PartPlan
from mlplatform.replication.transfer import Transfer
from tests.simulation.judge import Judge
from tests.simulation.stores import SimStore, SimUpload

GUARDS: dict[str, Callable[[], AbstractContextManager[None]]] = {}


def _removes(
    guard: Callable[[], Iterator[None]],
) -> Callable[[], AbstractContextManager[None]]:
    """Register a removal under its function's name."""
    GUARDS[guard.__name__.replace("_", "-")] = removed = contextmanager(guard)
    return removed


@_removes
def next_number_is_the_fence() -> Iterator[None]:
    """A journal number that is taken is taken again."""
    put = SimStore.put

    def careless(self: SimStore, key: str, body: Buffer, *, when: Condition, **rest: Any) -> Stat:
        return put(self, key, body, when=ALWAYS if key.startswith("journal/") else when, **rest)

    with patch.object(SimStore, "put", careless):
        yield


@_removes
def lease_by_compare_and_set() -> Iterator[None]:
    """The lease is taken without looking whether it still is as it was seen."""
    put = SimStore.put

    def careless(self: SimStore, key: str, body: Buffer, *, when: Condition, **rest: Any) -> Stat:
        return put(self, key, body, when=ALWAYS if key.startswith("leases/") else when, **rest)

    with patch.object(SimStore, "put", careless):
        yield


@_removes
def holder_stops_at_its_deadline() -> Iterator[None]:
    """A holder goes on although its term is over."""
    with patch.object(Lease, "held", lambda self: None):
        yield


@_removes
def guard_before_what_shows() -> Iterator[None]:
    """Nobody asks for the lease before the manifest."""
    with patch.object(Lease, "guard", lambda self: None):
        yield


@_removes
def create_only() -> Iterator[None]:
    """Objects and manifests are written whatever is there."""
    put, complete = SimStore.put, SimUpload.complete

    def careless(self: SimStore, key: str, body: Buffer, *, when: Condition, **rest: Any) -> Stat:
        return put(self, key, body, when=when if self.site.is_control else ALWAYS, **rest)

    def careless_too(
        self: SimUpload, parts: Sequence[Part], *, digests: Digests, when: Condition
    ) -> Stat:
        return complete(self, parts, digests=digests, when=ALWAYS)

    with patch.object(SimStore, "put", careless), patch.object(SimUpload, "complete", careless_too):
        yield


@_removes
def settle_by_reading() -> Iterator[None]:
    """A refused write, after a lost answer, is taken for our own without looking."""

    def body(self: RetryingStore, key: str, body: memoryview, when: Condition) -> Stat | None:
        return self._store.stat(key)

    def upload(
        self: RetryingStore, key: str, size_bytes: int, digests: Digests, when: Condition
    ) -> Stat | None:
        return self._store.stat(key)

    with (
        patch.object(RetryingStore, "_look_for_body", body),
        patch.object(RetryingStore, "_look_for_upload", upload),
    ):
        yield


@_removes
def verify_before_the_manifest() -> Iterator[None]:
    """What was written is believed to be there."""

    def believe(
        self: Transfer, target: Any, entry: FileEntry, stat: Stat, **_: Any
    ) -> tuple[Stat, Evidence]:
        return stat, Evidence.READ_BACK

    with patch.object(Transfer, "_prove", believe):
        yield


@_removes
def verify_parts_that_are_found() -> Iterator[None]:
    """Parts that a target holds are believed by their size."""

    def believe(
        self: Transfer, target: Any, plan: Sequence[PartPlan]
    ) -> tuple[Upload | None, Mapping[int, Part]]:
        for upload in target.store.uploads(plan[0].key):
            found = {part.index: part for part in upload.parts()}
            if found and all(
                index < len(plan) and part.size_bytes == plan[index].span.size_bytes
                for index, part in found.items()
            ):
                return upload, found
        return None, {}

    with patch.object(Transfer, "_take_up", believe):
        yield


@_removes
def revalidate_on_resume() -> Iterator[None]:
    """A resumed operation does what its plan says, whatever has happened since."""

    def as_planned(self: _Loop[Any], plan: Plan) -> Plan:
        return plan

    with patch.object(_Loop, "_decide_anew", as_planned):
        yield


@_removes
def bind_the_name() -> Iterator[None]:
    """Nobody takes the version's name before its manifest is written."""
    # The judge must see the harm itself, not only that the record is missing.
    unbound = patch.object(Judge, "demands_binding", new=False)
    with unbound, patch.object(Replicas, "bind", lambda self, manifest: None):
        yield


def without(guard: str | None) -> AbstractContextManager[None]:
    """The product without that guard; with None, as it is."""
    if guard is None:
        return contextmanager(_nothing)()
    return GUARDS[guard]()


def _nothing() -> Iterator[None]:
    yield
