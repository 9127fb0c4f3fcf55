"""What a region must be, before anything of a rollout begins anywhere."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from itertools import takewhile

from mlplatform.core.manifest import Requirements
from mlplatform.core.seen import Unknown
from mlplatform.core.topology import Topology
from mlplatform.ports.fleet import Served
from mlplatform.rollout.plan.ground import Wanted, counts_nodes, lacking_ground
from mlplatform.rollout.plan.hand_over import Handing, handing_over
from mlplatform.rollout.plan.room import (
    declaring,
    extra_servers,
    is_routed,
    lacking_room,
    peak_of,
    rate_of,
    spared,
)
from mlplatform.rollout.plan.seen import Copy, Finding, RegionStands, Rule, Seen, Standing
from mlplatform.rollout.plan.steps import Case, Kind, Step, first_steps_of, steps_of

_ORDERED = "what was ordered or begun has to end first: mlplatform failover status"
_FIXES = {
    Rule.MAINTENANCE: "mlplatform failover maintain {region} --end, when it is over",
    Rule.DRAINED: "mlplatform failover undrain {region}",
    Rule.UNHEALTHY: "mlplatform failover explain {region}",
}
"""By rule of failover's; for the others `_ORDERED`."""


@dataclass(frozen=True, slots=True)
class Judged:
    """One region: its steps, or why there are none."""

    region: str
    findings: tuple[Finding, ...] = ()
    steps: tuple[Step, ...] = ()
    last_good: str = ""
    last_good_digest: str = ""
    servers: int = 0
    """That serve now."""
    at_once: int = 0
    """How many of them may be away at once."""
    keeps: Mapping[str, int] = field(default_factory=dict)
    """By route: points of weight that it keeps, while others bear the rest."""
    handed: float = 0.0
    """Requests a second that others bear."""
    done: bool = False
    """The version serves there already, and no other."""


def judge(topology: Topology, seen: Seen, region: str, today: date) -> Judged:
    """A region's steps, or everything that stands in the way of them."""
    request = seen.request
    stands = seen.regions[region]
    found = [*_of_bytes(seen, region, stands), *_of_failover(seen, region, stands)]
    served = stands.served
    if isinstance(served, Unknown):
        right = (
            "to the right to read them (infra/rbac/fleet.yaml), "
            if topology.regions[region].clustered
            else ""
        )
        fix = f"see to its servers, {right}then plan again"
        found.append(Finding(Rule.NOTHING_SERVES, served.reason, fix, unknown=True))
        return Judged(region, tuple(found))
    if _is_done(seen, served, region):
        return Judged(region, done=True)
    if _is_first(topology, seen, region, served):
        return _first(topology, seen, region)
    if (refused := _of_servers(seen, region, served)) is not None:
        return Judged(region, (*found, refused))
    ((last_good, digest),) = served.versions.items()
    found += _of_last_good(request.subject.model, region, last_good, digest, stands)
    needed = _servers_needed(topology, seen, region, served, today)
    handing = (
        handing_over(topology, seen, region, served, needed, today)
        if not isinstance(needed, Unknown)
        else None
    )
    if isinstance(handing, Finding):
        found.append(handing)
        handing = None
    case = _case(topology, seen, region, served, last_good, needed, handing)
    steps: tuple[Step, ...] = ()
    found += _of_strategy(topology, seen, case, today)
    can_spare = case.at_once >= 1 and (case.in_place or case.servers > 1)
    if can_spare or not case.strategy.old_go_first:
        steps = tuple(steps_of(case))
        found += _of_undo(topology, case, steps)
    return Judged(
        region,
        tuple(found),
        steps if not found else (),
        last_good,
        digest,
        servers=case.servers,
        at_once=case.at_once,
        keeps=case.keeps,
        handed=handing.requests_per_second if handing is not None else 0.0,
    )


