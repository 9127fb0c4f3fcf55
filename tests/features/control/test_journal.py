"""Streams of the journal: their chain, their fence, burnt numbers, and what a crash leaves."""

import json
import re
from collections.abc import Callable
from itertools import pairwise
from random import Random

import pytest

from mlplatform.control.journal import Entry, Journal, Kind, Stream, chain
from mlplatform.control.quorum import Copy, Reading
from mlplatform.core.digest import blake3_hex, digest_of
from mlplatform.core.errors import Fenced, IntegrityError, NoMajority, NotFound, Unavailable
from mlplatform.core.plan import Action, Outcome, Plan, Result, canonical
from mlplatform.core.seen import Unknown
from mlplatform.ports.store import read_bytes
from tests.features.control.members import AILMENTS, Members, lost, slow
from tests.features.control.weather import START, Fault, VirtualClock, answer_lost
from tests.features.control.weather import lost as call_lost

PLAN = Plan(
    feature="replicate",
    actions=(
        Action(key="a", kind="copy", subject="m@v1", region="eu", reason="wanted"),
        Action(key="b", kind="copy", subject="m@v1", region="us", reason="wanted"),
    ),
    basis={"m@v1": "blake3:0"},
)
OPERATION = "20260301T120000Z-replicate-00beef"


class Crash(BaseException):
    """The process ends here."""


def journal(members: Members, writer: str = "host:1", *, threads: bool = False) -> Journal:
    clock = VirtualClock()
    return Journal(members.control(clock, threads=threads), clock, Random(writer), writer)


def begin(members: Members, writer: str = "host:1") -> Stream:
    return journal(members, writer).start(OPERATION, PLAN, lease="replicate/m@v1", fence=1)


def key(number: int) -> str:
    return f"journal/{OPERATION}/{number:08d}.json"


def note(stream: Stream, text: str = "x", *, fence: int = 1) -> Entry:
    return stream.append(Kind.NOTE, {"text": text}, fence=fence)


# What is written, and that it reads back.


def test_an_entry_says_who_when_under_what_and_after_which() -> None:
    members = Members()
    stream = begin(members)
    note(stream)
    first, second = (json.loads(read_bytes(members.stores[0], key(n))[0]) for n in (1, 2))
    assert first["kind"] == "plan"
    assert first["payload"] == {"plan": PLAN.model_dump(mode="json"), "lease": "replicate/m@v1"}
    assert (first["after"], first["previous"]) == (0, "")
    assert second["at"] == "2026-03-01T12:00:00Z"
    assert (second["writer"], second["fence"], second["after"]) == ("host:1", 1, 1)
    assert second["previous"] == blake3_hex(canonical(first))
    assert first["nonce"] != second["nonce"]


def test_a_stream_reads_back_as_it_was_written() -> None:
    members = Members()
    stream = begin(members)
    stream.append(Kind.INTENT, {"actions": ["a"], "batch": ""}, fence=1)
    done = Outcome(action="a", result=Result.DONE, measured={"seconds": 1.5}, finished_at=START)
    stream.append(Kind.OUTCOME, done.model_dump(mode="json"), fence=1)
    found = journal(members, "host:2").open(OPERATION)
    assert found.entries == stream.entries
    assert (found.plan, found.lease, found.closed) == (PLAN, "replicate/m@v1", False)
    assert found.outcomes() == {"a": done}
    stream.append(Kind.CLOSED, {"text": "done"}, fence=1)
    assert journal(members).open(OPERATION).closed


def test_the_last_outcome_of_an_action_counts() -> None:
    stream = begin(Members())
    for result in (Result.FAILED, Result.DONE):
        outcome = Outcome(action="a", result=result)
        stream.append(Kind.OUTCOME, outcome.model_dump(mode="json"), fence=1)
    assert stream.outcomes()["a"].result is Result.DONE


