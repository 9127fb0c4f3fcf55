"""What the ledger held after each import, so that each is judged as it was seen then. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from mlplatform.cost.ledger import Delivery, Stream

_ONE_IMPORT = timedelta(hours=1)
"""Deliveries of different periods and bills that come so soon after each other are one import."""


@dataclass(frozen=True, slots=True)
class State:
    """The ledger after an import."""

    current: tuple[Delivery, ...]
    """The newest of each period and part of each bill."""
    brought: tuple[Delivery, ...]
    """What the import brought."""

    @property
    def at(self) -> datetime:
        """When it was reached."""
        return max(delivery.imported for delivery in self.brought)


def states(deliveries: Iterable[Delivery]) -> list[State]:
    """What the ledger held after each import, the oldest first. An import ends where a period is
    delivered once more, or with time."""
    current: dict[Stream, Delivery] = {}
    brought: list[Delivery] = []
    found: list[State] = []
    for delivery in sorted(deliveries, key=lambda each: (each.imported, each.number, each.id)):
        again = any(each.stream == delivery.stream for each in brought)
        if brought and (again or delivery.imported - brought[-1].imported > _ONE_IMPORT):
            found.append(_state(current, brought))
            brought = []
        brought.append(delivery)
        current[delivery.stream] = delivery
    if brought:
        found.append(_state(current, brought))
    return found


def _state(current: dict[Stream, Delivery], brought: Sequence[Delivery]) -> State:
    return State(tuple(current[stream] for stream in sorted(current)), tuple(brought))
