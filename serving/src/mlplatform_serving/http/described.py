"""What the server says of itself and its models."""

from __future__ import annotations

from functools import cache
from importlib.metadata import version
from typing import Any

from mlplatform_serving.models.repository import Loaded
from mlplatform_serving.protocol.datatypes import configuration_name
from mlplatform_serving.protocol.specs import TensorSpec

EXTENSIONS = ("binary_tensor_data", "model_configuration", "model_repository", "statistics")


@cache
def server_metadata() -> dict[str, Any]:
    """`GET /v2`."""
    return {
        "name": "mlplatform-serving",
        "version": version("mlplatform-serving"),
        "extensions": list(EXTENSIONS),
    }


def metadata(loaded: Loaded, versions: list[str]) -> dict[str, Any]:
    """`GET /v2/models/{model}`. `version` and `digest`, the manifest's, are ours: of the version
    that answers."""
    signature = loaded.instance.backend.signature
    return {
        "name": loaded.name,
        "versions": versions,
        "version": loaded.version,
        "digest": loaded.digest,
        "platform": loaded.backend,
        "inputs": [spec.as_json() for spec in signature.inputs],
        "outputs": [spec.as_json() for spec in signature.outputs],
    }


def configuration(loaded: Loaded) -> dict[str, Any]:
    """`GET /v2/models/{model}/config`, in the words of Triton's model configuration. Shapes are
    whole, so that `max_batch_size` is 0."""
    signature = loaded.instance.backend.signature
    return {
        "name": loaded.name,
        "platform": loaded.backend,
        "backend": loaded.backend,
        "max_batch_size": 0,
        "input": [_tensor(spec) for spec in signature.inputs],
        "output": [_tensor(spec) for spec in signature.outputs],
        "version_policy": {"specific": {"versions": [loaded.version]}},
    }


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    return {
        "name": spec.name,
        "data_type": configuration_name(spec.datatype),
        "dims": list(spec.shape),
    }
