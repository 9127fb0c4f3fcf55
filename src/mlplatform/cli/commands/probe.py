"""`mlplatform probe`: one vantage, once or for ever."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlplatform.cli.frame import command
from mlplatform.cli.session import Session

if TYPE_CHECKING:
    from mlplatform.core.topology import Topology
    from mlplatform.failover.evidence.record import VantageRecord
    from mlplatform.failover.vantage.prober import Prober
    from mlplatform.failover.vantage.rounds import Met


@command
def probe(
    session: Session,
    *,
    vantage: Annotated[
        str,
        typer.Option(
            "--vantage", metavar="NAME", help="Which of the topology's vantages this one is."
        ),
    ],
    once: Annotated[
        bool, typer.Option("--once", help="One round, for cron; else go on for ever.")
    ] = False,
    interval: Annotated[
        float | None,
        typer.Option(
            "--interval",
            metavar="SECONDS",
            min=0.1,
            help="Between rounds; else traffic.probe.interval_seconds.",
        ),
    ] = None,
    metrics: Annotated[
        str | None, typer.Option("--metrics", metavar="HOST:PORT", help="Serve /metrics there.")
    ] = None,
    cache: Annotated[
        str | None,
        typer.Option(
            "--cache",
            metavar="FOLDER",
            help="Where golden requests are kept; else ~/.cache/mlplatform.",
        ),
    ] = None,
) -> int:
    """Ask every region how it is, as one vantage, and record what was met.

    Each region and each front door is asked for its health, and models take turns with golden
    requests. Exit 3 of --once: some region fails. Exit 5: the vantage is blind, or its record could
    not be written.

    $ mlplatform probe --vantage frankfurt
    $ mlplatform probe --vantage frankfurt --once
    $ mlplatform probe --vantage frankfurt --interval 5 --metrics 127.0.0.1:9465
    """
    from mlplatform.control.metrics import serve

    topology = session.topology()
    with session.working() as work:
        prober = open_prober(
            session, topology, vantage, interval=interval, cache=cache, stop=work.stop
        )
        if metrics is not None:
            serve(metrics)
        if not once:
            prober.run()
            return 0
        record = prober.once()
    if record is None:
        from mlplatform.core.errors import Interrupted

        raise Interrupted("stopped before all had answered", hint="run it again")
    return show_round(session, record, prober.met, unwritten=prober.unwritten)


def open_prober(
    session: Session,
    topology: Topology,
    vantage: str,
    *,
    interval: float | None,
    cache: str | None,
    stop: Callable[[], bool],
) -> Prober:
    """A vantage over the topology's own stores and endpoints. Nothing is asked of them yet."""
    from random import SystemRandom

    from mlplatform import wiring
    from mlplatform.control.executors import DaemonThreads
    from mlplatform.control.golden_library import GoldenLibrary
    from mlplatform.control.retry import Retry, RetryingStore
    from mlplatform.failover.evidence.outside import OutsideView
    from mlplatform.failover.vantage.asking import Asker
    from mlplatform.failover.vantage.keeper import Keeper
    from mlplatform.failover.vantage.prober import Prober, doubts_of, require_vantage
    from mlplatform.ports.clock import SystemClock

    require_vantage(topology, vantage)
    for doubt in doubts_of(topology, vantage):
        session.console.warn(doubt)
    clock, random, executor = SystemClock(), SystemRandom(), DaemonThreads()
    timeout_seconds = topology.traffic.probe.timeout_seconds
    stores = wiring.region_stores(topology)
    retry = Retry(clock, random, attempts=2, deadline_seconds=timeout_seconds, stop=stop)
    golden = GoldenLibrary(
        lambda region: RetryingStore(stores(region), retry),
        lambda model: topology.model(model).regions,
        clock,
        executor,
        folder=_folder(session, topology, cache),
    )
    control = wiring.open_control(topology, clock, random, stop=stop)
    return Prober(
        topology,
        vantage,
        asker=Asker(wiring.open_probe(), golden, timeout_seconds),
        golden=golden,
        outside=OutsideView(topology, wiring.open_measurements(topology)),
        keeper=Keeper(control, vantage, clock, executor, session.console.warn),
        clock=clock,
        random=random,
        executor=executor,
        writer=wiring.writer_name(),
        interval_seconds=interval,
        said=session.say,
        stop=stop,
    )


def _folder(session: Session, topology: Topology, cache: str | None) -> Any:
    """Where golden requests are kept: a folder a platform, since versions are one platform's."""
    from pathlib import Path

    from mlplatform.core.digest import blake3_hex

    base = session.environ.get("XDG_CACHE_HOME")
    root = Path(cache) if cache else Path(base or Path.home() / ".cache") / "mlplatform"
    platform = blake3_hex(" ".join(url.text for url in topology.control).encode())
    return root / "golden" / platform.removeprefix("blake3:")[:16]


def show_round(session: Session, record: VantageRecord, met: Met, *, unwritten: str) -> int:
    """What the round met, and the exit code that says so."""
    from mlplatform.cli.errors import outranking
    from mlplatform.cli.render import Column, duration

    rows = [
        {
            "region": target.region or sample.region,
            "path": target.path.value,
            "route": target.route,
            "result": "ok" if sample.ok else f"{sample.error}: {sample.detail}",
            **sample.model_dump(exclude={"region", "seconds_ago"}),
            "certificate_expires_at": expires_at,
        }
        for target, sample, expires_at in met.samples
    ]
    session.show(
        "probes",
        rows,
        columns=[
            Column("region"),
            Column("path"),
            Column("route", optional=True),
            Column("result", style=lambda text: "green" if text == "ok" else "red"),
            Column("seconds", "TOTAL", duration, right=True),
            Column("dns_seconds", "DNS", duration, right=True),
            Column("connect_seconds", "CONNECT", duration, right=True),
            Column("tls_seconds", "TLS", duration, right=True, optional=True),
            Column("first_byte_seconds", "FIRST BYTE", duration, right=True),
            Column("certificate_expires_at", "CERTIFICATE ENDS", optional=True),
        ],
        vantage=record.vantage,
        round=record.round,
        blind=record.blind,
        golden=[each.model_dump(mode="json", exclude={"seconds_ago"}) for each in met.golden],
        unwritten=unwritten,
    )
    wrong = [each for each in met.golden if not each.ok]
    for each in wrong:
        session.console.warn(f"{each.model} in {each.region}: {each.detail}")
    if record.blind:
        session.console.warn(f"blind: {record.blind}")
    failed = wrong or any(not row["ok"] for row in rows)
    return outranking([3] if failed else [5] if record.blind or unwritten else [])
