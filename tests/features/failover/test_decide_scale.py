"""What a decision costs, counted in calls, which no busy machine changes: it grows as what there is
to look at grows, by models, by regions and by routes."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from benchmarks.failover_decide import decided, estate


def calls(work: Callable[[], object]) -> int:
    """How many calls, of Python's functions and of C's, `work` makes in this thread."""
    count = 0

    def event(_frame: object, kind: str, _argument: object) -> None:
        nonlocal count
        count += kind in ("call", "c_call")

    sys.setprofile(event)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


def cost(regions: int, models: int, routes: int) -> int:
    world = estate(regions, models, routes)
    decided(*world)  # what is built once, is
    return calls(lambda: decided(*world))


@pytest.mark.parametrize(
    ("why", "few", "lots", "times"),
    [
        ("models of one route", (10, 100, 1), (10, 1000, 1), 10),
        ("routes of a model each", (10, 20, 20), (10, 200, 200), 10),
        ("regions", (5, 100, 1), (50, 100, 1), 10),
        ("regions of many routes", (5, 20, 20), (50, 20, 20), 10),
    ],
)
def test_a_decision_is_linear(
    why: str, few: tuple[int, int, int], lots: tuple[int, int, int], times: int
) -> None:
    assert cost(*lots) < 1.2 * times * cost(*few)


def test_a_region_of_a_model_costs_little() -> None:
    """50 regions of 2,000 models are 100,000 looks; a second has room for 30 calls each."""
    assert cost(50, 200, 1) < 25 * 50 * 200
