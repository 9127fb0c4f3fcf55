"""What happened to a region's workloads, as its cluster remembers it.

Events are forgotten after an hour, unless the API server is told otherwise (`--event-ttl`,
kube-apiserver's reference). What stays are ReplicaSets, one for each revision of a Deployment, with
the time at which they were made (as many as `revisionHistoryLimit`), and the last time at which a
HorizontalPodAutoscaler has scaled (`status.lastScaleTime`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime

from mlplatform.adapters.kubernetes_api import JSON, KubernetesAPI
from mlplatform.core.errors import NotFound
from mlplatform.ports.happenings import Happening

_MODEL, _VERSION = "mlplatform.dev/model", "mlplatform.dev/version"
_ENVIRONMENT = "MODEL_VERSION"
_REVISION = "deployment.kubernetes.io/revision"
_SCALED = "ScalingReplicaSet"


def open_happenings(context: str, namespace: str) -> KubernetesHappenings:
    """What happened in a namespace of a context's cluster. Nothing is asked of it yet."""
    return KubernetesHappenings(KubernetesAPI(context), namespace)


class KubernetesHappenings:
    """One namespace of one cluster."""

    def __init__(self, api: KubernetesAPI, namespace: str) -> None:
        self._api, self._namespace = api, namespace

    @property
    def url(self) -> str:
        """What errors call it."""
        return f"{self._api.url}/{self._namespace}"

    def between(self, since: datetime, until: datetime) -> list[Happening]:
        """What is known to have happened, the oldest first."""
        found = [*self._revisions(), *self._scalings(), *self._events()]
        return sorted(
            (each for each in found if since <= each.at <= until),
            key=lambda each: (each.at, each.kind, each.subject),
        )

    def _revisions(self) -> Iterator[Happening]:
        path = f"/apis/apps/v1/namespaces/{self._namespace}/replicasets"
        for each in self._api.items(path):
            owner = _owner(each)
            at = _time(each["metadata"].get("creationTimestamp"))
            if owner is None or at is None:
                continue
            revision = (each["metadata"].get("annotations") or {}).get(_REVISION, "")
            yield Happening(
                at=at,
                kind="rollout",
                subject=owner,
                model=_label(each, _MODEL),
                version=_label(each, _VERSION) or _environment(each),
                text=f"revision {revision} of {owner}" if revision else f"{owner} was made anew",
            )

    def _scalings(self) -> Iterator[Happening]:
        path = f"/apis/autoscaling/v2/namespaces/{self._namespace}/horizontalpodautoscalers"
        for each in self._api.items(path):
            status = each.get("status") or {}
            at = _time(status.get("lastScaleTime"))
            if at is None:
                continue
            target = each["spec"]["scaleTargetRef"]["name"]
            yield Happening(
                at=at,
                kind="scale",
                subject=target,
                model=_label(each, _MODEL),
                text=f"{target} was scaled, to {status.get('desiredReplicas', '?')} now",
            )

    def _events(self) -> Iterator[Happening]:
        try:
            yield from map(
                _event,
                filter(_is_told, self._api.items(f"/api/v1/namespaces/{self._namespace}/events")),
            )
        except NotFound:
            return


def _is_told(event: JSON) -> bool:
    return _moment(event) is not None


def _event(event: JSON) -> Happening:
    at = _moment(event)
    assert at is not None  # noqa: S101 - those without a time were left out
    reason = str(event.get("reason") or "event")
    about = event.get("involvedObject") or {}
    series: Mapping[str, object] = event.get("series") or {}
    return Happening(
        at=at,
        kind="scale" if reason == _SCALED else reason,
        subject=str(about.get("name", "")),
        text=str(event.get("message") or ""),
        times=int(str(series.get("count") or event.get("count") or 1)),
    )


def _moment(event: JSON) -> datetime | None:
    return (
        _time(event.get("firstTimestamp"))
        or _time(event.get("eventTime"))
        or _time(event["metadata"].get("creationTimestamp"))
    )


def _time(text: object) -> datetime | None:
    return datetime.fromisoformat(text).astimezone(UTC) if isinstance(text, str) else None


def _owner(item: JSON) -> str | None:
    owners = item["metadata"].get("ownerReferences") or ()
    return next((each["name"] for each in owners if each.get("kind") == "Deployment"), None)


def _label(item: JSON, name: str) -> str:
    template = ((item.get("spec") or {}).get("template") or {}).get("metadata") or {}
    for labels in (
        item["metadata"].get("labels"),
        item["metadata"].get("annotations"),
        template.get("labels"),
        template.get("annotations"),
    ):
        if value := (labels or {}).get(name):
            return str(value)
    return ""


def _environment(item: JSON) -> str:
    pod = ((item.get("spec") or {}).get("template") or {}).get("spec") or {}
    for container in pod.get("containers") or ():
        for variable in container.get("env") or ():
            if variable.get("name") == _ENVIRONMENT:
                return str(variable.get("value") or "")
    return ""
