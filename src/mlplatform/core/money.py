"""Money: dated list prices, and what a plan or a placement costs by them. Pure.

An amount is a Decimal in a currency; amounts in two currencies are never added up, since what one
is worth in the other is no list price. What has no price is Unknown, with the reason, and every
total says what it leaves out.

A price is for a *zone*: what price lists call a region, `us-east-1`, or `aws/us-east-1` where two
providers use one name. What is priced is named by a SKU of ours, so that one rule reads the tables
of every provider:

    storage               bytes kept in the standard class of the region's object store, a month
    transfer/ZONE         bytes sent from the zone to that one
    transfer/region       … to any other zone of the same provider
    transfer/internet     … to anywhere else
    transfer/in           bytes that come in from anywhere
    requests/write        requests that put or list objects; requests/read: those that get them
    requests/billing      questions to a provider's billing API
    gpu/PRODUCT           a GPU of that product for an hour, with the machine around it
    instance/TYPE         a machine for an hour
    server/MODEL          a server of that model for an hour: from the operator's own table only
    volume/TYPE, snapshot bytes provisioned or kept, a month
    address               a public IPv4 address for an hour
    load-balancer/TYPE    a load balancer for an hour, without what passes through it

Where a list has tiers, the price is the first one's, the dearest: what a plan costs at most.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal, InvalidOperation
from enum import StrEnum

from mlplatform.core.errors import UsageError
from mlplatform.core.plan import JSON, Action, Consumption
from mlplatform.core.seen import Unknown
from mlplatform.core.topology import Region, Topology

COLUMNS = ("provider", "region", "sku", "unit", "price", "currency", "valid_from", "source")
"""Of a table of prices. More are allowed, and are notes."""

HOURS_A_MONTH = Decimal(730)
"""As the providers' own calculators count: 365 × 24 ÷ 12."""

ANYWHERE = "*"
"""As a region in a table: every region of the provider."""

_GB, _GIB = Decimal(10**9), Decimal(2**30)


class Measure(StrEnum):
    """What a unit counts."""

    BYTES = "bytes"
    BYTE_MONTHS = "bytes for a month"
    REQUESTS = "requests"
    HOURS = "hours"


UNITS: Mapping[str, tuple[Measure, Decimal]] = {
    "GB": (Measure.BYTES, _GB),
    "GiB": (Measure.BYTES, _GIB),
    "GB-month": (Measure.BYTE_MONTHS, _GB),
    "GiB-month": (Measure.BYTE_MONTHS, _GIB),
    "request": (Measure.REQUESTS, Decimal(1)),
    "1000 requests": (Measure.REQUESTS, Decimal(1000)),
    "10000 requests": (Measure.REQUESTS, Decimal(10_000)),
    "hour": (Measure.HOURS, Decimal(1)),
}
"""What a price may be for: what it counts, and how many. AWS's GB is a GiB (S3 FAQ, "How will I be
charged and billed", where 10 TB are 10,995,116,277,760 bytes)."""

SKUS: Mapping[str, Measure] = {
    "storage": Measure.BYTE_MONTHS,
    "volume": Measure.BYTE_MONTHS,
    "snapshot": Measure.BYTE_MONTHS,
    "transfer": Measure.BYTES,
    "requests": Measure.REQUESTS,
    "gpu": Measure.HOURS,
    "instance": Measure.HOURS,
    "server": Measure.HOURS,
    "address": Measure.HOURS,
    "load-balancer": Measure.HOURS,
}
"""By the first word of a SKU: what its unit must count."""


@dataclass(frozen=True, slots=True)
class Amount:
    """So much money."""

    value: Decimal
    currency: str

    def __mul__(self, times: Decimal | int) -> Amount:
        return Amount(self.value * times, self.currency)

    def __str__(self) -> str:
        if self.value and abs(self.value) < Decimal("0.005"):
            return f"{'-' if self.value < 0 else ''}<0.01 {self.currency}"
        return f"{self.value:,.2f} {self.currency}"


@dataclass(frozen=True, slots=True)
class Price:
    """A line of a table."""

    provider: str
    region: str
    sku: str
    unit: str
    price: Decimal
    currency: str
    valid_from: date
    source: str
    """The page that says so, or where the operator has it from."""

    def of(self, quantity: Decimal | int) -> Amount:
        """What so many bytes, requests or hours cost."""
        return Amount(self.price * quantity / UNITS[self.unit][1], self.currency)


