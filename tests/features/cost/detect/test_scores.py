"""What scores promise, whatever the series: they see no future, and bad values break nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mlplatform.cost.detect.alarms import Rules, alarms_of
from mlplatform.cost.detect.calendar import calendar_of
from mlplatform.cost.detect.scoring import score

from .pictures import MONDAY, Judged, usual

AMOUNTS = st.one_of(
    st.just(0.0),
    st.just(float("nan")),
    st.floats(-1e6, 1e6),
    st.sampled_from([5e-324, 2.3e-308, 1e-12, 1e15, -1e15, 1e300]),
    st.floats(90, 110),
)


def enormous(*first: float) -> np.ndarray:
    """Series of a cost that no filter can follow, the first one with a beginning of its own."""
    values = np.full((3, 45), 1e300)
    values[0, : len(first)] = first
    values[0, 19] = 0.0
    return values


@settings(max_examples=60, deadline=None)
@given(arrays(np.float64, (3, 45), elements=AMOUNTS), st.integers(1, 44))
@example(enormous(1.0), 1)
@example(enormous(1.0, 0.0), 1)
def test_a_step_sees_what_came_before_and_itself(values: np.ndarray, until: int) -> None:
    days = calendar_of(MONDAY + np.arange(45))
    fewer = calendar_of(MONDAY + np.arange(until))
    whole, part = score(values, days), score(values[:, :until], fewer)
    for name in ("expected", "evidence", "noise", "why"):
        np.testing.assert_array_equal(getattr(whole, name)[:, :until], getattr(part, name))
    told = alarms_of(values, whole, days, Rules())
    cut = alarms_of(values[:, :until], part, fewer, Rules())
    np.testing.assert_array_equal(told.alarm[:, :until], cut.alarm)
    np.testing.assert_array_equal(told.reason[:, :until], cut.reason)


@settings(max_examples=60, deadline=None)
@given(arrays(np.float64, (2, 40), elements=AMOUNTS))
def test_whatever_is_known_has_a_score_and_nothing_else_has(values: np.ndarray) -> None:
    days = calendar_of(MONDAY + np.arange(40))
    found = score(values, days)
    known = np.isfinite(values)
    assert np.isfinite(found.score[known]).all()
    assert (found.score[known] >= 0).all()
    assert np.isnan(found.score[~known]).all()
    assert not alarms_of(values, found, days, Rules()).alarm[~known].any()


def test_series_do_not_see_each_other() -> None:
    days = calendar_of(MONDAY + np.arange(140))
    one, other = usual(seed=1), usual(seed=2) * 50
    both = score(np.stack([one, other]), days)
    np.testing.assert_allclose(both.evidence[0], score(one[None], days).evidence[0], rtol=1e-9)


def test_the_currency_has_no_say() -> None:
    values = usual()
    values[100] *= 1.7
    found, cents = Judged(values).scores, Judged(values * 100).scores
    np.testing.assert_allclose(found.evidence, cents.evidence, rtol=1e-6)
    np.testing.assert_allclose(found.expected * 100, cents.expected, rtol=1e-9)


@pytest.mark.parametrize(
    "values",
    [
        np.zeros(60),
        np.full(60, 12.5),
        np.full(60, -40.0),
        np.full(60, np.nan),
        np.array([5.0]),
        np.array([np.nan]),
        np.tile([0.0, 0.0, 0.0, 7.0, 0.0, 0.0, 0.0], 20),
    ],
    ids=["zeros", "always the same", "a credit", "unknown", "one day", "one unknown", "weekly"],
)
def test_quiet_series_alarm_nobody(values: np.ndarray) -> None:
    judged = Judged(values)
    assert [day for day in judged.alarm_days if day >= 14] == []


def test_a_gap_is_unknown_and_forgets_nothing() -> None:
    values = usual()
    values[60:80] = np.nan
    values[100] *= 2
    judged = Judged(values)
    assert judged.alarm_days == [100]
    assert np.isnan(judged.scores.score[0, 60:80]).all()


def test_a_series_that_jumps_about_is_taken_to_be_like_that() -> None:
    rng = np.random.default_rng(3)
    values = np.where(rng.random(400) < 0.3, rng.uniform(50, 500, 400), 0.0)
    late = [day for day in Judged(values).alarm_days if day >= 200]
    assert len(late) < 0.2 * np.count_nonzero(values[200:])


def test_a_crash_to_a_hundredth_is_a_level_like_any_other() -> None:
    values = usual(200)
    values[60:] /= 200
    values[150] *= 3
    judged = Judged(values)
    assert judged.alarm_days == [150]


def test_by_the_hour() -> None:
    hours = np.datetime64("2026-01-05T00") + np.arange(24 * 40)
    calendar = calendar_of(hours, hourly=True)
    rng = np.random.default_rng(4)
    nightly = np.where((calendar.hour >= 2) & (calendar.hour < 5), 4.0, 1.0)
    weekend = np.where(calendar.weekday >= 5, 0.5, 1.0)
    values = 20 * nightly * weekend * np.exp(0.05 * rng.normal(size=len(hours)))
    odd = 24 * 35 + 14
    values[odd] *= 4
    judged = Judged(values, calendar=calendar)
    assert [step for step in judged.alarm_days if step >= 24 * 14] == [odd]
    assert judged.scores.expected[0, 24 * 36 + 3] == pytest.approx(80, rel=0.15)
