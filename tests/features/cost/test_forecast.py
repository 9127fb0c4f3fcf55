"""Forecasts: that intervals hold what they say, and what becomes of odd histories."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest

from mlplatform.cost.detect.calendar import calendar_of
from mlplatform.cost.forecast import forecast, student_chance, student_quantile

Numbers = npt.NDArray[np.float64]
START = np.datetime64("2025-01-01")
SERIES = 60


@dataclass(frozen=True)
class World:
    """What a generator is told; rates are per day."""

    noise: float
    walk: float = 0.002
    new_levels: float = 0.0
    spikes: float = 0.0
    trend_a_year: float = 0.0


WORLDS = (
    World(0.08),
    World(0.08, new_levels=1 / 250, spikes=0.01, trend_a_year=0.1),
    World(0.15, walk=0.01, new_levels=1 / 90, spikes=0.03, trend_a_year=0.3),
    World(0.03, walk=0.005, new_levels=1 / 250, spikes=0.005, trend_a_year=0.2),
)


def made(world: World, seed: int, days: int, series: int = SERIES) -> Numbers:
    """Series with cheaper weekends and, every other one, dearer firsts of the month."""
    rng = np.random.default_rng(seed)
    calendar = calendar_of(START + np.arange(days))
    log = np.log(rng.uniform(50, 5000, (series, 1))) + rng.normal(0, world.noise, (series, days))
    weekend = np.log(rng.uniform(0.5, 0.95, (series, 1)))
    log += (
        np.where(calendar.weekday >= 5, weekend, 0)
        + rng.normal(0, 0.03, (series, 7))[:, calendar.weekday]
    )
    bump = np.log(rng.uniform(1.1, 1.6, (series, 1))) * (rng.random((series, 1)) < 0.5)
    log += np.where(calendar.day_of_month == 1, bump, 0)
    log += np.cumsum(rng.normal(0, world.walk, (series, days)), 1)
    log += rng.normal(0, world.trend_a_year, (series, 1)) * np.arange(days) / 365
    steps = (rng.random((series, days)) < world.new_levels) * rng.normal(0, 0.4, (series, days))
    log += np.cumsum(steps, 1)
    log += (rng.random((series, days)) < world.spikes) * rng.uniform(0.2, 1, (series, days))
    return np.exp(log)


def held(history: int, ahead: int, seeds: range) -> list[float]:
    """How often the sum of the days ahead lies within 80 % and within 95 %."""
    inside: list[list[float]] = [[], []]
    for number, world in enumerate(WORLDS):
        for seed in seeds:
            values = made(world, 10 * seed + number, history + ahead)
            found = forecast(values[:, :history], START, ahead)
            came = values[:, history:].sum(1)
            for each, share in zip(inside, (0.80, 0.95), strict=True):
                low, high = found.between(share)
                each.append(float(np.mean((low[:, -1] <= came) & (came <= high[:, -1]))))
    return [float(np.mean(each)) for each in inside]


@pytest.mark.parametrize("ahead", [7, 30])
@pytest.mark.parametrize(
    ("history", "seeds"), [(10, range(3)), (45, range(3)), (120, range(2)), (380, range(1))]
)
def test_intervals_hold_what_they_say(history: int, seeds: range, ahead: int) -> None:
    four_of_five, nineteen_of_twenty = held(history, ahead, seeds)
    assert 0.80 <= four_of_five <= 0.96
    assert 0.92 <= nineteen_of_twenty <= 0.995


def test_short_histories_are_told_and_wider() -> None:
    values = made(WORLDS[0], 5, 380)
    widths = []
    for history in (10, 45, 380):
        found = forecast(values[:, -history:], START, 30)
        low, high = found.between(0.8)
        widths.append(float(np.median((high - low)[:, -1] / found.summed[:, -1])))
        assert found.low_confidence.all() == (history == 10)
    assert widths[0] > 1.3 * widths[1] > 1.3 * widths[2]


def test_weekdays_and_month_starts_are_expected() -> None:
    days = START + np.arange(300 + 40)
    calendar = calendar_of(days)
    cost = np.where(calendar.weekday >= 5, 50.0, 100.0) * np.where(
        calendar.day_of_month == 1, 2.0, 1.0
    )
    ahead = forecast(cost[None, :300], START, 40).expected[0]
    np.testing.assert_allclose(ahead, cost[300:], rtol=0.15)


def test_the_sum_is_that_of_the_days() -> None:
    found = forecast(made(WORLDS[0], 1, 100), START, 14)
    np.testing.assert_allclose(found.summed, np.cumsum(found.expected, 1))
    for share in (0.8, 0.95):
        low, high = found.between(share)
        assert (low < found.summed).all()
        assert (found.summed < high).all()


def test_the_chance_above_a_bound_is_what_the_bound_was_made_for() -> None:
    found = forecast(made(WORLDS[1], 2, 200), START, 20)
    low, high = found.between(0.8)
    np.testing.assert_allclose(found.chance_above(high), 0.1, atol=0.01)
    np.testing.assert_allclose(found.chance_above(low), 0.9, atol=0.01)
    np.testing.assert_allclose(found.chance_above(found.summed), 0.5, atol=1e-6)


def test_a_row_that_never_cost_anything_is_expected_not_to() -> None:
    found = forecast(np.zeros((1, 60)), START, 10)
    low, high = found.between(0.95)
    assert found.summed[0, -1] == low[0, -1] == high[0, -1] == 0
    assert found.chance_above(np.array([[1.0]]))[0, -1] == 0


def test_nothing_known_is_nothing_expected() -> None:
    found = forecast(np.full((1, 60), np.nan), START, 10)
    assert np.isnan(found.summed).all()
    assert forecast(np.empty((1, 0)), START, 3).known_days.tolist() == [0]


def test_costs_and_credits_in_one_row_have_bounds_of_their_size() -> None:
    rng = np.random.default_rng(3)
    values = rng.normal(0, 1, (1, 90)) - 12
    values[0, [0, 31, 59]] = 300
    found = forecast(values, START, 30)
    low, high = found.between(0.95)
    assert -6_000 < low[0, -1] < high[0, -1] < 6_000


def test_gaps_in_a_history_are_no_zeros() -> None:
    values = made(WORLDS[0], 7, 200)
    gappy = values.copy()
    gappy[:, 50:60] = np.nan
    gappy[:, 190:193] = np.nan
    whole, less = forecast(values, START, 14), forecast(gappy, START, 14)
    np.testing.assert_allclose(less.summed, whole.summed, rtol=0.15)
    assert (less.known_days == 187).all()


@pytest.mark.parametrize(
    ("chance", "freedom", "quantile"),
    [  # Abramowitz and Stegun, table 26.10
        (0.90, 4, 1.533),
        (0.975, 4, 2.776),
        (0.90, 10, 1.372),
        (0.975, 10, 2.228),
        (0.975, 30, 2.042),
    ],
)
def test_student_s_t(chance: float, freedom: float, quantile: float) -> None:
    found = student_quantile(chance, np.array([freedom]))
    assert math.isclose(found[0], quantile, rel_tol=0.01)
    assert math.isclose(
        student_chance(np.array([quantile]), np.array([freedom]))[0], chance, abs_tol=0.005
    )
