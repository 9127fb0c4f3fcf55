"""The controller that goes round, in virtual time: what it tells, and once; what it does, and what
it leaves alone; what it measures."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from random import Random

import pytest

from mlplatform.adapters.memory_traffic import MemoryTraffic
from mlplatform.control import metrics
from mlplatform.control.notices import Notices
from mlplatform.control.orders import Kind as OrderKind
from mlplatform.control.retry import Retry
from mlplatform.core.errors import Denied, Unavailable
from mlplatform.core.plan import Outcome
from mlplatform.failover import operations
from mlplatform.failover import watch as watched
from mlplatform.failover.decision.seen import Mode, Request
from mlplatform.failover.operations import Said
from mlplatform.failover.watch import PROOF_SECONDS, Watch
from mlplatform.ports.notify import Notice, Severity
from mlplatform.ports.traffic import RouteState, Weights
from tests.features.control.members import lost

from .estate import World
from .test_operations import Crash, crash_at, drilled, left_drained

AUTO = {"mode": "auto"}
DAY_SECONDS = 86_400.0


class Heard(Notices):
    """Who remembers what was told, in order."""

    def __init__(self, world: World) -> None:
        super().__init__([], Retry(world.time, Random(0)))
        self.notices: list[Notice] = []

    def tell(self, notice: Notice) -> None:
        self.notices.append(notice)

    @property
    def titles(self) -> list[str]:
        return [notice.title for notice in self.notices]

    def of(self, thread: str) -> list[Notice]:
        return [notice for notice in self.notices if notice.thread == thread]


def watching(
    world: World, writer: str = "watch@host:1", *, said: Said | None = None
) -> tuple[Watch, Heard]:
    """A controller, and what it tells."""
    heard = Heard(world)
    estate = world.estate(writer)
    return Watch(estate, heard, said or Said(), in_background=False), heard


def rounds(world: World, watch: Watch, count: int, *, seconds: float = 5.0) -> None:
    for _ in range(count):
        watch.one_round()
        world.time.sleep(seconds)


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """Metrics are the process's; each test starts with none."""
    families = (
        *(watched.health, watched.weight, watched.route_readable, watched.ready, watched.can_act),
        *(watched.last_round, watched.last_proof, watched.operations_total),
        *(watched.operation_began, watched.drained),
    )
    for family in families:
        family.clear()
    yield
    for family in families:
        family.clear()


def values(family: metrics.Family) -> dict[tuple[str, ...], float]:
    return dict(family.samples())


# ----------------------------------------------------------------------------------- all is well


def test_where_all_is_well_nothing_is_told_and_everything_is_measured() -> None:
    world = World(weights={"us": 60, "eu": 40})
    watch, heard = watching(world)
    rounds(world, watch, 20)
    assert heard.notices == []
    assert values(watched.can_act) == {(): 1.0}
    assert values(watched.health) == {("us", "healthy"): 1.0, ("eu", "healthy"): 1.0}
    assert values(watched.weight) == {("api", "us"): 60.0, ("api", "eu"): 40.0}
    assert values(watched.route_readable) == {("api",): 1.0}
    assert values(watched.ready) == {
        ("api", "us", "eu", ""): 1.0,
        ("api", "eu", "us", ""): 1.0,
    }
    assert watched.last_round.value() == (world.time.now().timestamp() - 5.0)
    assert not world.estate().journal.operations(), "it writes nothing by itself"
    assert world.state.epoch == 0


def test_what_is_not_ready_is_measured_by_the_gate_that_fails() -> None:
    world = World(version={"eu": "v0"})
    watch, _ = watching(world)
    watch.one_round()
    assert values(watched.ready) == {("api", "us", "eu", "version"): 0.0}
    world.version = {}
    watch.one_round()
    assert values(watched.ready) == {("api", "us", "eu", ""): 1.0}, "the old sample is gone"


# --------------------------------------------------------------------------------------- verdicts


def test_a_verdict_is_told_once_and_again_when_it_is_another() -> None:
    world = World()
    watch, heard = watching(world)
    rounds(world, watch, 3)
    world.kill("eu")
    rounds(world, watch, 10)
    world.revive("eu", ago=60)
    rounds(world, watch, 10)
    told = [(n.title, n.severity, n.over) for n in heard.of("failover/region/eu")]
    assert told == [
        ("eu is unhealthy", Severity.CRITICAL, False),
        ("eu is healthy", Severity.INFO, True),
    ]
    assert any("get no answer" in line for line in heard.of("failover/region/eu")[0].lines)
    assert values(watched.health)["eu", "healthy"] == 1.0
    assert ("eu", "unhealthy") not in values(watched.health)


