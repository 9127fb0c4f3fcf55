"""The race that emptied DynamoDB's DNS record on 19 October 2025, against the traffic port.

There a planner made plans, and three enactors applied them, each by itself. One was slow: it had
made sure that its plan was newer than what was there, and then waited. Another applied the newest
plan, and cleaned up those that were many generations older. The slow one then wrote its old plan
over the new one; the clean-up deleted that plan, which was by now the one in force; and the record
was empty (AWS, message 101925).

Here a plan's generation is its epoch, which the target itself compares in the write. Nobody waits
for anybody: requests are delayed, sent twice, lost with or without effect; enactors crash and come
back with whatever plan they find.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random

import pytest
from hypothesis import Phase, currently_in_test_context, event, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from mlplatform.adapters.memory_traffic import MemoryTraffic
from mlplatform.control.retry import Retry
from mlplatform.control.retry_traffic import RetryingTraffic
from mlplatform.core.errors import ConditionFailed, Fenced, NotFound, Unavailable
from mlplatform.ports.clock import SystemClock
from mlplatform.ports.traffic import RouteState, TrafficFeatures, Weights, check_epoch

REGIONS = ("us", "eu", "ap")
ENACTORS = ("use1-az1", "use1-az2", "use1-az3")

weights = st.sampled_from(
    (
        {"us": 100, "eu": 0, "ap": 0},
        {"us": 0, "eu": 100, "ap": 0},
        {"us": 50, "eu": 50, "ap": 0},
        {"us": 1, "eu": 49, "ap": 50},
    )
)

some = st.integers(0, 5)


class NoWait(SystemClock):
    """Waiting takes no time."""

    def sleep(self, seconds: float) -> None:
        pass


@dataclass(frozen=True)
class Plan:
    """What the planner wants."""

    generation: int
    weights: Weights


@dataclass(frozen=True)
class Request:
    """A write on its way. `plan` is None for a claim, which leaves the weights as they are."""

    writer: str
    epoch: int
    weights: Weights
    expected: RouteState
    plan: Plan | None


@dataclass
class Enactor:
    """One of those who apply plans. All that it knows dies with it."""

    plan: Plan | None = None
    seen: RouteState | None = None
    """What it read, some time ago."""
    applied: int = 0
    """The generation that it knows to be in force."""


@dataclass
class Chronicle:
    """What really happened at the target, kept beside it."""

    epoch: int = 0
    weights: Weights = field(default_factory=dict)
    plan: Plan | None = None
    """The one whose weights lie there; None: those that were there before all plans."""


class Link:
    """The way to the target, for one write: its first answer is lost, and with `before` the write
    too. Something else happens while the enactor waits."""

    def __init__(
        self, target: MemoryTraffic, deliver: Callable[[], RouteState], *, before: bool
    ) -> None:
        self._target = target
        self._deliver = deliver
        self._losing = True
        self._before = before
        self.meanwhile: Callable[[], None] = lambda: None

    @property
    def url(self) -> str:
        return self._target.url

    @property
    def features(self) -> TrafficFeatures:
        return self._target.features

    def read(self) -> RouteState:
        return self._target.read()

    def write(
        self, weights: Weights, *, epoch: int, writer: str, expected: RouteState
    ) -> RouteState:
        if not self._losing:
            return self._deliver()
        self._losing = False
        if not self._before:
            self._deliver()
        self.meanwhile()
        raise Unavailable("no answer", store=self.url)

    def in_force(self, state: RouteState) -> bool:
        return self._target.in_force(state)


def tell(what: str) -> None:
    """For `--hypothesis-show-statistics`: that the machine does what it is there for."""
    if currently_in_test_context():
        event(what)


class Race(RuleBasedStateMachine):
    """Planners, enactors and clean-up, in any order."""

    actuator: type[MemoryTraffic] = MemoryTraffic

    requests = Bundle("requests")
    victims = Bundle("victims")

    def __init__(self) -> None:
        super().__init__()
        self.target = self.actuator(REGIONS)
        self.enactors = {name: Enactor() for name in ENACTORS}
        self.kept: dict[int, Plan] = {}
        """Plans that were not cleaned up."""
        self.generation = 0
        self.sent: list[Request] = []
        self.truth = Chronicle(weights=self.target.read().weights)

    # The planner.

    @initialize(wanted=weights)
    def first_plan(self, wanted: Weights) -> None:
        self.make_a_plan(wanted)

    @rule(wanted=weights)
    def next_plan(self, wanted: Weights) -> None:
        self.make_a_plan(wanted)

    def make_a_plan(self, wanted: Weights) -> Plan:
        self.generation += 1
        plan = Plan(self.generation, wanted)
        self.kept[plan.generation] = plan
        return plan

    # Enactors. Each step may come long after the one before it.

    @rule(which=some, age=st.sampled_from((0, 0, 0, 1, 2, 5)))
    def pick_up(self, which: int, age: int) -> None:
        """A plan that is still kept: the newest, or a stale one; and the check that the slow
        enactor made, that it is newer than what is there."""
        kept = sorted(self.kept)
        name = ENACTORS[which % len(ENACTORS)]
        self.enactors[name] = Enactor(self.kept[kept[max(len(kept) - 1 - age, 0)]])
        self.look_again(name)

    @precondition(lambda self: self.able)
    @rule(which=some)
    def look(self, which: int) -> None:
        """How a deposed writer reads again."""
        self.look_again(self.able[which % len(self.able)])

    def look_again(self, name: str) -> None:
        enactor = self.enactors[name]
        assert enactor.plan is not None
        enactor.seen = self.target.read()
        try:
            check_epoch(enactor.seen, enactor.plan.generation, where=self.target.url)
        except Fenced:
            self.enactors[name] = Enactor()

    @precondition(lambda self: self.able)
    @rule(target=requests, which=some, claim=st.booleans())
    def send(self, which: int, claim: bool) -> Request:
        """A write that arrives some time: later than others, twice, never, after its sender."""
        request = self.request_of(self.able[which % len(self.able)], claim=claim)
        self.sent.append(request)
        return request

    @rule(request=requests)
    def arrive(self, request: Request) -> None:
        self.try_to_apply(request)

    @rule(request=consumes(requests))
    def arrive_for_the_last_time(self, request: Request) -> None:
        self.try_to_apply(request)

    @precondition(lambda self: self.able)
    @rule(which=some, claim=st.booleans())
    def write(self, which: int, claim: bool) -> None:
        """A write whose answer arrives."""
        name = self.able[which % len(self.able)]
        request = self.request_of(name, claim=claim)
        self.learn(name, request, lambda: self.apply(request))

    @precondition(lambda self: self.able)
    @rule(
        which=some,
        claim=st.booleans(),
        before=st.booleans(),
        rival=st.one_of(st.none(), st.integers(0, 9)),
    )
    def write_and_lose_the_answer(
        self, which: int, claim: bool, before: bool, rival: int | None
    ) -> None:
        """Settled by reading back, as the product does it; a rival's write may come between."""
        name = self.able[which % len(self.able)]
        request = self.request_of(name, claim=claim)
        link = Link(self.target, lambda: self.apply(request), before=before)
        if rival is not None and self.sent:
            late = self.sent[-1 - rival % len(self.sent)]
            link.meanwhile = lambda: self.try_to_apply(late)
        traffic = RetryingTraffic(link, Retry(NoWait(), Random(0), base_seconds=0.0))
        self.learn(
            name,
            request,
            lambda: traffic.write(
                request.weights,
                epoch=request.epoch,
                writer=request.writer,
                expected=request.expected,
            ),
        )

    @rule(which=some)
    def crash(self, which: int) -> None:
        self.enactors[ENACTORS[which % len(ENACTORS)]] = Enactor()

    # Clean-up: plans older than the one that an enactor has applied. It chooses, and deletes later.

    @precondition(lambda self: self.outdated)
    @rule(target=victims)
    def choose_what_to_delete(self) -> list[int]:
        return self.outdated

    @property
    def outdated(self) -> list[int]:
        applied = max(enactor.applied for enactor in self.enactors.values())
        return sorted(number for number in self.kept if number < applied)

    @rule(numbers=consumes(victims))
    def delete(self, numbers: list[int]) -> None:
        """Whoever deletes the plan in force takes the record with it."""
        for number in numbers:
            if self.kept.pop(number, None) is not None:
                tell("cleaned up")
            if self.truth.plan is not None and self.truth.plan.generation == number:
                self.target.restore(None)

    # Beside all of them.

    @precondition(lambda self: self.generation > 1)
    @rule(wanted=weights)
    def change_by_hand(self, wanted: Weights) -> None:
        self.target.change_by_hand(wanted)
        self.truth.weights, self.truth.plan = wanted, None

    # What happens at the target.

    @property
    def able(self) -> list[str]:
        """Enactors that have a plan, and have seen what is there."""
        return [name for name in ENACTORS if self.enactors[name].seen is not None]

    def request_of(self, name: str, *, claim: bool) -> Request:
        enactor = self.enactors[name]
        assert enactor.plan is not None
        assert enactor.seen is not None
        return Request(
            name,
            enactor.plan.generation,
            enactor.seen.weights if claim else enactor.plan.weights,
            enactor.seen,
            None if claim else enactor.plan,
        )

    def apply(self, request: Request) -> RouteState:
        before = self.target.read()
        try:
            state = self.target.write(
                request.weights,
                epoch=request.epoch,
                writer=request.writer,
                expected=request.expected,
            )
        except (Fenced, ConditionFailed) as error:
            tell(type(error).__name__)
            assert self.target.read() == before, "a refused write changed something"
            raise
        tell("written")
        assert request.epoch >= self.truth.epoch, (
            f"epoch {request.epoch} was written over epoch {self.truth.epoch}"
        )
        assert before.weights == request.expected.weights, "written over what nobody had seen"
        self.truth.epoch, self.truth.weights = request.epoch, request.weights
        if request.plan is not None:
            self.truth.plan = request.plan
        return state

    def try_to_apply(self, request: Request) -> None:
        with suppress(Fenced, ConditionFailed):
            self.apply(request)

    def learn(self, name: str, request: Request, write: Callable[[], RouteState]) -> None:
        enactor = self.enactors[name]
        try:
            enactor.seen = write()
        except Fenced:
            assert self.truth.epoch > request.epoch, "refused, and nobody is newer"
            self.enactors[name] = Enactor()
        except ConditionFailed:
            self.look_again(name)
        else:
            assert enactor.seen.epoch == request.epoch
            if request.plan is not None:
                enactor.applied = request.plan.generation

    # What always holds.

    @invariant()
    def the_record_is_never_empty(self) -> None:
        try:
            state = self.target.read()
        except NotFound as error:
            raise AssertionError("the record is gone") from error
        assert state.serving
        assert sum(state.weights.values()) == 100

    @invariant()
    def what_lies_there_is_what_was_last_written(self) -> None:
        """No older epoch over a newer claim, and no write that was refused."""
        state = self.target.read()
        assert (state.epoch, state.weights) == (self.truth.epoch, self.truth.weights)

    @invariant()
    def the_plan_in_force_is_kept(self) -> None:
        plan = self.truth.plan
        assert plan is None or plan.generation in self.kept

    def teardown(self) -> None:
        """Once the faults stop, the newest plan is applied, once; and stays, whatever arrives."""
        plan = self.make_a_plan({"us": 20, "eu": 30, "ap": 50})
        self.enactors = {name: Enactor() for name in ENACTORS}
        self.pick_up(0, 0)
        self.write(0, claim=True)
        self.write(0, claim=False)
        assert self.truth.plan is plan
        for request in self.sent:
            self.try_to_apply(request)
        assert self.target.read().weights == plan.weights


