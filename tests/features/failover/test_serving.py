"""The rungs above STORED, as a table: what was seen, and the rung that follows."""

from __future__ import annotations

from typing import Any

import pytest

from mlplatform.core.placement import Grid, Integrity, ModelVersion, Placement, Rung
from mlplatform.core.seen import Unknown
from mlplatform.core.topology import Topology
from mlplatform.failover.decision.seen import Golden, Standby
from mlplatform.failover.standby.serving import States, climbed
from mlplatform.ports.traffic import RouteState

MODEL = ModelVersion("m", "v1")
DIGEST = "blake3:" + "0" * 64
WARM = Golden(ok=True, seconds=0.02, age_seconds=3.0)
TOPOLOGY = Topology.model_validate(
    {
        "control": "memory://control",
        "regions": {name: {"store": f"memory://{name}"} for name in ("us", "eu")},
        "models": {"m": {"version": "v1", "home": "us"}, "other": {"home": "us"}},
        "traffic": {
            "routes": {
                "api": {"actuator": "memory://api", "models": ["m"]},
                "batch": {"actuator": "memory://batch", "models": ["m", "other"]},
                "else": {"actuator": "memory://else", "models": ["other"]},
            }
        },
    }
)


def offered(**changed: Any) -> Standby:
    stated: dict[str, Any] = {"version": "v1", "digest": DIGEST, "golden": WARM}
    return Standby(**stated | changed)


SEEN: dict[str, tuple[Standby | Unknown | None, Rung, tuple[tuple[str, int], ...]]] = {
    "all of it": (offered(), Rung.SERVING, (("api", 30), ("batch", 100))),
    "never answered": (offered(golden=None), Rung.LOADED, ()),
    "answered wrongly": (offered(golden=Golden(False, 0.02, 3.0)), Rung.LOADED, ()),
    "answered too slowly": (offered(golden=Golden(True, 1.1, 3.0)), Rung.LOADED, ()),
    "answered too long ago": (offered(golden=Golden(True, 0.02, 3600.0)), Rung.LOADED, ()),
    "nobody knows how it answers": (offered(golden=Unknown("dark")), Rung.LOADED, ()),
    "another version": (offered(version="v2"), Rung.STORED, ()),
    "no version": (offered(version=None, digest=None), Rung.STORED, ()),
    "other bytes": (offered(digest="blake3:" + "1" * 64), Rung.STORED, ()),
    "servers that state no digest": (offered(digest=None), Rung.STORED, ()),
    "servers that do not answer": (Unknown("gone"), Rung.STORED, ()),
    "a region that nobody asked": (None, Rung.STORED, ()),
}


def grid(rung: Rung | Unknown = Rung.STORED, integrity: Integrity = Integrity.VERIFIED) -> Grid:
    return Grid((Placement(MODEL, "us", rung, integrity, digest=DIGEST),))


def weights(us: int) -> RouteState:
    return RouteState({"us": us, "eu": 100 - us}, 1, "host:1")


STATES: States = {"api": weights(30), "batch": weights(100), "else": weights(50)}


@pytest.mark.parametrize("case", SEEN)
def test_what_is_seen_lets_a_placement_climb(case: str) -> None:
    standby, rung, shares = SEEN[case]
    standbys = {"us": {"m": standby}} if standby is not None else {}
    (found,) = climbed(grid(), TOPOLOGY, STATES, standbys)
    assert (found.rung, found.shares) == (rung, shares)


def test_without_weight_it_is_warm_and_weights_that_are_unknown_give_none() -> None:
    states: States = {"api": weights(0), "batch": Unknown("the router is gone")}
    (found,) = climbed(grid(), TOPOLOGY, states, {"us": {"m": offered()}})
    assert (found.rung, found.shares) == (Rung.WARM, ())


@pytest.mark.parametrize(
    ("rung", "integrity"),
    [
        (Rung.ABSENT, Integrity.ABSENT),
        (Rung.ABSENT, Integrity.MISMATCH),
        (Rung.STORED, Integrity.UNKNOWN),
        (Unknown("its store is away"), Integrity.UNKNOWN),
    ],
)
def test_bytes_in_doubt_are_shown_as_that_whoever_serves_them(
    rung: Rung | Unknown, integrity: Integrity
) -> None:
    before = grid(rung, integrity)
    assert climbed(before, TOPOLOGY, STATES, {"us": {"m": offered()}}) == before
