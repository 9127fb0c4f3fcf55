"""A cube as its leaves: dimensions coded by number, what was and what was to be. Pure.

A measure is additive (cost, bytes) or a ratio of two additive ones (cost per request). A ratio adds
up nowhere, so its numerator and its denominator are kept, and each cell divides its own sums.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Codes = NDArray[np.int32]
Indices = NDArray[np.int64]
Mask = NDArray[np.bool_]

_MOST_KEYS = 2**62
DENSE = 4
"""Tables of cells may be so many times larger than the leaves."""


@dataclass(frozen=True, slots=True, order=True)
class Condition:
    """A dimension has a value; the empty text is a value as any other."""

    dimension: str
    value: str

    def __str__(self) -> str:
        return f"{self.dimension}={self.value or '(none)'}"


Combination = tuple[Condition, ...]
"""Conditions that all hold, in the order of the dimensions: it covers leaves. With no condition it
covers all."""


def told(combination: Combination) -> str:
    """`region=eu-west-1&service=g5`, as the papers write it."""
    return "&".join(map(str, combination)) or "(everything)"


@dataclass(frozen=True)
class Leaves:
    """The leaves of a cube, each combination of values once."""

    dimensions: tuple[str, ...]
    values: tuple[tuple[str, ...], ...]
    """Of each dimension, by code."""
    codes: tuple[Codes, ...]
    """Of each dimension, by leaf."""
    actual: Floats
    expected: Floats
    actual_denominator: Floats | None = None
    expected_denominator: Floats | None = None

    def __len__(self) -> int:
        return len(self.actual)

    @property
    def is_ratio(self) -> bool:
        return self.actual_denominator is not None

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        return tuple(map(len, self.values))

    def measured(self) -> tuple[Floats, Floats, Mask]:
        """What each leaf was and was to be, and which leaves can be compared: not those where both
        are nothing, nor rates over nothing."""
        if self.actual_denominator is None or self.expected_denominator is None:
            return self.actual, self.expected, (self.actual != 0) | (self.expected != 0)
        known = (self.actual_denominator > 0) & (self.expected_denominator > 0)
        actual = _divided(self.actual, self.actual_denominator, known)
        expected = _divided(self.expected, self.expected_denominator, known)
        return actual, expected, known & ((actual != 0) | (expected != 0))

    def weights(self) -> Floats:
        """How large each leaf is: its amounts, or for a rate its denominators."""
        if self.actual_denominator is None or self.expected_denominator is None:
            return np.abs(self.actual) + np.abs(self.expected)
        return np.abs(self.actual_denominator) + np.abs(self.expected_denominator)

    def combination(self, dimensions: tuple[int, ...], leaf: int) -> Combination:
        """The values of some dimensions that a leaf has."""
        return tuple(
            Condition(self.dimensions[d], self.values[d][int(self.codes[d][leaf])])
            for d in dimensions
        )

    def covered(self, combination: Combination) -> Mask:
        """Which leaves have all those values; none, where there is no such value."""
        mask = np.ones(len(self), dtype=bool)
        for condition in combination:
            try:
                dimension = self.dimensions.index(condition.dimension)
                code = self.values[dimension].index(condition.value)
            except ValueError:
                return np.zeros(len(self), dtype=bool)
            mask &= self.codes[dimension] == code
        return mask


def _divided(above: Floats, below: Floats, where: Mask) -> Floats:
    return np.divide(above, below, out=np.zeros_like(above), where=where)


def cells(
    codes: tuple[Codes, ...], sizes: tuple[int, ...], *, dense: bool = False
) -> tuple[Indices, int]:
    """A number for each combination of values, and how many there may be. If that is more than a
    few times the leaves, only those that occur are numbered, unless `dense`."""
    leaves = len(codes[0])
    combined: Indices
    if prod(sizes) >= _MOST_KEYS:
        first, _ = cells(codes[:-1], sizes[:-1])
        _, keys = np.unique(first, return_inverse=True)
        combined, total = keys * sizes[-1] + codes[-1], (int(keys.max()) + 1) * sizes[-1]
    else:
        combined, total = codes[0].astype(np.int64), sizes[0]
        for each, size in zip(codes[1:], sizes[1:], strict=True):
            combined *= size
            combined += each
            total *= size
    if total > DENSE * leaves + 1000 and not dense:
        found, combined = np.unique(combined, return_inverse=True)
        total = len(found)
    return combined, total


def merged(leaves: Leaves) -> Leaves:
    """The same cube with leaves that were stated several times added up."""
    keys, count = cells(leaves.codes, leaves.sizes)
    times = np.bincount(keys, minlength=count)
    if times.max(initial=0) <= 1:
        return leaves
    there = np.flatnonzero(times)
    place = np.zeros(count, dtype=np.int64)
    place[there] = np.arange(len(there))
    keys = place[keys]
    first = np.zeros(len(there), dtype=np.int64)
    first[keys[::-1]] = np.arange(len(leaves))[::-1]

    def total(amounts: Floats) -> Floats:
        return np.asarray(np.bincount(keys, amounts, len(there)), dtype=np.float64)

    return Leaves(
        leaves.dimensions,
        leaves.values,
        tuple(each[first] for each in leaves.codes),
        total(leaves.actual),
        total(leaves.expected),
        None if leaves.actual_denominator is None else total(leaves.actual_denominator),
        None if leaves.expected_denominator is None else total(leaves.expected_denominator),
    )
