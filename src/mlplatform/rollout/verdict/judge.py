"""Promote, roll back or hold: what windows so far allow to be said of a canary, and why. Pure.

- **Roll back** where the evidence against it reaches what alpha's part for that metric and region
  asks, with errors in enough windows and from enough sources, while stable pods in its place raise
  no alarm.
- **Promote** where it is surely below one of both bars in every metric and region; or, where policy
  allows it, when the bake has ended. Never while what there is leans against it, if not loudly: the
  bar for promotion is beyond what is called worse. The bound is told either way.
- **Hold** otherwise: inconclusive is an answer, with the time that is still needed.

A crash, or no ready endpoint, is no matter of statistics: its weight goes to 0 at once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from mlplatform.core.seen import Unknown
from mlplatform.rollout.verdict.book import CEILING, KNOWN, PLACEBO, Book
from mlplatform.rollout.verdict.e_process import (
    Flags,
    Numbers,
    bets_against,
    bets_for,
    excess_upper,
    likelihoods,
    ratio_upper,
    seconds_to_excess,
    seconds_to_ratio,
    seconds_to_roll_back,
)
from mlplatform.rollout.verdict.policy import Metric, Policy, Thresholds
from mlplatform.rollout.verdict.window import LeftOut


class Decision(StrEnum):
    """What may be done with the canary."""

    PROMOTE = "promote"
    ROLL_BACK = "roll-back"
    HOLD = "hold"


class Ground(StrEnum):
    """Which part of the rule decided."""

    WORSE = "worse"
    FAR_WORSE = "far-worse"
    """Even if errors scattered as much as the policy's ceiling."""
    CRASHES = "crashes"
    CHECKS_FAILED = "checks-failed"
    CHECKS_PASSED = "checks-passed"
    BOUND = "bound"
    ON_TIME = "on-time"
    NOTHING_COUNTED = "nothing-counted"
    DISPERSION_UNKNOWN = "dispersion-unknown"
    PLACEBO = "placebo"
    FEW_WINDOWS = "few-windows"
    FEW_SOURCES = "few-sources"
    SOAK = "soak"
    LEANS = "leans"
    """It would be promoted, but what there is speaks against it, if not loudly."""
    INCONCLUSIVE = "inconclusive"


_DECISIONS = {
    Ground.WORSE: Decision.ROLL_BACK,
    Ground.FAR_WORSE: Decision.ROLL_BACK,
    Ground.CRASHES: Decision.ROLL_BACK,
    Ground.CHECKS_FAILED: Decision.ROLL_BACK,
    Ground.CHECKS_PASSED: Decision.PROMOTE,
    Ground.BOUND: Decision.PROMOTE,
    Ground.ON_TIME: Decision.PROMOTE,
}
_GROUNDS = list(Ground)
_LEANS = 1e-9
"""Above it an e-value's logarithm is not 0 by rounding."""


def decision_of(ground: Ground) -> Decision:
    """What follows of it; to hold, unless something else does."""
    return _DECISIONS.get(ground, Decision.HOLD)


_NOUNS = {Metric.ERRORS: ("failed", "errors"), Metric.LATENCY: ("were slow", "slow requests")}


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of one metric in one region, and what follows of it alone."""

    region: str
    metric: Metric
    ground: Ground
    log10_e: float
    """Of the odds against the canary at which a bettor now stands who began with 1."""
    log10_e_needed: float
    log10_e_ceiling: float
    placebo_log10_e: float | None
    requests: float
    failures: float
    fleet_requests: float
    fleet_failures: float
    ratio: float
    """Of the canary's rate to the fleet's, window by window (Mantel and Haenszel); NaN: unknown."""
    ratio_upper: float
    """Not more than this, with the policy's certainty and whenever looked at; infinite: nothing is
    known. Errors independent, where dispersion is unknown."""
    excess_upper: float
    """Its rate less the fleet's is not more than this; likewise."""
    failing_windows: int
    sources: float
    phi: float
    allowance: float
    """By what factor chance may have made the canary's pods better or worse than the fleet's."""
    windows: int
    seconds: float
    """Of windows that counted, since the last crash."""
    promote_seconds: float
    """How much longer promotion takes if the canary is as good as the fleet, at present traffic;
    infinite if for ever."""
    roll_back_seconds: float
    """How much longer it takes to be returned, if it goes on as so far."""
    left_out: Mapping[LeftOut, int]
    unknown: str = ""
    """Why dispersion is not known."""

    @property
    def decision(self) -> Decision:
        """What this metric in this region, by itself, allows."""
        return decision_of(self.ground)

    def words(self, policy: Policy) -> str:
        """All of it, in a sentence or two."""
        return _words(self, policy)


