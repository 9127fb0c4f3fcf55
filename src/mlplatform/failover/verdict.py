"""How a region is: judged from a quorum of vantages and from what callers met, and explained.

TO BE WRITTEN: `judge` and `judge_all`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Health(StrEnum):
    """A region's verdict. Only `unhealthy` moves traffic by itself; only `healthy` receives it."""

    HEALTHY = "healthy"
    SUSPECT = "suspect"
    UNHEALTHY = "unhealthy"
    UNKNOWN = "unknown"
    """Too little is known, or what is known is old. Hold."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is held of one region, why, and what would change it."""

    region: str
    health: Health
    because: tuple[str, ...] = ()
    """What decided, most weighty first; one line each."""
    would_change: tuple[str, ...] = ()
    """What would have to be seen for another verdict."""
    sick_seconds: float | None = None
    """How long it has been going wrong, at least, by the vantages' own clocks; None while well."""
    well_seconds: float | None = None
    """How long every voting domain has seen it well; None while it is not."""
    serves_nothing: bool = False
    """No vantage that may vote got any answer at all: there is nothing left to protect there."""
    models: Mapping[str, Health] = field(default_factory=dict)
    """Where golden requests tell one model from the others."""
