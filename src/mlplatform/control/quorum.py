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
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

from mlplatform.core.seen import Unknown
from mlplatform.ports.clock import Clock
from mlplatform.ports.store import Condition, ObjectStore


@dataclass(frozen=True, slots=True)
class Copy:
    """One member's copy of a record."""

    body: bytes
    tag: str


@dataclass(frozen=True, slots=True)
class Reading:
    """What each member says of one key, in the members' order: None where there is nothing,
    `Unknown` where the member could not be read. At least a majority could."""

    copies: tuple[Copy | None | Unknown, ...]


@dataclass(frozen=True, slots=True)
class Observations:
    """Everything that the reachable members hold below a prefix."""

    records: tuple[tuple[str, bytes], ...]
    """Key and body, by key. A key whose copies differ is there once for each."""
    unreadable: Mapping[str, str]
    """Members that could not be read, with the reason: the rest may not be all there is."""


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
        raise NotImplementedError

    def create(self, key: str, body: bytes) -> None:
        """Take `key` with `body`, which holds a nonce. `Fenced` if somebody else has it;
        `NoMajority` if too few members answered: it may or may not have taken effect."""
        raise NotImplementedError

    def read(self, key: str) -> Reading:
        """Each member's copy. `NoMajority` if too few could be read."""
        raise NotImplementedError

    def list(self, prefix: str, *, shallow: bool = False, after: str = "") -> list[str]:
        """The union of the members' keys, sorted. `NoMajority` if too few could be read."""
        raise NotImplementedError

    def swap(
        self, key: str, body: bytes, when: Sequence[Condition | None]
    ) -> tuple[str | None | Unknown, ...]:
        """Write `body` on each member under its own condition (None: leave it alone). For each the
        new tag, None if the condition was refused or none was given, or `Unknown`."""
        raise NotImplementedError

    def put_observation(self, key: str, body: bytes) -> None:
        """Write to all members that can be reached. `NoMajority` if none could."""
        raise NotImplementedError

    def read_observations(self, prefix: str) -> Observations:
        """The union of what the reachable members hold. `NoMajority` if too few could be read."""
        raise NotImplementedError

    def drop_observation(self, key: str) -> None:
        """Remove it from all members that can be reached; the others keep it."""
        raise NotImplementedError

    def repair(self, prefix: str) -> int:
        """Give members that lack records below `prefix` a copy; how many were written. For a member
        that was rebuilt, and one that was away."""
        raise NotImplementedError
