"""How old a record is, as its reader knows it."""

from __future__ import annotations

import pytest

from mlplatform.core.digest import digest_of
from mlplatform.failover.evidence import VantageRecord, vantage_key
from mlplatform.failover.read_evidence import EvidenceReader
from mlplatform.failover.rounds import encoded
from tests.features.control.members import Members, lost
from tests.features.control.weather import VirtualClock


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
