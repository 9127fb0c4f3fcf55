"""From counters that were read twice to a window: what began again, what is missing, what befell
the canary's servers."""

from __future__ import annotations

import math
from typing import Any

import pytest

from mlplatform.core.seen import Unknown
from mlplatform.ports.servers import Group
from mlplatform.ports.split import Counts
from mlplatform.rollout.course.windows import Arms, Sample, between, window_of
from mlplatform.rollout.verdict.window import Arm, Event, LeftOut, Window, for_any

GONE = Unknown("HTTP 500")
NAN = float("nan")


def look(at: float, old: Any = None, new: Any = None, *, groups: Any = None, **more: Any) -> Sample:
    """One look: counters of v1 and v2, each `(requests, errors)`, or whatever is there instead."""
    counts = {
        version: Counts(*told) if isinstance(told, tuple) else told
        for version, told in {"v1": old, "v2": new, **more}.items()
        if told is not None
    }
    return Sample(at, counts, up(4, 1) if groups is None else groups)


def up(old: int, new: int, crashes: int = 0) -> dict[str, Group]:
    found = {"v1": Group("v1", ready=tuple(f"a:{n}" for n in range(old)))}
    if new or crashes:
        ready = tuple(f"b:{n}" for n in range(new))
        found["v2"] = Group("v2", ready=ready, crashes=crashes)
    return found


def window(before: Sample, after: Sample) -> Window:
    return window_of(before, after, Arms("us", "v2"), window_seconds=60)


COUNTED: dict[str, tuple[Sample, Sample, Any, Any, set[Event]]] = {
    "both went on": (
        look(0, (100, 1), (10, 0)),
        look(60, (190, 2), (20, 1)),
        (10, 1),
        (90, 1),
        set(),
    ),
    "nothing entered": (look(0, (9, 0), (1, 0)), look(60, (9, 0), (1, 0)), (0, 0), (0, 0), set()),
    "the canary's began again: since then it has counted": (
        look(0, (100, 1), (50, 5)),
        look(60, (190, 2), (4, 1)),
        (4, 1),
        (90, 1),
        {Event.RESET},
    ),
    "the fleet's began again": (
        look(0, (100, 1), (10, 0)),
        look(60, (30, 2), (20, 1)),
        (10, 1),
        (30, 2),
        {Event.RESET},
    ),
    "errors alone fell: all of it began again": (
        look(0, (100, 5), (10, 0)),
        look(60, (150, 2), (20, 1)),
        (10, 1),
        (150, 2),
        {Event.RESET},
    ),
    "they say that they began anew, although none is lower": (
        look(0, Counts(5, 0, began=1), (10, 0)),
        look(60, Counts(50, 1, began=2), (20, 1)),
        (10, 1),
        (50, 1),
        {Event.RESET},
    ),
    "they say the same beginning": (
        look(0, Counts(5, 0, began=1), (10, 0)),
        look(60, Counts(50, 1, began=1), (20, 1)),
        (10, 1),
        (45, 1),
        set(),
    ),
    "a version that came: its door is new": (
        look(0, (100, 1)),
        look(60, (150, 1), (5, 1)),
        (5, 1),
        (50, 0),
        set(),
    ),
    "an old version that went": (
        look(0, (100, 1), (10, 0), v0=(70, 7)),
        look(60, (150, 1), (20, 0)),
        (10, 0),
        (50, 0),
        set(),
    ),
    "the fleet is every other version": (
        look(0, (100, 1), (10, 0), v0=(70, 7)),
        look(60, (150, 1), (20, 0), v0=(100, 9)),
        (10, 0),
        (80, 2),
        set(),
    ),
    "nobody looked for long": (
        look(0, (100, 1), (10, 0)),
        look(301, (190, 2), (20, 1)),
        (10, 1),
        (90, 1),
        {Event.GAP},
    ),
    "nobody looked for five windows: that may be": (
        look(0, (100, 1), (10, 0)),
        look(300, (190, 2), (20, 1)),
        (10, 1),
        (90, 1),
        set(),
    ),
}


@pytest.mark.parametrize("case", COUNTED)
def test_what_was_counted(case: str) -> None:
    before, after, canary, fleet, events = COUNTED[case]
    found = window(before, after)
    assert isinstance(found.canary, Arm)
    assert isinstance(found.fleet, Arm)
    assert (found.canary.requests, found.canary.errors) == canary
    assert (found.fleet.requests, found.fleet.errors) == fleet
    assert found.events == events
    assert (found.start, found.end) == (before.at, after.at)


