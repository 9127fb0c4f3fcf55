"""Numbers that the control plane counts, for Prometheus.

Counting costs a dictionary look-up and imports nothing: prometheus_client is imported when somebody
wants to read (`install`, `serve`), which a short command never does.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Literal

from mlplatform.core.errors import UsageError

if TYPE_CHECKING:
    from prometheus_client.core import Metric
    from prometheus_client.registry import CollectorRegistry

_families: dict[str, Family] = {}


class Family:
    """One metric with its label names: a counter, or a gauge. Names start with `mlplatform_`."""

    def __init__(
        self,
        name: str,
        documentation: str,
        labels: tuple[str, ...] = (),
        *,
        kind: Literal["counter", "gauge"] = "counter",
    ) -> None:
        self.name = name
        self.documentation = documentation
        self.labels = labels
        self.kind = kind
        self._values: dict[tuple[str, ...], float] = {}
        self._lock = threading.Lock()
        _families[name] = self

    def add(self, amount: float = 1.0, **labels: str) -> None:
        """Count `amount` more."""
        key = self._key(labels)
        with self._lock:
            self._values[key] = self._values.get(key, 0.0) + amount

    def set(self, value: float, **labels: str) -> None:
        """A gauge's value now."""
        with self._lock:
            self._values[self._key(labels)] = value

    def clear(self) -> None:
        """Forget all values: what is no longer known has no sample."""
        with self._lock:
            self._values.clear()

    def replace(self, values: Iterable[tuple[float, dict[str, str]]]) -> None:
        """Forget all values for these, at once: whoever reads meanwhile finds none missing."""
        found = {self._key(labels): value for value, labels in values}
        with self._lock:
            self._values = found

    def value(self, **labels: str) -> float:
        """What was counted so far; 0 where nothing was."""
        with self._lock:
            return self._values.get(self._key(labels), 0.0)

    def samples(self) -> list[tuple[tuple[str, ...], float]]:
        """Label values, in the order of `labels`, each with its value."""
        with self._lock:
            return sorted(self._values.items())

    def _key(self, labels: dict[str, str]) -> tuple[str, ...]:
        if labels.keys() != set(self.labels):
            raise ValueError(f"{self.name} has the labels {self.labels}, not {tuple(labels)}")
        return tuple(labels[name] for name in self.labels)


class _Collector:
    """All families, read when Prometheus asks."""

    def collect(self) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        for family in list(_families.values()):
            kind = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
            metric = kind(family.name, family.documentation, labels=family.labels)
            for values, value in family.samples():
                metric.add_metric(values, value)
            yield metric


def install(registry: CollectorRegistry | None = None) -> None:
    """Let `registry` (by default the process's own) expose every family, later ones too."""
    from prometheus_client import REGISTRY

    (registry or REGISTRY).register(_Collector())


def serve(address: str) -> Callable[[], None]:
    """Serve /metrics at `HOST:PORT`; how to stop. `UsageError` if nobody can listen there."""
    from prometheus_client import start_http_server

    host, _, port = address.rpartition(":")
    if not port.isdigit() or int(port) > 65_535:
        raise UsageError(f"--metrics {address}: not HOST:PORT", hint="e.g. 127.0.0.1:9464")
    install()
    try:
        server, _ = start_http_server(int(port), addr=host or "127.0.0.1")
    except OSError as error:
        raise UsageError(
            f"--metrics {address}: {error.strerror}", hint="choose an address and port of your own"
        ) from error
    return server.shutdown


attempts = Family(
    "mlplatform_attempts_total",
    "Calls to stores and other services, each attempt by itself.",
    ("verb", "result"),
)
settled = Family(
    "mlplatform_settled_total",
    "Conditional writes whose answer was lost, settled by reading back.",
    ("verb", "answer"),
)
