"""Gives back what it is given, after as long as it is told to: for tests, benchmarks and dry runs.
Triton has one of the same name and parameter."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Annotated

import msgspec

from mlplatform_serving.backends.port import CONFIGURATION, ModelConfiguration, read_parameters
from mlplatform_serving.errors import LoadFailed
from mlplatform_serving.models.manifest import ModelFiles
from mlplatform_serving.protocol.specs import Signature
from mlplatform_serving.protocol.tensors import Array


class Parameters(msgspec.Struct, forbid_unknown_fields=True):
    """`parameters` in `model-config.json`."""

    execute_delay_ms: Annotated[float, msgspec.Meta(ge=0, le=60_000)] = 0.0
    item_delay_ms: Annotated[float, msgspec.Meta(ge=0, le=60_000)] = 0.0
    """For each row of the first input, beside that."""


def open_model(_: ModelFiles, configuration: ModelConfiguration) -> Identity:
    """`LoadFailed` unless outputs are as inputs."""
    signature = configuration.signature()
    shapes = [
        [(spec.datatype, spec.shape) for spec in specs]
        for specs in (signature.inputs, signature.outputs)
    ]
    if shapes[0] != shapes[1]:
        raise LoadFailed(f"{CONFIGURATION}: the identity's outputs are not as its inputs")
    parameters = read_parameters(configuration, Parameters)
    return Identity(signature, parameters.execute_delay_ms / 1e3, parameters.item_delay_ms / 1e3)


class Identity:
    """The n-th output is the n-th input."""

    def __init__(
        self, signature: Signature, delay_seconds: float, item_delay_seconds: float = 0.0
    ) -> None:
        self.signature = signature
        self._delay_seconds = delay_seconds
        self._item_delay_seconds = item_delay_seconds

    def infer(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """See the port."""
        if self._delay_seconds or self._item_delay_seconds:
            first = inputs[self.signature.inputs[0].name]
            items = len(first) if first.ndim else 1
            time.sleep(self._delay_seconds + self._item_delay_seconds * items)
        pairs = zip(self.signature.inputs, self.signature.outputs, strict=True)
        return {given.name: inputs[taken.name] for taken, given in pairs}

    def close(self) -> None:
        """See the port."""
