"""The most memory that a replication ever holds, whatever the size of the model.

1 GiB and 10 GiB: a sparse file in a `file://` store, adopted there, to MinIO. 400 GB: a made-up
source and a sink that drops what it gets (`benchmarks.stores`), with the whole manifest (23,842
blocks, 7,948 parts of 48 MiB), of which the sink says that it holds all but a fraction already,
unless `--full` is given: hashing all of it takes minutes. The parts in flight, the part lists and
the digests are the same either way.
"""

from __future__ import annotations

import shutil
import sys

from benchmarks.measure import GIB, MIB, Result, Row, Usage
from benchmarks.rig import MODEL, VERSION, Rig, outcomes, rig

LIMIT_MIB = 200.0
PLAN_BYTES = 400 * 10**9
FRACTION = 0.05
_ADOPTED = f"models/{MODEL}-{VERSION}.pth"
_WITH_SINK = (sys.executable, "-m", "benchmarks.stores")


def measure(*, full: bool = False) -> Result:
    """Peak resident memory of each."""
    result = Result("memory", "peak resident memory of the client, start-up included")
    with rig() as found:
        for size_bytes in (GIB, 10 * GIB):
            to_disk = shutil.disk_usage(found.folder).free > 2 * size_bytes + 5 * GIB
            usage = _sparse(found, size_bytes, to_disk=to_disk)
            sink = "MinIO" if to_disk else "a sink that drops it (the disk is too full for MinIO)"
            result.rows.append(_row(f"{size_bytes // GIB} GiB, sparse, to {sink}", usage))
        usage = _planned(found, full=full)
        share = "all" if full else f"{FRACTION:.0%}"
        result.rows.append(_row(f"400 GB, {share} of its parts of 48 MiB, dropped", usage))
    return result


def _row(name: str, usage: Usage) -> Row:
    return Row(name, "MiB", [usage.peak_bytes / MIB], limit=LIMIT_MIB)


def _sparse(found: Rig, size_bytes: int, *, to_disk: bool) -> Usage:
    home = found.folder / "home"
    artefact = home / _ADOPTED
    artefact.parent.mkdir(parents=True)
    with artefact.open("wb") as stream:
        stream.truncate(size_bytes)
    buckets = found.new_buckets(1) if to_disk else []
    target = found.url(buckets[0]) if to_disk else f"discard://sink?bytes={size_bytes}"
    found.use(home.as_uri(), target=target)
    found.mlplatform("publish", "--adopt", _ADOPTED, "--region", "home", program=_WITH_SINK)
    usage = found.mlplatform("replicate", program=_WITH_SINK)
    outcomes(usage)
    found.drop(buckets)
    shutil.rmtree(home)
    return usage


def _planned(found: Rig, *, full: bool) -> Usage:
    held = 0.0 if full else 1 - FRACTION
    found.use(
        f"synthetic://source?bytes={PLAN_BYTES}",
        target=f"discard://sink?bytes={PLAN_BYTES}&held={held}",
    )
    usage = found.mlplatform("replicate", program=_WITH_SINK)
    outcomes(usage)
    return usage
