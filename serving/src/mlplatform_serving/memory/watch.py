"""The memory of this process, its host and its GPUs, read each second, and what follows of it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence

from mlplatform_serving.gpu import Reading
from mlplatform_serving.memory import host
from mlplatform_serving.memory.breaker import (
    Gauge,
    Level,
    Marks,
    State,
    excess_bytes,
    step_all,
    worst,
)
from mlplatform_serving.memory.room import Where

log = logging.getLogger("memory")

PERIOD_SECONDS = 1.0
_TIGHT_BELOW_SHED = 0.05
_WORDS = {Level.WELL: "well", Level.TIGHT: "tight", Level.SHEDDING: "full, work is refused"}


def marks(host_fraction: float, gpu_fraction: float) -> dict[str, Marks]:
    """By kind of gauge; it is tight a little before work is refused."""
    of_host, of_gpu = (
        Marks(shed=shed, tight=round(shed - _TIGHT_BELOW_SHED, 6))
        for shed in (host_fraction, gpu_fraction)
    )
    return {"process": of_host, "cgroup": of_host, "host": of_host, "gpu": of_gpu}


def where(gauge: str) -> Where:
    """Which memory a gauge is of, by its name."""
    return Where.GPU if gauge.startswith("gpu") else Where.HOST


class MemoryWatch:
    """What is known of memory now. To be used on the event loop. The host's readings are a few
    small files; a GPU's driver may hang, and is asked in a thread: one that does not answer is
    unknown."""

    def __init__(
        self,
        marks: Mapping[str, Marks],
        *,
        limit_bytes: int | None = None,
        read_gpus: Callable[[], Sequence[Reading]] | None = None,
        read_host: Callable[[int | None], list[Gauge]] = host.gauges,
        read_resident: Callable[[], int | None] = host.resident_bytes,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`limit_bytes` is the process's own limit, if it was set one."""
        self.marks = marks
        self.gauges: list[Gauge] = []
        self.states: dict[str, State] = {}
        self._limit_bytes = limit_bytes
        self._level, self._what = Level.WELL, ""
        self._read_host = read_host
        self.resident_bytes = read_resident
        """What this process holds; None where the system does not say."""
        self._read_gpus = read_gpus
        self._of_gpus: list[Gauge] = []
        self._asking: asyncio.Task[Sequence[Reading]] | None = None
        self._monotonic = monotonic

    @property
    def level(self) -> Level:
        """The worst of all gauges."""
        return self._level

    def read(self) -> None:
        """Read the host now; of the GPUs the last reading counts."""
        self.gauges = [*self._read_host(self._limit_bytes), *self._of_gpus]
        self.states = step_all(self.states, self.gauges, self.marks, self._monotonic())
        before, (self._level, self._what) = self._level, worst(self.states)
        if self._level == before:
            return
        told = {"memory": self._what, "memory_level": self._level.name.lower()}
        if self._level > before:
            log.warning("memory is %s: %s", _WORDS[self._level], self.told(), extra=told)
        else:
            log.info("memory is %s again", _WORDS[self._level], extra=told)

    async def read_all(self) -> None:
        """Read the host and the GPUs now."""
        self._of_gpus = await self._ask_gpus()
        self.read()

    async def _ask_gpus(self) -> list[Gauge]:
        if self._read_gpus is None:
            return []
        if self._asking is None:
            self._asking = asyncio.create_task(asyncio.to_thread(self._read_gpus))
        done, _ = await asyncio.wait([self._asking], timeout=PERIOD_SECONDS)
        if not done:
            return []
        asked, self._asking = self._asking, None
        if asked.exception() is not None:
            return []
        return [
            Gauge(f"gpu {each.index}", each.memory_used_bytes, each.memory_total_bytes)
            for each in asked.result()
            if each.memory_used_bytes is not None and each.memory_total_bytes is not None
        ]

    def fullest(self, of: Where) -> Gauge | None:
        """Of those of one memory; None where none can be read."""
        found = [gauge for gauge in self.gauges if where(gauge.what) is of]
        return max(found, key=lambda gauge: gauge.share, default=None)

    def shedding(self, of: Where) -> bool:
        """Whether inferences are refused for this memory."""
        return any(
            state.level is Level.SHEDDING and where(what) is of
            for what, state in self.states.items()
        )

    def gpu_used_bytes(self) -> int | None:
        """Of all GPUs together; None where nothing is known of one."""
        return sum(each.used_bytes for each in self._of_gpus) if self._of_gpus else None

    def free_bytes(self) -> int | None:
        """What may still be loaded before the host's memory is tight; None: not known."""
        found = [
            int(self.marks[gauge.what].tight * gauge.limit_bytes) - gauge.used_bytes
            for gauge in self.gauges
            if where(gauge.what) is Where.HOST
        ]
        return min(found, default=None)

    def excess_bytes(self, of: Where) -> int:
        """How much must go until this memory counts as well."""
        gauge = self.fullest(of)
        if gauge is None or self.states[gauge.what].level is Level.WELL:
            return 0
        return excess_bytes(gauge, self.marks[gauge.what.partition(" ")[0]])

    def told(self) -> str:
        """The fullest gauge, for people; empty while all is well."""
        state = self.states.get(self._what)
        if state is None or state.share is None:
            return self._what
        return f"{self._what} {state.share:.0%} full"

    def over_limit(self) -> str | None:
        """Why this process should be started anew: it is above `MEMORY_LIMIT_MB`. None: it is not,
        there is no limit, or the system does not say."""
        if self._limit_bytes is None:
            return None
        resident = self.resident_bytes()
        if resident is None or resident <= self._limit_bytes:
            return None
        limit = self._limit_bytes >> 20
        return f"{resident >> 20} MiB are resident, and MEMORY_LIMIT_MB is {limit}"

    async def run(self, after: Callable[[], Awaitable[None]]) -> None:
        """Read for ever; `after` is called after each reading."""
        while True:
            await self.read_all()
            await after()
            await asyncio.sleep(PERIOD_SECONDS)
