"""Telling somebody: the notice, and who takes it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Protocol


class Severity(StrEnum):
    """What a notice asks of whoever reads it."""

    INFO = "info"
    """Something was done, or has ended."""
    WARNING = "warning"
    """Look at it today."""
    CRITICAL = "critical"
    """Wake somebody."""


@dataclass(frozen=True, slots=True)
class Notice:
    """One thing to tell. `thread` groups what belongs together: an operation, a route."""

    title: str
    severity: Severity
    at: datetime
    source: str
    """Who says so: `mlplatform failover on user@host`."""
    thread: str = ""
    lines: tuple[str, ...] = ()
    over: bool = False
    """The thread has ended: a page is resolved."""
    fields: dict[str, str] = field(default_factory=dict)


class Receiver(Protocol):
    """Somebody who takes notices. The same errors as a store's."""

    @property
    def name(self) -> str:
        """For people; never a URL, which is a secret here."""
        ...

    def send(self, notice: Notice) -> None:
        """Deliver it, once."""
        ...
