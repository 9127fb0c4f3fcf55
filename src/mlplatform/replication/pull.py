"""A version onto a local disk: resumable, every block verified, visible only when it is whole."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from mlplatform.core.errors import IntegrityError, UsageError
from mlplatform.core.manifest import Manifest
from mlplatform.ports.clock import Clock
from mlplatform.ports.progress import Progress
from mlplatform.ports.store import ObjectStore
from mlplatform.replication.catalogue import make_visible
from mlplatform.replication.transfer import Settings, Source, TargetRequest, Transfer


@dataclass(frozen=True, slots=True)
class Pulled:
    """What a pull did."""

    folder: Path
    digest: str
    received_bytes: int
    already_there: bool


def pull(
    manifest: Manifest,
    source: Source,
    folder: Path,
    open_folder: Callable[[Path], ObjectStore],
    *,
    clock: Clock,
    progress: Progress,
    writer: str,
    now: datetime,
    nonce: str,
    stop: Callable[[], bool],
    settings: Settings | None = None,
) -> Pulled:
    """Bring `manifest` into `folder`, which then holds its files and `manifest.json`.

    The bytes gather beside it in `.<folder>.<version>.partial`, where a second run finds them;
    one rename makes the folder appear. `UsageError` when something else is there.
    """
    folder = folder.absolute()
    if folder.exists() and _holds(folder, manifest):
        return Pulled(folder, manifest.digest, 0, already_there=True)
    partial = folder.parent / f".{folder.name}.{manifest.version}.partial"
    partial.mkdir(parents=True, exist_ok=True)
    store = open_folder(partial)
    request = TargetRequest(str(folder), store)
    report = Transfer(
        manifest, source, [request], clock=clock, progress=progress, stop=stop, settings=settings
    ).run()
    target = report.targets[str(folder)]
    if target.error is not None:
        raise target.error
    make_visible(
        store,
        str(folder),
        manifest,
        target.objects,
        replaces_tag=None,
        now=now,
        writer=writer,
        nonce=nonce,
    )
    gathered = partial / manifest.subject.prefix
    for entry in manifest.files:
        if entry.key is not None:
            home = gathered / entry.path
            home.parent.mkdir(parents=True, exist_ok=True)
            (partial / entry.key).rename(home)
    gathered.rename(folder)
    shutil.rmtree(partial)
    return Pulled(folder, manifest.digest, target.sent_bytes, already_there=False)


def _holds(folder: Path, manifest: Manifest) -> bool:
    """Whether the folder is this version already; `UsageError` when it is something else."""
    if folder.is_dir() and not any(folder.iterdir()):
        return False
    stated = folder / "manifest.json"
    if stated.is_file():
        try:
            there = Manifest.parse(stated.read_bytes(), where=str(stated))
        except IntegrityError:
            there = None
        if there == manifest:
            wrong = [
                entry.path
                for entry in manifest.files
                if not (folder / entry.path).is_file()
                or (folder / entry.path).stat().st_size != entry.size_bytes
            ]
            if not wrong:
                return True
            raise UsageError(
                f"{folder}: {manifest.subject} was pulled here, but {wrong[0]} is gone or changed",
                hint="remove the folder and pull again",
            )
    raise UsageError(
        f"{folder}: is not empty and does not hold {manifest.subject}",
        hint="name a folder that does not exist yet",
    )
