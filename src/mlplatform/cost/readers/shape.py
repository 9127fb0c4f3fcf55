"""What readers share: the columns that a file has, and the charges that each reader makes of them.

A reader turns one shape of export into SQL that selects FOCUS columns. Text, times and money are
cleaned and cast here, once: `NULL` as text is nothing, money is DECIMAL, times are UTC.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from mlplatform.core.errors import UsageError
from mlplatform.cost.engine import MONEY, name_of, text_of
from mlplatform.cost.focus.columns import folded

CHARGE: Mapping[str, str] = {
    "BilledCost": MONEY,
    "EffectiveCost": MONEY,
    "ContractedCost": MONEY,
    "ListCost": MONEY,
    "PricingQuantity": MONEY,
    "BillingPeriodStart": "TIMESTAMP",
    "ChargePeriodStart": "TIMESTAMP",
    "BillingCurrency": "VARCHAR",
    "BillingAccountId": "VARCHAR",
    "SubAccountId": "VARCHAR",
    "ServiceProviderName": "VARCHAR",
    "RegionId": "VARCHAR",
    "ServiceCategory": "VARCHAR",
    "ServiceName": "VARCHAR",
    "SkuId": "VARCHAR",
    "SkuMeter": "VARCHAR",
    "ResourceId": "VARCHAR",
    "ChargeCategory": "VARCHAR",
    "ChargeClass": "VARCHAR",
    "PricingCategory": "VARCHAR",
    "PricingUnit": "VARCHAR",
    "CommitmentDiscountId": "VARCHAR",
    "CommitmentDiscountStatus": "VARCHAR",
    "InvoiceId": "VARCHAR",
    "x_InstanceType": "VARCHAR",
}
"""What every reader selects, and as what. `x_InstanceType` is not FOCUS's own: it lies in
SkuPriceDetails there, and elsewhere in the providers' columns."""

WHOLE, ACTUAL, AMORTISED = "whole", "actual", "amortised"
"""What a file is of a bill. Delivered as actual and as amortised costs, it is both files."""

TagNames = Mapping[str, tuple[str, ...]]
"""By the name that reports use: the tags that may hold it, the first one that does."""

