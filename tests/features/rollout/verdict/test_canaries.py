"""Made-up canaries, judged as the benchmark judges them: a few cells of its grid, fewer runs; and
that a book, fed window by window, says what the grid's arrays say."""

from __future__ import annotations

import math
from collections.abc import Callable
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from benchmarks import rollout_peers as peers
from benchmarks.rollout_verdict import (
    OURS,
    POLICY,
    Cell,
    Outcome,
    figure,
    ours,
    run,
    wilson,
)
from benchmarks.rollout_worlds import MINUTES, WORLDS, Counts, Floats, World, histories, make
from mlplatform.core.seen import Unknown
from mlplatform.rollout.verdict.book import Book
from mlplatform.rollout.verdict.dispersion import Dispersion, estimate
from mlplatform.rollout.verdict.judge import Decision, judge
from mlplatform.rollout.verdict.policy import Metric
from mlplatform.rollout.verdict.window import Arm, Event, Window

RUNS = 120

HEALTHY = [
    # world, requests a minute, share
    ("independent requests", 60, 0.01),
    ("shared drift x3", 600, 0.10),
    ("shared incident x6", 600, 0.50),
    ("weight steps in drift", 6_000, 0.10),
    ("share wanders in drift", 600, 0.50),
    ("gaps, 20 %", 600, 0.10),
    ("retry bursts", 600, 0.10),
    ("batches of 16", 600, 0.10),
    ("pods differ by 0.3", 600, 0.50),
    ("all of it", 6_000, 0.10),
    ("retry bursts, not told", 600, 0.10),
    ("batches of 16, not told", 6_000, 0.10),
    ("pods differ by 0.3, not told", 6_000, 0.10),
]


@pytest.mark.parametrize(("world", "rpm", "share"), HEALTHY)
def test_healthy_canaries_are_not_returned(world: str, rpm: float, share: float) -> None:
    """In no more than 5 % of runs: of 120, beyond what chance allows."""
    found = run(Cell(world, rpm, share), RUNS)
    assert found.interval()[0] <= 0.05


WORSE: list[tuple[Cell, Callable[[Outcome], bool]]] = [
    (
        Cell("independent requests", 600, 0.10, 10.0),
        lambda found: found.minute() <= found.minute("Argo, limit 3"),
    ),
    (Cell("independent requests", 60, 0.10, 10.0), lambda found: found.rate() > 0.95),
    (Cell("independent requests", 60, 0.10, 1.0), lambda found: found.held > 0.5),
    (Cell("independent requests", 60, 0.10, 2.0), lambda found: found.held > 0.5),
    (Cell("independent requests", 60_000, 0.10, 1.03), lambda found: found.promotes == 1.0),
    (Cell("independent requests", 6_000, 0.10, 2.0), lambda found: found.promotes == 0.0),
    (Cell("all of it", 6_000, 0.10, 4.0), lambda found: found.rate() > 0.95),
    (
        Cell("independent requests", 600, 0.10, 1.0, slow_effect=2.03),  # latency +15 %
        lambda found: found.rate() > 0.9,
    ),
]


@pytest.mark.parametrize(("cell", "holds"), WORSE, ids=[str(cell) for cell, _ in WORSE])
def test_worse_canaries(cell: Cell, holds: Callable[[Outcome], bool]) -> None:
    found = run(cell, RUNS)
    assert holds(found), (found.rate(), found.promotes, found.held, found.minute())


@pytest.mark.parametrize(
    ("world", "effect", "told"),
    [("weight steps in drift", 3.0, True), ("gaps, 20 %", 6.0, True), ("retry bursts", 8.0, False)],
)
def test_a_book_says_what_the_grid_says(world: str, effect: float, *, told: bool) -> None:
    runs = 6
    rng = np.random.default_rng(7)
    counts = make(rng, WORLDS[world], runs, rpm=600, share=0.1, effect=effect)
    before = histories(rng, WORLDS[world], rpm=600) if told else None
    returned, promoted = ours(counts, before)
    for each in range(runs):
        known: dict[tuple[str, Metric], Dispersion | Unknown] = {}
        if before is not None:
            known = {
                ("here", Metric.ERRORS): estimate(before.requests[each], before.errors[each]),
                ("here", Metric.LATENCY): estimate(before.requests[each], before.slow[each]),
            }
        assert ended(counts, each, Book(POLICY, known)) == (returned[each], promoted[each])


def ended(counts: Counts, run: int, book: Book) -> tuple[float, float]:
    for minute in range(MINUTES):
        book = book.after([window(counts, run, minute)])
        decision = judge(book).decision
        if decision is not Decision.HOLD:
            at = minute + 1.0
            return (at, math.inf) if decision is Decision.ROLL_BACK else (math.inf, at)
    return math.inf, math.inf


def window(counts: Counts, run: int, minute: int) -> Window:
    canary, fleet = (
        Arm(
            requests=counts.requests[arm][run, minute],
            errors=counts.errors[arm][run, minute],
            sources=counts.sources[run, minute] if arm == 0 else None,
            timed=counts.requests[arm][run, minute],
            slow=counts.slow[arm][run, minute],
            requests_per_warm_gpu=100.0,
            pods=counts.pods[arm],
        )
        for arm in (0, 1)
    )
    events = set()
    if counts.step[run, minute]:
        events.add(Event.WEIGHT_STEP)
    if not counts.measured[run, minute]:
        events.add(Event.GAP)
    return Window("here", 60.0 * minute, 60.0 * minute + 60, canary, fleet, frozenset(events))


