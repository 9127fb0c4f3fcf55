"""How much there is room for, how much of it moves, where to, and what is asked for beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlplatform.core.plan import Plan
from mlplatform.core.seen import Unknown
from mlplatform.failover.decision.headroom import apportion
from mlplatform.failover.decision.seen import Load, Mode, Rate, Recovery

from .scene import (
    DRILLED,
    GOOD,
    IN_OR_OUT,
    done,
    held,
    says,
    shifts,
    weights_of,
    world,
)

PLANNED, UNPLANNED = Mode.PLANNED, Mode.UNPLANNED


def ap(**differs: Any) -> dict[str, Any]:
    return {"standby": {"ap": differs}}


# --- the figures ---------------------------------------------------------------------------------

DECLARED = {"requests_per_second": 50, "measured_on": "2026-08-01", "expires_on": "2026-11-21"}
EXPIRED = {**DECLARED, "expires_on": "2026-11-20"}


@pytest.mark.parametrize(
    ("why", "scene", "said"),
    [
        ("just enough", ap(servers=8), None),
        ("a server too few", ap(servers=7),
         "280 req/s free (7 servers × 40 − 0), 300 needed (peak 200 × 1.5)"),
        ("its own load counts", {**ap(servers=8), "load": {"ap": Load(21, 21)}},
         "299 req/s free (8 servers × 40 − 21), 300 needed (peak 200 × 1.5)"),
        ("the peak counts, and not the present", {**ap(servers=8), "load": {"us": Load(1, 240)}},
         "320 req/s free (8 servers × 40 − 0), 360 needed (peak 240 × 1.5)"),
        ("the present counts where it is the peak", {**ap(servers=8), "load": {"us": Load(240, 1)}},
         "320 req/s free (8 servers × 40 − 0), 360 needed (peak 240 × 1.5)"),
        ("clients that ask again count", {**ap(servers=8), "safety": {"retry_factor": 2}},
         "320 req/s free (8 servers × 40 − 0), 400 needed (peak 200 × 2)"),
        ("overload is for the worst night only", {**ap(servers=7), "route": {"overload": 9}},
         "280 req/s free (7 servers × 40 − 0), 300 needed (peak 200 × 1.5)"),
        ("declared, good until today",
         {**ap(servers=6, rate=None), "capacity": {"ap": {"m": DECLARED}}}, None),
        ("declared, and expired yesterday",
         {**ap(servers=9, rate=None), "capacity": {"ap": {"m": EXPIRED}}},
         "m: the 50 req/s declared on 2026-08-01 expired on 2026-11-20; measure them again"),
        ("measured outranks declared",
         {**ap(servers=6), "capacity": {"ap": {"m": DECLARED}}},
         "240 req/s free (6 servers × 40 − 0), 300 needed (peak 200 × 1.5)"),
        ("a measured rate that is too old",
         ap(servers=9, rate=Rate(40, "measured in May", expired=True)),
         "m: its rate, measured in May, has expired"),
        ("the tightest model counts",
         {"models": {"m": {}, "n": {}}, "standby": {"ap": {"servers": 5}}},
         "200 req/s free (5 servers × 40 − 0), 300 needed (peak 200 × 1.5)"),
    ],
)  # fmt: skip
def test_room_against_demand(why: str, scene: dict[str, Any], said: str | None) -> None:
    plan = world(**scene).ask(PLANNED, "us", "ap")
    if said is None:
        assert weights_of(plan) == [{"eu": 50, "ap": 50}]
        assert not plan.holds
    else:
        assert not shifts(plan)
        assert f"ap: headroom: {said}" in held(plan)


@pytest.mark.parametrize(
    ("why", "scene", "said"),
    [
        ("no server count", ap(servers=Unknown("the cluster did not answer")),
         "m: the cluster did not answer"),
        ("no rate", ap(rate=None),
         "m: nobody has measured or declared what one server there can do"),
        ("a rate that is no number", ap(rate=Rate(float("nan"), "measured")),
         "m: its measured rate is no number"),
        ("no load at the target", {"load": {"ap": Unknown("Prometheus is away")}},
         "its present load is unknown: Prometheus is away"),
        ("an empty answer for the target", {"load": {"ap": Load(None, None)}},
         "its present load is unknown: no sample"),
        ("NaN for the target", {"load": {"ap": Load(float("nan"), 3)}},
         "its present load is unknown: no sample"),
        ("no load at the source", {"load": {"us": Unknown("Prometheus is away")}},
         "the load that moves from us is unknown: Prometheus is away"),
        ("no peak at the source", {"load": {"us": Load(100, None)}},
         "the load that moves from us is unknown: its peak has no sample"),
        ("NaN for the source", {"load": {"us": Load(100, float("nan"))}},
         "the load that moves from us is unknown: its peak has no sample"),
        ("a dead region that reads 0", {"load": {"us": Load(0, 0)}},
         "the load of us reads 0 while it is ill, which says nothing of its clients"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("automatic", [True, False], ids=["by itself", "by hand"])
def test_what_is_unknown_keeps_the_gate_closed(
    why: str, scene: dict[str, Any], said: str, automatic: bool
) -> None:
    plan = world(us="dead", **scene).ask(UNPLANNED, "us", "ap", automatic=automatic)
    assert not plan.actions
    says(plan, f"ap?: headroom: {said}", "us?: headroom: all 50 points stay: nobody can say")


def test_broken_headroom_moves_what_nobody_can_weigh() -> None:
    made = world(us="dead", load={"us": Unknown("Prometheus is away")})
    plan = made.ask(UNPLANNED, "us", "ap", broken=frozenset({"headroom"}))
    (shift,) = shifts(plan)
    assert weights_of(plan) == [{"eu": 50, "ap": 50}]
    assert shift.parameters["broken"] == ["headroom"]
    assert shift.figures["broken"] == [
        "ap: headroom: the load that moves from us is unknown: Prometheus is away"
    ]


def test_an_idle_route_needs_no_room() -> None:
    idle = dict.fromkeys(("us", "eu", "ap"), Load(0, 0))
    plan = world(load=idle).ask(PLANNED, "us", "ap")
    assert weights_of(plan) == [{"eu": 50, "ap": 50}]


# --- planned, dead, gray -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "mode", "servers", "expected"),
    [
        # ap must bear 300; overload is 1.2; weight goes in lots of 5.
        ("healthy", PLANNED, 8, 50),
        ("healthy", PLANNED, 7, 0),
        ("dead", UNPLANNED, 8, 50),
        ("dead", UNPLANNED, 7, 50),  # 280 x 1.2 = 336: ap sheds a little
        ("dead", UNPLANNED, 6, 45),  # 240 x 1.2 = 288: 48 points' worth
        ("dead", UNPLANNED, 3, 20),
        ("dead", UNPLANNED, 0, 0),
        ("sick", UNPLANNED, 8, 50),
        ("sick", UNPLANNED, 7, 45),  # only what there is room for: us still answers some
        ("sick", UNPLANNED, 6, 40),
        ("suspect", UNPLANNED, 6, 40),
        ("healthy", UNPLANNED, 6, 40),
    ],
)
def test_how_much_moves(source: str, mode: Mode, servers: int, expected: int) -> None:
    plan = world(us=source, standby={"ap": {"servers": servers}}).ask(mode, "us", "ap")
    moved = [weights.get("ap", 0) for weights in weights_of(plan)]
    assert moved == ([expected] if expected else [])
    assert all(sum(weights.values()) == 100 for weights in weights_of(plan))


def test_of_little_weight_each_point_counts() -> None:
    """A region of fifty has two points: one of them is half of what it serves."""
    made = world(wanted={"us": 4, "eu": 96, "ap": 0}, us="dead", standby={"ap": {"servers": 4}})
    assert weights_of(made.ask(UNPLANNED, "us", "ap")) == [{"us": 2, "eu": 96, "ap": 2}]


@pytest.mark.parametrize(
    ("source", "servers", "said"),
    [
        ("dead", 6, "45 of 50 points move, 5 stay: requests to it fail, for it serves nothing"),
        ("sick", 6, "40 of 50 points move, 10 stay: it still serves some of them"),
        ("dead", 0, "all 50 points stay: there is no room for them"),
    ],
)  # fmt: skip
def test_the_plan_says_what_stays_and_what_becomes_of_it(
    source: str, servers: int, said: str
) -> None:
    plan = world(us=source, standby={"ap": {"servers": servers}}).ask(UNPLANNED, "us", "ap")
    more = 8 - servers
    assert held(plan)[-1] == f"us: headroom: {said}; servers asked for: {more} more of m in ap"


# --- more servers, beside it ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("why", "scene", "mode", "expected"),
    [
        ("all fits: nothing is asked for", {"us": "dead", "standby": {"ap": {"servers": 8}}},
         UNPLANNED, ["shift us", "settle us"]),
        ("it fits with overload: asked for, after the move",
         {"us": "dead", "standby": {"ap": {"servers": 7}}},
         UNPLANNED, ["shift us", "ask-capacity ap", "settle us"]),
        ("a part fits", {"us": "dead"},
         UNPLANNED, ["shift us", "ask-capacity ap", "settle us"]),
        ("nothing fits", {"us": "dead", "standby": {"ap": {"servers": 0}}},
         UNPLANNED, ["ask-capacity ap"]),
        ("planned: capacity before weight, and before the drain", {},
         PLANNED, ["ask-capacity ap"]),
    ],
)  # fmt: skip
def test_capacity_is_asked_for_and_never_counted_on(
    why: str, scene: dict[str, Any], mode: Mode, expected: list[str]
) -> None:
    plan = world(**scene).ask(mode, "us", "ap")
    assert done(plan) == expected
    asked = [action for action in plan.actions if action.kind == "ask-capacity"]
    assert [action.parameters["servers"] for action in asked] == [8] * len(asked)


def test_each_model_is_asked_for_by_its_own_rate() -> None:
    made = world(us="dead", models={"m": {}, "n": {}}, standby={"ap": {"servers": 1}})
    there = dict(made.seen.routes["api"].standby)
    there["ap"] = {**there["ap"], "n": replace(GOOD, servers=1, rate=Rate(100, "measured"))}
    plan = made.but(standby=there).ask(UNPLANNED, "us", "ap")
    asked = {
        a.parameters["model"]: a.parameters["servers"]
        for a in plan.actions
        if "model" in a.parameters
    }
    assert asked == {"m": 8, "n": 3}


def test_the_watch_asks_once_in_a_fault_and_not_in_every_round() -> None:
    nowhere: dict[str, Any] = {
        "us": "dead 300",
        "standby": {"eu": {"servers": 0}, "ap": {"servers": 0}},
    }
    first = world(**nowhere).ask(UNPLANNED, "us", automatic=True)
    assert done(first) == ["ask-capacity eu", "ask-capacity ap"]
    asked = Recovery("op", UNPLANNED, "us", began_seconds_ago=200, ended_seconds_ago=100)
    again = world(**nowhere, recoveries=[asked]).ask(UNPLANNED, "us", automatic=True)
    assert done(again) == []
    before = replace(asked, began_seconds_ago=400, ended_seconds_ago=350)
    anew = world(**nowhere, recoveries=[before]).ask(UNPLANNED, "us", automatic=True)
    assert done(anew) == done(first)


# --- several targets -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("why", "scene", "expected"),
    [
        ("by room: eu 120, ap 240", {}, {"eu": 65, "ap": 35}),
        ("a target without room gets nothing", {"load": {"eu": Load(240, 240)},
         "standby": {"ap": {"servers": 8}}}, {"eu": 50, "ap": 50}),
        ("a target that fails a gate gets nothing", {"eu": "suspect",
         "standby": {"ap": {"servers": 8}}}, {"eu": 50, "ap": 50}),
        ("a target that nobody can weigh gets nothing", {"load": {"eu": Unknown("dark")},
         "standby": {"ap": {"servers": 8}}}, {"eu": 50, "ap": 50}),
        ("much room: equal shares", {"standby": {"eu": {"servers": 103}, "ap": {"servers": 100}}},
         {"eu": 75, "ap": 25}),
    ],
)  # fmt: skip
def test_what_moves_is_spread_by_room(
    why: str, scene: dict[str, Any], expected: dict[str, int]
) -> None:
    assert weights_of(world(us="dead", **scene).ask(UNPLANNED, "us")) == [expected]


@pytest.mark.parametrize("jitter", [0.97, 0.99, 1.01, 1.03])
@pytest.mark.parametrize("source", ["dead", "sick"])
def test_a_plan_does_not_change_with_the_noise_of_its_figures(source: str, jitter: float) -> None:
    quiet = world(us=source).ask(UNPLANNED, "us")
    noisy = world(
        us=source,
        load={"eu": Load(120 * jitter, 150 * jitter), "us": Load(100 * jitter, 200)},
    ).ask(UNPLANNED, "us")
    assert noisy.basis == quiet.basis
    assert [(a.key, a.parameters) for a in noisy.actions] == [
        (a.key, a.parameters) for a in quiet.actions
    ]


def test_what_was_agreed_to_stays_while_it_is_as_good() -> None:
    agreed = {"us": 0, "eu": 60, "ap": 40}
    now = world(us="dead").ask(UNPLANNED, "us", agreed={"api": agreed})
    assert weights_of(now) == [{"eu": 60, "ap": 40}]


@pytest.mark.parametrize(
    ("why", "scene", "agreed"),
    [
        ("a region has turned bad since", {"eu": "suspect"}, {"us": 0, "eu": 60, "ap": 40}),
        ("there is no room for it", {}, {"us": 0, "eu": 90, "ap": 10}),
        ("the weights were others", {}, {"us": 0, "eu": 40, "ap": 60}),
        ("it does not total 100", {}, {"us": 0, "eu": 60, "ap": 50}),
        ("it names other regions", {}, {"us": 0, "eu": 60, "mars": 40}),
    ],
)
def test_what_was_agreed_to_and_is_no_longer_good(
    why: str, scene: dict[str, Any], agreed: dict[str, int]
) -> None:
    made = world(us="dead", **scene)
    plan = made.ask(UNPLANNED, "us", agreed={"api": agreed})
    assert plan == made.ask(UNPLANNED, "us")
    assert weights_of(plan) != [{r: w for r, w in agreed.items() if w}]


# --- while it is under way -----------------------------------------------------------------------

OPEN = Recovery("op", UNPLANNED, "us", 20, None, targets=("ap",), moved=30)


def test_clients_that_are_on_their_way_count_before_they_arrive() -> None:
    """30 points were moved a moment ago; ap's load has not risen yet, and will by 180."""
    made = world(weights={"us": 20, "eu": 50, "ap": 30}, us="dead", recoveries=[OPEN])
    plan = made.ask(UNPLANNED, "us", "ap")
    (shift,) = shifts(plan)
    assert shift.figures["headroom"]["ap"]["present"] == 180
    assert shift.figures["demand"]["said"] == "120 needed (peak 200 × 20/50 × 1.5)"
    assert weights_of(plan) == [{"us": 10, "eu": 50, "ap": 40}]  # 60 × 1.2 = 72 of 120
    assert shift.figures["amends"] == "op"
    settled = made.but(
        recoveries=(DRILLED, replace(OPEN, ended_seconds_ago=0)),
        load={"us": Load(0, 200), "eu": Load(120, 150), "ap": Load(120, 120)},
    )
    assert weights_of(settled.ask(UNPLANNED, "us", "ap")) == [{"eu": 50, "ap": 50}]


