"""How a long transfer says where it stands. Called from many threads; must never block for long."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """One line of work per region, in bytes."""

    def total(self, region: str, size_bytes: int) -> None:
        """What there is to send to `region`; again when it turns out otherwise."""
        ...

    def add(self, region: str, size_bytes: int) -> None:
        """That much more was sent."""
        ...

    def note(self, region: str, text: str) -> None:
        """Something an operator should know while it runs."""
        ...

    def done(self, region: str, text: str) -> None:
        """The region is finished, with this outcome."""
        ...


class SilentProgress:
    """Says nothing."""

    def total(self, region: str, size_bytes: int) -> None: ...

    def add(self, region: str, size_bytes: int) -> None: ...

    def note(self, region: str, text: str) -> None: ...

    def done(self, region: str, text: str) -> None: ...
