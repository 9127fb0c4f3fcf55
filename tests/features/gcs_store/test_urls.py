"""What a gs:// URL may say."""

from __future__ import annotations

import pytest

from mlplatform.adapters.gcs import ENDPOINT, open_store
from mlplatform.core.errors import UsageError
from mlplatform.core.store_url import StoreURL


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("gs://", "names no bucket"),
        ("gs:///models", "names no bucket"),
        ("gs://Bucket", "names no bucket"),
        ("gs://bucket:443/models", "names no bucket"),
        ("gs://bucket/a//b", "segment"),
        ("gs://bucket?region=eu", "unknown option 'region'"),
        ("gs://bucket?endpoint=http://gcs.example", "plain HTTP"),
        ("gs://bucket?endpoint=gcs.example", "not an http"),
        ("gs://bucket?stall_seconds=0", "number of seconds"),
        ("gs://bucket?tags=team", "tags='team'"),
        ("gs://bucket?tags=%3Dml", "tags='=ml'"),
        ("gs://bucket?credentials_token=x", "looks like a secret"),
    ],
)
def test_refused(url: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        open_store(StoreURL.parse(url))


def test_opening_asks_nobody() -> None:
    """Neither network nor credentials: other regions go on although this one's are missing."""
    store = open_store(StoreURL.parse("gs://bucket/models?credentials=/no/such/file"))
    assert store.url == "gs://bucket/models"


@pytest.mark.parametrize(
    ("options", "endpoint", "anonymous"),
    [
        ("", ENDPOINT, False),
        ("?endpoint=http://127.0.0.1:4443", "http://127.0.0.1:4443", True),
        ("?endpoint=http://localhost:4443/", "http://localhost:4443", True),
        ("?endpoint=http://[::1]:4443", "http://[::1]:4443", True),
        # Credentials that are asked for are used here, too: a proxy may listen on this machine.
        ("?endpoint=http://127.0.0.1:4443&credentials=f.json", "http://127.0.0.1:4443", False),
        ("?endpoint=https://gcs.example", "https://gcs.example", False),
        ("?endpoint=http://gcs.example&insecure=true", "http://gcs.example", False),
    ],
)
def test_who_is_asked_as_whom(options: str, endpoint: str, anonymous: bool) -> None:
    login = open_store(StoreURL.parse(f"gs://bucket{options}"))._api._login
    assert (login.endpoint, login.anonymous) == (endpoint, anonymous)


def test_the_emulator_variable_means_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that is left over in a shell must not turn a region into an empty emulator."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:1")
    login = open_store(StoreURL.parse("gs://bucket"))._api._login
    assert (login.endpoint, login.anonymous) == (ENDPOINT, False)


def test_keys_leave_room_for_the_prefix() -> None:
    store = open_store(StoreURL.parse("gs://bucket/models?endpoint=http://127.0.0.1:1"))
    with pytest.raises(UsageError, match="with its prefix"):
        store.stat("x" * 1020)
    with pytest.raises(UsageError, match="unfinished uploads"):
        store.put(".mlplatform/uploads/x", b"")
