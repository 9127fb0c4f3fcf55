"""What the tests of the GCS adapter share."""

from __future__ import annotations

import itertools
import json
import os
import urllib.request
from collections.abc import Callable, Iterator

import pytest

from mlplatform.adapters.gcs import GCSStore, open_store
from mlplatform.core.store_url import StoreURL
from tests.real.servers.launch import Endpoint

from .scripted import Scripted, scripted

_buckets = itertools.count(1)


@pytest.fixture
def google() -> Iterator[Scripted]:
    """A server that answers as it is told."""
    with scripted() as server:
        yield server


@pytest.fixture
def scripted_store(google: Scripted) -> GCSStore:
    """A store on it."""
    return open_store(StoreURL.parse(f"gs://bucket?endpoint={google.url}&stall_seconds=5"))


@pytest.fixture
def bucket(fake_gcs_server: Endpoint) -> str:
    """A fresh bucket on fake-gcs-server."""
    name = f"gcs-store-{os.getpid()}-{next(_buckets)}"
    request = urllib.request.Request(
        f"{fake_gcs_server.url}/storage/v1/b?project=test",
        json.dumps({"name": name}).encode(),
        {"Content-Type": "application/json"},
    )
    urllib.request.urlopen(request).close()
    return name


@pytest.fixture
def reopen(fake_gcs_server: Endpoint, bucket: str) -> Callable[[], GCSStore]:
    """Opens a store on that bucket, each time as another process would."""
    url = StoreURL.parse(f"gs://{bucket}/some/prefix?endpoint={fake_gcs_server.url}")
    return lambda: open_store(url)


@pytest.fixture
def store(reopen: Callable[[], GCSStore]) -> GCSStore:
    """A store on a fresh bucket of fake-gcs-server, below a prefix."""
    return reopen()
