"""`mlplatform failover …`, and `python -m mlplatform.failover.failover_controller`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlplatform.cli import frame, options
from mlplatform.cli.costs import pricing_of, tell_cost
from mlplatform.cli.errors import UNREADABLE_HINT, outranking
from mlplatform.cli.frame import command
from mlplatform.cli.render import Column, Output, duration
from mlplatform.cli.session import Session

if TYPE_CHECKING:
    from mlplatform.core.money import Cost
    from mlplatform.core.plan import Plan
    from mlplatform.failover.decision.seen import Mode, Seen
    from mlplatform.failover.effects import Estate
    from mlplatform.failover.operations import Moves, Proposal

PROG = "python -m mlplatform.failover.failover_controller"
_TELL_OF_ALL = (0, 3, 5, 130)
"""Exit codes that hold whether or not something else was done; any other is then 8."""

From = Annotated[
    str | None, typer.Option("--from", metavar="REGION", help="The region that traffic leaves.")
]
To = Annotated[
    list[str] | None,
    typer.Option(
        "--to",
        metavar="REGION",
        help="Where it goes; repeat it, or use commas. Else whoever passes the gates.",
    ),
]
Models = Annotated[
    list[str] | None,
    typer.Option("--model", metavar="MODEL", help="Only routes that carry this model."),
]
Routes = Annotated[
    list[str] | None, typer.Option("--route", metavar="ROUTE", help="Only this route.")
]
Reason = Annotated[
    str, typer.Option("--reason", metavar="TEXT", help="Why; it is kept in the journal.")
]
Broken = Annotated[
    list[str] | None,
    typer.Option(
        "--break-glass",
        metavar="RULE",
        help="Go on although this gate or rule says no; it is recorded. Repeat it, or use commas.",
    ),
]
Planned = Annotated[
    bool,
    typer.Option("--planned", help="The source is well: drain it first, and every gate is hard."),
]
Keep = Annotated[
    int,
    typer.Option(
        "--keep",
        metavar="POINTS",
        help="With --planned: so much of a route's weight, of 100, stays where it is.",
    ),
]
WithoutControl = Annotated[
    Path | None,
    typer.Option(
        "--without-control",
        metavar="DIR",
        help="The control store is gone: act under the targets' own epochs, and keep the journal "
        "in this folder until `mlplatform history import DIR`.",
    ),
]
Wait = Annotated[bool, typer.Option("--wait", help="Wait for whoever has a hand on the route.")]


@contextmanager
def estate_of(session: Session, *, without_control: Path | None = None) -> Iterator[Estate]:
    """Failover over the operator's topology, stopped in good order by Ctrl-C."""
    from mlplatform.core.errors import NoMajority
    from mlplatform.failover.failover_controller import open_estate

    topology = session.topology()
    with session.working() as work:
        try:
            yield open_estate(topology, stop=work.stop, journal_folder=without_control)
        except NoMajority as error:
            error.hint = (
                "see to these stores; if traffic has to move without them: "
                "mlplatform failover run … --without-control DIR --reason TEXT"
            )
            raise


@command
def plan(
    session: Session,
    *,
    source: From = None,
    targets: To = None,
    models: Models = None,
    routes: Routes = None,
    planned: Planned = False,
    keep: Keep = 0,
    broken: Broken = None,
) -> int:
    """Show what a failover would do, every gate measured; change nothing.

    $ mlplatform failover plan --from us-east-1 --to eu-west-1
    """
    from mlplatform.failover import operations

    request = request_from(
        _mode(planned=planned),
        source,
        targets,
        models=models,
        routes=routes,
        keep=keep,
        broken=broken,
    )
    with estate_of(session) as estate:
        return show_proposal(session, operations.propose(estate, request))


@command
def run(
    session: Session,
    *,
    source: From = None,
    targets: To = None,
    models: Models = None,
    routes: Routes = None,
    planned: Planned = False,
    keep: Keep = 0,
    reason: Reason = "",
    broken: Broken = None,
    confirm: options.Confirm = None,
    without_control: WithoutControl = None,
    wait: Wait = False,
) -> int:
    """Move traffic away from a region: plan, show the gates, ask, act, and watch clients move.

    $ mlplatform failover run --from us-east-1 --to eu-west-1 --confirm us-east-1
    $ mlplatform failover run --from us-east-1 --planned --reason "kernel upgrade"
    $ mlplatform failover run --from us-east-1 --planned --keep 40 --reason "half its servers"
    """
    request = request_from(
        _mode(planned=planned),
        source,
        targets,
        models=models,
        routes=routes,
        keep=keep,
        broken=broken,
        reason=reason,
    )
    return propose_and_do(
        session, request, confirm=confirm, without_control=without_control, wait=wait
    )


