"""`python -m mlplatform.replication.model_replicator`: the line that runbooks type, and how
replication is put together from a topology."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import SystemRandom

from mlplatform import wiring
from mlplatform.control.retry import Retry
from mlplatform.core.store_url import StoreURL
from mlplatform.core.topology import Topology
from mlplatform.ports.clock import SystemClock
from mlplatform.ports.progress import Progress, SilentProgress
from mlplatform.ports.store import ObjectStore
from mlplatform.replication.effects import Replicas
from mlplatform.replication.transfer import Settings


def open_replicas(
    topology: Topology,
    *,
    progress: Progress | None = None,
    stop: Callable[[], bool] = lambda: False,
    settings: Settings | None = None,
    region_timeout_seconds: float | None = 30.0,
) -> Replicas:
    """Replication over the topology's own stores. Nothing is asked of them yet; `TopologyError` if
    no adapter speaks the scheme of one."""
    wiring.require_schemes(wiring.places_of(topology))
    clock = SystemClock()
    random = SystemRandom()
    return Replicas(
        topology=topology,
        open_store=wiring.region_stores(topology),
        control=wiring.open_control(topology, clock, random, stop=stop),
        retry=Retry(clock, random, stop=stop),
        clock=clock,
        random=random,
        writer=wiring.writer_name(),
        progress=progress or SilentProgress(),
        stop=stop,
        settings=settings or Settings(),
        region_timeout_seconds=region_timeout_seconds,
    )


def open_folder(folder: Path) -> ObjectStore:
    """A local folder as a store, for `pull`."""
    return wiring.open_store(StoreURL.parse(folder.absolute().as_uri()))


if __name__ == "__main__":
    from mlplatform.cli.commands.model_replicator import main

    main()
