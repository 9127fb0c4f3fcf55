"""A store under the policy: every verb in bad weather, and every lost answer settled."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

import pytest

from mlplatform.adapters.memory import MemoryStore
from mlplatform.control.retry import Retry, RetryingStore, digests_read_back
from mlplatform.core.digest import UNKNOWN_DIGESTS, Digests, Evidence, digest_of
from mlplatform.core.errors import (
    ConditionFailed,
    ContainerMissing,
    Denied,
    DigestMismatch,
    NotFound,
    Throttled,
    Unavailable,
)
from mlplatform.ports.store import (
    ABSENT,
    ALWAYS,
    Condition,
    Matches,
    ObjectStore,
    Part,
    Span,
    Stat,
    StoreFeatures,
    Upload,
    read_bytes,
)
from tests.features.control.weather import Fault, FaultyStore, VirtualClock, answer_lost, lost

OURS, OLD, THEIRS = b"ours, with a nonce", b"what was there", b"somebody else's, of a length"


@dataclass
class Ground:
    inner: MemoryStore
    faulty: FaultyStore
    store: RetryingStore
    clock: VirtualClock


@pytest.fixture
def ground() -> Ground:
    return make_ground()


def make_ground(inner: MemoryStore | None = None) -> Ground:
    clock = VirtualClock()
    inner = inner or MemoryStore("a", clock=clock)
    faulty = FaultyStore(inner)
    return Ground(inner, faulty, RetryingStore(faulty, Retry(clock, Random(0))), clock)


def content(store: ObjectStore, key: str = "k") -> bytes | None:
    try:
        return read_bytes(store, key)[0]
    except NotFound:
        return None


def test_it_says_what_the_store_says(ground: Ground) -> None:
    assert ground.store.url == "memory://a"
    assert ground.store.features is ground.inner.features


# Verbs that may be repeated as they are.


@pytest.mark.parametrize("fault", [lost(), answer_lost()], ids=["lost", "answer lost"])
@pytest.mark.parametrize("verb", ["put", "get", "stat", "delete", "begin", "uploads", "list"])
def test_every_verb_is_tried_again(ground: Ground, verb: str, fault: Fault) -> None:
    ground.inner.put("k", OLD)
    ground.inner.begin("u", size_bytes=4, part_bytes=4)
    ground.faulty.faults[verb] = [fault, fault]
    store = ground.store
    calls: dict[str, Callable[[], object]] = {
        "put": lambda: store.put("k", OURS),
        "get": lambda: read_bytes(store, "k"),
        "stat": lambda: store.stat("k"),
        "delete": lambda: store.delete("k"),
        "begin": lambda: store.begin("v", size_bytes=4, part_bytes=4),
        "uploads": lambda: [upload.key for upload in store.uploads("u")],
        "list": lambda: [stat.key for stat in store.list("")],
    }
    calls[verb]()
    assert ground.faulty.calls.count(verb) == 3
    assert len(ground.clock.slept) == 2


@pytest.mark.parametrize("fault", [lost(), answer_lost()], ids=["lost", "answer lost"])
@pytest.mark.parametrize("verb", ["part", "copy_range", "parts", "abort"])
def test_every_verb_of_an_upload_is_tried_again(ground: Ground, verb: str, fault: Fault) -> None:
    ground.inner.put("source", b"abcd")
    upload = ground.store.begin("k", size_bytes=4, part_bytes=4)
    ground.faulty.faults[verb] = [fault]
    calls: dict[str, Callable[[], object]] = {
        "part": lambda: upload.part(0, b"abcd", digests=digest_of(b"abcd")),
        "copy_range": lambda: upload.copy_range(0, "source", Span(0, 4), when=ALWAYS),
        "parts": upload.parts,
        "abort": upload.abort,
    }
    calls[verb]()
    assert ground.faulty.calls.count(verb) == 2


def test_uploads_found_again_are_under_the_policy_too(ground: Ground) -> None:
    ground.inner.begin("k", size_bytes=4, part_bytes=4)
    (upload,) = ground.store.uploads("")
    ground.faulty.faults["part"] = [lost()]
    assert upload.part(0, b"abcd", digests=UNKNOWN_DIGESTS).index == 0
    assert (upload.key, upload.id) == ("k", "upload-1")
    assert upload.started is not None


def test_a_body_is_the_callers_to_repeat(ground: Ground) -> None:
    ground.inner.put("k", OLD)
    with pytest.raises(Unavailable, match="in mid-read"), ground.store.get("k"):
        raise Unavailable("in mid-read")
    assert ground.faulty.calls == ["get"]


def test_what_cannot_succeed_is_asked_once(ground: Ground) -> None:
    with pytest.raises(NotFound):
        ground.store.stat("k")
    ground.faulty.faults["put"] = [Fault(Denied("no", right="put"))]
    with pytest.raises(Denied):
        ground.store.put("k", OURS, when=ABSENT)
    assert ground.faulty.calls == ["stat", "put"]


# Listing goes on where it broke off.


@pytest.mark.parametrize("broken_at", range(6))
@pytest.mark.parametrize("shallow", [False, True])
def test_a_listing_goes_on_after_the_last_key(
    ground: Ground, broken_at: int, shallow: bool
) -> None:
    for key in ("a", "b/1", "b/2", "c", "d/1"):
        ground.inner.put(key, b"x")
    expected = [stat.key for stat in ground.inner.list("", shallow=shallow)]
    ground.faulty.faults["next"] = [None] * broken_at + [lost()]
    assert [stat.key for stat in ground.store.list("", shallow=shallow)] == expected


def test_a_listing_that_keeps_breaking_still_ends(ground: Ground) -> None:
    for number in range(40):
        ground.inner.put(f"k{number:02}", b"x")
    ground.faulty.faults["next"] = [None, lost()] * 60
    assert len(list(ground.store.list("k"))) == 40


def test_a_listing_whose_store_is_gone_raises(ground: Ground) -> None:
    ground.inner.put("k", b"x")
    ground.faulty.faults["next"] = [None] + [lost()] * 50
    with pytest.raises(Unavailable):
        list(ground.store.list(""))


def test_long_listings_come_whole() -> None:
    ground = make_ground()
    for number in range(2500):
        ground.inner.put(f"k{number:04}", b"")
    keys = [stat.key for stat in ground.store.list("k", after="k0009")]
    assert keys == [f"k{number:04}" for number in range(10, 2500)]


# Conditional puts: what was there, what the weather did, who wrote meanwhile → what it amounts to.


@dataclass(frozen=True)
class Case:
    name: str
    condition: str
    faults: tuple[Fault | None, ...]
    meanwhile: bytes | None
    """What somebody else writes right after our first attempt."""
    result: type[Exception] | None
    content: bytes
    puts: int


CASES = [
    Case("create, fair weather", "absent", (), None, None, OURS, 1),
    Case("create, the call was lost", "absent", (lost(),), None, None, OURS, 2),
    Case("create, the answer was lost", "absent", (answer_lost(),), None, None, OURS, 1),
    Case("create, both", "absent", (lost(), answer_lost()), None, None, OURS, 2),
    Case("create, lost, another came", "absent", (lost(),), THEIRS, ConditionFailed, THEIRS, 1),
    Case("create, lost, another wrote the same", "absent", (lost(),), OURS, None, OURS, 1),
    Case("create, sent away", "absent", (Fault(Throttled("slow")),), None, None, OURS, 2),
    Case(
        "create, sent away although it worked",
        "absent",
        (Fault(Throttled("slow"), after=True),),
        None,
        None,
        OURS,
        2,
    ),
    Case(
        "create, sent away, another came",
        "absent",
        (Fault(Throttled("slow")),),
        THEIRS,
        ConditionFailed,
        THEIRS,
        2,
    ),
    Case(
        "create, corrupted on the way",
        "absent",
        (Fault(DigestMismatch("bad")),),
        None,
        None,
        OURS,
        2,
    ),
    Case("swap, fair weather", "matches", (), None, None, OURS, 1),
    Case("swap, the call was lost", "matches", (lost(),), None, None, OURS, 2),
    Case("swap, the answer was lost", "matches", (answer_lost(),), None, None, OURS, 1),
    Case("swap, lost, another came", "matches", (lost(),), THEIRS, ConditionFailed, THEIRS, 1),
    Case("swap, lost, another wrote the same", "matches", (lost(),), OURS, None, OURS, 1),
    Case(
        "swap, sent away although it worked",
        "matches",
        (Fault(Throttled("slow"), after=True),),
        None,
        None,
        OURS,
        2,
    ),
    Case(
        "swap, answer lost, another came after us",
        "matches",
        (answer_lost(),),
        THEIRS,
        ConditionFailed,
        THEIRS,
        1,
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_conditional_put(ground: Ground, case: Case) -> None:
    when: Condition = ABSENT
    if case.condition == "matches":
        when = Matches(ground.inner.put("k", OLD).tag)
    ground.faulty.faults["put"] = list(case.faults)
    if case.meanwhile is not None:
        theirs = case.meanwhile
        _after_first(ground, "put", lambda: ground.inner.put("k", theirs))
    if case.result:
        with pytest.raises(case.result):
            ground.store.put("k", OURS, when=when)
    else:
        stat = ground.store.put("k", OURS, when=when)
        assert stat == ground.inner.stat("k")
    assert content(ground.inner) == case.content
    assert ground.faulty.calls.count("put") == case.puts


def _after_first(ground: Ground, verb: str, work: Callable[[], object]) -> None:
    """Do `work` when the first call after the first `verb` begins."""
    seen: list[str] = []

    def before(name: str) -> None:
        if verb in seen and seen[-1] == verb and "done" not in seen:
            seen.append("done")
            work()
        seen.append(name)

    ground.faulty.before = before


def test_a_refusal_that_is_in_no_doubt_is_not_read_back(ground: Ground) -> None:
    ground.inner.put("k", OURS)
    with pytest.raises(ConditionFailed):
        ground.store.put("k", OURS, when=ABSENT)
    assert ground.faulty.calls == ["put"]


def test_a_swap_whose_object_went_away(ground: Ground) -> None:
    tag = ground.inner.put("k", OLD).tag
    ground.faulty.faults["put"] = [lost()]
    _after_first(ground, "put", lambda: ground.inner.delete("k"))
    with pytest.raises(ConditionFailed, match="nothing is there"):
        ground.store.put("k", OURS, when=Matches(tag))


def test_reading_back_is_itself_tried_again(ground: Ground) -> None:
    ground.faulty.faults = {"put": [answer_lost()], "get": [lost(), answer_lost()]}
    ground.store.put("k", OURS, when=ABSENT)
    assert ground.faulty.calls == ["put", "get", "get", "get"]


def test_a_doubt_that_cannot_be_settled_is_raised_as_such(ground: Ground) -> None:
    ground.faulty.faults = {"put": [answer_lost()], "get": [lost()] * 99}
    with pytest.raises(Unavailable):
        ground.store.put("k", OURS, when=ABSENT)
    assert ground.faulty.calls.count("put") == 1


def test_a_bucket_that_vanished_is_not_an_empty_place(ground: Ground) -> None:
    ground.faulty.faults["put"] = [lost()]
    _after_first(ground, "put", ground.inner.drop)
    with pytest.raises(ContainerMissing):
        ground.store.put("k", OURS, when=ABSENT)


@pytest.mark.parametrize(
    "theirs", [b"", OURS[:-1], OURS + b"!", bytes(len(OURS)), bytes(3 * 256 * 1024)]
)
def test_only_equal_bytes_are_ours(ground: Ground, theirs: bytes) -> None:
    ground.faulty.faults["put"] = [lost()]
    _after_first(ground, "put", lambda: ground.inner.put("k", theirs))
    with pytest.raises(ConditionFailed):
        ground.store.put("k", OURS, when=ABSENT)


def test_long_bodies_are_compared_to_the_end(ground: Ground) -> None:
    body = bytes(1024 * 1024) + b"1"
    ground.faulty.faults["put"] = [answer_lost()]
    assert ground.store.put("k", body, when=ABSENT).size_bytes == len(body)
    ground.faulty.faults["put"] = [lost()]
    _after_first(ground, "put", lambda: ground.inner.put("l", body[:-1] + b"2"))
    with pytest.raises(ConditionFailed):
        ground.store.put("l", body, when=ABSENT)


def test_a_conditional_delete_whose_answer_was_lost(ground: Ground) -> None:
    tag = ground.inner.put("k", OLD).tag
    ground.faulty.faults["delete"] = [answer_lost()]
    ground.store.delete("k", when=Matches(tag))
    assert content(ground.inner) is None


def test_a_conditional_delete_does_not_take_what_came_after(ground: Ground) -> None:
    tag = ground.inner.put("k", OLD).tag
    ground.faulty.faults["delete"] = [answer_lost()]
    _after_first(ground, "delete", lambda: ground.inner.put("k", THEIRS))
    with pytest.raises(ConditionFailed):
        ground.store.delete("k", when=Matches(tag))
    assert content(ground.inner) == THEIRS


# Completion: the upload may be gone because an attempt before worked.

BODY = b"part 0, part 1"


def _parts(upload: Upload) -> list[Part]:
    return [
        upload.part(index, BODY[start : start + 7], digests=digest_of(BODY[start : start + 7]))
        for index, start in enumerate((0, 7))
    ]


def _complete(ground: Ground, when: Condition, digests: Digests | None = None) -> Stat:
    upload = ground.store.begin("k", size_bytes=len(BODY), part_bytes=7)
    parts = _parts(upload)
    given = digest_of(BODY) if digests is None else digests
    return upload.complete(parts, digests=given, when=when)


DIALECTS = {
    "states digests": StoreFeatures(evidence=Evidence.STORE_WHOLE),
    "states none": StoreFeatures(evidence=Evidence.READ_BACK),
}


@pytest.fixture(params=DIALECTS)
def dialect(request: pytest.FixtureRequest) -> Ground:
    return make_ground(MemoryStore("a", features=DIALECTS[request.param]))


@pytest.mark.parametrize(
    "faults",
    [(), (lost(),), (answer_lost(),), (lost(), answer_lost()), (answer_lost(), answer_lost())],
    ids=lambda faults: ", ".join("after" if f.after else "before" for f in faults) or "fair",
)
@pytest.mark.parametrize("condition", ["always", "absent", "matches"])
def test_completion(dialect: Ground, condition: str, faults: tuple[Fault, ...]) -> None:
    when: Condition = ABSENT if condition == "absent" else ALWAYS
    if condition == "matches":
        when = Matches(dialect.inner.put("k", OLD).tag)
    dialect.faulty.faults["complete"] = list(faults)
    assert _complete(dialect, when) == dialect.inner.stat("k")
    assert content(dialect.inner) == BODY


@pytest.mark.parametrize("theirs", [THEIRS, BODY[::-1]], ids=["another size", "the same size"])
@pytest.mark.parametrize("condition", ["absent", "matches"])
def test_completion_when_another_came_first(dialect: Ground, condition: str, theirs: bytes) -> None:
    when: Condition = ABSENT
    if condition == "matches":
        when = Matches(dialect.inner.put("k", OLD).tag)
    dialect.faulty.faults["complete"] = [lost()]
    _after_first(dialect, "complete", lambda: dialect.inner.put("k", theirs))
    with pytest.raises(ConditionFailed):
        _complete(dialect, when)
    assert content(dialect.inner) == theirs


def test_completion_when_another_completed_the_same(dialect: Ground) -> None:
    dialect.faulty.faults["complete"] = [lost()]
    _after_first(dialect, "complete", lambda: dialect.inner.put("k", BODY))
    assert _complete(dialect, ABSENT) == dialect.inner.stat("k")


def test_completion_of_an_upload_that_was_aborted(dialect: Ground) -> None:
    dialect.faulty.faults["complete"] = [lost()]
    _after_first(dialect, "complete", lambda: _abort_all(dialect))
    with pytest.raises(NotFound):
        _complete(dialect, ABSENT)


def _abort_all(ground: Ground) -> None:
    for upload in ground.inner.uploads(""):
        upload.abort()


def test_completion_is_settled_by_the_parts_where_no_digest_is_given(ground: Ground) -> None:
    ground.faulty.faults["complete"] = [answer_lost()]
    assert _complete(ground, ABSENT, UNKNOWN_DIGESTS).size_bytes == len(BODY)


def test_bytes_are_read_back_only_where_no_digest_is_stated() -> None:
    for name, features in DIALECTS.items():
        ground = make_ground(MemoryStore("a", features=features))
        read: list[str] = []

        def read_back(store: ObjectStore, key: str, stat: Stat, read: list[str] = read) -> Digests:
            read.append(key)
            return digests_read_back(store, key, stat)

        ground.store = RetryingStore(
            ground.faulty, Retry(ground.clock, Random(0)), read_back=read_back
        )
        ground.faulty.faults["complete"] = [answer_lost()]
        _complete(ground, ABSENT)
        assert read == (["k"] if name == "states none" else [])
