"""How far each step of each series is from what it should have been, and what explains it. Pure.

Several explanations of every step are weighed against each other, by Bayes' rule and step by step
(a multi-process model: Harrison and Stevens, "Bayesian forecasting", 1976): all is as usual; a
spike or a fall; a new level, held by so many residuals that agree; a ramp, each residual larger by
the same; the level of before, returned to; a habit, which stood out a week or a month ago as it
does today. Only what is as usual teaches the baseline. The score is the chance of what somebody
should look at against that of all the rest: it ranks steps of all series alike.

A step sees what came before it and itself. Series do not see each other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from mlplatform.cost.detect.baseline import Baseline, Flags, Forecast, Numbers
from mlplatform.cost.detect.calendar import WEEKDAYS, Calendar
from mlplatform.cost.detect.model import DAILY, Bump, Model, hourly

Codes = npt.NDArray[np.int8]

_BLOCK = 2048
"""Series that are followed together: as many as keep what a step touches in the cache."""
_CLEAN_CLIP = 2.5
_PLAINLY = 4.0
"""What stands out by so many deviations may be the habit of a weekday or of a day of the month."""


class Why(IntEnum):
    """What explains a step best."""

    UNKNOWN = 0
    USUAL = 1
    SPIKE = 2
    FALL = 3
    NEW_LEVEL = 4
    """The step at which it was believed."""
    RAMP = 5
    RETURN = 6
    HABIT = 7
    SHIFTING = 8
    """Above or below, and it looks as if it stays; not believed yet."""


class Told(IntEnum):
    """What somebody said of a step."""

    NOTHING = 0
    YES = 1
    """It is an anomaly: nothing is learnt from it."""
    NO = 2
    """It is none: it is learnt from as from any other."""
    PLANNED = 3
    """It was meant: whatever level it shows is the level."""


@dataclass(frozen=True, slots=True)
class Scores:
    """Of every series and step; NaN where nothing is known."""

    expected: Numbers
    usual: Numbers
    """What would be expected without weekday, hour and month."""
    evidence: Numbers
    """Natural logarithm of the odds that somebody should look."""
    deviations: Numbers
    """How many deviations the cost is from what is expected."""
    noise: Numbers
    """Deviation of the noise, in logarithms."""
    cleaned: Numbers
    """The cost without its effects, and no further from the level than noise goes."""
    history: npt.NDArray[np.int32]
    """Steps known before this one."""
    why: Codes

    @property
    def score(self) -> Numbers:
        """The decimal logarithm of 1 + the odds: 0 for nothing, 0.3 for even odds, 2 for 100:1."""
        with np.errstate(invalid="ignore"):
            return np.logaddexp(0.0, self.evidence) / math.log(10)


def score(
    values: Numbers, calendar: Calendar, *, told: Codes | None = None, model: Model | None = None
) -> Scores:
    """Score series (rows) by steps (columns); NaN is a step of which nothing is known. `told` holds
    `Told` of each step."""
    series, steps = values.shape
    if model is None:
        model = hourly() if calendar.hourly else DAILY
    if told is None:
        told = np.zeros((series, 1), np.int8)

    def unknown() -> Numbers:
        return np.full((series, steps), np.nan)

    found = Scores(
        expected=unknown(),
        usual=unknown(),
        evidence=unknown(),
        deviations=unknown(),
        noise=unknown(),
        cleaned=unknown(),
        history=np.zeros((series, steps), np.int32),
        why=np.zeros((series, steps), np.int8),
    )
    for start in range(0, series, _BLOCK):
        rows = slice(start, start + _BLOCK)
        _score_block(values[rows], calendar, told[rows], model, found, rows)
    return found


def _score_block(
    values: Numbers, calendar: Calendar, told: Codes, model: Model, found: Scores, rows: slice
) -> None:
    block = _Block(len(values), calendar, model)
    costs = np.ascontiguousarray(values.T)
    said = np.broadcast_to(told, values.shape).T if told.any() else None
    with np.errstate(under="ignore", over="ignore"):
        for step, cost in enumerate(costs):
            block.take(step, cost, None if said is None else said[step], found, rows)


class _Block:
    """Series that are followed together."""

    def __init__(self, series: int, calendar: Calendar, model: Model) -> None:
        self._model, self._calendar = model, calendar
        self._baseline = Baseline(series, calendar, model)
        runs = model.run_steps
        self._usual = np.ones(series)
        self._trust = np.ones(series)
        """The chance that a step was as usual: what was explained by a habit or by the level of
        before has moved the baseline already."""
        self._spike = np.zeros(series)
        self._fall = np.zeros(series)
        self._shift = np.zeros((runs, series))
        self._ramp = np.zeros((runs, series))
        self._run_sum = np.zeros((runs, series))
        self._ramp_sum = np.zeros((runs, series))
        self._before = np.zeros(series)
        self._before_left = np.zeros(series, np.int64)
        slots = WEEKDAYS * calendar.steps_a_day
        self._stood_out_week = np.full((slots, series), np.nan)
        self._stood_out_month = np.full((32, series), np.nan)
        self._habit_month = np.zeros((32, series))
        self._restless = np.zeros(series)
        self._square = np.full(series, model.noise**2)
        self._run = np.zeros(series, np.int64)
        """How many steps in a row were not as usual."""
        self._seen = np.zeros(series, np.int32)
        self._of_clipped = _mean_of_clipped_square(model.clip)
        self._lengths = np.arange(1, runs)[:, None].astype(np.float64)
        self._squares = self._lengths * (self._lengths + 1) * (2 * self._lengths + 1) / 6

    def take(
        self, step: int, cost: Numbers, said: Codes | None, found: Scores, rows: slice
    ) -> None:
        """Weigh one step of all series, and learn from it."""
        baseline = self._baseline
        known = np.isfinite(cost)
        cost = np.where(known, cost, 0.0)
        scaled = baseline.scaled(cost, known)
        first = known & ~baseline.begun
        baseline.walk(step)
        baseline.begin(step, scaled, first)
        forecast = baseline.forecast(step)
        day = 0 if self._calendar.hourly else int(self._calendar.day_of_month[step])
        habit = self._habit_month[day].copy()
        residual = np.where(known, scaled - forecast.mean - habit, 0.0)
        noise = baseline.noise
        variance = forecast.variance + noise * (1 + 2 / baseline.noise_steps)
        slot = baseline.week_slot(step)
        was_usual = self._run == 0

        hit, rest, why = self._weigh(residual, variance, known, slot, day, was_usual)
        evidence = np.log(hit + 1e-300) - np.log(rest + 1e-300)
        judged = known & ~first
        found.evidence[rows, step] = np.where(judged, evidence, np.where(known, -np.inf, np.nan))
        found.deviations[rows, step] = np.where(judged, residual / np.sqrt(variance), np.nan)
        begun = baseline.begun & ~first
        shown = np.where(begun, baseline.cost_of(forecast.mean + habit), np.nan)
        found.expected[rows, step] = shown
        found.usual[rows, step] = np.where(begun, baseline.cost_of(baseline.usual()), np.nan)
        found.noise[rows, step] = np.sqrt(noise)
        found.history[rows, step] = self._seen
        bound = _CLEAN_CLIP * np.sqrt(variance)
        clean = baseline.cost_of(baseline.usual() + np.clip(residual, -bound, bound))
        found.cleaned[rows, step] = np.where(known, clean, np.nan)
        self._seen += known

        if said is not None:
            self._obey(said, known)
        self._learn(forecast, residual, np.where(known, self._trust, 0.0), judged)
        moved = self._move_level(variance, known)
        why = np.where(moved, Why.NEW_LEVEL, why)
        found.why[rows, step] = np.where(known, why, Why.UNKNOWN)

    def _weigh(
        self,
        residual: Numbers,
        variance: Numbers,
        known: Flags,
        slot: int,
        day: int,
        was_usual: Flags,
    ) -> tuple[Numbers, Numbers, Codes]:
        """One step of Bayes' rule: the odds, and what explains the step best."""
        model, lengths = self._model, self._lengths
        baseline = self._baseline
        freedom = np.minimum(baseline.noise_steps, model.freedom)
        odd = np.clip(self._restless - model.unrest_allowed, 0.0, 0.5)
        as_usual = (1 - odd) * _student(residual, variance, freedom) + 1e-290
        if odd.any():
            as_usual += odd * _normal(residual, variance + self._square)
        # What is below is no rise, however wide the widest of them is spread.
        below = np.exp(-0.5 * residual * residual / variance)
        rise = _mixture(residual, variance, model.rises) * np.where(residual > 0, 1.0, below)
        fall = _mixture(residual, variance, model.falls) * np.where(residual < 0, 1.0, below)
        rise += 1e-280
        fall += 1e-285

        # A new level: the next residual is like those of the run so far.
        precision = self._shift_precision(self._run_sum[:-1] / lengths) + lengths / variance
        mean = self._run_sum[:-1] / variance / precision
        held = _normal(residual - mean, variance + 1 / precision)
        begins = _mixture(residual, variance, model.shifts)

        # A ramp: the next residual is larger than the last, by the slope of the run so far.
        slope_precision = model.ramp_slope_deviation**-2 + self._squares / variance
        slope = model.ramp_slope * model.ramp_slope_deviation**-2 + self._ramp_sum[:-1] / variance
        slope /= slope_precision
        longer = lengths + 1
        climbed = _normal(residual - longer * slope, variance + longer**2 / slope_precision)
        climbs = _normal(residual - model.ramp_slope, variance + model.ramp_slope_deviation**2)

        usual, spike, drop = self._usual, self._spike, self._fall
        chances = model.spike_chance + model.fall_chance + model.shift_chance + model.ramp_chance
        calm = usual + (spike + drop) * (1 - model.stay) + self._ramp.sum(0) * (1 - model.ramp_stay)

        # What is like something seen before: the old level, or this day of the week or the month.
        aside = np.zeros_like(residual)
        returned = np.where(
            self._before_left > 0,
            model.return_chance * _normal(residual - self._before, variance + 0.03**2),
            0.0,
        )
        aside += np.where(self._before_left > 0, model.return_chance, 0.0)
        weekly, share = self._recurs(self._stood_out_week[slot], residual, variance, was_usual)
        aside += share
        monthly, share = self._recurs(self._stood_out_month[day], residual, variance, was_usual)
        missing = self._habit_month[day] != 0
        if day and missing.any():
            # The habit was given up: no fall, for nobody expects it to cost for ever.
            gone = _normal(residual + self._habit_month[day], variance + 0.05**2)
            monthly = np.where(missing, 0.1 * gone, monthly)
            share = np.where(missing, 0.1, share)
        aside += share

        weights = {
            Why.USUAL: calm * (1 - chances - aside) * as_usual,
            Why.SPIKE: (calm * model.spike_chance + spike * model.stay) * rise,
            Why.FALL: (calm * model.fall_chance + drop * model.stay) * fall,
            Why.RETURN: calm * returned,
        }
        week_habit, month_habit = calm * weekly, calm * monthly
        shift = np.empty_like(self._shift)
        shift[0] = calm * model.shift_chance * begins
        shift[1:] = self._shift[:-1] * held
        shift[-1] += self._shift[-1] * held[-1]
        ramp = np.empty_like(self._ramp)
        ramp[0] = calm * model.ramp_chance * climbs
        ramp[1:] = self._ramp[:-1] * climbed * model.ramp_stay
        ramp[-1] += self._ramp[-1] * climbed[-1] * model.ramp_stay
        total = sum(weights.values(), week_habit + month_habit) + shift.sum(0) + ramp.sum(0)
        scale = np.where(known, 1 / total, 0.0)

        everywhere = bool(known.all())

        def kept(new: Numbers, old: Numbers) -> Numbers:
            return new * scale if everywhere else np.where(known, new * scale, old)

        chance = {name: weight * scale for name, weight in weights.items()}
        habits_week, habits_month = week_habit * scale, month_habit * scale
        self._spike = kept(weights[Why.SPIKE], spike)
        self._fall = kept(weights[Why.FALL], drop)
        self._shift = kept(shift, self._shift)
        self._ramp = kept(ramp, self._ramp)
        self._usual = np.where(
            known, chance[Why.USUAL] + chance[Why.RETURN] + habits_week + habits_month, usual
        )
        self._trust = chance[Why.USUAL]
        run_sum = np.concatenate([residual[None], self._run_sum[:-1] + residual])
        ramp_sum = np.concatenate([residual[None], self._ramp_sum[:-1] + longer * residual])
        self._run_sum = run_sum if everywhere else np.where(known, run_sum, self._run_sum)
        self._ramp_sum = ramp_sum if everywhere else np.where(known, ramp_sum, self._ramp_sum)

        up = residual > 0
        weight = np.where(up, 1.0, model.fall_weight)
        hit = chance[Why.SPIKE] + self._ramp.sum(0) + self._shift[0] * weight
        hit += chance[Why.FALL] * model.fall_weight
        rest = self._usual + self._shift[1:].sum(0) + self._shift[0] * (1 - weight)
        rest += chance[Why.FALL] * (1 - model.fall_weight)

        names = [Why.USUAL, Why.SPIKE, Why.FALL, Why.RETURN, Why.HABIT, Why.SHIFTING, Why.RAMP]
        each = [
            chance[Why.USUAL],
            chance[Why.SPIKE] + self._shift[0] * up,
            chance[Why.FALL] + self._shift[0] * ~up,
            chance[Why.RETURN],
            habits_week + habits_month,
            self._shift[1:].sum(0),
            self._ramp.sum(0),
        ]
        why = np.array(names, np.int8)[np.argmax(np.stack(each), 0)]
        self._remember(residual, known, slot, day, why, habits_week, habits_month, chance)
        return hit, rest, why

    def _shift_precision(self, mean: Numbers) -> Numbers:
        """How little is known of a new level beforehand: less, the further away it is."""
        return np.asarray(1 / (self._model.shift_deviation**2 + mean * mean))

    def _recurs(
        self, stood_out: Numbers, residual: Numbers, variance: Numbers, was_usual: Flags
    ) -> tuple[Numbers, Numbers]:
        """How likely the residual is if it is the one of a week or a month ago again."""
        possible = was_usual & (stood_out * stood_out > _PLAINLY**2 * variance)
        if not possible.any():
            return np.zeros_like(residual), np.zeros_like(residual)
        chance = self._model.recur_chance
        like = _normal(residual - np.where(possible, stood_out, 0.0), 2 * variance + 0.03**2)
        return np.where(possible, chance * like, 0.0), np.where(possible, chance, 0.0)

    def _remember(
        self,
        residual: Numbers,
        known: Flags,
        slot: int,
        day: int,
        why: Codes,
        week: Numbers,
        month: Numbers,
        chance: dict[Why, Numbers],
    ) -> None:
        """Keep what stood out, make a habit of what recurred, go back to the level of before."""
        model, baseline = self._model, self._baseline
        ordinary = ~known | (why == Why.USUAL) | (why == Why.RETURN) | (why == Why.HABIT)
        self._run = np.where(ordinary, np.where(known, 0, self._run), self._run + 1)
        alone = (why == Why.SPIKE) | (why == Why.FALL)
        stood_out = known & alone & (self._run <= model.agreeing_steps)
        self._stood_out_week[slot] = np.where(
            stood_out, residual, np.where(known, np.nan, self._stood_out_week[slot])
        )
        recurred = week > 0.5
        if recurred.any():
            baseline.move_week_slot(slot, residual, recurred)
        if day:
            self._stood_out_month[day] = np.where(
                stood_out, residual, np.where(known, np.nan, self._stood_out_month[day])
            )
            recurred_month = month > 0.5
            if recurred_month.any():
                given_up = recurred_month & (self._habit_month[day] != 0)
                habit = np.where(given_up, 0.0, self._habit_month[day] + residual)
                self._habit_month[day] = np.where(recurred_month, habit, self._habit_month[day])
        returned = chance[Why.RETURN] > 0.5
        if returned.any():
            baseline.move_level(self._before, 0.5 * baseline.noise, returned)
            self._before_left = np.where(returned, 0, self._before_left)
            self._forget_runs(returned)
        self._before_left = np.maximum(self._before_left - known, 0)
        share = known / model.unrest_memory
        self._restless += share * (self._spike + self._fall - self._restless)
        self._square += share * (np.minimum(residual * residual, 25.0) - self._square)

    def _obey(self, said: Codes, known: Flags) -> None:
        """What somebody said is believed, whatever it looks like."""
        normal = known & ((said == Told.NO) | (said == Told.PLANNED))
        self._forget_runs(normal)
        self._baseline.open_level(known & (said == Told.PLANNED), 0.5)
        odd = known & (said == Told.YES)
        self._forget_runs(odd)
        self._usual = np.where(odd, 0.0, self._usual)
        self._trust = np.where(normal, 1.0, np.where(odd, 0.0, self._trust))
        self._spike = np.where(odd, 1.0, self._spike)

    def _learn(self, forecast: Forecast, residual: Numbers, trust: Numbers, judged: Flags) -> None:
        self._baseline.learn(forecast, residual, trust)
        weight = np.where(judged, np.maximum(trust, self._model.distrust), 0.0)
        self._baseline.learn_noise(forecast, residual, weight, self._of_clipped)

    def _move_level(self, variance: Numbers, known: Flags) -> Flags:
        """Where enough residuals agree, theirs is the level."""
        model, baseline = self._model, self._baseline
        agreeing = self._shift[model.agreeing_steps - 1 :]
        moved: Flags = known & (agreeing.sum(0) > model.shift_belief)
        if moved.any():
            longest = np.argmax(agreeing, 0) + model.agreeing_steps - 1
            run_sum = np.take_along_axis(self._run_sum, longest[None], 0)[0]
            precision = self._shift_precision(run_sum / (longest + 1)) + (longest + 1) / variance
            offset = run_sum / variance / precision
            baseline.move_level(offset, 1 / precision, moved)
            self._stood_out_week[:, moved] = np.nan
            self._stood_out_month[:, moved] = np.nan
            self._before = np.where(moved, -offset, self._before)
            self._before_left = np.where(moved, model.return_steps, self._before_left)
            self._forget_runs(moved)
        self._before = baseline.fit_unit(known & (self._usual > 0.9), self._before)
        return moved

    def _forget_runs(self, forgotten: Flags) -> None:
        self._usual = np.where(forgotten, 1.0, self._usual)
        self._spike = np.where(forgotten, 0.0, self._spike)
        self._fall = np.where(forgotten, 0.0, self._fall)
        self._shift[:, forgotten] = 0.0
        self._ramp[:, forgotten] = 0.0


