"""The journal: what was planned, meant and done, so that anyone can tell it and anyone resume it.

One stream an operation, `journal/<operation>/<number>.json`. Each entry names the entry before it,
by number and digest, and so does every entry that a crash, a lost majority or a deposed writer has
left behind. The stream is what is reached from its head, the highest entry that a majority of the
control store holds, by walking back. Numbers that the walk leaves out are burnt: their records may
or may not have taken effect, whatever becomes of them later.

Taking the next number is the fence: a deposed writer finds it taken and stops. There is no global
chain and no head object; `history` merges streams by time.

`unfinished/<operation>.json` is a hint that an operation is under way, so that finding what a crash
left does not mean reading all that ever was. It is written before the first intent and removed
after `closed`; the stream is what counts.
"""

from __future__ import annotations

import heapq
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from random import Random

from pydantic import ValidationError

from mlplatform.control.quorum import ControlStore, Reading
from mlplatform.core.digest import blake3_hex
from mlplatform.core.errors import (
    Fenced,
    IntegrityError,
    MlplatformError,
    NoMajority,
    NotFound,
)
from mlplatform.core.plan import JSON, Outcome, Plan, Record, canonical
from mlplatform.ports.clock import Clock

log = logging.getLogger(__name__)

_JOURNAL = "journal/"
_UNFINISHED = "unfinished/"


class Kind(StrEnum):
    """What an entry tells."""

    PLAN = "plan"
    """`{"plan", "lease"}`: always the first."""
    REVISION = "revision"
    """`{"plan"}`: what is decided since; the same operation follows it."""
    INTENT = "intent"
    """`{"actions", "batch"}`: the keys of actions that are begun now."""
    OUTCOME = "outcome"
    """An `Outcome`."""
    NOTE = "note"
    """`{"text"}`, for people."""
    CLOSED = "closed"
    """`{"text"}`: every action has its outcome, or has been given up."""


class Entry(Record):
    """One record of a stream. The first carries the plan."""

    operation: str
    number: int
    kind: Kind
    at: datetime
    """Wall time, for people."""
    writer: str
    fence: int
    """Generation of the writer's lease."""
    after: int
    """Number of the entry before; numbers between are burnt. 0 for the first."""
    previous: str
    """Digest of the entry before, of its one byte form; empty for the first."""
    nonce: str
    """No two records are equal, so a record found where ours was to be is ours or is not."""
    payload: JSON

    @property
    def name(self) -> str:
        """How errors name it."""
        return f"entry {self.number} of operation {self.operation}"


@dataclass(frozen=True, slots=True)
class Chain:
    """What the records of one stream amount to."""

    entries: tuple[Entry, ...] = ()
    """The settled ones, oldest first."""
    unsettled: tuple[Entry, ...] = ()
    """All others, by number: burnt, or newer than the head and on fewer than a majority."""
    last_number: int = 0
    """The highest that anything was found under."""


def chain(operation: str, found: Mapping[int, Reading], majority: int) -> Chain:
    """Judge the records found under each number of a stream.

    `IntegrityError` names an entry that is missing, unreadable or not the one that its successor
    names; `NoMajority` if that entry may lie on a member that could not be read.
    """
    candidates: dict[int, dict[str, Entry]] = {}
    head: Entry | None = None
    for number in sorted(found):
        candidates[number] = {}
        for body, copies in found[number].bodies().items():
            entry = _parse(operation, number, body)
            if entry is not None:
                candidates[number][blake3_hex(body)] = entry
            if copies >= majority:
                if entry is None:
                    raise IntegrityError(
                        f"entry {number} of operation {operation} is not a journal entry",
                        hint="a control store was changed by hand or is damaged; restore it from "
                        "its backup",
                    )
                head = entry

    entries: list[Entry] = []
    current = head
    while current is not None:
        entries.append(current)
        if not current.after:
            break
        current = _before(current, candidates, found)
    settled = {(entry.number, entry.nonce) for entry in entries}
    unsettled = [
        entry
        for number in sorted(candidates)
        for entry in candidates[number].values()
        if (entry.number, entry.nonce) not in settled
    ]
    return Chain(tuple(reversed(entries)), tuple(unsettled), max(found, default=0))


