"""A route's object as states, and states as a route's object: no Caddy needed to argue about it."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import Any

import pytest

from mlplatform.adapters.caddy import EPOCH_HEADER, NOTE_HEADER, CaddyRoute, caddy_route
from mlplatform.core.errors import IntegrityError, Unsupported, UsageError

TARGETS = {"us": ("10.0.0.1:80",), "eu": ("10.0.1.1:80", "10.0.1.2:80"), "ap": ("10.0.2.1:80",)}


def read(route: object) -> tuple[dict[str, int], int, str]:
    state = CaddyRoute(route, TARGETS, where="caddy://x/api").state("tag")
    return dict(state.weights), state.epoch, state.writer


def written(
    route: object, us: int, eu: int, ap: int, *, epoch: int = 3, writer: str = "w@host:1"
) -> dict[str, Any]:
    weights = {"us": us, "eu": eu, "ap": ap}
    return CaddyRoute(route, TARGETS, where="caddy://x/api").with_weights(weights, epoch, writer)


def raw(route: dict[str, Any]) -> list[int]:
    (proxy,) = [each for each in route["handle"] if each["handler"] == "reverse_proxy"]
    weights: list[int] = proxy["load_balancing"]["selection_policy"]["weights"]
    return weights


def by_hand(*weights: int, policy: str | None = "weighted_round_robin") -> dict[str, Any]:
    """A route as an operator may have it, who has never heard of us."""
    chosen = {"policy": policy, "weights": list(weights)} if weights else {"policy": policy}
    proxy: dict[str, Any] = {
        "handler": "reverse_proxy",
        "upstreams": [{"dial": dial} for dials in TARGETS.values() for dial in dials],
    }
    if policy:
        proxy["load_balancing"] = {"selection_policy": chosen}
    return {"@id": "api", "handle": [proxy]}


def test_a_route_for_an_operator() -> None:
    route = caddy_route(
        "api",
        TARGETS,
        {"us": 50, "eu": 50, "ap": 0},
        match=[{"host": ["api.example.com"]}],
        reverse_proxy={"transport": {"protocol": "http", "tls": {}}},
    )
    assert json.loads(json.dumps(route)) == {
        "@id": "api",
        "match": [{"host": ["api.example.com"]}],
        "handle": [
            {
                "handler": "headers",
                "response": {"deferred": True, "set": {EPOCH_HEADER: ["0"]}},
                "request": {"set": {NOTE_HEADER: ["writer=; us=50; eu=50; ap=0"]}},
            },
            {
                "handler": "reverse_proxy",
                "upstreams": [
                    {"dial": "10.0.0.1:80"},
                    {"dial": "10.0.1.1:80"},
                    {"dial": "10.0.1.2:80"},
                    {"dial": "10.0.2.1:80"},
                ],
                "load_balancing": {
                    "selection_policy": {"policy": "weighted_round_robin", "weights": [2, 1, 1, 0]}
                },
                "transport": {"protocol": "http", "tls": {}},
            },
        ],
    }
    assert read(route) == ({"us": 50, "eu": 50, "ap": 0}, 0, "")


@pytest.mark.parametrize(
    ("shares", "weights"),
    [
        ((100, 0, 0), [1, 0, 0, 0]),
        ((0, 100, 0), [0, 1, 1, 0]),
        ((75, 0, 25), [3, 0, 0, 1]),
        ((50, 50, 0), [2, 1, 1, 0]),
        ((34, 33, 33), [68, 33, 33, 66]),
        ((98, 1, 1), [196, 1, 1, 2]),
    ],
    ids=str,
)
def test_a_share_lies_evenly_on_a_regions_upstreams_in_lowest_terms(
    shares: tuple[int, int, int], weights: list[int]
) -> None:
    route = written(by_hand(1, 1, 1, 1), *shares)
    assert raw(route) == weights
    assert read(route) == (dict(zip(TARGETS, shares, strict=True)), 3, "w@host:1")


@pytest.mark.parametrize(
    ("route", "weights"),
    [
        (by_hand(1, 1, 1, 1), {"us": 25, "eu": 50, "ap": 25}),
        (by_hand(3, 1, 0, 0), {"us": 75, "eu": 25, "ap": 0}),
        (by_hand(1, 1, 0, 1), {"us": 33, "eu": 33, "ap": 34}),
        (by_hand(999, 0, 0, 1), {"us": 99, "eu": 0, "ap": 1}),
        (by_hand(0, 7, 0, 0, 9, 9), {"us": 0, "eu": 100, "ap": 0}),
        (by_hand(policy=None), {"us": 25, "eu": 50, "ap": 25}),
        (by_hand(policy="round_robin"), {"us": 25, "eu": 50, "ap": 25}),
    ],
    ids=["even", "3 to 1", "thirds", "a trickle", "too many", "no policy", "round robin"],
)
def test_what_somebody_else_set_is_read_as_per_cent(
    route: dict[str, Any], weights: dict[str, int]
) -> None:
    found, epoch, writer = read(route)
    assert (dict(sorted(found.items())), epoch, writer) == (dict(sorted(weights.items())), 0, "")


def test_weights_changed_beside_us_bear_nobodys_name() -> None:
    route = written(by_hand(1, 1, 1, 1), 100, 0, 0)
    changed = deepcopy(route)
    changed["handle"][1]["load_balancing"]["selection_policy"]["weights"] = [0, 1, 1, 2]
    assert read(changed) == ({"us": 0, "eu": 50, "ap": 50}, 3, "")


def test_an_upstream_added_beside_us_to_a_region_changes_its_share() -> None:
    """The operator's new server gets its own weight; the next write evens it out."""
    targets = {**TARGETS, "us": ("10.0.0.1:80", "10.0.0.2:80")}
    route = written(by_hand(1, 1, 1, 1), 50, 50, 0)
    route["handle"][1]["upstreams"].append({"dial": "10.0.0.2:80"})
    route["handle"][1]["load_balancing"]["selection_policy"]["weights"].append(2)
    state = CaddyRoute(route, targets, where="x").state("tag")
    assert (dict(state.weights), state.writer) == ({"us": 67, "eu": 33, "ap": 0}, "")
    again = CaddyRoute(route, targets, where="x").with_weights(
        {"us": 50, "eu": 50, "ap": 0}, 4, "w"
    )
    assert raw(again) == [1, 1, 1, 0, 1]


