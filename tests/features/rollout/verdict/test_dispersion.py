"""What stable pods tell of scatter, and when they tell nothing."""

from __future__ import annotations

import numpy as np
import pytest

from mlplatform.core.seen import Unknown
from mlplatform.rollout.verdict.dispersion import (
    POD_QUANTILE,
    Dispersion,
    allowance,
    chi_square,
    estimate,
)
from mlplatform.rollout.verdict.e_process import Numbers

WINDOWS = 240


def history(
    pods: int = 16,
    *,
    rpm: float = 600,
    cluster: int = 1,
    sigma: float = 0.0,
    windows: int = WINDOWS,
) -> tuple[Numbers, Numbers]:
    rng = np.random.default_rng(20_260)
    level = np.exp(sigma * rng.normal(size=pods) - sigma**2 / 2)
    drift = 1 + 2 * np.sin(np.linspace(0, 7, windows))[:, None] ** 2
    requests = rng.poisson(rpm, (windows, pods)).astype(float)
    return requests, cluster * rng.poisson(requests * 0.005 * level * drift / cluster).astype(float)


KNOWN = [
    # clusters of, between pods: phi is at least, at most; sigma at least, at most
    (1, 0.0, 1.0, 1.1, 0.0, 0.1),
    (16, 0.0, 15.0, 18.0, 0.0, 0.2),
    (1, 0.3, 1.0, 1.1, 0.25, 0.6),
    (16, 0.3, 15.0, 18.0, 0.25, 0.6),
]


@pytest.mark.parametrize(("cluster", "sigma", "phi_from", "phi_to", "low", "high"), KNOWN)
def test_scatter_is_found_through_shared_drift(
    cluster: int, sigma: float, phi_from: float, phi_to: float, low: float, high: float
) -> None:
    found = estimate(*history(cluster=cluster, sigma=sigma))
    assert isinstance(found, Dispersion)
    assert phi_from <= found.phi <= phi_to
    assert low <= found.sigma <= high
    assert found.phi_estimate <= found.phi
    assert found.sigma_estimate <= found.sigma
    assert found.pods == 16
    assert WINDOWS - 10 < found.windows <= WINDOWS


def test_less_is_known_from_less() -> None:
    much, little = estimate(*history()), estimate(*history(pods=8, windows=60))
    assert isinstance(much, Dispersion)
    assert isinstance(little, Dispersion)
    assert little.sigma > much.sigma


def test_a_pod_that_came_later_is_judged_by_its_own_windows() -> None:
    requests, errors = history()
    requests[:200, 3] = np.nan
    errors[:200, 3] = np.nan
    found = estimate(requests, errors)
    assert isinstance(found, Dispersion)
    assert found.phi < 1.2


NOT_KNOWN = [
    (history(pods=7), "7 stable pods, 8 are needed"),
    (history(rpm=0.0), "0 stable pods, 8 are needed"),
    (history(rpm=5, windows=20), "20 are needed"),
    ((history()[0], 0 * history()[1]), "0 independent windows"),
    ((history()[1], history()[0]), "more errors than requests"),
]


@pytest.mark.parametrize(("counted", "why"), NOT_KNOWN)
def test_what_cannot_be_learnt_is_unknown(counted: tuple[Numbers, Numbers], why: str) -> None:
    found = estimate(*counted)
    assert isinstance(found, Unknown)
    assert why in found.reason


def test_one_canary_in_a_hundred_has_worse_pods_than_is_allowed() -> None:
    rng = np.random.default_rng(4)
    canary, fleet = rng.normal(size=(2, 100_000, 1)), rng.normal(size=(100_000, 8))
    apart = 0.3 * (canary[0][:, 0] - fleet.mean(axis=1))
    allowed = float(allowance(np.array(0.3), np.array(1.0), np.array(8.0)))
    assert np.mean(np.exp(apart) > allowed) == pytest.approx(0.01, abs=0.002)
    assert allowance(np.array(0.0), np.array(1.0), np.array(8.0)) == 1.0
    assert pytest.approx(2.326, abs=1e-3) == POD_QUANTILE


@pytest.mark.parametrize(
    ("freedom", "quantile"), [(7.0, 2.833), (15.0, 8.547), (31.0, 21.434)]
)  # of tables
def test_chi_square(freedom: float, quantile: float) -> None:
    assert chi_square(np.array(freedom), 0.1) == pytest.approx(quantile, rel=0.01)
