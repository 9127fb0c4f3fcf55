"""Weighted records in Amazon Route 53: `route53://ZONEID/api.example.com?type=A`.

For each region there is a weighted record set at the name, made by its operator, whose
SetIdentifier is the region's name. Failover writes its Weight, and nothing else of it: addresses,
alias targets, TTLs and health checks stay as they are. With `type=A,AAAA` both types move together.

**Weights.** Per cent are written as they are, 0 to 100 of the 255 that there are: a set is given
out with the likelihood weight ÷ sum, so that what is read back equals what was written. Weights in
another scale are read as per cent of their sum. All zero means *all equal* there, and is read so.

**The epoch** lies beside the name, as one TXT record at `_epoch.<name>`: epoch, writer, a nonce,
and a digest of the weights that were written with it. Where the digest does not fit the weights
that are there, somebody else changed them, and the state names no writer.

**The fence is the service's.** A write is one ChangeBatch, of which all or nothing is applied: the
epoch record is deleted and created anew, and so is each record set whose weight changes. A DELETE
has to name the record exactly as it is, and a CREATE fails where there is one, so that the batch is
a compare-and-set. A batch that was refused is explained by reading again. Sets whose weight stays
are left out of it: a change of them by hand in the moment between our reading and the batch is
seen by the next reading only. That a DELETE has to match is documented ("you must specify all the
same values", API_ChangeResourceRecordSets); the whole has not been tried on AWS.

**In force** is a change that GetChange calls INSYNC: every authoritative server has it. Who did not
write the state, or never got the answer to the write, has no number to ask for; he asks by
TestDNSAnswer what Route 53 answers for the epoch record, which is one server's word, and none in
private zones. Resolvers keep the old answer for the TTL on top.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from botocore import exceptions as sdk
from botocore.config import Config
from botocore.loaders import create_loader
from botocore.session import Session

from mlplatform.adapters.aws_session import open_session
from mlplatform.core.errors import (
    ConditionFailed,
    ContainerMissing,
    Denied,
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
from mlplatform.ports.traffic import (
    RouteState,
    TrafficFeatures,
    Weights,
    check_epoch,
    check_weights,
    equal_shares,
    per_cent,
)

_OPTIONS = frozenset(
    {"type", "profile", "region", "endpoint", "insecure", "ca_bundle", "stall_seconds"}
)
_TYPES = ("A", "AAAA", "CNAME")
_STALL_SECONDS = 10.0
_CONNECT_SECONDS = 3.0
_REGION = "us-east-1"
"""Where neither the URL nor the SDK's configuration names one; there is one service a partition."""
_PAGE = 300  # the most that the service lists at once
_EPOCH_TTL_SECONDS = 60
_ALIAS_TTL_SECONDS = 60.0
"""Of an alias for a load balancer (developer guide, "Choosing between alias and non-alias")."""
_ZONE = re.compile(r"[A-Z0-9]{1,32}")
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_VERSION = "mlplatform=1"
_STRING_MAX = 255  # RFC 1035, 3.3: of one string in a TXT record
_NO_REGION = "(no region)"
_FOREIGN = (sdk.BotoCoreError, sdk.ClientError, OSError)

FEATURES = TrafficFeatures(
    zero="left out of answers while any region with weight is healthy; all at zero would mean "
    "equal shares",
    ttl=True,
    exercised="a strict fake of ours; not exercised on AWS",
)

Record = Mapping[str, Any]
"""A resource record set, as the service lists it."""


def open_traffic(
    url: StoreURL, targets: Mapping[str, tuple[str, ...]], *, session: Session | None = None
) -> Route53Traffic:
    """The weighted records behind `route53://ZONEID/name`. Nothing is asked of the service yet.

    Options: `type`, one of A, AAAA, CNAME, or `A,AAAA`; `profile`, else the SDK's own chain of
    credentials; `region` of the partition, for China and GovCloud; `endpoint`, `insecure`,
    `ca_bundle`, `stall_seconds`. What the regions' addresses are is in the records: of `targets`
    the regions alone are used. `session` stands in for the SDK's own.
    """
    url.reject_unknown(_OPTIONS)
    where = f"{url.noun} {url}"
    name = url.path.strip("/").rstrip(".").lower()
    if not _ZONE.fullmatch(url.authority):
        raise UsageError(
            f"{where} does not name a hosted zone", hint="write route53://Z0123456789ABC/name"
        )
    if not all(_LABEL.fullmatch(label) for label in name.split(".")):
        raise UsageError(
            f"{where}: {name!r} is no name that can be served",
            hint="write it whole, without wildcards: route53://ZONEID/api.example.com",
        )
    types = tuple(url.options.get("type", "A").upper().split(","))
    if len(set(types)) != len(types) or any(one not in _TYPES for one in types):
        raise UsageError(
            f"{where}: type={url.options.get('type')!r}", hint=f"of {', '.join(_TYPES)}; A,AAAA"
        )
    if (bundle := url.options.get("ca_bundle")) and not Path(bundle).is_file():
        raise UsageError(f"{where}: ca_bundle={bundle!r} is no file")
    url.endpoint()
    return Route53Traffic(
        url, f"{name}.", types, tuple(targets), session=session or open_session(url, where)
    )


