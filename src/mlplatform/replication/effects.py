"""The replicas of model versions across regions: seen, brought, checked. All I/O is here.

Two controllers run on it, through the one loop of `control.reconcile`: `Publisher` brings a
version from a folder into its home region, `Replicator` from there to the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from datetime import datetime
from random import Random

from mlplatform.control.catalogue import VERSIONS, WITHDRAWALS, Catalogue, check_key
from mlplatform.control.executors import DaemonThreads
from mlplatform.control.lease import Background
from mlplatform.control.pins import Pins
from mlplatform.control.quorum import ControlStore
from mlplatform.control.retry import Retry, RetryingStore
from mlplatform.core.errors import (
    Fenced,
    Interrupted,
    LeaseHeld,
    MlplatformError,
    NoMajority,
    StalePlan,
    VersionConflict,
)
from mlplatform.core.manifest import Manifest, ObjectReceipt, Receipt
from mlplatform.core.placement import ModelVersion
from mlplatform.core.plan import Action, Outcome, Plan, Record, Result
from mlplatform.core.replica import Check, Finding, Published, Regions, RegionSeen, Withdrawal
from mlplatform.core.seen import Unknown
from mlplatform.core.topology import Topology
from mlplatform.ports.clock import Clock
from mlplatform.ports.progress import Progress, SilentProgress
from mlplatform.ports.store import ObjectStore
from mlplatform.replication.decide import (
    FEATURE,
    PUBLISH,
    Request,
    Seen,
    decide,
    decide_publish,
)
from mlplatform.replication.records import make_visible, write_receipt, write_withdrawal
from mlplatform.replication.transfer import (
    Settings,
    Source,
    StoreSource,
    TargetReport,
    TargetRequest,
    Transfer,
)
from mlplatform.replication.verify import Depth, Verdict, Verification, verify


@dataclass(frozen=True, slots=True)
class Brought:
    """What became of each target, and how often each byte of the source was read for them."""

    results: Mapping[str, TargetReport | MlplatformError] = field(default_factory=dict)
    reads_per_source_byte: float | None = None


@dataclass(slots=True)
class Replicas:
    """Every region's store, the control store, and how to work on them."""

    topology: Topology
    open_store: Callable[[str], ObjectStore]
    """By region, opened on first use; raises our errors."""
    control: ControlStore
    retry: Retry
    clock: Clock
    random: Random
    writer: str
    progress: Progress = field(default_factory=SilentProgress)
    stop: Callable[[], bool] = lambda: False
    settings: Settings = field(default_factory=Settings)
    executor: Executor = field(default_factory=DaemonThreads)
    region_timeout_seconds: float | None = 30.0
    background: Background | None = None
    """Where leases are renewed; by default in a thread."""
    catalogue: Catalogue = field(init=False)
    """What regions hold, as it is read."""

    def __post_init__(self) -> None:
        self.catalogue = Catalogue(
            self.topology,
            self.open_store,
            self.control,
            self.retry,
            self.executor,
            self.region_timeout_seconds,
        )

    def store(self, region: str) -> RetryingStore:
        """The region's store, under the retry policy."""
        return self.catalogue.store(region)

    def source(self, region: str) -> StoreSource:
        """The region's store, to read parts from: a part is one call under the policy, not a call
        in a call, each of which tries for as long as it may."""
        return StoreSource(region, self.open_store(region), self.retry)

    def bring(
        self,
        manifest: Manifest,
        source: Source,
        targets: Mapping[str, RegionSeen],
        *,
        guard: Callable[[], None],
        bound: bool = False,
    ) -> Brought:
        """Bring a version to targets in one pass, each visible as soon as it is proven.

        `guard` is called before anything that shows is written: it raises `Fenced` when the lease
        is lost. Before anything shows or is overwritten, the version's name is bound to these
        bytes. Raises what must stop everything (`Fenced`, `Interrupted`); else a result per target.
        """
        stopped: list[MlplatformError] = []

        def guarded() -> None:
            try:
                guard()
            except MlplatformError as error:
                stopped.append(error)
                raise

        def bind() -> None:
            if not bound:
                self.bind(manifest)

        def stored(report: TargetReport) -> None:
            bind()
            self._show(manifest, report.region, report.objects, targets[report.region], guarded)
            self.progress.done(report.region, "stored and verified")

        requests = [
            TargetRequest(
                region,
                self.open_store(region),
                self.retry,
                receipts=seen.receipt.by_path
                if seen.receipt is not None
                and seen.receipt.manifest_digest == manifest.digest
                and not seen.demoted
                else {},
                suspects=frozenset(finding.path for finding in seen.findings),
            )
            for region, seen in targets.items()
        ]
        report = Transfer(
            manifest,
            source,
            requests,
            clock=self.clock,
            progress=self.progress,
            stop=self.stop,
            settings=self.settings,
            on_stored=stored,
            before_overwrite=bind,
        ).run()
        if stopped:
            raise stopped[0]
        return Brought(
            {region: target.error or target for region, target in report.targets.items()},
            report.reads_per_source_byte,
        )

    def _show(
        self,
        manifest: Manifest,
        region: str,
        objects: Mapping[str, ObjectReceipt],
        seen: RegionSeen,
        guard: Callable[[], None],
    ) -> None:
        wrong = seen.damaged is not None or seen.misstates(manifest.digest)
        replaces = seen.manifest_tag if wrong else None
        make_visible(
            self.store(region),
            region,
            manifest,
            objects,
            replaces_tag=replaces,
            now=self.clock.now(),
            writer=self.writer,
            nonce=self._nonce(),
            guard=guard,
        )

    def bind(self, manifest: Manifest) -> None:
        """Take the version's name for these bytes, once and for ever. `VersionConflict` if it is
        taken for others.

        No region can see to that: each is asked at another time, and one that is unreachable now
        may show tomorrow what was sent to it yesterday. A majority of the control store can.
        """
        record = Published(model=manifest.model, version=manifest.version, digest=manifest.digest)
        key = f"{VERSIONS}{manifest.model}/{manifest.version}.json"
        try:
            self.control.create(key, record.encoded)
        except Fenced as refused:
            # A majority decides, and it never changes: records are not written over.
            bodies = self.control.read(key).bodies()
            taken = [b for b, copies in bodies.items() if copies >= self.control.majority]
            if not taken:
                raise NoMajority(
                    f"{manifest.subject}: several publishers took its name at once, and none has "
                    "a majority of the control stores",
                    hint="run again when all control stores answer, or publish under a new version",
                ) from refused
            if taken != [record.encoded]:
                raise VersionConflict(
                    f"{manifest.subject}: its name is taken for other bytes",
                    hint="a version is immutable: publish these bytes under a new version",
                ) from refused

    @property
    def pins(self) -> Pins:
        return Pins(self.control)

    def withdraw(self, subject: ModelVersion, reason: str) -> dict[str, Unknown | None]:
        """Refuse new placements of a version. Recorded in the control store and in every region
        that holds it, so that it survives the loss of either."""
        record = Withdrawal(
            model=subject.model,
            version=subject.version,
            reason=reason,
            by=self.writer,
            at=self.clock.now(),
        )
        self._observe(f"{WITHDRAWALS}{subject.model}/{subject.version}.json", record)
        return self.catalogue.each(lambda region: write_withdrawal(self.store(region), record))

    def check(
        self, subject: ModelVersion, regions: Sequence[str], depth: Depth
    ) -> dict[str, Verification]:
        """Verify replicas and record what was found: a mismatch demotes the placement."""
        remembered = self.catalogue.recall(subject)
        seen = self.catalogue.see(subject, regions, remembered=remembered)
        expected = remembered.digest_of(subject)
        results: dict[str, Verification] = {}
        workers = self.settings.make_executor(self.settings.readers, "verify")
        try:
            for region in regions:
                state = seen[region]
                results[region] = result = verify(
                    self.store(region),
                    state,
                    region,
                    depth,
                    retry=self.retry,
                    executor=workers,
                    progress=self.progress,
                    expected_digest=expected,
                    stop=self.stop,
                )
                if isinstance(state, RegionSeen):
                    self._record_check(subject, state, result)
        finally:
            workers.shutdown(wait=True, cancel_futures=True)
        return results

    def _record_check(self, subject: ModelVersion, state: RegionSeen, result: Verification) -> None:
        nonce = state.receipt.nonce if state.receipt else None
        verdict = result.verdict
        if verdict is Verdict.GOOD and result.depth is Depth.DEEP and state.manifest is not None:
            if state.demoted or _differs(state.receipt, result.objects, state.manifest):
                # The bytes are proven anew, so what was said of the old receipt lapses.
                nonce = self._renew_receipt(state, state.manifest, result.objects)
        elif verdict is Verdict.GOOD and state.demoted:
            return  # quick cannot see what deep found
        elif verdict not in (Verdict.GOOD, Verdict.MISMATCH):
            return
        record = Check(
            model=subject.model,
            version=subject.version,
            region=state.region,
            receipt_nonce=nonce,
            depth=result.depth.value,
            findings=_still_wrong(state, result),
            at=self.clock.now(),
            writer=self.writer,
        )
        self._observe(check_key(record), record)

    def _renew_receipt(
        self, state: RegionSeen, manifest: Manifest, objects: Mapping[str, ObjectReceipt]
    ) -> str:
        receipt = Receipt(
            schema="mlplatform/receipt/1",
            model=manifest.model,
            version=manifest.version,
            region=state.region,
            manifest_digest=manifest.digest,
            objects=tuple(objects[entry.path] for entry in manifest.files),
            stored_at=state.receipt.stored_at if state.receipt else self.clock.now(),
            writer=self.writer,
            nonce=self._nonce(),
        )
        write_receipt(self.store(state.region), manifest.subject, receipt)
        return receipt.nonce

    def _observe(self, key: str, record: Record) -> None:
        self.control.put_observation(key, record.encoded)

    def _nonce(self) -> str:
        return f"{self.random.getrandbits(64):016x}"


