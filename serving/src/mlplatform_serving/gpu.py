"""The GPUs as NVML sees them: memory, temperature, utilisation, for `/metrics` and the log.

A thread looks every few seconds, for a driver in trouble takes its time to answer; `/metrics`
states the last look. What cannot be read has no series: no GPU, no driver, no `nvidia-ml-py`, a
value that this GPU does not tell, a look that is too long ago. A zero would be a cold, empty GPU.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from mlplatform_serving.metrics import Metrics

log = logging.getLogger(__name__)

LOOK_SECONDS = 5.0
STALE_SECONDS = 30.0
WARM_CELSIUS, HOT_CELSIUS = 80, 85
"""Where runbooks warn, and where they act; by 90 a data-centre GPU slows itself down."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One GPU at one time; None where it does not tell."""

    index: int
    uuid: str
    memory_used_bytes: int | None
    memory_total_bytes: int | None
    temperature_celsius: int | None
    utilisation_ratio: float | None


Read = Callable[[], Sequence[Reading]]


class NoGPU(Exception):
    """Nothing can be read here, and why."""


def open_nvml() -> Read:
    """`NoGPU` without the extra `gpu`, a driver, or a device."""
    try:
        import pynvml
    except ImportError as error:
        raise NoGPU("mlplatform-serving[gpu] is not installed") from error
    nvml: Any = pynvml
    try:
        nvml.nvmlInit()
        count = nvml.nvmlDeviceGetCount()
    except nvml.NVMLError as error:
        raise NoGPU(f"NVML: {error}") from error
    if not count:
        raise NoGPU("NVML: there is a driver and no GPU")
    return lambda: [_reading(nvml, index) for index in range(count)]


def _reading(nvml: Any, index: int) -> Reading:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)

    def told(ask: Callable[[], Any]) -> Any:
        try:
            return ask()
        except nvml.NVMLError:
            return None

    memory = told(lambda: nvml.nvmlDeviceGetMemoryInfo(handle))
    rates = told(lambda: nvml.nvmlDeviceGetUtilizationRates(handle))
    return Reading(
        index,
        told(lambda: nvml.nvmlDeviceGetUUID(handle)) or "",
        None if memory is None else memory.used,
        None if memory is None else memory.total,
        told(lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)),
        None if rates is None else rates.gpu / 100,
    )


class GPUs(Collector):
    """The last look at all GPUs."""

    def __init__(self, read: Read, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._read = read
        self._monotonic = monotonic
        self._readings: Sequence[Reading] = ()
        self._looked = monotonic()
        self._hot: dict[int, int] = {}
        self._failing = False
        self._stop = threading.Event()

    def start(self) -> None:
        """Look now and then, until `stop`."""
        threading.Thread(target=self._run, name="gpus", daemon=True).start()

    def stop(self) -> None:
        """Look no more."""
        self._stop.set()

    def _run(self) -> None:
        while True:
            self.look()
            if self._stop.wait(LOOK_SECONDS):
                return

    def look(self) -> None:
        """Read every GPU, and say so where one is warm. While that fails the last look stands, and
        soon is too old."""
        try:
            readings = self._read()
        except Exception as error:
            if not self._failing:
                log.error("the GPUs cannot be read: %s", error)
            self._failing = True
            return
        self._failing = False
        self._readings, self._looked = readings, self._monotonic()
        for each in readings:
            self._warn(each)

    def _warn(self, reading: Reading) -> None:
        """Once each time a GPU comes to 80 °C, and once more at 85."""
        celsius = reading.temperature_celsius
        if celsius is None:
            return
        degree = (celsius >= WARM_CELSIUS) + (celsius >= HOT_CELSIUS)
        if degree > self._hot.get(reading.index, 0):
            log.log(
                logging.ERROR if degree > 1 else logging.WARNING,
                "GPU temperature at %d°C",
                celsius,
                extra={"gpu": reading.index, "uuid": reading.uuid},
            )
        self._hot[reading.index] = degree

    def describe(self) -> Iterable[Metric]:
        """Nothing beforehand."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """The last look, unless it is too old to be true."""
        if self._monotonic() - self._looked > STALE_SECONDS:
            return
        for name, told, of in _GAUGES:
            family = GaugeMetricFamily(name, told, labels=("gpu", "uuid"))
            for each in self._readings:
                if (value := of(each)) is not None:
                    family.add_metric((str(each.index), each.uuid), value)
            if family.samples:
                yield family


def open_gpus(metrics: Metrics, environ: Mapping[str, str]) -> GPUs | None:
    """GPUs that are looked at from now on, and stated in `/metrics`; None where there is none. A
    pod that was given one, which it cannot reach, says so."""
    try:
        read = open_nvml()
    except NoGPU as error:
        given = environ.get("NVIDIA_VISIBLE_DEVICES", "") not in ("", "void", "none")
        log.log(
            logging.WARNING if given else logging.DEBUG,
            "GPU not available, falling back to CPU: %s",
            error,
        )
        return None
    gpus = GPUs(read)
    metrics.register(gpus)
    gpus.start()
    return gpus


_GAUGES: tuple[tuple[str, str, Callable[[Reading], float | None]], ...] = (
    (
        "model_serving_gpu_memory_used_bytes",
        "Memory of the GPU in use, by whomever.",
        lambda each: each.memory_used_bytes,
    ),
    (
        "model_serving_gpu_memory_total_bytes",
        "Memory of the GPU.",
        lambda each: each.memory_total_bytes,
    ),
    (
        "model_serving_gpu_temperature_celsius",
        "Temperature of the GPU.",
        lambda each: each.temperature_celsius,
    ),
    (
        "model_serving_gpu_utilization_ratio",
        "Share of the last look's time in which a kernel ran.",
        lambda each: each.utilisation_ratio,
    ),
)
