"""The HTTPRoute actuator where it differs from the others: what else is in the object, whose the
backends are, when a route is in force, and what an API server has to say. On a real one."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from mlplatform.adapters.gateway_api import GatewayApiTraffic, open_traffic
from mlplatform.core.errors import (
    ConditionFailed,
    ContainerMissing,
    Denied,
    Fenced,
    IntegrityError,
    MlplatformError,
    NotFound,
    StoreError,
    Throttled,
    Unavailable,
    UsageError,
)
from mlplatform.core.store_url import StoreURL
from mlplatform.ports.traffic import RouteState
from tests.conformance.traffic.acts import claim, content, put
from tests.conformance.traffic.gateway_api_site import CONTEXT, TARGETS, GatewayApiSite, gateway_api
from tests.real.servers.control_plane import ControlPlane
from tests.real.servers.gateway import Reply, routes
from tests.real.servers.roles import change

pytestmark = pytest.mark.xdist_group("kubernetes")

RULE = "/spec/rules/0"
A, B = {"a": 100, "b": 0, "c": 0}, {"a": 0, "b": 100, "c": 0}


@pytest.fixture
def site(kubernetes: ControlPlane) -> Iterator[GatewayApiSite]:
    with gateway_api(kubernetes) as made:
        yield made


@pytest.fixture
def traffic(site: GatewayApiSite) -> GatewayApiTraffic:
    return site.open()


def backends(*shares: tuple[str, int]) -> list[dict[str, Any]]:
    return [{"name": name, "port": 8000, "weight": weight} for name, weight in shares]


def put_backends(site: GatewayApiSite, *shares: tuple[str, int]) -> None:
    """As an operator does it."""
    path = f"{RULE}/backendRefs"
    site.edit([{"op": "replace", "path": path, "value": backends(*shares)}])


def raw(site: GatewayApiSite) -> dict[str, int]:
    """The weights as they lie there."""
    references = site.route()["spec"]["rules"][0]["backendRefs"]
    return {one["name"]: one["weight"] for one in references}


# ----------------------------------------------------------------------------- what else is there


def test_what_others_own_in_the_same_rule_stays(
    site: GatewayApiSite, traffic: GatewayApiTraffic
) -> None:
    before = site.route()
    put(traffic, B, 1)
    after = site.route()
    assert raw(site) == {"infer-a": 0, "infer-b": 100, "infer-c": 0}
    for one in (before, after):
        for reference in one["spec"]["rules"][0]["backendRefs"]:
            del reference["weight"]
    assert after["spec"] == before["spec"]
    assert after["spec"]["rules"][0]["timeouts"] == {"request": "30s"}


def test_a_time_out_that_somebody_edits_meanwhile(
    site: GatewayApiSite, traffic: GatewayApiTraffic
) -> None:
    """The write is refused, since what it was decided from has changed; the next one keeps it."""
    state = claim(traffic, 1)
    site.edit([{"op": "replace", "path": f"{RULE}/timeouts/request", "value": "5s"}])
    with pytest.raises(ConditionFailed):
        traffic.write(B, epoch=1, writer="w", expected=state)
    put(traffic, B, 1)
    assert site.route()["spec"]["rules"][0]["timeouts"] == {"request": "5s"}


def test_what_a_gateway_writes_into_the_status_refuses_nothing(
    site: GatewayApiSite, traffic: GatewayApiTraffic
) -> None:
    state = claim(traffic, 1)
    site.gateway.idle = True
    before = site.route()
    site.plane.ask("PUT", f"{site.path}/status", before | {"status": {"parents": []}})
    site.plane.merge(site.path, {"metadata": {"labels": {"team": "edge"}}})
    assert site.route()["metadata"]["resourceVersion"] != before["metadata"]["resourceVersion"]
    assert content(traffic.write(B, epoch=1, writer="w", expected=state)) == (B, 1, "w")


def test_annotations_of_others_stay(site: GatewayApiSite, traffic: GatewayApiTraffic) -> None:
    site.plane.merge(site.path, {"metadata": {"annotations": {"team": "edge"}}})
    claim(traffic, 3, "controller-1")
    found = site.route()["metadata"]["annotations"]
    assert found["team"] == "edge"
    assert found["mlplatform.dev/epoch"] == "3"
    assert found["mlplatform.dev/writer"] == "controller-1"


def test_first_annotation_comes_from_somebody_else(
    site: GatewayApiSite, traffic: GatewayApiTraffic
) -> None:
    """There was none when it was read; putting ours there would have removed theirs."""
    state = traffic.read()
    site.plane.merge(site.path, {"metadata": {"annotations": {"team": "edge"}}})
    with pytest.raises(ConditionFailed):
        traffic.write(B, epoch=1, writer="w", expected=state)
    put(traffic, B, 1)
    assert site.route()["metadata"]["annotations"]["team"] == "edge"


def test_a_route_that_was_made_anew(site: GatewayApiSite, traffic: GatewayApiTraffic) -> None:
    """Same name, same generation, nobody's epoch: another object all the same."""
    state = traffic.read()
    found = site.route()
    site.remove()
    new = {"metadata": {"name": "api"}, "spec": found["spec"]}
    site.plane.ask("POST", routes(site.namespace), found | new)
    with pytest.raises(ConditionFailed):
        traffic.write(B, epoch=1, writer="w", expected=state)