SILENT: dict[str, tuple[Sample, Sample, LeftOut]] = {
    "the entry was not read then": (
        Sample(0, GONE),
        look(60, (1, 0), (1, 0)),
        LeftOut.CANARY_UNKNOWN,
    ),
    "the entry is not read now": (
        look(0, (1, 0), (1, 0)),
        Sample(60, GONE),
        LeftOut.CANARY_UNKNOWN,
    ),
    "the canary's alone": (look(0, (1, 0), (1, 0)), look(60, (9, 0), GONE), LeftOut.CANARY_UNKNOWN),
    "the canary's alone, before": (
        look(0, (1, 0), GONE),
        look(60, (9, 0), (5, 0)),
        LeftOut.CANARY_UNKNOWN,
    ),
    "the fleet's alone": (look(0, (1, 0), (1, 0)), look(60, GONE, (9, 0)), LeftOut.FLEET_UNKNOWN),
    "the canary is not counted at all": (look(0, (1, 0)), look(60, (9, 0)), LeftOut.CANARY_UNKNOWN),
    "under another version's name": (
        look(0, (1, 0), v2_old=(1, 0)),
        look(60, (9, 0), v2_old=(5, 0)),
        LeftOut.CANARY_UNKNOWN,
    ),
    "not numbers": (look(0, (1, 0), (1, 0)), look(60, (9, 0), (NAN, NAN)), LeftOut.COUNTS),
    "endless": (look(0, (1, 0), (1, 0)), look(60, (9, 0), (math.inf, 0)), LeftOut.COUNTS),
    "more errors than requests": (
        look(0, (1, 0), (1, 0)),
        look(60, (9, 0), (5, 9)),
        LeftOut.COUNTS,
    ),
    "no time passed": (look(60, (1, 0), (1, 0)), look(60, (9, 0), (5, 0)), LeftOut.EMPTY),
    "the clock went back": (look(60, (1, 0), (1, 0)), look(50, (9, 0), (5, 0)), LeftOut.EMPTY),
}


@pytest.mark.parametrize("case", SILENT)
def test_what_says_nothing(case: str) -> None:
    before, after, why = SILENT[case]
    assert for_any(window(before, after), -math.inf) is why


ILL: dict[str, tuple[Any, Any, set[Event]]] = {
    "well": (up(4, 1), up(4, 1), set()),
    "one of two ended by itself": (up(4, 2), up(4, 1, crashes=1), {Event.CRASH}),
    "it ended and is back": (up(4, 1), up(4, 1, crashes=1), {Event.CRASH}),
    "it ended and is away": (up(4, 1), up(4, 0, crashes=1), {Event.CRASH, Event.NO_ENDPOINT}),
    "it had ended before": (up(4, 1, crashes=3), up(4, 1, crashes=3), set()),
    "started anew, and ended since": (up(4, 1, crashes=3), up(4, 1, crashes=1), {Event.CRASH}),
    "started anew, and well": (up(4, 1, crashes=3), up(4, 1), set()),
    "it has gone": (up(4, 1), up(4, 0), {Event.NO_ENDPOINT}),
    "the others' end is not its": (up(4, 1), up(2, 1), set()),
    "servers cannot be read": (up(4, 1), GONE, set()),
    "servers could not be read": (GONE, up(4, 1, crashes=1), set()),
}


@pytest.mark.parametrize("case", ILL)
def test_what_befell_the_canary(case: str) -> None:
    then, now, events = ILL[case]
    before, after = look(0, (1, 0), (1, 0), groups=then), look(60, (9, 0), (5, 0), groups=now)
    assert window(before, after).events == events


def test_load_is_by_warm_gpu() -> None:
    before, after = look(0, (0, 0), (0, 0)), look(60, (4800, 0), (600, 0))
    found = window_of(before, after, Arms("us", "v2", gpus_a_server=2), window_seconds=60)
    assert isinstance(found.canary, Arm)
    assert isinstance(found.fleet, Arm)
    assert (found.canary.requests_per_warm_gpu, found.fleet.requests_per_warm_gpu) == (5, 10)
    assert (found.canary.pods, found.fleet.pods) == (1, 4)
    unread = window_of(
        before, Sample(60, after.counts, GONE), Arms("us", "v2"), window_seconds=60
    ).canary
    assert isinstance(unread, Arm)
    assert unread.requests_per_warm_gpu is None
    assert unread.pods is None


BETWEEN: dict[str, tuple[Sample, Sample, tuple[float, float] | str]] = {
    "counted": (look(0, (5, 1)), look(60, (9, 2)), (4, 1)),
    "no door in either look": (look(0, None, (5, 1)), look(60, None, (9, 2)), (0, 0)),
    "its door has gone": (look(0, (5, 1)), look(60), (0, 0)),
    "the entry is away": (look(0, (5, 1)), Sample(60, GONE), "HTTP 500"),
    "its counters are": (look(0, (5, 1)), look(60, GONE), "HTTP 500"),
    "not numbers": (look(0, (5, 1)), look(60, (NAN, 1)), "counts of v1 do not fit"),
}


@pytest.mark.parametrize("case", BETWEEN)
def test_what_reached_one_version(case: str) -> None:
    before, after, told = BETWEEN[case]
    found = between(before, after, "v1")
    assert (found.reason if isinstance(found, Unknown) else found) == told
