"""The list of commands: quick to show, true to what it lists."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from typing import Any

import pytest

from mlplatform.cli import app, frame
from mlplatform.cli.errors import EXIT_CODES
from mlplatform.cli.options import COMMON
from tests.cli.conftest import CLEAN, Run

HEAVY = (
    *("boto3", "botocore", "google.cloud", "azure", "rich", "yaml", "tenacity", "awscrt", "blake3"),
    *("logging", "asyncio", "prometheus_client", "kubernetes", "mlplatform.adapters"),
)


def parsers() -> dict[str, Any]:
    group = app.build()
    return {name: group.get_command(None, name) for name in app.COMMANDS}


def leaves() -> dict[str, Any]:
    """Every command that does something, by its words: those of groups too."""
    found: dict[str, Any] = {}
    for name, parser in parsers().items():
        if hasattr(parser, "list_commands"):
            for each in parser.list_commands(None):
                found[f"{name} {each}"] = parser.get_command(None, each)
        else:
            found[name] = parser
    return found


@pytest.mark.parametrize("arguments", [["--help"], *([*n.split(), "--help"] for n in leaves())])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    # Typer itself loads pydantic to parse the options before a command's name.
    heavy = [*HEAVY, "pydantic"] if len(arguments) == 1 else HEAVY
    program = (
        "import sys\n"
        "from mlplatform.cli import app, frame\n"
        f"code = frame.run(app.build(), {arguments!r}, prog='mlplatform')\n"
        f"print(code, [m for m in {heavy!r} if m in sys.modules], file=sys.stderr)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], env=CLEAN, capture_output=True, text=True, check=True
    )
    assert ran.stderr == "0 []\n"
    assert ran.stdout.startswith("Usage: mlplatform ")


def test_the_list_imports_no_command() -> None:
    program = (
        "import sys\n"
        "from mlplatform.cli import app, frame\n"
        "frame.run(app.build(), ['--help'], prog='mlplatform')\n"
        "assert not [m for m in sys.modules if m.startswith('mlplatform.cli.commands')]\n"
    )
    subprocess.run([sys.executable, "-c", program], env=CLEAN, capture_output=True, check=True)


@pytest.mark.parametrize("name", app.COMMANDS)
def test_the_list_says_what_the_command_says(name: str) -> None:
    told = parsers()[name].help.splitlines()[0]
    assert told == app.COMMANDS[name][1]


@pytest.mark.parametrize("name", leaves())
def test_every_command_has_what_every_command_has(name: str) -> None:
    own = {parameter.name for parameter in leaves()[name].params}
    assert {option.name for option in COMMON} <= own


@pytest.mark.parametrize("name", leaves())
def test_every_option_is_explained(name: str) -> None:
    for parameter in leaves()[name].params:
        assert parameter.help, f"{name}: {parameter.name} has no help"


def test_help_ends_with_the_exit_codes(mlplatform: Run) -> None:
    shown = mlplatform("--help").stdout
    table = shown.partition("Exit codes:\n")[2].splitlines()
    assert [line.split(maxsplit=1) for line in table] == [
        [str(code), told] for code, told in EXIT_CODES.items()
    ]


def test_no_command_at_all(mlplatform: Run) -> None:
    ran = mlplatform()
    assert ran.returncode == 2
    assert ran.stdout == ""
    assert ran.stderr == mlplatform("--help").stdout


@pytest.mark.parametrize("name", leaves())
def test_every_command_has_examples_that_are_its_own(name: str) -> None:
    parser = leaves()[name]
    _, examples = frame.told(parser)
    assert examples
    words = ["mlplatform", *name.split()]
    for example in examples:
        line = shlex.split(example)
        assert line[: len(words)] == words
        parser.make_context(name, line[len(words) :])  # raises what a user would be told


def test_a_command_that_is_not_there(mlplatform: Run) -> None:
    ran = mlplatform("validat", "--output", "json")
    assert ran.returncode == 2
    assert json.loads(ran.stderr)["message"] == (
        "no such command: 'validat'; did you mean 'validate'?"
    )


def test_the_version(mlplatform: Run) -> None:
    ran = mlplatform("--version")
    assert ran.returncode == 0
    assert ran.stdout.startswith("mlplatform 0.")


def test_completion(mlplatform: Run) -> None:
    asked = {
        "_MLPLATFORM_COMPLETE": "complete_bash",
        "COMP_WORDS": "mlplatform v",
        "COMP_CWORD": "1",
    }
    ran = mlplatform(env=asked)
    assert "validate" in ran.stdout.split()


def test_a_shell_runs_the_same_way(capsys: pytest.CaptureFixture[str]) -> None:
    from tests.cli.sample import rows

    code = frame.run(frame.to_click(rows), ["--code", "3", "-o", "json"], prog="python -m x.y")
    assert code == 3
    assert json.loads(capsys.readouterr().out)["schema_version"] == 1
    assert frame.run(frame.to_click(rows), ["--nonsense"], prog="python -m x.y") == 2
    assert "hint: python -m x.y --help" in capsys.readouterr().err
