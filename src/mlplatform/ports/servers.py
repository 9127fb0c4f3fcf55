"""The servers port: the model servers of one model in one region, started and stopped by version.

Rollout alone writes through it. What serves there, for whoever only looks, is the fleet port's to
say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol


class Stuck(StrEnum):
    """Why a server that was started does not answer, in the words that operators search for; see
    the table of the reference's section 4."""

    STARTING = "starting"
    """It was started, and has not said yet that it is ready. Not an error."""
    NO_CAPACITY = "no-capacity"
    """Nowhere to run: no free GPU, a quota, nothing that fits its selectors."""
    IMAGE = "image"
    CONFIGURATION = "configuration"
    """It names something that is not there, or was told something that cannot be."""
    VOLUME = "volume"
    """What it stores on cannot be attached or mounted, so far."""
    CRASH = "crash"
    """It ended by itself; it may be tried again and again."""
    OUT_OF_MEMORY = "out-of-memory"
    ADMISSION = "admission"
    NOT_READY = "not-ready"
    """It was ready, or has had long enough, and says that it is not."""


HOPELESS = frozenset({Stuck.IMAGE, Stuck.CONFIGURATION, Stuck.ADMISSION})
"""Waiting does not end these."""


@dataclass(frozen=True, slots=True)
class Ailing:
    """A server that does not answer."""

    server: str
    """Its name, for people: a pod, a process."""
    state: Stuck
    reason: str = ""
    """In the words of whoever runs it, with the last line that it said where that is known."""


@dataclass(frozen=True, slots=True)
class Group:
    """The servers of one version."""

    version: str
    digest: str = ""
    """The manifest's, for which they were started; empty where it is not recorded."""
    wanted: int = 0
    ready: tuple[str, ...] = ()
    """`host:port` of each that is ready, in the order in which they stay when some have to go."""
    ailing: tuple[Ailing, ...] = ()
    crashes: int = 0
    """How often one of them has ended by itself, over the life of the group; it only rises."""
    leaving: int = 0
    """Told to end, and not gone: what they hold is not free yet."""
    scaled_by: str = ""
    """Who else owns their number: an HPA, a ScaledObject, Argo CD. Empty: nobody does."""


@dataclass(frozen=True, slots=True)
class ServersState:
    """All servers of the model there."""

    groups: Mapping[str, Group] = field(default_factory=dict)
    """By version."""
    epoch: int = 0
    """The highest under which anything of it was written; 0: nobody has."""
    writer: str = ""


@dataclass(frozen=True, slots=True)
class ServersFeatures:
    """What can be done there, declared as data."""

    exercised: str
    """What it was proven on."""
    picks_itself: bool = False
    """Whether whoever runs them chooses which ones go when there are to be fewer, so that
    `Group.ready` has no order."""


class Servers(Protocol):
    """The same errors as a store's: `Denied` (naming verb and object), `Throttled`, `Unavailable`,
    `ConditionFailed`, `Unsupported`, `Fenced`."""

    @property
    def url(self) -> str:
        """Without secrets."""
        ...

    @property
    def features(self) -> ServersFeatures: ...

    def read(self) -> ServersState:
        """What there is now. An answer that is none is an error, never an empty state."""
        ...

    def scale(
        self, version: str, servers: int, *, digest: str, epoch: int, writer: str
    ) -> ServersState:
        """Have so many servers of a version, whichever there were; 0 removes the group when the
        last one has gone. Returns at once, with what is there then: who waits, reads.

        Idempotent. Servers that go are told to end, finish what they do, and then end. `Fenced` if
        a higher epoch has written there, checked where the state lies; a refused call changes
        nothing. An error after which it may have been done is `Unavailable`.
        """
        ...
