"""Logging on stderr: lines for people, or JSON objects with `--log-format json`."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlplatform.cli.console import Console

_OURS = "mlplatform"
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

_LEVELS = (
    (logging.WARNING, logging.WARNING),
    (logging.INFO, logging.WARNING),
    (logging.DEBUG, logging.WARNING),
    (logging.DEBUG, logging.DEBUG),
)
"""By the number of `-v`: what we log, and what libraries log."""


@contextmanager
def logging_to(console: Console, verbosity: int) -> Iterator[None]:
    """Send log records to `console` while this lasts."""
    ours, theirs = _LEVELS[min(verbosity, len(_LEVELS) - 1)]
    root, own = logging.getLogger(), logging.getLogger(_OURS)
    handler = _ConsoleHandler(console)
    before = root.level, own.level
    root.addHandler(handler)
    root.setLevel(theirs)
    own.setLevel(ours)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(before[0])
        own.setLevel(before[1])


class _ConsoleHandler(logging.Handler):
    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        try:
            fields: dict[str, Any] = {
                name: value for name, value in vars(record).items() if name not in _STANDARD
            }
            if record.exc_info and record.exc_info[1] is not None:
                fields["exception"] = logging.Formatter().formatException(record.exc_info)
            text = record.getMessage()
            if self._console.json_lines:
                fields = {"logger": record.name, **fields}
            elif "exception" in fields:
                text = f"{text}\n{fields['exception']}"
            # "info" is how the console says something without a prefix; a log line has one.
            level = record.levelname.lower()
            if level == "info" and not self._console.json_lines:
                text = f"info: {text}"
            self._console.say(text, level=level, **fields)
        except Exception as error:  # logging must never end the work, nor print what is not clean
            self._console.say(
                f"{record.name}: a log record cannot be shown: {type(error).__name__}"
            )
