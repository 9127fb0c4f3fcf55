"""An inference's body to arrays, and a model's arrays to the answer's body."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import msgspec

from mlplatform_serving.errors import BadRequest
from mlplatform_serving.protocol.datatypes import BYTES, dtype_of
from mlplatform_serving.protocol.messages import (
    InferRequest,
    InferResponse,
    InputTensor,
    OutputTensor,
    Parameters,
)
from mlplatform_serving.protocol.nesting import check_depth
from mlplatform_serving.protocol.specs import Signature, TensorSpec
from mlplatform_serving.protocol.tensors import (
    Array,
    Buffer,
    decode_binary,
    decode_json,
    encode_binary,
    encode_json,
)

_decoder = msgspec.json.Decoder(InferRequest)
_encoder = msgspec.json.Encoder()
_REFUSED = ("shared_memory_region", "sequence_id", "classification")
"""Parameters that ask for what this server does not do: refused, since the answer would be another
than the client expects."""


@dataclass(frozen=True, slots=True)
class Inference:
    """What a client asks of a model."""

    id: str
    inputs: dict[str, Array]
    outputs: Sequence[tuple[TensorSpec, bool]]
    """What is to be answered, and whether as binary data."""
    timeout_us: int = 0
    """How long the client waits; 0: it does not say."""
    priority: int = 0
    """The lowest goes first, from 1; 0: it does not say."""


def parse_inference(body: bytes, json_bytes: int | None, signature: Signature) -> Inference:
    """Read a request whose JSON is the first `json_bytes` of `body`; None: all of it; 0: `body` is
    the model's one input. `BadRequest` says what is wrong."""
    if json_bytes == 0:
        return _raw(body, signature)
    if json_bytes is not None and json_bytes > len(body):
        raise BadRequest("Inference-Header-Content-Length is more than the body has")
    header: Buffer = body if json_bytes is None else memoryview(body)[:json_bytes]
    binary = memoryview(body)[len(header) :]
    check_depth(header)
    try:
        request = _decoder.decode(header)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"the JSON cannot be read: {_said(error)}") from None
    inputs, outputs = _inputs(request, binary, signature), _asked_outputs(request, signature)
    parameters = request.parameters
    if not parameters:
        return Inference(request.id, inputs, outputs)
    _check_supported(parameters)
    timeout_us, priority = _number(parameters, "timeout"), _number(parameters, "priority")
    return Inference(request.id, inputs, outputs, timeout_us, priority)


def _said(error: Exception) -> str:
    return str(error) if isinstance(error, msgspec.DecodeError) else "it is not UTF-8, or too deep"


def _check_supported(parameters: Parameters | None) -> None:
    for name in _REFUSED if parameters else ():
        if (parameters or {}).get(name):
            raise BadRequest(f"the parameter {name} is not supported")


def _number(parameters: Parameters, name: str) -> int:
    """A parameter of Triton's schedule policy extension: an integer, where 0 says nothing."""
    value = parameters.get(name, 0)
    if type(value) is not int or value < 0:
        raise BadRequest(f"the parameter {name} is no integer from 0")
    return value


def _inputs(request: InferRequest, binary: memoryview, signature: Signature) -> dict[str, Array]:
    found: dict[str, Array] = {}
    at = 0
    for tensor in request.inputs:
        spec = signature.input(tensor.name)
        if spec is None:
            named = ", ".join(each.name for each in signature.inputs)
            raise BadRequest(f"unexpected inference input; the model takes {named}")
        if spec.name in found:
            raise BadRequest(f"input {spec.name} stands twice")
        spec.check(tensor.datatype, tensor.shape)
        found[spec.name], at = _tensor(spec, tensor, binary, at)
    if at != len(binary):
        raise BadRequest(f"{len(binary) - at} bytes of binary data belong to no input")
    if missing := [spec.name for spec in signature.inputs if spec.name not in found]:
        raise BadRequest(f"missing inference input: {', '.join(missing)}")
    return found


