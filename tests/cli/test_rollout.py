"""`mlplatform rollout plan` and the controller's own line, as they are typed: real stores and
control stores in folders, real servers, one of each region."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from random import Random
from typing import Any

import pytest

from mlplatform import wiring
from mlplatform.control.journal import Journal, Kind
from mlplatform.core.plan import Action, Outcome, Plan, Result
from mlplatform.core.topology import Topology
from mlplatform.ports.clock import SystemClock
from tests.cli.estate import Estate, Ran, require
from tests.responder import Responder, open_server

PLAN = ("rollout", "plan", "m@v2")
RUNBOOK = (sys.executable, "-m", "mlplatform.rollout.rollout_controller")
NAMES = ("us", "eu", "ap")
DECLARED = {"measured_on": "2026-01-01", "expires_on": "2999-01-01"}


class Site(Estate):
    """`m@v1` served in three regions, and `m@v2` stored and verified beside it."""

    responders: dict[str, Responder]
    endpoints: dict[str, str]
    sections: dict[str, Any]

    def begin(self, stack: ExitStack) -> None:
        self.good("publish", "model", "--model", "m", "--version", "v1")
        (self.model / "config.json").write_text('{"layers": 4}\n')
        self.good("publish", "model", "--model", "m", "--version", "v2")
        self.good("replicate", "m@v1")
        self.good("replicate", "m@v2")
        placements = self.good("status", "--output", "json").json()["placements"]
        digests = {each["version"]: each["digest"] for each in placements}
        self.digests = digests
        self.responders, self.endpoints = {}, {}
        for name in NAMES:
            self.responders[name] = Responder({"m": ("v1", digests["v1"])}, region=name)
            server = open_server(self.responders[name], port=0)
            thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.server_close)
            stack.callback(server.shutdown)
            self.endpoints[name] = f"http://127.0.0.1:{server.server_port}"
        self.describe()

    def describe(self, **sections: Any) -> None:
        """Write the topology as it is to be now."""
        document = {
            "control": f"file://{self.folder}/control",
            "regions": {
                name: {"store": self.regions[name], "endpoint": self.endpoints[name]}
                for name in NAMES
            },
            "models": {
                "m": {"version": "v2", "home": "us", "replicate_to": ["eu", "ap"], "gpus": {}}
            },
            "rollout": {"models": {"m": ROUTES}},
            **sections,
        }
        (self.folder / "topology.yaml").write_text(json.dumps(document))  # JSON is YAML

    def ordered(self, *arguments: str) -> Ran:
        return self.good("failover", *arguments)


ROUTES = {"actuators": {name: f"caddy://127.0.0.1:2019/m-{name}" for name in NAMES}}
API = {"actuator": "memory://api", "models": ["m"], "weights": {"us": 33, "eu": 33, "ap": 34}}
TRAFFIC = {
    "routes": {"api": API | {"peak": {"requests_per_second": 30, **DECLARED}}},
    "capacity": {name: {"m": {"requests_per_second": 100, **DECLARED}} for name in NAMES},
}
"""The route is in memory, and so in every command as a new one is: in equal shares. A region's
server does 100 requests a second, and 10 enter it: any of them may be lost."""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Published, replicated and served once for all tests, which change the topology alone."""
    with ExitStack() as stack:
        site = Site(tmp_path_factory.mktemp("rollout"))
        site.begin(stack)
        yield site


@pytest.fixture
def site(served: Site) -> Site:
    served.describe()
    return served


def test_a_plan_is_shown_and_nothing_is_changed(site: Site) -> None:
    before = site.snapshot(*NAMES, "control")
    ran = site.good(*PLAN, "--output", "json")
    told = ran.json()
    assert [(a["wave"], a["region"]) for a in told["actions"] if a["kind"] == "promote"] == [
        (1, "us"),
        (2, "eu"),
        (3, "ap"),
    ]
    assert [a["step"] for a in told["actions"] if a["region"] == "eu"] == [
        "preflight",
        "pin",
        "load-1",
        "warm-up-1",
        "weight-1",
        "weight-5",
        "weight-25",
        "weight-50",
        "promote",
        "bake",
        "retire",
    ]
    load = told["actions"][2]
    assert load["parameters"]["last_good_digest"] == site.digests["v1"]
    assert load["parameters"]["digest"] == site.digests["v2"]
    assert (told["noop"], told["holds"]) == (False, [])
    assert set(told["basis"]) == {"rollout", *NAMES}
    name = told["digest"].removeprefix("blake3:")[:12]
    assert f"plan {name}: 33 steps in 3 waves, nothing was changed" in ran.err
    after = site.snapshot(*NAMES, "control")
    kept = f"control/plans/rollout/{told['digest'].removeprefix('blake3:')}.json"
    assert after.pop(kept)
    assert after == before


