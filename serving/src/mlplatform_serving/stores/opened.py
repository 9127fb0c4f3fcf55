"""From a store's URL to the store. One file a provider, imported when its scheme is wanted; what
all of them share is `obstore`, whose errors become ours here."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from importlib import import_module
from typing import Any

from mlplatform_serving.errors import ServingError
from mlplatform_serving.stores.source import (
    Buffer,
    Damaged,
    NotInStore,
    ObjectReader,
    StoreDenied,
    StoreFailed,
)
from mlplatform_serving.stores.url import StoreURL

MODULES = {
    "file": "mlplatform_serving.stores.local",
    "s3": "mlplatform_serving.stores.s3",
    "gs": "mlplatform_serving.stores.gcs",
    "az": "mlplatform_serving.stores.azure",
}
"""Each has `open_store(url, client)`: what obstore calls a store, and nothing asked of it yet."""
_QUERY = re.compile(r"\?\S*")
_ATTEMPTS = 5
_RETRY_SECONDS = 60
_CONNECT_SECONDS = 10


def open_reader(text: str) -> ObjectReader:
    """The store behind a URL. `StoreURLWrong`, or `StoreFailed` if it cannot be one."""
    url = StoreURL.parse(text)
    try:
        import obstore
    except ImportError:
        raise StoreFailed("obstore is not installed: mlplatform-serving[stores] has it") from None
    client: dict[str, Any] = {
        "connect_timeout": timedelta(seconds=_CONNECT_SECONDS),
        "timeout": timedelta(seconds=url.stall_seconds),
    }
    if (url.endpoint or "").startswith("http:"):
        client["allow_http"] = True
    if bundle := url.options.get("ca_bundle"):
        try:
            with open(bundle, "rb") as file:
                client["root_certificate"] = file.read()
        except OSError as error:
            raise StoreFailed(f"ca_bundle: {bundle}: {error.strerror}") from error
    retry = {
        "max_retries": _ATTEMPTS - 1,
        "retry_timeout": timedelta(seconds=_RETRY_SECONDS),
        "backoff": {
            "init_backoff": timedelta(milliseconds=100),
            "max_backoff": timedelta(seconds=10),
            "base": 2,
        },
    }
    with _translated(str(url)):
        store = import_module(MODULES[url.scheme]).open_store(
            url, {"client_options": client, "retry_config": retry}
        )
        return _Reader(obstore, store, str(url))


class _Reader:
    """See the port."""

    def __init__(self, obstore: Any, store: Any, url: str) -> None:
        self._obstore = obstore
        self._store = store
        self._url = url

    def read(self, key: str, start: int, stop: int) -> Buffer:
        with _translated(self._url, key):
            return memoryview(self._obstore.get_range(self._store, key, start=start, end=stop))

    def read_whole(self, key: str, bytes_max: int) -> bytes:
        with _translated(self._url, key):
            found = self._obstore.get(self._store, key)
            if found.meta["size"] > bytes_max:
                raise Damaged(f"{key} is larger than {bytes_max} bytes")
            return bytes(found.bytes())

    def size_bytes(self, key: str) -> int:
        with _translated(self._url, key):
            return int(self._obstore.head(self._store, key)["size"])

    def folders(self, prefix: str) -> list[str]:
        with _translated(self._url, prefix):
            found = self._obstore.list_with_delimiter(self._store, prefix)
            return sorted(each.rstrip("/").rpartition("/")[2] for each in found["common_prefixes"])


@contextmanager
def _translated(url: str, key: str = "") -> Iterator[None]:
    """Their errors as ours. What they say may hold a request's URL with a signature in it, and many
    lines of their inside: the first line stays, without any query."""
    where = f"{url}: {key}" if key else url
    try:
        yield
    except (ServingError, MemoryError):
        raise
    except FileNotFoundError as error:
        raise NotInStore(f"Model file not found: {where}") from error
    except PermissionError as error:
        raise StoreDenied(f"Access Denied: {where}: {_said(error)}") from error
    except Exception as error:
        kind = type(error).__name__
        if kind in ("PermissionDeniedError", "UnauthenticatedError"):
            raise StoreDenied(f"Access Denied: {where}: {_said(error)}") from None
        raise StoreFailed(f"{where}: {_said(error)}") from None


def _said(error: Exception) -> str:
    first = (str(error).splitlines() or [type(error).__name__])[0]
    return _QUERY.sub("", first)[:300]
