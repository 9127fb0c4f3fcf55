"""Stores as a process sees them: through a network on which every call may meet a fate.

A `Site` is the truth: the objects, who wrote them, what they were before. A `SimStore` is one
process's way to it. Each call takes time, so that others may come between; then the fate that the
weather has chosen befalls it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum
from random import Random
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

from mlplatform.adapters.memory import MemoryStore
from mlplatform.core.digest import UNKNOWN_DIGESTS, Buffer, Digests, Evidence
from mlplatform.core.errors import (
    ContainerMissing,
    Denied,
    DigestMismatch,
    MlplatformError,
    NotFound,
    StoreFull,
    Throttled,
    Unavailable,
)
from mlplatform.ports.store import (
    ALWAYS,
    Body,
    Condition,
    Matches,
    Part,
    Span,
    Stat,
    StoreFeatures,
    Upload,
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
class Version:
    """One state of a key at a site: the object, or none."""

    since: float
    body: bytes | None
    stat: Stat | None


class Site:
    """One store of the world, with its past and its weather."""

    def __init__(self, name: str, inner: MemoryStore, weather: Weather, random: Random) -> None:
        self.name = name
        self.inner = inner
        self.weather = weather
        self.random = random
        self.past: dict[str, list[Version]] = {}
        self.outages: list[tuple[float, float]] = []
        self.lost = False
        self.read_only = False
        self.is_control = False
        self.failures_in_a_row = 0

    def __repr__(self) -> str:
        return self.name

    @property
    def checks_bytes(self) -> bool:
        """Whether the store itself refuses bytes that differ from the digests it is given."""
        return self.inner.features.evidence is not Evidence.READ_BACK

    def object(self, key: str) -> tuple[bytes, Stat] | None:
        """What is there, in truth."""
        found = self.inner._objects.get(key)
        return (found.body, found.stat) if found else None

    def keys(self, prefix: str) -> list[str]:
        """In truth."""
        return [key for key in self.inner._keys if key.startswith(prefix)]

    def out(self, now: float) -> bool:
        return any(start <= now < end for start, end in self.outages)

    def remember(self, key: str, now: float) -> None:
        """Note what `key` is from now on."""
        found = self.object(key)
        body, stat = found or (None, None)
        self.past.setdefault(key, []).append(Version(now, body, stat))

    def once(self, key: str, when: float) -> Version | None:
        """What `key` was then."""
        older = [version for version in self.past.get(key, ()) if version.since <= when]
        return older[-1] if older else None


class SimStore:
    """One process's way to a site. An `ObjectStore`."""

    def __init__(self, process: Process, site: Site, judge: Judge) -> None:
        self.process = process
        self.site = site
        self.judge = judge

    def __repr__(self) -> str:
        return f"<{self.site} from {self.process}>"

    @property
    def url(self) -> str:
        return self.site.inner.url

    @property
    def features(self) -> StoreFeatures:
        return self.site.inner.features

    def put(
        self,
        key: str,
        body: Buffer,
        *,
        digests: Digests = UNKNOWN_DIGESTS,
        when: Condition = ALWAYS,
    ) -> Stat:
        held = bytes(body)  # a late arrival must not see the buffer's next use
        self.judge.before_put(self, key, held)

        def effect() -> Stat:
            return self.site.inner.put(key, held, digests=digests, when=when)

        def corrupted() -> Stat:
            return self.site.inner.put(key, self._corrupt(held), when=when)

        return self._write("put", key, effect, corrupted=corrupted if held else None)

    def get(
        self, key: str, span: Span | None = None, *, when: Condition = ALWAYS
    ) -> AbstractContextManager[Body]:
        fate = self._pass("get", key)
        if fate is Fate.STALE:
            return self._get_stale(key, span, when)
        opened = self._after(fate, lambda: self.site.inner.get(key, span, when=when))
        if fate not in (Fate.CORRUPT, Fate.BREAKS):
            return opened
        with opened as body:
            content = bytearray(span.size_bytes if span else body.stat.size_bytes)
            if not body.readinto(memoryview(content)):
                return _SimBody(body.stat, b"")
        if fate is Fate.BREAKS:
            self.judge.trace(self.process, "get", self.site, key, fate=fate)
            breaks_at = self.site.random.randrange(len(content))
            return _SimBody(body.stat, bytes(content), breaks_at=breaks_at, url=self.url)
        self.judge.lied(self, key, fate)
        return _SimBody(body.stat, self._corrupt(content))

    def _get_stale(
        self, key: str, span: Span | None, when: Condition
    ) -> AbstractContextManager[Body]:
        """What was there some time ago."""
        self.judge.lied(self, key, Fate.STALE)
        version = self.site.once(key, self._then())
        if version is None or version.stat is None or version.body is None:
            raise NotFound("no such object (stale)", store=self.url, key=key)
        if isinstance(when, Matches) and when.tag != version.stat.tag:
            return self.site.inner.get(key, span, when=when)
        body = version.body[span.start : span.stop] if span else version.body
        if span is not None and len(body) < span.size_bytes:
            raise Unavailable("beyond the end (stale)", store=self.url, key=key)
        return _SimBody(version.stat, body)

    def stat(self, key: str) -> Stat:
        fate = self._pass("stat", key)
        if fate is Fate.STALE:
            self.judge.lied(self, key, fate)
            version = self.site.once(key, self._then())
            if version is None or version.stat is None:
                raise NotFound("no such object (stale)", store=self.url, key=key)
            return version.stat
        return self._after(fate, lambda: self.site.inner.stat(key))

    def list(self, prefix: str, *, shallow: bool = False, after: str = "") -> Iterator[Stat]:
        fate = self._pass("list", prefix)
        found = self._after(
            fate, lambda: list(self.site.inner.list(prefix, shallow=shallow, after=after))
        )
        if fate is Fate.STALE and not shallow:
            self.judge.lied(self, prefix, fate)
            then = self._then()
            keys = sorted(key for key in self.site.past if key.startswith(prefix) and key > after)
            once = [self.site.once(key, then) for key in keys]
            found = [version.stat for version in once if version and version.stat]
        if fate is Fate.BREAKS and found:
            yield from found[: self.site.random.randrange(len(found))]
            raise Unavailable("the listing broke off", store=self.url, key=prefix)
        yield from found

    def delete(self, key: str, *, when: Condition = ALWAYS) -> None:
        self._write("delete", key, lambda: self.site.inner.delete(key, when=when))

    def begin(self, key: str, *, size_bytes: int, part_bytes: int) -> Upload:
        upload = self._write(
            "begin",
            key,
            lambda: self.site.inner.begin(key, size_bytes=size_bytes, part_bytes=part_bytes),
        )
        return SimUpload(self, upload)

    def uploads(self, prefix: str) -> Iterator[Upload]:
        fate = self._pass("uploads", prefix)
        found = self._after(fate, lambda: list(self.site.inner.uploads(prefix)))
        return iter([SimUpload(self, upload) for upload in found])

    # How a call goes.

    def _pass(self, verb: str, key: str, *, writes: bool = False) -> Fate:
        """The way to the store. Raises what keeps a call from getting there."""
        process, site = self.process, self.site
        scheduler, random, weather = process.scheduler, site.random, site.weather
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
            judge.trace(process, verb, site, key, error=error)
            raise error
        if fate is Fate.CRASH_BEFORE:
            judge.trace(process, "crashes before", verb, site, key)
            process.crash()
        error = self._failure(fate, key)
        if error is None:
            site.failures_in_a_row = 0
            return fate
        site.failures_in_a_row += 1
        if weather.in_a_row is not None and site.failures_in_a_row > weather.in_a_row:
            site.failures_in_a_row = 0
            return Fate.WORKS
        judge.trace(process, verb, site, key, fate=fate)
        raise error

    def _ailment(self, key: str, *, writes: bool) -> MlplatformError | None:
        """What is wrong with the site for longer."""
        site = self.site
        if site.lost:
            return ContainerMissing("no such container", store=self.url)
        if site.read_only and writes:
            return Denied("is read-only", right="put", store=self.url, key=key)
        if site.outages and site.out(self.process.scheduler.now):
            return Unavailable("outage", store=self.url, key=key)
        return None

    def _failure(self, fate: Fate, key: str) -> MlplatformError | None:
        """What a call that never takes effect is answered."""
        if fate in (Fate.BEFORE, Fate.HANGS):
            return Unavailable(fate.value, store=self.url, key=key)
        if fate is Fate.THROTTLED:
            asks = self.site.random.choice((None, 1.0))
            return Throttled("slow down", retry_after_seconds=asks, store=self.url, key=key)
        if fate is Fate.DENIED:
            return Denied("expired credentials", store=self.url, key=key)
        if fate is Fate.FULL:
            return StoreFull("no space left", store=self.url, key=key)
        return None

    def _after(self, fate: Fate, effect: Callable[[], T]) -> T:
        """A reading effect, and the way back."""
        result = effect()
        if fate is Fate.CRASH_AFTER:
            self.judge.trace(self.process, "crashes after a read of", self.site)
            self.process.crash()
        return result

    def _write(
        self,
        verb: str,
        key: str,
        effect: Callable[[], T],
        *,
        corrupted: Callable[[], T] | None = None,
        upload: str | None = None,
    ) -> T:
        """A writing effect, judged, and the way back."""
        process, site, judge = self.process, self.site, self.judge
        fate = self._pass(verb, key, writes=True)
        spoilt = False
        if fate is Fate.CORRUPT:
            if site.is_control or corrupted is None:
                fate = Fate.WORKS
            elif site.checks_bytes:
                judge.trace(process, verb, site, key, fate=fate)
                raise DigestMismatch(f"{self.url}/{key}: the store got other bytes")
            else:
                effect, spoilt = corrupted, True

        def take_effect() -> T:
            before = site.object(key)
            result = effect()
            site.remember(key, process.scheduler.now)
            judge.effect(self, verb, key, before, spoilt=spoilt, upload=upload)
            return result

        if fate is Fate.LATE:
            process.scheduler.later(site.random.expovariate(1 / 20), lambda: _late(take_effect))
            process.scheduler.sleep(process, site.random.uniform(5.0, 30.0))
            judge.trace(process, verb, site, key, fate=fate)
            raise Unavailable(fate.value, store=self.url, key=key)
        try:
            result = take_effect()
        except MlplatformError as error:
            judge.trace(process, verb, site, key, fate=fate, error=error)
            raise
        judge.trace(process, verb, site, key, fate=fate)
        if fate is Fate.CRASH_AFTER:
            process.crash()
        if fate is Fate.AFTER:
            process.scheduler.sleep(process, site.random.uniform(0.1, 5.0))
            raise Unavailable(fate.value, store=self.url, key=key)
        if site.random.random() < 0.3:
            # The answer takes its time: others may come between it and the effect.
            process.scheduler.sleep(
                process, site.weather.latency_seconds * site.random.expovariate(1.0)
            )
        return result

    def _corrupt(self, body: Buffer) -> bytes:
        rotten = bytearray(body)
        rotten[self.site.random.randrange(len(rotten))] ^= 1 << self.site.random.randrange(8)
        return bytes(rotten)

    def _then(self) -> float:
        return self.process.scheduler.now - self.site.random.expovariate(1 / 10)


