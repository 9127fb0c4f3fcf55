"""Why an incident cost what it did: taken apart exactly, searched for where it is, named, and put
beside what happened. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal

import numpy as np

from mlplatform.cost.anomalies.comparing import Comparison, Leaf
from mlplatform.cost.anomalies.happened import CHANGES, Known, joined, replicated_bytes
from mlplatform.cost.anomalies.records import Alarm
from mlplatform.cost.locate.causes import (
    Cause,
    Event,
    Facts,
    Item,
    Kind,
    Name,
    Pricing,
    name_causes,
)
from mlplatform.cost.locate.decompose import (
    Bill,
    Contribution,
    Effects,
    Line,
    by_dimension,
    effects,
)
from mlplatform.cost.locate.leaves import Leaves, merged
from mlplatform.cost.locate.ranking import Ranking, rank
from mlplatform.cost.secrecy import masked
from mlplatform.cost.waste.findings import last_part

_PRICING = {
    "standard": Pricing.ON_DEMAND,
    "dynamic": Pricing.SPOT,
    "committed": Pricing.COMMITTED,
}
"""FOCUS's PricingCategory: dynamic prices are those of spot and preemptible machines."""
_BYTES = re.compile(r"\b(?:[kmgtp]i?b|[kmgtp]?bytes?|gigabytes?|terabytes?)\b", re.IGNORECASE)
_TRANSFER = re.compile(r"transfer|egress|inter.?region|bytes|data out", re.IGNORECASE)
_HOURS = re.compile(r"\b(?:hours?|hrs?|h|seconds?)\b", re.IGNORECASE)
_SEARCHED_LEAST = 2
_OTHERS = ("service_category", "meter", "unit")
"""Dimensions that say the same as others: taken apart only where they are asked for."""
_OURS = {*CHANGES, "replicate"}
_SIGNS = {"USD": "$", "EUR": "€", "GBP": "£"}


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why."""

    headline: str
    before: Decimal
    after: Decimal
    compared_with: str
    by: Mapping[str, tuple[Contribution, ...]]
    """The change by every dimension that tells anything apart; each adds up to all of it."""
    effects: Effects
    ranking: Ranking | None
    """Which combinations carry it; None where there is only one."""
    causes: tuple[Cause, ...]
    known: Known

    @property
    def change(self) -> Decimal:
        """What is taken apart."""
        return self.after - self.before


def explain(
    alarm: Alarm,
    comparison: Comparison,
    known: Known,
    aliases: Mapping[str, str],
    unused: Mapping[str, str] | None = None,
) -> Explanation:
    """Explain an incident. `aliases` are what bills call a region, in small letters, and its name;
    `unused` are resources that nobody uses, by the last part of their names, and what says so."""
    before, after = _bills(comparison)
    since = datetime.combine(alarm.since, datetime.min.time(), UTC)
    facts = Facts(_named_in(comparison, unused or {}), replicated_bytes(known))
    then = [
        _item(leaf, aliases, now=False) for leaf in comparison.leaves if leaf.before is not None
    ]
    now = [_item(leaf, aliases, now=True) for leaf in comparison.leaves if leaf.after is not None]
    causes = joined(name_causes(then, now, facts), known, since)
    total_before = sum((line.cost for line in before.lines), Decimal(0))
    total_after = sum((line.cost for line in after.lines), Decimal(0))
    return Explanation(
        headline=headline(alarm, causes, total_after - total_before),
        before=total_before,
        after=total_after,
        compared_with=comparison.reference.text if comparison.reference else "",
        by=_by(comparison, before, after),
        effects=effects(before, after),
        ranking=_ranking(comparison, alarm),
        causes=causes,
        known=known,
    )


def headline(alarm: Alarm, causes: Sequence[Cause], change: Decimal) -> str:
    """One line: what, since when, with what, and what it costs a day."""
    per_day = alarm.now.excess / alarm.days
    money = _money(per_day, alarm.currency)
    leading = next((each for each in causes if each.amount * change > 0), None)
    if leading is None:
        where = " ".join(alarm.where.values()) or "everything"
        return f"{where} on {alarm.since}: nobody knows why; {money}/day"
    line = f"{_what(leading)} on {alarm.since}"
    if events := [each for each in leading.events if each.kind in _OURS] or list(leading.events):
        line += f", with {event_text(events[0], alarm.since)}"
    return f"{line}; {money}/day"


def event_text(event: Event, day: date | None = None) -> str:
    """An event for people: `rollout 7f3a21 of resnet50@v3 at 14:00`."""
    number = f" {event.operation.rpartition('-')[2]}" if event.operation else ""
    at = f"{event.at.astimezone(UTC):%H:%M}"
    if event.at.astimezone(UTC).date() != day:
        at = f"{event.at.astimezone(UTC):%Y-%m-%d} {at}"
    return f"{event.kind}{number} of {event.subject} at {at} UTC"


def _what(cause: Cause) -> str:
    item = cause.items[0]
    if cause.name not in {Name.MORE, Name.LESS}:
        return f"{cause.name}: {cause}"
    named = " ".join(part for part in (item.region, item.sku or item.service) if part)
    unit = item.unit.lower() or "units"
    times = re.match(r"[\d.]+", cause.parts[-1])
    if not times:
        return f"{named} {unit} appeared"
    factor = float(times.group())
    verbs = {2.0: "doubled", 3.0: "tripled", 0.5: "halved"}
    near = [verb for whole, verb in verbs.items() if abs(factor / whole - 1) <= 0.1]
    return f"{named} {unit} {near[0] if near else f'are {factor:.2f} times as many'}"


def _money(amount: Decimal, currency: str) -> str:
    text = f"{abs(amount):,.0f}" if abs(amount) >= 10 else f"{abs(amount):,.2f}"
    sign = "-" if amount < 0 else ""
    return f"{sign}{_SIGNS[currency]}{text}" if currency in _SIGNS else f"{sign}{text} {currency}"


def _named_in(comparison: Comparison, unused: Mapping[str, str]) -> dict[str, str]:
    """Those of the resources that the incident has, by the names that they are shown by."""
    names = {leaf.resource for leaf in comparison.leaves if leaf.resource}
    return {_shown(name): unused[last_part(name)] for name in names if last_part(name) in unused}


def _shown(resource: str) -> str:
    """A resource's name for people: `volume/vol-1`, without whose it is and where."""
    if resource.startswith("arn:"):
        return masked(resource.rpartition(":")[2])
    return masked("/".join(resource.split("/")[-2:]) if resource.startswith("/") else resource)


