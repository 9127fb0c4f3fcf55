"""A model as it lies on a disk: which files belong to it, and their digests.

Each file is read once, in order: BLAKE3 of the whole, both CRCs of every block, and for
safetensors the BLAKE3 of every tensor. When its parts are sent, each is checked against these,
so a file that changes in between is noticed, not published.
"""

from __future__ import annotations

import json
import math
import os
import stat
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from functools import partial
from pathlib import Path
from typing import Any

from blake3 import blake3

from mlplatform.control.retry import Retry
from mlplatform.core.digest import BLOCK_BYTES, BlockDigests, Digests, digest_of
from mlplatform.core.errors import SourceChanged, UsageError
from mlplatform.core.manifest import FileEntry, Manifest, Requirements, Tensor, check_path
from mlplatform.core.placement import ModelVersion
from mlplatform.ports.store import Matches, ObjectStore, Span, Stat, read_into
from mlplatform.replication.parts import PartPlan

IGNORE_FILE = ".mlplatformignore"
GOLDEN_FILE = "golden.ndjson"
_SAFETENSORS_HEADER_BYTES_MAX = 100 * 1024 * 1024

_DTYPE_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F4": 4,
    "F6_E2M3": 6, "F6_E3M2": 6, "U16": 16, "I16": 16, "F16": 16, "BF16": 16,
    "U32": 32, "I32": 32, "F32": 32, "U64": 64, "I64": 64, "F64": 64, "C64": 64,
}  # fmt: skip
"""Those that the format has today; one that is not here is taken at its word."""

