"""When work is refused for want of memory, and when it is taken again: a day as a table."""

from __future__ import annotations

import pytest

from mlplatform_serving.memory.breaker import (
    Gauge,
    Level,
    Marks,
    State,
    excess_bytes,
    step,
    step_all,
    worst,
)

MARKS = Marks(shed=0.95, tight=0.90, gap=0.05, calm_seconds=5, unknown_seconds=30)
W, T, S = Level.WELL, Level.TIGHT, Level.SHEDDING

# Second by second: when, the share that is read (None: it cannot be), the level then.
DAYS: dict[str, list[tuple[float, float | None, Level]]] = {
    "all is well": [(0, 0.5, W), (1, 0.8999, W)],
    "up at once": [(0, 0.5, W), (1, 0.90, T), (2, 0.95, S)],
    "up two at once": [(0, 0.5, W), (1, 0.99, S)],
    "a mark is not left by a hair": [(0, 0.95, S), (1, 0.949, S), (60, 0.901, S)],
    "down when it has been calm": [(0, 0.95, S), (1, 0.89, S), (5.9, 0.89, S), (6, 0.89, T)],
    "down by one, or by two": [(0, 0.95, S), (1, 0.5, S), (6, 0.5, W)],
    "a peak begins the calm anew": [
        (0, 0.95, S),
        (1, 0.5, S),
        (4, 0.92, S),
        (6, 0.5, S),
        (10.9, 0.5, S),
        (11, 0.5, W),
    ],
    "from tight to well": [(0, 0.91, T), (1, 0.86, T), (9, 0.849, T), (14, 0.849, W)],
    "worse again while it calms": [(0, 0.91, T), (1, 0.5, T), (3, 0.96, S), (8, 0.5, S)],
    "what was known holds": [(0, 0.96, S), (1, None, S), (29.9, None, S)],
    "what is unknown for long refuses nobody": [(0, 0.96, S), (30, None, W)],
    "known again": [(0, 0.96, S), (30, None, W), (31, 0.96, S)],
    "a reading between counts": [(0, 0.96, S), (29, 0.96, S), (31, None, S), (59, None, W)],
    "more than all of it": [(0, 1.7, S)],
    "never known": [(0, None, W), (1000, None, W)],
}


@pytest.mark.parametrize("day", DAYS.values(), ids=DAYS)
def test_a_day(day: list[tuple[float, float | None, Level]]) -> None:
    state = State()
    for now, share, expected in day:
        state = step(state, share, MARKS, now)
        assert state.level == expected, now


def test_the_fullest_gauge_decides_and_one_that_is_gone_is_unknown() -> None:
    marks = {"host": MARKS, "gpu": MARKS}
    states = step_all({}, [Gauge("host", 50, 100), Gauge("gpu 1", 96, 100)], marks, 0)
    assert worst(states) == (Level.SHEDDING, "gpu 1")
    states = step_all(states, [Gauge("host", 50, 100)], marks, 10)
    assert worst(states) == (Level.SHEDDING, "gpu 1")
    states = step_all(states, [Gauge("host", 50, 100)], marks, 30)
    assert worst(states) == (Level.WELL, "")
    assert states["gpu 1"].share is None
    assert worst({}) == (Level.WELL, "")


def test_how_much_must_go() -> None:
    assert excess_bytes(Gauge("host", 96, 100), MARKS) == 11
    assert excess_bytes(Gauge("host", 10, 100), MARKS) == 0


@pytest.mark.parametrize(
    ("shed", "tight", "gap"), [(0.9, 0.95, 0.05), (0.9, 0.0, 0.0), (0.9, 0.05, 0.05)]
)
def test_marks_that_contradict_each_other(shed: float, tight: float, gap: float) -> None:
    with pytest.raises(ValueError, match="contradict"):
        Marks(shed=shed, tight=tight, gap=gap)