def test_operation_ids_are_readable_sortable_and_unique() -> None:
    clock = VirtualClock()
    book = Journal(Members().control(), clock, Random(1), "host:1")
    ids = []
    for _ in range(50):
        ids.append(book.new_operation("replicate"))
        clock.sleep(1)
    assert all(re.fullmatch(r"20260301T1200\d\dZ-replicate-[0-9a-f]{6}", name) for name in ids)
    assert ids == sorted(ids)
    same_second = {book.new_operation("replicate") for _ in range(50)}
    assert len(same_second) == 50


def test_operations_since() -> None:
    members = Members()
    for day in ("20260228T120000Z", "20260301T120000Z", "20260302T120000Z"):
        journal(members).start(f"{day}-replicate-00beef", PLAN)
    found = journal(members).operations(since=START)
    assert [name[:8] for name in found] == ["20260301", "20260302"]


def test_an_operation_that_is_not_there() -> None:
    with pytest.raises(NotFound, match="no operation nothing"):
        journal(Members()).open("nothing")


# The fence.


def test_taking_the_next_number_is_the_fence() -> None:
    members = Members()
    deposed = begin(members)
    newer = journal(members, "host:2").open(OPERATION)
    note(newer, "taken over", fence=2)
    with pytest.raises(Fenced, match="00000002"):
        note(deposed)
    with pytest.raises(Fenced, match="its stream was lost"):
        note(deposed)
    # Not even after reading again: the newer generation is in the chain.
    again = journal(members, "host:1").open(OPERATION)
    with pytest.raises(Fenced, match="generation 2, ours is 1"):
        note(again)
    assert [e.writer for e in journal(members).open(OPERATION).entries] == ["host:1", "host:2"]


def test_the_deposed_is_stopped_whatever_it_was_about_to_write() -> None:
    members = Members()
    deposed = begin(members)
    note(journal(members, "host:2").open(OPERATION), fence=2)
    with pytest.raises(Fenced):
        deposed.append(Kind.CLOSED, {"text": "done"}, fence=1)
    (left,) = journal(members).unfinished()
    assert left.operation == OPERATION


# Ailing control stores.


@pytest.mark.parametrize("member", range(3))
@pytest.mark.parametrize("ailment", AILMENTS)
def test_any_one_control_store_may_fail(ailment: str, member: int) -> None:
    members = Members()
    book = journal(members, threads=ailment == "slow")
    stream = book.start(OPERATION, PLAN, lease="l", fence=1)
    note(stream, "before")
    with AILMENTS[ailment](members, member):
        note(stream, "during")
        found = book.open(OPERATION)
        assert [e.payload.get("text") for e in found.entries] == [None, "before", "during"]
        assert [s.operation for s in book.unfinished()] == [OPERATION]
        found.settle()
        note(found, "taken over", fence=2)
        assert [entry.number for entry in book.history()] == [1, 2, 3, 4]
        found.append(Kind.CLOSED, {"text": "done"}, fence=2)
        assert list(book.unfinished()) == []
    assert journal(members).open(OPERATION).closed
    assert list(journal(members).unfinished()) == []


def test_one_after_the_other_may_be_rebuilt_if_somebody_settles_between() -> None:
    members = Members()
    stream = begin(members)
    for member in range(3):
        note(stream, f"before {member}")
        members.rebuild(member)
        journal(members).open(OPERATION).settle()
    assert len(journal(members).open(OPERATION).entries) == 4
    assert all(members.holding(key(number)) == [0, 1, 2] for number in range(1, 5))


def test_without_a_majority_nothing_begins() -> None:
    members = Members()
    with lost(members, 0), lost(members, 2), pytest.raises(NoMajority):
        begin(members)
    assert members.holding(key(1)) == [1]
    assert list(journal(members).unfinished()) == []
    with pytest.raises(NotFound, match="interrupted before it began"):
        _ = journal(members).open(OPERATION).plan


def test_an_operation_that_too_few_know_to_be_unfinished_does_not_begin() -> None:
    members = Members()
    for member in (0, 1):
        members.stores[member].faults["put"] = [None, call_lost()]
    with pytest.raises(NoMajority, match="nothing was begun"):
        begin(members)


