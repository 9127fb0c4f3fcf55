"""`az://account/container/prefix`: Azure Blob Storage. A key or SAS from the environment, under the
names of the `az` command (AZURE_STORAGE_KEY, AZURE_STORAGE_SAS_TOKEN, each perhaps with `_ACCOUNT`
in capitals after it, AZURE_STORAGE_CONNECTION_STRING); else a workload's or a machine's identity.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from obstore.store import AzureStore

from mlplatform_serving.stores.url import StoreURL


def open_store(
    url: StoreURL, client: dict[str, Any], *, environ: Mapping[str, str] = os.environ
) -> Any:
    """The container; nothing is asked of it."""
    account = url.authority
    container, _, prefix = url.path.strip("/").partition("/")
    options: dict[str, Any] = {**client, "account_name": account, **_secret(account, environ)}
    if url.endpoint is not None:
        options["endpoint"] = url.endpoint
    return AzureStore(container, prefix=prefix or None, **options)


def _secret(account: str, environ: Mapping[str, str]) -> dict[str, str]:
    """A key or a SAS for this account; nothing where the machine's identity is to be used."""
    own = f"_{account.upper()}"
    generic = environ.get("AZURE_STORAGE_ACCOUNT", account) == account
    for suffix in (own, "") if generic else (own,):
        connection = dict(
            each.split("=", 1)
            for each in environ.get(f"AZURE_STORAGE_CONNECTION_STRING{suffix}", "").split(";")
            if "=" in each
        )
        if connection.get("AccountName", account) != account:
            connection = {}
        key = environ.get(f"AZURE_STORAGE_KEY{suffix}") or connection.get("AccountKey")
        if key:
            return {"account_key": key}
        sas = environ.get(f"AZURE_STORAGE_SAS_TOKEN{suffix}") or connection.get(
            "SharedAccessSignature"
        )
        if sas:
            return {"sas_key": sas.lstrip("?")}
    return {}
