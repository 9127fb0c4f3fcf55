"""What is known of a node's GPUs: labels of GPU feature discovery, and devices of DRA.

GPU feature discovery writes its newer labels (`cuda.driver-version.full`) beside the older ones
(`cuda.driver.major`), of which the second of a version may be empty (NVIDIA/k8s-device-plugin,
docs/gpu-feature-discovery). ResourceSlices (resource.k8s.io/v1) are what drivers of dynamic
resource allocation publish; NVIDIA's calls itself, and its device class, `gpu.nvidia.com`. A pool's
devices are those of its newest generation.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal

from mlplatform.adapters.kubernetes_api import JSON
from mlplatform.ports.ground import GPU

_LABEL = "nvidia.com/"
DeviceKey = tuple[str, str, str]
"""Driver, pool, device."""


def gpu_of(labels: Mapping[str, str], devices: Iterable[JSON] = ()) -> GPU:
    """What labels say of a node's GPUs and, where they are silent, what its devices do."""
    found = [_of_device(each) for each in devices]
    told = set(found)
    device = told.pop() if len(told) == 1 else GPU()
    return GPU(
        product=labels.get(f"{_LABEL}gpu.product") or device.product,
        capability=_pair(labels, "gpu.compute.major", "gpu.compute.minor") or device.capability,
        driver=_driver(labels) or device.driver,
        cuda=_pair(labels, "cuda.runtime-version.major", "cuda.runtime-version.minor")
        or _pair(labels, "cuda.runtime.major", "cuda.runtime.minor")
        or device.cuda,
    )


def devices_of(slices: Iterable[JSON]) -> dict[DeviceKey, tuple[str, JSON]]:
    """Node and description of each device that is on a node; those of a network are nobody's."""
    newest: dict[tuple[str, str], int] = {}
    every = [each["spec"] for each in slices]
    for spec in every:
        pool = (spec["driver"], spec["pool"]["name"])
        newest[pool] = max(newest.get(pool, 0), int(spec["pool"].get("generation", 0)))
    found: dict[DeviceKey, tuple[str, JSON]] = {}
    for spec in every:
        driver, pool = spec["driver"], spec["pool"]["name"]
        if int(spec["pool"].get("generation", 0)) < newest[driver, pool]:
            continue
        for device in spec.get("devices") or ():
            node = spec.get("nodeName") or device.get("nodeName")
            if node:
                found[driver, pool, device["name"]] = (str(node), device)
    return found


def allocated(claims: Iterable[JSON]) -> Iterator[DeviceKey]:
    """Devices that somebody's claim has."""
    for each in claims:
        allocation = (each.get("status") or {}).get("allocation") or {}
        for result in (allocation.get("devices") or {}).get("results") or ():
            if not result.get("adminAccess"):
                yield result["driver"], result["pool"], result["device"]


def asked_of(claim: JSON) -> dict[str, Decimal] | str:
    """How many devices of each class the spec of a claim asks for; or why that cannot be said."""
    found: dict[str, Decimal] = {}
    for request in (claim.get("devices") or {}).get("requests") or ():
        exactly = request.get("exactly")
        if exactly is None or exactly.get("allocationMode", "ExactCount") != "ExactCount":
            return f"its request {request['name']} leaves open how many of which devices"
        name = exactly["deviceClassName"]
        found[name] = found.get(name, Decimal(0)) + Decimal(int(exactly.get("count", 1)))
    return found


def _of_device(device: JSON) -> GPU:
    attributes = device.get("attributes") or {}
    told = {
        name.rpartition("/")[2]: str(value.get("string") or value.get("version") or "")
        for name, value in attributes.items()
    }
    return GPU(
        product=told.get("productName") or None,
        capability=_version(told.get("cudaComputeCapability", "")),
        driver=told.get("driverVersion") or None,
        cuda=_version(told.get("cudaDriverVersion", "")),
    )


def _pair(labels: Mapping[str, str], major: str, minor: str) -> tuple[int, int] | None:
    return _version(f"{labels.get(_LABEL + major, '')}.{labels.get(_LABEL + minor) or '0'}")


def _driver(labels: Mapping[str, str]) -> str | None:
    if full := labels.get(f"{_LABEL}cuda.driver-version.full"):
        return full
    parts = [labels.get(f"{_LABEL}cuda.driver.{part}", "") for part in ("major", "minor", "rev")]
    return ".".join(part for part in parts if part) or None


def _version(text: str) -> tuple[int, int] | None:
    parts = text.split(".")
    if len(parts) < 2 or not all(part.isdecimal() for part in parts[:2]):
        return None
    return int(parts[0]), int(parts[1])
