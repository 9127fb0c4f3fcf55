"""`s3://bucket/prefix?endpoint=…&region=…`: Amazon S3 and what speaks like it. Credentials are
those of the environment (AWS_ACCESS_KEY_ID …), of a web identity, a container or an instance."""

from __future__ import annotations

from typing import Any

from obstore.store import S3Store

from mlplatform_serving.stores.url import StoreURL

_REGION = "us-east-1"


def open_store(url: StoreURL, client: dict[str, Any]) -> Any:
    """The bucket; nothing is asked of it."""
    options: dict[str, Any] = dict(client)
    if url.endpoint is not None:
        options["endpoint"] = url.endpoint
        options["virtual_hosted_style_request"] = False
        options["region"] = url.options.get("region", _REGION)
    elif "region" in url.options:
        options["region"] = url.options["region"]
    return S3Store(url.authority, prefix=url.path.strip("/") or None, **options)
