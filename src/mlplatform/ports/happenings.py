"""The happenings port: what a region's own cluster says has happened to what runs in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Happening:
    """Something that happened, once or several times."""

    at: datetime
    kind: str
    """`rollout`, `scale`, or whatever reason the cluster gives."""
    subject: str
    """The workload."""
    model: str = ""
    """Empty: nobody says which."""
    version: str = ""
    text: str = ""
    times: int = 1


class Happenings(Protocol):
    """What happened in one region. The same errors as a store's."""

    @property
    def url(self) -> str: ...

    def between(self, since: datetime, until: datetime) -> Sequence[Happening]:
        """What is known to have happened, the oldest first. A cluster forgets: that nothing is
        known of a time does not mean that nothing happened."""
        ...