def _of_bytes(seen: Seen, region: str, stands: RegionStands) -> Iterator[Finding]:
    subject = seen.request.subject
    replicate = f"mlplatform replicate {subject} --to {region}"
    if seen.withdrawn is not None:
        yield Finding(Rule.WITHDRAWN, f"{subject}: {seen.withdrawn}", "roll out another version")
    copy = stands.copies.get(subject.version, Unknown(f"{region}: its store was not looked at"))
    if isinstance(copy, Unknown):
        fix = "see to its store, then plan again"
        yield Finding(Rule.NOT_STORED, copy.reason, fix, unknown=True)
    elif copy.digest is None:
        said = f"{subject} is not in the store of {region}{copy.detail and f': {copy.detail}'}"
        yield Finding(Rule.NOT_STORED, said, replicate)
    elif seen.recorded_digest is not None and copy.digest != seen.recorded_digest:
        yield Finding(
            Rule.OTHER_BYTES,
            f"{region} holds {copy.digest} under that name, published was {seen.recorded_digest}",
            "remove the wrong copy by hand, or publish under a new version",
        )
    elif not copy.verified:
        yield Finding(
            Rule.NOT_VERIFIED,
            copy.detail or f"nobody has verified {subject} in {region}",
            f"mlplatform verify {subject} --deep, then {replicate}",
        )


def _of_failover(seen: Seen, region: str, stands: RegionStands) -> Iterator[Finding]:
    if seen.locked is not None:
        fix = "mlplatform failover unlock --all, when it is over"
        yield Finding(Rule.LOCKED, f"everything is locked: {seen.locked}", fix)
    standing = stands.standing
    if isinstance(standing, Unknown):
        said = f"nobody knows whether {region} is under failover: {standing.reason}"
        yield Finding(Rule.UNDER_FAILOVER, said, "mlplatform failover status", unknown=True)
        return
    for rule, reason in standing.closed.items():
        yield Finding(rule, reason, _FIXES.get(rule, _ORDERED).format(region=region))


def _is_first(topology: Topology, seen: Seen, region: str, served: Served) -> bool:
    """Whether nothing serves there, and the topology says what to begin with."""
    model = seen.request.subject.model
    return (
        not served.versions
        and not served.servers
        and topology.rollout.first_servers_of(model) is not None
        and topology.rollout.servers_of(model, region) is not None
    )


def _first(topology: Topology, seen: Seen, region: str) -> Judged:
    """A region in which nothing serves has nothing to lose: of failover's reasons only those count
    that people gave."""
    model, section = seen.request.subject.model, topology.rollout
    servers = section.first_servers_of(model) or 1
    stands = seen.regions[region]
    found = list(_of_bytes(seen, region, stands))
    found += [
        each
        for each in _of_failover(seen, region, stands)
        if each.rule in (Rule.LOCKED, Rule.MAINTENANCE)
    ]
    actuator = section.actuator_of(model, region)
    if actuator is None:
        found.append(_no_route(model, region))
    if not counts_nodes(stands.offer):
        found += lacking_room(topology, model, region, servers, stands.gpus_free)
    case = Case(
        subject=seen.request.subject,
        last_good="",
        region=region,
        servers=servers,
        strategy=section.strategy_of(model, region),
        at_once=servers,
        bake_seconds=0.0,
        actuator=actuator,
        load_seconds=section.load_seconds_of(model),
    )
    found += lacking_ground(stands.offer, _wanted(topology, stands, case, "first", servers))
    steps = tuple(first_steps_of(case)) if not found else ()
    return Judged(region, tuple(found), steps, servers=servers, at_once=servers)


def _no_route(model: str, region: str) -> Finding:
    return Finding(
        Rule.NO_ROUTE,
        f"nothing says where the weights between versions of {model} lie in {region}",
        f"set rollout.models.{model}.actuators.{region}",
    )


def _is_done(seen: Seen, served: Served, region: str) -> bool:
    version = seen.request.subject.version
    copy = seen.regions[region].copies.get(version)
    return (
        served.canary is None
        and isinstance(copy, Copy)
        and copy.verified
        and dict(served.versions) == {version: copy.digest}
    )


