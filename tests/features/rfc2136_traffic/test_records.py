"""What lies in the zone, on real servers: what the first claim finds, what we write, and what
others left there."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mlplatform.core.errors import ConditionFailed, Fenced, NotFound, Unsupported, UsageError
from mlplatform.ports.traffic import RouteState, Traffic
from tests.real.servers.names import Authority

from .conftest import on

EAST = {"east": 100, "west": 0, "north": 0}
WEST = {"east": 0, "west": 100, "north": 0}
BOTH = {"east": 50, "west": 50, "north": 0}
NORTH = {"east": 0, "west": 0, "north": 100}
DUAL = {
    "east": ("192.0.2.1", "2001:db8::1"),
    "west": ("192.0.2.2", "2001:db8::2"),
    "north": ("192.0.2.3", "2001:db8::3"),
}


def write(traffic: Traffic, weights: dict[str, int], epoch: int = 1) -> RouteState:
    return traffic.write(weights, epoch=epoch, writer="us", expected=traffic.read())


def test_the_first_claim(server: Authority) -> None:
    """The operator made the addresses and nothing else. They stay, their time to live included."""
    traffic = on(server, "ttl=20")
    fresh = traffic.read()
    assert fresh == RouteState(
        BOTH,
        epoch=0,
        writer="",
        tag=fresh.tag,
        ttl_seconds=60.0,
        detail={"east": "192.0.2.1", "west": "192.0.2.2", "north": "192.0.2.3"},
    )
    claimed = traffic.write(BOTH, epoch=7, writer="controller-1", expected=fresh)
    assert traffic.read() == claimed
    assert (claimed.epoch, claimed.writer, claimed.ttl_seconds) == (7, "controller-1", 60.0)
    (text,) = server.ask("_epoch.api", "TXT")
    assert text.startswith('"mlplatform-failover=1" "epoch=7" "writer=controller-1" "nonce=')


def test_two_first_claims(server: Authority) -> None:
    """That nobody has claimed it is a condition like any other."""
    one, other = on(server), on(server)
    fresh = one.read()
    one.write(BOTH, epoch=3, writer="one", expected=fresh)
    with pytest.raises(Fenced, match="epoch 3 by one"):
        other.write(WEST, epoch=2, writer="other", expected=fresh)
    with pytest.raises(ConditionFailed, match=r"YXRRSET.*east, west serve, epoch 3 by one"):
        other.write(WEST, epoch=4, writer="other", expected=fresh)


def test_a_shift_takes_the_time_to_live_of_the_url(server: Authority) -> None:
    traffic = on(server, "ttl=20")
    moved = write(traffic, WEST)
    assert moved.ttl_seconds == 20.0
    assert traffic.read() == moved
    assert server.ask("api", "A") == {"192.0.2.2"}


def test_a_tag_does_not_repeat_within_an_epoch(server: Authority) -> None:
    """A→B→A under one lease: who decided from the first A decided from something else."""
    traffic = on(server)
    first = write(traffic, EAST)
    write(traffic, WEST)
    assert dict(write(traffic, EAST).weights) == dict(first.weights)
    with pytest.raises(ConditionFailed):
        traffic.write(WEST, epoch=1, writer="us", expected=first)


def test_both_families_move_together(server: Authority) -> None:
    """The first shift brings the family that the operator had left out."""
    traffic = on(server, targets=DUAL)
    fresh = traffic.read()
    assert fresh.detail["east"] == "192.0.2.1, 2001:db8::1 (not in the answer: 2001:db8::1)"
    north = write(traffic, NORTH)
    assert server.ask("api", "A") == {"192.0.2.3"}
    assert server.ask("api", "AAAA") == {"2001:db8::3"}
    assert traffic.read() == north
    with pytest.raises(ConditionFailed):
        traffic.write(EAST, epoch=1, writer="us", expected=fresh)


def test_a_family_that_is_changed_by_hand(server: Authority) -> None:
    traffic = on(server, targets=DUAL)
    ours = write(traffic, NORTH)
    server.change(lambda update: update.delete("api", "AAAA"))
    found = traffic.read()
    assert (found.writer, found.epoch) == ("", 1)
    assert "not in the answer: 2001:db8::3" in found.detail["north"]
    with pytest.raises(ConditionFailed):
        traffic.write(EAST, epoch=1, writer="us", expected=ours)


def test_a_claim_is_no_repair(server: Authority) -> None:
    """An address that somebody added by hand is shown, and outlives a claim; a shift, which was
    decided knowing it, replaces it."""
    traffic = on(server)
    write(traffic, EAST)
    server.change(lambda update: update.add("api", 60, "A", "203.0.113.9"))
    found = traffic.read()
    assert dict(found.weights) == EAST
    assert found.writer == ""
    assert found.detail["of no region"] == "203.0.113.9"
    claimed = traffic.write(found.weights, epoch=2, writer="us", expected=found)
    assert (claimed.writer, claimed.epoch) == ("us", 2)
    assert server.ask("api", "A") == {"192.0.2.1", "203.0.113.9"}
    traffic.write(WEST, epoch=2, writer="us", expected=claimed)
    assert server.ask("api", "A") == {"192.0.2.2"}


def test_no_address_at_all(server: Authority) -> None:
    """An empty answer is nobody's weights, whatever the TXT record remembers."""
    traffic = on(server)
    ours = write(traffic, EAST)
    server.change(lambda update: update.delete("api", "A"))
    with pytest.raises(NotFound, match="has no address") as raised:
        traffic.read()
    assert "the operator makes the first address records" in str(raised.value.hint)
    with pytest.raises(NotFound):
        traffic.write(WEST, epoch=1, writer="us", expected=ours)
    assert not server.ask("api", "A")


