"""Which combinations of values carry a change: a description of it as short as can be. Pure.

A cause is an element of a cuboid (`region=eu-west-1`, or with `service=g5` beside it) whose leaves
all changed by about the same share. It explains its leaves as far as that is likelier than noise,
and it costs what it takes to name it: its layer, its cuboid, its values, its share and spread. The
element that saves most is taken, its leaves are set aside, and so on until nothing saves anything
(minimum description length; Rissanen, 1978). Equal changes and the ripple effect are Squeeze's (Li
et al., ISSRE 2019), cuboids that are searched from the top down are Adtributor's and HotSpot's, and
setting aside what is found is RiskLoc's (Kalander, 2022); the likelihood in place of thresholds is
ours.

An element that holds several causes, and normal leaves between them, must not be taken for one: it
is passed over where its parts, each with its own cost, tell the same leaves better.

Not every element is looked at. All are screened, by sums over each cuboid; a few of each cuboid are
fitted. In large cubes the sums of one and two dimensions are taken from a few that are summed over
more; the cuboids of three and more dimensions are screened only by the leaves that noise does not
explain, and elements with many leaves are fitted on some of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations
from math import comb, log, pi, prod, sqrt
from typing import NamedTuple

import numpy as np

from mlplatform.cost.locate.background import LEAST_SCALE, Background, learn
from mlplatform.cost.locate.leaves import (
    DENSE,
    Codes,
    Combination,
    Condition,
    Floats,
    Indices,
    Leaves,
    cells,
)

MOST_CAUSES = 15


@dataclass(frozen=True, slots=True)
class Prior:
    """What is taken for granted. Costs and savings are in nats. The figures were chosen on cubes
    of benchmarks/cost_cubes.py, with the seeds for tuning."""

    strays: float = 0.02
    """The share of a cause's leaves that behave as if nothing had befallen them."""
    naming: float = 1.0
    """What any cause costs."""
    spread: float = 1.0
    """What it costs to state how far its leaves differ."""
    tight: float = 1.0
    """And to say that they differ by less than noise would make them."""
    against: float = 3.0
    """What a cause costs that goes against the total."""
    least_change: float = 0.03
    """A cause changes its leaves by at least this share, and by more than their noise."""
    uneven: float = 0.5
    """The leaves of one cause differ by no more than this share of its change: what spans from
    nothing to much is several causes, or none."""
    uneven_everything: float = 0.1
    """The same for all leaves together."""
    enough: float = 1.0
    """What a cause has to save."""
    doubtful: float = -3.0
    """If nothing saves enough, the best is told as doubtful that saves at least this."""


@dataclass(frozen=True, slots=True)
class Effect:
    """How the leaves of a cause changed."""

    change: float
    spread: float
    noisy: bool
    """Whether their own noise comes on top."""
    cost: float
    """Of stating it."""


@dataclass(frozen=True, slots=True)
class Cause:
    """An element, and what it saves."""

    combination: Combination
    saves: float
    effect: Effect


@dataclass(frozen=True, slots=True)
class Found:
    """The answer, and what else was weighed first."""

    causes: tuple[Cause, ...]
    others: tuple[Cause, ...]
    """The best of the first round, none of them in the answer."""
    doubtful: bool


def search(leaves: Leaves, prior: Prior | None = None) -> Found:
    """The causes of a change. None at all where nothing is beyond noise."""
    return _Search(leaves, prior or Prior()).run()


_Cuboid = tuple[int, ...]
_Place = tuple[_Cuboid, tuple[int, ...]]
"""An element: a cuboid, and its value of each of these dimensions."""

_CLIPPED = 8.0
_HOT = 2.0
_LARGE = 150_000
_COARSE = 8
"""A table that others are summed from has so many times fewer cells than there are leaves."""
_FITTED = 4000
_TESTED = 40_000


@dataclass(frozen=True, slots=True)
class _Fit:
    saves: float
    place: _Place
    effect: Effect
    index: Indices
    """Its leaves that are not yet explained."""


class _Sums(NamedTuple):
    """Of each cell of a cuboid: how far it is shifted, and how well that is known, by what is not
    yet explained."""

    shift: Floats
    precision: Floats


