"""What counters that only rise, and start again from nothing, have counted each day. Pure.

A value below the one before it is a restart: what it has reached since then is what it has counted
(as `rate()` and `increase()` have it, https://prometheus.io/docs/prometheus/latest/querying/functions/).
Unlike these nothing is extrapolated, and a series that begins later than the question has begun
from nothing: it is a server that was started.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal

from mlplatform.ports.measurements import Line


@dataclass(frozen=True, slots=True)
class Served:
    """What a model has answered in a region on a day. None: unknown, which is no zero."""

    requests: Decimal | None = None
    tokens: Decimal | None = None


Place = tuple[str, str]
"""Model and region."""
Counts = Mapping[Place, Mapping[date, Served]]


def by_day(lines: Sequence[Line], since: float, step_seconds: float) -> dict[date, Decimal]:
    """The sum of several counters' counts by day, in UTC. `since`: from when on there is history.
    What was there already then starts to count then. A day of which no counter says anything is
    not there."""
    found: dict[date, Decimal] = {}
    for line in lines:
        before: float | None = None
        for at, value in line.samples:
            if not value >= 0:  # NaN: no value
                continue
            if before is None:
                grown = value if at > since + step_seconds else 0.0
            else:
                grown = value - before if value >= before else value
            before = value
            # What was counted up to midnight belongs to the day that ends.
            day = datetime.fromtimestamp(at - 1e-3, UTC).date()
            if at > since:
                found[day] = found.get(day, Decimal(0)) + Decimal(grown)
    return found


def begins(lines: Iterable[Line]) -> float | None:
    """When a history begins: at the first sample of any series."""
    return min((line.samples[0][0] for line in lines if line.samples), default=None)


def by_place(
    requests: Mapping[Place, Mapping[date, Decimal]], tokens: Mapping[Place, Mapping[date, Decimal]]
) -> dict[Place, dict[date, Served]]:
    """Requests and tokens side by side."""
    found: dict[Place, dict[date, Served]] = {}
    for place in {*requests, *tokens}:
        asked, told = requests.get(place, {}), tokens.get(place, {})
        found[place] = {day: Served(asked.get(day), told.get(day)) for day in {*asked, *told}}
    return found


def grouped(
    lines: Iterable[Line], model_label: str, region_label: str, names: Mapping[str, str]
) -> dict[Place, list[Line]]:
    """Lines by model and region; `names` are the topology's regions by what bills call them. What
    does not say its model or its region is left out: it is nobody's."""
    found: dict[Place, list[Line]] = {}
    for line in lines:
        model, region = line.labels.get(model_label, ""), line.labels.get(region_label, "")
        if model and region:
            place = (model, names.get(region.lower(), region))
            found.setdefault(place, []).append(line)
    return found


def joined(pieces: Sequence[Sequence[Line]]) -> list[Line]:
    """Lines that were asked for piece by piece, oldest first, as whole ones."""
    found: dict[tuple[tuple[str, str], ...], list[tuple[float, float]]] = {}
    for piece in pieces:
        for line in piece:
            samples = found.setdefault(tuple(sorted(line.labels.items())), [])
            last = samples[-1][0] if samples else float("-inf")
            samples.extend(each for each in line.samples if each[0] > last)
    return [Line(dict(labels), tuple(samples)) for labels, samples in found.items()]
