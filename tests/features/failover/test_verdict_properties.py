"""What holds of every verdict, whatever was seen; and that what would change it, does."""

from __future__ import annotations

import random
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace

import pytest
from hypothesis import assume, event, example, given
from hypothesis import strategies as st

from mlplatform.core.seen import Unknown
from mlplatform.core.topology import Topology
from mlplatform.core.traffic import Traffic
from mlplatform.failover.evidence.record import (
    Evidence,
    GoldenAnswer,
    Outside,
    Path,
    Sample,
    Series,
    Sighting,
    VantageRecord,
)
from mlplatform.failover.verdict.ballot import Change, Health, Outlook, Standing, Tally, rule
from mlplatform.failover.verdict.judge import judge, judge_all, would_change
from mlplatform.failover.verdict.phi import phi

from .eyes import AT, INTERVAL_SECONDS, REGION, Row, direct, outside, record, sighting, traffic_of

RISE, FALL = 5, 3


@dataclass(frozen=True)
class World:
    """What was seen, drawn; the evidence and the topology come of it."""

    drawn: tuple[Row, ...]
    elsewhere: Mapping[str, Mapping[str, str]]
    """Golden answers of another region, `eu`, by vantage, then by model."""
    callers: str | None
    domains: int = 3

    @property
    def traffic(self) -> Traffic:
        return traffic_of(list(self.drawn), rise=RISE, fall=FALL, domains=self.domains)

    @property
    def evidence(self) -> Evidence:
        sightings = {row.name: sighting(row) for row in self.drawn}
        for name, golden in self.elsewhere.items():
            held = sightings[name]
            if isinstance(held.record, VantageRecord):
                told = record(Row(name, rounds="+....", golden=golden), region="eu")
                merged = held.record.model_copy(
                    update={
                        "series": (*held.record.series, *told.series),
                        "golden": (*held.record.golden, *told.golden),
                    }
                )
                sightings[name] = replace(held, record=merged)
        return Evidence(sightings, outside(self.callers))


SILENT = ("absent", "unreadable", "blind", "stale", "behind", "ahead")
NAMES = ("fra", "lon", "sin", "tok", "syd", REGION)
PATTERNS = (".....", "xxx", "ccc", "sss", "5", "_", ".")

signs = st.one_of(
    st.text(".", min_size=5, max_size=12),
    st.text("x", min_size=3, max_size=12),
    st.builds("".join, st.lists(st.sampled_from(PATTERNS), min_size=1)),
    st.builds(
        lambda before, text: before + text, st.sampled_from("+-"), st.text(".sxrc5_", max_size=12)
    ),
)
golden = st.dictionaries(
    st.sampled_from(("m", "n", "o")),
    st.one_of(st.just("....."), st.just("xxx"), st.text(".x", min_size=1, max_size=8)),
    max_size=3,
)
callers = st.sampled_from(
    (
        None,
        "empty",
        "nan",
        "unknown",
        "99.9% 10/s",
        "99.9% 0/s",
        "99.9%",
        "40% 10/s",
        "40%",
        "99.9% 10/s 2s",
        "2s",
    )
)


@st.composite
def row(draw: st.DrawFn, name: str, domains: tuple[str, ...] = ("", "one", "two")) -> Row:
    if draw(st.integers(0, 5)) == 0:
        return Row(name, draw(st.sampled_from(domains)), draw(st.sampled_from(SILENT)))
    front = draw(st.one_of(st.none(), st.text(".x", min_size=1, max_size=8)))
    return Row(name, draw(st.sampled_from(domains)), draw(signs), draw(golden), front)


@st.composite
def worlds(draw: st.DrawFn) -> World:
    names = draw(st.lists(st.sampled_from(NAMES), unique=True, min_size=1, max_size=6))
    drawn = tuple(draw(row(name)) for name in names)
    elsewhere = draw(st.dictionaries(st.sampled_from(names), golden, max_size=len(names)))
    return World(drawn, elsewhere, draw(callers), draw(st.sampled_from((1, 2, 3, 3, 3, 4))))


@st.composite
def good_worlds(draw: st.DrawFn) -> World:
    """Most see it up; one or two may say anything."""
    world = draw(worlds())
    odd = draw(st.sets(st.integers(0, 5), max_size=2))
    drawn = tuple(
        each if number in odd else Row(each.name, each.domain, "........")
        for number, each in enumerate(world.drawn)
    )
    return World(drawn, {}, draw(st.sampled_from((None, "empty", "99.9% 10/s"))), world.domains)


def of(world: World) -> Health:
    return judge(REGION, world.evidence, world.traffic).health


def world_of(picture: dict[str, str], callers: str | None = None) -> World:
    return World(tuple(Row(name, rounds=text) for name, text in picture.items()), {}, callers)


