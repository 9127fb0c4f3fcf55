"""What goes over the wire: how many requests, what they say, and that each body is checked."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import pytest
from azure.core.pipeline import PipelineContext, PipelineRequest
from azure.core.pipeline.transport import HttpRequest
from azure.storage.blob._shared.authentication import SharedKeyCredentialPolicy

from mlplatform.adapters import azure_blob
from mlplatform.adapters.azure_blob import AzureBlobStore, open_store
from mlplatform.core.digest import Digests, digest_of
from mlplatform.core.errors import DigestMismatch, Unavailable
from mlplatform.core.store_url import StoreURL
from mlplatform.ports.store import ABSENT, ALWAYS, Matches, Span, read_bytes

from .service import ACCOUNT, KEY, Answer, Asked, StandIn, crc64, refusal, stored

CHECK = b"123456789"
CHECK_CRC64 = 0xAE8B14860A799888
"""The check value of CRC-64/NVME in the catalogues of CRCs."""


def test_the_value_on_the_wire() -> None:
    """CRC64NVME, lowest byte first."""
    assert digest_of(CHECK).crc64nvme == CHECK_CRC64
    assert crc64(CHECK) == base64.b64encode(CHECK_CRC64.to_bytes(8, "little")).decode()


def test_a_put_is_one_checked_request(scripted: AzureBlobStore, service: StandIn) -> None:
    """With the digest that the caller knows, as it is, and in metadata for whoever asks later."""
    stat = scripted.put("m/v1/a", CHECK, digests=digest_of(CHECK), when=ABSENT)
    (asked,) = service.asked
    assert (asked.method, asked.path, asked.body) == ("PUT", f"/{ACCOUNT}/models/m/v1/a", CHECK)
    assert asked.headers["x-ms-content-crc64"] == crc64(CHECK)
    assert asked.headers["x-ms-meta-mlplatform_crc64nvme"] == f"{CHECK_CRC64:016x}"
    assert asked.headers["if-none-match"] == "*"
    assert "content-md5" not in asked.headers
    assert (stat.tag, stat.digests) == ("0x1", Digests(CHECK_CRC64))


def test_the_service_is_what_checks(
    scripted: AzureBlobStore, service: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A digest that the caller gave is not computed again: the service refuses a wrong one."""
    monkeypatch.setattr(azure_blob, "digest_of", lambda body: pytest.fail("computed"))
    with pytest.raises(DigestMismatch, match="Crc64Mismatch"):
        scripted.put("k", CHECK, digests=Digests(CHECK_CRC64 ^ 1))
    upload = scripted.begin("k", size_bytes=9, part_bytes=9)
    with pytest.raises(DigestMismatch, match="Crc64Mismatch"):
        upload.part(0, CHECK, digests=Digests(CHECK_CRC64 ^ 1))
    assert len(service.asked) == 2


def test_a_service_that_got_other_bytes(scripted: AzureBlobStore, service: StandIn) -> None:
    """And says so only in its answer."""
    service.answer = lambda asked: stored(x_ms_content_crc64=crc64(b"other"))
    with pytest.raises(DigestMismatch):
        scripted.put("k", CHECK)


def test_a_wrong_crc32c_alone_is_found_here(scripted: AzureBlobStore, service: StandIn) -> None:
    """The service does not know CRC32C."""
    with pytest.raises(DigestMismatch):
        scripted.put("k", CHECK, digests=Digests(crc32c=1))
    assert service.asked == []


def test_md5_where_the_service_knows_no_crc64(service: StandIn) -> None:
    """By default at loopback, where emulators are: compared here, and guarded on the way."""
    url = StoreURL.parse(f"az://{ACCOUNT}/models?endpoint={service.url}")
    store = open_store(url, environ={"AZURE_STORAGE_KEY": KEY})
    store.put("k", CHECK)
    expected = base64.b64encode(hashlib.md5(CHECK).digest()).decode()
    assert service.last.headers["content-md5"] == expected
    assert "x-ms-content-crc64" not in service.last.headers
    with pytest.raises(DigestMismatch):
        store.put("k", CHECK, digests=Digests(CHECK_CRC64 ^ 1))
    assert len(service.asked) == 1


