"""Who asks, and what happens when that is nobody, or no longer anybody."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import google.auth.impersonated_credentials
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from mlplatform.adapters.gcs import GCSStore, open_store
from mlplatform.core.errors import Denied, Unavailable
from mlplatform.core.store_url import StoreURL
from mlplatform.ports.store import ABSENT

from .scripted import OBJECT, Answer, Asked, Scripted, refusal, scripted

TOKENS = ("ya29.first-token-1234567890", "ya29.second-token-1234567890")


@pytest.fixture(scope="module")
def key() -> str:
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()


@pytest.fixture
def tokens() -> Iterator[Scripted]:
    """A token endpoint that gives out one token after the other."""
    with scripted() as server:
        fresh = iter(TOKENS)
        server.script = lambda asked: Answer(
            200, {"access_token": next(fresh), "expires_in": 3600, "token_type": "Bearer"}
        )
        yield server


@pytest.fixture
def account(key: str, tokens: Scripted, tmp_path: Path) -> Path:
    """A service account's key file, whose tokens come from `tokens`."""
    path = tmp_path / "account.json"
    path.write_text(
        json.dumps(
            {
                "type": "service_account",
                "client_email": "robot@project.iam.gserviceaccount.com",
                "private_key": key,
                "private_key_id": "1",
                "token_uri": f"{tokens.url}/token",
            }
        )
    )
    return path


@pytest.fixture
def reach(google: Scripted, account: Path) -> Callable[[str], GCSStore]:
    """Opens a store on `google` as that account."""
    base = f"gs://bucket?endpoint={google.url}&credentials={account}&stall_seconds=5"
    return lambda options: open_store(StoreURL.parse(base + options))


def test_a_credentials_file(google: Scripted, reach: Callable[[str], GCSStore]) -> None:
    """Its token travels with each request, and the project that pays for the quota."""
    store = reach("&project=quota")
    store.stat("k")
    store.put("k", b"abc")
    assert {asked.headers["authorization"] for asked in google.asked} == {f"Bearer {TOKENS[0]}"}
    assert {asked.headers["x-goog-user-project"] for asked in google.asked} == {"quota"}


def test_a_token_that_expired_early(google: Scripted, reach: Callable[[str], GCSStore]) -> None:
    """The request did nothing, so that it is sent again with a new token, body and all."""

    def script(asked: Asked) -> Answer:
        if TOKENS[0] in asked.headers["authorization"]:
            return refusal(401, "Invalid Credentials", "authError")
        return Answer(200, OBJECT | {"size": str(len(body)), "crc32c": ""})

    body = bytes(300_000)
    google.script = script
    reach("").put("k", body, when=ABSENT)
    assert [asked.media for asked in google.asked] == [body, body]


def test_credentials_that_were_revoked(
    google: Scripted, tokens: Scripted, reach: Callable[[str], GCSStore]
) -> None:
    """In the middle of a transfer, too."""
    store = reach("")
    store.stat("k")
    google.script = lambda asked: refusal(401, "Invalid Credentials", "authError")
    tokens.script = lambda asked: Answer(
        400, {"error": "invalid_grant", "error_description": "Account has been deleted"}
    )
    with pytest.raises(Denied, match=r"Access Denied.*invalid_grant") as raised:
        store.put("k", b"abc")
    assert raised.value.right == "put"
    assert "log in" in (raised.value.hint or "")
    assert TOKENS[0] not in str(raised.value)


def test_credentials_that_are_refused_for_good(
    google: Scripted, tokens: Scripted, reach: Callable[[str], GCSStore]
) -> None:
    """New tokens do not help either."""
    tokens.script = lambda asked: Answer(200, {"access_token": "t", "expires_in": 3600})
    google.script = lambda asked: refusal(401, "Invalid Credentials", "authError")
    with pytest.raises(Denied, match="Invalid Credentials"):
        reach("").stat("k")
    assert len(google.asked) == 2


def test_no_token_to_be_had(tokens: Scripted, reach: Callable[[str], GCSStore]) -> None:
    """A token endpoint that is down says nothing about our rights."""
    tokens.server_close()
    with pytest.raises(Unavailable, match="no token could be had"):
        reach("").stat("k")


@pytest.mark.parametrize("content", [None, "", "{}", '{"type": "service_account"}'])
def test_a_credentials_file_that_is_none(content: str | None, tmp_path: Path) -> None:
    path = tmp_path / "credentials.json"
    if content is not None:
        path.write_text(content)
    store = open_store(StoreURL.parse(f"gs://bucket?credentials={path}"))
    with pytest.raises(Denied, match="Access Denied") as raised:
        store.put("k", b"abc")
    assert (raised.value.right, raised.value.exit_code) == ("put", 4)


def test_no_credentials_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said at the first request, with what to do, and soon."""
    for name in ("GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_CLOUD_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    store = open_store(StoreURL.parse("gs://bucket"))
    started = time.monotonic()
    with pytest.raises(Denied, match="Access Denied") as raised:
        store.stat("k")
    assert "gcloud auth" in (raised.value.hint or "")
    assert time.monotonic() - started < 10


def test_impersonation(reach: Callable[[str], GCSStore]) -> None:
    """The account's token asks for one of the other account, for objects alone."""
    found = reach("&impersonate=other@project.iam.gserviceaccount.com")._api._login.load()
    assert isinstance(found, google.auth.impersonated_credentials.Credentials)
    assert found.service_account_email == "other@project.iam.gserviceaccount.com"
    assert found._target_scopes == ["https://www.googleapis.com/auth/devstorage.read_write"]
    assert found._source_credentials.scopes != found._target_scopes
