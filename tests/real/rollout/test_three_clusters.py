"""Rollouts over three real clusters: what serves at the end, what was never so meanwhile, how the
command ends, and what an operator reads.

`make test` tells some of them, in two minutes or so; those that are `slow` too, in eight:
`MLPLATFORM_ROLLOUT_STORIES=all make test ARGS=tests/real/rollout`."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest

from mlplatform.adapters.caddy import caddy_route
from mlplatform.core.topology import Topology
from mlplatform.wiring import open_traffic
from tests.real.rollout.world import (
    POLICY,
    Ran,
    Region,
    World,
    ended,
    loses_requests,
    never,
    reached,
    world_of,
)
from tests.real.servers.catalogue import caddy
from tests.real.servers.cluster import Cluster
from tests.real.servers.gateway import Reply, refusing, routes
from tests.real.servers.launch import free_port, running
from tests.waiting import eventually

pytestmark = [
    pytest.mark.real("kubernetes", "kwok", "caddy", "prometheus"),
    pytest.mark.xdist_group("three_clusters"),
]

Make = Callable[..., AbstractContextManager[World]]
WAVES = {"order": ["ap", ["us", "eu"]], "concurrency": 2, "bake_seconds": 1, "spare_region": False}


@pytest.fixture
def make(clusters: dict[str, Cluster], tmp_path: Path) -> Make:
    """A world of all three; `only` some of the regions."""

    def one(*versions: str, only: str = "us eu ap", **named: Any) -> AbstractContextManager[World]:
        policy = {**POLICY, "waves": WAVES if only == "us eu ap" else POLICY["waves"]}
        policy |= named.pop("policy", {})
        there = {name: clusters[name] for name in only.split()}
        return world_of(there, tmp_path, versions=versions, policy=policy, **named)

    return one


def require(world: World, **serves: str) -> None:
    """By region: that version has all requests, answers them, and no other has servers; and at no
    moment was anybody sent requests who was not there."""
    for name, version in serves.items():
        region = world[name]
        assert region.shares == {version: 100}, name
        assert not region.failing(0.5), name
        others = {"v1", "v2", "v2.fails", "v2.crash", "v2.noimage"} - {version}
        assert not any(region.pods(each) for each in others), name
        assert not never(region.entry, loses_requests), name


@contextmanager
def again_and_again(act: Callable[[], object], *, every_seconds: float = 0.3) -> Iterator[None]:
    """Somebody who does it all the time, whatever comes of it."""
    over = threading.Event()
    failed: list[Exception] = []

    def work() -> None:
        while not over.wait(every_seconds):
            try:
                act()
            except RuntimeError:
                continue  # refused, or gone: next time
            except Exception as error:
                failed.append(error)
                return

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        assert not failed


def test_a_clean_wave(make: Make) -> None:
    with make("v2") as world:
        ran = world.type("rollout apply resnet50@v2 --yes")
        assert ran.exit_code == 0, ran.said
        order = [line.split(":")[0] for line in ran.err.splitlines() if ": promote: done" in line]
        assert order[0] == "ap"
        assert set(order[1:]) == {"us", "eu"}
        require(world, us="v2", eu="v2", ap="v2")
        assert not world.failed()


def test_a_bad_canary_never_leaves_its_region(make: Make) -> None:
    with make("v2.fails") as world:
        ran = world.type("rollout apply resnet50@v2.fails --yes")
        assert ran.exit_code == 3, ran.said
        assert "ap" in ran.err
        assert "against it" in ran.err
        require(world, us="v1", eu="v1", ap="v1")
        assert len(world["us"].entry.history) == len(world["eu"].entry.history) == 1
        assert not [*world["us"].failed(), *world["eu"].failed()]


@pytest.mark.slow
def test_an_image_that_does_not_exist(make: Make) -> None:
    with make("v2.noimage", only="eu") as world:
        ran = world.type("rollout apply resnet50@v2.noimage --yes")
        assert ran.exit_code == 3, ran.said
        assert "does not start" in ran.err
        assert "image" in ran.err
        assert "Back-off pulling image" in ran.err
        require(world, eu="v1")
        assert not world.failed()


@pytest.mark.slow
def test_a_canary_that_crashes_under_its_first_requests(make: Make) -> None:
    """It records nothing itself; each time that it is back, it crashes again."""
    with make("v2", only="eu") as world:
        eu = world["eu"]

        def fell() -> None:
            if eu.shares.get("v2"):
                eu.crash("v2")

        with again_and_again(fell):
            ran = world.type("rollout apply resnet50@v2 --yes")
        assert ran.exit_code == 3, ran.said
        assert "its weight is 0 meanwhile" in ran.err
        require_returned(eu, ran)


def require_returned(region: Region, ran: Ran) -> None:
    """It serves what it served before, with nothing failing."""
    assert "was returned, the last good version serves" in ran.err
    assert region.shares == {"v1": 100}
    assert not region.failing()


@pytest.mark.slow
def test_a_controller_is_killed_and_another_goes_on(make: Make) -> None:
    with make("v2", only="eu") as world:
        eu = world["eu"]
        first = world.start("rollout apply resnet50@v2 --yes")
        reached(eu, lambda shares: shares.get("v2") == 50)
        first.send_signal(signal.SIGKILL)
        first.communicate()
        assert eu.shares == {"v1": 50, "v2": 50}
        assert not eu.failing()
        ran = world.type("rollout resume resnet50 --wait")
        assert ran.exit_code == 0, ran.said
        require(world, eu="v2")
        assert not world.failed()


@pytest.mark.slow
def test_an_api_server_is_away_in_the_middle(make: Make) -> None:
    with make("v2", only="eu") as world:
        eu = world["eu"]
        rollout = world.start("rollout apply resnet50@v2 --yes")
        reached(eu, lambda shares: shares.get("v2") == 50)
        eu.way.cut = True
        assert not eu.failing(20.0)
        assert rollout.poll() is None
        eu.way.cut = False
        ran = ended(rollout)
        assert ran.exit_code == 0, ran.said
        require(world, eu="v2")
        assert not world.failed()


@pytest.mark.slow
def test_no_gpu_is_free(make: Make) -> None:
    """Old servers go first, and never more of them than the floor allows."""
    strategy = {"weights": [50], "step_seconds": 1, "surge_servers": 0}
    with make("v2", only="eu", servers=4, gpus=4, policy={"strategy": strategy}) as world:
        eu = world["eu"]
        ran = world.type("rollout apply resnet50@v2 --yes")
        assert ran.exit_code == 0, ran.said
        require(world, eu="v2")
        assert not never(eu.entry, lambda seen: sum(seen.endpoints.values()) < 2)
        assert not world.failed()


@pytest.mark.slow
def test_no_gpu_is_free_and_one_is_asked_for(make: Make) -> None:
    with make("v2", only="eu", servers=4, gpus=4) as world:
        ran = world.type("rollout apply resnet50@v2 --yes")
        assert ran.exit_code in (3, 5), ran.said
        assert "NVIDIA-L4" in ran.err or "gpu" in ran.err
        require(world, eu="v1")
        assert len(world["eu"].entry.history) == 1
        assert not world.failed()


def test_a_version_is_missing_in_one_region(make: Make) -> None:
    with make() as world:
        world.publish("v2", regions=["us", "ap"])
        ran = world.type("rollout apply resnet50@v2 --yes")
        assert ran.exit_code == 3, ran.said
        assert "in eu: not-stored" in ran.err
        require(world, us="v1", eu="v1", ap="v1")
        assert not world.failed()


@pytest.mark.slow
def test_a_quota_is_full(make: Make) -> None:
    with make("v2", only="eu") as world:
        eu = world["eu"]
        quota = {"metadata": {"name": "gpus"}, "spec": {"hard": {"requests.nvidia.com/gpu": "2"}}}
        eu.put("v1", "resourcequotas", quota)
        path = eu.path("v1", "resourcequotas", "gpus")
        eventually(lambda: eu.plane.ask("GET", path)["status"].get("used"))
        ran = world.type("rollout apply resnet50@v2 --yes")
        assert ran.exit_code == 3, ran.said
        assert "gpus" in ran.err
        require(world, eu="v1")
        assert not world.failed()


@pytest.mark.slow
def test_an_autoscaler_fights(make: Make) -> None:
    """Its floor is that of the version that serves: what a rollout needs, it moves; afterwards the
    bounds are as they were."""
    with make("v2", only="eu") as world:
        eu = world["eu"]
        target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "resnet50"}
        scaler = {
            "metadata": {"name": "resnet50"},
            "spec": {
                "scaleTargetRef": target,
                "minReplicas": 2,
                "maxReplicas": 4,
                "metrics": [
                    {
                        "type": "Resource",
                        "resource": {
                            "name": "cpu",
                            "target": {"type": "Utilization", "averageUtilization": 50},
                        },
                    }
                ],
            },
        }
        eu.put("autoscaling/v2", "horizontalpodautoscalers", scaler)
        ran = world.type("rollout apply resnet50@v2 --yes")
        assert ran.exit_code == 0, ran.said
        require(world, eu="v2")
        path = eu.path("autoscaling/v2", "horizontalpodautoscalers", "resnet50")
        spec = eu.plane.ask("GET", path)["spec"]
        assert (spec["minReplicas"], spec["maxReplicas"]) == (2, 4)
        assert not world.failed()


@pytest.mark.slow
def test_gitops_puts_the_weights_back(make: Make) -> None:
    """Whoever is at work there is not fought: the rollout goes back, and says why."""
    with make("v2", only="eu") as world:
        eu = world["eu"]
        path = f"{routes(eu.namespace)}/resnet50"

        def put_back() -> None:
            route = eu.plane.ask("GET", path)
            backends = route["spec"]["rules"][0]["backendRefs"]
            if len(backends) > 1 and backends[1]["weight"]:
                backends[0]["weight"], backends[1]["weight"] = 100, 0
                eu.plane.merge(path, {"spec": route["spec"]})

        with again_and_again(put_back):
            ran = world.type("rollout apply resnet50@v2 --yes")
        assert ran.exit_code == 3, ran.said
        assert "another hand is at work there" in ran.err
        require(world, eu="v1")
        assert not world.failed()


@pytest.mark.slow
def test_undone_after_it_was_over(make: Make) -> None:
    with make("v2", only="eu") as world:
        assert world.type("rollout apply resnet50@v2 --yes").exit_code == 0
        ran = world.type("rollout undo resnet50@v2 --reason complaints --yes")
        assert ran.exit_code == 3, ran.said
        assert "the last good version serves: complaints" in ran.err
        require(world, eu="v1")
        assert not world.failed()


def test_two_controllers(make: Make) -> None:
    """The second comes while the first is in the middle, however long it takes to begin."""
    strategy = {"weights": [50], "step_seconds": 20}
    with make("v2", only="eu", policy={"strategy": strategy}) as world:
        first = world.start("rollout apply resnet50@v2 --yes")
        reached(world["eu"], lambda shares: shares.get("v2") == 50)
        second = world.type("rollout apply resnet50@v2 --yes")
        assert second.exit_code == 3, second.said
        assert "rollout-open: servers of eu hold v1, v2; let that rollout end" in second.err
        ran = ended(first)
        assert ran.exit_code == 0, ran.said
        require(world, eu="v2")
        assert not world.failed()


@pytest.mark.slow
def test_undone_while_a_wave_of_two_is_open(make: Make) -> None:
    """By another process: whoever is at work hears of it, and takes back both."""
    slow = {"weights": [50], "step_seconds": 60}
    waves = {**WAVES, "order": [["us", "eu"], "ap"]}
    with make("v2", policy={"strategy": slow, "waves": waves}) as world:
        rollout = world.start("rollout apply resnet50@v2 --yes")
        for name in ("us", "eu"):
            reached(world[name], lambda shares: shares.get("v2") == 50)
        said = world.type("rollout undo resnet50 --reason INC-4711 --yes")
        assert said.exit_code == 0, said.said
        assert "another process is at work on it" in said.said
        ran = ended(rollout)
        assert ran.exit_code == 3, ran.said
        assert "aborted: INC-4711" in ran.err
        require(world, us="v1", eu="v1", ap="v1")
        assert not world.failed()


@pytest.mark.slow
def test_a_disruption_budget_keeps_all_of_them(make: Make) -> None:
    """A Deployment shrinks whatever a budget says: the plan heeds it all the same."""
    strategy = {"weights": [50], "step_seconds": 1, "surge_servers": 0}
    with make("v2", only="eu", gpus=2, policy={"strategy": strategy}) as world:
        eu = world["eu"]
        labels = {"matchLabels": {"app": "resnet50"}}
        budget = {"metadata": {"name": "all"}, "spec": {"minAvailable": 2, "selector": labels}}
        eu.put("policy/v1", "poddisruptionbudgets", budget)
        ran = world.type("rollout apply resnet50@v2 --yes")
        assert ran.exit_code == 3, ran.said
        assert "all" in ran.err
        require(world, eu="v1")
        assert not world.failed()


@contextmanager
def world_route(world: World) -> Iterator[Callable[[int, int], object]]:
    """The route that divides the world between us and eu, half and half, in a Caddy of its own;
    what moves it, as an operator's hand does."""
    targets = {name: (f"127.0.0.1:{world[name].entry.port}",) for name in ("us", "eu")}
    route = caddy_route("api", targets)
    server = {"listen": [f"127.0.0.1:{free_port()}"], "routes": [route]}
    apps = {"http": {"servers": {"front": {**server, "automatic_https": {"disable": True}}}}}
    with running("caddy", start=partial(caddy, apps=apps)) as there:
        known = {"measured_on": "2026-11-01", "expires_on": "2099-01-01"}
        much = {"requests_per_second": 1000, **known}
        weights = {"us": 50, "eu": 50}
        world.topology["traffic"] = {
            "routes": {
                "api": {
                    "actuator": f"caddy://127.0.0.1:{there.port}/api",
                    "models": ["resnet50"],
                    "weights": weights,
                    "peak": {"requests_per_second": 10, **known},
                }
            },
            "capacity": {name: {"resnet50": much} for name in targets},
        }
        world.write()
        traffic = open_traffic(Topology.parse(json.dumps(world.topology)), "api")

        def move(us: int, eu: int) -> object:
            return traffic.write({"us": us, "eu": eu}, epoch=1, writer="h", expected=traffic.read())

        yield move


