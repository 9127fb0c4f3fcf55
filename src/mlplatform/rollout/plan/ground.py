"""Whether a cluster can take a version's servers: its GPUs, what is free of them, who else wants
them, and what would keep servers from starting. Pure.

How many servers fit is reckoned node by node, by everything that one takes, as the scheduler does
it; what may not be looked at is counted by the topology (see `room`), or holds. Kubernetes lets a
Deployment shrink whatever a disruption budget says, for only evictions ask it; that whoever wrote
the budget wanted so many servers is heeded all the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import TypeVar

from mlplatform.core.manifest import Requirements
from mlplatform.core.seen import Unknown
from mlplatform.ports.ground import (
    Amounts,
    Bound,
    Budget,
    Given,
    Limit,
    Node,
    Offer,
    Pod,
    ProbeTime,
    Quota,
    Template,
)
from mlplatform.rollout.plan.gpus import Demand, demands_of, of_runtime
from mlplatform.rollout.plan.seen import Finding, Rule

T = TypeVar("T")

_NAMED = 3
"""So many of the same are named."""
_SHARED = frozenset({"cpu", "memory", "ephemeral-storage", "pods"})
"""What every node has some of."""
_GIB = Decimal(1024) ** 3


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a rollout asks of a cluster."""

    model: str
    version: str
    region: str
    kind: str = "canary"
    """Of the strategy; `first` where nothing serves yet."""
    extra: int = 0
    """Servers beside those that serve."""
    away: int = 0
    """Old servers that go before new ones come."""
    spare: int = 0
    """Old servers that could go first."""
    requirements: Requirements = field(default_factory=Requirements)
    products: frozenset[str] = field(default_factory=frozenset)
    """Of GPUs that a server takes, by the topology."""
    load_seconds: float | None = None

    @property
    def subject(self) -> str:
        return f"{self.model}@{self.version}"


def counts_nodes(offer: Offer | Unknown | None) -> bool:
    """Whether free GPUs are known from where servers run; else the topology's figures count."""
    return isinstance(offer, Offer) and isinstance(offer.nodes, tuple)


def lacking_ground(offer: Offer | Unknown | None, wanted: Wanted) -> Iterator[Finding]:
    """What a cluster lacks for it, each with its object, field and value, and the fix. None: it is
    not asked."""
    if offer is None:
        return
    if isinstance(offer, Unknown):
        yield _unread(offer.reason, wanted)
        return
    template = offer.template
    for refusal in offer.refused:
        yield Finding(Rule.TEMPLATE, refusal.reason, refusal.fix)
    for reason in _unreadable(offer):
        yield _unread(reason, wanted)
    if isinstance(offer.nodes, tuple) and template.name:
        demands, findings = demands_of(wanted.subject, wanted.requirements, wanted.products)
        yield from findings if _devices(template.needs) else ()
        yield from _of_nodes(offer, offer.nodes, demands, wanted)
    yield from of_runtime(
        wanted.subject, wanted.requirements, template.runtime, f"the pods of {template.name}"
    )
    for quota in _read(offer.quotas):
        yield from _of_quota(quota, wanted)
    for limit in _read(offer.limits):
        yield from _of_limit(limit, template.name)
    for each in offer.given:
        yield from _of_given(each, template.name)
    for budget in _read(offer.budgets):
        yield from _of_budget(budget, wanted)
    for reference in offer.references:
        if reference.there is False:
            yield Finding(
                Rule.MISSING_OBJECT,
                f"{template.name}: {reference.named_by} names {reference}, which is not there",
                f"create it, or take it out of {reference.named_by}",
            )
    for probe in template.probes:
        yield from _of_probe(probe, template.name, wanted)
    for pair in _read(offer.rivalries):
        both = " and ".join(pair.resources)
        yield Finding(
            Rule.TWO_AUTOSCALERS,
            f"{pair.horizontal} scales by {both}, and {pair.vertical} changes the requests of "
            f"{both}: each undoes what the other does",
            f"set spec.updatePolicy.updateMode: Off of {pair.vertical.partition(' (')[0]}, or "
            f"scale {pair.horizontal} by another metric",
        )
    for bare in offer.unscaled:
        said = f"{bare.scaler} scales {bare.scales}, and nothing would scale {wanted.subject}"
        yield Finding(Rule.NO_AUTOSCALER, f"{said}: {bare.why}", bare.fix)
    for owned in offer.owned:
        said = f"{owned.owner} puts {owned.fields} of {owned.subject} back"
        yield Finding(Rule.PUT_BACK, said, owned.fix)


def _read(found: tuple[T, ...] | Unknown | None) -> tuple[T, ...]:
    return found if isinstance(found, tuple) else ()


