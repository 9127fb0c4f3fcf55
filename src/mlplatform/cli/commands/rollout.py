"""`mlplatform rollout …`, and `python -m mlplatform.rollout.rollout_controller`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlplatform.cli import frame, options
from mlplatform.cli.costs import pricing_of, tell_cost
from mlplatform.cli.frame import command
from mlplatform.cli.render import Column, duration
from mlplatform.cli.session import Session

if TYPE_CHECKING:
    from mlplatform.core.money import Cost, Pricing
    from mlplatform.core.plan import Action, Hold
    from mlplatform.rollout.operations import Proposal

PROG = "python -m mlplatform.rollout.rollout_controller"


@command
def plan(
    session: Session,
    reference: Annotated[
        str,
        typer.Argument(
            metavar="MODEL@VERSION", help="What is to serve; without a version, the topology's."
        ),
    ],
    *,
    regions: options.Regions = None,
) -> int:
    """Show what a rollout would do, region by region and step by step; change nothing.

    Each step says what it waits for, what it touches, and how it is undone. While anything stands
    in the way in any region that is asked for, there are no steps, and what stands in the way is
    named with what to do: exit code 3, or 5 where something could not be read.

    $ mlplatform rollout plan resnet50@v1.3.0
    $ mlplatform rollout plan resnet50@v1.3.0 --region eu-west-1 --output json
    """
    from mlplatform.cli.standings import looking_at_failover
    from mlplatform.core.errors import UsageError

    try:
        from mlplatform.rollout import operations
        from mlplatform.rollout.rollout_controller import open_sites
    except ModuleNotFoundError as error:
        raise UsageError(
            f"rollouts are judged with {error.name}, which is not installed",
            hint="pip install 'mlplatform[rollout]'",
        ) from error

    topology = session.topology()
    request = operations.request_for(topology, reference, options.split(regions))
    with session.working() as work:
        sites = open_sites(topology, looking_at_failover(topology, work.stop), stop=work.stop)
        proposal = operations.propose(sites, request)
    return show_proposal(session, proposal)


app = frame.new_group(help="Bring a version into service, region by region.")
frame.add(app, plan)


def main() -> None:
    """Run the same commands, as the process that it is."""
    frame.main(lambda: frame.to_click(app), prog=PROG)


def show_proposal(session: Session, proposal: Proposal) -> int:
    """The steps, or what stands in their way. The exit code is that of what is held."""
    from mlplatform.control.reconcile import exit_code

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
    )
    _tell_holds(session, plan.holds)
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


def _said(cost: Mapping[str, Any] | None) -> str:
    return "-" if cost is None else str(cost["said"])


def _least(seconds: float | None) -> str:
    return "unknown" if seconds is None else duration(seconds) if seconds else "-"