def test_what_has_no_price_is_said_to_have_none(site: Site) -> None:
    ran = site.good(*PLAN, "--output", "json")
    assert "nobody has measured how long that takes" in ran.json()["cost"]["left_out"][0]
    assert "cost by list prices: unknown" in ran.err


def test_the_same_plan_has_the_same_name(site: Site) -> None:
    digests = {site.good(*PLAN, "--output", "json").json()["digest"] for _ in range(2)}
    assert len(digests) == 1


def test_people_read_what_each_step_waits_for_and_how_it_goes_back(site: Site) -> None:
    words = " ".join(site.process("rollout", "plan", "m", "--region", "eu").out.split())
    for heading in ("WAVE", "STEP", "GOES ON WHEN", "GOES BACK BY"):
        assert heading in words
    assert "weight-25" in words


def test_the_controllers_own_line(site: Site) -> None:
    ran = site.process("plan", "m@v2", "--output", "json", program=RUNBOOK)
    assert ran.code == 0, ran.said
    assert ran.json()["digest"] == site.good(*PLAN, "--output", "json").json()["digest"]


def test_where_it_serves_already_there_is_nothing_to_do(site: Site) -> None:
    ran = site.good("rollout", "plan", "m@v1")
    assert "nothing to do: m@v1 serves there already" in ran.err


BAD = {
    "a model that is not there": (("n@v2",), "n: no such model", "there are: m"),
    "a version that is not there": (("m@v9",), "m@v9: there is no such version", "versions m"),
    "a region that is not there": (("m@v2", "--region", "mars"), "mars: no such region", "us, eu"),
    "no version": (("m@",), "version name '' cannot be used", "letters"),
}


@pytest.mark.parametrize(("arguments", "said", "hint"), BAD.values(), ids=BAD)
def test_bad_input(site: Site, arguments: tuple[str, ...], said: str, hint: str) -> None:
    require(site.run("rollout", "plan", *arguments), 2, said, hint)


UNSPOKEN = {
    "an actuator that nobody speaks": (
        {"actuators": {"eu": "cady://127.0.0.1:2019/m-eu"}},
        "actuator cady://127.0.0.1:2019/m-eu: unknown scheme 'cady'; did you mean caddy://?",
    ),
    "servers that nobody speaks": (
        {"servers": {"eu": "process:///srv/eu"}},
        "servers process:///srv/eu: unknown scheme 'process'; did you mean processes://?",
    ),
    "an option that there is not": (
        {"actuators": {"eu": "caddy://127.0.0.1:2019/m-eu?socket=/run"}},
        "unknown option 'socket'",
    ),
}


@pytest.mark.parametrize(("model", "said"), UNSPOKEN.values(), ids=UNSPOKEN)
def test_nothing_is_planned_that_could_not_be_begun(
    site: Site, model: dict[str, Any], said: str
) -> None:
    site.describe(rollout={"models": {"m": {**ROUTES, **model}}})
    require(site.run(*PLAN, "--region", "eu"), 2, said)


def test_a_route_of_failovers_is_refused_by_validate_too(site: Site) -> None:
    shared = {"routes": {"api": API | {"actuator": "caddy://127.0.0.1:2019/m-us"}}}
    site.describe(traffic=shared)
    for command in (("validate", "--offline"), PLAN):
        require(
            site.run(*command),
            2,
            "topology.yaml:1: rollout.models.m.actuators.us: is the object of traffic.routes.api "
            "already",
            hint=False,
        )


def held(ran: Ran, code: int, region: str, *texts: str) -> None:
    """Nothing is planned, and this is why, for people and for programs."""
    require(ran, code, f"held: m@v2 in {region}: ", *texts, hint=False)


def test_servers_that_hold_what_was_never_stored_are_nothing_to_go_back_to(site: Site) -> None:
    responder = site.responders["eu"]
    responder.models["m"] = ("v1", "blake3:somethingelse")
    try:
        held(site.run(*PLAN), 3, "eu", "no-last-good: servers of eu hold blake3:somethingelse")
    finally:
        responder.models["m"] = ("v1", site.digests["v1"])


def test_servers_that_cannot_be_reached_are_unknown(site: Site) -> None:
    text = (site.folder / "topology.yaml").read_text()
    gone = text.replace(site.endpoints["ap"], "http://127.0.0.1:9")
    (site.folder / "topology.yaml").write_text(gone)
    held(site.run(*PLAN), 5, "ap", "nothing-serves", "see to its servers, then plan again")
    left = site.good(*PLAN, "--region", "us,eu", "--output", "json").json()
    assert {action["region"] for action in left["actions"]} == {"us", "eu"}


def test_a_region_that_is_worked_on(site: Site) -> None:
    site.describe(traffic=TRAFFIC)
    site.ordered("maintain", "eu", "--reason", "new disks")
    try:
        held(site.run(*PLAN), 3, "eu", "maintenance: new disks; mlplatform failover maintain eu")
    finally:
        site.ordered("maintain", "eu", "--end")


