"""What the leaves do when nothing befell them: learnt from the cube itself. Pure.

A leaf's change is told as a share of the larger of its two values, from -1 (it has gone) to 1 (it
is new): bounded, the same for up and down, and equal in all leaves of a cause that scales what it
covers, which Li et al. call the generalised ripple effect (ISSRE 2019).

The two directions of noise are alike and those of an incident are not, so noise is learnt on the
side where less happened. Its width is constant, or grows as leaves get smaller; in rates of events
that are counted, as those of a binomial do. Which of these, how wide, and with what tails is the
most likely of a grid, beside a share of changes that no noise explains.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import lgamma, log, pi, sqrt

import numpy as np

from mlplatform.cost.locate.leaves import Codes, Floats, Leaves, Mask

LEAST_SCALE = 0.01
"""Changes closer than 1 % count as equal: bills are rounded."""

_MOST_SCALE = 0.6
_LEAST_COUNTED = 0.002
"""Rates of many events are known better than bills are."""
_CONSTANT = np.concatenate([[0.001, 0.002], np.geomspace(0.004, 0.45, 16)])
_GROWING = np.concatenate([[0.0], np.geomspace(0.01, 0.6, 9)])
_NORMAL = 200.0
_FREEDOM = (3.0, 5.0, 10.0, _NORMAL)
"""Degrees of freedom of Student's t; the last is taken for the normal distribution."""
_MEDIAN = {3.0: 0.7649, 5.0: 0.7267, 10.0: 0.6998, _NORMAL: 0.6745}
"""Of |t|: scales are those of a normal distribution with the same median."""
_BEYOND = {3.0: 40.0, 5.0: 16.0, 10.0: 9.0, _NORMAL: 6.0}
"""So many scales away a leaf is an outlier."""
_NO_NOISE = (0.01, 0.2)
"""Shares of changes that are none of noise, of which the likelier is taken."""
_SAMPLE = 1500
_FEW = 300
"""With fewer leaves nobody can tell thin tails."""
_BINS_A_UNIT = 50
_SEEN_OFTEN = 3
_LEAVES_A_GROUP = 500
_DRIFT = 0.1
_ENOUGH_FOR_DRIFT = 500
"""A drift of everything is at most so large; what is beyond is an incident."""
_PRIOR_EVENTS = 20.0
_UNSEEN_OUTLIERS = 0.02


@dataclass(frozen=True, slots=True)
class Background:
    """How likely each leaf's change is if nothing befell it."""

    change: Floats
    """By leaf, as a share of the larger value."""
    noise: Floats
    """The same without drift, and symmetric where events are counted."""
    scale: Floats
    chance: Floats
    """The density of `change` by noise."""
    freedom: float
    outliers: float
    """The share of leaves that change by more than noise, for no cause of several leaves."""

    @property
    def total(self) -> Floats:
        """The density of noise and outliers; these may be anywhere from -1 to 1."""
        return self.chance + self.outliers * 0.5


def changes(actual: Floats, expected: Floats) -> Floats:
    """By how much, as a share of the larger of the two; 0 where both are nothing."""
    larger = np.maximum(np.abs(actual), np.abs(expected))
    share = np.divide(actual - expected, larger, out=np.zeros_like(larger), where=larger > 0)
    return np.clip(share, -1.0, 1.0)


def learn(leaves: Leaves, kept: Mask, codes: tuple[Codes, ...]) -> Background:
    """The background of the leaves that are `kept`, whose codes are given."""
    actual, expected, _ = leaves.measured()
    actual, expected = actual[kept], expected[kept]
    weight = leaves.weights()[kept]
    change = changes(actual, expected)
    noise, least = change, LEAST_SCALE
    shapes = [_relative(1 / np.maximum(weight, 1e-12))]
    if leaves.is_ratio:
        amount = np.abs(leaves.actual[kept]) + np.abs(leaves.expected[kept])
        shapes.append(_relative(1 / np.maximum(amount, 1e-12)))
        counted = _binomial(leaves, kept, actual, expected)
        if counted is not None:
            noise, shape = counted
            shapes.append(shape)
            least = _LEAST_COUNTED
    noise = _without_drift(noise)
    calm = _calm_side(noise)
    scale, freedom = _fitted(noise, calm, shapes, least)
    if len(change) < _FEW:
        freedom = min(freedom, 10.0)
    deviations = noise / scale
    chance = _density(deviations**2, freedom) / scale
    often = _often_seen(change, noise, weight, calm, codes)
    chance = np.maximum(chance, np.where(np.abs(noise) > scale, often, 0.0))
    far = _BEYOND[freedom]
    beyond = min(np.count_nonzero(deviations > far), np.count_nonzero(deviations < -far))
    outliers = (2 * beyond + _UNSEEN_OUTLIERS) / max(len(change), 1)
    return Background(change, noise, scale, chance, freedom, outliers)


def _relative(shape: Floats) -> Floats:
    return np.minimum(shape / max(float(np.median(shape)), 1e-300), 1e4)


