"""Leases: who may take one and when, with wall clocks that lie and control stores that fail."""

import threading
from collections.abc import Callable
from contextlib import ExitStack
from datetime import timedelta
from random import Random

import pytest

from mlplatform.control.lease import (
    Lease,
    LeaseRecord,
    Sighting,
    Wait,
    Waiting,
    free_members,
    holder_of,
)
from mlplatform.control.quorum import ControlStore
from mlplatform.core.errors import (
    Denied,
    Fenced,
    Interrupted,
    LeaseHeld,
    NoMajority,
    Unavailable,
)
from mlplatform.ports.clock import Clock
from mlplatform.ports.store import read_bytes
from tests.features.control.members import AILMENTS, Members, lost, read_only, rebuilt, slow
from tests.features.control.weather import START, Fault, SkewedClock, VirtualClock, answer_lost
from tests.features.control.weather import lost as call_lost

KEY = "leases/replicate/m@v1.json"
TERM = 30.0


class World:
    """One true time; each process has its own idea of it."""

    def __init__(self, count: int = 3, *, threads: bool = False) -> None:
        self.members = Members(count)
        self.time = VirtualClock()
        self.threads = threads

    def lease(
        self,
        holder: str = "host-a:1",
        *,
        clock: Clock | None = None,
        control: ControlStore | None = None,
        floor: Callable[[], int] | None = None,
        stop: Callable[[], bool] | None = None,
        term_seconds: float = TERM,
    ) -> Lease:
        clock = clock or self.time
        return Lease(
            control or self.members.control(clock, threads=self.threads),
            "replicate/m@v1",
            holder=holder,
            clock=clock,
            random=Random(holder),
            term_seconds=term_seconds,
            floor=floor,
            stop=stop,
        )

    def record(self, member: int = 0) -> LeaseRecord:
        return LeaseRecord.model_validate_json(read_bytes(self.members.stores[member], KEY)[0])


@pytest.fixture(params=[1, 3], ids=["one store", "three stores"])
def world(request: pytest.FixtureRequest) -> World:
    return World(request.param)


# Taking, holding, giving back.


def test_the_record_says_who_until_when_and_how_often(world: World) -> None:
    lease = world.lease()
    assert lease.acquire() == lease.generation == 1
    record = world.record()
    assert (record.holder, record.generation, record.released) == ("host-a:1", 1, False)
    assert record.term_seconds == TERM
    assert record.expires_at == START + timedelta(seconds=TERM)


def test_whoever_only_looks_is_told_who_has_it(world: World) -> None:
    control = world.members.control(world.time)
    assert holder_of(control, "replicate/m@v1") is None
    lease = world.lease("host-a:1")
    lease.acquire()
    assert holder_of(control, "replicate/m@v1") == world.record()
    lease.release()
    assert holder_of(control, "replicate/m@v1") is None
    world.members.stores[0].put(KEY, b"{")
    assert holder_of(control, "replicate/m@v1") is None


def test_a_held_lease_is_refused_with_holder_and_expiry(world: World) -> None:
    world.lease("host-a:1").acquire()
    with pytest.raises(LeaseHeld) as refused:
        world.lease("host-b:2").acquire()
    assert str(refused.value) == (
        "replicate/m@v1 is held by host-a:1 until 2026-03-01 12:00:30 UTC by its own clock"
    )
    assert "--wait" in (refused.value.hint or "")
    assert refused.value.exit_code == 7


def test_a_released_lease_is_free_at_once_and_the_generation_grows(world: World) -> None:
    first, second = world.lease("host-a:1"), world.lease("host-b:2")
    for generation in (1, 3):
        assert first.acquire() == generation
        first.release()
        assert second.acquire() == generation + 1
        second.release()
    assert world.time.seconds == 0


def test_a_released_lease_is_not_held(world: World) -> None:
    lease = world.lease()
    with pytest.raises(Fenced, match="never acquired"):
        lease.guard()
    lease.acquire()
    lease.guard()
    lease.release()
    with pytest.raises(Fenced, match="it was released"):
        lease.guard()
    lease.release()


