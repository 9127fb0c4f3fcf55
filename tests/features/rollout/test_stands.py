"""What became of a rollout and of each of its regions, in words: the same to whoever applied it and
to whoever looks later."""

from __future__ import annotations

import pytest

from mlplatform.control.lease import TERM_SECONDS
from mlplatform.control.orders import Kind as OrderKind
from mlplatform.core.plan import Action, Outcome, Result
from mlplatform.rollout import operations
from mlplatform.rollout.operations import Ended, Stands, StepStands, region_state
from tests.features.rollout.rolling.lives import Killed, Process
from tests.features.rollout.rolling.world import POLICY, World


def step(name: str, result: str = "done") -> StepStands:
    """One of a region; `waits`: it was not begun."""
    kind = name.removeprefix("undo/").partition("-")[0]
    key = f"rollout/m@v2/us/{name}"
    outcome = None
    if result not in ("waits", "under way"):
        outcome = Outcome(action=key, result=Result(result), detail="so it was")
    action = Action(key=key, kind=kind, subject="m@v2", region="us", reason="")
    return StepStands(action, result, outcome, begun=result != "waits")


STEPS = ("preflight", "load-1", "weight-10", "promote", "retire")
ALL = tuple(step(each) for each in STEPS)
NONE = tuple(step(each, "waits") for each in STEPS)
BACK = (step("undo/weight-0"), step("undo/stop-0", "nothing-to-do"))
CASES: dict[str, tuple[tuple[StepStands, ...], str, str]] = {
    "nothing was begun": (NONE, "not begun", "not begun"),
    "every step": (ALL, "under way", "promoted"),
    "not every step, and nothing went wrong": (
        ALL[:3] + NONE[3:],
        "under way",
        "people have to look",
    ),
    "a step failed, and it went back": (
        (*ALL[:2], step("weight-10", "failed"), *BACK),
        "going back",
        "returned",
    ),
    "the way back failed": (
        (*ALL[:2], step("weight-10", "failed"), step("undo/weight-0", "failed")),
        "going back",
        "people have to look",
    ),
    "nobody knows how the way back ended": (
        (*ALL[:2], step("undo/weight-0", "unknown")),
        "going back",
        "people have to look",
    ),
    "the way back was begun, and its controller ended": (
        (*ALL, step("undo/weight-0", "under way")),
        "going back",
        "people have to look",
    ),
    "it was only looked at": (
        (step("preflight", "failed"), *NONE[1:]),
        "under way",
        "returned",
    ),
    "servers were started, and nothing took them away": (
        (ALL[0], step("load-1", "failed"), *NONE[2:]),
        "under way",
        "people have to look",
    ),
}


@pytest.mark.parametrize(("steps", "open_", "closed"), CASES.values(), ids=CASES)
def test_what_became_of_a_region(steps: tuple[StepStands, ...], open_: str, closed: str) -> None:
    assert region_state(steps, closed=False) == open_
    assert region_state(steps, closed=True) == closed


def test_one_that_was_ended_while_it_waited_for_a_yes_is_returned() -> None:
    world = World(policy={**POLICY, "waves": {"bake_seconds": 60, "approval": "first"}})
    plan = world.plan("us")
    ended: list[bool] = []

    def end(_: float) -> None:
        if not ended:
            ended.append(True)
            operations.order(world.sites(), OrderKind.ABORT, "m", reason="not today")

    world.time.meanwhile.append(end)
    rolled = world.apply(plan=plan)
    sites = world.sites()
    stands = operations.stands(sites, operations.newest(sites, "m"))
    assert (rolled.ended, rolled.because) == (Ended.RETURNED, "aborted: not today")
    assert (stands.state, stands.because) == ("returned", "aborted: not today")
    assert stands.regions == {"us": "not begun"}


def test_where_an_earlier_wave_stays_it_is_told() -> None:
    """It turns bad when the first region has it."""
    world = World()
    first = "ap"

    def turns(_: float) -> None:
        if world.weights(first) == {"v2": 100} and len(world.holds(first)) == 1:
            world.errors["v2"] = 0.05

    plan = world.plan()
    world.time.meanwhile.append(turns)
    rolled = world.apply(plan=plan)
    sites = world.sites()
    stands = operations.stands(sites, operations.newest(sites, "m"))
    assert (rolled.ended, rolled.stays_in) == (Ended.RETURNED, [first])
    assert stands.state == "returned"
    assert stands.regions == {"ap": "promoted", "eu": "returned", "us": "not begun"}
    assert stands.because == rolled.because


def test_who_is_at_work_is_told_until_the_lease_of_one_who_died_has_run_out() -> None:
    world = World()
    plan = world.plan("us")

    def stands() -> Stands:
        sites = world.sites("onlooker")
        return operations.stands(sites, operations.newest(sites, "m"))

    with pytest.raises(Killed):
        world.apply(plan=plan, writer="one", way=Process(world, dies_before=60))
    found = stands()
    assert found.at_work is not None
    assert (found.at_work.holder, found.at_work.is_over) == ("one", False)
    assert not found.waits_for_people
    world.time.sleep(TERM_SECONDS + 1)
    found = stands()
    assert found.at_work is not None
    assert (found.at_work.holder, found.at_work.is_over) == ("one", True)
    assert found.waits_for_people
    world.go_on()
    assert (stands().at_work, stands().waits_for_people) == (None, False)


def test_one_that_gave_its_lease_back_is_at_work_no_more() -> None:
    world = World()
    plan = world.plan("us")
    sites = world.sites()
    lease = operations.lease_of(sites, "m", plan.plan)
    stream = sites.journal.start(
        sites.journal.new_operation("rollout"), plan.plan, lease=lease.name
    )
    lease.acquire()
    assert operations.stands(sites, stream).at_work is not None
    lease.release()
    found = operations.stands(sites, stream)
    assert (found.at_work, found.waits_for_people) == (None, True)
