"""`python -m tests.serving.loading.cycles N`: load, ask and unload a model N times, numpy and ONNX
Runtime in turn, and print what is resident after the hundredth and the last, as JSON."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from mlplatform_serving.memory import host
from mlplatform_serving.metrics import Metrics
from mlplatform_serving.models.repository import Repository
from mlplatform_serving.protocol.datatypes import DTYPES
from tests.serving.rig import publish, tensor

BASE = 100
WIDE = 512


def numpy_model() -> dict[str, bytes]:
    """A layer of a MiB."""
    weight = np.random.default_rng(1).normal(size=(WIDE, WIDE)).astype(np.float32)
    told = {
        "backend": "numpy",
        "inputs": [tensor("x", "FP32", -1, WIDE)],
        "outputs": [tensor("y", "FP32", -1, WIDE)],
        "parameters": {"layers": [{"weight": "w"}]},
    }
    return {
        "model-config.json": json.dumps(told).encode(),
        "model.safetensors": save({"w": weight}),
    }


def onnx_model() -> bytes:
    """Magika's, 3 MB."""
    spec = find_spec("magika")
    assert spec is not None
    assert spec.origin is not None
    return max((Path(spec.origin).parent / "models").rglob("*.onnx")).read_bytes()


async def cycle(repository: Repository, name: str) -> None:
    """Once: load, one inference, unload."""
    instance = (await repository.load(name)).instance
    inputs = {
        spec.name: np.zeros([max(size, 1) for size in spec.shape], DTYPES[spec.datatype])
        for spec in instance.backend.signature.inputs
    }
    await instance.infer(inputs)
    await repository.unload(name)


async def measure(folder: Path, cycles: int) -> dict[str, int]:
    """Bytes resident after the hundredth cycle, and after the last."""
    publish(folder, "numpy", "v1", numpy_model())
    publish(folder, "magika", "v1", {"model.onnx": onnx_model()}, form="onnx")
    host.settle()
    repository = Repository(folder, metrics=Metrics(""))
    base = 0
    for number in range(1, cycles + 1):
        await cycle(repository, ("numpy", "magika")[number % 2])
        if number == BASE:
            base = host.resident_bytes() or 0
    last = host.resident_bytes() or 0
    return {"cycles": cycles, "after_base_bytes": base, "after_last_bytes": last}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        sys.stdout.write(json.dumps(asyncio.run(measure(Path(scratch), int(sys.argv[1])))))
