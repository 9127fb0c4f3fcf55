"""The commands of replication: parse, call one operation, render."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlplatform.cli import options
from mlplatform.cli.errors import UNREADABLE_HINT, outranking
from mlplatform.cli.frame import command
from mlplatform.cli.render import Output
from mlplatform.cli.session import Session

if TYPE_CHECKING:
    from mlplatform.control.journal import Journal
    from mlplatform.core.placement import ModelVersion
    from mlplatform.replication.effects import Replicas
    from mlplatform.replication.verify import Verification

Reference = Annotated[
    str,
    typer.Argument(
        metavar="MODEL[@VERSION]",
        help="A version; a bare model means the version that the topology wants.",
    ),
]
Wait = Annotated[
    bool,
    typer.Option(
        "--wait", help="Wait for whoever is at work on it; a holder that died is waited for anyway."
    ),
]


@contextmanager
def replicas_of(session: Session, *, region_timeout: float = 30.0) -> Iterator[Replicas]:
    """Replication over the operator's topology, with progress, stopped in good order by Ctrl-C."""
    from mlplatform.replication.model_replicator import open_replicas

    topology = session.topology()
    with session.working() as work:
        yield open_replicas(
            topology,
            progress=work.progress,
            stop=work.stop,
            region_timeout_seconds=region_timeout,
        )


@command
def publish(
    session: Session,
    path: Annotated[
        Path | None, typer.Argument(help="The folder or file that is the model.")
    ] = None,
    *,
    model: Annotated[
        str | None, typer.Option("--model", metavar="NAME", help="The model's name.")
    ] = None,
    version: Annotated[
        str | None,
        typer.Option(
            "--version", metavar="VERSION", help="The version; it never changes afterwards."
        ),
    ] = None,
    region: Annotated[
        str | None, typer.Option("--region", metavar="REGION", help="Where; else the model's home.")
    ] = None,
    adopt: Annotated[
        str | None,
        typer.Option(
            "--adopt",
            metavar="KEY",
            help="Publish an object that lies in the region already, where it lies.",
        ),
    ] = None,
    requires: Annotated[
        list[str] | None,
        typer.Option(
            "--requires",
            metavar="NAME=VALUE",
            help="What it needs to run: format, runtime, accelerator, compute_capability, cuda.",
        ),
    ] = None,
    follow_symlinks: Annotated[
        bool, typer.Option("--follow-symlinks", help="Publish what symlinks point to.")
    ] = False,
    plan: options.PlanOnly = False,
    wait: Wait = False,
) -> int:
    """Publish a model version in a region: every byte digested, the manifest last.

    $ mlplatform publish ./resnet50 --model resnet50 --version v1.2.0
    $ mlplatform publish --adopt models/resnet50-v1.0.0.pth --region us-east-1
    """
    from mlplatform.cli.plans import requirements_of, said_by, show_outcomes, show_plans
    from mlplatform.control.reconcile import propose
    from mlplatform.core.errors import UsageError
    from mlplatform.core.placement import ModelVersion
    from mlplatform.replication import operations

    subject = ModelVersion(model, version) if model and version else None
    with replicas_of(session) as replicas:
        if adopt is not None:
            if region is None:
                raise UsageError("--adopt needs --region", hint="name the region that holds it")
            controller = operations.adopter(replicas, adopt, subject, region)
        elif path is None or subject is None:
            missing = "PATH" if path is None else "--model" if not model else "--version"
            raise UsageError(
                f"{missing} is missing",
                hint="mlplatform publish PATH --model NAME --version VERSION",
            )
        else:
            controller = operations.publisher(
                replicas,
                path,
                subject,
                region,
                requirements=requirements_of(requires or []),
                follow_symlinks=follow_symlinks,
            )
        if plan:
            return show_plans(session, propose(controller, replicas.clock))
        report = operations.publish(
            replicas, controller, wait=wait or "silent", said=said_by(session)
        )
    return show_outcomes(session, report, digest=controller.manifest.digest)


