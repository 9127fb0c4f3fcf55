"""What goes over the wire, where no emulator looks."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import pytest

from mlplatform.adapters.gcs import open_store
from mlplatform.core.digest import Digests, digest_of
from mlplatform.core.errors import (
    ConditionFailed,
    DigestMismatch,
    NotFound,
    Unavailable,
    Unsupported,
)
from mlplatform.core.store_url import StoreURL
from mlplatform.ports.store import ABSENT, ALWAYS, Matches, ObjectStore, Span, read_bytes

from .scripted import OBJECT, Answer, Asked, Scripted, refusal

MEDIA = {
    "X-Goog-Generation": "7",
    "X-Goog-Hash": "crc32c=Nks/tw==,md5=kAFQmDzST7DWlj99KOF/cg==",
    "X-Goog-Stored-Content-Length": "3",
    "Last-Modified": "Sat, 21 Nov 2026 03:36:33 GMT",
}


def test_put(google: Scripted, scripted_store: ObjectStore) -> None:
    """The digest travels beside the bytes, in the form that the service compares."""
    stat = scripted_store.put("k", b"abc", when=ABSENT)
    (asked,) = google.asked
    assert (asked.method, asked.path) == ("POST", "/upload/storage/v1/b/bucket/o")
    assert asked.query["uploadType"] == "multipart"
    assert asked.query["ifGenerationMatch"] == "0"
    assert asked.resource["name"] == "k"
    assert asked.resource["crc32c"] == "Nks/tw=="
    assert asked.media == b"abc"
    assert (stat.tag, stat.size_bytes) == ("7", 3)
    assert stat.digests == Digests(crc32c=digest_of(b"abc").crc32c)


def test_large_bodies_arrive_whole(google: Scripted, scripted_store: ObjectStore) -> None:
    """They go in slices."""
    body = bytes(range(256)) * 10_000
    crc = base64.b64encode((digest_of(body).crc32c or 0).to_bytes(4, "big")).decode()
    google.script = lambda asked: Answer(200, OBJECT | {"size": str(len(body)), "crc32c": crc})
    scripted_store.put("k", memoryview(bytearray(body)), digests=digest_of(body))
    assert google.asked[0].media == body
    assert google.asked[0].resource["crc32c"] == crc


@pytest.mark.parametrize("tag", ["0", "", "-1", "abc", "07", '"etag"', "1" * 30])
def test_tags_that_no_object_has(google: Scripted, scripted_store: ObjectStore, tag: str) -> None:
    """Generation 0 means "no such object": as a tag it must never be sent."""
    with pytest.raises(ConditionFailed):
        scripted_store.put("k", b"abc", when=Matches(tag))
    assert google.asked == []


def test_options_are_passed_through(google: Scripted) -> None:
    options = (
        "kms_key=projects/p/locations/eu/keyRings/r/cryptoKeys/k&storage_class=NEARLINE"
        "&requester_pays=payer&tags=team%3Dvision%26tier%3D2"
    )
    store = open_store(StoreURL.parse(f"gs://bucket/m?endpoint={google.url}&{options}"))
    store.put("k", b"abc")
    store.stat("k")
    store.delete("k")
    put, stat, delete = google.asked
    assert put.query["kmsKeyName"] == "projects/p/locations/eu/keyRings/r/cryptoKeys/k"
    assert put.resource["storageClass"] == "NEARLINE"
    assert put.resource["metadata"] == {"team": "vision", "tier": "2"}
    assert put.resource["name"] == "m/k"
    assert stat.path == "/storage/v1/b/bucket/o/m/k"
    assert {asked.query["userProject"] for asked in (put, stat, delete)} == {"payer"}
    assert "kmsKeyName" not in stat.query


def test_compose(google: Scripted, scripted_store: ObjectStore) -> None:
    """Generations of the sources pinned, the whole's digest declared, the condition passed on."""
    body = b"abcdef"
    google.script = lambda asked: refusal(412, "At least one of the pre-conditions did not hold.")
    upload = scripted_store.begin("k", size_bytes=6, part_bytes=3)
    folder = f".mlplatform/uploads/{upload.id}/"
    names = {
        f"{folder}{index:05d}-3-{digest_of(half).crc32c:08x}-{digest_of(half).crc64nvme:016x}": half
        for index, half in enumerate((b"abc", b"def"))
    }

    def crc(of: bytes) -> str:
        return base64.b64encode((digest_of(of).crc32c or 0).to_bytes(4, "big")).decode()

    def script(asked: Asked) -> Answer:
        if asked.path.endswith("/compose"):
            return Answer(200, OBJECT | {"size": "6", "crc32c": crc(body)})
        held = [{"name": f"{folder}.key", "generation": "1", "size": "0", "crc32c": "AAAAAA=="}]
        held += [
            {"name": name, "generation": str(10 + index), "size": "3", "crc32c": crc(half)}
            for index, (name, half) in enumerate(names.items())
        ]
        return Answer(200, {"items": held})

    google.script = script
    stat = upload.complete(upload.parts(), digests=digest_of(body), when=Matches("5"))
    (compose,) = [asked for asked in google.asked if asked.path.endswith("/compose")]
    assert compose.path == "/storage/v1/b/bucket/o/k/compose"
    assert compose.query["ifGenerationMatch"] == "5"
    assert compose.resource["destination"]["crc32c"] == crc(body)
    assert compose.resource["sourceObjects"] == [
        {"name": name, "generation": str(10 + index)} for index, name in enumerate(names)
    ]
    assert stat.digests.crc32c == digest_of(body).crc32c
    deleted = [asked.path for asked in google.asked if asked.method == "DELETE"]
    assert deleted[0].endswith("/.key")
    assert len(deleted) == 1 + 3


