"""Why a pod does not answer: what Kubernetes says of it, in the servers port's words.

What is read where is the table of the reference for operators: a pod's conditions, its containers'
states, and its Deployment's conditions. Events are not read: they are forgotten after an hour, and
all that these states need is in the objects.
"""

from __future__ import annotations

from collections.abc import Iterator

from mlplatform.adapters.kubernetes_api import JSON
from mlplatform.adapters.kubernetes_pods import is_ready
from mlplatform.ports.servers import Ailing, Stuck

_IMAGE = frozenset(
    {
        "ErrImagePull",
        "ImagePullBackOff",
        "InvalidImageName",
        "ErrImageNeverPull",
        "ImageInspectError",
        "RegistryUnavailable",
        "SignatureValidationFailed",
    }
)
_CONFIGURATION = frozenset(
    {"CreateContainerConfigError", "CreateContainerError", "RunContainerError"}
)
_BACK_OFF = "CrashLoopBackOff"
_OUT_OF_MEMORY = "OOMKilled"
_NOT_ADMITTED = frozenset({"UnexpectedAdmissionError", "NodeAffinity", "NodePorts", "Terminated"})
_OUT_OF = "OutOf"
"""How the kubelet's refusals for want of a resource begin: OutOfcpu, OutOfnvidia.com/gpu."""
_EVICTED = frozenset({"Evicted", "Preempting"})
_REASON_LENGTH = 300


def ailing_of(pod: JSON, *, overdue: bool) -> Ailing | None:
    """What keeps a pod from answering; None for one that answers. `overdue`: its Deployment has
    waited for longer than its own deadline."""
    if is_ready(pod):
        return None
    name = str(pod["metadata"]["name"])
    status = pod.get("status") or {}
    if status.get("phase") == "Failed":
        return Ailing(name, *_failed(status))
    conditions = {each["type"]: each for each in status.get("conditions") or ()}
    scheduled = conditions.get("PodScheduled") or {}
    if scheduled.get("status") == "False":
        gated = scheduled.get("reason") == "SchedulingGated"
        state = Stuck.STARTING if gated else Stuck.NO_CAPACITY
        return Ailing(name, state, _words(scheduled))
    for container in _containers(status):
        if (found := _of_container(container)) is not None:
            return Ailing(name, *found)
    return Ailing(name, *_waiting(status, conditions, overdue=overdue))


def refused_of(deployment: JSON) -> Ailing | None:
    """Why a Deployment gets no pods at all: a quota, or somebody who does not let them in."""
    for each in (deployment.get("status") or {}).get("conditions") or ():
        if each["type"] == "ReplicaFailure" and each["status"] == "True":
            said = str(each.get("message", ""))
            if "exceeded quota" in said:
                state = Stuck.NO_CAPACITY
            elif "service account" in said:
                state = Stuck.CONFIGURATION
            else:
                state = Stuck.ADMISSION
            return Ailing(str(deployment["metadata"]["name"]), state, _words(each))
    return None


def is_overdue(deployment: JSON) -> bool:
    """Whether a Deployment has made no progress for longer than its own deadline."""
    return any(
        each["type"] == "Progressing" and each.get("reason") == "ProgressDeadlineExceeded"
        for each in (deployment.get("status") or {}).get("conditions") or ()
    )


def ended(pod: JSON) -> int:
    """How often its containers have ended and were started again."""
    status = pod.get("status") or {}
    return sum(int(each.get("restartCount", 0)) for each in _containers(status))


def _failed(status: JSON) -> tuple[Stuck, str]:
    reason = str(status.get("reason", ""))
    if reason in _NOT_ADMITTED or reason.startswith(_OUT_OF):
        return Stuck.ADMISSION, _words(status)
    if reason in _EVICTED:
        return Stuck.NO_CAPACITY, _words(status)
    for container in _containers(status):
        if (found := _of_container(container)) is not None:
            return found
    return Stuck.CRASH, _words(status)


def _containers(status: JSON) -> Iterator[JSON]:
    yield from status.get("initContainerStatuses") or ()
    yield from status.get("containerStatuses") or ()


def _of_container(container: JSON) -> tuple[Stuck, str] | None:
    """What is wrong with one; None where it only takes its time."""
    if container.get("ready"):
        return None
    state = container.get("state") or {}
    waiting = state.get("waiting") or {}
    reason = waiting.get("reason", "")
    if reason in _IMAGE:
        return Stuck.IMAGE, _words(waiting)
    if reason in _CONFIGURATION:
        return Stuck.CONFIGURATION, _words(waiting)
    last = state.get("terminated") or (container.get("lastState") or {}).get("terminated")
    if last and (last.get("exitCode") or last.get("reason") == _OUT_OF_MEMORY):
        said = f"exit code {last['exitCode']}" if last.get("exitCode") is not None else ""
        words = ", ".join(part for part in (said, _words(last)) if part)
        kind = Stuck.OUT_OF_MEMORY if last.get("reason") == _OUT_OF_MEMORY else Stuck.CRASH
        return kind, words[:_REASON_LENGTH]
    if reason == _BACK_OFF:
        return Stuck.CRASH, _words(waiting)
    return None


def _waiting(status: JSON, conditions: dict[str, JSON], *, overdue: bool) -> tuple[Stuck, str]:
    """Nothing is wrong that Kubernetes could see; it is not ready."""
    late = [each for each in _containers(status) if not each.get("ready")]
    said = ""
    for each in late:
        waiting = (each.get("state") or {}).get("waiting")
        if waiting:
            said = _words(waiting)
            break
        if each.get("started") is False:
            said = f"container {each['name']} has not passed its startup probe"
            break
        if "running" in (each.get("state") or {}):
            said = f"container {each['name']} runs, and does not say that it is ready"
            break
    was_ready = _was_ready(status, conditions)
    if not late and conditions.get("ContainersReady", {}).get("status") == "True":
        said = _words(conditions.get("Ready") or {}) or "a readiness gate is shut"
    if not said:
        said = "nothing is known of its containers yet"
    return (Stuck.NOT_READY if overdue or was_ready else Stuck.STARTING), said


def _was_ready(status: JSON, conditions: dict[str, JSON]) -> bool:
    """Ready is False from when the pod starts, before its containers do. If it turned so after
    they had started, it was true meanwhile. Times of the API compare as text (RFC 3339, UTC)."""
    turned = str((conditions.get("Ready") or {}).get("lastTransitionTime") or "")
    started = [
        str(each["state"]["running"].get("startedAt") or "")
        for each in status.get("containerStatuses") or ()
        if "running" in (each.get("state") or {})
    ]
    return bool(turned and started) and all(started) and turned > max(started)


def _words(found: JSON) -> str:
    """Reason and message, on one line."""
    parts = (str(found.get(key) or "") for key in ("reason", "message"))
    return " ".join(": ".join(part for part in parts if part).split())[:_REASON_LENGTH]
