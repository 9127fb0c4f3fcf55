"""DNS messages to one name server, over TCP, signed where there is a key.

Nothing is believed that does not answer what was asked, and of what was asked with a key nothing
that is not signed with it (RFC 8945), but a refusal: a server that cannot verify us cannot sign.
What a server says of key and clock leaves here as an error of ours; its other codes are for the
caller, who knows what was asked.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Self, cast
from urllib.parse import urlsplit

import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.rdtypes.ANY.TSIG
import dns.tsig

from mlplatform.core.errors import Denied, Unavailable, UsageError

_UNSIGNED = frozenset(
    {
        dns.rcode.FORMERR,
        dns.rcode.SERVFAIL,
        dns.rcode.NOTIMP,
        dns.rcode.REFUSED,
        dns.rcode.NOTAUTH,
    }
)
"""What a server may answer without a signature: it did nothing."""


@dataclass(frozen=True, slots=True)
class NameServer:
    """Where one listens."""

    host: str
    port: int = 53

    @classmethod
    def parse(cls, text: str) -> NameServer:
        """`ns1.example`, `ns1.example:5353`, `192.0.2.53`, `[2001:db8::53]:53`; else
        `UsageError`."""
        host, port, whole = None, None, False
        with suppress(ValueError):
            parts = urlsplit(f"//{text}")
            host, port, whole = parts.hostname, parts.port, parts.netloc == text
        if not host or not whole or "@" in text:
            raise UsageError(
                f"{text!r} is no name server", hint="write ns1.example:53 or [2001:db8::53]:53"
            )
        return cls(host, port or 53)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Line:
    """A connection to a name server, for several questions one after the other. Each has
    `timeout_seconds` to be answered in, whole. `store` is what errors name."""

    def __init__(
        self, server: NameServer, connected: socket.socket, timeout_seconds: float, store: str
    ) -> None:
        self.server = server
        self._socket = connected
        self._timeout_seconds = timeout_seconds
        self._store = store

    @classmethod
    @contextmanager
    def to(cls, server: NameServer, *, timeout_seconds: float, store: str) -> Iterator[Self]:
        """Connected for as long as the block lasts; `Unavailable` where nobody listens."""
        try:
            connected = socket.create_connection((server.host, server.port), timeout_seconds)
        except OSError as error:
            raise Unavailable(f"{server}: {_said(error)}", store=store) from error
        with connected:
            yield cls(server, connected, timeout_seconds, store)

    def ask(self, question: dns.message.Message) -> dns.message.Message:
        """The answer, whole and believed. `Denied` for what is wrong with the key, its secret or
        a clock; `Unavailable` for no answer, or for one that says nothing."""
        sent = question.to_wire()
        try:
            received = self._exchange(sent)
        except OSError as error:
            raise self._unavailable(_said(error)) from error
        try:
            answer = dns.message.from_wire(received, keyring=False)
            if not question.is_response(answer):
                raise self._unavailable("answered another question than ours")
            if question.had_tsig:
                answer = self._verified(question, answer, received)
        except dns.exception.DNSException as error:
            raise self._unavailable(f"its answer cannot be read: {error}") from error
        if answer.flags & dns.flags.TC:
            raise self._unavailable("its answer is truncated")
        if answer.rcode() == dns.rcode.SERVFAIL:
            raise self._unavailable("answered SERVFAIL", hint="its log says what went wrong there")
        return answer

    def _exchange(self, sent: bytes) -> bytes:
        """RFC 1035, 4.2.2: two bytes of length, then the message."""
        deadline = time.monotonic() + self._timeout_seconds
        self._socket.settimeout(self._timeout_seconds)
        self._socket.sendall(struct.pack("!H", len(sent)) + sent)
        (size,) = struct.unpack("!H", self._receive(2, deadline))
        return self._receive(size, deadline)

    def _receive(self, size: int, deadline: float) -> bytes:
        got = b""
        while len(got) < size:
            if (left := deadline - time.monotonic()) <= 0:
                raise TimeoutError("timed out")
            self._socket.settimeout(left)
            if not (piece := self._socket.recv(size - len(got))):
                raise ConnectionResetError("it closed the connection")
            got += piece
        return got

    def _verified(
        self, question: dns.message.Message, answer: dns.message.Message, received: bytes
    ) -> dns.message.Message:
        key = question.keyname
        if not answer.had_tsig:
            code = answer.rcode()
            if code not in _UNSIGNED:
                raise self._unavailable("its answer is not signed, so it is not believed")
            if code in {dns.rcode.NOTAUTH, dns.rcode.REFUSED}:
                raise self._denied(
                    f"{dns.rcode.to_text(code)}, unsigned: it does not accept the signature of key "
                    f"{key}, and does not say why",
                    "the key's name, secret and algorithm must be the server's, and both clocks "
                    "within 300 s of each other",
                )
            return answer
        try:
            return dns.message.from_wire(
                received, keyring=question.keyring, request_mac=question.mac
            )
        except dns.tsig.PeerBadKey as error:
            raise self._denied(
                f"BADKEY: it does not know the key {key} with this algorithm",
                "compare the key's name and algorithm with the server's configuration",
            ) from error
        except (dns.tsig.PeerBadSignature, dns.tsig.PeerBadTruncation) as error:
            raise self._denied(
                f"BADSIG: the secret of key {key} is not the server's",
                "the key may have been rotated: take the secret from the server's configuration",
            ) from error
        except (dns.tsig.PeerBadTime, dns.tsig.BadTime) as error:
            raise self._denied(
                f"BADTIME: its clock and this machine's differ{_apart(question, answer)}",
                "signatures hold for 300 s: set the clock that is wrong (chronyc tracking)",
            ) from error
        except (dns.message.UnknownTSIGKey, dns.tsig.PeerError) as error:
            raise self._denied(
                f"{error} (key {key})", "compare the key with the server's"
            ) from error

    def _denied(self, message: str, hint: str) -> Denied:
        return Denied(f"{self.server}: {message}", store=self._store, hint=hint)

    def _unavailable(self, message: str, hint: str | None = None) -> Unavailable:
        return Unavailable(f"{self.server}: {message}", store=self._store, hint=hint)


def _said(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__


def _apart(question: dns.message.Message, answer: dns.message.Message) -> str:
    """By how much. A server that refuses our time puts its own beside it (RFC 8945, 5.2.3)."""
    if not question.tsig or not answer.tsig:
        return ""
    ours = cast(dns.rdtypes.ANY.TSIG.TSIG, question.tsig[0])
    theirs = cast(dns.rdtypes.ANY.TSIG.TSIG, answer.tsig[0])
    at = int.from_bytes(theirs.other, "big") if len(theirs.other) == 6 else theirs.time_signed
    seconds = at - ours.time_signed
    return f" by {abs(seconds)} s: ours is {'behind' if seconds > 0 else 'ahead'}"
