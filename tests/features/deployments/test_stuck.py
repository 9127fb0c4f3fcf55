"""Why a pod does not answer, and who puts a field back: what no controller here brings about."""

from __future__ import annotations

from typing import Any

import pytest

from mlplatform.adapters.kubernetes_owners import Owner, fix_of, owner_of
from mlplatform.adapters.kubernetes_stuck import ailing_of, ended, refused_of
from mlplatform.ports.servers import Ailing, Stuck

JSON = dict[str, Any]
STARTED = "2026-01-01T00:00:10Z"


def pod(*, phase: str = "Running", conditions: list[JSON] | None = None, **status: Any) -> JSON:
    return {
        "metadata": {"name": "magika-1"},
        "status": {"phase": phase, "conditions": conditions or [], **status},
    }


def running(**changed: Any) -> JSON:
    state = {"running": {"startedAt": STARTED}}
    return {"name": "server", "ready": False, "restartCount": 0, "state": state, **changed}


def condition(kind: str, status: str, at: str = "2026-01-01T00:00:00Z", **more: str) -> JSON:
    return {"type": kind, "status": status, "lastTransitionTime": at, **more}


NOT_READY = condition("Ready", "False")
PODS: dict[str, tuple[JSON, Stuck, str]] = {
    "the device is gone": (
        pod(phase="Failed", reason="UnexpectedAdmissionError", message="no healthy GPU"),
        Stuck.ADMISSION,
        "UnexpectedAdmissionError: no healthy GPU",
    ),
    "the node has not enough after all": (
        pod(phase="Failed", reason="OutOfnvidia.com/gpu", message="Node didn't have enough"),
        Stuck.ADMISSION,
        "OutOfnvidia.com/gpu",
    ),
    "evicted": (
        pod(phase="Failed", reason="Evicted", message="The node was low on memory"),
        Stuck.NO_CAPACITY,
        "Evicted: The node was low on memory",
    ),
    "ended for good": (
        pod(
            phase="Failed",
            containerStatuses=[running(state={"terminated": {"exitCode": 2, "reason": "Error"}})],
        ),
        Stuck.CRASH,
        "exit code 2, Error",
    ),
    "held back": (
        pod(conditions=[condition("PodScheduled", "False", reason="SchedulingGated")]),
        Stuck.STARTING,
        "SchedulingGated",
    ),
    "what fetches the model fails": (
        pod(
            phase="Pending",
            initContainerStatuses=[
                {
                    "name": "preload",
                    "ready": False,
                    "restartCount": 4,
                    "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                    "lastState": {"terminated": {"exitCode": 3, "reason": "Error"}},
                }
            ],
            containerStatuses=[running(state={"waiting": {"reason": "PodInitializing"}})],
        ),
        Stuck.CRASH,
        "exit code 3, Error",
    ),
    "it runs again after it was killed for memory": (
        pod(
            conditions=[NOT_READY],
            containerStatuses=[
                running(
                    restartCount=1,
                    lastState={"terminated": {"exitCode": 137, "reason": "OOMKilled"}},
                )
            ],
        ),
        Stuck.OUT_OF_MEMORY,
        "exit code 137, OOMKilled",
    ),
    "made": (
        pod(
            phase="Pending",
            containerStatuses=[running(state={"waiting": {"reason": "ContainerCreating"}})],
        ),
        Stuck.STARTING,
        "ContainerCreating",
    ),
    "runs, and is not ready yet": (
        pod(conditions=[NOT_READY], containerStatuses=[running()]),
        Stuck.STARTING,
        "does not say that it is ready",
    ),
    "was ready": (
        pod(
            conditions=[condition("Ready", "False", "2026-01-01T00:09:00Z")],
            containerStatuses=[running()],
        ),
        Stuck.NOT_READY,
        "does not say that it is ready",
    ),
    "a gate is shut": (
        pod(
            conditions=[
                condition("Ready", "False", reason="ReadinessGatesNotReady"),
                condition("ContainersReady", "True"),
            ],
            containerStatuses=[running(ready=True)],
        ),
        Stuck.STARTING,
        "ReadinessGatesNotReady",
    ),
    "nothing is known of it yet": (pod(phase="Pending"), Stuck.STARTING, "nothing is known"),
}


