"""Whether the servers behind a name answer as they must, now."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from mlplatform.core.errors import MlplatformError, UsageError
from mlplatform.core.placement import parse_reference
from mlplatform.core.seen import Unknown
from mlplatform.core.topology import Topology
from mlplatform.ports.servers import Group
from mlplatform.rollout.asking import ask_golden
from mlplatform.rollout.effects import Sites


class Colour(StrEnum):
    """Which servers are meant."""

    ACTIVE = "active"
    """Those that have a share of the region's requests."""
    PREVIEW = "preview"
    """Those that have none yet: the new colour."""
    ALL = "service"


@dataclass(frozen=True, slots=True)
class Target:
    """What a name means."""

    model: str
    version: str | None = None
    colour: Colour = Colour.ALL


@dataclass(frozen=True, slots=True)
class Checked:
    """One server, or why there is none to ask."""

    region: str
    version: str = ""
    server: str = ""
    problem: str = ""
    """Empty: it answers every golden request as it must."""
    slowest_seconds: float | None = None
    unknown: bool = False
    """Something could not be read."""


def target_of(topology: Topology, name: str) -> Target:
    """`model`, `model@version`, or a Service as scripts name it: `model-active`, `model-preview`,
    `model-service`. `UsageError` for a model that the topology does not have."""
    if name not in topology.models and "@" not in name:
        for colour in Colour:
            model = name.removesuffix(f"-{colour.value}")
            if model != name and model in topology.models:
                return Target(model, colour=colour)
    model, version = parse_reference(name)
    topology.model(model)
    return Target(model, version)


def check(sites: Sites, target: Target, regions: Sequence[str] = ()) -> Iterator[Checked]:
    """Every server that is meant, in the regions named or in all that say who starts servers. A
    target without servers is a problem, and not a pass."""
    section = sites.topology.rollout
    known = [r for r in sites.topology.regions if section.servers_of(target.model, r) is not None]
    if not known:
        raise UsageError(
            f"{target.model}: nothing says who starts its servers",
            hint=f"set rollout.models.{target.model}.servers",
        )
    for region in regions or known:
        try:
            yield from _region(sites, target, region)
        except MlplatformError as error:
            yield Checked(region, problem=str(error), unknown=True)


def _region(sites: Sites, target: Target, region: str) -> Iterator[Checked]:
    groups = sites.open_servers(target.model, region).read().groups
    versions = [target.version] if target.version is not None else list(groups)
    if target.colour is not Colour.ALL:
        weights = sites.open_split(target.model, region, tuple(groups)).read().weights
        active = target.colour is Colour.ACTIVE
        versions = [v for v in versions if bool(weights.get(v, 0)) is active]
    found = False
    for version in versions:
        if version in groups:
            found = True
            yield from _group(sites, target.model, region, groups[version])
    if not found:
        what = target.version or {Colour.PREVIEW: "a version without requests"}.get(
            target.colour, "any version"
        )
        yield Checked(region, problem=f"there is no server of {what}: the target is empty")


def _group(sites: Sites, model: str, region: str, group: Group) -> Iterator[Checked]:
    golden = sites.golden(model, group.version)
    for each in group.ailing:
        said = f"{each.state.value}{each.reason and f': {each.reason}'}"
        yield Checked(region, group.version, each.server, said)
    if not group.ready and not group.ailing:
        yield Checked(region, group.version, problem="no server is ready: the target is empty")
    for address in group.ready:
        if isinstance(golden, Unknown):
            said = f"its golden requests cannot be read: {golden.reason}"
            yield Checked(region, group.version, address, said, unknown=True)
            continue
        answered = ask_golden(
            sites.probe,
            golden,
            address,
            model,
            group.version,
            slow_seconds=sites.topology.rollout.verdict.slow_seconds,
        )
        yield Checked(region, group.version, address, answered.problem, answered.slowest_seconds)
