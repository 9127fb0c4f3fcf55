"""The billing port: a service that says what was spent when it is asked, where no export is
delivered."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta
from typing import Protocol

from mlplatform.core.errors import UsageError
from mlplatform.core.store_url import StoreURL


class BillingApi(Protocol):
    """One service. The same errors as a store's. A month is always asked for whole, or up to today,
    since what is imported replaces what was known of it."""

    @property
    def url(self) -> str:
        """For people; without secrets."""
        ...

    @property
    def charged(self) -> tuple[str, str] | None:
        """By which zone and SKU a price list knows a request; None where asking is free."""
        ...

    def requests(self, today: date) -> int:
        """How many requests `fetch` makes at least: each further page is one more."""
        ...

    def fetch(self, today: date, put: Callable[[str, bytes], None]) -> int:
        """Ask, and hand over each answer as it came, by a name: `YYYY-MM/…json`. How many requests
        it took."""
        ...


def months_of(url: StoreURL) -> int:
    """The option `months`."""
    text = url.options.get("months", "2")
    if not text.isdecimal() or not 1 <= int(text) <= 13:
        raise UsageError(f"{url.noun} {url}: months={text!r}", hint="1 to 13")
    return int(text)


def periods(today: date, months: int) -> list[tuple[date, date]]:
    """The last months, the oldest first: their first day, and the day that they end before, which
    for this one is today."""
    found = []
    first = today.replace(day=1)
    after = today
    for _ in range(months):
        if first < after:
            found.append((first, after))
        after = first
        first = (first - timedelta(days=1)).replace(day=1)
    return found[::-1]
