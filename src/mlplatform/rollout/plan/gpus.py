"""Which GPUs a version runs on, and whether a node has them. Pure.

TensorRT engines bind to the GPU architecture that they were built for, and to the version that
built them, unless they were built compatible with others (NVIDIA's developer guide, "Engine
Compatibility"). The manifest states both, and is read as the model server reads it: `9.0` is that
compute capability, `8.0+` that or a newer one, and of CUDA the major counts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mlplatform.core.manifest import Requirements
from mlplatform.ports.ground import GPU
from mlplatform.rollout.plan.seen import Finding, Rule

_CAPABILITY = re.compile(r"(\d{1,2})\.(\d)(\+?)")
_CUDA = re.compile(r"(\d{1,2})(?:\.(\d{1,2}))?(?:\.\d+)*")
_RUNTIME = re.compile(r"(tensorrt(?:[-_]rtx)?)[ -](\d+(?:\.\d+)*)")
_DRIVERS = {11: (450, 80), 12: (525, 60), 13: (580, 0)}
"""The oldest driver branch that runs a major of CUDA (NVIDIA, "CUDA Compatibility", minor version
compatibility)."""
_UNTOLD = frozenset({"NVIDIA", "TESLA", "GEFORCE", "QUADRO"})
"""Words of a product's name that do not tell one from another."""


@dataclass(frozen=True, slots=True)
class Demand:
    """One thing that a GPU has to be."""

    rule: Rule
    said: str
    """`compute capability 8.0+`."""
    label: str
    """By which label of a node it is told."""
    holds: Callable[[GPU], bool | None]
    """None: the node does not say."""
    shows: Callable[[GPU], str]
    """What the node says."""
    mend: str
    """What to do where no node is so."""
    strict: bool = True
    """Whether a node that does not say is in doubt."""


def demands_of(
    subject: str, needs: Requirements, products: frozenset[str]
) -> tuple[tuple[Demand, ...], tuple[Finding, ...]]:
    """What GPUs have to be for a version, `model@version`; and what of it cannot be told.
    `products` are those that a server takes, by the topology."""
    findings: list[Finding] = []
    demands: list[Demand] = []
    forward = False
    if needs.compute_capability is not None:
        told = _CAPABILITY.fullmatch(needs.compute_capability)
        if told is None:
            findings.append(_misstated(subject, needs, "compute_capability", "9.0, or 8.0+"))
        else:
            forward = bool(told[3])
            demands.append(
                _capability(needs.compute_capability, (int(told[1]), int(told[2])), forward=forward)
            )
    elif is_engine(needs):
        findings.append(
            Finding(
                Rule.WRONG_GPU,
                f"{subject} is a TensorRT engine, which runs on the architecture that it was "
                "built for, and its manifest states no compute_capability",
                "publish it with --requires compute_capability=9.0, say, or 8.0+ if it was built "
                "for newer ones too",
                unknown=True,
            )
        )
    if needs.cuda is not None:
        told = _CUDA.fullmatch(needs.cuda)
        if told is None:
            findings.append(_misstated(subject, needs, "cuda", "12.4"))
        else:
            demands.append(_cuda(needs.cuda, int(told[1])))
    if needs.accelerator is not None and not forward:
        demands.append(_product((needs.accelerator,), strict=True))
    elif products:
        demands.append(_product(tuple(sorted(products)), strict=False))
    return tuple(demands), tuple(findings)


def is_engine(needs: Requirements) -> bool:
    """Whether it is bound to a GPU architecture and a version of TensorRT."""
    return needs.format == "tensorrt" or (needs.runtime or "").startswith("tensorrt")


def is_product(wanted: str, label: str) -> bool:
    """Whether a product as people call it (`A100`, `nvidia-tesla-t4`) is the one that a label names
    (`NVIDIA-A100-SXM4-40GB`). A slice of a GPU is not the GPU."""
    here = _words(label)
    asked = _words(wanted) - _UNTOLD
    return bool(asked) and asked <= here and ("MIG" in here) == ("MIG" in asked)


