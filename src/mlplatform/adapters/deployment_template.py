"""A Deployment, a Service and an autoscaler for another version, from those of a version that
serves.

Everything stays as it was but what says which version it is: `MODEL_VERSION` and `MODELS` in the
environment, `MODEL@VERSION` in arguments, an image's tag where it is the version, and the labels by
which pods are told apart. Those are the ones in the selectors of the old Deployment and of Services
that have its pods: the new pods get another value, so that nobody takes them for old ones. What
else selects pods by them (a PodMonitor, a NetworkPolicy) does not have the new ones; let it select
`mlplatform.dev/model`.
"""

from __future__ import annotations

import copy
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from mlplatform.adapters.kubernetes_api import FIELD_MANAGER, JSON
from mlplatform.adapters.kubernetes_owners import is_tools_own
from mlplatform.adapters.kubernetes_pods import MODEL, TRACK, VARIABLE, VERSION, holds, version_of
from mlplatform.core.errors import Unsupported

GROUP = "mlplatform.dev/group"
"""Label: the Deployment whose pods, and Service, are one group. Its own selector has it."""
DIGEST = "mlplatform.dev/digest"
MANAGED_BY = "app.kubernetes.io/managed-by"
_OURS = "mlplatform.dev/"
_NAME_LENGTH = 52
"""A pod's name has 17 characters more, and becomes a label of 63 in places."""
_LABEL = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_NOT_COPIED = ("replicas", "selector", "template", "paused")


def name_of(model: str, version: str) -> str:
    """What Deployment and Service of a version are called: `resnet50-v1-2-0`. Where a name cannot
    carry all that they are called by, it ends with 8 digits of a hash of both."""
    plain = f"{model}-{version}".replace(".", "-")
    name = re.sub(r"[^a-z0-9]+", "-", plain.lower()).strip("-")
    if not name[:1].isalpha():
        name = f"m-{name}"
    whole = re.fullmatch(r"[a-z0-9-]+", model) and re.fullmatch(r"[a-z0-9.]+", version)
    if not whole or name != plain or len(name) > _NAME_LENGTH:
        told = hashlib.blake2b(f"{model}@{version}".encode(), digest_size=4).hexdigest()
        name = f"{name[: _NAME_LENGTH - 9].rstrip('-')}-{told}"
    return name


def template_of(deployments: Iterable[JSON]) -> JSON | None:
    """The Deployment by which another version is started: of those that serve, the one with most
    servers. None where each is paused or being deleted, or there is none."""
    usable = [
        each
        for each in deployments
        if not each["metadata"].get("deletionTimestamp") and not each["spec"].get("paused")
    ]

    def rank(deployment: JSON) -> tuple[bool, int, int, str, str]:
        about, status = deployment["metadata"], deployment.get("status") or {}
        return (
            TRACK not in (about.get("labels") or {}),
            int(status.get("availableReplicas", 0)),
            int(deployment["spec"].get("replicas", 1)),
            str(about.get("creationTimestamp", "")),
            str(about["name"]),
        )

    return max(usable, key=rank, default=None)


def is_ours(body: JSON) -> bool:
    """Whether we have made the object, and so may delete it."""
    return (body["metadata"].get("labels") or {}).get(MANAGED_BY) == FIELD_MANAGER


def selects(selector: JSON, labels: Mapping[str, str]) -> bool:
    """Whether a Deployment's selector has pods with these labels."""
    wanted: Mapping[str, str] = selector.get("matchLabels") or {}
    return all(labels.get(key) == value for key, value in wanted.items()) and all(
        holds(rule, labels) for rule in selector.get("matchExpressions") or ()
    )


