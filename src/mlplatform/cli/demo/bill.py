"""The bill that a cloud would have sent for the demo's regions, as FOCUS: servers by the hour,
bytes kept and bytes sent. Rates and the weeks before are made up; the rest is what was done."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from pathlib import Path
from random import Random

SERVERS = {
    ("us-east-1", "magika"): 4,
    ("us-east-1", "minilm"): 2,
    ("eu-west-1", "magika"): 4,
    ("eu-west-1", "minilm"): 2,
    ("ap-southeast-1", "magika"): 1,
}
"""By region and model; those in Asia stand by."""
WEEKS = 8
_RATES = {"us-east-1": 1.0, "eu-west-1": 1.1, "ap-southeast-1": 1.25}
"""Of an hour of a g5.xlarge, in dollars."""
_GB_MONTH, _GB_SENT, _ADDRESS_HOUR = 0.023, 0.02, 0.005
_AT_WEEKENDS = 0.75
_NOISE = 0.015
_SATURDAY = 5
_TEAMS = {"magika": "security", "minilm": "search"}
_COMPUTE = ("Compute", "Amazon Elastic Compute Cloud")
_STORAGE = ("Storage", "Amazon Simple Storage Service")
_ADDRESS = ("Networking", "Amazon Virtual Private Cloud")
_SENT = ("Networking", "AWS Data Transfer")


@dataclass(frozen=True, slots=True)
class Day:
    """What a day had that others have not."""

    more_hours: Mapping[tuple[str, str], float] = field(default_factory=dict)
    """Of servers, by region and model."""
    sent_bytes: Mapping[tuple[str, str, str], int] = field(default_factory=dict)
    """From region to region, of a model."""


@dataclass(frozen=True, slots=True)
class Cloud:
    """Whoever sends the bill."""

    first: date
    """The first day of which it has one."""
    kept_bytes: Mapping[tuple[str, str], int]
    """By region and model."""
    idle_addresses: tuple[str, ...] = ()
    """Regions that have one."""

    @classmethod
    def until(
        cls,
        last: date,
        kept_bytes: Mapping[tuple[str, str], int],
        idle_addresses: tuple[str, ...] = (),
    ) -> Cloud:
        """With eight weeks to a day, of which nothing is told yet."""
        return cls(last - timedelta(weeks=WEEKS, days=-1), kept_bytes, idle_addresses)

    def deliver(self, folder: Path, last: date, days: Mapping[date, Day], at: datetime) -> int:
        """Write what there is to the last day, a file for each month, as of a time; how many
        charges it holds. A file that would be the same is left alone."""
        folder.mkdir(exist_ok=True)
        by_month: dict[str, list[dict[str, str]]] = {}
        for place in range((last - self.first).days + 1):
            day = self.first + timedelta(days=place)
            by_month.setdefault(f"{day:%Y-%m}", []).extend(self._charges(day, days.get(day, Day())))
        for month, rows in by_month.items():
            path, text = folder / f"{month}.csv", io.StringIO()
            writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
            if not path.exists() or path.read_text() != text.getvalue():
                path.write_text(text.getvalue())
                os.utime(path, (at.timestamp(), at.timestamp()))
        return sum(map(len, by_month.values()))

    def _charges(self, day: date, more: Day) -> Iterator[dict[str, str]]:
        chance = Random(day.isoformat())  # noqa: S311 - the same day has the same bill
        quiet = _AT_WEEKENDS if day.weekday() >= _SATURDAY else 1.0
        for (region, model), servers in SERVERS.items():
            hours = 24 * servers * chance.gauss(1, _NOISE) * (quiet if servers > 1 else 1.0)
            hours += more.more_hours.get((region, model), 0)
            yield _charge(day, region, model, _COMPUTE, hours, "Hours", _RATES[region], "g5.xlarge")
        for (region, model), size in self.kept_bytes.items():
            yield _charge(day, region, model, _STORAGE, size / 1e9 / 30, "GB-Month", _GB_MONTH)
        for region in self.idle_addresses:
            meter = "ElasticIP:IdleAddress"
            yield _charge(day, region, "magika", _ADDRESS, 24, "Hours", _ADDRESS_HOUR, meter=meter)
        for (source, target, model), size in more.sent_bytes.items():
            meter = f"{source} {target} Out-Bytes"
            yield _charge(day, source, model, _SENT, size / 1e9, "GB", _GB_SENT, meter=meter)


def _charge(
    day: date,
    region: str,
    model: str,
    service: tuple[str, str],
    quantity: float,
    unit: str,
    rate: float,
    instance: str = "",
    meter: str = "",
) -> dict[str, str]:
    month = day.replace(day=1)
    next_month = (month + timedelta(days=32)).replace(day=1)
    cost = f"{quantity * rate:.10f}"
    return {
        "BilledCost": cost,
        "EffectiveCost": cost,
        "ContractedCost": cost,
        "ListCost": cost,
        "BillingAccountId": "111122223333",
        "BillingAccountName": "Example Corp",
        "BillingCurrency": "USD",
        "BillingPeriodStart": _time(month),
        "BillingPeriodEnd": _time(next_month),
        "ChargeCategory": "Usage",
        "ChargeClass": "",
        "ChargeDescription": f"{instance or meter or service[1]} in {region}",
        "ChargeFrequency": "Usage-Based",
        "ChargePeriodStart": _time(day),
        "ChargePeriodEnd": _time(day + timedelta(days=1)),
        "ConsumedQuantity": f"{quantity:.10f}",
        "ConsumedUnit": unit,
        "InvoiceIssuerName": "AWS",
        "ProviderName": "AWS",
        "PublisherName": "AWS",
        "PricingCategory": "Standard",
        "PricingQuantity": f"{quantity:.10f}",
        "PricingUnit": unit,
        "RegionId": region,
        "RegionName": region,
        "ResourceId": f"{service[0].lower()}-{model}-{region}",
        "ServiceCategory": service[0],
        "ServiceName": service[1],
        "SkuId": instance or meter or service[1],
        "SkuMeter": meter or instance or service[1],
        "SkuPriceDetails": json.dumps({"InstanceType": instance}) if instance else "",
        "SubAccountId": "444455556666",
        "SubAccountName": "ml",
        "Tags": json.dumps({"model": model, "team": _TEAMS[model]}),
    }


def _time(day: date) -> str:
    return f"{day.isoformat()}T00:00:00Z"
