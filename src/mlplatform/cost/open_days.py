"""Days of which charges are still to come, as far as anything says so: no forecast starts from
them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

from mlplatform.cost.ledger import Delivery, Ledger, standing
from mlplatform.cost.restatement.finality import Because, Finality
from mlplatform.cost.restatement.knowledge import Knowledge, histories_of, used_days

WHOLE_SHARE = 0.98
"""A day of which less is there, as deliveries of its provider show, is no whole day yet."""


def partial_days(ledger: Ledger, current: Sequence[Delivery]) -> frozenset[date]:
    """The days with usage that are not whole in some bill."""
    knowledge = Knowledge.at(histories_of(ledger, current), ledger.statuses())
    return frozenset(
        day
        for delivery in standing(current)
        for day, known in knowledge.finality(delivery)
        if _is_partial(known) and day in used_days(delivery)
    )


def _is_partial(known: Finality) -> bool:
    if known.final:
        return False
    if known.because is Because.UNFINISHED:
        return True
    return known.share is not None and known.share.middle < WHOLE_SHARE
