"""Why a cost changed, by name: rules over the same items before and after. Pure.

Each rule takes from the change of its items what it explains, in the order below, and what is left
is told as unexplained: the amounts of all causes add up to the whole change.

1. spot → on-demand: hours of a machine that were spot are on-demand now; the dearer price is it.
2. another type: hours went from one machine to another at the same place; the dearer price is it.
3. price: the same unit costs another amount; on the hours that there were both times.
4. transfer between regions: what is left of items that carry bytes from region to region.
5. forgotten resource: new cost of a resource that nobody uses.
6. new item, gone item: there was, or is, nothing.
7. more of the same, less of the same: other quantities at the old price: autoscaling, mostly.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from enum import StrEnum

ZERO = Decimal(0)
_MONEY = Decimal("0.000001")
"""What products are rounded to, so that all that is taken and left adds up exactly."""
_LISTED = 2
"""So many resources of one kind are named in a sentence."""


class Pricing(StrEnum):
    """How a machine is paid for."""

    ON_DEMAND = "on-demand"
    SPOT = "spot"
    COMMITTED = "committed"
    UNKNOWN = "unknown"


class Kind(StrEnum):
    """What an item is."""

    MACHINE = "machine"
    TRANSFER = "transfer between regions"
    OTHER = "other"


class Name(StrEnum):
    """The named causes."""

    SPOT_TO_ON_DEMAND = "spot to on-demand"
    ANOTHER_TYPE = "another instance type"
    PRICE = "price change"
    TRANSFER = "cross-region transfer"
    FORGOTTEN = "forgotten resource"
    NEW = "new item"
    GONE = "gone item"
    MORE = "more of the same"
    LESS = "less of the same"
    UNEXPLAINED = "unexplained"


@dataclass(frozen=True, slots=True)
class Item:
    """What one thing cost in a period: a resource, or all of a kind where a bill names none."""

    region: str
    service: str
    sku: str
    """The instance type, or what else the price hangs on."""
    cost: Decimal
    quantity: Decimal | None = None
    unit: str = ""
    pricing: Pricing = Pricing.UNKNOWN
    kind: Kind = Kind.OTHER
    resource: str = ""
    to_region: str = ""
    """Where a transfer goes."""
    model: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known beside the bill."""

    unused: Mapping[str, str] = field(default_factory=dict)
    """Resources that nobody uses, each with what says so."""
    replicated_bytes: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """By our own replication in the period after, from region to region."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened, from the journal or a cluster: what a cause may be joined with."""

    at: datetime
    kind: str
    """rollout, failover, replicate, scale, …"""
    subject: str
    """The model, version, workload or region that it was about."""
    region: str = ""
    operation: str = ""
    """As `mlplatform history --operation` takes it."""
    text: str = ""


@dataclass(frozen=True, slots=True)
class Cause:
    """A part of a change, and why."""

    name: Name
    amount: Decimal
    region: str
    service: str
    parts: tuple[str, ...]
    """The sentence, in parts: what, how, and what is known beside it."""
    items: tuple[Item, ...]
    """As they are now, or were."""
    events: tuple[Event, ...] = ()
    """Joined later."""

    def __str__(self) -> str:
        return "; ".join(self.parts)


_Key = tuple[str, str, str, str, str, str, str, str, str]


def name_causes(
    before: Iterable[Item], after: Iterable[Item], facts: Facts | None = None
) -> tuple[Cause, ...]:
    """The causes of a change, the largest first. Their amounts add up to the change exactly."""
    facts = facts or Facts()
    changes = _changes(before, after)
    found = [
        *_spot_to_on_demand(changes),
        *_another_type(changes),
        *_price(changes),
        *_transfer(changes, facts),
        *_forgotten(changes, facts),
        *_new_and_gone(changes),
        *_more_or_less(changes),
        *_unexplained(changes),
    ]
    together: dict[tuple[Name, str, str, tuple[str, ...]], Cause] = {}
    for cause in found:
        key = (cause.name, cause.region, cause.service, cause.parts)
        if key in together:
            same = together[key]
            cause = replace(  # noqa: PLW2901
                same, amount=same.amount + cause.amount, items=same.items + cause.items
            )
        together[key] = cause
    causes = [cause for cause in together.values() if cause.amount]
    return tuple(sorted(causes, key=lambda cause: (-abs(cause.amount), str(cause))))


@dataclass(slots=True)
class _Change:
    """An item before and after; `left` and `quantity_left` are what no rule has taken yet."""

    was: Item | None
    now: Item | None
    left: Decimal
    quantity_left: Decimal | None

    @property
    def item(self) -> Item:
        found = self.now or self.was
        assert found is not None  # noqa: S101 - one of the two is there
        return found

    @property
    def price_before(self) -> Decimal | None:
        return _price_of(self.was)

    @property
    def price_after(self) -> Decimal | None:
        return _price_of(self.now)

    def take(self, amount: Decimal, quantity: Decimal = ZERO) -> Decimal:
        amount = amount.quantize(_MONEY)
        self.left -= amount
        if self.quantity_left is not None:
            self.quantity_left -= quantity
        return amount