@cache
def _models(data_path: str | None) -> Any:
    """The SDK's description of the service, read once for all routes."""
    return create_loader(data_path)


# ------------------------------------------------------------------------------ what it holds


@dataclass(frozen=True, slots=True)
class _Mark:
    """What the epoch record says."""

    epoch: int
    writer: str
    nonce: str
    weights: str
    """Digest of the weights that were written with it."""

    @classmethod
    def read(cls, text: str) -> _Mark:
        """`ValueError` or `KeyError` for what is not ours."""
        version, *strings = re.findall(r'"([^"]*)"', text)
        if version != _VERSION:
            raise ValueError(version)
        fields = dict(string.split("=", 1) for string in strings)
        return cls(
            int(fields["epoch"]), unquote(fields["writer"]), fields["nonce"], fields["weights"]
        )

    def text(self) -> str:
        """As the service lists it."""
        fields = (
            _VERSION,
            f"epoch={self.epoch}",
            f"writer={quote(self.writer, safe=' @:/.')}",
            f"nonce={self.nonce}",
            f"weights={self.weights}",
        )
        return " ".join(f'"{field}"' for field in fields)


@dataclass(frozen=True, slots=True)
class _Held:
    """The records at the name and the epoch record, as they are."""

    records: Sequence[Record]
    mark: Record | None
    state: RouteState


