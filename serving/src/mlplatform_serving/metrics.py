"""Prometheus metrics, under the names that dashboards and runbooks know.

They are a view of the statistics that the server keeps anyway, made when somebody asks: counting in
the client library's own objects costs an inference as much as parsing it does.
"""

from __future__ import annotations

from collections import Counter as Counts
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from mlplatform_serving.models.statistics import SECONDS, SIZES, Sizes, Spent, Statistics

_LOAD_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_VERSION = ("model", "version")
_LABELS = ("region", *_VERSION)
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
            _VERSION,
            registry=self._registry,
            buckets=_LOAD_SECONDS,
        )
        self.load_failures = self._counter("model_load_failures", "Loads that failed.", *_VERSION)
        self.loaded_bytes = self._counter(
            "model_load_bytes", "Bytes read and verified in loads.", *_VERSION
        )
        self.evictions = self._counter(
            "model_evictions", "Versions that were unloaded to make room.", *_VERSION
        )
        self.unload_freed_bytes = self._counter(
            "model_unload_freed_bytes", "Resident memory less after unloading.", *_VERSION
        )
        self.model_bytes = self._gauge(
            "model_serving_model_memory_bytes", "What a loaded version takes.", *_VERSION, "memory"
        )
        """`memory` is `host` or `gpu`, here and below."""
        self.memory_used_bytes = self._gauge(
            "model_serving_memory_used_bytes", "What the breaker looks at.", "memory"
        )
        self.memory_limit_bytes = self._gauge(
            "model_serving_memory_limit_bytes", "Beyond this the breaker opens.", "memory"
        )
        self.breaker_open = self._gauge(
            "model_serving_memory_breaker_open", "1 while inferences are shed for it.", "memory"
        )
        self.ready = self._gauge("model_serving_ready", "1 when readiness says so.")
        self.loop_lag_seconds = self._gauge(
            "model_serving_event_loop_lag_seconds",
            "How late a timer was; everything that is answered waits so long.",
        )
        self.connections = self._gauge("model_serving_connections", "Open connections.")
        self.connections_ended = self._counter(
            "model_serving_connections_ended",
            "Connections that the server ended to protect itself.",
            "reason",
        )
        self.answers: Counts[int] = Counts()
        """HTTP answers by status."""
        self._registry.register(_Answers(self.answers))
        ProcessCollector(registry=self._registry)

    def _counter(self, name: str, told: str, *labels: str) -> Counter:
        return Counter(name, told, labels, registry=self._registry)

    def _gauge(self, name: str, told: str, *labels: str) -> Gauge:
        return Gauge(name, told, labels, registry=self._registry)

    def register(self, collector: Collector) -> None:
        """State what this one collects too."""
        self._registry.register(collector)

    def follow(self, model: str, version: str, statistics: Statistics, pending: Pending) -> None:
        """State these of a version from now on."""
        self._models.followed[model, version] = (statistics, pending)

    def forget(self, model: str, version: str) -> None:
        """A version that is gone has nothing to state."""
        self._models.followed.pop((model, version), None)

    def encoded(self) -> bytes:
        """As Prometheus reads it."""
        return generate_latest(self._registry)


class _Answers(Collector):
    def __init__(self, answers: Counts[int]) -> None:
        self._answers = answers

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        answers = CounterMetricFamily(
            "model_serving_http_answers", "HTTP answers of every kind.", labels=("status",)
        )
        for status, count in sorted(self._answers.items()):
            answers.add_metric((str(status),), count)
        yield answers


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
        batch = HistogramMetricFamily(
            "model_serving_batch_size", "What the model was given at a time.", labels=_LABELS
        )
        formed = CounterMetricFamily(
            "model_serving_batches",
            "Batches, by why each was formed as it was.",
            labels=(*_LABELS, "because"),
        )
        shed = CounterMetricFamily(
            "model_serving_shed",
            "Inferences refused to keep the rest in time.",
            labels=(*_LABELS, "reason"),
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
                histogram.add_metric(labels, _buckets(SECONDS, spent), spent.ns / 1e9)
            sizes = statistics.batches
            batch.add_metric(labels, _buckets(SIZES, sizes), sizes.total)
            for because, count in statistics.because.items():
                formed.add_metric((*labels, because), count)
            for reason, count in statistics.shed.items():
                shed.add_metric((*labels, reason), count)
        yield from (answered, failed, shed, depth, whole, queue, compute, batch, formed)


def _buckets(bounds: Iterable[float], counted: Spent | Sizes) -> list[tuple[str, float]]:
    """Upper bounds, and how many were at most that; as Prometheus has them, each holds the last."""
    total, buckets = 0, []
    for bound, count in zip((*map(str, bounds), "+Inf"), counted.buckets, strict=True):
        total += count
        buckets.append((bound, float(total)))
    return buckets