def _tensor(
    spec: TensorSpec, tensor: InputTensor, binary: memoryview, at: int
) -> tuple[Array, int]:
    """The array, and where the next one's binary data begins."""
    _check_supported(tensor.parameters)
    size = (tensor.parameters or {}).get("binary_data_size")
    data = memoryview(tensor.data)
    if size is None:
        if not data:
            raise BadRequest(f"input {spec.name} has neither data nor binary_data_size")
        return decode_json(spec.name, spec.datatype, tensor.shape, data), at
    if data:
        raise BadRequest(f"input {spec.name} has both data and binary_data_size")
    if type(size) is not int or not 0 <= size <= len(binary) - at:
        raise BadRequest(
            f"input {spec.name}: its binary_data_size is not what follows the JSON: "
            f"there are {len(binary) - at} bytes left"
        )
    return decode_binary(spec.name, spec.datatype, tensor.shape, binary[at : at + size]), at + size


def _asked_outputs(
    request: InferRequest, signature: Signature
) -> Sequence[tuple[TensorSpec, bool]]:
    all_binary = (request.parameters or {}).get("binary_data_output") is True
    if not request.outputs:
        return [(spec, all_binary) for spec in signature.outputs]
    asked: dict[str, tuple[TensorSpec, bool]] = {}
    for output in request.outputs:
        spec = next((each for each in signature.outputs if each.name == output.name), None)
        if spec is None:
            named = ", ".join(each.name for each in signature.outputs)
            raise BadRequest(f"unexpected inference output; the model gives {named}")
        if spec.name in asked:
            raise BadRequest(f"output {spec.name} is asked for twice")
        _check_supported(output.parameters)
        asked[spec.name] = (
            spec,
            (output.parameters or {}).get("binary_data", all_binary) is True,
        )
    return list(asked.values())


def _raw(body: bytes, signature: Signature) -> Inference:
    """A "raw binary request": the bytes of the one input, whose shape they must tell. The answer's
    outputs are JSON, as Triton has it."""
    if len(signature.inputs) != 1:
        raise BadRequest("a body without JSON is for models of one input")
    (spec,) = signature.inputs
    known = prod(size for size in spec.shape if size >= 0)
    open_sizes = sum(size < 0 for size in spec.shape)
    if spec.datatype == BYTES:
        # One element, as it is; the protocol has no length before it here.
        data: Buffer = len(body).to_bytes(4, "little") + body
        elements = 1
    else:
        data = body
        elements = len(body) // dtype_of(spec.datatype).itemsize
    if open_sizes > 1 and elements != known:
        raise BadRequest(f"input {spec.name} has more than one open size: send its shape as JSON")
    if open_sizes and (not known or elements % known):
        raise BadRequest(f"{len(body)} bytes fill no tensor of the shape {list(spec.shape)}")
    fill = elements // known if open_sizes == 1 else 1
    shape = [size if size >= 0 else fill for size in spec.shape]
    array = decode_binary(spec.name, spec.datatype, shape, data)
    return Inference("", {spec.name: array}, [(output, False) for output in signature.outputs])


def encode_answer(
    model: str, version: str, inference: Inference, outputs: Mapping[str, Array]
) -> tuple[list[Buffer], int | None]:
    """The body in pieces, and the bytes of its JSON; None where there is nothing else."""
    told: list[OutputTensor] = []
    pieces: list[Buffer] = []
    for spec, binary in inference.outputs:
        array = outputs[spec.name]
        tensor = OutputTensor(spec.name, spec.datatype, list(array.shape))
        if binary:
            piece = encode_binary(array, spec.datatype)
            tensor.parameters = {"binary_data_size": len(piece)}
            pieces.append(piece)
        else:
            tensor.data = encode_json(spec.name, array, spec.datatype)
        told.append(tensor)
    header = _encoder.encode(InferResponse(model, version, told, inference.id))
    return [header, *pieces], len(header) if pieces else None
