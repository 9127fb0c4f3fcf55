"""The loop, with a controller that keeps lamps lit: what is written, what a crash leaves, who goes
on, and with which code it ends."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from random import Random

import pytest

from mlplatform.control.journal import Entry, Journal, Kind, Stream
from mlplatform.control.lease import Lease, Wait
from mlplatform.control.reconcile import Report, batches, exit_code, propose, resume, run
from mlplatform.core.errors import (
    DeadlineExceeded,
    Denied,
    Fenced,
    Interrupted,
    LeaseHeld,
    MlplatformError,
    StalePlan,
    UsageError,
)
from mlplatform.core.plan import Action, Hold, Outcome, Plan, Result
from mlplatform.core.seen import Unknown
from tests.features.control.members import AILMENTS, Members
from tests.features.control.weather import VirtualClock

LAMPS = ("a", "b", "c")


class Crash(BaseException):
    """The process ends here."""


@dataclass
class World:
    """Lamps, and the control store. `lit` is what is true; `effects` how often each was lit."""

    members: Members = field(default_factory=Members)
    time: VirtualClock = field(default_factory=VirtualClock)
    lit: set[str] = field(default_factory=set)
    unreadable: set[str] = field(default_factory=set)
    effects: list[str] = field(default_factory=list)
    batch_of: dict[str, str] = field(default_factory=lambda: {"a": "ab", "b": "ab"})
    crash: Callable[[str], None] = lambda what: None


@dataclass
class Lamplighter:
    """Observes which lamps are lit, decides to light the others."""

    world: World
    wanted: tuple[str, ...] = LAMPS
    failing: dict[str, MlplatformError] = field(default_factory=dict)
    """Lamps that give a `FAILED` outcome."""
    raising: dict[str, BaseException] = field(default_factory=dict)
    silent: set[str] = field(default_factory=set)
    """Lamps for which no outcome is given."""
    acted: list[tuple[str, ...]] = field(default_factory=list)
    feature: str = "lamps"
    colour: str = "white"

    def observe(self) -> dict[str, bool | Unknown]:
        self.world.crash("observe")
        return {
            lamp: Unknown("dark glass") if lamp in self.world.unreadable else lamp in self.world.lit
            for lamp in self.wanted
        }

    def decide(self, seen: dict[str, bool | Unknown], now: datetime) -> Plan:
        return Plan(
            feature=self.feature,
            actions=tuple(
                Action(
                    key=f"light {lamp}",
                    kind="light",
                    subject=lamp,
                    region="hall",
                    reason="it is dark",
                    batch=self.world.batch_of.get(lamp, ""),
                    parameters={"colour": self.colour},
                )
                for lamp, state in seen.items()
                if state is False
            ),
            holds=tuple(
                Hold(subject=lamp, region="hall", reason=state.reason, unknown=True)
                for lamp, state in seen.items()
                if isinstance(state, Unknown)
            ),
            basis={lamp: str(state) for lamp, state in seen.items()},
        )

    def act(self, actions: Sequence[Action], operation: str) -> Iterator[Outcome]:
        self.acted.append(tuple(action.subject for action in actions))
        for action in actions:
            lamp = action.subject
            if lamp in self.silent:
                continue
            if error := self.failing.get(lamp):
                yield Outcome(
                    action=action.key,
                    result=Result.FAILED,
                    error=type(error).__name__,
                    exit_code=error.exit_code,
                )
                continue
            if lamp in self.raising:
                raise self.raising[lamp]
            self.world.crash("before effect")
            self.world.lit.add(lamp)
            self.world.effects.append(lamp)
            self.world.crash("after effect")
            yield Outcome(action=action.key, result=Result.DONE)


def kept_by_hand(loop: Callable[[Wait], None]) -> Callable[[], None]:
    """No thread: the tests' time stands still unless they move it."""
    return lambda: None