def test_another_of_the_same_epoch(site: GatewayApiSite, traffic: GatewayApiTraffic) -> None:
    """A claim leaves weights, generation and epoch as they were, and is a change all the same."""
    state = claim(traffic, 1, "one")
    claim(site.open(), 1, "two")
    with pytest.raises(ConditionFailed):
        traffic.write(B, epoch=1, writer="one", expected=state)
    assert content(traffic.read()) == (dict(state.weights), 1, "two")


# --------------------------------------------------------------------------- whose the weights are


def test_weights_in_another_scale(site: GatewayApiSite, traffic: GatewayApiTraffic) -> None:
    """3:1 is 75 and 25; a claim leaves it as it is, a change writes per cent."""
    put_backends(site, ("infer-a", 3), ("infer-b", 1), ("infer-c", 0))
    assert traffic.read().weights == {"a": 75, "b": 25, "c": 0}
    claimed = claim(traffic, 1, "us")
    assert content(claimed) == ({"a": 75, "b": 25, "c": 0}, 1, "us")
    assert raw(site) == {"infer-a": 3, "infer-b": 1, "infer-c": 0}
    put(traffic, {"a": 25, "b": 75, "c": 0}, 1)
    assert raw(site) == {"infer-a": 25, "infer-b": 75, "infer-c": 0}


def test_a_backend_of_no_region(site: GatewayApiSite, traffic: GatewayApiTraffic) -> None:
    """It is shown, left alone by a claim, and gets nothing once weights are shifted."""
    put_backends(site, ("infer-a", 50), ("canary", 10), ("infer-b", 50), ("infer-c", 0))
    state = traffic.read()
    assert state.weights == {"a": 50, "b": 50, "c": 0}
    assert state.detail["(no region)"] == "canary, weight 10"
    claim(traffic, 1)
    assert raw(site)["canary"] == 10
    put(traffic, B, 1)
    assert raw(site) == {"infer-a": 0, "canary": 0, "infer-b": 100, "infer-c": 0}
    assert "(no region)" not in traffic.read().detail


def test_an_operator_left_all_at_zero(site: GatewayApiSite, traffic: GatewayApiTraffic) -> None:
    """It is read as what it is, nobody serves; and it can be claimed, and mended."""
    put_backends(site, ("infer-a", 0), ("infer-b", 0), ("infer-c", 0))
    state = traffic.read()
    assert not state.serving
    claimed = traffic.write(state.weights, epoch=2, writer="us", expected=state)
    assert (claimed.serving, claimed.epoch) == (frozenset(), 2)
    assert content(traffic.write(A, epoch=2, writer="us", expected=claimed)) == (A, 2, "us")


@pytest.mark.parametrize(
    ("shares", "said"),
    [
        ([("infer-a", 1), ("infer-b", 1)], "no backend called infer-c, for c; it has infer-a"),
        ([("infer-a", 1), ("infer-b", 1), ("infer-c", 1), ("infer-a", 0)], "two backends called"),
    ],
    ids=["missing", "twice"],
)
def test_backends_that_do_not_fit(
    site: GatewayApiSite, traffic: GatewayApiTraffic, shares: list[tuple[str, int]], said: str
) -> None:
    state = claim(traffic, 1)
    put_backends(site, *shares)
    with pytest.raises(NotFound, match=said) as raised:
        traffic.read()
    assert "targets" in (raised.value.hint or "")
    with pytest.raises(NotFound, match=said):
        traffic.write(B, epoch=1, writer="w", expected=state)
    found = site.route()["spec"]["rules"][0]["backendRefs"]
    assert [(one["name"], one["weight"]) for one in found] == shares


