"""Leaving a region: what a plan is made of, when it is stale, and what it refuses to be asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from mlplatform.core.errors import UsageError
from mlplatform.core.plan import Severity
from mlplatform.core.seen import Unknown
from mlplatform.failover.decision.decide import decide
from mlplatform.failover.decision.seen import Golden, Load, Mode, Override, Request, RouteSeen
from mlplatform.ports.traffic import RouteState

from .scene import (
    GOOD,
    IN_OR_OUT,
    NOW,
    ROUTER,
    World,
    done,
    held,
    past,
    says,
    shifts,
    weights_of,
    world,
)

PLANNED, UNPLANNED = Mode.PLANNED, Mode.UNPLANNED
ROOMY: dict[str, Any] = {"standby": {"ap": {"servers": 12}}}


# --- the parts of a plan -------------------------------------------------------------------------


def test_an_unplanned_plan() -> None:
    plan = world(us="dead", epoch=4, **ROOMY).ask(
        UNPLANNED, "us", "ap", automatic=True, reason="us is unhealthy"
    )
    shift, settle = plan.actions
    asked = {
        "route": "api",
        "mode": "unplanned",
        "source": "us",
        "targets": ["ap"],
        "automatic": True,
        "reason": "us is unhealthy",
        "broken": [],
    }
    after = {"us": 0, "eu": 50, "ap": 50}
    assert (shift.kind, shift.subject, shift.region) == ("shift", "api", "us")
    assert shift.key == "failover/api/shift/eu=50,us=50>ap=50,eu=50"
    assert shift.severity is Severity.SEVERE
    assert shift.reason == "us 50 → 0, ap 0 → 50; us is unhealthy: 3 of 3 domains see it down"
    before = {"us": 50, "eu": 50, "ap": 0}
    assert shift.parameters == {**asked, "before": before, "after": after, "step": ""}
    assert settle.key == "failover/api/settle/eu=50,us=50>ap=50,eu=50"
    assert settle.severity is Severity.MILD
    assert settle.carries_on
    assert settle.parameters == {**asked, "after": after, "hold_seconds": 0}
    assert settle.batch == shift.batch == shift.key
    assert shift.figures["epoch"] == 4
    assert shift.figures["expected"] == {"epoch": 3, "tag": "", "by": ""}
    assert shift.figures["sick_seconds"] == 40
    assert shift.figures["verdicts"] == {"us": "unhealthy", "eu": "healthy", "ap": "healthy"}
    assert shift.figures["demand"]["requests_per_second"] == 300
    assert shift.figures["load_before"] == {"us": 200, "eu": 150, "ap": 0}
    assert settle.figures == {"load_before": shift.figures["load_before"]}


def test_a_planned_plan_drains_first_and_makes_ready_again() -> None:
    plan = world(**ROOMY).ask(PLANNED, "us", "ap", reason="new switches")
    assert done(plan) == ["drain us", "shift us", "settle us", "undrain us"]
    drain, shift, _, undrain = plan.actions
    assert drain.key == "failover/api/drain/us"
    assert drain.severity is Severity.SEVERE
    assert shift.reason == "us 50 → 0, ap 0 → 50; new switches"
    assert undrain.carries_on
    assert len({action.batch or action.key for action in plan.actions}) == 3


def test_a_drained_region_calls_itself_not_ready_and_is_left_all_the_same() -> None:
    """Looked at again between the drain and the shift."""
    first = world(**ROOMY).ask(PLANNED, "us", "ap")
    open_ = past("us", ended=None, began=5, mode=PLANNED, moved=0)
    again = world(us="sick 5", recoveries=[open_], **ROOMY).ask(PLANNED, "us", "ap")
    assert [action.key for action in again.actions] == [action.key for action in first.actions]
    assert shifts(again)[0].parameters == shifts(first)[0].parameters


@pytest.mark.parametrize(
    ("health", "said"),
    [
        ("sick", "us: verdict: us is unhealthy: 3 of 3 domains see it down; a planned failover "),
        ("suspect", "us: verdict: us is suspect: 1 of 3 domains sees it down; a planned failover "),
        ("unknown", "us?: verdict: us is unknown: "),
    ],
)
def test_a_planned_failover_starts_where_all_is_well(health: str, said: str) -> None:
    made = world(us=health, **ROOMY)
    plan = made.ask(PLANNED, "us", "ap")
    assert not plan.actions
    says(plan, said)
    assert shifts(made.ask(PLANNED, "us", "ap", broken=frozenset({"verdict"})))


@pytest.mark.parametrize(
    ("keep", "scene", "after"),
    [
        (20, {}, {"us": 20, "eu": 60, "ap": 20}),  # by room: 120 and 240 of the 180 that move
        (49, {}, {"us": 49, "eu": 50, "ap": 1}),
        (20, {"weights": {"us": 20, "eu": 80, "ap": 0}}, None),
        (50, {}, None),
    ],
)
def test_a_region_may_keep_a_part_and_is_not_drained_then(
    keep: int, scene: dict[str, Any], after: dict[str, int] | None
) -> None:
    plan = world(**scene).ask(PLANNED, "us", keep=keep)
    assert weights_of(plan) == ([after] if after else [])
    assert done(plan) == (["shift us", "settle us"] if after else [])
    assert all(action.parameters["keep"] == keep for action in plan.actions)
    assert not held(plan)


def test_a_part_that_the_others_cannot_bear_stays() -> None:
    plan = world(standby={"ap": {"servers": 1}, "eu": {"servers": 4}}).ask(PLANNED, "us", keep=10)
    assert not shifts(plan)
    says(plan, "eu: headroom: 40 req/s free", "ap: headroom: 40 req/s free", "us: headroom: all 4")


def test_where_regions_are_in_or_out_no_part_can_be_kept() -> None:
    made = world(features=IN_OR_OUT, weights={"us": 50, "eu": 50, "ap": 0})
    plan = made.ask(PLANNED, "us", keep=10)
    assert not plan.actions
    says(plan, "us: regions are in or out here")


@pytest.mark.parametrize(("mode", "keep"), [(UNPLANNED, 10), (PLANNED, -1), (PLANNED, 100)])
def test_what_can_not_be_kept(mode: Mode, keep: int) -> None:
    with pytest.raises(UsageError):
        world().ask(mode, "us", keep=keep)


def two_routes(other: RouteSeen, **scene: Any) -> World:
    """The world of one route, and `batch` beside it, of the same regions."""
    made = world(**scene)
    routes = made.topology.traffic.routes
    batch = routes["api"].model_copy(update={"actuator": "memory://batch"})
    traffic = made.topology.traffic.model_copy(update={"routes": {**routes, "batch": batch}})
    topology = made.topology.model_copy(update={"traffic": traffic})
    seen = replace(made.seen, routes={**made.seen.routes, "batch": other})
    return World(topology, seen)


def other(weights: dict[str, int] | Unknown, **differs: Any) -> RouteSeen:
    there = world(**ROOMY).seen.routes["api"]
    state = weights if isinstance(weights, Unknown) else RouteState(weights)
    return replace(there, name="batch", state=state, **differs)


@pytest.mark.parametrize(
    ("why", "weights", "asked", "drains"),
    [
        ("it serves no other route", {"us": 0, "eu": 100, "ap": 0}, ("api",), True),
        ("it serves another", {"us": 50, "eu": 50, "ap": 0}, ("api",), False),
        ("the other is left as well", {"us": 50, "eu": 50, "ap": 0}, (), True),
        ("nobody knows of the other", Unknown("no answer"), ("api",), False),
    ],
)
def test_servers_are_drained_when_they_serve_nothing_else(
    why: str, weights: dict[str, int] | Unknown, asked: tuple[str, ...], drains: bool
) -> None:
    made = two_routes(other(weights), **ROOMY)
    plan = made.ask(PLANNED, "us", "ap", routes=asked)
    assert ("drain us" in done(plan)) is drains
    assert ("undrain us" in done(plan)) is drains
    assert shifts(plan)


def test_each_route_is_decided_by_itself() -> None:
    """One route is held; the other is left all the same, in batches of its own."""
    broken = {"ap": {"m": replace(GOOD, version="v0")}, "eu": {"m": replace(GOOD, servers=12)}}
    made = two_routes(other({"us": 50, "eu": 50, "ap": 0}, standby=broken), us="dead", **ROOMY)
    plan = made.ask(UNPLANNED, "us", "ap")
    assert [shift.subject for shift in shifts(plan)] == ["api"]
    assert {hold.subject for hold in plan.holds} == {"batch"}
    both = made.ask(UNPLANNED, "us")
    assert [shift.subject for shift in shifts(both)] == ["api", "batch"]
    assert len({shift.batch for shift in shifts(both)}) == 2


# --- what there is nothing to do for -------------------------------------------------------------


@pytest.mark.parametrize("mode", [PLANNED, UNPLANNED])
@pytest.mark.parametrize("locks", [{}, {"all": "audit"}], ids=["free", "locked"])
def test_a_region_that_is_left_already(mode: Mode, locks: dict[str, str]) -> None:
    plan = world(weights={"us": 0, "eu": 100, "ap": 0}, us="dead", locks=locks).ask(mode, "us")
    assert plan.noop
    assert not plan.holds


def test_the_last_region_is_never_left() -> None:
    plan = world(wanted={"us": 100}, us="dead").ask(UNPLANNED, "us")
    assert not plan.actions
    says(plan, "us: one-region: us is the only region of the route, and some serves")


def test_a_target_that_the_route_does_not_go_to() -> None:
    made = two_routes(other({"us": 100}), us="dead")
    routes = dict(made.topology.traffic.routes)
    routes["batch"] = routes["batch"].model_copy(update={"weights": {"us": 100}})
    traffic = made.topology.traffic.model_copy(update={"routes": routes})
    made = replace(made, topology=made.topology.model_copy(update={"traffic": traffic}))
    plan = made.ask(UNPLANNED, "us", "ap", routes=("batch",))
    assert held(plan)[0] == "ap: the route does not go there"
    assert not plan.actions


@pytest.mark.parametrize(
    ("models", "says_"),
    [
        (("m", "n"), None),
        (("m",), ["us: it serves n as well, which would move too"]),
        (("other",), []),
    ],
)
def test_a_route_is_moved_for_its_own_models_only(
    models: tuple[str, ...], says_: list[str] | None
) -> None:
    made = world(us="dead", models={"m": {}, "n": {}, "other": {}}, route={"models": ["m", "n"]})
    plan = made.ask(UNPLANNED, "us", models=models)
    if says_ is None:
        assert shifts(plan)
    else:
        assert not plan.actions
        assert held(plan) == says_


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"source": None}, "which region is to be left"),
        ({"source": "mars"}, "no such region"),
        ({"source": "us", "targets": ("mars",)}, "no such region"),
        ({"source": "us", "targets": ("us",)}, "from a region to itself"),
        ({"source": "us", "models": ("bert",)}, "no such model"),
        ({"source": "us", "routes": ("web",)}, "web: no such route"),
    ],
)
def test_what_no_world_could_fulfil(asked: dict[str, Any], said: str) -> None:
    made = world(us="dead")
    with pytest.raises(UsageError, match=said) as raised:
        decide(made.topology, made.seen, Request(UNPLANNED, **asked), NOW)
    assert raised.value.hint


# --- how soon clients follow ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("why", "ttl_seconds", "features", "rto_seconds", "expected", "warning"),
    [
        ("no TTL, no RTO", None, ROUTER, None, 10, ""),
        ("a TTL", 30.0, IN_OR_OUT, None, 40, ""),
        ("within the RTO", 30.0, IN_OR_OUT, 40, 40, ""),
        ("a TTL that is too long", 300.0, IN_OR_OUT, 120, 310,
         "the RTO of 120 s cannot hold: clients may keep the old answer for 300 s"),
        ("an unknown TTL", None, IN_OR_OUT, 120, None,
         "the RTO of 120 s cannot be vouched for: the record's TTL is unknown"),
    ],
)  # fmt: skip
def test_the_rto_is_judged_by_the_record_as_it_is(
    why: str,
    ttl_seconds: float | None,
    features: Any,
    rto_seconds: float | None,
    expected: float | None,
    warning: str,
) -> None:
    made = world(
        us="dead",
        features=features,
        state={"ttl_seconds": ttl_seconds},
        route={"rto_seconds": rto_seconds},
        **ROOMY,
    )
    (shift,) = shifts(made.ask(UNPLANNED, "us"))
    assert shift.figures["rto_seconds"] == expected
    assert shift.figures["ttl_seconds"] == ttl_seconds
    assert shift.figures["warning"].startswith(warning)
    assert ("; warning: " in shift.reason) is bool(warning)


# --- what a plan rests on ------------------------------------------------------------------------


def golden(**differs: Any) -> dict[str, Any]:
    assert isinstance(GOOD.golden, Golden)
    return {"standby": {"ap": {"servers": 12, "golden": replace(GOOD.golden, **differs)}}}


@pytest.mark.parametrize(
    ("why", "now", "stale"),
    [
        ("nothing", {}, False),
        ("milliseconds of a golden answer", golden(seconds=0.09, age_seconds=12), False),
        ("a few requests more", {"load": {"us": Load(104, 205), "ap": Load(2, 3)}}, False),
        ("how long it has been so", {"us": "dead 47"}, False),
        ("our own claim of the target", {"state": {"epoch": 4, "tag": "x"}, "epoch": 4}, False),
        ("other weights", {"weights": {"us": 40, "eu": 60, "ap": 0}}, True),
        ("the source answers again", {"us": "sick"}, True),
        ("the source is only suspect", {"us": "suspect"}, True),
        ("the target is suspect", {"ap": "suspect"}, True),
        ("the target serves another version",
         {"standby": {"ap": {"servers": 12, "version": "v0", "allowed": frozenset({"v0"})}}}, True),
        ("the target cannot be read", {"standby": {"ap": Unknown("no answer")}}, True),
        ("its golden answers are slow", golden(seconds=1.2), True),
        ("somebody locked something else", {"locks": {"batch": "x"}}, False),
        ("somebody locked it", {"locks": {"api": "x"}}, True),
        ("maintenance", {"maintenance": {"ap": "x"}}, True),
        ("an override", {"overrides": [Override("eu", "healthy", "x", "ada", 9)]}, True),
    ],
)  # fmt: skip
def test_what_makes_a_plan_stale(why: str, now: dict[str, Any], stale: bool) -> None:
    base: dict[str, Any] = {"us": "dead", **ROOMY}
    first = world(**base).ask(UNPLANNED, "us", "ap")
    second = world(**{**base, **now}).ask(UNPLANNED, "us", "ap")
    assert (first.basis != second.basis) is stale
    if not stale:
        assert [a.parameters for a in first.actions] == [a.parameters for a in second.actions]
        assert [a.key for a in first.actions] == [a.key for a in second.actions]


def test_the_seconds_that_an_override_has_left_make_no_plan_stale() -> None:
    def plan(seconds: float) -> dict[str, str]:
        word = Override("ap", "healthy", "x", "ada", seconds)
        return world(us="dead", overrides=[word], **ROOMY).ask(UNPLANNED, "us", "ap").basis

    assert plan(600) == plan(580) != plan(0)


def test_a_plan_is_plain_data_and_the_same_for_the_same_world() -> None:
    first = world(us="dead").ask(UNPLANNED, "us")
    second = world(us="dead").ask(UNPLANNED, "us")
    assert first.digest == second.digest
    assert type(first).model_validate_json(first.model_dump_json()) == first


def test_the_candidates_that_were_refused_stand_beside_the_shift() -> None:
    plan = world(us="dead", eu="suspect", **ROOMY).ask(UNPLANNED, "us")
    (shift,) = shifts(plan)
    assert shift.figures["refused"] == {
        "eu": ["verdict: eu is suspect: 1 of 3 domains sees it down"]
    }
    says(plan, "eu: verdict: eu is suspect")
    assert weights_of(plan) == [{"eu": 50, "ap": 50}]


# --- done, and asked again -----------------------------------------------------------------------


@pytest.mark.parametrize("mode", [PLANNED, UNPLANNED])
@pytest.mark.parametrize(
    "scene", [{}, ROOMY, {"features": IN_OR_OUT, **ROOMY}], ids=["tight", "roomy", "in or out"]
)
def test_what_is_done_is_not_done_again(mode: Mode, scene: dict[str, Any]) -> None:
    made = world(us="dead" if mode is UNPLANNED else "healthy", **scene)
    plan = made.ask(mode, "us")
    *_, last = shifts(plan)
    again = made.with_weights(last.parameters["after"]).ask(mode, "us")
    assert again.noop


def test_a_shift_is_known_by_both_its_ends() -> None:
    """Resuming compares keys, and weights may come back to what they were within an operation."""
    whole: Callable[..., World] = lambda **scene: world(us="dead", **ROOMY, **scene)  # noqa: E731
    first = whole().ask(UNPLANNED, "us", "ap")
    again = whole().ask(UNPLANNED, "us", "ap")
    later = whole(weights={"us": 30, "eu": 50, "ap": 20}).ask(UNPLANNED, "us", "ap")
    assert shifts(first)[0].key == shifts(again)[0].key
    assert shifts(first)[0].key != shifts(later)[0].key
