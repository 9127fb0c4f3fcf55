"""Going back by steps, drills, and what the watch asks for by itself."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from mlplatform.core.plan import Plan
from mlplatform.core.seen import Unknown
from mlplatform.failover.decision.decide import propose_requests
from mlplatform.failover.decision.seen import Golden, Load, Mode, Override, Recovery

from .scene import (
    GOOD,
    IN_OR_OUT,
    World,
    done,
    held,
    past,
    says,
    shifts,
    weights_of,
    world,
)

UNPLANNED, PLANNED, FAILBACK, DRILL = Mode.UNPLANNED, Mode.PLANNED, Mode.FAILBACK, Mode.DRILL

LEFT: dict[str, Any] = {
    "weights": {"us": 0, "eu": 65, "ap": 35},
    "load": {"us": Load(0, 200), "eu": Load(150, 160), "ap": Load(70, 80)},
    "recoveries": [past("us", ended=8000, targets=("eu", "ap"))],
}
"""us was left two hours ago, and is well again."""


def left(**differs: Any) -> World:
    return world(**{**LEFT, **differs})


# --- by steps ------------------------------------------------------------------------------------


def test_back_by_steps_each_a_batch_of_its_own() -> None:
    plan = left().ask(FAILBACK)
    assert weights_of(plan) == [
        {"us": 1, "eu": 65, "ap": 34},
        {"us": 3, "eu": 65, "ap": 32},
        {"us": 13, "eu": 65, "ap": 22},
        {"us": 25, "eu": 62, "ap": 13},
        {"us": 50, "eu": 50},
    ]
    steps = shifts(plan)
    assert [s.parameters["step"] for s in steps] == ["1 %", "5 %", "25 %", "50 %", "100 %"]
    assert len({step.batch for step in steps}) == 5
    assert done(plan) == ["shift us", "settle us"] * 5
    for before, after in pairwise(steps):
        assert after.parameters["before"] == before.parameters["after"]
    settles = [action for action in plan.actions if action.kind == "settle"]
    assert {action.parameters["hold_seconds"] for action in settles} == {60}


def test_each_step_is_decided_anew_from_where_it_is() -> None:
    """On its way, the rest of the plan is the same plan."""
    made = left()
    whole = shifts(made.ask(FAILBACK))
    for number, step in enumerate(whole):
        open_ = past(
            "",
            ended=None,
            began=60,
            mode=FAILBACK,
            targets=("us",),
            moved=step.parameters["after"]["us"],
        )
        there = made.with_weights(step.parameters["after"]).but(
            recoveries=(*made.seen.routes["api"].recoveries, open_)
        )
        rest = shifts(there.ask(FAILBACK))
        assert [(s.key, s.parameters) for s in rest] == [
            (s.key, s.parameters) for s in whole[number + 1 :]
        ]


@pytest.mark.parametrize(
    ("why", "scene", "said"),
    [
        ("not well for long enough", {"us": "healthy 1799"},
         "us: hold-off: us has been well for 1799 s, 1800 s are needed"),
        ("not every voter sees it well", {"us": "suspect"}, "us: hold-off: us is not seen well"),
        ("a gate is closed", {"standby": {"us": {"version": "v0"}}},
         "us: version: m: its servers hold v0, allowed there is v1"),
        ("maintenance", {"maintenance": {"us": "new switches"}}, "us: maintenance: new switches"),
        ("a canary is out", {"standby": {"us": {"canary": "v2"}}}, "us: canary: m: v2 is on trial"),
        ("data behind", {"safety": {"lag_seconds": 5}, "lag": {"us": 60.0, "eu": 1.0, "ap": 1.0}},
         "us: lag: its data is 60 s behind, 5 s at most"),
        ("nobody can weigh it", {"load": {**LEFT["load"], "ap": Unknown("dark")}},
         "us?: headroom: the load that moves from ap is unknown: dark"),
        ("the topology names no weights", {"wanted": {}},
         "us: the topology gives the route no weights"),
    ],
)  # fmt: skip
def test_no_failback_before_it_is_due(why: str, scene: dict[str, Any], said: str) -> None:
    plan = left(**scene).ask(FAILBACK, None, "us")
    assert not shifts(plan)
    assert any(line.startswith(said) for line in held(plan)), held(plan)


def test_breaking_the_hold_off_is_told() -> None:
    plan = left(us="healthy 60").ask(FAILBACK, broken=frozenset({"hold-off"}))
    first, *_ = shifts(plan)
    assert first.figures["broken"] == ["us: hold-off: us has been well for 60 s, 1800 s are needed"]


def test_nothing_to_go_back_to() -> None:
    assert world().ask(FAILBACK) == world().ask(FAILBACK, None, "us")
    assert world().ask(FAILBACK).noop
    assert not world().ask(FAILBACK).holds


@pytest.mark.parametrize(
    ("servers", "steps", "asked"),
    [
        # us is to have 50 points of 220 req/s, so that 120 x 1.5 = 180 come with the last step.
        (6, 5, None),
        (4, 4, 5),
        (1, 2, 5),
        (0, 0, 5),
    ],
)
def test_steps_as_far_as_there_is_room_and_servers_for_the_last(
    servers: int, steps: int, asked: int | None
) -> None:
    plan = left(standby={"us": {"servers": servers}}).ask(FAILBACK)
    assert len(shifts(plan)) == steps
    asks = [a for a in plan.actions if a.kind == "ask-capacity"]
    assert [a.parameters["servers"] for a in asks] == ([asked] if asked else [])
    if asked:
        assert plan.actions[0] == asks[0]  # capacity rises before weight follows
        assert held(plan)[-1].startswith("us: headroom: ")


def test_a_region_that_cannot_go_back_holds_up_no_other() -> None:
    made = world(
        wanted={"us": 40, "eu": 40, "ap": 20},
        weights={"us": 0, "eu": 100, "ap": 0},
        load={"eu": Load(200, 200)},
        us="suspect",
    )
    plan = made.ask(FAILBACK)
    assert weights_of(plan)[-1] == {"eu": 80, "ap": 20}
    assert any(line.startswith("us: verdict: us is suspect") for line in held(plan))


def test_a_region_without_room_for_its_last_step_holds_up_no_other() -> None:
    made = world(
        wanted={"us": 2, "eu": 2, "ap": 96},
        weights={"us": 0, "eu": 1, "ap": 99},
        load={"us": Load(0, 2), "eu": Load(0, 1), "ap": Load(90, 99)},
        standby={"eu": {"servers": 0}},
    )
    plan = made.ask(FAILBACK)
    assert weights_of(plan)[-1] == {"us": 2, "eu": 1, "ap": 97}
    assert any(line.startswith("eu: headroom: 0 req/s free") for line in held(plan))


def test_in_or_out_goes_back_in_one_step() -> None:
    plan = left(features=IN_OR_OUT, weights={"us": 0, "eu": 100, "ap": 0}).ask(FAILBACK)
    assert weights_of(plan) == [{"us": 50, "eu": 50}]


# --- relapses ------------------------------------------------------------------------------------


def fell(ago: float) -> Recovery:
    return past("us", ended=ago, targets=("eu",))


def rose(ago: float, moved: int = 50) -> Recovery:
    """A failback; one that moved nothing in the end was taken back."""
    return past("", ended=ago, mode=FAILBACK, targets=("us",), moved=moved)


@pytest.mark.parametrize(
    ("why", "recoveries", "needed"),
    [
        ("the first time", [fell(9000)], 1800),
        ("left again after a failback", [fell(20_000), rose(16_000), fell(9000)], 3600),
        ("twice", [fell(40_000), rose(36_000), fell(30_000), rose(26_000), fell(9000)], 7200),
        ("a failback that was taken back", [fell(20_000), rose(9000, moved=0)], 3600),
        ("left in two parts is left once", [fell(9500), fell(9000)], 1800),
        ("long ago", [fell(200_000), rose(190_000), fell(9000)], 1800),
        ("another region's", [replace(fell(20_000), source="ap"), fell(9000)], 1800),
        ("never more than the longest",
         [r for n in range(9) for r in (fell(80_000 - n * 2000), rose(79_000 - n * 2000))], 86_400),
    ],
)  # fmt: skip
def test_each_relapse_doubles_the_hold_off(
    why: str, recoveries: list[Recovery], needed: int
) -> None:
    just = left(us=f"healthy {needed}", recoveries=recoveries).ask(FAILBACK)
    early = left(us=f"healthy {needed - 1}", recoveries=recoveries).ask(FAILBACK)
    assert shifts(just)
    assert not shifts(early)
    assert f"{needed} s are needed" in held(early)[0]


# --- a bad step ----------------------------------------------------------------------------------

assert isinstance(GOOD.golden, Golden)
WRONG = replace(GOOD.golden, ok=False)
ON_THE_WAY: dict[str, Any] = {
    "weights": {"us": 13, "eu": 61, "ap": 26},
    "recoveries": [
        past("us", ended=8000, targets=("eu", "ap")),
        past("", ended=None, began=200, mode=FAILBACK, targets=("us",), moved=13, automatic=True),
    ],
}
"""us has a quarter of what it is to have."""
BY_HAND = {
    **ON_THE_WAY,
    "recoveries": [replace(each, automatic=False) for each in ON_THE_WAY["recoveries"]],
}


@pytest.mark.parametrize(
    ("why", "scene", "bad"),
    [
        ("it is suspect", {"us": "suspect"}, "verdict: us is suspect"),
        ("it is sick again", {"us": "sick"}, "verdict: us is unhealthy"),
        ("it answers wrongly", {"standby": {"us": {"golden": replace(GOOD.golden, ok=False)}}},
         "golden: m: answered wrongly"),
        ("it serves an old version", {"standby": {"us": {"version": "v0"}}}, "version: m: its "),
    ],
)  # fmt: skip
@pytest.mark.parametrize("over", [False, True], ids=["open", "ended"])
def test_one_bad_step_takes_it_all_back(
    why: str, scene: dict[str, Any], bad: str, over: bool
) -> None:
    made = left(**ON_THE_WAY, **scene) if "weights" not in scene else left(**scene)
    if over:
        first, last = ON_THE_WAY["recoveries"]
        made = made.but(recoveries=(first, replace(last, ended_seconds_ago=5, passed=False)))
    plan = made.ask(FAILBACK)
    (shift,) = shifts(plan)
    assert weights_of(plan) == [{"eu": 69, "ap": 31}]
    assert bad in shift.reason
    assert any(line.startswith(f"us: {bad}") for line in held(plan))
    again = made.with_weights(shift.parameters["after"]).ask(FAILBACK)
    assert not shifts(again)


@pytest.mark.parametrize(
    ("why", "scene"),
    [
        ("nobody knows how it is", {"us": "unknown"}),
        ("its golden answer is old", {"standby": {"us": {"golden": None}}}),
        ("maintenance began", {"maintenance": {"us": "x"}}),
        ("a canary came out", {"standby": {"us": {"canary": "v2"}}}),
        ("nobody else passes", {"us": "suspect", "eu": "suspect", "ap": "unknown"}),
        ("it is locked", {"us": "suspect", "locks": {"all": "x"}}),
    ],
)
def test_what_is_not_positively_bad_or_cannot_be_taken_back_stays_where_it_is(
    why: str, scene: dict[str, Any]
) -> None:
    plan = left(**ON_THE_WAY, **scene).ask(FAILBACK)
    assert not plan.actions
    assert plan.holds


def test_only_what_the_failback_gave_is_taken_back() -> None:
    """us had kept 20 all the time."""
    first, last = ON_THE_WAY["recoveries"]
    made = left(
        weights={"us": 30, "eu": 50, "ap": 20}, recoveries=[first, replace(last, moved=10)],
        us="suspect",
    )  # fmt: skip
    assert weights_of(made.ask(FAILBACK)) == [{"us": 20, "eu": 55, "ap": 25}]


# --- drills --------------------------------------------------------------------------------------


def test_a_drill_goes_there_and_back() -> None:
    plan = world().ask(DRILL)
    there, back = shifts(plan)
    assert weights_of(plan) == [{"us": 49, "eu": 50, "ap": 1}, {"us": 50, "eu": 50}]
    assert done(plan) == ["shift us", "settle us", "shift us", "settle us"]
    assert (there.parameters["step"], back.parameters["step"]) == ("there", "back")
    assert back.carries_on
    assert not there.carries_on
    assert back.parameters["source"] == there.parameters["source"] == "us"
    assert there.batch != back.batch


@pytest.mark.parametrize(
    ("why", "scene", "asked", "expected"),
    [
        ("the standby, when nobody is named", {}, (None, ()), {"us": 49, "eu": 50, "ap": 1}),
        ("whoever is named", {}, ("eu", ("us",)), {"us": 51, "eu": 49}),
        ("all the others, without a standby", {"wanted": {"us": 40, "eu": 30, "ap": 30}},
         (None, ()), {"us": 38, "eu": 31, "ap": 31}),
        ("more of it", {"safety": {"drill_percent": 10}}, (None, ()),
         {"us": 40, "eu": 50, "ap": 10}),
        ("in or out: the standby is in", {"features": IN_OR_OUT, "wanted": {"us": 50, "eu": 50,
         "ap": 0}, "standby": {"ap": {"servers": 20}}}, (None, ()), {"us": 33, "eu": 33, "ap": 34}),
    ],
)  # fmt: skip
def test_who_is_drilled(
    why: str, scene: dict[str, Any], asked: Any, expected: dict[str, int]
) -> None:
    source, targets = asked
    plan = world(**scene).ask(DRILL, source, *targets)
    assert weights_of(plan)[0] == expected
    assert weights_of(plan)[-1] == {
        r: w for r, w in world(**scene).ask(DRILL).actions[0].parameters["before"].items() if w
    }


@pytest.mark.parametrize(
    ("why", "scene", "said"),
    [
        ("the standby is not ready", {"standby": {"ap": {"version": None}}},
         "ap: version: m: no server there holds it"),
        ("the source is not well", {"us": "suspect"}, "us: verdict: us is suspect"),
        ("no room for a trickle", {"standby": {"ap": {"servers": 0}}},
         "ap: headroom: 0 req/s free (0 servers × 40 − 0), 6 needed (peak 200 × 1/50 × 1.5)"),
        ("after a failover", {"weights": {"us": 0, "eu": 100, "ap": 0}},
         "us: a drill starts from the topology's weights; `mlplatform failover back` first"),
        ("no weights to go back to", {"wanted": {}}, "us: the topology gives the route no weights"),
        ("nobody to drill", {"wanted": {"us": 100}}, "us: nobody could be given 1 % of the route"),
        ("in or out, and all are in", {"wanted": {"us": 33, "eu": 33, "ap": 34},
         "features": IN_OR_OUT}, "ap: regions are in or out here, and all are in"),
        ("locked", {"locks": {"api": "x"}}, "us: lock: api is locked: x"),
    ],
)  # fmt: skip
def test_a_drill_that_is_held(why: str, scene: dict[str, Any], said: str) -> None:
    made = {
        **({"weights": {"us": 100, "eu": 0, "ap": 0}} if scene.get("wanted") == {} else {}),
        **scene,
    }
    plan = world(**made).ask(DRILL)
    assert not plan.actions
    assert any(line.startswith(said) for line in held(plan)), held(plan)


TRICKLE: dict[str, Any] = {
    "weights": {"us": 49, "eu": 50, "ap": 1},
    "recoveries": [past("us", ended=None, began=9, mode=DRILL, moved=1, targets=("ap",))],
}


@pytest.mark.parametrize(
    ("why", "scene", "expected"),
    [
        ("and back it goes", {}, [{"us": 50, "eu": 50}]),
        ("the standby turned bad: back all the more", {"ap": "sick"}, [{"us": 50, "eu": 50}]),
        ("the source died: not back to it", {"us": "dead"}, []),
    ],
)
def test_in_the_middle_of_a_drill(
    why: str, scene: dict[str, Any], expected: list[dict[str, int]]
) -> None:
    plan = world(**TRICKLE, **scene).ask(DRILL)
    assert weights_of(plan) == expected
    if not expected:
        says(plan, "us: verdict: us is unhealthy")
        assert weights_of(world(**TRICKLE, **scene).ask(UNPLANNED, "us")) == [{"eu": 65, "ap": 35}]


# --- what the watch asks for ---------------------------------------------------------------------


def asked(made: World) -> list[str]:
    requests = propose_requests(made.topology, made.seen)
    assert all(request.automatic for request in requests)
    return [
        f"{r.mode.value} {r.source or ' '.join(r.targets)} {' '.join(r.routes)}" for r in requests
    ]


@pytest.mark.parametrize(
    ("why", "made", "expected"),
    [
        ("all is well", world(), []),
        ("suspect", world(us="suspect"), []),
        ("all dark", world(us="unknown", eu="unknown", ap="unknown"), []),
        ("all dark, on its way back, with another version",
         left(**ON_THE_WAY, us="unknown", eu="unknown", ap="unknown",
              standby={"us": {"version": "v0"}}), []),
        ("one is sick", world(us="sick"), ["unplanned us api"]),
        ("one is sick and has nothing", world(ap="dead"), []),
        ("two: the one that serves nothing first", world(eu="sick", us="dead"),
         ["unplanned us api", "unplanned eu api"]),
        ("sick by an operator's word",
         world(overrides=[Override("us", "unhealthy", "x", "ada", 9)]), ["unplanned us api"]),
        ("weights that cannot be read", world(us="dead", weights=Unknown("no answer")), []),
        ("well again for long enough", left(), ["failback us api"]),
        ("well again for a minute", left(us="healthy 60"), []),
        ("not well again", left(us="suspect"), []),
        ("what a planned failover moved stays",
         left(recoveries=[past("us", ended=8000, mode=PLANNED)]), []),
        ("what nobody of us moved stays", left(recoveries=[]), []),
        ("unplanned, but a planned one came after",
         left(recoveries=[past("us", ended=9000), past("us", ended=8000, mode=PLANNED)]), []),
        ("another is sick: that first", left(eu="dead"), ["unplanned eu api"]),
        ("a failover is open", left(recoveries=[past("us", ended=None, began=90)]), []),
        ("on its way back", left(**ON_THE_WAY), ["failback us api"]),
        ("on its way back, as an operator began it", left(**BY_HAND), []),
        ("by an operator, and suspect", left(**BY_HAND, us="suspect"), ["failback us api"]),
        ("on its way back, and suspect", left(**ON_THE_WAY, us="suspect"), ["failback us api"]),
        ("on its way back, and sick", left(**ON_THE_WAY, us="sick"), ["unplanned us api"]),
        ("on its way back, and unknown", left(**ON_THE_WAY, us="unknown"), []),
    ],
)  # fmt: skip
def test_what_the_watch_asks_for(why: str, made: World, expected: list[str]) -> None:
    assert asked(made) == expected


def test_what_the_watch_asks_for_in_advise_is_advised() -> None:
    made = left(mode="advise")
    (request,) = propose_requests(made.topology, made.seen)
    plan: Plan = made.ask(request.mode, None, *request.targets, automatic=True)
    assert not plan.actions
    assert held(plan)[-1].startswith("us: advise: not done by itself: us 0 → 1, ")
    assert "`mlplatform failover back --route api` does it" in held(plan)[-1]