def opened(site: GatewayApiSite, targets: Mapping[str, tuple[str, ...]], **options: str) -> Any:
    own = site.open()
    extra = "".join(f"&{name}={value}" for name, value in options.items())
    return open_traffic(StoreURL.parse(own._asked.text + extra, noun="actuator"), targets)


def test_backends_by_port_and_namespace(site: GatewayApiSite) -> None:
    value: list[dict[str, Any]] = [
        {"name": "infer", "port": 8001, "weight": 1},
        {"name": "infer", "port": 8002, "weight": 0},
        {"name": "infer", "namespace": "far", "port": 8001, "weight": 0},
    ]
    site.edit([{"op": "replace", "path": f"{RULE}/backendRefs", "value": value}])
    one = opened(site, {"a": ("infer:8002",), "b": ("far/infer",)})
    with pytest.raises(NotFound, match="two backends"):
        opened(site, {"a": ("infer:8001",)}).read()
    assert one.read().weights == {"a": 0, "b": 0}
    state = one.read()
    written = one.write({"a": 60, "b": 40}, epoch=1, writer="w", expected=state)
    assert written.weights == {"a": 60, "b": 40}
    found = site.route()["spec"]["rules"][0]["backendRefs"]
    assert [reference["weight"] for reference in found] == [0, 60, 40]


def test_another_rule(site: GatewayApiSite) -> None:
    second = {"backendRefs": backends(("infer-a", 7), ("infer-b", 3), ("infer-c", 0))}
    site.edit([{"op": "add", "path": "/spec/rules/-", "value": second}])
    traffic = opened(site, TARGETS, rule="1")
    assert traffic.read().weights == {"a": 70, "b": 30, "c": 0}
    put(traffic, B, 1)
    rules = site.route()["spec"]["rules"]
    assert [one["weight"] for one in rules[0]["backendRefs"]] == [1, 1, 1]
    assert [one["weight"] for one in rules[1]["backendRefs"]] == [0, 100, 0]
    with pytest.raises(NotFound, match="no rule 2: the route has 2"):
        opened(site, TARGETS, rule="2").read()


def test_an_epoch_that_is_none(site: GatewayApiSite, traffic: GatewayApiTraffic) -> None:
    state = claim(traffic, 5)
    note = {"metadata": {"annotations": {"mlplatform.dev/epoch": "latest"}}}
    site.plane.merge(site.path, note)
    for act in (traffic.read, lambda: traffic.write(B, epoch=9, writer="w", expected=state)):
        with pytest.raises(IntegrityError, match="'latest'"):
            act()
    assert raw(site) == {"infer-a": 1, "infer-b": 1, "infer-c": 1}


@pytest.mark.parametrize(("epoch", "error"), [("9", Fenced), ("4", ConditionFailed)])
def test_an_epoch_raised_or_lowered_by_hand(
    site: GatewayApiSite, traffic: GatewayApiTraffic, epoch: str, error: type[MlplatformError]
) -> None:
    """The lock of last resort: `kubectl annotate --overwrite`. The server checks it, not we."""
    state = claim(traffic, 5)
    site.plane.merge(site.path, {"metadata": {"annotations": {"mlplatform.dev/epoch": epoch}}})
    with pytest.raises(error):
        traffic.write(B, epoch=5, writer="w", expected=state)
    assert raw(site) == {"infer-a": 1, "infer-b": 1, "infer-c": 1}


# ----------------------------------------------------------------------------------- in force


def accepted(route: Any, **changed: Any) -> dict[str, Any]:
    """A parent's answer, as a gateway writes it."""
    return {
        "parentRef": changed.get("parent", {"name": "world"}),
        "controllerName": "example.com/gateway",
        "conditions": [
            {
                "type": kind,
                "status": changed.get(kind, "True"),
                "reason": "Said",
                "message": "",
                "observedGeneration": route["metadata"]["generation"] - changed.get("behind", 0),
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            }
            for kind in changed.get("kinds", ("Accepted", "ResolvedRefs"))
        ],
    }


