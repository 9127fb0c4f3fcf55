"""A canary under watch: counters read, windows kept, and the verdict on all that was counted."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date

from mlplatform.core.errors import MlplatformError
from mlplatform.core.plan import JSON
from mlplatform.core.rollout import Judging
from mlplatform.core.seen import Unknown
from mlplatform.ports.servers import Group, Servers
from mlplatform.ports.split import Counts, Split
from mlplatform.rollout.course.windows import Arms, Sample, window_of
from mlplatform.rollout.records import Records
from mlplatform.rollout.verdict.book import Book, Scatter
from mlplatform.rollout.verdict.dispersion import Dispersion
from mlplatform.rollout.verdict.judge import Evidence, RegionVerdict, judge
from mlplatform.rollout.verdict.policy import Metric, Policy
from mlplatform.rollout.verdict.window import Window

log = logging.getLogger(__name__)


def scatter_of(section: Judging, regions: Iterable[str], today: date) -> Scatter:
    """How much errors are known to scatter, by region and metric: as it is declared, until that
    expires."""
    found: dict[tuple[str, Metric], Dispersion | Unknown] = {}
    for metric in section.metrics:
        declared = section.dispersion.get(metric)
        told: Dispersion | Unknown
        if declared is None:
            told = Unknown(f"rollout.verdict.dispersion.{metric} is not declared")
        elif declared.expires_on < today:
            told = Unknown(
                f"rollout.verdict.dispersion.{metric} expired on {declared.expires_on}; "
                "measure it again"
            )
        else:
            told = Dispersion(declared.phi, declared.sigma)
        for region in regions:
            found[region, Metric(metric)] = told
    return found


@dataclass(frozen=True, slots=True)
class Looked:
    """What all windows of a region have come to, with one more of them."""

    region: str
    verdict: RegionVerdict
    climb: Mapping[str, Sequence[float]]
    """By metric: the evidence against the canary, look by look, in powers of ten."""


@dataclass(slots=True)
class Watch:
    """All regions of one rollout. Safe to share between threads, one a region."""

    policy: Policy
    scatter: Scatter
    section: Judging
    records: Records
    operation: str
    gpus_a_server: int = 1
    seen: Callable[[Looked], None] = lambda looked: None
    """Hears of every window, from the thread that looked."""
    _windows: dict[str, list[Window]] = field(default_factory=dict)
    _book: Book | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def recall(self) -> None:
        """Read again what another process counted before it ended."""
        for region in self.policy.regions:
            found = self.records.windows(self.operation, region)
            if found:
                with self._lock:
                    self._windows[region] = found
                    self._book = self._now().after(found)

    def sample(self, at: float, split: Split, servers: Servers) -> Sample:
        """One look. What cannot be read is unknown, and the window of it says nothing."""
        counts: Mapping[str, Counts | Unknown] | Unknown
        try:
            counts = split.counts(self.section.slow_seconds)
        except MlplatformError as error:
            counts = Unknown(str(error))
        return Sample(at, counts, _groups(servers))

    def add(self, before: Sample, after: Sample, region: str, canary: str) -> RegionVerdict:
        """A window between two looks, and what all of them allow to be said."""
        arms = Arms(region, canary, self.gpus_a_server)
        window = window_of(before, after, arms, window_seconds=self.section.window_seconds)
        with self._lock:
            self._windows.setdefault(region, []).append(window)
            kept = list(self._windows[region])
            self._book = self._now().after([window])
            verdict = judge(self._book)
        try:
            self.records.keep_windows(self.operation, region, kept)
        except MlplatformError as error:
            log.warning("%s: its windows are not kept: %s", region, error)
        found = next(each for each in verdict.regions if each.region == region)
        self.seen(Looked(region, found, self.climb(region)))
        return found

    def verdict(self, region: str) -> RegionVerdict:
        """What all windows so far allow to be said of a region."""
        with self._lock:
            verdict = judge(self._now())
        return next(each for each in verdict.regions if each.region == region)

    def windows(self, region: str) -> list[Window]:
        """What was counted there."""
        with self._lock:
            return list(self._windows.get(region, ()))

    def climb(self, region: str) -> dict[str, list[float]]:
        """The evidence against the canary, look by look, in powers of ten, by metric."""
        with self._lock:
            book = self._now()
            return {
                metric.value: [point.log10_e for point in book.climb(region, metric)]
                for metric in self.policy.metrics
            }

    def _now(self) -> Book:
        if self._book is None:
            self._book = Book(self.policy, self.scatter)
        return self._book


def _groups(servers: Servers) -> Mapping[str, Group] | Unknown:
    try:
        return servers.read().groups
    except MlplatformError as error:
        return Unknown(str(error))


def evidence_json(verdict: RegionVerdict, policy: Policy) -> JSON:
    """A verdict for the journal and for programs; what is not known, or without end, is null."""
    return {
        "decision": verdict.decision.value,
        "because": list(verdict.because),
        "needed_seconds": _finite(verdict.needed_seconds),
        "evidence": [_one(each, policy) for each in verdict.evidence],
    }


def _one(evidence: Evidence, policy: Policy) -> JSON:
    return {
        "metric": evidence.metric.value,
        "ground": evidence.ground.value,
        "log10_e": _finite(evidence.log10_e),
        "log10_e_needed": _finite(evidence.log10_e_needed),
        "requests": evidence.requests,
        "failures": evidence.failures,
        "fleet_requests": evidence.fleet_requests,
        "fleet_failures": evidence.fleet_failures,
        "ratio": _finite(evidence.ratio),
        "ratio_upper": _finite(evidence.ratio_upper),
        "excess_upper": _finite(evidence.excess_upper),
        "windows": evidence.windows,
        "seconds": evidence.seconds,
        "promote_seconds": _finite(evidence.promote_seconds),
        "left_out": {why.name.lower(): count for why, count in evidence.left_out.items()},
        "words": evidence.words(policy),
    }


def _finite(value: float) -> float | None:
    return value if value == value and abs(value) != float("inf") else None  # noqa: PLR0124
