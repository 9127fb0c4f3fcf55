"""What can be asked of replication, each as one call: a command parses, calls one, renders."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from mlplatform.control.journal import Journal, Stream
from mlplatform.control.lease import Lease, Waiting, lease_for
from mlplatform.control.reconcile import Controller, Report, propose, run
from mlplatform.control.reconcile import resume as resume_operation
from mlplatform.core.errors import (
    IntegrityError,
    Interrupted,
    LeaseHeld,
    NotFound,
    Unreadable,
    UsageError,
)
from mlplatform.core.manifest import FileEntry, Manifest, Requirements
from mlplatform.core.placement import (
    Grid,
    Integrity,
    ModelVersion,
    Placement,
    Rung,
    parse_reference,
)
from mlplatform.core.plan import Outcome, Plan
from mlplatform.core.replica import RegionSeen
from mlplatform.core.seen import Unknown
from mlplatform.ports.store import ObjectStore, check_key
from mlplatform.replication.artefact import adopt_object, read_artefact
from mlplatform.replication.clean import (
    CLEAN,
    KEPT,
    Cleaner,
    Fate,
    Leftover,
    fates_of,
    find_leftovers,
    judge,
    why_kept,
)
from mlplatform.replication.decide import (
    FEATURE,
    PUBLISH,
    Request,
    Seen,
    choose_source,
    choose_version,
)
from mlplatform.replication.effects import Publisher, Replicas, Replicator
from mlplatform.replication.pull import Pulled, pull
from mlplatform.replication.verify import Depth, Verification

OnPlan = Callable[[Plan, str], None]
OnOutcome = Callable[[Outcome], None]


@dataclass(frozen=True, slots=True)
class Said:
    """What the caller wants to hear while an operation runs."""

    plan: OnPlan | None = None
    outcome: OnOutcome | None = None


def journal_of(replicas: Replicas) -> Journal:
    """The journal that this process writes."""
    return Journal(replicas.control, replicas.clock, replicas.random, replicas.writer)


def lease_of(replicas: Replicas, subject: ModelVersion) -> Lease:
    """One hand at a time on one version, over all regions."""
    return lease_for(replicas, f"replication/{subject.model}/{subject.version}")


def resolve(replicas: Replicas, reference: str) -> ModelVersion:
    """The version meant by `name@version`, `name-v1.2.0` or a bare `name`. `UsageError` lists the
    choices where there are several."""
    model, version = parse_reference(reference)
    wanted = replicas.topology.models[model].version if model in replicas.topology.models else None
    if version is not None or wanted is not None:
        return choose_version(model, version, wanted=wanted, published={})
    found, _ = replicas.catalogue.versions()
    return choose_version(model, None, wanted=None, published=found.get(model, {}))


def request_for(
    replicas: Replicas,
    subject: ModelVersion,
    *,
    source: str | None = None,
    targets: Sequence[str] = (),
) -> Request:
    """What is asked: the regions named, else those the topology wants it in."""
    topology = replicas.topology
    for region in (*targets, *([source] if source else [])):
        topology.region(region)
    model = topology.models.get(subject.model)
    home = model.home if model else None
    if targets:
        return Request(
            subject, tuple(dict.fromkeys(targets)), home, source, reason="asked for by name"
        )
    if model is None:
        raise UsageError(
            f"{subject.model}: the topology does not say where it belongs",
            hint="name the regions with --to, or add the model to the topology",
        )
    return Request(subject, model.regions, home, source)


def requests_of_topology(replicas: Replicas) -> list[Request]:
    """Everything that the topology wants anywhere."""
    return [
        request_for(replicas, ModelVersion(name, model.version))
        for name, model in replicas.topology.models.items()
        if model.version is not None
    ]


def plan_replication(replicas: Replicas, request: Request) -> Plan:
    """`--plan`: what would be done, and why. Changes nothing."""
    controller = Replicator(replicas, request, guard=lambda: None)
    return propose(controller, replicas.clock)


def replicate(
    replicas: Replicas, request: Request, *, wait: Waiting = False, said: Said | None = None
) -> Report:
    """Bring a version to its regions, under the version's lease, recorded in the journal."""
    said = said or Said()
    lease = lease_of(replicas, request.subject)
    return run(
        Replicator(replicas, request, guard=lease.guard),
        journal_of(replicas),
        lease,
        clock=replicas.clock,
        wait=wait,
        stop=replicas.stop,
        background=replicas.background,
        finisher=lambda left: _finisher(replicas, lease, left.plan, None),
        on_plan=said.plan,
        on_outcome=said.outcome,
    )