MOVED = Recovery(
    "op", UNPLANNED, "us", 60, 10, targets=("ap",), moved=50, had={"ap": 0.0}, brought={"ap": 200.0}
)
BACK = Recovery("back", Mode.FAILBACK, None, 40, 5, targets=("us",), moved=50)


@pytest.mark.parametrize(
    ("why", "recoveries", "load", "said"),
    [
        ("no figure of its own shows it", [MOVED], Load(0, 0),
         "300 needed (with what was moved to it, 200 × 1.5)"),
        ("its own peak shows a part of it", [MOVED], Load(0, 90),
         "300 needed (with what was moved to it, 200 × 1.5)"),
        ("it had something before", [replace(MOVED, had={"ap": 60.0})], Load(0, 60),
         "390 needed (with what was moved to it, 260 × 1.5)"),
        ("its own peak is more", [MOVED], Load(0, 240), "360 needed (peak 240 × 1.5)"),
        ("while it is under way", [replace(MOVED, ended_seconds_ago=None)], Load(0, 0),
         "300 needed (with what was moved to it, 200 × 1.5)"),
        ("from two regions, one after the other",
         [MOVED, replace(MOVED, operation="op-2", source="eu", had={"ap": 0.0},
                         brought={"ap": 75.0})],
         Load(0, 0), "412 needed (with what was moved to it, 275 × 1.5)"),
        ("it was long ago", [replace(MOVED, began_seconds_ago=9000, ended_seconds_ago=3601)],
         Load(0, 30), "45 needed (peak 30 × 1.5)"),
        ("it went back since", [MOVED, BACK], Load(0, 30), "45 needed (peak 30 × 1.5)"),
        ("to another", [replace(MOVED, brought={"eu": 200.0})], Load(0, 30),
         "45 needed (peak 30 × 1.5)"),
    ],
)  # fmt: skip
def test_a_target_that_dies_right_after_it_was_given_traffic_loses_that_too(
    why: str, recoveries: list[Recovery], load: Load, said: str
) -> None:
    """us was left for ap a minute ago; now ap is dead, and eu has room for anything."""
    made = world(
        weights={"us": 0, "eu": 50, "ap": 50},
        us="dead 5000",
        ap="dead",
        load={"ap": load},
        standby={"eu": {"servers": 100}},
        safety={"cooldown_seconds": 0},
        recoveries=recoveries,
    )
    (shift,) = shifts(made.ask(UNPLANNED, "ap", broken=frozenset({"cap"})))
    assert shift.figures["demand"]["said"] == said, why


