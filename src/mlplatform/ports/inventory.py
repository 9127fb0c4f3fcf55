"""The inventory port: what an account holds that may be there for nothing, by its own read API.

It tells facts and judges none: whether a snapshot is old is for the caller to say. Nothing that an
implementation asks changes anything, and it needs no right but to list and to describe.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from mlplatform.core.seen import Unknown


class Kind(StrEnum):
    """What is paid for as long as it is there."""

    VOLUME = "volume"
    ADDRESS = "address"
    LOAD_BALANCER = "load-balancer"
    SNAPSHOT = "snapshot"
    UPLOAD = "upload"
    """Of several parts, to an object store, begun and neither completed nor aborted."""


@dataclass(frozen=True, slots=True)
class Held:
    """One thing that an account holds."""

    kind: Kind
    id: str
    """As bills name it, whole or at their end."""
    type: str = ""
    """Of its kind: `gp3`, `application`; with the kind it is what prices name."""
    used_by: tuple[str, ...] = ()
    """What it is attached to, associated with, made into, or sends requests to and finds well."""
    unwell: tuple[str, ...] = ()
    """Targets of a load balancer that it does not find well."""
    requests: float | Unknown | None = None
    """That came to a load balancer lately; None where its kind counts none."""
    created: datetime | None = None
    size_bytes: int | None = None
    """Provisioned or kept; of a snapshot the most that it may keep."""
    evidence: str = ""
    """The question that was asked and what of the answer it is said by."""
    removal: str = ""
    """The command by which a person could remove it. Nobody runs it here."""


class Inventory(Protocol):
    """One account, in one region."""

    @property
    def url(self) -> str:
        """For people."""
        ...

    @property
    def zone(self) -> str:
        """What price lists call the region, with its provider: `aws/us-east-1`."""
        ...

    def held(self, now: datetime) -> Mapping[Kind, Sequence[Held] | Unknown]:
        """Everything of each kind; Unknown with the reason where a right is missing."""
        ...