def of_runtime(
    subject: str, needs: Requirements, there: str | None, pods: str
) -> Iterator[Finding]:
    """Whether the engine's TensorRT is the one in the image, where the pods say which that is."""
    if there is None or needs.runtime is None:
        return
    built, runs = _RUNTIME.fullmatch(needs.runtime), _RUNTIME.fullmatch(there)
    if built is None or runs is None:
        return
    same = built[1].replace("-", "_") == runs[1].replace("-", "_") and all(
        one == other for one, other in zip(built[2].split("."), runs[2].split("."), strict=False)
    )
    if not same:
        yield Finding(
            Rule.WRONG_RUNTIME,
            f"{subject} was built with {needs.runtime}, and the annotation mlplatform.dev/runtime "
            f"of {pods} says {there}",
            f"serve it with an image that has {needs.runtime} (image= in the URL of the servers), "
            f"or build it with {there}",
        )


def _capability(said: str, built: tuple[int, int], *, forward: bool) -> Demand:
    def holds(gpu: GPU) -> bool | None:
        if gpu.capability is None:
            return None
        return gpu.capability == built or (forward and gpu.capability > built)

    return Demand(
        Rule.WRONG_GPU,
        f"compute capability {said}",
        "nvidia.com/gpu.compute.major",
        holds,
        lambda gpu: _text(gpu.capability),
        "build it for the GPUs that are there and publish that as another version, or leave the "
        "region out with --region",
    )


def _cuda(said: str, major: int) -> Demand:
    least = _DRIVERS.get(major)

    def holds(gpu: GPU) -> bool | None:
        if gpu.cuda is not None:
            return gpu.cuda[0] >= major  # within a major CUDA promises compatibility of minors
        if gpu.driver is not None and least is not None:
            return _branch(gpu.driver) >= least
        return None

    newer = f" ({_text(least)} at least)" if least is not None else ""
    return Demand(
        Rule.OLD_DRIVER,
        f"CUDA {said}",
        "nvidia.com/cuda.runtime.major",
        holds,
        lambda gpu: (
            f"driver {gpu.driver or 'unknown'}"
            + (f", which runs CUDA {_text(gpu.cuda)} at most" if gpu.cuda is not None else "")
        ),
        f"install a driver that runs CUDA {major}{newer} on them, or build it with an older CUDA",
    )


def _product(names: tuple[str, ...], *, strict: bool) -> Demand:
    def holds(gpu: GPU) -> bool | None:
        if gpu.product is None:
            return None
        return any(is_product(each, gpu.product) for each in names)

    return Demand(
        Rule.WRONG_GPU,
        f"GPU {' or '.join(names)}",
        "nvidia.com/gpu.product",
        holds,
        lambda gpu: str(gpu.product),
        "build it for the GPUs that are there and publish that as another version, or leave the "
        "region out with --region"
        if strict
        else "correct models.….gpus in the topology, or bring nodes that have them",
        strict,
    )


def _misstated(subject: str, needs: Requirements, name: str, like: str) -> Finding:
    """The model server refuses an engine for it; of others nobody reads it."""
    return Finding(
        Rule.WRONG_GPU,
        f"the manifest of {subject} states {name} {getattr(needs, name)!r}, which would be like "
        f"{like}",
        f"publish it anew with --requires {name}=…",
        unknown=not is_engine(needs),
    )


def _words(name: str) -> frozenset[str]:
    return frozenset(re.split(r"[^A-Z0-9.]+", name.upper())) - {""}


def _branch(driver: str) -> tuple[int, int]:
    numbers = [int(part) if part.isdecimal() else 0 for part in driver.split(".")]
    return numbers[0], numbers[1] if len(numbers) > 1 else 0


def _text(version: tuple[int, ...] | None) -> str:
    return "unknown" if version is None else ".".join(map(str, version))
