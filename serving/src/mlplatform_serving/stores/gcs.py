"""`gs://bucket/prefix`: Google Cloud Storage. Credentials are Google's own chain's
(GOOGLE_APPLICATION_CREDENTIALS, the metadata server). An endpoint on this machine is asked without.
"""

from __future__ import annotations

from typing import Any

from obstore.store import GCSStore

from mlplatform_serving.stores.url import StoreURL


def open_store(url: StoreURL, client: dict[str, Any]) -> Any:
    """The bucket; nothing is asked of it."""
    options: dict[str, Any] = dict(client)
    if url.endpoint is not None:
        options["base_url"] = url.endpoint
        options["skip_signature"] = url.on_this_machine
    return GCSStore(url.authority, prefix=url.path.strip("/") or None, **options)
