"""`POST /v1/models/{model}/predict`, for runbooks and old clients, in the JSON of TensorFlow
Serving and KServe's V1: `{"instances": […]}`, a row each, answered by `{"predictions": […]}`.

A row is the value of the model's one input, or an object by input. Rows are put together along the
first dimension of each input, and predictions are taken apart along the first of each output.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np

from mlplatform_serving.errors import BadRequest
from mlplatform_serving.protocol.datatypes import BYTES, dtype_of
from mlplatform_serving.protocol.nesting import check_depth
from mlplatform_serving.protocol.specs import Signature, TensorSpec
from mlplatform_serving.protocol.tensors import Array, encode_json


class PredictRequest(msgspec.Struct):
    """The body."""

    instances: list[Any]


_decoder = msgspec.json.Decoder(PredictRequest)


def parse_predict(body: bytes, signature: Signature) -> dict[str, Array]:
    """The model's inputs; `BadRequest` says what is wrong."""
    check_depth(body)
    try:
        rows = _decoder.decode(body).instances
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        said = str(error) if isinstance(error, msgspec.DecodeError) else "too deep, or not UTF-8"
        raise BadRequest(f"the JSON cannot be read: {said}") from None
    return {
        spec.name: _column(spec, rows, alone=len(signature.inputs) == 1)
        for spec in signature.inputs
    }


def _column(spec: TensorSpec, rows: list[Any], *, alone: bool) -> Array:
    values = []
    for row in rows:
        if isinstance(row, dict):
            if spec.name not in row:
                raise BadRequest(f"an instance has no {spec.name}")
            values.append(row[spec.name])
        elif alone:
            values.append(row)
        else:
            raise BadRequest("the model has several inputs: an instance is an object, by input")
    array = _array(spec, values)
    spec.check(spec.datatype, array.shape)
    return array


def _array(spec: TensorSpec, values: list[Any]) -> Array:
    try:
        if spec.datatype == BYTES:
            array = np.array(values, object)
            if not all(type(each) is str for each in array.reshape(-1).tolist()):
                raise TypeError
            flat = np.empty(array.size, object)
            flat[:] = [each.encode() for each in array.reshape(-1).tolist()]
            return flat.reshape(array.shape)
        told = np.array(values)
        wanted = dtype_of(spec.datatype)
        kinds = {"b": "b", "u": "iu", "i": "iu"}.get(wanted.kind, "fiu")
        if values and told.dtype.kind not in kinds:
            raise TypeError
        if wanted.kind in "iu" and told.size:
            limits = np.iinfo(wanted)
            if told.min() < limits.min or told.max() > limits.max:
                raise OverflowError
        with np.errstate(over="raise"):
            return told.astype(wanted)
    except (TypeError, ValueError, OverflowError, FloatingPointError):
        raise BadRequest(f"the instances are no {spec.datatype} tensor for {spec.name}") from None


def predictions(signature: Signature, outputs: Mapping[str, Array]) -> dict[str, Any]:
    """The answer's body: a prediction for each row, an object where there are several outputs."""
    columns = {spec.name: _rows(spec, outputs[spec.name]) for spec in signature.outputs}
    if len(columns) == 1:
        return {"predictions": next(iter(columns.values()))}
    if len({len(column) for column in columns.values()}) > 1:
        raise BadRequest("the outputs differ in their number of rows; use /v2 and infer")
    names = list(columns)
    return {
        "predictions": [
            dict(zip(names, row, strict=True)) for row in zip(*columns.values(), strict=True)
        ]
    }


def _rows(spec: TensorSpec, array: Array) -> list[Any]:
    if spec.datatype in {BYTES, "BF16"}:
        told = encode_json(spec.name, array, spec.datatype)
        flat = np.empty(len(told), object)
        flat[:] = told
        array = flat.reshape(array.shape)
    values = array.tolist()
    return values if isinstance(values, list) else [values]