def _unreadable(offer: Offer) -> Iterable[str]:
    """Why something could not be looked at, each reason once."""
    parts: tuple[object, ...] = (offer.nodes, offer.waiting, offer.quotas, offer.limits)
    parts += (offer.budgets, offer.rivalries, *(each.there for each in offer.references))
    return dict.fromkeys(each.reason for each in parts if isinstance(each, Unknown))


def _unread(reason: str, wanted: Wanted) -> Finding:
    return Finding(
        Rule.UNREAD,
        reason,
        "grant it, as infra/rbac/servers.yaml, split.yaml and ground.yaml do; where the context is "
        "not there, see to the kubeconfig; or add unread=accept to "
        f"rollout.models.{wanted.model}.servers.{wanted.region}",
        unknown=True,
    )


# --- nodes --------------------------------------------------------------------------------------


def _of_nodes(
    offer: Offer, nodes: Sequence[Node], demands: Sequence[Demand], wanted: Wanted
) -> Iterator[Finding]:
    template = offer.template
    devices = _devices(template.needs)
    if not nodes:
        shut = [f"{name}: {why}" for name, why in sorted(offer.closed.items())]
        what = f" with {' and '.join(sorted(devices))}" if devices else ""
        why = f" ({_some(shut, '; ')})" if shut else ""
        yield Finding(
            Rule.ROOM,
            f"no node{what} takes a server of {template.name}{why}",
            "mend spec.template.spec (nodeSelector, affinity, tolerations), or bring nodes that it "
            "lets in",
        )
        return
    fitting = list(nodes)
    for demand in demands if devices else ():
        yield from _of_demand(demand, nodes, template, wanted)
        fitting = [node for node in fitting if demand.holds(node.gpu) is not False]
    if not fitting:
        return
    room = _fit(fitting, template.needs)
    waiting = _rivals(fitting, template, _read(offer.waiting), wanted)
    if room < wanted.extra:
        yield _too_small(fitting, template, room, wanted)
    elif waiting and (wanted.away or _fit(_taken(fitting, waiting), template.needs) < wanted.extra):
        yield _outranked(waiting, template, wanted)


def _of_demand(
    demand: Demand, nodes: Sequence[Node], template: Template, wanted: Wanted
) -> Iterator[Finding]:
    answers = {node.name: demand.holds(node.gpu) for node in nodes}
    wrong = [node for node in nodes if answers[node.name] is False]
    right = [node for node in nodes if answers[node.name] is True]
    if wrong:
        named = _some([f"{node.name} has {demand.shows(node.gpu)}" for node in wrong], ", ")
        fix = demand.mend
        if right:
            product = right[0].gpu.product
            chosen = (
                f"nodeSelector: {{nvidia.com/gpu.product: {product}}}"
                if product is not None
                else "a nodeSelector"
            )
            fix = f"keep servers off them: {chosen} in spec.template.spec of {template.name}"
        also = " too, and takes its servers" if right else ""
        said = f"{wanted.subject} needs {demand.said}: {named}{also}"
        yield Finding(demand.rule, said, fix)
    silent = [node.name for node in nodes if answers[node.name] is None]
    if silent and demand.strict:
        yield Finding(
            demand.rule,
            f"{wanted.subject} needs {demand.said}, and no label {demand.label} is on "
            f"{_some(silent, ', ')}",
            "run GPU feature discovery there, which writes it",
            unknown=True,
        )


def _too_small(nodes: Sequence[Node], template: Template, room: int, wanted: Wanted) -> Finding:
    """Why there is no room for the servers beside those that serve."""
    needed = _each(template.needs)
    asked = (
        f"1 more server of {template.name} needs {needed}"
        if wanted.extra == 1
        else f"{wanted.extra} more servers of {template.name} need {needed} each"
    )
    ending = [pod for node in nodes for pod in node.ending if _wants(pod, template)]
    later = _fit([_freed(node) for node in nodes], template.needs)
    if later >= wanted.extra:
        by = max((pod.ends_at for pod in ending if pod.ends_at is not None), default=None)
        when = f" at {by:%H:%M:%S} UTC at the latest" if by is not None else " when they have gone"
        names = _some([pod.name for pod in ending], ", ")
        return Finding(
            Rule.ENDING_PODS,
            f"{asked}, and pods that end hold it: {names}",
            f"they let go of it{when} (terminationGracePeriodSeconds): plan again then",
        )
    there = _some([f"{node.name} has {_short(node, template.needs)}" for node in nodes], ", ")
    held = f"; {later} when {_some([p.name for p in ending], ', ')} have gone" if ending else ""
    return Finding(
        Rule.ROOM,
        f"{asked}, and there is room for {room}{held}: {there}",
        _with_less(max(room, 0), wanted),
    )


