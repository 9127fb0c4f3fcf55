"""An operation told afterwards: its clocks, and a timeline for the post-mortem. Pure.

Three clocks: *decided* (the plan was written), *authoritative* (whoever answers clients answers
with the new weights), *observed* (clients were seen to have moved). Each is seconds after the
decision, as the one who acted measured it; unknown where nobody could.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from mlplatform.control.journal import Kind
from mlplatform.core.plan import Outcome, Plan
from mlplatform.failover.history.recoveries import Operation


@dataclass(frozen=True, slots=True)
class Clocks:
    """One operation's. Seconds after `decided_at`; None: not reached, or nobody could tell."""

    decided_at: datetime
    sick_seconds: float | None = None
    """How long it had been going wrong when it was decided."""
    committed_seconds: float | None = None
    authoritative_seconds: float | None = None
    observed_seconds: float | None = None
    ttl_seconds: float | None = None

    @property
    def told(self) -> str:
        """In one line."""
        parts = [f"decided {self.decided_at:%H:%M:%SZ}"]
        if self.sick_seconds is not None:
            parts[0] += f", {self.sick_seconds:.1f} s after it began"
        parts.append(f"authoritative {_after(self.authoritative_seconds)}")
        parts.append(f"observed {_after(self.observed_seconds)}")
        return "; ".join(parts)


def clocks_of(operation: Operation) -> Clocks:
    """The clocks of an operation: of its first shift, and of the last look at its clients."""
    actions = operation.actions
    committed = authoritative = observed = ttl = sick = None
    for action in actions.values():
        if sick is None and (figure := action.figures.get("sick_seconds")) is not None:
            sick = float(figure)
    for key, outcome in operation.outcomes.items():
        measured = outcome.measured
        kind = actions[key].kind if key in actions else ""
        if kind == "shift" and committed is None:
            committed = measured.get("committed_seconds")
            authoritative = measured.get("authoritative_seconds")
            ttl = measured.get("ttl_seconds")
        elif kind == "settle":
            observed = measured.get("observed_seconds")
    return Clocks(operation.began_at, sick, committed, authoritative, observed, ttl)


def markdown(operation: Operation) -> str:
    """The record of an operation, for a post-mortem: what was known, decided and done, and when."""
    clocks = clocks_of(operation)
    first = next(iter(operation.actions.values()))
    unfinished = "" if operation.closed else ", **not closed yet**"
    lines = [
        f"# {operation.route}: {first.reason}",
        "",
        f"Operation `{operation.name}`, by {operation.entries[0].writer}{unfinished}.",
        "",
        "| clock | |",
        "|---|---|",
        *([f"| it began | {_before(clocks.sick_seconds)} |"] if clocks.sick_seconds else []),
        f"| decided | {clocks.decided_at:%Y-%m-%d %H:%M:%S} UTC |",
        f"| committed | {_after(clocks.committed_seconds)} |",
        f"| authoritative | {_after(clocks.authoritative_seconds)} |",
        f"| observed | {_after(clocks.observed_seconds)} |",
        "",
        "## What was known and decided",
        "",
        *(f"- {reason}" for reason in dict.fromkeys(_reasons(operation))),
        "",
        "## What was done",
        "",
        "| UTC | by | |",
        "|---|---|---|",
        *_rows(operation),
        "",
        "## To be written by people",
        "",
        "- Impact:",
        "- Cause:",
        "- What went well, what did not, where we were lucky:",
        "- Actions:",
    ]
    return "\n".join(lines) + "\n"


def _reasons(operation: Operation) -> Iterator[str]:
    """Why, and from which figures, as they were when it was decided."""
    asked = next(iter(operation.actions.values())).parameters
    if asked.get("reason") and not asked.get("automatic"):
        yield f"asked for by {operation.entries[0].writer}: {asked['reason']}"
    for action in operation.actions.values():
        if action.kind == "settle":
            continue
        yield action.reason
        figures = action.figures
        if verdicts := figures.get("verdicts"):
            yield "verdicts: " + ", ".join(f"{name} {held}" for name, held in verdicts.items())
        if demand := figures.get("demand"):
            yield f"requests a second: {demand['said']}"
        yield from (f"{name}: {room['said']}" for name, room in figures.get("headroom", {}).items())
        for name, gates in figures.get("refused", {}).items():
            yield f"{name}: closed: {'; '.join(gates)}"
        yield from (f"broken on purpose: {broken}" for broken in figures.get("broken", ()))
    yield from (f"held: {hold.region}: {hold.reason}" for hold in operation.plan.holds)


def _rows(operation: Operation) -> list[str]:
    actions = operation.actions
    rows = []
    for entry in operation.entries:
        texts: list[str] = []
        if entry.kind in (Kind.PLAN, Kind.REVISION):
            word = "planned" if entry.kind is Kind.PLAN else "the plan was amended"
            plan = Plan.model_validate(entry.payload["plan"])
            texts = [f"{word}: {a.kind} {a.region}: {a.reason}" for a in plan.actions]
        elif entry.kind is Kind.OUTCOME:
            outcome = Outcome.model_validate(entry.payload)
            action = actions.get(outcome.action)
            what = f"{action.kind} {action.region}" if action else outcome.action
            texts = [f"{what}: **{outcome.result.value}**, {outcome.detail}"]
        elif entry.kind is not Kind.INTENT:
            texts = [str(entry.payload.get("text", ""))]
        for text in texts:
            cell = text.replace("|", "\\|").replace("\n", " ")
            rows.append(f"| {entry.at:%H:%M:%S} | {entry.writer} | {cell} |")
    return rows


def _after(seconds: float | None) -> str:
    return "unknown" if seconds is None else f"+{seconds:.2f} s"


def _before(seconds: float) -> str:
    return f"{seconds:.1f} s before the decision, at least"
