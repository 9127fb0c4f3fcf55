"""Options that several commands share, so that they are spelt and explained alike.

Use them as annotations: `regions: options.Regions = None`. What every command has (`COMMON`) is
added by `frame.command`.
"""

import inspect
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mlplatform.cli.render import Output


class LogFormat(StrEnum):
    """`--log-format`."""

    TEXT = "text"
    JSON = "json"


Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do it without asking.")]
Confirm = Annotated[
    str | None,
    typer.Option("--confirm", metavar="REGION", help="Do it in this region without asking."),
]
PlanOnly = Annotated[
    bool, typer.Option("--plan", help="Show what would be done and why; change nothing.")
]
Regions = Annotated[
    list[str] | None,
    typer.Option("--region", metavar="REGION", help="Only there; repeat it, or use commas."),
]
RegionTimeout = Annotated[
    float,
    typer.Option(
        "--region-timeout",
        metavar="SECONDS",
        min=0.1,
        help="How long to wait for a region that does not answer.",
    ),
]
Timeout = Annotated[
    float | None,
    typer.Option("--timeout", metavar="SECONDS", min=0.1, help="How long it may take in all."),
]


def _option(name: str, kind: object, *, default: object) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=kind, default=default)


COMMON = (
    _option(
        "topology_file",
        Annotated[
            Path | None,
            typer.Option(
                "--topology",
                metavar="FILE",
                help="The topology; else MLPLATFORM_TOPOLOGY, else topology.yaml here or above.",
            ),
        ],
        default=None,
    ),
    _option(
        "output",
        Annotated[
            Output,
            typer.Option(
                "--output",
                "-o",
                metavar="FORMAT",
                help="How results are printed: table, json, ndjson or csv.",
            ),
        ],
        default=Output.TABLE,
    ),
    _option(
        "verbose",
        Annotated[
            int,
            typer.Option(
                "--verbose",
                "-v",
                count=True,
                show_default=False,
                help="Log more; up to three times.",
            ),
        ],
        default=0,
    ),
    _option(
        "log_format",
        Annotated[
            LogFormat,
            typer.Option(
                "--log-format", metavar="FORMAT", help="How stderr is written: text or json."
            ),
        ],
        default=LogFormat.TEXT,
    ),
    _option(
        "no_color",
        Annotated[bool, typer.Option("--no-color", help="No colour; also NO_COLOR.")],
        default=False,
    ),
    _option(
        "no_input",
        Annotated[bool, typer.Option("--no-input", help="Never ask; also MLPLATFORM_NO_INPUT.")],
        default=False,
    ),
    _option(
        "debug",
        Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")],
        default=False,
    ),
)
"""What every command has."""


def split(values: Iterable[str] | None) -> list[str]:
    """The names in a repeated option, each of which may hold several with commas between."""
    names = (name.strip() for value in values or () for name in value.split(","))
    return list(dict.fromkeys(name for name in names if name))