@command
def back(
    session: Session,
    *,
    targets: To = None,
    routes: Routes = None,
    reason: Reason = "",
    broken: Broken = None,
    confirm: options.Confirm = None,
    plan: options.PlanOnly = False,
    wait: Wait = False,
) -> int:
    """Bring traffic back to what the topology wants, by steps, each gated anew.

    $ mlplatform failover back --to us-east-1 --plan
    $ mlplatform failover back --to us-east-1 --confirm us-east-1
    """
    from mlplatform.failover.decision.seen import Mode

    request = request_from(
        Mode.FAILBACK, None, targets, routes=routes, broken=broken, reason=reason
    )
    return propose_and_do(session, request, confirm=confirm, plan=plan, wait=wait)


@command
def drill(
    session: Session,
    *,
    targets: To = None,
    routes: Routes = None,
    reason: Reason = "",
    confirm: options.Confirm = None,
    plan: options.PlanOnly = False,
    wait: Wait = False,
) -> int:
    """Prove a standby with a trickle of real traffic, then take it back.

    $ mlplatform failover drill --to eu-west-1 --confirm eu-west-1
    """
    from mlplatform.failover.decision.seen import Mode

    request = request_from(Mode.DRILL, None, targets, routes=routes, reason=reason)
    return propose_and_do(session, request, confirm=confirm, plan=plan, wait=wait)


@command
def watch(
    session: Session,
    *,
    interval: Annotated[
        float, typer.Option("--interval", metavar="SECONDS", min=0.1, help="Between two rounds.")
    ] = 5.0,
    metrics: Annotated[
        str, typer.Option("--metrics", metavar="HOST:PORT", help="Where /metrics is served.")
    ] = "127.0.0.1:9465",
    rounds: Annotated[
        int | None, typer.Option("--rounds", metavar="N", min=1, help="End after so many.")
    ] = None,
) -> int:
    """Go round: look, judge, tell; act on routes whose mode is auto. Several may run, anywhere.

    $ mlplatform failover watch --metrics 0.0.0.0:9465
    """
    from mlplatform.control.metrics import serve
    from mlplatform.failover.failover_controller import open_notices
    from mlplatform.failover.watch import Watch

    with estate_of(session) as estate:
        serve(metrics)
        notices = open_notices(estate.topology)
        try:
            return Watch(estate, notices, said_by(session)).run(
                interval_seconds=interval, rounds=rounds
            )
        finally:
            notices.close()


@command
def status(session: Session) -> int:
    """Show every route: its weights, its epoch, what is under way, what is ordered.

    Exit code 3 when a region is unhealthy, its servers were left in lame duck, or weights were
    changed by hand; 5 when something could not be read.

    $ mlplatform failover status
    """
    from mlplatform.core.seen import Unknown
    from mlplatform.failover import operations
    from mlplatform.failover.verdict.judge import Health

    with estate_of(session) as estate:
        found = operations.stands(estate)
    rows = []
    for stands in found.routes:
        known = None if isinstance(stands.state, Unknown) else stands.state
        rows.append(
            {
                "route": stands.route,
                "mode": stands.mode,
                "weights": dict(known.weights) if known else None,
                "wanted": dict(stands.wanted),
                "epoch": known.epoch if known else None,
                "writer": known.writer if known else None,
                "by_hand": stands.by_hand,
                "operation": stands.open,
                "locked": stands.locked,
                "drained": {region: left.operation for region, left in stands.drained.items()},
                "detail": str(stands.state) if known is None else "",
            }
        )
    verdicts = [
        {
            "region": verdict.region,
            "health": verdict.health.value,
            "because": list(verdict.because),
        }
        for verdict in found.seen.verdicts.values()
    ]
    orders = [order.model_dump(mode="json") for order in found.orders]
    session.show(
        "routes",
        rows,
        columns=[
            Column("route"),
            Column("mode"),
            Column("weights", show=_shares),
            Column("wanted", show=_shares),
            Column("epoch", right=True),
            Column("operation", optional=True),
            Column("locked", optional=True),
            Column("drained", show=", ".join, optional=True),
            Column("detail", optional=True),
        ],
        verdicts=verdicts,
        orders=orders,
    )
    for row in rows:
        if row["by_hand"]:
            session.console.warn(
                f"{row['route']}: its weights were changed by hand: {_shares(row['weights'])}"
            )
    drained = tell_left_drained(session, found.seen)
    for verdict in verdicts:
        if verdict["health"] != Health.HEALTHY.value:
            because = "; ".join(verdict["because"][:2])
            session.console.warn(f"{verdict['region']} is {verdict['health']}: {because}")
    for order in orders:
        until = f" until {order['expires_at']}" if order["expires_at"] else ""
        session.say(f"{order['kind']} {order['scope']}{until}: {order['reason']}, by {order['by']}")
    healths = {verdict["health"] for verdict in verdicts}
    bad = Health.UNHEALTHY.value in healths or any(row["by_hand"] for row in rows) or drained
    unknown = Health.UNKNOWN.value in healths or any(row["epoch"] is None for row in rows)
    if unknown:
        session.say(UNREADABLE_HINT, level="hint")
    return outranking([3 if bad else 0, 5 if unknown else 0])


