"""The chapter `cost`: the bill jumps, by breakfast it is known why, and the alarm is taken back
when the bill is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from random import SystemRandom

from mlplatform.cli.demo.bill import SERVERS, WEEKS, Cloud, Day
from mlplatform.cli.demo.failover import LOST, publish_magika
from mlplatform.cli.demo.models import MAGIKA
from mlplatform.cli.demo.rollout import BAD
from mlplatform.cli.demo.stage import REGIONS, Stage
from mlplatform.control.journal import Journal, Kind
from mlplatform.core.errors import MlplatformError
from mlplatform.core.plan import Action, Outcome, Plan, Result
from mlplatform.core.topology import Topology
from mlplatform.cost.anomalies.happened import Happened, ask
from mlplatform.ports.clock import SystemClock
from mlplatform.wiring import open_control, writer_name

SCALED = "eu-west-1"
MODEL = MAGIKA.partition("@")[0]
VERSION = BAD
BEFORE, AFTER = 4, 12
"""Servers of the model there, without the bad version and with it."""
HOUR, MINUTES = 12, 40
"""When it was rolled out, and for how long."""

COST = """\
cost:
  # Where bills are delivered, in earnest s3://billing/focus/, and the tags that they have.
  exports: ["file://{bills}"]
  tags: {{model: [model], team: [team]}}
