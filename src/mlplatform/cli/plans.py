"""Plans, outcomes and the journal, as people and programs read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mlplatform.cli import render
from mlplatform.cli.costs import pricing_of, tell_cost
from mlplatform.cli.errors import UNREADABLE_HINT, outranking
from mlplatform.cli.render import Column, Output, Row, duration, size
from mlplatform.cli.session import Session
from mlplatform.control.journal import Entry, Journal, Kind
from mlplatform.control.reconcile import Report, exit_code
from mlplatform.core.errors import UsageError
from mlplatform.core.manifest import Requirements
from mlplatform.core.plan import Action, Hold, Outcome, Plan
from mlplatform.replication.operations import Said, open_operation


def requirements_of(given: Sequence[str]) -> Requirements:
    """`--requires NAME=VALUE`, several times."""
    known = list(Requirements.model_fields)
    stated: dict[str, str] = {}
    for pair in given:
        name, equals, value = pair.partition("=")
        if not equals or not value or name not in known:
            raise UsageError(
                f"--requires {pair}: not NAME=VALUE with a name that is known",
                hint=f"names: {', '.join(known)}",
            )
        stated[name] = value
    return Requirements(**stated)


def said_by(session: Session) -> Said:
    """Plans told as they are made, on stderr."""

    def plan(plan: Plan, operation: str) -> None:
        for action in plan.actions:
            session.say(
                f"{action.kind} {action.subject} {_way(action)}: {action.reason}",
                operation=operation,
                region=action.region,
            )

    return Said(plan=plan)


def show_plans(session: Session, *plans: Plan) -> int:
    """What would be done, with bytes and reasons. The exit code is that of what is held."""
    actions = [action for plan in plans for action in plan.actions]
    holds = [hold for plan in plans for hold in plan.holds]
    pricing = pricing_of(session, session.topology())
    costs = [pricing.plan([action]) if pricing else None for action in actions]
    rows = [
        {
            **action.model_dump(mode="json"),
            "from": action.parameters.get("source") or action.parameters.get("folder"),
            "transfer_bytes": transfer_bytes(action),
            "cost": cost.as_json() if cost else None,
        }
        for action, cost in zip(actions, costs, strict=True)
    ]
    total_cost = pricing.plan(actions) if pricing else None
    session.show(
        "actions",
        rows,
        columns=[
            Column("kind", "ACTION"),
            Column("subject", "VERSION"),
            Column("from"),
            Column("region", "TO"),
            Column("transfer_bytes", "BYTES", size, right=True),
            Column("cost", show=_said, optional=True),
            Column("reason"),
        ],
        holds=[hold.model_dump(mode="json") for hold in holds],
        noop=not actions,
        digest=plans[0].digest if len(plans) == 1 else None,
        cost=total_cost.as_json() if total_cost else None,
    )
    _tell_holds(session, holds)
    if actions:
        total = sum(transfer_bytes(action) or 0 for action in actions)
        session.say(f"plan: {len(actions)} to do, {size(total)} to send, nothing was changed")
        tell_cost(session, total_cost)
    elif not holds:
        session.say("nothing to do")
    return exit_code((), holds)


def _said(cost: Mapping[str, Any] | None) -> str:
    return "-" if cost is None else str(cost["said"])


def transfer_bytes(action: Action) -> int | None:
    """The bytes that an action sends between regions."""
    found = [int(use.amount) for use in action.consumes if use.resource == "transfer"]
    return sum(found) if found else None


def show_outcomes(session: Session, *reports: Report, **extra: Any) -> int:
    """What was done in each region. The exit code is the reports' together.

    What was finished of operations that a crash had left is shown as well; what failed of these was
    decided anew, and is in the report itself.
    """
    rows = []
    for report in reports:
        for left in report.resumed:
            rows += [_outcome_row(left, outcome) for outcome in left.outcomes if outcome.ok]
        rows += [_outcome_row(report, outcome) for outcome in report.outcomes]
    left_over = [left.operation for report in reports for left in report.resumed]
    if rows or session.output is not Output.TABLE:
        session.show(
            "outcomes",
            rows,
            columns=[
                Column("subject", "VERSION"),
                Column("region"),
                Column("result", style=_colour_of_result),
                Column("sent_bytes", "SENT", size, right=True),
                Column("seconds", "TIME", duration, right=True),
                Column("detail"),
            ],
            operations=[
                operation
                for operation in (*left_over, *(report.operation for report in reports))
                if operation is not None
            ],
            holds=[
                hold.model_dump(mode="json") for report in reports for hold in report.plan.holds
            ],
            **extra,
        )
    _tell_holds(session, [hold for report in reports for hold in report.plan.holds])
    if not rows and not any(report.plan.holds for report in reports):
        session.say("nothing to do")
    for row in rows:
        if row["result"] in ("failed", "unknown"):
            session.say(
                f"ReplicationStatus: FAILED {row['subject']} in {row['region']}: {row['detail']}",
                level="error",
                region=row["region"],
            )
    for hint in dict.fromkeys(row["hint"] for row in rows if row["hint"]):
        session.say(hint, level="hint")
    return outranking([report.exit_code for report in reports])


def _tell_holds(session: Session, holds: Sequence[Hold]) -> None:
    """What is not done, and why."""
    regions: dict[tuple[str, str], list[str]] = {}
    for hold in holds:
        regions.setdefault((hold.subject, hold.reason), []).append(hold.region or "-")
    for (subject, reason), where in regions.items():
        session.console.warn(f"held: {subject} in {', '.join(where)}: {reason}")
    if any(hold.unknown for hold in holds):
        session.say(UNREADABLE_HINT, level="hint")


def _outcome_row(report: Report, outcome: Outcome) -> dict[str, Any]:
    action = {action.key: action for action in report.plan.actions}.get(outcome.action)
    _, subject, region, *_ = [*outcome.action.split("/"), "", "", ""]
    return {
        "operation": report.operation,
        "subject": action.subject if action else subject,
        "region": action.region if action else region,
        "result": outcome.result.value,
        "detail": outcome.detail,
        "error": outcome.error,
        "hint": outcome.hint,
        "sent_bytes": outcome.measured.get("sent_bytes"),
        "seconds": outcome.measured.get("seconds"),
        "measured": outcome.measured,
    }


def show_history(session: Session, journal: Journal, operation: str | None, limit: int) -> int:
    """One operation's entries, or the newest operations, oldest first."""
    if operation is not None:
        names: Sequence[str] = [open_operation(journal, operation).operation]
    else:
        names = list(journal.operations())[-limit:]
    stories = [(name, _entry_rows(list(journal.history(name)))) for name in names]
    rows = [row for _, entries in stories for row in entries]
    if session.output is not Output.TABLE:
        rows.sort(key=lambda row: row["at"])
        session.show("entries", rows, columns=[])
    elif rows:
        whole = operation is not None
        groups = [_story(name, entries, whole=whole) for name, entries in stories if entries]
        columns = [Column("when"), Column("kind"), Column("text")]
        render.show_groups(session.console, groups, columns)
    else:
        session.say("nothing has been done yet")
    return 0


