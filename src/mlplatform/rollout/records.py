"""What rollout keeps in the control store beside the journal: plans that wait for somebody, who
said yes to them, who ordered what, and the windows by which a canary is judged."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from pydantic import TypeAdapter, ValidationError

from mlplatform.control.quorum import ControlStore
from mlplatform.core.digest import blake3_hex
from mlplatform.core.errors import Fenced, IntegrityError, UsageError
from mlplatform.core.placement import ModelVersion
from mlplatform.core.plan import Plan, Record
from mlplatform.ports.clock import Clock
from mlplatform.rollout.plan.seen import Request
from mlplatform.rollout.verdict.window import Window

log = logging.getLogger(__name__)

_PLANS, _APPROVALS = "plans/rollout/", "observations/approvals/"
_ORDERED = "observations/ordered/"
_WINDOWS = "observations/windows/"
_SHORTEST = 6
"""Of a plan's name that somebody types."""
_HEX = re.compile(r"[0-9a-f]{6,64}")
_NOBODY_KNOWS = datetime(1970, 1, 1, tzinfo=UTC)
"""When a plan was made first whose record was damaged: long ago, perhaps."""


class StoredPlan(Record):
    """A plan, as somebody made it. Its name is its digest: whoever edits it makes another."""

    model: str
    version: str
    regions: tuple[str, ...]
    plan: Plan
    made_by: str
    made_at: datetime
    """When somebody made it first: no operation carried it out before."""

    @property
    def request(self) -> Request:
        """What was asked."""
        return Request(ModelVersion(self.model, self.version), self.regions)

    @property
    def name(self) -> str:
        """By which it is approved and applied."""
        return name_of(self.plan)


def name_of(plan: Plan) -> str:
    """The plan's digest without its algorithm."""
    return plan.digest.rpartition(":")[2]


class Approval(Record):
    """Somebody's yes to a plan."""

    plan: str
    """Its name, on this occasion: `course.approval.occasion`."""
    by: str
    """Who, as far as they say or it was proven."""
    verified: str = ""
    """By whom it was proven who they are; empty: by nobody."""
    reason: str = ""
    at: datetime


class Ordered(Record):
    """What somebody ordered of a rollout. The order itself is heeded, and may be forgotten when the
    rollout is over; this is kept."""

    operation: str
    what: str
    """`pause`, `resume`, `abort`, `promote`, `undo`."""
    by: str
    """Who, as far as they say or it was proven."""
    verified: str = ""
    """By whom it was proven who they are; empty: by nobody."""
    reason: str = ""
    at: datetime


