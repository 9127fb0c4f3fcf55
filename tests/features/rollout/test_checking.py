"""`health-check SERVICE`: whose servers are asked, and what counts as well."""

from __future__ import annotations

import pytest

from mlplatform.core.errors import UsageError
from mlplatform.ports.servers import Ailing, Stuck
from mlplatform.rollout.checking import Checked, Colour, Target, check, target_of
from tests.features.rollout.plan.world import TWO
from tests.features.rollout.rolling.world import World


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("m", Target("m")),
        ("m@v2", Target("m", "v2")),
        ("m-active", Target("m", colour=Colour.ACTIVE)),
        ("m-preview", Target("m", colour=Colour.PREVIEW)),
        ("m-service", Target("m")),
    ],
)
def test_what_a_name_means(name: str, target: Target) -> None:
    assert target_of(World().topology, name) == target


def test_a_name_of_nothing() -> None:
    with pytest.raises(UsageError, match="no such model"):
        target_of(World().topology, "checkout-preview")


def with_preview() -> World:
    """v1 serves in all regions; in eu two servers of v2 stand beside it, without requests."""
    world = World()
    world.servers["eu"].scale("v2", 2, digest=TWO, epoch=0, writer="")
    world.time.sleep(30)
    return world


def checked(world: World, name: str, *regions: str) -> list[Checked]:
    return list(check(world.sites(), target_of(world.topology, name), regions))


def test_the_new_colour_is_asked_and_not_the_old_one() -> None:
    found = checked(with_preview(), "m-preview", "eu")
    assert [(each.version, each.problem) for each in found] == [("v2", "")] * 2
    found = checked(with_preview(), "m-active", "eu")
    assert [(each.version, each.problem) for each in found] == [("v1", "")] * 4


def test_a_new_colour_that_answers_wrongly() -> None:
    world = with_preview()
    world.probe.wrong.add("v2")
    found = checked(world, "m-preview", "eu")
    assert all("golden request 1: output 'y'" in each.problem for each in found)
    assert not any(each.problem for each in checked(world, "m-active", "eu"))


def test_an_empty_target_is_no_pass() -> None:
    (found,) = checked(World(), "m-preview", "us")
    assert found.problem == (
        "there is no server of a version without requests: the target is empty"
    )
    assert not found.unknown
    (found,) = checked(World(), "m@v9", "us")
    assert found.problem == "there is no server of v9: the target is empty"


def test_servers_that_do_not_start_are_named() -> None:
    world = World()
    world.servers["eu"].broken["v2"] = Ailing("pod-1", Stuck.IMAGE, "no such image")
    world.servers["eu"].scale("v2", 1, digest=TWO, epoch=0, writer="")
    (found,) = checked(world, "m@v2", "eu")
    assert (found.server, found.problem) == ("pod-1", "image: no such image")
