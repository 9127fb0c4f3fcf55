"""When memory is so full that work is refused before the system kills the process: a state machine
for each gauge, with time as an argument and no I/O.

    WELL ──tight──▶ TIGHT ──shed──▶ SHEDDING        at once, as the share is read
    WELL ◀───────── TIGHT ◀──────── SHEDDING        when it has been `gap` lower for `calm_seconds`

TIGHT: idle models leave, and nothing more is loaded. SHEDDING: inferences are refused too (503), so
that what runs can end. The gap and the calm keep it from opening and closing with each request.

A reading that is missing changes nothing at first: what was known last still holds. After
`unknown_seconds` nothing is known any more, and what is unknown refuses nobody.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import IntEnum


class Level(IntEnum):
    """How full."""

    WELL = 0
    TIGHT = 1
    SHEDDING = 2


@dataclass(frozen=True, slots=True)
class Gauge:
    """One memory as it was read: `what` names it, e.g. `cgroup`, `host`, `process` or `gpu 0`."""

    what: str
    used_bytes: int
    limit_bytes: int

    @property
    def share(self) -> float:
        """How much of it is used."""
        return self.used_bytes / self.limit_bytes if self.limit_bytes > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Marks:
    """Shares of a memory, and times in seconds."""

    shed: float
    tight: float
    gap: float = 0.05
    calm_seconds: float = 5.0
    unknown_seconds: float = 30.0

    def __post_init__(self) -> None:
        if not 0 < self.tight <= self.shed or not 0 <= self.gap < self.tight:
            raise ValueError(f"marks that contradict each other: {self}")

    def level(self, share: float, *, lower: float = 0.0) -> Level:
        """What a share is by itself, with the marks as much lower."""
        if share >= self.shed - lower:
            return Level.SHEDDING
        return Level.TIGHT if share >= self.tight - lower else Level.WELL


@dataclass(frozen=True, slots=True)
class State:
    """Of one gauge. Times in seconds, on the caller's clock."""

    level: Level = Level.WELL
    share: float | None = None
    """As it was read last; None while it is not known."""
    seen_at: float = 0.0
    calm_since: float | None = None


def step(state: State, share: float | None, marks: Marks, now: float) -> State:
    """The state after a reading, or after one that failed (None)."""
    if share is None:
        if now - state.seen_at < marks.unknown_seconds:
            return state
        return State(Level.WELL, None, state.seen_at)
    read = State(state.level, share, now, state.calm_since)
    if (up := marks.level(share)) >= state.level:
        return replace(read, level=up, calm_since=None)
    down = marks.level(share, lower=marks.gap)
    if down >= state.level:
        return replace(read, calm_since=None)
    since = now if state.calm_since is None else state.calm_since
    if now - since < marks.calm_seconds:
        return replace(read, calm_since=since)
    return replace(read, level=down, calm_since=None)


def step_all(
    states: Mapping[str, State], gauges: Iterable[Gauge], marks: Mapping[str, Marks], now: float
) -> dict[str, State]:
    """Every gauge's state, also of those that were not read this time. `marks` by the first word of
    a gauge's name."""
    shares = {gauge.what: gauge.share for gauge in gauges}
    return {
        what: step(states.get(what, State(seen_at=now)), shares.get(what), marks[_kind(what)], now)
        for what in sorted({*states, *shares})
    }


def worst(states: Mapping[str, State]) -> tuple[Level, str]:
    """The highest level, and which gauge's it is (empty: none)."""
    if not states:
        return Level.WELL, ""
    what = max(states, key=lambda each: (states[each].level, states[each].share or 0.0))
    return states[what].level, what if states[what].level else ""


def excess_bytes(gauge: Gauge, marks: Marks) -> int:
    """How much must go until the gauge counts as well again."""
    return max(0, gauge.used_bytes - int((marks.tight - marks.gap) * gauge.limit_bytes))


def _kind(what: str) -> str:
    return what.partition(" ")[0]
