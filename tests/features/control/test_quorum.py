"""The control store on one member and on three, any one of which may fail."""

from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextlib import ExitStack
from itertools import combinations
from typing import Any

import pytest

from mlplatform.adapters.memory import MemoryStore
from mlplatform.control.quorum import ControlStore, Copy
from mlplatform.core.errors import (
    Denied,
    Fenced,
    MlplatformError,
    NoMajority,
    Unavailable,
    UsageError,
)
from mlplatform.core.seen import Unknown
from mlplatform.ports.clock import SystemClock
from mlplatform.ports.store import ABSENT, Matches, read_bytes
from tests.features.control import members as ailing
from tests.features.control.members import AILMENTS, Members
from tests.features.control.weather import Fault, VirtualClock, answer_lost


def story(control: ControlStore) -> list[object]:
    """Every verb once, and what it said."""
    told: list[object] = []
    control.create("j/2", b"second")
    told.append(control.list("j/"))
    told.append(control.list("", shallow=True))
    told.append(sorted(control.read("j/1").bodies()))
    told.append(sorted(control.read("j/2").bodies()))
    told.append(control.read("j/3").bodies())
    try:
        control.create("j/2", b"another's")
    except Fenced as error:
        told.append(type(error))
    won = [Matches(c.tag) if isinstance(c, Copy) else ABSENT for c in control.read("lease").copies]
    told.append(sum(isinstance(tag, str) for tag in control.swap("lease", b"new", won)) >= 2)
    stale = [Matches("stale")] * 3
    told.append(sum(isinstance(tag, str) for tag in control.swap("lease", b"bad", stale)))
    told.append(control.put_observation("o/2", b"seen") >= 2)
    told.append([body for _, body in control.read_observations("o/").records])
    control.drop_observation("o/2")
    return told


def prepared(threads: bool) -> tuple[Members, ControlStore]:
    members = Members()
    control = members.control(threads=threads)
    control.create("j/1", b"first")
    control.swap("lease", b"old", [ABSENT] * 3)
    control.put_observation("o/1", b"earlier")
    return members, control


@pytest.mark.parametrize("member", range(3))
@pytest.mark.parametrize("ailment", AILMENTS)
def test_any_one_member_may_fail(ailment: str, member: int) -> None:
    _, healthy = prepared(threads=False)
    expected = story(healthy)
    members, control = prepared(threads=ailment == "slow")
    with AILMENTS[ailment](members, member):
        assert story(control) == expected


@pytest.mark.parametrize("ailing_two", [*combinations(range(3), 2)])
def test_two_may_not(ailing_two: tuple[int, int]) -> None:
    members, control = prepared(threads=False)
    with ExitStack() as stack:
        for member in ailing_two:
            stack.enter_context(ailing.lost(members, member))
        for verb in (
            lambda: control.create("j/2", b"second"),
            lambda: control.read("j/1"),
            lambda: control.list("j/"),
            lambda: control.read_observations("o/"),
        ):
            with pytest.raises(NoMajority, match=r"1 of 3 control stores.*connection refused"):
                verb()
        tags = control.swap(
            "lease", b"new", [None if m in ailing_two else ABSENT for m in range(3)]
        )
        assert not any(isinstance(tag, str) for tag in tags)
        assert control.put_observation("o/2", b"seen") == 1


def test_an_observation_that_nobody_took_is_an_error() -> None:
    members, control = prepared(threads=False)
    for store in members.stores:
        store.read_only = True
    with pytest.raises(NoMajority):
        control.put_observation("o/2", b"seen")


@pytest.mark.parametrize("count", [0, 2, 4])
def test_one_or_three(count: int) -> None:
    with pytest.raises(UsageError):
        ControlStore([MemoryStore(str(n)) for n in range(count)], VirtualClock())


# One member: its own errors, not a talk of majorities.


def test_a_single_member_speaks_for_itself() -> None:
    members = Members(1)
    control = members.control()
    control.create("j/1", b"first")
    control.create("j/1", b"first")
    with pytest.raises(Fenced):
        control.create("j/1", b"another's")
    members.stores[0].read_only = True
    with pytest.raises(Denied):
        control.create("j/2", b"second")
    members.stores[0].down = True
    with pytest.raises(Unavailable):
        control.read("j/1")


# Numbers: taken, conflicting, burnt.


@pytest.mark.parametrize("member", range(3))
def test_a_conflict_anywhere_is_a_number_taken(member: int) -> None:
    members = Members()
    members.stores[member].put("j/1", b"another's")
    with pytest.raises(Fenced, match=f"control-{member}/j/1"):
        members.control().create("j/1", b"ours")


@pytest.mark.parametrize("settled", [True, False])
@pytest.mark.parametrize("reached", range(3))
def test_a_number_on_a_minority_is_burnt(reached: int, settled: bool) -> None:
    members = Members()
    for n, store in enumerate(members.stores):
        store.read_only = n != reached
    with pytest.raises(NoMajority):
        members.control().create("j/1", b"ours")
    assert members.holding("j/1") == [reached]
    for store in members.stores:
        store.read_only = False
    if settled:  # anyone can bring it to a majority, by writing the same
        members.control().create("j/1", b"ours")
        assert members.holding("j/1") == [0, 1, 2]
    else:  # but nobody can take it for something else
        with pytest.raises(Fenced):
            members.control().create("j/1", b"another's")


