"""How much errors scatter beyond chance, learnt from stable pods before a rollout. Pure.

Two kinds. `phi`: within a window, errors come in clusters (a client retries, a batch fails as one),
so that a count's variance is phi times its mean. `sigma`: some pods fail more often than others for
as long as they live (a node, a client that sticks to them), by a factor whose logarithm deviates by
sigma. Neither can be learnt from the canary itself: a bad canary is both.

What is used are upper limits, so that few pods or few errors make the verdict careful, not wrong.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from mlplatform.core.seen import Unknown
from mlplatform.rollout.verdict.e_process import Numbers

PODS_LEAST = 8
"""Of four pods, A/A alarms are up to 45 % (the reference, section 3)."""
CLUSTERS_LEAST = 20
"""Fewer independent windows with errors say nothing of how they cluster."""
PHI_CONFIDENCE = 0.95
SIGMA_CONFIDENCE = 0.90
POD_QUANTILE = NormalDist().inv_cdf(0.99)
"""One canary in a hundred has worse pods by chance than is allowed for."""


@dataclass(frozen=True, slots=True)
class Dispersion:
    """What is known of one metric's scatter."""

    phi: float
    """Upper limit of the variance of a count over its mean, within windows; at least 1."""
    sigma: float
    """Upper limit of the deviation between pods, in natural logarithms."""
    phi_estimate: float = math.nan
    sigma_estimate: float = math.nan
    pods: int = 0
    windows: int = 0
    """With errors in them."""

    def __str__(self) -> str:
        known = f"phi <= {self.phi:.2g}, sigma <= {self.sigma:.2g}"
        return f"{known}, from {self.pods} pods and {self.windows} windows" if self.pods else known


@dataclass(frozen=True, slots=True)
class Moments:
    """Estimates, of many fleets at once."""

    phi: Numbers
    phi_upper: Numbers
    sigma: Numbers
    sigma_upper: Numbers
    clusters: Numbers
    """How many windows' worth of errors there are, those with many counted for more."""


def estimate(requests: Numbers, errors: Numbers) -> Dispersion | Unknown:
    """Dispersion from stable pods (columns) by windows (rows), all of the version in service and
    over time in which nothing was rolled out. NaN: the pod was not there in that window."""
    there = np.isfinite(requests) & np.isfinite(errors) & (requests > 0)
    seen = there.any(axis=0)
    pods = int(seen.sum())
    if pods < PODS_LEAST:
        return Unknown(f"{pods} stable pods, {PODS_LEAST} are needed")
    if bool(np.any(there & ((errors < 0) | (errors > requests)))):
        return Unknown("a stable pod has more errors than requests")
    counted = np.where(there, requests, 0.0)[:, seen], np.where(there, errors, 0.0)[:, seen]
    found = moments(*counted)
    if not found.clusters >= CLUSTERS_LEAST:
        return Unknown(
            f"the errors of {pods} stable pods amount to {float(found.clusters):.0f} independent "
            f"windows, {CLUSTERS_LEAST} are needed"
        )
    return Dispersion(
        phi=float(found.phi_upper),
        sigma=float(found.sigma_upper),
        phi_estimate=float(found.phi),
        sigma_estimate=float(found.sigma),
        pods=pods,
        windows=int((counted[1].sum(axis=1) > 0).sum()),
    )


def moments(requests: Numbers, errors: Numbers) -> Moments:
    """The moments of fleets: (…, windows, pods).

    Phi is Pearson's statistic of each window over its degrees of freedom, given the window's errors
    and each pod's own level, weighted by the errors: that is E[m²]/E[m] of clusters of m errors.
    Sigma is what scatter between pods' totals phi does not explain (DerSimonian and Laird, 1986).
    """
    total = errors.sum(axis=-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        plain = np.nan_to_num(total * requests / requests.sum(axis=-1, keepdims=True))
        expected_pod = plain.sum(axis=-2)
        level = np.nan_to_num(errors.sum(axis=-2) / expected_pod)
        share = requests * level[..., None, :]
        expected = np.nan_to_num(total * share / share.sum(axis=-1, keepdims=True))
        squares = np.where(expected > 0, (errors - expected) ** 2 / expected, 0.0).sum(axis=-1)
        windows = total[..., 0]
        pods = (requests > 0).sum(axis=-1)
        phi_window = squares / np.maximum(pods - 1, 1)
        count = windows.sum(axis=-1)
        clusters = count**2 / (windows**2).sum(axis=-1)
        # Each pod's level is fitted to the same windows.
        phi = (windows * phi_window).sum(axis=-1) / count * clusters / (clusters - 1)
        spread = windows * (phi_window - phi[..., None])
        error = np.sqrt((spread**2).sum(axis=-1)) / count
        phi_upper = phi + NormalDist().inv_cdf(PHI_CONFIDENCE) * error

        freedom = (expected_pod > 0).sum(axis=-1) - 1
        scatter = (expected_pod * (level - 1) ** 2).sum(axis=-1)
        size = expected_pod.sum(axis=-1)
        size = (size - (expected_pod**2).sum(axis=-1) / size) / freedom
        variance = np.maximum(scatter / freedom - phi, 0.0) / size
        quantile = chi_square(freedom.astype(np.float64), 1 - SIGMA_CONFIDENCE)
        variance_upper = np.maximum(scatter / quantile - np.maximum(phi, 1.0), 0.0) / size
    return Moments(
        phi=phi,
        phi_upper=np.maximum(phi_upper, 1.0),
        sigma=np.sqrt(np.log1p(variance)),
        sigma_upper=np.sqrt(np.log1p(variance_upper)),
        clusters=np.nan_to_num(clusters),
    )


def chi_square(freedom: Numbers, probability: float) -> Numbers:
    """Quantile of chi-square, within a percent from 4 degrees of freedom on (Wilson and Hilferty,
    1931)."""
    part = 2 / (9 * freedom)
    return np.asarray(freedom * (1 - part + NormalDist().inv_cdf(probability) * np.sqrt(part)) ** 3)


def allowance(sigma: Numbers, canary_pods: Numbers, fleet_pods: Numbers) -> Numbers:
    """By which factor the canary's pods may be worse, or better, than the fleet's by chance."""
    return np.exp(POD_QUANTILE * sigma * np.sqrt(1 / canary_pods + 1 / fleet_pods))
