"""Putting, reading and removing objects."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from mlplatform.core.digest import UNKNOWN_DIGESTS, Digests, Evidence, digest_of
from mlplatform.core.errors import (
    ContainerMissing,
    DigestMismatch,
    NotFound,
    Unavailable,
    UsageError,
)
from mlplatform.ports.store import ObjectStore, Span, exists, read_bytes, read_into

from .acts import at_once, begin, content, keys, needs, noise, send, wrong_digests

ODD_KEYS = (
    "a b/c d.txt",
    "plus+plus/a+b",
    "percent%/%20/%2F/100%",
    "question?/a?b=c&d",
    "hash#/a#b",
    "naïve/größe/日本語/модель",
    "emoji/🦙",
    "quote'/double\"/back`tick",
    "semi;colon/comma,/at@/equals=/amp&",
    "brackets[1]/{2}/(3)/<4>",
    "star*/bang!/dollar$/caret^/tilde~/pipe|",
    "colon:/a:b",
    "...dots/..x/x..y",
    "-dash/--flag",
    " leading/space",
    "UPPER/lower",
    "e\u0301/decomposed",
    "\u00e9/composed",
)


def test_put_and_get_a_small_object(store: ObjectStore) -> None:
    """What was put is what is read, and put says what stat says afterwards."""
    body = noise(1000)
    put = store.put("models/m/v1/weights.bin", body, digests=digest_of(body))
    read, got = read_bytes(store, "models/m/v1/weights.bin")
    stat = store.stat("models/m/v1/weights.bin")
    assert read == body
    assert (put.key, put.size_bytes) == ("models/m/v1/weights.bin", 1000)
    assert put.tag
    assert put.tag == got.tag == stat.tag
    assert got.size_bytes == stat.size_bytes == 1000
    assert got.key == stat.key == "models/m/v1/weights.bin"


def test_put_takes_any_buffer(store: ObjectStore) -> None:
    """Bytes, bytearrays and views of a part of something."""
    body = noise(1000)
    store.put("bytearray", bytearray(body))
    store.put("view", memoryview(bytearray(body))[100:200])
    assert content(store, "bytearray") == body
    assert content(store, "view") == body[100:200]


def test_put_computes_unknown_digests(store: ObjectStore) -> None:
    """A put without digests is as good as one with them."""
    stat = store.put("k", b"abc")
    assert not stat.digests.contradicts(digest_of(b"abc"))
    assert not store.stat("k").digests.contradicts(digest_of(b"abc"))


def test_put_replaces(store: ObjectStore) -> None:
    """The last put wins, whole."""
    store.put("k", noise(5000, 1))
    store.put("k", b"short")
    assert content(store, "k") == b"short"
    assert store.stat("k").size_bytes == 5


def test_empty_object(store: ObjectStore) -> None:
    """Nothing is something: it is there, with no bytes."""
    store.put("empty", b"", digests=digest_of(b""))
    assert store.stat("empty").size_bytes == 0
    assert content(store, "empty") == b""
    assert keys(store) == ["empty"]


def test_megabytes(store: ObjectStore) -> None:
    """Larger than any buffer on the way."""
    body = noise(9 * 1024 * 1024 + 17)
    store.put("large", body, digests=digest_of(body))
    assert content(store, "large") == body


@pytest.mark.parametrize("key", ODD_KEYS)
def test_odd_key(store: ObjectStore, key: str) -> None:
    """Any printable key arrives unchanged, in every verb."""
    body = key.encode()
    store.put(key, body)
    assert content(store, key) == body
    assert store.stat(key).key == key
    assert keys(store) == [key]
    assert keys(store, key[:-1]) == [key]
    store.delete(key)
    assert keys(store) == []


def test_odd_keys_stay_apart(store: ObjectStore) -> None:
    """Keys that a careless encoding would merge are different objects."""
    names = ["a b", "a+b", "a%20b", "a%2Bb", "A b", "\u00e9", "e\u0301", "x%2Fy", "x/y"]
    for name in names:
        store.put(name, name.encode())
    assert keys(store) == sorted(names, key=str.encode)
    for name in names:
        assert content(store, name) == name.encode()


def test_key_below_a_key(store: ObjectStore) -> None:
    """ "a" and "a/b" can both be objects."""
    store.put("a", b"1")
    store.put("a/b", b"2")
    assert keys(store) == ["a", "a/b"]


def test_long_key(store: ObjectStore) -> None:
    """1024 bytes are a key."""
    key = "/".join(["x" * 127] * 8) + "y"
    assert len(key) == 1024
    store.put(key, b"1")
    assert keys(store) == [key]
    assert content(store, key) == b"1"


@pytest.mark.parametrize(
    "key",
    ["", "/", "/absolute", "trailing/", "a//b", "..", "../up", "a/../b", "a/./b", ".", "a./b",
     "a...", "a\\b", "a\0b", "a\nb", "x" * 1025, "\ud800"],
    ids=ascii,
)  # fmt: skip
def test_impossible_key_is_refused(store: ObjectStore, key: str) -> None:
    """What some store could not hold, none takes: an error that says so, and nothing is written."""
    with pytest.raises(UsageError, match="key"):
        store.put(key, b"1")
    with pytest.raises(UsageError, match="key"):
        store.stat(key)
    with pytest.raises(UsageError, match="key"), store.get(key):
        pass
    with pytest.raises(UsageError, match="key"):
        store.delete(key)
    with pytest.raises(UsageError, match="key"):
        store.begin(key, size_bytes=1, part_bytes=store.features.part_bytes_min)
    assert keys(store) == []


def test_stat_of_nothing(store: ObjectStore) -> None:
    """`NotFound` that names the key, and is not about the container."""
    with pytest.raises(NotFound, match="no/such") as raised:
        store.stat("no/such")
    assert not isinstance(raised.value, ContainerMissing)
    assert not exists(store, "no/such")


def test_get_of_nothing(store: ObjectStore) -> None:
    """`NotFound`, before any byte."""
    with pytest.raises(NotFound, match="no/such") as raised, store.get("no/such"):
        pass
    assert not isinstance(raised.value, ContainerMissing)


def test_prefix_is_no_object(store: ObjectStore) -> None:
    """A folder is not there by itself."""
    store.put("a/b", b"1")
    assert not exists(store, "a")
    with pytest.raises(NotFound), store.get("a"):
        pass
    store.delete("a")
    assert keys(store) == ["a/b"]


def test_delete(store: ObjectStore) -> None:
    """Gone is gone, for every verb; the rest stays."""
    store.put("a/b", b"1")
    store.put("a/c", b"2")
    store.delete("a/b")
    assert not exists(store, "a/b")
    assert keys(store) == ["a/c"]


def test_delete_of_nothing(store: ObjectStore) -> None:
    """Not an error: a repeated delete is already done."""
    store.delete("no/such")
    store.put("a", b"1")
    store.delete("a")
    store.delete("a")
    assert keys(store) == []


def test_prefix_can_be_reused_after_delete(store: ObjectStore) -> None:
    """No trace of a deleted key is in the way of another."""
    store.put("a/b/c", b"1")
    store.delete("a/b/c")
    store.put("a/b", b"2")
    store.delete("a/b")
    store.put("a", b"3")
    assert keys(store) == ["a"]


def test_wrong_digests_refuse_a_put(store: ObjectStore) -> None:
    """Bytes that changed on the way are never an object."""
    body = noise(100_000)
    with pytest.raises(DigestMismatch):
        store.put("fresh", body, digests=wrong_digests(body))
    assert not exists(store, "fresh")
    assert keys(store) == []


def test_wrong_digests_change_nothing(store: ObjectStore) -> None:
    """A refused put leaves the object that was there."""
    before = store.put("k", b"before")
    with pytest.raises(DigestMismatch):
        store.put("k", b"after", digests=wrong_digests(b"after"))
    assert content(store, "k") == b"before"
    assert store.stat("k").tag == before.tag


@pytest.mark.parametrize("known", ["crc64nvme", "crc32c"])
def test_either_digest_is_enough(store: ObjectStore, known: str) -> None:
    """A put may know one digest only, right or wrong."""
    right = digest_of(b"abc")
    one = replace(UNKNOWN_DIGESTS, **{known: getattr(right, known)})
    store.put("right", b"abc", digests=one)
    wrong = replace(UNKNOWN_DIGESTS, **{known: getattr(right, known) ^ 1})
    with pytest.raises(DigestMismatch):
        store.put("wrong", b"abc", digests=wrong)
    assert keys(store) == ["right"]


def test_put_states_digests(store: ObjectStore, again: Callable[[], ObjectStore]) -> None:
    """A store that keeps digests states the right ones, to anyone, and what they rest on."""
    needs(store.features.evidence is not Evidence.READ_BACK, "digests of its own")
    body = noise(70_000)
    put = store.put("k", body, digests=digest_of(body))
    for stat in (put, store.stat("k"), again().stat("k")):
        assert stat.digests.confirms(digest_of(body))
        assert stat.evidence in (Evidence.STORE_WHOLE, Evidence.STORE_PARTS)


def test_no_digest_without_evidence(store: ObjectStore) -> None:
    """A store that is verified by reading back claims nothing before."""
    needs(store.features.evidence is Evidence.READ_BACK, "evidence by reading back")
    store.put("k", b"abc", digests=digest_of(b"abc"))
    assert store.stat("k").digests == Digests()
    assert store.stat("k").evidence is None


def test_stated_digests_follow_the_bytes(store: ObjectStore) -> None:
    """After a replacement, the old digests are nowhere."""
    store.put("k", b"one", digests=digest_of(b"one"))
    store.put("k", b"two", digests=digest_of(b"two"))
    assert not store.stat("k").digests.contradicts(digest_of(b"two"))
    assert all(not stat.digests.contradicts(digest_of(b"two")) for stat in store.list("k"))


def test_tag_changes_with_the_bytes(store: ObjectStore) -> None:
    """Even when the size does not."""
    tags = [store.put("k", f"body {index}".encode()).tag for index in range(5)]
    assert len(set(tags)) == 5
    assert store.stat("k").tag == tags[-1]


def test_tag_stays_with_the_object(store: ObjectStore, again: Callable[[], ObjectStore]) -> None:
    """Reading changes nothing, and the tag is the same for everyone."""
    tag = store.put("k", b"abc").tag
    assert content(store, "k") == b"abc"
    assert [store.stat("k").tag, again().stat("k").tag] == [tag, tag]
    assert [stat.tag for stat in again().list("")] == [tag]


def test_modified_is_about_now(store: ObjectStore) -> None:
    """With a timezone, and within a day of this machine's clock."""
    modified = store.put("k", b"abc").modified or store.stat("k").modified
    assert modified is not None
    assert modified.tzinfo is not None
    assert abs(modified - datetime.now(UTC)) < timedelta(days=1)


