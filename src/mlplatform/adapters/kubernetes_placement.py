"""What a pod takes, and which nodes take it: quantities, requests, selectors, affinities, taints.

As kube-scheduler reckons it, for what decides where a server of a model may run. Spread, affinity
between pods and what volumes are bound to are left to the scheduler: they say where among those
nodes, as a rule.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from mlplatform.adapters.kubernetes_api import JSON
from mlplatform.adapters.kubernetes_pods import holds
from mlplatform.core.errors import IntegrityError

Amounts = Mapping[str, Decimal]

_QUANTITY = re.compile(r"([+-]?[0-9.]+)(?:([eE][+-]?\d+)|([numkMGTPE]|[KMGTPE]i)?)")
_UNITS = {
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    **{unit: Decimal(1000) ** power for power, unit in enumerate("kMGTPE", start=1)},
    **{f"{unit}i": Decimal(1024) ** power for power, unit in enumerate("KMGTPE", start=1)},
}
_KEEPS_OUT = frozenset({"NoSchedule", "NoExecute"})
"""Effects of taints that only a toleration lets past."""


def quantity(text: object) -> Decimal:
    """A Kubernetes quantity in base units: `500m` is 0.5, `1Gi` 1073741824. `IntegrityError` for
    what is none."""
    told = _QUANTITY.fullmatch(str(text))
    try:
        if told is None:
            raise ValueError
        return Decimal(told[1] + (told[2] or "")) * _UNITS.get(told[3] or "", Decimal(1))
    except (ValueError, ArithmeticError):
        raise IntegrityError(f"{text!r} is no quantity of Kubernetes") from None


def takes(spec: JSON, *, which: str = "requests") -> dict[str, Decimal]:
    """What a pod of that spec takes of a node: the sum of its containers and sidecars, or what an
    init container takes beside the sidecars before it, and its overhead. A limit without a request
    is a request. Or the same of its `limits`."""
    running: dict[str, Decimal] = {}
    peak: dict[str, Decimal] = {}
    for each in spec.get("initContainers") or ():
        asked = requested(each, which=which)
        if each.get("restartPolicy") == "Always":  # a sidecar
            running = added(running, asked)
            peak = _most(peak, running)
        else:
            peak = _most(peak, added(running, asked))
    for each in spec.get("containers") or ():
        running = added(running, requested(each, which=which))
    overhead = {name: quantity(value) for name, value in (spec.get("overhead") or {}).items()}
    return {
        name: value for name, value in added(_most(peak, running), overhead).items() if value > 0
    }


def requested(container: JSON, *, which: str = "requests") -> dict[str, Decimal]:
    """A container's requests, or its `limits`."""
    resources = container.get("resources") or {}
    asked = dict(resources.get("limits") or {})
    if which == "requests":
        asked |= resources.get("requests") or {}
    return {name: quantity(value) for name, value in asked.items()}


def added(one: Amounts, other: Amounts) -> dict[str, Decimal]:
    """Both together."""
    return {n: one.get(n, Decimal(0)) + other.get(n, Decimal(0)) for n in (*one, *other)}


def less(one: Amounts, other: Amounts) -> dict[str, Decimal]:
    """What is left of one, of the resources that it has."""
    return {name: value - other.get(name, Decimal(0)) for name, value in one.items()}


def closed_to(node: JSON, spec: JSON, tolerations: Sequence[JSON]) -> str:
    """Why a node takes no pod of that spec; empty where it does. What is free there is another
    question. `tolerations` are those of the pods, which admission may have added to."""
    about, own = node["metadata"], node.get("spec") or {}
    labels: Mapping[str, str] = about.get("labels") or {}
    for key, value in (spec.get("nodeSelector") or {}).items():
        if labels.get(key) != value:
            return f"its label {key} is {labels.get(key, 'not there')}, not {value}"
    affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    wanted = affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    terms = wanted.get("nodeSelectorTerms")
    if terms is not None and not any(_is_met(term, labels, about["name"]) for term in terms):
        return "no term of the pods' nodeAffinity holds for its labels"
    if own.get("unschedulable"):
        return "it is cordoned"
    conditions = (node.get("status") or {}).get("conditions") or ()
    if not any(each["type"] == "Ready" and each["status"] == "True" for each in conditions):
        return "it is not ready"
    for taint in own.get("taints") or ():
        if taint.get("effect") in _KEEPS_OUT and not any(
            _is_tolerated(taint, each) for each in tolerations
        ):
            value = f"={taint['value']}" if taint.get("value") else ""
            return f"the pods do not tolerate its taint {taint['key']}{value}:{taint['effect']}"
    return ""


def _most(one: Amounts, other: Amounts) -> dict[str, Decimal]:
    return {n: max(one.get(n, Decimal(0)), other.get(n, Decimal(0))) for n in (*one, *other)}


def _is_tolerated(taint: JSON, toleration: JSON) -> bool:
    if toleration.get("effect") and toleration["effect"] != taint.get("effect"):
        return False
    if toleration.get("operator") == "Exists":
        return not toleration.get("key") or toleration["key"] == taint["key"]
    same_value = (toleration.get("value") or "") == (taint.get("value") or "")
    return toleration.get("key") == taint["key"] and same_value


def _is_met(term: JSON, labels: Mapping[str, str], name: str) -> bool:
    """Whether a term holds; an empty one holds for nothing."""
    rules = list(term.get("matchExpressions") or ())
    fields = list(term.get("matchFields") or ())
    if not rules and not fields:
        return False
    return _all(rules, labels) and _all(fields, {"metadata.name": name})


def _all(rules: Iterable[Mapping[str, Any]], labels: Mapping[str, str]) -> bool:
    return all(
        _compared(rule, labels) if rule["operator"] in ("Gt", "Lt") else holds(rule, labels)
        for rule in rules
    )


def _compared(rule: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    there = labels.get(rule["key"])
    try:
        found, limit = int(there or ""), int(rule["values"][0])
    except ValueError:
        return False
    return found > limit if rule["operator"] == "Gt" else found < limit
