"""What to replicate, from where, and what to hold: pure functions of what was seen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from mlplatform.core.digest import block_count
from mlplatform.core.errors import UsageError, VersionConflict
from mlplatform.core.manifest import Manifest
from mlplatform.core.placement import ModelVersion
from mlplatform.core.plan import Action, Consumption, Hold, Plan
from mlplatform.core.replica import Regions, RegionSeen
from mlplatform.core.seen import Unknown
from mlplatform.replication.parts import part_bytes_for

FEATURE = "replicate"
PUBLISH = "publish"


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked: a version, in these regions."""

    subject: ModelVersion
    targets: tuple[str, ...]
    home: str | None = None
    """Where it is published; the preferred source."""
    source: str | None = None
    """The source that the operator names; no other is taken then."""
    folder: str | None = None
    """Where it is published from."""
    reason: str = "the topology wants it there"


@dataclass(frozen=True, slots=True)
class Seen:
    """The world as far as one request needs it."""

    request: Request
    regions: Regions
    recorded_digest: str | None = None
    """What the control store says the version's digest is; None when it has no record."""


def decide(seen: Seen) -> Plan:
    """The plan of one request. Regions that could not be read are held, never guessed."""
    request = seen.request
    subject = str(request.subject)
    basis = {
        region: str(state) if isinstance(state, Unknown) else state.fingerprint
        for region, state in sorted(seen.regions.items())
        if region in request.targets or _is_stored(state)
    }
    withdrawal = next(
        (
            state.withdrawal
            for state in seen.regions.values()
            if isinstance(state, RegionSeen) and state.withdrawal is not None
        ),
        None,
    )
    if withdrawal is not None:
        wanting = [r for r in request.targets if not _is_stored(seen.regions.get(r))]
        holds = tuple(
            Hold(subject=subject, region=region, reason=f"withdrawn: {withdrawal.reason}")
            for region in wanting
        )
        return Plan(feature=FEATURE, holds=holds, basis=basis)

    source = choose_source(seen)
    actions: list[Action] = []
    holds_: list[Hold] = []
    for region in request.targets:
        state = seen.regions.get(region) or Unknown(f"{region}: was not looked at")
        if isinstance(state, Unknown):
            holds_.append(Hold(subject=subject, region=region, reason=state.reason, unknown=True))
            continue
        if isinstance(source, Hold):
            if not state.stored or _is_disputed(seen, state):
                holds_.append(source.model_copy(update={"region": region}))
            continue
        manifest = source.manifest
        assert manifest is not None  # noqa: S101 - choose_source gives only stored regions
        if state.stored and state.manifest == manifest:
            continue
        if region == source.region:
            continue
        if _holds_others(state, manifest, seen.recorded_digest):
            assert state.manifest is not None  # noqa: S101 - no others without one
            holds_.append(
                Hold(
                    subject=subject,
                    region=region,
                    reason=f"it holds other bytes under this version ({state.manifest.digest}); "
                    f"{source.region} has {manifest.digest}. A version is immutable: publish the "
                    "right bytes under a new version, or remove the wrong copy by hand",
                )
            )
            continue
        actions.append(_action(request, source.region, manifest, state))
    return Plan(feature=FEATURE, actions=tuple(actions), holds=tuple(holds_), basis=basis)


