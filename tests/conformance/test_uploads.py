"""Large objects in parts: sent in any order, resumed by anyone, visible at the end."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest

from mlplatform.core.digest import UNKNOWN_DIGESTS, Evidence, digest_of
from mlplatform.core.errors import (
    ConditionFailed,
    DigestMismatch,
    NotFound,
    Unsupported,
)
from mlplatform.ports.store import (
    ABSENT,
    ALWAYS,
    Matches,
    ObjectStore,
    RangeCopy,
    Span,
    Upload,
    exists,
)

from .acts import (
    at_once,
    begin,
    complete,
    content,
    cut,
    keys,
    needs,
    noise,
    send,
    send_all,
    wrong_digests,
)


@pytest.fixture
def body(part_bytes: int) -> bytes:
    """Two whole parts and a short one."""
    return noise(2 * part_bytes + 1000, 7)


def only_upload(store: ObjectStore, key: str) -> Upload:
    """The one unfinished upload of `key`."""
    found = list(store.uploads(key))
    assert [upload.key for upload in found] == [key]
    return found[0]


def held(upload: Upload) -> list[int] | None:
    """The indices that an upload holds, or None when it is gone."""
    try:
        return [part.index for part in upload.parts()]
    except NotFound:
        return None


def test_upload(store: ObjectStore, body: bytes, part_bytes: int) -> None:
    """Parts in order become the object, and complete says what stat says."""
    upload = begin(store, "models/m/large", body, part_bytes)
    assert upload.key == "models/m/large"
    assert upload.id
    parts = send_all(upload, body, part_bytes)
    assert [(part.index, part.size_bytes) for part in parts] == [
        (0, part_bytes),
        (1, part_bytes),
        (2, 1000),
    ]
    stat = complete(upload, body, parts)
    assert content(store, "models/m/large") == body
    assert (stat.key, stat.size_bytes) == ("models/m/large", len(body))
    assert stat.tag == store.stat("models/m/large").tag
    assert [(listed.key, listed.tag) for listed in store.list("")] == [(stat.key, stat.tag)]


def test_upload_of_one_short_part(store: ObjectStore, part_bytes: int) -> None:
    """The last part may be any size, also when it is the only one."""
    upload = begin(store, "k", b"x", part_bytes)
    complete(upload, b"x", [send(upload, 0, b"x")])
    assert content(store, "k") == b"x"


def test_upload_of_whole_parts(store: ObjectStore, part_bytes: int) -> None:
    """Nothing short at the end."""
    body = noise(2 * part_bytes)
    upload = begin(store, "k", body, part_bytes)
    complete(upload, body, send_all(upload, body, part_bytes))
    assert content(store, "k") == body


def test_parts_out_of_order(store: ObjectStore, body: bytes, part_bytes: int) -> None:
    """The last part first."""
    upload = begin(store, "k", body, part_bytes)
    pieces = cut(body, part_bytes)
    parts = {index: send(upload, index, pieces[index]) for index in (2, 0, 1)}
    complete(upload, body, [parts[index] for index in range(3)])
    assert content(store, "k") == body


def test_parts_at_once(store: ObjectStore, body: bytes, part_bytes: int) -> None:
    """From several threads, and by two handles of one upload."""
    upload = begin(store, "k", body, part_bytes)
    pieces = cut(body, part_bytes)
    parts, errors = at_once(
        [lambda index=index: send(upload, index, pieces[index]) for index in range(3)]  # type: ignore[misc]
    )
    assert errors == []
    complete(upload, body, sorted(parts, key=lambda part: part.index))
    assert content(store, "k") == body


def test_many_parts(store: ObjectStore) -> None:
    """More parts than some stores join in one go."""
    part_bytes = store.features.part_bytes_min
    needs(part_bytes <= 1024 * 1024, "small parts")
    body = noise(70 * part_bytes + part_bytes // 2)
    upload = begin(store, "k", body, part_bytes)
    stat = complete(upload, body, send_all(upload, body, part_bytes))
    assert content(store, "k") == body
    assert not stat.digests.contradicts(digest_of(body))
    assert keys(store) == ["k"]


def test_upload_of_an_odd_key(store: ObjectStore, part_bytes: int) -> None:
    """Odd names resume like any others."""
    for key in ("a b/100%/+?#&", "größe/日本語/🦙", "quote'\"/;,="):
        upload = begin(store, key, b"body", part_bytes)
        send(upload, 0, b"body")
        found = only_upload(store, key)
        complete(found, b"body", found.parts())
        assert content(store, key) == b"body"


def test_nothing_is_visible_before_complete(
    store: ObjectStore, body: bytes, part_bytes: int
) -> None:
    """Not while parts come, not when all are there."""
    upload = begin(store, "k", body, part_bytes)
    for index, piece in enumerate(cut(body, part_bytes)):
        send(upload, index, piece)
        assert not exists(store, "k")
        assert keys(store) == []
        with pytest.raises(NotFound), store.get("k"):
            pass


def test_the_old_object_stays_until_complete(
    store: ObjectStore, body: bytes, part_bytes: int
) -> None:
    """Then it is replaced, whole."""
    before = store.put("k", b"before")
    upload = begin(store, "k", body, part_bytes)
    parts = send_all(upload, body, part_bytes)
    assert store.stat("k").tag == before.tag
    assert content(store, "k") == b"before"
    assert complete(upload, body, parts).tag != before.tag
    assert content(store, "k") == body


def test_part_sent_twice(store: ObjectStore, body: bytes, part_bytes: int) -> None:
    """The last one counts; nothing is appended."""
    upload = begin(store, "k", body, part_bytes)
    pieces = cut(body, part_bytes)
    send(upload, 0, noise(part_bytes, 99))
    parts = [send(upload, index, piece) for index, piece in enumerate(pieces)]
    parts[1] = send(upload, 1, pieces[1])
    assert [part.size_bytes for part in upload.parts()] == [len(piece) for piece in pieces]
    complete(upload, body, parts)
    assert content(store, "k") == body


def test_wrong_digests_refuse_a_part(store: ObjectStore, body: bytes, part_bytes: int) -> None:
    """The refused bytes are nowhere, and the part can be sent again."""
    upload = begin(store, "k", body, part_bytes)
    pieces = cut(body, part_bytes)
    send(upload, 0, pieces[0])
    with pytest.raises(DigestMismatch):
        upload.part(1, pieces[1], digests=wrong_digests(pieces[1]))
    assert held(upload) == [0]
    send(upload, 1, pieces[1])
    send(upload, 2, pieces[2])
    complete(upload, body, upload.parts())
    assert content(store, "k") == body


def test_another_process_sees_the_parts(
    store: ObjectStore, again: Callable[[], ObjectStore], body: bytes, part_bytes: int
) -> None:
    """Index and size of what arrived, and never a digest that is not the part's."""
    upload = begin(store, "k", body, part_bytes)
    pieces = cut(body, part_bytes)
    send(upload, 2, pieces[2])
    send(upload, 0, pieces[0])
    found = only_upload(again(), "k")
    assert found.id == upload.id
    parts = found.parts()
    assert [(part.index, part.size_bytes) for part in parts] == [(0, part_bytes), (2, 1000)]
    assert not any(part.digests.contradicts(digest_of(pieces[part.index])) for part in parts)


