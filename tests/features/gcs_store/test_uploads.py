"""Uploads as folders of objects: trees, crashes in the middle, late and other writers."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from io import BytesIO
from typing import Any

import pytest
import urllib3

from mlplatform.adapters import gcs
from mlplatform.adapters.gcs import GCSStore
from mlplatform.core.digest import UNKNOWN_DIGESTS, digest_of
from mlplatform.core.errors import (
    DigestMismatch,
    NotFound,
    Unavailable,
    UsageError,
)
from mlplatform.ports.store import ABSENT, ALWAYS, Part, Upload, exists, read_bytes

Open = Callable[[str, str, Any, Any], urllib3.BaseHTTPResponse]


def send_all(upload: Upload, body: bytes, part_bytes: int) -> list[Part]:
    return [
        upload.part(start // part_bytes, piece, digests=digest_of(piece))
        for start in range(0, len(body), part_bytes)
        for piece in (body[start : start + part_bytes],)
    ]


def names(store: GCSStore) -> list[str]:
    """All that is in the bucket."""
    return [item.name for item in store._below("")]


def listen(
    monkeypatch: pytest.MonkeyPatch, store: GCSStore, hear: Callable[[Open, str, str], Any]
) -> None:
    """Let `hear` see every request, and answer in the server's place if it returns something."""
    ask = store._api.open

    def open_(method: str, path: str, body: Any, headers: Any) -> urllib3.BaseHTTPResponse:
        answer: urllib3.BaseHTTPResponse | None = hear(ask, method, path)
        return answer or ask(method, path, body, headers)

    monkeypatch.setattr(store._api, "open", open_)


def composed(
    monkeypatch: pytest.MonkeyPatch, store: GCSStore, *, dies_at: int | None = None
) -> list[str]:
    """The paths of all compose requests; the one of that number never leaves."""
    paths: list[str] = []

    def hear(ask: Open, method: str, path: str) -> None:
        if "/compose?" in path:
            if len(paths) == dies_at:
                raise urllib3.exceptions.ProtocolError("the machine is gone")
            paths.append(path)

    listen(monkeypatch, store, hear)
    return paths


@pytest.fixture
def small_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compose two at a time, so that a few parts make a deep tree."""
    monkeypatch.setattr(gcs, "COMPOSE_MAX", 2)


def test_three_levels(store: GCSStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """1,025 parts: 33 of 32, two of those, one of these."""
    body = bytes(index % 251 for index in range(1025 * 2 - 1))
    upload = store.begin("k", size_bytes=len(body), part_bytes=2)
    parts = send_all(upload, body, 2)
    assert len(upload.parts()) == 1025
    paths = composed(monkeypatch, store)
    stat = upload.complete(parts, digests=digest_of(body), when=ABSENT)
    assert len(paths) == 33 + 2 + 1
    assert read_bytes(store, "k")[0] == body
    assert stat.digests.confirms(digest_of(body))
    assert names(store) == ["some/prefix/k"]


@pytest.mark.usefixtures("small_tree")
def test_completion_goes_on_where_it_stopped(
    store: GCSStore, reopen: Callable[[], GCSStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five parts: three joined, two of those, the whole. The machine dies before the last."""
    body = b"abcdefghi"
    upload = store.begin("k", size_bytes=9, part_bytes=2)
    parts = send_all(upload, body, 2)
    monkeypatch.setattr(gcs, "_HANDS", 1)
    composed(monkeypatch, store, dies_at=5)
    with pytest.raises(Unavailable, match="the machine is gone"):
        upload.complete(parts, digests=digest_of(body), when=ABSENT)
    assert not exists(store, "k")

    other = reopen()
    paths = composed(monkeypatch, other)
    (found,) = other.uploads("k")
    assert [part.index for part in found.parts()] == [0, 1, 2, 3, 4]
    found.complete(found.parts(), digests=digest_of(body), when=ABSENT)
    assert len(paths) == 1, "what was joined before is used again"
    assert read_bytes(other, "k")[0] == body
    assert names(other) == ["some/prefix/k"]


