"""`python -m mlplatform.cost.cost_analyzer`: the line that runbooks type, and how cost is put
together from a topology."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from random import SystemRandom
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from mlplatform import wiring
from mlplatform.control.journal import Journal
from mlplatform.control.retry import Retry, RetryingStore
from mlplatform.core.errors import UsageError
from mlplatform.core.store_url import StoreURL
from mlplatform.core.topology import Topology
from mlplatform.cost.engine import MEMORY_MIB, connect
from mlplatform.cost.ledger import Delivery, Ledger
from mlplatform.cost.rates import Rates, read_rates
from mlplatform.cost.readers.files import is_bill
from mlplatform.cost.spending import Spender
from mlplatform.ports.clock import SystemClock
from mlplatform.ports.store import ObjectStore

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

    from mlplatform.cost.anomalies.happened import Known
    from mlplatform.cost.anomalies.watcher import Watcher
    from mlplatform.cost.gpus.hours import GpuHours, Naming
    from mlplatform.cost.importing import Importer, Source
    from mlplatform.cost.unit.counters import Counts
    from mlplatform.cost.waste.unused import Unused
    from mlplatform.ports.happenings import Happenings

_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class Office:
    """Cost over a topology's exports and ledger."""

    topology: Topology
    ledger: Ledger
    connection: DuckDBPyConnection
    scratch: Path
    ledger_folder: Path | None

    def importer(
        self,
        *,
        say: Callable[[str], None] = lambda text: None,
        stop: Callable[[], bool] = lambda: False,
    ) -> Importer:
        """Whoever brings deliveries into the ledger."""
        from mlplatform.cost.importing import Importer  # a report needs none of it

        return Importer(
            self.connection,
            self.ledger,
            self.topology.cost.tags,
            self.scratch,
            resources=self.topology.cost.resources,
            say=say,
            stop=stop,
        )

    @property
    def regions(self) -> dict[str, str]:
        """What bills call a region, in small letters, and its name in the topology."""
        return regions_of(self.topology)

    def deliveries(self) -> list[Delivery]:
        """What stands in the ledger. `UsageError`, with what to set, where nothing does and no
        export is configured."""
        current = self.ledger.current()
        if not current:
            self.sources([])
        return current

    def watcher(self) -> Watcher:
        """Whoever finds what is unusual in it."""
        from mlplatform.cost.anomalies.watcher import Watcher  # it needs numpy, and a report not

        tags = list(self.topology.cost.tags)
        return Watcher(self.ledger, self.connection, self.at_hand, self.regions, tags)

    def provisional(self, current: Sequence[Delivery]) -> frozenset[date]:
        """The days of which some bill may still be restated."""
        from mlplatform.cost.restatement.knowledge import provisional_days

        return provisional_days(self.ledger, current)

    def happened(self, since: datetime, until: datetime) -> Known:
        """What is known to have happened between two times: by the journal and by the regions'
        clusters. Who cannot be asked is named."""
        from mlplatform.cost.anomalies.happened import Known, ask

        random, clock, unknown = SystemRandom(), SystemClock(), list[str]()
        control = wiring.open_control(self.topology, clock, random)
        clusters: dict[str, Happenings] = {}
        try:
            clusters = wiring.open_happenings(self.topology)
        except UsageError as error:
            unknown.append(f"the regions' clusters: {error}")
        routes = {name: route.models for name, route in self.topology.traffic.routes.items()}
        journal = Journal(control, clock, random, "")
        known = ask(journal, clusters, since, until, routes)
        return Known(known.happened, (*unknown, *known.unknown))

    def unused(self, since: date, *, accounts: bool = True) -> Unused:
        """What nobody uses since a day: by the bills, and with `accounts` by those of
        `cost.inventory`, which are asked."""
        from mlplatform.cost.waste.charges import Charges
        from mlplatform.cost.waste.unused import find_unused

        charges = Charges(
            self.connection, self.at_hand, self.regions, self.ledger.current(), begins=since
        )
        inventories = wiring.open_inventories(self.topology) if accounts else []
        return find_unused(charges, inventories, datetime.now(UTC))

    def spender(self) -> Spender:
        """Whoever reads reports out of it."""
        section = self.topology.cost
        return Spender(
            self.connection,
            self.at_hand,
            self.regions,
            list(section.tags),
            section.currency,
            read_rates(beside(self.topology, section.rates)) if section.rates else Rates(),
        )

    def counts(self, days: Sequence[date]) -> Counts | None:
        """What the servers counted on some days; None if the topology names no Prometheus."""
        from mlplatform.cost.unit.asking import ask

        history = wiring.open_history(self.topology)
        if history is None or self.topology.prometheus is None:
            return None
        label = self.topology.prometheus.region_label
        return ask(history, self.topology.cost.counters, label, self.regions, days)

    def gpus(self, days: Sequence[date]) -> GpuHours | None:
        """What was seen of GPUs on some days; None if the topology names no Prometheus."""
        from mlplatform.cost.gpus.hours import GpuHours
        from mlplatform.cost.gpus.readings import STEP_SECONDS, Asker

        history = wiring.open_history(self.topology)
        if history is None or self.topology.prometheus is None:
            return None
        seen, naming = GpuHours(), self.naming()
        asker = Asker(history, self.topology.cost.gpus, naming.region_label)
        for readings in asker.days(days):
            seen.add(readings, naming, STEP_SECONDS)
        return seen

    def naming(self) -> Naming:
        """What the topology knows of regions, models and routes, for whoever reads of GPUs."""
        from mlplatform.cost.gpus.hours import naming_of

        return naming_of(self.topology, self.regions)

    def at_hand(self, key: str) -> Path:
        """A partition of the ledger as a file."""
        if self.ledger_folder is not None:
            return self.ledger_folder / key
        target = self.scratch / "ledger" / key
        return target if target.exists() else self.ledger.fetch(key, target)

    def sources(self, named: Sequence[str]) -> list[Source]:
        """The exports that are named, else the topology's. `UsageError` if there are none."""
        exports = [_place(text) for text in named] or list(self.topology.cost.exports)
        if not exports:
            raise UsageError(
                f"{self.topology.path or 'topology'}: cost.exports: no export is configured",
                hint='say where bills are delivered, `cost: {exports: ["s3://billing/focus/"]}`; '
                "or name a file or folder",
            )
        return [_source(url) for url in exports]


