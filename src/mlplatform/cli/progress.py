"""Progress on stderr, a line of work per region: bars on a screen, else a line every ten seconds.

Both are `ports.progress.Progress`, fed from many threads.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlplatform.cli.render import duration, size
from mlplatform.ports.clock import Clock, SystemClock
from mlplatform.ports.progress import Progress

if TYPE_CHECKING:
    from mlplatform.cli.console import Console

EVERY_SECONDS = 10.0


@contextmanager
def showing_progress(console: Console) -> Iterator[Progress]:
    """Progress for as long as this lasts, in the form that fits the console."""
    with _bars(console) if console.animated else _lines(console) as progress:
        yield progress


@dataclass(slots=True)
class Lane:
    """One region's work. `told` is what had been sent when a line was last printed."""

    started: float
    total_bytes: int | None = None
    sent_bytes: int = 0
    told_bytes: int = 0
    told_at: float = 0.0
    finished: bool = False


class LineProgress:
    """A line per region whenever `tick` is called, and at once for what is said or finished."""

    def __init__(self, console: Console, clock: Clock) -> None:
        self._console = console
        self._clock = clock
        self._lock = threading.Lock()
        self._lanes: dict[str, Lane] = {}

    def total(self, region: str, size_bytes: int) -> None:
        with self._lock:
            self._lane(region).total_bytes = size_bytes

    def add(self, region: str, size_bytes: int) -> None:
        with self._lock:
            self._lane(region).sent_bytes += size_bytes

    def note(self, region: str, text: str) -> None:
        self._console.say(f"{region}: {text}", region=region)

    def done(self, region: str, text: str) -> None:
        with self._lock:
            lane = self._lane(region)
            lane.finished = True
            sent, seconds = lane.sent_bytes, self._clock.monotonic() - lane.started
        moved = f"; {size(sent)} in {duration(seconds)}" if sent else ""
        self._console.say(
            f"{region}: {text}{moved}", region=region, bytes=sent, seconds=round(seconds, 3)
        )

    def tick(self) -> None:
        """Say where each unfinished region stands."""
        now = self._clock.monotonic()
        with self._lock:
            told = [
                (region, *self._measure(lane, now))
                for region, lane in self._lanes.items()
                if lane.total_bytes and not lane.finished
            ]
        for region, text, fields in told:
            self._console.say(f"{region}: {text}", region=region, **fields)

    def _lane(self, region: str) -> Lane:
        """The region's lane; a new one when it starts again after it was finished."""
        lane = self._lanes.get(region)
        if lane is None or lane.finished:
            now = self._clock.monotonic()
            lane = self._lanes[region] = Lane(started=now, told_at=now)
        return lane

    @staticmethod
    def _measure(lane: Lane, now: float) -> tuple[str, dict[str, Any]]:
        """The rate is that of the time since the last line, so that a stall shows at once."""
        total = lane.total_bytes or 0
        rate = (lane.sent_bytes - lane.told_bytes) / max(now - lane.told_at, 1e-3)
        lane.told_bytes, lane.told_at = lane.sent_bytes, now
        left = max(0, total - lane.sent_bytes) / rate if rate > 0 else None
        pace = f"{size(int(rate))}/s, {_left(left)} left" if rate > 0 else "nothing moves"
        fields = {
            "bytes": lane.sent_bytes,
            "total_bytes": total,
            "bytes_per_second": round(rate),
            "seconds_left": None if left is None else round(left, 1),
        }
        return f"{size(lane.sent_bytes)} of {size(total)}, {pace}", fields


@contextmanager
def _lines(console: Console, clock: Clock | None = None) -> Iterator[LineProgress]:
    progress = LineProgress(console, clock or SystemClock())
    ended = threading.Event()

    def run() -> None:
        while not ended.wait(EVERY_SECONDS):
            progress.tick()

    ticker = threading.Thread(target=run, name="mlplatform-progress", daemon=True)
    ticker.start()
    try:
        yield progress
    finally:
        ended.set()
        ticker.join()


def _left(seconds: float | None) -> str:
    """No better than it is known."""
    return f"{seconds:.0f} s" if seconds is not None and seconds < 60 else duration(seconds)


@contextmanager
def _bars(console: Console) -> Iterator[Progress]:
    from rich.console import Console as RichConsole
    from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
    from rich.table import Column
    from rich.text import Text

    class Stand(ProgressColumn):
        """Bytes, rate and time left; once it is finished, the outcome."""

        def render(self, task: Task) -> Text:
            if outcome := task.fields.get("outcome"):
                return Text(outcome)
            if task.total is None:
                return Text("looking at what is there")
            said = f"{size(int(task.completed))} of {size(int(task.total))}"
            if task.speed and not task.finished:
                said += f", {size(int(task.speed))}/s, {_left(task.time_remaining)} left"
            return Text(said)

    drawing = RichConsole(
        file=console.err,
        force_terminal=True,
        color_system="standard" if console.colour_err else None,
        highlight=False,
    )
    one_line = Column(no_wrap=True)
    bars = Progress(
        TextColumn("{task.description}", markup=False, table_column=one_line),
        BarColumn(bar_width=24 if drawing.width >= 90 else 14),
        Stand(table_column=one_line),
        console=drawing,
        refresh_per_second=4,
        # Stdout is for data, whoever writes it.
        redirect_stdout=False,
        redirect_stderr=False,
    )

    class Drawn:
        """The port, on Rich's bars."""

        def __init__(self) -> None:
            self._lock = threading.Lock()
            self._tasks: dict[str, Any] = {}

        def total(self, region: str, size_bytes: int) -> None:
            if size_bytes:
                bars.update(self._task(region), total=size_bytes)

        def add(self, region: str, size_bytes: int) -> None:
            bars.update(self._task(region), advance=size_bytes)

        def note(self, region: str, text: str) -> None:
            console.say(f"{region}: {text}", region=region)

        def done(self, region: str, text: str) -> None:
            task = self._task(region)
            with self._lock:
                del self._tasks[region]
            bars.update(task, outcome=console.clean(text))
            bars.stop_task(task)

        def _task(self, region: str) -> Any:
            with self._lock:
                if region not in self._tasks:
                    self._tasks[region] = bars.add_task(console.clean(region), total=None)
                return self._tasks[region]

    def above(line: str) -> None:
        drawing.print(Text(line), soft_wrap=True)

    with bars:
        console.above = above
        try:
            yield Drawn()
        finally:
            console.above = None