@command
def replicate(
    session: Session,
    reference: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL[@VERSION]",
            help="A version; without one, everything that the topology wants.",
        ),
    ] = None,
    *,
    source: Annotated[
        str | None, typer.Option("--from", metavar="REGION", help="Read from there.")
    ] = None,
    to: Annotated[
        list[str] | None,
        typer.Option(
            "--to", metavar="REGION", help="Bring it there; else wherever the topology wants it."
        ),
    ] = None,
    plan: options.PlanOnly = False,
    wait: Wait = False,
    yes: options.Yes = False,  # noqa: ARG001 - runbooks give it; nothing here asks
    watch: Annotated[
        bool, typer.Option("--watch", help="Go on for ever, and serve /metrics.")
    ] = False,
    interval: Annotated[
        float, typer.Option("--interval", metavar="SECONDS", help="Between rounds of --watch.")
    ] = 60.0,
    metrics: Annotated[
        str, typer.Option("--metrics", metavar="HOST:PORT", help="Where --watch serves /metrics.")
    ] = "127.0.0.1:9464",
) -> int:
    """Bring versions to the regions that should hold them; repair what a check found wrong.

    What is done is done once: run it again and it goes on from there. `--yes` is accepted for
    runbooks; replication never destroys anything, so it never asks.

    $ mlplatform replicate --plan
    $ mlplatform replicate
    $ mlplatform replicate resnet50@v1.2.0 --to eu-west-1,europe-west4
    $ mlplatform replicate --watch
    """
    from mlplatform.cli.plans import said_by, show_outcomes, show_plans
    from mlplatform.core.errors import UsageError
    from mlplatform.replication import operations

    with replicas_of(session) as replicas:
        if watch:
            from mlplatform.replication.watch import watch as watch_all

            if reference or to or source or plan:
                raise UsageError("--watch follows the topology; it takes no version or region")
            return watch_all(
                replicas, interval_seconds=interval, serve_at=metrics, said=said_by(session)
            )
        if reference is None:
            if to or source:
                raise UsageError("name the version: mlplatform replicate MODEL[@VERSION] --to …")
            requests = operations.requests_of_topology(replicas)
        else:
            subject = operations.resolve(replicas, reference)
            requests = [
                operations.request_for(replicas, subject, source=source, targets=options.split(to))
            ]
        if plan:
            plans = [operations.plan_replication(replicas, request) for request in requests]
            return show_plans(session, *plans)
        reports = [
            operations.replicate(replicas, request, wait=wait or "silent", said=said_by(session))
            for request in requests
        ]
    return show_outcomes(session, *reports)


@command
def verify(
    session: Session,
    reference: Reference,
    *,
    regions: options.Regions = None,
    deep: Annotated[
        bool, typer.Option("--deep", help="Read every byte; else ask the stores.")
    ] = False,
) -> int:
    """Check replicas against the manifest: by asking the stores, or --deep by reading.

    Exit 3: a mismatch, which demotes the placement until `replicate` repairs it. Exit 5: something
    could not be read.

    $ mlplatform verify resnet50
    $ mlplatform verify resnet50@v1.2.0 --region eu-west-1 --deep
    """
    from mlplatform.replication import operations
    from mlplatform.replication.verify import Depth

    with replicas_of(session) as replicas:
        subject = operations.resolve(replicas, reference)
        found = operations.check(
            replicas, subject, options.split(regions), Depth.DEEP if deep else Depth.QUICK
        )
    return show_verifications(session, subject, found)


def show_verifications(
    session: Session, subject: ModelVersion, found: Mapping[str, Verification]
) -> int:
    """What was checked, region by region, and what to type where it is wrong."""
    from mlplatform.cli.render import Column, size
    from mlplatform.replication.verify import exit_code

    rows = [
        {
            "model": subject.model,
            "version": subject.version,
            "region": region,
            "verdict": result.verdict.value,
            "depth": result.depth.value,
            "checked_files": result.checked_files,
            "checked_bytes": result.checked_bytes,
            "findings": [finding.model_dump(mode="json") for finding in result.findings],
            "unknown": result.unknown,
            "detail": "\n".join([*map(str, result.findings), *result.unknown][:20]),
        }
        for region, result in found.items()
    ]
    session.show(
        "verifications",
        rows,
        columns=[
            Column("region"),
            Column("verdict", style=_colour_of_verdict),
            Column("depth"),
            Column("checked_files", "FILES", right=True),
            Column("checked_bytes", "BYTES", size, right=True),
            Column("detail", optional=True),
        ],
    )
    for region, result in found.items():
        if any(finding.problem == "manifest" for finding in result.findings):
            session.say(
                f"{subject} in {region} is demoted; see what can be done: "
                f"mlplatform replicate {subject} --to {region} --plan"
            )
        elif result.findings:
            session.say(
                f"{subject} in {region} is demoted; repair it: "
                f"mlplatform replicate {subject} --to {region}"
            )
    if any(result.unknown and not result.checked_files for result in found.values()):
        session.say(UNREADABLE_HINT, level="hint")
    return exit_code(found.values())


