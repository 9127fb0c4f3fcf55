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
V = TypeVar("V")

Wanted = Mapping[str, Iterable[ModelVersion]]
"""Versions by region."""

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

    def stands(self, key: K, now: float, *, otherwise: str) -> V | Unknown:
        """What still stands."""
        with self._lock:
            held = self._found.get(key)
            if held is not None and _stands(held[0], now):
                return held[1]
            return Unknown(self._failed.get(key, otherwise))

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
        self._read: _Shelf[tuple[str, ModelVersion], _Read] = _Shelf()
        self._busy: set[str] = set()
        self._lock = threading.Lock()

    def look(self, wanted: Wanted) -> dict[str, dict[ModelVersion, Kept | Unknown]]:
        """What each region holds of each version that is wanted there."""
        asked = {region: list(dict.fromkeys(subjects)) for region, subjects in wanted.items()}
        subjects = list(dict.fromkeys(each for found in asked.values() for each in found))
        self._recall(subjects)
        regions = [region for region, found in asked.items() if found]
        answers = self._catalogue.each(lambda region: self._visit(region, asked[region]), regions)
        for region, answer in answers.items():
            if isinstance(answer, Unknown):
                self._read.fail([(region, each) for each in asked[region]], answer.reason)
        now = self._clock.monotonic()
        return {
            region: {each: self._what_stands(region, each, now) for each in found}
            for region, found in asked.items()
        }

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
        return {m: self._versions.stands(m, now, otherwise=_LATER) for m in models}

    # --- what speaks against versions -------------------------------------------------------------

    def _recall(self, subjects: Sequence[ModelVersion]) -> None:
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

    # --- one region ------------------------------------------------------------------------------

    def _visit(self, region: str, subjects: Sequence[ModelVersion]) -> None:
        """Read what is due there. A store that does not answer costs its own time-out, once."""
        with self._alone(region):
            now = self._clock.monotonic()
            by_age = self._read.due([(region, each) for each in subjects], now)
            known = [key for key in by_age if self._doubts_of(key[1], now) is not None]
            self._work(
                known,
                lambda key: self._read_one(region, key[1]),
                lambda key, error: self._read.fail([key], describe(region, error)),
            )

    def _read_one(self, region: str, subject: ModelVersion) -> None:
        now = self._clock.monotonic()
        doubts = self._doubts_of(subject, now)
        if doubts is None:
            return
        store = self._catalogue.store(region)
        try:
            tag = store.stat(subject.receipt_key).tag
        except NotFound:  # if it is the bucket that is missing, reading on says so
            tag = None
        before = self._read.get((region, subject))
        if before is not None and tag is not None and (before.tag, before.doubts) == (tag, doubts):
            self._read.put((region, subject), before, now)
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
        self._read.put((region, subject), _Read(kept, tag, doubts), now)

    def _doubts_of(self, subject: ModelVersion, now: float) -> Remembered | None:
        doubts = self._doubts.stands(subject, now, otherwise=_LATER)
        return None if isinstance(doubts, Unknown) else doubts

    def _what_stands(self, region: str, subject: ModelVersion, now: float) -> Kept | Unknown:
        doubts = self._doubts.stands(subject, now, otherwise=_LATER)
        if isinstance(doubts, Unknown):
            return doubts
        read = self._read.stands((region, subject), now, otherwise=f"{region}: {_LATER}")
        return read if isinstance(read, Unknown) else read.kept

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
        keys: Sequence[K],
        read: Callable[[K], None],
        failed: Callable[[K, MlplatformError], None],
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


def _emptied(waiting: deque[K]) -> Iterator[K]:
    while True:
        try:
            yield waiting.popleft()
        except IndexError:
            return
