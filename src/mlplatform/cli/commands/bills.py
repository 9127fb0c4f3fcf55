"""`mlplatform cost import` and `mlplatform cost report`: what was delivered, and what it says."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlplatform.cli import options
from mlplatform.cli.frame import command
from mlplatform.cli.render import Column, Output
from mlplatform.cli.session import Session

if TYPE_CHECKING:
    from mlplatform.cost.cost_analyzer import Office
    from mlplatform.cost.cube import Measure
    from mlplatform.cost.importing import Imported, Outcome
    from mlplatform.cost.ledger import Delivery
    from mlplatform.cost.report.content import Incident
    from mlplatform.cost.spending import Spender, Spending

By = Annotated[
    list[str] | None,
    typer.Option(
        "--by",
        metavar="DIMENSION",
        help="region, service, provider, account, sku, resource, day, …, or a tag of `cost.tags` "
        "(model, team); repeat it, or use commas.",
    ),
]
Days = Annotated[
    int,
    typer.Option(
        "--days", metavar="N", min=1, max=3660, help="So many days, to the last with data."
    ),
]
Cost = Annotated[
    str,
    typer.Option(
        "--cost", metavar="COST", help="Which cost: effective, billed, contracted or list."
    ),
]
Limit = Annotated[
    int,
    typer.Option(
        "--limit", metavar="N", min=0, help="A table's rows at most; the rest is one. 0: all."
    ),
]
Reveal = Annotated[
    bool, typer.Option("--reveal", help="Show values of tags in full that look like secrets.")
]
Html = Annotated[
    Path | None,
    typer.Option(
        "--html",
        metavar="FILE",
        help="Also write a page to forward: charts and tables in one file, nothing is fetched.",
    ),
]
Memory = Annotated[
    int,
    typer.Option(
        "--memory", metavar="MIB", min=64, help="How much memory may be used for sorting."
    ),
]

_FINDINGS_SHOWN = 12
_DRAWN_FROM_DAYS = 2


@contextmanager
def office_of(session: Session, memory_mib: int | None = None) -> Iterator[Office]:
    """Cost over the topology that the operator means."""
    from mlplatform.cost.cost_analyzer import open_office
    from mlplatform.cost.engine import MEMORY_MIB

    with open_office(session.topology(), memory_mib=memory_mib or MEMORY_MIB) as office:
        yield office


def measure_of(cost: str) -> Measure:
    """The cost of `--cost`. `UsageError` names those that there are."""
    from mlplatform.core.errors import UsageError
    from mlplatform.cost.cube import Measure

    if cost not in set(Measure):
        raise UsageError(f"--cost {cost}: no such cost", hint=f"one of {', '.join(Measure)}")
    return Measure(cost)


@command
def import_bills(
    session: Session,
    places: Annotated[
        list[str] | None,
        typer.Argument(metavar="[PATH|URL]...", help="Files or folders; else `cost.exports`."),
    ] = None,
    *,
    memory: Memory = 1024,
    yes: options.Yes = False,
) -> int:
    """Bring the bills that were delivered since into the ledger.

    The shape of a file is recognised by its columns: FOCUS 1.0 to 1.4, AWS CUR 2.0, Google's
    BigQuery export, Azure's actual and amortised costs, answers of OpenCost and of AWS Cost
    Explorer; CSV (also gzip), Parquet or JSON. A billing period is replaced whole, earlier
    deliveries are kept, and what changed is told. Lines that cannot be read, and rows that break a
    rule of FOCUS, are told and cost only themselves.

    OpenCost and Cost Explorer can also be asked. What that costs is said first, and needs `--yes`
    or an answer.

    $ mlplatform cost import
    $ mlplatform cost import bills/2026-10.csv.gz s3://billing/focus/
    $ mlplatform cost import 'cost-explorer://?profile=billing&months=3' --yes
    $ mlplatform cost import opencost+https://opencost.example.com
    """
    from mlplatform.cli.commands.billing_apis import sources_of

    with office_of(session, memory) as office:
        sources = sources_of(session, office, places or [], yes=yes)
        with session.working() as work:
            outcome = office.importer(say=session.say, stop=work.stop).run(sources)
    _tell(session, outcome)
    rows = [_row(each) for each in outcome.imported]
    session.show(
        "deliveries",
        rows,
        columns=[
            Column("bill"),
            Column("period"),
            Column("part", optional=True),
            Column("shape"),
            Column("delivery", right=True),
            Column("charges", right=True),
            Column("billed", show=_listed, right=True),
            Column("changed", show=_listed, right=True),
            Column("days_changed", "DAYS CHANGED", right=True),
            Column("broken_rules", "RULES BROKEN", right=True),
            Column("left_out", "LINES LEFT OUT", right=True),
        ],
        unchanged_files=outcome.unchanged_files,
        duplicates=[{"file": one, "same_as": other} for one, other in outcome.duplicates],
        errors=[{"place": place, "error": str(error)} for place, error in outcome.errors],
    )
    if not rows and not outcome.errors:
        session.say(f"nothing new: {outcome.unchanged_files} files as they were")
    return max((error.exit_code for _, error in outcome.errors), default=0)


def _tell(session: Session, outcome: Outcome) -> None:
    for one, other in outcome.duplicates:
        session.console.warn(f"{one}: the same bytes as {other}; taken once")
    for file, dataset in outcome.supporting:
        session.say(f"{file}: FOCUS's {dataset} dataset, which holds no charges")
    for period, times in outcome.several:
        session.console.warn(f"{period}: delivered {times} times; the last one stands")
    for imported in outcome.imported:
        if not imported.new:
            continue
        findings = imported.delivery.findings
        for finding in findings[:_FINDINGS_SHOWN]:
            where = f": {finding.rows:,} rows, first {', '.join(map(str, finding.first_rows))}"
            lost = "; left out" if finding.left_out else ""
            session.console.warn(f"{finding.said}{where if finding.rows else ''}{lost}")
        if (more := len(findings) - _FINDINGS_SHOWN) > 0:
            session.console.warn(f"and {more} more rules; --output json has them all")
    for place, error in outcome.errors:
        text = str(error) if place in str(error) else f"{place}: {error}"
        session.console.say(text, level="error")
        if error.hint:
            session.console.say(error.hint, level="hint")


def _row(imported: Imported) -> dict[str, Any]:
    from mlplatform.cost.cube import Measure
    from mlplatform.cost.readers.shape import WHOLE

    delivery = imported.delivery
    billed: dict[str, Decimal] = {}
    for day in delivery.days.values():
        for currency, totals in day.totals.items():
            billed[currency] = billed.get(currency, Decimal(0)) + totals.get(
                Measure.BILLED, Decimal(0)
            )
    changed: dict[str, Decimal] = {}
    for change in delivery.changes if imported.new and imported.before else ():
        if change.measure is Measure.BILLED:
            changed[change.currency] = (
                changed.get(change.currency, Decimal(0))
                + (change.after or Decimal(0))
                - (change.before or Decimal(0))
            )
    return {
        "bill": str(delivery.bill),
        "period": delivery.period,
        "part": "" if delivery.part == WHOLE else delivery.part,
        "shape": f"{delivery.shape} {delivery.focus_version or ''}".strip(),
        "delivery": delivery.number,
        "new": imported.new,
        "id": delivery.id,
        "charges": delivery.charges,
        "billed": [f"{money(amount)} {currency}" for currency, amount in billed.items()],
        "changed": [f"{amount:+,.2f} {currency}" for currency, amount in changed.items()],
        "days_changed": len(delivery.changed_days) if imported.new else 0,
        "changes": [each.model_dump(mode="json") for each in delivery.changes]
        if imported.new and imported.before
        else [],
        "broken_rules": len([each for each in delivery.findings if each.rows]),
        "left_out": sum(each.rows for each in delivery.findings if each.left_out),
        "findings": [each.model_dump(mode="json") for each in delivery.findings],
    }


@command
def report(
    session: Session,
    *,
    by: By = None,
    days: Days = 7,
    cost: Cost = "effective",
    limit: Limit = 40,
    reveal: Reveal = False,
    html: Html = None,
) -> int:
    """Show what was spent, by region or whatever bills tell, and how it adds up to the bill.

    The days end at the last one that the data covers; the heading says which. Charges without a
    region, service or tag are a row of their own. The last line reconciles the total to BilledCost.
    In a row's line of days a dot is a day without data, and days in brackets are provisional: the
    bill may still be restated. On the page are also the incidents of these days, as `cost
    anomalies` knows them; it judges what was imported since.

    $ mlplatform cost report --by region --days 7
    $ mlplatform cost report --by team,service --days 30 --cost billed --output csv
    $ mlplatform cost report --days 30 --html october.html
    """
    return show_report(session, by, days, cost, limit=limit, reveal=reveal, html=html)


def show_report(
    session: Session,
    by: Sequence[str] | None,
    days: int,
    cost: str,
    *,
    limit: int = 40,
    reveal: bool = False,
    html: Path | None = None,
) -> int:
    """Print a report, as `--output` says."""
    from mlplatform.cost.restatement.knowledge import days_between
    from mlplatform.cost.spending import Asked

    measure = measure_of(cost)
    names = tuple(options.split(by)) or ("region",)
    with office_of(session) as office:
        deliveries = office.deliveries()
        spender = office.spender()
        spending = spender.report(deliveries, Asked(names, days, measure))
        lines_of_days: list[str] = []
        provisional = frozenset[date]()
        if spending is not None:
            days_shown = days_between(spending.since, spending.until)
            provisional = office.provisional(deliveries) & frozenset(days_shown)
            if session.output is Output.TABLE:
                shown = len(spending.lines) if not limit else max(limit - 1, 1)
                lines_of_days = _lines_of_days(
                    spender, deliveries, spending, shown, provisional, names
                )
            if html is not None:
                names_of = _clean_names(session, reveal=reveal)
                incidents = _incidents(session, office, spending)
                _write_page(
                    session, html, spender, deliveries, spending, provisional, incidents, names_of
                )
    if spending is None:
        session.show("costs", [], columns=[], cost=cost)
        session.say("the ledger holds no charges", hint="mlplatform cost import")
        session.console.say("`mlplatform cost import` brings what was delivered", level="hint")
        return 0
    rows = _rows(spending, names, reveal=reveal)
    for row, line in zip(rows, lines_of_days, strict=False):
        row["by_day"] = line
    extra = _extra(spending)
    extra["provisional_days"] = sorted(day.isoformat() for day in provisional)
    heading = _heading(spending)
    if session.output is Output.TABLE:
        session.console.data(f"{heading}\n")
        rows = _fewer(rows, names, limit)
    else:
        rows = [row | {"cost": exact(row["cost"])} for row in rows]
    if session.output is Output.CSV:
        session.say(heading)
    session.show(
        "costs",
        rows,
        columns=[
            *(Column(name, show=lambda value: value or "(none)") for name in names),
            Column("cost", f"{cost.upper()} {spending.currency}", show=money, right=True),
            Column("share", show=_percent, right=True),
            Column("by_day", _per_slot(days), optional=True),
            Column("charges", right=True, show=lambda count: f"{count:,}"),
        ],
        **(extra if session.output is not Output.CSV else {}),
    )
    lines = [*([_provisional_told(provisional)] if provisional else []), *_last_lines(spending)]
    for line in lines if session.output is Output.TABLE else ():
        session.console.data(f"{session.console.clean(line)}\n")
    if session.output is Output.CSV:
        for line in lines:
            session.say(line)
    return 0


def _lines_of_days(
    spender: Spender,
    deliveries: Sequence[Delivery],
    spending: Spending,
    shown: int,
    provisional: frozenset[date],
    names: Sequence[str],
) -> list[str]:
    """The first rows, each day by day. Of one day, or by day, there is nothing to draw."""
    from mlplatform.cost.daily import costs_by_day
    from mlplatform.cost.report.sparkline import slots, sparkline

    if spending.asked.days < _DRAWN_FROM_DAYS or "day" in names:
        return []
    keys = [line.keys for line in spending.lines[:shown]]
    daily = costs_by_day(
        spender,
        deliveries,
        names,
        spending.since,
        spending.until,
        spending.asked.measure,
        only=keys,
    )
    not_final = provisional | daily.incomplete
    if not_final >= daily.covered:
        not_final = frozenset()  # brackets around all tell nothing apart; the line below says it
    return [sparkline(slots(daily.days, daily.rows.get(each, {}), not_final)) for each in keys]


def _per_slot(days: int) -> str:
    from mlplatform.cost.report.sparkline import days_a_slot

    size = days_a_slot(days)
    return "PER DAY" if size == 1 else f"PER {size} DAYS"


def _provisional_told(provisional: frozenset[date]) -> str:
    from mlplatform.cost.report.content import dates_told

    return f"Provisional, the bill may still be restated: {dates_told(sorted(provisional))}"


def _clean_names(session: Session, *, reveal: bool) -> Callable[[str], str]:
    """What names out of bills pass through before they stand on a page."""
    return lambda name: session.console.clean(name if reveal else masked(name))


def _incidents(session: Session, office: Office, spending: Spending) -> list[Incident] | None:
    from mlplatform.cli.commands.anomalies import incidents_of  # it is built on this module

    return incidents_of(session, office, spending)


def _write_page(
    session: Session,
    path: Path,
    spender: Spender,
    deliveries: Sequence[Delivery],
    spending: Spending,
    provisional: frozenset[date],
    incidents: Sequence[Incident] | None,
    clean: Callable[[str], str],
) -> None:
    from mlplatform.cli.page_file import write_page
    from mlplatform.cost.report.making import make_content
    from mlplatform.cost.report.page import page

    content = make_content(
        spender,
        deliveries,
        spending,
        datetime.now(UTC),
        provisional=provisional,
        incidents=incidents,
        clean=clean,
    )
    size = write_page(path, page(content))
    session.say(f"wrote {path}, {-(-size // 1000)} kB")


def exact(amount: Decimal) -> str:
    """An amount to its last digit, for programs: text, since a JSON number is a float to many."""
    text = f"{amount:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def money(value: Any) -> str:
    """An amount as people read it."""
    return f"{value:,.2f}" if isinstance(value, Decimal) else str(value)


def _rows(spending: Spending, names: Sequence[str], *, reveal: bool) -> list[dict[str, Any]]:
    total = spending.total
    return [
        {
            **{
                name: key if reveal or key is None else masked(key)
                for name, key in zip(names, line.keys, strict=True)
            },
            "cost": line.cost,
            "currency": spending.currency,
            "share": float(line.cost / total) if total else None,
            "charges": line.charges,
            "charges_unknown": line.unknown,
        }
        for line in spending.lines
    ]


def _fewer(rows: list[dict[str, Any]], names: Sequence[str], limit: int) -> list[dict[str, Any]]:
    if not limit or len(rows) <= limit:
        return rows
    rest = rows[limit - 1 :]
    told: dict[str, Any] = dict.fromkeys(names, "")
    shares = [row["share"] for row in rest if row["share"] is not None]
    told |= {
        names[0]: f"({len(rest):,} more)",
        "cost": sum((row["cost"] for row in rest), Decimal(0)),
        "share": sum(shares) if shares else None,
        "charges": sum(row["charges"] for row in rest),
    }
    return [*rows[: limit - 1], told]


def _extra(spending: Spending) -> dict[str, Any]:
    return {
        "since": spending.since.isoformat(),
        "until": spending.until.isoformat(),
        "days": spending.asked.days,
        "measure": spending.asked.measure.value,
        "currency": spending.currency,
        "total": exact(spending.total),
        "billed": exact(spending.billed),
        "reconciliation": [
            {"kind": each.kind.value, "billed": exact(each.billed), "shown": exact(each.shown)}
            for each in spending.reconciled
        ],
        "converted": list(spending.converted),
        "behind": {name: end.isoformat() for name, end in (spending.behind or {}).items()},
        "charges_unknown": spending.unknown,
        "lines_left_out": spending.left_out,
    }


def _heading(spending: Spending) -> str:
    days = spending.asked.days
    many = f"{days} days" if days > 1 else "1 day"
    text = (
        f"{spending.asked.measure.value} cost in {spending.currency}, {many} to {spending.until}, "
        f"the last that the data covers (from {spending.since})"
    )
    if spending.converted:
        text += f"; {', '.join(spending.converted)} converted by `cost.rates`"
    return text[0].upper() + text[1:]


def _last_lines(spending: Spending) -> list[str]:
    measure = spending.asked.measure.value
    lines = []
    if spending.unknown:
        lines.append(
            f"{spending.unknown:,} charges do not state their {measure} cost, and are left out"
        )
    if spending.left_out:
        lines.append(
            f"{spending.left_out:,} lines of these bills could not be counted; see `cost import`"
        )
    if spending.behind:
        told = ", ".join(f"{name} to {end}" for name, end in spending.behind.items())
        lines.append(f"Not all bills reach {spending.until}: {told}")
    lines.append(f"Total {money(spending.total)} {spending.currency} {measure}")
    parts = " ".join(
        f"{'-' if each.billed < 0 else '+'} {each.kind.value} {money(abs(each.billed))}"
        for each in spending.reconciled
    ).removeprefix("+ ")
    differences = [
        f"{each.kind.value} {each.shown - each.billed:+,.2f}"
        for each in spending.reconciled
        if each.shown != each.billed
    ]
    line = f"BilledCost {money(spending.billed)} = {parts or '0.00'}"
    if measure != "billed":
        line += f"; {measure} differs by {spending.total - spending.billed:+,.2f}" + (
            f": {', '.join(differences)}" if differences else ""
        )
    return [*lines, line]


def masked(value: str) -> str:
    """A name out of a bill, or its beginning where it may be a secret: by its shape, or because it
    is long and as good as random."""
    from mlplatform.cost import secrecy

    return secrecy.masked(value)


def _listed(value: Any) -> str:
    return ", ".join(value) or "-"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"
