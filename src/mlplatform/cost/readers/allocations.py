"""OpenCost's answer, unfolded: a document with names for keys becomes a line an allocation.

It is walked value by value, and each is copied as it is written, so that no amount goes by way of a
binary fraction, and memory is the document's length.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TextIO

from mlplatform.core.errors import UsageError

UNFOLDED = "{currency: 'VARCHAR', allocation_name: 'VARCHAR', allocation: 'JSON'}"
"""The columns of the lines, with DuckDB's types."""

_ANSWER = re.compile(
    rb'\s*\{\s*"code"\s*:\s*[0-9]+\s*,\s*("currency"\s*:\s*"[A-Z]{3}"\s*,\s*)?"data"\s*:'
)
_SPACE = re.compile(r"\s*")
_DECODER = json.JSONDecoder()


def is_answer(start: bytes) -> bool:
    """Whether a document that begins so is an answer of `/allocation`."""
    return _ANSWER.match(start) is not None


def unfold(document: bytes, target: Path, called: str) -> None:
    """Write the allocations of an answer as lines. `UsageError` if it is no whole answer."""
    try:
        text = document.decode()
        with target.open("w", encoding="utf-8", newline="\n") as lines:
            _Walk(text, lines).answer()
    except (ValueError, IndexError, RecursionError) as error:
        raise UsageError(
            f"{called}: no whole answer of OpenCost's /allocation: {error}",
            hint="ask again; nothing of it was imported",
        ) from error


class _Walk:
    """A place in a document."""

    def __init__(self, text: str, lines: TextIO) -> None:
        self._text = text
        self._lines = lines
        self._at = 0
        self._currency: str | None = None

    def answer(self) -> None:
        """The whole of it; what is beside `data` may come after it."""
        self._expect("{")
        while True:
            name = str(self._value())
            self._expect(":")
            if name == "data":
                self._steps()
            else:
                told = self._value()
                self._currency = str(told) if name == "currency" else self._currency
            if self._next_of("}"):
                return

    def _steps(self) -> None:
        if self._peek() != "[":
            self._value()  # null: there is nothing
            return
        self._expect("[")
        if self._empty("]"):
            return
        while True:
            if self._peek() == "{":
                self._step()
            else:
                self._value()
            if self._next_of("]"):
                return

    def _step(self) -> None:
        self._expect("{")
        if self._empty("}"):
            return
        while True:
            name = self._value()
            self._expect(":")
            self._skip()
            start = self._at
            if isinstance(self._value(), dict):
                self._write(str(name), self._text[start : self._at])
            if self._next_of("}"):
                return

    def _write(self, name: str, told: str) -> None:
        # A line break within a string is written as an escape, so these are between values.
        head = json.dumps({"currency": self._currency, "allocation_name": name})
        plain = told.replace("\n", " ").replace("\r", " ")
        self._lines.write(f'{head[:-1]}, "allocation": {plain}}}\n')

    def _value(self) -> object:
        self._skip()
        value, self._at = _DECODER.raw_decode(self._text, self._at)
        return value

    def _peek(self) -> str:
        self._skip()
        return self._text[self._at]

    def _expect(self, sign: str) -> None:
        if self._peek() != sign:
            raise ValueError(f"{sign!r} expected at character {self._at}")
        self._at += 1

    def _empty(self, end: str) -> bool:
        if self._peek() == end:
            self._at += 1
            return True
        return False

    def _next_of(self, end: str) -> bool:
        """Past a comma, or past the end; whether it was the end."""
        if self._empty(end):
            return True
        self._expect(",")
        return False

    def _skip(self) -> None:
        found = _SPACE.match(self._text, self._at)
        self._at = found.end() if found else self._at