def _still_wrong(state: RegionSeen, result: Verification) -> tuple[Finding, ...]:
    """What was found, and what was found before and is not refuted: quick sees no bytes, and deep
    does not come to every file where something cannot be read."""
    if not result.findings:
        return ()
    settled = {finding.path for finding in result.findings}
    if result.depth is Depth.DEEP:
        settled |= result.objects.keys()
    earlier = (finding for finding in state.findings if finding.path not in settled)
    return (*result.findings, *earlier)


def _differs(
    receipt: Receipt | None, objects: Mapping[str, ObjectReceipt], manifest: Manifest
) -> bool:
    if receipt is None or receipt.manifest_digest != manifest.digest:
        return True
    known = receipt.by_path
    return any(path not in known or known[path].tag != o.tag for path, o in objects.items())


_STOPS_EVERYTHING = (Fenced, LeaseHeld, NoMajority, Interrupted, StalePlan)


@dataclass(slots=True)
class Replicator:
    """Brings one version to where it is wanted. A `Controller`."""

    replicas: Replicas
    request: Request
    guard: Callable[[], None]
    feature: str = FEATURE

    def observe(self) -> Seen:
        """Every region, since any may be the source."""
        remembered = self.replicas.catalogue.recall(self.request.subject)
        regions = self.replicas.catalogue.see(
            self.request.subject, measure_partial=True, remembered=remembered
        )
        return Seen(self.request, regions, remembered.digest_of(self.request.subject))

    def decide(self, seen: Seen, now: datetime) -> Plan:
        """See `replication.decide`."""
        return decide(seen)

    def act(self, actions: Sequence[Action], operation: str) -> Iterator[Outcome]:
        """One batch: one source, all its targets, one read."""
        source_region = str(actions[0].parameters["source"])
        digest = str(actions[0].parameters["digest"])
        regions = [action.region for action in actions]
        remembered = self.replicas.catalogue.recall(self.request.subject)
        seen = self.replicas.catalogue.see(
            self.request.subject, [source_region, *regions], remembered=remembered
        )
        source = seen[source_region]
        if isinstance(source, Unknown) or source.manifest is None:
            why = source.reason if isinstance(source, Unknown) else "the manifest is gone"
            yield from (_failed(action, f"source {source_region}: {why}") for action in actions)
            return
        if source.manifest.digest != digest:
            raise StalePlan(
                f"{self.request.subject}: {source_region} now has {source.manifest.digest}, "
                f"the plan was made for {digest}"
            )
        yield from _bring(
            self.replicas,
            source.manifest,
            self.replicas.source(source_region),
            actions,
            seen,
            self.guard,
            bound=remembered.is_bound(self.request.subject, digest),
        )


