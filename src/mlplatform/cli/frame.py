"""How a command is made and run, so that a command is only: parse, call, render.

    @command
    def versions(
        session: Session,
        model: Annotated[str, typer.Argument(help="The model's name.")],
        *,
        regions: options.Regions = None,
    ) -> int:
        '''List the versions of a model.

        $ mlplatform versions resnet50
        '''
        from mlplatform.replication.operations import list_versions

        topology = session.topology()
        …
        session.show("versions", rows, columns=[Column("version"), Column("region")])
        return outranking(row["exit_code"] for row in rows)

The first parameter is the session; the rest are Typer's. Options that every command has are added
here. Lines of the docstring that begin with `$` are its examples. The command returns its exit
code, or nothing for 0, and raises our errors. Imports that cost time stay inside the function:
`--help` must be quick.

The `python -m` shells run the same way, by `run(command, prog=…)`.
"""

from __future__ import annotations

import functools
import gc
import inspect
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Concatenate, ParamSpec

import typer
import typer.core
import typer.main

from mlplatform.cli import errors, options
from mlplatform.cli.console import Console, repair_streams
from mlplatform.cli.errors import Fault
from mlplatform.cli.options import LogFormat
from mlplatform.cli.session import Session
from mlplatform.core.errors import MlplatformError, UsageError

P = ParamSpec("P")

_PARSER_ERROR: type[Exception] = typer.BadParameter.__mro__[2]
"""What Typer's parser raises. Typer carries its own copy of Click, and exports only this leaf."""

_CONTEXT = {"help_option_names": ["-h", "--help"]}
_COMMON_NAMES = frozenset(parameter.name for parameter in options.COMMON)


def command(function: Callable[Concatenate[Session, P], int | None]) -> Callable[..., int]:
    """Make a function with a session as its first parameter a command."""
    signature = inspect.signature(function, eval_str=True)
    own = list(signature.parameters.values())[1:]

    @functools.wraps(function)
    def run_it(**given: Any) -> int:
        common = {name: given.pop(name) for name in _COMMON_NAMES}
        return _run_one(functools.partial(function, **given), common)

    parameters = [*own, *options.COMMON]
    run_it.__dict__.pop("__wrapped__")  # its signature is not this one's
    run_it.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    run_it.__annotations__ = {each.name: each.annotation for each in parameters}
    return run_it


def _run_one(call: Callable[[Session], int | None], common: dict[str, Any]) -> int:
    from mlplatform.cli.interrupt import ended_by_signals
    from mlplatform.cli.logs import logging_to

    console = Console.of_process(
        no_color=common["no_color"],
        no_input=common["no_input"],
        json_lines=common["log_format"] is LogFormat.JSON,
    )
    session = Session(console, common["output"], common["topology_file"])
    with ended_by_signals(), logging_to(console, common["verbose"]):
        try:
            return call(session) or 0
        except (Exception, KeyboardInterrupt) as error:
            as_json = session.output.is_json
            return errors.report(error, console, as_json=as_json, debug=common["debug"])


_NOISE = re.compile(r"; x>=[^\]]+|(?<=\d)\.0(?=[;\]])")
"""What the parser adds to a default: its type, and a least value that goes without saying."""


def told(command: Any) -> tuple[str, list[str]]:
    """What a command says of itself, and its examples."""
    lines = (command.help or "").splitlines()
    text = "\n".join(line for line in lines if not line.startswith("$ "))
    return text.strip(), [line[2:] for line in lines if line.startswith("$ ")]


def help_record(parameter: Any, context: Any) -> tuple[str, str] | None:
    """How an argument or an option is listed, and what is said of it."""
    record = parameter.get_help_record(context)
    if record is None:
        return None
    name, text = record
    if parameter.param_type_name == "argument":
        name, text = _name_of(parameter), parameter.help
    return name, _NOISE.sub("", text)


def _name_of(argument: Any) -> str:
    return str(argument.metavar or argument.name.upper())