# Burnt numbers.


@pytest.mark.parametrize("reached", range(3))
@pytest.mark.parametrize("answers", [0, 1])
def test_a_burnt_number_stops_its_writer(reached: int, answers: int) -> None:
    members = Members()
    stream = begin(members)
    for n, store in enumerate(members.stores):
        store.read_only = n != reached
    with pytest.raises(NoMajority):
        note(stream, "burnt")
    for store in members.stores:
        store.read_only = False
    with pytest.raises(Fenced):
        note(stream, "afterwards")
    assert [e.payload for e in journal(members).open(OPERATION).unsettled] == [{"text": "burnt"}]


@pytest.mark.parametrize("reached", range(3))
def test_a_record_of_a_minority_is_settled_by_whoever_goes_on(reached: int) -> None:
    members = Members()
    stream = begin(members)
    for n, store in enumerate(members.stores):
        store.read_only = n != reached
    with pytest.raises(NoMajority):
        note(stream, "perhaps")
    for store in members.stores:
        store.read_only = False
    found = journal(members, "host:2").open(OPERATION)
    assert len(found.entries) == 1
    found.settle()
    note(found, "goes on", fence=2)
    again = journal(members).open(OPERATION)
    assert [e.payload.get("text") for e in again.entries] == [None, "perhaps", "goes on"]
    assert again.unsettled == ()


@pytest.mark.parametrize("unseen", range(3))
def test_a_record_that_nobody_can_see_is_passed_over(unseen: int) -> None:
    members = Members()
    stream = begin(members)
    for n, store in enumerate(members.stores):
        store.read_only = n != unseen
    with pytest.raises(NoMajority):
        note(stream, "perhaps")
    for store in members.stores:
        store.read_only = False
    with lost(members, unseen):
        found = journal(members, "host:2").open(OPERATION)
        found.settle()
        note(found, "goes on", fence=2)
    again = journal(members).open(OPERATION)
    assert [e.payload.get("text") for e in again.entries] == [None, "goes on"]
    assert [e.payload.get("text") for e in again.unsettled] == ["perhaps"]


def test_two_writers_with_a_member_each_burn_the_number() -> None:
    members = Members()
    one, other = begin(members), journal(members, "host:2").open(OPERATION)
    members.stores[1].read_only = True
    with lost(members, 2), pytest.raises(NoMajority):
        note(one, "one's")
    with lost(members, 0), pytest.raises(NoMajority):
        note(other, "another's")
    members.stores[1].read_only = False
    found = journal(members, "host:3").open(OPERATION)
    assert {e.payload["text"] for e in found.unsettled} == {"one's", "another's"}
    found.settle()
    third = note(found, "goes on", fence=2)
    assert (third.number, third.after) == (3, 1)
    # A write that was under way all the time arrives, and makes a majority: it stays burnt.
    body, _ = read_bytes(members.stores[0], key(2))
    members.stores[1].put(key(2), body)
    again = journal(members).open(OPERATION)
    assert [entry.number for entry in again.entries] == [1, 3]
    assert {e.payload["text"] for e in again.unsettled} == {"one's", "another's"}


def test_a_fenced_writers_record_may_still_have_reached_a_majority() -> None:
    """It stops all the same, and whoever goes on finds one chain."""
    members = Members()
    one, other = begin(members), journal(members, "host:2").open(OPERATION)
    members.stores[1].read_only = True
    with lost(members, 2), pytest.raises(NoMajority):
        note(one, "one's")
    members.stores[1].read_only = False
    with pytest.raises(Fenced):
        note(other, "another's")
    found = journal(members, "host:3").open(OPERATION)
    assert found.entries[-1].payload["text"] == "another's"
    found.settle()
    assert note(found, fence=2).after == 2


# Lost answers: every put of a story, with the policy around the stores.


