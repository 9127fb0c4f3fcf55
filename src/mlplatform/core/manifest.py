"""The manifest names every byte of a model version; the receipt says what one region holds of it.

The manifest is a function of the published bytes and what they need to run, nothing else: no
time, no place. So it is byte-identical in every region, publishing the same folder twice gives
the same manifest, and its BLAKE3 is the version's digest. Receipts differ by region.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable
from datetime import datetime
from functools import cached_property
from typing import Literal, Self

from pydantic import Field, ValidationError, model_validator

from mlplatform.core.digest import (
    BLOCK_BYTES,
    BlockDigests,
    Digests,
    Evidence,
    blake3_hex,
    block_count,
)
from mlplatform.core.errors import IntegrityError, MlplatformError, UsageError
from mlplatform.core.placement import ModelVersion
from mlplatform.core.plan import Record

MANIFEST_SCHEMA: Literal["mlplatform/manifest/1"] = "mlplatform/manifest/1"
RECEIPT_SCHEMA: Literal["mlplatform/receipt/1"] = "mlplatform/receipt/1"
MANIFEST_BYTES_MAX = 256 * 1024 * 1024
SIZE_BYTES_MAX = 2**60
"""Of one file: an exbibyte, which keeps every sum within 64 bits."""
BLOCK_BYTES_MAX = 1024**3
RESERVED_PATHS = frozenset({"manifest.json"})


def check_path(path: str) -> str:
    """`path` if it can be a file of a version in every store; else `UsageError` with the reason."""
    problem = None
    segments = path.split("/")
    if not path:
        problem = "it is empty"
    elif path.startswith("/") or "\\" in path:
        problem = "it is not a relative path with '/' between its segments"
    elif any(not segment or segment.endswith(".") for segment in segments):
        problem = "it has a segment that is empty or ends with a dot, which Azure drops"
    elif not path.isprintable() and any(
        unicodedata.category(character) in ("Cc", "Cs") for character in path
    ):
        problem = "it has a control character or an invalid one"
    elif len(path.encode()) > 700:
        problem = "it is longer than 700 bytes, and stores limit a key to 1,024"
    elif path in RESERVED_PATHS:
        problem = "that name is the manifest's own"
    elif segments[0] == ".mlplatform":
        problem = "that folder is the platform's own"
    if problem:
        raise UsageError(
            f"file {path!r} cannot be published: {problem}",
            hint="rename it, or leave it out with a line in .mlplatformignore",
        )
    return path


class Tensor(Record):
    """One tensor of a safetensors file: where it lies in the file, and the digest of its bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int = Field(ge=0)
    stop: int
    blake3: str = Field(pattern="^[0-9a-f]{64}$")


class FileEntry(Record):
    """One file of a version. Digests are lower-case hex."""

    path: str
    key: str | None = None
    """The object's own key, for objects adopted in place; else the version's prefix and path."""
    size_bytes: int = Field(ge=0, le=SIZE_BYTES_MAX)
    blake3: str = Field(pattern="^[0-9a-f]{64}$")
    crc64nvme: str = Field(pattern="^[0-9a-f]{16}$")
    crc32c: str = Field(pattern="^[0-9a-f]{8}$")
    blocks: str = ""
    """Twelve bytes a block, base64 (`BlockDigests.packed`); empty when one block holds it all."""
    tensors: tuple[Tensor, ...] = ()

    @cached_property
    def digests(self) -> Digests:
        """Of the whole file."""
        return Digests(int(self.crc64nvme, 16), int(self.crc32c, 16))

    def block_digests(self, block_bytes: int) -> BlockDigests:
        """Of each block."""
        if block_count(self.size_bytes, block_bytes) <= 1:
            if self.blocks:
                raise ValueError("one block needs no list of block digests")
            blocks = (self.digests,) if self.size_bytes else ()
            return BlockDigests(block_bytes, self.size_bytes, blocks)
        return BlockDigests.unpack(self.blocks, block_bytes=block_bytes, size_bytes=self.size_bytes)


class Requirements(Record):
    """What the artefact needs to run. Unknown is left out."""

    format: str | None = None
    """safetensors, onnx, tensorrt, torch-export, …"""
    runtime: str | None = None
    """Name and version it was built for, e.g. `tensorrt 10.13.0`."""
    accelerator: str | None = None
    compute_capability: str | None = None
    cuda: str | None = None


