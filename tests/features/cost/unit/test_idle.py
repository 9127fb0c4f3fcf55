"""GPU nodes: what is busy, and three ways of being idle."""

from __future__ import annotations

from decimal import Decimal

import pytest

from mlplatform.core.errors import UsageError
from mlplatform.cost.unit.idle import Nodes, split

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
    assert tuple(getattr(found, name) for name in ALL) == parts
    assert found.unknown == unknown
    assert sum(getattr(found, name) or 0 for name in ALL) == found.cost


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
