"""Caddy as the world's router: `caddy://127.0.0.1:2019/<@id>`, its admin endpoint and the `@id` of
a route. `caddy_route` writes such a route.

The weights are those of the `reverse_proxy` in that route, under `weighted_round_robin`; a
region's share lies evenly on its upstreams, which are told apart by their dial addresses. The epoch
is a response header that a `headers` handler of the same route sets, so that any client can see
under which epoch it was answered; who wrote it, and what for, goes to the upstreams as a request
header, and to no client. Everything else in the route is its operator's and stays as it is. One
actuator is one Caddy: where several answer to one name, each is a route of its own.

Read and written together: `GET /id/…` gives the route and its Etag, `PATCH /id/…` with `If-Match`
replaces it whole. Caddy loads a configuration wholly or not at all, new requests follow it at
once, and open ones finish as they began.
https://caddyserver.com/docs/api#using-id-in-json, …#concurrent-config-changes

**The fence.** The tag is a hash of the content, so it repeats; and a deposed writer can read a
fresh one. So the epoch is checked in what was read, and that very content is what the write is
conditional on: if the epoch has risen in between, so has the content changed, and Caddy answers
412. What must not happen is that Caddy forgets: start it with `caddy run --resume`. One that was
started with `--config` alone, or reloaded from a file, comes back with that file's weights **and
its epoch**, which is lower than the newest: a holder of the lease who reads an epoch below its own
knows that the route was changed behind its back, and claims it again before it decides anything.
Until it has, a deposed writer would find the door open; so the window is one round of observing.

Tried with Caddy 2.11: an unknown `@id` answers 404, a stale tag 412, a Host that is not the admin
endpoint's 403, and a configuration that cannot be loaded **500**, with nothing changed. Each change
of weights or epoch, a claim too, closes the connections that clients keep open and idle, and hangs
up on a new one now and then: once in ten changes at a hundred new connections a second. The admin
endpoint is replaced as well, and hangs up on others who ask in that moment; of 32 who wrote at once
one won in each of 20 rounds, and a third of the others had to ask again.
"""

from __future__ import annotations

import json
import os
import re
import ssl
from collections import Counter
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from math import gcd, lcm
from typing import Any, TypeVar
from urllib.parse import quote, unquote, urlsplit

from mlplatform.adapters.json_http import Answer, JSONService
from mlplatform.core.errors import (
    ConditionFailed,
    IntegrityError,
    MlplatformError,
    NotFound,
    StoreError,
    Unsupported,
    UsageError,
)
from mlplatform.core.store_url import StoreURL, is_loopback
from mlplatform.ports.traffic import (
    RouteState,
    TrafficFeatures,
    Weights,
    check_epoch,
    check_weights,
    equal_shares,
    per_cent,
)

T = TypeVar("T")

EPOCH_HEADER = "Mlplatform-Epoch"
"""Of every response: the epoch under which it was routed."""
NOTE_HEADER = "Mlplatform-Route"
"""Of every request to an upstream: writer and weights by region, each name quoted."""
TOKEN_VARIABLE = "MLPLATFORM_CADDY_TOKEN"  # noqa: S105 - where it is, not what
"""A bearer token, for an admin endpoint behind something that asks for one."""

FEATURES = TrafficFeatures(
    zero="no request is sent there, not even when every other region is down",
    exercised="Caddy 2.11",
)

_OPTIONS = frozenset({"tls", "ca_file", "client_file", "host", "insecure", "timeout_seconds"})
_WEIGHTED = "weighted_round_robin"
_EVEN = (None, "random", "round_robin")
"""Policies under which every upstream gets the same: what they are replaced by means no less."""
ADDRESS = re.compile(r"(?:tcp/)?(?:[\w.-]+|\[[0-9A-Fa-f:.%]+\]):\d{1,5}", re.ASCII)
"""A server's dial address."""
_DIAL = re.compile(rf"{ADDRESS.pattern}|unix/[/@]\S+", re.ASCII)
_TIMEOUT_SECONDS = 10.0
"""A change is answered when it has been loaded: milliseconds, with many sites a second or two."""


