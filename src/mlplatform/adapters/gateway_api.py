"""The world gateway's HTTPRoute: `httproute://context/namespace/name?rule=0`.

`context` is one of the kubeconfig's; the backends of that rule are the regions, and the route's
`targets` say which is whose: the `name` of a backendRef, or `namespace/name`, either with `:port`
where one name is there twice. Failover owns the weights of the rule, and nothing else in the
object: time-outs, matches and filters stay as whoever owns them left them.

**What is written** is a JSON Patch of the weights, and of annotations in the same object: epoch,
writer, the weights that they wrote (so that a change by hand is told from ours), and a nonce. Never
a server-side apply: `spec.rules` is an atomic list, so that an apply of weights owns all of it, and
deletes what others put there.

**What it is conditional on** are `test` operations in the same patch: the object's uid, its
`generation`, the nonce, the epoch, and each backend's name. Not `resourceVersion`, although that
would cover all of these: gateway controllers write the route's status after each change, so that
it would refuse whatever is written next. The generation counts changes of the spec alone, and never
repeats. A failed test is answered by 422, as any other refusal of the object is, so the route is
read again to tell them apart.

**In force** is a route whose every parent has accepted its present generation, by the conditions
Accepted and ResolvedRefs. It is the most that the API states; that requests have moved is for the
one who sends them to see. Where no gateway writes a status, nothing is ever in force.

A deployment tool that puts the whole object back also puts the weights back: have it leave the
weights and `mlplatform.dev/` annotations alone.
"""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn
from urllib.parse import unquote, urlsplit

from kubernetes.client import ApiClient, ApiException, Configuration, CustomObjectsApi
from urllib3.exceptions import HTTPError

from mlplatform.adapters.kubernetes_api import open_context
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
    UsageError,
)
from mlplatform.core.store_url import StoreURL
from mlplatform.ports.traffic import (
    RouteState,
    TrafficFeatures,
    Weights,
    check_epoch,
    check_weights,
    per_cent,
)

GROUP, VERSION, PLURAL = "gateway.networking.k8s.io", "v1", "httproutes"
_RESOURCE = f"{PLURAL}.{GROUP}"
_OPTIONS = frozenset({"rule", "kubeconfig", "stall_seconds", "insecure"})
_STALL_SECONDS = 10.0
_CONNECT_SECONDS = 3.0
_EPOCH, _WRITER, _WEIGHTS, NONCE = (
    f"mlplatform.dev/{name}" for name in ("epoch", "writer", "weights", "nonce")
)
"""Annotations of a route. The last is new with each of our writes: who has it in `managedFields` is
us, under whatever name, and its time is that of our last write."""
_NO_REGION = "(no region)"

FEATURES = TrafficFeatures(
    zero="no request is sent there; with all at zero the gateway would answer 500 to everything",
    exercised="a real API server; no gateway but one of the tests",
)


def open_traffic(url: StoreURL, targets: Mapping[str, tuple[str, ...]]) -> GatewayApiTraffic:
    """The route behind `httproute://context/namespace/name`. Nothing is asked of it yet, and no
    credentials are looked for. In the name of a context `/` is written `%2F`, and `@` `%40`.

    Options: `rule`, which of the route's rules, from 0; `kubeconfig`, a file, else `KUBECONFIG`,
    else `~/.kube/config`; `stall_seconds` without an answer; `insecure=true`, for plain HTTP to
    another machine.
    """
    url.reject_unknown(_OPTIONS)
    several = [region for region, names in targets.items() if len(names) != 1]
    if several:
        raise UsageError(
            f"{url.noun} {url}: {', '.join(several)}: one backend a region",
            hint="a Service may have as many endpoints as you like",
        )
    return GatewayApiTraffic(
        url, place_of(url), targets={region: one for region, (one,) in targets.items()}
    )


@dataclass(frozen=True, slots=True)
class Place:
    """Where the weights lie."""

    context: str
    namespace: str
    name: str
    rule: int


def place_of(url: StoreURL) -> Place:
    """What `httproute://context/namespace/name?rule=0` names. `UsageError` where it names none."""
    # Split before it is decoded: a context may hold a slash.
    place = urlsplit(url.text)
    parts = [unquote(part) for part in (place.netloc, *place.path.strip("/").split("/"))]
    if len(parts) != 3 or not all(parts):
        raise UsageError(
            f"{url.noun} {url} does not name an HTTPRoute",
            hint="write httproute://context/namespace/name",
        )
    rule = url.options.get("rule", "0")
    if not rule.isdecimal():
        raise UsageError(f"{url.noun} {url}: rule={rule!r} is not a number", hint="from 0")
    return Place(parts[0], parts[1], parts[2], int(rule))


