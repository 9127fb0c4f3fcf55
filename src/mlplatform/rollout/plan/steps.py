"""The steps of one region, by its strategy, each with what it waits for, what it touches and how it
is undone.

A share of requests never comes before the warm servers that bear it, and old servers never go
before the share that they bore: where there is no room for all servers at once, weight follows
capacity by as many small steps as that takes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from mlplatform.core.placement import ModelVersion
from mlplatform.core.rollout import Strategy


class Kind(StrEnum):
    """What is done."""

    APPROVE = "approve"
    PREFLIGHT = "preflight"
    PIN = "pin"
    HAND_OVER = "hand-over"
    """Other regions bear a part of the region's share; also of the way back."""
    SHRINK = "shrink"
    LOAD = "load"
    REPLACE = "replace"
    WARM_UP = "warm-up"
    WEIGHT = "weight"
    OBSERVE = "observe"
    PROMOTE = "promote"
    BAKE = "bake"
    RETIRE = "retire"
    TAKE_BACK = "take-back"
    """What was handed over comes back; also of the way back."""
    STOP = "stop"
    """Of the way back: servers of the version on trial go."""
    RELOAD = "reload"
    """Of the way back: servers of the last good version are started again."""
    UNPIN = "unpin"
    LOOK = "look"
    """Of the way back: wait until a region can be read."""


ASKS_FAILOVER = frozenset({Kind.HAND_OVER, Kind.TAKE_BACK})
"""What failover does, and judges."""
SEVERE = ASKS_FAILOVER | {
    Kind.SHRINK,
    Kind.REPLACE,
    Kind.WEIGHT,
    Kind.PROMOTE,
    Kind.RETIRE,
    Kind.STOP,
}
"""What clients may notice."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step in one region."""

    kind: Kind
    does: str
    gate: str
    """What must be so before the next step; failing it is what undoes the rollout."""
    touches: str
    undo: str
    old: int
    """Servers of the old version, after it."""
    new: int
    weight: int
    """Per cent of the region's requests that the new version has, after it."""
    undo_seconds: float | None = 0.0
    """Until the last good version bears all again. None: nobody knows how long a server takes."""
    least_seconds: float | None = 0.0
    """It takes no less; the verdict may ask for more. None: nobody has measured it."""
    name: str = ""
    """What tells it from others of its kind."""

    @property
    def key(self) -> str:
        return f"{self.kind.value}{self.name and f'-{self.name}'}"


@dataclass(frozen=True, slots=True)
class Case:
    """One region's rollout, before it is steps."""

    subject: ModelVersion
    last_good: str
    region: str
    servers: int
    strategy: Strategy
    at_once: int
    """How many servers may be away at once, where old ones have to go first."""
    bake_seconds: float
    actuator: str | None = None
    load_seconds: float | None = None
    keeps: Mapping[str, int] = field(default_factory=dict)
    """By route: points of weight that the region keeps meanwhile. Empty: all it has."""

    @property
    def version(self) -> str:
        return self.subject.version

    @property
    def batch(self) -> int:
        """How many servers start together."""
        if self.strategy.kind == "blue_green":
            return self.servers
        if self.in_place or not self.strategy.surge_servers:
            return max(1, self.at_once)
        return min(self.strategy.surge_servers, self.servers)

    def undo_seconds(self, missing: int) -> float | None:
        """Until `missing` servers of the last good version answer right again."""
        if missing <= 0:
            return 0.0
        if self.load_seconds is None:
            return None
        return math.ceil(missing / self.batch) * self.load_seconds

    def undoing(self, missing: int) -> str:
        """The same, for people."""
        if missing <= 0:
            return f"all weight back to {self.last_good}: one write, no server starts"
        seconds = self.undo_seconds(missing)
        known = f"{seconds:.0f} s" if seconds is not None else "nobody knows how long that takes"
        told = (
            f"{_servers(missing)} to load {self.last_good} again, {self.batch} at a time: {known}"
        )
        return told if self.in_place else f"{told}; weight goes back as they answer"

    @property
    def in_place(self) -> bool:
        return self.strategy.kind == "in_place"

    @property
    def most(self) -> int:
        """How many new servers there are when the new version has all requests. Without surge one
        old server stays until the bake is over, and the last new one follows it."""
        without = self.strategy.kind == "canary" and not self.strategy.surge_servers
        return self.servers - 1 if without else self.servers