def choose_source(seen: Seen) -> RegionSeen | Hold:
    """The region to read from: the one named, else home, else any that holds the recorded bytes.

    A Hold says why there is none. Never a region that a check found wrong, nor one whose bytes are
    not those on record.
    """
    request = seen.request
    subject = str(request.subject)
    candidates = [
        state
        for state in seen.regions.values()
        if isinstance(state, RegionSeen) and state.stored and state.manifest is not None
    ]
    if request.source is not None:
        state = seen.regions.get(request.source)
        if isinstance(state, Unknown):
            return Hold(
                subject=subject,
                region=request.source,
                reason=f"the source {request.source} could not be read: {state.reason}",
                unknown=True,
            )
        if state is None or not state.stored:
            why = "does not hold it" if state is None else _why_not(state)
            return Hold(
                subject=subject,
                region=request.source,
                reason=f"the source {request.source} {why}",
            )
        if _is_disputed(seen, state) and seen.recorded_digest is not None:
            return Hold(
                subject=subject,
                region=request.source,
                reason=f"the source {request.source} holds other bytes than were published "
                f"(recorded is {seen.recorded_digest})",
            )
        return state
    digests = {state.manifest.digest for state in candidates if state.manifest}
    agreed = seen.recorded_digest
    listed = ", ".join(
        f"{state.region} has {state.manifest.digest}" for state in candidates if state.manifest
    )
    if agreed is None and len(digests) > 1:
        return Hold(
            subject=subject,
            region="",
            reason=f"regions disagree on its bytes ({listed}); name the right one with --from",
        )
    good = [
        state
        for state in candidates
        if agreed is None or (state.manifest and state.manifest.digest == agreed)
    ]
    for state in good:
        if state.region == request.home:
            return state
    if good:
        return good[0]
    unreadable = [r for r, state in seen.regions.items() if isinstance(state, Unknown)]
    if unreadable:
        return Hold(
            subject=subject,
            region="",
            reason=f"no readable region holds it verified; unreadable: {', '.join(unreadable)}",
            unknown=True,
        )
    if candidates:
        return Hold(
            subject=subject,
            region="",
            reason=f"no region holds the bytes that were published (recorded is {agreed}; "
            f"{listed})",
        )
    return Hold(
        subject=subject,
        region="",
        reason="no region holds it verified"
        + (f"; publish it in {request.home} first" if request.home else ""),
    )


def decide_publish(
    request: Request, manifest: Manifest, regions: Regions, recorded_digest: str | None
) -> Plan:
    """Publish `manifest` in the one target of `request`. `VersionConflict` when the version
    exists anywhere with other bytes, or is withdrawn."""
    (home,) = request.targets
    subject = request.subject
    for region, state in regions.items():
        if isinstance(state, Unknown):
            continue
        if state.withdrawal is not None:
            raise VersionConflict(
                f"{subject}: withdrawn: {state.withdrawal.reason}",
                hint="publish under a new version",
            )
        if _holds_others(state, manifest, recorded_digest):
            assert state.manifest is not None  # noqa: S101 - no others without one
            raise VersionConflict(
                f"{subject}: already published in {region} with other bytes "
                f"({state.manifest.digest}, yours {manifest.digest})",
                hint="a version is immutable: publish these bytes under a new version",
            )
    if recorded_digest not in (None, manifest.digest):
        raise VersionConflict(
            f"{subject}: was published with other bytes ({recorded_digest}, yours "
            f"{manifest.digest})",
            hint="a version is immutable: publish these bytes under a new version",
        )
    state = regions[home]
    if isinstance(state, Unknown):
        hold = Hold(subject=str(subject), region=home, reason=state.reason, unknown=True)
        return Plan(feature=PUBLISH, holds=(hold,))
    basis = {home: state.fingerprint}
    if state.stored:
        return Plan(feature=PUBLISH, basis=basis)
    action = _action(request, None, manifest, state)
    return Plan(feature=PUBLISH, actions=(action,), basis=basis)


