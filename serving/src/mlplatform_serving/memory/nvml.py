"""The memory of NVIDIA's GPUs, by NVML: no CUDA context is made, and none is needed."""

from __future__ import annotations

from typing import Any

from mlplatform_serving.memory.breaker import Gauge


def open_devices() -> NvmlDevices | None:
    """None where there is no driver, no GPU, or `mlplatform-serving[gpu]` is not installed: then
    nothing is known of a GPU, and nothing is claimed."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        handles = [
            pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())
        ]
    except pynvml.NVMLError:
        return None
    return NvmlDevices(pynvml, handles) if handles else None


class NvmlDevices:
    """See the port in `watch.py`."""

    def __init__(self, nvml: Any, handles: list[Any]) -> None:
        self._nvml = nvml
        self._handles = handles

    def gauges(self) -> list[Gauge]:
        """One each; a GPU that does not answer is left out."""
        found = []
        for index, handle in enumerate(self._handles):
            try:
                memory = self._nvml.nvmlDeviceGetMemoryInfo(handle)
            except self._nvml.NVMLError:
                continue
            found.append(Gauge(f"gpu {index}", int(memory.used), int(memory.total)))
        return found