UNUSABLE = (
    ("billed-cost", "BilledCost", "no BilledCost that is a number"),
    ("charge-period", "ChargePeriodStart", "no time of charge that can be read"),
    ("currency", "BillingCurrency", "no currency"),
)
"""A row that lacks one of these cannot be counted anywhere, and is left out: rule, column, said."""


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of a relation by name, with DuckDB's types."""

    types: Mapping[str, str]
    date_forms: Mapping[str, str] = field(default_factory=dict)
    """By column: how its dates are written, where not as ISO 8601 says."""
    is_clean: bool = False
    """Whether `NULL` as text has become nothing already, as it does where a CSV is read."""
    _by_folded: dict[str, str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        found: dict[str, str] = {}
        for name in self.types:
            if (first := found.setdefault(folded(name), name)) != name:
                raise UsageError(
                    f"the columns {first!r} and {name!r} have one name",
                    hint="leave one of them out",
                )
        object.__setattr__(self, "_by_folded", found)

    def find(self, *names: str) -> str | None:
        """The column of the first of these names that there is, however it is spelt."""
        for name in names:
            if (found := self._by_folded.get(folded(name))) is not None:
                return found
        return None

    def has(self, *names: str) -> bool:
        """Whether all of these columns are there."""
        return all(self.find(name) is not None for name in names)

    def text(self, *names: str) -> str:
        """The first of these that says something, as text."""
        found = [self._text(name) for each in names if (name := self.find(each)) is not None]
        return _coalesced(dict.fromkeys(found), "VARCHAR")

    def money(self, *names: str) -> str:
        """The first of these columns that there is, as DECIMAL; what is no number is nothing."""
        column = self.find(*names)
        if column is None:
            return f"CAST(NULL AS {MONEY})"
        if self.types[column] == MONEY:
            return name_of(column)
        # Only text goes by way of text: a detour of a number costs eight times the query.
        told = self._text(column) if self.types[column] == "VARCHAR" else name_of(column)
        return f"TRY_CAST({told} AS {MONEY})"

    def time(self, *names: str) -> str:
        """The first of these columns that there is, as a time in UTC."""
        column = self.find(*names)
        if column is None:
            return "CAST(NULL AS TIMESTAMP)"
        kind = self.types[column]
        if kind == "TIMESTAMP WITH TIME ZONE":
            return f"({name_of(column)} AT TIME ZONE 'UTC')"
        if kind != "VARCHAR":
            return f"TRY_CAST({name_of(column)} AS TIMESTAMP)"
        text = self._text(column)
        if (form := self.date_forms.get(column)) is not None:
            short = f"regexp_extract({text}, '^[0-9]+[^0-9][0-9]+[^0-9][0-9]{{4}}')"
            return f"CAST(try_strptime({short}, {text_of(form)}) AS TIMESTAMP)"
        # A text without an offset is UTC, as the specification says and the session's zone is.
        return f"(TRY_CAST({text} AS TIMESTAMPTZ) AT TIME ZONE 'UTC')"

    def tag(self, column: str | None, keys: Iterable[str]) -> str:
        """The first of these keys that a column of tags has: a map, a struct, or JSON as text."""
        if column is None:
            return "CAST(NULL AS VARCHAR)"
        kind, name = self.types[column], name_of(column)
        if kind.startswith("MAP("):
            found = [f"nullif(CAST({name}[{text_of(key)}] AS VARCHAR), '')" for key in keys]
            return _coalesced(dict.fromkeys(found), "VARCHAR")
        if kind.startswith("STRUCT("):
            return json_tag(f"to_json({name})", keys)
        return json_tag(name, keys)

    def field(self, column: str, name: str) -> str | None:
        """A field of a nested column as text, or the column that stands for it where the nest was
        made flat; None if there is neither."""
        found = self.find(column)
        if found is not None and self.types[found].startswith("STRUCT("):
            if re.search(rf'[(,] ?"?{re.escape(name)}"? ', self.types[found]) is None:
                return None
            return f"nullif(CAST({name_of(found)}.{name_of(name)} AS VARCHAR), '')"
        flat = self.find(f"{column}_{name}")
        return None if flat is None else self._text(flat)

    def _text(self, column: str) -> str:
        name = name_of(column)
        if self.types[column] != "VARCHAR":
            return f"CAST({name} AS VARCHAR)"
        if self.is_clean:
            return name
        return f"nullif(nullif(nullif({name}, ''), 'NULL'), 'null')"


def json_tag(expression: str, keys: Iterable[str]) -> str:
    """SQL for the first of these keys that a JSON object has; nothing where it is no JSON."""
    found = [f"nullif(json_extract_string({expression}, {_pointer(key)}), '')" for key in keys]
    told = _coalesced(dict.fromkeys(found), "VARCHAR")
    return f"CASE WHEN json_valid({expression}) THEN {told} END"


def _pointer(key: str) -> str:
    return text_of("/" + key.replace("~", "~0").replace("/", "~1"))


def _coalesced(found: Iterable[str], kind: str) -> str:
    listed = list(found)
    if not listed:
        return f"CAST(NULL AS {kind})"
    return listed[0] if len(listed) == 1 else f"coalesce({', '.join(listed)})"


def selected(
    expressions: Mapping[str, str], tags: Mapping[str, str], relation: str, *, where: str = ""
) -> str:
    """SQL for the charges of a relation: every column of `CHARGE`, then the tags. What a shape does
    not know is NULL."""
    unknown = set(expressions) - set(CHARGE)
    if unknown:
        raise AssertionError(f"no columns of a charge: {sorted(unknown)}")
    columns = [
        f"CAST({expressions.get(name, 'NULL')} AS {kind}) AS {name}"
        if name not in expressions or not _is_cast(expressions[name], kind)
        else f"{expressions[name]} AS {name}"
        for name, kind in CHARGE.items()
    ]
    columns += [f"{told} AS {name_of(f'tag_{name}')}" for name, told in tags.items()]
    return f"SELECT {', '.join(columns)} FROM {relation}{f' WHERE {where}' if where else ''}"


def _is_cast(expression: str, kind: str) -> bool:
    return kind == "VARCHAR" or expression.endswith(f"AS {kind})")


class Reader(Protocol):
    """One shape of export."""

    @property
    def name(self) -> str: ...

    @property
    def date_columns(self) -> Sequence[str]:
        """Columns of dates that people may have written their own way."""
        ...

    @property
    def month_first(self) -> bool:
        """Whether 03/04/2026 is 4 March here, by what the provider states."""
        ...

    def fits(self, columns: Columns) -> bool:
        """Whether a file with these columns has this shape."""
        ...

    def part(self, relation: str, columns: Columns) -> str | None:
        """SQL for which part of a bill the file is, where a bill comes in parts that do not replace
        each other; None where it is whole."""
        ...

    def select(self, relation: str, columns: Columns, tags: TagNames, part: str) -> str:
        """SQL for the charges, by `selected`."""
        ...
