"""The tensors' two forms, by chance: what was encoded is decoded again, and what is not right is
refused by the one error that clients are told of, whatever it is."""

from __future__ import annotations

import json
from contextlib import suppress
from math import prod
from typing import Any

import ml_dtypes
import msgspec
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mlplatform_serving.errors import BadRequest
from mlplatform_serving.protocol.datatypes import DTYPES
from mlplatform_serving.protocol.infer import encode_answer, parse_inference
from mlplatform_serving.protocol.nesting import check_depth
from mlplatform_serving.protocol.predict import parse_predict
from mlplatform_serving.protocol.specs import Signature, TensorSpec
from mlplatform_serving.protocol.tensors import (
    decode_binary,
    decode_json,
    encode_binary,
    encode_json,
)

SHAPES = arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)


@st.composite
def tensors(draw: st.DrawFn) -> tuple[str, Any]:
    datatype = draw(st.sampled_from(sorted(DTYPES)))
    shape = draw(SHAPES)
    if datatype == "BYTES":
        size = prod(shape)
        told = draw(st.lists(st.binary(max_size=9), min_size=size, max_size=size))
        array = np.empty(size, object)
        array[:] = told
        return datatype, array.reshape(shape)
    if datatype == "BF16":
        bits = draw(arrays.arrays(np.uint16, shape))
        return datatype, bits.view(ml_dtypes.bfloat16)
    return datatype, draw(arrays.arrays(DTYPES[datatype], shape))


def same(one: Any, other: Any) -> bool:
    """Of one shape and type, and bit for bit the same, NaN included."""
    if one.dtype == object:
        return (one.shape, one.tolist()) == (other.shape, other.tolist())
    return (one.shape, one.dtype, one.tobytes()) == (other.shape, other.dtype, other.tobytes())


@given(tensors())
def test_binary_there_and_back(tensor: tuple[str, Any]) -> None:
    datatype, array = tensor
    data = bytes(encode_binary(array, datatype))
    assert same(decode_binary("t", datatype, array.shape, data), array)


@given(tensors(), st.randoms(use_true_random=False))
def test_binary_of_any_layout(tensor: tuple[str, Any], chance: Any) -> None:
    datatype, array = tensor
    axes = list(range(array.ndim))
    chance.shuffle(axes)
    turned = array.transpose(axes)
    data = bytes(encode_binary(turned, datatype))
    assert same(decode_binary("t", datatype, turned.shape, data), turned)


@given(tensors())
def test_binary_cut_at_every_byte_and_one_too_long(tensor: tuple[str, Any]) -> None:
    datatype, array = tensor
    data = bytes(encode_binary(array, datatype))
    for end in range(len(data)):
        with pytest.raises(BadRequest):
            decode_binary("t", datatype, array.shape, data[:end])
    with pytest.raises(BadRequest):
        decode_binary("t", datatype, array.shape, data + b"\0")


@given(tensors(), st.booleans())
def test_json_there_and_back(tensor: tuple[str, Any], nested: bool) -> None:
    datatype, array = tensor
    if array.dtype == object:
        array = np.vectorize(lambda each: each.hex().encode(), otypes=[object])(array)
        assume(array.size)
    elif array.dtype.kind not in "iub":
        assume(np.isfinite(array.astype(np.float64)).all())
    flat = encode_json("t", array, datatype)
    told: Any = flat
    if nested and array.ndim:
        shaped = np.empty(len(flat), object)
        shaped[:] = flat
        told = shaped.reshape(array.shape).tolist()
    found = decode_json("t", datatype, array.shape, msgspec.json.encode(told))
    assert found.tolist() == array.tolist()
    assert found.shape == array.shape


SIGNATURE = Signature(
    tuple(TensorSpec(f"in_{each}", each, (-1, -1)) for each in ("FP32", "BYTES", "BOOL")),
    (TensorSpec("out", "FP32", (-1,)),),
)


def request_of(parts: dict[str, tuple[list[int], bytes]]) -> tuple[bytes, int]:
    head = json.dumps(
        {
            "inputs": [
                {
                    "name": f"in_{datatype}",
                    "datatype": datatype,
                    "shape": shape,
                    "parameters": {"binary_data_size": len(data)},
                }
                for datatype, (shape, data) in parts.items()
            ]
        }
    ).encode()
    return head + b"".join(data for _, data in parts.values()), len(head)


