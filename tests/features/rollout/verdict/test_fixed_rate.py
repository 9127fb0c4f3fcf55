"""Errors after promotion, held to the rate that was promised: false alarms at every look, and how
soon a rate that rose is found."""

from __future__ import annotations

from random import Random

import pytest

from mlplatform.rollout.verdict.fixed_rate import bar, log10_e

NEEDED = 1.3010299956639813
"""log10(1/0.05)."""
RUNS, LOOKS = 400, 30


def first_alarm(random: Random, per_look: int, rate: float, promised: float) -> int | None:
    """The look at which it is returned, of requests that fail independently."""
    requests = failures = 0
    for look in range(1, LOOKS + 1):
        requests += per_look
        failures += sum(random.random() < rate for _ in range(per_look))
        if log10_e(requests, failures, promised) >= NEEDED:
            return look
    return None


@pytest.mark.parametrize(("per_look", "rate"), [(10, 0.01), (60, 0.01), (60, 0.1), (10, 0.3)])
def test_at_the_promised_rate_false_alarms_stay_below_alpha_over_all_looks(
    per_look: int, rate: float
) -> None:
    random = Random(f"{per_look} {rate}")
    alarms = sum(first_alarm(random, per_look, rate, rate) is not None for _ in range(RUNS))
    assert alarms <= 0.05 * RUNS


@pytest.mark.parametrize(("times", "by"), [(4, 20), (10, 6), (40, 2)])
def test_a_rate_that_rose_is_found(times: int, by: int) -> None:
    random = Random(times)
    looks = [first_alarm(random, 60, 0.01 * times, 0.01) for _ in range(100)]
    found = [look for look in looks if look is not None and look <= by]
    assert len(found) >= 95


def test_less_than_was_promised_is_never_an_alarm() -> None:
    for requests in (10, 1_000, 1_000_000):
        assert log10_e(requests, 0.005 * requests, 0.01) < 0


def test_clusters_weigh_less() -> None:
    assert log10_e(1000, 60, 0.01, phi=4) < log10_e(1000, 60, 0.01) / 3


@pytest.mark.parametrize(
    ("requests", "failures", "promised"),
    [
        (10_000, 50, 2 * 50.5 / 10_001),
        (10_000, 0, 0.5 / 10_001 + 0.005),
        (1_000_000, 0, 0.5 / 1_000_001 + 0.005),
        (0, 0, 0.999),
        (100, 100, 0.999),
    ],
)
def test_the_bar_is_the_greater_of_both_bars_of_promotion(
    requests: float, failures: float, promised: float
) -> None:
    assert bar(requests, failures, delta=1.0, epsilon=0.005) == pytest.approx(promised)


@pytest.mark.parametrize("rate", [0.0, 1e-9, 0.999, 1.0])
def test_no_rate_is_without_an_answer(rate: float) -> None:
    for failures in (0, 1, 100):
        assert log10_e(100, failures, rate) == log10_e(100, failures, rate)  # a number