def test_only_addresses_of_no_region(server: Authority) -> None:
    server.change(lambda update: update.replace("api", 60, "A", "203.0.113.9"))
    with pytest.raises(Unsupported, match=r"no region's address, but 203\.0\.113\.9"):
        on(server).read()


def test_another_name(server: Authority) -> None:
    """A CNAME has no addresses of its own to change; one that came since we looked is seen too."""
    traffic = on(server)
    ours = write(traffic, EAST)
    server.change(lambda update: update.delete("api", "A"))
    server.change(lambda update: update.add("api", 60, "CNAME", "elsewhere.example."))
    for act in (
        traffic.read,
        lambda: traffic.write(WEST, epoch=1, writer="us", expected=ours),
    ):
        with pytest.raises(Unsupported, match=r"another name for elsewhere\.example") as raised:
            act()
        assert "CNAME" in str(raised.value.hint)
    assert server.ask("api", "A") == {"elsewhere.example."}


@pytest.mark.parametrize(
    "texts",
    [
        ['"v=spf1 -all"'],
        ['"mlplatform-failover=1"'],
        ['"mlplatform-failover=1" "epoch=x" "writer=" "nonce=" "addresses="'],
        ['"mlplatform-failover=2" "epoch=1" "writer=" "nonce=" "addresses="'],
        ['"\\255"'],
        ['"one"', '"two"'],
    ],
    ids=["other", "short", "no number", "newer", "no text", "several"],
)
def test_a_txt_record_of_somebody_else(server: Authority, texts: list[str]) -> None:
    """No guess is made about an epoch that cannot be read."""
    server.change(lambda update: update.replace("_epoch.api", 60, "TXT", *texts))
    with pytest.raises(Unsupported, match="is not ours") as raised:
        on(server).read()
    assert "_epoch.api.failover.test." in str(raised.value)


def test_writers_have_any_name(server: Authority) -> None:
    writer = 'Zoë "ops" <zoe@example>; a\\b=%41'
    traffic = on(server)
    state = traffic.write(BOTH, epoch=1, writer=writer, expected=traffic.read())
    assert traffic.read() == state
    assert state.writer == writer
    with pytest.raises(UsageError, match="too long"):
        traffic.write(BOTH, epoch=1, writer="w" * 300, expected=state)


def test_an_epoch_that_is_far_up(server: Authority) -> None:
    traffic = on(server)
    write(traffic, BOTH, epoch=2**63)
    assert traffic.read().epoch == 2**63


def test_a_state_that_was_not_read_here(server: Authority) -> None:
    traffic = on(server)
    for tag in ("", "{}", "W/abc", '{"A":1}'):
        with pytest.raises(ConditionFailed, match="was not read from here"):
            traffic.write(WEST, epoch=1, writer="us", expected=replace(traffic.read(), tag=tag))


def test_the_zone_itself(server: Authority) -> None:
    """At the apex there are other records, which stay."""
    server.change(lambda update: update.add("@", 60, "A", "192.0.2.1"))
    traffic = on(server, name="@")
    write(traffic, WEST)
    assert traffic.read().serving == {"west"}
    assert server.ask("@", "A") == {"192.0.2.2"}
    assert server.ask("@", "NS") == {"ns1.failover.test."}