@dataclass(frozen=True, slots=True)
class _Cells:
    """The cells of a cuboid that some leaves are in."""

    keys: Indices
    """By leaf."""
    count: int
    leaf_of: Indices
    """One leaf of each; -1 where there is none."""

    @classmethod
    def of(cls, keys: Indices, count: int, leaves: Indices) -> _Cells:
        leaf_of = np.full(count, -1, dtype=np.int64)
        leaf_of[keys] = leaves
        return cls(keys, count, leaf_of)


class _Search:
    def __init__(self, leaves: Leaves, prior: Prior) -> None:
        self.whole = leaves
        self.prior = prior
        actual, expected, kept = leaves.measured()
        self.rows = np.flatnonzero(kept)
        self.codes: tuple[Codes, ...] = (
            leaves.codes if kept.all() else tuple(each[kept] for each in leaves.codes)
        )
        self.sizes = leaves.sizes
        self.count = len(self.rows)
        delta = (actual - expected)[kept]
        if leaves.is_ratio:
            delta = delta * leaves.weights()[kept]
        self.rises = float(delta.sum()) >= 0
        self.large = self.count > _LARGE
        self.told_apart = [d for d, size in enumerate(self.sizes) if size > 1]
        self.cuboids = [
            cuboid
            for layer in range(len(self.told_apart) + 1)
            for cuboid in combinations(self.told_apart, layer)
        ]
        self.kept_cells: dict[_Cuboid, _Cells] = {}
        self.kept_members: dict[tuple[int, int], Indices] = {}
        self.fits: dict[tuple[_Place, int], tuple[float, Effect] | None] = {}
        if self.count:
            self.background: Background = learn(leaves, kept, self.codes)
            self.total = self.background.total
            self.deviation = np.clip(
                self.background.noise / self.background.scale, -_CLIPPED, _CLIPPED
            )
            self.alive = np.ones(self.count, dtype=bool)
            self.shift = self.deviation / self.background.scale
            self.precision = 1 / self.background.scale**2
            self.beyond = np.sign(self.deviation) * (np.minimum(self.deviation**2 / 2, 20.0) - 2.0)
            self.kept_sums: dict[_Cuboid, _Sums] = self._summed_up() if self.large else {}
            # The leaves that noise hardly explains.
            self.hot: Indices = np.flatnonzero(np.abs(self.deviation) > _HOT)
            self.hot_beyond = self.beyond[self.hot]
            self.hot_codes = tuple(each[self.hot] for each in self.codes) if self.large else ()
            self.kept_hot_cells: dict[_Cuboid, _Cells] = {}

    def run(self) -> Found:
        if not self.count or not self.background.change.any():
            return Found((), (), doubtful=False)
        taken: list[_Fit] = []
        first: list[_Fit] = []
        doubtful = False
        while len(taken) < MOST_CAUSES and self.alive.any():
            fits = sorted(self._candidates(taken), key=lambda fit: -fit.saves)
            first = first or fits
            chosen = next(
                (
                    fit
                    for fit in fits
                    if fit.saves > self.prior.enough and not self._better_in_parts(fit)
                ),
                None,
            )
            if chosen is None and not taken and fits and fits[0].saves > self.prior.doubtful:
                chosen, doubtful = fits[0], True
            if chosen is None:
                break
            taken.append(chosen)
            self._set_aside(chosen.place)
            if doubtful:
                break
        causes = tuple(self._told(fit) for fit in taken)
        named = {cause.combination for cause in causes}
        others = tuple(
            told for fit in first[:60] if (told := self._told(fit)).combination not in named
        )
        return Found(causes, others, doubtful)

    def _told(self, fit: _Fit) -> Cause:
        combination = tuple(
            Condition(self.whole.dimensions[d], self.whole.values[d][value])
            for d, value in zip(*fit.place, strict=True)
        )
        return Cause(combination, fit.saves, fit.effect)

    # --- which elements are looked at -------------------------------------------------------------

    def _candidates(self, taken: list[_Fit]) -> Iterator[_Fit]:
        per_cuboid, most = (4, 40) if self.large else (6, 60)
        screened = sorted(
            (
                candidate
                for cuboid in self.cuboids
                for candidate in self._screened(cuboid, per_cuboid)
            ),
            key=lambda each: -each[0],
        )
        leaves = [each for each in screened[most:] if len(each[1][0]) == len(self.told_apart)]
        for _, place in [*screened[:most], *leaves[:20]]:
            fit = self._fit(place)
            if fit is not None:
                yield fit
        for like in taken:
            yield from self._siblings(like)

    def _screened(self, cuboid: _Cuboid, most: int) -> Iterator[tuple[float, _Place]]:
        """The elements of a cuboid that promise most: by the common shift of their leaves, and by
        how many of them noise does not explain."""
        cost = self._cost(cuboid)
        if not self._is_summed(cuboid):
            if not len(self.hot):
                return
            hot = self._hot_cells(cuboid)
            count = hot.count
            promise = np.abs(np.bincount(hot.keys, self.hot_beyond, count))
            scores = [promise]
        else:
            shift, precision = self._sums(cuboid)
            count = len(shift)
            promise = np.divide(
                shift**2, 2 * precision, out=np.zeros_like(shift), where=precision > 1e-6
            )
            scores = [promise]
            if not self.large:
                keys = self._cells(cuboid).keys
                alive = self.alive.astype(np.float64)
                beyond = alive * (np.minimum(self.deviation**2 / 2, 20.0) - 2.0)
                risen = self.deviation > 0
                up = np.bincount(keys, np.where(risen, beyond, -3 * alive), count)
                down = np.bincount(keys, np.where(risen, -3 * alive, beyond), count)
                scores.append(np.maximum(up, down))
        chosen: set[int] = set()
        for score in scores:
            best = min(most, count)
            top = np.argpartition(-score, best - 1)[:best]
            chosen.update(int(key) for key in top if score[key] - cost > -5)
        for key in chosen:
            values = self._values(cuboid, key)
            if values is not None:
                yield float(promise[key]) - cost, (cuboid, values)

    def _values(self, cuboid: _Cuboid, key: int) -> tuple[int, ...] | None:
        """The values of a cell; None where it has no leaf."""
        if self.large and self._is_summed(cuboid):
            if not self._sums(cuboid).precision[key]:
                return None
            return tuple(map(int, np.unravel_index(key, self._sizes(cuboid))))[: len(cuboid)]
        found = self._cells(cuboid) if self._is_summed(cuboid) else self._hot_cells(cuboid)
        leaf = found.leaf_of[key]
        return None if leaf < 0 else self._values_of(cuboid, leaf)

    def _values_of(self, cuboid: _Cuboid, leaf: int) -> tuple[int, ...]:
        return tuple(int(self.codes[d][leaf]) for d in cuboid)

    def _is_summed(self, cuboid: _Cuboid) -> bool:
        """Whether a cuboid is summed over all leaves, and not only over those that stand out."""
        small = prod(self._sizes(cuboid)) <= DENSE * self.count + 1000
        return not self.large or (len(cuboid) <= 2 and small)

    def _sums(self, cuboid: _Cuboid) -> _Sums:
        if cuboid not in self.kept_sums:
            found = self._cells(cuboid)
            self.kept_sums[cuboid] = _Sums(
                _total(found.keys, self.shift * self.alive, found.count),
                _total(found.keys, self.precision * self.alive, found.count),
            )
        return self.kept_sums[cuboid]

    def _summed_up(self) -> dict[_Cuboid, _Sums]:
        """The sums of all cuboids that are summed over all leaves, of a large cube: most are sums
        over tables of several dimensions, which are fewer and far smaller than the leaves."""
        wanted = [cuboid for cuboid in self.cuboids if self._is_summed(cuboid)]
        wanted.sort(key=lambda each: (-len(each), -prod(self._sizes(each))))
        found: dict[_Cuboid, _Sums] = {}
        for cuboid in wanted:
            if cuboid in found:
                continue
            wide = self._widened(cuboid)
            sizes = self._sizes(wide)
            keys, count = cells(self._codes(wide), sizes, dense=True)
            shift = _total(keys, self.shift, count).reshape(sizes)
            precision = _total(keys, self.precision, count).reshape(sizes)
            for inner in wanted:
                if inner not in found and set(inner) <= set(wide):
                    beside = tuple(place for place, d in enumerate(wide) if d not in inner)
                    found[inner] = _Sums(
                        shift.sum(axis=beside).reshape(-1), precision.sum(axis=beside).reshape(-1)
                    )
        return found

    def _widened(self, cuboid: _Cuboid) -> _Cuboid:
        """With as many dimensions beside its own as leave a table small."""
        wide = set(cuboid)
        for d in sorted(self.told_apart, key=self.sizes.__getitem__):
            if prod(self.sizes[each] for each in wide | {d}) * _COARSE <= self.count:
                wide.add(d)
        return tuple(sorted(wide))

    def _set_aside(self, place: _Place) -> None:
        index = self._alive_of(place)
        self.alive[index] = False
        self.hot_beyond[~self.alive[self.hot]] = 0.0
        for cuboid, (shift, precision) in self.kept_sums.items():
            if self.large:
                keys, _ = cells(self._codes(cuboid, index), self._sizes(cuboid), dense=True)
            else:
                keys = self._cells(cuboid).keys[index]
            np.subtract(shift, np.bincount(keys, self.shift[index], len(shift)), out=shift)
            known = np.bincount(keys, self.precision[index], len(shift))
            np.subtract(precision, known, out=precision)

    def _sizes(self, cuboid: _Cuboid) -> tuple[int, ...]:
        return tuple(self.sizes[d] for d in cuboid) or (1,)

    def _cells(self, cuboid: _Cuboid) -> _Cells:
        if cuboid not in self.kept_cells:
            keys, count = cells(self._codes(cuboid), self._sizes(cuboid))
            self.kept_cells[cuboid] = _Cells.of(keys, count, np.arange(self.count))
        return self.kept_cells[cuboid]

    def _hot_cells(self, cuboid: _Cuboid) -> _Cells:
        """Of the leaves that noise hardly explains."""
        if cuboid not in self.kept_hot_cells:
            keys, count = cells(tuple(self.hot_codes[d] for d in cuboid), self._sizes(cuboid))
            self.kept_hot_cells[cuboid] = _Cells.of(keys, count, self.hot)
        return self.kept_hot_cells[cuboid]

    def _codes(self, cuboid: _Cuboid, rows: Indices | None = None) -> tuple[Codes, ...]:
        if not cuboid:
            return (np.zeros(self.count if rows is None else len(rows), dtype=np.int32),)
        return tuple(self.codes[d] if rows is None else self.codes[d][rows] for d in cuboid)

    def _alive_of(self, place: _Place) -> Indices:
        """The leaves of an element that nothing explains yet."""
        if not place[0]:
            return np.flatnonzero(self.alive)
        # From the dimension with the most values on: it has the fewest leaves of each.
        conditions = sorted(zip(*place, strict=True), key=lambda each: -self.sizes[each[0]])
        index = self._members(*conditions[0])
        for dimension, value in conditions[1:]:
            index = index[self.codes[dimension][index] == value]
        return index[self.alive[index]]

    def _members(self, dimension: int, value: int) -> Indices:
        if (dimension, value) not in self.kept_members:
            members = np.flatnonzero(self.codes[dimension] == value)
            self.kept_members[dimension, value] = members
        return self.kept_members[dimension, value]

    def _cost(self, cuboid: _Cuboid) -> float:
        dimensions, layer = max(1, len(self.told_apart)), len(cuboid)
        values = sum(log(self.sizes[d]) for d in cuboid)
        return log(dimensions) + log(comb(dimensions, layer)) + values + self.prior.naming

    # --- how well an element explains its leaves --------------------------------------------------

    def _fit(self, place: _Place) -> _Fit | None:
        index = self._alive_of(place)
        if not len(index):
            return None
        key = (place, len(index))
        if key not in self.fits:
            uneven = self.prior.uneven if place[0] else self.prior.uneven_everything
            self.fits[key] = self._effect(index, uneven)
        found = self.fits[key]
        if found is None:
            return None
        likelihood, effect = found
        cost = self._cost(place[0])
        if (effect.change > 0) != self.rises:
            cost += self.prior.against
        return _Fit(likelihood - effect.cost - cost, place, effect, index)

    def _siblings(self, like: _Fit) -> Iterator[_Fit]:
        """Elements of the same cuboid that changed alike: one cause often has several values, and
        then its change need not be stated again."""
        cuboid = like.place[0]
        if not cuboid:
            return
        found = self._hot_cells(cuboid) if self.large else self._cells(cuboid)
        rows = self.hot if self.large else np.arange(self.count)
        alive = self.alive[rows]
        rows, keys = rows[alive], found.keys[alive]
        if not len(rows):
            return
        gain = np.bincount(keys, self._gain(rows, like.effect), found.count)
        cost = sum(log(self.sizes[d]) for d in cuboid)
        best = min(3, found.count)
        for key in np.argpartition(-gain, best - 1)[:best]:
            if gain[key] <= cost:
                continue
            place = (cuboid, self._values_of(cuboid, found.leaf_of[key]))
            index = self._alive_of(place)
            saves = float(self._gain(index, like.effect).sum()) - cost
            yield _Fit(saves, place, replace(like.effect, cost=0.0), index)

    def _gain(self, index: Indices, effect: Effect) -> Floats:
        """By how much each leaf is likelier with that effect on it than with none. A leaf that
        changed otherwise, but changed, speaks neither for it nor against it."""
        change, chance = self.background.change[index], self.background.chance[index]
        strays, outliers = self.prior.strays, self.background.outliers * 0.5
        likely = _normal(change, effect, self.background.scale[index])
        mixed = (1 - strays) * likely + strays * chance + outliers
        return np.asarray(np.log(mixed / self.total[index]), dtype=np.float64)

    def _effect(self, index: Indices, uneven: float) -> tuple[float, Effect] | None:
        """The likeliest effect on some leaves, and by how much it makes them likelier."""
        count = len(index)
        if count > _FITTED:
            index = index[:: count // _FITTED + 1]
        share = count / len(index)
        change, scale = self.background.change[index], self.background.scale[index]
        chance = self.background.chance[index]
        strays, outliers = self.prior.strays, self.background.outliers * 0.5
        weight = 1 / scale**2
        median = float(np.median(change))
        mean = float((weight * change).sum() / weight.sum())
        near = float(np.median(np.abs(change - median))) * 1.48
        starts = ((median, max(LEAST_SCALE, near)), (mean, max(LEAST_SCALE, float(change.std()))))
        typical = float(1 / np.sqrt(weight.mean()))
        best: tuple[float, float, Effect] | None = None
        for noisy in (False, True):
            own = scale**2 if noisy else np.zeros(1)
            for middle, spread in starts:
                effect = Effect(middle, spread, noisy, 0.0)
                for _ in range(4):
                    likely = (1 - strays) * _normal(change, effect, scale)
                    belongs = likely / (likely + strays * chance + outliers + 1e-300)
                    belonging = float(belongs.sum())
                    if belonging <= 1e-9:
                        break
                    exact = belongs / (effect.spread**2 + own)
                    centre = float((exact * change).sum() / exact.sum())
                    excess = float((belongs * ((change - centre) ** 2 - own)).sum()) / belonging
                    wide = min(sqrt(max(excess, 0.0)), uneven * abs(centre))
                    effect = Effect(centre, max(LEAST_SCALE, wide), noisy, 0.0)
                if abs(effect.change) < max(typical, self.prior.least_change):
                    continue
                # The change could have been anything: what is known of it afterwards has its cost.
                known = float(np.broadcast_to(1 / (effect.spread**2 + own), change.shape).sum())
                cost = max(0.0, 0.5 * log(known * share) - 0.5 * log(2 * pi))
                if count > 1:
                    cost += 0.5 * log(count) + self.prior.spread
                cost += 0.0 if noisy else self.prior.tight
                gain = float(self._gain(index, effect).sum()) * share
                if best is None or gain - cost > best[0]:
                    best = (gain - cost, gain, replace(effect, cost=cost))
        return None if best is None else (best[1], best[2])

    def _better_in_parts(self, fit: _Fit) -> bool:
        """Whether its parts along another dimension, each at its own cost, save more."""
        index = fit.index
        share = len(index) // _TESTED + 1
        index = index[::share]
        gain = self._gain(index, fit.effect) * share
        stated = fit.effect.cost + self._cost(fit.place[0])
        for dimension in self.told_apart:
            if dimension in fit.place[0]:
                continue
            size = self.sizes[dimension]
            parts = np.bincount(self.codes[dimension][index], gain, size)
            if np.maximum(parts - log(size), 0.0).sum() - stated > fit.saves:
                return True
        return False


def _total(keys: Indices, amounts: Floats, count: int) -> Floats:
    return np.asarray(np.bincount(keys, amounts, count), dtype=np.float64)


def _normal(change: Floats, effect: Effect, scale: Floats) -> Floats:
    variance = effect.spread**2 + (scale**2 if effect.noisy else 0.0)
    squares = (change - effect.change) ** 2 / variance
    return np.asarray(np.exp(-0.5 * squares) / np.sqrt(2 * pi * variance), dtype=np.float64)
