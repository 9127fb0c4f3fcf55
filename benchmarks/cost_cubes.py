"""Cubes with known causes, made as the papers on locating them make theirs.

- `riskloc`: Kalander, "RiskLoc: Localization of Multi-dimensional Root Causes by Weighted Risk"
  (arXiv 2205.10004), section V: leaves from a Weibull distribution, some of them zero, relative
  noise on either side, and anomalies that scale what they cover down by a severity with a
  deviation. Its set S mixes layers, its set L has single leaves only.
- `squeeze`: Li et al., "Generic and Robust Localization of Multi-Dimensional Root Causes" (ISSRE
  2019), section V: sparse cubes with sizes over several decades, forecasts whose residual grows
  from B0 to B4, and faults that follow the generalised ripple effect with their own magnitude; one
  to three combinations in cuboids of one layer. Its set D is the ratio of two such measures.
- `counts`: success rates as those of Sun et al., "Robust Anomaly Clue Localization of
  Multi-Dimensional Derived Measure for Online Video Services" (IEEE TSC 2023): few and very unequal
  leaves, events that are counted, an expected rate that is the mean of the four minutes before.

A cause is a set of (dimension, value) pairs; the truth is a set of causes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Element = frozenset[tuple[int, int]]
"""Dimension and value, both by number."""


@dataclass(frozen=True, slots=True)
class Case:
    """A cube and what was done to it."""

    sizes: tuple[int, ...]
    codes: NDArray[np.int64]
    """Leaves × dimensions."""
    actual: Floats
    expected: Floats
    truth: frozenset[Element]
    actual_denominator: Floats | None = None
    expected_denominator: Floats | None = None

    @property
    def is_ratio(self) -> bool:
        return self.actual_denominator is not None


def _all_leaves(sizes: tuple[int, ...]) -> NDArray[np.int64]:
    return np.stack([axis.ravel() for axis in np.indices(sizes)], axis=1)


def covered(codes: NDArray[np.int64], element: Element) -> NDArray[np.bool_]:
    """Which leaves an element covers."""
    mask = np.ones(len(codes), dtype=bool)
    for dimension, value in element:
        mask &= codes[:, dimension] == value
    return mask


@dataclass(frozen=True, slots=True)
class RiskLocSettings:
    """The parameters of RiskLoc's generator, by the names of its command line."""

    sizes: tuple[int, ...] = (10, 12, 10, 8, 5)
    weibull: tuple[float, float] = (0.5, 1.0)
    zero_rate: tuple[float, float] = (0.0, 0.25)
    noise: tuple[float, float] = (0.0, 0.25)
    severity: tuple[float, float] = (0.2, 1.0)
    deviation: tuple[float, float] = (0.0, 0.1)
    anomalies: tuple[int, int] = (1, 3)
    elements: tuple[int, int] = (1, 3)
    only_last_layer: bool = False


S = RiskLocSettings()
L = RiskLocSettings(
    sizes=(10, 24, 10, 15),
    noise=(0.0, 0.1),
    severity=(0.5, 1.0),
    deviation=(0.0, 0.0),
    anomalies=(1, 5),
    elements=(1, 1),
    only_last_layer=True,
)
SMALL = RiskLocSettings(sizes=(6, 8, 10, 5))
WIDE = RiskLocSettings(sizes=(10, 5, 60, 12))