def _action(request: Request, source: str | None, manifest: Manifest, state: RegionSeen) -> Action:
    problem = state.damaged or next(iter(state.findings), None)
    if problem is None and state.misstates(manifest.digest):
        problem = "manifest.json: is not the one that was published"
    repair = problem is not None
    if repair:
        reason = f"repair: {problem}"
    elif state.present_bytes:
        reason = f"{request.reason}; goes on from what is there"
    else:
        reason = request.reason
    kind = PUBLISH if source is None else FEATURE
    unsent = manifest.size_bytes if repair else max(manifest.size_bytes - state.present_bytes, 0)
    return Action(
        key=f"{kind}/{request.subject}/{state.region}/{manifest.digest}",
        kind=kind,
        subject=str(request.subject),
        region=state.region,
        reason=reason,
        batch=f"{request.subject} from {source or 'folder'}",
        parameters={
            "source": source,
            "folder": request.folder,
            "digest": manifest.digest,
            "size_bytes": manifest.size_bytes,
            "files": len(manifest.files),
            "repair": repair,
        },
        consumes=(
            Consumption(
                resource="transfer",
                amount=unsent,
                unit="bytes",
                source_region=source,
                region=state.region,
            ),
            Consumption(
                resource="storage", amount=manifest.size_bytes, unit="bytes", region=state.region
            ),
            *_requests(manifest, source, state.region),
        ),
    )


def _requests(manifest: Manifest, source: str | None, region: str) -> Iterator[Consumption]:
    """Requests to both stores, at most: stores may take larger parts, and some are there already.
    An upload is begun, completed and has its parts; manifest and receipt are put at the end."""
    parts = [
        max(
            1, block_count(entry.size_bytes, part_bytes_for(entry.size_bytes, manifest.block_bytes))
        )
        for entry in manifest.files
    ]
    writes = sum(count + 2 if count > 1 else 1 for count in parts) + 2
    yield Consumption(
        resource="requests", amount=writes, unit="requests", region=region, product="write"
    )
    if source is not None:
        yield Consumption(
            resource="requests", amount=sum(parts), unit="requests", region=source, product="read"
        )


def _holds_others(state: RegionSeen, manifest: Manifest, recorded_digest: str | None) -> bool:
    """Whether the region holds other bytes under this version, which nobody may overwrite. A
    manifest against which both its own receipt and the record speak was damaged; where the control
    store has forgotten the version, the receipt speaks alone."""
    if state.manifest is None or state.manifest.digest == manifest.digest:
        return False
    receipt_digest = state.receipt.manifest_digest if state.receipt else None
    told = recorded_digest or receipt_digest
    return not (told == manifest.digest and state.misstates(manifest.digest))


def _is_disputed(seen: Seen, state: RegionSeen) -> bool:
    """Whether the record, or without one another verified region, names other bytes than `state`
    holds."""
    if state.manifest is None:
        return False
    if seen.recorded_digest is not None:
        return state.manifest.digest != seen.recorded_digest
    return any(
        isinstance(other, RegionSeen)
        and other.stored
        and other.manifest is not None
        and other.manifest.digest != state.manifest.digest
        for other in seen.regions.values()
    )


def _is_stored(state: RegionSeen | Unknown | None) -> bool:
    return isinstance(state, RegionSeen) and state.stored


def _why_not(state: RegionSeen) -> str:
    if state.damaged:
        return f"has a damaged manifest: {state.damaged}"
    if state.demoted:
        return "was found with wrong bytes"
    if state.manifest is None:
        return "does not hold it"
    return "holds it without a receipt; verify it there with --deep first"


def choose_version(
    model: str, version: str | None, *, wanted: str | None, published: Mapping[str, Sequence[str]]
) -> ModelVersion:
    """The version that a reference means: the one given, else the one the topology wants, else
    the only one published. `published` maps version to regions. `UsageError` lists the choices.
    """
    if version is not None:
        return ModelVersion(model, version)
    if wanted is not None:
        return ModelVersion(model, wanted)
    if len(published) == 1:
        return ModelVersion(model, next(iter(published)))
    if not published:
        raise UsageError(
            f"{model}: no version is published, and the topology names none",
            hint=f"write {model}@VERSION, or publish one",
        )
    listed = ", ".join(f"{model}@{name}" for name in sorted(published))
    raise UsageError(f"{model}: which version? Published are {listed}", hint="write one of these")