@command
def explain(
    session: Session,
    region: Annotated[str | None, typer.Argument(help="Only this region.")] = None,
) -> int:
    """Say how each region is judged, what decided, and what would change it.

    $ mlplatform failover explain us-east-1
    """
    from mlplatform.failover.verdict.judge import Health, judge_all

    with estate_of(session) as estate:
        if region is not None:
            estate.topology.region(region)
        verdicts = judge_all(estate.look(), estate.topology)
    rows = [
        {
            "region": verdict.region,
            "health": verdict.health.value,
            "because": list(verdict.because),
            "would_change": list(verdict.would_change),
            "sick_seconds": verdict.sick_seconds,
            "well_seconds": verdict.well_seconds,
            "serves_nothing": verdict.serves_nothing,
            "models": {model: health.value for model, health in verdict.models.items()},
        }
        for name, verdict in verdicts.items()
        if region in (None, name)
    ]
    session.show(
        "verdicts",
        rows,
        columns=[
            Column("region"),
            Column("health", style=_colour_of_health),
            Column("because", show=_lines),
            Column("would_change", "WOULD CHANGE IT", _lines),
        ],
    )
    healths = {row["health"] for row in rows}
    return outranking(
        [
            3 if Health.UNHEALTHY.value in healths else 0,
            5 if Health.UNKNOWN.value in healths else 0,
        ]
    )


@command
def ready(session: Session) -> int:
    """Show, for each route and each region that serves it, where its traffic could go right now.

    Exit code 3 when some region's traffic could go nowhere.

    $ mlplatform failover ready
    """
    from mlplatform.failover.decision.readiness import readiness

    with estate_of(session) as estate:
        seen = estate.observe()
        found = readiness(estate.topology, seen, estate.clock.now())
    rows = [
        {
            "route": each.route,
            "from": each.source,
            "to": each.target,
            "ready": not each.failing,
            "gate": each.failing,
            "detail": each.detail,
        }
        for each in found
    ]
    session.show(
        "ready",
        rows,
        columns=[
            Column("route"),
            Column("from"),
            Column("to"),
            Column("ready"),
            Column("gate", optional=True),
            Column("detail", optional=True),
        ],
    )
    tell_left_drained(session, seen)
    stuck = {(row["route"], row["from"]) for row in rows}
    stuck -= {(row["route"], row["from"]) for row in rows if row["ready"]}
    for route, source in sorted(stuck):
        session.console.warn(f"{route}: traffic of {source} could go nowhere")
    return 3 if stuck else 0


@command
def resume(
    session: Session,
    operation: Annotated[
        str | None,
        typer.Argument(metavar="ID", help="The operation; without it, every one that was left."),
    ] = None,
    *,
    wait: Wait = False,
) -> int:
    """Go on with an operation that was paused, or left by a crash.

    Where several are paused, each is to be named.

    $ mlplatform failover resume
    """
    from mlplatform.control.orders import Kind
    from mlplatform.core.errors import LeaseHeld, NotFound, UsageError
    from mlplatform.failover import operations

    with estate_of(session) as estate:
        paused = operations.paused(estate)
        if operation is None and len(paused) > 1:
            told = "; ".join(f"{o.scope}: {o.reason}, by {o.by}" for o in paused.values())
            raise UsageError(
                f"{len(paused)} operations are paused, for reasons of their own: {told}",
                hint=f"name the one: mlplatform failover resume {min(paused)}",
            )
        for name in paused.keys() & ({operation} if operation else paused.keys()):
            estate.orders.take_back(Kind.PAUSE, name, reason="resumed")
            session.say(f"{name} is no longer paused")
        try:
            reports = dict(
                operations.resume_left(
                    estate, operation, wait=wait or "silent", said=said_by(session)
                )
            )
        except LeaseHeld:
            if operation not in paused:
                raise
            session.say(f"whoever was at work on {operation} goes on with it")
            return 0
        except NotFound as error:
            raise UsageError(str(error), hint=error.hint) from error
    if not reports:
        session.say("nothing is unfinished")
        return 0
    return show_moves(session, operations.Moves(reports))


