"""Two days of GPUs in three regions, as kube-state-metrics, DCGM's exporter, the model servers and
`failover watch` tell Prometheus: 4 GPUs a node.

    us-east-1  us-a   a server of resnet50 on all 4, half busy, until noon of the second day
               us-b   a training job on 2, all of the time; a job that has ended still names 4
    eu-west-1  eu-a   a server of resnet50 on all 4 that stands by until that noon, then a quarter
                      busy
    ap-southeast-1
               ap-a   nobody has asked for any of its GPUs

At that noon route `api` is moved from us-east-1 to eu-west-1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import cache

STEP_SECONDS = 300
DAYS = 2
STEPS = DAYS * 86_400 // STEP_SECONDS
NOON = STEPS * 3 // 4

US, EU, AP = "us-east-1", "eu-west-1", "ap-southeast-1"
Value = Callable[[int], float | None]
"""Of a step; None: not scraped."""


@cache
def midnight() -> datetime:
    """The last one, and the same when another comes while the tests run."""
    return datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


@dataclass(frozen=True)
class Series:
    """One, with its value at each step."""

    metric: str
    labels: Mapping[str, str]
    value: Value = lambda step: 1.0


@dataclass
class World:
    """What is scraped; tests leave some of it out."""

    region_label: str = "region"
    product: bool = True
    """Whether kube-state-metrics may state the labels of nodes."""
    without: frozenset[str] = field(default_factory=frozenset)
    """Metrics that nobody exports."""

    def series(self) -> Iterator[Series]:
        """Everything."""
        for each in self._all():
            if each.metric not in self.without:
                yield each

    def text(self, until: datetime) -> str:
        """OpenMetrics text of the two days that end then."""
        end = int(until.timestamp())
        lines = []
        for each in self.series():
            labels = ",".join(f'{name}="{value}"' for name, value in each.labels.items())
            for step in range(STEPS + 1):
                value = each.value(step)
                if value is not None:
                    at = end - (STEPS - step) * STEP_SECONDS
                    lines.append(f"{each.metric}{{{labels}}} {value:g} {at}")
        return "\n".join([*lines, "# EOF"]) + "\n"

    def _all(self) -> Iterator[Series]:
        yield from self._node("us-a", US, "g5.12xlarge", "NVIDIA A10G", serving(0.5))
        yield from self._node("us-b", US, "g5.12xlarge", "NVIDIA A10G", lambda gpu, _: gpu < 2)
        yield from self._node("eu-a", EU, "g6.12xlarge", "NVIDIA L4", serving(0.25, after=True))
        yield from self._node("ap-a", AP, "g6.12xlarge", "NVIDIA L4", lambda gpu, step: 0.0)
        yield from self._pod("agent-1", "ap-a", AP, 0, "Running")
        yield from self._pod("serve-1", "us-a", US, 4, "Running")
        yield from self._pod("train-1", "us-b", US, 2, "Running")
        yield from self._pod("done-1", "us-b", US, 4, "Succeeded")
        yield from self._pod("serve-2", "eu-a", EU, 4, "Running")
        for pod, region in (("serve-1", US), ("serve-2", EU)):
            place = {"namespace": "ml", "pod": pod, "model": "resnet50", "version": "v1"}
            yield Series(
                "model_serving_requests_total", {**place, self.region_label: region}, float
            )
        for region, first in ((US, 100.0), (EU, 0.0)):
            labels = {"route": "api", "region": region}
            yield Series("mlplatform_route_weight", labels, moved(first, 100.0 - first))

    def _node(
        self, name: str, region: str, machine: str, product: str, busy: Callable[[int, int], float]
    ) -> Iterator[Series]:
        there = {"node": name, self.region_label: region}
        allocatable = {"resource": "nvidia_com_gpu", "unit": "integer"}
        yield Series("kube_node_status_allocatable", there | allocatable, lambda step: 4.0)
        yield Series("kube_node_status_allocatable", there | {"resource": "cpu"}, lambda step: 48.0)
        if self.product:
            known = {
                "label_nvidia_com_gpu_product": product.replace(" ", "-"),
                "label_node_kubernetes_io_instance_type": machine,
            }
            yield Series("kube_node_labels", there | known)
        for gpu in range(4):
            labels = {"Hostname": name, "gpu": str(gpu), "UUID": f"GPU-{name}-{gpu}"}
            labels |= {"modelName": product, self.region_label: region}

            def used(step: int, gpu: int = gpu) -> float:
                return 100.0 * busy(gpu, step)

            yield Series("DCGM_FI_DEV_GPU_UTIL", labels, used)

    def _pod(self, name: str, node: str, region: str, gpus: int, phase: str) -> Iterator[Series]:
        pod = {"namespace": "ml", "pod": name, self.region_label: region}
        asked = pod | {"container": "main", "node": node}
        for resource, count in (("nvidia_com_gpu", gpus), ("cpu", 4)):
            if not count:
                continue
            yield Series(
                "kube_pod_container_resource_requests",
                asked | {"resource": resource},
                lambda step, count=count: float(count),  # type: ignore[misc]
            )
        for each in ("Pending", "Running", "Succeeded", "Failed", "Unknown"):
            yield Series(
                "kube_pod_status_phase",
                pod | {"phase": each},
                lambda step, each=each: float(each == phase),  # type: ignore[misc]
            )


def moved(before: float, after: float) -> Value:
    """One value until the noon of the second day, and another from then on."""
    return lambda step: before if step <= NOON else after


def serving(share: float, *, after: bool = False) -> Callable[[int, int], float]:
    """Busy by that share until noon, or after it."""
    return lambda gpu, step: share if (step > NOON) == after else 0.0


def days_until(today: date) -> list[date]:
    """The two days."""
    return [today - timedelta(days=each) for each in range(DAYS, 0, -1)]
