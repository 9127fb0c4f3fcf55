"""What a cluster offers a model's servers, for regions whose servers are `deployments://`.

Read are: the model's Deployments, the namespace's Services, quotas, limit ranges, disruption
budgets and autoscalers (KEDA's and vertical ones too), and whether the objects are there that the
pods name. Of Secrets and ConfigMaps only the metadata leaves the API server. Of the cluster: nodes,
all pods and, where dynamic resource allocation is, ResourceSlices and ResourceClaims. And the
HTTPRoute between versions, where the split is one: who else writes it.

What may not be read is `Unknown`, with the verb and the resource that the API server names. With
`?unread=accept` in the URL it is as if nobody had wanted to look: a rollout may begin, and free
GPUs are counted by the topology alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from functools import partial
from typing import TypeVar

from mlplatform.adapters.deployment_template import (
    deployment_for,
    name_of,
    selects,
    serving_container,
    template_of,
)
from mlplatform.adapters.deployments import FIRST_BY_HAND, Place, place_of
from mlplatform.adapters.kubernetes_api import JSON, path_of
from mlplatform.adapters.kubernetes_gpus import allocated, asked_of, devices_of, gpu_of
from mlplatform.adapters.kubernetes_limits import admitted, limits_of
from mlplatform.adapters.kubernetes_owners import RELEASED, Owner, fix_of, owner_of
from mlplatform.adapters.kubernetes_placement import (
    added,
    closed_to,
    less,
    quantity,
    requested,
    takes,
)
from mlplatform.adapters.kubernetes_pods import MODEL, version_of
from mlplatform.adapters.kubernetes_routes import SCHEME, Route, open_route
from mlplatform.adapters.kubernetes_scalers import COPIED, Scaler, scalers
from mlplatform.core.errors import Denied, NotFound, Unsupported
from mlplatform.core.seen import Unknown
from mlplatform.core.store_url import StoreURL
from mlplatform.ports.ground import (
    Budget,
    Given,
    Node,
    Offer,
    Ownership,
    Pod,
    ProbeTime,
    Quota,
    Reference,
    Refusal,
    Rivalry,
    Template,
    Unscaled,
)

T = TypeVar("T")

RUNTIME = "mlplatform.dev/runtime"
"""Annotation of the pods: what runs engines in their image, `tensorrt 10.13.0`."""
_DRA = "/apis/resource.k8s.io/v1"
_ENDED = frozenset({"Succeeded", "Failed"})
_SHARED = frozenset({"cpu", "memory", "ephemeral-storage", "pods"})
"""Resources that every node has some of."""
_ONCE = frozenset(
    {"count/deployments.apps", "count/replicasets.apps", "services", "count/services"}
)
"""What a version counts in quotas by itself."""


def open_ground(url: StoreURL, model: str, *, actuator: StoreURL | None = None) -> KubernetesGround:
    """What a model's servers stand on, by the URL of the servers; and what divides their requests,
    by that of the `actuator`, where it is an HTTPRoute. Nothing is asked of it yet."""
    route = open_route(actuator) if actuator is not None and actuator.scheme == SCHEME else None
    return KubernetesGround(place_of(url), model, url=str(url), route=route)


@dataclass(frozen=True, slots=True)
class _Asked:
    """What is asked of nodes for one server."""

    pod: JSON
    """The template's spec."""
    tolerations: Sequence[JSON]
    needs: Mapping[str, Decimal]
    devices: frozenset[str]
    """Of `needs`, what only some nodes have."""
    claimed: bool
    """Whether any of it is asked for by claims of DRA."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """The cluster, as far as it concerns servers of the model."""

    nodes: tuple[Node, ...]
    closed: Mapping[str, str]
    waiting: tuple[Pod, ...]


class KubernetesGround:
    """One model in one namespace of one cluster."""

    def __init__(self, place: Place, model: str, *, url: str, route: Route | None = None) -> None:
        self._api, self._namespace = place.api, place.namespace
        self._image, self._accepts_unread = place.image, place.accepts_unread
        self._model, self._url, self._route = model, url, route

    @property
    def url(self) -> str:
        return self._url

    def offers(self, version: str) -> Offer:
        every = [
            {**each, "apiVersion": "apps/v1", "kind": "Deployment"}
            for each in self._api.items(
                self._path("apps", "v1", "deployments"), selector=f"{MODEL}={self._model}"
            )
        ]
        there = [each for each in every if version_of(each["spec"]["template"]) == version]
        template = there[0] if there else template_of(every)
        if template is None:
            said = f"no Deployment has the label {MODEL}={self._model} and could be copied"
            return Offer(refused=self._paused(every) or (Refusal(said, FIRST_BY_HAND),))
        # Those that have no servers, and get none, are not written.
        moved = [each for each in every if each in there or each["spec"].get("replicas", 1)]
        about = f"Deployment {template['metadata']['name']}"
        inside = list(self._api.items(self._path("", "v1", "pods")))
        own = [each for each in inside if self._is_of(each, every)]
        # What admission puts into pods of the template; those that were started by it have it too.
        like = [each for each in own if self._is_of(each, [template])] or own
        ranges = self._may(lambda: list(self._api.items(self._path("", "v1", "limitranges"))))
        template, given = _admitted(template, ranges if isinstance(ranges, list) else [], like)
        asked = self._asked(template, like)
        seen: _Seen | Unknown | None
        if isinstance(asked, Unknown):
            needs: Mapping[str, Decimal] = takes(template["spec"]["template"]["spec"])
            seen = asked
        else:
            needs = asked.needs
            seen = self._may(lambda: self._nodes(asked, own))
        references, owned = self._divided()
        scaled = scalers(self._api, self._namespace)
        return Offer(
            template=self._template(template, about, needs, like),
            nodes=seen.nodes if isinstance(seen, _Seen) else seen,
            closed=seen.closed if isinstance(seen, _Seen) else {},
            waiting=seen.waiting if isinstance(seen, _Seen) else seen,
            quotas=self._may(
                lambda: tuple(self._quotas(template, needs, is_new=not there)),
            ),
            budgets=self._may(lambda: tuple(self._budgets(own))),
            references=(*self._references(template, like), *references),
            rivalries=self._may(lambda: tuple(self._rivalries(moved))),
            limits=(
                tuple(limits_of(template["spec"]["template"]["spec"], ranges))
                if isinstance(ranges, list)
                else ranges
            ),
            given=given,
            owned=(*self._owned(moved, scaled), *owned),
            unscaled=tuple(
                self._unscaled(
                    template_of(each for each in every if each not in there), version, scaled
                )
            ),
            refused=(*self._paused(moved), *(() if there else self._refused(template, version))),
        )

    # ------------------------------------------------------------------------- the template

    def _template(
        self, template: JSON, about: str, needs: Mapping[str, Decimal], like: Sequence[JSON]
    ) -> Template:
        pod = template["spec"]["template"]
        spec, notes = pod["spec"], pod["metadata"].get("annotations") or {}
        priorities = {int(each["spec"].get("priority", 0)) for each in like}
        if priorities:
            priority: int | None = max(priorities)
        else:
            priority = None if spec.get("priorityClassName") else 0
        serving = serving_container(spec)
        return Template(
            name=about,
            needs=needs,
            priority=priority,
            image=str(serving.get("image", "")),
            runtime=notes.get(RUNTIME),
            probes=tuple(_probes(serving)),
        )

    def _paused(self, deployments: Iterable[JSON]) -> tuple[Refusal, ...]:
        kubectl = f"kubectl --context {self._api.context} --namespace {self._namespace}"
        names = [each["metadata"]["name"] for each in deployments if each["spec"].get("paused")]
        return tuple(
            Refusal(
                f"Deployment {name}: spec.paused is true: somebody is at work on it",
                f"{kubectl} rollout resume deployment/{name}, when they are done",
            )
            for name in names
        )

    def _refused(self, template: JSON, version: str) -> Iterator[Refusal]:
        """Why nothing could be made of the template, without making it."""
        try:
            deployment_for(
                template,
                model=self._model,
                version=version,
                digest="",
                services=list(self._api.items(self._path("", "v1", "services"))),
                image=self._image,
                where=self._url,
            )
        except Unsupported as error:
            yield Refusal(error.message, error.hint or "")

    def _is_of(self, pod: JSON, deployments: Iterable[JSON]) -> bool:
        labels = pod["metadata"].get("labels") or {}
        return any(selects(each["spec"]["selector"], labels) for each in deployments)

    def _asked(self, template: JSON, like: Sequence[JSON]) -> _Asked | Unknown:
        spec = template["spec"]["template"]["spec"]
        tolerations = list(spec.get("tolerations") or ())
        for pod in like:  # admission may have added some
            tolerations += pod["spec"].get("tolerations") or ()
        needs: dict[str, Decimal] = {**takes(spec), "pods": Decimal(1)}
        claimed = False
        for each in spec.get("resourceClaims") or ():
            name = each.get("resourceClaimTemplateName")
            if name is None:
                continue  # one claim that all pods share
            try:
                found = self._api.get(
                    path_of(
                        self._namespace, "resource.k8s.io", "v1", "resourceclaimtemplates", name
                    )
                )
            except Denied as error:
                return Unknown(_told(error))
            except NotFound:
                return Unknown(f"ResourceClaimTemplate {name} is not there, and the pods name it")
            more = asked_of(found["spec"]["spec"])
            if isinstance(more, str):
                return Unknown(f"ResourceClaimTemplate {name}: {more}")
            needs, claimed = added(needs, more), True
        return _Asked(spec, tolerations, needs, frozenset(needs) - _SHARED, claimed)

    # ------------------------------------------------------------------------- the cluster

    def _nodes(self, asked: _Asked, own: Sequence[JSON]) -> _Seen:
        """Nodes that take a server; why others with what it needs do not; and who waits for them.
        `own` are pods of the model, which are not waited for."""
        every = list(self._api.items("/api/v1/nodes"))
        pods = [
            each
            for each in self._api.items("/api/v1/pods")
            if (each.get("status") or {}).get("phase") not in _ENDED
        ]
        devices, taken = self._devices(asked)
        by_node: dict[str, list[JSON]] = {}
        for pod in pods:
            by_node.setdefault(str(pod["spec"].get("nodeName") or ""), []).append(pod)
        open_nodes: list[Node] = []
        open_bodies: list[JSON] = []
        closed: dict[str, str] = {}
        for body in every:
            name, status = str(body["metadata"]["name"]), body.get("status") or {}
            here = {key: told[1] for key, told in devices.items() if told[0] == name}
            room = {k: quantity(v) for k, v in (status.get("allocatable") or {}).items()}
            for driver, _, _ in here:
                room[driver] = room.get(driver, Decimal(0)) + 1
            if any(room.get(each, Decimal(0)) <= 0 for each in asked.devices):
                continue
            if why := closed_to(body, asked.pod, asked.tolerations):
                closed[name] = why
                continue
            there = by_node.get(name, [])
            for pod in there:
                room = less(room, _held(pod))
            for driver, _, _ in here.keys() & taken:
                room[driver] -= 1
            labels = body["metadata"].get("labels") or {}
            ending = tuple(_pod(pod) for pod in there if pod["metadata"].get("deletionTimestamp"))
            free = {key: room.get(key, Decimal(0)) for key in asked.needs}
            open_nodes.append(Node(name, gpu_of(labels, here.values()), free, ending))
            open_bodies.append(body)
        ours = {each["metadata"]["uid"] for each in own}
        waiting = tuple(
            _pod(pod)
            for pod in by_node.get("", ())
            if pod["metadata"]["uid"] not in ours
            and not pod["metadata"].get("deletionTimestamp")
            and not pod["spec"].get("schedulingGates")
            and asked.devices & takes(pod["spec"]).keys()
            and any(
                not closed_to(body, pod["spec"], pod["spec"].get("tolerations") or ())
                for body in open_bodies
            )
        )
        return _Seen(tuple(open_nodes), closed, waiting)

    def _devices(
        self, asked: _Asked
    ) -> tuple[dict[tuple[str, str, str], tuple[str, JSON]], set[tuple[str, str, str]]]:
        """Devices of dynamic resource allocation, and which of them are taken. Where no server
        claims any they only tell what labels may lack."""
        try:
            devices = devices_of(self._api.items(f"{_DRA}/resourceslices"))
        except NotFound:
            return {}, set()
        except Denied:
            if asked.claimed:
                raise
            return {}, set()
        if not asked.claimed:
            return devices, set()
        return devices, set(allocated(self._api.items(f"{_DRA}/resourceclaims")))

    # ------------------------------------------------------------------------- the namespace

    def _quotas(
        self, template: JSON, needs: Mapping[str, Decimal], *, is_new: bool
    ) -> Iterator[Quota]:
        pod = template["spec"]["template"]["spec"]
        limits: dict[str, Decimal] = {}
        for container in pod.get("containers") or ():
            limits = added(limits, requested(container, which="limits"))
        counted = _counted(needs, limits)
        for each in self._api.items(self._path("", "v1", "resourcequotas")):
            if not _is_meant(each["spec"], pod):
                continue
            status = each.get("status") or {}
            used = status.get("used") or {}
            for name, hard in (status.get("hard") or each["spec"].get("hard") or {}).items():
                per_server = counted.get(name, Decimal(0))
                once = Decimal(1) if is_new and name in _ONCE else Decimal(0)
                if per_server or once:
                    yield Quota(
                        f"ResourceQuota {each['metadata']['name']}",
                        name,
                        quantity(hard),
                        quantity(used.get(name, 0)),
                        per_server,
                        once,
                    )

    def _budgets(self, own: Sequence[JSON]) -> Iterator[Budget]:
        for each in self._api.items(self._path("policy", "v1", "poddisruptionbudgets")):
            spec, status = each["spec"], each.get("status") or {}
            selector = spec.get("selector")
            if selector is None or "currentHealthy" not in status:
                continue
            if not any(selects(selector, pod["metadata"].get("labels") or {}) for pod in own):
                continue
            key = "minAvailable" if "minAvailable" in spec else "maxUnavailable"
            yield Budget(
                f"PodDisruptionBudget {each['metadata']['name']}",
                f"{key}: {spec.get(key)}",
                healthy=int(status["currentHealthy"]),
                desired=int(status.get("desiredHealthy", 0)),
                allowed=int(status.get("disruptionsAllowed", 0)),
            )

    def _references(self, template: JSON, like: Sequence[JSON]) -> Iterator[Reference]:
        spec = template["spec"]["template"]["spec"]
        pulls = [each["name"] for each in spec.get("imagePullSecrets") or ()]
        # Those of the ServiceAccount, which admission puts into pods.
        for pod in like:
            pulls += [each["name"] for each in pod["spec"].get("imagePullSecrets") or ()]
        named = [("secrets", name, "imagePullSecrets") for name in dict.fromkeys(pulls)]
        for plural, name, by in dict.fromkeys([*named, *_named(spec)]):
            there = self._may(partial(self._api.is_there, self._path("", "v1", plural, name)))
            if there is not None:
                yield Reference(_KINDS[plural], name, f"spec.template.spec.{by}", there)

    def _rivalries(self, deployments: Sequence[JSON]) -> Iterator[Rivalry]:
        names = {each["metadata"]["name"] for each in deployments}
        horizontal = self._path("autoscaling", "v2", "horizontalpodautoscalers")
        by_target: dict[str, tuple[str, set[str]]] = {}
        for each in self._api.items(horizontal):
            target = each["spec"]["scaleTargetRef"]
            if target.get("kind") == "Deployment" and target["name"] in names:
                said = f"HorizontalPodAutoscaler {each['metadata']['name']}"
                by_target[target["name"]] = (said, set(_scaled_by(each["spec"])))
        if not by_target:
            return
        try:
            vertical = list(
                self._api.items(
                    self._path("autoscaling.k8s.io", "v1", "verticalpodautoscalers"),
                )
            )
        except NotFound:
            return  # they are not installed
        for each in vertical:
            target = each["spec"].get("targetRef") or {}
            mode = (each["spec"].get("updatePolicy") or {}).get("updateMode", "Auto")
            if target.get("kind") != "Deployment" or mode == "Off":
                continue
            said, scaled = by_target.get(target["name"], ("", set()))
            if both := tuple(sorted(scaled & _controlled(each["spec"]))):
                about = f"VerticalPodAutoscaler {each['metadata']['name']}"
                yield Rivalry(said, f"{about} (updateMode: {mode})", both)

    def _unscaled(
        self, serving: JSON | None, version: str, scaled: Mapping[str, Scaler]
    ) -> Iterator[Unscaled]:
        """Where who scales what serves is not copied, as `deployments` does it."""
        scaler = scaled.get(serving["metadata"]["name"]) if serving is not None else None
        name = name_of(self._model, version)
        if serving is None or scaler is None or not scaler.is_wanted or name in scaled:
            return
        scales = f"Deployment {serving['metadata']['name']}"
        spare = (
            f"if it needs none, kubectl --context {self._api.context} --namespace "
            f"{self._namespace} annotate {scaler.kind.lower()} {scaler.name} {COPIED}=false"
        )
        if not scaler.is_copied:
            yield Unscaled(
                str(scaler),
                scales,
                f"a {scaler.kind} is not copied",
                f"make one like it whose spec.scaleTargetRef.name is {name}; {spare}",
            )
            return
        what = (self._namespace, "autoscaling", "horizontalpodautoscalers")
        lacking = [
            verb
            for verb in ("create", "delete")
            if self._may(partial(self._api.may, verb, *what)) is False
        ]
        if lacking:
            yield Unscaled(
                str(scaler),
                scales,
                f"a copy of it may not be made here (may not {' and '.join(lacking)} "
                "horizontalpodautoscalers)",
                f"grant it, as infra/rbac/servers.yaml does; {spare}",
            )

    def _owned(
        self, deployments: Sequence[JSON], scaled: Mapping[str, Scaler]
    ) -> Iterator[Ownership]:
        for each in deployments:
            name = each["metadata"]["name"]
            yield from self._ownership(each, ("replicas",))
            if (scaler := scaled.get(name)) is not None:
                yield from self._ownership(scaler.body, _bounds(scaler))

    def _divided(self) -> tuple[tuple[Reference, ...], tuple[Ownership, ...]]:
        """What divides the requests: whether it is there, and who else writes it."""
        if self._route is None:
            return (), ()
        found, owned = self._route.look()
        accepted = isinstance(found.there, Unknown) and self._accepts_unread
        return () if accepted else (found,), owned

    def _ownership(self, body: JSON, fields: Sequence[str]) -> Iterator[Ownership]:
        owner = owner_of(body, *fields)
        if owner is not None:
            yield Ownership(
                f"{body['kind']} {body['metadata']['name']}",
                " and ".join(f"spec.{field}" for field in fields),
                str(owner),
                f"{fix_of(owner, body, *fields)}. {_patch(owner, body)}",
            )

    # ------------------------------------------------------------------------- the API server

    def _may(self, read: Callable[[], T]) -> T | Unknown | None:
        """What is read; `Unknown` where that is not allowed, None where that is accepted."""
        try:
            return read()
        except Denied as error:
            return None if self._accepts_unread else Unknown(_told(error))

    def _path(self, group: str, version: str, plural: str, name: str = "") -> str:
        return path_of(self._namespace, group, version, plural, name)


_KINDS = {
    "secrets": "Secret",
    "configmaps": "ConfigMap",
    "persistentvolumeclaims": "PersistentVolumeClaim",
    "serviceaccounts": "ServiceAccount",
}


def _admitted(
    template: JSON, ranges: Sequence[JSON], like: Sequence[JSON]
) -> tuple[JSON, tuple[Given, ...]]:
    """A Deployment whose pods' spec is as it is admitted, and what was put into it."""
    pod = template["spec"]["template"]
    spec, given = admitted(pod["spec"], ranges, like)
    return {
        **template,
        "spec": {**template["spec"], "template": {**pod, "spec": spec}},
    }, given


