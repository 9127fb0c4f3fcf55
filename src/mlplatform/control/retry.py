"""The one retry policy, and a store that keeps it.

Exponential with full jitter, a cap, a total deadline; a store's own Retry-After is honoured; what
cannot succeed is not tried again. Nothing else in the product retries: adapters do not, and their
SDKs are told not to.

The hard part is a conditional write whose answer is lost: it may have taken effect. Trying again
blindly would take our own work for somebody else's. So it is settled by reading back: ours, or
equal bytes, is success; the state we asked for is still there, so try again; anything else is
`ConditionFailed`.
"""

from __future__ import annotations

import builtins
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from copy import copy
from datetime import datetime
from itertools import islice
from random import Random
from typing import Generic, TypeVar

import tenacity

from mlplatform.control import metrics
from mlplatform.core.digest import UNKNOWN_DIGESTS, Buffer, Digests, combine, extend
from mlplatform.core.errors import (
    ConditionFailed,
    ContainerMissing,
    DeadlineExceeded,
    DigestMismatch,
    Fenced,
    Interrupted,
    MlplatformError,
    NotFound,
    Throttled,
)
from mlplatform.ports.clock import Clock
from mlplatform.ports.store import (
    ALWAYS,
    Absent,
    Always,
    Body,
    Condition,
    Matches,
    ObjectStore,
    Part,
    Span,
    Stat,
    StoreFeatures,
    Upload,
)

log = logging.getLogger(__name__)

T = TypeVar("T")

_LIST_BATCH = 1000
_READ_BYTES = 256 * 1024
_STOP_POLL_SECONDS = 0.25


class Retry:
    """The policy. One object serves many calls, and many threads.

    `stop` is asked between attempts and while waiting: when it says yes, `Interrupted` is raised.
    """

    def __init__(
        self,
        clock: Clock,
        random: Random,
        *,
        attempts: int = 8,
        base_seconds: float = 0.25,
        cap_seconds: float = 20.0,
        deadline_seconds: float = 300.0,
        stop: Callable[[], bool] | None = None,
        listener: Callable[[MlplatformError], None] | None = None,
    ) -> None:
        self._listener = listener
        self._clock = clock
        self._random = random
        self._attempts = attempts
        self._base_seconds = base_seconds
        self._cap_seconds = cap_seconds
        self._deadline_seconds = deadline_seconds
        self._stop = stop

    def listening(self, listener: Callable[[MlplatformError], None]) -> Retry:
        """The same policy; `listener` hears each attempt's error, before it is tried again."""
        told = copy(self)
        told._listener = listener
        return told

    def call(self, fn: Callable[[], T], *, what: str) -> T:
        """`fn()`, tried again while its errors say that they are `retryable`.

        `what` names it in logs and errors, its verb first: `put s3://bucket/key`. When the attempts
        are used up the last error is raised; when the deadline is over, or would be before the next
        attempt, `DeadlineExceeded`, from the last error.
        """
        tries = _Tries(what)
        deadline = self._clock.monotonic() + self._deadline_seconds
        try:
            return self._attempt(fn, tries)
        except MlplatformError as error:
            if not error.retryable:
                raise
            return self._again(fn, tries, error, deadline)

    def _attempt(self, fn: Callable[[], T], tries: _Tries) -> T:
        tries.number += 1
        try:
            result = fn()
        except MlplatformError as error:
            if self._listener is not None:
                self._listener(error)
            if not error.retryable:
                tries.note("failed", error)
            raise
        tries.note("ok")
        return result

    def _again(
        self, fn: Callable[[], T], tries: _Tries, error: MlplatformError, deadline: float
    ) -> T:
        """All attempts after the first, which ended with `error`: nearly every call needs only
        that one, and does without what is built here."""
        first: MlplatformError | None = error

        def attempt() -> T:
            nonlocal first
            if first is not None:
                told, first = first, None
                raise told
            return self._attempt(fn, tries)

        def finished(state: tenacity.RetryCallState) -> bool:
            resumes = self._clock.monotonic() + state.upcoming_sleep
            return state.attempt_number >= self._attempts or resumes > deadline

        def between(state: tenacity.RetryCallState) -> None:
            tries.note("retried", _error_of(state), wait_seconds=state.upcoming_sleep)

        def give_up(state: tenacity.RetryCallState) -> T:
            error = _error_of(state)
            if state.attempt_number >= self._attempts:
                tries.note("failed", error)
                raise error
            tries.note("deadline", error)
            raise DeadlineExceeded(
                f"{tries.what}: not done within {self._deadline_seconds:g} s, "
                f"after {state.attempt_number} attempts; at last: {error}",
                hint=error.hint or "see whether the service is reachable, then run again",
            ) from error

        return tenacity.Retrying(
            retry=tenacity.retry_if_exception(_retryable),
            wait=self._wait_seconds,
            stop=finished,
            sleep=lambda seconds: self._sleep(seconds, tries.what),
            before_sleep=between,
            retry_error_callback=give_up,
        )(attempt)

    def _wait_seconds(self, state: tenacity.RetryCallState) -> float:
        """Full jitter below an exponential ceiling; what the service asks for comes on top, so that
        those it sent away together do not return together."""
        error = _error_of(state)
        # The exponent is bounded because 2.0**1024 overflows.
        ceiling = min(
            self._cap_seconds, self._base_seconds * 2.0 ** min(state.attempt_number - 1, 60)
        )
        jitter = self._random.uniform(0.0, ceiling)
        asked = error.retry_after_seconds if isinstance(error, Throttled) else None
        return jitter + (asked or 0.0)

    def _sleep(self, seconds: float, what: str) -> None:
        if self._stop is None:
            self._clock.sleep(seconds)
            return
        end = self._clock.monotonic() + seconds
        while not self._stop():
            left = end - self._clock.monotonic()
            if left <= 0:
                return
            self._clock.sleep(min(left, _STOP_POLL_SECONDS))
        raise Interrupted(f"{what}: interrupted between attempts")