def _weight(verb: str, key: str) -> int:
    """Where a frozen process is most likely to wake up deposed, it freezes more often."""
    if verb == "put" and key.startswith("journal/"):
        return 8
    return 4 if verb in ("put", "complete") else 1


def _late(effect: Callable[[], object]) -> None:
    try:
        effect()
    except MlplatformError:
        return  # nobody is there to hear it


class _SimBody:
    """What came of an object: all of it, or up to where the connection broke."""

    def __init__(
        self, stat: Stat, content: bytes, *, breaks_at: int | None = None, url: str = ""
    ) -> None:
        self._stat = stat
        self._rest = memoryview(content)
        self._left = breaks_at
        self._url = url

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    @property
    def stat(self) -> Stat:
        return self._stat

    def readinto(self, buffer: memoryview) -> int:
        if self._left == 0:
            raise Unavailable("the connection broke", store=self._url, key=self._stat.key)
        filled = min(len(buffer), len(self._rest), *([self._left] if self._left else []))
        buffer[:filled] = self._rest[:filled]
        self._rest = self._rest[filled:]
        if self._left is not None:
            self._left -= filled
        return filled


class SimUpload:
    """One process's handle of an upload."""

    def __init__(self, store: SimStore, inner: Upload) -> None:
        self._store = store
        self._inner = inner

    @property
    def key(self) -> str:
        return self._inner.key

    @property
    def id(self) -> str:
        return self._inner.id

    @property
    def started(self) -> datetime | None:
        return self._inner.started

    def part(self, index: int, body: Buffer, *, digests: Digests) -> Part:
        held = bytes(body)

        def corrupted() -> Part:
            return self._inner.part(index, self._store._corrupt(held), digests=UNKNOWN_DIGESTS)

        return self._store._write(
            "part",
            self.key,
            lambda: self._inner.part(index, held, digests=digests),
            corrupted=corrupted if held else None,
        )

    def copy_range(self, index: int, source_key: str, span: Span, *, when: Condition) -> Part:
        return self._store._write(
            "copy_range",
            self.key,
            lambda: self._inner.copy_range(index, source_key, span, when=when),
        )

    def parts(self) -> Sequence[Part]:
        fate = self._store._pass("parts", self.key)
        return self._store._after(fate, self._inner.parts)

    def complete(self, parts: Sequence[Part], *, digests: Digests, when: Condition) -> Stat:
        return self._store._write(
            "complete",
            self.key,
            lambda: self._inner.complete(parts, digests=digests, when=when),
            upload=self.id,
        )

    def abort(self) -> None:
        self._store._write("abort", self.key, self._inner.abort)
