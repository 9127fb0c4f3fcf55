"""`mlplatform notify …`."""

from __future__ import annotations

from typing import Annotated

import typer

from mlplatform.cli import frame
from mlplatform.cli.errors import outranking
from mlplatform.cli.frame import command
from mlplatform.cli.render import Column
from mlplatform.cli.session import Session


@command
def try_out(
    session: Session,
    receiver: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Only this one of traffic.notify.")
    ] = None,
) -> int:
    """Send a notice to everybody who is to be told, and say who took it.

    $ mlplatform notify test
    """
    import os
    from random import SystemRandom

    from mlplatform import wiring
    from mlplatform.control.notices import send
    from mlplatform.control.retry import Retry
    from mlplatform.core.errors import MlplatformError, UsageError
    from mlplatform.ports.clock import SystemClock
    from mlplatform.ports.notify import Notice, Severity

    topology = session.topology()
    receivers = wiring.open_receivers(topology, os.environ)
    if receiver is not None:
        receivers = [each for each in receivers if each.name == receiver]
    if not receivers:
        raise UsageError(
            "there is nobody to tell" if receiver is None else f"{receiver}: no such receiver",
            hint="add one under traffic.notify in the topology",
        )
    clock = SystemClock()
    retry = Retry(clock, SystemRandom(), attempts=3, deadline_seconds=30)
    notice = Notice(
        "a test: whoever reads this would be told",
        Severity.INFO,
        clock.now(),
        f"mlplatform notify on {wiring.writer_name()}",
        thread="mlplatform-notify-test",
        lines=("nothing is wrong, and nothing is to be done",),
    )
    rows = []
    codes = []
    for each in receivers:
        error: MlplatformError | None = None
        try:
            send(each, notice, retry)
        except MlplatformError as refused:
            error = refused
        rows.append(
            {
                "receiver": each.name,
                "result": "told" if error is None else "failed",
                "detail": str(error) if error else "",
            }
        )
        codes.append(error.exit_code if error else 0)
    session.show(
        "receivers",
        rows,
        columns=[Column("receiver"), Column("result"), Column("detail", optional=True)],
    )
    return outranking(codes)


app = frame.new_group(help="Try whether those who are to be told are told.")
frame.add(app, try_out, "test")
