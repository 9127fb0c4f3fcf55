"""`mlplatform cost budget`, `forecast` and `unit`: what may be spent, what will be, what for."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlplatform.cli import options
from mlplatform.cli.commands.bills import (
    By,
    Cost,
    Days,
    Limit,
    Reveal,
    exact,
    masked,
    measure_of,
    money,
    office_of,
)
from mlplatform.cli.frame import command
from mlplatform.cli.render import Column, Output
from mlplatform.cli.session import Session

if TYPE_CHECKING:
    from mlplatform.cost.budgets.acknowledging import Acknowledgement
    from mlplatform.cost.budgets.judging import Judgement
    from mlplatform.cost.cost_analyzer import Office
    from mlplatform.cost.daily import Costs, Daily, Keys
    from mlplatform.cost.gpus.hours import GpuHours
    from mlplatform.cost.outlook import Interval, Outlook
    from mlplatform.cost.unit.idle import Split
    from mlplatform.cost.unit.spot import Bought, Spot
    from mlplatform.cost.unit.unit_cost import UnitCost

_FOUND = 3
_INCOMPLETE = 5
_AHEAD_MOST_DAYS = 366
_RECENT_DAYS = 28
"""What a row cost in them says whether it has one of its own."""
_BUDGETS_HINT = (
    "`cost: {budgets: {platform: {amount: 20000, per: month}}}` in the topology sets one"
)


@command
def budget(
    session: Session,
    *,
    acknowledge: Annotated[
        str | None,
        typer.Option(
            "--acknowledge",
            metavar="BUDGET",
            help="Say that you know of it: until its period is over, or it gets worse.",
        ),
    ] = None,
    note: Annotated[
        str, typer.Option("--note", metavar="TEXT", help="Why; kept with the acknowledgement.")
    ] = "",
) -> int:
    """Hold what was spent, and what will be at the period's end, against the topology's budgets.

    Exit 3 while a budget is exceeded, or will be with its `confidence` (80 percent, unless it says
    otherwise), and nobody has acknowledged it. A month is the one of the last day that bills know
    of; a budget a day is held against the last whole day and the forecast of the next. Each budget
    has its own currency, cost and scope; they are never added up.

    $ mlplatform cost budget
    $ mlplatform cost budget --acknowledge platform --note "load test, until Friday"
    """
    from mlplatform.core.errors import UsageError
    from mlplatform.cost.budgets.acknowledging import Acknowledgements
    from mlplatform.cost.budgets.holding import judge_all
    from mlplatform.cost.open_days import partial_days

    topology = session.topology()
    budgets = topology.cost.budgets
    if acknowledge is not None and acknowledge not in budgets:
        raise UsageError(
            f"--acknowledge {acknowledge}: no such budget",
            hint=f"there are: {', '.join(sorted(budgets))}" if budgets else _BUDGETS_HINT,
        )
    if not budgets:
        session.show("budgets", [], columns=[])
        session.say("no budget is set")
        session.console.say(_BUDGETS_HINT, level="hint")
        return 0
    with office_of(session) as office:
        deliveries = office.deliveries()
        judged = judge_all(
            budgets, office.spender(), deliveries, partial_days(office.ledger, deliveries)
        )
        known = Acknowledgements(office.ledger.store)
        if acknowledge is not None:
            _acknowledge(session, known, judged, acknowledge, note)
        said = {each.name: known.of(each) for each in judged if each.state.stands}
    if not judged:
        session.show("budgets", [], columns=[])
        _say_empty(session)
        return 0
    rows = [_budget_row(each, said.get(each.name)) for each in judged]
    if session.output is not Output.TABLE:
        rows = [_for_programs(row) for row in rows]
    session.show(
        "budgets",
        rows,
        columns=[
            Column("budget"),
            Column("scope"),
            Column("period"),
            Column("amount", show=money, right=True),
            Column("currency"),
            Column("spent", show=money, right=True),
            Column("used", show=_percent, right=True),
            Column("forecast", show=_known_money, right=True),
            Column("between", "80 %", right=True),
            Column("state", style=_state_style),
            Column("acknowledged", "ACKNOWLEDGED BY", optional=True),
        ],
    )
    for each in judged:
        if each.low_confidence:
            session.say(f"{each.name}: low confidence, so little of its past is known")
    standing = [each for each in judged if each.state.stands and said.get(each.name) is None]
    for each in standing:
        session.console.warn(_told(each))
    if standing:
        name = standing[0].name
        session.console.say(
            f"`mlplatform cost report` says where it goes; --acknowledge {name}, if you know",
            level="hint",
        )
    return _FOUND if standing else 0


def _acknowledge(
    session: Session, known: Any, judged: list[Judgement], name: str, note: str
) -> None:
    import getpass

    for each in judged:
        if each.name == name and each.state.stands:
            known.add(each, datetime.now(UTC), getpass.getuser(), note)
            session.say(f"{name}: acknowledged for {each.period}: {each.state.said}")
        elif each.name == name:
            session.say(f"{name}: {each.state.said}; there is nothing to acknowledge")


def _budget_row(judged: Judgement, said: Acknowledgement | None) -> dict[str, Any]:
    budget = judged.budget
    between = judged.between
    return {
        "budget": judged.name,
        "scope": ", ".join(f"{name} {value}" for name, value in budget.scope.items()) or "all",
        "per": budget.per,
        "period": judged.period,
        "spent_until": judged.spent_until.isoformat(),
        "cost": budget.cost,
        "amount": budget.amount,
        "currency": judged.currency,
        "spent": judged.spent,
        "used": judged.used,
        "forecast": judged.expected,
        "forecast_of": judged.period
        if budget.per == "month"
        else (judged.until + timedelta(days=1)).isoformat(),
        "low_80": between.low if between else None,
        "high_80": between.high if between else None,
        "between": _between(between),
        "chance": judged.chance,
        "confidence": budget.confidence,
        "state": judged.state.said,
        "low_confidence": judged.low_confidence,
        "acknowledged": said.by if said else "",
        "acknowledged_at": said.at.isoformat() if said else None,
        "note": said.note if said else "",
    }


def _for_programs(row: dict[str, Any]) -> dict[str, Any]:
    """A row without what is only for people, and with amounts to their last digit."""
    return {
        name: exact(value) if isinstance(value, Decimal) else value
        for name, value in row.items()
        if name != "between"
    }


def _told(judged: Judgement) -> str:
    amount = f"{money(judged.budget.amount)} {judged.currency} a {judged.budget.per}"
    if judged.spent > judged.budget.amount:
        return f"{judged.name}: {money(judged.spent)} spent of {amount} ({judged.period})"
    chance = f"with a chance of {100 * (judged.chance or 0):.0f} %"
    return f"{judged.name}: will exceed {amount} {chance}: {_known_money(judged.expected)}"


@command
def forecast(
    session: Session,
    *,
    by: By = None,
    days: Annotated[
        int | None,
        typer.Option("--days", metavar="N", min=1, max=366, help="So many days ahead."),
    ] = None,
    until: Annotated[
        datetime | None,
        typer.Option(
            "--until",
            metavar="DATE",
            formats=["%Y-%m-%d"],
            help="Up to a day; else to the end of the month.",
        ),
    ] = None,
    cost: Cost = "effective",
    limit: Limit = 20,
    reveal: Reveal = False,
) -> int:
    """Forecast what the next days cost, with the amounts between which that lies.

    The days ahead begin after the last one that all bills reach. A row's cost is expected by its
    level, its weekdays and its month starts, and the intervals are as wide as the same forecasts,
    made earlier, were wrong. They hold the amount in 80 and 95 cases of 100, as long as nothing
    happens that has not happened before. A row with less than four weeks of history, or than what
    is to be forecast, is of low confidence. The total is forecast as such: no sum of its rows.

    $ mlplatform cost forecast
    $ mlplatform cost forecast --by region --days 90
    """
    from mlplatform.core.errors import UsageError
    from mlplatform.cost.daily import costs_by_day
    from mlplatform.cost.ledger import standing
    from mlplatform.cost.open_days import partial_days
    from mlplatform.cost.outlook import HISTORY_DAYS, complete_until, look_ahead, month_of
    from mlplatform.cost.spending import covered_until

    measure = measure_of(cost)
    if days is not None and until is not None:
        raise UsageError("--days and --until", hint="give one of them")
    names = tuple(options.split(by))
    if "day" in names:
        raise UsageError("--by day: each day is forecast anyway", hint="--output json has them")
    with office_of(session) as office:
        deliveries = office.deliveries()
        ends = covered_until(standing(deliveries))
        if not ends:
            session.show("forecasts", [], columns=[])
            _say_empty(session)
            return 0
        last = max(ends.values())
        daily = costs_by_day(
            office.spender(),
            deliveries,
            names,
            last - timedelta(days=HISTORY_DAYS - 1),
            last,
            measure,
        )
        partial = partial_days(office.ledger, deliveries)
    begins = complete_until(daily, partial)
    wanted = until.date() if until is not None else month_of(begins + timedelta(days=1))[1]
    if days is not None:
        wanted = begins + timedelta(days=days)
    if not timedelta(0) < wanted - begins <= timedelta(days=_AHEAD_MOST_DAYS):
        raise UsageError(
            f"--until {wanted}: bills reach {begins}",
            hint=f"name a later day, at most {_AHEAD_MOST_DAYS} days ahead",
        )
    total: Keys = ("(total)", *[""] * (len(names) - 1))
    rows = {**(_top(daily, limit) if names else {}), total: daily.total()}
    found = look_ahead(daily, rows, wanted, partial)
    _show_forecast(session, names, cost, daily, found, reveal=reveal)
    return 0


def _top(daily: Daily, limit: int) -> dict[Keys, Costs]:
    """The rows that cost most lately, the others as one."""
    recent = daily.until - timedelta(days=_RECENT_DAYS)

    def size(keys: Keys) -> tuple[Decimal, str]:
        costs = daily.rows[keys]
        return -sum((cost for day, cost in costs.items() if day > recent), Decimal(0)), str(keys)

    ordered = sorted(daily.rows, key=size)
    if not limit or len(ordered) <= limit:
        return {keys: daily.rows[keys] for keys in ordered}
    rest: dict[date, Decimal] = {}
    for keys in ordered[limit - 1 :]:
        for day, cost in daily.rows[keys].items():
            rest[day] = rest.get(day, Decimal(0)) + cost
    more = (f"({len(ordered) - limit + 1:,} more)", *[""] * (len(daily.by) - 1))
    return {keys: daily.rows[keys] for keys in ordered[: limit - 1]} | {more: rest}


def _show_forecast(
    session: Session,
    names: tuple[str, ...],
    cost: str,
    daily: Daily,
    found: list[Outlook],
    *,
    reveal: bool,
) -> None:
    from mlplatform.cost.outlook import month_of

    whole = found[-1]
    columns = names or ("row",)
    rows = [_forecast_row(each, columns, daily.currency, reveal=reveal) for each in found]
    until = whole.ahead[-1].day if whole.ahead else whole.complete
    heading = (
        f"{cost.capitalize()} cost in {daily.currency}, forecast from "
        f"{whole.complete + timedelta(days=1)} to {until}"
    )
    if session.output is Output.TABLE:
        session.console.data(f"{heading}\n")
    else:
        rows = [_exact_forecast(row) for row in rows]
    session.show(
        "forecasts",
        rows,
        columns=[
            *(Column(name, show=lambda value: value or "(none)") for name in columns[:1]),
            *(Column(name, show=lambda value: value or "") for name in columns[1:]),
            Column("expected", f"{cost.upper()} {daily.currency}", show=_known_money, right=True),
            Column("between_80", "80 %", right=True),
            Column("between_95", "95 %", right=True),
            Column("known_days", "DAYS KNOWN", right=True),
            Column("confidence"),
        ],
        **(
            {
                "since": (whole.complete + timedelta(days=1)).isoformat(),
                "until": until.isoformat(),
                "measure": cost,
                "currency": daily.currency,
                "converted": list(daily.converted),
                "charges_unknown": daily.unknown,
            }
            if session.output.is_json
            else {}
        ),
    )
    if session.output is not Output.TABLE:
        return
    first, end = month_of(until)
    if until == end and whole.complete >= first and whole.ahead:
        total, between = whole.expected(first, end), whole.between(first, end, 80)
        spent = money(whole.spent(first, whole.complete))
        session.console.data(
            f"{first:%Y-%m}: {spent} to {whole.complete}, {_known_money(total)} {daily.currency} "
            f"at its end (80 %: {_between(between)})\n"
        )
    if daily.unknown:
        session.console.data(
            f"{daily.unknown:,} charges do not state their {cost} cost, and are left out\n"
        )


def _forecast_row(
    outlook: Outlook, columns: tuple[str, ...], currency: str, *, reveal: bool
) -> dict[str, Any]:
    last = outlook.ahead[-1] if outlook.ahead else None
    row: dict[str, Any] = {
        name: key if reveal or key is None else masked(key)
        for name, key in zip(columns, outlook.keys, strict=True)
    }
    row |= {"expected": last.summed if last else None, "currency": currency}
    for share in (80, 95):
        between = last.between[share] if last else None
        row[f"low_{share}"] = between.low if between else None
        row[f"high_{share}"] = between.high if between else None
        row[f"between_{share}"] = _between(between)
    row |= {
        "known_days": outlook.known_days,
        "confidence": "low" if outlook.low_confidence else "as stated",
        "days": [
            {
                "day": each.day.isoformat(),
                "expected": exact(each.expected),
                "sum": exact(each.summed),
            }
            | {
                f"sum_{side}_{share}": exact(getattr(interval, side))
                for share, interval in each.between.items()
                for side in ("low", "high")
            }
            for each in outlook.ahead
        ],
    }
    return row


def _exact_forecast(row: dict[str, Any]) -> dict[str, Any]:
    """A row for programs: without what is only for people."""
    return {
        name: exact(value) if isinstance(value, Decimal) else value
        for name, value in row.items()
        if not name.startswith("between_")
    }


def _say_empty(session: Session) -> None:
    session.say("the ledger holds no charges")
    session.console.say("`mlplatform cost import` brings what was delivered", level="hint")


def _between(interval: Interval | None) -> str:
    return "unknown" if interval is None else f"{money(interval.low)} to {money(interval.high)}"


def _known_money(amount: Decimal | None) -> str:
    return "unknown" if amount is None else money(amount)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def _state_style(state: str) -> str | None:
    return {"exceeded": "red", "forecast": "yellow", "within": "green"}.get(state)


@command
def unit(
    session: Session,
    *,
    days: Days = 7,
    cost: Cost = "effective",
    counts: Annotated[
        Path | None,
        typer.Option(
            "--counts",
            metavar="FILE",
            help="Counts from CSV or JSON (day,model,region,requests,tokens), not from Prometheus.",
        ),
    ] = None,
    gpus: Annotated[
        Path | None,
        typer.Option(
            "--gpus",
            metavar="FILE",
            help="GPU nodes from CSV or JSON (name,cost,gpus,allocated,warm,utilisation; hours), "
            "not from Prometheus.",
        ),
    ] = None,
    reveal: Reveal = False,
) -> int:
    """Show what 1,000 requests and a million tokens cost, by model and region.

    The cost is all that bills charge for the model there, busy or not (`cost.tags` says which tag
    is the model); requests and tokens are what the servers counted, by `prometheus` and
    `cost.counters`. Days of which one of the two is unknown are left out of both, and told. Below:
    how much of the machines is spot, and what it costs where spot fell back to on-demand; and what
    of the GPU nodes is busy, allocated and idle, on standby for a failover, and asked for by
    nobody, as kube-state-metrics and DCGM's exporter tell Prometheus (`cost.gpus`). Nodes cost what
    the bill says of machines of their type there, else list prices.

    $ mlplatform cost unit --days 30
    $ mlplatform cost unit --counts counts.csv --gpus nodes.csv
    """
    from mlplatform.core.errors import MlplatformError, Throttled, Unavailable
    from mlplatform.cost.daily import costs_by_day, days_between
    from mlplatform.cost.ledger import standing
    from mlplatform.cost.spending import covered_until
    from mlplatform.cost.unit.buying import bought
    from mlplatform.cost.unit.files import read_counts, read_nodes
    from mlplatform.cost.unit.idle import split
    from mlplatform.cost.unit.spot import spot_shares
    from mlplatform.cost.unit.unit_cost import unit_costs

    measure = measure_of(cost)
    splits = [split(each) for each in read_nodes(gpus)] if gpus is not None else []
    with office_of(session) as office:
        deliveries = office.deliveries()
        ends = covered_until(standing(deliveries))
        if not ends:
            session.show("units", [], columns=[])
            _say_empty(session)
            return 0
        until = max(ends.values())
        since = until - timedelta(days=days - 1)
        eve = since - timedelta(days=1)
        window = days_between(since, until)
        spender = office.spender()
        daily = costs_by_day(spender, deliveries, ("model", "region"), since, until, measure)
        before = bought(spender, deliveries, since - timedelta(days=days), eve, measure)
        machines = bought(spender, deliveries, since, until, measure)
        spots = spot_shares(machines, before)
        unanswered: list[MlplatformError] = []
        counted = None if counts is None else read_counts(counts, spender.regions)
        if counts is None:
            try:
                counted = office.counts(window)
            except (Unavailable, Throttled) as error:
                unanswered.append(error)
        seen = None
        if gpus is None:
            seen = office.gpus(window)
            splits = [] if seen is None else _split(session, office, seen, machines, until)
    costs = {
        (model, region): spent
        for (model, region), spent in daily.rows.items()
        if model is not None and region is not None
    }
    nobody = sum(
        (
            sum(spent.values(), Decimal(0))
            for (model, region), spent in daily.rows.items()
            if model is None or region is None
        ),
        Decimal(0),
    )
    found = unit_costs(costs, counted or {}, window)
    _show_units(session, found, spots, splits, seen, daily, nobody, reveal=reveal)
    for each in unanswered:
        session.console.warn(f"requests and tokens are unknown: {each}")
    if unanswered:
        return _INCOMPLETE
    if counted is None:
        session.console.warn("requests and tokens are unknown: no prometheus is configured")
        session.console.say(
            "`prometheus: {url: …}` in the topology names one; or --counts FILE", level="hint"
        )
    return 0


def _split(
    session: Session, office: Office, seen: GpuHours, machines: list[Bought], until: date
) -> list[Split]:
    """GPU-hours with what they cost."""
    from mlplatform.cli.costs import open_pricing
    from mlplatform.cost.gpus.splitting import on_day, split_all

    spender = office.spender()
    convert = on_day(until, spender.currency, spender.rates.rate)
    return split_all(seen, machines, open_pricing(session.topology()), convert)


def _show_units(
    session: Session,
    found: list[UnitCost],
    spots: list[Spot],
    splits: list[Split],
    seen: GpuHours | None,
    daily: Daily,
    nobody: Decimal,
    *,
    reveal: bool,
) -> None:
    days = len(daily.days)
    table = session.output is Output.TABLE
    currency = daily.currency
    rows = [
        {
            "model": each.place[0] if reveal else masked(each.place[0]),
            "region": each.place[1],
            "cost": each.cost if table else _exactly(each.cost),
            "currency": currency,
            "requests": _shown(each.requests.count, table=table),
            "requests_days": each.requests.days,
            "cost_per_1000_requests": _price(each.requests.price, table=table),
            "tokens": _shown(each.tokens.count, table=table),
            "tokens_days": each.tokens.days,
            "cost_per_million_tokens": _price(each.tokens.price, table=table),
        }
        for each in found
    ]
    spot_rows = [_spot_row(each, table=table) for each in spots]
    split_rows = [_split_row(each, table=table) for each in splits]
    if table:
        session.console.data(
            f"{daily.measure.value.capitalize()} cost in {currency}, {days} days to {daily.until}\n"
        )
    extra: dict[str, Any] = {}
    if session.output.is_json:
        extra = {
            "since": daily.since.isoformat(),
            "until": daily.until.isoformat(),
            "measure": daily.measure.value,
            "currency": currency,
            "cost_of_no_model_or_region": exact(nobody),
            "spot": spot_rows,
            "gpus": split_rows,
            "gpus_hours_seen": None if seen is None else round(seen.hours_seen, 3),
            "gpus_unread": {} if seen is None else seen.unread,
        }
    session.show(
        "units",
        rows,
        columns=[
            Column("model"),
            Column("region"),
            Column("cost", show=_known_money, right=True),
            Column("requests", right=True),
            Column("cost_per_1000_requests", "A 1,000", right=True),
            Column("requests_days", "OF DAYS", right=True),
            Column("tokens", right=True),
            Column("cost_per_million_tokens", "A MILLION", right=True),
            Column("tokens_days", "OF DAYS", right=True),
        ],
        **extra,
    )
    for reason in dict.fromkeys(seen.unread.values() if seen is not None else ()):
        session.console.warn(f"of GPUs not all is known: {reason}")
    if not table:
        return
    if nobody:
        session.console.data(
            f"{money(nobody)} {currency} name no model or no region, and are in no unit cost\n"
        )
    if spot_rows:
        session.console.data("\nSpot, beside as many days before\n")
        session.show(
            "spot",
            spot_rows,
            columns=[
                Column("region", show=lambda value: value or "(none)"),
                Column("machine"),
                Column("cost", right=True),
                Column("spot_share", "SPOT", show=_percent, right=True),
                Column("spot_share_before", "BEFORE", show=_percent, right=True),
                Column("moved", "NOW ON-DEMAND", right=True),
                Column("fallback_cost", "WHICH COSTS", right=True),
            ],
        )
    if split_rows:
        session.console.data("\nGPU nodes\n")
        session.show(
            "gpus",
            split_rows,
            columns=[
                Column("name"),
                Column("gpu_hours", "GPU-HOURS", right=True),
                *(
                    Column(name, show=str, right=True)
                    for name in ("cost", "busy", "allocated_idle", "warm_standby", "unallocated")
                ),
                Column("unsplit", "NOT TOLD APART", right=True),
                Column("unknown"),
            ],
        )
        if seen is not None and seen.hours_seen < 24 * days:
            session.console.data(
                f"Prometheus knows of GPU nodes in {seen.hours_seen:,.0f} of {24 * days:,} hours\n"
            )
        for reason in dict.fromkeys(each.priced_by for each in splits if each.cost is None):
            session.console.data(f"Not priced: {reason}\n")


_PARTS = ("busy", "allocated_idle", "warm_standby", "unallocated", "unsplit")


def _spot_row(spot: Spot, *, table: bool) -> dict[str, Any]:
    moved = f"{spot.moved.normalize():,f} {spot.unit or ''}".strip()
    return {
        "region": spot.region,
        "machine": spot.machine,
        "cost": _shown_money(spot.cost, table=table),
        "spot_share": spot.spot_share,
        "spot_share_before": spot.before,
        "moved": (moved if spot.moved else "-") if table else exact(spot.moved),
        "unit": spot.unit,
        "fallback_cost": _shown_money(spot.extra, table=table),
    }


def _split_row(found: Split, *, table: bool) -> dict[str, Any]:
    money, hours = (
        {name: getattr(parts, name) if parts is not None else None for name in _PARTS}
        for parts in (found.money, found.hours)
    )
    if table:
        shown: dict[str, str | None] = {
            name: _known_money(money[name]) if found.money is not None else _hours(hours[name])
            for name in _PARTS
        }
    else:
        shown = {name: _exactly(amount) for name, amount in money.items()}
    return {
        "name": found.name,
        "gpu_hours": f"{found.gpus:,.1f}" if table else exact(found.gpus),
        "cost": _shown_money(found.cost, table=table),
        **shown,
        "unknown": list(found.unknown),
        "hours": {name: _exactly(amount) for name, amount in hours.items()},
        "priced_by": found.priced_by,
    }


def _hours(count: Decimal | None) -> str:
    return "unknown" if count is None else f"{count:,.1f} h"


def _shown_money(amount: Decimal | None, *, table: bool) -> str | None:
    return _known_money(amount) if table else _exactly(amount)


def _shown(count: Decimal | None, *, table: bool) -> str | None:
    if count is None:
        return "unknown" if table else None
    return f"{count:,.0f}" if table else exact(count)


def _price(amount: Decimal | None, *, table: bool) -> str | None:
    if amount is None:
        return "unknown" if table else None
    return f"{amount:,.4f}" if table else exact(amount)


def _exactly(amount: Decimal | None) -> str | None:
    return None if amount is None else exact(amount)