def riskloc(rng: np.random.Generator, settings: RiskLocSettings = S) -> Case:
    """One cube of RiskLoc's generator."""
    sizes = settings.sizes
    codes = _all_leaves(sizes)
    count = len(codes)
    zero_rate, noise = rng.uniform(*settings.zero_rate), rng.uniform(*settings.noise)
    actual = rng.weibull(rng.uniform(*settings.weibull), count) * 100
    actual *= rng.uniform(size=count) > zero_rate
    noisy = actual + actual * rng.normal(scale=noise, size=count) if noise else actual.copy()
    swap = rng.integers(0, 2, count) == 1
    actual, expected = np.where(swap, noisy, actual), np.where(swap, actual, noisy)
    actual, expected = np.maximum(actual, 0.0), np.maximum(expected, 0.0)
    rises = bool(actual.sum() > expected.sum())
    taken: list[tuple[tuple[int, ...], list[tuple[int, ...]]]] = []
    for _ in range(rng.integers(*settings.anomalies, endpoint=True)):
        layer = len(sizes) if settings.only_last_layer else int(rng.integers(1, len(sizes) + 1))
        wanted = int(rng.integers(*settings.elements, endpoint=True))
        severity = rng.uniform(*settings.severity) + noise
        deviation = rng.uniform(*settings.deviation)
        found = _place(rng, sizes, layer, wanted, taken, codes, actual)
        if found is None:
            continue
        dimensions, values = found
        taken.append((dimensions, values))
        mask = np.zeros(count, dtype=bool)
        for value in values:
            mask |= covered(codes, frozenset(zip(dimensions, value, strict=True)))
        scale = np.maximum(1 - rng.normal(severity, deviation, int(mask.sum())), 0.0)
        if rises:
            expected[mask] = actual[mask] * scale
        else:
            actual[mask] = expected[mask] * scale
    truth = frozenset(
        frozenset(zip(dimensions, value, strict=True))
        for dimensions, values in taken
        for value in values
    )
    return Case(sizes, codes, actual, expected, truth)


def _place(
    rng: np.random.Generator,
    sizes: tuple[int, ...],
    layer: int,
    wanted: int,
    taken: list[tuple[tuple[int, ...], list[tuple[int, ...]]]],
    codes: NDArray[np.int64],
    actual: Floats,
) -> tuple[tuple[int, ...], list[tuple[int, ...]]] | None:
    """Elements of one cuboid that share no value of a dimension with another anomaly."""
    last = layer == len(sizes)
    for _ in range(200):
        dimensions = tuple(sorted(int(d) for d in rng.choice(len(sizes), layer, replace=False)))
        if dimensions in [used for used, _ in taken] and not last:
            continue
        free = []
        for dimension in dimensions:
            gone = {
                value[used.index(dimension)]
                for used, values in taken
                if dimension in used
                for value in values
            }
            free.append([v for v in range(sizes[dimension]) if v not in gone])
        if not all(free):
            continue
        values = list(
            zip(*([int(v) for v in rng.choice(each, wanted)] for each in free), strict=True)
        )
        if len(set(values)) < wanted:
            continue
        if last and any(
            actual[covered(codes, frozenset(zip(dimensions, value, strict=True)))].sum() == 0
            for value in values
        ):
            continue
        return dimensions, values
    return None


def riskloc_ratio(rng: np.random.Generator, settings: RiskLocSettings = S) -> Case:
    """RiskLoc's generator for a derived measure: the numerator is the denominator times a rate,
    and the rate is what the noise and the anomalies are in."""
    case = riskloc(rng, settings)
    count = len(case.codes)
    size = np.ceil(rng.weibull(rng.uniform(*settings.weibull), count) * 1000)
    now = np.ceil(size * np.exp(rng.normal(scale=0.1, size=count)))
    return Case(
        case.sizes,
        case.codes,
        case.actual / 1000 * now,
        case.expected / 1000 * size,
        case.truth,
        now,
        size,
    )


