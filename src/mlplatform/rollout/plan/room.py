"""GPUs that are free, servers that can be spared, and what a server can do.

GPUs are counted by the topology's own figures and by the servers that are seen, which is what a
plan can know; the step `preflight` is to ask again, where the servers run. A fleet that does not
say how many servers it has counts as one, so that free GPUs are the most there can be."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from datetime import date

from mlplatform.core.rollout import Strategy
from mlplatform.core.seen import Unknown
from mlplatform.core.topology import Topology
from mlplatform.ports.fleet import Served
from mlplatform.rollout.plan.seen import Finding, Rule


def gpus_free(
    topology: Topology, model: str, region: str, served: Mapping[str, Served | Unknown]
) -> dict[str, int | Unknown]:
    """By product that a server of `model` takes: how many the region has that no server holds.
    `served` is what serves there, of every model of the topology."""
    section = topology.regions[region]
    found: dict[str, int | Unknown] = {}
    for product in topology.models[model].gpus:
        if "gpus" not in section.model_fields_set:
            found[product] = Unknown(f"regions.{region}.gpus does not say how many there are")
            continue
        found[product] = _free(topology, product, section.gpus.get(product, 0), served)
    return found


def _free(
    topology: Topology, product: str, there: int, served: Mapping[str, Served | Unknown]
) -> int | Unknown:
    for name, holds in served.items():
        if isinstance(holds, Unknown):
            return Unknown(f"nobody knows what {name} takes: {holds.reason}")
        section = topology.models[name]
        if holds.servers and "gpus" not in section.model_fields_set:
            return Unknown(f"models.{name}.gpus does not say what its servers take")
        there -= holds.servers * section.gpus.get(product, 0)
    return max(0, there)


def extra_servers(strategy: Strategy, servers: int) -> int:
    """How many servers there are at most beside those that serve now."""
    if strategy.kind == "blue_green":
        return servers
    return 0 if strategy.kind == "in_place" else min(strategy.surge_servers, servers)


def lacking_room(
    topology: Topology, model: str, region: str, extra: int, free: Mapping[str, int | Unknown]
) -> Iterator[Finding]:
    """Why `extra` servers cannot be started beside those that serve, if they cannot."""
    section = topology.models[model]
    if not extra:
        return
    if "gpus" not in section.model_fields_set:
        yield Finding(
            Rule.ROOM,
            f"models.{model}.gpus does not say what a server takes",
            f"set models.{model}.gpus, to {{}} if it takes none",
            unknown=True,
        )
    for product, each in section.gpus.items():
        there = free.get(product, Unknown(f"nobody counted the {product} in {region}"))
        if isinstance(there, Unknown):
            fix = f"set regions.{region}.gpus: {{{product}: N}}"
            yield Finding(Rule.ROOM, there.reason, fix, unknown=True)
        elif there < extra * each:
            yield Finding(Rule.ROOM, f"{extra * each} {product} are needed, {there} are free")


def rate_of(
    topology: Topology, model: str, region: str, served: Served, today: date
) -> float | Unknown:
    """Requests a second of one warm server: measured, else declared, until that expires."""
    measured = served.requests_per_second
    if measured is not None and math.isfinite(measured) and measured > 0:
        return measured
    declared = topology.traffic.capacity.get(region, {}).get(model)
    if declared is None:
        return Unknown(f"nobody has measured or declared what a server of {model} can do there")
    if declared.expires_on < today:
        return Unknown(f"what was declared on {declared.measured_on} has expired")
    return declared.requests_per_second


def declaring(model: str, region: str) -> str:
    """What to do where nobody knows what a server can do."""
    return f"set traffic.capacity.{region}.{model}"


def peak_of(topology: Topology, model: str) -> str:
    """What to do where nobody measures what enters the routes that carry a model."""
    carry = [name for name, route in topology.traffic.routes.items() if model in route.models]
    return "set " + " and ".join(f"traffic.routes.{name}.peak" for name in carry)


def is_routed(topology: Topology, model: str) -> bool:
    """Whether any of the world's routes carries the model."""
    return any(model in route.models for route in topology.traffic.routes.values())


def spared(servers: int, floor_percent: int, needed: int) -> int:
    """How many of `servers` may be away at once: the floor stays, and what the load needs."""
    return servers - max(math.ceil(servers * floor_percent / 100), needed)
