"""`mlplatform regions`: what all vantages saw, in one table."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from mlplatform.cli.frame import command
from mlplatform.cli.render import NO_BREAK, Output
from mlplatform.cli.session import Session

if TYPE_CHECKING:
    from datetime import datetime

    from mlplatform.core.topology import Topology
    from mlplatform.failover.evidence.record import Sample, Series, Sighting
    from mlplatform.failover.history.recoveries import Memory
    from mlplatform.failover.vantage.rounds import Target

_STATES_OF_VANTAGE = ("unknown", "stale", "blind")


@command
def regions(session: Session) -> int:
    """Show how every region answers, as seen from every vantage.

    A cell is the time of the last probe, slow above traffic.probe.slow_seconds (the 500 ms of
    runbooks); or why there is none. Down is what failed several times in a row. Exit 3: a vantage
    finds something down or failing. Exit 5: of some region no vantage knows anything.

    $ mlplatform regions
    $ mlplatform regions --output json
    """
    from random import SystemRandom

    from mlplatform import wiring
    from mlplatform.control.journal import Journal
    from mlplatform.core.errors import UsageError
    from mlplatform.failover.evidence.reader import EvidenceReader
    from mlplatform.failover.history.recoveries import Memory
    from mlplatform.ports.clock import SystemClock

    topology = session.topology()
    vantages = list(topology.traffic.vantages)
    if not vantages:
        raise UsageError(
            "the topology names no vantage, so nobody looks",
            hint="name one under traffic.vantages, then run: mlplatform probe --vantage NAME",
        )
    clock = SystemClock()
    control = wiring.open_control(topology, clock, SystemRandom())
    code = show_regions(session, topology, EvidenceReader(control, vantages, clock).sightings())
    _tell_drained(session, Memory(Journal(control, clock, SystemRandom(), "")), clock.now())
    return code


def _tell_drained(session: Session, memory: Memory, now: datetime) -> None:
    """Servers that call themselves not ready because they were told to; as far as the journal can
    be read, which is not what was asked for."""
    from mlplatform.core.errors import MlplatformError
    from mlplatform.failover.history.recoveries import drained_by

    with suppress(MlplatformError):
        for operations in memory.operations(now).values():
            for region, drained in drained_by(operations, now).items():
                since = "and is under way, or was left" if drained.open else "and is over"
                session.console.warn(
                    f"{region}: its servers send clients away: {drained.operation} told them to, "
                    f"{since}"
                )


def show_regions(session: Session, topology: Topology, sightings: dict[str, Sighting]) -> int:
    """A row a region or front door, a column a vantage; programs get one row a cell."""
    from mlplatform.cli.errors import outranking
    from mlplatform.cli.render import Column
    from mlplatform.failover.vantage.rounds import targets_of

    targets = targets_of(topology)
    cells = {
        (target, vantage): cell(topology, target, vantage, sighting)
        for target in targets
        for vantage, sighting in sightings.items()
    }
    if session.output is Output.TABLE:
        rows = [
            {
                "target": str(target),
                **{vantage: in_words(cells[target, vantage]) for vantage in sightings},
            }
            for target in targets
        ]
        columns = [Column("target", "REGION")]
        columns += [Column(vantage, vantage, style=_colour) for vantage in sightings]
        session.show("regions", rows, columns=columns)
    else:
        session.show("regions", list(cells.values()), columns=[])
    for vantage in sightings:
        told = next((each for (_, by), each in cells.items() if by == vantage), None)
        if told is not None and told["state"] in _STATES_OF_VANTAGE and told["detail"]:
            detail = str(told["detail"])
            session.console.warn(detail if vantage in detail else f"{vantage}: {detail}")
    codes = []
    if any(each["state"] in {"down", "failing"} for each in cells.values()):
        codes.append(3)
    for target in targets:
        states = {each["state"] for (of, _), each in cells.items() if of == target}
        if states <= {*_STATES_OF_VANTAGE, "not probed"}:
            codes.append(5)
    for name, region in topology.regions.items():
        if region.endpoint is None:
            session.console.warn(f"{name} has no endpoint: it is not probed")
    return outranking(codes)


def cell(topology: Topology, target: Target, vantage: str, sighting: Sighting) -> dict[str, Any]:
    """What one vantage says of one target."""
    from mlplatform.core.seen import Unknown
    from mlplatform.failover.verdict.opinion import opinion_after

    probing = topology.traffic.probe
    record = sighting.record
    series: Series | None = None
    last: Sample | None = None
    age: float | None = None
    held: bool | None = None
    if isinstance(record, Unknown):
        state, detail = "unknown", record.reason
    else:
        age = sighting.age_seconds
        key = (target.region, target.path, target.route)
        series = next((s for s in record.series if (s.region, s.path, s.route) == key), None)
        last = series.samples[-1] if series and series.samples else None
        if sighting.stale:
            state, detail = "stale", _why_stale(age)
        elif record.blind:
            state, detail = "blind", record.blind
        elif series is None or last is None:
            state, detail = "not probed", ""
        else:
            held = opinion_after(series, rise=probing.rise, fall=probing.fall).up
            detail = "" if last.ok else f"{last.error}: {last.detail}"
            if held is False:
                state = "down"
            elif not last.ok:
                state = "failing"
            else:
                state = "slow" if (last.seconds or 0.0) > probing.slow_seconds else "up"
    return {
        "region": target.region or None,
        "path": target.path.value,
        "route": target.route,
        "vantage": vantage,
        "state": state,
        "seconds": last.seconds if last else None,
        "dns_seconds": last.dns_seconds if last else None,
        "connect_seconds": last.connect_seconds if last else None,
        "tls_seconds": last.tls_seconds if last else None,
        "first_byte_seconds": last.first_byte_seconds if last else None,
        "answered_by": last.region if last else None,
        "error": last.error if last and not last.ok else None,
        "detail": detail,
        "certificate_expires_at": series.certificate_expires_at if series else None,
        "age_seconds": None if age is None else round(age, 1),
    }


def in_words(told: dict[str, Any]) -> str:
    """A cell of the table."""
    from mlplatform.cli.render import ago, duration

    if told["state"] in {"up", "slow"}:
        shown = duration(told["seconds"]).replace(" ", NO_BREAK)
        return shown if told["state"] == "up" else f"{shown} slow"
    if told["state"] in {"down", "failing"}:
        why = told["error"]
        return f"{told['state']} ({why})" if why else f"{told['state']}, answers again"
    if told["state"] == "stale" and told["age_seconds"] >= 0:
        return f"stale, {ago(told['age_seconds'])}"
    return str(told["state"])


def _why_stale(age_seconds: float) -> str:
    from mlplatform.cli.render import duration

    if age_seconds < 0:
        return (
            f"its record is {duration(-age_seconds)} ahead of this machine's clock: one of the two "
            "clocks is wrong"
        )
    return (
        f"its record is {duration(age_seconds)} old: it has stopped, or cannot write, or one of "
        "the two clocks is wrong"
    )


def _colour(text: object) -> str | None:
    words = str(text)
    if words.startswith(("down", "failing")) or words.endswith("slow"):
        return "red"
    return "yellow" if words.startswith(("stale", "blind", "unknown", "not probed")) else "green"
