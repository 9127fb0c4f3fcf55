"""Facts about real servers that the adapter is built on. When one of these fails, a server has
changed its ways, and `DIALECTS` or what rests on it should follow."""

from __future__ import annotations

from typing import Any

import pytest
from botocore.exceptions import ClientError

from mlplatform.adapters import s3
from mlplatform.adapters.s3 import DIALECTS
from mlplatform.core.digest import combine, digest_of
from mlplatform.core.errors import (
    ConditionFailed,
    ContainerMissing,
    Denied,
    DigestMismatch,
    NotFound,
)
from mlplatform.core.store_url import StoreURL
from mlplatform.ports.store import ABSENT, ALWAYS, Span
from tests.real.servers.launch import Endpoint

from .conftest import fresh_bucket, keyed, on

MIB = 1024 * 1024
FIRST, LAST = bytes(range(256)) * (5 * MIB // 256), b"the end"
WHOLE = FIRST + LAST


@pytest.fixture(params=["minio", "versitygw", "moto"])
def server(request: pytest.FixtureRequest) -> Endpoint:
    endpoint = request.getfixturevalue(request.param)
    request.node.add_marker(pytest.mark.real(request.param))
    assert isinstance(endpoint, Endpoint)
    return endpoint


@pytest.fixture(params=["minio", "versitygw"])
def checking(request: pytest.FixtureRequest) -> Endpoint:
    """A server that checks digests."""
    endpoint = request.getfixturevalue(request.param)
    request.node.add_marker(pytest.mark.real(request.param))
    assert isinstance(endpoint, Endpoint)
    return endpoint


def client(server: Endpoint) -> Any:
    return keyed(server.user, server.secret).create_client(
        "s3", region_name="us-east-1", endpoint_url=server.url
    )


def test_it_says_who_it_is(server: Endpoint) -> None:
    assert on(server).features is DIALECTS[server.name].features


def test_it_is_named(server: Endpoint) -> None:
    assert on(server, "dialect=other").features is DIALECTS["other"].features


def test_a_stranger_can_still_be_used(checking: Endpoint) -> None:
    """With nothing taken for granted: unconditional, undeclared, to be read back."""
    store = on(checking, "dialect=other")
    upload = store.begin("k", size_bytes=len(WHOLE), part_bytes=5 * MIB)
    parts = [
        upload.part(0, FIRST, digests=digest_of(FIRST)),
        upload.part(1, LAST, digests=digest_of(LAST)),
    ]
    stat = upload.complete(parts, digests=digest_of(WHOLE), when=ALWAYS)
    assert stat.evidence is None
    assert stat.size_bytes == len(WHOLE)


def test_wrong_keys(checking: Endpoint) -> None:
    bucket = fresh_bucket(checking)
    url = StoreURL.parse(f"s3://{bucket}?endpoint={checking.url}")
    for session in (keyed(checking.user, "wrong"), keyed("AKIDNOBODY", "wrong")):
        store = s3.open_store(url, session=session)
        for verb in (
            lambda store=store: store.put("k", b"x" * MIB * 8),
            lambda store=store: store.get("k"),
            lambda store=store: store.stat("k"),
            lambda store=store: list(store.list("")),
            lambda store=store: store.begin("k", size_bytes=1, part_bytes=1),
        ):
            with pytest.raises(Denied, match="Access Denied: the credentials are not accepted"):
                verb()


def test_a_refusal_is_heard_while_much_is_being_sent(server: Endpoint) -> None:
    large = bytes(32 * MIB)
    with pytest.raises(ContainerMissing):
        on(server, bucket="s3-store-no-such-bucket").put("k", large)
    store = on(server)
    store.put("k", b"1")
    with pytest.raises(ConditionFailed):
        store.put("k", large, when=ABSENT)


def test_pages_of_parts(server: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "_PAGE", 2)
    store = on(server)
    upload = store.begin("k", size_bytes=35 * MIB, part_bytes=5 * MIB)
    for index in range(7):
        upload.part(index, FIRST, digests=digest_of(FIRST))
    assert [part.index for part in upload.parts()] == list(range(7))


def test_pages_of_uploads(checking: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """versitygw cannot go on in the middle of a key's uploads: there it goes on with the next."""
    monkeypatch.setattr(s3, "_PAGE", 2)
    store = on(checking)
    keys = "aaaaabbc" if DIALECTS[checking.name].pages_uploads_of_a_key else "aabbcde"
    begun = [store.begin(key, size_bytes=1, part_bytes=1) for key in keys]
    for prefix in ("", "a", "b"):
        expected = {upload.id for upload in begun if upload.key.startswith(prefix)}
        assert {upload.id for upload in store.uploads(prefix)} == expected


def test_versitygw_cannot_go_on_in_the_middle_of_a_key(versitygw: Endpoint) -> None:
    bucket = fresh_bucket(versitygw)
    sdk = client(versitygw)
    for _ in range(3):
        sdk.create_multipart_upload(Bucket=bucket, Key="k")
    first = sdk.list_multipart_uploads(Bucket=bucket, MaxUploads=2)
    with pytest.raises(ClientError, match="marker"):
        sdk.list_multipart_uploads(
            Bucket=bucket,
            KeyMarker=first["NextKeyMarker"],
            UploadIdMarker=first["NextUploadIdMarker"],
        )


def test_pages_of_keys(server: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "_PAGE", 3)
    store = on(server)
    names = [f"a/{index}" for index in range(5)] + ["b/1", "b/2", "c", "d/1", "e"]
    for name in names:
        store.put(name, b"")
    assert [stat.key for stat in store.list("")] == names
    assert [stat.key for stat in store.list("", shallow=True)] == ["a/", "b/", "c", "d/", "e"]
    assert [stat.key for stat in store.list("", shallow=True, after="b/")] == ["c", "d/", "e"]


def test_folders_that_consoles_make_are_no_keys(server: Endpoint) -> None:
    bucket = fresh_bucket(server)
    client(server).put_object(Bucket=bucket, Key="models/m/", Body=b"")
    store = on(server, bucket=bucket)
    store.put("models/m/weights", b"1")
    assert [stat.key for stat in store.list("")] == ["models/m/weights"]
    assert [stat.key for stat in store.list("models/m/", shallow=True)] == ["models/m/weights"]
    assert [stat.key for stat in store.list("models/", shallow=True)] == ["models/m/"]


def test_a_prefix_is_a_world_of_its_own(server: Endpoint) -> None:
    bucket = fresh_bucket(server)
    url = f"s3://{bucket}/team/a?endpoint={server.url}"
    inside = s3.open_store(StoreURL.parse(url), session=keyed(server.user, server.secret))
    outside = on(server, bucket=bucket)
    outside.put("team/ab", b"not ours")
    outside.put("zz", b"not ours")
    outside.begin("team/ab", size_bytes=1, part_bytes=1)
    inside.put("k/1", b"1")
    inside.begin("k/2", size_bytes=1, part_bytes=1)
    assert [stat.key for stat in inside.list("")] == ["k/1"]
    assert [stat.key for stat in inside.list("", shallow=True)] == ["k/"]
    assert [stat.key for stat in inside.list("", after="k/0")] == ["k/1"]
    assert [upload.key for upload in inside.uploads("")] == ["k/2"]
    assert [upload.key for upload in inside.uploads("k")] == ["k/2"]
    assert outside.stat("team/a/k/1").size_bytes == 1


def test_minio_lists_uploads_of_a_whole_key_or_of_the_bucket(minio: Endpoint) -> None:
    """So `uploads` asks for both."""
    bucket = fresh_bucket(minio)
    sdk = client(minio)
    sdk.create_multipart_upload(Bucket=bucket, Key="models/m/weights")
    for prefix, found in (("models/m/weights", 1), ("", 1), ("models/m/", 0), ("models", 0)):
        answer = sdk.list_multipart_uploads(Bucket=bucket, Prefix=prefix)
        assert len(answer.get("Uploads", [])) == found, prefix
    assert len(list(on(minio, bucket=bucket).uploads("models/m/"))) == 1


def test_minio_deletes_whatever_the_tag(minio: Endpoint) -> None:
    """So `conditional_delete` is not declared there."""
    bucket = fresh_bucket(minio)
    on(minio, bucket=bucket).put("k", b"1")
    client(minio).delete_object(Bucket=bucket, Key="k", IfMatch='"0123"')
    with pytest.raises(NotFound):
        on(minio, bucket=bucket).stat("k")


def test_versitygw_completes_what_is_not_there(versitygw: Endpoint) -> None:
    """If only there is an object of that name. So an answer without a digest is looked into."""
    bucket = fresh_bucket(versitygw)
    store = on(versitygw, bucket=bucket)
    store.put("k", b"somebody else's")
    upload = store.begin("k", size_bytes=len(LAST), part_bytes=len(LAST))
    part = upload.part(0, LAST, digests=digest_of(LAST))
    upload.abort()
    answer = client(versitygw).complete_multipart_upload(
        Bucket=bucket,
        Key="k",
        UploadId=upload.id,
        MultipartUpload={"Parts": [s3._listed(part)]},
        IfNoneMatch="*",
    )
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 200
    for when in (ALWAYS, ABSENT):
        with pytest.raises(NotFound, match="not its doing"):
            upload.complete([part], digests=digest_of(LAST), when=when)


def copied(server: Endpoint, bucket: str, upload_id: str, span: Span) -> dict[str, Any]:
    answer: dict[str, Any] = client(server).upload_part_copy(
        Bucket=bucket,
        Key="k",
        UploadId=upload_id,
        PartNumber=1,
        CopySource={"Bucket": bucket, "Key": "source"},
        CopySourceRange=f"bytes={span.start}-{span.stop - 1}",
    )["CopyPartResult"]
    return answer


def test_minio_copies_no_range_into_a_declared_upload(minio: Endpoint) -> None:
    bucket = fresh_bucket(minio)
    store = on(minio, bucket=bucket)
    store.put("source", WHOLE)
    upload = store.begin("k", size_bytes=len(WHOLE), part_bytes=5 * MIB)
    with pytest.raises(ClientError, match="checksum missing"):
        copied(minio, bucket, upload.id, Span(0, len(FIRST)))


def test_minio_keeps_no_digest_of_an_undeclared_upload(minio: Endpoint) -> None:
    """Nor does it take one when it completes: what was assembled would have to be read back."""
    bucket = fresh_bucket(minio)
    store, sdk = on(minio, bucket=bucket), client(minio)
    store.put("source", WHOLE)
    upload_id = sdk.create_multipart_upload(Bucket=bucket, Key="k")["UploadId"]
    tag = copied(minio, bucket, upload_id, Span(0, len(FIRST)))["ETag"]
    parts = {"Parts": [{"PartNumber": 1, "ETag": tag}]}
    with pytest.raises(ClientError, match="ChecksumMismatch"):
        sdk.complete_multipart_upload(
            Bucket=bucket,
            Key="k",
            UploadId=upload_id,
            MultipartUpload=parts,
            ChecksumType="FULL_OBJECT",
            ChecksumCRC64NVME=s3._text(digest_of(FIRST).crc64nvme or 0),
        )
    sdk.complete_multipart_upload(Bucket=bucket, Key="k", UploadId=upload_id, MultipartUpload=parts)
    assert store.stat("k").evidence is None


def test_versitygw_takes_the_sources_digest_for_the_ranges(versitygw: Endpoint) -> None:
    """So an upload that declares a digest cannot be completed with a copied range."""
    bucket = fresh_bucket(versitygw)
    store = on(versitygw, bucket=bucket)
    store.put("source", WHOLE)
    upload = store.begin("k", size_bytes=len(WHOLE), part_bytes=5 * MIB)
    stated = copied(versitygw, bucket, upload.id, Span(0, len(FIRST)))["ChecksumCRC64NVME"]
    assert stated == s3._text(digest_of(WHOLE).crc64nvme or 0)
    upload.part(1, LAST, digests=digest_of(LAST))
    with pytest.raises(DigestMismatch, match=r"Checksum mismatch|not those that were listed"):
        upload.complete(upload.parts(), digests=digest_of(WHOLE), when=ALWAYS)


def test_versitygw_digests_an_undeclared_upload_by_itself(versitygw: Endpoint) -> None:
    """Of all its bytes, copied ones too, once they are one object: a proof, though after the
    event. It needs an upload that declares nothing, and then refuses no wrong whole."""
    bucket = fresh_bucket(versitygw)
    store, sdk = on(versitygw, bucket=bucket), client(versitygw)
    store.put("source", b"before" + WHOLE)
    upload_id = sdk.create_multipart_upload(Bucket=bucket, Key="k")["UploadId"]
    tag = copied(versitygw, bucket, upload_id, Span(6, 6 + len(FIRST)))["ETag"]
    last = sdk.upload_part(Bucket=bucket, Key="k", UploadId=upload_id, PartNumber=2, Body=LAST)
    sdk.complete_multipart_upload(
        Bucket=bucket,
        Key="k",
        UploadId=upload_id,
        MultipartUpload={
            "Parts": [{"PartNumber": 1, "ETag": tag}, {"PartNumber": 2, "ETag": last["ETag"]}]
        },
    )
    whole = combine([(digest_of(FIRST), len(FIRST)), (digest_of(LAST), len(LAST))])
    assert store.stat("k").digests.confirms(whole)


def test_moto_takes_any_digest_for_a_right_one(moto: Endpoint) -> None:
    """So it proves nothing about bytes, and nothing that it states is believed."""
    bucket = fresh_bucket(moto)
    sdk = client(moto)
    sdk.put_object(Bucket=bucket, Key="k", Body=b"1", ChecksumCRC64NVME=s3._text(7))
    assert on(moto, bucket=bucket).stat("k").evidence is None
