"""What is written from the code: `docs/cli.md`, the example topology beside the README, and the
manifest's schema, which the model server carries, since it shares no import with us.

python -m tests.docs.generate            write them
python -m tests.docs.generate --check    exit 1, with the difference, if one is out of date
"""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import typer

from mlplatform.cli import app, frame
from mlplatform.cli.errors import EXIT_CODES
from mlplatform.cli.options import COMMON
from mlplatform.core.manifest import Manifest

ROOT = Path(__file__).parents[2]


def cli_reference() -> str:
    """Every command, with its arguments and options."""
    return "\n".join(_reference()) + "\n"


def example_topology() -> str:
    """What `mlplatform init` starts from."""
    return (ROOT / "src/mlplatform/cli/topology.example.yaml").read_text(encoding="utf-8")


def manifest_schema() -> str:
    """The JSON schema of `manifest.json`, the contract between control plane and server."""
    schema = Manifest.model_json_schema(by_alias=True)
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    return json.dumps(schema, indent=2, sort_keys=True) + "\n"


FILES: dict[str, Callable[[], str]] = {
    "docs/cli.md": cli_reference,
    "topology.example.yaml": example_topology,
    "serving/src/mlplatform_serving/manifest.schema.json": manifest_schema,
}


def _reference() -> Iterator[str]:
    root = app.build()
    yield "<!-- Written by `python -m tests.docs.generate`; change the commands instead. -->"
    yield "# The command line"
    yield ""
    yield root.help
    yield ""
    yield "Results go to stdout, everything else to stderr. A command that was interrupted, or that"
    yield "a crash ended, is run again: it goes on from where it was."
    yield ""
    commands = list(_commands(root, app.PROG))
    yield from _table(
        ("Command", "What it does"),
        [
            (f"[`{path}`](#{path.replace(' ', '-')})", _one_line(command.help))
            for path, command in commands
        ],
    )
    for path, command in commands:
        yield from _command(path, command)
    yield "## Options of every command"
    yield ""
    yield from _options(commands[0][1], common=True)
    yield "## Exit codes"
    yield ""
    yield from _table(("Code", "Meaning"), [(str(code), told) for code, told in EXIT_CODES.items()])
    yield "With `--output json` an error is an object on stderr: `code`, `message`, `hint`,"
    yield "`region`, `object`, `retryable`, `exit_code`."


def _commands(group: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Every command by its path, those of groups too."""
    for name in group.list_commands(None):
        command = group.get_command(None, name)
        if command.hidden:
            continue
        if hasattr(command, "list_commands"):
            yield from _commands(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


def _command(path: str, command: Any) -> Iterator[str]:
    yield f"## {path}"
    yield ""
    yield "```text"
    context = typer.Context(command, info_name=path)
    yield " ".join([path, *command.collect_usage_pieces(context)])
    yield "```"
    yield ""
    text, examples = frame.told(command)
    yield text
    yield ""
    if examples:
        yield "```sh"
        yield from examples
        yield "```"
        yield ""
    arguments = [
        parameter for parameter in command.params if parameter.param_type_name == "argument"
    ]
    if arguments:
        yield from _table(
            ("Argument", "Meaning"), [_record(parameter, context) for parameter in arguments]
        )
    yield from _options(command, common=False)


def _options(command: Any, *, common: bool) -> Iterator[str]:
    shared = {option.name for option in COMMON}
    context = typer.Context(command)
    options = [
        parameter
        for parameter in command.params
        if parameter.param_type_name == "option" and (parameter.name in shared) == common
    ]
    if options:
        yield from _table(
            ("Option", "Meaning"), [_record(parameter, context) for parameter in options]
        )


def _record(parameter: Any, context: Any) -> tuple[str, str]:
    name, told = frame.help_record(parameter, context) or ("", "")
    return f"`{name}`", told


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in rows:
        cells = (_one_line(cell).replace("|", "\\|") for cell in row)
        yield f"| {' | '.join(cells)} |"
    yield ""


def _one_line(text: str) -> str:
    return " ".join(text.partition("\n\n")[0].split())


def main(*, check: bool) -> int:
    """Write the files, or compare them."""
    stale = 0
    for name, made in FILES.items():
        path = ROOT / name
        old, new = path.read_text(encoding="utf-8") if path.exists() else "", made()
        if old == new:
            continue
        if check:
            stale += 1
            before, after = old.splitlines(keepends=True), new.splitlines(keepends=True)
            sys.stderr.writelines(difflib.unified_diff(before, after, name, "as it should be"))
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(new, encoding="utf-8")
            print(f"wrote {name}")
    if stale:
        sys.stderr.write("out of date: run python -m tests.docs.generate\n")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main(check="--check" in sys.argv[1:]))
