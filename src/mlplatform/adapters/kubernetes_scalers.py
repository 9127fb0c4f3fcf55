"""Who scales Deployments: HorizontalPodAutoscalers, and KEDA's ScaledObjects."""

from __future__ import annotations

from dataclasses import dataclass

from mlplatform.adapters.kubernetes_api import JSON, KubernetesAPI, path_of
from mlplatform.core.errors import NotFound

COPIED = "mlplatform.dev/copied"
"""Annotation of an autoscaler: `false` where the Deployments of other versions are to get none."""
_PAUSED = ("autoscaling.keda.sh/paused", "autoscaling.keda.sh/paused-replicas")
_AUTOSCALER = {"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler"}
_SCALED_OBJECT = {"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject"}


@dataclass(frozen=True, slots=True)
class Scaler:
    """Who scales a Deployment, between which numbers of servers."""

    kind: str
    name: str
    path: str
    floor: int
    ceiling: int
    floor_at: str
    """Where in the object."""
    ceiling_at: str
    stated: tuple[int | None, int | None]
    """Floor and ceiling as the object has them; None where it leaves them out."""
    body: JSON
    """The object, with the kind that lists leave out."""
    paused: bool = False

    @property
    def is_copied(self) -> bool:
        """Whether another version's Deployment gets one like it. KEDA's have parts of their own
        (credentials, fallbacks) that are not to be guessed at."""
        return self.kind == _AUTOSCALER["kind"] and self.is_wanted

    @property
    def is_wanted(self) -> bool:
        """Whether another version's Deployment should have one."""
        return (self.body["metadata"].get("annotations") or {}).get(COPIED) != "false"

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


def scalers(api: KubernetesAPI, namespace: str) -> dict[str, Scaler]:
    """Who scales, by the name of the Deployment. KEDA drives an autoscaler of its own, and puts
    back what others change in it: then it is KEDA's object that counts."""
    found: dict[str, Scaler] = {}
    autoscalers = path_of(namespace, "autoscaling", "v2", "horizontalpodautoscalers")
    for each in api.items(autoscalers):
        about, spec = each["metadata"], each["spec"]
        owners = about.get("ownerReferences") or ()
        if any(owner.get("kind") == "ScaledObject" for owner in owners):
            continue
        target = spec["scaleTargetRef"]
        if target.get("kind") == "Deployment":
            found[target["name"]] = Scaler(
                _AUTOSCALER["kind"],
                about["name"],
                f"{autoscalers}/{about['name']}",
                floor=spec.get("minReplicas", 1),
                ceiling=spec["maxReplicas"],
                floor_at="/spec/minReplicas",
                ceiling_at="/spec/maxReplicas",
                stated=(spec.get("minReplicas"), spec["maxReplicas"]),
                body={**each, **_AUTOSCALER},
            )
    scaled_objects = path_of(namespace, "keda.sh", "v1alpha1", "scaledobjects")
    try:
        scaled = list(api.items(scaled_objects))
    except NotFound:
        scaled = []  # KEDA is not installed
    for each in scaled:
        about, spec = each["metadata"], each["spec"]
        target = spec["scaleTargetRef"]
        if target.get("kind", "Deployment") == "Deployment":
            notes = about.get("annotations") or {}
            found[target["name"]] = Scaler(
                _SCALED_OBJECT["kind"],
                about["name"],
                f"{scaled_objects}/{about['name']}",
                floor=spec.get("minReplicaCount", 0),
                ceiling=spec.get("maxReplicaCount", 100),
                floor_at="/spec/minReplicaCount",
                ceiling_at="/spec/maxReplicaCount",
                stated=(spec.get("minReplicaCount"), spec.get("maxReplicaCount")),
                body={**each, **_SCALED_OBJECT},
                paused=any(notes.get(name, "false") != "false" for name in _PAUSED),
            )
    return found
