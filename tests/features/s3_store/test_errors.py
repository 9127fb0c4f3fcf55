"""What the store says, in our words."""

from __future__ import annotations

import traceback

import pytest

from mlplatform.adapters.s3 import S3Store
from mlplatform.core.errors import (
    ConditionFailed,
    ContainerMissing,
    Denied,
    DigestMismatch,
    MlplatformError,
    NotFound,
    StoreError,
    StoreFull,
    Throttled,
    Unavailable,
    Unsupported,
    UsageError,
)
from mlplatform.ports.store import ABSENT, Matches

from .conftest import SECRET_KEY
from .scripted import StandIn, refusal, reply

CODES: list[tuple[int, str, type[MlplatformError]]] = [
    (404, "NoSuchKey", NotFound),
    (404, "NoSuchUpload", NotFound),
    (404, "NoSuchBucket", ContainerMissing),
    (403, "AccessDenied", Denied),
    (403, "InvalidAccessKeyId", Denied),
    (403, "SignatureDoesNotMatch", Denied),
    (404, "XAdminUserNotFound", Denied),
    (400, "ExpiredToken", Denied),
    (400, "InvalidToken", Denied),
    (403, "RequestTimeTooSkewed", Denied),
    (403, "Unheard", Denied),
    (401, "Unheard", Denied),
    (400, "BadDigest", DigestMismatch),
    (400, "XAmzContentChecksumMismatch", DigestMismatch),
    (400, "InvalidDigest", DigestMismatch),
    (400, "InvalidPart", DigestMismatch),
    (412, "PreconditionFailed", ConditionFailed),
    (409, "ConditionalRequestConflict", Throttled),
    (409, "OperationAborted", Throttled),
    (503, "SlowDown", Throttled),
    (503, "ServiceUnavailable", Throttled),
    (503, "", Throttled),
    (429, "TooManyRequests", Throttled),
    (409, "ObjectParentIsFile", StoreError),
    (507, "XMinioStorageFull", StoreFull),
    (507, "", StoreFull),
    (403, "QuotaExceeded", StoreFull),
    (400, "EntityTooLarge", UsageError),
    (413, "", UsageError),
    (400, "KeyTooLongError", UsageError),
    (403, "InvalidObjectState", StoreError),
    (500, "InternalError", Unavailable),
    (502, "", Unavailable),
    (504, "", Unavailable),
    (400, "RequestTimeout", Unavailable),
    (307, "TemporaryRedirect", Unavailable),
    (501, "NotImplemented", Unsupported),
    (400, "Unheard", StoreError),
]


@pytest.mark.parametrize(("status", "code", "kind"), CODES)
def test_codes(
    service: StandIn, store: S3Store, status: int, code: str, kind: type[MlplatformError]
) -> None:
    """The same by the wire and by the SDK's client."""
    service.answers(refusal(status, code, "what the store says", x_amz_request_id="REQ1"))
    with pytest.raises(kind) as by_wire:
        store.put("models/m/k", b"x")
    with pytest.raises(kind) as by_client:
        store.begin("models/m/k", size_bytes=1, part_bytes=1)
    for raised in (by_wire, by_client):
        assert type(raised.value) is kind
        said = str(raised.value)
        assert said.startswith("s3://models/models/m/k: ")
        assert str(status) in said
        assert code in said
        assert "REQ1" in said
        if isinstance(raised.value, Denied):
            assert raised.value.right == "put"
            assert "Access Denied" in said
            assert raised.value.hint
        if isinstance(raised.value, DigestMismatch) and code != "InvalidPart":
            assert "Checksum mismatch" in said


@pytest.mark.parametrize(
    ("right", "verb"),
    [
        ("list", lambda store: list(store.list(""))),
        ("list", lambda store: list(store.uploads(""))),
        ("get", lambda store: store.get("k")),
        ("get", lambda store: store.stat("k")),
        ("put", lambda store: store.put("k", b"")),
        ("put", lambda store: store.begin("k", size_bytes=1, part_bytes=1)),
        ("delete", lambda store: store.delete("k")),
    ],
)  # fmt: skip
def test_denied_names_the_right(service: StandIn, store: S3Store, right: str, verb: object) -> None:
    service.answers(refusal(403, "AccessDenied", "Access Denied"))
    with pytest.raises(Denied, match=f"Access Denied: no right to {right}") as raised:
        verb(store)  # type: ignore[operator]
    assert raised.value.right == right


