"""A route as addresses in DNS, changed by RFC 2136 updates:
`rfc2136://ns1.example:53/example.com/api?key=failover&ttl=30`.

**In or out.** Plain DNS has no weights. The addresses of the regions that serve are at the name;
the others' are not. Clients and resolvers spread over what they are told, so that each region in it
has an equal share, if each has equally many addresses: anything else is refused when it is opened.

**The epoch** lies beside the name, as one TXT record at `_epoch.<name>`: epoch, writer, a nonce,
and a digest of the addresses that were written with it. Where the digest does not fit the addresses
that are there, somebody else changed them, and the state names no writer.

**The fence is the server's.** A write is one UPDATE message. Its prerequisites are the exact TXT
set and the exact address sets that `expected` was read from, which the server compares and applies
as one (RFC 2136, 3.7): of those who saw the same, one wins and the others get NXRRSET or YXRRSET,
which change nothing. What is there then is read, to tell `Fenced` from `ConditionFailed`. A claim
changes the TXT record alone. No set of addresses is ever left empty.

**The first time** the operator makes the address records, as for any name; there is no TXT record,
and the epoch is 0. The first claim has its absence as a prerequisite.

**The key** is TSIG (RFC 8945). Its secret is in the environment, in `MLPLATFORM_TSIG_SECRET_` and
the key's name in capitals (other characters as `_`), or in a file as `tsig-keygen` writes it
(`key_file`). Reading at the primary is signed too: a key that is wrong is then found by a plan, and
not in the middle of the night by the write.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import ipaddress
import json
import os
import re
import secrets
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self, cast
from urllib.parse import quote, unquote

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rdtypes.ANY.TXT
import dns.rrset
import dns.tsig
import dns.update

from mlplatform.adapters.dns_wire import Line, NameServer
from mlplatform.core.errors import (
    ConditionFailed,
    ContainerMissing,
    Denied,
    NotFound,
    StoreError,
    Unavailable,
    Unsupported,
    UsageError,
)
from mlplatform.core.store_url import StoreURL
from mlplatform.ports.traffic import (
    RouteState,
    TrafficFeatures,
    Weights,
    check_epoch,
    check_weights,
    equal_shares,
)

FEATURES = TrafficFeatures(
    zero="its addresses are not in the answer; clients keep what they were told until the TTL ends",
    all_or_nothing=True,
    ttl=True,
    exercised="BIND 9.18, with a secondary, and PowerDNS 4.7",
)

_OPTIONS = frozenset({"key", "key_file", "algorithm", "ttl", "servers", "timeout_seconds"})
_ALGORITHMS = ("hmac-sha256", "hmac-sha384", "hmac-sha512")
_TTL_SECONDS = 30
_TIMEOUT_SECONDS = 5.0
_VERSION = "mlplatform-failover=1"
_SAFE = "@:/+~"
_WRITER_CHARACTERS_MAX = 240
"""A character-string of a TXT record has at most 255 (RFC 1035, 3.3)."""
_LOOKS = 5
"""How often a route is looked at that changes while it is looked at."""
_FAMILIES = ("A", "AAAA")
_KEY_BLOCK = re.compile(r'\bkey\s+"?([^\s"{]+)"?\s*\{([^}]*)\}')
_KEY_FIELD = re.compile(r'\b(algorithm|secret)\s+"?([^\s";]+)"?\s*;')

Sets = Mapping[str, tuple[str, ...]]
"""What is at the name, by type: A and AAAA at the name itself, TXT at `_epoch` of it. An absent set
is empty."""

# --------------------------------------------------------------------------------------- opening


def open_traffic(
    url: StoreURL,
    targets: Mapping[str, tuple[str, ...]],
    *,
    environ: Mapping[str, str] = os.environ,
) -> Rfc2136Traffic:
    """The route at `rfc2136://primary[:port]/zone/name`. Nothing is asked yet, and no secret read.

    The name is within the zone: `api`, `@` for the zone itself, or whole. Options: `key` (needed),
    `key_file`, `algorithm` (hmac-sha256), `ttl` in seconds (30), `servers`: the other authoritative
    servers, by comma, which `in_force` asks too; `timeout_seconds` (5). `targets` are each region's
    addresses; a port behind one is left out, since an address record has none.
    """
    url.reject_unknown(_OPTIONS)
    zone_text, _, name_text = url.path.strip("/").partition("/")
    if not zone_text or not name_text:
        raise UsageError(
            f"actuator {url} does not name a zone and a name in it",
            hint="write rfc2136://ns1.example:53/example.com/api?key=failover",
        )
    if not url.options.get("key"):
        raise UsageError(
            f"actuator {url} names no key", hint="add ?key=NAME, the TSIG key that may change it"
        )
    algorithm = url.options.get("algorithm", _ALGORITHMS[0])
    if algorithm not in _ALGORITHMS:
        raise UsageError(
            f"actuator {url}: unknown algorithm {algorithm!r}",
            hint=f"known: {', '.join(_ALGORITHMS)}",
        )
    try:
        zone = dns.name.from_text(zone_text)
        name = _within(zone, name_text)
        epoch_name = dns.name.from_text("_epoch", name)
        key = dns.name.from_text(url.options["key"])
    except dns.exception.DNSException as error:
        raise UsageError(f"actuator {url}: {error}") from error
    if not name.is_subdomain(zone):
        raise UsageError(f"actuator {url}: {name} is not in the zone {zone}")
    return Rfc2136Traffic(
        str(url),
        servers=_servers(url),
        zone=zone,
        name=name,
        epoch_name=epoch_name,
        key=_Key(url, key, algorithm, environ),
        targets=_addresses(url, targets),
        ttl_seconds=_ttl_seconds(url),
        timeout_seconds=url.seconds("timeout_seconds", default=_TIMEOUT_SECONDS),
    )


def _within(zone: dns.name.Name, text: str) -> dns.name.Name:
    """`api` in example.com, `@`, `api.example.com` or `api.example.com.`, whole."""
    name = dns.name.from_text(text, None)
    if name.is_absolute():
        return name
    whole = name.is_subdomain(zone.relativize(dns.name.root))
    return name.derelativize(dns.name.root if whole else zone)


def _servers(url: StoreURL) -> tuple[NameServer, ...]:
    """The primary, then the others, none twice."""
    others = [text.strip() for text in url.options.get("servers", "").split(",")]
    try:
        found = [NameServer.parse(text) for text in (url.authority, *others) if text]
    except UsageError as error:
        raise UsageError(f"actuator {url}: {error}", hint=error.hint) from error
    if not url.authority:
        raise UsageError(
            f"actuator {url} names no server", hint="the zone's primary: ns1.example:53"
        )
    return tuple(dict.fromkeys(found))


def _ttl_seconds(url: StoreURL) -> int:
    text = url.options.get("ttl", str(_TTL_SECONDS))
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 86_400:
        raise UsageError(
            f"actuator {url}: ttl={text!r} is not a whole number of seconds up to a day"
        )
    return int(text)


def _addresses(url: StoreURL, targets: Mapping[str, tuple[str, ...]]) -> dict[str, Sets]:
    """Each region's addresses by family. Equally many each, and no address twice: shares are by
    address."""
    found: dict[str, Sets] = {}
    owner: dict[str, str] = {}
    for region, texts in targets.items():
        by_family: dict[str, set[str]] = {family: set() for family in _FAMILIES}
        for text in texts:
            address = _address(url, region, text)
            if owner.setdefault(str(address), region) != region:
                raise UsageError(
                    f"actuator {url}: {address} is a target of {owner[str(address)]} and of "
                    f"{region}: no answer could tell them apart"
                )
            by_family["A" if address.version == 4 else "AAAA"].add(str(address))
        found[region] = {family: tuple(sorted(those)) for family, those in by_family.items()}
    counts = {
        region: tuple(len(sets[family]) for family in _FAMILIES) for region, sets in found.items()
    }
    if len(set(counts.values())) > 1:
        told = "; ".join(
            f"{region} has {a} A and {aaaa} AAAA" for region, (a, aaaa) in counts.items()
        )
        raise UsageError(
            f"actuator {url}: regions with unequal numbers of addresses would have unequal shares: "
            f"{told}",
            hint="give each region of the route equally many targets of each family",
        )
    return found


def _address(
    url: StoreURL, region: str, text: str
) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        pass
    try:
        return ipaddress.ip_address(NameServer.parse(text).host)
    except (ValueError, UsageError) as error:
        raise UsageError(
            f"actuator {url}: target {text!r} of {region} is not an address",
            hint=f"give its addresses: traffic.routes.….targets.{region}: [192.0.2.1]",
        ) from error


class _Key:
    """The TSIG key: its secret is read when it is first used, and nobody prints it."""

    def __init__(
        self, url: StoreURL, name: dns.name.Name, algorithm: str, environ: Mapping[str, str]
    ) -> None:
        self.name = name.to_text(omit_final_dot=True)
        self._url = url
        self._algorithm = algorithm
        self._environ = environ

    @cached_property
    def signing(self) -> dns.tsig.Key:
        """`Denied` where there is no secret, or none that can be one."""
        variable = "MLPLATFORM_TSIG_SECRET_" + re.sub(r"[^A-Z0-9]", "_", self.name.upper())
        if file := self._url.options.get("key_file"):
            where, algorithm, secret = f"key file {file}", *self._of_file(file)
        else:
            where, algorithm = variable, self._algorithm
            secret = self._environ.get(variable, "").strip()
        hint = f"put the secret of key {self.name} in {variable}, or name key_file= in the URL"
        if not secret:
            said = f"no secret for key {self.name} in {where}"
            raise Denied(said, store=str(self._url), hint=hint)
        try:
            octets = base64.b64decode(secret, validate=True)
        except (binascii.Error, ValueError) as error:
            raise Denied(f"{where} is not base64", store=str(self._url), hint=hint) from error
        return dns.tsig.Key(self.name, octets, algorithm)

    def _of_file(self, file: str) -> tuple[str, str]:
        """Algorithm and secret of the key of our name, as BIND's `tsig-keygen` writes it."""
        try:
            text = Path(file).read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise Denied(
                f"key file {file} cannot be read: {getattr(error, 'strerror', None) or 'no text'}",
                store=str(self._url),
                hint=f"write it with `tsig-keygen {self.name}`",
            ) from error
        for name, block in _KEY_BLOCK.findall(text):
            if dns.name.from_text(name) == dns.name.from_text(self.name):
                fields = dict(_KEY_FIELD.findall(block))
                algorithm = fields.get("algorithm", self._algorithm).lower()
                if algorithm in _ALGORITHMS:
                    return algorithm, fields.get("secret", "")
                raise Denied(
                    f"key file {file}: algorithm {algorithm} is not used here",
                    store=str(self._url),
                    hint=f"one of {', '.join(_ALGORITHMS)}",
                )
        raise Denied(f"key file {file} holds no key {self.name}", store=str(self._url))


