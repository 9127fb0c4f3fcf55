"""What a rollout is planned from: which bytes are where, what serves there, and how each region
stands with failover. What could not be read is `Unknown`, and holds what hangs on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from mlplatform.core.manifest import Requirements
from mlplatform.core.placement import ModelVersion
from mlplatform.core.seen import Unknown
from mlplatform.ports.fleet import Served
from mlplatform.ports.ground import Offer

_UNCOUNTED = Unknown("nobody counts the requests that enter it")
_UNSEEN = Unknown("its servers were not looked at")


class Rule(StrEnum):
    """Why a rollout is refused; the same names in plans and messages."""

    WITHDRAWN = "withdrawn"
    NOT_STORED = "not-stored"
    NOT_VERIFIED = "not-verified"
    OTHER_BYTES = "other-bytes"
    NOTHING_SERVES = "nothing-serves"
    ROLLOUT_OPEN = "rollout-open"
    NO_LAST_GOOD = "no-last-good"
    LOCKED = "locked"
    MAINTENANCE = "maintenance"
    UNDER_FAILOVER = "under-failover"
    FAILOVER_TARGET = "failover-target"
    DRAINED = "drained"
    UNHEALTHY = "unhealthy"
    NO_ROUTE = "no-route"
    ROOM = "room"
    CAPACITY = "capacity"
    FLOOR = "floor"
    UNDO_TIME = "undo-time"
    SPARE_REGION = "spare-region"
    WRONG_GPU = "wrong-gpu"
    OLD_DRIVER = "old-driver"
    WRONG_RUNTIME = "wrong-runtime"
    ENDING_PODS = "ending-pods"
    PENDING_PODS = "pending-pods"
    QUOTA = "quota"
    DISRUPTION_BUDGET = "disruption-budget"
    MISSING_OBJECT = "missing-object"
    PROBE_TIME = "probe-time"
    TWO_AUTOSCALERS = "two-autoscalers"
    LIMIT_RANGE = "limit-range"
    NO_AUTOSCALER = "no-autoscaler"
    PUT_BACK = "put-back"
    TEMPLATE = "template"
    UNREAD = "unread"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that stands in the way, and what to do about it."""

    rule: Rule
    reason: str
    fix: str = ""
    unknown: bool = False

    def __str__(self) -> str:
        return f"{self.rule.value}: {self.reason}{f'; {self.fix}' if self.fix else ''}"


@dataclass(frozen=True, slots=True)
class Copy:
    """A version in a region's store."""

    digest: str | None = None
    """The manifest's; None: it is not there."""
    verified: bool = False
    """Every byte, and nothing speaks against it."""
    detail: str = ""
    """Why it is not verified."""
    requirements: Requirements = field(default_factory=Requirements)
    """What it needs to run, by its manifest."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How a region stands with failover."""

    closed: Mapping[Rule, str] = field(default_factory=dict)
    """Why no step may start there, with the reason of each."""
    load: float | Unknown = _UNCOUNTED
    """Requests a second that enter it on the routes that carry the model, at their peak."""


@dataclass(frozen=True, slots=True)
class RegionStands:
    """One region, for one model."""

    copies: Mapping[str, Copy | Unknown] = field(default_factory=dict)
    """By version: the one that is to come, and those that serve."""
    served: Served | Unknown = _UNSEEN
    gpus_free: Mapping[str, int | Unknown] = field(default_factory=dict)
    """By product that a server of the model takes."""
    standing: Standing | Unknown = Standing()
    offer: Offer | Unknown | None = None
    """What the cluster offers in which its servers run; None: nobody asks it."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked: a version, in these regions."""

    subject: ModelVersion
    regions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Seen:
    """The world, as far as one request needs it: every region that the model belongs in or serves
    from, since those that are not changed have to bear what is lost."""

    request: Request
    regions: Mapping[str, RegionStands]
    recorded_digest: str | None = None
    """Which bytes the version's name means, by the control store; None: it has no record."""
    withdrawn: str | None = None
    """Why it was taken back."""
    locked: str | None = None
    """Why nothing may be changed anywhere."""
