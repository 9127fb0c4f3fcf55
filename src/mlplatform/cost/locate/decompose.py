"""A change of cost taken apart so that nothing is left over: by dimension, and into price, quantity
and mix. Pure; money is Decimal from end to end, and every sum is exact.

Shares are rounded for people and still add up to 100: what rounding leaves goes to those who lost
most by it (the largest remainder).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

ZERO = Decimal(0)
SHARE_QUANTUM = Decimal("0.1")
"""Shares are told to a tenth of a percent."""
MONEY_QUANTUM = Decimal("0.000001")
"""Effects of price and mix are products, and are rounded to this before they are made to add up."""


@dataclass(frozen=True, slots=True)
class Line:
    """What one leaf cost in a period."""

    values: tuple[str, ...]
    """In the order of the bill's dimensions."""
    cost: Decimal
    quantity: Decimal | None = None
    """None where the bill states none."""
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Bill:
    """The leaves of a period. Lines with the same values and unit are added up."""

    dimensions: tuple[str, ...]
    lines: tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class Contribution:
    """What one value of a dimension has to do with a change."""

    value: str
    before: Decimal
    after: Decimal
    share: Decimal | None
    """Percent of the whole change; below 0 where it went the other way. None where the whole did
    not change."""

    @property
    def change(self) -> Decimal:
        return self.after - self.before


def by_dimension(before: Bill, after: Bill) -> dict[str, tuple[Contribution, ...]]:
    """The change by each value of each dimension, largest first. The changes of a dimension add up
    to the whole change, and their shares to 100. `ValueError` if the dimensions differ."""
    _same_dimensions(before, after)
    result = {}
    for place, dimension in enumerate(before.dimensions):
        then: dict[str, Decimal] = defaultdict(lambda: ZERO)
        now: dict[str, Decimal] = defaultdict(lambda: ZERO)
        for line in before.lines:
            then[line.values[place]] += line.cost
        for line in after.lines:
            now[line.values[place]] += line.cost
        values = list(dict.fromkeys([*then, *now]))
        shares = percentages([now[value] - then[value] for value in values])
        parts = [
            Contribution(value, then[value], now[value], share)
            for value, share in zip(values, shares, strict=True)
        ]
        result[dimension] = tuple(sorted(parts, key=lambda part: (-abs(part.change), part.value)))
    return result


def percentages(changes: Sequence[Decimal]) -> list[Decimal | None]:
    """Shares of the sum, which add up to exactly 100; all None where the sum is 0."""
    whole = sum(changes, ZERO)
    if not whole:
        return [None] * len(changes)
    exact = [Fraction(each) * 100 / Fraction(whole) for each in changes]
    return list(_adding_up(exact, Decimal(100), SHARE_QUANTUM))


def _adding_up(exact: Sequence[Fraction], total: Decimal, quantum: Decimal) -> list[Decimal]:
    """Rounded numbers with that total: rounded down, and the rest by the largest remainder."""
    step = Fraction(quantum)
    floors = [each // step for each in exact]
    missing = int(Fraction(total) // step) - sum(floors)
    order = sorted(range(len(exact)), key=lambda i: (floors[i] * step - exact[i], i))
    for i in order[:missing]:
        floors[i] += 1
    rounded = [floor * quantum for floor in floors]
    # What is finer than the quantum in the total itself.
    if rounded:
        rounded[order[0]] += total - sum(rounded, ZERO)
    return rounded


@dataclass(frozen=True, slots=True)
class Effects:
    """A change of cost by what made it. They add up to the change."""

    price: Decimal
    """The same leaves at other prices, at the quantity after."""
    quantity: Decimal
    """More or fewer units, at the average price before."""
    mix: Decimal
    """Other shares of dear and cheap leaves in as many units."""
    new: Decimal
    """Leaves that were not there before."""
    gone: Decimal
    """Leaves that are not there any more."""
    unmeasured: Decimal
    """Leaves whose quantity the bill does not state: nobody can say."""

    @property
    def change(self) -> Decimal:
        return self.price + self.quantity + self.mix + self.new + self.gone + self.unmeasured


def effects(before: Bill, after: Bill) -> Effects:
    """Price, quantity and mix of a change, within each unit; units are never added to each other.

    For a unit with leaves i in both periods, p the unit prices and Q the sum of quantities q:
    price is Σ (p₁ - p₀) q₁; quantity is (Q₁ - Q₀) C₀/Q₀; mix is Σ p₀ q₁ - Q₁ C₀/Q₀.
    """
    _same_dimensions(before, after)
    then, now = _summed(before), _summed(after)
    price = quantity = mix = Fraction(0)
    new = gone = unmeasured = ZERO
    pairs: dict[str, list[tuple[_Sum, _Sum]]] = defaultdict(list)
    for key in dict.fromkeys([*then, *now]):
        was, became = then.get(key), now.get(key)
        if was is None and became is not None:
            new += became.cost
        elif became is None and was is not None:
            gone -= was.cost
        elif was is not None and became is not None:
            if was.quantity and became.quantity:
                pairs[key[1]].append((was, became))
            else:
                unmeasured += became.cost - was.cost
    for unit in pairs.values():
        cost = sum((Fraction(was.cost) for was, _ in unit), Fraction(0))
        units = sum((Fraction(was.quantity or ZERO) for was, _ in unit), Fraction(0))
        units_after = sum((Fraction(is_.quantity or ZERO) for _, is_ in unit), Fraction(0))
        if not units:
            unmeasured += sum((is_.cost - was.cost for was, is_ in unit), ZERO)
            continue
        average = cost / units
        at_old_prices = sum(
            (
                Fraction(was.cost) / Fraction(was.quantity or 1) * Fraction(is_.quantity or 0)
                for was, is_ in unit
            ),
            Fraction(0),
        )
        price += sum((Fraction(is_.cost) for _, is_ in unit), Fraction(0)) - at_old_prices
        quantity += (units_after - units) * average
        mix += at_old_prices - units_after * average
    measured = (
        sum((line.cost for line in after.lines), ZERO)
        - sum((line.cost for line in before.lines), ZERO)
        - new
        - gone
        - unmeasured
    )
    rounded = _adding_up([price, quantity, mix], measured, MONEY_QUANTUM)
    return Effects(rounded[0], rounded[1], rounded[2], new, gone, unmeasured)


@dataclass(slots=True)
class _Sum:
    cost: Decimal
    quantity: Decimal | None


def _summed(bill: Bill) -> Mapping[tuple[tuple[str, ...], str], _Sum]:
    sums: dict[tuple[tuple[str, ...], str], _Sum] = {}
    for line in bill.lines:
        found = sums.get((line.values, line.unit))
        if found is None:
            sums[line.values, line.unit] = _Sum(line.cost, line.quantity)
            continue
        found.cost += line.cost
        known = found.quantity is not None and line.quantity is not None
        found.quantity = found.quantity + line.quantity if known else None  # type: ignore[operator]
    return sums


def _same_dimensions(before: Bill, after: Bill) -> None:
    if before.dimensions != after.dimensions:
        raise ValueError(f"dimensions differ: {before.dimensions} and {after.dimensions}")
