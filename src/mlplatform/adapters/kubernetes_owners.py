"""Who else writes a field of an object, and puts it back: Argo CD and Flux.

They are known by labels and annotations that they put on what they own, and by the name under which
they write (`managedFields`). They put back what their repository says, so that a field which is not
in there is free: one that they never wrote is not theirs. Helm writes once, and puts nothing back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mlplatform.adapters.kubernetes_api import JSON

RELEASED = "mlplatform.dev/scaled-by"
"""Says `rollout` on an object whose owner has been told to leave the number of servers alone: which
exceptions Argo CD makes is in its own objects, and cannot be seen here."""
_BY_ROLLOUT = "rollout"
_MANAGED_BY = "app.kubernetes.io/managed-by"


@dataclass(frozen=True, slots=True)
class _Tool:
    """A deployment tool that puts objects back."""

    name: str
    marks: tuple[str, ...]
    """Labels or annotations whose value names what it belongs to."""
    managers: tuple[str, ...]
    called: tuple[str, ...]
    """What `app.kubernetes.io/managed-by` may call it, in lower case."""


_TOOLS = (
    _Tool(
        "Argo CD",
        ("argocd.argoproj.io/instance", "argocd.argoproj.io/tracking-id"),
        ("argocd-controller", "argocd-application-controller"),
        ("argocd", "argo-cd"),
    ),
    _Tool(
        "Flux",
        ("kustomize.toolkit.fluxcd.io/name", "helm.toolkit.fluxcd.io/name"),
        ("kustomize-controller", "helm-controller"),
        ("flux", "fluxcd"),
    ),
)


@dataclass(frozen=True, slots=True)
class Owner:
    """A tool that puts a field back."""

    tool: str
    application: str
    """What of it owns the object; empty where the object does not say."""

    def __str__(self) -> str:
        return f"{self.tool} {self.application}".rstrip()


def owner_of(body: JSON, *fields: str) -> Owner | None:
    """Who puts these fields of the object's `spec` back if they are changed; None: nobody does, as
    far as the object says."""
    about = body["metadata"]
    notes = {**(about.get("annotations") or {}), **(about.get("labels") or {})}
    if notes.get(RELEASED) == _BY_ROLLOUT:
        return None
    for tool in _TOOLS:
        mark = next((str(notes[each]) for each in tool.marks if notes.get(each)), None)
        written = [
            entry.get("fieldsV1") or {}
            for entry in about.get("managedFields") or ()
            if entry.get("manager") in tool.managers and not entry.get("subresource")
        ]
        called = str(notes.get(_MANAGED_BY, "")).lower() in tool.called
        if mark is None and not written and not called:
            continue
        # Where it has written nothing under its name, what its repository says is not known.
        if not written or any(_has(each, field) for each in written for field in fields):
            return Owner(tool.name, (mark or "").partition(":")[0])
    return None


def fix_of(owner: Owner, body: JSON, *fields: str) -> str:
    """What has to be changed where, so that the fields may be written here."""
    kind, name = str(body["kind"]), str(body["metadata"]["name"])
    group = str(body["apiVersion"]).rpartition("/")[0]
    pointers = ", ".join(f"/spec/{field}" for field in fields)
    named = " and ".join(f"spec.{field}" for field in fields)
    if owner.tool == "Argo CD":
        first = (
            f"in Application {owner.application or '…'} set spec.ignoreDifferences: [{{group: "
            f"{group}, kind: {kind}, name: {name}, jsonPointers: [{pointers}]}}] and "
            "spec.syncPolicy.syncOptions: [RespectIgnoreDifferences=true]"
        )
    else:
        first = f"leave {named} of {kind} {name} out of what {owner} applies"
    return (
        f"{first}, and annotate it {RELEASED}={_BY_ROLLOUT}; or change {named} in its repository "
        "by hand, and go on when it is applied"
    )


def is_tools_own(name: str) -> bool:
    """Whether a label or annotation is a deployment tool's: what carries it belongs to the tool,
    which deletes what it does not know."""
    prefix = name.partition("/")[0]
    return (
        prefix.endswith(("argocd.argoproj.io", "toolkit.fluxcd.io"))
        or prefix in ("meta.helm.sh", "helm.sh", "kubectl.kubernetes.io")
        or prefix == "deployment.kubernetes.io"
        or name in ("app.kubernetes.io/instance", _MANAGED_BY)
    )


def _has(written: Mapping[str, object], field: str) -> bool:
    """Whether a set of fields, as `managedFields` writes it, has one of `spec`."""
    spec = written.get("f:spec")
    return isinstance(spec, Mapping) and f"f:{field}" in spec