def _told(error: Denied) -> str:
    """The API server's own words have verb, resource and namespace."""
    return error.message


def _named(spec: JSON) -> Iterator[tuple[str, str, str]]:
    """Objects that a pod does not start without: plural, name, and what names them."""
    if (account := spec.get("serviceAccountName", "default")) != "default":
        yield "serviceaccounts", account, "serviceAccountName"
    for volume in spec.get("volumes") or ():
        by = f"volumes.{volume['name']}"
        parts = [volume, *((volume.get("projected") or {}).get("sources") or ())]
        for part in parts:
            for key, at in (("secret", "secretName"), ("configMap", "name")):
                found = part.get(key) or {}
                name = found.get(at) or found.get("name")
                if name and not found.get("optional"):
                    yield f"{key.lower()}s", name, by
        claim = volume.get("persistentVolumeClaim")
        if claim:
            yield "persistentvolumeclaims", claim["claimName"], by
    for container in (*(spec.get("initContainers") or ()), *(spec.get("containers") or ())):
        by = f"containers.{container['name']}"
        told = [(each.get("valueFrom") or {}, "KeyRef") for each in container.get("env") or ()]
        told += [(each, "Ref") for each in container.get("envFrom") or ()]
        for source, suffix in told:
            for key in ("secret", "configMap"):
                found = source.get(f"{key}{suffix}") or {}
                if found.get("name") and not found.get("optional"):
                    yield f"{key.lower()}s", found["name"], f"{by}.env"


