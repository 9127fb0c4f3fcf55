"""Why a pod does not answer, and who puts a field back: what no controller here brings about."""

from __future__ import annotations

from typing import Any

import pytest

from mlplatform.adapters.kubernetes_owners import Owner, fix_of, mend_of, mover_of, owner_of
from mlplatform.adapters.kubernetes_stuck import (
    CREATING_EVENTS,
    PROBE_EVENTS,
    ailing_of,
    ended,
    events_of,
    is_overdue,
    refused_of,
)
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
    "its node cannot give it what it wants from one place": (
        pod(
            phase="Failed", reason="TopologyAffinityError", message="Resources cannot be allocated"
        ),
        Stuck.ADMISSION,
        "TopologyAffinityError",
    ),
    "its node shuts down": (
        pod(phase="Failed", reason="Terminated", message="in response to imminent node shutdown"),
        Stuck.NO_CAPACITY,
        "imminent node shutdown",
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


# --- what events tell ----------------------------------------------------------------------------

CREATING: dict[str, Any] = {
    "phase": "Pending",
    "containerStatuses": [running(state={"waiting": {"reason": "ContainerCreating"}})],
}
NO_SECRET = 'MountVolume.SetUp failed for volume "tokens" : secret "tokens" not found'
NO_SETTINGS = 'MountVolume.SetUp failed for volume "s" : configmap "settings" not found'
NO_KEY = 'MountVolume.SetUp failed for volume "s" : references non-existent config key: a.yaml'
NO_DRIVER = "driver name efs.csi.aws.com not found in the list of registered CSI drivers"
NO_ANSWER = "Readiness probe failed: HTTP probe failed with statuscode: 503"


def event(reason: str, message: str, at: str = "00:01:00", **more: Any) -> JSON:
    return {
        "metadata": {"creationTimestamp": f"2026-01-01T{at}Z"},
        "reason": reason,
        "message": message,
        "lastTimestamp": f"2026-01-01T{at}Z",
        **more,
    }


def condition_of(kind: str, message: str) -> JSON:
    reason = "Unschedulable" if kind == "PodScheduled" else ""
    return condition(kind, "False", reason=reason, message=message)


EVENTS: dict[str, tuple[JSON, list[JSON], Stuck, str]] = {
    "a Secret is not there": (
        pod(**CREATING),
        [event("FailedMount", NO_SECRET)],
        Stuck.CONFIGURATION,
        f"FailedMount: {NO_SECRET}",
    ),
    "a ConfigMap is not there": (
        pod(**CREATING),
        [event("FailedMount", NO_SETTINGS)],
        Stuck.CONFIGURATION,
        f"FailedMount: {NO_SETTINGS}",
    ),
    "a ConfigMap has no such key": (
        pod(**CREATING),
        [event("FailedMount", NO_KEY)],
        Stuck.CONFIGURATION,
        f"FailedMount: {NO_KEY}",
    ),
    "a driver is not there yet": (
        pod(**CREATING),
        [event("FailedMount", NO_DRIVER)],
        Stuck.VOLUME,
        f"FailedMount: {NO_DRIVER}",
    ),
    "another node has the volume": (
        pod(**CREATING),
        [event("FailedAttachVolume", 'Multi-Attach error for volume "pvc-1"')],
        Stuck.VOLUME,
        'FailedAttachVolume: Multi-Attach error for volume "pvc-1"',
    ),
    "what came last counts": (
        pod(**CREATING),
        [
            event("FailedMount", "timed out waiting for the condition", "00:03:00"),
            event("FailedAttachVolume", "Multi-Attach error", "00:02:00"),
        ],
        Stuck.VOLUME,
        "FailedMount: timed out waiting for the condition",
    ),
    "what is repeated came last": (
        pod(**CREATING),
        [
            event("FailedMount", NO_SECRET, series={"lastObservedTime": "2026-01-01T00:09:00.5Z"}),
            event("FailedAttachVolume", "Multi-Attach error", "00:02:00"),
        ],
        Stuck.CONFIGURATION,
        f"FailedMount: {NO_SECRET}",
    ),
    "it has no network": (
        pod(**CREATING),
        [event("FailedMount", NO_DRIVER), event("FailedCreatePodSandBox", "no IP", "00:02:00")],
        Stuck.STARTING,
        "FailedCreatePodSandBox: no IP",
    ),
    "its volumes are mounted by now": (
        pod(**CREATING, conditions=[condition("PodReadyToStartContainers", "True")]),
        [event("FailedMount", NO_SECRET)],
        Stuck.STARTING,
        "ContainerCreating",
    ),
    "others are warned": (
        pod(**CREATING),
        [event("DNSConfigForming", "Nameserver limits were exceeded")],
        Stuck.STARTING,
        "ContainerCreating",
    ),
    "what a probe was answered": (
        pod(
            conditions=[condition("Ready", "False", "2026-01-01T00:09:00Z")],
            containerStatuses=[running()],
        ),
        [event("Unhealthy", NO_ANSWER)],
        Stuck.NOT_READY,
        f"container server runs, and does not say that it is ready: Unhealthy: {NO_ANSWER}",
    ),
    "what a probe of a former life was answered": (
        pod(conditions=[NOT_READY], containerStatuses=[running()]),
        [event("Unhealthy", NO_ANSWER, "00:00:05")],
        Stuck.STARTING,
        "container server runs, and does not say that it is ready",
    ),
}


@pytest.mark.parametrize("what", EVENTS)
def test_what_events_tell(what: str) -> None:
    body, events, state, said = EVENTS[what]
    assert ailing_of(body, overdue=False, events=events) == Ailing("magika-1", state, said)


UNSCHEDULED = {
    '0/1 nodes are available: persistentvolumeclaim "models" not found.': Stuck.CONFIGURATION,
    "0/3 nodes are available: pod has unbound immediate PersistentVolumeClaims.": Stuck.VOLUME,
    "0/2 nodes are available: 2 Insufficient nvidia.com/gpu.": Stuck.NO_CAPACITY,
    "0/2 nodes are available: 2 node(s) had volume node affinity conflict.": Stuck.NO_CAPACITY,
}


@pytest.mark.parametrize("message", UNSCHEDULED)
def test_why_the_scheduler_has_no_node(message: str) -> None:
    found = ailing_of(pod(conditions=[condition_of("PodScheduled", message)]), overdue=False)
    assert found == Ailing("magika-1", UNSCHEDULED[message], f"Unschedulable: {message}")


LATE: dict[str, Any] = {"conditions": [NOT_READY], "containerStatuses": [running()]}
ASKED: dict[str, tuple[JSON, bool, str | None]] = {
    "it is made": (pod(**CREATING), False, CREATING_EVENTS),
    "it loads": (pod(**LATE), False, None),
    "it has had long enough": (pod(**LATE), True, PROBE_EVENTS),
    "it is ready": (pod(conditions=[condition("Ready", "True")]), True, None),
    "its image is not there": (
        pod(containerStatuses=[running(state={"waiting": {"reason": "ImagePullBackOff"}})]),
        True,
        None,
    ),
    "its volumes are mounted": (
        pod(**CREATING, conditions=[condition("PodReadyToStartContainers", "True")]),
        True,
        None,
    ),
}


@pytest.mark.parametrize("what", ASKED)
def test_which_events_are_asked_for(what: str) -> None:
    body, overdue, fields = ASKED[what]
    assert events_of({**body, "spec": {"nodeName": "gpu-1"}}, overdue=overdue) == fields
    assert events_of({**body, "spec": {}}, overdue=overdue) is None


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


def test_a_deployment_that_its_controller_has_not_seen() -> None:
    """What is said of it was said of what it was."""
    failure = condition("ReplicaFailure", "True", message="exceeded quota: gpus")
    late = condition("Progressing", "False", reason="ProgressDeadlineExceeded")
    status = {"observedGeneration": 3, "conditions": [failure, late]}
    body = {"metadata": {"name": "magika", "generation": 3}, "status": status}
    assert is_overdue(body)
    assert refused_of(body) is not None
    changed = {**body, "metadata": {"name": "magika", "generation": 4}}
    assert not is_overdue(changed)
    assert refused_of(changed) is None


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


# --- the weights of a route ----------------------------------------------------------------------


def rewritten(manager: str, at: str = "00:00:00", *, ours: bool = False) -> JSON:
    """Who has written the rules of a route; `ours` is a write of a rollout."""
    noted: JSON = {"f:annotations": {"f:mlplatform.dev/nonce": {}}} if ours else {}
    return {
        "manager": manager,
        "time": f"2026-01-01T{at}Z",
        "fieldsV1": {"f:metadata": noted, "f:spec": {"f:rules": {}}},
    }


def taken(at: str) -> JSON:
    """A write of a rollout, whose rules somebody else has written since."""
    entry = rewritten("OpenAPI-Generator", at, ours=True)
    return {**entry, "fieldsV1": {"f:metadata": entry["fieldsV1"]["f:metadata"]}}


def route(*entries: JSON, **notes: dict[str, str]) -> JSON:
    about = {"name": "resnet50", "managedFields": list(entries), **notes}
    return {"kind": "HTTPRoute", "metadata": about}


MOVERS: dict[str, tuple[JSON, Owner | None]] = {
    "a person, before any rollout": (route(rewritten("kubectl-client-side-apply")), None),
    "a program, before any rollout": (route(rewritten("terraform-provider")), None),
    "the last rollout": (
        route(written("kubectl"), rewritten("OpenAPI-Generator", ours=True)),
        None,
    ),
    "Argo CD, by its label": (route(rewritten("kubectl"), labels=ARGO), Owner("Argo CD", "ml")),
    "Argo CD, which a rollout took the rules from": (
        route(written("argocd-controller", "parentRefs"), taken("00:05:00")),
        Owner("Argo CD", ""),
    ),
    "Argo CD, which makes an exception": (
        route(labels=ARGO, annotations={"mlplatform.dev/split-by": "rollout"}),
        None,
    ),
    "Flux": (route(labels=FLUX), Owner("Flux", "apps")),
    "Flagger": (route(rewritten("flagger")), Owner("Flagger", "")),
    "Argo Rollouts": (route(rewritten("rollouts-controller")), Owner("Argo Rollouts", "")),
    "a program, after the last rollout": (
        route(taken("00:05:00"), rewritten("canary-bot", "00:06:00")),
        Owner("canary-bot", ""),
    ),
    "a program, before the last rollout, which moved no weight": (
        route(taken("00:05:00"), rewritten("canary-bot", "00:04:00")),
        None,
    ),
    "a person, after the last rollout": (
        route(taken("00:05:00"), rewritten("kubectl-edit", "00:06:00")),
        None,
    ),
    "a gateway, which writes its status": (
        route(taken("00:05:00"), {**rewritten("gateway", "00:06:00"), "subresource": "status"}),
        None,
    ),
}


@pytest.mark.parametrize("what", MOVERS)
def test_who_else_moves_the_weights(what: str) -> None:
    body, owner = MOVERS[what]
    assert mover_of(body) == owner


MENDED = {
    Owner("Argo CD", "ml"): 'jqPathExpressions: [".spec.rules[].backendRefs"]}] and',
    Owner("Flux", "apps"): "kustomize.toolkit.fluxcd.io/ssa: IfNotPresent",
    Owner("Flagger", ""): "take HTTPRoute resnet50 from Flagger",
    Owner("canary-bot", ""): "if it was once only, annotate the route mlplatform.dev/split-by",
}


@pytest.mark.parametrize("owner", MENDED, ids=str)
def test_how_the_weights_are_left_alone(owner: Owner) -> None:
    assert MENDED[owner] in mend_of(owner, route())
