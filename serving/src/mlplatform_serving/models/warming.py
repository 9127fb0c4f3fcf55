"""Warm before it answers: a version's golden requests are asked of it while it is loaded, until the
answers are right and come within the time that is wanted. One that gives other answers than it was
published with is not loaded at all.

The first inferences of a model are its slowest: memory is not mapped yet, kernels are chosen, code
is compiled. Clients are not to meet that.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from mlplatform_serving.backends.formats import open_backend
from mlplatform_serving.backends.port import Backend
from mlplatform_serving.errors import BadRequest, LoadFailed
from mlplatform_serving.models.golden import (
    GOLDEN_BYTES_MAX,
    GoldenRequest,
    NotGolden,
    parse_golden,
)
from mlplatform_serving.models.manifest import ModelFiles
from mlplatform_serving.models.progress import Progress
from mlplatform_serving.protocol.infer import encode_answer, parse_inference

log = logging.getLogger("model_loader")


@dataclass(frozen=True, slots=True)
class WarmUp:
    """What is wanted of a version before it answers."""

    target_ms: float | None = None
    """Every golden request of one round within so much; None: right answers are enough."""
    seconds_max: float = 10.0
    """By when."""


def open_warm(
    files: ModelFiles,
    wanted: WarmUp | None,
    progress: Progress,
    *,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[str, Backend]:
    """`open_backend`, and warm if that is wanted. `LoadFailed` says what it answered instead, or
    how slow it stays."""
    name, backend = open_backend(files)
    if wanted is None:
        return name, backend
    try:
        progress.begin("warming up")
        _warm(files, backend, wanted, progress, clock)
    except BaseException:
        backend.close()
        raise
    return name, backend


def _warm(
    files: ModelFiles,
    backend: Backend,
    wanted: WarmUp,
    progress: Progress,
    clock: Callable[[], float],
) -> None:
    subject = f"{files.manifest.model}@{files.manifest.version}"
    path = files.manifest.golden
    if path is None:
        log.warning("model_warmup: %s has no golden requests, and is not warmed", subject)
        return
    golden = _golden(files, path)
    began, rounds, first_ms = clock(), 0, 0.0
    while True:
        slowest_ms = 0.0
        for number, each in enumerate(golden, start=1):
            progress.check()
            slowest_ms = max(slowest_ms, _asked(backend, each, f"{path}, request {number}", clock))
        rounds += 1
        first_ms = first_ms or slowest_ms
        if wanted.target_ms is None or slowest_ms <= wanted.target_ms:
            break
        if clock() - began >= wanted.seconds_max:
            raise LoadFailed(
                f"not warm: after {rounds} rounds in {wanted.seconds_max:g} s "
                f"(WARMUP_SECONDS_MAX) the slowest golden request takes {slowest_ms:.3g} ms, and "
                f"{wanted.target_ms:g} ms (WARMUP_TARGET_MS) are wanted"
            )
    log.info(
        "model_warmup: %s: %d golden requests are right; the slowest took %.3g ms at first and "
        "%.3g ms in round %d",
        *(subject, len(golden), first_ms, slowest_ms, rounds),
        extra={
            "model": files.manifest.model,
            "version": files.manifest.version,
            "rounds": rounds,
            "first_ms": round(first_ms, 3),
            "slowest_ms": round(slowest_ms, 3),
        },
    )


def _golden(files: ModelFiles, path: str) -> tuple[GoldenRequest, ...]:
    size_bytes = sum(each.size_bytes for each in files.manifest.files if each.path == path)
    if size_bytes > GOLDEN_BYTES_MAX:
        raise LoadFailed(f"{path} is larger than {GOLDEN_BYTES_MAX} bytes")
    try:
        return parse_golden(files.read(path))
    except NotGolden as error:
        raise LoadFailed(f"{path}: {error}") from None


def _asked(
    backend: Backend, golden: GoldenRequest, where: str, clock: Callable[[], float]
) -> float:
    """How long the model took, in milliseconds."""
    try:
        inference = parse_inference(golden.body, None, backend.signature)
    except BadRequest as error:
        raise LoadFailed(f"{where}: {error.message}") from None
    began = clock()
    try:
        outputs = backend.infer(inference.inputs)
    except Exception as error:
        raise LoadFailed(f"{where}: the model failed") from error
    taken_ms = (clock() - began) * 1000
    pieces, _ = encode_answer("", "", inference, outputs)
    said = golden.difference(msgspec.json.decode(pieces[0]))
    if said:
        raise LoadFailed(f"{where}: {said}")
    return taken_ms