def test_missing_upstreams_of_a_region_are_added() -> None:
    route = by_hand(1, 1, 1, 1)
    route["handle"][0]["upstreams"] = [{"dial": "10.0.0.1:80", "max_requests": 9}]
    changed = written(route, 0, 100, 0)
    assert changed["handle"][1]["upstreams"] == [
        {"dial": "10.0.0.1:80", "max_requests": 9},
        {"dial": "10.0.1.1:80"},
        {"dial": "10.0.1.2:80"},
        {"dial": "10.0.2.1:80"},
    ]
    assert raw(changed) == [0, 1, 1, 0]


def test_the_rest_is_the_operators() -> None:
    route: dict[str, Any] = {
        "@id": "api",
        "match": [{"path": ["/v2/*"]}],
        "terminal": True,
        "handle": [
            {"handler": "encode", "encodings": {"gzip": {}}},
            {
                "handler": "headers",
                "response": {"set": {"X-Theirs": ["1"]}},
                "request": {"add": {"X-Theirs": ["2"]}},
            },
            {
                "handler": "reverse_proxy",
                "health_checks": {"active": {"uri": "/health"}},
                "load_balancing": {
                    "retries": 2,
                    "try_duration": 5_000_000_000,
                    "selection_policy": {"policy": "random"},
                },
                "upstreams": [{"dial": dial} for dials in TARGETS.values() for dial in dials],
                "headers": {"request": {"set": {"Host": ["{http.reverse_proxy.upstream.host}"]}}},
            },
        ],
    }
    before = deepcopy(route)
    changed = written(written(route, 50, 50, 0), 100, 0, 0, epoch=4)
    assert route == before
    ours, *others = changed.pop("handle")
    assert ours["response"]["set"] == {EPOCH_HEADER: ["4"]}
    proxy = others.pop()
    assert proxy["load_balancing"].pop("selection_policy")["weights"] == [1, 0, 0, 0]
    theirs = before.pop("handle")
    assert changed == before
    assert others == theirs[:2]
    theirs[2]["load_balancing"].pop("selection_policy")
    assert proxy == theirs[2]


def test_our_header_may_lie_in_a_handler_that_they_use_too() -> None:
    route = written(by_hand(1, 1, 1, 1), 100, 0, 0)
    route["handle"][0]["response"]["set"]["X-Theirs"] = ["1"]
    route["handle"][0]["response"]["delete"] = ["Server"]
    changed = written(route, 0, 0, 100, epoch=9)
    assert len(changed["handle"]) == 2
    assert changed["handle"][0]["response"]["set"] == {EPOCH_HEADER: ["9"], "X-Theirs": ["1"]}
    assert changed["handle"][0]["response"]["delete"] == ["Server"]


@pytest.mark.parametrize(
    "writer",
    ["", "ops on call@eu-west-1:77", "a=b; c=d", "{env.SECRET}", "Jürgen", "100 %", "x" * 300],
)
def test_names_come_back_as_they_were(writer: str) -> None:
    """Quoted: Caddy would put its own values for braces, and headers are ASCII."""
    route = written(by_hand(1, 1, 1, 1), 1, 1, 98, writer=writer)
    (note,) = route["handle"][0]["request"]["set"][NOTE_HEADER]
    assert note.isascii()
    assert "{" not in note
    assert read(route)[2] == writer


