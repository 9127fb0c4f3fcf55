"""What a cluster remembers of what happened, asked of a real API server."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from mlplatform.adapters.kubernetes_api import KubernetesAPI
from mlplatform.adapters.kubernetes_happenings import KubernetesHappenings
from mlplatform.core.errors import Denied
from mlplatform.ports.happenings import Happening
from tests.real.servers.control_plane import ADMIN, ControlPlane
from tests.real.servers.roles import put, shipped

NUMBERS = count(1)
AT = datetime(2026, 10, 14, 14, tzinfo=UTC)


class Cluster:
    """A namespace of its own, and what is put into it."""

    def __init__(self, plane: ControlPlane, folder: Path) -> None:
        self.plane, self.folder = plane, folder
        self.namespace = f"happenings-{next(NUMBERS)}"
        plane.ask("POST", "/api/v1/namespaces", {"metadata": {"name": self.namespace}})

    def happenings(self, user: str = ADMIN) -> KubernetesHappenings:
        file = self.plane.kubeconfig(self.folder / "kubeconfig", user, context="eu")
        api = KubernetesAPI("eu", kubeconfig=str(file), timeout_seconds=30.0)
        return KubernetesHappenings(api, self.namespace)

    def between(self, since: datetime, until: datetime) -> list[Happening]:
        return self.happenings().between(since, until)

    def put(self, path: str, body: Mapping[str, Any]) -> Any:
        root, _, plural = path.rpartition("/")
        return self.plane.ask("POST", f"{root}/namespaces/{self.namespace}/{plural}", body)

    def event(self, name: str, at: datetime, reason: str, message: str, times: int = 1) -> None:
        self.put(
            "/api/v1/events",
            {
                "metadata": {"name": name},
                "involvedObject": {
                    "kind": "Deployment",
                    "name": "server",
                    "namespace": self.namespace,
                },
                "reason": reason,
                "message": message,
                "count": times,
                "firstTimestamp": at.strftime("%Y-%m-%dT%H:%M:%SZ"),
                "type": "Normal",
            },
        )

    def revision(self, name: str, revision: int, version: str) -> None:
        """A ReplicaSet, as the Deployment's controller makes them."""
        labels = {"app": "server", "mlplatform.dev/model": "resnet50"}
        container = {
            "name": "server",
            "image": "server",
            "env": [{"name": "MODEL_VERSION", "value": version}],
        }
        self.put(
            "/apis/apps/v1/replicasets",
            {
                "metadata": {
                    "name": name,
                    "labels": labels,
                    "annotations": {"deployment.kubernetes.io/revision": str(revision)},
                    "ownerReferences": [
                        {
                            "apiVersion": "apps/v1",
                            "kind": "Deployment",
                            "name": "server",
                            "uid": "0a1b",
                        }
                    ],
                },
                "spec": {
                    "selector": {"matchLabels": {"app": "server"}},
                    "template": {
                        "metadata": {"labels": labels},
                        "spec": {"containers": [container]},
                    },
                },
            },
        )


@pytest.fixture
def cluster(kubernetes: ControlPlane, tmp_path: Path) -> Cluster:
    return Cluster(kubernetes, tmp_path)


def test_events_of_the_time_that_was_asked_for_are_told_in_order(cluster: Cluster) -> None:
    cluster.event("late", AT + timedelta(hours=1), "BackOff", "restarting", times=7)
    cluster.event("scaled", AT, "ScalingReplicaSet", "Scaled up replica set server-1 to 8")
    cluster.event("before", AT - timedelta(days=2), "Killing", "stopped")
    found = cluster.between(AT - timedelta(hours=1), AT + timedelta(hours=2))
    assert [(each.at, each.kind, each.subject, each.times) for each in found] == [
        (AT, "scale", "server", 1),
        (AT + timedelta(hours=1), "BackOff", "server", 7),
    ]
    assert found[0].text == "Scaled up replica set server-1 to 8"


def test_a_revision_of_a_deployment_is_a_rollout_of_the_version_that_it_names(
    cluster: Cluster,
) -> None:
    cluster.revision("server-6d4", 7, "v3")
    now = datetime.now(UTC)
    (found,) = cluster.between(now - timedelta(hours=1), now + timedelta(hours=1))
    assert (found.kind, found.subject, found.model, found.version) == (
        "rollout",
        "server",
        "resnet50",
        "v3",
    )
    assert found.text == "revision 7 of server"


def test_an_autoscaler_tells_when_it_last_scaled(cluster: Cluster) -> None:
    path = "/apis/autoscaling/v2/horizontalpodautoscalers"
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "server"}
    cluster.put(
        path, {"metadata": {"name": "server"}, "spec": {"maxReplicas": 9, "scaleTargetRef": target}}
    )
    assert cluster.between(AT - timedelta(days=1), AT) == []
    cluster.plane.merge(
        f"/apis/autoscaling/v2/namespaces/{cluster.namespace}/horizontalpodautoscalers/server/status",
        {
            "status": {
                "lastScaleTime": "2026-10-14T14:00:00Z",
                "desiredReplicas": 8,
                "currentReplicas": 4,
                "conditions": [],
            }
        },
    )
    (found,) = cluster.between(AT - timedelta(days=1), AT)
    assert (found.kind, found.subject) == ("scale", "server")
    assert found.text == "server was scaled, to 8 now"


def test_who_may_not_ask_is_told_and_the_role_is_enough(cluster: Cluster) -> None:
    with pytest.raises(Denied):
        cluster.happenings("nobody").between(AT, AT)
    role, binding = shipped("happenings.yaml")
    for subject in binding["subjects"]:
        subject["name"] = "visitors"
    put(cluster.plane, [role, binding], cluster.namespace)
    assert cluster.happenings("nobody").between(AT, AT) == []