def test_another_process_sees_it_at_once(
    store: ObjectStore, again: Callable[[], ObjectStore]
) -> None:
    """Reads and listings are strongly consistent."""
    other = again()
    for index in range(5):
        store.put("k", f"body {index}".encode())
        assert content(other, "k") == f"body {index}".encode()
        assert keys(other) == ["k"]
    store.delete("k")
    assert keys(other) == []
    assert not exists(other, "k")


def test_span(store: ObjectStore) -> None:
    """Bytes [start, stop), and the stat of the whole object."""
    body = noise(300_000)
    store.put("k", body)
    for start, stop in ((0, 1), (0, 300_000), (1, 2), (100_000, 200_001), (299_999, 300_000)):
        buffer = memoryview(bytearray(stop - start))
        stat = read_into(store, "k", Span(start, stop), buffer)
        assert bytes(buffer) == body[start:stop]
        assert stat.size_bytes == 300_000
        assert stat.tag == store.stat("k").tag


def test_span_ends_where_it_should(store: ObjectStore) -> None:
    """A larger buffer gets the span and no byte more, then nothing."""
    body = noise(10_000)
    store.put("k", body)
    buffer = memoryview(bytearray(10_000))
    with store.get("k", Span(100, 200)) as got:
        filled = 0
        while count := got.readinto(buffer[filled:]):
            filled += count
        assert got.readinto(buffer) == 0
    assert bytes(buffer[:filled]) == body[100:200]


