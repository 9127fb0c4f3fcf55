"""Leaves from a CSV: a line each, dimensions as text, values as numbers.

What is no number is refused, with its line and column: a leaf that is left out would be missed in
every sum. A file of a million lines is read in blocks, each a column at a time.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from math import isfinite
from pathlib import Path
from typing import TextIO

import numpy as np

from mlplatform.core.errors import UsageError
from mlplatform.cost.locate.leaves import Codes, Floats, Leaves, merged
from mlplatform.cost.locate.tokens import Block, Coder

ACTUAL = ("actual", "real")
EXPECTED = ("expected", "predict", "predicted", "forecast")
"""The papers' files say real and predict."""

_BLOCK = 1 << 18
_DELIMITERS = ",;\t"


@dataclass(frozen=True, slots=True)
class Ratio:
    """What is divided by what, by the names in `--ratio`."""

    numerator: str
    denominator: str

    @classmethod
    def parse(cls, text: str) -> Ratio:
        """`cost/requests`. `UsageError` for anything else."""
        numerator, slash, denominator = (part.strip() for part in text.partition("/"))
        if not slash or not numerator or not denominator or "/" in denominator:
            raise UsageError(
                f"--ratio {text}: not two measures", hint="--ratio cost/requests, for one"
            )
        if numerator == denominator:
            raise UsageError(f"--ratio {text}: a measure by itself is 1 everywhere")
        return cls(numerator, denominator)


