"""A version, from a region's store into a folder: whole and verified, or not there at all.

    <folder>/.preload/<model>/<version>/…     while it is fetched
    <folder>/<model>/<version>/…              then, by one rename

Blocks are fetched several at once, and each is checked against the manifest's CRC64NVME and CRC32C
of it as its bytes come; the file's BLAKE3 is checked before the rename. There is no ledger of what
is done: a block that lies there already and is right by its digest is not fetched again, so that
whoever comes after a crash, a kill or a lost connection goes on, byte for byte.

Kept for that: what was interrupted. Not kept: what is damaged, is gone from the store, or fills the
disk. Two processes that want the same version wait for each other (flock), and the second finds it.
"""

from __future__ import annotations

import base64
import binascii
import errno
import fcntl
import logging
import os
import shutil
import struct
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from mlplatform_serving.errors import LoadFailed, ServingError
from mlplatform_serving.models.manifest import (
    MANIFEST,
    MANIFEST_BYTES_MAX,
    FileEntry,
    Manifest,
    ModelFiles,
    parse_manifest,
)
from mlplatform_serving.models.progress import Progress
from mlplatform_serving.names import is_name
from mlplatform_serving.stores.opened import open_reader
from mlplatform_serving.stores.source import (
    Damaged,
    DiskFull,
    NotInStore,
    ObjectReader,
    StoreDenied,
    StoreFailed,
)

log = logging.getLogger("model_loader")

STAGING = ".preload"
SLOW_BYTES_PER_SECOND = 100e6
"""Below this a runbook looks for what is slow: disk, network or store."""
JUDGED_BYTES_MIN = 16 * 2**20
"""Below this a rate says more of the way there and back than of the bytes."""
_PIECE_BYTES = 8 * 2**20
_ATTEMPTS = 3
"""How often a block is asked for that comes damaged: a proxy may have been it, not the store."""
_SPARE_BYTES = 64 * 2**20
"""Left free on the disk, for those who share it."""
_PACKED = struct.Struct(">QI")


@dataclass(frozen=True, slots=True)
class Fetched:
    """What a fetch has done."""

    size_bytes: int
    fetched_bytes: int
    seconds: float
    there_already: bool = False

    @property
    def bytes_per_second(self) -> float:
        """0 where nothing was fetched."""
        return self.fetched_bytes / self.seconds if self.seconds else 0.0

    @property
    def slow(self) -> bool:
        """Whether somebody should look at it. A few bytes say nothing of a rate."""
        enough = self.fetched_bytes >= JUDGED_BYTES_MIN
        return enough and self.bytes_per_second < SLOW_BYTES_PER_SECOND


@dataclass(frozen=True, slots=True)
class _Block:
    """A run of bytes of a file, and both its digests."""

    entry: FileEntry
    start: int
    stop: int
    crc64nvme: int
    crc32c: int