def story(book: Journal) -> Stream:
    stream = book.start(OPERATION, PLAN, lease="l", fence=1)
    note(stream, "first")
    note(stream, "second")
    stream.append(Kind.CLOSED, {"text": "done"}, fence=1)
    return stream


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("fault", [call_lost(), answer_lost()], ids=["lost", "answer lost"])
@pytest.mark.parametrize("nth", range(5))
def test_a_lost_answer_changes_nothing(count: int, fault: Fault, nth: int) -> None:
    members = Members(count)
    for store in members.stores:
        store.faults["put"] = [None] * nth + [fault]
    clock = VirtualClock()
    book = Journal(members.retrying(clock), clock, Random(1), "host:1")
    stream = story(book)
    assert book.open(OPERATION).entries == stream.entries
    assert [entry.number for entry in stream.entries] == [1, 2, 3, 4]
    assert list(book.unfinished()) == []


# A crash at every call: what the writer knew to be settled stays so, and anyone can go on.


class CrashAt:
    """The process ends at its `call`th call to a store."""

    def __init__(self, call: int) -> None:
        self.left = call

    def __call__(self, verb: str) -> None:
        if not self.left:
            raise Crash
        self.left -= 1


def written_until_the_crash(members: Members) -> tuple[list[Entry], bool]:
    """The entries that the writer knew to be settled, and whether it lived to the end."""
    known: list[Entry] = []
    stream = Stream(journal(members), OPERATION, chain(OPERATION, {}, 2))
    plan = {"plan": PLAN.model_dump(mode="json"), "lease": "l"}
    try:
        known.append(stream.append(Kind.PLAN, plan, fence=1))
        known.append(note(stream, "first"))
        known.append(note(stream, "second"))
        known.append(stream.append(Kind.CLOSED, {"text": "done"}, fence=1))
    except Crash:
        return known, False
    return known, True


@pytest.mark.parametrize(("count", "rebuilt"), [(1, None), (3, None), (3, 0), (3, 1), (3, 2)])
def test_a_crash_anywhere_leaves_a_stream_to_go_on_with(count: int, rebuilt: int | None) -> None:
    for call in range(100):
        members = Members(count)
        crash = CrashAt(call)
        for store in members.stores:
            store.before = crash
        known, finished = written_until_the_crash(members)
        for store in members.stores:
            store.before = lambda verb: None
        if rebuilt is not None:
            members.rebuild(rebuilt)
        _go_on(members, known)
        if finished:
            assert call > 3 * count
            return
    pytest.fail("it never finished")


def _go_on(members: Members, known: list[Entry]) -> None:
    """Somebody else does; all that was known to be settled still is."""
    try:
        found = journal(members, "host:2").open(OPERATION)
    except NotFound:
        assert not known
        return
    found.settle()
    assert [e for e in found.entries if e in known] == known
    if found.closed or not found.entries:
        return
    note(found, "goes on", fence=2)
    again = journal(members).open(OPERATION)
    assert again.entries == found.entries
    assert all(later.after == before.number for before, later in pairwise(again.entries))


# Damage.


def damage_all(members: Members, number: int, change: Callable[[bytes], bytes]) -> None:
    for store in members.stores:
        body, _ = read_bytes(store, key(number))
        store.put(key(number), change(body))


def written(count: int = 3) -> Members:
    members = Members(count)
    stream = begin(members)
    for text in ("two", "three", "four"):
        note(stream, text)
    return members


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "changed": lambda body: body.replace(b'"two"', b'"2"'),
    "truncated": lambda body: body[:-10],
    "empty": lambda body: b"",
    "reformatted": lambda body: json.dumps(json.loads(body)).encode(),
    "of another operation": lambda body: body.replace(b"00beef", b"00cafe"),
    "of another number": lambda body: body.replace(b'"number":2', b'"number":9'),
    "with a field more": lambda body: body.replace(b'"kind"', b'"extra":1,"kind"'),
}


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_changed_entry_is_named(damage: str, count: int) -> None:
    members = written(count)
    damage_all(members, 2, DAMAGE[damage])
    with pytest.raises(IntegrityError, match=f"entry 2 of operation {OPERATION}"):
        journal(members).open(OPERATION)


