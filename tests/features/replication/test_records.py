"""How a version becomes visible in a region: last, or not; and how it is taken back."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mlplatform.adapters.memory import MemoryStore
from mlplatform.control.catalogue import read_region
from mlplatform.core.errors import ConditionFailed, Fenced, IntegrityError, VersionConflict
from mlplatform.core.manifest import Receipt
from mlplatform.core.replica import Withdrawal
from mlplatform.ports.store import StoreFeatures, exists, read_bytes
from mlplatform.replication.records import make_visible, write_withdrawal

from .world import (
    FILES,
    NOW,
    S3,
    SUBJECT,
    Call,
    Model,
    Watched,
    bring,
    memory,
    mixed,
    noise,
    show,
    stored,
)

LARGE = "weights/large.bin"


def visible(store: MemoryStore) -> bool:
    return exists(store, SUBJECT.manifest_key)


def test_the_manifest_is_written_last() -> None:
    model, store = mixed(), memory()
    order: list[str] = []
    watched = Watched(store, before=lambda c: order.append(c.key) if c.verb == "put" else None)
    show(model, "eu", watched, bring(model, ("eu", watched)).targets["eu"])
    assert order[-2:] == [SUBJECT.receipt_key, SUBJECT.manifest_key]
    assert read_bytes(store, SUBJECT.manifest_key)[0] == model.manifest.encoded


def test_no_file_may_be_unproven() -> None:
    model, store = mixed(), memory()
    report = bring(model, ("eu", store)).targets["eu"]
    del report.objects[LARGE]
    with pytest.raises(IntegrityError, match=LARGE):
        show(model, "eu", store, report)
    assert not visible(store)
    assert not exists(store, SUBJECT.receipt_key)


MEDDLING: dict[str, Callable[[Model, MemoryStore], object]] = {
    "overwritten with other bytes": lambda m, s: s.put(m.key(LARGE), noise(453, 8)),
    "overwritten with the same bytes": lambda m, s: s.put(m.key(LARGE), m.bodies[LARGE]),
    "deleted": lambda m, s: s.delete(m.key(LARGE)),
}


@pytest.mark.parametrize("what", MEDDLING)
@pytest.mark.parametrize("features", [S3, FILES], ids=["s3", "files"])
def test_an_object_that_changed_after_it_was_proven(what: str, features: StoreFeatures) -> None:
    model, store = mixed(), memory("eu", features)
    report = bring(model, ("eu", store)).targets["eu"]
    MEDDLING[what](model, store)
    with pytest.raises(ConditionFailed, match=LARGE):
        show(model, "eu", store, report)
    assert not visible(store)


def test_an_adopted_object_that_changed_after_it_was_proven() -> None:
    model = Model({"m.pth": noise(300)}, keys={"m.pth": "models/resnet50-v1.2.0.pth"})
    store = memory()
    report = bring(model, ("eu", store)).targets["eu"]
    store.put("models/resnet50-v1.2.0.pth", noise(300, 1))
    with pytest.raises(ConditionFailed, match=r"resnet50-v1\.2\.0\.pth"):
        show(model, "eu", store, report)
    assert not visible(store)


def test_the_same_version_again_is_no_error() -> None:
    model, store = mixed(), memory()
    stored(model, "eu", store)
    tag = store.stat(SUBJECT.manifest_key).tag
    stored(model, "eu", store)
    assert store.stat(SUBJECT.manifest_key).tag == tag


@pytest.mark.parametrize("when", ["before", "between receipt and manifest"])
def test_another_manifest_is_never_replaced(when: str) -> None:
    mine, theirs, store = mixed(), Model({"a.bin": b"theirs"}), memory()
    report = bring(mine, ("eu", store)).targets["eu"]

    def meddle(call: Call) -> None:
        if call.verb == "put" and call.key == SUBJECT.manifest_key:
            store.put(SUBJECT.manifest_key, theirs.manifest.encoded)

    if when == "before":
        stored(theirs, "eu", store)
        with pytest.raises(VersionConflict):
            show(mine, "eu", store, report)
        # The winner's receipt is still there: it stays stored.
        assert read_region(store, "eu", SUBJECT).stored
    else:
        with pytest.raises(VersionConflict):
            show(mine, "eu", Watched(store, before=meddle), report)
    assert read_bytes(store, SUBJECT.manifest_key)[0] == theirs.manifest.encoded


def repair(model: Model, store: MemoryStore, tag: str | None) -> Receipt:
    return make_visible(
        store,
        "eu",
        model.manifest,
        bring(model, ("eu", store)).targets["eu"].objects,
        replaces_tag=tag,
        now=NOW,
        writer="test",
        nonce="n2",
    )


def test_a_damaged_manifest_is_replaced_only_with_its_tag() -> None:
    model, store = mixed(), memory()
    stored(model, "eu", store)
    old = store.put(SUBJECT.manifest_key, b"damaged").tag
    new = store.put(SUBJECT.manifest_key, b"damaged otherwise").tag
    for tag in (None, old):
        with pytest.raises(VersionConflict):
            repair(model, store, tag)
    repair(model, store, new)
    assert read_region(store, "eu", SUBJECT).stored


def test_without_conditional_puts_another_manifest_is_still_not_replaced() -> None:
    mine, theirs = mixed(), Model({"a.bin": b"theirs"})
    store = memory(conditional_put=False)
    stored(theirs, "eu", store)
    with pytest.raises(VersionConflict):
        stored(mine, "eu", store)
    assert read_bytes(store, SUBJECT.manifest_key)[0] == theirs.manifest.encoded


@pytest.mark.parametrize("call", [1, 2])
def test_a_guard_that_raises_stops_what_comes_after(call: int) -> None:
    model, store = mixed(), memory()
    objects = bring(model, ("eu", store)).targets["eu"].objects
    calls = 0

    def guard() -> None:
        nonlocal calls
        calls += 1
        if calls == call:
            raise Fenced("a newer writer took over")

    with pytest.raises(Fenced):
        make_visible(
            store, "eu", model.manifest, objects, replaces_tag=None, now=NOW, writer="test",
            nonce="n", guard=guard,
        )  # fmt: skip
    assert exists(store, SUBJECT.receipt_key) is (call == 2)
    assert not visible(store)


@pytest.mark.parametrize("died_at", range(1, 20))
def test_killed_at_any_call_nothing_unproven_is_visible_and_a_second_run_finishes(
    died_at: int,
) -> None:
    class Killed(BaseException):
        pass

    model, store = mixed(), memory()
    calls = 0

    def kill(call: Call) -> None:
        nonlocal calls
        calls += 1
        if calls == died_at:
            raise Killed

    watched = Watched(store, before=kill)
    try:
        show(model, "eu", watched, bring(model, ("eu", watched)).targets["eu"])
    except Killed:
        assert not visible(store)
    else:
        assert calls < died_at
    stored(model, "eu", store)
    assert read_region(store, "eu", SUBJECT).stored
    assert model.content_in(store) == model.bodies


def test_the_first_withdrawal_stays() -> None:
    store = memory()
    for reason in ("poisoned", "second thoughts"):
        write_withdrawal(
            store,
            Withdrawal(
                model=SUBJECT.model, version=SUBJECT.version, reason=reason, by="me", at=NOW
            ),
        )
    withdrawal = read_region(store, "eu", SUBJECT).withdrawal
    assert withdrawal is not None
    assert withdrawal.reason == "poisoned"
