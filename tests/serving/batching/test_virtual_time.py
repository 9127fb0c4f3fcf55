"""The rules beside those of others, in virtual time and from seeds: the benchmark `batching` in
small. Nothing here depends on the machine."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest

from benchmarks.batching import GOODPUT_LEAST, IN_TIME, LAUNCH_BOUND, PRICED, settings
from benchmarks.virtual_time import Arrivals, Ours, Outcome, Policy, Profile, bursts, poisson, run

REQUESTS = 12_000


def outcome(
    profile: Profile, policy: Policy, load: float, seed: int, arrivals: Arrivals = poisson
) -> Outcome:
    rate = load * profile.capacity
    requests = arrivals(profile, rate, REQUESTS / rate, Random(seed))
    return run(profile, policy, requests, Random(-seed))


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("load", [1.3, 2.0])
@pytest.mark.parametrize("profile", [PRICED, LAUNCH_BOUND], ids=lambda profile: profile.name)
def test_overload_leaves_the_goodput_where_it_was(profile: Profile, load: float, seed: int) -> None:
    found = outcome(profile, Ours(profile), load, seed)
    assert found.goodput >= GOODPUT_LEAST * profile.capacity
    assert found.late <= 0.005 * found.requests


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize(("profile", "load"), [(PRICED, 0.85), (LAUNCH_BOUND, 0.95)])
def test_below_the_knee_nearly_all_are_in_time(profile: Profile, load: float, seed: int) -> None:
    assert outcome(profile, Ours(profile), load, seed).share >= IN_TIME


def test_of_the_others_at_their_best_none_keeps_as_many_deadlines_at_that_load() -> None:
    ours = outcome(PRICED, Ours(PRICED), 0.88, 1).share
    for rule, tried in settings(PRICED).items():
        if rule != "ours":
            best = max(outcome(PRICED, setting(PRICED), 0.88, 1).share for setting in tried)
            assert best <= ours, rule


@pytest.mark.parametrize("seed", [1, 2])
def test_bursts_of_twice_the_load(seed: int) -> None:
    found = outcome(PRICED, Ours(PRICED), 1.3, seed, bursts)
    # Three quarters of 1.3 lie below the capacity: some of it must go unused.
    assert found.goodput >= 0.93 * PRICED.capacity


def test_a_device_that_halves_its_speed_under_way_is_followed() -> None:
    rate = 0.2 * PRICED.capacity
    requests = poisson(PRICED, rate, REQUESTS / rate, Random(1))
    half = requests[-1].arrival / 2

    def with_speed(speed: Callable[[float], float]) -> Outcome:
        return run(PRICED, Ours(PRICED), requests, Random(-1), speed)

    quick, slow = with_speed(lambda now: 1.0), with_speed(lambda now: 2.0)
    changing = with_speed(lambda now: 1.0 if now < half else 2.0)
    # As one who had known both; the few batches in which the change is learned are late.
    assert changing.share >= (quick.share + slow.share) / 2 - 0.01
    assert changing.late <= 0.005 * changing.requests
