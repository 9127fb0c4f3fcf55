"""Requests at instants that were drawn before, whatever becomes of those sent: no coordinated
omission. One that is not answered by its deadline is given up, and its connection with it, as
clients do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import cast

import uvloop


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request: when it is sent, and by when it must be answered, in seconds."""

    at: float
    within: float


@dataclass(slots=True)
class Tally:
    """What became of a run, its beginning and its end aside: at first nobody waits, and who comes
    last meets nobody after him."""

    sent: int = 0
    in_time: int = 0
    refused: int = 0
    """Answered in time by anything but 200."""
    given_up: int = 0
    seconds: float = 0.0
    late_sends: float = 0.0
    """The latest that the client itself was, in seconds: it is no measure of the server."""


def poisson(rate: float, seconds: float, deadlines: Sequence[float], seed: int) -> list[Arrival]:
    """At this rate a second, for so long, each deadline equally often."""
    random, at, arrivals = Random(seed), 0.0, []
    while (at := at + random.expovariate(rate)) < seconds:
        arrivals.append(Arrival(at, random.choice(deadlines)))
    return arrivals


def drive(port: int, arrivals: Sequence[Arrival], request: Callable[[float], bytes]) -> Tally:
    """Send them. `request` makes the bytes for one that must be answered within so many seconds."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_drive(port, arrivals, request))


class _Connection(asyncio.Protocol):
    """One request at a time."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[int] | None = None
        self.transport: asyncio.Transport | None = None
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, found, body = self._data.partition(b"\r\n\r\n")
        if not found:
            return
        lower = head.lower()
        length = lower.partition(b"content-length: ")[2].partition(b"\r\n")[0]
        if len(body) >= int(length or b"0") and self.answer is not None and not self.answer.done():
            self._data = b""
            self.answer.set_result(int(head[9:12]))

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        if self.answer is not None and not self.answer.done():
            self.answer.set_result(0)


async def _drive(
    port: int, arrivals: Sequence[Arrival], request: Callable[[float], bytes]
) -> Tally:
    loop = asyncio.get_running_loop()
    idle: list[_Connection] = []
    aside = max(arrival.within for arrival in arrivals)
    begins, ends = aside, arrivals[-1].at - aside
    tally = Tally(seconds=ends - begins)
    began = time.perf_counter() + 0.05

    async def one(arrival: Arrival) -> None:
        counts = begins <= arrival.at < ends
        due = began + arrival.at
        try:
            async with asyncio.timeout(max(0.0, due + arrival.within - time.perf_counter())):
                connection = None
                while idle and (connection is None or connection.transport is None):
                    connection = idle.pop()
                if connection is None or connection.transport is None:
                    _, connection = await loop.create_connection(_Connection, "127.0.0.1", port)
                try:
                    connection.answer = loop.create_future()
                    transport = connection.transport
                    if transport is not None:
                        transport.write(request(arrival.within))
                        status = await connection.answer
                        idle.append(connection)
                    else:
                        status = 0
                except asyncio.CancelledError:
                    if connection.transport is not None:
                        connection.transport.abort()
                    raise
        except (TimeoutError, OSError):
            tally.given_up += counts
            return
        if counts:
            in_time = time.perf_counter() <= due + arrival.within
            tally.in_time += status == 200 and in_time
            tally.refused += status != 200
            tally.given_up += status == 200 and not in_time

    tasks = []
    for arrival in arrivals:
        left = began + arrival.at - time.perf_counter()
        if left > 0.001:
            await asyncio.sleep(left)
        else:
            tally.late_sends = max(tally.late_sends, -left)
        tasks.append(loop.create_task(one(arrival)))
        tally.sent += begins <= arrival.at < ends
    await asyncio.gather(*tasks)
    for connection in idle:
        if connection.transport is not None:
            connection.transport.abort()
    return tally
