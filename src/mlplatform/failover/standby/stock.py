"""What regions' stores hold of versions, verified, and kept between rounds.

A round costs no more than it must, however many regions and models there are:

- What was read within the last half minute is not asked for again.
- Of what is older, the oldest is asked again, so many in a round and not more. One question for the
  receipt's tag says whether anything is new; only then is the version read anew.
- What was never read is read at once, as much as there is time for. The rest is unknown until the
  next round.
- What cannot be asked stands as it was read last, for a quarter of an hour: servers go on serving
  what was verified when their store is away. Then it is unknown.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import wait
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, TypeVar

from mlplatform.control.catalogue import Catalogue, read_region
from mlplatform.control.regions import describe
from mlplatform.core.errors import (
    ContainerMissing,
    DeadlineExceeded,
    Denied,
    Interrupted,
    MlplatformError,
    NoMajority,
    NotFound,
    Throttled,
    Unavailable,
)
from mlplatform.core.placement import ModelVersion
from mlplatform.core.replica import Remembered
from mlplatform.core.seen import Unknown
from mlplatform.ports.clock import Clock

FRESH_SECONDS = 30.0
"""What was read less than that ago is not asked for again."""
STANDS_SECONDS = 900.0
"""What cannot be read anew stands for that long."""
REFRESHED = 64
"""Of what was read before: how many versions of a region, and how many in the control store, are
asked for again in one round."""
_AT_ONCE = 8
_PATIENCE = 0.8
"""Share of the time for a region after which nothing new is begun."""

K = TypeVar("K", bound=Hashable)
W = TypeVar("W")
V = TypeVar("V")

Wanted = Mapping[str, Iterable[ModelVersion]]
"""Versions by region."""
_Doubts = Mapping[ModelVersion, Remembered | Unknown]

_NOBODY_THERE = (
    ContainerMissing,
    DeadlineExceeded,
    Denied,
    Interrupted,
    NoMajority,
    Throttled,
    Unavailable,
)
"""Who answers so for one version does for the others."""
_LATER = "there was no time to read it yet; the next round goes on"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Kept:
    """What a region's store held of one version when it was read."""

    digest: str | None = None
    """The manifest's, where every byte is verified and nothing speaks against it."""
    stored_at: datetime | None = None
    withdrawn: bool = False


@dataclass(frozen=True, slots=True)
class _Read:
    kept: Kept
    tag: str | None
    """The receipt's."""
    doubts: Remembered


def _stands(read_at: float, now: float) -> bool:
    return now - read_at <= STANDS_SECONDS


class _Shelf(Generic[K, V]):
    """Values with the time at which they were read."""

    def __init__(self) -> None:
        self._found: dict[K, tuple[float, V]] = {}
        self._failed: dict[K, str] = {}
        self._lock = threading.Lock()

    def put(self, key: K, value: V, now: float) -> None:
        with self._lock:
            self._found[key] = (now, value)
            self._failed.pop(key, None)

    def fail(self, keys: Iterable[K], reason: str) -> None:
        with self._lock:
            self._failed.update(dict.fromkeys(keys, reason))

    def get(self, key: K) -> V | None:
        """As it was read last, however long ago."""
        with self._lock:
            held = self._found.get(key)
            return held[1] if held is not None else None

    def standing(self, keys: Iterable[K], now: float, *, otherwise: str) -> dict[K, V | Unknown]:
        """What still stands of each."""
        with self._lock:
            found, failed = self._found, self._failed
            return {
                key: held[1]
                if (held := found.get(key)) is not None and _stands(held[0], now)
                else Unknown(failed.get(key, otherwise))
                for key in keys
            }

    def due(self, keys: Sequence[K], now: float) -> list[K]:
        """What is to be read in this round: all that never was, and then the oldest of the rest."""
        with self._lock:
            self._found = {k: held for k, held in self._found.items() if _stands(held[0], now)}
            ages = {key: now - self._found[key][0] for key in keys if key in self._found}
        new = [key for key in keys if key not in ages]
        old = [key for key, age in ages.items() if age > FRESH_SECONDS]
        return new + sorted(old, key=ages.__getitem__, reverse=True)[:REFRESHED]


