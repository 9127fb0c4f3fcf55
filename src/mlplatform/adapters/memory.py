"""A store in this process's memory: `memory://name`.

It keeps the whole contract, deterministically: tags are generation numbers that never repeat,
upload ids come from the same counter, time comes from the `Clock` it is given. By `features` it
plays the dialects of real stores, so that the core meets them all without one: what evidence it
states, which conditions it knows, its part limits, its range copies.

No lock is held while code of a caller runs, so stores can be shared by threads, and by the
greenlets of a simulation.
"""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from itertools import count
from types import TracebackType
from typing import Self

from mlplatform.core.digest import (
    UNKNOWN_DIGESTS,
    Buffer,
    Digests,
    Evidence,
    combine,
    digest_of,
)
from mlplatform.core.errors import (
    ConditionFailed,
    ContainerMissing,
    DigestMismatch,
    NotFound,
    Unavailable,
    Unsupported,
    UsageError,
)
from mlplatform.core.store_url import StoreURL
from mlplatform.ports.clock import Clock, SystemClock
from mlplatform.ports.store import (
    ALWAYS,
    Absent,
    Always,
    Body,
    Condition,
    Part,
    RangeCopy,
    Span,
    Stat,
    StoreFeatures,
    Upload,
    check_key,
)

CRC64NVME = "crc64nvme"
CRC32C = "crc32c"

FEATURES = StoreFeatures(evidence=Evidence.STORE_WHOLE, range_copy=RangeCopy.STATED)


@dataclass(frozen=True, slots=True)
class _Object:
    body: bytes
    stat: Stat


@dataclass(slots=True)
class _Session:
    """An unfinished upload, as the store keeps it: `parts` by index, with their true digests."""

    key: str
    id: str
    number: int
    size_bytes: int
    part_bytes: int
    started: datetime
    parts: dict[int, tuple[bytes, str, Digests]] = field(default_factory=dict)