@pytest.mark.slow
def test_failover_moves_into_a_region_in_mid_canary(make: Make) -> None:
    """No step begins there meanwhile; the canary stays as it is, and goes on afterwards."""
    strategy = {"weights": [20, 50], "step_seconds": 4}
    with make("v2", only="us eu", policy={"strategy": strategy}) as world, world_route(world) as to:
        eu = world["eu"]
        rollout = world.start("rollout apply resnet50@v2 --region eu --yes")
        reached(eu, lambda shares: shares.get("v2") == 20)
        to(0, 100)
        assert not eu.failing(15.0)
        assert eu.shares == {"v1": 80, "v2": 20}
        assert rollout.poll() is None
        to(50, 50)
        ran = ended(rollout)
        assert ran.exit_code == 0, ran.said
        assert "failover-target: route api gives it 100 %, the topology wants 50" in ran.err
        require(world, us="v1", eu="v2")
        assert not world.failed()


def test_another_gpu_in_one_region(make: Make) -> None:
    """Its nodes have one that the version's manifest does not name: nothing is begun anywhere."""
    with make() as world:
        world.publish("v2", requires=["accelerator=NVIDIA-L4"])
        eu = world["eu"]
        for node in eu.nodes:
            labels = {"nvidia.com/gpu.product": "Tesla-T4"}
            eu.plane.merge(f"/api/v1/nodes/{node}", {"metadata": {"labels": labels}})
        ran = world.type("rollout apply resnet50@v2 --yes")
        assert ran.exit_code == 3, ran.said
        assert "in eu: " in ran.err
        assert "Tesla-T4" in ran.err
        require(world, us="v1", eu="v1", ap="v1")
        assert not world.failed()


