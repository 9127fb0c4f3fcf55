"""The retry policy, as a table: what happened, what became of it, how long it took."""

import logging
import subprocess
import sys
from contextlib import suppress
from random import Random

import pytest

from mlplatform.control import metrics
from mlplatform.control.retry import Retry
from mlplatform.core.errors import (
    ConditionFailed,
    ContainerMissing,
    DeadlineExceeded,
    Denied,
    DigestMismatch,
    Fenced,
    IntegrityError,
    Interrupted,
    MlplatformError,
    NotFound,
    StoreFull,
    Throttled,
    Unavailable,
    Unsupported,
)
from tests.features.control.weather import VirtualClock


class Script:
    """A call that raises what it is told, one after the other, then answers."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return "answer"


class Ceiling(Random):
    """Chance at its worst: full jitter draws the whole of it."""

    def uniform(self, a: float, b: float) -> float:
        return b


def policy(clock: VirtualClock, **limits: float) -> Retry:
    settings = {"base_seconds": 1.0, "cap_seconds": 8.0, "deadline_seconds": 1000.0} | limits
    return Retry(
        clock,
        Ceiling(),
        attempts=6,
        base_seconds=settings["base_seconds"],
        cap_seconds=settings["cap_seconds"],
        deadline_seconds=settings["deadline_seconds"],
    )


RETRIED = [
    Unavailable("timed out"),
    Throttled("slow down"),
    DigestMismatch("other bytes arrived"),
]
FINAL = [
    NotFound("none"),
    ContainerMissing("no bucket"),
    ConditionFailed("exists"),
    Denied("no", right="put"),
    StoreFull("full"),
    Unsupported("cannot"),
    IntegrityError("foreign"),
    Fenced("newer writer"),
    Interrupted("stop"),
]


@pytest.mark.parametrize("error", RETRIED, ids=lambda e: type(e).__name__)
def test_what_may_succeed_is_tried_again(error: MlplatformError) -> None:
    call = Script(error, error)
    assert policy(VirtualClock()).call(call, what="put k") == "answer"
    assert call.calls == 3


@pytest.mark.parametrize("error", FINAL, ids=lambda e: type(e).__name__)
def test_what_cannot_succeed_is_not(error: MlplatformError) -> None:
    call = Script(error)
    clock = VirtualClock()
    with pytest.raises(type(error)) as raised:
        policy(clock).call(call, what="put k")
    assert raised.value is error
    assert (call.calls, clock.slept) == (1, [])


def test_an_error_that_is_not_ours_is_a_bug_and_passes() -> None:
    call = Script(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        policy(VirtualClock()).call(call, what="put k")
    assert call.calls == 1


def test_waits_double_up_to_the_cap_and_the_last_error_is_raised() -> None:
    errors = [Unavailable(f"time-out {n}") for n in range(6)]
    clock = VirtualClock()
    with pytest.raises(Unavailable, match="time-out 5"):
        policy(clock).call(Script(*errors), what="put k")
    assert clock.slept == [1.0, 2.0, 4.0, 8.0, 8.0]


def test_jitter_is_full() -> None:
    clock = VirtualClock()
    retry = Retry(
        clock, Random(1), attempts=500, base_seconds=4, cap_seconds=4, deadline_seconds=1e9
    )
    with pytest.raises(Unavailable):
        retry.call(Script(*[Unavailable("no")] * 500), what="put k")
    assert all(0 <= seconds <= 4 for seconds in clock.slept)
    assert min(clock.slept) < 0.1
    assert max(clock.slept) > 3.9
    assert 1.8 < sum(clock.slept) / len(clock.slept) < 2.2


def test_the_same_seed_waits_the_same() -> None:
    def waits(seed: int) -> list[float]:
        clock = VirtualClock()
        Retry(clock, Random(seed)).call(Script(*[Unavailable("no")] * 4), what="get k")
        return clock.slept

    assert waits(7) == waits(7) != waits(8)


def test_retry_after_is_honoured_and_spread() -> None:
    clock = VirtualClock()
    call = Script(Throttled("slow down", retry_after_seconds=30), Unavailable("no"))
    policy(clock).call(call, what="put k")
    assert clock.slept == [31.0, 2.0]


def test_a_wait_that_would_pass_the_deadline_is_not_begun() -> None:
    clock = VirtualClock()
    call = Script(Throttled("slow down", retry_after_seconds=120))
    with pytest.raises(DeadlineExceeded, match=r"put k: not done within 60 s.*slow down") as raised:
        policy(clock, deadline_seconds=60).call(call, what="put k")
    assert (call.calls, clock.slept) == (1, [])
    assert isinstance(raised.value.__cause__, Throttled)
    assert raised.value.exit_code == 6
    assert raised.value.hint


def test_the_deadline_counts_the_time_of_the_calls_too() -> None:
    clock = VirtualClock()

    def slow() -> None:
        clock.seconds += 25
        raise Unavailable("timed out")

    with pytest.raises(DeadlineExceeded):
        policy(clock, deadline_seconds=60).call(slow, what="put k")
    assert clock.seconds <= 25 + 1 + 25 + 2 + 25


def test_an_answer_after_the_deadline_is_an_answer() -> None:
    clock = VirtualClock()

    def late() -> str:
        clock.seconds += 100
        return "answer"

    assert policy(clock, deadline_seconds=60).call(late, what="get k") == "answer"


def test_an_operator_who_stops_it_is_heard_while_it_waits() -> None:
    clock = VirtualClock()
    retry = Retry(
        clock,
        Ceiling(),
        base_seconds=100,
        cap_seconds=100,
        stop=lambda: clock.seconds >= 3,
    )
    call = Script(*[Unavailable("no")] * 5)
    with pytest.raises(Interrupted, match="put k"):
        retry.call(call, what="put k")
    assert call.calls == 1
    assert 3 <= clock.seconds < 4


def test_a_stop_that_never_comes_only_slices_the_wait() -> None:
    clock = VirtualClock()
    retry = Retry(clock, Ceiling(), base_seconds=1.1, stop=lambda: False)
    assert retry.call(Script(Unavailable("no")), what="put k") == "answer"
    assert sum(clock.slept) == pytest.approx(1.1)


def test_each_attempt_is_a_log_line_with_fields(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "mlplatform.control.retry")
    policy(VirtualClock()).call(Script(Unavailable("timed out")), what="stat memory://a/k")
    first, second = caplog.records
    assert first.levelno == logging.INFO
    assert "stat memory://a/k: attempt 1 retried: timed out" in first.getMessage()
    assert (first.__dict__["what"], first.__dict__["attempt"]) == ("stat memory://a/k", 1)
    assert (first.__dict__["wait_seconds"], first.__dict__["error"]) == (1.0, "Unavailable")
    assert (second.__dict__["attempt"], second.__dict__["error"]) == (2, None)


@pytest.mark.parametrize(
    ("errors", "counted"),
    [
        ((), {"ok": 1}),
        ((Unavailable("no"),), {"retried": 1, "ok": 1}),
        ((Denied("no"),), {"failed": 1}),
        ((Unavailable("no"), Denied("no")), {"retried": 1, "failed": 1}),
        ((Unavailable("no"),) * 6, {"retried": 5, "failed": 1}),
        ((Throttled("no", retry_after_seconds=9e9),), {"deadline": 1}),
    ],
)
def test_each_attempt_is_counted(errors: tuple[Exception, ...], counted: dict[str, int]) -> None:
    def counts() -> dict[str, float]:
        results = ("ok", "retried", "failed", "deadline")
        return {r: metrics.attempts.value(verb="counted", result=r) for r in results}

    before = counts()
    with suppress(MlplatformError):
        policy(VirtualClock()).call(Script(*errors), what="counted k")
    grown = {r: n - before[r] for r, n in counts().items() if n > before[r]}
    assert grown == counted


def test_prometheus_reads_what_was_counted() -> None:
    from prometheus_client import CollectorRegistry, generate_latest

    registry = CollectorRegistry()
    metrics.install(registry)
    policy(VirtualClock()).call(Script(), what="exposed k")
    text = generate_latest(registry).decode()
    assert 'mlplatform_attempts_total{result="ok",verb="exposed"} 1.0' in text
    assert "# TYPE mlplatform_settled_total counter" in text


def test_counting_imports_no_prometheus() -> None:
    code = "import sys, mlplatform.control.retry; sys.exit('prometheus_client' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