@pytest.mark.parametrize(
    ("answers", "in_force"),
    [
        ([], False),
        ([{}], True),
        ([{"behind": 1}], False),
        ([{"Accepted": "False"}], False),
        ([{"ResolvedRefs": "False"}], False),
        ([{"Accepted": "Unknown"}], False),
        ([{"kinds": ("Accepted",)}], False),
        ([{"parent": {"name": "another"}}], False),
        ([{}, {"parent": {"name": "another"}, "Accepted": "False"}], True),
        ([{}, {"Accepted": "False"}], False),
    ],
    ids=[
        "no gateway writes a status",
        "accepted",
        "an older generation was",
        "not accepted",
        "a backend does not resolve",
        "not known",
        "half of the answer",
        "by a parent that is not asked",
        "refused by a parent that is not asked",
        "two controllers, one refuses",
    ],
)
def test_in_force(
    site: GatewayApiSite,
    traffic: GatewayApiTraffic,
    answers: list[dict[str, Any]],
    in_force: bool,
) -> None:
    site.gateway.idle = True
    state = put(traffic, B, 1)
    route = site.route()
    status = {"parents": [accepted(route, **answer) for answer in answers]}
    site.plane.ask("PUT", f"{site.path}/status", route | {"status": status})
    assert traffic.in_force(state) is in_force


def test_each_parent_has_to_accept(site: GatewayApiSite, traffic: GatewayApiTraffic) -> None:
    site.gateway.idle = True
    both = [{"name": "world", "sectionName": one} for one in ("http", "https")]
    site.edit([{"op": "replace", "path": "/spec/parentRefs", "value": both}])
    state = put(traffic, B, 1)
    route = site.route()
    for ready in (1, 2):
        parents = [accepted(route, parent=one) for one in both[:ready]]
        site.plane.ask("PUT", f"{site.path}/status", route | {"status": {"parents": parents}})
        route = site.route()
        assert traffic.in_force(state) is (ready == 2)


# -------------------------------------------------------------------------- who may, and who not


def test_no_right_is_named(site: GatewayApiSite) -> None:
    with pytest.raises(Denied, match=r"may not get httproutes\.gateway") as raised:
        site.open(user="nobody").read()
    assert raised.value.right == "get httproutes.gateway.networking.k8s.io"
    assert f"api in namespace {site.namespace}" in str(raised.value)
    assert "infra/rbac/route-writer.yaml" in (raised.value.hint or "")


def test_a_right_to_read_is_none_to_write(site: GatewayApiSite, traffic: GatewayApiTraffic) -> None:
    state = claim(traffic, 1)
    role = "mlplatform-route-writer"
    change(site.plane, site.namespace, role, lambda rules: [{**rules[0], "verbs": ["get"]}])
    with pytest.raises(Denied, match="may not patch") as raised:
        traffic.write(B, epoch=1, writer="w", expected=state)
    assert raised.value.exit_code == 4
    assert content(traffic.read()) == content(state)


@pytest.mark.parametrize(
    ("verb", "name", "allowed"),
    [
        ("get", "api", True),
        ("patch", "api", True),
        ("update", "api", False),
        ("delete", "api", False),
        ("create", "", False),
        ("list", "", False),
        ("watch", "", False),
        ("get", "another", False),
        ("patch", "another", False),
    ],
)
def test_the_role_that_we_ship(site: GatewayApiSite, verb: str, name: str, allowed: bool) -> None:
    asked = {
        "spec": {
            "resourceAttributes": {
                "namespace": site.namespace,
                "group": "gateway.networking.k8s.io",
                "resource": "httproutes",
                "verb": verb,
                "name": name,
            }
        }
    }
    api = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
    assert site.plane.ask("POST", api, asked, user="failover-1")["status"]["allowed"] is allowed


