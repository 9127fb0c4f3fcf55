"""The controller that goes round: what it does by itself, what it tells, how often, and that
nothing ends it in silence."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from mlplatform.adapters.memory_traffic import MemoryTraffic
from mlplatform.control.executors import DaemonThreads
from mlplatform.control.notices import Notices
from mlplatform.control.two_paths import TwoPaths
from mlplatform.core.errors import Denied, MlplatformError, StoreError, Unavailable
from mlplatform.core.seen import Unknown
from mlplatform.failover import operations, watch
from mlplatform.failover.decision.seen import Mode, Request
from mlplatform.failover.effects import Estate
from mlplatform.failover.watch import Watch
from mlplatform.ports.notify import Notice, Severity
from mlplatform.ports.traffic import RouteState, Traffic, Weights
from tests.features.control.members import Members, lost

from .estate import World
from .test_operations import Crash, drilled


class Board(Notices):
    """Remembers what was told."""

    def __init__(self) -> None:
        self.told: list[Notice] = []

    def tell(self, notice: Notice) -> None:
        self.told.append(notice)

    def pages(self, thread: str = "failover/api") -> list[str]:
        """Titles of one thread, in order; `over` where it was resolved."""
        return ["over" if each.over else each.title for each in self.told if each.thread == thread]


def auto(**settings: object) -> World:
    world = World(route={"mode": "auto"}, **settings)  # type: ignore[arg-type]
    drilled(world)
    world.time.sleep(3600)
    return world


def unforeseen(*_: object) -> Any:
    raise KeyError("unforeseen")


def crash() -> None:
    raise Crash


def watching(estate: Estate) -> tuple[Watch, Board]:
    board = Board()
    return Watch(estate, board, in_background=False), board


def rounds(watcher: Watch, count: int) -> None:
    for _ in range(count):
        watcher.one_round()
        watcher.estate.clock.sleep(5)


class Wrapped:
    """An actuator of which one verb is broken."""

    def __init__(self, traffic: Traffic, broken: Callable[[Weights], MlplatformError | None]):
        self._traffic, self._broken = traffic, broken
        self.url, self.features = traffic.url, traffic.features
        self.read, self.in_force = traffic.read, traffic.in_force

    def write(
        self, weights: Weights, *, epoch: int, writer: str, expected: RouteState
    ) -> RouteState:
        error = self._broken(weights)
        if error is not None:
            raise error
        return self._traffic.write(weights, epoch=epoch, writer=writer, expected=expected)


def test_a_dead_region_is_left_and_it_is_told_once() -> None:
    world = auto()
    watcher, board = watching(world.estate())
    rounds(watcher, 2)
    world.kill("us")
    rounds(watcher, 6)
    assert dict(world.state.weights) == {"us": 0, "eu": 100}
    assert [n.title for n in board.told] == ["us is unhealthy", "api: unplanned is over"]


def test_an_actuator_that_takes_no_claim_is_told_once_and_not_tried_in_every_round() -> None:
    world = auto()
    estate = world.estate()
    estate.open_traffic = lambda _: Wrapped(world.traffic, lambda _: Denied("expired", right="put"))
    world.kill("us")
    watcher, board = watching(estate)
    rounds(watcher, 120)
    assert board.pages() == ["api: nothing is done"]
    (page,) = (n for n in board.told if n.thread == "failover/api")
    assert page.severity is Severity.CRITICAL
    assert "expired" in str(page.lines)
    lease = operations.lease_of(world.estate(), "api")
    assert lease.acquire() < 30, "ten minutes of trying every five seconds"


def test_an_operation_that_fails_is_not_recorded_and_told_anew_in_every_round() -> None:
    world = auto()
    estate = world.estate()

    def broken(weights: Weights) -> MlplatformError | None:
        return StoreError("cannot be loaded") if weights["eu"] else None

    estate.open_traffic = lambda _: Wrapped(world.traffic, broken)
    before = len(estate.journal.operations())
    world.kill("us")
    watcher, board = watching(estate)
    rounds(watcher, 120)
    assert len(estate.journal.operations()) - before < 20
    assert [n.title for n in board.told].count("api: unplanned did not go well") == 1
    estate.open_traffic = lambda _: world.traffic
    rounds(watcher, 20)
    assert dict(world.state.weights) == {"us": 0, "eu": 100}


def test_what_is_advised_is_told_again_in_the_second_night_and_resolved_between() -> None:
    world = World()
    watcher, board = watching(world.estate())
    for _ in range(2):
        world.kill("us")
        rounds(watcher, 5)
        world.revive("us", ago=600)
        rounds(watcher, 5)
    assert board.pages() == ["api: nothing is done", "over"] * 2


def test_nothing_is_resolved_because_nobody_sees_anything() -> None:
    world = World()
    watcher, board = watching(world.estate())
    world.kill("us")
    rounds(watcher, 3)
    world.watched = False
    rounds(watcher, 3)
    assert board.pages() == ["api: nothing is done"]


def test_nobody_is_woken_because_traffic_could_go_back() -> None:
    world = World(settings={"safety": {"hold_off_seconds": 60, "cooldown_seconds": 0}})
    world.kill("us")
    operations.move(world.estate(), "api", Request(Mode.UNPLANNED, source="us"))
    world.revive("us", ago=5000)
    watcher, board = watching(world.estate())
    rounds(watcher, 3)
    (advice,) = (n for n in board.told if n.thread == "failover/api")
    assert advice.severity is Severity.WARNING
    assert "failover back" in str(advice.lines)


@pytest.mark.parametrize("broken", ["look", "stand"])
def test_an_error_that_nobody_foresaw_ends_no_controller(broken: str) -> None:
    world = auto()
    estate = world.estate()
    works = getattr(estate, broken)

    setattr(estate, broken, unforeseen)
    watcher, board = watching(estate)
    rounds(watcher, 5)
    assert watch.can_act.value() == 0
    assert board.pages("failover/control") == ["failover cannot act"]
    setattr(estate, broken, works)
    world.kill("us")
    rounds(watcher, 5)
    assert watch.can_act.value() == 1
    assert board.pages("failover/control") == ["failover cannot act", "over"]
    assert dict(world.state.weights) == {"us": 0, "eu": 100}


def test_an_error_that_nobody_foresaw_in_a_routes_own_thread_is_told() -> None:
    world = auto()
    estate = world.estate()
    estate.resolve = unforeseen
    world.kill("us")
    board = Board()
    watcher = Watch(estate, board)
    watcher.one_round()
    for thread in threading.enumerate():
        if thread.name == "mlplatform-route-api":
            thread.join(30)
    (page,) = (n for n in board.told if n.thread == "failover/api")
    assert "KeyError" in page.title
    assert page.severity is Severity.CRITICAL


def test_a_single_control_store_that_is_away_is_paged_too() -> None:
    world = World()
    single = Members(1)
    watcher, board = watching(world.estate(members=single))
    rounds(watcher, 1)
    with lost(single, 0):
        rounds(watcher, 3)
        assert watch.can_act.value() == 0
    rounds(watcher, 1)
    assert board.pages("failover/control") == ["failover cannot act", "over"]


def test_the_majority_of_control_stores_lost_is_paged_once_and_its_end_told() -> None:
    world = World()
    watcher, board = watching(world.estate())
    with lost(world.members, 0), lost(world.members, 1):
        rounds(watcher, 4)
    rounds(watcher, 2)
    assert board.pages("failover/control") == [
        "failover cannot act: no majority of control stores",
        "over",
    ]


def test_an_operation_that_is_open_is_told_and_its_end_too() -> None:
    world = World()
    other = world.estate("dead@host:1")
    world.kill("us")
    with pytest.raises(Crash):
        operations.move(
            other,
            "api",
            Request(Mode.UNPLANNED, source="us"),
            said=operations.Said(plan=lambda plan, operation: crash()),
        )
    (left,) = operations.open_operations(other)
    watcher, board = watching(world.estate())
    rounds(watcher, 3)
    operations.abort(world.estate(), left.operation, reason="no")
    rounds(watcher, 2)
    assert board.pages(left.operation) == [
        f"api: {left.operation} is under way, or was left",
        "over",
    ]


def test_another_hand_that_does_not_let_go_while_a_region_is_dead_is_told() -> None:
    world = auto()
    hung = operations.lease_of(world.estate("hung@host:1"), "api")
    hung.acquire()
    world.kill("us")
    watcher, board = watching(world.estate())
    with hung.keep(world.time.keep):
        rounds(watcher, 30)
        assert dict(world.state.weights) == {"us": 100, "eu": 0}
        (page,) = board.pages()
        assert "another hand" in page
    hung.release()
    rounds(watcher, 5)
    assert dict(world.state.weights) == {"us": 0, "eu": 100}
    assert board.pages()[1:] == ["over"]


def test_the_daily_proof_is_made_though_it_restarts_every_few_hours() -> None:
    world = World()
    for _ in range(4):
        watcher, _ = watching(world.estate())
        for _ in range(6):
            watcher.one_round()
            world.time.sleep(1800)
    assert world.state.epoch == 4


def test_an_actuator_that_cannot_be_proven_is_resolved_when_it_can() -> None:
    world = World()
    estate = world.estate()
    estate.open_traffic = lambda _: Wrapped(world.traffic, lambda _: Denied("expired", right="put"))
    watcher, board = watching(estate)
    for _ in range(60):
        watcher.one_round()
        world.time.sleep(3600)
    estate.open_traffic = lambda _: world.traffic
    for _ in range(30):
        watcher.one_round()
        world.time.sleep(3600)
    assert board.pages("failover/api/actuator") == [
        "api: its actuator cannot be written to",
        "over",
    ]


def test_a_second_path_that_was_left_behind_is_told_and_brought_in_line() -> None:
    world = World()
    second = MemoryTraffic(world.regions, name="second", weights={"us": 100, "eu": 0})
    estate = world.estate()
    both = TwoPaths(world.traffic, second, world.time)
    estate.open_traffic = lambda _: both
    world.kill("us")
    away = Wrapped(second, lambda _: Unavailable("frozen"))
    frozen = TwoPaths(world.traffic, away, world.time)
    estate.open_traffic = lambda _: frozen
    operations.move(estate, "api", Request(Mode.UNPLANNED, source="us"))
    assert dict(second.read().weights) == {"us": 100, "eu": 0}
    estate.open_traffic = lambda _: both
    watcher, board = watching(estate)
    rounds(watcher, 2)
    world.time.sleep(100)
    rounds(watcher, 3)
    assert dict(second.read().weights) == {"us": 0, "eu": 100}
    assert board.pages("failover/api/path") == ["api: one of its two paths is stranded", "over"]


class Unread:
    """An actuator that answers nobody."""

    def __init__(self, traffic: Traffic) -> None:
        self.url, self.features = traffic.url, traffic.features
        self.write, self.in_force = traffic.write, traffic.in_force

    def read(self) -> RouteState:
        raise Unavailable("connection refused", store=self.url)


def test_weights_that_cannot_be_read_while_a_region_is_dead_wake_somebody() -> None:
    world = auto()
    estate = world.estate()
    watcher, board = watching(estate)
    estate.open_traffic = lambda _: Unread(world.traffic)
    rounds(watcher, 2)
    world.kill("us")
    rounds(watcher, 3)
    estate.open_traffic = lambda _: world.traffic
    rounds(watcher, 1)
    thread = [n for n in board.told if n.thread == "failover/api/weights"]
    assert [n.severity for n in thread] == [Severity.WARNING, Severity.CRITICAL, Severity.INFO]
    assert [n.over for n in thread] == [False, False, True]


def test_monitoring_that_fails_as_nobody_foresaw_keeps_nobody_from_leaving_a_dead_region() -> None:
    world = auto()
    estate = world.estate()
    watcher, _ = watching(estate)
    rounds(watcher, 1)
    estate.loads = unforeseen
    estate.lags = unforeseen
    world.kill("us")
    rounds(watcher, 2)
    assert dict(world.state.weights) == {"us": 0, "eu": 100}


def test_an_actuator_that_hangs_is_waited_for_once_and_its_late_answer_counts() -> None:
    world = World()
    estate = world.estate()
    estate.executor = DaemonThreads()
    asked, begun, answer = [], threading.Event(), threading.Event()

    class Hanging(Unread):
        def read(self) -> RouteState:
            asked.append(1)
            begun.set()
            answer.wait(60)
            return world.state

    estate.open_traffic = lambda _: Hanging(world.traffic)
    estate.glance_seconds = 0.01
    for _ in range(3):
        seen = estate.observe()
        assert isinstance(seen.routes["api"].state, Unknown)
    assert begun.wait(60)
    assert len(asked) == 1
    answer.set()
    estate.glance_seconds = 60
    assert estate.observe().routes["api"].state == world.state
    assert len(asked) == 1