def test_who_begins_in_the_middle_tells_what_is_wrong_and_not_what_is_well() -> None:
    world = World()
    world.kill("us")
    watch, heard = watching(world)
    watch.one_round()
    assert heard.titles[0] == "us is unhealthy"
    assert "eu is healthy" not in heard.titles


def test_a_world_in_which_nobody_looks_is_unknown_and_nothing_is_done() -> None:
    world = World(route=AUTO)
    watch, heard = watching(world)
    rounds(world, watch, 2)
    world.watched = False
    rounds(world, watch, 10)
    assert heard.titles == ["us is unknown", "eu is unknown"]
    assert {notice.severity for notice in heard.notices} == {Severity.WARNING}
    assert world.state.epoch == 0


# ----------------------------------------------------------------------------------------- advice


def test_advice_is_told_once_with_the_line_to_type() -> None:
    world = World()
    world.kill("us")
    watch, heard = watching(world)
    rounds(world, watch, 50)
    (advice,) = heard.of("failover/api")
    assert advice.severity is Severity.CRITICAL
    said = " ".join(advice.lines)
    assert "`mlplatform failover run --from us --route api` does it" in said
    assert "us 100 → 0" in said
    assert dict(world.state.weights) == {"us": 100, "eu": 0}
    assert world.state.epoch == 0, "who only advises does not even claim"


def test_advice_is_told_anew_when_something_else_keeps_it() -> None:
    world = World()
    world.kill("us")
    watch, heard = watching(world)
    rounds(world, watch, 3)
    operations.order(world.estate(), OrderKind.LOCK, "api", reason="launch")
    rounds(world, watch, 3)
    operations.take_back(world.estate(), OrderKind.LOCK, "api", reason="over")
    rounds(world, watch, 3)
    first, locked, again = heard.of("failover/api")
    assert any("api is locked: launch" in line for line in locked.lines)
    assert first.lines == again.lines


def test_a_route_that_nobody_has_drilled_does_not_act_by_itself() -> None:
    world = World(route=AUTO)
    world.kill("us")
    watch, heard = watching(world)
    rounds(world, watch, 20)
    (held,) = heard.of("failover/api")
    assert any("`mlplatform failover drill --route api`" in line for line in held.lines)
    assert dict(world.state.weights) == {"us": 100, "eu": 0}


# ------------------------------------------------------------------------------------------- acts


def proven(**settings: object) -> World:
    """Two regions, a route that may act by itself and was drilled; then us dies."""
    world = World(route=AUTO, **settings)  # type: ignore[arg-type]
    drilled(world)
    world.kill("us", ago=60)
    return world


def test_a_dead_region_is_left_once() -> None:
    world = proven()
    drills = world.estate().journal.operations()
    watch, heard = watching(world)
    rounds(world, watch, 30)
    assert dict(world.state.weights) == {"us": 0, "eu": 100}
    assert world.state.writer == "watch@host:1"
    (operation,) = set(world.estate().journal.operations()) - set(drills)
    (over,) = heard.of(operation)
    assert (over.title, over.severity, over.over) == (
        "api: unplanned is over",
        Severity.INFO,
        True,
    )
    assert any("eu 100 %" in line for line in over.lines)
    assert values(watched.operations_total) == {("api", "unplanned", "done"): 1.0}


def test_it_comes_back_when_hold_off_and_cooldown_are_over() -> None:
    safety = {"hold_off_seconds": 300, "cooldown_seconds": 60, "step_seconds": 10}
    world = proven(settings={"safety": safety})
    watch, heard = watching(world)
    rounds(world, watch, 5)
    world.revive("us")
    rounds(world, watch, 40)
    assert dict(world.state.weights) == {"us": 0, "eu": 100}, "200 s are not 300"
    rounds(world, watch, 40)
    assert dict(world.state.weights) == {"us": 100, "eu": 0}
    done = [title for title in heard.titles if title.startswith("api: ")]
    assert done[-1] == "api: failback is over"
    assert values(watched.operations_total)["api", "failback", "done"] == 1.0