class _Command(typer.core.TyperCommand):
    """A command whose help has examples, and tells its own options from those that every command
    has."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        arguments = [each for each in self.params if each.param_type_name == "argument"]
        names = ((_name_of(each), each.required) for each in arguments)
        return ["[OPTIONS]", *(name if required else f"[{name}]" for name, required in names)]

    def format_help_text(self, ctx: Any, formatter: Any) -> None:
        text, examples = told(self)
        formatter.write_paragraph()
        with formatter.indentation():
            formatter.write_text(text)
        if examples:
            with formatter.section("Examples"):
                for line in examples:
                    formatter.write(f"{' ' * formatter.current_indent}{line}\n")

    def format_options(self, ctx: Any, formatter: Any) -> None:
        sections: dict[str, list[tuple[str, str]]] = {
            "Arguments": [],
            "Options": [],
            "Options of every command": [],
        }
        for parameter in self.get_params(ctx):
            record = help_record(parameter, ctx)
            if record is None:
                continue
            if parameter.param_type_name == "argument":
                sections["Arguments"].append(record)
            elif parameter.name in _COMMON_NAMES or parameter.name == "help":
                sections["Options of every command"].append(record)
            else:
                sections["Options"].append(record)
        for title, records in sections.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


class _Group(typer.core.TyperGroup):
    """Commands of one subject, each with the whole first line of what it says of itself."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        rows = [
            (name, (told(found)[0] or "").splitlines()[0])
            for name in self.list_commands(ctx)
            if (found := self.get_command(ctx, name)) is not None
        ]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def new_group(help: str) -> typer.Typer:  # noqa: A002 - Typer's own word
    """A Typer app that holds commands of one subject: `mlplatform failover …`."""
    return new_app(cls=_Group, help=help)


def to_click(function: Callable[..., int] | typer.Typer, name: str | None = None) -> Any:
    """The parser of a command, or of a Typer app that holds several."""
    if isinstance(function, typer.Typer):
        group = typer.main.get_group(function)
        group.context_settings = {**_CONTEXT, **group.context_settings}
        return group
    app = new_app()
    app.command(name, cls=_Command, context_settings=dict(_CONTEXT))(function)
    return typer.main.get_command(app)


def new_app(**settings: Any) -> typer.Typer:
    """A Typer app that leaves drawing and errors to us."""
    return typer.Typer(
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        pretty_exceptions_show_locals=False,
        **{"add_completion": False, **settings},
    )


def add(app: typer.Typer, function: Callable[..., int], name: str | None = None) -> None:
    """Put a command into a group, an app that `new_app` made."""
    app.command(name, cls=_Command, context_settings=dict(_CONTEXT))(function)


def run(parser: Any, arguments: Sequence[str] | None = None, *, prog: str) -> int:
    """Parse, run, and return the exit code. What the parser refuses is told as any error is."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if f"_{prog.upper()}_COMPLETE" in os.environ:
        parser.main(given, prog_name=prog)  # answers the shell, and exits
    try:
        with parser.make_context(prog, list(given)) as context:
            return int(parser.invoke(context) or 0)
    except typer.Exit as ended:
        return ended.exit_code
    except _PARSER_ERROR as error:
        return _tell_usage(error, given, prog)
    except (KeyboardInterrupt, typer.Abort):
        return errors.report(
            KeyboardInterrupt(), _console_for(given), as_json=_asks_json(given), debug=False
        )
    except BrokenPipeError:
        Console.of_process().drop_output()  # the reader of `--help` has seen enough
        return 0
    except OSError as error:
        Console.of_process().drop_output()
        fault = Fault(type(error).__name__, f"stdout: {error.strerror}")
        errors.tell(fault, _console_for(given), as_json=_asks_json(given))
        return fault.exit_code


def main(parser: Callable[[], Any], *, prog: str) -> None:
    """Run as this process, and end it."""
    repair_streams()
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # what libraries tell developers is nothing for operators
    code = run(parser(), prog=prog)
    console = Console.of_process()
    try:
        console.data("")  # flush, while a reader that has gone can still be forgiven
    except MlplatformError as error:
        code = errors.report(error, console, as_json=False, debug=False)
    # The interpreter, as it ends, would look at every object there is, several times, to free what
    # the system frees anyway: a third of the CPU of a short command.
    gc.freeze()
    sys.exit(code)


def _tell_usage(error: Exception, given: Sequence[str], prog: str) -> int:
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else prog
    message = error.format_message() if hasattr(error, "format_message") else str(error)
    message = message.replace("Value error, ", "")  # pydantic's, in the parser's words
    hint = f"{path} --help"
    before_command = context is not None and isinstance(context.command, typer.core.TyperGroup)
    if before_command and "No such option" in message:
        hint = f"options come after the command; {hint}"
    fault = Fault(
        code=UsageError.__name__, message=message, hint=hint, exit_code=UsageError.exit_code
    )
    errors.tell(fault, _console_for(given), as_json=_asks_json(given))
    return fault.exit_code


def _console_for(given: Sequence[str]) -> Console:
    """The console when parsing has failed: the flags are looked for by hand."""
    json_lines = _asks(given, ("--log-format",), ("json",))
    return Console.of_process(no_color="--no-color" in given, json_lines=json_lines)


def _asks_json(given: Sequence[str]) -> bool:
    return _asks(given, ("--output", "-o"), ("json", "ndjson"))


def _asks(given: Sequence[str], flags: Iterable[str], values: Iterable[str]) -> bool:
    joined = f" {' '.join(given)} "
    return any(
        f" {flag}{between}{value} " in joined
        for flag in flags
        for value in values
        for between in (" ", "=", "")
    )