def read_leaves(path: Path, ratio: Ratio | None = None) -> Leaves:
    """The cube in a file. Lines with the same values of all dimensions are added up.

    Without a ratio the values are in the columns `actual` and `expected`; with `cost/requests` they
    are in `cost_actual`, `cost_expected`, `requests_actual` and `requests_expected`, or with the
    two words the other way round. All other columns are dimensions. `UsageError` names file, line
    and column of what cannot be read.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            return _read(file, str(path), ratio)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{path}: not UTF-8 text: {error.reason} at byte {error.start} of a block",
            hint="a CSV is wanted, not packed and in UTF-8",
        ) from error


def _read(file: TextIO, name: str, ratio: Ratio | None) -> Leaves:
    first = file.readline()
    if not first.strip():
        raise UsageError(f"{name}: line 1: no header", hint="the first line names the columns")
    delimiter = max(_DELIMITERS, key=first.count)
    header = [each.strip() for each in next(csv.reader([first], delimiter=delimiter))]
    twice = sorted({each for each in header if header.count(each) > 1})
    if twice:
        raise UsageError(f"{name}: line 1: two columns are named {twice[0]!r}")
    wanted = _value_columns(header, name, ratio)
    aside = {column.lower() for column in (*ACTUAL[:1], *EXPECTED[:1])} if ratio else set()
    places = [
        place
        for place, column in enumerate(header)
        if place not in wanted and column.lower() not in aside
    ]
    if not places:
        raise UsageError(
            f"{name}: line 1: no dimension",
            hint="every column beside the values is one: region, service, …",
        )
    gathered = _Gathered(name, header, wanted, places)
    for lines in _blocks(file, name, len(header), delimiter):
        gathered.add(lines)
    return merged(gathered.leaves())


def _value_columns(header: Sequence[str], name: str, ratio: Ratio | None) -> list[int]:
    """Where actual and expected are; of a ratio, the numerator's and then the denominator's."""
    lower = [each.lower() for each in header]

    def place(candidates: Iterable[str]) -> int | None:
        return next((lower.index(each) for each in candidates if each in lower), None)

    if ratio is None:
        found = [place(ACTUAL), place(EXPECTED)]
        missing = [
            word for word, at in zip(("actual", "expected"), found, strict=True) if at is None
        ]
        hint = "name the columns of the values actual and expected, or say --ratio NUM/DEN"
    else:
        found, missing = [], []
        for measure in (ratio.numerator, ratio.denominator):
            expected = place(_spelt(measure, EXPECTED))
            actual = place(_spelt(measure, ACTUAL))
            if actual is None and expected is not None:
                actual = place([measure.lower()])
            found += [actual, expected]
            missing += [f"{measure}_actual"] if actual is None else []
            missing += [f"{measure}_expected"] if expected is None else []
        n, d = ratio.numerator, ratio.denominator
        hint = f"the values of {n}/{d} are {n}_actual, {n}_expected, {d}_actual and {d}_expected"
    if missing:
        there = ", ".join(header)
        raise UsageError(f"{name}: line 1: no column {missing[0]}; there are {there}", hint=hint)
    return [at for at in found if at is not None]


def _spelt(measure: str, words: Iterable[str]) -> Iterator[str]:
    for word in words:
        for between in ("_", ".", " ", "-", ""):
            yield f"{measure}{between}{word}".lower()
            yield f"{word}{between}{measure}".lower()


@dataclass(frozen=True, slots=True)
class _Rows:
    """Lines that were parsed one by one."""

    columns: list[list[str]]
    lines: list[int]
    """On which line of the file each begins."""


@dataclass(frozen=True, slots=True)
class _Lines:
    """Lines that were taken apart all at once."""

    block: Block
    before: int
    """How many there are in the file before them."""


def _blocks(file: TextIO, name: str, width: int, delimiter: str) -> Iterator[_Rows | _Lines]:
    """The lines, many at a time. The file is split by delimiters alone until there is a quotation
    mark in it."""
    before = 1
    while text := file.read(_BLOCK) + file.readline():
        if '"' in text:
            yield from _parsed(chain(io.StringIO(text), file), name, width, delimiter, before)
            return
        if not text.endswith("\n"):
            text += "\n"
        block = Block.of(text, width, delimiter)
        if block is not None:
            yield _Lines(block, before)
        else:
            yield from _parsed(io.StringIO(text), name, width, delimiter, before)
        before += text.count("\n")


def _parsed(
    lines: Iterable[str], name: str, width: int, delimiter: str, before: int
) -> Iterator[_Rows]:
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    rows: list[list[str]] = []
    numbers: list[int] = []
    last = before
    try:
        for row in reader:
            first, last = last + 1, before + reader.line_num
            if not row:
                continue
            if len(row) != width:
                raise UsageError(
                    f"{name}: line {first}: {len(row)} columns, and the header has {width}"
                )
            rows.append(row)
            numbers.append(first)
            if len(rows) == 50_000:
                yield _Rows([list(column) for column in zip(*rows, strict=True)], numbers)
                rows, numbers = [], []
    except csv.Error as error:
        raise UsageError(f"{name}: line {last + 1}: {error}") from error
    if rows:
        yield _Rows([list(column) for column in zip(*rows, strict=True)], numbers)


class _Gathered:
    def __init__(
        self, name: str, header: Sequence[str], wanted: Sequence[int], places: Sequence[int]
    ) -> None:
        self.name, self.header, self.wanted, self.places = name, header, wanted, places
        self.coders = [Coder() for _ in places]
        self.codes: list[list[Codes]] = [[] for _ in places]
        self.amounts: list[list[Floats]] = [[] for _ in wanted]

    def add(self, lines: _Rows | _Lines) -> None:
        for coder, codes, place in zip(self.coders, self.codes, self.places, strict=True):
            codes.append(
                coder.of_texts(lines.columns[place])
                if isinstance(lines, _Rows)
                else coder.of_column(lines.block, place)
            )
        for amounts, place in zip(self.amounts, self.wanted, strict=True):
            amounts.append(self._numbers(lines, place))

    def _numbers(self, lines: _Rows | _Lines, place: int) -> Floats:
        if isinstance(lines, _Rows):
            return self._each(lines.columns[place], place, lines.lines.__getitem__)
        numbers, odd = lines.block.numbers(place)
        if len(odd):
            texts = lines.block.texts(place, odd)
            numbers[odd] = self._each(texts, place, lambda at: lines.before + 1 + int(odd[at]))
        return numbers

    def _each(self, texts: Sequence[str], place: int, line_of: Callable[[int], int]) -> Floats:
        """Texts as numbers, by `float`; `line_of` tells where one is. `UsageError` if it is none,
        or none that can be added up."""
        try:
            numbers = np.fromiter(map(float, texts), np.float64, len(texts))
        except ValueError:
            raise self._refused(texts, place, line_of) from None
        if not np.isfinite(numbers).all():
            raise self._refused(texts, place, line_of)
        return numbers

    def _refused(
        self, texts: Sequence[str], place: int, line_of: Callable[[int], int]
    ) -> UsageError:
        at = next(at for at, text in enumerate(texts) if not _is_number(text))
        text = texts[at].strip()
        what = f"{text[:40]!r} is not a number" if text else "empty, and a number is wanted"
        return UsageError(
            f"{self.name}: line {line_of(at)}, column {self.header[place]}: {what}",
            hint="write 0 for nothing; decimals with a point, and no thousands' marks",
        )

    def leaves(self) -> Leaves:
        if not self.amounts[0]:
            raise UsageError(f"{self.name}: no line below the header")
        amounts = [np.concatenate(each) for each in self.amounts]
        return Leaves(
            tuple(self.header[place] for place in self.places),
            tuple(coder.texts for coder in self.coders),
            tuple(np.concatenate(each) for each in self.codes),
            *amounts,
        )


def _is_number(text: str) -> bool:
    try:
        return isfinite(float(text))
    except ValueError:
        return False
