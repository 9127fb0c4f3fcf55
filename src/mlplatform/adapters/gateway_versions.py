"""The split between versions of one model in a region's HTTPRoute:
`httproute://context/namespace/name?rule=0`, as `gateway_api` has it, with versions in the place of
regions. It is rollout's own route, never the one that divides the world between regions.

A version's backend is a Service in the route's namespace: the one with the labels
`mlplatform.dev/model` and `mlplatform.dev/version`, as `deployments` makes them, and as a person
has to label the first one. Which pods are behind it follows their readiness; there is nothing to
let in.

**Admitting** a version adds its Service to the rule's backends, with weight 0, where it is not
among them. Who has gone is taken out, if we have put it there (an annotation says so): a route that
names a Service which is not there is refused by its gateway. Both are conditional as a write is.

**Counts** are the gateway's, from the Prometheus that the URL names, `?prometheus=http://…`, all in
one query, so that they are of one moment. Options: `metrics`, whose words are spoken there,

- `istio`: `istio_requests_total` and `istio_request_duration_milliseconds` of the Service, as told
  by the one who sends (reporter="source"). What the client broke off (flag DC) is not counted.
- `envoy`: `envoy_cluster_upstream_rq` and `…_rq_time` of Envoy Gateway's cluster for the backend,
  `httproute/NAMESPACE/NAME/rule/N/backend/I`; another name in `cluster`. It makes one cluster of a
  rule's backends unless one of them has a filter (its issue 7008); those that we add have one,
  which tells the version in the header `X-Mlplatform-Version`. Since I is the place among the
  backends, counters change their meaning when one is taken out before it; `began` says so.

Where one Prometheus has the counters of several clusters, `match=region="eu-west-1"` (written
`match=region%3D%22eu-west-1%22`) says which are meant: names of namespaces and routes are the same
in all of them.

And `requests`, `errors`, `buckets`, a query each in the place of the one that it would be:
`$service`, `$namespace`, `$version`, `$cluster`, and `$match` with a comma before it, stand for
what they say; `buckets` has a series for each `le`, in milliseconds. NGINX Gateway Fabric counts by
backend with NGINX Plus alone, whose
words are not known here: give it queries. What has no answer is Unknown, also for a version that
has not had a request yet. None of these gateways was there to try: the queries are proven on a
Prometheus with counters in their words.
"""

from __future__ import annotations

import math
import threading
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from string import Template
from typing import Any

from mlplatform.adapters.deployment_template import name_of
from mlplatform.adapters.gateway_api import (
    FEATURES,
    GatewayApiTraffic,
    Held,
    Refused,
    place_of,
)
from mlplatform.adapters.kubernetes_api import JSON, KubernetesAPI, path_of
from mlplatform.adapters.kubernetes_pods import MODEL, VERSION
from mlplatform.adapters.prometheus import open_measurements
from mlplatform.core.errors import (
    ConditionFailed,
    MlplatformError,
    NotFound,
    Unsupported,
    UsageError,
)
from mlplatform.core.seen import Unknown
from mlplatform.core.store_url import StoreURL
from mlplatform.ports.measurements import Measured, Measurements
from mlplatform.ports.split import Counts
from mlplatform.ports.traffic import (
    RouteState,
    Weights,
    check_epoch,
    check_weights,
)

_QUERIES = ("requests", "errors", "buckets")
_OPTIONS = frozenset(
    {
        "rule",
        "kubeconfig",
        "stall_seconds",
        "prometheus",
        "metrics",
        "match",
        "cluster",
        *_QUERIES,
    }
)
_OURS = "mlplatform.dev/backends"
"""Annotation: the backends that we have put there."""
_TRIES = 20
_STALL_SECONDS = 10.0
_MILLISECONDS = 1000.0
_HEADER = "X-Mlplatform-Version"


@dataclass(frozen=True, slots=True)
class Dialect:
    """In which words a gateway counts: queries that give one number, and one a bucket."""

    requests: str
    errors: str
    buckets: str
    cluster: str = ""
    filtered: bool = False
    """Whether it counts by backend only where one has a filter."""
    match: str = ""
    """What else a series has to say: of which cluster it is, where one Prometheus has several."""


