"""`mlplatform init`."""

from importlib.resources import files
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import typer

from mlplatform.cli.frame import command
from mlplatform.cli.render import Column, Output
from mlplatform.cli.session import Session
from mlplatform.core.errors import UsageError

EXAMPLE = files("mlplatform.cli") / "topology.example.yaml"
EXAMPLE_FOLDER = "file:///srv/mlplatform"
"""Where the example keeps its stores; `init` keeps them beside the file that it writes."""


@command
def init(
    session: Session,
    *,
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite the file that is there.")
    ] = False,
) -> None:
    """Write a commented topology.yaml to start from.

    Its stores are folders beside it, so that everything works at once; give it your own.

    $ mlplatform init
    """
    path = session.topology_file or Path("topology.yaml")
    here = quote(str((session.cwd / path).parent.resolve()))
    text = EXAMPLE.read_text(encoding="utf-8").replace(EXAMPLE_FOLDER, f"file://{here}")
    try:
        with (session.cwd / path).open("w" if force else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise UsageError(f"{path}: exists already", hint="--force overwrites it") from error
    if session.output is not Output.TABLE:
        session.show("files", [{"path": str(path)}], columns=[Column("path")])
    session.say(f"wrote {path}; next: mlplatform validate")