@dataclass(frozen=True, slots=True)
class Held:
    """The object as it is, and where in it the regions are."""

    state: RouteState
    backends: Sequence[tuple[str, int]]
    """Name and weight of each backendRef of the rule, in order."""
    at: Mapping[str, int]
    """Which of them is whose, by region."""
    uid: str
    generation: int
    annotations: Mapping[str, str] | None
    accepted: bool


class GatewayApiTraffic:
    """One rule of one HTTPRoute."""

    role = "infra/rbac/route-writer.yaml"
    """Which Role grants what it needs."""

    def __init__(self, url: StoreURL, place: Place, *, targets: Mapping[str, str]) -> None:
        self._asked = url
        self._url = str(url)
        self._context = place.context
        self._namespace = place.namespace
        self._name = place.name
        self._rule = place.rule
        self._targets = dict(targets)
        stall_seconds = url.seconds("stall_seconds", default=_STALL_SECONDS)
        self._timeout_seconds = (min(_CONNECT_SECONDS, stall_seconds), stall_seconds)
        self._api: CustomObjectsApi | None = None
        self._opening = threading.Lock()
        self._last: Held | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._url}>"

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
        if weights != expected.weights:  # what an operator left at zero can still be claimed
            check_weights(weights, where=self._url, regions=self._targets, features=FEATURES)
        held = self._last
        if held is None or held.state.tag != expected.tag:
            held = self._read()
        self._require(held, epoch, expected)
        try:
            written = self._call("patch", self._patch(held, weights, epoch, writer))
        except Refused as refused:
            self._require(now := self._read(), epoch, expected)
            if (now.annotations is None) != (held.annotations is None):
                raise ConditionFailed("it was annotated meanwhile", store=self._url) from None
            raise refused.unexplained from None
        return self._hold(written).state

    def in_force(self, state: RouteState) -> bool:
        held = self._read()
        return held.state.tag == state.tag and held.accepted

    # ------------------------------------------------------------------------- what it holds

    def _read(self) -> Held:
        return self._hold(self._call("get"))

    def _hold(self, route: Mapping[str, Any]) -> Held:
        self._last = held = self._held(route)
        return held

    def _require(self, held: Held, epoch: int, expected: RouteState) -> None:
        check_epoch(held.state, epoch, where=self._url)
        if held.state.tag != expected.tag:
            raise ConditionFailed(
                f"another writer came first: {_said(held.state)} is there, "
                f"{_said(expected)} was expected",
                store=self._url,
                hint="read again; `kubectl get httproute -o yaml` shows who changed it",
            )

    def _held(self, route: Mapping[str, Any]) -> Held:
        about = route["metadata"]
        rules = route["spec"].get("rules") or []
        if self._rule >= len(rules):
            raise NotFound(
                f"there is no rule {self._rule}: the route has {len(rules)}",
                store=self._url,
                hint="?rule= counts from 0",
            )
        references = rules[self._rule].get("backendRefs") or []
        backends = [(_label(one), int(one.get("weight", 1))) for one in references]
        at = self._places(references)
        weights = {r: backends[at[r]][1] if r in at else 0 for r in self._targets}
        annotations = about.get("annotations")
        found = annotations or {}
        epoch = found.get(_EPOCH, "0")
        if not epoch.isdecimal():
            raise IntegrityError(
                f"{self._url}: the annotation {_EPOCH} is {epoch!r}, which is no epoch",
                hint="find out who wrote it before you mend it: it is what keeps deposed "
                "controllers out",
            )
        detail = {
            region: f"{backends[place][0]}, weight {backends[place][1]}"
            for region, place in at.items()
        }
        others = [one for place, one in enumerate(backends) if place not in at.values() and one[1]]
        if others:
            detail[_NO_REGION] = ", ".join(f"{name}, weight {weight}" for name, weight in others)
        state = RouteState(
            per_cent(weights),
            int(epoch),
            found.get(_WRITER, "") if found.get(_WEIGHTS) == _text(backends) else "",
            tag=f"{about['uid']} {about['generation']} {epoch} {found.get(NONCE, '')}",
            detail=detail,
        )
        return Held(
            state, backends, at, about["uid"], about["generation"], annotations, _accepted(route)
        )

    def _places(self, references: Sequence[Mapping[str, Any]]) -> dict[str, int]:
        """Which backend is whose."""
        places: dict[str, int] = {}
        for region, target in self._targets.items():
            found = [place for place, one in enumerate(references) if target in _names(one)]
            if len(found) != 1:
                has = ", ".join(_label(one) for one in references) or "none"
                raise NotFound(
                    f"rule {self._rule} has {'two backends' if found else 'no backend'} called "
                    f"{target}, for {region}; it has {has}",
                    store=self._url,
                    hint="add it with weight 0, or name what is there under the route's `targets`",
                )
            places[region] = found[0]
        if len(set(places.values())) < len(places):
            raise UsageError(
                f"{self._url}: two regions are one backend: {dict(self._targets)}",
                hint="correct the route's `targets`",
            )
        return places

    def _patch(self, held: Held, weights: Weights, epoch: int, writer: str) -> list[Any]:
        """The change and, before it, what it is conditional on."""
        backends, changes = list(held.backends), []
        if weights != held.state.weights:
            region_at = {place: region for region, place in held.at.items()}
            for place, (label, _) in enumerate(held.backends):
                # What is no region's gets nothing: nobody has verified what it serves.
                weight = weights[region_at[place]] if place in region_at else 0
                backends[place] = (label, weight)
                changes.append(("add", f"{self._references}/{place}/weight", weight))
        return self._conditional(held, changes, backends, epoch, writer)

    @property
    def _references(self) -> str:
        """Where the backends are."""
        return f"/spec/rules/{self._rule}/backendRefs"

    def _conditional(
        self,
        held: Held,
        changes: Sequence[tuple[str, str, Any]],
        backends: Sequence[tuple[str, int]],
        epoch: int,
        writer: str,
        notes: Mapping[str, str] | None = None,
    ) -> list[Any]:
        """A patch of changes (what to do, where, and with what), after which the rule has these
        backends, if the object is as it was held; and more annotations, if there are any."""
        tests: list[tuple[str, Any]] = [
            ("/metadata/uid", held.uid),
            ("/metadata/generation", held.generation),
            *(
                (f"{self._references}/{place}/name", name)
                for place, name in self._backend_names(held)
            ),
        ]
        marks: list[tuple[str, Any]] = []
        found = held.annotations
        if found is None:
            tests.append(("/metadata/annotations", None))
            marks.append(("/metadata/annotations", {}))
        else:
            tests += [(_pointer(name), found.get(name)) for name in (_EPOCH, NONCE)]
        told = {
            _EPOCH: str(epoch),
            _WRITER: writer,
            _WEIGHTS: _text(backends),
            NONCE: secrets.token_hex(8),
            **(notes or {}),
        }
        marks += [(_pointer(name), value) for name, value in told.items()]
        return [
            *({"op": "test", "path": path, "value": value} for path, value in tests),
            *({"op": op, "path": path, "value": value} for op, path, value in changes),
            *({"op": "add", "path": path, "value": value} for path, value in marks),
        ]

    @staticmethod
    def _backend_names(held: Held) -> list[tuple[int, str]]:
        return [(place, label.rpartition("/")[2]) for place, (label, _) in enumerate(held.backends)]

    # ------------------------------------------------------------------------- the API server

    def _call(self, verb: str, patch: list[Any] | None = None) -> dict[str, Any]:
        """One request, and the route that comes back."""
        try:
            try:
                return self._send(self._opened(), patch)
            except ApiException as error:
                if error.status != 401:
                    raise
            # Tokens and certificates expire, and nothing but a kubeconfig read anew renews them
            # all. What was refused for its credentials has done nothing.
            with self._opening:
                self._api = None
            return self._send(self._opened(), patch)
        except ApiException as error:
            self._refuse(verb, error)
        except (HTTPError, OSError) as error:
            raise Unavailable(
                f"no answer from the API server: {type(error).__name__}",
                store=self._url,
                hint=f"kubectl --context {self._context} get --raw /readyz",
            ) from error

    def _send(self, api: CustomObjectsApi, patch: list[Any] | None) -> dict[str, Any]:
        place: dict[str, Any] = {
            "group": GROUP,
            "version": VERSION,
            "namespace": self._namespace,
            "plural": PLURAL,
            "name": self._name,
            "_request_timeout": self._timeout_seconds,
        }
        found: Any = (
            api.get_namespaced_custom_object(**place)
            if patch is None
            else api.patch_namespaced_custom_object(
                **place, body=patch, _content_type="application/json-patch+json"
            )
        )
        if not isinstance(found, dict) or found.get("kind") != "HTTPRoute":
            raise Unavailable(
                "what answers is no API server: there is no HTTPRoute in it", store=self._url
            )
        return found

    def _opened(self) -> CustomObjectsApi:
        with self._opening:
            if self._api is None:
                self._api = CustomObjectsApi(ApiClient(self._configuration()))
            return self._api

    def _configuration(self) -> Configuration:
        """The context's cluster and user. Its credentials command, if it has one, runs now."""
        return open_context(
            self._context,
            kubeconfig=self._asked.options.get("kubeconfig"),
            where=f"{self._asked.noun} {self._url}",
            store=self._url,
            right=f"get {_RESOURCE}",
            insecure=self._asked.flag("insecure"),
            insecure_hint="use https, or add insecure=true if the network between is trusted",
        )

    def _refuse(self, verb: str, error: ApiException) -> NoReturn:
        """What the API server's refusal means, in our words."""
        said, details = _status_of(error.body)
        status = error.status or 0
        where = f"{self._name} in namespace {self._namespace}"
        right = f"{verb} {_RESOURCE}"
        text = f"{said} ({status})" if said else f"{status} {error.reason}"
        match status:
            case 0:
                raise Unavailable(
                    f"TLS: {_one_line(str(error.reason))}",
                    store=self._url,
                    hint="is certificate-authority-data of the context the one that signs it?",
                ) from error
            case 401:
                raise Denied(
                    "the credentials are not accepted, or have expired (401)",
                    right=right,
                    store=self._url,
                    hint=f"kubectl --context {self._context} auth whoami",
                ) from error
            case 403:
                raise Denied(
                    f"may not {verb} {_RESOURCE} {where}: {text}",
                    right=right,
                    store=self._url,
                    hint=f"{self.role} is the Role that it needs",
                ) from error
            case 404 if details.get("name") == self._name:
                raise NotFound(f"there is no HTTPRoute {where}", store=self._url) from error
            case 404:
                raise ContainerMissing(
                    f"the cluster of context {self._context} has no {_RESOURCE}",
                    store=self._url,
                    hint="install the Gateway API's standard channel, or name the cluster of the "
                    "world gateway",
                ) from error
            case 409 | 422:
                # Which of the two it was is known when the route is read again.
                kind = Throttled if status == 409 else StoreError
                raise Refused(kind(f"not accepted: {text}", store=self._url)) from error
            case 429:
                raise Throttled(
                    f"the API server asks for patience: {text}",
                    retry_after_seconds=_seconds((error.headers or {}).get("Retry-After")),
                    store=self._url,
                ) from error
            case _ if status >= 500 or status == 410:
                raise Unavailable(f"the API server fails: {text}", store=self._url) from error
        raise StoreError(f"the API server refuses: {text}", store=self._url) from error


