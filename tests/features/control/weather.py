"""Clocks that lie and stores that fail, for the tests of this folder."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from mlplatform.core.digest import UNKNOWN_DIGESTS, Buffer, Digests
from mlplatform.core.errors import Denied, Unavailable
from mlplatform.ports.store import (
    ALWAYS,
    Body,
    Condition,
    ObjectStore,
    Part,
    Span,
    Stat,
    StoreFeatures,
    Upload,
)

T = TypeVar("T")

START = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
WRITES = {"put", "delete", "part", "copy_range", "complete", "abort", "begin"}


class VirtualClock:
    """Time that passes only when somebody sleeps. `wall_skew` is how far its wall clock is off."""

    def __init__(self, *, wall_skew: timedelta = timedelta()) -> None:
        self.seconds = 0.0
        self.slept: list[float] = []
        self.wall_skew = wall_skew

    def now(self) -> datetime:
        return START + self.wall_skew + timedelta(seconds=self.seconds)

    def monotonic(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.seconds += seconds


@dataclass
class SkewedClock:
    """The same time, as another machine reads it."""

    true: VirtualClock
    wall_skew: timedelta = timedelta()
    monotonic_start: float = 0.0
    rate: float = 1.0

    def now(self) -> datetime:
        return self.true.now() + self.wall_skew

    def monotonic(self) -> float:
        return self.monotonic_start + self.true.seconds * self.rate

    def sleep(self, seconds: float) -> None:
        self.true.sleep(seconds / self.rate)


@dataclass(frozen=True)
class Fault:
    """What happens to a call: an error, before or after the work was done."""

    error: Exception
    after: bool = False


def lost() -> Fault:
    return Fault(Unavailable("connection refused"))


def answer_lost() -> Fault:
    return Fault(Unavailable("timed out"), after=True)


class FaultyStore:
    """Any store in bad weather: `faults[verb]` holds what happens to its next calls, None for
    nothing; `down` and `read_only` hold until they are lifted; `before` is called first, `after`
    when the work was done and its answer is on its way."""

    def __init__(self, store: ObjectStore) -> None:
        self.store = store
        self.faults: dict[str, list[Fault | None]] = {}
        self.down = False
        self.read_only = False
        self.stalled: threading.Event | None = None
        """While it is there and not set, calls wait for it."""
        self.before: Callable[[str], None] = lambda verb: None
        self.after: Callable[[str], None] = lambda verb: None
        self.calls: list[str] = []

    @property
    def url(self) -> str:
        return self.store.url

    @property
    def features(self) -> StoreFeatures:
        return self.store.features

    def put(
        self,
        key: str,
        body: Buffer,
        *,
        digests: Digests = UNKNOWN_DIGESTS,
        when: Condition = ALWAYS,
    ) -> Stat:
        return self.do("put", lambda: self.store.put(key, body, digests=digests, when=when))

    def get(
        self, key: str, span: Span | None = None, *, when: Condition = ALWAYS
    ) -> AbstractContextManager[Body]:
        return self.do("get", lambda: self.store.get(key, span, when=when))

    def stat(self, key: str) -> Stat:
        return self.do("stat", lambda: self.store.stat(key))

    def list(self, prefix: str, *, shallow: bool = False, after: str = "") -> Iterator[Stat]:
        """Faults of "list" meet its opening, those of "next" each step."""
        source = self.do("list", lambda: self.store.list(prefix, shallow=shallow, after=after))
        while (stat := self.do("next", lambda: next(source, None))) is not None:
            yield stat

    def delete(self, key: str, *, when: Condition = ALWAYS) -> None:
        self.do("delete", lambda: self.store.delete(key, when=when))

    def begin(self, key: str, *, size_bytes: int, part_bytes: int) -> Upload:
        upload = self.do(
            "begin", lambda: self.store.begin(key, size_bytes=size_bytes, part_bytes=part_bytes)
        )
        return _FaultyUpload(self, upload)

    def uploads(self, prefix: str) -> Iterator[Upload]:
        found = self.do("uploads", lambda: self.store.uploads(prefix))
        return (_FaultyUpload(self, upload) for upload in found)

    def do(self, verb: str, work: Callable[[], T]) -> T:
        self.calls.append(verb)
        self.before(verb)
        if self.stalled is not None:
            self.stalled.wait(timeout=10)
        if self.down:
            raise Unavailable("connection refused", store=self.url)
        if self.read_only and verb in WRITES:
            raise Denied("read-only", right="put", store=self.url)
        waiting = self.faults.get(verb)
        fault = waiting.pop(0) if waiting else None
        if fault is not None and not fault.after:
            raise fault.error
        result = work()
        self.after(verb)
        if fault is not None:
            raise fault.error
        return result


class _FaultyUpload:
    def __init__(self, store: FaultyStore, upload: Upload) -> None:
        self.store = store
        self.upload = upload

    @property
    def key(self) -> str:
        return self.upload.key

    @property
    def id(self) -> str:
        return self.upload.id

    @property
    def started(self) -> datetime | None:
        return self.upload.started

    def part(self, index: int, body: Buffer, *, digests: Digests) -> Part:
        return self.store.do("part", lambda: self.upload.part(index, body, digests=digests))

    def copy_range(self, index: int, source_key: str, span: Span, *, when: Condition) -> Part:
        return self.store.do(
            "copy_range", lambda: self.upload.copy_range(index, source_key, span, when=when)
        )

    def parts(self) -> Sequence[Part]:
        return self.store.do("parts", self.upload.parts)

    def complete(self, parts: Sequence[Part], *, digests: Digests, when: Condition) -> Stat:
        return self.store.do(
            "complete", lambda: self.upload.complete(parts, digests=digests, when=when)
        )

    def abort(self) -> None:
        self.store.do("abort", self.upload.abort)