@dataclass(frozen=True, slots=True)
class Records:
    """All of it, in one control store."""

    control: ControlStore
    clock: Clock
    writer: str

    def store(self, request: Request, plan: Plan) -> StoredPlan:
        """Keep a plan for whoever is to say yes to it. One that is kept already stays; what was
        edited by hand since is put right again. `NoMajority` if it may not be found."""
        stored = StoredPlan(
            model=request.subject.model,
            version=request.subject.version,
            regions=request.regions,
            plan=plan,
            made_by=self.writer,
            made_at=self.clock.now(),
        )
        key = f"{_PLANS}{stored.name}.json"
        try:
            self.control.create(key, stored.encoded)
        except Fenced:  # somebody made the very same
            try:
                return self.plan(stored.name)
            except IntegrityError as error:
                log.warning("%s; it is stored again", error)
                stored = stored.model_copy(update={"made_at": _NOBODY_KNOWS})
                self._put(key, stored, f"plan {stored.name[:12]}")
        return stored

    def plan(self, name: str) -> StoredPlan:
        """A plan by its name, or the beginning of it. `UsageError` where none or several are meant;
        `IntegrityError` for one that was edited."""
        if not _HEX.fullmatch(name):
            raise UsageError(
                f"{name!r} is not the name of a plan",
                hint=f"{_SHORTEST} digits of it or more, as `mlplatform rollout plan` prints them",
            )
        keys = [key for key in self.control.list(f"{_PLANS}{name}") if key.endswith(".json")]
        if not keys:
            raise UsageError(
                f"{name}: no plan is called so",
                hint="`mlplatform rollout plan MODEL@VERSION` makes one, and prints its name",
            )
        if len(keys) > 1:
            raise UsageError(
                f"{name}: {len(keys)} plans are called so",
                hint="more digits of its name, as `mlplatform rollout plan` prints them",
            )
        reading = self.control.read(keys[0])
        meant = keys[0].removeprefix(_PLANS).removesuffix(".json")
        for body in reading.bodies():
            try:
                stored = StoredPlan.model_validate_json(body)
            except ValidationError:
                continue
            if stored.name == meant:
                return stored
        raise IntegrityError(
            f"plan {meant[:12]}: what is stored is not what was planned: it was edited by hand, or "
            "is damaged",
            hint="make the plan again",
        )

    def approve(self, name: str, *, by: str, verified: str, reason: str) -> Approval:
        """Say yes to a plan, by its name on this occasion. `NoMajority` if it may not have been
        heard."""
        approval = Approval(plan=name, by=by, verified=verified, reason=reason, at=self.clock.now())
        # Names that look alike, or begin alike, are two.
        digest = blake3_hex(by.encode()).rpartition(":")[2]
        who = f"{re.sub(r'[^A-Za-z0-9._-]', '_', by)[:60]}-{digest[:16]}"
        self._put(f"{_APPROVALS}{name}/{who}.json", approval, f"the approval of {name[:12]}")
        return approval

    def approvals(self, name: str) -> tuple[Approval, ...]:
        """Everybody's yes to a plan, by its name on this occasion, the first first. `NoMajority` if
        they cannot be known."""
        found = self.control.read_observations(f"{_APPROVALS}{name}/").of(Approval)
        return tuple(
            sorted({a for a in found if a.plan == name}, key=lambda each: (each.at, each.by))
        )

    def note(self, ordered: Ordered) -> None:
        """Keep who ordered what. `NoMajority` if it may be forgotten."""
        digest = blake3_hex(ordered.encoded).rpartition(":")[2]
        key = f"{_ORDERED}{ordered.operation}/{ordered.what}-{digest[:16]}.json"
        self._put(key, ordered, f"who ordered the {ordered.what} of {ordered.operation}")

    def ordered(self, operation: str) -> tuple[Ordered, ...]:
        """What was ordered of a rollout, the first first. `NoMajority` if it cannot be known."""
        found = self.control.read_observations(f"{_ORDERED}{operation}/").of(Ordered)
        those = {each for each in found if each.operation == operation}
        return tuple(sorted(those, key=lambda each: (each.at, each.what, each.by)))

    def keep_windows(self, operation: str, region: str, windows: Sequence[Window]) -> None:
        """Keep what was counted in a region, so that whoever goes on need not begin again."""
        self.control.put_observation(
            f"{_WINDOWS}{operation}/{region}.json", _WINDOWS_FORM.dump_json(list(windows))
        )

    def windows(self, operation: str, region: str) -> list[Window]:
        """What was counted so far. Of several copies the one that knows most; none that is damaged:
        then it is counted anew."""
        best: list[Window] = []
        key = f"{_WINDOWS}{operation}/{region}.json"
        for body in self.control.read(key).bodies():
            try:
                found = _WINDOWS_FORM.validate_json(body)
            except ValidationError:
                log.error("%s: cannot be read; it is counted anew", key)
                continue
            best = max(best, found, key=len)
        return best

    def _put(self, key: str, record: Record, what: str) -> None:
        self.control.put_heeded(key, record.encoded, what)


_WINDOWS_FORM: TypeAdapter[list[Window]] = TypeAdapter(list[Window])