class Route53Traffic:
    """One name in one hosted zone. Safe to share between threads."""

    def __init__(
        self,
        url: StoreURL,
        name: str,
        types: Sequence[str],
        regions: Sequence[str],
        *,
        session: Session,
    ) -> None:
        self._asked = url
        self._url = str(url)
        self._zone = url.authority
        self._name = name
        self._epoch_name = f"_epoch.{name}"
        self._types = tuple(types)
        self._regions = tuple(regions)
        self._session = session
        self._stall_seconds = url.seconds("stall_seconds", default=_STALL_SECONDS)
        self._client: Any = None
        self._opening = threading.Lock()
        self._change = ("", "")
        """The tag of the state that was written last, and the number of that change."""

    def __repr__(self) -> str:
        return f"<Route53Traffic {self._url}>"

    @property
    def url(self) -> str:
        return self._url

    @property
    def features(self) -> TrafficFeatures:
        return FEATURES

    def read(self) -> RouteState:
        return self._read().state

    def write(
        self, weights: Weights, *, epoch: int, writer: str, expected: RouteState
    ) -> RouteState:
        check_weights(weights, where=self._url, regions=self._regions, features=FEATURES)
        held = self._read()
        self._require(held, epoch, expected)
        records = held.records if weights == held.state.weights else self._weighed(held, weights)
        mark = self._marked(held, records, epoch, writer)
        pairs = [pair for pair in zip(held.records, records, strict=True) if pair[0] != pair[1]]
        changes = [change for pair in (*pairs, (held.mark, mark)) for change in _changes(*pair)]
        try:
            answer = self._call(
                "change_resource_record_sets",
                ChangeBatch={"Comment": f"mlplatform, epoch {epoch}", "Changes": changes},
            )
        except _Refused as refused:
            self._require(self._read(), epoch, expected)
            raise refused.unexplained from None
        state = self._state(records, mark)
        self._change = (state.tag, str(answer["ChangeInfo"]["Id"]))
        return state

    def in_force(self, state: RouteState) -> bool:
        tag, number = self._change
        everywhere = self._is_in_sync(number) if tag == state.tag else None
        if everywhere is False:
            return False
        held = self._read()
        if held.state.tag != state.tag:
            return False
        return everywhere or self._is_answered(held)

    def _is_in_sync(self, number: str) -> bool | None:
        """Whether that change is everywhere; None where the service no longer knows of it."""
        try:
            answer = self._call("get_change", Id=number)
        except NotFound:
            return None
        return bool(answer["ChangeInfo"]["Status"] == "INSYNC")

    def _is_answered(self, held: _Held) -> bool:
        """Whether the epoch record that is answered is the one that is held."""
        if held.mark is None:
            return True  # nobody of ours has changed anything
        try:
            answer = self._call(
                "test_dns_answer", RecordName=self._epoch_name.rstrip("."), RecordType="TXT"
            )
        except Unsupported:
            return False
        wanted = [_Mark.read(one) for one in _values(held.mark)]
        try:
            return [_Mark.read(str(one)) for one in answer.get("RecordData", ())] == wanted
        except (ValueError, KeyError):
            return False

    def _require(self, held: _Held, epoch: int, expected: RouteState) -> None:
        check_epoch(held.state, epoch, where=self._url)
        if held.state.tag != expected.tag:
            by = f" by {held.state.writer}" if held.state.writer else ""
            raise ConditionFailed(
                f"another writer came first: {dict(held.state.weights)} is there{by}, under epoch "
                f"{held.state.epoch}; {dict(expected.weights)} under epoch {expected.epoch} was "
                "expected",
                store=self._url,
                hint="read again; CloudTrail's ChangeResourceRecordSets says who it was",
            )

    # --------------------------------------------------------------------------------- reading

    def _read(self) -> _Held:
        """Records first, then the epoch: where a write comes between, the older records make the
        next batch fail."""
        records = [record for one in self._types for record in self._listed(self._name, one)]
        marks = list(self._listed(self._epoch_name, "TXT"))
        mark = marks[0] if marks else None
        return _Held(records, mark, self._state(records, mark))

    def _listed(self, name: str, kind: str) -> Iterator[Record]:
        """The record sets of one name and type. A list has what was changed a moment ago."""
        page: dict[str, Any] = {"StartRecordName": name, "StartRecordType": kind}
        while True:
            answer = self._call("list_resource_record_sets", MaxItems=str(_PAGE), **page)
            for record in answer["ResourceRecordSets"]:
                if (record["Name"].lower(), record["Type"]) != (name, kind):
                    return
                yield record
            if not answer.get("IsTruncated"):
                return
            page = {
                f"StartRecord{part}": answer[f"NextRecord{part}"]
                for part in ("Name", "Type", "Identifier")
                if f"NextRecord{part}" in answer
            }

    def _state(self, records: Sequence[Record], mark: Record | None) -> RouteState:
        self._check_policy(records)
        weights = dict.fromkeys(self._regions, 0)
        for record in records:
            if record["SetIdentifier"] in weights:
                weights[record["SetIdentifier"]] += int(record["Weight"])
        shares = per_cent(weights) if any(weights.values()) else equal_shares(self._regions)
        said = self._mark_of(mark)
        ours = said.weights == _digest(records)
        return RouteState(
            {region: shares[region] for region in self._regions},
            said.epoch,
            said.writer if ours else "",
            tag=_tag(records, mark),
            ttl_seconds=max(self._ttl_seconds(record) for record in records),
            detail=self._detail(records),
        )

    def _check_policy(self, records: Sequence[Record]) -> None:
        """Every region has its weighted set of every type."""
        for kind in self._types:
            found = {one.get("SetIdentifier"): one for one in records if one["Type"] == kind}
            missing = [region for region in self._regions if region not in found]
            if any("Weight" not in record for record in found.values()):
                raise Unsupported(
                    f"the {kind} records are not weighted",
                    store=self._url,
                    hint="give them a weighted routing policy; failover does not change policies",
                )
            if missing:
                has = ", ".join(str(one) for one in found) or "none"
                raise NotFound(
                    f"no weighted {kind} record for {', '.join(missing)}; there is {has}",
                    store=self._url,
                    hint="make one whose SetIdentifier is the region's name, with weight 0",
                )

    def _mark_of(self, mark: Record | None) -> _Mark:
        if mark is None:
            return _Mark(0, "", "", "")
        values = _values(mark)
        try:
            (value,) = values
            return _Mark.read(value)
        except (ValueError, KeyError):
            raise IntegrityError(
                f"{self._url}: the TXT record {self._epoch_name} is not ours: "
                f"{_one_line(' '.join(values))}",
                hint="find out who wrote it before you delete it: it is what keeps deposed "
                "controllers out",
            ) from None

    def _ttl_seconds(self, record: Record) -> float:
        if "TTL" in record:
            return float(record["TTL"])
        alias = record["AliasTarget"]
        if alias["HostedZoneId"] != self._zone:
            return _ALIAS_TTL_SECONDS
        named = self._listed(alias["DNSName"].lower(), record["Type"])
        return max((float(one.get("TTL", _ALIAS_TTL_SECONDS)) for one in named), default=0.0)

    def _detail(self, records: Sequence[Record]) -> dict[str, str]:
        detail: dict[str, list[str]] = {}
        for record in records:
            where = (
                f"alias of {record['AliasTarget']['DNSName']}"
                if "AliasTarget" in record
                else " ".join(_values(record))
            )
            check = record.get("HealthCheckId")
            health = f", health check {check}" if check else ""
            identifier = record["SetIdentifier"]
            region = identifier if identifier in self._regions else _NO_REGION
            named = "" if region == identifier else f"{identifier}: "
            text = f"{named}{record['Type']} {where}, weight {record['Weight']}{health}"
            detail.setdefault(region, []).append(text)
        return {region: "; ".join(texts) for region, texts in detail.items()}

    # --------------------------------------------------------------------------------- writing

    def _weighed(self, held: _Held, weights: Weights) -> list[Record]:
        """What is no region's gets nothing: nobody has verified what it serves."""
        return [
            {**record, "Weight": weights.get(record["SetIdentifier"], 0)} for record in held.records
        ]

    def _marked(
        self, held: _Held, records: Sequence[Record], epoch: int, writer: str
    ) -> dict[str, Any]:
        mark = _Mark(epoch, writer, secrets.token_hex(8), _digest(records))
        if any(len(one) > _STRING_MAX for one in re.findall(r'"([^"]*)"', mark.text())):
            raise UsageError(f"{self._url}: the writer's name is too long for a TXT record")
        record = held.mark or {
            "Name": self._epoch_name,
            "Type": "TXT",
            "TTL": _EPOCH_TTL_SECONDS,
        }
        return {**record, "ResourceRecords": [{"Value": mark.text()}]}

    # ----------------------------------------------------------------------------- the service

    def _call(self, operation: str, **params: Any) -> dict[str, Any]:
        """One request."""
        if operation != "get_change":
            params["HostedZoneId"] = self._zone
        try:
            answer: dict[str, Any] = getattr(self._opened(), operation)(**params)
            return answer
        except sdk.ClientError as error:
            raise self._refused(operation, error) from error
        except _FOREIGN as error:
            raise self._broken(operation, error) from error

    def _opened(self) -> Any:
        with self._opening:
            if self._client is None:
                configured = self._session.get_config_variable("region")
                models = _models(self._session.get_config_variable("data_path"))
                self._session.register_component("data_loader", models)
                self._client = self._session.create_client(
                    "route53",
                    region_name=self._asked.options.get("region") or configured or _REGION,
                    endpoint_url=self._asked.endpoint(),
                    verify=self._asked.options.get("ca_bundle"),
                    config=Config(
                        retries={"total_max_attempts": 1},
                        connect_timeout=min(_CONNECT_SECONDS, self._stall_seconds),
                        read_timeout=self._stall_seconds,
                        tcp_keepalive=True,
                    ),
                )
            return self._client

    def _refused(self, operation: str, error: sdk.ClientError) -> MlplatformError | _Refused:
        """What the service's refusal means, in our words."""
        details = error.response.get("Error", {})
        about = error.response.get("ResponseMetadata", {})
        code, status = str(details.get("Code", "")), int(about.get("HTTPStatusCode", 0))
        right = "route53:" + error.operation_name
        message = _one_line(str(details.get("Message", "")))
        text = f"{message or 'no reason is given'} ({status} {code})"
        headers = about.get("HTTPHeaders", {})
        if code in _BUSY or status == 429:
            return Throttled(
                f"the service asks for patience: {text}",
                retry_after_seconds=_seconds(headers.get("retry-after")),
                store=self._url,
                hint="its limits are for the whole account",
            )
        if code in _NOT_KNOWN:
            return Denied(
                f"the credentials are not accepted: {text}",
                right=right,
                store=self._url,
                hint="sign in again; aws sts get-caller-identity says who you are",
            )
        if status in (401, 403):
            return Denied(
                f"may not {right}: {text}",
                right=right,
                store=self._url,
                hint="infra/iam/route53-failover.json is the policy that it needs",
            )
        if code == "NoSuchHostedZone":
            return ContainerMissing(
                f"there is no hosted zone {self._zone} in this account ({status} {code})",
                store=self._url,
                hint="aws route53 list-hosted-zones shows those that there are",
            )
        if code == "NoSuchChange":
            return NotFound(f"it knows of no such change ({status} {code})", store=self._url)
        if code == "InvalidChangeBatch":
            # Whether it was overtaken or is wrong by itself is known when it is read again.
            return _Refused(StoreError(f"the batch is refused: {text}", store=self._url))
        if status >= 500 or status == 408:
            return Unavailable(f"the service fails: {text}", store=self._url)
        if operation == "test_dns_answer":
            return Unsupported(f"it does not say what it answers: {text}", store=self._url)
        return StoreError(f"the service refuses {operation}: {text}", store=self._url)

    def _broken(self, operation: str, error: Exception) -> MlplatformError:
        """What went wrong on the way."""
        named = type(error).__name__
        if isinstance(error, _NO_CREDENTIALS):
            return Denied(
                f"no credentials: {named}",
                right=f"route53:{operation}",
                store=self._url,
                hint="sign in (aws sso login, aws configure), or name a profile: profile=NAME",
            )
        if isinstance(error, sdk.SSLError):
            return StoreError(
                "the server's certificate is not accepted",
                store=self._url,
                hint="name the authority that signed it: ca_bundle=FILE",
            )
        if isinstance(error, (sdk.ConnectTimeoutError, sdk.ReadTimeoutError, TimeoutError)):
            return Unavailable(f"no answer within {self._stall_seconds:g} s", store=self._url)
        if isinstance(error, sdk.ParamValidationError):
            return UsageError(f"{self._url}: {_one_line(str(error))}")
        return Unavailable(f"the connection broke ({named})", store=self._url)