def test_parts_state_digests(
    store: ObjectStore, again: Callable[[], ObjectStore], body: bytes, part_bytes: int
) -> None:
    """So that nothing is sent again, or trusted unseen, on resume."""
    needs(store.features.evidence is not Evidence.READ_BACK, "digests of its own")
    upload = begin(store, "k", body, part_bytes)
    pieces = cut(body, part_bytes)
    sent = [send(upload, index, pieces[index]) for index in (0, 2)]
    for part in (*sent, *upload.parts(), *only_upload(again(), "k").parts()):
        assert part.digests.confirms(digest_of(pieces[part.index]))


def test_resume_in_another_process(
    store: ObjectStore, again: Callable[[], ObjectStore], body: bytes, part_bytes: int
) -> None:
    """What is missing is sent, the rest is taken as it is."""
    pieces = cut(body, part_bytes)
    send(begin(store, "k", body, part_bytes), 1, pieces[1])
    other = again()
    upload = only_upload(other, "k")
    missing = {0, 1, 2} - {part.index for part in upload.parts()}
    assert missing == {0, 2}
    for index in missing:
        send(upload, index, pieces[index])
    stat = complete(upload, body, upload.parts())
    assert content(store, "k") == body
    assert not stat.digests.contradicts(digest_of(body))
    assert list(store.uploads("k")) == []


