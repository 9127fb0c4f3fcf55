"""The way back of one region, from wherever it stands. Pure.

It is the way there with the versions changed over: a share never comes before the servers that bear
it. Only where the version on trial answers nothing is it left at once, whatever the others bear:
what is sent there is lost in any case.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mlplatform.rollout.plan.steps import Case, Kind, Step, hand_over, take_back


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a region has come."""

    old: int
    """Ready servers of the last good version."""
    new: int
    """Servers of the version on trial, whether they are ready or not."""
    weight: int
    """Per cent that the version on trial has."""
    answers: bool = True
    """Whether any server of the version on trial is ready."""
    cold: bool = False
    """Whether servers of the last good version were started on the way back, and nobody has seen
    them answer yet."""
    fenced: bool = False
    """Whether its servers have heard of the way back: who was still about to start some is refused
    from then on."""
    unpinned: bool = False
    lent: bool = False
    """Whether other regions may bear a part of its share."""
    handed: bool = False
    """Whether they do, or have been asked to: a region that is over has all of it again."""


def back(case: Case, now: Standing) -> Iterator[Step]:
    """The steps until the last good version alone serves, with as many servers as before. What is
    left of them after each step is what is found from where that step leads."""
    old, new, weight = now.old, now.new, now.weight
    n = case.servers if case.last_good else 0
    if weight and old and not now.answers and case.last_good:
        weight = 0
        yield _weight(case, old, new, weight)
    if now.cold and old:
        yield _warm_up(case, old, new, weight)
    if n and old and (bears := 100 - 100 * min(old, n) // n) < weight:
        weight = bears
        yield _weight(case, old, new, weight)
    room = {"blue_green": n, "in_place": 0}.get(case.strategy.kind, case.strategy.surge_servers)
    fenced, lent = now.fenced, now.lent
    if old < n and case.keeps and now.answers and not now.handed:
        lent = True
        yield hand_over(case, old, new, weight)
    while old < n:
        adds = min(case.batch, n - old)
        left = min(new, max(0, n + room - old - adds))
        if left < new:
            bears = 100 * left // max(1, old + left)
            if bears < weight and old:
                weight = bears
                yield _weight(case, old, new, weight)
            new = left
            fenced |= not new
            yield _stop(case, old, new, weight)
        old += adds
        yield _start(case, old, adds, new, weight)
        yield _warm_up(case, old, new, weight)
        wanted = 100 - 100 * old // n
        if wanted < weight:
            weight = wanted
            yield _weight(case, old, new, weight)
    if new or not fenced:
        yield _stop(case, old, 0, 0)
    if not now.unpinned:
        does = f"takes off the pin of {case.last_good}"
        yield _step(case, Kind.UNPIN, does, "nothing", "the pin", old, 0, 0)
    if lent:
        yield take_back(case, old, 0, 0)


def look(case: Case, reason: str) -> Step:
    """What is done where nobody knows how a region stands: nothing, until somebody does."""
    does = f"waits until {case.region} can be read: {reason}"
    return _step(case, Kind.LOOK, does, "it can be read", "nothing", 0, 0, 0)


def _step(
    case: Case,
    kind: Kind,
    does: str,
    gate: str,
    touches: str,
    old: int,
    new: int,
    weight: int,
    name: str = "",
) -> Step:
    again = f"a rollout of {case.version}"
    return Step(kind, does, gate, touches, again, old, new, weight, 0.0, 0.0, name)


def _weight(case: Case, old: int, new: int, weight: int) -> Step:
    return _step(
        case,
        Kind.WEIGHT,
        f"leaves {case.version} {weight} % of the requests; {case.last_good} has the rest"
        if weight
        else f"gives {case.last_good} all requests",
        "it is in force",
        f"the weights at {case.actuator}",
        old,
        new,
        weight,
        str(weight),
    )


def _stop(case: Case, old: int, new: int, weight: int) -> Step:
    return _step(
        case,
        Kind.STOP,
        f"lets servers of {case.version} go" + (f", {new} stay" if new else ""),
        "their requests have ended, and what they held is free",
        f"servers of {case.version} in {case.region}",
        old,
        new,
        weight,
        str(new),
    )


def _start(case: Case, old: int, adds: int, new: int, weight: int) -> Step:
    plural = "s" * (adds != 1)
    return _step(
        case,
        Kind.RELOAD,
        f"starts {adds} server{plural} of {case.last_good}, {old} in all",
        f"they state {case.last_good} and the digest of its manifest",
        f"servers of {case.last_good} in {case.region}",
        old,
        new,
        weight,
        str(old),
    )


def _warm_up(case: Case, old: int, new: int, weight: int) -> Step:
    return _step(
        case,
        Kind.WARM_UP,
        f"sends golden requests to new servers of {case.last_good}",
        "answers match, at the latency that is asked for",
        "nothing that clients use",
        old,
        new,
        weight,
        str(old),
    )
