"""What failover decides from: verdicts, the routes as they are, what stands ready elsewhere.

All times are ages in seconds, as the observer reckons them: `decide` compares no two clocks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from mlplatform.core.seen import Unknown
from mlplatform.failover.verdict.judge import Verdict
from mlplatform.ports.traffic import RouteState, TrafficFeatures


class Mode(StrEnum):
    """What is asked."""

    PLANNED = "planned"
    """Source and target are well; nothing is lost on the way, and every gate is hard."""
    UNPLANNED = "unplanned"
    """The source is sick: capacity is not hard."""
    DRILL = "drill"
    """A trickle that proves the standby, taken back afterwards."""
    FAILBACK = "failback"
    """Back to the topology's weights, by steps."""


class Gate(StrEnum):
    """What a target must pass; the same names in plans, metrics and `--break-glass`."""

    VERDICT = "verdict"
    VERSION = "version"
    DIGEST = "digest"
    GOLDEN = "golden"
    LAG = "lag"
    HEADROOM = "headroom"
    CANARY = "canary"
    MAINTENANCE = "maintenance"


class Rule(StrEnum):
    """What bounds a route's acts as a whole."""

    ONE_REGION = "one-region"
    PANIC = "panic"
    CAP = "cap"
    COOLDOWN = "cooldown"
    HOLD_OFF = "hold-off"
    LOCK = "lock"
    OPEN = "one-recovery"
    DRILLED = "drilled"
    BLIND = "blind"
    CONSENT = "weights-changed-by-hand"
    ABORTED = "aborted"
    """Somebody ended what was done about this fault, and it is not begun again by itself."""
    FENCE = "fence"
    """A newer controller has written. Not to be broken, as little as `one-region`."""
    ADVISE = "advise"
    """The route does nothing by itself."""
    CONTROL = "control"
    """The control store answers, so nobody acts without it."""


@dataclass(frozen=True, slots=True)
class Request:
    """What somebody, or the watch, asks for."""

    mode: Mode
    source: str | None = None
    """The region to leave; for a failback or a drill, the region to go to is in `targets`."""
    targets: tuple[str, ...] = ()
    """Empty: whoever passes the gates."""
    routes: tuple[str, ...] = ()
    """Empty: all."""
    models: tuple[str, ...] = ()
    """Empty: all; else only routes that serve nothing else."""
    automatic: bool = False
    """Asked by the watch: then routes in `advise` are only advised on, and every rule holds."""
    reason: str = ""
    keep: int = 0
    """Points of weight that the source of a planned failover keeps, on each route."""
    broken: frozenset[str] = frozenset()
    """Names of gates and rules that are broken on purpose (`--break-glass`); each is recorded."""
    agreed: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """By route, the weights of the shift that somebody has agreed to. They stay what is decided as
    long as they are as good: loads move while people read, and a plan must not for that."""


@dataclass(frozen=True, slots=True)
class Rate:
    """Requests a second of one warm server within the objective, and how that is known."""

    requests_per_second: float
    source: str
    """`measured`, or `declared on 2026-11-01, until 2027-02-01`."""
    expired: bool = False


@dataclass(frozen=True, slots=True)
class Golden:
    """The last golden answer of a region for a model, over all vantages."""

    ok: bool
    seconds: float | None
    age_seconds: float
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Standby:
    """What a region offers for one model."""

    version: str | None = None
    """What its ready servers hold; None: nothing."""
    digest: str | None = None
    """As the servers state it."""
    allowed: frozenset[str] = frozenset()
    """Versions that policy allows there: the declared one, and the last verified good."""
    stored: str | Unknown | None = None
    """Digest of that version in the region's store, verified; None: not there or not verified."""
    golden: Golden | Unknown | None = None
    """None: no golden request was ever sent."""
    servers: int | Unknown = 0
    rate: Rate | None = None
    """Measured; None: nobody has. Then `decide` takes what the topology declares."""
    canary: str | None = None
    """A version that gets a share beside the last good one."""


