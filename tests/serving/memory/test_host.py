"""What the system says of memory is read as the kernel's documents have it."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import pytest

from mlplatform_serving.gpu import Reading
from mlplatform_serving.memory import host
from mlplatform_serving.memory import watch as watch_module
from mlplatform_serving.memory.breaker import Gauge, Level
from mlplatform_serving.memory.room import Where
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
        self.gpus: list[Reading] = []
        self.hangs = threading.Event()
        self.hangs.set()

    def read(self) -> list[Reading]:
        self.hangs.wait(60)
        return self.gpus

    def watch(self) -> MemoryWatch:
        return MemoryWatch(
            marks(0.95, 0.8),
            read_gpus=self.read,
            read_host=lambda _: self.host,
            monotonic=lambda: self.now,
        )


def gpu(used: int | None) -> Reading:
    return Reading(0, "GPU-1", used, 100, 40, 0.5)


def test_the_watch_follows_what_it_reads() -> None:
    asyncio.run(_follows())


async def _follows() -> None:
    scale = Scale()
    watch = scale.watch()
    await watch.read_all()
    assert (watch.level, watch.free_bytes(), watch.gpu_used_bytes()) == (Level.WELL, 80, None)
    scale.gpus = [gpu(81)]
    await watch.read_all()
    assert (watch.level, watch.gpu_used_bytes()) == (Level.SHEDDING, 81)
    assert watch.told() == "gpu 0 81% full"
    assert (watch.shedding(Where.GPU), watch.shedding(Where.HOST)) == (True, False)
    assert (watch.excess_bytes(Where.GPU), watch.excess_bytes(Where.HOST)) == (11, 0)
    scale.gpus = [gpu(10)]
    for scale.now, expected in ((1, Level.SHEDDING), (5.9, Level.SHEDDING), (6, Level.WELL)):
        await watch.read_all()
        assert watch.level == expected
    scale.host = []
    await watch.read_all()
    assert watch.free_bytes() is None


def test_a_driver_that_hangs_is_unknown_and_holds_nothing_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watch_module, "PERIOD_SECONDS", 0.01)
    asyncio.run(_hangs())


async def _hangs() -> None:
    scale = Scale()
    scale.gpus = [gpu(90)]
    watch = scale.watch()
    levels = []
    for scale.now in (0.0, 29.0, 30.0):
        await watch.read_all()
        levels.append((watch.level, watch.gpu_used_bytes()))
        scale.hangs.clear()
    assert levels == [(Level.SHEDDING, 90), (Level.SHEDDING, None), (Level.WELL, None)]
    scale.hangs.set()
    while watch.gpu_used_bytes() is None:
        await watch.read_all()
    assert watch.level is Level.SHEDDING
    scale.gpus = [gpu(None)]
    await watch.read_all()
    assert watch.gpu_used_bytes() is None


def test_above_the_limit() -> None:
    assert MemoryWatch({}).over_limit() is None
    assert MemoryWatch({}, limit_bytes=2**40).over_limit() is None
    told = MemoryWatch({}, limit_bytes=MIB).over_limit()
    assert told is not None
    assert told.endswith("MEMORY_LIMIT_MB is 1")
