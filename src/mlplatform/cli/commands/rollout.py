"""`mlplatform rollout …`, and `python -m mlplatform.rollout.rollout_controller`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlplatform.cli import frame, options
from mlplatform.cli.costs import pricing_of, tell_cost
from mlplatform.cli.frame import command
from mlplatform.cli.render import Column, Output, duration
from mlplatform.cli.session import Session

if TYPE_CHECKING:
    from mlplatform.core.money import Cost, Pricing
    from mlplatform.core.plan import Action, Hold, Plan
    from mlplatform.rollout.effects import Sites
    from mlplatform.rollout.operations import By, Proposal, Rolled, Said, Stands
    from mlplatform.rollout.plan.seen import Request
    from mlplatform.rollout.records import Ordered, StoredPlan
    from mlplatform.rollout.report.content import Content, Hand

PROG = "python -m mlplatform.rollout.rollout_controller"


Reference = Annotated[
    str,
    typer.Argument(
        metavar="MODEL@VERSION", help="What is to serve; without a version, the topology's."
    ),
]
Which = Annotated[
    str,
    typer.Argument(
        metavar="ROLLOUT",
        help="MODEL, MODEL@VERSION or the operation: the newest that it may mean.",
    ),
]
StrategyKind = Annotated[
    str | None,
    typer.Option(
        "--strategy",
        metavar="KIND",
        help="canary, blue_green or in_place, in place of the topology's; with `--plan`, as it was "
        "planned.",
    ),
]
Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; kept in the journal.")]
Wait = Annotated[bool, typer.Option("--wait", help="Wait for whoever has a hand on the model.")]


@contextmanager
def sites_of(
    session: Session, *, reference: str = "", strategy: str | None = None
) -> Iterator[Sites]:
    """Rollout over the operator's topology, stopped in good order by Ctrl-C; a model's strategy
    may be another one than the topology says."""
    from mlplatform.cli.asking_failover import asking_failover
    from mlplatform.cli.interrupt import stopped_by_signals
    from mlplatform.core.errors import UsageError

    try:
        from mlplatform.rollout.rollout_controller import open_sites
    except ModuleNotFoundError as error:
        raise UsageError(
            f"rollouts are judged with {error.name}, which is not installed",
            hint="pip install 'mlplatform[rollout]'",
        ) from error
    topology = session.topology()
    if strategy is not None:
        from mlplatform.core.placement import parse_reference
        from mlplatform.core.rollout import with_strategy

        model, _ = parse_reference(reference)
        topology.model(model)
        changed = with_strategy(topology.rollout, model, strategy)
        topology = topology.model_copy(update={"rollout": changed})
    with stopped_by_signals(session.console) as stop:
        yield open_sites(topology, asking_failover(topology, stop), stop=stop)


@contextmanager
def saying(session: Session) -> Iterator[Said]:
    """What goes on is shown on stderr, for as long as this lasts."""
    from mlplatform.cli.live_rollout import showing_rollout

    with showing_rollout(session.console) as said:
        yield said


@command
def plan(
    session: Session,
    reference: Reference,
    *,
    regions: options.Regions = None,
    strategy: StrategyKind = None,
) -> int:
    """Show what a rollout would do, region by region and step by step; change nothing.

    Each step says what it waits for, what it touches, and how it is undone. The plan is kept in the
    control store under the name that is printed, for whoever is to approve and apply it. While
    anything stands in the way in any region that is asked for, there are no steps, and what stands
    in the way is named with what to do: exit code 3, or 5 where something could not be read.

    $ mlplatform rollout plan resnet50@v1.3.0
    $ mlplatform rollout plan resnet50@v1.3.0 --region eu-west-1 --output json
    """
    with sites_of(session, reference=reference, strategy=strategy) as sites:
        from mlplatform.rollout import operations

        request = operations.request_for(sites.topology, reference, options.split(regions))
        proposal = operations.propose(sites, request)
        if proposal.plan.actions:
            sites.records.store(request, proposal.plan)
        return show_proposal(session, sites, proposal)


@command
def apply(
    session: Session,
    reference: Reference,
    *,
    regions: options.Regions = None,
    name: Annotated[
        str | None,
        typer.Option(
            "--plan", metavar="NAME", help="Exactly this plan, as `rollout plan` named it."
        ),
    ] = None,
    strategy: StrategyKind = None,
    yes: options.Yes = False,
    wait: Wait = False,
) -> int:
    """Roll a version out: plan, ask, then every step of it, watched, and back if it is worse.

    Exit codes: 0 promoted everywhere; 3 returned, the last good version serves again, or something
    stands in the way; 7 the plan is stale; 8 people have to look. Interrupted, it stays as it is,
    and `rollout resume` goes on. In GitHub Actions what became of it is annotated.

    $ mlplatform rollout apply resnet50@v1.3.0
    $ mlplatform rollout apply resnet50@v1.3.0 --plan 4f3a9c01 --output json
    """
    return _apply(
        session, reference, options.split(regions), name=name, strategy=strategy, yes=yes, wait=wait
    )


@command
def blue_green(
    session: Session,
    reference: Reference,
    *,
    regions: options.Regions = None,
    yes: options.Yes = False,
    wait: Wait = False,
) -> int:
    """Start as many servers again, check them, and move all requests at once: `apply` with
    `--strategy blue_green`, for those who typed `blue-green-deploy.sh`.

    The new colour is what is checked, and no traffic goes to one that is empty.

    $ mlplatform rollout blue-green resnet50@v1.3.0 --yes
    """
    return _apply(
        session, reference, options.split(regions), strategy="blue_green", yes=yes, wait=wait
    )


@command
def health_check(
    session: Session,
    service: Annotated[
        str,
        typer.Argument(
            metavar="SERVICE",
            help="MODEL, MODEL@VERSION, or MODEL-active, MODEL-preview, MODEL-service.",
        ),
    ],
    *,
    regions: options.Regions = None,
) -> int:
    """Ask every server behind a name its golden requests: `health-check.sh SERVICE`.

    Exit codes: 0 all answer as they must; 3 one does not, or there is no server; 5 something could
    not be read. `preview` is the version that has no requests yet.

    $ mlplatform rollout health-check resnet50-preview
    $ mlplatform rollout health-check resnet50@v1.3.0 --region eu-west-1
    """
    with sites_of(session) as sites:
        from mlplatform.rollout import checking

        target = checking.target_of(sites.topology, service)
        found = list(checking.check(sites, target, options.split(regions)))
    session.show(
        "servers",
        [
            {
                "region": each.region,
                "version": each.version,
                "server": each.server,
                "result": "unknown" if each.unknown else "wrong" if each.problem else "good",
                "slowest_seconds": each.slowest_seconds,
                "detail": each.problem,
            }
            for each in found
        ],
        columns=[
            Column("region"),
            Column("version"),
            Column("server"),
            Column("result", style=_colour),
            Column("slowest_seconds", "SLOWEST", duration, right=True),
            Column("detail", optional=True),
        ],
    )
    if any(each.problem and not each.unknown for each in found):
        return 3
    return 5 if any(each.unknown for each in found) else 0


@command
def approve(
    session: Session,
    name: Annotated[
        str, typer.Argument(metavar="PLAN", help="Its name, as `rollout plan` printed it.")
    ],
    *,
    reason: Reason = "",
) -> int:
    """Say yes to a plan. Who you are is recorded, and who vouches for it.

    In a pipeline of GitHub or GitLab that is the issuer of its token, elsewhere the API server of a
    region's cluster, as `rollout.waves.identity` has it. A name that nobody vouches for is recorded
    as unverified; where `rollout.waves.approvers` names who may, it counts for nobody: exit code 4.
    A yes is to one operation: the same plan applied again needs another.

    $ mlplatform rollout approve 4f3a9c01 --reason "load test passed"
    """
    with sites_of(session) as sites:
        from mlplatform.rollout import operations

        approvers = sites.topology.rollout.waves.approvers
        approved = operations.approve(
            sites, name, by=_naming(session, sites, approvers), reason=reason
        )
    short = approved.stored.name[:12]
    session.show(
        "approvals",
        [{**approved.approval.model_dump(mode="json"), "plan": short}],
        columns=[Column("plan"), Column("by"), Column("verified"), Column("reason")],
        before=list(approved.before),
    )
    if approved.before:
        session.say(
            f"plan {short} was applied before, by {approved.before[-1]}: "
            "this is a yes to its being applied again"
        )
    return 0


@command
def status(
    session: Session,
    which: Annotated[
        str | None,
        typer.Argument(metavar="[ROLLOUT]", help="MODEL, MODEL@VERSION or the operation."),
    ] = None,
) -> int:
    """Show how far a rollout has come: every step, what became of it, and who had a hand in it.

    Of an open one, who is at work on it. Exit code 3 while it waits for people, because it is
    paused, wants a yes, or nobody is at work on it; and for one that ended with something to look
    at.

    $ mlplatform rollout status
    $ mlplatform rollout status resnet50 --output json
    """
    with sites_of(session) as sites:
        from mlplatform.rollout import operations

        if which is None:
            found = next(operations.operations_of(sites), None)
            if found is None:
                session.say("nothing was ever rolled out")
                return 0
        else:
            found = operations.newest(sites, which)
        from mlplatform.rollout.report.making import make_hands

        stands, hands = operations.stands(sites, found), make_hands(sites, found)
    return show_stands(session, stands, hands)


@command
def pause(session: Session, which: Which, *, reason: Reason = "") -> int:
    """Let a rollout begin no further step; what serves goes on serving.

    $ mlplatform rollout pause resnet50 --reason "incident 4711"
    """
    return _order(session, "pause", which, reason)


@command
def resume(session: Session, which: Which, *, wait: Wait = False) -> int:
    """Take back a pause, and go on with what a controller that ended has left.

    $ mlplatform rollout resume resnet50
    """
    with sites_of(session) as sites:
        from mlplatform.rollout import operations

        with saying(session) as said:
            rolled = operations.go_on(
                sites, which, by=_naming(session, sites), wait=wait, said=said
            )
    return _show_or_elsewhere(session, rolled, which)


@command
def abort(session: Session, which: Which, *, reason: Reason = "") -> int:
    """End a rollout, and bring back the last good version where it was left.

    $ mlplatform rollout abort resnet50 --reason "wrong labels"
    """
    with sites_of(session) as sites:
        from mlplatform.rollout import operations

        with saying(session) as said:
            _, rolled = operations.abort(
                sites, which, by=_naming(session, sites), reason=reason, said=said
            )
    return _show_or_elsewhere(session, rolled, which)


@command
def promote(session: Session, which: Which, *, reason: Reason = "") -> int:
    """Let a rollout go on without waiting for the verdict. It is on you, and the record says so.

    A verdict to return the canary still returns it. Where `rollout.waves.approvers` names who may
    approve, they alone may do this, and it has to be proven who you are: exit code 4.

    $ mlplatform rollout promote resnet50 --reason "no traffic at night; verified by hand"
    """
    return _order(session, "promote", which, reason)


@command
def undo(
    session: Session,
    which: Which,
    *,
    reason: Reason = "",
    yes: options.Yes = False,
    wait: Wait = False,
) -> int:
    """Bring back the last verified good version in every region of a rollout, over or not.

    $ mlplatform rollout undo resnet50 --reason "complaints" --yes
    """
    with sites_of(session) as sites:
        from mlplatform.rollout import operations

        stream = operations.newest(sites, which)
        request = operations.request_of(stream)
        what = f"the last good version comes back in {', '.join(request.regions)}"
        session.confirm(what, str(request.subject), yes=yes, named=False)
        with saying(session) as said:
            rolled = operations.undo(
                sites,
                which,
                by=_naming(session, sites),
                reason=reason or "undone",
                wait=wait,
                said=said,
            )
    return _show_or_elsewhere(session, rolled, which)


@command
def retry(session: Session, which: Which, *, yes: options.Yes = False, wait: Wait = False) -> int:
    """Go on with a rollout that was left; or plan and apply it anew, when it has ended.

    $ mlplatform rollout retry resnet50 --yes
    """
    with _annotated(session, which), sites_of(session) as sites:
        from mlplatform.rollout import operations

        stream = operations.newest(sites, which)
        if stream.closed:
            request = operations.request_of(stream)
            return _plan_and_apply(session, sites, request, yes=yes, wait=wait)
        with saying(session) as said:
            rolled = operations.go_on(
                sites, stream.operation, by=_naming(session, sites), wait=wait, said=said
            )
    return _show_or_elsewhere(session, rolled, which)


@command
def history(
    session: Session,
    which: Annotated[
        str | None, typer.Argument(metavar="[ROLLOUT]", help="MODEL or MODEL@VERSION.")
    ] = None,
    *,
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many, at most.")] = 20,
) -> int:
    """List rollouts, the newest first, what became of each, and who ordered what of it.

    $ mlplatform rollout history resnet50
    """
    from itertools import islice

    with sites_of(session) as sites:
        from mlplatform.rollout import operations

        streams = islice(operations.operations_of(sites, which or ""), limit)
        rows = [
            _history_row(operations.stands(sites, stream), sites.records.ordered(stream.operation))
            for stream in streams
        ]
    session.show(
        "rollouts",
        rows,
        columns=[
            Column("operation"),
            Column("subject", "VERSION"),
            Column("regions", show=_joined),
            Column("state"),
            Column("because", optional=True),
            Column("ordered", "ORDERED BY", _who_ordered, optional=True),
        ],
    )
    if not rows:
        session.say(f"nothing{f' of {which}' if which else ''} was ever rolled out")
    return 0


@command
def report(
    session: Session,
    which: Annotated[
        str | None,
        typer.Argument(
            metavar="[ROLLOUT]", help="MODEL, MODEL@VERSION or the operation; else the newest."
        ),
    ] = None,
    *,
    html: Annotated[
        Path | None,
        typer.Option("--html", metavar="FILE", help="Write a page: one file, nothing fetched."),
    ] = None,
    markdown: Annotated[
        Path | None,
        typer.Option("--markdown", metavar="FILE", help="Write it in Markdown."),
    ] = None,
) -> int:
    """Tell what became of a rollout, on what evidence and by whose hand, in Markdown.

    Waves, steps with their times, shares of requests, the evidence as it climbed, why it went back
    and how soon, what it cost. For a pull request or an incident; the page has the same, drawn.

    $ mlplatform rollout report resnet50@v1.3.0
    $ mlplatform rollout report --html rollout.html --markdown "$GITHUB_STEP_SUMMARY"
    """
    with sites_of(session) as sites:
        from mlplatform.core.errors import UsageError
        from mlplatform.rollout import operations
        from mlplatform.rollout.report.making import make_content

        if which is not None:
            found = operations.newest(sites, which)
        elif (newest := next(operations.operations_of(sites), None)) is not None:
            found = newest
        else:
            raise UsageError("nothing was ever rolled out", hint="mlplatform rollout plan MODEL")
        actions = found.agreed.actions
        pricing = pricing_of(session, sites.topology)
        content = make_content(sites, found, datetime.now(UTC), cost=_cost_of(pricing, actions))
    show_report(session, content, html, markdown)
    return 0


app = frame.new_group(help="Bring a version into service, region by region.")
for _command in (
    plan,
    apply,
    blue_green,
    health_check,
    approve,
    status,
    pause,
    resume,
    abort,
    promote,
    undo,
    retry,
    history,
    report,
):
    frame.add(app, _command)


def main() -> None:
    """Run the same commands, as the process that it is."""
    frame.main(lambda: frame.to_click(app), prog=PROG)


def _apply(
    session: Session,
    reference: str,
    regions: Sequence[str],
    *,
    name: str | None = None,
    strategy: str | None = None,
    yes: bool,
    wait: bool,
) -> int:
    with (
        _annotated(session, reference),
        sites_of(session, reference=reference, strategy=strategy) as sites,
    ):
        from mlplatform.rollout import operations

        if name is None:
            request = operations.request_for(sites.topology, reference, regions)
            return _plan_and_apply(session, sites, request, yes=yes, wait=wait)
        stored = sites.records.plan(name)
        _require_same(stored, reference)
        return _carry_out(session, sites, stored, wait=wait)


def _plan_and_apply(
    session: Session, sites: Sites, request: Request, *, yes: bool, wait: bool
) -> int:
    """Plan, show it, ask, and carry out what was agreed to."""
    from mlplatform.rollout import operations

    proposal = operations.propose(sites, request)
    if proposal.plan.holds or proposal.plan.noop:
        held = [f"{hold.region}: {hold.reason}" for hold in proposal.plan.holds]
        if held:
            text = f"{request.subject}: nothing was begun: {'; '.join(held)}"
            annotate(session, f"rollout of {request.subject}", text, failed=True)
        ended = operations.Ended.HELD if held else operations.Ended.NOTHING
        return show_proposal(session, sites, proposal, ended=ended.value, because="; ".join(held))
    stored = sites.records.store(request, proposal.plan)
    if yes:
        _tell_doubts(session, sites, proposal.plan)
    else:
        _show_before(session, sites, proposal)
        what = f"{len(stored.plan.actions)} steps in {', '.join(request.regions)}"
        session.confirm(what, str(request.subject), yes=yes, named=False)
    return _carry_out(session, sites, stored, wait=wait)


def _show_before(session: Session, sites: Sites, proposal: Proposal) -> None:
    """What somebody is to agree to: for programs on stderr, since stdout is for what becomes of
    it."""
    if session.output is Output.TABLE:
        show_proposal(session, sites, proposal)
        return
    for action in proposal.plan.actions:
        step = action.key.rpartition("/")[2]
        session.say(f"{action.region}: {step}: {action.reason}", region=action.region)
    _tell_doubts(session, sites, proposal.plan)


def _carry_out(session: Session, sites: Sites, stored: StoredPlan, *, wait: bool) -> int:
    from mlplatform.rollout import operations

    with saying(session) as said:
        rolled = operations.apply(sites, stored, wait=wait, said=said)
    return show_rolled(session, rolled, f"{stored.model}@{stored.version}")


def show_proposal(session: Session, sites: Sites, proposal: Proposal, **extra: Any) -> int:
    """The steps, or what stands in their way; `extra` is for programs. The exit code is that of
    what is held."""
    from mlplatform.control.reconcile import exit_code
    from mlplatform.rollout import operations

    plan = proposal.plan
    pricing = pricing_of(session, session.topology()) if plan.actions else None
    costs = [_cost_of(pricing, [action]) for action in plan.actions]
    total = _cost_of(pricing, plan.actions)
    session.show(
        "actions",
        [
            {
                **action.model_dump(mode="json"),
                "step": action.key.rpartition("/")[2],
                **{name: action.parameters.get(name) for name in _TOLD},
                "cost": cost.as_json() if cost is not None and cost.items else None,
            }
            for action, cost in zip(plan.actions, costs, strict=True)
        ],
        columns=[
            Column("wave", right=True),
            Column("region"),
            Column("step"),
            Column("reason", "WHAT"),
            Column("gate", "GOES ON WHEN"),
            Column("touches"),
            Column("undo", "GOES BACK BY"),
            Column("least_seconds", "AT LEAST", _least, right=True),
            Column("cost", show=_said, optional=True),
        ],
        holds=[hold.model_dump(mode="json") for hold in plan.holds],
        noop=plan.noop,
        digest=plan.digest,
        basis=dict(plan.basis),
        cost=total.as_json() if total is not None else None,
        **extra,
    )
    _tell_holds(session, plan.holds)
    left = operations.left(sites, proposal.request.subject.model) if plan.holds else []
    for each in left:
        session.say(
            f"{each} is under way, or was left: `mlplatform rollout resume {each}` goes on with "
            f"it, `mlplatform rollout abort {each}` takes it back",
            level="hint",
        )
    _tell_doubts(session, sites, plan)
    if plan.actions:
        waves = len({action.parameters["wave"] for action in plan.actions})
        session.say(
            f"plan {plan.digest.rpartition(':')[2][:12]}: {len(plan.actions)} steps in {waves} "
            f"wave{'s' * (waves != 1)}, nothing was changed"
        )
        tell_cost(session, total)
    elif not plan.holds:
        session.say(f"nothing to do: {proposal.request.subject} serves there already")
    return exit_code((), plan.holds)


_TOLD = ("wave", "gate", "touches", "undo", "least_seconds")


def _cost_of(pricing: Pricing | None, actions: Sequence[Action]) -> Cost | None:
    """What steps cost at the least; what nobody can price is left out, and said."""
    from mlplatform.core.money import Basis, Cost, Item
    from mlplatform.core.seen import Unknown

    if pricing is None:
        return None
    unpriced = [str(a.figures["unpriced"]) for a in actions if "unpriced" in a.figures]
    items = [Item(text, Basis.ONCE, Unknown(text)) for text in unpriced]
    return pricing.plan(actions) + Cost(tuple(items))


def _tell_holds(session: Session, holds: Sequence[Hold]) -> None:
    """Each with what to do about it, which is part of its reason."""
    for hold in holds:
        session.console.warn(f"held: {hold.subject} in {hold.region}: {hold.reason}")


def _tell_doubts(session: Session, sites: Sites, plan: Plan) -> None:
    """Before anybody agrees to it, or waits for it."""
    from mlplatform.rollout import operations

    if doubts := operations.doubts(sites.topology, plan, sites.clock.now().date()):
        session.console.warn(f"the verdict will promote nothing: {'; '.join(doubts)}")
        session.say(
            "measure how errors scatter on what serves and declare it, or `mlplatform rollout "
            "promote` when you have looked",
            level="hint",
        )


def _said(cost: Mapping[str, Any] | None) -> str:
    return "-" if cost is None else str(cost["said"])


def _least(seconds: float | None) -> str:
    return "unknown" if seconds is None else duration(seconds) if seconds else "-"


def show_rolled(session: Session, rolled: Rolled, subject: str) -> int:
    """What became of a rollout, step by step."""
    from mlplatform.rollout.operations import Ended, is_not_begun

    report = rolled.report
    rows = []
    for outcome in report.outcomes:
        _, _, region, step = [*outcome.action.split("/", 3), "", ""][:4]
        row = {**outcome.model_dump(mode="json"), "region": region, "step": step}
        if is_not_begun(outcome):
            if session.output is Output.TABLE:
                continue
            row["result"] = "not begun"
        rows.append(row)
    session.show(
        "outcomes",
        rows,
        columns=[
            Column("region"),
            Column("step"),
            Column("result", style=_colour),
            Column("detail"),
        ],
        operation=report.operation,
        ended=rolled.ended.value,
        because=rolled.because,
        stays_in=rolled.stays_in if rolled.ended is Ended.RETURNED else [],
        holds=[hold.model_dump(mode="json") for hold in report.plan.holds],
    )
    _tell_holds(session, report.plan.holds)
    stays = f"it stays in {', '.join(rolled.stays_in)}" if rolled.stays_in else ""
    text = {
        Ended.NOTHING: f"nothing to do: {subject} serves there already",
        Ended.HELD: f"{subject}: nothing was begun",
        Ended.PROMOTED: f"{subject} serves in every region of the plan",
        Ended.RETURNED: f"{subject} was returned, {stays or 'the last good version serves'}: "
        f"{rolled.because}",
        Ended.PARTLY: f"{subject}: people have to look: {rolled.because}",
    }[rolled.ended]
    failed = rolled.ended in (Ended.RETURNED, Ended.PARTLY)
    session.say(text, **({"level": "error"} if failed else {}))
    annotate(session, f"rollout of {subject}", text, failed=failed)
    return rolled.exit_code


def annotate(session: Session, title: str, text: str, *, failed: bool) -> None:
    """Where GitHub Actions runs this, as an annotation of the run.
    https://docs.github.com/actions/reference/workflow-commands-for-github-actions"""
    if session.environ.get("GITHUB_ACTIONS") != "true":
        return
    kind = "error" if failed else "notice"
    clean = session.console.redact(text)
    escaped = clean.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    named = title.replace("%", "%25").replace(":", "%3A").replace(",", "%2C")
    sys.stderr.write(f"::{kind} title={named}::{escaped}\n")


