"""What holds of every plan, in worlds that nobody would think of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from mlplatform.core.plan import Plan
from mlplatform.core.seen import Unknown
from mlplatform.failover.decision.case import Case, case_of, verdicts_in_force
from mlplatform.failover.decision.decide import decide, propose_requests
from mlplatform.failover.decision.gates import closed_gates
from mlplatform.failover.decision.headroom import Demand, Room, demand_of, room_of
from mlplatform.failover.decision.rules import closed_rules
from mlplatform.failover.decision.seen import (
    Gate,
    Golden,
    Load,
    Mode,
    Override,
    Rate,
    Recovery,
    Request,
    Rule,
)

from .scene import GOOD, IN_OR_OUT, NOW, ROUTER, World, shifts, world

REGIONS = ("us", "eu", "ap", "sa", "af")
UNKNOWN = Unknown("no answer")
HEALTH = ("healthy", "healthy", "healthy", "healthy 60", "suspect", "unknown", "sick", "dead")


@st.composite
def weights(draw: st.DrawFn, regions: tuple[str, ...]) -> dict[str, int]:
    """A hundred points, somehow."""
    cuts = sorted(draw(st.lists(st.integers(0, 100), min_size=len(regions) - 1,
                                max_size=len(regions) - 1)))  # fmt: skip
    parts = [b - a for a, b in zip([0, *cuts], [*cuts, 100], strict=True)]
    return dict(zip(regions, parts, strict=True))


def mostly(good: Any, *others: Any) -> st.SearchStrategy[Any]:
    return st.sampled_from([good] * (9 * len(others)) + list(others))


@st.composite
def standby(draw: st.DrawFn) -> Any:
    assert isinstance(GOOD.golden, Golden)
    if draw(st.booleans()):
        return {"servers": draw(st.integers(0, 30))}
    differs = {
        "version": draw(mostly("v1", "v0", None)),
        "digest": draw(mostly(GOOD.digest, "blake3:bb", "", None)),
        "stored": draw(mostly(GOOD.stored, None, UNKNOWN)),
        "golden": draw(mostly(GOOD.golden, None, UNKNOWN, replace(GOOD.golden, ok=False))),
        "servers": draw(st.one_of(st.integers(0, 30), mostly(6, UNKNOWN))),
        "rate": draw(mostly(Rate(40, "measured"), None, Rate(40, "old", expired=True))),
        "canary": draw(mostly(None, "v2")),
    }
    return draw(mostly(differs, UNKNOWN))


FIGURE = st.one_of(st.none(), st.sampled_from([0.0, float("nan")]), st.floats(0, 1000))
FIGURES = st.builds(Load, st.floats(0, 300), st.floats(1, 300))


@st.composite
def load(draw: st.DrawFn) -> Load | Unknown:
    kind: st.SearchStrategy[Load | Unknown]
    kind = draw(mostly(FIGURES, st.builds(Load, FIGURE, FIGURE), st.just(UNKNOWN)))
    return draw(kind)


@st.composite
def recovery(draw: st.DrawFn, regions: tuple[str, ...], *, open_: bool) -> Recovery:
    mode = draw(st.sampled_from(list(Mode)))
    ended = None if open_ else draw(st.floats(0, 20_000))
    return Recovery(
        "op",
        mode,
        None if mode is Mode.FAILBACK else draw(st.sampled_from(regions)),
        (ended or 0) + draw(st.floats(1, 3000)),
        ended,
        tuple(draw(st.sets(st.sampled_from(regions), max_size=2))),
        draw(st.integers(0, 100)),
        draw(st.booleans()),
    )


@dataclass(frozen=True)
class Asked:
    """A world, and what is asked of it."""

    made: World
    request: Request

    @property
    def plan(self) -> Plan:
        return decide(self.made.topology, self.made.seen, self.request, NOW)

    @property
    def case(self) -> Case:
        topology, seen = self.made.topology, self.made.seen
        verdicts = verdicts_in_force(topology, seen)
        case = case_of(topology, seen, self.request, NOW.date(), "api", verdicts)
        assert isinstance(case, Case)
        return case


@st.composite
def asked(draw: st.DrawFn) -> Asked:
    """Most worlds are fit for what is asked: the rest of them is anything."""
    fit = draw(st.integers(0, 3)) > 0
    regions = REGIONS[: draw(st.integers(2 if fit else 1, 5))]
    mode = draw(st.sampled_from(list(Mode)))
    automatic = draw(st.booleans())
    wanted = draw(weights(regions))
    now = draw(weights(regions)) if mode is Mode.FAILBACK or not fit else wanted
    heaviest = max(regions, key=lambda region: now[region])
    source = heaviest if fit else draw(st.sampled_from(regions))
    words = HEALTH if not fit else ("healthy",) * 12 + HEALTH
    health: dict[str, Any] = {region: draw(st.sampled_from(words)) for region in regions}
    if fit:
        health[source] = "dead" if mode is Mode.UNPLANNED else "healthy"
    for region, word in health.items():
        if word in {"sick", "dead"}:
            health[region] = f"{word} {draw(st.integers(0, 400))}"
    recoveries = draw(st.lists(recovery(regions, open_=False), max_size=draw(mostly(0, 3, 3))))
    if draw(mostly(False, True, True)):
        recoveries.append(draw(recovery(regions, open_=True)))
    offered = {
        region: {"servers": draw(st.integers(3, 60))} if fit else draw(standby())
        for region in regions
    }
    if fit:
        offered[draw(st.sampled_from(regions))] = draw(standby())
    loads = {region: draw(FIGURES if fit else load()) for region in regions}
    made = world(
        wanted=wanted,
        weights=draw(mostly(now, UNKNOWN, {})),
        written=draw(mostly(None, now, wanted)),
        standby=offered,
        load=loads,
        recoveries=recoveries,
        locks=draw(mostly({}, {"api": "x"}, {"all": "x"})),
        maintenance=draw(mostly({}, {regions[0]: "x"})),
        overrides=draw(mostly((), (Override(regions[0], "unhealthy", "x", "ada", 60),))),
        features=draw(st.sampled_from([ROUTER, ROUTER, IN_OR_OUT])),
        epoch=draw(mostly(3, 2, None)),
        mode=draw(mostly("auto", "advise")),
        route={"overload": draw(st.sampled_from([0.5, 1.0, 1.2, 3.0]))},
        drilled=draw(mostly(True, False)),
        **health,
    )
    others = [region for region in regions if region != source]
    targets = draw(st.sets(st.sampled_from(others), max_size=3)) if others else set()
    names = [*(g.value for g in Gate), *(r.value for r in Rule)]
    # Whether the control store answers is asked before anything is decided.
    may = [n for n in names if n not in {"one-region", "fence", "advise", "control"}]
    broken: set[str] = set()
    if not automatic and not fit:
        broken = draw(st.sets(st.sampled_from(may)))
    request = Request(
        mode,
        source=None if mode is Mode.FAILBACK else source,
        targets=tuple(sorted(targets)),
        automatic=automatic,
        broken=frozenset(broken),
    )
    return Asked(made, request)


def steps(plan: Plan) -> list[tuple[Mapping[str, int], Mapping[str, int]]]:
    return [(each.parameters["before"], each.parameters["after"]) for each in shifts(plan)]


def gaining(before: Mapping[str, int], after: Mapping[str, int]) -> list[str]:
    return [region for region, weight in after.items() if weight > before.get(region, 0)]


@given(asked())
def test_weights_total_100_and_every_region_is_named(asked: Asked) -> None:
    for _, after in steps(asked.plan):
        assert sum(after.values()) == 100
        assert min(after.values()) >= 0
        assert after.keys() == asked.case.weights.keys()
        assert any(after.values())


@given(asked())
def test_each_step_begins_where_the_one_before_ends_and_changes_something(asked: Asked) -> None:
    plan = asked.plan
    if not shifts(plan):
        return
    at: Mapping[str, int] = asked.case.state.weights
    for before, after in steps(plan):
        assert before == at
        assert gaining(before, after)
        at = after


@given(asked())
def test_no_weight_for_a_region_that_fails_a_hard_gate(asked: Asked) -> None:
    for before, after in steps(asked.plan):
        for region in gaining(before, after):
            assert not closed_gates(asked.case, region), region


@given(asked())
def test_no_rule_is_overridden_but_those_that_are_named(asked: Asked) -> None:
    plan = asked.plan
    if plan.actions:
        assert not list(closed_rules(asked.case))
        assert not (asked.request.automatic and asked.case.route.mode == "advise")


@given(asked())
def test_no_cascade_takes_more_than_the_cap(asked: Asked) -> None:
    request = asked.request
    if request.mode not in (Mode.UNPLANNED, Mode.PLANNED) or "cap" in request.broken:
        return
    for before, after in steps(asked.plan):
        lost = sum(max(0, before.get(r, 0) - after[r]) for r in after)
        others = [
            r
            for r in asked.case.seen.recoveries
            if r.mode is Mode.UNPLANNED
            and r.moved
            and r.source != request.source
            and (r.ended_seconds_ago is None or r.ended_seconds_ago <= 3600)
        ]
        if others:
            assert lost + sum(r.moved for r in others) <= 50


@given(asked())
def test_what_has_weight_and_is_not_left_is_explained(asked: Asked) -> None:
    plan, request = asked.plan, asked.request
    weights_ = asked.made.seen.routes["api"].state
    if request.mode not in (Mode.UNPLANNED, Mode.PLANNED) or isinstance(weights_, Unknown):
        return
    left = shifts(plan)[-1].parameters["after"] if shifts(plan) else weights_.weights
    if left.get(request.source or "", 0):
        assert plan.holds


@given(asked())
def test_a_plan_is_plain_data(asked: Asked) -> None:
    plan = asked.plan
    assert Plan.model_validate_json(plan.model_dump_json()).digest == plan.digest
    assert len({action.key for action in plan.actions}) == len(plan.actions)


@given(asked())
def test_room_is_never_overdrawn(asked: Asked) -> None:
    """By no more than the rounding of a point; a dead region's clients may overload, as told."""
    plan, request = asked.plan, asked.request
    if not shifts(plan) or Gate.HEADROOM.value in request.broken:
        return
    case = asked.case
    soft = (
        max(case.route.overload, 1.0)
        if request.mode is Mode.UNPLANNED and case.verdict(request.source or "").serves_nothing
        else 1.0
    )
    if shifts(plan)[0].parameters["step"] == "returned":
        return  # they bore it a moment ago
    for _, after in steps(plan):
        if request.mode is Mode.DRILL and after == case.wanted:
            continue  # it goes back to where it was
        demand = demand_of(case, after)
        assert isinstance(demand, Demand)
        gains = {r: after[r] - case.weights[r] for r in gaining(case.weights, after)}
        for region, gain in gains.items():
            room = room_of(case, region)
            assert isinstance(room, Room)
            needed = demand.amount * (gain - 1) / sum(gains.values())
            assert needed <= room.free * soft * 1.000001


