"""Answers that are late, lost, garbled, unsigned or strange."""

from __future__ import annotations

import struct
from collections.abc import Callable

import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import pytest

from mlplatform.adapters.rfc2136 import Rfc2136Traffic
from mlplatform.core.errors import (
    ContainerMissing,
    Denied,
    StoreError,
    Unavailable,
    Unsupported,
)
from tests.conformance.acts import at_once
from tests.real.servers.launch import Endpoint
from tests.real.servers.names import Authority
from tests.real.servers.toxics import between

from .conftest import Reply, Scripted, framed, on, opened

WEST = {"east": 0, "west": 100, "north": 0}
BOTH = {"east": 50, "west": 50, "north": 0}
HASTY = "timeout_seconds=1.5"


def test_an_update_that_is_applied_and_times_out(server: Authority, toxiproxy: Endpoint) -> None:
    """The line swallows the answer and stays open: the worst of all. Reading settles it."""
    near = on(server)
    seen = near.read()
    with between(toxiproxy, server.endpoint) as line:
        far = opened(f"127.0.0.1:{line.port}", HASTY, secret=server.endpoint.secret)
        line.add("timeout", timeout=0)
        with pytest.raises(Unavailable, match="timed out") as raised:
            far.write(WEST, epoch=4, writer="us", expected=seen)
        assert raised.value.retryable
        line.calm()
        settled = far.read()
    assert (dict(settled.weights), settled.epoch, settled.writer) == (WEST, 4, "us")
    with pytest.raises(StoreError):  # it is not done twice by whoever tries it again
        near.write(WEST, epoch=4, writer="us", expected=seen)


def test_32_writers_the_server_refuses_31(server: Authority) -> None:
    """Asked without our own checks in the way: the prerequisites alone decide."""
    seen = on(server).read()

    def contender(number: int) -> Callable[[], object]:
        own = on(server)
        return lambda: own.write(WEST, epoch=1, writer=f"writer-{number}", expected=seen)

    won, lost = at_once([contender(number) for number in range(32)])
    assert len(won) == 1
    assert len(lost) == 31
    assert {type(error).__name__ for error in lost} == {"ConditionFailed"}
    assert all("YXRRSET" in str(error) or "NXRRSET" in str(error) for error in lost)


def test_nobody_listens() -> None:
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1: .*refused"):
        opened("127.0.0.1:1").read()


def test_a_server_whose_name_nobody_knows() -> None:
    with pytest.raises(Unavailable, match=r"ns1\.invalid"):
        opened("ns1.invalid").read()


# --------------------------------------------------------------------- a server that is told what


def answered(code: dns.rcode.Rcode, *, signed: bool = True) -> Reply:
    return lambda question: framed(question, lambda answer: answer.set_rcode(code), signed=signed)


def with_flag(flag: dns.flags.Flag) -> Reply:
    def fill(answer: dns.message.Message) -> None:
        answer.flags |= dns.flags.AA | flag

    return lambda question: framed(question, fill)


def of_another_question(question: dns.message.Message) -> bytes:
    other = dns.message.make_query("elsewhere.test", "A", id=question.id)
    return framed(other)


def of_another_id(question: dns.message.Message) -> bytes:
    message = bytearray(framed(question, signed=False))
    message[2] ^= 0xFF
    return bytes(message)


def tampered(question: dns.message.Message) -> bytes:
    message = bytearray(framed(question))
    message[-20] ^= 0xFF  # within the signature
    return bytes(message)


WEATHER: dict[str, tuple[Reply, type[StoreError], str]] = {
    "closes": (lambda question: None, Unavailable, "closed the connection"),
    "half": (lambda question: framed(question)[:9], Unavailable, "timed out"),
    "byte by byte": (
        lambda question: [framed(question)[at : at + 1] for at in range(100)],
        Unavailable,
        "timed out",
    ),
    "garbage": (lambda question: struct.pack("!H", 5) + b"hello", Unavailable, "cannot be read"),
    "empty": (lambda question: struct.pack("!H", 0), Unavailable, "cannot be read"),
    "another question": (of_another_question, Unavailable, "another question"),
    "another id": (of_another_id, Unavailable, "another question"),
    "unsigned": (
        lambda question: framed(question, signed=False),
        Unavailable,
        "not signed, so it is not believed",
    ),
    "tampered": (tampered, Unavailable, "cannot be read"),
    "truncated": (with_flag(dns.flags.TC), Unavailable, "truncated"),
    "SERVFAIL": (answered(dns.rcode.SERVFAIL), Unavailable, "SERVFAIL"),
    "SERVFAIL unsigned": (answered(dns.rcode.SERVFAIL, signed=False), Unavailable, "SERVFAIL"),
    "NOTIMP": (answered(dns.rcode.NOTIMP), Unsupported, "NOTIMP: it takes no updates"),
    "FORMERR": (answered(dns.rcode.FORMERR), StoreError, "FORMERR"),
    "NOTAUTH unsigned": (answered(dns.rcode.NOTAUTH, signed=False), Denied, "signature of key"),
    "REFUSED": (answered(dns.rcode.REFUSED), Denied, "refuses to answer for|may not change"),
    "REFUSED unsigned": (answered(dns.rcode.REFUSED, signed=False), Denied, "signature of key"),
}


