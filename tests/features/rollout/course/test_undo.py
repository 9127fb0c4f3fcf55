"""The way back from wherever a region stands: which steps, and that at none of them a version has
more than its servers bear."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import pytest

from mlplatform.core.placement import ModelVersion
from mlplatform.core.rollout import Strategy
from mlplatform.rollout.course.undo import Standing, back
from mlplatform.rollout.plan.steps import Case, Kind, Step

CANARY = Strategy(weights=(10, 50), surge_servers=1)
NO_SURGE = Strategy(weights=(10, 50), surge_servers=0)
BLUE_GREEN = Strategy(kind="blue_green")
IN_PLACE = Strategy(kind="in_place")


def case(strategy: Strategy = CANARY, servers: int = 4, *, last_good: str = "v1") -> Case:
    return Case(
        subject=ModelVersion("m", "v2"),
        last_good=last_good,
        region="us",
        servers=servers,
        strategy=strategy,
        at_once=max(1, servers // 2),
        bake_seconds=60,
    )


WAYS = {
    "nothing was begun": (CANARY, Standing(4, 0, 0, answers=False), "stop-0 unpin"),
    "started, and without a share": (CANARY, Standing(4, 1, 0), "stop-0 unpin"),
    "a share, and all old ones are there": (CANARY, Standing(4, 1, 10), "weight-0 stop-0 unpin"),
    "promoted, and all old ones are there": (
        BLUE_GREEN,
        Standing(4, 4, 100),
        "weight-0 stop-0 unpin",
    ),
    "one old one has gone": (
        CANARY,
        Standing(3, 2, 50),
        "weight-25 stop-1 reload-4 warm-up-4 weight-0 stop-0 unpin",
    ),
    "one old one is left": (
        CANARY,
        Standing(1, 4, 100),
        (
            "weight-75 stop-3 reload-2 warm-up-2 weight-50 stop-2 reload-3 warm-up-3 weight-25 "
            "stop-1 reload-4 warm-up-4 weight-0 stop-0 unpin"
        ),
    ),
    "no surge, half and half": (
        NO_SURGE,
        Standing(2, 2, 50),
        "weight-0 stop-0 reload-4 warm-up-4 unpin",
    ),
    "no surge, one old one is left": (
        NO_SURGE,
        Standing(1, 3, 100),
        (
            "weight-75 weight-50 stop-1 reload-3 warm-up-3 weight-25 weight-0 stop-0 reload-4 "
            "warm-up-4 unpin"
        ),
    ),
    "in place, one of four": (
        IN_PLACE,
        Standing(3, 1, 25),
        "weight-0 stop-0 reload-4 warm-up-4 unpin",
    ),
    "in place, all of them": (
        IN_PLACE,
        Standing(0, 4, 100),
        "stop-2 reload-2 warm-up-2 weight-50 weight-0 stop-0 reload-4 warm-up-4 unpin",
    ),
    "blue/green, the old ones have gone": (
        BLUE_GREEN,
        Standing(0, 4, 100),
        "reload-4 warm-up-4 weight-0 stop-0 unpin",
    ),
    "the canary crashed: nothing is left to it, at once": (
        CANARY,
        Standing(3, 2, 50, answers=False),
        "weight-0 stop-1 reload-4 warm-up-4 stop-0 unpin",
    ),
    "it crashed, and no old one is there: it keeps what nobody else could take": (
        BLUE_GREEN,
        Standing(0, 4, 100, answers=False),
        "reload-4 warm-up-4 weight-0 stop-0 unpin",
    ),
    "started on the way back, and nobody has asked them": (
        CANARY,
        Standing(4, 1, 25, cold=True),
        "warm-up-4 weight-0 stop-0 unpin",
    ),
    "all is done but the pin": (CANARY, Standing(4, 0, 0, fenced=True), "unpin"),
    "all is done": (CANARY, Standing(4, 0, 0, fenced=True, unpinned=True), ""),
    "all was done, and another hand undid it": (
        CANARY,
        Standing(4, 0, 25, fenced=True, unpinned=True),
        "weight-0",
    ),
}


@pytest.mark.parametrize("name", WAYS)
def test_the_way_back(name: str) -> None:
    strategy, standing, told = WAYS[name]
    assert [step.key for step in back(case(strategy), standing)] == told.split()


FIRST = {
    "started": (Standing(0, 3, 0), "stop-0 unpin"),
    "promoted": (Standing(0, 4, 100), "stop-0 unpin"),
    "crashed": (Standing(0, 3, 0, answers=False), "stop-0 unpin"),
}


@pytest.mark.parametrize("name", FIRST)
def test_where_nothing_served_before_nothing_does_after(name: str) -> None:
    standing, told = FIRST[name]
    assert [step.key for step in back(case(last_good=""), standing)] == told.split()


def standings(of: Case) -> Iterator[Standing]:
    """Every one that a rollout may leave: as many servers as there is room for, at every share that
    they bear."""
    n = of.servers
    room = {"blue_green": n, "in_place": 0}.get(of.strategy.kind, of.strategy.surge_servers)
    for old, new in product(range(n + 1), repeat=2):
        if not 0 < old + new <= n + room:
            continue
        for weight in range(0, 101, 5):
            serving = min(n, old + new)
            if weight * serving <= 100 * new and (100 - weight) * serving <= 100 * old:
                yield Standing(old, new, weight)


def after(now: Standing, step: Step) -> Standing:
    """Where a step leads, as it would be read then."""
    match step.kind:
        case Kind.WEIGHT:
            return replace(now, weight=step.weight)
        case Kind.STOP:
            return replace(now, new=step.new, answers=bool(step.new), fenced=not step.new)
        case Kind.RELOAD:
            return replace(now, old=step.old, cold=True)
        case Kind.WARM_UP:
            return replace(now, cold=False)
        case Kind.UNPIN:
            return replace(now, unpinned=True)
    raise AssertionError(step)


ALL = {
    f"{strategy.kind}, surge {strategy.surge_servers}, {servers}": case(strategy, servers)
    for strategy in (CANARY, NO_SURGE, BLUE_GREEN, IN_PLACE, Strategy(surge_servers=2))
    for servers in (1, 2, 3, 4, 7)
}


@pytest.mark.parametrize("name", ALL)
def test_no_version_is_given_or_left_more_than_its_warm_servers_bear(name: str) -> None:
    """Old servers that were started count from their warm-up on. A server bears its part of the
    region's requests among those that serve; where old ones go first, so many as the floor leaves
    bear all."""
    of = ALL[name]
    bear_all = of.servers - of.at_once if goes_first(of) else of.servers
    n = of.servers
    room = {"blue_green": n, "in_place": 0}.get(of.strategy.kind, of.strategy.surge_servers)
    for standing in standings(of):
        now, warm = standing, standing.old
        for step in back(of, standing):
            now = after(now, step)
            warm = warm if now.cold else now.old
            serving = min(bear_all, warm + now.new)
            assert now.old + now.new <= n + room, (standing, step)
            if step.kind is Kind.WEIGHT:
                assert (100 - now.weight) * serving <= 100 * warm + serving, (standing, step)
            if step.kind is Kind.STOP and serving:
                assert now.weight * serving <= 100 * now.new + serving, (standing, step)
        assert replace(now, answers=True) == Standing(n, 0, 0, fenced=True, unpinned=True)


def goes_first(of: Case) -> bool:
    """Whether old servers go before new ones come."""
    kind = of.strategy.kind
    return kind == "in_place" or (kind == "canary" and not of.strategy.surge_servers)


FLOORS = {
    name: of for name, of in ALL.items() if of.servers > 1 and of.strategy.kind != "blue_green"
}


@pytest.mark.parametrize("name", FLOORS)
def test_on_the_way_back_no_fewer_serve_than_on_the_way_there(name: str) -> None:
    of = FLOORS[name]
    floor = of.servers - of.at_once if goes_first(of) else of.servers
    for standing in standings(of):
        now, warm = standing, standing.old
        for step in back(of, standing):
            now = after(now, step)
            warm = warm if now.cold else now.old
            least = min(floor, standing.old + standing.new)
            assert warm + now.new >= least, (standing, step)


@pytest.mark.parametrize("name", [n for n, of in ALL.items() if of.servers > 1])
def test_what_is_left_after_each_step_is_what_is_found_from_there(name: str) -> None:
    of = ALL[name]
    for standing in standings(of):
        now = standing
        way = [step.key for step in back(of, standing)]
        assert len(set(way)) == len(way), standing
        while way:
            step = next(iter(back(of, now)))
            assert step.key == way.pop(0), (standing, now)
            now = after(now, step)
            assert [each.key for each in back(of, now)] == way, (standing, now)


@pytest.mark.parametrize("name", ALL)
def test_a_canary_that_answers_nothing_has_nothing_as_soon_as_another_answers(name: str) -> None:
    for standing in standings(ALL[name]):
        dead = replace(standing, answers=False)
        steps = list(back(ALL[name], dead))
        if standing.old and standing.weight:
            assert steps[0].key == "weight-0"
