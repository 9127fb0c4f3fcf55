"""`mlplatform demo`: the product told as a story, each step by the command that does it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from mlplatform.cli.frame import command
from mlplatform.cli.session import Session


@command
def demo(
    session: Session,
    chapter: Annotated[
        str | None,
        typer.Argument(metavar="CHAPTER", help="Only this one: publish, failover, rollout, cost."),
    ] = None,
    *,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave the folder, and say how to go on.")
    ] = False,
) -> int:
    """Tell the product as a story, on real models and three regions in a temporary folder.

    $ mlplatform demo
    $ mlplatform demo cost
    $ mlplatform demo --keep
    """
    import shutil
    import tempfile

    from mlplatform.cli.demo import cost, failover, publish, rollout
    from mlplatform.cli.demo.stage import Stage
    from mlplatform.core.errors import UsageError

    chapters = {
        "publish": publish.tell,
        "failover": failover.tell,
        "rollout": rollout.tell,
        "cost": cost.tell,
    }
    if chapter not in (None, *chapters):
        raise UsageError(f"{chapter}: no such chapter", hint=f"chapters: {', '.join(chapters)}")
    folder = Path(tempfile.mkdtemp(prefix="mlplatform-demo-"))
    began = time.monotonic()
    with Stage(session, folder) as stage:
        try:
            for name in [chapter] if chapter else chapters:
                chapters[name](stage)
            stage.tell(f"That was all, in {time.monotonic() - began:.0f} seconds.")
            if keep:
                stage.tell("Everything is still there. Go on with:\n\n" + stage.how_to_go_on())
        finally:
            stage.end_processes()
            if not keep:
                shutil.rmtree(folder, ignore_errors=True)
    return 0