def _retryable(error: BaseException) -> bool:
    return isinstance(error, MlplatformError) and error.retryable


def _error_of(state: tenacity.RetryCallState) -> MlplatformError:
    error = state.outcome.exception() if state.outcome else None
    if not isinstance(error, MlplatformError):
        raise TypeError(f"only our own errors are retried, not {error!r}")
    return error


class _Tries:
    """The attempts of one call: each is a log line and a count."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.number = 0

    def note(
        self, result: str, error: MlplatformError | None = None, *, wait_seconds: float = 0.0
    ) -> None:
        metrics.attempts.add(verb=self.what.partition(" ")[0], result=result)
        level = logging.INFO if wait_seconds else logging.DEBUG
        if not log.isEnabledFor(level):
            return
        log.log(
            level,
            "%s: attempt %d %s%s",
            self.what,
            self.number,
            result,
            f": {error}" if error else "",
            extra={
                "what": self.what,
                "attempt": self.number,
                "wait_seconds": round(wait_seconds, 3),
                "error": type(error).__name__ if error else None,
            },
        )


def digests_read_back(store: ObjectStore, key: str, stat: Stat) -> Digests:
    """The digests of an object by reading it, pinned to `stat`'s tag. Holds one buffer."""
    digests = Digests(0, 0)
    buffer = memoryview(bytearray(_READ_BYTES))
    with store.get(key, when=Matches(stat.tag)) as body:
        while count := body.readinto(buffer):
            digests = extend(digests, buffer[:count])
    return digests


