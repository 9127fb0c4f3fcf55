"""Blocks of CSV without quotation marks, taken apart at once: texts numbered, numbers read. Pure.

Python makes an object of each cell, and a million lines have millions. Here a cell is eight bytes
at a time of the block, as one whole number each, and what is done is done to a column. Whatever is
unusual goes by way of Python's own text and `float`, with the same result.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from mlplatform.cost.locate.leaves import Codes, Floats, Indices

_Words = NDArray[np.uint64]
_u64 = np.uint64

_WORD = 8
_BEFORE = 2 * _WORD
"""Numbers are read from their end: there is so much room before the first cell."""
_LONGEST = 6
"""Texts of more words than this are quicker as Python's."""

_ONES = _u64(0x0101010101010101)
_HIGHS = _ONES * _u64(0x80)
_HALVES = _ONES * _u64(0xF0)
_DOTS = _ONES * _u64(ord("."))
_ZEROS = _ONES * _u64(ord("0"))
_DOT_TO_ZERO = _u64(ord("0") ^ ord("."))
_FIRST = np.array([2 ** (8 * k) - 1 for k in range(_WORD + 1)], dtype=np.uint64)
"""Masks for the first so many bytes of a word; the first is the lowest."""
_LAST = ~_FIRST[::-1]
_AFTER = sum(_u64(k) << _u64(8 * k) for k in range(_WORD))
"""Times a word with only bit 8 k set, this has 7 - k in its highest byte."""
_TENS = 10.0 ** np.arange(2 * _WORD + 1)
_EXACT = 2.0**53

_SLOT_BITS = 16
_SLOTS = 2**_SLOT_BITS
_MOST_HASHED = _SLOTS // 2
"""With more texts than this, too many slots are another's."""
_NO_TEXT = _u64(2**64 - 1)
"""No UTF-8 has such bytes."""
_ODD = _u64(0x9E3779B97F4A7C15)
"""2⁶⁴ over the golden ratio (Knuth, volume 3, 6.4)."""


