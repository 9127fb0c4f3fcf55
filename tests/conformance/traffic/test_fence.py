"""The epoch: once it is raised, nobody below it changes anything."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random

import pytest

from mlplatform.control.retry import Retry
from mlplatform.control.retry_traffic import RetryingTraffic
from mlplatform.core.errors import ConditionFailed, Fenced, MlplatformError, Unavailable
from mlplatform.ports.clock import SystemClock
from mlplatform.ports.traffic import RouteState, Traffic
from tests.conformance.acts import at_once

from .acts import claim, content, put, shares
from .site import Site

WRITERS = 32


def test_nobody_has_claimed_a_fresh_route(traffic: Traffic) -> None:
    """Epoch 0, no writer, and whatever weights its operator gave it."""
    state = traffic.read()
    assert (state.epoch, state.writer) == (0, "")
    assert sum(state.weights.values()) == 100
    assert state.weights.keys() == {"a", "b", "c"}


def test_claim(site: Site, traffic: Traffic) -> None:
    """The weights that are there, with a new epoch, and read so by everybody."""
    before = traffic.read()
    claimed = claim(traffic, 7, "controller-1")
    assert content(claimed) == (dict(before.weights), 7, "controller-1")
    assert content(site.open().read()) == content(claimed)


def test_claim_again(traffic: Traffic) -> None:
    """A daily write without effect proves the credentials: the same holder may, any time."""
    first = claim(traffic, 7)
    assert content(claim(traffic, 7)) == content(first)


def test_stale_epoch(site: Site, traffic: Traffic) -> None:
    """A writer that was deposed since it read."""
    state = claim(traffic, 1, "old")
    newer = claim(site.open(), 2, "new")
    with pytest.raises(Fenced) as raised:
        traffic.write(shares(traffic, a=100), epoch=1, writer="old", expected=state)
    assert raised.value.exit_code == 7
    assert content(traffic.read()) == content(newer)


def test_deposed_writer_reads_again(site: Site, traffic: Traffic) -> None:
    """What it read is fresh, and its tag is good: the epoch alone refuses it."""
    claim(traffic, 1, "old")
    newer = claim(site.open(), 2, "new")
    with pytest.raises(Fenced):
        put(traffic, shares(traffic, a=100), 1, "old")
    with pytest.raises(Fenced):
        claim(traffic, 1, "old")
    assert content(traffic.read()) == content(newer)


def test_weights_that_come_back(site: Site, traffic: Traffic) -> None:
    """A→B→A: a tag may repeat; who holds the old one, of the old epoch, is refused all the same."""
    a, b = shares(traffic, a=100), shares(traffic, b=100)
    old = put(traffic, a, 1, "old")
    newer = site.open()
    put(newer, b, 2, "new")
    last = put(newer, a, 2, "new")
    with pytest.raises(Fenced):
        traffic.write(b, epoch=1, writer="old", expected=old)
    assert content(traffic.read()) == content(last)


def test_fence_does_not_rest_on_what_the_writer_says(site: Site, traffic: Traffic) -> None:
    """An epoch that is lied about in `expected` opens nothing."""
    newer = claim(site.open(), 2, "new")
    lied = replace(traffic.read(), epoch=1)
    with pytest.raises((Fenced, ConditionFailed)):
        traffic.write(shares(traffic, a=100), epoch=1, writer="old", expected=lied)
    assert content(traffic.read()) == content(newer)


def test_newer_writer_with_an_old_view(site: Site, traffic: Traffic) -> None:
    """A higher epoch is no licence: what it decided from has changed."""
    state = claim(traffic, 1)
    changed = put(site.open(), shares(traffic, a=100), 1, "other")
    with pytest.raises(ConditionFailed):
        traffic.write(shares(traffic, b=100), epoch=2, writer="new", expected=state)
    assert content(traffic.read()) == content(changed)


def test_claim_that_overtakes_a_change(site: Site, traffic: Traffic) -> None:
    """The weights are the same, the epoch is not: whoever decided before the claim is refused."""
    state = claim(traffic, 1, "one")
    claimed = claim(site.open(), 2, "two")
    with pytest.raises(ConditionFailed):
        traffic.write(shares(traffic, b=100), epoch=2, writer="two-again", expected=state)
    assert content(traffic.read()) == content(claimed)


def may_lose(error: MlplatformError) -> bool:
    return isinstance(error, (ConditionFailed, Fenced))


@pytest.mark.parametrize("epochs", ["one epoch", "an epoch each"])
def test_race(site: Site, traffic: Traffic, epochs: str) -> None:
    """32 writers who saw the same: one wins, and every other is told that it did not. Under the
    retry policy, as everybody writes: in the rush some get no answer."""
    seen = claim(traffic, 1)
    choices = [shares(traffic, a=100), shares(traffic, b=100), shares(traffic, a=50, b=50)]

    def contender(number: int) -> Callable[[], RouteState]:
        own = RetryingTraffic(site.open(), Retry(SystemClock(), Random(number), base_seconds=0.05))
        epoch = 2 if epochs == "one epoch" else 2 + number
        return lambda: own.write(
            choices[number % 3], epoch=epoch, writer=f"writer-{number}", expected=seen
        )

    won, lost = at_once([contender(number) for number in range(WRITERS)])
    assert len(won) == 1, f"{len(won)} writers were told that they had won: {won}"
    assert all(may_lose(error) for error in lost), lost
    assert content(traffic.read()) == content(won[0])


def test_claim_with_one_target_unreachable(make_site: Callable[[], Site]) -> None:
    """It is not claimed, and says so; the other one is."""
    here, away = make_site(), make_site()
    near, far = here.open(), away.open()
    before = far.read()
    assert claim(near, 3).epoch == 3
    with away.unreachable():
        with pytest.raises(Unavailable):
            claim(far, 3)
        with pytest.raises(Unavailable):
            far.write(before.weights, epoch=3, writer="w", expected=before)
    assert content(away.open().read()) == content(before)
    assert near.read().epoch == 3