def _normal(residual: Numbers, variance: Numbers) -> Numbers:
    precision = 1 / variance
    density: Numbers = residual * residual
    density *= precision
    density *= -0.5
    np.exp(density, out=density)
    precision *= 0.5 / math.pi
    density *= np.sqrt(precision, out=precision)
    return density


def _student(residual: Numbers, variance: Numbers, freedom: Numbers) -> Numbers:
    """Student's t; its constant to 1 / freedom, which is within 1 % from 3 degrees on."""
    kernel = np.log1p(residual * residual / (variance * freedom))
    density: Numbers = np.exp(-0.5 * (freedom + 1) * kernel)
    density *= (1 - 0.25 / freedom) / np.sqrt(2 * math.pi * variance)
    return density


def _mixture(residual: Numbers, variance: Numbers, bumps: Sequence[Bump]) -> Numbers:
    density = np.zeros_like(residual)
    for bump in bumps:
        density += bump.share * _normal(residual - bump.mean, variance + bump.deviation**2)
    return density


def _mean_of_clipped_square(clip: float) -> float:
    """The mean of min(z², clip²) where z is standard normal."""
    within = math.erf(clip / math.sqrt(2))
    density = math.sqrt(2 / math.pi) * math.exp(-clip * clip / 2)
    return within - clip * density + clip * clip * (1 - within)