@contextmanager
def open_office(topology: Topology, *, memory_mib: int = MEMORY_MIB) -> Iterator[Office]:
    """Cost over a topology. Nothing is asked of its stores yet."""
    url = topology.cost.ledger or below(topology.control[0], "cost")
    folder = Path(url.path) if url.scheme == "file" else None
    with ExitStack() as stack:
        # Beside the ledger there is room for what memory has none for; /tmp may be memory itself.
        parent = folder / "scratch" if folder is not None else None
        if parent is not None:
            try:
                parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UsageError(
                    f"cost.ledger {url}: {error.strerror}",
                    hint="name a folder that can be written to",
                ) from error
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cost-", dir=parent)))
        connection = stack.enter_context(connect(scratch, memory_mib=memory_mib))
        yield Office(topology, Ledger(_opened(url)), connection, scratch, folder)


def regions_of(topology: Topology) -> dict[str, str]:
    """What bills call a region, in small letters, and its name in the topology."""
    return {
        name.lower(): region.name
        for region in topology.regions.values()
        for name in (region.name, *region.bills_as)
    }


def beside(topology: Topology, name: str) -> Path:
    """A file that the topology names: relative paths start at its folder."""
    return (topology.path.parent if topology.path else Path.cwd()) / name


def below(url: StoreURL, folder: str) -> StoreURL:
    """A folder in a store, as a URL of its own."""
    parts = urlsplit(url.text)
    return StoreURL.parse(parts._replace(path=f"{parts.path.rstrip('/')}/{folder}").geturl())


def _opened(url: StoreURL) -> ObjectStore:
    retry = Retry(SystemClock(), SystemRandom(), attempts=_ATTEMPTS)
    return RetryingStore(wiring.open_store(url), retry)


def _place(text: str) -> StoreURL:
    if "://" in text:
        return StoreURL.parse(text)
    path = Path(text).expanduser().absolute()
    if not path.exists():
        raise UsageError(f"{text}: no such file or folder", hint="name a file, a folder or a URL")
    return StoreURL.parse(path.as_uri())


def _source(url: StoreURL) -> Source:
    from mlplatform.cost.importing import Source

    parts = urlsplit(url.text)
    if is_bill(url.path) and not (url.scheme == "file" and Path(url.path).is_dir()):
        folder = parts.path.rpartition("/")[0]
        url, key = StoreURL.parse(parts._replace(path=folder).geturl()), Path(url.path).name
    else:
        key = ""
    local = Path(url.path) if url.scheme == "file" else None
    if local is not None and not local.is_dir():
        raise UsageError(f"{url}: no such folder", hint="`cost.exports` in the topology names it")
    return Source(str(url), _opened(url), local, key)


if __name__ == "__main__":
    from mlplatform.cli.commands.cost_analyzer import main

    main()