def test_what_is_moved_is_recorded_by_where_it_goes() -> None:
    plan = world(us="dead").ask(UNPLANNED, "us")
    (shift,) = shifts(plan)
    assert weights_of(plan) == [{"eu": 65, "ap": 35}]
    assert shift.figures["load_moved"] == {"eu": pytest.approx(60), "ap": pytest.approx(140)}
    assert shift.figures["load_before"] == {"us": 200, "eu": 150, "ap": 0}


# --- in or out -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("why", "scene", "expected"),
    [
        ("those that remain have room", {"wanted": {"us": 34, "eu": 33, "ap": 33},
         "standby": {"eu": {"servers": 12}}}, {"eu": 50, "ap": 50}),
        ("a standby is let in where they have not",
         {"standby": {"ap": {"servers": 8}}}, {"eu": 50, "ap": 50}),
        ("and is not where they have", {"standby": {"eu": {"servers": 12}}}, {"eu": 100}),
    ],
)  # fmt: skip
def test_in_or_out(why: str, scene: dict[str, Any], expected: dict[str, int]) -> None:
    plan = world(us="dead", features=IN_OR_OUT, **scene).ask(UNPLANNED, "us")
    assert weights_of(plan) == [expected]


@pytest.mark.parametrize(
    ("why", "scene", "said"),
    [
        ("judged by the shares it really gives, for a part of it cannot be said",
         {}, "ap: headroom: 240 req/s free (6 servers × 40 − 0), 300 needed (peak 200 × 1.5)"),
        ("one that remains would be given more, and fails a gate",
         {"wanted": {"us": 34, "eu": 33, "ap": 33}, "ap": "suspect",
          "standby": {"eu": {"servers": 50}}},
         "ap: verdict: in or out: ap would get 50 %; ap is suspect: 1 of 3 domains sees it down"),
    ],
)  # fmt: skip
def test_in_or_out_is_held_whole(why: str, scene: dict[str, Any], said: str) -> None:
    plan = world(us="dead", features=IN_OR_OUT, **scene).ask(UNPLANNED, "us")
    assert not shifts(plan)
    assert said in held(plan)


