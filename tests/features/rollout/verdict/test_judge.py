"""What may be done with a canary, given what was counted: tables to read and argue about.

A case is a list of windows of a minute in one region, `eu`, each a line

    canary failures/requests  fleet failures/requests  [what else]

What else: `gap`, `step`, `crash`, `no-endpoint`, `reset`, `x3` (three such windows), `from N` (so
many new sources of errors), `placebo F/R`, `pods N`, `slow F/R fleet F/R load C/F` (latency and
requests per warm GPU). `canary ?` or `fleet ?`: it could not be read.
"""

from __future__ import annotations

import math
import random
import re
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlplatform.core.errors import UsageError
from mlplatform.core.seen import Unknown
from mlplatform.rollout.verdict.book import Book, Scatter
from mlplatform.rollout.verdict.dispersion import Dispersion
from mlplatform.rollout.verdict.judge import Decision, Ground, Verdict, judge
from mlplatform.rollout.verdict.policy import Metric, Policy, Thresholds
from mlplatform.rollout.verdict.window import Arm, Event, Window

PROMOTE, ROLL_BACK, HOLD = Decision.PROMOTE, Decision.ROLL_BACK, Decision.HOLD
EU = Policy(("eu",), (Metric.ERRORS,))
BOTH = Policy(("eu",))
KNOWN = Dispersion(phi=1.0, sigma=0.0)
EVENTS = {
    "gap": Event.GAP,
    "step": Event.WEIGHT_STEP,
    "crash": Event.CRASH,
    "no-endpoint": Event.NO_ENDPOINT,
    "reset": Event.RESET,
}


def windows(picture: str, region: str = "eu") -> list[Window]:
    drawn: list[Window] = []
    for line in filter(None, map(str.strip, picture.splitlines())):
        times = re.search(r"\bx(\d+)\b", line)
        for _ in range(int(times[1]) if times else 1):
            start = drawn[-1].end if drawn else 1000.0
            drawn.append(window(line, start, region))
    return drawn


def window(line: str, start: float, region: str = "eu") -> Window:
    whole = line
    latency = re.search(r"slow (\S+) fleet (\S+) load (\S+)", line)
    line = line.replace(latency[0], "") if latency else line
    placebo = re.search(r"placebo (\S+)", line)
    line = line.replace(placebo[0], "") if placebo else line
    pods = re.search(r"pods (\d+)", line)
    sources = re.search(r"from (\d+)", line)
    canary, fleet = (counted(text) for text in re.findall(r"(?:canary|fleet) \?|\d+/\d+", line)[:2])
    if isinstance(canary, Arm):
        canary = replace(
            canary,
            sources=float(sources[1]) if sources else None,
            pods=float(pods[1]) if pods else None,
        )
    if latency and isinstance(canary, Arm) and isinstance(fleet, Arm):
        canary_slow, fleet_slow = (pair(latency[at]) for at in (1, 2))
        loads = [None if each == "?" else float(each) for each in latency[3].split("/")]
        canary, fleet = (
            replace(arm, slow=slow, timed=timed, requests_per_warm_gpu=load)
            for arm, (slow, timed), load in zip(
                (canary, fleet), (canary_slow, fleet_slow), loads, strict=True
            )
        )
    stable = counted(placebo[1]) if placebo else None
    return Window(
        region,
        start,
        start + 60,
        canary,
        fleet,
        frozenset(event for word, event in EVENTS.items() if word in whole.split()),
        stable if isinstance(stable, Arm) else None,
    )


def pair(text: str) -> tuple[float, float]:
    failures, requests = text.split("/")
    return float(failures), float(requests)


def counted(text: str) -> Arm | Unknown:
    if text.endswith("?"):
        return Unknown("Prometheus: no sample")
    failures, requests = pair(text)
    return Arm(requests, failures)


def verdict(
    picture: str, policy: Policy = EU, known: Dispersion | Unknown | None = KNOWN
) -> Verdict:
    scatter: Scatter = (
        {}
        if known is None
        else {(region, metric): known for region in policy.regions for metric in policy.metrics}
    )
    return judge(Book(policy, scatter).after(windows(picture)))