# ------------------------------------------------------------------------------ the epoch's record


@dataclass(frozen=True, slots=True)
class _Mark:
    """What the TXT record says."""

    epoch: int = 0
    writer: str = ""
    nonce: str = ""
    addresses: str = ""
    """Digest of the address sets that it was written with."""

    @classmethod
    def of(cls, texts: tuple[str, ...]) -> Self:
        """Of the TXT set; `ValueError` where it is not ours."""
        if not texts:
            return cls()
        (text,) = texts
        record = cast(
            dns.rdtypes.ANY.TXT.TXT,
            dns.rdata.from_text(dns.rdataclass.IN, dns.rdatatype.TXT, text),
        )
        version, *strings = (string.decode("ascii") for string in record.strings)
        if version != _VERSION:
            raise ValueError(version)
        fields = dict(string.split("=", 1) for string in strings)
        return cls(
            int(fields["epoch"]), unquote(fields["writer"]), fields["nonce"], fields["addresses"]
        )

    def text(self) -> str:
        """As a zone file has it."""
        fields = (
            f"epoch={self.epoch}",
            f"writer={quote(self.writer, safe=_SAFE)}",
            f"nonce={self.nonce}",
            f"addresses={self.addresses}",
        )
        return " ".join(f'"{field}"' for field in (_VERSION, *fields))