def _before(
    entry: Entry, candidates: Mapping[int, Mapping[str, Entry]], found: Mapping[int, Reading]
) -> Entry:
    before = candidates.get(entry.after, {}).get(entry.previous)
    if before is not None and entry.after < entry.number:
        return before
    reading = found.get(entry.after)
    where = f"entry {entry.after} of operation {entry.operation}"
    if any(not reading.complete for reading in found.values()):
        raise NoMajority(
            f"{where}: the copy that {entry.name} follows is on a control store that cannot be read"
        )
    what = "is missing" if reading is None or not reading.bodies() else "is not what it was"
    raise IntegrityError(
        f"{where} {what}: {entry.name} follows {entry.previous}",
        hint="a control store was changed by hand or is damaged; restore it from its backup",
    )


def _parse(operation: str, number: int, body: bytes) -> Entry | None:
    try:
        entry = Entry.model_validate_json(body)
    except ValidationError:
        return None
    genuine = entry.operation == operation and entry.number == number and entry.encoded == body
    return entry if genuine else None


class Stream:
    """One operation's entries, as they were when it was opened, and those appended since."""

    def __init__(self, journal: Journal, operation: str, found: Chain) -> None:
        self._journal = journal
        self.operation = operation
        self.entries = found.entries
        """Those that are settled, oldest first."""
        self.unsettled = found.unsettled
        """Burnt, or seen on fewer than a majority: they may or may not have taken effect."""
        self._last_number = found.last_number
        self._lost: MlplatformError | None = None

    def __repr__(self) -> str:
        return f"<Stream {self.operation}: {len(self.entries)} entries>"

    @property
    def agreed(self) -> Plan:
        """What the operation set out with; `NotFound` where it was interrupted before."""
        return Plan.model_validate(self._first.payload["plan"])

    @property
    def plan(self) -> Plan:
        """What the operation is to do: what it set out with, or the last revision of it."""
        revisions = (e for e in reversed(self.entries) if e.kind is Kind.REVISION)
        return Plan.model_validate(next(revisions, self._first).payload["plan"])

    @property
    def lease(self) -> str:
        """Name of the lease under which the operation runs; empty for none."""
        return str(self._first.payload["lease"])

    @property
    def closed(self) -> bool:
        return any(entry.kind is Kind.CLOSED for entry in self.entries)

    @property
    def begun(self) -> bool:
        """Whether anything may have been done: some intent was written, settled or not."""
        return any(entry.kind is Kind.INTENT for entry in (*self.entries, *self.unsettled))

    def outcomes(self) -> Mapping[str, Outcome]:
        """By action key, the last one recorded."""
        recorded = (entry for entry in self.entries if entry.kind is Kind.OUTCOME)
        return {o.action: o for o in (Outcome.model_validate(e.payload) for e in recorded)}

    def append(self, kind: Kind, payload: JSON, *, fence: int) -> Entry:
        """Take the next number. `Fenced` if somebody else has; `NoMajority` if it is burnt. After
        either nothing more can be appended: whoever goes on opens the stream anew."""
        if self._lost is not None:
            raise Fenced(
                f"operation {self.operation}: its stream was lost: {self._lost}",
                hint="run again to go on from where it stands",
            ) from self._lost
        head = self.entries[-1] if self.entries else None
        if head is not None and head.fence > fence:
            self._lost = Fenced(
                f"{head.name} was written under generation {head.fence}, ours is {fence}",
                hint="another process took over; run again to go on from where it stands",
            )
            raise self._lost
        entry = self._journal._entry(
            self.operation, self._last_number + 1, kind, payload, fence, head
        )
        try:
            self._journal._control.create(_key(entry.operation, entry.number), entry.encoded)
        except MlplatformError as error:
            self._lost = error
            raise
        self._settled(entry)
        if kind is Kind.CLOSED:
            self._journal._finished(self.operation)
        return entry

    def settle(self) -> None:
        """Before going on with a stream that another process left: records newer than the head,
        which that process may have believed settled, are settled where nothing speaks against them,
        and control stores that lack entries get them.

        The next `append` then keeps that process from appending any more.
        """
        control = self._journal._control
        control.repair(_key(self.operation))
        for entry in self.unsettled:
            if self._follows(entry):
                try:
                    control.create(_key(entry.operation, entry.number), entry.encoded)
                except Fenced:
                    continue  # two writers, neither with a majority: burnt
                self._settled(entry)
        if self.closed:
            self._journal._finished(self.operation)

    @property
    def _first(self) -> Entry:
        if not self.entries:
            raise NotFound(
                f"operation {self.operation} has no plan: it was interrupted before it began"
            )
        return self.entries[0]

    def _follows(self, entry: Entry) -> bool:
        if not self.entries:
            return not entry.after
        head = self.entries[-1]
        return entry.after == head.number and entry.previous == blake3_hex(head.encoded)

    def _settled(self, entry: Entry) -> None:
        self.entries = (*self.entries, entry)
        self.unsettled = tuple(other for other in self.unsettled if other != entry)
        self._last_number = max(self._last_number, entry.number)