class Manifest(Record):
    """What a model version is."""

    schema_: Literal["mlplatform/manifest/1"] = Field(default=MANIFEST_SCHEMA, alias="schema")
    model: str
    version: str
    block_bytes: int = Field(default=BLOCK_BYTES, ge=1, le=BLOCK_BYTES_MAX)
    requirements: Requirements = Requirements()
    golden: str | None = None
    """Path of the golden requests, one of `files`."""
    files: tuple[FileEntry, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        prefix = ModelVersion(self.model, self.version).prefix
        paths = [entry.path for entry in self.files]
        if paths != sorted(set(paths)):
            raise ValueError("files are not sorted by path, or a path stands twice")
        if self.golden is not None and self.golden not in paths:
            raise ValueError(f"golden requests {self.golden!r} are not among the files")
        folders = set()
        for entry in self.files:
            try:
                check_path(entry.path)
                if entry.key is not None:
                    _check_own_key(entry.key)
            except UsageError as error:
                raise ValueError(error.message) from error
            _check_bytes(entry, self.block_bytes)
            folder = entry.path.rpartition("/")[0]
            while folder and folder not in folders:
                folders.add(folder)
                folder = folder.rpartition("/")[0]
        if both := folders.intersection(paths):
            raise ValueError(f"{min(both)!r} is both a file and a folder")
        keys = [entry.key or f"{prefix}{entry.path}" for entry in self.files]
        if len(set(keys)) < len(keys) or f"{prefix}manifest.json" in keys:
            raise ValueError("two files have the same key")
        return self

    @cached_property
    def encoded(self) -> bytes:
        """The one byte form, the same in every region."""
        return super().encoded

    @cached_property
    def digest(self) -> str:
        """The version's digest, `blake3:<hex>`."""
        return blake3_hex(self.encoded)

    @cached_property
    def subject(self) -> ModelVersion:
        return ModelVersion(self.model, self.version)

    @property
    def size_bytes(self) -> int:
        """Of all files together."""
        return sum(entry.size_bytes for entry in self.files)

    def key_of(self, entry: FileEntry) -> str:
        """Where the file lies, in every region."""
        return entry.key or f"{self.subject.prefix}{entry.path}"

    @classmethod
    def build(
        cls,
        subject: ModelVersion,
        files: Iterable[FileEntry],
        *,
        block_bytes: int,
        requirements: Requirements,
        golden: str | None,
    ) -> Manifest:
        """A manifest of `files`, in any order."""
        return cls(
            schema=MANIFEST_SCHEMA,
            model=subject.model,
            version=subject.version,
            block_bytes=block_bytes,
            requirements=requirements,
            golden=golden,
            files=tuple(sorted(files, key=lambda entry: entry.path)),
        )

    @classmethod
    def parse(cls, body: bytes, *, where: str, subject: ModelVersion | None = None) -> Manifest:
        """Read a manifest found at `where`. `IntegrityError` if it is truncated, of another
        form, inconsistent with itself, not in its one byte form, or of another version."""
        try:
            manifest = cls.model_validate(json.loads(body))
        except (ValueError, RecursionError, MlplatformError) as error:
            raise IntegrityError(
                f"{where}: not a manifest that can be trusted: {_first_line(error)}",
                hint="`mlplatform verify` says which regions hold a good one",
            ) from error
        if subject is not None and manifest.subject != subject:
            raise IntegrityError(f"{where}: this is the manifest of {manifest.subject}")
        if manifest.encoded != body:
            raise IntegrityError(f"{where}: the manifest was rewritten by something else")
        return manifest


class ObjectReceipt(Record):
    """One object of a version in one region: its tag, and what its bytes were verified by."""

    path: str
    tag: str
    evidence: Evidence


class Receipt(Record):
    """What one region holds of a version. Written before the manifest, and again by a repair."""

    schema_: Literal["mlplatform/receipt/1"] = Field(default=RECEIPT_SCHEMA, alias="schema")
    model: str
    version: str
    region: str
    manifest_digest: str
    objects: tuple[ObjectReceipt, ...]
    stored_at: datetime
    writer: str
    nonce: str
    """Makes each receipt differ from the one before it, so that a demotion names one receipt."""

    @cached_property
    def by_path(self) -> dict[str, ObjectReceipt]:
        return {entry.path: entry for entry in self.objects}

    @classmethod
    def parse(cls, body: bytes, *, where: str) -> Receipt:
        """`IntegrityError` if it is not a receipt."""
        try:
            return cls.model_validate(json.loads(body))
        except (ValueError, RecursionError) as error:
            raise IntegrityError(
                f"{where}: not a receipt: {_first_line(error)}",
                hint="`mlplatform verify --deep` reads the bytes and writes a new one",
            ) from error


def _check_own_key(key: str) -> None:
    """An object adopted in place keeps its key, which must not be one of the platform's own."""
    check_path(key)
    if key.startswith("models/") and key.endswith("/manifest.json"):
        raise UsageError(f"key {key!r} is a manifest's own")


def _check_bytes(entry: FileEntry, block_bytes: int) -> None:
    """What is stated of a file's bytes must not contradict itself."""
    if entry.block_digests(block_bytes).whole() != entry.digests:
        raise ValueError(f"{entry.path}: block digests do not combine to the file's")
    at = 0
    for tensor in entry.tensors:
        if not at <= tensor.start <= tensor.stop <= entry.size_bytes:
            raise ValueError(f"{entry.path}: tensor {tensor.name!r} lies outside its place")
        at = tensor.stop


def _first_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        return f"{place}: {first['msg']}" if place else str(first["msg"])
    return str(error).splitlines()[0] if str(error) else type(error).__name__
