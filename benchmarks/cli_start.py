"""How long `mlplatform --help` takes, beside what it cannot avoid: `import typer`."""

from __future__ import annotations

import os
import sys

from benchmarks.measure import Result, in_turns, run
from benchmarks.rig import MLPLATFORM

PAIRS = 15
LIMIT = 2.0


def measure(pairs: int) -> Result:
    """Interleaved pairs of the two."""
    env = {"PATH": os.environ["PATH"]}
    measured = in_turns(
        pairs,
        lambda: run([*MLPLATFORM, "--help"], env),
        lambda: run([sys.executable, "-c", "import typer"], env),
    )
    result = Result(
        "cli_start",
        f"`mlplatform --help`; medians of {pairs} interleaved pairs",
        peer="python -c 'import typer'",
    )
    result.compare("", [(ours, peer) for ours, peer in measured], wall=LIMIT, memory=False)
    return result