@pytest.mark.parametrize("member", range(3))
def test_a_lost_answer_counts_for_what_is_there(member: int) -> None:
    members = Members()
    members.stores[member].faults["put"] = [answer_lost()]
    members.stores[(member + 1) % 3].read_only = True
    clock = VirtualClock()
    members.retrying(clock).create("j/1", b"ours")
    assert len(members.holding("j/1")) == 2


def test_without_the_policy_a_lost_answer_is_no_answer() -> None:
    members = Members()
    members.stores[0].faults["put"] = [answer_lost()]
    members.stores[1].read_only = True
    with pytest.raises(NoMajority):
        members.control().create("j/1", b"ours")
    assert members.holding("j/1") == [0, 2]


# Reading.


def test_a_reading_tells_nothing_from_unknown() -> None:
    members = Members()
    members.stores[0].put("k", b"a")
    members.stores[2].down = True
    reading = members.control().read("k")
    assert isinstance(reading.copies[0], Copy)
    assert reading.copies[1] is None
    assert isinstance(reading.copies[2], Unknown)
    assert not reading.complete
    assert reading.bodies() == {b"a": 1}


def test_many_keys_are_read_in_order_of_members() -> None:
    members = Members()
    control = members.control()
    keys = [f"k/{n:03}" for n in range(100)]
    for key in keys:
        control.create(key, key.encode())
    found = control.read_many(keys)
    assert list(found) == keys
    assert all(reading.bodies() == {key.encode(): 3} for key, reading in found.items())


def test_observations_are_a_union_and_say_who_is_missing() -> None:
    members = Members()
    members.stores[0].put("o/1", b"one")
    members.stores[1].put("o/1", b"one")
    members.stores[1].put("o/2", b"two")
    members.stores[0].put("o/2", b"two, later")
    members.stores[2].down = True
    seen = members.control().read_observations("o/")
    assert seen.records == (("o/1", b"one"), ("o/2", b"two"), ("o/2", b"two, later"))
    assert list(seen.unreadable) == ["memory://control-2"]


# Swaps.


def test_a_swap_writes_each_member_on_its_own_terms() -> None:
    members = Members()
    tags = [store.put("lease", b"old").tag for store in members.stores[:2]]
    members.stores[1].put("lease", b"newer")
    control = members.control()
    won = control.swap("lease", b"ours", [Matches(tags[0]), Matches(tags[1]), ABSENT])
    assert [isinstance(tag, str) for tag in won] == [True, False, True]
    assert won[1] is None
    assert [read_bytes(s, "lease")[0] for s in members.stores] == [b"ours", b"newer", b"ours"]
    assert control.swap("lease", b"x", [None, None, None]) == (None, None, None)


def test_a_swap_says_why_there_was_no_answer() -> None:
    members = Members()
    members.stores[1].down = True
    won = members.control().swap("lease", b"ours", [ABSENT] * 3)
    assert [isinstance(tag, str) for tag in won] == [True, False, True]
    assert isinstance(won[1], MlplatformError)


# Repair.


def test_a_rebuilt_member_is_repaired() -> None:
    members = Members()
    control = members.control()
    for n in range(5):
        control.create(f"j/{n}", b"%d" % n)
    members.rebuild(1)
    assert control.repair("j/") == 5
    assert control.repair("j/") == 0
    assert all(members.holding(f"j/{n}") == [0, 1, 2] for n in range(5))


def test_what_members_differ_on_is_not_repaired() -> None:
    members = Members()
    members.stores[0].put("j/1", b"one")
    members.stores[1].put("j/1", b"another")
    assert members.control().repair("j/") == 0
    assert members.holding("j/1") == [0, 1]


# Slowness, with real threads.


def test_a_slow_member_is_waited_for_once_then_left_alone() -> None:
    members = Members()
    control = members.control(threads=True)
    with ailing.slow(members, 1):
        for n in range(10):
            control.create(f"j/{n}", b"ours")
        asked = members.stores[1].calls.count("put")
        assert 1 <= asked <= 5  # and no more threads wait for it than that
        assert members.holding("j/9") == [0, 2]


def test_a_member_that_recovers_is_asked_again() -> None:
    members = Members()
    control = members.control(threads=True)
    with ailing.slow(members, 1):
        for n in range(10):
            control.create(f"j/{n}", b"ours")
    for n in range(100, 1000):
        control.create(f"j/{n}", b"ours")
        if 1 in members.holding(f"j/{n}"):
            return
    pytest.fail("it was never asked again")


def test_all_slow_is_no_answer_within_the_deadline() -> None:
    control = ControlStore(
        Members().stores,
        SystemClock(),
        executor=_Never(),
        deadline_seconds=0.05,
        grace_seconds=0.01,
    )
    with pytest.raises(NoMajority, match="no answer yet"):
        control.read("k")


def test_a_crash_in_an_inline_call_is_a_crash() -> None:
    class Crash(BaseException):
        pass

    members = Members()

    def crash(verb: str) -> None:
        raise Crash

    members.stores[1].before = crash
    with pytest.raises(Crash):
        members.control().read("k")


def test_a_bug_in_an_adapter_is_not_taken_for_weather() -> None:
    members = Members()
    members.stores[1].faults["get"] = [Fault(ZeroDivisionError())]
    with pytest.raises(ZeroDivisionError):
        members.control().read("k")


class _Never(Executor):
    """Calls that never end."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        return Future()