def test_one_cannot_take_it_twice(world: World) -> None:
    lease = world.lease()
    lease.acquire()
    with pytest.raises(LeaseHeld):
        lease.acquire()


def test_waiting_takes_over_a_term_after_the_last_sign_of_life(world: World) -> None:
    dead = world.lease("host-a:1")
    dead.acquire()
    contender = world.lease("host-b:2")
    assert contender.acquire(wait=True) == 2
    assert TERM <= world.time.seconds < TERM * 1.2
    with pytest.raises(Fenced, match="could not be renewed in time"):
        dead.guard()


def test_waiting_ends_soon_after_a_release(world: World) -> None:
    holder = world.lease("host-a:1")
    holder.acquire()

    def released_after_a_while() -> bool:
        if world.time.seconds > 5:
            holder.release()
        return False

    world.lease("host-b:2", stop=released_after_a_while).acquire(wait=True)
    assert world.time.seconds < 5 + TERM / 10 * 2


def test_waiting_for_a_silent_holder_takes_over_from_the_dead(world: World) -> None:
    world.lease("host-a:1").acquire()
    assert world.lease("host-b:2").acquire(wait="silent") == 2
    assert TERM <= world.time.seconds < TERM * 1.2


def test_waiting_for_a_silent_holder_ends_at_its_first_sign_of_life(world: World) -> None:
    holder = world.lease("host-a:1")
    holder.acquire()

    def renews_in_time() -> bool:
        if world.time.seconds > TERM / 3:
            holder.renew()
        return False

    with pytest.raises(LeaseHeld, match="host-a:1"):
        world.lease("host-b:2", stop=renews_in_time).acquire(wait="silent")
    assert TERM / 3 < world.time.seconds < TERM * 0.6


def test_waiting_can_be_interrupted(world: World) -> None:
    world.lease("host-a:1").acquire()
    with pytest.raises(Interrupted, match="replicate/m@v1"):
        world.lease("host-b:2", stop=lambda: world.time.seconds > 5).acquire(wait=True)


def test_a_living_holder_is_never_overtaken(world: World) -> None:
    holder = world.lease("host-a:1")
    holder.acquire()

    def renews_while_the_other_waits() -> bool:
        holder.renew()
        return world.time.seconds > 10 * TERM

    contender = world.lease("host-b:2", stop=renews_while_the_other_waits)
    with pytest.raises(Interrupted):
        contender.acquire(wait=True)
    holder.guard()


def test_asking_now_and_then_takes_over_too(world: World) -> None:
    """As a controller does that converges continuously: it need not stand and wait."""
    world.lease("host-a:1").acquire()
    contender = world.lease("host-b:2")
    for _ in range(3):
        with pytest.raises(LeaseHeld):
            contender.acquire()
        world.time.sleep(TERM / 3 + 0.01)
    assert contender.acquire() == 2


# Deadlines are the holder's own.


def test_the_holder_stops_before_a_contender_may_start(world: World) -> None:
    lease = world.lease()
    lease.acquire()
    world.time.sleep(TERM * 0.8 - 0.01)
    lease.held()
    world.time.sleep(0.01)
    with pytest.raises(Fenced):
        lease.held()
    with pytest.raises(Fenced):
        lease.renew()
    with pytest.raises(Fenced):
        _ = lease.generation


def test_a_term_counts_from_before_the_renewal_was_sent() -> None:
    world = World()
    lease = world.lease()
    lease.acquire()
    for store in world.members.stores:
        store.after = lambda verb: world.time.sleep(5.0)
    lease.renew()
    for store in world.members.stores:
        store.after = lambda verb: None
    world.time.sleep(TERM * 0.8 - 15.01)
    lease.held()
    world.time.sleep(0.02)
    with pytest.raises(Fenced):
        lease.held()


def test_guard_renews_when_it_is_due(world: World) -> None:
    lease = world.lease()
    lease.acquire()
    nonce = world.record().nonce
    world.time.sleep(TERM / 3 - 0.1)
    lease.guard()
    assert world.record().nonce == nonce
    world.time.sleep(0.2)
    lease.guard()
    assert world.record().nonce != nonce
    for _ in range(100):
        world.time.sleep(TERM / 2)
        lease.guard()


