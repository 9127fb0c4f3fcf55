"""The control store: one object store, or three in different failure domains, as one.

Journal, leases and observations are written here. With three members every decision rests on a
majority of them, so that any one may be lost, slow, read-only or rebuilt, and nothing changes:

- A number (`create`) is taken when a majority holds it. A conflict anywhere means that somebody
  else took it. No majority means that the number is burnt: nobody may go on with it, and what lies
  on a minority may or may not have taken effect.
- A lease (`swap`) is held when a majority took the compare-and-set.
- Observations go to all members that can be reached, and their union is read.

Members are expected to retry by themselves (`control.retry.RetryingStore`), within a time shorter
than `deadline_seconds`.

A call asks all members at once. It waits `grace_seconds` for all of them, so that a healthy third
is not left behind by a process that ends; after that only until the majority has decided. A member
that missed the grace last time is not waited for at all: a slow one costs one grace a process. Its
answer may still arrive later and take effect, which every rule above allows for.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, Executor, Future, wait
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from mlplatform.control.executors import DaemonThreads, InlineExecutor
from mlplatform.core.digest import digest_of
from mlplatform.core.errors import (
    ConditionFailed,
    ContainerMissing,
    DigestMismatch,
    Fenced,
    MlplatformError,
    NoMajority,
    NotFound,
    Unavailable,
    UsageError,
)
from mlplatform.core.plan import Record
from mlplatform.core.seen import Unknown
from mlplatform.ports.clock import Clock
from mlplatform.ports.store import ABSENT, Condition, ObjectStore, read_bytes

log = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R", bound=Record)

_UNDER_WAY_MAX = 4
"""Unanswered calls after which a slow member is not asked again until one of them ends."""
_KEYS_A_CALL = 32


@dataclass(frozen=True, slots=True)
class Copy:
    """One member's copy of a record."""

    body: bytes
    tag: str


@dataclass(frozen=True, slots=True)
class Reading:
    """What each member says of one key, in the members' order: None where there is nothing,
    `Unknown` where the member could not be read. At least a majority could."""

    copies: tuple[Copy | Unknown | None, ...]

    @property
    def complete(self) -> bool:
        """Whether every member could be read."""
        return not any(isinstance(copy, Unknown) for copy in self.copies)

    def bodies(self) -> dict[bytes, int]:
        """The different bodies, each with the number of members that hold it."""
        count: dict[bytes, int] = {}
        for copy in self.copies:
            if isinstance(copy, Copy):
                count[copy.body] = count.get(copy.body, 0) + 1
        return count


@dataclass(frozen=True, slots=True)
class Observations:
    """Everything that the reachable members hold below a prefix."""

    records: tuple[tuple[str, bytes], ...]
    """Key and body, by key. A key whose copies differ is there once for each."""
    unreadable: Mapping[str, str]
    """Members that could not be read, with the reason: the rest may not be all there is."""

    def of(self, kind: type[R]) -> list[R]:
        """Those that are of a kind; see `records_of`."""
        return list(records_of(kind, self.records))


def records_of(kind: type[R], found: Iterable[tuple[str, bytes]]) -> Iterator[R]:
    """Records of one kind, of key and body. One that is damaged is logged, and hides no other."""
    for key, body in found:
        try:
            yield kind.model_validate(json.loads(body))
        except (ValueError, RecursionError):
            log.error("%s: not a record that can be read", key)


class _Member:
    """One store, and how it has answered lately."""

    def __init__(self, store: ObjectStore) -> None:
        self.store = store
        self.slow = False
        self.under_way = 0
        self.lock = threading.Lock()


Answers = dict[int, T | MlplatformError]
"""By member; one that has not answered yet is not in it."""


