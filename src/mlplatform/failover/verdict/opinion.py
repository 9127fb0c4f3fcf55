"""Rise and fall: when one vantage changes its mind about one region. Pure.

So many failures in a row turn an opinion to down, so many successes in a row back to up, and
nothing else does (HAProxy's `rise` and `fall`). A vantage keeps the newest samples only: what it
held before the oldest of them lies beside them, so that reader and writer reckon alike.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mlplatform.failover.evidence.record import Sample, Series


@dataclass(frozen=True, slots=True)
class Opinion:
    """What a vantage holds of a region after some samples. Times are in seconds, on any clock that
    `after` is given consistently."""

    up: bool | None = None
    """None: neither so many successes nor so many failures in a row have been seen yet."""
    run: int = 0
    """How many alike in a row it saw last: successes above 0, failures below."""
    since: float | None = None
    """When the run began that made it think so; None where that is not known."""
    run_since: float | None = None

    def after(self, ok: bool, at: float, *, rise: int, fall: int) -> Opinion:  # noqa: FBT001
        """What it holds after one more sample, taken at `at`."""
        return self.after_all(((ok, at),), rise=rise, fall=fall)

    def after_all(self, samples: Iterable[tuple[bool, float]], *, rise: int, fall: int) -> Opinion:
        """What it holds after more samples, oldest first: whether each was good, and when."""
        up, run, since, run_since = self.up, self.run, self.since, self.run_since
        for ok, at in samples:
            if run and (run > 0) is ok:
                run += 1 if ok else -1
            else:
                run, run_since = (1 if ok else -1), at
            if ok:
                if run >= rise and up is not True:
                    up, since = True, at if run_since is None else run_since
            elif -run >= fall and up is not False:
                up, since = False, at if run_since is None else run_since
        return Opinion(up, run, since, run_since)


def opinion_before(series: Series) -> Opinion:
    """What the vantage held before the oldest sample of `series`; times are on its own clock, with
    0 at the moment when the record was written, so that all are negative."""
    ago = series.up_seconds_ago
    return Opinion(series.up, series.run, None if ago is None else -ago)


def opinion_after(series: Series, *, rise: int, fall: int) -> Opinion:
    """What the vantage holds after the newest sample of `series`, by the same clock."""
    return opinion_before(series).after_all(_pairs(series.samples), rise=rise, fall=fall)


def _pairs(samples: Iterable[Sample]) -> Iterable[tuple[bool, float]]:
    return [(sample.ok, -sample.seconds_ago) for sample in samples]
