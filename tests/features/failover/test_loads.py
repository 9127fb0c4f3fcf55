"""Loads that nobody measures: declared, by weight, until the figure expires."""

from __future__ import annotations

from datetime import date

import pytest

from mlplatform.core.seen import Unknown
from mlplatform.core.traffic import Route
from mlplatform.failover.decision.seen import Load
from mlplatform.failover.evidence.loads import LAST_KNOWN_SECONDS, LastLoads, with_declared

TODAY = date(2026, 3, 1)
NOT_MEASURED = Unknown("the topology names no Prometheus")


def route(**peak: object) -> Route:
    declared = {"requests_per_second": 200, "measured_on": "2026-02-01", "expires_on": "2026-05-01"}
    return Route.model_validate(
        {
            "actuator": "memory://api",
            "weights": {"us": 60, "eu": 40},
            "peak": {**declared, **peak} if peak != {"none": True} else None,
        }
    )


@pytest.mark.parametrize(
    ("weights", "us", "eu"),
    [
        pytest.param({"us": 60, "eu": 40}, (120, 120), (80, 80), id="as wanted"),
        pytest.param({"us": 0, "eu": 100}, (0, 120), (200, 200), id="all in one region"),
        pytest.param({"us": 100, "eu": 0}, (200, 200), (0, 80), id="all in the other"),
    ],
)
def test_declared(
    weights: dict[str, int], us: tuple[float, float], eu: tuple[float, float]
) -> None:
    found = with_declared(route(), weights, dict.fromkeys(weights, NOT_MEASURED), TODAY)
    for region, (now, peak) in {"us": us, "eu": eu}.items():
        load = found[region]
        assert isinstance(load, Load)
        assert (load.now, load.peak) == (now, peak)
        assert load.source == "declared on 2026-02-01, until 2026-05-01"


def test_what_is_measured_outranks_it() -> None:
    measured = Load(now=0.0, peak=30.0, source="last hour")
    found = with_declared(
        route(), {"us": 60, "eu": 40}, {"us": measured, "eu": NOT_MEASURED}, TODAY
    )
    assert found["us"] is measured
    assert isinstance(found["eu"], Load)


def test_a_measurement_without_any_figure_is_none() -> None:
    found = with_declared(route(), {"us": 60, "eu": 40}, {"us": Load()}, TODAY)
    assert found["us"] != Load()


def test_a_figure_that_has_expired_counts_nothing() -> None:
    loads = {"us": NOT_MEASURED, "eu": NOT_MEASURED}
    old = route(expires_on="2026-02-28")
    assert with_declared(old, {"us": 60, "eu": 40}, loads, TODAY) == loads
    assert with_declared(route(none=True), {"us": 60, "eu": 40}, loads, TODAY) == loads


REGIONS = {"us": 60, "eu": 40}


def test_what_was_known_last_stands_in_for_what_cannot_be_read() -> None:
    last = LastLoads()
    measured = Load(now=90.0, peak=120.0, source="last hour")
    assert last.complete("api", {"us": measured}, REGIONS, at=0)["us"] is measured
    found = last.complete("api", {"us": NOT_MEASURED}, REGIONS, at=300)
    assert found["us"] == Load(now=90.0, peak=120.0, source="last hour, 300 s ago")
    assert last.complete("api", {}, REGIONS, at=600)["us"] == Load(
        90.0, 120.0, "last hour, 600 s ago"
    )


def test_not_for_ever_and_not_of_another_route_or_region() -> None:
    last = LastLoads()
    last.complete("api", {"us": Load(now=90.0)}, REGIONS, at=0)
    late = LAST_KNOWN_SECONDS + 1
    nothing = {"us": NOT_MEASURED, "eu": NOT_MEASURED}
    assert last.complete("api", nothing, REGIONS, at=late) == nothing
    assert last.complete("batch", nothing, REGIONS, at=1) == nothing
    assert last.complete("api", nothing, REGIONS, at=1)["eu"] is NOT_MEASURED


def test_a_zero_of_a_dead_region_is_a_figure_and_its_peak_is_what_counts() -> None:
    """`headroom` refuses a load that reads 0 where nothing else is known."""
    last = LastLoads()
    dead = Load(now=0.0, peak=120.0, source="last hour")
    assert last.complete("api", {"us": dead}, REGIONS, at=1)["us"] is dead