FORMATS = {
    ".safetensors": "safetensors",
    ".onnx": "onnx",
    ".pt2": "torch-export",
    ".engine": "tensorrt",
    ".plan": "tensorrt",
    ".trt": "tensorrt",
    ".gguf": "gguf",
    ".npz": "numpy",
    ".pth": "torch-checkpoint",
    ".pt": "torch-checkpoint",
}
"""By file ending. Where several formats meet, none is stated: unknown is better than a guess."""


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file to publish, and what it looked like when it was found."""

    path: str
    location: Path
    size_bytes: int
    mtime_ns: int
    inode: int


def find_files(root: Path, *, follow_symlinks: bool = False) -> list[LocalFile]:
    """The files of a folder (or the one file), sorted, without what `.mlplatformignore` names.

    `UsageError` for what is missing, empty or unreadable, for a symlink (unless followed), a
    device or socket, and for a name that no store takes.
    """
    try:
        mode = root.stat().st_mode
    except FileNotFoundError as error:
        raise UsageError(
            f"{root}: no such file or folder", hint="name the folder, or the file, of the model"
        ) from error
    except OSError as error:
        raise _unreadable(root, error) from error
    if not stat.S_ISDIR(mode):
        return [_local_file(root.absolute().name, root)]
    ignored = _ignore_rules(root)
    files = [
        _local_file(path, location)
        for path, location in _walk(root, ignored, follow_symlinks=follow_symlinks)
    ]
    if not files:
        raise UsageError(
            f"{root}: there is nothing to publish",
            hint=f"the folder is empty, or {IGNORE_FILE} leaves everything out",
        )
    return sorted(files, key=lambda file: file.path)


def _walk(
    root: Path, ignored: Callable[[str], bool], *, follow_symlinks: bool
) -> Iterator[tuple[str, Path]]:
    """Files by path. A stack, not recursion: a folder may be nested deeper than Python calls."""
    folders: list[tuple[Path, str, frozenset[tuple[int, int]]]] = [(root, "", frozenset())]
    while folders:
        folder, prefix, above = folders.pop()
        try:
            status = folder.stat()
            with os.scandir(folder) as scan:
                entries = sorted(scan, key=lambda entry: entry.name)
        except OSError as error:
            raise _unreadable(folder, error) from error
        within = above | {(status.st_dev, status.st_ino)}
        for entry in entries:
            path = f"{prefix}{entry.name}"
            kind = _kind(entry, follow_symlinks=follow_symlinks)
            if path == IGNORE_FILE or ignored(f"{path}/" if kind is _Kind.FOLDER else path):
                continue
            if kind is _Kind.FOLDER:
                target = entry.stat()
                if (target.st_dev, target.st_ino) in within:
                    raise UsageError(
                        f"{entry.path}: is a symlink to a folder that holds it",
                        hint=f"leave it out with {IGNORE_FILE}",
                    )
                folders.append((Path(entry.path), f"{path}/", within))
            elif kind is _Kind.FILE:
                yield path, Path(entry.path)
            elif kind is _Kind.SYMLINK:
                raise UsageError(
                    f"{entry.path}: is a symlink"
                    + (" that leads nowhere" if follow_symlinks else ""),
                    hint="publish what it points to, leave it out with .mlplatformignore, "
                    "or give --follow-symlinks",
                )
            else:
                raise UsageError(
                    f"{entry.path}: is neither a file nor a folder",
                    hint=f"leave it out with {IGNORE_FILE}",
                )


class _Kind(Enum):
    FILE = auto()
    FOLDER = auto()
    SYMLINK = auto()
    OTHER = auto()


def _kind(entry: os.DirEntry[str], *, follow_symlinks: bool) -> _Kind:
    try:
        if entry.is_symlink() and not (follow_symlinks and Path(entry.path).exists()):
            return _Kind.SYMLINK
        if entry.is_dir():
            return _Kind.FOLDER
        return _Kind.FILE if entry.is_file() else _Kind.OTHER
    except OSError as error:
        raise _unreadable(entry.path, error) from error


def _unreadable(path: Path | str, error: OSError) -> UsageError:
    return UsageError(
        f"{path}: cannot be read: {error.strerror}",
        hint=f"publish as a user who may read it, or leave it out with {IGNORE_FILE}",
    )


def _ignore_rules(root: Path) -> Callable[[str], bool]:
    rules = root / IGNORE_FILE
    try:
        lines = rules.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return lambda path: False
    except OSError as error:
        raise _unreadable(rules, error) from error
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{rules}: is not UTF-8 text", hint="the form is that of .gitignore"
        ) from error
    from pathspec import GitIgnoreSpec

    try:
        spec = GitIgnoreSpec.from_lines(lines)
    except ValueError as error:
        raise UsageError(f"{rules}: {error}", hint="the form is that of .gitignore") from error
    return spec.match_file


def _local_file(path: str, location: Path) -> LocalFile:
    check_path(path)
    try:
        status = location.stat()
    except OSError as error:
        raise _unreadable(location, error) from error
    if not stat.S_ISREG(status.st_mode):
        raise UsageError(f"{location}: is not a regular file")
    return LocalFile(path, location, status.st_size, status.st_mtime_ns, status.st_ino)


def digest_file(
    file: LocalFile,
    *,
    block_bytes: int = BLOCK_BYTES,
    on_bytes: Callable[[int], None] = lambda count: None,
) -> FileEntry:
    """Read the file once and state its digests. `SourceChanged` if it is not what was found."""
    whole = blake3()
    blocks: list[Digests] = []
    tensors = _TensorDigester(())
    buffer = memoryview(bytearray(min(block_bytes, max(file.size_bytes, 1))))
    offset = 0
    try:
        with open(file.location, "rb", buffering=0, opener=_open_at_once) as stream:
            if file.path.endswith(".safetensors"):
                tensors = _TensorDigester(read_tensor_table(stream.fileno(), file))
            while offset < file.size_bytes:
                count = _fill(stream.fileno(), buffer, offset, file.size_bytes)
                if not count:
                    break
                view = buffer[:count]
                whole.update(view)
                tensors.update(view, offset)
                blocks.append(digest_of(view))
                offset += count
                on_bytes(count)
            status = os.fstat(stream.fileno())
    except OSError as error:
        raise _unreadable(file.location, error) from error
    if (offset, status.st_size, status.st_mtime_ns, status.st_ino) != (
        file.size_bytes,
        file.size_bytes,
        file.mtime_ns,
        file.inode,
    ):
        raise changed(file.location)
    digests = BlockDigests(block_bytes, file.size_bytes, tuple(blocks))
    total = digests.whole()
    return FileEntry(
        path=file.path,
        size_bytes=file.size_bytes,
        blake3=whole.hexdigest(),
        crc64nvme=f"{total.crc64nvme or 0:016x}",
        crc32c=f"{total.crc32c or 0:08x}",
        blocks=digests.packed() if len(blocks) > 1 else "",
        tensors=tensors.table(),
    )


def _open_at_once(path: str, flags: int) -> int:
    """Without waiting for the other end, should a pipe have taken the file's place."""
    return os.open(path, flags | os.O_NONBLOCK)


