"""Who else writes a field of an object, and puts it back: Argo CD and Flux; and of an HTTPRoute's
weights, who moves them too.

They are known by labels and annotations that they put on what they own, and by the name under which
they write (`managedFields`). They put back what their repository says, so that a field which is not
in there is free: one that they never wrote is not theirs. Helm writes once, and puts nothing back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mlplatform.adapters.gateway_api import NONCE
from mlplatform.adapters.kubernetes_api import JSON

RELEASED = "mlplatform.dev/scaled-by"
"""Says `rollout` on an object whose owner has been told to leave the number of servers alone: which
exceptions Argo CD makes is in its own objects, and cannot be seen here."""
SPLIT_RELEASED = "mlplatform.dev/split-by"
"""The same of an HTTPRoute, and its weights."""
_BY_ROLLOUT = "rollout"
_BY_HAND = ("kubectl", "k9s", "helm")
"""How those are called, in lower case, who write when a person says so, and put nothing back."""
_MOVERS = {
    "flagger": "Flagger",
    "rollouts-controller": "Argo Rollouts",
    "argo-rollouts": "Argo Rollouts",
}
"""Controllers that move weights of their own accord, by the name under which they write."""
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
        written = [
            entry.get("fieldsV1") or {}
            for entry in _entries(body)
            if entry.get("manager") in tool.managers
        ]
        if (owner := _marked(tool, notes, has_written=bool(written))) is None:
            continue
        # Where it has written nothing under its name, what its repository says is not known.
        if not written or any(_has(each, field) for each in written for field in fields):
            return owner
    return None


def mover_of(route: JSON) -> Owner | None:
    """Who else writes an HTTPRoute's weights; None: nobody does, as far as the route says.

    Its rules are one atomic list, which whoever wrote it last has alone in `managedFields`: so that
    a tool whose object it is has them in its repository, whether it is named there or not, and who
    has written them after us has not left them to us.
    """
    about = route["metadata"]
    notes = {**(about.get("annotations") or {}), **(about.get("labels") or {})}
    if notes.get(SPLIT_RELEASED) == _BY_ROLLOUT:
        return None
    entries = _entries(route)
    managers = {str(entry.get("manager", "")) for entry in entries}
    for tool in _TOOLS:
        if owner := _marked(tool, notes, has_written=bool(managers & {*tool.managers})):
            return owner
    ours = max((str(e.get("time", "")) for e in entries if _notes(e, NONCE)), default="")
    for entry in entries:
        manager = str(entry.get("manager", ""))
        if not _has(entry.get("fieldsV1") or {}, "rules") or _notes(entry, NONCE):
            continue
        if manager in _MOVERS:
            return Owner(_MOVERS[manager], "")
        # Times of the API compare as text (RFC 3339, UTC).
        if ours and str(entry.get("time", "")) > ours and not manager.lower().startswith(_BY_HAND):
            return Owner(manager, "")
    return None


def mend_of(owner: Owner, route: JSON) -> str:
    """What has to be changed where, so that the weights of an HTTPRoute may be written here."""
    name = route["metadata"]["name"]
    released = f"{SPLIT_RELEASED}={_BY_ROLLOUT}"
    if owner.tool == "Argo CD":
        return (
            f"in Application {owner.application or '…'} set spec.ignoreDifferences: [{{group: "
            f"gateway.networking.k8s.io, kind: HTTPRoute, name: {name}, jqPathExpressions: "
            '[".spec.rules[].backendRefs"]}] and spec.syncPolicy.syncOptions: '
            f"[RespectIgnoreDifferences=true], and annotate the route {released}"
        )
    if owner.tool == "Flux":
        return (
            "annotate it in its repository kustomize.toolkit.fluxcd.io/ssa: IfNotPresent (for a "
            "HelmRelease: spec.driftDetection.ignore of /spec/rules), so that it is made and left "
            f"alone, and {released}"
        )
    if owner.tool in _MOVERS.values():
        return f"give the model's rollouts to one of both: take HTTPRoute {name} from {owner}"
    return (
        f"see what {owner} is (kubectl get httproute {name} -o yaml --show-managed-fields) and "
        f"have it leave spec.rules alone; if it was once only, annotate the route {released}"
    )


def _entries(body: JSON) -> list[JSON]:
    """Who wrote what of an object, but for its status."""
    found = body["metadata"].get("managedFields") or ()
    return [each for each in found if not each.get("subresource")]


def _marked(tool: _Tool, notes: Mapping[str, str], *, has_written: bool) -> Owner | None:
    """A tool, if the object says that it is the tool's."""
    mark = next((str(notes[each]) for each in tool.marks if notes.get(each)), None)
    called = str(notes.get(_MANAGED_BY, "")).lower() in tool.called
    if mark is None and not has_written and not called:
        return None
    return Owner(tool.name, (mark or "").partition(":")[0])


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


def _notes(entry: JSON, annotation: str) -> bool:
    """Whether an entry of `managedFields` has an annotation."""
    about = (entry.get("fieldsV1") or {}).get("f:metadata") or {}
    return f"f:{annotation}" in (about.get("f:annotations") or {})
