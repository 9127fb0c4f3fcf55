"""One budget for all that is in memory between source and targets."""

from __future__ import annotations

import ctypes
import random
import threading

from mlplatform.replication.buffers import POOLED_BYTES_MIN, BufferPool, SharedBuffer

MIB = 1024 * 1024


def test_the_budget_holds_under_threads() -> None:
    pool = BufferPool(10_000)
    held, most = 0, 0
    lock = threading.Lock()

    def work(seed: int) -> None:
        nonlocal held, most
        chance = random.Random(seed)
        for _ in range(200):
            size = chance.randrange(1, 4000)
            buffer = pool.acquire(size, timeout_seconds=None)
            assert buffer is not None
            assert len(buffer) == size
            with lock:
                held += size
                most = max(most, held)
            with lock:
                held -= size
            pool.release(buffer)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
        assert not thread.is_alive()
    assert most <= 10_000
    assert pool.used_bytes == 0
    assert pool.peak_bytes <= 10_000


def test_no_room_in_time_is_none() -> None:
    pool = BufferPool(100)
    held = pool.acquire(60, timeout_seconds=0)
    assert held is not None
    assert pool.acquire(60, timeout_seconds=0.01) is None
    pool.release(held)
    assert pool.acquire(60, timeout_seconds=0.01) is not None


def test_one_larger_than_the_budget_is_granted_alone() -> None:
    pool = BufferPool(100)
    large = pool.acquire(1000, timeout_seconds=0)
    assert large is not None
    assert pool.acquire(1, timeout_seconds=0) is None
    pool.release(large)
    small = pool.acquire(1, timeout_seconds=0)
    assert small is not None
    assert pool.acquire(1000, timeout_seconds=0) is None


def test_large_buffers_are_used_again_and_small_ones_are_not_kept() -> None:
    pool = BufferPool(8 * MIB)
    for size, again in ((POOLED_BYTES_MIN, True), (POOLED_BYTES_MIN - 1, False)):
        first = pool.acquire(size, timeout_seconds=0)
        assert first is not None
        pool.release(first)
        assert (pool.acquire(size, timeout_seconds=0) is first) is again
        pool = BufferPool(8 * MIB)


def test_what_is_kept_counts_and_makes_room_for_another_size() -> None:
    pool = BufferPool(8 * MIB)
    for size in (4 * MIB, 3 * MIB, 2 * MIB, 5 * MIB, 8 * MIB, MIB):
        buffers = [pool.acquire(size, timeout_seconds=0) for _ in range(8 * MIB // size)]
        assert all(buffer is not None for buffer in buffers)
        for buffer in buffers:
            assert buffer is not None
            pool.release(buffer)
    assert pool.peak_bytes <= 8 * MIB


def test_a_charge_above_the_size_bounds_the_number() -> None:
    pool = BufferPool(100)
    granted = []
    while (buffer := pool.acquire(0, charge_bytes=10, timeout_seconds=0)) is not None:
        granted.append(buffer)
    assert len(granted) == 10
    for buffer in granted:
        pool.release(buffer, charge_bytes=10)
    assert pool.used_bytes == 0


def test_the_last_holder_gives_the_buffer_back() -> None:
    pool = BufferPool(100)
    buffer = pool.acquire(100, timeout_seconds=0)
    assert buffer is not None
    shared = SharedBuffer(pool, buffer, 40)
    assert len(shared.view) == 40
    shared.hold()
    shared.drop()
    assert pool.used_bytes == 100
    shared.drop()
    assert pool.used_bytes == 0


def test_bytes_that_somebody_still_looks_at_are_not_written_over() -> None:
    pool = BufferPool(8 * MIB)
    buffer = pool.acquire(2 * MIB, timeout_seconds=0)
    assert buffer is not None
    shared = SharedBuffer(pool, buffer, 2 * MIB)
    # A request that was given up, whose thread still reads.
    late = (ctypes.c_char * 4).from_buffer(shared.view)
    shared.drop()
    assert pool.used_bytes == 0
    again = pool.acquire(2 * MIB, timeout_seconds=0)
    assert again is not None
    again[:4] = b"next"
    assert bytes(late) == b"\0\0\0\0"
