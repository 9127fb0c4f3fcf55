"""`mlplatform cost waste`: what costs and serves nobody."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlplatform.cli import options
from mlplatform.cli.commands.bills import office_of
from mlplatform.cli.commands.replication import replicas_of
from mlplatform.cli.costs import open_pricing
from mlplatform.cli.frame import command
from mlplatform.cli.render import Column, Output
from mlplatform.cli.session import Session

if TYPE_CHECKING:
    from mlplatform.core.money import Pricing
    from mlplatform.core.topology import Topology
    from mlplatform.cost.waste.findings import Finding

BILL, CLOUD, GRID, GPUS = SOURCES = ("bill", "cloud", "grid", "gpus")


@dataclass(slots=True)
class _Looked:
    """What was found, and what could not be looked at."""

    findings: list[Finding] = field(default_factory=list)
    unread: dict[str, list[str]] = field(default_factory=dict)
    """By source."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Sources that are not configured, and the key that would be."""

    def cannot(self, source: str, why: str) -> None:
        self.unread.setdefault(source, []).append(why)


@command
def waste(
    session: Session,
    *,
    source: Annotated[
        list[str] | None,
        typer.Option(
            "--source",
            metavar="SOURCE",
            help="Only there: bill, cloud, grid or gpus; repeat it, or use commas.",
        ),
    ] = None,
    region_timeout: options.RegionTimeout = 10.0,
) -> int:
    """Find what costs and serves nobody, with what it costs a month.

    Looked at are the ledger of bills, the accounts of `cost.inventory` by their read APIs, the
    platform's own grid and stores, and the GPUs that Prometheus knows. Each finding says why, what
    was read, and what a person could type. Nothing is removed here, ever. It is a report: the exit
    code is 0 whatever it finds, and what could not be read is told.

    $ mlplatform cost waste
    $ mlplatform cost waste --source cloud,gpus --output json
    """
    from mlplatform.core.errors import UsageError
    from mlplatform.cost.waste.findings import merged, totals

    named = options.split(source) or list(SOURCES)
    for name in named:
        if name not in SOURCES:
            raise UsageError(f"--source {name}: no such source", hint=f"of {', '.join(SOURCES)}")
    topology = session.topology()
    pricing = open_pricing(topology)
    looked = _Looked()
    if CLOUD in named:
        _look_at_clouds(topology, pricing, looked)
    if GRID in named:
        _look_at_grid(session, topology, pricing, looked, region_timeout)
    if GPUS in named:
        _look_at_gpus(topology, pricing, looked)
    if BILL in named:
        _look_at_bill(session, looked)
    findings = merged(looked.findings)
    sums, unknown = totals(findings)
    _show(session, findings, looked, sums, unknown)
    return 0


def _look_at_clouds(topology: Topology, pricing: Pricing, looked: _Looked) -> None:
    from mlplatform import wiring
    from mlplatform.core.seen import Unknown
    from mlplatform.cost.waste.findings import of_inventory

    inventories = wiring.open_inventories(topology)
    if not inventories:
        looked.skipped[CLOUD] = "cost.inventory"
    now = datetime.now(UTC)
    for inventory in inventories:
        for held in inventory.held(now).values():
            if isinstance(held, Unknown):
                looked.cannot(CLOUD, held.reason)
                continue
            looked.findings += of_inventory(held, inventory.zone, pricing, now)
            looked.unread.setdefault(CLOUD, []).extend(
                f"{each.id}: {each.requests.reason}"
                for each in held
                if isinstance(each.requests, Unknown)
            )


def _look_at_grid(
    session: Session, topology: Topology, pricing: Pricing, looked: _Looked, seconds: float
) -> None:
    from mlplatform import wiring
    from mlplatform.cli.grid import looking_at_traffic
    from mlplatform.core.seen import Unknown
    from mlplatform.cost.waste.findings import (
        UPLOAD_DAYS,
        Routes,
        Upload,
        of_grid,
        of_uploads,
    )
    from mlplatform.replication import operations

    with replicas_of(session, region_timeout=seconds) as replicas:
        grid = replicas.catalogue.grid(None)
        serving = looking_at_traffic(topology, replicas.stop, seconds)(grid)
        fates, unreadable = operations.find_waste(replicas, [], timedelta(days=UPLOAD_DAYS))
        now = replicas.clock.now()
    for reason in dict.fromkeys([*grid.unreadable.values(), *unreadable.values()]):
        looked.cannot(GRID, reason)
    routes = Routes(seen=serving is not None)
    if serving is not None:
        unknown = {
            (region, model): offered.reason
            for region, models in serving.standbys.items()
            for model, offered in models.items()
            if isinstance(offered, Unknown)
        }
        for reason in dict.fromkeys(unknown.values()):
            looked.cannot(GRID, reason)
        routes = Routes(seen=True, unknown=frozenset(unknown))
        grid = serving.grid
    removal = {region.name: wiring.removal_of(region.store) for region in topology.regions.values()}
    looked.findings += of_grid(grid, topology, routes, pricing, removal)
    uploads = [
        Upload(each.region, each.key, each.id, each.started, each.size_bytes, fate.detail)
        for each, fate in fates.items()
        if each.started is not None
    ]
    looked.findings += of_uploads(uploads, pricing, now)


