"""Prices, and what plans and placements cost by them."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from mlplatform.adapters.price_tables import open_prices, shipped
from mlplatform.core.errors import UsageError
from mlplatform.core.money import (
    UNITS,
    Amount,
    Basis,
    Cost,
    Item,
    Price,
    Prices,
    Pricing,
    parse_prices,
    zone_of,
)
from mlplatform.core.plan import Action, Consumption
from mlplatform.core.seen import Unknown
from mlplatform.core.topology import Topology

DAY = date(2026, 11, 21)
HEAD = "provider,region,sku,unit,price,currency,valid_from,source\n"
LISTED = """\
aws,us-east-1,storage,GiB-month,0.02,USD,2026-01-01,https://a.example
aws,us-east-1,storage,GiB-month,0.03,USD,2026-11-01,https://a.example
aws,us-east-1,storage,GiB-month,0.99,USD,2027-01-01,https://a.example
aws,us-east-1,transfer/eu-west-1,GiB,0.01,USD,2026-01-01,https://a.example
aws,us-east-1,transfer/region,GiB,0.02,USD,2026-01-01,https://a.example
aws,us-east-1,transfer/internet,GiB,0.09,USD,2026-01-01,https://a.example
aws,eu-west-1,storage,GiB-month,0.023,USD,2026-01-01,https://a.example
aws,us-west-2,storage,GiB-month,0.023,USD,2026-01-01,https://a.example
aws,*,requests/write,1000 requests,0.005,USD,2026-01-01,https://a.example
aws,*,transfer/in,GiB,0,USD,2026-01-01,https://a.example
aws,us-east-1,gpu/NVIDIA-L4,hour,0.8,USD,2026-01-01,https://a.example
gcp,europe-west4,storage,GB-month,0.02,USD,2026-01-01,https://g.example
other,twin,storage,GB-month,0.02,USD,2026-01-01,https://o.example
gcp,twin,storage,GB-month,0.04,USD,2026-01-01,https://g.example
"""


def prices(own: str = "", listed: str = LISTED) -> Prices:
    return Prices(own=parse_prices(HEAD + own, "own"), listed=parse_prices(HEAD + listed, "listed"))


TOPOLOGY = """
control: file:///c
regions:
  us: {store: "s3://b?region=us-east-1", price_zone: us-east-1}
  eu-west-1: {store: "s3://b2?region=eu-west-1"}
  europe-west4: {store: "gs://b4"}
  laptop: {store: "file:///srv/laptop"}
  rack: {store: "s3://b3?endpoint=https://minio.example"}
  twin: {store: "gs://b5"}
models:
  small: {version: v1, home: us, gpus: {NVIDIA-L4: 2}}
  plain: {version: v1, home: us}
