"""The tables of columns against what the specification's versions are known to hold."""

from __future__ import annotations

import pytest

from mlplatform.cost.focus.columns import (
    BY_NAME,
    COLUMNS,
    FOLDED,
    VERSIONS,
    Level,
    columns_of,
    version_of,
)

COUNTS = {"1.0": 43, "1.1": 50, "1.2": 57, "1.3": 65, "1.4": 65}
ADDED = {
    "1.1": {
        *("CapacityReservationId", "CapacityReservationStatus", "CommitmentDiscountQuantity"),
        *("CommitmentDiscountUnit", "ServiceSubcategory", "SkuMeter", "SkuPriceDetails"),
    },
    "1.2": {
        *("BillingAccountType", "InvoiceId", "PricingCurrency", "SubAccountType"),
        *("PricingCurrencyContractedUnitPrice", "PricingCurrencyEffectiveCost"),
        "PricingCurrencyListUnitPrice",
    },
    "1.3": {
        *("AllocatedMethodDetails", "AllocatedMethodId", "AllocatedResourceId"),
        *("AllocatedResourceName", "AllocatedTags", "ContractApplied", "HostProviderName"),
        "ServiceProviderName",
    },
    "1.4": {"CommitmentProgramEligibilityDetails", "InvoiceDetailId"},
}
MANDATORY = {
    *("BilledCost", "BillingAccountId", "BillingAccountName", "BillingCurrency"),
    *("BillingPeriodStart", "BillingPeriodEnd", "ChargeCategory", "ChargeClass"),
    *("ChargeDescription", "ChargePeriodStart", "ChargePeriodEnd", "ContractedCost"),
    *("EffectiveCost", "InvoiceIssuerName", "ListCost", "PricingQuantity", "PricingUnit"),
    *("ProviderName", "PublisherName", "ServiceCategory", "ServiceName"),
}


@pytest.mark.parametrize("version", VERSIONS)
def test_each_version_has_so_many_columns(version: str) -> None:
    assert len(columns_of(version)) == COUNTS[version]


@pytest.mark.parametrize(("version", "added"), ADDED.items())
def test_what_each_version_brought(version: str, added: set[str]) -> None:
    before = {column.name for column in columns_of(VERSIONS[VERSIONS.index(version) - 1])}
    assert {column.name for column in columns_of(version)} - before == added


def test_1_4_has_no_provider_and_publisher_any_more() -> None:
    before = {column.name for column in columns_of("1.3")}
    gone = before - {column.name for column in columns_of("1.4")}
    assert gone == {"ProviderName", "PublisherName"}


@pytest.mark.parametrize("version", ["1.0", "1.1", "1.2"])
def test_the_same_21_are_mandatory(version: str) -> None:
    found = {each.name for each in columns_of(version) if each.level is Level.MANDATORY}
    assert found == MANDATORY


def test_names_are_told_apart_however_they_are_spelt() -> None:
    assert len(BY_NAME) == len(COLUMNS)
    assert {FOLDED[name.lower()] for name in BY_NAME} == set(BY_NAME)


@pytest.mark.parametrize(
    ("names", "version"),
    [
        (MANDATORY, "1.0"),
        (MANDATORY | {"SkuMeter"}, "1.1"),
        (MANDATORY | {"SkuMeter", "InvoiceId"}, "1.2"),
        (MANDATORY | {"ServiceProviderName"}, "1.3"),
        (MANDATORY - {"ProviderName", "PublisherName"} | {"ServiceProviderName"}, "1.4"),
        (MANDATORY | {"InvoiceDetailId"}, "1.4"),
        ({"x_Team", "BilledCost"}, "1.0"),
        (set(), "1.0"),
    ],
)
def test_the_version_is_told_by_the_columns(names: set[str], version: str) -> None:
    assert version_of(names) == version
