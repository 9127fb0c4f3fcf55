"""Evidence that errors of a canary are more frequent than the fleet's, or are not; valid at every
look. Pure arithmetic on arrays of any shape: windows, runs, regions and models alike.

Each window is a stratum, so that whatever moves both arms (drift, incidents) and whatever moves
their shares (steps, a router that wanders) cancels. In a window with N errors, S of them the
canary's, and rho requests of the canary to one of the fleet's, a bet on the ratio theta against the
bound kappa multiplies what is held by

    (r(theta) / r(kappa))^S · ((1 - r(theta)) / (1 - r(kappa)))^(N - S),  r(x) = rho·x / (1 + rho·x)

which is a^S · b^(N - S) with kappa·rho·(a - 1) + (b - 1) = 0. Let errors be independent, with rates
p and q. Since E[a^S] <= exp((a - 1)·n·p), for Bernoulli and Poisson counts alike, the expectation
is at most exp((a - 1)·n·(p - kappa·q)), so at most 1: under "p <= kappa·q" for theta above kappa,
under "p >= kappa·q" for theta below it. Nothing is assumed of how large or how constant rates are.
A mixture of bets is an e-process: whenever it is looked at, it exceeds 1/alpha wrongly with a
chance of alpha at most (Ville, 1939; Ramdas, Grünwald, Vovk and Shafer, "Game-theoretic statistics
and safe anytime-valid inference", 2023). The bets are those of Lindon and Malek, "Anytime-valid
inference for multinomial count data", NeurIPS 2022; the confidence sequence inverts their mixture
(Howard, Ramdas, McAuliffe and Sekhon, "Time-uniform, nonparametric, nonasymptotic confidence
sequences", 2021).

The same bet with one factor 1 - u for the canary's errors in all windows bounds a difference: with
b = 1 + u·rho in each window, the product times exp(u · sum of n·(p - q)) is at most 1 in
expectation, so that it bounds the mean of p - q over the canary's requests, drift or not.

Errors that come in clusters: logarithms are divided by phi, the variance of a count over its mean.
That is exact where clusters are of phi errors each, and near it where they vary: docs/adr/0013.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

WORSE: Numbers = np.geomspace(1.06, 400.0, 36)
"""Bets against the canary: how many times the bound its ratio is."""
_LOG_WORSE: Numbers = np.log(WORSE)
_WORSE_PRIOR: Numbers = -_LOG_WORSE - np.logaddexp.reduce(-_LOG_WORSE)
"""Logarithms of weights that fall as 1/ratio: small and large ratios are both found in time."""

_LOG_RATIO: Numbers = np.concatenate(
    [
        np.arange(-3.0, -0.3, 0.15),
        np.arange(-0.3, 0.75, 0.02),
        np.arange(0.75, 2.2, 0.06),
        np.arange(2.2, 7.0, 0.15),
    ]
)
RATIOS: Numbers = np.exp(_LOG_RATIO)
"""Ratios among which the confidence sequence chooses; closest where promotion is decided."""
_RATIO_WEIGHTS: Numbers = np.gradient(_LOG_RATIO) * (
    2.0 * np.exp(-0.5 * (_LOG_RATIO / 0.35) ** 2) + 0.3 * np.exp(-np.abs(_LOG_RATIO) / 1.5)
)
"""Most releases are as good as the fleet: narrow there, with tails."""
_RATIO_PRIOR: Numbers = np.log(_RATIO_WEIGHTS / _RATIO_WEIGHTS.sum())

CUTS: Numbers = np.concatenate([np.geomspace(0.002, 0.5, 14), 1.0 - np.geomspace(0.4, 0.002, 10)])
"""Bets for the canary: by which share each of its errors cuts what is held."""
_CUT_PRIOR: Numbers = np.full(len(CUTS), -np.log(len(CUTS)))
_NEWTON_STEPS = 3


def bets_against(
    canary_errors: Numbers, fleet_errors: Numbers, odds: Numbers, bound: Numbers
) -> Numbers:
    """What one window adds to the logarithm of each bet in `WORSE` (last axis). `odds`: requests of
    the canary to one of the fleet's. `bound`: the ratio up to which the canary is no worse."""
    errors = canary_errors + fleet_errors
    base = odds * bound
    return np.asarray(
        canary_errors[..., None] * _LOG_WORSE
        - errors[..., None] * (np.log1p(base[..., None] * WORSE) - np.log1p(base)[..., None])
    )


def likelihoods(canary_errors: Numbers, fleet_errors: Numbers, odds: Numbers) -> Numbers:
    """What one window adds to the log-likelihood of each of `RATIOS`, but for a constant."""
    errors = canary_errors + fleet_errors
    return np.asarray(
        canary_errors[..., None] * _LOG_RATIO
        - errors[..., None] * np.log1p(odds[..., None] * RATIOS)
    )


def bets_for(canary_errors: Numbers, fleet_errors: Numbers, odds: Numbers) -> Numbers:
    """What one window adds to the logarithm of each bet in `CUTS`, but for what the excess adds."""
    return np.asarray(
        canary_errors[..., None] * np.log1p(-CUTS)
        + fleet_errors[..., None] * np.log1p(odds[..., None] * CUTS)
    )


