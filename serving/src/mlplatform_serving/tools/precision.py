"""An ONNX model in half precision, or in eight bits. What it takes and gives keeps its types, so
that clients need not change.

Eight bits: with inputs to learn the ranges from, matrix products and convolutions are quantized
ahead (QDQ, per channel), and nothing else is: of magika, those alone change no output by more than
0.003, and a range for every operator turns each answer wrong. Without inputs, weights alone are,
and ranges are found at each inference, which is slower.

On x86 without VNNI a sum of two products of eight bits each may overflow (U8S8). `any_cpu` takes
seven bits for weights instead, which cost magika a tenfold difference, 0.03
(https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html).
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Any

from mlplatform_serving.protocol.tensors import Array
from mlplatform_serving.tools.errors import ToolError, Usage

Inputs = Mapping[str, Array]
_AHEAD = ["Conv", "Gemm", "MatMul"]


class Precision(StrEnum):
    """In what a model computes."""

    FP32 = "fp32"
    """As it is."""
    FP16 = "fp16"
    INT8 = "int8"


TOLERANCES = {Precision.FP32: 1e-4, Precision.FP16: 0.01, Precision.INT8: 0.05}
"""By how much an output may be off before a conversion is refused."""


def read_onnx(path: Path) -> bytes:
    """A model with all its weights in one piece. `ToolError` if it is none."""
    onnx = require_onnx()
    try:
        model = onnx.load(path)
        body: bytes = model.SerializeToString()
    except Exception as error:  # its errors share no base
        raise ToolError(f"{path}: no ONNX model: {_first_line(error)}") from error
    return body


def in_precision(
    body: bytes,
    precision: Precision,
    calibration: Sequence[Inputs] = (),
    *,
    any_cpu: bool = False,
) -> bytes:
    """The model, converted. `ToolError` says what could not be."""
    if precision is Precision.FP32:
        return body
    onnx = require_onnx()
    model = onnx.load_model_from_string(body)
    try:
        with _quietly(), tempfile.TemporaryDirectory() as folder:
            if precision is Precision.FP16:
                return _half(model)
            return _eight_bits(onnx, model, calibration, Path(folder), any_cpu=any_cpu)
    except Exception as error:
        raise ToolError(f"not converted to {precision}: {_first_line(error)}") from error


def _half(model: Any) -> bytes:
    from onnxruntime.transformers.float16 import convert_float_to_float16

    body: bytes = convert_float_to_float16(model, keep_io_types=True).SerializeToString()
    return body


def _eight_bits(
    onnx: Any, model: Any, calibration: Sequence[Inputs], folder: Path, *, any_cpu: bool
) -> bytes:
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_dynamic,
        quantize_static,
    )

    class Given(CalibrationDataReader):  # type: ignore[misc]
        """The inputs, one after the other."""

        def __init__(self) -> None:
            self._left = iter(calibration)

        def get_next(self) -> Inputs | None:
            return next(self._left, None)

    before, after = folder / "before.onnx", folder / "after.onnx"
    onnx.save(onnx.shape_inference.infer_shapes(model), before)
    weights = {"weight_type": QuantType.QInt8, "reduce_range": any_cpu}
    if calibration:
        quantize_static(
            before,
            after,
            Given(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=_AHEAD,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            **weights,
        )
    else:
        quantize_dynamic(before, after, **weights)
    return after.read_bytes()


def require_onnx() -> Any:
    """The library; `Usage` says which extra has it."""
    try:
        import onnx
        import onnxruntime  # noqa: F401 - both or neither
    except ImportError as error:
        raise Usage(
            f"{error.name} is not installed", hint="pip install 'mlplatform-serving[convert]'"
        ) from None
    return onnx


@contextmanager
def _quietly() -> Iterator[None]:
    """Its quantizer advises on the root logger, and numpy warns of what overflows half precision,
    which the comparison with the original finds."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.setLevel(level)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
