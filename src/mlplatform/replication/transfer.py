"""One read of the source, written to every target, each part proven on the way.

    source ──read once, check──► shared buffer ──► target A: part, part, … complete, prove
                                              └──► target B: …

What a target already holds is its state: a file that is there and proves right is skipped, an
unfinished upload is taken up where its proven parts end. Nothing is kept on this machine, so
any other can go on after a `kill -9`.

A target that cannot keep pace would hold the buffers that the others wait for. When the budget
is full, others starve and one target is far slower than they are, it leaves the shared read and
goes on by reads of its own afterwards; `reads_per_source_byte` says what that cost.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from mlplatform.control.retry import Retry, RetryingStore
from mlplatform.core.digest import Digests, Evidence, digest_blocks, digest_of, extend
from mlplatform.core.errors import (
    ConditionFailed,
    DigestMismatch,
    Interrupted,
    MlplatformError,
    NotFound,
    Throttled,
)
from mlplatform.core.manifest import FileEntry, Manifest, ObjectReceipt
from mlplatform.ports.clock import Clock
from mlplatform.ports.progress import Progress
from mlplatform.ports.store import (
    ABSENT,
    Condition,
    Matches,
    ObjectStore,
    Part,
    Span,
    Stat,
    Upload,
    read_into,
)
from mlplatform.replication.buffers import BufferPool, SharedBuffer
from mlplatform.replication.pace import Pace, Pacing, laggard
from mlplatform.replication.parts import PartPlan, part_bytes_for, parts_of

log = logging.getLogger(__name__)

BUDGET_BYTES = 96 * 1024 * 1024
_BUFFER_WAIT_SECONDS = 0.25


class Source(Protocol):
    """Where parts are read from: a region's store, or a folder that is being published."""

    @property
    def name(self) -> str:
        """For people: the region, or the folder."""
        ...

    def read(self, part: PartPlan, buffer: memoryview) -> None:
        """Fill `buffer` with the part's bytes, unchecked. Retries are the source's own."""
        ...


@dataclass(frozen=True, slots=True)
class StoreSource:
    """A version in a region's store. A read that breaks off is repeated as a whole."""

    name: str
    store: ObjectStore
    retry: Retry

    def read(self, part: PartPlan, buffer: memoryview) -> None:
        read = partial(read_into, self.store, part.key, part.span, buffer)
        self.retry.call(read, what=f"read {self.store.url}/{part.key}")


@dataclass(frozen=True, slots=True)
class Settings:
    """How much of this machine a transfer may use."""

    budget_bytes: int = BUDGET_BYTES
    readers: int = 4
    senders_per_target: int = 8
    make_executor: Callable[[int, str], Executor] = lambda workers, name: ThreadPoolExecutor(
        workers, thread_name_prefix=name
    )


@dataclass(slots=True)
class TargetReport:
    """What became of one target."""

    region: str
    objects: dict[str, ObjectReceipt] = field(default_factory=dict)
    error: MlplatformError | None = None
    sent_bytes: int = 0
    skipped_bytes: int = 0
    resumed_parts: int = 0
    own_reads: bool = False
    """It left the shared read because it was far slower than the others."""


@dataclass(slots=True)
class TransferReport:
    """What became of all of them."""

    targets: dict[str, TargetReport]
    read_bytes: int = 0
    needed_bytes: int = 0

    @property
    def reads_per_source_byte(self) -> float | None:
        """1.0 while the targets keep pace; None when nothing had to be read."""
        return self.read_bytes / self.needed_bytes if self.needed_bytes else None


@dataclass(frozen=True, slots=True)
class TargetRequest:
    """A region to bring the version to."""

    region: str
    store: ObjectStore
    retry: Retry | None = None
    """The policy for its verbs; a store that says "slow down" also narrows the target's pace.
    None: the store is used as it is."""
    receipts: Mapping[str, ObjectReceipt] = field(default_factory=dict)
    """Objects by path that an earlier run verified and no check has found wrong since."""


class _FileUpload:
    """One large file being assembled in one target, by several senders."""

    def __init__(self, upload: Upload, expected: int) -> None:
        self.upload = upload
        self.expected = expected
        self.parts: dict[int, Part] = {}
        self.lock = threading.Lock()

    def finished(self, part: Part) -> bool:
        """Note a part; True for the one caller that brought the last."""
        with self.lock:
            fresh = part.index not in self.parts
            self.parts[part.index] = part
            return fresh and len(self.parts) == self.expected


