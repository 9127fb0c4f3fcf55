"""Regions of a wave, each in a thread: what one hears, all hear."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from mlplatform.core.errors import Fenced, NoMajority
from mlplatform.rollout.operations import Ended

from .lives import Judge, Process
from .test_lives import QUICK
from .world import Passing, World, steps

POLICY = {**QUICK, "waves": {"bake_seconds": 60, "concurrency": 2, "spare_region": False}}


class Shared(Passing):
    """Virtual time for several threads: it passes for one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()

    def sleep(self, seconds: float) -> None:
        with self._lock:
            super().sleep(seconds)


@pytest.mark.parametrize("bad", [False, True])
def test_two_regions_go_through_together(bad: bool) -> None:
    with ThreadPoolExecutor(8) as threads:
        world = World(
            policy=POLICY,
            executor=threads,
            time=Shared(),
            errors={"v1": 0.002, "v2": 0.05 if bad else 0.002},
        )
        world.look = Judge(world)
        rolled = world.apply(plan=world.plan("us", "eu"), way=Process(world))
    assert rolled.ended is (Ended.RETURNED if bad else Ended.PROMOTED), (steps(rolled), world.said)
    for region in ("us", "eu"):
        assert world.holds(region) == {"v1" if bad else "v2": 4}
    assert not world.sites().pins.read()


@pytest.mark.parametrize("error", [Fenced("a newer hand"), NoMajority("two are away")])
def test_when_one_region_may_do_nothing_more_the_other_stops_as_well(error: Exception) -> None:
    """Else it would go on, under a lease that is given back, as long as its step takes."""
    hour = {**POLICY, "strategy": {"weights": [10, 50], "step_seconds": 36_000}}
    with ThreadPoolExecutor(8) as threads:
        world = World(policy=hour, executor=threads, time=Shared())
        process = Process(world)

        def befalls(number: int, what: str) -> None:
            if "windows" in what and "/us.json" in what:
                raise error

        process.happens = befalls
        if isinstance(error, Fenced):
            # Windows are kept as well as may be; a fence is at the entry.
            process.happens = lambda number, what: None
            once: list[bool] = []

            def newer(seconds: float) -> None:
                del seconds
                us = world.splits["us"]
                if world.weights("us").get("v2") == 10 and not once:
                    once.append(True)
                    state = us.read()
                    us.write(state.weights, epoch=99, writer="two", expected=state)
                    world.servers["us"].crash("v2", 9)

            world.time.meanwhile.append(newer)
        else:

            def away(seconds: float) -> None:
                del seconds
                if world.weights("us").get("v2") == 10:
                    for store in world.members.stores[:2]:
                        store.down = True

            world.time.meanwhile.append(away)
        with pytest.raises((Fenced, NoMajority)):
            world.apply(plan=world.plan("us", "eu"), way=process)
        after = len(process.effects)
    assert len(process.effects) == after  # the pool has ended: nobody was still at work
    assert world.time.seconds < 36_000
