"""`python -m benchmarks [NAME…]`, which is `make bench`: ratios against a peer in the same run.

Servers and rclone come from the cache of `make servers`. Exit 1 when something did not work; a
target that is missed is said, and no failure unless `--strict` is given: the ratios are medians of
interleaved pairs, but a busy machine is a busy machine. Of several each has a process of its own: a
process never holds less than the one that started it, and one that breaks ends no other.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import (
    batching,
    batching_http,
    cli_start,
    cost_cube,
    cost_detect,
    cost_locate,
    failover,
    failover_decide,
    fanout,
    memory,
    resume,
    rollout_fleet,
    rollout_verdict,
    serving_memory,
    serving_protocol,
    serving_throughput,
    single,
    small,
)
from benchmarks.measure import ClientFailed, Result
from tests.real.servers.catalogue import BY_NAME
from tests.real.servers.launch import ServerBroken, ServerMissing


def main() -> int:
    """Run those named, or all."""
    asked = _parser().parse_args()
    benchmarks: dict[str, Callable[[], Result]] = {
        "batching": lambda: batching.measure(asked.pairs or batching.SEEDS),
        "batching_http": lambda: batching_http.measure(asked.pairs or batching_http.SEEDS),
        "cli_start": lambda: cli_start.measure(asked.pairs or cli_start.PAIRS),
        "cost_cube": lambda: cost_cube.measure(asked.pairs or cost_cube.PAIRS),
        "cost_detect": lambda: cost_detect.measure(asked.pairs or cost_detect.SEEDS),
        "cost_locate": lambda: cost_locate.measure(asked.pairs or cost_locate.CASES),
        "failover": lambda: failover.measure(asked.pairs or failover.KILLS),
        "failover_decide": lambda: failover_decide.measure(asked.pairs or failover_decide.PAIRS),
        "fanout": lambda: fanout.measure(asked.pairs or fanout.PAIRS),
        "rollout_fleet": rollout_fleet.measure,
        "rollout_verdict": lambda: rollout_verdict.measure(asked.pairs or rollout_verdict.RUNS),
        "serving_memory": serving_memory.measure,
        "serving_protocol": lambda: serving_protocol.measure(
            asked.pairs or serving_protocol.ROUNDS
        ),
        "serving_throughput": lambda: serving_throughput.measure(
            asked.pairs or serving_throughput.ROUNDS
        ),
        "single": lambda: single.measure(asked.pairs or single.PAIRS),
        "small": lambda: small.measure(asked.pairs or small.PAIRS),
        "memory": lambda: memory.measure(full=asked.full),
        "resume": lambda: resume.measure(asked.pairs or resume.ROUNDS),
    }
    unknown = [name for name in asked.names if name not in benchmarks]
    if unknown:
        print(f"no benchmark {unknown[0]!r}; there are {', '.join(benchmarks)}", file=sys.stderr)
        return 2
    names = asked.names or list(benchmarks)
    if not asked.beside:
        _print_machine()
    if len(names) > 1:
        return _each_by_itself(names, asked)
    (name,) = names
    print(f"  {name} …", file=sys.stderr, flush=True)
    try:
        result = benchmarks[name]()
    except (ClientFailed, ServerMissing, ServerBroken) as error:
        print(f"{name}: {error}\n", flush=True)
        return 1
    print(f"{result}\n", flush=True)
    if asked.json:
        asked.json.write_text(json.dumps([result.as_json()], indent=2) + "\n")
    return 1 if asked.strict and any(row.met is False for row in result.rows) else 0


def _each_by_itself(names: Sequence[str], asked: argparse.Namespace) -> int:
    failed = False
    found: list[object] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            told = Path(folder, f"{name}.json")
            line = [sys.executable, "-m", "benchmarks", name, "--beside", "--json", str(told)]
            line += [f"--{flag}" for flag in ("full", "strict") if getattr(asked, flag)]
            line += ["--pairs", str(asked.pairs)] if asked.pairs else []
            failed |= subprocess.run(line, check=False).returncode != 0
            found += json.loads(told.read_text()) if told.exists() else []
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=2) + "\n")
    return int(failed)


def _print_machine() -> None:
    versions = [f"{name} {BY_NAME[name].version}" for name in ("minio", "rclone", "caddy")]
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    text = ", ".join([machine, f"python {platform.python_version()}", *versions])
    print(text, end="\n\n", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="which; without one, all")
    parser.add_argument(
        "--pairs", type=int, help="interleaved pairs, or kills, of each (the default differs)"
    )
    parser.add_argument("--full", action="store_true", help="memory: all 400 GB, some minutes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    parser.add_argument("--beside", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--strict", action="store_true", help="exit 1 when a target is missed")
    return parser


if __name__ == "__main__":
    sys.exit(main())