@dataclass
class Process:
    """One process with its own ideas of who it is."""

    world: World
    name: str = "host:1"
    seed: int = 0

    def __post_init__(self) -> None:
        control = self.world.members.control(self.world.time)
        self.journal = Journal(
            control, self.world.time, Random(f"j{self.name}{self.seed}"), self.name
        )
        self.lease = Lease(
            control,
            "lamps",
            holder=self.name,
            clock=self.world.time,
            random=Random(f"l{self.name}{self.seed}"),
        )

    def run(
        self,
        controller: Lamplighter,
        *,
        wait: bool = False,
        approved: Plan | None = None,
        amend: bool = False,
        independent: bool = True,
        stop: Callable[[], bool] | None = None,
        on_plan: Callable[[Plan, str], None] | None = None,
        on_outcome: Callable[[Outcome], None] | None = None,
    ) -> Report:
        return run(
            controller,
            self.journal,
            self.lease,
            clock=self.world.time,
            background=kept_by_hand,
            wait=wait,
            approved=approved,
            amend=amend,
            independent=independent,
            stop=stop,
            on_plan=on_plan,
            on_outcome=on_outcome,
        )

    def resume(self, operation: str, controller: Lamplighter, *, wait: bool = False) -> Report:
        return resume(
            operation,
            controller,
            self.journal,
            self.lease,
            clock=self.world.time,
            background=kept_by_hand,
            wait=wait,
        )

    def entries(self) -> list[Entry]:
        return list(self.journal.history())


@pytest.fixture
def world() -> World:
    return World()


def told(entries: Sequence[Entry]) -> list[str]:
    """The journal as words."""
    words = []
    for entry in entries:
        match entry.kind:
            case Kind.INTENT:
                words.append(f"intent {' '.join(k[-1] for k in entry.payload['actions'])}")
            case Kind.OUTCOME:
                words.append(f"{entry.payload['action'][-1]} {entry.payload['result']}")
            case Kind.NOTE:
                words.append(entry.payload["text"])
            case _:
                words.append(str(entry.kind))
    return words


def results(report: Report) -> dict[str, str]:
    return {outcome.action[-1]: str(outcome.result) for outcome in report.outcomes}


# The story of one run.


def test_a_run_is_told_in_full(world: World) -> None:
    process = Process(world)
    report = process.run(Lamplighter(world))
    assert told(process.entries()) == [
        "plan",
        "intent a b",
        "a done",
        "b done",
        "intent c",
        "c done",
        "closed",
    ]
    assert results(report) == {"a": "done", "b": "done", "c": "done"}
    assert (report.exit_code, report.operation) == (0, process.entries()[0].operation)
    assert all(outcome.finished_at for outcome in report.outcomes)
    assert {entry.fence for entry in process.entries()} == {1}
    assert list(process.journal.unfinished()) == []


def test_a_second_run_has_nothing_to_do_and_writes_nothing(world: World) -> None:
    Process(world).run(Lamplighter(world))
    process = Process(world, "host:2")
    before = process.entries()
    report = process.run(Lamplighter(world))
    assert (report.plan.noop, report.operation, report.outcomes) == (True, None, ())
    assert report.exit_code == 0
    assert process.entries() == before


def test_the_lease_is_given_back(world: World) -> None:
    Process(world).run(Lamplighter(world))
    Process(world, "host:2").run(Lamplighter(world))
    assert world.time.seconds == 0


def test_a_run_that_finds_the_lease_held_observes_nothing(world: World) -> None:
    Process(world, "host:2").lease.acquire()

    def must_not(what: str) -> None:
        pytest.fail(what)

    world.crash = must_not
    with pytest.raises(LeaseHeld, match="host:2"):
        Process(world).run(Lamplighter(world))


def test_a_proposal_touches_nothing(world: World) -> None:
    plan = propose(Lamplighter(world), world.time)
    assert [action.subject for action in plan.actions] == ["a", "b", "c"]
    assert not any("put" in store.calls for store in world.members.stores)
    assert world.effects == []


