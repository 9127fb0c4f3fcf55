"""Doors, looks and tallies as values: no Caddy needed to argue about them."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest

from mlplatform.adapters.caddy_versions import (
    ENTRY,
    Doors,
    Look,
    Tally,
    added,
    admitted,
    open_split,
    read_metrics,
    version_doors,
    version_route,
)
from mlplatform.core.errors import Fenced, IntegrityError, Unavailable, UsageError
from mlplatform.core.store_url import StoreURL

DOORS = Doors("m-us")
WHERE = "caddy://x/m-us"


def test_a_route_for_an_operator() -> None:
    route = version_route("m-us", ["v1", "v2"], match=[{"path": ["/v2/*"]}])
    assert route["@id"] == "m-us"
    assert route["match"] == [{"path": ["/v2/*"]}]
    assert route["handle"][1] == {
        "handler": "reverse_proxy",
        "upstreams": [{"dial": "unix/@m-us/v1"}, {"dial": "unix/@m-us/v2"}],
        "request_buffers": 100_000,
        "transport": {"protocol": "http", "keep_alive": {"enabled": False}},
        "load_balancing": {
            **ENTRY["load_balancing"],
            "selection_policy": {"policy": "weighted_round_robin", "weights": [1, 0]},
        },
    }


def test_a_route_does_not_change_what_the_next_one_gets() -> None:
    version_route("m-us", ["v1"])["handle"][1]["load_balancing"]["retries"] = 99
    assert ENTRY["load_balancing"]["retries"] == 5


def test_doors_for_an_operator() -> None:
    (name, door), *rest = version_doors(
        "m-us", {"v1": ["h:1", "[::1]:2"]}, sockets="/run/m"
    ).items()
    assert rest == []
    assert name == "m-us:v1"
    assert door["listen"] == ["unix//run/m/m-us:v1"]
    assert door["routes"][0]["handle"][0]["upstreams"] == [{"dial": "h:1"}, {"dial": "[::1]:2"}]


@pytest.mark.parametrize(
    ("route_id", "version", "server", "dial"),
    [
        ("m-us", "v1", "m-us:v1", "unix/@m-us/v1"),
        ("m:us", "v1", "m%3Aus:v1", "unix/@m%3Aus/v1"),
        ("m us|{x}", "v1", "m%20us%7C%7Bx%7D:v1", "unix/@m%20us%7C%7Bx%7D/v1"),
    ],
)
def test_names_of_doors(route_id: str, version: str, server: str, dial: str) -> None:
    """Nothing in an @id is taken for Caddy's own signs, or for another route's door."""
    doors = Doors(route_id)
    assert (doors.server(version), doors.dial(version)) == (server, dial)
    assert doors.version(server) == version
    assert Doors("m").version(server) is None


@pytest.mark.parametrize(
    ("text", "versions", "words"),
    [
        ("caddy://127.0.0.1:2019", ["v1"], "names no admin endpoint and route"),
        ("caddy://127.0.0.1:2019/m?sockets=run", ["v1"], "sockets='run' is no folder"),
        ("caddy://127.0.0.1:2019/m?admin=x", ["v1"], "unknown option 'admin'"),
        ("caddy://127.0.0.1:2019/m", [], "no versions of a split"),
        ("caddy://127.0.0.1:2019/m", ["v1", "v1"], "no versions of a split"),
        ("caddy://127.0.0.1:2019/m", ["v" * 120], "more than 107 bytes"),
    ],
    ids=["no route", "half a path", "unknown option", "no version", "one twice", "a long one"],
)
def test_what_cannot_be_opened(text: str, versions: list[str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        open_split(StoreURL.parse(text, noun="actuator"), "magika", versions)


# What admitting makes of a configuration.


def app(*upstreams: str, weights: list[int] | None = None, epoch: str | None = None) -> Any:
    """Some HTTP app with the route deep inside."""
    proxy: dict[str, Any] = {"handler": "reverse_proxy"}
    proxy["upstreams"] = [{"dial": dial} for dial in upstreams]
    if weights:
        policy = {"policy": "weighted_round_robin", "weights": weights}
        proxy["load_balancing"] = {"selection_policy": policy}
    handle: list[Any] = [proxy]
    if epoch is not None:
        mark = {"Mlplatform-Epoch": [epoch]}
        handle.insert(0, {"handler": "headers", "response": {"set": mark}})
    route = {"@id": "m-us", "handle": handle}
    nested = {"handle": [{"handler": "subroute", "routes": [{"handle": []}, route]}]}
    return {"servers": {"world": {"routes": [{"handle": []}, nested]}}}


def after(http: Any, version: str, *addresses: str, epoch: int = 1) -> Any:
    found = admitted(
        http, DOORS, ("v1", "v2"), version, addresses, epoch=epoch, writer="w", where=WHERE
    )
    assert found is not None
    return found


def upstreams(http: Any) -> dict[str, int]:
    route = http["servers"]["world"]["routes"][1]["handle"][0]["routes"][1]
    proxy = next(each for each in route["handle"] if each["handler"] == "reverse_proxy")
    weights = proxy["load_balancing"]["selection_policy"]["weights"]
    return dict(zip((each["dial"] for each in proxy["upstreams"]), weights, strict=True))


V1, V2 = "unix/@m-us/v1", "unix/@m-us/v2"


@pytest.mark.parametrize(
    ("dials", "weights", "addresses", "led"),
    [
        (["h:1", "h:2"], None, ["h:1", "h:2"], {V1: 1}),
        (["h:1", "h:2"], [3, 1], ["h:1", "h:2"], {V1: 1}),
        (["h:1", "h:2"], [3, 1], ["h:1"], {V1: 3, "h:2": 1}),
        (["h:1", "h:2"], [3, 1], ["h:1", "h:9"], {V1: 3, "h:2": 1}),
        (["h:1"], None, ["h:9"], {"h:1": 1, V1: 0}),
        (["tcp/h:1"], None, ["h:1"], {V1: 1}),
        (["h:1", "h:1"], None, ["h:1"], {V1: 1}),
        ([V1, V2], [1, 3], ["h:1"], {V1: 1, V2: 3}),
        ([V2], [1], ["h:1"], {V2: 1, V1: 0}),
        ([V1, "h:1", V2], [2, 2, 4], ["h:1"], {V1: 1, V2: 1}),
        ([], None, ["h:1"], {V1: 1}),
    ],
    ids=[
        "all of them",
        "with weights",
        "some of them",
        "with a new one",
        "another one",
        "by its other name",
        "named twice",
        "a door that is there",
        "a new door",
        "half taken over",
        "nobody yet",
    ],
)
def test_upstreams(
    dials: list[str], weights: list[int] | None, addresses: list[str], led: dict[str, int]
) -> None:
    assert upstreams(after(app(*dials, weights=weights), "v1", *addresses)) == led


def test_the_given_configuration_is_not_touched() -> None:
    http = app("h:1")
    after(http, "v1", "h:1")
    assert http == app("h:1")


def test_an_operator_who_has_said_when_to_ask_again_is_heeded() -> None:
    http = app(V1, weights=[1])
    route = http["servers"]["world"]["routes"][1]["handle"][0]["routes"][1]
    route["handle"][0]["load_balancing"]["try_duration"] = "5s"
    found = after(http, "v1", "h:1")
    proxy = found["servers"]["world"]["routes"][1]["handle"][0]["routes"][1]["handle"][1]
    assert "request_buffers" not in proxy
    assert proxy["load_balancing"].keys() == {"selection_policy", "try_duration"}


def test_no_such_route() -> None:
    assert admitted({}, DOORS, ("v1",), "v1", ["h:1"], epoch=1, writer="w", where=WHERE) is None


def test_a_fence_holds_where_weights_are_not_by_version_yet() -> None:
    with pytest.raises(Fenced):
        after(app("h:1", epoch="2"), "v1", "h:1", epoch=1)


def test_an_epoch_that_is_none_is_never_taken_for_zero() -> None:
    with pytest.raises(IntegrityError):
        after(app("h:1", epoch="two"), "v1", "h:1")


# What was counted.


def look(began: float, requests: float, slow: float = 0.0, code: str = "200") -> Look:
    samples = {("m-us:v1", code, 0.5): requests - slow, ("m-us:v1", code, inf): requests}
    return Look(began, samples)


@pytest.mark.parametrize(
    ("looks", "requests", "began"),
    [
        ([(look(1, 5), False)], 5, 1),
        ([(look(1, 5), False), (look(1, 7), False)], 7, 1),
        ([(look(1, 5), False), (look(2, 3), True)], 8, 1),
        ([(look(1, 5), False), (look(2, 9), True), (look(2, 10), False)], 15, 1),
        ([(look(1, 5), False), (look(2, 9), True), (look(3, 1), True)], 15, 1),
        ([(look(1, 5), False), (look(2, 9), False)], 9, 2),
        ([(look(1, 5), False), (look(2, 9), True), (look(3, 1), False)], 1, 3),
        ([(look(1, 5), False), (look(1, 3), False)], 3, 1),
        ([(look(1, 5), False), (look(1, 5), True)], 5, 1),
    ],
    ids=[
        "first",
        "risen",
        "our change",
        "our change and on",
        "our two changes",
        "a change by others",
        "ours and then others'",
        "fallen",
        "our change that was none",
    ],
)
def test_looks_add_up(looks: list[tuple[Look, bool]], requests: float, began: float) -> None:
    tally: Tally | None = None
    for seen, ours in looks:
        tally = added(tally, seen, ours=ours)
    assert tally is not None
    counts = tally.of("m-us:v1", 0.5)
    assert (counts.requests, counts.began) == (requests, began)


METRICS = """\
# TYPE caddy_config_last_reload_success_timestamp_seconds gauge
caddy_config_last_reload_success_timestamp_seconds 1.5e+09
# TYPE caddy_http_request_duration_seconds histogram
caddy_http_request_duration_seconds_bucket{code="200",method="PUT",server="m-us:v1",le="0.5"} 6
caddy_http_request_duration_seconds_bucket{code="200",method="PUT",server="m-us:v1",le="+Inf"} 7
caddy_http_request_duration_seconds_bucket{code="200",method="GET",server="m-us:v1",le="0.5"} 90
caddy_http_request_duration_seconds_bucket{code="200",method="GET",server="m-us:v1",le="+Inf"} 90
caddy_http_request_duration_seconds_bucket{code="200",method="POST",server="m-us:v1",le="0.5"} 1
caddy_http_request_duration_seconds_bucket{code="200",method="POST",server="m-us:v1",le="+Inf"} 1
caddy_http_request_duration_seconds_bucket{code="502",method="POST",server="m-us:v1",le="0.5"} 0
caddy_http_request_duration_seconds_bucket{code="502",method="POST",server="m-us:v1",le="+Inf"} 2
caddy_http_request_duration_seconds_bucket{code="499",method="POST",server="m-us:v1",le="0.5"} 3
caddy_http_request_duration_seconds_bucket{code="499",method="POST",server="m-us:v1",le="+Inf"} 8
caddy_http_request_duration_seconds_bucket{code="500",method="GET",server="m-eu:v1",le="+Inf"} 9
caddy_http_request_duration_seconds_bucket{code="500",method="GET",server="world",le="+Inf"} 9
"""


def test_metrics_as_counts() -> None:
    """Ten requests; of eight that clients broke off, five had waited for too long."""
    counts = added(None, read_metrics(METRICS, DOORS, where=WHERE), ours=False).of("m-us:v1", 0.2)
    assert (counts.requests, counts.errors) == (10, 2)
    assert (counts.timed, counts.slow, counts.slow_seconds) == (15, 8, 0.5)
    assert counts.began == 1.5e9


@pytest.mark.parametrize(
    "text",
    ["<h1>Welcome</h1>", METRICS.replace('le="0.5"', 'le="soon"'), METRICS.replace("1.5e+09", "")],
    ids=["a page", "a bucket without an end", "half a line"],
)
def test_metrics_that_are_none(text: str) -> None:
    with pytest.raises(Unavailable, match="holds no metrics"):
        read_metrics(text, DOORS, where=WHERE)