class Block:
    """Lines of text that have so many cells each."""

    def __init__(self, text: bytes, starts: Indices, ends: Indices) -> None:
        self._text, self._starts, self._ends = text, starts, ends

    @classmethod
    def of(cls, text: str, width: int, delimiter: str) -> Block | None:
        """Whole lines taken apart; None unless each has `width` cells. A NUL is nobody's text, and
        no mark of where one ends."""
        if "\0" in text:
            return None
        encoded = b"".join((bytes(_BEFORE), text.encode(), bytes(_LONGEST * _WORD)))
        characters = np.frombuffer(encoded, np.uint8)
        line_ends = characters == ord("\n")
        places = np.flatnonzero(line_ends | (characters == ord(delimiter)))
        if not len(places) or len(places) % width:
            return None
        ends = places.reshape(-1, width)
        ends_line = line_ends[ends]
        if not ends_line[:, -1].all() or ends_line[:, :-1].any():
            return None
        starts = np.empty_like(places)
        starts[0] = _BEFORE
        np.add(places[:-1], 1, out=starts[1:])
        return cls(encoded, np.ascontiguousarray(starts.reshape(-1, width).T), ends.T.copy())

    def __len__(self) -> int:
        """How many lines."""
        return int(self._starts.shape[1])

    def column(self, place: int) -> list[str]:
        """A column as Python's texts."""
        return self.texts(place, np.arange(len(self)))

    def texts(self, place: int, lines: Indices) -> list[str]:
        """Some cells of a column as Python's texts."""
        starts, ends = self._starts[place][lines].tolist(), self._ends[place][lines].tolist()
        text = self._text
        if text.isascii():
            whole = text.decode()
            return [whole[start:end] for start, end in zip(starts, ends, strict=True)]
        return [text[start:end].decode() for start, end in zip(starts, ends, strict=True)]

    def words(self, place: int) -> list[_Words] | None:
        """The bytes of each cell of a column as whole numbers, so that equal texts are equal
        numbers; None where texts are too long for that."""
        starts = self._starts[place]
        lengths = self._ends[place] - starts
        count = max(1, -(-int(lengths.max()) // _WORD))
        if count > _LONGEST:
            return None
        return [
            self._windows[starts + _WORD * k] & _FIRST[np.clip(lengths - _WORD * k, 0, _WORD)]
            for k in range(count)
        ]

    def numbers(self, place: int) -> tuple[Floats, Indices]:
        """A column as numbers, and the lines on which `float` has to say what it is: exponents,
        many digits, no number at all.

        A number of up to 15 digits, with or without a point, is a whole number below 2⁵³ over a
        power of ten up to 10²²: both are exact as floats, so that their quotient is what `float`
        reads (Clinger, PLDI 1990). Eight digits are made a number by three multiplications (Lemire,
        "Quickly parsing eight digits", 2018).
        """
        starts, ends = self._starts[place], self._ends[place]
        negative = np.frombuffer(self._text, np.uint8)[starts] == ord("-")
        lengths = ends - starts - negative
        low = _padded(self._windows[ends - _WORD], lengths)
        high = _padded(self._windows[ends - 2 * _WORD], lengths - _WORD)
        low_dot, high_dot = _dot(low), _dot(high)
        low ^= low_dot * _DOT_TO_ZERO
        high ^= high_dot * _DOT_TO_ZERO
        dot = low_dot | high_dot
        pointed = dot != 0
        whole = _number(high) * 1e8 + _number(low)
        plain = _is_digits(low) & _is_digits(high) & (whole < _EXACT)
        plain &= (lengths > pointed) & (lengths <= 2 * _WORD)
        plain &= (dot & (dot - _u64(1)) == 0) & ((low_dot == 0) | (high_dot == 0))
        at = np.flatnonzero(plain & pointed)
        digits = ((dot[at] * _AFTER) >> _u64(56)).astype(np.int64)
        digits += _WORD * (high_dot[at] != 0)
        # What is before the point, and behind it, without the zero between them.
        before = np.floor(whole[at] / _TENS[digits + 1])
        behind = whole[at] - before * _TENS[digits + 1]
        whole[at] = (before * _TENS[digits] + behind) / _TENS[digits]
        np.negative(whole, out=whole, where=negative)
        return whole, np.flatnonzero(~plain)

    @cached_property
    def _windows(self) -> _Words:
        """The eight bytes from each byte on."""
        return np.ndarray((len(self._text) - _WORD + 1,), "<u8", self._text, strides=(1,))


class Coder:
    """Numbers texts in the order in which they are met."""

    def __init__(self) -> None:
        self._code_of = _Codes()
        self._code_at = np.zeros(_SLOTS, dtype=np.int32)
        self._words_at = [np.full(_SLOTS, _NO_TEXT, dtype=np.uint64)]

    @property
    def texts(self) -> tuple[str, ...]:
        """By number."""
        return tuple(self._code_of)

    def of_texts(self, texts: Collection[str]) -> Codes:
        """Their numbers."""
        return np.fromiter(map(self._code_of.__getitem__, texts), np.int32, len(texts))

    def of_column(self, block: Block, place: int) -> Codes:
        """The numbers of a column. Texts that were met before are found by their words, in a table
        with a slot for each hash; new ones, and those whose slot another has taken, one by one."""
        words = block.words(place) if len(self._code_of) <= _MOST_HASHED else None
        if words is None:
            return self.of_texts(block.column(place))
        while len(self._words_at) < len(words):
            self._words_at.append(np.zeros(_SLOTS, dtype=np.uint64))
        words += [np.zeros(len(block), dtype=np.uint64)] * (len(self._words_at) - len(words))
        slots = _hashed(words)
        codes = self._code_at[slots]
        same = np.ones(len(block), dtype=bool)
        for known, word in zip(self._words_at, words, strict=True):
            same &= known[slots] == word
        new = np.flatnonzero(~same)
        if len(new):
            codes[new] = self.of_texts(block.texts(place, new))
            new = new[self._words_at[0][slots[new]] == _NO_TEXT]
            self._code_at[slots[new]] = codes[new]
            for known, word in zip(self._words_at, words, strict=True):
                known[slots[new]] = word[new]
        return codes


class _Codes(dict[str, int]):
    def __missing__(self, text: str) -> int:
        self[text] = len(self)
        return len(self) - 1


def _hashed(words: Sequence[_Words]) -> Indices:
    """A slot for each text."""
    mixed = words[0] * _ODD
    for word in words[1:]:
        mixed = (mixed ^ (mixed >> _u64(29)) ^ word) * _ODD
    return (mixed >> _u64(64 - _SLOT_BITS)).astype(np.int64)


def _padded(word: _Words, lengths: Indices) -> _Words:
    """The last bytes of a word, and zeros of text before them."""
    kept = _LAST[np.clip(lengths, 0, _WORD)]
    return (word & kept) | (_ZEROS & ~kept)


def _dot(word: _Words) -> _Words:
    """The lowest bit of the bytes that are a point. Above one there may be a bit too many: where
    there is a slash, which no number has."""
    found = word ^ _DOTS
    return ((found - _ONES) & ~found & _HIGHS) >> _u64(7)


def _is_digits(word: _Words) -> NDArray[np.bool_]:
    above = word + _ONES * _u64(6)
    return np.asarray(((word & _HALVES) == _ZEROS) & ((above & _HALVES) == _ZEROS))


def _number(word: _Words) -> Floats:
    """Eight digits as a number: by twos, by fours, all."""
    digits = word - _ZEROS
    digits = (digits * _u64(10) + (digits >> _u64(8))) & _u64(0x00FF00FF00FF00FF)
    digits = (digits * _u64(100) + (digits >> _u64(16))) & _u64(0x0000FFFF0000FFFF)
    digits = (digits * _u64(10_000) + (digits >> _u64(32))) & _u64(0xFFFFFFFF)
    return digits.astype(np.float64)
