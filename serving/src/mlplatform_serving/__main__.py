"""`python -m mlplatform_serving`: the model server. Its settings are environment variables."""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import sys
import tempfile
import textwrap
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import AliasChoices, ValidationError
from pydantic.fields import FieldInfo

from mlplatform_serving.settings import Settings, contradictions, log_level, without_effect


def variable(name: str, field: FieldInfo) -> str:
    """The environment variable of a setting; with other names that it is known by."""
    alias = field.validation_alias
    return ", ".join(map(str, alias.choices)) if isinstance(alias, AliasChoices) else name.upper()


def _described() -> str:
    lines = []
    for name, field in Settings.model_fields.items():
        default = "" if field.default in (None, "", ()) else f" [{field.default}]"
        lines.append(f"  {variable(name, field)}{default}")
        lines += textwrap.wrap(
            field.description or "", 76, initial_indent="      ", subsequent_indent="      "
        )
    return "\n".join(lines)


def main() -> int:
    """0 when it was told to stop and did; 1 if it could not serve; 2 for impossible settings."""
    parser = argparse.ArgumentParser(
        prog="python -m mlplatform_serving",
        description="A model server for the Open Inference Protocol.",
        epilog="environment variables:\n" + _described(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=version("mlplatform-serving"))
    parser.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="MODEL",
        help="what to serve, several times for several: NAME or NAME@VERSION, as MODELS names "
        "them, or a file of this machine",
    )
    asked = parser.parse_args().model
    files = [Path(each) for each in asked if Path(each).is_file()]
    if not files:
        return _started({"models": tuple(asked)} if asked else {})
    if len(files) < len(asked):
        sys.stderr.write("error: --model: files, or published models, but not both at once\n")
        return 2
    with tempfile.TemporaryDirectory(prefix="mlplatform-serve-") as folder:
        from mlplatform_serving.tools.errors import ToolError
        from mlplatform_serving.tools.local import lay_out

        try:
            names = [lay_out(each, Path(folder)) for each in files]
        except ToolError as error:
            sys.stderr.write(f"error: {error.message}\nhint: {error.hint}\n")
            return error.exit_code
        return _started({"models": tuple(names), "model_cache_dir": folder})


def _started(given: Mapping[str, Any]) -> int:
    """`given` comes before the environment."""
    try:
        settings = Settings(**given)
    except ValidationError as error:
        for each in error.errors():
            named = str(each["loc"][0]) if each["loc"] else "settings"
            field = Settings.model_fields.get(named)
            name = named if field is None else variable(named, field)
            sys.stderr.write(f"error: {name}: {each['msg']}\n")
        sys.stderr.write("hint: python -m mlplatform_serving --help names every variable\n")
        return 2
    return _serve(settings)


def _collect_seldom() -> None:
    """What a request makes holds no cycles and goes by itself. Looking for cycles after every 700
    things made takes a tenth of an inference's CPU, with 32 on the way; modules and settings stay
    for ever and need no look at all."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def _serve(settings: Settings) -> int:
    # Imported late: --help and a wrong setting answer at once.
    import uvloop

    from mlplatform_serving import logs
    from mlplatform_serving.http.auth import TokensUnreadable
    from mlplatform_serving.http.tls import CertificateUnusable
    from mlplatform_serving.server import open_certificate, open_gate, serve
    from mlplatform_serving.stores.source import StoreFailed

    logs.set_up(log_level(settings), environment=settings.environment)
    log = logging.getLogger("__main__")
    try:
        gate, certificate = open_gate(settings), open_certificate(settings)
    except TokensUnreadable as error:
        sys.stderr.write(f"error: a token file cannot be read: {error}\n")
        return 2
    except CertificateUnusable as error:
        sys.stderr.write(f"error: TLS_CERT_FILE, TLS_KEY_FILE: {error}\n")
        return 2
    log.info(
        "Starting Model Serving Server",
        extra={"version": version("mlplatform-serving"), "port": settings.port},
    )
    for line in (*without_effect(), *contradictions(settings)):
        log.warning("%s", line)
    _collect_seldom()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return 0 if runner.run(serve(settings, gate, certificate)) else 1
    except StoreFailed as error:
        sys.stderr.write(f"error: MODEL_SOURCE: {error.message}\n")
        return 2


if __name__ == "__main__":
    sys.exit(main())
