"""`mlplatform serve`: the model server, which is a distribution of its own, as this process."""

from __future__ import annotations

from typing import Annotated

import typer

from mlplatform.cli.frame import command
from mlplatform.cli.session import Session

_SERVER = "mlplatform_serving"
"""A name and no import: they share none."""


@command
def serve(
    session: Session,
    *,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            metavar="NAME",
            help="What to serve: NAME or NAME@VERSION in MODEL_CACHE_DIR, or a file of this "
            "machine; else every model there. Nothing is fetched.",
        ),
    ] = None,
) -> None:
    """Start the model server here: the same as `python -m mlplatform_serving`.

    Its settings are environment variables; `python -m mlplatform_serving --help` names them.

    $ mlplatform serve
    $ mlplatform serve --model resnet50@v1.2.0
    $ mlplatform serve --model ./resnet50.onnx
    """
    import os
    import sys
    from importlib.util import find_spec

    from mlplatform.core.errors import UsageError

    if find_spec(_SERVER) is None:
        raise UsageError(
            "the model server is not installed here; it is a distribution of its own",
            hint="pip install 'mlplatform-serving[onnx,stores]'",
        )
    named = [word for each in model or [] for word in ("--model", each)]
    # Instead of this process: signals, standard streams and the exit code are the server's.
    os.execve(  # noqa: S606 - our own interpreter
        sys.executable, [sys.executable, "-m", _SERVER, *named], dict(session.environ)
    )
