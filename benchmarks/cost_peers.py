"""The rules that the search for leaves is measured against, written from their papers and checked
against the public implementations that the papers name, with those implementations' defaults.

- `adtributor`, `recursive_adtributor`: Bhagwan et al., NSDI 2014; Persson and Rudenius, 2018.
- `squeeze`: Li et al., ISSRE 2019, with the two corrections that its authors published.
- `autoroot`: Jing et al., "AutoRoot", 2021.
- `riskloc`: Kalander, arXiv 2205.10004.
- `robustspot`: Sun et al., IEEE TSC 2023; for ratios only.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from itertools import chain, combinations

import numpy as np
from numpy.typing import NDArray

from benchmarks.cost_cubes import Case, Element, Floats, covered

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]


def _values(case: Case) -> tuple[Floats, Floats]:
    """What is compared: values, or rates; nothing over nothing is 0."""
    if case.actual_denominator is None or case.expected_denominator is None:
        return case.actual, case.expected
    return (
        _divided(case.actual, case.actual_denominator),
        _divided(case.expected, case.expected_denominator),
    )


def _divided(above: Floats, below: Floats) -> Floats:
    return np.divide(above, below, out=np.zeros_like(above), where=below != 0)


def _deviation(actual: Floats, expected: Floats) -> Floats:
    return _divided(2 * (expected - actual), expected + actual)


def _keys(case: Case, cuboid: tuple[int, ...]) -> Ints:
    keys = np.zeros(len(case.codes), dtype=np.int64)
    for dimension in cuboid:
        keys = keys * case.sizes[dimension] + case.codes[:, dimension]
    return keys


def _element(case: Case, cuboid: tuple[int, ...], key: int) -> Element:
    pairs = []
    for dimension in reversed(cuboid):
        key, value = divmod(key, case.sizes[dimension])
        pairs.append((dimension, value))
    return frozenset(pairs)


def _cuboids(case: Case, layer: int) -> Iterable[tuple[int, ...]]:
    return combinations(range(len(case.sizes)), layer)


# --- Adtributor ---------------------------------------------------------------------------------


def _power_and_surprise(case: Case, dimension: int, mask: Mask) -> tuple[Ints, Floats, Floats]:
    size = case.sizes[dimension]
    codes = case.codes[mask, dimension]

    def total(values: Floats) -> Floats:
        return np.asarray(np.bincount(codes, values[mask], size), dtype=np.float64)

    def surprise(actual: Floats, expected: Floats) -> Floats:
        with np.errstate(divide="ignore", invalid="ignore"):
            p, q = expected / expected.sum(), actual / actual.sum()
            one = np.nan_to_num(p * np.log(2 * p / (p + q)))
            other = np.nan_to_num(q * np.log(2 * q / (p + q)))
            return np.asarray((one + other) / 2, dtype=np.float64)

    actual, expected = total(case.actual), total(case.expected)
    with np.errstate(divide="ignore", invalid="ignore"):
        if case.actual_denominator is None or case.expected_denominator is None:
            power = (actual - expected) / (actual.sum() - expected.sum())
            shock = surprise(actual, expected)
        else:
            below, below_expected = total(case.actual_denominator), total(case.expected_denominator)
            f_a, f_b = expected.sum(), below_expected.sum()
            power = ((actual - expected) * f_b - (below - below_expected) * f_a) / (
                f_b * (f_b + below - below_expected)
            )
            power = power / power.sum()
            shock = surprise(actual, expected) + surprise(below, below_expected)
    there = np.flatnonzero(np.bincount(codes, minlength=size))
    return there, np.nan_to_num(power[there]), shock[there]


def adtributor(case: Case, *, least: float = 0.1, enough: float = 0.1, k: int = 3) -> set[Element]:
    """Elements of one dimension, by surprise."""
    found: list[tuple[float, list[Element]]] = []
    everything = np.ones(len(case.codes), dtype=bool)
    for dimension in range(len(case.sizes)):
        there, power, shock = _power_and_surprise(case, dimension, everything)
        order = [int(i) for i in np.argsort(-shock, kind="stable") if power[i] > least]
        sum_power, chosen = 0.0, []
        for i in order:
            sum_power += power[i]
            chosen.append(i)
            if sum_power > enough:
                found.append(
                    (
                        float(sum(shock[j] for j in chosen)),
                        [frozenset({(dimension, int(there[j]))}) for j in chosen],
                    )
                )
                break
    found.sort(key=lambda each: -each[0])
    return set(chain.from_iterable(elements for _, elements in found[:k]))


def recursive_adtributor(case: Case, *, least: float = 0.2, k: int = 3) -> set[Element]:
    """Adtributor in the sub-cubes of what it finds, all the way down."""

    def search(mask: Mask, dimensions: frozenset[int]) -> list[list[Element]]:
        sets: list[tuple[float, int, list[int]]] = []
        for dimension in sorted(dimensions):
            there, power, shock = _power_and_surprise(case, dimension, mask)
            chosen = np.flatnonzero(power > least)
            if 0 < len(chosen) < len(there):
                sets.append(
                    (float(shock[chosen].sum()), dimension, [int(v) for v in there[chosen]])
                )
        sets.sort(key=lambda each: -each[0])
        told: list[list[Element]] = []
        for _, dimension, values in sets[:k]:
            deeper: list[list[Element]] = []
            for value in values:
                below = search(mask & (case.codes[:, dimension] == value), dimensions - {dimension})
                if not below:
                    deeper = []
                    break
                deeper += [[e | {(dimension, value)} for e in elements] for elements in below]
            told += deeper or [[frozenset({(dimension, value)}) for value in values]]
        return told

    everything = np.ones(len(case.codes), dtype=bool)
    return set(chain.from_iterable(search(everything, frozenset(range(len(case.sizes))))))


# --- RiskLoc ------------------------------------------------------------------------------------


def riskloc(
    case: Case, *, risk_threshold: float = 0.5, power_threshold: float = 0.02, ignored: int = 5
) -> set[Element]:
    """Leaves on one side of a cutoff are risky; elements by their share of risk, less what the
    ripple effect does not explain."""
    actual, expected = _values(case)
    deviation = _deviation(actual, expected)
    ordered = np.unique(deviation)
    low, high = ordered[: ignored + 1].max(), ordered[-ignored - 1 :].min()
    cutoff = -min(low, high, key=abs)
    right = cutoff > 0 or (cutoff == 0 and not np.signbit(cutoff))
    risky = deviation > cutoff if right else deviation < cutoff
    weight = np.abs(cutoff - deviation)
    weight[(actual == 0) & (expected == 0)] = 0
    weight = np.minimum(np.where(risky, np.abs(deviation), weight), 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        power = np.nan_to_num((actual - expected) / (actual.sum() - expected.sum()))
    if power[risky].sum() < 0:
        power = -power
    least = power[risky].sum() * power_threshold
    positive = np.maximum(power, 0)
    alive = np.ones(len(actual), dtype=bool)
    pruned = [np.zeros(size, dtype=bool) for size in case.sizes]
    found: set[Element] = set()
    while power[risky & alive].sum() >= least:
        best: tuple[float, Element] | None = None
        for layer in range(1, len(case.sizes) + 1):
            for cuboid in _cuboids(case, layer):
                kept = alive.copy()
                for dimension in cuboid:
                    if pruned[dimension].any():
                        kept &= ~pruned[dimension][case.codes[:, dimension]]
                keys, inverse = np.unique(_keys(case, cuboid)[kept], return_inverse=True)
                sum_power = np.bincount(inverse, power[kept], len(keys))
                sum_risky = np.bincount(inverse, risky[kept], len(keys))
                if layer == 1:
                    out = (np.bincount(inverse, positive[kept], len(keys)) < least) | (
                        sum_risky == 0
                    )
                    pruned[cuboid[0]][keys[out]] = True
                bar = best[0] if best else least
                for i in np.argsort(-sum_power, kind="stable"):
                    if sum_power[i] <= bar:
                        break
                    if not sum_risky[i]:
                        continue
                    element = _element(case, cuboid, int(keys[i]))
                    mask = kept & covered(case.codes, element)
                    bad = weight[mask & risky].sum()
                    good = weight[mask & ~risky].sum() + 1
                    low_risk = _low_risk(actual[mask], expected[mask], deviation[mask])
                    if bad / (bad + good) - low_risk >= risk_threshold:
                        best = (float(sum_power[i]), element)
                        break
            if best:
                break
        if best is None:
            break
        found.add(best[1])
        alive &= ~covered(case.codes, best[1])
    return found


def _low_risk(actual: Floats, expected: Floats, deviation: Floats) -> float:
    both = (actual != 0) & (expected != 0)
    actual, expected, deviation = actual[both], expected[both], deviation[both]
    if not len(actual):
        return 0.0
    rippled = expected * actual.sum() / expected.sum()
    before = np.abs(deviation).mean()
    after = np.abs(_divided(2 * (rippled - actual), rippled + actual)).mean()
    return float(after / before) if before else 0.0


# --- AutoRoot -----------------------------------------------------------------------------------


def _kde(values: Floats, at: Floats, *, silverman: bool) -> Floats:
    """A Gaussian kernel density, its points put into fine bins first."""
    n = len(values)
    factor = (n * 0.75) ** -0.2 if silverman else n**-0.2
    spread = factor * values.std(ddof=1)
    weights, edges = np.histogram(values, bins=min(n, 4000))
    centres = ((edges[1:] + edges[:-1]) / 2)[weights > 0]
    weights = weights[weights > 0]
    density = np.zeros(len(at))
    for start in range(0, len(centres), 500):
        z = (at[:, None] - centres[None, start : start + 500]) / spread
        density += np.exp(-0.5 * z * z) @ weights[start : start + 500]
    return np.asarray(density / (n * spread * np.sqrt(2 * np.pi)), dtype=np.float64)


def autoroot(case: Case, *, least: float = 0.25) -> set[Element]:
    """Clusters of deviation, and in each the element that explains most by a potential score."""
    actual, expected = _values(case)
    deviation = _deviation(actual, expected)
    relevant = np.abs(deviation) > 0.2
    if relevant.sum() < 2:
        return set()
    values = deviation[relevant]
    ends = [np.inf]
    if len(np.unique(values)) > 1:
        at = np.linspace(-2, 2, 400)
        density = _kde(values, at, silverman=True)
        inner = (density[1:-1] < density[:-2]) & (density[1:-1] < density[2:])
        ends = [*at[1:-1][inner], np.inf]
    cluster = np.searchsorted(np.asarray(ends), values, side="left")
    label = np.full(len(deviation), -1)
    label[relevant] = cluster
    with np.errstate(divide="ignore", invalid="ignore"):
        plain = np.nan_to_num(np.abs(actual - expected) / actual, posinf=0, neginf=0)
    found: list[Element] = []
    for each in np.unique(cluster):
        inside = label == each
        element = _autoroot_cluster(case, actual, expected, plain, inside, least)
        if element is not None and element not in found:
            found.append(element)
    return {e for e in found if not any(other < e for other in found)}


def _autoroot_cluster(
    case: Case, actual: Floats, expected: Floats, plain: Floats, inside: Mask, least: float
) -> Element | None:
    size = int(inside.sum())
    best: tuple[float, Element] | None = None
    total_plain, count = plain.sum(), len(plain)
    for layer in range(1, len(case.sizes) + 1):
        if layer == len(case.sizes) and 1 / size <= least:
            continue
        for cuboid in _cuboids(case, layer):
            all_keys = _keys(case, cuboid)
            keys, mine = np.unique(all_keys[inside], return_counts=True)
            wanted = keys[mine / size > least]
            top: tuple[float, float, Element] | None = None
            for key, there in zip(wanted, mine[mine / size > least], strict=True):
                mask = all_keys == key
                leaves = int(mask.sum())
                if there / leaves <= least:
                    continue
                with np.errstate(divide="ignore", invalid="ignore"):
                    rippled = np.nan_to_num(
                        expected[mask] * (actual[mask].sum() / expected[mask].sum())
                    )
                    a = np.nan_to_num(
                        np.abs(actual[mask] - rippled) / actual[mask], posinf=0, neginf=0
                    ).mean()
                b = plain[mask].mean()
                rest = count - leaves
                c = (total_plain - plain[mask].sum()) / rest if rest else 0.0
                potential = 1 - (a + c) / (b + c) if b + c else -1.0
                if top is None or potential > top[0]:
                    score = (potential + there / leaves + there / size) / 3
                    top = (potential, score, _element(case, cuboid, int(key)))
            if top is not None and top[0] > -1 and (best is None or top[1] > best[0]):
                best = (top[1], top[2])
    return best[1] if best else None


# --- Squeeze ------------------------------------------------------------------------------------


def _knee(x: Floats, y: Floats, *, sensitivity: float) -> float | None:
    """Kneedle (Satopaa et al., 2011) for a concave curve that rises."""
    if len(x) < 3 or x[-1] == x[0] or y.max() == y.min():
        return None
    xn, yn = (x - x.min()) / (x.max() - x.min()), (y - y.min()) / (y.max() - y.min())
    difference = yn - xn
    inner = np.arange(1, len(x) - 1)
    maxima = set(
        inner[(difference[1:-1] >= difference[:-2]) & (difference[1:-1] >= difference[2:])].tolist()
    )
    minima = set(
        inner[(difference[1:-1] <= difference[:-2]) & (difference[1:-1] <= difference[2:])].tolist()
    )
    if not maxima:
        return None
    step = float(np.abs(np.diff(xn).mean()))
    threshold, at = 0.0, 0
    for i in range(min(maxima), len(x) - 1):
        if i in maxima:
            threshold, at = difference[i] - sensitivity * step, i
        if i in minima:
            threshold = 0.0
        if difference[i + 1] < threshold:
            return float(x[at])
    return None


def _deviation_clusters(values: Floats) -> list[Ints]:
    edges = np.histogram_bin_edges(values, "auto")
    if len(edges) > 20_000:
        edges = np.linspace(edges[0], edges[-1], 20_000)
    edges = np.concatenate([edges, edges[-1] + 0.1 * np.arange(1, 6)])
    density, edges = np.histogram(values, bins=edges, density=True)
    centres = (edges[1:] + edges[:-1]) / 2
    window = max(int(np.count_nonzero(density > 0)) // 10, 1)
    smooth = np.concatenate(
        [density[: window - 1], np.convolve(density, np.ones(window), "valid") / window]
    )
    left, right = np.roll(smooth, 1), np.roll(smooth, -1)
    peaks = np.flatnonzero((smooth > left) & (smooth > right) & (smooth > 0))
    valleys = np.flatnonzero((smooth <= left) & (smooth <= right))
    bounds = np.concatenate([[-np.inf], centres[valleys], [np.inf]])
    clusters = []
    for peak in centres[peaks]:
        low = bounds[np.searchsorted(bounds, peak, side="right") - 1]
        high = bounds[np.searchsorted(bounds, peak, side="left")]
        members = np.flatnonzero((values >= low) & (values <= high))
        if len(members) and np.abs(values[members]).mean() >= 0.2:
            clusters.append(members)
    return clusters


def squeeze(case: Case, *, most: int = 12, good: float = 0.9) -> set[Element]:
    """Clusters of deviation, and in each the elements of one cuboid with the best generalised
    potential score, weighed against their number."""
    actual, expected = _values(case)
    valid = case.expected > 0
    if case.expected_denominator is not None:
        valid &= case.expected_denominator > 0
    part = Case(
        case.sizes,
        case.codes[valid],
        case.actual[valid],
        case.expected[valid],
        case.truth,
        None if case.actual_denominator is None else case.actual_denominator[valid],
        None if case.expected_denominator is None else case.expected_denominator[valid],
    )
    actual, expected = actual[valid], expected[valid]
    deviation = _deviation(actual, expected)
    error = np.abs(actual - expected)
    at = np.linspace(error.min(), error.max(), 1000)
    knee = _knee(at, np.cumsum(_kde(error, at, silverman=False)), sensitivity=1.0)
    kept = np.flatnonzero(error > (error.min() if knee is None else knee))
    if len(kept) < 2:
        return set()
    clusters = []
    for members in _deviation_clusters(deviation[kept]):
        inside = deviation[kept][members]
        clusters.append(np.flatnonzero((deviation >= inside.min()) & (deviation <= inside.max())))
    if not clusters:
        return set()
    count = len(actual)
    attributes = sum(len(np.unique(part.codes[:, d])) for d in range(len(part.sizes)))
    weight = (
        np.log(len(clusters) + 1)
        / len(clusters)
        * attributes
        / np.log(attributes + 1)
        * -np.log(min(sum(map(len, clusters)) / count, 1.0))
    )
    abnormal = np.concatenate(clusters)
    edge = deviation[abnormal[np.argmin(np.abs(deviation[abnormal]))]]
    normal = np.abs(deviation) < edge
    found: set[Element] = set()
    for members in clusters:
        ranked: list[tuple[float, list[Element]]] = []
        for layer in range(1, len(part.sizes) + 1):
            scores = []
            for cuboid in _cuboids(part, layer):
                elements, score = _squeeze_cuboid(
                    part, cuboid, members, normal, actual, expected, most
                )
                if elements:
                    scores.append(score)
                    ranked.append((score * weight - len(elements) * layer, elements))
            if any(score > good for score in scores):
                break
        if ranked:
            found |= set(max(ranked, key=lambda each: each[0])[1])
    return found


def _squeeze_cuboid(
    case: Case,
    cuboid: tuple[int, ...],
    members: Ints,
    normal: Mask,
    actual: Floats,
    expected: Floats,
    most: int,
) -> tuple[list[Element], float]:
    all_keys = _keys(case, cuboid)
    keys, mine = np.unique(all_keys[members], return_counts=True)
    there, total = np.unique(all_keys, return_counts=True)
    order = np.argsort(-(mine / total[np.searchsorted(there, keys)]), kind="stable")
    keys = keys[order]
    limit = min(len(keys), most, len(there) - 1)
    if limit <= 0:
        return [], -np.inf
    subset = normal.copy()
    subset[members] = True
    rank = np.full(len(all_keys), limit)
    for i, key in enumerate(keys[:limit]):
        rank[all_keys == key] = i
    plain = np.abs(actual - expected)
    best, score = 0, -np.inf
    for partition in range(1, limit + 1):
        inside = subset & (rank < partition)
        outside = subset & (rank >= partition)
        above = case.actual[inside].sum(), case.expected[inside].sum()
        if case.actual_denominator is None or case.expected_denominator is None:
            ratio = above[0] / above[1] if above[1] else 0.0
        else:
            below = case.actual_denominator[inside].sum(), case.expected_denominator[inside].sum()
            now = above[0] / below[0] if below[0] else 0.0
            then = above[1] / below[1] if below[1] else 0.0
            ratio = now / then if then else 0.0
        moved = np.abs(actual[inside] - expected[inside] * ratio).mean() if inside.any() else 0.0
        rest = plain[outside].mean() if outside.any() else 0.0
        before = plain[inside].mean() if inside.any() else 0.0
        value = 1 - (moved + rest) / (before + rest) if before + rest else -np.inf
        if value >= score:
            best, score = partition, float(value)
    return [_element(case, cuboid, int(key)) for key in keys[:best]], score


# --- RobustSpot ---------------------------------------------------------------------------------


def robustspot(case: Case, *, confidence: float = 0.8) -> set[Element]:
    """Weighted association rules over the leaves that influence a rate. Its best set is taken:
    with three, as in one public harness, most of what it says is wrong."""
    below, below_expected = case.actual_denominator, case.expected_denominator
    if below is None or below_expected is None:
        return set()
    keep = (case.actual > 0) | (case.expected > 0) | (below > 0) | (below_expected > 0)
    codes = case.codes[keep]
    below, below_expected = below[keep], below_expected[keep]
    above, above_expected = below - case.actual[keep], below_expected - case.expected[keep]
    everything = np.ones(len(codes), dtype=bool)
    after: list[Mask] = []

    def support(elements: Iterable[Element], mask: Mask) -> float:
        return float(sum((covered(codes, e) & mask).sum() for e in elements) / max(mask.sum(), 1))

    def mine(before: Mask) -> list[Element]:
        index = np.flatnonzero(before)
        if len(index) < 3:
            return []
        with np.errstate(divide="ignore", invalid="ignore"):
            rate = np.nan_to_num(above[index] / below[index])
            rate_expected = np.nan_to_num(above_expected[index] / below_expected[index])
            n = len(index) - 1
            others = (rate.sum() - rate) / n - (rate_expected.sum() - rate_expected) / n
            influence = np.nan_to_num(1 - 1 / (np.abs((rate - rate_expected) / others) + 1))
            sums = below_expected[index].sum(), above_expected[index].sum()
            ability = (
                sums[0]
                / sums[1]
                * (above[index] + sums[1] - above_expected[index])
                / (below[index] + sums[0] - below_expected[index])
                - 1
            )
        ability = np.nan_to_num(ability)
        positive = np.sort(influence[influence > 0])
        threshold = 0.5
        if len(positive) > 9:
            share = np.arange(1, len(positive) + 1) / len(positive)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", np.exceptions.RankWarning)
                fitted = np.polynomial.Polynomial.fit(positive, share, 7)(positive)
            knee = _knee(positive, fitted, sensitivity=6.0)
            threshold = 0.5 if knee is None else knee
        chosen = (influence > threshold) & (ability > 0)
        selected = np.zeros(len(codes), dtype=bool)
        selected[index[chosen]] = True
        after.append(selected)
        times = np.zeros(len(codes))
        times[index[chosen]] = np.floor(influence[chosen] * ability[chosen] * 100)
        if not times.sum():
            return []
        items = [
            (d, int(np.bincount(codes[:, d], times, case.sizes[d]).argmax()))
            for d in range(len(case.sizes))
        ]
        found: set[Element] = {frozenset({item}) for item in items}
        for size in (2, 3):
            for group in combinations(items, size):
                whole = times[covered(codes, frozenset(group))].sum()
                for r in range(1, size):
                    for left in combinations(group, r):
                        base = times[covered(codes, frozenset(left))].sum()
                        if base and whole / base > confidence:
                            found.add(frozenset(group))
        ordered = sorted(found, key=lambda e: (len(e), sorted(e)), reverse=True)
        return sorted(ordered, key=lambda e: support([e], before) - support([e], selected))[:5]

    first = mine(everything)
    if not first or not after:
        return set()
    selected = after[0]
    merged: list[list[Element]] = []
    for top in first[:3]:
        before = everything & ~covered(codes, top)
        second = mine(before)
        third = mine(before & ~covered(codes, second[0])) if second else []
        lists = [[top], second[:1], third]
        for a, b in combinations(range(3), 2):
            merged += [[x, y] for x in lists[a] for y in lists[b] if _same_cuboid(x, y) and x != y]
        merged += [
            [x, y, z]
            for x in lists[0]
            for y in lists[1]
            for z in lists[2]
            if _same_cuboid(x, y) and _same_cuboid(x, z) and len({x, y, z}) == 3
        ]
    merged += [[each] for each in first]
    for i, group in enumerate(merged):
        common = frozenset.intersection(*group)
        if (
            len(group) > 1
            and common
            and support(group, everything) / max(support([common], everything), 1e-9) >= 0.9
        ):
            merged[i] = [common]
    unique = list(dict.fromkeys(frozenset(group) for group in merged))
    unique.sort(key=lambda group: support(group, everything) - support(group, selected))
    return set(chain.from_iterable(unique[:1]))


def _same_cuboid(one: Element, other: Element) -> bool:
    return {d for d, _ in one} == {d for d, _ in other}


PEERS: dict[str, Callable[[Case], set[Element]]] = {
    "Adtributor": adtributor,
    "recursive Adtributor": recursive_adtributor,
    "Squeeze": squeeze,
    "AutoRoot": autoroot,
    "RiskLoc": riskloc,
    "RobustSpot": robustspot,
}
