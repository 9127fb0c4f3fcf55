"""What was counted of two versions in a window, and what of it cannot be compared. Pure."""

from __future__ import annotations

import math
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from enum import StrEnum

from mlplatform.core.seen import Unknown


class Event(StrEnum):
    """What else is known of a window."""

    RESET = "reset"
    """A counter began again: what was counted since counts. Something restarted; that is told."""
    GAP = "gap"
    """Some of the window was not measured."""
    WEIGHT_STEP = "weight-step"
    """Weights were changed within it."""
    CRASH = "crash"
    """A container of the canary ended by itself."""
    NO_ENDPOINT = "no-endpoint"
    """No endpoint of the canary was ready."""


@dataclass(frozen=True, slots=True)
class Arm:
    """What was counted of one version."""

    requests: float
    """That entered for it."""
    errors: float
    """Of these: 5xx, resets, time-outs, no endpoint, and what it shed."""
    sources: float | None = None
    """Distinct clients or request ids among those errors that no earlier window had; None where
    they are not known."""
    timed: float | None = None
    """Requests in its servers' latency histogram; None where there is none."""
    slow: float | None = None
    """Of these, above the objective's bucket."""
    requests_per_warm_gpu: float | None = None
    pods: float | None = None
    """Ready pods; None where they are not known."""


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of time in one region. Times are seconds on one clock, whichever."""

    region: str
    start: float
    end: float
    canary: Arm | Unknown
    fleet: Arm | Unknown
    """All other pods, the whole fleet."""
    events: AbstractSet[Event] = frozenset()
    placebo: Arm | None = None
    """Stable pods, as many as the canary has and the same all along: part of `fleet`."""


class LeftOut(StrEnum):
    """Why a window says nothing of a metric, in words."""

    CLOCK = "begins before the one before it ended: measured twice, or a clock jumped"
    EMPTY = "ends no later than it begins, or never"
    GAP = "gap: not all of it was measured"
    WEIGHT_STEP = "weights were changed within it"
    CANARY_UNKNOWN = "the canary could not be read"
    FLEET_UNKNOWN = "the fleet could not be read"
    COUNTS = "counts do not fit: below zero, not numbers, or more failures than requests"
    NO_CANARY = "no request came to the canary"
    NO_FLEET = "no request came to the fleet"
    NO_HISTOGRAM = "no latency histogram"
    LOAD_UNKNOWN = "requests per warm GPU are not known: latency cannot be compared"
    LOAD = "requests per warm GPU differ by more than is allowed: latency cannot be compared"


def fits(count: float | None, of: float) -> bool:
    """Whether `count` can be a part of `of`."""
    return count is not None and math.isfinite(count) and 0 <= count <= of < math.inf


def known(count: float | None, otherwise: float) -> float:
    """A count, where it is one."""
    return count if count is not None and 0 <= count < math.inf else otherwise


def for_any(window: Window, last_end: float) -> LeftOut | None:
    """Why no metric can be compared in a window; None where one may. `last_end` is that of the
    region's window before it."""
    canary, fleet = window.canary, window.fleet
    if not 0 < window.end - window.start < math.inf:
        return LeftOut.EMPTY
    if window.start < last_end:
        return LeftOut.CLOCK
    if Event.GAP in window.events:
        return LeftOut.GAP
    if Event.WEIGHT_STEP in window.events:
        return LeftOut.WEIGHT_STEP
    if isinstance(canary, Unknown):
        return LeftOut.CANARY_UNKNOWN
    if isinstance(fleet, Unknown):
        return LeftOut.FLEET_UNKNOWN
    if not (fits(canary.errors, canary.requests) and fits(fleet.errors, fleet.requests)):
        return LeftOut.COUNTS
    if canary.requests == 0:
        return LeftOut.NO_CANARY
    if fleet.requests == 0:
        return LeftOut.NO_FLEET
    return None


def for_latency(canary: Arm, fleet: Arm, tolerance: float) -> LeftOut | None:
    """Why latency cannot be compared in a window that is otherwise sound."""
    if canary.timed is None or fleet.timed is None:
        return LeftOut.NO_HISTOGRAM
    if not (fits(canary.slow, canary.timed) and fits(fleet.slow, fleet.timed)):
        return LeftOut.COUNTS
    if canary.timed == 0:
        return LeftOut.NO_CANARY
    if fleet.timed == 0:
        return LeftOut.NO_FLEET
    loads = [known(arm.requests_per_warm_gpu, 0.0) for arm in (canary, fleet)]
    if min(loads) == 0:
        return LeftOut.LOAD_UNKNOWN
    if max(loads) > (1 + tolerance) * min(loads):
        return LeftOut.LOAD
    return None
