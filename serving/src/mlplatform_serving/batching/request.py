"""What waits: a request, and the key that says with whom it may share a batch."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import NamedTuple


class Key(NamedTuple):
    """Requests of equal keys may be mixed in one batch; others never are."""

    model: str
    version: str
    signature: Hashable = ()
    """Inputs as the model sees them: names, types, and shapes without the batch dimension."""


@dataclass(slots=True, eq=False)
class Request:
    """One request. Instants are seconds of one monotonic clock. Nobody changes it; it is not frozen
    because that triples what making one costs, once an inference."""

    id: int
    """Unique among all that wait at a time."""
    key: Key
    arrival: float
    deadline: float
    """When its answer must be there; finite, for a request that may wait for ever would."""
    size: int = 1
    """Its own batch dimension: how many items it brings."""
    priority: int = 0
    """The least goes first."""
    bytes: int = 0
    """What it holds in memory while it waits."""
