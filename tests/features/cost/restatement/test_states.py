"""What the ledger held after each import."""

from __future__ import annotations

from datetime import date

from mlplatform.cost.ledger import Bill, Delivery
from mlplatform.cost.restatement.states import State, states

from .deliveries import delivery

OCTOBER, SEPTEMBER = "2026-10", "2026-09"
GOOGLE = Bill(provider="Google Cloud", account="2")


def sent(on: int, period: str = OCTOBER, number: int = 1, **other: object) -> Delivery:
    return delivery(date(2026, 10, on), {}, period=period, number=number, **other)  # type: ignore[arg-type]


def ids(state: State) -> set[str]:
    return {each.id for each in state.current}


def test_months_that_come_together_are_one_import() -> None:
    [state] = states([sent(3, SEPTEMBER), sent(3, OCTOBER), sent(3, bill=GOOGLE)])
    assert len(state.current) == len(state.brought) == 3


def test_a_period_that_comes_once_more_is_another_import() -> None:
    first, second = states([sent(3), sent(3, number=2), sent(3, SEPTEMBER, hour=7)])
    assert ids(first) == {"1-2026-10-1"}
    assert ids(second) == {"1-2026-10-2", "1-2026-09-1"}


def test_imports_of_different_days_are_told_apart_and_what_is_older_stands() -> None:
    first, second = states([sent(4), sent(3, SEPTEMBER)])
    assert ids(first) == {"1-2026-09-1"}
    assert ids(second) == {"1-2026-09-1", "1-2026-10-1"}
    assert [each.period for each in second.brought] == [OCTOBER]


def test_nothing_was_imported() -> None:
    assert states([]) == []
