"""The guards of replication."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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
from tests.simulation.guards import CONTROL_GUARDS, Guards
from tests.simulation.replication.judge import ReplicationJudge
from tests.simulation.stores import SimStore, SimUpload

GUARDS = Guards(CONTROL_GUARDS)


@GUARDS.removes
def guard_before_what_shows() -> Iterator[None]:
    """Nobody asks for the lease before the manifest."""
    with patch.object(Lease, "guard", lambda self: None):
        yield


@GUARDS.removes
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


@GUARDS.removes
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


@GUARDS.removes
def verify_before_the_manifest() -> Iterator[None]:
    """What was written is believed to be there."""

    def believe(
        self: Transfer, target: Any, entry: FileEntry, stat: Stat, **_: Any
    ) -> tuple[Stat, Evidence]:
        return stat, Evidence.READ_BACK

    with patch.object(Transfer, "_prove", believe):
        yield


@GUARDS.removes
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


@GUARDS.removes
def revalidate_on_resume() -> Iterator[None]:
    """A resumed operation does what its plan says, whatever has happened since."""

    def as_planned(self: _Loop[Any], plan: Plan) -> Plan:
        return plan

    with patch.object(_Loop, "_decide_anew", as_planned):
        yield


@GUARDS.removes
def bind_the_name() -> Iterator[None]:
    """Nobody takes the version's name before its manifest is written."""
    # The judge must see the harm itself, not only that the record is missing.
    unbound = patch.object(ReplicationJudge, "demands_binding", new=False)
    with unbound, patch.object(Replicas, "bind", lambda self, manifest: None):
        yield
