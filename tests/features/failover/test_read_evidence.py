"""How old a record is, as its reader knows it."""

from __future__ import annotations

from datetime import timedelta

import pytest

from mlplatform.core.digest import digest_of
from mlplatform.failover.evidence.reader import EvidenceReader
from mlplatform.failover.evidence.record import VantageRecord, vantage_key
from mlplatform.failover.vantage.rounds import encoded
from tests.features.control.members import Members, lost
from tests.features.control.weather import SkewedClock, VirtualClock


def test_a_vantage_that_has_died_looks_no_younger_because_its_stores_answer_in_turn() -> None:
    """One store missed its last record; which of them answer is another each time."""
    members, clock = Members(), VirtualClock()
    key = vantage_key("fra")

    def written(round_: int, stores: tuple[int, ...]) -> None:
        record = VantageRecord(
            vantage="fra", round=round_, at=clock.now(), interval_seconds=5.0, series=()
        )
        body = encoded(record)
        for store in stores:
            members.stores[store].store.put(key, body, digests=digest_of(body))

    reader = EvidenceReader(members.control(clock), ["fra"], clock)
    written(5, (0, 1, 2))
    reader.sightings()
    clock.sleep(5)
    written(6, (0,))  # and here it died
    reader.sightings()
    for _ in range(60):
        clock.sleep(5)
        with lost(members, 0):
            reader.sightings()
        reader.sightings()
    seen = reader.sightings()["fra"]
    assert seen.age_seconds == pytest.approx(300)
    assert seen.stale


@pytest.mark.parametrize(
    ("skew", "age_seconds"),
    [
        (timedelta(0), 4),
        (timedelta(hours=-1), 31),
        (timedelta(hours=1), 31),
        (timedelta(seconds=-5), 31),
        (timedelta(seconds=5), 9),
    ],
    ids=str,
)
def test_where_wall_clocks_differ_a_record_may_be_as_old_as_the_last_look(
    skew: timedelta, age_seconds: float
) -> None:
    members, clock = Members(), VirtualClock()
    reader = EvidenceReader(members.control(clock), ["fra"], SkewedClock(clock, wall_skew=skew))

    def written(round_: int) -> None:
        body = encoded(
            VantageRecord(
                vantage="fra", round=round_, at=clock.now(), interval_seconds=5.0, series=()
            )
        )
        for member in members.stores:
            member.store.put(vantage_key("fra"), body, digests=digest_of(body))

    written(5)
    reader.sightings()
    clock.sleep(27)
    written(6)
    clock.sleep(4)
    assert reader.sightings()["fra"].age_seconds == pytest.approx(age_seconds)
