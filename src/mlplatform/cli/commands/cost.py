"""`mlplatform cost …`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mlplatform.cli import frame
from mlplatform.cli.commands import anomalies, bills, budgets
from mlplatform.cli.commands import waste as wasting
from mlplatform.cli.frame import command
from mlplatform.cli.render import Output
from mlplatform.cli.session import Session

_LINES_AT_ONCE = 10_000


@command
def detect(
    session: Session,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A CSV file with series,timestamp,value.")
    ],
    *,
    rule: Annotated[
        str,
        typer.Option("--rule", metavar="RULE", help="By which rule: model, or day-over-day."),
    ] = "model",
    relative: Annotated[
        float,
        typer.Option(
            "--relative",
            metavar="PERCENT",
            min=0,
            help="An alarm is so far above the expected.",
        ),
    ] = 10.0,
    money: Annotated[
        float,
        typer.Option(
            "--money", metavar="AMOUNT", min=0, help="And by so much a day, in the file's currency."
        ),
    ] = 1.0,
) -> None:
    """Find what is unusual in any series of costs, from a CSV file.

    The answer is a JSON line for each row, in the file's order: series, timestamp, expected, score,
    alarm, reason. A row is judged by the rows before it and itself. Rows are days or hours; gaps
    and empty values are unknown. The score ranks rows of all series: 0 is nothing, 0.3 even odds,
    2 a hundred to one. An alarm needs a score of 0.5, the share and the money.

    $ mlplatform cost detect costs.csv
    $ mlplatform cost detect costs.csv --rule day-over-day
    """
    from itertools import islice

    from mlplatform.core.errors import UsageError
    from mlplatform.cost.detect.alarms import Rules
    from mlplatform.cost.detect.report import Rule, judge_file, lines_of, rows_of
    from mlplatform.cost.detect.series_file import read_series

    if rule not in set(Rule):
        raise UsageError(
            f"--rule: there is no rule {rule!r}", hint=f"one of {', '.join(sorted(Rule))}"
        )
    rules = Rules(relative=relative / 100, money_a_day=money)
    series = read_series(file)
    judged = judge_file(series, rules, Rule(rule))
    if not judged:
        session.console.warn(f"{file}: there is a heading and no row")
    if session.output is Output.JSON:
        session.show("steps", rows_of(series, judged), columns=[])
    else:
        lines = lines_of(series, judged, session.console.redact)
        while some := list(islice(lines, _LINES_AT_ONCE)):
            session.console.data("".join(some))


@command
def locate(
    session: Session,
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="A CSV file with dimensions, actual and expected."),
    ],
    *,
    ratio: Annotated[
        str | None,
        typer.Option(
            "--ratio",
            metavar="NUM/DEN",
            help="The measure is a ratio, its values in NUM_actual, NUM_expected and so on.",
        ),
    ] = None,
    candidates: Annotated[
        int,
        typer.Option("--candidates", metavar="N", min=1, help="At most so many leaf sets."),
    ] = 5,
) -> None:
    """Find where a change is: the combinations of values that carry it, ranked, with their share.

    The file has a line for each leaf of a cube. All columns but actual and expected are dimensions;
    an empty value is one as any other, and lines with the same values are added up. Rank 1 is the
    answer: the smallest set that carries the change. Sets below are what else was weighed, and
    overlap it. The share is what of the whole's change would be gone had the set been as expected.

    $ mlplatform cost locate cube.csv
    $ mlplatform cost locate cube.csv --ratio cost/requests --output ndjson
    """
    from mlplatform.cli.render import Column
    from mlplatform.cost.locate.ranking import rank
    from mlplatform.cost.locate.read_leaves import Ratio, read_leaves

    leaves = read_leaves(file, None if ratio is None else Ratio.parse(ratio))
    ranking = rank(leaves, candidates)
    whole = ranking.whole
    extra: dict[str, object] = {}
    if session.output is Output.JSON:
        extra = {
            "measure": ratio or "actual",
            "dimensions": list(leaves.dimensions),
            "leaves": whole.leaves,
            "actual": whole.actual,
            "expected": whole.expected,
            "change": whole.change,
        }
    session.show(
        "sets",
        [each.as_row() for each in ranking.sets],
        columns=[
            Column("rank", right=True),
            Column("text", "SET"),
            Column("share", show=_percent, right=True),
            Column("actual", show=_amount, right=True),
            Column("expected", show=_amount, right=True),
            Column("change", show=_amount, right=True),
            Column("leaves", right=True),
        ],
        **extra,
    )
    if not ranking.sets:
        session.say(f"{file}: nothing changed beyond noise")
    elif ranking.sets[0].doubtful:
        session.console.warn(
            f"{file}: nothing stands out of the noise; the first set is only the likeliest"
        )


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def _amount(value: float | None) -> str:
    return "-" if value is None else f"{value:,.4g}" if abs(value) < 100 else f"{value:,.2f}"


app = frame.new_group(help="Know what it costs, what is unusual about it, and why.")
frame.add(app, bills.import_bills, "import")
frame.add(app, bills.report, "report")
frame.add(app, anomalies.anomalies, "anomalies")
frame.add(app, anomalies.explain, "explain")
frame.add(app, anomalies.feedback, "feedback")
frame.add(app, detect, "detect")
frame.add(app, locate, "locate")
frame.add(app, budgets.budget, "budget")
frame.add(app, budgets.forecast, "forecast")
frame.add(app, wasting.waste, "waste")
frame.add(app, budgets.unit, "unit")
