"""Who leaves so that another model fits, as an operator would decide it."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlplatform_serving.memory.room import Held, Where, make_room, relieve

NOW = 100.0
IDLE = 5.0


def held(
    name: str, size: int, used: float, *, busy: bool = False, pinned: bool = False, gpu: int = 0
) -> Held:
    return Held((name, "v1"), size, used, gpu, busy, pinned)


OLD, MIDDLE, NEW = held("old", 10, 1), held("middle", 10, 2), held("new", 10, 3)


@dataclass
class Case:
    need: int
    there: list[Held]
    leave: list[str]
    budget: int | None = None
    free: int | None = None
    lacking: int = 0
    said: str = ""
    more: dict[str, object] = field(default_factory=dict)


CASES = {
    "no limit is known": Case(1000, [OLD, NEW], []),
    "it fits": Case(10, [OLD, NEW], [], budget=30),
    "exactly": Case(10, [OLD, MIDDLE, NEW], [], budget=40, free=10),
    "the least recently used leaves": Case(10, [NEW, OLD, MIDDLE], ["old"], budget=30),
    "as many as it takes": Case(15, [NEW, OLD, MIDDLE], ["old", "middle"], budget=30),
    "what the host has free binds too": Case(10, [OLD, NEW], ["old"], budget=1000, free=3),
    "the tighter of both binds": Case(10, [OLD, MIDDLE, NEW], ["old", "middle"], 35, -5),
    "a small old one stays where a large one must go anyway": Case(
        90, [held("small", 5, 1), held("large", 95, 2)], ["large"], budget=100
    ),
    "two small ones are not spared when they suffice": Case(
        10, [held("a", 5, 1), held("b", 5, 2), held("large", 90, 3)], ["a", "b"], budget=100
    ),
    "a busy one stays": Case(10, [held("old", 10, 1, busy=True), NEW], ["new"], budget=20),
    "a pinned one stays": Case(10, [held("old", 10, 1, pinned=True), NEW], ["new"], budget=20),
    "one used a moment ago stays": Case(10, [held("hot", 10, NOW - 1), OLD], ["old"], budget=20),
    "nobody leaves in vain": Case(
        15,
        [OLD, held("busy", 10, 1, busy=True)],
        [],
        budget=20,
        lacking=5,
        said="1 busy stay",
    ),
    "why nobody may": Case(
        10,
        [held("a", 5, 1, busy=True), held("b", 5, 1, pinned=True), held("c", 10, NOW)],
        [],
        budget=20,
        lacking=10,
        said="1 pinned, 1 busy, 1 used a moment ago",
    ),
    "larger than all that models may take": Case(
        30, [OLD], [], budget=20, lacking=10, said="all models together may take 20"
    ),
    "nobody there, and the host is full": Case(
        10, [], [], free=4, lacking=6, said="no model is there that could leave"
    ),
    "what takes nothing does not leave": Case(10, [held("nil", 0, 0), OLD], ["old"], budget=10),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_who_leaves(case: Case) -> None:
    room = make_room(
        case.need,
        case.there,
        budget_bytes=case.budget,
        free_bytes=case.free,
        now=NOW,
        idle_seconds_min=IDLE,
    )
    assert sorted(name for name, _ in room.leave) == sorted(case.leave)
    assert room.lacking_bytes == case.lacking
    assert case.said in room.reason
    assert bool(room.reason) == bool(room.lacking_bytes)


RELIEF = {
    "nothing is wanted": (0, [OLD], Where.HOST, []),
    "the least recently used": (5, [NEW, OLD], Where.HOST, ["old"]),
    "all, though it will not be enough": (100, [NEW, OLD], Where.HOST, ["new", "old"]),
    "nobody may": (5, [held("x", 5, 0, pinned=True)], Where.HOST, []),
    "a GPU is not helped by who is not on it": (
        5,
        [OLD, held("engine", 1, 3, gpu=20)],
        Where.GPU,
        ["engine"],
    ),
}


@pytest.mark.parametrize(("excess", "there", "where", "leave"), RELIEF.values(), ids=RELIEF)
def test_who_leaves_when_memory_is_tight(
    excess: int, there: list[Held], where: Where, leave: list[str]
) -> None:
    left = relieve(excess, there, where=where, now=NOW, idle_seconds_min=IDLE)
    assert sorted(name for name, _ in left) == leave


MODELS = st.lists(
    st.builds(
        Held,
        st.tuples(st.text("abc", min_size=1, max_size=3), st.just("v1")),
        st.integers(0, 100),
        st.integers(0, 100).map(float),
        busy=st.booleans(),
        pinned=st.booleans(),
    ),
    unique_by=lambda each: each.key,
    max_size=8,
)


@given(MODELS, st.integers(0, 300), st.integers(0, 400))
def test_what_holds_whatever_is_there(there: list[Held], need: int, budget: int) -> None:
    room = make_room(
        need, there, budget_bytes=budget, free_bytes=None, now=NOW, idle_seconds_min=IDLE
    )
    by_key = {each.key: each for each in there}
    left = [by_key[key] for key in room.leave]
    assert not any(each.busy or each.pinned or NOW - each.used_at < IDLE for each in left)
    stays = sum(each.host_bytes for each in there) - sum(each.host_bytes for each in left)
    if room.lacking_bytes:
        assert not left
    else:
        assert stays + need <= budget
        # Nobody left for nothing.
        assert all(stays + need + each.host_bytes > budget for each in left)