GOOD, GOOD_JSON_BYTES = request_of(
    {
        "FP32": ([1, 2], b"\0\0\x80\x3f" * 2),
        "BYTES": ([2, 1], b"\2\0\0\0hi\0\0\0\0"),
        "BOOL": ([1, 3], b"\0\1\0"),
    }
)


def test_a_whole_request() -> None:
    found = parse_inference(GOOD, GOOD_JSON_BYTES, SIGNATURE).inputs
    assert found["in_FP32"].tolist() == [[1, 1]]
    assert found["in_BYTES"].tolist() == [[b"hi"], [b""]]
    assert found["in_BOOL"].tolist() == [[False, True, False]]


def test_a_request_cut_at_every_byte() -> None:
    for end in range(len(GOOD)):
        with pytest.raises(BadRequest):
            parse_inference(GOOD[:end], GOOD_JSON_BYTES, SIGNATURE)
        with pytest.raises(BadRequest):
            parse_inference(GOOD[:end], min(GOOD_JSON_BYTES, end) or None, SIGNATURE)


@given(st.data())
def test_a_request_with_bytes_changed(data: st.DataObject) -> None:
    body = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 5))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    size = data.draw(st.integers(1, len(GOOD) + 2) | st.just(GOOD_JSON_BYTES))
    try:
        found = parse_inference(bytes(body), size, SIGNATURE)
    except BadRequest:
        return
    for spec in SIGNATURE.inputs:
        assert spec.admits(found.inputs[spec.name].shape)
        assert found.inputs[spec.name].dtype == DTYPES[spec.datatype]


@given(st.binary(max_size=200), st.none() | st.integers(0, 210))
def test_any_bytes_at_all(body: bytes, size: int | None) -> None:
    for signature in (SIGNATURE, Signature(SIGNATURE.inputs[:1], SIGNATURE.outputs)):
        with suppress(BadRequest):
            parse_inference(body, size, signature)
    with suppress(BadRequest):
        parse_predict(body, SIGNATURE)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=20,
)


@given(st.sampled_from(sorted(DTYPES)), st.lists(st.integers(0, 4), max_size=3), VALUES)
def test_any_json_as_data(datatype: str, shape: list[int], value: Any) -> None:
    try:
        body = json.dumps(value).encode()
        found = decode_json("t", datatype, shape, body)
    except BadRequest:
        return
    assert found.shape == tuple(shape)
    assert found.dtype == DTYPES[datatype]


@given(st.lists(VALUES, max_size=4), st.sampled_from(sorted(DTYPES)))
def test_any_json_as_instances(rows: list[Any], datatype: str) -> None:
    signature = Signature((TensorSpec("x", datatype, (-1, -1)),), ())
    try:
        found = parse_predict(msgspec.json.encode({"instances": rows}), signature)
    except BadRequest:
        return
    assert found["x"].ndim == 2
    assert found["x"].dtype == DTYPES[datatype]


@given(VALUES)
def test_nesting_is_counted_as_it_is(value: Any) -> None:
    def depth(of: Any) -> int:
        if isinstance(of, dict):
            return 1 + max(map(depth, of.values()), default=0)
        return 1 + max(map(depth, of), default=0) if isinstance(of, list) else 0

    for more in (0, 100 - depth(value), 101 - depth(value)):
        inner: Any = value
        for _ in range(more):
            inner = [inner, '[[{"']
        text = json.dumps([inner] if more == 0 else inner).encode()
        if more + depth(value) > 100:
            with pytest.raises(BadRequest):
                check_depth(text)
        else:
            check_depth(text)


def test_nan_in_json_is_null_and_in_binary_itself() -> None:
    request = b'{"inputs":[{"name":"in_FP32","datatype":"FP32","shape":[1,1],"data":[1]}]%s}'
    signature = Signature(SIGNATURE.inputs[:1], SIGNATURE.outputs)
    outputs = {"out": np.array([np.nan], np.float32)}
    (body,), size = encode_answer(
        "m", "v", parse_inference(request % b"", None, signature), outputs
    )
    assert size is None
    assert json.loads(bytes(body))["outputs"][0]["data"] == [None]
    asked = parse_inference(request % b',"parameters":{"binary_data_output":true}', None, signature)
    (_, data), _ = encode_answer("m", "v", asked, outputs)
    assert np.isnan(np.frombuffer(data, np.float32)[0])
