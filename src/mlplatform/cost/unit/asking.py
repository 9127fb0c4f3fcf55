"""What the servers have counted, as a monitoring system remembers it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

from mlplatform.core.cost import Counters
from mlplatform.cost.unit.counters import (
    Counts,
    Place,
    begins,
    by_day,
    by_place,
    grouped,
    joined,
)
from mlplatform.ports.measurements import History, Line

STEP_SECONDS = 300.0
"""As far as Prometheus looks back for a sample by default, so that none is missed for long."""


def ask(
    history: History,
    counters: Counters,
    region_label: str,
    regions: Mapping[str, str],
    days: Sequence[date],
) -> Counts:
    """Requests and tokens of some days, which follow each other. `regions`: the topology's names by
    those of bills. Where history begins later, its first day is no whole one, and unknown."""
    requests = _counted(history, [counters.requests], counters, region_label, regions, days)
    tokens = _counted(history, counters.tokens, counters, region_label, regions, days)
    return by_place(requests, tokens)


def _counted(
    history: History,
    metrics: Iterable[str],
    counters: Counters,
    region_label: str,
    regions: Mapping[str, str],
    days: Sequence[date],
) -> dict[Place, dict[date, Decimal]]:
    found: dict[Place, dict[date, Decimal]] = {}
    for metric in metrics:
        lines = joined([_of_day(history, metric, day) for day in days])
        since, first = _midnight(days[0]), begins(lines)
        partial = None
        if first is not None and first > since + STEP_SECONDS:
            since, partial = first, datetime.fromtimestamp(first, UTC).date()
        for place, some in grouped(lines, counters.model_label, region_label, regions).items():
            mine = found.setdefault(place, {})
            for day, count in by_day(some, since, STEP_SECONDS).items():
                if day != partial:
                    mine[day] = mine.get(day, Decimal(0)) + count
    return found


def _of_day(history: History, metric: str, day: date) -> tuple[Line, ...]:
    """A day at a time: answers stay small, however many servers there are."""
    since = _midnight(day)
    until = _midnight(day + timedelta(days=1))
    return history.range(metric, since=since, until=until, step_seconds=STEP_SECONDS)


def _midnight(day: date) -> float:
    return datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()
