"""Prometheus metrics, under the names that dashboards and runbooks know. A model's children are
bound once, when it is loaded: looking them up costs more than counting."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (
    *(0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.035, 0.05, 0.075),
    *(0.1, 0.15, 0.2, 0.35, 0.5, 1.0, 2.5, 5.0, 10.0),
)
"""From half a millisecond; close together around 100 ms, the usual target."""
_LOAD_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_LABELS = ("region", "model", "version")
CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, slots=True)
class ModelMetrics:
    """Those of one version. Counts are of inferences that were let in."""

    requests: Counter
    failures: Counter
    request_seconds: Histogram
    queue_seconds: Histogram
    compute_seconds: Histogram


class Metrics:
    """All that `/metrics` states."""

    def __init__(self, region: str) -> None:
        self._region = region
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "model_serving_requests", "Inferences answered.", _LABELS, registry=self.registry
        )
        self._failures = Counter(
            "model_serving_failures",
            "Inferences refused or failed.",
            _LABELS,
            registry=self.registry,
        )
        self._request_seconds = Histogram(
            "model_serving_request_duration_seconds",
            "From the last byte of a request to the first of its answer.",
            _LABELS,
            registry=self.registry,
            buckets=_SECONDS,
        )
        self._queue_seconds = Histogram(
            "model_serving_queue_duration_seconds",
            "Waiting for the executor.",
            _LABELS,
            registry=self.registry,
            buckets=_SECONDS,
        )
        self._compute_seconds = Histogram(
            "model_serving_compute_duration_seconds",
            "In the model (inference_time).",
            _LABELS,
            registry=self.registry,
            buckets=_SECONDS,
        )
        self._depth = Gauge(
            "inference_queue_depth",
            "Inferences waiting or running.",
            _LABELS,
            registry=self.registry,
        )
        self.load_seconds = Histogram(
            "model_load_duration_seconds",
            "Reading, verifying and loading a version.",
            ("model", "version"),
            registry=self.registry,
            buckets=_LOAD_SECONDS,
        )
        self.load_failures = Counter(
            "model_load_failures",
            "Loads that failed.",
            ("model", "version"),
            registry=self.registry,
        )

    def of_model(self, model: str, version: str, pending: Callable[[], int]) -> ModelMetrics:
        """A version's own; `pending` is asked when metrics are."""
        labels = (self._region, model, version)
        self._depth.labels(*labels).set_function(pending)
        return ModelMetrics(
            self._requests.labels(*labels),
            self._failures.labels(*labels),
            self._request_seconds.labels(*labels),
            self._queue_seconds.labels(*labels),
            self._compute_seconds.labels(*labels),
        )

    def forget(self, model: str, version: str) -> None:
        """A version that is gone has no queue. What it has done stays: counters never go back."""
        self._depth.remove(self._region, model, version)

    def encoded(self) -> bytes:
        """As Prometheus reads it."""
        return generate_latest(self.registry)