TestRace = Race.TestCase
TestRace.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)


# --- the machine can fail ------------------------------------------------------------------------


class LastWriterWins(MemoryTraffic):
    """As it was: whoever writes has made sure beforehand."""

    def write(
        self, weights: Weights, *, epoch: int, writer: str, expected: RouteState
    ) -> RouteState:
        self.restore(RouteState(dict(weights), epoch, writer))
        return self.read()


class FenceAlone(LastWriterWins):
    """The epoch is compared in the write, what was expected is not."""

    def write(
        self, weights: Weights, *, epoch: int, writer: str, expected: RouteState
    ) -> RouteState:
        check_epoch(self.read(), epoch, where=self.url)
        return super().write(weights, epoch=epoch, writer=writer, expected=expected)


class CompareAndSetAlone(LastWriterWins):
    """By the weights, which come back; the epoch is kept elsewhere."""

    def write(
        self, weights: Weights, *, epoch: int, writer: str, expected: RouteState
    ) -> RouteState:
        if self.read().weights != expected.weights:
            raise ConditionFailed("another writer came first", store=self.url)
        return super().write(weights, epoch=epoch, writer=writer, expected=expected)


class DeletesThenCreates(MemoryTraffic):
    """In two steps, of which the second may be refused."""

    def write(
        self, weights: Weights, *, epoch: int, writer: str, expected: RouteState
    ) -> RouteState:
        held = self.read()
        self.restore(None)
        if held.tag != expected.tag:
            raise ConditionFailed("another writer came first", store=self.url)
        self.restore(held)
        return super().write(weights, epoch=epoch, writer=writer, expected=expected)