def publisher(
    replicas: Replicas,
    folder: Path,
    subject: ModelVersion,
    region: str | None,
    *,
    requirements: Requirements | None = None,
    follow_symlinks: bool = False,
    guard: Callable[[], None] = lambda: None,
) -> Publisher:
    """Read the artefact, and the controller that would publish it."""
    home = region or _home_of(replicas, subject.model)
    replicas.topology.region(home)
    model = replicas.topology.models.get(subject.model)
    reason = "its home region" if model and model.home == home else "asked for by name"
    lane = folder.absolute().name

    def has_read(size_bytes: int) -> None:
        replicas.progress.add(lane, size_bytes)
        if replicas.stop():
            raise Interrupted(f"{subject}: interrupted while {folder} was read")

    manifest, source = read_artefact(
        folder,
        subject,
        requirements=requirements,
        follow_symlinks=follow_symlinks,
        on_total=partial(replicas.progress.total, lane),
        on_bytes=has_read,
    )
    replicas.progress.done(lane, "read and digested")
    request = Request(subject, (home,), home, folder=str(folder.absolute()), reason=reason)
    return Publisher(replicas, request, manifest, source, guard)


def publish(
    replicas: Replicas, controller: Publisher, *, wait: Waiting = False, said: Said | None = None
) -> Report:
    """Publish what the controller holds, in its home region."""
    said = said or Said()
    lease = lease_of(replicas, controller.request.subject)
    controller.guard = lease.guard
    return run(
        controller,
        journal_of(replicas),
        lease,
        clock=replicas.clock,
        wait=wait,
        stop=replicas.stop,
        background=replicas.background,
        finisher=lambda left: _finisher(replicas, lease, left.plan, controller),
        on_plan=said.plan,
        on_outcome=said.outcome,
    )


def adopter(replicas: Replicas, key: str, subject: ModelVersion | None, region: str) -> Publisher:
    """The controller that publishes an object of the old convention where it lies."""
    replicas.topology.region(region)
    try:
        check_key(key)
    except UsageError as error:
        raise UsageError(
            str(error), hint="a key is relative to the store, without '..': models/x-v1.0.0.pth"
        ) from error
    if subject is None:
        model, version = parse_reference(Path(key).stem)
        if version is None:
            raise UsageError(
                f"{key}: its name carries no version", hint="give --model and --version"
            )
        subject = ModelVersion(model, version)
    store = replicas.store(region)
    try:
        stat = store.stat(key)
    except NotFound as error:
        raise UsageError(
            f"{region}: {key}: there is no such object to adopt", hint="keys look like models/x.pth"
        ) from error
    replicas.progress.note(region, f"reading {key} once for its digests")
    entry = adopt_object(replicas.open_store(region), stat, retry=replicas.retry)
    manifest = _manifest_of(subject, entry)
    request = Request(subject, (region,), region, folder=None, reason=f"adopts {key} in place")
    return Publisher(replicas, request, manifest, replicas.source(region), lambda: None)


def _manifest_of(subject: ModelVersion, entry: FileEntry) -> Manifest:
    from mlplatform.core.digest import BLOCK_BYTES

    return Manifest.build(
        subject, [entry], block_bytes=BLOCK_BYTES, requirements=Requirements(), golden=None
    )


def _home_of(replicas: Replicas, model: str) -> str:
    found = replicas.topology.models.get(model)
    if found is not None:
        return found.home
    raise UsageError(
        f"{model}: the topology names no home for it",
        hint="give --region, or add the model to the topology",
    )


def check(
    replicas: Replicas, subject: ModelVersion, regions: Sequence[str], depth: Depth
) -> dict[str, Verification]:
    """Verify replicas: those named, else every region that the topology wants it in, else all."""
    for region in regions:
        replicas.topology.region(region)
    if not regions:
        model = replicas.topology.models.get(subject.model)
        regions = list(model.regions if model else replicas.topology.regions)
    return replicas.check(subject, regions, depth)


