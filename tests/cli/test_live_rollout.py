"""What a rollout shows on stderr while it is under way: a board on a screen, lines elsewhere."""

from __future__ import annotations

import io
import re

from mlplatform.cli.console import Console
from mlplatform.cli.live_rollout import showing_rollout
from mlplatform.rollout import operations
from tests.features.rollout.rolling.world import World

SEQUENCES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Screen(io.StringIO):
    """A terminal, as far as programs can tell."""

    def isatty(self) -> bool:
        return True


def shown(err: io.StringIO, world: World) -> str:
    """All that a rollout wrote to stderr."""
    environ = {"TERM": "xterm"}
    console = Console(io.StringIO(), io.StringIO(), err, environ)
    with showing_rollout(console) as said:
        stored = world.plan()
        operations.apply(world.sites(), stored, said=said)
    assert console.above is None
    return err.getvalue()


def test_on_a_screen_there_is_a_board_and_outcomes_stay_above_it() -> None:
    text = shown(Screen(), World(errors={"v1": 0.002, "v2": 0.05}))
    assert "\x1b[?25l" in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")  # the cursor is back
    plain = SEQUENCES.sub("", text).replace("\r", "\n")
    assert re.search(r"^m@v2  \S+-rollout-\w+  \d", plain, re.MULTILINE)
    board = plain[plain.rindex("m@v2  ") :]
    assert re.search(r"^1  ap  returned +3/3 +0 %  ██  errors \d+/", board, re.MULTILINE)
    assert re.search(r"^2  eu  waits +0/\d+ +0 %", board, re.MULTILINE)
    assert "error: ap: weight-10: failed: " in plain
    assert "going back: weight-10 in ap" in plain


def test_elsewhere_there_are_lines() -> None:
    text = shown(io.StringIO(), World())
    assert "\x1b" not in text
    lines = text.splitlines()
    assert lines[0].startswith("operation ")
    assert "ap: preflight: done: nothing stands in the way" in lines
    assert any("e-value 10^" in line for line in lines)
