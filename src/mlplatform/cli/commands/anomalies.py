"""`mlplatform cost anomalies`, `explain` and `feedback`: what is unusual, why, and what is said of
it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlplatform.cli import options
from mlplatform.cli.commands.bills import By, Cost, exact, masked, measure_of, money, office_of
from mlplatform.cli.errors import outranking
from mlplatform.cli.frame import command
from mlplatform.cli.render import Column, Output
from mlplatform.cli.session import Session
from mlplatform.core.errors import CheckFailed, MlplatformError, UsageError

if TYPE_CHECKING:
    from mlplatform.cost.anomalies.explanation import Explanation
    from mlplatform.cost.anomalies.records import Alarm, Verdict
    from mlplatform.cost.anomalies.watcher import Asked, Outlook
    from mlplatform.cost.cost_analyzer import Office
    from mlplatform.cost.locate.causes import Cause
    from mlplatform.cost.report.content import Incident as Told
    from mlplatform.cost.spending import Spending
    from mlplatform.ports.notify import Notice, Receiver

DAYS = 30
"""How far back alarms are shown, unless said otherwise."""
_EVERYTHING = "(everything)"
_PARTS_SHOWN = 3
_EVENTS_SHOWN = 2
_EXPLAINED_ON_PAGE = 5
_CENT = Decimal("0.01")

Days = Annotated[
    int,
    typer.Option(
        "--days", metavar="N", min=1, max=3660, help="Of so many days, to the last with data."
    ),
]
Since = Annotated[
    str | None,
    typer.Option("--since", metavar="DATE", help="Of the days since, in place of --days."),
]
RuleName = Annotated[
    str,
    typer.Option("--rule", metavar="RULE", help="By which rule: model, or day-over-day."),
]
Incident = Annotated[
    str,
    typer.Argument(metavar="INCIDENT", help="Its id, or how it begins, as `cost anomalies` says."),
]


Notify = Annotated[
    bool,
    typer.Option("--notify", help="Tell everybody in traffic.notify what they do not know yet."),
]


@command
def anomalies(
    session: Session,
    *,
    days: Days = DAYS,
    since: Since = None,
    by: By = None,
    cost: Cost = "effective",
    rule: RuleName = "model",
    notify: Notify = False,
) -> int:
    """Find what is unusual in what was imported; exit 3 while one stands that nobody has answered.

    Costs are added up from the leaves: total, provider, region, service, and the tags model and
    team where the topology has them. What rises in a leaf and in all that it is part of is one
    incident. Days are provisional until bills of their age are known to be complete, or their
    billing period is closed: an alarm on them is open; it is confirmed once they are final, and
    retracted, with the difference, if the bill is restated. Every import since the last time is
    judged by itself. `cost explain` says why; `cost feedback` answers.

    $ mlplatform cost anomalies
    $ mlplatform cost anomalies --days 90 --by team,service --output json
    $ mlplatform cost anomalies --rule day-over-day
    $ mlplatform cost anomalies --notify
    """
    return show_anomalies(session, by, days, since, cost, rule, notify=notify)


def show_anomalies(
    session: Session,
    by: Sequence[str] | None,
    days: int,
    since: str | None,
    cost: str,
    rule: str = "model",
    *,
    notify: bool = False,
) -> int:
    """Print alarms, as `--output` says; the exit code. With `notify`, tell of them."""
    start = None if since is None else day_of("--since", since)
    receivers = _receivers(session) if notify else []
    with office_of(session) as office:
        outlook = look(session, office, asked_of(by, cost, rule))
        untold = _tell(session, office, outlook, receivers)
    first = start or outlook.seen.until - timedelta(days=days - 1)
    alarms = [each for each in outlook.alarms if each.until >= first]
    shown = [each for each in alarms if not each.held_back]
    standing = [each for each in alarms if outlook.unacknowledged(each)]
    rows = [alarm_row(outlook, each) for each in alarms]
    rows.sort(key=lambda row: (not row["stands"], -Decimal(row["excess"]), row["incident"]))
    _say_what_was_judged(session, outlook, first)
    if session.output is Output.TABLE:
        rows = [row for row in rows if not row["held_back"]]
    session.show(
        "anomalies",
        rows,
        columns=[
            Column("incident"),
            Column("state"),
            Column("answer", optional=True),
            Column("text", "WHERE"),
            Column("since"),
            Column("days", right=True),
            Column("cost", show=_amount, right=True),
            Column("expected", show=_amount, right=True),
            Column("excess", show=_signed, right=True),
            Column("currency", ""),
            Column("reason", "WHY"),
        ],
        **_extra(outlook, first, len(standing)),
    )
    if session.output is Output.TABLE:
        for alarm in shown:
            for line in _retold(alarm):
                session.console.data(f"{session.console.clean(line)}\n")
    if not shown:
        session.say(f"nothing unusual from {first} to {outlook.seen.until}")
    if over := len(alarms) - len(shown):
        session.say(f"{over} more are over the alarm budget; --output json has them")
    # That one stands is what the caller asked for, whoever could not be told of it.
    return CheckFailed.exit_code if standing else outranking(untold)


def _receivers(session: Session) -> Sequence[Receiver]:
    import os

    from mlplatform import wiring

    receivers = wiring.open_receivers(session.topology(), os.environ)
    if not receivers:
        raise UsageError(
            "--notify: there is nobody to tell", hint="add one under traffic.notify in the topology"
        )
    return receivers


def _tell(
    session: Session, office: Office, outlook: Outlook, receivers: Sequence[Receiver]
) -> list[int]:
    """Tell each receiver what is new to it; the exit codes of those that could not be told. They
    are told the next time."""
    from random import SystemRandom

    from mlplatform.control.notices import send
    from mlplatform.control.retry import Retry
    from mlplatform.cost.anomalies.records import Tellings
    from mlplatform.cost.anomalies.telling import news
    from mlplatform.ports.clock import SystemClock

    codes = []
    clock = SystemClock()
    retry = Retry(clock, SystemRandom(), attempts=3, deadline_seconds=30)
    for receiver in receivers:
        tellings = Tellings(office.ledger.store, receiver.name)
        fresh = news(outlook.alarms, tellings.all(), lambda one: outlook.answer(one) is not None)
        try:
            for alarm in fresh:
                send(receiver, _notice(alarm, clock.now()), retry)
                tellings.add(alarm)
        except MlplatformError as error:
            session.console.warn(f"{receiver.name} was not told: {error}")
            codes.append(error.exit_code)
            continue
        session.say(f"{receiver.name}: told of {len(fresh)}")
    return codes


def _notice(alarm: Alarm, at: datetime) -> Notice:
    from mlplatform import wiring
    from mlplatform.ports.notify import Notice, Severity

    now, stands = alarm.now, alarm.state.stands
    days = str(alarm.since) if alarm.days == 1 else f"{alarm.since} to {alarm.until}"
    where = where_text(dict(alarm.where))
    excess = f"{now.excess:+,.2f} {alarm.currency}"
    return Notice(
        f"cost of {where}: {excess} on {days}, {alarm.state.value}",
        Severity.WARNING if stands else Severity.INFO,
        at,
        f"mlplatform cost anomalies on {wiring.writer_name()}",
        thread=f"mlplatform-cost-{alarm.id}",
        lines=(
            f"{now.likely:,.2f} {alarm.currency}, {now.expected:,.2f} expected: {now.because}",
            f"mlplatform cost explain {alarm.id}"
            if stands
            else "nothing is to be done; what was said before is taken back",
        ),
        over=not stands,
        fields={
            "incident": alarm.id,
            "state": alarm.state.value,
            "since": str(alarm.since),
            "until": str(alarm.until),
            "excess": str(now.excess),
            "currency": alarm.currency,
        },
    )


def look(session: Session, office: Office, asked: Asked) -> Outlook:
    """Judge the ledger. `UsageError` where nothing was imported."""
    if not office.deliveries():
        raise UsageError(
            "nothing was imported yet: the ledger holds no bill",
            hint="mlplatform cost import",
        )
    outlook = office.watcher().look(asked)
    if outlook is None:
        raise UsageError(
            "the ledger holds no charges of usage, and nothing else is judged",
            hint="mlplatform cost import, of a bill with usage in it",
        )
    if outlook.skipped:
        session.say(
            f"{outlook.skipped} earlier imports were too many to be judged each by itself; the "
            "last ones were"
        )
    if not outlook.kept:
        session.console.warn(
            f"{office.ledger.url}: cannot be written to: what was found is shown and not kept"
        )
    return outlook


def asked_of(by: Sequence[str] | None, cost: str, rule: str) -> Asked:
    """What is to be judged. `UsageError` for a cost or a rule that there is not."""
    from mlplatform.cost.anomalies.findings import Rule
    from mlplatform.cost.anomalies.watcher import Asked

    measure = measure_of(cost)
    if rule not in set(Rule):
        raise UsageError(f"--rule: there is no rule {rule!r}", hint=f"one of {', '.join(Rule)}")
    return Asked(tuple(options.split(by)), measure, Rule(rule))


def day_of(option: str, text: str) -> date:
    """A day that was typed."""
    try:
        return date.fromisoformat(text.strip())
    except ValueError as error:
        raise UsageError(f"{option} {text}: not a day", hint=f"{option} 2026-11-01") from error


def where_text(where: dict[str, str]) -> str:
    """A node for people: `AWS / eu-west-1 / …`."""
    values = list(where.values())
    while values and not values[-1]:
        values.pop()  # without a tag at the end is without anything to say
    return " / ".join(masked(value) or "(none)" for value in values) or _EVERYTHING


def alarm_row(outlook: Outlook, alarm: Alarm) -> dict[str, Any]:
    """An alarm for programs; money as text, to the last digit."""
    now, answer = alarm.now, outlook.answer(alarm)
    where = dict(alarm.where)
    return {
        "incident": alarm.id,
        "state": alarm.state.value,
        "stands": alarm.state.stands,
        "acknowledged": not outlook.unacknowledged(alarm),
        "answer": answer.answer.value if answer else "",
        "note": answer.note if answer else "",
        "text": where_text(where),
        "where": {name: masked(value) for name, value in where.items()},
        "since": alarm.since.isoformat(),
        "until": alarm.until.isoformat(),
        "days": alarm.days,
        "currency": alarm.currency,
        "measure": outlook.asked.measure.value,
        "rule": outlook.asked.rule.value,
        "cost": None if now.cost is None else exact(now.cost),
        "likely": exact(now.likely),
        "expected": exact(now.expected),
        "excess": exact(now.excess),
        "score": alarm.score,
        "reason": alarm.reason,
        "confidence": "low" if alarm.low_confidence else "normal",
        "held_back": alarm.held_back,
        "masked_by": [where_text(dict(each)) for each in alarm.masked_by],
        "because": now.because,
        "story": [_verdict_row(each) for each in alarm.story],
    }


def _verdict_row(verdict: Verdict) -> dict[str, Any]:
    return {
        "at": verdict.at.isoformat(),
        "deliveries": list(verdict.deliveries),
        "state": verdict.state.value,
        "cost": None if verdict.cost is None else exact(verdict.cost),
        "likely": exact(verdict.likely),
        "expected": exact(verdict.expected),
        "because": verdict.because,
    }


def _retold(alarm: Alarm) -> list[str]:
    """How an alarm became what it is, where that was more than one step."""
    lines = []
    for before, after in zip(alarm.story, alarm.story[1:], strict=False):
        text = f"{alarm.id} {after.state}: {after.because}"
        if before.cost is not None and after.cost is not None and before.cost != after.cost:
            change = after.cost - before.cost
            text += (
                f"; {money(before.cost)} → {money(after.cost)} {alarm.currency} ({change:+,.2f})"
            )
        if after.deliveries:
            text += f", by {' and '.join(after.deliveries)}"
        lines.append(text)
    return lines


def _say_what_was_judged(session: Session, outlook: Outlook, first: date) -> None:
    from mlplatform.cost.anomalies.watcher import LOW_CONFIDENCE_DAYS

    seen = outlook.seen
    text = (
        f"{outlook.asked.measure.value} cost, {first} to {seen.until}, the last day that the data "
        f"covers, by {', '.join(outlook.levels)}"
    )
    provisional = [day for day in seen.provisional() if day >= first]
    if provisional:
        text += f"; provisional: {_days_text(provisional)}"
    session.say(text[0].upper() + text[1:])
    if seen.history_days < LOW_CONFIDENCE_DAYS:
        session.console.warn(
            f"low confidence: {seen.history_days} days are known, and weekdays cannot be told "
            "apart in less than two weeks"
        )
    behind = {slug: bill.until for slug, bill in seen.bills.items() if bill.until < seen.until}
    for slug, until in sorted(behind.items()):
        session.say(f"{slug} reaches {until}; what it is part of is not judged after that")


def _days_text(days: Sequence[date]) -> str:
    whole = (days[-1] - days[0]).days + 1 == len(days)
    if len(days) == 1:
        return str(days[0])
    return f"{days[0]} to {days[-1]}" + ("" if whole else f", {len(days)} days")


def _extra(outlook: Outlook, first: date, standing: int) -> dict[str, Any]:
    seen = outlook.seen
    return {
        "since": first.isoformat(),
        "until": seen.until.isoformat(),
        "measure": outlook.asked.measure.value,
        "rule": outlook.asked.rule.value,
        "by": list(outlook.levels),
        "history_days": seen.history_days,
        "confidence": "low" if seen.history_days < 14 else "normal",
        "provisional": [day.isoformat() for day in seen.provisional() if day >= first],
        "unacknowledged": standing,
        "completeness": [
            {
                "provider": provider,
                "settled_days": curve.settled_days,
                "shares": [
                    {"age_days": age, "low": share.low, "middle": share.middle, "high": share.high}
                    for age, share in curve.shares
                ],
            }
            for provider, curve in sorted(seen.curves.items())
        ],
    }


@command
def explain(session: Session, incident: Incident) -> int:
    """Explain an incident: where its cost is, what of it is price and what quantity, and why.

    Its days are compared with the same weekdays of the weeks before in which nothing was unusual.
    The change is taken apart by every dimension, to the last digit; the combinations that carry it
    are searched for; causes have names, and amounts that add up to the change. A resource that
    nobody uses is one, by its own meters in the bill and by the accounts of `cost.inventory`.
    Beside them is what happened in its regions meanwhile, by the journal and, where the topology
    names clusters, by what these remember. What is not known is said to be.

    $ mlplatform cost explain 7f3a21bc
    $ mlplatform cost explain 7f3a21bc --output json
    """
    return show_explanation(session, incident)


def show_explanation(session: Session, incident: str) -> int:
    """Print why an incident cost what it did, as `--output` says."""
    with office_of(session) as office:
        asked, alarm = office.watcher().alarm(incident)
        outlook = look(session, office, asked)
        alarm = next(each for each in outlook.alarms if each.id == alarm.id)
        why = explanation_of(office, outlook, alarm, accounts=True)
    rows = [cause_row(each) for each in why.causes]
    extra = _why_extra(outlook, alarm, why)
    if session.output is Output.TABLE:
        _tell_why(session, alarm, why)
    session.show(
        "causes",
        rows,
        columns=[
            Column("cause"),
            Column("amount", show=_signed, right=True),
            Column("text", "WHAT"),
            Column("events", "WITH", show=_listed_events, optional=True),
        ],
        **(extra if session.output is not Output.CSV else {}),
    )
    for line in why.known.unknown:
        session.console.warn(f"not known: {line}")
    return 0


def explanation_of(
    office: Office, outlook: Outlook, alarm: Alarm, *, accounts: bool = False
) -> Explanation:
    """Why an incident cost what it did, beside what is known to have happened. With `accounts`,
    those of `cost.inventory` are asked what nobody uses."""
    from mlplatform.cost.anomalies.explanation import explain as explained
    from mlplatform.cost.anomalies.happened import Known

    unused = office.unused(alarm.since, accounts=accounts)
    comparison = office.watcher().compare(outlook, alarm, unused.why)
    known = office.happened(*day_edges(alarm.since, alarm.until))
    known = Known(known.happened, (*known.unknown, *unused.unknown))
    return explained(alarm, comparison, known, office.regions, unused.why)


def incidents_of(session: Session, office: Office, spending: Spending) -> list[Told] | None:
    """The incidents in a report's days, for its page: what stands first, and of that the largest
    with why. None, and a warning, where nobody can say."""
    from mlplatform.cost.anomalies.records import State

    try:
        outlook = look(session, office, asked_of(None, spending.asked.measure.value, "model"))
    except MlplatformError as error:
        session.console.warn(f"no incident is on the page: {error}")
        return None
    alarms = [
        each
        for each in outlook.alarms
        if not each.held_back
        and each.state is not State.JOINED
        and each.until >= spending.since
        and each.since <= spending.until
    ]
    alarms.sort(key=lambda each: (not each.state.stands, -each.now.excess, each.id))
    explained = [each for each in alarms if each.state.stands][:_EXPLAINED_ON_PAGE]
    return [
        _incident(session, office, outlook, each, spending.currency, why=each in explained)
        for each in alarms
    ]


def _incident(
    session: Session, office: Office, outlook: Outlook, alarm: Alarm, currency: str, *, why: bool
) -> Told:
    from mlplatform.cost.report.content import Incident as Told

    now, answer = alarm.now, outlook.answer(alarm)
    where = where_text(dict(alarm.where))
    title = where
    lines = []
    if why:
        try:
            told = explanation_of(office, outlook, alarm)
        except MlplatformError as error:
            lines.append(f"Why is not known: {error}.")
        else:
            title = told.headline
            lines.append(f"{where}.")
            if told.known.unknown:
                lines.append("Not all that happened is known.")
    cost = "unknown" if now.cost is None else money(now.cost)
    days = f"{alarm.since} to {alarm.until}" if alarm.days > 1 else f"{alarm.since}"
    retold = _retold(alarm)
    because = "" if retold else f"; {now.because}"
    lines.append(f"{days}: {cost} {alarm.currency}, {money(now.expected)} expected{because}.")
    for line in retold:
        text = line.removeprefix(alarm.id).strip()
        lines.append(f"{text[0].upper()}{text[1:]}.")
    if answer is not None:
        note = f", {answer.note}" if answer.note else ""
        lines.append(f"{answer.by} says: {answer.answer}{note}.")
    rate = office.spender().rates.rate(alarm.currency, currency, alarm.until)
    return Told(
        title=session.console.clean(title),
        amount=None if rate is None else (now.excess * rate).quantize(_CENT),
        explanation=session.console.clean(" ".join(lines)),
        status=f"{alarm.state}, {'answered' if answer else 'unanswered'}"
        if alarm.state.stands
        else alarm.state.value,
        since=alarm.since,
    )


def day_edges(since: date, until: date) -> tuple[datetime, datetime]:
    """The first and the last moment of some days, in UTC."""
    start = datetime.combine(since, datetime.min.time(), UTC)
    return start, datetime.combine(until + timedelta(days=1), datetime.min.time(), UTC)


def cause_row(cause: Cause) -> dict[str, Any]:
    """A cause for programs."""
    return {
        "cause": cause.name.value,
        "amount": exact(cause.amount),
        "region": cause.region,
        "service": cause.service,
        "text": str(cause),
        "events": [
            {
                "at": each.at.isoformat(),
                "kind": each.kind,
                "subject": each.subject,
                "region": each.region,
                "operation": each.operation,
                "text": each.text,
            }
            for each in cause.events
        ],
    }


def _why_extra(outlook: Outlook, alarm: Alarm, why: Explanation) -> dict[str, Any]:
    each = why.effects
    return {
        "incident": alarm_row(outlook, alarm),
        "headline": why.headline,
        "compared_with": why.compared_with,
        "before": exact(why.before),
        "after": exact(why.after),
        "change": exact(why.change),
        "effects": {
            "price": exact(each.price),
            "quantity": exact(each.quantity),
            "mix": exact(each.mix),
            "new": exact(each.new),
            "gone": exact(each.gone),
            "unmeasured": exact(each.unmeasured),
        },
        "by": {
            name: [
                {
                    "value": masked(part.value),
                    "before": exact(part.before),
                    "after": exact(part.after),
                    "change": exact(part.change),
                    "share": None if part.share is None else str(part.share),
                }
                for part in parts
            ]
            for name, parts in why.by.items()
        },
        "sets": [each.as_row() for each in why.ranking.sets] if why.ranking else [],
        "unknown": list(why.known.unknown),
    }


def _tell_why(session: Session, alarm: Alarm, why: Explanation) -> None:
    """What is above the table of causes."""
    now = alarm.now
    cost = "unknown" if now.cost is None else money(now.cost)
    lines = [
        why.headline,
        "",
        f"Incident {alarm.id}, {alarm.state}: {where_text(dict(alarm.where))}, {alarm.since}"
        + (f" to {alarm.until}" if alarm.days > 1 else ""),
        f"{cost} {alarm.currency}, {money(now.expected)} expected: {now.excess:+,.2f}. "
        + alarm.reason,
    ]
    if now.state.stands:
        lines.append(f"It is {now.state}: {now.because}")
    lines += _retold(alarm)
    against = why.compared_with or "nothing: nothing is known of any day before"
    lines += ["", f"Against {against}: {money(why.before)} → {money(why.after)}"]
    lines[-1] += f" ({why.change:+,.2f})"
    each = why.effects
    told = {
        "quantity": each.quantity,
        "price": each.price,
        "mix": each.mix,
        "new": each.new,
        "gone": each.gone,
        "quantity not stated": each.unmeasured,
    }
    parts = ", ".join(f"{name} {amount:+,.2f}" for name, amount in told.items() if amount)
    if parts:
        lines.append(f"of which {parts}")
    for name, several in why.by.items():
        if len(several) > 1 and why.change:
            shown = ", ".join(
                f"{masked(part.value) or '(none)'} {part.change:+,.2f} ({part.share} %)"
                for part in several[:_PARTS_SHOWN]
            )
            more = len(several) - _PARTS_SHOWN
            lines.append(f"by {name}: {shown}" + (f", and {more} more" if more > 0 else ""))
    if why.ranking is not None and why.ranking.sets:
        best = why.ranking.sets[0]
        share = "" if best.amount.share is None else f", {100 * best.amount.share:.0f} % of it"
        doubt = "; nothing stands out of the noise, so this is only the likeliest"
        lines.append(f"it lies in {best}{share}{doubt if best.doubtful else ''}")
    lines.append("")
    for line in lines:
        session.console.data(f"{session.console.clean(line)}\n")


def _listed_events(events: Sequence[dict[str, Any]]) -> str:
    def told(event: dict[str, Any]) -> str:
        number = f" {event['operation'].rpartition('-')[2]}" if event["operation"] else ""
        at = datetime.fromisoformat(event["at"])
        return f"{event['kind']}{number} of {event['subject']}, {at:%m-%d %H:%M}"

    return "; ".join(map(told, events[:_EVENTS_SHOWN])) or "-"


@command
def feedback(
    session: Session,
    incident: Annotated[
        str,
        typer.Argument(
            metavar="INCIDENT|WHERE",
            help="An incident's id; or a place, region=eu-west-1,service=S, to say beforehand that "
            "something is planned there.",
        ),
    ],
    answer: Annotated[
        str, typer.Argument(metavar="yes|no|planned", help="An anomaly, none, or meant.")
    ],
    *,
    note: Annotated[str, typer.Option("--note", metavar="TEXT", help="Why, for others.")] = "",
    since: Annotated[
        str | None,
        typer.Option("--since", metavar="DATE", help="With WHERE: the first day of it."),
    ] = None,
    until: Annotated[
        str | None,
        typer.Option("--until", metavar="DATE", help="With WHERE: the last day; else the first."),
    ] = None,
) -> int:
    """Say of an incident whether it is an anomaly: yes, no, or planned; it is learnt from.

    After `yes` nothing is learnt from its days; after `no` they count as any others; after
    `planned` whatever level they show is the level. Whatever the answer is, the incident does not
    make `cost anomalies` exit 3 any more. A planned change can be told before it happens.

    $ mlplatform cost feedback 7f3a21bc yes --note "the bad rollout, undone"
    $ mlplatform cost feedback region=eu-west-1 planned --since 2026-12-01 --until 2026-12-03
    """
    from mlplatform.cost.anomalies.records import Answer
    from mlplatform.wiring import writer_name

    if answer not in set(Answer):
        raise UsageError(f"{answer}: no such answer", hint=f"one of {', '.join(Answer)}")
    with office_of(session) as office:
        watcher = office.watcher()
        if "=" in incident:
            first, last = _days_of(incident, since, until)
            where = _place(incident, office)
            word = watcher.say(Answer(answer), where, first, last, by=writer_name(), note=note)
        else:
            _, alarm = watcher.alarm(incident)
            word = watcher.say(
                Answer(answer),
                alarm.where,
                alarm.since,
                alarm.until,
                by=writer_name(),
                note=note,
                incident=alarm.id,
                currency=alarm.currency,
            )
    row = {
        "id": word.id,
        "incident": word.incident,
        "answer": word.answer.value,
        "text": where_text(dict(word.where)),
        "since": word.since.isoformat(),
        "until": word.until.isoformat(),
        "note": word.note,
        "by": word.by,
    }
    session.show(
        "feedback",
        [row],
        columns=[
            Column("incident", optional=True),
            Column("answer"),
            Column("text", "WHERE"),
            Column("since"),
            Column("until"),
            Column("note", optional=True),
            Column("by"),
        ],
    )
    return 0


def _days_of(place: str, since: str | None, until: str | None) -> tuple[date, date]:
    if since is None:
        raise UsageError(f"{place}: nothing says when", hint="--since 2026-12-01")
    first = day_of("--since", since)
    last = first if until is None else day_of("--until", until)
    if last < first:
        raise UsageError(f"--until {last} is before --since {first}")
    return first, last


def _place(text: str, office: Office) -> dict[str, str]:
    from mlplatform.cost.cube import TAG_PREFIX, dimension

    where = {}
    for part in text.split(","):
        name, equals, value = (each.strip() for each in part.partition("="))
        if not equals:
            raise UsageError(f"{text}: {part} names no value", hint="region=eu-west-1,service=S")
        column = dimension(name, list(office.topology.cost.tags))
        where[column.removeprefix(TAG_PREFIX)] = value
    return where


def _amount(value: str | None) -> str:
    return "unknown" if value is None else f"{Decimal(value):,.2f}"


def _signed(value: str) -> str:
    return f"{Decimal(value):+,.2f}"