@command
def pause(
    session: Session,
    operation: Annotated[str, typer.Argument(metavar="ID", help="The operation.")],
    *,
    reason: Reason = "paused by hand",
) -> int:
    """Let an operation take no further step until it is resumed.

    $ mlplatform failover pause 20260102T030405Z-failover-5b6c01 --reason "looking"
    """
    from mlplatform.failover import operations

    with estate_of(session) as estate:
        operations.pause(estate, operation, reason=reason)
    session.say(f"{operation} is paused after the step it is in")
    session.say(f"mlplatform failover resume {operation}", level="hint")
    return 0


@command
def abort(
    session: Session,
    operation: Annotated[str, typer.Argument(metavar="ID", help="The operation.")],
    *,
    reason: Reason = "aborted by hand",
) -> int:
    """End an operation where it stands; weights stay as they are.

    $ mlplatform failover abort 20260102T030405Z-failover-5b6c01 --reason "wrong region"
    """
    from mlplatform.failover import operations

    with estate_of(session) as estate:
        operations.abort(estate, operation, reason=reason)
    session.say(f"{operation} ends after the step it is in; weights stay as they are")
    return 0


@command
def undrain(
    session: Session,
    region: Annotated[str, typer.Argument(help="The region.")],
    *,
    reason: Reason = "by hand",
    wait: Wait = False,
) -> int:
    """Tell a region's servers that they may serve again, where they were left in lame duck.

    Weights stay as they are. An operation that drains them still is to be resumed or aborted.

    $ mlplatform failover undrain us-east-1 --reason "its servers were not reached last night"
    """
    from mlplatform.failover import operations

    with estate_of(session) as estate:
        done = operations.undrain(
            estate, region, reason=reason, wait=wait or "silent", said=said_by(session)
        )
    return show_moves(session, done)


@command
def lock(
    session: Session,
    route: Annotated[str | None, typer.Argument(help="The route.")] = None,
    *,
    everything: Annotated[
        bool, typer.Option("--all", help="Every route, and rollouts too.")
    ] = False,
    reason: Reason,
) -> int:
    """Let nothing be moved, by hand or by itself, until it is unlocked.

    $ mlplatform failover lock api --reason "launch"
    $ mlplatform failover lock --all --reason "incident 4711"
    """
    from mlplatform.control.orders import Kind
    from mlplatform.failover import operations

    scope = _scope(route, everything=everything)
    with estate_of(session) as estate:
        operations.order(estate, Kind.LOCK, scope, reason=reason)
    session.say(f"{scope} is locked: {reason}")
    return 0


@command
def unlock(
    session: Session,
    route: Annotated[str | None, typer.Argument(help="The route.")] = None,
    *,
    everything: Annotated[bool, typer.Option("--all", help="What `lock --all` locked.")] = False,
    reason: Reason = "",
) -> int:
    """Take a lock back.

    $ mlplatform failover unlock api
    """
    from mlplatform.control.orders import Kind
    from mlplatform.failover import operations

    scope = _scope(route, everything=everything)
    with estate_of(session) as estate:
        operations.take_back(estate, Kind.LOCK, scope, reason=reason)
    session.say(f"{scope} is unlocked")
    return 0


@command
def maintain(
    session: Session,
    region: Annotated[str, typer.Argument(help="The region.")],
    *,
    reason: Reason = "",
    hours: Annotated[
        float | None,
        typer.Option("--hours", metavar="N", min=0.01, help="How long; else until --end."),
    ] = None,
    end: Annotated[bool, typer.Option("--end", help="It is over.")] = False,
) -> int:
    """Let a region receive nothing new: it is being worked on.

    $ mlplatform failover maintain eu-west-1 --reason "new disks" --hours 4
    $ mlplatform failover maintain eu-west-1 --end
    """
    from datetime import timedelta

    from mlplatform.control.orders import Kind
    from mlplatform.core.errors import UsageError
    from mlplatform.failover import operations

    with estate_of(session) as estate:
        if end:
            operations.take_back(estate, Kind.MAINTENANCE, region, reason=reason)
            session.say(f"{region} may receive traffic again")
            return 0
        if not reason:
            raise UsageError("--reason is missing", hint="say why; it is shown to who asks")
        lasts = timedelta(hours=hours) if hours else None
        operations.order(estate, Kind.MAINTENANCE, region, reason=reason, lasts=lasts)
    session.say(f"{region} receives nothing new: {reason}")
    return 0