def _colour_of_verdict(verdict: object) -> str | None:
    return {"good": "green", "mismatch": "red", "unknown": "yellow", "absent": "red"}.get(
        str(verdict)
    )


@command
def status(
    session: Session,
    reference: Annotated[
        str | None, typer.Argument(metavar="MODEL[@VERSION]", help="Only this one.")
    ] = None,
    *,
    watch: Annotated[
        bool, typer.Option("--watch", help="Draw it again every few seconds.")
    ] = False,
    interval: Annotated[
        float, typer.Option("--interval", metavar="SECONDS", min=0.5, help="Between drawings.")
    ] = 5.0,
    cost: Annotated[
        bool, typer.Option("--cost", help="What each placement costs a month, by list prices.")
    ] = False,
    region_timeout: options.RegionTimeout = 10.0,
) -> int:
    """Show the grid: which version is where, how its bytes were proven, and who serves it.

    Loaded, warm and serving are shown where the topology has routes. With `--cost`, what storing
    and serving each placement costs a month, by the same tables that price plans; what they do not
    know stays unknown, and is told.

    $ mlplatform status
    $ mlplatform status resnet50 --watch
    $ mlplatform status --cost
    """
    from mlplatform.cli.costs import open_pricing
    from mlplatform.cli.grid import looking_at_traffic, show_grid
    from mlplatform.replication import operations

    with replicas_of(session, region_timeout=region_timeout) as replicas:
        pricing = open_pricing(replicas.topology) if cost else None
        serving = looking_at_traffic(replicas.topology, replicas.stop, region_timeout)
        while True:
            subjects = [operations.resolve(replicas, reference)] if reference else None
            grid = replicas.catalogue.grid(subjects)
            code = show_grid(
                session,
                grid,
                replicas.topology,
                replicas.clock.now(),
                serving=serving(grid),
                pricing=pricing,
                clear=watch,
            )
            if not watch or replicas.stop() or session.console.reader_gone:
                return code
            replicas.clock.sleep(interval)


@command
def versions(
    session: Session,
    model: Annotated[str | None, typer.Argument(help="Only this model.")] = None,
) -> int:
    """List published versions, and the regions that hold them.

    Pinned is what a rollout under way may go back to there: it must not be removed.

    $ mlplatform versions resnet50
    """
    from mlplatform.cli.render import Column
    from mlplatform.replication import operations

    with replicas_of(session) as replicas:
        rows, unreadable = operations.list_versions(replicas, model)
    session.show(
        "versions",
        rows,
        columns=[
            Column("model"),
            Column("version"),
            Column("regions"),
            Column("wanted"),
            Column("pinned", optional=True),
            Column("withdrawn"),
        ],
        unreadable=unreadable,
    )
    if not rows and session.output is Output.TABLE:
        session.say(f"no version of {model} is published" if model else "nothing is published")
    for reason in unreadable.values():
        session.console.warn(reason)
    return 5 if unreadable else 0


@command
def pull(
    session: Session,
    reference: Reference,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that does not exist.")],
    *,
    source: Annotated[
        str | None, typer.Option("--from", metavar="REGION", help="Read from there.")
    ] = None,
) -> int:
    """Bring a version to this machine: resumable, every block verified.

    The folder appears when it is whole.

    $ mlplatform pull resnet50 ./resnet50
    $ mlplatform pull resnet50@v1.2.0 ./resnet50 --from eu-west-1
    """
    from mlplatform.cli.render import Column, size
    from mlplatform.replication import operations
    from mlplatform.replication.model_replicator import open_folder

    with replicas_of(session) as replicas:
        subject = operations.resolve(replicas, reference)
        pulled = operations.bring_down(replicas, subject, folder, open_folder, source=source)
    row = {
        "model": subject.model,
        "version": subject.version,
        "folder": str(pulled.folder),
        "digest": pulled.digest,
        "received_bytes": pulled.received_bytes,
        "result": "nothing-to-do" if pulled.already_there else "done",
    }
    session.show(
        "pulled",
        [row],
        columns=[
            Column("folder"),
            Column("result"),
            Column("received_bytes", "RECEIVED", size, right=True),
            Column("digest"),
        ],
    )
    return 0