def test_what_happens_is_heard_as_it_happens(world: World) -> None:
    heard: list[str] = []
    Process(world).run(
        Lamplighter(world),
        on_plan=lambda plan, operation: heard.append(f"{len(plan.actions)} {operation[-12:-6]}"),
        on_outcome=lambda outcome: heard.append(f"{outcome.action} {len(world.effects)}"),
    )
    assert heard == ["3 lamps-", "light a 1", "light b 2", "light c 3"]


def test_batches_keep_the_order_of_the_plan() -> None:
    def action(key: str, batch: str) -> Action:
        return Action(key=key, kind="k", subject="s", region="r", reason="", batch=batch)

    plan = [action("1", ""), action("2", "x"), action("3", ""), action("4", "x")]
    assert [[a.key for a in batch] for batch in batches(plan).values()] == [
        ["1"],
        ["2", "4"],
        ["3"],
    ]


# Failures.


def test_what_fails_does_not_stop_the_rest(world: World) -> None:
    process = Process(world)
    report = process.run(Lamplighter(world, failing={"a": Denied("no")}))
    assert results(report) == {"a": "failed", "b": "done", "c": "done"}
    assert report.exit_code == 8
    assert told(process.entries())[-1] == "closed"
    again = Process(world, "host:2").run(Lamplighter(world))
    assert results(again) == {"a": "done"}


def test_where_steps_depend_on_each_other_a_failure_ends_it(world: World) -> None:
    process = Process(world)
    report = process.run(Lamplighter(world, failing={"a": Denied("no")}), independent=False)
    assert results(report) == {"a": "failed", "b": "done", "c": "failed"}
    assert "step before it failed" in report.outcomes[-1].detail
    assert world.effects == ["b"]
    assert list(process.journal.unfinished()) == []


def test_an_error_that_is_raised_leaves_the_rest_of_its_batch_unknown(world: World) -> None:
    report = Process(world).run(Lamplighter(world, raising={"a": DeadlineExceeded("too long")}))
    assert results(report) == {"a": "unknown", "b": "unknown", "c": "done"}
    assert report.outcomes[0].error == "DeadlineExceeded"
    assert report.exit_code == 5


def test_an_outcome_that_is_not_given_is_unknown(world: World) -> None:
    report = Process(world).run(Lamplighter(world, silent={"b"}))
    assert results(report) == {"a": "done", "b": "unknown", "c": "done"}


def test_an_outcome_that_was_not_asked_for_is_a_bug(world: World) -> None:
    class Chatty(Lamplighter):
        def act(self, actions: Sequence[Action], operation: str) -> Iterator[Outcome]:
            yield Outcome(action="another", result=Result.DONE)

    with pytest.raises(LookupError, match="another"):
        Process(world).run(Chatty(world))


def test_what_could_not_be_read_is_held_and_says_so(world: World) -> None:
    world.unreadable = {"b"}
    report = Process(world).run(Lamplighter(world))
    assert results(report) == {"a": "done", "c": "done"}
    assert report.exit_code == 5
    again = Process(world, "host:2").run(Lamplighter(world))
    assert (again.operation, again.exit_code) == (None, 5)


@pytest.mark.parametrize(
    "error", [Interrupted("stop"), Fenced("newer")], ids=lambda e: type(e).__name__
)
def test_what_ends_everything_leaves_the_operation_to_be_resumed(
    world: World, error: MlplatformError
) -> None:
    process = Process(world)
    with pytest.raises(type(error)):
        process.run(Lamplighter(world, raising={"b": error}))
    assert told(process.entries()) == ["plan", "intent a b", "a done"]
    report = Process(world, "host:2").run(Lamplighter(world))
    assert told(process.entries())[3:] == [
        "resumed",
        "intent b",
        "b done",
        "intent c",
        "c done",
        "closed",
    ]
    assert world.effects == ["a", "b", "c"]
    assert [r.operation for r in report.resumed] == [process.entries()[0].operation]
    assert (report.operation, report.exit_code) == (None, 0)


