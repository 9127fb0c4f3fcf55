"""What the system says of memory is read as the kernel's documents have it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mlplatform_serving.memory import host
from mlplatform_serving.memory.breaker import Gauge, Level
from mlplatform_serving.memory.nvml import open_devices
from mlplatform_serving.memory.watch import MemoryWatch, marks

MIB = 2**20
MEMINFO = "MemTotal:       1000 kB\nMemFree:         100 kB\nMemAvailable:    400 kB\n"


def system(root: Path, groups: dict[str, tuple[str, int, int]], own: str) -> tuple[Path, Path]:
    """A /proc and a cgroup tree; a group is its limit, what it uses, and how much of that is
    files that were not used lately."""
    proc, tree = root / "proc", root / "groups"
    (proc / "self").mkdir(parents=True)
    (proc / "self/cgroup").write_text(f"1:name=systemd:/x\n0::{own}\n")
    (proc / "self/statm").write_text("9000 700 300 1 0 500 0\n")
    (proc / "meminfo").write_text(MEMINFO)
    for path, (limit, used, inactive) in groups.items():
        folder = tree / path
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "memory.max").write_text(f"{limit}\n")
        (folder / "memory.current").write_text(f"{used}\n")
        (folder / "memory.stat").write_text(f"anon 5\ninactive_file {inactive}\nslab 1\n")
    return proc, tree


HOST = Gauge("host", 600 * 1024, 1000 * 1024)

TREES: dict[str, tuple[dict[str, tuple[str, int, int]], str, list[Gauge]]] = {
    "a container's own": ({"": ("1000", 800, 100)}, "/", [Gauge("cgroup", 700, 1000), HOST]),
    "no limit": ({"": ("max", 800, 100)}, "/", [HOST]),
    "the pod's limit binds": (
        {"pod": ("1000", 900, 0), "pod/box": ("max", 800, 0)},
        "/pod/box",
        [Gauge("cgroup", 900, 1000), HOST],
    ),
    "the group with the least left": (
        {"pod": ("10000", 900, 0), "pod/box": ("1000", 800, 0)},
        "/pod/box",
        [Gauge("cgroup", 800, 1000), HOST],
    ),
    "no such tree": ({}, "/pod", [HOST]),
    "a group that says something else": ({"": ("plenty", 1, 1)}, "/", [HOST]),
}


@pytest.mark.parametrize(("groups", "own", "expected"), TREES.values(), ids=TREES)
def test_control_groups(
    tmp_path: Path, groups: dict[str, tuple[str, int, int]], own: str, expected: list[Gauge]
) -> None:
    proc, tree = system(tmp_path, groups, own)
    assert host.gauges(None, proc=proc, groups=tree) == expected
    process = Gauge("process", 700 * os.sysconf("SC_PAGESIZE"), 5 * MIB)
    assert host.gauges(5 * MIB, proc=proc, groups=tree) == [*expected, process]


def test_a_system_that_says_nothing(tmp_path: Path) -> None:
    assert host.gauges(1, proc=tmp_path, groups=tmp_path) == []
    assert host.resident_bytes(tmp_path) is None


def test_this_process_as_it_is() -> None:
    """Memory that is taken is resident, and what is given back is not."""
    before = host.resident_bytes()
    assert before is not None
    taken = bytearray(os.urandom(64 * MIB))
    during = host.resident_bytes()
    assert during is not None
    assert during - before > 60 * MIB
    del taken
    host.give_back()
    after = host.resident_bytes()
    assert after is not None
    assert during - after > 60 * MIB


class Scale:
    """Gauges as a test sets them."""

    def __init__(self) -> None:
        self.now = 0.0
        self.host: list[Gauge] = [Gauge("host", 10, 100)]
        self.gpus: list[Gauge] = []

    def gauges(self) -> list[Gauge]:
        return self.gpus


def test_the_watch_follows_what_it_reads() -> None:
    scale = Scale()
    watch = MemoryWatch(
        marks(0.95, 0.8), devices=scale, read_host=lambda _: scale.host, monotonic=lambda: scale.now
    )
    watch.read()
    assert (watch.level, watch.free_bytes(), watch.gpu_used_bytes()) == (Level.WELL, 80, None)
    scale.gpus = [Gauge("gpu 0", 81, 100)]
    watch.read()
    assert (watch.level, watch.gpu_used_bytes()) == (Level.SHEDDING, 81)
    assert watch.refuse() == "gpu 0 81% full"
    assert watch.refusals == {"gpu 0": 1}
    scale.gpus = [Gauge("gpu 0", 10, 100)]
    for scale.now, expected in ((1, Level.SHEDDING), (5.9, Level.SHEDDING), (6, Level.WELL)):
        watch.read()
        assert watch.level == expected
    scale.host = []
    watch.read()
    assert watch.free_bytes() is None


def test_above_the_limit() -> None:
    assert MemoryWatch({}).over_limit() is None
    assert MemoryWatch({}, limit_bytes=2**40).over_limit() is None
    told = MemoryWatch({}, limit_bytes=MIB).over_limit()
    assert told is not None
    assert told.endswith("MEMORY_LIMIT_MB is 1")


def test_gpus_are_named_or_there_are_none() -> None:
    devices = open_devices()
    if devices is None:
        pytest.skip("no NVIDIA driver here")
    gauges = devices.gauges()
    assert [gauge.what for gauge in gauges] == [f"gpu {index}" for index in range(len(gauges))]
    assert all(0 <= gauge.used_bytes <= gauge.limit_bytes for gauge in gauges)