def _probes(container: JSON) -> Iterator[ProbeTime]:
    """Until a startup probe has passed, no other is asked; without one, liveness is from the
    start. Defaults are those of the API."""
    for kind in ("startupProbe", "livenessProbe"):
        if probe := container.get(kind):
            yield ProbeTime(
                kind,
                str(container["name"]),
                delay_seconds=float(probe.get("initialDelaySeconds", 0)),
                period_seconds=float(probe.get("periodSeconds", 10)),
                failures=int(probe.get("failureThreshold", 3)),
            )
            return


def _held(pod: JSON) -> dict[str, Decimal]:
    return {**takes(pod["spec"]), "pods": Decimal(1)}


def _pod(pod: JSON) -> Pod:
    about = pod["metadata"]
    ends = about.get("deletionTimestamp")
    return Pod(
        f"{about['namespace']}/{about['name']}",
        _held(pod),
        priority=int(pod["spec"].get("priority", 0)),
        ends_at=datetime.fromisoformat(ends) if ends else None,
    )


def _counted(needs: Mapping[str, Decimal], limits: Mapping[str, Decimal]) -> Mapping[str, Decimal]:
    """What one server counts in quotas, by the names that they have for it."""
    counted = {f"requests.{name}": value for name, value in needs.items()}
    counted |= {f"limits.{name}": value for name, value in limits.items()}
    counted |= {name: needs[name] for name in ("cpu", "memory") if name in needs}
    counted |= {
        f"{name}.deviceclass.resource.k8s.io/devices": value for name, value in needs.items()
    }
    return {**counted, "pods": Decimal(1), "count/pods": Decimal(1)}