def test_two_watches_do_it_once_and_the_second_is_silent() -> None:
    world = proven()
    second, second_heard = watching(world, "second@host:2")

    def meanwhile(route: str, outcome: Outcome) -> None:
        second.one_round()

    first, _ = watching(world, said=Said(outcome=meanwhile))
    before = len(world.estate().journal.operations())
    rounds(world, first, 3)
    rounds(world, second, 3)
    assert len(world.estate().journal.operations()) == before + 1
    assert dict(world.state.weights) == {"us": 0, "eu": 100}
    assert world.state.writer == "watch@host:1"
    assert [title for title in second_heard.titles if title.startswith("api: ")] == []


# ---------------------------------------------------------------------------- what others have left


@pytest.mark.parametrize("moment", range(1, 5))
def test_what_a_dead_controller_left_is_finished_by_another(moment: int) -> None:
    world = proven()
    said, count = crash_at(moment)
    # What it tells first is that us is unhealthy.
    dying, _ = watching(world, "dead@host:9", said=Said(plan=said.plan, outcome=said.outcome))
    if moment > count[0]:
        with_text = said.text

        def after_the_verdict(text: str) -> None:
            if text.startswith("api: "):
                with_text(text)

        dying.said = Said(said.plan, said.outcome, after_the_verdict)
    with pytest.raises(Crash):
        rounds(world, dying, 1)
    world.time.sleep(60)
    other, _ = watching(world, "other@host:2")
    rounds(world, other, 5)
    assert dict(world.state.weights) == {"us": 0, "eu": 100}
    assert not operations.open_operations(world.estate())


def test_what_an_operator_left_is_told_once_and_left_to_them() -> None:
    world = World(route=AUTO)
    drilled(world)
    world.kill("us")
    said, _ = crash_at(2)
    away = Request(Mode.UNPLANNED, source="us", reason="by hand")
    with pytest.raises(Crash):
        operations.move(world.estate("alice@laptop:7"), "api", away, said=said)
    (operation,) = (each.operation for each in operations.open_operations(world.estate()))
    world.revive("us", ago=60)  # nothing new is to be done
    world.time.sleep(60)
    watch, heard = watching(world)
    rounds(world, watch, 30)
    (left,) = heard.of(operation)
    ((_, began),) = watched.operation_began.samples()
    assert values(watched.operation_began).keys() == {("api", operation)}
    assert world.time.now().timestamp() - began == pytest.approx(60 + 30 * 5, abs=5)
    assert left.severity is Severity.WARNING
    assert f"`mlplatform failover resume {operation}` goes on with it" in left.lines
    assert [each.operation for each in operations.open_operations(world.estate())] == [operation]


def test_what_an_operator_left_is_ended_and_told_when_a_region_turns_sick() -> None:
    world = World(
        regions=("us", "eu", "ap"),
        weights={"us": 50, "eu": 50, "ap": 0},
        load={"us": 50.0, "eu": 50.0, "ap": 0.0},
        route=AUTO,
    )
    drilled(world)
    said, _ = crash_at(2)
    away = Request(Mode.PLANNED, source="us", targets=("ap",), reason="kernel")
    with pytest.raises(Crash):
        operations.move(world.estate("alice@laptop:7"), "api", away, said=said)
    (operation,) = (each.operation for each in operations.open_operations(world.estate()))
    world.time.sleep(60)
    world.kill("eu")
    watch, heard = watching(world)
    rounds(world, watch, 5)
    assert world.state.weights["eu"] == 0
    assert world.state.weights["us"] >= 50
    assert not world.fleets["us"].lame
    assert not operations.open_operations(world.estate())
    titles = [notice.title for notice in heard.of(operation)]
    assert f"api: {operation}, which an operator left, is not gone on with: eu is unhealthy" in (
        titles
    )
    assert heard.of(operation)[-1].over


