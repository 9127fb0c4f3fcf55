"""One vantage at work: it asks every region, and keeps one record of what it met.

A round starts a probe of each target that is not being asked still, so that a region which answers
nothing holds up neither the others nor the next round. What was met is published as soon as all
have answered or a second has passed, and once more when the stragglers have. Nothing is published
of a moment of which it is not yet known whether the vantage could see at all.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial
from random import Random

from mlplatform.control import metrics
from mlplatform.control.golden_library import GoldenLibrary
from mlplatform.core.errors import UsageError
from mlplatform.core.placement import ModelVersion
from mlplatform.core.topology import Topology
from mlplatform.failover.evidence.outside import OutsideView
from mlplatform.failover.evidence.record import GoldenAnswer, Path, VantageRecord
from mlplatform.failover.vantage.asking import Asker
from mlplatform.failover.vantage.keeper import Keeper, Said
from mlplatform.failover.vantage.rounds import (
    Heading,
    Met,
    Rotation,
    Target,
    blindness,
    next_record,
    sample_of,
    targets_of,
)
from mlplatform.failover.verdict.opinion import opinion_after
from mlplatform.ports.clock import Clock
from mlplatform.ports.probe import Answer

log = logging.getLogger(__name__)

_THREADS = 64
_PATIENCE_SECONDS = 1.0
"""How long a round waits for all to answer before it publishes what it has."""
_LOAD_SECONDS = 300.0
"""How often the load of models is asked for."""
_JITTER = 0.1
"""Of the interval, either way: vantages that were started together do not stay together."""

Task = Callable[[], None]


@dataclass(slots=True)
class _Round:
    """One round, which goes on until the last of its probes has ended."""

    number: int
    references: dict[str, Answer | None]
    """None: it has not answered yet."""
    silent: set[str] = field(default_factory=set)
    """Regions whose front end gave no answer in this round."""

    @property
    def blind(self) -> str | None:
        """Why it was blind, empty if it was not; None while that is not known."""
        answers = {url: answer for url, answer in self.references.items() if answer is not None}
        if any(answer.status is not None for answer in answers.values()):
            return ""
        return blindness(answers) if len(answers) == len(self.references) else None


@dataclass(frozen=True, slots=True)
class _Finding:
    """Something met, and when, by this process's clock."""

    round: _Round
    at: float
    target: Target
    answer: Answer | None = None
    """To the question of health; else it is the golden one."""
    golden: GoldenAnswer | None = None


