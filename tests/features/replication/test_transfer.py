"""One thread, one order of effects: what is sent, what is skipped, what is proven, what fails."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from mlplatform.adapters.local import LocalStore
from mlplatform.adapters.memory import MemoryStore
from mlplatform.core.digest import Evidence, digest_of
from mlplatform.core.errors import (
    ConditionFailed,
    ContainerMissing,
    Denied,
    DigestMismatch,
    Interrupted,
    MlplatformError,
    NotFound,
    Unavailable,
    Unsupported,
)
from mlplatform.ports.store import ALWAYS, ObjectStore, Stat, StoreFeatures, exists, read_bytes
from mlplatform.replication.transfer import StoreSource, TargetReport, TargetRequest

from .world import (
    AZURE,
    BLOCK,
    FILES,
    INLINE,
    S3,
    Call,
    Model,
    Watched,
    bring,
    large,
    memory,
    mixed,
    noise,
    patient,
    receipts,
)

DIALECTS: dict[str, tuple[Callable[[], MemoryStore], Evidence]] = {
    "store-whole, both digests": (memory, Evidence.STORE_WHOLE),
    "store-whole, crc32c only": (
        lambda: MemoryStore("gcs", features=S3, states=("crc32c",)),
        Evidence.STORE_WHOLE,
    ),
    "store-whole, crc64nvme only": (
        lambda: MemoryStore("s3", features=S3, states=("crc64nvme",)),
        Evidence.STORE_WHOLE,
    ),
    "store-whole that states nothing": (
        lambda: MemoryStore("mute", features=S3, states=()),
        Evidence.READ_BACK,
    ),
    "store-parts": (lambda: memory(features=AZURE), Evidence.STORE_PARTS),
    "read-back": (lambda: memory(features=FILES), Evidence.READ_BACK),
    "no conditions": (
        lambda: memory(conditional_put=False, conditional_complete=False),
        Evidence.STORE_WHOLE,
    ),
}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_dialect_ends_with_the_bytes_and_a_receipt_for_each_file(dialect: str) -> None:
    make, evidence = DIALECTS[dialect]
    store, model = make(), mixed()
    report = bring(model, ("eu", store))
    target = report.targets["eu"]
    assert target.error is None
    assert model.content_in(store) == model.bodies
    assert {o.path: o.tag for o in target.objects.values()} == {
        path: store.stat(model.key(path)).tag for path in model.bodies
    }
    assert {o.evidence for o in target.objects.values()} == {evidence}
    assert not list(store.uploads(""))
    assert target.sent_bytes == model.size_bytes == report.needed_bytes
    assert report.reads_per_source_byte == 1.0


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_second_run_sends_nothing(dialect: str) -> None:
    store, model = DIALECTS[dialect][0](), mixed()
    first = bring(model, ("eu", store)).targets["eu"]
    watched = Watched(store)
    again = bring(model, ("eu", watched))
    assert watched.sent() == []
    assert again.reads_per_source_byte is None
    assert again.targets["eu"].skipped_bytes == model.size_bytes
    assert {o.tag for o in again.targets["eu"].objects.values()} == {
        o.tag for o in first.objects.values()
    }


def test_a_folder_that_the_first_write_makes(tmp_path: object) -> None:
    store, model = LocalStore(f"{tmp_path}/region"), mixed()
    assert bring(model, ("eu", store)).targets["eu"].error is None
    assert model.content_in(store) == model.bodies


def test_a_bucket_that_does_not_exist_fails_its_region_only() -> None:
    lost, good, model = memory("lost"), memory("good"), mixed()
    lost.drop()
    report = bring(model, ("lost", lost), ("good", good), settings=INLINE)
    assert isinstance(report.targets["lost"].error, ContainerMissing)
    assert report.targets["good"].error is None


class Shy(MemoryStore):
    """Has to be asked what it can do, and does not answer the first so many times."""

    silent = 0

    @property
    def features(self) -> StoreFeatures:
        self.silent -= 1
        if self.silent >= 0:
            raise Unavailable("who are you?", store=self.url)
        return super().features


@pytest.mark.parametrize(("silent", "told"), [(3, None), (99, Unavailable)])
def test_a_store_that_does_not_say_what_it_can_do_fails_alone(
    silent: int, told: type[Exception] | None
) -> None:
    shy, good, model = Shy("shy"), memory("good"), mixed()
    shy.silent = silent
    report = bring(model, ("shy", shy), ("good", good), retry=patient())
    error = report.targets["shy"].error
    assert (type(error) if error else None) is told
    assert report.targets["good"].error is None
    assert model.content_in(good) == model.bodies


def test_one_read_feeds_three_targets() -> None:
    model = mixed()
    stores = {name: Watched(memory(name)) for name in ("a", "b", "c")}
    report = bring(model, *stores.items())
    assert sorted(model.reads) == sorted(set(model.reads))
    assert report.reads_per_source_byte == 1.0
    for store in stores.values():
        assert model.content_in(store) == model.bodies


def test_targets_that_hold_different_parts_share_what_both_still_want() -> None:
    model = Model({"a.bin": noise(40, 1), "b.bin": noise(40, 2), "c.bin": noise(40, 3)})
    one, two = memory("one"), memory("two")
    model.put_into(one, "a.bin")
    model.put_into(two, "a.bin", "b.bin")
    report = bring(model, ("one", one), ("two", two))
    assert sorted(model.reads) == [("b.bin", 0), ("c.bin", 0)]
    assert report.needed_bytes == 80
    assert {r: t.skipped_bytes for r, t in report.targets.items()} == {"one": 40, "two": 80}


# --- resume ------------------------------------------------------------------------------------


def abandoned(model: Model, store: ObjectStore, *, after_parts: int) -> None:
    """What a run leaves behind that is killed after so many parts."""

    class Killed(BaseException):
        pass

    sent = 0

    def kill(call: Call) -> None:
        nonlocal sent
        sent += call.verb in ("part", "put")
        if sent == after_parts and call.verb in ("part", "put"):
            raise Killed

    with pytest.raises(Killed):
        bring(model, ("eu", Watched(store, after=kill)))


@pytest.mark.parametrize("killed_after", range(1, 11))
def test_a_killed_transfer_goes_on_where_it_was(killed_after: int) -> None:
    model, store = large(), memory()
    abandoned(model, store, after_parts=killed_after)
    watched = Watched(store)
    target = bring(model, ("eu", watched)).targets["eu"]
    assert target.error is None
    assert target.resumed_parts == killed_after
    assert {index for _, index in watched.sent()} == set(range(killed_after, 11))
    assert model.content_in(store) == model.bodies
    assert not list(store.uploads(""))


def test_an_upload_whose_parts_are_all_there_is_only_completed() -> None:
    model, store = large(), memory()
    abandoned(model, store, after_parts=11)
    watched = Watched(store)
    assert bring(model, ("eu", watched)).targets["eu"].error is None
    assert watched.sent() == []
    assert model.content_in(store) == model.bodies


def test_a_held_part_with_other_bytes_is_sent_again() -> None:
    model, store = large(), memory()
    abandoned(model, store, after_parts=5)
    (upload,) = store.uploads("")
    wrong = noise(BLOCK, 99)
    upload.part(2, wrong, digests=digest_of(wrong))
    watched = Watched(store)
    target = bring(model, ("eu", watched)).targets["eu"]
    assert target.error is None
    assert target.resumed_parts == 4
    assert {index for _, index in watched.sent()} == {2, *range(5, 11)}
    assert model.content_in(store) == model.bodies


def test_parts_that_rot_after_they_were_stated_never_become_a_receipt() -> None:
    # The store still states the old digests, so only reading the whole can tell.
    model = large()
    store = MemoryStore("t", features=FILES, states_parts=True)
    abandoned(model, store, after_parts=5)
    (upload,) = store.uploads("")
    store.damage_part(upload.id, 2, at=3)
    watched = Watched(store)
    target = bring(model, ("eu", watched)).targets["eu"]
    assert target.error is None
    assert model.content_in(store) == model.bodies
    assert len(watched.sent()) == 6 + 11  # the rest, then all of it, over what was wrong


@pytest.mark.parametrize("path", ["config.json", "weights/large.bin"])
def test_bytes_that_arrive_wrong_are_sent_once_more_and_no_more(path: str) -> None:
    model, store = mixed(), memory(features=FILES)

    def rot(call: Call) -> None:
        if call.verb in ("put", "complete") and call.key == model.key(path):
            store.damage(call.key, 3)

    watched = Watched(store, after=rot)
    target = bring(model, ("eu", watched)).targets["eu"]
    assert isinstance(target.error, DigestMismatch)
    assert path in str(target.error)
    assert path not in target.objects
    written = [call for call in watched.calls if call.verb in ("put", "complete")]
    assert len([call for call in written if call.key == model.key(path)]) == 2


def test_an_upload_cut_into_other_parts_is_left_and_then_dropped() -> None:
    model, store = large(), memory()
    other = store.begin(model.key("model.bin"), size_bytes=model.size_bytes, part_bytes=2 * BLOCK)
    body = model.bodies["model.bin"][: 2 * BLOCK]
    other.part(0, body, digests=digest_of(body))
    target = bring(model, ("eu", store)).targets["eu"]
    assert target.error is None
    assert target.resumed_parts == 0
    assert model.content_in(store) == model.bodies
    assert not list(store.uploads(""))


def test_an_empty_upload_cut_into_other_parts_does_no_harm() -> None:
    model, store = large(), memory()
    store.begin(model.key("model.bin"), size_bytes=model.size_bytes, part_bytes=2 * BLOCK)
    assert bring(model, ("eu", store)).targets["eu"].error is None


def test_the_upload_that_holds_most_is_gone_on_with() -> None:
    model, store = large(), memory()
    abandoned(model, store, after_parts=6)
    newer = store.begin(model.key("model.bin"), size_bytes=model.size_bytes, part_bytes=BLOCK)
    body = model.bodies["model.bin"][:BLOCK]
    newer.part(0, body, digests=digest_of(body))
    assert bring(model, ("eu", store)).targets["eu"].resumed_parts == 6


def test_uploads_of_keys_that_only_begin_alike_are_left_alone() -> None:
    model, store = large(), memory()
    other = store.begin(f"{model.key('model.bin')}.bak", size_bytes=BLOCK, part_bytes=BLOCK)
    assert bring(model, ("eu", store)).targets["eu"].error is None
    assert [upload.id for upload in store.uploads("")] == [other.id]


def test_a_store_that_states_no_parts_gets_them_all_again() -> None:
    model, store = large(), memory(features=FILES)
    abandoned(model, store, after_parts=5)
    watched = Watched(store)
    target = bring(model, ("eu", watched)).targets["eu"]
    assert target.error is None
    assert target.resumed_parts == 0
    assert len(watched.sent()) == 11


def test_resuming_many_small_files_asks_for_none_that_the_listing_states() -> None:
    model = Model({f"{n:03}.bin": noise(20, n) for n in range(100)})
    store = memory()
    model.put_into(store, *list(model.bodies)[:60])
    watched = Watched(store)
    bring(model, ("eu", watched))
    assert len(watched.sent()) == 40
    assert watched.called("stat") == []


# --- what is there already -----------------------------------------------------------------------


@pytest.mark.parametrize("features", [S3, AZURE, FILES], ids=["s3", "azure", "files"])
@pytest.mark.parametrize("path", ["config.json", "weights/large.bin"])
@pytest.mark.parametrize("same_size", [True, False])
def test_other_bytes_are_replaced(features: StoreFeatures, path: str, same_size: bool) -> None:
    model, store = mixed(), memory(features=features)
    size = len(model.bodies[path])
    store.put(model.key(path), noise(size if same_size else size + 1, 50))
    target = bring(model, ("eu", store)).targets["eu"]
    assert target.error is None
    assert model.content_in(store) == model.bodies


@pytest.mark.parametrize("path", ["config.json", "weights/large.bin"])
def test_other_bytes_are_replaced_only_with_the_tag_that_was_seen(path: str) -> None:
    model, store = mixed(), memory()
    store.put(model.key(path), b"first")

    def meddle(call: Call) -> None:
        if call.verb in ("put", "complete") and call.key == model.key(path):
            store.put(model.key(path), b"second")

    target = bring(model, ("eu", Watched(store, before=meddle))).targets["eu"]
    assert isinstance(target.error, ConditionFailed)
    assert model.key(path) in str(target.error)
    assert read_bytes(store, model.key(path))[0] == b"second"
    assert path not in target.objects


@pytest.mark.parametrize("path", ["config.json", "weights/large.bin"])
def test_a_write_that_another_made_first_with_the_same_bytes_is_done(path: str) -> None:
    model, store = mixed(), memory()

    def first(call: Call) -> None:
        if call.verb in ("put", "complete") and call.key == model.key(path):
            store.put(model.key(path), model.bodies[path])

    target = bring(model, ("eu", Watched(store, before=first))).targets["eu"]
    assert target.error is None
    assert target.objects[path].tag == store.stat(model.key(path)).tag
    assert not list(store.uploads(""))


@pytest.mark.parametrize("path", ["config.json", "weights/large.bin"])
def test_an_object_that_goes_away_between_is_written_anew(path: str) -> None:
    model, store = mixed(), memory()
    store.put(model.key(path), b"old")
    gone: list[Call] = []

    def remove(call: Call) -> None:
        if call.verb in ("put", "complete") and call.key == model.key(path) and not gone:
            gone.append(call)
            store.delete(model.key(path))

    target = bring(model, ("eu", Watched(store, before=remove))).targets["eu"]
    assert target.error is None
    assert model.content_in(store) == model.bodies


@pytest.mark.parametrize("path", ["config.json", "weights/large.bin"])
def test_a_store_that_refuses_for_ever_ends_in_an_error(path: str) -> None:
    model, store = mixed(), memory()

    def refuse(call: Call) -> None:
        if call.verb in ("put", "complete") and call.key == model.key(path):
            raise ConditionFailed("exists", store=store.url, key=call.key)

    target = bring(model, ("eu", Watched(store, before=refuse))).targets["eu"]
    assert isinstance(target.error, ConditionFailed)


def test_a_known_receipt_spares_reading_the_bytes_back() -> None:
    model, store = mixed(), memory(features=FILES)
    model.put_into(store)
    watched = Watched(store)
    request = TargetRequest("eu", watched, receipts=receipts(model, store))
    assert bring(model, request).targets["eu"].error is None
    assert not watched.called("get")
    assert not watched.sent()


def test_a_receipt_of_another_tag_proves_nothing() -> None:
    model, store = mixed(), memory(features=FILES)
    model.put_into(store)
    known = receipts(model, store)
    store.put(model.key("exact.bin"), noise(BLOCK, 77))
    watched = Watched(store)
    assert bring(model, TargetRequest("eu", watched, receipts=known)).targets["eu"].error is None
    assert watched.sent() == [(model.key("exact.bin"), 0)]
    assert model.content_in(store) == model.bodies


def test_an_adopted_key_outside_the_versions_folder() -> None:
    model = Model({"m.pth": noise(300, 1)}, keys={"m.pth": "models/resnet50-v1.2.0.pth"})
    store = memory()
    assert bring(model, ("eu", store)).targets["eu"].error is None
    assert exists(store, "models/resnet50-v1.2.0.pth")
    watched = Watched(store)
    bring(model, ("eu", watched))
    assert watched.sent() == []


# --- another replicator of the same version ------------------------------------------------------


def test_an_upload_that_another_dropped_is_begun_anew() -> None:
    model, store = large(), memory()
    dropped: list[str] = []

    def drop(call: Call) -> None:
        if call.verb == "part" and call.index == 4 and not dropped:
            (upload,) = store.uploads("")
            dropped.append(upload.id)
            upload.abort()

    watched = Watched(store, before=drop)
    report = bring(model, ("eu", watched))
    assert report.targets["eu"].error is None
    assert model.content_in(store) == model.bodies
    assert report.reads_per_source_byte is not None
    assert report.reads_per_source_byte > 1.0  # and it says so


def test_a_lifecycle_rule_that_drops_every_upload_ends_in_an_error() -> None:
    model, store = large(), memory()

    def drop(call: Call) -> None:
        if call.verb == "part":
            for upload in store.uploads(""):
                upload.abort()

    target = bring(model, ("eu", Watched(store, before=drop))).targets["eu"]
    assert isinstance(target.error, NotFound)


def test_an_upload_that_another_completed_is_taken_for_what_it_is() -> None:
    model, store = large(), memory()

    def complete(call: Call) -> None:
        if call.verb == "part" and call.index == 4:
            for upload in store.uploads(""):
                upload.abort()
            store.put(call.key, model.bodies["model.bin"])

    target = bring(model, ("eu", Watched(store, before=complete))).targets["eu"]
    assert target.error is None
    assert model.content_in(store) == model.bodies
    assert target.sent_bytes == 4 * BLOCK


def test_a_part_that_another_sent_again_before_completion() -> None:
    model, store = large(), memory()
    sent: list[Call] = []

    def resend(call: Call) -> None:
        if call.verb == "complete" and not sent:
            sent.append(call)
            (upload,) = store.uploads("")
            body = model.bodies["model.bin"][:BLOCK]
            upload.part(0, body, digests=digest_of(body))

    target = bring(model, ("eu", Watched(store, before=resend))).targets["eu"]
    assert target.error is None
    assert model.content_in(store) == model.bodies
    assert target.sent_bytes == model.size_bytes


# --- failures ------------------------------------------------------------------------------------


def test_a_rotten_source_block_is_named_by_file_and_byte_range() -> None:
    model = mixed()
    body = bytearray(model.bodies["weights/large.bin"])
    body[3 * BLOCK + 1] ^= 1
    model.rotten["weights/large.bin"] = bytes(body)
    store = memory()
    target = bring(model, ("eu", store)).targets["eu"]
    assert isinstance(target.error, DigestMismatch)
    for part in ("Checksum mismatch", "us-east-1", "weights/large.bin", "192-256"):
        assert part in str(target.error)
    assert not exists(store, model.key("weights/large.bin"))
    assert "weights/large.bin" not in target.objects


def test_a_part_read_wrong_once_is_read_again() -> None:
    model, store = mixed(), memory()
    right = dict(model.bodies)

    def wrong_once(part: object) -> None:
        model.rotten = {"config.json": noise(30, 9)} if len(model.reads) == 1 else {}

    model.on_read = wrong_once
    report = bring(model, ("eu", store))
    assert report.targets["eu"].error is None
    assert model.content_in(store) == right
    assert report.read_bytes == model.size_bytes + 30


ERRORS: dict[str, Callable[[], Exception]] = {
    "denied": lambda: Denied("no", right="put"),
    "down": lambda: Unavailable("connection refused"),
    "a bug in an adapter": lambda: ZeroDivisionError("oops"),
}


@pytest.mark.parametrize("verb", ["list", "begin", "put", "part", "complete", "uploads"])
@pytest.mark.parametrize("error", ERRORS)
def test_a_target_that_fails_does_not_fail_others(verb: str, error: str) -> None:
    model, good = mixed(), memory("good")

    def fail(call: Call) -> None:
        if call.verb == verb:
            failure = ERRORS[error]()
            raise failure

    bad = memory("bad")
    report = bring(model, ("bad", Watched(bad, before=fail)), ("good", good))
    assert report.targets["good"].error is None
    assert model.content_in(good) == model.bodies
    # Once the object is there, clearing up behind it may fail without harm.
    assert report.targets["bad"].error is not None
    assert isinstance(report.targets["bad"].error, MlplatformError)
    assert report.targets["bad"].skipped_bytes in (0, model.size_bytes)
    assert report.reads_per_source_byte == 1.0
    # Run again, now that it works.
    assert bring(model, ("bad", bad)).targets["bad"].error is None
    assert model.content_in(bad) == model.bodies


def test_denied_in_mid_transfer_then_resumed_elsewhere() -> None:
    model, store = large(), memory()

    def expire(call: Call) -> None:
        if call.verb == "part" and call.index is not None and call.index >= 6:
            raise Denied("token expired", right="put", store=store.url, key=call.key)

    first = bring(model, ("eu", Watched(store, before=expire))).targets["eu"]
    assert isinstance(first.error, Denied)
    assert first.sent_bytes == 6 * BLOCK
    watched = Watched(store)
    second = bring(model, ("eu", watched)).targets["eu"]
    assert second.error is None
    assert second.resumed_parts == 6
    assert first.sent_bytes + second.sent_bytes == model.size_bytes


def test_a_store_that_cannot_hold_the_file_fails_alone() -> None:
    model, good = large(), memory("good")
    small = memory("small", parts_max=2, part_bytes_max=2 * BLOCK)
    report = bring(model, ("small", small), ("good", good))
    assert isinstance(report.targets["small"].error, Unsupported)
    assert report.targets["good"].error is None


def test_reads_that_break_off_are_read_again() -> None:
    model, origin, store = mixed(), memory("origin"), memory(features=FILES)
    model.put_into(origin)
    weak, target = Watched(origin), Watched(store)
    weak.broken_reads = target.broken_reads = 3
    report = bring(
        model, ("eu", target), source=StoreSource("us", weak, patient()), retry=patient()
    )
    assert report.targets["eu"].error is None
    assert model.content_in(store) == model.bodies


def test_stop_half_way_keeps_what_was_sent() -> None:
    model, store = large(), memory()
    watched = Watched(store)
    with pytest.raises(Interrupted):
        bring(model, ("eu", watched), stop=lambda: len(watched.sent()) >= 5)
    assert len(watched.sent()) == 5
    again = bring(model, ("eu", store)).targets["eu"]
    assert again.resumed_parts == 5
    assert again.error is None


# --- when a target is done -----------------------------------------------------------------------


@pytest.mark.parametrize("held", ["nothing", "everything", "an upload to complete"])
def test_a_target_is_told_once_when_all_is_proven(held: str) -> None:
    model, store = large(), memory()
    if held == "everything":
        model.put_into(store)
    elif held == "an upload to complete":
        abandoned(model, store, after_parts=11)
    told = []
    bring(model, ("eu", store), on_stored=lambda report: told.append(dict(report.objects)))
    assert [set(objects) for objects in told] == [set(model.bodies)]


def test_an_error_of_whoever_is_told_is_the_targets() -> None:
    model = mixed()

    def refuse(report: object) -> None:
        raise ConditionFailed("fenced")

    target = bring(model, ("eu", memory()), on_stored=refuse).targets["eu"]
    assert isinstance(target.error, ConditionFailed)


def test_nothing_is_told_of_a_target_that_failed_or_stopped() -> None:
    model, store = mixed(), memory()
    told: list[TargetReport] = []

    def fail(call: Call) -> None:
        if call.verb == "put" and call.key.endswith("small.bin"):
            raise Denied("no", right="put")

    bring(model, ("eu", Watched(store, before=fail)), on_stored=told.append)
    with pytest.raises(Interrupted):
        bring(model, ("eu", store), on_stored=told.append, stop=lambda: True)
    assert told == []


@pytest.mark.parametrize("features", [S3, AZURE], ids=["s3", "azure"])
@pytest.mark.parametrize(
    "lie", [{"size_bytes": 1}, {"digests": digest_of(b"other")}], ids=["size", "digests"]
)
def test_a_store_that_answers_with_other_bytes_gets_no_receipt(
    features: StoreFeatures, lie: dict[str, Any]
) -> None:
    class Lying(MemoryStore):
        def put(self, key: str, *args: Any, **kwargs: Any) -> Stat:
            stat = super().put(key, *args, **kwargs)
            return replace(stat, **lie) if key.endswith("exact.bin") else stat

    target = bring(mixed(), ("eu", Lying(features=features))).targets["eu"]
    assert isinstance(target.error, DigestMismatch)
    assert "exact.bin" not in target.objects


def test_without_conditions_nothing_conditional_is_asked() -> None:
    model = mixed()
    store = memory(conditional_put=False, conditional_complete=False)
    store.put(model.key("config.json"), b"old", when=ALWAYS)
    assert bring(model, ("eu", store)).targets["eu"].error is None
    assert model.content_in(store) == model.bodies
