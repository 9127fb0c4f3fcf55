"""The identity port: who this process acts for, as somebody says who was shown a proof of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Identity:
    """Somebody."""

    by: str
    verified: str = ""
    """Who vouches for it; empty: nobody does."""


class Voucher(Protocol):
    """One that vouches for names."""

    @property
    def name(self) -> str:
        """Who it is, for people and for the record."""
        ...

    def vouch(self) -> Identity | None:
        """Who we are; None where there is nothing here to show it. `Denied` where what is shown is
        not accepted, `Unavailable` where it cannot be checked, `UsageError` where it was never set
        up. What is shown is in no error."""
        ...
