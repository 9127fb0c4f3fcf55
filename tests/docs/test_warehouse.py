"""`docs/cost-warehouse.md`: each statement parses in its dialect, and what it selects, run on
generated charges and imported, comes to what the charges themselves come to."""

from __future__ import annotations

import re
from datetime import date
from decimal import Decimal
from pathlib import Path

import duckdb
import pytest
import sqlglot
from sqlglot import exp

from mlplatform.cost.focus.columns import BY_NAME, Level, columns_of
from mlplatform.cost.readers.files import is_bill
from tests.docs.pages import ROOT
from tests.features.cost.bills import Charge, charge, days_from, month, tax, write_csv
from tests.features.cost.books import Books, rules_of

PAGE = (ROOT / "docs/cost-warehouse.md").read_text()
STATEMENTS = dict(re.findall(r"```sql\n-- (\w+)\n(.*?)```", PAGE, re.DOTALL))
UNLOAD = re.compile(r"UNLOAD \((.*)\) TO 's3://\S+/' WITH \((.*)\)\s*", re.DOTALL)
DIALECTS = ("bigquery", "athena", "snowflake")
DAYS = days_from(date(2026, 11, 1), 12)
NUMBERS = {"BilledCost", "EffectiveCost", "ContractedCost", "ListCost", "PricingQuantity"}
TIMES = {"ChargePeriodStart", "ChargePeriodEnd", "BillingPeriodStart", "BillingPeriodEnd"}
# What Athena's query 20261121_062432_00023_pxgmy would call a file.
FILES = {
    "bigquery": "cube-000000000000.parquet",
    "athena": "20261121_062432_00023_pxgmy_0a2b4c6d-0a2b-4c6d-8e0f-0a2b4c6d8e0f",
    "snowflake": "cube_0_0_0.snappy.parquet",
}


def select_of(dialect: str) -> exp.Select:
    text = STATEMENTS[dialect]
    if dialect == "athena":
        # Its frame is no part of the parser's dialect; what it frames is.
        found = UNLOAD.fullmatch(text)
        assert found, "the frame is UNLOAD (…) TO '…' WITH (…)"
        assert "format = 'PARQUET'" in found[2]
        text = found[1]
    parsed = sqlglot.parse_one(text, dialect=dialect, error_level=sqlglot.ErrorLevel.RAISE)
    kinds = {"bigquery": exp.Export, "athena": exp.Select, "snowflake": exp.Copy}
    assert isinstance(parsed, kinds[dialect]), f"not understood: {type(parsed).__name__}"
    select = parsed if isinstance(parsed, exp.Select) else parsed.find(exp.Select)
    assert isinstance(select, exp.Select)
    return select


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_column_is_one_of_focus(dialect: str) -> None:
    select = select_of(dialect)
    names = select.named_selects
    assert set(names) <= set(BY_NAME)
    mandatory = {each.name for each in columns_of("1.0") if each.level is Level.MANDATORY}
    assert mandatory <= set(names), "an import would miss what must be there"
    groups = [int(each.name) for each in select.args["group"].expressions]
    assert groups == list(range(1, len(names) - len(NUMBERS) + 1)), "all but the sums are grouped"
    for column in select.expressions[len(groups) :]:
        assert column.find(exp.Sum), column.sql()


def test_the_three_deliver_the_same() -> None:
    assert set(STATEMENTS) == set(DIALECTS)
    names = [select_of(dialect).named_selects for dialect in DIALECTS]
    assert names[0] == names[1] == names[2]


def charges() -> list[Charge]:
    """Two weeks with everything that a cube may lose."""
    return [
        *month(DAYS),
        tax(DAYS[3], "7.5"),
        charge(DAYS[2], "-3.25", ChargeCategory="Credit", ConsumedQuantity=None, ConsumedUnit=None),
        charge(DAYS[2], "0.000000000001", Tags='{"team": "audio"}'),
        charge(DAYS[4], "1.5", ChargeClass="Correction", RegionId=None, RegionName=None),
        charge(
            DAYS[5],
            "4",
            EffectiveCost="2.5",
            PricingCategory="Committed",
            CommitmentDiscountId="sp-1",
            CommitmentDiscountStatus="Used",
            CommitmentDiscountCategory="Spend",
            CommitmentDiscountType="Savings Plan",
        ),
    ]


def cube(dialect: str, rows: list[Charge], target: Path) -> None:
    """Run the statement's SELECT in DuckDB, and write what it gives. Tags are JSON as text here:
    what each warehouse's own type of them needs is left out."""
    select = select_of(dialect).copy()
    for aliased in select.expressions:
        if aliased.alias == "Tags":
            aliased.set("this", exp.column("Tags"))
    (table,) = select.find_all(exp.Table)
    table.replace(exp.to_table("charges"))
    source = target.parents[2] / f"{dialect}.csv"
    write_csv(source, rows)
    columns = ", ".join(
        f'CAST("{name}" AS '
        + ("DECIMAL(38,12)" if name in NUMBERS else "TIMESTAMP" if name in TIMES else "VARCHAR")
        + f') AS "{name}"'
        for name in rows[0]
    )
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute(
            f"CREATE TABLE charges AS SELECT {columns} "
            f"FROM read_csv('{source}', all_varchar = true, nullstr = '')"
        )
        target.parent.mkdir(parents=True)
        query = select.sql(dialect="duckdb")
        if dialect == "snowflake":  # names without quotes are in capitals there
            names = ", ".join(f'"{name}" AS "{name.upper()}"' for name in select.named_selects)
            query = f"SELECT {names} FROM ({query})"
        connection.execute(f"COPY ({query}) TO '{target}' (FORMAT parquet)")


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_cube_comes_to_what_the_charges_come_to(dialect: str, tmp_path: Path) -> None:
    rows = charges()
    whole, summed = Books(tmp_path / "whole"), Books(tmp_path / "summed")
    write_csv(whole.bills / "bill.csv", rows)
    (direct,) = whole.good()
    target = summed.bills / "2026-11" / FILES[dialect]
    assert is_bill(str(target))
    cube(dialect, rows, target)
    (delivered,) = summed.good()
    assert delivered.delivery.charges < direct.delivery.charges
    assert delivered.delivery.shape == "focus"
    assert rules_of(direct) == {}
    assert set(rules_of(delivered)) <= {"column-name"}, "names in capitals, and no rule of a row"
    for cost in ("billed", "effective", "contracted", "list"):
        for by in (("region",), ("service", "day"), ("team",), ("model", "region"), ("account",)):
            one, other = (books.report(*by, days=30, cost=cost) for books in (whole, summed))
            assert {line.keys: line.cost for line in one.lines} == {
                line.keys: line.cost for line in other.lines
            }, (cost, by)
            assert one.reconciled == other.reconciled
    assert summed.report(days=30).total > Decimal(0)