def kubeconfig(site: GatewayApiSite, path: Path, **changed: Any) -> GatewayApiTraffic:
    """An adapter with a kubeconfig of the test's own."""
    context = changed.get("context", CONTEXT)
    site.plane.kubeconfig(path, "failover-1", context=context)
    document = yaml.safe_load(path.read_text())
    document["clusters"][0]["cluster"] |= changed.get("cluster", {})
    if "user" in changed:
        document["users"][0]["user"] = changed["user"]
    path.write_text(yaml.safe_dump(document))
    asked = changed.get("asked", CONTEXT)
    text = f"httproute://{asked}/{site.namespace}/api?kubeconfig={path}&stall_seconds=2"
    return open_traffic(StoreURL.parse(text, noun="actuator"), TARGETS)


def test_a_token_that_is_renewed(site: GatewayApiSite, tmp_path: Path) -> None:
    """Refused, the kubeconfig is read anew, and once only."""
    file = tmp_path / "config"
    traffic = kubeconfig(site, file, user={"token": "worn-out"})
    with pytest.raises(Denied, match="not accepted, or have expired") as raised:
        traffic.read()
    assert "worn-out" not in f"{raised.value}{raised.value.hint}"
    state = kubeconfig(site, file).read()
    worn_out = kubeconfig(site, file, user={"token": "worn-out"})
    with pytest.raises(Denied):
        worn_out.read()
    kubeconfig(site, file)
    assert worn_out.read() == state
    assert traffic.write(B, epoch=1, writer="w", expected=state).epoch == 1


def credentials_command(path: Path, text: str) -> dict[str, Any]:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return {
        "exec": {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": str(path),
            "interactiveMode": "Never",
        }
    }


def test_credentials_by_a_command(site: GatewayApiSite, tmp_path: Path) -> None:
    """As `aws eks get-token` and `gke-gcloud-auth-plugin` give them."""
    answer = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "kind": "ExecCredential",
        "status": {"token": site.plane.token("failover-1")},
    }
    user = credentials_command(tmp_path / "plugin", f"echo '{json.dumps(answer)}'")
    assert kubeconfig(site, tmp_path / "config", user=user).read().epoch == 0


def test_a_credentials_command_that_fails(site: GatewayApiSite, tmp_path: Path) -> None:
    user = credentials_command(tmp_path / "plugin", "echo 'session is over' >&2; exit 1")
    with pytest.raises(Denied, match=f"context {CONTEXT} gives no credentials") as raised:
        kubeconfig(site, tmp_path / "config", user=user).read()
    assert raised.value.hint == f"kubectl --context {CONTEXT} auth whoami"


def test_a_context_with_odd_characters(site: GatewayApiSite, tmp_path: Path) -> None:
    arn = "arn:aws:eks:eu-west-1:111122223333:cluster/world@blue"
    asked = arn.replace("/", "%2F").replace("@", "%40")
    assert kubeconfig(site, tmp_path / "config", context=arn, asked=asked).read().epoch == 0


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"asked": "moon"}, "context moon: .*moon"),
        ({"cluster": {"insecure-skip-tls-verify": True}}, "says insecure-skip-tls-verify"),
        ({"cluster": {"server": "http://10.0.0.1:6443"}}, "by plain HTTP"),
    ],
    ids=["no such context", "unverified", "plain"],
)
def test_kubeconfigs_that_will_not_do(
    site: GatewayApiSite, tmp_path: Path, changed: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError, match=said) as raised:
        kubeconfig(site, tmp_path / "config", **changed).read()
    assert raised.value.hint