class RetryingStore:
    """Any store, every verb of it under the policy.

    `get` is retried until the object is open; reading the body is the caller's to repeat, as a
    whole. `read_back` is called where a completed upload has to be told from somebody else's object
    and the store states no digests: it reads the whole object.
    """

    def __init__(
        self,
        store: ObjectStore,
        retry: Retry,
        *,
        read_back: Callable[[ObjectStore, str, Stat], Digests] = digests_read_back,
    ) -> None:
        self._store = store
        self._retry = retry
        self._read_back = read_back
        self._features: StoreFeatures | None = None

    @property
    def url(self) -> str:
        return self._store.url

    @property
    def features(self) -> StoreFeatures:
        if self._features is None:
            # Some stores have to be asked who they are.
            self._features = self._retry.call(
                lambda: self._store.features, what=f"ask {self._store.url}"
            )
        return self._features

    def put(
        self,
        key: str,
        body: Buffer,
        *,
        digests: Digests = UNKNOWN_DIGESTS,
        when: Condition = ALWAYS,
    ) -> Stat:
        def write() -> Stat:
            return self._store.put(key, body, digests=digests, when=when)

        what = f"put {self._name(key)}"
        if isinstance(when, Always):
            return self._retry.call(write, what=what)
        view = memoryview(body).cast("B")
        attempt = Settling("put", write, lambda: self._look_for_body(key, view, when))
        return self._retry.call(attempt, what=what)

    @contextmanager
    def get(
        self, key: str, span: Span | None = None, *, when: Condition = ALWAYS
    ) -> Iterator[Body]:
        with ExitStack() as stack:
            yield self._retry.call(
                lambda: stack.enter_context(self._store.get(key, span, when=when)),
                what=f"get {self._name(key)}",
            )

    def stat(self, key: str) -> Stat:
        return self._retry.call(lambda: self._store.stat(key), what=f"stat {self._name(key)}")

    def list(self, prefix: str, *, shallow: bool = False, after: str = "") -> Iterator[Stat]:
        """In batches, each under the policy. One that breaks off goes on after the last key it
        saw."""
        source: Iterator[Stat] | None = None
        last = after

        def batch() -> Sequence[Stat]:
            nonlocal source, last
            if source is None:
                source = self._store.list(prefix, shallow=shallow, after=last)
            found: builtins.list[Stat] = []
            try:
                for stat in islice(source, _LIST_BATCH):
                    found.append(stat)
                    last = stat.key
            except MlplatformError:
                source = None  # an iterator that raised has ended
                if not found:
                    raise
                # What came is kept; the error comes again, or not, with the next batch.
            return found

        while found := self._retry.call(batch, what=f"list {self._name(prefix)}"):
            yield from found

    def delete(self, key: str, *, when: Condition = ALWAYS) -> None:
        # Nothing to settle: what is already gone is no error, and another's newer object is a
        # refused condition whether or not ours was deleted before.
        self._retry.call(
            lambda: self._store.delete(key, when=when), what=f"delete {self._name(key)}"
        )

    def begin(self, key: str, *, size_bytes: int, part_bytes: int) -> Upload:
        """A lost answer may leave an upload that holds nothing: `uploads` finds it."""
        upload = self._retry.call(
            lambda: self._store.begin(key, size_bytes=size_bytes, part_bytes=part_bytes),
            what=f"begin {self._name(key)}",
        )
        return _RetryingUpload(self, upload)

    def uploads(self, prefix: str) -> Iterator[Upload]:
        found = self._retry.call(
            lambda: tuple(self._store.uploads(prefix)), what=f"uploads {self._name(prefix)}"
        )
        return (_RetryingUpload(self, upload) for upload in found)

    def _name(self, key: str) -> str:
        return f"{self._store.url.rstrip('/')}/{key}"

    # Reading back: the `Stat` if the object is ours, None if it is as it was before the write.

    def _look_for_body(self, key: str, body: memoryview, when: Condition) -> Stat | None:
        try:
            with self._store.get(key) as found:
                same = found.stat.size_bytes == body.nbytes and _same(found, body)
                stat = found.stat
        except ContainerMissing:
            raise
        except NotFound:
            return self._undone(key, None, when)
        return stat if same else self._undone(key, stat, when)

    def _look_for_upload(
        self, key: str, size_bytes: int, digests: Digests, when: Condition
    ) -> Stat | None:
        try:
            stat = self._store.stat(key)
        except ContainerMissing:
            raise
        except NotFound:
            return self._undone(key, None, when)
        if stat.size_bytes == size_bytes and self._confirms(key, stat, digests):
            return stat
        return self._undone(key, stat, when)

    def _confirms(self, key: str, stat: Stat, digests: Digests) -> bool:
        if stat.digests.contradicts(digests):
            return False
        if stat.digests.confirms(digests):
            return True
        log.info("%s states no digest: reading it back", self._name(key), extra={"what": key})
        try:
            return self._read_back(self._store, key, stat).confirms(digests)
        except (ConditionFailed, NotFound):
            return False  # replaced meanwhile, so not by us

    def _undone(self, key: str, stat: Stat | None, when: Condition) -> Stat | None:
        """None if the object, which is not ours, is as `when` asks; else `ConditionFailed`."""
        if isinstance(when, Matches):
            as_it_was = stat is not None and stat.tag == when.tag
        else:
            as_it_was = stat is None or isinstance(when, Always)
        if as_it_was:
            return None
        there = f"tag {stat.tag}" if stat else "nothing"
        raise ConditionFailed(
            f"another writer came first: {there} is there, {_asked(when)} was asked for",
            store=self._store.url,
            key=key,
        )