def test_an_interruption_is_heard_between_batches(world: World) -> None:
    process = Process(world)
    with pytest.raises(Interrupted, match="interrupted between actions") as raised:
        process.run(Lamplighter(world), stop=lambda: len(world.effects) == 2)
    assert "run again" in (raised.value.hint or "")
    assert world.effects == ["a", "b"]
    Process(world, "host:2").run(Lamplighter(world))
    assert world.effects == ["a", "b", "c"]


# The lease is lost in the middle.


def test_a_lapsed_lease_stops_before_the_next_batch_but_records_what_is_known(
    world: World,
) -> None:
    class Slow(Lamplighter):
        def act(self, actions: Sequence[Action], operation: str) -> Iterator[Outcome]:
            for outcome in super().act(actions, operation):
                world.time.sleep(60)
                yield outcome

    process = Process(world)
    with pytest.raises(Fenced):
        process.run(Slow(world))
    assert told(process.entries()) == ["plan", "intent a b", "a done", "b done"]
    assert world.effects == ["a", "b"]


def test_a_deposed_process_writes_no_outcome_over_its_successors(world: World) -> None:
    successor = Process(world, "host:2")

    class Overtaken(Lamplighter):
        def act(self, actions: Sequence[Action], operation: str) -> Iterator[Outcome]:
            for outcome in super().act(actions, operation):
                if "c" not in world.lit:
                    world.time.sleep(31)
                    successor.run(Lamplighter(world), wait=True)
                yield outcome

    process = Process(world)
    with pytest.raises(Fenced):
        process.run(Overtaken(world))
    assert told(process.entries()) == [
        "plan",
        "intent a b",
        "resumed",
        "a nothing-to-do",
        "intent b",
        "b done",
        "intent c",
        "c done",
        "closed",
    ]


# Plans that somebody agreed to.


def test_an_approved_plan_is_carried_out_if_the_world_is_as_it_was(world: World) -> None:
    plan = propose(Lamplighter(world), world.time)
    report = Process(world).run(Lamplighter(world), approved=plan)
    assert report.plan is plan
    assert results(report) == {"a": "done", "b": "done", "c": "done"}


def test_an_approved_plan_is_stale_once_the_world_has_changed(world: World) -> None:
    plan = propose(Lamplighter(world), world.time)
    world.lit.add("b")
    process = Process(world)
    with pytest.raises(StalePlan, match="b changed since") as raised:
        process.run(Lamplighter(world), approved=plan)
    assert raised.value.exit_code == 7
    assert (world.effects, process.entries()) == ([], [])
    process.lease.acquire()


def test_an_approved_plan_is_stale_if_something_else_would_be_done(world: World) -> None:
    plan = propose(Lamplighter(world), world.time)
    with pytest.raises(StalePlan, match="a in hall, b in hall, c in hall"):
        Process(world).run(Lamplighter(world, colour="red"), approved=plan)


# Decided anew before each batch.


def light_later(world: World, lamp: str) -> Callable[[Outcome], None]:
    """Somebody else lights it while we are at work."""
    return lambda _: world.lit.add(lamp)


def test_what_is_still_decided_is_done(world: World) -> None:
    report = Process(world).run(Lamplighter(world), amend=True)
    assert results(report) == {"a": "done", "b": "done", "c": "done"}
    assert report.plan.digest == propose(Lamplighter(World()), world.time).digest


def test_what_is_no_longer_decided_is_not_begun(world: World) -> None:
    process = Process(world)
    report = process.run(Lamplighter(world), amend=True, on_outcome=light_later(world, "c"))
    assert told(process.entries())[-2:] == ["c nothing-to-do", "closed"]
    assert world.effects == ["a", "b"]
    assert report.exit_code == 0


def test_what_is_held_meanwhile_fails_with_the_reason(world: World) -> None:
    process = Process(world)
    report = process.run(
        Lamplighter(world), amend=True, on_outcome=lambda _: world.unreadable.add("c")
    )
    assert results(report) == {"a": "done", "b": "done", "c": "unknown"}
    assert "dark glass" in report.outcomes[-1].detail


