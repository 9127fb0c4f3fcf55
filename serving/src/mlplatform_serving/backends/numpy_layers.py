"""Dense layers in numpy, with weights from safetensors: small models, and tests without a runtime.

    {"backend": "numpy",
     "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}],
     "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 3]}],
     "parameters": {"weights": "model.safetensors",
                    "layers": [{"weight": "fc1.weight", "bias": "fc1.bias", "activation": "relu"}]}}

A weight is `[out, in]`, as PyTorch's `Linear` has it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Annotated, Literal

import ml_dtypes
import msgspec
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load

from mlplatform_serving.backends.port import CONFIGURATION, ModelConfiguration, read_parameters
from mlplatform_serving.errors import LoadFailed
from mlplatform_serving.models.manifest import ModelFiles
from mlplatform_serving.protocol.datatypes import DTYPES
from mlplatform_serving.protocol.specs import Signature
from mlplatform_serving.protocol.tensors import Array


class Layer(msgspec.Struct, forbid_unknown_fields=True):
    """y = activation(x · weightᵀ + bias)."""

    weight: str
    bias: str | None = None
    activation: Literal["none", "relu", "sigmoid", "softmax", "tanh"] = "none"


class Parameters(msgspec.Struct, forbid_unknown_fields=True):
    """`parameters` in `model-config.json`."""

    layers: Annotated[list[Layer], msgspec.Meta(min_length=1)]
    weights: str = "model.safetensors"


def _softmax(values: Array) -> Array:
    powers = np.exp(values - values.max(axis=-1, keepdims=True))
    shares: Array = powers / powers.sum(axis=-1, keepdims=True)
    return shares


def _sigmoid(values: Array) -> Array:
    return 1.0 / (1.0 + np.exp(-values))


_ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = {
    "none": lambda values: values,
    "relu": lambda values: np.maximum(values, 0),
    "sigmoid": _sigmoid,
    "softmax": _softmax,
    "tanh": np.tanh,
}


def open_model(files: ModelFiles, configuration: ModelConfiguration) -> Layers:
    """`LoadFailed` if weights are missing, or do not fit each other or the interface."""
    signature = configuration.signature()
    parameters = read_parameters(configuration, Parameters)
    try:
        tensors = load(files.read(parameters.weights))
    except SafetensorError as error:
        raise LoadFailed(f"{parameters.weights}: not safetensors: {error}") from None
    layers = [_layer(layer, tensors) for layer in parameters.layers]
    _check(signature, [weight for weight, _, _ in layers])
    return Layers(signature, layers)


_Layer = tuple[Array, Array | None, Callable[[Array], Array]]


def _layer(layer: Layer, tensors: Mapping[str, Array]) -> _Layer:
    for name in (layer.weight, layer.bias):
        if name is not None and name not in tensors:
            raise LoadFailed(f"{CONFIGURATION}: the weights have no tensor {name}")
    weight = _computable(tensors[layer.weight])
    bias = None if layer.bias is None else _computable(tensors[layer.bias])
    if weight.ndim != 2 or (bias is not None and bias.shape != weight.shape[:1]):
        raise LoadFailed(f"{CONFIGURATION}: {layer.weight} and its bias are no layer")
    return weight, bias, _ACTIVATIONS[layer.activation]


def _computable(tensor: Array) -> Array:
    """Half precision is slow in numpy, and some of it impossible."""
    if tensor.dtype in {np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)}:
        return tensor.astype(np.float32)
    return tensor


def _check(signature: Signature, weights: list[Array]) -> None:
    for before, after in pairwise(weights):
        if before.shape[0] != after.shape[1]:
            raise LoadFailed(
                f"{CONFIGURATION}: a layer takes another width than the one before gives"
            )
    if len(signature.inputs) != 1 or len(signature.outputs) != 1:
        raise LoadFailed(f"{CONFIGURATION}: layers have one input and one output")
    for spec, width in (
        (signature.inputs[0], weights[0].shape[1]),
        (signature.outputs[0], weights[-1].shape[0]),
    ):
        if not spec.shape or spec.shape[-1] != width or DTYPES[spec.datatype].kind in "Ob":
            raise LoadFailed(f"{CONFIGURATION}: {spec.name} does not fit the weights: {width} wide")


class Layers:
    """Layer after layer."""

    def __init__(self, signature: Signature, layers: list[_Layer]) -> None:
        self.signature = signature
        self._layers = layers
        self._input, self._output = signature.inputs[0].name, signature.outputs[0].name
        self._dtype = DTYPES[signature.outputs[0].datatype]

    def infer(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """See the port. NaN and the infinities go through as arithmetic has them."""
        with np.errstate(all="ignore"):
            values = inputs[self._input].astype(self._layers[0][0].dtype, copy=False)
            for weight, bias, activation in self._layers:
                values = values @ weight.T
                if bias is not None:
                    values = values + bias
                values = activation(values)
            return {self._output: values.astype(self._dtype, copy=False)}

    def close(self) -> None:
        """See the port."""
        self._layers = []
