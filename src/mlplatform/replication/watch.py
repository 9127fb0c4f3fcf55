"""Converge for ever: a round over the topology, what is missing brought, the lag measured.

Several may run. Each version has its own lease: whoever does not get one leaves that version to
the other and goes on to the next.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime

from mlplatform.control import metrics
from mlplatform.core.errors import Interrupted, LeaseHeld, MlplatformError
from mlplatform.core.placement import Grid, Integrity, Rung
from mlplatform.core.seen import Unknown
from mlplatform.replication import operations
from mlplatform.replication.effects import Replicas
from mlplatform.replication.operations import Said

log = logging.getLogger(__name__)


def watch(
    replicas: Replicas, *, interval_seconds: float, serve_at: str, said: Said | None = None
) -> int:
    """Rounds until the operator stops it, which is how it ends well: 0. Serves /metrics."""
    metrics.serve(serve_at)
    while not replicas.stop():
        began = replicas.clock.monotonic()
        one_round(replicas, said)
        while not replicas.stop():
            left = began + interval_seconds - replicas.clock.monotonic()
            if left <= 0:
                break
            replicas.clock.sleep(min(left, 0.5))
    return 0


def one_round(replicas: Replicas, said: Said | None = None) -> None:
    """Bring what is missing, then say what still is. An error of one version is not the others'."""
    for request in operations.requests_of_topology(replicas):
        try:
            operations.replicate(replicas, request, said=said)
        except LeaseHeld as held:
            log.info("left to another replicator", extra={"error": str(held)})
        except Interrupted:
            return
        except MlplatformError as error:
            log.error(
                "not replicated", extra={"subject": str(request.subject), "error": str(error)}
            )
    try:
        grid = replicas.catalogue.grid(
            {request.subject for request in operations.requests_of_topology(replicas)}
        )
    except MlplatformError as error:
        log.error("the grid could not be read", extra={"error": str(error)})
        return
    measure(grid, list(replicas.topology.regions), replicas.clock.now())


_ROUTE = ("model", "version", "source_region", "target_region")
_PLACE = ("model", "version", "region")

# The series that `infra/prometheus/replication.rules.yaml` alerts on.
lag = metrics.Family(
    "mlplatform_replication_lag_seconds",
    "How long a wanted placement has been missing while its source was there; 0 when it is there.",
    _ROUTE,
    kind="gauge",
)
pending = metrics.Family(
    "mlplatform_replication_pending_bytes", "Bytes still wanted.", ("region",), kind="gauge"
)
present = metrics.Family(
    "mlplatform_model_present_ratio", "Wanted placements that are stored.", ("model",), kind="gauge"
)
mismatch = metrics.Family(
    "mlplatform_replica_mismatch", "1 when a check found other bytes.", _PLACE, kind="gauge"
)
readable = metrics.Family(
    "mlplatform_region_readable", "1 when the region's store answered.", ("region",), kind="gauge"
)
region_info = metrics.Family("mlplatform_region_info", "Always 1.", ("region",), kind="gauge")
last_round = metrics.Family(
    "mlplatform_replication_last_round_timestamp_seconds", "When a round ended.", kind="gauge"
)


def measure(grid: Grid, regions: Sequence[str], now: datetime) -> None:
    """Set every series to what the grid says. What is unknown has no sample."""
    for family in (lag, pending, present, mismatch):
        family.clear()
    for region in regions:
        region_info.set(1, region=region)
        readable.set(0 if region in grid.unreadable else 1, region=region)
    missing = {
        (found.placement.subject, found.placement.region): found
        for found in operations.pending(grid, now)
    }
    for found in missing.values():
        if found.size_bytes is not None:
            pending.add(found.size_bytes, region=found.placement.region)
    wanted: dict[str, list[bool]] = {}
    for placement in grid:
        if not placement.wanted or isinstance(placement.rung, Unknown):
            continue
        subject, region = placement.subject, placement.region
        stored = placement.rung >= Rung.STORED
        wanted.setdefault(subject.model, []).append(stored)
        mismatch.set(
            int(placement.integrity is Integrity.MISMATCH),
            model=subject.model,
            version=subject.version,
            region=region,
        )
        source = next(iter(operations.stored_in(grid, subject)), None)
        pending_here = missing.get((subject, region))
        seconds = 0.0 if stored else (pending_here.lag_seconds if pending_here else None)
        if source is not None and seconds is not None:
            lag.set(
                seconds,
                model=subject.model,
                version=subject.version,
                source_region=source.region,
                target_region=region,
            )
    for model, cells in wanted.items():
        present.set(sum(cells) / len(cells), model=model)
    last_round.set(now.timestamp())
