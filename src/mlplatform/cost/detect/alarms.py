"""Which steps are alarms, and why, in words. Pure.

An alarm needs three things at once: it is significant, the change is large beside what was
expected, and it is worth the money. Only what costs more than expected alarms; a fall is told by
its score and its reason. While history is short, significance means nothing: share and money alone
decide, and the reason says "low confidence".
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from mlplatform.cost.detect.baseline import Flags, Numbers
from mlplatform.cost.detect.calendar import Calendar
from mlplatform.cost.detect.scoring import Codes, Scores, Why

_WEEK_DAYS = 7
_DRIFT_FROM_DAYS, _DRIFT_TO_DAYS = 28, 14
"""This week is held against the two weeks that ended two weeks ago."""
_DRIFT_WANDERS = 1.5
"""What a mean of a week wanders by beyond its noise, since days are not independent."""


class Reason(IntEnum):
    """Why a step is an alarm, or why it is none."""

    UNKNOWN = 0
    FIRST = 1
    USUAL = 2
    SMALL = 3
    """It stands out, and by too small a share or too little money."""
    FALL = 4
    SHIFTING = 5
    RETURN = 6
    HABIT = 7
    PLANNED = 8
    SPIKE = 9
    FROM_ZERO = 10
    DID_NOT_FALL = 11
    NEW_LEVEL = 12
    LOWER_LEVEL = 13
    RAMP = 14
    DRIFT = 15
    DAY_OVER_DAY = 16


WORDS = {
    Reason.UNKNOWN: "unknown",
    Reason.FIRST: "first of its series",
    Reason.USUAL: "as usual",
    Reason.SMALL: "stands out, but too little to matter",
    Reason.FALL: "fall",
    Reason.SHIFTING: "stays where it went",
    Reason.RETURN: "back at the level of before",
    Reason.HABIT: "as a week or a month ago",
    Reason.PLANNED: "planned",
    Reason.SPIKE: "spike",
    Reason.FROM_ZERO: "cost from zero",
    Reason.DID_NOT_FALL: "should have fallen and did not",
    Reason.NEW_LEVEL: "new level",
    Reason.LOWER_LEVEL: "new level, lower",
    Reason.RAMP: "rises from day to day",
    Reason.DRIFT: "drift: this week against two to four weeks ago",
    Reason.DAY_OVER_DAY: "day over day",
}


@dataclass(frozen=True, slots=True)
class Rules:
    """What an alarm needs."""

    score: float = 0.5
    """Odds of two to one that somebody should look."""
    relative: float = 0.10
    """Beside what was expected (the reference, section 4)."""
    money_a_day: float = 1.0
    """In the currency of the values."""
    young_days: int = 14
    young_relative: float = 0.5
    young_steps: int = 3
    """So many costs must be known before anything is said."""
    drift_deviations: float = 3.5
    day_over_day: float = 0.5
    """The old rule, under its own name."""


@dataclass(frozen=True, slots=True)
class Alarms:
    """Of every series and step."""

    alarm: Flags
    reason: Codes
    young: Flags
    """History is shorter than the rules want it."""
    by_own_test: Flags
    """Alarms that do not stand on their score: of a young series, a new level, a drift."""


def alarms_of(
    values: Numbers, scores: Scores, calendar: Calendar, rules: Rules, planned: Flags | None = None
) -> Alarms:
    """Judge scores by the rules. What is `planned` is no alarm."""
    known = np.isfinite(values)
    steps_a_day = calendar.steps_a_day
    money = rules.money_a_day / steps_a_day
    young = scores.history < rules.young_days * steps_a_day
    # Who began on a weekend has seen no working day: the highest so far is what to exceed.
    so_far = np.maximum.accumulate(np.where(known, np.maximum(values, 0.0), 0.0), axis=1)
    highest = np.pad(so_far, ((0, 0), (1, 0)))[:, :-1]
    with np.errstate(invalid="ignore"):
        above = values - scores.expected
        large = (above >= rules.relative * np.abs(scores.expected)) & (above >= money)
        significant = scores.score >= rules.score
        by_share = (values - highest >= rules.young_relative * highest) & (above >= money)
    enough = scores.history >= rules.young_steps
    alarm = np.where(young, enough & by_share, significant & large)
    reason = np.full(values.shape, Reason.USUAL, np.int8)
    for why, plain in (
        (Why.FALL, Reason.FALL),
        (Why.SHIFTING, Reason.SHIFTING),
        (Why.RETURN, Reason.RETURN),
        (Why.HABIT, Reason.HABIT),
    ):
        reason[scores.why == why] = plain
    reason[significant & ~alarm & ~young & (above > 0)] = Reason.SMALL

    with np.errstate(invalid="ignore", over="ignore"):
        nothing = np.abs(scores.expected) < 0.01 * np.abs(values)
        dip = scores.expected <= (1 - rules.relative) * scores.usual
        within = values <= scores.usual * np.exp(2 * scores.noise)
    moved = scores.why == Why.NEW_LEVEL
    told = np.full(values.shape, Reason.SPIKE, np.int8)
    told[dip & within] = Reason.DID_NOT_FALL
    told[scores.why == Why.RAMP] = Reason.RAMP
    told[nothing] = Reason.FROM_ZERO
    reason = np.where(alarm, told, reason)

    # A new level that nobody was told of while it was still a spike.
    lately = _any_of_last(alarm, _WEEK_DAYS * steps_a_day)
    settled = moved & large & ~young
    reason[moved & (above > 0)] = Reason.NEW_LEVEL
    reason[moved & (above <= 0)] = Reason.LOWER_LEVEL
    alarm |= settled & ~lately
    # A step that was seen is no drift; small ones are how the level follows it.
    with np.errstate(invalid="ignore"):
        step = moved & (np.abs(above) >= rules.relative * np.abs(scores.expected))
    seen = alarm | step | (scores.why == Why.RETURN)
    drift = _drift(scores, calendar, rules, seen, known)
    reason[drift] = Reason.DRIFT
    alarm |= drift
    by_own_test = alarm & (young | moved | drift)
    if planned is not None:
        reason[alarm & planned] = Reason.PLANNED
        alarm &= ~planned
    reason[known & (scores.history == 0)] = Reason.FIRST
    reason[~known] = Reason.UNKNOWN
    return Alarms(alarm & known, reason.astype(np.int8), young, by_own_test & known)


def _any_of_last(flags: Flags, steps: int) -> Flags:
    """Whether any of the last `steps` steps before each was set."""
    total = np.cumsum(np.pad(flags, ((0, 0), (steps + 1, 0))), axis=1, dtype=np.int32)
    recent: Flags = (total[:, steps:-1] - total[:, : -steps - 1]) > 0
    return recent


def _drift(scores: Scores, calendar: Calendar, rules: Rules, busy: Flags, known: Flags) -> Flags:
    """One alarm where the level crept away under every other test."""
    day = calendar.steps_a_day
    week, first, last = _WEEK_DAYS * day, _DRIFT_FROM_DAYS * day, _DRIFT_TO_DAYS * day
    series, steps = scores.cleaned.shape
    drift = np.zeros((series, steps), bool)
    if steps <= first:
        return drift
    clean = np.where(known, scores.cleaned, 0.0)
    sums = np.cumsum(np.pad(clean, ((0, 0), (1, 0))), axis=1)
    counts = np.cumsum(np.pad(known, ((0, 0), (1, 0))), axis=1, dtype=np.int32)
    at = np.arange(first, steps)

    def mean(since: int, until: int) -> tuple[Numbers, npt.NDArray[np.int32]]:
        count = counts[:, at + 1 - until] - counts[:, at + 1 - since]
        total = sums[:, at + 1 - until] - sums[:, at + 1 - since]
        return total / np.maximum(count, 1), count

    now, now_count = mean(week, 0)
    then, then_count = mean(first, last)
    spread = np.sqrt(1 / np.maximum(now_count, 1) + 1 / np.maximum(then_count, 1))
    spread *= _DRIFT_WANDERS * scores.noise[:, at] / np.sqrt(day)
    above = now - then
    found = known[:, at] & (now_count >= 5 * day) & (then_count >= 10 * day)
    found &= above >= np.abs(then) * np.maximum(rules.relative, rules.drift_deviations * spread)
    found &= above >= rules.money_a_day / day
    quiet = ~_any_of_last(busy, first)[:, at] & ~busy[:, at]
    found &= quiet
    # Told once: the next four weeks say nothing new.
    told_at = np.full(series, -first)
    for step in np.flatnonzero(found.any(0)):
        now_told = found[:, step] & (step - told_at >= first)
        drift[:, at[step]] = now_told
        told_at = np.where(now_told, step, told_at)
    return drift


def day_over_day(values: Numbers, calendar: Calendar, rules: Rules) -> tuple[Numbers, Flags]:
    """The old rule: the change against the step of a day before, as a share; and whether that is
    more than the rule allows."""
    day = calendar.steps_a_day
    change = np.full(values.shape, np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        before = values[:, :-day]
        change[:, day:] = (values[:, day:] - before) / np.abs(before)
        above = np.full(values.shape, np.nan)
        above[:, day:] = values[:, day:] - before
        alarm = (change > rules.day_over_day) & (above >= rules.money_a_day / day)
    return change, alarm


def words(reason: int, value: float, expected: float, *, young: bool, alarm: bool) -> str:
    """A reason for people: what it is, and by how much."""
    told = WORDS[Reason(reason)]
    if reason in {Reason.UNKNOWN, Reason.FIRST} or not np.isfinite(expected):
        return told
    if alarm or reason not in {Reason.USUAL, Reason.HABIT, Reason.RETURN}:
        told += f": {value - expected:+,.2f} on {expected:,.2f}"
        if abs(expected) > 0.01 * abs(value):
            told += f" ({(value - expected) / abs(expected):+.0%})"
    if young:
        told += ", low confidence: less than two weeks known" if alarm else ""
    return told