def deployment_for(
    template: JSON,
    *,
    model: str,
    version: str,
    digest: str,
    services: Sequence[JSON],
    image: str | None = None,
    where: str = "",
) -> JSON:
    """The Deployment for a version, with no servers yet. `services` are those of the namespace;
    `image` has `{version}` where the version is to be put in.

    `Unsupported` where the new pods could not be told from the old ones, or the image cannot be
    known.
    """
    name = name_of(model, version)
    spec, pod = template["spec"], copy.deepcopy(template["spec"]["template"])
    old_labels: dict[str, str] = pod["metadata"].get("labels") or {}
    telling = _telling(spec["selector"], services, old_labels)
    said = {VERSION: version} if _LABEL.fullmatch(version) else {}
    labels = {
        **{key: name if key in telling else value for key, value in old_labels.items()},
        MODEL: model,
        GROUP: name,
        **said,
    }
    if not said:
        labels.pop(VERSION, None)
    _check_apart(template, services, labels, where)
    notes = {
        key: value
        for key, value in (pod["metadata"].get("annotations") or {}).items()
        if not key.startswith(_OURS) and not is_tools_own(key)
    }
    pod["metadata"] = {
        "labels": labels,
        "annotations": {**notes, **_told(version, digest)},
    }
    old = version_of(template["spec"]["template"])
    _change(pod["spec"], model=model, old=old, new=version, image=image, where=where)
    _retell(pod["spec"], telling, old_labels, name)
    about = template["metadata"]
    own = {
        key: name if key in telling else value
        for key, value in (about.get("labels") or {}).items()
        if not is_tools_own(key) and key not in (TRACK, VERSION)
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": name,
            "labels": {**own, MODEL: model, GROUP: name, MANAGED_BY: FIELD_MANAGER, **said},
            "annotations": {
                **{
                    key: value
                    for key, value in (about.get("annotations") or {}).items()
                    if not key.startswith(_OURS) and not is_tools_own(key)
                },
                **_told(version, digest),
            },
        },
        "spec": {
            **{key: value for key, value in spec.items() if key not in _NOT_COPIED},
            "replicas": 0,
            "selector": {"matchLabels": {MODEL: model, GROUP: name}},
            "template": pod,
        },
    }


def service_for(deployment: JSON, services: Sequence[JSON], template: JSON) -> JSON:
    """The Service of a Deployment that `deployment_for` made, with the ports of the one that has
    the template's pods."""
    about, pod = deployment["metadata"], deployment["spec"]["template"]
    like = template["spec"]["template"]["metadata"].get("labels") or {}
    found = sorted(
        (each for each in services if _has(each, like) and not _is_headless(each)),
        key=lambda each: str(each["metadata"]["name"]),
    )
    if found:
        kept = ("name", "port", "targetPort", "protocol", "appProtocol")
        ports = [
            {key: port[key] for key in kept if key in port} for port in found[0]["spec"]["ports"]
        ]
    else:
        named = [port for c in pod["spec"]["containers"] for port in c.get("ports") or ()]
        http = next((each for each in named if each.get("name") == "http"), None)
        target = "http" if http else named[0]["containerPort"] if named else 80
        ports = [{"name": "http", "port": 80, "targetPort": target}]
    told = {key: about["labels"][key] for key in (MODEL, GROUP, MANAGED_BY)}
    said = {VERSION: about["labels"][VERSION]} if VERSION in about["labels"] else {}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": about["name"],
            "labels": {**told, **said},
            "annotations": {VERSION: about["annotations"][VERSION]},
        },
        "spec": {"selector": deployment["spec"]["selector"]["matchLabels"], "ports": ports},
    }


def autoscaler_for(
    deployment: JSON, like: JSON, template: JSON, *, servers: int, annotations: Mapping[str, str]
) -> JSON:
    """The HorizontalPodAutoscaler of a Deployment that `deployment_for` made: the one that the
    template's Deployment has, with its metrics and its behaviour, and so many servers as floor and
    as ceiling. What a metric says of the old Deployment, by its name or its version, it says of
    the new one."""
    about = deployment["metadata"]
    spec = copy.deepcopy(like["spec"])
    renamed = {str(template["metadata"]["name"]): str(about["name"])}
    if (old := version_of(template["spec"]["template"])) is not None:
        renamed[old] = str(about["annotations"][VERSION])
    for metric in spec.get("metrics") or ():
        _rename(metric, renamed)
    told = {key: about["labels"][key] for key in (MODEL, GROUP, MANAGED_BY)}
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": about["name"], "labels": told, "annotations": dict(annotations)},
        "spec": {
            **spec,
            "scaleTargetRef": {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "name": about["name"],
            },
            "minReplicas": servers,
            "maxReplicas": servers,
        },
    }


def _rename(found: Any, renamed: Mapping[str, str]) -> None:
    """In what a metric is of, and which of its series are meant."""
    if isinstance(found, dict):
        about = found.get("describedObject")
        if isinstance(about, dict) and about.get("name") in renamed:
            about["name"] = renamed[about["name"]]
        labels = (found.get("selector") or {}).get("matchLabels")
        if isinstance(labels, dict):
            labels |= {k: renamed[v] for k, v in labels.items() if v in renamed}
        for value in found.values():
            _rename(value, renamed)


