"""Whether a TensorRT engine can run here, judged before TensorRT sees it: by the head of the file,
by what its manifest says it was built for, and by what is here. Each refusal says what differs and
what to do. TensorRT itself only gives nothing back and says why in its log.

An engine begins with a tag, `ftrt` or, of TensorRT for RTX, `vtrt`; bytes 24 to 27 are the version
that built it (NVIDIA/TensorRT, samples/common/sampleEngines.cpp). Engines of TensorRT for RTX 1.7
state their size at byte 16. An engine that is not built version-compatible runs on no other version
(NVIDIA's developer guide, "Version Compatibility"); one that is, brings a runtime of its own, code
which is not allowed to run here. So versions must be equal.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from mlplatform_serving.backends.driver import Capability, Driver
from mlplatform_serving.errors import LoadFailed
from mlplatform_serving.models.manifest import Requirements

HEAD_BYTES = 28
TENSORRT, TENSORRT_RTX = "tensorrt", "tensorrt_rtx"
"""The modules that run engines, as they are imported."""
TITLES = {TENSORRT: "TensorRT", TENSORRT_RTX: "TensorRT-RTX"}
EXTRAS = {TENSORRT: "tensorrt", TENSORRT_RTX: "tensorrt-rtx"}
_TAGS = {b"ftrt": TENSORRT, b"vtrt": TENSORRT_RTX}
_CAPABILITY = re.compile(r"(\d{1,2})\.(\d)(\+?)")
_CUDA = re.compile(r"(\d{1,2})(?:\.(\d{1,2}))?(?:\.\d+)*")
_RUNTIME = re.compile(r"(tensorrt(?:[-_]rtx)?) (\d+(?:\.\d+)*)")


@dataclass(frozen=True, slots=True)
class Head:
    """What an engine says of itself."""

    runtime: str
    version: tuple[int, int, int]
    size_bytes: int | None
    """Of the whole file; None where its form is not known to say."""


@dataclass(frozen=True, slots=True)
class Runtime:
    """What is installed."""

    version: str
    cuda_major: int | None
    """The CUDA that it was compiled with; None where it does not say."""


def read_head(path: str, body: bytes) -> Head:
    """`LoadFailed` if it is no engine, or not all of one."""
    runtime = _TAGS.get(body[:4])
    if runtime is None or body[4:8] != bytes(4):
        raise LoadFailed(
            f"{path} is no TensorRT engine of a form that is known here: it begins with "
            f"{body[:8].hex()}"
        )
    if len(body) < HEAD_BYTES:
        raise LoadFailed(f"{path} is cut short: {len(body)} bytes are no engine; publish it anew")
    size = int.from_bytes(body[16:24], "little") if runtime == TENSORRT_RTX else None
    if size is not None and size > len(body):
        raise LoadFailed(
            f"{path} is cut short: the engine says {size} bytes, and {len(body)} were published; "
            "publish it anew"
        )
    major, minor, patch = body[24:27]
    return Head(runtime, (major, minor, patch), size)


def check_manifest(path: str, head: Head, requirements: Requirements) -> None:
    """Whether the manifest says of the engine what the engine says."""
    if requirements.runtime is None:
        return
    told = _RUNTIME.fullmatch(requirements.runtime)
    if told is None:
        raise LoadFailed(
            f"{path}: the manifest's runtime is {requirements.runtime!r}, and an engine's would be "
            'like "tensorrt 10.13.0": publish it anew'
        )
    runtime, version = told[1].replace("-", "_"), told[2]
    if runtime != head.runtime or not _same(version, head.version):
        raise LoadFailed(
            f"{path} was built with {TITLES[head.runtime]} {_text(head.version)}, and its manifest "
            f"says {requirements.runtime}: publish the engine that is meant"
        )


def check_runtime(path: str, head: Head, requirements: Requirements, here: Runtime) -> None:
    """Whether the runtime that is installed is the one that the engine was built with."""
    title, built = TITLES[head.runtime], _text(head.version)
    if not _same(here.version, head.version):
        raise LoadFailed(
            f"TensorRT version mismatch: engine built with {built}, runtime is {here.version} "
            f"({path}, {title}): build the engine with {here.version}, or serve it where {title} "
            f"{built} is installed"
        )
    cuda = _cuda(path, requirements)
    if cuda and here.cuda_major and cuda[0] != here.cuda_major:
        raise LoadFailed(
            f"{path} and {title} are compiled with different CUDA versions: {requirements.cuda}, "
            f"and {here.cuda_major}: install {title} for CUDA {cuda[0]}, or build the engine anew"
        )


def check_driver(path: str, requirements: Requirements, driver: Driver) -> None:
    """Whether the GPUs and their driver are those that it was built for. What the manifest does not
    say is left to TensorRT."""
    cuda = _cuda(path, requirements)
    if cuda and cuda[0] > driver.cuda[0]:  # within a major CUDA promises compatibility of minors
        raise LoadFailed(
            f"CUDA driver version is insufficient: {path} needs CUDA {requirements.cuda}, and "
            f"driver {driver.version} runs CUDA {_text(driver.cuda)} at most: install a newer "
            f"driver on the node, or build the engine with CUDA {driver.cuda[0]}"
        )
    wanted = requirements.compute_capability
    if wanted is None:
        return
    told = _CAPABILITY.fullmatch(wanted)
    if told is None:
        raise LoadFailed(
            f"{path}: the manifest's compute capability is {wanted!r}, and would be like 9.0, or "
            "8.0+ for an engine that newer GPUs run too: publish it anew"
        )
    built: Capability = int(told[1]), int(told[2])
    if not any(each == built or (told[3] and each > built) for each in driver.capabilities):
        here = ", ".join(sorted({_text(each) for each in driver.capabilities}))
        raise LoadFailed(
            f"{path} was built for GPUs of compute capability {wanted}, and here is {here}: serve "
            f"it on such a GPU, or build it for {here}"
        )


def _cuda(path: str, requirements: Requirements) -> tuple[int, int] | None:
    if requirements.cuda is None:
        return None
    told = _CUDA.fullmatch(requirements.cuda)
    if told is None:
        raise LoadFailed(
            f"{path}: the manifest's CUDA is {requirements.cuda!r}, and would be like 12.4: "
            "publish it anew"
        )
    return int(told[1]), int(told[2] or 0)


def _same(text: str, version: tuple[int, ...]) -> bool:
    """As far as both say: a version may have two numbers or four."""
    numbers = [int(part) if part.isdigit() else -1 for part in text.split(".")][: len(version)]
    return tuple(numbers) == version[: len(numbers)]


def _text(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
