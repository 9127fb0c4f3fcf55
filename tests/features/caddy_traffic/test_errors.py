"""What an admin endpoint may answer instead of a route, as our errors. Those that a healthy Caddy
does not give come from a stand-in that says what a test tells it to, byte for byte."""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Iterator

import pytest

from mlplatform.adapters.caddy import TOKEN_VARIABLE, CaddyTraffic, caddy_route, open_traffic
from mlplatform.core.errors import (
    ConditionFailed,
    Denied,
    Fenced,
    IntegrityError,
    MlplatformError,
    NotFound,
    StoreError,
    Throttled,
    Unavailable,
    Unsupported,
    UsageError,
)
from mlplatform.core.store_url import StoreURL
from mlplatform.ports.traffic import RouteState
from tests.features.s3_store.scripted import Rude, StandIn, reply, standing_in

TARGETS = {"us": ("10.0.0.1:80",), "eu": ("10.0.1.1:80",)}
TAG = '"/config/apps/http/servers/world/routes/0 0123456789abcdef"'
US = {"us": 100, "eu": 0}


@pytest.fixture
def stand_in() -> Iterator[StandIn]:
    with standing_in() as found:
        yield found


def actuator(stand_in: StandIn, options: str = "") -> CaddyTraffic:
    authority = stand_in.url.partition("://")[2]
    url = StoreURL.parse(f"caddy://{authority}/api{options}", noun="actuator")
    return open_traffic(url, TARGETS)


def route(*, epoch: int = 0, writer: str = "", tag: str = TAG) -> bytes:
    """As Caddy answers."""
    found = caddy_route("api", TARGETS)
    found["handle"][0]["response"]["set"]["Mlplatform-Epoch"] = [str(epoch)]
    found["handle"][0]["request"]["set"]["Mlplatform-Route"] = [f"writer={writer}; us=50; eu=50"]
    return reply(200, json.dumps(found), Content_Type="application/json", Etag=tag)


def said(status: int, text: str = "no", **headers: str) -> bytes:
    return reply(status, json.dumps({"error": text}), Content_Type="application/json", **headers)


def hang_up(connection: socket.socket) -> None:
    """Closed in mid-air."""


def reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def half(connection: socket.socket) -> None:
    """An answer that ends before it should."""
    connection.sendall(route()[:-20])


def half_a_refusal(connection: socket.socket) -> None:
    connection.sendall(said(403, "no" * 100)[:-20])


