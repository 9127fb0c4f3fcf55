"""Where a change is: exact-set F1 beside the published rules, and what a large cube takes.

    python -m benchmarks.cost_locate [CASES] [SET…]        every rule on every set

A rule is right about a combination or it is not; F1 is over all combinations of a set of cases, as
RiskLoc's authors count it. The bar is the geometric mean over sets, of the additive ones and of
ratios, against that of the best rule. The seeds from `JUDGING` on were not looked at while the
prior was chosen.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import exp, log
from pathlib import Path

import numpy as np

from benchmarks.cost_cubes import SETS, Case, Element
from benchmarks.cost_peers import PEERS
from benchmarks.measure import MIB, Result, Row, Usage, run
from mlplatform.cost.locate.leaves import Leaves
from mlplatform.cost.locate.search import search

TUNING = 7
JUDGING = 20_261
CASES = 40
RUNS = 3
LARGE = {"of 4 dimensions": (20, 50, 100, 10), "of 6 dimensions": (10,) * 6}
"""Cubes of a million leaves: how many values each dimension has."""
ADVANTAGE = 1.15
LIMIT_CPU_SECONDS = 2.0
LIMIT_BYTES = 400 * MIB
OURS = "ours"


def leaves_of(case: Case) -> Leaves:
    """A case as our search takes it: dimensions and values are named by their numbers."""
    return Leaves(
        tuple(str(d) for d in range(len(case.sizes))),
        tuple(tuple(map(str, range(size))) for size in case.sizes),
        tuple(np.ascontiguousarray(codes, dtype=np.int32) for codes in case.codes.T),
        case.actual,
        case.expected,
        case.actual_denominator,
        case.expected_denominator,
    )


def ours(case: Case) -> set[Element]:
    """Our answer."""
    return {
        frozenset((int(each.dimension), int(each.value)) for each in cause.combination)
        for cause in search(leaves_of(case)).causes
    }


@dataclass(slots=True)
class Score:
    """What was found, what was not there, what was missed."""

    found: int = 0
    wrong: int = 0
    missed: int = 0

    def add(self, answer: set[Element], truth: frozenset[Element]) -> None:
        self.found += len(answer & truth)
        self.wrong += len(answer - truth)
        self.missed += len(truth - answer)

    @property
    def f1(self) -> float:
        return 2 * self.found / max(2 * self.found + self.wrong + self.missed, 1)


def scores(
    sets: Sequence[str], cases: int, rules: Mapping[str, Callable[[Case], set[Element]]], seed: int
) -> dict[str, dict[str, Score]]:
    """By set and rule."""
    told: dict[str, dict[str, Score]] = {}
    for name in sets:
        told[name] = {}
        for number in range(cases):
            case = SETS[name](np.random.default_rng([seed, number]))
            for rule, answer in rules.items():
                if rule == "RobustSpot" and not case.is_ratio:
                    continue
                told[name].setdefault(rule, Score()).add(answer(case), case.truth)
    return told


def is_ratio(name: str) -> bool:
    return name.startswith("D") or name == "RS"


def mean_f1(told: Mapping[str, Mapping[str, Score]], names: Sequence[str], rule: str) -> float:
    """The geometric mean; a rule that finds nothing in a set has a thousandth there."""
    values = [max(told[name][rule].f1, 0.001) for name in names]
    return exp(sum(map(log, values)) / len(values))


def large_cube(path: Path, sizes: tuple[int, ...]) -> None:
    """A leaf for each combination, with two causes."""
    rng = np.random.default_rng(1)
    codes = np.indices(sizes).reshape(len(sizes), -1)
    expected = rng.weibull(0.7, codes.shape[1]) * 100
    actual = expected * np.maximum(1 + rng.normal(scale=0.1, size=len(expected)), 0)
    actual[(codes[0] == 3) & (codes[1] == 5)] *= 1.8
    actual[(codes[1] == 7) & (codes[2] == 1) & (codes[3] == 2)] *= 2.5
    names = [[f"value-{d}-{v}" for v in range(size)] for d, size in enumerate(sizes)]
    with path.open("w") as file:
        header = ("account", "service", "team", "region", "sku", "tier")[: len(sizes)]
        file.write(",".join((*header, "actual", "expected")) + "\n")
        columns = [[names[d][v] for v in codes[d]] for d in range(len(sizes))]
        rows = zip(*columns, actual.round(4), expected.round(4), strict=True)
        file.writelines(",".join(map(str, row)) + "\n" for row in rows)


def large_run(sizes: tuple[int, ...]) -> Usage:
    """The command on such a cube."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cube.csv"
        large_cube(path, sizes)
        argv = [sys.executable, "-m", "mlplatform.cli.app", "cost", "locate", str(path)]
        env = {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
        return min((run(argv, env) for _ in range(RUNS)), key=lambda usage: usage.cpu_seconds)


def measure(cases: int) -> Result:
    """Quality on the seeds for judging, and the cost of a large cube."""
    told = scores(list(SETS), cases, {**PEERS, OURS: ours}, JUDGING)
    result = Result(
        "cost_locate",
        f"where a change is: exact-set F1 on {cases} cubes of each of {len(SETS)} sets",
        "the best of the published rules",
    )
    for kind, names in (
        ("additive", [name for name in SETS if not is_ratio(name)]),
        ("ratio", [name for name in SETS if is_ratio(name)]),
    ):
        peers = [rule for rule in PEERS if all(rule in told[name] for name in names)]
        means = {rule: mean_f1(told, names, rule) for rule in peers}
        best = max(means, key=lambda rule: means[rule])
        mine = mean_f1(told, names, OURS)
        result.rows.append(
            Row(f"{kind}, geometric mean ({best})", "F1", [mine], [means[best]], least=ADVANTAGE)
        )
        for name in names:
            rivals = {rule: told[name][rule].f1 for rule in peers}
            top = max(rivals, key=lambda rule: rivals[rule])
            result.rows.append(Row(f"{name} ({top})", "F1", [told[name][OURS].f1], [rivals[top]]))
    for told_sizes, sizes in LARGE.items():
        usage = large_run(sizes)
        result.rows += [
            Row(
                f"1,000,000 leaves {told_sizes}, CPU",
                "s",
                [usage.cpu_seconds],
                limit=LIMIT_CPU_SECONDS,
            ),
            Row("and memory", "MiB", [usage.peak_bytes / MIB], limit=LIMIT_BYTES / MIB),
        ]
    return result


def main() -> None:
    """Every rule on every set, for who tunes one."""
    cases = int(sys.argv[1]) if len(sys.argv) > 1 else CASES
    told = scores(sys.argv[2:] or list(SETS), cases, {**PEERS, OURS: ours}, TUNING)
    for name, rules in told.items():
        for rule, score in rules.items():
            counts = f"{score.found} found, {score.wrong} wrong, {score.missed} missed"
            print(f"{name:8}  {rule:20}  {score.f1:.3f}  {counts}")


if __name__ == "__main__":
    main()
