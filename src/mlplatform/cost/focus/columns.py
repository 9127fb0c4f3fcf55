"""The columns of FOCUS 1.0 to 1.4, dataset Cost and Usage, as the specification states them.

Source: FinOps Open Cost and Usage Specification, https://focus.finops.org/focus-specification/,
each column's table "Content Constraints" (feature level, allows nulls, data type, allowed values)
and its "Introduced (version)". There are 43, 50, 57, 65 and 65 of them.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum

VERSIONS = ("1.0", "1.1", "1.2", "1.3", "1.4")
LATEST = VERSIONS[-1]


class Kind(StrEnum):
    """The specification's data types."""

    TEXT = "String"
    DECIMAL = "Decimal"
    TIME = "Date/Time"
    JSON = "JSON"


class Level(StrEnum):
    """The specification's feature levels."""

    MANDATORY = "Mandatory"
    CONDITIONAL = "Conditional"
    RECOMMENDED = "Recommended"


@dataclass(frozen=True, slots=True)
class FocusColumn:
    """A column: what it holds, since when and until which version."""

    name: str
    kind: Kind
    level: Level
    nullable: bool
    since: str = "1.0"
    until: str = LATEST
    allowed: tuple[str, ...] = ()
    """Where only these values are."""


_T, _D, _W, _J = Kind.TEXT, Kind.DECIMAL, Kind.TIME, Kind.JSON
_M, _C, _R = Level.MANDATORY, Level.CONDITIONAL, Level.RECOMMENDED

CHARGE_CATEGORIES = ("Usage", "Purchase", "Tax", "Credit", "Adjustment")
SERVICE_CATEGORIES = (
    *("AI and Machine Learning", "Analytics", "Business Applications", "Compute", "Databases"),
    *("Developer Tools", "Multicloud", "Identity", "Integration", "Internet of Things"),
    *("Management and Governance", "Media", "Migration", "Mobile", "Networking", "Security"),
    *("Storage", "Web", "Other"),
)