@dataclass(frozen=True, slots=True)
class Prices:
    """Tables of prices. Where the operator's own knows a SKU in a zone, the shipped one is not
    asked."""

    own: Sequence[Price] = ()
    listed: Sequence[Price] = ()
    _by_key: tuple[Mapping[tuple[str, str], Sequence[Price]], ...] = field(init=False, repr=False)
    _providers: Mapping[str, frozenset[str]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        indexes: list[dict[tuple[str, str], list[Price]]] = [{}, {}]
        providers: dict[str, set[str]] = {}
        for index, table in zip(indexes, (self.own, self.listed), strict=True):
            for price in table:
                index.setdefault((price.region, price.sku), []).append(price)
                providers.setdefault(price.region, set()).add(price.provider)
        object.__setattr__(self, "_by_key", tuple(indexes))
        known = {region: frozenset(named) for region, named in providers.items()}
        object.__setattr__(self, "_providers", known)

    def providers(self, zone: str) -> frozenset[str]:
        """Whose zone it is, as far as the tables know."""
        named, slash, _ = zone.partition("/")
        return frozenset({named}) if slash else self._providers.get(zone, frozenset())

    def find(self, zone: str, sku: str, day: date) -> Price | Unknown:
        """The price in a zone on a day: the last one that is valid by then."""
        named, slash, rest = zone.partition("/")
        region, wanted = (rest, {named}) if slash else (zone, set(self.providers(zone)))
        for index in self._by_key:
            for place in (region, ANYWHERE):
                found = [
                    price
                    for price in index.get((place, sku), ())
                    if price.provider in wanted and price.valid_from <= day
                ]
                several = sorted({price.provider for price in found})
                if len(several) > 1:
                    return Unknown(
                        f"{sku} in {zone}: {' and '.join(several)} price it; say whose zone it is "
                        f"by `price_zone: {several[0]}/{zone}`"
                    )
                if found:
                    return max(found, key=lambda price: price.valid_from)
        return Unknown(f"{sku} in {zone}: no price for {day}")

    def find_transfer(self, source: str, target: str, day: date) -> Price | Unknown:
        """The price of what is sent from one zone to another."""
        exact = self.find(source, f"transfer/{target.rpartition('/')[2]}", day)
        if isinstance(exact, Price):
            return exact
        ours, theirs = self.providers(source), self.providers(target)
        if source == target or not ours or not theirs:
            return Unknown(f"transfer from {source} to {target}: no price for {day}")
        if ours & theirs:
            found = self.find(source, "transfer/region", day)
        else:
            found = self.find(source, "transfer/internet", day)
        if isinstance(found, Unknown):
            return Unknown(f"transfer from {source} to {target}: no price for {day}")
        return found


def parse_prices(text: str, called: str) -> list[Price]:
    """The lines of a table. `UsageError` names the line and what is wrong with it."""
    reader = csv.DictReader(io.StringIO(text.removeprefix("\ufeff"), newline=""), strict=True)
    try:
        missing = set(COLUMNS) - set(reader.fieldnames or ())
        if missing:
            raise UsageError(
                f"{called}: no column {', '.join(sorted(missing))}",
                hint=f"the first line is: {','.join(COLUMNS)}",
            )
        return [_price(row, f"{called}: line {reader.line_num}") for row in reader]
    except csv.Error as error:
        raise UsageError(
            f"{called}: line {reader.line_num + 1}: {error}", hint="save it as CSV in UTF-8"
        ) from error


def _price(row: Mapping[str, str | None], where: str) -> Price:
    told = {name: (row[name] or "").strip() for name in COLUMNS}
    empty = [name for name, value in told.items() if not value]
    if empty:
        raise UsageError(
            f"{where}: no {', '.join(empty)}", hint="a price without its source is a rumour"
        )
    measure = SKUS.get(told["sku"].partition("/")[0])
    if measure is None:
        raise UsageError(f"{where}: sku {told['sku']!r}", hint=f"begins with one of {_list(SKUS)}")
    unit = UNITS.get(told["unit"])
    if unit is None or unit[0] is not measure:
        fitting = [name for name, (counts, _) in UNITS.items() if counts is measure]
        raise UsageError(
            f"{where}: unit {told['unit']!r} of {told['sku']}", hint=f"one of {_list(fitting)}"
        )
    if len(told["currency"]) != 3 or not told["currency"].isupper():
        raise UsageError(f"{where}: currency {told['currency']!r}", hint="by ISO 4217, as USD")
    try:
        price = Decimal(told["price"])
        day = date.fromisoformat(told["valid_from"])
    except (InvalidOperation, ValueError) as error:
        raise UsageError(
            f"{where}: price {told['price']!r} from {told['valid_from']!r}",
            hint="write them as 0.023 and 2026-10-01",
        ) from error
    if not price.is_finite() or price < 0:
        raise UsageError(f"{where}: {price} is no price", hint="what is free costs 0")
    return Price(
        provider=told["provider"],
        region=told["region"],
        sku=told["sku"],
        unit=told["unit"],
        price=price,
        currency=told["currency"],
        valid_from=day,
        source=told["source"],
    )


def _list(names: Iterable[str]) -> str:
    return ", ".join(names)


_LOCAL = frozenset({"file", "memory"})


def zone_of(region: Region) -> str | Unknown:
    """The zone by which a region is priced: what the topology says, else the region's own name
    where its store is a cloud's own. A folder or a server of one's own has no list price."""
    if region.price_zone or region.cost_region:
        return region.prices_as
    if region.store.scheme in _LOCAL or "endpoint" in region.store.options:
        return Unknown(f"{region.name}: no price zone; give regions.{region.name}.price_zone")
    return region.prices_as


class Basis(StrEnum):
    """How often it is paid."""

    ONCE = "once"
    MONTHLY = "monthly"


@dataclass(frozen=True, slots=True)
class Item:
    """One thing that costs."""

    what: str
    basis: Basis
    amount: Amount | Unknown
    prices: tuple[Price, ...] = ()
    """The lines that it was priced by."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What several things cost together, and what of it nobody knows."""

    items: tuple[Item, ...] = ()

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.items + other.items)

    def total(self, basis: Basis) -> dict[str, Decimal]:
        """By currency: the sum of what is known."""
        found: dict[str, Decimal] = {}
        for item in self.items:
            if item.basis is basis and isinstance(item.amount, Amount):
                before = found.get(item.amount.currency, Decimal(0))
                found[item.amount.currency] = before + item.amount.value
        return found

    @property
    def left_out(self) -> tuple[str, ...]:
        """Why something is in no total, each reason once."""
        reasons = [each.amount.reason for each in self.items if isinstance(each.amount, Unknown)]
        return tuple(dict.fromkeys(reasons))

    @property
    def prices(self) -> tuple[Price, ...]:
        """The lines of the tables that it was priced by."""
        return tuple(dict.fromkeys(price for item in self.items for price in item.prices))

    def as_json(self) -> JSON:
        """For programs: amounts as text, to their last digit."""
        return {
            "said": str(self),
            **{
                basis.value: {code: exact(sum_) for code, sum_ in self.total(basis).items()}
                for basis in Basis
            },
            "left_out": list(self.left_out),
            "items": [
                {
                    "what": item.what,
                    "basis": item.basis.value,
                    "amount": exact(item.amount.value) if isinstance(item.amount, Amount) else None,
                    "currency": item.amount.currency if isinstance(item.amount, Amount) else None,
                    "unknown": item.amount.reason if isinstance(item.amount, Unknown) else None,
                    "sources": [price.source for price in item.prices],
                }
                for item in self.items
            ],
        }

    def __str__(self) -> str:
        """For people: `1.20 USD once, 0.46 USD a month`, `unknown`, or both."""
        parts = []
        for basis, word in ((Basis.ONCE, "once"), (Basis.MONTHLY, "a month")):
            sums = [str(Amount(value, code)) for code, value in self.total(basis).items()]
            if sums:
                parts.append(f"{' + '.join(sums)} {word}")
        if self.left_out:
            parts.append("+ unknown" if parts else "unknown")
        return ", ".join(parts).replace(", + ", " + ") or "nothing"


