"""A ledger in a folder, exports to import into it, and reports out of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from mlplatform.adapters.local import LocalStore
from mlplatform.adapters.memory import MemoryStore
from mlplatform.cost.cube import Measure
from mlplatform.cost.daily import Daily, costs_by_day
from mlplatform.cost.engine import connect
from mlplatform.cost.importing import Imported, Importer, Outcome, Source
from mlplatform.cost.ledger import Ledger
from mlplatform.cost.rates import Rates
from mlplatform.cost.report.content import Content
from mlplatform.cost.report.making import make_content
from mlplatform.cost.spending import Asked, Spender, Spending

TAGS = {"model": ("mlplatform-model", "model"), "team": ("team",)}


@dataclass
class Books:
    """What a topology's cost section would put together."""

    folder: Path
    tags: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: dict(TAGS))
    regions: Mapping[str, str] = field(default_factory=dict)
    currency: str = "USD"
    rates: Rates = field(default_factory=Rates)
    resources: bool = True
    memory_mib: int = 512
    now: datetime = datetime(2026, 11, 21, 6, tzinfo=UTC)

    def __post_init__(self) -> None:
        for name in ("bills", "scratch", "ledger"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self.ledger = Ledger(LocalStore(self.folder / "ledger"))

    @property
    def bills(self) -> Path:
        """Where exports deliver to."""
        return self.folder / "bills"

    def export(self, folder: Path | None = None, key: str = "") -> Source:
        """The export in a folder of this disk, or one file of it."""
        place = folder or self.bills
        return Source(place.as_uri(), LocalStore(place), place, key)

    def brought(self, store: MemoryStore) -> Source:
        """An export in a store that is not on this disk."""
        return Source(store.url, store)

    def take(self, *sources: Source) -> Outcome:
        """Import, an hour later than the last time."""
        self.now += timedelta(hours=1)
        with connect(self.folder / "scratch", memory_mib=self.memory_mib) as connection:
            importer = Importer(
                connection,
                self.ledger,
                self.tags,
                self.folder / "scratch",
                now=lambda: self.now,
                resources=self.resources,
            )
            return importer.run(sources or (self.export(),))

    def good(self, *sources: Source) -> list[Imported]:
        """Import what must be readable."""
        outcome = self.take(*sources)
        assert not outcome.errors, outcome.errors
        return outcome.imported

    def daily(self, *by: str, since: date, until: date, cost: str = "billed", **how: Any) -> Daily:
        """What was spent a day."""
        with self.spender() as spender:
            deliveries = self.ledger.current()
            return costs_by_day(spender, deliveries, by, since, until, Measure(cost), **how)

    def content(self, *by: str, days: int = 7, cost: str = "billed", **how: Any) -> Content:
        """What a page says."""
        with self.spender() as spender:
            deliveries = self.ledger.current()
            found = spender.report(deliveries, Asked(by or ("region",), days, Measure(cost)))
            assert found is not None
            return make_content(spender, deliveries, found, self.now, **how)

    def report(self, *by: str, days: int = 7, cost: str = "billed") -> Spending:
        """A report of what there is."""
        with self.spender() as spender:
            asked = Asked(by or ("region",), days, Measure(cost))
            found = spender.report(self.ledger.current(), asked)
        assert found is not None
        return found

    def empty(self) -> bool:
        """Whether there is nothing to report on."""
        with self.spender() as spender:
            return spender.report(self.ledger.current(), Asked()) is None

    def costs(self, *by: str, days: int = 7, cost: str = "billed") -> dict[str | None, Decimal]:
        """A report by one dimension."""
        lines = self.report(*by, days=days, cost=cost).lines
        return {line.keys[0]: line.cost for line in lines}

    @contextmanager
    def spender(self) -> Iterator[Spender]:
        """Whoever reads the ledger."""
        with connect(self.folder / "scratch") as connection:
            yield Spender(
                connection,
                lambda key: self.folder / "ledger" / key,
                self.regions,
                list(self.tags),
                self.currency,
                self.rates,
            )


def rules_of(imported: Imported) -> dict[str, tuple[int, tuple[int, ...]]]:
    """By rule: how many rows break it, and the first of them."""
    return {each.rule: (each.rows, each.first_rows) for each in imported.delivery.findings}