@command
def withdraw(
    session: Session,
    reference: Annotated[str, typer.Argument(metavar="MODEL@VERSION", help="The version.")],
    *,
    reason: Annotated[
        str, typer.Option("--reason", metavar="TEXT", help="Why; it is shown to who asks for it.")
    ],
) -> int:
    """Refuse new placements of a version; nothing is deleted.

    Replicas stay where they are, and serve.

    $ mlplatform withdraw resnet50@v1.2.0 --reason "wrong labels"
    """
    from mlplatform.cli.render import Column
    from mlplatform.core.errors import UsageError
    from mlplatform.core.placement import ModelVersion, parse_reference
    from mlplatform.core.seen import Unknown

    model, version = parse_reference(reference)
    if version is None:
        raise UsageError(f"{reference}: name the version to withdraw", hint=f"{model}@VERSION")
    subject = ModelVersion(model, version)
    with replicas_of(session) as replicas:
        done = replicas.withdraw(subject, reason)
        pins = replicas.pins.seen(model)
    rows = [
        {
            "region": region,
            "result": "unknown" if isinstance(answer, Unknown) else "withdrawn",
            "detail": answer.reason if isinstance(answer, Unknown) else "",
        }
        for region, answer in done.items()
    ]
    session.show(
        "withdrawals",
        rows,
        columns=[Column("region"), Column("result"), Column("detail", optional=True)],
    )
    session.say(f"{subject} is withdrawn: {reason}")
    if isinstance(pins, Unknown):
        session.console.warn(pins.reason)
        return 5
    for pin in pins:
        if pin.subject == subject:
            session.console.warn(
                f"{subject} is what rollout {pin.operation} goes back to in {pin.region}; to have "
                f"it end without that: mlplatform rollout promote {pin.operation} --reason TEXT"
            )
    return 5 if any(row["result"] == "unknown" for row in rows) else 0


@command
def history(
    session: Session,
    what: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[import DIR]",
            help="Take over the journal that a failover without control store kept in DIR.",
        ),
    ] = None,
    *,
    operation: Annotated[
        str | None, typer.Option("--operation", metavar="ID", help="Only this operation, whole.")
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", metavar="N", min=1, help="Only the newest N operations.")
    ] = 20,
) -> int:
    """Tell what was planned, meant and done, by whom and when.

    $ mlplatform history --limit 3
    $ mlplatform history --operation 20260102T030405Z-replicate-5b6c01
    $ mlplatform history import ./journal
    """
    from mlplatform.cli.plans import show_history
    from mlplatform.core.errors import UsageError
    from mlplatform.replication import operations

    if what and (len(what) != 2 or what[0] != "import"):
        raise UsageError(
            f"{' '.join(what)}: nothing that history does", hint="mlplatform history import DIR"
        )
    with replicas_of(session) as replicas:
        if what:
            return _import_journal(session, operations.journal_of(replicas), Path(what[1]))
        return show_history(session, operations.journal_of(replicas), operation, limit)


def _import_journal(session: Session, journal: Journal, folder: Path) -> int:
    from mlplatform.core.errors import UsageError
    from mlplatform.failover.failover_controller import open_journal_folder

    if not (folder / "journal").is_dir():
        raise UsageError(
            f"{folder}: holds no journal",
            hint="name the folder that was given to --without-control",
        )
    codes: list[int] = []
    for name, error in journal.import_from(journal.over(open_journal_folder(folder))):
        codes.append(error.exit_code if error is not None else 0)
        if error is None:
            session.say(f"imported {name}")
            continue
        session.console.say(f"{name} was not imported: {error}", level="error")
        if error.hint:
            session.say(error.hint, level="hint")
    if not codes:
        session.say("nothing to do: all of it is here")
    return 8 if any(codes) and not all(codes) else outranking(codes)


@command
def resume(
    session: Session,
    operation: Annotated[
        str | None,
        typer.Argument(metavar="ID", help="The operation; without it, every unfinished one."),
    ] = None,
    *,
    wait: Wait = False,
) -> int:
    """Finish what a crash or an interruption left.

    Finished steps are skipped; the rest is looked at anew, and then done.

    $ mlplatform resume
    """
    from mlplatform.cli.plans import said_by, show_outcomes
    from mlplatform.replication import operations

    with replicas_of(session) as replicas:
        reports = [
            report
            for _, report in operations.resume(
                replicas, operation, wait=wait or "silent", said=said_by(session)
            )
        ]
    if not reports and session.output is Output.TABLE:
        session.say("nothing is unfinished")
        return 0
    return show_outcomes(session, *reports)