def test_what_is_decided_newly_revises_the_plan_in_the_same_operation(world: World) -> None:
    world.lit.add("a")
    plans: list[tuple[Plan, str]] = []
    process = Process(world)
    report = process.run(
        Lamplighter(world),
        amend=True,
        on_plan=lambda plan, operation: plans.append((plan, operation)),
        on_outcome=lambda outcome: world.lit.discard("a") if outcome.action == "light b" else None,
    )
    assert results(report) == {"a": "done", "b": "done", "c": "done"}
    kinds = [entry.kind for entry in process.entries()]
    assert kinds.count(Kind.PLAN) == kinds.count(Kind.REVISION) == 1
    assert {operation for _, operation in plans} == {report.operation}
    assert [action.subject for action in report.plan.actions] == ["a", "c"]


@dataclass
class Watchful(Lamplighter):
    """Lights one, then looks after it."""

    def decide(self, seen: dict[str, bool | Unknown], now: datetime) -> Plan:
        plan = super().decide(seen, now)
        if not plan.actions:
            return plan
        look = plan.actions[0].model_copy(update={"key": "look", "carries_on": True, "batch": ""})
        return plan.model_copy(update={"actions": (*plan.actions, look)})


def test_what_carries_on_is_done_whatever_is_decided_or_fails(world: World) -> None:
    watchful = Watchful(world, wanted=("a",))
    assert list(results(Process(world).run(watchful, amend=True)).values()) == ["done", "done"]
    assert watchful.acted == [("a",), ("a",)]

    process = Process(world, "host:2")
    failing = Watchful(world, wanted=("b", "c"), failing={"b": Denied("no")})
    report = process.run(failing, amend=True, independent=False)
    assert [outcome.action for outcome in report.outcomes if outcome.detail] == ["light c"]
    assert failing.acted == [("b",), ("b",)]


def test_nothing_carries_on_of_what_was_never_begun(world: World) -> None:
    """A controller was deposed between its plan and its first act, and another has the work."""
    operation = interrupted_after(world, 0, Watchful(world))
    world.lit |= {"a", "b", "c"}
    watchful = Watchful(world)
    report = Process(world).resume(operation, watchful)
    assert set(results(report).values()) == {"nothing-to-do"}
    assert watchful.acted == []


def test_who_does_not_amend_carries_out_the_plan(world: World) -> None:
    Process(world).run(Lamplighter(world), on_outcome=light_later(world, "c"))
    assert world.effects == ["a", "b", "c"]


# Resuming.


def interrupted_after(world: World, effects: int, controller: Lamplighter | None = None) -> str:
    process = Process(world, "host:dead")
    with pytest.raises(Interrupted):
        process.run(
            controller or Lamplighter(world),
            stop=lambda: len(world.effects) >= effects,
        )
    return process.entries()[0].operation


def test_resume_finishes_one_operation(world: World) -> None:
    operation = interrupted_after(world, 2)
    report = Process(world).resume(operation, Lamplighter(world))
    assert results(report) == {"a": "done", "b": "done", "c": "done"}
    assert (report.operation, report.exit_code) == (operation, 0)
    assert world.effects == ["a", "b", "c"]


def test_resuming_what_is_finished_does_nothing(world: World) -> None:
    operation = interrupted_after(world, 2)
    Process(world).resume(operation, Lamplighter(world))
    before = Process(world).entries()
    report = Process(world, "host:2").resume(operation, Lamplighter(world))
    assert results(report) == {"a": "done", "b": "done", "c": "done"}
    assert Process(world).entries() == before


def test_what_was_finished_is_skipped_and_decided_anew_only_by_a_run(world: World) -> None:
    operation = interrupted_after(world, 2)
    world.lit.discard("a")  # it went out since
    controller = Lamplighter(world)
    Process(world).resume(operation, controller)
    assert controller.acted == [("c",)]
    report = Process(world, "host:2").run(controller)
    assert results(report) == {"a": "done"}


def test_what_is_no_longer_decided_is_nothing_to_do(world: World) -> None:
    operation = interrupted_after(world, 2)
    world.lit.add("c")
    report = Process(world).resume(operation, Lamplighter(world))
    assert results(report)["c"] == "nothing-to-do"
    assert world.effects == ["a", "b"]


