"""What a client costs, and how two clients compare.

A run is one child process: its wall time, the CPU that it and its own children used, and the most
memory it ever held. What the servers use is in neither figure but in the wall time, where it
burdens both sides alike. Sides are run in turns, and each pair gives one ratio: the median of the
ratios is the result, so that what else the machine does has little say.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, isfinite
from pathlib import Path
from statistics import median
from typing import Any

MIB = 1024 * 1024
GIB = 1024 * MIB


@dataclass(frozen=True, slots=True)
class Usage:
    """What one process, or several one after the other, took."""

    wall_seconds: float
    cpu_seconds: float
    """User and system time of the client alone."""
    peak_bytes: int
    """The largest resident set; never less than that of the process that started it (40 MiB)."""
    output: str = ""

    def __add__(self, other: Usage) -> Usage:
        """The one, then the other."""
        return Usage(
            self.wall_seconds + other.wall_seconds,
            self.cpu_seconds + other.cpu_seconds,
            max(self.peak_bytes, other.peak_bytes),
            self.output + other.output,
        )


class ClientFailed(Exception):
    """A client that was to be measured did not do its work."""


def run(
    argv: Sequence[str | Path], env: Mapping[str, str], *, stop: Callable[[], bool] | None = None
) -> Usage:
    """Run a client to its end and measure it. `ClientFailed` unless it succeeds. With `stop` it is
    killed (SIGKILL) as soon as that says so, and must be."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        began = time.perf_counter()
        process = subprocess.Popen(argv, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
        killed = False
        while stop is not None and os.waitid(os.P_PID, process.pid, _PEEK) is None:
            if stop():
                process.kill()
                killed = True
                break
            time.sleep(0.002)
        _, status, used = os.wait4(process.pid, 0)
        wall_seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        output = out.read().decode(errors="replace")
        if (process.returncode != 0) if stop is None else not killed:
            said = err.read().decode(errors="replace")[-3000:] + output[-3000:]
            raise ClientFailed(f"{' '.join(map(str, argv))}: exit {process.returncode}\n{said}")
    return Usage(wall_seconds, used.ru_utime + used.ru_stime, used.ru_maxrss * _MAXRSS_UNIT, output)


_PEEK = os.WEXITED | os.WNOHANG | os.WNOWAIT
_MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024


@dataclass(frozen=True, slots=True)
class Row:
    """One figure, ours beside the peer's, from each pair; or ours alone."""

    name: str
    unit: str
    ours: Sequence[float]
    peer: Sequence[float] = ()
    limit: float | None = None
    """What the ratio (ours alone: the figure) should be at most."""
    least: float | None = None
    """What it should be at least."""

    @property
    def figures(self) -> list[float]:
        """The ratios, or our figures where there is no peer. Beside a peer that did nothing at all
        it is infinite."""
        if not self.peer:
            return list(self.ours)
        pairs = zip(self.ours, self.peer, strict=True)
        return [ours / peer if peer else inf for ours, peer in pairs]

    @property
    def met(self) -> bool | None:
        """Whether the median is within the limits; None without any."""
        if self.limit is None and self.least is None:
            return None
        figure = median(self.figures)
        return (self.limit is None or figure <= self.limit) and (
            self.least is None or figure >= self.least
        )

    @property
    def target(self) -> str:
        """The limits, and whether they are met; empty without any."""
        wanted = [
            f"{sign} {bound:g}"
            for sign, bound in ((">=", self.least), ("<=", self.limit))
            if bound is not None
        ]
        return f"{', '.join(wanted)} {'met' if self.met else 'MISSED'}" if wanted else ""

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        figures = self.figures
        return {
            "name": self.name,
            "unit": self.unit,
            "ours": list(self.ours),
            "peer": list(self.peer),
            "median": _finite(median(figures)),
            "min": _finite(min(figures)),
            "max": _finite(max(figures)),
            "limit": self.limit,
            "least": self.least,
            "met": self.met,
        }


def _finite(figure: float) -> float | None:
    """JSON has no infinity."""
    return figure if isfinite(figure) else None


@dataclass(slots=True)
class Result:
    """What a benchmark found."""

    name: str
    title: str
    peer: str = ""
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def compare(
        self,
        label: str,
        pairs: Sequence[tuple[Usage, Usage]],
        *,
        wall: float | None = None,
        cpu: float | None = None,
        memory: bool = True,
    ) -> None:
        """Rows for wall, CPU and memory of interleaved pairs."""
        figures: list[tuple[str, str, Callable[[Usage], float], float | None]] = [
            ("wall", "s", lambda usage: usage.wall_seconds, wall),
            ("client CPU", "s", lambda usage: usage.cpu_seconds, cpu),
        ]
        if memory:
            figures.append(("peak memory", "MiB", lambda usage: usage.peak_bytes / MIB, None))
        for name, unit, of, limit in figures:
            ours, peer = ([of(side) for side in sides] for sides in zip(*pairs, strict=True))
            self.rows.append(Row(f"{name}{label}", unit, ours, peer, limit))

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "name": self.name,
            "title": self.title,
            "peer": self.peer,
            "rows": [row.as_json() for row in self.rows],
            "notes": self.notes,
        }

    def __str__(self) -> str:
        lines = [f"{self.name}: {self.title}", *(["  peer: " + self.peer] if self.peer else [])]
        table = [("", "ours", "peer", "ratio", "min-max", "target")]
        for row in self.rows:
            figures = row.figures
            spread = f"{min(figures):.2f}-{max(figures):.2f}" if len(figures) > 1 else ""
            table.append(
                (
                    row.name,
                    f"{median(row.ours):.2f} {row.unit}",
                    f"{median(row.peer):.2f} {row.unit}" if row.peer else "",
                    f"{median(figures):.2f}" if row.peer else "",
                    spread,
                    row.target,
                )
            )
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines += [
            "  " + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
            for line in table
        ]
        lines += [f"  {note}" for note in self.notes]
        return "\n".join(line.rstrip() for line in lines)


def in_turns(rounds: int, *sides: Callable[[], Usage]) -> list[tuple[Usage, ...]]:
    """Every side once a round, the order turned round each time. A round before them, which only
    warms the caches, is left out."""
    measured = []
    for number in range(rounds + 1):
        order = list(range(len(sides)))
        found = {place: sides[place]() for place in (order if number % 2 else order[::-1])}
        told = [
            f"{found[place].wall_seconds:.2f} s ({found[place].cpu_seconds:.2f} s CPU)"
            for place in order
        ]
        name = f"round {number}/{rounds}" if number else "warm-up"
        print(f"    {name}  {'  '.join(told)}", file=sys.stderr, flush=True)
        measured.append(tuple(found[place] for place in order))
    return measured[1:]
