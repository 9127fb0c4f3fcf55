"""`python -m mlplatform.rollout.rollout_controller`, and how rollout is put together from a
topology."""

from __future__ import annotations

from collections.abc import Callable
from random import SystemRandom

from mlplatform import wiring
from mlplatform.control.catalogue import Catalogue
from mlplatform.control.executors import DaemonThreads
from mlplatform.control.orders import StandingOrders
from mlplatform.control.retry import Retry
from mlplatform.core.topology import Topology
from mlplatform.ports.clock import SystemClock
from mlplatform.rollout.effects import Sites, Standings

_ATTEMPTS = 3
_REGION_SECONDS = 10.0
"""How long a region's servers and store are waited for, each."""


def open_sites(
    topology: Topology,
    standings: Callable[[str], Standings],
    *,
    stop: Callable[[], bool] = lambda: False,
) -> Sites:
    """Rollout over the topology's own stores and servers. Nothing is asked of them yet."""
    wiring.require_schemes(wiring.places_of(topology))
    clock, random, executor = SystemClock(), SystemRandom(), DaemonThreads()
    control = wiring.open_control(topology, clock, random, stop=stop)
    return Sites(
        topology=topology,
        catalogue=Catalogue(
            topology,
            wiring.region_stores(topology),
            control,
            Retry(clock, random, attempts=_ATTEMPTS, deadline_seconds=_REGION_SECONDS, stop=stop),
            executor=executor,
            region_timeout_seconds=_REGION_SECONDS,
        ),
        open_fleet=wiring.region_fleets(topology),
        orders=StandingOrders(control, clock, wiring.writer_name()),
        standings=standings,
        clock=clock,
        executor=executor,
        timeout_seconds=_REGION_SECONDS,
    )


if __name__ == "__main__":
    from mlplatform.cli.commands.rollout import main

    main()
