"""What a store URL says, and whose credentials it is opened with."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import pytest
from azure.core.credentials import AccessToken

from mlplatform.adapters import azure_blob
from mlplatform.adapters.azure_blob import open_store
from mlplatform.core.errors import UsageError
from mlplatform.core.store_url import StoreURL

KEY = base64.b64encode(b"key of the account").decode()
OTHER = base64.b64encode(b"key of another one").decode()
SAS = "sv=2021-12-02&sr=c&sig=c2VjcmV0"


def credentials_of(environ: Mapping[str, str], account: str = "modelseu") -> tuple[str, str]:
    """What kind of credential, and which."""
    key, sas, _ = azure_blob._key_or_sas(account, environ)
    return ("key", key) if key else ("sas", sas) if sas else ("none", "")


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, ("none", "")),
        ({"AZURE_STORAGE_KEY": KEY}, ("key", KEY)),
        ({"AZURE_STORAGE_SAS_TOKEN": SAS}, ("sas", SAS)),
        ({"AZURE_STORAGE_KEY": KEY, "AZURE_STORAGE_ACCOUNT": "modelseu"}, ("key", KEY)),
        ({"AZURE_STORAGE_KEY": KEY, "AZURE_STORAGE_ACCOUNT": "modelsus"}, ("none", "")),
        ({"AZURE_STORAGE_KEY": OTHER, "AZURE_STORAGE_KEY_MODELSEU": KEY}, ("key", KEY)),
        ({"AZURE_STORAGE_KEY": OTHER, "AZURE_STORAGE_SAS_TOKEN_MODELSEU": SAS}, ("sas", SAS)),
        ({"AZURE_STORAGE_KEY_MODELSUS": OTHER}, ("none", "")),
        (
            {"AZURE_STORAGE_CONNECTION_STRING": f"AccountName=modelseu;AccountKey={KEY}"},
            ("key", KEY),
        ),
        (
            {"AZURE_STORAGE_CONNECTION_STRING": f"AccountName=modelsus;AccountKey={KEY}"},
            ("none", ""),
        ),
        (
            {
                "AZURE_STORAGE_CONNECTION_STRING": "BlobEndpoint=https://modelseu.blob.core.windows"
                f".net/;SharedAccessSignature={SAS}"
            },
            ("sas", SAS),
        ),
    ],
)
def test_credentials_from_the_environment(
    environ: Mapping[str, str], expected: tuple[str, str]
) -> None:
    """For this account, and not another's."""
    assert credentials_of(environ) == expected


def test_two_accounts_at_once() -> None:
    """Regions lie in accounts of their own."""
    environ = {"AZURE_STORAGE_KEY_MODELSEU": KEY, "AZURE_STORAGE_KEY_MODELSUS": OTHER}
    assert credentials_of(environ, "modelseu") == ("key", KEY)
    assert credentials_of(environ, "modelsus") == ("key", OTHER)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("az://modelseu", "container"),
        ("az:///models", "account"),
        ("az://Models-EU/models", "account"),
        ("az://modelseu/Models", "container"),
        ("az://modelseu/models?colour=blue", "unknown option 'colour'"),
        ("az://modelseu/models?endpoint=http://blob.example", "plain HTTP"),
        ("az://modelseu/models?checksum=sha1", "neither crc64 nor md5"),
        ("az://modelseu/models?stall_seconds=soon", "stall_seconds"),
        ("az://modelseu/models?tags=prod", "tags"),
        ("az://modelseu/models/a/../b", "segment"),
    ],
)
def test_a_url_that_cannot_be_right(text: str, says: str) -> None:
    """Said at once, and with what to write."""
    with pytest.raises(UsageError, match=says):
        open_store(StoreURL.parse(text), environ={"AZURE_STORAGE_KEY": KEY})


def test_plain_http_when_it_is_asked_for() -> None:
    """A private network, by the operator's word."""
    url = "az://modelseu/models?endpoint=http://blob.example&insecure=true"
    store = open_store(StoreURL.parse(url), environ={"AZURE_STORAGE_KEY": KEY})
    assert store.url == "az://modelseu/models"


def test_a_connection_string_names_an_endpoint() -> None:
    """Which is held to the same rules."""
    environ = {
        "AZURE_STORAGE_CONNECTION_STRING": f"AccountName=modelseu;AccountKey={KEY};"
        "BlobEndpoint=http://blob.example/modelseu"
    }
    with pytest.raises(UsageError, match="plain HTTP"):
        open_store(StoreURL.parse("az://modelseu/models"), environ=environ)


def test_no_token_over_plain_http() -> None:
    """It would be anybody's."""
    url = "az://modelseu/models?endpoint=http://127.0.0.1:1/modelseu"
    with pytest.raises(UsageError, match="HTTPS only") as raised:
        open_store(StoreURL.parse(url), environ={})
    assert "AZURE_STORAGE_KEY" in (raised.value.hint or "")


def test_a_key_that_is_none() -> None:
    """And is not repeated."""
    with pytest.raises(UsageError, match="not base64") as raised:
        open_store(
            StoreURL.parse("az://modelseu/models"), environ={"AZURE_STORAGE_KEY": "hush hush!"}
        )
    assert "hush" not in str(raised.value)


def test_identities_are_selected_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """By client and tenant; what they are is the SDK's own chain."""
    made: list[dict[str, Any]] = []
    asked: list[dict[str, Any]] = []

    class Chain:
        def __init__(self, **options: Any) -> None:
            made.append(options)

        def get_token(self, *scopes: str, **options: Any) -> AccessToken:
            asked.append({"scopes": scopes, **options})
            return AccessToken("token", 0)

    monkeypatch.setattr("azure.identity.DefaultAzureCredential", Chain)
    open_store(StoreURL.parse("az://modelseu/models"), environ={})
    open_store(StoreURL.parse("az://modelseu/models?client_id=c1&tenant_id=t1"), environ={})
    assert made == [
        {},
        {
            "managed_identity_client_id": "c1",
            "workload_identity_client_id": "c1",
            "additionally_allowed_tenants": ["t1"],
        },
    ]
    azure_blob._identity("c1", "t1").get_token("scope")
    assert asked == [{"scopes": ("scope",), "tenant_id": "t1"}]
