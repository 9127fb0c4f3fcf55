"""What a pod takes, and which nodes take it, as the scheduler has it; what labels say of GPUs."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import pytest

from mlplatform.adapters.kubernetes_gpus import asked_of, devices_of, gpu_of
from mlplatform.adapters.kubernetes_placement import closed_to, quantity, takes
from mlplatform.core.errors import IntegrityError
from mlplatform.ports.ground import GPU

QUANTITIES = {
    "2": "2",
    "500m": "0.5",
    "1Gi": "1073741824",
    "128974848": "128974848",
    "129M": "129000000",
    "1.5Ki": "1536",
    "12e6": "12000000",
    "100u": "0.0001",
    "1E": "1000000000000000000",
}


@pytest.mark.parametrize("text", QUANTITIES)
def test_quantities(text: str) -> None:
    assert quantity(text) == Decimal(QUANTITIES[text])


@pytest.mark.parametrize("text", ["", "1 Gi", "Gi", "1.2.3", "1KB"])
def test_what_is_no_quantity(text: str) -> None:
    with pytest.raises(IntegrityError, match="is no quantity of Kubernetes"):
        quantity(text)


def container(cpu: str, **rest: Any) -> dict[str, Any]:
    return {"resources": {"requests": {"cpu": cpu}}, **rest}


SIDECAR = {"restartPolicy": "Always"}
PODS: dict[str, tuple[dict[str, Any], str]] = {
    "containers together": ({"containers": [container("1"), container("2")]}, "3"),
    "an init container that takes more": (
        {"initContainers": [container("4")], "containers": [container("1")]},
        "4",
    ),
    "an init container that takes less": (
        {"initContainers": [container("1")], "containers": [container("2")]},
        "2",
    ),
    "a sidecar stays": (
        {"initContainers": [container("1", **SIDECAR)], "containers": [container("2")]},
        "3",
    ),
    "an init container after a sidecar": (
        {
            "initContainers": [container("1", **SIDECAR), container("4")],
            "containers": [container("2")],
        },
        "5",
    ),
    "overhead": ({"containers": [container("1")], "overhead": {"cpu": "250m"}}, "1.25"),
    "a limit without a request": ({"containers": [{"resources": {"limits": {"cpu": "3"}}}]}, "3"),
    "a limit above the request": (
        {"containers": [{"resources": {"limits": {"cpu": "3"}, "requests": {"cpu": "1"}}}]},
        "1",
    ),
}


@pytest.mark.parametrize("case", PODS)
def test_what_a_pod_takes(case: str) -> None:
    spec, cpu = PODS[case]
    assert takes(spec) == {"cpu": Decimal(cpu)}


def node(*, taints: list[Any] | None = None, ready: str = "True", **labels: str) -> dict[str, Any]:
    return {
        "metadata": {"name": "gpu-1", "labels": {"zone": "a", "gpus": "4", **labels}},
        "spec": {"taints": taints or []},
        "status": {"conditions": [{"type": "Ready", "status": ready}]},
    }


def affinity(*rules: Mapping[str, Any], key: str = "matchExpressions") -> dict[str, Any]:
    terms = {"nodeSelectorTerms": [{key: list(rules)}]}
    return {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}}


def rule(key: str, operator: str, *values: str) -> dict[str, Any]:
    return {"key": key, "operator": operator, "values": list(values)}


GPU_TAINT = {"key": "nvidia.com/gpu", "value": "true", "effect": "NoSchedule"}
SOFT = {**GPU_TAINT, "effect": "PreferNoSchedule"}
BY_NAME = affinity(rule("metadata.name", "In", "gpu-2"), key="matchFields")
NODES: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "nothing is asked": (node(), {}, ""),
    "its selector": (node(), {"nodeSelector": {"zone": "a"}}, ""),
    "another's": (node(), {"nodeSelector": {"zone": "b"}}, "label zone is a, not b"),
    "a label that it lacks": (node(), {"nodeSelector": {"x": "y"}}, "label x is not there, not y"),
    "one of those": (node(), affinity(rule("zone", "In", "a", "b")), ""),
    "none of those": (node(), affinity(rule("zone", "NotIn", "a")), "no term"),
    "there": (node(), affinity(rule("zone", "Exists")), ""),
    "not there": (node(), affinity(rule("zone", "DoesNotExist")), "no term"),
    "more than": (node(), affinity(rule("gpus", "Gt", "3")), ""),
    "less than": (node(), affinity(rule("gpus", "Lt", "3")), "no term"),
    "both": (node(), affinity(rule("zone", "Exists"), rule("gpus", "Gt", "4")), "no term"),
    "more than what is no number": (node(), affinity(rule("zone", "Gt", "3")), "no term"),
    "by name": (node(), BY_NAME, "no term"),
    "an empty term": (node(), affinity(), "no term"),
    "cordoned": ({**node(), "spec": {"unschedulable": True}}, {}, "it is cordoned"),
    "not ready": (node(ready="Unknown"), {}, "it is not ready"),
    "a taint": (node(taints=[GPU_TAINT]), {}, "taint nvidia.com/gpu=true:NoSchedule"),
    "a taint that only asks": (node(taints=[SOFT]), {}, ""),
    "a toleration": (
        node(taints=[GPU_TAINT]),
        {"tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}]},
        "",
    ),
    "of everything": (node(taints=[GPU_TAINT]), {"tolerations": [{"operator": "Exists"}]}, ""),
    "of another value": (
        node(taints=[GPU_TAINT]),
        {"tolerations": [{"key": "nvidia.com/gpu", "value": "no"}]},
        "do not tolerate",
    ),
    "of another effect": (
        node(taints=[GPU_TAINT]),
        {"tolerations": [{"operator": "Exists", "effect": "NoExecute"}]},
        "do not tolerate",
    ),
}


@pytest.mark.parametrize("case", NODES)
def test_which_nodes_take_it(case: str) -> None:
    body, spec, said = NODES[case]
    why = closed_to(body, spec, spec.get("tolerations") or [])
    assert said in why
    assert bool(said) == bool(why)


LABEL = "nvidia.com/"
LABELS: dict[str, tuple[dict[str, str], GPU]] = {
    "none": ({}, GPU()),
    "as the labels' own page has them": (
        {
            "gpu.product": "A100-SXM4-40GB",
            "gpu.compute.major": "8",
            "gpu.compute.minor": "0",
            "cuda.driver.major": "455",
            "cuda.driver.minor": "06",
            "cuda.driver.rev": "",
            "cuda.runtime.major": "11",
            "cuda.runtime.minor": "1",
        },
        GPU("A100-SXM4-40GB", (8, 0), "455.06", (11, 1)),
    ),
    "newer ones": (
        {
            "cuda.driver-version.full": "550.54.15",
            "cuda.driver.major": "1",
            "cuda.runtime-version.major": "12",
            "cuda.runtime-version.minor": "4",
        },
        GPU(driver="550.54.15", cuda=(12, 4)),
    ),
    "not a number": ({"gpu.compute.major": "eight"}, GPU()),
}


@pytest.mark.parametrize("case", LABELS)
def test_what_labels_say(case: str) -> None:
    labels, gpu = LABELS[case]
    assert gpu_of({f"{LABEL}{key}": value for key, value in labels.items()}) == gpu


def resource_slice(generation: int, *names: str) -> dict[str, Any]:
    devices = [{"name": name, "attributes": {"productName": {"string": name}}} for name in names]
    pool = {"name": "gpu-1", "generation": generation}
    spec = {"driver": "gpu.nvidia.com", "nodeName": "gpu-1", "pool": pool, "devices": devices}
    return {"spec": spec}


def test_devices_of_the_newest_generation() -> None:
    found = devices_of([resource_slice(1, "old"), resource_slice(2, "new", "newer")])
    assert [device for _, _, device in found] == ["new", "newer"]
    assert {on for on, _ in found.values()} == {"gpu-1"}
    two = [device for _, device in found.values()]
    assert gpu_of({}, two) == GPU()  # they differ
    assert gpu_of({}, two[:1]) == GPU("new")


def test_what_a_claim_asks_for() -> None:
    def claim(**request: Any) -> dict[str, Any]:
        return {"devices": {"requests": [{"name": "gpus", **request}]}}

    assert asked_of(claim(exactly={"deviceClassName": "gpu.nvidia.com", "count": 2})) == {
        "gpu.nvidia.com": Decimal(2)
    }
    every = {"deviceClassName": "gpu.nvidia.com", "allocationMode": "All"}
    assert "leaves open" in str(asked_of(claim(exactly=every)))
    assert "leaves open" in str(asked_of(claim(firstAvailable=[])))
