"""Series to judge: a cost of about 1,000 a day that dips by 30 % on weekends, and what happens."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mlplatform.cost.detect.alarms import Alarms, Reason, Rules, alarms_of
from mlplatform.cost.detect.calendar import Calendar, calendar_of
from mlplatform.cost.detect.scoring import Codes, Scores, score

Numbers = npt.NDArray[np.float64]

MONDAY = np.datetime64("2026-01-05")
DAYS = 140


def calendar(days: int = DAYS) -> Calendar:
    """Days from a Monday on."""
    return calendar_of(MONDAY + np.arange(days))


def day_of(date: str) -> int:
    """Which step a date is."""
    return int((np.datetime64(date) - MONDAY).astype(int))


def usual(days: int = DAYS, *, noise: float = 0.03, seed: int = 1, level: float = 1000) -> Numbers:
    """Nothing happens."""
    rng = np.random.default_rng(seed)
    weekend = calendar(days).weekday >= 5
    made: Numbers = level * np.where(weekend, 0.7, 1.0) * np.exp(noise * rng.normal(size=days))
    return made


class Judged:
    """One series, scored and judged."""

    def __init__(
        self,
        values: Numbers,
        *,
        rules: Rules | None = None,
        told: Codes | None = None,
        calendar: Calendar | None = None,
        planned: npt.NDArray[np.bool_] | None = None,
    ) -> None:
        shared = calendar or calendar_of(MONDAY + np.arange(len(values)))
        rows = values[None]
        self.scores: Scores = score(rows, shared, told=None if told is None else told[None])
        self.alarms: Alarms = alarms_of(
            rows,
            self.scores,
            shared,
            rules or Rules(),
            None if planned is None else planned[None],
        )

    @property
    def alarm_days(self) -> list[int]:
        """The steps that are alarms."""
        return [int(step) for step in np.flatnonzero(self.alarms.alarm[0])]

    def reason(self, step: int) -> Reason:
        """Why, or why not."""
        return Reason(int(self.alarms.reason[0, step]))
