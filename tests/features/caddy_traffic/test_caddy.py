"""A real Caddy before real servers: what clients get, and what outlives what."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pytest

from mlplatform.adapters.caddy import (
    EPOCH_HEADER,
    NOTE_HEADER,
    TOKEN_VARIABLE,
    caddy_route,
    open_traffic,
)
from mlplatform.control.retry import Retry
from mlplatform.core.errors import (
    ConditionFailed,
    Denied,
    Fenced,
    NotFound,
    StoreError,
    Unavailable,
)
from mlplatform.core.store_url import StoreURL
from mlplatform.ports.clock import SystemClock
from mlplatform.ports.traffic import Traffic
from tests.conformance.traffic.acts import claim, content, put
from tests.conformance.traffic.caddy_site import World, world
from tests.real.servers.launch import Endpoint, free_port
from tests.real.servers.regions import regions

pytestmark = [pytest.mark.xdist_group("caddy")]


@pytest.fixture
def router(caddy: Endpoint) -> Iterator[World]:
    """A Caddy before the regions a, b and c, which share the traffic evenly."""
    with world() as found:
        yield found


def at(router: World, *path: object) -> Any:
    return router.ask("GET", f"/id/api/{'/'.join(map(str, path))}")


def test_three_to_one_is_three_to_one(router: World) -> None:
    put(router.open(), {"a": 75, "b": 25, "c": 0}, 1)
    assert router.count(100) == {"a": 75, "b": 25}


def test_shares_do_not_come_in_bursts(router: World) -> None:
    """Caddy sends as many in a row as a weight says; in lowest terms that is three, not 75."""
    put(router.open(), {"a": 75, "b": 25, "c": 0}, 1)
    answers = "".join(router.get()[1] for _ in range(40))
    assert "aaaa" not in answers
    assert "bb" not in answers


def test_the_servers_of_a_region_share_its_weight(caddy: Endpoint) -> None:
    with ExitStack() as stack:
        behind = stack.enter_context(regions(["a", "b"]))
        behind.start("b", servers=2)
        found = World(stack, behind)
        put(found.open(), {"a": 40, "b": 60}, 1)
        assert found.count(100) == {"a": 40, "b": 60}
        assert at(found, "handle", 1, "load_balancing", "selection_policy", "weights") == [
            2,
            1,
            1,
            1,
        ]


def test_zero_sends_nothing_even_when_all_others_are_down(router: World) -> None:
    """A region that was left out is not a spare."""
    put(router.open(), {"a": 50, "b": 50, "c": 0}, 1)
    router.behind.stop("a")
    router.behind.stop("b")
    statuses = {router.get()[0] for _ in range(20)}
    assert statuses <= {502, 503}
    assert router.behind.asked["c"] == []


def test_new_requests_move_and_open_ones_finish(router: World) -> None:
    traffic = router.open()
    put(traffic, {"a": 100, "b": 0, "c": 0}, 1)
    answers: list[tuple[int, str]] = []

    def ask_slowly() -> None:
        status, body, _ = router.get("/slow")
        answers.append((status, body))

    slow = [threading.Thread(target=ask_slowly) for _ in range(4)]
    for thread in slow:
        thread.start()
    for _ in slow:
        assert router.behind.waiting.acquire(timeout=60)
    state = put(traffic, {"a": 0, "b": 100, "c": 0}, 1)
    assert traffic.in_force(state)
    assert router.count(30) == {"b": 30}
    assert answers == []
    router.behind.gate.set()
    for thread in slow:
        thread.join(60)
    assert answers == [(200, "a")] * 4


def test_clients_see_the_epoch_and_nothing_else(router: World) -> None:
    """Who wrote it and all the weights is for the servers behind."""
    put(router.open(), {"a": 100, "b": 0, "c": 0}, 41, "controller-1@inner.host:77")
    _, _, headers = router.get()
    assert headers[EPOCH_HEADER] == "41"
    assert "controller-1" not in json.dumps(dict(headers))
    (asked,) = router.behind.asked["a"]
    assert asked[NOTE_HEADER] == "writer=controller-1@inner.host:77; a=100; b=0; c=0"


def test_a_server_behind_cannot_claim_an_epoch(router: World) -> None:
    router.behind.stated[EPOCH_HEADER] = "999"
    put(router.open(), {"a": 100, "b": 0, "c": 0}, 41)
    assert router.get()[2][EPOCH_HEADER] == "41"


def test_the_operators_settings_stay(caddy: Endpoint) -> None:
    with ExitStack() as stack:
        behind = stack.enter_context(regions(["a", "b"]))
        route = caddy_route(
            "api",
            behind.targets,
            match=[{"path": ["/v2/*"]}],
            reverse_proxy={
                "health_checks": {"active": {"uri": "/v2/health/ready"}},
                "load_balancing": {"retries": 2},
            },
        )
        route["handle"].insert(0, {"handler": "encode", "encodings": {"gzip": {}}})
        found = World(stack, behind, route)
        put(found.open(), {"a": 100, "b": 0}, 5)
        now = at(found)
        assert now["match"] == route["match"]
        assert now["handle"][1]["response"]["set"] == {EPOCH_HEADER: ["5"]}
        assert now["handle"][0] == route["handle"][0]
        assert now["handle"][2]["health_checks"] == {"active": {"uri": "/v2/health/ready"}}
        assert now["handle"][2]["load_balancing"]["retries"] == 2
        assert found.get("/v2/x")[1] == "a"


def test_routes_that_move_about_do_not_matter(router: World) -> None:
    """An operator puts another route before ours: the tag names the old place, and is refused."""
    traffic = router.open()
    seen = claim(traffic, 1)
    other = {"match": [{"path": ["/other"]}], "handle": [{"handler": "static_response"}]}
    router.ask("PUT", "/config/apps/http/servers/world/routes/0", other)
    with pytest.raises(ConditionFailed):
        traffic.write({"a": 100, "b": 0, "c": 0}, epoch=1, writer="w", expected=seen)
    assert traffic.in_force(seen)
    put(traffic, {"a": 100, "b": 0, "c": 0}, 1)
    assert router.count(5) == {"a": 5}
    assert len(router.ask("GET", "/config/apps/http/servers/world/routes")) == 2


def test_an_operator_changes_something_else_in_our_route(router: World) -> None:
    """Their change is in what we must have read: it is not undone."""
    traffic = router.open()
    seen = claim(traffic, 1)
    router.ask("PUT", "/id/api/handle/1/load_balancing/retries", 3)
    with pytest.raises(ConditionFailed):
        traffic.write({"a": 100, "b": 0, "c": 0}, epoch=1, writer="w", expected=seen)
    put(traffic, {"a": 100, "b": 0, "c": 0}, 1)
    assert at(router, "handle", 1, "load_balancing", "retries") == 3


def test_a_target_that_joins_gets_its_share(router: World) -> None:
    router.behind.start("c", servers=2)
    put(router.open(), {"a": 50, "b": 0, "c": 50}, 1)
    assert router.count(60) == {"a": 30, "c": 30}
    assert len(at(router, "handle", 1, "upstreams")) == 5


def test_a_change_that_caddy_refuses_changes_nothing(caddy: Endpoint, tmp_path: Path) -> None:
    """With each change Caddy makes everything anew, and here somebody has removed a folder of
    certificates since it started. Its 500 is no weather: nothing is gained by asking again."""
    (certificates := tmp_path / "certificates").mkdir()
    apps = {"tls": {"certificates": {"load_folders": [str(certificates)]}}}
    with ExitStack() as stack:
        router = World(stack, stack.enter_context(regions(["a", "b"])), apps=lambda admin: apps)
        before = claim(router.open(), 1)
        certificates.rmdir()
        with pytest.raises(StoreError, match="and keeps its own") as raised:
            put(router.open(), {"a": 100, "b": 0}, 2)
        assert not raised.value.retryable
        assert "certificates: no such file" in str(raised.value)
        assert content(router.open().read()) == content(before)
        assert router.count(10) == {"a": 5, "b": 5}


# What a Caddy remembers.


def test_a_restart_with_resume_keeps_what_was_written(router: World) -> None:
    state = put(router.open(), {"a": 0, "b": 0, "c": 100}, 9, "newest")
    router.restart()
    assert content(router.open().read()) == content(state)
    assert router.count(10) == {"c": 10}
    with pytest.raises(Fenced):
        claim(router.open(), 8, "deposed")


def test_a_restart_from_the_file_alone_shows_as_an_epoch_that_fell(router: World) -> None:
    """Old weights come with the old epoch: that is how it is told from a change by hand. Until the
    holder of the newest has claimed the route again, a deposed one finds the door open."""
    traffic = router.open()
    newest = put(traffic, {"a": 0, "b": 0, "c": 100}, 9, "newest")
    router.restart(resume=False)
    found = traffic.read()
    assert content(found) == ({"a": 34, "b": 33, "c": 33}, 0, "")
    assert found.epoch < newest.epoch
    assert not traffic.in_force(newest)
    assert router.get()[2][EPOCH_HEADER] == "0"
    with pytest.raises(ConditionFailed):
        # What was decided before is not simply written again.
        traffic.write(newest.weights, epoch=9, writer="newest", expected=newest)
    deposed: Traffic = router.open()
    open_door = claim(deposed, 8, "deposed")
    assert open_door.epoch == 8
    claim(traffic, 9, "newest")
    with pytest.raises(Fenced):
        deposed.write({"a": 100, "b": 0, "c": 0}, epoch=8, writer="deposed", expected=open_door)
    with pytest.raises(Fenced):
        claim(deposed, 8, "deposed")


def test_a_reload_of_the_file_shows_the_same_way(router: World) -> None:
    """Configuration management that knows nothing of us."""
    configuration = router.ask("GET", "/config/")
    put(router.open(), {"a": 0, "b": 0, "c": 100}, 9)
    router.ask("POST", "/load", configuration)
    assert router.open().read().epoch == 0


# What an operator has to do first.


def test_a_missing_route_comes_with_what_to_put_there(router: World) -> None:
    traffic = router.open()
    router.ask("DELETE", "/id/api")
    with pytest.raises(NotFound, match="no object with @id 'api'") as raised:
        traffic.read()
    hint = raised.value.hint
    assert hint is not None
    assert "PUT /config/apps/http/servers/SERVER/routes/0" in hint
    route = json.loads(hint[hint.index("{") :])
    router.ask("PUT", "/config/apps/http/servers/world/routes/0", route)
    assert content(traffic.read()) == ({"a": 34, "b": 33, "c": 33}, 0, "")
    assert set(router.count(100)) == {"a", "b", "c"}


def test_an_endpoint_behind_a_tunnel_is_told_its_own_name(router: World) -> None:
    tunnel = router.way.url.removeprefix("http://")
    url = StoreURL.parse(f"caddy://{tunnel}/api", noun="actuator")
    with pytest.raises(Denied, match="host not allowed") as raised:
        open_traffic(url, router.behind.targets).read()
    assert raised.value.hint == "give the name that the endpoint listens by: ?host=localhost:2019"
    assert router.open().read().epoch == 0


def test_a_proxy_of_the_environment_is_not_asked_about_this_machine(
    router: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert router.open().read().epoch == 0


# An admin endpoint that others can reach: TLS, and somebody at the door. By Caddy's own means.


TOKEN = "let-me-in-please"


def guarded(admin: str, port: int) -> dict[str, Any]:
    """The endpoint once more, with TLS, for whoever has the token."""
    let_in = {
        "match": [{"header": {"Authorization": [f"Bearer {TOKEN}"]}}],
        "handle": [
            {
                "handler": "reverse_proxy",
                "headers": {"request": {"set": {"Host": [admin]}}},
                "upstreams": [{"dial": admin}],
            }
        ],
    }
    refused = {"handle": [{"handler": "static_response", "status_code": 401}]}
    server = {
        "listen": [f"127.0.0.1:{port}"],
        "routes": [let_in, refused],
        "tls_connection_policies": [{}],
        "automatic_https": {"disable_redirects": True},
    }
    policy = {"subjects": ["localhost"], "issuers": [{"module": "internal"}]}
    return {
        "http": {"servers": {"guarded": server}},
        "tls": {"automation": {"policies": [policy]}, "certificates": {"automate": ["localhost"]}},
        "pki": {"certificate_authorities": {"local": {"install_trust": False}}},
    }


@dataclass
class Door:
    """A Caddy whose endpoint has such a door."""

    router: World
    port: int

    @property
    def authority(self) -> Path:
        return self.router.folder / "caddy/pki/authorities/local/root.crt"

    def wait(self) -> None:
        """Until it has a certificate to show."""
        if not self.authority.exists():
            raise Unavailable("no authority yet")
        self.open().read()

    def open(self, *, trusted: bool = True) -> Traffic:
        ca_file = f"&ca_file={self.authority}" if trusted else ""
        text = f"caddy://localhost:{self.port}/api?tls=true{ca_file}"
        return open_traffic(StoreURL.parse(text, noun="actuator"), self.router.behind.targets)


@pytest.fixture
def door(caddy: Endpoint, monkeypatch: pytest.MonkeyPatch) -> Iterator[Door]:
    with ExitStack() as stack:
        behind = stack.enter_context(regions(["a", "b"]))
        port = free_port()
        router = World(stack, behind, apps=lambda admin: guarded(admin, port))
        monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
        found = Door(router, port)
        # Caddy makes its certificates after it has begun to answer.
        until = Retry(SystemClock(), Random(0), attempts=200, cap_seconds=0.1)
        until.call(found.wait, what="see the certificate")
        yield found


def test_an_endpoint_with_tls_and_a_token(door: Door) -> None:
    state = put(door.open(), {"a": 100, "b": 0}, 1)
    assert content(state) == ({"a": 100, "b": 0}, 1, "somebody")
    assert door.router.count(5) == {"a": 5}


def test_a_certificate_that_nobody_vouches_for(door: Door) -> None:
    with pytest.raises(Unavailable, match="certificate is not to be trusted") as raised:
        door.open(trusted=False).read()
    assert TOKEN not in str(raised.value)


def test_a_wrong_token(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, "a-wrong-token-altogether")
    with pytest.raises(Denied, match="HTTP 401") as raised:
        door.open().read()
    assert "a-wrong-token" not in str(raised.value)
