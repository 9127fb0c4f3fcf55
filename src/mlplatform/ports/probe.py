"""The probe port: one question over the network, and everything that came of it.

A probe is a measurement, so that nothing which goes wrong raises: what was met is in the answer,
with the time that each phase took. It takes no longer than it was given, whatever the other side
does, and asks once: it does not try again, follows no redirect and uses no proxy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of whom."""

    url: str
    method: str = "GET"
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """What was met. Seconds are None for a phase that was not reached."""

    seconds: float
    """Until it ended, well or badly."""
    dns_seconds: float | None = None
    connect_seconds: float | None = None
    tls_seconds: float | None = None
    first_byte_seconds: float | None = None
    """From the question sent to the first byte of the answer."""
    status: int | None = None
    """None: there was no answer, or no HTTP."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Names in lower case."""
    body: bytes = b""
    error: str = ""
    """`dns`, `refused` (or no way there), `timeout`, `reset`, `tls`, `certificate`, `answer` (no
    HTTP, cut short, or too large); empty when a whole answer came, whatever its status."""
    detail: str = ""
    certificate_expires_at: datetime | None = None
    """Of the certificate that was shown and is in order."""

    @property
    def good(self) -> bool:
        """Whether a whole answer came, and says yes."""
        return not self.error and self.status is not None and 200 <= self.status < 300


class Probe(Protocol):
    """Asks once."""

    def ask(self, question: Question, *, timeout_seconds: float) -> Answer:
        """Ask, and take `timeout_seconds` in all at the most. Raises nothing."""
        ...
