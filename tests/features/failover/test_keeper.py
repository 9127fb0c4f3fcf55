"""The one record of a vantage: written over, never lost, and noticed when two write it."""

from __future__ import annotations

from datetime import timedelta

import pytest

from mlplatform.control.executors import InlineExecutor
from mlplatform.core.seen import Unknown
from mlplatform.failover.evidence.reader import EvidenceReader
from mlplatform.failover.evidence.record import Path, Sample, Series, VantageRecord, vantage_key
from mlplatform.failover.vantage.keeper import Keeper
from mlplatform.ports.store import read_bytes
from tests.features.control.members import Members, lost
from tests.features.control.weather import SkewedClock, VirtualClock

HOUR = timedelta(hours=1)


class Vantage:
    """A prober's keeper, and what it said."""

    def __init__(self, members: Members, clock: VirtualClock | SkewedClock, name: str = "fra"):
        self.clock = clock
        self.said: list[str] = []
        control = members.control(clock)
        self.keeper = Keeper(control, name, clock, InlineExecutor(), self.said.append)
        self.name = name

    def record(self, *, ago: float = 1.0) -> VantageRecord:
        sample = Sample(seconds_ago=ago, ok=True)
        return VantageRecord(
            vantage=self.name,
            round=self.keeper.next_round(),
            at=self.clock.now(),
            interval_seconds=10.0,
            writer=f"{self.name}@host",
            series=(Series(region="us", path=Path.DIRECT, samples=(sample,)),),
        )

    def write(self) -> VantageRecord:
        record = self.record()
        self.keeper.offer(record)
        return record


def reader(members: Members, clock: VirtualClock, *names: str) -> EvidenceReader:
    return EvidenceReader(members.control(clock), names or ("fra",), clock)


def stored(members: Members) -> VantageRecord:
    """What a reader finds."""
    record = reader(members, VirtualClock()).sightings()["fra"].record
    assert isinstance(record, VantageRecord)
    return record


def test_one_object_written_over_on_every_member() -> None:
    members, clock = Members(), VirtualClock()
    vantage = Vantage(members, clock)
    assert vantage.keeper.recall() is None
    rounds = []
    for _ in range(3):
        rounds.append(vantage.write().round)
        clock.sleep(10)
    assert stored(members).round == rounds[-1]
    for member in members.stores:
        assert [each.key for each in member.store.list("")] == [vantage_key("fra")]
    assert vantage.said == []


def test_rounds_start_at_the_wall_clock_s_second_and_count_on_over_a_restart() -> None:
    members, clock = Members(1), VirtualClock()
    first = Vantage(members, clock)
    first.keeper.recall()
    rounds = [first.write().round for _ in range(500)]  # quicker than the clock
    assert rounds == list(range(rounds[0], rounds[0] + 500))
    assert rounds[0] == int(clock.now().timestamp()) + 1
    clock.sleep(10)
    again = Vantage(members, clock)
    recalled = again.keeper.recall()
    assert recalled is not None
    assert recalled.series[0].samples[0].seconds_ago == 11  # one second old, ten seconds ago
    assert again.write().round == rounds[-1] + 1
    assert again.said == []


def test_a_clock_that_was_set_back_over_a_restart_lowers_no_round() -> None:
    members, clock = Members(1), VirtualClock()
    before = Vantage(members, SkewedClock(clock, HOUR))
    before.keeper.recall()
    last = before.write()
    after = Vantage(members, clock)
    recalled = after.keeper.recall()
    assert recalled is not None
    assert recalled.series[0].samples[0].seconds_ago == 1  # made no younger
    assert after.write().round == last.round + 1


def test_while_no_store_answers_nothing_is_lost_and_it_is_said_once() -> None:
    members, clock = Members(1), VirtualClock()
    vantage = Vantage(members, clock)
    vantage.keeper.recall()
    vantage.write()
    with lost(members, 0):
        for _ in range(5):
            clock.sleep(10)
            vantage.write()
        assert "connection refused" in vantage.keeper.unwritten
    clock.sleep(10)
    last = vantage.write()
    assert stored(members).round == last.round
    assert vantage.keeper.unwritten == ""
    (down, up) = vantage.said
    assert down.startswith("the record could not be written; it is kept until it can: ")
    assert up == "the record is written again"


def test_one_lost_store_of_three_changes_nothing() -> None:
    members, clock = Members(), VirtualClock()
    vantage = Vantage(members, clock)
    vantage.keeper.recall()
    vantage.write()
    for member in (0, 1, 2):  # each misses one round, and holds an old one afterwards
        with lost(members, member):
            last = vantage.write()
            assert stored(members).round == last.round
    assert vantage.said == []


def test_a_start_without_a_control_store_goes_on_when_it_is_back() -> None:
    members, clock = Members(1), VirtualClock()
    old = Vantage(members, SkewedClock(clock, HOUR))
    old.keeper.recall()
    last = old.write()
    new = Vantage(members, clock)
    with lost(members, 0):
        assert new.keeper.recall() is None
        new.write()
    written = new.write()
    assert written.round < last.round  # it could not know
    assert stored(members).round == last.round + 1
    assert "this begins anew" in new.said[0]
    assert not any("somebody else" in each for each in new.said)


