"""What the server says of itself and its models."""

from __future__ import annotations

from functools import cache
from importlib.metadata import version
from typing import Any

from mlplatform_serving.models.instance import PRIORITY, PRIORITY_MAX
from mlplatform_serving.models.repository import Loaded
from mlplatform_serving.protocol.datatypes import configuration_name
from mlplatform_serving.protocol.specs import TensorSpec

EXTENSIONS = (
    *("binary_tensor_data", "model_configuration", "model_repository"),
    *("schedule_policy", "statistics"),
)


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
    """`GET /v2/models/{model}/config`, in the words of Triton's model configuration: shapes are
    without the dimension of batches where there is one, and whole where `max_batch_size` is 0."""
    signature, batches = loaded.instance.backend.signature, loaded.instance.batches
    return {
        "name": loaded.name,
        "platform": loaded.backend,
        "backend": loaded.backend,
        "max_batch_size": batches.cap if batches.mixes else 0,
        "input": [_tensor(spec, batches.mixes) for spec in signature.inputs],
        "output": [_tensor(spec, batches.mixes) for spec in signature.outputs],
        **({"dynamic_batching": _dynamic_batching(loaded)} if batches.mixes else {}),
        "version_policy": {"specific": {"versions": [loaded.version]}},
    }


def _dynamic_batching(loaded: Loaded) -> dict[str, Any]:
    limits = loaded.instance.limits
    return {
        "max_queue_delay_microseconds": int(limits.window_seconds * 1e6),
        "priority_levels": PRIORITY_MAX,
        "default_priority_level": PRIORITY,
        "default_queue_policy": {
            "timeout_action": "REJECT",
            "default_timeout_microseconds": int(limits.answer_seconds * 1e6),
            "allow_timeout_override": True,
            "max_queue_size": limits.queue_requests,
        },
    }


def _tensor(spec: TensorSpec, mixes: bool) -> dict[str, Any]:  # noqa: FBT001 - what it says
    return {
        "name": spec.name,
        "data_type": configuration_name(spec.datatype),
        "dims": list(spec.shape[mixes:]),
    }