def _is_meant(quota: JSON, pod: JSON) -> bool:
    """Whether a quota counts pods of that spec: servers have no deadline, and request a GPU."""
    own = str(pod.get("priorityClassName") or "")
    rules = [{"scopeName": each, "operator": "Exists"} for each in quota.get("scopes") or ()]
    rules += (quota.get("scopeSelector") or {}).get("matchExpressions") or ()
    for rule in rules:
        match rule["scopeName"], rule["operator"]:
            case (("Terminating" | "BestEffort" | "CrossNamespacePodAffinity"), _):
                return False
            case "PriorityClass", "In" if own not in (rule.get("values") or ()):
                return False
            case "PriorityClass", "NotIn" if own in (rule.get("values") or ()):
                return False
            case "PriorityClass", "Exists" if not own:
                return False
            case "PriorityClass", "DoesNotExist" if own:
                return False
    return True


def _scaled_by(spec: JSON) -> Iterator[str]:
    """By which resources an autoscaler scales; without metrics, by the CPU."""
    metrics = spec.get("metrics")
    if not metrics:
        yield "cpu"
    for each in metrics or ():
        for key in ("resource", "containerResource"):
            if each.get(key):
                yield str(each[key]["name"])


def _controlled(spec: JSON) -> set[str]:
    """Whose requests a vertical autoscaler changes: both, unless it is told otherwise."""
    policies: Sequence[JSON] = (spec.get("resourcePolicy") or {}).get("containerPolicies") or [{}]
    return {
        name
        for each in policies
        if each.get("mode") != "Off"
        for name in each.get("controlledResources") or ("cpu", "memory")
    }


def _bounds(scaler: Scaler) -> tuple[str, str]:
    return scaler.floor_at.rpartition("/")[2], scaler.ceiling_at.rpartition("/")[2]


def _patch(owner: Owner, body: JSON) -> str:
    """What is to be put into the repository, as a patch of the object (kustomize, or a values file
    whose chart passes it on)."""
    kind, name = body["kind"], body["metadata"]["name"]
    spec = ", spec: {replicas: null}" if kind == "Deployment" else ""
    return (
        f"The patch for the repository of {owner}: {{apiVersion: {body['apiVersion']}, kind: "
        f"{kind}, metadata: {{name: {name}, annotations: {{{RELEASED}: rollout}}}}{spec}}}"
    )
