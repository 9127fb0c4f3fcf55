"""One process's line to some place: on every call that goes over it a fate may befall the call.

A `Place` is what is out there: a store, an actuator, a region's servers. Each call to it takes
time, so that others may come between; then the fate that the weather has chosen befalls it, unless
the place is in trouble for longer, or the network between the two is cut.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from random import Random
from typing import TYPE_CHECKING, TypeVar

from mlplatform.core.errors import (
    ContainerMissing,
    Denied,
    MlplatformError,
    StoreFull,
    Throttled,
    Unavailable,
)
from tests.simulation.schedule import Crash, Process

if TYPE_CHECKING:
    from tests.simulation.judge import Judge

T = TypeVar("T")


class Fate(Enum):
    """What befalls a call."""

    WORKS = "works"
    CRASH_BEFORE = "crash before"
    CRASH_AFTER = "crash after"
    BEFORE = "unavailable"
    THROTTLED = "throttled"
    HANGS = "hangs, times out"
    DENIED = "denied"
    FULL = "full"
    AFTER = "done, answer lost"
    LATE = "times out, arrives later"
    CORRUPT = "corrupted on the way"
    STALE = "stale answer"
    BREAKS = "breaks off in the middle"
    EMPTY = "empty answer"
    BY_HAND = "a hand comes between"


ON_READ = (
    Fate.CRASH_BEFORE,
    Fate.CRASH_AFTER,
    Fate.BEFORE,
    Fate.THROTTLED,
    Fate.HANGS,
    Fate.DENIED,
    Fate.CORRUPT,
    Fate.STALE,
    Fate.BREAKS,
    Fate.EMPTY,
)
ON_WRITE = (
    Fate.CRASH_BEFORE,
    Fate.CRASH_AFTER,
    Fate.BEFORE,
    Fate.THROTTLED,
    Fate.HANGS,
    Fate.DENIED,
    Fate.FULL,
    Fate.AFTER,
    Fate.LATE,
    Fate.CORRUPT,
    Fate.BY_HAND,
)


@dataclass(slots=True)
class Weather:
    """How likely each fate is, and how long calls take."""

    fates: Mapping[Fate, float] = field(default_factory=dict)
    latency_seconds: float = 0.05
    """Typically; now and then it is many times that."""
    pauses: float = 0.0
    """How likely a process freezes in a call."""
    in_a_row: int | None = None
    """After so many failures in a row one call works: trouble that retries ride out."""
    _read: list[tuple[float, Fate]] = field(default_factory=list, init=False)
    _write: list[tuple[float, Fate]] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self._read = _ladder(self.fates, ON_READ)
        self._write = _ladder(self.fates, ON_WRITE)

    def without(self, *fates: Fate) -> Weather:
        """The same, less these."""
        left = {fate: chance for fate, chance in self.fates.items() if fate not in fates}
        return replace(self, fates=left)

    def fate(self, random: Random, *, writes: bool) -> Fate:
        ladder = self._write if writes else self._read
        if not ladder:
            return Fate.WORKS
        throw = random.random()
        if throw >= ladder[-1][0]:
            return Fate.WORKS
        return next(fate for bound, fate in ladder if throw < bound)


def _ladder(fates: Mapping[Fate, float], kinds: Sequence[Fate]) -> list[tuple[float, Fate]]:
    ladder: list[tuple[float, Fate]] = []
    total = 0.0
    for fate in kinds:
        if probability := fates.get(fate, 0.0):
            total += probability
            ladder.append((total, fate))
    return ladder


CALM = Weather()


@dataclass(frozen=True, slots=True)
class Cut:
    """Nothing goes from one to the other for a time. Names are of processes, places and sites;
    `*` is everybody else."""

    sender: str
    receiver: str
    start: float
    end: float

    def stops(self, senders: Sequence[str], receivers: Sequence[str], now: float) -> bool:
        if not self.start <= now < self.end:
            return False
        if self.sender == "*":
            return self.receiver in receivers and self.receiver not in senders
        if self.receiver == "*":
            return self.sender in senders and self.sender not in receivers
        return self.sender in senders and self.receiver in receivers


class Network:
    """Who reaches whom."""

    def __init__(self) -> None:
        self.cuts: list[Cut] = []

    def reaches(self, senders: Sequence[str], receivers: Sequence[str], now: float) -> bool:
        """Whether anything gets from there to there. Both are known by several names."""
        return not any(cut.stops(senders, receivers, now) for cut in self.cuts)


class Place:
    """Something that processes call, and its weather."""

    is_control = False

    def __init__(self, name: str, url: str, weather: Weather, random: Random) -> None:
        self.name = name
        self.url = url
        self.weather = weather
        self.random = random
        self.outages: list[tuple[float, float]] = []
        self.lost = False
        self.read_only = False
        self.failures_in_a_row = 0
        self.names: tuple[str, ...] = (name,)
        """By which the network knows it: its own, and where it stands."""

    def __repr__(self) -> str:
        return self.name

    def out(self, now: float) -> bool:
        return any(start <= now < end for start, end in self.outages)


class Line:
    """One process's way to a place."""

    def __init__(self, process: Process, place: Place, judge: Judge) -> None:
        self.process = process
        self.place = place
        self.judge = judge

    def __repr__(self) -> str:
        return f"<{self.place} from {self.process}>"

    @property
    def url(self) -> str:
        return self.place.url

    def pass_(self, verb: str, key: str, *, writes: bool = False) -> Fate:
        """The way there. Raises what keeps a call from getting there."""
        process, place = self.process, self.place
        scheduler, random, weather = process.scheduler, place.random, place.weather
        if process.dead:
            raise Crash
        fate = weather.fate(random, writes=writes)
        latency = weather.latency_seconds * random.expovariate(1.0)
        if weather.pauses and random.random() < weather.pauses * _weight(verb, key):
            process.freeze(random.choice((5.0, 25.0, 40.0, 120.0)) * random.uniform(0.8, 1.2))
            self.judge.trace(process, f"freezes until {process.frozen_until:.1f}")
        if fate is Fate.HANGS:
            latency += random.uniform(5.0, 30.0)
        scheduler.sleep(process, latency)
        judge = self.judge
        judge.calls += 1
        if judge.calls >= judge.calls_max:
            scheduler.enough = True
        error = self._ailment(key, writes=writes)
        if error is not None:
            judge.trace(process, verb, place, key, error=error)
            raise error
        if fate is Fate.CRASH_BEFORE:
            judge.trace(process, "crashes before", verb, place, key)
            process.crash()
        error = self._failure(fate, key)
        if error is None:
            place.failures_in_a_row = 0
            return self._way_back(fate, key, writes=writes)
        place.failures_in_a_row += 1
        if weather.in_a_row is not None and place.failures_in_a_row > weather.in_a_row:
            place.failures_in_a_row = 0
            return Fate.WORKS
        judge.trace(process, verb, place, key, fate=fate)
        raise error

    def _ailment(self, key: str, *, writes: bool) -> MlplatformError | None:
        """What is wrong with the place, or the way there, for longer."""
        place, process = self.place, self.process
        if place.lost:
            return ContainerMissing("no such container", store=self.url)
        if place.read_only and writes:
            return Denied("is read-only", right="put", store=self.url, key=key)
        if place.outages and place.out(process.scheduler.now):
            return Unavailable("outage", store=self.url, key=key)
        network = process.network
        if network is not None and network.cuts:
            now = process.scheduler.now
            if not network.reaches(process.names, place.names, now):
                return Unavailable("no way there", store=self.url, key=key)
            if not writes and not network.reaches(place.names, process.names, now):
                return Unavailable("no way back", store=self.url, key=key)
        return None

    def _way_back(self, fate: Fate, key: str, *, writes: bool) -> Fate:
        """A write whose answer finds no way back was done all the same."""
        network = self.process.network
        if writes and network is not None and network.cuts:
            now = self.process.scheduler.now
            if not network.reaches(self.place.names, self.process.names, now):
                return Fate.AFTER
        return fate

    def _failure(self, fate: Fate, key: str) -> MlplatformError | None:
        """What a call that never takes effect is answered."""
        if fate in (Fate.BEFORE, Fate.HANGS):
            return Unavailable(fate.value, store=self.url, key=key)
        if fate is Fate.THROTTLED:
            asks = self.place.random.choice((None, 1.0))
            return Throttled("slow down", retry_after_seconds=asks, store=self.url, key=key)
        if fate is Fate.DENIED:
            return Denied("expired credentials", store=self.url, key=key)
        if fate is Fate.FULL:
            return StoreFull("no space left", store=self.url, key=key)
        return None

    def after(self, fate: Fate, effect: Callable[[], T]) -> T:
        """A reading effect, and the way back."""
        result = effect()
        if fate is Fate.CRASH_AFTER:
            self.judge.trace(self.process, "crashes after a read of", self.place)
            self.process.crash()
        return result

    def write_(self, verb: str, key: str, fate: Fate, effect: Callable[[], T]) -> T:
        """A writing effect, which has got there, and the way back."""
        process, place, judge = self.process, self.place, self.judge
        if fate is Fate.LATE:
            process.scheduler.later(place.random.expovariate(1 / 20), lambda: _late(effect))
            process.scheduler.sleep(process, place.random.uniform(5.0, 30.0))
            judge.trace(process, verb, place, key, fate=fate)
            raise Unavailable(fate.value, store=self.url, key=key)
        try:
            result = effect()
        except MlplatformError as error:
            judge.trace(process, verb, place, key, fate=fate, error=error)
            raise
        judge.trace(process, verb, place, key, fate=fate)
        if fate is Fate.CRASH_AFTER:
            process.crash()
        if fate is Fate.AFTER:
            process.scheduler.sleep(process, place.random.uniform(0.1, 5.0))
            raise Unavailable(fate.value, store=self.url, key=key)
        if place.random.random() < 0.3:
            # The answer takes its time: others may come between it and the effect.
            process.scheduler.sleep(
                process, place.weather.latency_seconds * place.random.expovariate(1.0)
            )
        return result


def _weight(verb: str, key: str) -> int:
    """Where a frozen process is most likely to wake up deposed, it freezes more often."""
    if verb == "put" and key.startswith("journal/"):
        return 8
    return 4 if verb in ("put", "complete", "write") else 1


def _late(effect: Callable[[], object]) -> None:
    try:
        effect()
    except MlplatformError:
        return  # nobody is there to hear it