def _price_of(item: Item | None) -> Decimal | None:
    if item is None or not item.quantity:
        return None
    return item.cost / item.quantity


def _changes(before: Iterable[Item], after: Iterable[Item]) -> list[_Change]:
    then, now = _summed(before), _summed(after)
    changes = []
    for key in dict.fromkeys([*then, *now]):
        was, became = then.get(key), now.get(key)
        quantity = _difference(was, became)
        left = (became.cost if became else ZERO) - (was.cost if was else ZERO)
        changes.append(_Change(was, became, left, quantity))
    return changes


def _difference(was: Item | None, now: Item | None) -> Decimal | None:
    """How many more there are; None where one of the two states no quantity."""
    then = ZERO if was is None else was.quantity
    after = ZERO if now is None else now.quantity
    return None if then is None or after is None else after - then


def _summed(items: Iterable[Item]) -> dict[_Key, Item]:
    sums: dict[_Key, Item] = {}
    for item in items:
        key = (
            item.region,
            item.service,
            item.sku,
            item.unit,
            item.pricing.value,
            item.kind.value,
            item.resource,
            item.to_region,
            item.model,
        )
        if key in sums:
            same = sums[key]
            known = same.quantity is not None and item.quantity is not None
            item = replace(  # noqa: PLW2901
                same,
                cost=same.cost + item.cost,
                quantity=same.quantity + item.quantity if known else None,  # type: ignore[operator]
            )
        sums[key] = item
    return sums


def _grouped(
    changes: Iterable[_Change], key: Callable[[Item], tuple[str, ...]]
) -> list[list[_Change]]:
    groups: dict[tuple[str, ...], list[_Change]] = defaultdict(list)
    for change in changes:
        groups[key(change.item)].append(change)
    return list(groups.values())


def _spot_to_on_demand(changes: list[_Change]) -> Iterable[Cause]:
    machines = [change for change in changes if change.item.kind is Kind.MACHINE]
    for group in _grouped(machines, lambda i: (i.region, i.service, i.sku, i.unit)):
        fell = [change for change in group if change.item.pricing is Pricing.SPOT]
        rose = [change for change in group if change.item.pricing is Pricing.ON_DEMAND]
        for cause in _moved(fell, rose):
            hours, old, new, was, item = cause
            amount = was.take(-hours * old, -hours) + item.take(hours * new, hours)
            yield Cause(
                Name.SPOT_TO_ON_DEMAND,
                amount,
                item.item.region,
                item.item.service,
                (
                    (
                        f"{item.item.region} {item.item.sku}: {_plain(hours)} {item.item.unit} "
                        "that were spot are on-demand"
                    ),
                    f"{_plain(old)} → {_plain(new)} each",
                ),
                (item.item,),
            )


def _another_type(changes: list[_Change]) -> Iterable[Cause]:
    machines = [change for change in changes if change.item.kind is Kind.MACHINE]
    for group in _grouped(
        machines, lambda i: (i.region, i.service, i.unit, i.pricing.value, i.model)
    ):
        for hours, old, new, was, item in _moved(group, group):
            amount = was.take(-hours * old, -hours) + item.take(hours * new, hours)
            yield Cause(
                Name.ANOTHER_TYPE,
                amount,
                item.item.region,
                item.item.service,
                (
                    (
                        f"{item.item.region} {item.item.service}: {_plain(hours)} "
                        f"{item.item.unit} on {item.item.sku} in place of {was.item.sku}"
                    ),
                    f"{_plain(old)} → {_plain(new)} each",
                ),
                (item.item,),
            )


def _moved(
    fell: Sequence[_Change], rose: Sequence[_Change]
) -> Iterable[tuple[Decimal, Decimal, Decimal, _Change, _Change]]:
    """Quantities that left one item and turned up at another, with the prices there."""
    for was in fell:
        for item in rose:
            old, new = was.price_before, item.price_after
            same = was is item or (
                was.item.sku == item.item.sku and was.item.pricing is item.item.pricing
            )
            if same or old is None or new is None:
                continue
            if was.quantity_left is None or item.quantity_left is None:
                continue
            hours = min(-was.quantity_left, item.quantity_left)
            if hours > 0:
                yield hours, old, new, was, item


