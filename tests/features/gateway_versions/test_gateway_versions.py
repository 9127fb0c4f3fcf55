"""The split between versions in an HTTPRoute, where it differs from the split between regions: who
comes and goes, and what is counted. On a real API server, and a real Prometheus."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from typing import Any
from urllib.parse import quote

import pytest

from mlplatform.adapters.deployments import open_servers
from mlplatform.adapters.gateway_versions import GatewayVersions, open_split
from mlplatform.core.errors import (
    ConditionFailed,
    Denied,
    Fenced,
    NotFound,
    Unsupported,
    UsageError,
)
from mlplatform.core.seen import Unknown
from mlplatform.core.store_url import StoreURL
from mlplatform.ports.split import Counts
from tests.conformance.traffic.acts import put
from tests.conformance.traffic.gateway_versions_site import (
    MODEL,
    GatewayVersionsSite,
    gateway_versions,
)
from tests.real.servers.catalogue import BY_NAME
from tests.real.servers.catalogue import prometheus as start_prometheus
from tests.real.servers.control_plane import ControlPlane
from tests.real.servers.launch import running
from tests.real.servers.roles import change, grant

pytestmark = pytest.mark.xdist_group("kubernetes")

ADDRESS = ("10.0.0.1:8000",)


@pytest.fixture
def site(kubernetes: ControlPlane) -> Iterator[GatewayVersionsSite]:
    """A route of the version `a` alone, which a person has put there."""
    with gateway_versions(kubernetes, ["a"]) as made:
        yield made


@pytest.fixture
def split(site: GatewayVersionsSite) -> GatewayVersions:
    return site.split(["a", "b"])


def references(site: GatewayVersionsSite) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = site.route()["spec"]["rules"][0]["backendRefs"]
    return found


def admit(split: GatewayVersions, version: str, *, epoch: int = 1, gone: bool = False) -> None:
    split.admit(version, () if gone else ADDRESS, epoch=epoch, writer="w")


# --- who comes and goes --------------------------------------------------------------------------


def test_a_version_that_is_not_there_yet_has_nothing(split: GatewayVersions) -> None:
    assert split.read().weights == {"a": 100, "b": 0}


def test_a_version_comes_with_no_weight(site: GatewayVersionsSite, split: GatewayVersions) -> None:
    site.service("b", name="magika-b", port=9000)
    admit(split, "b")
    new = references(site)[1]
    assert (new["name"], new["port"], new["weight"]) == ("magika-b", 9000, 0)
    assert split.read().weights == {"a": 100, "b": 0}
    assert (split.read().epoch, split.read().writer) == (1, "w")
    state = put(split, {"a": 90, "b": 10}, 1)
    assert [each["weight"] for each in references(site)] == [90, 10]
    assert state.weights == {"a": 90, "b": 10}


def test_the_service_is_the_one_that_deployments_make(site: GatewayVersionsSite) -> None:
    """Started by the one port, and admitted by the other, under the Roles that we ship."""
    grant(site.plane, "servers.yaml", site.namespace)
    labels = {"app": "infer", "mlplatform.dev/version": "a"}
    pod = {"containers": [{"name": "server", "image": "server"}]}
    site.plane.ask(
        "POST",
        f"/apis/apps/v1/namespaces/{site.namespace}/deployments",
        {
            "metadata": {"name": "infer", "labels": {"mlplatform.dev/model": MODEL}},
            "spec": {
                "selector": {"matchLabels": {"app": "infer"}},
                "template": {"metadata": {"labels": labels}, "spec": pod},
            },
        },
    )
    file = site.plane.kubeconfig(site._folder / "servers.yaml", "rollout-1", context="eu")
    text = f"deployments://eu/{site.namespace}?kubeconfig={file}"
    servers = open_servers(StoreURL.parse(text, noun="servers"), MODEL)
    servers.scale("v1.2.0", 1, digest="", epoch=1, writer="w")
    split = site.split(["a", "v1.2.0"])
    admit(split, "v1.2.0")
    assert [each["name"] for each in references(site)] == ["infer-a", "magika-v1-2-0"]
    put(split, {"a": 100, "v1.2.0": 0}, 1)
    admit(split, "v1.2.0", gone=True)
    servers.scale("v1.2.0", 0, digest="", epoch=1, writer="w")
    assert [each["name"] for each in references(site)] == ["infer-a"]


def test_admitted_again_changes_nothing(site: GatewayVersionsSite, split: GatewayVersions) -> None:
    site.service("b")
    admit(split, "b")
    before = site.route()
    admit(split, "b")
    admit(split, "a")
    after = site.route()
    assert after["spec"] == before["spec"]
    assert after["metadata"]["annotations"] == before["metadata"]["annotations"]


def test_who_goes_is_taken_out_if_we_put_it_there(
    site: GatewayVersionsSite, split: GatewayVersions
) -> None:
    site.service("b")
    admit(split, "b")
    put(split, {"a": 0, "b": 100}, 1)
    admit(split, "a", gone=True)
    assert [each["name"] for each in references(site)] == ["infer-a", "infer-b"]
    put(split, {"a": 100, "b": 0}, 1)
    admit(split, "b", gone=True)
    assert [each["name"] for each in references(site)] == ["infer-a"]
    assert split.read().writer == "w"
    admit(split, "b", gone=True)


def test_who_has_weight_does_not_go(site: GatewayVersionsSite, split: GatewayVersions) -> None:
    site.service("b")
    admit(split, "b")
    put(split, {"a": 50, "b": 50}, 1)
    with pytest.raises(UsageError, match="b has weight 50, and no server"):
        admit(split, "b", gone=True)


def test_nothing_is_sent_to_who_was_not_admitted(
    site: GatewayVersionsSite, split: GatewayVersions
) -> None:
    site.service("b")
    with pytest.raises(UsageError, match="b was not admitted"):
        put(split, {"a": 90, "b": 10}, 1)
    assert [each["name"] for each in references(site)] == ["infer-a"]


def test_a_version_without_a_service(split: GatewayVersions) -> None:
    with pytest.raises(NotFound, match="is magika@b") as raised:
        admit(split, "b")
    assert "mlplatform.dev/version=b" in str(raised.value.hint)


def test_two_services_of_one_version(site: GatewayVersionsSite, split: GatewayVersions) -> None:
    site.service("b")
    site.service("b", name="another")
    with pytest.raises(Unsupported, match="two Services are magika@b"):
        split.read()


def test_a_version_that_nobody_spoke_of(split: GatewayVersions) -> None:
    with pytest.raises(UsageError, match="c is none of the versions there: a, b"):
        admit(split, "c")


def test_a_deposed_writer_admits_nobody(site: GatewayVersionsSite, split: GatewayVersions) -> None:
    site.service("b")
    put(site.split(["a", "b"]), {"a": 100, "b": 0}, 7)
    for gone in (False, True):
        with pytest.raises(Fenced):
            admit(split, "b", epoch=6, gone=gone)
    assert len(references(site)) == 1


def test_somebody_edits_the_route_meanwhile(
    site: GatewayVersionsSite, split: GatewayVersions
) -> None:
    """It is read again, and what they did stays."""
    site.service("b")
    whole = split._call
    edited: list[str] = []

    def overtaken(verb: str, patch: list[Any] | None = None) -> dict[str, Any]:
        if verb == "patch" and not edited:
            edited.append(verb)
            path = "/spec/rules/0/timeouts/request"
            site.edit([{"op": "replace", "path": path, "value": "5s"}])
        return whole(verb, patch)

    split._call = overtaken  # type: ignore[method-assign]
    admit(split, "b")
    assert len(references(site)) == 2
    assert site.route()["spec"]["rules"][0]["timeouts"] == {"request": "5s"}
    state = split.read()
    site.edit([{"op": "replace", "path": "/spec/rules/0/timeouts/request", "value": "6s"}])
    with pytest.raises(ConditionFailed):
        split.write({"a": 0, "b": 100}, epoch=1, writer="w", expected=state)


def test_who_may_not_is_told_what_is_missing(site: GatewayVersionsSite) -> None:
    with pytest.raises(Denied, match='cannot list resource "services"'):
        site.split(["a"], user="nobody").read()
    change(site.plane, site.namespace, "mlplatform-split", lambda rules: rules[1:])
    with pytest.raises(Denied, match="may not get httproutes") as raised:
        site.split(["a"]).read()
    assert "infra/rbac/split.yaml" in str(raised.value.hint)


# --- what is counted -----------------------------------------------------------------------------


def istio(service: str, code: str, flags: str, count: float, *, namespace: str) -> str:
    labels = (
        f'reporter="source",destination_service_name="{service}",'
        f'destination_service_namespace="{namespace}",response_code="{code}",'
        f'response_flags="{flags}"'
    )
    return f"istio_requests_total{{{labels}}} {count}"


def istio_times(service: str, *buckets: tuple[str, float], namespace: str) -> list[str]:
    labels = (
        f'reporter="source",destination_service_name="{service}",'
        f'destination_service_namespace="{namespace}",response_code="200",response_flags="-"'
    )
    name = "istio_request_duration_milliseconds_bucket"
    return [f'{name}{{{labels},le="{le}"}} {count}' for le, count in buckets]


def envoy(cluster: str, code: str, count: float) -> str:
    labels = f'envoy_cluster_name="{cluster}",envoy_response_code="{code}"'
    return f"envoy_cluster_upstream_rq{{{labels}}} {count}"


def envoy_times(cluster: str, *buckets: tuple[str, float]) -> list[str]:
    name = "envoy_cluster_upstream_rq_time_bucket"
    return [f'{name}{{envoy_cluster_name="{cluster}",le="{le}"}} {n}' for le, n in buckets]


def told(lines: list[str]) -> str:
    """As Prometheus has scraped it in the last two minutes."""
    now = time.time()
    stamped = [f"{line} {now - ago:.3f}" for line in sorted(lines) for ago in (120, 60, 0)]
    return "\n".join(stamped) + "\n# EOF\n"


def counts(
    site: GatewayVersionsSite, lines: list[str], options: str, slow_seconds: float = 0.5
) -> dict[str, Counts | Unknown]:
    if not BY_NAME["prometheus"].built:
        pytest.skip("Prometheus is not built; try: make servers")
    with running("prometheus", start=partial(start_prometheus, history=told(lines))) as server:
        split = site.split(["a", "b"], options=f"&prometheus={server.url}{options}")
        admit(split, "b")
        return dict(split.counts(slow_seconds))


def test_istio_counts(site: GatewayVersionsSite) -> None:
    """By Service; sheds, resets and missing servers are errors; what the client broke off is no
    request; what sidecars tell of the same requests is not counted again."""
    site.service("b")
    one = partial(istio, namespace=site.namespace)
    lines = [
        one("infer-a", "200", "-", 900.0),
        one("infer-a", "404", "-", 50.0),
        one("infer-a", "503", "UH", 20.0),
        one("infer-a", "429", "-", 5.0),
        one("infer-a", "0", "UC", 3.0),
        one("infer-a", "0", "DC", 7.0),
        one("infer-a", "500", "-", 2.0).replace("source", "destination"),
        istio("infer-a", "500", "-", 99.0, namespace="another"),
        *istio_times(
            "infer-a",
            ("250.0", 700.0),
            ("500.0", 800.0),
            ("1000.0", 890.0),
            ("+Inf", 900.0),
            namespace=site.namespace,
        ),
    ]
    found = counts(site, lines, "&metrics=istio")
    a, b = found["a"], found["b"]
    assert isinstance(a, Counts)
    assert (a.requests, a.errors) == (978.0, 28.0)
    assert (a.timed, a.slow, a.slow_seconds) == (900.0, 100.0, 0.5)
    assert isinstance(b, Unknown)
    assert 'destination_service_name="infer-b"' in b.reason
    assert "filters" not in references(site)[1]


@pytest.mark.parametrize(("spoken", "requests"), [("istio", 10.0), ("envoy", 20.0)])
def test_one_prometheus_has_several_clusters(
    site: GatewayVersionsSite, spoken: str, requests: float
) -> None:
    """Namespace, route and Service have the same names in each of them."""
    site.service("b")
    cluster = f"httproute/{site.namespace}/resnet50/rule/0/backend/0"
    lines = [
        line.replace("{", f'{{region="{region}",')
        for region, times in (("eu", 1), ("us", 100))
        for line in (
            istio("infer-a", "200", "-", 10.0 * times, namespace=site.namespace),
            envoy(cluster, "200", 20.0 * times),
        )
    ]
    match = quote('region="eu"')
    found = counts(site, lines, f"&metrics={spoken}&match={match}")["a"]
    assert isinstance(found, Counts)
    assert found.requests == requests


def test_envoy_counts(site: GatewayVersionsSite) -> None:
    """By cluster, which is by the backend's place in the rule."""
    site.service("b")
    cluster = f"httproute/{site.namespace}/resnet50/rule/0/backend"
    lines = [
        envoy(f"{cluster}/0", "200", 90.0),
        envoy(f"{cluster}/0", "504", 4.0),
        envoy(f"{cluster}/1", "200", 10.0),
        *envoy_times(f"{cluster}/1", ("250", 5.0), ("1000", 9.0), ("+Inf", 10.0)),
    ]
    found = counts(site, lines, "&metrics=envoy")
    a, b = found["a"], found["b"]
    assert isinstance(a, Counts)
    assert isinstance(b, Counts)
    assert (a.requests, a.errors, a.timed) == (94.0, 4.0, None)
    assert (b.requests, b.errors, b.timed, b.slow, b.slow_seconds) == (10.0, 0.0, 10.0, 1.0, 1.0)
    assert a.began != b.began
    (told_version,) = references(site)[1]["filters"]
    assert told_version["responseHeaderModifier"]["set"][0]["value"] == "b"