def test_throttled_carries_what_the_store_asks_for(service: StandIn, store: S3Store) -> None:
    service.answers(refusal(503, "SlowDown", Retry_After="7"))
    for verb in (lambda: store.put("k", b""), lambda: list(store.list(""))):
        with pytest.raises(Throttled) as raised:
            verb()
        assert raised.value.retry_after_seconds == 7
        assert raised.value.retryable
    service.answers(refusal(503, "SlowDown", Retry_After="Wed, 21 Oct 2026 07:28:00 GMT"))
    with pytest.raises(Throttled) as raised:
        store.put("k", b"")
    assert raised.value.retry_after_seconds is None


def test_a_tag_of_nothing_is_a_failed_condition(service: StandIn, store: S3Store) -> None:
    """S3 says "no such key" where a write was to replace one."""
    service.answers(refusal(404, "NoSuchKey"))
    with pytest.raises(ConditionFailed):
        store.put("k", b"", when=Matches("t"))
    with pytest.raises(NotFound):
        store.get("k", when=Matches("t"))


def test_not_modified_is_a_failed_condition(service: StandIn, store: S3Store) -> None:
    service.answers(reply(304))
    with pytest.raises(ConditionFailed):
        store.get("k", when=ABSENT)


def test_a_head_is_asked_again_for_its_reason(service: StandIn, store: S3Store) -> None:
    """AWS answers 400, without a word, to HEAD with an expired token."""
    service.answers(reply(400), refusal(400, "ExpiredToken", "The provided token has expired."))
    with pytest.raises(Denied, match="expired"):
        store.stat("k")
    assert [asked.method for asked in service.asked] == ["HEAD", "GET"]


def test_a_head_in_trouble_is_not_asked_again(service: StandIn, store: S3Store) -> None:
    service.answers(reply(503))
    with pytest.raises(Throttled):
        store.stat("k")
    assert len(service.asked) == 1


@pytest.mark.parametrize(
    ("status", "code"), [(301, "PermanentRedirect"), (400, "AuthorizationHeaderMalformed")]
)
def test_bucket_in_another_region(service: StandIn, store: S3Store, status: int, code: str) -> None:
    service.answers(refusal(status, code, x_amz_bucket_region="eu-west-1"))
    for verb in (lambda: store.get("k"), lambda: list(store.list(""))):
        with pytest.raises(UsageError, match="the bucket is in eu-west-1") as raised:
            verb()
        assert raised.value.hint == "add region=eu-west-1"
    assert len(service.asked) == 2


def test_delete_of_nothing_is_done(service: StandIn, store: S3Store) -> None:
    """Also where the store minds, as AWS does beside a condition."""
    service.answers(refusal(404, "NoSuchKey"))
    store.delete("k", when=Matches("t"))
    store.delete("k")
    service.answers(refusal(412, "PreconditionFailed"), refusal(404, "NoSuchKey"))
    store.delete("k", when=Matches("t"))
    service.answers(refusal(412, "PreconditionFailed"), reply(200, ETag='"u"'))
    with pytest.raises(ConditionFailed):
        store.delete("k", when=Matches("t"))
    service.answers(refusal(404, "NoSuchBucket"))
    with pytest.raises(ContainerMissing):
        store.delete("k")


def test_delete_of_what_is_to_be_absent(service: StandIn, store: S3Store) -> None:
    service.answers(reply(200, ETag='"t"'))
    with pytest.raises(ConditionFailed):
        store.delete("k", when=ABSENT)
    assert [asked.method for asked in service.asked] == ["HEAD"]


def test_what_the_store_says_is_cut_to_a_line(service: StandIn, store: S3Store) -> None:
    service.answers(refusal(400, "Unheard", "a &lt;b&gt;\n\n  c " + "x" * 1000))
    with pytest.raises(StoreError) as raised:
        store.put("k", b"")
    assert "a <b> c xxx" in str(raised.value)
    assert len(str(raised.value)) < 400


def test_secrets_stay_here(service: StandIn, store: S3Store) -> None:
    """Neither the key nor a signature, in no error and no chained cause."""
    answers = [
        refusal(403, "SignatureDoesNotMatch", "The signature is wrong"),
        lambda connection: None,
        reply(200, "<not-what-was-meant"),
    ]
    for answer in answers:
        service.answers(answer)  # type: ignore[arg-type]
        for verb in (
            lambda: store.put("k", b""),
            lambda: list(store.list("")),
            lambda: list(store.uploads("")),
        ):
            try:
                verb()
            except MlplatformError as error:
                said = "".join(traceback.format_exception(error)) + str(error.hint)
                assert SECRET_KEY not in said
                assert "Signature=" not in said
                assert "Credential=" not in said