def test_guard_holds_through_weather_until_the_deadline() -> None:
    world = World()
    lease = world.lease()
    lease.acquire()
    with lost(world.members, 0), lost(world.members, 1):
        world.time.sleep(TERM / 2)
        lease.guard()
        with pytest.raises(NoMajority):
            lease.renew()
        world.time.sleep(TERM / 2)
        with pytest.raises(Fenced):
            lease.guard()


# Wall clocks lie.


@pytest.mark.parametrize("hours", [-1000, -1, 1, 1000])
def test_a_holder_with_a_wrong_wall_clock(world: World, hours: int) -> None:
    """Its record seems to have ended long ago, or never to end: nothing follows from it."""
    skewed = SkewedClock(world.time, wall_skew=timedelta(hours=hours), monotonic_start=1e6)
    holder = world.lease("host-a:1", clock=skewed)
    holder.acquire()
    contender = world.lease("host-b:2")
    with pytest.raises(LeaseHeld):
        contender.acquire()
    assert contender.acquire(wait=True) == 2
    assert world.time.seconds >= TERM
    # Deposed, with a wall clock that says that its term has not ended: its own deadline has.
    with pytest.raises(Fenced):
        holder.guard()
    with pytest.raises(Fenced):
        holder.renew()


@pytest.mark.parametrize("hours", [-1000, -1, 1, 1000])
def test_a_contender_with_a_skewed_wall_clock(world: World, hours: int) -> None:
    holder = world.lease("host-a:1")
    holder.acquire()
    skewed = SkewedClock(world.time, wall_skew=timedelta(hours=hours), monotonic_start=1e6)
    contender = world.lease("host-b:2", clock=skewed)
    with pytest.raises(LeaseHeld):
        contender.acquire()
    world.time.sleep(TERM * 0.6)
    holder.renew()
    world.time.sleep(TERM * 0.6)
    holder.held()
    with pytest.raises(LeaseHeld):
        contender.acquire()
    contender.acquire(wait=True)
    with pytest.raises(Fenced):
        holder.held()


@pytest.mark.parametrize("rate", [0.9, 1.1])
def test_clocks_of_different_speed_are_what_the_margin_is_for(rate: float) -> None:
    world = World()
    slow_clock = SkewedClock(world.time, rate=2 - rate)
    holder = world.lease("host-a:1", clock=slow_clock)
    holder.acquire()
    fast_clock = SkewedClock(world.time, rate=rate)
    world.lease("host-b:2", clock=fast_clock).acquire(wait=True)
    with pytest.raises(Fenced):
        holder.held()


# A deposed holder.


def test_a_deposed_holder_learns_it_from_the_stores() -> None:
    """Its monotonic clock stood still (a suspended machine), so its own deadline is no help."""
    world = World()
    frozen = VirtualClock()
    holder = world.lease("host-a:1", clock=frozen)
    holder.acquire()
    newer = world.lease("host-b:2")
    newer.acquire(wait=True)
    holder.held()
    with pytest.raises(Fenced, match="a newer holder has it"):
        holder.renew()
    with pytest.raises(Fenced):
        holder.guard()
    holder.release()
    newer.renew()
    assert world.record().holder == "host-b:2"


# Generations.


def test_a_generation_exceeds_all_that_targets_know(world: World) -> None:
    assert world.lease(floor=lambda: 41).acquire() == 42


def test_a_generation_exceeds_the_highest_of_any_store() -> None:
    world = World()
    lease = world.lease()
    lease.acquire()
    lease.release()
    high = world.record().model_copy(update={"generation": 9, "claim": "x", "released": True})
    world.members.stores[2].put(KEY, high.encoded)
    assert world.lease("host-b:2").acquire() == 10


def test_rebuilt_stores_do_not_fall_behind_the_targets() -> None:
    world = World(1)
    for expected in (1, 2, 3):
        lease = world.lease()
        assert lease.acquire() == expected
        lease.release()
    world.members.rebuild(0)
    assert world.lease(floor=lambda: 3).acquire() == 4


# Ailing control stores.