@dataclass(frozen=True, slots=True)
class RegionVerdict:
    """What may be done in one region."""

    region: str
    decision: Decision
    weight_zero: bool
    """Send it nothing, at once: it crashed, or has no ready endpoint."""
    because: tuple[str, ...]
    evidence: tuple[Evidence, ...]
    needed_seconds: float
    """Of a hold: how much longer it takes at present traffic, if the canary is as good as the fleet
    or goes on failing; infinite if traffic alone does not end it."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What may be done with a canary in all regions of a policy. One bad region returns it."""

    decision: Decision
    regions: tuple[RegionVerdict, ...]

    @property
    def weight_zero(self) -> tuple[str, ...]:
        """Regions whose weight goes to 0 at once."""
        return tuple(each.region for each in self.regions if each.weight_zero)

    @property
    def because(self) -> tuple[str, ...]:
        """The reasons of those regions that decided."""
        return tuple(
            reason
            for each in self.regions
            if each.decision is self.decision
            for reason in each.because
        )

    @property
    def needed_seconds(self) -> float:
        """Of a hold: how much longer the slowest region takes."""
        held = [each.needed_seconds for each in self.regions if each.decision is Decision.HOLD]
        return max(held, default=0.0)


def judge(book: Book) -> Verdict:
    """What the windows in a book allow to be said."""
    evidence = _evidence(book)
    regions = tuple(
        _region(book, place, region, evidence[place])
        for place, region in enumerate(book.policy.regions)
    )
    decisions = {each.decision for each in regions}
    if Decision.ROLL_BACK in decisions:
        return Verdict(Decision.ROLL_BACK, regions)
    if decisions == {Decision.PROMOTE}:
        return Verdict(Decision.PROMOTE, regions)
    return Verdict(Decision.HOLD, regions)


def grounds(
    policy: Policy,
    *,
    log_e: Numbers,
    known: Flags,
    failing_windows: Numbers,
    sources: Numbers,
    windows: Numbers,
    seconds: Numbers,
    bounds: tuple[Numbers, Numbers],
) -> npt.NDArray[np.int64]:
    """The rule, for cells of any number: an index into the members of `Ground`. `log_e` has the
    accounts of a book first; `bounds` are those of ratio and excess."""
    need = -math.log(policy.alpha_each)
    against, far = log_e[KNOWN] >= need, log_e[CEILING] >= need
    placebo = log_e[PLACEBO] >= need
    few_windows = failing_windows < policy.windows_least
    few_sources = sources < policy.sources_least
    enough = ~few_windows & ~few_sources
    ratio, excess = bounds
    bounded = (ratio <= 1 + policy.delta_promote) | (excess <= policy.epsilon)
    bounded &= known & (windows >= policy.windows_least)
    soaked = seconds >= policy.soak_seconds
    baked = (seconds >= policy.bake_seconds) & soaked & policy.promote_on_time
    found: npt.NDArray[np.int64] = np.select(
        [
            windows == 0,
            far & enough,
            against & ~known,
            (against | far) & few_windows,
            (against | far) & few_sources,
            against & placebo,
            against,
            (bounded | baked) & soaked & (log_e[KNOWN] > _LEANS),
            bounded & soaked,
            baked,
            bounded,
        ],
        [
            _GROUNDS.index(each)
            for each in (
                Ground.NOTHING_COUNTED,
                Ground.FAR_WORSE,
                Ground.DISPERSION_UNKNOWN,
                Ground.FEW_WINDOWS,
                Ground.FEW_SOURCES,
                Ground.PLACEBO,
                Ground.WORSE,
                Ground.LEANS,
                Ground.BOUND,
                Ground.ON_TIME,
                Ground.SOAK,
            )
        ],
        _GROUNDS.index(Ground.INCONCLUSIVE),
    )
    return found


