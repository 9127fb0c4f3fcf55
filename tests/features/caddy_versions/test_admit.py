"""Doors that open and shut in a real Caddy: who is asked, and who may say so."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlplatform.adapters.caddy_versions import CaddyVersions, version_route
from mlplatform.core.errors import (
    ConditionFailed,
    Fenced,
    NotFound,
    Unavailable,
    Unsupported,
    UsageError,
)
from mlplatform.ports.split import Counts
from tests.conformance.acts import at_once
from tests.conformance.traffic.acts import claim, content, put
from tests.conformance.traffic.caddy_versions_site import Entry

from .conftest import Versions

pytestmark = [pytest.mark.xdist_group("caddy")]


def http_app(entry: Entry) -> Any:
    return entry.ask("GET", "/config/apps/http")


def dials(entry: Entry) -> list[str]:
    return [each["dial"] for each in entry.ask("GET", f"/id/{entry.route_id}/handle/1/upstreams")]


def test_exactly_these_servers_are_asked(entry: Entry, versions: Versions) -> None:
    split = entry.split()
    put(split, {"v1": 100, "v2": 0}, 1)
    fresh = [versions.start("v1"), versions.start("v1")]
    split.admit("v1", fresh, epoch=1, writer="w")
    versions.asked.clear()
    assert entry.count(20) == {"v1": 20}
    assert {server for server, _, _ in versions.asked} == set(fresh)


def test_requests_in_flight_finish_where_they_are(entry: Entry, versions: Versions) -> None:
    split = entry.split()
    put(split, {"v1": 100, "v2": 0}, 1)
    answers: list[tuple[int, str]] = []

    def ask() -> None:
        answers.append(entry.get("/held")[:2])

    waiting = threading.Thread(target=ask)
    waiting.start()
    assert versions.held.acquire(timeout=60)
    split.admit("v1", [versions.start("another v1")], epoch=1, writer="w")
    put(split, {"v1": 0, "v2": 100}, 1)
    split.admit("v1", [], epoch=1, writer="w")
    assert entry.count(5) == {"v2": 5}
    assert answers == []
    versions.gate.set()
    waiting.join(60)
    assert answers == [(200, "v1")]


def test_what_is_so_already_changes_nothing(entry: Entry, versions: Versions) -> None:
    """A change costs connections: there is none."""
    split = entry.split()
    claim(split, 1)
    before = entry.split().counts(1.0)["v1"]
    split.admit("v1", [versions.running[0].address], epoch=1, writer="another")
    assert entry.split().counts(1.0)["v1"] == before
    assert split.read().writer == "somebody"


def test_a_deposed_writer(entry: Entry, versions: Versions) -> None:
    claim(entry.split(), 2, "new")
    before = http_app(entry)
    deposed = entry.split()
    for addresses in ([versions.start("v1")], []):
        with pytest.raises(Fenced, match="under epoch 2 by new, ours is 1") as raised:
            deposed.admit("v1", addresses, epoch=1, writer="old")
        assert raised.value.exit_code == 7
    assert http_app(entry) == before


def test_admitting_raises_the_epoch(entry: Entry, versions: Versions) -> None:
    """So that door and fence are one write; what was decided before is refused."""
    split = entry.split()
    old = claim(split, 1, "old")
    entry.split().admit("v2", [versions.start("v2")], epoch=2, writer="new")
    state = split.read()
    assert content(state) == (dict(old.weights), 2, "new")
    with pytest.raises(Fenced):
        split.admit("v2", [versions.start("v2")], epoch=1, writer="old")
    with pytest.raises(ConditionFailed):
        split.write({"v1": 0, "v2": 100}, epoch=2, writer="new", expected=old)


def test_weights_that_a_hand_changed_stay_nobodys(entry: Entry, versions: Versions) -> None:
    split = entry.split()
    put(split, {"v1": 100, "v2": 0}, 1, "us")
    weights = f"/id/{entry.route_id}/handle/1/load_balancing/selection_policy/weights"
    entry.ask("PATCH", weights, [1, 3])
    split.admit("v2", [versions.start("v2")], epoch=1, writer="us")
    assert content(split.read()) == ({"v1": 25, "v2": 75}, 1, "")


def test_a_version_that_is_gone(entry: Entry) -> None:
    split = entry.split()
    put(split, {"v1": 50, "v2": 50}, 1)
    with pytest.raises(UsageError, match="v2 has weight, and no server is left to it"):
        split.admit("v2", [], epoch=1, writer="w")
    put(split, {"v1": 100, "v2": 0}, 1)
    split.admit("v2", [], epoch=1, writer="w")
    assert len(dials(entry)) == 1
    assert list(http_app(entry)["servers"]) == [f"{entry.route_id}:v1", "world"]
    assert entry.count(5) == {"v1": 5}
    split.admit("v2", [], epoch=1, writer="w")
    with pytest.raises(UsageError, match="v2 was not admitted") as raised:
        put(split, {"v1": 50, "v2": 50}, 1)
    assert raised.value.hint == "admit its servers before it gets weight"


def test_a_deposed_writer_is_told_that_before_all_else(entry: Entry) -> None:
    split = entry.split()
    put(split, {"v1": 100, "v2": 0}, 2)
    split.admit("v2", [], epoch=2, writer="w")
    with pytest.raises(Fenced):
        put(split, {"v1": 0, "v2": 100}, 1)


def test_doors_of_old_are_left_alone(entry: Entry, versions: Versions) -> None:
    put(entry.split(), {"v1": 100, "v2": 0}, 1)
    after = entry.split("v1", "v3")
    after.admit("v3", [versions.start("v3")], epoch=1, writer="w")
    put(after, {"v1": 50, "v3": 50}, 1)
    assert entry.count(10) == {"v1": 5, "v3": 5}
    assert f"{entry.route_id}:v2" in http_app(entry)["servers"]
    after.admit("v2", [], epoch=1, writer="w")
    assert f"{entry.route_id}:v2" not in http_app(entry)["servers"]
    assert content(after.read()) == ({"v1": 50, "v3": 50}, 1, "w")


def test_a_version_with_weight_that_nobody_speaks_of(entry: Entry) -> None:
    """It is not shut out by mistake."""
    with pytest.raises(Unsupported, match="belongs to no region of the route") as raised:
        entry.split("v1", "v3").read()
    assert raised.value.hint is not None
    assert raised.value.hint.startswith("admit the version")


@pytest.mark.parametrize(
    ("version", "address", "words"),
    [
        ("v9", "10.0.0.1:80", "v9 is none of the versions there: v1, v2"),
        ("v1", "http://10.0.0.1:80", "http://10.0.0.1:80 is no server of v1"),
        ("v1", "10.0.0.1", "10.0.0.1 is no server of v1"),
        ("v1", "unix//run/x", "unix//run/x is no server of v1"),
    ],
)
def test_what_cannot_be_admitted(entry: Entry, version: str, address: str, words: str) -> None:
    before = http_app(entry)
    with pytest.raises(UsageError, match=words):
        entry.split().admit(version, [address], epoch=1, writer="w")
    assert http_app(entry) == before


def test_entries_in_one_caddy_are_changed_at_once(entry: Entry, versions: Versions) -> None:
    """Each reads again when another was first, and none undoes what another did."""
    other = f"{entry.route_id}-b"
    route = version_route(other, ["v1", "v2"], match=[{"path": ["/b"]}])
    entry.ask("PUT", "/config/apps/http/servers/world/routes/0", route)
    splits = {name: entry.split(route_id=name) for name in (entry.route_id, other)}
    last = {name: [versions.start(f"{version} of {name}") for version in ("v1", "v2")]
            for name in splits}  # fmt: skip

    def admits(name: str, version: str, address: str) -> Callable[[], None]:
        def act() -> None:
            # As under the retry policy: Caddy's endpoint hangs up on some when it is replaced.
            for _ in range(50):
                try:
                    return splits[name].admit(version, [address], epoch=3, writer=name)
                except Unavailable:
                    continue
            raise AssertionError

        return act

    _, lost = at_once(
        [
            admits(name, version, address)
            for name, addresses in last.items()
            for version, address in zip(("v1", "v2"), addresses, strict=True)
        ]
    )
    assert lost == []
    servers = http_app(entry)["servers"]
    for name, addresses in last.items():
        for version, address in zip(("v1", "v2"), addresses, strict=True):
            proxy = servers[f"{name}:{version}"]["routes"][0]["handle"][0]
            assert proxy["upstreams"] == [{"dial": address}]
        assert splits[name].read().epoch == 3
    assert entry.get("/b")[1] == f"v1 of {other}"
    assert entry.get()[1].endswith(f" of {entry.route_id}")


def test_a_change_by_others_is_not_undone(entry: Entry, versions: Versions) -> None:
    """It came between what we read and what we wrote."""
    split = entry.split()
    claim(split, 1)
    changes = iter([1, 2, 3])

    def meddle(asked: Any) -> None:
        if asked.method == "PATCH" and (number := next(changes, None)) is not None:
            entry.ask("POST", "/config/apps/http/grace_period", number * 10**9)

    entry.way.refuse = meddle
    split.admit("v1", [address := versions.start("v1")], epoch=1, writer="w")
    found = http_app(entry)
    assert found["grace_period"] == 3 * 10**9
    door = found["servers"][f"{entry.route_id}:v1"]
    assert door["routes"][0]["handle"][0]["upstreams"] == [{"dial": address}]


def test_a_newer_controller_comes_between(entry: Entry, versions: Versions) -> None:
    split = entry.split()
    claim(split, 1)
    newer = [2]

    def meddle(asked: Any) -> None:
        if asked.method == "PATCH" and newer:
            epoch = newer.pop()
            entry.way.calm()
            claim(entry.split(), epoch, "newer")

    entry.way.refuse = meddle
    with pytest.raises(Fenced):
        split.admit("v1", [versions.start("v1")], epoch=1, writer="w")


def test_a_configuration_that_never_holds_still(entry: Entry, versions: Versions) -> None:
    split = entry.split()
    claim(split, 1)
    number = iter(range(1, 100))

    def meddle(asked: Any) -> None:
        if asked.method == "PATCH":
            entry.ask("POST", "/config/apps/http/grace_period", next(number) * 10**9)

    entry.way.refuse = meddle
    with pytest.raises(ConditionFailed, match="each of 20 times that v1 was to be admitted"):
        split.admit("v1", [versions.start("v1")], epoch=1, writer="w")


def test_path_sockets(make_entry: Callable[..., Entry], versions: Versions, tmp_path: Path) -> None:
    entry = make_entry({"v1": [versions.start("v1")]}, sockets=str(tmp_path))
    split = entry.split("v1", "v2")
    split.admit("v2", [versions.start("v2")], epoch=1, writer="w")
    put(split, {"v1": 50, "v2": 50}, 1)
    assert entry.count(10) == {"v1": 5, "v2": 5}
    assert {each.name for each in tmp_path.iterdir()} >= {f"{entry.route_id}:v2"}
    entry.restart()
    assert entry.count(10) == {"v1": 5, "v2": 5}


def test_sockets_that_move(
    make_entry: Callable[..., Entry], versions: Versions, tmp_path: Path
) -> None:
    """A door that listened elsewhere is taken over as plain servers are."""
    entry = make_entry({"v1": [versions.start("v1")]})
    entry._sockets = str(tmp_path)
    split = entry.split()
    split.admit("v1", [versions.running[0].address], epoch=1, writer="w")
    assert content(split.read()) == ({"v1": 100}, 1, "")
    assert dials(entry) == [f"unix/{tmp_path}/{entry.route_id}:v1"]
    assert entry.count(5) == {"v1": 5}


def test_a_restart_keeps_doors_and_fence(entry: Entry, versions: Versions) -> None:
    split = entry.split("v1", "v2", "v3")
    split.admit("v3", [versions.start("v3")], epoch=4, writer="w")
    state = put(split, {"v1": 0, "v2": 0, "v3": 100}, 4)
    entry.restart()
    assert split.in_force(state)
    assert entry.count(5) == {"v3": 5}
    with pytest.raises(Fenced):
        split.admit("v3", [], epoch=3, writer="old")


def test_the_hint_is_a_route_that_works(entry: Entry, versions: Versions) -> None:
    split = entry.split()
    entry.ask("DELETE", f"/id/{entry.route_id}")
    with pytest.raises(NotFound):
        split.admit("v1", [versions.start("v1")], epoch=1, writer="w")
    with pytest.raises(NotFound) as raised:
        split.read()
    hint = raised.value.hint
    assert hint is not None
    route = json.loads(hint[hint.index("{") :])
    entry.ask("PUT", "/config/apps/http/servers/world/routes/0", route)
    split.admit("v1", [versions.start("v1")], epoch=1, writer="w")
    assert content(split.read()) == ({"v1": 100, "v2": 0}, 1, "w")
    assert entry.count(5) == {"v1": 5}


# What servers and clients have of each other, through two doors.


def test_servers_hear_who_the_client_is(entry: Entry, versions: Versions) -> None:
    entry.get()
    _, _, headers = versions.asked[-1]
    assert headers["X-Forwarded-For"] == "127.0.0.1"
    assert headers["X-Forwarded-Proto"] == "http"
    assert headers["Host"].startswith("127.0.0.1:")


def test_streams_pass_through(entry: Entry, versions: Versions) -> None:
    """The first piece arrives while the second is held back."""
    client = entry.client()
    client.request("GET", "/stream")
    answer = client.getresponse()
    assert answer.read1() == b"first"
    versions.gate.set()
    assert answer.read() == b"last"
    client.close()


def test_counts_without_an_answer_are_an_error(entry: Entry) -> None:
    split: CaddyVersions = entry.split()
    assert isinstance(split.counts(1.0)["v1"], Counts)
    entry.stop()
    with pytest.raises(Unavailable):
        split.counts(1.0)