def _binomial(
    leaves: Leaves, kept: Mask, actual: Floats, expected: Floats
) -> tuple[Floats, Floats] | None:
    """Where a ratio may be a share of events: its noise made symmetric by the arc sine of the root,
    and the variance that so many events give. None where it is no share."""
    above, below = leaves.actual[kept], leaves.actual_denominator
    above_expected, below_expected = leaves.expected[kept], leaves.expected_denominator
    if below is None or below_expected is None:
        return None
    below, below_expected = below[kept], below_expected[kept]
    a_share = (above >= 0) & (above <= below * (1 + 1e-9))
    a_share &= (above_expected >= 0) & (above_expected <= below_expected * (1 + 1e-9))
    if not a_share.all() or not above_expected.sum():
        return None
    overall = above_expected.sum() / below_expected.sum()
    rate = (above_expected + _PRIOR_EVENTS * overall) / (below_expected + _PRIOR_EVENTS)
    rate = np.clip(rate, 1e-6, 1 - 1e-6)
    spread = (1 - rate) / rate

    def turned(share: Floats) -> Floats:
        return np.arcsin(np.sqrt(np.clip(share, 0.0, 1.0)))

    noise = (turned(actual) - turned(expected)) * 2 * np.sqrt(spread)
    return np.clip(noise, -1.0, 1.0), _relative(spread / np.maximum(below, 1e-9))


def _without_drift(noise: Floats) -> Floats:
    """Everything may have grown by a little: that is for a forecast to learn, and no cause."""
    near = noise[(np.abs(noise) <= _DRIFT) & (noise != 0)]
    if len(near) < _ENOUGH_FOR_DRIFT:
        return noise
    middle = float(np.median(near))
    error = 1.25 * float(np.std(near)) / sqrt(len(near))
    return np.clip(noise - middle, -1.0, 1.0) if abs(middle) > 3 * error else noise


def _calm_side(noise: Floats) -> Mask:
    """The side where less happened; no change is on both."""
    return noise <= 0 if noise[noise > 0].sum() > -noise[noise < 0].sum() else noise >= 0


def _density(squares: Floats, freedom: float) -> Floats:
    if freedom == _NORMAL:
        return np.exp(-0.5 * squares) / sqrt(2 * pi)
    scale = _MEDIAN[_NORMAL] / _MEDIAN[freedom]
    constant = lgamma((freedom + 1) / 2) - lgamma(freedom / 2) - 0.5 * log(freedom * pi)
    power = -(freedom + 1) / 2
    return np.exp(constant + power * np.log1p(squares / (freedom * scale * scale))) / scale


def _fitted(noise: Floats, calm: Mask, shapes: list[Floats], least: float) -> tuple[Floats, float]:
    """The most likely widths and tails of half a distribution."""
    index = np.flatnonzero(calm)
    if not len(index):
        return np.full(len(noise), least), _FREEDOM[1]
    index = index[:: len(index) // _SAMPLE + 1]
    squares = noise[index] ** 2
    best: tuple[float, int, float, float, float] | None = None
    for number, shape in enumerate(shapes):
        for growing in _GROWING:
            if growing == 0 and number > 0:
                continue
            scales = np.sqrt(
                np.maximum(_CONSTANT[:, None] ** 2 + growing**2 * shape[index][None, :], least**2)
            )
            price = 0.5 * log(len(index)) if growing else 0.0
            for freedom in _FREEDOM:
                density = 2 * _density(squares / scales**2, freedom) / scales
                for share in _NO_NOISE:
                    likely = np.log((1 - share) * density + share).sum(axis=1) - price
                    most = int(likely.argmax())
                    if best is None or likely[most] > best[0]:
                        constant = float(_CONSTANT[most])
                        best = (float(likely[most]), number, constant, float(growing), freedom)
    assert best is not None  # noqa: S101 - the grid is not empty
    _, number, constant, growing, freedom = best
    scale = np.sqrt(constant**2 + growing**2 * shapes[number])
    return np.clip(scale, least, _MOST_SCALE), freedom


def _often_seen(
    change: Floats, noise: Floats, weight: Floats, calm: Mask, codes: tuple[Codes, ...]
) -> Floats:
    """Densities of changes that small whole numbers make often (from 1 to 2, from 1 to none), among
    leaves of about the same size: on the calm side; and leaves that come or go, on their own side,
    as far as they do so everywhere."""
    leaves = len(noise)
    groups = min(4, max(1, leaves // _LEAVES_A_GROUP))
    edges = np.quantile(weight, np.arange(1, groups) / groups)
    group = np.zeros(leaves, dtype=np.int64)
    for edge in edges:
        group += weight > edge
    sizes = np.maximum(np.bincount(group, minlength=groups), 1)
    width = _BINS_A_UNIT + 1
    cell = np.minimum((np.abs(noise) * _BINS_A_UNIT).astype(np.int64), _BINS_A_UNIT) + width * group
    seen = np.bincount(cell[calm & (noise != 0)], minlength=width * groups)
    density = np.where(seen >= _SEEN_OFTEN, seen / np.repeat(sizes, width) * _BINS_A_UNIT, 0.0)
    density[_BINS_A_UNIT::width] *= 2
    # In a small cube large leaves and small ones would be one group.
    often = density[cell] if leaves >= _LEAVES_A_GROUP else np.zeros(leaves)
    for side in (change >= 0.98, change <= -0.98):
        if np.count_nonzero(side) < _SEEN_OFTEN:
            continue
        everywhere = min(_usual_share(each, side) for each in codes)
        seen = np.bincount(group[side], minlength=groups) * min(1.0, everywhere / side.mean())
        own = np.where(seen >= _SEEN_OFTEN, seen / sizes * _BINS_A_UNIT, 0.0)
        often[side] = np.maximum(often[side], own[group[side]])
    return often


def _usual_share(codes: Codes, side: Mask) -> float:
    there = np.bincount(codes)
    hit = np.bincount(codes[side], minlength=len(there))
    return float(np.median(hit[there > 0] / there[there > 0]))
