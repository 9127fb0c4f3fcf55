"""The fleet port: the model servers of one region, seen and asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from mlplatform.core.seen import Unknown


@dataclass(frozen=True, slots=True)
class Served:
    """What a region's servers hold of one model."""

    versions: Mapping[str, str] = field(default_factory=dict)
    """Digest by version, of the servers that are ready; empty text where none is stated."""
    servers: int = 0
    """Ready and warm. What is starting, or could be started, counts nothing."""
    requests_per_second: float | None = None
    """Measured, of one server within its objective; None where nobody has measured it."""
    canary: str | None = None
    """A version that gets a share of the region's traffic beside another: a rollout is open."""


class Fleet(Protocol):
    """The servers of one region. The same errors as a store's."""

    @property
    def url(self) -> str: ...

    def served(self, models: frozenset[str]) -> Mapping[str, Served | Unknown]:
        """What its servers hold of each of `models`."""
        ...

    def ask_capacity(self, model: str, servers: int) -> str:
        """Ask for at least so many servers, by raising the floor that scales them and never the
        count itself; what was asked of whom, for people. `Unsupported` where nobody scales."""
        ...

    def lame_duck(self, *, enter: bool) -> None:
        """Let servers answer with `Connection: close`, not ready, so that clients go elsewhere; or
        end it. `Unsupported` where servers know no such thing."""
        ...
