"""What a state of the ledger says: what each leaf cost on each day, and how much of it is there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from decimal import Decimal

import numpy as np
import numpy.typing as npt

from mlplatform.cost.anomalies.cells import Cells, Where
from mlplatform.cost.anomalies.findings import Costs, Judged, Leaf, Numbers
from mlplatform.cost.anomalies.verdicts import Amounts
from mlplatform.cost.cube import Measure
from mlplatform.cost.ledger import Delivery, Partition, partitions, standing
from mlplatform.cost.restatement.curves import Curve
from mlplatform.cost.restatement.finality import Because, Finality
from mlplatform.cost.restatement.knowledge import (
    Histories,
    Knowledge,
    Statuses,
    days_between,
    used_days,
)
from mlplatform.cost.restatement.states import State

HISTORY_DAYS = 400
"""What the detector is given: it forgets within about a year."""


def label(delivery: Delivery) -> str:
    """A delivery for people."""
    return f"{delivery.bill} {delivery.period}, delivery {delivery.number}"


@dataclass(slots=True)
class Coverage:
    """What is known of a bill's days."""

    first: date
    until: date
    """The first and the last day with usage. Before and after, nothing is known."""
    days: dict[date, dict[str, Finality]]
    """By the delivery that says so."""

    def of(self, day: date) -> list[Finality]:
        """What is known of a day; nothing, where no delivery covers it."""
        return list(self.days.get(day, {}).values())


@dataclass(slots=True)
class Seen:
    """A state of the ledger."""

    state: State
    first: date
    until: date
    chosen: Sequence[Partition]
    """The days that stand, and speak for the cost that is judged."""
    bills: Mapping[str, Coverage]
    curves: Mapping[str, Curve]
    _in_bills: dict[Leaf, set[str]] = field(default_factory=dict)

    @property
    def history_days(self) -> int:
        """How many days the longest bill covers."""
        return max(
            (each.until - max(each.first, self.first)).days + 1 for each in self.bills.values()
        )

    def provisional(self) -> list[date]:
        """The days that are not final."""
        return sorted(
            {
                day
                for bill in self.bills.values()
                for day, told in bill.days.items()
                if bill.first <= day <= bill.until and not all(each.final for each in told.values())
            }
        )

    def costs(self, cells: Cells) -> Costs:
        """What each leaf cost: as the days are likely to come to, and as they come to where more is
        there already than usual."""
        likely: dict[Leaf, Numbers] = {}
        cautious: dict[Leaf, Numbers] = {}
        for slug, bill in sorted(self.bills.items()):
            mine = [each for each in self.chosen if each.delivery.bill.slug == slug]
            held = [cells.of(each) for each in mine]
            leaves_held = [leaves for leaves, _ in held]
            numbers = np.unique(np.concatenate([np.zeros(0, np.int64), *leaves_held]))
            blank = np.where(self._known(bill), 0.0, np.nan)
            middle = np.tile(blank, (len(numbers), 1))
            high = middle.copy()
            for partition, (leaves, amounts) in zip(mine, held, strict=True):
                place = (partition.day - self.first).days
                share = bill.days[partition.day][partition.delivery.id].share
                rows = np.searchsorted(numbers, leaves)
                middle[rows, place] += amounts / (share.middle if share else 1.0)
                high[rows, place] += amounts / (max(share.high, share.middle) if share else 1.0)
            for row, number in enumerate(numbers.tolist()):
                leaf = cells.leaves[number]
                self._in_bills.setdefault(leaf, set()).add(slug)
                for costs, values in ((likely, middle[row]), (cautious, high[row])):
                    costs[leaf] = costs[leaf] + values if leaf in costs else values
        return Costs(self.first, likely, cautious)

    def bills_of(self, currency: str, where: Where) -> set[str]:
        """The bills that a node is in; all, where it is in none."""
        return {
            slug
            for (coin, values), several in self._in_bills.items()
            if coin == currency and values[: len(where)] == where
            for slug in several
        } or set(self.bills)

    def covers(self, slug: str, day: date) -> bool:
        """Whether a bill says what a day cost."""
        bill = self.bills[slug]
        return bill.first <= day <= bill.until and bool(bill.of(day))

    def amounts(
        self,
        cells: Cells,
        judged: Judged,
        currency: str,
        where: Where,
        since: date,
        until: date,
    ) -> Amounts:
        """What a node's days are in this state."""
        span = days_between(since, until)
        slugs = self.bills_of(currency, where)
        told = [each for slug in slugs for day in span for each in self.bills[slug].of(day)]
        unsure = [each.because for each in told if not each.final]
        brought = [each for each in self.state.brought if each.bill.slug in slugs]
        changed = [each for each in brought if set(span) & set(each.changed_days)]
        labels = tuple(
            map(label, changed or [each for each in brought if set(span) & set(each.days)])
        )
        cost: Decimal | None = None
        likely = expected = None
        if where in judged.nodes(currency):
            cost = cells.exact(self.chosen, currency, where, since, until)
            if node := judged.node(currency, where, since, until):
                likely, expected = node.likely, node.expected
        elif all(bill.first <= since and until <= bill.until for bill in self.bills.values()):
            # The bill has no such item any more.
            cost, likely, expected = Decimal(0), 0.0, 0.0
        because = unsure[0] if unsure else told[0].because if told else Because.UNKNOWN
        return Amounts(cost, likely, expected, bool(told) and not unsure, because.value, labels)

    def _known(self, bill: Coverage) -> npt.NDArray[np.bool_]:
        return np.array(
            [
                bill.first <= day <= bill.until
                and bool(told := bill.of(day))
                and all(each.judged for each in told)
                for day in days_between(self.first, self.until)
            ]
        )


def see(state: State, histories: Histories, statuses: Statuses, measure: Measure) -> Seen | None:
    """Look at a state of the ledger; None where it holds no usage. What came later than the state
    is left out."""
    stands = standing(state.current)
    edges = _edges(stands)
    if not edges:
        return None
    until = max(last for _, last in edges.values())
    first = max(min(first for first, _ in edges.values()), until - timedelta(days=HISTORY_DAYS - 1))
    knowledge = Knowledge.at(histories, statuses, state.at)
    bills = {slug: Coverage(edge[0], edge[1], {}) for slug, edge in edges.items()}
    for delivery in stands:
        if bill := bills.get(delivery.bill.slug):
            for day, known in knowledge.finality(delivery):
                bill.days.setdefault(day, {})[delivery.id] = known
    chosen = [each for each in partitions(stands, first, until) if measure in each.measures]
    return Seen(state, first, until, chosen, bills, knowledge.curves)


def _edges(deliveries: Sequence[Delivery]) -> dict[str, tuple[date, date]]:
    found: dict[str, tuple[date, date]] = {}
    for delivery in deliveries:
        if days := used_days(delivery):
            slug = delivery.bill.slug
            first, last = found.get(slug, (min(days), max(days)))
            found[slug] = (min(first, *days), max(last, *days))
    return found