def _story(operation: str, rows: Sequence[Row], *, whole: bool) -> tuple[str, Sequence[Row]]:
    """An operation for people: who did it, and what was planned and came of it. What was meant is
    told if nothing came of it, and whenever the whole is asked for."""
    closed = any(row["kind"] == Kind.CLOSED for row in rows)
    day, writer = rows[0]["at"].date(), rows[0]["writer"]
    heading = f"{operation} by {writer}{'' if closed else ', unfinished'}"
    told = []
    for row in rows:
        if closed and not whole and row["kind"] in (Kind.INTENT, Kind.CLOSED):
            continue
        same_day = row["at"].date() == day
        by = f", by {row['writer']}" if row["writer"] != writer else ""
        told.append(
            {
                **row,
                "when": row["at"].strftime("%H:%M:%SZ" if same_day else "%Y-%m-%d %H:%M:%SZ"),
                "text": row["text"] + by,
            }
        )
        writer = row["writer"]
    return heading, told


def _entry_rows(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    named: dict[str, str] = {}
    for entry in entries:
        for action in _actions_of(entry):
            named[action["key"]] = _name(action)
    return [_entry_row(entry, named) for entry in entries]


def _actions_of(entry: Entry) -> Sequence[Mapping[str, Any]]:
    if entry.kind not in (Kind.PLAN, Kind.REVISION):
        return []
    actions: Sequence[Mapping[str, Any]] = entry.payload.get("plan", {}).get("actions", [])
    return actions


def _name(action: Mapping[str, Any]) -> str:
    """`replicate resnet50@v3 to eu-west-1`, `shift api (us-east-1)`."""
    kind, subject, region = action["kind"], action["subject"], action["region"]
    where = f"to {region}" if kind in ("publish", "replicate") else f"({region})"
    return f"{kind} {subject} {where}"


def _entry_row(entry: Entry, named: Mapping[str, str]) -> dict[str, Any]:
    return {
        "at": entry.at,
        "operation": entry.operation,
        "number": entry.number,
        "kind": entry.kind.value,
        "text": _told(entry, named),
        "writer": entry.writer,
        "fence": entry.fence,
        "payload": entry.payload,
    }


def _told(entry: Entry, named: Mapping[str, str]) -> str:
    payload = entry.payload
    if entry.kind in (Kind.PLAN, Kind.REVISION):
        return "\n".join(f"{_name(action)}: {action['reason']}" for action in _actions_of(entry))
    if entry.kind is Kind.INTENT:
        return "begins " + ", ".join(named.get(key, key) for key in payload.get("actions", []))
    if entry.kind is Kind.OUTCOME:
        name = named.get(payload["action"], payload["action"])
        told = f"{name}: {payload['result']}, {payload['detail']}"
        return "; ".join([told, *_clocks(payload.get("measured", {}))])
    return str(payload.get("text", ""))


def _clocks(measured: Mapping[str, Any]) -> list[str]:
    """How long after the decision it was so: for whoever answers clients, and for the clients."""
    return [
        f"{clock} +{measured[f'{clock}_seconds']:.2f} s"
        for clock in ("authoritative", "observed")
        if measured.get(f"{clock}_seconds") is not None
    ]


def _way(action: Action) -> str:
    source = action.parameters.get("source")
    return f"from {source} to {action.region}" if source else f"in {action.region}"


def _colour_of_result(result: object) -> str | None:
    return {"done": "green", "failed": "red", "unknown": "yellow"}.get(str(result))
