"""What the world does to a failover that is typed: routers, stores, clocks, Prometheus, other
people and kill -9. Each line of it ends with the exit code that runbooks branch on, says what was
measured against what, and leaves the weights where they should be."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.estate import require, without_privilege, wrapped
from tests.real.failover.platform import ALL_THE_TIME, ASKED_BY_HAND, WEIGHTS, Platform, platform
from tests.real.servers.launch import Endpoint
from tests.real.weather.meddler import Asked, Reply

pytestmark = pytest.mark.usefixtures("caddy")

AWAY = ("failover", "run", "--from", "us", "--confirm", "us")
MOVED = {"us": 0, "eu": 75, "ap": 25}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Platform]:
    """All is well, and nobody has looked yet."""
    with platform(tmp_path) as found:
        yield found


@pytest.fixture
def sick(world: Platform) -> Platform:
    """us has just died, and everybody has seen it."""
    world.servers["us"].kill()
    world.look()
    return world


# ---------------------------------------------------------------------------------------- targets

TARGETS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "other bytes": (
        {"versions": {"m": ["v1", "blake3:" + "a" * 64]}},
        ("digest: m: its servers hold blake3:aaaa", "verified in its store is blake3:"),
    ),
    "another version": (
        {"versions": {"m": ["v0", "blake3:" + "a" * 64]}},
        ("version: m: its servers hold v0, allowed there is v1",),
    ),
    "wrong answers": (
        {"models": {"m": "wrong"}},
        ("golden: m: answered wrongly: output 'y': value 0 is 0.0 instead of 0.5, within 0",),
    ),
    "slow answers": (
        {"delay_seconds": 1.1},
        ("gray failure: 3 of 3 domains find it slower than 0.5 s", "ms, 1000 ms at most"),
    ),
    "not ready": ({"lame_duck": True}, ("version: m: no server there holds it",)),
}


@pytest.mark.parametrize("case", TARGETS)
def test_a_target_that_fails_a_gate_is_told_by_what_was_measured(
    world: Platform, case: str
) -> None:
    ailment, said = TARGETS[case]
    if case == "slow answers":
        world.traffic["probe"] = {**ASKED_BY_HAND, "slow_seconds": 0.5}
        world.traffic["safety"]["golden_seconds"] = 1
        world.write()
    world.servers["us"].kill()
    world.servers["eu"].ail(**ailment)
    world.look()
    ran = world.process(*AWAY, "--to", "eu")
    require(ran, 3, "held: api eu: ", *said, hint=False)
    assert world.weights == WEIGHTS
    elsewhere = world.process(*AWAY)
    assert world.weights["eu"] == 50, elsewhere.said
    assert world.weights["ap"] == 50, "whoever passes gets it"


def test_too_little_room_is_told_in_requests_a_second(sick: Platform) -> None:
    """us bore 150 at its peak, and clients try again; eu bears 150 of its 160 already."""
    for name in ("eu", "ap"):
        sick.traffic["capacity"][name]["m"]["requests_per_second"] = 160
    sick.write()
    ran = sick.process("failover", "plan", "--from", "us", "--output", "json")
    assert ran.code == 3, ran.said
    holds = " ".join(hold["reason"] for hold in ran.json()["holds"])
    assert "10 req/s free (1 server × 160 − 150), 13 needed (peak 150 × 1.5, 6% of it)" in holds
    assert "40 of 50 points move, 10 stay: requests to it fail, for it serves nothing" in holds
    after = ran.json()["actions"][0]["parameters"]["after"]
    assert after == {"us": 10, "eu": 50, "ap": 40}
    planned = sick.process("failover", "plan", "--from", "us", "--planned")
    require(planned, 3, "us is unhealthy", hint=False)


def test_a_declared_capacity_that_has_expired_counts_nothing(sick: Platform) -> None:
    for name in ("eu", "ap"):
        sick.traffic["capacity"][name]["m"]["expires_on"] = "2026-01-02"
    sick.write()
    ran = sick.process(*AWAY)
    require(ran, 3, "expired on 2026-01-02; measure them again", hint=False)
    assert sick.weights == WEIGHTS


def test_the_last_region_is_not_left(world: Platform) -> None:
    for name in ("us", "eu", "ap"):
        world.servers[name].kill()
    world.look()
    ran = world.process(*AWAY)
    said = "panic: no candidate is positively healthy: eu is unhealthy, ap is unhealthy"
    require(ran, 3, said, hint=False)
    world.route["weights"] = {"us": 100}
    world.world.ask("PATCH", "/id/api", _only_us(world))
    world.write()
    ran = world.process(*AWAY)
    require(ran, 3, "us is the only region of the route, and some serves", hint=False)


def _only_us(world: Platform) -> Any:
    from mlplatform.adapters.caddy import caddy_route

    return caddy_route("api", {"us": (f"127.0.0.1:{world.servers['us'].port}",)}, {"us": 100})


def test_regions_that_turn_sick_together_are_not_shuffled(world: Platform) -> None:
    world.traffic["safety"]["together_seconds"] = 120
    world.write()
    for name in ("us", "eu"):
        world.servers[name].kill()
    world.look()
    ran = world.process(*AWAY)
    require(ran, 3, "panic: eu and us turned sick within 120 s of each other", hint=False)
    assert world.process(*AWAY, "--break-glass", "panic").code == 0
    assert world.weights == {"us": 0, "eu": 50, "ap": 50}


# ----------------------------------------------------------------------------------------- routers


def test_weights_changed_by_hand_are_shown_and_not_overwritten_without_consent(
    sick: Platform,
) -> None:
    assert sick.process(*AWAY).code == 0
    sick.change_by_hand(us=10, eu=80, ap=10)
    status = sick.process("failover", "status", "--output", "json")
    assert status.code == 3
    assert status.json()["routes"][0]["by_hand"] is True
    assert "its weights were changed by hand: us 10, eu 80, ap 10" in status.err
    held = sick.process(*AWAY)
    require(held, 3, "weights-changed-by-hand: us 10, eu 80, ap 10 now", "as we wrote", hint=False)
    assert sick.weights == {"us": 10, "eu": 80, "ap": 10}
    consent = sick.process(*AWAY, "--break-glass", "weights-changed-by-hand")
    assert consent.code == 0, consent.said
    assert sick.weights["us"] == 0
    assert sick.process("failover", "status").code == 3, "us is still sick"
    assert not sick.run("failover", "status", "-o", "json").json()["routes"][0]["by_hand"]


def test_a_router_that_applies_and_does_not_answer(sick: Platform) -> None:
    """What was lost is the answer; it is settled by reading back, not by writing again."""
    lost: list[str] = []

    def hang_up_once(asked: Asked, body: bytes) -> bytes:
        if asked.method == "PATCH" and len(lost) < 2:
            lost.append(asked.target)
            raise ConnectionResetError
        return body

    sick.world.way.outward = hang_up_once
    ran = sick.process(*AWAY)
    assert ran.code == 0, ran.said
    assert len(lost) == 2, "the claim's answer and the shift's"
    assert (sick.weights, sick.epoch) == (MOVED, 1)


def test_a_router_that_refuses_what_it_is_told(sick: Platform) -> None:
    """It lets itself be claimed, and no more: told, recorded, and nothing is changed."""
    patches: list[int] = []

    def refuse(asked: Asked) -> Reply | None:
        patches.extend([1] if asked.method == "PATCH" else [])
        return Reply(500, b'{"error": "disk full"}') if len(patches) > 1 and patches else None

    sick.world.way.refuse = refuse
    ran = sick.process(*AWAY, "--output", "json")
    assert ran.code == 1, ran.said
    shift = ran.json()["outcomes"][0]
    assert (shift["result"], shift["error"]) == ("failed", "StoreError")
    assert "disk full" in shift["detail"]
    sick.world.way.calm()
    assert sick.weights == WEIGHTS
    assert sick.process(*AWAY).code == 0, "and when it is well again, it goes"


def test_a_router_that_is_gone(sick: Platform) -> None:
    sick.world.stop()
    ran = sick.process(*AWAY)
    require(ran, 5, "held: api us: its weights are unknown, and stay as they are: ", hint=False)
    status = sick.process("failover", "status", "--output", "json")
    assert status.code == 3, "a sick region outranks what is unknown"
    assert status.json()["routes"][0]["weights"] is None


# ---------------------------------------------------------------------------------- control stores


@pytest.mark.parametrize("number", [1, 2, 3])
def test_any_one_control_store_may_be_lost(sick: Platform, number: int) -> None:
    sick.lose_control(number)
    ran = sick.process(*AWAY)
    assert ran.code == 0, ran.said
    assert sick.weights == MOVED
    sick.find_control(number)
    assert len(sick.operations()) == 1
    assert sick.process("failover", "status").code == 3
    assert sick.process(*AWAY).code == 0


def test_without_a_majority_nothing_is_done_and_it_is_said_what_can_be(sick: Platform) -> None:
    sick.lose_control(1, 3)
    for line in (AWAY, ("failover", "status"), ("failover", "plan", "--from", "us")):
        ran = sick.process(*line)
        require(
            ran, 5, "1 of 3 control stores answered, 2 are needed", "control-1: is not a folder"
        )
    assert sick.weights == WEIGHTS


def test_all_control_stores_lost_and_an_operator_who_takes_it_upon_themselves(
    sick: Platform,
) -> None:
    assert sick.process(*AWAY, "--to", "eu").code == 0
    sick.servers["us"].start()
    sick.change_by_hand(us=50, eu=50, ap=0)
    sick.lose_control()
    require(sick.process(*AWAY), 5, "0 of 3 control stores answered")
    alone = (*AWAY, "--to", "ap", "--without-control", "kept", "--reason", "the cloud burns")
    held = sick.process(*alone)
    require(held, 5, "held: api us: blind", "locks and past recoveries cannot be read")
    vouched = held.err.rpartition("add --break-glass ")[2].split()[0]
    assert "digest" not in vouched, "receipts lie in the regions"
    assert sick.weights == WEIGHTS
    ran = sick.process(*alone, "--break-glass", vouched)
    assert ran.code == 0, ran.said
    assert sick.weights == {"us": 0, "eu": 50, "ap": 50}
    assert sick.epoch == 2, "above what the router knew, although no control store could say"
    sick.find_control()
    imported = sick.process("history", "import", "kept")
    assert imported.code == 0, imported.said
    assert "imported 2" in imported.err
    again = sick.process("history", "import", "kept")
    require(again, 0, "nothing to do: all of it is here", hint=False)
    told = sick.operations()
    assert [plan["actions"][0]["parameters"]["reason"] for plan in told] == ["", "the cloud burns"]
    broken = told[1]["actions"][0]["figures"]["broken"]
    assert any("blind" in each for each in broken), "it is recorded what was broken"
    status = sick.run("failover", "status", "--output", "json").json()["routes"][0]
    assert (status["by_hand"], status["operation"]) == (False, None)
    require(sick.process("history", "import", "nowhere"), 2, "nowhere: holds no journal")


def test_nobody_acts_without_a_control_store_that_answers_unless_they_mean_it(
    sick: Platform,
) -> None:
    sick.lose_control(2)
    alone = (*AWAY, "--without-control", "kept", "--reason", "it hangs, I think")
    refused = sick.process(*alone)
    require(refused, 2, "control: a majority of control stores answers", "--break-glass control")
    assert sick.weights == WEIGHTS
    meant = sick.process(*alone, "--break-glass", "control")
    assert meant.code == 0, meant.said
    assert "broken on purpose: control" in meant.err
    assert sick.weights == MOVED
    sick.find_control(2)
    assert sick.process("history", "import", "kept").code == 0
    assert sick.operations()[0]["actions"][0]["parameters"]["broken"] == ["control"]


def test_control_stores_that_can_only_be_read(sick: Platform) -> None:
    folders = [control for control in sick.controls for control in (control, *control.rglob("*"))]
    folders = [folder for folder in folders if folder.is_dir()]
    for folder in folders:
        folder.chmod(0o555)
    try:
        ran = sick.process(*AWAY, preexec_fn=without_privilege)
    finally:
        for folder in folders:
            folder.chmod(0o755)
    require(ran, 5, "could not take the lease failover/api", "no right to put: Permission denied")
    assert sick.weights == WEIGHTS
    assert sick.epoch == 0
    sick.controls[0].chmod(0o555)
    assert sick.process(*AWAY, preexec_fn=without_privilege).code == 0, "one of three may be so"
    sick.controls[0].chmod(0o755)


# ------------------------------------------------------------------------------- what is measured

ONE = 'label_replace(vector({}), "region", "{}", "", "")'


def by_region(**values: str) -> str:
    """A query that Prometheus answers so."""
    return " or ".join(ONE.format(value, region) for region, value in values.items())


NAN = by_region(us="0/0", eu="0/0", ap="0/0")
EMPTY = 'nothing_is_there{window="$window"}'


@pytest.mark.parametrize("query", [EMPTY, NAN, "sum("], ids=["empty", "NaN", "a query that fails"])
def test_prometheus_that_knows_nothing_is_no_zero(
    sick: Platform, prometheus: Endpoint, query: str
) -> None:
    sick.rest["prometheus"] = {"url": prometheus.url}
    sick.route["peak"] = None
    sick.traffic["objective"] = {"load_query": query, "success_query": query}
    sick.write()
    ran = sick.process(*AWAY)
    require(ran, 5, "headroom: the load that moves from us is unknown", hint=False)
    assert "nobody can say whether there is room for them" in ran.err
    assert sick.weights == WEIGHTS
    assert sick.process("failover", "explain", "us").code == 3, "vantages judge without it"
    plan = sick.process(
        "failover", "plan", "--from", "us", "--break-glass", "headroom", "-o", "json"
    )
    assert plan.code == 0, plan.said
    assert plan.json()["actions"][0]["parameters"]["after"]["us"] == 0


def test_a_dead_region_s_load_reads_0_and_nobody_believes_it(
    sick: Platform, prometheus: Endpoint
) -> None:
    sick.rest["prometheus"] = {"url": prometheus.url}
    sick.route["peak"] = None
    sick.traffic["objective"] = {"load_query": by_region(us="0", eu="10", ap="0")}
    sick.write()
    ran = sick.process(*AWAY)
    said = "the load of us reads 0 while it is ill, which says nothing of its clients"
    require(ran, 5, said, hint=False)
    assert sick.weights == WEIGHTS


def test_nobody_looks(world: Platform) -> None:
    """Blind is not unhealthy."""
    ran = world.process(*AWAY)
    require(ran, 5, "blind: every region is unknown: it is we who cannot see", hint=False)
    assert world.weights == WEIGHTS


WRONG_CLOCK = """
from datetime import timedelta
from mlplatform.ports.clock import SystemClock
right = SystemClock.now
SystemClock.now = lambda self: right(self) + timedelta(hours={hours})
"""


@pytest.mark.parametrize(("hours", "said"), [(1, "s old: it has"), (-1, "s ahead of this machine")])
def test_a_clock_that_is_an_hour_off_makes_us_blind_and_says_why(
    sick: Platform, hours: int, said: str
) -> None:
    ran = sick.process(*AWAY, program=wrapped(WRONG_CLOCK.format(hours=hours)))
    require(ran, 5, "blind: every region", said, "of the two clocks is wrong", hint=False)
    assert sick.weights == WEIGHTS
    assert sick.process(*AWAY).code == 0


def test_vantages_whose_clocks_are_wrong_are_not_heard(world: Platform) -> None:
    """Two of three are an hour ahead: what is left is too little to act upon."""
    world.servers["us"].kill()
    world.look("fra")
    ahead = wrapped(WRONG_CLOCK.format(hours=1))
    for name in ("nyc", "sin"):
        world.process("probe", "--vantage", name, "--once", program=ahead)
    ran = world.process("failover", "explain", "us", "--output", "json")
    (verdict,) = ran.json()["verdicts"]
    assert verdict["health"] != "unhealthy"
    assert "from the future" in " ".join(verdict["because"])


# ------------------------------------------------------------------------------- other people, kill


def test_two_operators_at_once_and_one_acts(sick: Platform) -> None:
    both = [sick.start(*AWAY) for _ in range(2)]
    ended = [(process.communicate(timeout=90), process.returncode) for process in both]
    codes = sorted(code for _, code in ended)
    assert codes in ([0, 7], [0, 0]), ended
    assert sick.weights == MOVED
    assert len(sick.operations()) == 1
    for (_, said), code in ended:
        if code == 7:
            assert "somebody else has done it" in said or "is held by" in said
            assert "hint: " in said


@pytest.fixture
def clients_stay(sick: Platform) -> Platform:
    """Nobody goes through the front door any more, so that an operation waits to see clients move,
    for as long as vantages that look once a minute may take: there is time to do something to it,
    however busy the machine."""
    sick.route["front_door"] = sick.front_door
    sick.write()
    sick.look()
    sick.look()
    return sick


def look_all_the_time(world: Platform) -> None:
    """What is to be seen is seen at once from here on, or not at all."""
    world.traffic["probe"] = ALL_THE_TIME
    world.write()


def test_a_controller_killed_between_two_steps_and_another_goes_on(
    clients_stay: Platform,
) -> None:
    world = clients_stay
    first = world.beside(*AWAY)
    first.until("epoch 1")
    first.kill()
    assert world.weights == MOVED
    status = world.run("failover", "status", "--output", "json")
    operation = status.json()["routes"][0]["operation"]
    assert operation in first.said
    nothing = world.process(*AWAY)
    require(nothing, 0, f"{operation} on api is under way, or was left")
    look_all_the_time(world)
    world.keep_looking()
    ran = world.process("failover", "resume", "--output", "json")
    assert ran.code == 0, ran.said
    assert "waiting for a sign of life" in ran.err
    told = {each["kind"]: each for each in ran.json()["outcomes"]}
    assert {each["route"] for each in told.values()} == {"api"}
    assert told["settle"]["detail"] == "clients have moved, by probes through the front door"
    assert world.epoch == 2, "the router refuses the dead one, should it wake up"
    assert world.run("failover", "status", "-o", "json").json()["routes"][0]["operation"] is None
    assert len(world.operations()) == 1


def test_ctrl_c_leaves_the_weights_as_they_are_and_says_how_to_go_on(
    clients_stay: Platform,
) -> None:
    world = clients_stay
    acting = world.beside(*AWAY)
    acting.until("epoch 1")
    assert acting.interrupt() == 130
    assert world.weights == MOVED
    line = acting.said.rpartition("hint: ")[2]
    assert "the weights are as they were written; `mlplatform failover resume 2" in line
    operation = line.partition("resume ")[2].partition("`")[0]
    look_all_the_time(world)
    world.keep_looking()
    ran = world.process("failover", "resume", operation)
    assert ran.code == 0, ran.said
    assert "sign of life" not in ran.err, "the lease was given back"


def test_clients_that_do_not_follow_are_told(clients_stay: Platform) -> None:
    """Caddy sends them elsewhere at once; a vantage that is gone is no observer, and it is told."""
    world = clients_stay
    world.traffic["probe"] = {**ALL_THE_TIME, "interval_seconds": 4}
    world.write()
    world.look()
    world.look()
    acting = world.beside(*AWAY)
    acting.until("epoch 1")
    ended = acting.end()
    assert ended.code == 0, ended.said
    assert "nobody could see clients move" in ended.err
