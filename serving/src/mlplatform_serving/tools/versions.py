"""A model version as a folder that is ready to be published, and to be served as it lies there: its
files, and the manifest that `mlplatform publish` would write of them, byte for byte.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import struct
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import msgspec
from blake3 import blake3

from mlplatform_serving.models.golden import GOLDEN_FILE
from mlplatform_serving.models.manifest import (
    MANIFEST,
    FileEntry,
    Manifest,
    Requirements,
    Tensor,
)
from mlplatform_serving.tools.errors import CheckFailed, ToolError, Usage

IGNORE_FILE = ".mlplatformignore"
"""What `mlplatform publish` leaves out; the manifest it writes itself."""
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
"""By file ending, as the control plane has them."""
_BLOCK_BYTES = 16 * 1024**2
_PACKED = struct.Struct(">QI")


def build_manifest(
    model: str, version: str, files: Mapping[str, Path], requirements: Requirements
) -> bytes:
    """The manifest of these files, each by its path in the version. `Usage` if a digest's library
    is not installed."""
    formats = {FORMATS[Path(path).suffix] for path in files if Path(path).suffix in FORMATS}
    if requirements.format is None and len(formats) == 1:
        requirements = msgspec.structs.replace(requirements, format=formats.pop())
    manifest = Manifest(
        model=model,
        version=version,
        files=[_entry(path, files[path]) for path in sorted(files)],
        block_bytes=_BLOCK_BYTES,
        requirements=requirements,
        golden=GOLDEN_FILE if GOLDEN_FILE in files else None,
    )
    told = msgspec.to_builtins(manifest)
    text = json.dumps(told, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode() + b"\n"


def _entry(path: str, location: Path) -> FileEntry:
    checksums = _checksums()
    whole, crc64nvme, crc32c, size_bytes = blake3(), 0, 0, 0
    blocks = []
    with location.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            whole.update(block)
            blocks.append(_PACKED.pack(checksums.crc64nvme(block), checksums.crc32c(block)))
            crc64nvme = checksums.crc64nvme(block, crc64nvme)
            crc32c = checksums.crc32c(block, crc32c)
            size_bytes += len(block)
    return FileEntry(
        path=path,
        size_bytes=size_bytes,
        blake3=whole.hexdigest(),
        crc64nvme=f"{crc64nvme:016x}",
        crc32c=f"{crc32c:08x}",
        blocks=base64.b64encode(b"".join(blocks)).decode() if len(blocks) > 1 else "",
        tensors=_tensors(location) if path.endswith(".safetensors") else [],
    )


def _checksums() -> ModuleType:
    try:
        from awscrt import checksums
    except ImportError:
        raise Usage(
            "awscrt is not installed, which has CRC64NVME",
            hint="pip install 'mlplatform-serving[convert]'",
        ) from None
    found: ModuleType = checksums
    return found


def _tensors(location: Path) -> list[Tensor]:
    """Each tensor's place and digest, by its place
    (https://github.com/huggingface/safetensors#format)."""
    with location.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        base = 8 + length
        tensors = []
        for name, told in sorted(header.items(), key=lambda each: each[1]["data_offsets"]):
            start, stop = (base + offset for offset in told["data_offsets"])
            file.seek(start)
            digest = blake3(file.read(stop - start)).hexdigest()
            tensors.append(Tensor(name, told["dtype"], told["shape"], start, stop, digest))
    return tensors


@contextmanager
def new_version(folder: Path, model: str, version: str) -> Iterator[Path]:
    """A folder to fill, which becomes `folder/model/version` when it has been left, or nothing if
    that fails. A version never changes: one that is there already is no error if it is the same to
    the byte, and `CheckFailed` if not."""
    final = folder / model / version
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{version}.", dir=final.parent))
    except OSError as error:
        raise ToolError(f"{final}: {error.strerror}") from None
    try:
        yield staging
        staging.chmod(0o755)
        try:
            staging.rename(final)
        except OSError:
            if not final.is_dir():
                raise
            if (final / MANIFEST).read_bytes() != (staging / MANIFEST).read_bytes():
                raise CheckFailed(
                    f"{final} is there already, with other bytes, and a version never changes",
                    hint="give another --version, or another --output",
                ) from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def seal(folder: Path, model: str, version: str, requirements: Requirements) -> str:
    """Write the manifest of what is in the folder; its digest."""
    files = {
        path.relative_to(folder).as_posix(): path
        for path in folder.rglob("*")
        if path.is_file() and path.name not in (MANIFEST, IGNORE_FILE)
    }
    body = build_manifest(model, version, files, requirements)
    (folder / MANIFEST).write_bytes(body)
    (folder / IGNORE_FILE).write_text(f"/{MANIFEST}\n")
    return f"blake3:{blake3(body).hexdigest()}"


def publish_line(path: Path, model: str, version: str, requirements: Requirements) -> str:
    """What to type, so that the control plane publishes this very manifest."""
    told = [
        f"--requires {name}='{value}'" if " " in value else f"--requires {name}={value}"
        for name, value in msgspec.to_builtins(requirements).items()
        if value is not None and name != "format"
    ]
    return " ".join(
        ["mlplatform publish", os.fspath(path), f"--model {model} --version {version}", *told]
    )


def place(path: Path, body: bytes) -> None:
    """A file of its own, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        staging.write_bytes(body)
        staging.replace(path)
    finally:
        staging.unlink(missing_ok=True)