@contextmanager
def _annotated(session: Session, reference: str) -> Iterator[None]:
    """Where a rollout ends with an error, that is what became of it."""
    from mlplatform.core.errors import MlplatformError

    try:
        yield
    except MlplatformError as error:
        text = f"{error}\n{error.hint}" if error.hint else str(error)
        annotate(session, f"rollout of {reference}", text, failed=True)
        raise


def show_stands(session: Session, stands: Stands, hands: Sequence[Hand]) -> int:
    """Every step, what became of it, and who had a hand in it."""
    from dataclasses import asdict

    from mlplatform.rollout.report.wording import who

    rows = [
        {
            "wave": each.action.parameters.get("wave"),
            "region": each.action.region,
            "step": each.action.key.split("/", 3)[3],
            "result": each.result,
            "detail": each.outcome.detail if each.outcome else each.waits or each.action.reason,
            "measured": each.outcome.measured if each.outcome else {},
        }
        for each in stands.steps
    ]
    state = stands.state
    session.show(
        "steps",
        rows,
        columns=[
            Column("wave", right=True),
            Column("region"),
            Column("step"),
            Column("result", style=_colour),
            Column("detail"),
        ],
        operation=stands.operation,
        subject=str(stands.request.subject),
        state=state,
        because=stands.because,
        paused=stands.paused,
        at_work=asdict(stands.at_work) if stands.at_work else None,
        hands=[asdict(hand) for hand in hands],
    )
    for hand in hands:
        said = f": {hand.reason}" if hand.reason else ""
        session.say(f"{hand.at:%Y-%m-%d %H:%M:%SZ}: {who(hand)} {hand.what}{said}")
    why = f": {stands.because}" if stands.because else ""
    session.say(f"{stands.operation}: {stands.request.subject}: {state}{why}")
    if stands.paused:
        session.say(f"paused: {stands.paused}; mlplatform rollout resume {stands.operation}")
    if not stands.closed:
        session.say(_who_is_at_work(stands))
    looks = any(each.result in ("failed", "unknown") for each in stands.steps)
    return 3 if stands.waits_for_people or looks else 0


