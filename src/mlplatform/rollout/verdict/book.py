"""What windows came to, region by region and metric by metric, added up as they come. Pure.

A book is a value: whoever has the policy, what was known of dispersion and the windows has the
book, so that a controller that starts again reads its windows again. What a window adds depends on
no other window but by the clock, and all regions are added at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mlplatform.core.errors import UsageError
from mlplatform.core.seen import Unknown
from mlplatform.rollout.verdict.dispersion import Dispersion, allowance
from mlplatform.rollout.verdict.e_process import (
    CUTS,
    RATIOS,
    WORSE,
    Flags,
    Numbers,
    bets_against,
    bets_for,
    likelihoods,
    log_e,
)
from mlplatform.rollout.verdict.policy import Metric, Policy
from mlplatform.rollout.verdict.window import (
    Arm,
    Event,
    LeftOut,
    Window,
    fits,
    for_any,
    for_latency,
    known,
)

KNOWN, CEILING, PLACEBO = range(3)
"""Three accounts of the evidence against each cell: with the dispersion that is known (none, where
it is not), with the policy's ceiling, and with stable pods in the canary's place."""
_REASONS = list(LeftOut)
_SMOOTHING = 0.2
"""What the newest window counts for in the traffic at present."""

Scatter = Mapping[tuple[str, Metric], Dispersion | Unknown]
"""What is known of dispersion, before the rollout, by region and metric. What is absent is not."""


@dataclass(frozen=True, slots=True)
class Point:
    """The evidence at one look, for a live view."""

    end: float
    log10_e: float
    placebo_log10_e: float | None


class Sums:
    """Arrays by region and metric. Changed only by the book that made them."""

    def __init__(self, regions: int, metrics: int) -> None:
        cells = (regions, metrics)
        self.against = np.zeros((3, *cells, len(WORSE)))
        self.log_e = np.zeros((3, *cells))
        self.likelihood = np.zeros((*cells, len(RATIOS)))
        self.bets_for = np.zeros((*cells, len(CUTS)))
        self.weight = np.zeros(cells)
        """The canary's requests, each over its window's allowance."""
        self.canary = np.zeros((2, *cells))
        """Requests and failures."""
        self.fleet = np.zeros((2, *cells))
        self.pooled = np.zeros((2, *cells))
        """Mantel and Haenszel's sums: their ratio is that of the rates, whatever drifts."""
        self.a_second = np.zeros((2, *cells))
        """Requests of the canary and of the fleet at present."""
        self.allowance = np.ones(cells)
        self.windows = np.zeros(cells)
        self.seconds = np.zeros(cells)
        """Of windows that counted, since the last crash."""
        self.failing_windows = np.zeros(cells)
        self.sources = np.zeros(cells)
        self.left_out = np.zeros((*cells, len(_REASONS)), np.int64)
        self.placebo = np.zeros(cells, bool)
        """Whether stable pods were ever put in the canary's place."""
        self.last_end = np.full(regions, -math.inf)
        self.crashes = np.zeros(regions)
        self.down = np.zeros(regions, bool)
        """A crash, or no endpoint, in the newest window."""
        self.resets = np.zeros(regions)
        self.checks = np.zeros((2, regions))
        """Of the simple mode: windows checked, and failed."""

    def copy(self) -> Sums:
        """Another, which may be changed."""
        twin = Sums.__new__(Sums)
        twin.__dict__ = {name: each.copy() for name, each in self.__dict__.items()}
        return twin


@dataclass(frozen=True, slots=True)
class _Look:
    """What one round of windows, at most one a region, left for the live view."""

    regions: npt.NDArray[np.int64]
    ends: Numbers
    log_e: Numbers