@dataclass(frozen=True)
class Case:
    name: str
    picture: str
    decision: Decision
    because: str = ""
    """Found in the reasons."""
    policy: Policy = EU
    known: Dispersion | Unknown | None = field(default=KNOWN)
    weight_zero: bool = False


ON_TIME = replace(EU, promote_on_time=True, bake_seconds=300)
SOAK = replace(EU, soak_seconds=1200)
SIMPLE = replace(BOTH, thresholds=Thresholds(), bake_seconds=600)
SCATTERED = Dispersion(phi=16.0, sigma=0.0)
PODS_DIFFER = Dispersion(phi=1.0, sigma=0.3)
FEW_PODS = Unknown("4 stable pods, 8 are needed")

CASES = [
    Case("nothing yet", "", HOLD, "nothing could be compared"),
    Case("a minute at 60 rpm says nothing", "0/60 15/3000", HOLD, "inconclusive"),
    Case("as the fleet, at 6,000 rpm", "30/6000 300/60000 x3", PROMOTE, "not worse than x1."),
    Case("as the fleet, at 60 rpm, for an hour", "0/60 15/3000 x42\n1/60 15/3000 x18", PROMOTE),
    Case("as the fleet, at 60 rpm, for ten minutes", "0/60 15/3000 x7\n1/60 15/3000 x3", HOLD,
         "more to promote if it is as good as the fleet"),
    Case("no errors at all, for 20 minutes at 60 rpm", "0/60 0/3000 x20", PROMOTE, "+0.4"),
    Case("no errors at all, for 5 minutes at 60 rpm", "0/60 0/3000 x5", HOLD),
    Case("3 % more at 60,000 rpm harms nobody", "309/60000 3000/600000 x3", PROMOTE),
    Case("between the bars it is held, for ever if need be", "12/6000 50/60000 x200", HOLD,
         policy=replace(EU, delta=1.5, delta_promote=1.6, epsilon=0.0001)),
    # --- worse ------------------------------------------------------------------------------------
    Case("ten times as bad, at 600 rpm", "30/600 30/6000 x2", ROLL_BACK, "worse: e-value 10^"),
    Case("ten times as bad, at 60 rpm", "3/60 15/3000 x3", ROLL_BACK),
    Case("twice as bad, at 60 rpm, is not known in ten minutes", "1/60 15/3000 x5\n0/60 15/3000 x5",
         HOLD),
    Case("twice as bad, at 6,000 rpm", "60/6000 300/60000 x2", ROLL_BACK),
    Case("an incident that both arms share is nobody's fault", "60/600 600/6000 x5", PROMOTE),
    Case("half of the world on the canary", "30/6000 30/6000\n60/6000 30/6000 x6", ROLL_BACK),
    Case("everything fails", "60/60 15/3000 x2", ROLL_BACK, "100 %"),
    # --- one loud minute, one loud client ---------------------------------------------------------
    Case("all in one window", "30/600 30/6000", HOLD, "all in 1 window, 2 needed"),
    Case("one client fails and fails", "30/600 30/6000 from 1\n30/600 30/6000 from 0 x3", HOLD,
         "from 1 independent sources, 3 needed"),
    Case("three do", "30/600 30/6000 from 2\n30/600 30/6000 from 1", ROLL_BACK),
    Case("sources unknown: batches of 16 count as one each", "16/600 0/60000 x2", HOLD,
         "from 2 independent sources", known=SCATTERED),
    # --- dispersion -------------------------------------------------------------------------------
    Case("not known, and it would matter", "12/600 30/6000 x2", HOLD, "4 stable pods, 8 are needed",
         known=FEW_PODS),
    Case("nobody looked", "12/600 30/6000 x2", HOLD, "nobody has looked at stable pods",
         known=None),
    Case("not known, and it matters not: everything fails", "60/60 15/3000 x9", ROLL_BACK,
         "far worse", known=FEW_PODS),
    Case("known, the same is worse", "12/600 30/6000 x2", ROLL_BACK),
    Case("errors come by the sixteen here: the same says nothing", "12/600 30/6000 x2", HOLD,
         "inconclusive", known=SCATTERED),
    Case("as the fleet, how errors scatter not known", "30/6000 300/60000 x3", HOLD,
         "not promoted by a bound: how errors scatter is not known", known=FEW_PODS),
    Case("pods differ here: half as bad again is a pod's luck", "45/6000 300/60000 x9 pods 1", HOLD,
         known=PODS_DIFFER),
    Case("and of twelve pods it is not", "50/6000 300/60000 x9 pods 12", ROLL_BACK,
         known=PODS_DIFFER),
    Case("stable pods in its place look as bad", "12/600 60/6000 placebo 12/600 x3", HOLD,
         "stable pods in its place have"),
    Case("stable pods in its place do not", "15/600 60/6000 placebo 6/600 x3", ROLL_BACK),
    # --- on time ----------------------------------------------------------------------------------
    Case("the bake ends, policy allows", "0/60 15/3000 x5", PROMOTE, "the bake has ended",
         policy=ON_TIME),
    Case("the bake has not ended", "0/60 15/3000 x4", HOLD, policy=ON_TIME),
    Case("gaps do not bake", "0/60 15/3000 x4\n0/60 15/3000 gap x9", HOLD,
         "9 windows left out: gap", policy=ON_TIME),
    Case("no request, no bake", "0/0 15/3000 x60", HOLD, "no request came to the canary",
         policy=ON_TIME),
    Case("the bake ends, it leans the other way", "1/60 15/3000 x4\n0/60 15/3000", HOLD,
         "leans against it", policy=ON_TIME),
    Case("the bake ends, dispersion not known, nothing against it", "0/60 15/3000 x5", PROMOTE,
         "were each independent", policy=ON_TIME, known=FEW_PODS),
    Case("policy does not allow", "0/60 15/3000 x5", HOLD, "more to promote"),
    Case("it is to soak", "30/6000 300/60000 x3", HOLD, "to soak 17 min more", policy=SOAK),
    Case("it has soaked", "30/6000 300/60000 x20", PROMOTE, policy=SOAK),
    # --- what is no statistics --------------------------------------------------------------------
    Case("a crash", "0/60 15/3000 x3\n0/60 15/3000 crash", HOLD, "its weight goes to 0 at once",
         weight_zero=True),
    Case("no endpoint", "canary ? 15/3000 no-endpoint", HOLD, "no ready endpoint",
         weight_zero=True),
    Case("a crash, then well again", "0/60 15/3000 crash\n0/60 15/3000", HOLD),
    Case("it crashes again", "0/60 15/3000 crash\n0/0 15/3000\n0/60 15/3000 crash", ROLL_BACK,
         "in 2 windows", weight_zero=True),
    Case("it crashes and records nothing", "canary ? 15/3000 crash x2", ROLL_BACK,
         weight_zero=True),
    Case("good enough, but it has just crashed", "30/6000 300/60000 x3\n0/1 300/60000 crash", HOLD,
         weight_zero=True),
    Case("the bake begins anew after a crash", "0/60 15/3000 crash\n0/60 15/3000 x4", HOLD,
         policy=ON_TIME),
    # --- what is left out, and told ---------------------------------------------------------------
    Case("weights changed in the worst window", "30/600 30/6000\n30/600 30/6000 step", HOLD,
         "1 window left out: weights were changed within it"),
    Case("counters began again: what was counted since is in", "30/600 30/6000 reset x2", ROLL_BACK,
         "counters began again in 2 windows"),
    Case("the canary cannot be read", "canary ? 15/3000 x60", HOLD, "the canary could not be read"),
    Case("the fleet cannot be read", "3/60 fleet ? x60", HOLD, "the fleet could not be read"),
    Case("more failures than requests", "70/60 15/3000 x60", HOLD, "counts do not fit"),
    Case("nobody calls the fleet", "3/60 0/0 x60", HOLD, "no request came to the fleet"),
    # --- latency ----------------------------------------------------------------------------------
    Case("slow, at the same load per GPU",
         "3/600 30/6000 slow 30/600 fleet 60/6000 load 100/100 x3", ROLL_BACK,
         "90 of 1,800 requests were slow", BOTH),
    Case("slow, with more load per GPU",
         "3/600 30/6000 slow 30/600 fleet 60/6000 load 120/100 x3", HOLD,
         "requests per warm GPU differ by more than is allowed", BOTH),
    Case("within 15 %", "3/600 30/6000 slow 30/600 fleet 60/6000 load 100/114 x3", ROLL_BACK,
         policy=BOTH),
    Case("load not known", "3/600 30/6000 slow 30/600 fleet 60/6000 load ?/100 x3", HOLD,
         "requests per warm GPU are not known", BOTH),
    Case("no histogram: latency is not promoted with the rest", "30/6000 300/60000 x9", HOLD,
         "no latency histogram", BOTH),
    Case("both as the fleet",
         "30/6000 300/60000 slow 60/6000 fleet 600/60000 load 100/100 x3", PROMOTE, policy=BOTH),
    # --- the simple mode --------------------------------------------------------------------------
    Case("five checks of five", "1/60 15/3000 x5", ROLL_BACK, "5 of 5 checks failed", SIMPLE),
    Case("four, and no success takes them back", "1/60 15/3000 x4\n0/60 15/3000 x5\n1/60 15/3000",
         ROLL_BACK, "5 of 10 checks failed", SIMPLE),
    Case("slow ones count as well",
         "0/60 15/3000 slow 1/60 fleet 30/3000 load 90/100 x5", ROLL_BACK, policy=SIMPLE),
    Case("no data is no failed check", "canary ? 15/3000 x9", HOLD, "0 of 0 checks", SIMPLE),
    Case("the bake ends",
         "0/60 15/3000 slow 0/60 fleet 30/3000 load 100/100 x10", PROMOTE, "the bake has ended",
         SIMPLE),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_verdict(case: Case) -> None:
    found = verdict(case.picture, case.policy, case.known)
    (region,) = found.regions
    told = "\n".join(region.because)
    assert (found.decision, region.weight_zero) == (case.decision, case.weight_zero), told
    assert case.because in told
    assert found.weight_zero == (("eu",) if case.weight_zero else ())


def test_one_bad_region_returns_the_canary_and_is_named() -> None:
    policy = replace(EU, regions=("eu", "us", "ap"))
    scatter = {(region, Metric.ERRORS): KNOWN for region in policy.regions}
    book = Book(policy, scatter).after(
        window
        for region, line in (
            ("eu", "30/6000 300/60000 x3"),
            ("us", "60/6000 60/60000 x3"),
            ("ap", "0/60 15/3000 x3"),
        )
        for window in windows(line, region)
    )
    found = judge(book)
    assert found.decision is ROLL_BACK
    assert [each.decision for each in found.regions] == [PROMOTE, ROLL_BACK, HOLD]
    assert [reason.split()[0] for reason in found.because] == ["us"]
    assert found.needed_seconds == found.regions[2].needed_seconds < math.inf


def test_alpha_is_split_over_regions_and_metrics() -> None:
    """The same windows: enough in one region, not in one of a hundred."""
    many = replace(EU, regions=("eu", *(f"r{n}" for n in range(99))))
    picture = "5/600 15/6000 x4"
    alone, one_of_many = verdict(picture), verdict(picture, many)
    assert alone.regions[0].decision is ROLL_BACK
    assert one_of_many.regions[0].decision is HOLD
    first, second = alone.regions[0].evidence[0], one_of_many.regions[0].evidence[0]
    assert first.log10_e == second.log10_e
    assert second.log10_e_needed == pytest.approx(first.log10_e_needed + 2)


def test_a_book_read_again_is_the_same_book() -> None:
    """A controller that starts again reads its windows again, all at once."""
    drawn = windows(
        "1/60 15/3000 x5\n0/60 15/3000 gap\n2/60 15/3000 placebo 0/60 x5\n0/60 1/60 step"
    )
    book = Book(EU, {("eu", Metric.ERRORS): KNOWN})
    at_once, one_by_one = book.after(drawn), book
    for each in drawn:
        one_by_one = one_by_one.after([each])
    assert judge(at_once) == judge(one_by_one)
    assert at_once.climb("eu", Metric.ERRORS) == one_by_one.climb("eu", Metric.ERRORS)
    assert judge(book).regions[0].evidence[0].windows == 0  # a book is not changed


def test_the_climb_is_what_a_live_view_draws() -> None:
    drawn = windows("3/60 15/3000 placebo 0/60 x4")
    book = Book(EU, {("eu", Metric.ERRORS): KNOWN}).after(drawn)
    climb = book.climb("eu", Metric.ERRORS)
    assert [point.end for point in climb] == [each.end for each in drawn]
    assert climb == sorted(climb, key=lambda point: point.log10_e)
    assert climb[-1].log10_e == judge(book).regions[0].evidence[0].log10_e
    assert all(point.placebo_log10_e is not None and point.placebo_log10_e < 0 for point in climb)


def test_a_clock_that_jumps_back_or_a_window_told_twice_counts_once() -> None:
    first, second = windows("3/60 15/3000 x2")
    book = Book(EU, {}).after([first, second, second, first, replace(second, end=second.start)])
    (evidence,) = judge(book).regions[0].evidence
    assert (evidence.windows, evidence.failures) == (2, 6)
    assert "3 windows left out" not in evidence.words(EU)
    assert "2 windows left out: begins before the one before it ended" in evidence.words(EU)


NAN, INF = math.nan, math.inf
BAD_ARMS = [
    Arm(NAN, 3),
    Arm(60, NAN),
    Arm(-60, -3),
    Arm(INF, 3),
    Arm(60, 61),
]


@pytest.mark.parametrize("arm", BAD_ARMS)
@pytest.mark.parametrize("side", ["canary", "fleet"])
def test_counts_that_are_none_are_left_out(arm: Arm, side: str) -> None:
    good = windows("3/60 15/3000 x3")
    bad = replace(good[1], **{side: arm})  # type: ignore[arg-type]
    (evidence,) = judge(Book(EU, {}).after([good[0], bad, good[2]])).regions[0].evidence
    assert (evidence.windows, evidence.failures, evidence.fleet_failures) == (2, 6, 30)
    assert "1 window left out: counts do not fit" in evidence.words(EU)


def test_what_else_is_no_number_is_not_known() -> None:
    odd = Arm(600, 3, NAN, 600, 3, NAN, NAN)
    book = Book(BOTH, {("eu", Metric.ERRORS): PODS_DIFFER})
    found = [
        judge(book.after([Window("eu", 0, 60, each, Arm(6000, 30, None, 6000, 30, 1.0))]))
        for each in (odd, Arm(600, 3, None, 600, 3))
    ]
    assert repr(found[0]) == repr(found[1])
    (endless,) = judge(Book(EU, {}).after([Window("eu", 0, INF, odd, odd)])).regions[0].evidence
    assert endless.windows == 0


def test_a_region_nobody_asked_for_is_refused() -> None:
    with pytest.raises(UsageError, match="region 'us'"):
        Book(EU, {}).after(windows("0/60 0/60", "us"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"alpha": 0.0},
        {"alpha": 1.0},
        {"alpha": math.nan},
        {"delta": -0.1},
        {"delta": 1.0},
        {"epsilon": 0.0},
        {"bake_seconds": math.inf},
        {"soak_seconds": math.nan},
        {"sources_least": 0},
        {"regions": ()},
        {"regions": ("eu", "eu")},
        {"metrics": ()},
        {"thresholds": Thresholds(success_least=99.0)},
        {"thresholds": Thresholds(failed_checks=0)},
    ],
)
def test_a_policy_that_cannot_be_meant_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="rollout verdict: ") as refused:
        replace(EU, **wrong)  # type: ignore[arg-type]
    assert refused.value.hint