class ControlStore:
    """One or three members, as one store of records."""

    def __init__(
        self,
        members: Sequence[ObjectStore],
        clock: Clock,
        *,
        executor: Executor | None = None,
        deadline_seconds: float = 15.0,
        grace_seconds: float = 0.5,
    ) -> None:
        if len(members) not in (1, 3):
            raise UsageError(
                f"control names {len(members)} stores",
                hint="one store, or three in different failure domains: two are no safer than one",
            )
        self._members = [_Member(store) for store in members]
        self._clock = clock
        self._executor = executor or (InlineExecutor() if len(members) == 1 else DaemonThreads())
        self._deadline_seconds = deadline_seconds
        self._grace_seconds = grace_seconds

    @property
    def urls(self) -> tuple[str, ...]:
        return tuple(member.store.url for member in self._members)

    @property
    def majority(self) -> int:
        """How many members decide."""
        return len(self._members) // 2 + 1

    def create(self, key: str, body: bytes) -> None:
        """Take `key` with `body`, which holds a nonce. `Fenced` if somebody else has it;
        `NoMajority` if too few members answered: it may or may not have taken effect.

        Bytes equal to ours are ours, whoever wrote them: that is how a record seen on a minority
        is brought to a majority.
        """
        digests = digest_of(body)

        def take(_: int, store: ObjectStore) -> bool:
            try:
                store.put(key, body, digests=digests, when=ABSENT)
            except ConditionFailed:
                held, _stat = read_bytes(store, key)
                return held == body
            return True

        def decided(answers: Answers[bool]) -> bool:
            return (
                any(answer is False for answer in answers.values())
                or self._held(answers) >= self.majority
            )

        answers = self._ask(take, decided)
        for index, answer in answers.items():
            if answer is False:
                raise Fenced(
                    f"{self._members[index].store.url}/{key}: taken by another writer",
                    hint="another process took over; run again to go on from where it stands",
                )
        if self._held(answers) < self.majority:
            raise self._refusal(f"write {key}", answers)

    def read(self, key: str) -> Reading:
        """Each member's copy. `NoMajority` if too few could be read."""
        return self.read_many([key])[key]

    def read_many(self, keys: Iterable[str]) -> dict[str, Reading]:
        """`read` for each key, many at a time."""
        wanted = sorted(set(keys))
        found: dict[str, Reading] = {}
        for start in range(0, len(wanted), _KEYS_A_CALL):
            chunk = wanted[start : start + _KEYS_A_CALL]
            answers = self._ask(partial(_copies, chunk), self._enough, effort=len(chunk))
            self._require(f"read {chunk[0]}", answers)
            for position, key in enumerate(chunk):
                found[key] = Reading(
                    tuple(
                        Unknown(str(answer))
                        if isinstance(answer, MlplatformError)
                        else answer[position]
                        for _, answer in sorted(answers.items())
                    )
                )
        return found

    def list(self, prefix: str, *, shallow: bool = False, after: str = "") -> list[str]:
        """The union of the members' keys, sorted. `NoMajority` if too few could be read."""
        return sorted(set().union(*self._keys(prefix, shallow=shallow, after=after).values()))

    def swap(
        self, key: str, body: bytes, when: Sequence[Condition | None]
    ) -> tuple[str | MlplatformError | None, ...]:
        """Write `body` on each member under its own condition (None: leave it alone). For each the
        new tag, None if the condition was refused or none was given, or why there was no answer."""
        digests = digest_of(body)

        def write(index: int, store: ObjectStore) -> str | None:
            condition = when[index]
            if condition is None:
                return None
            try:
                return store.put(key, body, digests=digests, when=condition).tag
            except ConditionFailed:
                return None

        def decided(answers: Answers[str | None]) -> bool:
            won = sum(isinstance(answer, str) for answer in answers.values())
            open_ = len(self._members) - len(answers)
            return won >= self.majority or won + open_ < self.majority

        answers = self._ask(write, decided)
        return tuple(answer for _, answer in sorted(answers.items()))

    def put_observation(self, key: str, body: bytes) -> int:
        """Write to all members that can be reached: how many took it. `NoMajority` if none."""
        digests = digest_of(body)

        def write(_: int, store: ObjectStore) -> str:
            return store.put(key, body, digests=digests).tag

        answers = self._ask(write, self._enough)
        took = sum(isinstance(answer, str) for answer in answers.values())
        if not took:
            raise self._refusal(f"write {key}", answers)
        return took

    def put_heeded(self, key: str, body: bytes, what: str) -> None:
        """The same of what others have to heed: `NoMajority`, by the name `what`, where so few took
        it that somebody may not hear of it."""
        took = self.put_observation(key, body)
        if took < self.majority:
            raise NoMajority(
                f"{what}: {took} of {len(self.urls)} control stores took it, so it may not be "
                "heeded",
                hint="see to the control stores, then run again",
            )

    def read_observations(self, prefix: str) -> Observations:
        """The union of what the reachable members hold. `NoMajority` if too few could be read."""
        records: list[tuple[str, bytes]] = []
        unreadable: dict[str, str] = {}
        for key, reading in self.read_many(self.list(prefix)).items():
            records += [(key, body) for body in sorted(reading.bodies())]
            for url, copy in zip(self.urls, reading.copies, strict=True):
                if isinstance(copy, Unknown):
                    unreadable[url] = copy.reason
        return Observations(tuple(records), unreadable)

    def drop_observation(self, key: str) -> None:
        """Remove it from all members that can be reached; the others keep it."""

        def delete(_: int, store: ObjectStore) -> bool:
            store.delete(key)
            return True

        self._ask(delete, self._enough)

    def repair(self, prefix: str) -> int:
        """Give members that lack records below `prefix` a copy; how many were written. For a member
        that was rebuilt, and one that was away. A key on which members differ is left as it is."""
        held = self._keys(prefix)
        everything = set().union(*held.values())
        lacking = {key for key in everything if any(key not in keys for keys in held.values())}
        written = 0
        for key, reading in self.read_many(lacking).items():
            bodies = reading.bodies()
            if len(bodies) != 1:
                continue
            (body,) = bodies
            conditions = [ABSENT if copy is None else None for copy in reading.copies]
            written += sum(isinstance(tag, str) for tag in self.swap(key, body, conditions))
        return written

    def refusal(self, what: str, errors: Sequence[MlplatformError]) -> MlplatformError:
        """What to raise when no majority came about; `errors` are those of the members."""
        if len(self._members) == 1 and errors:
            return errors[0]  # it says best itself what is wrong with it
        if not errors:
            return NoMajority(f"could not {what}: other writers came between", hint="run again")
        good = len(self._members) - len(errors)
        return NoMajority(
            f"could not {what}: {good} of {len(self._members)} control stores answered, "
            f"{self.majority} are needed: {'; '.join(str(error) for error in errors)}",
            hint="see to these stores, then run again",
        )

    # Asking the members.

    def _ask(
        self,
        ask: Callable[[int, ObjectStore], T],
        decided: Callable[[Answers[T]], bool],
        *,
        effort: int = 1,
    ) -> Answers[T]:
        """Ask every member; the answers, with an error for each member that gave none in time.

        `effort` is how many requests the question takes: deadline and grace grow with it.
        """
        scale = 1 + (effort - 1) / 8
        deadline = self._clock.monotonic() + self._deadline_seconds * scale
        grace_seconds = self._grace_seconds * scale
        answers: Answers[T] = {}
        pending: dict[Future[T], int] = {}
        prompt: list[Future[T]] = []
        for index, member in enumerate(self._members):
            waited_for = not member.slow
            future = self._start(index, ask, grace_seconds)
            if future is None:
                answers[index] = Unavailable(
                    f"has not answered {member.under_way} earlier calls", store=member.store.url
                )
                continue
            pending[future] = index
            if waited_for:
                prompt.append(future)

        done = wait(prompt, timeout=grace_seconds, return_when=ALL_COMPLETED).done
        for future in prompt:
            if future not in done:
                self._members[pending[future]].slow = True
        while True:
            for future in [future for future in pending if future.done()]:
                error = future.exception()
                answers[pending.pop(future)] = (
                    error if isinstance(error, MlplatformError) else future.result()
                )
            left = deadline - self._clock.monotonic()
            if not pending or decided(answers) or left <= 0:
                break
            wait(pending, timeout=left, return_when=FIRST_COMPLETED)
        for index in pending.values():
            answers[index] = Unavailable("no answer yet", store=self._members[index].store.url)
        return answers

    def _start(
        self, index: int, ask: Callable[[int, ObjectStore], T], grace_seconds: float
    ) -> Future[T] | None:
        member = self._members[index]
        with member.lock:
            if member.slow and member.under_way >= _UNDER_WAY_MAX:
                return None
            member.under_way += 1
        started = self._clock.monotonic()

        def ended(_: Future[T]) -> None:
            member.slow = self._clock.monotonic() - started > grace_seconds
            with member.lock:
                member.under_way -= 1

        try:
            future = self._executor.submit(ask, index, member.store)
        except BaseException:
            with member.lock:
                member.under_way -= 1
            raise
        future.add_done_callback(ended)
        return future

    def _enough(self, answers: Mapping[int, object]) -> bool:
        good = sum(not isinstance(answer, MlplatformError) for answer in answers.values())
        return good >= self.majority

    def _held(self, answers: Mapping[int, object]) -> int:
        return sum(answer is True for answer in answers.values())

    def _require(self, what: str, answers: Mapping[int, object]) -> None:
        if not self._enough(answers):
            raise self._refusal(what, answers)

    def _refusal(self, what: str, answers: Mapping[int, object]) -> MlplatformError:
        errors = [
            error for _, error in sorted(answers.items()) if isinstance(error, MlplatformError)
        ]
        return self.refusal(what, errors)

    def _keys(
        self, prefix: str, *, shallow: bool = False, after: str = ""
    ) -> Mapping[int, set[str]]:
        """By member that could be read. `NoMajority` if too few could."""

        def find(_: int, store: ObjectStore) -> set[str]:
            return {stat.key for stat in store.list(prefix, shallow=shallow, after=after)}

        answers = self._ask(find, self._enough, effort=8)
        self._require(f"list {prefix}", answers)
        return {i: keys for i, keys in answers.items() if not isinstance(keys, MlplatformError)}


def _copies(keys: Sequence[str], _: int, store: ObjectStore) -> Sequence[Copy | None]:
    return [_copy(store, key) for key in keys]


def _copy(store: ObjectStore, key: str) -> Copy | None:
    for _ in range(2):  # once more, if they were only read wrongly
        try:
            body, stat = read_bytes(store, key)
        except ContainerMissing:
            raise  # the member is lost, which is not the same as an empty place in it
        except NotFound:
            return None
        if not stat.digests.contradicts(digest_of(body)):
            return Copy(body, stat.tag)
    raise DigestMismatch(
        f"Checksum mismatch: {store.url}/{key} is read with other bytes than the store states",
        hint="the store or the path to it is faulty",
    )