class Book:
    """What all windows so far came to."""

    def __init__(self, policy: Policy, scatter: Scatter) -> None:
        self.policy = policy
        self.scatter = scatter
        cells = [[scatter.get((region, metric)) for metric in policy.metrics]
                 for region in policy.regions]  # fmt: skip
        self.known: Flags = np.array([[isinstance(each, Dispersion) for each in row]
                                      for row in cells])  # fmt: skip
        self.phi: Numbers = _of(cells, lambda told: told.phi, 1.0)
        self.sigma: Numbers = _of(cells, lambda told: told.sigma, 0.0)
        self.sums = Sums(len(policy.regions), len(policy.metrics))
        self._places = {region: place for place, region in enumerate(policy.regions)}
        self._looks: tuple[_Look, ...] = ()

    def after(self, windows: Iterable[Window]) -> Book:
        """The book with these windows as well; those of one region in the order of time.
        `UsageError` for a region that the policy does not name."""
        book = Book.__new__(Book)
        book.__dict__ = dict(self.__dict__)
        book.sums = self.sums.copy()
        waiting = list(windows)
        while waiting:
            later: list[Window] = []
            now: dict[int, Window] = {}
            for window in waiting:
                place = self._places.get(window.region)
                if place is None:
                    raise UsageError(
                        f"rollout verdict: a window of region {window.region!r}",
                        hint=f"the policy names {', '.join(self.policy.regions)}",
                    )
                if place in now:
                    later.append(window)
                else:
                    now[place] = window
            book._add(now)
            waiting = later
        return book

    def climb(self, region: str, metric: Metric) -> list[Point]:
        """The evidence against a canary, look by look."""
        place, column = self._places[region], self.policy.metrics.index(metric)
        placebo = bool(self.sums.placebo[place, column])
        points = []
        for look in self._looks:
            for row in np.flatnonzero(look.regions == place):
                against, other = look.log_e[:, row, column] / math.log(10)
                points.append(
                    Point(float(look.ends[row]), float(against), float(other) if placebo else None)
                )
        return points

    def left_out(self, region: str, metric: Metric) -> dict[LeftOut, int]:
        """How many windows said nothing, and why."""
        counts = self.sums.left_out[self._places[region], self.policy.metrics.index(metric)]
        return {_REASONS[at]: int(counts[at]) for at in np.flatnonzero(counts)}

    def _add(self, now: Mapping[int, Window]) -> None:
        places = np.fromiter(now, np.int64, len(now))
        read = [self._read(place, window) for place, window in now.items()]
        table = np.array([row for row, _ in read], dtype=np.float64)
        counted = np.array([flags for _, flags in read], dtype=bool)
        sums, metrics = self.sums, self.policy.metrics

        seconds, pods, fleet_pods = table[:, 0], table[:, 1], table[:, 2]
        arms = table[:, 3:].reshape(len(read), 2, 7)[:, [_COLUMN[each] for each in metrics]]
        requests, failures, fleet_requests, fleet_failures = (arms[..., at] for at in range(4))
        placebo_requests, placebo_failures, sources = (arms[..., at] for at in range(4, 7))

        odds = requests / fleet_requests
        pods = pods[:, None]
        fleet_pods = np.where(
            fleet_pods[:, None] > 0, fleet_pods[:, None], np.maximum(pods / odds, 1)
        )
        ceiling = self.policy.ceiling
        allowed = np.where(counted, allowance(self.sigma[places], pods, fleet_pods), 1.0)
        at_ceiling = allowance(np.full_like(allowed, ceiling.sigma), pods, fleet_pods)
        bar = 1 + self.policy.delta

        kept = counted.astype(np.float64)
        failures, fleet_failures = failures * kept, fleet_failures * kept
        sums.against[KNOWN, places] += bets_against(failures, fleet_failures, odds, bar * allowed)
        sums.against[CEILING, places] += bets_against(
            failures, fleet_failures, odds, bar * at_ceiling
        )
        rest = fleet_requests - placebo_requests
        tried = counted & (placebo_requests > 0) & (rest > 0)
        sums.placebo[places] |= tried
        if tried.any():
            instead = np.where(tried, placebo_failures, 0.0)
            sums.against[PLACEBO, places] += bets_against(
                instead,
                np.where(tried, fleet_failures - instead, 0.0),
                np.where(tried, placebo_requests / np.maximum(rest, 1e-9), 1.0),
                bar * allowed,
            )
        sums.likelihood[places] += likelihoods(failures, fleet_failures, odds / allowed)
        sums.bets_for[places] += bets_for(failures, fleet_failures, odds / allowed)
        sums.weight[places] += kept * requests / allowed
        sums.allowance[places] = np.where(counted, allowed, sums.allowance[places])

        sums.canary[0, places] += kept * requests
        sums.canary[1, places] += failures
        sums.fleet[0, places] += kept * fleet_requests
        sums.fleet[1, places] += fleet_failures
        share = 1 / (requests + fleet_requests)
        sums.pooled[0, places] += failures * fleet_requests * share
        sums.pooled[1, places] += fleet_failures * requests * share
        for side, count in enumerate((requests, fleet_requests)):
            before = sums.a_second[side, places]
            newest = count / seconds[:, None]
            smooth = np.where(sums.windows[places] > 0, _SMOOTHING, 1.0)
            sums.a_second[side, places] = np.where(
                counted, before + smooth * (newest - before), before
            )
        sums.windows[places] += counted
        sums.seconds[places] += kept * seconds[:, None]
        sums.seconds[places[sums.down[places]]] = 0.0
        sums.failing_windows[places] += failures > 0
        phi = np.where(self.known[places], self.phi[places], ceiling.phi)
        sums.sources[places] += kept * np.where(np.isfinite(sources), sources, failures / phi)

        against = sums.against[:, places]
        sums.log_e[KNOWN, places] = log_e(against[KNOWN], self.phi[places])
        sums.log_e[CEILING, places] = log_e(against[CEILING], np.full(counted.shape, ceiling.phi))
        sums.log_e[PLACEBO, places] = log_e(against[PLACEBO], self.phi[places])
        ends = sums.last_end[places]
        self._looks = (
            *self._looks,
            _Look(places, ends, sums.log_e[[KNOWN, PLACEBO]][:, places]),
        )

    def _read(self, place: int, window: Window) -> tuple[list[float], list[bool]]:
        """A window as numbers, and by metric whether it counts; events are noted here."""
        sums, metrics = self.sums, self.policy.metrics
        if window.events:
            fell = Event.CRASH in window.events or Event.NO_ENDPOINT in window.events
            sums.crashes[place] += fell
            sums.resets[place] += Event.RESET in window.events
        else:
            fell = False
        sums.down[place] = fell
        canary, fleet = window.canary, window.fleet
        if self.policy.thresholds is not None and not isinstance(canary, Unknown):
            self._check(place, canary)
        why = for_any(window, float(sums.last_end[place]))
        if window.end > sums.last_end[place] and math.isfinite(window.end):
            sums.last_end[place] = window.end
        if why is not None or isinstance(canary, Unknown) or isinstance(fleet, Unknown):
            sums.left_out[place, :, _REASONS.index(why or LeftOut.CANARY_UNKNOWN)] += 1
            return _NOTHING, [False] * len(metrics)
        counts = [True] * len(metrics)
        if Metric.LATENCY in metrics:
            why = for_latency(canary, fleet, self.policy.load_tolerance)
            if why is not None:
                column = metrics.index(Metric.LATENCY)
                sums.left_out[place, column, _REASONS.index(why)] += 1
                counts[column] = False
        row = [
            window.end - window.start,
            max(known(canary.pods, 1.0), 1.0),
            known(fleet.pods, 0.0),
            *_errors(canary, fleet, window.placebo),
            *(_latency(canary, fleet, window.placebo) if all(counts) else _NO_ARMS),
        ]
        return row, counts

    def _check(self, place: int, canary: Arm) -> None:
        """The simple mode's check of one window."""
        limits = self.policy.thresholds
        if limits is None or not fits(canary.errors, canary.requests) or not canary.requests:
            return
        failed = canary.requests - canary.errors < limits.success_least * canary.requests
        if (
            Metric.LATENCY in self.policy.metrics
            and canary.timed is not None
            and canary.slow is not None
            and fits(canary.slow, canary.timed)
        ):
            failed |= canary.slow > limits.slow_most * canary.timed
        self.sums.checks[:, place] += (1, failed)


