"""The split port: how one region's requests for one model are divided between versions, and what
became of them, counted where they enter.

It is a `Traffic` whose weights are keyed by version: rollout's own object, never the one that holds
the weights between regions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from mlplatform.core.seen import Unknown
from mlplatform.ports.traffic import Traffic


@dataclass(frozen=True, slots=True)
class Counts:
    """What became of the requests that were sent to one version, since a counter began; each only
    rises until it begins again."""

    requests: float
    errors: float
    """5xx and sheds (429) of the version's servers, resets, time-outs, and requests for which no
    server was there. What clients broke off is neither a request nor an error."""
    timed: float | None = None
    """Requests whose time is known."""
    slow: float | None = None
    """Of `timed`, those that took longer than `slow_seconds`."""
    began: float | None = None
    """When its counters began, in whatever unit: another value means that they began again. None:
    not known, so that it shows only where one has fallen."""
    slow_seconds: float | None = None
    """The end of the histogram's bucket by which `slow` is counted: the least that is no less than
    what was asked for."""


class Split(Traffic, Protocol):
    """One route between the versions of one model in one region. Errors as of `Traffic`."""

    def admit(self, version: str, addresses: Sequence[str], *, epoch: int, writer: str) -> None:
        """Let a version's share go to exactly these servers, `host:port` each; whatever its weight
        is. None: a version that is gone, and has no weight. `Fenced` as in `write`; `UsageError`
        for no address while it has weight. Where endpoints follow readiness by themselves (a
        Kubernetes Service) there is nothing to do."""
        ...

    def counts(self, slow_seconds: float) -> Mapping[str, Counts | Unknown]:
        """By version that is, or was lately, admitted."""
        ...
