"""`python -m tests.simulation --seed 1234 --trace` replays one world, step by step.
`python -m tests.simulation --seeds 0-20000` looks for trouble."""

from __future__ import annotations

import argparse
import sys
import time

from tests.simulation.guards import GUARDS, without
from tests.simulation.run import run_seed


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--seed", type=int, help="one world")
    which.add_argument("--seeds", help="FROM-TO, both included")
    parser.add_argument("--trace", action="store_true", help="print every step")
    parser.add_argument("--keep-going", action="store_true", help="go on after a failure")
    parser.add_argument("--without", choices=sorted(GUARDS), help="remove a guard first")
    arguments = parser.parse_args()
    if arguments.seed is not None:
        first = last = arguments.seed
    else:
        first, last = (int(bound) for bound in arguments.seeds.split("-"))
    failed = 0
    began = time.perf_counter()
    for seed in range(first, last + 1):
        try:
            with without(arguments.without):
                run_seed(seed, tell=print if arguments.trace else None)
        except AssertionError as error:
            print(error, file=sys.stderr)
            failed += 1
            if not arguments.keep_going:
                return 1
    seconds = time.perf_counter() - began
    count = last - first + 1
    print(f"{count} seeds, {failed} failed, {count / seconds:.1f} seeds/s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
