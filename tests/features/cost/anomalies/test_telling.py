"""Who is told of what: cases that whoever carries the pager can read."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal

import pytest

from mlplatform.cost.anomalies.records import Alarm, State, Verdict
from mlplatform.cost.anomalies.telling import news


def alarm(*states: State, held_back: bool = False) -> Alarm:
    story = tuple(
        Verdict(
            at=datetime(2026, 11, 10 + number, tzinfo=UTC),
            deliveries=("d",),
            state=state,
            cost=Decimal(9),
            expected=Decimal(3),
            likely=Decimal(9),
            because="it is so",
        )
        for number, state in enumerate(states)
    )
    day = date(2026, 11, 9)
    return Alarm(
        id="a1b2",
        currency="USD",
        where={},
        since=day,
        until=day,
        reason="spike",
        held_back=held_back,
        story=story,
    )


OPEN, CONFIRMED, RETRACTED, JOINED = State.OPEN, State.CONFIRMED, State.RETRACTED, State.JOINED
CASES = {
    # the story, verdicts that were told, whether it is answered, whether somebody is told now
    "a new one": ([OPEN], [], False, True),
    "told already": ([OPEN], [1], False, False),
    "confirmed since": ([OPEN, CONFIRMED], [1], False, True),
    "confirmed, and told": ([OPEN, CONFIRMED], [1, 2], False, False),
    "retracted since": ([OPEN, RETRACTED], [1], False, True),
    "retracted before anybody was told": ([OPEN, RETRACTED], [], False, False),
    "joined to another since": ([OPEN, JOINED], [1], False, True),
    "somebody has answered it": ([OPEN], [], True, False),
    "answered, and taken back": ([OPEN, RETRACTED], [1], True, True),
    "back again": ([OPEN, RETRACTED, OPEN], [1, 2], False, True),
}


@pytest.mark.parametrize(("story", "told", "answered", "tells"), CASES.values(), ids=CASES)
def test_what_is_news(story: list[State], told: list[int], answered: bool, tells: bool) -> None:
    one = alarm(*story)
    found = news([one], {(one.id, number) for number in told}, lambda _: answered)
    assert found == ([one] if tells else [])


def test_what_is_over_the_alarm_budget_wakes_nobody() -> None:
    assert news([alarm(OPEN, held_back=True)], set(), lambda _: False) == []
