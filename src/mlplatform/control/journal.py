"""The journal: what was planned, meant and done, so that anyone can tell it and anyone resume it.

One stream an operation, `journal/<operation>/<number>.json`, each entry a record that names the
digest of the one before it. Taking the next number is the fence: a deposed writer finds it taken
and stops. There is no global chain and no head object; `history` merges streams by time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from random import Random

from mlplatform.control.quorum import ControlStore
from mlplatform.core.plan import JSON, Outcome, Plan, Record
from mlplatform.ports.clock import Clock


class Kind(StrEnum):
    """What an entry tells."""

    PLAN = "plan"
    INTENT = "intent"
    OUTCOME = "outcome"
    NOTE = "note"
    CLOSED = "closed"


class Entry(Record):
    """One record of a stream. The first is number 1 and carries the plan."""

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
    """Digest of the entry before; empty for the first."""
    nonce: str
    payload: JSON


class Stream:
    """One operation's entries."""

    operation: str
    entries: tuple[Entry, ...]
    """Those that are settled, in order."""
    unsettled: tuple[Entry, ...]
    """Seen on fewer than a majority, or burnt: they may or may not have taken effect."""

    @property
    def plan(self) -> Plan:
        raise NotImplementedError

    @property
    def lease(self) -> str:
        """Name of the lease under which the operation runs."""
        raise NotImplementedError

    @property
    def closed(self) -> bool:
        raise NotImplementedError

    def outcomes(self) -> Mapping[str, Outcome]:
        """By action key, the last one recorded."""
        raise NotImplementedError

    def append(self, kind: Kind, payload: JSON, *, fence: int) -> Entry:
        """Take the next number. `Fenced` if somebody else has; `NoMajority` if it is burnt. After
        either nothing more can be appended: open the stream anew."""
        raise NotImplementedError


class Journal:
    """All operations of a control store. `writer` names this process to people."""

    def __init__(self, control: ControlStore, clock: Clock, random: Random, writer: str) -> None:
        raise NotImplementedError

    def new_operation(self, feature: str) -> str:
        """`<yyyymmddThhmmssZ>-<feature>-<6 hex>`: readable, sortable, unique."""
        raise NotImplementedError

    def start(self, operation: str, plan: Plan, *, lease: str = "", fence: int = 0) -> Stream:
        """Begin a stream with its plan."""
        raise NotImplementedError

    def open(self, operation: str) -> Stream:
        """Read a stream and verify its chain. `NotFound`; `IntegrityError` names the entry."""
        raise NotImplementedError

    def operations(self) -> Sequence[str]:
        """Ids of all operations, oldest first."""
        raise NotImplementedError

    def unfinished(self) -> Iterator[Stream]:
        """Operations that began and are not closed, oldest first."""
        raise NotImplementedError

    def history(self, operation: str | None = None) -> Iterator[Entry]:
        """Entries of one operation or of all, merged by time."""
        raise NotImplementedError
