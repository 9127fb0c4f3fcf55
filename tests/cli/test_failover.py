"""`mlplatform failover`, `mlplatform notify` and the runbooks' line, as they are typed: real
processes, a real Caddy, real servers, three control stores in folders."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from mlplatform import wiring
from mlplatform.control.journal import Journal
from mlplatform.core.plan import Action, Plan
from mlplatform.core.topology import Topology
from mlplatform.ports.clock import SystemClock
from tests.cli.conftest import PROGRAM, OnTerminal
from tests.cli.estate import Ran, require
from tests.real.failover.platform import DECLARED, WEIGHTS, Beside, Platform, platform, receiver
from tests.real.weather.meddler import Reply
from tests.waiting import wait_until

pytestmark = pytest.mark.usefixtures("caddy")

RUNBOOK = (sys.executable, "-m", "mlplatform.failover.failover_controller")
AWAY = ("failover", "run", "--from", "us")
MOVED = {"us": 0, "eu": 75, "ap": 25}
"""By the room that there is: eu has half of the peak to bear already."""


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Platform]:
    """All is well, and three vantages have just seen it."""
    with platform(tmp_path) as found:
        found.look()
        yield found


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """The same, for commands that change nothing."""
    with platform(tmp_path_factory.mktemp("calm")) as found:
        found.look()
        yield found
        assert found.weights == WEIGHTS
        assert found.epoch == 0, "somebody wrote"


@pytest.fixture
def sick(world: Platform) -> Platform:
    """us has just died, and everybody has seen it."""
    world.servers["us"].kill()
    world.look()
    return world


# ---------------------------------------------------------------------------------- what is refused

BAD_INPUT = {
    "to itself": (
        ("run", "--from", "us", "--to", "us", "--confirm", "us"),
        "us: traffic cannot move from a region to itself",
        "name another region with --to",
    ),
    "from nowhere": (
        ("run", "--from", "mars", "--confirm", "mars"),
        "mars: no such region",
        "there are: us, eu, ap",
    ),
    "to nowhere": (
        ("run", "--from", "us", "--to", "eu,mars", "--confirm", "us"),
        "mars: no such region",
        "there are: us, eu, ap",
    ),
    "no source": (("run", "--confirm", "us"), "the region to leave is missing", "--from"),
    "no such route": (("plan", "--from", "us", "--route", "x"), "x: no such route", "api"),
    "no such model": (("plan", "--from", "us", "--model", "x"), "x: no such model", "are: m"),
    "no such rule": (
        ("plan", "--from", "us", "--break-glass", "x"),
        "--break-glass x: no such gate or rule",
        "headroom",
    ),
    "a rule that holds for everybody": (
        ("plan", "--from", "us", "--break-glass", "one-region"),
        "one-region cannot be broken",
        "headroom",
    ),
    "without confirmation": (
        ("run", "--from", "us"),
        "us: not confirmed, and nobody to ask: this moves traffic on api",
        "add --confirm us, if that is what you want",
    ),
    "another region's confirmation": (
        ("run", "--from", "us", "--confirm", "eu"),
        "--confirm names eu, but this is about us",
        "--confirm us",
    ),
    "a drill of nothing": (("drill",), "the region is missing", "--to"),
    "a failback of nothing": (("back",), "the region is missing", "--to"),
    "a drill without confirmation": (
        ("drill", "--to", "ap"),
        "ap: not confirmed",
        "add --confirm ap",
    ),
    "an operation that there is not": (("resume", "x"), "there is no operation x", "history"),
    "pausing nothing": (("pause", "x"), "there is no operation x", "history"),
    "aborting nothing": (("abort", "x"), "there is no operation x", "history"),
    "a report of nothing": (("report",), "there was no failover yet", "failover plan"),
    "a report of no operation": (("report", "x"), "there is no operation x", "history"),
    "locking nothing": (("lock", "--reason", "r"), "name one route, or --all", "lock ROUTE"),
    "locking no route": (("lock", "x", "--reason", "r"), "x: no such route", "api"),
    "locking all and one": (("lock", "api", "--all", "--reason", "r"), "name one route", "ROUTE"),
    "locking for no reason": (("lock", "api"), "Missing option '--reason'", "--help"),
    "unlocking what is open": (("unlock", "api"), "there is no lock of api", "status"),
    "maintaining nowhere": (("maintain", "mars", "--reason", "r"), "mars: no such region", "us"),
    "maintaining for no reason": (("maintain", "us"), "--reason is missing", "say why"),
    "no such verdict": (
        ("override", "us", "ill", "--reason", "r"),
        "ill: not a verdict to give",
        "one of: healthy, suspect, unhealthy",
    ),
    "a verdict for no reason": (("override", "us", "healthy"), "--reason is missing", "say why"),
    "a verdict taken back that was not given": (
        ("override", "us", "--end"),
        "there is no override of us",
        "status",
    ),
    "explaining nowhere": (("explain", "mars"), "mars: no such region", "us, eu, ap"),
    "without control and without reason": (
        ("run", "--from", "us", "--confirm", "us", "--without-control", "kept"),
        "--without-control needs --reason",
        "say why",
    ),
    "metrics nowhere": (("watch", "--metrics", "here"), "--metrics here: not HOST:PORT", "e.g."),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_what_cannot_be_right(calm: Platform, case: str) -> None:
    """Each says what is wrong with what, and what to type instead; nothing is changed."""
    line, said, hint = BAD_INPUT[case]
    ran = calm.run("failover", *line)
    require(ran, 2, said)
    assert hint in ran.err.rpartition("hint: ")[2], ran.said
    assert not ran.out


def test_the_runbooks_line_refuses_the_same(calm: Platform) -> None:
    for line, said in (
        (("--from-region", "us", "--to-region", "us"), "from a region to itself"),
        (("--from-region", "mars"), "mars: no such region"),
        (("--from-region", "us"), "us: not confirmed, and nobody to ask"),
    ):
        require(calm.process(*line, program=RUNBOOK), 2, said)


def test_a_region_that_is_drained_already(calm: Platform) -> None:
    ran = calm.process("failover", "run", "--from", "ap", "--confirm", "ap")
    require(ran, 0, "nothing to do: ap is given no traffic", hint=False)


def test_a_topology_without_routes(tmp_path: Path) -> None:
    with platform(tmp_path) as world:
        topology = json.loads((tmp_path / "topology.yaml").read_text())
        del topology["traffic"]["routes"]
        (tmp_path / "topology.yaml").write_text(json.dumps(topology))
        require(world.process(*AWAY), 2, "the topology has no routes")


# ------------------------------------------------------------------------------ what is only shown


def test_a_plan_shows_what_it_would_do_and_from_what(calm: Platform) -> None:
    ran = calm.process("failover", "plan", "--from", "us", "--output", "json")
    assert ran.code == 0, ran.said
    told = ran.json()
    assert (told["schema_version"], told["noop"], told["holds"]) == (1, False, [])
    shift, settle = told["actions"]
    assert (shift["kind"], settle["kind"]) == ("shift", "settle")
    assert (shift["route"], shift["region"], shift["severity"]) == ("api", "us", "severe")
    assert shift["parameters"]["before"] == WEIGHTS
    assert shift["parameters"]["after"] == MOVED
    assert shift["figures"]["demand"]["said"] == "225 needed (peak 150 × 1.5)"
    assert shift["figures"]["headroom"]["eu"]["free"] == 850.0
    assert "declared on 2026-01-01" in shift["figures"]["headroom"]["eu"]["known"]
    assert ran.err == "plan: nothing was changed\n"
    lines = calm.process("failover", "plan", "--from", "us", "--output", "ndjson").lines()
    assert [line.get("kind") for line in lines[:2]] == ["shift", "settle"]
    assert {"noop": False}.items() <= lines[-1]["summary"].items()
    table = calm.process("failover", "plan", "--from", "us")
    assert "us 50 → 0, eu 50 → 75, ap 0 → 25; us is to be left" in table.out


def test_the_runbooks_line_plans(calm: Platform) -> None:
    line = ("--from-region", "us", "--to-region", "eu", "--plan", "--output", "json")
    ran = calm.process(*line, program=RUNBOOK)
    assert ran.code == 0, ran.said
    assert ran.json()["actions"][0]["parameters"]["after"] == {"us": 0, "eu": 100, "ap": 0}


def test_how_things_stand_when_all_is_well(calm: Platform) -> None:
    ran = calm.process("failover", "status", "--output", "json")
    assert ran.code == 0, ran.said
    (route,) = ran.json()["routes"]
    assert route == {
        "route": "api",
        "mode": "advise",
        "weights": WEIGHTS,
        "wanted": WEIGHTS,
        "epoch": 0,
        "writer": "",
        "by_hand": False,
        "operation": None,
        "locked": None,
        "drained": {},
        "detail": "",
    }
    healths = {each["region"]: each["health"] for each in ran.json()["verdicts"]}
    assert healths == dict.fromkeys(WEIGHTS, "healthy")


def test_the_grid_shows_who_serves(calm: Platform) -> None:
    ran = calm.process("status", "--output", "json")
    assert ran.code == 0, ran.said
    rungs = {each["region"]: (each["rung"], each["shares"]) for each in ran.json()["placements"]}
    assert rungs == {
        "us": ("SERVING", {"api": 50}),
        "eu": ("SERVING", {"api": 50}),
        "ap": ("WARM", {}),
    }
    assert ran.json()["health"] == dict.fromkeys(WEIGHTS, "healthy")
    assert "SERVING api 50 %, verified" in calm.process("status").out


def test_why_each_region_is_judged_so_and_what_would_change_it(calm: Platform) -> None:
    ran = calm.process("failover", "explain", "us")
    assert ran.code == 0, ran.said
    assert "3 of 3 domains see it up" in ran.out
    assert "unhealthy if fra, nyc and sin saw it down" in ran.out
    assert "\neu" not in ran.out


def test_where_traffic_could_go(calm: Platform) -> None:
    ran = calm.process("failover", "ready", "--output", "json")
    assert ran.code == 0, ran.said
    pairs = {(each["from"], each["to"], each["ready"]) for each in ran.json()["ready"]}
    assert pairs == {
        *(("us", "eu", True), ("us", "ap", True)),
        *(("eu", "us", True), ("eu", "ap", True)),
    }


# ----------------------------------------------------------------------------------- what is done


def test_a_dead_region_is_left_and_nothing_more_is_to_be_done(sick: Platform) -> None:
    assert sick.process("failover", "explain", "us").code == 3
    ran = sick.process(*AWAY, "--confirm", "us", "--reason", "it burns", "--output", "json")
    assert ran.code == 0, ran.said
    told = ran.json()
    assert (told["errors"], told["holds"]) == ({}, [])
    shift, settle = told["outcomes"]
    assert (shift["kind"], shift["result"]) == ("shift", "done")
    assert (settle["kind"], settle["result"]) == ("settle", "done")
    assert shift["authoritative_seconds"] > 0
    assert shift["measured"]["weights"] == MOVED
    assert "epoch 1" in ran.err
    assert sick.weights == MOVED
    assert sick.epoch_of_clients() == "1"
    assert set(sick.requests(8)) == {"eu", "ap"}
    again = sick.process(*AWAY, "--confirm", "us")
    require(again, 0, "nothing to do: us is given no traffic", hint=False)
    assert len(sick.operations()) == 1


def test_the_runbooks_line_acts(sick: Platform) -> None:
    line = ("--from-region", "us", "--to-region", "eu", "--confirm", "us")
    ran = sick.process(*line, program=RUNBOOK)
    assert ran.code == 0, ran.said
    assert sick.weights == {"us": 0, "eu": 100, "ap": 0}
    assert "api: operation 2" in ran.err


def test_on_a_terminal_the_region_s_name_is_asked_for(
    sick: Platform, on_terminal: OnTerminal
) -> None:
    topology = {"MLPLATFORM_TOPOLOGY": str(sick.folder / "topology.yaml")}
    wrong = on_terminal(*AWAY, program=PROGRAM, env=topology)
    assert "us 50 → 0, eu 50 → 75, ap 0 → 25" in wrong.until("Type us to go on:")
    wrong.type("yes\n")
    assert wrong.end() == 2
    assert "us: not confirmed; nothing was done" in wrong.shown
    assert sick.weights == WEIGHTS
    right = on_terminal(*AWAY, program=PROGRAM, env=topology)
    right.until("Type us to go on:")
    right.type("us\n")
    assert right.end() == 0, right.shown
    assert sick.weights == MOVED


def test_the_grid_of_a_lost_region(sick: Platform) -> None:
    ran = sick.process("status")
    assert ran.code == 0, "its store can be read"
    assert "us is unhealthy: 3 of 3 domains get no answer" in ran.err
    sick.world._running.close()
    gone = sick.process("status")
    assert gone.code == 5
    assert "api: its weights are unknown" in gone.err
    assert "STORED" in gone.out


def test_a_planned_move_drains_first(world: Platform) -> None:
    line = (*AWAY, "--planned", "--confirm", "us", "--reason", "new kernel", "--output", "json")
    ran = world.process(*line)
    assert ran.code == 0, ran.said
    kinds = [each["kind"] for each in ran.json()["outcomes"]]
    assert kinds == ["drain", "shift", "settle", "undrain"], ran.said
    assert world.weights == MOVED


def test_servers_that_could_not_be_told_are_named_until_somebody_tells_them(
    world: Platform,
) -> None:
    acting = world.beside(*AWAY, "--planned", "--confirm", "us", "--reason", "new kernel")
    acting.until("us 0 %")
    world.servers["us"].kill()
    ended = acting.end()
    assert ended.code == 8, ended.said
    operation = ended.err.partition(": operation ")[2].split()[0]
    world.servers["us"].start()
    world.look()
    told = f"us: its servers still send clients away, as {operation} told them to"
    require(world.process("failover", "status"), 3, told, "mlplatform failover undrain us")
    assert told in world.process("failover", "ready").err
    seen = world.process("regions")
    assert f"us: its servers send clients away: {operation} told them to, and is over" in seen.err
    rows = world.run("failover", "status", "--output", "json").json()["routes"]
    assert rows[0]["drained"] == {"us": operation}
    before = (world.weights, world.epoch)
    ran = world.process("failover", "undrain", "us", "--reason", "it is back")
    assert ran.code == 0, ran.said
    assert "servers are ready again" in ran.said
    assert (world.weights, world.epoch) == before
    status = world.process("failover", "status")
    assert "send clients away" not in status.err
    require(world.process("failover", "undrain", "mars"), 2, "mars: no such region", "us, eu, ap")


def test_there_and_back_by_steps_and_what_is_told_of_it(sick: Platform) -> None:
    sick.traffic["safety"]["hold_off_seconds"] = 0
    sick.traffic["safety"]["cooldown_seconds"] = 0
    sick.write()
    assert sick.process(*AWAY, "--confirm", "us").code == 0
    sick.servers["us"].start()
    sick.look()
    plan = sick.process("failover", "back", "--to", "us", "--plan", "--output", "json")
    steps = [each["what"] for each in plan.json()["actions"] if each["kind"] == "shift"]
    assert len(steps) == 5
    assert steps[0].startswith("us 0 → 1 %")
    ran = sick.process("failover", "back", "--to", "us", "--confirm", "us", "--output", "json")
    assert ran.code == 0, ran.said
    after = [each["measured"]["weights"]["us"] for each in ran.json()["outcomes"][::2]]
    assert after == [1, 3, 13, 25, 50]
    assert sick.weights == WEIGHTS
    assert [each["mode"] for each in told_modes(sick)] == ["unplanned", "failback"]
    report = sick.process("failover", "report")
    assert report.code == 0, report.said
    for text in ("# api: ", "| authoritative | +", "## What was done", "- Impact:"):
        assert text in report.out
    clocks = sick.process("failover", "report", "--output", "json").json()["clocks"]
    assert clocks[0]["route"] == "api"
    assert clocks[0]["committed_seconds"] is not None
    history = sick.process("history", "--operation", clocks[0]["operation"])
    assert "shift api (us): done, us 50 %, eu 50 %, ap 0 %" in history.out


def told_modes(world: Platform) -> list[dict[str, Any]]:
    return [plan["actions"][0]["parameters"] for plan in world.operations()]


def test_a_drill_is_a_trickle_there_and_back(world: Platform) -> None:
    line = ("failover", "drill", "--to", "ap", "--confirm", "ap", "--output", "json")
    ran = world.process(*line)
    assert ran.code == 0, ran.said
    weights = [each["measured"]["weights"]["ap"] for each in ran.json()["outcomes"][::2]]
    assert weights == [1, 0]
    assert world.weights == WEIGHTS


# -------------------------------------------------------------------------- what operators order


def test_a_lock_holds_whoever_asks_and_says_why(world: Platform) -> None:
    for lock, unlock in (
        (("lock", "--all", "--reason", "incident 4711"), ("unlock", "--all")),
        (("lock", "api", "--reason", "incident 4711"), ("unlock", "api")),
    ):
        assert world.process("failover", *lock).code == 0
        held = world.process(*AWAY, "--confirm", "us")
        require(held, 3, "held: api us: lock: ", "is locked: incident 4711", hint=False)
        status = world.process("failover", "status")
        assert "incident 4711" in status.out + status.err
        assert world.process("failover", *unlock).code == 0
        assert world.process("failover", "plan", "--from", "us").code == 0


def test_maintenance_and_overrides(world: Platform) -> None:
    world.good("failover", "maintain", "ap", "--reason", "new disks", "--hours", "4")
    ran = world.process("failover", "plan", "--from", "us", "--to", "ap")
    require(ran, 3, "held: api ap: maintenance: new disks", hint=False)
    assert world.process("failover", "maintain", "ap", "--end").code == 0
    assert world.process("failover", "plan", "--from", "us", "--to", "ap").code == 0
    word = ("override", "eu", "unhealthy", "--reason", "callers say so", "--hours", "2")
    assert world.process("failover", *word).code == 0
    ran = world.process("failover", "plan", "--from", "us", "--to", "eu")
    require(ran, 3, "eu is unhealthy: ", "callers say so", "judged healthy", hint=False)
    status = world.process("failover", "status")
    assert "callers say so" in status.err
    assert world.process("failover", "override", "eu", "--end").code == 0
    assert world.process("failover", "plan", "--from", "us", "--to", "eu").code == 0


UnderWay = tuple[Platform, Beside, str]


@pytest.fixture
def under_way(sick: Platform) -> UnderWay:
    """A failback that is between two of its steps: the platform, the process, the operation. It is
    told what to do from this process: to start another takes a busy machine as long as its steps.
    """
    sick.traffic["safety"] |= {"hold_off_seconds": 0, "cooldown_seconds": 0, "step_seconds": 4}
    sick.write()
    assert sick.process(*AWAY, "--confirm", "us").code == 0
    sick.servers["us"].start()
    sick.look()
    acting = sick.beside("failover", "back", "--to", "us", "--confirm", "us")
    acting.until("us 1 %")
    operation = acting.said.partition(": operation ")[2].split()[0]
    return sick, acting, operation


def test_an_operation_is_paused_and_goes_on(under_way: UnderWay) -> None:
    world, acting, operation = under_way
    ran = world.run("failover", "pause", operation, "--reason", "looking")
    require(ran, 0, f"{operation} is paused after the step it is in", f"resume {operation}")
    wait_until(lambda: "looking" in world.process("failover", "status").err)
    held = world.process("failover", "back", "--to", "us", "--confirm", "us")
    assert held.code in (3, 7), held.said
    assert acting.process.poll() is None
    assert world.weights["us"] < 50
    gone_on = world.process("failover", "resume", operation)
    assert f"{operation} is no longer paused" in gone_on.err
    assert acting.end().code == 0, acting.said
    assert world.weights == WEIGHTS


def test_an_operation_is_aborted_where_it_stands(under_way: UnderWay) -> None:
    world, acting, operation = under_way
    ran = world.run("failover", "abort", operation, "--reason", "enough")
    require(ran, 0, f"{operation} ends after the step it is in", hint=False)
    ended = acting.end()
    assert "aborted: enough" in ended.err
    assert 1 <= world.weights["us"] < 50
    assert world.process("failover", "status").code == 0
    require(world.process("failover", "abort", operation), 2, "is over already")
    require(world.process("failover", "pause", operation), 2, f"{operation} is over already")
    require(world.process("failover", "resume"), 0, "nothing is unfinished", hint=False)


def test_of_several_that_are_paused_the_one_to_resume_is_named(world: Platform) -> None:
    topology = Topology.load(world.folder / "topology.yaml")
    control = wiring.open_control(topology, SystemClock(), Random(1))
    journal = Journal(control, SystemClock(), Random(2), "ann@laptop:1")
    for route in ("api", "batch"):
        action = Action(
            key=f"failover/{route}/shift/x",
            kind="shift",
            subject=route,
            region="us",
            reason="r",
            parameters={"mode": "planned", "source": "us"},
        )
        plan = Plan(feature="failover", actions=(action,))
        operation = journal.new_operation("failover")
        journal.start(operation, plan, lease=f"failover/{route}", fence=1)
        ran = world.process("failover", "pause", operation, "--reason", f"looking at {route}")
        assert ran.code == 0, ran.said
    ran = world.process("failover", "resume")
    require(ran, 2, "2 operations are paused, for reasons of their own: ", "failover resume 2")
    assert "looking at api" in ran.err
    assert "looking at batch" in ran.err
    assert "is no longer paused" not in ran.err


# ------------------------------------------------------------------------------------ who is told


def test_everybody_who_is_to_be_told_is_told(tmp_path: Path) -> None:
    with platform(tmp_path) as world, receiver() as (url, received):
        world.traffic["notify"] = {
            "ops": {"kind": "webhook", "variable": "OPS_URL"},
            "chat": {"kind": "slack", "variable": "CHAT_URL"},
            "pager": {"kind": "pagerduty", "variable": "PAGER_KEY"},
        }
        world.write()
        missing = world.process("notify", "test")
        require(missing, 2, "OPS_URL is not set")
        world.env = {"OPS_URL": url, "CHAT_URL": url, "PAGER_KEY": f"R0UT1NG-SECRET@{url}"}
        ran = world.process("notify", "test", "--output", "json")
        assert ran.code == 0, ran.said
        told = {each["receiver"]: each["result"] for each in ran.json()["receivers"]}
        assert told == {"ops": "told", "chat": "told", "pager": "told"}
        ops, chat, pager = received
        assert ops["schema"] == "mlplatform/notice/1"
        assert "a test" in json.dumps(chat)
        assert (pager["routing_key"], pager["event_action"]) == ("R0UT1NG-SECRET", "trigger")
        assert world.process("notify", "test", "ops").code == 0
        require(world.process("notify", "test", "nobody"), 2, "nobody: no such receiver")
        keep_secret(ran, missing)


def test_a_receiver_that_cannot_be_reached_is_named_and_its_url_is_not(tmp_path: Path) -> None:
    with platform(tmp_path) as world:
        world.traffic["notify"] = {"ops": {"kind": "webhook", "variable": "OPS_URL"}}
        world.write()
        world.env = {"OPS_URL": "http://127.0.0.1:1/hook/SECRET-PATH"}
        ran = world.process("notify", "test", "-vvv")
        require(ran, 1, "webhook ops", "Connection refused", hint=False)
        keep_secret(ran)


def test_nobody_to_tell(calm: Platform) -> None:
    require(calm.process("notify", "test"), 2, "there is nobody to tell")


def keep_secret(*runs: Ran) -> None:
    for ran in runs:
        for secret in ("SECRET-PATH", "R0UT1NG"):
            assert secret not in ran.out + ran.err, ran.said


# ----------------------------------------------------------------------------------- more than one


def test_one_route_moves_and_the_other_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with platform(tmp_path) as world, platform(tmp_path / "other") as other:
        targets = {name: f"127.0.0.1:{each.port}" for name, each in other.servers.items()}
        world.routes["web"] = {
            "actuator": other.actuator,
            "models": ["m"],
            "weights": WEIGHTS,
            "targets": targets,
            "peak": {"requests_per_second": 300, **DECLARED},
        }
        world.write()
        world.servers["us"].kill()
        world.look()
        other.world.way.refuse = lambda asked: (
            Reply(403, b'{"error": "no"}') if asked.method == "PATCH" else None
        )
        ran = world.process(*AWAY, "--confirm", "us", "--output", "json")
        assert ran.code == 8, ran.said
        assert world.weights == MOVED
        assert other.weights == WEIGHTS
        assert "error: web: " in ran.err
        assert set(ran.json()["errors"]) == {"web"}
