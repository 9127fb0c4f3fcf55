"""Lines of days, as text."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

import pytest

from mlplatform.cost.report.sparkline import days_a_slot, slots, sparkline
from tests.features.cost.bills import days_from

DAYS = days_from(date(2026, 11, 1), 6)


@pytest.mark.parametrize(
    ("costs", "provisional", "line"),
    [
        ([0, 1, 2, 4, 8, 8], [], "▁▂▃▅██"),
        ([5, 5, 5, 5, 5, 5], [], "██████"),
        ([0, 0, 0, 0, 0, 0], [], "▁▁▁▁▁▁"),
        ([8, None, 8, 8, None, None], [], "█·██··"),
        ([None] * 6, [4, 5], "······"),
        ([8, 8, 8, 8, 8, 4], [4, 5], "████(█▅)"),
        ([8, 8, 8, 8, None, 4], [4, 5], "████·(▅)"),
        ([8, 8, 8, 8, 8, 8], range(6), "(██████)"),
        ([8, 4, 8, 8, 8, 8], [1], "█(▅)████"),
        ([-8, -4, 0, 0, -8, -8], [], "▁▅██▁▁"),
        ([-4, 4, 0, 4, 4, 4], [], "▁█▅███"),
    ],
)
def test_a_line(costs: list[int | None], provisional: list[int], line: str) -> None:
    known = {day: Decimal(cost) for day, cost in zip(DAYS, costs, strict=True) if cost is not None}
    assert sparkline(slots(DAYS, known, {DAYS[place] for place in provisional})) == line


def test_many_days_share_characters_and_the_last_is_whole() -> None:
    days = days_from(date(2026, 1, 1), 63)
    assert days_a_slot(63) == 3
    found = slots(days, dict.fromkeys(days[-3:], Decimal(6)) | {days[0]: Decimal(1)})
    assert len(found) == 21
    assert [slot.cost for slot in found] == [1, *[None] * 19, 6]
    assert len(slots(days[:62], {})) == 31


def test_a_gap_is_no_part_of_an_average() -> None:
    days = days_from(date(2026, 1, 1), 62)
    (first, *_) = slots(days, {days[1]: Decimal(6)})
    assert first.cost == 6