def _evidence(book: Book) -> list[list[Evidence]]:
    policy, sums = book.policy, book.sums
    # Each bound is one of two ways to be promoted.
    alpha = policy.alpha / 2
    ratio = ratio_upper(sums.likelihood, book.phi, alpha)
    excess = excess_upper(sums.bets_for, sums.weight, book.phi, alpha)
    found = grounds(
        policy,
        log_e=sums.log_e,
        known=book.known,
        failing_windows=sums.failing_windows,
        sources=sums.sources,
        windows=sums.windows,
        seconds=sums.seconds,
        bounds=(ratio, excess),
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        pooled = sums.pooled[0] / sums.pooled[1]
    log10_e = sums.log_e / math.log(10)
    needed = -math.log10(policy.alpha_each)
    columns = (
        log10_e[KNOWN],
        log10_e[CEILING],
        log10_e[PLACEBO],
        *sums.canary,
        *sums.fleet,
        pooled,
        ratio,
        excess,
        sums.failing_windows,
        sums.sources,
        book.phi,
        sums.allowance,
        sums.windows,
        sums.seconds,
        *_forecasts(book),
    )
    rows = zip(
        ((region, metric) for region in policy.regions for metric in policy.metrics),
        found.ravel().tolist(),
        sums.left_out.any(axis=-1).ravel().tolist(),
        sums.placebo.ravel().tolist(),
        *(column.ravel().tolist() for column in columns),
        strict=True,
    )
    cells = []
    for (
        (region, metric), ground, leaves_out, has_placebo, e, e_ceiling, e_placebo, requests,
        failures, fleet_requests, fleet_failures, estimate, ratio_bound, excess_bound, failing,
        sources, phi, allowed, windows, seconds, promote, roll_back,
    ) in rows:  # fmt: skip
        held = book.scatter.get((region, metric), _NOT_TOLD)
        cells.append(
            Evidence(
                region, metric, _GROUNDS[ground], e, needed, e_ceiling,
                e_placebo if has_placebo else None, requests, failures, fleet_requests,
                fleet_failures, estimate, ratio_bound, excess_bound, int(failing), sources, phi,
                allowed, int(windows), seconds, promote, roll_back,
                book.left_out(region, metric) if leaves_out else {},
                held.reason if isinstance(held, Unknown) else "",
            )
        )  # fmt: skip
    each = len(policy.metrics)
    return [cells[start : start + each] for start in range(0, len(cells), each)]


_FORETOLD_SECONDS = 86_400.0
"""Who is returned later than that is not returned."""
_NOT_TOLD = Unknown("nobody has looked at stable pods")


def _forecasts(book: Book) -> tuple[Numbers, Numbers]:
    """How long promotion takes if the canary is as good as the fleet from now on, and how long its
    return if it goes on as so far; at present traffic."""
    policy, sums, phi = book.policy, book.sums, book.phi
    canary, fleet = sums.a_second
    alpha = policy.alpha / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        rate = np.nan_to_num(sums.fleet[1] / sums.fleet[0])
        odds = np.where(canary > 0, canary / fleet, 0.0)
        own = np.nan_to_num(sums.canary[1] / sums.canary[0])
    good, others = rate * canary, rate * fleet
    fair = odds / sums.allowance
    ratio = seconds_to_ratio(
        sums.likelihood, likelihoods(good, others, fair), phi, 1 + policy.delta_promote, alpha
    )
    excess = seconds_to_excess(
        (sums.bets_for, bets_for(good, others, fair)),
        (sums.weight, canary / sums.allowance),
        phi,
        policy.epsilon,
        alpha,
    )
    promote = np.where(book.known, np.minimum(ratio, excess), np.inf)
    promote = np.maximum(promote, policy.soak_seconds - sums.seconds)
    if policy.promote_on_time:
        left = np.maximum(policy.bake_seconds - sums.seconds, 0.0)
        promote = np.where(sums.log_e[KNOWN] <= _LEANS, np.minimum(promote, left), promote)
    promote = np.where(canary > 0, np.maximum(promote, 0.0), np.inf)
    bar = (1 + policy.delta) * sums.allowance
    climb = bets_against(own * canary, others, odds, bar)
    need = np.full(phi.shape, -math.log(policy.alpha_each))
    return promote, seconds_to_roll_back(sums.against[KNOWN], climb, phi, need)


def _region(book: Book, place: int, region: str, evidence: list[Evidence]) -> RegionVerdict:
    policy, sums = book.policy, book.sums
    down = bool(sums.down[place])
    told = [each.words(policy) for each in evidence]
    crashes = int(sums.crashes[place])
    if down:
        told.insert(
            0,
            f"{region}: the canary crashed or has no ready endpoint: its weight goes to 0 at once",
        )
    if sums.resets[place]:
        told.append(
            f"{region}: counters began again in {int(sums.resets[place])} windows: something "
            "restarted; what was counted since is in"
        )
    if crashes >= policy.crashes:
        told.insert(0, f"{region}: it did so in {crashes} windows, {policy.crashes} return it")
        return RegionVerdict(region, Decision.ROLL_BACK, down, tuple(told), tuple(evidence), 0.0)
    if policy.thresholds is not None:
        decision, why, needed = _by_thresholds(book, place, policy.thresholds, evidence)
        told = [f"{region}: {why}", *told]
    else:
        decisions = {each.decision for each in evidence}
        if Decision.ROLL_BACK in decisions:
            decision = Decision.ROLL_BACK
        elif decisions == {Decision.PROMOTE}:
            decision = Decision.PROMOTE
        else:
            decision = Decision.HOLD
        to_promote = max(each.promote_seconds for each in evidence)
        needed = min(to_promote, *(each.roll_back_seconds for each in evidence))
    if down and decision is Decision.PROMOTE:
        decision = Decision.HOLD
    if decision is not Decision.HOLD:
        needed = 0.0
    elif needed == 0.0:
        needed = math.inf
    return RegionVerdict(region, decision, down, tuple(told), tuple(evidence), needed)


def _by_thresholds(
    book: Book, place: int, limits: Thresholds, evidence: list[Evidence]
) -> tuple[Decision, str, float]:
    checked, failed = (int(each) for each in book.sums.checks[:, place])
    seconds = min(each.seconds for each in evidence)
    told = (
        f"{failed} of {checked} checks failed, {limits.failed_checks} return it (no error control)"
    )
    if failed >= limits.failed_checks:
        return Decision.ROLL_BACK, told, 0.0
    if checked and seconds >= book.policy.bake_seconds:
        return Decision.PROMOTE, f"{told}; the bake has ended", 0.0
    return Decision.HOLD, told, book.policy.bake_seconds - seconds


def _words(each: Evidence, policy: Policy) -> str:
    verb, _ = _NOUNS[each.metric]
    where = f"{each.region} {each.metric}"
    left_out = "".join(
        f"; {count} {'window' if count == 1 else 'windows'} left out: {why}"
        for why, count in each.left_out.items()
    )
    if each.ground is Ground.NOTHING_COUNTED:
        return f"{where}: nothing could be compared{left_out}"
    counted = (
        f"{where}: {each.failures:,.0f} of {each.requests:,.0f} requests {verb}, "
        f"{_percent(each.failures, each.requests)}, beside "
        f"{_percent(each.fleet_failures, each.fleet_requests)} of the fleet's"
    )
    return f"{counted}; {_why(each, policy)}{left_out}"


def _why(each: Evidence, policy: Policy) -> str:
    _, noun = _NOUNS[each.metric]
    worse = f"e-value {_e(each.log10_e)} against it, {_e(each.log10_e_needed)} needed"
    match each.ground:
        case Ground.WORSE:
            return f"worse: {worse}"
        case Ground.FAR_WORSE:
            return (
                f"far worse: {worse}, and {_e(each.log10_e_ceiling)} even if {noun} scattered as "
                "much as they ever do"
            )
        case Ground.BOUND:
            return f"good enough: {_bound(each)}"
        case Ground.ON_TIME:
            return f"the bake has ended and nothing leans against it: {_bound(each)}"
        case Ground.SOAK:
            left = policy.soak_seconds - each.seconds
            return f"good enough: {_bound(each)}, but it is to soak {_time(left)} more"
        case Ground.DISPERSION_UNKNOWN:
            return (
                f"{worse}, were each independent; how {noun} scatter is not known "
                f"({each.unknown}), and at worst it is {_e(each.log10_e_ceiling)}"
            )
        case Ground.PLACEBO:
            placebo = _e(each.placebo_log10_e or 0.0)
            return (
                f"{worse}, but stable pods in its place have {placebo}: {noun} scatter more than "
                "was known"
            )
        case Ground.FEW_WINDOWS:
            number = each.failing_windows
            windows = "window" if number == 1 else "windows"
            return f"{worse}, but all in {number} {windows}, {policy.windows_least} needed"
        case Ground.FEW_SOURCES:
            return (
                f"{worse}, but from {each.sources:.3g} independent sources, "
                f"{policy.sources_least} needed"
            )
        case Ground.LEANS:
            return f"not promoted, for what there is leans against it: {worse}; {_bound(each)}"
    return f"inconclusive: {worse}; {_bound(each)}{_still(each)}"


def _bound(each: Evidence) -> str:
    told = []
    if math.isfinite(each.ratio_upper):
        told.append(f"not worse than x{each.ratio_upper:.3g}")
    if math.isfinite(each.excess_upper):
        told.append(f"not more than {100 * each.excess_upper:+.2g} points")
    bound = " and ".join(told) or "no bound yet"
    return f"{bound}, were each independent" if told and each.unknown else bound


def _still(each: Evidence) -> str:
    told = ""
    if math.isfinite(each.promote_seconds):
        told += f"; {_time(each.promote_seconds)} more to promote if it is as good as the fleet"
    elif each.unknown:
        told += f"; not promoted by a bound: how errors scatter is not known ({each.unknown})"
    else:
        told += "; at this traffic and with these pods it will not be promoted by a bound"
    if each.roll_back_seconds < _FORETOLD_SECONDS:
        told += f"; {_time(each.roll_back_seconds)} more to return it if it goes on as so far"
    return told


def _percent(part: float, whole: float) -> str:
    if not whole:
        return "none"
    share = 100 * part / whole
    return f"{share:.0f} %" if share >= 10 else f"{share:.2g} %"


def _e(log10_e: float) -> str:
    if not -3 < log10_e < 6:
        return f"10^{log10_e:.0f}"
    return f"{10**log10_e:.2g}" if log10_e < 2 else f"{10**log10_e:,.0f}"


def _time(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h"
