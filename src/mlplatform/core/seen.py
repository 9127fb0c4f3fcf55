"""What was seen of the world. What could not be read is a value with a reason, never a guess."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Unknown:
    """It was looked at and could not be read. Hold what was last good."""

    reason: str

    def __str__(self) -> str:
        return f"unknown: {self.reason}"
