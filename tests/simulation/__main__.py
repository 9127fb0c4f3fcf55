"""`python -m tests.simulation --world failover --seed 1234 --trace` replays one, step by step.
`python -m tests.simulation --world failover --seeds 0-20000` looks for trouble."""

from __future__ import annotations

import argparse
import sys
import time

from tests.simulation.guards import without
from tests.simulation.run import KINDS, run_seed


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--world", choices=sorted(KINDS), default="replication")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--seed", type=int, help="one world")
    which.add_argument("--seeds", help="FROM-TO, both included")
    parser.add_argument("--trace", action="store_true", help="print every step")
    parser.add_argument("--keep-going", action="store_true", help="go on after a failure")
    parser.add_argument("--without", metavar="GUARD", help="remove a guard first")
    arguments = parser.parse_args()
    guards = KINDS[arguments.world].guards
    if arguments.without is not None and arguments.without not in guards:
        parser.error(f"--without: one of {', '.join(sorted(guards))}")
    if arguments.seed is not None:
        first = last = arguments.seed
    else:
        first, last = (int(bound) for bound in arguments.seeds.split("-"))
    failed = 0
    began, worked = time.perf_counter(), time.process_time()
    for seed in range(first, last + 1):
        try:
            with without(guards, arguments.without):
                run_seed(seed, kind=arguments.world, tell=print if arguments.trace else None)
        except AssertionError as error:
            print(error, file=sys.stderr)
            failed += 1
            if not arguments.keep_going:
                return 1
    seconds, worked = time.perf_counter() - began, time.process_time() - worked
    count = last - first + 1
    print(
        f"{count} seeds, {failed} failed, {count / seconds:.1f} seeds/s, "
        f"{1000 * worked / count:.1f} ms of CPU each"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