@pytest.mark.parametrize(
    "note",
    ["", "hello", "writer=w", "writer=w; us=1; eu=1; ap=1", "writer=w; us=x", "us=100; writer=w"],
)
def test_a_note_that_is_not_ours_says_nothing(note: str) -> None:
    route = written(by_hand(1, 1, 1, 1), 100, 0, 0)
    route["handle"][0]["request"]["set"][NOTE_HEADER] = [note]
    assert read(route) == ({"us": 100, "eu": 0, "ap": 0}, 3, "")


def test_a_region_that_joined_since_has_nothing_yet() -> None:
    route = written(by_hand(1, 1, 1, 1), 50, 50, 0)
    more = {**TARGETS, "sa": ("10.0.3.1:80",)}
    state = CaddyRoute(route, more, where="x").state("tag")
    assert dict(state.weights) == {"us": 50, "eu": 50, "ap": 0, "sa": 0}
    assert state.writer == "w@host:1"


def test_a_region_that_left_does_no_harm_without_weight() -> None:
    route = written(by_hand(1, 1, 1, 1), 50, 50, 0)
    fewer = {region: dials for region, dials in TARGETS.items() if region != "ap"}
    state = CaddyRoute(route, fewer, where="x").state("tag")
    assert (dict(state.weights), state.writer) == ({"us": 50, "eu": 50}, "w@host:1")


@pytest.mark.parametrize("epoch", [["x"], ["-1"], ["1", "2"], "7", [7], [], ["٣"]], ids=str)
def test_an_epoch_that_is_none_is_not_taken_for_zero(epoch: object) -> None:
    route = written(by_hand(1, 1, 1, 1), 100, 0, 0)
    route["handle"][0]["response"]["set"][EPOCH_HEADER] = epoch
    with pytest.raises(IntegrityError, match="that is no epoch"):
        read(route)


def test_two_epochs_are_none() -> None:
    route = written(by_hand(1, 1, 1, 1), 100, 0, 0)
    route["handle"].insert(0, deepcopy(route["handle"][0]))
    with pytest.raises(IntegrityError, match="that is no epoch"):
        read(route)


def changed(**proxy: object) -> dict[str, Any]:
    route = by_hand(1, 1, 1, 1)
    route["handle"][0].update(proxy)
    return route


UNFIT: list[tuple[str, object, str]] = [
    ("nothing", None, "the object is None"),
    ("text", "api", "the object is 'api'"),
    ("no handlers", {"@id": "api"}, "its `handle` is None"),
    ("no proxy", {"handle": [{"handler": "static_response"}]}, "it has 0 reverse_proxy handlers"),
    ("two", {"handle": [{"handler": "reverse_proxy"}] * 2}, "it has 2 reverse_proxy handlers"),
    ("dynamic", changed(dynamic_upstreams={"source": "srv"}), "its upstreams are dynamic"),
    ("sticky", by_hand(policy="cookie"), "selected by cookie, which would be lost"),
    ("too few weights", by_hand(1, 1), r"its weights are \[1, 1\] for 4 upstreams"),
    ("odd weights", by_hand(1, 1, -1, 1), "its weights are"),
    ("nothing anywhere", by_hand(0, 0, 0, 0), "no region of the route has any weight"),
    ("a stranger", changed(upstreams=[{"dial": "10.9.9.9:80"}]), "10.9.9.9:80 belongs to no reg"),
    ("odd upstreams", changed(upstreams=["10.0.0.1:80"]), "an upstream is '10.0.0.1:80'"),
]


@pytest.mark.parametrize(("route", "said"), [case[1:] for case in UNFIT], ids=[c[0] for c in UNFIT])
def test_a_route_that_cannot_carry_weights_is_left_alone(route: object, said: str) -> None:
    with pytest.raises(Unsupported, match=said) as raised:
        read(json.loads(json.dumps(route)))
    assert raised.value.exit_code == 2
    assert raised.value.hint


def test_a_stranger_without_weight_is_left_alone() -> None:
    route = by_hand(1, 0, 0, 0, 0)
    route["handle"][0]["upstreams"].append({"dial": "10.9.9.9:80"})
    assert raw(written(route, 0, 0, 100)) == [0, 0, 0, 1, 0]
    assert read(written(route, 0, 0, 100))[0] == {"us": 0, "eu": 0, "ap": 100}


def test_weights_of_a_new_route_are_checked() -> None:
    with pytest.raises(UsageError, match="total 100"):
        caddy_route("api", TARGETS, {"us": 10, "eu": 10, "ap": 10})