def _who_is_at_work(stands: Stands) -> str:
    last = stands.at_work
    if last is not None and not last.is_over:
        return f"{last.holder} is at work on it"
    was = f": {last.holder} was, until {last.until:%Y-%m-%d %H:%M:%SZ} by its clock" if last else ""
    return f"nobody is at work on it{was}; mlplatform rollout resume {stands.operation} goes on"


def _history_row(stands: Stands, ordered: Sequence[Ordered]) -> dict[str, Any]:
    return {
        "operation": stands.operation,
        "subject": str(stands.request.subject),
        "regions": list(stands.request.regions),
        "state": stands.state,
        "because": stands.because or None,
        "ordered": [each.model_dump(mode="json", exclude={"operation"}) for each in ordered],
    }


def _who_ordered(ordered: Sequence[Mapping[str, str]]) -> str:
    return "; ".join(
        f"{each['what']}: {each['by']}{'' if each['verified'] else ' (unverified)'}"
        for each in ordered
    )


_REPORTED = (
    "operation",
    "subject",
    "state",
    "because",
    "began",
    "ended",
    "requests",
    "failures",
    "planned_hours",
    "taken_hours",
    "left_out",
)


def show_report(
    session: Session, content: Content, html: Path | None, markdown_file: Path | None
) -> None:
    """A report into the files that were asked for; without any on stdout, as `--output` says."""
    from dataclasses import asdict

    from mlplatform.cli.page_file import write_page
    from mlplatform.rollout.report.markdown import markdown
    from mlplatform.rollout.report.page import page

    for path, option, text in (
        (html, "--html", page),
        (markdown_file, "--markdown", markdown),
    ):
        if path is not None:
            size = write_page(path, session.console.clean(text(content)), option=option)
            session.say(f"wrote {path}, {-(-size // 1000)} kB")
    if session.output is not Output.TABLE:
        session.show(
            "regions",
            [asdict(region) for region in content.regions],
            columns=[],
            **{name: getattr(content, name) for name in _REPORTED},
            hands=[asdict(hand) for hand in content.hands],
            caught=asdict(content.caught) if content.caught is not None else None,
            cost=content.cost.as_json() if content.cost is not None else None,
        )
    elif html is None and markdown_file is None:
        session.console.data(session.console.clean(markdown(content)))