def changed(location: Path) -> SourceChanged:
    """The error for a file that is being written while it is published."""
    return SourceChanged(
        f"{location}: the file changed while it was being published",
        hint="nothing is visible yet: let the job that writes it finish, then publish again",
    )


def _fill(descriptor: int, buffer: memoryview, offset: int, size_bytes: int) -> int:
    wanted = min(len(buffer), size_bytes - offset)
    filled = 0
    while filled < wanted:
        count = os.preadv(descriptor, [buffer[filled:wanted]], offset + filled)
        if not count:
            break
        filled += count
    return filled


@dataclass(frozen=True, slots=True)
class TensorRange:
    """A tensor as the safetensors header states it; byte offsets are within the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


def read_tensor_table(descriptor: int, file: LocalFile) -> tuple[TensorRange, ...]:
    """The tensors of a safetensors file, by offset.

    The format: eight bytes of header length (little-endian), a JSON header, then the data
    (https://github.com/huggingface/safetensors#format). `UsageError` if it is not that.
    """
    try:
        length = struct.unpack("<Q", os.pread(descriptor, 8, 0))[0]
        if length > min(_SAFETENSORS_HEADER_BYTES_MAX, file.size_bytes - 8):
            raise ValueError(f"its header claims {length} bytes")
        header = json.loads(os.pread(descriptor, length, 8))
        base = 8 + length
        ranges = [
            _tensor_range(name, tensor, base)
            for name, tensor in header.items()
            if name != "__metadata__"
        ]
        ranges.sort(key=lambda tensor: (tensor.start, tensor.stop))
        at = base
        for tensor in ranges:
            if tensor.start != at or tensor.stop < tensor.start:
                raise ValueError(f"tensor {tensor.name!r} does not follow the one before it")
            at = tensor.stop
        if at != file.size_bytes:
            raise ValueError(f"its tensors end at byte {at} of {file.size_bytes}")
    except (
        ValueError, KeyError, TypeError, AttributeError, RecursionError, struct.error,
    ) as error:  # fmt: skip
        raise UsageError(
            f"{file.location}: is not a whole safetensors file: {error}",
            hint="the download or the save that made it may have been cut short",
        ) from error
    return tuple(ranges)


def _tensor_range(name: str, tensor: Mapping[str, Any], base: int) -> TensorRange:
    """`ValueError` unless the header's entry is of the right form and its shape fits its bytes."""
    name.encode()  # a name may hold half a surrogate pair, which no manifest can
    start, stop = tensor["data_offsets"]
    dtype, shape = tensor["dtype"], tensor["shape"]
    numbers = [start, stop, *shape]
    if not isinstance(dtype, str) or any(type(number) is not int for number in numbers):
        raise ValueError(f"tensor {name!r} is not described as the format says")
    if min(numbers) < 0:
        raise ValueError(f"tensor {name!r} has a negative size or offset")
    if (bits := _DTYPE_BITS.get(dtype)) and math.prod(shape) * bits != (stop - start) * 8:
        raise ValueError(f"tensor {name!r}, {dtype} {shape}, does not fit its {stop - start} bytes")
    return TensorRange(name, dtype, tuple(shape), base + start, base + stop)


class _TensorDigester:
    """BLAKE3 of each tensor, from the same ordered pass that digests the file."""

    def __init__(self, ranges: tuple[TensorRange, ...]) -> None:
        self._ranges = ranges
        self._current = 0
        self._hasher = blake3()
        self._done: list[Tensor] = []

    def update(self, view: memoryview, offset: int) -> None:
        end = offset + len(view)
        while self._current < len(self._ranges):
            tensor = self._ranges[self._current]
            if tensor.start >= end and tensor.stop > tensor.start:
                return
            low, high = max(tensor.start, offset), min(tensor.stop, end)
            if high > low:
                self._hasher.update(view[low - offset : high - offset])
            if tensor.stop > end:
                return
            self._done.append(
                Tensor(
                    name=tensor.name,
                    dtype=tensor.dtype,
                    shape=tensor.shape,
                    start=tensor.start,
                    stop=tensor.stop,
                    blake3=self._hasher.hexdigest(),
                )
            )
            self._hasher = blake3()
            self._current += 1

    def table(self) -> tuple[Tensor, ...]:
        return tuple(self._done)


def adopt_object(
    store: ObjectStore, stat: Stat, *, retry: Retry, block_bytes: int = BLOCK_BYTES
) -> FileEntry:
    """The entry of an object that stays where it is, read once, in order, at the tag of `stat`.

    `ConditionFailed` if it is overwritten meanwhile.
    """
    whole = blake3()
    blocks: list[Digests] = []
    buffer = memoryview(bytearray(min(block_bytes, max(stat.size_bytes, 1))))
    for start in range(0, stat.size_bytes, block_bytes):
        span = Span(start, min(start + block_bytes, stat.size_bytes))
        read = partial(read_into, store, stat.key, span, buffer, when=Matches(stat.tag))
        retry.call(read, what=f"read {store.url}/{stat.key}")
        whole.update(buffer[: span.size_bytes])
        blocks.append(digest_of(buffer[: span.size_bytes]))
    digests = BlockDigests(block_bytes, stat.size_bytes, tuple(blocks))
    total = digests.whole()
    return FileEntry(
        path=check_path(stat.key.rpartition("/")[2]),
        key=stat.key,
        size_bytes=stat.size_bytes,
        blake3=whole.hexdigest(),
        crc64nvme=f"{total.crc64nvme or 0:016x}",
        crc32c=f"{total.crc32c or 0:08x}",
        blocks=digests.packed() if len(blocks) > 1 else "",
    )


def state_format(files: list[LocalFile]) -> str | None:
    """The artefact's format, if its files agree on one."""
    found = {FORMATS[suffix] for file in files if (suffix := Path(file.path).suffix) in FORMATS}
    return found.pop() if len(found) == 1 else None


def read_artefact(
    root: Path,
    subject: ModelVersion,
    *,
    requirements: Requirements | None = None,
    follow_symlinks: bool = False,
    block_bytes: int = BLOCK_BYTES,
    on_total: Callable[[int], None] = lambda size_bytes: None,
    on_bytes: Callable[[int], None] = lambda count: None,
) -> tuple[Manifest, FolderSource]:
    """The manifest of a folder or file, and the source from which its parts are sent. `on_total`
    hears once how much there is to read, `on_bytes` what was read."""
    files = find_files(root, follow_symlinks=follow_symlinks)
    on_total(sum(file.size_bytes for file in files))
    entries = [digest_file(file, block_bytes=block_bytes, on_bytes=on_bytes) for file in files]
    requirements = requirements or Requirements()
    if requirements.format is None:
        requirements = requirements.model_copy(update={"format": state_format(files)})
    manifest = Manifest.build(
        subject,
        entries,
        block_bytes=block_bytes,
        requirements=requirements,
        golden=GOLDEN_FILE if any(file.path == GOLDEN_FILE for file in files) else None,
    )
    return manifest, FolderSource(str(root), {file.path: file for file in files})


@dataclass(frozen=True, slots=True)
class FolderSource:
    """Parts read from the disk they are published from."""

    name: str
    files: dict[str, LocalFile]

    def read(self, part: PartPlan, buffer: memoryview) -> None:
        """`SourceChanged` when the file is no longer what was digested."""
        file = self.files[part.entry.path]
        try:
            with open(file.location, "rb", buffering=0, opener=_open_at_once) as stream:
                status = os.fstat(stream.fileno())
                if (status.st_size, status.st_mtime_ns, status.st_ino) != (
                    file.size_bytes,
                    file.mtime_ns,
                    file.inode,
                ):
                    raise changed(file.location)
                count = _fill(
                    stream.fileno(), buffer, part.span.start, part.span.start + len(buffer)
                )
        except OSError as error:
            raise _unreadable(file.location, error) from error
        if count != part.span.size_bytes:
            raise changed(file.location)
