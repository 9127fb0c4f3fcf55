"""Tensors as bytes and as JSON, and back. No array is made before what was sent is known to fill
its shape: a shape is a claim, and memory is not given for claims.

The binary form is Triton's "binary tensor data extension": little-endian, row-major, no padding; a
BOOL is one byte, 0 or 1; a BYTES element is its length as 32 bits and then itself.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from itertools import accumulate, chain
from math import prod
from operator import mul
from typing import Any

import msgspec
import numpy as np

from mlplatform_serving.errors import BadRequest
from mlplatform_serving.protocol.datatypes import BYTES, dtype_of

Buffer = bytes | memoryview
Array = np.ndarray[Any, np.dtype[Any]]

RANK_MAX = 32
ELEMENTS_MAX = 2**31
_LENGTH = struct.Struct("<I")
STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*+(?:"|\Z)', re.DOTALL)
"""JSON strings. One that never ends is taken to the end: no search begins within it again."""
_NOT_SHAPE = bytes(set(range(256)) - set(b"[],"))
_floats = msgspec.json.Decoder(list[float])
_integers = msgspec.json.Decoder(list[int])
_booleans = msgspec.json.Decoder(list[bool])
_anything = msgspec.json.Decoder(list[Any])


def element_count(shape: Sequence[int], name: str) -> int:
    """How many elements a shape has; `BadRequest` where no tensor could be so large."""
    if len(shape) > RANK_MAX:
        raise BadRequest(f"{name}: a shape of {len(shape)} dimensions; at most {RANK_MAX}")
    count = prod(shape)
    if count > ELEMENTS_MAX:
        raise BadRequest(f"{name}: a shape of more than {ELEMENTS_MAX} elements")
    return count


# --- binary --------------------------------------------------------------------------------------


def decode_binary(name: str, datatype: str, shape: Sequence[int], data: Buffer) -> Array:
    """An array over `data` itself, read-only, without a copy; BYTES are copied. `BadRequest` unless
    `data` is exactly what the shape asks for."""
    count = element_count(shape, name)
    dtype = dtype_of(datatype)
    if datatype == BYTES:
        return _decode_bytes(name, count, data).reshape(shape)
    if len(data) != count * dtype.itemsize:
        raise BadRequest(
            f"{name}: {len(data)} bytes, but {datatype} of shape {list(shape)} "
            f"takes {count * dtype.itemsize}"
        )
    if datatype == "BOOL" and count and np.frombuffer(data, np.uint8).max() > 1:
        raise BadRequest(f"{name}: a BOOL is one byte, 0 or 1")
    return np.frombuffer(data, dtype).reshape(shape)


def _decode_bytes(name: str, count: int, data: Buffer) -> Array:
    if len(data) < count * _LENGTH.size:
        raise BadRequest(f"{name}: {len(data)} bytes cannot hold {count} BYTES elements")
    view = memoryview(data)
    elements, at, end = [], 0, len(view)
    for _ in range(count):
        if at + _LENGTH.size > end:
            raise BadRequest(f"{name}: the BYTES elements are cut short")
        (length,) = _LENGTH.unpack_from(view, at)
        at += _LENGTH.size
        if length > end - at:
            raise BadRequest(f"{name}: a BYTES element is longer than what was sent")
        elements.append(bytes(view[at : at + length]))
        at += length
    if at != end:
        raise BadRequest(f"{name}: {end - at} bytes after the last of {count} BYTES elements")
    return _objects(elements)


def encode_binary(array: Array, datatype: str) -> Buffer:
    """The bytes of `array`, without a copy where it lies as the protocol wants it."""
    if datatype != BYTES:
        flat = np.ascontiguousarray(array, dtype_of(datatype)).reshape(-1)
        return flat.view(np.uint8).data
    parts: list[bytes] = []
    for element in array.reshape(-1).tolist():
        told = _as_bytes(element)
        parts += (_LENGTH.pack(len(told)), told)
    return b"".join(parts)


# --- JSON ----------------------------------------------------------------------------------------


def decode_json(name: str, datatype: str, shape: Sequence[int], data: Buffer) -> Array:
    """An array of the JSON list `data`, flat or nested as the shape is. `BadRequest` where the list
    has another form, or an element is none of the datatype's."""
    count = element_count(shape, name)
    text = bytes(data)
    try:
        if datatype == BYTES:
            nested = _nested(name, STRINGS.sub(b"", text), shape, count)
            return _objects(_strings(text, len(shape) if nested else 1)).reshape(shape)
        return _numbers(name, dtype_of(datatype), shape, count, text)
    except (msgspec.DecodeError, ValueError, TypeError, OverflowError, FloatingPointError) as error:
        said = str(error) if isinstance(error, msgspec.DecodeError) else "out of range"
        raise BadRequest(f"{name}: not {datatype} elements: {said}") from None


