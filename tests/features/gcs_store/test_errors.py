"""Every answer that is no success, in our words."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from mlplatform.adapters.gcs import open_store
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
)
from mlplatform.core.store_url import StoreURL
from mlplatform.ports.store import ObjectStore

from .scripted import Answer, Scripted, refusal


@dataclass(frozen=True)
class Case:
    answer: Answer
    kind: type[MlplatformError]
    says: str
    right: str = ""
    """Of `Denied`: by a put, where Google names no other."""
    hint: str = ""


SA = "robot@project.iam.gserviceaccount.com does not have"
CASES = {
    "bucket": Case(
        refusal(404, "The specified bucket does not exist.", "notFound"),
        ContainerMissing,
        "no such bucket",
        hint="create the bucket",
    ),
    "condition": Case(
        refusal(412, "At least one of the pre-conditions you specified did not hold.", "condition"),
        ConditionFailed,
        "412",
    ),
    "unmodified": Case(Answer(304), ConditionFailed, "304"),
    "policy": Case(
        refusal(412, "Request violates constraint 'constraints/gcp.resourceLocations'"),
        Denied,
        "Access Denied.*constraints/gcp.resourceLocations",
        right="put",
    ),
    "crc32c": Case(
        refusal(400, 'Provided CRC32C "AAAA" doesn\'t match calculated CRC32C "BBBB".', "invalid"),
        DigestMismatch,
        "doesn't match",
    ),
    "requester pays": Case(
        refusal(400, "Bucket is a requester pays bucket but no user project provided."),
        Denied,
        "Access Denied",
        right="put",
        hint="requester_pays=PROJECT",
    ),
    "other 400": Case(refusal(400, "Invalid storage class."), StoreError, "Invalid storage class"),
    "create": Case(
        refusal(403, f"{SA} storage.objects.create access to bucket.", "forbidden"),
        Denied,
        "Access Denied: no right to put .*robot@project",
        right="put",
        hint="storage.objectUser",
    ),
    "overwrite": Case(
        refusal(403, f"{SA} storage.objects.delete access to k.", "forbidden"),
        Denied,
        "Access Denied: no right to delete",
        right="delete",
    ),
    "retention": Case(
        refusal(403, "Object is subject to bucket's retention policy", "retentionPolicyNotMet"),
        Denied,
        "Access Denied.*retention",
        right="put",
        hint="a retention policy or a hold",
    ),
    "billing": Case(
        refusal(403, "The project to be billed is disabled.", "accountDisabled"),
        Denied,
        "Access Denied.*billed",
        right="put",
    ),
    "rate by 403": Case(refusal(403, "Slow.", "rateLimitExceeded"), Throttled, "slow down"),
    "quota": Case(refusal(403, "Over quota.", "quotaExceeded"), StoreFull, "Over quota"),
    "time-out": Case(refusal(408, "Request timeout"), Throttled, "slow down"),
    "conflict": Case(refusal(409, "Conflict", "conflict"), Unavailable, "409"),
    "rate": Case(
        refusal(429, "The object exceeded the rate limit for object mutation operations."),
        Throttled,
        "rate limit",
    ),
    "internal": Case(refusal(500, "We encountered an internal error."), Unavailable, "internal"),
    "gateway": Case(Answer(502, b"<html>Bad Gateway</html>"), Unavailable, "502"),
    "unavailable": Case(refusal(503, "Backend Error", "backendError"), Unavailable, "Backend"),
    "disk": Case(
        refusal(500, "write /data/x: no space left on device"), StoreFull, "no space left"
    ),
    "storage": Case(Answer(507), StoreFull, "507"),
    "redirect": Case(Answer(302, b"", {"Location": "http://127.0.0.1:1/"}), StoreError, "302"),
    "XML": Case(
        Answer(403, b"<?xml version='1.0'?><Error><Code>X</Code><Message>Nope</Message></Error>"),
        Denied,
        r"Access Denied: .*\(Nope\)",
        right="put",
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_refusal(google: Scripted, scripted_store: ObjectStore, case: Case) -> None:
    google.script = lambda asked: case.answer
    with pytest.raises(case.kind, match=case.says) as raised:
        scripted_store.put("k", b"abc")
    assert type(raised.value) is case.kind
    assert "gs://bucket" in str(raised.value)
    if isinstance(raised.value, Denied):
        assert raised.value.right == case.right
    assert case.hint in (raised.value.hint or "")
    assert len(google.asked) == 1, "an adapter never tries again"


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after(google: Scripted, scripted_store: ObjectStore, status: int) -> None:
    """How long to wait travels along."""
    google.script = lambda asked: Answer(status, b"", {"Retry-After": "7"})
    with pytest.raises(Throttled) as raised:
        scripted_store.stat("k")
    assert raised.value.retry_after_seconds == 7.0
    google.script = lambda asked: Answer(429, b"", {"Retry-After": "Sat, 21 Nov 2026 03:36:33 GMT"})
    with pytest.raises(Throttled) as raised:
        scripted_store.stat("k")
    assert raised.value.retry_after_seconds is None


def test_the_missing_right_is_the_verbs_own(google: Scripted, scripted_store: ObjectStore) -> None:
    google.script = lambda asked: refusal(403, "Forbidden")
    verbs: dict[str, Callable[[], object]] = {
        "get": lambda: scripted_store.stat("k"),
        "put": lambda: scripted_store.begin("k", size_bytes=1, part_bytes=1),
        "delete": lambda: scripted_store.delete("k"),
        "list": lambda: list(scripted_store.list("")),
    }
    for right, verb in verbs.items():
        with pytest.raises(Denied, match="Access Denied") as raised:
            verb()
        assert (raised.value.right, raised.value.exit_code) == (right, 4)
    with pytest.raises(Denied) as raised:
        scripted_store.get("k")
    assert raised.value.right == "get"


def test_media_refusals_are_plain_text(google: Scripted, scripted_store: ObjectStore) -> None:
    google.script = lambda asked: Answer(404, b"No such object: bucket/bucket not found")
    with pytest.raises(NotFound, match="no such object") as raised:
        scripted_store.get("bucket not found")
    assert type(raised.value) is NotFound
    assert len(google.asked) == 1


def test_secrets_in_an_answer_stay_there(google: Scripted, scripted_store: ObjectStore) -> None:
    google.script = lambda asked: refusal(
        401, "Bearer ya29.a0AfB_byDEADBEEFdeadbeef is expired: access_token=ya29.a0AfB_byDEADBEEF"
    )
    with pytest.raises(Denied) as raised:
        scripted_store.put("k", b"abc")
    assert "DEADBEEF" not in repr(raised.value) + str(raised.value)


def test_nobody_there() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    store = open_store(StoreURL.parse(f"gs://bucket?endpoint=http://127.0.0.1:{port}"))
    with pytest.raises(Unavailable, match="refused") as raised:
        store.stat("k")
    assert raised.value.__cause__ is not None
