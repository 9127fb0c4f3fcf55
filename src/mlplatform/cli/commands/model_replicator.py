"""`python -m mlplatform.replication.model_replicator`: the line that runbooks have typed for years.

It asks what the commands of `mlplatform` ask; `docs/runbooks.md` says which is which.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlplatform.cli import frame, options
from mlplatform.cli.commands.replication import replicas_of
from mlplatform.cli.errors import outranking
from mlplatform.cli.frame import command
from mlplatform.cli.render import Column, Output, duration, size
from mlplatform.cli.session import Session

if TYPE_CHECKING:
    from mlplatform.core.placement import ModelVersion, Placement
    from mlplatform.replication.effects import Replicas

PROG = "python -m mlplatform.replication.model_replicator"


@command
def model_replicator(
    session: Session,
    *,
    model_id: Annotated[
        str | None,
        typer.Option(
            "--model-id",
            metavar="M",
            help="name, name@version, or the old name-v1.2.0; a bare name means the version "
            "that the topology wants.",
        ),
    ] = None,
    status: Annotated[bool, typer.Option("--status", help="Where it is.")] = False,
    check_status: Annotated[
        bool, typer.Option("--check-status", help="The same as --status.")
    ] = False,
    replicate: Annotated[
        bool, typer.Option("--replicate", help="Bring it to its regions, or to those named.")
    ] = False,
    source_region: Annotated[
        str | None, typer.Option("--source-region", metavar="R", help="Read from there.")
    ] = None,
    target_regions: Annotated[
        list[str] | None,
        typer.Option(
            "--target-regions", metavar="R[,R]", help="Bring it there; repeat it, or use commas."
        ),
    ] = None,
    verify_checksum: Annotated[
        bool, typer.Option("--verify-checksum", help="Check its replicas against the manifest.")
    ] = False,
    deep: Annotated[
        bool, typer.Option("--deep", help="With --verify-checksum: read every byte.")
    ] = False,
    queue_depth: Annotated[
        bool, typer.Option("--queue-depth", help="How many placements are pending.")
    ] = False,
    list_pending: Annotated[
        bool, typer.Option("--list-pending", help="Which ones, their bytes and their age.")
    ] = False,
    plan: options.PlanOnly = False,
) -> int:
    """Replicate, check and look, as old runbooks do it; see `mlplatform --help` for the new way."""
    from mlplatform.core.errors import UsageError
    from mlplatform.replication import operations

    moves = replicate or plan or source_region is not None or bool(target_regions)
    asks = status or check_status
    codes = []
    if not (moves or asks or verify_checksum or queue_depth or list_pending):
        raise UsageError("nothing was asked", hint=f"{PROG} --help")
    with replicas_of(session) as replicas:
        if queue_depth or list_pending:
            codes.append(_show_pending(session, replicas, model_id, listed=list_pending))
        if moves or asks or verify_checksum:
            if model_id is None:
                raise UsageError("--model-id is missing", hint="name, name@version or name-v1.2.0")
            subject = operations.resolve(replicas, model_id)
            if moves:
                codes.append(
                    _move(session, replicas, subject, source_region, target_regions, plan=plan)
                )
            if verify_checksum:
                codes.append(_verify(session, replicas, subject, deep=deep))
            if asks:
                codes.append(_show_status(session, replicas, subject))
    return outranking(codes)


def _move(
    session: Session,
    replicas: Replicas,
    subject: ModelVersion,
    source: str | None,
    targets: list[str] | None,
    *,
    plan: bool,
) -> int:
    from mlplatform.cli.plans import said_by, show_outcomes, show_plans
    from mlplatform.replication import operations

    request = operations.request_for(
        replicas, subject, source=source, targets=options.split(targets)
    )
    if plan:
        return show_plans(session, operations.plan_replication(replicas, request))
    report = operations.replicate(replicas, request, wait="silent", said=said_by(session))
    return show_outcomes(session, report)


def _verify(session: Session, replicas: Replicas, subject: ModelVersion, *, deep: bool) -> int:
    from mlplatform.cli.commands.replication import show_verifications
    from mlplatform.replication import operations
    from mlplatform.replication.verify import Depth

    found = operations.check(replicas, subject, [], Depth.DEEP if deep else Depth.QUICK)
    return show_verifications(session, subject, found)


def _show_status(session: Session, replicas: Replicas, subject: ModelVersion) -> int:
    grid = replicas.catalogue.grid([subject])
    rows = [_status_row(placement) for placement in grid]
    session.show(
        "statuses",
        rows,
        columns=[
            Column("region"),
            Column("status"),
            Column("size_bytes", "BYTES", size, right=True),
            Column("digest"),
            Column("detail", optional=True),
        ],
    )
    return outranking(row["exit_code"] for row in rows)


def _status_row(placement: Placement) -> dict[str, Any]:
    from mlplatform.core.placement import Integrity

    word, exit_code = {
        Integrity.VERIFIED: ("COMPLETED", 0),
        Integrity.PARTIAL: ("PENDING", 0),
        Integrity.ABSENT: ("PENDING" if placement.wanted else "NONE", 0),
        Integrity.MISMATCH: ("FAILED", 3),
        Integrity.UNKNOWN: ("UNKNOWN", 5),
    }[placement.integrity]
    return {
        "model": placement.subject.model,
        "version": placement.subject.version,
        "region": placement.region,
        "status": f"ReplicationStatus: {word}",
        "size_bytes": placement.size_bytes,
        "digest": placement.digest,
        "detail": placement.detail,
        "exit_code": exit_code,
    }


def _show_pending(
    session: Session, replicas: Replicas, model_id: str | None, *, listed: bool
) -> int:
    from mlplatform.replication import operations

    subjects = [operations.resolve(replicas, model_id)] if model_id else None
    grid = replicas.catalogue.grid(subjects)
    found = operations.pending(grid, replicas.clock.now())
    rows = [
        {
            "model": each.placement.subject.model,
            "version": each.placement.subject.version,
            "region": each.placement.region,
            "size_bytes": each.size_bytes,
            "age_seconds": each.lag_seconds,
            "since": each.since,
            "detail": each.placement.detail,
        }
        for each in found
    ]
    if listed:
        session.show(
            "pending",
            rows,
            columns=[
                Column("model"),
                Column("version"),
                Column("region"),
                Column("size_bytes", "BYTES", size, right=True),
                Column("age_seconds", "AGE", duration, right=True),
                Column("detail", optional=True),
            ],
        )
        if not rows and session.output is Output.TABLE:
            session.say("nothing is pending")
    else:
        known = [each.size_bytes for each in found if each.size_bytes is not None]
        row = {
            "queue_depth": len(found),
            "pending_bytes": sum(known),
            "unknown_sizes": len(found) - len(known),
        }
        session.show(
            "queue",
            [row],
            columns=[
                Column("queue_depth", right=True),
                Column("pending_bytes", "BYTES", size, right=True),
                Column("unknown_sizes", right=True),
            ],
        )
    for reason in grid.unreadable.values():
        session.console.warn(reason)
    return 5 if grid.unreadable else 0


def main() -> None:
    """Run the line, as the process that it is."""
    frame.main(lambda: frame.to_click(model_replicator), prog=PROG)