@settings(max_examples=300)
@given(asked())
def test_what_is_done_is_not_done_again(asked: Asked) -> None:
    """Once the last weights are in force, and clients have followed, nothing more is moved."""
    request, plan = asked.request, asked.plan
    if not shifts(plan) or request.mode is Mode.DRILL:
        return
    case = asked.case
    after = shifts(plan)[-1].parameters["after"]
    gains = {r: after[r] - case.weights[r] for r in gaining(case.weights, after)}
    demand = demand_of(case, after)
    if not isinstance(demand, Demand) or any(case.seen.load[r] == UNKNOWN for r in gains):
        return  # headroom was broken
    loads = dict(case.seen.load)
    for region, gain in gains.items():
        had = loads[region]
        assert isinstance(had, Load)
        came = demand.amount * gain / sum(gains.values())
        loads[region] = replace(had, now=(had.now or 0) + came)
    back = {r: after[r] - case.weights[r] for r in after}
    recoveries = tuple(
        replace(r, moved=max(0, r.moved + sum(back[t] for t in r.targets if t in back)))
        if r.mode is Mode.FAILBACK
        else r
        for r in case.seen.recoveries
    )
    later = asked.made.with_weights(after).but(load=loads, recoveries=recoveries)
    again = decide(later.topology, later.seen, request, NOW)
    if shifts(plan)[-1].parameters["step"] == "returned":
        # The others may go on to what they are to have; who gave back gets nothing.
        gave = {r for r, weight in after.items() if weight < case.weights[r]}
        assert not [s for s in shifts(again) if gave & set(gaining(after, s.parameters["after"]))]
        return
    assert not shifts(again), shifts(again)[0].reason


@given(asked())
def test_the_watch_asks_for_what_can_be_decided(asked: Asked) -> None:
    topology, seen = asked.made.topology, asked.made.seen
    for request in propose_requests(topology, seen):
        assert request.automatic
        assert request.routes == ("api",)
        decide(topology, seen, request, NOW)


@given(asked())
def test_where_all_is_unknown_nothing_is_done(asked: Asked) -> None:
    dark = replace(asked.made.seen, verdicts={})
    dark = replace(dark, orders=replace(dark.orders, overrides=()))
    request = replace(asked.request, broken=frozenset())
    assert not decide(asked.made.topology, dark, request, NOW).actions
    assert not propose_requests(asked.made.topology, dark)


def test_the_worlds_are_worth_it() -> None:
    """Every mode does something in enough of them."""
    did: dict[Mode, int] = dict.fromkeys(Mode, 0)

    @settings(max_examples=1000, database=None, derandomize=True)
    @given(asked())
    def look(asked: Asked) -> None:
        did[asked.request.mode] += bool(shifts(asked.plan))

    look()
    assert min(did.values()) >= 20, did
