"""Which servers the store suite runs on, and which clauses each of them does not uphold.

A row for a new server is one `Row`: the session fixture that starts it, how to make a container
there, and how to open a store on that container.

`breaks` maps clauses that the server is known not to uphold to the reason. A clause is a test
function without its "test_"; one case of a parametrised one is `odd_key[a b/c d.txt]`. Such a
clause still runs, and has to fail: when the server has been mended, the run says so and the entry
goes. A clause that some server of a scheme breaks and none upholds is printed as unproven.
"""

from __future__ import annotations

import json
import threading
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from botocore.session import Session

from mlplatform.adapters import azure_blob, gcs, memory, s3
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


_TURN = threading.RLock()


def _in_turn(ask: Callable[..., Any]) -> Callable[..., Any]:
    """The same, one call at a time, whoever's store it is."""

    def asked(*told: Any, **named: Any) -> Any:
        with _TURN:
            return ask(*told, **named)

    return asked


def gcs_row(
    server: str, breaks: Mapping[str, str], *, serial: bool = False, stall_seconds: int = 30
) -> Row:
    """A GCS emulator. Each tells another part of the truth. A serial one serves one request at a
    time and resets whom it lets wait, so that nobody is sent to wait there."""

    def create(endpoint: Any, container: str) -> None:
        request = urllib.request.Request(
            f"{endpoint.url}/storage/v1/b?project=conformance",
            json.dumps({"name": container}).encode(),
            {"Content-Type": "application/json"},
        )
        urllib.request.urlopen(request).close()

    def reopen(endpoint: Any, container: str) -> ObjectStore:
        url = f"gs://{container}?endpoint={endpoint.url}&stall_seconds={stall_seconds}"
        store = gcs.open_store(StoreURL.parse(url))
        if serial:
            store._api.open = _in_turn(store._api.open)  # type: ignore[method-assign]
        return store

    return Row(server, "gs", reopen, create, server.replace("-", "_"), breaks)


def s3_row(server: str, breaks: Mapping[str, str], *, serial: bool = False) -> Row:
    """An S3 server, reached with its own credentials whatever this machine's are. A serial one
    looks at a condition first and writes then, so that of two at once both may win now and then: it
    is sent one at a time, and what a race comes to is shown by the others."""

    def session(endpoint: Any) -> Session:
        session = Session()
        session.set_credentials(endpoint.user, endpoint.secret)
        return session

    def create(endpoint: Any, container: str) -> None:
        session(endpoint).create_client(
            "s3", region_name="us-east-1", endpoint_url=endpoint.url
        ).create_bucket(Bucket=container)

    def reopen(endpoint: Any, container: str) -> ObjectStore:
        url = f"s3://{container}?endpoint={endpoint.url}"
        store = s3.open_store(StoreURL.parse(url), session=session(endpoint))
        if serial:
            store.put = _in_turn(store.put)  # type: ignore[method-assign]
            store._call = _in_turn(store._call)  # type: ignore[method-assign]
        return store

    return Row(server, "s3", reopen, create, server, breaks)


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
    gcs_row(
        "fake-gcs-server",
        {
            "stale_tag_refuses_a_delete": "deletes whatever the generation",
            **dict.fromkeys(
                (
                    "create_only_complete",
                    "stale_tag_refuses_a_complete",
                    "tag_of_nothing_refuses_a_complete",
                    "race_to_complete",
                    "refused_complete_can_be_mended",
                ),
                "composes whatever the generation",
            ),
        },
    ),
    gcs_row(
        "gcp-storage-emulator",
        {
            **dict.fromkeys(
                (
                    "create_only",
                    "create_only_also_for_equal_bytes",
                    "create_only_empty_object",
                    "stale_tag_refuses_a_put",
                    "tag_of_nothing_refuses_a_put",
                    "tag_of_a_deleted_object_is_stale",
                    "race_to_create",
                    "race_to_replace",
                    "no_update_is_lost",
                    "stale_tag_refuses_a_delete",
                    "create_only_complete",
                    "stale_tag_refuses_a_complete",
                    "tag_of_nothing_refuses_a_complete",
                    "race_to_complete",
                    "refused_complete_can_be_mended",
                ),
                "knows no conditions",
            ),
            "megabytes": "states no generation on reading, and answers nobody until all is read",
        },
        serial=True,
        stall_seconds=5,
    ),
    gcs_row(
        "gcsemulator",
        {
            **dict.fromkeys(
                (
                    "wrong_digests_refuse_a_put",
                    "wrong_digests_change_nothing",
                    "digests_are_checked_beside_a_condition",
                    "either_digest_is_enough[crc32c]",
                    "wrong_digests_refuse_a_part",
                ),
                "checks no digest, and states the one that it was told",
            ),
            **dict.fromkeys(("span", "span_ends_where_it_should"), "knows no ranges"),
            "list_more_than_a_page": "a shallow listing repeats a folder on the next page",
            "missing_container_on_writing": "makes a bucket when it is written to",
        },
    ),
    azurite_row({"abort": "no Azure API has a verb that drops staged blocks; they expire"}),
    s3_row("minio", {"key_below_a_key": "takes it, gives it back, and lists the upper one only"}),
    s3_row("versitygw", {"key_below_a_key": "a file cannot be a folder"}),
    s3_row(
        "moto",
        {
            **dict.fromkeys(
                ("stale_tag_refuses_a_complete", "tag_of_nothing_refuses_a_complete"),
                "heeds create-only on completion, but no tag",
            ),
            "pinned_range_copy": "copies whatever the tag",
            "complete_refuses_wrong_digests": "knows no digests",
        },
        serial=True,
    ),
)
