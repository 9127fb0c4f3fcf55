"""A region that is served already: its servers are upstreams of a plain route."""

from __future__ import annotations

import http.client
import threading
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any, Self

import pytest

from mlplatform.core.errors import Unavailable, Unsupported
from tests.conformance.traffic.acts import content, put
from tests.conformance.traffic.caddy_versions_site import Entry

from .conftest import Versions

pytestmark = [pytest.mark.xdist_group("caddy")]


def plain(*dials: str, **rest: Any) -> dict[str, Any]:
    """A route as its operator has it, who has never heard of versions."""
    upstreams = [{"dial": dial} for dial in dials]
    return {"handle": [{"handler": "reverse_proxy", "upstreams": upstreams, **rest}]}


class Clients:
    """They ask all the time, each request on a connection of its own, and ask again once or twice
    where the connection was closed without an answer, as clients do: Caddy hangs up on some."""

    def __init__(self, entry: Entry, count: int) -> None:
        self.answers: Counter[tuple[int, str]] = Counter()
        self._entry = entry
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._ask_on, args=(number % 2 == 0,))
            for number in range(count)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(20)

    def more(self, count: int) -> None:
        """Wait until so many more have been answered."""
        goal = self.answers.total() + count
        while self.answers.total() < goal:
            assert not self._over.wait(0.01)

    def _ask_on(self, posts: bool) -> None:
        while not self._over.wait(0.005):
            answer = self._answer("POST" if posts else "GET")
            with self._lock:
                self.answers[answer] += 1

    def _answer(self, method: str) -> tuple[int, str]:
        for _ in range(3):
            client = self._entry.client()
            try:
                client.request(method, "/", b"x" * 2000 if method == "POST" else None)
                answer = client.getresponse()
                return answer.status, answer.read().decode()
            except (http.client.HTTPException, OSError):
                continue
            finally:
                client.close()
        return 0, "hung up three times"


def steadily(act: Callable[[], object]) -> None:
    """As under the retry policy: Caddy's endpoint hangs up on some when it is replaced."""
    for _ in range(10):
        try:
            act()
        except Unavailable:
            continue
        return
    raise AssertionError


def test_under_load(make_entry: Callable[..., Entry], versions: Versions) -> None:
    """From plain servers to doors, to another version, and back: nobody gets an error, and all who
    are answered are answered by the version that has the weight."""
    old = [versions.start("v1"), versions.start("v1")]
    entry = make_entry({}, route=plain(*old), metrics=False)
    new = [versions.start("v2")]
    split = entry.split("v1", "v2")
    with Clients(entry, 8) as clients:
        clients.more(100)
        steadily(lambda: split.admit("v1", old, epoch=1, writer="w"))
        clients.more(50)
        steadily(lambda: put(split, {"v1": 100, "v2": 0}, 1))
        clients.more(50)
        assert clients.answers.keys() == {(200, "v1")}
        steadily(lambda: split.admit("v2", new, epoch=1, writer="w"))
        for weights in ({"v1": 90, "v2": 10}, {"v1": 50, "v2": 50}, {"v1": 0, "v2": 100}):
            steadily(partial(put, split, weights, 1))
            clients.more(50)
        steadily(lambda: split.admit("v1", [], epoch=1, writer="w"))
        clients.more(50)
        assert clients.answers.keys() == {(200, "v1"), (200, "v2")}
    assert content(split.read()) == ({"v1": 0, "v2": 100}, 1, "w")


def test_in_one_change(make_entry: Callable[..., Entry], versions: Versions) -> None:
    """Its operator's settings stay, and the same servers are asked."""
    old = [versions.start("v1"), versions.start("v1")]
    entry = make_entry({}, route=plain(*old, headers={"request": {"set": {"X-Team": ["vision"]}}}))
    split = entry.split("v1", "v2")
    with pytest.raises(Unsupported, match="belongs to no region") as raised:
        split.read()
    assert raised.value.hint is not None
    assert raised.value.hint.startswith("admit the version that it serves")
    split.admit("v1", old, epoch=1, writer="w")
    assert content(split.read()) == ({"v1": 100, "v2": 0}, 1, "")
    assert entry.count(10) == {"v1": 10}
    assert {server for server, _, _ in versions.asked} == set(old)
    assert versions.asked[-1][2]["X-Team"] == "vision"


def test_two_versions_that_serve_already(
    make_entry: Callable[..., Entry], versions: Versions
) -> None:
    """Each is admitted in its turn, and keeps the weight that its servers had."""
    one, two, three = versions.start("v1"), versions.start("v1"), versions.start("v2")
    weighted = {"policy": "weighted_round_robin", "weights": [1, 1, 6]}
    route = plain(one, f"tcp/{two}", three, load_balancing={"selection_policy": weighted})
    entry = make_entry({}, route=route)
    split = entry.split("v1", "v2")
    split.admit("v1", [one, two], epoch=1, writer="w")
    assert entry.count(8) == {"v1": 2, "v2": 6}
    with pytest.raises(Unsupported, match=f"{three} belongs to no region"):
        split.read()
    split.admit("v2", [three], epoch=1, writer="w")
    assert content(split.read()) == ({"v1": 25, "v2": 75}, 1, "")
    assert entry.count(8) == {"v1": 2, "v2": 6}


def test_servers_that_were_not_named_stay(
    make_entry: Callable[..., Entry], versions: Versions
) -> None:
    """Whoever admits too few takes nobody out of service by mistake."""
    one, two = versions.start("v1"), versions.start("v1")
    entry = make_entry({}, route=plain(one, two))
    split = entry.split("v1")
    split.admit("v1", [one], epoch=1, writer="w")
    assert entry.count(10) == {"v1": 10}
    assert {server for server, _, _ in versions.asked} == {one, two}
    with pytest.raises(Unsupported, match=f"{two} belongs to no region"):
        split.read()


def test_a_route_that_nobody_serves_yet(
    make_entry: Callable[..., Entry], versions: Versions
) -> None:
    entry = make_entry({}, route=plain())
    split = entry.split("v1", "v2")
    split.admit("v2", [versions.start("v2")], epoch=1, writer="w")
    assert content(split.read()) == ({"v1": 0, "v2": 100}, 1, "")
    assert entry.count(3) == {"v2": 3}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"health_checks": {"active": {"uri": "/ready"}}}, "it has health_checks"),
        ({"transport": {"protocol": "http", "tls": {}}}, r"it has transport\.tls"),
    ],
    ids=["health checks", "tls"],
)
def test_settings_that_doors_cannot_have(
    make_entry: Callable[..., Entry], versions: Versions, settings: dict[str, Any], words: str
) -> None:
    address = versions.start("v1")
    entry = make_entry({}, route=plain(address, **settings))
    before = entry.ask("GET", "/config/apps/http")
    with pytest.raises(Unsupported, match=words) as raised:
        entry.split("v1").admit("v1", [address], epoch=1, writer="w")
    assert raised.value.hint is not None
    assert raised.value.hint.startswith("take ")
    assert entry.ask("GET", "/config/apps/http") == before
