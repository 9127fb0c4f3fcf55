"""The Roles that we ship, put into a cluster of tests."""

from __future__ import annotations

import copy
from pathlib import Path

import yaml

from .control_plane import ControlPlane

_FOLDER = Path(__file__).parents[3] / "infra/rbac"
_RBAC = "/apis/rbac.authorization.k8s.io/v1"


def grant(plane: ControlPlane, file: str, namespace: str) -> None:
    """Everything of `infra/rbac/FILE`, in a namespace; what is the cluster's, once."""
    for document in yaml.safe_load_all((_FOLDER / file).read_text()):
        body, plural = copy.deepcopy(document), f"{document['kind'].lower()}s"
        path = f"{_RBAC}/namespaces/{namespace}/{plural}"
        if document["kind"].startswith("Cluster"):
            path = f"{_RBAC}/{plural}"
            there = {each["metadata"]["name"] for each in plane.ask("GET", path)["items"]}
            if body["metadata"]["name"] in there:
                continue
        else:
            body["metadata"]["namespace"] = namespace
        plane.ask("POST", path, body)


def revoke_of_cluster(plane: ControlPlane, name: str) -> None:
    """Take a ClusterRole from those who have it, by whichever site's binding."""
    path = f"{_RBAC}/clusterrolebindings"
    for each in plane.ask("GET", path)["items"]:
        bound = each["metadata"]["name"]
        if bound == name or bound.startswith(f"{name}-"):
            plane.ask("DELETE", f"{path}/{bound}")