def test_queries_of_ones_own(site: GatewayVersionsSite) -> None:
    site.service("b")
    lines = [
        'served_total{of="infer-a",good="yes"} 8.0',
        'served_total{of="infer-a",good="no"} 2.0',
    ]
    requests = quote('sum(served_total{of="$service"})')
    errors = quote('sum(served_total{of="$service",good="no"})')
    a = counts(site, lines, f"&requests={requests}&errors={errors}")["a"]
    assert isinstance(a, Counts)
    assert (a.requests, a.errors, a.timed, a.slow) == (10.0, 2.0, None, None)


def test_a_query_that_gives_several(site: GatewayVersionsSite) -> None:
    site.service("b")
    lines = [f'served_total{{good="{each}"}} 8.0' for each in ("yes", "no")]
    found = counts(site, lines, "&requests=served_total&errors=sum(served_total)")
    assert isinstance(found["a"], Unknown)
    assert "several series" in found["a"].reason


def test_no_prometheus(site: GatewayVersionsSite, split: GatewayVersions) -> None:
    (unknown,) = split.counts(0.5).values()
    assert isinstance(unknown, Unknown)
    assert "?prometheus=" in unknown.reason
    silent = site.split(["a"], options="&prometheus=http://127.0.0.1:1&metrics=istio").counts(0.5)
    assert isinstance(silent["a"], Unknown)
    assert "refused" in silent["a"].reason


# --- the URL -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("?metrics=nginx", "nothing is known of metrics='nginx'"),
        ("?prometheus=http://127.0.0.1:9090", "in which words the gateway counts"),
        ("?colour=red", "unknown option 'colour'"),
        ("?rule=first", "not a number"),
    ],
)
def test_urls_that_will_not_do(options: str, said: str) -> None:
    url = StoreURL.parse(f"httproute://eu/models/magika{options}", noun="actuator")
    with pytest.raises(UsageError, match=said):
        open_split(url, "magika", ["a"])


@pytest.mark.parametrize("versions", [[], ["a", "a"]])
def test_versions_that_are_none(versions: list[str]) -> None:
    url = StoreURL.parse("httproute://eu/models/magika", noun="actuator")
    with pytest.raises(UsageError, match="no versions of a split"):
        open_split(url, "magika", versions)
