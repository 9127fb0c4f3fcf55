"""What nobody uses, for whoever asks why a cost jumped: from bills alone, and from accounts where
any are configured.

A bill is read from the incident's first day on: what nothing passed through since then is as good
as forgotten, although it may have been removed after. An account says how things are now.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from mlplatform.core.seen import Unknown
from mlplatform.cost.waste.charges import Charges
from mlplatform.cost.waste.findings import last_part, why_unused
from mlplatform.ports.inventory import Inventory


@dataclass(frozen=True, slots=True)
class Unused:
    """Resources that nobody uses."""

    why: dict[str, str] = field(default_factory=dict)
    """By the last part of a resource's name: what says so."""
    unknown: tuple[str, ...] = ()
    """What could not be read."""


def find_unused(charges: Charges, inventories: Iterable[Inventory], now: datetime) -> Unused:
    """Look. What two say of a resource is told as the account has it, which knows more."""
    why: dict[str, str] = {}
    unknown = []
    if charges.keeps_resources:
        why = {last_part(each.object): each.why for each in charges.findings()}
    for inventory in inventories:
        for held in inventory.held(now).values():
            if isinstance(held, Unknown):
                unknown.append(held.reason)
                continue
            for each in held:
                if (told := why_unused(each, now)) is not None:
                    why[last_part(each.id)] = told
    return Unused(why, tuple(unknown))
