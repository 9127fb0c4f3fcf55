"""Where a change is: the cubes are made here, and so is what befell them."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from mlplatform.cost.locate.leaves import Condition, Leaves, merged
from mlplatform.cost.locate.ranking import Ranking, rank

SIZES = {"region": 4, "service": 6, "team": 8, "sku": 5}


def cube(*, noise: float = 0.05, seed: int = 1, sizes: dict[str, int] | None = None) -> Leaves:
    """Leaves of very unequal size, each forecast as well as the noise lets it."""
    sizes = sizes or SIZES
    rng = np.random.default_rng(seed)
    codes = np.indices(tuple(sizes.values())).reshape(len(sizes), -1).astype(np.int32)
    expected = rng.weibull(0.7, codes.shape[1]) * 100
    actual = expected * np.maximum(1 + rng.normal(scale=noise, size=len(expected)), 0)
    values = tuple(tuple(f"{name}{n}" for n in range(size)) for name, size in sizes.items())
    return Leaves(tuple(sizes), values, tuple(codes), actual, expected)


def befall(leaves: Leaves, text: str, factor: float) -> None:
    """`region=region1&service=service2` costs so many times what was expected."""
    mask = leaves.covered(
        tuple(Condition(*each.split("=")) for each in text.split("&")) if text else ()
    )
    assert mask.any()
    leaves.actual[mask] = leaves.expected[mask] * factor


def answer(ranking: Ranking) -> set[str]:
    return set(str(ranking.sets[0]).split(";")) if ranking.sets else set()


CASES: list[tuple[str, dict[str, float]]] = [
    ("one value", {"region=region1": 1.4}),
    ("one combination", {"region=region1&service=service2": 2.0}),
    ("three dimensions", {"region=region0&service=service5&sku=sku1": 3.0}),
    ("a single leaf", {"region=region0&service=service5&team=team3&sku=sku1": 100.0}),
    ("a fall", {"team=team4": 0.5}),
    ("gone altogether", {"team=team4&sku=sku0": 0.0}),
    ("two values of one cuboid", {"team=team1&sku=sku0": 1.7, "team=team5&sku=sku3": 1.7}),
    ("three of five values", {"sku=sku0": 1.6, "sku=sku2": 1.6, "sku=sku4": 1.6}),
    ("two that cross", {"region=region1": 1.5, "sku=sku2": 3.0}),
    ("three causes of three layers", {
        "service=service3": 1.5, "region=region2&team=team2": 2.5,
        "region=region0&service=service1&sku=sku4": 4.0,
    }),
    ("masked: one up, one down", {"service=service3": 1.5, "service=service4": 0.5}),
]  # fmt: skip


@pytest.mark.parametrize(("what", "causes"), CASES, ids=[what for what, _ in CASES])
@pytest.mark.parametrize("noise", [0.0, 0.05, 0.12])
def test_what_befell_a_cube_is_named(what: str, causes: dict[str, float], noise: float) -> None:
    leaves = cube(noise=noise)
    for text, factor in causes.items():
        befall(leaves, text, factor)
    ranking = rank(leaves)
    assert answer(ranking) == set(causes)
    assert not ranking.sets[0].doubtful


@pytest.mark.parametrize("noise", [0.0, 0.05, 0.2])
def test_noise_alone_has_no_cause(noise: float) -> None:
    for seed in range(5):
        ranking = rank(cube(noise=noise, seed=seed))
        assert all(each.doubtful for each in ranking.sets)


def test_everything_is_an_answer_too() -> None:
    leaves = cube(noise=0.03)
    befall(leaves, "", 1.5)
    assert str(rank(leaves).sets[0]) == "(everything)"


def test_a_drift_of_everything_hides_no_cause() -> None:
    leaves = cube(noise=0.03)
    leaves.actual[:] *= 1.05
    befall(leaves, "region=region1&service=service2", 1.6)
    assert answer(rank(leaves)) == {"region=region1&service=service2"}


def test_many_values_in_one_dimension() -> None:
    leaves = cube(sizes={"account": 600})
    befall(leaves, "account=account77", 3.0)
    assert answer(rank(leaves)) == {"account=account77"}


def test_a_dimension_with_one_value_says_nothing() -> None:
    leaves = cube(sizes={"provider": 1, "region": 4, "service": 12})
    befall(leaves, "region=region2", 1.5)
    assert answer(rank(leaves)) == {"region=region2"}


def test_new_items_and_old_ones_that_went() -> None:
    leaves = cube()
    new = leaves.covered((Condition("region", "region3"), Condition("sku", "sku4")))
    leaves.expected[new] = 0
    leaves.actual[new] = 40
    assert answer(rank(leaves)) == {"region=region3&sku=sku4"}


def test_a_handful_of_leaves_is_answered_by_size() -> None:
    codes = np.arange(3, dtype=np.int32)
    leaves = Leaves(
        ("region",), (("eu", "us", "ap"),), (codes,), np.array([30.0, 11, 9]), np.array([10.0] * 3)
    )
    (first, *_) = rank(leaves).sets
    assert str(first) == "region=eu"
    assert first.amount.share == 1


def test_shares_and_ranks() -> None:
    leaves = cube(noise=0.0)
    befall(leaves, "service=service3", 1.5)
    befall(leaves, "service=service4", 1.25)
    ranking = rank(leaves, 3)
    assert [each.rank for each in ranking.sets] == [1, 2, 3]
    first = ranking.sets[0]
    assert first.amount.share == pytest.approx(1)
    assert sum(part.amount.share or 0 for part in first.parts) == pytest.approx(1)
    assert [part.amount.share for part in first.parts] == sorted(
        (part.amount.share for part in first.parts), key=lambda share: -(share or 0)
    )
    assert rank(leaves, 1).sets == ranking.sets[:1]


def test_nothing_changed() -> None:
    leaves = cube(noise=0.0)
    assert rank(leaves).sets == ()


def rates(*, events: float, seed: int = 3) -> Leaves:
    """Requests and what went well of them; a leaf has few or many."""
    rng = np.random.default_rng(seed)
    sizes = (3, 7, 2, 5)
    codes = np.indices(sizes).reshape(4, -1).astype(np.int32)
    mean = rng.dirichlet(np.full(codes.shape[1], 0.5)) * events + 12
    well = rng.beta(60, 2, len(mean))
    now, then = rng.poisson(mean), rng.poisson(mean * 4) / 4
    values = tuple(
        tuple(f"{name}{n}" for n in range(s)) for name, s in zip("abcd", sizes, strict=True)
    )
    return Leaves(
        tuple("abcd"), values, tuple(codes),
        rng.binomial(now, well).astype(float), np.round(then * well),
        now.astype(float), np.maximum(then, np.round(then * well)),
    )  # fmt: skip


@pytest.mark.parametrize("text", ["b=b2", "a=a1", "a=a0&c=c1"])
@pytest.mark.parametrize("seed", [3, 4, 5])
def test_a_rate_is_no_sum(text: str, seed: int) -> None:
    leaves = rates(events=60_000, seed=seed)
    mask = leaves.covered(tuple(Condition(*each.split("=")) for each in text.split("&")))
    leaves.actual[mask] = np.floor(leaves.actual[mask] * 0.7)
    # Traffic moves too, and is no cause of a worse rate.
    assert leaves.actual_denominator is not None
    busy = leaves.covered((Condition("d", "d3"),))
    leaves.actual[busy] *= 3
    leaves.actual_denominator[busy] *= 3
    assert answer(rank(leaves)) == {text}


def test_rates_that_nearly_vanish_in_half_of_the_leaves() -> None:
    rng = np.random.default_rng(1)
    sizes = (7, 4, 12)
    codes = np.indices(sizes).reshape(3, -1).astype(np.int32)
    values = tuple(tuple(map(str, range(size))) for size in sizes)
    below = rng.integers(50, 2000, codes.shape[1]).astype(float)
    change = 1 + rng.normal(0, 0.05, codes.shape[1])
    change[(codes[1] == 2) | (codes[1] == 3)] *= 0.2
    leaves = Leaves(
        tuple("abc"), values, tuple(codes), below * 0.1 * change, below * 0.1, below, below
    )
    assert answer(rank(leaves)) == {"b=2", "b=3"}


def test_the_share_of_a_ratio_is_what_would_be_gone() -> None:
    codes = np.arange(2, dtype=np.int32)
    leaves = Leaves(
        ("region",), (("eu", "us"),), (codes,),
        np.array([30.0, 10]), np.array([10.0, 10]), np.array([10.0, 10]), np.array([10.0, 10]),
    )  # fmt: skip
    ranking = rank(leaves)
    assert ranking.whole.actual == 2
    assert ranking.whole.expected == 1
    part = next(each for each in ranking.sets[0].parts)
    assert str(ranking.sets[0]) == "region=eu"
    assert part.amount.share == 1


def test_leaves_stated_twice_are_added_up() -> None:
    codes = np.array([0, 1, 0], dtype=np.int32)
    once = merged(
        Leaves(("r",), (("a", "b"),), (codes,), np.array([1.0, 2, 4]), np.array([1.0, 1, 1]))
    )
    assert once.actual.tolist() == [5, 2]
    assert once.expected.tolist() == [2, 1]


def test_so_many_dimensions_that_cells_cannot_be_counted() -> None:
    rng = np.random.default_rng(0)
    codes = tuple(rng.integers(0, 1000, 400).astype(np.int32) for _ in range(8))
    values = tuple(tuple(map(str, range(1000))) for _ in range(8))
    names = tuple("abcdefgh")
    leaves = Leaves(names, values, codes, np.ones(400), np.ones(400))
    assert len(merged(leaves)) == 400


def test_a_large_cube_is_answered_as_a_small_one() -> None:
    leaves = cube(sizes={"account": 40, "service": 40, "region": 12, "sku": 10})
    wanted = {"account=account3&region=region5", "service=service7&region=region1&sku=sku2"}
    befall(leaves, "account=account3&region=region5", 1.6)
    befall(leaves, "service=service7&region=region1&sku=sku2", 2.5)
    assert len(leaves) > 150_000
    assert answer(rank(leaves)) == wanted


def test_all_combinations_of_two_dimensions() -> None:
    for region, service in product(range(4), range(6)):
        leaves = cube(noise=0.08, seed=region * 6 + service)
        text = f"region=region{region}&service=service{service}"
        befall(leaves, text, 1.6)
        assert answer(rank(leaves)) == {text}
