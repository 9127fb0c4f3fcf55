"""Each gate, open and closed, with what is said of it. us is dead; ap alone could have its traffic,
and has room for all of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mlplatform.core.plan import Plan
from mlplatform.core.seen import Unknown
from mlplatform.failover.decision.gates import golden_age_seconds_max
from mlplatform.failover.decision.seen import Gate, Golden, Mode, Override
from mlplatform.failover.verdict.judge import Health

from .scene import GOOD, World, held, shifts, weights_of, world

ROOMY = {"servers": 12}


def to_ap(scene: dict[str, Any], *broken: str) -> Plan:
    standby = {"ap": ROOMY, **scene.pop("standby", {})}
    if isinstance(standby["ap"], dict):
        standby["ap"] = {**ROOMY, **standby["ap"]}
    made = world(**{"us": "dead", "standby": standby, **scene})
    return made.ask(Mode.UNPLANNED, "us", "ap", broken=frozenset(broken))


def golden(**differs: Any) -> dict[str, Any]:
    assert isinstance(GOOD.golden, Golden)
    return {"standby": {"ap": {"golden": replace(GOOD.golden, **differs)}}}


def ap(**differs: Any) -> dict[str, Any]:
    return {"standby": {"ap": differs}}


LAG: dict[str, Any] = {"safety": {"lag_seconds": 30}}

CASES: list[tuple[str, Gate, dict[str, Any], str | None]] = [
    # Whether it is well, positively.
    ("well", Gate.VERDICT, {"ap": "healthy"}, None),
    ("suspect", Gate.VERDICT, {"ap": "suspect"},
     "ap: verdict: ap is suspect: 1 of 3 domains sees it down"),
    ("sick", Gate.VERDICT, {"ap": "sick 900"},
     "ap: verdict: ap is unhealthy: 3 of 3 domains see it down"),
    ("unknown", Gate.VERDICT, {"ap": "unknown"},
     "ap?: verdict: ap is unknown: no vantage has spoken for 40 s"),
    # What its servers hold.
    ("the declared version", Gate.VERSION, ap(version="v1"), None),
    ("its last good one", Gate.VERSION,
     ap(version="v0", allowed=frozenset({"v0", "v1"})), None),
    ("an old one", Gate.VERSION, ap(version="v0"),
     "ap: version: m: its servers hold v0, allowed there is v1"),
    ("a version where none is allowed", Gate.VERSION, ap(allowed=frozenset()),
     "ap: version: m: its servers hold v1, allowed there is none"),
    ("nothing", Gate.VERSION, ap(version=None), "ap: version: m: no server there holds it"),
    ("unreadable", Gate.VERSION, {"standby": {"ap": Unknown("ap did not answer")}},
     "ap?: version: m: ap did not answer"),
    # Whether it is what the store verified.
    ("the verified bytes", Gate.DIGEST, ap(stored="blake3:aa"), None),
    ("other bytes", Gate.DIGEST, ap(digest="blake3:bb"),
     "ap: digest: m: its servers hold blake3:bb, verified in its store is blake3:aa"),
    ("not verified", Gate.DIGEST, ap(stored=None),
     "ap: digest: m: v1 is not in its store, or not verified there"),
    ("servers that state none", Gate.DIGEST, ap(digest=""),
     "ap?: digest: m: its servers do not state which bytes they hold"),
    ("a store that cannot be read", Gate.DIGEST, ap(stored=Unknown("ap's store timed out")),
     "ap?: digest: m: ap's store timed out"),
    # Whether it answers rightly, quickly, and did so lately.
    ("right and quick", Gate.GOLDEN, golden(seconds=1.0), None),
    ("slow", Gate.GOLDEN, golden(seconds=1.3),
     "ap: golden: m: answered in 1300 ms, 1000 ms at most"),
    ("wrong", Gate.GOLDEN, golden(ok=False, detail="logits differ"),
     "ap: golden: m: answered wrongly: logits differ"),
    ("as old as it may be", Gate.GOLDEN, golden(age_seconds=35), None),
    ("old", Gate.GOLDEN, golden(age_seconds=36),
     "ap?: golden: m: the last answer is 36 s old, 35 at most"),
    ("not timed", Gate.GOLDEN, golden(seconds=None),
     "ap?: golden: m: nobody measured how long the answer took"),
    ("never asked", Gate.GOLDEN, ap(golden=None),
     "ap?: golden: m: no golden request was ever sent"),
    ("not known", Gate.GOLDEN, ap(golden=Unknown("all vantages are dark")),
     "ap?: golden: m: all vantages are dark"),
    # Its data, where models need some.
    ("no bound asked for", Gate.LAG, {"lag": {"ap": 9999.0}}, None),
    ("fresh data", Gate.LAG, {**LAG, "lag": {"ap": 30.0}}, None),
    ("old data", Gate.LAG, {**LAG, "lag": {"ap": 31.0}},
     "ap: lag: its data is 31 s behind, 30 s at most"),
    ("lag that nobody knows", Gate.LAG, {**LAG, "lag": {"ap": Unknown("no sample")}},
     "ap?: lag: no sample"),
    ("lag that nobody asked for", Gate.LAG, LAG, "ap?: lag: nobody measured it"),
    ("lag that is no number", Gate.LAG, {**LAG, "lag": {"ap": float("nan")}}, "ap?: lag: "),
    # What others do there.
    ("maintenance elsewhere", Gate.MAINTENANCE, {"maintenance": {"eu": "new switches"}}, None),
    ("maintenance", Gate.MAINTENANCE, {"maintenance": {"ap": "new switches"}},
     "ap: maintenance: new switches"),
    ("a canary", Gate.CANARY, ap(canary="v2"),
     "ap: canary: m: v2 is on trial there: its share goes to 0 first, the last good stays"),
]  # fmt: skip


@pytest.mark.parametrize(("why", "gate", "scene", "said"), CASES, ids=[c[0] for c in CASES])
def test_a_gate(why: str, gate: Gate, scene: dict[str, Any], said: str | None) -> None:
    plan = to_ap(dict(scene))
    if said is None:
        assert weights_of(plan) == [{"eu": 50, "ap": 50}]
        assert not plan.holds
        return
    assert not plan.actions
    lines = held(plan)
    assert any(line.startswith(said) for line in lines), lines


# With no answer at all, headroom is unknown as well.
BREAKABLE = [case for case in CASES if case[3] and case[0] != "unreadable"]


@pytest.mark.parametrize(("why", "gate", "scene", "said"), BREAKABLE, ids=[c[0] for c in BREAKABLE])
def test_a_gate_that_is_broken_on_purpose_is_named_in_the_plan(
    why: str, gate: Gate, scene: dict[str, Any], said: str
) -> None:
    (shift,) = shifts(to_ap(dict(scene), gate.value))
    assert shift.parameters["broken"] == [gate.value]
    assert any(each.startswith(said.replace("?", "", 1)) for each in shift.figures["broken"])


def test_a_broken_verdict_breaks_no_other_gate() -> None:
    plan = to_ap({"ap": "suspect", **ap(version="v0")}, Gate.VERDICT.value)
    assert not plan.actions
    assert held(plan)[0].startswith("ap: version")


# --- several models, several gates ---------------------------------------------------------------


def test_one_line_a_gate_however_many_models() -> None:
    models: dict[str, Any] = {f"m{n}": {} for n in range(5)}
    plan = to_ap({"models": models, "standby": {"ap": {"version": "v0"}}})
    assert "ap: version: m0: its servers hold v0, allowed there is v1 (and 4 more models)" in held(
        plan
    )


def test_every_gate_that_is_closed_is_told() -> None:
    plan = to_ap({"maintenance": {"ap": "x"}, **ap(digest="blake3:bb", canary="v2")})
    *gates, last = held(plan)
    assert [line.split(": ")[1] for line in gates] == ["maintenance", "digest", "canary"]
    assert last == "us: 50 points stay: no candidate passes its gates"


def test_a_model_that_is_ill_in_a_healthy_region() -> None:
    made = world(us="dead", standby={"ap": ROOMY})
    verdicts = dict(made.seen.verdicts)
    verdicts["ap"] = replace(
        verdicts["ap"], models={"m": Health.SUSPECT, "other": Health.UNHEALTHY}
    )
    made = World(made.topology, replace(made.seen, verdicts=verdicts))
    plan = made.ask(Mode.UNPLANNED, "us", "ap")
    assert held(plan)[0] == "ap: verdict: m is suspect in ap"


def test_a_route_without_models_proves_nothing() -> None:
    made = world(us="dead", route={"models": []})
    plan = made.ask(Mode.UNPLANNED, "us", "ap")
    assert not plan.actions
    assert held(plan)[0].startswith("ap: version: the topology names no model")


@pytest.mark.parametrize(
    ("models", "seconds"),
    [(1, 35), (4, 35), (5, 65), (2000, 15_005)],
)
def test_a_golden_answer_may_be_as_old_as_three_turns(models: int, seconds: float) -> None:
    made = world(models={f"m{n}": {} for n in range(models)})
    assert golden_age_seconds_max(made.topology) == seconds


# --- an operator's word --------------------------------------------------------------------------


def override(region: str, health: str, seconds: float = 600) -> Override:
    return Override(region, health, "seen with my own eyes", "ada", seconds)


@pytest.mark.parametrize(
    ("why", "scene", "said"),
    [
        ("suspect, but well by her word",
         {"ap": "suspect", "overrides": [override("ap", "healthy")]}, None),
        ("well, but not by her word",
         {"overrides": [override("ap", "suspect")]},
         "ap: verdict: ap is suspect: ada says so: seen with my own eyes (for 600 s more; judged"),
        ("a word that has expired",
         {"ap": "suspect", "overrides": [override("ap", "healthy", 0)]}, "ap: verdict: ap is susp"),
        ("a word that is none",
         {"ap": "suspect", "overrides": [override("ap", "splendid")]}, "ap: verdict: ap is susp"),
        ("a word of a region that there is not",
         {"ap": "suspect", "overrides": [override("mars", "healthy")]}, "ap: verdict: ap is susp"),
    ],
)  # fmt: skip
def test_an_override(why: str, scene: dict[str, Any], said: str | None) -> None:
    plan = to_ap(scene)
    if said is not None:
        assert any(line.startswith(said) for line in held(plan)), held(plan)
        return
    (shift,) = shifts(plan)
    (shown,) = shift.figures["overrides"]
    assert (shown["reason"], shown["expires_in_seconds"]) == ("seen with my own eyes", 600)