def test_what_is_foretold_comes_true() -> None:
    """Ten minutes as the fleet, then as long again as is said to be needed."""
    minute = "3/600 30/6000"
    held = verdict(f"{minute} x3")
    assert held.decision is HOLD
    minutes = math.ceil(held.needed_seconds / 60)
    assert verdict(f"{minute} x{3 + minutes}").decision is PROMOTE
    assert verdict(f"{minute} x{2 + minutes}").decision is HOLD


# --- what holds of every verdict ------------------------------------------------------------------

counts = st.integers(0, 30)
lines = st.lists(st.tuples(counts, counts, st.integers(30, 300), st.integers(30, 3000)), max_size=8)
dispersions = st.one_of(
    st.none(), st.builds(Dispersion, phi=st.floats(1, 20), sigma=st.floats(0, 0.5))
)
policies = st.builds(
    lambda on_time, bake: replace(EU, promote_on_time=on_time, bake_seconds=bake),
    st.booleans(),
    st.sampled_from((60.0, 300.0)),
)
ORDER = {ROLL_BACK: 0, HOLD: 1, PROMOTE: 2}


def drawn(rows: list[tuple[int, int, int, int]]) -> str:
    return "\n".join(f"{s}/{n} {f}/{m}" for s, f, n, m in rows)


