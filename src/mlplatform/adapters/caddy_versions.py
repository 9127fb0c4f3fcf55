"""One region's entry for one model, in Caddy: `caddy://127.0.0.1:2019/<@id>`, as a `Split`.

The weights are those of `CaddyTraffic`, with versions in the place of regions. What stands for a
version among the route's upstreams is its *door*: another server of the same Caddy, on a socket of
its own, whose only route is a `reverse_proxy` to the version's servers. Caddy counts requests by
server, so each door counts what became of its version's, where they enter: 502, 503 and 504 for
servers that cannot be reached too.

**Doors and the fence.** `admit` reads the whole HTTP app, checks the epoch in the route, changes
the door, and writes all of it back on the condition that nothing there has changed: door and epoch
are one compare-and-set. Whoever else changed something, an entry of another region in the same
Caddy too, makes it read again; it goes on while the epoch is still its own. It changes the route as
well as the door when it adds, removes or takes over an upstream, or raises the epoch: read again
before you write.

**Taking over.** A route whose upstreams are the servers themselves is taken over by admitting the
version which serves, with these servers: in one change the door takes their place among the
upstreams, with their weights. The same servers are asked as before, by way of the door.

**What is counted** is what is asked of a model, which is posted. GET, HEAD and OPTIONS are somebody
who looks: probes ask each region several times a second for some, and where clients are few a bad
version would hide behind their good answers.

**What counting loses.** Counters begin again with each change of Caddy's configuration, whoever
makes it. This adapter reads them right before and after a change of its own and carries them over,
so that `Counts.began` stays; what entered in the milliseconds between and what was in flight is
lost: it ends unseen in the old configuration, long requests more than short ones. A change by
others shows as counters that began again (`Counts.began`), and what entered since the last look is
lost. So keep one adapter while you count, and take its first look as a beginning. Never counted is
an answer that breaks off in the middle: Caddy does not say whether client or server broke it off.
A client that hangs up before the answer began is a 499, and no request; but it was kept waiting:
if it waited for longer than `slow_seconds`, that is a slow one. Else a version that hangs until
clients give up would show nothing at all.

**What a change costs clients.** Caddy hangs up on some connections with each change (see
`caddy.py`). A door that begins anew would add to that: under 350 requests a second, every fifth
change or so made one a 502. The entry therefore asks again, five times at most and at once, where a
door hung up without an answer: requests without a body, or with one of less than 100 kB, which it
keeps for that. None in 150 changes then, with four tries, on a machine with nothing to spare.
What a version's server answers, an error too, is never asked again.

Tried with Caddy 2.11; doors need `trusted_proxies_unix`, which is as new. Abstract sockets are
Linux's, and one name on the whole machine: two Caddys there need different `@id`s, or
`?sockets=/run/mlplatform`, a folder that Caddy may write to, each one of its own.
"""

from __future__ import annotations

import json
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from math import inf
from typing import Any, TypeVar
from urllib.parse import quote

from prometheus_client.parser import text_string_to_metric_families

from mlplatform.adapters.caddy import (
    ADDRESS,
    CaddyRoute,
    CaddyTraffic,
    caddy_route,
    open_admin,
    tagged,
)
from mlplatform.adapters.json_http import JSONService
from mlplatform.core.errors import (
    ConditionFailed,
    MlplatformError,
    NotFound,
    Unavailable,
    Unsupported,
    UsageError,
)
from mlplatform.core.seen import Unknown
from mlplatform.core.store_url import StoreURL
from mlplatform.ports.split import Counts
from mlplatform.ports.traffic import (
    RouteState,
    TrafficFeatures,
    Weights,
    check_epoch,
    check_weights,
)

T = TypeVar("T")

FEATURES = TrafficFeatures(
    zero="no request is sent to it, not even when every other version is down",
    exercised="Caddy 2.11",
)

_HTTP = "/config/apps/http"
_TRIES = 20
"""Each that is lost was won by another's change; the entries in one Caddy are few."""
_SOCKET_BYTES_MAX = 107
"""Of a socket's name: sun_path, unix(7)."""
_BUFFERED_BYTES = 100_000
"""Of a request's body, kept by the entry so that it can be sent again; less than six digits of
Content-Length."""

