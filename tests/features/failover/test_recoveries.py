"""What the journal tells of operations that were: what they moved, whether they passed, and which
weights are ours."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from random import Random
from typing import Any

import pytest

from mlplatform.control.journal import Journal, Kind, Stream
from mlplatform.core.plan import Action, Outcome, Plan, Result
from mlplatform.failover.decision.case import weights_key
from mlplatform.failover.decision.seen import Mode
from mlplatform.failover.history.recoveries import (
    Memory,
    Operation,
    operation_of,
    recoveries_of,
    written_by,
)
from mlplatform.failover.history.timeline import clocks_of, markdown
from tests.features.control.members import Members, lost
from tests.features.control.weather import START, VirtualClock

HALF = {"us": 50, "eu": 50}
AWAY = {"us": 0, "eu": 100}
TRICKLE = {"us": 1, "eu": 99}


class Book:
    """A journal, and operations written into it as controllers do."""

    def __init__(self) -> None:
        self.members = Members()
        self.time = VirtualClock()
        self.journal = Journal(self.members.control(self.time), self.time, Random(1), "host:1")
        self.memory = Memory(self.journal)

    def begin(
        self, *shifts: tuple[Mapping[str, int], Mapping[str, int]], fence: int = 1, **said: Any
    ) -> Stream:
        plan = Plan(feature="failover", actions=tuple(shift(b, a, **said) for b, a in shifts))
        return self.journal.start(
            self.journal.new_operation("failover"), plan, lease="failover/api", fence=fence
        )

    def only(self) -> Operation:
        (operation,) = self.memory.operations(self.time.now())["api"]
        return operation


def shift(
    before: Mapping[str, int],
    after: Mapping[str, int],
    *,
    mode: Mode = Mode.UNPLANNED,
    source: str | None = "us",
    sick_seconds: float | None = None,
) -> Action:
    return Action(
        key=f"failover/api/shift/{dict(before)}>{dict(after)}",
        kind="shift",
        subject="api",
        region="us",
        reason="us is dead",
        parameters={
            "mode": mode.value,
            "source": source,
            "before": dict(before),
            "after": dict(after),
        },
        figures={"sick_seconds": sick_seconds},
    )


def test_what_was_to_come_with_the_weight_is_remembered() -> None:
    book = Book()
    first, then = shift(HALF, AWAY), shift(AWAY, {"us": 0, "eu": 50, "ap": 50}, source="eu")
    first = first.model_copy(
        update={"figures": {"load_before": {"eu": 40.0}, "load_moved": {"eu": 60.0}}}
    )
    then = then.model_copy(
        update={"figures": {"load_before": {"eu": 90.0}, "load_moved": {"ap": 50.0}}}
    )
    plan = Plan(feature="failover", actions=(first, then))
    name = book.journal.new_operation("failover")
    stream = book.journal.start(name, plan, lease="failover/api", fence=1)
    intent(stream, 0)
    outcome(stream, 0)
    (left,) = recoveries_of(book.only(), START)
    assert (left.had, left.brought) == ({"eu": 40.0}, {"eu": 60.0})
    intent(stream, 1)
    outcome(stream, 1)
    us, eu = recoveries_of(book.only(), START)
    assert (us.brought, eu.brought) == ({"eu": 60.0}, {"ap": 50.0})


def intent(stream: Stream, *numbers: int, fence: int = 1) -> None:
    keys = [stream.plan.actions[n].key for n in numbers]
    stream.append(Kind.INTENT, {"actions": keys, "batch": ""}, fence=fence)


def outcome(
    stream: Stream, number: int, result: Result = Result.DONE, *, fence: int = 1, **measured: Any
) -> None:
    told = Outcome(action=stream.plan.actions[number].key, result=result, measured=measured)
    stream.append(Kind.OUTCOME, told.model_dump(mode="json"), fence=fence)


def close(stream: Stream, *, fence: int = 1) -> None:
    stream.append(Kind.CLOSED, {"text": "every action has its outcome"}, fence=fence)


@pytest.fixture
def book() -> Book:
    return Book()


def test_a_recovery_that_is_over(book: Book) -> None:
    stream = book.begin((HALF, AWAY))
    book.time.sleep(5)
    intent(stream, 0)
    outcome(stream, 0)
    close(stream)
    book.time.sleep(60)
    (found,) = recoveries_of(book.only(), book.time.now())
    assert (found.mode, found.source, found.targets) == (Mode.UNPLANNED, "us", ("eu",))
    assert (found.moved, found.passed) == (50, True)
    assert (found.began_seconds_ago, found.ended_seconds_ago) == (65, 60)


def test_one_that_is_open_and_has_moved_nothing_yet(book: Book) -> None:
    intent(book.begin((HALF, AWAY)), 0)
    (found,) = recoveries_of(book.only(), book.time.now())
    assert (found.ended_seconds_ago, found.moved, found.passed) == (None, 0, False)


def test_a_failback_counts_what_its_targets_have_more(book: Book) -> None:
    steps = ((AWAY, TRICKLE), (TRICKLE, HALF))
    stream = book.begin(*steps, mode=Mode.FAILBACK, source=None)
    outcome(stream, 0)
    assert recoveries_of(book.only(), START)[0].moved == 1
    outcome(stream, 1)
    assert recoveries_of(book.only(), START)[0].moved == 50


def test_a_failback_that_was_returned_moved_nothing(book: Book) -> None:
    stream = book.begin((AWAY, TRICKLE), mode=Mode.FAILBACK, source=None)
    outcome(stream, 0)
    back = Plan(
        feature="failover", actions=(shift(TRICKLE, AWAY, mode=Mode.FAILBACK, source=None),)
    )
    stream.append(Kind.REVISION, {"plan": back.model_dump(mode="json")}, fence=1)
    outcome(stream, 0)
    (found,) = recoveries_of(book.only(), START)
    assert (found.moved, found.targets) == (0, ("us",))


def test_a_further_fault_in_the_same_operation_is_a_recovery_too(book: Book) -> None:
    stream = book.begin((HALF, AWAY))
    outcome(stream, 0)
    further = Plan(
        feature="failover",
        actions=(shift(AWAY, {"us": 0, "eu": 40, "ap": 60}, source="eu"),),
    )
    stream.append(Kind.REVISION, {"plan": further.model_dump(mode="json")}, fence=1)
    outcome(stream, 0)
    first, second = recoveries_of(book.only(), START)
    assert (first.source, first.moved, first.targets) == ("us", 50, ("eu",))
    assert (second.source, second.moved, second.targets) == ("eu", 60, ("ap",))
    assert first.operation == second.operation


def test_a_drill_that_ends_in_a_fault_is_a_drill_and_a_recovery(book: Book) -> None:
    """What the fault took counts towards what a cascade may take."""
    stream = book.begin((HALF, TRICKLE), (TRICKLE, HALF), mode=Mode.DRILL)
    outcome(stream, 0)
    outcome(stream, 1)
    further = Plan(feature="failover", actions=(shift(HALF, AWAY),))
    stream.append(Kind.REVISION, {"plan": further.model_dump(mode="json")}, fence=1)
    outcome(stream, 0)
    drill, fault = recoveries_of(book.only(), START)
    assert (drill.mode, fault.mode, fault.source, fault.moved) == (
        Mode.DRILL,
        Mode.UNPLANNED,
        "us",
        50,
    )


def test_one_that_failed_has_not_passed(book: Book) -> None:
    stream = book.begin((HALF, AWAY))
    outcome(stream, 0, Result.FAILED)
    close(stream)
    (found,) = recoveries_of(book.only(), START)
    assert (found.moved, found.passed) == (0, False)


@pytest.mark.parametrize("told", [None, Result.UNKNOWN])
def test_what_was_begun_and_is_there_has_moved(book: Book, told: Result | None) -> None:
    stream = book.begin((HALF, AWAY))
    intent(stream, 0)
    if told is not None:
        outcome(stream, 0, told)
    (found,) = recoveries_of(book.only(), START, held=AWAY)
    assert (found.moved, found.targets, found.passed) == (50, ("eu",), False)
    assert recoveries_of(book.only(), START, held=HALF)[0].moved == 0


def test_ages_are_never_negative(book: Book) -> None:
    close(book.begin((HALF, AWAY)))
    (found,) = recoveries_of(book.only(), START - timedelta(hours=1))
    assert (found.began_seconds_ago, found.ended_seconds_ago) == (0, 0)


def test_operations_stand_in_the_order_of_their_fences_whatever_clocks_say(book: Book) -> None:
    close(book.begin((HALF, AWAY), fence=2), fence=2)
    book.time.seconds -= 3600
    close(book.begin((AWAY, HALF), fence=3), fence=3)
    book.time.seconds += 3600
    found = book.memory.operations(book.time.now())["api"]
    assert [operation.entries[0].fence for operation in found] == [2, 3]


def test_operations_of_others_and_without_a_plan_are_passed_over(book: Book) -> None:
    other = Plan(feature="replicate", actions=(shift(HALF, AWAY),))
    book.journal.start(book.journal.new_operation("replicate"), other)
    empty = Plan(feature="failover")
    assert operation_of(book.journal.start(book.journal.new_operation("failover"), empty)) is None
    assert book.memory.operations(book.time.now()) == {}


def test_what_is_closed_is_read_once(book: Book) -> None:
    close(book.begin((HALF, AWAY)))
    first = book.only()
    assert book.only() is first
    with lost(book.members, 0):
        assert book.only() is first


@pytest.mark.parametrize(
    ("told", "held", "ours"),
    [
        pytest.param("done", HALF, AWAY, id="done: whatever is there now"),
        pytest.param("begun", AWAY, AWAY, id="begun, and there: its writer died before it said so"),
        pytest.param("begun", HALF, None, id="begun, and not there"),
        pytest.param("failed", AWAY, None, id="failed"),
        pytest.param("unknown", AWAY, AWAY, id="nobody could say, and it is there"),
        pytest.param("unknown", HALF, None, id="nobody could say, and it is not there"),
        pytest.param("planned", AWAY, None, id="only planned"),
        pytest.param("done already", HALF, AWAY, id="found done after a crash: whatever is there"),
        pytest.param("given up", HALF, None, id="found not done after a crash, and given up"),
        pytest.param("given up", AWAY, None, id="given up, and set by somebody since"),
    ],
)
def test_which_weights_are_ours(
    book: Book, told: str, held: Mapping[str, int], ours: Mapping[str, int] | None
) -> None:
    stream = book.begin((HALF, AWAY))
    if told != "planned":
        intent(stream, 0)
    if told == "done":
        outcome(stream, 0)
    elif told == "failed":
        outcome(stream, 0, Result.FAILED)
    elif told == "unknown":
        outcome(stream, 0, Result.UNKNOWN)
    elif told == "done already":
        outcome(stream, 0, Result.NOTHING, basis={"route/api": weights_key(AWAY)})
    elif told == "given up":
        outcome(stream, 0, Result.NOTHING, basis={"route/api": weights_key(HALF)})
    assert written_by([book.only()], held) == ours


def test_the_newest_by_the_fence_is_ours(book: Book) -> None:
    first = book.begin((HALF, AWAY), fence=7)
    outcome(first, 0, fence=7)
    close(first, fence=7)
    second = book.begin((AWAY, HALF), fence=8)
    outcome(second, 0, fence=8)
    assert written_by(book.memory.operations(book.time.now())["api"], AWAY) == HALF


def test_clocks_and_the_page_for_the_post_mortem(book: Book) -> None:
    stream = book.begin((HALF, AWAY), sick_seconds=31.5)
    book.time.sleep(1)
    outcome(stream, 0, committed_seconds=0.08, authoritative_seconds=0.11, ttl_seconds=None)
    operation = book.only()
    clocks = clocks_of(operation)
    assert clocks.told == (
        "decided 12:00:00Z, 31.5 s after it began; authoritative +0.11 s; observed unknown"
    )
    page = markdown(operation)
    assert "**not closed yet**" in page
    assert "| authoritative | +0.11 s |" in page
    assert "| observed | unknown |" in page
    assert "| 12:00:01 | host:1 | shift us: **done**,  |" in page
