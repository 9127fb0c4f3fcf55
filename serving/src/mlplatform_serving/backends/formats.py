"""Which backend serves a version: the one that its `model-config.json` names, else the one of its
format. A backend is imported when it is first wanted; what is not listed here is never imported."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from types import ModuleType

from mlplatform_serving.backends.port import (
    CONFIGURATION,
    Backend,
    ModelConfiguration,
    read_configuration,
)
from mlplatform_serving.errors import LoadFailed
from mlplatform_serving.models.manifest import ModelFiles

BACKENDS = {
    "identity": "mlplatform_serving.backends.identity",
    "numpy": "mlplatform_serving.backends.numpy_layers",
    "onnxruntime": "mlplatform_serving.backends.onnx",
    "pytorch": "mlplatform_serving.backends.pytorch",
    "tensorrt": "mlplatform_serving.backends.tensorrt",
}
_OF_FORMAT = {"onnx": "onnxruntime", "tensorrt": "tensorrt", "torch-export": "pytorch"}
_OF_SUFFIX = {
    ".engine": "tensorrt",
    ".onnx": "onnxruntime",
    ".plan": "tensorrt",
    ".pt2": "pytorch",
    ".trt": "tensorrt",
}

Opener = Callable[[ModelFiles, ModelConfiguration], Backend]


def open_backend(files: ModelFiles) -> tuple[str, Backend]:
    """The backend's name, and the version loaded by it. Every file of the version is verified.
    `LoadFailed` says why not."""
    configuration = read_configuration(files)
    name, module = _module(files, configuration)
    opener: Opener = module.open_model
    backend = opener(files, configuration)
    try:
        files.verify()  # what the backend has not read; what it has, was verified as it was read
    except BaseException:
        backend.close()
        raise
    if configuration.max_batch_size is not None:
        backend.signature = replace(backend.signature, batch_size_max=configuration.max_batch_size)
    return name, backend


def import_backend(files: ModelFiles) -> None:
    """Have the backend's code in memory, so that it does not pass for the first model's, and with
    it the library that it is made of, where it has an `import_library`."""
    _, module = _module(files, read_configuration(files))
    if hasattr(module, "import_library"):
        module.import_library()


def _module(files: ModelFiles, configuration: ModelConfiguration) -> tuple[str, ModuleType]:
    name = configuration.backend or _of_format(files)
    if name not in BACKENDS:
        raise LoadFailed(f"no backend is called so; there are {', '.join(BACKENDS)}")
    return name, import_module(BACKENDS[name])


def _of_format(files: ModelFiles) -> str:
    if known := _OF_FORMAT.get(files.manifest.requirements.format or ""):
        return known
    suffixes = {
        backend for path in files.paths for end, backend in _OF_SUFFIX.items() if path.endswith(end)
    }
    if len(suffixes) == 1:
        return suffixes.pop()
    raise LoadFailed(
        f"which backend serves it is not said: add {CONFIGURATION} with "
        f'{{"backend": …}}, one of {", ".join(BACKENDS)}'
    )
