"""`python -m mlplatform.failover.failover_controller`: the line that runbooks type, and how
failover is put together from a topology."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from pathlib import Path
from random import SystemRandom
from urllib.parse import urlsplit

from mlplatform import wiring
from mlplatform.control.catalogue import Catalogue
from mlplatform.control.executors import DaemonThreads
from mlplatform.control.notices import Notices
from mlplatform.control.quorum import ControlStore
from mlplatform.control.regions import each_region
from mlplatform.control.retry import Retry, RetryingStore
from mlplatform.control.retry_traffic import RetryingTraffic
from mlplatform.control.two_paths import TwoPaths
from mlplatform.core.seen import Unknown
from mlplatform.core.store_url import StoreURL
from mlplatform.core.topology import Topology
from mlplatform.failover.effects import Estate
from mlplatform.failover.evidence.outside import OutsideView
from mlplatform.failover.evidence.reader import EvidenceReader
from mlplatform.failover.standby.offers import Standbys
from mlplatform.failover.standby.stock import Stock
from mlplatform.ports.clock import SystemClock
from mlplatform.ports.traffic import Traffic

_ACTUATOR_ATTEMPTS = 5
_ACTUATOR_SECONDS = 20.0
_OF_TWO_SECONDS = 5.0
"""An actuator that does not answer for so long is unknown; the night is too short for more."""
_REGION_SECONDS = 3.0
"""How long a region's servers and store are waited for, each. A region that hangs must not delay
the decision to leave it."""
_RESOLVER_SECONDS = 6.0


def open_estate(
    topology: Topology,
    *,
    stop: Callable[[], bool] = lambda: False,
    journal_folder: Path | None = None,
) -> Estate:
    """Failover over the topology's own routes, servers and stores. Nothing is asked of them yet.

    `journal_folder`: keep journal and leases there, because the control store is gone; then no
    order is heeded, nor what checks found of bytes (receipts lie in the regions, and are), and the
    targets' own epochs alone keep hands apart.
    """
    wiring.require_schemes(wiring.places_of(topology))
    clock, random, executor = SystemClock(), SystemRandom(), DaemonThreads()
    shared = wiring.open_control(topology, clock, random, stop=stop)
    control = _folder_control(journal_folder, clock, random) if journal_folder else shared
    catalogue = Catalogue(
        topology,
        wiring.region_stores(topology),
        control,
        Retry(clock, random, attempts=2, deadline_seconds=_REGION_SECONDS, stop=stop),
        executor=executor,
        region_timeout_seconds=_REGION_SECONDS,
    )
    outside = OutsideView(topology, wiring.open_measurements(topology))
    evidence = EvidenceReader(shared, list(topology.traffic.vantages), clock, outside, executor)
    return Estate(
        topology=topology,
        control=control,
        open_traffic=_actuators(topology, clock, random, stop),
        open_fleet=wiring.region_fleets(topology),
        look=evidence.read,
        stand=Standbys(
            topology,
            wiring.region_fleets(topology),
            Stock(catalogue, clock),
            executor=executor,
            timeout_seconds=_REGION_SECONDS,
        ),
        loads=lambda routes: {route: outside.loads(route=route) for route in routes},
        lags=outside.lags,
        resolve=_resolved(topology, executor),
        clock=clock,
        random=random,
        writer=wiring.writer_name(),
        stop=stop,
        executor=executor,
        timeout_seconds=_ACTUATOR_SECONDS + 5,
        obeys_orders=journal_folder is None,
        bypassed=shared if journal_folder else None,
    )


def open_notices(topology: Topology, environ: Mapping[str, str] | None = None) -> Notices:
    """Whoever the topology names, to be told. `UsageError` names a variable that is not set."""
    clock, random = SystemClock(), SystemRandom()
    receivers = wiring.open_receivers(topology, os.environ if environ is None else environ)
    return Notices(receivers, Retry(clock, random, attempts=5, deadline_seconds=120))


def open_journal_folder(folder: Path) -> ControlStore:
    """The journal that was kept in a folder while the control store was gone."""
    return _folder_control(folder, SystemClock(), SystemRandom())


def _folder_control(folder: Path, clock: SystemClock, random: SystemRandom) -> ControlStore:
    folder.mkdir(parents=True, exist_ok=True)
    store = wiring.open_store(StoreURL.parse(folder.absolute().as_uri()))
    return ControlStore([RetryingStore(store, Retry(clock, random, attempts=3))], clock)


def _actuators(
    topology: Topology, clock: SystemClock, random: SystemRandom, stop: Callable[[], bool]
) -> Callable[[str], Traffic]:
    """By route, opened once, under the retry policy."""
    retry = Retry(
        clock,
        random,
        attempts=_ACTUATOR_ATTEMPTS,
        deadline_seconds=_ACTUATOR_SECONDS,
        stop=stop,
    )
    opened: dict[str, Traffic] = {}
    lock = threading.Lock()

    def traffic(route: str) -> Traffic:
        with lock:
            if route not in opened:
                opened[route] = actuator(route)
            return opened[route]

    def actuator(route: str) -> Traffic:
        first = wiring.open_traffic(topology, route)
        if topology.traffic.routes[route].second is None:
            return RetryingTraffic(first, retry)
        second = wiring.open_traffic(topology, route, second=True)
        # Where there is another way, nobody waits long for the first.
        brief = Retry(clock, random, attempts=2, deadline_seconds=_OF_TWO_SECONDS, stop=stop)
        return TwoPaths(RetryingTraffic(first, brief), RetryingTraffic(second, brief), clock)

    return traffic


def _resolved(
    topology: Topology, executor: Executor
) -> Callable[[str], Mapping[str, frozenset[str] | Unknown]]:
    """By route: where the topology's resolvers send those who ask for its front door."""
    resolvers = {name: wiring.open_resolver(name) for name in topology.traffic.resolvers}

    def resolved(route: str) -> Mapping[str, frozenset[str] | Unknown]:
        front_door = topology.traffic.routes[route].front_door
        name = urlsplit(front_door).hostname if front_door else None
        if not resolvers or not name:
            return {}
        regions = {
            target.rpartition(":")[0].strip("[]") or target: region
            for region, targets in wiring.targets_of(topology, route).items()
            for target in targets
        }

        def sent(server: str) -> frozenset[str]:
            addresses = resolvers[server].answers(name).addresses
            return frozenset(regions[each] for each in addresses if each in regions)

        return each_region(resolvers, sent, executor=executor, timeout_seconds=_RESOLVER_SECONDS)

    return resolved


if __name__ == "__main__":
    from mlplatform.cli.commands.failover import main

    main()