@given(lines, dispersions, policies, st.data())
def test_more_errors_of_the_canary_never_make_it_more_promotable(
    rows: list[tuple[int, int, int, int]],
    known: Dispersion | None,
    policy: Policy,
    data: st.DataObject,
) -> None:
    if not rows:
        return
    worse = list(rows)
    which = data.draw(st.integers(0, len(rows) - 1))
    s, f, n, m = worse[which]
    worse[which] = (min(n, s + data.draw(st.integers(1, 30))), f, n, m)
    before, after = (verdict(drawn(each), policy, known) for each in (rows, worse))
    assert ORDER[after.decision] <= ORDER[before.decision]


@given(lines, dispersions, st.randoms(use_true_random=False))
def test_the_order_of_windows_changes_no_verdict(
    rows: list[tuple[int, int, int, int]], known: Dispersion | None, chance: random.Random
) -> None:
    mixed = list(rows)
    chance.shuffle(mixed)
    first, second = (verdict(drawn(each), EU, known) for each in (rows, mixed))
    assert first.decision == second.decision
    one, other = first.regions[0].evidence[0], second.regions[0].evidence[0]
    assert one.ground == other.ground
    assert one.log10_e == pytest.approx(other.log10_e)


@given(lines, dispersions)
def test_the_arms_changed_round_are_never_both_worse(
    rows: list[tuple[int, int, int, int]], known: Dispersion | None
) -> None:
    swapped = [(f, s, m, n) for s, f, n, m in rows]
    both = [verdict(drawn(each), EU, known).decision for each in (rows, swapped)]
    assert both.count(ROLL_BACK) <= 1