_ISTIO = (
    'reporter="source",destination_service_name="$service",'
    'destination_service_namespace="$namespace",response_flags!~".*DC.*"$match'
)
_ENVOY = 'envoy_cluster_name="$cluster"$match'
DIALECTS: Mapping[str, Dialect] = {
    "istio": Dialect(
        requests=f"sum(istio_requests_total{{{_ISTIO}}})",
        errors=f'sum(istio_requests_total{{{_ISTIO},response_code=~"0|5..|429"}})',
        buckets=f"sum by (le) (istio_request_duration_milliseconds_bucket{{{_ISTIO}}})",
    ),
    "envoy": Dialect(
        requests=f"sum(envoy_cluster_upstream_rq{{{_ENVOY}}})",
        errors=f'sum(envoy_cluster_upstream_rq{{{_ENVOY},envoy_response_code=~"5..|429"}})',
        buckets=f"sum by (le) (envoy_cluster_upstream_rq_time_bucket{{{_ENVOY}}})",
        cluster="httproute/$namespace/$route/rule/$rule/backend/$index",
        filtered=True,
    ),
}
_OWN = Dialect(requests="", errors="", buckets="")


def open_split(url: StoreURL, model: str, versions: Sequence[str]) -> GatewayVersions:
    """The route between those versions. Nothing is asked of it yet. `UsageError` for a URL that
    names no route, or says half of how is counted."""
    url.reject_unknown(_OPTIONS)
    if not versions or len(set(versions)) < len(versions):
        raise UsageError(f"{url.noun} {url}: these are no versions of a split: {list(versions)}")
    spoken = url.options.get("metrics")
    if spoken is not None and spoken not in DIALECTS:
        raise UsageError(
            f"{url.noun} {url}: nothing is known of metrics={spoken!r}",
            hint=f"known here: {', '.join(DIALECTS)}; or give requests, errors and buckets",
        )
    own = {name: url.options[name] for name in _QUERIES if name in url.options}
    if "prometheus" in url.options and spoken is None and not {"requests", "errors"} <= own.keys():
        raise UsageError(
            f"{url.noun} {url}: nothing says in which words the gateway counts",
            hint="add metrics=istio or metrics=envoy, or queries: requests, errors, buckets",
        )
    known = DIALECTS.get(spoken or "", _OWN)
    dialect = Dialect(
        own.get("requests", known.requests),
        own.get("errors", known.errors),
        own.get("buckets", known.buckets),
        url.options.get("cluster", known.cluster),
        known.filtered,
        url.options.get("match", ""),
    )
    text = url.options.get("prometheus")
    return GatewayVersions(
        url, model, versions, dialect, open_measurements(text) if text is not None else None
    )


