"""TensorRT engines, by TensorRT or TensorRT for RTX, whichever built them: the engine's head says.

    {"backend": "tensorrt", "parameters": {"file": "resnet50-fp16.engine", "device": 0}}

Neither is imported before an engine wants it, and no object of theirs is made before the head, the
manifest, the runtime's version, the driver and the GPU fit; see `engines.py`. An engine is native
code, trusted because the manifest says that its publisher published these bytes; code for the host
that an engine brings (a version-compatible one does) is not run.

Run with TensorRT for RTX 1.7 and real engines: all up to the driver, which no machine of the tests
has. Not run: loading into a GPU, inference, and TensorRT itself.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import distributions
from math import prod
from typing import Any

import msgspec
import numpy as np

from mlplatform_serving.backends import engines
from mlplatform_serving.backends.cuda_memory import CudaFailed, Device
from mlplatform_serving.backends.driver import probe_driver
from mlplatform_serving.backends.port import (
    CONFIGURATION,
    ModelConfiguration,
    only_file,
    read_parameters,
)
from mlplatform_serving.errors import LoadFailed
from mlplatform_serving.models.manifest import ModelFiles
from mlplatform_serving.protocol.datatypes import DTYPES
from mlplatform_serving.protocol.specs import Signature, TensorSpec
from mlplatform_serving.protocol.tensors import Array

log = logging.getLogger(__name__)

SUFFIXES = (".engine", ".plan", ".trt")
_DATATYPES = {
    "BF16": "BF16",
    "BOOL": "BOOL",
    "FLOAT": "FP32",
    "HALF": "FP16",
    "INT32": "INT32",
    "INT64": "INT64",
    "INT8": "INT8",
    "UINT8": "UINT8",
}
_LIBRARIES = re.compile(r"(tensorrt(?:[-_]rtx)?)[-_]cu(\d+)[-_](?:libs|bindings)")
_SAID_MAX = 5


class Parameters(msgspec.Struct, forbid_unknown_fields=True):
    """`parameters` in `model-config.json`."""

    file: str | None = None
    device: int = 0


def open_model(files: ModelFiles, configuration: ModelConfiguration) -> Engine:
    """`LoadFailed` says what differs from what the engine was built for, and what to do."""
    parameters = read_parameters(configuration, Parameters)
    path = parameters.file or only_file(files, *SUFFIXES)
    body, requirements = files.read(path), files.manifest.requirements
    head = engines.read_head(path, body)
    engines.check_manifest(path, head, requirements)
    module = _module(path, head.runtime)
    here = engines.Runtime(str(module.__version__), cuda_major(head.runtime))
    engines.check_runtime(path, head, requirements, here)
    engines.check_driver(path, requirements, probe_driver())
    return Engine(path, body, module, configuration, parameters.device)


def open_builder() -> Any:
    """What builds engines for `convert`: a `PlanBuilder` of `tools/plans.py`."""
    from mlplatform_serving.backends.plan_builder import installed_builder

    return installed_builder()


def _module(path: str, name: str) -> Any:
    try:
        return import_module(name)
    except (ImportError, OSError) as error:  # OSError: a library that it needs is not there
        raise LoadFailed(
            f"{path} is an engine of {engines.TITLES[name]}, which is not installed: "
            f"mlplatform-serving[{engines.EXTRAS[name]}] has it ({type(error).__name__})"
        ) from error


def cuda_major(runtime: str) -> int | None:
    """The CUDA that its libraries were compiled with: their distribution is named after it."""
    for each in distributions():
        told = _LIBRARIES.fullmatch(each.name or "")
        if told is not None and told[1].replace("-", "_") == runtime:
            return int(told[2])
    return None


def open_logger(module: Any) -> Any:
    """TensorRT says in its log, and nowhere else, why it gives nothing back."""

    class Logger(module.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            module.ILogger.__init__(self)
            self.said: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (module.ILogger.INTERNAL_ERROR, module.ILogger.ERROR):
                self.said = [*self.said, message][-_SAID_MAX:]
                log.error("%s", message)
            elif severity == module.ILogger.WARNING:
                log.warning("%s", message)

    return Logger()


class Engine:
    """An engine in a GPU's memory. It is used by one thread at a time."""

    def __init__(
        self, path: str, body: bytes, module: Any, configuration: ModelConfiguration, device: int
    ) -> None:
        """Only where a driver was found."""
        self._device = Device(device)
        self._logger = open_logger(module)
        self._path = path
        try:
            if module.__name__ == engines.TENSORRT:
                module.init_libnvinfer_plugins(self._logger, "")
            self._runtime = module.Runtime(self._logger)
            if hasattr(self._runtime, "get_engine_validity"):
                self._check_validity(module, body)
            self._engine = self._runtime.deserialize_cuda_engine(body)
            if self._engine is None:
                raise self._refused("Engine deserialization failed")
            self._context = self._engine.create_execution_context()
            if self._context is None:
                raise self._refused("the GPU has no room to run it")
            self.signature = self._read_signature(module, configuration)
        except BaseException:
            self.close()
            raise

    def infer(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """See the port."""
        self._device.use()
        held = []  # until they are copied
        for spec in self.signature.inputs:
            array = np.ascontiguousarray(inputs[spec.name], DTYPES[spec.datatype])
            held.append(array)
            if not self._context.set_input_shape(spec.name, array.shape):
                raise CudaFailed(f"{spec.name}: the engine has no profile for {array.shape}")
            self._bind(spec.name, self._device.put(spec.name, array))
        if missing := self._context.infer_shapes():
            raise CudaFailed(f"the shapes depend on {', '.join(missing)}")
        shapes = {}
        for spec in self.signature.outputs:
            shape = tuple(self._context.get_tensor_shape(spec.name))
            if min(shape, default=0) < 0:
                raise CudaFailed(f"{spec.name}: its shape depends on the data, which is not served")
            shapes[spec.name] = shape
            size_bytes = prod(shape) * DTYPES[spec.datatype].itemsize
            self._bind(spec.name, self._device.memory(spec.name, size_bytes))
        if not self._context.execute_async_v3(self._device.stream):
            raise CudaFailed("; ".join(self._logger.said) or "the engine did not run")
        answers = {
            spec.name: self._device.get(spec.name, shapes[spec.name], DTYPES[spec.datatype])
            for spec in self.signature.outputs
        }
        self._device.finish()
        return answers

    def close(self) -> None:
        """See the port."""
        self._context = self._engine = self._runtime = None  # in this order: each needs the next
        self._device.close()

    def _bind(self, name: str, address: int) -> None:
        if not self._context.set_tensor_address(name, address):
            raise CudaFailed(f"{name}: the engine takes no memory for it")

    def _check_validity(self, module: Any, body: bytes) -> None:
        """TensorRT for RTX tells beforehand, and names what differs."""
        validity, bits = self._runtime.get_engine_validity(body)
        if validity == module.EngineValidity.INVALID:
            named = module.EngineInvalidityDiagnostics.__members__.items()
            differs = [name for name, bit in named if int(bits) & int(bit)]
            raise self._refused(
                f"Engine deserialization failed ({', '.join(differs) or 'unknown'})"
            )

    def _refused(self, what: str) -> LoadFailed:
        said = "; ".join(self._logger.said) or "TensorRT says no more"
        return LoadFailed(f"{self._path}: {what}: {said[:400]}")

    def _read_signature(self, module: Any, configuration: ModelConfiguration) -> Signature:
        inputs, outputs, items = [], [], []
        for index in range(self._engine.num_io_tensors):
            name = self._engine.get_tensor_name(index)
            dtype = self._engine.get_tensor_dtype(name).name
            if dtype not in _DATATYPES:
                raise LoadFailed(f"{self._path}: {name} is {dtype}, which the protocol has not")
            shape = tuple(self._engine.get_tensor_shape(name))
            spec = TensorSpec(name, _DATATYPES[dtype], shape)
            if self._engine.get_tensor_mode(name) != module.TensorIOMode.INPUT:
                outputs.append(spec)
                continue
            inputs.append(spec)
            if shape and shape[0] == -1:
                _, _, largest = self._engine.get_tensor_profile_shape(name, 0)
                items.append(largest[0])
        batch_size_max = min(items) if len(items) == len(inputs) and items else 1
        wanted = configuration.max_batch_size
        if wanted is not None and wanted > batch_size_max:
            raise LoadFailed(
                f"{CONFIGURATION}: max_batch_size is {wanted}, and {self._path} was built for "
                f"{batch_size_max}: build it for more, or ask for less"
            )
        return Signature(tuple(inputs), tuple(outputs), batch_size_max)
