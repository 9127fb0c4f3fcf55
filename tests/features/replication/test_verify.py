"""Is a replica what its manifest says? Each way of being wrong, and of not being known."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from mlplatform.adapters.memory import MemoryStore
from mlplatform.control.catalogue import read_region
from mlplatform.control.executors import InlineExecutor
from mlplatform.core.digest import Evidence
from mlplatform.core.errors import (
    DeadlineExceeded,
    Denied,
    Interrupted,
    MlplatformError,
    Unavailable,
)
from mlplatform.core.replica import RegionSeen
from mlplatform.core.seen import Unknown
from mlplatform.ports.progress import SilentProgress
from mlplatform.ports.store import ObjectStore, StoreFeatures
from mlplatform.replication.verify import Depth, Verdict, Verification, exit_code, verify

from .world import (
    AZURE,
    BLOCK,
    FILES,
    S3,
    SUBJECT,
    Call,
    Model,
    Watched,
    memory,
    mixed,
    noise,
    patient,
    stored,
)

QUICK, DEEP = Depth.QUICK, Depth.DEEP
LARGE = "weights/large.bin"


def check(
    store: ObjectStore,
    depth: Depth,
    *,
    seen: RegionSeen | Unknown | None = None,
    expected: str | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Verification:
    return verify(
        store,
        seen or read_region(store, "eu", SUBJECT),
        "eu",
        depth,
        retry=patient(),
        executor=InlineExecutor(),
        progress=SilentProgress(),
        expected_digest=expected,
        stop=stop,
    )


def replica(features: StoreFeatures = S3) -> tuple[Model, MemoryStore]:
    model, store = mixed(), memory("eu", features)
    stored(model, "eu", store)
    return model, store


@pytest.mark.parametrize("features", [S3, AZURE, FILES], ids=["s3", "azure", "files"])
@pytest.mark.parametrize("depth", Depth)
def test_a_good_replica(features: StoreFeatures, depth: Depth) -> None:
    model, store = replica(features)
    result = check(store, depth, expected=model.manifest.digest)
    assert result.verdict is Verdict.GOOD
    assert result.checked_files == len(model.bodies)
    assert result.checked_bytes == model.size_bytes
    assert set(result.objects) == set(model.bodies)
    assert exit_code([result]) == 0


# What is done to a replica, and what quick and deep say of it, on a store that states digests and
# on one that does not. `None` is good.
Damage = Callable[[Model, MemoryStore], object]
DAMAGE: dict[str, tuple[Damage, dict[str, tuple[str | None, str | None]]]] = {
    "gone": (
        lambda m, s: s.delete(m.key(LARGE)),
        {"states": ("missing", "missing"), "mute": ("missing", "missing")},
    ),
    "shorter": (
        lambda m, s: s.put(m.key(LARGE), m.bodies[LARGE][:-1]),
        {"states": ("size", "size"), "mute": ("size", "size")},
    ),
    "longer": (
        lambda m, s: s.put(m.key(LARGE), m.bodies[LARGE] + b"x"),
        {"states": ("size", "size"), "mute": ("size", "size")},
    ),
    "other bytes of the same size": (
        lambda m, s: s.put(m.key(LARGE), noise(len(m.bodies[LARGE]), 9)),
        {"states": ("digest", "digest"), "mute": ("unknown", "digest")},
    ),
    "written again, the same": (
        lambda m, s: s.put(m.key(LARGE), m.bodies[LARGE]),
        {"states": (None, None), "mute": ("unknown", None)},
    ),
    "rotten below a store that states the old digest": (
        lambda m, s: s.damage(m.key(LARGE), 200),
        {"states": (None, "digest"), "mute": (None, "digest")},
    ),
}


@pytest.mark.parametrize("what", DAMAGE)
@pytest.mark.parametrize("kind", ["states", "mute"])
@pytest.mark.parametrize("depth", Depth)
def test_what_each_depth_sees(what: str, kind: str, depth: Depth) -> None:
    model, store = replica(S3 if kind == "states" else FILES)
    damage, said = DAMAGE[what]
    damage(model, store)
    expected = said[kind][depth is DEEP]
    result = check(store, depth)
    if expected is None:
        assert result.verdict is Verdict.GOOD
    elif expected == "unknown":
        assert result.verdict is Verdict.UNKNOWN
        assert LARGE in result.unknown[0]
        assert "--deep" in result.unknown[0]
        assert exit_code([result]) == 5
    else:
        (finding,) = result.findings
        assert (finding.path, finding.problem) == (LARGE, expected)
        assert "Checksum mismatch" in finding.detail or expected == "missing"
        assert exit_code([result]) == 3
        assert LARGE not in result.objects
    assert set(result.objects) >= set(model.bodies) - {LARGE}


@pytest.mark.parametrize(
    ("bits", "ranges"),
    [
        ([0], ["0-64"]),
        ([63, 64], ["0-128"]),
        ([0, 200], ["0-64", "192-256"]),
        ([130, 200, 300], ["128-320"]),
        ([452], ["448-453"]),
        (list(range(0, 453, BLOCK)), ["0-453"]),
    ],
)
def test_deep_names_the_byte_ranges(bits: list[int], ranges: list[str]) -> None:
    model, store = replica()
    for at in bits:
        store.damage(model.key(LARGE), at)
    (finding,) = check(store, DEEP).findings
    assert list(finding.ranges) == ranges
    assert all(one in finding.detail for one in ranges)


def test_many_bad_ranges_are_counted_in_words() -> None:
    model, store = Model({"a.bin": noise(40 * BLOCK)}), memory()
    stored(model, "eu", store)
    for block in range(0, 40, 2):
        store.damage(model.key("a.bin"), block * BLOCK)
    (finding,) = check(store, DEEP).findings
    assert len(finding.ranges) == 20
    assert "and 12 more" in finding.detail


def test_bytes_that_were_only_read_wrong_are_not_wrong() -> None:
    model, store = replica()
    flipped: list[Call] = []

    def flip(call: Call) -> None:
        if call.verb == "get" and call.span and call.key == model.key(LARGE):
            if len(flipped) == 1:
                store.damage(call.key, 10)  # back again
            elif not flipped:
                store.damage(call.key, 10)
            flipped.append(call)

    watched = Watched(store, before=flip)
    assert check(watched, DEEP, seen=read_region(store, "eu", SUBJECT)).verdict is Verdict.GOOD


def test_reads_that_break_off_are_read_again() -> None:
    _, store = replica()
    watched = Watched(store)
    seen = read_region(store, "eu", SUBJECT)
    watched.broken_reads = 3
    assert check(watched, DEEP, seen=seen).verdict is Verdict.GOOD


# --- manifests and receipts ----------------------------------------------------------------------


def test_nothing_there() -> None:
    result = check(memory(), QUICK)
    assert result.verdict is Verdict.ABSENT
    assert exit_code([result]) == 3


def test_a_region_that_could_not_be_read() -> None:
    result = check(memory(), DEEP, seen=Unknown("eu: no answer within 30 s"))
    assert result.verdict is Verdict.UNKNOWN
    assert result.unknown == ["eu: no answer within 30 s"]


@pytest.mark.parametrize("body", [b"", b"{}", b"half a manif"])
def test_a_damaged_manifest(body: bytes) -> None:
    model, store = replica()
    store.put(SUBJECT.manifest_key, body)
    (finding,) = check(store, QUICK).findings
    assert (finding.path, finding.problem) == ("manifest.json", "manifest")
    assert model.manifest.digest not in finding.detail


def test_a_manifest_of_other_bytes_is_a_mismatch_however_consistent() -> None:
    _, store = replica()
    result = check(store, DEEP, expected="blake3:" + "0" * 64)
    assert [finding.problem for finding in result.findings] == ["manifest"]
    assert "Checksum mismatch" in result.findings[0].detail


@pytest.mark.parametrize("depth", Depth)
def test_without_a_receipt_a_mute_store_is_unknown_until_it_is_read(depth: Depth) -> None:
    model, store = replica(FILES)
    store.delete(SUBJECT.receipt_key)
    result = check(store, depth)
    assert result.verdict is (Verdict.GOOD if depth is DEEP else Verdict.UNKNOWN)
    if depth is DEEP:  # which yields what the receipt would have said
        assert {o.evidence for o in result.objects.values()} == {Evidence.READ_BACK}
        assert set(result.objects) == set(model.bodies)


def test_a_receipt_of_another_manifest_proves_nothing_here() -> None:
    """Two versions of one name, of equal sizes: the loser's receipt, the winner's manifest."""
    model, store = replica(FILES)
    seen = read_region(store, "eu", SUBJECT)
    assert seen.receipt is not None
    foreign = seen.receipt.model_copy(update={"manifest_digest": "blake3:" + "1" * 64})
    store.damage(model.key(LARGE), 3)
    result = check(store, QUICK, seen=replace(seen, receipt=foreign))
    assert result.verdict is Verdict.UNKNOWN
    assert check(store, DEEP, seen=replace(seen, receipt=foreign)).verdict is Verdict.MISMATCH


# --- what could not be read ----------------------------------------------------------------------

ERRORS: dict[str, tuple[MlplatformError, str]] = {
    "denied": (Denied("no", right="get"), "Access Denied"),
    "down": (Unavailable("connection refused"), "connection refused"),
    "too slow": (DeadlineExceeded("not done within 300 s"), "300 s"),
}


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("verb", ["stat", "get"])
def test_an_object_that_cannot_be_read_is_unknown(error: str, verb: str) -> None:
    model, store = replica()
    seen = read_region(store, "eu", SUBJECT)

    def fail(call: Call) -> None:
        if call.verb == verb and call.key == model.key(LARGE):
            raise ERRORS[error][0]

    result = check(Watched(store, before=fail), DEEP, seen=seen)
    assert result.verdict is Verdict.UNKNOWN
    assert not result.findings
    assert LARGE in result.unknown[0]
    assert ERRORS[error][1] in result.unknown[0]
    assert set(result.objects) == set(model.bodies) - {LARGE}


def test_a_bucket_that_went_away_is_unknown_not_a_hundred_missing_files() -> None:
    _, store = replica()
    seen = read_region(store, "eu", SUBJECT)
    store.drop()
    result = check(store, QUICK, seen=seen)
    assert result.verdict is Verdict.UNKNOWN
    assert not result.findings


def test_an_object_that_is_overwritten_while_it_is_read_is_unknown() -> None:
    model, store = replica()
    seen = read_region(store, "eu", SUBJECT)
    reads = 0

    def overwrite(call: Call) -> None:
        nonlocal reads
        if call.verb == "get" and call.key == model.key(LARGE):
            reads += 1
            if reads == 3:
                store.put(call.key, noise(len(model.bodies[LARGE]), 1))

    result = check(Watched(store, before=overwrite), DEEP, seen=seen)
    assert result.verdict is Verdict.UNKNOWN
    assert "overwritten" in result.unknown[0]


def test_a_mismatch_outranks_what_could_not_be_read() -> None:
    model, store = replica()
    seen = read_region(store, "eu", SUBJECT)
    store.damage(model.key("exact.bin"), 1)

    def fail(call: Call) -> None:
        if call.key == model.key(LARGE):
            raise Denied("no", right="get")

    result = check(Watched(store, before=fail), DEEP, seen=seen)
    assert result.verdict is Verdict.MISMATCH
    assert result.unknown


@pytest.mark.parametrize("after", [0, 1, 4, 9])
def test_deep_stops_within_a_block(after: int) -> None:
    model, store = Model({"a.bin": noise(40 * BLOCK)}), memory()
    stored(model, "eu", store)
    watched = Watched(store)
    seen = read_region(store, "eu", SUBJECT)
    with pytest.raises(Interrupted):
        check(watched, DEEP, seen=seen, stop=lambda: len(watched.called("get")) >= after)
    assert len(watched.called("get")) == after


@pytest.mark.parametrize(
    ("verdicts", "code"),
    [
        ([], 3),
        (["good"], 0),
        (["good", "good"], 0),
        (["good", "absent"], 0),
        (["absent"], 3),
        (["unknown"], 5),
        (["good", "unknown"], 5),
        (["absent", "unknown"], 5),
        (["good", "mismatch"], 3),
        (["unknown", "mismatch"], 3),
    ],
)
def test_exit_codes(verdicts: list[str], code: int) -> None:
    def result(verdict: str) -> Verification:
        found = Verification("eu", QUICK, absent=verdict == "absent")
        if verdict == "mismatch":
            found.findings = check_one_bad().findings
        if verdict == "unknown":
            found.unknown = ["?"]
        assert found.verdict.value == verdict
        return found

    assert exit_code([result(verdict) for verdict in verdicts]) == code


def check_one_bad() -> Verification:
    model, store = replica()
    store.delete(model.key(LARGE))
    return check(store, QUICK)


def test_with_threads_the_findings_keep_the_manifests_order() -> None:
    model, store = Model({f"{n:02}.bin": noise(70, n) for n in range(50)}), memory()
    stored(model, "eu", store)
    for path in list(model.bodies)[::3]:
        store.damage(model.key(path), 1)
    with ThreadPoolExecutor(8) as pool:
        result = verify(
            store,
            read_region(store, "eu", SUBJECT),
            "eu",
            DEEP,
            retry=patient(),
            executor=pool,
            progress=SilentProgress(),
        )
    assert [finding.path for finding in result.findings] == list(model.bodies)[::3]
