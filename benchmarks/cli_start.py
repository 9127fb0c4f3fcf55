"""How long `mlplatform --help` takes, as a ratio to what it cannot avoid: `import typer`.

The two are run in turns, so that what else the machine does burdens both, and medians are compared.

    python -m benchmarks.cli_start [--rounds N] [--limit RATIO]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from statistics import median

SUBJECT = (sys.executable, "-c", "from mlplatform.cli.app import main; main()", "--help")
PEER = (sys.executable, "-c", "import typer")
LIMIT = 2.0


def seconds(command: tuple[str, ...]) -> float:
    """The wall time of one run."""
    began = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


def measure(rounds: int) -> tuple[float, float]:
    """The median of each, from interleaved runs; the first of each only warms the caches."""
    pairs = [(seconds(SUBJECT), seconds(PEER)) for _ in range(rounds + 1)][1:]
    return median(pair[0] for pair in pairs), median(pair[1] for pair in pairs)


def main() -> int:
    """Print the ratio; 1 if it is over the limit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--limit", type=float, default=LIMIT)
    asked = parser.parse_args()
    ours, theirs = measure(asked.rounds)
    ratio = ours / theirs
    print(
        f"cli start: `mlplatform --help` / `import typer` = {ratio:.2f} "
        f"(target <= {asked.limit:g}; medians of {asked.rounds} interleaved pairs, "
        f"{ours * 1000:.0f} ms and {theirs * 1000:.0f} ms here)"
    )
    return 0 if ratio <= asked.limit else 1


if __name__ == "__main__":
    sys.exit(main())