@command
def override(
    session: Session,
    region: Annotated[str, typer.Argument(help="The region.")],
    health: Annotated[
        str | None, typer.Argument(metavar="VERDICT", help="healthy, suspect or unhealthy.")
    ] = None,
    *,
    reason: Reason = "",
    hours: Annotated[
        float, typer.Option("--hours", metavar="N", min=0.01, max=72, help="How long it holds.")
    ] = 1.0,
    end: Annotated[bool, typer.Option("--end", help="Take it back.")] = False,
) -> int:
    """Let your word stand for a region's verdict, for a time.

    $ mlplatform failover override us-east-1 unhealthy --reason "callers say so" --hours 2
    $ mlplatform failover override us-east-1 --end
    """
    from datetime import timedelta

    from mlplatform.control.orders import Kind
    from mlplatform.core.errors import UsageError
    from mlplatform.failover import operations
    from mlplatform.failover.verdict.judge import Health

    with estate_of(session) as estate:
        if end:
            operations.take_back(estate, Kind.OVERRIDE, region, reason=reason)
            session.say(f"{region} is judged by what is seen again")
            return 0
        known = [each.value for each in Health if each is not Health.UNKNOWN]
        if health not in known:
            raise UsageError(f"{health}: not a verdict to give", hint=f"one of: {', '.join(known)}")
        if not reason:
            raise UsageError("--reason is missing", hint="say why; it is shown to who asks")
        operations.order(
            estate,
            Kind.OVERRIDE,
            region,
            reason=reason,
            value=health,
            lasts=timedelta(hours=hours),
        )
    session.say(f"{region} is taken to be {health} for {hours:g} h: {reason}")
    return 0


@command
def report(
    session: Session,
    operation: Annotated[
        str | None, typer.Argument(metavar="ID", help="The operation; else the newest.")
    ] = None,
) -> int:
    """Print an operation's clocks and its timeline, in Markdown, for the post-mortem.

    $ mlplatform failover report 20260102T030405Z-failover-5b6c01
    """
    from dataclasses import asdict

    from mlplatform.core.errors import UsageError
    from mlplatform.failover import operations
    from mlplatform.failover.history.recoveries import operation_of
    from mlplatform.failover.history.timeline import clocks_of, markdown

    with estate_of(session) as estate:
        if operation is None:
            by_route = estate.memory.operations(estate.clock.now())
            names = sorted(each.name for found in by_route.values() for each in found)
            if not names:
                raise UsageError("there was no failover yet", hint="mlplatform failover plan")
            operation = names[-1]
        told = operation_of(operations.open_operation(estate.journal, operation))
    if told is None:
        raise UsageError(f"{operation}: nothing was planned in it")
    clocks = clocks_of(told)
    if session.output is Output.TABLE:
        session.console.data(markdown(told))
    else:
        row = {"operation": operation, "route": told.route, **asdict(clocks)}
        session.show("clocks", [row], columns=[])
    return 0


app = frame.new_group(help="Move traffic between regions, and know when to.")
for function in (
    plan,
    run,
    watch,
    status,
    explain,
    ready,
    back,
    drill,
    pause,
    resume,
    abort,
    undrain,
    lock,
    unlock,
    maintain,
    override,
    report,
):
    frame.add(app, function)


@command
def failover_controller(
    session: Session,
    *,
    source: Annotated[
        str | None, typer.Option("--from-region", metavar="R", help="The region to leave.")
    ] = None,
    targets: Annotated[
        list[str] | None,
        typer.Option("--to-region", metavar="R", help="Where to; else whoever passes the gates."),
    ] = None,
    models: Models = None,
    planned: Planned = False,
    reason: Reason = "",
    broken: Broken = None,
    confirm: options.Confirm = None,
    plan: options.PlanOnly = False,
    wait: Wait = False,
) -> int:
    """Move traffic away from a region: plan, show the gates, ask, act.

    $ python -m mlplatform.failover.failover_controller --from-region us-east-1 --plan
    """
    request = request_from(
        _mode(planned=planned), source, targets, models=models, broken=broken, reason=reason
    )
    return propose_and_do(session, request, confirm=confirm, plan=plan, wait=wait)


