"""One model to two targets: read once, against one `rclone copy` for each, one after the other."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.measure import GIB, Result, Row, Usage, in_turns
from benchmarks.rig import PREFIX, Rig, outcomes, rig, write_safetensors

PAIRS = 5
SIZE_BYTES = GIB


def measure(pairs: int, *, targets: int = 2, size_bytes: int = SIZE_BYTES) -> Result:
    """Interleaved pairs of one replication and of as many copies as there are targets."""
    reads: list[float] = []
    with rig() as found:
        artefact = found.folder / "model.safetensors"
        write_safetensors(artefact, size_bytes)
        source = found.publish(artefact)
        artefact.unlink()
        ours, theirs = _clients(found, source, targets, reads)
        measured = in_turns(pairs, ours, theirs)
    result = Result(
        "fanout" if targets > 1 else "single",
        f"{size_bytes / GIB:g} GiB to {targets} target{'s'[: targets > 1]} on MinIO, verified; "
        f"medians of {pairs} interleaved pairs",
        peer=f"rclone copy, its defaults{', one run a target' if targets > 1 else ''}",
    )
    pairs_of = [(pair[0], pair[1]) for pair in measured]
    if targets > 1:
        result.compare("", pairs_of, wall=0.85, cpu=0.4)
    else:
        result.compare("", pairs_of, cpu=0.7)
    result.rows.append(Row("reads of each source byte", "x", reads, limit=1.0))
    return result


def _clients(
    found: Rig, source: str, targets: int, reads: list[float]
) -> tuple[Callable[[], Usage], Callable[[], Usage]]:
    bucket = source.removeprefix("s3://").partition("?")[0]

    def ours() -> Usage:
        buckets = found.new_buckets(targets)
        found.use(source, **{f"target-{at}": found.url(name) for at, name in enumerate(buckets)})
        usage = found.mlplatform("replicate")
        reads.extend(
            outcome["measured"]["reads_per_source_byte"] for outcome in outcomes(usage)[:1]
        )
        found.drop(buckets)
        return usage

    def theirs() -> Usage:
        buckets = found.new_buckets(targets)
        first, *rest = (
            found.rclone("copy", f"home:{bucket}/{PREFIX}", f"away:{name}/{PREFIX}")
            for name in buckets
        )
        found.drop(buckets)
        return sum(rest, first)

    return ours, theirs
