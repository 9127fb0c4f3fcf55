"""TensorRT plans: the port by which `convert` has one built, and how a plan's file is called.

The one who builds is `mlplatform_serving.backends.tensorrt`, whose function `open_builder` gives a
`PlanBuilder`. It is imported when a plan is wanted, and nothing here knows TensorRT.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Protocol

from mlplatform_serving.models.manifest import Requirements
from mlplatform_serving.protocol.specs import TensorSpec
from mlplatform_serving.tools.errors import Usage

BUILDER = "mlplatform_serving.backends.tensorrt"
EXTRAS = "mlplatform-serving[tensorrt]"
_NUMBERS = re.compile(r"\d+")


@dataclass(frozen=True, slots=True)
class Plan:
    """A built engine, and all that it depends on."""

    body: bytes
    tensorrt: str
    """The version that built it, `10.13.0`."""
    cuda: str
    """`12.9`"""
    compute_capability: str
    """Of the GPU that it was built on and for, `8.9`."""
    accelerator: str | None = None
    """That GPU's name."""
    runtime: str = "tensorrt"
    """Or `tensorrt-rtx`."""

    def requirements(self) -> Requirements:
        """As the manifest states them; the backend checks them before it loads the plan."""
        return Requirements(
            format="tensorrt",
            runtime=f"{self.runtime} {self.tensorrt}",
            accelerator=self.accelerator,
            compute_capability=self.compute_capability,
            cuda=self.cuda,
        )


class PlanBuilder(Protocol):
    """What builds plans, on the GPU of this machine."""

    def build(self, model: bytes, inputs: Sequence[TensorSpec], batch_max: int) -> Plan:
        """The plan of an ONNX model. TensorRT takes precisions from the model's own types, so that
        half precision is the model's, not a flag. Open first sizes are from 1 to `batch_max`. What
        it raises is a `ToolError` that says what and what to do."""
        ...


def open_builder() -> PlanBuilder:
    """The builder of this machine; `Usage` says what is missing."""
    module = None if find_spec(BUILDER) is None else import_module(BUILDER)
    if module is None or not hasattr(module, "open_builder"):
        raise Usage(
            "this build of mlplatform-serving builds no TensorRT plans",
            hint="convert to ONNX instead: --output without .trt",
        )
    try:
        builder: PlanBuilder = module.open_builder()
    except ImportError as error:
        raise Usage(
            f"no plan can be made: {error.name or error} is not installed",
            hint=f"pip install '{EXTRAS}', on a machine with the GPU that the plan is for",
        ) from None
    return builder


def plan_name(model: str, precision: str, plan: Plan) -> str:
    """`resnet50-fp16-trt86-cuda121-sm80.trt`: whoever lists a folder sees what it needs. Nothing is
    ever concluded from it; the manifest and the engine's own header say the same."""
    tensorrt = _joined(plan.tensorrt)
    cuda, capability = _joined(plan.cuda), _joined(plan.compute_capability)
    return f"{model}-{precision}-trt{tensorrt}-cuda{cuda}-sm{capability}.trt"


def _joined(version: str) -> str:
    """Major and minor number, as file names have them: 8.6.1 is 86."""
    return "".join(_NUMBERS.findall(version)[:2])
