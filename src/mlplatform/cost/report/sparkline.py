"""A row of costs, a day each, as a line of text. Pure.

Each line has its own scale, from nothing to its highest. A day of which nothing is known is a gap,
never a zero, and provisional days stand in brackets: `▅▆▅·▅▆(▇▂)`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from itertools import groupby

GAP = "·"
_STEPS = "▁▂▃▄▅▆▇█"
_WIDEST = 31
"""A month fits, a day a character."""


@dataclass(frozen=True, slots=True)
class Slot:
    """One character's days."""

    cost: Decimal | None
    """A day's, on average; None: nothing is known of any of them."""
    provisional: bool = False


def days_a_slot(days: int, widest: int = _WIDEST) -> int:
    """How many days share a character, so that the line is no wider than it may be."""
    return -(-days // widest)


def slots(
    days: Sequence[date],
    costs: Mapping[date, Decimal],
    provisional: Collection[date] = (),
    *,
    widest: int = _WIDEST,
) -> list[Slot]:
    """Days, several at a time where they are many. The last one always ends a slot."""
    size = days_a_slot(len(days), widest) or 1
    first = len(days) % size
    starts = [*([0] if first else []), *range(first, len(days), size)]
    found = []
    for start, end in zip(starts, [*starts[1:], len(days)], strict=True):
        own = days[start:end]
        known = [costs[day] for day in own if day in costs]
        found.append(
            Slot(
                sum(known, Decimal(0)) / len(known) if known else None,
                any(day in provisional for day in own if day in costs),
            )
        )
    return found


def sparkline(line: Sequence[Slot]) -> str:
    """The line. Costs below zero stand below the costs of zero, by the same scale."""
    known = [slot.cost for slot in line if slot.cost is not None]
    low, high = min([Decimal(0), *known]), max([Decimal(0), *known])
    span = high - low
    text = ""
    for provisional, some in groupby(line, key=lambda slot: slot.provisional):
        told = "".join(_step(slot.cost, low, span) for slot in some)
        text += f"({told})" if provisional else told
    return text


def _step(cost: Decimal | None, low: Decimal, span: Decimal) -> str:
    if cost is None:
        return GAP
    place = int((cost - low) / span * len(_STEPS)) if span else 0
    return _STEPS[min(place, len(_STEPS) - 1)]