def test_upload_states_digests(
    store: ObjectStore, again: Callable[[], ObjectStore], body: bytes, part_bytes: int
) -> None:
    """The finished object's digests are right, and what they rest on is said."""
    needs(store.features.evidence is not Evidence.READ_BACK, "digests of its own")
    upload = begin(store, "k", body, part_bytes)
    done = complete(upload, body, send_all(upload, body, part_bytes))
    for stat in (done, store.stat("k"), again().stat("k")):
        assert stat.digests.confirms(digest_of(body))
        assert stat.evidence is store.features.evidence


def test_complete_refuses_wrong_digests(store: ObjectStore, body: bytes, part_bytes: int) -> None:
    """Parts that are right each can still be the wrong object."""
    upload = begin(store, "k", body, part_bytes)
    parts = send_all(upload, body, part_bytes)
    with pytest.raises(DigestMismatch):
        upload.complete(parts, digests=wrong_digests(body), when=ALWAYS)
    assert not exists(store, "k")
    assert keys(store) == []


def test_complete_never_states_wrong_digests(
    store: ObjectStore, body: bytes, part_bytes: int
) -> None:
    """Whatever it was told, a store that does not refuse states the truth or nothing."""
    upload = begin(store, "k", body, part_bytes)
    parts = send_all(upload, body, part_bytes)
    try:
        stat = upload.complete(parts, digests=wrong_digests(body), when=ALWAYS)
    except DigestMismatch:
        assert not exists(store, "k")
        return
    assert not stat.digests.contradicts(digest_of(body))
    assert not store.stat("k").digests.contradicts(digest_of(body))


def test_complete_without_digests(store: ObjectStore, body: bytes, part_bytes: int) -> None:
    """Whoever knows no digests gets those that the store states."""
    upload = begin(store, "k", body, part_bytes)
    parts = send_all(upload, body, part_bytes)
    stat = upload.complete(parts, digests=UNKNOWN_DIGESTS, when=ALWAYS)
    assert not stat.digests.contradicts(digest_of(body))
    assert content(store, "k") == body


def test_complete_with_a_part_missing(store: ObjectStore, body: bytes, part_bytes: int) -> None:
    """Neither first, middle nor last: an object is whole or it is not."""
    upload = begin(store, "k", body, part_bytes)
    parts = send_all(upload, body, part_bytes)
    for absent in range(3):
        rest = [part for part in parts if part.index != absent]
        with pytest.raises(DigestMismatch):
            complete(upload, body, rest)
        assert not exists(store, "k")


def test_complete_with_a_part_never_sent(store: ObjectStore, body: bytes, part_bytes: int) -> None:
    """A part that somebody else's upload holds is not this one's."""
    pieces = cut(body, part_bytes)
    other = begin(store, "other", body, part_bytes)
    foreign = send_all(other, body, part_bytes)
    upload = begin(store, "k", body, part_bytes)
    send(upload, 0, pieces[0])
    send(upload, 2, pieces[2])
    with pytest.raises(DigestMismatch):
        complete(upload, body, [upload.parts()[0], foreign[1], upload.parts()[1]])
    assert not exists(store, "k")


def test_complete_with_a_part_replaced(store: ObjectStore, body: bytes, part_bytes: int) -> None:
    """Bytes that came after the listed part are not taken for it: the listed part or a refusal."""
    upload = begin(store, "k", body, part_bytes)
    parts = send_all(upload, body, part_bytes)
    send(upload, 1, noise(part_bytes, 99))
    try:
        complete(upload, body, parts)
    except DigestMismatch:
        assert not exists(store, "k")
    else:
        assert content(store, "k") == body