def caddy_route(
    route_id: str,
    targets: Mapping[str, tuple[str, ...]],
    weights: Weights | None = None,
    *,
    match: list[dict[str, Any]] | None = None,
    reverse_proxy: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """A route that `CaddyTraffic` can take over, for an operator to put among a server's routes.

    `targets` are each region's upstreams, `weights` by default equal shares, `match` Caddy's
    matchers, and `reverse_proxy` what else its handler should hold: `health_checks`, `transport`
    (TLS to the upstreams), `headers`.
    """
    weights = check_weights(weights or equal_shares(targets), where=route_id, regions=targets)
    upstreams = [{"dial": dial} for dials in targets.values() for dial in dials]
    proxy = {**(reverse_proxy or {}), "handler": "reverse_proxy", "upstreams": upstreams}
    route: dict[str, Any] = {"@id": route_id, "handle": [proxy]}
    if match is not None:
        route["match"] = match
    return CaddyRoute(route, targets, where=route_id).with_weights(weights, 0, "")


class CaddyTraffic:
    """One route of one Caddy."""

    stranger_hint = "add it to the route's `targets` in the topology, or give it weight 0"
    """What to do about an upstream that has weight, and belongs to no region."""

    def __init__(
        self, admin: JSONService, route_id: str, targets: Mapping[str, tuple[str, ...]]
    ) -> None:
        self._admin = admin
        self._id = route_id
        self._path = f"/id/{quote(route_id, safe='')}"
        self._targets = _checked(targets, where=admin.name)

    @property
    def url(self) -> str:
        return self._admin.name

    @property
    def features(self) -> TrafficFeatures:
        return FEATURES

    def read(self) -> RouteState:
        return self._read()[1]

    def write(
        self, weights: Weights, *, epoch: int, writer: str, expected: RouteState
    ) -> RouteState:
        check_weights(weights, where=self.url, regions=self._targets)
        route, held = self._read()
        check_epoch(held, epoch, where=self.url)
        if held.tag != expected.tag:
            raise self._overtaken(held)
        wanted = route.with_weights(weights, epoch, writer)
        try:
            self._admin.ask("PATCH", self._path, wanted, headers={"If-Match": held.tag})
        except NotFound as error:
            raise self._missing() from error
        except ConditionFailed as error:
            now = self.read()
            check_epoch(now, epoch, where=self.url)
            raise self._overtaken(now) from error
        # Only a read states the tag. If somebody came after us, or what they made of the route
        # cannot be read, our write is done all the same; no later one fits a state without a tag.
        ours = RouteState(dict(weights), epoch, writer, detail=held.detail)
        try:
            now = self.read()
        except MlplatformError as error:
            if error.retryable:
                raise
            return ours
        return now if _same(now, ours) else ours

    def in_force(self, state: RouteState) -> bool:
        # The admin endpoint is the running process's own, and shows what that process has loaded.
        return _same(self.read(), state)

    def _read(self) -> tuple[CaddyRoute, RouteState]:
        try:
            found, tag = tagged(self._admin, self._path)
        except NotFound as error:
            raise self._missing() from error
        route = CaddyRoute(found, self._targets, where=self.url, stranger_hint=self.stranger_hint)
        return route, route.state(tag)

    def _overtaken(self, held: RouteState) -> ConditionFailed:
        by = held.writer or "somebody who is not one of our controllers"
        return ConditionFailed(
            f"the route has changed: {dict(held.weights)} under epoch {held.epoch}, by {by}",
            store=self.url,
            hint="read it again and decide anew",
        )

    def _missing(self) -> NotFound:
        route = json.dumps(caddy_route(self._id, self._targets), separators=(",", ":"))
        return NotFound(
            f"Caddy has no object with @id {self._id!r}",
            store=self.url,
            hint=(
                "put this among a server's routes, before any that would answer first "
                f"(PUT /config/apps/http/servers/SERVER/routes/0): {route}"
            ),
        )


def open_traffic(url: StoreURL, targets: Mapping[str, tuple[str, ...]]) -> CaddyTraffic:
    """`caddy://host:port/<@id>`; the port is 2019 unless given.

    Options: `tls=true` (verified; `ca_file` is a certificate to trust beside the system's, and
    `client_file` a certificate with its key to show), `host` (what the endpoint believes that it is
    called, where a tunnel gives it another name), `timeout_seconds`. Plain HTTP needs loopback, or
    `insecure=true`. A bearer token comes from `MLPLATFORM_CADDY_TOKEN`.
    """
    admin, route_id = open_admin(url)
    return CaddyTraffic(admin, route_id, targets)


def open_admin(url: StoreURL, options: frozenset[str] = frozenset()) -> tuple[JSONService, str]:
    """The admin endpoint of a URL, and the `@id` that it names. `options` are those that the URL
    may have beside those of `open_traffic`."""
    url.reject_unknown(_OPTIONS | options)
    parts = urlsplit(f"//{url.authority}")
    route_id = url.path.strip("/")
    try:
        port = parts.port or 2019
    except ValueError:
        port = 0
    if not port or not parts.hostname or not route_id or "/" in route_id:
        raise UsageError(
            f"actuator {url} names no admin endpoint and route",
            hint='write e.g. caddy://127.0.0.1:2019/api, where the route holds \'"@id": "api"\'',
        )
    tls = url.flag("tls")
    is_local = is_loopback(parts.hostname)
    token = os.environ.get(TOKEN_VARIABLE)
    if not tls and not is_local and (token or not url.flag("insecure")):
        raise UsageError(
            f"actuator {url} is plain HTTP"
            f"{f', and {TOKEN_VARIABLE} would be read on the way' if token else ''}",
            hint="add tls=true; or insecure=true if the network between is trusted"
            if not token
            else "add tls=true",
        )
    headers = {"Host": url.options["host"]} if "host" in url.options else {}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    admin = _Admin(
        f"{'https' if tls else 'http'}://{host}:{port}",
        name=str(url),
        headers=headers,
        timeout_seconds=url.seconds("timeout_seconds", default=_TIMEOUT_SECONDS),
        context=_tls(url) if tls else None,
    )
    return admin, route_id


def tagged(admin: JSONService, path: str) -> tuple[Any, str]:
    """What is at a path, and the tag that a write there is conditional on."""
    answer = admin.ask("GET", path)
    found = answer.json(where=admin.name)
    tag = answer.headers.get("etag")
    if not tag:
        raise Unsupported(
            "it states no Etag, so nothing can be written there safely",
            store=admin.name,
            hint="this takes Caddy 2.6 or newer, and nothing before it that drops headers",
        )
    return found, tag


def _tls(url: StoreURL) -> ssl.SSLContext:
    context = ssl.create_default_context()
    try:
        if ca_file := url.options.get("ca_file"):
            context.load_verify_locations(cafile=ca_file)
        if client_file := url.options.get("client_file"):
            context.load_cert_chain(client_file)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(f"actuator {url}: its certificates cannot be read: {error}") from error
    return context


class _Admin(JSONService):
    """Caddy's admin endpoint."""

    def refusal(self, answer: Answer, what: str) -> StoreError:
        said = _error_of(answer)
        if answer.status == 500 and said is not None:
            # A configuration that cannot be loaded: Caddy keeps the one it has.
            return StoreError(
                f"Caddy refuses the configuration, and keeps its own: {said}",
                store=self.name,
                hint="with each change Caddy makes everything anew; see what is missing there",
            )
        error = super().refusal(answer, what)
        if said is not None and "host not allowed" in said:
            error.hint = "give the name that the endpoint listens by: ?host=localhost:2019"
        return error


def _error_of(answer: Answer) -> str | None:
    """Caddy's own words, if it was Caddy that answered."""
    try:
        said = json.loads(answer.body)["error"]
    except (ValueError, TypeError, KeyError):
        return None
    return said if isinstance(said, str) else None


@dataclass(frozen=True, slots=True)
class _Note:
    """What a writer leaves beside the epoch."""

    writer: str
    weights: Weights

    def __str__(self) -> str:
        shares = (f"{quote(region, safe='')}={share}" for region, share in self.weights.items())
        return "; ".join((f"writer={quote(self.writer, safe='@:/.')}", *shares))

    @classmethod
    def parse(cls, text: str) -> _Note | None:
        """None where it is not ours."""
        fields = [field.strip().partition("=") for field in text.split(";")]
        try:
            (first, _, writer), *shares = fields
            weights = {unquote(region): int(share) for region, _, share in shares}
        except ValueError:
            return None
        is_ours = first == "writer" and sum(weights.values()) == 100 and min(weights.values()) >= 0
        return cls(unquote(writer), weights) if is_ours else None


class CaddyRoute:
    """A route's object, read with the regions in mind. `IntegrityError` where its epoch is none,
    `Unsupported` where it cannot carry weights."""

    def __init__(
        self,
        found: object,
        targets: Mapping[str, tuple[str, ...]],
        *,
        where: str,
        stranger_hint: str = CaddyTraffic.stranger_hint,
    ) -> None:
        self._where = where
        self._stranger_hint = stranger_hint
        self._targets = targets
        self._region_of = {dial: region for region, dials in targets.items() for dial in dials}
        self._object = self._require(found, dict, "the object")
        handlers = self._require(self._object.get("handle"), list, "its `handle`")
        self._handlers = [self._require(each, dict, "a handler") for each in handlers]
        proxies = [each for each in self._handlers if each.get("handler") == "reverse_proxy"]
        if len(proxies) != 1:
            raise self._unfit(f"it has {len(proxies)} reverse_proxy handlers; it takes one")
        self._proxy: dict[str, Any] = proxies[0]
        if self._proxy.get("dynamic_upstreams"):
            raise self._unfit("its upstreams are dynamic, and have no weights")

    def state(self, tag: str) -> RouteState:
        """What it says."""
        epoch, note = self._mark()
        raw = self._raw_weights()
        weights, writer = self._shares(raw), ""
        if note is not None and raw == self._raw_of(note.weights):
            weights = {region: note.weights.get(region, 0) for region in self._targets}
            writer = note.writer
        detail = {region: ", ".join(dials) for region, dials in self._targets.items()}
        return RouteState(weights, epoch, writer, tag=tag, detail=detail)

    def with_weights(self, weights: Weights, epoch: int, writer: str) -> dict[str, Any]:
        """A copy that says so, and is otherwise the same. Upstreams of a region that are missing
        are added."""
        changed = self._copy()
        upstreams = changed._proxy.setdefault("upstreams", [])
        present = {each.get("dial") for each in upstreams}
        upstreams += [{"dial": dial} for dial in self._region_of if dial not in present]
        changed._weigh(changed._raw_of(weights))
        changed._set_mark(epoch, _Note(writer, dict(weights)))
        return changed._object

    @property
    def epoch(self) -> int:
        """Under which it was written; to be had even where its upstreams belong to no region."""
        return self._mark()[0]

    @property
    def proxy(self) -> Mapping[str, Any]:
        """Its `reverse_proxy`."""
        return self._proxy

    def upstream_weights(self) -> dict[str, int]:
        """Caddy's own weights, by dial address, whoever that belongs to."""
        given: dict[str, int] = {}
        raw = self._raw_weights()
        for upstream, weight in zip(self._proxy.get("upstreams", []), raw, strict=True):
            dial = str(upstream.get("dial"))
            given[dial] = given.get(dial, 0) + weight
        return given

    def with_upstreams(
        self,
        raw: Mapping[str, int],
        epoch: int,
        writer: str,
        *,
        unsaid: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """A copy with exactly those upstreams, by dial address with Caddy's own weights, and that
        epoch. Those that stay keep their settings. `unsaid` are settings of the `reverse_proxy`
        where it says nothing itself. Weights that were ours have `writer` now; others stay nobody's
        """
        _, note = self._mark()
        is_ours = note is not None and self._raw_weights() == self._raw_of(note.weights)
        changed = self._copy()
        proxy = changed._proxy
        held = {each.get("dial"): each for each in proxy.get("upstreams", [])}
        proxy["upstreams"] = [held.get(dial, {"dial": dial}) for dial in raw]
        shared = gcd(*raw.values()) or 1
        changed._weigh([weight // shared for weight in raw.values()])
        for name, setting in (unsaid or {}).items():
            if isinstance(setting, dict) and isinstance(proxy.get(name), dict):
                proxy[name] = {**setting, **proxy[name]}
            else:
                proxy.setdefault(name, deepcopy(setting))
        ours = _Note(writer, note.weights) if note is not None and is_ours else None
        changed._set_mark(epoch, ours)
        return changed._object

    def _copy(self) -> CaddyRoute:
        return CaddyRoute(
            deepcopy(self._object),
            self._targets,
            where=self._where,
            stranger_hint=self._stranger_hint,
        )

    def _weigh(self, raw: list[int]) -> None:
        balancing = self._proxy.setdefault("load_balancing", {})
        balancing["selection_policy"] = {"policy": _WEIGHTED, "weights": raw}

    def _set_mark(self, epoch: int, note: _Note | None) -> None:
        """The epoch, and the note unless it is to stay as it is."""
        handler = next(iter(self._marked()), None)
        if handler is None:
            handler = {"handler": "headers"}
            self._handlers.insert(0, handler)
            self._object["handle"] = self._handlers
        response = handler.setdefault("response", {})
        # Deferred, so that an upstream which sends that header itself is not believed.
        response["deferred"] = True
        response.setdefault("set", {})[EPOCH_HEADER] = [str(epoch)]
        if note is not None:
            request = handler.setdefault("request", {})
            request.setdefault("set", {})[NOTE_HEADER] = [str(note)]

    def _marked(self) -> Iterator[dict[str, Any]]:
        """The handlers that set the epoch."""
        for handler in self._handlers:
            if handler.get("handler") == "headers" and EPOCH_HEADER in _sets(handler, "response"):
                yield handler

    def _mark(self) -> tuple[int, _Note | None]:
        marked = list(self._marked())
        if not marked:
            return 0, None
        epochs = [_only_text(_sets(handler, "response")[EPOCH_HEADER]) for handler in marked]
        epoch = epochs[0]
        if len(epochs) > 1 or epoch is None or not (epoch.isascii() and epoch.isdecimal()):
            raise IntegrityError(
                f"{self._where}: {EPOCH_HEADER} is set to {epochs}: that is no epoch",
                hint="somebody changed it by hand; set it to the newest that `mlplatform history` "
                "shows for this route",
            )
        note = _only_text(_sets(marked[0], "request").get(NOTE_HEADER))
        return int(epoch), None if note is None else _Note.parse(note)

    def _upstream_regions(self) -> list[str | None]:
        """The region of each upstream, in Caddy's order."""
        upstreams = self._require(self._proxy.get("upstreams", []), list, "its `upstreams`")
        dials = [self._require(each, dict, "an upstream").get("dial") for each in upstreams]
        return [self._region_of.get(str(dial)) for dial in dials]

    def _raw_weights(self) -> list[int]:
        """Caddy's own weights, one for each upstream."""
        count = len(self._upstream_regions())
        balancing = self._require(self._proxy.get("load_balancing", {}), dict, "load_balancing")
        chosen = self._require(balancing.get("selection_policy", {}), dict, "selection_policy")
        policy = chosen.get("policy")
        if policy in _EVEN:
            return [1] * count
        if policy != _WEIGHTED:
            raise self._unfit(
                f"its upstreams are selected by {policy}, which would be lost",
                hint=f"weights need {_WEIGHTED}; see whether clients can do without {policy}",
            )
        weights = self._require(chosen.get("weights", []), list, "weights")
        if len(weights) < count or not all(_is_weight(weight) for weight in weights):
            raise self._unfit(f"its weights are {weights} for {count} upstreams")
        return weights[:count]

    def _raw_of(self, weights: Weights) -> list[int]:
        """Caddy's weights for `weights`. In lowest terms: it sends as many requests in a row to an
        upstream as its weight says, so that 75 and 25 would come in bursts, and 3 and 1 do not."""
        regions = self._upstream_regions()
        upstreams = Counter(regions)
        scale = lcm(*(upstreams[region] for region in weights if upstreams[region]))
        raw = [
            weights.get(region, 0) * scale // upstreams[region] if region is not None else 0
            for region in regions
        ]
        shared = gcd(*raw) or 1
        return [weight // shared for weight in raw]

    def _shares(self, raw: list[int]) -> dict[str, int]:
        """Per cent by region."""
        given: Counter[str] = Counter()
        for region, dialled, weight in zip(
            self._upstream_regions(), self._proxy.get("upstreams", []), raw, strict=True
        ):
            if region is not None:
                given[region] += weight
            elif weight:
                raise self._unfit(
                    f"its upstream {dialled.get('dial')} belongs to no region of the route",
                    hint=self._stranger_hint,
                )
        if not any(given.values()):
            raise self._unfit("no region of the route has any weight")
        return per_cent({region: given[region] for region in self._targets})

    def _require(self, value: object, kind: type[T], what: str) -> T:
        if not isinstance(value, kind):
            raise self._unfit(f"{what} is {value!r:.80}")
        return value

    def _unfit(self, why: str, *, hint: str | None = None) -> Unsupported:
        example = json.dumps(caddy_route("ID", {"REGION": ("HOST:PORT",)}), separators=(",", ":"))
        return Unsupported(
            f"the route cannot carry weights: {why}",
            store=self._where,
            hint=hint or f"a route that can looks like this: {example}",
        )


def _checked(
    targets: Mapping[str, tuple[str, ...]], *, where: str
) -> Mapping[str, tuple[str, ...]]:
    dials = Counter(dial for region in targets.values() for dial in region)
    if shared := [dial for dial, count in dials.items() if count > 1]:
        raise UsageError(
            f"{where}: {', '.join(shared)} is a target twice",
            hint="each region has upstreams of its own; see `targets` and `endpoint`",
        )
    if empty := [region for region, dials in targets.items() if not dials]:
        raise UsageError(f"{where}: {', '.join(empty)} has no target")
    # Caddy takes anything, and fails with each request.
    if odd := [dial for dial in dials if not _DIAL.fullmatch(dial)]:
        raise UsageError(
            f"{where}: {', '.join(odd)} is no upstream",
            hint="an upstream is host:port, or unix//path/of/a/socket",
        )
    return targets


def _sets(handler: Mapping[str, Any], way: str) -> Mapping[str, Any]:
    """The headers that a handler sets on the way in (`request`) or out (`response`)."""
    operations = handler.get(way)
    found = operations.get("set") if isinstance(operations, dict) else None
    return found if isinstance(found, dict) else {}


def _only_text(value: object) -> str | None:
    """The one value of a header."""
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str):
        return value[0]
    return None


def _is_weight(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _same(one: RouteState, other: RouteState) -> bool:
    return (one.weights, one.epoch, one.writer) == (other.weights, other.epoch, other.writer)
