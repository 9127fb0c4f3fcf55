"""Bad lines between us and the store: an error that may be tried again, in bounded time."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from mlplatform.adapters.gcs import GCSStore, open_store
from mlplatform.core.digest import digest_of
from mlplatform.core.errors import Unavailable
from mlplatform.core.store_url import StoreURL
from mlplatform.ports.store import ABSENT, Body, exists, read_bytes
from tests.real.servers.launch import Endpoint
from tests.real.servers.toxics import Line, between

STALL_SECONDS = 2
SOON_SECONDS = 30
BODY = bytes(range(256)) * 32 * 1024  # 8 MiB


@pytest.fixture
def line(toxiproxy: Endpoint, fake_gcs_server: Endpoint) -> Iterator[Line]:
    with between(toxiproxy, fake_gcs_server) as between_us:
        yield between_us


@pytest.fixture
def far(line: Line, bucket: str) -> GCSStore:
    """The store, by way of that line; patient with a busy machine."""
    url = f"gs://{bucket}?endpoint={line.url}&stall_seconds={SOON_SECONDS}"
    return open_store(StoreURL.parse(url))


@pytest.fixture
def hasty(line: Line, bucket: str) -> GCSStore:
    """The same, for lines that stall."""
    url = f"gs://{bucket}?endpoint={line.url}&stall_seconds={STALL_SECONDS}"
    return open_store(StoreURL.parse(url))


def read_to_the_end(body: Body) -> None:
    buffer = memoryview(bytearray(1024 * 1024))
    while body.readinto(buffer):
        pass


def unavailable_soon(store: GCSStore, line: Line) -> None:
    """Every verb fails as `Unavailable`, soon, and works again when the line does."""
    for verb in (
        lambda: store.put("new", BODY),
        lambda: store.stat("k"),
        lambda: read_bytes(store, "k"),
        lambda: list(store.list("")),
        lambda: store.delete("other"),
    ):
        started = time.monotonic()
        with pytest.raises(Unavailable):
            verb()
        assert time.monotonic() - started < SOON_SECONDS
    line.calm()
    assert read_bytes(store, "k")[0] == BODY


def test_cut(far: GCSStore, line: Line) -> None:
    far.put("k", BODY)
    line.cut()
    unavailable_soon(far, line)


def test_reset(far: GCSStore, line: Line) -> None:
    far.put("k", BODY)
    line.add("reset_peer", timeout=0)
    unavailable_soon(far, line)


def test_stall(far: GCSStore, hasty: GCSStore, line: Line) -> None:
    """No answer, and no end of the connection."""
    far.put("k", BODY)
    line.add("timeout", timeout=0)
    unavailable_soon(hasty, line)


def test_stall_while_sending(far: GCSStore, hasty: GCSStore, line: Line) -> None:
    """Nobody takes the bytes; nothing becomes visible."""
    line.add("timeout", "upstream", timeout=0)
    started = time.monotonic()
    with pytest.raises(Unavailable, match="stalled"):
        hasty.put("k", BODY * 4)
    assert time.monotonic() - started < SOON_SECONDS
    line.calm()
    assert not exists(far, "k")


def test_stall_while_reading(far: GCSStore, hasty: GCSStore, line: Line) -> None:
    """The beginning comes, the rest does not."""
    far.put("k", BODY * 4)
    # A proxy whose client does not take what it sends is not heard when it is told of more weather.
    line.add("bandwidth", rate=2000)
    with hasty.get("k") as body:
        assert body.readinto(memoryview(bytearray(1000)))
        line.add("timeout", timeout=0)
        with pytest.raises(Unavailable, match="stalled"):
            read_to_the_end(body)


def test_cut_while_reading(far: GCSStore, line: Line) -> None:
    """The connection ends before the body does."""
    far.put("k", BODY)
    line.add("limit_data", bytes=1_000_000)
    with pytest.raises(Unavailable):
        read_bytes(far, "k")
    line.calm()
    assert read_bytes(far, "k")[0] == BODY


def test_slow_is_not_stalled(bucket: str, line: Line) -> None:
    """A body may take longer than the time that may pass without progress."""
    url = f"gs://{bucket}?endpoint={line.url}&stall_seconds=5"
    far, body = open_store(StoreURL.parse(url)), BODY * 4
    line.add("bandwidth", "upstream", rate=5_000)  # KB/s: 32 MiB in 6.7 s
    line.add("bandwidth", rate=5_000)
    started = time.monotonic()
    far.put("k", body, digests=digest_of(body))
    assert time.monotonic() - started > 5.5
    assert read_bytes(far, "k")[0] == body


def test_sliced(far: GCSStore, line: Line) -> None:
    """Bytes that come in crumbs are as good."""
    line.add("slicer", average_size=1500, size_variation=1000, delay=0)
    line.add("slicer", "upstream", average_size=1500, size_variation=1000, delay=0)
    far.put("k", BODY, digests=digest_of(BODY))
    assert read_bytes(far, "k")[0] == BODY


def test_lost_answer(far: GCSStore, line: Line) -> None:
    """The write took effect, its answer did not come: unavailable, and there."""
    line.add("limit_data", bytes=10)
    with pytest.raises(Unavailable):
        far.put("k", b"abc", when=ABSENT)
    line.calm()
    assert read_bytes(far, "k")[0] == b"abc"
