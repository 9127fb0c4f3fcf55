"""`file:///srv/mlplatform/us-east-1`: a folder, as the control plane's own local store has it."""

from __future__ import annotations

from typing import Any

from obstore.store import LocalStore

from mlplatform_serving.stores.url import StoreURL


def open_store(url: StoreURL, client: dict[str, Any]) -> Any:  # noqa: ARG001 - it has no connection
    """The folder; it need not be there yet."""
    return LocalStore(prefix=url.path)
