"""What the latency model learns, from profiles that are made up: right in the middle, above most,
and back on its feet after a change."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlplatform_serving.batching.latency import LearnedLatency
from mlplatform_serving.batching.request import Key

KEY = Key("resnet50", "v1", "224x224")
OTHER = Key("resnet50", "v1", "448x448")
CAP = 32

Truth = Callable[[int, Random], float]


def linear(size: int, random: Random) -> float:
    return 4 + 0.25 * size


def launch_bound(size: int, random: Random) -> float:
    return 2 + 0.01 * size


def noisy(size: int, random: Random) -> float:
    return (4 + 0.25 * size) * random.gauss(1, 0.1)


def with_outliers(size: int, random: Random) -> float:
    return (4 + 0.25 * size) * (50 if random.random() < 0.01 else random.gauss(1, 0.03))


def in_steps(size: int, random: Random) -> float:
    """Padded to powers of two by the backend."""
    padded = float(1 << (size - 1).bit_length())
    return (3 + 0.5 * padded) * random.gauss(1, 0.02)


def curved(size: int, random: Random) -> float:
    return float(1 + 0.02 * size**1.8)


def taught(
    truth: Truth, batches: int = 600, *, seed: int = 1, model: LearnedLatency | None = None
) -> LearnedLatency:
    random = Random(seed)
    model = model or LearnedLatency(CAP)
    for _ in range(batches):
        size = random.randint(1, CAP)
        model.observe(size, KEY, truth(size, random) / 1000)
    return model


@pytest.mark.parametrize(
    ("truth", "over_most"),
    [
        (linear, 1.01),
        (launch_bound, 1.01),
        (noisy, 1.35),
        (with_outliers, 1.15),
        (in_steps, 2.0),
        (curved, 1.6),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_prediction_covers_most_batches_and_is_not_far_above(
    truth: Truth, over_most: float
) -> None:
    model = taught(truth)
    random = Random(2)
    covered = runs = 0
    for size in range(1, CAP + 1):
        predicted = model.seconds(size, KEY) * 1000
        measured = sorted(truth(size, random) for _ in range(50))
        covered += sum(one <= predicted * 1.0001 for one in measured)
        runs += len(measured)
        assert predicted <= over_most * measured[len(measured) // 2], size
    assert covered / runs >= 0.9


def test_a_backend_that_says_what_it_pads_to_is_known_exactly() -> None:
    model = LearnedLatency(CAP, padded_to=(1, 2, 4, 8, 16, 32))
    taught(in_steps, model=model)
    for size in range(1, CAP + 1):
        padded = 1 << (size - 1).bit_length()
        assert model.seconds(size, KEY) * 1000 == pytest.approx(3 + 0.5 * padded, rel=0.1)
    assert model.seconds(17, KEY) == model.seconds(32, KEY)


def test_nothing_is_known_before_the_first_batch() -> None:
    assert LearnedLatency(CAP).seconds(CAP, KEY) == 0


def test_one_batch_says_that_larger_ones_take_no_less() -> None:
    model = LearnedLatency(CAP)
    model.observe(4, KEY, 0.010)
    assert model.seconds(4, KEY) == pytest.approx(0.010)
    assert model.seconds(1, KEY) <= 0.010 <= model.seconds(32, KEY)


def test_a_first_batch_that_pays_for_all_others_is_forgotten() -> None:
    model = LearnedLatency(CAP)
    model.observe(1, KEY, 5.0)
    for _ in range(3):
        model.observe(1, KEY, 0.005)
    assert model.seconds(1, KEY) == pytest.approx(0.005)


def test_a_shape_not_seen_before_is_taken_for_the_others() -> None:
    model = taught(linear)
    assert model.seconds(8, OTHER) == model.seconds(8, KEY)


def test_shapes_are_told_apart() -> None:
    model = LearnedLatency(CAP)
    for _ in range(20):
        model.observe(4, KEY, 0.010)
        model.observe(4, OTHER, 0.040)
    assert model.seconds(4, KEY) == pytest.approx(0.010, rel=0.05)
    assert model.seconds(4, OTHER) == pytest.approx(0.040, rel=0.05)


def test_thousands_of_shapes_take_no_more_room_than_some() -> None:
    model = LearnedLatency(CAP)
    for number in range(5000):
        model.observe(1, Key("text", "v1", number), 0.005)
    assert len(model._by_key) <= 64


@pytest.mark.parametrize(("factor", "batches"), [(1.5, 10), (3.0, 10), (0.5, 150)])
def test_a_device_that_changes_its_speed_is_followed_up_at_once_and_down_soon(
    factor: float, batches: int
) -> None:
    random = Random(3)
    model = LearnedLatency(CAP)
    for _ in range(300):
        model.observe(CAP, KEY, linear(CAP, random) / 1000 * random.gauss(1, 0.03))
    expected = linear(CAP, random) / 1000 * factor
    for _ in range(batches):
        model.observe(CAP, KEY, expected * random.gauss(1, 0.03))
    assert expected <= model.seconds(CAP, KEY) <= 1.35 * expected


def test_one_batch_that_hung_changes_next_to_nothing() -> None:
    model = taught(linear)
    before = model.seconds(16, KEY)
    model.observe(16, KEY, 30.0)
    assert model.seconds(16, KEY) == pytest.approx(before, rel=0.1)


def test_one_batch_that_hung_is_no_news_of_sizes_that_never_ran() -> None:
    random = Random(1)
    model = LearnedLatency(CAP)
    for _ in range(200):
        size = random.randint(1, 16)
        model.observe(size, KEY, linear(size, random) / 1000 * random.gauss(1, 0.03))
    model.observe(16, KEY, 5.0)
    assert model.seconds(20, KEY) * 1000 <= 1.5 * linear(20, random)


def test_small_batches_that_were_slow_do_not_make_large_ones_look_quicker() -> None:
    model = LearnedLatency(CAP)
    for _ in range(20):
        model.observe(1, KEY, 0.010)
        model.observe(2, KEY, 0.004)
    assert model.seconds(2, KEY) >= model.seconds(1, KEY)


@given(st.lists(st.tuples(st.integers(1, CAP), st.floats(0, 10)), max_size=120))
def test_a_larger_batch_never_looks_quicker(ran: list[tuple[int, float]]) -> None:
    model = LearnedLatency(CAP)
    for size, seconds in ran:
        model.observe(size, KEY, seconds)
    predicted = [model.seconds(size, KEY) for size in range(1, CAP + 1)]
    assert all(seconds >= 0 for seconds in predicted)
    assert all(less <= more * (1 + 1e-12) for less, more in zip(predicted, predicted[1:]))  # noqa: B905, RUF007


@pytest.mark.parametrize(("size_max", "quantile"), [(0, 0.95), (8, 0.0), (8, 1.0)])
def test_what_cannot_be_learned_is_refused(size_max: int, quantile: float) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        LearnedLatency(size_max, quantile=quantile)
