"""A version onto a local disk: resumable, every block verified, visible only when it is whole."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from mlplatform.core.errors import IntegrityError, NotFound, UsageError
from mlplatform.core.manifest import Manifest
from mlplatform.ports.clock import Clock
from mlplatform.ports.progress import Progress
from mlplatform.ports.store import ObjectStore
from mlplatform.replication.records import make_visible
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
    partial = folder.parent / f".{folder.name}.{manifest.version}.partial"
    try:
        if (folder.is_symlink() or folder.exists()) and _holds(folder, manifest):
            shutil.rmtree(partial, ignore_errors=True)
            return Pulled(folder, manifest.digest, 0, already_there=True)
        partial.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"{folder}: cannot pull there: {error.strerror}",
            hint="name a folder that does not exist yet, where you may write",
        ) from error
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
        replaces_tag=_tag_of(store, manifest.subject.manifest_key),
        now=now,
        writer=writer,
        nonce=nonce,
    )
    try:
        _appear(partial, folder, manifest)
    except OSError as error:
        raise UsageError(
            f"{folder}: cannot be made: {error.strerror}",
            hint=f"the bytes are all in {partial}; put right what is in the way, then pull again",
        ) from error
    return Pulled(folder, manifest.digest, target.sent_bytes, already_there=False)


def _tag_of(store: ObjectStore, key: str) -> str | None:
    """Nobody reads this store before the rename: a manifest left by an earlier pull may go."""
    try:
        return store.stat(key).tag
    except NotFound:
        return None


def _appear(partial: Path, folder: Path, manifest: Manifest) -> None:
    """One rename, of a folder that holds the version's files and nothing else."""
    gathered = partial / manifest.subject.prefix
    for entry in manifest.files:
        if entry.key is not None:
            home = gathered / entry.path
            home.parent.mkdir(parents=True, exist_ok=True)
            (partial / entry.key).rename(home)
    wanted = {gathered / entry.path for entry in manifest.files} | {gathered / "manifest.json"}
    for found in list(gathered.rglob("*")):
        if found not in wanted and (found.is_symlink() or not found.is_dir()):
            found.unlink()  # left by an earlier pull of other bytes
    gathered.rename(folder)
    shutil.rmtree(partial, ignore_errors=True)


def _holds(folder: Path, manifest: Manifest) -> bool:
    """Whether the folder is this version already; `UsageError` when it is something else."""
    if folder.is_dir() and not folder.is_symlink() and not any(folder.iterdir()):
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