def exact(value: Decimal) -> str:
    """An amount to its last digit, without an exponent."""
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


@dataclass(frozen=True, slots=True)
class Pricing:
    """Tables of prices, over a topology, on a day."""

    prices: Prices
    topology: Topology
    day: date

    def zone(self, region: str) -> str | Unknown:
        """The zone by which a region of the topology is priced."""
        section = self.topology.regions.get(region)
        return Unknown(f"{region}: no such region") if section is None else zone_of(section)

    def storage(self, region: str, size_bytes: int | Decimal) -> Item:
        """Bytes kept in a region's store."""
        return self._by_zone(
            f"storage in {region}", Basis.MONTHLY, region, "storage", Decimal(size_bytes)
        )

    def servers(self, region: str, model: str, servers: int | Decimal) -> Item:
        """Servers of a model, kept for a month: by the operator's price of one, else by the GPUs
        that the topology says one takes."""
        what = f"{servers} server{'s' * (servers != 1)} of {model} in {region}"
        zone = self.zone(region)
        if isinstance(zone, Unknown):
            return Item(what, Basis.MONTHLY, zone)
        hours = Decimal(servers) * HOURS_A_MONTH
        own = self.prices.find(zone, f"server/{model}", self.day)
        if isinstance(own, Price):
            return Item(what, Basis.MONTHLY, own.of(hours), (own,))
        section = self.topology.models.get(model)
        if section is None or not section.gpus:
            return Item(
                what,
                Basis.MONTHLY,
                Unknown(
                    f"server/{model} in {zone}: no price, and models.{model}.gpus does not say "
                    "what one takes"
                ),
            )
        lines: list[Price] = []
        total = Decimal(0)
        for product, count in section.gpus.items():
            price = self.prices.find(zone, f"gpu/{product}", self.day)
            if isinstance(price, Unknown):
                return Item(what, Basis.MONTHLY, price)
            if lines and price.currency != lines[0].currency:
                return Item(what, Basis.MONTHLY, Unknown(f"{what}: GPUs in two currencies"))
            lines.append(price)
            total += price.of(hours * count).value
        return Item(what, Basis.MONTHLY, Amount(total, lines[0].currency), tuple(lines))

    def of(self, use: Consumption) -> Item:
        """What an action uses up."""
        quantity = Decimal(str(use.amount))
        if use.resource == "transfer":
            return self._transfer(use, quantity)
        if use.resource == "storage":
            return self.storage(use.region, quantity)
        if use.resource == "requests":
            sku = f"requests/{use.product}"
            what = f"{use.product} requests in {use.region}"
            return self._by_zone(what, Basis.ONCE, use.region, sku, quantity)
        if use.resource == "server" and use.product is not None:
            return self.servers(use.region, use.product, quantity)
        if use.resource == "gpu":
            what = f"{use.product} in {use.region}"
            hours = quantity / 3600
            return self._by_zone(what, Basis.ONCE, use.region, f"gpu/{use.product}", hours)
        what = f"{use.resource} in {use.region}"
        return Item(what, Basis.ONCE, Unknown(f"{what}: nothing prices it"))

    def plan(self, actions: Iterable[Action]) -> Cost:
        """What the actions of a plan cost at most, and then each month."""
        return Cost(tuple(self._uses(actions)))

    def _uses(self, actions: Iterable[Action]) -> Iterator[Item]:
        for action in actions:
            for use in action.consumes:
                if use.amount:
                    yield self.of(use)

    def _transfer(self, use: Consumption, quantity: Decimal) -> Item:
        what = f"transfer from {use.source_region or 'outside'} to {use.region}"
        target = self.zone(use.region)
        if isinstance(target, Unknown):
            return Item(what, Basis.ONCE, target)
        if use.source_region is None:
            return self._by_zone(what, Basis.ONCE, use.region, "transfer/in", quantity)
        source = self.zone(use.source_region)
        if isinstance(source, Unknown):
            return Item(what, Basis.ONCE, source)
        return _item(
            what, Basis.ONCE, self.prices.find_transfer(source, target, self.day), quantity
        )

    def _by_zone(self, what: str, basis: Basis, region: str, sku: str, quantity: Decimal) -> Item:
        zone = self.zone(region)
        if isinstance(zone, Unknown):
            return Item(what, basis, zone)
        return _item(what, basis, self.prices.find(zone, sku, self.day), quantity)


def _item(what: str, basis: Basis, price: Price | Unknown, quantity: Decimal) -> Item:
    if isinstance(price, Unknown):
        return Item(what, basis, price)
    return Item(what, basis, price.of(quantity), (price,))
