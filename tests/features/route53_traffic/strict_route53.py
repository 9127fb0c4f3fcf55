"""A strict stand-in for Route 53, over HTTP, by the SDK's own description of the service.

Strict where moto is not: signatures are computed and compared, every value is held against the
model's ranges, a batch is applied whole or not at all, a DELETE has to name the record exactly as
it is, a name has one routing policy, and a change is PENDING until it has been looked after. What
it does not know it refuses. It is our reading of Amazon's documents, and not Amazon:

- API_ChangeResourceRecordSets: batches are transactional; DELETE with all the same values; CREATE
  fails where there is one; no record twice in a batch, but for a DELETE followed by a CREATE.
- API_ListResourceRecordSets: by reversed labels, then type, then identifier; what is PENDING too.
- API_GetChange: PENDING, then INSYNC. API_TestDNSAnswer: what is served, in public zones.
- throttling-api-requests: 400 Throttling; PriorRequestNotComplete while a batch is under way.
"""

from __future__ import annotations

import hmac
import ipaddress
import itertools
import re
import threading
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.session import Session

ZONE_ID = "Z0123456789STRICT"
ZONE = "example.com."
_MODEL = Session().get_service_model("route53")
_OPERATIONS = {
    name: _MODEL.operation_model(name)
    for name in ("ListResourceRecordSets", "ChangeResourceRecordSets", "GetChange", "TestDNSAnswer")
}
_POLICIES = {
    *("Weight", "Region", "Failover", "GeoLocation", "MultiValueAnswer"),
    *("CidrRoutingConfig", "GeoProximityLocation"),
}
_IN_A_ROW = (["CREATE"], ["DELETE"], ["UPSERT"], ["DELETE", "CREATE"])
_QUOTED = re.compile(r'"(?:[^"\\]|\\.){0,255}"(?: "(?:[^"\\]|\\.){0,255}")*')

Record = dict[str, Any]
Key = tuple[str, str, str]


