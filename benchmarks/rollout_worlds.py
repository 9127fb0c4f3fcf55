"""Canaries and fleets made up: what enters, fails and is slow, minute by minute, many runs at once.

Whatever a world does, both arms are treated alike but for the effect that is asked for, so that
without one every alarm is false.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

MINUTES = 60
ERROR_RATE = 0.005
SLOW_RATE = 0.01
"""Above the objective's bucket, which is thus the 99th percentile."""
SLO_SECONDS = 0.64
LATENCY_SIGMA = 0.5
"""Lognormal; the median is 0.2 s."""
POD_RPM = 600.0
HISTORIES = 100
HISTORY_PODS = 16
HISTORY_MINUTES = 240
_QUANTILES = np.linspace(-9, 9, 3601)
_CHANCES = np.array([NormalDist().cdf(float(z)) for z in _QUANTILES])


@dataclass(frozen=True, slots=True)
class World:
    """What happens to both arms."""

    drift: float = 1.0
    """Error rates go up to so many times, and slow requests to half as much more, and back."""
    incident: float = 1.0
    """Five minutes of so many times the errors, at any time."""
    steps: bool = False
    """The canary's share begins at a tenth of what it will be, and goes up in four steps."""
    wander: float = 0.0
    """How the logarithm of the odds of the canary wanders, a minute."""
    retries: float = 0.0
    """The chance that a request that failed is sent again, and fails again, in the same arm."""
    batch: int = 1
    """So many requests fail, or are slow, together."""
    sigma: float = 0.0
    """Between pods, in logarithms, for as long as they live."""
    gaps: float = 0.0
    """The share of minutes that are not measured."""
    told: bool = True
    """Whether dispersion is known, from 16 stable pods over 4 hours."""


PLAIN = World()
WORLDS: Mapping[str, World] = {
    "independent requests": PLAIN,
    "shared drift x3": World(drift=3.0),
    "shared incident x6": World(incident=6.0),
    "weight steps in drift": World(steps=True, drift=3.0),
    "share wanders in drift": World(wander=0.15, drift=3.0),
    "gaps, 20 %": World(gaps=0.2, drift=3.0),
    "retry bursts": World(retries=0.7),
    "batches of 16": World(batch=16),
    "pods differ by 0.3": World(sigma=0.3),
    "all of it": World(3.0, 6.0, True, 0.15, 0.7, 1, 0.3, 0.1),  # noqa: FBT003
}
SHARED = list(WORLDS)[:6]
SCATTERED = list(WORLDS)[6:]
NOT_TOLD: Mapping[str, World] = {
    f"{name}, not told": replace(WORLDS[name], told=False) for name in SCATTERED
}


@dataclass(frozen=True, slots=True)
class Counts:
    """What was counted: (runs, minutes), the canary's first where there are two."""

    requests: tuple[Floats, Floats]
    errors: tuple[Floats, Floats]
    slow: tuple[Floats, Floats]
    p99_seconds: tuple[Floats, Floats]
    sources: Floats
    measured: Mask
    step: Mask
    pods: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Histories:
    """What stable pods did before: (histories, minutes, pods)."""

    requests: Floats
    errors: Floats
    slow: Floats


