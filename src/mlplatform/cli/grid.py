"""The product in one picture: model versions by regions, and how far each has climbed."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any

from mlplatform.cli.errors import UNREADABLE_HINT
from mlplatform.cli.render import NO_BREAK, Column, Output, ago
from mlplatform.cli.session import Session
from mlplatform.core.placement import Grid, Integrity, Placement, Rung
from mlplatform.core.seen import Unknown
from mlplatform.core.topology import Topology

if TYPE_CHECKING:
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
    if session.output is Output.TABLE:
        if clear and session.console.colour_out:
            session.console.data("\x1b[H\x1b[2J")
        regions = list(topology.regions)
        rows = []
        for subject in grid.subjects():
            row: dict[str, Any] = {"subject": str(subject)}
            for placement in grid.of(subject):
                row[placement.region] = cell(placement, now)
            rows.append(row)
        columns = [Column("subject", "MODEL")]
        columns += [Column(region, region, style=_colour) for region in regions]
        session.show("grid", rows, columns=columns)
        for placement in grid:
            if placement.integrity is Integrity.MISMATCH:
                session.console.warn(
                    f"{placement.subject} in {placement.region}: {placement.detail}"
                )
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