def test_what_cannot_be_read_on_resuming_is_unknown(world: World) -> None:
    operation = interrupted_after(world, 2)
    world.unreadable = {"c"}
    report = Process(world).resume(operation, Lamplighter(world))
    assert results(report)["c"] == "unknown"
    assert report.exit_code == 5


def test_what_is_held_for_good_on_resuming_has_failed(world: World) -> None:
    class Forbidden(Lamplighter):
        def decide(self, seen: dict[str, bool | Unknown], now: datetime) -> Plan:
            hold = Hold(subject="c", region="hall", reason="withdrawn")
            return Plan(feature=self.feature, holds=(hold,))

    operation = interrupted_after(world, 2)
    report = Process(world).resume(operation, Forbidden(world))
    assert results(report) == {"a": "done", "b": "done", "c": "failed"}
    assert report.outcomes[-1].detail == "withdrawn"
    assert list(Process(world).journal.unfinished()) == []


def test_a_run_leaves_what_only_another_can_finish(world: World) -> None:
    """A controller would take what it was not asked for as no longer wanted."""
    interrupted_after(world, 2)
    controller = Lamplighter(world, wanted=("d",), feature="lanterns")
    process = Process(world)
    report = process.run(controller)
    assert (report.resumed, results(report)) == ((), {"d": "done"})
    (left,) = process.journal.unfinished()
    assert left.plan.feature == "lamps"


def test_a_run_finishes_what_was_left_with_the_controller_for_it(world: World) -> None:
    operation = interrupted_after(world, 2)
    asked: list[str] = []

    def finisher(left: Stream) -> Lamplighter:
        asked.append(left.plan.feature)
        return Lamplighter(world)

    process = Process(world)
    report = run(
        Lamplighter(world, wanted=("d",), feature="lanterns"),
        process.journal,
        process.lease,
        clock=world.time,
        background=kept_by_hand,
        finisher=finisher,
    )
    assert asked == ["lamps"]
    assert [left.operation for left in report.resumed] == [operation]
    assert world.effects == ["a", "b", "c", "d"]


def test_what_is_newly_wanted_is_no_part_of_the_old_operation(world: World) -> None:
    operation = interrupted_after(world, 2)
    controller = Lamplighter(world, wanted=("a", "b", "c", "d"))
    Process(world).resume(operation, controller)
    assert world.effects == ["a", "b", "c"]
    report = Process(world, "host:2").run(controller)
    assert results(report) == {"d": "done"}


def test_what_is_left_is_done_as_it_is_decided_now(world: World) -> None:
    operation = interrupted_after(world, 2)
    report = Process(world).resume(operation, Lamplighter(world, colour="red"))
    assert report.plan.actions[0].parameters == {"colour": "red"}


def test_an_operation_is_resumed_under_its_own_lease(world: World) -> None:
    operation = interrupted_after(world, 2)
    process = Process(world)
    process.lease = Lease(
        world.members.control(world.time),
        "another",
        holder="host:1",
        clock=world.time,
        random=Random(1),
    )
    with pytest.raises(UsageError, match="'lamps', not 'another'"):
        process.resume(operation, Lamplighter(world))


def test_an_operation_of_another_lease_is_left_alone(world: World) -> None:
    interrupted_after(world, 2)
    process = Process(world)
    process.lease = Lease(
        world.members.control(world.time),
        "another",
        holder="host:1",
        clock=world.time,
        random=Random(1),
    )
    world.lit.add("c")
    assert process.run(Lamplighter(world)).resumed == ()
    assert len(list(process.journal.unfinished())) == 1


# A crash at every step, and a crash of whoever goes on: it converges, and nothing is lit twice
# that was recorded as lit.


