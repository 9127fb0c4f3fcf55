"""How complete a day is so many days later, learnt from what was delivered."""

from __future__ import annotations

from datetime import date, timedelta

import pytest

from mlplatform.cost.ledger import Bill
from mlplatform.cost.restatement.curves import Curve, Sample, Share, curves, learn, samples

from .deliveries import BILL, START, daily, delivery

LATE = {0: 0.0, 1: 0.6, 2: 0.9, 3: 1.0}


def curve(shares: dict[int, float], days: int = 24) -> Curve:
    return curves({(BILL, "2026-10"): daily(days, shares)})["AWS"]


@pytest.mark.parametrize(("age", "share"), [(1, 0.6), (2, 0.9), (3, 1.0), (5, 1.0), (40, 1.0)])
def test_the_share_of_each_age_is_learnt(age: int, share: float) -> None:
    found = curve(LATE).at(age)
    assert found is not None
    assert found.middle == pytest.approx(share)
    assert (found.low, found.high) == pytest.approx((share, share))


@pytest.mark.parametrize(
    ("shares", "settled"),
    [
        (LATE, 3),
        ({0: 1.0}, 1),
        ({0: 0.5, 1: 1.3, 2: 1.0}, 2),  # an estimate that is too high is not complete either
        ({0: 0.5, 1: 0.995}, 1),
        ({0: 0.5, 1: 0.97}, 1),  # all that ever came is all there is
    ],
)
def test_a_day_is_complete_from_an_age_on(shares: dict[int, float], settled: int) -> None:
    assert curve(shares).settled_days == settled


def test_of_ages_that_were_never_seen_nothing_is_known() -> None:
    assert curve(LATE).at(0) is None
    assert Curve().at(3) is None
    assert Curve().settled_days is None


def test_few_deliveries_teach_nothing() -> None:
    assert learn([Sample(1, 0.5)] * 6).at(1) is None
    assert learn([Sample(1, 0.5)] * 7).at(1) == Share(0.5, 0.5, 0.5)


def test_the_spread_is_what_eight_of_ten_deliveries_lie_in() -> None:
    found = learn([Sample(1, share / 100) for share in range(50, 101)]).at(1)
    assert found is not None
    assert (found.low, found.middle, found.high) == pytest.approx((0.55, 0.75, 0.95))


def test_between_ages_the_share_is_in_proportion() -> None:
    found = learn([*[Sample(1, 0.4)] * 7, *[Sample(5, 0.8)] * 7]).at(3)
    assert found is not None
    assert found.middle == pytest.approx(0.6)


def test_a_day_that_is_young_in_the_newest_delivery_is_not_final_and_teaches_nothing() -> None:
    assert samples(daily(6, LATE)) == []
    assert {each.share for each in samples(daily(6, LATE), closed=True)} >= {0.6, 0.9}


def test_a_day_that_an_earlier_delivery_does_not_reach_is_unknown_and_not_nothing() -> None:
    early = delivery(START + timedelta(days=1), {START: 100})
    late = delivery(date(2026, 10, 25), {START: 100, date(2026, 10, 2): 100}, number=2)
    assert samples([early, late]) == [Sample(1, 1.0)]


def test_providers_do_not_teach_each_other() -> None:
    other = Bill(provider="Google Cloud", account="2")
    slow = [each.model_copy(update={"bill": other}) for each in daily(24, {0: 0.0, 4: 1.0})]
    found = curves({(BILL, "2026-10"): daily(24, LATE), (other, "2026-10"): slow})
    assert found["AWS"].settled_days == 3
    assert found["Google Cloud"].settled_days == 4
