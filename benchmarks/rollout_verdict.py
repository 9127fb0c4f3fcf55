"""When a canary is returned, promoted or held: ours beside Argo's, Flagger's, OME's and Kayenta's.

    python -m benchmarks.rollout_verdict [RUNS] [FIGURE.svg]      the whole grid, a line a cell

Worlds are made up (`rollout_worlds`), 2,000 runs of an hour in each cell; intervals are Wilson's,
of 95 %. Ours is the code that decides (`e_process`, `dispersion`, `judge.grounds`), over all runs
at once; that a `Book` says the same, window by window, is tested.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.measure import Result, Row
from benchmarks.rollout_figure import Bar, Dots, draw
from benchmarks.rollout_peers import RULES
from benchmarks.rollout_worlds import (
    MINUTES,
    NOT_TOLD,
    SCATTERED,
    SHARED,
    WORLDS,
    Counts,
    Floats,
    Histories,
    Mask,
    histories,
    make,
)
from mlplatform.rollout.verdict import e_process
from mlplatform.rollout.verdict.book import Book
from mlplatform.rollout.verdict.dispersion import CLUSTERS_LEAST, Dispersion, allowance, moments
from mlplatform.rollout.verdict.judge import Decision, Ground, decision_of, grounds, judge
from mlplatform.rollout.verdict.policy import Metric, Policy
from mlplatform.rollout.verdict.window import Arm, Window

RUNS = 2000
SEED = 20_260
RPMS = (60.0, 600.0, 6_000.0, 60_000.0)
SHARES = (0.01, 0.10, 0.50)
EFFECTS = (1.03, 1.5, 2.0, 4.0, 10.0)
ALARMS_MOST = 0.05
DECIDE_SECONDS_MOST = 1.0
FLEETS = 100
POLICY = Policy(("here",))
OURS = "ours"
KINDS = ("shared", "scattered", "not told", "worse")
_FIGURE_SHARE = 0.10
_CHUNK = 50


@dataclass(frozen=True, slots=True)
class Cell:
    """One kind of canary in one kind of world."""

    world: str
    rpm: float
    share: float
    effect: float = 1.0
    slow_effect: float = 1.0


@dataclass(slots=True)
class Outcome:
    """What came of the runs of a cell."""

    cell: Cell
    runs: int
    returned: dict[str, Floats] = field(default_factory=dict)
    """By rule, the minute; infinite: never."""
    promoted: Floats = field(default_factory=lambda: np.zeros(0))
    """By ours, by the bound."""

    def rate(self, rule: str = OURS) -> float:
        """The share of runs that the rule returned."""
        return float(np.isfinite(self.returned[rule]).mean())

    def interval(self, rule: str = OURS) -> tuple[float, float]:
        """Wilson's, 95 %."""
        return wilson(int(np.isfinite(self.returned[rule]).sum()), self.runs)

    def minute(self, rule: str = OURS) -> float:
        """The median, those never returned last."""
        return float(np.median(self.returned[rule]))

    @property
    def promotes(self) -> float:
        """The share of runs that ours promoted."""
        return float(np.isfinite(self.promoted).mean())

    @property
    def held(self) -> float:
        """The share of runs in which ours came to no end within the hour."""
        return float(np.mean(np.isinf(self.returned[OURS]) & np.isinf(self.promoted)))