ANSWERS: dict[str, tuple[bytes | Rude, type[MlplatformError], str | None]] = {
    "401": (said(401), Denied, "HTTP 401"),
    "403": (said(403), Denied, "HTTP 403"),
    "404": (said(404, "unknown object ID 'api'"), NotFound, "no object with @id 'api'"),
    "404 by others": (reply(404, "<h1>Not here</h1>"), NotFound, "no object with @id"),
    "429": (said(429, retry_after="7"), Throttled, "HTTP 429"),
    "500 by Caddy": (said(500, "loading new config: no"), StoreError, "loading new config: no"),
    "500 by others": (reply(500, "<h1>oops</h1>"), Unavailable, "HTTP 500"),
    "502": (reply(502), Unavailable, "HTTP 502"),
    "503": (reply(503), Unavailable, "HTTP 503"),
    "504": (said(504, "upstream"), Unavailable, "HTTP 504"),
    "redirected": (reply(302, Location="http://127.0.0.1:1/"), StoreError, "HTTP 302"),
    "no JSON": (reply(200, "<h1>Welcome</h1>", Etag=TAG), Unavailable, "not JSON"),
    "half of it": (half, Unavailable, None),
    "half of a refusal": (half_a_refusal, Denied, "HTTP 403"),
    "too deep": (reply(200, "[" * 100_000, Etag=TAG), Unavailable, "not JSON"),
    "no object": (reply(200, "null", Etag=TAG), Unsupported, "the object is None"),
    "no tag": (reply(200, json.dumps(caddy_route("api", TARGETS))), Unsupported, "no Etag"),
    "no epoch": (route(epoch=-1), IntegrityError, "that is no epoch"),
    "hung up": (hang_up, Unavailable, None),
    "reset": (reset, Unavailable, None),
    "nonsense": (lambda connection: connection.sendall(b"220 smtp ready\r\n"), Unavailable, None),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_reading(stand_in: StandIn, name: str) -> None:
    answer, error, words = ANSWERS[name]
    stand_in.answers(answer)
    with pytest.raises(error, match=words) as raised:
        actuator(stand_in).read()
    assert type(raised.value) is error
    assert "127.0.0.1" in str(raised.value)
    assert stand_in.connections == 1, "it is not the adapter that tries again"
    if isinstance(raised.value, Throttled):
        assert raised.value.retry_after_seconds == 7


DONE = {"no JSON", "too deep", "no object", "no tag", "no epoch"}
"""Answers of 200: to a write they say that it was done."""


RACES = {"half of a refusal", "half of it"}
"""What was said and the end of the connection race, where a request's body was left unread."""


@pytest.mark.parametrize("name", sorted(ANSWERS.keys() - DONE - RACES))
def test_writing(stand_in: StandIn, name: str) -> None:
    """The same, met by the write itself."""
    answer, error, words = ANSWERS[name]
    stand_in.answers(route())
    traffic = actuator(stand_in)
    seen = traffic.read()
    stand_in.answers(route(), answer)
    with pytest.raises(error, match=words) as raised:
        traffic.write(US, epoch=1, writer="w", expected=seen)
    assert type(raised.value) is error
    assert [asked.method for asked in stand_in.asked] == ["GET", "GET", "PATCH"]
    assert stand_in.asked[2].headers["If-Match"] == TAG


@pytest.mark.parametrize("name", sorted(ANSWERS))
def test_reading_back(stand_in: StandIn, name: str) -> None:
    """The write was done, and that is what counts. Where reading may yet succeed, the caller
    reads: this is what a lost answer is, too."""
    answer, error, _ = ANSWERS[name]
    stand_in.answers(route())
    traffic = actuator(stand_in)
    seen = traffic.read()
    stand_in.answers(route(), reply(200), answer)
    if error.retryable:
        with pytest.raises(error):
            traffic.write(US, epoch=1, writer="w", expected=seen)
    else:
        state = traffic.write(US, epoch=1, writer="w", expected=seen)
        assert (dict(state.weights), state.epoch, state.tag) == (US, 1, "")


@pytest.mark.parametrize(
    ("now", "error"),
    [
        (route(epoch=5, writer="newer", tag='"x 1"'), Fenced),
        (route(epoch=1, writer="rival", tag='"x 2"'), ConditionFailed),
        (route(epoch=0, tag='"x 3"'), ConditionFailed),
    ],
    ids=["a newer controller", "a rival", "a hand"],
)
def test_a_refused_condition_says_who_came_first(
    stand_in: StandIn, now: bytes, error: type[MlplatformError]
) -> None:
    stand_in.answers(route())
    traffic = actuator(stand_in)
    seen = traffic.read()
    stand_in.answers(route(), said(412, "If-Match header did not match"), now)
    with pytest.raises(error):
        traffic.write(US, epoch=1, writer="w", expected=seen)
    assert [asked.method for asked in stand_in.asked] == ["GET", "GET", "PATCH", "GET"]


def test_a_fence_is_found_before_anything_is_sent(stand_in: StandIn) -> None:
    stand_in.answers(route(epoch=5))
    with pytest.raises(Fenced, match=r"written under epoch 5, ours is 1"):
        actuator(stand_in).write(US, epoch=1, writer="w", expected=RouteState(US, tag=TAG))
    assert [asked.method for asked in stand_in.asked] == ["GET"]


def test_a_write_that_was_overtaken_at_once_was_done(stand_in: StandIn) -> None:
    """It was answered with 200. What it returns fits no later write."""
    stand_in.answers(route())
    traffic = actuator(stand_in)
    seen = traffic.read()
    stand_in.answers(route(), reply(200), route(epoch=2, writer="newer", tag='"x 9"'))
    state = traffic.write(US, epoch=1, writer="w", expected=seen)
    assert (dict(state.weights), state.epoch, state.tag) == (US, 1, "")


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    url = StoreURL.parse(f"caddy://127.0.0.1:{port}/api", noun="actuator")
    with pytest.raises(Unavailable, match="refused"):
        open_traffic(url, TARGETS).read()


def test_no_such_host() -> None:
    url = StoreURL.parse("caddy://router.invalid:2019/api?insecure=true", noun="actuator")
    with pytest.raises(Unavailable, match=r"router.invalid"):
        open_traffic(url, TARGETS).read()


def test_a_stall_ends(stand_in: StandIn) -> None:
    """It took the request, and says nothing more."""
    over = threading.Event()

    def stall(_: socket.socket) -> None:
        over.wait(30)

    stand_in.answers(stall)
    try:
        with pytest.raises(Unavailable, match="no answer in time"):
            actuator(stand_in, "?timeout_seconds=0.2").read()
    finally:
        over.set()


# What is wrong before anybody is asked.


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("caddy://127.0.0.1:2019", "names no admin endpoint and route"),
        ("caddy://127.0.0.1:2019/a/b", "names no admin endpoint and route"),
        ("caddy:///api", "names no admin endpoint and route"),
        ("caddy://127.0.0.1:2019/api?admin=x", "unknown option 'admin'"),
        ("caddy://127.0.0.1:2019/api?tls=perhaps", "neither true nor false"),
        ("caddy://127.0.0.1:2019/api?tls=true&ca_file=/nowhere", "certificates cannot be read"),
        ("caddy://127.0.0.1:port/api", "names no admin endpoint and route"),
        ("caddy://10.0.0.1:2019/api", "is plain HTTP"),
        ("caddy://router.example.com/api", "is plain HTTP"),
        ("caddy://127.0.0.1:2019/api?token=x", "looks like a secret"),
        ("caddy://me:pw@127.0.0.1:2019/api", "carries credentials"),
    ],
)
def test_urls(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        open_traffic(StoreURL.parse(text, noun="actuator"), TARGETS)


def test_a_token_never_travels_in_the_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, "a-token-to-be-kept")
    url = StoreURL.parse("caddy://10.0.0.1:2019/api?insecure=true", noun="actuator")
    with pytest.raises(UsageError, match=f"{TOKEN_VARIABLE} would be read on the way") as raised:
        open_traffic(url, TARGETS)
    assert "a-token-to-be-kept" not in str(raised.value)


