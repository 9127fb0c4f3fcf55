"""How busy GPUs were over the last day, out of monitoring: by the same queries as GPU-hours
(`core.cost.Gpus`).

A GPU counts only if it was measured a day ago too: one that was added this morning has had no time,
and one that is not measured is not idle. Servers that stand by for a failover are idle on purpose:
their nodes are left out, and one of which nobody can say whether it stands by is told so.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite

from mlplatform.core.seen import Unknown
from mlplatform.cost.gpus.hours import (
    GPU,
    MEASURED_PRODUCT,
    NODE,
    PRODUCT,
    REGION,
    Look,
    Naming,
    Node,
    first_of,
)
from mlplatform.cost.gpus.readings import DAY_SECONDS, STEP_SECONDS, Asker, Read, Readings, lines_of
from mlplatform.cost.waste.findings import Load


def read_loads(asker: Asker, naming: Naming, now: float) -> list[Load] | Unknown:
    """How busy each node's GPUs were in the day until `now`, in seconds since 1970. `Unknown` where
    nobody says."""

    def read(name: str, at: float, window_seconds: float) -> Read:
        return asker.read(
            name, since=at, until=at, step_seconds=STEP_SECONDS, window_seconds=window_seconds
        )

    last_day = read("utilisation", now, DAY_SECONDS)
    if isinstance(last_day, Unknown):
        return last_day
    day_ago = read("utilisation", now - DAY_SECONDS, STEP_SECONDS)
    if isinstance(day_ago, Unknown):
        return day_ago
    names = ("allocatable", "requested", "servers", "weights", "labels")
    others = {name: read(name, now, STEP_SECONDS) for name in names}
    evidence = asker.query("utilisation", DAY_SECONDS)
    return loads_of(Readings(utilisation=last_day, **others), day_ago, naming, evidence)


def loads_of(now: Readings, day_ago: Read, naming: Naming, evidence: str) -> list[Load]:
    """Samples by node. What is no number, or out of its range, is left out with its node: half of
    what a node does is not known. `now.utilisation` is of the last day."""
    gpus = {
        _node_of(line.labels, naming, {}): line.samples[-1][1]
        for line in lines_of(now.allocatable)
        if line.samples
    }
    known = {_node_of(line.labels, naming, {}): line.labels for line in lines_of(now.labels)}
    look = Look(now, naming)
    before = {
        (_node_of(line.labels, naming, gpus), first_of(line.labels, GPU))
        for line in lines_of(day_ago)
        if line.samples
    }
    nodes: dict[Node, dict[str, list[float]]] = {}
    products: dict[Node, dict[str, str]] = {}
    for line in lines_of(now.utilisation):
        node, gpu = _node_of(line.labels, naming, gpus), first_of(line.labels, GPU)
        if not node[1] or not line.samples or (node, gpu) not in before:
            continue
        nodes.setdefault(node, {}).setdefault(gpu, []).append(line.samples[-1][1])
        product = first_of(known.get(node, {}), PRODUCT)
        measured = first_of(line.labels, MEASURED_PRODUCT).strip().replace(" ", "-")
        products.setdefault(node, {})[gpu] = product or measured
    return [
        Load(
            node=node[1],
            region=naming.region(node[0] or first_of(known.get(node, {}), REGION)) or None,
            products=_each(products[node], gpus.get(node)),
            busy_ratio=sum(max(each) for each in several.values()) / len(several),
            evidence=evidence,
            standby=_stands_by(look, node),
        )
        for node, several in sorted(nodes.items())
        if all(isfinite(one) and 0 <= one <= 1 for each in several.values() for one in each)
    ]


def _stands_by(look: Look, node: Node) -> bool | None:
    """Whether any of a node's GPUs waits for a failover; None where nobody can say."""
    (at, gpus), *_ = [*look.nodes.get(node, {}).items()] or [(0, 0.0)]
    warm = look.warm(node, at, gpus) if gpus else 0.0
    return None if warm is None else warm > 0


def _each(products: Mapping[str, str], gpus: float | None) -> tuple[str, ...]:
    """The product of each GPU, also where monitoring gives the mean of a node."""
    if set(products) == {""} and gpus is not None:
        return (products[""],) * round(gpus)
    return tuple(products.values())


def _node_of(labels: Mapping[str, str], naming: Naming, gpus: Mapping[Node, float]) -> Node:
    """The node that has GPUs, if any label names one; else what the labels call one first."""
    region = labels.get(naming.region_label, "")
    for label in NODE:
        if (region, labels.get(label, "")) in gpus:
            return region, labels[label]
    return region, first_of(labels, NODE)
