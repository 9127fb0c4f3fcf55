"""Old PyTorch checkpoints (`.pth`, `.pt`, `.bin`, `.ckpt`) to safetensors. They are pickles, which
are programs; the process that reads one can do nothing else (`confined`), and what comes from it is
believed no more than the file is."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO

from safetensors import SafetensorError, safe_open

from mlplatform_serving.tools.checkpoint_child import LENGTH
from mlplatform_serving.tools.errors import TooLate, ToolError, Usage

SUFFIXES = frozenset({".pth", ".pt", ".bin", ".ckpt"})
TORCH_MIN = (2, 10)
"""Before it `weights_only` could be made to write where it should not (CVE-2026-24747)."""
_CHILD = (sys.executable, "-I", "-B", "-m", "mlplatform_serving.tools.checkpoint_child")
_TORCH_HINT = (
    "in an environment of its own: pip install 'mlplatform-serving[export]', then run convert there"
)
_HEADER_BYTES_MAX = 1024**2
_PIECE_BYTES = 8 * 1024**2
_GROWTH, _SPARE_BYTES = 4, 64 * 1024**2
"""Tensors that share bytes are written one by one; more than this is no checkpoint's."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What was read, and how."""

    tensors: int
    left_out: tuple[str, ...]
    confined_by: tuple[str, ...]


def require_torch() -> None:
    """`Usage` unless there is a PyTorch that may read weights."""
    try:
        found = version("torch")
    except PackageNotFoundError:
        raise Usage("PyTorch is not installed, and this needs it", hint=_TORCH_HINT) from None
    numbers = tuple(int(each) for each in re.findall(r"\d+", found)[:2])
    if numbers < TORCH_MIN:
        raise Usage(
            f"PyTorch {found} is not safe even for weights alone (CVE-2026-24747); "
            f"{'.'.join(map(str, TORCH_MIN))} is",
            hint=_TORCH_HINT,
        )


def to_safetensors(
    path: Path, target: Path, *, seconds_max: float = 600.0, child: Sequence[str] = _CHILD
) -> Checkpoint:
    """Write the checkpoint's weights to `target`. `ToolError` says what there is instead of
    weights, or why nothing was read; `TooLate` if it takes too long."""
    try:
        with path.open("rb") as checkpoint:
            size_bytes = os.fstat(checkpoint.fileno()).st_size
            process = subprocess.Popen(
                child,
                stdin=checkpoint,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={"OMP_NUM_THREADS": "1", "HOME": "/nonexistent", "PATH": os.defpath},
                close_fds=True,
            )
    except OSError as error:
        raise ToolError(f"{path}: {error.strerror}") from None
    stream = process.stdout or io.BytesIO()
    over = threading.Event()

    def end() -> None:
        over.set()
        process.kill()

    timer = threading.Timer(seconds_max, end)
    timer.start()
    try:
        told = _header(stream)
        if told is None or "error" in told:
            raise _refused(path, told, seconds_max, timed_out=over.is_set())
        _copy(stream, target, size_bytes * _GROWTH + _SPARE_BYTES)
        if over.is_set() or process.wait() != 0:
            raise _refused(path, None, seconds_max, timed_out=over.is_set())
        return _checked(path, target, told)
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    finally:
        timer.cancel()
        process.kill()
        process.wait()
        stream.close()


def _header(stream: IO[bytes]) -> dict[str, object] | None:
    prefix = stream.read(LENGTH.size)
    if len(prefix) < LENGTH.size:
        return None
    (length,) = LENGTH.unpack(prefix)
    if length > _HEADER_BYTES_MAX:
        return None
    try:
        told = json.loads(stream.read(length))
    except (ValueError, RecursionError):
        return None
    return told if isinstance(told, dict) else None


def _refused(
    path: Path, told: dict[str, object] | None, seconds_max: float, *, timed_out: bool
) -> ToolError:
    if timed_out:
        return TooLate(f"{path}: it was not read in {seconds_max:g} s")
    if told is None:
        return ToolError(f"{path}: whoever read it died of it; it is not to be trusted")
    return ToolError(
        f"{path}: refused: {str(told['error'])[:500]}",
        hint="where it was made, save the weights alone: "
        "safetensors.torch.save_file(model.state_dict(), 'model.safetensors')",
    )


def _copy(stream: IO[bytes], target: Path, bytes_max: int) -> None:
    left = bytes_max
    with target.open("wb") as file:
        while piece := stream.read(_PIECE_BYTES):
            left -= len(piece)
            if left < 0:
                raise ToolError(f"more than {bytes_max} bytes came of it, which no weights are")
            file.write(piece)


def _checked(path: Path, target: Path, told: dict[str, object]) -> Checkpoint:
    """It is what it says: safetensors, each tensor in its bounds."""
    try:
        with safe_open(target, framework="numpy") as opened:
            names = list(opened.keys())
    except (SafetensorError, OSError) as error:
        raise ToolError(f"{path}: what was read of it is no safetensors file: {error}") from None
    return Checkpoint(len(names), _texts(told, "left_out"), _texts(told, "confined_by"))


def _texts(told: dict[str, object], key: str) -> tuple[str, ...]:
    found = told.get(key)
    return tuple(str(each)[:100] for each in found[:100]) if isinstance(found, list) else ()
