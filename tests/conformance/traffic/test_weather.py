"""Actuators that do not answer, answer too late, or come back."""

from __future__ import annotations

from random import Random

import pytest

from mlplatform.control.retry import Retry
from mlplatform.control.retry_traffic import RetryingTraffic
from mlplatform.core.errors import Fenced, Unavailable
from mlplatform.ports.clock import SystemClock
from mlplatform.ports.traffic import Traffic

from .acts import claim, content, put, shares
from .site import Site


def test_unreachable(site: Site, traffic: Traffic) -> None:
    """Everything says so, and afterwards everything works: with the same adapter."""
    state = claim(traffic, 1)
    with site.unreachable():
        with pytest.raises(Unavailable) as raised:
            traffic.read()
        assert raised.value.retryable
        with pytest.raises(Unavailable):
            traffic.write(shares(traffic, a=100), epoch=1, writer="w", expected=state)
        with pytest.raises(Unavailable):
            traffic.in_force(state)
    assert content(traffic.read()) == content(state)
    put(traffic, shares(traffic, a=100), 1)


def test_lost_answer(site: Site, traffic: Traffic) -> None:
    """The write has happened, the writer is told that it may have; reading back settles it."""
    state = claim(traffic, 1)
    with site.answers_lost(), pytest.raises(Unavailable):
        traffic.write(shares(traffic, b=100), epoch=1, writer="us", expected=state)
    assert content(traffic.read()) == (shares(traffic, b=100), 1, "us")


def test_lost_answer_is_settled(site: Site, traffic: Traffic) -> None:
    """Under the retry policy nobody notices: what is read back is ours."""
    state = claim(traffic, 1)
    retrying = RetryingTraffic(site.open(), Retry(SystemClock(), Random(0), base_seconds=0.05))
    with site.answers_lost():
        written = retrying.write(shares(traffic, b=100), epoch=1, writer="us", expected=state)
    assert content(written) == (shares(traffic, b=100), 1, "us")
    put(traffic, shares(traffic, c=100), 1)


def test_restart(site: Site, traffic: Traffic) -> None:
    """Weights, epoch and writer outlive it, and the fence holds."""
    state = put(traffic, shares(traffic, a=75, b=25), 9, "controller-1")
    site.restart()
    again = site.open()
    assert content(again.read()) == content(state)
    with pytest.raises(Fenced):
        put(again, shares(traffic, b=100), 8, "deposed")
    assert content(put(again, shares(traffic, b=100), 9, "w")) == (shares(traffic, b=100), 9, "w")