def _of_servers(seen: Seen, region: str, served: Served) -> Finding | None:
    """What keeps a rollout from having one version to start from."""
    model = seen.request.subject.model
    if served.canary is not None or len(served.versions) > 1:
        held = ", ".join(sorted(served.versions))
        trial = f", {served.canary} on trial" if served.canary is not None else ""
        return Finding(
            Rule.ROLLOUT_OPEN,
            f"servers of {region} hold {held}{trial}",
            "let that rollout end, so that one version serves",
        )
    if not served.versions or not served.servers:
        return Finding(
            Rule.NOTHING_SERVES,
            f"no server of {region} holds {model}: there is nothing to compare with or go back to",
            f"set rollout.models.{model}.first_servers, start servers there by hand, or leave the "
            "region out with --region",
        )
    if seen.request.subject.version in served.versions:
        copy = seen.regions[region].copies.get(seen.request.subject.version)
        held = served.versions[seen.request.subject.version] or "bytes that they do not state"
        stored = copy.digest if isinstance(copy, Copy) else None
        return Finding(
            Rule.OTHER_BYTES,
            f"servers of {region} hold {seen.request.subject} already, as {held}; "
            f"in its store is {stored or 'nothing known'}",
            "find out what they loaded before anything else",
        )
    return None


def _of_last_good(
    model: str, region: str, version: str, digest: str, stands: RegionStands
) -> Iterator[Finding]:
    """What serves now is what a rollout goes back to: it must be known, and be there."""
    copy = stands.copies.get(version, Unknown(f"{region}: its store was not looked at for it"))
    fix = f"mlplatform replicate {model}@{version} --to {region}"
    if isinstance(copy, Unknown):
        yield Finding(Rule.NO_LAST_GOOD, copy.reason, "see to its store", unknown=True)
    elif not digest:
        said = f"servers of {region} do not state which bytes of {version} they hold"
        yield Finding(Rule.NO_LAST_GOOD, said, "serve it with a server that states its digest")
    elif not copy.verified or copy.digest is None:
        said = f"{version}, which serves in {region}, is not stored and verified there"
        yield Finding(Rule.NO_LAST_GOOD, said, fix)
    elif copy.digest != digest:
        said = f"servers of {region} hold {digest} as {version}, verified there is {copy.digest}"
        yield Finding(Rule.NO_LAST_GOOD, said, "find out what they loaded before anything else")


def _case(
    topology: Topology,
    seen: Seen,
    region: str,
    served: Served,
    last_good: str,
    needed: int | Unknown,
    handing: Handing | None,
) -> Case:
    model = seen.request.subject.model
    section = topology.rollout
    return Case(
        subject=seen.request.subject,
        last_good=last_good,
        region=region,
        servers=served.servers,
        strategy=section.strategy_of(model, region),
        at_once=1
        if handing is not None
        else spared(
            served.servers,
            section.undo.floor_percent,
            needed if not isinstance(needed, Unknown) else 0,
        ),
        bake_seconds=section.waves.bake_seconds,
        actuator=section.actuator_of(model, region),
        load_seconds=section.load_seconds_of(model),
        keeps=handing.keeps if handing is not None else {},
    )


def _servers_needed(
    topology: Topology, seen: Seen, region: str, served: Served, today: date
) -> int | Unknown:
    """How many of a region's servers its load keeps busy. Where no route carries the model there is
    no load to know, and the floor alone counts."""
    model = seen.request.subject.model
    if not is_routed(topology, model):
        return 0
    standing = seen.regions[region].standing
    load = standing.load if isinstance(standing, Standing) else standing
    if isinstance(load, Unknown):
        return load
    rate = rate_of(topology, model, region, served, today)
    return rate if isinstance(rate, Unknown) else math.ceil(load / rate)