def _bills(comparison: Comparison) -> tuple[Bill, Bill]:
    def bill(*, now: bool) -> Bill:
        lines = []
        for leaf in comparison.leaves:
            cost = leaf.after if now else leaf.before
            quantity = leaf.after_quantity if now else leaf.before_quantity
            if cost is not None:
                values = tuple(leaf.values[name] for name in comparison.dimensions)
                lines.append(Line(values, cost, quantity, leaf.unit))
        return Bill(comparison.dimensions, tuple(lines))

    return bill(now=False), bill(now=True)


def _by(comparison: Comparison, before: Bill, after: Bill) -> dict[str, tuple[Contribution, ...]]:
    found = by_dimension(before, after)
    if comparison.resources is not None:
        then, now = comparison.resources
        found |= by_dimension(Bill(("resource",), then), Bill(("resource",), now))
    return {
        name: parts
        for name, parts in found.items()
        if name not in _OTHERS and any(part.value for part in parts)
    }


def _item(leaf: Leaf, aliases: Mapping[str, str], *, now: bool) -> Item:
    values = leaf.values
    kind, target = Kind.OTHER, ""
    if _is_transfer(values):
        kind, target = Kind.TRANSFER, _target(values, aliases)
    elif values["instance"] and _HOURS.search(values["unit"]):
        kind = Kind.MACHINE
    cost = leaf.after if now else leaf.before
    return Item(
        region=values["region"],
        service=values["service"],
        sku=values["instance"] or values["sku"] or values["meter"],
        cost=cost if cost is not None else Decimal(0),
        quantity=leaf.after_quantity if now else leaf.before_quantity,
        unit=values["unit"],
        pricing=_PRICING.get(values["pricing"].lower(), Pricing.UNKNOWN),
        kind=kind,
        resource=_shown(leaf.resource),
        to_region=target,
        model=values.get("model", ""),
    )


def _is_transfer(values: Mapping[str, str]) -> bool:
    """Bytes that were carried, and not kept: by what the bill calls them."""
    told = f"{values['service']} {values['meter']} {values['sku']}"
    networking = values["service_category"].lower() == "networking"
    return bool(_BYTES.search(values["unit"]) and (networking or _TRANSFER.search(told)))


def _target(values: Mapping[str, str], aliases: Mapping[str, str]) -> str:
    """The other region that a meter names, by any of the names that bills use: `USE1-EUW1-…`."""
    words = re.split(r"[^a-z0-9-]+", values["meter"].lower())
    words += re.split(r"[^a-z0-9]+", values["meter"].lower())
    named = [aliases[word] for word in words if word in aliases]
    return next((region for region in named if region != values["region"]), "")


def _ranking(comparison: Comparison, alarm: Alarm) -> Ranking | None:
    """Where the change is, against what was expected: the days it is compared with, put to the
    height that was expected of these."""
    if len(comparison.leaves) < _SEARCHED_LEAST:
        return None
    names = [
        name
        for name in comparison.dimensions
        if name not in _OTHERS and len({leaf.values[name] for leaf in comparison.leaves}) > 1
    ]
    if not names:
        return None
    actual = np.array([float(leaf.after or 0) for leaf in comparison.leaves])
    expected = np.array([float(leaf.before or 0) for leaf in comparison.leaves])
    wanted = float(alarm.now.expected)
    if expected.sum() > 0 and wanted > 0:
        expected *= wanted / expected.sum()
    coded = [
        np.unique([leaf.values[name] for leaf in comparison.leaves], return_inverse=True)
        for name in names
    ]
    return rank(
        merged(
            Leaves(
                tuple(names),
                tuple(tuple(values.tolist()) for values, _ in coded),
                tuple(codes.astype(np.int32) for _, codes in coded),
                actual,
                expected,
            )
        )
    )
