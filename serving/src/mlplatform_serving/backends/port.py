"""The port of backends: what runs a model. One file a backend, named in `formats.py`, imported when
a model wants it."""

from __future__ import annotations

from collections.abc import Mapping
from threading import Lock
from typing import Annotated, Any, Protocol, TypeVar

import msgspec

from mlplatform_serving.errors import LoadFailed
from mlplatform_serving.models.manifest import ModelFiles
from mlplatform_serving.protocol.datatypes import DTYPES
from mlplatform_serving.protocol.specs import Signature, TensorSpec
from mlplatform_serving.protocol.tensors import Array

T = TypeVar("T")

CONFIGURATION = "model-config.json"
"""A version's file that says how it is served; a backend that knows by itself needs none."""


class Backend(Protocol):
    """A loaded model. It is used by one thread, its own, and closed once."""

    signature: Signature

    def infer(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """Every output for these inputs, which fit the signature and must not be written to. What
        it raises is logged, and the client is told only that it failed."""
        ...

    def close(self) -> None:
        """Give back what the model holds."""
        ...


class TensorConfiguration(msgspec.Struct, forbid_unknown_fields=True):
    """One tensor in `model-config.json`."""

    name: str
    datatype: str
    shape: list[Annotated[int, msgspec.Meta(ge=-1)]]


class ModelConfiguration(msgspec.Struct, forbid_unknown_fields=True):
    """`model-config.json`."""

    backend: str | None = None
    inputs: list[TensorConfiguration] = []
    outputs: list[TensorConfiguration] = []
    max_batch_size: Annotated[int, msgspec.Meta(ge=0, le=65_536)] | None = None
    parameters: dict[str, Any] = {}

    def signature(self) -> Signature:
        """What it says of the model's interface; `LoadFailed` if that cannot be one."""
        for tensors in (self.inputs, self.outputs):
            names = [tensor.name for tensor in tensors]
            if not names or len(set(names)) < len(names):
                raise LoadFailed(f"{CONFIGURATION}: inputs and outputs have a name each")
            if unknown := [each for each in tensors if each.datatype not in DTYPES]:
                raise LoadFailed(f"{CONFIGURATION}: {unknown[0].name} has an unknown datatype")
        return Signature(_specs(self.inputs), _specs(self.outputs))


def _specs(tensors: list[TensorConfiguration]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(each.name, each.datatype, tuple(each.shape)) for each in tensors)


_decoder = msgspec.json.Decoder(ModelConfiguration)
_one_at_a_time = Lock()


def read_configuration(files: ModelFiles) -> ModelConfiguration:
    """The version's `model-config.json`, or an empty one."""
    if CONFIGURATION not in files:
        return ModelConfiguration()
    try:
        return _decoder.decode(files.read(CONFIGURATION))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise LoadFailed(f"{CONFIGURATION}: {error}") from None


def read_parameters(configuration: ModelConfiguration, kind: type[T]) -> T:
    """A backend's own parameters, as its type has them."""
    try:
        # What msgspec knows of a type is made at its first use, and not by two threads at once.
        with _one_at_a_time:
            return msgspec.convert(configuration.parameters, kind)
    except msgspec.ValidationError as error:
        raise LoadFailed(f"{CONFIGURATION}: parameters: {error}") from None


def only_file(files: ModelFiles, *suffixes: str) -> str:
    """The version's one file that ends so; `LoadFailed` where there are several, or none."""
    found = [path for path in files.paths if path.endswith(suffixes)]
    if len(found) != 1:
        raise LoadFailed(f"{CONFIGURATION}: parameters.file must say which of {len(found)} files")
    return found[0]