"""


@dataclass(slots=True)
class _At(SystemClock):
    """A clock that stands."""

    wall: datetime

    def now(self) -> datetime:
        return self.wall


def tell(stage: Stage) -> None:
    """The chapter."""
    stage.heading("What it costs: the bill of these three regions")
    publish_magika(stage)
    stage.end_processes()  # bills do without them
    now = datetime.now(UTC)
    yesterday = now.date() - timedelta(days=1)
    cloud = Cloud.until(yesterday, _kept_bytes(stage))
    done = _done(stage, now)
    _to_yesterday(stage, cloud, yesterday, done)
    stage.run("mlplatform cost import")
    stage.run("mlplatform cost report --by region --days 7")
    stage.run("mlplatform cost anomalies")

    stage.heading("A morning on which the bill has jumped")
    at = datetime.combine(yesterday, time(HOUR, tzinfo=UTC))
    topology = stage.folder / "topology.yaml"
    rolled = write_rollout(topology, at, MINUTES)
    stage.tell(
        f"The rollout of {VERSION}, which was caught, stands on the bill as yesterday's, and\n"
        f"larger than life: at {at:%H:%M} UTC {AFTER - BEFORE} servers of it were started in "
        f"{SCALED}\nbeside the {BEFORE} that serve, and went {MINUTES} minutes later. So the "
        "journal has it:"
    )
    stage.run(f"mlplatform history --operation {rolled}")
    _deliver(stage, cloud, yesterday, done, (AFTER - BEFORE) * (24 - HOUR))
    stage.tell("The morning's delivery is there, with yesterday in it.")
    stage.run("mlplatform cost import")
    incident = _incident_of(stage.run("mlplatform cost anomalies", expect=3))
    stage.run(f"mlplatform cost explain {incident}")

    stage.heading("The bill is restated, and the alarm taken back")
    _deliver(stage, cloud, yesterday, done, (AFTER - BEFORE) * MINUTES / 60)
    stage.tell(
        f"The provider had billed the {AFTER - BEFORE} servers until midnight. The next delivery "
        f"has the\n{MINUTES} minutes. The period is replaced whole, and what was said is kept:"
    )
    stage.run("mlplatform cost import")
    stage.run("mlplatform cost anomalies")
    stage.run("mlplatform cost report --days 14 --html bill.html")


def _kept_bytes(stage: Stage) -> dict[tuple[str, str], int]:
    return {
        (region, model.name): sum(
            file.stat().st_size for file in model.rglob("*") if file.is_file()
        )
        for region in REGIONS
        for model in sorted((stage.store(region) / "models").iterdir())
    }


def _journal(path: Path, clock: SystemClock) -> tuple[Topology, Journal]:
    topology = Topology.load(path)
    random = SystemRandom()
    control = open_control(topology, SystemClock(), random)
    return topology, Journal(control, clock, random, writer_name())


def _done(stage: Stage, now: datetime) -> Day:
    """What the journal says that was done in this story."""
    topology, journal = _journal(stage.folder / "topology.yaml", SystemClock())
    routes = {name: route.models for name, route in topology.traffic.routes.items()}
    happened = ask(journal, {}, now - timedelta(hours=1), now, routes).happened
    sent: dict[tuple[str, str, str], int] = {}
    for each in happened:
        if each.source and each.sent_bytes:
            way = (each.source, each.event.region, each.event.subject.partition("@")[0])
            sent[way] = sent.get(way, 0) + each.sent_bytes
    hours = {(region, MODEL): _hours_away(happened) for region in REGIONS if region != LOST}
    return Day({place: more for place, more in hours.items() if more}, sent)


def _hours_away(happened: Sequence[Happened]) -> float:
    """So long the traffic was not where it is as a rule: a server more in each other region."""
    times = [each.event.at for each in happened if each.event.kind == "failover"]
    return (max(times) - min(times)).total_seconds() / 3600 if times else 0.0


def _to_yesterday(stage: Stage, cloud: Cloud, yesterday: date, done: Day) -> None:
    """The bill up to the day before yesterday, and where it is found."""
    bills = stage.folder / "bills"
    path = stage.folder / "topology.yaml"
    section = COST.format(bills=bills)
    path.write_text(path.read_text() + section)
    before = yesterday - timedelta(days=1)
    at = datetime.combine(yesterday, time(6, tzinfo=UTC))
    charges = cloud.deliver(bills, before, {}, at)
    megabytes = sum(done.sent_bytes.values()) / 1e6
    away = max(done.more_hours.values(), default=0) * 60
    stage.tell(
        "Nobody bills a folder on this disk, so the story writes what a cloud would have\n"
        f"delivered, as FOCUS: {charges:,} charges of {WEEKS} weeks, for {sum(SERVERS.values())} "
        "servers with a GPU and what\nthe stores keep. Rates and weeks are made up. What was done "
        "today will stand on it\n"
        f"as yesterday's: by the journal, {megabytes:,.1f} MB were sent between regions"
        + (f", and for\n{away:.1f} minutes others served in place of {LOST}." if away else ".")
        + "\nTo the topology is added:\n\n"
        + section.rstrip()
    )


def _deliver(stage: Stage, cloud: Cloud, yesterday: date, done: Day, more: float) -> None:
    """The bill up to yesterday, with so many hours more of the model that was scaled."""
    hours = dict(done.more_hours)
    hours[SCALED, MODEL] = hours.get((SCALED, MODEL), 0) + more
    days = {yesterday: Day(hours, done.sent_bytes)}
    cloud.deliver(stage.folder / "bills", yesterday, days, datetime.now(UTC))


def write_rollout(topology: Path, at: datetime, minutes: float) -> str:
    """Write into the journal, as of then, that a rollout started more servers, and was returned so
    many minutes later; the operation."""
    clock = _At(at)
    _, journal = _journal(topology, clock)
    steps = [
        ("load", f"{AFTER - BEFORE} servers of {VERSION} ready", at),
        ("stop", "they have gone", at + timedelta(minutes=minutes)),
    ]
    actions = tuple(
        Action(
            key=f"rollout/{MODEL}@{VERSION}/{SCALED}/{kind}",
            kind=kind,
            subject=f"{MODEL}@{VERSION}",
            region=SCALED,
            reason=reason,
            parameters={"wave": 1, "old_servers": BEFORE},
        )
        for kind, reason in (
            ("load", f"starts {AFTER - BEFORE} servers of {VERSION}, beside {BEFORE} that serve"),
            ("stop", f"lets servers of {VERSION} go: it was worse"),
        )
    )
    operation = journal.new_operation("rollout")
    stream = journal.start(operation, Plan(feature="rollout", actions=actions))
    for action, (_, detail, finished_at) in zip(actions, steps, strict=True):
        clock.wall = finished_at
        outcome = Outcome(
            action=action.key, result=Result.DONE, detail=detail, finished_at=finished_at
        )
        stream.append(Kind.INTENT, {"actions": [action.key], "batch": ""}, fence=0)
        stream.append(Kind.OUTCOME, outcome.model_dump(mode="json"), fence=0)
    stream.append(Kind.CLOSED, {"text": "done"}, fence=0)
    return operation


def _incident_of(said: str) -> str:
    found = re.search(r"^([0-9a-f]{8}) +open\b", said, re.MULTILINE)
    if found is None:
        raise MlplatformError(f"demo: no incident is open:\n{said}")
    return found[1]
