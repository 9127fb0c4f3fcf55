"""From counters that were read twice to a window that can be judged. Pure.

A counter that began again is no gap: what it has counted since is what there is. What was counted
between the last look and its end is lost, and that is told with the event.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from mlplatform.core.seen import Unknown
from mlplatform.ports.servers import Group
from mlplatform.ports.split import Counts
from mlplatform.rollout.verdict.window import Arm, Event, Window, fits

GAP_FACTOR = 5.0
"""Nobody looked for that many windows: what happened in between, restarts too, is not known."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at a region's entry and its servers."""

    at: float
    """Seconds since the epoch, by the clock of whoever looked."""
    counts: Mapping[str, Counts | Unknown] | Unknown
    """By version."""
    groups: Mapping[str, Group] | Unknown = field(default_factory=dict)
    """By version."""


@dataclass(frozen=True, slots=True)
class Arms:
    """Which versions are compared in a region, and what a server takes."""

    region: str
    canary: str
    gpus_a_server: int = 1
    """Servers without a GPU count as one each: it is the load of each that is compared."""


def window_of(before: Sample, after: Sample, arms: Arms, *, window_seconds: float) -> Window:
    """What was counted between two looks. The fleet is every other version."""
    events: set[Event] = set()
    seconds = after.at - before.at
    if seconds > GAP_FACTOR * window_seconds:
        events.add(Event.GAP)
    events |= _events(before.groups, after.groups, arms.canary)
    canary: Arm | Unknown
    fleet: Arm | Unknown
    if isinstance(after.counts, Unknown) or isinstance(before.counts, Unknown):
        unread = after.counts if isinstance(after.counts, Unknown) else before.counts
        assert isinstance(unread, Unknown)  # noqa: S101 - one of them is
        canary = fleet = unread
    else:
        versions = after.counts.keys() | before.counts.keys()
        counted = {v: _between(before.counts.get(v), after.counts.get(v)) for v in versions}
        for each in counted.values():
            if isinstance(each, _Delta) and each.reset:
                events.add(Event.RESET)
        canary = _arm([arms.canary], counted, after.groups, seconds, arms)
        fleet = _arm(sorted(versions - {arms.canary}), counted, after.groups, seconds, arms)
    return Window(arms.region, before.at, after.at, canary, fleet, frozenset(events))


def between(before: Sample, after: Sample, version: str) -> tuple[float, float] | Unknown:
    """Requests and failures of one version between two looks. A version that neither look knows at
    an entry that was read has no door: nothing reached it."""
    for counts in (before.counts, after.counts):
        if isinstance(counts, Unknown):
            return counts
    assert not isinstance(before.counts, Unknown)  # noqa: S101 - both were looked at
    assert not isinstance(after.counts, Unknown)  # noqa: S101
    counted = _between(before.counts.get(version), after.counts.get(version))
    if isinstance(counted, Unknown):
        return counted
    if not fits(counted.counts.errors, counted.counts.requests):
        return Unknown(f"counts of {version} do not fit")
    return counted.counts.requests, counted.counts.errors


@dataclass(frozen=True, slots=True)
class _Delta:
    counts: Counts
    reset: bool = False


def _between(before: Counts | Unknown | None, after: Counts | Unknown | None) -> _Delta | Unknown:
    if after is None:
        return _Delta(Counts(0.0, 0.0))  # its door has gone: nothing was sent there
    if isinstance(after, Unknown):
        return after
    if isinstance(before, Unknown):
        return before
    if before is None:
        return _Delta(after)
    if _began_again(before, after):
        return _Delta(after, reset=True)
    return _Delta(
        Counts(
            after.requests - before.requests,
            after.errors - before.errors,
            _less(after.timed, before.timed),
            _less(after.slow, before.slow),
            slow_seconds=after.slow_seconds,
        )
    )


def _began_again(before: Counts, after: Counts) -> bool:
    if before.began is not None and after.began is not None and before.began != after.began:
        return True
    return any(
        now is not None and then is not None and now < then
        for then, now in (
            (before.requests, after.requests),
            (before.errors, after.errors),
            (before.timed, after.timed),
            (before.slow, after.slow),
        )
    )


def _less(now: float | None, then: float | None) -> float | None:
    return None if now is None or then is None else now - then


def _arm(
    versions: list[str],
    counted: Mapping[str, _Delta | Unknown],
    groups: Mapping[str, Group] | Unknown,
    seconds: float,
    arms: Arms,
) -> Arm | Unknown:
    parts: list[Counts] = []
    for version in versions:
        each = counted.get(version, Unknown(f"{version} is not counted at the entry"))
        if isinstance(each, Unknown):
            return each
        parts.append(each.counts)
    requests = sum(part.requests for part in parts)
    timed = [part.timed for part in parts]
    slow = [part.slow for part in parts]
    ready = None if isinstance(groups, Unknown) else _ready(versions, groups)
    load = None
    if ready and seconds > 0:
        load = requests / seconds / (ready * arms.gpus_a_server)
    return Arm(
        requests=requests,
        errors=sum(part.errors for part in parts),
        timed=None if None in timed else sum(each for each in timed if each is not None),
        slow=None if None in slow else sum(each for each in slow if each is not None),
        requests_per_warm_gpu=load,
        pods=float(ready) if ready is not None else None,
    )


def _ready(versions: list[str], groups: Mapping[str, Group]) -> int:
    return sum(len(groups[version].ready) for version in versions if version in groups)


def _events(
    before: Mapping[str, Group] | Unknown, after: Mapping[str, Group] | Unknown, canary: str
) -> AbstractSet[Event]:
    """What befell the canary's servers. What could not be read is no event."""
    found: set[Event] = set()
    if isinstance(after, Unknown):
        return found
    now = after.get(canary)
    if now is None or not now.ready:
        found.add(Event.NO_ENDPOINT)
    if not isinstance(before, Unknown) and now is not None:
        then = before.get(canary)
        if then is not None and now.crashes and now.crashes != then.crashes:
            found.add(Event.CRASH)  # fewer: the group is another, and one of it has ended since
    return found
