"""The board of a rollout under way: what somebody who watches it sees, step by step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import pytest

from mlplatform.control.journal import Stream
from mlplatform.core.errors import Interrupted
from mlplatform.core.plan import Action, Outcome, Plan, Result
from mlplatform.rollout import operations
from mlplatform.rollout.operations import Said
from mlplatform.rollout.report.board import Board, Line
from mlplatform.rollout.watching import Looked
from tests.features.rollout.rolling.world import World


@dataclass
class Watching:
    """Somebody who looks at the board whenever it changes."""

    world: World
    board: Board = field(default_factory=Board)
    seen: list[list[Line]] = field(default_factory=list)

    def said(self) -> Said:
        return Said(
            plan=self._fed(lambda plan, name: self.board.plan(plan, name, self.now())),
            outcome=self._fed(lambda outcome: self.board.outcome(outcome, self.now())),
            seen=self._fed(self.board.looked),
            recalled=self._fed(self._recalled),
        )

    def now(self) -> float:
        return self.world.time.monotonic()

    def _recalled(self, stream: Stream) -> None:
        self.board.plan(stream.plan, stream.operation, self.now())
        self.board.done_before(stream.outcomes().values(), self.now())

    def _fed(self, feed: Callable[..., None]) -> Callable[..., None]:
        def fed(*told: object) -> None:
            feed(*told)
            self.seen.append(self.board.lines(self.now()))

        return fed

    def lines_of(self, region: str) -> Iterator[Line]:
        for lines in self.seen:
            yield from (line for line in lines if line.region == region)


def watched(world: World) -> Watching:
    """A rollout that was watched from its begin to its end."""
    watching = Watching(world)
    operations.apply(world.sites(), world.plan(), said=watching.said())
    return watching


def test_a_good_version_goes_through_every_region() -> None:
    watching = watched(World())
    first = [(line.step, line.place, line.share) for line in watching.seen[0]]
    assert [each[0] for each in first] == ["preflight", "waits", "waits"]
    assert [each[2] for each in first] == [0, 0, 0]
    last = watching.board.lines(watching.now())
    assert [(line.wave, line.step, line.mood) for line in last] == [
        (wave, "promoted", "good") for wave in (1, 2, 3)
    ]
    assert all(line.share == 100 and line.seconds is None for line in last)
    assert all(len(set(line.place.split("/"))) == 1 for line in last)  # 15/15
    steps = list(dict.fromkeys(line.step for line in watching.lines_of(last[0].region)))
    assert steps[:3] == ["preflight", "pin", "load-1"]
    assert steps[-2:] == ["retire", "promoted"]
    shares = list(dict.fromkeys(line.share for line in watching.lines_of(last[0].region)))
    assert shares == [0, 10, 25, 50, 75, 100]


def test_a_bad_version_is_seen_to_climb_to_its_bar_and_to_go_back() -> None:
    watching = watched(World(errors={"v1": 0.002, "v2": 0.05}))
    assert "fleet's" in watching.board.going_back
    last = watching.board.lines(watching.now())
    assert [(line.step, line.mood) for line in last] == [
        ("returned", "bad"),
        ("waits", ""),
        ("waits", ""),
    ]
    assert last[0].share == 0
    assert last[0].climb.endswith("█")
    assert last[0].evidence.endswith("roll-back")
    steps = [line.step for line in watching.lines_of(last[0].region)]
    assert "undo/weight-0" in steps


def test_who_goes_on_with_a_rollout_sees_what_was_done_before() -> None:
    world = World()
    stops = [False]
    world.stop = lambda: stops[0]
    first = Watching(world)
    said = first.said()
    promoted: list[str] = []

    def outcome(told: Outcome) -> None:
        said.outcome(told)
        if told.action.endswith("/promote") and told.result is Result.DONE:
            promoted.append(told.action)
            stops[0] = True

    with pytest.raises(Interrupted):
        operations.apply(world.sites(), world.plan(), said=Said(said.plan, outcome))
    stops[0] = False
    later = Watching(world)
    operations.go_on(world.sites("two"), "m", said=later.said())
    before = later.seen[0][0]
    assert before.step == "bake"
    assert before.place.split("/")[0] != "0"
    assert [line.step for line in later.board.lines(later.now())] == ["promoted"] * 3


def step(name: str, region: str, *, batch: str = "", **parameters: object) -> Action:
    told = {"wave": 1, "weight": 0, **parameters}
    kind = name.partition("-")[0]
    return Action(
        key=f"rollout/m@v2/{region}/{name}",
        kind=kind,
        subject="m@v2",
        region=region,
        reason="r",
        batch=batch,
        parameters=told,
    )


def test_regions_of_a_wave_take_a_step_together_and_each_is_told_when_it_is_over() -> None:
    plan = Plan(
        feature="rollout",
        actions=(
            step("weight-5", "us", batch="1", weight=5),
            step("weight-5", "eu", batch="1", weight=5),
            step("promote", "us", batch="2"),
            step("promote", "eu", batch="2"),
        ),
    )
    board = Board()
    board.plan(plan, "one", 10.0)
    assert [(e.step, e.share, e.seconds) for e in board.lines(13.0)] == [("weight-5", 5, 3.0)] * 2
    board.outcome(Outcome(action=plan.actions[0].key, result=Result.DONE), 20.0)
    assert [(e.step, e.place) for e in board.lines(21.0)] == [("waits", "1/2"), ("weight-5", "1/2")]
    board.outcome(Outcome(action=plan.actions[1].key, result=Result.FAILED), 30.0)
    assert [(e.step, e.seconds) for e in board.lines(31.0)] == [("promote", 1.0)] * 2


def test_while_somebody_is_to_say_yes_the_regions_of_the_wave_wait_for_that() -> None:
    approve = step("approve", "us, eu", regions=["us", "eu"]).model_copy(
        update={"key": "rollout/m@v2/wave-1/approve"}
    )
    plan = Plan(feature="rollout", actions=(approve, step("pin", "us"), step("pin", "eu", wave=2)))
    board = Board()
    board.plan(plan, "one", 0.0)
    assert [(e.region, e.step, e.place) for e in board.lines(5.0)] == [
        ("us", "approve", "0/1"),
        ("eu", "approve", "0/1"),
    ]


@pytest.fixture(scope="module")
def held() -> Looked:
    """A look that decided nothing."""
    world = World()
    looked: list[Looked] = []
    operations.apply(world.sites(), world.plan(), said=Said(seen=looked.append))
    return next(each for each in looked if each.verdict.decision.value == "hold")


@pytest.mark.parametrize("needed_seconds", [42.0, math.inf])
def test_a_hold_says_how_much_longer(held: Looked, needed_seconds: float) -> None:
    board = Board()
    board.plan(Plan(feature="rollout", actions=(step("observe", held.region),)), "one", 0.0)
    verdict = replace(held.verdict, needed_seconds=needed_seconds)
    board.looked(Looked(held.region, verdict, held.climb))
    (line,) = board.lines(1.0)
    word = "42 s more at this traffic" if math.isfinite(needed_seconds) else "no end to it"
    assert line.evidence.endswith(word)
    assert line.climb
