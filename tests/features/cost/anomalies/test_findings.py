"""Incidents in what leaves cost: what is provisional, what nobody knows, currencies, the old
rule."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import pytest

from mlplatform.cost.anomalies.findings import Costs, Judged, Leaf, Numbers, Rule, Said
from mlplatform.cost.detect.scoring import Told
from tests.features.cost.detect.pictures import usual

FIRST = date(2026, 1, 5)
DAYS = 100
LAST = FIRST + timedelta(days=DAYS - 1)
GPU: Leaf = ("USD", ("AWS", "eu-west-1"))
CPU: Leaf = ("USD", ("AWS", "us-east-1"))
EUROS: Leaf = ("EUR", ("Azure", "westeurope"))


def leaves() -> dict[Leaf, Numbers]:
    return {leaf: usual(DAYS, seed=seed) for seed, leaf in enumerate((GPU, CPU, EUROS), start=1)}


def judged(
    likely: dict[Leaf, Numbers],
    cautious: dict[Leaf, Numbers] | None = None,
    *said: Said,
    rule: Rule = Rule.MODEL,
) -> Judged:
    return Judged(Costs(FIRST, likely, cautious or likely), said, rule=rule)


def test_nothing_is_unusual() -> None:
    assert judged(leaves()).found == []


def test_an_incident_has_days_and_money() -> None:
    costs = leaves()
    costs[GPU][-1] *= 2
    (one,) = judged(costs).found
    assert (one.currency, one.where, one.since, one.until) == ("USD", GPU[1], LAST, LAST)
    assert one.likely == pytest.approx(costs[GPU][-1])
    assert one.excess == pytest.approx(one.expected, rel=0.15)


def test_currencies_are_never_added_up() -> None:
    costs = leaves()
    costs[EUROS][-1] *= 3
    (one,) = judged(costs).found
    assert (one.currency, one.where[0]) == ("EUR", "Azure")
    assert judged(costs).node("USD", (), LAST, LAST) != judged(costs).node("EUR", (), LAST, LAST)


@pytest.mark.parametrize(
    ("delivered", "middle", "high", "alarm"),
    [
        # what is there, what share that is as a rule, and in one delivery of ten
        (2000, 1.0, 1.0, True),
        (1000, 1.0, 1.0, False),
        (1000, 0.5, 0.55, True),  # half of a day costs what the whole should
        (600, 0.6, 0.65, False),  # as much as there should be by then
        (1000, 0.5, 1.0, False),  # it may be all there is
        (1000, 0.8, 0.98, False),
        (1600, 0.9, 1.1, True),
    ],
)
def test_a_provisional_day_is_judged_by_what_is_there_and_how_sure_that_is(
    delivered: float, middle: float, high: float, alarm: bool
) -> None:
    likely, cautious = leaves(), leaves()
    likely[GPU][-1] = delivered / middle
    cautious[GPU][-1] = delivered / high
    assert bool(judged(likely, cautious).found) is alarm


def test_a_day_of_which_nothing_is_known_is_no_fall_and_no_alarm() -> None:
    costs = leaves()
    costs[GPU][-1] = np.nan
    found = judged(costs)
    assert found.found == []
    assert found.node("USD", GPU[1], LAST, LAST) is None
    assert found.node("USD", CPU[1], LAST, LAST) is not None


def test_cost_from_zero_is_seen_where_the_bill_says_that_it_was_nothing() -> None:
    costs = leaves() | {("USD", ("AWS", "ap-southeast-1")): np.zeros(DAYS)}
    costs["USD", ("AWS", "ap-southeast-1")][-1] = 400
    (one,) = judged(costs).found
    assert one.where == ("AWS", "ap-southeast-1")
    assert one.reason.startswith("cost from zero")


def test_what_is_planned_is_no_alarm() -> None:
    costs = leaves()
    costs[GPU][-1] *= 2
    said = Said("USD", GPU[1], LAST, LAST, Told.PLANNED)
    assert judged(costs, None, said).found == []


def test_the_old_rule() -> None:
    costs = leaves()
    costs[GPU][-1] = costs[GPU][-2] * 1.6
    found = judged(costs, rule=Rule.DAY_OVER_DAY).found
    (one,) = [each for each in found if each.since == LAST]
    assert one.where == GPU[1]
    assert one.expected == pytest.approx(costs[GPU][-2])
    assert one.score is None


def test_less_than_two_weeks_are_low_confidence() -> None:
    costs = {leaf: row[:10] for leaf, row in leaves().items()}
    costs[GPU][-1] *= 4
    (one,) = judged(costs).found
    assert one.young
    assert "low confidence" in one.reason
