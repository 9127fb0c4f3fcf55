"""The lease: who may act on something, for a term, and with which generation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random
from typing import Protocol

from mlplatform.control.quorum import ControlStore
from mlplatform.core.plan import Record
from mlplatform.ports.clock import Clock

Wait = Callable[[float], bool]
"""Waits for some seconds, or until told to stop: whether it was told to."""


class Background(Protocol):
    """Runs `loop` beside the caller; what it returns stops it and waits for its end."""

    def __call__(self, loop: Callable[[Wait], None]) -> Callable[[], None]: ...


class LeaseRecord(Record):
    """What lies at `leases/<name>.json`."""

    holder: str
    generation: int
    term_seconds: float
    nonce: str
    """New at each renewal: a change of it is the sign of life that contenders watch for."""
    expires_at: str
    """For people. Nothing compares it with a clock."""
    released: bool = False


class Lease:
    """Election over compare-and-set puts, on a majority of the control store's members."""

    def __init__(
        self,
        control: ControlStore,
        name: str,
        *,
        holder: str,
        clock: Clock,
        random: Random,
        term_seconds: float = 30.0,
        margin_seconds: float | None = None,
        floor: Callable[[], int] | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> None:
        raise NotImplementedError

    @property
    def name(self) -> str:
        raise NotImplementedError

    @property
    def generation(self) -> int:
        """The fencing token. `Fenced` if the lease is not held."""
        raise NotImplementedError

    def acquire(self, *, wait: bool = False) -> int:
        """Take the lease; its generation. `LeaseHeld` names holder and expiry, unless `wait`."""
        raise NotImplementedError

    def renew(self) -> None:
        """Hold it for another term. `Fenced` if it is lost."""
        raise NotImplementedError

    def release(self) -> None:
        """Give it back, so that nobody need wait for a term. Never raises for a lost lease."""
        raise NotImplementedError

    def held(self) -> None:
        """`Fenced` once this holder's own deadline is past, or a newer holder was seen."""
        raise NotImplementedError

    def guard(self) -> None:
        """To be called before each effect: `held`, after a renewal if one is due and nobody keeps
        the lease in the background."""
        raise NotImplementedError

    @contextmanager
    def keep(self, background: Background | None = None) -> Iterator[None]:
        """Renew beside the caller, by default in a thread, as long as the block lasts."""
        raise NotImplementedError
        yield