class _Target:
    """The state of one target during a transfer. Its truth is in the store, this is a view."""

    def __init__(self, request: TargetRequest, part_bytes: Callable[[FileEntry], int]) -> None:
        self.region = request.region
        self.pace = Pace()
        self.store = (
            request.store
            if request.retry is None
            else RetryingStore(request.store, request.retry.listening(self._heard))
        )
        self.known = request.receipts
        self.part_bytes = part_bytes
        self.report = TargetReport(request.region)
        self.missing: dict[str, set[int]] = {}
        self.conditions: dict[str, Condition] = {}
        self.uploads: dict[str, _FileUpload] = {}
        self.detached = False
        self.surveyed = False
        self.announced = False
        self.queued_bytes = 0
        self.lock = threading.Lock()

    def _heard(self, error: MlplatformError) -> None:
        if isinstance(error, Throttled):
            self.pace.throttled()

    @property
    def failed(self) -> bool:
        return self.report.error is not None

    def fail(self, error: MlplatformError) -> None:
        with self.lock:
            if self.report.error is None:
                self.report.error = error
                log.error("target failed", extra={"region": self.region, "error": str(error)})

    def wants(self, part: PartPlan) -> bool:
        return part.index in self.missing.get(part.entry.path, ())

    def finished(self, entry: FileEntry, stat: Stat, evidence: Evidence) -> None:
        with self.lock:
            self.report.objects[entry.path] = ObjectReceipt(
                path=entry.path, tag=stat.tag, evidence=evidence
            )
            self.missing.pop(entry.path, None)
            self.uploads.pop(entry.path, None)

    def complete_now(self) -> bool:
        """True once, for the caller that finds everything proven."""
        with self.lock:
            if self.announced or self.missing or not self.surveyed or self.report.error:
                return False
            self.announced = True
            return True

    def queue(self, size_bytes: int) -> None:
        with self.lock:
            self.queued_bytes += size_bytes


