"""Where the money of GPU nodes goes: what is busy, and three ways of being idle. Pure.

    unallocated      nobody has asked for the GPU
    warm standby     it holds a version that answers nobody, so that a failover need not wait for it
    allocated idle   somebody has it, and it computes nothing

Idle money is (1 - busy) × allocated (the reference, section 6). Without a measured utilisation what
is allocated cannot be told apart, and is one amount: exporters that are not there report 0 for it
(OpenCost, pkg/costmodel/allocation.go), so that 0 has to be said on purpose.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

from mlplatform.core.errors import UsageError

ZERO = Decimal(0)


@dataclass(frozen=True, slots=True)
class Nodes:
    """GPU nodes of one kind, over a time. None: unknown."""

    name: str
    cost: Decimal | None
    gpus: Decimal
    """GPU-hours there were."""
    allocated: Decimal | None
    """GPU-hours asked for, warm standby among them."""
    warm: Decimal | None
    """GPU-hours held by versions that served nobody."""
    utilisation: Decimal | None
    """How busy the others were, 0 to 1."""
    busy: Decimal | None = None
    """GPU-hours that they were busy, in place of that."""

    @property
    def measured(self) -> bool:
        """Whether it is known how busy they were."""
        return self.utilisation is not None or self.busy is not None


@dataclass(frozen=True, slots=True)
class Parts:
    """Money or GPU-hours. The parts that are known, and `unsplit`, are all of it."""

    unallocated: Decimal | None
    warm_standby: Decimal | None
    allocated_idle: Decimal | None
    busy: Decimal | None
    unsplit: Decimal
    """What cannot be told apart."""

    def __add__(self, other: Parts) -> Parts:
        return Parts(
            _known(self.unallocated, other.unallocated),
            _known(self.warm_standby, other.warm_standby),
            _known(self.allocated_idle, other.allocated_idle),
            _known(self.busy, other.busy),
            self.unsplit + other.unsplit,
        )


@dataclass(frozen=True, slots=True)
class Split:
    """What some nodes cost, and where it went."""

    name: str
    cost: Decimal | None
    gpus: Decimal
    """GPU-hours there were."""
    money: Parts | None
    """None: what they cost is unknown."""
    hours: Parts
    unknown: tuple[str, ...]
    """What would have to be known to split the rest."""
    priced_by: str = ""
    """Where the cost is from: `bill`, the source of a list price, or why there is none."""


def split(nodes: Nodes) -> Split:
    """Split the cost of nodes. `UsageError` where its figures contradict each other."""
    _check(nodes)
    unknown = [
        name
        for name, value in (("allocated", nodes.allocated), ("warm", nodes.warm))
        if value is None
    ][:1]
    if not nodes.measured and (unknown or nodes.allocated != nodes.warm):
        unknown.append("utilisation")
    return Split(
        nodes.name,
        nodes.cost,
        nodes.gpus,
        None if nodes.cost is None else _parts(nodes, nodes.cost),
        _parts(nodes, nodes.gpus),
        tuple(unknown),
    )


def together(splits: Sequence[Split]) -> Split:
    """Nodes of one kind at different times, of which different things are known. If the cost of
    some is unknown, it is of all."""
    first, *others = splits
    found = first
    for each in others:
        found = replace(
            found,
            cost=None if found.cost is None or each.cost is None else found.cost + each.cost,
            gpus=found.gpus + each.gpus,
            money=None if found.money is None or each.money is None else found.money + each.money,
            hours=found.hours + each.hours,
            unknown=tuple(dict.fromkeys((*found.unknown, *each.unknown))),
        )
    return found


def _parts(nodes: Nodes, whole: Decimal) -> Parts:
    """`whole` is for all GPU-hours."""

    def part(hours: Decimal) -> Decimal:
        return whole * hours / nodes.gpus

    if nodes.allocated is None:
        return Parts(None, None, None, None, whole)
    unallocated = part(nodes.gpus - nodes.allocated)
    held = whole - unallocated
    if nodes.warm is None:
        return Parts(unallocated, None, None, None, held)
    warm = part(nodes.warm)
    serving = held - warm
    if not nodes.measured and nodes.allocated != nodes.warm:
        return Parts(unallocated, warm, None, None, serving)
    busy = serving * (nodes.utilisation or ZERO) if nodes.busy is None else part(nodes.busy)
    return Parts(unallocated, warm, serving - busy, busy, ZERO)


def _known(one: Decimal | None, other: Decimal | None) -> Decimal | None:
    """The sum of what is known; None where nothing is."""
    return one if other is None else other if one is None else one + other


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