def test_span_beyond_the_end(store: ObjectStore) -> None:
    """Never a short success."""
    store.put("k", noise(1000))
    for span in (Span(0, 1001), Span(900, 1100), Span(1000, 1001), Span(5000, 6000)):
        with pytest.raises(Unavailable):
            read_into(store, "k", span, memoryview(bytearray(span.size_bytes)))


def test_read_in_small_steps(store: ObjectStore) -> None:
    """Any buffer will do."""
    body = noise(100_000)
    store.put("k", body)
    buffer = memoryview(bytearray(777))
    chunks = []
    with store.get("k") as got:
        assert got.stat.size_bytes == 100_000
        while count := got.readinto(buffer):
            chunks.append(bytes(buffer[:count]))
    assert b"".join(chunks) == body


def test_leave_a_read_early(store: ObjectStore) -> None:
    """What was not read is nobody's trouble, also when an error ends the reading."""
    store.put("k", noise(2_000_000))
    for _ in range(20):
        with contextlib.suppress(ZeroDivisionError), store.get("k") as got:
            got.readinto(memoryview(bytearray(10)))
            raise ZeroDivisionError
    assert len(content(store, "k")) == 2_000_000


def test_replaced_while_read(store: ObjectStore, again: Callable[[], ObjectStore]) -> None:
    """A reader sees one version to its end, or an error: never a mixture."""
    old, new = noise(4_000_000, 1), noise(4_000_000, 2)
    store.put("k", old)
    buffer = memoryview(bytearray(len(old)))
    try:
        with store.get("k") as got:
            filled = got.readinto(buffer[:1000])
            again().put("k", new)
            while filled < len(old) and (count := got.readinto(buffer[filled:])):
                filled += count
    except Unavailable:
        return
    assert bytes(buffer) == old