def test_in_or_out_lets_no_sick_region_stay_in() -> None:
    plan = world(
        us="dead",
        ap="dead 9000",
        features=IN_OR_OUT,
        wanted={"us": 34, "eu": 33, "ap": 33},
        standby={"eu": {"servers": 20}},
        load={"ap": Load(0, 90)},
    ).ask(UNPLANNED, "us")
    assert weights_of(plan) == [{"eu": 100}]


# --- sharing out ---------------------------------------------------------------------------------

REGIONS = st.integers(1, 6).map(lambda count: [f"r{n}" for n in range(count)])


@st.composite
def _shares(draw: st.DrawFn) -> tuple[int, dict[str, float], dict[str, int]]:
    regions = draw(REGIONS)
    shares = {r: draw(st.floats(0, 1e6)) for r in regions}
    limits = {r: draw(st.integers(0, 100)) for r in regions}
    return draw(st.integers(0, 100)), shares, limits


@given(_shares())
def test_points_are_shared_out_whole_and_within_limits(
    case: tuple[int, Mapping[str, float], Mapping[str, int]],
) -> None:
    points, shares, limits = case
    found = apportion(points, shares, limits)
    if sum(limits.values()) < points:
        assert found is None
    else:
        assert found is not None
        assert sum(found.values()) == points
        assert all(0 <= gain <= limits[region] for region, gain in found.items())


@pytest.mark.parametrize(
    ("points", "shares", "expected"),
    [
        (50, {"a": 1, "b": 1}, {"a": 25, "b": 25}),
        (50, {"a": 2, "b": 1}, {"a": 35, "b": 15}),
        (33, {"a": 1, "b": 1}, {"a": 15, "b": 18}),
        (10, {"a": 1, "b": 1, "c": 1}, {"a": 5, "b": 5, "c": 0}),
        (3, {"a": 1, "b": 5}, {"a": 0, "b": 3}),
        (10, {"a": 0, "b": 0}, {"a": 5, "b": 5}),
    ],
)
def test_in_lots_of_five(points: int, shares: dict[str, float], expected: dict[str, int]) -> None:
    assert apportion(points, shares, dict.fromkeys(shares, 100)) == expected


def test_room_is_shown_as_it_was_reckoned() -> None:
    plan: Plan = world(us="dead").ask(UNPLANNED, "us")
    (shift,) = shifts(plan)
    assert shift.figures["headroom"]["eu"] == {
        "said": "120 req/s free (6 servers × 40 − 120)",
        "model": "m",
        "servers": 6,
        "requests_per_second": 40,
        "known": "measured",
        "present": 120,
        "free": 120,
    }
