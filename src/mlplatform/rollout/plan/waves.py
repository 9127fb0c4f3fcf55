"""In what order regions take their turn."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import groupby

from mlplatform.core.topology import Topology


def waves_of(
    topology: Topology, model: str, regions: Sequence[str], alone: Collection[str] = ()
) -> tuple[tuple[str, ...], ...]:
    """`regions` in waves: in the topology's order, and those it does not name after them, the least
    share of the world's traffic first, so that what goes wrong befalls the fewest. Never more in
    one than its concurrency, and nobody beside one that has to be `alone`."""
    policy = topology.rollout.waves
    named = [tuple(each for each in together if each in regions) for together in policy.order]
    rest = [each for each in regions if not any(each in together for together in named)]
    rest.sort(key=lambda region: wanted_share(topology, model, region))
    groups = [*named, *_parts(rest, policy.concurrency)]
    return tuple(
        part
        for together in groups
        for few in _apart(together, alone)
        for part in _parts(few, policy.concurrency)
    )


def _apart(together: Sequence[str], alone: Collection[str]) -> Iterator[Sequence[str]]:
    def own(region: str) -> str:
        return region if region in alone else ""

    return (list(regions) for _, regions in groupby(together, key=own))


def _parts(regions: Sequence[str], most: int) -> Iterator[tuple[str, ...]]:
    for start in range(0, len(regions), most):
        yield tuple(regions[start : start + most])


def wanted_share(topology: Topology, model: str, region: str) -> int:
    """Per cent: the most that the topology gives a region of a route which carries the model."""
    return max(
        (
            route.weights.get(region, 0)
            for route in topology.traffic.routes.values()
            if model in route.models
        ),
        default=0,
    )
