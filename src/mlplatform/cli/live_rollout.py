"""A rollout under way, on stderr: on a screen a board with a line for each region, drawn anew as it
goes on; else what is said, line by line."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mlplatform.cli.render import duration
from mlplatform.ports.clock import Clock, SystemClock
from mlplatform.rollout.operations import Said, is_not_begun
from mlplatform.rollout.report.board import LOOKS_SHOWN, Board

if TYPE_CHECKING:
    from rich.console import RenderableType

    from mlplatform.cli.console import Console
    from mlplatform.control.journal import Stream
    from mlplatform.core.plan import Outcome, Plan
    from mlplatform.rollout.watching import Looked

_WIDE = 120
"""A screen of so many columns has room for a longer climb."""
_COLOURS = {"good": "green", "bad": "red", "": "default"}


@contextmanager
def showing_rollout(console: Console) -> Iterator[Said]:
    """What to give to whoever carries a rollout out, for as long as this lasts."""
    if console.animated:
        with _board(console, SystemClock()) as said:
            yield said
    else:
        yield lines_on(console)


def lines_on(console: Console) -> Said:
    """What goes on, as it goes on: a line for each operation, outcome and piece of news."""
    told: set[str] = set()

    def plan(_: Plan, operation: str) -> None:
        if operation not in told:
            told.add(operation)
            console.say(f"operation {operation}", operation=operation)

    return Said(
        plan,
        lambda outcome: _say(console, outcome),
        console.say,
        recalled=lambda stream: plan(stream.plan, stream.operation),
    )


def _say(console: Console, outcome: Outcome) -> None:
    if is_not_begun(outcome):
        return
    _, _, region, step = outcome.action.split("/", 3)
    text = f"{region}: {step}: {outcome.result.value}: {outcome.detail}"
    console.say(text, level="info" if outcome.ok else "error", region=region)


@contextmanager
def _board(console: Console, clock: Clock) -> Iterator[Said]:
    from rich.console import Console as RichConsole
    from rich.live import Live
    from rich.text import Text

    drawing = RichConsole(
        file=console.err,
        force_terminal=True,
        color_system="standard" if console.colour_err else None,
        highlight=False,
    )
    drawn = _Drawn(
        console, clock, looks=LOOKS_SHOWN if drawing.width >= _WIDE else LOOKS_SHOWN // 2
    )
    live = Live(
        get_renderable=drawn.render,
        console=drawing,
        refresh_per_second=4,
        transient=True,
        # Stdout is for data, whoever writes it.
        redirect_stdout=False,
        redirect_stderr=False,
    )

    def above(line: str) -> None:
        drawing.print(Text(line), soft_wrap=True)

    with live:
        console.above = above
        try:
            yield Said(
                drawn.plan, drawn.outcome, drawn.text, seen=drawn.seen, recalled=drawn.recalled
            )
        finally:
            console.above = None


class _Drawn:
    """A board, fed from many threads."""

    def __init__(self, console: Console, clock: Clock, *, looks: int) -> None:
        self._console = console
        self._looks = looks
        self._clock = clock
        self._lock = threading.Lock()
        self._board = Board()
        self._began = clock.monotonic()
        self._news = ""

    def plan(self, plan: Plan, operation: str) -> None:
        with self._lock:
            self._board.plan(plan, operation, self._clock.monotonic())

    def recalled(self, stream: Stream) -> None:
        at = self._clock.monotonic()
        with self._lock:
            self._board.plan(stream.plan, stream.operation, at)
            self._board.done_before(stream.outcomes().values(), at)

    def outcome(self, outcome: Outcome) -> None:
        with self._lock:
            self._board.outcome(outcome, self._clock.monotonic())
        _say(self._console, outcome)

    def seen(self, looked: Looked) -> None:
        with self._lock:
            self._board.looked(looked)

    def text(self, text: str) -> None:
        with self._lock:
            self._news = self._console.clean(text)

    def render(self) -> RenderableType:
        """The board as it is now."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        now = self._clock.monotonic()
        with self._lock:
            board, lines, news = self._board, self._board.lines(now, looks=self._looks), self._news
            heading = f"{board.subject}  {board.operation}  {duration(now - self._began)}"
            back = board.going_back
        table = Table.grid(padding=(0, 2))
        for right in (True, False, False, True, True, True, False):
            table.add_column(justify="right" if right else "left", no_wrap=True)
        table.add_column()  # where there is no room for it, it is wrapped
        for each in lines:
            table.add_row(
                str(each.wave),
                self._text(each.region),
                Text(self._console.clean(each.step), style=_COLOURS[each.mood]),
                each.place,
                duration(each.seconds) if each.seconds is not None else "",
                f"{each.share} %",
                each.climb,
                self._text(each.evidence),
            )
        parts: list[RenderableType] = [Text(self._console.clean(heading), style="bold"), table]
        if back:
            parts.append(Text(f"going back: {self._console.clean(back)}", style="red"))
        if news and news != f"going back: {back}":
            parts.append(Text(news, no_wrap=True, overflow="ellipsis", style="dim"))
        return Group(*parts)

    def _text(self, text: str) -> RenderableType:
        from rich.text import Text

        return Text(self._console.clean(text))