# --- invariants ---------------------------------------------------------------------------------


@given(worlds())
def test_never_unhealthy_with_too_few_domains(world: World) -> None:
    judged = judge(REGION, world.evidence, world.traffic)
    event(judged.health)
    voting = {
        row.domain or row.name
        for row in world.drawn
        if row.rounds not in SILENT and not row.own and row.rounds.strip("_")
    }
    if judged.health is Health.UNHEALTHY:
        assert len(voting) >= world.domains
    assert judged.because


@given(worlds(), st.randoms(use_true_random=False))
def test_in_which_order_vantages_come_changes_nothing(world: World, chance: random.Random) -> None:
    shuffled = list(world.drawn)
    chance.shuffle(shuffled)
    other = replace(world, drawn=tuple(shuffled))
    assert judge(REGION, other.evidence, other.traffic) == judge(
        REGION, world.evidence, world.traffic
    )


@given(worlds(), st.sampled_from(SILENT))
def test_unknown_when_nobody_can_see(world: World, why: str) -> None:
    blinded = replace(world, drawn=tuple(replace(row, rounds=why) for row in world.drawn))
    judged = judge(REGION, blinded.evidence, blinded.traffic)
    assert judged.health is Health.UNKNOWN
    assert judged.sick_seconds is None
    assert not judged.serves_nothing


@given(worlds(), row(REGION))
def test_what_stands_in_the_region_has_no_say(world: World, own: Row) -> None:
    others = tuple(row for row in world.drawn if not row.own)
    without, beside = (
        judge(REGION, told.evidence, told.traffic)
        for told in (
            World(others, {}, world.callers, world.domains),
            World((*others, replace(own, domain="")), {}, world.callers, world.domains),
        )
    )
    assert beside.health is without.health
    assert (beside.sick_seconds, beside.well_seconds, beside.serves_nothing, beside.models) == (
        without.sick_seconds,
        without.well_seconds,
        without.serves_nothing,
        without.models,
    )


@given(good_worlds(), st.integers(0, 5))
def test_a_vantage_that_falls_silent_makes_nothing_unhealthy_that_was_healthy(
    world: World, which: int
) -> None:
    assume(of(world) is Health.HEALTHY)
    gone = world.drawn[which % len(world.drawn)]
    silenced = replace(
        world,
        drawn=tuple(replace(row, rounds="absent") if row is gone else row for row in world.drawn),
        elsewhere={name: told for name, told in world.elsewhere.items() if name != gone.name},
    )
    removed = replace(silenced, drawn=tuple(row for row in silenced.drawn if row.name != gone.name))
    assert of(silenced) is not Health.UNHEALTHY
    assert of(removed) is not Health.UNHEALTHY


@given(
    st.lists(
        st.builds(
            lambda domain, signs, golden, front: (domain, signs, golden, front),
            st.sampled_from(("", "", "one")),
            st.text(".sxrc5", max_size=12),
            golden,
            st.one_of(st.none(), st.text(".x", min_size=1, max_size=8)),
        ),
        min_size=1,
        max_size=5,
    ),
    st.lists(st.sampled_from("+-"), min_size=5, max_size=5),
    callers,
    st.integers(0, 4),
    st.one_of(st.none(), st.sampled_from("mno")),
)
def test_one_more_good_answer_never_makes_it_worse(
    told: list[tuple[str, str, dict[str, str], str | None]],
    before: list[str],
    callers: str | None,
    which: int,
    model: str | None,
) -> None:
    """Of whoever votes already: a domain that had nothing to say may complete a quorum, whatever it
    says. `worse` is further from healthy, towards suspect and unhealthy."""
    drawn = [
        Row(name, domain, sign + (signs or "."), golden, front)
        for name, sign, (domain, signs, golden, front) in zip(NAMES, before, told, strict=False)
    ]
    world = World(tuple(drawn), {}, callers)
    chosen = drawn[which % len(drawn)]
    better = (
        replace(chosen, rounds=chosen.rounds + ".")
        if model is None
        else replace(chosen, golden={**chosen.golden, model: chosen.golden.get(model, "") + "."})
    )
    after = replace(world, drawn=tuple(better if row is chosen else row for row in drawn))
    order = [Health.HEALTHY, Health.UNKNOWN, Health.SUSPECT, Health.UNHEALTHY]
    assert order.index(of(after)) <= order.index(of(world))


