"""The memory of this process, its host and its GPUs, read each second, and what follows of it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from typing import Protocol

from mlplatform_serving.memory import host
from mlplatform_serving.memory.breaker import Gauge, Level, Marks, State, step_all, worst

log = logging.getLogger("memory")

PERIOD_SECONDS = 1.0
_TIGHT_BELOW_SHED = 0.05


class Devices(Protocol):
    """The port of GPUs."""

    def gauges(self) -> list[Gauge]:
        """One for each GPU that answers, named `gpu 0`, `gpu 1`, …; raises nothing."""
        ...


class NoDevices:
    """Nothing is known of any GPU."""

    def gauges(self) -> list[Gauge]:
        """None."""
        return []


def marks(host_fraction: float, gpu_fraction: float) -> dict[str, Marks]:
    """By kind of gauge; it is tight a little before work is refused."""
    of_host, of_gpu = (
        Marks(shed=shed, tight=round(shed - _TIGHT_BELOW_SHED, 6))
        for shed in (host_fraction, gpu_fraction)
    )
    return {"process": of_host, "cgroup": of_host, "host": of_host, "gpu": of_gpu}


class MemoryWatch:
    """What is known of memory now. To be used on the event loop; readings are a few small files."""

    def __init__(
        self,
        marks: Mapping[str, Marks],
        *,
        limit_bytes: int | None = None,
        devices: Devices | None = None,
        read_host: Callable[[int | None], list[Gauge]] = host.gauges,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.marks = marks
        self.limit_bytes = limit_bytes
        self.gauges: list[Gauge] = []
        self.states: dict[str, State] = {}
        self.refusals: dict[str, int] = {}
        """How often work was refused, by the gauge that was full."""
        self._level, self._what = Level.WELL, ""
        self._devices: Devices = devices or NoDevices()
        self._read_host = read_host
        self._monotonic = monotonic

    @property
    def level(self) -> Level:
        """The worst of all gauges."""
        return self._level

    def read(self) -> None:
        """Read everything now."""
        self.gauges = [*self._read_host(self.limit_bytes), *self._devices.gauges()]
        self.states = step_all(self.states, self.gauges, self.marks, self._monotonic())
        before, (self._level, self._what) = self._level, worst(self.states)
        if self._level == before:
            return
        told = {"memory": self._what, "level": self._level.name.lower()}
        if self._level > before:
            log.warning("memory is %s: %s", _WORDS[self._level], self.told(), extra=told)
        else:
            log.info("memory is %s again", _WORDS[self._level], extra=told)

    def gpu_used_bytes(self) -> int | None:
        """Of all GPUs together; None where nothing is known of one."""
        found = [gauge.used_bytes for gauge in self._devices.gauges()]
        return sum(found) if found else None

    def free_bytes(self) -> int | None:
        """What may still be loaded before the host's memory is tight; None: not known."""
        found = [
            int(self.marks[gauge.what].tight * gauge.limit_bytes) - gauge.used_bytes
            for gauge in self.gauges
            if not gauge.what.startswith("gpu")
        ]
        return min(found) if found else None

    def told(self) -> str:
        """The fullest gauge, for people; nothing while all is well."""
        state = self.states.get(self._what)
        if state is None or state.share is None:
            return self._what
        return f"{self._what} {state.share:.0%} full"

    def refuse(self) -> str:
        """Count a refusal; the gauge it is for."""
        self.refusals[self._what] = self.refusals.get(self._what, 0) + 1
        return self.told()

    def over_limit(self) -> str | None:
        """Why this process should be started anew: it is above `MEMORY_LIMIT_MB`. None: it is not,
        there is no limit, or the system does not say."""
        if self.limit_bytes is None:
            return None
        resident = host.resident_bytes()
        if resident is None or resident <= self.limit_bytes:
            return None
        return f"{resident >> 20} MiB are resident, and MEMORY_LIMIT_MB is {self.limit_bytes >> 20}"

    async def run(self, changed: Callable[[], object]) -> None:
        """Read for ever; `changed` is called after each reading that is not well."""
        while True:
            self.read()
            if self._level > Level.WELL:
                changed()
            await asyncio.sleep(PERIOD_SECONDS)


_WORDS = {Level.WELL: "well", Level.TIGHT: "tight", Level.SHEDDING: "full, work is refused"}
