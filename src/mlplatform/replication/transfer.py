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
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from mlplatform.control.retry import Retry, RetryingStore
from mlplatform.core.digest import (
    Digests,
    Evidence,
    combine,
    digest_blocks,
    digest_of,
    extend,
)
from mlplatform.core.errors import (
    ConditionFailed,
    ContainerMissing,
    DigestMismatch,
    Interrupted,
    MlplatformError,
    NotFound,
    Throttled,
    Unavailable,
)
from mlplatform.core.manifest import FileEntry, Manifest, ObjectReceipt
from mlplatform.ports.clock import Clock
from mlplatform.ports.progress import Progress
from mlplatform.ports.store import (
    ABSENT,
    ALWAYS,
    Condition,
    Matches,
    ObjectStore,
    Part,
    Span,
    Stat,
    StoreFeatures,
    Upload,
    read_into,
)
from mlplatform.replication.buffers import BufferPool, SharedBuffer
from mlplatform.replication.jobs import Job, Latch
from mlplatform.replication.pace import Pace, Pacing, laggard
from mlplatform.replication.parts import PartPlan, part_bytes_for, parts_of

log = logging.getLogger(__name__)

BUDGET_BYTES = 96 * 1024 * 1024
_BUFFER_WAIT_SECONDS = 0.25
_PARTS_IN_FLIGHT_MAX = 1024
"""Parts are charged at least this share of the budget, so that tiny files are bounded in number."""
_REFUSALS_PER_FILE_MAX = 4
"""How often the writes of one file may be refused, because others write it too, before it fails."""
_READ_BYTES = 1024 * 1024
_SMALL_BYTES_MAX = 64 * 1024
_SMALL_PER_LOAD_MAX = 16


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
    suspects: frozenset[str] = frozenset()
    """Paths that a check found wrong. What the store states of these is not believed, since bytes
    can rot below a store that goes on stating their old digest: they are read."""


class _LeftBehind(MlplatformError):
    """A send is given up because its target has left the shared read: its part is still missing."""

    def __init__(self) -> None:
        super().__init__("left the shared read")


class _FileUpload:
    """One large file being assembled in one target, by several senders."""

    def __init__(self, upload: Upload | None, held: Mapping[int, Part], expected: int) -> None:
        self._upload = upload
        self._expected = expected
        self._parts = dict(held)
        self._lock = threading.Lock()

    def open(self, begin: Callable[[], Upload]) -> Upload:
        """The upload; the first sender to ask begins it, and the file's others wait for that."""
        with self._lock:
            if self._upload is None:
                self._upload = begin()
            return self._upload

    def note(self, part: Part) -> bool:
        """The store holds `part`. True for the one caller that brought the last."""
        with self._lock:
            fresh = part.index not in self._parts
            self._parts[part.index] = part
            return fresh and len(self._parts) == self._expected

    def parts(self) -> list[Part]:
        """All that is held, by index."""
        with self._lock:
            return [self._parts[index] for index in sorted(self._parts)]


