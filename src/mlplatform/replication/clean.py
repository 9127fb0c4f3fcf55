"""Unfinished uploads that nobody goes on with: found, judged, dropped.

What a target holds of an upload is what the next run goes on from, so an unfinished one is worth
its storage, for a time. After that it only costs. A version's uploads are dropped under the
version's lease: whoever sends to one holds that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import PurePosixPath

from mlplatform.core.digest import blake3_hex
from mlplatform.core.errors import (
    ContainerMissing,
    Fenced,
    Interrupted,
    MlplatformError,
    NotFound,
    UsageError,
)
from mlplatform.core.placement import ModelVersion, parse_reference
from mlplatform.core.plan import Action, Hold, Outcome, Plan, Result, Severity, canonical
from mlplatform.core.seen import Unknown
from mlplatform.ports.store import ObjectStore, Upload
from mlplatform.replication.effects import Replicas

CLEAN = "clean"
_MODELS = "models/"


@dataclass(frozen=True, slots=True)
class Leftover:
    """An unfinished upload in one region."""

    region: str
    key: str
    id: str
    started: datetime | None
    parts: int | None = None
    """That it holds; None where they were not counted, or could not be."""
    size_bytes: int | None = None
    droppable: bool = True
    """Whether the store has a verb to drop it."""

    @property
    def owner(self) -> ModelVersion | None:
        """The version that it is of; None if that cannot be told from its key."""
        return owner_of(self.key)

    def age(self, now: datetime) -> timedelta | None:
        return now - self.started if self.started else None


Leftovers = Mapping[str, Sequence[Leftover] | Unknown]
"""By region; every region that was asked is there."""


def owner_of(key: str) -> ModelVersion | None:
    """The version of `models/<model>/<version>/…`, or of the old `models/<model>-v1.2.0.pth`."""
    place, *rest = key.split("/")
    try:
        if place != "models" or not rest:
            return None
        if len(rest) == 1:
            model, version = parse_reference(PurePosixPath(rest[0]).stem)
            return ModelVersion(model, version) if version else None
        return ModelVersion(rest[0], rest[1]) if len(rest) > 2 else None
    except UsageError:
        return None


def why_kept(leftover: Leftover, now: datetime, older_than: timedelta) -> str | None:
    """Why an upload is left alone; None if it may be dropped."""
    age = leftover.age(now)
    if leftover.owner is None:
        return "its key is no version's: another tool's, perhaps"
    if age is None:
        return "the store does not say when it was begun"
    if age < older_than:
        return f"begun less than {_hours(older_than)} ago"
    if not leftover.droppable:
        return "this store drops it by itself, a week after its last part came"
    return None


DROP, DROPPED, KEPT, FAILED = "drop", "dropped", "kept", "failed"


@dataclass(frozen=True, slots=True)
class Fate:
    """What is to become of an upload, or became of it."""

    result: str
    detail: str = ""


def judge(leftover: Leftover, now: datetime, older_than: timedelta) -> Fate:
    """To be dropped, or kept and why."""
    reason = why_kept(leftover, now, older_than)
    return Fate(DROP) if reason is None else Fate(KEPT, reason)


def fates_of(
    waste: Iterable[Leftover], plan: Plan, outcomes: Iterable[Outcome]
) -> dict[Leftover, Fate]:
    """What became of `waste`, by the plan that was made once the lease was held."""
    by_action = {outcome.action: outcome for outcome in outcomes}
    fates = {}
    told: dict[tuple[str, str, str], Outcome] = {}
    for action in plan.actions:
        for each in action.parameters["uploads"]:
            told[action.region, each["key"], each["id"]] = by_action[action.key]
    for each in waste:
        outcome = told.get((each.region, each.key, each.id))
        if outcome is None:
            fates[each] = Fate(KEPT, "it has changed since, or is gone")
        else:
            fates[each] = Fate(DROPPED) if outcome.ok else Fate(FAILED, outcome.detail)
    return fates


def decide(subject: ModelVersion, seen: Leftovers, now: datetime, older_than: timedelta) -> Plan:
    """Drop, region by region, what is of `subject` and has no reason to be kept."""
    actions: list[Action] = []
    holds: list[Hold] = []
    for region, found in seen.items():
        if isinstance(found, Unknown):
            holds.append(
                Hold(subject=str(subject), region=region, reason=found.reason, unknown=True)
            )
            continue
        waste = [
            leftover
            for leftover in found
            if leftover.owner == subject and why_kept(leftover, now, older_than) is None
        ]
        if waste:
            actions.append(_action(subject, region, waste, older_than))
    return Plan(feature=CLEAN, actions=tuple(actions), holds=tuple(holds))


def _action(
    subject: ModelVersion, region: str, waste: Sequence[Leftover], older_than: timedelta
) -> Action:
    uploads = [{"key": each.key, "id": each.id} for each in waste]
    return Action(
        key=f"{CLEAN}/{subject}/{region}/{blake3_hex(canonical(uploads))}",
        kind=CLEAN,
        subject=str(subject),
        region=region,
        reason=f"{counted(len(waste))}, begun over {_hours(older_than)} ago",
        severity=Severity.SEVERE,
        parameters={"uploads": uploads, "older_than_hours": older_than / timedelta(hours=1)},
    )


def counted(number: int) -> str:
    """So many unfinished uploads, in words."""
    return f"{number} unfinished upload{'s' * (number != 1)}"


def _hours(span: timedelta) -> str:
    return f"{span / timedelta(hours=1):g} h"


def find_leftovers(
    replicas: Replicas,
    regions: Iterable[str],
    *,
    prefix: str = _MODELS,
    measure: Callable[[Leftover], bool] = lambda leftover: False,
) -> Leftovers:
    """Unfinished uploads below `prefix`. The parts of those that `measure` wants are counted, which
    takes requests, and on a disk reads them."""

    def find(region: str) -> Sequence[Leftover]:
        store = replicas.store(region)
        droppable = store.features.drops_uploads
        found = []
        for upload in store.uploads(prefix):
            leftover = Leftover(region, upload.key, upload.id, upload.started, droppable=droppable)
            found.append(_measured(leftover, upload) if measure(leftover) else leftover)
        return found

    return replicas.catalogue.each(find, regions)


def _measured(leftover: Leftover, upload: Upload) -> Leftover:
    try:
        parts = upload.parts()
    except ContainerMissing:
        raise
    except NotFound:
        return leftover  # half dropped already, or just completed
    return Leftover(
        leftover.region,
        leftover.key,
        leftover.id,
        leftover.started,
        len(parts),
        sum(part.size_bytes for part in parts),
        leftover.droppable,
    )


@dataclass(slots=True)
class Cleaner:
    """Drops what was left of one version. A `Controller`."""

    replicas: Replicas
    subject: ModelVersion
    regions: Sequence[str]
    older_than: timedelta
    guard: Callable[[], None] = lambda: None
    feature: str = CLEAN

    def observe(self) -> Leftovers:
        """The regions asked for, as they are now that the lease is held."""
        return find_leftovers(self.replicas, self.regions)

    def decide(self, seen: Leftovers, now: datetime) -> Plan:
        """See above."""
        return decide(self.subject, seen, now, self.older_than)

    def act(self, actions: Sequence[Action], operation: str) -> Iterator[Outcome]:
        """Those that the plan names, if they are still there and still old."""
        for action in actions:
            try:
                yield self._drop(action)
            except (Fenced, Interrupted):
                raise
            except MlplatformError as error:
                yield Outcome.of_error(action, error)

    def _drop(self, action: Action) -> Outcome:
        named = {(each["key"], each["id"]) for each in action.parameters["uploads"]}
        store: ObjectStore = self.replicas.store(action.region)
        dropped = 0
        for upload in store.uploads(_MODELS):
            leftover = Leftover(action.region, upload.key, upload.id, upload.started)
            if (upload.key, upload.id) not in named:
                continue
            if why_kept(leftover, self.replicas.clock.now(), self.older_than) is not None:
                continue  # begun anew since
            if self.replicas.stop():
                raise Interrupted(f"{self.subject}: stopped; the rest is still there")
            self.guard()
            upload.abort()
            dropped += 1
        return Outcome(
            action=action.key,
            result=Result.DONE,
            detail=f"dropped {counted(dropped)}",
            measured={"dropped": dropped},
            finished_at=self.replicas.clock.now(),
        )