def test_no_kubeconfig(
    site: GatewayApiSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    url = StoreURL.parse("httproute://world/gateway/api", noun="actuator")
    with pytest.raises(UsageError, match="context world"):
        open_traffic(url, TARGETS).read()
    file = site.plane.kubeconfig(tmp_path / "config", "failover-1", context="world")
    monkeypatch.setenv("KUBECONFIG", str(file))
    url = StoreURL.parse(f"httproute://world/{site.namespace}/api", noun="actuator")
    assert open_traffic(url, TARGETS).read().epoch == 0


def test_a_certificate_that_somebody_else_signed(site: GatewayApiSite, tmp_path: Path) -> None:
    from botocore.httpsession import get_cert_path

    public = {"certificate-authority": get_cert_path(verify=True)}
    with pytest.raises(Unavailable, match="certificate verify failed") as raised:
        kubeconfig(site, tmp_path / "config", cluster=public).read()
    assert "certificate-authority-data" in (raised.value.hint or "")


# ------------------------------------------------------------------------------- refusals


def status(code: int, message: str = "said so", **details: Any) -> bytes:
    return json.dumps(
        {"kind": "Status", "status": "Failure", "message": message, "code": code} | details
    ).encode()


@pytest.mark.parametrize(
    ("reply", "error", "said"),
    [
        (Reply(404, b"404 page not found\n"), ContainerMissing, "has no httproutes.gateway"),
        (Reply(404, status(404, details={})), ContainerMissing, "has no httproutes.gateway"),
        (Reply(429, status(429), {"Retry-After": "7"}), Throttled, "asks for patience"),
        (Reply(500, status(500, "etcdserver: no leader")), Unavailable, "no leader"),
        (Reply(503, b"<html>busy</html>"), Unavailable, "503"),
        (Reply(504, status(504, "timed out")), Unavailable, "timed out"),
        (Reply(200, b"{}", {"Content-Type": "application/json"}), Unavailable, "no API server"),
        (Reply(200, b"<html>", {"Content-Type": "text/html"}), Unavailable, "no API server"),
        (Reply(302, b"", {"Location": "https://elsewhere.test/"}), StoreError, "302"),
        (Reply(409, status(409, "modified")), Throttled, "modified"),
        (Reply(422, status(422, "a policy forbids it")), StoreError, "a policy forbids it"),
        (Reply(400, status(400, "webhook denied it")), StoreError, "webhook denied it"),
    ],
    ids=lambda value: str(value.status) if isinstance(value, Reply) else "",
)
def test_what_an_api_server_answers(
    site: GatewayApiSite,
    traffic: GatewayApiTraffic,
    reply: Reply,
    error: type[MlplatformError],
    said: str,
) -> None:
    """To a write; what it answers to the read that explains it is its own."""
    state = claim(traffic, 1)
    site.way.reply_to_patch = reply
    with pytest.raises(error, match=said) as raised:
        traffic.write(B, epoch=1, writer="w", expected=state)
    assert type(raised.value) is error
    if isinstance(raised.value, Throttled) and reply.status == 429:
        assert raised.value.retry_after_seconds == 7
    site.way.reply_to_patch = None
    assert content(traffic.read()) == content(state)


def test_a_route_that_is_not_there(site: GatewayApiSite, traffic: GatewayApiTraffic) -> None:
    site.remove()
    with pytest.raises(NotFound, match=f"no HTTPRoute api in namespace {site.namespace}") as raised:
        traffic.read()
    assert not isinstance(raised.value, ContainerMissing)


def test_a_write_is_one_request(site: GatewayApiSite, traffic: GatewayApiTraffic) -> None:
    """On the night that it matters, every round trip counts."""
    state = traffic.read()
    before = len(site.way.asked)
    traffic.write(B, epoch=1, writer="w", expected=state)
    assert site.way.asked[before:] == ["PATCH"]


# ------------------------------------------------------------------------------------- the URL


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("httproute://world", "does not name an HTTPRoute"),
        ("httproute://world/gateway", "does not name an HTTPRoute"),
        ("httproute://world/gateway/api/more", "does not name an HTTPRoute"),
        ("httproute:///gateway/api", "does not name an HTTPRoute"),
        ("httproute://world/gateway/api?rule=first", "rule='first' is not a number"),
        ("httproute://world/gateway/api?rule=-1", "rule='-1' is not a number"),
        ("httproute://world/gateway/api?colour=red", "unknown option 'colour'"),
    ],
)
def test_urls_that_will_not_do(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        open_traffic(StoreURL.parse(text, noun="actuator"), TARGETS)


def test_one_backend_a_region() -> None:
    url = StoreURL.parse("httproute://world/gateway/api", noun="actuator")
    with pytest.raises(UsageError, match="a: one backend a region"):
        open_traffic(url, {"a": ("one", "two"), "b": ("three",)})


def test_two_regions_that_are_one_backend(site: GatewayApiSite) -> None:
    with pytest.raises(UsageError, match="two regions are one backend"):
        opened(site, {"a": ("infer-a",), "b": ("infer-a",)}).read()


def test_a_state_says_what_each_region_is(traffic: GatewayApiTraffic) -> None:
    state: RouteState = traffic.read()
    assert state.detail == {region: f"infer-{region}, weight 1" for region in "abc"}
    assert state.ttl_seconds is None