@given(worlds(), st.floats(allow_nan=True), st.floats(allow_nan=True))
def test_no_number_breaks_it(world: World, first: float, second: float) -> None:
    """A vantage may write anything that is a number."""
    evidence = world.evidence
    name = world.drawn[0].name
    held = evidence.vantages[name]
    if isinstance(held.record, VantageRecord):
        series = tuple(
            each.model_copy(
                update={
                    "samples": tuple(
                        sample.model_copy(update={"seconds_ago": first, "seconds": second})
                        for sample in each.samples
                    )
                }
            )
            for each in held.record.series
        )
        broken = held.record.model_copy(
            update={"series": series, "interval_seconds": second or first}
        )
        evidence = replace(
            evidence, vantages={**evidence.vantages, name: Sighting(broken, age_seconds=first)}
        )
    numbers = Outside(first, second, first)
    judged = judge(REGION, replace(evidence, outside={REGION: numbers}), world.traffic)
    assert judged.because


# --- what would change it -----------------------------------------------------------------------


def applied(change: Change, world: World) -> Evidence:
    """The evidence as it would be, were the change to be seen."""
    evidence = world.evidence
    sightings = dict(evidence.vantages)
    for row in world.drawn:
        vantage = row.vantage
        domain = vantage.domain_of(row.name)
        if row.own or domain == REGION:
            continue
        held = sightings[row.name]
        usable = isinstance(held.record, VantageRecord) and row.rounds not in SILENT
        told = held.record if usable else record(Row(row.name, rounds="+."))
        assert isinstance(told, VantageRecord)
        if domain in change.domains:
            if change.standing is Standing.SILENT:
                sightings[row.name] = Sighting(Unknown("fell silent"))
                continue
            told = _saying(told, change.standing)
            sightings[row.name] = Sighting(told, 3.0)
        if change.models_right:
            sightings[row.name] = replace(sightings[row.name], record=_right(told, row))
    heard = dict(evidence.outside)
    if change.outside is Outlook.GOOD:
        heard[REGION] = Outside(0.99, 0.1, 10.0)
    elif change.outside is Outlook.BAD:
        heard[REGION] = Outside(0.98, 0.1, 10.0)
    return Evidence(sightings, heard)


def _saying(told: VantageRecord, standing: Standing) -> VantageRecord:
    """A record in which the region is up and quick, or down and not heard of at any front door."""
    fresh = direct("+xxx" if standing is Standing.DOWN else "-.....")
    series = [each for each in told.series if each.region != REGION]
    if standing is Standing.DOWN:
        series = [
            each.model_copy(
                update={"samples": tuple(s for s in each.samples if s.region != REGION)}
            )
            for each in series
        ]
    golden = told.golden
    if standing is Standing.UP:
        golden = tuple(
            answer.model_copy(update={"ok": True}) if answer.region == REGION else answer
            for answer in golden
        )
    return told.model_copy(update={"series": (*series, fresh), "golden": golden})


def _right(told: VantageRecord, row: Row) -> VantageRecord:
    golden = tuple(
        answer.model_copy(update={"ok": True}) if answer.region == REGION else answer
        for answer in told.golden
    )
    return told.model_copy(update={"golden": golden})


@given(worlds())
@example(world_of({"fra": ".....xxx", "lon": ".....xxx", "sin": ".....xxx"}))
@example(world_of({"fra": ".....xxx", "lon": ".....xxx", "sin": "........"}, "99.9% 9/s"))
@example(world_of({"fra": "........", "lon": "........", "sin": "........"}, "40% 9/s"))
@example(world_of({"fra": "........", "lon": "blind", "sin": "stale", "tok": "absent"}))
@example(World((Row("fra", rounds="xxx", golden={"m": "xxx"}),), {}, None, domains=1))
def test_what_would_change_a_verdict_does(world: World) -> None:
    evidence, traffic = world.evidence, world.traffic
    for change in would_change(REGION, evidence, traffic):
        event(f"{change.health} by {change.standing}")
        judged = judge(REGION, applied(change, world), traffic)
        assert judged.health is change.health, (change, judged.because)


@given(worlds())
def test_what_is_said_to_change_it_is_what_was_tried(world: World) -> None:
    evidence, traffic = world.evidence, world.traffic
    judged = judge(REGION, evidence, traffic)
    tried = would_change(REGION, evidence, traffic)
    said = [line for line in judged.would_change if not line.startswith("never unhealthy")]
    assert len(said) == len(tried)
    for line, change in zip(said, tried, strict=True):
        assert line.startswith(f"{change.health} if ")
        assert all(name in line for name in change.domains)


@given(worlds())
def test_a_verdict_that_is_not_the_best_says_how_to_better_it(world: World) -> None:
    """Whoever may vote on it can, together with callers and models, make it healthy."""
    evidence, traffic = world.evidence, world.traffic
    voters = [row for row in world.drawn if not row.own]
    assume(voters)
    if of(world) is not Health.HEALTHY:
        ways = {change.health for change in would_change(REGION, evidence, traffic)}
        assert Health.HEALTHY in ways


# --- the rule by itself -------------------------------------------------------------------------

