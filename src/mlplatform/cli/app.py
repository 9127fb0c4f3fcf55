"""`mlplatform`: the list of commands, each imported only when it is called.

A new command is a line in `COMMANDS` and a module of `cli.commands`; see `cli.frame`. The line's
text is what `mlplatform --help` shows; it is the first line of the command's docstring, and a test
holds the two together.
"""

from __future__ import annotations

import difflib
from importlib import import_module
from typing import Annotated, Any

import typer
import typer.core
import typer.main

from mlplatform.cli import frame
from mlplatform.cli.errors import EXIT_CODES
from mlplatform.core.errors import UsageError

PROG = "mlplatform"

COMMANDS = {
    "init": ("mlplatform.cli.commands.init:init", "Write a commented topology.yaml to start from."),
    "validate": (
        "mlplatform.cli.commands.validate:validate",
        "Check the topology, then every store and every route it names.",
    ),
    "publish": (
        "mlplatform.cli.commands.replication:publish",
        "Publish a model version in a region: every byte digested, the manifest last.",
    ),
    "replicate": (
        "mlplatform.cli.commands.replication:replicate",
        "Bring versions to the regions that should hold them; repair what a check found wrong.",
    ),
    "verify": (
        "mlplatform.cli.commands.replication:verify",
        "Check replicas against the manifest: by asking the stores, or --deep by reading.",
    ),
    "status": (
        "mlplatform.cli.commands.replication:status",
        "Show the grid: which version is where, how its bytes were proven, and who serves it.",
    ),
    "versions": (
        "mlplatform.cli.commands.replication:versions",
        "List published versions, and the regions that hold them.",
    ),
    "pull": (
        "mlplatform.cli.commands.replication:pull",
        "Bring a version to this machine: resumable, every block verified.",
    ),
    "withdraw": (
        "mlplatform.cli.commands.replication:withdraw",
        "Refuse new placements of a version; nothing is deleted.",
    ),
    "history": (
        "mlplatform.cli.commands.replication:history",
        "Tell what was planned, meant and done, by whom and when.",
    ),
    "resume": (
        "mlplatform.cli.commands.replication:resume",
        "Finish what a crash or an interruption left.",
    ),
    "probe": (
        "mlplatform.cli.commands.probe:probe",
        "Ask every region how it is, as one vantage, and record what was met.",
    ),
    "regions": (
        "mlplatform.cli.commands.regions:regions",
        "Show how every region answers, as seen from every vantage.",
    ),
    "clean": (
        "mlplatform.cli.commands.clean:clean",
        "Drop what was left of uploads that nobody goes on with.",
    ),
    "failover": (
        "mlplatform.cli.commands.failover:app",
        "Move traffic between regions, and know when to.",
    ),
    "rollout": (
        "mlplatform.cli.commands.rollout:app",
        "Bring a version into service, region by region.",
    ),
    "cost": (
        "mlplatform.cli.commands.cost:app",
        "Know what it costs, what is unusual about it, and why.",
    ),
    "notify": (
        "mlplatform.cli.commands.notify:app",
        "Try whether those who are to be told are told.",
    ),
    "serve": (
        "mlplatform.cli.commands.serve:serve",
        "Start the model server here: the same as `python -m mlplatform_serving`.",
    ),
    "demo": (
        "mlplatform.cli.commands.demo:demo",
        "Tell the product as a story, on real models and three regions in a temporary folder.",
    ),
}
"""By name: where it is (a command, or a Typer app that holds several), and what it does."""


class LazyGroup(typer.core.TyperGroup):
    """All commands by name, none of them imported."""

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        if not args and not ctx.resilient_parsing:
            typer.echo(self.get_help(ctx), err=True)
            raise typer.Exit(UsageError.exit_code)
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        return frame.to_click(getattr(import_module(module), attribute), cmd_name)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args[0] not in COMMANDS:
            close = difflib.get_close_matches(args[0], COMMANDS, n=1)
            meant = f"; did you mean {close[0]!r}?" if close else ""
            ctx.fail(f"no such command: {args[0]!r}{meant}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, told) for name, (_, told) in COMMANDS.items()])

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Exit codes"):
            formatter.write_dl([(str(code), told) for code, told in EXIT_CODES.items()])


def build() -> Any:
    """The parser of the whole command line."""
    app = frame.new_app(
        cls=LazyGroup,
        context_settings={"help_option_names": ["-h", "--help"]},
        add_completion=True,
    )
    app.callback()(_root)
    return typer.main.get_command(app)


def _root(
    *,
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Print the version.",
            is_eager=True,
            callback=lambda asked: _print_version() if asked else None,
        ),
    ] = False,
) -> None:
    """One ML platform in several regions: models published, replicated, verified and served."""


def _print_version() -> None:
    from importlib.metadata import version

    typer.echo(f"{PROG} {version('mlplatform')}")
    raise typer.Exit


def main() -> None:
    """Run `mlplatform`, as the process that it is."""
    frame.main(build, prog=PROG)


if __name__ == "__main__":
    main()