def test_get(google: Scripted, scripted_store: ObjectStore) -> None:
    """Raw bytes, one version, one range; all that the answer says of the object."""
    ranged = MEDIA | {"Content-Range": "bytes 1-2/3"}
    google.script = lambda asked: Answer(206, b"bc", ranged)
    with scripted_store.get("k", Span(1, 3), when=Matches("7")) as body:
        buffer = memoryview(bytearray(10))
        assert body.readinto(buffer) == 2
        assert body.readinto(buffer) == 0
        assert (body.stat.tag, body.stat.size_bytes) == ("7", 3)
        assert body.stat.digests.crc32c == digest_of(b"abc").crc32c
        assert body.stat.modified is not None
    (asked,) = google.asked
    assert asked.query == {"alt": "media", "ifGenerationMatch": "7"}
    assert asked.headers["range"] == "bytes=1-2"
    assert asked.headers["accept-encoding"] == "gzip"


def test_compressed_objects_are_read_as_they_are(
    google: Scripted, scripted_store: ObjectStore
) -> None:
    """What is stored is what was digested."""
    squeezed = {"Content-Encoding": "gzip", "X-Goog-Stored-Content-Encoding": "gzip"}
    google.script = lambda asked: Answer(200, b"\x1f\x8b.", MEDIA | squeezed)
    assert read_bytes(scripted_store, "k")[0] == b"\x1f\x8b."


def test_objects_unpacked_on_the_way_are_refused(
    google: Scripted, scripted_store: ObjectStore
) -> None:
    unpacked = {"X-Goog-Stored-Content-Encoding": "gzip", "X-Goog-Stored-Content-Length": "2"}
    google.script = lambda asked: Answer(200, b"abc", MEDIA | unpacked)
    with pytest.raises(Unavailable, match="was offered"):
        scripted_store.get("k")


def test_another_version_is_not_taken_for_the_pinned_one(
    google: Scripted, scripted_store: ObjectStore
) -> None:
    """By whoever ignores the condition."""
    google.script = lambda asked: Answer(200, b"abc", MEDIA)
    with pytest.raises(ConditionFailed, match="has tag 7, not 6"):
        scripted_store.get("k", when=Matches("6"))


def test_no_bytes_of_an_object(google: Scripted, scripted_store: ObjectStore) -> None:
    with scripted_store.get("k", Span(3, 3), when=Matches("7")) as body:
        assert body.readinto(memoryview(bytearray(1))) == 0
        assert body.stat.tag == "7"
    with pytest.raises(Unavailable):
        scripted_store.get("k", Span(4, 4))
    with pytest.raises(ConditionFailed):
        scripted_store.get("k", Span(0, 0), when=Matches("8"))


def test_short_body(google: Scripted, scripted_store: ObjectStore) -> None:
    """A body that ends early is never a short success."""
    google.script = lambda asked: Answer(200, b"ab", MEDIA, length=3)
    with pytest.raises(Unavailable, match="IncompleteRead"):
        read_bytes(scripted_store, "k")


@pytest.mark.parametrize("answer", [b"", b"null", b"<html>", b'{"name"', b'{"name": "k"}', b"[]"])
def test_nonsense_is_no_answer(
    google: Scripted, scripted_store: ObjectStore, answer: bytes
) -> None:
    """A captive portal answers 200, too."""
    google.script = lambda asked: Answer(200, answer)
    with pytest.raises(Unavailable):
        scripted_store.stat("k")


def test_other_bytes_than_were_sent_do_not_stay(
    google: Scripted, scripted_store: ObjectStore
) -> None:
    """A store that took other bytes than we declared, and says so: that version goes again."""
    google.script = lambda asked: Answer(200, OBJECT)
    with pytest.raises(DigestMismatch):
        scripted_store.put("k", b"abd")
    assert [asked.method for asked in google.asked] == ["POST", "DELETE"]
    assert google.asked[1].query == {"generation": "7"}


