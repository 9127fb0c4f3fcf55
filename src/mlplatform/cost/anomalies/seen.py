"""What a state of the ledger says: what each leaf cost on each day, and how much of it is there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from decimal import Decimal

import numpy as np
import numpy.typing as npt

from mlplatform.cost.anomalies.cells import Cells, Where
from mlplatform.cost.anomalies.findings import Costs, Judged, Leaf, Numbers
from mlplatform.cost.anomalies.verdicts import Amounts
from mlplatform.cost.cube import Measure
from mlplatform.cost.ledger import Bill, Delivery, Partition, PeriodStatus, partitions, standing
from mlplatform.cost.restatement.curves import Curve, curves
from mlplatform.cost.restatement.finality import Because, Finality, finality, is_closed
from mlplatform.cost.restatement.states import State

HISTORY_DAYS = 400
"""What the detector is given: it forgets within about a year."""

Statuses = Mapping[tuple[str, str], PeriodStatus]


def label(delivery: Delivery) -> str:
    """A delivery for people."""
    return f"{delivery.bill} {delivery.period}, delivery {delivery.number}"


def days_between(since: date, until: date) -> list[date]:
    """Both included."""
    return [since + timedelta(days=each) for each in range((until - since).days + 1)]


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


def see(
    state: State,
    histories: Mapping[tuple[Bill, str, str], Sequence[Delivery]],
    statuses: Statuses,
    measure: Measure,
) -> Seen | None:
    """Look at a state of the ledger; None where it holds no usage. `histories` are deliveries by
    bill, period and part, the oldest first: those that came later than the state are left out."""
    stands = standing(state.current)
    edges = _edges(stands)
    if not edges:
        return None
    until = max(last for _, last in edges.values())
    first = max(min(first for first, _ in edges.values()), until - timedelta(days=HISTORY_DAYS - 1))
    then = {
        key: [each for each in several if each.imported <= state.at]
        for key, several in histories.items()
    }
    said = {key: each for key, each in statuses.items() if each.imported <= state.at}
    closed = [key for key, each in said.items() if each.status.casefold() == "closed"]
    learnt = curves(_by_period(then), closed)
    bills = {slug: Coverage(edge[0], edge[1], {}) for slug, edge in edges.items()}
    for delivery in stands:
        bill = bills.get(delivery.bill.slug)
        if bill is None:
            continue
        before = [
            each
            for each in then.get((delivery.bill, delivery.period, delivery.part), ())
            if each.number < delivery.number
        ]
        is_final = is_closed(delivery, said)
        curve = learnt.get(delivery.bill.provider)
        for day in _days_of(delivery):
            bill.days.setdefault(day, {})[delivery.id] = finality(
                day, delivery, before=before, curve=curve, closed=is_final
            )
    chosen = [each for each in partitions(stands, first, until) if measure in each.measures]
    return Seen(state, first, until, chosen, bills, learnt)


def _edges(deliveries: Sequence[Delivery]) -> dict[str, tuple[date, date]]:
    found: dict[str, tuple[date, date]] = {}
    for delivery in deliveries:
        days = [day for day, told in delivery.days.items() if told.usage_charges]
        if days:
            first, last = found.get(delivery.bill.slug, (days[0], days[0]))
            found[delivery.bill.slug] = (min(first, *days), max(last, *days))
    return found


def _days_of(delivery: Delivery) -> Iterator[date]:
    """The days that a delivery covers: those of its period, of which some may have cost nothing,
    and those outside of it that it has charges of."""
    start = date.fromisoformat(f"{delivery.period}-01")
    end = (start + timedelta(days=32)).replace(day=1) - timedelta(days=1)
    yield from sorted({*days_between(start, end), *delivery.days})


def _by_period(
    histories: Mapping[tuple[Bill, str, str], Sequence[Delivery]],
) -> dict[tuple[Bill, str], Sequence[Delivery]]:
    """One history for each period of a bill, of its longest part: forms are not compared with each
    other."""
    found: dict[tuple[Bill, str], Sequence[Delivery]] = {}
    for (bill, period, _), several in histories.items():
        if len(several) > len(found.get((bill, period), ())):
            found[bill, period] = several
    return found
