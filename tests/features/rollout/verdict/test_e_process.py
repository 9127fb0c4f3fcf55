"""The arithmetic of evidence: that it is an e-process is computed, not simulated."""

from __future__ import annotations

from itertools import pairwise
from math import comb, exp, lgamma, log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlplatform.rollout.verdict.e_process import (
    CUTS,
    RATIOS,
    WORSE,
    Numbers,
    bets_against,
    bets_for,
    excess_upper,
    likelihoods,
    log_e,
    ratio_upper,
    seconds_to_excess,
    seconds_to_ratio,
    seconds_to_roll_back,
)

ONE = np.ones(())


def binomial(n: int, p: float) -> Numbers:
    return np.array([comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)])


def poisson(mean: float) -> Numbers:
    """All but nothing of the distribution, for means up to 6."""
    return np.array([exp(k * log(mean) - mean - lgamma(k + 1)) for k in range(60)])


def expectation(factor_logs: Numbers, canary: Numbers, fleet: Numbers) -> Numbers:
    """Of each bet's factor; the first axes are the errors of the canary and of the fleet."""
    chance = canary[:, None, None] * fleet[None, :, None]
    return np.asarray((np.exp(factor_logs) * chance).sum(axis=(0, 1)))


def counts(canary: Numbers, fleet: Numbers) -> tuple[Numbers, Numbers]:
    s, f = np.meshgrid(np.arange(float(len(canary))), np.arange(float(len(fleet))), indexing="ij")
    return s, f


RATES = [
    # canary, fleet, times the fleet's rate that is allowed
    (0.0, 0.0, 1.1),
    (0.011, 0.01, 1.1),
    (0.33, 0.3, 1.1),
    (1.0, 0.5, 2.0),
    (0.9, 0.9, 1.0),
    (0.2, 1.0, 1.1),
]


@pytest.mark.parametrize(("canary_rate", "fleet_rate", "bound"), RATES)
@pytest.mark.parametrize(("canary", "fleet"), [(1, 1), (4, 9), (9, 2)])
def test_no_bet_against_a_canary_within_the_bound_gains(
    canary: int, fleet: int, canary_rate: float, fleet_rate: float, bound: float
) -> None:
    """Whole requests, any rate: not only where errors are rare."""
    chances = binomial(canary, canary_rate), binomial(fleet, fleet_rate)
    s, f = counts(*chances)
    gains = bets_against(s, f, np.full_like(s, canary / fleet), np.full_like(s, bound))
    assert np.all(expectation(gains, *chances) <= 1 + 1e-9)


@pytest.mark.parametrize("mean", [0.1, 2.0, 6.0])
@pytest.mark.parametrize("odds", [0.01, 0.3, 1.0])
def test_a_bet_at_the_bound_is_fair_where_errors_are_rare(mean: float, odds: float) -> None:
    chances = poisson(mean), poisson(min(mean / (1.1 * odds), 6.0))
    s, f = counts(*chances)
    gains = bets_against(s, f, np.full_like(s, odds), np.full_like(s, 1.1))
    found = expectation(gains, *chances)[:12]  # ratios whose gains the 60 counts hold
    if mean / (1.1 * odds) <= 6.0:
        assert found == pytest.approx(1.0, abs=1e-3)
    else:
        assert np.all(found > 1)  # the canary is beyond the bound


@pytest.mark.parametrize(("canary_rate", "fleet_rate", "bound"), [(0.2, 0.1, 2.0), (0.9, 0.3, 2.0)])
def test_no_bet_for_a_canary_beyond_the_bar_gains(
    canary_rate: float, fleet_rate: float, bound: float
) -> None:
    """The ratio that is true is left out of the confidence sequence with a chance of alpha."""
    chances = binomial(5, canary_rate), binomial(9, fleet_rate)
    s, f = counts(*chances)
    odds = np.full_like(s, 5 / 9)
    at_bar = s * log(bound) - (s + f) * np.log1p(odds * bound)
    gains = likelihoods(s, f, odds) - at_bar[..., None]
    assert np.all(expectation(gains, *chances)[bound >= RATIOS] <= 1 + 1e-9)


