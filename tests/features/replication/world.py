"""A small world for the engine: models of a few hundred bytes in blocks of 64, stores in memory."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

from blake3 import blake3

from mlplatform.adapters.memory import FEATURES, MemoryStore
from mlplatform.control.executors import InlineExecutor
from mlplatform.control.retry import Retry
from mlplatform.core.digest import (
    UNKNOWN_DIGESTS,
    BlockDigests,
    Buffer,
    Digests,
    Evidence,
    digest_blocks,
)
from mlplatform.core.errors import Unavailable
from mlplatform.core.manifest import FileEntry, Manifest, ObjectReceipt, Receipt, Requirements
from mlplatform.core.placement import ModelVersion
from mlplatform.ports.clock import SystemClock
from mlplatform.ports.progress import Progress, SilentProgress
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
    read_bytes,
)
from mlplatform.replication.parts import PartPlan
from mlplatform.replication.records import make_visible
from mlplatform.replication.transfer import (
    Settings,
    Source,
    TargetReport,
    TargetRequest,
    Transfer,
    TransferReport,
)

BLOCK = 64
SUBJECT = ModelVersion("resnet50", "v1.2.0")
NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
INLINE = Settings(make_executor=lambda workers, name: InlineExecutor())
"""One thread: the order of effects is the program's."""
THREADS = Settings(budget_bytes=8 * BLOCK)

S3 = FEATURES
AZURE = StoreFeatures(evidence=Evidence.STORE_PARTS)
FILES = StoreFeatures(evidence=Evidence.READ_BACK)


def noise(size_bytes: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size_bytes)


def entry_of(path: str, body: bytes, *, key: str | None = None, block: int = BLOCK) -> FileEntry:
    blocks = BlockDigests(block, len(body), tuple(digest_blocks(body, block)))
    whole = blocks.whole()
    return FileEntry(
        path=path,
        key=key,
        size_bytes=len(body),
        blake3=blake3(body).hexdigest(),
        crc64nvme=f"{whole.crc64nvme:016x}",
        crc32c=f"{whole.crc32c:08x}",
        blocks=blocks.packed() if len(blocks.blocks) > 1 else "",
    )


@dataclass
class Model:
    """A version with its bytes; a `Source` that counts what is read of it."""

    bodies: dict[str, bytes]
    subject: ModelVersion = SUBJECT
    keys: Mapping[str, str] = field(default_factory=dict)
    block: int = BLOCK
    name: str = "us-east-1"
    reads: list[tuple[str, int]] = field(default_factory=list)
    on_read: Callable[[PartPlan], None] = lambda part: None
    rotten: dict[str, bytes] = field(default_factory=dict)
    """What the source gives in place of the right bytes."""

    def __post_init__(self) -> None:
        self.manifest = Manifest.build(
            self.subject,
            [
                entry_of(path, body, key=self.keys.get(path), block=self.block)
                for path, body in self.bodies.items()
            ],
            block_bytes=self.block,
            requirements=Requirements(),
            golden=None,
        )

    def read(self, part: PartPlan, buffer: memoryview) -> None:
        self.reads.append((part.entry.path, part.index))
        self.on_read(part)
        body = self.rotten.get(part.entry.path, self.bodies[part.entry.path])
        buffer[:] = body[part.span.start : part.span.stop]

    @property
    def size_bytes(self) -> int:
        return self.manifest.size_bytes

    def key(self, path: str) -> str:
        return self.manifest.key_of(self.entry(path))

    def entry(self, path: str) -> FileEntry:
        return next(entry for entry in self.manifest.files if entry.path == path)

    def content_in(self, store: ObjectStore) -> dict[str, bytes]:
        return {path: read_bytes(store, self.key(path))[0] for path in self.bodies}

    def put_into(self, store: ObjectStore, *paths: str) -> None:
        for path in paths or tuple(self.bodies):
            store.put(self.key(path), self.bodies[path])


def large(size_bytes: int = 10 * BLOCK + 17, seed: int = 0) -> Model:
    return Model({"model.bin": noise(size_bytes, seed)})


def mixed() -> Model:
    """Small files, a large one, an empty one, one of exactly a block, one in a folder."""
    return Model(
        {
            "config.json": noise(30, 1),
            "empty.txt": b"",
            "exact.bin": noise(BLOCK, 2),
            "weights/large.bin": noise(7 * BLOCK + 5, 3),
            "weights/small.bin": noise(11, 4),
        }
    )


class InstantClock(SystemClock):
    """Waiting costs nothing."""

    def sleep(self, seconds: float) -> None:
        return


def patient() -> Retry:
    return Retry(InstantClock(), random.Random(0))


def bring(
    model: Model,
    *targets: tuple[str, ObjectStore] | TargetRequest,
    source: Source | None = None,
    settings: Settings = INLINE,
    stop: Callable[[], bool] = lambda: False,
    on_stored: Callable[[TargetReport], None] = lambda report: None,
    retry: Retry | None = None,
    progress: Progress | None = None,
) -> TransferReport:
    requests = [
        target if isinstance(target, TargetRequest) else TargetRequest(*target, retry=retry)
        for target in targets
    ]
    return Transfer(
        model.manifest,
        source or model,
        requests,
        clock=InstantClock(),
        progress=progress or SilentProgress(),
        settings=settings,
        stop=stop,
        on_stored=on_stored,
    ).run()


