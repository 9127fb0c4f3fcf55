"""What callers met, by Prometheus: success, latency, load and lag of each region.

A number that is none (NaN, infinite, outside its range), an empty answer and an answer that did not
come are not zeros: the region has no such number, and whoever decides holds.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping
from string import Template

from mlplatform.core.errors import MlplatformError
from mlplatform.core.seen import Unknown
from mlplatform.core.topology import Topology
from mlplatform.failover.decision.seen import Load
from mlplatform.failover.evidence.record import Outside
from mlplatform.ports.measurements import Measured, Measurements

log = logging.getLogger(__name__)

Together = Callable[[list[float]], float]
Allowed = Callable[[float], bool]

_HOUR_STEP = "15s"
"""How finely the peak of an hour is looked for."""


class OutsideView:
    """The queries of a topology's objective, asked of its Prometheus."""

    def __init__(self, topology: Topology, measurements: Measurements | None) -> None:
        self._objective = topology.traffic.objective
        self._regions = tuple(topology.regions)
        self._label = topology.prometheus.region_label if topology.prometheus else "region"
        self._measurements = measurements

    def outside(self) -> dict[str, Outside | Unknown]:
        """What each region's callers met; empty where nobody is to be asked. `Unknown` for every
        region when no query was answered."""
        objective = self._objective
        queries: dict[str, tuple[str | None, Together, Allowed]] = {
            "success_ratio": (objective.success_query, _one, _ratio),
            "latency_seconds": (objective.latency_query, _one, _positive),
            "requests_per_second": (objective.load_query, sum, _positive),
        }
        asked = [name for name, (query, _, _) in queries.items() if query]
        if self._measurements is None or not asked:
            return {}
        found: dict[str, dict[str, float]] = {region: {} for region in self._regions}
        failures: list[str] = []
        for name, (query, together, allowed) in queries.items():
            if not query:
                continue
            values = self._by_region(query, together, allowed)
            if isinstance(values, Unknown):
                failures.append(values.reason)
                continue
            for region, value in values.items():
                found[region][name] = value
        if len(failures) == len(asked):
            return dict.fromkeys(self._regions, Unknown(failures[0]))
        for reason in failures:
            log.warning("a query was not answered", extra={"error": reason})
        return {region: Outside(**values) for region, values in found.items()}

    def late(self) -> dict[str, Outside | Unknown]:
        """What is to be said where there was no time for `outside`."""
        if self._measurements is None:
            return {}
        reason = f"{self._measurements.url} did not answer in time"
        return dict.fromkeys(self._regions, Unknown(reason))

    def load_by_model(self) -> dict[str, float]:
        """Requests a second by model, over all regions, where the load query tells models apart;
        empty where it does not, or is not answered."""
        query = self._objective.load_query
        if self._measurements is None or not query:
            return {}
        try:
            samples = self._measurements.instant(self._in_words(query))
        except MlplatformError as error:
            log.info("the load of models is not known", extra={"error": str(error)})
            return {}
        load: dict[str, float] = {}
        for sample in samples:
            model = sample.labels.get("model")
            if model and _positive(sample.value):
                load[model] = load.get(model, 0.0) + sample.value
        return load

    def loads(
        self, *, route: str | None = None, before_seconds: float = 0.0
    ) -> dict[str, Load | Unknown]:
        """Each region's load now and its peak: the highest of the hour that ended
        `before_seconds` ago, when the fault began, and of the same hour a week earlier.

        Of one `route`, where the load query tells routes apart by a label of that name; else what
        enters a region counts for every route."""
        query = self._objective.load_query
        if self._measurements is None or not query:
            reason = "no Prometheus" if self._measurements is None else "no load_query"
            return dict.fromkeys(self._regions, Unknown(f"the topology names {reason}"))
        now = self._by_region(query, sum, _positive, route)
        hours = {
            "last hour": self._peak_query(query, before_seconds),
            "same hour last week": self._peak_query(query, before_seconds + 7 * 86_400),
        }
        peaks = {name: self._by_region(each, sum, _positive, route) for name, each in hours.items()}
        answers = [now, *peaks.values()]
        unknown = [each for each in answers if isinstance(each, Unknown)]
        if len(unknown) == len(answers):
            return dict.fromkeys(self._regions, unknown[0])
        return {region: _load(region, now, peaks) for region in self._regions}

    def peak(self, region: str, *, before_seconds: float = 0.0) -> float | None:
        """`loads`, the peak of one region; None where it is not known."""
        load = self.loads(before_seconds=before_seconds).get(region)
        return load.peak if isinstance(load, Load) else None

    def lags(self) -> dict[str, float | Unknown]:
        """Seconds by which each region's data is behind; empty where the topology has no query."""
        query = self._objective.lag_query
        if self._measurements is None or not query:
            return {}
        values = self._by_region(query, _most, _positive)
        if isinstance(values, Unknown):
            return dict.fromkeys(self._regions, values)
        none = Unknown("the lag query gives no number")
        return {region: values.get(region, none) for region in self._regions}

    def _by_region(
        self,
        query: str,
        together: Together,
        allowed: Allowed,
        route: str | None = None,
    ) -> dict[str, float] | Unknown:
        """The answer by region. `together` makes one number of several samples of a region."""
        measurements = self._measurements
        if measurements is None:
            return Unknown("the topology names no Prometheus")
        try:
            samples = measurements.instant(self._in_words(query))
        except MlplatformError as error:
            return Unknown(str(error))
        several: dict[str, list[float]] = {}
        for sample in self._of_regions(samples, route):
            several.setdefault(sample.labels[self._label], []).append(sample.value)
        values = {region: together(each) for region, each in several.items()}
        return {region: value for region, value in values.items() if allowed(value)}

    def _of_regions(self, samples: Iterable[Measured], route: str | None) -> Iterable[Measured]:
        for each in samples:
            mine = route is None or each.labels.get("route", route) == route
            if mine and each.labels.get(self._label) in self._regions:
                yield each

    def _in_words(self, query: str) -> str:
        """The query with its window; what else has a `$` is left alone."""
        return Template(query).safe_substitute(window=_duration(self._objective.window_seconds))

    def _peak_query(self, query: str, before_seconds: float) -> str:
        # A subquery, so that any expression will do, not only a recorded series.
        offset = f" offset {_duration(before_seconds)}" if before_seconds > 0 else ""
        return f"max_over_time(({query})[1h:{_HOUR_STEP}]{offset})"


def _load(
    region: str,
    now: dict[str, float] | Unknown,
    peaks: Mapping[str, dict[str, float] | Unknown],
) -> Load:
    known = {
        name: values[region]
        for name, values in peaks.items()
        if not isinstance(values, Unknown) and region in values
    }
    source = max(known, key=lambda name: known[name], default="")
    return Load(
        now=None if isinstance(now, Unknown) else now.get(region),
        peak=known.get(source),
        source=source,
    )


def _one(values: list[float]) -> float:
    """The value of a region that has one. Which of several is meant nobody knows."""
    return values[0] if len(values) == 1 else math.nan


def _most(values: list[float]) -> float:
    """The greatest; none at all if one of them is no number."""
    return max(values) if all(map(math.isfinite, values)) else math.nan


def _ratio(value: float) -> bool:
    return 0 <= value <= 1


def _positive(value: float) -> bool:
    return 0 <= value < math.inf


def _duration(seconds: float) -> str:
    """As PromQL writes it, which has no fractions."""
    return f"{max(1, round(seconds * 1000))}ms"