def test_a_lock_on_everything_is_one_on_rollouts(site: Site) -> None:
    site.describe(traffic=TRAFFIC)
    site.ordered("lock", "--all", "--reason", "an audit")
    try:
        held(site.run(*PLAN), 3, "us", "locked: everything is locked: an audit")
    finally:
        site.ordered("unlock", "--all", "--reason", "done")


def test_with_a_route_any_region_may_be_lost_meanwhile(site: Site) -> None:
    site.describe(traffic=TRAFFIC)
    waves = site.good(*PLAN, "--output", "json").json()["actions"]
    assert {action["wave"] for action in waves} == {1, 2, 3}
    unknown = TRAFFIC | {"capacity": {}}
    site.describe(traffic=unknown)
    held(site.run(*PLAN), 5, "us", "spare-region: whether", "set traffic.capacity.")


def test_a_region_that_has_not_its_own_share(site: Site) -> None:
    """Somebody moved traffic, by whatever hand: the router says so."""
    moved = API | {"weights": {"us": 50, "eu": 16, "ap": 34}}
    site.describe(traffic=TRAFFIC | {"routes": {"api": moved}})
    ran = site.run(*PLAN)
    held(ran, 3, "us", "under-failover: route api gives it 33 %, the topology wants 50")
    held(ran, 3, "eu", "failover-target: route api gives it 33 %, the topology wants 16")
    assert "spare-region" not in ran.err


def test_a_failover_that_was_left(site: Site) -> None:
    """Its operation is open in the journal: who it goes from and to are told apart."""
    site.describe(traffic=TRAFFIC)
    topology = Topology.load(site.folder / "topology.yaml")
    clock = SystemClock()
    control = wiring.open_control(topology, clock, Random())
    journal = Journal(control, clock, Random(), "alice@laptop:42")
    action = Action(
        key="failover/api/shift/1",
        kind="shift",
        subject="api",
        region="us",
        reason="us is ill",
        parameters={
            "mode": "unplanned",
            "source": "us",
            "targets": ["eu"],
            "before": API["weights"],
            "after": {"us": 0, "eu": 66, "ap": 34},
        },
    )
    name = journal.new_operation("failover")
    stream = journal.start(name, Plan(feature="failover", actions=(action,)), fence=1)
    try:
        ran = site.run(*PLAN)
        held(ran, 3, "us", f"under-failover: {name} on api is under way, or was left")
        held(ran, 3, "eu", f"failover-target: {name} on api is under way, or was left")
    finally:
        stream.append(Kind.CLOSED, {"text": "ended"}, fence=1)


def test_nothing_was_rolled_out_and_so_there_is_nothing_to_report(site: Site) -> None:
    require(site.run("rollout", "report"), 2, "nothing was ever rolled out", "rollout plan MODEL")
    assert site.good("rollout", "history", "m").err == "nothing of m was ever rolled out\n"


def test_a_report_in_markdown_as_a_page_and_for_programs(site: Site) -> None:
    name = site.good(*PLAN, "--output", "json").json()["digest"].removeprefix("blake3:")
    topology = Topology.load(site.folder / "topology.yaml")
    clock = SystemClock()
    control = wiring.open_control(topology, clock, Random())
    journal = Journal(control, clock, Random(), "alice@laptop:42")
    stored = json.loads((site.folder / f"control/plans/rollout/{name}.json").read_text())
    plan = Plan.model_validate(stored["plan"])
    operation = journal.new_operation("rollout")
    stream = journal.start(operation, plan, fence=1)
    first = plan.actions[0].key
    stream.append(Kind.INTENT, {"actions": [first], "batch": first}, fence=1)
    outcome = Outcome(action=first, result=Result.FAILED, detail="us: the disk is full")
    stream.append(Kind.OUTCOME, outcome.model_dump(mode="json"), fence=1)
    stream.append(Kind.CLOSED, {"text": "ended"}, fence=1)

    told = site.good("rollout", "report", "m").out
    assert told.startswith("# `m@v2`: returned\n")
    assert "us: the disk is full" in told
    assert "alice@laptop:42 (unverified)" in told
    page, text = site.folder / "report.html", site.folder / "report.md"
    ran = site.good("rollout", "report", operation, "--html", str(page), "--markdown", str(text))
    assert ran.out == ""
    assert f"wrote {page}, " in ran.err
    assert text.read_text() == told
    assert "us: the disk is full" in page.read_text()
    rows = site.good("rollout", "report", "--output", "json").json()
    assert (rows["operation"], rows["state"]) == (operation, "returned")
    assert [row["state"] for row in rows["regions"]] == ["returned", "not begun", "not begun"]
    nowhere = site.folder / "no" / "report.html"
    require(
        site.run("rollout", "report", "--html", str(nowhere)),
        2,
        f"--html {nowhere}: No such file or directory",
        "a folder that can be written to",
    )
