"""An actuator under the policy: every verb in bad weather, and every lost answer settled."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random
from typing import TypeVar

import pytest

from mlplatform.adapters.memory_traffic import MemoryTraffic
from mlplatform.control import metrics
from mlplatform.control.retry import Retry
from mlplatform.control.retry_traffic import RetryingTraffic
from mlplatform.core.errors import (
    ConditionFailed,
    Denied,
    Fenced,
    NotFound,
    Throttled,
    Unavailable,
    UsageError,
)
from mlplatform.ports.traffic import RouteState, TrafficFeatures, Weights

from .weather import Fault, VirtualClock, answer_lost, lost

T = TypeVar("T")

OLD = {"us": 50, "eu": 50}
OURS = {"us": 0, "eu": 100}
THEIRS = {"us": 100, "eu": 0}
EPOCH = 5


class FaultyTraffic:
    """An actuator in bad weather: `faults[verb]` holds what happens to its next calls."""

    def __init__(self, traffic: MemoryTraffic) -> None:
        self.traffic = traffic
        self.faults: dict[str, list[Fault | None]] = {}
        self.calls: list[str] = []
        self.after_first_write: Callable[[], object] = lambda: None

    @property
    def url(self) -> str:
        return self.traffic.url

    @property
    def features(self) -> TrafficFeatures:
        return self.traffic.features

    def read(self) -> RouteState:
        return self._do("read", self.traffic.read)

    def write(
        self, weights: Weights, *, epoch: int, writer: str, expected: RouteState
    ) -> RouteState:
        first = "write" not in self.calls
        try:
            return self._do(
                "write",
                lambda: self.traffic.write(weights, epoch=epoch, writer=writer, expected=expected),
            )
        finally:
            if first:
                self.after_first_write()

    def in_force(self, state: RouteState) -> bool:
        return self._do("in_force", lambda: self.traffic.in_force(state))

    def _do(self, verb: str, work: Callable[[], T]) -> T:
        self.calls.append(verb)
        waiting = self.faults.get(verb)
        fault = waiting.pop(0) if waiting else None
        if fault is not None and not fault.after:
            raise fault.error
        result = work()
        if fault is not None:
            raise fault.error
        return result


@dataclass
class Ground:
    inner: MemoryTraffic
    faulty: FaultyTraffic
    traffic: RetryingTraffic
    clock: VirtualClock
    seen: RouteState
    """The route as it was claimed, under our epoch."""

    def write(self, weights: Weights = OURS) -> RouteState:
        return self.traffic.write(weights, epoch=EPOCH, writer="us", expected=self.seen)

    def another_writes(self, weights: Weights, epoch: int, writer: str = "them") -> RouteState:
        held = self.inner.read()
        return self.inner.write(weights, epoch=epoch, writer=writer, expected=held)


@pytest.fixture
def ground() -> Ground:
    clock = VirtualClock()
    inner = MemoryTraffic(["us", "eu"], weights=OLD, clock=clock)
    seen = inner.write(OLD, epoch=EPOCH, writer="us", expected=inner.read())
    faulty = FaultyTraffic(inner)
    return Ground(inner, faulty, RetryingTraffic(faulty, Retry(clock, Random(0))), clock, seen)


def test_it_says_what_the_actuator_says(ground: Ground) -> None:
    assert ground.traffic.url == "memory://memory"
    assert ground.traffic.features is ground.inner.features


@pytest.mark.parametrize("fault", [lost(), answer_lost()], ids=["lost", "answer lost"])
@pytest.mark.parametrize("verb", ["read", "in_force"])
def test_what_changes_nothing_is_tried_again(ground: Ground, verb: str, fault: Fault) -> None:
    ground.faulty.faults[verb] = [fault, fault]
    calls: dict[str, Callable[[], object]] = {
        "read": ground.traffic.read,
        "in_force": lambda: ground.traffic.in_force(ground.seen),
    }
    before = metrics.attempts.value(verb=verb, result="retried")
    assert calls[verb]()
    assert ground.faulty.calls == [verb] * 3
    assert len(ground.clock.slept) == 2
    assert metrics.attempts.value(verb=verb, result="retried") == before + 2


# What the weather did, who wrote meanwhile → what it amounts to.


@dataclass(frozen=True)
class Case:
    name: str
    faults: tuple[Fault | None, ...]
    meanwhile: Callable[[Ground], object] | None
    """What somebody else does right after our first attempt."""
    result: type[Exception] | None
    weights: Weights
    epoch: int
    writes: int
    settled: str | None = None
    """How it was counted."""


def newer(weights: Weights) -> Callable[[Ground], object]:
    return lambda ground: ground.another_writes(weights, EPOCH + 1)


def ours_by_another(ground: Ground) -> object:
    return ground.another_writes(OURS, EPOCH)


def rival(ground: Ground) -> object:
    return ground.another_writes(THEIRS, EPOCH)


def by_hand(ground: Ground) -> object:
    ground.inner.change_by_hand(THEIRS)
    return None


AWAY = Fault(Throttled("slow down"))

CASES = [
    Case("fair weather", (), None, None, OURS, 5, 1),
    Case("the call was lost", (lost(),), None, None, OURS, 5, 2, "undone"),
    Case("the answer was lost", (answer_lost(),), None, None, OURS, 5, 1, "ours"),
    Case("lost, then its answer", (lost(), answer_lost()), None, None, OURS, 5, 2, "ours"),
    Case("sent away", (AWAY,), None, None, OURS, 5, 2),
    Case(
        "sent away although it worked",
        (Fault(Throttled("slow"), after=True),),
        None,
        None,
        OURS,
        5,
        2,
        "ours",
    ),
    Case("lost, and deposed", (lost(),), newer(OLD), Fenced, OLD, 6, 1, "another"),
    Case("answer lost, and deposed", (answer_lost(),), newer(OURS), Fenced, OURS, 6, 1, "another"),
    Case("sent away, and deposed", (AWAY,), newer(OLD), Fenced, OLD, 6, 2),
    Case("lost, a rival came", (lost(),), rival, ConditionFailed, THEIRS, 5, 1, "another"),
    Case("lost, a hand came", (lost(),), by_hand, ConditionFailed, THEIRS, 5, 1, "another"),
    Case("answer lost, a hand came", (answer_lost(),), by_hand, ConditionFailed, THEIRS, 5, 1),
    Case("sent away, a rival came", (AWAY,), rival, ConditionFailed, THEIRS, 5, 2, "another"),
    Case(
        "lost, another did the same",
        (lost(),),
        ours_by_another,
        ConditionFailed,
        OURS,
        5,
        1,
        "another",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_write(ground: Ground, case: Case, caplog: pytest.LogCaptureFixture) -> None:
    ground.faulty.faults["write"] = list(case.faults)
    if case.meanwhile is not None:
        meanwhile = case.meanwhile
        ground.faulty.after_first_write = lambda: meanwhile(ground)
    counted = metrics.settled.value(verb="write", answer=case.settled or "ours")
    with caplog.at_level(logging.INFO, "mlplatform"):
        if case.result:
            with pytest.raises(case.result):
                ground.write()
        else:
            state = ground.write()
            assert state == ground.inner.read()
    held = ground.inner.read()
    assert (held.weights, held.epoch) == (case.weights, case.epoch)
    assert ground.faulty.calls.count("write") == case.writes
    if case.settled:
        assert metrics.settled.value(verb="write", answer=case.settled) == counted + 1
    if case.faults:
        assert "write memory://memory: attempt 1 retried" in caplog.text


def test_an_empty_answer_settles_nothing(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    """An API that is ill lists nothing, with 200, where our own weights are."""
    ground.faulty.faults["write"] = [answer_lost()]
    read, answers = ground.inner.read, [replace(ground.seen, weights={}, epoch=0, tag="none")]
    monkeypatch.setattr(ground.inner, "read", lambda: answers.pop() if answers else read())
    assert dict(ground.write().weights) == OURS
    assert ground.faulty.calls.count("write") == 1


def test_a_refusal_that_is_in_no_doubt_is_not_read_back(ground: Ground) -> None:
    ground.another_writes(OLD, EPOCH + 1)
    with pytest.raises(Fenced):
        ground.write()
    assert ground.faulty.calls == ["write"]


def test_a_write_without_effect_is_done_all_the_same(ground: Ground) -> None:
    """The daily one is there to prove that we may write: what is there already proves nothing."""
    ground.faulty.faults["write"] = [lost(), Fault(Denied("not allowed any more", right="put"))]
    with pytest.raises(Denied):
        ground.write(OLD)


@pytest.mark.parametrize("error", [Denied("no"), NotFound("gone"), UsageError("no")], ids=repr)
def test_what_cannot_succeed_is_asked_once(ground: Ground, error: Exception) -> None:
    ground.faulty.faults["write"] = [Fault(error)]
    with pytest.raises(type(error)):
        ground.write()
    assert ground.faulty.calls == ["write"]


def test_a_doubt_that_cannot_be_settled_is_raised_as_such(ground: Ground) -> None:
    ground.faulty.faults = {"write": [answer_lost()], "read": [lost()] * 99}
    with pytest.raises(Unavailable):
        ground.write()
    assert ground.faulty.calls.count("write") == 1
    assert ground.faulty.calls.count("read") > 1


def test_a_route_that_vanished(ground: Ground) -> None:
    ground.faulty.faults["write"] = [lost()]
    ground.faulty.after_first_write = lambda: ground.inner.restore(None)
    with pytest.raises(NotFound):
        ground.write()
