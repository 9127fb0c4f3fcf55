"""Kinds of objects that an API server does not know by itself. It serves one a moment after it was
defined, and goes on serving one for a moment that was taken away: both return after that."""

from __future__ import annotations

from typing import Any

from tests.waiting import becomes

from .control_plane import ControlPlane

_DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


def any_shape(kind: str, api: str, plural: str) -> dict[str, Any]:
    """A kind whose objects may hold anything; nobody acts on them."""
    group, _, version = api.partition("/")
    anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    served = {"name": version, "served": True, "storage": True}
    approved = {"api-approved.kubernetes.io": "unapproved, for tests"}
    return {
        "metadata": {"name": f"{plural}.{group}", "annotations": approved},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"plural": plural, "singular": kind.lower(), "kind": kind},
            "versions": [{**served, "schema": {"openAPIV3Schema": anything}}],
        },
    }


def define(plane: ControlPlane, definition: dict[str, Any]) -> None:
    """Defined, unless it is already, and served when this returns."""
    if definition["metadata"]["name"] not in _defined(plane):
        plane.ask("POST", _DEFINITIONS, definition)
    becomes(lambda: _refusal(plane, definition), lambda said: not said, every_seconds=0.05)


def take_away(plane: ControlPlane, definition: dict[str, Any]) -> None:
    """Neither defined nor served when this returns."""
    name = definition["metadata"]["name"]
    plane.ask("DELETE", f"{_DEFINITIONS}/{name}")
    becomes(lambda: _defined(plane), lambda names: name not in names)
    becomes(lambda: _refusal(plane, definition), bool)


def _defined(plane: ControlPlane) -> set[str]:
    return {each["metadata"]["name"] for each in plane.ask("GET", _DEFINITIONS)["items"]}


def _refusal(plane: ControlPlane, definition: dict[str, Any]) -> str:
    """Why objects of that kind cannot be listed; empty where they can."""
    spec = definition["spec"]
    version = spec["versions"][0]["name"]
    try:
        plane.ask("GET", f"/apis/{spec['group']}/{version}/{spec['names']['plural']}")
    except RuntimeError as refused:
        return str(refused)
    return ""
