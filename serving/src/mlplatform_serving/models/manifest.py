"""A model version's folder, as mlplatform publishes it: `manifest.json` and the files it names.

The manifest is the contract with the control plane; `manifest.schema.json`, generated there, is
tested against what is accepted here. Nothing is given to a backend that the manifest does not name,
and nothing whose BLAKE3 is another: the digest is taken of the very bytes that are handed on, so
that a file changed in between is of no avail.
"""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Annotated, Literal, Self

import msgspec
from blake3 import blake3

from mlplatform_serving.errors import LoadFailed
from mlplatform_serving.models.progress import Progress
from mlplatform_serving.names import is_name

MANIFEST = "manifest.json"
MANIFEST_BYTES_MAX = 256 * 1024**2
_PIECE_BYTES = 8 * 1024**2

Hex8 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{8}$")]
Hex16 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{16}$")]
Hex64 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class Tensor(msgspec.Struct, forbid_unknown_fields=True):
    """One tensor of a safetensors file."""

    name: str
    dtype: str
    shape: list[int]
    start: Annotated[int, msgspec.Meta(ge=0)]
    stop: int
    blake3: Hex64


class FileEntry(msgspec.Struct, forbid_unknown_fields=True):
    """One file of a version."""

    path: str
    size_bytes: Annotated[int, msgspec.Meta(ge=0, le=2**60)]
    blake3: Hex64
    crc64nvme: Hex16
    crc32c: Hex8
    key: str | None = None
    blocks: str = ""
    tensors: list[Tensor] = []


class Requirements(msgspec.Struct, forbid_unknown_fields=True):
    """What the artefact needs to run."""

    format: str | None = None
    runtime: str | None = None
    accelerator: str | None = None
    compute_capability: str | None = None
    cuda: str | None = None


class Manifest(msgspec.Struct, forbid_unknown_fields=True):
    """What a model version is."""

    model: str
    version: str
    files: Annotated[list[FileEntry], msgspec.Meta(min_length=1)]
    schema: Literal["mlplatform/manifest/1"] = "mlplatform/manifest/1"
    block_bytes: Annotated[int, msgspec.Meta(ge=1, le=1024**3)] = 16 * 1024**2
    requirements: Requirements = msgspec.field(default_factory=Requirements)
    golden: str | None = None


# Made here, while there is one thread: made where it is used, at the first use of each type, it is
# made by the threads of two loads at once, which crashed the process once in some hundred starts.
_decoder = msgspec.json.Decoder(Manifest)


def parse_manifest(body: bytes) -> Manifest:
    """`LoadFailed` if it is not a manifest, or names what no version can have."""
    try:
        manifest = _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise LoadFailed(f"{MANIFEST} is not a manifest that can be trusted: {error}") from None
    if not is_name(manifest.model) or not is_name(manifest.version):
        raise LoadFailed(f"{MANIFEST} is of something that is no model's name and version")
    paths = [entry.path for entry in manifest.files]
    if len(set(paths)) < len(paths):
        raise LoadFailed(f"{MANIFEST} names a file twice")
    for path in paths:
        segments = path.split("/")
        if "\\" in path or "\0" in path or any(part in {"", ".", ".."} for part in segments):
            raise LoadFailed(f"{MANIFEST} names a file that would lie outside the version")
    return manifest


