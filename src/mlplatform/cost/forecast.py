"""What the next days will cost, and between which amounts. Pure.

What a day should cost is the detector's own baseline, level × weekday × start of the month,
followed through days that are still unknown. How wrong that may be is learnt from the series
itself: the same baseline is stopped at up to 24 earlier days, and its sums over the days after are
held against what these came to. Where there are too few such sums, what the model takes for granted
stands in for them: noise, a level that moves, a lasting new one about once a year. So the intervals
of a short history are wide, and they widen with the days ahead.

Intervals are judged by what they hold (Gneiting, Balabdaoui and Raftery, "Probabilistic forecasts,
calibration and sharpness", 2007). Of 720 generated series with 10 to 380 days known (four worlds,
tests/features/cost/test_forecast.py), sums of 7 and of 30 days lay within 80 % in 85 to 93 of 100
cases, and within 95 % in 94 to 98.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from mlplatform.cost.detect.baseline import Flags, Numbers
from mlplatform.cost.detect.calendar import calendar_of
from mlplatform.cost.detect.model import DAILY, Model
from mlplatform.cost.detect.scoring import score

LOW_CONFIDENCE_DAYS = 28
"""With fewer days known, or fewer than are to be forecast, a forecast is of low confidence."""
_STOPS_MOST = 24
_STOPS_APART = 3
"""Days, at least."""
_LEARNT_DAYS = 14
"""Known before a stop, at least; less says more of the beginning than of the days ahead."""
_PRIOR_SUMS = 3.0
"""As many sums that do not overlap would weigh as much as what the model takes for granted."""
_LASTING = 0.5
"""Of the new levels that the detector looks for, so many are still there after a month."""
_UNITS = 100.0


@dataclass(frozen=True, slots=True)
class Forecasts:
    """Of every series (rows) and day ahead (columns)."""

    expected: Numbers
    """Of each day. NaN: nothing at all is known of the series."""
    summed: Numbers
    """From the first day ahead to each."""
    spread: Numbers
    """Deviation of the sum, in logarithms."""
    freedom: Numbers
    """On how many sums, about, the spread rests: degrees of Student's t."""
    unit: Numbers
    """Of the logarithm of each sum; see `_units`."""
    known_days: npt.NDArray[np.int64]
    """Of each series."""

    @property
    def low_confidence(self) -> Flags:
        """Whether a series is too young for what was asked."""
        least = max(LOW_CONFIDENCE_DAYS, self.expected.shape[1])
        few: Flags = self.known_days < least
        return few

    def between(self, share: float) -> tuple[Numbers, Numbers]:
        """The amounts between which a sum lies with a chance of `share`, 0 to 1."""
        reach = student_quantile((1 + share) / 2, self.freedom) * self.spread
        at = np.arcsinh(self.summed / self.unit)
        return np.sinh(at - reach) * self.unit, np.sinh(at + reach) * self.unit

    def chance_above(self, amounts: Numbers) -> Numbers:
        """How likely a sum is above an amount; by series and day ahead, or what broadcasts."""
        with np.errstate(divide="ignore", invalid="ignore"):
            further = np.arcsinh(amounts / self.unit) - np.arcsinh(self.summed / self.unit)
            deviations = further / self.spread
        deviations = np.where(
            self.spread > 0, deviations, np.where(amounts < self.summed, -np.inf, np.inf)
        )
        return 1 - student_chance(deviations, self.freedom)


def forecast(
    values: Numbers, first_day: np.datetime64, days_ahead: int, *, model: Model = DAILY
) -> Forecasts:
    """Forecast series (rows) of days (columns), of which NaN are unknown, so many days beyond the
    last column."""
    steps = values.shape[1]
    times = first_day.astype("datetime64[D]") + np.arange(steps + days_ahead)
    stops = _stops(steps, days_ahead)
    padded = np.pad(values, ((0, 0), (0, days_ahead)), constant_values=np.nan)
    cut = np.repeat(padded[None], len(stops), 0)
    for place, stop in enumerate(stops):
        cut[place, :, stop:] = np.nan
    found = score(cut.reshape(-1, steps + days_ahead), calendar_of(times), model=model)
    expected = found.expected.reshape(cut.shape)
    ahead = expected[0, :, steps:]
    known = np.isfinite(values).sum(1)
    daily = _daily_of_mixed(values)
    squares, sums = _errors(padded, expected, stops, daily, days_ahead)
    prior = _prior(found.noise.reshape(cut.shape)[0, :, -1], known, days_ahead, model)
    spread = (_PRIOR_SUMS * prior + squares) / (_PRIOR_SUMS + sums)
    # What never cost anything is expected to go on so; nothing is said of what may begin.
    spread = np.where(np.nan_to_num(np.abs(ahead)).sum(1)[:, None] > 0, spread, 0.0)
    summed = np.cumsum(ahead, 1)
    unit = _units(summed, daily, np.arange(1, days_ahead + 1))
    return Forecasts(ahead, summed, np.sqrt(spread), _PRIOR_SUMS + sums, unit, known)