def test_refused_complete_can_be_mended(
    store: ObjectStore, again: Callable[[], ObjectStore], body: bytes, part_bytes: int
) -> None:
    """After a refused condition the parts are all there, or the upload says that it is gone."""
    needs(store.features.conditional_complete, "conditional completion")
    upload = begin(store, "k", body, part_bytes)
    parts = send_all(upload, body, part_bytes)
    tag = store.put("k", b"meanwhile").tag
    with pytest.raises(ConditionFailed):
        complete(upload, body, parts, ABSENT)
    if held(upload) is None:
        assert list(again().uploads("k")) == []
        return
    found = only_upload(again(), "k")
    assert held(found) == [0, 1, 2]
    complete(found, body, found.parts(), Matches(tag))
    assert content(store, "k") == body


def test_repeated_complete(store: ObjectStore, body: bytes, part_bytes: int) -> None:
    """After a lost answer: done again, gone or refused; the object stays as it is."""
    upload = begin(store, "k", body, part_bytes)
    parts = send_all(upload, body, part_bytes)
    when = ABSENT if store.features.conditional_complete else ALWAYS
    stat = complete(upload, body, parts, when)
    try:
        repeated = complete(upload, body, parts, when)
    except (NotFound, ConditionFailed):
        pass
    else:
        assert repeated.size_bytes == len(body)
        assert not repeated.digests.contradicts(digest_of(body))
    assert content(store, "k") == body
    if when is ABSENT:
        assert store.stat("k").tag == stat.tag


def test_finished_upload_is_gone(
    store: ObjectStore, again: Callable[[], ObjectStore], body: bytes, part_bytes: int
) -> None:
    """It is not listed, and its handles say so."""
    upload = begin(store, "k", body, part_bytes)
    complete(upload, body, send_all(upload, body, part_bytes))
    assert list(store.uploads("")) == []
    assert list(again().uploads("k")) == []
    assert held(upload) is None
    upload.abort()
    assert content(store, "k") == body


def test_abort(
    store: ObjectStore, again: Callable[[], ObjectStore], body: bytes, part_bytes: int
) -> None:
    """Nothing is left of it, the object that was there stays, and a second abort is no error."""
    store.put("k", b"before")
    upload = begin(store, "k", body, part_bytes)
    send(upload, 0, cut(body, part_bytes)[0])
    only_upload(again(), "k").abort()
    assert held(upload) is None
    assert list(store.uploads("")) == []
    upload.abort()
    assert content(store, "k") == b"before"
    assert keys(store) == ["k"]


def test_aborted_upload_cannot_be_completed(
    store: ObjectStore, body: bytes, part_bytes: int
) -> None:
    """What was dropped is dropped."""
    upload = begin(store, "k", body, part_bytes)
    parts = send_all(upload, body, part_bytes)
    upload.abort()
    with pytest.raises((NotFound, DigestMismatch)):
        complete(upload, body, parts)
    assert not exists(store, "k")


def test_uploads_newest_first(
    store: ObjectStore, again: Callable[[], ObjectStore], body: bytes, part_bytes: int
) -> None:
    """The first to be found is the last begun, where uploads of one key are told apart at all."""
    piece = cut(body, part_bytes)[0]
    uploads = []
    for _ in range(3):
        uploads.append(begin(store, "k", body, part_bytes))
        send(uploads[-1], 0, piece)
    expected = list(dict.fromkeys(upload.id for upload in reversed(uploads)))
    assert [upload.id for upload in again().uploads("k")] == expected


def test_uploads_of_a_prefix(
    store: ObjectStore, again: Callable[[], ObjectStore], part_bytes: int
) -> None:
    """As in a listing: any prefix, the empty one too, and no other keys."""
    for key in ("a/1", "a/2", "a/20", "b/1"):
        send(begin(store, key, b"body", part_bytes), 0, b"body")
    other = again()
    for prefix in ("", "a", "a/", "a/2", "a/20", "b/1", "c"):
        found = [upload.key for upload in other.uploads(prefix)]
        assert sorted(found) == [k for k in ("a/1", "a/2", "a/20", "b/1") if k.startswith(prefix)]