class ModelFiles:
    """A version's folder: what is read from it is what the manifest says, or `LoadFailed`."""

    def __init__(self, folder: Path, progress: Progress | None = None) -> None:
        """Reads the manifest, no other file. The folder is `…/<model>/<version>`. What is read is
        told to `progress`."""
        self._folder = folder
        self._progress = progress or Progress()
        with self._opened(MANIFEST) as file:
            body = file.read(MANIFEST_BYTES_MAX + 1)
        if len(body) > MANIFEST_BYTES_MAX:
            raise LoadFailed(f"{MANIFEST} is larger than {MANIFEST_BYTES_MAX} bytes")
        self.manifest = parse_manifest(body)
        self.digest = f"blake3:{blake3(body).hexdigest()}"
        """The version's digest, as the control plane states it."""
        if (self.manifest.model, self.manifest.version) != (folder.parent.name, folder.name):
            raise LoadFailed(
                "Model version mismatch: the manifest there is of "
                f"{self.manifest.model}@{self.manifest.version}"
            )
        self._entries = {entry.path: entry for entry in self.manifest.files}
        self._verified: set[str] = set()

    @property
    def size_bytes(self) -> int:
        """Of all files together."""
        return sum(entry.size_bytes for entry in self.manifest.files)

    @property
    def paths(self) -> list[str]:
        """Every file that the manifest names."""
        return list(self._entries)

    def __contains__(self, path: str) -> bool:
        return path in self._entries

    def read(self, path: str) -> bytes:
        """A file's bytes, verified."""
        entry = self._entry(path)
        held = io.BytesIO()  # gives its bytes away at the end without copying them
        hasher = blake3(max_threads=blake3.AUTO)
        with self._opened(path) as file:
            for piece in self._pieces(file, entry.size_bytes):
                hasher.update(piece)
                held.write(piece)
        body = held.getvalue()
        self._check(entry, len(body), hasher.hexdigest())
        self._verified.add(path)
        return body

    def verify(self) -> None:
        """Check every file except those that were `read` already."""
        for entry in self.manifest.files:
            if entry.path in self._verified:
                continue
            hasher, size = blake3(max_threads=blake3.AUTO), 0
            with self._opened(entry.path) as file:
                for piece in self._pieces(file, entry.size_bytes):
                    hasher.update(piece)
                    size += len(piece)
            self._check(entry, size, hasher.hexdigest())

    def _pieces(self, file: IO[bytes], size_bytes: int) -> Iterator[bytes]:
        """One byte more than there should be, if there is one: that tells it was longer."""
        left = size_bytes + 1
        while left and (piece := file.read(min(_PIECE_BYTES, left))):
            left -= len(piece)
            self._progress.add(len(piece))
            yield piece

    def _entry(self, path: str) -> FileEntry:
        try:
            return self._entries[path]
        except KeyError:
            raise LoadFailed(f"the manifest names no file {path}") from None

    @staticmethod
    def _check(entry: FileEntry, size_bytes: int, digest: str) -> None:
        if size_bytes != entry.size_bytes:
            kind = "cut short" if size_bytes < entry.size_bytes else "longer than it was"
            raise LoadFailed(f"{entry.path} is {kind}: the manifest says {entry.size_bytes} bytes")
        if digest != entry.blake3:
            raise LoadFailed(f"Checksum mismatch: {entry.path} is not what was published")

    @contextmanager
    def _opened(self, path: str) -> Iterator[IO[bytes]]:
        """Links are not followed, in the version's folder or below: a version is its own files."""
        with _Folder(self._folder) as folder:
            *parents, name = path.split("/")
            try:
                for parent in parents:
                    folder.enter(parent)
                descriptor = folder.open(name, os.O_RDONLY)
            except OSError as error:
                raise _not_opened(path, error) from None
        with open(descriptor, "rb") as file:
            yield file


class _Folder:
    """A folder that is held open, so that what is opened below it is opened there."""

    def __init__(self, path: Path) -> None:
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError as error:
            raise _not_opened(path.name, error) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def open(self, name: str, flags: int) -> int:
        return os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._descriptor)

    def enter(self, name: str) -> None:
        inner = self.open(name, os.O_RDONLY | os.O_DIRECTORY)
        os.close(self._descriptor)
        self._descriptor = inner


def _not_opened(path: str, error: OSError) -> LoadFailed:
    if error.errno in {errno.ENOENT, errno.ENOTDIR}:
        return LoadFailed(f"Model file not found: {path}")
    if error.errno == errno.ELOOP:
        return LoadFailed(f"{path} is a symbolic link; a version's files are its own")
    return LoadFailed(f"{path} cannot be read: {os.strerror(error.errno or 0)}")