class _Target:
    """The state of one target during a transfer. Its truth is in the store, this is a view."""

    def __init__(self, request: TargetRequest, clock: Clock) -> None:
        self.region = request.region
        self.pace = Pace(clock.monotonic)
        self.retry = request.retry
        self.store = (
            request.store
            if request.retry is None
            else RetryingStore(request.store, request.retry.listening(self._heard))
        )
        self.known = request.receipts
        self.suspects = request.suspects
        self.report = TargetReport(request.region)
        self.missing: dict[str, set[int]] = {}
        self.conditions: dict[str, Condition] = {}
        self.uploads: dict[str, _FileUpload] = {}
        self.begun: dict[str, int] = {}
        self.written_wrong: set[str] = set()
        self.detached = False
        self.announced = False
        self.unsurveyed = 1
        """Looks at the store that are still to come; the listing is the first."""
        self.total_bytes = 0
        self.queued_bytes = 0
        self.waiting: set[Job] = set()
        self.lock = threading.Lock()

    def _heard(self, error: MlplatformError) -> None:
        if isinstance(error, Throttled):
            self.pace.throttled()
        if self.detached or self.failed:
            raise _LeftBehind from error  # trying on would hold the buffer that others wait for

    @property
    def failed(self) -> bool:
        return self.report.error is not None

    def fail(self, error: MlplatformError) -> None:
        with self.lock:
            if self.report.error is not None:
                return
            self.report.error = error
        _let_go_of_buffers(error)
        log.info("%s: failed: %s", self.region, error, extra={"region": self.region})
        self.let_go()

    def detach(self) -> None:
        """Leave the shared read."""
        self.detached = True
        self.report.own_reads = True
        self.let_go()

    def let_go(self) -> None:
        """Drop the sends that wait for a thread: all of them may be busy with calls that stall."""
        with self.lock:
            waiting, self.waiting = self.waiting, set()
        for job in waiting:
            job.drop()

    def wants(self, part: PartPlan) -> bool:
        return part.index in self.missing.get(part.entry.path, ())

    def finished(self, entry: FileEntry, stat: Stat, evidence: Evidence) -> None:
        with self.lock:
            self.report.objects[entry.path] = ObjectReceipt(
                path=entry.path, tag=stat.tag, evidence=evidence
            )
            self.missing.pop(entry.path, None)
            self.uploads.pop(entry.path, None)

    def expect(self, entry: FileEntry, upload: _FileUpload | None, missing: set[int]) -> None:
        """These parts of the file are to be sent."""
        with self.lock:
            self.missing[entry.path] = missing
            if upload is not None:
                self.uploads[entry.path] = upload

    def standing(self) -> tuple[object, ...]:
        """Changes with everything that a pass can achieve."""
        with self.lock:
            done = len(self.report.objects), self.report.sent_bytes, len(self.written_wrong)
            return (*done, sum(self.begun.values()), self.detached, self.failed)

    def surveyed(self, more: int = 0) -> None:
        """One look at the store is done, and led to `more`."""
        with self.lock:
            self.unsurveyed += more - 1

    def complete_now(self) -> bool:
        """True once, for the caller that finds everything proven."""
        with self.lock:
            if self.announced or self.missing or self.unsurveyed or self.report.error:
                return False
            self.announced = True
            return True

    def queue(self, job: Job, size_bytes: int) -> None:
        """A send waits for a thread, with a buffer."""
        with self.lock:
            self.queued_bytes += size_bytes
            self.waiting.add(job)

    def begun_with(self, job: Job) -> None:
        with self.lock:
            self.waiting.discard(job)

    def unqueue(self, size_bytes: int) -> None:
        with self.lock:
            self.queued_bytes -= size_bytes


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
        before_overwrite: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_stored` is called once for each target, from one of its threads, as soon as all its
        files are proven: the others may take hours longer. An error of it fails that target.
        So does one of `before_overwrite`, which is called before an object that is there is to be
        replaced by another."""
        self._on_stored = on_stored
        self._before_overwrite = before_overwrite
        self._manifest = manifest
        self._source = source
        self._progress = progress
        self._stop = stop
        self._settings = settings or Settings()
        self._read_attempts = read_attempts
        self._targets = [_Target(request, clock) for request in targets]
        features = self._able()
        self._part_bytes = {
            entry.path: part_bytes_for(entry.size_bytes, manifest.block_bytes, features)
            for entry in manifest.files
        }
        self._plans = {
            entry.path: tuple(parts_of(manifest, entry, self._part_bytes[entry.path]))
            for entry in manifest.files
        }
        self._pool = BufferPool(self._settings.budget_bytes)
        self._report = TransferReport({t.region: t.report for t in self._targets})
        self._lock = threading.Lock()
        self._senders: dict[str, Executor] = {}

    def _able(self) -> list[StoreFeatures]:
        """The features of the stores that can hold the largest file; the others fail, alone."""
        largest = max(entry.size_bytes for entry in self._manifest.files)
        able = []
        for target in self._targets:
            try:
                features = target.store.features
                part_bytes_for(largest, self._manifest.block_bytes, [features])
            except MlplatformError as error:
                target.fail(error)
            else:
                able.append(features)
        return able

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
                before = [target.standing() for target in remaining]
                self._pass(remaining, readers)
                after = [target.standing() for target in remaining]
                remaining = self._remaining()
                for target in remaining:
                    if before == after and not self._stop():
                        target.fail(MlplatformError("internal error: a pass changed nothing"))
                    target.detached = False
        finally:
            for executor in (readers, *self._senders.values()):
                executor.shutdown(wait=True, cancel_futures=True)
        if self._stop():
            raise Interrupted(
                f"{self._manifest.subject}: stopped; what was sent is kept",
                hint="run the same command again to go on from there",
            )
        for target in self._targets:
            if not target.announced:
                target.fail(MlplatformError("internal error: the transfer ended too early"))
        return self._report

    def _remaining(self) -> list[_Target]:
        return [t for t in self._targets if t.missing and not t.failed]

    # --- what is there already ---------------------------------------------------------------

    def _survey_all(self) -> None:
        latch = Latch()
        for target in self._targets:
            if not target.failed:
                self._start(target, latch, self._survey, target, latch)
        latch.wait()
        needed: dict[str, set[int]] = {}
        for target in self._targets:
            if target.unsurveyed or target.failed:
                continue
            for path, indexes in target.missing.items():
                target.total_bytes += self._bytes_of(path, indexes)
                needed.setdefault(path, set()).update(indexes)
            target.report.skipped_bytes = self._manifest.size_bytes - target.total_bytes
            self._progress.total(target.region, target.total_bytes)
        self._report.needed_bytes = sum(
            self._bytes_of(path, indexes) for path, indexes in needed.items()
        )

    def _bytes_of(self, path: str, indexes: set[int]) -> int:
        plan = self._plans[path]
        return sum(plan[index].span.size_bytes for index in indexes)

    def _survey(self, target: _Target, latch: Latch) -> None:
        """What one listing tells. What needs requests of its own is asked by many at once."""
        present = {stat.key: stat for stat in target.store.list(self._manifest.subject.prefix)}
        unclear = []
        for entry in self._manifest.files:
            first = self._plans[entry.path][0]
            stat = present.get(first.key)
            if stat is None and entry.key is None and first.whole:
                self._prepare(target, entry, None)
            elif stat is None or not self._accept_stated(target, entry, stat):
                unclear.append((entry, stat))
        target.surveyed(more=len(unclear))
        for entry, stat in unclear:
            self._start(target, latch, self._survey_file, target, entry, stat)

    def _survey_file(self, target: _Target, entry: FileEntry, stat: Stat | None) -> None:
        if self._stop() or target.failed:
            return
        if (entry.key is not None) if stat is None else (stat.size_bytes == entry.size_bytes):
            # A listing covers the version's own folder, and may leave digests out.
            stat = _stat_or_none(target.store, self._plans[entry.path][0].key)
        if stat is None or not self._accept(target, entry, stat):
            held = self._prepare(target, entry, stat)
            with target.lock:
                target.report.resumed_parts += held
        target.surveyed()

    def _prepare(self, target: _Target, entry: FileEntry, stat: Stat | None) -> int:
        """Note what is to be sent, from which state on; the number of parts that are held."""
        if stat is not None:
            self._before_overwrite()
        plan = self._plans[entry.path]
        features = target.store.features
        if features.conditional_put if plan[0].whole else features.conditional_complete:
            target.conditions[entry.path] = ABSENT if stat is None else Matches(stat.tag)
        else:
            # Then the lease alone keeps writers apart; what is written is proven all the same.
            target.conditions[entry.path] = ALWAYS
        if plan[0].whole:
            target.expect(entry, None, {0})
            return 0
        upload, held = self._take_up(target, plan)
        missing = set(range(len(plan))) - held.keys()
        session = _FileUpload(upload, held, len(plan))
        target.expect(entry, session, missing)
        if not missing:
            self._complete(target, entry, session)
        return len(held)

    def _accept_stated(self, target: _Target, entry: FileEntry, stat: Stat) -> bool:
        """Whether the object is known to be the file without another request."""
        if entry.path in target.suspects:
            return False
        known = target.known.get(entry.path)
        if known is not None and known.tag == stat.tag:
            target.finished(entry, stat, known.evidence)
            return True
        if stat.evidence is None or not _states(entry, stat):
            return False
        target.finished(entry, stat, stat.evidence)
        return True

    def _accept(self, target: _Target, entry: FileEntry, stat: Stat) -> bool:
        """Whether the object that is there already is the file, proven."""
        if self._accept_stated(target, entry, stat):
            return True
        proven = self._prove(target, entry, stat, by_reading=entry.path in target.suspects)
        if proven is None:
            return False
        target.finished(entry, *proven)
        return True

    def _prove(
        self, target: _Target, entry: FileEntry, stat: Stat, *, by_reading: bool = False
    ) -> tuple[Stat, Evidence] | None:
        """By what the object is known to be the file: the store's word, else by reading it."""
        if stat.size_bytes != entry.size_bytes or entry.digests.contradicts(stat.digests):
            return None
        if stat.evidence is not None and _states(entry, stat) and not by_reading:
            return stat, stat.evidence
        block_bytes = self._manifest.block_bytes
        blocks = entry.block_digests(block_bytes).blocks
        found = read_digests(target.store, stat, block_bytes, retry=target.retry, expected=blocks)
        return (stat, Evidence.READ_BACK) if found == entry.digests else None

    def _take_up(
        self, target: _Target, plan: Sequence[PartPlan]
    ) -> tuple[Upload | None, Mapping[int, Part]]:
        """The unfinished upload of the file that holds most proven parts, and those parts.

        One that was cut otherwise cannot be gone on with, and one that proves nothing is not worth
        it; both are dropped once the object is there.
        """
        best: tuple[Upload | None, dict[int, Part]] = (None, {})
        key = plan[0].key
        for upload in target.store.uploads(key):
            if upload.key != key:
                continue
            try:
                found = upload.parts()
            except ContainerMissing:
                raise
            except NotFound:
                continue
            if any(
                part.index >= len(plan) or part.size_bytes != plan[part.index].span.size_bytes
                for part in found
            ):
                continue
            held = {p.index: p for p in found if plan[p.index].digests.confirms(p.digests)}
            if len(held) > len(best[1]):
                best = (upload, held)
        return best

    # --- the shared read ---------------------------------------------------------------------

    def _pass(self, targets: Sequence[_Target], readers: Executor) -> None:
        latch = Latch()
        for entry in self._manifest.files:
            for target in targets:
                if target.missing.get(entry.path) == set():
                    # All is sent, but its target left before it could be completed.
                    self._start(target, latch, self._look, target, entry)
        for parts, wanting in self._loads(targets):
            shared = self._buffer(parts, targets)
            if shared is None:
                break
            read = partial(self._read_and_send, parts, shared, wanting, latch)
            job = Job(latch, read, shared.drop)
            if lost := job.hand_to(readers):
                for target in wanting:
                    target.fail(_ours(lost))
        latch.wait()

    def _loads(
        self, targets: Sequence[_Target]
    ) -> Iterator[tuple[Sequence[PartPlan], Sequence[_Target]]]:
        """What is read and sent as one piece of work, and for whom: a part, or several small files,
        because handing one over costs more than copying it. Never so many that senders idle."""
        small = [plan[0] for plan in self._plans.values() if _is_small(plan[0])]
        load_max = len(small) // (4 * self._settings.senders_per_target)
        load_max = max(1, min(load_max, _SMALL_PER_LOAD_MAX))
        load: list[PartPlan] = []
        wanted_by: list[_Target] = []
        for entry in self._manifest.files:
            if not any(target.missing.get(entry.path) for target in targets):
                continue
            for part in self._plans[entry.path]:
                wanting = [t for t in targets if not (t.failed or t.detached) and t.wants(part)]
                if not wanting:
                    continue
                if not _is_small(part):
                    yield [part], wanting
                    continue
                if load and (len(load) == load_max or wanting != wanted_by):
                    yield load, wanted_by
                    load = []
                load.append(part)
                wanted_by = wanting
        if load:
            yield load, wanted_by

    def _buffer(self, parts: Sequence[PartPlan], targets: Sequence[_Target]) -> SharedBuffer | None:
        """Room for the parts, as soon as there is some; None when the operator stops."""
        size_bytes = sum(part.span.size_bytes for part in parts)
        capacity = size_bytes if parts[0].whole else self._part_bytes[parts[0].entry.path]
        least = len(parts) * (self._settings.budget_bytes // _PARTS_IN_FLIGHT_MAX)
        charge = max(capacity, least)
        while not self._stop():
            buffer = self._pool.acquire(
                capacity, charge_bytes=charge, timeout_seconds=_BUFFER_WAIT_SECONDS
            )
            if buffer is not None:
                return SharedBuffer(self._pool, buffer, size_bytes, charge_bytes=charge)
            behind = laggard(
                [
                    Pacing(t.region, t.queued_bytes, t.pace.rate_bytes_per_second())
                    for t in targets
                    if t.missing and not (t.failed or t.detached)
                ],
                budget_bytes=self._settings.budget_bytes,
            )
            for target in targets:
                if target.region == behind:
                    target.detach()
                    self._progress.note(
                        target.region, "far slower than the others: goes on by reads of its own"
                    )
        return None

    def _read_and_send(
        self,
        parts: Sequence[PartPlan],
        shared: SharedBuffer,
        targets: Sequence[_Target],
        latch: Latch,
    ) -> None:
        try:
            if self._stop() or all(target.failed or target.detached for target in targets):
                return
            for part, view in _views(parts, shared):
                self._read(part, view)
            for target in targets:
                self._queue_send(target, parts, shared, latch)
        except Exception as error:
            for target in targets:
                target.fail(_ours(error))

    def _queue_send(
        self, target: _Target, parts: Sequence[PartPlan], shared: SharedBuffer, latch: Latch
    ) -> None:
        shared.hold()
        job = Job(
            latch,
            lambda: self._guarded(target, self._send_all, job, target, parts, shared),
            partial(self._unqueue, target, shared),
        )
        target.queue(job, shared.charge_bytes)
        if target.failed or target.detached:
            job.drop()  # it may have let go just before
            target.begun_with(job)
        elif lost := job.hand_to(self._senders[target.region]):
            target.fail(_ours(lost))

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
            "hold good bytes; name one with --from"
            if isinstance(self._source, StoreSource)
            else "the file changed after it was read, or the disk is failing: publish again",
        )

    def _send_all(
        self, job: Job, target: _Target, parts: Sequence[PartPlan], shared: SharedBuffer
    ) -> None:
        target.begun_with(job)
        for part, view in _views(parts, shared):
            self._send(target, part, view)

    def _send(self, target: _Target, part: PartPlan, view: memoryview) -> None:
        with target.pace.turn(part.span.size_bytes):
            # Asked here, since the turn may have been long in coming.
            if target.failed or target.detached or self._stop() or not target.wants(part):
                return
            try:
                if not self._send_part(target, part, view):
                    return
            except _LeftBehind:
                return
            target.pace.sent(part.span.size_bytes)
        with target.lock:
            target.report.sent_bytes += part.span.size_bytes
        self._progress.add(target.region, part.span.size_bytes)

    def _unqueue(self, target: _Target, shared: SharedBuffer) -> None:
        target.unqueue(shared.charge_bytes)
        shared.drop()

    def _send_part(self, target: _Target, part: PartPlan, view: memoryview) -> bool:
        """Whether the store took it; if not, it is no longer wanted, or still missing."""
        entry = part.entry
        if part.whole:
            return self._put_whole(target, part, view)
        session = target.uploads.get(entry.path)
        if session is None:
            return False
        upload = session.open(partial(self._begin, target, part))
        try:
            sent = upload.part(part.index, view, digests=part.digests)
        except ContainerMissing:
            raise
        except NotFound as error:
            # Another replicator completed the file, or somebody dropped the upload.
            self._look_again(target, entry, session, error)
            return False
        if part.digests.contradicts(sent.digests):
            raise DigestMismatch(
                f"Checksum mismatch: {target.region}: {entry.path} part {part.index}: "
                f"the store holds {sent.digests}, sent was {part.digests}"
            )
        with target.lock:
            if target.uploads.get(entry.path) is not session:
                return False  # the file was begun anew meanwhile
            target.missing[entry.path].discard(part.index)
        if session.note(sent):
            self._complete(target, entry, session)
        return True

    def _begin(self, target: _Target, part: PartPlan) -> Upload:
        if target.report.error is not None:
            raise target.report.error  # the file's senders come here one after the other
        return target.store.begin(
            part.key,
            size_bytes=part.entry.size_bytes,
            part_bytes=self._part_bytes[part.entry.path],
        )

    def _put_whole(self, target: _Target, part: PartPlan, view: memoryview) -> bool:
        entry = part.entry
        try:
            stat = target.store.put(
                part.key, view, digests=part.digests, when=target.conditions[entry.path]
            )
        except ConditionFailed as error:
            self._look_again(target, entry, None, error)
            return False
        self._finish(target, entry, stat)
        return True

    def _complete(self, target: _Target, entry: FileEntry, session: _FileUpload) -> None:
        upload = session.open(partial(self._begin, target, self._plans[entry.path][0]))
        try:
            stat = upload.complete(
                session.parts(), digests=entry.digests, when=target.conditions[entry.path]
            )
        except ContainerMissing:
            raise
        except (ConditionFailed, NotFound, DigestMismatch) as error:
            # Another replicator completed it first, or sent a part of it again.
            self._look_again(target, entry, session, error)
        else:
            self._finish(target, entry, stat)
        if entry.path in target.report.objects:
            self._clear_uploads(target, self._plans[entry.path][0].key)

    def _look_again(
        self,
        target: _Target,
        entry: FileEntry,
        session: _FileUpload | None,
        error: MlplatformError,
    ) -> None:
        """A write was refused: the object or the upload is not what it was. What is there now is
        the file, or it is somebody else's bytes, or the file is gone on with from what is held."""
        with target.lock:
            if target.uploads.get(entry.path) is not session:
                return  # another sender saw to it
            target.uploads.pop(entry.path, None)
            target.begun[entry.path] = begun = target.begun.get(entry.path, 0) + 1
        if begun > _REFUSALS_PER_FILE_MAX:
            raise error
        log.info("looking again", extra={"region": target.region, "error": str(error)})
        self._look(target, entry)

    def _look(self, target: _Target, entry: FileEntry) -> None:
        stat = _stat_or_none(target.store, self._plans[entry.path][0].key)
        if stat is not None and self._accept(target, entry, stat):
            return
        if stat is not None and target.conditions[entry.path] not in (ALWAYS, Matches(stat.tag)):
            raise ConditionFailed(
                "the object was written by something else, with other bytes",
                store=target.store.url,
                key=stat.key,
                hint="versions are immutable; find out who writes there, then run again",
            )
        self._go_on(target, entry, stat)

    def _go_on(self, target: _Target, entry: FileEntry, stat: Stat | None) -> None:
        """Send what is missing, now that the object stands as `stat` says."""
        self._prepare(target, entry, stat)
        with target.lock:
            target.total_bytes += self._bytes_of(entry.path, target.missing.get(entry.path, set()))
        self._progress.total(target.region, target.total_bytes)

    def _clear_uploads(self, target: _Target, key: str) -> None:
        """The object is there and proven: what others left unfinished for it is waste."""
        try:
            for upload in target.store.uploads(key):
                if upload.key == key:
                    upload.abort()
        except MlplatformError as error:
            log.warning("left an upload", extra={"region": target.region, "error": str(error)})

    def _finish(self, target: _Target, entry: FileEntry, stat: Stat) -> None:
        proven = self._proven_by_write(target, entry, stat)
        if proven is not None:
            target.finished(entry, *proven)
            return
        error = DigestMismatch(
            f"Checksum mismatch: {target.region}: {entry.path} is stored with other bytes "
            "than were sent",
            hint="run again to replace it; if it recurs, the store or the path to it is faulty",
        )
        with target.lock:
            if entry.path in target.written_wrong:
                raise error
            target.written_wrong.add(entry.path)
        log.warning("sent again: %s", error, extra={"region": target.region})
        self._go_on(target, entry, stat)

    def _proven_by_write(
        self, target: _Target, entry: FileEntry, stat: Stat
    ) -> tuple[Stat, Evidence] | None:
        evidence = target.store.features.evidence
        if (
            evidence is Evidence.STORE_PARTS
            and stat.size_bytes == entry.size_bytes
            and not entry.digests.contradicts(stat.digests)
        ):
            return stat, evidence
        return self._prove(target, entry, stat)

    # --- threads -----------------------------------------------------------------------------

    def _start(self, target: _Target, latch: Latch, work: Callable[..., None], *args: Any) -> None:
        """Run `work` in one of the target's threads; its error is the target's."""
        job = Job(latch, partial(self._guarded, target, work, *args))
        if lost := job.hand_to(self._senders[target.region]):
            target.fail(_ours(lost))

    def _guarded(self, target: _Target, work: Callable[..., None], *args: Any) -> None:
        try:
            work(*args)
            if target.complete_now():
                self._on_stored(target.report)
        except Exception as error:
            target.fail(_ours(error))


def read_digests(
    store: ObjectStore,
    stat: Stat,
    chunk_bytes: int,
    *,
    retry: Retry | None = None,
    expected: Sequence[Digests] = (),
) -> Digests:
    """The CRCs of an object's bytes, by reading them, the version that `stat` names. A chunk whose
    read breaks off is read again; so is one that is not as `expected`, since a second read tells
    bytes that are wrong from bytes that were read wrong."""
    buffer = memoryview(bytearray(min(chunk_bytes, _READ_BYTES, max(stat.size_bytes, 1))))

    def read(span: Span) -> Digests:
        digests, left = Digests(0, 0), span.size_bytes
        with store.get(stat.key, span, when=Matches(stat.tag)) as body:
            while left:
                count = body.readinto(buffer[:left])
                if not count:
                    raise Unavailable(
                        f"short read: {left} bytes are missing", store=store.url, key=stat.key
                    )
                digests = extend(digests, buffer[:count])
                left -= count
        return digests

    found = []
    for index, start in enumerate(range(0, stat.size_bytes, chunk_bytes)):
        span = Span(start, min(start + chunk_bytes, stat.size_bytes))
        what = f"read {store.url}/{stat.key}"
        once = partial(read, span)
        digests = retry.call(once, what=what) if retry else once()
        if expected and digests != expected[index]:
            digests = retry.call(once, what=what) if retry else once()
        found.append((digests, span.size_bytes))
    return combine(found)


def _is_small(part: PartPlan) -> bool:
    return part.whole and part.span.size_bytes <= _SMALL_BYTES_MAX


def _views(
    parts: Sequence[PartPlan], shared: SharedBuffer
) -> Iterator[tuple[PartPlan, memoryview]]:
    """Each part with its bytes."""
    at = 0
    for part in parts:
        yield part, shared.view[at : at + part.span.size_bytes]
        at += part.span.size_bytes


def _states(entry: FileEntry, stat: Stat) -> bool:
    """Whether the store's own words name exactly the file's bytes."""
    return stat.size_bytes == entry.size_bytes and entry.digests.confirms(stat.digests)


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
    except ContainerMissing:
        raise
    except NotFound:
        return None


def _let_go_of_buffers(error: BaseException) -> None:
    """A kept error keeps its frames, and with them the part that was being sent."""
    seen: BaseException | None = error
    while seen is not None:
        traceback.clear_frames(seen.__traceback__)
        seen = seen.__cause__ or seen.__context__


def _ours(error: Exception) -> MlplatformError:
    if isinstance(error, MlplatformError):
        return error
    log.error("internal error", exc_info=error)
    wrapped = MlplatformError(f"internal error: {type(error).__name__}: {error}")
    wrapped.__cause__ = error
    return wrapped
