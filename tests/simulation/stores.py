"""Stores as a process sees them: over a line on which every call may meet a fate.

A `Site` is the truth: the objects, who wrote them, what they were before. A `SimStore` is one
process's way to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from random import Random
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

from mlplatform.adapters.memory import MemoryStore
from mlplatform.core.digest import UNKNOWN_DIGESTS, Buffer, Digests, Evidence
from mlplatform.core.errors import DigestMismatch, NotFound, Unavailable
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
from tests.simulation.line import Fate, Line, Place, Weather
from tests.simulation.schedule import Process

if TYPE_CHECKING:
    from tests.simulation.judge import Judge

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Version:
    """One state of a key at a site: the object, or none."""

    since: float
    body: bytes | None
    stat: Stat | None


class Site(Place):
    """One store of the world, with its past and its weather."""

    def __init__(self, name: str, inner: MemoryStore, weather: Weather, random: Random) -> None:
        super().__init__(name, inner.url, weather, random)
        self.inner = inner
        self.past: dict[str, list[Version]] = {}
        self._unwritten: dict[str, Callable[[], bytes]] = {}

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

    def put_unread(self, key: str, make: Callable[[], bytes]) -> None:
        """What is overwritten time and again is made when somebody reads it."""
        self._unwritten[key] = make

    def forget(self) -> None:
        """It was made anew."""
        self.past.clear()
        self._unwritten.clear()

    def require(self, key: str) -> None:
        """Have what is there by now."""
        if self._unwritten and (make := self._unwritten.pop(key, None)) is not None:
            self.inner.put(key, make())

    def remember(self, key: str, now: float) -> None:
        """Note what `key` is from now on."""
        found = self.object(key)
        body, stat = found or (None, None)
        self.past.setdefault(key, []).append(Version(now, body, stat))

    def once(self, key: str, when: float) -> Version | None:
        """What `key` was then."""
        older = [version for version in self.past.get(key, ()) if version.since <= when]
        return older[-1] if older else None


class SimStore(Line):
    """One process's way to a site. An `ObjectStore`."""

    def __init__(self, process: Process, site: Site, judge: Judge) -> None:
        super().__init__(process, site, judge)
        self.site = site

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
        fate = self.pass_("get", key)
        self.site.require(key)
        if fate is Fate.STALE:
            return self._get_stale(key, span, when)
        opened = self.after(fate, lambda: self.site.inner.get(key, span, when=when))
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
        fate = self.pass_("stat", key)
        self.site.require(key)
        if fate is Fate.STALE:
            self.judge.lied(self, key, fate)
            version = self.site.once(key, self._then())
            if version is None or version.stat is None:
                raise NotFound("no such object (stale)", store=self.url, key=key)
            return version.stat
        return self.after(fate, lambda: self.site.inner.stat(key))

    def list(self, prefix: str, *, shallow: bool = False, after: str = "") -> Iterator[Stat]:
        fate = self.pass_("list", prefix)
        found = self.after(
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
        fate = self.pass_("uploads", prefix)
        found = self.after(fate, lambda: list(self.site.inner.uploads(prefix)))
        return iter([SimUpload(self, upload) for upload in found])

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
        fate = self.pass_(verb, key, writes=True)
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

        return self.write_(verb, key, fate, take_effect)

    def _corrupt(self, body: Buffer) -> bytes:
        rotten = bytearray(body)
        rotten[self.site.random.randrange(len(rotten))] ^= 1 << self.site.random.randrange(8)
        return bytes(rotten)

    def _then(self) -> float:
        return self.process.scheduler.now - self.site.random.expovariate(1 / 10)


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
        fate = self._store.pass_("parts", self.key)
        return self._store.after(fate, self._inner.parts)

    def complete(self, parts: Sequence[Part], *, digests: Digests, when: Condition) -> Stat:
        return self._store._write(
            "complete",
            self.key,
            lambda: self._inner.complete(parts, digests=digests, when=when),
            upload=self.id,
        )

    def abort(self) -> None:
        self._store._write("abort", self.key, self._inner.abort)