def _numbers(
    name: str, dtype: np.dtype[Any], shape: Sequence[int], count: int, text: bytes
) -> Array:
    kind = dtype.kind
    decoder = _floats if kind not in "iub" else _booleans if kind == "b" else _integers
    # A comma between each two, however they are nested: what is told apart before it is parsed.
    if text.count(b",") != count - 1 or text.find(b"[", 1) > 0:
        if b'"' in text:
            raise BadRequest(f"{name}: a string among numbers")
        if _nested(name, text, shape, count):
            text = b"[" + text.translate(None, b"[]") + b"]" if count else b"[]"
    values: Any = decoder.decode(text)
    if len(values) != count:
        raise _misshapen(name, shape, count)
    if kind in "iub":
        return np.array(values, dtype).reshape(shape)
    with np.errstate(over="raise"):
        return np.array(values, dtype).reshape(shape)


def _nested(name: str, text: bytes, shape: Sequence[int], count: int) -> bool:
    """Whether brackets and commas are those of the shape, rather than those of one flat list."""
    skeleton = text.translate(None, _NOT_SHAPE)
    flat_length = max(count - 1, 0) + 2
    if len(skeleton) == flat_length and skeleton == b"[" + b"," * (count - 1) + b"]":
        return False
    if shape and len(skeleton) == _skeleton_length(shape) and skeleton == _skeleton(shape):
        return True
    raise _misshapen(name, shape, count)


def _misshapen(name: str, shape: Sequence[int], count: int) -> BadRequest:
    return BadRequest(f"{name}: the data is not {count} elements in the shape {list(shape)}")


def _skeleton_length(shape: Sequence[int]) -> int:
    """How long `_skeleton` is, so that a shape's is only made where it could be met."""
    rows = list(accumulate(shape[:-1], mul, initial=1))
    brackets = 2 * sum(rows)
    commas = sum(row * max(size - 1, 0) for row, size in zip(rows, shape, strict=True))
    return brackets + commas


def _skeleton(shape: Sequence[int]) -> bytes:
    inner = b""
    for size in reversed(shape):
        inner = b"[" + b",".join([inner] * size) + b"]"
    return inner


def _strings(text: bytes, rank: int) -> list[bytes]:
    values: Any = _anything.decode(text)
    for _ in range(rank - 1):
        values = list(chain.from_iterable(values))
    if not all(type(value) is str for value in values):
        raise TypeError
    return [value.encode() for value in values]


def encode_json(name: str, array: Array, datatype: str) -> list[Any]:
    """The elements in one flat list. NaN and the infinities, for which JSON has no number, become
    null; who needs them asks for binary data."""
    if datatype != BYTES:
        if datatype == "BF16":
            array = array.astype(np.float32)
        return array.reshape(-1).tolist()
    try:
        return [_as_bytes(each).decode() for each in array.reshape(-1).tolist()]
    except UnicodeDecodeError:
        raise BadRequest(f"{name}: it is no text, which JSON could carry; ask for binary") from None


def _as_bytes(element: Any) -> bytes:
    return element.encode() if isinstance(element, str) else bytes(element)


def _objects(elements: list[bytes]) -> Array:
    # numpy must not look into the elements, nor drop the zero bytes at their ends.
    array = np.empty(len(elements), object)
    array[:] = elements
    return array
