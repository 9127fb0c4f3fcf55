"""The lease: who may act on something, for a term, and with which generation.

The rules, on a majority of the control store's members:

- The record lies at `leases/<name>.json` and changes by compare-and-set alone. Each renewal has a
  new nonce: a sign of life.
- The holder stops at its own monotonic deadline: a term after it *began* the renewal that last
  succeeded, less a margin. The margin is for clocks that run at different speeds.
- A contender takes the lease on members whose record it has itself seen unchanged for a whole term,
  and writes there only if it still is as it saw it. Whoever renewed on a majority shares a member
  with every other majority; on that one the renewal either came before the contender's first look,
  so the holder's term is over, or it changed the record, so the contender's write is refused.
- No wall clock decides anything. `expires_at` is for people.
- A member that holds nothing, or a released record, says nothing while another shows a living
  holder: it may have been rebuilt, or away. It then has to stay so for a term, too.
- A generation is 1 + the highest that can be read anywhere, targets included (`floor`), so it grows
  although a control store was lost. It is never written over by a lower one.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from random import Random
from typing import Literal, Protocol

from pydantic import ValidationError

from mlplatform.control.quorum import ControlStore, Copy, Reading
from mlplatform.core.errors import Fenced, Interrupted, LeaseHeld, MlplatformError
from mlplatform.core.plan import Record
from mlplatform.core.seen import Unknown
from mlplatform.ports.clock import Clock
from mlplatform.ports.store import ABSENT, Condition, Matches

log = logging.getLogger(__name__)

Waiting = bool | Literal["silent"]
"""For how long to wait for a lease: not, for ever, or until its holder proves to be alive."""

TERM_SECONDS = 15.0
"""How long a process that died keeps others from what it held. A live one renews every third."""
_MARGIN = 0.2
_TRIES = 4

Wait = Callable[[float], bool]
"""Waits for some seconds, or until told to stop: whether it was told to."""


class Background(Protocol):
    """Runs `loop` beside the caller; what it returns stops it and waits for its end."""

    def __call__(self, loop: Callable[[Wait], None]) -> Callable[[], None]: ...


def in_thread(loop: Callable[[Wait], None]) -> Callable[[], None]:
    """The usual `Background`."""
    told = threading.Event()
    thread = threading.Thread(target=loop, args=(told.wait,), name="mlplatform-lease", daemon=True)
    thread.start()

    def stop() -> None:
        told.set()
        thread.join(timeout=2.0)  # a renewal in a slow store must not hold up the end

    return stop


class LeaseRecord(Record):
    """What lies at `leases/<name>.json`."""

    holder: str
    """For people: host and process."""
    claim: str
    """Of one acquisition. Two holders may have one name and one generation, if neither or only one
    of them reached a majority; this tells them apart."""
    generation: int
    term_seconds: float
    nonce: str
    """New at each renewal: a change of it is the sign of life that contenders watch for."""
    expires_at: datetime
    """For people. Nothing compares it with a clock."""
    released: bool = False


@dataclass(frozen=True, slots=True)
class Sighting:
    """What one member shows, and since when, by our own monotonic clock, it has shown it."""

    body: bytes | None
    record: LeaseRecord | None
    """None where there is nothing, or nothing that can be read as a lease."""
    since: float


def free_members(
    sightings: Mapping[int, Sighting], now: float, *, term_seconds: float, majority: int
) -> frozenset[int]:
    """The members on which a contender may write, given what it has seen of those it could read.

    Where nobody can be holding the lease: all. Otherwise those that have not changed for a term,
    empty ones among them: the term of the record, or the longest that is in play.
    """
    living = [seen for seen in sightings.values() if _may_be_held(seen, sightings, majority)]
    if not living:
        return frozenset(sightings)
    longest = max([term_seconds, *(seen.record.term_seconds for seen in living if seen.record)])
    return frozenset(
        member
        for member, seen in sightings.items()
        if now - seen.since >= (seen.record.term_seconds if seen.record else longest)
    )


def _may_be_held(seen: Sighting, sightings: Mapping[int, Sighting], majority: int) -> bool:
    """Whether what one member shows may be a lease in force.

    Nobody else writes where a holder's last renewal lies while its term lasts, and it lies on a
    majority. So what a majority has since written over, or never took, is over: it lies where it
    could not be written over, on a member that cannot be written to.
    """
    records = [other.record for other in sightings.values() if other.record]
    if seen.body is None:
        return False
    if seen.record is None:  # damaged: whose it was is not known
        return len(records) < majority
    claim, generation = seen.record.claim, seen.record.generation
    if any(record.claim == claim and record.released for record in records):
        return False
    return sum(record.generation > generation for record in records) < majority


def holder_of(control: ControlStore, name: str) -> LeaseRecord | None:
    """For people: what the last sign of life of a lease's holder says. None where nobody can be
    holding it, or nothing of it can be read. `NoMajority` if that cannot be known."""
    copies = enumerate(control.read(_key(name)).copies)
    sightings = {
        member: Sighting(copy.body if copy else None, _parse(copy.body if copy else None), 0.0)
        for member, copy in copies
        if not isinstance(copy, Unknown)
    }
    return _newest(sightings, control.majority)


def _newest(sightings: Mapping[int, Sighting], majority: int) -> LeaseRecord | None:
    records = [
        seen.record
        for seen in sightings.values()
        if seen.record and _may_be_held(seen, sightings, majority)
    ]
    return max(records, key=lambda record: (record.generation, record.expires_at), default=None)


def _key(name: str) -> str:
    return f"leases/{name}.json"


class Process(Protocol):
    """Who may hold leases, under a name, until it is told to stop."""

    @property
    def control(self) -> ControlStore: ...

    @property
    def clock(self) -> Clock: ...

    @property
    def random(self) -> Random: ...

    @property
    def writer(self) -> str: ...

    @property
    def stop(self) -> Callable[[], bool]: ...


def lease_for(process: Process, name: str, *, floor: Callable[[], int] | None = None) -> Lease:
    """One hand at a time on what is named so."""
    return Lease(
        process.control,
        name,
        holder=process.writer,
        clock=process.clock,
        random=process.random,
        stop=process.stop,
        floor=floor,
    )


class Lease:
    """Election over compare-and-set puts. One object serves one process; renewals may come from a
    thread beside it.

    `floor` gives the highest generation that the targets know. `stop` ends a wait.
    """

    def __init__(
        self,
        control: ControlStore,
        name: str,
        *,
        holder: str,
        clock: Clock,
        random: Random,
        term_seconds: float = TERM_SECONDS,
        margin_seconds: float | None = None,
        floor: Callable[[], int] | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> None:
        self._control = control
        self._name = name
        self._key = _key(name)
        self._holder = holder
        self._clock = clock
        self._random = random
        self._term_seconds = term_seconds
        self._margin_seconds = term_seconds * _MARGIN if margin_seconds is None else margin_seconds
        self._floor = floor
        self._stop = stop
        self._sightings: dict[int, Sighting] = {}
        self._claim = ""
        self._generation = 0
        self._deadline: float | None = None
        self._lost = ""
        self._tags: dict[int, str] = {}
        """By member that holds our record, as far as we know: its tag."""
        self._troubles: list[MlplatformError] = []
        """Why members did not take the last write."""
        self._renewing = threading.Lock()
        self._kept = False

    def __repr__(self) -> str:
        return f"<Lease {self._name}: generation {self._generation}, {self._holder}>"

    @property
    def name(self) -> str:
        return self._name

    @property
    def generation(self) -> int:
        """The fencing token. `Fenced` if the lease is not held."""
        self.held()
        return self._generation

    def acquire(self, *, wait: Waiting = False) -> int:
        """Take the lease; its generation. `LeaseHeld` names holder and expiry: at once, or, when
        `wait` is "silent", as soon as the holder gives a sign of life; never when it is True. What
        is waited for is a holder: a control store that cannot be written to is told."""
        tries = 0
        told = False
        began: float | None = None
        while True:
            found = self._look()
            if began is None:
                began = self._clock.monotonic()
            sightings = {i: self._sightings[i] for i in found}
            free = self._free(sightings)
            if len(free) >= self._control.majority:
                if self._take(found, free):
                    return self._generation
                tries += 1
                if self._is_in_vain(wait) or (not wait and tries >= _TRIES):
                    raise self._control.refusal(f"take the lease {self._name}", self._troubles)
            elif not wait or (wait == "silent" and _alive(sightings, began)):
                raise self._refusal(sightings)
            elif not told:
                told = True
                log.warning("%s; waiting for a sign of life", self._refusal(sightings))
            self._pause()

    def renew(self) -> None:
        """Hold it for another term. `Fenced` if it is lost; `NoMajority` if it could not be renewed
        now, in which case it is held until its deadline and may be renewed again."""
        # Not a wait: whoever is renewing does it for both. And in a simulation, where a switch
        # happens at each call to a store, a wait would never end.
        if not self._renewing.acquire(blocking=False):
            return
        try:
            self._renew()
        finally:
            self._renewing.release()

    def release(self) -> None:
        """Give it back, so that nobody need wait for a term. A lost lease, or control stores that
        cannot be reached, are no error: the term ends by itself."""
        if not self._claim:
            return
        self._deadline = None
        self._lost = "it was released"
        try:
            self._give_back()
        except MlplatformError as error:
            log.info("lease %s: not released, it ends by itself: %s", self._name, error)
        self._claim = ""

    def held(self) -> None:
        """`Fenced` once this holder's own deadline is past, or a newer holder was seen."""
        if self._deadline is None:
            why = self._lost or "it was never acquired"
        elif self._clock.monotonic() >= self._deadline:
            why = "it could not be renewed in time"
        else:
            return
        raise Fenced(
            f"the lease {self._name} (generation {self._generation}) is not held: {why}",
            hint="another process may have taken over; run again to go on from where it stands",
        )

    def guard(self) -> None:
        """To be called before each effect: `held`, after a renewal if one is due and nobody keeps
        the lease in the background."""
        self.held()
        if not self._kept and self._due():
            try:
                self.renew()
            except Fenced:
                raise
            except MlplatformError as error:
                log.info("lease %s: not renewed now: %s", self._name, error)
            self.held()

    @contextmanager
    def keep(self, background: Background | None = None) -> Iterator[None]:
        """Renew beside the caller, by default in a thread, as long as the block lasts."""
        self._kept = True
        stop = (background or in_thread)(self._keep)
        try:
            yield
        finally:
            self._kept = False
            stop()

    def _keep(self, wait: Wait) -> None:
        pause = self._term_seconds / 3
        while not wait(pause):
            try:
                self.renew()
                pause = self._term_seconds / 3
            except Fenced as error:
                log.warning("%s", error)  # `guard` tells the one who acts
                return
            except MlplatformError as error:
                log.warning("lease %s: not renewed now: %s", self._name, error)
                pause = self._term_seconds / 15

    def _due(self) -> bool:
        full = self._term_seconds - self._margin_seconds
        return self._deadline is not None and (
            self._deadline - self._clock.monotonic() < full - self._term_seconds / 3
        )

    def _renew(self) -> None:
        for _ in range(2):  # the second time with what the first found to have changed
            self.held()
            conditions = self._own_conditions()
            began = self._clock.monotonic()
            self.held()
            if self._write(self._record(), conditions) >= self._control.majority:
                if self._deadline is not None:  # not released meanwhile
                    self._deadline = began + self._term_seconds - self._margin_seconds
                return
        raise self._control.refusal(f"renew the lease {self._name}", self._troubles)

    def _take(self, found: Mapping[int, Copy | None], free: frozenset[int]) -> bool:
        records = [self._sightings[i].record for i in found]
        highest = max((record.generation for record in records if record is not None), default=0)
        if self._floor is not None:
            highest = max(highest, self._floor())
        self._generation = highest + 1
        self._claim = self._nonce()
        self._tags = {}
        self._lost = ""
        conditions = {i: _as_it_is(found[i]) for i in free}
        began = self._clock.monotonic()
        if self._write(self._record(), conditions) >= self._control.majority:
            self._deadline = began + self._term_seconds - self._margin_seconds
            log.info(
                "lease %s: acquired, generation %d",
                self._name,
                self._generation,
                extra={"lease": self._name, "generation": self._generation},
            )
            return True
        # What was written on a minority would look alive to the others for a whole term.
        troubles = self._troubles
        self.release()
        self._troubles = troubles
        return False

    def _give_back(self) -> None:
        """Mark our record released wherever it lies."""
        record = self._record(released=True)
        conditions: dict[int, Condition] = {
            i: Matches(copy.tag)
            for i, copy in self._look().items()
            if copy is not None and self._is_ours(i)
        }
        if conditions:
            self._write(record, conditions)

    def _own_conditions(self) -> Mapping[int, Condition]:
        """Where we may write our own record again, and on which condition."""
        members = range(len(self._control.urls))
        if all(i in self._tags for i in members):
            return {i: Matches(self._tags[i]) for i in members}
        found = self._look()
        conditions: dict[int, Condition] = {i: Matches(tag) for i, tag in self._tags.items()}
        newer = 0
        sightings = {i: self._sightings[i] for i in found}
        free = self._free(sightings)
        for i, copy in found.items():
            record = sightings[i].record
            if record is not None and record.generation > self._generation:
                newer += 1
                conditions.pop(i, None)
            elif (
                copy is None
                or self._is_ours(i)
                or i in free
                or (record is not None and record.generation < self._generation)
            ):
                conditions[i] = _as_it_is(copy)
        if newer >= self._control.majority:
            self._deadline = None
            self._lost = "a newer holder has it"
            self.held()
        return conditions

    def _write(self, record: LeaseRecord, conditions: Mapping[int, Condition]) -> int:
        """On how many members it was written. Tags that are not known any more are forgotten."""
        members = range(len(self._control.urls))
        tags = self._control.swap(self._key, record.encoded, [conditions.get(i) for i in members])
        for i, tag in enumerate(tags):
            if isinstance(tag, str):
                self._tags[i] = tag
            else:
                self._tags.pop(i, None)
        self._troubles = [answer for answer in tags if isinstance(answer, MlplatformError)]
        return sum(isinstance(tag, str) for tag in tags)

    def _is_in_vain(self, wait: Waiting) -> bool:
        """Whether too many members cannot be written to. Only who waits for whatever it takes
        goes on when that may pass; a right that is missing does not come by waiting."""
        troubles = [error for error in self._troubles if wait is not True or not error.retryable]
        return len(self._control.urls) - len(troubles) < self._control.majority

    def _look(self) -> Mapping[int, Copy | None]:
        """What the members that can be read hold now. Remembers since when they have held it."""
        reading: Reading = self._control.read(self._key)
        # After the answers: what they show was so by now, and no later than now.
        now = self._clock.monotonic()
        found: dict[int, Copy | None] = {}
        for i, copy in enumerate(reading.copies):
            if isinstance(copy, Unknown):
                continue
            found[i] = copy
            body = copy.body if copy else None
            before = self._sightings.get(i)
            if before is None or before.body != body:
                self._sightings[i] = Sighting(body, _parse(body), now)
        return found

    def _free(self, sightings: Mapping[int, Sighting]) -> frozenset[int]:
        return free_members(
            sightings,
            self._clock.monotonic(),
            term_seconds=self._term_seconds,
            majority=self._control.majority,
        )

    def _is_ours(self, member: int) -> bool:
        record = self._sightings[member].record
        return record is not None and record.claim == self._claim

    def _record(self, *, released: bool = False) -> LeaseRecord:
        return LeaseRecord(
            holder=self._holder,
            claim=self._claim,
            generation=self._generation,
            term_seconds=self._term_seconds,
            nonce=self._nonce(),
            expires_at=self._clock.now() + timedelta(seconds=self._term_seconds),
            released=released,
        )

    def _nonce(self) -> str:
        return f"{self._random.getrandbits(128):032x}"

    def _pause(self) -> None:
        if self._stop is not None and self._stop():
            raise Interrupted(f"interrupted while waiting for the lease {self._name}")
        self._clock.sleep(self._term_seconds / 10 * self._random.uniform(0.5, 1.0))

    def _refusal(self, sightings: Mapping[int, Sighting]) -> LeaseHeld:
        newest = _newest(sightings, self._control.majority)
        if newest is None:
            return LeaseHeld(
                f"the lease {self._name} may be held: a control store holds a damaged record",
                hint=f"--wait takes it over after {self._term_seconds:g} s",
            )
        return LeaseHeld(
            f"{self._name} is held by {newest.holder} until "
            f"{newest.expires_at:%Y-%m-%d %H:%M:%S} UTC by its own clock",
            hint=f"--wait waits for it; a process that died gives way {newest.term_seconds:g} s "
            "after its last sign of life",
        )


def _alive(sightings: Mapping[int, Sighting], began: float) -> bool:
    """Whether some holder has written since `began`."""
    return any(
        seen.since > began
        for seen in sightings.values()
        if seen.record and not seen.record.released
    )


def _as_it_is(copy: Copy | None) -> Condition:
    return Matches(copy.tag) if copy else ABSENT


def _parse(body: bytes | None) -> LeaseRecord | None:
    if body is None:
        return None
    try:
        return LeaseRecord.model_validate_json(body)
    except ValidationError:
        return None
