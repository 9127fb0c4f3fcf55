"""Why a pod does not answer: what Kubernetes says of it, in the servers port's words.

What is read where is the table of the reference for operators: a pod's conditions, its containers'
states, and its Deployment's conditions. Two states are in no object: that a volume cannot be
attached or mounted, and what a probe was answered. These are events, which are asked for only where
a pod waits for its volumes, or is not ready in spite of its time: they are forgotten after an hour,
but the kubelet repeats what goes on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

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
_NOT_ADMITTED = frozenset(
    {"UnexpectedAdmissionError", "TopologyAffinityError", "NodeAffinity", "NodePorts"}
)
_OUT_OF = "OutOf"
"""How the kubelet's refusals for want of a resource begin: OutOfcpu, OutOfnvidia.com/gpu."""
_EVICTED = frozenset({"Evicted", "Preempting", "NodeShutdown", "Terminated"})
"""Its node has no room for it, or none any more: the last two are those of one that shuts down."""
_VOLUME = frozenset({"FailedMount", "FailedAttachVolume", "FailedMapVolume"})
_SANDBOX = frozenset({"FailedCreatePodSandBox", "NetworkNotReady"})
_PROBED = "Unhealthy"
_ABSENT = re.compile(
    r'\b(secret|configmap|persistentvolumeclaim) "[^"]*" not found'
    r"|references non-existent (secret|config) key"
)
"""An object that a volume is made of, and that nobody has made: in the kubelet's words, and in the
scheduler's. What it does not find otherwise (a driver that has not registered) it finds in time."""
_UNBOUND = "unbound immediate PersistentVolumeClaims"
"""What the scheduler says of a claim for which there is no volume."""
CREATING_EVENTS = "involvedObject.kind=Pod,type=Warning," + ",".join(
    f"reason!={each}" for each in ("FailedScheduling", "Failed", "BackOff", _PROBED)
)
"""Field selector of the events for pods that wait for their volumes. A selector has no "or": left
out are those of which there are many, whose news are in the objects."""
PROBE_EVENTS = f"involvedObject.kind=Pod,type=Warning,reason={_PROBED}"
"""Of those for pods that do not become ready."""
_REASON_LENGTH = 300


def events_of(pod: JSON, *, overdue: bool) -> str | None:
    """Which events (a field selector) may tell more of a pod than `ailing_of` can without; None
    where none do."""
    found = ailing_of(pod, overdue=overdue)
    if found is None or found.state not in (Stuck.STARTING, Stuck.NOT_READY):
        return None
    if not (pod.get("spec") or {}).get("nodeName"):
        return None
    status = pod.get("status") or {}
    if any("running" in (each.get("state") or {}) for each in _containers(status)):
        return PROBE_EVENTS if found.state is Stuck.NOT_READY else None
    return None if _has_volumes(pod) else CREATING_EVENTS


def ailing_of(pod: JSON, *, overdue: bool, events: Iterable[JSON] = ()) -> Ailing | None:
    """What keeps a pod from answering; None for one that answers. `overdue`: its Deployment has
    waited for longer than its own deadline. `events` are the pod's own, of `events_of`."""
    if is_ready(pod):
        return None
    name = str(pod["metadata"]["name"])
    status = pod.get("status") or {}
    if status.get("phase") == "Failed":
        return Ailing(name, *_failed(status))
    conditions = {each["type"]: each for each in status.get("conditions") or ()}
    scheduled = conditions.get("PodScheduled") or {}
    if scheduled.get("status") == "False":
        return Ailing(name, _unscheduled(scheduled), _words(scheduled))
    for container in _containers(status):
        if (found := _of_container(container)) is not None:
            return Ailing(name, *found)
    state, said = _waiting(status, conditions, overdue=overdue)
    told = [each for each in events if _is_current(each, pod)]
    if told:
        last = max(told, key=_last_seen)
        state, said = _told(last, state, said)
    return Ailing(name, state, said)


def refused_of(deployment: JSON) -> Ailing | None:
    """Why a Deployment gets no pods at all: a quota, or somebody who does not let them in."""
    for each in _conditions(deployment):
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
        for each in _conditions(deployment)
    )


def ended(pod: JSON) -> int:
    """How often its containers have ended and were started again."""
    status = pod.get("status") or {}
    return sum(int(each.get("restartCount", 0)) for each in _containers(status))


def _conditions(deployment: JSON) -> tuple[JSON, ...]:
    """What its controller says of it as it is now; nothing, while that has not seen it so."""
    status = deployment.get("status") or {}
    if status.get("observedGeneration", 0) < deployment["metadata"].get("generation", 0):
        return ()
    return tuple(status.get("conditions") or ())


def _unscheduled(condition: JSON) -> Stuck:
    """Why the scheduler has no node for it."""
    if condition.get("reason") == "SchedulingGated":
        return Stuck.STARTING
    said = str(condition.get("message", ""))
    if _ABSENT.search(said):
        return Stuck.CONFIGURATION
    return Stuck.VOLUME if _UNBOUND in said else Stuck.NO_CAPACITY


def _is_current(event: JSON, pod: JSON) -> bool:
    """Whether it tells of what keeps the pod now, and not of what is over."""
    reason = event.get("reason")
    if reason == _PROBED:
        return _last_seen(event) >= _started(pod)
    return (reason in _VOLUME or reason in _SANDBOX) and not _has_volumes(pod)


def _told(event: JSON, state: Stuck, said: str) -> tuple[Stuck, str]:
    """What keeps a pod that waits, with what an event tells of it."""
    words = _words(event)
    if event["reason"] == _PROBED:
        return state, f"{said}: {words}"[:_REASON_LENGTH]
    if event["reason"] in _VOLUME:
        state = Stuck.CONFIGURATION if _ABSENT.search(words) else Stuck.VOLUME
    return state, words


def _has_volumes(pod: JSON) -> bool:
    """Whether its volumes are mounted: they are before its sandbox is made (kubelet's condition
    PodReadyToStartContainers, there since Kubernetes 1.29)."""
    return any(
        each["type"] == "PodReadyToStartContainers" and each["status"] == "True"
        for each in (pod.get("status") or {}).get("conditions") or ()
    )


def _last_seen(event: JSON) -> datetime:
    """When it came last: the kubelet counts what it repeats."""
    series = event.get("series") or {}
    times = (
        series.get("lastObservedTime"),
        event.get("lastTimestamp"),
        event.get("eventTime"),
        event["metadata"]["creationTimestamp"],
    )
    return datetime.fromisoformat(next(each for each in times if each))


def _started(pod: JSON) -> datetime:
    """When the last of its containers began to run; long ago where none does."""
    running = [
        (each.get("state") or {}).get("running") or {}
        for each in _containers(pod.get("status") or {})
    ]
    times = [datetime.fromisoformat(e["startedAt"]) for e in running if e.get("startedAt")]
    return max(times, default=datetime.min.replace(tzinfo=UTC))


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
