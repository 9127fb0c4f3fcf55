"""A PyTorch module, whose code the operator names, with weights from safetensors, to ONNX. The code
is imported and run: it is the operator's own. The weights are data, and stay so."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from mlplatform_serving.protocol.datatypes import DTYPES
from mlplatform_serving.protocol.specs import TensorSpec
from mlplatform_serving.protocol.tensors import Array
from mlplatform_serving.tools.checkpoints import require_torch
from mlplatform_serving.tools.errors import ToolError, Usage

_OPEN_SIZE = 2
"""What an open size is while it is traced: the exporter takes 1 for a size that is fixed."""


def parse_input(text: str) -> TensorSpec:
    """`NAME:DATATYPE:-1,3,224,224`, −1 being any size."""
    name, _, rest = text.partition(":")
    datatype, _, sizes = rest.partition(":")
    try:
        shape = tuple(int(each) for each in sizes.split(","))
    except ValueError:
        shape = ()
    if not name or datatype not in DTYPES or not shape or min(shape) < -1:
        raise Usage(
            f"--input {text}: no input of a model",
            hint="NAME:DATATYPE:SHAPE, as x:FP32:-1,3,224,224, where -1 is any size",
        )
    return TensorSpec(name, datatype, shape)


def parse_module(text: str) -> tuple[str, str]:
    """`package.module:name`."""
    module, colon, name = text.partition(":")
    if not colon or not module or not name.isidentifier():
        raise Usage(
            f"--module {text}: no module's name",
            hint="package.module:Class, or a function that makes the model without arguments",
        )
    return module, name


def export_onnx(module: str, weights: Path, inputs: Sequence[TensorSpec]) -> bytes:
    """The model in ONNX. `ToolError` says what does not fit, or what the exporter says."""
    require_torch()
    import torch
    from safetensors.torch import load_file

    where, name = parse_module(module)
    if not inputs:
        raise Usage(
            "what the model takes is not said", hint="--input x:FP32:-1,3,224,224, each input"
        )
    try:
        model = getattr(import_module(where), name)()
    except Exception as error:
        raise ToolError(f"--module {module}: {type(error).__name__}: {error}") from error
    if not isinstance(model, torch.nn.Module):
        raise ToolError(f"--module {module} makes a {type(model).__name__}, no torch.nn.Module")
    try:
        model.load_state_dict(load_file(weights), strict=True)
    except RuntimeError as error:
        said = " ".join(str(error).split())[:500]
        raise ToolError(f"the weights are not those of {module}: {said}") from error
    model.eval()
    try:
        with torch.no_grad():
            exported = torch.onnx.export(
                model,
                tuple(torch.from_numpy(_example(each)) for each in inputs),
                input_names=[each.name for each in inputs],
                dynamic_shapes=_open_sizes(torch, inputs),
                dynamo=True,
                verbose=False,
            )
        body = io.BytesIO()
        exported.save(body)
    except ImportError as error:
        raise Usage(
            f"PyTorch's exporter needs {error.name}, which is not installed",
            hint="pip install 'mlplatform-serving[export]'",
        ) from None
    except Exception as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0][:500]
        raise ToolError(f"{module} cannot be exported: {said}") from error
    return body.getvalue()


def _example(spec: TensorSpec) -> Array:
    shape = [_OPEN_SIZE if size < 0 else size for size in spec.shape]
    return np.ones(shape, DTYPES[spec.datatype])


def _open_sizes(torch: Any, inputs: Sequence[TensorSpec]) -> tuple[Mapping[int, Any], ...]:
    """Open sizes: the first of all inputs is one and the same, the batch."""
    found = []
    for number, spec in enumerate(inputs):
        found.append(
            {
                place: torch.export.Dim("batch" if place == 0 else f"size_{number}_{place}")
                for place, size in enumerate(spec.shape)
                if size < 0
            }
        )
    return tuple(found)