@pytest.mark.parametrize("member", range(3))
@pytest.mark.parametrize("ailment", AILMENTS)
def test_any_one_control_store_may_fail_a_holder(ailment: str, member: int) -> None:
    world = World(threads=ailment == "slow")
    lease = world.lease()
    lease.acquire()
    with AILMENTS[ailment](world.members, member):
        for _ in range(10):
            world.time.sleep(TERM / 2)
            lease.guard()
            with pytest.raises(LeaseHeld, match="host-a:1"):
                world.lease("host-b:2").acquire()
    for _ in range(3):
        world.time.sleep(TERM / 2)
        lease.guard()
    lease.release()
    assert world.lease("host-b:2").acquire() == 2


@pytest.mark.parametrize("member", range(3))
@pytest.mark.parametrize("ailment", AILMENTS)
@pytest.mark.parametrize("released", [True, False])
def test_any_one_control_store_may_fail_a_contender(
    ailment: str, member: int, released: bool
) -> None:
    world = World(threads=ailment == "slow")
    holder = world.lease("host-a:1")
    holder.acquire()
    if released:
        holder.release()
    with AILMENTS[ailment](world.members, member):
        contender = world.lease("host-b:2")
        assert contender.acquire(wait=not released) == 2
        contender.renew()
        contender.release()
        assert world.lease("host-c:3").acquire() == 3


@pytest.mark.parametrize("member", range(3))
def test_a_rebuilt_store_is_no_free_seat_while_the_holder_lives(member: int) -> None:
    """Not even with a second one out of reach, so that the holder shows on one member alone."""
    world = World()
    holder = world.lease("host-a:1")
    holder.acquire()
    with rebuilt(world.members, member), lost(world.members, (member + 1) % 3):
        contender = world.lease("host-b:2")
        with pytest.raises(LeaseHeld):
            contender.acquire()
        world.time.sleep(TERM / 2)
        holder.renew()
        world.time.sleep(TERM / 2 + 1)
        with pytest.raises(LeaseHeld):
            contender.acquire()
        holder.held()


def test_the_holder_puts_its_record_into_a_rebuilt_store() -> None:
    world = World()
    lease = world.lease()
    lease.acquire()
    world.members.rebuild(1)
    lease.renew()
    lease.renew()
    assert world.record(1).holder == "host-a:1"


@pytest.mark.parametrize("pair", [(0, 1), (0, 2), (1, 2)])
def test_two_lost_stores_are_too_many(pair: tuple[int, int]) -> None:
    world = World()
    lease = world.lease()
    lease.acquire()
    with ExitStack() as stack:
        for member in pair:
            stack.enter_context(lost(world.members, member))
        with pytest.raises(NoMajority, match="1 of 3"):
            lease.renew()
        with pytest.raises(NoMajority):
            world.lease("host-b:2").acquire()
        lease.release()
    with pytest.raises(Fenced):
        lease.guard()


def test_two_read_only_stores_are_too_many_and_named() -> None:
    world = World()
    with (
        read_only(world.members, 0),
        read_only(world.members, 2),
        pytest.raises(NoMajority, match=r"control-0.*read-only.*control-2.*read-only"),
    ):
        world.lease().acquire()
    assert world.time.seconds == 0
    # What had been written on the third was given back.
    assert world.lease("host-b:2").acquire() == 2


def test_a_single_store_says_itself_why_not() -> None:
    world = World(1)
    with read_only(world.members, 0), pytest.raises(Denied):
        world.lease().acquire()


@pytest.mark.parametrize("wait", ["silent", True])
def test_nobody_waits_for_a_right_that_is_missing(world: World, wait: Waiting) -> None:
    for store in world.members.stores:
        store.read_only = True
    with pytest.raises((Denied, NoMajority), match="read-only"):
        world.lease().acquire(wait=wait)


def test_who_waits_for_a_holder_is_told_of_a_store_that_takes_nothing() -> None:
    world = World(1)
    world.members.stores[0].faults["put"] = [call_lost()]
    with pytest.raises(Unavailable):
        world.lease().acquire(wait="silent")