class CrashAt:
    """The process ends at its `step`th step: a call to a store, a look, an effect."""

    def __init__(self, world: World, step: int) -> None:
        self.left = step
        self.dead = False
        world.crash = self
        for store in world.members.stores:
            store.before = self
            store.after = self

    def __call__(self, what: str) -> None:
        if not self.left:
            self.dead = True  # whatever its `finally` blocks still try
        if self.dead:
            raise Crash
        self.left -= 1

    @staticmethod
    def lift(world: World) -> None:
        world.crash = lambda what: None
        for store in world.members.stores:
            store.before = store.after = lambda verb: None


def crash_of(world: World, step: int, name: str) -> bool:
    """Whether the process lived to the end."""
    CrashAt(world, step)
    try:
        Process(world, name, step).run(Lamplighter(world), wait=True)
    except Crash:
        return False
    finally:
        CrashAt.lift(world)
    return True


@pytest.mark.parametrize("count", [1, 3])
def test_a_crash_at_any_step_is_resumed_by_anyone(count: int) -> None:
    for step in range(500):
        world = World(Members(count))
        lived = crash_of(world, step, "host:dead")
        _converges(world)
        if lived:
            assert step > 30
            return
    pytest.fail("it never lived")


@pytest.mark.parametrize("ailment", ["lost", "rebuilt", "read-only"])
@pytest.mark.parametrize("member", range(3))
def test_a_crash_and_an_ailing_control_store(ailment: str, member: int) -> None:
    for step in range(0, 500, 7):
        world = World()
        lived = crash_of(world, step, "host:dead")
        with AILMENTS[ailment](world.members, member):
            _converges(world)
        if lived:
            return
    pytest.fail("it never lived")


def test_crash_upon_crash() -> None:
    random = Random(4)
    for _ in range(60):
        world = World()
        for number in range(random.randrange(1, 5)):
            crash_of(world, random.randrange(150), f"host:{number}")
        _converges(world)


def _converges(world: World) -> None:
    process = Process(world, "host:last")
    known = {
        entry.payload["action"][-1]
        for entry in process.entries()
        if entry.kind is Kind.OUTCOME and entry.payload["result"] == "done"
    }
    before = list(world.effects)
    report = process.run(Lamplighter(world), wait=True)
    assert world.lit == set(LAMPS)
    assert report.exit_code == 0
    assert not known & set(world.effects[len(before) :])
    assert len(world.effects) == len(LAMPS)  # lit is lit: observed before it is done again
    assert list(process.journal.unfinished()) == []
    history = process.entries()
    assert Process(world, "host:idle").run(Lamplighter(world)).operation is None
    assert process.entries() == history


# Exit codes, as a table.

DONE, NOTHING = ("done", 0), ("nothing-to-do", 0)
UNKNOWN = ("unknown", 1)


@pytest.mark.parametrize(
    ("outcomes", "unknown_holds", "code"),
    [
        ([], 0, 0),
        ([DONE, NOTHING], 0, 0),
        ([], 1, 5),
        ([DONE], 1, 5),
        ([DONE, UNKNOWN], 0, 5),
        ([UNKNOWN], 0, 5),
        ([DONE, ("failed", 4)], 0, 8),
        ([NOTHING, ("failed", 4)], 1, 8),
        ([("failed", 4)], 0, 4),
        ([("failed", 4), ("failed", 4)], 0, 4),
        ([("failed", 4), UNKNOWN], 1, 4),
        ([("failed", 5), ("failed", 3)], 0, 3),
        ([("failed", 6), ("failed", 1)], 0, 1),
        ([("failed", 0)], 0, 1),
        ([("failed", 8)], 0, 8),
    ],
)
def test_exit_codes(outcomes: list[tuple[str, int]], unknown_holds: int, code: int) -> None:
    found = [
        Outcome(action=str(n), result=Result(result), exit_code=own)
        for n, (result, own) in enumerate(outcomes)
    ]
    hold = Hold(subject="s", region="r", reason="could not be read", unknown=True)
    assert exit_code(found, [hold] * unknown_holds) == code


def test_what_is_held_for_another_reason_is_a_finding() -> None:
    hold = Hold(subject="s", region="r", reason="withdrawn")
    assert exit_code([Outcome(action="a", result=Result.DONE)], [hold]) == 3