@pytest.mark.parametrize("member", range(3))
@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_in_one_control_store_of_three_changes_nothing(damage: str, member: int) -> None:
    members = written()
    body, _ = read_bytes(members.stores[member], key(2))
    members.stores[member].put(key(2), DAMAGE[damage](body))
    assert len(journal(members).open(OPERATION).entries) == 4


def test_a_missing_entry_is_named() -> None:
    members = written()
    for store in members.stores:
        store.delete(key(3))
    with pytest.raises(IntegrityError, match=r"entry 3 .* is missing: entry 4 .* follows blake3:"):
        journal(members).open(OPERATION)


def test_a_missing_entry_may_lie_where_nobody_can_read_it() -> None:
    members = written()
    for store in members.stores[:2]:
        store.delete(key(3))
    with lost(members, 2), pytest.raises(NoMajority, match="entry 3"):
        journal(members).open(OPERATION)


def test_the_last_entry_of_a_single_store_must_be_whole() -> None:
    members = written(1)
    damage_all(members, 4, DAMAGE["truncated"])
    with pytest.raises(IntegrityError, match=r"entry 4 .* is not a journal entry"):
        journal(members).open(OPERATION)


def test_what_is_not_an_entry_at_all_is_let_lie() -> None:
    members = written()
    members.stores[0].put(f"journal/{OPERATION}/README.txt", b"hello")
    assert len(journal(members).open(OPERATION).entries) == 4


# The chain as a table: which member holds what → entries, the rest.


def entry(number: int, *, after: Entry | None = None, text: str = "") -> Entry:
    return Entry(
        operation="op",
        number=number,
        kind=Kind.NOTE,
        at=START,
        writer="w",
        fence=1,
        after=after.number if after else 0,
        previous=blake3_hex(after.encoded) if after else "",
        nonce=f"{number}{text}",
        payload={"text": text},
    )


ONE = entry(1)
TWO = entry(2, after=ONE)
TWO_OTHER = entry(2, after=ONE, text="other")
THREE = entry(3, after=TWO)
THREE_PAST = entry(3, after=ONE, text="past 2")
FOUR = entry(4, after=THREE)

Held = list[Entry | None]
AWAY = entry(99)
"""Stands for a member that cannot be read."""

CHAINS: list[tuple[str, dict[int, Held], list[Entry], list[Entry]]] = [
    ("nothing", {}, [], []),
    ("all hold all", {1: [ONE] * 3, 2: [TWO] * 3}, [ONE, TWO], []),
    ("a majority is enough", {1: [ONE, ONE, None], 2: [None, TWO, TWO]}, [ONE, TWO], []),
    ("a head on a minority", {1: [ONE] * 3, 2: [TWO, None, None]}, [ONE], [TWO]),
    ("a member away", {1: [ONE, ONE, AWAY], 2: [TWO, TWO, AWAY]}, [ONE, TWO], []),
    ("away, and perhaps holding it", {1: [ONE, ONE, AWAY], 2: [TWO, None, AWAY]}, [ONE], [TWO]),
    (
        "what a settled entry follows is settled, on however few",
        {1: [ONE, None, None], 2: [None, TWO, None], 3: [THREE] * 3},
        [ONE, TWO, THREE],
        [],
    ),
    (
        "two records for a number, one with a majority",
        {1: [ONE] * 3, 2: [TWO, TWO, TWO_OTHER]},
        [ONE, TWO],
        [TWO_OTHER],
    ),
    (
        "two records, neither",
        {1: [ONE] * 3, 2: [TWO, None, TWO_OTHER]},
        [ONE],
        [TWO, TWO_OTHER],
    ),
    (
        "passed over, whatever its copies",
        {1: [ONE] * 3, 2: [TWO] * 3, 3: [THREE_PAST] * 3},
        [ONE, THREE_PAST],
        [TWO],
    ),
    (
        "only the first is missing its majority",
        {1: [ONE, None, None]},
        [],
        [ONE],
    ),
    (
        "a tail of two",
        {1: [ONE] * 3, 2: [TWO] * 3, 3: [THREE, None, None], 4: [FOUR, None, None]},
        [ONE, TWO],
        [THREE, FOUR],
    ),
]