@dataclass(frozen=True, slots=True)
class Load:
    """Requests a second of a route that enter one region. Unknown is a value: a dead region reads
    0, which says nothing of what will move."""

    now: float | None = None
    peak: float | None = None
    """The highest of the hour before the fault, and of the same hour a week ago."""
    source: str = ""


@dataclass(frozen=True, slots=True)
class Recovery:
    """A past or open operation on a route, from the journal."""

    operation: str
    mode: Mode
    source: str | None
    began_seconds_ago: float
    ended_seconds_ago: float | None = None
    """None: it is open."""
    targets: tuple[str, ...] = ()
    """Regions that its first shift gave weight to: for a failback, those it went back to."""
    moved: int = 0
    """Points of weight, by the shifts that were done: those taken from the source; for a failback,
    what its targets have more now than before it. 0: it changed nothing, or took it back."""
    passed: bool = False
    """Every action was done; for a drill: the standby is proven."""
    automatic: bool = False
    """Whether a watch began it, not an operator."""
    had: Mapping[str, float] = field(default_factory=dict)
    """By region, requests a second before its first shift: now, or at the peak."""
    brought: Mapping[str, float] = field(default_factory=dict)
    """By region that gained weight, requests a second that were to come with it."""
    drained: bool = False
    """Its source's servers were told to call themselves not ready, or may have been."""


@dataclass(frozen=True, slots=True)
class Drained:
    """Servers of a region that were told to send clients away, and not since that it is over."""

    operation: str
    since_seconds: float
    open: bool
    """The operation is under way, or was left: then it is its business, or who ends it."""
    tries: int = 0
    """How often it was tried in vain to tell them."""
    tried_seconds_ago: float = 0.0
    why: str = ""
    """What came of it last."""


@dataclass(frozen=True, slots=True)
class Override:
    """An operator's word that outranks a verdict, for a time."""

    region: str
    health: str
    reason: str
    by: str
    expires_in_seconds: float


@dataclass(frozen=True, slots=True)
class Orders:
    """What operators have said, from the control store."""

    locks: Mapping[str, str] = field(default_factory=dict)
    """Reason by scope: a route's name, or `all`."""
    maintenance: Mapping[str, str] = field(default_factory=dict)
    """Reason by region: it receives nothing new."""
    overrides: tuple[Override, ...] = ()
    paused: Mapping[str, str] = field(default_factory=dict)
    """Reason by operation: it goes on with no further step until that is taken back."""
    aborted: Mapping[str, str] = field(default_factory=dict)
    """Reason by operation: it ends where it stands."""


@dataclass(frozen=True, slots=True)
class RouteSeen:
    """One route and what stands behind it."""

    name: str
    state: RouteState | Unknown
    """Unknown also while it is not claimed by us."""
    features: TrafficFeatures
    epoch: int | None = None
    """Ours; None when nothing is to be written."""
    standby: Mapping[str, Mapping[str, Standby | Unknown]] = field(default_factory=dict)
    """By region, then by model of the route."""
    load: Mapping[str, Load | Unknown] = field(default_factory=dict)
    """By region."""
    lag_seconds: Mapping[str, float | Unknown] = field(default_factory=dict)
    """By region, where the topology asks for it."""
    written: Mapping[str, int] | None = None
    """The weights that we wrote last, by the journal: of the last shift that was done, or was begun
    and whose weights the target now holds. None: we never wrote any."""
    recoveries: tuple[Recovery, ...] = ()
    """Oldest first."""
    drained: Mapping[str, Drained] = field(default_factory=dict)
    """By region, as the journal has it."""


@dataclass(frozen=True, slots=True)
class Seen:
    """The world, as one round of observing found it."""

    verdicts: Mapping[str, Verdict]
    routes: Mapping[str, RouteSeen]
    orders: Orders = Orders()
