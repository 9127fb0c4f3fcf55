"""Bills as providers deliver them: charges as FOCUS's sample data has them, and files of every
shape made from them."""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
from collections.abc import Callable, Mapping, Sequence
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

Charge = dict[str, str | None]

HEADING = (
    *("BilledCost", "BillingAccountId", "BillingAccountName", "BillingCurrency"),
    *("BillingPeriodStart", "BillingPeriodEnd", "ChargeCategory", "ChargeClass"),
    *("ChargeDescription", "ChargeFrequency", "ChargePeriodStart", "ChargePeriodEnd"),
    *("CommitmentDiscountId", "CommitmentDiscountCategory", "CommitmentDiscountType"),
    *("CommitmentDiscountStatus", "ConsumedQuantity", "ConsumedUnit", "ContractedCost"),
    *("EffectiveCost", "InvoiceIssuerName", "ListCost", "ListUnitPrice", "PricingCategory"),
    *("PricingQuantity", "PricingUnit", "ProviderName", "PublisherName", "RegionId", "RegionName"),
    *("ResourceId", "ServiceCategory", "ServiceName", "SkuId", "SkuPriceId", "SubAccountId"),
    *("SubAccountName", "Tags"),
)


def time(day: date, hour: int = 0) -> str:
    """As FOCUS writes it."""
    return f"{day.isoformat()}T{hour:02}:00:00Z"


def charge(day: date = date(2026, 11, 2), cost: str = "1.00", **other: Any) -> Charge:
    """One charge, right in every way, but for what is said otherwise."""
    start = day.replace(day=1)
    end = (start + timedelta(days=32)).replace(day=1)
    found: Charge = {
        "BilledCost": cost,
        "BillingAccountId": "111122223333",
        "BillingAccountName": "Example Corp",
        "BillingCurrency": "USD",
        "BillingPeriodStart": time(start),
        "BillingPeriodEnd": time(end),
        "ChargeCategory": "Usage",
        "ChargeClass": None,
        "ChargeDescription": "$1.006 per On Demand Linux g5.xlarge Instance Hour",
        "ChargeFrequency": "Usage-Based",
        "ChargePeriodStart": time(day),
        "ChargePeriodEnd": time(day + timedelta(days=1)),
        "CommitmentDiscountId": None,
        "CommitmentDiscountCategory": None,
        "CommitmentDiscountType": None,
        "CommitmentDiscountStatus": None,
        "ConsumedQuantity": "1",
        "ConsumedUnit": "Hours",
        "ContractedCost": cost,
        "EffectiveCost": cost,
        "InvoiceIssuerName": "AWS",
        "ListCost": cost,
        "ListUnitPrice": "1.006",
        "PricingCategory": "Standard",
        "PricingQuantity": "1",
        "PricingUnit": "Hours",
        "ProviderName": "AWS",
        "PublisherName": "AWS",
        "RegionId": "us-east-1",
        "RegionName": "US East (N. Virginia)",
        "ResourceId": "i-0abc",
        "ServiceCategory": "Compute",
        "ServiceName": "Amazon Elastic Compute Cloud",
        "SkuId": "SKU1",
        "SkuPriceId": "SKU1.P1",
        "SubAccountId": "444455556666",
        "SubAccountName": "ml",
        "Tags": '{"model": "resnet50", "team": "vision"}',
    }
    unknown = set(other) - set(found)
    assert not unknown, unknown
    return found | other


def tax(day: date, cost: str, **other: Any) -> Charge:
    """A tax, which has no price and no place."""
    none = dict.fromkeys(
        ("ConsumedQuantity", "ConsumedUnit", "ListUnitPrice", "PricingCategory", "PricingQuantity")
    )
    none |= dict.fromkeys(("PricingUnit", "RegionId", "RegionName", "ResourceId", "SkuId"))
    none |= dict.fromkeys(("SkuPriceId", "Tags"))
    return charge(
        day, cost, **{**none, "ChargeCategory": "Tax", "ChargeFrequency": "Recurring", **other}
    )


REGIONS = ("us-east-1", "eu-west-1", "ap-southeast-1")
SERVICES = ("Amazon Elastic Compute Cloud", "Amazon Simple Storage Service", "AWS Data Transfer")


def month(
    days: Sequence[date], *, seed: int = 7, a_day: int = 12, **other: str | None
) -> list[Charge]:
    """Charges of some days, the same for the same seed."""
    chance = random.Random(seed)
    return [
        charge(
            day,
            f"{chance.lognormvariate(0, 1):.10f}",
            **{
                "RegionId": chance.choice(REGIONS),
                "ServiceName": chance.choice(SERVICES),
                "ResourceId": f"i-{chance.randrange(40):04}",
                **other,
            },
        )
        for day in days
        for _ in range(a_day)
    ]


def days_from(since: date, count: int) -> list[date]:
    return [since + timedelta(days=each) for each in range(count)]


def total(charges: Sequence[Mapping[str, str | None]], column: str = "BilledCost") -> Decimal:
    """What they come to."""
    return sum((Decimal(each[column] or 0) for each in charges), Decimal(0))


def csv_text(
    rows: Sequence[Mapping[str, Any]],
    *,
    heading: Sequence[str] | None = None,
    null: str = "",
    named: Callable[[str], str] = str,
) -> str:
    names = list(heading or (rows[0] if rows else HEADING))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([named(name) for name in names])
    for row in rows:
        writer.writerow([null if row.get(name) is None else row[name] for name in names])
    return text.getvalue()


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]], **how: Any) -> Path:
    """A CSV file; compressed if its name says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    body = csv_text(rows, **how).encode()
    path.write_bytes(gzip.compress(body, mtime=0) if path.suffix == ".gz" else body)
    return path


def write_parquet(path: Path, rows: Sequence[Mapping[str, Any]], **types: str) -> Path:
    """A Parquet file, its columns of text but for `types`, by DuckDB's names."""
    import duckdb

    path.parent.mkdir(parents=True, exist_ok=True)
    lines = path.with_suffix(".ndjson.tmp")
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows))
    names = list(rows[0])
    columns = ", ".join(f"'{name}': '{types.get(name, 'VARCHAR')}'" for name in names)
    with duckdb.connect() as connection:
        connection.execute(
            f"COPY (SELECT * FROM read_json('{lines}', format = 'newline_delimited', "
            f"columns = {{{columns}}})) TO '{path}' (FORMAT parquet)"
        ).fetchall()
    lines.unlink()
    return path