def _digest(sets: Sets) -> str:
    text = " ".join(address for family in _FAMILIES for address in sets[family])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


# ------------------------------------------------------------------------------------- the actuator


class Rfc2136Traffic:
    """One name in one zone. Safe to share between threads: each verb has its own connection."""

    def __init__(
        self,
        url: str,
        *,
        servers: tuple[NameServer, ...],
        zone: dns.name.Name,
        name: dns.name.Name,
        epoch_name: dns.name.Name,
        key: _Key,
        targets: Mapping[str, Sets],
        ttl_seconds: int,
        timeout_seconds: float,
    ) -> None:
        self._url = url
        self._servers = servers
        self._zone = zone
        self._name = name
        self._epoch_name = epoch_name
        self._key = key
        self._targets = targets
        self._ttl_seconds = ttl_seconds
        self._timeout_seconds = timeout_seconds

    def __repr__(self) -> str:
        return f"<Rfc2136Traffic {self._url}>"

    @property
    def url(self) -> str:
        return self._url

    @property
    def features(self) -> TrafficFeatures:
        return FEATURES

    def read(self) -> RouteState:
        """What the primary answers, over TCP. `NotFound` without addresses: nobody is served, and
        nothing is made up. `Unsupported` for a name or a TXT record that others hold."""
        with self._line(self._servers[0]) as line:
            sets, ttl_seconds = self._look(line, signed=True)
        return self._state(sets, ttl_seconds)

    def write(
        self, weights: Weights, *, epoch: int, writer: str, expected: RouteState
    ) -> RouteState:
        check_weights(weights, where=self._url, regions=self._targets, features=FEATURES)
        if len(quote(writer, safe=_SAFE)) > _WRITER_CHARACTERS_MAX:
            raise UsageError(f"{self._url}: {writer[:40]}… is too long for the name of a writer")
        before = self._sets_of(expected)
        # By what the condition itself says, whatever else `expected` says: this is what the server
        # is going to compare.
        held = self._mark(before)
        check_epoch(RouteState({}, held.epoch, held.writer), epoch, where=self._url)
        after = self._after(weights, before)
        mark = _Mark(epoch, writer, secrets.token_hex(8), _digest(after))
        after["TXT"] = (mark.text(),)
        self._update(before, after, epoch)
        moved = any(before[family] != after[family] for family in _FAMILIES)
        return self._state(after, self._ttl_seconds if moved else expected.ttl_seconds)

    def in_force(self, state: RouteState) -> bool:
        """Whether the primary and each of `servers` answer with it. One that answers otherwise
        decides it; only then is one that does not answer an error, which names it."""
        wanted = self._sets_of(state)
        silent: StoreError | None = None
        for number, server in enumerate(self._servers):
            try:
                with self._line(server) as line:
                    found, _ = self._look(line, signed=number == 0)
            except StoreError as error:
                silent = silent or error
            else:
                if found != wanted:
                    return False
        if silent is not None:
            raise silent
        return True

    # Reading.

    def _line(self, server: NameServer) -> AbstractContextManager[Line]:
        return Line.to(server, timeout_seconds=self._timeout_seconds, store=self._url)

    def _look(self, line: Line, *, signed: bool) -> tuple[dict[str, tuple[str, ...]], float | None]:
        """The sets, all of one moment, and the longest time to live of an address. Several
        questions see several moments: if the TXT record does not fit the addresses, it is asked for
        again, and when it is still the same, the addresses were changed by somebody else."""
        mark = self._set(line, self._epoch_name, "TXT", signed=signed)
        for _ in range(_LOOKS):
            found = {kind: self._set(line, self._name, kind, signed=signed) for kind in _FAMILIES}
            sets = {kind: _texts(found[kind]) for kind in _FAMILIES} | {"TXT": _texts(mark)}
            if not self._foreign(sets):
                break
            again = self._set(line, self._epoch_name, "TXT", signed=signed)
            if _texts(again) == sets["TXT"]:
                break
            mark = again
        else:
            raise Unavailable("it changes while it is looked at", store=self._url)
        return sets, max((float(rrset.ttl) for rrset in found.values() if rrset), default=None)

    def _foreign(self, sets: Sets) -> bool:
        """Whether the addresses are not those that the TXT record was written with."""
        try:
            return _Mark.of(sets["TXT"]).addresses != _digest(sets)
        except (ValueError, KeyError, dns.exception.DNSException):
            return True

    def _set(
        self, line: Line, name: dns.name.Name, kind: str, *, signed: bool
    ) -> dns.rrset.RRset | None:
        question = dns.message.make_query(name, kind, flags=0)
        if signed:
            question.use_tsig(self._key.signing)
        answer = line.ask(question)
        code = answer.rcode()
        if code == dns.rcode.REFUSED and signed:
            self._why_refused(line)
        if code == dns.rcode.REFUSED:
            raise Denied(
                f"{line.server} refuses to answer for {name}",
                right="get",
                store=self._url,
                hint="it serves another zone, or other clients: is it one of the zone's servers?",
            )
        if code not in {dns.rcode.NOERROR, dns.rcode.NXDOMAIN}:
            raise self._odd(line.server, code)
        if not answer.flags & dns.flags.AA:
            raise self._no_zone(line.server)
        if found := answer.get_rrset(answer.answer, name, dns.rdataclass.IN, dns.rdatatype.CNAME):
            raise Unsupported(
                f"{name} is another name for {found[0].to_text()}",
                store=self._url,
                hint="name what it leads to in the actuator's URL, or replace the CNAME by the "
                "addresses of the regions",
            )
        return answer.get_rrset(
            answer.answer, name, dns.rdataclass.IN, dns.rdatatype.from_text(kind)
        )

    def _why_refused(self, line: Line) -> None:
        """A server that lacks the zone refuses the question as one does that does not answer us.
        Asked for an update that changes nothing, it says which."""
        update = dns.update.UpdateMessage(self._zone)
        update.use_tsig(self._key.signing)
        if line.ask(update).rcode() == dns.rcode.NOTAUTH:
            raise self._no_zone(line.server)

    def _state(self, sets: Sets, ttl_seconds: float | None) -> RouteState:
        mark = self._mark(sets)
        there = {address for family in _FAMILIES for address in sets[family]}
        if not there:
            raise NotFound(
                f"{self._name} has no address",
                store=self._url,
                hint="the operator makes the first address records, of the regions that serve",
            )
        serving, detail = [], {}
        for region, own in self._targets.items():
            addresses = [address for family in _FAMILIES for address in own[family]]
            missing = [address for address in addresses if address not in there]
            if len(missing) < len(addresses):
                serving.append(region)
            partly = f" (not in the answer: {', '.join(missing)})" if missing else ""
            detail[region] = ", ".join(addresses) + (partly if region in serving else "")
            there -= set(addresses)
        if there:
            detail["of no region"] = ", ".join(sorted(there))
        if not serving:
            raise Unsupported(
                f"{self._name} has no region's address, but {detail['of no region']}",
                store=self._url,
                hint="name them in the route's targets, or put a region's addresses in their place",
            )
        shares = equal_shares(serving)
        return RouteState(
            {region: shares.get(region, 0) for region in self._targets},
            mark.epoch,
            mark.writer if mark.addresses == _digest(sets) else "",
            tag=json.dumps(sets, sort_keys=True, separators=(",", ":")),
            ttl_seconds=ttl_seconds,
            detail=detail,
        )

    def _mark(self, sets: Sets) -> _Mark:
        try:
            return _Mark.of(sets["TXT"])
        except (ValueError, KeyError, dns.exception.DNSException) as error:
            raise Unsupported(
                f"the TXT record at {self._epoch_name} is not ours: {' '.join(sets['TXT'])[:200]}",
                store=self._url,
                hint="look who wrote it; without it the route is as one that nobody has claimed",
            ) from error

    def _sets_of(self, state: RouteState) -> dict[str, tuple[str, ...]]:
        try:
            found = json.loads(state.tag)
            return {kind: tuple(found[kind]) for kind in (*_FAMILIES, "TXT")}
        except (ValueError, KeyError, TypeError) as error:
            raise ConditionFailed(
                "what it is to replace was not read from here", store=self._url
            ) from error

    # Writing.

    def _after(self, weights: Weights, before: Sets) -> dict[str, tuple[str, ...]]:
        """The address sets that are to be. Weights that are there already stay as they are, whoever
        put them there: a claim is no repair."""
        if weights == self._state(before, None).weights:
            return {family: before[family] for family in _FAMILIES}
        return {
            family: tuple(
                sorted(
                    address
                    for region, weight in weights.items()
                    if weight
                    for address in self._targets[region][family]
                )
            )
            for family in _FAMILIES
        }

    def _update(self, before: Sets, after: Sets, epoch: int) -> None:
        """One message: all of it or nothing."""
        update = dns.update.UpdateMessage(self._zone)
        for kind in (*_FAMILIES, "TXT"):
            name = self._epoch_name if kind == "TXT" else self._name
            for text in before[kind]:
                update.present(name, kind, text)
            if not before[kind]:
                update.absent(name, kind)
            if after[kind] == before[kind]:
                continue
            if before[kind]:
                update.delete(name, kind)
            for text in after[kind]:
                update.add(name, self._ttl_seconds, kind, text)
        update.use_tsig(self._key.signing)
        with self._line(self._servers[0]) as line:
            code = line.ask(update).rcode()
        match code:
            case dns.rcode.NOERROR:
                return
            case dns.rcode.NXRRSET | dns.rcode.YXRRSET | dns.rcode.NXDOMAIN | dns.rcode.YXDOMAIN:
                raise self._overtaken(code, epoch)
            case dns.rcode.REFUSED:
                raise Denied(
                    f"key {self._key.name} may not change {self._name} and {self._epoch_name}",
                    right="put",
                    store=self._url,
                    hint=f"BIND: update-policy {{ grant {self._key.name} zonesub ANY; }}; "
                    f"PowerDNS: dnsupdate=yes, and TSIG-ALLOW-DNSUPDATE {self._key.name}",
                )
            case dns.rcode.NOTAUTH:
                raise self._no_zone(self._servers[0])
            case _:
                raise self._odd(self._servers[0], code)

    def _overtaken(self, code: dns.rcode.Rcode, epoch: int) -> ConditionFailed:
        """A prerequisite did not hold. `Fenced` if by a higher epoch; what else is wrong with it
        now is raised as reading raises it."""
        now = ""
        try:
            state = self.read()
        except Unavailable:
            pass
        else:
            check_epoch(state, epoch, where=self._url)
            by = f" by {state.writer}" if state.writer else ""
            now = f": {', '.join(sorted(state.serving))} serve, epoch {state.epoch}{by}"
        return ConditionFailed(
            f"another writer came first ({dns.rcode.to_text(code)}){now}",
            store=self._url,
            hint="look again, and decide from what is there now",
        )

    def _no_zone(self, server: NameServer) -> ContainerMissing:
        return ContainerMissing(
            f"{server} is not authoritative for the zone {self._zone}",
            store=self._url,
            hint="the actuator's URL names the zone's primary server, then the zone, then the name",
        )

    def _odd(self, server: NameServer, code: dns.rcode.Rcode) -> StoreError:
        said = f"{server} answered {dns.rcode.to_text(code)}"
        if code == dns.rcode.NOTIMP:
            return Unsupported(
                f"{said}: it takes no updates", store=self._url, hint="allow RFC 2136 there"
            )
        return StoreError(said, store=self._url, hint="its log says what it did not like")


def _texts(rrset: dns.rrset.RRset | None) -> tuple[str, ...]:
    return tuple(sorted(record.to_text() for record in rrset)) if rrset else ()