def test_two_uploads_of_a_key_do_not_mix(
    store: ObjectStore, again: Callable[[], ObjectStore], part_bytes: int
) -> None:
    """Two writers with other bytes: each object is one's or the other's, and an upload whose parts
    a commit took away says so."""
    bodies = [noise(part_bytes + 500, seed) for seed in (1, 2)]
    stores = [store, again()]
    uploads = [begin(s, "k", body, part_bytes) for s, body in zip(stores, bodies, strict=True)]
    pieces = [cut(body, part_bytes) for body in bodies]
    parts = [[send(uploads[writer], index, pieces[writer][index]) for index in range(2)]
             for writer in range(2)]  # fmt: skip
    complete(uploads[0], bodies[0], parts[0])
    assert content(store, "k") == bodies[0]
    try:
        complete(uploads[1], bodies[1], parts[1])
    except (NotFound, DigestMismatch):
        assert content(store, "k") == bodies[0]
    else:
        assert content(store, "k") == bodies[1]


def test_two_writers_of_equal_bytes(
    store: ObjectStore, again: Callable[[], ObjectStore], body: bytes, part_bytes: int
) -> None:
    """Two replicators of the same model: one of them completes, and the other can tell."""
    stores = [store, again()]
    uploads = [begin(s, "k", body, part_bytes) for s in stores]
    pieces = cut(body, part_bytes)
    send(uploads[0], 0, pieces[0])
    send(uploads[1], 0, pieces[0])
    send(uploads[1], 1, pieces[1])
    parts = [
        [send(upload, index, piece) for index, piece in enumerate(pieces)] for upload in uploads
    ]
    complete(uploads[0], body, parts[0])
    with contextlib.suppress(NotFound, DigestMismatch, ConditionFailed):
        complete(uploads[1], body, parts[1])
    assert content(store, "k") == body


def test_range_copy(store: ObjectStore, body: bytes, part_bytes: int) -> None:
    """A part taken from another object is right, and what is said of it is true."""
    needs(store.features.range_copy is not RangeCopy.NONE, "range copies")
    source = noise(100) + body
    store.put("source", source)
    upload = begin(store, "k", body, part_bytes)
    pieces = cut(body, part_bytes)
    parts = [
        upload.copy_range(0, "source", Span(100, 100 + part_bytes), when=ALWAYS),
        send(upload, 1, pieces[1]),
        send(upload, 2, pieces[2]),
    ]
    assert (parts[0].index, parts[0].size_bytes) == (0, part_bytes)
    assert not parts[0].digests.contradicts(digest_of(pieces[0]))
    stat = complete(upload, body, parts)
    assert content(store, "k") == body
    if store.features.range_copy is RangeCopy.STATED:
        whole = stat.digests.confirms(digest_of(body))
        assert whole or parts[0].digests.confirms(digest_of(pieces[0]))
    else:
        assert not stat.digests.contradicts(digest_of(body))


def test_range_copy_of_all_parts(store: ObjectStore, body: bytes, part_bytes: int) -> None:
    """An object can be assembled without sending a byte."""
    needs(store.features.range_copy is not RangeCopy.NONE, "range copies")
    store.put("source", body)
    upload = begin(store, "k", body, part_bytes)
    parts = [
        upload.copy_range(
            index,
            "source",
            Span(index * part_bytes, index * part_bytes + len(piece)),
            when=ALWAYS,
        )
        for index, piece in enumerate(cut(body, part_bytes))
    ]
    complete(upload, body, parts)
    assert content(store, "k") == body


def test_pinned_range_copy(store: ObjectStore, body: bytes, part_bytes: int) -> None:
    """A source that was replaced since is not copied; nor is one that is not there."""
    needs(store.features.range_copy is not RangeCopy.NONE, "range copies")
    stale = store.put("source", noise(len(body), 3)).tag
    fresh = store.put("source", body).tag
    upload = begin(store, "k", body, part_bytes)
    span = Span(0, part_bytes)
    with pytest.raises(ConditionFailed):
        upload.copy_range(0, "source", span, when=Matches(stale))
    with pytest.raises(NotFound):
        upload.copy_range(0, "no/such", span, when=ALWAYS)
    upload.copy_range(0, "source", span, when=Matches(fresh))
    assert held(upload) == [0]


def test_range_copy_is_said_to_be_unknown(store: ObjectStore, body: bytes, part_bytes: int) -> None:
    """A store without it refuses clearly."""
    needs(store.features.range_copy is RangeCopy.NONE, "no range copies")
    store.put("source", body)
    upload = begin(store, "k", body, part_bytes)
    with pytest.raises(Unsupported):
        upload.copy_range(0, "source", Span(0, part_bytes), when=ALWAYS)