def test_a_record_that_waited_is_as_old_as_it_is() -> None:
    members, clock = Members(1), VirtualClock()
    vantage = Vantage(members, clock)
    record = vantage.record(ago=2.0)
    vantage.keeper._waiting = (record, clock.monotonic())
    clock.sleep(30)
    vantage.keeper._write_all()
    found = stored(members)
    assert found.series[0].samples[0].seconds_ago == 32
    assert found.at == clock.now()


def test_a_second_prober_of_one_name_is_noticed_by_both() -> None:
    members, clock = Members(), VirtualClock()
    first, second = Vantage(members, clock), Vantage(members, clock)
    for vantage in (first, second):
        vantage.keeper.recall()
    for _ in range(4):
        for vantage in (first, second):
            clock.sleep(5)
            vantage.write()
    for vantage in (first, second):
        assert len(vantage.said) == 1
        assert vantage.said[0].startswith("somebody else probes as fra: fra@host wrote round ")


def test_one_that_takes_over_is_no_second() -> None:
    members, clock = Members(), VirtualClock()
    for _ in range(3):
        vantage = Vantage(members, clock)
        vantage.keeper.recall()
        vantage.write()
        vantage.write()
        assert vantage.said == []


def test_a_broken_record_is_written_over() -> None:
    members, clock = Members(1), VirtualClock()
    members.stores[0].store.put(vantage_key("fra"), b"{")
    vantage = Vantage(members, clock)
    assert vantage.keeper.recall() is None
    vantage.write()
    assert stored(members).vantage == "fra"


# --- reading ------------------------------------------------------------------------------------


def age(found: EvidenceReader) -> float:
    return found.sightings()["fra"].age_seconds


def test_how_old_a_record_is_by_the_reader_s_own_clock() -> None:
    members, clock = Members(), VirtualClock()
    vantage, found = Vantage(members, clock), reader(members, clock)
    vantage.write()
    clock.sleep(3)
    assert age(found) == 3  # by the two wall clocks, which agree
    clock.sleep(4)
    vantage.write()
    clock.sleep(1)
    assert age(found) == 1
    clock.sleep(20)
    assert age(found) == 21
    assert not found.sightings()["fra"].stale
    clock.sleep(20)
    assert found.sightings()["fra"].stale  # three rounds, and some


@pytest.mark.parametrize("skew", [HOUR, -HOUR], ids=["ahead", "behind"])
def test_a_vantage_whose_clock_is_an_hour_off(skew: timedelta) -> None:
    """It is stale at first sight, and fresh as soon as it is seen to change."""
    members, clock = Members(), VirtualClock()
    vantage, found = Vantage(members, SkewedClock(clock, skew)), reader(members, clock)
    vantage.keeper.recall()
    vantage.write()
    clock.sleep(2)
    sighting = found.sightings()["fra"]
    assert sighting.stale
    assert sighting.age_seconds == 2 - skew.total_seconds()
    for _ in range(3):
        clock.sleep(8)
        vantage.write()
        clock.sleep(2)
        sighting = found.sightings()["fra"]
        assert 0 <= sighting.age_seconds <= 10
        assert not sighting.stale
    clock.sleep(60)
    assert found.sightings()["fra"].stale


def test_what_cannot_be_read_is_unknown_and_why() -> None:
    members, clock = Members(), VirtualClock()
    Vantage(members, clock).write()
    Vantage(members, clock, "lon").write()
    for member in members.stores:
        member.store.put(vantage_key("broken"), b'{"vantage": 1}')
        body, _ = read_bytes(member.store, vantage_key("lon"))
        member.store.put(vantage_key("copied"), body)
    found = reader(members, clock, "fra", "never", "broken", "copied").sightings()
    assert isinstance(found.pop("fra").record, VantageRecord)
    reasons = {name: str(sighting.record) for name, sighting in found.items()}
    assert reasons["never"] == "unknown: never has never written a record"
    assert reasons["broken"].startswith("unknown: broken: its record is broken")
    assert reasons["copied"] == "unknown: copied: this is the record of lon"
    assert all(sighting.stale for sighting in found.values())


def test_without_a_majority_everything_is_unknown() -> None:
    members, clock = Members(), VirtualClock()
    Vantage(members, clock).write()
    with lost(members, 0), lost(members, 2):
        evidence = reader(members, clock).read()
    assert isinstance(evidence.vantages["fra"].record, Unknown)
    assert evidence.outside == {}


def test_whoever_can_be_reached_gets_it_and_the_newest_copy_counts() -> None:
    members, clock = Members(), VirtualClock()
    vantage = Vantage(members, clock)
    vantage.write()
    with lost(members, 0), lost(members, 1):
        last = vantage.write()
        assert vantage.keeper.unwritten == ""
    assert stored(members).round == last.round
    with lost(members, 2):
        assert stored(members).round == last.round - 1