ENTRY: Mapping[str, Any] = {
    "request_buffers": _BUFFERED_BYTES,
    # A connection that was kept to a door which is gone is one more that has to fail first.
    "transport": {"protocol": "http", "keep_alive": {"enabled": False}},
    "load_balancing": {
        # No `try_interval`: with one, Caddy gives up as soon as the configuration has changed.
        "retries": 5,
        "retry_match": [
            {"method": ["GET", "HEAD"]},
            {"header_regexp": {"Content-Length": {"pattern": "^[0-9]{1,5}$"}}},
        ],
    },
}
"""What an entry's `reverse_proxy` needs where its operator says nothing: to ask again where a door
was shut by a change of the configuration. A body that was not kept whole is never sent again: its
half would be an error of the version that gets it."""


@dataclass(frozen=True, slots=True)
class Doors:
    """How the doors of one route are called."""

    route_id: str
    sockets: str | None = None
    """A folder for path sockets; None: abstract ones."""

    def server(self, version: str) -> str:
        """The name of its server in `apps.http.servers`, and so of the metrics' label."""
        return f"{self._prefix}{version}"

    def version(self, server: str) -> str | None:
        """The version behind a server's name; None where it is none of our doors."""
        return server[len(self._prefix) :] if server.startswith(self._prefix) else None

    def dial(self, version: str) -> str:
        """Its address: what the door listens on, and the entry dials."""
        name = f"{quote(self.route_id, safe='')}/{version}"
        if self.sockets is None:
            socket = f"@{name}"
        else:
            socket = f"{self.sockets.rstrip('/')}/{name.replace('/', ':')}"
        if len(socket) > _SOCKET_BYTES_MAX:
            raise UsageError(
                f"{self.route_id}: the socket of version {version} would be called {socket}: more "
                f"than {_SOCKET_BYTES_MAX} bytes",
                hint="give the route a shorter @id",
            )
        return f"unix/{socket}"

    def of(self, http: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """The doors that there are, by version."""
        servers = http.get("servers")
        found = {self.version(name): server for name, server in (servers or {}).items()}
        return {version: server for version, server in found.items() if version is not None}

    @property
    def _prefix(self) -> str:
        return f"{quote(self.route_id, safe='')}:"


def version_route(
    route_id: str,
    versions: Sequence[str],
    weights: Weights | None = None,
    *,
    match: list[dict[str, Any]] | None = None,
    reverse_proxy: Mapping[str, Any] | None = None,
    sockets: str | None = None,
) -> dict[str, Any]:
    """A route between versions, for an operator to put among a server's routes. All goes to the
    first version unless `weights` say otherwise; it is answered once a version is admitted, or its
    door is put there (`version_doors`). The rest as in `caddy_route`."""
    doors = Doors(route_id, sockets)
    all_to_first = {version: 100 * (version == versions[0]) for version in versions}
    settings = {**ENTRY, **(reverse_proxy or {})}
    targets = {version: (doors.dial(version),) for version in versions}
    return caddy_route(
        route_id, targets, weights or all_to_first, match=match, reverse_proxy=deepcopy(settings)
    )


def version_doors(
    route_id: str, servers: Mapping[str, Sequence[str]], *, sockets: str | None = None
) -> dict[str, dict[str, Any]]:
    """The doors of versions, by server name, for `apps.http.servers` of a file; `servers` are the
    `host:port` of each version. `apps.http.metrics` has to be there too: `{}`."""
    doors = Doors(route_id, sockets)
    return {
        doors.server(version): _door(doors.dial(version), addresses)
        for version, addresses in servers.items()
    }


def _door(dial: str, addresses: Sequence[str]) -> dict[str, Any]:
    proxy = {
        "handler": "reverse_proxy",
        "upstreams": [{"dial": address} for address in addresses],
        "load_balancing": {
            # Requests differ in length, and who is slow gets fewer. No retries: what a version
            # does counts for it. No health checks either: a server that fails is an error of its
            # version until it is admitted no more, and whoever admits has asked it.
            "selection_policy": {"policy": "least_conn"},
        },
        "transport": {
            "protocol": "http",
            # Time for one SYN to be lost and sent again; then it is a 502 of the version.
            "dial_timeout": "2s",
            # Less than servers keep an idle connection (ours: 75 s), else they hang up on a
            # request now and then, which would be a 502 of the version.
            "keep_alive": {"idle_timeout": "60s"},
        },
        # Streams pass through by themselves. `flush_interval: -1` would do that too, but goes on
        # asking for a client who has gone: a GPU would work for nobody, and it would count.
    }
    return {
        "listen": [dial],
        "protocols": ["h1"],
        "automatic_https": {"disable": True},
        # The entry has said who the client is; else the servers would hear of nobody.
        "trusted_proxies_unix": True,
        "routes": [{"handle": [proxy]}],
    }


class CaddyVersions(CaddyTraffic):
    """The versions of one model behind one route of one Caddy."""

    stranger_hint = "admit the version that it serves, with all of its servers; or give it weight 0"

    def __init__(
        self, admin: JSONService, doors: Doors, model: str, versions: Sequence[str]
    ) -> None:
        if not versions or len(set(versions)) < len(versions):
            raise UsageError(f"{admin.name}: these are no versions of a split: {list(versions)}")
        targets = {version: (doors.dial(version),) for version in versions}
        super().__init__(admin, doors.route_id, targets)
        self._doors = doors
        self._model = model
        self._lock = threading.RLock()
        self._tally: Tally | None = None
        self._changed = False

    @property
    def features(self) -> TrafficFeatures:
        return FEATURES

    def write(
        self, weights: Weights, *, epoch: int, writer: str, expected: RouteState
    ) -> RouteState:
        """As the port says. `UsageError` for a version that would get more than it has, and has no
        door: it was not admitted."""
        check_weights(weights, where=self.url, regions=self._targets)
        gaining = [each for each, share in weights.items() if share > expected.weights.get(each, 0)]
        with self._lock:
            if gaining and (shut := [each for each in gaining if each not in self._there()]):
                check_epoch(self.read(), epoch, where=self.url)
                raise UsageError(
                    f"{self.url}: {', '.join(shut)} was not admitted: nothing would answer",
                    hint="admit its servers before it gets weight",
                )
            return self._carrying(
                partial(super().write, weights, epoch=epoch, writer=writer, expected=expected)
            )

    def admit(self, version: str, addresses: Sequence[str], *, epoch: int, writer: str) -> None:
        """As the port says; `Unsupported` where the route cannot lead to doors."""
        if addresses and version not in self._targets:
            raise UsageError(
                f"{self.url}: {version} is none of the versions there: {', '.join(self._targets)}"
            )
        if odd := [address for address in addresses if not ADDRESS.fullmatch(address)]:
            raise UsageError(
                f"{self.url}: {', '.join(odd)} is no server of {version}",
                hint="a server is host:port",
            )
        with self._lock:
            for _ in range(_TRIES):
                http, tag = self._http()
                changed = admitted(
                    http,
                    self._doors,
                    tuple(self._targets),
                    version,
                    list(dict.fromkeys(addresses)),
                    epoch=epoch,
                    writer=writer,
                    where=self.url,
                )
                if changed is None:
                    raise self._missing()
                if changed == http:
                    return
                try:
                    self._carrying(partial(self._replace, changed, tag))
                except ConditionFailed:
                    continue
                return
        raise ConditionFailed(
            f"Caddy's configuration changed each of {_TRIES} times that {version} was to be "
            "admitted",
            store=self.url,
            hint="see who else changes it, and try again",
        )

    def counts(self, slow_seconds: float) -> Mapping[str, Counts | Unknown]:
        """As the port says, of the versions of this split and of those whose doors are there."""
        with self._lock:
            http, _ = self._http()
            there = self._doors.of(http)
            names = dict.fromkeys((*self._targets, *there))
            if http.get("metrics") is None:
                off = Unknown("Caddy counts nothing: apps.http has no `metrics`; put {} there")
                return dict.fromkeys(names, off)
            tally = self._look()
        absent = Unknown(f"no server of {self._model} was admitted there")
        return {
            version: tally.of(self._doors.server(version), slow_seconds)
            if version in there
            else absent
            for version in names
        }

    def _look(self) -> Tally:
        """What is counted now."""
        answer = self._admin.ask("GET", "/metrics", headers={"Accept": "text/plain"})
        seen = read_metrics(answer.body.decode(errors="replace"), self._doors, where=self.url)
        self._tally = added(self._tally, seen, ours=self._changed)
        self._changed = False
        return self._tally

    def _carrying(self, change: Callable[[], T]) -> T:
        """Change the configuration, and keep what was counted before."""
        self._try_to_look()
        try:
            done = change()
        except MlplatformError as error:
            self._changed = error.retryable  # it may have been done
            raise
        self._changed = True
        self._try_to_look()
        return done

    def _try_to_look(self) -> None:
        """Weights do not wait for counts."""
        try:
            self._look()
        except MlplatformError:
            return

    def _http(self) -> tuple[dict[str, Any], str]:
        """The HTTP app, and its tag."""
        found, tag = tagged(self._admin, _HTTP)
        if not isinstance(found, dict):
            raise self._missing()
        return found, tag

    def _there(self) -> dict[str, dict[str, Any]]:
        return self._doors.of(self._http()[0])

    def _replace(self, http: dict[str, Any], tag: str) -> None:
        self._admin.ask("PATCH", _HTTP, http, headers={"If-Match": tag})

    def _missing(self) -> NotFound:
        route = version_route(self._id, list(self._targets), sockets=self._doors.sockets)
        said = json.dumps(route, separators=(",", ":"))
        return NotFound(
            f"Caddy has no object with @id {self._id!r}",
            store=self.url,
            hint=(
                f"where {self._model} is served by a route already, give that its @id, and it is "
                "taken over; else put this among a server's routes, before any that would answer "
                f"first (PUT /config/apps/http/servers/SERVER/routes/0): {said}"
            ),
        )


def open_split(url: StoreURL, model: str, versions: Sequence[str]) -> CaddyVersions:
    """`caddy://host:port/<@id>`: the route of one model in one region.

    Options are those of `caddy.open_traffic`, and `sockets`, a folder for the doors' sockets on
    Caddy's machine; without it they are abstract ones.
    """
    admin, route_id = open_admin(url, frozenset({"sockets"}))
    sockets = url.options.get("sockets")
    if sockets is not None and not sockets.startswith("/"):
        raise UsageError(
            f"{url.noun} {url}: sockets={sockets!r} is no folder",
            hint="give its whole path, e.g. sockets=/run/mlplatform",
        )
    return CaddyVersions(admin, Doors(route_id, sockets), model, versions)


def admitted(
    http: Mapping[str, Any],
    doors: Doors,
    versions: Sequence[str],
    version: str,
    addresses: Sequence[str],
    *,
    epoch: int,
    writer: str,
    where: str,
) -> dict[str, Any] | None:
    """The HTTP app with exactly those servers behind the door of a version; None where it has no
    such route. The route's upstreams among the addresses become the door. Errors as of `admit`."""
    changed: dict[str, Any] = deepcopy(dict(http))
    place = next(_places(changed, doors.route_id), None)
    if place is None:
        return None
    holder, key = place
    there = doors.of(changed)
    named = dict.fromkeys((*versions, *there, version))
    targets = {each: (doors.dial(each),) for each in named}
    route = CaddyRoute(holder[key], targets, where=where, stranger_hint=CaddyVersions.stranger_hint)
    if route.epoch > epoch:
        check_epoch(_as_far_as_known(route), epoch, where=where)
    raw = route.upstream_weights()
    door, server = doors.dial(version), doors.server(version)
    servers = changed.setdefault("servers", {})
    if addresses:
        _check_entry(route, where)
        raw = _led_to(raw, door, {*addresses, *there.get(version, {}).get("listen", ())})
        servers[server] = _door(door, addresses)
        changed.setdefault("metrics", {})
        unsaid = None if _retries(route) else ENTRY
    else:
        if raw.pop(door, 0):
            raise UsageError(
                f"{where}: {version} has weight, and no server is left to it",
                hint="give its weight to another version first",
            )
        servers.pop(server, None)
        unsaid = None
    with_door = route.with_upstreams(raw, epoch, writer, unsaid=unsaid)
    holder[key] = with_door
    is_same = (
        route.epoch == epoch
        and raw == route.upstream_weights()
        and changed["servers"].get(server) == there.get(version)
        and changed.get("metrics") == http.get("metrics")
    )
    return dict(http) if is_same else changed


def _retries(route: CaddyRoute) -> bool:
    """Whether its operator has said when to ask again."""
    balancing = route.proxy.get("load_balancing") or {}
    said = {"retries", "try_duration", "retry_match"} & balancing.keys()
    return bool(said) or "request_buffers" in route.proxy


def _as_far_as_known(route: CaddyRoute) -> RouteState:
    """Weights that are not by version yet have an epoch all the same."""
    try:
        return route.state("")
    except Unsupported:
        return RouteState({}, route.epoch)


def _led_to(raw: Mapping[str, int], door: str, plain: set[str]) -> dict[str, int]:
    """Upstreams and their weights, with the door in the place of those that are behind it."""
    led: dict[str, int] = {}
    for dial, weight in raw.items():
        to = door if dial.removeprefix("tcp/") in plain or dial in plain else dial
        led[to] = led.get(to, 0) + weight
    led.setdefault(door, 0)
    # A route without upstreams answers nobody; Caddy takes no weights that are all zero.
    return led if any(led.values()) else {**led, door: 1}


def _check_entry(route: CaddyRoute, where: str) -> None:
    transport = route.proxy.get("transport")
    reasons = {
        "health_checks": "checks would be counted as requests of the versions",
        "transport.tls": "doors speak plain HTTP",
    }
    found = [
        setting
        for setting, held in (
            ("health_checks", route.proxy.get("health_checks")),
            ("transport.tls", transport.get("tls") if isinstance(transport, dict) else None),
        )
        if held is not None
    ]
    if found:
        raise Unsupported(
            f"the route cannot lead to doors: it has {' and '.join(found)}; "
            f"{'; '.join(reasons[each] for each in found)}",
            store=where,
            hint=f"take {' and '.join(found)} out of its reverse_proxy",
        )


def _places(value: Any, route_id: str) -> Iterator[tuple[Any, Any]]:
    """Where the object of that `@id` hangs: its holder and its key there."""
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for key, each in items:
        if isinstance(each, dict) and each.get("@id") == route_id:
            yield value, key
        yield from _places(each, route_id)


Samples = Mapping[tuple[str, str, float], float]
"""By server, code and end of bucket in seconds: requests that took no longer. The last bucket's end
is infinite."""


@dataclass(frozen=True, slots=True)
class Look:
    """What Caddy has counted at doors, since it took its configuration."""

    began: float
    samples: Samples


@dataclass(frozen=True, slots=True)
class Tally:
    """What was counted since `began`, over configurations that we ended ourselves."""

    began: float
    newest: Look
    earlier: Samples = field(default_factory=dict)

    def of(self, server: str, slow_seconds: float) -> Counts:
        """One door's counts."""
        samples: defaultdict[tuple[str, float], float] = defaultdict(float)
        for held in (self.earlier, self.newest.samples):
            for (name, code, end), count in held.items():
                if name == server:
                    samples[code, end] += count
        requests = {code: count for (code, end), count in samples.items() if end == inf}
        given_up = requests.pop(_GAVE_UP, 0.0)
        total = sum(requests.values())
        errors = sum(count for code, count in requests.items() if _is_error(code))
        ends = sorted(end for end in self._ends() if slow_seconds <= end < inf)
        if not ends:
            return Counts(total, errors, began=self.began)
        end = ends[0]
        quick = {code: samples[code, end] for code in (*requests, _GAVE_UP)}
        waited = given_up - quick.pop(_GAVE_UP)
        return Counts(
            requests=total,
            errors=errors,
            timed=total + waited,
            slow=total - sum(quick.values()) + waited,
            began=self.began,
            slow_seconds=end,
        )

    def _ends(self) -> set[float]:
        """Of all histograms, which share their buckets."""
        found = {end for samples in (self.earlier, self.newest.samples) for _, _, end in samples}
        return found or set(_ENDS)


_GAVE_UP = "499"
"""What Caddy counts when a client hangs up before the answer begins."""
_ENDS = frozenset({0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0})
"""Prometheus' default buckets, which Caddy 2.11 has for every histogram: before any request there
is none to read."""


def _is_error(code: str) -> bool:
    return code == "429" or code.startswith("5")


def added(held: Tally | None, seen: Look, *, ours: bool) -> Tally:
    """The tally after another look; `ours`: we changed the configuration since the last one."""
    if held is None:
        return Tally(seen.began, seen)
    then = held.newest
    fell = any(seen.samples.get(key, 0.0) < count for key, count in then.samples.items())
    if seen.began == then.began and not fell:
        return Tally(held.began, seen, held.earlier)
    if not ours:
        return Tally(seen.began, seen)
    keys = held.earlier.keys() | then.samples.keys()
    both = {key: held.earlier.get(key, 0.0) + then.samples.get(key, 0.0) for key in keys}
    return Tally(held.began, seen, both)


def read_metrics(text: str, doors: Doors, *, where: str) -> Look:
    """Caddy's metrics, as they bear on these doors. `Unavailable` where they are none."""
    began = 0.0
    samples: defaultdict[tuple[str, str, float], float] = defaultdict(float)
    try:
        for family in text_string_to_metric_families(text):
            if family.name in ("process_start_time_seconds", _CONFIGURED):
                began = max(began, family.samples[0].value)
            if family.name != "caddy_http_request_duration_seconds":
                continue
            for sample in family.samples:
                said = sample.labels
                server = said.get("server", "")
                if said.get("method") in _LOOKS or not sample.name.endswith("_bucket"):
                    continue
                if doors.version(server) is not None:
                    samples[server, said.get("code", ""), float(said["le"])] += sample.value
    except (ValueError, KeyError, IndexError) as error:
        raise Unavailable(f"/metrics holds no metrics: {error}", store=where) from error
    return Look(began, dict(samples))


_LOOKS = frozenset({"GET", "HEAD", "OPTIONS"})
_CONFIGURED = "caddy_config_last_reload_success_timestamp_seconds"
