"""What costs and serves nobody: the rules, pure. They propose; nothing here or below deletes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any

from mlplatform.core.money import HOURS_A_MONTH, Amount, Pricing, exact
from mlplatform.core.placement import Grid, Integrity, Placement, Rung
from mlplatform.core.seen import Unknown
from mlplatform.core.topology import Topology
from mlplatform.ports.inventory import Held, Kind

SNAPSHOT_DAYS = 90
UPLOAD_DAYS = 7
"""A transfer that was killed goes on from what its target holds; after a week nobody goes on."""
BUSY_RATIO = 0.05
"""A GPU that is busy for less of the time than this is idle."""


class Waste(StrEnum):
    """Kinds of findings."""

    VOLUME = "unattached volume"
    ADDRESS = "unused address"
    LOAD_BALANCER = "idle load balancer"
    SNAPSHOT = "old snapshot"
    UPLOAD = "unfinished upload"
    REPLICA = "unserved replica"
    GPU = "idle GPU node"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that costs and serves nobody."""

    kind: Waste
    object: str
    where: str
    """Region or zone."""
    why: str
    monthly: Amount | Unknown
    priced_by: str = ""
    """`bill`, or the source of a list price."""
    at_most: bool = False
    """Whether it may cost less: what is billed of a snapshot is what changed."""
    evidence: tuple[str, ...] = ()
    """What was read, so that anyone can read it again. Reading changes nothing."""
    command: str = ""
    """What a person could run."""
    since: datetime | None = None

    def as_row(self) -> dict[str, Any]:
        """For programs."""
        known = self.monthly if isinstance(self.monthly, Amount) else None
        return {
            "kind": self.kind.value,
            "object": self.object,
            "where": self.where,
            "why": self.why,
            "monthly": exact(known.value) if known else None,
            "currency": known.currency if known else None,
            "unknown": self.monthly.reason if isinstance(self.monthly, Unknown) else None,
            "at_most": self.at_most,
            "priced_by": self.priced_by,
            "since": self.since,
            "evidence": list(self.evidence),
            "command": self.command,
        }


_KINDS = {
    Kind.VOLUME: Waste.VOLUME,
    Kind.ADDRESS: Waste.ADDRESS,
    Kind.LOAD_BALANCER: Waste.LOAD_BALANCER,
    Kind.SNAPSHOT: Waste.SNAPSHOT,
    Kind.UPLOAD: Waste.UPLOAD,
}


def of_inventory(
    held: Iterable[Held], zone: str, pricing: Pricing, now: datetime
) -> Iterator[Finding]:
    """What of an account's holdings is there for nothing."""
    for each in held:
        why = why_unused(each, now)
        if why is None:
            continue
        price = _list_price(each, zone, pricing)
        yield Finding(
            kind=_KINDS[each.kind],
            object=each.id,
            where=zone.rpartition("/")[2],
            why=why,
            monthly=price[0],
            priced_by=price[1],
            at_most=each.kind is Kind.SNAPSHOT,
            evidence=(each.evidence,),
            command=each.removal,
            since=each.created,
        )


def why_unused(each: Held, now: datetime) -> str | None:
    """Why it is waste; None if it is not, or if that cannot be told."""
    if each.kind is Kind.VOLUME:
        return None if each.used_by else "attached to nothing"
    if each.kind is Kind.ADDRESS:
        return None if each.used_by else "associated with nothing"
    if each.kind is Kind.LOAD_BALANCER:
        return _why_idle(each)
    if each.created is None:
        return None
    days = (now - each.created) // timedelta(days=1)
    if each.kind is Kind.SNAPSHOT:
        if each.used_by or days < SNAPSHOT_DAYS:
            return None
        return f"{days} days old, and no image is made of it"
    return f"begun {days} days ago and never completed" if days >= UPLOAD_DAYS else None


def _why_idle(each: Held) -> str | None:
    if not each.used_by and not each.unwell:
        return "no target is registered"
    if not each.used_by:
        return f"none of its {len(each.unwell)} targets is healthy"
    if isinstance(each.requests, int | float) and each.requests == 0:
        return "no request came in 14 days"
    return None


def _list_price(each: Held, zone: str, pricing: Pricing) -> tuple[Amount | Unknown, str]:
    if each.kind in (Kind.VOLUME, Kind.SNAPSHOT, Kind.UPLOAD):
        if each.size_bytes is None:
            return Unknown(f"{each.id}: its size is not known"), ""
        sku = "storage" if each.kind is Kind.UPLOAD else each.kind.value
        quantity = Decimal(each.size_bytes)
    else:
        sku, quantity = each.kind.value, HOURS_A_MONTH
    if each.kind in (Kind.VOLUME, Kind.LOAD_BALANCER) and each.type:
        sku = f"{sku}/{each.type}"
    price = pricing.prices.find(zone, sku, pricing.day)
    if isinstance(price, Unknown):
        return price, ""
    return price.of(quantity), price.source


