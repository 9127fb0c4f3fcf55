"""From the ledger to what a page says: which tables it has."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import date, datetime, timedelta

from mlplatform.cost.daily import costs_by_day
from mlplatform.cost.ledger import Delivery
from mlplatform.cost.report.content import Content, Incident, content_of
from mlplatform.cost.spending import Spender, Spending

_ALWAYS = ("region", "service", "provider")
_FIRST_TAGS = ("model", "team")
_TABLES_MOST = 8


def dimensions_of(tags: Sequence[str], asked: Sequence[str]) -> list[str]:
    """By what a page has tables: what everybody asks, every tag that the topology names, and what
    was asked for this time."""
    known = [each for each in _FIRST_TAGS if each in tags]
    known += [each for each in tags if each not in known]
    wanted = [name.strip().lower().replace("-", "_") for name in asked]
    names = dict.fromkeys([*_ALWAYS, *known, *wanted])
    return [name for name in names if name != "day"][:_TABLES_MOST]


def make_content(
    spender: Spender,
    deliveries: Sequence[Delivery],
    spending: Spending,
    made: datetime,
    *,
    provisional: Collection[date] = (),
    incidents: Sequence[Incident] | None = None,
    clean: Callable[[str], str] = str,
) -> Content:
    """What a page of a report says: of its own days, beside as many days before them."""
    since = spending.since - timedelta(days=spending.asked.days)
    measure = spending.asked.measure
    found = [
        costs_by_day(spender, deliveries, [name], since, spending.until, measure)
        for name in dimensions_of(spender.tags, spending.asked.by)
    ]
    untold = [
        f"No tag is said to be the {name} (`cost.tags` in the topology), so nothing is told by "
        f"{name}."
        for name in _FIRST_TAGS
        if name not in spender.tags
    ]
    if incidents is None:
        untold.append("Nobody looked for unusual costs for this page.")
    # With one provider there is nothing to compare.
    told = [each for each in found if each.by != ("provider",) or len(each.rows) > 1]
    return content_of(
        spending,
        told,
        made,
        provisional=frozenset(provisional),
        incidents=incidents,
        untold=untold,
        clean=clean,
    )
