"""GPU-hours out of monitoring: what there was, who had it, what stood by, and what was busy. Pure.

Every five minutes each node is looked at by itself:

    GPUs         what it has for pods
    allocated    what pods on it have asked for
    warm         of these, what is held by servers all of whose models are served by routes, and
                 whose region has no weight in any of them: warm standby. A pod of which monitoring
                 knows no model is no standby, and neither is a model that no route serves
    busy         the sum of its GPUs' utilisation, if every one of them was measured

What one of these is not known of is not known then: it is summed apart, and never taken for zero.
What is busy is taken to be what is allocated and not warm, since exporters tell GPUs by their
number and not always by whom they belong to; it is never more than that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from math import isfinite

from mlplatform.core.seen import Unknown
from mlplatform.core.topology import Topology
from mlplatform.cost.gpus.readings import Read, Readings, lines_of
from mlplatform.ports.measurements import Line

NODE = ("node", "kubernetes_node", "exported_node", "Hostname", "instance")
"""Labels that may name a node, by who scrapes whom. Exporters in pods may state the pod's name as
`Hostname` (dcgm-exporter, issue 58), so that the one counts that names a node."""
GPU = ("UUID", "gpu", "device")
PRODUCT = ("label_nvidia_com_gpu_product", "label_cloud_google_com_gke_accelerator")
MEASURED_PRODUCT = ("modelName", "gpu_name")
_MACHINE = ("label_node_kubernetes_io_instance_type", "label_beta_kubernetes_io_instance_type")
REGION = ("label_topology_kubernetes_io_region", "label_failure_domain_beta_kubernetes_io_region")


@dataclass(frozen=True, slots=True)
class Naming:
    """What the topology knows that monitoring does not."""

    region_label: str
    regions: Mapping[str, str] = field(default_factory=dict)
    """Names here by what bills and clouds call a region, in small letters."""
    model_label: str = "model"
    routes: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """By model: the routes that serve it."""

    def region(self, told: str) -> str:
        """A region's name here."""
        return self.regions.get(told.lower(), told)


def naming_of(topology: Topology, regions: Mapping[str, str]) -> Naming:
    """What a topology knows. `regions`: its names by those of bills, in small letters."""
    routes: dict[str, set[str]] = {}
    for name, route in topology.traffic.routes.items():
        for model in route.models:
            routes.setdefault(model, set()).add(name)
    return Naming(
        topology.prometheus.region_label if topology.prometheus else "region",
        regions,
        topology.cost.counters.model_label,
        {model: frozenset(several) for model, several in routes.items()},
    )


@dataclass(frozen=True, slots=True, order=True)
class Kind:
    """Nodes that are alike."""

    region: str
    """Empty: nobody says where."""
    product: str
    """Of the GPUs, as Kubernetes labels its nodes: `NVIDIA-L4`. Empty: nobody says which."""
    machine: str
    """The instance type, as bills name it."""

    def __str__(self) -> str:
        named = " ".join(each for each in (self.machine, self.product) if each)
        return f"{self.region or '(no region)'} {named or '(unnamed GPU)'}"


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a node at a time."""

    allocated: bool
    warm: bool
    busy: bool


@dataclass(slots=True)
class Hours:
    """Sums over nodes and times of which the same is known; what is not is 0 here."""

    machines: float = 0.0
    gpus: float = 0.0
    allocated: float = 0.0
    warm: float = 0.0
    busy: float = 0.0


@dataclass(slots=True)
class GpuHours:
    """What was seen of GPUs over some days."""

    kinds: dict[Kind, dict[Known, Hours]] = field(default_factory=dict)
    hours_seen: float = 0.0
    """In which any node with GPUs was seen."""
    unread: dict[str, str] = field(default_factory=dict)
    """What nobody says, and why: by query, once."""

    def add(self, readings: Readings, naming: Naming, step_seconds: float) -> None:
        """Count some more hours."""
        look = Look(readings, naming)
        for name, reason in look.unread():
            self.unread.setdefault(name, reason)
        hours = step_seconds / 3600
        seen: set[int] = set()
        counted: dict[tuple[Kind, Known], Hours] = {}  # in steps, which add up without a rest
        for node, there in look.nodes.items():
            kind = look.kind(node)
            for at, gpus in there.items():
                seen.add(at)
                allocated, warm = look.allocated(node, at, gpus), look.warm(node, at, gpus)
                busy = look.busy(node, at, gpus)
                if busy is not None:
                    busy = min(busy, gpus if allocated is None else allocated - (warm or 0.0))
                key = Known(allocated is not None, warm is not None, busy is not None)
                steps = counted.setdefault((kind, key), Hours())
                steps.machines += 1
                steps.gpus += gpus
                steps.allocated += allocated or 0.0
                steps.warm += warm or 0.0
                steps.busy += busy or 0.0
        for (kind, key), steps in counted.items():
            sums = self.kinds.setdefault(kind, {}).setdefault(key, Hours())
            for each in fields(Hours):
                before = getattr(sums, each.name)
                setattr(sums, each.name, before + getattr(steps, each.name) * hours)
        self.hours_seen += len(seen) * hours


Node = tuple[str, str]
"""The region as series have it, and the node's name."""
_Pod = tuple[str, str]
"""Namespace and name."""