@pytest.mark.parametrize(("canary_rate", "fleet_rate"), [(0.005, 0.0), (0.3, 0.1), (1.0, 0.7)])
@pytest.mark.parametrize(("canary", "fleet"), [(3, 9), (9, 3)])
def test_no_bet_for_a_canary_with_that_excess_gains(
    canary: int, fleet: int, canary_rate: float, fleet_rate: float
) -> None:
    chances = binomial(canary, canary_rate), binomial(fleet, fleet_rate)
    s, f = counts(*chances)
    gains = bets_for(s, f, np.full_like(s, canary / fleet))
    gains += CUTS * canary * (canary_rate - fleet_rate)
    assert np.all(expectation(gains, *chances) <= 1 + 1e-9)


def test_one_client_that_fails_twice_would_be_evidence_by_itself() -> None:
    """Why sources and windows are counted: two errors, both the canary's, at a share of 2 %."""
    two, none = np.array(2.0), np.array(0.0)
    evidence = log_e(bets_against(two, none, np.array(0.02 / 0.98), np.array(1.1)), ONE)
    assert exp(float(evidence)) > 1 / 0.05


CLIMBS = [
    # canary errors, fleet errors, requests of the canary to one of the fleet: grounds to return it
    (0, 0, 0.1, False),
    (1, 10, 0.1, False),
    (3, 10, 0.1, False),
    (9, 10, 0.1, True),
    (20, 10, 1.0, False),
    (40, 10, 1.0, True),
    (5, 0, 0.02, True),
]


@pytest.mark.parametrize(("canary", "fleet", "odds", "bad"), CLIMBS)
def test_grounds(canary: float, fleet: float, odds: float, *, bad: bool) -> None:
    logs = bets_against(*(np.array(float(each)) for each in (canary, fleet, odds, 1.1)))
    assert (float(log_e(logs, ONE)) >= log(20)) is bad


def test_clusters_of_sixteen_are_one_error_each() -> None:
    s, f, odds, bound = (np.array(each) for each in (3.0, 5.0, 0.1, 1.1))
    alone = log_e(bets_against(s, f, odds, bound), ONE)
    clustered = log_e(bets_against(16 * s, 16 * f, odds, bound), 16 * ONE)
    assert clustered == pytest.approx(alone)


def test_nothing_counted_bounds_nothing_and_no_errors_bound_the_excess() -> None:
    nothing = np.zeros(())
    assert ratio_upper(likelihoods(nothing, nothing, ONE), ONE, 0.025) == np.inf
    assert excess_upper(bets_for(nothing, nothing, ONE), nothing, ONE, 0.025) == np.inf
    bound = excess_upper(bets_for(nothing, nothing, 0.02 * ONE), 1000 * ONE, ONE, 0.025)
    assert -log(0.025) / 1000 < bound < 0.005  # 1000 requests without one error


def test_the_excess_bound_is_where_the_mixture_says() -> None:
    s, f, odds, n = (np.array(each) for each in (7.0, 40.0, 0.2, 1500.0))
    bets = bets_for(s, f, odds)
    bound = excess_upper(bets, n, ONE, 0.025)
    at_bound = np.logaddexp.reduce(bets + CUTS * n * bound) - log(len(CUTS))
    assert at_bound == pytest.approx(-log(0.025), abs=1e-3)


small = st.integers(0, 40).map(float)
arms = st.tuples(small, small, st.floats(0.01, 2.0))