class MemoryStore:
    """One container. Whoever shares the object shares the container, unfinished uploads too.

    `states` names the digests that this dialect keeps (GCS: CRC32C; Azure: CRC64NVME).
    `states_parts` is whether it states those of the parts of an unfinished upload; by default a
    store whose evidence is `READ_BACK` does not.
    """

    def __init__(
        self,
        name: str = "memory",
        *,
        features: StoreFeatures = FEATURES,
        clock: Clock | None = None,
        states: tuple[str, ...] = (CRC64NVME, CRC32C),
        states_parts: bool | None = None,
    ) -> None:
        self._url = f"memory://{name}"
        self._features = features
        self._clock: Clock = clock or SystemClock()
        self._states = states
        self._states_whole = features.evidence is not Evidence.READ_BACK
        self._states_parts = self._states_whole if states_parts is None else states_parts
        self._lock = threading.Lock()
        self._numbers = count(1)
        self._objects: dict[str, _Object] = {}
        self._keys: list[str] = []
        self._sessions: dict[str, _Session] = {}
        self._missing = False

    def __repr__(self) -> str:
        return f"<MemoryStore {self._url}: {len(self._objects)} objects>"

    @property
    def url(self) -> str:
        return self._url

    @property
    def features(self) -> StoreFeatures:
        return self._features

    def put(
        self,
        key: str,
        body: Buffer,
        *,
        digests: Digests = UNKNOWN_DIGESTS,
        when: Condition = ALWAYS,
    ) -> Stat:
        check_key(key)
        held = bytes(body)
        if len(held) > self._features.put_bytes_max:
            raise UsageError(
                f"{self._url}/{key}: a put takes at most {self._features.put_bytes_max} bytes"
            )
        if when != ALWAYS and not self._features.conditional_put:
            raise Unsupported("no conditional puts here", store=self._url, key=key)
        found = digest_of(held)
        self._refuse_mismatch(key, found, digests)
        now = self._clock.now()
        with self._lock:
            self._require_container()
            self._require(key, when)
            return self._write(key, held, found, now)

    def get(
        self, key: str, span: Span | None = None, *, when: Condition = ALWAYS
    ) -> AbstractContextManager[Body]:
        with self._lock:
            found = self._find(key)
            self._require(key, when)
        if span is None:
            return _MemoryBody(found, memoryview(found.body))
        if span.stop > found.stat.size_bytes:
            raise Unavailable(
                f"bytes {span.start} to {span.stop} of {found.stat.size_bytes}",
                store=self._url,
                key=key,
            )
        return _MemoryBody(found, memoryview(found.body)[span.start : span.stop])

    def stat(self, key: str) -> Stat:
        with self._lock:
            return self._find(key).stat

    def list(self, prefix: str, *, shallow: bool = False, after: str = "") -> Iterator[Stat]:
        # One step at a time, so that no lock is held between them. Code points sort as UTF-8 does.
        position = bisect_left if prefix > after else bisect_right
        cursor = max(prefix, after)
        while True:
            with self._lock:
                self._require_container()
                index = position(self._keys, cursor)
                if index == len(self._keys):
                    return
                key = self._keys[index]
                stat = self._objects[key].stat
            if not key.startswith(prefix):
                return
            position, cursor = bisect_right, key
            cut = key.find("/", len(prefix)) + 1 if shallow else 0
            if cut:
                # Everything that starts with "a/" lies before "a0".
                position, cursor = bisect_left, key[: cut - 1] + "0"
                if key[:cut] <= after:
                    continue
                stat = Stat(key[:cut], 0, "")
            yield stat

    def delete(self, key: str, *, when: Condition = ALWAYS) -> None:
        if when != ALWAYS and not self._features.conditional_delete:
            raise Unsupported("no conditional delete here", store=self._url, key=key)
        with self._lock:
            self._require_container()
            check_key(key)
            if key in self._objects:
                self._require(key, when)
                del self._objects[key]
                del self._keys[bisect_left(self._keys, key)]

    def begin(self, key: str, *, size_bytes: int, part_bytes: int) -> Upload:
        check_key(key)
        features = self._features
        if size_bytes < 1 or part_bytes < 1:
            raise UsageError(f"{self._url}/{key}: an upload needs a size and a part size")
        if -(-size_bytes // part_bytes) > features.parts_max:
            raise UsageError(f"{self._url}/{key}: more than {features.parts_max} parts")
        if part_bytes > features.part_bytes_max:
            raise UsageError(f"{self._url}/{key}: parts over {features.part_bytes_max} bytes")
        if part_bytes < min(features.part_bytes_min, size_bytes):
            raise UsageError(f"{self._url}/{key}: parts under {features.part_bytes_min} bytes")
        now = self._clock.now()
        with self._lock:
            self._require_container()
            number = next(self._numbers)
            session = _Session(key, f"upload-{number}", number, size_bytes, part_bytes, now)
            self._sessions[session.id] = session
        return _MemoryUpload(self, session)

    def uploads(self, prefix: str) -> Iterator[Upload]:
        with self._lock:
            self._require_container()
            found = [s for s in self._sessions.values() if s.key.startswith(prefix)]
        found.sort(key=lambda session: (session.key, -session.number))
        return iter([_MemoryUpload(self, session) for session in found])

    # What tests and simulations do to a store from outside.

    def damage(self, key: str, at: int) -> None:
        """Flip one bit of an object's bytes, as a rotting disk does: tag and digests stay."""
        with self._lock:
            found = self._find(key)
            body = bytearray(found.body)
            body[at] ^= 1
            self._objects[key] = _Object(bytes(body), found.stat)

    def damage_part(self, upload_id: str, index: int, at: int) -> None:
        """The same to a part of an unfinished upload."""
        with self._lock:
            session = self._sessions[upload_id]
            body, tag, digests = session.parts[index]
            rotten = bytearray(body)
            rotten[at] ^= 1
            session.parts[index] = (bytes(rotten), tag, digests)

    def drop(self) -> None:
        """Remove the container: from now on every verb raises `ContainerMissing`."""
        with self._lock:
            self._missing = True
            self._objects.clear()
            self._keys.clear()
            self._sessions.clear()

    # The lock is held in all that follows.

    def _require_container(self) -> None:
        if self._missing:
            raise ContainerMissing("no such container", store=self._url)

    def _find(self, key: str) -> _Object:
        self._require_container()
        found = self._objects.get(key)
        if found is None:
            check_key(key)
            raise NotFound("no such object", store=self._url, key=key)
        return found

    def _require(self, key: str, when: Condition) -> None:
        if isinstance(when, Always):
            return
        found = self._objects.get(key)
        if isinstance(when, Absent):
            if found is not None:
                raise ConditionFailed(
                    f"exists, with tag {found.stat.tag}", store=self._url, key=key
                )
        elif found is None:
            raise ConditionFailed(
                f"is not there, tag {when.tag} was expected", store=self._url, key=key
            )
        elif found.stat.tag != when.tag:
            raise ConditionFailed(
                f"has tag {found.stat.tag}, not {when.tag}", store=self._url, key=key
            )

    def _refuse_mismatch(self, key: str, found: Digests, given: Digests) -> None:
        if given.contradicts(found):
            raise DigestMismatch(f"{self._url}/{key}: got {found}, was to be {given}")

    def _write(self, key: str, body: bytes, digests: Digests, now: datetime) -> Stat:
        stat = Stat(
            key,
            len(body),
            str(next(self._numbers)),
            now,
            self._stated(digests) if self._states_whole else UNKNOWN_DIGESTS,
            self._features.evidence if self._states_whole else None,
        )
        if key not in self._objects:
            insort(self._keys, key)
        self._objects[key] = _Object(body, stat)
        return stat

    def _stated(self, digests: Digests) -> Digests:
        return Digests(
            digests.crc64nvme if CRC64NVME in self._states else None,
            digests.crc32c if CRC32C in self._states else None,
        )


class _MemoryBody:
    """A span of an object's bytes, which never change."""

    __slots__ = ("_rest", "_stat")

    def __init__(self, found: _Object, span: memoryview) -> None:
        self._stat = found.stat
        self._rest = span

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._rest = self._rest[:0]

    @property
    def stat(self) -> Stat:
        return self._stat

    def readinto(self, buffer: memoryview) -> int:
        filled = min(len(buffer), len(self._rest))
        buffer[:filled] = self._rest[:filled]
        self._rest = self._rest[filled:]
        return filled


class _MemoryUpload:
    """A handle: all state lies in the store, so any handle of the same upload is as good."""

    __slots__ = ("_session", "_store")

    def __init__(self, store: MemoryStore, session: _Session) -> None:
        self._store = store
        self._session = session

    def __repr__(self) -> str:
        return f"<upload {self.id} of {self._store.url}/{self.key}>"

    @property
    def key(self) -> str:
        return self._session.key

    @property
    def id(self) -> str:
        return self._session.id

    @property
    def started(self) -> datetime | None:
        return self._session.started

    def part(self, index: int, body: Buffer, *, digests: Digests) -> Part:
        store, session = self._store, self._session
        held = bytes(body)
        expected = min(session.part_bytes, session.size_bytes - index * session.part_bytes)
        if index < 0 or len(held) != expected:
            raise UsageError(
                f"{store.url}/{self.key}: part {index} has {len(held)} bytes, not {expected}"
            )
        found = digest_of(held)
        store._refuse_mismatch(self.key, found, digests)
        with store._lock:
            self._require_open()
            return self._hold(index, held, found)

    def copy_range(self, index: int, source_key: str, span: Span, *, when: Condition) -> Part:
        store = self._store
        if store.features.range_copy is RangeCopy.NONE:
            raise Unsupported("no range copies here", store=store.url, key=self.key)
        with store.get(source_key, span, when=when) as body:
            held = bytearray(span.size_bytes)
            body.readinto(memoryview(held))
        part = self.part(index, held, digests=UNKNOWN_DIGESTS)
        if store.features.range_copy is RangeCopy.STATED:
            return part
        return Part(part.index, part.size_bytes, part.tag)

    def parts(self) -> Sequence[Part]:
        with self._store._lock:
            self._require_open()
            return [self._stated(index) for index in sorted(self._session.parts)]

    def complete(self, parts: Sequence[Part], *, digests: Digests, when: Condition) -> Stat:
        store, session = self._store, self._session
        if when != ALWAYS and not store.features.conditional_complete:
            raise Unsupported("no conditional completion here", store=store.url, key=self.key)
        now = store._clock.now()
        with store._lock:
            self._require_open()
            chosen = [session.parts.get(part.index) for part in parts]
            held = [
                found
                for part, found in zip(parts, chosen, strict=True)
                if found is not None and found[1] == part.tag
            ]
            size_bytes = sum(len(body) for body, _, _ in held)
            if (
                [part.index for part in parts] != sorted({part.index for part in parts})
                or len(held) < len(parts)
                or size_bytes != session.size_bytes
            ):
                raise DigestMismatch(
                    f"{store.url}/{self.key}: {size_bytes} of {session.size_bytes} bytes are held "
                    "as listed; other parts are missing, or were replaced"
                )
            found = combine((true, len(body)) for body, _, true in held)
            if store._states_whole:
                store._refuse_mismatch(self.key, found, digests)
            store._require(self.key, when)
            del store._sessions[self.id]
            return store._write(self.key, b"".join(body for body, _, _ in held), found, now)

    def abort(self) -> None:
        with self._store._lock:
            self._store._require_container()
            self._store._sessions.pop(self.id, None)

    def _hold(self, index: int, body: bytes, digests: Digests) -> Part:
        self._session.parts[index] = (body, f"part-{next(self._store._numbers)}", digests)
        return self._stated(index)

    def _stated(self, index: int) -> Part:
        body, tag, digests = self._session.parts[index]
        stated = self._store._stated(digests) if self._store._states_parts else UNKNOWN_DIGESTS
        return Part(index, len(body), tag, stated)

    def _require_open(self) -> None:
        self._store._require_container()
        if self.id not in self._store._sessions:
            raise NotFound(
                f"upload {self.id} was completed or aborted", store=self._store.url, key=self.key
            )


_stores: dict[str, MemoryStore] = {}
_stores_lock = threading.Lock()


def open_store(url: StoreURL) -> MemoryStore:
    """The store of that name, which lives as long as this process: the same for every caller."""
    url.reject_unknown(frozenset())
    name = f"{url.authority}{url.path}".rstrip("/")
    if not name:
        raise UsageError(f"store URL {url} has no name", hint="write e.g. memory://scratch")
    with _stores_lock:
        return _stores.setdefault(name, MemoryStore(name))
