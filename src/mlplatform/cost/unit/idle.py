"""Where the money of GPU nodes goes: what is busy, and three ways of being idle. Pure.

    unallocated      nobody has asked for the GPU
    warm standby     it holds a version that answers nobody, so that a failover need not wait for it
    allocated idle   somebody has it, and it computes nothing

Idle money is (1 - busy) × allocated (the reference, section 6). Without a measured utilisation what
is allocated cannot be told apart, and is one amount: exporters that are not there report 0 for it
(OpenCost, pkg/costmodel/allocation.go), so that 0 has to be said on purpose.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from mlplatform.core.errors import UsageError


@dataclass(frozen=True, slots=True)
class Nodes:
    """GPU nodes of one kind, over a time. None: unknown."""

    name: str
    cost: Decimal
    gpus: Decimal
    """GPU-hours there were."""
    allocated: Decimal | None
    """GPU-hours asked for, warm standby among them."""
    warm: Decimal | None
    """GPU-hours held by versions that served nobody."""
    utilisation: Decimal | None
    """How busy the others were, 0 to 1."""


@dataclass(frozen=True, slots=True)
class Split:
    """The cost of some nodes. The parts that are known, and `unsplit`, are the cost."""

    name: str
    cost: Decimal
    unallocated: Decimal | None
    warm_standby: Decimal | None
    allocated_idle: Decimal | None
    busy: Decimal | None
    unsplit: Decimal
    """What cannot be told apart."""
    unknown: tuple[str, ...]
    """What would have to be known for that."""


def split(nodes: Nodes) -> Split:
    """Split the cost of nodes. `UsageError` where its figures contradict each other."""
    _check(nodes)
    if nodes.allocated is None:
        unknown = ("allocated", *(["utilisation"] if nodes.utilisation is None else []))
        return Split(nodes.name, nodes.cost, None, None, None, None, nodes.cost, unknown)
    unallocated = _part(nodes, nodes.gpus - nodes.allocated)
    held = nodes.cost - unallocated
    if nodes.warm is None:
        unknown = ("warm", *(["utilisation"] if nodes.utilisation is None else []))
        return Split(nodes.name, nodes.cost, unallocated, None, None, None, held, unknown)
    warm = _part(nodes, nodes.warm)
    serving = held - warm
    if nodes.utilisation is None and serving:
        return Split(
            nodes.name, nodes.cost, unallocated, warm, None, None, serving, ("utilisation",)
        )
    busy = serving * (nodes.utilisation or Decimal(0))
    zero = Decimal(0)
    return Split(nodes.name, nodes.cost, unallocated, warm, serving - busy, busy, zero, ())


def _part(nodes: Nodes, hours: Decimal) -> Decimal:
    return nodes.cost * hours / nodes.gpus


def _check(nodes: Nodes) -> None:
    wrong = ""
    if nodes.gpus <= 0:
        wrong = f"{nodes.gpus} GPU-hours"
    elif nodes.allocated is not None and not 0 <= nodes.allocated <= nodes.gpus:
        wrong = f"{nodes.allocated} of {nodes.gpus} GPU-hours are allocated"
    elif nodes.warm is not None and not 0 <= nodes.warm <= (
        nodes.gpus if nodes.allocated is None else nodes.allocated
    ):
        wrong = f"{nodes.warm} of {nodes.allocated} allocated GPU-hours are warm"
    elif nodes.utilisation is not None and not 0 <= nodes.utilisation <= 1:
        wrong = f"a utilisation of {nodes.utilisation}"
    if wrong:
        raise UsageError(
            f"{nodes.name}: {wrong}",
            hint="hours of all GPUs, of those allocated, of those warm; a utilisation is 0 to 1",
        )