class Refused(Exception):
    """A patch was not applied, because of a test in it or for itself."""

    def __init__(self, unexplained: MlplatformError) -> None:
        super().__init__(str(unexplained))
        self.unexplained = unexplained


def _label(reference: Mapping[str, Any]) -> str:
    """What a backend is called, for people."""
    namespace = reference.get("namespace")
    return f"{namespace}/{reference['name']}" if namespace else str(reference["name"])


def _names(reference: Mapping[str, Any]) -> set[str]:
    """All that a route's `targets` may call a backend."""
    names = {str(reference["name"]), _label(reference)}
    return names | {f"{name}:{reference.get('port')}" for name in names}


def _text(backends: Sequence[tuple[str, int]]) -> str:
    return ",".join(f"{label}={weight}" for label, weight in backends)


def _said(state: RouteState) -> str:
    shares = " ".join(f"{region}={weight}" for region, weight in state.weights.items())
    return f"{shares} under epoch {state.epoch} (generation {state.tag.split()[1]})"


def _pointer(annotation: str) -> str:
    """Its place in the object, by RFC 6901."""
    return "/metadata/annotations/" + annotation.replace("~", "~0").replace("/", "~1")


def _accepted(route: Mapping[str, Any]) -> bool:
    """Whether every parent that the route asks for has taken its present generation."""
    generation = route["metadata"]["generation"]
    namespace = route["metadata"]["namespace"]

    def identity(reference: Mapping[str, Any]) -> tuple[Any, ...]:
        return (
            reference.get("group", GROUP),
            reference.get("kind", "Gateway"),
            reference.get("namespace") or namespace,
            reference["name"],
            reference.get("sectionName"),
            reference.get("port"),
        )

    def takes(parent: Mapping[str, Any]) -> bool:
        conditions = {one["type"]: one for one in parent.get("conditions", ())}
        return all(
            kind in conditions
            and conditions[kind]["status"] == "True"
            and conditions[kind].get("observedGeneration") == generation
            for kind in ("Accepted", "ResolvedRefs")
        )

    asked = {identity(one) for one in route["spec"].get("parentRefs") or ()}
    answers = [
        (identity(parent["parentRef"]), takes(parent))
        for parent in route.get("status", {}).get("parents") or ()
    ]
    relevant = [(who, takes_it) for who, takes_it in answers if who in asked]
    return bool(asked) and asked == {who for who, _ in relevant} and all(t for _, t in relevant)


def _status_of(body: Any) -> tuple[str, Mapping[str, Any]]:
    """Message and details of the API server's own Status, where that is what answered."""
    try:
        status = json.loads(body or "")
    except (TypeError, ValueError):
        return "", {}
    if not isinstance(status, dict) or status.get("kind") != "Status":
        return "", {}
    return _one_line(str(status.get("message", ""))), status.get("details") or {}


def _seconds(text: str | None) -> float | None:
    return float(text) if text and text.isdecimal() else None


def _one_line(text: str) -> str:
    return " ".join(text.split())[:300]