COLUMNS = (
    FocusColumn("AllocatedMethodDetails", _J, _R, nullable=True, since="1.3"),
    FocusColumn("AllocatedMethodId", _T, _C, nullable=True, since="1.3"),
    FocusColumn("AllocatedResourceId", _T, _C, nullable=True, since="1.3"),
    FocusColumn("AllocatedResourceName", _T, _C, nullable=True, since="1.3"),
    FocusColumn("AllocatedTags", _J, _C, nullable=True, since="1.3"),
    FocusColumn("AvailabilityZone", _T, _R, nullable=True),
    FocusColumn("BilledCost", _D, _M, nullable=False),
    FocusColumn("BillingAccountId", _T, _M, nullable=False),
    FocusColumn("BillingAccountName", _T, _M, nullable=True),
    FocusColumn("BillingAccountType", _T, _C, nullable=False, since="1.2"),
    FocusColumn("BillingCurrency", _T, _M, nullable=False),
    FocusColumn("BillingPeriodEnd", _W, _M, nullable=False),
    FocusColumn("BillingPeriodStart", _W, _M, nullable=False),
    FocusColumn("CapacityReservationId", _T, _C, nullable=True, since="1.1"),
    FocusColumn(
        "CapacityReservationStatus",
        *(_T, _C),
        nullable=True,
        since="1.1",
        allowed=("Used", "Unused"),
    ),
    FocusColumn("ChargeCategory", _T, _M, nullable=False, allowed=CHARGE_CATEGORIES),
    FocusColumn("ChargeClass", _T, _M, nullable=True, allowed=("Correction",)),
    FocusColumn("ChargeDescription", _T, _M, nullable=True),
    FocusColumn(
        "ChargeFrequency",
        *(_T, _R),
        nullable=False,
        allowed=("One-Time", "Recurring", "Usage-Based"),
    ),
    FocusColumn("ChargePeriodEnd", _W, _M, nullable=False),
    FocusColumn("ChargePeriodStart", _W, _M, nullable=False),
    FocusColumn("CommitmentDiscountCategory", _T, _C, nullable=True, allowed=("Spend", "Usage")),
    FocusColumn("CommitmentDiscountId", _T, _C, nullable=True),
    FocusColumn("CommitmentDiscountName", _T, _C, nullable=True),
    FocusColumn("CommitmentDiscountQuantity", _D, _C, nullable=True, since="1.1"),
    FocusColumn("CommitmentDiscountStatus", _T, _C, nullable=True, allowed=("Used", "Unused")),
    FocusColumn("CommitmentDiscountType", _T, _C, nullable=True),
    FocusColumn("CommitmentDiscountUnit", _T, _C, nullable=True, since="1.1"),
    FocusColumn("CommitmentProgramEligibilityDetails", _J, _C, nullable=True, since="1.4"),
    FocusColumn("ConsumedQuantity", _D, _C, nullable=True),
    FocusColumn("ConsumedUnit", _T, _C, nullable=True),
    FocusColumn("ContractApplied", _J, _C, nullable=True, since="1.3"),
    FocusColumn("ContractedCost", _D, _M, nullable=False),
    FocusColumn("ContractedUnitPrice", _D, _C, nullable=True),
    FocusColumn("EffectiveCost", _D, _M, nullable=False),
    FocusColumn("HostProviderName", _T, _M, nullable=True, since="1.3"),
    FocusColumn("InvoiceDetailId", _T, _C, nullable=True, since="1.4"),
    FocusColumn("InvoiceId", _T, _R, nullable=True, since="1.2"),
    FocusColumn("InvoiceIssuerName", _T, _M, nullable=False),
    FocusColumn("ListCost", _D, _M, nullable=False),
    FocusColumn("ListUnitPrice", _D, _C, nullable=True),
    FocusColumn(
        "PricingCategory",
        *(_T, _C),
        nullable=True,
        allowed=("Standard", "Dynamic", "Committed", "Other"),
    ),
    FocusColumn("PricingCurrency", _T, _C, nullable=False, since="1.2"),
    FocusColumn("PricingCurrencyContractedUnitPrice", _D, _C, nullable=True, since="1.2"),
    FocusColumn("PricingCurrencyEffectiveCost", _D, _C, nullable=False, since="1.2"),
    FocusColumn("PricingCurrencyListUnitPrice", _D, _C, nullable=True, since="1.2"),
    FocusColumn("PricingQuantity", _D, _M, nullable=True),
    FocusColumn("PricingUnit", _T, _M, nullable=True),
    FocusColumn("ProviderName", _T, _M, nullable=False, until="1.3"),
    FocusColumn("PublisherName", _T, _M, nullable=False, until="1.3"),
    FocusColumn("RegionId", _T, _C, nullable=True),
    FocusColumn("RegionName", _T, _C, nullable=True),
    FocusColumn("ResourceId", _T, _C, nullable=True),
    FocusColumn("ResourceName", _T, _C, nullable=True),
    FocusColumn("ResourceType", _T, _C, nullable=True),
    FocusColumn("ServiceCategory", _T, _M, nullable=False, allowed=SERVICE_CATEGORIES),
    FocusColumn("ServiceName", _T, _M, nullable=False),
    FocusColumn("ServiceProviderName", _T, _M, nullable=False, since="1.3"),
    FocusColumn("ServiceSubcategory", _T, _R, nullable=False, since="1.1"),
    FocusColumn("SkuId", _T, _C, nullable=True),
    FocusColumn("SkuMeter", _T, _C, nullable=True, since="1.1"),
    FocusColumn("SkuPriceDetails", _J, _C, nullable=True, since="1.1"),
    FocusColumn("SkuPriceId", _T, _C, nullable=True),
    FocusColumn("SubAccountId", _T, _C, nullable=True),
    FocusColumn("SubAccountName", _T, _C, nullable=True),
    FocusColumn("SubAccountType", _T, _C, nullable=True, since="1.2"),
    FocusColumn("Tags", _J, _C, nullable=True),
)

BY_NAME: Mapping[str, FocusColumn] = {column.name: column for column in COLUMNS}

OLD_NAMES: Mapping[str, str] = {
    "AmortizedCost": "EffectiveCost",
    "ChargeType": "ChargeCategory",
    "InvoiceIssuer": "InvoiceIssuerName",
    "Provider": "ProviderName",
    "Publisher": "PublisherName",
    "Region": "RegionId",
    "UsageQuantity": "ConsumedQuantity",
    "UsageUnit": "ConsumedUnit",
}
"""What columns were called before 1.0 (the specification's "Columns History")."""


def columns_of(version: str) -> tuple[FocusColumn, ...]:
    """The columns that a version defines."""
    return tuple(column for column in COLUMNS if column.since <= version <= column.until)


def version_of(names: Collection[str]) -> str:
    """The version that a file with these columns follows: the oldest that knows all those it has
    and that later ones brought; one without ProviderName cannot be older than 1.4.

    The version is stated in metadata beside the data, which exports often lack.
    """
    known = [BY_NAME[name] for name in names if name in BY_NAME]
    newest = max((column.since for column in known), default=VERSIONS[0])
    has_old = any(column.until != LATEST for column in known)
    return LATEST if "ServiceProviderName" in names and not has_old else newest


def folded(name: str) -> str:
    """A column's name as it is compared: `Billed Cost`, `billed_cost` and `BILLEDCOST` are one."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


FOLDED: Mapping[str, str] = {folded(name): name for name in BY_NAME} | {
    folded(old): name for old, name in OLD_NAMES.items()
}
"""The specification's name of a column, by how it is compared."""
