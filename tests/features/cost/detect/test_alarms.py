"""What is an alarm, and what is none: a table to read and argue about."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest

from mlplatform.cost.detect.alarms import Reason, Rules, day_over_day, words
from mlplatform.cost.detect.calendar import calendar_of
from mlplatform.cost.detect.scoring import Told

from .pictures import DAYS, MONDAY, Judged, Numbers, calendar, day_of, usual

MONDAY_100 = 98
SATURDAY_103 = 103


def times(since: int, until: int, factor: float) -> Callable[[Numbers], Numbers]:
    def change(values: Numbers) -> Numbers:
        values[since:until] *= factor
        return values

    return change


def ramp(since: int, until: int, to: float) -> Callable[[Numbers], Numbers]:
    def change(values: Numbers) -> Numbers:
        values[since:until] *= np.linspace(1, to, until - since + 1)[1:]
        return values

    return change


@dataclass(frozen=True)
class Case:
    name: str
    change: Callable[[Numbers], Numbers]
    alarms: set[int]
    """Exactly these days, after the first two weeks."""
    reasons: dict[int, Reason] = field(default_factory=dict)
    rules: Rules = field(default_factory=Rules)
    noise: float = 0.03


CASES = [
    Case("nothing", lambda values: values, set()),
    Case("noise of 15 % and nothing else", lambda values: values, set(), noise=0.15),
    Case("a day at twice the cost", times(100, 101, 2.0), {100}, {100: Reason.SPIKE}),
    Case("8 % more is significant and not worth a word", times(100, 101, 1.08), set()),
    Case(
        "twice nothing is not worth the money",
        lambda values: times(100, 101, 2.0)(values / 2000),
        set(),
        {100: Reason.SMALL},
    ),
    Case(
        "unless less money counts",
        lambda values: times(100, 101, 2.0)(values / 2000),
        {100},
        rules=Rules(money_a_day=0.1),
    ),
    Case("half the cost is told, and alarms nobody", times(100, 101, 0.5), set(),
         {100: Reason.FALL}),
    Case(
        "a weekend that costs what a working day does",
        times(SATURDAY_103, SATURDAY_103 + 1, 1 / 0.7),
        {SATURDAY_103},
        {SATURDAY_103: Reason.DID_NOT_FALL},
    ),
    Case("it costs a Monday's cost on a Monday", times(MONDAY_100, MONDAY_100 + 1, 1.0), set()),
    Case(
        "a new level alarms on its first day, and never after",
        times(100, DAYS, 1.6),
        {100},
        {100: Reason.SPIKE, 102: Reason.NEW_LEVEL, 110: Reason.USUAL},
    ),
    Case(
        "a lower level is told and is the level",
        times(100, DAYS, 0.5),
        set(),
        {102: Reason.LOWER_LEVEL, 110: Reason.USUAL},
    ),
    Case(
        "a spike upon a new level",
        lambda values: times(125, 126, 1.8)(times(100, DAYS, 1.6)(values)),
        {100, 125},
    ),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_alarms(case: Case) -> None:
    judged = Judged(case.change(usual(noise=case.noise)), rules=case.rules)
    assert {day for day in judged.alarm_days if day >= 14} == case.alarms
    assert {day: judged.reason(day) for day in case.reasons} == case.reasons


def test_a_ramp_is_found_while_it_rises() -> None:
    judged = Judged(ramp(100, 112, 1.8)(usual()))
    assert judged.alarm_days
    assert 100 <= judged.alarm_days[0] <= 106
    assert judged.reason(judged.alarm_days[-1]) is Reason.RAMP


def test_a_drift_too_slow_for_every_other_test_is_told_once() -> None:
    values = usual(noise=0.02)
    values[70:] *= 1.006 ** np.arange(DAYS - 70)
    judged = Judged(values)
    assert next(judged.reason(day) for day in judged.alarm_days) is Reason.DRIFT
    assert np.all(np.diff(judged.alarm_days) >= 28)


def test_cost_from_zero() -> None:
    values = np.zeros(60)
    values[40:] = 300.0
    judged = Judged(values)
    assert judged.alarm_days == [40]
    assert judged.reason(40) is Reason.FROM_ZERO


def test_a_month_start_is_expected_from_the_second_on() -> None:
    days = 220
    values = usual(days)
    first = calendar(days).day_of_month == 1
    values[first] *= 1.5
    judged = Judged(values)
    assert {day for day in judged.alarm_days if day >= 14} <= {day_of("2026-02-01")}
    before, after = day_of("2026-05-31"), day_of("2026-06-01")
    assert judged.scores.expected[0, after] > 1.3 * judged.scores.usual[0, before]


@pytest.mark.parametrize("every", [7, "month"])
def test_a_charge_that_comes_back_is_a_habit(every: int | str) -> None:
    values = usual(200)
    when = calendar(200).weekday == 2 if every == 7 else calendar(200).day_of_month == 15
    when[:60] = False
    values[when] *= 6
    first, second, *rest = (int(day) for day in np.flatnonzero(when))
    judged = Judged(values)
    assert judged.alarm_days == [first]
    assert judged.reason(second) is Reason.HABIT
    assert all(judged.scores.expected[0, day] > 0.5 * values[day] for day in rest)


def test_under_two_weeks_share_and_money_alone_decide() -> None:
    values = usual(13)
    values[9] *= 1.4
    values[11] *= 2.5
    judged = Judged(values)
    assert judged.alarm_days == [11]
    assert judged.alarms.young[0].all()
    told = words(int(judged.reason(11)), values[11], 1000.0, young=True, alarm=True)
    assert told.endswith("low confidence: less than two weeks known")


def test_who_begins_on_a_weekend_is_not_alarmed_by_tuesdays() -> None:
    judged = Judged(usual(40)[5:], calendar=calendar_of(MONDAY + np.arange(5, 40)))
    assert judged.alarm_days == []


@pytest.mark.parametrize(
    ("values", "alarms"),
    [
        ([100, 149, 100], []),
        ([100, 151, 100], [1]),
        ([100, 151, 230], [1, 2]),
        ([0, 10], [1]),
        ([0.1, 0.9], []),
        ([np.nan, 100, np.nan, 200], []),
        ([-100, -40], [1]),
    ],
)
def test_the_old_rule(values: list[float], alarms: list[int]) -> None:
    days = calendar_of(MONDAY + np.arange(len(values)))
    _, alarm = day_over_day(np.array([values], float), days, Rules())
    assert np.flatnonzero(alarm[0]).tolist() == alarms


class TestWhatSomebodySaid:
    def test_planned_is_no_alarm_and_the_new_level(self) -> None:
        values = times(100, DAYS, 2.0)(usual())
        planned = np.zeros(DAYS, bool)
        planned[100:103] = True
        told = np.where(planned, Told.PLANNED, Told.NOTHING).astype(np.int8)
        judged = Judged(values, told=told, planned=planned)
        assert judged.alarm_days == []
        assert judged.reason(100) is Reason.PLANNED
        assert judged.scores.expected[0, 107] == pytest.approx(2000, rel=0.1)

    def test_no_is_learnt_from(self) -> None:
        values = usual()
        values[60:120:5] *= 1.35
        plain = Judged(values)
        told = np.zeros(DAYS, np.int8)
        told[60:120:5] = Told.NO
        learnt = Judged(values, told=told)
        assert learnt.scores.noise[0, -1] > 1.5 * plain.scores.noise[0, -1]

    def test_yes_teaches_nothing(self) -> None:
        values = times(100, 104, 1.3)(usual())
        told = np.zeros(DAYS, np.int8)
        told[100:104] = Told.YES
        assert Judged(values, told=told).scores.expected[0, 107] == pytest.approx(1000, rel=0.05)
