"""A region's store with versions in it, as the control plane lays them out, of each provider."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from mlplatform.core.digest import digest_of
from mlplatform.ports.store import ObjectStore
from mlplatform_serving.models.progress import Progress
from mlplatform_serving.stores.fetch import Fetched, StoreSource
from tests.conformance.matrix import ROWS
from tests.real.servers.launch import Endpoint
from tests.serving.rig import layers, publish

BLOCK_BYTES = 64 * 1024
PIECES = 40


def weights(seed: int, size: int = BLOCK_BYTES * PIECES + 77) -> bytes:
    """Bytes that no two blocks have the same."""
    import random

    return random.Random(seed).randbytes(size)


def version(folder: Path, name: str, number: str, more: Mapping[str, bytes] | None = None) -> Path:
    """A version that loads, with a file of many blocks, an empty one, and one with a hard name."""
    files = {
        **layers(),
        "weights/pad.bin": weights(len(number)),
        "empty": b"",
        "notes, 100% of them (é).txt": b"?",
        **(more or {}),
    }
    publish(folder, name, number, files, block_bytes=BLOCK_BYTES)
    return folder / name / number


class Shelf:
    """One store, and how to reach it."""

    def __init__(self, url: str, store: ObjectStore) -> None:
        self.url = url
        self._store = store

    def put(self, folder: Path) -> None:
        """A published version, by the control plane's own adapter."""
        prefix = f"models/{folder.parent.name}/{folder.name}/"
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.put_object(prefix + path.relative_to(folder).as_posix(), path.read_bytes())

    def put_object(self, key: str, body: bytes) -> None:
        self._store.put(key, body, digests=digest_of(body))

    def source(self, **options: Any) -> StoreSource:
        return StoreSource(self.url, **options)

    def preload(self, folder: Path, name: str = "net", number: str = "v1") -> Fetched:
        return self.source().preload(name, number, folder, Progress())


def local_shelf(root: Path) -> Shelf:
    from mlplatform.adapters.local import LocalStore

    root.mkdir(parents=True, exist_ok=True)
    return Shelf(f"file://{root}", LocalStore(root))


def open_shelf(
    server: str, endpoint: Any, monkeypatch: pytest.MonkeyPatch, *, at: str | None = None
) -> Shelf:
    """A container of its own on a running server, reached at its address or at another."""
    row = next(row for row in ROWS if row.server == server)
    container = f"shelf-{secrets.token_hex(6)}"
    row.create(endpoint, container)
    url = at or endpoint.url
    for name, value in credentials(server, endpoint).items():
        monkeypatch.setenv(name, value)
    urls: dict[str, Callable[[], str]] = {
        "minio": lambda: f"s3://{container}?endpoint={url}&region=us-east-1",
        "fake-gcs-server": lambda: f"gs://{container}?endpoint={url}",
        "azurite": lambda: f"az://{endpoint.user}/{container}?endpoint={url}",
    }
    return Shelf(urls[server](), row.open(endpoint, container))


def credentials(server: str, endpoint: Endpoint) -> dict[str, str]:
    """What a server's environment has to say to be let in."""
    if server == "minio":
        return {"AWS_ACCESS_KEY_ID": endpoint.user, "AWS_SECRET_ACCESS_KEY": endpoint.secret}
    if server == "azurite":
        return {"AZURE_STORAGE_KEY": endpoint.secret}
    return {}


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by its path."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
