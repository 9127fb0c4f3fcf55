"""Values and progress, as people read them."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta

import pytest

from mlplatform.cli.console import Console
from mlplatform.cli.progress import LineProgress
from mlplatform.cli.render import (
    NO_BREAK,
    Column,
    Output,
    age,
    ago,
    duration,
    plain,
    show,
    show_groups,
    size,
    table_text,
)
from tests.cli.conftest import OnTerminal


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "-"),
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1024**2 - 1, "1.0 MiB"),
        (int(4.2 * 1024**3), "4.2 GiB"),
        (400 * 10**9, "372.5 GiB"),
        (3 * 1024**5, "3.0 PiB"),
        (3000 * 1024**5, "3000.0 PiB"),
    ],
)
def test_size(value: int | None, shown: str) -> None:
    assert size(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "-"),
        (0.0, "0 ms"),
        (0.0123, "12 ms"),
        (0.96, "1.0 s"),
        (9.96, "10 s"),
        (59.7, "1 m"),
        (200, "3 m 20 s"),
        (3600, "1 h"),
        (7260, "2 h 1 m"),
        (90_000, "1 d 1 h"),
    ],
)
def test_duration(value: float | None, shown: str) -> None:
    assert duration(value) == shown


def test_age() -> None:
    now = datetime(2026, 1, 2, tzinfo=UTC)
    shown = age(now)
    assert [shown(None), shown(now - timedelta(hours=2)), shown(now + timedelta(hours=1))] == [
        "-",
        "2 h",
        "0 ms",
    ]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "-"),
        ("", "-"),
        (True, "yes"),
        (0, "0"),
        (["a", None], "a, -"),
        ([], "-"),
        (datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), "2026-01-02 03:04:05Z"),
    ],
)
def test_plain(value: object, shown: str) -> None:
    assert plain(value) == shown


def test_a_table_cuts_nothing_off() -> None:
    columns = [Column("a"), Column("b", right=True)]
    assert table_text(columns, [["one\ntwo", "1"], ["x" * 200, "22"]]) == (
        f"A{' ' * 199}   B\none{' ' * 197}   1\ntwo\n{'x' * 200}  22\n"
    )
    assert table_text(columns, []) == "A  B\n"


FITTED = {
    None: """
PLACE AND TIME  SIZE  DETAIL
/srv/models      5 B  the topology wants it there
""",
    43: """
PLACE AND    SIZE  DETAIL
TIME
/srv/models   5 B  the topology wants it
                   there
""",
    30: """
PLACE AND    SIZE  DETAIL
TIME
/srv/models   5 B  the
                   topology
                   wants it
                   there
""",
    9: """
PLACE   SIZE  DETAIL
AND
TIME
/srv/    5 B  the
models        topology
              wants it
              there
