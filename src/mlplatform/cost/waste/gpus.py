"""How busy GPUs were over the last day, out of monitoring.

DCGM's exporter is asked first (`DCGM_FI_PROF_GR_ENGINE_ACTIVE`, the share of time in which the
graphics or compute engine was active), then the model server's own gauge. A GPU counts only if it
was measured a day ago too: one that was added this morning has had no time, and one that is not
measured is not idle.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isfinite

from mlplatform.cost.waste.findings import Load
from mlplatform.ports.measurements import Measured, Measurements


@dataclass(frozen=True, slots=True)
class Gauge:
    """A metric of how busy a GPU is, 0 to 1, and the labels that name it."""

    metric: str
    node: Sequence[str]
    product: str

    @property
    def query(self) -> str:
        """The mean over a day, of what was there a day ago."""
        return f"avg_over_time({self.metric}[1d]) and {self.metric} offset 1d"


GAUGES = (
    Gauge("DCGM_FI_PROF_GR_ENGINE_ACTIVE", ("Hostname", "node", "instance"), "modelName"),
    Gauge("model_serving_gpu_utilization_ratio", ("node", "instance"), "gpu_name"),
)


def read_loads(measurements: Measurements, region_label: str) -> list[Load]:
    """How busy each node's GPUs were, by the first gauge that says anything. The errors of the
    port."""
    for gauge in GAUGES:
        found = loads_of(measurements.instant(gauge.query), gauge, region_label)
        if found:
            return found
    return []


def loads_of(samples: Iterable[Measured], gauge: Gauge, region_label: str) -> list[Load]:
    """Samples by node. What is no number, or out of its range, is left out with its node: half of
    what a node does is not known."""
    nodes: dict[tuple[str | None, str], list[Measured]] = {}
    for sample in samples:
        name = next((sample.labels[each] for each in gauge.node if sample.labels.get(each)), None)
        if name is not None:
            region = sample.labels.get(region_label) or None
            nodes.setdefault((region, name), []).append(sample)
    return [
        Load(
            node=name,
            region=region,
            products=tuple(
                each.labels.get(gauge.product, "").strip().replace(" ", "-") for each in several
            ),
            busy_ratio=sum(each.value for each in several) / len(several),
            evidence=gauge.query,
        )
        for (region, name), several in sorted(nodes.items(), key=str)
        if all(isfinite(each.value) and 0 <= each.value <= 1 for each in several)
    ]