def make(
    rng: np.random.Generator,
    world: World,
    runs: int,
    *,
    rpm: float,
    share: float,
    effect: float = 1.0,
    slow_effect: float = 1.0,
) -> Counts:
    """An hour of a canary with `rpm` requests a minute, which are `share` of all."""
    odds = np.full((runs, MINUTES), share / (1 - share))
    step = np.zeros((runs, MINUTES), bool)
    if world.steps:
        odds = odds * np.repeat([0.1, 0.25, 0.5, 1.0], MINUTES // 4)
        step[:, MINUTES // 4 :: MINUTES // 4] = True
    if world.wander:
        odds = odds * np.exp(np.cumsum(rng.normal(0, world.wander, (runs, MINUTES)), axis=1))
    whole = rpm / share
    expected = whole * odds / (1 + odds), whole / (1 + odds)

    level = np.ones((runs, MINUTES))
    if world.drift > 1:
        phase = rng.uniform(0, 2 * np.pi, (runs, 1))
        wave = (1 + np.sin(phase + np.linspace(0, 2 * np.pi, MINUTES))) / 2
        level = level * world.drift**wave
    if world.incident > 1:
        start = rng.integers(0, MINUTES, (runs, 1))
        at = np.arange(MINUTES) - start
        level = np.where((at >= 0) & (at < 5), level * world.incident, level)
    pods = max(1.0, round(rpm / POD_RPM)), max(1.0, round(whole * (1 - share) / POD_RPM))
    effects = (effect, 1.0), (slow_effect, 1.0)
    requests: list[Floats] = []
    errors: list[Floats] = []
    slow: list[Floats] = []
    p99: list[Floats] = []
    sources = np.zeros((runs, MINUTES))
    for arm in (0, 1):
        entered = rng.poisson(expected[arm]).astype(float)
        rate = ERROR_RATE * level * _luck(rng, world, runs, pods[arm]) * effects[0][arm]
        primary, failed = _failures(rng, world, entered, np.minimum(rate, 1.0))
        entered = entered + (failed - primary)
        rate = SLOW_RATE * (1 + (level - 1) / 2) * _luck(rng, world, runs, pods[arm])
        rate = np.minimum(rate * effects[1][arm], 0.9)
        late = world.batch * rng.poisson(entered * rate / world.batch)
        requests.append(entered)
        errors.append(np.minimum(failed, entered))
        slow.append(np.minimum(late, entered).astype(float))
        p99.append(_p99_seconds(rng, np.maximum(entered / world.batch, 1), rate))
        if arm == 0:
            sources = primary
    return Counts(
        (requests[0], requests[1]),
        (errors[0], errors[1]),
        (slow[0], slow[1]),
        (p99[0], p99[1]),
        sources,
        rng.random((runs, MINUTES)) >= world.gaps,
        step,
        pods,
    )


def histories(rng: np.random.Generator, world: World, *, rpm: float) -> Histories:
    """Of as many fleets, of pods as busy as the canary's."""
    size = (HISTORIES, HISTORY_MINUTES, HISTORY_PODS)
    each = rpm / max(1.0, round(rpm / POD_RPM))
    requests = rng.poisson(each, size).astype(float)
    luck = np.exp(world.sigma * rng.normal(size=(2, HISTORIES, 1, HISTORY_PODS)))
    _, errors = _failures(rng, world, requests, ERROR_RATE * luck[0])
    slow = world.batch * rng.poisson(requests * SLOW_RATE * luck[1] / world.batch)
    return Histories(requests + errors, errors, slow.astype(float))


def _luck(rng: np.random.Generator, world: World, runs: int, pods: float) -> Floats:
    """By what factor an arm's pods, together, fail more often than the usual pod."""
    if not world.sigma:
        return np.ones((runs, 1))
    count = int(min(pods, 400))
    return np.asarray(np.exp(world.sigma * rng.normal(size=(runs, count))).mean(1, keepdims=True))


def _failures(
    rng: np.random.Generator, world: World, requests: Floats, rate: Floats
) -> tuple[Floats, Floats]:
    """Requests that failed by themselves, and all that failed."""
    if world.batch > 1:
        failed = (world.batch * rng.poisson(requests * rate / world.batch)).astype(float)
        return failed, failed
    if not world.retries:
        failed = rng.poisson(requests * rate).astype(float)
        return failed, failed
    primary = rng.poisson(requests * rate * (1 - world.retries))
    again = rng.negative_binomial(np.maximum(primary, 1), 1 - world.retries) * (primary > 0)
    return primary.astype(float), (primary + again).astype(float)


def _p99_seconds(rng: np.random.Generator, requests: Floats, slow_rate: Floats) -> Floats:
    """The 99th percentile of so many latencies of which that share is above the objective: an order
    statistic of uniforms is beta."""
    count = np.ceil(requests)
    rank = np.ceil(0.99 * count)
    chance = rng.beta(rank, count - rank + 1)
    z = np.interp(chance, _CHANCES, _QUANTILES) - np.interp(1 - slow_rate, _CHANCES, _QUANTILES)
    return np.asarray(SLO_SECONDS * np.exp(LATENCY_SIGMA * z))
