"""Whether somebody who may has said yes. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


class Said(Protocol):
    """A yes, whoever keeps it."""

    @property
    def by(self) -> str: ...

    @property
    def verified(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Standing:
    """What has become of the question."""

    by: str = ""
    """Whose yes counts; empty: nobody's so far."""
    waits: str = ""
    """What is still needed, for people."""


def standing(approvals: Sequence[Said], approvers: Sequence[str]) -> Standing:
    """Where approvers are named, one of them has to be who says yes, and it has to be proven: a
    name that somebody typed is nobody's. Where none is named, anybody's yes will do."""
    for each in approvals:
        if not approvers:
            return Standing(by=each.by if each.verified else f"{each.by} (unverified)")
        if each.verified and each.by in approvers:
            return Standing(by=each.by)
    if not approvers:
        return Standing(waits="nobody has said yes yet")
    others = [
        f"{each.by}, who is not named" if each.verified else f"{each.by}, whom nobody verified"
        for each in approvals
    ]
    said = f"; {', '.join(others)} did" if others else ""
    return Standing(waits=f"{' or '.join(approvers)} has not said yes yet{said}")