def _look_at_gpus(topology: Topology, pricing: Pricing, looked: _Looked) -> None:
    from mlplatform import wiring
    from mlplatform.core.seen import Unknown
    from mlplatform.cost.cost_analyzer import regions_of
    from mlplatform.cost.gpus.hours import naming_of
    from mlplatform.cost.gpus.readings import Asker
    from mlplatform.cost.waste.findings import of_gpus
    from mlplatform.cost.waste.gpus import read_loads

    history = wiring.open_history(topology)
    if history is None:
        looked.skipped[GPUS] = "prometheus.url"
        return
    naming = naming_of(topology, regions_of(topology))
    asker = Asker(history, topology.cost.gpus, naming.region_label)
    loads = read_loads(asker, naming, datetime.now(UTC).timestamp())
    if isinstance(loads, Unknown):
        looked.cannot(GPUS, loads.reason)
        return
    if not loads:
        looked.cannot(GPUS, f"{history.url}: no GPU was measured for a day")
    looked.findings += of_gpus(loads, pricing)


def _look_at_bill(session: Session, looked: _Looked) -> None:
    """The bill's own findings; and what the bill says of what others have found."""
    from mlplatform.core.errors import MlplatformError
    from mlplatform.cost.waste.charges import Charges
    from mlplatform.cost.waste.findings import billed

    try:
        with office_of(session) as office:
            spender = office.spender()
            deliveries = office.ledger.current()
            charges = Charges(office.connection, office.at_hand, spender.regions, deliveries)
            if not deliveries:
                looked.skipped[BILL] = "cost.exports, then `mlplatform cost import`"
                return
            if not charges.keeps_resources:
                looked.skipped[BILL] = "cost.resources: true, then `mlplatform cost import`"
                return
            costs = charges.costs(each.object for each in looked.findings)
            looked.findings = [*billed(looked.findings, costs), *charges.findings()]
    except MlplatformError as error:
        looked.cannot(BILL, str(error))


def _show(
    session: Session,
    findings: Sequence[Finding],
    looked: _Looked,
    sums: dict[str, Any],
    unknown: int,
) -> None:
    from mlplatform.cli.commands.bills import masked
    from mlplatform.core.money import Amount, exact

    rows = [{**each.as_row(), "object": masked(each.object)} for each in findings]
    shown = [{**row, "cost": _cost(each)} for row, each in zip(rows, findings, strict=True)]
    unread = {source: why for source, why in looked.unread.items() if why}
    is_table = session.output is Output.TABLE
    session.show(
        "findings",
        shown if is_table else rows,
        columns=[
            Column("kind"),
            Column("object"),
            Column("where"),
            Column("cost", "A MONTH", right=True),
            Column("why"),
            Column("command", "A PERSON COULD RUN"),
        ],
        **(
            {}
            if session.output is Output.CSV
            else {
                "monthly": {code: exact(value) for code, value in sums.items()},
                "cost_unknown": unknown,
                "unread": unread,
                "skipped": looked.skipped,
            }
        ),
    )
    if is_table and rows:
        total = " + ".join(str(Amount(value, code)) for code, value in sums.items()) or "unknown"
        left = f"; {unknown} of {len(rows)} of unknown cost are left out" if unknown else ""
        session.console.data(f"Total {total} a month{left}\n")
        session.say("nothing was removed; --output json has the evidence of each")
    elif not rows:
        session.say("nothing was found that costs and serves nobody")
    for source, key in looked.skipped.items():
        session.say(f"not looked at: {source}: not configured; set {key}")
    for source, reasons in unread.items():
        for reason in reasons:
            session.console.warn(f"not read: {source}: {reason}")


def _cost(finding: Finding) -> str:
    from mlplatform.core.money import Amount

    if not isinstance(finding.monthly, Amount):
        return "unknown"
    return f"{'≤ ' if finding.at_most else ''}{finding.monthly}"