_COLUMN = {Metric.ERRORS: 0, Metric.LATENCY: 1}
_NO_ARMS = [1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0]
_NOTHING = [1.0, 1.0, 1.0, *_NO_ARMS, *_NO_ARMS]
"""A window that does not count."""


def _errors(canary: Arm, fleet: Arm, placebo: Arm | None) -> list[float]:
    """Requests and failures of the canary, the fleet and the placebo, and the canary's sources."""
    sources = known(canary.sources, math.nan)
    arms = [canary.requests, canary.errors, fleet.requests, fleet.errors]
    if placebo is None or not (
        fits(placebo.errors, min(placebo.requests, fleet.errors))
        and fits(placebo.requests, fleet.requests)
    ):
        return [*arms, 0.0, 0.0, sources]
    return [*arms, placebo.requests, placebo.errors, sources]


def _latency(canary: Arm, fleet: Arm, placebo: Arm | None) -> list[float]:
    """The same of requests that are too slow, whose sources nobody counts."""
    timed, slow = fleet.timed or 0.0, fleet.slow or 0.0
    arms = [canary.timed or 0.0, canary.slow or 0.0, timed, slow]
    if (
        placebo is None
        or placebo.timed is None
        or placebo.slow is None
        or not (fits(placebo.slow, min(placebo.timed, slow)) and fits(placebo.timed, timed))
    ):
        return [*arms, 0.0, 0.0, math.nan]
    return [*arms, placebo.timed, placebo.slow, math.nan]


def _of(
    cells: list[list[Dispersion | Unknown | None]],
    part: Callable[[Dispersion], float],
    otherwise: float,
) -> Numbers:
    return np.array(
        [
            [part(each) if isinstance(each, Dispersion) else otherwise for each in row]
            for row in cells
        ]
    )
