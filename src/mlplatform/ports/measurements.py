"""The measurements port: what a monitoring system says now, in answer to a query in its own words.

It says what it was told, however late and however odd: an empty answer is none, and who asks
decides what a number means.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Measured:
    """One sample: its labels, and its value, which may be NaN or infinite."""

    labels: Mapping[str, str]
    value: float


class Measurements(Protocol):
    """A monitoring system. The same errors as a store's: `Denied`, `Throttled`, `Unavailable`, and
    `UsageError` for a query that it does not understand."""

    @property
    def url(self) -> str:
        """Without secrets."""
        ...

    def instant(self, query: str) -> tuple[Measured, ...]:
        """What the query gives now, a sample a series. Takes a bounded time."""
        ...


@dataclass(frozen=True, slots=True)
class Line:
    """A series: its labels, and its samples, each a time in seconds since 1970 and a value."""

    labels: Mapping[str, str]
    samples: tuple[tuple[float, float], ...]


class History(Protocol):
    """A monitoring system that remembers. The same errors as `Measurements`."""

    @property
    def url(self) -> str:
        """Without secrets."""
        ...

    def range(
        self, query: str, *, since: float, until: float, step_seconds: float
    ) -> tuple[Line, ...]:
        """What the query gave at each step, both ends included, a line a series. A step at which a
        series was not there is left out. Takes a bounded time."""
        ...