class Settling(Generic[T]):
    """A conditional write as an attempt that can be repeated.

    `write` is the write itself. `look` reads back: what the write would have answered if what is
    there is ours, None if the write did not take effect, `ConditionFailed` or `Fenced` if somebody
    else's did.
    """

    def __init__(self, verb: str, write: Callable[[], T], look: Callable[[], T | None]) -> None:
        self._verb = verb
        self._write = write
        self._look = look
        self._doubt = False
        """Some earlier attempt may have taken effect."""
        self._unread = False
        """It may be there now: read before sending it all again."""

    def __call__(self) -> T:
        if self._unread and (found := self._settle()) is not None:
            return found
        try:
            return self._write()
        except (ConditionFailed, NotFound):
            # Refused, or the upload is gone: perhaps because an attempt before this one worked.
            if not self._doubt:
                raise
            self._unread = True
            if (found := self._settle()) is not None:
                return found
            raise
        except MlplatformError as error:
            if error.retryable and not isinstance(error, DigestMismatch):
                self._doubt = True
                # A store that sends us away has done nothing; reading would only add to its load.
                self._unread = not isinstance(error, Throttled)
            raise

    def _settle(self) -> T | None:
        """Until this has an answer, retryable errors leave `_unread` as it is."""
        try:
            found = self._look()
        except (ConditionFailed, Fenced):
            metrics.settled.add(verb=self._verb, answer="another")
            raise
        self._unread = False
        metrics.settled.add(verb=self._verb, answer="undone" if found is None else "ours")
        return found


class _RetryingUpload:
    """An upload, every verb of it under the policy of its store."""

    def __init__(self, store: RetryingStore, upload: Upload) -> None:
        self._store = store
        self._upload = upload

    @property
    def key(self) -> str:
        return self._upload.key

    @property
    def id(self) -> str:
        return self._upload.id

    @property
    def started(self) -> datetime | None:
        return self._upload.started

    def part(self, index: int, body: Buffer, *, digests: Digests) -> Part:
        return self._call("part", lambda: self._upload.part(index, body, digests=digests))

    def copy_range(self, index: int, source_key: str, span: Span, *, when: Condition) -> Part:
        return self._call(
            "copy_range", lambda: self._upload.copy_range(index, source_key, span, when=when)
        )

    def parts(self) -> Sequence[Part]:
        return self._call("parts", self._upload.parts)

    def complete(self, parts: Sequence[Part], *, digests: Digests, when: Condition) -> Stat:
        size_bytes = sum(part.size_bytes for part in parts)
        if digests == UNKNOWN_DIGESTS:
            digests = combine((part.digests, part.size_bytes) for part in parts)
        attempt = Settling(
            "complete",
            lambda: self._upload.complete(parts, digests=digests, when=when),
            lambda: self._store._look_for_upload(self.key, size_bytes, digests, when),
        )
        return self._call("complete", attempt)

    def abort(self) -> None:
        self._call("abort", self._upload.abort)

    def _call(self, verb: str, fn: Callable[[], T]) -> T:
        return self._store._retry.call(fn, what=f"{verb} {self._store._name(self.key)}")


def _same(found: Body, body: memoryview) -> bool:
    """Whether the rest of `found` is exactly `body`."""
    buffer = memoryview(bytearray(_READ_BYTES))
    seen = 0
    while count := found.readinto(buffer):
        if buffer[:count] != body[seen : seen + count]:
            return False
        seen += count
    return seen == body.nbytes


def _asked(when: Condition) -> str:
    if isinstance(when, Matches):
        return f"tag {when.tag}"
    return "nothing" if isinstance(when, Absent) else "anything"
