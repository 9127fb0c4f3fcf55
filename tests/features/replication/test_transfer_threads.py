"""The same transfer with real threads: shared reads, bounded memory, slow and failing company."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any, TypeVar

import pytest

from mlplatform.adapters.local import LocalStore
from mlplatform.adapters.memory import MemoryStore
from mlplatform.core.errors import Interrupted, MlplatformError, Throttled, Unavailable
from mlplatform.ports.clock import SystemClock
from mlplatform.ports.progress import SilentProgress
from mlplatform.ports.store import ObjectStore, StoreFeatures
from mlplatform.replication import transfer as engine
from mlplatform.replication.transfer import Settings, TargetRequest, Transfer, TransferReport

from .world import (
    AZURE,
    BLOCK,
    FILES,
    S3,
    THREADS,
    Call,
    Model,
    Watched,
    bring,
    large,
    memory,
    mixed,
    noise,
    patient,
)

T = TypeVar("T")


def within(seconds: float, work: Callable[[], T]) -> T:
    """`work()`, or a failure if it hangs."""
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return outcome.result(timeout=seconds)


class Leaving(SilentProgress):
    """Knows when a target has left the shared read."""

    def __init__(self) -> None:
        self.left = threading.Event()

    def note(self, region: str, text: str) -> None:
        assert (region, "by reads of its own" in text) == ("slow", True)
        self.left.set()

    def wait(self) -> None:
        assert self.left.wait(timeout=30)


def many(files: int = 40, parts: int = 9) -> Model:
    bodies = {f"small/{n:03}.bin": noise(n, n) for n in range(files)}
    for n in range(4):
        bodies[f"large/{n}.bin"] = noise(parts * BLOCK + n, 1000 + n)
    return Model(bodies)


@pytest.mark.parametrize("features", [S3, AZURE, FILES], ids=["s3", "azure", "files"])
def test_three_targets_share_each_read(
    features: StoreFeatures, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Or one that a busy machine lets wait would be taken for a slow one.
    monkeypatch.setattr(engine, "_BUFFER_WAIT_SECONDS", 60.0)
    model = many()
    chance = random.Random(7)

    def dawdle(call: Call) -> None:
        time.sleep(chance.random() * 0.002)

    stores = {n: Watched(memory(n, features), before=dawdle) for n in ("a", "b", "c")}
    report = within(60, lambda: bring(model, *stores.items(), settings=THREADS))
    assert all(target.error is None for target in report.targets.values())
    assert sorted(model.reads) == sorted(set(model.reads))
    assert report.reads_per_source_byte == 1.0
    for store in stores.values():
        assert model.content_in(store) == model.bodies
        assert sorted(store.sent()) == sorted(set(store.sent()))


def test_what_is_in_memory_stays_within_the_budget() -> None:
    model = many(files=10, parts=60)
    settings = Settings(budget_bytes=6 * BLOCK)
    stores = [TargetRequest(name, memory(name)) for name in ("a", "b")]
    transfer = Transfer(
        model.manifest, model, stores, clock=SystemClock(), progress=SilentProgress(),
        settings=settings,
    )  # fmt: skip
    within(60, transfer.run)
    assert transfer._pool.used_bytes == 0
    assert 4 * BLOCK <= transfer._pool.peak_bytes <= 6 * BLOCK


def test_a_part_larger_than_the_budget_goes_alone() -> None:
    model = mixed()
    report = within(
        60, lambda: bring(model, ("a", memory()), settings=Settings(budget_bytes=BLOCK // 4))
    )
    assert report.targets["a"].error is None


def test_a_target_that_stalls_leaves_and_finishes_by_its_own_reads() -> None:
    """The others are done before it goes on; nothing but leaving could let them."""
    model = large(40 * BLOCK)
    others_done = threading.Event()

    def stall(call: Call) -> None:
        if call.verb == "part":
            assert others_done.wait(timeout=30)

    def done(report: Any) -> None:
        if report.region == "fast":
            others_done.set()

    slow, fast = memory("slow"), memory("fast")
    report = within(
        60,
        lambda: bring(
            model,
            ("slow", Watched(slow, before=stall)),
            ("fast", Watched(fast, before=lambda call: time.sleep(0.005))),
            settings=Settings(budget_bytes=8 * BLOCK, senders_per_target=4),
            on_stored=done,
        ),
    )
    assert {r: t.error for r, t in report.targets.items()} == {"slow": None, "fast": None}
    assert {r: t.own_reads for r, t in report.targets.items()} == {"slow": True, "fast": False}
    assert model.content_in(slow) == model.content_in(fast) == model.bodies
    assert report.reads_per_source_byte is not None
    assert 1.0 < report.reads_per_source_byte <= 2.0
    assert report.reads_per_source_byte == len(model.reads) / 40


def test_a_target_that_holds_every_buffer_lets_go_at_its_first_time_out() -> None:
    """It would try each part eight times, and hold its buffer all the while."""
    model = large(40 * BLOCK)
    other_done, leaving = threading.Event(), Leaving()

    def time_out(call: Call) -> None:
        if call.verb == "part" and not other_done.is_set():
            leaving.wait()
            raise Unavailable("no answer")

    slow = Watched(memory("slow"), before=time_out)
    report = within(
        60,
        lambda: bring(
            model,
            ("slow", slow),
            ("fast", Watched(memory("fast"), before=lambda call: time.sleep(0.002))),
            settings=THREADS,
            retry=patient(),
            on_stored=lambda told: other_done.set() if told.region == "fast" else None,
            progress=leaving,
        ),
    )
    assert {r: t.error for r, t in report.targets.items()} == {"slow": None, "fast": None}
    assert report.targets["slow"].own_reads
    assert len(slow.called("part")) <= 40 + 8


@pytest.mark.parametrize("worked", [False, True])
def test_a_target_that_leaves_while_it_completes_a_file_completes_it_later(worked: bool) -> None:
    model = Model({"first.bin": noise(4 * BLOCK, 1), "second.bin": noise(30 * BLOCK, 2)})
    store, failures, leaving = memory("slow"), [Unavailable("no answer")], Leaving()

    def time_out(call: Call) -> None:
        if call.verb == "complete" and failures:
            leaving.wait()
            raise failures.pop()
        if call.verb == "part" and call.key.endswith("second.bin") and failures:
            leaving.wait()

    slow = Watched(store, after=time_out) if worked else Watched(store, before=time_out)
    report = within(
        60,
        lambda: bring(
            model,
            ("slow", slow),
            ("fast", Watched(memory("fast"), before=lambda call: time.sleep(0.002))),
            settings=THREADS,
            retry=patient(),
            progress=leaving,
        ),
    )
    assert {r: t.error for r, t in report.targets.items()} == {"slow": None, "fast": None}
    assert report.targets["slow"].own_reads
    assert model.content_in(store) == model.bodies


def test_a_target_that_is_done_makes_nobody_a_laggard() -> None:
    """One target lacks a single part; the other, slow one sets the pace alone."""
    model = large(24 * BLOCK)
    nearly, slow = memory("nearly"), memory("slow")
    model2 = Model({"extra.bin": noise(BLOCK, 9), **model.bodies})
    model2.put_into(nearly, "model.bin")
    report = within(
        60,
        lambda: bring(
            model2,
            ("nearly", nearly),
            ("slow", Watched(slow, before=lambda call: time.sleep(0.3))),
            settings=Settings(budget_bytes=8 * BLOCK, senders_per_target=8),
        ),
    )
    assert not report.targets["slow"].own_reads
    assert report.reads_per_source_byte == 1.0


def test_a_target_whose_upload_is_slow_to_begin_holds_nobody_up() -> None:
    model = large(4 * BLOCK)
    other_done = threading.Event()

    def stall(call: Call) -> None:
        if call.verb == "begin":
            assert other_done.wait(timeout=30)

    report = within(
        60,
        lambda: bring(
            model,
            ("slow", Watched(memory("slow"), before=stall)),
            ("fast", memory("fast")),
            settings=Settings(budget_bytes=8 * BLOCK, readers=1),
            on_stored=lambda told: other_done.set() if told.region == "fast" else None,
        ),
    )
    assert {r: t.error for r, t in report.targets.items()} == {"slow": None, "fast": None}


@pytest.mark.parametrize("kind", ["s3", "azure", "files", "files on disk"])
@pytest.mark.parametrize("seed", range(4))
def test_two_transfers_of_one_version_at_once(kind: str, seed: int, tmp_path: object) -> None:
    model = many(files=12)
    features = {"s3": S3, "azure": AZURE, "files": FILES}
    store: ObjectStore = (
        LocalStore(f"{tmp_path}/store") if kind == "files on disk" else memory("t", features[kind])
    )
    chance = random.Random(seed)

    def dawdle(call: Call) -> None:
        time.sleep(chance.random() * 0.003)

    results: list[TransferReport] = []

    def one() -> None:
        results.append(bring(model, ("t", Watched(store, before=dawdle)), settings=THREADS))

    def both() -> None:
        threads = [threading.Thread(target=one) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    within(120, both)
    assert [result.targets["t"].error for result in results] == [None, None]
    assert model.content_in(store) == model.bodies
    tags = {path: store.stat(model.key(path)).tag for path in model.bodies}
    for result in results:
        assert {o.path: o.tag for o in result.targets["t"].objects.values()} == tags
    assert not list(store.uploads(""))


@pytest.mark.parametrize("after", [1, 7, 23])
def test_stop_in_the_middle_then_again(after: int) -> None:
    model, store = many(), memory()
    watched = Watched(store, before=lambda call: time.sleep(0.001))
    with pytest.raises(Interrupted):
        within(
            60,
            lambda: bring(
                model,
                ("eu", watched),
                settings=THREADS,
                stop=lambda: len(watched.sent()) >= after,
            ),
        )
    sent_bytes = sum(call.size_bytes for call in watched.calls)
    again = Watched(store)
    assert bring(model, ("eu", again), settings=THREADS).targets["eu"].error is None
    sent_bytes += sum(call.size_bytes for call in again.calls)
    assert model.content_in(store) == model.bodies
    assert sent_bytes == model.size_bytes


def test_stop_is_heard_while_a_target_stalls() -> None:
    model = large(40 * BLOCK)
    stopped = threading.Event()

    def stall(call: Call) -> None:
        if call.verb == "part":
            stopped.wait(timeout=30)

    threading.Timer(0.3, stopped.set).start()
    with pytest.raises(Interrupted):
        within(
            60,
            lambda: bring(
                model,
                ("eu", Watched(memory(), before=stall)),
                settings=THREADS,
                stop=stopped.is_set,
            ),
        )


def test_a_failing_target_frees_what_the_others_wait_for() -> None:
    model = many()
    chance = random.Random(1)

    def fail(call: Call) -> None:
        if call.verb in ("part", "put") and chance.random() < 0.1:
            raise MlplatformError("no")

    good = memory("good")
    report = within(
        60,
        lambda: bring(
            model,
            ("bad", Watched(memory("bad"), before=fail)),
            ("good", good),
            settings=Settings(budget_bytes=2 * BLOCK),
        ),
    )
    assert report.targets["bad"].error is not None
    assert report.targets["good"].error is None
    assert model.content_in(good) == model.bodies


class Exhausted(Executor):
    """A pool on a machine that starts no more threads: it raises, and either forgets the work or,
    as `ThreadPoolExecutor` does, keeps it and may still run it."""

    def __init__(self, workers: int, name: str, *, fails: str, keeps: bool) -> None:
        self._pool = ThreadPoolExecutor(workers)
        self._keeps = keeps
        self._left = 5 if name.startswith(fails) else 10**9

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self._left -= 1
        if self._left < 0:
            if self._keeps:
                self._pool.submit(fn, *args, **kwargs)
            raise RuntimeError("can't start new thread")
        return self._pool.submit(fn, *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._pool.shutdown(wait=wait, cancel_futures=cancel_futures)


@pytest.mark.parametrize("keeps", [True, False])
@pytest.mark.parametrize("fails", ["read", "send"])
def test_no_more_threads_is_an_error_not_a_hang(fails: str, keeps: bool) -> None:
    settings = Settings(
        budget_bytes=8 * BLOCK,
        make_executor=lambda workers, name: Exhausted(workers, name, fails=fails, keeps=keeps),
    )
    report = within(60, lambda: bring(many(), ("eu", memory()), settings=settings))
    assert keeps or "can't start new thread" in str(report.targets["eu"].error)


def test_slow_down_is_heard_by_the_pace() -> None:
    model = many()
    answers = [Throttled("slow down")] * 3
    lock = threading.Lock()

    def throttle(call: Call) -> None:
        with lock:
            if call.verb in ("part", "put") and answers:
                raise answers.pop()

    store = memory()
    transfer = Transfer(
        model.manifest, model, [TargetRequest("eu", Watched(store, before=throttle), patient())],
        clock=SystemClock(), progress=SilentProgress(), settings=THREADS,
    )  # fmt: skip
    report = within(60, transfer.run)
    assert report.targets["eu"].error is None
    assert transfer._targets[0].pace.limit <= 8
    assert model.content_in(store) == model.bodies


def test_sent_bytes_are_counted_exactly() -> None:
    for seed in range(5):
        model = many(files=100)
        store = MemoryStore(f"s{seed}")
        report = within(60, lambda m=model, s=store: bring(m, ("eu", s), settings=THREADS))  # type: ignore[misc]
        assert report.targets["eu"].sent_bytes == model.size_bytes


def test_an_error_keeps_no_part_in_memory() -> None:
    block = 2 * 1024 * 1024
    model = Model({"a.bin": noise(3 * block)}, block=block)

    def fail(call: Call) -> None:
        if call.verb == "part":
            raise MlplatformError("no")

    transfer = Transfer(
        model.manifest, model, [TargetRequest("eu", Watched(memory(), before=fail))],
        clock=SystemClock(), progress=SilentProgress(), settings=Settings(senders_per_target=1),
    )  # fmt: skip
    report = within(60, transfer.run)
    assert report.targets["eu"].error is not None
    free = sum(len(kept) for kept in transfer._pool._free.values())
    assert free == transfer._pool.peak_bytes // block
