"""What 400 GB, ten thousand files and ten thousand parts cost the engine itself.

Cost is counted in calls, which no busy machine changes; the benchmarks measure time, against peers.
"""

from __future__ import annotations

import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime

import pytest

from mlplatform.core.digest import (
    BLOCK_BYTES,
    UNKNOWN_DIGESTS,
    BlockDigests,
    Buffer,
    Digests,
    Evidence,
    digest_of,
)
from mlplatform.core.errors import Interrupted, NotFound
from mlplatform.core.manifest import FileEntry, Manifest, Requirements
from mlplatform.core.placement import ModelVersion
from mlplatform.ports.clock import SystemClock
from mlplatform.ports.progress import SilentProgress
from mlplatform.ports.store import (
    ALWAYS,
    Body,
    Condition,
    ObjectStore,
    Part,
    Span,
    Stat,
    StoreFeatures,
    Upload,
)
from mlplatform.replication.parts import PartPlan
from mlplatform.replication.transfer import Settings, TargetRequest, Transfer

from .world import INLINE, noise

GB = 10**9
MIB = 1024 * 1024


class Sink:
    """A store that takes everything, keeps nothing, and believes what it is told."""

    url = "sink://"
    features = StoreFeatures(evidence=Evidence.STORE_PARTS)

    def __init__(self) -> None:
        self.parts = 0
        self.bytes = 0
        self.lock = threading.Lock()

    def take(self, size_bytes: int) -> None:
        with self.lock:
            self.parts += 1
            self.bytes += size_bytes

    def put(
        self,
        key: str,
        body: Buffer,
        *,
        digests: Digests = UNKNOWN_DIGESTS,
        when: Condition = ALWAYS,
    ) -> Stat:
        self.take(memoryview(body).nbytes)
        return Stat(key, memoryview(body).nbytes, "tag", None, digests, Evidence.STORE_PARTS)

    def get(
        self, key: str, span: Span | None = None, *, when: Condition = ALWAYS
    ) -> AbstractContextManager[Body]:
        raise NotFound("nothing is kept here", store=self.url, key=key)

    def stat(self, key: str) -> Stat:
        raise NotFound("nothing is kept here", store=self.url, key=key)

    def list(self, prefix: str, *, shallow: bool = False, after: str = "") -> Iterator[Stat]:
        return iter(())

    def delete(self, key: str, *, when: Condition = ALWAYS) -> None:
        return

    def begin(self, key: str, *, size_bytes: int, part_bytes: int) -> Upload:
        return _SinkUpload(self, key, size_bytes)

    def uploads(self, prefix: str) -> Iterator[Upload]:
        return iter(())


@dataclass
class _SinkUpload:
    sink: Sink
    key: str
    size_bytes: int
    id: str = "upload"
    started: datetime | None = None

    def part(self, index: int, body: Buffer, *, digests: Digests) -> Part:
        self.sink.take(memoryview(body).nbytes)
        return Part(index, memoryview(body).nbytes, "tag", digests)

    def copy_range(self, index: int, source_key: str, span: Span, *, when: Condition) -> Part:
        raise NotImplementedError

    def parts(self) -> Sequence[Part]:
        return ()

    def complete(self, parts: Sequence[Part], *, digests: Digests, when: Condition) -> Stat:
        assert sum(part.size_bytes for part in parts) == self.size_bytes
        return Stat(self.key, self.size_bytes, "tag", None, digests, Evidence.STORE_PARTS)

    def abort(self) -> None:
        return


def same_everywhere(size_bytes: int, block_bytes: int = BLOCK_BYTES) -> tuple[Manifest, bytes]:
    """A manifest of a file whose blocks are all alike, made without its bytes; and the block."""
    block = noise(min(block_bytes, size_bytes), 1)
    full, rest = divmod(size_bytes, block_bytes)
    blocks = [digest_of(block)] * full + ([digest_of(block[:rest])] if rest else [])
    digests = BlockDigests(block_bytes, size_bytes, tuple(blocks))
    whole = digests.whole()
    entry = FileEntry(
        path="model.safetensors",
        size_bytes=size_bytes,
        blake3="0" * 64,
        crc64nvme=f"{whole.crc64nvme:016x}",
        crc32c=f"{whole.crc32c:08x}",
        blocks=digests.packed() if len(blocks) > 1 else "",
    )
    return manifest_of([entry], block_bytes), block


def manifest_of(entries: Sequence[FileEntry], block_bytes: int = BLOCK_BYTES) -> Manifest:
    return Manifest.build(
        ModelVersion("huge", "v1"),
        entries,
        block_bytes=block_bytes,
        requirements=Requirements(),
        golden=None,
    )


@dataclass
class Repeating:
    """A source that makes its bytes on the fly."""

    block: bytes
    name: str = "synthetic"

    def read(self, part: PartPlan, buffer: memoryview) -> None:
        for at in range(0, len(buffer), len(self.block)):
            piece = buffer[at : at + len(self.block)]
            piece[:] = memoryview(self.block)[: len(piece)]