def main() -> None:
    """Run the runbooks' line, as the process that it is."""
    frame.main(lambda: frame.to_click(failover_controller), prog=PROG)


# What the commands share.


def _mode(*, planned: bool) -> Mode:
    from mlplatform.failover.decision.seen import Mode

    return Mode.PLANNED if planned else Mode.UNPLANNED


def _scope(route: str | None, *, everything: bool) -> str:
    from mlplatform.control.orders import EVERYTHING
    from mlplatform.core.errors import UsageError

    if everything == (route is not None):
        raise UsageError("name one route, or --all", hint="mlplatform failover lock ROUTE")
    return route or EVERYTHING


def request_from(
    mode: Mode,
    source: str | None,
    targets: Sequence[str] | None,
    *,
    models: Sequence[str] | None = None,
    routes: Sequence[str] | None = None,
    broken: Sequence[str] | None = None,
    reason: str = "",
    keep: int = 0,
) -> Any:
    """The request that flags make. `UsageError` for a rule that there is not, or a missing name."""
    from mlplatform.core.errors import UsageError
    from mlplatform.failover.decision.rules import UNBREAKABLE
    from mlplatform.failover.decision.seen import Gate, Mode, Request, Rule

    known = {each.value for each in (*Gate, *Rule)}
    for name in options.split(broken):
        if name not in known:
            may = sorted(known - {rule.value for rule in UNBREAKABLE})
            raise UsageError(
                f"--break-glass {name}: no such gate or rule", hint=f"one of: {', '.join(may)}"
            )
    if mode in (Mode.PLANNED, Mode.UNPLANNED) and source is None:
        raise UsageError("the region to leave is missing", hint="name it with --from")
    if mode in (Mode.FAILBACK, Mode.DRILL) and not targets:
        raise UsageError("the region is missing", hint="name it with --to")
    return Request(
        mode=mode,
        source=source,
        targets=tuple(options.split(targets)),
        routes=tuple(options.split(routes)),
        models=tuple(options.split(models)),
        reason=reason,
        keep=keep,
        broken=frozenset(options.split(broken)),
    )


def propose_and_do(
    session: Session,
    request: Any,
    *,
    confirm: str | None = None,
    plan: bool = False,
    without_control: Path | None = None,
    wait: bool = False,
) -> int:
    """Plan, show, ask, act, tell."""
    from mlplatform.core.errors import UsageError
    from mlplatform.failover import operations
    from mlplatform.failover.decision.seen import Rule

    if without_control is not None and not request.reason:
        raise UsageError("--without-control needs --reason", hint="say why; it is recorded")
    with estate_of(session, without_control=without_control) as estate:
        if without_control is not None:
            session.console.warn(
                "locks and past recoveries cannot be read, nor what checks found; "
                "they are not heeded"
            )
            if Rule.CONTROL.value in request.broken:
                session.console.warn("broken on purpose: control: whether it answers or not")
        proposal = operations.propose(estate, request)
        if plan or proposal.noop:
            code = show_proposal(session, proposal)
            if without_control is not None:
                _tell_what_to_vouch_for(session, proposal)
            return code
        tell_proposal(session, proposal)
        region = request.source or request.targets[0]
        session.confirm(
            f"this moves traffic on {', '.join(n for n, p in proposal.plans.items() if p.actions)}",
            region,
            given=confirm,
        )
        done = operations.carry_out(estate, proposal, wait=wait or "silent", said=said_by(session))
    return show_moves(session, done)


def said_by(session: Session) -> Any:
    """What is done, told on stderr as it is done."""
    from mlplatform.core.plan import Outcome
    from mlplatform.failover.operations import Said

    def outcome(route: str, found: Outcome) -> None:
        word = "" if found.ok else f"{found.result.value}: "
        told = f"{word}{found.detail}"
        if found.ok and (seconds := found.measured.get("authoritative_seconds")) is not None:
            told = f"authoritative +{seconds:.2f} s"  # the weights were told as they were written
        elif (seconds := found.measured.get("observed_seconds")) is not None:
            told += f"; observed +{seconds:.2f} s"
        session.say(f"{route}: {told}", action=found.action)

    def plan(plan: Plan, operation: str) -> None:
        for action in plan.actions[:1]:
            session.say(f"{action.subject}: operation {operation}", operation=operation)

    return Said(plan=plan, outcome=outcome, text=session.say)