MAY = [
    Tally(up + silent + divided + down, up, weak, divided, down, outlook, slow, models)
    for up in range(4)
    for weak in range(up + 1)
    for silent in range(3)
    for divided in range(3)
    for down in range(4)
    for outlook in Outlook
    for slow in (False, True)
    for models in (False, True)
]


def test_unhealthy_in_every_tally_there_may_be() -> None:
    for tally in MAY:
        health, _ = rule(tally, 3)
        if health is Health.UNHEALTHY:
            assert tally.voting >= 3
            assert 2 * tally.down > tally.voting
            assert tally.outside is not Outlook.GOOD
            assert tally.outside is Outlook.BAD or tally.down == tally.voting
        if health is Health.HEALTHY:
            assert 2 * tally.up > tally.eligible
            assert tally.outside is not Outlook.BAD
            assert tally.down + tally.divided <= 1
        if not tally.voting:
            assert health is Health.UNKNOWN


def test_each_guard_of_the_rule_is_needed() -> None:
    """For every line of the rule there are tallies on which nothing else decides."""
    grounds = {rule(tally, 3)[1] for tally in MAY}
    assert {ground.value for ground in grounds} == {
        "blind",
        "too-quiet",
        "down",
        "too-few",
        "contradicted",
        "not-unanimous",
        "dissent",
        "outside",
        "weak",
        "models",
        "slow-outside",
        "well",
    }


# --- phi ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("silence", "intervals", "low", "high"),
    [
        (10, [10] * 5, 0.3, 0.31),  # one half
        (15.6, [10] * 5, 7.9, 8.1),  # the reference's 16 s
        (15.6, [5, 15, 5, 15], 0.8, 0.9),  # where answers come irregularly, less surprising
        (15.6, [10, 10], 0.0, 0.0),  # too little is known
        (600, [10] * 5, 300, float("inf")),
        (9, [1] * 5, 0.0, 0.3),  # quicker than asked makes nobody impatient
    ],
)
def test_phi(silence: float, intervals: list[float], low: float, high: float) -> None:
    assert low <= phi(silence, intervals, at_least=10.0) <= high


@given(st.lists(st.floats(1, 100), min_size=3, max_size=32), st.floats(0, 1000), st.floats(0, 1000))
def test_phi_grows_with_silence(intervals: list[float], first: float, second: float) -> None:
    shorter, longer = sorted((first, second))
    assert phi(shorter, intervals, at_least=10.0) <= phi(longer, intervals, at_least=10.0)


# --- how much work it is ------------------------------------------------------------------------


def fleet(regions: int, vantages: int, *, dead: bool = False) -> tuple[Topology, Evidence]:
    """Everything that is kept, of many regions: 32 samples and 64 golden answers each."""
    names = [f"r{number:02}" for number in range(regions)]
    stores = "".join(f"  {name}: {{store: 'memory://{name}'}}\n" for name in names)
    eyes = "".join(f"    v{number}: {{domain: v{number}}}\n" for number in range(vantages))
    topology = Topology.parse(
        f"control: memory://control\nregions:\n{stores}traffic:\n  vantages:\n{eyes}"
    )
    samples = tuple(
        Sample(seconds_ago=10.0 * (31 - n), ok=not dead or n < 20, seconds=0.1) for n in range(32)
    )
    told = {}
    for vantage in topology.traffic.vantages:
        told[vantage] = VantageRecord(
            vantage=vantage,
            round=1,
            at=AT,
            interval_seconds=INTERVAL_SECONDS,
            series=tuple(
                Series(region=name, path=Path.DIRECT, samples=samples, up=True) for name in names
            ),
            golden=tuple(
                GoldenAnswer(
                    region=name,
                    model=f"m{(number * 7 + n) % 2000}",
                    version="v1",
                    seconds_ago=10.0 * (16 - n // 4),
                    ok=not dead,
                )
                for number, name in enumerate(names)
                for n in range(64)
            ),
        )
    return topology, Evidence({name: Sighting(record, 3.0) for name, record in told.items()})


def calls(topology: Topology, evidence: Evidence) -> int:
    """How many functions are called to judge everything; the same on every machine."""
    count = 0

    def trace(_frame: object, what: str, _argument: object) -> None:
        nonlocal count
        count += what in {"call", "c_call"}

    before = sys.getprofile()
    sys.setprofile(trace)
    try:
        judge_all(evidence, topology)
    finally:
        sys.setprofile(before)
    return count


@pytest.mark.parametrize("dead", [False, True])
def test_judging_is_linear_in_regions_and_in_vantages(dead: bool) -> None:
    once = calls(*fleet(10, 4, dead=dead))
    assert calls(*fleet(20, 4, dead=dead)) < 2.2 * once
    assert calls(*fleet(10, 8, dead=dead)) < 2.2 * once
