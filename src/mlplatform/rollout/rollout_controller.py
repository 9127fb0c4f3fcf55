"""`python -m mlplatform.rollout.rollout_controller`, and how rollout is put together from a
topology."""

from __future__ import annotations

from collections.abc import Callable
from random import SystemRandom

from mlplatform import wiring
from mlplatform.control.catalogue import Catalogue
from mlplatform.control.executors import DaemonThreads
from mlplatform.control.golden_library import GoldenLibrary
from mlplatform.control.orders import StandingOrders
from mlplatform.control.retry import Retry
from mlplatform.control.retry_ground import RetryingFleet, RetryingGround
from mlplatform.control.retry_split import BriefRetry, RetryingServers, RetryingSplit
from mlplatform.core.placement import ModelVersion
from mlplatform.core.seen import Unknown
from mlplatform.core.topology import Topology
from mlplatform.ports.clock import SystemClock
from mlplatform.ports.ground import Ground
from mlplatform.rollout.effects import Failover, Golden, Sites

_ATTEMPTS = 3
_WRITE_ATTEMPTS = 8
"""Where weights and servers lie: what is given up there is a step that has failed."""
_REGION_SECONDS = 10.0
"""How long a region's servers and store are waited for, each."""
_READ_ATTEMPTS, _READ_SECONDS = 6, 4.0
"""For what a plan is made from. An answer that is refused or cut is asked for again; one that took
that long is not, or the region would be out of time."""


def open_sites(
    topology: Topology,
    failover: Failover,
    *,
    stop: Callable[[], bool] = lambda: False,
) -> Sites:
    """Rollout over the topology's own stores and servers. Nothing is asked of them yet."""
    wiring.require_schemes(wiring.places_of(topology))
    clock, random, executor = SystemClock(), SystemRandom(), DaemonThreads()
    control = wiring.open_control(topology, clock, random, stop=stop)
    stores = wiring.region_stores(topology)
    library = GoldenLibrary(
        stores,
        lambda model: topology.models[model].regions,
        clock,
        executor,
        folder=None,
    )

    retry = BriefRetry(
        clock, random, attempts=_WRITE_ATTEMPTS, deadline_seconds=_REGION_SECONDS, stop=stop
    )
    reading = BriefRetry(
        clock, random, attempts=_READ_ATTEMPTS, deadline_seconds=_READ_SECONDS, stop=stop
    )
    servers, splits = wiring.opened_servers(topology), wiring.opened_splits(topology)
    fleets = wiring.region_fleets(
        topology, servers=lambda model, region: RetryingServers(servers(model, region), reading)
    )
    grounds = wiring.opened_grounds(topology)

    def golden(model: str, version: str) -> Golden | Unknown:
        return library.of(ModelVersion(model, version), wait_seconds=_REGION_SECONDS)

    def ground(model: str, region: str) -> Ground | None:
        found = grounds(model, region)
        return found and RetryingGround(found, reading)

    return Sites(
        topology=topology,
        catalogue=Catalogue(
            topology,
            stores,
            control,
            Retry(clock, random, attempts=_ATTEMPTS, deadline_seconds=_REGION_SECONDS, stop=stop),
            executor=executor,
            region_timeout_seconds=_REGION_SECONDS,
        ),
        open_fleet=lambda region: RetryingFleet(fleets(region), reading),
        orders=StandingOrders(control, clock, wiring.writer_name()),
        failover=failover,
        clock=clock,
        executor=executor,
        control=control,
        random=random,
        writer=wiring.writer_name(),
        open_servers=lambda model, region: RetryingServers(servers(model, region), retry),
        open_split=lambda model, region, those: RetryingSplit(splits(model, region, those), retry),
        probe=wiring.open_probe(),
        golden=golden,
        open_ground=ground,
        stop=stop,
        timeout_seconds=_REGION_SECONDS,
    )


if __name__ == "__main__":
    from mlplatform.cli.commands.rollout import main

    main()
