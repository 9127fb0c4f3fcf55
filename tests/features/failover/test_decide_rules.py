"""Each rule that bounds a route's acts: where it lets one be, where it does not, and what it says.

us is dead and eu and ap can take its traffic, unless the table says otherwise."""

from __future__ import annotations

from typing import Any

import pytest

from mlplatform.core.errors import UsageError
from mlplatform.core.seen import Unknown
from mlplatform.failover.decision.seen import Mode, Override, Recovery, Rule

from .scene import held, past, shifts, weights_of, world

UNPLANNED, PLANNED, FAILBACK, DRILL = Mode.UNPLANNED, Mode.PLANNED, Mode.FAILBACK, Mode.DRILL


# --- one rule a row: automatic, by hand ----------------------------------------------------------

UNCAPPED = {"safety": {"moved_per_window": 1.0}}
ROWS: list[tuple[str, dict[str, Any], str | None, str | None]] = [
    # What is held of the automatic act, and of the operator's.
    ("nothing is in the way", {}, None, None),
    # panic
    ("one sick of two",
     {"wanted": {"us": 50, "eu": 50}, "standby": {"eu": {"servers": 12}}}, None, None),
    ("both sick", {"wanted": {"us": 50, "eu": 50}, "eu": "dead 50"},
     "us: panic: no candidate is positively healthy: eu is unhealthy", "same"),
    ("nobody is positively healthy", {"eu": "suspect", "ap": "unknown"},
     "us: panic: no candidate is positively healthy: eu is suspect, ap is unknown", "same"),
    ("two of three together", {"eu": "dead 160"},
     "us: panic: eu and us turned sick within 120 s of each other", "same"),
    ("two of three together, one by too few to be sure", {"eu": "called-down 160"},
     "us: panic: eu and us turned sick within 120 s of each other", "same"),
    ("two of three, one a day ago", {"eu": "dead 86400", "standby": {"ap": {"servers": 12}}},
     None, None),
    ("two of three, one as it was being drained",
     {"eu": "dead 160", "standby": {"ap": {"servers": 12}},
      "recoveries": [past("eu", ended=None, began=170, mode=PLANNED, moved=0, drained=True)]},
     None, None),
    ("two of three, one as it was to be drained, and was not yet",
     {"eu": "dead 160", "standby": {"ap": {"servers": 12}},
      "recoveries": [past("eu", ended=None, began=170, mode=PLANNED, moved=0)]},
     "us: panic: eu and us turned sick within 120 s of each other", "same"),
    ("two of three together, one drained before that",
     {"eu": "dead 160", "recoveries": [past("eu", ended=300, mode=PLANNED, moved=0, drained=True)]},
     "us: panic: eu and us turned sick within 120 s of each other", "same"),
    ("two together, and us long before",
     {"us": "dead 5000", "eu": "dead 50", "ap": "dead 60"},
     "us: panic: no candidate is positively healthy: eu is unhealthy, ap is unhealthy", "same"),
    # blind
    ("all dark", {"us": "unknown", "eu": "unknown", "ap": "unknown"},
     "us?: blind: every region is unknown: it is we who cannot see", "same"),
    # lock
    ("the route is locked", {"locks": {"api": "Black Friday"}},
     "us: lock: api is locked: Black Friday", "same"),
    ("everything is locked", {"locks": {"all": "audit"}}, "us: lock: all is locked: audit", "same"),
    ("another route is locked", {"locks": {"batch": "audit"}}, None, None),
    # weights changed by hand
    ("weights as we wrote them", {"written": {"us": 50, "eu": 50}}, None, None),
    ("weights that nobody wrote yet", {"written": None}, None, None),
    ("weights changed by hand", {"written": {"us": 0, "eu": 100}},
     "us: weights-changed-by-hand: us 50, eu 50, ap 0 now, us 0, eu 100 as we wrote it", "same"),
    # fence
    ("our own epoch", {"epoch": 3}, None, None),
    ("a newer epoch at the target", {"epoch": 2, "state": {"writer": "ctl-b"}},
     "us: fence: written under epoch 3 by ctl-b, ours is 2: a newer controller acts", "same"),
    # cooldown: from the end, and for what is done by itself
    ("in the cooldown", {**UNCAPPED, "recoveries": [past("eu", ended=599)]},
     "us: cooldown: the last recovery, op-eu, ended 599 s ago; nothing is done by itself for 1 s",
     None),
    ("after it", {**UNCAPPED, "recoveries": [past("eu", ended=600)]}, None, None),
    ("a long recovery, just over", {**UNCAPPED, "recoveries": [past("eu", began=9000, ended=10)]},
     "us: cooldown: the last recovery, op-eu, ended 10 s ago", None),
    ("one that changed nothing", {"recoveries": [past("eu", ended=10, moved=0)]}, None, None),
    ("a drill is no recovery",
     {"recoveries": [past("us", ended=10, mode=DRILL, moved=1)]}, None, None),
    ("the same fault goes on", {"us": "dead 300", "recoveries": [past(ended=100, moved=20)]},
     None, None),
    ("the same region, a new fault", {"us": "dead 60", "recoveries": [past(ended=100, moved=20)]},
     "us: cooldown", None),
    ("a failback has just filled it",
     {"recoveries": [past("", ended=100, mode=FAILBACK, targets=("us",))]}, None, None),
    ("a failback has just filled another",
     {"recoveries": [past("", ended=100, mode=FAILBACK, targets=("ap",))]}, "us: cooldown", None),
    # what somebody aborted is not begun again by itself, for as long as the fault lasts
    ("aborted, and still the same fault",
     {"us": "dead 300", "aborted": {"op-us": "wrong"}, "recoveries": [past(ended=100, moved=20)]},
     "us: aborted: op-us was aborted: wrong; nothing more is done about this by itself", None),
    ("aborted, and it moved nothing",
     {"us": "dead 300", "aborted": {"op-us": "x"}, "recoveries": [past(ended=100, moved=0)]},
     "us: aborted", None),
    ("aborted, and a new fault since", {**UNCAPPED, "us": "dead 300", "aborted": {"op-us": "x"},
      "recoveries": [past(ended=900, moved=0)]}, None, None),
    ("another region's was aborted", {**UNCAPPED, "us": "dead 300", "aborted": {"op-eu": "x"},
      "recoveries": [past("eu", ended=900, moved=0)]}, None, None),
    # one recovery at a time: a further fault amends
    ("another region's is open",
     {"recoveries": [past("eu", ended=None, began=30, moved=0)]}, None, None),
    ("its own is open", {"recoveries": [past(ended=None, began=30, moved=0)]}, None, None),
    ("a failback is open",
     {"recoveries": [past("", ended=None, began=30, mode=FAILBACK, moved=0)]}, None, None),
    ("a drill is open", {"recoveries": [past("", ended=None, began=30, mode=DRILL, moved=0)]},
     None, None),
    ("a planned one is open",
     {"recoveries": [past("eu", ended=None, began=30, mode=PLANNED, moved=0)]}, None, None),
    # the cap holds cascades, and never the first region
    ("the first region, though it has all the weight",
     {"wanted": {"us": 100, "eu": 0, "ap": 0}, "standby": {"ap": {"servers": 12}}}, None, None),
    ("a cascade within the cap", {"recoveries": [past("eu", ended=900, moved=0)]}, None, None),
    ("a cascade above the cap", {"recoveries": [past("eu", ended=900, moved=1)]},
     "us: cap: 50 points from us would make 51 within 3600 s, beside those from eu; 50 may be",
     "same"),
    ("a cascade, an hour later", {"recoveries": [past("eu", ended=3601, moved=50)]}, None, None),
    ("beside a planned one", {"recoveries": [past("eu", ended=900, mode=PLANNED)]}, None, None),
    ("the same region again is no cascade", {"recoveries": [past(ended=900, moved=50)]},
     None, None),
    # a drill must have been passed, for what is done by itself
    ("never drilled", {"drilled": False},
     "us: drilled: a route acts by itself after a drill passed within 30 days, and none is known",
     None),
    ("drilled long ago",
     {"drilled": False, "recoveries": [past(ended=31 * 86_400, mode=DRILL, moved=1)]},
     "us: drilled: a route acts by itself after a drill passed within 30 days, and the last was 31",
     None),
    ("a drill that did not pass",
     {"drilled": False, "recoveries": [past(ended=86_400, mode=DRILL, moved=1, passed=False)]},
     "us: drilled", None),
    # advise
    ("the route advises", {"mode": "advise", "drilled": False},
     "us: advise: not done by itself: us 50 → 0, eu 50 → 65, ap 0 → 35; us is unhealthy: ", None),
    # what the source is
    ("suspect is not enough by itself", {"us": "suspect"},
     "us: verdict: us is suspect: 1 of 3 domains sees it down; by itself only an unhealthy", None),
    ("nor is unknown", {"us": "unknown"}, "us?: verdict: us is unknown", None),
    ("nor is well", {"us": "healthy"}, "us: verdict: us is healthy", None),
    ("well, but sick by an operator's word",
     {"us": "healthy", "overrides": [Override("us", "unhealthy", "I see it", "ada", 60)]},
     None, None),
    ("sick, but well by an operator's word",
     {"overrides": [Override("us", "healthy", "the probes lie", "ada", 60)]},
     "us: verdict: us is healthy: ada says so: the probes lie", None),
]  # fmt: skip