class GatewayVersions(GatewayApiTraffic):
    """The versions of one model behind one rule of one HTTPRoute."""

    role = "infra/rbac/split.yaml"

    def __init__(
        self,
        url: StoreURL,
        model: str,
        versions: Sequence[str],
        dialect: Dialect,
        measurements: Measurements | None,
    ) -> None:
        place = place_of(url)
        super().__init__(url, place, targets={each: name_of(model, each) for each in versions})
        self._model = model
        self._dialect = dialect
        self._measurements = measurements
        self._cluster = KubernetesAPI(
            place.context,
            kubeconfig=url.options.get("kubeconfig"),
            timeout_seconds=url.seconds("stall_seconds", default=_STALL_SECONDS),
        )
        self._looking = threading.Lock()
        self._services: dict[str, JSON] | None = None

    # ------------------------------------------------------------------------- who is there

    def read(self) -> RouteState:
        self._find_services()
        return super().read()

    def write(
        self, weights: Weights, *, epoch: int, writer: str, expected: RouteState
    ) -> RouteState:
        """As the port says. `UsageError` for a version that would get more than it has, and is not
        among the backends: it was not admitted."""
        check_weights(weights, where=self.url, regions=self._targets, features=FEATURES)
        gaining = [each for each, share in weights.items() if share > expected.weights.get(each, 0)]
        if gaining:
            self._find_services()
            last = self._last
            held = last if last is not None and _tag(last) == expected.tag else self._read()
            check_epoch(held.state, epoch, where=self.url)
            if shut := [each for each in gaining if each not in held.at]:
                raise UsageError(
                    f"{self.url}: {', '.join(shut)} was not admitted: nothing would answer",
                    hint="admit it before it gets weight",
                )
        return super().write(weights, epoch=epoch, writer=writer, expected=expected)

    def admit(self, version: str, addresses: Sequence[str], *, epoch: int, writer: str) -> None:
        """As the port says. `NotFound` for a version that has no Service."""
        if addresses and version not in self._targets:
            raise UsageError(
                f"{self.url}: {version} is none of the versions there: {', '.join(self._targets)}"
            )
        services = self._find_services(again=True)
        for _ in range(_TRIES):
            held = self._read()
            check_epoch(held.state, epoch, where=self.url)
            if addresses:
                changed = self._with(held, version, services, epoch, writer)
            else:
                changed = self._without(held, version, epoch, writer)
            if changed is None:
                return
            try:
                self._hold(self._call("patch", changed))
            except Refused as refused:
                if _tag(self._read()) == _tag(held):
                    raise refused.unexplained from None
                continue
            return
        raise ConditionFailed(
            f"the route changed each of {_TRIES} times that {version} was to be admitted",
            store=self.url,
            hint="`kubectl get httproute -o yaml --show-managed-fields` shows who changes it",
        )

    def _find_services(self, *, again: bool = False) -> dict[str, JSON]:
        """The model's Services by version; from now on they are what its backends are called."""
        with self._looking:
            if self._services is not None and not again:
                return self._services
            path = path_of(self._namespace, "", "v1", "services")
            found: dict[str, JSON] = {}
            for each in self._cluster.items(path, selector=f"{MODEL}={self._model}"):
                about = each["metadata"]
                notes = {**(about.get("annotations") or {}), **(about.get("labels") or {})}
                if (version := notes.get(VERSION)) is None:
                    continue
                if version in found:
                    raise Unsupported(
                        f"two Services are {self._model}@{version}: "
                        f"{found[version]['metadata']['name']} and {about['name']}",
                        store=self.url,
                        hint=f"take the label {VERSION} from one of them",
                    )
                found[version] = each
            for version in self._targets:
                if version in found:
                    self._targets[version] = str(found[version]["metadata"]["name"])
            self._services = found
            return found

    def _places(self, references: Sequence[Mapping[str, Any]]) -> dict[str, int]:
        places: dict[str, int] = {}
        for version, service in self._targets.items():
            found = [place for place, one in enumerate(references) if one["name"] == service]
            if len(found) > 1:
                raise UsageError(
                    f"{self.url}: rule {self._rule} has two backends called {service}, for "
                    f"{version}",
                    hint="take one of them out",
                )
            if found:
                places[version] = found[0]
        return places

    def _with(
        self, held: Held, version: str, services: Mapping[str, JSON], epoch: int, writer: str
    ) -> list[Any] | None:
        """What adds a version; None where it is there."""
        if version not in services:
            raise NotFound(
                f"no Service in namespace {self._namespace} is {self._model}@{version}",
                store=self.url,
                hint=f"label the one that has its pods: {MODEL}={self._model}, {VERSION}={version}",
            )
        if version in held.at:
            return None
        service = services[version]
        ports = service["spec"].get("ports") or [{"port": 80}]
        port = next((each for each in ports if each.get("name") == "http"), ports[0])
        name = service["metadata"]["name"]
        reference: JSON = {"name": name, "port": port["port"], "weight": 0}
        if self._dialect.filtered:
            told = {"set": [{"name": _HEADER, "value": version}]}
            reference["filters"] = [
                {"type": "ResponseHeaderModifier", "responseHeaderModifier": told}
            ]
        change: tuple[str, str, Any] = ("add", f"{self._references}/-", reference)
        backends = [*held.backends, (name, 0)]
        ours = {_OURS: ",".join(sorted({*_ours(held), name}))}
        if not held.backends:
            change = ("add", self._references, [reference])
        return self._conditional(held, [change], backends, epoch, writer, ours)

    def _without(self, held: Held, version: str, epoch: int, writer: str) -> list[Any] | None:
        """What takes a version out; None where it is not there, or not ours to take out."""
        if version not in held.at:
            return None
        place = held.at[version]
        name, weight = held.backends[place]
        if weight:
            raise UsageError(
                f"{self.url}: {version} has weight {weight}, and no server",
                hint="move its weight elsewhere first",
            )
        if name not in _ours(held):
            return None
        backends = [each for at, each in enumerate(held.backends) if at != place]
        ours = {_OURS: ",".join(sorted(_ours(held) - {name}))}
        change = ("remove", f"{self._references}/{place}", None)
        return self._conditional(held, [change], backends, epoch, writer, ours)

    # ------------------------------------------------------------------------- what became of them

    def counts(self, slow_seconds: float) -> Mapping[str, Counts | Unknown]:
        self._find_services()
        held = self._read()
        if self._measurements is None:
            silent = Unknown(
                f"{self.url} does not say which Prometheus counts: ?prometheus=http://…"
            )
            return dict.fromkeys(held.at, silent)
        asked = {version: self._queries(version, place) for version, place in held.at.items()}
        try:
            told = self._measurements.instant(_together(asked)) if asked else ()
        except MlplatformError as error:
            return dict.fromkeys(held.at, Unknown(str(error)))
        return {
            version: _counts(
                [each for each in told if each.labels.get("version") == version],
                slow_seconds,
                began=self._began(asked[version]),
                hint=f"nothing is counted for {asked[version]['requests']}",
            )
            for version in asked
        }

    def _queries(self, version: str, place: int) -> dict[str, str]:
        words = {
            "service": self._targets[version],
            "namespace": self._namespace,
            "version": version,
            "route": self._name,
            "rule": str(self._rule),
            "index": str(place),
            "match": f",{self._dialect.match}" if self._dialect.match else "",
        }
        words["cluster"] = Template(self._dialect.cluster).safe_substitute(words)
        found = {
            "requests": self._dialect.requests,
            "errors": self._dialect.errors,
            "buckets": self._dialect.buckets,
        }
        return {
            what: Template(query).safe_substitute(words) for what, query in found.items() if query
        }

    def _began(self, queries: Mapping[str, str]) -> float | None:
        """Other queries are other counters, even where they are no lower."""
        return float(zlib.crc32(queries["requests"].encode()))