def test_servers_that_stay_drained_are_told_and_told_of() -> None:
    world = World()
    operation = left_drained(world)
    fleet = world.fleets["us"]
    thread = "failover/api/drained/us"
    watches = [watching(world, f"watch@host:{n}") for n in (1, 2)]
    before = fleet.told
    for _ in range(12 * 60):  # an hour
        for watch, _ in watches:
            watch.one_round()
        world.time.sleep(5)
    assert fleet.told - before == 5, "after 1, 2, 4, 8 and 16 minutes, by one of them"
    for _, heard in watches:
        (notice,) = heard.of(thread)
        assert operation in notice.title
        assert "`mlplatform failover undrain us` tells them" in notice.lines
    assert values(watched.drained) == {("api", "us", operation): 1}
    fleet.deaf = False
    for _ in range(12 * 60):
        for watch, _ in watches:
            watch.one_round()
        world.time.sleep(5)
    assert not fleet.lame
    assert values(watched.drained) == {}
    assert all(heard.of(thread)[-1].over for _, heard in watches)
    assert dict(world.state.weights) == {"us": 0, "eu": 100}


@pytest.mark.parametrize(
    ("kind", "scope", "said"),
    [
        (OrderKind.LOCK, "api", "api is locked: audit"),
        (OrderKind.LOCK, "all", "all is locked: audit"),
        (OrderKind.MAINTENANCE, "us", "us is being worked on: audit"),
    ],
)
def test_servers_stay_drained_while_somebody_works_on_them(
    kind: OrderKind, scope: str, said: str
) -> None:
    world = World()
    left_drained(world)
    fleet = world.fleets["us"]
    fleet.deaf = False
    operations.order(world.estate(), kind, scope, reason="audit")
    watch, heard = watching(world)
    rounds(world, watch, 60)
    assert fleet.lame
    assert any(f"they stay so: {said}" in each for each in heard.notices[-1].lines)
    operations.take_back(world.estate(), kind, scope, reason="over")
    rounds(world, watch, 2)
    assert not fleet.lame


def test_what_was_paused_stays_paused() -> None:
    world = proven()
    said, _ = crash_at(2)
    dying, _ = watching(world, "dead@host:9", said=Said(said.plan, said.outcome))
    with pytest.raises(Crash):
        rounds(world, dying, 1)
    (operation,) = (each.operation for each in operations.open_operations(world.estate()))
    world.estate().orders.give(OrderKind.PAUSE, operation, reason="looking")
    world.revive("us", ago=60)
    world.time.sleep(60)
    other, _ = watching(world, "other@host:2")
    rounds(world, other, 10)
    assert [each.operation for each in operations.open_operations(world.estate())] == [operation]
    world.estate().orders.take_back(OrderKind.PAUSE, operation, reason="looked")
    rounds(world, other, 3)
    assert not operations.open_operations(world.estate())
    assert values(watched.operation_began) == {}


def test_what_was_ordered_of_operations_that_are_over_is_removed_once_a_day() -> None:
    world = World()
    said, _ = crash_at(1)
    with pytest.raises(Crash):
        operations.move(
            world.estate("alice@laptop:7"), "api", Request(Mode.PLANNED, source="us"), said=said
        )
    world.time.sleep(60)
    estate = world.estate()
    (operation,) = (each.operation for each in operations.open_operations(estate))
    operations.abort(estate, operation, reason="no")
    estate.orders.give(OrderKind.PAUSE, operation, reason="too late")
    watch, _ = watching(world)
    rounds(world, watch, 30, seconds=3600.0)
    assert [order.kind for order in estate.orders.known()] == [OrderKind.ABORT]
    rounds(world, watch, 46, seconds=DAY_SECONDS)
    assert estate.orders.known() == ()


# ----------------------------------------------------------------------------- when it cannot act


def test_without_a_majority_it_holds_pages_once_and_says_when_it_is_over() -> None:
    world = proven()
    watch, heard = watching(world)
    before = world.state
    with ExitStack() as gone:
        gone.enter_context(lost(world.members, 0))
        gone.enter_context(lost(world.members, 1))
        rounds(world, watch, 20)
        assert world.state == before
        (page,) = heard.notices
        assert page.title == "failover cannot act: no majority of control stores"
        assert (page.severity, page.thread, page.over) == (
            Severity.CRITICAL,
            "failover/control",
            False,
        )
        assert any("--without-control" in line for line in page.lines)
        assert values(watched.can_act) == {(): 0.0}
        assert values(watched.last_round) == {}, "no round was whole: the dead man's hand is off"
    rounds(world, watch, 3)
    page, recovered = heard.of("failover/control")
    assert (recovered.title, recovered.over) == ("failover can act again", True)
    assert values(watched.can_act) == {(): 1.0}
    assert dict(world.state.weights) == {"us": 0, "eu": 100}, "and then it acts"


