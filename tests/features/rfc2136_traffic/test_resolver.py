"""What clients are told, by a real unbound before a real BIND."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial

import pytest

from mlplatform.adapters.resolver import StubResolver
from mlplatform.core.errors import Denied, NotFound, Unavailable, UsageError
from mlplatform.ports.resolver import Answers, Resolver
from tests.real.servers.catalogue import unbound as start_unbound
from tests.real.servers.launch import Endpoint, running
from tests.real.servers.names import Authority

from .conftest import on

NAME = "api.failover.test"
EAST = {"east": 100, "west": 0, "north": 0}
WEST = {"east": 0, "west": 100, "north": 0}
WITHIN_SECONDS = 30.0


def in_front_of(server: Authority) -> Iterator[StubResolver]:
    with running("unbound", start=partial(start_unbound, upstream=server.endpoint.port)) as started:
        yield StubResolver(f"127.0.0.1:{started.port}")


@pytest.fixture
def resolver(server: Authority, unbound: Endpoint) -> Iterator[Resolver]:
    """It asks the server."""
    yield from in_front_of(server)


@pytest.fixture
def another(server: Authority, unbound: Endpoint) -> Iterator[Resolver]:
    yield from in_front_of(server)


def test_it_says_what_the_zone_says(server: Authority, resolver: Resolver) -> None:
    said = resolver.answers(NAME)
    assert said.addresses == {"192.0.2.1", "192.0.2.2"}
    assert 0 < said.ttl_seconds <= 60


def test_it_keeps_the_old_answer_for_its_time(
    server: Authority, resolver: Resolver, another: Resolver
) -> None:
    """The server gives the new one already, and so does a resolver that had not asked before."""
    assert resolver.answers(NAME).addresses == {"192.0.2.1", "192.0.2.2"}
    traffic = on(server)
    state = traffic.write(WEST, epoch=1, writer="us", expected=traffic.read())
    assert traffic.in_force(state)
    kept = resolver.answers(NAME)
    assert kept.addresses == {"192.0.2.1", "192.0.2.2"}
    assert kept.ttl_seconds <= 60
    assert another.answers(NAME) == Answers(frozenset({"192.0.2.2"}), 30.0)


def test_then_it_gives_the_new_one(server: Authority, resolver: Resolver) -> None:
    """With a short time to live: whatever it is asked meanwhile, it says the old or the new, the
    old never for longer than it was told, and in the end the new."""
    traffic = on(server, "ttl=1")
    seen = traffic.write(EAST, epoch=1, writer="us", expected=traffic.read())
    first = resolver.answers(NAME)
    traffic.write(WEST, epoch=1, writer="us", expected=seen)
    heard = [first]
    deadline = time.monotonic() + WITHIN_SECONDS
    while heard[-1].addresses != {"192.0.2.2"} and time.monotonic() < deadline:
        time.sleep(0.05)
        heard.append(resolver.answers(NAME))
    assert first.addresses == {"192.0.2.1"}
    assert heard[-1].addresses == {"192.0.2.2"}
    assert all(answer.addresses == {"192.0.2.1"} for answer in heard[:-1])
    assert all(answer.ttl_seconds <= 1 for answer in heard)


def test_both_families_and_other_names(server: Authority, resolver: Resolver) -> None:
    """A name for the route, as clients have it: of the chain, what lives shortest counts."""
    server.change(lambda update: update.add("api", 50, "AAAA", "2001:db8::1"))
    server.change(lambda update: update.add("www", 7, "CNAME", NAME + "."))
    said = resolver.answers(f"www.{NAME.partition('.')[2]}")
    assert said.addresses == {"192.0.2.1", "192.0.2.2", "2001:db8::1"}
    assert said.ttl_seconds <= 7


def test_a_name_without_addresses_and_a_name_that_is_not_there(
    server: Authority, resolver: Resolver
) -> None:
    server.change(lambda update: update.add("empty", 60, "TXT", '"nothing"'))
    assert resolver.answers("empty.failover.test") == Answers(frozenset(), 0.0)
    with pytest.raises(NotFound, match=r"there is no nobody\.failover\.test"):
        resolver.answers("nobody.failover.test")


def test_a_zone_whose_servers_are_gone(server: Authority, resolver: Resolver) -> None:
    server.stop()
    with pytest.raises(Unavailable):
        resolver.answers(NAME)


def test_a_server_that_resolves_nothing_for_us(server: Authority) -> None:
    with pytest.raises(Denied, match="does not answer us"):
        StubResolver(server.address).answers("example.com")


def test_nobody_there() -> None:
    with pytest.raises(Unavailable, match="timed out"):
        StubResolver("127.0.0.1:1", timeout_seconds=0.2).answers(NAME)


@pytest.mark.parametrize("server", ["resolver.example", "", "127.0.0.1:x", "127.0.0.1/24"])
def test_what_is_no_resolver(server: str) -> None:
    with pytest.raises(UsageError):
        StubResolver(server)


@pytest.mark.parametrize(
    ("text", "server"),
    [
        ("192.0.2.53", "192.0.2.53:53"),
        ("192.0.2.53:5353", "192.0.2.53:5353"),
        ("2001:db8::53", "[2001:db8::53]:53"),
        ("[2001:db8::53]:5353", "[2001:db8::53]:5353"),
    ],
)
def test_where_it_listens(text: str, server: str) -> None:
    assert StubResolver(text).server == server


def test_what_is_no_name() -> None:
    with pytest.raises(UsageError, match="is no name"):
        StubResolver("127.0.0.1:1").answers("a..b")