def test_damage_in_one_store_of_three_is_in_nobodys_way() -> None:
    world = World()
    lease = world.lease()
    lease.acquire()
    world.members.stores[1].put(KEY, b"{")
    for _ in range(5):
        world.time.sleep(TERM / 2)
        lease.guard()
    assert world.record(1).holder == "host-a:1"
    lease.release()
    world.members.stores[1].put(KEY, b"{")
    assert world.lease("host-b:2").acquire() == 2


def test_a_damaged_single_record_is_taken_over_by_waiting() -> None:
    world = World(1)
    world.members.stores[0].put(KEY, b"{")
    with pytest.raises(LeaseHeld, match="damaged"):
        world.lease().acquire()
    assert world.lease().acquire(wait=True) == 1
    assert world.time.seconds >= TERM


# Lost answers.


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("fault", [call_lost(), answer_lost()], ids=["lost", "answer lost"])
@pytest.mark.parametrize("verb", ["put", "get"])
@pytest.mark.parametrize("nth", range(3))
def test_a_lost_answer_changes_nothing(count: int, fault: Fault, verb: str, nth: int) -> None:
    world = World(count)
    for store in world.members.stores:
        store.faults[verb] = [None] * nth + [fault]
    lease = world.lease(control=world.members.retrying(world.time))
    assert lease.acquire() == 1
    lease.renew()
    lease.renew()
    lease.release()
    other = world.lease("host-b:2", control=world.members.retrying(world.time))
    assert other.acquire() == 2


def test_a_lost_answer_on_a_minority_is_made_good_at_the_next_renewal() -> None:
    world = World()
    lease = world.lease()
    world.members.stores[1].faults["put"] = [answer_lost(), call_lost()]
    lease.acquire()
    lease.renew()
    lease.renew()
    nonces = {world.record(member).nonce for member in range(3)}
    assert len(nonces) == 1


# Contenders among themselves.


def test_one_of_two_contenders_wins() -> None:
    world = World()
    world.lease("host-a:1").acquire()
    one, other = world.lease("host-b:2"), world.lease("host-c:3")
    for contender in (one, other):
        with pytest.raises(LeaseHeld):
            contender.acquire()
    world.time.sleep(TERM)
    # The other comes in between, when the first has looked and not yet written.
    intruding = iter([True])

    def intrude(verb: str) -> None:
        if verb == "put" and next(intruding, False):
            other.acquire()

    world.members.stores[0].before = intrude
    with pytest.raises(LeaseHeld, match="host-c:3"):
        one.acquire()
    other.guard()
    with pytest.raises(Fenced):
        one.guard()


def test_contenders_that_split_the_stores_give_back_and_try_again() -> None:
    world = World()
    one, other = world.lease("host-b:2"), world.lease("host-c:3")
    intruding = iter([True])

    def intrude(verb: str) -> None:
        """The other takes two members when the first has one."""
        if verb == "put" and next(intruding, False):
            world.members.stores[0].down = True
            other.acquire()
            world.members.stores[0].down = False

    world.members.stores[1].before = intrude
    with pytest.raises(LeaseHeld, match="host-c:3"):
        one.acquire()
    other.renew()
    other.release()
    assert one.acquire() == 2


# The table behind it all.


def sighting(
    since: float,
    *,
    claim: str = "c",
    generation: int = 1,
    released: bool = False,
    term: float = TERM,
) -> Sighting:
    record = LeaseRecord(
        holder="h",
        claim=claim,
        generation=generation,
        term_seconds=term,
        nonce="n",
        expires_at=START,
        released=released,
    )
    return Sighting(b"body", record, since)


EMPTY = Sighting(None, None, 0.0)
NEWLY_EMPTY = Sighting(None, None, 90.0)
DAMAGED = Sighting(b"{", None, 90.0)
LIVING, AGED = sighting(90.0), sighting(10.0)
RELEASED = sighting(90.0, released=True)

RELEASED_2 = sighting(90.0, claim="d", generation=2, released=True)
LIVING_2 = sighting(90.0, claim="d", generation=2)