def show(model: Model, region: str, store: ObjectStore, report: TargetReport) -> Receipt:
    return make_visible(
        store,
        region,
        model.manifest,
        report.objects,
        replaces_tag=None,
        now=NOW,
        writer="test",
        nonce="n1",
    )


def stored(model: Model, region: str, store: ObjectStore) -> Receipt:
    """Bring the model there and make it visible."""
    return show(model, region, store, bring(model, (region, store)).targets[region])


def receipts(model: Model, store: ObjectStore) -> dict[str, ObjectReceipt]:
    return {
        path: ObjectReceipt(
            path=path, tag=store.stat(model.key(path)).tag, evidence=Evidence.READ_BACK
        )
        for path in model.bodies
    }


@dataclass(frozen=True)
class Call:
    """One call of a store, as a test's hook sees it."""

    verb: str
    key: str
    index: int | None = None
    span: Span | None = None
    size_bytes: int = 0


class Watched:
    """A store with a hook before and after each call; a hook may raise, wait, or meddle."""

    def __init__(
        self,
        store: ObjectStore,
        *,
        before: Callable[[Call], None] = lambda call: None,
        after: Callable[[Call], None] = lambda call: None,
        features: StoreFeatures | None = None,
    ) -> None:
        self.store = store
        self.before = before
        self.after = after
        self.calls: list[Call] = []
        self.broken_reads = 0
        """So many bodies break off half-way."""
        self._features = features
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return self.store.url

    @property
    def features(self) -> StoreFeatures:
        return self._features or self.store.features

    def called(self, verb: str) -> list[Call]:
        return [call for call in self.calls if call.verb == verb]

    def sent(self) -> list[tuple[str, int]]:
        """What was sent, in order: key and part."""
        return [(c.key, c.index or 0) for c in self.calls if c.verb in ("put", "part")]

    def put(
        self,
        key: str,
        body: Buffer,
        *,
        digests: Digests = UNKNOWN_DIGESTS,
        when: Condition = ALWAYS,
    ) -> Stat:
        call = Call("put", key, size_bytes=memoryview(body).nbytes)
        self._begin(call)
        stat = self.store.put(key, body, digests=digests, when=when)
        self.after(call)
        return stat

    def get(
        self, key: str, span: Span | None = None, *, when: Condition = ALWAYS
    ) -> AbstractContextManager[Body]:
        self._begin(Call("get", key, span=span))
        with self._lock:
            breaks = self.broken_reads > 0
            self.broken_reads -= breaks
        opened = self.store.get(key, span, when=when)
        return _Broken(opened) if breaks else opened

    def stat(self, key: str) -> Stat:
        self._begin(Call("stat", key))
        return self.store.stat(key)

    def list(self, prefix: str, *, shallow: bool = False, after: str = "") -> Iterator[Stat]:
        self._begin(Call("list", prefix))
        return self.store.list(prefix, shallow=shallow, after=after)

    def delete(self, key: str, *, when: Condition = ALWAYS) -> None:
        self._begin(Call("delete", key))
        self.store.delete(key, when=when)

    def begin(self, key: str, *, size_bytes: int, part_bytes: int) -> Upload:
        self._begin(Call("begin", key))
        return _WatchedUpload(
            self, self.store.begin(key, size_bytes=size_bytes, part_bytes=part_bytes)
        )

    def uploads(self, prefix: str) -> Iterator[Upload]:
        self._begin(Call("uploads", prefix))
        return iter([_WatchedUpload(self, upload) for upload in self.store.uploads(prefix)])

    def _begin(self, call: Call) -> None:
        with self._lock:
            self.calls.append(call)
        self.before(call)


class _WatchedUpload:
    def __init__(self, store: Watched, upload: Upload) -> None:
        self.store = store
        self.upload = upload

    @property
    def key(self) -> str:
        return self.upload.key

    @property
    def id(self) -> str:
        return self.upload.id

    @property
    def started(self) -> datetime | None:
        return self.upload.started

    def part(self, index: int, body: Buffer, *, digests: Digests) -> Part:
        call = Call("part", self.key, index, size_bytes=memoryview(body).nbytes)
        self.store._begin(call)
        part = self.upload.part(index, body, digests=digests)
        self.store.after(call)
        return part

    def copy_range(self, index: int, source_key: str, span: Span, *, when: Condition) -> Part:
        return self.upload.copy_range(index, source_key, span, when=when)

    def parts(self) -> Sequence[Part]:
        self.store._begin(Call("parts", self.key))
        return self.upload.parts()

    def complete(self, parts: Sequence[Part], *, digests: Digests, when: Condition) -> Stat:
        call = Call("complete", self.key)
        self.store._begin(call)
        stat = self.upload.complete(parts, digests=digests, when=when)
        self.store.after(call)
        return stat

    def abort(self) -> None:
        self.store._begin(Call("abort", self.key))
        self.upload.abort()


class _Broken:
    """A body whose connection breaks after the first half of what is asked for."""

    def __init__(self, opened: AbstractContextManager[Body]) -> None:
        self.opened = opened
        self.read = False

    def __enter__(self) -> Self:
        self.body = self.opened.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.opened.__exit__(kind, error, trace)

    @property
    def stat(self) -> Stat:
        return self.body.stat

    def readinto(self, buffer: memoryview) -> int:
        if self.read or len(buffer) < 2:
            raise Unavailable("connection reset")
        self.read = True
        return self.body.readinto(buffer[: len(buffer) // 2])


def memory(name: str = "target", features: StoreFeatures = S3, **changes: Any) -> MemoryStore:
    return MemoryStore(name, features=replace(features, **changes))
