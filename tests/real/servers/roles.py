"""The Roles that we ship, put into a cluster of tests. An API server's authoriser hears of what was
written a moment later, and refuses until then: everything here returns after that moment."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from tests.waiting import becomes

from .control_plane import USERS, ControlPlane

_FOLDER = Path(__file__).parents[3] / "infra/rbac"
_RBAC = "/apis/rbac.authorization.k8s.io/v1"
_REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews"
_FIELDS = ("verbs", "apiGroups", "resources", "resourceNames")

JSON = dict[str, Any]
Rules = frozenset[tuple[frozenset[str], ...]]


def shipped(file: str) -> list[JSON]:
    """What `infra/rbac/FILE` holds."""
    return list(yaml.safe_load_all((_FOLDER / file).read_text()))


def grant(plane: ControlPlane, file: str, namespace: str) -> None:
    """Everything of `infra/rbac/FILE`, in a namespace; what is the cluster's, once."""
    put(plane, shipped(file), namespace)


def put(plane: ControlPlane, documents: Iterable[JSON], namespace: str) -> None:
    """Roles and what binds them, in a namespace; what is the cluster's, once."""
    documents = copy.deepcopy(list(documents))
    for body in documents:
        plural = f"{body['kind'].lower()}s"
        path = f"{_RBAC}/namespaces/{namespace}/{plural}"
        if body["kind"].startswith("Cluster"):
            path = f"{_RBAC}/{plural}"
            there = {each["metadata"]["name"] for each in plane.ask("GET", path)["items"]}
            if body["metadata"]["name"] in there:
                continue
        else:
            body["metadata"]["namespace"] = namespace
        plane.ask("POST", path, body)
    roles = {(each["kind"], each["metadata"]["name"]): each for each in documents}
    for binding in documents:
        if "roleRef" in binding:
            role = roles[binding["roleRef"]["kind"], binding["roleRef"]["name"]]
            _await(plane, binding, namespace, there=_rules(role["rules"]))


def change(
    plane: ControlPlane, namespace: str, name: str, edit: Callable[[list[JSON]], list[JSON]]
) -> None:
    """Other rules in a Role of a namespace."""
    path = f"{_RBAC}/namespaces/{namespace}"
    role = plane.ask("GET", f"{path}/roles/{name}")
    before = _rules(role["rules"])
    role["rules"] = edit(role["rules"])
    after = _rules(role["rules"])
    plane.ask("PUT", f"{path}/roles/{name}", role)
    for binding in plane.ask("GET", f"{path}/rolebindings")["items"]:
        if binding["roleRef"]["name"] == name:
            _await(plane, binding, namespace, there=after, gone=before - after)


def revoke_of_cluster(plane: ControlPlane, name: str) -> None:
    """Take a ClusterRole from those who have it, by whichever site's binding."""
    path = f"{_RBAC}/clusterrolebindings"
    gone: list[tuple[JSON, Rules]] = []
    for each in plane.ask("GET", path)["items"]:
        bound = each["metadata"]["name"]
        if bound == name or bound.startswith(f"{name}-"):
            role = plane.ask("GET", f"{_RBAC}/clusterroles/{each['roleRef']['name']}")
            plane.ask("DELETE", f"{path}/{bound}")
            gone.append((each, _rules(role["rules"])))
    for each, rules in gone:
        _await(plane, each, "default", gone=rules)


def _await(
    plane: ControlPlane,
    binding: JSON,
    namespace: str,
    *,
    there: Rules = frozenset(),
    gone: Rules = frozenset(),
) -> None:
    """Until those who are bound have these rules, and have none of the others."""
    for user in _bound(binding):
        becomes(
            partial(_held, plane, user, namespace),
            lambda held: there <= held and not gone & held,
            every_seconds=0.01,
        )


def _bound(binding: JSON) -> Iterator[str]:
    names = {each["name"] for each in binding.get("subjects", ())}
    return (user for user, group in USERS.items() if user in names or group in names)


def _held(plane: ControlPlane, user: str, namespace: str) -> Rules:
    """What an authoriser would allow a user now; nothing where it does not even say so."""
    asked = {"spec": {"namespace": namespace}}
    try:
        status = plane.ask("POST", _REVIEWS, asked, user=user)["status"]
    except RuntimeError:
        return frozenset()
    return _rules(status["resourceRules"])


def _rules(rules: Iterable[JSON]) -> Rules:
    return frozenset(tuple(frozenset(each.get(name, ())) for name in _FIELDS) for each in rules)