def _with_less(room: int, wanted: Wanted) -> str:
    """Which strategy would fit."""
    key = f"rollout.models.{wanted.model}.regions.{wanted.region}"
    if wanted.kind == "first":
        less = f"rollout.models.{wanted.model}.first_servers: {room}, or " if room else ""
        return f"{less}free what is needed"
    if room:
        return f"{key}: {{kind: canary, surge_servers: {room}}} fits, or free what is needed"
    if wanted.spare < 1:
        return "free what is needed: no old server can be spared, so that none can go first either"
    return (
        f"{key}: {{kind: canary, surge_servers: 0}} needs none: {wanted.spare} old "
        f"server{'s' * (wanted.spare != 1)} at a time end before new ones start, as with "
        f"maxSurge: 0 and maxUnavailable: {wanted.spare} of a Deployment; or free what is needed"
    )


def _rivals(
    nodes: Sequence[Node], template: Template, waiting: Sequence[Pod], wanted: Wanted
) -> list[Pod]:
    """Who waits, and is served no later than a server is: with what is free, or with what old
    servers free as they go first."""
    mine = template.priority
    freed = {name: each * wanted.away for name, each in template.needs.items()}
    return [
        pod
        for pod in waiting
        if (mine is None or pod.priority >= mine)
        and any(_takes_in(pod, node.free, freed) for node in nodes)
    ]


def _outranked(waiting: Sequence[Pod], template: Template, wanted: Wanted) -> Finding:
    devices = _devices(template.needs)
    named = _some(
        [
            f"{pod.name} (priority {pod.priority}, "
            f"{_each({key: pod.takes[key] for key in sorted(devices & pod.takes.keys())})})"
            for pod in waiting
        ],
        ", ",
    )
    mine = "unknown" if template.priority is None else str(template.priority)
    what = "what old servers free" if wanted.away else "what is free"
    return Finding(
        Rule.PENDING_PODS,
        f"{named} {'waits' if len(waiting) == 1 else 'wait'} for a node, and may take {what} "
        f"before a server of {template.name} does, whose priority is {mine}",
        f"let it be served first, or set a priorityClassName of more than "
        f"{max(pod.priority for pod in waiting)} in spec.template.spec of {template.name}",
        unknown=template.priority is None,
    )


