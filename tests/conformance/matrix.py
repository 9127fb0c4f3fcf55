"""Which servers the store suite runs on, and which clauses each of them does not uphold.

A row for a new server is one `Row`: the session fixture that starts it, how to make a container
there, and how to open a store on that container.

`breaks` maps clauses that the server is known not to uphold to the reason. A clause is a test
function without its "test_"; one case of a parametrised one is `odd_key[a b/c d.txt]`. Such a
clause still runs, and has to fail: when the server has been mended, the run says so and the entry
goes. A clause that some server of a scheme breaks and none upholds is printed as unproven.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mlplatform.adapters import azure_blob, memory
from mlplatform.adapters.local import LocalStore
from mlplatform.adapters.memory import MemoryStore
from mlplatform.core.digest import Evidence
from mlplatform.core.store_url import StoreURL
from mlplatform.ports.store import ObjectStore, RangeCopy, StoreFeatures


def nothing(server: Any, container: str) -> None:
    """For servers whose containers need no making."""


@dataclass(frozen=True)
class Row:
    """One server (or dialect of one), under one adapter."""

    server: str
    scheme: str
    open: Callable[[Any, str], ObjectStore]
    """A new store object on the container of that name, which may not exist. Opened twice, the two
    see the same objects, as two processes would."""
    create: Callable[[Any, str], None] = nothing
    fixture: str | None = None
    """The session fixture that gives the server; without one `open` gets a fresh folder."""
    breaks: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.server


def memory_row(server: str, *, breaks: Mapping[str, str] | None = None, **options: Any) -> Row:
    """A dialect of the memory store. It has no processes: two stores on a container are one."""
    containers: dict[str, MemoryStore] = {}

    def create(_: Any, container: str) -> None:
        containers[container] = MemoryStore(container, **options)

    def reopen(_: Any, container: str) -> ObjectStore:
        if container not in containers:
            missing = MemoryStore(container, **options)
            missing.drop()
            return missing
        return containers[container]

    return Row(server, "memory", reopen, create, breaks=breaks or {})


def make_folder(root: Path, container: str) -> None:
    (root / container / "store").mkdir(parents=True)


def open_folder(root: Path, container: str) -> ObjectStore:
    """Without `make_folder` the parent is missing too: otherwise the first write would make it."""
    return LocalStore(root / container / "store")


def azurite_row(breaks: Mapping[str, str]) -> Row:
    """Azurite: no CRC64, no Put Block From URL."""

    def create(endpoint: Any, container: str) -> None:
        from azure.storage.blob import BlobServiceClient

        with BlobServiceClient(endpoint.url, credential=endpoint.secret) as client:
            client.create_container(container)

    def reopen(endpoint: Any, container: str) -> ObjectStore:
        return azure_blob.open_store(
            StoreURL.parse(f"az://{endpoint.user}/{container}?endpoint={endpoint.url}"),
            environ={"AZURE_STORAGE_KEY": endpoint.secret},
        )

    return Row("azurite", "az", reopen, create, "azurite", breaks)


ROWS: tuple[Row, ...] = (
    memory_row("memory"),
    memory_row(
        "memory-like-azure",
        features=StoreFeatures(evidence=Evidence.STORE_PARTS),
        states=(memory.CRC64NVME,),
    ),
    memory_row(
        "memory-like-gcs",
        features=replace(memory.FEATURES, conditional_delete=False),
        states=(memory.CRC32C,),
    ),
    memory_row(
        "memory-like-old-s3",
        features=StoreFeatures(
            evidence=Evidence.READ_BACK,
            conditional_put=False,
            conditional_complete=False,
            conditional_delete=False,
            range_copy=RangeCopy.READ_BACK,
            part_bytes_min=100_000,
        ),
        breaks={"complete_refuses_wrong_digests": "this dialect knows no digest of an upload"},
    ),
    Row(
        "file",
        "file",
        open_folder,
        make_folder,
        breaks={"key_below_a_key": "a file cannot be a folder"},
    ),
    azurite_row({"abort": "no Azure API has a verb that drops staged blocks; they expire"}),
)
