"""GPU nodes: what is busy, and three ways of being idle."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest

from mlplatform.core.errors import UsageError
from mlplatform.cost.unit.idle import Nodes, Parts, split, together

D = Decimal
ALL = ("unallocated", "warm_standby", "allocated_idle", "busy", "unsplit")


def nodes(
    allocated: str | None, warm: str | None, utilisation: str | None, *, gpus: str = "100"
) -> Nodes:
    """Nodes that cost 200."""

    def number(text: str | None) -> Decimal | None:
        return None if text is None else D(text)

    return Nodes("g5", D(200), D(gpus), number(allocated), number(warm), number(utilisation))


@pytest.mark.parametrize(
    # Of 100 GPU-hours at 2 each: allocated, of these warm, and how busy the others are.
    ("given", "parts", "unknown"),
    [
        (("80", "20", "0.5"), (40, 40, 60, 60, 0), ()),
        (("100", "0", "1"), (0, 0, 0, 200, 0), ()),
        (("0", "0", "0"), (200, 0, 0, 0, 0), ()),
        (("0", "0", None), (200, 0, 0, 0, 0), ()),  # of nothing there is no utilisation
        (("50", "50", None), (100, 100, 0, 0, 0), ()),
        (("80", "0", "0"), (40, 0, 160, 0, 0), ()),  # measured, and idle
        (("80", "20", None), (40, 40, None, None, 120), ("utilisation",)),
        (("80", None, "0.5"), (40, None, None, None, 160), ("warm",)),
        (("80", None, None), (40, None, None, None, 160), ("warm", "utilisation")),
        ((None, "20", "0.5"), (None, None, None, None, 200), ("allocated",)),
        ((None, None, None), (None, None, None, None, 200), ("allocated", "utilisation")),
    ],
)
def test_a_split(
    given: tuple[str | None, str | None, str | None],
    parts: tuple[int | None, ...],
    unknown: tuple[str, ...],
) -> None:
    found = split(nodes(*given))
    assert found.money is not None
    assert tuple(getattr(found.money, name) for name in ALL) == parts
    assert found.unknown == unknown
    assert sum(getattr(found.money, name) or 0 for name in ALL) == found.cost
    # They cost 2 an hour.
    assert tuple(getattr(found.hours, name) for name in ALL) == tuple(
        None if part is None else part / 2 for part in parts
    )


def test_what_has_no_price_is_split_by_the_hour() -> None:
    found = split(replace(nodes("80", "20", "0.5"), cost=None))
    assert found.money is None
    assert found.hours == Parts(D(20), D(20), D(30), D(30), D(0))


def test_hours_of_which_different_things_are_known_are_added_up() -> None:
    known, unmeasured = split(nodes("80", "20", "0.5")), split(nodes("100", "0", None))
    both = together([known, unmeasured])
    assert both.money == Parts(D(40), D(40), D(60), D(60), D(200))
    assert (both.cost, both.gpus) == (D(400), D(200))
    assert both.unknown == ("utilisation",)
    unpriced = together([known, split(replace(nodes("80", "20", "0.5"), cost=None))])
    assert (unpriced.cost, unpriced.money) == (None, None)
    assert unpriced.hours.busy == 60


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (nodes("101", "0", "0"), "101 of 100"),
        (nodes("-1", "0", "0"), "-1 of 100"),
        (nodes("10", "11", "0"), "11 of 10"),
        (nodes("10", "1", "61"), "utilisation of 61"),
        (nodes("0", "0", "0", gpus="0"), "0 GPU-hours"),
    ],
)
def test_figures_that_contradict_each_other(wrong: Nodes, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        split(wrong)
