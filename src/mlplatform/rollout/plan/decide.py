"""From what was seen to a plan of waves, regions and steps. Pure.

Nothing begins anywhere while a region that is asked for is held: two versions in the world for a
reason that could have been known is the state that a plan is there to prevent. A region may be left
out by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from itertools import zip_longest

from mlplatform.core.digest import blake3_hex
from mlplatform.core.errors import UsageError
from mlplatform.core.plan import JSON, Action, Consumption, Hold, Plan, Severity, canonical
from mlplatform.core.seen import Unknown
from mlplatform.core.topology import Topology
from mlplatform.ports.fleet import Served
from mlplatform.rollout.plan.gates import Judged, judge
from mlplatform.rollout.plan.policy import policy_of
from mlplatform.rollout.plan.seen import Copy, Finding, RegionStands, Request, Rule, Seen, Standing
from mlplatform.rollout.plan.spare import lacking_spare
from mlplatform.rollout.plan.steps import SEVERE, Kind, Step
from mlplatform.rollout.plan.waves import waves_of

FEATURE = "rollout"


def check_request(topology: Topology, request: Request) -> None:
    """`UsageError` for a model or a region that cannot be meant."""
    model = topology.model(request.subject.model)
    if not request.regions:
        raise UsageError(f"{request.subject}: no region to roll it out in", hint="name one")
    for region in request.regions:
        topology.region(region)
        if region not in model.regions:
            raise UsageError(
                f"{region}: {request.subject.model} does not belong there",
                hint=f"it belongs in {', '.join(model.regions)}; add the region to "
                f"models.{request.subject.model}.replicate_to",
            )


def decide(topology: Topology, seen: Seen, now: datetime) -> Plan:
    """The plan of one request: every step of every wave, or what stands in the way of it."""
    request = seen.request
    check_request(topology, request)
    judged = {each: judge(topology, seen, each, now.date()) for each in request.regions}
    changing = [region for region, each in judged.items() if not each.done]
    # Where nothing serves there is nothing to lose by going together.
    first = tuple(region for region in changing if not judged[region].last_good)
    others = [region for region in changing if region not in first]
    # What one hands over makes the others failover targets, whose own turn has to wait.
    alone = [region for region in others if judged[region].keeps]
    waves = ((first,) if first else ()) + waves_of(topology, request.subject.model, others, alone)
    holds = [hold for region in changing for hold in _holds(seen, region, judged[region].findings)]
    changed = [[r for r in wave if judged[r].last_good] for wave in waves]
    if not _is_moved(seen):
        handed = {region: each.handed for region, each in judged.items()}
        lacking = lacking_spare(topology, seen, changed, now.date(), handed)
        for wave, finding in zip(waves, lacking, strict=True):
            if finding is not None and any(judged[region].last_good for region in wave):
                holds += [hold for region in wave for hold in _holds(seen, region, [finding])]
    basis = _basis(topology, seen)
    if holds:
        return Plan(feature=FEATURE, holds=tuple(holds), basis=basis)
    actions = [
        action
        for number, wave in enumerate(waves, start=1)
        for action in _wave(topology, seen, number, len(waves), wave, judged)
    ]
    return Plan(feature=FEATURE, actions=tuple(actions), basis=basis)


def _is_moved(seen: Seen) -> bool:
    """Whether traffic is not where it is to be; who could take over what is asked once it is."""
    moved = {Rule.UNDER_FAILOVER, Rule.FAILOVER_TARGET}
    return any(
        isinstance(stands.standing, Standing) and moved & stands.standing.closed.keys()
        for stands in seen.regions.values()
    )


def _holds(seen: Seen, region: str, findings: Sequence[Finding]) -> Iterator[Hold]:
    for finding in findings:
        yield Hold(
            subject=str(seen.request.subject),
            region=region,
            reason=str(finding),
            unknown=finding.unknown,
        )


def _wave(
    topology: Topology,
    seen: Seen,
    number: int,
    waves: int,
    wave: Sequence[str],
    judged: Mapping[str, Judged],
) -> Iterator[Action]:
    policy = topology.rollout.waves
    subject = str(seen.request.subject)
    if policy.approval == "every" or (policy.approval == "first" and number == 1):
        who = " or ".join(policy.approvers) or "anybody"
        yield Action(
            key=f"{FEATURE}/{subject}/wave-{number}/{Kind.APPROVE.value}",
            kind=Kind.APPROVE.value,
            subject=subject,
            region=", ".join(wave),
            reason=f"waits until {who} says that wave {number} of {waves} may begin",
            parameters={
                "wave": number,
                "regions": list(wave),
                "approvers": list(policy.approvers),
                "gate": f"{who} has said yes to this plan",
                "touches": "nothing",
                "undo": "nothing to undo",
            },
        )
    alpha_each = policy_of(
        topology.rollout.verdict, [r for r, each in judged.items() if not each.done]
    ).alpha_each
    # Regions of a wave take each step together: none goes further than a bad canary is found in
    # another.
    abreast = zip_longest(*(judged[region].steps for region in wave))
    for place, steps in enumerate(abreast, start=1):
        for region, step in zip(wave, steps, strict=True):
            if step is not None:
                action = _action(topology, seen, number, judged[region], step, alpha_each)
                batch = f"wave-{number}/{place}" if len(wave) > 1 else ""
                yield action.model_copy(update={"batch": batch})


def _action(
    topology: Topology, seen: Seen, number: int, judged: Judged, step: Step, alpha_each: float
) -> Action:
    subject, region = seen.request.subject, judged.region
    copy = seen.regions[region].copies[subject.version]
    assert isinstance(copy, Copy)  # noqa: S101 - a region whose store is unknown has no steps
    uses, unpriced = _uses(topology, seen, region, step)
    figures: JSON = {"unpriced": unpriced} if unpriced else {}
    if judged.keeps:
        # By a load that moves all the time; whether it will do is looked at again before it begins.
        figures["keeps"] = dict(judged.keeps)
    judges: JSON = {"alpha_each": alpha_each} if "verdict" in step.gate else {}
    return Action(
        key=f"{FEATURE}/{subject}/{region}/{step.key}",
        kind=step.kind.value,
        subject=str(subject),
        region=region,
        reason=step.does,
        severity=Severity.SEVERE if step.kind in SEVERE else Severity.MILD,
        parameters={
            "wave": number,
            "digest": copy.digest,
            "last_good": judged.last_good,
            "last_good_digest": judged.last_good_digest,
            "servers": judged.servers,
            "at_once": judged.at_once,
            "old_servers": step.old,
            "new_servers": step.new,
            "weight": step.weight,
            "gate": step.gate,
            "touches": step.touches,
            "undo": step.undo,
            "undo_seconds": step.undo_seconds,
            "least_seconds": step.least_seconds,
            **judges,
        },
        figures=figures,
        consumes=uses,
    )


def _uses(
    topology: Topology, seen: Seen, region: str, step: Step
) -> tuple[tuple[Consumption, ...], str]:
    """GPU-seconds of the servers beside those that serve now, for as long as a step takes at least;
    and why it has no price, where nobody knows."""
    served = seen.regions[region].served
    beside = 0 if isinstance(served, Unknown) else step.old + step.new - served.servers
    if beside <= 0 or step.least_seconds == 0.0:
        return (), ""
    model = seen.request.subject.model
    what = f"{beside} more server{'s' * (beside != 1)} of {model} in {region}"
    if step.least_seconds is None:
        return (), f"{what}, while they load: nobody has measured how long that takes"
    gpus = topology.models[model].gpus
    if not gpus:
        return (), f"{what} for {step.least_seconds:.0f} s: they take no GPU, and have no price"
    return (
        tuple(
            Consumption(
                resource="gpu",
                amount=beside * each * step.least_seconds,
                unit="GPU-seconds",
                region=region,
                product=product,
            )
            for product, each in gpus.items()
        ),
        "",
    )


def _basis(topology: Topology, seen: Seen) -> dict[str, str]:
    """What a plan rests on. Loads move all the time, and are not of it."""
    section = topology.rollout.model_dump(mode="json")
    basis = {"rollout": blake3_hex(canonical(section))}
    for region in seen.request.regions:
        basis[region] = _fingerprint(seen.regions[region])
    return basis


def _fingerprint(stands: RegionStands) -> str:
    copies = " ".join(
        f"{version}={copy if isinstance(copy, Unknown) else f'{copy.digest},{copy.verified}'}"
        for version, copy in sorted(stands.copies.items())
    )
    served = stands.served
    holds = (
        str(served)
        if isinstance(served, Unknown)
        else f"{sorted(served.versions.items())} {served.servers} {served.canary}"
    )
    standing = stands.standing
    closed = sorted(standing.closed) if isinstance(standing, Standing) else str(standing)
    if isinstance(served, Served) and not served.versions:
        # Where nothing serves yet, probes learn how it is only while the plan is agreed to.
        kept = standing.closed.keys() if isinstance(standing, Standing) else set()
        closed = sorted({Rule.MAINTENANCE} & kept)
    return f"stored {copies}; serves {holds}; failover {closed}"
