"""Azurite behind bad weather: failures are `Unavailable`, in bounded time; nothing is lost."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from mlplatform.adapters.azure_blob import AzureBlobStore
from mlplatform.core.digest import digest_of
from mlplatform.core.errors import Unavailable
from mlplatform.ports.store import ABSENT, exists, read_bytes
from tests.real.servers.launch import Endpoint
from tests.real.servers.toxics import Line, between

from .conftest import Opener

pytestmark = pytest.mark.xdist_group("azurite")

BODY = bytes(range(256)) * 16_000
STALL_SECONDS = 2
SOON_SECONDS = 30


@pytest.fixture
def line(toxiproxy: Endpoint, azurite: Endpoint) -> Iterator[Line]:
    with between(toxiproxy, azurite) as line:
        yield line


@pytest.fixture
def far(opened: Opener, line: Line) -> AzureBlobStore:
    """The container, by way of the proxy; patient with a busy machine."""
    return opened(f"stall_seconds={SOON_SECONDS}", url=line.url)


@pytest.fixture
def hasty(opened: Opener, line: Line) -> AzureBlobStore:
    """The same, for lines that stall."""
    return opened(f"stall_seconds={STALL_SECONDS}", url=line.url)


def unavailable(far: AzureBlobStore) -> list[Unavailable]:
    """What each verb says, soon."""
    upload = far.begin("new", size_bytes=len(BODY), part_bytes=len(BODY))
    found = []
    for verb in (
        lambda: far.put("new", BODY),
        lambda: upload.part(0, BODY, digests=digest_of(BODY)),
        lambda: read_bytes(far, "k"),
        lambda: far.stat("k"),
        lambda: list(far.list("")),
        lambda: far.delete("another"),  # it may take effect
        upload.parts,
    ):
        started = time.monotonic()
        with pytest.raises(Unavailable) as raised:
            verb()
        assert time.monotonic() - started < SOON_SECONDS
        found.append(raised.value)
    return found


def test_a_line_that_is_cut(far: AzureBlobStore, line: Line, store: AzureBlobStore) -> None:
    """Refused connections; then it goes on as if nothing had been."""
    far.put("k", BODY)
    line.cut()
    assert all(error.retryable for error in unavailable(far))
    line.calm()
    assert read_bytes(far, "k")[0] == BODY


def test_a_line_that_stalls(hasty: AzureBlobStore, line: Line, store: AzureBlobStore) -> None:
    """Nothing closes, nothing comes."""
    store.put("k", BODY)
    line.add("timeout", timeout=0)
    line.add("timeout", "upstream", timeout=0)
    assert all("nothing came or went for 2 s" in str(error) for error in unavailable(hasty))
    line.calm()
    assert read_bytes(hasty, "k")[0] == BODY


def test_a_line_that_resets(far: AzureBlobStore, line: Line, store: AzureBlobStore) -> None:
    """In the middle of whatever it is."""
    far.put("k", BODY)
    line.add("reset_peer", timeout=0)
    unavailable(far)
    line.calm()
    assert read_bytes(far, "k")[0] == BODY


def test_a_download_that_stalls_half_way(
    hasty: AzureBlobStore, line: Line, store: AzureBlobStore
) -> None:
    """After its headers and a part of its bytes."""
    store.put("k", BODY)
    buffer = memoryview(bytearray(len(BODY)))
    line.add("bandwidth", rate=500)
    with hasty.get("k") as body:
        line.add("timeout", timeout=0)
        with pytest.raises(Unavailable):
            body.readinto(buffer)


def test_an_answer_that_ends_early(far: AzureBlobStore, line: Line) -> None:
    """Half an object is no object."""
    far.put("k", BODY)
    line.add("limit_data", bytes=1_000_000)
    with pytest.raises(Unavailable):
        read_bytes(far, "k")


def test_an_upload_that_ends_early(far: AzureBlobStore, line: Line, store: AzureBlobStore) -> None:
    """Leaves nothing of itself, and the parts before it."""
    upload = far.begin("k", size_bytes=2 * len(BODY), part_bytes=len(BODY))
    first = upload.part(0, BODY, digests=digest_of(BODY))
    line.add("limit_data", "upstream", bytes=1_000_000)
    with pytest.raises(Unavailable):
        upload.part(1, BODY, digests=digest_of(BODY))
    with pytest.raises(Unavailable):
        far.put("whole", BODY)
    line.calm()
    assert not exists(store, "whole")
    assert upload.parts() == [first]
    second = upload.part(1, BODY, digests=digest_of(BODY))
    upload.complete([first, second], digests=digest_of(BODY * 2), when=ABSENT)
    assert read_bytes(store, "k")[0] == BODY * 2


def test_a_slow_upload_is_not_a_stalled_one(opened: Opener, line: Line) -> None:
    """Though a socket's time-out is for all that one call sends."""
    far = opened("stall_seconds=5", url=line.url)
    line.add("bandwidth", "upstream", rate=10_000)
    started = time.monotonic()
    far.put("k", BODY * 16, digests=digest_of(BODY * 16))
    assert time.monotonic() - started > 5.5


def test_a_slow_download_is_not_a_stalled_one(
    hasty: AzureBlobStore, line: Line, store: AzureBlobStore
) -> None:
    """Though it takes longer than the longest silence allowed."""
    store.put("k", BODY)
    line.add("bandwidth", rate=1500)
    started = time.monotonic()
    assert read_bytes(hasty, "k")[0] == BODY
    assert time.monotonic() - started > STALL_SECONDS


def test_sliced_packets(far: AzureBlobStore, line: Line) -> None:
    """Reads come in crumbs."""
    line.add("slicer", average_size=700, size_variation=300, delay=0)
    far.put("k", BODY[:300_000])
    assert read_bytes(far, "k")[0] == BODY[:300_000]
