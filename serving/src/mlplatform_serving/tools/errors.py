"""What ends a tool: its message, the next step, and the exit code.

The codes are the control plane's: 1 it failed · 2 what was typed cannot be right · 3 a check found
something · 5 something could not be asked · 6 the time is over · 130 interrupted.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import ClassVar


class ToolError(Exception):
    """It failed."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class Usage(ToolError):
    """What was typed cannot be right, or what it needs is not installed."""

    exit_code = 2


class CheckFailed(ToolError):
    """A check found something: answers that differ, a target that was missed."""

    exit_code = 3


class Unreachable(ToolError):
    """The server could not be asked."""

    exit_code = 5


class TooLate(ToolError):
    """The time is over."""

    exit_code = 6


def run(tool: Callable[[Sequence[str] | None], int], arguments: Sequence[str] | None) -> int:
    """The tool's exit code; what it raises is told on stderr, in the control plane's form."""
    try:
        return tool(arguments)
    except ToolError as error:
        sys.stderr.write(f"error: {error.message}\n")
        if error.hint is not None:
            sys.stderr.write(f"hint: {error.hint}\n")
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130
