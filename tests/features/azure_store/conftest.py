"""Stores to try: on the stand-in, and on Azurite."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator

import pytest
from azure.storage.blob import BlobServiceClient, ContainerClient

from mlplatform.adapters.azure_blob import AzureBlobStore, open_store
from mlplatform.core.store_url import StoreURL
from tests.real.servers.launch import Endpoint

from .service import ACCOUNT, KEY, StandIn, standing_in

_containers = itertools.count(1)

Opener = Callable[..., AzureBlobStore]


@pytest.fixture
def service() -> Iterator[StandIn]:
    """What a test scripts."""
    with standing_in() as stand_in:
        yield stand_in


@pytest.fixture
def scripted(service: StandIn) -> AzureBlobStore:
    """A store on the stand-in, which checks CRC64 as Azure does."""
    url = f"az://{ACCOUNT}/models?endpoint={service.url}&checksum=crc64&stall_seconds=1"
    return open_store(StoreURL.parse(url), environ={"AZURE_STORAGE_KEY": KEY})


@pytest.fixture
def container(azurite: Endpoint) -> Iterator[ContainerClient]:
    """A fresh container on Azurite, by the SDK."""
    with BlobServiceClient(azurite.url, credential=azurite.secret) as client:
        yield client.create_container(f"azure-store-{os.getpid()}-{next(_containers)}")


@pytest.fixture
def opened(azurite: Endpoint, container: ContainerClient) -> Opener:
    """Opens that container, with more options, below a prefix, or through a proxy."""

    def open_it(options: str = "", *, prefix: str = "", url: str = azurite.url) -> AzureBlobStore:
        name = f"{container.container_name}/{prefix}".rstrip("/")
        asked = f"az://{azurite.user}/{name}?endpoint={url}&{options}"
        return open_store(
            StoreURL.parse(asked.rstrip("&")), environ={"AZURE_STORAGE_KEY": azurite.secret}
        )

    return open_it


@pytest.fixture
def store(opened: Opener) -> AzureBlobStore:
    """A store on a fresh container of Azurite."""
    return opened()
