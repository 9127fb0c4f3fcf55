"""Prometheus metrics, under the names that dashboards and runbooks know.

They are a view of the statistics that the server keeps anyway, made when somebody asks: counting in
the client library's own objects costs an inference as much as parsing it does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from mlplatform_serving.models.statistics import SECONDS, Spent, Statistics

_LOAD_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_LABELS = ("region", "model", "version")
CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"

Pending = Callable[[], int]


class Metrics:
    """All that `/metrics` states. Counters of a version begin at 0 when it is loaded."""

    def __init__(self, region: str) -> None:
        self._registry = CollectorRegistry()
        self._models = _Models(region)
        self._registry.register(self._models)
        self.load_seconds = Histogram(
            "model_load_duration_seconds",
            "Reading, verifying and loading a version.",
            ("model", "version"),
            registry=self._registry,
            buckets=_LOAD_SECONDS,
        )
        self.load_failures = Counter(
            "model_load_failures",
            "Loads that failed.",
            ("model", "version"),
            registry=self._registry,
        )

    def follow(self, model: str, version: str, statistics: Statistics, pending: Pending) -> None:
        """State these of a version from now on."""
        self._models.followed[model, version] = (statistics, pending)

    def forget(self, model: str, version: str) -> None:
        """A version that is gone has nothing to state."""
        self._models.followed.pop((model, version), None)

    def encoded(self) -> bytes:
        """As Prometheus reads it."""
        return generate_latest(self._registry)


class _Models(Collector):
    def __init__(self, region: str) -> None:
        self._region = region
        self.followed: dict[tuple[str, str], tuple[Statistics, Pending]] = {}

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        """Every metric of every version."""
        answered = CounterMetricFamily(
            "model_serving_requests", "Inferences answered.", labels=_LABELS
        )
        failed = CounterMetricFamily(
            "model_serving_failures", "Inferences refused or failed.", labels=_LABELS
        )
        depth = GaugeMetricFamily(
            "inference_queue_depth", "Inferences waiting or running.", labels=_LABELS
        )
        whole = HistogramMetricFamily(
            "model_serving_request_duration_seconds",
            "From the last byte of a request to its answer.",
            labels=_LABELS,
        )
        queue = HistogramMetricFamily(
            "model_serving_queue_duration_seconds", "Waiting for the executor.", labels=_LABELS
        )
        compute = HistogramMetricFamily(
            "model_serving_compute_duration_seconds",
            "In the model (inference_time).",
            labels=_LABELS,
        )
        for (model, version), (statistics, pending) in self.followed.items():
            labels = (self._region, model, version)
            answered.add_metric(labels, statistics.success.count)
            failed.add_metric(labels, statistics.fail.count)
            depth.add_metric(labels, pending())
            for histogram, spent in (
                (whole, statistics.success),
                (queue, statistics.queue),
                (compute, statistics.compute),
            ):
                histogram.add_metric(labels, _buckets(spent), spent.ns / 1e9)
        yield from (answered, failed, depth, whole, queue, compute)


def _buckets(spent: Spent) -> list[tuple[str, float]]:
    """Upper bounds, and how many were at most that; as Prometheus has them, each holds the last."""
    total, buckets = 0, []
    for bound, count in zip((*map(str, SECONDS), "+Inf"), spent.buckets, strict=True):
        total += count
        buckets.append((bound, float(total)))
    return buckets