@pytest.mark.parametrize("size_bytes", [0, 1, 1024 * 1024, 1024 * 1024 + 1])
def test_any_body_has_a_length(scripted: AzureBlobStore, service: StandIn, size_bytes: int) -> None:
    """Never a chunked transfer, which the service does not take."""
    body = memoryview(bytearray(size_bytes)).cast("B")
    scripted.put("k", body)
    assert service.last.headers["content-length"] == str(size_bytes)
    assert "transfer-encoding" not in service.last.headers
    assert service.last.body == bytes(size_bytes)


def test_an_upload_is_a_request_a_part_and_one(scripted: AzureBlobStore, service: StandIn) -> None:
    """Begin asks nothing; the commit names blocks that state their digests, and nothing else."""
    upload = scripted.begin("k", size_bytes=18, part_bytes=9)
    assert service.asked == []
    parts = [upload.part(index, CHECK, digests=digest_of(CHECK)) for index in range(2)]
    stat = upload.complete(parts, digests=digest_of(CHECK * 2), when=Matches("0x7"))
    assert len(service.asked) == 3
    ids = service.blocks()
    assert ids == [f"mlp1-0000{index}-{CHECK_CRC64:016x}" for index in range(2)]
    assert service.last.query == {"comp": "blocklist"}
    assert service.last.headers["if-match"] == '"0x7"'
    assert service.last.headers["x-ms-meta-mlplatform_blocks"] == "2"
    listed = "".join(
        f"<Uncommitted>{base64.b64encode(block.encode()).decode()}</Uncommitted>" for block in ids
    )
    assert f"<BlockList>{listed}</BlockList>" in service.last.body.decode()
    assert stat.digests.crc64nvme == digest_of(CHECK * 2).crc64nvme


def test_ids_have_one_length_for_ever(scripted: AzureBlobStore, service: StandIn) -> None:
    """The service refuses another length under the same name, and more than 64 bytes."""
    upload = scripted.begin("k", size_bytes=50_000, part_bytes=1)
    for index in (0, 9, 10_000, 49_999):
        upload.part(index, b"x", digests=digest_of(b"x"))
    assert {len(block) for block in service.blocks()} == {27}


def test_two_replicators_stage_the_same_blocks(service: StandIn) -> None:
    """Whoever they are."""
    url = StoreURL.parse(f"az://{ACCOUNT}/models?endpoint={service.url}")
    for _ in range(2):
        store = open_store(url, environ={"AZURE_STORAGE_KEY": KEY})
        store.begin("k", size_bytes=9, part_bytes=9).part(0, CHECK, digests=digest_of(CHECK))
    first, second = service.blocks()
    assert first == second


def test_the_options_go_with_each_write(service: StandIn) -> None:
    """Tier and tags with the blob, the encryption scope with its blocks as well."""
    url = StoreURL.parse(
        f"az://{ACCOUNT}/models?endpoint={service.url}&storage_class=Cool&encryption_scope=models"
        "&tags=team%3Dml%26stage%3Dprod%20eu"
    )
    store = open_store(url, environ={"AZURE_STORAGE_KEY": KEY})
    asked_for = {
        "x-ms-access-tier": "Cool",
        "x-ms-encryption-scope": "models",
        "x-ms-tags": "team=ml&stage=prod+eu",
    }
    store.put("k", CHECK)
    assert asked_for.items() <= service.last.headers.items()
    upload = store.begin("k", size_bytes=9, part_bytes=9)
    part = upload.part(0, CHECK, digests=digest_of(CHECK))
    assert service.last.headers["x-ms-encryption-scope"] == "models"
    assert not {"x-ms-access-tier", "x-ms-tags"} & service.last.headers.keys()
    upload.complete([part], digests=digest_of(CHECK), when=ALWAYS)
    assert asked_for.items() <= service.last.headers.items()


