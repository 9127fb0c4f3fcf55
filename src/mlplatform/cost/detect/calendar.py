"""Where a step of a series lies in its week and in its month. Pure.

Effects follow the clock on the wall of whoever spends: the weekday, the hour and the day of the
month are those of the local time that a timestamp states, so that a change to summer time moves
no effect by an hour.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Whole = npt.NDArray[np.int64]

HOURS_A_DAY = 24
WEEKDAYS = 7


@dataclass(frozen=True, slots=True)
class Calendar:
    """The steps that all series of a table share, oldest first, without holes: a day or an hour
    for which nothing is known is a step whose values are NaN."""

    weekday: Whole
    """Monday is 0."""
    hour: Whole
    """0 throughout where steps are days."""
    day_of_month: Whole
    hourly: bool = False

    @property
    def steps_a_day(self) -> int:
        """1 or 24."""
        return HOURS_A_DAY if self.hourly else 1

    def __len__(self) -> int:
        return len(self.weekday)


def calendar_of(times: npt.NDArray[np.datetime64], *, hourly: bool = False) -> Calendar:
    """The calendar of steps at these local times."""
    days = times.astype("datetime64[D]")
    since_1970 = days.astype(np.int64)
    return Calendar(
        weekday=(since_1970 + 3) % WEEKDAYS,  # 1970-01-01 was a Thursday
        hour=(times - days).astype("timedelta64[h]").astype(np.int64) if hourly else 0 * since_1970,
        day_of_month=(days - days.astype("datetime64[M]")).astype(np.int64) + 1,
        hourly=hourly,
    )
