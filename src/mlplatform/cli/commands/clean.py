"""`mlplatform clean`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlplatform.cli import options
from mlplatform.cli.commands.replication import replicas_of
from mlplatform.cli.errors import UNREADABLE_HINT, outranking
from mlplatform.cli.frame import command
from mlplatform.cli.session import Session

if TYPE_CHECKING:
    from mlplatform.control.reconcile import Report
    from mlplatform.replication.clean import Fate, Leftover


@command
def clean(
    session: Session,
    *,
    regions: options.Regions = None,
    older_than: Annotated[
        float,
        typer.Option(
            "--older-than", metavar="HOURS", min=0, help="Only what was begun so long ago."
        ),
    ] = 168.0,
    plan: options.PlanOnly = False,
    yes: options.Yes = False,
    confirm: options.Confirm = None,
    region_timeout: options.RegionTimeout = 30.0,
) -> int:
    """Drop what was left of uploads that nobody goes on with.

    A transfer that was killed goes on from what the target holds, so that is kept for a week. What
    somebody is at work on, by the version's lease, is left alone however old it is, and so is what
    is not of a version. Azure drops by itself what has got no part for a week.

    $ mlplatform clean --plan
    $ mlplatform clean --older-than 24 --region eu-west-1 --yes
    """
    from mlplatform.cli.plans import said_by
    from mlplatform.replication import operations
    from mlplatform.replication.clean import DROP

    age = timedelta(hours=older_than)
    with replicas_of(session, region_timeout=region_timeout) as replicas:
        fates, unreadable = operations.find_waste(replicas, options.split(regions), age)
        now = replicas.clock.now()
        waste = [each for each, fate in fates.items() if fate.result == DROP]
        cleaned = operations.Cleaned({})
        if waste and not plan:
            _confirm(session, waste, yes=yes, given=confirm)
            cleaned = operations.clean(replicas, waste, age, said=said_by(session))
    _show(session, {**fates, **cleaned.fates}, cleaned.reports, now, unreadable)
    for reason in unreadable.values():
        session.console.warn(reason)
    if unreadable:
        session.say(UNREADABLE_HINT, level="hint")
    if plan and waste:
        session.say(f"plan: {_told(waste)} to drop, nothing was changed")
    elif not waste:
        session.say("nothing to do")
    codes = [report.exit_code for report in cleaned.reports]
    return outranking([*codes, 5 if unreadable else 0])


def _confirm(session: Session, waste: Sequence[Leftover], *, yes: bool, given: str | None) -> None:
    for region in dict.fromkeys(each.region for each in waste):
        here = [each for each in waste if each.region == region]
        session.confirm(f"this drops {_told(here)} there", region, yes=yes, given=given)


def _told(waste: Sequence[Leftover]) -> str:
    from mlplatform.cli.render import size
    from mlplatform.replication.clean import counted

    total = sum(each.size_bytes or 0 for each in waste)
    return f"{counted(len(waste))}, {size(total)},"


def _show(
    session: Session,
    fates: Mapping[Leftover, Fate],
    reports: Sequence[Report],
    now: datetime,
    unreadable: Mapping[str, str],
) -> None:
    from mlplatform.cli.render import Column, Output, duration, size

    rows: list[dict[str, Any]] = []
    for each, fate in fates.items():
        age = each.age(now)
        rows.append(
            {
                "region": each.region,
                "key": each.key,
                "version": str(each.owner) if each.owner else None,
                "started": each.started,
                "age_seconds": round(age.total_seconds(), 1) if age is not None else None,
                "parts": each.parts,
                "size_bytes": each.size_bytes,
                "result": fate.result,
                "detail": fate.detail,
            }
        )
    if not rows and session.output is Output.TABLE:
        return
    session.show(
        "uploads",
        rows,
        columns=[
            Column("region"),
            Column("key"),
            Column("age_seconds", "AGE", duration, right=True),
            Column("parts", right=True),
            Column("size_bytes", "BYTES", size, right=True),
            Column("result"),
            Column("detail", optional=True),
        ],
        unreadable=dict(unreadable),
        operations=[report.operation for report in reports if report.operation],
    )
