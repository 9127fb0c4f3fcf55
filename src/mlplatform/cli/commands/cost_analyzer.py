"""`python -m mlplatform.cost.cost_analyzer`: the line that runbooks have typed for years.

It asks what the commands of `mlplatform cost` ask; `docs/runbooks.md` says which is which.
"""

from __future__ import annotations

from typing import Annotated

import typer

from mlplatform.cli import frame
from mlplatform.cli.commands.bills import By, Cost, Days, Limit, Reveal, show_report
from mlplatform.cli.frame import command
from mlplatform.cli.session import Session

PROG = "python -m mlplatform.cost.cost_analyzer"


@command
def cost_analyzer(
    session: Session,
    *,
    days: Days = 7,
    by_region: Annotated[
        bool, typer.Option("--by-region", help="The same as --by region.")
    ] = False,
    by: By = None,
    cost: Cost = "effective",
    limit: Limit = 40,
    reveal: Reveal = False,
) -> int:
    """Show what was spent, as old runbooks ask for it; see `mlplatform cost --help`."""
    names = [*(["region"] if by_region else []), *(by or [])]
    return show_report(session, names, days, cost, limit=limit, reveal=reveal)


def main() -> None:
    """Run it, as the process that it is."""
    frame.main(lambda: frame.to_click(cost_analyzer), prog=PROG)