@pytest.mark.parametrize("what", PODS)
def test_why_a_pod_does_not_answer(what: str) -> None:
    body, state, said = PODS[what]
    found = ailing_of(body, overdue=False)
    assert found is not None
    assert (found.server, found.state) == ("magika-1", state)
    assert said in found.reason


def test_what_only_takes_its_time_is_late_one_day() -> None:
    body, _, _ = PODS["runs, and is not ready yet"]
    found = ailing_of(body, overdue=True)
    assert found is not None
    assert found.state is Stuck.NOT_READY


def test_one_that_answers() -> None:
    assert ailing_of(pod(conditions=[condition("Ready", "True")]), overdue=False) is None


def test_restarts_of_all_containers_count() -> None:
    body = pod(
        containerStatuses=[running(restartCount=2), running(restartCount=1)],
        initContainerStatuses=[running(restartCount=4)],
    )
    assert ended(body) == 7


REFUSALS = {
    'pods "m" is forbidden: exceeded quota: gpus, requested: 1': Stuck.NO_CAPACITY,
    'pods "m" is forbidden: error looking up service account a/b': Stuck.CONFIGURATION,
    'pods "m" is forbidden: violates PodSecurity "restricted:latest"': Stuck.ADMISSION,
    'admission webhook "policy.example" denied the request': Stuck.ADMISSION,
}


@pytest.mark.parametrize("message", REFUSALS)
def test_who_gets_no_pods(message: str) -> None:
    failure = condition("ReplicaFailure", "True", reason="FailedCreate", message=message)
    body = {"metadata": {"name": "magika"}, "status": {"conditions": [failure]}}
    assert refused_of(body) == Ailing("magika", REFUSALS[message], f"FailedCreate: {message}")


def written(manager: str, *fields: str, subresource: str = "") -> JSON:
    entry: JSON = {
        "manager": manager,
        "fieldsV1": {"f:spec": {f"f:{field}": {} for field in fields}},
    }
    return {**entry, "subresource": subresource} if subresource else entry


def deployment(
    *fields: JSON, labels: dict[str, str] | None = None, annotations: dict[str, str] | None = None
) -> JSON:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": "magika",
            "labels": labels or {},
            "annotations": annotations or {},
            "managedFields": list(fields),
        },
    }


ARGO = {"argocd.argoproj.io/instance": "ml"}
FLUX = {"kustomize.toolkit.fluxcd.io/name": "apps"}
OWNERS: dict[str, tuple[JSON, Owner | None]] = {
    "nobody": (deployment(written("kubectl", "replicas")), None),
    "Argo CD, by its label": (deployment(labels=ARGO), Owner("Argo CD", "ml")),
    "Argo CD, by its annotation": (
        deployment(annotations={"argocd.argoproj.io/tracking-id": "ml:apps/Deployment:x/magika"}),
        Owner("Argo CD", "ml"),
    ),
    "Argo CD, by what it wrote": (
        deployment(written("argocd-controller", "replicas")),
        Owner("Argo CD", ""),
    ),
    "Argo CD, without the number": (
        deployment(written("argocd-controller", "template"), labels=ARGO),
        None,
    ),
    "Argo CD, which wrote a status": (
        deployment(written("argocd-controller", "replicas", subresource="status")),
        None,
    ),
    "Flux": (
        deployment(written("kustomize-controller", "replicas"), labels=FLUX),
        Owner("Flux", "apps"),
    ),
    "Flux, without the number": (
        deployment(written("kustomize-controller", "template"), labels=FLUX),
        None,
    ),
    "Flux, by who manages it": (
        deployment(labels={"app.kubernetes.io/managed-by": "Flux"}),
        Owner("Flux", ""),
    ),
    "Helm": (deployment(labels={"app.kubernetes.io/managed-by": "Helm"}), None),
    "it was told to leave it": (
        deployment(labels=ARGO, annotations={"mlplatform.dev/scaled-by": "rollout"}),
        None,
    ),
}


@pytest.mark.parametrize("what", OWNERS)
def test_who_puts_the_number_back(what: str) -> None:
    body, owner = OWNERS[what]
    assert owner_of(body, "replicas") == owner


def test_the_fix_says_what_to_change_where() -> None:
    said = fix_of(Owner("Flux", "apps"), deployment(labels=FLUX), "replicas")
    assert "leave spec.replicas of Deployment magika out of what Flux apps applies" in said
    assert "mlplatform.dev/scaled-by=rollout" in said