def transfer(
    manifest: Manifest,
    block: bytes,
    *stores: ObjectStore,
    settings: Settings | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Transfer:
    return Transfer(
        manifest,
        Repeating(block),
        [TargetRequest(f"region-{n}", store) for n, store in enumerate(stores)],
        clock=SystemClock(),
        progress=SilentProgress(),
        settings=settings,
        stop=stop,
    )


def calls(work: Callable[[], object]) -> int:
    """How many calls, of Python's functions and of C's, `work` makes in this thread."""
    count = 0

    def event(_frame: object, kind: str, _argument: object) -> None:
        nonlocal count
        count += kind in ("call", "c_call")

    sys.setprofile(event)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


def test_400_gb_go_in_parts_of_48_mib_within_the_budget() -> None:
    manifest, block = same_everywhere(400 * GB)
    first, second = Sink(), Sink()
    engine = transfer(manifest, block, first, second, stop=lambda: first.parts >= 12)
    (plan,) = engine._plans.values()
    assert len(plan) == 7948
    assert {part.span.size_bytes for part in plan[:-1]} == {48 * MIB}
    tracemalloc.start()
    try:
        with pytest.raises(Interrupted):
            engine.run()
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert engine._pool.peak_bytes <= 96 * MIB
    assert peak_bytes <= 100 * MIB
    assert 12 <= first.parts <= 14  # what was under way


def test_planning_400_gb_asks_little_of_each_block() -> None:
    def work(size_bytes: int, *stores: ObjectStore) -> tuple[int, int]:
        manifest, block = same_everywhere(size_bytes)
        encoded = manifest.encoded
        return (
            calls(lambda: Manifest.parse(encoded, where="test")),
            calls(lambda: transfer(manifest, block, *stores)),
        )

    sinks = Sink(), Sink(), Sink()
    parse_few, plan_few = work(40 * GB, *sinks)
    parse_lots, plan_lots = work(400 * GB, *sinks)
    assert parse_lots < 11 * parse_few
    assert plan_lots < 11 * plan_few
    blocks = -(-400 * GB // BLOCK_BYTES)
    assert parse_lots < 15 * blocks
    assert plan_lots < 15 * blocks


def test_memory_does_not_grow_with_the_number_of_tiny_files(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An empty file takes no bytes, but what waits for it in queues does."""
    empty = FileEntry(path="x", size_bytes=0, blake3="0" * 64, crc64nvme="0" * 16, crc32c="0" * 8)
    manifest = manifest_of([empty.model_copy(update={"path": f"{n:05}"}) for n in range(6000)])
    gate, refused = threading.Event(), threading.Event()
    waiting: list[int] = []

    class Slow(Sink):
        def put(self, *args: object, **kwargs: object) -> Stat:
            assert gate.wait(timeout=30)
            return super().put(*args, **kwargs)  # type: ignore[arg-type]

    sink = Slow()
    budget_bytes = 4096 * 8
    engine = transfer(manifest, b"", sink, settings=Settings(budget_bytes=budget_bytes))

    def look() -> None:
        """Once nobody gets room, and what has it waits to be sent."""
        ends = time.monotonic() + 20
        while (not refused.is_set() or queued() < budget_bytes) and time.monotonic() < ends:
            time.sleep(0.01)
        waiting.append(queued())
        gate.set()

    def queued() -> int:
        return engine._targets[0].queued_bytes

    acquire = engine._pool.acquire

    def acquired(
        size_bytes: int, *, timeout_seconds: float | None, charge_bytes: int | None = None
    ) -> bytearray | None:
        buffer = acquire(size_bytes, timeout_seconds=timeout_seconds, charge_bytes=charge_bytes)
        if buffer is None:
            refused.set()
        return buffer

    monkeypatch.setattr(engine._pool, "acquire", acquired)
    with ThreadPoolExecutor(1) as pool:
        looked = pool.submit(look)
        engine.run()
        looked.result()
    assert sink.parts == 6000
    assert refused.is_set(), "there was room for all of them"
    assert waiting == [budget_bytes]


def per_unit(count: int, parts: bool) -> float:
    """Calls that a part, or a small file, costs the engine in one thread."""
    if parts:
        manifest, block = same_everywhere(count * 64, 64)
    else:
        block = noise(16, 1)
        entry = same_everywhere(16)[0].files[0]
        manifest = manifest_of([entry.model_copy(update={"path": f"{n:05}"}) for n in range(count)])
    sink = Sink()
    made = calls(lambda: transfer(manifest, block, sink, settings=INLINE).run())
    assert sink.parts == count
    return made / count


@pytest.mark.parametrize("parts", [True, False], ids=["parts of one file", "small files"])
def test_cost_is_linear(parts: bool) -> None:
    few, lots = per_unit(500, parts), per_unit(5000, parts)
    assert lots < 1.1 * few
    assert lots < 300
