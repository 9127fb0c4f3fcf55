"""Which days of the ledger are still open: the bill may be restated for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from mlplatform.cost.ledger import Bill, Delivery, Ledger, partitions, standing
from mlplatform.cost.restatement.curves import curves
from mlplatform.cost.restatement.finality import Because, Finality, finality, is_closed

WHOLE_SHARE = 0.98
"""A day of which less is there, as deliveries of its provider show, is no whole day yet."""


@dataclass(frozen=True, slots=True)
class OpenDays:
    """Days that are not final in some bill."""

    provisional: frozenset[date] = frozenset()
    partial: frozenset[date] = frozenset()
    """Those of which charges are still to come, as far as anything says so."""


def open_days(ledger: Ledger, deliveries: Sequence[Delivery], since: date, until: date) -> OpenDays:
    """The open ones among some days, by the newest deliveries and those before them."""
    stands = standing(deliveries)
    statuses = ledger.statuses()
    # The first delivery of a period has nothing to be held against.
    histories = {
        each.stream: ledger.history(each.bill, each.period, each.part)
        for each in stands
        if each.number > 1
    }
    by_period: dict[tuple[Bill, str], list[Delivery]] = {}
    for history in histories.values():
        by_period.setdefault((history[0].bill, history[0].period), []).extend(history)
    closed = [key for key, each in statuses.items() if each.status.casefold() == "closed"]
    learnt = curves(by_period, closed) if by_period else {}
    provisional, partial = set(), set()
    for each in partitions(stands, since, until):
        found = finality(
            each.day,
            each.delivery,
            before=[
                other
                for other in histories.get(each.delivery.stream, ())
                if other.number < each.delivery.number
            ],
            curve=learnt.get(each.delivery.bill.provider),
            closed=is_closed(each.delivery, statuses),
        )
        if not found.final:
            provisional.add(each.day)
            if _is_partial(found):
                partial.add(each.day)
    return OpenDays(frozenset(provisional), frozenset(partial))


def _is_partial(found: Finality) -> bool:
    if found.because is Because.UNFINISHED:
        return True
    return found.share is not None and found.share.middle < WHOLE_SHARE