def tell_left_drained(session: Session, seen: Seen) -> bool:
    """Warn of servers that send clients away although nothing tells them to any more; whether there
    are any."""
    from mlplatform.failover import operations

    found = operations.left_drained(seen.routes)
    for region, drained in found.items():
        session.console.warn(
            f"{region}: its servers still send clients away, as {drained.operation} told them to"
            f"{f': {drained.why}' if drained.why else ''}"
        )
        session.say(f"mlplatform failover undrain {region}", level="hint")
    return bool(found)


def _rows_of(proposal: Proposal) -> list[dict[str, Any]]:
    return [
        {**action.model_dump(mode="json"), "route": route, "what": _what(action.parameters)}
        for route, plan in proposal.plans.items()
        for action in plan.actions
    ]


def _what(parameters: dict[str, Any]) -> str:
    before, after = parameters.get("before"), parameters.get("after")
    if before is not None and after is not None:
        changed = [region for region in after if before.get(region) != after[region]]
        return ", ".join(f"{region} {before.get(region)} → {after[region]} %" for region in changed)
    if "servers" in parameters:
        return f"{parameters.get('model')}: {parameters['servers']} servers"
    return ""


_PLAN_COLUMNS = [
    Column("route"),
    Column("kind", "ACTION"),
    Column("region"),
    Column("reason"),
]

_GATE_COLUMNS = [
    Column("route"),
    Column("target"),
    Column("health"),
    Column("gates"),
    Column("headroom", optional=True),
]


def _gates_of(proposal: Proposal) -> list[dict[str, Any]]:
    """Each candidate's gates as they were measured, for routes that would be changed."""
    rows = []
    for route, plan in proposal.plans.items():
        shift = next((action for action in plan.actions if action.kind == "shift"), None)
        if shift is None:
            continue
        figures, source = shift.figures, shift.parameters["source"]
        room, refused = figures["headroom"], figures["refused"]
        rows += [
            {
                "route": route,
                "target": region,
                "health": figures["verdicts"].get(region),
                "gates": "; ".join([*refused.get(region, []), *_broken_at(region, figures)])
                or "open",
                "headroom": room.get(region, {}).get("said", ""),
            }
            for region in dict.fromkeys([*room, *refused])
            if region != source
        ]
    return rows


def _broken_at(region: str, figures: dict[str, Any]) -> list[str]:
    """The gates that are broken on purpose there."""
    told = [text.partition(": ") for text in figures["broken"]]
    return [f"{why.partition(':')[0]} is broken" for name, _, why in told if name == region]


def _tell_figures(session: Session, proposal: Proposal) -> None:
    """What is to move, and what is broken on purpose."""
    for route, plan in proposal.plans.items():
        shift = next((action for action in plan.actions if action.kind == "shift"), None)
        if shift is None:
            continue
        if demand := shift.figures["demand"]:
            session.say(f"{route}: requests/s: {demand['said']}")
        for broken in shift.figures["broken"]:
            session.console.warn(f"broken on purpose: {route}: {broken}")


def show_proposal(session: Session, proposal: Proposal) -> int:
    """What would be done, and what is held. The exit code is that of what is held."""
    from mlplatform.control.reconcile import exit_code

    holds = [hold for plan in proposal.plans.values() for hold in plan.holds]
    session.show(
        "actions",
        _rows_of(proposal),
        columns=_PLAN_COLUMNS,
        holds=[hold.model_dump(mode="json") for hold in holds],
        noop=proposal.noop,
        cost=cost.as_json() if (cost := _cost_of(session, proposal)) else None,
    )
    tell_cost(session, cost)
    if session.output is Output.TABLE:
        if gates := _gates_of(proposal):
            session.console.data("\n")
            session.show("gates", gates, columns=_GATE_COLUMNS)
        _tell_figures(session, proposal)
    for route, text in proposal.left.items():
        session.console.warn(f"{route}: {text}")
    _tell_holds(session, proposal)
    if not proposal.noop:
        session.say("plan: nothing was changed")
    elif not holds:
        source = proposal.request.source
        session.say(f"nothing to do{f': {source} is given no traffic' if source else ''}")
    if proposal.noop:
        for there in proposal.seen.routes.values():
            for recovery in there.recoveries:
                if recovery.ended_seconds_ago is None:
                    session.say(
                        f"{recovery.operation} on {there.name} is under way, or was left; "
                        f"`mlplatform failover resume {recovery.operation}` goes on with it",
                        level="hint",
                    )
    return exit_code((), holds)