# --- the peers ------------------------------------------------------------------------------------


def told(errors: str, *, measured: str = "") -> Counts:
    """Of each minute the per cent of errors of 1,000 requests, as a digit; the rest of the hour as
    the last. `measured`: `_` where nothing was."""
    digits = errors.ljust(MINUTES, errors[-1])
    share = np.array([[float(digit) for digit in digits]]) / 100
    requests = np.full((1, MINUTES), 1000.0)
    quick = np.full((1, MINUTES), 0.1)
    seen = np.array([[sign != "_" for sign in measured.ljust(MINUTES, ".")]])
    nothing = np.zeros((1, MINUTES))
    return Counts(
        (requests, requests),
        (1000 * share, nothing),
        (nothing, nothing),
        (quick, quick),
        1000 * share,
        seen,
        np.zeros((1, MINUTES), bool),
        (1.0, 1.0),
    )


PEERS = [
    # per cent of errors by minute, minutes measured, and when Argo, Flagger and OME return it
    ("0", "", math.inf, math.inf, math.inf),
    ("2", "", 4, 5, 5),
    ("2220", "", math.inf, math.inf, 5),  # OME looks at five minutes at once
    ("22202", "", 5, 6, 5),
    ("0202020200", "", 8, math.inf, math.inf),
    ("02020202020", "", 8, 10, 10),
    ("0", "_____", 5, 5, math.inf),
    ("0", "____.____", math.inf, 6, math.inf),
]


@pytest.mark.parametrize(("errors", "measured", "argo", "flagger", "ome"), PEERS)
def test_peers(errors: str, measured: str, argo: float, flagger: float, ome: float) -> None:
    counts = told(errors, measured=measured)
    assert (peers.argo(counts)[0], peers.flagger(counts)[0]) == (argo, flagger)
    assert peers.ome(counts)[0] == ome


def test_kayenta_is_its_test_inverted() -> None:
    """Beside the definition: the least shift at which the corrected statistic is below its
    quantile, sought by bisection, as a root finder would."""
    rng = np.random.default_rng(3)
    x, y = rng.poisson(4, (2, 40, MINUTES)) / 60  # many ties
    x = x + rng.integers(0, 3, (40, 1)) / 60
    measured = np.ones((40, MINUTES), bool)
    found = peers._is_high(x, y, measured)
    wanted = [by_definition(each, other) for each, other in zip(x, y, strict=True)]
    assert found.tolist() == wanted
    assert 5 < found.sum() < 35


def by_definition(x: Floats, y: Floats) -> bool:
    n = len(x)

    def statistic(shift: float) -> float:
        pooled = np.concatenate([x - shift, y])
        _, which, sizes = np.unique(pooled.round(9), return_inverse=True, return_counts=True)
        ranks = (np.cumsum(sizes) - (sizes - 1) / 2)[which]
        dz = ranks[:n].sum() - n * (n + 1) / 2 - n * n / 2
        ties = (sizes**3 - sizes).sum() / (2 * n * (2 * n - 1))
        sigma = math.sqrt(n * n / 12 * (2 * n + 1 - ties))
        return float((dz - 0.5 * np.sign(dz)) / sigma)

    def root(quantile: float) -> float:
        low, high = float(x.min() - y.max()), float(x.max() - y.min())
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if statistic(middle) > quantile else (low, middle)
        return low

    lower, shift = root(2.3263), root(0.0)
    return lower > 0.25 * abs(shift) and float(x.mean()) >= float(y.mean())


# --- what the figures are made of -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("hits", "runs", "low", "high"), [(0, 2000, 0.0, 0.0019), (10, 200, 0.0274, 0.0896)]
)
def test_wilson(hits: int, runs: int, low: float, high: float) -> None:
    assert wilson(hits, runs) == pytest.approx((low, high), abs=1e-4)


@pytest.mark.parametrize("world", [World(), World(retries=0.7), World(batch=16), World(sigma=0.3)])
def test_worlds_are_as_they_are_described(world: World) -> None:
    rng = np.random.default_rng(5)
    made = make(rng, world, 300, rpm=600, share=0.1)
    for arm in (0, 1):
        rate = made.errors[arm].sum() / made.requests[arm].sum()
        assert rate == pytest.approx(0.005, rel=0.1 if arm == 0 else 0.06)
        assert np.median(made.p99_seconds[arm]) == pytest.approx(0.64, rel=0.2)
    clusters = made.errors[0].var() / made.errors[0].mean()
    wanted = {0.7: (1 + 0.7) / (1 - 0.7), 0.0: world.batch}[world.retries]
    assert clusters == pytest.approx(wanted, rel=0.2 + world.sigma)


def test_the_figure_is_a_small_picture_with_every_rule() -> None:
    drawn = figure(
        [run(Cell(name, 600.0, 0.1), 20) for name in ("independent requests", "retry bursts")]
    )
    assert ET.fromstring(drawn).tag.endswith("svg")
    assert len(drawn) < 20_000
    for word in (OURS, "Argo", "Flagger", "OME", "Kayenta", "retry bursts", "x1, 600 rpm"):
        assert word in drawn
