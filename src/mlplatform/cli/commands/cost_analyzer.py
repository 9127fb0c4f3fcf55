"""`python -m mlplatform.cost.cost_analyzer`: the line that runbooks have typed for years.

It asks what the commands of `mlplatform cost` ask; `docs/runbooks.md` says which is which.
"""

from __future__ import annotations

from datetime import date
from typing import Annotated

import typer

from mlplatform.cli import frame
from mlplatform.cli.commands import anomalies as unusual
from mlplatform.cli.commands.bills import By, Cost, Limit, Reveal, office_of, show_report
from mlplatform.cli.frame import command
from mlplatform.cli.session import Session
from mlplatform.core.errors import UsageError

PROG = "python -m mlplatform.cost.cost_analyzer"


@command
def cost_analyzer(
    session: Session,
    *,
    days: Annotated[
        int | None,
        typer.Option(
            "--days",
            metavar="N",
            min=1,
            max=3660,
            help="So many days, to the last with data: 7, and of anomalies 30.",
        ),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option("--since", metavar="DATE", help="The days since, in place of --days."),
    ] = None,
    by_region: Annotated[
        bool, typer.Option("--by-region", help="The same as --by region.")
    ] = False,
    by: By = None,
    cost: Cost = "effective",
    limit: Limit = 40,
    reveal: Reveal = False,
    anomalies: Annotated[
        bool,
        typer.Option("--anomalies", help="What is unusual; exit 3 while one stands unanswered."),
    ] = False,
    explain: Annotated[
        str | None,
        typer.Option("--explain", metavar="INCIDENT", help="Why an incident cost what it did."),
    ] = None,
) -> int:
    """Show what was spent, as old runbooks ask for it; see `mlplatform cost --help`."""
    names = [*(["region"] if by_region else []), *(by or [])]
    if explain is not None:
        return unusual.show_explanation(session, explain)
    if anomalies:
        return unusual.show_anomalies(session, names, days or unusual.DAYS, since, cost)
    if since is not None:
        days = _days_since(session, unusual.day_of("--since", since))
    return show_report(session, names, days or 7, cost, limit=limit, reveal=reveal)


def _days_since(session: Session, since: date) -> int | None:
    """How many days the data covers since a day; None where it covers none at all."""
    from mlplatform.cost.ledger import standing
    from mlplatform.cost.spending import covered_until

    with office_of(session) as office:
        until = max(covered_until(standing(office.ledger.current())).values(), default=None)
    if until is None:
        return None
    if since > until:
        raise UsageError(f"--since {since}: the data ends on {until}")
    return (until - since).days + 1


def main() -> None:
    """Run it, as the process that it is."""
    frame.main(lambda: frame.to_click(cost_analyzer), prog=PROG)