def wilson(hits: int, runs: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's interval of a share."""
    rate, room = hits / runs, z * z / runs
    middle = (rate + room / 2) / (1 + room)
    half = z / (1 + room) * math.sqrt(rate * (1 - rate) / runs + room / (4 * runs))
    return max(middle - half, 0.0), min(middle + half, 1.0)


def run(cell: Cell, runs: int) -> Outcome:
    """All rules on the same runs of one cell."""
    world = WORLDS.get(cell.world) or NOT_TOLD[cell.world]
    seed = [SEED, *(hash_of(part) for part in (cell.world, cell.rpm, cell.share, cell.effect))]
    rng = np.random.default_rng(seed)
    counts = make(
        rng, world, runs, rpm=cell.rpm, share=cell.share, effect=cell.effect,
        slow_effect=cell.slow_effect,
    )  # fmt: skip
    outcome = Outcome(cell, runs, {name: rule(counts) for name, rule in RULES.items()})
    before = histories(rng, world, rpm=cell.rpm) if world.told else None
    outcome.returned[OURS], outcome.promoted = ours(counts, before)
    return outcome


def hash_of(part: object) -> int:
    """The same in every process."""
    return sum((at + 1) * byte for at, byte in enumerate(str(part).encode()))


def ours(
    counts: Counts, before: Histories | None, policy: Policy = POLICY
) -> tuple[Floats, Floats]:
    """The minutes at which each run is returned, or promoted."""
    runs = len(counts.measured)
    phi, sigma, known = np.ones((runs, 2)), np.zeros((runs, 2)), np.zeros((runs, 2), bool)
    if before is not None:
        for metric, failures in enumerate((before.errors, before.slow)):
            found = moments(before.requests, failures)
            which = np.arange(runs) % len(found.phi)
            known[:, metric] = found.clusters[which] >= CLUSTERS_LEAST
            phi[:, metric] = np.where(known[:, metric], found.phi_upper[which], 1.0)
            sigma[:, metric] = np.where(known[:, metric], found.sigma_upper[which], 0.0)
    returned, promoted = np.full((2, runs), np.inf)
    for start in range(0, runs, _CHUNK):
        rows = slice(start, start + _CHUNK)
        chosen = _grounds(counts, rows, phi[rows], sigma[rows], known[rows], policy)
        decisions = np.array([_CODES[decision_of(ground)] for ground in Ground])[chosen]
        bad = (decisions == _CODES[Decision.ROLL_BACK]).any(axis=-1)
        good = (decisions == _CODES[Decision.PROMOTE]).all(axis=-1) & ~bad
        bad_at, good_at = (
            np.where(flags.any(axis=1), flags.argmax(axis=1) + 1.0, np.inf) for flags in (bad, good)
        )
        returned[rows] = np.where(bad_at < good_at, bad_at, np.inf)
        promoted[rows] = np.where(good_at < bad_at, good_at, np.inf)
    return returned, promoted


_CODES = {decision: code for code, decision in enumerate(Decision)}


def _grounds(
    counts: Counts, rows: slice, phi: Floats, sigma: Floats, known: Mask, policy: Policy
) -> NDArray[np.int64]:
    """The rule at every look, as a book has it: (runs, minutes, metrics)."""
    whole = counts.measured & ~counts.step & (counts.requests[0] > 0) & (counts.requests[1] > 0)
    kept = whole[rows][..., None].astype(float)
    n, m = (np.stack([each[rows]] * 2, axis=-1) for each in counts.requests)
    canary = np.stack([counts.errors[0][rows], counts.slow[0][rows]], axis=-1) * kept
    fleet = np.stack([counts.errors[1][rows], counts.slow[1][rows]], axis=-1) * kept
    odds = np.where(kept > 0, n / np.maximum(m, 1.0), 1.0)
    pods, fleet_pods = (np.full(1, each) for each in counts.pods)
    allowed = allowance(sigma, pods, fleet_pods)[:, None]
    ceiling = policy.ceiling
    furthest = allowance(np.full_like(sigma, ceiling.sigma), pods, fleet_pods)[:, None]
    bar = 1 + policy.delta

    def so_far(values: Floats) -> Floats:
        return np.asarray(np.cumsum(values, axis=1))

    every = np.broadcast_to(phi[:, None], canary.shape)
    against = e_process.log_e(
        so_far(e_process.bets_against(canary, fleet, odds, bar * allowed)), every
    )
    far = e_process.log_e(
        so_far(e_process.bets_against(canary, fleet, odds, bar * furthest)),
        np.full(canary.shape, ceiling.phi),
    )
    alpha = policy.alpha / 2
    ratio = e_process.ratio_upper(
        so_far(e_process.likelihoods(canary, fleet, odds / allowed)), every, alpha
    )
    excess = e_process.excess_upper(
        so_far(e_process.bets_for(canary, fleet, odds / allowed)),
        so_far(kept * n / allowed), every, alpha,
    )  # fmt: skip
    clusters = np.where(known, phi, ceiling.phi)[:, None]
    sources = np.stack([counts.sources[rows] * kept[..., 0], canary[..., 1]], axis=-1)
    sources[..., 1] /= np.broadcast_to(clusters, sources.shape)[..., 1]
    measured = so_far(np.broadcast_to(kept, canary.shape))
    return grounds(
        policy,
        log_e=np.stack([against, far, np.zeros_like(far)]),
        known=np.broadcast_to(known[:, None], canary.shape).astype(bool),
        failing_windows=so_far((canary > 0) * 1.0),
        sources=so_far(sources),
        windows=measured,
        seconds=60 * measured,
        bounds=(ratio, excess),
    )


def grid(kind: str) -> list[Cell]:
    """The cells of a part of the grid."""
    names = {
        "shared": SHARED, "scattered": SCATTERED, "not told": list(NOT_TOLD),
        "worse": [SHARED[0], SCATTERED[-1]],
    }[kind]  # fmt: skip
    effects = EFFECTS if kind == "worse" else (1.0,)
    return [
        Cell(name, rpm, share, effect)
        for name in names for rpm in RPMS for share in SHARES for effect in effects
    ]  # fmt: skip


def fleet_windows(start: float, regions: Iterable[str], rng: np.random.Generator) -> list[Window]:
    """A minute of every region, of one model."""
    drawn = []
    for region in regions:
        n, m, errors, fleet_errors, slow, fleet_slow = rng.poisson(
            (600, 6000, 3, 30, 6, 60)
        ).astype(float)
        drawn.append(
            Window(
                region, start, start + 60,
                Arm(n, errors, None, n, slow, 100.0, 1.0),
                Arm(m, fleet_errors, None, m, fleet_slow, 100.0, 10.0),
                placebo=Arm(m / 10, fleet_errors // 10, None, m / 10, fleet_slow // 10),
            )
        )  # fmt: skip
    return drawn


def decide_seconds(minutes: int = 3) -> float:
    """CPU to add a minute to, and judge with words, as many regions of as many models."""
    rng = np.random.default_rng(SEED)
    regions = tuple(f"region-{number:02}" for number in range(FLEETS))
    known = {(region, metric): Dispersion(1.1, 0.1) for region in regions for metric in Metric}
    books = [Book(Policy(regions), known) for _ in range(FLEETS)]
    seconds = math.inf
    for minute in range(minutes):
        drawn = [fleet_windows(60.0 * minute, regions, rng) for _ in books]
        began = time.process_time()
        books = [book.after(each) for book, each in zip(books, drawn, strict=True)]
        verdicts = [judge(book) for book in books]
        told = sum(len(region.because) for verdict in verdicts for region in verdict.regions)
        seconds = min(seconds, time.process_time() - began)
        if told != 2 * FLEETS * FLEETS:
            raise AssertionError(told)
    return seconds


def measure(runs: int) -> Result:
    """The grid against its bars."""
    began = time.perf_counter()
    result = Result(
        "rollout_verdict",
        f"canaries promoted, returned or held: {runs} runs of {MINUTES} minutes a cell",
        peer="Argo's, where a row has one",
    )
    found = {kind: list(outcomes_of(grid(kind), runs)) for kind in KINDS}
    for kind, title in (
        ("shared", "false alarms at most, what is shared"),
        ("scattered", "false alarms at most, scatter known"),
        ("not told", "false alarms at most, scatter unknown"),
    ):
        worst = max(found[kind], key=Outcome.rate)
        result.rows.append(Row(title, "", [worst.rate()], limit=ALARMS_MOST))
        low, high = worst.interval()
        result.notes.append(f"{title}: {_named(worst.cell)}, {low:.4f}-{high:.4f}")
        for rule in RULES:
            rates = [each.rate(rule) for each in found[kind]]
            result.notes.append(f"  {rule}: {np.median(rates):.2f} as median, {max(rates):.2f}")
    plain = [each for each in found["worse"] if each.cell.world == SHARED[0]]
    for share in SHARES:
        (ten,) = _of(plain, 600.0, share, 10.0)
        result.rows.append(
            Row(f"x10 at 600 rpm, share {share:.0%}", "min", [ten.minute()],
                [ten.minute("Argo, limit 3")], limit=1.0)
        )  # fmt: skip
        (little,) = _of(plain, 60_000.0, share, 1.03)
        result.rows.append(
            Row(f"x1.03 at 60,000 rpm returned, share {share:.0%}", "", [little.rate()],
                limit=ALARMS_MOST)
        )  # fmt: skip
        (ten,) = _of(plain, 60.0, share, 10.0)
        result.rows.append(
            Row(f"x10 at 60 rpm returned, share {share:.0%}", "", [ten.rate()], least=0.95)
        )
        (same,) = _of([each for each in found["shared"] if each.cell.world == SHARED[0]], 60.0,
                      share, 1.0)  # fmt: skip
        for outcome in (same, *_of(plain, 60.0, share, 1.5), *_of(plain, 60.0, share, 2.0)):
            name = f"x{outcome.cell.effect:g} at 60 rpm held, share {share:.0%}"
            result.rows.append(Row(name, "", [outcome.held]))
            result.notes.append(
                f"{name}: returned {outcome.rate():.2f}, promoted {outcome.promotes:.2f}"
            )
    result.notes.append(
        f"the grid took {time.perf_counter() - began:.0f} s on {os.cpu_count()} cores"
    )
    result.rows.append(
        Row(f"{FLEETS} regions x {FLEETS} models, CPU", "s", [decide_seconds()],
            limit=DECIDE_SECONDS_MOST)
    )  # fmt: skip
    return result


def _of(outcomes: list[Outcome], rpm: float, share: float, effect: float) -> list[Outcome]:
    wanted = (rpm, share, effect)
    return [each for each in outcomes
            if (each.cell.rpm, each.cell.share, each.cell.effect) == wanted]  # fmt: skip


def _named(cell: Cell) -> str:
    return f"{cell.world}, {cell.rpm:,.0f} rpm, share {cell.share:.0%}, x{cell.effect:g}"


def figure(outcomes: Iterable[Outcome]) -> str:
    """False alarms at 600 rpm and what ours says of good and bad canaries, at a share of 10 %."""
    at = {each.cell: each for each in outcomes if each.cell.share == _FIGURE_SHARE}
    rules = (OURS, *RULES)
    dots = [
        Dots(name, [(found.rate(rule), *found.interval(rule)) for rule in rules])
        for name in WORLDS
        if (found := at.get(Cell(name, 600.0, _FIGURE_SHARE)))
    ]
    bars = []
    for rpm in (60.0, 600.0, 6000.0):
        for effect in (1.0, 1.5, 2.0, 10.0):
            found = at.get(Cell(SHARED[0], rpm, _FIGURE_SHARE, effect))
            if found:
                bars.append(
                    Bar(f"x{effect:g}, {rpm:,.0f} rpm", found.rate(), found.held, found.promotes)
                )
    runs = max(each.runs for each in at.values())
    caption = (
        f"{runs:,} runs of an hour each; the canary's share is {_FIGURE_SHARE:.0%}; left at 600 "
        "requests a minute to it; bars are Wilson's intervals of 95 %"
    )
    return draw(rules, dots, bars, caption)


def outcomes_of(cells: Iterable[Cell], runs: int) -> Iterator[Outcome]:
    """The cells, in their order, on all cores."""
    with ProcessPoolExecutor() as pool:
        yield from pool.map(run, cells, repeat(runs))


def main() -> None:
    """Every cell, a line each."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else RUNS
    outcomes = []
    for found in outcomes_of((cell for kind in KINDS for cell in grid(kind)), runs):
        outcomes.append(found)
        told = "  ".join(
            f"{found.rate(rule):.3f}@{found.minute(rule):<4.0f}" for rule in (OURS, *RULES)
        )
        print(
            f"{_named(found.cell):58}  {told}  promoted {found.promotes:.3f}  "
            f"held {found.held:.3f}",
            flush=True,
        )
    if len(sys.argv) > 2:
        Path(sys.argv[2]).write_text(figure(outcomes))


if __name__ == "__main__":
    main()
