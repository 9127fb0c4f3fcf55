"""What the memory store has beyond the contract: it repeats itself, and can be hurt."""

from __future__ import annotations

from datetime import UTC, datetime

import greenlet
import pytest

from mlplatform.adapters.memory import MemoryStore, open_store
from mlplatform.core.digest import digest_of
from mlplatform.core.errors import ContainerMissing, UsageError
from mlplatform.core.store_url import StoreURL
from mlplatform.ports.store import ABSENT, ALWAYS, read_bytes


class StillClock:
    """Always the same moment."""

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC)

    def monotonic(self) -> float:
        return 0.0

    def sleep(self, seconds: float) -> None:
        raise AssertionError("nobody waits here")


def a_day(store: MemoryStore) -> list[object]:
    """Some of everything, and what came of it."""
    seen: list[object] = [store.put(f"k{index}", b"x" * index) for index in range(5)]
    upload = store.begin("large", size_bytes=10, part_bytes=5)
    seen += [upload.id, upload.started]
    parts = [upload.part(index, b"12345", digests=digest_of(b"12345")) for index in range(2)]
    seen += parts
    seen.append(upload.complete(parts, digests=digest_of(b"1234512345"), when=ABSENT))
    store.delete("k3")
    return [*seen, *store.list("")]


def test_two_worlds_are_the_same() -> None:
    assert a_day(MemoryStore(clock=StillClock())) == a_day(MemoryStore(clock=StillClock()))


def test_a_name_is_one_store_in_a_process() -> None:
    first = open_store(StoreURL.parse("memory://scratch/of/a/test"))
    first.put("k", b"1")
    assert open_store(StoreURL.parse("memory://scratch/of/a/test/")) is first
    assert list(open_store(StoreURL.parse("memory://scratch/other")).list("")) == []
    assert first.url == "memory://scratch/of/a/test"


@pytest.mark.parametrize("text", ["memory://", "memory:///", "memory://name?size=1"])
def test_urls_that_name_no_store(text: str) -> None:
    with pytest.raises(UsageError):
        open_store(StoreURL.parse(text))


def test_damage_changes_the_bytes_and_nothing_else() -> None:
    store = MemoryStore()
    before = store.put("k", b"abc")
    store.damage("k", 1)
    assert store.stat("k") == before
    assert read_bytes(store, "k")[0] == b"acc"


def test_damage_to_a_part_ends_in_the_object() -> None:
    store = MemoryStore()
    upload = store.begin("k", size_bytes=3, part_bytes=3)
    part = upload.part(0, b"abc", digests=digest_of(b"abc"))
    store.damage_part(upload.id, 0, 1)
    upload.complete([part], digests=digest_of(b"abc"), when=ALWAYS)
    assert read_bytes(store, "k")[0] == b"acc"


def test_a_dropped_container_is_missing() -> None:
    store = MemoryStore()
    store.put("k", b"1")
    upload = store.begin("large", size_bytes=1, part_bytes=1)
    store.drop()
    with pytest.raises(ContainerMissing):
        store.stat("k")
    with pytest.raises(ContainerMissing):
        upload.parts()


def test_greenlets_share_a_store_in_the_middle_of_a_listing() -> None:
    """No lock is held while a caller's code runs: another task may write between two steps."""
    store = MemoryStore()
    for index in range(4):
        store.put(f"k{index}", b"")
    main = greenlet.getcurrent()
    seen: list[str] = []

    def lister() -> None:
        for stat in store.list(""):
            seen.append(stat.key)
            main.switch()

    task = greenlet.greenlet(lister)
    task.switch()
    store.delete("k1")
    store.put("k2a", b"")
    while not task.dead:
        task.switch()
    assert seen == ["k0", "k2", "k2a", "k3"]