class Stock:
    """Looked at time and again. One object remembers: keep it. Safe to share between threads."""

    def __init__(self, catalogue: Catalogue, clock: Clock) -> None:
        self._catalogue = catalogue
        self._clock = clock
        self._doubts: _Shelf[ModelVersion, Remembered] = _Shelf()
        self._versions: _Shelf[str, Sequence[str]] = _Shelf()
        self._read: dict[str, _Shelf[ModelVersion, _Read]] = {
            region: _Shelf() for region in catalogue.topology.regions
        }
        self._busy: set[str] = set()
        self._lock = threading.Lock()

    def look(self, wanted: Wanted) -> dict[str, dict[ModelVersion, Kept | Unknown]]:
        """What each region holds of each version that is wanted there."""
        asked = {region: list(dict.fromkeys(subjects)) for region, subjects in wanted.items()}
        subjects = list(dict.fromkeys(each for found in asked.values() for each in found))
        doubts = self._recall(subjects)
        regions = [region for region, found in asked.items() if found]
        answers = self._catalogue.each(
            lambda region: self._visit(region, asked[region], doubts), regions
        )
        now = self._clock.monotonic()
        kept: dict[str, dict[ModelVersion, Kept | Unknown]] = {}
        for region, found in asked.items():
            shelf, answer = self._read[region], answers.get(region)
            if isinstance(answer, Unknown):
                shelf.fail(found, answer.reason)
            read = shelf.standing(found, now, otherwise=f"{region}: {_LATER}")
            kept[region] = {
                each: doubt
                if isinstance(doubt := doubts[each], Unknown)
                else here
                if isinstance(here := read[each], Unknown)
                else here.kept
                for each in found
            }
        return kept

    def versions(self, models: Iterable[str]) -> dict[str, Sequence[str] | Unknown]:
        """Every published version of each model."""
        models = list(dict.fromkeys(models))

        def read(model: str) -> None:
            found = self._catalogue.published_versions(model)
            self._versions.put(model, found, self._clock.monotonic())

        self._work(
            self._versions.due(models, self._clock.monotonic()),
            read,
            lambda model, error: self._versions.fail([model], str(error)),
        )
        now = self._clock.monotonic()
        return self._versions.standing(models, now, otherwise=_LATER)

    # --- what speaks against versions -------------------------------------------------------------

    def _recall(self, subjects: Sequence[ModelVersion]) -> _Doubts:
        def read(subject: ModelVersion) -> None:
            doubts = self._catalogue.doubts(subject)
            if doubts.problem is not None:
                raise NoMajority(doubts.problem)
            self._doubts.put(subject, doubts, self._clock.monotonic())

        self._work(
            self._doubts.due(subjects, self._clock.monotonic()),
            read,
            lambda subject, error: self._doubts.fail([subject], str(error)),
        )
        return self._doubts.standing(subjects, self._clock.monotonic(), otherwise=_LATER)

    # --- one region ------------------------------------------------------------------------------

    def _visit(self, region: str, subjects: Sequence[ModelVersion], doubts: _Doubts) -> None:
        """Read what is due there. A store that does not answer costs its own time-out, once."""
        shelf = self._read[region]
        with self._alone(region):
            due = [
                (subject, known)
                for subject in shelf.due(subjects, self._clock.monotonic())
                if not isinstance(known := doubts[subject], Unknown)
            ]
            self._work(
                due,
                lambda each: self._read_one(region, *each),
                lambda each, error: shelf.fail([each[0]], describe(region, error)),
            )

    def _read_one(self, region: str, subject: ModelVersion, doubts: Remembered) -> None:
        now = self._clock.monotonic()
        shelf, store = self._read[region], self._catalogue.store(region)
        try:
            tag = store.stat(subject.receipt_key).tag
        except NotFound:  # if it is the bucket that is missing, reading on says so
            tag = None
        before = shelf.get(subject)
        if before is not None and tag is not None and (before.tag, before.doubts) == (tag, doubts):
            shelf.put(subject, before, now)
            return
        seen = read_region(
            store,
            region,
            subject,
            checks=[check for check in doubts.checks if check.region == region],
            withdrawal=doubts.withdrawal_of(subject),
        )
        digest = seen.manifest.digest if seen.manifest is not None and seen.stored else None
        if digest is not None and doubts.digest_of(subject) not in (None, digest):
            digest = None  # other bytes than the version's name was taken for
        kept = Kept(
            digest,
            seen.receipt.stored_at if seen.receipt is not None else None,
            seen.withdrawal is not None,
        )
        shelf.put(subject, _Read(kept, tag, doubts), now)

    @contextmanager
    def _alone(self, region: str) -> Iterator[None]:
        """A store that hangs is asked once, not once a round."""
        with self._lock:
            if region in self._busy:
                raise Unavailable(
                    f"{region}: its store has not answered the last round's questions"
                )
            self._busy.add(region)
        try:
            yield
        finally:
            with self._lock:
                self._busy.discard(region)

    # --- work ------------------------------------------------------------------------------------

    def _work(
        self,
        keys: Sequence[W],
        read: Callable[[W], None],
        failed: Callable[[W, MlplatformError], None],
    ) -> None:
        """`read` each, several at once, until the time is over."""
        waiting = deque(keys)
        patience = self._catalogue.region_timeout_seconds
        until = self._clock.monotonic() + (_PATIENCE * patience if patience else float("inf"))

        def work() -> None:
            while self._clock.monotonic() < until:
                try:
                    key = waiting.popleft()
                except IndexError:
                    return
                try:
                    read(key)
                except _NOBODY_THERE as error:
                    for each in (key, *_emptied(waiting)):
                        failed(each, error)
                except MlplatformError as error:
                    failed(key, error)
                except Exception as error:  # one version's must not become the others'
                    log.error("%s: internal error", key, exc_info=error)
                    failed(key, Unavailable(f"internal error: {type(error).__name__}: {error}"))

        executor = self._catalogue.executor
        wait([executor.submit(work) for _ in range(min(_AT_ONCE, len(waiting)))])


def _emptied(waiting: deque[W]) -> Iterator[W]:
    while True:
        try:
            yield waiting.popleft()
        except IndexError:
            return
