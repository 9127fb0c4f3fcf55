"""What happened while a cost changed: from the journal's operations and from regions' clusters.
Pure, but for asking them.

An operation happened when its actions were done. Which regions it was about is told by its actions:
the one that it acts in, the one that bytes came from, those that were given more of the traffic.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from mlplatform.control.journal import Entry, Journal, Kind
from mlplatform.core.errors import MlplatformError
from mlplatform.core.plan import Action, Outcome, Plan, Result
from mlplatform.cost.locate.causes import Cause, Event, Name
from mlplatform.ports.happenings import Happening, Happenings

_BEGAN_BEFORE = timedelta(days=3)
"""An operation of which something was done on a day began at most so long before."""
_LOOKED_BEFORE = timedelta(days=1)
"""What happened the day before may be why."""
_EVENTS_MOST = 5
_CHANGES_NOTHING = frozenset({"approve", "preflight", "pin"})
"""Steps of a rollout before it has any effect."""
CHANGES = ("rollout", "scale", "failover")
"""What changes how many machines run, and which."""


@dataclass(frozen=True, slots=True)
class Happened:
    """An event, and what it was about."""

    event: Event
    regions: frozenset[str]
    """Empty: nobody says where."""
    models: frozenset[str]
    """Empty: nobody says which."""
    source: str = ""
    """Where bytes came from."""
    sent_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Known:
    """What is known to have happened, and what could not be asked."""

    happened: tuple[Happened, ...] = ()
    unknown: tuple[str, ...] = ()


def of_entries(
    entries: Sequence[Entry], routes: Mapping[str, Sequence[str]] | None = None
) -> Iterator[Happened]:
    """What an operation did, the oldest first. `routes`: the models that each route serves."""
    actions: dict[str, Action] = {}
    begun: set[str] = set()
    feature = ""
    told: set[tuple[str, str]] = set()
    for entry in entries:
        if entry.kind is Kind.INTENT:
            begun.update(entry.payload.get("actions", ()))
        if entry.kind in {Kind.PLAN, Kind.REVISION}:
            plan = Plan.model_validate(entry.payload["plan"])
            feature = plan.feature
            actions |= {action.key: action for action in plan.actions}
        if entry.kind is not Kind.OUTCOME:
            continue
        outcome = Outcome.model_validate(entry.payload)
        action = actions.get(outcome.action)
        if action is None or not outcome.ok or (action.subject, action.region) in told:
            continue
        if outcome.result is Result.NOTHING and action.key not in begun:
            continue  # what was planned and, in the end, not wanted
        if action.kind in _CHANGES_NOTHING:
            continue
        told.add((action.subject, action.region))
        yield _of_action(action, outcome, entry, feature, routes or {})


def _of_action(
    action: Action,
    outcome: Outcome,
    entry: Entry,
    feature: str,
    routes: Mapping[str, Sequence[str]],
) -> Happened:
    model, at, _ = action.subject.partition("@")
    models = frozenset([model]) if at else frozenset(routes.get(action.subject, ()))
    source = action.parameters.get("source")
    before, after = action.parameters.get("before"), action.parameters.get("after")
    regions = {action.region}
    if isinstance(before, dict) and isinstance(after, dict):
        regions |= {name for name, weight in after.items() if weight > before.get(name, 0)}
    sent = outcome.measured.get("sent_bytes")
    return Happened(
        Event(
            at=outcome.finished_at or entry.at,
            kind=feature or action.kind,
            subject=action.subject,
            region=action.region,
            operation=entry.operation,
            text=outcome.detail or action.reason,
        ),
        frozenset(each for each in regions if each),
        models,
        source if isinstance(source, str) else "",
        sent if isinstance(sent, int) else None,
    )


def of_cluster(region: str, happenings: Iterable[Happening]) -> Iterator[Happened]:
    """What a region's cluster tells."""
    for each in happenings:
        subject = f"{each.model or each.subject}@{each.version}" if each.version else each.subject
        times = f"; {each.times} times" if each.times > 1 else ""
        yield Happened(
            Event(each.at, each.kind, subject, region, text=f"{each.text}{times}"),
            frozenset([region]),
            frozenset([each.model] if each.model else []),
        )


def ask(
    journal: Journal | None,
    clusters: Mapping[str, Happenings],
    since: datetime,
    until: datetime,
    routes: Mapping[str, Sequence[str]] | None = None,
) -> Known:
    """Ask everybody what happened between two times. Who cannot be asked is named, and no reason to
    know nothing."""
    found: list[Happened] = []
    unknown: list[str] = []
    try:
        names = journal.operations(since=since - _BEGAN_BEFORE) if journal is not None else ()
    except MlplatformError as error:
        names = ()
        unknown.append(f"the journal: {error}")
    for name in names:
        assert journal is not None  # noqa: S101 - it has named them
        try:
            found += of_entries(journal.open(name).entries, routes)
        except MlplatformError as error:
            unknown.append(f"operation {name}: {error}")
    for region, cluster in clusters.items():
        try:
            found += of_cluster(region, cluster.between(since - _LOOKED_BEFORE, until))
        except MlplatformError as error:
            unknown.append(f"the cluster of {region}: {error}")
    inside = [each for each in found if since - _LOOKED_BEFORE <= each.event.at <= until]
    return Known(tuple(sorted(inside, key=lambda each: each.event.at)), tuple(unknown))


def joined(causes: Iterable[Cause], known: Known, since: datetime) -> tuple[Cause, ...]:
    """Causes, each with what happened in its region and to its model, the likeliest first: that
    which names the model, that which can change what the cause is about, and then what came
    nearest to the change. A rollout has copied bytes before it: that is not why machines run."""
    return tuple(
        replace(cause, events=tuple(_of_cause(cause, known.happened, since))) for cause in causes
    )


def _of_cause(cause: Cause, happened: Sequence[Happened], since: datetime) -> list[Event]:
    models = {item.model for item in cause.items if item.model}
    ways = {(item.region, item.to_region) for item in cause.items}
    fitting = []
    for each in happened:
        if cause.name is Name.TRANSFER:
            fits = any(
                each.source == source and (not target or target in each.regions)
                for source, target in ways
            )
        else:
            fits = not each.regions or cause.region in each.regions
        if fits and (not models or not each.models or models & each.models):
            named = bool(models & each.models)
            able = cause.name is Name.TRANSFER or each.event.kind in CHANGES
            fitting.append(
                (not named, not able, abs(each.event.at - since), each.event.at, each.event)
            )
    fitting.sort(key=lambda told: told[:4])
    return [event for *_, event in fitting[:_EVENTS_MOST]]


def replicated_bytes(known: Known) -> dict[tuple[str, str], int]:
    """What our own replication sent, from region to region."""
    sent: dict[tuple[str, str], int] = {}
    for each in known.happened:
        if each.source and each.sent_bytes:
            way = (each.source, each.event.region)
            sent[way] = sent.get(way, 0) + each.sent_bytes
    return sent