@pytest.mark.usefixtures("small_tree")
def test_two_complete_the_same_parts_at_once(
    store: GCSStore, reopen: Callable[[], GCSStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another joined the parts between our listing and our composing."""
    body = b"abcdefg"
    upload = store.begin("k", size_bytes=7, part_bytes=2)
    parts = send_all(upload, body, 2)
    (rival,) = reopen().uploads("k")
    composed(monkeypatch, rival._store, dies_at=2)  # type: ignore[attr-defined]

    def hear(ask: Open, method: str, path: str) -> None:
        # Groups are joined by several threads: none goes on before the rival has had its turn.
        with turn:
            if "/compose?" in path and not raced:
                raced.append(path)
                with pytest.raises(Unavailable):
                    rival.complete(parts, digests=digest_of(body), when=ABSENT)

    raced: list[str] = []
    turn = threading.Lock()
    listen(monkeypatch, store, hear)
    upload.complete(parts, digests=digest_of(body), when=ABSENT)
    assert raced
    assert read_bytes(store, "k")[0] == body


def test_a_lost_answer_leaves_parts_that_are_found(
    store: GCSStore, reopen: Callable[[], GCSStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The object is there, and what is left of its upload can be found and cleaned."""
    upload = store.begin("k", size_bytes=3, part_bytes=2)
    parts = send_all(upload, b"abc", 2)

    def hear(ask: Open, method: str, path: str) -> None:
        if method == "DELETE":
            raise urllib3.exceptions.ProtocolError("the machine is gone")

    listen(monkeypatch, store, hear)
    stat = upload.complete(parts, digests=digest_of(b"abc"), when=ABSENT)
    assert stat.size_bytes == 3
    other = reopen()
    assert read_bytes(other, "k")[0] == b"abc"
    (left,) = other.uploads("")
    left.abort()
    assert names(other) == ["some/prefix/k"]


def test_a_wrong_composition_does_not_stay(
    store: GCSStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the service states another digest than the parts make, that version is removed."""
    upload = store.begin("k", size_bytes=3, part_bytes=2)
    parts = send_all(upload, b"abc", 2)
    removed: list[str] = []

    def hear(ask: Open, method: str, path: str) -> urllib3.BaseHTTPResponse | None:
        if "/compose?" in path:
            described = {"name": "some/prefix/k", "generation": "5", "size": "3"}
            described["crc32c"] = "AAAAAA=="
            return urllib3.HTTPResponse(
                BytesIO(json.dumps(described).encode()), status=200, preload_content=False
            )
        if method == "DELETE":
            removed.append(path)
        return None

    listen(monkeypatch, store, hear)
    with pytest.raises(DigestMismatch):
        upload.complete(parts, digests=digest_of(b"abc"), when=ALWAYS)
    assert removed == [f"/storage/v1/b/{store._bucket}/o/some%2Fprefix%2Fk?generation=5"]
    assert len(upload.parts()) == 2, "the parts are still there"


def test_a_late_writer_sees_that_it_is_late(
    store: GCSStore, reopen: Callable[[], GCSStore]
) -> None:
    """And leaves nothing behind that nobody would find."""
    upload = store.begin("k", size_bytes=3, part_bytes=2)
    parts = send_all(upload, b"abc", 2)
    (late,) = reopen().uploads("k")
    upload.complete(parts, digests=digest_of(b"abc"), when=ABSENT)
    with pytest.raises(NotFound, match="completed or aborted"):
        late.part(0, b"ab", digests=digest_of(b"ab"))
    assert names(store) == ["some/prefix/k"]


def test_parts_without_a_marker_are_found_and_cleaned(
    store: GCSStore, reopen: Callable[[], GCSStore]
) -> None:
    """What a crash leaves between the removal of the marker and that of the parts."""
    upload = store.begin("a key/größe", size_bytes=3, part_bytes=2)
    send_all(upload, b"abc", 2)
    marker = next(name for name in names(store) if name.endswith("/.key"))
    store._delete("", marker, {})
    (found,) = reopen().uploads("a key/")
    assert (found.key, found.id) == ("a key/größe", upload.id)
    with pytest.raises(NotFound):
        found.parts()
    again = reopen().begin("a key/größe", size_bytes=3, part_bytes=2)
    assert len(again.parts()) == 2, "whoever begins anew has them"
    again.abort()
    assert names(store) == []


def test_foreign_things_among_the_uploads(store: GCSStore, reopen: Callable[[], GCSStore]) -> None:
    """What somebody else put there is neither an upload nor a part."""
    upload = store.begin("k", size_bytes=3, part_bytes=2)
    parts = send_all(upload, b"abc", 2)
    folder = f"some/prefix/.mlplatform/uploads/{upload.id}/"
    for name in (
        f"{folder}notes.txt",
        f"{folder}00000-2-00000000",
        "some/prefix/.mlplatform/uploads/readme",
        "some/prefix/.mlplatform/uploads/other/x",
        f"some/prefix/.mlplatform/uploads/{'0' * 32}-3-2/.key",
    ):
        store._insert("", name, memoryview(b"?"), digest_of(b"?"), ALWAYS, labels={})
    assert [found.id for found in reopen().uploads("")] == [upload.id]
    assert [part.index for part in upload.parts()] == [0, 1]
    assert [stat.key for stat in store.list("")] == []
    upload.complete(parts, digests=digest_of(b"abc"), when=ABSENT)
    assert read_bytes(store, "k")[0] == b"abc"


def test_a_part_whose_bytes_are_not_its_names(store: GCSStore) -> None:
    """It is not held: it is sent again, and replaced."""
    upload = store.begin("k", size_bytes=2, part_bytes=2)
    (part,) = send_all(upload, b"ab", 2)
    (name,) = [name for name in names(store) if "/00000-" in name]
    store._insert("", name, memoryview(b"xy"), digest_of(b"xy"), ALWAYS, labels={})
    assert upload.parts() == []
    with pytest.raises(DigestMismatch):
        upload.complete([part], digests=digest_of(b"ab"), when=ALWAYS)
    assert send_all(upload, b"ab", 2) == [part]
    assert upload.parts() == [part]


def test_the_last_that_was_sent_is_what_is_held(store: GCSStore) -> None:
    """Also when it had been sent before something else."""

    def held() -> Sequence[Part]:
        return upload.parts()

    upload = store.begin("k", size_bytes=2, part_bytes=2)
    (first,) = send_all(upload, b"ab", 2)
    (second,) = send_all(upload, b"cd", 2)
    assert held() == [second]
    assert send_all(upload, b"ab", 2) == [first]
    assert held() == [first]
    upload.complete([second], digests=digest_of(b"cd"), when=ALWAYS)
    assert read_bytes(store, "k")[0] == b"cd"


def test_other_part_sizes_are_another_upload(
    store: GCSStore, reopen: Callable[[], GCSStore]
) -> None:
    """An index means the same bytes to all who share a folder."""
    small = store.begin("k", size_bytes=4, part_bytes=2)
    large = store.begin("k", size_bytes=4, part_bytes=4)
    send_all(small, b"abcd", 2)
    parts = send_all(large, b"abcd", 4)
    assert {found.id for found in reopen().uploads("k")} == {small.id, large.id}
    large.complete(parts, digests=UNKNOWN_DIGESTS, when=ABSENT)
    assert [found.id for found in reopen().uploads("k")] == [small.id]
    assert len(small.parts()) == 2


def test_house_is_shown_only_when_something_of_others_is_in_it(store: GCSStore) -> None:
    store.begin("k", size_bytes=3, part_bytes=2)
    assert [stat.key for stat in store.list("", shallow=True)] == []
    store.put(".mlplatform/journal/1", b"")
    assert [stat.key for stat in store.list("", shallow=True)] == [".mlplatform/"]


@pytest.mark.parametrize(
    ("size_bytes", "part_bytes", "says"),
    [
        (0, 1, "needs a size"),
        (1, 0, "needs a size"),
        (32_769, 1, "more than 32768 parts"),
        (6 * 1024**4, 6 * 1024**4, "parts over"),
    ],
)
def test_impossible_uploads(
    scripted_store: GCSStore, size_bytes: int, part_bytes: int, says: str
) -> None:
    with pytest.raises(UsageError, match=says):
        scripted_store.begin("k", size_bytes=size_bytes, part_bytes=part_bytes)


def test_parts_of_another_size(store: GCSStore) -> None:
    upload = store.begin("k", size_bytes=3, part_bytes=2)
    for index, body in ((0, b"a"), (1, b"ab"), (2, b""), (-1, b"ab")):
        with pytest.raises(UsageError, match=f"part {index} has"):
            upload.part(index, body, digests=UNKNOWN_DIGESTS)