def test_the_token_is_sent_and_not_told(stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, "a-token-to-be-kept")
    stand_in.answers(said(401))
    traffic = actuator(stand_in)
    with pytest.raises(Denied) as raised:
        traffic.read()
    assert stand_in.asked[0].headers["Authorization"] == "Bearer a-token-to-be-kept"
    assert "a-token-to-be-kept" not in str(raised.value) + traffic.url


@pytest.mark.parametrize(
    ("targets", "words"),
    [
        ({"us": ("h:1",), "eu": ("h:1",)}, "h:1 is a target twice"),
        ({"us": ("h:1", "h:1")}, "h:1 is a target twice"),
        ({"us": ("h:1",), "eu": ()}, "eu has no target"),
        ({"us": ("h",)}, "h is no upstream"),
        ({"us": ("http://h:80",)}, "http://h:80 is no upstream"),
        ({"us": ("h:80-90",)}, "h:80-90 is no upstream"),
        ({"us": ("a b:80",)}, "a b:80 is no upstream"),
    ],
    ids=str,
)
def test_targets(targets: dict[str, tuple[str, ...]], words: str) -> None:
    """Caddy takes anything, and would fail with every request."""
    with pytest.raises(UsageError, match=words):
        open_traffic(StoreURL.parse("caddy://127.0.0.1:2019/api", noun="actuator"), targets)


@pytest.mark.parametrize("dial", ["10.0.0.1:80", "tcp/h.svc:8080", "[::1]:80", "unix//run/s.sock"])
def test_targets_that_will_do(dial: str) -> None:
    url = StoreURL.parse("caddy://[::1]:2019/api", noun="actuator")
    assert open_traffic(url, {"us": (dial,)}).url == "caddy://[::1]:2019/api"