class _Refused(Exception):
    """A batch was not applied, because of what is there or for itself."""

    def __init__(self, unexplained: MlplatformError) -> None:
        super().__init__(str(unexplained))
        self.unexplained = unexplained


_BUSY = frozenset(
    {
        *("Throttling", "ThrottlingException", "RequestLimitExceeded", "TooManyRequestsException"),
        "PriorRequestNotComplete",  # one batch after another in a zone: this one was not begun
    }
)
_NOT_KNOWN = frozenset(
    {
        *("InvalidClientTokenId", "SignatureDoesNotMatch", "ExpiredToken", "ExpiredTokenException"),
        *("MissingAuthenticationToken", "IncompleteSignature", "UnrecognizedClientException"),
        "RequestExpired",
    }
)
_NO_CREDENTIALS = (
    *(sdk.NoCredentialsError, sdk.PartialCredentialsError, sdk.NoAuthTokenError),
    *(sdk.UnauthorizedSSOTokenError, sdk.SSOError, sdk.TokenRetrievalError),
    *(sdk.CredentialRetrievalError, sdk.MetadataRetrievalError),
)


def _changes(old: Record | None, new: Record) -> list[dict[str, Any]]:
    """`new` instead of exactly `old`."""
    removed = [] if old is None else [{"Action": "DELETE", "ResourceRecordSet": old}]
    return [*removed, {"Action": "CREATE", "ResourceRecordSet": new}]


def _values(record: Record) -> list[str]:
    return [str(one["Value"]) for one in record.get("ResourceRecords", ())]


def _digest(records: Sequence[Record]) -> str:
    """Of the weights alone: what else is changed is not failover's."""
    weights = sorted((one["Type"], one["SetIdentifier"], int(one["Weight"])) for one in records)
    return hashlib.sha256(json.dumps(weights).encode()).hexdigest()[:16]


def _tag(records: Sequence[Record], mark: Record | None) -> str:
    """Of all that the records say."""
    ordered = sorted(json.dumps(one, sort_keys=True) for one in (*records, *([mark] * bool(mark))))
    return hashlib.sha256("\n".join(ordered).encode()).hexdigest()[:32]


def _seconds(text: str | None) -> float | None:
    return float(text) if text and text.isdecimal() else None


def _one_line(text: str) -> str:
    return " ".join(text.split())[:300]