@pytest.mark.parametrize(
    "gremlin", [LastWriterWins, FenceAlone, CompareAndSetAlone, DeletesThenCreates]
)
def test_an_actuator_that_does_less_loses_the_race(gremlin: type[MemoryTraffic]) -> None:
    class Lost(Race):
        actuator = gremlin

    with pytest.raises((AssertionError, NotFound)):
        run_state_machine_as_test(
            Lost,
            settings=settings(
                max_examples=2000,
                stateful_step_count=40,
                deadline=None,
                database=None,
                derandomize=True,
                phases=(Phase.generate,),
            ),
        )


# --- the night itself ----------------------------------------------------------------------------


def night_of_19_october(actuator: type[MemoryTraffic]) -> Race:
    """What happened, step by step. The slow enactor's write is on its way while the other works."""

    class Night(Race):
        pass

    Night.actuator = actuator
    race = Night()
    race.make_a_plan({"us": 100, "eu": 0, "ap": 0})
    race.pick_up(0, 0)
    late = race.request_of(ENACTORS[0], claim=False)
    race.crash(0)

    for _ in range(3):
        race.make_a_plan({"us": 50, "eu": 50, "ap": 0})
    race.pick_up(1, 0)
    race.write(0, claim=False)
    victims = race.outdated

    # Past the chronicle, which would not have it.
    with suppress(Fenced, ConditionFailed):
        race.target.write(
            late.weights, epoch=late.epoch, writer=late.writer, expected=late.expected
        )
        race.truth.plan = late.plan
    race.delete(victims)
    return race


def test_the_night_as_it_was() -> None:
    race = night_of_19_october(LastWriterWins)
    with pytest.raises(NotFound):
        race.target.read()


def test_the_night_as_it_is_here() -> None:
    race = night_of_19_october(MemoryTraffic)
    state = race.target.read()
    assert (state.weights, state.epoch) == ({"us": 50, "eu": 50, "ap": 0}, 4)
    assert list(race.kept) == [4]
    race.the_plan_in_force_is_kept()
    race.teardown()