def _cost_of(session: Session, proposal: Proposal) -> Cost | None:
    """What the servers that are asked for cost; None where none are, or no table can be read."""
    actions = [action for plan in proposal.plans.values() for action in plan.actions]
    if not any(action.consumes for action in actions):
        return None
    pricing = pricing_of(session, session.topology())
    return pricing.plan(actions) if pricing else None


def _tell_what_to_vouch_for(session: Session, proposal: Proposal) -> None:
    """Without its control store failover knows what routers, servers and stores say, and nothing of
    what vantages saw. Whoever acts all the same does so by what they see themselves."""
    from mlplatform.failover.decision.seen import Gate, Rule

    known = {each.value for each in (*Gate, *Rule)}
    holds = [hold for plan in proposal.plans.values() for hold in plan.holds if hold.unknown]
    unseen = {hold.reason.partition(":")[0] for hold in holds} & known
    if unseen:
        session.say(
            "what vantages saw lies in the control store; if you see for yourself that it is so, "
            f"add --break-glass {','.join(sorted(unseen))}",
            level="hint",
        )


def tell_proposal(session: Session, proposal: Proposal) -> None:
    """The same for people, before they are asked."""
    for row in _rows_of(proposal):
        session.say(f"{row['route']}: {row['kind']} {row['region']}: {row['reason']}")
    for route, text in proposal.left.items():
        session.console.warn(f"{route}: {text}")
    for row in _gates_of(proposal):
        room = f"; {row['headroom']}" if row["headroom"] else ""
        session.say(
            f"{row['route']}: {row['target']} is {row['health']}, gates: {row['gates']}{room}"
        )
    tell_cost(session, _cost_of(session, proposal))
    _tell_figures(session, proposal)
    _tell_holds(session, proposal)


def _tell_holds(session: Session, proposal: Proposal) -> None:
    for route, plan in proposal.plans.items():
        for hold in plan.holds:
            where = f" {hold.region}" if hold.region else ""
            session.console.warn(f"held: {route}{where}: {hold.reason}")


def show_moves(session: Session, done: Moves) -> int:
    """What was done on each route. The exit code is all routes' together."""
    from mlplatform.core.plan import Result

    rows = []
    for report in done.reports.values():
        for told in (*report.resumed, report):
            kinds = {action.key: action for action in told.plan.actions}
            for outcome in told.outcomes:
                action = kinds.get(outcome.action)
                # What a resumed operation had done before is no longer in its plan.
                _, subject, kind, *_ = outcome.action.split("/")
                rows.append(
                    {
                        "route": subject,
                        "operation": told.operation,
                        "kind": kind,
                        "region": action.region if action else "",
                        "result": outcome.result.value,
                        "detail": outcome.detail,
                        "error": outcome.error,
                        "hint": outcome.hint,
                        "authoritative_seconds": outcome.measured.get("authoritative_seconds"),
                        "observed_seconds": outcome.measured.get("observed_seconds"),
                        "measured": outcome.measured,
                    }
                )
    holds = [hold for report in done.reports.values() for hold in report.plan.holds]
    session.show(
        "outcomes",
        rows,
        columns=[
            Column("route"),
            Column("kind", "ACTION"),
            Column("region"),
            Column("result"),
            Column("authoritative_seconds", "AUTHORITATIVE", duration, right=True, optional=True),
            Column("observed_seconds", "OBSERVED", duration, right=True, optional=True),
            Column("detail"),
        ],
        holds=[hold.model_dump(mode="json") for hold in holds],
        errors={route: str(error) for route, error in done.errors.items()},
    )
    for hold in holds:
        session.console.warn(f"held: {hold.subject} {hold.region}: {hold.reason}")
    for hint in dict.fromkeys(str(row["hint"]) for row in rows if row["hint"]):
        session.say(hint, level="hint")
    codes = [report.exit_code for report in done.reports.values()]
    for route, error in done.errors.items():
        session.console.say(f"{route}: {error}", level="error")
        if error.hint:
            session.console.say(error.hint, level="hint")
        codes.append(error.exit_code)
    moved = any(row["result"] == Result.DONE.value for row in rows)
    gravest = outranking(codes)
    return 8 if moved and gravest not in _TELL_OF_ALL else gravest


def _shares(weights: Any) -> str:
    if not weights:
        return "-"
    return ", ".join(f"{region} {weight}" for region, weight in weights.items())


def _lines(texts: Any) -> str:
    return "\n".join(texts) or "-"


def _colour_of_health(health: object) -> str | None:
    return {"healthy": "green", "suspect": "yellow", "unknown": "yellow"}.get(str(health), "red")
