"""What the service's refusals are to us: one table, and what a person reads."""

from __future__ import annotations

import traceback
from collections.abc import Callable

import pytest
from azure.core.exceptions import ClientAuthenticationError
from azure.core.pipeline import PipelineRequest
from azure.core.pipeline.policies import SansIOHTTPPolicy
from azure.core.pipeline.transport import HttpRequest, HttpResponse

from mlplatform.adapters import azure_blob
from mlplatform.adapters.azure_blob import AzureBlobStore, open_store
from mlplatform.core.digest import UNKNOWN_DIGESTS
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
)
from mlplatform.core.store_url import StoreURL
from mlplatform.ports.store import ABSENT, ALWAYS, ObjectStore

from .service import ACCOUNT, KEY, Answer, StandIn, refusal, stored

CASES: list[tuple[int, str, type[MlplatformError], str]] = [
    (404, "ContainerNotFound", ContainerMissing, "no such container"),
    (409, "ContainerBeingDeleted", ContainerMissing, "no such container"),
    (409, "BlobAlreadyExists", ConditionFailed, "not in the state"),
    (412, "ConditionNotMet", ConditionFailed, "not in the state"),
    (412, "", ConditionFailed, "not in the state"),
    (400, "Md5Mismatch", DigestMismatch, "other digests"),
    (400, "Crc64Mismatch", DigestMismatch, "other digests"),
    (403, "AuthenticationFailed", Denied, "Access Denied: the credentials were refused"),
    (401, "InvalidAuthenticationInfo", Denied, "Access Denied: the credentials were refused"),
    (401, "NoAuthenticationInformation", Denied, "Access Denied"),
    (403, "AuthorizationPermissionMismatch", Denied, "Access Denied: no right to put"),
    (403, "InsufficientAccountPermissions", Denied, "Access Denied: no right to put"),
    (403, "AuthorizationFailure", Denied, "Access Denied: the account does not let"),
    (403, "AuthorizationSourceIPMismatch", Denied, "Access Denied"),
    (403, "KeyBasedAuthenticationNotPermitted", Denied, "Access Denied"),
    (403, "SomethingNew", Denied, "Access Denied"),
    (409, "BlobImmutableDueToPolicy", Denied, "retention policy"),
    (412, "LeaseIdMissing", Denied, "another client holds a lease"),
    (503, "ServerBusy", Throttled, "limit"),
    (429, "", Throttled, "limit"),
    (503, "", Throttled, "limit"),
    (500, "OperationTimedOut", Unavailable, "OperationTimedOut"),
    (500, "InternalError", Unavailable, "InternalError"),
    (502, "", Unavailable, "502"),
    (504, "", Unavailable, "504"),
    (507, "", StoreFull, "full"),
    (409, "SomeQuotaExceeded", StoreFull, "full"),
    (409, "BlockCountExceedsLimit", StoreFull, "too many blocks"),
    (409, "BlobArchived", Unsupported, "archived"),
    (501, "", Unsupported, "does not know"),
    (400, "InvalidBlobOrBlock", StoreError, "another tool"),
    (400, "InvalidHeaderValue", StoreError, "InvalidHeaderValue"),
    (409, "PendingCopyOperation", StoreError, "PendingCopyOperation"),
]


@pytest.mark.parametrize(("status", "code", "kind", "says"), CASES)
def test_a_refusal(
    scripted: AzureBlobStore,
    service: StandIn,
    status: int,
    code: str,
    kind: type[MlplatformError],
    says: str,
) -> None:
    """Exactly that class, and a text that names the object, the cause and the request."""
    service.answer = lambda asked: refusal(status, code)
    with pytest.raises(kind, match=says) as raised:
        scripted.put("m/v1/a", b"1")
    assert type(raised.value) is kind
    assert "az://standin/models/m/v1/a" in str(raised.value)
    assert "request request-1" in str(raised.value)
    assert code in str(raised.value)


def test_the_table_is_all_tried() -> None:
    """No line of it without a case, but those that belong to other verbs."""
    others = {"BlobNotFound", "ResourceNotFound", "InvalidBlockList", "InvalidRange"}
    also = {
        *("AuthorizationResourceTypeMismatch", "UnauthorizedBlobOverwrite"),
        *("AuthorizationProtocolMismatch", "AuthorizationServiceMismatch", "AccountIsDisabled"),
        *("PublicAccessNotPermitted", "ContainerDisabled", "TargetConditionNotMet"),
        *("BlobBeingRehydrated", "FeatureNotSupported", "SnapshotsPresent"),
    }
    assert azure_blob._BY_CODE.keys() - {code for _, code, _, _ in CASES} == others | also


VERBS: list[tuple[str, Callable[[ObjectStore], object]]] = [
    ("get", lambda store: store.stat("k")),
    ("get", lambda store: store.get("k")),
    ("put", lambda store: store.put("k", b"1")),
    ("delete", lambda store: store.delete("k")),
    ("list", lambda store: list(store.list(""))),
    ("list", lambda store: list(store.uploads(""))),
    (
        "put",
        lambda store: store.begin("k", size_bytes=1, part_bytes=1).part(
            0, b"1", digests=UNKNOWN_DIGESTS
        ),
    ),
]