class StoreSource:
    """A region's store as a source of versions."""

    def __init__(self, url: str, *, concurrent: int = 8) -> None:
        """`StoreURLWrong` or `StoreFailed` if it cannot be one; `concurrent` reads at once."""
        self._reader: ObjectReader = open_reader(url)
        self._concurrent = concurrent
        self._slow_told = False

    def models(self) -> list[str]:
        """See the port."""
        return [each for each in self._reader.folders("models") if is_name(each)]

    def versions(self, model: str) -> list[str]:
        """See the port. Published is what has a manifest, which is written last, and is not
        withdrawn."""
        return [
            each
            for each in self._reader.folders(f"models/{model}")
            if is_name(each)
            and self._has(f"models/{model}/{each}/{MANIFEST}")
            and not self._has(_withdrawal(model, each))
        ]

    def _has(self, key: str) -> bool:
        try:
            self._reader.size_bytes(key)
        except NotInStore:
            return False
        return True

    def fetch(self, model: str, version: str, folder: Path, progress: Progress) -> None:
        """See the port."""
        self.preload(model, version, folder, progress)

    def preload(self, model: str, version: str, folder: Path, progress: Progress) -> Fetched:
        """`fetch`, and what it has done. A version that is there already is verified, and what is
        damaged of it is fetched anew."""
        progress.begin("fetching the manifest")
        if self._has(_withdrawal(model, version)):
            raise LoadFailed(f"{model}@{version} was withdrawn from the store")
        body = self._reader.read_whole(f"models/{model}/{version}/{MANIFEST}", MANIFEST_BYTES_MAX)
        manifest = parse_manifest(body)
        if (manifest.model, manifest.version) != (model, version):
            raise Damaged(
                f"Model version mismatch: the manifest there is of {manifest.model}@"
                f"{manifest.version}"
            )
        try:
            fetched = _Fetch(self._reader, manifest, body, folder, progress, self._concurrent).run()
        except OSError as error:
            raise _disk(error) from error
        self._tell(manifest, fetched)
        return fetched

    def _tell(self, manifest: Manifest, fetched: Fetched) -> None:
        rate = fetched.bytes_per_second
        told = {
            "model": manifest.model,
            "version": manifest.version,
            "bytes": fetched.size_bytes,
            "fetched_bytes": fetched.fetched_bytes,
            "duration_seconds": round(fetched.seconds, 3),
            "bytes_per_second": round(rate),
        }
        log.info(
            "model_preload: %s@%s: %.1f MB, of these %.1f MB fetched in %.2f s, %.0f MB/s",
            *(manifest.model, manifest.version, fetched.size_bytes / 1e6),
            *(fetched.fetched_bytes / 1e6, fetched.seconds, rate / 1e6),
            extra=told,
        )
        if fetched.slow and not self._slow_told:
            self._slow_told = True
            log.warning(
                "preloading is slow: %.0f MB/s, where 100 MB/s are to be expected: look at the "
                "disk of MODEL_CACHE_DIR, the network, and whether the store is in this region",
                rate / 1e6,
                extra=told,
            )


def _withdrawal(model: str, version: str) -> str:
    return f".mlplatform/withdrawn/{model}/{version}.json"