class Transfer:
    """Brings the files of a manifest from one source to several targets."""

    def __init__(
        self,
        manifest: Manifest,
        source: Source,
        targets: Sequence[TargetRequest],
        *,
        clock: Clock,
        progress: Progress,
        stop: Callable[[], bool] = lambda: False,
        settings: Settings | None = None,
        read_attempts: int = 3,
        on_stored: Callable[[TargetReport], None] = lambda report: None,
    ) -> None:
        """`on_stored` is called once for each target, from one of its threads, as soon as all its
        files are proven: the others may take hours longer. An error of it fails that target."""
        self._on_stored = on_stored
        self._manifest = manifest
        self._source = source
        self._clock = clock
        self._progress = progress
        self._stop = stop
        self._settings = settings or Settings()
        self._read_attempts = read_attempts
        features = [request.store.features for request in targets]
        sizes = {
            entry.path: part_bytes_for(entry.size_bytes, manifest.block_bytes, features)
            for entry in manifest.files
        }
        self._part_bytes = sizes
        self._targets = [_Target(request, lambda entry: sizes[entry.path]) for request in targets]
        self._pool = BufferPool(self._settings.budget_bytes)
        self._report = TransferReport({t.region: t.report for t in self._targets})
        self._lock = threading.Lock()
        self._senders: dict[str, Executor] = {}

    def run(self) -> TransferReport:
        """Do it all. Per-target failures are in the report; only the operator's stop is raised."""
        make = self._settings.make_executor
        readers = make(self._settings.readers, "read")
        try:
            for target in self._targets:
                self._senders[target.region] = make(
                    self._settings.senders_per_target, f"send-{target.region}"
                )
            self._survey_all()
            remaining = self._remaining()
            while remaining and not self._stop():
                self._pass(remaining, readers)
                remaining = self._remaining()
                for target in remaining:
                    target.detached = False
        finally:
            for executor in (readers, *self._senders.values()):
                executor.shutdown(wait=True, cancel_futures=True)
        if self._stop():
            raise Interrupted(
                f"{self._manifest.subject}: stopped; what was sent is kept",
                hint="run the same command again to go on from there",
            )
        return self._report

    def _remaining(self) -> list[_Target]:
        return [t for t in self._targets if t.missing and not t.failed]

    # --- what is there already ---------------------------------------------------------------

    def _survey_all(self) -> None:
        latch = _Latch()
        for target in self._targets:
            latch.add()
            self._senders[target.region].submit(self._guarded, target, latch, self._survey, target)
        latch.wait()
        entries = {entry.path: entry for entry in self._manifest.files}
        needed: dict[tuple[str, int], int] = {}
        for target in self._targets:
            missing_bytes = 0
            for path, indexes in target.missing.items():
                for part in self._parts(entries[path]):
                    if part.index in indexes:
                        missing_bytes += part.span.size_bytes
                        needed[path, part.index] = part.span.size_bytes
            target.report.skipped_bytes = self._manifest.size_bytes - missing_bytes
            self._progress.total(target.region, missing_bytes)
        self._report.needed_bytes = sum(needed.values())

    def _survey(self, target: _Target) -> None:
        present = {stat.key: stat for stat in target.store.list(self._manifest.subject.prefix)}
        for entry in self._manifest.files:
            if self._stop():
                return
            key = self._manifest.key_of(entry)
            stat = present.get(key)
            if stat is None and entry.key is not None:
                stat = _stat_or_none(target.store, key)
            if stat is not None and self._accept(target, entry, stat):
                continue
            target.conditions[entry.path] = ABSENT if stat is None else Matches(stat.tag)
            parts = list(self._parts(entry))
            held = {} if parts[0].whole else self._take_up(target, entry, parts)
            missing = {part.index for part in parts} - held.keys()
            target.report.resumed_parts += len(held)
            target.missing[entry.path] = missing
            if not missing:
                self._complete(target, entry)
        target.surveyed = True

    def _accept(self, target: _Target, entry: FileEntry, stat: Stat) -> bool:
        """Whether the object that is there already is the file, proven."""
        known = target.known.get(entry.path)
        if known is not None and known.tag == stat.tag:
            target.finished(entry, stat, known.evidence)
            return True
        if stat.size_bytes != entry.size_bytes:
            return False
        proven = self._prove(target, entry, target.store.stat(stat.key))
        if proven is None:
            return False
        target.finished(entry, *proven)
        return True

    def _prove(self, target: _Target, entry: FileEntry, stat: Stat) -> tuple[Stat, Evidence] | None:
        """By what the object is known to be the file: the store's word, else by reading it."""
        if stat.size_bytes != entry.size_bytes or entry.digests.contradicts(stat.digests):
            return None
        if stat.evidence is not None and entry.digests.confirms(stat.digests):
            return stat, stat.evidence
        if read_digests(target.store, stat, self._manifest.block_bytes) == entry.digests:
            return stat, Evidence.READ_BACK
        return None

    def _take_up(
        self, target: _Target, entry: FileEntry, parts: Sequence[PartPlan]
    ) -> Mapping[int, Part]:
        """The newest unfinished upload of the file, with those parts that prove right."""
        key = self._manifest.key_of(entry)
        for upload in target.store.uploads(key):
            if upload.key != key:
                continue
            try:
                held = {part.index: part for part in upload.parts()}
            except NotFound:
                continue
            session = _FileUpload(upload, len(parts))
            for part in parts:
                found = held.get(part.index)
                if (
                    found is not None
                    and found.size_bytes == part.span.size_bytes
                    and part.digests.confirms(found.digests)
                ):
                    session.parts[part.index] = found
            target.uploads[entry.path] = session
            return session.parts
        return {}

    def _parts(self, entry: FileEntry) -> Iterable[PartPlan]:
        return parts_of(self._manifest, entry, self._part_bytes[entry.path])

    # --- the shared read ---------------------------------------------------------------------

    def _pass(self, targets: Sequence[_Target], readers: Executor) -> None:
        latch = _Latch()
        for entry in self._manifest.files:
            for part in self._parts(entry):
                wanting = [t for t in targets if not (t.failed or t.detached) and t.wants(part)]
                if not wanting:
                    continue
                if self._stop():
                    latch.wait()
                    return
                shared = self._buffer(part, targets)
                latch.add()
                readers.submit(self._read_and_send, part, shared, wanting, latch)
        latch.wait()

    def _buffer(self, part: PartPlan, targets: Sequence[_Target]) -> SharedBuffer:
        size_bytes = part.span.size_bytes
        capacity = size_bytes if part.whole else self._part_bytes[part.entry.path]
        while True:
            buffer = self._pool.acquire(capacity, timeout_seconds=_BUFFER_WAIT_SECONDS)
            if buffer is not None:
                return SharedBuffer(self._pool, buffer, size_bytes)
            now = self._clock.monotonic()
            behind = laggard(
                [
                    Pacing(t.region, t.queued_bytes, t.pace.rate_bytes_per_second(now))
                    for t in targets
                    if not (t.failed or t.detached)
                ],
                budget_bytes=self._settings.budget_bytes,
            )
            for target in targets:
                if target.region == behind:
                    target.detached = True
                    target.report.own_reads = True
                    self._progress.note(
                        target.region, "far slower than the others: goes on by reads of its own"
                    )

    def _read_and_send(
        self, part: PartPlan, shared: SharedBuffer, targets: Sequence[_Target], latch: _Latch
    ) -> None:
        try:
            self._read(part, shared.view)
        except Exception as error:
            for target in targets:
                target.fail(_ours(error))
        else:
            for target in targets:
                shared.hold()
                latch.add()
                target.queue(part.span.size_bytes)
                self._senders[target.region].submit(
                    self._guarded, target, latch, self._send, target, part, shared
                )
        finally:
            shared.drop()
            latch.done()

    def _read(self, part: PartPlan, view: memoryview) -> None:
        for attempt in range(1, self._read_attempts + 1):
            if part.span.size_bytes:
                self._source.read(part, view)
            with self._lock:
                self._report.read_bytes += part.span.size_bytes
            if digest_of(view) == part.digests:
                return
            log.warning(
                "part differs from its manifest",
                extra={"source": self._source.name, "key": part.key, "attempt": attempt},
            )
        raise DigestMismatch(
            f"Checksum mismatch: {self._source.name}: {part.entry.path} bytes "
            f"{', '.join(bad_ranges(self._manifest, part, view))} are not what the manifest states",
            hint=f"`mlplatform verify {self._manifest.subject} --deep` says which regions "
            "hold good bytes; name one with --from",
        )

    def _send(self, target: _Target, part: PartPlan, shared: SharedBuffer) -> None:
        try:
            if target.failed or target.detached or self._stop():
                return
            with target.pace.turn():
                self._send_part(target, part, shared.view)
            size_bytes = part.span.size_bytes
            target.pace.sent(size_bytes, self._clock.monotonic())
            target.report.sent_bytes += size_bytes
            self._progress.add(target.region, size_bytes)
        finally:
            target.queue(-part.span.size_bytes)
            shared.drop()

    def _send_part(self, target: _Target, part: PartPlan, view: memoryview) -> None:
        entry = part.entry
        if part.whole:
            self._put_whole(target, entry, view)
            return
        session = self._session(target, entry, part)
        sent = session.upload.part(part.index, view, digests=part.digests)
        if part.digests.contradicts(sent.digests):
            raise DigestMismatch(
                f"Checksum mismatch: {target.region}: {entry.path} part {part.index}: "
                f"the store holds {sent.digests}, sent was {part.digests}"
            )
        with target.lock:
            target.missing[entry.path].discard(part.index)
        if session.finished(sent):
            self._complete(target, entry)

    def _put_whole(self, target: _Target, entry: FileEntry, view: memoryview) -> None:
        key = self._manifest.key_of(entry)
        try:
            stat = target.store.put(
                key, view, digests=entry.digests, when=target.conditions[entry.path]
            )
        except ConditionFailed:
            self._settle(target, entry)
            return
        self._finish(target, entry, stat)

    def _session(self, target: _Target, entry: FileEntry, part: PartPlan) -> _FileUpload:
        with target.lock:
            session = target.uploads.get(entry.path)
            if session is None:
                part_bytes = self._part_bytes[entry.path]
                upload = target.store.begin(
                    part.key, size_bytes=entry.size_bytes, part_bytes=part_bytes
                )
                session = _FileUpload(upload, len(list(self._parts(entry))))
                target.uploads[entry.path] = session
            return session

    def _complete(self, target: _Target, entry: FileEntry) -> None:
        session = target.uploads[entry.path]
        parts = [session.parts[index] for index in sorted(session.parts)]
        try:
            stat = session.upload.complete(
                parts, digests=entry.digests, when=target.conditions[entry.path]
            )
        except (ConditionFailed, NotFound):
            # Another replicator completed it first, or our own lost answer had worked.
            self._settle(target, entry)
        else:
            self._finish(target, entry, stat)
        self._clear_uploads(target, self._manifest.key_of(entry))

    def _clear_uploads(self, target: _Target, key: str) -> None:
        """The object is there and proven: what others left unfinished for it is waste."""
        try:
            for upload in target.store.uploads(key):
                if upload.key == key:
                    upload.abort()
        except MlplatformError as error:
            log.warning("left an upload", extra={"region": target.region, "error": str(error)})

    def _settle(self, target: _Target, entry: FileEntry) -> None:
        """A refused create: what is there now is the file, or it is somebody else's bytes."""
        stat = target.store.stat(self._manifest.key_of(entry))
        proven = self._prove(target, entry, stat)
        if proven is None:
            raise ConditionFailed(
                "the object was written by something else, with other bytes",
                store=target.store.url,
                key=stat.key,
                hint="versions are immutable; find out who writes there, then run again",
            )
        target.finished(entry, *proven)

    def _finish(self, target: _Target, entry: FileEntry, stat: Stat) -> None:
        proven = self._proven_by_write(target, entry, stat)
        if proven is None:
            raise DigestMismatch(
                f"Checksum mismatch: {target.region}: {entry.path} is stored with other bytes "
                "than were sent",
                hint="run again to replace it; if it recurs, the store or the path to it is faulty",
            )
        target.finished(entry, *proven)

    def _proven_by_write(
        self, target: _Target, entry: FileEntry, stat: Stat
    ) -> tuple[Stat, Evidence] | None:
        evidence = target.store.features.evidence
        if evidence is Evidence.STORE_PARTS and not entry.digests.contradicts(stat.digests):
            return stat, evidence
        return self._prove(target, entry, stat)

    def _guarded(
        self, target: _Target, latch: _Latch, work: Callable[..., None], *args: Any
    ) -> None:
        try:
            work(*args)
            if target.complete_now():
                self._on_stored(target.report)
        except Exception as error:
            target.fail(_ours(error))
        finally:
            latch.done()


