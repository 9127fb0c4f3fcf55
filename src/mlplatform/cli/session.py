"""One command being run: what was asked of every command, and how this one speaks."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlplatform.cli import render
from mlplatform.cli.render import Column, Output, Row
from mlplatform.core.errors import UsageError

if TYPE_CHECKING:
    from mlplatform.cli.console import Console
    from mlplatform.core.topology import Topology
    from mlplatform.ports.progress import Progress


@dataclass(frozen=True, slots=True)
class Work:
    """Something long under way: where to say how far it is, and whether it should stop."""

    progress: Progress
    stop: Callable[[], bool]


@dataclass(slots=True)
class Session:
    """What a command is given first."""

    console: Console
    output: Output = Output.TABLE
    topology_file: Path | None = None
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    cwd: Path = field(default_factory=Path.cwd)

    def topology(self, *, doubts: bool = False) -> Topology:
        """The topology that the operator means. `doubts`: what may be a mistake in it is told."""
        from mlplatform.core.topology import Topology, find_topology

        topology = Topology.load(find_topology(self.topology_file, self.environ, self.cwd))
        for warning in topology.warnings if doubts else ():
            self.console.warn(warning)
        return topology

    def show(
        self, name: str, rows: Sequence[Row], *, columns: Sequence[Column], **extra: Any
    ) -> None:
        """Print the result, as `--output` says. `extra` is for programs; tell people by `say`."""
        render.show(self.console, self.output, name, rows, columns, extra)

    def say(self, text: str, **fields: Any) -> None:
        """Tell people something, on stderr."""
        self.console.say(text, **fields)

    @contextmanager
    def working(self) -> Iterator[Work]:
        """For what takes long: progress is shown, and Ctrl-C stops it in good order."""
        from mlplatform.cli.interrupt import stopped_by_signals
        from mlplatform.cli.progress import showing_progress

        with stopped_by_signals(self.console) as stop, showing_progress(self.console) as progress:
            yield Work(progress, stop)

    def confirm(
        self,
        what: str,
        region: str,
        *,
        yes: bool | None = None,
        given: str | None = None,
        named: bool = True,
    ) -> None:
        """Let a severe act pass only if somebody means it: `--yes` (None: the command has no such
        flag), `--confirm REGION` (unless not `named`: it has none), or the region's name typed on
        a terminal. Else `UsageError`, which names the flag."""
        if given is not None and given != region:
            raise UsageError(
                f"--confirm names {given}, but this is about {region}: {what}",
                hint=f"--confirm {region}, if that is what you want",
            )
        if yes or given == region:
            return
        if not self.console.interactive:
            flags = f"--confirm {region}" if named else "--yes"
            if named and yes is not None:
                flags += " (or --yes)"
            raise UsageError(
                f"{region}: not confirmed, and nobody to ask: {what}",
                hint=f"add {flags}, if that is what you want",
            )
        self.console.say(what)
        if self.console.ask(f"Type {region} to go on:") != region:
            raise UsageError(f"{region}: not confirmed; nothing was done")