@dataclass(slots=True)
class Publisher:
    """Brings one version from a folder into its home region. A `Controller`."""

    replicas: Replicas
    request: Request
    manifest: Manifest
    source: Source
    guard: Callable[[], None]
    feature: str = PUBLISH

    def observe(self) -> tuple[Regions, str | None]:
        """Every region: a version is immutable everywhere."""
        remembered = self.replicas.catalogue.recall(self.request.subject)
        regions = self.replicas.catalogue.see(
            self.request.subject, measure_partial=True, remembered=remembered
        )
        return regions, remembered.digest_of(self.request.subject)

    def decide(self, seen: tuple[Regions, str | None], now: datetime) -> Plan:
        """See `replication.decide`."""
        return decide_publish(self.request, self.manifest, *seen)

    def act(self, actions: Sequence[Action], operation: str) -> Iterator[Outcome]:
        """One action: the home region."""
        regions = [action.region for action in actions]
        remembered = self.replicas.catalogue.recall(self.request.subject)
        seen = self.replicas.catalogue.see(self.request.subject, regions, remembered=remembered)
        yield from _bring(
            self.replicas,
            self.manifest,
            self.source,
            actions,
            seen,
            self.guard,
            bound=remembered.is_bound(self.request.subject, self.manifest.digest),
        )