def test_conditional_delete_of_what_another_deleted(
    google: Scripted, scripted_store: ObjectStore
) -> None:
    """The condition does not hold, and there is nothing left to delete: done."""

    def script(asked: Asked) -> Answer:
        if asked.method == "DELETE":
            return refusal(412, "At least one of the pre-conditions did not hold.")
        return refusal(404, "No such object: bucket/k")

    google.script = script
    scripted_store.delete("k", when=Matches("7"))
    assert google.asked[0].query["ifGenerationMatch"] == "7"
    google.script = lambda asked: script(asked) if asked.method == "DELETE" else Answer(200, OBJECT)
    with pytest.raises(ConditionFailed):
        scripted_store.delete("k", when=Matches("6"))


def test_conditions_on_what_is_not_there(google: Scripted, scripted_store: ObjectStore) -> None:
    """However the service puts it: nothing to read is `NotFound`, nothing to replace a refusal."""
    absent = refusal(404, "No such object: bucket/k")
    refused = refusal(412, "At least one of the pre-conditions did not hold.")
    for first in (absent, refused):
        answers = iter((first, absent))
        google.script = lambda asked, answers=answers: next(answers)  # type: ignore[misc]
        with pytest.raises(NotFound):
            scripted_store.get("k", when=Matches("7"))
        google.script = lambda asked, first=first: first  # type: ignore[misc]
        with pytest.raises(ConditionFailed):
            scripted_store.put("k", b"abc", when=Matches("7"))


def test_digests_that_a_listing_leaves_out(google: Scripted, scripted_store: ObjectStore) -> None:
    """As it does for objects that a customer's own key encrypts: they are asked for."""

    def script(asked: Asked) -> Answer:
        if asked.method == "POST":
            return Answer(200, OBJECT | {"size": "0", "crc32c": "AAAAAA=="})
        if asked.path.endswith("/o"):
            names = (".key", f"00000-3-{abc.crc32c:08x}-{abc.crc64nvme:016x}")
            listed = {"generation": "7", "size": "3"}
            return Answer(200, {"items": [listed | {"name": folder + name} for name in names]})
        return Answer(200, OBJECT | {"name": asked.path.partition("/o/")[2]})

    google.script = script
    abc = digest_of(b"abc")
    upload = scripted_store.begin("k", size_bytes=3, part_bytes=3)
    folder = f".mlplatform/uploads/{upload.id}/"
    assert [part.digests for part in upload.parts()] == [Digests(crc32c=abc.crc32c)]


def test_a_vague_404_is_cleared_up_by_listing(
    google: Scripted, scripted_store: ObjectStore
) -> None:
    """ "Absent" is said only of an object whose bucket answers."""

    def script(listing: Answer) -> Callable[[Asked], Answer]:
        return lambda asked: listing if asked.path.endswith("/o") else refusal(404, "Not Found")

    google.script = script(Answer(200, {}))
    with pytest.raises(NotFound, match="no such object"):
        scripted_store.stat("k")
    google.script = script(refusal(404, "Not Found"))
    with pytest.raises(NotFound, match="no such bucket"):
        scripted_store.stat("k")
    google.script = script(refusal(503, "Try later"))
    with pytest.raises(Unavailable):
        scripted_store.stat("k")
    google.script = script(refusal(403, "no storage.objects.list access"))
    with pytest.raises(NotFound, match="no such object"):
        scripted_store.stat("k")


def test_listings_ask_for_little(google: Scripted, scripted_store: ObjectStore) -> None:
    """Only the fields that are read, page by page, from where it goes on."""
    pages: dict[str, dict[str, Any]] = {
        "": {"items": [OBJECT | {"name": "a"}], "prefixes": ["b/"], "nextPageToken": "more"},
        "more": {"items": [OBJECT | {"name": "c"}]},
    }
    google.script = lambda asked: Answer(200, pages[asked.query.get("pageToken", "")])
    listed = [stat.key for stat in scripted_store.list("", shallow=True, after="0")]
    assert listed == ["a", "b/", "c"]
    first, second = google.asked
    assert first.query["fields"] == (
        "items(name,size,generation,crc32c,timeCreated),prefixes,nextPageToken"
    )
    assert (first.query["startOffset"], first.query["delimiter"]) == ("0", "/")
    assert second.query["pageToken"] == "more"


def test_no_range_copies(google: Scripted, scripted_store: ObjectStore) -> None:
    google.script = lambda asked: refusal(412, "At least one of the pre-conditions did not hold.")
    upload = scripted_store.begin("k", size_bytes=6, part_bytes=3)
    with pytest.raises(Unsupported):
        upload.copy_range(0, "source", Span(0, 3), when=ALWAYS)