class _Fetch:
    """One version on its way."""

    def __init__(
        self,
        reader: ObjectReader,
        manifest: Manifest,
        body: bytes,
        folder: Path,
        progress: Progress,
        concurrent: int,
    ) -> None:
        self._reader = reader
        self._manifest = manifest
        self._body = body
        self._progress = progress
        self._concurrent = concurrent
        self._target = folder / manifest.model / manifest.version
        self._staging = folder / STAGING / manifest.model / manifest.version
        self._lock = folder / STAGING / f"{manifest.model}@{manifest.version}.lock"
        self._fetched_bytes = 0
        self._counting = threading.Lock()

    def run(self) -> Fetched:
        size_bytes = sum(entry.size_bytes for entry in self._manifest.files)
        self._staging.parent.mkdir(parents=True, exist_ok=True)
        self._target.parent.mkdir(parents=True, exist_ok=True)
        self._progress.begin("waiting for another process that fetches it")
        with _locked(self._lock):
            if self._target.exists() and not self._take_up_what_is_there():
                return Fetched(size_bytes, 0, 0.0, there_already=True)
            self._progress.begin("fetching", size_bytes)
            try:
                self._fetch(size_bytes)
            except (Damaged, DiskFull, NotInStore):
                shutil.rmtree(self._staging, ignore_errors=True)
                raise
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                    shutil.rmtree(self._staging, ignore_errors=True)
                raise
            seconds = self._progress.seconds
            self._publish()
        return Fetched(size_bytes, self._fetched_bytes, seconds)

    def _take_up_what_is_there(self) -> bool:
        """Whether what is there is damaged; then it is no version any more, but its good blocks are
        not fetched again. `Damaged` if it is another than the store's: nobody publishes a version
        twice, and a person must say which is right."""
        there = self._target / MANIFEST
        with suppress(FileNotFoundError):
            if there.read_bytes() != self._body:
                raise Damaged(
                    f"{self._manifest.model}@{self._manifest.version} lies there with another "
                    "manifest than the store's; remove the wrong one"
                )
        try:
            self._progress.begin(
                "verifying what is there",
                sum(entry.size_bytes for entry in self._manifest.files),
            )
            ModelFiles(self._target, self._progress).verify()
        except LoadFailed as error:
            self._progress.check()
            log.warning("what is there is repaired: %s", error)
        else:
            return False
        shutil.rmtree(self._staging, ignore_errors=True)
        self._target.rename(self._staging)
        (self._staging / MANIFEST).unlink(missing_ok=True)
        return True

    def _fetch(self, size_bytes: int) -> None:
        self._staging.mkdir(exist_ok=True)
        self._check_room(size_bytes)
        stopping = threading.Event()
        with ThreadPoolExecutor(self._concurrent, thread_name_prefix="preload") as pool:
            work = [
                pool.submit(self._block, path, block, there, stopping)
                for path, block, there in self._blocks()
            ]
            done, _ = wait(work, return_when=FIRST_EXCEPTION)
            stopping.set()
            for each in work:
                each.cancel()
        for each in done:
            each.result()
        # Those that were running when another failed.
        for each in work:
            if not each.cancelled():
                each.result()

    def _check_room(self, size_bytes: int) -> None:
        """Before a byte is fetched: a full disk harms everybody on it."""
        there = sum(
            path.stat().st_blocks * 512 for path in self._staging.rglob("*") if path.is_file()
        )
        free = shutil.disk_usage(self._staging).free
        if size_bytes - there > free - _SPARE_BYTES:
            raise DiskFull(
                f"{self._manifest.model}@{self._manifest.version} takes {size_bytes} bytes, and "
                f"the disk of MODEL_CACHE_DIR has {free} left"
            )

    def _blocks(self) -> Iterator[tuple[Path, _Block, bool]]:
        """Every block, in the file that is made for it; and whether something lies there."""
        for entry in self._manifest.files:
            path = self._staging / entry.path
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
            try:
                there = os.fstat(descriptor).st_size > 0
                os.ftruncate(descriptor, entry.size_bytes)
            finally:
                os.close(descriptor)
            for block in _blocks_of(entry, self._manifest.block_bytes):
                yield path, block, there

    def _block(self, path: Path, block: _Block, there: bool, stopping: threading.Event) -> None:  # noqa: FBT001
        """Have one block there. A file is opened for each: a version may have more files than a
        process may have open."""
        if stopping.is_set():
            return
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            if there and self._is_there(descriptor, block):
                self._progress.add(block.stop - block.start)
                return
            for attempt in range(1, _ATTEMPTS + 1):
                if self._read(descriptor, block, stopping):
                    return
                if stopping.is_set():
                    return
                log.warning(
                    "Checksum mismatch: %s came damaged, attempt %d", block.entry.path, attempt
                )
            raise Damaged(
                f"Checksum mismatch: the store's {block.entry.path} is not what was published, in "
                f"bytes {block.start} to {block.stop}"
            )
        finally:
            os.close(descriptor)

    def _is_there(self, descriptor: int, block: _Block) -> bool:
        crc = _Crc()
        for start in range(block.start, block.stop, _PIECE_BYTES):
            self._progress.check()
            crc.add(os.pread(descriptor, min(_PIECE_BYTES, block.stop - start), start))
        return crc.of(block)

    def _read(self, descriptor: int, block: _Block, stopping: threading.Event) -> bool:
        """Whether it came as it was published."""
        key = block.entry.key or (
            f"models/{self._manifest.model}/{self._manifest.version}/{block.entry.path}"
        )
        crc, size = _Crc(), 0
        for start in range(block.start, block.stop, _PIECE_BYTES):
            if stopping.is_set():
                return False
            stop = min(start + _PIECE_BYTES, block.stop)
            piece = self._piece(key, start, stop)
            if piece.nbytes != stop - start:
                raise Damaged(f"the store's {block.entry.path} is cut short")
            crc.add(piece)
            _write(descriptor, piece, start)
            size += piece.nbytes
            with self._counting:
                self._fetched_bytes += piece.nbytes
                self._progress.add(piece.nbytes)
        if crc.of(block):
            return True
        with self._counting:
            self._progress.done_bytes -= size
        return False

    def _piece(self, key: str, start: int, stop: int) -> memoryview:
        """Nothing, where the object is known to end before."""
        try:
            return memoryview(self._reader.read(key, start, stop))
        except (StoreDenied, NotInStore):
            raise
        except StoreFailed:
            if self._reader.size_bytes(key) < stop:
                return memoryview(b"")
            raise

    def _publish(self) -> None:
        """Verify what lies on the disk, all together, and let it be seen."""
        named = {self._staging / entry.path for entry in self._manifest.files}
        for path in list(self._staging.rglob("*")):
            if path not in named and (path.is_symlink() or not path.is_dir()):
                path.unlink()
        manifest = self._staging / MANIFEST
        try:
            manifest.write_bytes(self._body)
            self._progress.begin(
                "verifying", sum(entry.size_bytes for entry in self._manifest.files)
            )
            ModelFiles(self._staging, self._progress).verify()
        except LoadFailed as error:
            manifest.unlink(missing_ok=True)
            self._progress.check()
            shutil.rmtree(self._staging, ignore_errors=True)
            raise Damaged(error.message) from error
        for path in (*named, manifest, self._staging):
            _sync(path)
        self._staging.rename(self._target)
        _sync(self._target.parent)