def _joined(values: Sequence[str]) -> str:
    return ", ".join(values)


def _order(session: Session, kind: str, which: str, reason: str) -> int:
    from mlplatform.control.orders import Kind

    with sites_of(session) as sites:
        from mlplatform.rollout import operations

        named = sites.topology.rollout.waves.approvers if kind == "promote" else ()
        stream, ordered = operations.order(
            sites, Kind(kind), which, by=_naming(session, sites, named), reason=reason
        )
    session.show(
        "orders",
        [
            {
                **ordered.model_dump(mode="json", exclude={"operation", "what"}),
                "kind": ordered.what,
                "scope": ordered.operation,
                "subject": which,
            }
        ],
        columns=[
            Column("kind"),
            Column("scope", "OPERATION"),
            Column("by"),
            Column("verified"),
            Column("reason"),
        ],
    )
    session.say(f"whoever is at work on {stream.operation} hears of it within seconds")
    return 0


def _show_or_elsewhere(session: Session, rolled: Rolled | None, which: str) -> int:
    if rolled is None:
        session.say(
            "another process is at work on it, and has heard; "
            f"`mlplatform rollout status {which}` shows how it goes on"
        )
        return 0
    return show_rolled(session, rolled, rolled.subject or which)


def _require_same(stored: StoredPlan, reference: str) -> None:
    from mlplatform.core.errors import UsageError
    from mlplatform.core.placement import parse_reference

    model, version = parse_reference(reference)
    if model != stored.model or version not in (None, stored.version):
        raise UsageError(
            f"plan {stored.name[:12]} is of {stored.model}@{stored.version}, not of {reference}",
            hint=f"mlplatform rollout apply {stored.model}@{stored.version} "
            f"--plan {stored.name[:12]}",
        )


def _naming(session: Session, sites: Sites, named: Sequence[str] = ()) -> By:
    """Who types this, as far as anybody vouches for it: one of those that are `named`, if they can
    be that. Why nobody does is told."""
    from mlplatform import wiring
    from mlplatform.ports.identity import Identity
    from mlplatform.rollout.course.approval import is_named
    from mlplatform.rollout.identity import who_is_it

    def name() -> Identity:
        found = who_is_it(
            wiring.vouchers_of(sites.topology, session.environ),
            named,
            Identity(wiring.writer_name().rpartition(":")[0]),
        )
        proven = found.identity.verified and is_named(found.identity, named)
        for doubt in found.doubts if not proven else ():
            session.console.warn(f"who you are is not proven: {doubt}")
        return found.identity

    return name


def _colour(result: object) -> str | None:
    return {
        "done": "green",
        "failed": "red",
        "unknown": "yellow",
        "under way": "cyan",
        "good": "green",
        "wrong": "red",
    }.get(str(result))
