"""Which shape a file has, by its columns."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from mlplatform.core.errors import UsageError
from mlplatform.cost.focus.columns import COLUMNS
from mlplatform.cost.readers.azure import AzureExport
from mlplatform.cost.readers.bigquery import BigQueryExport
from mlplatform.cost.readers.cost_explorer import CostExplorer
from mlplatform.cost.readers.cur2 import CostAndUsageReport
from mlplatform.cost.readers.focus import Focus
from mlplatform.cost.readers.opencost import OpenCost
from mlplatform.cost.readers.shape import Columns, Reader

READERS: Sequence[Reader] = (
    Focus(),
    CostAndUsageReport(),
    BigQueryExport(),
    AzureExport(),
    OpenCost(),
    CostExplorer(),
)
"""A new shape is a module and a line here."""


SUPPORTING = {
    "BillingPeriodStatus": "billing period",
    "ContractCommitmentId": "contract commitment",
    "InvoiceDetailId": "invoice detail",
}
"""FOCUS's other datasets, which may lie beside the charges, by a column that tells them."""


def supporting(columns: Columns) -> str | None:
    """Which of FOCUS's other datasets a file is; None if it may be charges."""
    if columns.has("BilledCost"):
        return None
    return next((name for column, name in SUPPORTING.items() if columns.has(column)), None)


def recognise(file: str, columns: Columns) -> Reader:
    """The reader of a file. `UsageError` says what its columns look like."""
    for reader in READERS:
        if reader.fits(columns):
            return reader
    names = [each.name for each in COLUMNS]
    close = [
        f"{name} (FOCUS has {near[0]})"
        for name in columns.types
        if (near := difflib.get_close_matches(name, names, n=1))
    ]
    seen = ", ".join(close[:3] or list(columns.types)[:6])
    raise UsageError(
        f"{file}: no bill of a shape that is known here; it has {seen}",
        hint=f"known are {', '.join(reader.name for reader in READERS)}; "
        "FOCUS needs BilledCost and ChargePeriodStart",
    )