class _Crc:
    """Both digests of a run of bytes, piece by piece."""

    def __init__(self) -> None:
        from awscrt import checksums

        self._checksums = checksums
        self._crc64nvme = self._crc32c = 0

    def add(self, piece: bytes | memoryview) -> None:
        if len(piece):
            self._crc64nvme = self._checksums.crc64nvme(piece, self._crc64nvme)
            self._crc32c = self._checksums.crc32c(piece, self._crc32c)

    def of(self, block: _Block) -> bool:
        return (self._crc64nvme, self._crc32c) == (block.crc64nvme, block.crc32c)


def _blocks_of(entry: FileEntry, block_bytes: int) -> Sequence[_Block]:
    """As the manifest packs them: twelve bytes a block, base64; none where one block is all."""
    if entry.size_bytes <= block_bytes:
        whole = _Block(entry, 0, entry.size_bytes, int(entry.crc64nvme, 16), int(entry.crc32c, 16))
        return [whole] if entry.size_bytes else []
    try:
        packed = base64.b64decode(entry.blocks, validate=True)
        digests = list(_PACKED.iter_unpack(packed))
    except (binascii.Error, struct.error) as error:
        raise Damaged(f"{MANIFEST}: the blocks of {entry.path} cannot be read") from error
    starts = range(0, entry.size_bytes, block_bytes)
    if len(digests) != len(starts):
        raise Damaged(f"{MANIFEST}: {entry.path} has another number of blocks than its size says")
    return [
        _Block(entry, start, min(start + block_bytes, entry.size_bytes), *crcs)
        for start, crcs in zip(starts, digests, strict=True)
    ]


def _write(descriptor: int, piece: memoryview, at: int) -> None:
    while piece.nbytes:
        written = os.pwrite(descriptor, piece, at)
        piece, at = piece[written:], at + written


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Held by whoever fetches; the file stays, for a lock on a file that is gone locks nobody."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _disk(error: OSError) -> ServingError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return DiskFull("the disk of MODEL_CACHE_DIR is full")
    return LoadFailed(f"the folder of models cannot be written: {os.strerror(error.errno or 0)}")