class _Latch:
    """Counts work under way; `wait` returns when there is none."""

    def __init__(self) -> None:
        self._count = 0
        self._changed = threading.Condition()

    def add(self) -> None:
        with self._changed:
            self._count += 1

    def done(self) -> None:
        with self._changed:
            self._count -= 1
            if not self._count:
                self._changed.notify_all()

    def wait(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._count == 0)


def read_digests(store: ObjectStore, stat: Stat, chunk_bytes: int) -> Digests:
    """The CRCs of an object's bytes, by reading them, the version that `stat` names."""
    digests = Digests(0, 0)
    buffer = memoryview(bytearray(min(chunk_bytes, 4 * 1024 * 1024, max(stat.size_bytes, 1))))
    start = 0
    while start < stat.size_bytes:
        span = Span(start, min(start + len(buffer), stat.size_bytes))
        read_into(store, stat.key, span, buffer, when=Matches(stat.tag))
        digests = extend(digests, buffer[: span.size_bytes])
        start = span.stop
    return digests


def bad_ranges(manifest: Manifest, part: PartPlan, view: memoryview) -> list[str]:
    """The byte ranges of a part whose blocks differ from the manifest, `start-stop` (half open)."""
    blocks = part.entry.block_digests(manifest.block_bytes)
    first = part.span.start // manifest.block_bytes
    ranges = []
    for offset, digests in enumerate(digest_blocks(view, manifest.block_bytes)):
        if digests != blocks.blocks[first + offset]:
            start = part.span.start + offset * manifest.block_bytes
            ranges.append(f"{start}-{start + blocks.span_bytes(first + offset)}")
    return ranges


def _stat_or_none(store: ObjectStore, key: str) -> Stat | None:
    try:
        return store.stat(key)
    except NotFound:
        return None


def _ours(error: Exception) -> MlplatformError:
    if isinstance(error, MlplatformError):
        return error
    log.error("internal error", exc_info=error)
    wrapped = MlplatformError(f"internal error: {type(error).__name__}: {error}")
    wrapped.__cause__ = error
    return wrapped
