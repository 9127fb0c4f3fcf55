"""What a store URL may say, and what is made of it."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import pytest
from botocore.awsrequest import AWSPreparedRequest

from mlplatform.adapters.s3 import S3Store, open_store
from mlplatform.core.errors import UsageError
from mlplatform.core.store_url import StoreURL

from .conftest import ACCESS_KEY, SECRET_KEY, Opener, keyed
from .scripted import StandIn, reply


def opened(text: str) -> S3Store:
    return open_store(StoreURL.parse(text), session=keyed(ACCESS_KEY, SECRET_KEY))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("s3://models?regoin=eu-west-1", "unknown option 'regoin'"),
        ("s3:///prefix", "does not name a bucket"),
        ("s3://ab", "does not name a bucket"),
        ("s3://mod%20els", "does not name a bucket"),
        ("s3://models/a//b", "segment"),
        ("s3://models/../b", "segment"),
        ("s3://models?dialect=ceph", "unknown dialect 'ceph'"),
        ("s3://models?endpoint=http://store.example", "plain HTTP"),
        ("s3://models?endpoint=store.example:9000", "not an http"),
        ("s3://models?endpoint=https://store.example:70000", "out of range"),
        ("s3://models?stall_seconds=0", "not a number of seconds"),
        ("s3://models?ca_bundle=/no/such/file", "is no file"),
        ("s3://models?tags=team", "not name=value"),
        ("s3://models?requester_pays=perhaps", "neither true nor false"),
        ("s3://models?storage_class=A%0D%0AX-Evil:1", "odd characters"),
    ],
)
def test_bad_url(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        opened(text)


def test_unknown_profile(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    with pytest.raises(UsageError, match="no profile 'nobody'"):
        open_store(StoreURL.parse("s3://models?profile=nobody"))


def test_nothing_is_sent_to_open(service: StandIn, scripted: Opener) -> None:
    store = scripted("dialect=aws", prefix="team/a")
    assert store.url == "s3://models/team/a"
    assert service.asked == []


def test_prefix_is_before_every_key(service: StandIn, scripted: Opener) -> None:
    service.answers(reply(200, ETag='"1"'))
    scripted(prefix="team/a").put("m/v1/weights", b"x")
    assert service.asked[0].path == "/models/team/a/m/v1/weights"


@pytest.mark.parametrize(
    ("text", "origin", "path"),
    [
        ("s3://models?region=eu-west-1", "https://models.s3.eu-west-1.amazonaws.com", "/"),
        ("s3://models?region=cn-north-1", "https://models.s3.cn-north-1.amazonaws.com.cn", "/"),
        ("s3://models", "https://models.s3.amazonaws.com", "/"),
        ("s3://my.models?region=eu-west-1", "https://s3.eu-west-1.amazonaws.com", "/my.models/"),
        ("s3://models?endpoint=https://store.example", "https://store.example", "/models/"),
        ("s3://models?endpoint=https://s.example/s3/", "https://s.example", "/s3/models/"),
        ("s3://models?endpoint=http://s.example&insecure=true", "http://s.example", "/models/"),
    ],
)  # fmt: skip
def test_address(text: str, origin: str, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wire goes where the SDK's client goes."""
    monkeypatch.delenv("AWS_REGION", raising=False)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    link = opened(text)._link
    assert (link.origin, link.path) == (origin, path)
    sent = []

    def stop(request: AWSPreparedRequest, **_: object) -> None:
        sent.append(request.url)
        raise ConnectionAbortedError

    link.client.meta.events.register("before-send.s3", stop)
    with pytest.raises(ConnectionAbortedError):
        link.client.get_object(Bucket=urlsplit(text).netloc, Key="k")
    assert sent == [f"{origin}{path}k"]


def test_endpoint_of_the_sdks_own_configuration(
    monkeypatch: pytest.MonkeyPatch, service: StandIn
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", service.url)
    service.answers(reply(200, ETag='"1"'))
    opened("s3://models?dialect=aws").put("k", b"x")
    assert service.asked[0].path == "/models/k"


def test_endpoint_of_the_sdks_own_configuration_is_no_way_round_https(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://store.example")
    with pytest.raises(UsageError, match="plain HTTP"):
        opened("s3://models?dialect=aws").put("k", b"x")


OPTIONS = (
    "dialect=aws&storage_class=INTELLIGENT_TIERING&kms_key_id=alias/models"
    "&tags=team=vision,tier=2 %26 up&requester_pays=true"
)
WRITTEN = {
    "x-amz-storage-class": "INTELLIGENT_TIERING",
    "x-amz-server-side-encryption": "aws:kms",
    "x-amz-server-side-encryption-aws-kms-key-id": "alias/models",
    "x-amz-tagging": "team=vision&tier=2+%26+up",
    "x-amz-request-payer": "requester",
}
CREATED = (
    "<InitiateMultipartUploadResult><Bucket>models</Bucket><Key>k</Key>"
    "<UploadId>u-1</UploadId></InitiateMultipartUploadResult>"
)


def test_what_is_written_carries_the_options(service: StandIn, scripted: Opener) -> None:
    store = scripted(OPTIONS)
    service.answers(reply(200, ETag='"1"'))
    store.put("k", b"x")
    service.answers(reply(200, CREATED))
    store.begin("k", size_bytes=10, part_bytes=10)
    for asked in service.asked:
        assert {name: asked.headers.get(name) for name in WRITTEN} == WRITTEN


def test_requester_pays_for_reading_too(service: StandIn, scripted: Opener) -> None:
    store = scripted(OPTIONS)
    service.answers(reply(200, b"abc", ETag='"1"'))
    with store.get("k"):
        pass
    service.answers(reply(200, "<ListBucketResult></ListBucketResult>"))
    assert list(store.list("")) == []
    for asked in service.asked:
        assert asked.headers.get("x-amz-request-payer") == "requester"
        assert "x-amz-tagging" not in asked.headers