""",
}


@pytest.mark.parametrize("width", FITTED)
def test_a_table_fits_the_screen(width: int | None) -> None:
    columns = [Column("place", "PLACE AND TIME"), Column("size", right=True), Column("detail")]
    cells = [["/srv/models", "5 B", "the topology wants it there"]]
    assert table_text(columns, cells, width=width) == FITTED[width].lstrip("\n")


def test_what_is_one_word_is_folded_only_when_nothing_else_helps() -> None:
    columns = [Column("a"), Column("b")]
    assert table_text(columns, [["x" * 30, "y z"]], width=33) == (
        f"A{' ' * 31}B\n{'x' * 30}  y\n{' ' * 32}z\n"
    )
    assert table_text(columns, [["x" * 30, "y z"]], width=23) == (
        f"A{' ' * 21}B\n{'x' * 20}  y\n{'x' * 10}{' ' * 12}z\n"
    )


def test_words_that_stay_together() -> None:
    cells = [[f"STORED verified {ago(22)}"]]
    assert table_text([Column("a")], cells, width=20) == "A\nSTORED verified\n22 s ago\n"


@pytest.mark.parametrize(
    ("seconds", "shown"), [(-1, "0 s"), (0.4, "0 s"), (59, "59 s"), (3599, "59 m"), (2e5, "2 d")]
)
def test_ago(seconds: float, shown: str) -> None:
    assert ago(seconds).replace(NO_BREAK, " ") == f"{shown} ago"


def test_no_rows_are_no_table_and_columns_that_say_nothing_are_left_out() -> None:
    out = io.StringIO()
    console = Console(None, out, None, {})
    columns = [Column("a"), Column("b", optional=True)]
    show(console, Output.TABLE, "rows", [], columns, {})
    assert out.getvalue() == ""
    show(console, Output.TABLE, "rows", [{"a": 1, "b": None}], columns, {})
    assert out.getvalue() == "A\n1\n"


def test_groups_are_aligned_below_their_headings() -> None:
    out = io.StringIO()
    columns = [Column("a"), Column("b")]
    groups = [("one", [{"a": "x", "b": "y"}]), ("two", [{"a": "long", "b": "z\nz"}])]
    show_groups(Console(None, out, None, {}), groups, columns)
    assert out.getvalue() == "one\n  x     y\ntwo\n  long  z\n        z\n"


@pytest.mark.parametrize(
    ("environ", "width"),
    [({}, None), ({"COLUMNS": "90"}, None), ({"COLUMNS": "90", "TTY_COMPATIBLE": "1"}, 90)],
)
def test_what_is_no_screen_has_no_width(environ: dict[str, str], width: int | None) -> None:
    assert Console(None, io.StringIO(), None, environ).width == width


class Stopwatch:
    """A clock for which time passes when told."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC)

    def monotonic(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds


def test_a_line_per_region_with_bytes_rate_and_time_left() -> None:
    told, clock = io.StringIO(), Stopwatch()
    progress = LineProgress(Console(None, None, told, {}), clock)
    progress.tick()
    progress.total("eu", 100 * 1024**2)
    progress.total("us", 0)
    clock.sleep(10)
    progress.add("eu", 50 * 1024**2)
    progress.tick()
    clock.sleep(10)
    progress.tick()
    clock.sleep(5)
    progress.add("eu", 50 * 1024**2)
    progress.note("eu", "slower than the others")
    progress.done("eu", "stored and verified")
    progress.done("us", "nothing to do")
    progress.tick()
    assert told.getvalue().splitlines() == [
        "eu: 50.0 MiB of 100.0 MiB, 5.0 MiB/s, 10 s left",
        "eu: 50.0 MiB of 100.0 MiB, nothing moves",
        "eu: slower than the others",
        "eu: stored and verified; 100.0 MiB in 25 s",
        "us: nothing to do",
    ]


def test_a_region_that_starts_again_starts_anew() -> None:
    told, clock = io.StringIO(), Stopwatch()
    progress = LineProgress(Console(None, None, told, {}), clock)
    for _ in range(2):
        progress.total("eu", 10)
        progress.add("eu", 10)
        progress.done("eu", "stored")
    assert told.getvalue().splitlines() == ["eu: stored; 10 B in 0 ms"] * 2


def test_bars_on_a_screen(on_terminal: OnTerminal) -> None:
    terminal = on_terminal("speak", pipe_stdout=True)
    assert terminal.end() == 0
    assert "━" in terminal.shown
    assert "eu-west-1" in terminal.shown
    assert "stored and verified" in terminal.shown
    assert "eu-west-1: slower than the others" in terminal.shown
    assert terminal.out == "A\n1\n"


@pytest.mark.parametrize(
    ("flags", "env"),
    [
        ((), {"TERM": "dumb"}),
        (("--log-format", "json"), {}),
        ((), {"TTY_INTERACTIVE": "0"}),
    ],
)
def test_no_bars_where_nothing_may_move(
    on_terminal: OnTerminal, flags: tuple[str, ...], env: dict[str, str]
) -> None:
    terminal = on_terminal("speak", *flags, env=env, pipe_stdout=True)
    assert terminal.end() == 0
    assert "\x1b" not in terminal.shown
    assert "eu-west-1: stored and verified" in terminal.shown


def test_bars_without_colour(on_terminal: OnTerminal) -> None:
    terminal = on_terminal("speak", "--no-color", pipe_stdout=True)
    assert terminal.end() == 0
    assert "\x1b[3" not in terminal.shown.replace("\x1b[?25", "")
    assert "━" in terminal.shown
