"""The third clock: who still comes to a region that gets nothing any more."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

import pytest

from mlplatform.core.seen import Unknown
from mlplatform.failover.decision.seen import Load
from mlplatform.failover.evidence.moved import who_still_comes
from mlplatform.failover.evidence.record import (
    Evidence,
    Path,
    Sample,
    Series,
    Sighting,
    VantageRecord,
)

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
WEIGHTS = {"us": 0, "eu": 100}


def vantage(*answered: tuple[str | None, float], age: float = 0.0, blind: str = "") -> Sighting:
    """A record whose probes through the front door were answered so: by whom, so long ago."""
    samples = tuple(
        Sample(seconds_ago=seconds, ok=by != "nobody", region=None if by == "nobody" else by)
        for by, seconds in answered
    )
    series = Series(region="", path=Path.FRONT_DOOR, route="api", samples=samples)
    record = VantageRecord(
        vantage="v", round=1, at=NOW, interval_seconds=10, blind=blind, series=(series,)
    )
    return Sighting(record, age)


def said(
    *vantages: Sighting,
    load: Load | Unknown | None = None,
    after: float = 20.0,
    trusted: tuple[str, ...] = ("us", "eu"),
    resolved: Mapping[str, frozenset[str] | Unknown] | None = None,
) -> tuple[dict[str, bool], tuple[str, ...]]:
    moved = who_still_comes(
        "api",
        Evidence({f"v{n}": each for n, each in enumerate(vantages)}),
        {} if load is None else {"us": load},
        weights=WEIGHTS,
        load_before={"us": 200.0},
        trusted=trusted,
        resolved=resolved or {},
        committed_seconds_ago=after,
    )
    return dict(moved.observers), moved.still


PROBES = "probes through the front door"
LOAD = "the load that enters"


@pytest.mark.parametrize(
    ("vantages", "expected"),
    [
        pytest.param([vantage(("us", 30), ("eu", 5))], {PROBES: True}, id="the newest counts"),
        pytest.param([vantage(("us", 5))], {PROBES: False}, id="answered by who should not"),
        pytest.param([vantage(("eu", 5)), vantage(("us", 5))], {PROBES: False}, id="one of two"),
        pytest.param([vantage(("eu", 25))], {}, id="probed before the weights were written"),
        pytest.param([vantage(("eu", 15), age=10)], {}, id="before, and the record is old"),
        pytest.param([vantage((None, 5))], {}, id="an answer that names nobody"),
        pytest.param([vantage(("nobody", 5))], {PROBES: False}, id="no answer"),
        pytest.param([vantage(("us", 5), blind="no reference")], {}, id="a blind vantage"),
        pytest.param([vantage(("us", 5), age=60)], {}, id="a vantage that has gone silent"),
        pytest.param([], {}, id="nobody probes"),
    ],
)
def test_probes(vantages: list[Sighting], expected: dict[str, bool]) -> None:
    assert said(*vantages)[0] == expected


@pytest.mark.parametrize(
    ("load", "expected"),
    [
        (Load(now=1.0, peak=250), {LOAD: True}),
        (Load(now=2.5, peak=250), {LOAD: False}),
        (Load(now=0.0, peak=250), {LOAD: True}),
        (Load(now=None, peak=250), {}),
        (Unknown("Prometheus does not answer"), {}),
        (None, {}),
    ],
)
def test_load(load: Load | Unknown | None, expected: dict[str, bool]) -> None:
    assert said(load=load)[0] == expected


def test_the_load_of_a_region_that_is_not_well_says_nothing() -> None:
    assert said(load=Load(now=0.0, peak=250), trusted=("eu",))[0] == {}


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ({"192.0.2.53": frozenset({"eu"})}, {"resolvers": True}),
        ({"192.0.2.53": frozenset({"us", "eu"})}, {"resolvers": False}),
        ({"a": frozenset({"eu"}), "b": frozenset({"us"})}, {"resolvers": False}),
        ({"a": frozenset({"eu"}), "b": Unknown("no answer")}, {"resolvers": True}),
        ({"b": Unknown("no answer")}, {}),
        ({"a": frozenset()}, {"resolvers": True}),
    ],
)
def test_resolvers(sent: Mapping[str, frozenset[str] | Unknown], expected: dict[str, bool]) -> None:
    assert said(resolved=sent)[0] == expected


def test_who_still_comes_is_named() -> None:
    observers, still = said(vantage(("us", 5)), load=Load(now=50.0))
    assert observers == {PROBES: False, LOAD: False}
    assert still == ("v0 is answered by us", "us gets 50 requests/s, 25 % of before")


def test_nothing_is_claimed_where_every_region_keeps_some() -> None:
    moved = who_still_comes(
        "api",
        Evidence({"v": vantage(("us", 5))}),
        {"us": Load(now=100.0)},
        weights={"us": 25, "eu": 75},
        load_before={"us": 200.0},
        trusted=("us", "eu"),
        resolved={},
        committed_seconds_ago=20,
    )
    assert moved.over
    assert moved.observers == {PROBES: True}