def steps_of(case: Case) -> Iterator[Step]:
    """From nothing to the new version alone."""
    yield from _prepare(case)
    if case.keeps:
        yield hand_over(case, case.servers, 0, 0)
    yield from _in_place(case) if case.in_place else _beside(case)
    if case.keeps:
        yield take_back(case, 0, case.servers, 100)


def first_steps_of(case: Case) -> Iterator[Step]:
    """Where nothing serves, nothing is compared: servers, their warm-up, and all requests there
    are. `last_good` is empty."""
    n = case.servers
    yield _preflight(case, 0)
    yield replace(_load(case, 0, n, n, 0), undo="they are stopped", undo_seconds=0.0)
    yield replace(_warm_up(case, 0, n, 0), undo="they are stopped", undo_seconds=0.0)
    yield Step(
        Kind.PROMOTE,
        f"gives {case.version} all requests that enter there",
        "every server has passed its warm-up",
        f"the weights at {case.actuator}",
        "they are stopped; nothing served before",
        0,
        n,
        100,
    )


def _preflight(case: Case, old: int) -> Step:
    return Step(
        Kind.PREFLIGHT,
        f"looks again whether {case.version} can be loaded in {case.region}",
        f"{case.version} stored and verified; GPU, driver and runtime fit its manifest; room",
        "nothing",
        "nothing to undo",
        old,
        0,
        0,
    )


def _prepare(case: Case) -> Iterator[Step]:
    n = case.servers
    yield _preflight(case, n)
    yield Step(
        Kind.PIN,
        f"keeps {case.last_good}, the last verified good, in {case.region} until the bake is over",
        f"{case.last_good} is stored and verified there at this moment",
        f"the record of what may not be removed from the store of {case.region}",
        "the pin is taken off",
        n,
        0,
        0,
    )


def hand_over(case: Case, old: int, new: int, weight: int) -> Step:
    """Failover leaves a region a part of its share."""
    kept = " and ".join(f"{keep} points of route {name}" for name, keep in case.keeps.items())
    return Step(
        Kind.HAND_OVER,
        f"asks failover to leave {case.region} {kept}, and others the rest, so that one server can "
        "be spared",
        "every gate of a planned failover; clients have followed",
        _between_regions(case),
        "failover is asked to bring it back, in the end",
        old,
        new,
        weight,
    )


def take_back(case: Case, old: int, new: int, weight: int) -> Step:
    """Failover brings a region back what it handed over."""
    return Step(
        Kind.TAKE_BACK,
        f"asks failover to bring {case.region} back what it handed over",
        "failover's own steps, each gated anew",
        _between_regions(case),
        "nothing to undo",
        old,
        new,
        weight,
    )


def _between_regions(case: Case) -> str:
    return f"the weights between regions of {' and '.join(f'route {name}' for name in case.keeps)}"


def _beside(case: Case) -> Iterator[Step]:
    n = case.servers
    room = n if case.strategy.kind == "blue_green" else case.strategy.surge_servers
    old, new, weight = n, 0, 0
    shares = case.strategy.weights if case.strategy.kind == "canary" else ()
    for share in (*shares, 100):
        needed = min(case.most, max(1, math.ceil(n * share / 100)))
        while new < needed:
            adds = min(case.batch, needed - new)
            left = min(old, n + room - new - adds)
            if left < old:
                serving = min(n, left + new)
                if (100 - weight) * serving > 100 * left and 100 * new // serving > weight:
                    weight = 100 * new // serving
                    yield _weight(case, old, new, weight, follows=True)
                old = left
                yield _shrink(case, old, new, weight)
            new += adds
            yield _load(case, old, new, adds, weight)
            yield _warm_up(case, old, new, weight)
        if weight < share < 100:
            weight = share
            yield _weight(case, old, new, weight)
    judged = case.strategy.kind == "canary"
    yield Step(
        Kind.PROMOTE,
        f"gives {case.version} all requests; nothing is restarted",
        "the verdict says promote" if judged else "every new server has passed its warm-up",
        f"the weights at {case.actuator}",
        case.undoing(n - old),
        old,
        new,
        100,
        case.undo_seconds(n - old),
    )
    yield _bake(case, old, new)
    yield _retire(case, old, new)
    if new < n:
        again = f"a rollout of {case.last_good}, which is stored there"
        yield replace(_load(case, 0, n, n - new, 100), undo=again, undo_seconds=None)
        yield replace(_warm_up(case, 0, n, 100), undo=again, undo_seconds=None)


