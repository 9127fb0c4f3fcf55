"""Create-only and compare-and-set, and races between them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mlplatform.core.digest import digest_of
from mlplatform.core.errors import (
    ConditionFailed,
    DigestMismatch,
    MlplatformError,
    NotFound,
    Throttled,
    Unavailable,
    Unsupported,
)
from mlplatform.ports.store import ABSENT, ALWAYS, Matches, ObjectStore, Stat, exists, read_bytes

from .acts import at_once, begin, complete, content, keys, needs, noise, send, wrong_digests

CONTENDERS = 16
ROUNDS = 4


def lost(error: MlplatformError) -> bool:
    """Whether a contender may lose like that: refused, or told that others are at it."""
    return isinstance(error, (ConditionFailed, Throttled, Unavailable))


def test_create_only(store: ObjectStore) -> None:
    """`ABSENT` writes once."""
    needs(store.features.conditional_put, "conditional puts")
    store.put("k", b"first", when=ABSENT)
    with pytest.raises(ConditionFailed) as raised:
        store.put("k", b"second", when=ABSENT)
    assert raised.value.exit_code == 7
    assert content(store, "k") == b"first"


def test_create_only_also_for_equal_bytes(store: ObjectStore) -> None:
    """That the bytes are the same does not make it absent."""
    needs(store.features.conditional_put, "conditional puts")
    store.put("k", b"same", when=ABSENT)
    with pytest.raises(ConditionFailed):
        store.put("k", b"same", when=ABSENT)


def test_create_only_after_delete(store: ObjectStore) -> None:
    """Deleted is absent again."""
    needs(store.features.conditional_put, "conditional puts")
    store.put("k", b"first", when=ABSENT)
    store.delete("k")
    store.put("k", b"second", when=ABSENT)
    assert content(store, "k") == b"second"


def test_create_only_empty_object(store: ObjectStore) -> None:
    """An empty object is not absent."""
    needs(store.features.conditional_put, "conditional puts")
    store.put("k", b"", when=ABSENT)
    with pytest.raises(ConditionFailed):
        store.put("k", b"1", when=ABSENT)


def test_compare_and_set(store: ObjectStore) -> None:
    """The current tag is accepted, each time a new one."""
    needs(store.features.conditional_put, "conditional puts")
    tag = store.put("k", b"body 0").tag
    for index in range(1, 4):
        tag = store.put("k", f"body {index}".encode(), when=Matches(tag)).tag
    assert content(store, "k") == b"body 3"
    assert store.stat("k").tag == tag


def test_compare_and_set_with_a_listed_tag(store: ObjectStore) -> None:
    """Tags from put, stat, get and list are one and the same."""
    needs(store.features.conditional_put, "conditional puts")
    store.put("k", b"0")
    store.put("k", b"1", when=Matches(next(iter(store.list("k"))).tag))
    store.put("k", b"2", when=Matches(store.stat("k").tag))
    store.put("k", b"3", when=Matches(read_bytes(store, "k")[1].tag))
    assert content(store, "k") == b"3"


def test_stale_tag_refuses_a_put(store: ObjectStore) -> None:
    """Whoever did not see the last write does not write."""
    needs(store.features.conditional_put, "conditional puts")
    stale = store.put("k", b"first").tag
    fresh = store.put("k", b"second").tag
    with pytest.raises(ConditionFailed):
        store.put("k", b"third", when=Matches(stale))
    assert content(store, "k") == b"second"
    assert store.stat("k").tag == fresh


def test_tag_of_nothing_refuses_a_put(store: ObjectStore) -> None:
    """`Matches` never creates, and the refusal is `ConditionFailed`, not `NotFound`."""
    needs(store.features.conditional_put, "conditional puts")
    tag = store.put("k", b"first").tag
    store.delete("k")
    with pytest.raises(ConditionFailed):
        store.put("k", b"second", when=Matches(tag))
    assert keys(store) == []


def test_tag_of_a_deleted_object_is_stale(store: ObjectStore) -> None:
    """Also when another object has taken its place."""
    needs(store.features.conditional_put, "conditional puts")
    stale = store.put("k", b"first").tag
    store.delete("k")
    store.put("k", b"other")
    with pytest.raises(ConditionFailed):
        store.put("k", b"third", when=Matches(stale))
    assert content(store, "k") == b"other"


def test_digests_are_checked_beside_a_condition(store: ObjectStore) -> None:
    """A condition that holds does not let wrong bytes in."""
    needs(store.features.conditional_put, "conditional puts")
    with pytest.raises(DigestMismatch):
        store.put("k", b"abc", digests=wrong_digests(b"abc"), when=ABSENT)
    assert not exists(store, "k")
    tag = store.put("k", b"before").tag
    with pytest.raises(DigestMismatch):
        store.put("k", b"abc", digests=wrong_digests(b"abc"), when=Matches(tag))
    assert content(store, "k") == b"before"


def test_unknown_conditions_on_put_are_said(store: ObjectStore) -> None:
    """A store without them refuses; it never writes as if nothing had been asked."""
    needs(not store.features.conditional_put, "puts without conditions")
    with pytest.raises(Unsupported):
        store.put("k", b"1", when=ABSENT)
    with pytest.raises(Unsupported):
        store.put("k", b"1", when=Matches("x"))
    assert keys(store) == []


def test_pinned_read(store: ObjectStore) -> None:
    """`Matches` reads that version or nothing."""
    stale = store.put("k", b"first").tag
    with store.get("k", when=Matches(stale)) as body:
        assert body.stat.tag == stale
    fresh = store.put("k", b"second").tag
    with pytest.raises(ConditionFailed), store.get("k", when=Matches(stale)):
        pass
    with store.get("k", when=Matches(fresh)) as body:
        assert body.stat.tag == fresh
    store.delete("k")
    with pytest.raises(NotFound), store.get("k", when=Matches(fresh)):
        pass


def test_delete_with_the_current_tag(store: ObjectStore) -> None:
    """What was seen is what is deleted."""
    needs(store.features.conditional_delete, "conditional delete")
    tag = store.put("k", b"1").tag
    store.delete("k", when=Matches(tag))
    assert not exists(store, "k")


def test_stale_tag_refuses_a_delete(store: ObjectStore) -> None:
    """What was replaced since stays."""
    needs(store.features.conditional_delete, "conditional delete")
    stale = store.put("k", b"first").tag
    store.put("k", b"second")
    with pytest.raises(ConditionFailed):
        store.delete("k", when=Matches(stale))
    assert content(store, "k") == b"second"


def test_conditional_delete_of_nothing(store: ObjectStore) -> None:
    """Already done, so that it can be repeated after a lost answer."""
    needs(store.features.conditional_delete, "conditional delete")
    tag = store.put("k", b"first").tag
    store.delete("k", when=Matches(tag))
    store.delete("k", when=Matches(tag))


def test_unknown_conditions_on_delete_are_said(store: ObjectStore) -> None:
    """A store without conditional delete refuses; it never deletes blindly."""
    needs(not store.features.conditional_delete, "delete without conditions")
    tag = store.put("k", b"first").tag
    with pytest.raises(Unsupported):
        store.delete("k", when=Matches(tag))
    assert content(store, "k") == b"first"


def test_create_only_complete(store: ObjectStore, part_bytes: int) -> None:
    """An upload completes where nothing is, and not where something has come meanwhile."""
    needs(store.features.conditional_complete, "conditional completion")
    body = noise(5000)
    first = begin(store, "free", body, part_bytes)
    complete(first, body, [send(first, 0, body)], ABSENT)
    assert content(store, "free") == body
    second = begin(store, "taken", body, part_bytes)
    part = send(second, 0, body)
    store.put("taken", b"meanwhile")
    with pytest.raises(ConditionFailed):
        complete(second, body, [part], ABSENT)
    assert content(store, "taken") == b"meanwhile"


def test_compare_and_set_complete(store: ObjectStore, part_bytes: int) -> None:
    """An upload replaces exactly what was seen."""
    needs(store.features.conditional_complete, "conditional completion")
    body = noise(5000)
    tag = store.put("k", b"first").tag
    upload = begin(store, "k", body, part_bytes)
    stat = complete(upload, body, [send(upload, 0, body)], Matches(tag))
    assert content(store, "k") == body
    assert store.stat("k").tag == stat.tag != tag


def test_stale_tag_refuses_a_complete(store: ObjectStore, part_bytes: int) -> None:
    """Neither a replaced object nor one that is gone is overwritten."""
    needs(store.features.conditional_complete, "conditional completion")
    body = noise(5000)
    stale = store.put("k", b"first").tag
    store.put("k", b"second")
    upload = begin(store, "k", body, part_bytes)
    with pytest.raises(ConditionFailed):
        complete(upload, body, [send(upload, 0, body)], Matches(stale))
    assert content(store, "k") == b"second"


def test_tag_of_nothing_refuses_a_complete(store: ObjectStore, part_bytes: int) -> None:
    """`Matches` never creates."""
    needs(store.features.conditional_complete, "conditional completion")
    body = noise(5000)
    stale = store.put("k", b"first").tag
    store.delete("k")
    upload = begin(store, "k", body, part_bytes)
    with pytest.raises(ConditionFailed):
        complete(upload, body, [send(upload, 0, body)], Matches(stale))
    assert not exists(store, "k")


def test_unknown_conditions_on_complete_are_said(store: ObjectStore, part_bytes: int) -> None:
    """A store without them refuses, and the upload can still be completed."""
    needs(not store.features.conditional_complete, "completion without conditions")
    body = noise(5000)
    upload = begin(store, "k", body, part_bytes)
    parts = [send(upload, 0, body)]
    for when in (ABSENT, Matches("x")):
        with pytest.raises(Unsupported):
            complete(upload, body, parts, when)
    assert not exists(store, "k")
    complete(upload, body, parts, ALWAYS)
    assert content(store, "k") == body


def test_race_to_create(store: ObjectStore, again: Callable[[], ObjectStore]) -> None:
    """Of sixteen that create one object, one does."""
    needs(store.features.conditional_put, "conditional puts")
    stores = [store, again()]
    for turn in range(ROUNDS):
        key = f"race/{turn}"

        def create(index: int, key: str = key) -> bytes:
            body = f"contender {index}".encode() * 100
            stores[index % 2].put(key, body, digests=digest_of(body), when=ABSENT)
            return body

        winners, losers = at_once([_bind(create, index) for index in range(CONTENDERS)])
        assert len(winners) == 1, f"{len(winners)} winners; {losers}"
        assert all(map(lost, losers)), losers
        assert content(store, key) == winners[0]


def test_race_to_replace(store: ObjectStore, again: Callable[[], ObjectStore]) -> None:
    """Of sixteen that replace what they saw, one does."""
    needs(store.features.conditional_put, "conditional puts")
    stores = [store, again()]
    for turn in range(ROUNDS):
        tag = store.put("race", f"round {turn}".encode()).tag

        def replace(index: int, tag: str = tag) -> bytes:
            body = f"contender {index}".encode() * 100
            stores[index % 2].put("race", body, when=Matches(tag))
            return body

        winners, losers = at_once([_bind(replace, index) for index in range(CONTENDERS)])
        assert len(winners) == 1, f"{len(winners)} winners; {losers}"
        assert all(map(lost, losers)), losers
        assert content(store, "race") == winners[0]


def test_no_update_is_lost(store: ObjectStore, again: Callable[[], ObjectStore]) -> None:
    """A counter that many raise by compare-and-set counts them all."""
    needs(store.features.conditional_put, "conditional puts")
    stores = [store, again()]
    store.put("counter", b"0 start")

    def count(index: int) -> None:
        mine, done = stores[index % 2], 0
        while done < 5:
            body, seen = read_bytes(mine, "counter")
            raised = f"{int(body.split()[0]) + 1} {index}-{done}".encode()
            try:
                mine.put("counter", raised, when=Matches(seen.tag))
            except (ConditionFailed, Throttled):
                continue
            done += 1

    _, errors = at_once([_bind(count, index) for index in range(4)])
    assert errors == []
    assert content(store, "counter").split()[0] == b"20"


def test_race_to_complete(
    store: ObjectStore, again: Callable[[], ObjectStore], part_bytes: int
) -> None:
    """Of several that complete uploads of one key, create-only, one does."""
    needs(store.features.conditional_complete, "conditional completion")
    stores = [store, again()]
    for turn in range(ROUNDS):
        key = f"race/{turn}"
        bodies = [noise(2000, index) for index in range(4)]
        uploads = [
            begin(stores[index % 2], key, body, part_bytes) for index, body in enumerate(bodies)
        ]
        parts = [send(upload, 0, body) for upload, body in zip(uploads, bodies, strict=True)]

        def finish(
            index: int, uploads: Any = uploads, bodies: Any = bodies, parts: Any = parts
        ) -> tuple[bytes, Stat]:
            stat = complete(uploads[index], bodies[index], [parts[index]], ABSENT)
            return bodies[index], stat

        winners, losers = at_once([_bind(finish, index) for index in range(4)])
        assert len(winners) == 1, f"{len(winners)} winners; {losers}"
        # Where a commit takes everyone's parts along, the others find theirs gone.
        assert all(lost(error) or isinstance(error, (NotFound, DigestMismatch)) for error in losers)
        assert content(store, key) == winners[0][0]


def _bind(call: Callable[[int], Any], index: int) -> Callable[[], Any]:
    return lambda: call(index)
