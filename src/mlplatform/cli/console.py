"""The process's streams: data on stdout, all else on stderr, questions where someone can answer.

What is decided here, once: whether a stream has colour, whether anything may move on it, whether
there is somebody to ask. A reader who has gone (`| head`) is no error: the rest is dropped in
silence and the command's own exit code stands. Everything said to people is redacted, and control
characters in it (a key may hold any) are shown, not obeyed.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TextIO

from mlplatform.core.errors import MlplatformError
from mlplatform.core.redact import redact, secrets_of

if TYPE_CHECKING:
    from typing import Self

_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""Control characters except tab and newline, and those that turn the writing direction."""


class Console:
    """stdin, stdout and stderr, and what they are good for."""

    def __init__(
        self,
        stdin: TextIO | None,
        stdout: TextIO | None,
        stderr: TextIO | None,
        environ: Mapping[str, str],
        *,
        no_color: bool = False,
        no_input: bool = False,
        json_lines: bool = False,
    ) -> None:
        self._in, self._out, self._err = stdin, stdout, stderr
        self._environ = environ
        self._secrets = secrets_of(environ)
        self.json_lines = json_lines
        """Whether what is said on stderr are JSON objects, a line each."""
        self.colour_out = has_colour(environ, terminal=_is_terminal(stdout), no_color=no_color)
        self.colour_err = has_colour(environ, terminal=_is_terminal(stderr), no_color=no_color)
        self.animated = (
            _is_terminal(stderr)
            and environ.get("TERM") != "dumb"
            and environ.get("TTY_INTERACTIVE") != "0"
            and not json_lines
        )
        """Whether stderr is a screen on which bars may move."""
        self.interactive = (
            not no_input
            and not _is_set(environ.get("MLPLATFORM_NO_INPUT"))
            and _is_terminal(stdin)
            and _is_terminal(stderr)
        )
        """Whether there is somebody to ask."""
        self.above: Callable[[str], None] | None = None
        """While bars are drawn: how to print a line above them."""
        self.reader_gone = False
        """Whether nobody reads stdout any more."""

    @classmethod
    def of_process(
        cls, *, no_color: bool = False, no_input: bool = False, json_lines: bool = False
    ) -> Self:
        """The console on this process's own streams."""
        return cls(
            sys.stdin,
            sys.stdout,
            sys.stderr,
            os.environ,
            no_color=no_color,
            no_input=no_input,
            json_lines=json_lines,
        )

    @property
    def out(self) -> TextIO | None:
        """Stdout, for what draws on it by itself."""
        return self._out

    @property
    def err(self) -> TextIO | None:
        """Stderr, for what draws on it by itself."""
        return self._err

    @property
    def width(self) -> int | None:
        """How wide the screen is that stdout is, or passes for; None where it is none."""
        if not _is_terminal(self._out) and not _is_forced(self._environ):
            return None
        if (columns := self._environ.get("COLUMNS", "")).isdecimal():
            return int(columns) or None
        with suppress(OSError, AttributeError, ValueError):
            return os.get_terminal_size(self._out.fileno()).columns or None  # type: ignore[union-attr]
        return None

    def data(self, text: str) -> None:
        """Write to stdout, as it is."""
        if self._out is None or self.reader_gone:
            return
        try:
            self._out.write(text)
            self._out.flush()
        except BrokenPipeError:
            self.drop_output()
        except OSError as error:
            self.drop_output()
            raise MlplatformError(
                f"stdout: {error.strerror}", hint="what was to be printed is lost; run again"
            ) from error

    def drop_output(self) -> None:
        """Send the rest of stdout nowhere: nobody reads it, or there is no room for it."""
        self.reader_gone = True
        if self._out is not None:
            _silence(self._out)

    def say(self, text: str, *, level: str = "info", **fields: Any) -> None:
        """Tell people something, on stderr: a line, or a JSON object with `fields`."""
        text = self.clean(text)
        if self.json_lines:
            told = {
                "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds"),
                "level": level,
                "message": text,
                **{name: self._clean_value(value) for name, value in fields.items()},
            }
            self._line(json.dumps(told, ensure_ascii=False, default=str))
        else:
            self._line(text if level == "info" else f"{level}: {text}")

    def warn(self, text: str, **fields: Any) -> None:
        """Tell people of something that is allowed and may be a mistake."""
        self.say(text, level="warning", **fields)

    def object(self, told: Mapping[str, Any]) -> None:
        """One JSON object on stderr, whatever the format of logs."""
        clean = {name: self._clean_value(value) for name, value in told.items()}
        self._line(json.dumps(clean, ensure_ascii=False, default=str))

    def ask(self, question: str) -> str:
        """What somebody answers; only when `interactive`. Nothing, at the end of the input."""
        if self._in is None or self._err is None:
            return ""
        with suppress(OSError, ValueError):
            self._err.write(f"{self.clean(question)} ")
            self._err.flush()
        return self._in.readline().strip()

    def clean(self, text: str) -> str:
        """`text` without secrets and without control characters."""
        return printable(self.redact(text))

    def redact(self, text: str) -> str:
        """`text` without secrets, this process's own among them."""
        return redact(text, self._secrets)

    def _clean_value(self, value: Any) -> Any:
        return self.redact(value) if isinstance(value, str) else value

    def _line(self, line: str) -> None:
        if self.above is not None:
            self.above(line)
        elif self._err is not None:
            # Nowhere is left to report that stderr is closed or full.
            try:
                self._err.write(f"{line}\n")
                self._err.flush()
            except (OSError, ValueError):
                _silence(self._err)
                self._err = None


def has_colour(environ: Mapping[str, str], *, terminal: bool, no_color: bool = False) -> bool:
    """Whether a stream may have colour. Who forbids it is heard before who forces it, and both
    before what the stream is."""
    if no_color or environ.get("NO_COLOR"):
        return False
    if _is_forced(environ):
        return environ.get("FORCE_COLOR") != "0"
    return terminal and environ.get("TERM") != "dumb"


def _is_forced(environ: Mapping[str, str]) -> bool:
    """Whether what is no terminal is to be written to as if it were one."""
    return bool(environ.get("FORCE_COLOR")) or _is_set(environ.get("TTY_COMPATIBLE"))


def printable(text: str) -> str:
    """`text` with its control characters written out."""
    return _UNPRINTABLE.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def repair_streams() -> None:
    """Give the process the three streams it may have been started without, and let none of them
    refuse a character."""
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            # Also so that the next file that is opened does not become stdout.
            descriptor = os.open(os.devnull, os.O_RDWR)
            if descriptor != number:
                os.dup2(descriptor, number)
                os.close(descriptor)
            setattr(sys, name, os.fdopen(number, mode))
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def _silence(stream: TextIO) -> None:
    """Point a stream at nothing, so that flushing what it still holds cannot fail at exit."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def _is_terminal(stream: TextIO | None) -> bool:
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # closed
        return False


def _is_set(value: str | None) -> bool:
    return (value or "").lower() not in {"", "0", "false", "no"}