@given(st.lists(arms, min_size=1, max_size=6), st.integers(0, 5), st.floats(1.0, 20.0))
def test_one_more_error_of_the_canary_never_helps_it(
    windows: list[tuple[float, float, float]], which: int, phi: float
) -> None:
    worse = list(windows)
    s, f, odds = worse[which % len(worse)]
    worse[which % len(worse)] = (s + 1, f, odds)
    before, after = (_judged(each, phi) for each in (windows, worse))
    assert after[0] >= before[0] - 1e-9
    assert after[1] >= before[1] * (1 - 1e-9)
    assert after[2] >= before[2] - 1e-9


@given(st.permutations(range(5)), st.lists(arms, min_size=5, max_size=5))
def test_the_order_of_windows_says_nothing(
    order: list[int], windows: list[tuple[float, float, float]]
) -> None:
    assert _judged([windows[at] for at in order], 1.0) == pytest.approx(_judged(windows, 1.0))


@given(st.lists(arms, min_size=1, max_size=6))
def test_never_are_both_arms_the_worse_one(windows: list[tuple[float, float, float]]) -> None:
    swapped = [(f, s, 1 / odds) for s, f, odds in windows]
    assert min(_judged(windows, 1.0)[0], _judged(swapped, 1.0)[0]) <= 1e-9


@given(st.lists(arms, min_size=1, max_size=6), st.integers(2, 9))
def test_errors_in_clusters_count_by_their_dispersion(
    windows: list[tuple[float, float, float]], size: int
) -> None:
    clustered = [(size * s, size * f, odds) for s, f, odds in windows]
    assert _judged(clustered, size)[:2] == pytest.approx(_judged(windows, 1.0)[:2])


def _judged(windows: list[tuple[float, float, float]], phi: float) -> tuple[float, float, float]:
    s, f, odds = (np.array(each) for each in zip(*windows, strict=True))
    known = phi * ONE
    requests = np.asarray(50.0 * len(windows))
    return (
        float(log_e(bets_against(s, f, odds, np.full_like(s, 1.1)).sum(axis=0), known)),
        float(ratio_upper(likelihoods(s, f, odds).sum(axis=0), known, 0.025)),
        float(excess_upper(bets_for(s, f, odds).sum(axis=0), requests, known, 0.025)),
    )


def test_forecasts_are_kept() -> None:
    """What is foretold at steady traffic comes true, and no earlier than a little before."""
    odds, bound = np.array(0.1), np.array(1.1)
    against = bets_against(np.array(3.0), np.array(3.0), odds, bound)
    wanted = np.array(log(20))
    minutes = seconds_to_roll_back(0 * against, against, ONE, wanted)
    assert log_e(against * minutes, ONE) >= wanted
    assert log_e(against * 0.95 * minutes, ONE) < wanted

    canary, fleet = np.array(0.3), np.array(3.0)
    like = likelihoods(canary, fleet, odds)
    minutes = seconds_to_ratio(0 * like, like, ONE, 2.0, 0.025)
    assert ratio_upper(like * minutes, ONE, 0.025) <= 2.0 * 1.001
    assert ratio_upper(like * 0.95 * minutes, ONE, 0.025) > 2.0

    bets, requests = bets_for(canary, fleet, odds), 60 * ONE
    minutes = seconds_to_excess((0 * bets, bets), (0 * ONE, requests), ONE, 0.005, 0.025)
    assert excess_upper(bets * minutes, requests * minutes, ONE, 0.025) <= 0.005 + 1e-9
    assert excess_upper(bets * 0.95 * minutes, 0.95 * requests * minutes, ONE, 0.025) > 0.005
    as_good = seconds_to_roll_back(
        0 * against, bets_against(canary, fleet, odds, bound), ONE, wanted
    )
    assert as_good == np.inf


def test_the_grids_cover_what_matters() -> None:
    """From a small change to a canary all of whose requests fail, beside a fleet's 0.5 %."""
    assert WORSE[0] < 1.1
    assert min(WORSE[-1], RATIOS[-1]) > 200
    assert RATIOS[0] < 0.1
    assert max(b / a for a, b in pairwise(RATIOS[(RATIOS > 0.8) & (RATIOS < 2)])) < 1.021