def _told(version: str, digest: str) -> dict[str, str]:
    return {VERSION: version, **({DIGEST: digest} if digest else {})}


def _telling(selector: JSON, services: Sequence[JSON], labels: Mapping[str, str]) -> frozenset[str]:
    """The labels by which old pods are told from others."""
    keys = set(selector.get("matchLabels") or {})
    for service in services:
        if _has(service, labels):
            keys |= set(service["spec"]["selector"])
    return frozenset(keys - {MODEL, VERSION, GROUP})


def _has(service: JSON, labels: Mapping[str, str]) -> bool:
    wanted: Mapping[str, str] = service["spec"].get("selector") or {}
    return bool(wanted) and all(labels.get(key) == value for key, value in wanted.items())


def _is_headless(service: JSON) -> bool:
    return service["spec"].get("clusterIP") == "None" or not service["spec"].get("ports")


def _check_apart(
    template: JSON, services: Sequence[JSON], labels: Mapping[str, str], where: str
) -> None:
    taker = None
    if selects(template["spec"]["selector"], labels):
        taker = f"Deployment {template['metadata']['name']}"
    for service in services:
        if _has(service, labels) and not is_ours(service):
            taker = f"Service {service['metadata']['name']}"
    if taker:
        raise Unsupported(
            f"{taker} selects pods of every version: it would take the new ones for its own",
            store=where,
            hint=f"have it select one label more, {VERSION} or a name of its own",
        )


def _change(
    spec: JSON, *, model: str, old: str | None, new: str, image: str | None, where: str
) -> None:
    """Have the containers serve another version."""
    serving = serving_container(spec)
    for container in (*(spec.get("initContainers") or ()), *spec["containers"]):
        pinned = False
        for variable in container.get("env") or ():
            if variable["name"] == "MODELS" and variable.get("value"):
                items = [_renamed(item, model, new) for item in variable["value"].split(",")]
                pinned = any(item.strip() == f"{model}@{new}" for item in items)
                variable["value"] = ",".join(items)
        for variable in container.get("env") or ():
            if variable["name"] == VARIABLE:
                variable.pop("valueFrom", None)
                variable["value"] = new
                pinned = True
        if container is serving and not pinned:
            container.setdefault("env", []).append({"name": VARIABLE, "value": new})
        for key in ("args", "command"):
            if container.get(key):
                container[key] = [_argument(each, model, old, new) for each in container[key]]
        container["image"] = (
            image.replace("{version}", new)
            if image is not None and container is serving
            else _image(str(container.get("image", "")), old, new, where)
        )


def serving_container(spec: JSON) -> JSON:
    """The container that serves: the one with a port called `http`, else the first."""
    containers: list[JSON] = spec["containers"]
    for each in containers:
        if any(port.get("name") == "http" for port in each.get("ports") or ()):
            return each
    return containers[0]


def _renamed(item: str, model: str, new: str) -> str:
    name, at, _ = item.strip().partition("@")
    return f"{model}@{new}" if at and name == model else item


def _argument(text: str, model: str, old: str | None, new: str) -> str:
    if old is None:
        return text
    return re.sub(rf"(^|=){re.escape(f'{model}@{old}')}$", rf"\g<1>{model}@{new}", text)


def _image(image: str, old: str | None, new: str, where: str) -> str:
    name, at, _ = image.partition("@")
    repository, colon, tag = name.rpartition(":")
    if not colon or "/" in tag or tag != old:
        return image
    if at:
        raise Unsupported(
            f"image {image} is one build of {old}: which one is {new} cannot be told",
            store=where,
            hint="name it in the URL of the servers: ?image=REGISTRY/NAME:{version}",
        )
    return f"{repository}:{new}"


def _retell(spec: Any, telling: frozenset[str], old: Mapping[str, str], name: str) -> None:
    """Have spread and affinity mean the new pods where they meant the old ones."""
    for selector in _label_selectors(spec):
        wanted = selector.get("matchLabels") or {}
        for key in telling & wanted.keys():
            if wanted[key] == old.get(key):
                wanted[key] = name


def _label_selectors(found: Any) -> Iterator[JSON]:
    if isinstance(found, dict):
        for key, value in found.items():
            if key == "labelSelector" and isinstance(value, dict):
                yield value
            yield from _label_selectors(value)
    elif isinstance(found, list):
        for each in found:
            yield from _label_selectors(each)