def _daily_of_mixed(values: Numbers) -> Numbers:
    """The size of a day of series that are costs on some days and credits on others; NaN for those
    that are one of both."""
    known = np.isfinite(values)
    clean = np.where(known, values, 0.0)
    size = np.abs(clean).sum(1) / np.maximum(known.sum(1), 1)
    mixed = np.minimum(np.maximum(clean, 0).sum(1), np.maximum(-clean, 0).sum(1))
    return np.where(mixed > 0.01 * np.abs(clean).sum(1), size, np.nan)


def _units(summed: Numbers, daily: Numbers, lengths: npt.NDArray[np.int64]) -> Numbers:
    """What a sum is divided by before its logarithm (`asinh`, as the baseline's) is taken: so
    little that errors are shares of it; but where costs and credits mix as much as such a sum as a
    rule is, so that errors are amounts."""
    unit = np.where(np.isfinite(daily)[:, None], daily[:, None] * lengths, np.abs(summed) / _UNITS)
    return np.where(unit > 0, unit, 1.0)


def _stops(steps: int, days_ahead: int) -> list[int]:
    """Where the baseline is stopped: now, and earlier."""
    apart = max(_STOPS_APART, days_ahead // 6)
    earlier = range(steps - apart, _LEARNT_DAYS - 1, -apart)
    return [steps, *list(earlier)[:_STOPS_MOST]]


def _errors(
    actual: Numbers, expected: Numbers, stops: list[int], daily: Numbers, days_ahead: int
) -> tuple[Numbers, Numbers]:
    """By series and day ahead: squared errors of sums, in logarithms, as many as do not overlap;
    and how many these are."""
    series, steps = actual.shape
    total, count = np.zeros((series, days_ahead)), np.zeros((series, days_ahead))
    lengths = np.arange(1, days_ahead + 1)
    known_before = np.cumsum(np.isfinite(actual), 1)
    for place, stop in enumerate(stops[1:], 1):
        came = actual[:, stop : stop + days_ahead]
        known = np.isfinite(came)
        thought = np.where(known, expected[place, :, stop : stop + days_ahead], 0.0)
        real, told = np.cumsum(np.where(known, came, 0.0), 1), np.cumsum(thought, 1)
        days = np.cumsum(known, 1)
        # A sum of which a part is not known yet is another sum.
        over = (stop + lengths <= steps - days_ahead) & (days >= 0.8 * lengths)
        usable = over & np.isfinite(told) & (known_before[:, stop - 1] >= _LEARNT_DAYS)[:, None]
        usable &= told != 0
        unit = _units(told, daily, lengths)
        error = np.where(usable, np.arcsinh(real / unit) - np.arcsinh(told / unit), 0.0)
        total += error * error
        count += usable
    apart = stops[1] - stops[0] if len(stops) > 1 else -1
    # Sums that overlap say much the same.
    alone = np.minimum(1.0, -apart / lengths)[None]
    return total * alone, count * alone


def _prior(noise: Numbers, known: npt.NDArray[np.int64], days_ahead: int, model: Model) -> Numbers:
    """The variance of a sum's logarithm as the model has it before it was seen to be wrong."""
    lengths = np.arange(1, days_ahead + 1)[None].astype(np.float64)
    square = (noise**2)[:, None]
    days = np.maximum(known, 1)[:, None].astype(np.float64)
    walks = model.level_walk**2 + model.level_walk_of_noise**2 * square
    walks = walks + _LASTING * model.shift_chance * model.shift_deviation**2
    # Weekdays and month starts that were not seen yet.
    unseen = model.weekday_deviation**2 * np.exp(-days / 7) / np.minimum(lengths, 7)
    unseen = unseen + model.month_deviation**2 * np.exp(-days / 30) / np.maximum(lengths, 7)
    return np.asarray(square * (1 / lengths + 2 / days) + walks * lengths / 3 + unseen)


def student_quantile(chance: float, freedom: Numbers) -> Numbers:
    """A quantile of Student's t (Hill, "Algorithm 396", 1970, as an expansion in 1 / freedom:
    Abramowitz and Stegun, 26.7.5); within 1 % from 4 degrees on, for chances up to 0.995."""
    z = _normal_quantile(chance)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return np.asarray(z + sum(term / freedom ** (place + 1) for place, term in enumerate(terms)))


def student_chance(deviations: Numbers, freedom: Numbers) -> Numbers:
    """How likely Student's t is below so many deviations: by the normal that is nearest (Wallace,
    "Bounds on normal approximations to Student's and the chi-square distributions", 1959)."""
    with np.errstate(invalid="ignore"):
        z = np.sqrt(freedom * np.log1p(deviations**2 / freedom))
        z *= np.sign(deviations) * (8 * freedom + 1) / (8 * freedom + 3)
    below: Numbers = np.vectorize(math.erf, otypes=[float])(z / math.sqrt(2))
    return 0.5 * (1 + below)


def _normal_quantile(chance: float) -> float:
    return NormalDist().inv_cdf(chance)