def _of_strategy(topology: Topology, seen: Seen, case: Case, today: date) -> Iterator[Finding]:
    model, region, strategy = case.subject.model, case.region, case.strategy
    # In place as well: which servers hold which version changes, and with it what each can bear.
    if case.actuator is None:
        yield _no_route(model, region)
    stands = seen.regions[region]
    extra = extra_servers(strategy, case.servers)
    if not counts_nodes(stands.offer):
        for finding in lacking_room(topology, model, region, extra, stands.gpus_free):
            yield finding if finding.fix else _with_less(finding, strategy.kind, region)
    yield from lacking_ground(stands.offer, _wanted(topology, stands, case, strategy.kind, extra))
    if not case.strategy.old_go_first:
        return
    served = stands.served
    assert isinstance(served, Served)  # noqa: S101 - a case is made of servers that were seen
    needed = _servers_needed(topology, seen, region, served, today)
    if isinstance(needed, Unknown):
        yield Finding(
            Rule.CAPACITY,
            f"old servers go first, and whether the others bear the load is not known: "
            f"{needed.reason}",
            f"{declaring(model, region)}; {peak_of(topology, model)} where no load is measured",
            unknown=True,
        )
    elif case.at_once < 1 and case.servers <= needed:
        yield Finding(
            Rule.CAPACITY,
            f"{case.servers} serve in {region}, and its load needs {needed}: none can go first",
            "start one more there, give it surge_servers and room for them, or hand_over: true, so "
            "that other regions bear a part meanwhile",
        )
    if strategy.kind == "canary" and case.servers == 1:
        yield Finding(
            Rule.FLOOR,
            f"one server serves in {region}: without it there is nothing to compare with",
            "start one more there, or give it surge_servers, or kind: in_place",
        )
    elif spared(case.servers, topology.rollout.undo.floor_percent, 0) < 1:
        yield Finding(
            Rule.FLOOR,
            f"{case.servers} serve in {region}, and one less is below the floor of "
            f"{topology.rollout.undo.floor_percent} %",
            "start one more there, or give it surge_servers, or lower rollout.undo.floor_percent",
        )


def _wanted(topology: Topology, stands: RegionStands, case: Case, kind: str, extra: int) -> Wanted:
    """What is asked of the cluster in which its servers run."""
    copy = stands.copies.get(case.version)
    return Wanted(
        case.subject.model,
        case.version,
        case.region,
        kind,
        extra=extra,
        away=case.batch if kind != "first" and case.strategy.old_go_first else 0,
        spare=case.at_once if kind != "first" else 0,
        requirements=copy.requirements if isinstance(copy, Copy) else Requirements(),
        products=frozenset(topology.models[case.subject.model].gpus),
        load_seconds=case.load_seconds,
    )


def _with_less(finding: Finding, kind: str, region: str) -> Finding:
    fix = {
        "blue_green": "kind: canary takes only surge_servers, in_place none; or free them",
        "canary": "surge_servers: 0 lets old servers go first; or free them",
    }[kind]
    return Finding(finding.rule, f"{finding.reason} in {region}", fix, finding.unknown)


def _of_undo(topology: Topology, case: Case, steps: tuple[Step, ...]) -> Iterator[Finding]:
    """A plan that cannot go back in time is none. After the bake, to go back is a new rollout."""
    before = list(takewhile(lambda step: step.kind is not Kind.RETIRE, steps))
    limit = topology.rollout.undo.within_seconds
    if any(step.undo_seconds is None for step in before):
        yield Finding(
            Rule.UNDO_TIME,
            f"servers of {case.last_good} go before it is sure that nobody goes back, and nobody "
            "knows how long one takes to load",
            f"measure it, and set rollout.models.{case.subject.model}.load_seconds",
            unknown=True,
        )
        return
    worst = max(step.undo_seconds or 0.0 for step in before)
    if worst > limit:
        yield Finding(
            Rule.UNDO_TIME,
            f"to bring {case.last_good} back in {case.region} would take {worst:.0f} s, "
            f"{limit:.0f} s are allowed",
            "more surge_servers leave more of it running; or raise rollout.undo.within_seconds",
        )
