"""What becomes of an alarm when a delivery says something else."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest

from mlplatform.cost.anomalies.findings import Found
from mlplatform.cost.anomalies.records import Alarm, State
from mlplatform.cost.anomalies.verdicts import Amounts, Scope, after
from mlplatform.cost.detect.scoring import Told

DAY = date(2026, 10, 10)
LEVELS = ("provider", "region", "service")
GPU = ("AWS", "eu-west-1", "EC2")
FIRST, SECOND = datetime(2026, 10, 12, tzinfo=UTC), datetime(2026, 10, 13, tzinfo=UTC)

SPIKE = Found(
    currency="USD",
    where=GPU,
    since=DAY,
    until=DAY,
    likely=200.0,
    expected=100.0,
    score=2.0,
    reason="spike",
    young=False,
    members=(GPU,),
    masked_by=(),
    held_back=False,
    told=Told.NOTHING,
)


def amounts(cost: float | None, *, likely: float | None = None, final: bool = False) -> Amounts:
    return Amounts(
        cost=None if cost is None else Decimal(str(cost)),
        likely=cost if likely is None else likely,
        expected=None if cost is None else 100.0,
        final=final,
        because="",
        deliveries=("d",),
    )


def judged(
    alarms: tuple[Alarm, ...], found: list[Found], seen: Amounts, at: datetime
) -> tuple[Alarm, ...]:
    scope = Scope(LEVELS, date(2026, 9, 1), at)
    return after(alarms, found, scope, lambda currency, where, since, until: seen)


def raised(*, final: bool = False, likely: float | None = None) -> tuple[Alarm, ...]:
    return judged((), [SPIKE], amounts(200, likely=likely, final=final), FIRST)


@pytest.mark.parametrize(("final", "state"), [(False, State.OPEN), (True, State.CONFIRMED)])
def test_an_alarm_is_raised(final: bool, state: State) -> None:
    [alarm] = raised(final=final)
    assert (alarm.state, alarm.since, alarm.where["region"]) == (state, DAY, "eu-west-1")
    assert alarm.now.excess == 100
    assert alarm.now.deliveries == ("d",)


@pytest.mark.parametrize(
    ("raised_final", "found_again", "cost", "final", "state", "steps"),
    [
        # it is found again
        (False, True, 200, False, State.OPEN, 1),
        (False, True, 200, True, State.CONFIRMED, 2),
        (False, True, 170, False, State.OPEN, 2),
        (True, True, 200, True, State.CONFIRMED, 1),
        # it is not found, and the bill has changed
        (False, False, 100, False, State.RETRACTED, 2),
        (True, False, 100, True, State.RETRACTED, 2),
        (False, False, 0, True, State.RETRACTED, 2),
        # it is not found, and the bill says what it said
        (False, False, 200, False, State.OPEN, 1),
        (False, False, 200.5, True, State.CONFIRMED, 2),
        (True, False, 200, True, State.CONFIRMED, 1),
        # nothing is known of its days any more
        (False, False, None, False, State.OPEN, 1),
    ],
)
def test_an_alarm_after_the_next_delivery(
    raised_final: bool,
    found_again: bool,
    cost: float | None,
    final: bool,
    state: State,
    steps: int,
) -> None:
    before = raised(final=raised_final)
    [alarm] = judged(before, [SPIKE] if found_again else [], amounts(cost, final=final), SECOND)
    assert (alarm.id, alarm.state, len(alarm.story)) == (before[0].id, state, steps)


def test_what_was_said_before_is_kept_when_it_is_taken_back() -> None:
    [alarm] = judged(raised(), [], amounts(110), SECOND)
    assert [(each.at, each.state, each.cost) for each in alarm.story] == [
        (FIRST, State.OPEN, Decimal(200)),
        (SECOND, State.RETRACTED, Decimal(110)),
    ]
    assert alarm.now.because == "restated"


def test_an_alarm_on_what_a_day_was_likely_to_become_is_taken_back_if_it_did_not() -> None:
    before = judged((), [SPIKE], amounts(120, likely=200), FIRST)
    [alarm] = judged(before, [], amounts(120, final=True), SECOND)
    assert alarm.state is State.RETRACTED
    assert alarm.now.because == "complete, and less than it was likely to become"


def test_what_was_taken_back_may_come_back() -> None:
    gone = judged(raised(), [], amounts(100), SECOND)
    [alarm] = judged(gone, [SPIKE], amounts(200), SECOND + timedelta(days=1))
    assert [each.state for each in alarm.story] == [State.OPEN, State.RETRACTED, State.OPEN]
    assert alarm.now.because.startswith("back")


@pytest.mark.parametrize(
    ("where", "since", "currency", "same"),
    [
        (GPU, DAY, "USD", True),
        (GPU[:2], DAY, "USD", True),  # the same, seen one level higher
        ((), DAY, "USD", True),
        (GPU, DAY + timedelta(days=3), "USD", True),
        (GPU, DAY + timedelta(days=4), "USD", False),
        (("AWS", "us-east-1", "EC2"), DAY, "USD", False),
        (GPU, DAY, "EUR", False),
    ],
)
def test_which_alarms_are_the_same(
    where: tuple[str, ...], since: date, currency: str, same: bool
) -> None:
    other = replace(SPIKE, where=where, since=since, until=since, currency=currency)
    found = judged(raised(), [other], amounts(200), SECOND)
    assert len(found) == (1 if same else 2)


def test_two_alarms_that_turn_out_to_be_one_incident_are_one() -> None:
    later = replace(SPIKE, since=DAY + timedelta(days=5), until=DAY + timedelta(days=5))
    two = judged((), [SPIKE, later], amounts(200), FIRST)
    whole = replace(SPIKE, until=DAY + timedelta(days=5))
    states = {each.since: each.state for each in judged(two, [whole], amounts(200), SECOND)}
    assert sorted(states.values()) == [State.JOINED, State.OPEN]


def test_alarms_that_are_long_over_are_left_as_they_are() -> None:
    before = raised()
    scope = Scope(LEVELS, DAY + timedelta(days=1), SECOND)
    assert after(before, [], scope, lambda *asked: amounts(0)) == before