def squeeze(
    rng: np.random.Generator,
    *,
    sizes: tuple[int, ...] = (10, 33, 8, 6),
    residual: float = 0.02,
    ratio: bool = False,
    layers: tuple[int, int] = (1, 3),
    elements: tuple[int, int] = (1, 3),
) -> Case:
    """One cube as Squeeze's sets B (`residual` from 0.008 to 0.04) and, with `ratio`, D."""
    codes = _all_leaves(sizes)
    codes = codes[rng.uniform(size=len(codes)) < rng.uniform(0.3, 0.9)]
    count = len(codes)
    expected = np.exp(rng.normal(3.0, 2.0, count))
    for dimension, size in enumerate(sizes):
        expected *= (rng.dirichlet(np.ones(size)) * size + 0.05)[codes[:, dimension]]
    expected = np.asarray(np.round(expected, 2), dtype=np.float64)
    codes, expected = codes[expected > 0], expected[expected > 0]
    count = len(codes)
    # What is small is forecast worse: the residual of a sum is what is stated.
    spread = residual * 2.0 * (1 + np.sqrt(np.median(expected) / np.maximum(expected, 0.01))) / 2
    spread = np.minimum(spread, 0.5)
    actual = expected * np.maximum(1 + rng.standard_t(5, count) * spread / 1.3, 0.0)
    layer = int(rng.integers(*layers, endpoint=True))
    wanted = int(rng.integers(*elements, endpoint=True))
    truth: list[Element] = []
    masks: list[NDArray[np.bool_]] = []
    sign = 1 if rng.uniform() < 0.5 else -1
    for _ in range(400):
        if len(truth) == wanted:
            break
        dimensions = rng.choice(len(sizes), layer, replace=False)
        leaf = codes[rng.integers(count)]
        element = frozenset((int(d), int(leaf[d])) for d in dimensions)
        mask = covered(codes, element)
        inside = expected[mask].sum() / expected.sum()
        if not 0.002 < inside < 0.5 or any((mask & other).any() for other in masks):
            continue
        if layer < len(sizes) and mask.sum() < 3:
            continue
        truth.append(element)
        masks.append(mask)
    moved = actual.copy()
    for mask in masks:
        magnitude = rng.uniform(0.2, 0.9)
        each = np.clip(magnitude + rng.normal(scale=0.02, size=int(mask.sum())), 0, 1)
        noise = actual[mask] / expected[mask] if rng.uniform() < 0.5 else 1.0
        moved[mask] = (
            expected[mask] * noise * (1 - each if sign < 0 else 1 / np.maximum(1 - each, 0.05))
        )
    if not ratio:
        return Case(sizes, codes, moved, expected, frozenset(truth))
    rate = rng.uniform(0.6, 1.0, count)
    seen = expected * np.maximum(1 + rng.normal(scale=0.1, size=count), 0.05)
    return Case(
        sizes,
        codes,
        seen * rate * moved / expected,
        expected * rate,
        frozenset(truth),
        seen,
        expected,
    )


def counts(rng: np.random.Generator, *, sizes: tuple[int, ...] = (3, 7, 2, 5)) -> Case:
    """Failures of so many events, in few leaves: expected is the mean of four minutes before."""
    codes = _all_leaves(sizes)
    shares = np.ones(len(codes))
    for dimension, size in enumerate(sizes):
        shares *= rng.dirichlet(np.ones(size))[codes[:, dimension]]
    mean = shares / shares.sum() * np.exp(rng.uniform(np.log(2e3), np.log(5e4)))
    keep = mean > 10
    codes, mean = codes[keep], mean[keep]
    base = rng.beta(2, 60, len(codes)) * rng.uniform(0.3, 1.5)
    before_events = rng.poisson(np.broadcast_to(mean, (4, len(mean))))
    before_failed = rng.binomial(before_events, base)
    layer = int(rng.choice([1, 2, 3], p=[0.6, 0.3, 0.1]))
    wanted = 1 if rng.uniform() < 0.9 else 2
    dimensions = rng.choice(len(sizes), layer, replace=False)
    truth: set[Element] = set()
    now = base.copy()
    for _ in range(200):
        leaf = codes[rng.choice(len(codes), p=mean / mean.sum())]
        element = frozenset((int(d), int(leaf[d])) for d in dimensions)
        mask = covered(codes, element)
        if element in truth or mask.all() or mean[mask].sum() > 0.7 * mean.sum():
            dimensions = rng.choice(len(sizes), layer, replace=False) if not truth else dimensions
            continue
        truth.add(element)
        added = rng.uniform(0.05, 0.4)
        now[mask] = np.clip(now[mask] + added * rng.uniform(0.7, 1.3, int(mask.sum())), 0, 1)
        if len(truth) == wanted:
            break
    events = rng.poisson(mean)
    failed = rng.binomial(events, now)
    return Case(
        sizes,
        codes,
        (events - failed).astype(float),
        (before_events - before_failed).mean(0),
        frozenset(truth),
        events.astype(float),
        before_events.mean(0),
    )


