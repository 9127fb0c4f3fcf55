"""Who may send how much at once, and who is too slow to share a read with."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import pytest

from mlplatform.replication.pace import (
    CONCURRENCY_MAX,
    HALVE_EVERY_SECONDS,
    RAISE_AFTER,
    Pace,
    Pacing,
    laggard,
)

MB = 1_000_000


@dataclass
class Clock:
    seconds: float = 100.0

    def __call__(self) -> float:
        return self.seconds


# --- the limit -----------------------------------------------------------------------------------


def test_each_complaint_halves_down_to_one() -> None:
    clock = Clock()
    pace = Pace(clock, limit=8)
    limits = []
    with pace.turn(), pace.turn(), pace.turn(), pace.turn(), pace.turn(), pace.turn(), pace.turn():
        for _ in range(5):
            pace.throttled()
            limits.append(pace.limit)
            clock.seconds += HALVE_EVERY_SECONDS
    assert limits == [3, 1, 1, 1, 1]


def test_what_was_under_way_together_complains_as_one() -> None:
    pace = Pace(Clock(), limit=8)
    with pace.turn(), pace.turn(), pace.turn(), pace.turn():
        for _ in range(4):
            pace.throttled()
        assert pace.limit == 2


def test_a_complaint_while_nothing_is_sent_halves_the_limit_itself() -> None:
    pace = Pace(Clock(), limit=8)
    pace.throttled()
    assert pace.limit == 4


def test_calm_raises_the_limit_by_one_at_a_time() -> None:
    pace = Pace(Clock(), limit=2)
    for _ in range(RAISE_AFTER - 1):
        pace.sent(1)
    assert pace.limit == 2
    pace.sent(1)
    assert pace.limit == 3
    for _ in range(RAISE_AFTER * CONCURRENCY_MAX):
        pace.sent(1)
    assert pace.limit == CONCURRENCY_MAX


def test_a_complaint_starts_the_calm_anew() -> None:
    pace = Pace(Clock(), limit=2)
    for _ in range(RAISE_AFTER - 1):
        pace.sent(1)
    pace.throttled()
    pace.sent(1)
    assert pace.limit == 1


def test_turns_wait_for_each_other_and_come_back_after_failures() -> None:
    pace = Pace(Clock(), limit=3)
    running, most, failed = 0, 0, 0
    lock = threading.Lock()

    def work(number: int) -> None:
        nonlocal running, most, failed
        try:
            with pace.turn(1):
                with lock:
                    running += 1
                    most = max(most, running)
                if number % 3 == 0:
                    pace.throttled()
                with lock:
                    running -= 1
                if number % 2:
                    raise ValueError
                pace.sent(1)
        except ValueError:
            with lock:
                failed += 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(60)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
        assert not thread.is_alive()
    assert most <= 3
    assert failed == 30


# --- the rate ------------------------------------------------------------------------------------


def test_nothing_is_known_before_the_first_send() -> None:
    assert Pace(Clock()).rate_bytes_per_second() is None


def test_time_without_work_does_not_count() -> None:
    clock = Clock()
    pace = Pace(clock)
    for _ in range(3):
        with pace.turn(10 * MB):
            clock.seconds += 1
            pace.sent(10 * MB)
        clock.seconds += 9  # waits for a buffer that a slower one holds
    assert pace.rate_bytes_per_second() == 10 * MB


def test_sends_at_once_share_the_time() -> None:
    clock = Clock()
    pace = Pace(clock)
    with pace.turn(10 * MB), pace.turn(10 * MB):
        clock.seconds += 2
        pace.sent(10 * MB)
        pace.sent(10 * MB)
    assert pace.rate_bytes_per_second() == 10 * MB


def test_what_is_under_way_counts_as_sent_so_nobody_is_judged_too_early() -> None:
    clock = Clock()
    pace = Pace(clock)
    with pace.turn(10 * MB):
        clock.seconds += 1
        assert pace.rate_bytes_per_second() == 10 * MB
        clock.seconds += 9
        assert pace.rate_bytes_per_second() == 1 * MB


def test_a_send_that_failed_took_its_time() -> None:
    clock = Clock()
    pace = Pace(clock)

    def fail() -> None:
        with pace.turn(10 * MB):
            clock.seconds += 1
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert pace.rate_bytes_per_second() == 0


# --- the laggard ---------------------------------------------------------------------------------

BUDGET = 96 * MB


@pytest.mark.parametrize(
    ("why", "targets", "expected"),
    [
        ("alone, it sets the pace", {"a": (96, 1)}, None),
        ("holds all, ten times slower", {"a": (96, 1), "b": (0, 10)}, "a"),
        ("a little slower sets the pace", {"a": (96, 6), "b": (0, 10)}, None),
        ("exactly half is not below half", {"a": (96, 5), "b": (0, 10)}, None),
        ("half the budget is not more than half", {"a": (48, 1), "b": (0, 10)}, None),
        ("the other is busy too, nobody starves", {"a": (96, 1), "b": (50, 10)}, None),
        ("the other has a tenth left, nobody starves", {"a": (96, 1), "b": (9.6, 10)}, None),
        ("nothing is known of the fast one", {"a": (96, 1), "b": (0, None)}, None),
        ("nothing is known of the slow one", {"a": (96, None), "b": (0, 10)}, None),
        ("it has sent nothing at all", {"a": (96, 0), "b": (0, 10)}, "a"),
        ("two slow ones, the fuller first", {"a": (80, 1), "b": (96, 1), "c": (0, 10)}, "b"),
        ("two slow ones, the other next", {"a": (80, 1), "c": (0, 10)}, "a"),
        ("slow but empty", {"a": (0, 1), "b": (0, 10)}, None),
        ("no targets", {}, None),
    ],
)
def test_laggard(
    why: str, targets: dict[str, tuple[float, float | None]], expected: str | None
) -> None:
    pacing = [
        Pacing(region, int(queued * MB), None if rate is None else rate * MB)
        for region, (queued, rate) in targets.items()
    ]
    assert laggard(pacing, budget_bytes=BUDGET) == expected
