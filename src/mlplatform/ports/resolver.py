"""The resolver port: what clients are told, by whoever keeps answers for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Answers:
    """What a resolver says of a name."""

    addresses: frozenset[str]
    """Of both families. Empty where the name is there and has none."""
    ttl_seconds: float
    """How long the resolver will go on saying so, of the part that it keeps longest."""


class Resolver(Protocol):
    """One resolver. The same errors as a store's: `NotFound` (no such name), `Denied`,
    `Unavailable`."""

    @property
    def server(self) -> str:
        """Where it listens, for people."""
        ...

    def answers(self, name: str) -> Answers:
        """Its addresses for `name`, from its cache or not: as a client would be told."""
        ...
