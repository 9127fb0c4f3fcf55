"""A rollout carried out, in memory and virtual time: what serves at its end, and on the way."""

from __future__ import annotations

from mlplatform.rollout.operations import Ended

from .world import World, steps


def test_a_good_version_goes_through_all_regions() -> None:
    world = World()
    rolled = world.apply()
    assert rolled.ended is Ended.PROMOTED, (steps(rolled), world.said)
    for region in ("us", "eu", "ap"):
        assert world.holds(region) == {"v2": 4}
        assert world.weights(region) == {"v2": 100}
    assert rolled.exit_code == 0
    assert not world.sites().pins.read("m")


def test_a_canary_that_is_worse_goes_back() -> None:
    world = World(errors={"v1": 0.002, "v2": 0.05})
    rolled = world.apply()
    assert rolled.ended is Ended.RETURNED, (steps(rolled), world.said)
    assert rolled.exit_code == 3
    for region in ("us", "eu", "ap"):
        assert world.holds(region) == {"v1": 4}
        assert world.weights(region) == {"v1": 100}
    assert "5 %, beside 0.2 % of the fleet's" in rolled.because
    assert not [s for s in steps(rolled) if s.startswith("us ") and "done" in s]
