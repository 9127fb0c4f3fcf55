"""What Linux says of memory: this process, its control group (cgroup v2) and the host.

Of a control group the working set counts, as the kubelet counts it: what is in use less the pages
of files that were not used lately, which the kernel takes back by itself. Every group up to the
root is read, since a pod's limit binds its containers.
(docs.kernel.org/admin-guide/cgroup-v2.html: memory.current, memory.max, memory.stat)
"""

from __future__ import annotations

import ctypes
import gc
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from mlplatform_serving.memory.breaker import Gauge

_PROC = Path("/proc")
_GROUPS = Path("/sys/fs/cgroup")
_KIB = 1024


def resident_bytes(proc: Path = _PROC) -> int | None:
    """What this process holds in memory; None where the system does not say."""
    try:
        pages = int((proc / "self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGESIZE")


def gauges(limit_bytes: int | None, *, proc: Path = _PROC, groups: Path = _GROUPS) -> list[Gauge]:
    """What can be read; `limit_bytes` is the process's own limit, if it was set one."""
    found = [*_groups(proc, groups), *_host(proc)]
    resident = resident_bytes(proc)
    if limit_bytes is not None and resident is not None:
        found.append(Gauge("process", resident, limit_bytes))
    return found


def _groups(proc: Path, groups: Path) -> Iterator[Gauge]:
    """The group with the least left, of this process's and those above it."""
    try:
        lines = (proc / "self/cgroup").read_text().splitlines()
    except OSError:
        return
    path = next((line[3:] for line in lines if line.startswith("0::")), None)
    if path is None:
        return
    inner = groups / path.strip("/")
    found = [
        gauge
        for folder in (inner, *inner.parents)
        if folder == groups or groups in folder.parents
        if (gauge := _group(folder)) is not None
    ]
    if found:
        yield max(found, key=lambda gauge: gauge.share)


def _group(folder: Path) -> Gauge | None:
    try:
        limit = (folder / "memory.max").read_text().strip()
        if limit == "max":
            return None
        used = int((folder / "memory.current").read_text())
        stat = dict(
            line.split(maxsplit=1) for line in (folder / "memory.stat").read_text().splitlines()
        )
        return Gauge("cgroup", max(0, used - int(stat.get("inactive_file", 0))), int(limit))
    except (OSError, ValueError):
        return None


def _host(proc: Path) -> Iterator[Gauge]:
    try:
        lines = (proc / "meminfo").read_text().splitlines()
        told = {name: int(rest.split()[0]) * _KIB for name, _, rest in _fields(lines)}
        yield Gauge("host", told["MemTotal"] - told["MemAvailable"], told["MemTotal"])
    except (OSError, ValueError, KeyError, IndexError):
        return


def _fields(lines: list[str]) -> Iterator[tuple[str, str, str]]:
    return (line.partition(":") for line in lines)


def settle(environ: Mapping[str, str] = os.environ) -> None:
    """Once, when the server's own code is there and no model yet: what `give_back` looks through
    later is what models brought, and two arenas do for all threads. By default glibc makes one for
    nearly every thread, and models that come and go in ever other ones leave holes in all of them
    (mallopt(3), M_ARENA_MAX; `MALLOC_ARENA_MAX`, where it is set, says otherwise)."""
    gc.collect()
    gc.freeze()
    if "MALLOC_ARENA_MAX" not in environ and _mallopt is not None:
        _mallopt(_M_ARENA_MAX, _ARENAS)


def give_back() -> None:
    """Give the system what the allocator keeps for itself: glibc returns only what lies at the end
    of a heap, and one small block above a model's weights keeps them resident
    (malloc_trim(3); triton-inference-server/server#6836 and others are this)."""
    gc.collect()
    if _trim is not None:
        _trim(0)


def _of_glibc(name: str) -> Callable[..., int] | None:
    """None where the allocator is another."""
    try:
        found: Callable[..., int] | None = getattr(ctypes.CDLL(None), name, None)
    except (OSError, TypeError):
        return None
    return found


_M_ARENA_MAX = -8
_ARENAS = 2
_trim = _of_glibc("malloc_trim")
_mallopt = _of_glibc("mallopt")
