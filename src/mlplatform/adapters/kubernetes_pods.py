"""What a pod says of itself: which version it holds, where it answers, and whether it is ready."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlplatform.adapters.kubernetes_api import JSON

MODEL, VERSION, TRACK = (f"mlplatform.dev/{name}" for name in ("model", "version", "track"))
"""Labels: which model a Deployment serves, which version a pod holds, and what is on trial."""
VARIABLE = "MODEL_VERSION"
"""The variable of a container by which the model server is told its version."""


def is_ready(pod: JSON) -> bool:
    """Whether requests are sent to it."""
    conditions = pod.get("status", {}).get("conditions") or ()
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def version_of(pod: JSON) -> str | None:
    """Which version a pod holds, or those of a Deployment's template will; None where it does not
    say."""
    about = pod["metadata"]
    for notes in (about.get("labels"), about.get("annotations")):
        if notes and notes.get(VERSION):
            return str(notes[VERSION])
    for container in pod["spec"].get("containers") or ():
        for variable in container.get("env") or ():
            if variable["name"] == VARIABLE and variable.get("value"):
                return str(variable["value"])
    return None


def port_of(pod: JSON) -> int:
    """Where its server answers."""
    ports = [port for c in pod["spec"].get("containers") or () for port in c.get("ports") or ()]
    named = [port for port in ports if port.get("name") == "http"] or ports
    return int(named[0]["containerPort"]) if named else 80


def holds(rule: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Whether labels are what one of a selector's `matchExpressions` asks for."""
    there, values = labels.get(rule["key"]), rule.get("values") or ()
    match rule["operator"]:
        case "In":
            return there in values
        case "NotIn":
            return there not in values
        case "Exists":
            return there is not None
    return there is None  # DoesNotExist, the only other one