def test_rows() -> None:
    assert len({row[0] for row in ROWS}) == len(ROWS)


@pytest.mark.parametrize("automatic", [True, False], ids=["by itself", "by hand"])
@pytest.mark.parametrize(("why", "scene", "auto", "hand"), ROWS, ids=[row[0] for row in ROWS])
def test_a_rule(
    why: str, scene: dict[str, Any], auto: str | None, hand: str | None, automatic: bool
) -> None:
    expected = auto if automatic or hand == "same" else hand
    plan = world(**{"us": "dead", **scene}).ask(UNPLANNED, "us", automatic=automatic)
    if expected is None:
        assert shifts(plan), held(plan)
        assert all(weights.get("us", 0) < 50 for weights in weights_of(plan))
    else:
        assert not plan.actions
        assert any(line.startswith(expected) for line in held(plan)), held(plan)


CAP = [
    # What was taken before · what is asked now · held, and by what.
    ("the first region, planned", PLANNED, [], None),
    ("planned, after planned ones of all the others", PLANNED,
     [past("eu", ended=900, mode=PLANNED), past("ap", ended=300, mode=PLANNED)], None),
    ("a fault, after planned ones of all the others", UNPLANNED,
     [past("eu", ended=900, mode=PLANNED), past("ap", ended=300, mode=PLANNED)], None),
    ("a fault, on top of an open planned one", UNPLANNED,
     [past("eu", ended=None, began=60, mode=PLANNED)], None),
    ("a fault, after what a drill and a failback moved", UNPLANNED,
     [past("eu", ended=900, mode=DRILL), past("", ended=300, mode=FAILBACK, targets=("eu",))],
     None),
    ("a fault, after a fault", UNPLANNED, [past("eu", ended=900)],
     "50 points from us would make 100 within 3600 s, beside those from eu"),
    ("planned, after a fault", PLANNED, [past("eu", ended=900)],
     "50 points from us would make 100 within 3600 s, beside those from eu"),
    ("a fault, after a fault and a planned one, which counts nothing", UNPLANNED,
     [past("eu", ended=900, moved=1), past("ap", ended=300, mode=PLANNED)],
     "50 points from us would make 51 within 3600 s, beside those from eu"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("mode", "recoveries", "said"), [row[1:] for row in CAP], ids=[row[0] for row in CAP]
)
def test_the_cap_holds_what_comes_on_top_of_faults_and_planned_moves_are_none(
    mode: Mode, recoveries: list[Recovery], said: str | None
) -> None:
    us = "dead" if mode is UNPLANNED else "healthy"
    plan = world(us=us, recoveries=recoveries).ask(mode, "us")
    if said is None:
        assert shifts(plan), held(plan)
    else:
        assert not plan.actions
        assert f"us: cap: {said}; 50 may be taken by a cascade" in held(plan)


# --- break-glass ---------------------------------------------------------------------------------


def breakable(row: tuple[str, dict[str, Any], str | None, str | None]) -> bool:
    held_by_hand = row[3] == "same"
    return held_by_hand and "newer epoch" not in row[0] and "all dark" not in row[0]


@pytest.mark.parametrize(
    ("why", "scene", "auto"),
    [row[:3] for row in ROWS if breakable(row)],
    ids=[row[0] for row in ROWS if breakable(row)],
)
def test_break_glass_names_the_rule_and_only_that_is_broken(
    why: str, scene: dict[str, Any], auto: str
) -> None:
    rule = auto.split(": ")[1]
    made = world(us="dead", **{k: v for k, v in scene.items() if k != "us"})
    plan = made.ask(UNPLANNED, "us", broken=frozenset({rule}))
    assert not any(f": {rule}: " in line for line in held(plan)), held(plan)
    for shift in shifts(plan):
        assert shift.parameters["broken"] == [rule]
        assert any(said.startswith(f"{rule}: ") for said in shift.figures["broken"])
    if "no candidate" in auto:  # the gates of each are closed still
        assert not plan.actions
    else:
        assert shifts(plan)


def test_who_is_blind_and_breaks_that_sees_no_better() -> None:
    dark = world(us="unknown", eu="unknown", ap="unknown")
    plan = dark.ask(UNPLANNED, "us", broken=frozenset({"blind", "panic"}))
    assert not plan.actions
    plan = dark.ask(UNPLANNED, "us", broken=frozenset({"blind", "verdict"}))
    assert weights_of(plan) == [{"eu": 65, "ap": 35}]


@pytest.mark.parametrize("name", ["one-region", "fence", "advise", "epoch", "everything"])
def test_what_nobody_may_break(name: str) -> None:
    with pytest.raises(UsageError, match="cannot be broken") as raised:
        world(us="dead").ask(UNPLANNED, "us", broken=frozenset({name}))
    assert raised.value.hint is not None
    assert "headroom" in raised.value.hint
    assert name not in raised.value.hint.split(", ")


def test_the_fence_holds_whatever_is_broken() -> None:
    every = frozenset({rule.value for rule in Rule} - {"one-region", "fence", "advise"})
    plan = world(us="dead", epoch=2).ask(UNPLANNED, "us", broken=every)
    assert not plan.actions


# --- which ask waits for which -------------------------------------------------------------------


@pytest.mark.parametrize("open_", list(Mode))
@pytest.mark.parametrize("asked", list(Mode))
def test_a_further_fault_amends_and_all_else_waits(open_: Mode, asked: Mode) -> None:
    """The same request, asked again on its way, goes on; a fault goes first; the rest waits."""
    recovery = past("us", ended=None, began=30, mode=open_, moved=0, targets=("ap",))
    made = world(us="dead" if asked is UNPLANNED else "healthy", recoveries=[recovery])
    if asked is FAILBACK:
        made = made.with_weights({"us": 20, "eu": 80, "ap": 0})
    source = None if asked is FAILBACK else "us"
    plan = made.ask(asked, source, *(("ap",) if asked is PLANNED else ()))
    waits = [line for line in held(plan) if ": one-recovery: " in line]
    if asked is UNPLANNED or asked is open_:
        assert not waits
    else:
        assert not plan.actions
        said = f"operation op-us ({open_.value}) is under way; resume or abort it first"
        assert waits == [f"us: one-recovery: {said}"]


@pytest.mark.parametrize(
    ("asked", "source", "targets"), [(PLANNED, "eu", ("ap",)), (FAILBACK, None, ("eu",))]
)
def test_the_same_kind_of_another_region_waits(
    asked: Mode, source: str | None, targets: tuple[str, ...]
) -> None:
    recovery = past("us", ended=None, began=30, mode=asked, moved=0, targets=("us",))
    made = world(recoveries=[recovery])
    if asked is FAILBACK:
        made = made.with_weights({"us": 80, "eu": 20, "ap": 0})
    plan = made.ask(asked, source, *targets)
    assert not plan.actions
    assert any("one-recovery" in line for line in held(plan))


def test_an_amended_plan_says_what_it_amends() -> None:
    recovery = past("eu", ended=None, began=3000, moved=0)
    (shift,) = shifts(world(us="dead", recoveries=[recovery]).ask(UNPLANNED, "us"))
    assert shift.figures["amends"] == "op-eu"


# --- what cannot be read -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("why", "weights", "said"),
    [
        ("no answer", Unknown("caddy timed out"), "caddy timed out"),
        ("an empty answer, with 200", {},
         "the actuator answered with nothing, and weights total 100"),
        ("all zero", {"us": 0, "eu": 0},
         "the actuator answered with us 0, eu 0, and weights total 100"),
        ("half of it", {"us": 50}, "the actuator answered with us 50, and weights total 100"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("mode", list(Mode))
def test_weights_that_are_no_answer_stay(why: str, weights: Any, said: str, mode: Mode) -> None:
    plan = world(us="dead", weights=weights).ask(mode, "us")
    assert not plan.actions
    assert held(plan) == [f"us?: its weights are unknown, and stay as they are: {said}"]


def test_a_route_that_nobody_looked_at() -> None:
    made = world(us="dead")
    object.__setattr__(made.seen, "routes", {})
    assert held(made.ask(UNPLANNED, "us"))[0].endswith("nobody looked at the route")


def test_when_all_is_unknown_nothing_is_done() -> None:
    dark = world(
        us="unknown",
        eu="unknown",
        ap="unknown",
        weights=Unknown("no answer"),
        standby=dict.fromkeys(("us", "eu", "ap"), Unknown("no answer")),
        load=dict.fromkeys(("us", "eu", "ap"), Unknown("no answer")),
    )
    for mode in Mode:
        plan = dark.ask(mode, "us")
        assert not plan.actions
        assert plan.holds
        assert all(hold.unknown for hold in plan.holds)
