"""ONNX Runtime, on the CPU or by CUDA. The model is handed over as verified bytes, so that it
cannot name files of its own beside it (external data), nor change between verification and use.

CUDA is asked for: `"parameters": {"provider": "cuda", "device": 0}`. ONNX Runtime goes back to the
CPU where it cannot have the GPU, and says so in a warning; here that is a failed load. Not run:
inference by CUDA, for no machine of the tests has a GPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
import numpy as np

from mlplatform_serving.backends.driver import probe_driver
from mlplatform_serving.backends.port import ModelConfiguration, only_file, read_parameters
from mlplatform_serving.errors import LoadFailed
from mlplatform_serving.models.manifest import ModelFiles
from mlplatform_serving.protocol.datatypes import BYTES
from mlplatform_serving.protocol.specs import Signature, TensorSpec
from mlplatform_serving.protocol.tensors import Array

_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
_DATATYPES = {
    "tensor(bool)": "BOOL",
    "tensor(double)": "FP64",
    "tensor(float)": "FP32",
    "tensor(float16)": "FP16",
    "tensor(string)": BYTES,
    **{f"tensor(int{bits})": f"INT{bits}" for bits in (8, 16, 32, 64)},
    **{f"tensor(uint{bits})": f"UINT{bits}" for bits in (8, 16, 32, 64)},
}


class Parameters(msgspec.Struct, forbid_unknown_fields=True):
    """`parameters` in `model-config.json`; 0 threads leaves their number to ONNX Runtime."""

    file: str | None = None
    intra_op_threads: int = 0
    provider: Literal["cpu", "cuda"] = "cpu"
    device: Annotated[int, msgspec.Meta(ge=0, le=99)] = 0


def open_model(files: ModelFiles, configuration: ModelConfiguration) -> OnnxModel:
    """`LoadFailed` if the runtime is not installed, or will not have the model."""
    onnxruntime = import_library()
    parameters = read_parameters(configuration, Parameters)
    path = parameters.file or only_file(files, ".onnx")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = parameters.intra_op_threads
    options.log_severity_level = 3
    body = files.read(path)
    providers = _providers(onnxruntime, parameters)
    try:
        session = onnxruntime.InferenceSession(body, options, providers=providers)
    except Exception as error:  # its errors share no base
        raise LoadFailed(f"{path}: ONNX Runtime refuses it: {_first_line(error)}") from error
    if parameters.provider == "cuda" and session.get_providers()[0] != _CUDA:
        raise LoadFailed(
            f"{path}: ONNX Runtime {onnxruntime.__version__} could not have GPU "
            f"{parameters.device}, and fell back to the CPU: install the CUDA and cuDNN that it "
            'was compiled with, or say provider "cpu"'
        )
    return OnnxModel(read_signature(path, session), session)


def import_library() -> Any:
    """ONNX Runtime; `LoadFailed` if it is not installed."""
    try:
        import onnxruntime
    except ImportError:
        raise LoadFailed("ONNX Runtime is not installed: mlplatform-serving[onnx] has it") from None
    return onnxruntime


def read_signature(path: str, session: Any) -> Signature:
    """What a session takes and gives; `LoadFailed` for what the protocol has not."""
    return Signature(
        tuple(_spec(path, each) for each in session.get_inputs()),
        tuple(_spec(path, each) for each in session.get_outputs()),
    )


def _providers(onnxruntime: Any, parameters: Parameters) -> list[Any]:
    if parameters.provider == "cpu":
        return [_CPU]
    if _CUDA not in onnxruntime.get_available_providers():
        raise LoadFailed(
            f"ONNX Runtime {onnxruntime.__version__} here was compiled without CUDA: install "
            "mlplatform-serving[onnx-gpu], without [onnx] beside it"
        )
    probe_driver()
    onnxruntime.preload_dlls()  # from NVIDIA's packages, where they are installed
    return [(_CUDA, {"device_id": parameters.device}), _CPU]


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _spec(path: str, tensor: Any) -> TensorSpec:
    datatype = _DATATYPES.get(tensor.type)
    if datatype is None:
        raise LoadFailed(f"{path}: {tensor.name} is a {tensor.type}, which the protocol has not")
    shape = tuple(size if isinstance(size, int) else -1 for size in tensor.shape)
    return TensorSpec(tensor.name, datatype, shape)


class OnnxModel:
    """A session. It is used by one thread, and itself uses several."""

    def __init__(self, signature: Signature, session: Any) -> None:
        self.signature = signature
        self._session = session
        self._outputs = [spec.name for spec in signature.outputs]
        self._texts = [spec.name for spec in signature.inputs if spec.datatype == BYTES]

    def infer(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """See the port. Its strings are text."""
        given = dict(inputs)
        for name in self._texts:
            texts = [each.decode() for each in given[name].reshape(-1).tolist()]
            given[name] = np.array(texts, object).reshape(given[name].shape)
        answers = self._session.run(self._outputs, given)
        return dict(zip(self._outputs, answers, strict=True))

    def close(self) -> None:
        """See the port."""
        self._session = None
