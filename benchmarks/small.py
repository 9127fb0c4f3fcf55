"""Ten thousand small objects to one target: what is left is the cost of a request."""

from __future__ import annotations

import os
from pathlib import Path

from benchmarks.measure import Result, Usage, in_turns
from benchmarks.rig import PREFIX, outcomes, rig

PAIRS = 5
OBJECTS = 10_000
OBJECT_BYTES = 16 * 1024


def measure(pairs: int, *, objects: int = OBJECTS) -> Result:
    """Interleaved rounds of ours, rclone as it comes, and rclone with 16 transfers."""
    with rig() as found:
        shards = found.folder / "shards"
        write_shards(shards, objects)
        source = found.publish(shards)
        bucket = source.removeprefix("s3://").partition("?")[0]

        def ours() -> Usage:
            (target,) = found.new_buckets(1)
            found.use(source, target=found.url(target))
            usage = found.mlplatform("replicate")
            outcomes(usage)
            return usage

        def theirs(*flags: str) -> Usage:
            (target,) = found.new_buckets(1)
            return found.rclone(
                "copy", f"home:{bucket}/{PREFIX}", f"away:{target}/{PREFIX}", *flags
            )

        measured = in_turns(pairs, ours, theirs, lambda: theirs("--transfers", "16"))
    result = Result(
        "small",
        f"{objects:,} objects of {OBJECT_BYTES // 1024} KiB to one target on MinIO, verified; "
        f"medians of {pairs} interleaved rounds",
        peer="rclone copy, its defaults (4 transfers), and with --transfers 16",
    )
    result.compare("", [(ours, plain) for ours, plain, _ in measured], wall=1.5)
    result.compare(" / 16", [(ours, wide) for ours, _, wide in measured])
    return result


def write_shards(folder: Path, objects: int) -> None:
    """Files of random bytes, a hundred to a folder."""
    for index in range(objects):
        path = folder / f"shard-{index // 100:03}" / f"{index % 100:02}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(OBJECT_BYTES))