def _price(changes: list[_Change]) -> Iterable[Cause]:
    for change in changes:
        old, new = change.price_before, change.price_after
        if old is None or new is None or change.was is None or change.now is None or old == new:
            continue
        units = min(change.was.quantity or ZERO, change.now.quantity or ZERO)
        # Rounded bills give the same price a little differently.
        if units <= 0 or old <= 0 or abs(new - old) <= old * Decimal("0.001"):
            continue
        percent = ((new - old) * 100 / old).quantize(Decimal("0.1"))
        yield Cause(
            Name.PRICE,
            change.take(units * (new - old)),
            change.item.region,
            change.item.service,
            (
                f"{_named(change.item)}: {_plain(old)} → {_plain(new)} a {change.item.unit}",
                f"{percent:+} %",
            ),
            (change.item,),
        )


def _transfer(changes: list[_Change], facts: Facts) -> Iterable[Cause]:
    for change in changes:
        if change.item.kind is not Kind.TRANSFER or not change.left:
            continue
        way = (change.item.region, change.item.to_region)
        parts = [f"{way[0]} → {way[1] or 'another region'}: bytes between regions"]
        if change.quantity_left is not None:
            parts.append(f"{change.quantity_left:+} {change.item.unit}".replace("+-", "-"))
        if way in facts.replicated_bytes:
            parts.append(f"replication carried {facts.replicated_bytes[way]} bytes there")
        yield Cause(
            Name.TRANSFER,
            change.take(change.left),
            change.item.region,
            change.item.service,
            tuple(parts),
            (change.item,),
        )


def _forgotten(changes: list[_Change], facts: Facts) -> Iterable[Cause]:
    unused = [
        change
        for change in changes
        if change.now is not None and change.left > 0 and change.item.resource in facts.unused
    ]
    for group in _grouped(
        unused, lambda i: (i.region, i.service, i.sku, i.pricing.value, facts.unused[i.resource])
    ):
        item = group[0].item
        names = sorted({change.item.resource for change in group})
        if len(names) == 1:
            said = f"{_named(item)} {names[0]}: nobody uses it"
        else:
            more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
            said = f"{_named(item)}: nobody uses {', '.join(names[:_LISTED])}{more}"
        yield Cause(
            Name.FORGOTTEN,
            sum((change.take(change.left) for change in group), ZERO),
            item.region,
            item.service,
            tuple(part for part in (said, facts.unused[item.resource]) if part),
            tuple(change.item for change in group),
        )


def _new_and_gone(changes: list[_Change]) -> Iterable[Cause]:
    known = {
        (change.was.region, change.was.service, change.was.sku)
        for change in changes
        if change.was is not None
    }
    for change in changes:
        if not change.left or (change.was is not None and change.now is not None):
            continue
        item = change.item
        if change.was is None and (item.region, item.service, item.sku) in known:
            continue  # another resource of a kind that there was: more of the same
        name = Name.NEW if change.was is None else Name.GONE
        if name is Name.GONE and any(
            other.now is not None
            and (other.now.region, other.now.service, other.now.sku)
            == (item.region, item.service, item.sku)
            for other in changes
        ):
            continue
        told = "was not there before" if name is Name.NEW else "is not there any more"
        yield Cause(
            name,
            change.take(change.left),
            item.region,
            item.service,
            (f"{_named(item)} {told}",),
            (item,),
        )


def _more_or_less(changes: list[_Change]) -> Iterable[Cause]:
    for group in _grouped(changes, lambda i: (i.region, i.service, i.sku, i.unit, i.pricing.value)):
        measured = [change for change in group if change.quantity_left is not None]
        quantity = sum((change.quantity_left or ZERO for change in measured), ZERO)
        amount = sum((change.left for change in measured), ZERO)
        if not quantity or not amount or (quantity > 0) != (amount > 0):
            continue
        item = measured[0].item
        had = sum((change.was.quantity or ZERO for change in measured if change.was), ZERO)
        times = f"{(had + quantity) / had:.2f} times as many" if had > 0 else "none before"
        for change in measured:
            change.take(change.left)
        more = quantity > 0
        word = "more" if more else "fewer"
        yield Cause(
            Name.MORE if more else Name.LESS,
            amount,
            item.region,
            item.service,
            (f"{_named(item)}: {_plain(abs(quantity))} {item.unit} {word}", times),
            tuple(change.item for change in measured),
        )


def _unexplained(changes: list[_Change]) -> Iterable[Cause]:
    for change in changes:
        if change.left:
            why = (
                "the bill states no quantity"
                if change.quantity_left is None
                else "not by price, quantity or type"
            )
            yield Cause(
                Name.UNEXPLAINED,
                change.take(change.left),
                change.item.region,
                change.item.service,
                (_named(change.item), why),
                (change.item,),
            )


def _named(item: Item) -> str:
    pricing = "" if item.pricing is Pricing.UNKNOWN else f" ({item.pricing})"
    return f"{item.region or 'no region'} {item.sku or item.service}{pricing}"


def _plain(number: Decimal) -> str:
    """A number without the digits that a division leaves."""
    return f"{number.quantize(Decimal('0.0001')).normalize():f}"
