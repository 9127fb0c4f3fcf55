"""The rules: what bounds a route's acts as a whole, whatever its targets offer.

Each is a function of the case that says why it does not let the route be changed, or nothing. All
that are closed are told, not the first alone. The cap on what cascades may move, which depends on
how much is to move, and the hold-off, which is a region's, are asked for by whoever plans the move.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

from mlplatform.failover.decision.case import Case, Closed, weights_text
from mlplatform.failover.decision.seen import Gate, Mode, Recovery, Rule
from mlplatform.failover.verdict.judge import Health

DAY_SECONDS = 86_400.0
UNBREAKABLE = frozenset({Rule.ONE_REGION, Rule.FENCE, Rule.ADVISE})
"""Never broken, by nobody: some region serves, a newer controller is obeyed. `advise` is no rule to
break: whoever wants the act asks for it themselves."""


def closed_rules(case: Case) -> Iterator[Closed]:
    """The rules that do not let the route be changed, except those that the request breaks."""
    for closed in all_closed_rules(case):
        if closed.name in UNBREAKABLE or not case.breaks(closed.name):
            yield closed


def all_closed_rules(case: Case) -> Iterator[Closed]:
    """The rules that do not let the route be changed, whatever is broken."""
    for rule in _RULES:
        closed = rule(case)
        if closed is not None:
            yield closed


def _fence(case: Case) -> Closed | None:
    ours = case.seen.epoch
    if ours is None or case.state.epoch <= ours:
        return None
    by = f" by {case.state.writer}" if case.state.writer else ""
    said = f"written under epoch {case.state.epoch}{by}, ours is {ours}: a newer controller acts"
    return Closed(Rule.FENCE, said)


def _lock(case: Case) -> Closed | None:
    for scope in (case.name, "all"):
        if scope in case.orders.locks:
            why = case.orders.locks[scope] or "no reason was given"
            return Closed(Rule.LOCK, f"{scope} is locked: {why}")
    return None


def _consent(case: Case) -> Closed | None:
    """Weights that somebody changed behind our back are theirs, until they say otherwise."""
    written = case.seen.written
    if written is None:
        return None
    ours = {region: weight for region, weight in written.items() if weight}
    if ours == {region: weight for region, weight in case.weights.items() if weight}:
        return None
    return Closed(
        Rule.CONSENT,
        f"{weights_text(case.weights)} now, {weights_text(written)} as we wrote it; it is not "
        f"overwritten without consent (--break-glass {Rule.CONSENT.value})",
    )


def _blind(case: Case) -> Closed | None:
    if any(verdict.health is not Health.UNKNOWN for verdict in case.verdicts.values()):
        return None
    return Closed(Rule.BLIND, "every region is unknown: it is we who cannot see", unknown=True)


def _panic(case: Case) -> Closed | None:
    """Moving between regions that are all ill helps nobody; and where several turn ill at once, the
    cause is likely what they share, and follows the traffic."""
    if case.request.mode is not Mode.UNPLANNED:
        return None
    candidates = case.candidates
    health = {region: case.verdict(region).health for region in candidates}
    if Health.HEALTHY not in health.values() and candidates and not case.breaks(Gate.VERDICT):
        listed = ", ".join(f"{region} is {found.value}" for region, found in health.items())
        unknown = all(found is Health.UNKNOWN for found in health.values())
        said = f"no candidate is positively healthy: {listed}"
        return Closed(Rule.PANIC, said, unknown)
    together = sick_together(case)
    if together:
        return Closed(
            Rule.PANIC,
            f"{' and '.join(together)} turned sick within {case.safety.together_seconds:.0f} s of "
            "each other: they may have one cause, which would follow the traffic",
        )
    return None


def sick_together(case: Case) -> Sequence[str]:
    """The regions of the route that turned sick together with the source, itself among them; none
    where it is alone. One that most call down counts, though they be too few to act by: a record
    that cannot be read for a moment must not end a panic."""
    sick = sorted(
        (verdict.sick_seconds, region)
        for region, verdict in case.verdicts.items()
        if region in case.weights
        and (verdict.health is Health.UNHEALTHY or verdict.called_down)
        and verdict.sick_seconds is not None
        and not _is_drained(case, region, verdict.sick_seconds)
    )
    groups: list[list[str]] = [[sick[0][1]]] if sick else []
    for (later, _), (earlier, region) in pairwise(sick):
        if earlier - later <= case.safety.together_seconds:
            groups[-1].append(region)
        else:
            groups.append([region])
    for group in groups:
        if case.request.source in group and len(group) > 1:
            return sorted(group)
    return ()


def _is_drained(case: Case, region: str, sick_seconds: float) -> bool:
    """Whether a region turned sick while it was being left on purpose: its servers call themselves
    not ready, because they were told to."""
    return any(
        recovery.drained
        and recovery.source == region
        and (recovery.ended_seconds_ago or 0.0) <= sick_seconds <= recovery.began_seconds_ago
        for recovery in case.seen.recoveries
    )


def _one_recovery(case: Case) -> Closed | None:
    """A further fault amends what is under way: it neither waits for it, nor is it a second one.
    Whatever else is asked meanwhile waits."""
    recovery, request = case.open, case.request
    if recovery is None or request.mode is Mode.UNPLANNED or is_same(case, recovery):
        return None
    return Closed(
        Rule.OPEN,
        f"operation {recovery.operation} ({recovery.mode.value}) is under way; resume or abort it "
        "first",
    )


def is_same(case: Case, recovery: Recovery) -> bool:
    """Whether the request is the one that an operation carries out, asked again on its way."""
    request = case.request
    if recovery.mode is not request.mode:
        return False
    if request.mode is Mode.FAILBACK:
        return not (
            request.targets
            and recovery.targets
            and not set(request.targets) & set(recovery.targets)
        )
    return request.source in (None, recovery.source) or recovery.source is None


def last_recovery(case: Case) -> Recovery | None:
    """The last operation that is over and changed something. A drill is no recovery."""
    over = [
        recovery
        for recovery in case.seen.recoveries
        if recovery.ended_seconds_ago is not None
        and recovery.moved
        and recovery.mode is not Mode.DRILL
    ]
    return min(over, key=lambda each: each.ended_seconds_ago or 0.0, default=None)


def _cooldown(case: Case) -> Closed | None:
    """Rest, counted from the end of the last recovery; for what is done by itself. No rest between
    the steps of one fault, nor before a region is left again that a failback has just filled."""
    last = last_recovery(case)
    if not case.request.automatic or case.open is not None or last is None:
        return None
    ended = last.ended_seconds_ago or 0.0
    left = case.safety.cooldown_seconds - ended
    if left <= 0 or _goes_on(case, last, ended):
        return None
    return Closed(
        Rule.COOLDOWN,
        f"the last recovery, {last.operation}, ended {ended:.0f} s ago; nothing is done by itself "
        f"for {left:.0f} s more",
    )


def _goes_on(case: Case, last: Recovery, ended_seconds_ago: float) -> bool:
    request = case.request
    if last.mode is Mode.FAILBACK:
        if request.mode is Mode.FAILBACK:
            return not last.passed
        return request.source in last.targets
    if request.mode is not Mode.UNPLANNED or last.source != request.source:
        return False
    sick_seconds = case.verdict(request.source or "").sick_seconds
    return sick_seconds is not None and sick_seconds >= ended_seconds_ago


def _aborted(case: Case) -> Closed | None:
    """Who aborts what a controller does about a fault does not want it begun anew. A later fault is
    another matter."""
    if not case.request.automatic or case.open is not None:
        return None
    for recovery in reversed(case.seen.recoveries):
        reason = case.orders.aborted.get(recovery.operation)
        if reason is None or not _is_about(case, recovery):
            continue
        return Closed(
            Rule.ABORTED,
            f"{recovery.operation} was aborted: {reason}; "
            "nothing more is done about this by itself",
        )
    return None


def _is_about(case: Case, recovery: Recovery) -> bool:
    """Whether an operation that is over was about what is asked for again."""
    request, ended = case.request, recovery.ended_seconds_ago
    if ended is None or recovery.mode is not request.mode:
        return False
    if request.mode is Mode.FAILBACK:
        well = min((case.verdict(r).well_seconds or 0.0 for r in request.targets), default=0.0)
        return well >= ended
    sick = case.verdict(request.source or "").sick_seconds
    return recovery.source == request.source and sick is not None and sick >= ended


def _drilled(case: Case) -> Closed | None:
    """A standby that nobody has tried is a hope."""
    if not case.request.automatic or case.route.mode != "auto":
        return None
    days = case.safety.drill_days
    passed = [
        recovery.ended_seconds_ago
        for recovery in case.seen.recoveries
        if recovery.mode is Mode.DRILL
        and recovery.passed
        and recovery.ended_seconds_ago is not None
    ]
    if passed and min(passed) <= days * DAY_SECONDS:
        return None
    when = f"the last was {min(passed) / DAY_SECONDS:.0f} days ago" if passed else "none is known"
    return Closed(
        Rule.DRILLED,
        f"a route acts by itself after a drill passed within {days:g} days, and {when}; "
        f"`mlplatform failover drill --route {case.name}`",
    )


_RULES: tuple[Callable[[Case], Closed | None], ...] = (
    _fence,
    _lock,
    _consent,
    _blind,
    _panic,
    _one_recovery,
    _cooldown,
    _aborted,
    _drilled,
)


def over_the_cap(case: Case, points: int) -> Closed | None:
    """Whether taking so many points from the source is more than cascades may take in a window. The
    first region is never held back: what faults took from others counts, and without any, nothing
    does. What planned moves took counts nothing: whoever planned them has seen that there was room.
    A planned move on top of faults is held like any other, for it takes out the same capacity."""
    safety, source = case.safety, case.request.source
    taken = [
        recovery
        for recovery in case.seen.recoveries
        if recovery.mode is Mode.UNPLANNED
        and recovery.moved
        and (
            recovery.ended_seconds_ago is None
            or recovery.ended_seconds_ago <= safety.window_seconds
        )
    ]
    others = sorted({recovery.source or "?" for recovery in taken} - {source or ""})
    total = sum(recovery.moved for recovery in taken) + points
    if not others or total <= 100 * safety.moved_per_window:
        return None
    return Closed(
        Rule.CAP,
        f"{points} points from {source} would make {total} within "
        f"{safety.window_seconds:.0f} s, beside those from {', '.join(others)}; "
        f"{100 * safety.moved_per_window:.0f} may be taken by a cascade",
    )


def hold_off(case: Case, region: str) -> Closed | None:
    """Whether a region has not been well for long enough to be given its traffic back. Each relapse
    doubles what is enough."""
    again = relapses(case, region)
    needed = hold_off_seconds(case, again)
    well = case.verdict(region).well_seconds
    if well is not None and well >= needed:
        return None
    after = f" after {again} relapse{'s' if again > 1 else ''}" if again else ""
    if well is None:
        said = f"{region} is not seen well by every voter; {needed:.0f} s of that are needed{after}"
        return Closed(Rule.HOLD_OFF, said)
    said = f"{region} has been well for {well:.0f} s, {needed:.0f} s are needed{after}"
    return Closed(Rule.HOLD_OFF, said)


def hold_off_seconds(case: Case, relapses_: int) -> float:
    """How long a region must have been well, after so many relapses."""
    safety = case.safety
    longest = max(safety.hold_off_seconds, safety.hold_off_seconds_max)
    return float(min(safety.hold_off_seconds * 2 ** min(relapses_, 32), longest))


def relapses(case: Case, region: str) -> int:
    """How often a region has been left again after traffic had come back to it, as far back as the
    longest hold-off reaches."""
    count = 0
    returned = False
    for recovery in case.seen.recoveries:
        if recovery.began_seconds_ago > case.safety.hold_off_seconds_max:
            continue
        if recovery.mode is Mode.FAILBACK and region in recovery.targets:
            taken_back = recovery.ended_seconds_ago is not None and not recovery.moved
            count += taken_back
            returned = not taken_back
        elif (
            recovery.mode is Mode.UNPLANNED
            and recovery.source == region
            and recovery.moved
            and returned
        ):
            count += 1
            returned = False
    return count
