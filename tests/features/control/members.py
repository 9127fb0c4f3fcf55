"""A control store of one or three members, and what can befall one of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random

from mlplatform.adapters.memory import MemoryStore
from mlplatform.control.executors import DaemonThreads, InlineExecutor
from mlplatform.control.quorum import ControlStore
from mlplatform.control.retry import Retry, RetryingStore
from mlplatform.ports.clock import Clock
from tests.features.control.weather import FaultyStore, VirtualClock


class Members:
    """The stores themselves, shared by all processes that have a `ControlStore` of them."""

    def __init__(self, count: int = 3) -> None:
        self.stores = [FaultyStore(MemoryStore(f"control-{n}")) for n in range(count)]

    def control(self, clock: Clock | None = None, *, threads: bool = False) -> ControlStore:
        """As one process sees them."""
        clock = clock or VirtualClock()
        return ControlStore(
            self.stores,
            clock,
            executor=DaemonThreads() if threads else InlineExecutor(),
            grace_seconds=0.25 if threads else 0.5,
        )

    def retrying(self, clock: Clock, seed: int = 0) -> ControlStore:
        """With the policy around each, as in the product."""
        retry = Retry(clock, Random(seed), attempts=3, base_seconds=0.1, deadline_seconds=5)
        stores = [RetryingStore(store, retry) for store in self.stores]
        return ControlStore(stores, clock, executor=InlineExecutor())

    def holding(self, key: str) -> list[int]:
        """Members that hold `key`."""
        return [
            n for n, s in enumerate(self.stores) if any(o.key == key for o in s.store.list(key))
        ]

    def rebuild(self, member: int) -> None:
        """Replace it by an empty one."""
        self.stores[member].store = MemoryStore(f"control-{member}")


@contextmanager
def lost(members: Members, member: int) -> Iterator[None]:
    members.stores[member].down = True
    yield
    members.stores[member].down = False


@contextmanager
def dropped(members: Members, member: int) -> Iterator[None]:
    """The bucket itself is gone."""
    store = members.stores[member].store
    assert isinstance(store, MemoryStore)
    store.drop()
    yield


@contextmanager
def read_only(members: Members, member: int) -> Iterator[None]:
    members.stores[member].read_only = True
    yield
    members.stores[member].read_only = False


@contextmanager
def slow(members: Members, member: int) -> Iterator[None]:
    """It does not answer at all while this lasts."""
    release = members.stores[member].stalled = threading.Event()
    try:
        yield
    finally:
        release.set()
        members.stores[member].stalled = None


@contextmanager
def rebuilt(members: Members, member: int) -> Iterator[None]:
    members.rebuild(member)
    yield


Ailment = Callable[[Members, int], object]
AILMENTS = {
    "lost": lost,
    "bucket gone": dropped,
    "read-only": read_only,
    "slow": slow,
    "rebuilt": rebuilt,
}
