"""One resolver, asked as any client asks it: UDP, and TCP where the answer is too long for it.

This is not where weights are read (that is the authoritative server), but where clients are heard:
when does a resolver that kept the old answer give the new one?
"""

from __future__ import annotations

import ipaddress
from typing import cast

import dns.exception
import dns.message
import dns.query
import dns.rcode
import dns.rdatatype

from mlplatform.adapters.dns_wire import NameServer
from mlplatform.core.errors import Denied, NotFound, Unavailable, UsageError
from mlplatform.ports.resolver import Answers

_TIMEOUT_SECONDS = 5.0
_FAMILIES = (dns.rdatatype.A, dns.rdatatype.AAAA)


class StubResolver:
    """A client of the resolver at `server`: an address, with a port where it is not 53."""

    def __init__(self, server: str, *, timeout_seconds: float = _TIMEOUT_SECONDS) -> None:
        try:
            ipaddress.ip_address(server)
            self._server = NameServer(server)
        except ValueError:
            self._server = NameServer.parse(server)
        try:
            ipaddress.ip_address(self._server.host)
        except ValueError as error:
            raise UsageError(
                f"resolver {server!r} is not an address",
                hint="write 192.0.2.53, or [2001:db8::53]:5353: who resolves names has none",
            ) from error
        self._timeout_seconds = timeout_seconds

    def __repr__(self) -> str:
        return f"<StubResolver {self._server}>"

    @property
    def server(self) -> str:
        return str(self._server)

    def answers(self, name: str) -> Answers:
        addresses: set[str] = set()
        kept: list[float] = []
        for family in _FAMILIES:
            answer = self._ask(name, family)
            try:
                chain = answer.resolve_chaining()
            except dns.exception.DNSException as error:
                raise self._unavailable(f"its answer for {name} leads nowhere: {error}") from error
            if chain.answer is not None:
                addresses.update(record.to_text() for record in chain.answer)
                kept.append(float(chain.minimum_ttl))
        return Answers(frozenset(addresses), max(kept, default=0.0))

    def _ask(self, name: str, family: dns.rdatatype.RdataType) -> dns.message.QueryMessage:
        try:
            question = dns.message.make_query(name, family)
        except dns.exception.DNSException as error:
            raise UsageError(f"{name!r} is no name: {error}") from error
        try:
            answer, _ = dns.query.udp_with_fallback(
                question,
                self._server.host,
                timeout=self._timeout_seconds,
                port=self._server.port,
                ignore_unexpected=True,
            )
        except (OSError, EOFError, dns.exception.DNSException) as error:
            raise self._unavailable(str(error) or type(error).__name__) from error
        match answer.rcode():
            case dns.rcode.NOERROR:
                pass
            case dns.rcode.NXDOMAIN:
                raise NotFound(f"there is no {name}", store=self.server)
            case dns.rcode.REFUSED:
                raise Denied(
                    f"does not answer us ({name})",
                    right="get",
                    store=self.server,
                    hint="name a resolver that serves this machine's network",
                )
            case code:
                raise self._unavailable(f"answered {dns.rcode.to_text(code)} for {name}")
        return cast(dns.message.QueryMessage, answer)

    def _unavailable(self, message: str) -> Unavailable:
        return Unavailable(message, store=self.server)