@dataclass(frozen=True, slots=True)
class Load:
    """How busy the GPUs of one node were, over a day, as monitoring says."""

    node: str
    region: str | None
    products: tuple[str, ...]
    """One for each GPU; empty text where monitoring does not name it."""
    busy_ratio: float
    """The mean of its GPUs, 0 to 1."""
    evidence: str = ""
    standby: bool | None = False
    """Whether it waits for a failover; None: nobody can say."""


def of_gpus(loads: Iterable[Load], pricing: Pricing) -> Iterator[Finding]:
    """Nodes whose GPUs do next to nothing. One that is not measured is not idle, and one that
    stands by for a failover is idle on purpose."""
    for load in loads:
        if load.standby or not load.busy_ratio < BUSY_RATIO:
            continue
        doubt = "; nobody can say whether it stands by for a failover"
        monthly, source = _price_of_gpus(load, pricing)
        count = len(load.products)
        yield Finding(
            kind=Waste.GPU,
            object=load.node,
            where=load.region or "(no region)",
            why=f"its {count} GPU{'s' * (count != 1)} were busy for {100 * load.busy_ratio:.1f} % "
            f"of the last day{doubt if load.standby is None else ''}",
            monthly=monthly,
            priced_by=source,
            evidence=(load.evidence,),
            command=""
            if load.standby is None
            else f"kubectl drain {load.node} --ignore-daemonsets, and let its pool shrink",
        )


def _price_of_gpus(load: Load, pricing: Pricing) -> tuple[Amount | Unknown, str]:
    if load.region is None:
        return Unknown(f"{load.node}: monitoring does not say its region"), ""
    zone = pricing.zone(load.region)
    if isinstance(zone, Unknown):
        return zone, ""
    total: Amount | None = None
    source = ""
    for product in load.products:
        price = pricing.prices.find(zone, f"gpu/{product or '(unnamed)'}", pricing.day)
        if isinstance(price, Unknown):
            return price, ""
        each = price.of(HOURS_A_MONTH)
        if total is not None and total.currency != each.currency:
            return Unknown(f"{load.node}: GPUs priced in two currencies"), ""
        total = Amount((total.value if total else Decimal(0)) + each.value, each.currency)
        source = price.source
    return (total, source) if total else (Unknown(f"{load.node}: no GPU is named"), "")


@dataclass(frozen=True, slots=True)
class Upload:
    """An unfinished upload in one of the platform's own stores."""

    region: str
    key: str
    id: str
    started: datetime
    size_bytes: int | None
    kept: str = ""
    """Why `mlplatform clean` leaves it alone; empty: it would drop it."""


def of_uploads(uploads: Iterable[Upload], pricing: Pricing, now: datetime) -> Iterator[Finding]:
    """What is left in the platform's stores of uploads that nobody goes on with."""
    for each in uploads:
        days = (now - each.started) // timedelta(days=1)
        if days < UPLOAD_DAYS or each.kept:
            continue
        monthly: Amount | Unknown = Unknown(f"{each.key}: its size is not known")
        source = ""
        if each.size_bytes is not None:
            item = pricing.storage(each.region, each.size_bytes)
            monthly, source = item.amount, item.prices[0].source if item.prices else ""
        yield Finding(
            kind=Waste.UPLOAD,
            object=f"{each.key} ({each.id})",
            where=each.region,
            why=f"begun {days} days ago and never completed",
            monthly=monthly,
            priced_by=source,
            evidence=(f"the unfinished uploads of the store of {each.region}",),
            command=f"mlplatform clean --region {each.region}",
            since=each.started,
        )


@dataclass(frozen=True, slots=True)
class Routes:
    """What is known of who serves what."""

    seen: bool
    """Whether servers were asked at all; else nobody can say that a replica is unserved."""
    unknown: frozenset[tuple[str, str]] = frozenset()
    """Regions and models whose servers could not be asked."""


