"""What is written is what is there, whole or not at all."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mlplatform.core.errors import ConditionFailed, Fenced, NotFound, UsageError
from mlplatform.ports.traffic import RouteState, Traffic, expressible

from .acts import claim, content, put, shares
from .site import Site


@pytest.mark.parametrize(
    "weights",
    [
        {"a": 100},
        {"a": 75, "b": 25},
        {"a": 1, "b": 99},
        {"a": 33, "b": 33, "c": 34},
        {"a": 98, "b": 1, "c": 1},
        {"b": 50, "c": 50},
    ],
    ids=lambda weights: "-".join(f"{region}{weight}" for region, weight in weights.items()),
)
def test_read_back(site: Site, traffic: Traffic, weights: dict[str, int]) -> None:
    """Equal to what was written, at once, for everybody; a region with nothing has 0."""
    wanted = shares(traffic, **weights)
    written = put(traffic, wanted, 4, "controller-1@eu-west-1")
    assert content(written) == (wanted, 4, "controller-1@eu-west-1")
    assert content(traffic.read()) == content(written)
    assert content(site.open().read()) == content(written)
    assert written.serving == {region for region, weight in wanted.items() if weight}


@pytest.mark.parametrize(
    "writer", ["j.doe@host-1.example.com:4242", 'on call; "night", 100 %', "Jürgen {env.HOME}", ""]
)
def test_writer_and_epoch_are_read_as_they_were_written(traffic: Traffic, writer: str) -> None:
    """Whatever a person is called, and after however many elections."""
    state = put(traffic, shares(traffic, b=100), 2**31 + 7, writer)
    assert content(state) == (shares(traffic, b=100), 2**31 + 7, writer)
    assert content(traffic.read()) == content(state)


def test_one_write_after_another(traffic: Traffic) -> None:
    """What a write returns is what the next one is conditional on."""
    state = claim(traffic, 1)
    for region in "abcabc":
        wanted = shares(traffic, **{region: 100})
        state = traffic.write(wanted, epoch=1, writer="w", expected=state)
        assert dict(state.weights) == wanted
    assert content(traffic.read()) == content(state)


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ({"a": 50, "b": 40, "c": 0}, "total 100"),
        ({"a": 150, "b": -50, "c": 0}, "total 100"),
        ({"a": 0, "b": 0, "c": 0}, "total 100"),
        ({}, "total 100"),
        ({"a": 100, "b": 0, "c": 0, "d": 0}, "d"),
        ({"a": 50, "b": 0, "c": 0, "d": 50}, "d"),
        ({"a": 50, "b": 50}, "c"),
    ],
    ids=["too little", "negative", "nothing", "none", "unknown", "unknown one", "not named"],
)
def test_wrong_weights(site: Site, traffic: Traffic, weights: dict[str, int], said: str) -> None:
    """Refused by name, before anything is sent: also when nobody would answer."""
    before = claim(traffic, 1)
    with pytest.raises(UsageError, match=said):
        traffic.write(weights, epoch=1, writer="w", expected=before)
    assert content(traffic.read()) == content(before)


def test_wrong_weights_when_nobody_answers(site: Site, traffic: Traffic) -> None:
    """The mistake is told, not the weather."""
    before = claim(traffic, 1)
    with site.unreachable(), pytest.raises(UsageError):
        traffic.write({"a": 50, "b": 50}, epoch=1, writer="w", expected=before)


def test_what_it_cannot_hold(traffic: Traffic) -> None:
    """Where a region is in or out, shares are refused, not rounded in silence."""
    wanted = {"a": 98, "b": 1, "c": 1}
    if expressible(wanted, traffic.features) == wanted:
        pytest.skip("not declared: in or out")
    before = claim(traffic, 1)
    with pytest.raises(UsageError, match="in or out"):
        traffic.write(wanted, epoch=1, writer="w", expected=before)
    assert content(traffic.read()) == content(before)


def test_refused_write(site: Site, traffic: Traffic) -> None:
    """It changes nothing: neither weights nor epoch nor writer."""
    seen = claim(traffic, 1, "one")
    other = put(site.open(), shares(traffic, b=100), 1, "other")
    with pytest.raises(ConditionFailed):
        traffic.write(shares(traffic, a=100), epoch=5, writer="one", expected=seen)
    assert content(traffic.read()) == content(other)


def test_in_force(traffic: Traffic, settled: Callable[[Traffic, RouteState], bool]) -> None:
    """In the end whoever answers clients answers with it, and no longer with what was before."""
    first = put(traffic, shares(traffic, a=100), 1)
    assert settled(traffic, first)
    second = put(traffic, shares(traffic, b=100), 1)
    assert settled(traffic, second)
    assert not traffic.in_force(first)


def test_in_force_after_a_claim(
    site: Site, traffic: Traffic, settled: Callable[[Traffic, RouteState], bool]
) -> None:
    """A state that another wrote over is in force no more, although its weights are."""
    first = claim(traffic, 1)
    second = claim(site.open(), 2)
    assert settled(traffic, second)
    assert not traffic.in_force(first)


def test_zero_is_declared(traffic: Traffic) -> None:
    """For people: no two providers mean the same."""
    assert len(traffic.features.zero.split()) >= 2


def test_zero_and_shares(
    site: Site, traffic: Traffic, settled: Callable[[Traffic, RouteState], bool]
) -> None:
    """Real requests: a region with 0 gets none, and the others their shares."""
    state = put(traffic, shares(traffic, a=75, b=25), 1)
    assert settled(traffic, state)
    answered = site.requests(400)
    assert answered[""] == 0
    assert answered["c"] == 0
    for region in "ab":
        assert abs(answered[region] - 4 * state.weights[region]) <= 40, answered


def test_change_by_hand(site: Site, traffic: Traffic) -> None:
    """It is seen, with nobody's name on it and the epoch as it was, and what was decided before it
    does not overwrite it."""
    ours = put(traffic, shares(traffic, a=100), 3, "controller-1")
    by_hand = shares(traffic, b=50, c=50)
    site.change_by_hand(by_hand)
    found = traffic.read()
    assert content(found) == (by_hand, 3, "")
    with pytest.raises(ConditionFailed):
        traffic.write(shares(traffic, a=100), epoch=3, writer="controller-1", expected=ours)
    with pytest.raises(ConditionFailed):
        traffic.write(shares(traffic, a=100), epoch=4, writer="controller-2", expected=ours)
    assert content(traffic.read()) == content(found)


def test_change_by_hand_is_no_way_past_the_fence(site: Site, traffic: Traffic) -> None:
    """The epoch outlives it."""
    put(traffic, shares(traffic, a=100), 3)
    site.change_by_hand(shares(traffic, b=100))
    with pytest.raises(Fenced):
        put(traffic, shares(traffic, a=100), 2)
    assert content(put(traffic, shares(traffic, c=100), 3, "w")) == (shares(traffic, c=100), 3, "w")


def test_no_such_route(site: Site, traffic: Traffic) -> None:
    """Said as such, and a write does not make one."""
    before = claim(traffic, 1)
    site.remove()
    with pytest.raises(NotFound):
        traffic.read()
    with pytest.raises(NotFound):
        traffic.write(before.weights, epoch=1, writer="w", expected=before)
    with pytest.raises(NotFound):
        site.open().read()