class Look:
    """One set of readings, put in order by node and time."""

    def __init__(self, readings: Readings, naming: Naming) -> None:
        self._naming = naming
        self._readings = readings
        self.nodes: dict[Node, dict[int, float]] = {}
        for line in lines_of(readings.allocatable):
            if name := line.labels.get("node"):
                there = self.nodes.setdefault((self._raw_region(line), name), {})
                for at, value in _numbers(line):
                    if value > 0:
                        there[at] = max(value, there.get(at, 0.0))
        self._by_name: dict[str, list[Node]] = {}
        for each in self.nodes:
            self._by_name.setdefault(each[1], []).append(each)
        self._labels = {
            node: line.labels
            for line in lines_of(readings.labels)
            if (node := self._node_of(line.labels)) is not None
        }
        self._measured, self._products = self._measured_of()
        self._kinds = {node: self._kind_of(node) for node in self.nodes}
        self._requests = self._requests_of()
        self._models, self._regions_with_servers = self._servers_of()
        self._weights = self._weights_of()

    # ---------------------------------------------------------------------------- what is told

    def kind(self, node: Node) -> Kind:
        """Where and what it is."""
        return self._kinds[node]

    def allocated(self, node: Node, at: int, gpus: float) -> float | None:
        """None: nobody says what pods there have asked for."""
        pods = self._requests.get(node, {}).get(at)
        return None if pods is None else min(gpus, sum(pods.values()))

    def warm(self, node: Node, at: int, gpus: float) -> float | None:
        """GPUs that wait for a failover; None: nobody can say."""
        pods = self._requests.get(node, {}).get(at)
        if pods is None:
            return None
        held = 0.0
        for pod, count in pods.items():
            if count <= 0:
                continue
            standby = self._is_standby(node, pod, at)
            if standby is None:
                return None
            held += count if standby else 0.0
        return min(gpus, held)

    def busy(self, node: Node, at: int, gpus: float) -> float | None:
        """None: not every GPU was measured."""
        measured = self._measured.get(node, {}).get(at)
        if measured is None:
            return None
        if set(measured) == {""}:
            return measured[""] * gpus  # the mean of the node
        return sum(measured.values()) if len(measured) >= gpus else None

    def unread(self) -> Iterator[tuple[str, str]]:
        """Queries that gave nothing where something was to be expected, each with why."""
        read = self._readings
        wanted: dict[str, tuple[Read, bool]] = {
            "allocatable": (read.allocatable, True),
            "requested": (read.requested, bool(self.nodes)),
            "utilisation": (read.utilisation, bool(self.nodes)),
            "servers": (read.servers, bool(self.nodes and self._naming.routes)),
            "weights": (read.weights, bool(self.nodes and self._naming.routes)),
            "labels": (read.labels, bool(self.nodes)),
        }
        for name, (lines, expected) in wanted.items():
            if isinstance(lines, Unknown):
                yield name, lines.reason
            elif expected and not lines:
                yield name, f"cost.gpus.{name}: no sample"
        if self.nodes and not self._measured and lines_of(read.utilisation):
            said = "its samples name no node that has GPUs; give them the label `node`"
            yield "utilisation", f"cost.gpus.utilisation: {said}"
        if self._naming.routes and not self._models and lines_of(read.servers):
            yield "servers", "cost.gpus.servers: its samples name no model and no pod"

    # ---------------------------------------------------------------------------- by node, time

    def _raw_region(self, line: Line) -> str:
        return line.labels.get(self._naming.region_label, "")

    def _node_of(self, labels: Mapping[str, str]) -> Node | None:
        """The node with GPUs that a series is about."""
        region = labels.get(self._naming.region_label, "")
        for label in NODE:
            name = labels.get(label, "")
            if (region, name) in self.nodes:
                return region, name
            several = self._by_name.get(name, [])
            if len(several) == 1 and not (region and several[0][0]):
                return several[0]
        return None

    def _kind_of(self, node: Node) -> Kind:
        labels = self._labels.get(node, {})
        region = node[0] or first_of(labels, REGION)
        product = first_of(labels, PRODUCT) or self._products.get(node, "")
        return Kind(self._naming.region(region), product, first_of(labels, _MACHINE))

    def _requests_of(self) -> dict[Node, dict[int, dict[_Pod, float]]]:
        found: dict[Node, dict[int, dict[_Pod, float]]] = {}
        for line in lines_of(self._readings.requested):
            node = self._node_of(line.labels)
            if node is None:
                continue
            pod = _pod_of(line.labels)
            times = found.setdefault(node, {})
            for at, value in _numbers(line):
                times.setdefault(at, {})[pod] = value
        return found

    def _servers_of(
        self,
    ) -> tuple[dict[tuple[str, _Pod], dict[int, set[str]]], dict[str, set[int]]]:
        """The models of each pod by time; and when anything was known of a region's pods."""
        models: dict[tuple[str, _Pod], dict[int, set[str]]] = {}
        regions: dict[str, set[int]] = {}
        for line in lines_of(self._readings.servers):
            region = self._naming.region(self._raw_region(line))
            model = line.labels.get(self._naming.model_label, "")
            pod = _pod_of(line.labels)
            if not model or not pod[1]:
                continue
            for at, _ in _numbers(line):
                models.setdefault((region, pod), {}).setdefault(at, set()).add(model)
                regions.setdefault(region, set()).add(at)
        return models, regions

    def _models_of(self, region: str, pod: _Pod, at: int) -> set[str] | None:
        """What a pod holds. Not every scrape says where, nor in which namespace."""
        for place in (region, ""):
            for name in (pod, ("", pod[1])):
                if found := self._models.get((place, name), {}).get(at):
                    return found
        return None

    def _weights_of(self) -> dict[str, dict[int, dict[str, float]]]:
        """By route and time: what each region has."""
        found: dict[str, dict[int, dict[str, float]]] = {}
        for line in lines_of(self._readings.weights):
            # The label that a scrape's own would hide (prometheus.io, `honor_labels`).
            region = line.labels.get("exported_region") or line.labels.get("region", "")
            route = line.labels.get("route", "")
            if not region or not route:
                continue
            for at, value in _numbers(line):
                there = found.setdefault(route, {}).setdefault(at, {})
                name = self._naming.region(region)
                there[name] = max(value, there.get(name, 0.0))
        return found

    def _is_standby(self, node: Node, pod: _Pod, at: int) -> bool | None:
        """Whether a pod's GPUs wait for a failover; None where nobody can say."""
        if not self._naming.routes:
            return False
        region = self.kind(node).region
        models = self._models_of(region, pod, at)
        if models is None:
            known = any(at in self._regions_with_servers.get(each, ()) for each in (region, ""))
            return False if known and pod[1] else None
        told = [self._without_weight(model, region, at) for model in models]
        if False in told:
            return False
        return None if None in told else True

    def _without_weight(self, model: str, region: str, at: int) -> bool | None:
        routes = self._naming.routes.get(model)
        if not routes:
            return False
        weights = [self._weights.get(route, {}).get(at) for route in routes]
        if any(each is not None and each.get(region, 0.0) > 0 for each in weights):
            return False
        return None if None in weights else True

    def _measured_of(
        self,
    ) -> tuple[dict[Node, dict[int, dict[str, float]]], dict[Node, str]]:
        """How busy each GPU of a node was, by time; and what the exporter calls it."""
        found: dict[Node, dict[int, dict[str, float]]] = {}
        products: dict[Node, str] = {}
        for line in lines_of(self._readings.utilisation):
            node = self._node_of(line.labels)
            if node is None:
                continue
            name = first_of(line.labels, MEASURED_PRODUCT).strip().replace(" ", "-")
            if name:
                products[node] = name
            gpu = first_of(line.labels, GPU)
            times = found.setdefault(node, {})
            for at, value in _numbers(line):
                # One out of its range is in another unit than it seems: nothing is known by it.
                if 0 <= value <= 1:
                    there = times.setdefault(at, {})
                    there[gpu] = max(value, there.get(gpu, 0.0))
        return found, products


def _numbers(line: Line) -> Iterator[tuple[int, float]]:
    return ((round(at), value) for at, value in line.samples if isfinite(value))


def first_of(labels: Mapping[str, str], names: Iterable[str]) -> str:
    """The first of these labels that says anything."""
    return next((labels[name] for name in names if labels.get(name)), "")


def _pod_of(labels: Mapping[str, str]) -> _Pod:
    return labels.get("namespace", ""), labels.get("pod", "")