FREE: list[tuple[str, list[Sighting], set[int]]] = [
    ("nothing anywhere", [NEWLY_EMPTY, NEWLY_EMPTY, NEWLY_EMPTY], {0, 1, 2}),
    ("released everywhere", [RELEASED, RELEASED, RELEASED], {0, 1, 2}),
    ("released here, nothing there", [RELEASED, NEWLY_EMPTY], {0, 1}),
    ("a living holder", [LIVING, LIVING, LIVING], set()),
    ("a living holder shows on one member", [LIVING, NEWLY_EMPTY, NEWLY_EMPTY], set()),
    ("a living holder, others long empty", [LIVING, EMPTY, EMPTY], {1, 2}),
    ("a living holder, old releases", [LIVING, sighting(10.0, claim="b", released=True)], {1}),
    ("a dead holder", [AGED, AGED, AGED], {0, 1, 2}),
    ("a dead holder, one member rebuilt", [AGED, AGED, NEWLY_EMPTY], {0, 1}),
    ("its release reached one member", [RELEASED, LIVING, LIVING], {0, 1, 2}),
    ("another's release says nothing", [sighting(90.0, claim="b", released=True), LIVING], set()),
    ("damage may hide a holder", [DAMAGED, NEWLY_EMPTY], set()),
    ("damage may hide a holder who was away", [DAMAGED, RELEASED, NEWLY_EMPTY], set()),
    ("damage hides nobody from a majority", [DAMAGED, RELEASED, RELEASED], {0, 1, 2}),
    ("left where nobody can write", [LIVING, RELEASED_2, RELEASED_2], {0, 1, 2}),
    ("a contender that failed", [LIVING, LIVING, RELEASED_2], set()),
    ("a contender that may be winning", [LIVING_2, RELEASED, RELEASED], set()),
    ("a longer term is waited for", [sighting(50.0, term=60.0)], set()),
    ("empty for less than a term in play", [sighting(50.0, term=60.0), EMPTY], {1}),
    ("a shorter term ends sooner", [sighting(90.0, term=5.0)], {0}),
]


@pytest.mark.parametrize(
    ("shown", "free"), [case[1:] for case in FREE], ids=[case[0] for case in FREE]
)
def test_where_a_contender_may_write(shown: list[Sighting], free: set[int]) -> None:
    assert free_members(dict(enumerate(shown)), 100.0, term_seconds=TERM, majority=2) == free


# Keeping it beside the work.


def test_a_kept_lease_is_renewed_beside_the_work(world: World) -> None:
    loops: list[Callable[[Wait], None]] = []
    ended: list[bool] = []

    def background(loop: Callable[[Wait], None]) -> Callable[[], None]:
        loops.append(loop)
        return lambda: ended.append(True)

    lease = world.lease()
    lease.acquire()
    waits: list[float] = []

    def wait(seconds: float) -> bool:
        waits.append(seconds)
        world.time.sleep(seconds)
        return len(waits) > 10

    with lease.keep(background):
        loops[0](wait)
        lease.guard()
    assert ended == [True]
    assert waits == [TERM / 3] * 11


def test_a_keeper_tries_again_sooner_in_bad_weather_and_ends_when_the_lease_is_lost() -> None:
    world = World()
    lease = world.lease()
    lease.acquire()
    waits: list[float] = []

    def wait(seconds: float) -> bool:
        waits.append(seconds)
        world.time.sleep(seconds)
        return False

    def background(loop: Callable[[Wait], None]) -> Callable[[], None]:
        loop(wait)
        return lambda: None

    with (
        lost(world.members, 0),
        lost(world.members, 1),
        lease.keep(background),
        pytest.raises(Fenced),
    ):
        lease.guard()
    assert waits[:3] == [TERM / 3, TERM / 15, TERM / 15]
    assert sum(waits) < TERM


def test_a_thread_keeps_it() -> None:
    world = World(1)
    renewed = threading.Event()
    lease = world.lease(term_seconds=0.03)
    lease.acquire()
    world.members.stores[0].before = lambda verb: renewed.set()
    with lease.keep():
        assert renewed.wait(timeout=5)
    lease.release()


def test_a_slow_store_does_not_hold_up_a_lease() -> None:
    world = World(threads=True)
    with slow(world.members, 2):
        lease = world.lease()
        lease.acquire()
        for _ in range(5):
            lease.renew()
        lease.release()