def bills(
    rng: np.random.Generator,
    *,
    sizes: tuple[int, ...] = (4, 8, 25, 12),
    uneven: float = 0.25,
    drift: float = 0.03,
    ratio: bool = False,
) -> Case:
    """What the papers leave out and bills have: whole numbers that come by chance, leaves that
    appear and vanish, a drift of everything, and effects that are not equal in all leaves."""
    codes = _all_leaves(sizes)
    codes = codes[rng.uniform(size=len(codes)) < rng.uniform(0.2, 0.7)]
    count = len(codes)
    mean = np.exp(rng.normal(3.0, 1.5, count))
    noise = rng.uniform(0.02, 0.12)
    expected = rng.poisson(mean).astype(np.float64)
    now = mean * np.exp(rng.normal(drift * rng.uniform(-1, 1), noise, count))
    actual = rng.poisson(now).astype(np.float64)
    came = rng.uniform(size=count)
    expected[came < 0.01] = 0
    actual[came > 0.99] = 0
    truth: list[Element] = []
    masks: list[NDArray[np.bool_]] = []
    rises = rng.uniform() < 0.7
    wanted = 1 + int(rng.uniform() < 0.3)
    for _ in range(400):
        if len(truth) == wanted:
            break
        dimensions = rng.choice(len(sizes), int(rng.integers(1, 4)), replace=False)
        leaf = codes[rng.choice(count, p=expected / expected.sum())]
        element = frozenset((int(d), int(leaf[d])) for d in dimensions)
        mask = covered(codes, element)
        share = expected[mask].sum() / expected.sum()
        if not 0.01 < share < 0.4 or mask.sum() < 3 or any((mask & m).any() for m in masks):
            continue
        truth.append(element)
        masks.append(mask)
        factor = rng.uniform(1.5, 3.0)
        each = np.exp(rng.normal(np.log(factor), uneven * np.log(factor), int(mask.sum())))
        actual[mask] = np.round(actual[mask] * (each if rises else 1 / each))
    if not ratio:
        return Case(sizes, codes, actual, expected, frozenset(truth))
    size = rng.poisson(mean * 20).astype(np.float64) + 1
    now = rng.poisson(mean * 20 * np.exp(rng.normal(0, 0.1, count))).astype(np.float64) + 1
    with np.errstate(divide="ignore", invalid="ignore"):
        moved = np.where(expected > 0, actual / expected, 1.0).astype(np.float64)
    rate = np.exp(rng.normal(-1, 0.3, count))
    return Case(sizes, codes, now * rate * moved, size * rate, frozenset(truth), now, size)


SETS: dict[str, Callable[[np.random.Generator], Case]] = {
    "S": lambda rng: riskloc(rng, S),
    "S small": lambda rng: riskloc(rng, SMALL),
    "S wide": lambda rng: riskloc(rng, WIDE),
    "L": lambda rng: riskloc(rng, L),
    "B0": lambda rng: squeeze(rng, residual=0.008),
    "B2": lambda rng: squeeze(rng, residual=0.02),
    "B4": lambda rng: squeeze(rng, residual=0.04),
    "A": lambda rng: squeeze(rng, sizes=(15, 12, 9, 8), residual=0.03, elements=(1, 5)),
    "bills": bills,
    "D": lambda rng: squeeze(rng, residual=0.02, ratio=True),
    "D S": lambda rng: riskloc_ratio(rng, S),
    "D small": lambda rng: riskloc_ratio(rng, SMALL),
    "RS": counts,
    "D bills": lambda rng: bills(rng, ratio=True),
}
"""By name; those that begin with D, and RS, are ratios."""
