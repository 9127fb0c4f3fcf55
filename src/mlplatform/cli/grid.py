"""The product in one picture: model versions by regions, and how far each has climbed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from mlplatform.cli.costs import tell_left_out
from mlplatform.cli.errors import UNREADABLE_HINT
from mlplatform.cli.render import NO_BREAK, Column, Output, ago
from mlplatform.cli.session import Session
from mlplatform.core.placement import Grid, Integrity, ModelVersion, Placement, Rung
from mlplatform.core.seen import Unknown
from mlplatform.core.topology import Topology

if TYPE_CHECKING:
    from mlplatform.core.money import Cost, Item, Pricing
    from mlplatform.failover.operations import Serving


def looking_at_traffic(
    topology: Topology, stop: Callable[[], bool], timeout_seconds: float | None
) -> Callable[[Grid], Serving | None]:
    """What adds to a grid who serves what; nothing where the topology has no routes."""
    if not topology.traffic.routes:
        return lambda grid: None
    from dataclasses import replace
    from functools import partial

    from mlplatform.failover.failover_controller import open_estate
    from mlplatform.failover.operations import serving

    estate = replace(open_estate(topology, stop=stop), timeout_seconds=timeout_seconds)
    return partial(serving, estate)


def show_grid(
    session: Session,
    grid: Grid,
    topology: Topology,
    now: datetime,
    *,
    serving: Serving | None = None,
    pricing: Pricing | None = None,
    clear: bool = False,
) -> int:
    """A row a version, a column a region; programs get one row a placement. Exit 5 when a region,
    or a route's weights, could not be read."""
    told: dict[str, Any] = {}
    unreadable = list(grid.unreadable.values())
    if serving is not None:
        grid = serving.grid
        unknown = [
            (route, state) for route, state in serving.states.items() if isinstance(state, Unknown)
        ]
        unreadable += [f"{route}: its weights are unknown: {why.reason}" for route, why in unknown]
        told["health"] = {name: each.health.value for name, each in serving.verdicts.items()}
    placements = [_row(placement) for placement in grid]
    costs = {} if pricing is None else grid_costs(grid, pricing, serving)
    if pricing is not None:
        for placed, each in zip(placements, costs.values(), strict=True):
            placed["cost"] = each.as_json()
        told["cost"] = total_of(costs).as_json()
    if session.output is Output.TABLE:
        if clear and session.console.colour_out:
            session.console.data("\x1b[H\x1b[2J")
        regions = list(topology.regions)
        rows = []
        for subject in grid.subjects():
            row: dict[str, Any] = {"subject": str(subject)}
            for placement in grid.of(subject):
                row[placement.region] = cell(placement, now)
                if (cost := costs.get((subject, placement.region))) and cost.items:
                    row[placement.region] += f"\n{cost}"
            rows.append(row)
        columns = [Column("subject", "MODEL")]
        columns += [Column(region, region, style=_colour) for region in regions]
        session.show("grid", rows, columns=columns)
        for placement in grid:
            if placement.integrity is Integrity.MISMATCH:
                session.console.warn(
                    f"{placement.subject} in {placement.region}: {placement.detail}"
                )
        if pricing is not None and rows:
            whole = total_of(costs)
            session.console.data(f"Total by list prices: {whole}\n")
            tell_left_out(session, whole.left_out)
        if not rows:
            session.say("no model is published, and the topology names none")
    else:
        session.show("placements", placements, columns=[], unreadable=dict(grid.unreadable), **told)
    if serving is not None and topology.traffic.vantages:
        for verdict in serving.verdicts.values():
            if verdict.health.value != "healthy":
                because = "; ".join(verdict.because[:1])
                session.console.warn(f"{verdict.region} is {verdict.health.value}: {because}")
    for reason in unreadable:
        session.console.warn(reason)
    if unreadable:
        session.say(UNREADABLE_HINT, level="hint")
    return 5 if unreadable else 0


