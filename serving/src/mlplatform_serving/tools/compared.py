"""A converted model beside its original: both are asked the same, and what differs is told."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from mlplatform_serving.backends.onnx import OnnxModel, read_signature
from mlplatform_serving.errors import BadRequest
from mlplatform_serving.models.golden import GoldenRequest
from mlplatform_serving.protocol.datatypes import BYTES, DTYPES
from mlplatform_serving.protocol.infer import encode_answer, parse_inference
from mlplatform_serving.protocol.specs import Signature, TensorSpec
from mlplatform_serving.protocol.tensors import Array, encode_json
from mlplatform_serving.tools.errors import ToolError

_OPEN_SIZE = 1
_FLOATS = "fV"
"""Kinds of numpy's types that hold fractions; BF16 is a V."""


@dataclass(frozen=True, slots=True)
class Difference:
    """The largest difference of one output, over all that was asked."""

    output: str
    absolute: float
    """NaN where one of them is no number and the other is."""
    relative: float
    """Of the largest number that the original gave."""
    at: int
    """The request, counted from 1."""

    def __str__(self) -> str:
        return (
            f"output {self.output}: largest difference {self.absolute:.3g}, "
            f"{self.relative:.2%} of its largest value (request {self.at})"
        )


def open_onnx(body: bytes, where: str) -> OnnxModel:
    """A model to ask; `ToolError` if ONNX Runtime will not have it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(body, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        said = (str(error).splitlines() or [type(error).__name__])[0][:300]
        raise ToolError(f"{where}: ONNX Runtime refuses it: {said}") from error
    return OnnxModel(read_signature(where, session), session)


def made_requests(signature: Signature, count: int, seed: int) -> tuple[dict[str, Any], ...]:
    """Requests that fit a model, by seeded chance: what there is where nobody has real ones. Sizes
    that are open are 1; numbers are normal, whole numbers 0 or 1, which most vocabularies have."""
    random = np.random.default_rng(seed)
    return tuple(
        {"inputs": [_made(spec, random) for spec in signature.inputs]} for _ in range(count)
    )


def _made(spec: TensorSpec, random: np.random.Generator) -> dict[str, Any]:
    shape = [_OPEN_SIZE if size < 0 else size for size in spec.shape]
    array: Array
    if spec.datatype == BYTES:
        array = np.full(shape, b"a", object)
    elif DTYPES[spec.datatype].kind in _FLOATS:
        array = random.standard_normal(shape).astype(DTYPES[spec.datatype])
    else:
        array = random.integers(0, 2, shape).astype(DTYPES[spec.datatype])
    data = encode_json(spec.name, array, spec.datatype)
    return {"name": spec.name, "shape": shape, "datatype": spec.datatype, "data": data}


def golden_of(
    model: OnnxModel, requests: Sequence[dict[str, Any]], tolerance: float
) -> tuple[GoldenRequest, ...]:
    """What the model answers to these, as golden requests."""
    found = []
    for request in requests:
        inference = parse_inference(msgspec.json.encode(request), None, model.signature)
        pieces, _ = encode_answer("", "", inference, _ask(model, inference.inputs, "the original"))
        outputs = msgspec.json.decode(pieces[0])["outputs"]
        found.append(GoldenRequest(request, tuple(outputs), tolerance))
    return tuple(found)


def inputs_of(golden: Sequence[GoldenRequest], signature: Signature) -> list[Mapping[str, Array]]:
    """The arrays of golden requests; `ToolError` if one does not fit the model."""
    found: list[Mapping[str, Array]] = []
    for number, each in enumerate(golden, start=1):
        try:
            found.append(parse_inference(each.body, None, signature).inputs)
        except BadRequest as error:
            raise ToolError(f"golden request {number}: {error.message}") from None
    return found


def compare(
    original: OnnxModel, converted: OnnxModel, asked: Sequence[Mapping[str, Array]]
) -> list[Difference]:
    """The largest difference of each output. `ToolError` if either fails, or they do not give the
    same outputs."""
    differences: dict[str, Difference] = {}
    for number, inputs in enumerate(asked, start=1):
        wanted = _ask(original, inputs, "the original")
        given = _ask(converted, inputs, "the converted model")
        if wanted.keys() != given.keys():
            raise ToolError("the converted model has other outputs than the original")
        for name, want in wanted.items():
            found = difference(name, want, given[name], number)
            known = differences.get(name)
            # NaN is worse than any number.
            if known is None or not found.absolute <= known.absolute:
                differences[name] = found
    return list(differences.values())


def difference(output: str, want: Array, have: Array, number: int) -> Difference:
    """Of one answer. Where both are the same, infinities and NaN too, there is none."""
    if want.shape != have.shape:
        raise ToolError(
            f"request {number}: output {output} has the shape {list(have.shape)} and had "
            f"{list(want.shape)}"
        )
    if want.dtype.kind in "OSUb":
        absolute = 0.0 if (want == have).all() else math.inf
        return Difference(output, absolute, absolute, number)
    with np.errstate(all="ignore"):
        before, after = want.astype(np.float64), have.astype(np.float64)
        same = (before == after) | (np.isnan(before) & np.isnan(after))
        off = np.where(same, 0.0, np.abs(before - after))
        finite = np.abs(before[np.isfinite(before)])
    absolute = float(off.max(initial=0.0))
    largest = float(finite.max(initial=0.0))
    return Difference(output, absolute, absolute / largest if largest else absolute, number)


def _ask(model: OnnxModel, inputs: Mapping[str, Array], who: str) -> Mapping[str, Array]:
    try:
        return model.infer(inputs)
    except Exception as error:
        said = (str(error).splitlines() or [type(error).__name__])[0][:300]
        raise ToolError(
            f"{who} fails on a request: {said}",
            hint="give requests that it takes: --golden FILE",
        ) from error
