"""Each guard, and the product without it.

A guard that can be removed with no world noticing is not needed, or the worlds are too kind. So the
tests remove each, and some world must fail. Those of journal and lease are here; each world adds
its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from unittest.mock import patch

from mlplatform.control.lease import Lease
from mlplatform.core.digest import Buffer
from mlplatform.ports.store import ALWAYS, Condition, Stat
from tests.simulation.stores import SimStore

Removal = Callable[[], AbstractContextManager[None]]


class Guards(dict[str, Removal]):
    """Removals of guards, by the guards' names."""

    def removes(self, guard: Callable[[], Iterator[None]]) -> Removal:
        """Register a removal under its function's name."""
        self[guard.__name__.replace("_", "-")] = removed = contextmanager(guard)
        return removed


CONTROL_GUARDS = Guards()


@CONTROL_GUARDS.removes
def next_number_is_the_fence() -> Iterator[None]:
    """A journal number that is taken is taken again."""
    put = SimStore.put

    def careless(self: SimStore, key: str, body: Buffer, *, when: Condition, **rest: Any) -> Stat:
        return put(self, key, body, when=ALWAYS if key.startswith("journal/") else when, **rest)

    with patch.object(SimStore, "put", careless):
        yield


@CONTROL_GUARDS.removes
def lease_by_compare_and_set() -> Iterator[None]:
    """The lease is taken without looking whether it still is as it was seen."""
    put = SimStore.put

    def careless(self: SimStore, key: str, body: Buffer, *, when: Condition, **rest: Any) -> Stat:
        return put(self, key, body, when=ALWAYS if key.startswith("leases/") else when, **rest)

    with patch.object(SimStore, "put", careless):
        yield


@CONTROL_GUARDS.removes
def holder_stops_at_its_deadline() -> Iterator[None]:
    """A holder goes on although its term is over."""
    with patch.object(Lease, "held", lambda self: None):
        yield


def without(guards: Mapping[str, Removal], guard: str | None) -> AbstractContextManager[None]:
    """The product without that guard; with None, as it is."""
    if guard is None:
        return contextmanager(_nothing)()
    return guards[guard]()


def _nothing() -> Iterator[None]:
    yield