class Prober:
    """Probes as one vantage. All but the probes themselves happens in the thread that calls."""

    def __init__(
        self,
        topology: Topology,
        vantage: str,
        *,
        asker: Asker,
        golden: GoldenLibrary,
        outside: OutsideView,
        keeper: Keeper,
        clock: Clock,
        random: Random,
        executor: Executor,
        writer: str = "",
        interval_seconds: float | None = None,
        said: Said = log.warning,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        require_vantage(topology, vantage)
        self._topology = topology
        self._vantage = vantage
        self._references = topology.traffic.vantages[vantage].references
        self._probing = topology.traffic.probe
        self._interval_seconds = interval_seconds or self._probing.interval_seconds
        self._asker = asker
        self._golden = golden
        self._outside = outside
        self._keeper = keeper
        self._clock = clock
        self._random = random
        self._executor = executor
        self._writer = writer
        self._said = said
        self._stop = stop
        self._targets = targets_of(topology)
        self._places = {target: place for place, target in enumerate(self._targets)}

        self._changed = threading.Condition()
        self._tasks: deque[Task] = deque()
        self._workers = 0
        self._under_way: set[object] = set()
        self._findings: list[_Finding] = []

        self._rounds = 0
        self._rotation = Rotation(topology, {})
        self._load_at: float | None = None
        self._turns: dict[str, str] = {}
        self._late = False
        self._blind = ""
        self._opinions: dict[Target, bool | None] = {}
        self.met = Met()
        """What the last record has that the one before had not."""
        self.record: VantageRecord | None = None
        """What was published last."""
        self._record_at = clock.monotonic()

    @property
    def unwritten(self) -> str:
        """Why the last record could not be written; empty if it was."""
        return self._keeper.unwritten

    # --- rounds ---------------------------------------------------------------------------------

    def once(self) -> VantageRecord | None:
        """One round to its end; the record, which may be unwritten. None when it was stopped."""
        self._recall()
        self._learn_loads()
        self.start_round()
        while not self._idle():
            if self._stop():
                return None
            self._await(0.5)
        if record := self._next_record():
            self._keeper.write(record)
            measure(record, self._keeper.written_at)
        return self.record

    def run(self) -> None:
        """Rounds until somebody stops it."""
        self._recall()
        while not self._stop():
            began = self._clock.monotonic()
            ends = began + self._interval_seconds * (1 + self._random.uniform(-_JITTER, _JITTER))
            self.start_round()
            self._wait(min(began + _PATIENCE_SECONDS, ends), self._idle)
            self.publish()
            self._wait(ends, self._idle)
            self.publish()
            self._wait(ends, lambda: False)

    def publish(self) -> None:
        """Let the record say what was met since the last time, if anything was."""
        if record := self._next_record():
            self._keeper.offer(record)
            measure(record, self._keeper.written_at)

    def _recall(self) -> None:
        self.record = self._keeper.recall()
        self._record_at = self._clock.monotonic()
        if self.record is not None:
            self._turns = dict(self.record.turns)

    def _wait(self, until: float, enough: Callable[[], bool]) -> None:
        while not self._stop() and not enough():
            left = until - self._clock.monotonic()
            if left <= 0:
                return
            self._await(min(left, 0.5))

    def _await(self, seconds: float) -> None:
        with self._changed:
            if self._under_way:
                self._changed.wait(seconds)
                return
        self._clock.sleep(seconds)

    def _idle(self) -> bool:
        with self._changed:
            return not self._under_way

    # --- asking ---------------------------------------------------------------------------------

    def start_round(self) -> None:
        """Begin to ask whatever is due and is not being asked still."""
        self._rounds += 1
        this = _Round(self._rounds, dict.fromkeys(self._references))
        tasks: list[tuple[object, Task]] = [
            *(
                ((url, this.number), partial(self._ask_reference, this, url))
                for url in self._references
            ),
            *((target, partial(self._ask_health, this, target)) for target in self._targets),
            *(
                ((target.region, subject.model), partial(self._ask_golden, this, target, subject))
                for target, subject in self._golden_due()
            ),
        ]
        if self._load_at is None or self._clock.monotonic() - self._load_at >= _LOAD_SECONDS:
            tasks.append(("load", self._learn_loads))
        self._start(tasks)

    def _golden_due(self) -> list[tuple[Target, ModelVersion]]:
        found = []
        without = self._golden.without
        for target in self._targets:
            if target.path is Path.DIRECT:
                for subject in self._rotation.due(
                    target.region,
                    self._turns.get(target.region),
                    self._probing.golden_per_round,
                    without,
                ):
                    self._turns[target.region] = subject.model
                    found.append((target, subject))
        return found

    def _start(self, tasks: list[tuple[object, Task]]) -> None:
        late = []
        with self._changed:
            for key, task in tasks:
                if key in self._under_way:
                    late.append(key)
                else:
                    self._under_way.add(key)
                    self._tasks.append(self._ending(key, task))
            # Every worker there is has its hands full: one with nothing to do ends.
            new = min(_THREADS - self._workers, len(self._tasks))
            self._workers += new
        for _ in range(new):
            self._executor.submit(self._work)
        slow = [str(key) for key in late if isinstance(key, Target)]
        if slow:
            overlong.add(vantage=self._vantage)
            if not self._late:
                self._said(
                    f"probes take longer than the {self._interval_seconds:g} s between rounds: "
                    f"{', '.join(slow[:5])}; the others are asked on time"
                )
        self._late = bool(slow)

    def _ending(self, key: object, task: Task) -> Task:
        def run() -> None:
            try:
                task()
            except Exception:  # one probe's must not become the others'
                log.exception("a probe broke", extra={"probe": str(key)})
            finally:
                with self._changed:
                    self._under_way.discard(key)
                    self._changed.notify_all()

        return run

    def _work(self) -> None:
        while True:
            with self._changed:
                if not self._tasks or self._stop():
                    self._workers -= 1
                    return
                task = self._tasks.popleft()
            task()

    def _ask_reference(self, this: _Round, url: str) -> None:
        this.references[url] = self._asker.reference(url)

    def _ask_health(self, this: _Round, target: Target) -> None:
        answer = self._asker.health(target)
        if answer.status is None:
            this.silent.add(target.region)
        self._found(_Finding(this, self._clock.monotonic(), target, answer))

    def _ask_golden(self, this: _Round, target: Target, subject: ModelVersion) -> None:
        if target.region in this.silent:
            return  # it would say the same once more, and take as long
        golden = self._asker.golden(target, subject, this.number)
        if golden is not None:
            self._found(_Finding(this, self._clock.monotonic(), target, golden=golden))

    def _found(self, finding: _Finding) -> None:
        with self._changed:
            self._findings.append(finding)

    def _learn_loads(self) -> None:
        self._load_at = self._clock.monotonic()
        if loads := self._outside.load_by_model():
            self._rotation = Rotation(self._topology, loads)

    # --- the record -----------------------------------------------------------------------------

    def _next_record(self) -> VantageRecord | None:
        """The record with all that was met and may be told; None if there is nothing new."""
        with self._changed:
            known = [each for each in self._findings if each.round.blind is not None]
            self._findings = [each for each in self._findings if each.round.blind is None]
        if not known:
            return None
        blind = max(known, key=lambda each: each.round.number).round.blind or ""
        seen = [each for each in known if not each.round.blind and not blind]
        seen.sort(key=lambda each: (self._places[each.target], each.at))
        now = self._clock.monotonic()
        self.met = met = Met(
            samples=tuple(
                (
                    each.target,
                    sample_of(each.answer, seconds_ago=now - each.at),
                    each.answer.certificate_expires_at,
                )
                for each in seen
                if each.answer is not None
            ),
            golden=tuple(
                each.golden.model_copy(update={"seconds_ago": round(now - each.at, 6)})
                for each in seen
                if each.golden is not None
            ),
            blind=blind,
            turns=self._turns,
        )
        heading = Heading(
            self._vantage,
            self._keeper.next_round(),
            self._clock.now(),
            self._interval_seconds,
            self._writer,
        )
        self.record = next_record(
            self.record, now - self._record_at, heading, met, self._targets, self._probing
        )
        self._record_at = now
        self._tell_changes(self.record)
        return self.record

    def _tell_changes(self, record: VantageRecord) -> None:
        if record.blind != self._blind:
            self._said(f"blind: {record.blind}" if record.blind else "no longer blind")
            self._blind = record.blind
        for target, series in zip(self._targets, record.series, strict=True):
            up = opinion_after(series, rise=self._probing.rise, fall=self._probing.fall).up
            before = self._opinions.get(target)
            if up is not before and not (before is None and up):
                last = series.samples[-1] if series.samples else None
                why = f": {last.error}: {last.detail}" if last and not last.ok else ""
                self._said(f"{target}: {'up' if up else 'down'}{why}")
            self._opinions[target] = up


def require_vantage(topology: Topology, vantage: str) -> None:
    """`UsageError` if the topology has no such vantage, or nothing to probe."""
    vantages = topology.traffic.vantages
    if vantage not in vantages:
        raise UsageError(
            f"{vantage}: no such vantage in {topology.path or 'the topology'}",
            hint=f"there are: {', '.join(vantages) or 'none; name it under traffic.vantages'}",
        )
    if not targets_of(topology):
        raise UsageError(
            "no region has an endpoint, and no route a front door: there is nothing to probe",
            hint="give regions.REGION.endpoint in the topology",
        )


def doubts_of(topology: Topology, vantage: str) -> list[str]:
    """What is allowed and makes a vantage see less than it might."""
    doubts = [
        f"{name} has no endpoint: it is not probed"
        for name, region in topology.regions.items()
        if region.endpoint is None
    ]
    if not topology.traffic.vantages[vantage].references:
        doubts.append(f"vantage {vantage} names no references: it cannot know when it is blind")
    return doubts


# The series that `infra/prometheus/failover.rules.yaml` alerts on.
_WHERE = ("vantage", "region", "path", "route")
duration = metrics.Family(
    "mlplatform_probe_duration_seconds",
    "How long each phase of the last probe took.",
    (*_WHERE, "phase"),
    kind="gauge",
)
success = metrics.Family(
    "mlplatform_probe_success", "1 when the last probe was answered well.", _WHERE, kind="gauge"
)
certificate = metrics.Family(
    "mlplatform_probe_certificate_expiry_timestamp_seconds",
    "When the certificate ends that was in order last.",
    _WHERE,
    kind="gauge",
)
golden_success = metrics.Family(
    "mlplatform_probe_golden_success",
    "1 when the last golden request was answered as expected.",
    ("vantage", "region", "model"),
    kind="gauge",
)
golden_duration = metrics.Family(
    "mlplatform_probe_golden_duration_seconds",
    "How long the last golden request took.",
    ("vantage", "region", "model"),
    kind="gauge",
)
blind_vantage = metrics.Family(
    "mlplatform_vantage_blind",
    "1 while the vantage reaches none of its references.",
    ("vantage",),
    kind="gauge",
)
last_round = metrics.Family(
    "mlplatform_probe_last_round_timestamp_seconds",
    "When something was met last.",
    ("vantage",),
    kind="gauge",
)
last_written = metrics.Family(
    "mlplatform_probe_last_written_timestamp_seconds",
    "When a control store took the record last.",
    ("vantage",),
    kind="gauge",
)
overlong = metrics.Family(
    "mlplatform_probe_overlong_rounds_total",
    "Rounds that came due while probes of the one before were under way.",
    ("vantage",),
)

_PHASES = {
    "dns": "dns_seconds",
    "connect": "connect_seconds",
    "tls": "tls_seconds",
    "first_byte": "first_byte_seconds",
    "total": "seconds",
}


def measure(record: VantageRecord, written_at: float | None) -> None:
    """Set every series to what the record says. What is unknown has no sample."""
    for family in (duration, success, certificate, golden_success, golden_duration):
        family.clear()
    who = record.vantage
    for series in record.series:
        if not series.samples:
            continue
        last = series.samples[-1]
        region = series.region or last.region or "unknown"
        where = {"vantage": who, "region": region, "path": series.path.value}
        where["route"] = series.route or ""
        success.set(int(last.ok), **where)
        for phase, name in _PHASES.items():
            if (seconds := getattr(last, name)) is not None:
                duration.set(seconds, phase=phase, **where)
        if series.certificate_expires_at is not None:
            certificate.set(series.certificate_expires_at.timestamp(), **where)
    for answer in record.golden:
        of = {"vantage": who, "region": answer.region, "model": answer.model}
        golden_success.set(int(answer.ok), **of)
        if answer.seconds is not None:
            golden_duration.set(answer.seconds, **of)
    blind_vantage.set(int(bool(record.blind)), vantage=who)
    last_round.set(record.at.timestamp(), vantage=who)
    if written_at is not None:
        last_written.set(written_at, vantage=who)
