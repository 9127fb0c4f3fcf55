"""What became of alarms after a delivery: raised, confirmed, retracted. Pure.

An alarm is told from another by where it is and when: one that is found again, of the same node or
of what that is part of, on days that touch its own, is the same. One that is not found any more is
retracted only where its amounts have changed: while the bill says the same, so do we.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal

from blake3 import blake3

from mlplatform.cost.anomalies.findings import Found, Where
from mlplatform.cost.anomalies.records import Alarm, State, Verdict

_TOUCH = timedelta(days=3)
"""As far apart may the days of one incident be (`detect.incidents` gathers alarms like that)."""
_SAME = Decimal("0.005")
"""Amounts nearer than this share are the same: for people, and beside noise."""
_CENT = Decimal("0.01")
_KEPT = timedelta(days=366)


@dataclass(frozen=True, slots=True)
class Amounts:
    """What a node's days are, as the ledger has them."""

    cost: Decimal | None
    likely: float | None
    expected: float | None
    """None: not known of all of them."""
    final: bool
    because: str
    deliveries: tuple[str, ...]
    """What an import brought of these days."""


AmountsOf = Callable[[str, Where, date, date], Amounts]


@dataclass(frozen=True, slots=True)
class Scope:
    """What is judged."""

    levels: tuple[str, ...]
    since: date
    """Alarms that ended before are left as they are."""
    at: datetime


def after(
    alarms: Sequence[Alarm], found: Sequence[Found], scope: Scope, amounts: AmountsOf
) -> tuple[Alarm, ...]:
    """The alarms after an import, the newest days first."""
    fresh = [each for each in found if each.until >= scope.since]
    told: list[Alarm] = []
    taken: dict[int, Alarm] = {}
    for alarm in sorted(alarms, key=_claim):
        if alarm.until < scope.since or alarm.state is State.JOINED:
            told.append(alarm)
            continue
        matches = [place for place, each in enumerate(fresh) if _same(alarm, each, scope.levels)]
        free = [place for place in matches if place not in taken]
        if free:
            place = max(free, key=lambda place: _nearness(alarm, fresh[place], scope.levels))
            again = _found_again(alarm, fresh[place], scope, amounts)
            taken[place] = again
            told.append(again)
        elif matches and alarm.state.stands:
            told.append(_joined(alarm, taken[matches[0]], scope))
        else:
            told.append(_not_found(alarm, scope, amounts))
    told += [
        _raised(each, scope, amounts) for place, each in enumerate(fresh) if place not in taken
    ]
    kept = [each for each in told if each.until >= scope.at.date() - _KEPT]
    return tuple(sorted(kept, key=lambda each: (each.until, each.since, each.id), reverse=True))


def where_of(values: Where, levels: Sequence[str]) -> dict[str, str]:
    """A node by its levels."""
    return dict(zip(levels, values, strict=False))


def path_of(where: Mapping[str, str], levels: Sequence[str]) -> Where:
    """A node's path."""
    return tuple(where[level] for level in levels if level in where)


def _claim(alarm: Alarm) -> tuple[bool, datetime, str]:
    """Who is asked first: what stands, and of that what was raised first."""
    return not alarm.state.stands, alarm.story[0].at, alarm.id


def _same(alarm: Alarm, found: Found, levels: Sequence[str]) -> bool:
    path = path_of(alarm.where, levels)
    short = min(len(path), len(found.where))
    related = path[:short] == found.where[:short]
    apart = max(alarm.since, found.since) - min(alarm.until, found.until)
    return alarm.currency == found.currency and related and apart <= _TOUCH


def _nearness(alarm: Alarm, found: Found, levels: Sequence[str]) -> tuple[int, bool, float]:
    apart = (max(alarm.since, found.since) - min(alarm.until, found.until)).days
    return -max(apart, 0), path_of(alarm.where, levels) == found.where, found.excess


def _found_again(alarm: Alarm, found: Found, scope: Scope, amounts: AmountsOf) -> Alarm:
    seen = amounts(found.currency, found.where, found.since, found.until)
    verdict = _verdict(found, seen, scope)
    before = alarm.now
    if not before.state.stands:
        verdict = verdict.model_copy(update={"because": f"back: {verdict.because}"})
    is_news = (
        before.state is not verdict.state
        or _differ(before.cost, verdict.cost)
        or (alarm.since, alarm.until) != (found.since, found.until)
        or dict(alarm.where) != where_of(found.where, scope.levels)
    )
    if not is_news:
        return alarm
    return alarm.model_copy(update={**_told_of(found, scope), "story": (*alarm.story, verdict)})


def _raised(found: Found, scope: Scope, amounts: AmountsOf) -> Alarm:
    seen = amounts(found.currency, found.where, found.since, found.until)
    told = f"{found.currency}\0{'/'.join(scope.levels)}\0{'/'.join(found.where)}\0{found.since}"
    return Alarm(
        id=blake3(told.encode()).hexdigest(length=4),
        currency=found.currency,
        **_told_of(found, scope),
        story=(_verdict(found, seen, scope),),
    )


def _told_of(found: Found, scope: Scope) -> dict[str, object]:
    return {
        "where": where_of(found.where, scope.levels),
        "since": found.since,
        "until": found.until,
        "reason": found.reason,
        "score": found.score,
        "low_confidence": found.young,
        "held_back": found.held_back,
        "masked_by": tuple(where_of(each, scope.levels) for each in found.masked_by),
    }


def _verdict(found: Found, seen: Amounts, scope: Scope) -> Verdict:
    return Verdict(
        at=scope.at,
        deliveries=seen.deliveries,
        state=State.CONFIRMED if seen.final else State.OPEN,
        cost=seen.cost,
        expected=_money(found.expected),
        likely=_money(found.likely),
        because=seen.because,
    )


def _joined(alarm: Alarm, other: Alarm, scope: Scope) -> Alarm:
    verdict = alarm.now.model_copy(
        update={"at": scope.at, "state": State.JOINED, "because": f"one incident with {other.id}"}
    )
    return alarm.model_copy(update={"story": (*alarm.story, verdict)})


def _not_found(alarm: Alarm, scope: Scope, amounts: AmountsOf) -> Alarm:
    if not alarm.state.stands:
        return alarm
    seen = amounts(alarm.currency, path_of(alarm.where, scope.levels), alarm.since, alarm.until)
    if seen.likely is None or seen.expected is None:
        return alarm  # of days that are not there nothing can be said
    before = alarm.now
    restated = _differ(before.cost, seen.cost)
    if not restated and not _differ(before.likely, _money(seen.likely)):
        if seen.final and before.state is State.OPEN:
            verdict = before.model_copy(
                update={
                    "at": scope.at,
                    "state": State.CONFIRMED,
                    "deliveries": seen.deliveries,
                    "because": seen.because,
                }
            )
            return alarm.model_copy(update={"story": (*alarm.story, verdict)})
        return alarm
    why = "restated" if restated else "complete, and less than it was likely to become"
    verdict = Verdict(
        at=scope.at,
        deliveries=seen.deliveries,
        state=State.RETRACTED,
        cost=seen.cost,
        expected=_money(seen.expected),
        likely=_money(seen.likely),
        because=why,
    )
    return alarm.model_copy(update={"story": (*alarm.story, verdict)})


def _differ(one: Decimal | None, other: Decimal | None) -> bool:
    if one is None or other is None:
        return one is not other
    return abs(one - other) > max(abs(one), abs(other)) * _SAME


def _money(amount: float) -> Decimal:
    return Decimal(repr(amount)).quantize(_CENT)
