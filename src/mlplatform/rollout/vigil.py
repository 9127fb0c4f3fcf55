"""Keeping an eye on a version that has a share: window by window beside the others, and after it
was promoted against the bar by which it was."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from mlplatform.control.orders import Kind as OrderKind
from mlplatform.core.errors import MlplatformError
from mlplatform.core.plan import Action
from mlplatform.core.seen import Unknown
from mlplatform.rollout.course.decide import regions_of
from mlplatform.rollout.course.shares import share_before
from mlplatform.rollout.course.windows import Sample, between
from mlplatform.rollout.hands import Hands
from mlplatform.rollout.plan.policy import policy_of
from mlplatform.rollout.plan.steps import Kind
from mlplatform.rollout.verdict.fixed_rate import bar, log10_e
from mlplatform.rollout.verdict.judge import Decision, RegionVerdict
from mlplatform.rollout.verdict.policy import Metric
from mlplatform.rollout.verdict.window import Event, Window, fits
from mlplatform.rollout.waiting import NEWS_SECONDS, TOLD_SECONDS, GoesBack, is_undo
from mlplatform.rollout.watching import Looked, Watch, evidence_json, scatter_of


@dataclass(slots=True)
class Vigil:
    """All regions of one rollout. Safe to share between threads, one a region."""

    hands: Hands
    seen: Callable[[Looked], None] = lambda looked: None
    at_zero: set[str] = field(default_factory=set)
    """Regions whose canary crashed: it has no share until it is well."""
    _watch: Watch | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _busy: set[str] = field(default_factory=set)
    """Regions in which somebody looks already."""
    _last: dict[str, tuple[float, Sample]] = field(default_factory=dict)
    """By region: the last look between steps, and when it was."""
    _news_at: dict[str, float] = field(default_factory=dict)
    _offset_seconds: float | None = None

    def opened(self) -> Watch:
        """The windows and what they come to, once something was agreed."""
        hands = self.hands
        with self._lock:
            if self._watch is None:
                assert hands.agreed is not None  # noqa: S101 - nothing is watched before that
                topology = hands.sites.topology
                section = topology.rollout.verdict
                regions = regions_of(hands.agreed)
                gpus = topology.models[hands.subject.model].gpus
                self._watch = Watch(
                    policy_of(section, regions),
                    scatter_of(section, regions, hands.sites.clock.now().date()),
                    section,
                    hands.sites.records,
                    hands.patience.operation,
                    gpus_a_server=sum(gpus.values()) or 1,
                    seen=self.seen,
                )
            return self._watch

    def _sample(self, region: str) -> Sample:
        hands = self.hands
        return self.opened().sample(self._at(), hands.split(region), hands.servers(region))

    def _at(self) -> float:
        """Seconds by a clock that nobody sets: the wall's when we began, or where the windows of
        who went before us end, and how long ago that was."""
        clock = self.hands.sites.clock
        watch = self.opened()
        with self._lock:
            if self._offset_seconds is None:
                began = clock.now().timestamp()
                ends = [w.end for region in watch.policy.regions for w in watch.windows(region)]
                self._offset_seconds = max([began, *ends]) - clock.monotonic()
            return self._offset_seconds + clock.monotonic()

    @contextmanager
    def _looking(self, region: str) -> Iterator[None]:
        self._busy.add(region)
        self._last.pop(region, None)
        try:
            yield
        finally:
            self._busy.discard(region)

    # --- a canary -------------------------------------------------------------------------------

    def canary(
        self,
        action: Action,
        share: int,
        least_seconds: float,
        *,
        to_promote: bool = False,
        closed: Callable[[], str] = lambda: "",
    ) -> RegionVerdict:
        """Windows until it was looked at for so long and, where it is `to_promote`, may be, and the
        region is not `closed`. `GoesBack` as soon as the verdict says so. Only what could be
        counted has been looked at."""
        with self._looking(action.region):
            return self._canary(action, share, least_seconds, to_promote=to_promote, closed=closed)

    def _canary(
        self,
        action: Action,
        share: int,
        least_seconds: float,
        *,
        to_promote: bool,
        closed: Callable[[], str],
    ) -> RegionVerdict:
        hands, region, version = self.hands, action.region, self.hands.subject.version
        patience, clock = hands.patience, hands.sites.clock
        section, watch = hands.sites.topology.rollout.verdict, self.opened()
        last, looked, said_at = self._sample(region), 0.0, float("-inf")
        while True:
            verdict = watch.verdict(region)
            self._require_better(verdict, watch)
            if looked >= least_seconds and region not in self.at_zero:
                by_order = bool(to_promote and patience.ordered(OrderKind.PROMOTE))
                may = not to_promote or by_order or verdict.decision is Decision.PROMOTE
                if may and not closed():
                    return verdict
            down = (lambda: False) if region in self.at_zero else self._is_down(action)
            patience.pause(section.window_seconds, action, until=down)
            self._require_ours(action, 0 if region in self.at_zero else share)
            now = self._sample(region)
            verdict = watch.add(last, now, region, version)
            window, last = watch.windows(region)[-1], now
            if region not in self.at_zero and _was_counted(window):
                looked += window.end - window.start
            self._require_better(verdict, watch)
            if verdict.weight_zero and region not in self.at_zero:
                self._leave(action, verdict, share)
                last = self._sample(region)
            elif region in self.at_zero and not verdict.weight_zero:
                told = action.parameters
                hands.bear(action, version, str(told["digest"]), int(told["new_servers"]))
                hands.move(action, share, shares={0})
                self.at_zero.discard(region)
                last = self._sample(region)
            if clock.monotonic() - said_at >= TOLD_SECONDS:
                said_at = clock.monotonic()
                hands.told(f"{region}: {share} %: {self._said(window, verdict)}")

    def meanwhile(self, action: Action) -> None:
        """While a step waits: a canary that has its share from a step before is looked at as well,
        window by window, and whether any of it is ready."""
        hands, region = self.hands, action.region
        if hands.agreed is None or is_undo(action) or region in self._busy | self.at_zero:
            return
        if action.kind == Kind.APPROVE or not action.parameters["last_good"]:
            return
        share = share_before(hands.agreed, action)
        if not 0 < share < 100:
            return
        now = hands.sites.clock.monotonic()
        if region not in self._last:
            self._last[region] = (now, self._sample(region))
            return
        since, last = self._last[region]
        section = hands.sites.topology.rollout.verdict
        if now - since < section.window_seconds:
            if now - max(since, self._news_at.get(region, since)) < NEWS_SECONDS:
                return
            self._news_at[region] = now
            if not self._is_down(action)():
                return
        with self._looking(region):
            watch = self.opened()
            sample = self._sample(region)
            verdict = watch.add(last, sample, region, hands.subject.version)
            self._require_better(verdict, watch)
            if verdict.weight_zero:
                self._leave(action, verdict, share)
            else:
                self._last[region] = (now, sample)

    def _leave(self, action: Action, verdict: RegionVerdict, share: int) -> None:
        """A canary that crashed has nothing, at once; its servers are started again, where nobody
        else does that."""
        region, version, told = action.region, self.hands.subject.version, action.parameters
        self.hands.told(f"{region}: {'; '.join(verdict.because)}; its weight is 0 meanwhile")
        self.at_zero.add(region)
        self.hands.move(action, 0, shares={share})
        digest = str(told["digest"])
        wanted = self.hands.group(action, version).wanted or int(told["new_servers"])
        self.hands.scale(action, version, wanted, digest)

    def _require_better(self, verdict: RegionVerdict, watch: Watch) -> None:
        if verdict.decision is Decision.ROLL_BACK:
            raise GoesBack(
                "; ".join(verdict.because),
                verdict={"verdict": evidence_json(verdict, watch.policy)},
            )

    def _require_ours(self, action: Action, share: int) -> None:
        """As far as the entry can be read: the counters tell when it cannot."""
        try:
            state = self.hands.split(action.region).read()
        except MlplatformError as error:
            if not error.retryable:
                raise
            return
        self.hands.require_ours_in(action, state, {share})

    def _is_down(self, action: Action) -> Callable[[], bool]:
        """Whether no server of the version on trial is ready, as far as that can be read."""

        def down() -> bool:
            try:
                groups = self.hands.servers(action.region).read().groups
            except MlplatformError:
                return False
            group = groups.get(self.hands.subject.version)
            return group is None or not group.ready

        return down

    def _said(self, window: Window, verdict: RegionVerdict) -> str:
        for arm in (window.canary, window.fleet):
            if isinstance(arm, Unknown):
                return f"held: nothing was counted: {arm.reason}"
        return said(verdict)

    # --- promoted -------------------------------------------------------------------------------

    def others(self, action: Action) -> None:
        """A window of what serves before all of it moves at once: what comes after is compared with
        that."""
        hands, region = self.hands, action.region
        seconds = hands.sites.topology.rollout.verdict.window_seconds
        with self._looking(region):
            last = self._sample(region)
            hands.patience.pause(seconds, action)
            self.opened().add(last, self._sample(region), region, hands.subject.version)

    def bake(self, action: Action, seconds: float) -> tuple[float, float, str]:
        """So long of windows that could be counted, against the bar by which it was promoted.
        Requests, failures, and what that bar was."""
        hands, region, version = self.hands, action.region, self.hands.subject.version
        section = hands.sites.topology.rollout.verdict
        rate, phi = self._bar(region)
        needed = -math.log10(section.alpha)
        requests = failures = looked = 0.0
        last, down, said_at = self._sample(region), 0, hands.sites.clock.monotonic()
        while looked < seconds:
            window_seconds = min(section.window_seconds, seconds)
            hands.patience.pause(window_seconds, action, until=self._is_down(action))
            self._require_ours(action, 100)
            now = self._sample(region)
            counted = between(last, now, version)
            passed, last = now.at - last.at, now
            if isinstance(counted, Unknown):
                if hands.sites.clock.monotonic() - said_at >= TOLD_SECONDS:
                    said_at = hands.sites.clock.monotonic()
                    hands.told(f"{region}: the bake waits: {counted.reason}")
            else:
                requests, failures = requests + counted[0], failures + counted[1]
                looked += passed
            if not isinstance(now.groups, Unknown):
                group = now.groups.get(version)
                down = 0 if group is not None and group.ready else down + 1
            if down >= 2:
                raise GoesBack(f"no server of {version} has been ready for {down} looks")
            if rate is not None:
                e = log10_e(requests, failures, rate, phi=phi)
                if e >= needed:
                    raise GoesBack(
                        f"{failures:.0f} of {requests:.0f} requests failed since it was promoted, "
                        f"more than {rate:.2%} (e-value 10^{e:.1f})"
                    )
        told = f"held to {rate:.2%}" if rate is not None else "nothing was there to hold it to"
        return requests, failures, told

    def reaching(self, action: Action, version: str) -> Callable[[], str]:
        """What says, window by window, that requests still reach a version, or that nobody knows;
        empty after a window without any. A scraped counter says nothing of less than that."""
        hands, region = self.hands, action.region
        seconds = hands.sites.topology.rollout.verdict.window_seconds
        last = self._sample(region)

        def still() -> str:
            nonlocal last
            hands.patience.pause(seconds, action)
            now = self._sample(region)
            counted, last = between(last, now, version), now
            if isinstance(counted, Unknown):
                return f"nobody knows whether requests reach {version}: {counted.reason}"
            return f"{counted[0]:.0f} requests still reached {version}" if counted[0] else ""

        return still

    def _bar(self, region: str) -> tuple[float | None, float]:
        """The rate of errors that was promised, and by what they come in clusters. None: nothing
        was counted beside it."""
        watch = self.opened()
        section = self.hands.sites.topology.rollout.verdict
        requests, failures = served_beside(watch.windows(region))
        known = watch.scatter.get((region, Metric.ERRORS), Unknown("it was not declared"))
        phi = 1.0 if isinstance(known, Unknown) else known.phi
        if not requests:
            return None, phi
        rate = bar(requests, failures, delta=section.delta_promote, epsilon=section.epsilon)
        return rate, phi


def served_beside(windows: Sequence[Window]) -> tuple[float, float]:
    """Requests and failures of all other versions, in windows in which they could be counted."""
    requests = failures = 0.0
    for window in windows:
        fleet = window.fleet
        if not isinstance(fleet, Unknown) and fits(fleet.errors, fleet.requests):
            requests, failures = requests + fleet.requests, failures + fleet.errors
    return requests, failures


def _was_counted(window: Window) -> bool:
    return (
        not isinstance(window.canary, Unknown)
        and not isinstance(window.fleet, Unknown)
        and Event.GAP not in window.events
        and fits(window.canary.errors, window.canary.requests)
        and fits(window.fleet.errors, window.fleet.requests)
    )


def said(verdict: RegionVerdict) -> str:
    """A verdict in a line."""
    parts = [
        f"{each.metric.value} {each.failures:.0f}/{each.requests:.0f}, fleet "
        f"{each.fleet_failures:.0f}/{each.fleet_requests:.0f}, "
        f"e-value 10^{each.log10_e:.1f} of 10^{each.log10_e_needed:.1f}"
        for each in verdict.evidence
    ]
    return f"{verdict.decision.value}: {'; '.join(parts)}"
