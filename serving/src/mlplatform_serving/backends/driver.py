"""The driver of the GPUs, asked by NVML before an object of CUDA's or TensorRT's is made: without
one some of those are null pointers, and the whole server dies of them (tensorrt-lean 11 does)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mlplatform_serving.errors import LoadFailed

Capability = tuple[int, int]
"""A compute capability: (9, 0) is Hopper's."""


@dataclass(frozen=True, slots=True)
class Driver:
    """What is there to run on."""

    version: str
    cuda: tuple[int, int]
    """The newest CUDA that it runs."""
    capabilities: tuple[Capability, ...]
    """Of each GPU, in NVML's order."""


def probe_driver() -> Driver:
    """`LoadFailed` where there is no driver or no GPU, or NVML's library for Python is missing."""
    try:
        import pynvml
    except ImportError:
        raise LoadFailed(
            "GPU not available: whether there is one cannot be asked; mlplatform-serving[gpu] has "
            "the library for that"
        ) from None
    nvml: Any = pynvml
    try:
        nvml.nvmlInit()
        cuda = nvml.nvmlSystemGetCudaDriverVersion_v2()
        driver = Driver(
            str(nvml.nvmlSystemGetDriverVersion()),
            (cuda // 1000, cuda % 1000 // 10),
            tuple(_capability(nvml, index) for index in range(nvml.nvmlDeviceGetCount())),
        )
    except nvml.NVMLError as error:
        raise LoadFailed(
            f"GPU not available ({error}): give the pod a GPU (nvidia.com/gpu) on a node with a "
            "driver, or serve a model that runs on the CPU"
        ) from None
    if not driver.capabilities:
        raise LoadFailed(
            f"GPU not available: driver {driver.version} has none: give the pod one "
            "(nvidia.com/gpu)"
        )
    return driver


def _capability(nvml: Any, index: int) -> Capability:
    major, minor = nvml.nvmlDeviceGetCudaComputeCapability(nvml.nvmlDeviceGetHandleByIndex(index))
    return int(major), int(minor)