def of_grid(
    grid: Grid,
    topology: Topology,
    routes: Routes,
    pricing: Pricing,
    removal: Mapping[str, str],
) -> Iterator[Finding]:
    """Replicas that nobody serves and nobody asks for. `removal`: by region, how a person removes
    what lies below a version's key, with `{prefix}` in it.

    The last verified copy of a version is never proposed, nor one where it cannot be seen whether
    servers hold it. A copy that the topology wants is a standby, not waste, unless all routes of
    its model pass its region by.
    """
    for placement in grid:
        why = _why_unserved(placement, topology, routes)
        if why is None or not _has_another_copy(placement, grid):
            continue
        subject, region = placement.subject, placement.region
        monthly: Amount | Unknown = Unknown(f"{subject} in {region}: its size is not known")
        source = ""
        if placement.size_bytes is not None:
            item = pricing.storage(region, placement.size_bytes)
            monthly, source = item.amount, item.prices[0].source if item.prices else ""
        yield Finding(
            kind=Waste.REPLICA,
            object=str(subject),
            where=region,
            why=why,
            monthly=monthly,
            priced_by=source,
            evidence=(f"mlplatform status {subject}",),
            command=removal.get(region, "").replace("{prefix}", subject.prefix),
            since=placement.stored_at,
        )


def _why_unserved(placement: Placement, topology: Topology, routes: Routes) -> str | None:
    subject, region = placement.subject, placement.region
    if isinstance(placement.rung, Unknown) or placement.rung > Rung.STORED:
        return None
    if placement.integrity is Integrity.ABSENT or placement.shares:
        return None
    carrying = [
        route for route in topology.traffic.routes.values() if subject.model in route.models
    ]
    if not placement.wanted:
        if carrying and (not routes.seen or (region, subject.model) in routes.unknown):
            return None
        return "the topology does not ask for it, and no server there holds it"
    if not carrying or not routes.seen or (region, subject.model) in routes.unknown:
        return None
    section = topology.models.get(subject.model)
    if section is not None and section.home == region:
        return None
    if any(region in route.weights or region in route.targets for route in carrying):
        return None
    return "wanted there, but no route sends requests there and no server holds it"


def _has_another_copy(placement: Placement, grid: Grid) -> bool:
    return any(
        other.region != placement.region and other.integrity is Integrity.VERIFIED
        for other in grid.of(placement.subject)
    )


def billed(findings: Iterable[Finding], costs: Mapping[str, Sequence[Amount]]) -> Iterator[Finding]:
    """The findings, with what the bill says of an object instead of a list price. `costs`: by the
    last part of a resource's name, what it costs a month."""
    for finding in findings:
        found = costs.get(last_part(finding.object), ())
        if len(found) == 1 and finding.priced_by != "bill":
            yield replace(finding, monthly=found[0], priced_by="bill", at_most=False)
        else:
            yield finding


def merged(findings: Iterable[Finding]) -> list[Finding]:
    """Each object once, the dearest first and those of unknown cost last. What two sources say of
    one object is put together."""
    found: dict[tuple[Waste, str, str], Finding] = {}
    for finding in findings:
        # Names of the platform's own repeat from region to region; those of clouds are unique, and
        # bills call regions otherwise.
        own = finding.kind in {Waste.REPLICA, Waste.GPU} or finding.command.startswith("mlplatform")
        key = (finding.kind, last_part(finding.object), finding.where if own else "")
        before = found.get(key)
        if before is None:
            found[key] = finding
            continue
        better = before if isinstance(before.monthly, Amount) else finding
        found[key] = replace(
            before,
            monthly=better.monthly,
            priced_by=better.priced_by,
            at_most=better.at_most,
            evidence=tuple(dict.fromkeys((*before.evidence, *finding.evidence))),
            command=before.command or finding.command,
            since=before.since or finding.since,
        )
    return sorted(found.values(), key=_order)


def _order(finding: Finding) -> tuple[bool, Decimal, str, str]:
    known = isinstance(finding.monthly, Amount)
    value = finding.monthly.value if isinstance(finding.monthly, Amount) else Decimal(0)
    return (not known, -value, finding.kind.value, finding.object)


def last_part(name: str) -> str:
    """The name of a resource without its path: `vol-1` of `arn:aws:ec2:eu-west-1:1:volume/vol-1`,
    as some bills have it."""
    return name.rpartition("/")[2] if name.startswith("arn:") else name


def totals(findings: Iterable[Finding]) -> tuple[dict[str, Decimal], int]:
    """By currency what it comes to a month, and of how many nobody knows."""
    sums: dict[str, Decimal] = {}
    unknown = 0
    for finding in findings:
        if isinstance(finding.monthly, Amount):
            code = finding.monthly.currency
            sums[code] = sums.get(code, Decimal(0)) + finding.monthly.value
        else:
            unknown += 1
    return sums, unknown
