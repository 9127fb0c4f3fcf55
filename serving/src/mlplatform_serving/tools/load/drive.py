"""Asking: in an open loop by a plan of due times, in a closed one by so many who each wait."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from itertools import count

from mlplatform_serving.tools.load.client import Client, Target
from mlplatform_serving.tools.load.report import Sample


async def open_loop(
    target: Target,
    requests: Sequence[bytes],
    due: Sequence[float],
    *,
    connections_max: int,
    timeout_seconds: float,
) -> list[Sample]:
    """Send each when it is due, whatever has become of those before. Requests take turns."""
    client = Client(target, connections_max=connections_max, timeout_seconds=timeout_seconds)
    samples: list[Sample] = []
    tasks: set[asyncio.Task[None]] = set()
    loop = asyncio.get_running_loop()
    ended = loop.create_future()
    began = time.perf_counter()

    async def ask(number: int) -> None:
        sent, done, status = await client.ask(requests[number % len(requests)])
        samples.append(Sample(due[number], sent - began, done - began, status))

    def start(numbers: range) -> None:
        for number in numbers:
            task = loop.create_task(ask(number))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    # Timers of an event loop are late by up to a millisecond, which would be charged to the server;
    # a thread's sleep is not.
    pacer = threading.Thread(target=_pace, args=(due, began, loop, start, ended), daemon=True)
    pacer.start()
    try:
        await ended
        while tasks:
            await asyncio.gather(*tasks)
    finally:
        client.close()
    return samples


def _pace(
    due: Sequence[float],
    began: float,
    loop: asyncio.AbstractEventLoop,
    start: object,
    ended: asyncio.Future[None],
) -> None:
    number = 0
    try:
        while number < len(due):
            time.sleep(max(0.0, began + due[number] - time.perf_counter()))
            now, first = time.perf_counter() - began, number
            while number < len(due) and due[number] <= now:
                number += 1
            if number > first:
                loop.call_soon_threadsafe(start, range(first, number))  # type: ignore[arg-type]
        loop.call_soon_threadsafe(ended.set_result, None)
    except RuntimeError:
        return  # interrupted: the loop has ended


async def closed_loop(
    target: Target,
    requests: Sequence[bytes],
    concurrent: int,
    seconds: float,
    *,
    timeout_seconds: float,
) -> list[Sample]:
    """So many who ask, wait for the answer, and ask again, until the time is over."""
    client = Client(target, connections_max=concurrent, timeout_seconds=timeout_seconds)
    samples: list[Sample] = []
    numbers = count()
    began = time.perf_counter()

    async def one() -> None:
        while time.perf_counter() - began < seconds:
            due = time.perf_counter()
            sent, done, status = await client.ask(requests[next(numbers) % len(requests)])
            samples.append(Sample(due - began, sent - began, done - began, status))
            if isinstance(status, str):
                # Who is refused a connection would otherwise ask nothing but that.
                await asyncio.sleep(_PAUSE_SECONDS)

    try:
        await asyncio.gather(*(one() for _ in range(concurrent)))
    finally:
        client.close()
    return samples


_PAUSE_SECONDS = 0.1
