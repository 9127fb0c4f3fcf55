"""A small world to plan rollouts in: three regions with four servers of `m@v1` each, one route, and
`v2` stored and verified everywhere. What a case changes, it names."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from mlplatform.core.placement import ModelVersion
from mlplatform.core.plan import Plan
from mlplatform.core.topology import Topology
from mlplatform.ports.fleet import Served
from mlplatform.rollout.plan.decide import decide
from mlplatform.rollout.plan.seen import Copy, RegionStands, Request, Seen, Standing

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
SUBJECT = ModelVersion("m", "v2")
REGIONS = ("us", "eu", "ap")
ONE, TWO = "blake3:one", "blake3:two"
WEIGHTS = {"us": 50, "eu": 30, "ap": 20}
DECLARED = {"measured_on": "2026-11-01", "expires_on": "2027-02-01"}
FREE = {"L4": 2}
WANTED = {"m": {"home": "us", "version": "v2", "replicate_to": ["eu", "ap"], "gpus": {"L4": 1}}}
"""The topology's models, once it says that v2 is wanted."""


def topology(
    rollout: Mapping[str, Any] | None = None, *, model: Mapping[str, Any] | None = None, **rest: Any
) -> Topology:
    """The world's file. A server does 100 requests a second; `rollout` is laid over its section."""
    actuators = {region: f"caddy://{region}:2019/m" for region in REGIONS}
    section = {
        "models": {"m": {"actuators": actuators, **(model or {})}},
        **(rollout or {}),
    }
    api = {"actuator": "caddy://w:2019/api", "models": "m", "weights": WEIGHTS}
    document = {
        "control": "file:///srv/control",
        "regions": {
            name: {
                "store": f"file:///srv/{name}",
                "endpoint": f"http://{name}.test",
                "gpus": {"L4": 6},
            }
            for name in REGIONS
        },
        "models": {"m": {"home": "us", "replicate_to": ["eu", "ap"], "gpus": {"L4": 1}}},
        "traffic": {
            "routes": {"api": api},
            "capacity": {r: {"m": {"requests_per_second": 100, **DECLARED}} for r in REGIONS},
        },
        "rollout": section,
        **rest,
    }
    return Topology.parse(json.dumps(document))


def well(load: float = 100.0) -> RegionStands:
    """A region in which nothing is wrong: half of what it can do is asked of it, less or more."""
    return RegionStands(
        copies={"v1": Copy(ONE, verified=True), "v2": Copy(TWO, verified=True)},
        served=Served(versions={"v1": ONE}, servers=4),
        gpus_free=FREE,
        standing=Standing(load=load),
    )


def seen(regions: Mapping[str, RegionStands] | None = None, **changed: Any) -> Seen:
    """The world as it is, with some of its regions otherwise."""
    return replace(
        Seen(
            Request(SUBJECT, REGIONS),
            {name: well() for name in REGIONS} | dict(regions or {}),
            recorded_digest=TWO,
        ),
        **changed,
    )


def planned(
    regions: Mapping[str, RegionStands] | None = None,
    *,
    of: Topology | None = None,
    **changed: Any,
) -> Plan:
    """What is planned of it."""
    return decide(of or topology(), seen(regions, **changed), NOW)


def eu(**changed: Any) -> Mapping[str, RegionStands]:
    """eu, with something otherwise."""
    return {"eu": replace(well(), **changed)}