def grid_costs(
    grid: Grid, pricing: Pricing, serving: Serving | None
) -> dict[tuple[ModelVersion, str], Cost]:
    """By placement: what it costs a month. Bytes that are there are paid whether or not they are
    proven; servers belong to the version that they hold."""
    from mlplatform.core.money import Cost

    found = {}
    for placement in grid:
        items = [*_storage(placement, pricing), *_servers(placement, pricing, serving)]
        found[placement.subject, placement.region] = Cost(tuple(items))
    return found


def total_of(costs: Mapping[tuple[ModelVersion, str], Cost]) -> Cost:
    """What all placements cost together."""
    from mlplatform.core.money import Cost

    return sum(costs.values(), Cost())


def _storage(placement: Placement, pricing: Pricing) -> Iterator[Item]:
    from mlplatform.core.money import Basis, Item

    subject, region = placement.subject, placement.region
    if isinstance(placement.rung, Unknown):
        why = Unknown(f"{subject} in {region}: {placement.rung.reason}")
        yield Item(f"storage in {region}", Basis.MONTHLY, why)
    elif placement.size_bytes is not None:
        yield pricing.storage(region, placement.size_bytes)
    elif placement.integrity is not Integrity.ABSENT:
        why = Unknown(f"{subject} in {region}: nobody knows how many bytes are there")
        yield Item(f"storage in {region}", Basis.MONTHLY, why)


def _servers(placement: Placement, pricing: Pricing, serving: Serving | None) -> Iterator[Item]:
    from mlplatform.core.money import Basis, Item

    model, region = placement.subject.model, placement.region
    if serving is None:
        return
    offered = serving.standbys.get(region, {}).get(model)
    if isinstance(offered, Unknown):
        if placement.wanted:
            yield Item(f"servers of {model} in {region}", Basis.MONTHLY, offered)
    elif offered is not None and offered.version == placement.subject.version:
        if isinstance(offered.servers, Unknown):
            yield Item(f"servers of {model} in {region}", Basis.MONTHLY, offered.servers)
        elif offered.servers:
            yield pricing.servers(region, model, offered.servers)


def cell(placement: Placement, now: datetime) -> str:
    """A placement in a few words: rung, what is known of its bytes, since when."""
    if isinstance(placement.rung, Unknown):
        return "unknown"
    words = {
        Integrity.VERIFIED: placement.rung.name,
        Integrity.PARTIAL: "partial",
        Integrity.MISMATCH: "MISMATCH",
        Integrity.UNKNOWN: "unproven",
        Integrity.ABSENT: "absent" if placement.wanted else "-",
    }[placement.integrity]
    if placement.shares:
        shares = [NO_BREAK.join((route, str(share), "%")) for route, share in placement.shares]
        words += f" {', '.join(shares)},"
    if placement.integrity is Integrity.VERIFIED and placement.verified_at:
        words += f" verified {ago((now - placement.verified_at).total_seconds())}"
    if placement.withdrawn:
        words += ", withdrawn"
    if not placement.wanted and placement.integrity is not Integrity.ABSENT:
        words += f", not{NO_BREAK}wanted"
    return words


def _row(placement: Placement) -> dict[str, Any]:
    unknown = isinstance(placement.rung, Unknown)
    return {
        "model": placement.subject.model,
        "version": placement.subject.version,
        "region": placement.region,
        "rung": "UNKNOWN" if isinstance(placement.rung, Unknown) else placement.rung.name,
        "verified": None if unknown else placement.integrity is Integrity.VERIFIED,
        "integrity": placement.integrity.value,
        "digest": placement.digest,
        "size_bytes": placement.size_bytes,
        "stored_at": placement.stored_at,
        "verified_at": placement.verified_at,
        "wanted": placement.wanted,
        "withdrawn": placement.withdrawn,
        "shares": dict(placement.shares),
        "detail": placement.detail,
    }


def _colour(text: object) -> str | None:
    words = str(text)
    if words.startswith(tuple(rung.name for rung in Rung if rung > Rung.ABSENT)):
        return "green"
    if words.startswith(("MISMATCH", "absent")):
        return "red"
    return "yellow" if words.startswith(("unknown", "partial", "unproven")) else None