class Journal:
    """All operations of a control store. `writer` names this process to people."""

    def __init__(self, control: ControlStore, clock: Clock, random: Random, writer: str) -> None:
        self._control = control
        self._clock = clock
        self._random = random
        self._writer = writer

    def new_operation(self, feature: str) -> str:
        """`<yyyymmddThhmmssZ>-<feature>-<6 hex>`: readable, sortable, unique."""
        stamp = self._clock.now().strftime("%Y%m%dT%H%M%SZ")
        return f"{stamp}-{feature}-{self._random.getrandbits(24):06x}"

    def start(self, operation: str, plan: Plan, *, lease: str = "", fence: int = 0) -> Stream:
        """Begin a stream with its plan."""
        stream = Stream(self, operation, Chain())
        payload: JSON = {"plan": plan.model_dump(mode="json"), "lease": lease}
        stream.append(Kind.PLAN, payload, fence=fence)
        # After the plan: a crash between the two leaves a plan that was never begun, not a hint to
        # nothing. Before any intent: what may have had an effect is always found.
        self._mark_unfinished(operation, lease)
        return stream

    def open(self, operation: str) -> Stream:
        """Read a stream and verify its chain. `NotFound`; `IntegrityError` names the entry."""
        found: dict[int, Reading] = {}
        for key, reading in self._control.read_many(self._control.list(_key(operation))).items():
            number = key.removeprefix(_key(operation)).removesuffix(".json")
            if number.isdecimal():  # anything else is not ours
                found[int(number)] = reading
        if not found:
            raise NotFound(
                f"there is no operation {operation}", hint="mlplatform history lists them"
            )
        return Stream(self, operation, chain(operation, found, self._control.majority))

    def operations(self, *, since: datetime | None = None) -> Sequence[str]:
        """Ids of all operations, oldest first; with `since`, of those that began later, as their
        writers' clocks had it."""
        after = f"{_JOURNAL}{since:%Y%m%dT%H%M%SZ}" if since else ""
        listed = self._control.list(_JOURNAL, shallow=True, after=after)
        return [key[len(_JOURNAL) : -1] for key in listed]

    def unfinished(self, *, lease: str | None = None) -> Iterator[Stream]:
        """Operations that began and are not closed, oldest first; with `lease`, those under it."""
        leases: dict[str, set[str]] = {}
        for key, body in self._control.read_observations(_UNFINISHED).records:
            operation = key.removeprefix(_UNFINISHED).removesuffix(".json")
            leases.setdefault(operation, set()).add(_lease_of(body))
        for operation, names in leases.items():
            if lease is not None and lease not in names:
                continue
            try:
                stream = self.open(operation)
            except NotFound:
                log.warning("operation %s is marked unfinished, but has no journal", operation)
                continue
            if stream.closed:
                self._finished(operation)  # by a process that ended before it could
            else:
                yield stream

    def abandon(self, operation: str) -> None:
        """Let nobody resume it: for a stream that cannot be trusted any more."""
        self._finished(operation)

    def history(self, operation: str | None = None) -> Iterator[Entry]:
        """Settled entries of one operation or of all, merged by time. Wall clocks differ, so only
        within an operation is the order certain. A stream that cannot be trusted does not keep the
        others from being told: its error is raised at the end."""
        streams: list[tuple[Entry, ...]] = []
        errors: list[MlplatformError] = []
        for name in [operation] if operation is not None else self.operations():
            try:
                streams.append(self.open(name).entries)
            except (IntegrityError, NoMajority) as error:
                errors.append(error)
        yield from heapq.merge(*streams, key=lambda entry: entry.at)
        if errors:
            raise errors[0]

    def over(self, control: ControlStore) -> Journal:
        """The journal of another control store, by the same writer."""
        return Journal(control, self._clock, self._random, self._writer)

    def import_from(self, other: Journal) -> Iterator[tuple[str, MlplatformError | None]]:
        """Take over the streams of a journal that was kept elsewhere while this one could not be
        written, entry by entry as they are; the id of each that was not here whole, and why it is
        not now, if it is not. One that is damaged keeps nobody from being taken over. `Fenced` is
        told of a stream of which the same id says something else here; `NoMajority` is raised."""
        for operation in other.operations():
            error: MlplatformError | None = None
            try:
                stream = other.open(operation)
                if self._is_here(stream):
                    continue
                self._take_over(stream)
            except NoMajority:
                raise
            except MlplatformError as found:
                error = found
            yield operation, error

    def _is_here(self, stream: Stream) -> bool:
        with suppress(NotFound):
            return self.open(stream.operation).entries == stream.entries
        return not stream.entries

    def _take_over(self, stream: Stream) -> None:
        for entry in stream.entries:
            self._control.create(_key(entry.operation, entry.number), entry.encoded)
        if not stream.closed:
            self._mark_unfinished(stream.operation, stream.lease)

    def _entry(
        self,
        operation: str,
        number: int,
        kind: Kind,
        payload: JSON,
        fence: int,
        before: Entry | None,
    ) -> Entry:
        return Entry(
            operation=operation,
            number=number,
            kind=kind,
            at=self._clock.now(),
            writer=self._writer,
            fence=fence,
            after=before.number if before else 0,
            previous=blake3_hex(before.encoded) if before else "",
            nonce=f"{self._random.getrandbits(128):032x}",
            payload=payload,
        )

    def _mark_unfinished(self, operation: str, lease: str) -> None:
        hint = canonical({"operation": operation, "lease": lease})
        if self._control.put_observation(_hint_key(operation), hint) < self._control.majority:
            raise NoMajority(
                f"operation {operation}: too few control stores took it; nothing was begun",
                hint="see to the control stores, then run again",
            )

    def _finished(self, operation: str) -> None:
        """The hint has served. Members that cannot be reached keep it until it is read again."""
        self._control.drop_observation(_hint_key(operation))


def _key(operation: str, number: int | None = None) -> str:
    """An entry's key; without a number, the prefix of the stream."""
    return f"{_JOURNAL}{operation}/" + (f"{number:08d}.json" if number is not None else "")


def _lease_of(hint: bytes) -> str:
    try:
        return str(json.loads(hint)["lease"])
    except (ValueError, KeyError, TypeError):
        return ""  # damaged; another copy may say it


def _hint_key(operation: str) -> str:
    return f"{_UNFINISHED}{operation}.json"