class Refused(Exception):
    """An answer with an error in it."""

    def __init__(self, status: int, code: str, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.headers = headers


def key_of(record: Mapping[str, Any]) -> Key:
    return record["Name"], record["Type"], record.get("SetIdentifier", "")


def _place(key: Key) -> tuple[list[str], str, str]:
    """Where it stands in a list."""
    name, kind, identifier = key
    return list(reversed(name.rstrip(".").split("."))), kind, identifier


def _named(record: Mapping[str, Any]) -> str:
    identifier = record.get("SetIdentifier")
    text = f"name='{record['Name']}', type='{record['Type']}'"
    return f"[{text}, set identifier='{identifier}']" if identifier else f"[{text}]"


def _comparable(record: Mapping[str, Any]) -> Any:
    values = sorted(one["Value"] for one in record.get("ResourceRecords", ()))
    return {**record, "ResourceRecords": values}


@dataclass
class StrictRoute53:
    """One public hosted zone, and what a test may do to it."""

    access_key: str = "AKIASTRICTSTRICT0000"
    secret_key: str = "a-secret-of-the-tests"
    records: dict[Key, Record] = field(default_factory=dict)
    served: dict[Key, Record] = field(default_factory=dict)
    """What the name servers answer from."""
    health_checks: set[str] = field(default_factory=set)
    looks_until_in_sync: int = 1
    """How many times somebody is told PENDING."""
    private: bool = False
    allowed: set[str] = field(default_factory=lambda: set(_OPERATIONS))
    """Operations that the policy of the credentials allows."""
    refusals: list[tuple[str, Refused]] = field(default_factory=list)
    """What the next requests of an operation are answered with, in order."""
    meanwhile: Callable[[], None] | None = None
    """What somebody else does before the next batch, once."""
    page_max: int = 300
    loses_answers: bool = False
    cut: bool = False
    asked: list[str] = field(default_factory=list)
    batches: list[list[dict[str, Any]]] = field(default_factory=list)
    """Those that were applied."""
    changes: dict[str, int] = field(default_factory=dict)
    """By number: how many more looks until it is in sync."""
    url: str = ""
    lock: threading.RLock = field(default_factory=threading.RLock)
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def put(self, *records: Record) -> None:
        """As an operator does it in the console, past every adapter."""
        self._apply([{"Action": "UPSERT", "ResourceRecordSet": record} for record in records])
        self.served = dict(self.records)

    def remove(self, *keys: Key) -> None:
        """Likewise."""
        for key in keys:
            self.records.pop(key, None)

    def weights(self, name: str, kind: str = "A") -> dict[str, int]:
        """Those of the records at a name."""
        return {
            record["SetIdentifier"]: record["Weight"]
            for key, record in self.records.items()
            if key[:2] == (name, kind)
        }

    # ------------------------------------------------------------------------------ operations

    def answer(self, operation: str, params: Mapping[str, Any]) -> dict[str, Any]:
        if operation == "ChangeResourceRecordSets" and (meanwhile := self.meanwhile):
            self.meanwhile = None
            meanwhile()
        with self.lock:
            self.asked.append(operation)
            for position, (which, refused) in enumerate(self.refusals):
                if which == operation:
                    del self.refusals[position]
                    raise refused
            if operation not in self.allowed:
                raise Refused(403, "AccessDenied", f"not authorized to perform route53:{operation}")
            zone = params.get("HostedZoneId", ZONE_ID).removeprefix("/hostedzone/")
            if zone != ZONE_ID:
                raise Refused(404, "NoSuchHostedZone", f"No hosted zone found with ID: {zone}")
            match operation:
                case "ListResourceRecordSets":
                    return self._list(params)
                case "ChangeResourceRecordSets":
                    changes = [dict(one) for one in params["ChangeBatch"]["Changes"]]
                    return {"ChangeInfo": self._info(self._apply(changes))}
                case "GetChange":
                    number = params["Id"].removeprefix("/change/")
                    if number not in self.changes:
                        raise Refused(404, "NoSuchChange", f"no change with id {number}")
                    found = self._info(number)
                    self._looked()
                    return {"ChangeInfo": found}
                case _:
                    return self._test(params)

    def _info(self, number: str) -> dict[str, Any]:
        status = "PENDING" if self.changes[number] > 0 else "INSYNC"
        return {"Id": f"/change/{number}", "Status": status, "SubmittedAt": "2026-01-01T00:00:00Z"}

    def _looked(self) -> None:
        for number in self.changes:
            self.changes[number] -= 1
        if all(looks <= 0 for looks in self.changes.values()):
            self.served = dict(self.records)

    def _list(self, params: Mapping[str, Any]) -> dict[str, Any]:
        if "StartRecordType" in params and "StartRecordName" not in params:
            raise Refused(400, "InvalidInput", "a type without a name")
        start = (
            _canonical(params.get("StartRecordName", ZONE)),
            params.get("StartRecordType", ""),
            params.get("StartRecordIdentifier", ""),
        )
        keys = [key for key in sorted(self.records, key=_place) if _place(key) >= _place(start)]
        count = min(int(params.get("MaxItems", self.page_max)), self.page_max)
        found: dict[str, Any] = {
            "ResourceRecordSets": [self.records[key] for key in keys[:count]],
            "IsTruncated": len(keys) > count,
            "MaxItems": str(count),
        }
        if len(keys) > count:
            name, kind, identifier = keys[count]
            found |= {"NextRecordName": name, "NextRecordType": kind}
            found |= {"NextRecordIdentifier": identifier} if identifier else {}
        return found

    def _test(self, params: Mapping[str, Any]) -> dict[str, Any]:
        if self.private:
            raise Refused(400, "InvalidInput", "TestDNSAnswer does not support private zones")
        name, kind = _canonical(params["RecordName"]), params["RecordType"]
        record = self.served.get((name, kind, ""))
        data = [one["Value"] for one in record["ResourceRecords"]] if record else []
        found = {
            "Nameserver": "ns-1.awsdns-00.com",
            "RecordName": name,
            "RecordType": kind,
            "RecordData": data,
            "ResponseCode": "NOERROR" if record else "NXDOMAIN",
            "Protocol": "UDP",
        }
        self._looked()
        return found

    def _apply(self, changes: Sequence[dict[str, Any]]) -> str:
        """All of a batch, or nothing."""
        after = dict(self.records)
        wrong: list[str] = []
        actions: dict[Key, list[str]] = {}
        applied = []
        for change in changes:
            record = dict(change["ResourceRecordSet"])
            record["Name"] = _canonical(record["Name"])
            applied.append({**change, "ResourceRecordSet": record})
            actions.setdefault(key_of(record), []).append(change["Action"])
            wrong += self._change(after, change["Action"], record)
        wrong += [
            f"The request contains an invalid set of changes for a resource record set "
            f"'{kind} {name}'"
            for (name, kind, _), row in actions.items()
            if row not in _IN_A_ROW
        ]
        if wrong:
            raise Refused(400, "InvalidChangeBatch", f"[{', '.join(wrong)}]")
        self.records = after
        self.batches.append(applied)
        number = f"C{next(self._numbers):013d}"
        self.changes[number] = self.looks_until_in_sync
        if not self.looks_until_in_sync:
            self.served = dict(self.records)
        return number

    def _change(self, after: dict[Key, Record], action: str, record: Record) -> list[str]:
        key, found = key_of(record), after.get(key_of(record))
        if action == "DELETE":
            if found is None:
                return [
                    f"Tried to delete resource record set {_named(record)} but it was not found"
                ]
            if _comparable(found) != _comparable(record):
                said = "the values provided do not match the current values"
                return [f"Tried to delete resource record set {_named(record)} but {said}"]
            del after[key]
            return []
        if action == "CREATE" and found is not None:
            return [f"Tried to create resource record set {_named(record)} but it already exists"]
        if wrong := self._wrong_with(record, [one for one in after.values() if one is not found]):
            return wrong
        after[key] = record
        return []

    def _wrong_with(self, record: Record, others: Sequence[Record]) -> list[str]:
        name, kind = record["Name"], record["Type"]
        where = f"RRSet with DNS name {name}, type {kind}"
        if name != ZONE and not name.endswith(f".{ZONE}"):
            return [f"{where} is not permitted in zone {ZONE}"]
        plain, alias = "TTL" in record and "ResourceRecords" in record, "AliasTarget" in record
        if plain == alias or (alias and ("TTL" in record or "ResourceRecords" in record)):
            raise Refused(
                400,
                "InvalidInput",
                "Invalid request: Expected exactly one of [AliasTarget, all of [TTL, and "
                f"ResourceRecords], or TrafficPolicyInstanceId], but found {record}",
            )
        policies = _POLICIES & record.keys()
        if len(policies) > 1 or bool(policies) != ("SetIdentifier" in record):
            raise Refused(400, "InvalidInput", f"Invalid request: routing policy of {record}")
        health = record.get("HealthCheckId")
        if health is not None and health not in self.health_checks:
            raise Refused(404, "NoSuchHealthCheck", f"No health check found with id: {health}")
        values = [one["Value"] for one in record.get("ResourceRecords", ())]
        wrong = [
            f"Invalid Resource Record: '{value}'"
            for value in values
            if not _is_value(kind, value) or values.count(value) > 1
        ]
        for other in others:
            if other["Name"] != name:
                continue
            if other["Type"] == kind and _POLICIES & other.keys() != policies:
                wrong.append(f"{where} cannot be created: another routing policy is there")
            if "CNAME" in {other["Type"], kind} and other["Type"] != kind:
                wrong.append(f"{where} is not permitted beside a CNAME")
        return wrong


def _canonical(name: str) -> str:
    return name.lower().rstrip(".") + "."


def _is_value(kind: str, value: str) -> bool:
    match kind:
        case "A" | "AAAA":
            try:
                return ipaddress.ip_address(value).version == (4 if kind == "A" else 6)
            except ValueError:
                return False
        case "TXT":
            return _QUOTED.fullmatch(value) is not None
        case _:
            return bool(value)


# ------------------------------------------------------------------------------ REST and XML


def _read(shape: Any, node: ET.Element) -> Any:
    """A value of that shape."""
    match shape.type_name:
        case "structure":
            members = {
                member.serialization.get("name", name): (name, member)
                for name, member in shape.members.items()
            }
            found = {}
            for child in node:
                tag = child.tag.rpartition("}")[2]
                if tag not in members or members[tag][0] in found:
                    raise Refused(400, "InvalidInput", f"unexpected element {tag}")
                name, member = members[tag]
                found[name] = _read(member, child)
            return found
        case "list":
            return [_read(shape.member, child) for child in node]
        case "long" | "integer":
            return int(node.text or "")
        case "boolean":
            return {"true": True, "false": False}[node.text or ""]
        case _:
            return node.text or ""


def _check(shape: Any, value: Any, path: str) -> None:
    """Whether a value is what the model says."""
    rule = shape.metadata
    match shape.type_name:
        case "structure":
            if missing := set(rule.get("required", ())) - value.keys():
                raise Refused(400, "InvalidInput", f"{path}: missing {', '.join(missing)}")
            for name, one in value.items():
                _check(shape.members[name], one, f"{path}.{name}")
            return
        case "list":
            size = len(value)
            for one in value:
                _check(shape.member, one, path)
        case "string":
            size = len(value)
            if value not in (rule.get("enum") or [value]):
                raise Refused(400, "InvalidInput", f"{path}: {value!r} is none of {rule['enum']}")
        case "long" | "integer":
            size = value
        case _:
            return
    if not rule.get("min", size) <= size <= rule.get("max", size):
        raise Refused(400, "InvalidInput", f"{path}: {value!r} is out of range")


def _write(shape: Any, value: Any, node: ET.Element) -> None:
    match shape.type_name:
        case "structure":
            for name, member in shape.members.items():
                if name in value:
                    tag = member.serialization.get("name", name)
                    _write(member, value[name], ET.SubElement(node, tag))
        case "list":
            tag = shape.member.serialization.get("name", "member")
            for one in value:
                _write(shape.member, one, ET.SubElement(node, tag))
        case "boolean":
            node.text = "true" if value else "false"
        case _:
            node.text = str(value)


def _pattern(uri: str) -> str:
    return re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", uri).rstrip("/") + "/?"


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, service: StrictRoute53) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.service = service

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    server: _Server

    def _serve(self) -> None:
        service = self.server.service
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        if service.cut:
            self.close_connection = True
            return
        headers: Mapping[str, str] = {}
        try:
            self._check_signature(body)
            operation, params = self._understood(body)
            found = service.answer(operation, params)
            node = ET.Element(f"{operation}Response")
            _write(_OPERATIONS[operation].output_shape, found, node)
            status = 200
        except Refused as refused:
            status, headers = refused.status, refused.headers
            node = ET.Element("ErrorResponse")
            error = ET.SubElement(node, "Error")
            for tag, text in (
                ("Type", "Sender"),
                ("Code", refused.code),
                ("Message", str(refused)),
            ):
                ET.SubElement(error, tag).text = text
            ET.SubElement(node, "RequestId").text = "of-the-tests"
        if service.loses_answers and self.command == "POST":
            self.close_connection = True
            return
        node.set("xmlns", "https://route53.amazonaws.com/doc/2013-04-01/")
        document = ET.tostring(node, encoding="utf-8", xml_declaration=True)
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Type", "text/xml")
        self.send_header("Content-Length", str(len(document)))
        self.end_headers()
        self.wfile.write(document)

    do_GET = do_POST = _serve  # noqa: N815 - the base class's names

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Tests say what went wrong."""

    def _check_signature(self, body: bytes) -> None:
        stated = self.headers.get("Authorization", "")
        found = re.fullmatch(
            r"AWS4-HMAC-SHA256 Credential=([^/]+)/\d+/us-east-1/route53/aws4_request, "
            r"SignedHeaders=([^,]+), Signature=([0-9a-f]{64})",
            stated,
        )
        if found is None:
            raise Refused(403, "MissingAuthenticationToken", "Missing Authentication Token")
        service, key = self.server.service, found[1]
        if key != service.access_key:
            raise Refused(
                403, "InvalidClientTokenId", "The security token included in the request is invalid"
            )
        request = AWSRequest(
            self.command,
            f"http://{self.headers['Host']}{self.path}",
            {name: self.headers[name] for name in found[2].split(";")},
            body,
        )
        request.context["timestamp"] = self.headers["X-Amz-Date"]
        signer = SigV4Auth(Credentials(key, service.secret_key), "route53", "us-east-1")
        to_sign = signer.string_to_sign(request, signer.canonical_request(request))
        if not hmac.compare_digest(signer.signature(to_sign, request), found[3]):
            raise Refused(403, "SignatureDoesNotMatch", "The signature does not match")

    def _understood(self, body: bytes) -> tuple[str, dict[str, Any]]:
        parts = urlsplit(self.path)
        matches = (
            (operation, found)
            for operation, model in _OPERATIONS.items()
            if model.http["method"] == self.command
            and (found := re.fullmatch(_pattern(model.http["requestUri"]), parts.path))
        )
        operation, found = next(matches, ("", None))
        if found is None:
            raise Refused(404, "UnknownOperation", f"{self.command} {parts.path}")
        model = _OPERATIONS[operation]
        given = {**found.groupdict(), **dict(parse_qsl(parts.query))}
        params: dict[str, Any] = {}
        for member, shape in model.input_shape.members.items():
            if (label := shape.serialization.get("name", member)) in given:
                params[member] = unquote(given.pop(label))
        if given:
            raise Refused(400, "InvalidInput", f"unexpected {given}")
        if body:
            root = ET.fromstring(body)
            if root.tag.rpartition("}")[2] != model.input_shape.serialization["name"]:
                raise Refused(400, "InvalidInput", f"unexpected element {root.tag}")
            params |= _read(model.input_shape, root)
        _check(model.input_shape, params, operation)
        return operation, params


@contextmanager
def strict_route53() -> Iterator[StrictRoute53]:
    """The service, for as long as the block lasts."""
    service = StrictRoute53()
    with _Server(service) as server:
        service.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield service
        finally:
            server.shutdown()
            thread.join()