@pytest.mark.parametrize(
    ("held", "entries", "unsettled"),
    [case[1:] for case in CHAINS],
    ids=[case[0] for case in CHAINS],
)
def test_a_chain(held: dict[int, Held], entries: list[Entry], unsettled: list[Entry]) -> None:
    def copy(record: Entry | None) -> Copy | Unknown | None:
        if record is AWAY:
            return Unknown("away")
        return Copy(record.encoded, "tag") if record else None

    found = {n: Reading(tuple(copy(record) for record in records)) for n, records in held.items()}
    judged = chain("op", found, majority=2)
    assert list(judged.entries) == entries
    assert sorted(judged.unsettled, key=lambda e: e.nonce) == unsettled
    assert judged.last_number == max(held, default=0)


def test_a_chain_cannot_lead_in_a_circle() -> None:
    forged = ONE.model_copy(update={"after": 1, "previous": blake3_hex(ONE.encoded)})
    found = {
        1: Reading((Copy(forged.encoded, "t"), Copy(ONE.encoded, "t"), Copy(forged.encoded, "t")))
    }
    with pytest.raises(IntegrityError):
        chain("op", found, majority=2)


# What is unfinished, and history.


def test_unfinished_operations_by_lease() -> None:
    members = Members()
    book = journal(members)
    for name, lease in (("op-1", "l1"), ("op-2", "l2"), ("op-3", "l1")):
        book.start(name, PLAN, lease=lease)
    assert [s.operation for s in book.unfinished()] == ["op-1", "op-2", "op-3"]
    assert [s.operation for s in book.unfinished(lease="l1")] == ["op-1", "op-3"]
    book.open("op-1").append(Kind.CLOSED, {"text": "done"}, fence=0)
    assert [s.operation for s in book.unfinished(lease="l1")] == ["op-3"]
    assert book.operations() == ["op-1", "op-2", "op-3"]


def test_a_hint_left_behind_is_cleaned_up() -> None:
    members = Members()
    stream = begin(members)
    for store in members.stores:
        store.faults["delete"] = [call_lost()]
    stream.append(Kind.CLOSED, {"text": "done"}, fence=1)
    assert members.holding(f"unfinished/{OPERATION}.json") == [0, 1, 2]
    assert list(journal(members).unfinished()) == []
    assert members.holding(f"unfinished/{OPERATION}.json") == []


def test_a_crash_before_anything_was_begun_is_nothing_to_finish() -> None:
    members = Members()
    for store in members.stores:
        store.faults["put"] = [None, Fault(Unavailable("crash"))]
    with pytest.raises(NoMajority):
        begin(members)
    assert list(journal(members).unfinished()) == []
    assert not journal(members).open(OPERATION).begun
    assert journal(members).operations() == [OPERATION]


def test_a_hint_to_nothing_and_a_damaged_hint_are_passed_over() -> None:
    members = Members()
    begin(members)
    for store in members.stores:
        store.put("unfinished/gone.json", b'{"lease":"replicate/m@v1"}')
    members.stores[1].put(f"unfinished/{OPERATION}.json", b"{")
    found = journal(members).unfinished(lease="replicate/m@v1")
    assert [stream.operation for stream in found] == [OPERATION]


def test_an_abandoned_operation_is_not_resumed() -> None:
    members = Members()
    begin(members)
    journal(members).abandon(OPERATION)
    assert list(journal(members).unfinished()) == []


