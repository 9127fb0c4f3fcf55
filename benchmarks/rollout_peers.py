"""The rules that the verdict is measured against, written from their documents and, where these are
silent, checked against their public code. Each takes `Counts` and gives, run by run, the minute at
which the canary was returned (infinite: never).

Limits are those that people start with: 1 % of errors, a 99th percentile of 0.8 s; where a rule
compares arms, its own defaults.

- `argo`: docs/features/analysis.md; failureLimit 3 a metric, every minute, 60 times; more than four
  errors in a row (no data) end the run.
- `flagger`: threshold 5, every minute; failed checks are counted together, no success resets them,
  no data is a failed check.
- `ome`: docs of canary analysis; steps of 10 minutes, sampled every minute after 2 over the last 5;
  the third failing sample of a step returns it; the first that passes after the bake advances it.
- `kayenta`: NetflixACAJudge on 60 points a metric, at the end: Mann-Whitney with its 98 % interval,
  direction increase (its default, either, also fails canaries that are better).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from benchmarks.rollout_worlds import MINUTES, Counts, Floats, Mask

ERRORS_MOST = 0.01
P99_SECONDS_MOST = 0.8
OME_STEPS = 4
_Z98 = 2.3263478740408408
_CHUNK = 100


def argo(counts: Counts, limit: int = 3) -> Floats:
    """Failed if more than `limit` measurements of one metric failed."""
    minutes = [
        _first(np.cumsum(failed & counts.measured, axis=1) > limit) for failed in _beyond(counts)
    ]
    blind = ~counts.measured
    run = blind.astype(int)
    for minute in range(1, MINUTES):
        run[:, minute] = np.where(blind[:, minute], run[:, minute - 1] + 1, 0)
    return np.asarray(np.minimum.reduce([*minutes, _first(run > 4)]))


def flagger(counts: Counts, threshold: int = 5) -> Floats:
    """Returned at the fifth failed check."""
    errors, latency = _beyond(counts)
    return _first(np.cumsum(errors | latency | ~counts.measured, axis=1) >= threshold)


def ome(counts: Counts, limit: int = 3) -> Floats:
    """Returned at the third failing sample of a step."""
    ratio = _trailing(counts.errors[0], counts.measured) / np.maximum(
        _trailing(counts.requests[0], counts.measured), 1.0
    )
    errors = ratio > ERRORS_MOST
    seen = _trailing(np.ones_like(ratio), counts.measured) > 0
    # A percentile over five minutes is near the middle of theirs.
    over = (counts.p99_seconds[0] > P99_SECONDS_MOST).astype(np.float64)
    latency = _trailing(over, counts.measured) > 2.5
    failing = (errors | latency) & seen
    runs = len(ratio)
    step, entered, failed = np.zeros((3, runs), dtype=int)
    returned = np.full(runs, np.inf)
    for minute in range(MINUTES):
        going = np.isinf(returned) & (step < OME_STEPS)
        sampled = going & (minute - entered >= 2) & seen[:, minute]
        failed += sampled & failing[:, minute]
        returned[going & (failed >= limit)] = minute + 1
        passes = sampled & ~failing[:, minute] & (minute - entered >= 10) & np.isinf(returned)
        step += passes
        entered = np.where(passes, minute, entered)
        failed = np.where(passes, 0, failed)
    return returned


def kayenta(counts: Counts) -> Floats:
    """Returned at the end if any metric is classified as High."""
    requests, errors = counts.requests, counts.errors
    shares = [
        failed / np.maximum(entered, 1) for failed, entered in zip(errors, requests, strict=True)
    ]
    high = np.zeros(len(shares[0]), bool)
    for canary, fleet in ((shares[0], shares[1]), counts.p99_seconds):
        for start in range(0, len(high), _CHUNK):
            rows = slice(start, start + _CHUNK)
            high[rows] |= _is_high(canary[rows], fleet[rows], counts.measured[rows])
    return np.where(high, float(MINUTES), np.inf)


RULES: Mapping[str, Callable[[Counts], Floats]] = {
    "Argo, limit 3": argo,
    "Flagger, threshold 5": flagger,
    "OME, limit 3": ome,
    "Kayenta, at the end": kayenta,
}


def _beyond(counts: Counts) -> tuple[Mask, Mask]:
    """Whether the canary is beyond the limits: errors, latency."""
    share = counts.errors[0] / np.maximum(counts.requests[0], 1)
    errors: Mask = share > ERRORS_MOST
    latency: Mask = counts.p99_seconds[0] > P99_SECONDS_MOST
    return errors, latency


def _first(flags: Mask) -> Floats:
    """The minute of the first flag, from 1."""
    return np.where(flags.any(axis=1), flags.argmax(axis=1) + 1.0, np.inf)


def _trailing(values: Floats, measured: Mask, width: int = 5) -> Floats:
    """Sums over the last five minutes."""
    sums = np.cumsum(np.pad(np.where(measured, values, 0.0), ((0, 0), (width, 0))), axis=1)
    return np.asarray(sums[:, width:] - sums[:, :-width])


def _is_high(canary: Floats, fleet: Floats, measured: Mask) -> Mask:
    """Whether the lower end of the 98 % interval of the shift is above a quarter of its estimate.

    The interval inverts the test in its normal approximation, with corrections for ties and
    continuity: its ends are order statistics of the differences of all pairs. A run whose gaps
    leave fewer points has so many fewer pairs.
    """
    high = np.zeros(len(canary), bool)
    for points in np.unique(measured.sum(axis=1)):
        if points < 2:
            continue
        rows = np.flatnonzero(measured.sum(axis=1) == points)
        x = canary[rows][measured[rows]].reshape(len(rows), points)
        y = fleet[rows][measured[rows]].reshape(len(rows), points)
        pairs = np.sort((x[:, :, None] - y[:, None, :]).reshape(len(rows), -1), axis=1)
        # Shifted by a root, the arms share no value: ties are within each.
        ties = sum(_ties(each) for each in (x, y))
        every = 2 * points
        sigma = np.sqrt(points**2 / 12 * (every + 1 - ties / (every * (every - 1))))
        above = np.ceil(points**2 / 2 + _Z98 * sigma + 0.5).astype(int)
        place = np.clip(points**2 - above, 0, points**2 - 1)
        lower = np.take_along_axis(pairs, place[:, None], axis=1)[:, 0]
        shift = np.median(pairs, axis=1)
        high[rows] = (lower > 0.25 * np.abs(shift)) & (x.mean(axis=1) >= y.mean(axis=1))
    return high


def _ties(values: Floats) -> Floats:
    """The sum of t³ - t over groups of t equal values, row by row."""
    ordered = np.sort(values, axis=1)
    new = np.diff(ordered, axis=1, prepend=np.nan) != 0
    group = np.cumsum(new, axis=1) + np.arange(len(values))[:, None] * values.shape[1]
    sizes = np.bincount((group - 1).ravel(), minlength=values.size).reshape(values.shape)
    return np.asarray((sizes.astype(float) ** 3 - sizes).sum(axis=1))