@pytest.mark.parametrize(
    ("method", "url", "headers"),
    [
        ("GET", "https://a.blob.core.windows.net/c/m%20%C3%A9/k", {"x-ms-range": "bytes=0-9"}),
        ("PUT", "https://a.blob.core.windows.net/c/k", {"Content-Length": "0"}),
        (
            "PUT",
            "https://a.blob.core.windows.net/c/k?comp=block&blockid=bWxwMQ%3D%3D",
            {"Content-Length": "5", "Content-MD5": "abc=", "x-ms-content-crc64": "def="},
        ),
        (
            "PUT",
            "https://a.blob.core.windows.net/c/k?comp=blocklist",
            {
                "Content-Length": "5",
                "If-None-Match": "*",
                "x-ms-meta-mlplatform_blocks": "1",
                "x-ms-access-tier": "Hot",
                "x-ms-tags": "a=b",
                "x-ms-encryption-scope": "s",
            },
        ),
        (
            "GET",
            "https://a.blob.core.windows.net/c?restype=container&prefix=a%2Fb%26c%2Bd&marker=x%21y",
            {},
        ),
        ("DELETE", "http://127.0.0.1:1/a/c/k", {"If-Match": '"0x1"'}),
    ],
)
def test_signed_as_the_sdk_signs(method: str, url: str, headers: dict[str, str]) -> None:
    """Letter for letter."""
    always = {"x-ms-version": "2021-12-02", "x-ms-date": "Sat, 21 Nov 2026 03:00:00 GMT"}

    def signature(policy: Any) -> str:
        request = HttpRequest(method, url, {**always, **headers})
        policy.on_request(PipelineRequest(request, PipelineContext(None)))
        signed: str = request.headers["Authorization"]
        return signed

    ours = signature(azure_blob._SharedKey("a", KEY))
    assert ours == signature(SharedKeyCredentialPolicy("a", KEY))  # type: ignore[no-untyped-call]


def test_connections_are_used_again(scripted: AzureBlobStore, service: StandIn) -> None:
    """After whole reads, empty ones, refusals and writes; not after a read that was left."""
    headers = {"ETag": '"0x1"'}
    service.answer = lambda asked: Answer(200, headers, b"some bytes")
    for _ in range(3):
        assert read_bytes(scripted, "k")[0] == b"some bytes"
    service.answer = lambda asked: Answer(200, headers)
    assert read_bytes(scripted, "k")[0] == b""
    service.answer = lambda asked: refusal(404, "BlobNotFound")
    for _ in range(3):
        with pytest.raises(Exception, match="BlobNotFound"), scripted.get("k"):
            pass
    service.answer = lambda asked: stored()
    scripted.put("k", b"1")
    assert service.connections == 1
    service.answer = lambda asked: Answer(200, headers, bytes(100_000))
    with scripted.get("k") as body:
        body.readinto(memoryview(bytearray(10)))
    with scripted.get("k"):
        pass
    assert service.connections == 2


def test_a_range_is_one_request(scripted: AzureBlobStore, service: StandIn) -> None:
    """Pinned, and the answer tells the rest."""

    def answer(asked: Asked) -> Answer:
        return Answer(206, {"ETag": '"0x9"', "Content-Range": "bytes 2-4/9"}, CHECK[2:5])

    service.answer = answer
    with scripted.get("k", Span(2, 5), when=Matches("0x9")) as body:
        buffer = memoryview(bytearray(10))
        assert (body.readinto(buffer), bytes(buffer[:3])) == (3, b"345")
        assert (body.stat.size_bytes, body.stat.tag) == (9, "0x9")
    assert len(service.asked) == 1
    assert service.last.headers["x-ms-range"] == "bytes=2-4"
    assert service.last.headers["if-match"] == '"0x9"'
    assert service.last.headers["accept-encoding"] == "identity"


def test_a_body_that_ends_early(scripted: AzureBlobStore, service: StandIn) -> None:
    """Is no object."""
    service.answer = lambda asked: Answer(200, {"ETag": '"0x1"'}, b"half", size=8)
    with pytest.raises(Unavailable, match="short read: 4 bytes"):
        read_bytes(scripted, "k")


def test_a_range_that_is_ignored(scripted: AzureBlobStore, service: StandIn) -> None:
    """The whole object is not the span."""
    service.answer = lambda asked: Answer(200, {"ETag": '"0x1"'}, CHECK)
    with pytest.raises(Unavailable, match="9 bytes of 3"), scripted.get("k", Span(2, 5)):
        pass


def test_something_else_answers(scripted: AzureBlobStore, service: StandIn) -> None:
    """A captive portal is no store."""
    service.answer = lambda asked: Answer(200, {"x-ms-request-id": ""}, b"<html>welcome</html>")
    with pytest.raises(Unavailable):
        list(scripted.list(""))
