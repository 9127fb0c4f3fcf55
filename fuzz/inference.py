"""Fuzzes what reads a request of inference: JSON and binary tensors, of every datatype.

    python -m fuzz -max_total_time=600 fuzz/corpus/inference

with atheris on the path (requirements/atheris.txt). A body is either read, or refused by
`BadRequest`; what is read fits the model's signature, lies within the body's own size, and comes
back as it was when it is written and read again. Everything else is a finding. The first four bytes
of an input say how the rest is to be taken.
"""

from __future__ import annotations

import struct

from mlplatform_serving.errors import BadRequest
from mlplatform_serving.protocol.datatypes import DTYPES
from mlplatform_serving.protocol.infer import encode_answer, parse_inference
from mlplatform_serving.protocol.predict import parse_predict
from mlplatform_serving.protocol.specs import Signature, TensorSpec
from mlplatform_serving.protocol.tensors import Array, decode_binary, encode_binary

_HEAD = struct.Struct("<BBH")


def _every() -> Signature:
    specs = tuple(TensorSpec(name, name, (-1, -1)) for name in DTYPES)
    return Signature(specs, specs)


def _one(datatype: str) -> Signature:
    spec = (TensorSpec("x", datatype, (-1, 2)),)
    return Signature(spec, spec)


SIGNATURES = (_every(), *map(_one, DTYPES))


def one_input(data: bytes) -> None:
    """One request, behind four bytes: which signature; in which way, of those that a body can be
    read in; and how long its JSON is, where binary data follow that."""
    if len(data) < _HEAD.size:
        return
    which, way, length = _HEAD.unpack_from(data)
    signature, body = SIGNATURES[which % len(SIGNATURES)], data[_HEAD.size :]
    try:
        if way % 4 == 0:
            inputs = parse_predict(body, signature)
            _check(inputs, signature, len(body))
            return
        inference = parse_inference(body, (0, None, length)[way % 4 - 1], signature)
    except BadRequest as refused:
        refused.message.encode()  # what is told can be told
        return
    _check(inference.inputs, signature, len(body))
    _check_written(inference.inputs, signature)
    try:
        encode_answer("m", "v", inference, inference.inputs)
    except BadRequest:
        return  # BYTES that are no text, and JSON was asked for


def _check(inputs: dict[str, Array], signature: Signature, body_bytes: int) -> None:
    for spec in signature.inputs:
        array = inputs[spec.name]
        assert array.dtype == DTYPES[spec.datatype], spec
        assert spec.admits(array.shape), (spec, array.shape)
        assert array.size <= body_bytes, array.shape


def _check_written(inputs: dict[str, Array], signature: Signature) -> None:
    for spec in signature.inputs:
        array = inputs[spec.name]
        written = bytes(encode_binary(array, spec.datatype))
        again = decode_binary(spec.name, spec.datatype, array.shape, written)
        assert bytes(encode_binary(again, spec.datatype)) == written, spec