@pytest.mark.parametrize("weather", WEATHER)
def test_reading(scripted: Scripted, weather: str) -> None:
    scripted.reply, kind, says = WEATHER[weather]
    with pytest.raises(kind, match=says) as raised:
        opened(scripted.address, HASTY).read()
    assert "rfc2136://" in str(raised.value)


def state_of(scripted: Scripted) -> tuple[Rfc2136Traffic, object]:
    """A route as the stand-in has it: two addresses, no TXT record."""
    traffic = opened(scripted.address, HASTY)

    def fill(answer: dns.message.Message) -> None:
        answer.flags |= dns.flags.AA
        asked = answer.question[0]
        if dns.rdatatype.to_text(asked.rdtype) == "A":
            answer.answer.append(
                dns.rrset.from_text(asked.name, 60, "IN", "A", "192.0.2.1", "192.0.2.2")
            )

    scripted.reply = lambda question: framed(question, fill)
    return traffic, traffic.read()


@pytest.mark.parametrize("weather", WEATHER)
def test_writing(scripted: Scripted, weather: str) -> None:
    """An update that was refused is refused; of any other, nobody knows: `Unavailable`."""
    traffic, _ = state_of(scripted)
    seen = traffic.read()
    scripted.reply, kind, says = WEATHER[weather]
    with pytest.raises(kind, match=says):
        traffic.write(WEST, epoch=1, writer="us", expected=seen)
    assert scripted.asked[-1].opcode() == dns.opcode.UPDATE


def test_an_update_to_a_server_that_is_not_the_primary(scripted: Scripted) -> None:
    traffic, _ = state_of(scripted)
    seen = traffic.read()
    scripted.reply = answered(dns.rcode.NOTAUTH)
    with pytest.raises(ContainerMissing, match=r"not authoritative for the zone failover\.test\."):
        traffic.write(WEST, epoch=1, writer="us", expected=seen)


def test_an_answer_without_authority(scripted: Scripted) -> None:
    """A lame server knows the name from somewhere; that is not the zone."""
    scripted.reply = framed
    with pytest.raises(ContainerMissing, match="is not authoritative"):
        opened(scripted.address).read()


def test_wrong_weights_are_told_before_anything_is_sent(scripted: Scripted) -> None:
    traffic, _ = state_of(scripted)
    seen = traffic.read()
    before = len(scripted.asked)
    for weights in (
        {"east": 99, "west": 1, "north": 0},
        {"east": 0, "west": 0, "north": 0},
        {"east": 50, "west": 50},
    ):
        with pytest.raises(Exception, match="rfc2136://"):
            traffic.write(weights, epoch=1, writer="us", expected=seen)
    assert len(scripted.asked) == before


def test_what_is_read_is_of_one_moment(scripted: Scripted) -> None:
    """A write falls between two of our questions: the TXT record no longer fits the addresses, so
    it is looked at again, until both are of one write."""
    old = '"mlplatform-failover=1" "epoch=1" "writer=a" "nonce=1" "addresses=4ad5fba9a8f6a7b0"'
    marks = iter([old])
    texts: list[str] = []

    def fill(answer: dns.message.Message) -> None:
        answer.flags |= dns.flags.AA
        asked = answer.question[0]
        kind = dns.rdatatype.to_text(asked.rdtype)
        if kind == "A":
            answer.answer.append(dns.rrset.from_text(asked.name, 60, "IN", "A", "192.0.2.2"))
        if kind == "TXT":
            text = next(marks, new)
            texts.append(text)
            answer.answer.append(dns.rrset.from_text(asked.name, 60, "IN", "TXT", text))

    from mlplatform.adapters.rfc2136 import _digest, _Mark

    new = _Mark(2, "b", "2", _digest({"A": ("192.0.2.2",), "AAAA": (), "TXT": ()})).text()
    scripted.reply = lambda question: framed(question, fill)
    state = opened(scripted.address).read()
    assert (state.epoch, state.writer) == (2, "b")
    assert texts == [old, new]


def test_a_route_that_never_holds_still(scripted: Scripted) -> None:
    def fill(answer: dns.message.Message) -> None:
        answer.flags |= dns.flags.AA
        asked = answer.question[0]
        if dns.rdatatype.to_text(asked.rdtype) == "TXT":
            text = (
                f'"mlplatform-failover=1" "epoch=1" "writer=a" '
                f'"nonce={len(scripted.asked)}" "addresses=x"'
            )
            answer.answer.append(dns.rrset.from_text(asked.name, 60, "IN", "TXT", text))

    scripted.reply = lambda question: framed(question, fill)
    with pytest.raises(Unavailable, match="changes while it is looked at"):
        opened(scripted.address).read()