def test_many_threads(store: ObjectStore) -> None:
    """One store object serves them all."""

    def round_trip(index: int) -> bool:
        body = noise(50_000, index)
        store.put(f"t/{index:02}", body, digests=digest_of(body))
        return (
            content(store, f"t/{index:02}") == body and store.stat(f"t/{index:02}").size_bytes > 0
        )

    calls = [lambda index=index: round_trip(index) for index in range(16)]
    right, errors = at_once(calls)
    assert errors == []
    assert all(right)
    assert len(keys(store, "t/")) == 16


def test_store_names_itself_without_secrets(store: ObjectStore) -> None:
    """`url` is for people and errors."""
    assert "://" in store.url
    assert "?" not in store.url
    assert "@" not in store.url


def test_missing_container_on_stat(missing: ObjectStore) -> None:
    """Not "no such object": whoever asks must not conclude that it is absent."""
    with pytest.raises(ContainerMissing) as raised:
        missing.stat("k")
    assert raised.value.exit_code == 2


def test_missing_container_on_reading(missing: ObjectStore) -> None:
    """`ContainerMissing` for get and the listings; an empty answer would be a lie."""
    with pytest.raises(ContainerMissing), missing.get("k"):
        pass
    with pytest.raises(ContainerMissing):
        keys(missing)
    with pytest.raises(ContainerMissing):
        list(missing.uploads(""))


def test_missing_container_on_writing(missing: ObjectStore) -> None:
    """`ContainerMissing`; nothing makes a container by the way."""
    with pytest.raises(ContainerMissing):
        missing.put("k", b"1")
    with pytest.raises(ContainerMissing):
        missing.delete("k")
    with pytest.raises(ContainerMissing):
        send(begin(missing, "k", b"1", missing.features.part_bytes_min), 0, b"1")
    with pytest.raises(ContainerMissing):
        keys(missing)
