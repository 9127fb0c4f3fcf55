"""What the clauses do over and over."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pytest

from mlplatform.core.digest import Digests, digest_of
from mlplatform.core.errors import MlplatformError
from mlplatform.ports.store import ALWAYS, Condition, ObjectStore, Part, Stat, Upload, read_bytes

T = TypeVar("T")


def noise(size_bytes: int, seed: int = 0) -> bytes:
    """Bytes that repeat for the same seed and nowhere else."""
    return random.Random(seed).randbytes(size_bytes)


def wrong_digests(body: bytes) -> Digests:
    """Digests that `body` does not have."""
    right = digest_of(body)
    assert right.crc64nvme is not None
    assert right.crc32c is not None
    return Digests(right.crc64nvme ^ 1, right.crc32c ^ 1)


def needs(offered: bool, what: str) -> None:
    """Skip a clause about something that the store does not declare."""
    if not offered:
        pytest.skip(f"not declared: {what}")


def content(store: ObjectStore, key: str) -> bytes:
    """The object's bytes."""
    return read_bytes(store, key)[0]


def keys(
    store: ObjectStore, prefix: str = "", *, shallow: bool = False, after: str = ""
) -> list[str]:
    """The keys of a listing, as they come."""
    return [stat.key for stat in store.list(prefix, shallow=shallow, after=after)]


def cut(body: bytes, part_bytes: int) -> list[bytes]:
    """The parts of `body`, the last one shorter."""
    return [body[start : start + part_bytes] for start in range(0, len(body), part_bytes)]


def begin(store: ObjectStore, key: str, body: bytes, part_bytes: int) -> Upload:
    """Start an upload of `body`."""
    return store.begin(key, size_bytes=len(body), part_bytes=part_bytes)


def send(upload: Upload, index: int, body: bytes) -> Part:
    """Send one part with its right digests."""
    return upload.part(index, body, digests=digest_of(body))


def send_all(upload: Upload, body: bytes, part_bytes: int) -> list[Part]:
    """Send all parts, in order."""
    return [send(upload, index, part) for index, part in enumerate(cut(body, part_bytes))]


def complete(upload: Upload, body: bytes, parts: Sequence[Part], when: Condition = ALWAYS) -> Stat:
    """Complete with the right digests."""
    return upload.complete(parts, digests=digest_of(body), when=when)


def at_once(calls: Sequence[Callable[[], T]]) -> tuple[list[T], list[MlplatformError]]:
    """Make all calls at the same moment, a thread each: the results, and our errors. Any other
    exception is raised."""
    start = threading.Barrier(len(calls))

    def one(call: Callable[[], T]) -> T | MlplatformError:
        start.wait()
        try:
            return call()
        except MlplatformError as error:
            return error

    with ThreadPoolExecutor(len(calls)) as pool:
        answers = list(pool.map(one, calls))
    return (
        [answer for answer in answers if not isinstance(answer, MlplatformError)],
        [answer for answer in answers if isinstance(answer, MlplatformError)],
    )