"""


def pricing(own: str = "", listed: str = LISTED) -> Pricing:
    return Pricing(prices(own, listed), Topology.parse(TOPOLOGY), DAY)


@pytest.mark.parametrize(
    ("zone", "sku", "own", "found"),
    [
        ("us-east-1", "storage", "", "0.03"),  # the last that is valid
        ("us-east-1", "requests/write", "", "0.005"),  # of the provider, wherever
        ("aws/us-east-1", "storage", "", "0.03"),
        ("gcp/us-east-1", "storage", "", None),
        ("us-east-1", "gpu/NVIDIA-H100", "", None),
        ("berlin", "storage", "", None),
        ("twin", "storage", "", None),  # two providers call a region so
        ("other/twin", "storage", "", "0.02"),
        # the operator's own goes before the list, however old it is
        (
            "us-east-1",
            "storage",
            "aws,us-east-1,storage,GB-month,0.01,EUR,2020-01-01,contract 7\n",
            "0.01",
        ),
        # … but not before it is valid
        (
            "us-east-1",
            "storage",
            "aws,us-east-1,storage,GB-month,0.01,USD,2027-01-01,contract 8\n",
            "0.03",
        ),
        (
            "berlin",
            "storage",
            "us,berlin,storage,GB-month,0.004,EUR,2020-01-01,depreciation\n",
            "0.004",
        ),
    ],
)
def test_which_price_holds(zone: str, sku: str, own: str, found: str | None) -> None:
    price = prices(own).find(zone, sku, DAY)
    if found is None:
        assert isinstance(price, Unknown)
        assert sku in price.reason
        assert zone in price.reason
    else:
        assert isinstance(price, Price)
        assert price.price == Decimal(found)


@pytest.mark.parametrize(
    ("source", "target", "found"),
    [
        ("us-east-1", "eu-west-1", "0.01"),
        ("us-east-1", "us-west-2", "0.02"),
        ("us-east-1", "europe-west4", "0.09"),
        ("eu-west-1", "us-east-1", None),  # no line says so
        ("us-east-1", "berlin", None),  # nobody knows whose it is
        ("us-east-1", "us-east-1", None),
    ],
)
def test_what_sending_costs(source: str, target: str, found: str | None) -> None:
    price = prices().find_transfer(source, target, DAY)
    assert (price.price if isinstance(price, Price) else None) == (found and Decimal(found))


@pytest.mark.parametrize(
    ("region", "zone"),
    [
        ("us", "us-east-1"),
        ("eu-west-1", "eu-west-1"),
        ("europe-west4", "europe-west4"),
        ("laptop", None),
        ("rack", None),
    ],
)
def test_by_which_zone_a_region_is_priced(region: str, zone: str | None) -> None:
    found = zone_of(Topology.parse(TOPOLOGY).region(region))
    assert (found if isinstance(found, str) else None) == zone
    if isinstance(found, Unknown):
        assert f"regions.{region}.price_zone" in found.reason


def use(resource: str, amount: float, region: str, **named: str) -> Consumption:
    return Consumption(resource=resource, amount=amount, unit="", region=region, **named)


@pytest.mark.parametrize(
    ("used", "basis", "amount"),
    [
        (use("storage", 2**30 * 10, "us"), Basis.MONTHLY, "0.3"),
        (use("storage", 10**10, "europe-west4"), Basis.MONTHLY, "0.2"),
        (use("transfer", 2**31, "eu-west-1", source_region="us"), Basis.ONCE, "0.02"),
        (use("transfer", 2**31, "eu-west-1", source_region="laptop"), Basis.ONCE, None),
        (use("transfer", 2**31, "us"), Basis.ONCE, "0"),
        (use("requests", 200, "us", product="write"), Basis.ONCE, "0.001"),
        (use("requests", 200, "us", product="read"), Basis.ONCE, None),
        (use("gpu", 5400, "us", product="NVIDIA-L4"), Basis.ONCE, "1.2"),
        (use("server", 3, "us", product="small"), Basis.MONTHLY, str(3 * 730 * 2 * Decimal("0.8"))),
        (use("server", 3, "us", product="plain"), Basis.MONTHLY, None),
        (use("server", 3, "eu-west-1", product="small"), Basis.MONTHLY, None),
        (use("server", 3, "laptop", product="small"), Basis.MONTHLY, None),
        (use("unheard-of", 3, "us"), Basis.ONCE, None),
    ],
)
def test_what_is_used_up_is_priced(used: Consumption, basis: Basis, amount: str | None) -> None:
    item = pricing().of(used)
    assert item.basis is basis
    if amount is None:
        assert isinstance(item.amount, Unknown)
    else:
        assert isinstance(item.amount, Amount)
        assert item.amount.value == Decimal(amount)
        assert item.prices


def test_a_server_has_the_operators_own_price() -> None:
    own = "aws,us-east-1,server/plain,hour,1.5,USD,2026-01-01,our accounts\n"
    item = pricing(own).servers("us", "plain", 2)
    assert item.amount == Amount(Decimal(2190), "USD")


def action(*uses: Consumption) -> Action:
    return Action(key="k", kind="x", subject="s", region="us", reason="r", consumes=uses)


def test_a_plan_says_what_it_costs_and_what_it_leaves_out() -> None:
    cost = pricing().plan(
        [
            action(use("storage", 2**30, "us"), use("storage", 2**30, "laptop")),
            action(
                use("transfer", 100 * 2**30, "eu-west-1", source_region="us"),
                use("transfer", 0, "laptop", source_region="us"),
            ),
        ]
    )
    assert str(cost) == "1.00 USD once, 0.03 USD a month + unknown"
    assert cost.left_out == ("laptop: no price zone; give regions.laptop.price_zone",)
    told = cost.as_json()
    assert (told["once"], told["monthly"]) == ({"USD": "1"}, {"USD": "0.03"})
    assert [item["amount"] for item in told["items"]] == ["0.03", None, "1"]


def test_currencies_are_never_added_up() -> None:
    own = "aws,eu-west-1,storage,GiB-month,5,EUR,2026-01-01,contract\n"
    cost = pricing(own).plan(
        [action(use("storage", 2**30, "us"), use("storage", 2**30, "eu-west-1"))]
    )
    assert cost.total(Basis.MONTHLY) == {"USD": Decimal("0.03"), "EUR": Decimal(5)}
    assert str(cost) == "0.03 USD + 5.00 EUR a month"


@pytest.mark.parametrize(
    ("cost", "said"),
    [
        (Cost(), "nothing"),
        (Cost((Item("x", Basis.ONCE, Unknown("why")),)), "unknown"),
        (Cost((Item("x", Basis.ONCE, Amount(Decimal("0.0004"), "USD")),)), "<0.01 USD once"),
        (Cost((Item("x", Basis.ONCE, Amount(Decimal(0), "USD")),)), "0.00 USD once"),
    ],
)
def test_how_a_cost_reads(cost: Cost, said: str) -> None:
    assert str(cost) == said


@pytest.mark.parametrize(
    ("line", "said", "hint"),
    [
        ("aws,r,storage,GB-month,0.1,USD,2026-01-01,\n", "no source", "rumour"),
        ("aws,r,disk,GB-month,0.1,USD,2026-01-01,u\n", "sku 'disk'", "storage"),
        ("aws,r,storage,GB,0.1,USD,2026-01-01,u\n", "unit 'GB' of storage", "GB-month"),
        ("aws,r,storage,GB-month,dear,USD,2026-01-01,u\n", "price 'dear'", "0.023"),
        ("aws,r,storage,GB-month,NaN,USD,2026-01-01,u\n", "NaN is no price", "free"),
        ("aws,r,storage,GB-month,-1,USD,2026-01-01,u\n", "-1 is no price", "free"),
        ("aws,r,storage,GB-month,0.1,USD,1/2/26,u\n", "from '1/2/26'", "2026-10-01"),
        ("aws,r,storage,GB-month,0.1,usd,2026-01-01,u\n", "currency 'usd'", "USD"),
        ('aws,"r\n', "line", "UTF-8"),
    ],
)
def test_a_line_that_is_no_price(line: str, said: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_prices(HEAD + line, "prices.csv")
    assert str(caught.value).startswith("prices.csv: line 2")
    assert said in str(caught.value)
    assert hint in (caught.value.hint or "")


def test_a_table_without_its_columns(tmp_path: Path) -> None:
    path = tmp_path / "prices.csv"
    path.write_text("region,price\nx,1\n")
    with pytest.raises(UsageError, match=r"prices\.csv: no column currency, provider") as caught:
        open_prices(path)
    assert HEAD.strip() in (caught.value.hint or "")
    with pytest.raises(UsageError, match=r"gone\.csv: No such file"):
        open_prices(tmp_path / "gone.csv")


def test_every_shipped_price_says_where_it_is_from() -> None:
    table = shipped()
    assert {price.provider for price in table} == {"aws", "gcp", "azure"}
    for price in table:
        assert urlsplit(price.source).scheme in {"http", "https"}, price
        assert urlsplit(price.source).hostname, price
        assert price.valid_from <= DAY, price
        assert price.unit in UNITS
    keys = [(price.provider, price.region, price.sku, price.valid_from) for price in table]
    assert len(keys) == len(set(keys))