def _tag(held: Held) -> str:
    return held.state.tag


def _ours(held: Held) -> set[str]:
    return {each for each in (held.annotations or {}).get(_OURS, "").split(",") if each}


def _together(asked: Mapping[str, Mapping[str, str]]) -> str:
    """One query for all versions, whose series say which version, and what."""
    return " or ".join(
        f'label_replace(label_replace({query}, "what", "{what}", "", ""), '
        f'"version", "{version}", "", "")'
        for version, queries in asked.items()
        for what, query in queries.items()
    )


def _counts(
    told: Iterable[Measured], slow_seconds: float, *, began: float | None, hint: str
) -> Counts | Unknown:
    """What Prometheus told of one version."""
    by_what: dict[str, list[Measured]] = {}
    for each in told:
        by_what.setdefault(each.labels.get("what", ""), []).append(each)
    requests = by_what.get("requests", [])
    if not requests:
        return Unknown(hint)
    if len(requests) > 1 or len(by_what.get("errors", [])) > 1:
        return Unknown(f"several series where one was to be: {dict(requests[0].labels)}")
    # A counter of errors is not there before the first one.
    errors = by_what["errors"][0].value if "errors" in by_what else 0.0
    buckets = sorted(
        (float(each.labels.get("le", "nan")), each.value) for each in by_what.get("buckets", ())
    )
    values = [requests[0].value, errors, *(value for _, value in buckets)]
    if any(math.isnan(value) or value < 0 for value in values):
        return Unknown(f"counters that are none: {values[:2]}")
    counted = Counts(requests[0].value, errors, began=began)
    ends = [each for each in buckets if slow_seconds * _MILLISECONDS <= each[0] < math.inf]
    if not ends or buckets[-1][0] != math.inf:
        return counted
    (end, below), all_of_them = ends[0], buckets[-1][1]
    return Counts(
        counted.requests,
        counted.errors,
        timed=all_of_them,
        slow=max(0.0, all_of_them - below),
        slow_seconds=end / _MILLISECONDS,
        began=began,
    )
