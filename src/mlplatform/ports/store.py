"""The object store port: seven verbs, capabilities as data, comforts derived from both.

The contract that every adapter keeps, and that `tests/conformance` judges:

- A write is atomic: readers see the old object, the new one, or none; never a part.
- A write whose `digests` contradict the bytes that arrived is refused with `DigestMismatch`
  and changes nothing, by the store itself wherever it can (`features.evidence`).
- `Condition` is upheld by the store, not by a read before the write.
- A body that ends before its span does raises `Unavailable`; it is never a short success.
- Nothing waits for ever: a stalled connection raises `Unavailable`.
- Foreign errors arrive as `mlplatform.core.errors`, chained to their cause.
- Verbs may be called from many threads. An adapter never retries: `control.retry` does.
- A key that some store could not hold is refused by all of them (`check_key`).
- A lost answer is settled by reading. An upload that is gone, or a condition that fails, may be
  the doing of the very call that is repeated.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from mlplatform.core.digest import UNKNOWN_DIGESTS, Buffer, Digests, Evidence
from mlplatform.core.errors import IntegrityError, NotFound, Unavailable, UsageError

KEY_BYTES_MAX = 1024


class RangeCopy(StrEnum):
    """Whether an upload can take a range of an existing object, and what proves the result."""

    NONE = "none"
    STATED = "stated"
    """The store states each copied range's digest, or the whole's at completion."""
    READ_BACK = "read-back"
    """The store copies but proves nothing: the result must be read."""


@dataclass(frozen=True, slots=True)
class Always:
    """Write whatever is there."""


@dataclass(frozen=True, slots=True)
class Absent:
    """Only if there is no such object."""


@dataclass(frozen=True, slots=True)
class Matches:
    """Only if the object is there with exactly this tag."""

    tag: str


Condition = Always | Absent | Matches
ALWAYS = Always()
ABSENT = Absent()


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes `[start, stop)` of an object."""

    start: int
    stop: int

    @property
    def size_bytes(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Stat:
    """What the store itself says of an object.

    `tag` changes when the object does (ETag, generation, or size-mtime-inode for files).
    `digests` are of the whole object, and `evidence` says what they rest on; both are empty
    where the store states none. From `list` they may be missing although `stat` has them.
    A key that ends in "/" is a common prefix of a shallow listing.
    """

    key: str
    size_bytes: int
    tag: str
    modified: datetime | None = None
    digests: Digests = UNKNOWN_DIGESTS
    evidence: Evidence | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """A part that an unfinished upload holds. `index` counts from 0; `tag` is the store's."""

    index: int
    size_bytes: int
    tag: str
    digests: Digests = UNKNOWN_DIGESTS


@dataclass(frozen=True, slots=True)
class StoreFeatures:
    """What a store can do. The core asks "can you?", never "who are you?"."""

    evidence: Evidence
    """How a completed write is verified here."""
    conditional_put: bool = True
    """`ABSENT` and `Matches` hold on put. Without it such a put raises `Unsupported`."""
    conditional_complete: bool = True
    """`ABSENT` and `Matches` hold when an upload completes. Without it such a completion raises
    `Unsupported`."""
    conditional_delete: bool = True
    """`Matches` holds on delete. Without it nothing is ever deleted automatically."""
    drops_uploads: bool = True
    """`abort` frees what was sent. Without it the store does so itself, after a time of its own."""
    range_copy: RangeCopy = RangeCopy.NONE
    part_bytes_min: int = 1
    """Smallest part, the last one excepted."""
    part_bytes_max: int = 5 * 1024**3
    parts_max: int = 10_000
    put_bytes_max: int = 5 * 1024**3
    """Largest body of a single put."""


class Body(Protocol):
    """An object, or a span of it, being read."""

    @property
    def stat(self) -> Stat:
        """Of the whole object; digests may be missing."""
        ...

    def readinto(self, buffer: memoryview) -> int:
        """Fill `buffer` from its start, with one byte or more; how many, 0 at the end of the span.

        Raises `Unavailable` if the connection ends or stalls before the span does.
        """
        ...


class Upload(Protocol):
    """A large object being assembled. What it holds survives this process.

    Once it is completed or aborted, by anyone, its verbs raise `NotFound` (`abort` does not).
    """

    @property
    def key(self) -> str: ...

    @property
    def id(self) -> str:
        """Tells uploads of one key apart, from any machine."""
        ...

    @property
    def started(self) -> datetime | None: ...

    def part(self, index: int, body: Buffer, *, digests: Digests) -> Part:
        """Send one part; sending an index again replaces it. `DigestMismatch` if the store saw
        other bytes than `digests` state."""
        ...

    def copy_range(self, index: int, source_key: str, span: Span, *, when: Condition) -> Part:
        """Take a part from an object in the same store. `Unsupported` where `range_copy` is
        NONE. The part's digests are those that the store states, or none."""
        ...

    def parts(self) -> Sequence[Part]:
        """What the store holds now, by index, with the digests it can state. An upload that is
        gone raises `NotFound`."""
        ...

    def complete(self, parts: Sequence[Part], *, digests: Digests, when: Condition) -> Stat:
        """Make `parts`, by index and all of them, the object. `digests` are the whole's: the store
        refuses others where it can; where it states its own afterwards, the `Stat` carries them.
        A part that is missing, or was replaced since, raises `DigestMismatch`.
        A refused condition raises `ConditionFailed`; whether the upload outlives that, `parts`
        tells. Repeated after it has worked, it returns the object's `Stat`, or raises `NotFound`
        or `ConditionFailed`, and the object stays as it is."""
        ...

    def abort(self) -> None:
        """Drop what was sent. Not an error when there is nothing left."""
        ...


class ObjectStore(Protocol):
    """One bucket, container or folder, below a prefix. Keys are relative, "/"-separated."""

    @property
    def url(self) -> str:
        """For people and errors: no options, no secrets."""
        ...

    @property
    def features(self) -> StoreFeatures: ...

    def put(self, key: str, body: Buffer, *, digests: Digests = ..., when: Condition = ...) -> Stat:
        """Write a whole object in one request; unknown digests are computed here. `Matches` where
        there is no object raises `ConditionFailed`."""
        ...

    def get(
        self, key: str, span: Span | None = None, *, when: Condition = ...
    ) -> AbstractContextManager[Body]:
        """Read an object or a span of it. `Matches` pins the version: another raises
        `ConditionFailed`. A span beyond the end raises `Unavailable`."""
        ...

    def stat(self, key: str) -> Stat:
        """`NotFound` if there is none."""
        ...

    def list(self, prefix: str, *, shallow: bool = False, after: str = "") -> Iterator[Stat]:
        """Objects whose key starts with `prefix`, by key (bytewise), those after `after`.
        Shallow: keys are cut after the first "/" behind the prefix, each once, and it is the
        cut key that comes after `after`."""
        ...

    def delete(self, key: str, *, when: Condition = ...) -> None:
        """Remove an object; one that is not there is no error, whatever `when` says. `Matches` on
        a store without `conditional_delete` raises `Unsupported`."""
        ...

    def begin(self, key: str, *, size_bytes: int, part_bytes: int) -> Upload:
        """Start assembling an object of `size_bytes` from parts of `part_bytes` (the last one
        shorter). Nothing is visible before `complete`."""
        ...

    def uploads(self, prefix: str) -> Iterator[Upload]:
        """Unfinished uploads of keys that start with `prefix`, newest first for each key: to be
        resumed by anyone, or aborted."""
        ...


def check_key(key: str) -> None:
    """`UsageError` unless every store can hold `key`: relative, "/"-separated, no segment that is
    empty or ends with ".", no backslash, no control character, at most 1024 bytes of UTF-8.

    Azure silently drops a segment's last dots and takes a backslash for "/": another object would
    be overwritten.
    """
    try:
        size_bytes = len(key.encode())
    except UnicodeEncodeError as error:
        raise UsageError(f"key {key!r} is not valid Unicode") from error
    if not 0 < size_bytes <= KEY_BYTES_MAX:
        raise UsageError(f"key {key!r} has {size_bytes} bytes, not 1 to {KEY_BYTES_MAX}")
    if not key.isprintable() and any(ord(char) < 32 or ord(char) == 127 for char in key):
        raise UsageError(f"key {key!r} holds a control character")
    if "\\" in key:
        raise UsageError(f"key {key!r} holds a backslash")
    for segment in key.split("/"):
        if not segment or segment.endswith("."):
            raise UsageError(f"key {key!r} has the segment {segment!r}")


def read_into(
    store: ObjectStore,
    key: str,
    span: Span,
    buffer: memoryview,
    *,
    when: Condition = ALWAYS,
) -> Stat:
    """Fill `buffer` with `span`. Raises `Unavailable` when fewer bytes come."""
    with store.get(key, span, when=when) as body:
        filled = 0
        while filled < span.size_bytes:
            count = body.readinto(buffer[filled : span.size_bytes])
            if not count:
                raise Unavailable(
                    f"short read: {filled} of {span.size_bytes} bytes",
                    store=store.url,
                    key=key,
                )
            filled += count
        return body.stat


def read_bytes(
    store: ObjectStore, key: str, *, limit_bytes: int = 64 * 1024 * 1024
) -> tuple[bytes, Stat]:
    """A small object, whole, with its stat. A larger one raises `IntegrityError`: records and
    manifests have bounds."""
    with store.get(key) as body:
        chunks: list[bytes] = []
        total = 0
        # Most are small, and clearing a large buffer for each costs more than the read.
        buffer = memoryview(bytearray(min(256 * 1024, body.stat.size_bytes + 1)))
        while count := body.readinto(buffer):
            total += count
            if total > limit_bytes:
                raise IntegrityError(f"{store.url}/{key}: larger than {limit_bytes} bytes")
            chunks.append(bytes(buffer[:count]))
        return b"".join(chunks), body.stat


def exists(store: ObjectStore, key: str) -> bool:
    """Whether the object is there. An unreadable store raises; it is not "absent"."""
    try:
        store.stat(key)
    except NotFound:
        return False
    return True
