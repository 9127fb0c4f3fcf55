"""What can be asked of rollout, each as one call: a command parses, calls one, renders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mlplatform.core.errors import UsageError
from mlplatform.core.placement import ModelVersion, parse_reference
from mlplatform.core.plan import Plan
from mlplatform.core.topology import Topology
from mlplatform.rollout.effects import Sites
from mlplatform.rollout.plan.decide import check_request, decide
from mlplatform.rollout.plan.seen import Copy, Request, Seen


@dataclass(frozen=True, slots=True)
class Proposal:
    """What would be done, and what it was decided from."""

    request: Request
    seen: Seen
    plan: Plan


def request_for(topology: Topology, reference: str, regions: Sequence[str] = ()) -> Request:
    """What is asked by `model@version`, or by `model` where the topology names a version: in the
    regions named, else in all that the model belongs in."""
    name, version = parse_reference(reference)
    model = topology.model(name)
    version = version or model.version
    if version is None:
        raise UsageError(
            f"{name}: which version? The topology names none", hint=f"write {name}@VERSION"
        )
    request = Request(ModelVersion(name, version), tuple(regions) or model.regions)
    check_request(topology, request)
    return request


def propose(sites: Sites, request: Request) -> Proposal:
    """What a rollout would do, and why. Changes nothing. `UsageError` for a version that nobody has
    ever published, as far as every region and the control store can say."""
    seen = sites.observe(request)
    version = request.subject.version
    copies = [stands.copies.get(version) for stands in seen.regions.values()]
    nowhere = all(isinstance(copy, Copy) and copy == Copy() for copy in copies)
    if nowhere and seen.recorded_digest is None:
        raise UsageError(
            f"{request.subject}: there is no such version",
            hint=f"`mlplatform versions {request.subject.model}` lists those there are",
        )
    return Proposal(request, seen, decide(sites.topology, seen, sites.clock.now()))
