"""The answer and what else it could have been, each with its share of the change. Pure.

Rank 1 is the answer: the fewest combinations that carry the change. Ranks below are single
combinations that were weighed and not taken, for whoever doubts the answer; they overlap it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlplatform.cost.locate.leaves import Combination, Condition, Leaves, Mask, told
from mlplatform.cost.locate.search import Found, Prior, search

CANDIDATES = 5

_ENOUGH_OF_CHANGE = 0.8
_MOST_BY_SIZE = 3


@dataclass(frozen=True, slots=True)
class Amount:
    """What was and what was to be, of all or of a part. Rates of a ratio; None over nothing."""

    actual: float | None
    expected: float | None
    share: float | None
    """Of the change of the whole: what of it would be gone had this part been as expected. None
    where the whole did not change."""
    leaves: int

    @property
    def change(self) -> float | None:
        if self.actual is None or self.expected is None:
            return None
        return self.actual - self.expected


@dataclass(frozen=True, slots=True)
class Part:
    """One combination of a set."""

    combination: Combination
    amount: Amount
    score: float | None
    """What it saves, in nats: above 0 the leaves speak for it. None if taken for its size."""


@dataclass(frozen=True, slots=True)
class LeafSet:
    """Combinations that carry a change together."""

    rank: int
    parts: tuple[Part, ...]
    amount: Amount
    doubtful: bool
    """Nothing stands out of the noise enough: this is only what is likeliest, or largest."""

    def __str__(self) -> str:
        return ";".join(told(part.combination) for part in self.parts)

    def as_row(self) -> dict[str, Any]:
        """What programs get."""
        return {
            "rank": self.rank,
            "text": str(self),
            "set": [
                {condition.dimension: condition.value for condition in part.combination}
                for part in self.parts
            ],
            **_row(self.amount),
            "doubtful": self.doubtful,
            "parts": [
                {
                    "text": told(part.combination),
                    **_row(part.amount),
                    "score": None if part.score is None else round(part.score, 2),
                }
                for part in self.parts
            ],
        }


def _row(amount: Amount) -> dict[str, Any]:
    return {
        "share": None if amount.share is None else round(amount.share, 6),
        "actual": amount.actual,
        "expected": amount.expected,
        "change": amount.change,
        "leaves": amount.leaves,
    }


@dataclass(frozen=True, slots=True)
class Ranking:
    """Leaf sets, best first, and the whole that they are parts of."""

    whole: Amount
    sets: tuple[LeafSet, ...]


def rank(leaves: Leaves, candidates: int = CANDIDATES, prior: Prior | None = None) -> Ranking:
    """Locate the change of a cube; at most so many sets. None at all where nothing changed."""
    found = search(leaves, prior)
    whole = _amount(leaves, np.ones(len(leaves), dtype=bool))
    causes, doubtful = found.causes, found.doubtful
    parts = [
        Part(cause.combination, _amount(leaves, leaves.covered(cause.combination)), cause.saves)
        for cause in causes
    ]
    if not parts:
        parts, doubtful = _by_size(leaves), True
    if not parts:
        return Ranking(whole, ())
    parts.sort(key=lambda part: -(part.amount.share or 0.0))
    sets = [_set(leaves, 1, parts, doubtful=doubtful)]
    for combination, score in _others(found, parts)[: max(0, candidates - 1)]:
        amount = _amount(leaves, leaves.covered(combination))
        sets.append(
            LeafSet(len(sets) + 1, (Part(combination, amount, score),), amount, doubtful=True)
        )
    return Ranking(whole, tuple(sets[: max(1, candidates)]))


def _set(leaves: Leaves, number: int, parts: Sequence[Part], *, doubtful: bool) -> LeafSet:
    mask = np.zeros(len(leaves), dtype=bool)
    for part in parts:
        mask |= leaves.covered(part.combination)
    return LeafSet(number, tuple(parts), _amount(leaves, mask), doubtful)


def _others(found: Found, parts: Sequence[Part]) -> list[tuple[Combination, float]]:
    taken = {part.combination for part in parts}
    others: dict[Combination, float] = {}
    for cause in found.others:
        if cause.combination and cause.saves > 0 and cause.combination not in taken:
            others.setdefault(cause.combination, cause.saves)
    return list(others.items())


def _amount(leaves: Leaves, mask: Mask) -> Amount:
    """A part's own values, and how much of the whole's change would be gone without its own."""
    count = int(np.count_nonzero(mask))
    actual, expected = float(leaves.actual[mask].sum()), float(leaves.expected[mask].sum())
    total, total_expected = float(leaves.actual.sum()), float(leaves.expected.sum())
    if leaves.actual_denominator is None or leaves.expected_denominator is None:
        change = total - total_expected
        share = (actual - expected) / change if change else None
        return Amount(actual, expected, share, count)
    below = float(leaves.actual_denominator[mask].sum())
    below_expected = float(leaves.expected_denominator[mask].sum())
    whole = _rate(total, float(leaves.actual_denominator.sum()))
    before = _rate(total_expected, float(leaves.expected_denominator.sum()))
    without = _rate(
        total - actual + expected, float(leaves.actual_denominator.sum()) - below + below_expected
    )
    share = None
    if whole is not None and before is not None and without is not None and whole != before:
        share = (whole - without) / (whole - before)
    return Amount(_rate(actual, below), _rate(expected, below_expected), share, count)


def _rate(above: float, below: float) -> float | None:
    return above / below if below else None


def _by_size(leaves: Leaves) -> list[Part]:
    """The few values of one dimension that make up most of the change: no test of anything, but
    better than nothing in a cube of a handful of leaves."""
    whole = float(leaves.actual.sum() - leaves.expected.sum())
    if leaves.is_ratio or not whole:
        return []
    delta = (leaves.actual - leaves.expected) / whole
    best: tuple[int, float, list[tuple[int, int]]] | None = None
    for dimension, size in enumerate(leaves.sizes):
        share = np.bincount(leaves.codes[dimension], delta, size)
        order = [int(code) for code in np.argsort(-share, kind="stable")[:_MOST_BY_SIZE]]
        for count in range(1, min(len(order), size - 1) + 1):
            carried = float(share[order[:count]].sum())
            if carried >= _ENOUGH_OF_CHANGE:
                chosen = [(dimension, code) for code in order[:count]]
                if best is None or (count, -carried) < best[:2]:
                    best = (count, -carried, chosen)
                break
    if best is None:
        return []
    combinations = [
        (Condition(leaves.dimensions[dimension], leaves.values[dimension][code]),)
        for dimension, code in best[2]
    ]
    return [Part(each, _amount(leaves, leaves.covered(each)), None) for each in combinations]