def _fit(nodes: Iterable[Node], needs: Amounts) -> int:
    """How many servers there is room for."""
    wanted = {name: each for name, each in needs.items() if each > 0}
    if not wanted:
        return 0
    return sum(
        max(0, min(int(node.free.get(name, Decimal(0)) // each) for name, each in wanted.items()))
        for node in nodes
    )


def _freed(node: Node) -> Node:
    """A node, once those that end have gone."""
    free = dict(node.free)
    for pod in node.ending:
        for name, amount in pod.takes.items():
            if name in free:
                free[name] += amount
    return replace(node, free=free)


def _taken(nodes: Sequence[Node], pods: Sequence[Pod]) -> list[Node]:
    """Nodes, once those who wait have been given what there is, the first that has it."""
    left = list(nodes)
    for pod in sorted(pods, key=lambda each: (-each.priority, each.name)):
        for at, node in enumerate(left):
            if _takes_in(pod, node.free, {}):
                free = {k: v - pod.takes.get(k, Decimal(0)) for k, v in node.free.items()}
                left[at] = replace(node, free=free)
                break
    return left


def _takes_in(pod: Pod, free: Amounts, more: Mapping[str, Decimal]) -> bool:
    """Whether a pod fits into what is free, and more."""
    return all(
        amount <= free[name] + more.get(name, Decimal(0))
        for name, amount in pod.takes.items()
        if name in free
    )


def _wants(pod: Pod, template: Template) -> bool:
    return any(pod.takes.get(name) for name in _devices(template.needs) or template.needs)


# --- the namespace ------------------------------------------------------------------------------


def _of_quota(quota: Quota, wanted: Wanted) -> Iterator[Finding]:
    needed = quota.once + quota.per_server * wanted.extra
    if not needed or quota.used + needed <= quota.hard:
        return
    least = quota.used + needed
    fix = f"raise spec.hard.{quota.resource} of {quota.name} to {_amount(quota.resource, least)}"
    if quota.per_server and quota.used + quota.once <= quota.hard and wanted.spare >= 1:
        key = f"rollout.models.{wanted.model}.regions.{wanted.region}"
        fix += f", or {key}: {{kind: canary, surge_servers: 0}}, which needs no more of it"
    yield Finding(
        Rule.QUOTA,
        f"{quota.name}: {quota.resource}: {_amount(quota.resource, needed)} more are needed, "
        f"{_amount(quota.resource, quota.used)} of {_amount(quota.resource, quota.hard)} are used",
        fix,
    )


def _of_limit(limit: Limit, template: str) -> Iterator[Finding]:
    if _is_within(limit):
        return
    said = _amount(limit.resource, limit.value)
    told = " and ".join(
        f"a {name} of {_amount(limit.resource, value)}" if value is not None else f"no {name}"
        for name, value in (("request", limit.request), ("limit", limit.limit))
    )
    mend = {
        Bound.LEAST: f"{said} or more",
        Bound.MOST: f"{said} or less",
        Bound.RATIO: f"a limit of {said} × its request at most",
    }
    yield Finding(
        Rule.LIMIT_RANGE,
        f"{limit.name}: {limit.states} is {said}, and {limit.of} of {template} has {told}: no "
        "server would be let in",
        f"give {limit.of} of {template} {mend[limit.bound]}, or change {limit.states} there",
    )


def _is_within(limit: Limit) -> bool:
    """As the API server's LimitRanger holds it: what a bound needs has to be stated."""
    request, most, value = limit.request, limit.limit, limit.value
    match limit.bound:
        case Bound.LEAST:
            return request is not None and request >= value and (most is None or most >= value)
        case Bound.MOST:
            return most is not None and most <= value and (request is None or request <= value)
    return request is not None and most is not None and most <= value * request


def _of_given(given: Given, template: str) -> Iterator[Finding]:
    """A container that states too little is changed; one whose request is more than the limit that
    it gets is no valid pod."""
    field = f"resources.{given.field}.{given.resource}"
    said = (
        f"{given.name} gives container {given.container} of {template} {field}: "
        f"{_amount(given.resource, given.value)}"
    )
    mend = f"state {field} of container {given.container} in spec.template.spec of {template}"
    if given.field == "limits" and given.request is not None and given.request > given.value:
        asked = _amount(given.resource, given.request)
        said = f"{said}, and it requests {asked}: no server would be let in"
        yield Finding(Rule.LIMIT_RANGE, said, f"{mend}: {asked} or more")
    elif not given.known:
        said = f"{said}, which servers that run do not have: new ones would be others"
        yield Finding(Rule.LIMIT_RANGE, said, mend)


def _of_budget(budget: Budget, wanted: Wanted) -> Iterator[Finding]:
    if not wanted.away or budget.healthy - wanted.away >= budget.desired:
        return
    yield Finding(
        Rule.DISRUPTION_BUDGET,
        f"{budget.name}: {budget.states}: it wants {budget.desired} of {budget.healthy} healthy "
        f"pods to stay (disruptionsAllowed: {budget.allowed}), and {wanted.away} would go first",
        "give the strategy surge_servers and room for them, or lower what it wants to "
        f"{max(0, budget.healthy - wanted.away)} while the rollout lasts",
    )


def _of_probe(probe: ProbeTime, template: str, wanted: Wanted) -> Iterator[Finding]:
    load = wanted.load_seconds
    if load is None or probe.allowed_seconds >= load:
        return
    if probe.probe == "startupProbe":
        failures = math.ceil((load - probe.delay_seconds) / probe.period_seconds)
        fix = f"set its failureThreshold to {failures} at least"
    else:
        failures = math.ceil(load / probe.period_seconds)
        fix = (
            f"give it a startupProbe with periodSeconds: {probe.period_seconds:g} and "
            f"failureThreshold: {failures} at least"
        )
    yield Finding(
        Rule.PROBE_TIME,
        f"{template}: {probe.probe} of container {probe.container} kills it after "
        f"{probe.delay_seconds:g} + {probe.period_seconds:g} × {probe.failures} = "
        f"{probe.allowed_seconds:g} s, and it takes {load:g} s to load",
        fix,
    )


# --- words --------------------------------------------------------------------------------------


def _devices(needs: Amounts) -> frozenset[str]:
    return frozenset(needs) - _SHARED


def _some(names: Sequence[str], between: str) -> str:
    more = len(names) - _NAMED
    return between.join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _each(needs: Amounts) -> str:
    return ", ".join(
        f"{_amount(name, each)} {name}"
        for name, each in sorted(needs.items(), key=lambda each: (each[0] in _SHARED, each[0]))
        if name != "pods" or len(needs) == 1
    )


def _short(node: Node, needs: Amounts) -> str:
    """What a node has least of, for a server."""

    def servers(name: str) -> Decimal:
        return node.free.get(name, Decimal(0)) / needs[name]

    name = min((name for name in needs if needs[name] > 0), key=lambda each: (servers(each), each))
    return f"{_amount(name, max(Decimal(0), node.free.get(name, Decimal(0))))} {name} free"


def _amount(name: str, value: Decimal) -> str:
    if name.endswith(("memory", "storage")) and abs(value) >= _GIB / 10:
        return f"{value / _GIB:.1f}".removesuffix(".0") + "Gi"
    return f"{value.normalize():f}"