def bring_down(
    replicas: Replicas,
    subject: ModelVersion,
    folder: Path,
    open_folder: Callable[[Path], ObjectStore],
    *,
    source: str | None = None,
) -> Pulled:
    """Pull a version to a local folder from the region named, else home, else any that has it."""
    regions = [source] if source else list(replicas.topology.regions)
    request = request_for(replicas, subject, source=source, targets=regions)
    remembered = replicas.catalogue.remember(subject)
    seen = Seen(
        request,
        replicas.catalogue.see(subject, remembered=remembered),
        remembered.digest_of(subject),
    )
    chosen = choose_source(seen)
    if not isinstance(chosen, RegionSeen):
        refusal = Unreadable if chosen.unknown else IntegrityError
        raise refusal(
            f"{subject}: {chosen.reason}", hint="`mlplatform status` shows which regions hold it"
        )
    assert chosen.manifest is not None  # noqa: S101 - choose_source gives only stored regions
    return pull(
        chosen.manifest,
        replicas.source(chosen.region),
        folder,
        open_folder,
        clock=replicas.clock,
        progress=replicas.progress,
        writer=replicas.writer,
        now=replicas.clock.now(),
        nonce="local",
        stop=replicas.stop,
        settings=replicas.settings,
    )


def list_versions(
    replicas: Replicas, model: str | None = None
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """A row for each version that some region has a folder of, and the regions that could not be
    read. `regions` are those where it is stored; `unfinished` those where it is not yet; `pinned`
    those where a rollout may go back to it."""
    grid = replicas.catalogue.grid()
    unreadable = dict(grid.unreadable)
    pins = replicas.pins.seen(model or "")
    if isinstance(pins, Unknown):
        unreadable["control"] = pins.reason
    rows = []
    for subject in grid.subjects():
        if model is not None and subject.model != model:
            continue
        row = list(grid.of(subject))
        known = [cell for cell in row if not isinstance(cell.rung, Unknown)]
        stored = [cell.region for cell in stored_in(grid, subject)]
        rows.append(
            {
                "model": subject.model,
                "version": subject.version,
                "regions": stored,
                "unfinished": [
                    cell.region
                    for cell in known
                    if cell.region not in stored and cell.integrity is not Integrity.ABSENT
                ],
                "wanted": any(cell.wanted for cell in row),
                "pinned": None
                if isinstance(pins, Unknown)
                else [pin.region for pin in pins if pin.subject == subject],
                "withdrawn": any(cell.withdrawn for cell in row),
                "digest": next((cell.digest for cell in known if cell.digest), None),
            }
        )
    return rows, unreadable


def stored_in(grid: Grid, subject: ModelVersion) -> list[Placement]:
    """Where a version is stored and verified, in the topology's order of regions."""
    return [
        cell
        for cell in grid.of(subject)
        if not isinstance(cell.rung, Unknown) and cell.rung >= Rung.STORED
    ]


@dataclass(frozen=True, slots=True)
class Pending:
    """A placement that the topology wants and the grid does not have."""

    placement: Placement
    size_bytes: int | None
    """Of the version; None while no readable region says."""
    since: datetime | None
    """When the version was stored where it is; None while unknown."""
    lag_seconds: float | None


def pending(grid: Grid, now: datetime) -> list[Pending]:
    """What the topology wants, less what the grid has. A region that could not be read is not
    pending: it is unknown, and the grid says so."""
    found = []
    for placement in grid:
        if not placement.wanted or isinstance(placement.rung, Unknown):
            continue
        if placement.rung >= Rung.STORED:
            continue
        stored = stored_in(grid, placement.subject)
        since = min((other.stored_at for other in stored if other.stored_at), default=None)
        found.append(
            Pending(
                placement,
                next((other.size_bytes for other in stored if other.size_bytes is not None), None),
                since,
                (now - since).total_seconds() if since else None,
            )
        )
    return found


def resume(
    replicas: Replicas,
    operation: str | None,
    *,
    wait: Waiting = False,
    said: Said | None = None,
) -> Iterable[tuple[str, Report]]:
    """Finish one operation, or every unfinished one of this feature."""
    journal = journal_of(replicas)
    said = said or Said()
    if operation is not None:
        streams = [open_operation(journal, operation)]
    else:
        streams = [s for s in journal.unfinished() if s.plan.feature in (FEATURE, PUBLISH, CLEAN)]
    for stream in streams:
        if stream.closed:
            continue  # somebody was quicker: nothing is left to do
        yield stream.operation, _resume(replicas, journal, stream, wait, said)


@dataclass(frozen=True, slots=True)
class Cleaned:
    """What became of unfinished uploads."""

    fates: Mapping[Leftover, Fate]
    reports: tuple[Report, ...] = ()


def find_waste(
    replicas: Replicas, regions: Sequence[str], older_than: timedelta
) -> tuple[Mapping[Leftover, Fate], dict[str, str]]:
    """Every unfinished upload with what is to become of it, and the regions that could not be
    read. Those that are to be dropped have their parts counted."""
    for region in regions:
        replicas.topology.region(region)
    now = replicas.clock.now()
    seen = find_leftovers(
        replicas,
        regions or list(replicas.topology.regions),
        measure=lambda each: why_kept(each, now, older_than) is None,
    )
    unreadable = {region: f.reason for region, f in seen.items() if isinstance(f, Unknown)}
    found = [each for f in seen.values() if not isinstance(f, Unknown) for each in f]
    return {each: judge(each, now, older_than) for each in found}, unreadable


def clean(
    replicas: Replicas,
    waste: Iterable[Leftover],
    older_than: timedelta,
    *,
    said: Said | None = None,
) -> Cleaned:
    """Drop what is to be dropped, each version's under its lease, if nobody holds that."""
    said = said or Said()
    fates: dict[Leftover, Fate] = {}
    reports = []
    by_owner: dict[ModelVersion, list[Leftover]] = {}
    for each in waste:
        if each.owner is not None:
            by_owner.setdefault(each.owner, []).append(each)
    for subject, theirs in by_owner.items():
        regions = list(dict.fromkeys(each.region for each in theirs))
        lease = lease_of(replicas, subject)
        try:
            report = run(
                Cleaner(replicas, subject, regions, older_than, lease.guard),
                journal_of(replicas),
                lease,
                clock=replicas.clock,
                wait="silent",
                stop=replicas.stop,
                background=replicas.background,
                on_plan=said.plan,
                on_outcome=said.outcome,
            )
        except LeaseHeld as held:
            fates.update(dict.fromkeys(theirs, Fate(KEPT, f"in use: {held}")))
            continue
        reports.append(report)
        fates.update(fates_of(theirs, report.plan, report.outcomes))
    return Cleaned(fates, tuple(reports))


def open_operation(journal: Journal, operation: str) -> Stream:
    """One operation by its id; `UsageError` if there is none."""
    try:
        return journal.open(operation)
    except NotFound as error:
        raise UsageError(str(error), hint=error.hint) from error


def _resume(
    replicas: Replicas, journal: Journal, stream: Stream, wait: Waiting, said: Said
) -> Report:
    subject = ModelVersion(*stream.plan.actions[0].subject.split("@", 1))
    lease = lease_of(replicas, subject)
    return resume_operation(
        stream.operation,
        _controller_of(replicas, stream, subject, lease),
        journal,
        lease,
        clock=replicas.clock,
        wait=wait,
        stop=replicas.stop,
        background=replicas.background,
        on_outcome=said.outcome,
    )


def _controller_of(
    replicas: Replicas, stream: Stream, subject: ModelVersion, lease: Lease
) -> Controller[Any]:
    plan = stream.plan
    first = plan.actions[0]
    if plan.feature == PUBLISH:
        folder = first.parameters.get("folder")
        if not folder or not Path(folder).exists():
            raise UsageError(
                f"{stream.operation}: publishes {subject} from {folder or 'an object'}, "
                "which is not on this machine",
                hint=f"run `mlplatform publish` for {subject} where the files are: it goes on "
                "from what was sent",
            )
        return publisher(replicas, Path(folder), subject, first.region, guard=lease.guard)
    if plan.feature == FEATURE:
        return _replicator_of(replicas, plan, subject, lease)
    if plan.feature == CLEAN:
        regions = [action.region for action in plan.actions]
        hours = max(float(action.parameters["older_than_hours"]) for action in plan.actions)
        return Cleaner(replicas, subject, regions, timedelta(hours=hours), lease.guard)
    raise UsageError(f"{stream.operation}: is an operation of {plan.feature}")


def _replicator_of(
    replicas: Replicas, plan: Plan, subject: ModelVersion, lease: Lease
) -> Replicator:
    """For what a recorded plan asked for."""
    model = replicas.topology.models.get(subject.model)
    request = Request(
        subject,
        tuple(action.region for action in plan.actions),
        model.home if model else None,
        reason=plan.actions[0].reason,
    )
    return Replicator(replicas, request, guard=lease.guard)


def _finisher(
    replicas: Replicas, lease: Lease, plan: Plan, publisher: Publisher | None
) -> Controller[Any] | None:
    """Who goes on with a plan that was left under the lease of a version. A publication can only
    be finished from the files that it is of, so it waits for these."""
    first = plan.actions[0]
    if plan.feature == FEATURE:
        subject = ModelVersion(*first.subject.split("@", 1))
        return _replicator_of(replicas, plan, subject, lease)
    if publisher is None or plan.feature != PUBLISH:
        return None
    same = (
        first.parameters.get("digest") == publisher.manifest.digest
        and first.region in publisher.request.targets
    )
    return publisher if same else None