def test_history_merges_by_time_and_keeps_the_order_of_each_operation() -> None:
    members = Members()
    clock, ahead = VirtualClock(), VirtualClock()
    ahead.sleep(3600)  # a machine whose wall clock is an hour off
    early = Journal(members.control(), clock, Random(1), "host:1")
    late = Journal(members.control(), ahead, Random(2), "host:2")
    first = early.start("op-1", PLAN)
    second = late.start("op-2", PLAN)
    for text in ("a", "b"):
        clock.sleep(1)
        ahead.sleep(1)
        note(second, text)
        note(first, text)
    note(late.open("op-1"), "from the other machine")
    clock.sleep(1)
    note(early.open("op-1"), "back again")
    told = [(e.operation, e.number) for e in early.history()]
    assert [number for name, number in told if name == "op-1"] == [1, 2, 3, 4, 5]
    assert [number for name, number in told if name == "op-2"] == [1, 2, 3]
    assert told[:3] == [("op-1", 1), ("op-1", 2), ("op-1", 3)]
    assert [e.number for e in early.history("op-2")] == [1, 2, 3]


def test_one_bad_stream_does_not_silence_the_others() -> None:
    members = written()
    journal(members).start("zz-good", PLAN)
    damage_all(members, 2, DAMAGE["changed"])
    history = journal(members).history()
    assert next(history).operation == "zz-good"
    with pytest.raises(IntegrityError, match="entry 2"):
        next(history)


def test_a_slow_member_does_not_hold_up_the_journal() -> None:
    members = Members()
    with slow(members, 1):
        stream = journal(members, threads=True).start(OPERATION, PLAN)
        for _ in range(10):
            note(stream)
    assert len(stream.entries) == 11


# Kept elsewhere meanwhile.


def test_a_journal_that_was_kept_elsewhere_is_imported_once() -> None:
    aside, members = Members(1), Members()
    stream = begin(aside)
    note(stream)
    with lost(members, 1):
        assert list(journal(members).import_from(journal(aside))) == [(OPERATION, None)]
    assert journal(members).open(OPERATION).entries == stream.entries
    assert [left.operation for left in journal(members).unfinished()] == [OPERATION]
    assert list(journal(members).import_from(journal(aside))) == []
    stream.append(Kind.CLOSED, {"text": "done"}, fence=1)
    assert list(journal(members).import_from(journal(aside))) == [(OPERATION, None)]
    assert journal(members).open(OPERATION).closed


def test_an_operation_that_says_something_else_here_is_not_overwritten() -> None:
    aside, members = Members(1), Members()
    note(begin(aside), "there")
    note(begin(members, "host:2"), "here")
    ((name, error),) = journal(members).import_from(journal(aside))
    assert (name, type(error)) == (OPERATION, Fenced)
    assert journal(members).open(OPERATION).entries[-1].payload == {"text": "here"}


def test_one_stream_that_is_damaged_keeps_no_other_from_being_imported() -> None:
    aside, members = Members(1), Members()
    names = [f"2026010{day}T030405Z-failover-5b6c01" for day in (1, 2, 3)]
    for name in names:
        note(journal(aside).start(name, PLAN, lease="failover/api", fence=1))
    damaged = f"journal/{names[1]}/00000001.json"
    aside.stores[0].put(damaged, b"{}", digests=digest_of(b"{}"))
    told = dict(journal(members).import_from(journal(aside)))
    assert {name: type(error) for name, error in told.items()} == {
        names[0]: type(None),
        names[1]: IntegrityError,
        names[2]: type(None),
    }
    assert names[1] in str(told[names[1]])
    assert set(journal(members).operations()) == {names[0], names[2]}


def test_a_journal_cannot_be_imported_to_where_no_majority_takes_it() -> None:
    aside, members = Members(1), Members()
    begin(aside)
    with lost(members, 0), lost(members, 1), pytest.raises(NoMajority):
        list(journal(members).import_from(journal(aside)))


def test_a_revision_is_the_plan_from_then_on() -> None:
    members = Members()
    stream = begin(members)
    revised = PLAN.model_copy(update={"actions": PLAN.actions[:1]})
    stream.append(Kind.REVISION, {"plan": revised.model_dump(mode="json")}, fence=1)
    assert journal(members).open(OPERATION).plan == revised