def _weight(case: Case, old: int, new: int, weight: int, *, follows: bool = False) -> Step:
    hold = 0.0 if follows else case.strategy.step_seconds
    why = ", as the warm servers bear it, before old ones go" if follows else ""
    return Step(
        Kind.WEIGHT,
        f"gives {case.version} {weight} % of the requests{why}",
        "the verdict does not say roll back"
        + ("" if follows else f", and {hold:.0f} s have been looked at"),
        f"the weights at {case.actuator}",
        case.undoing(case.servers - old),
        old,
        new,
        weight,
        case.undo_seconds(case.servers - old),
        hold,
        name=str(weight),
    )


def _shrink(case: Case, old: int, new: int, weight: int) -> Step:
    return Step(
        Kind.SHRINK,
        f"lets servers of {case.last_good} go, {old} stay: there is no room beside them",
        "their requests have ended, and what they held is free",
        f"servers of {case.last_good} in {case.region}",
        case.undoing(case.servers - old),
        old,
        new,
        weight,
        case.undo_seconds(case.servers - old),
        name=str(old),
    )


def _load(case: Case, old: int, new: int, adds: int, weight: int) -> Step:
    missing = case.servers - old
    return Step(
        Kind.LOAD,
        f"starts {_servers(adds)} of {case.version}, {new} in all, without requests",
        f"they state {case.version} and the digest of its manifest",
        f"servers of {case.version} in {case.region}",
        f"they are stopped{'' if missing <= 0 else f'; {case.undoing(missing)}'}",
        old,
        new,
        weight,
        case.undo_seconds(missing),
        case.load_seconds,
        name=str(new),
    )


def _warm_up(case: Case, old: int, new: int, weight: int) -> Step:
    missing = case.servers - old
    back = "" if missing <= 0 else f"; {case.undoing(missing)}"
    return Step(
        Kind.WARM_UP,
        f"sends golden requests to new servers of {case.version}",
        "answers match, at the latency that is asked for",
        "nothing that clients use",
        case.undoing(missing) if case.in_place else f"they are stopped{back}",
        old,
        new,
        weight,
        case.undo_seconds(missing),
        name=str(new),
    )


def _in_place(case: Case) -> Iterator[Step]:
    n, new = case.servers, 0
    while new < n:
        takes = 1 if new == 0 else min(case.at_once, n - new)
        new += takes
        weight = 100 * new // n
        seconds = case.undo_seconds(new)
        yield Step(
            Kind.REPLACE,
            f"has {_servers(takes)} load {case.version} instead of {case.last_good}, {new} of {n}",
            f"they state {case.version} and the digest of its manifest; {n - takes} of {n} serve "
            "meanwhile",
            f"servers in {case.region}: which version they hold",
            case.undoing(new),
            n - new,
            new,
            weight,
            seconds,
            case.load_seconds,
            name=str(new),
        )
        yield _warm_up(case, n - new, new, weight)
        if new < n:
            yield Step(
                Kind.OBSERVE,
                f"compares the servers of {case.version} with those of {case.last_good}",
                "the verdict does not say roll back, and "
                f"{case.strategy.step_seconds:.0f} s have been looked at",
                "nothing",
                case.undoing(new),
                n - new,
                new,
                weight,
                seconds,
                case.strategy.step_seconds,
                name=str(new),
            )
    yield _bake(case, 0, n)
    yield _retire(case, 0, n)


def _bake(case: Case, old: int, new: int) -> Step:
    missing = case.servers - old
    return Step(
        Kind.BAKE,
        f"watches {case.version} with all requests",
        f"{case.bake_seconds:.0f} s without a reason to go back",
        "nothing",
        case.undoing(missing),
        old,
        new,
        100,
        case.undo_seconds(missing),
        case.bake_seconds,
    )


def _retire(case: Case, old: int, new: int) -> Step:
    pin = f"takes off the pin of {case.last_good}"
    return Step(
        Kind.RETIRE,
        f"lets {_servers(old)} of {case.last_good} go, and {pin}" if old else pin,
        f"no request has reached {case.last_good} since the bake began",
        f"servers of {case.last_good} in {case.region}; its bytes stay stored"
        if old
        else "the pin; its bytes stay stored",
        f"a rollout of {case.last_good}, which is stored there",
        0,
        new,
        100,
        None,
    )


def _servers(count: int) -> str:
    return f"{count} server{'s' * (count != 1)}"