@pytest.mark.parametrize(("right", "verb"), VERBS)
def test_the_right_that_is_missing_is_named(
    scripted: AzureBlobStore, service: StandIn, right: str, verb: Callable[[ObjectStore], object]
) -> None:
    """So that `validate` can tell which role to give."""
    service.answer = lambda asked: refusal(403, "AuthorizationPermissionMismatch")
    with pytest.raises(Denied, match=f"Access Denied: no right to {right}") as raised:
        verb(scripted)
    assert raised.value.right == right
    assert raised.value.exit_code == 4
    assert "Storage Blob Data" in (raised.value.hint or "")


def test_a_clock_an_hour_off(scripted: AzureBlobStore, service: StandIn) -> None:
    """The service refuses a signature of another hour, and names no reason that can be shown."""
    service.answer = lambda asked: refusal(403, "AuthenticationFailed")
    with pytest.raises(Denied, match="credentials were refused") as raised:
        scripted.stat("k")
    assert "clock" in (raised.value.hint or "")
    assert "expired" in (raised.value.hint or "")


@pytest.mark.parametrize(("header", "seconds"), [("7", 7.0), ("soon", None), ("", None)])
def test_how_long_to_wait(
    scripted: AzureBlobStore, service: StandIn, header: str, seconds: float | None
) -> None:
    """The service may say."""
    service.answer = lambda asked: refusal(503, "ServerBusy", Retry_After=header)
    with pytest.raises(Throttled) as raised:
        scripted.stat("k")
    assert raised.value.retry_after_seconds == seconds


def test_nothing_is_tried_twice(scripted: AzureBlobStore, service: StandIn) -> None:
    """The one retry policy is control's."""
    service.answer = lambda asked: refusal(503, "ServerBusy")
    with pytest.raises(Throttled):
        scripted.put("k", b"1")
    assert len(service.asked) == 1


def test_no_token(service: StandIn) -> None:
    """No identity, or an expired login: what to do, and the provider's reason in a line."""

    class NoToken(SansIOHTTPPolicy[HttpRequest, HttpResponse]):
        def on_request(self, request: PipelineRequest[HttpRequest]) -> None:
            raise ClientAuthenticationError("AADSTS700082: the login has expired\nTrace: 1234")

    store = AzureBlobStore(
        azure_blob._Service("az://a/c", service.url, NoToken(), stall_seconds=1),
        prefix="",
        service_checks_crc64=True,
        on_write={},
        on_block={},
    )
    with pytest.raises(Denied, match="AADSTS700082: the login has expired") as raised:
        store.put("k", b"1")
    assert "az login" in (raised.value.hint or "")
    assert "Trace" not in str(raised.value)
    assert service.asked == []


def test_blocks_that_a_commit_took_along(scripted: AzureBlobStore, service: StandIn) -> None:
    """The upload is gone; while others of ours are staged, a listed part is missing."""
    upload = scripted.begin("k", size_bytes=2, part_bytes=1)
    parts = [upload.part(index, b"x", digests=UNKNOWN_DIGESTS) for index in range(2)]
    first = service.asked[0].query["blockid"]
    staged = ""

    def answer(asked: object) -> Answer:
        if service.last.method == "PUT":
            return refusal(400, "InvalidBlockList")
        return Answer(200, {}, f"<BlockList><UncommittedBlocks>{staged}</UncommittedBlocks>"
                               "</BlockList>".encode())  # fmt: skip

    service.answer = answer
    with pytest.raises(NotFound, match="another writer committed"):
        upload.complete(parts, digests=UNKNOWN_DIGESTS, when=ABSENT)
    staged = f"<Block><Name>{first}</Name><Size>1</Size></Block>"
    with pytest.raises(DigestMismatch, match="not all"):
        upload.complete(parts, digests=UNKNOWN_DIGESTS, when=ABSENT)
    service.answer = lambda asked: stored()
    upload.complete(parts, digests=UNKNOWN_DIGESTS, when=ALWAYS)


SAS = "sv=2021-12-02&sr=c&sp=rw&sig=c2lnbmF0dXJl"


@pytest.mark.parametrize("status", [0, 403, 503])
def test_secrets_are_nowhere(service: StandIn, status: int) -> None:
    """Not in the text, not in the hint, not in a traceback with all that it is chained to."""
    service.answer = lambda asked: refusal(status, "AuthenticationFailed" if status == 403 else "")
    endpoint = service.url if status else "http://127.0.0.1:1/standin"
    url = StoreURL.parse(f"az://{ACCOUNT}/models?endpoint={endpoint}")
    for environ in ({"AZURE_STORAGE_SAS_TOKEN": SAS}, {"AZURE_STORAGE_KEY": KEY}):
        store = open_store(url, environ=environ)
        with pytest.raises(MlplatformError) as raised:
            store.put("k", b"1")
        shown = [repr(store), repr(raised.value), raised.value.hint or ""]
        seen: BaseException | None = raised.value
        while seen is not None:
            shown += traceback.format_exception(seen)
            seen = seen.__context__ or seen.__cause__
        for secret in ("c2lnbmF0dXJl", KEY, "SharedKey"):
            assert secret not in "".join(shown)
    if status:
        assert "sig=c2lnbmF0dXJl" in "&".join(
            f"{name}={value}" for asked in service.asked for name, value in asked.query.items()
        )


def test_nobody_listens(service: StandIn) -> None:
    """Said with the system's own words, which are the cause."""
    url = StoreURL.parse(f"az://{ACCOUNT}/models?endpoint=http://127.0.0.1:1/standin")
    store = open_store(url, environ={"AZURE_STORAGE_KEY": KEY})
    with pytest.raises(Unavailable, match="refused") as raised:
        store.stat("k")
    assert isinstance(raised.value.__cause__, ConnectionRefusedError)