def log_e(against: Numbers, phi: Numbers) -> Numbers:
    """The logarithm of the e-value against the canary, from sums of `bets_against`."""
    return _log_sum(against / phi[..., None] + _WORSE_PRIOR)


def ratio_upper(likelihood: Numbers, phi: Numbers, alpha: float) -> Numbers:
    """The upper end of the confidence sequence of the ratio, from sums of `likelihoods`; infinite
    where nothing bounds it."""
    tempered = likelihood / phi[..., None]
    slack = tempered - (_log_sum(tempered + _RATIO_PRIOR) + np.log(alpha))[..., None]
    inside = slack >= 0
    last = len(RATIOS) - 1 - np.argmax(inside[..., ::-1], axis=-1)
    following = np.minimum(last + 1, len(RATIOS) - 1)
    here = np.take_along_axis(slack, last[..., None], -1)[..., 0]
    there = np.take_along_axis(slack, following[..., None], -1)[..., 0]
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(here > there, here / (here - there), 0.0)
    upper = np.exp(_LOG_RATIO[last] + share * (_LOG_RATIO[following] - _LOG_RATIO[last]))
    return np.where(inside[..., -1], np.inf, upper)


def excess_upper(bets: Numbers, requests: Numbers, phi: Numbers, alpha: float) -> Numbers:
    """The upper end of the confidence sequence of the canary's mean error rate less the fleet's,
    from sums of `bets_for` and of the canary's requests. Infinite without requests."""
    slopes = CUTS * (requests / phi)[..., None]
    return _reaches(bets / phi[..., None] + _CUT_PRIOR, slopes, np.full(phi.shape, -np.log(alpha)))


def seconds_to_roll_back(
    against: Numbers, a_second: Numbers, phi: Numbers, wanted: Numbers
) -> Numbers:
    """When `log_e` would reach `wanted`, if what a second adds to `against` went on; infinite if
    never."""
    now, slopes = against / phi[..., None] + _WORSE_PRIOR, a_second / phi[..., None]
    return np.maximum(_reaches(now, slopes, wanted), 0.0)


def seconds_to_ratio(
    likelihood: Numbers, a_second: Numbers, phi: Numbers, bar: float, alpha: float
) -> Numbers:
    """When `ratio_upper` would be at `bar`."""
    above = int(np.searchsorted(_LOG_RATIO, np.log(bar)).clip(1, len(RATIOS) - 1))
    share = (np.log(bar) - _LOG_RATIO[above - 1]) / (_LOG_RATIO[above] - _LOG_RATIO[above - 1])

    def beside_bar(values: Numbers) -> Numbers:
        """Of ratios below the bar: those above speak for no promotion."""
        at_bar = (1 - share) * values[..., above - 1] + share * values[..., above]
        return np.asarray((values[..., :above] - at_bar[..., None]) / phi[..., None])

    wanted = np.full(phi.shape, -np.log(alpha))
    found = _reaches(beside_bar(likelihood) + _RATIO_PRIOR[:above], beside_bar(a_second), wanted)
    return np.maximum(found, 0.0)


def seconds_to_excess(
    bets: tuple[Numbers, Numbers], requests: tuple[Numbers, Numbers], phi: Numbers,
    bar: float, alpha: float,
) -> Numbers:  # fmt: skip
    """When `excess_upper` would be at `bar`; of bets and of requests: what there is, and what a
    second adds."""
    now, a_second = (
        (each + CUTS * (bar * count)[..., None]) / phi[..., None]
        for each, count in zip(bets, requests, strict=True)
    )
    found = _reaches(now + _CUT_PRIOR, a_second, np.full(phi.shape, -np.log(alpha)))
    return np.maximum(found, 0.0)


def _reaches(now: Numbers, slopes: Numbers, wanted: Numbers) -> Numbers:
    """Where the logarithm of the sum of exp(now + slopes · x) reaches `wanted` for the last time,
    infinite if never.

    It is convex in x, and no term alone reaches it earlier than all together: from the first term
    that does, Newton's steps come down to it and never pass it.
    """
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        alone = (wanted[..., None] - now) / slopes
        found = np.min(np.where(slopes > 0, alone, np.inf), axis=-1)
        for _ in range(_NEWTON_STEPS):
            powers = now + slopes * found[..., None]
            top = np.max(powers, axis=-1)
            shares = np.exp(powers - top[..., None])
            total = np.sum(shares, axis=-1)
            slope = np.sum(shares * slopes, axis=-1) / total
            above = top + np.log(total) - wanted
            step = np.where(np.isfinite(found) & (slope > 0), above / slope, 0.0)
            found = found - np.maximum(step, 0.0)
    return np.asarray(found)


def _log_sum(logarithms: Numbers) -> Numbers:
    """The logarithm of the sum over the last axis; several times as fast as `logaddexp.reduce`."""
    top = np.max(logarithms, axis=-1)
    return np.asarray(top + np.log(np.sum(np.exp(logarithms - top[..., None]), axis=-1)))