@pytest.mark.slow
def test_an_api_server_that_answers_ill(make: Make) -> None:
    """One call in eight: a conflict, an expired list, a failed test, too many, an error, a line
    that is cut before the call or behind it. A write that is refused as invalid though nothing has
    changed is no weather: it goes back then, and that is whole too."""
    chance = Random(6)
    writes: list[Reply | str] = [refusing(409, "Conflict"), refusing(422, "Invalid")]
    any_time: list[Reply | str] = [
        refusing(429, "TooManyRequests", after_seconds=0),
        refusing(500, "InternalError"),
        "cut",
        "lost",
    ]
    lists: list[Reply | str] = [refusing(410, "Expired")]

    def weather(method: str) -> Reply | str:
        if chance.random() > 1 / 8:
            return ""
        return chance.choice([*any_time, *(lists if method == "GET" else writes)])

    with make("v2", only="eu") as world:
        eu = world["eu"]
        rollout = world.start("rollout apply resnet50@v2 --yes")
        eventually(lambda: eu.pods("v2"))  # a plan is not made while it cannot be read
        eu.way.weather = weather
        ran = ended(rollout)
        eu.way.weather = lambda method: ""
        assert ran.exit_code in (0, 3), ran.said
        require(world, eu="v1" if ran.exit_code else "v2")
        assert not world.failed()
