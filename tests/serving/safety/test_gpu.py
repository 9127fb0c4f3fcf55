"""GPUs in metrics and log: by nvidia-ml-py, from a library that answers as NVML does."""

from __future__ import annotations

import logging
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from mlplatform_serving.gpu import STALE_SECONDS, GPUs, Reading
from mlplatform_serving.metrics import Metrics
from tests.serving.rig import ServerProcess, identity, publish, running

# Two GPUs: one hot, and one that does not tell its utilisation.
NVML = r"""
#include <string.h>
typedef struct { unsigned long long total, free, used; } memory;
typedef struct { unsigned int gpu, memory; } rates;
int nvmlInitWithFlags(unsigned int f) { return 0; }
int nvmlShutdown(void) { return 0; }
const char *nvmlErrorString(int r) { return "Not Supported"; }
int nvmlDeviceGetCount_v2(unsigned int *n) { *n = 2; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned int i, void **d) {
  *d = (void *)(unsigned long)(i + 1); return 0; }
int nvmlDeviceGetUUID(void *d, char *u, unsigned int n) {
  strncpy(u, d == (void *)1 ? "GPU-a" : "GPU-b", n); return 0; }
int nvmlDeviceGetMemoryInfo(void *d, memory *m) {
  m->total = 1000; m->used = 600; m->free = 400; return 0; }
int nvmlDeviceGetUtilizationRates(void *d, rates *r) {
  if (d == (void *)2) return 3; r->gpu = 75; r->memory = 10; return 0; }
int nvmlDeviceGetTemperature(void *d, int sensor, unsigned int *t) {
  *t = d == (void *)1 ? 86 : 60; return 0; }
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler here")
    folder = tmp_path_factory.mktemp("nvml")
    (folder / "nvml.c").write_text(NVML)
    made = folder / "libnvidia-ml.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", made, folder / "nvml.c"], check=True)
    return folder


def series(server: ServerProcess) -> dict[str, float]:
    text = server.ask("GET", "/metrics").body.decode()
    return {
        name: float(value)
        for name, value in re.findall(r"^(model_serving_gpu_\S+) (\S+)$", text, re.MULTILINE)
    }


def test_what_is_stated_and_said_of_two_gpus(library: Path, tmp_path: Path) -> None:
    publish(tmp_path, "echo", "v1", identity("FP32"))
    with running(tmp_path, LD_LIBRARY_PATH=library) as server:
        line = server.wait_for("GPU temperature at 86°C")
        assert (line["level"], line["gpu"], line["uuid"]) == ("ERROR", 0, "GPU-a")
        a, b = '{gpu="0",uuid="GPU-a"}', '{gpu="1",uuid="GPU-b"}'
        assert series(server) == {
            f"model_serving_gpu_memory_used_bytes{a}": 600,
            f"model_serving_gpu_memory_used_bytes{b}": 600,
            f"model_serving_gpu_memory_total_bytes{a}": 1000,
            f"model_serving_gpu_memory_total_bytes{b}": 1000,
            f"model_serving_gpu_temperature_celsius{a}": 86,
            f"model_serving_gpu_temperature_celsius{b}": 60,
            f"model_serving_gpu_utilization_ratio{a}": 0.75,
        }


def test_without_a_gpu_there_is_no_series(tmp_path: Path) -> None:
    """And a pod that was given one, which it cannot reach, says so."""
    publish(tmp_path, "echo", "v1", identity("FP32"))
    if shutil.which("nvidia-smi"):
        pytest.skip("this machine has a GPU")
    with running(tmp_path, NVIDIA_VISIBLE_DEVICES="all") as server:
        line = server.wait_for("GPU not available, falling back to CPU")
        assert line["level"] == "WARNING"
        assert series(server) == {}
    with running(tmp_path, NVIDIA_VISIBLE_DEVICES="void") as server:
        assert not [each for each in server.lines if "GPU not available" in each["message"]]


def reading(celsius: int | None) -> Reading:
    return Reading(0, "GPU-a", 600, 1000, celsius, None)


class TestLooking:
    def test_it_is_said_once_each_time_it_gets_warm(self, caplog: pytest.LogCaptureFixture) -> None:
        temperatures = [79, 80, 81, 84, 85, 90, 84, 86, 70, 80, None, 81]
        told = iter(temperatures)
        gpus = GPUs(lambda: [reading(next(told))])
        with caplog.at_level(logging.WARNING):
            for _ in temperatures:
                gpus.look()
        assert [(each.levelname, each.getMessage()) for each in caplog.records] == [
            ("WARNING", "GPU temperature at 80°C"),
            ("ERROR", "GPU temperature at 85°C"),
            ("ERROR", "GPU temperature at 86°C"),
            ("WARNING", "GPU temperature at 80°C"),
        ]

    def test_a_look_that_fails_is_no_zero(self, caplog: pytest.LogCaptureFixture) -> None:
        now, well = 0.0, True

        def read() -> list[Reading]:
            if not well:
                raise OSError("the driver is gone")
            return [reading(60)]

        gpus = GPUs(read, monotonic=lambda: now)
        metrics = Metrics("")
        metrics.register(gpus)
        assert b"model_serving_gpu" not in metrics.encoded()
        gpus.look()
        assert b"model_serving_gpu_temperature_celsius" in metrics.encoded()
        well, now = False, STALE_SECONDS
        for _ in range(3):
            gpus.look()
        assert b"model_serving_gpu_temperature_celsius" in metrics.encoded()
        now += 1
        assert b"model_serving_gpu" not in metrics.encoded()
        assert len(caplog.records) == 1