def _bring(
    replicas: Replicas,
    manifest: Manifest,
    source: Source,
    actions: Sequence[Action],
    seen: Regions,
    guard: Callable[[], None],
    *,
    bound: bool,
) -> Iterator[Outcome]:
    targets: dict[str, RegionSeen] = {}
    for action in actions:
        state = seen[action.region]
        if isinstance(state, RegionSeen):
            targets[action.region] = state
    began = replicas.clock.monotonic()
    brought = (
        replicas.bring(manifest, source, targets, guard=guard, bound=bound)
        if targets
        else Brought()
    )
    for action in actions:
        state = seen[action.region]
        if isinstance(state, Unknown):
            yield _failed(action, state.reason)
            continue
        result = brought.results[action.region]
        if isinstance(result, _STOPS_EVERYTHING):
            raise result
        if isinstance(result, MlplatformError):
            replicas.progress.done(action.region, f"failed: {result}")
            yield Outcome.of_error(action, result, finished_at=replicas.clock.now())
            continue
        yield Outcome(
            action=action.key,
            result=Result.DONE,
            detail=_told(result),
            measured={
                "sent_bytes": result.sent_bytes,
                "already_there_bytes": result.skipped_bytes,
                "resumed_parts": result.resumed_parts,
                "own_reads": result.own_reads,
                "reads_per_source_byte": brought.reads_per_source_byte,
                "seconds": round(replicas.clock.monotonic() - began, 3),
            },
            finished_at=replicas.clock.now(),
        )


def _told(report: TargetReport) -> str:
    told = f"stored and verified, {_counted(len(report.objects), 'file')}"
    if report.resumed_parts:
        verb = "was" if report.resumed_parts == 1 else "were"
        told += f"; {_counted(report.resumed_parts, 'part')} {verb} there already"
    elif report.sent_bytes == 0:
        told += "; all bytes were there already"
    return told


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _failed(action: Action, reason: str) -> Outcome:
    return Outcome(
        action=action.key, result=Result.FAILED, detail=reason, error="Unavailable", exit_code=5
    )