def test_one_control_store_less_is_nothing_to_tell() -> None:
    world = proven()
    watch, heard = watching(world)
    with lost(world.members, 2):
        rounds(world, watch, 3)
    assert heard.of("failover/control") == []
    assert dict(world.state.weights) == {"us": 0, "eu": 100}


def test_a_round_of_looking_that_fails_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    watch, heard = watching(world)
    look = watch.estate.look

    def fails() -> object:
        raise Unavailable("no answer in time", store="memory://control-0")

    watch.estate.look = fails  # type: ignore[assignment]
    watch.one_round()
    assert "a round of looking failed" in caplog.text
    assert values(watched.last_round) == {}
    watch.estate.look = look
    watch.one_round()
    assert watched.last_round.value() > 0
    assert heard.notices == []


class WriteProtected(MemoryTraffic):
    """Its credentials have lapsed."""

    def write(
        self, weights: Weights, *, epoch: int, writer: str, expected: RouteState
    ) -> RouteState:
        raise Denied("the token has expired", store=self.url)


class Unreachable(MemoryTraffic):
    """It does not answer."""

    def read(self) -> RouteState:
        raise Unavailable("no answer in time", store=self.url)


def test_a_route_that_cannot_be_read_is_measured_and_held() -> None:
    world = proven()
    watch, heard = watching(world)
    watch.estate.open_traffic = lambda route: Unreachable(world.regions, name=route)
    before = world.state
    rounds(world, watch, 5)
    assert world.state == before
    assert values(watched.route_readable) == {("api",): 0.0}
    assert values(watched.weight) == {}
    assert values(watched.ready)["api", "us", "eu", "verdict"] == 0.0
    assert [title for title in heard.titles if title.startswith("api: unplanned")] == []


# ------------------------------------------------------------------------------------- daily proof


def test_a_route_to_which_nothing_happens_is_claimed_once_a_day() -> None:
    world = World()
    watch, heard = watching(world)
    before = dict(world.state.weights)
    epochs = []
    for _ in range(3):
        for _ in range(24):
            watch.one_round()
            world.time.sleep(DAY_SECONDS / 24)
        epochs.append(world.state.epoch)
    watch.one_round()
    epochs.append(world.state.epoch)
    assert epochs[-1] - epochs[0] in (2, 3), epochs
    assert dict(world.state.weights) == before
    assert world.time.now().timestamp() - watched.last_proof.value(route="api") < PROOF_SECONDS
    assert not world.estate().journal.operations()
    assert heard.notices == []


def test_credentials_that_have_lapsed_are_found_before_the_night() -> None:
    world = World()
    world.traffic = WriteProtected(world.regions, name="api", weights=dict(world.weights))
    watch, heard = watching(world)
    rounds(world, watch, 50, seconds=3600.0)
    (first, *_) = heard.of("failover/api/actuator")
    assert (first.title, first.severity) == (
        "api: its actuator cannot be written to",
        Severity.CRITICAL,
    )
    assert any("the token has expired" in line for line in first.lines)
    assert values(watched.last_proof) == {}
    assert dict(world.state.weights) == world.weights


# ------------------------------------------------------------------------------------- how it ends


def test_it_ends_when_it_is_told_to_or_after_so_many_rounds() -> None:
    world = World()
    watch, _ = watching(world)
    began = world.time.monotonic()
    assert watch.run(interval_seconds=5, rounds=3) == 0
    assert world.time.monotonic() - began == pytest.approx(10)
    stops = iter([False] * 5 + [True] * 100)
    stopped = Watch(world.estate(stop=lambda: next(stops)), in_background=False)
    assert stopped.run(interval_seconds=5) == 0


def test_without_anybody_to_tell_it_still_goes_round() -> None:
    world = proven()
    Watch(world.estate(), in_background=False).one_round()
    assert dict(world.state.weights) == {"us": 0, "eu": 100}


def test_every_series_of_the_watch_is_in_the_guide() -> None:
    guide = (Path(__file__).parents[3] / "docs/failover.md").read_text()
    families = [each for each in vars(watched).values() if isinstance(each, metrics.Family)]
    assert len(families) == 10
    for family in families:
        labels = f"{{{', '.join(family.labels)}}}" if family.labels else ""
        assert f"| `{family.name}{labels}` |" in guide, family.name
