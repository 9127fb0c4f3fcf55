"""What is remembered of the journal: as much as is needed, read side by side, and no more."""

from __future__ import annotations

import threading
from datetime import timedelta

from mlplatform.control.executors import DaemonThreads
from mlplatform.control.journal import Journal, Kind, Stream
from mlplatform.core.plan import Action, Plan
from mlplatform.failover.history.recoveries import LOOK_BACK, Memory

from .estate import World


def a_move(journal: Journal, route: str, *, over: bool = True) -> str:
    operation = journal.new_operation("failover")
    shift = Action(
        key=f"failover/{route}/shift", kind="shift", subject=route, region="us", reason="x"
    )
    stream = journal.start(operation, Plan(feature="failover", actions=(shift,)), fence=1)
    if over:
        stream.append(Kind.CLOSED, {"text": "over"}, fence=1)
    return operation


class Counted:
    """A journal that tells which streams were opened."""

    def __init__(self, journal: Journal, together: threading.Barrier | None = None) -> None:
        self._journal, self._together = journal, together
        self.operations = journal.operations
        self.opened: list[str] = []

    def open(self, operation: str) -> Stream:
        self.opened.append(operation)
        if self._together is not None:
            self._together.wait()
        return self._journal.open(operation)


def test_what_is_over_is_read_once_and_what_is_open_elsewhere_not_again() -> None:
    world = World()
    journal = world.estate().journal
    over, here, there = (
        a_move(journal, "api"),
        a_move(journal, "api", over=False),
        a_move(journal, "web", over=False),
    )
    counted = Counted(journal)
    memory = Memory(counted)  # type: ignore[arg-type]
    assert set(memory.operations(world.time.now())) == {"api", "web"}
    assert sorted(counted.opened) == sorted([over, here, there])
    counted.opened.clear()
    found = memory.operations(world.time.now(), ["api"])
    assert {each.name for each in found["api"]} == {over, here}
    assert counted.opened == [here]


def test_what_was_imported_is_seen_by_whoever_runs_already() -> None:
    world = World()
    estate, elsewhere = world.estate(), World(time=world.time).estate("away@host:2")
    a_move(estate.journal, "api")
    away = a_move(elsewhere.journal, "api")
    world.time.sleep(9 * 3600)  # so long were the control stores gone
    assert len(estate.memory.operations(world.time.now())["api"]) == 1
    assert list(estate.journal.import_from(elsewhere.journal)) == [(away, None)]
    world.time.sleep(900)
    assert away in {each.name for each in estate.memory.operations(world.time.now())["api"]}


def test_what_is_long_over_is_forgotten() -> None:
    world = World()
    estate = world.estate()
    a_move(estate.journal, "api")
    left = a_move(estate.journal, "api", over=False)
    estate.memory.operations(world.time.now())
    world.time.sleep((LOOK_BACK + timedelta(days=1)).total_seconds())
    found = estate.memory.operations(world.time.now())["api"]
    assert [each.name for each in found] == [left], "what is open is never forgotten"
    assert not estate.memory._closed


def test_streams_are_read_side_by_side() -> None:
    world = World()
    journal = world.estate().journal
    for _ in range(8):
        a_move(journal, "api")
    counted = Counted(journal, threading.Barrier(8, timeout=30))
    memory = Memory(counted, DaemonThreads())  # type: ignore[arg-type]
    assert len(memory.operations(world.time.now())["api"]) == 8