@given(lines, st.integers(2, 50))
def test_errors_say_the_same_at_any_traffic_of_the_same_shares(
    rows: list[tuple[int, int, int, int]], times: int
) -> None:
    """Of a ratio only who failed is asked, not how many did not."""
    busier = [(s, f, n * times, m * times) for s, f, n, m in rows]
    one, other = (verdict(drawn(each)).regions[0].evidence[0] for each in (rows, busier))
    assert one.log10_e == pytest.approx(other.log10_e)
    assert one.ratio_upper == pytest.approx(other.ratio_upper)
    assert other.excess_upper * times == pytest.approx(one.excess_upper)


@given(lines, dispersions, policies)
def test_what_is_said_fits_what_is_done(
    rows: list[tuple[int, int, int, int]], known: Dispersion | None, policy: Policy
) -> None:
    found = verdict(drawn(rows), policy, known)
    (region,) = found.regions
    (evidence,) = region.evidence
    assert all(region.because)
    assert (found.needed_seconds > 0) is (found.decision is HOLD)
    if evidence.ground is Ground.BOUND:
        assert min(evidence.ratio_upper / 2, evidence.excess_upper / policy.epsilon) <= 1
    if evidence.ground in {Ground.WORSE, Ground.FAR_WORSE}:
        assert evidence.ratio > 1 + policy.delta
        assert evidence.log10_e >= evidence.log10_e_needed
