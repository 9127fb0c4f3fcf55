"""What a day or an hour should cost: level × weekday (× hour) × start of the month. Pure.

In logarithms the factors are a sum, and the sum is followed by a Kalman filter (West and Harrison,
"Bayesian Forecasting and Dynamic Models", 1997, ch. 4): each effect starts at nothing with a prior
deviation, which is what shrinks it while history is short, and moves so little from one week to the
next that it remembers about a year. One filter a series, all series of a block in step; series are
the last axis, so that each operation runs along memory.

Costs are zero and negative as well. Their logarithm is `asinh(cost / (2 × unit))`, the unit a
hundredth of the series' usual cost: within 0.01 % of a logarithm at that size, zero at zero.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mlplatform.cost.detect.calendar import HOURS_A_DAY, WEEKDAYS, Calendar
from mlplatform.cost.detect.model import Model

Numbers = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

LEVEL = 0
_WEEK = 1
_MONTH = 8
_MONTH_DAYS = 3
_HOURS = _MONTH + _MONTH_DAYS
_UNITS_OF_LEVEL = 100.0
_UNITS_LEAST, _UNITS_MOST = 20.0, 500.0
_NOTHING = 0.2
"""A level of fewer units is none: its size says nothing."""
_LEAST = 1e-9
"""Less than this is no money in any currency."""
_UNITS_EVER = 1e100
_COST_EVER = 1e301
"""What a filter that is told nonsense may expect at most: sums of it stay finite."""
_LEVEL_DEVIATION = 0.1
"""Of the level, beside the noise, once the first cost was seen."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """What is expected of the next step."""

    mean: Numbers
    variance: Numbers
    """Of the mean itself; the noise comes on top."""
    gain: Numbers
    """Covariance of every state with the mean."""
    cell: int
    """Of the week, where steps are hours; else -1."""


class Baseline:
    """The filters of a block of series."""

    def __init__(self, series: int, calendar: Calendar, model: Model) -> None:
        self._calendar, self._model = calendar, model
        states = _HOURS + (HOURS_A_DAY if calendar.hourly else 0)
        deviations = np.full(states, model.weekday_deviation)
        deviations[LEVEL] = 0.0
        deviations[_MONTH:_HOURS] = np.array([1.0, 0.5, 0.5]) * model.month_deviation
        self._walks = np.full(states, model.effect_walk**2)
        self.mean = np.zeros((states, series))
        self.covariance = np.zeros((states, states, series))
        self.covariance[np.arange(states), np.arange(states)] = (deviations**2)[:, None]
        cells = WEEKDAYS * HOURS_A_DAY if calendar.hourly else 0
        self._cell_mean = np.zeros((cells, series))
        self._cell_variance = np.full((cells, series), model.cell_deviation**2)
        self.begun = np.zeros(series, bool)
        self.unit = np.zeros(series)
        """0 until a cost other than zero was seen."""
        self.noise = np.full(series, model.noise**2)
        """Its variance."""
        self.noise_steps = np.full(series, model.noise_steps)

    def scaled(self, cost: Numbers, known: Flags) -> Numbers:
        """The logarithm of a cost, in the series' own unit."""
        fresh = known & (self.unit == 0) & (np.abs(cost) > _LEAST)
        if fresh.any():
            self.unit = np.where(fresh, np.abs(cost) / _UNITS_OF_LEVEL, self.unit)
        units = np.clip(cost / (2 * self._divisor), -_UNITS_EVER, _UNITS_EVER)
        return np.where(known & (self.unit > 0), np.arcsinh(units), 0.0)

    def cost_of(self, scaled: Numbers) -> Numbers:
        """The cost that a logarithm is of."""
        cost: Numbers = np.clip(2 * self.unit * np.sinh(scaled), -_COST_EVER, _COST_EVER)
        return cost

    @property
    def _divisor(self) -> Numbers:
        return np.where(self.unit > 0, self.unit, 1.0)

    def week_slot(self, step: int) -> int:
        """Which step of the week it is."""
        calendar = self._calendar
        return int(calendar.weekday[step]) * calendar.steps_a_day + int(calendar.hour[step])

    def _effects(self, step: int) -> list[int]:
        calendar = self._calendar
        effects = [_WEEK + int(calendar.weekday[step])]
        day = int(calendar.day_of_month[step])
        if day <= _MONTH_DAYS:
            effects.append(_MONTH + day - 1)
        if calendar.hourly:
            effects.append(_HOURS + int(calendar.hour[step]))
        return effects

    def walk(self, step: int) -> None:
        """Let the level, and the effects of this step, be a little less certain than they were."""
        model = self._model
        walk = model.level_walk**2 + model.level_walk_of_noise**2 * self.noise
        self.covariance[LEVEL, LEVEL] += np.where(self.begun, walk, 0.0)
        for state in self._effects(step):
            self.covariance[state, state] += self._walks[state]

    def forecast(self, step: int) -> Forecast:
        """What is expected of a step."""
        effects = self._effects(step)
        gain = self.covariance[:, LEVEL] + self.covariance[:, effects[0]]
        mean = self.mean[LEVEL] + self.mean[effects[0]]
        for state in effects[1:]:
            gain += self.covariance[:, state]
            mean += self.mean[state]
        variance = gain[LEVEL].copy()
        for state in effects:
            variance += gain[state]
        cell = -1
        if self._calendar.hourly:
            cell = self.week_slot(step)
            mean += self._cell_mean[cell]
            variance += self._cell_variance[cell]
        return Forecast(mean, variance, gain, cell)

    def begin(self, step: int, scaled: Numbers, first: Flags) -> None:
        """Take the first cost of a series for its level."""
        if first.any():
            effects = self.forecast(step).mean - self.mean[LEVEL]
            self.mean[LEVEL] = np.where(first, scaled - effects, self.mean[LEVEL])
            self.covariance[LEVEL, LEVEL] += np.where(first, _LEVEL_DEVIATION**2, 0.0)
            self.begun |= first

    def learn(self, forecast: Forecast, residual: Numbers, trust: Numbers) -> None:
        """Let a residual move the states, as far as it is trusted."""
        scale = trust / (trust * forecast.variance + self.noise)
        weighted = scale * forecast.gain
        self.mean += weighted * residual
        for state in range(len(self.mean)):
            self.covariance[state] -= weighted[state] * forecast.gain
        if forecast.cell >= 0:
            variance = self._cell_variance[forecast.cell]
            self._cell_mean[forecast.cell] += scale * variance * residual
            self._cell_variance[forecast.cell] = (
                variance * (1 - scale * variance) + self._model.effect_walk**2
            )

    def learn_noise(
        self, forecast: Forecast, residual: Numbers, weight: Numbers, mean_of_clipped: float
    ) -> None:
        """Let a residual, clipped, tell how noisy the series is."""
        model = self._model
        own = residual * residual * (self.noise / (forecast.variance + self.noise))
        own = np.minimum(own, model.clip**2 * self.noise) / mean_of_clipped
        self.noise_steps = np.minimum(self.noise_steps + weight, model.noise_memory)
        noise = self.noise + weight * (own - self.noise) / self.noise_steps
        self.noise = np.maximum(noise, model.noise_least**2)

    def move_level(self, offset: Numbers, variance: Numbers, moved: Flags) -> None:
        """Put the level elsewhere: there is reason to believe that it moved."""
        self.mean[LEVEL] += np.where(moved, offset, 0.0)
        self.covariance[LEVEL, LEVEL] += np.where(moved, variance, 0.0)

    def open_level(self, opened: Flags, deviation: float) -> None:
        """Forget where the level is: whatever comes next will tell."""
        self.covariance[LEVEL, LEVEL] += np.where(opened, deviation**2, 0.0)

    def move_week_slot(self, slot: int, offset: Numbers, moved: Flags) -> None:
        """Put the effect of a step of the week elsewhere."""
        if self._calendar.hourly:
            self._cell_mean[slot] += np.where(moved, offset, 0.0)
        else:
            self.mean[_WEEK + slot] += np.where(moved, offset, 0.0)

    def usual(self) -> Numbers:
        """The level, without any effect."""
        level: Numbers = self.mean[LEVEL]
        return level

    def fit_unit(self, allowed: Flags, targets: Numbers) -> Numbers:
        """Where the level left the unit's range, change the unit. `targets` are offsets from the
        level, and are returned in the new unit."""
        level = self.cost_of(self.mean[LEVEL])
        size = np.abs(level) / self._divisor
        low = (size < _UNITS_LEAST) & (size > _NOTHING)
        change = allowed & (np.abs(level) > _LEAST) & (low | (size > _UNITS_MOST))
        if not change.any():
            return targets
        target = self.cost_of(self.mean[LEVEL] + targets)
        self.unit = np.where(change, np.abs(level) / _UNITS_OF_LEVEL, self.unit)
        divisor = 2 * self._divisor
        self.mean[LEVEL] = np.where(change, np.arcsinh(level / divisor), self.mean[LEVEL])
        return np.where(change, np.arcsinh(target / divisor) - self.mean[LEVEL], targets)
