"""PyTorch: graphs of `torch.export` and packages of AOTInductor, both `.pt2`. Never a pickle, and
never a module's Python: see `pt2.py` for what is read of an archive.

    {"backend": "pytorch", "parameters": {"file": "model.pt2", "device": "cuda:0",
                                          "cuda_graph_batch_sizes": [1, 2, 4, 8]}}

A graph says itself what it takes and gives. A package does not: it needs `inputs` and `outputs`
here, in the order in which its forward has them, and `requirements.runtime` in its manifest
(`torch 2.15.0`), for it is native code for one PyTorch, one kind of processor or GPU.

Run with torch 2.15 on the CPU. Not run: anything on a GPU, CUDA graphs among it.
"""

from __future__ import annotations

import io
import platform
import re
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated, Any

import ml_dtypes
import msgspec
import numpy as np

from mlplatform_serving.backends.buckets import CudaGraphs, Module, Tensors
from mlplatform_serving.backends.driver import probe_driver
from mlplatform_serving.backends.port import (
    CONFIGURATION,
    ModelConfiguration,
    only_file,
    read_parameters,
)
from mlplatform_serving.backends.pt2 import Library, Program, read_archive
from mlplatform_serving.errors import LoadFailed
from mlplatform_serving.models.manifest import ModelFiles
from mlplatform_serving.protocol.datatypes import BYTES, DTYPES
from mlplatform_serving.protocol.specs import Signature, TensorSpec
from mlplatform_serving.protocol.tensors import Array

VERSION_MIN = (2, 10)
"""Before it, reading weights can corrupt memory: CVE-2026-24747."""

_ONE_AT_A_TIME = threading.Lock()
"""PyTorch's deserialiser is one global, and its late imports meet each other."""
_BF16 = np.dtype(ml_dtypes.bfloat16)
_VERSION = re.compile(r"(\d+)\.(\d+)")
_RUNTIME = re.compile(r"(?:torch|pytorch) (\d+)\.(\d+)(?:[.+].*)?")


class Parameters(msgspec.Struct, forbid_unknown_fields=True):
    """`parameters` in `model-config.json`."""

    file: str | None = None
    device: Annotated[str, msgspec.Meta(pattern="^(cpu|cuda|cuda:[0-9]{1,2})$")] = "cpu"
    cuda_graph_batch_sizes: list[Annotated[int, msgspec.Meta(ge=1, le=65_536)]] = []


def open_model(files: ModelFiles, configuration: ModelConfiguration) -> TorchModel:
    """`LoadFailed` says what of the archive is not taken, or what here does not fit it."""
    parameters = read_parameters(configuration, Parameters)
    path = parameters.file or only_file(files, ".pt2")
    held = read_archive(path, files.read(path))
    if parameters.cuda_graph_batch_sizes and parameters.device == "cpu":
        raise LoadFailed(f"{CONFIGURATION}: CUDA graphs need a GPU: say on which device")
    torch = import_library()
    if parameters.device != "cpu":
        _check_gpu(torch, path, parameters.device)
    with _ONE_AT_A_TIME:
        if isinstance(held, Program):
            signature = _agreed(configuration, held)
            module = _load_program(torch, path, held, parameters.device)
        else:
            signature = configuration.signature()
            runtime = files.manifest.requirements.runtime
            _check_library(torch, path, held, runtime, parameters.device)
            module = _load_library(path, held, parameters.device)
        return TorchModel(torch, signature, module, parameters)


def import_library() -> Any:
    """PyTorch, with the parts that it imports late; `LoadFailed` if it is not installed, or of a
    version that is not safe."""
    with _ONE_AT_A_TIME:
        return _import_library()


def _import_library() -> Any:
    try:
        import torch
        import torch._dynamo
        import torch._inductor
        import torch.export.passes
        import torch.export.pt2_archive
    except (ImportError, OSError):
        raise LoadFailed("PyTorch is not installed: mlplatform-serving[torch] has it") from None
    told = _VERSION.match(torch.__version__)
    if told is None or (int(told[1]), int(told[2])) < VERSION_MIN:
        raise LoadFailed(
            f"PyTorch here is {torch.__version__}, in which reading weights is unsafe "
            "(CVE-2026-24747): install 2.10 or newer"
        )
    return torch


def _check_gpu(torch: Any, path: str, device: str) -> None:
    driver = probe_driver()
    if not torch.cuda.is_available():
        raise LoadFailed(
            f"CUDA driver version is insufficient: PyTorch {torch.__version__} was compiled with "
            f"CUDA {torch.version.cuda}, and driver {driver.version} runs "
            f"{'.'.join(map(str, driver.cuda))} at most ({path}): install a newer driver"
        )
    index = int(device.partition(":")[2] or 0)
    if index >= torch.cuda.device_count():
        raise LoadFailed(f"{CONFIGURATION}: there is no {device}, only {torch.cuda.device_count()}")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


# --- a graph -------------------------------------------------------------------------------------


def _agreed(configuration: ModelConfiguration, program: Program) -> Signature:
    """The graph's own interface, under the names that the configuration gives, if it does."""
    if not configuration.inputs and not configuration.outputs:
        return Signature(program.inputs, program.outputs)
    said = configuration.signature()
    for kind, specs, own in (
        ("inputs", said.inputs, program.inputs),
        ("outputs", said.outputs, program.outputs),
    ):
        fits = len(specs) == len(own) and all(map(_fits, specs, own))
        if not fits:
            raise LoadFailed(
                f"{CONFIGURATION}: the {kind} are not the graph's, which are "
                + ", ".join(f"{each.name} {each.datatype} {list(each.shape)}" for each in own)
            )
    return said


def _fits(said: TensorSpec, own: TensorSpec) -> bool:
    same = said.datatype == own.datatype and len(said.shape) == len(own.shape)
    return same and all(
        size in (wanted, -1) for wanted, size in zip(said.shape, own.shape, strict=True)
    )


def _load_program(torch: Any, path: str, program: Program, device: str) -> Module:
    try:
        exported = torch.export.load(io.BytesIO(program.archive))
        if device.partition(":")[0] != program.device or ":" in device:
            exported = torch.export.passes.move_to_device_pass(exported, device)
        module = exported.module(check_guards=False)  # the server has checked every shape
    except Exception as error:  # its errors share no base
        raise LoadFailed(f"{path}: PyTorch refuses it: {_first_line(error)}") from error
    positional = len(program.inputs) - len(program.keywords)
    keys = program.keywords

    def run(tensors: Tensors) -> Tensors:
        named = dict(zip(keys, tensors[positional:], strict=True))
        return _flat(module(*tensors[:positional], **named))

    return run


def _flat(answer: Any) -> Tensors:
    if isinstance(answer, dict):
        return list(answer.values())
    return list(answer) if isinstance(answer, list | tuple) else [answer]


# --- a package of AOTInductor --------------------------------------------------------------------


def _check_library(
    torch: Any, path: str, library: Library, runtime: str | None, device: str
) -> None:
    """PyTorch itself only warns of these; the process would die of an instruction that the
    processor does not have."""
    told = None if runtime is None else _RUNTIME.fullmatch(runtime)
    if told is None:
        raise LoadFailed(
            f"{path} is native code for one PyTorch, and the manifest does not say for which: "
            'publish it with the runtime, like "torch 2.15.0"'
        )
    here = _VERSION.match(torch.__version__)
    if here is None or here.groups() != told.groups():
        raise LoadFailed(
            f"PyTorch version mismatch: {path} was compiled with {runtime}, runtime is "
            f"{torch.__version__}: compile it with that, or install {told[1]}.{told[2]}"
        )
    built = library.built_for
    kind = device.partition(":")[0]
    processor = _instructions()
    capability = ""
    if kind == "cuda":
        index = int(device.partition(":")[2] or 0)
        capability = "".join(map(str, torch.cuda.get_device_capability(index)))
    lacking = set(built.get("AOTI_CPU_ISA", "").lower().split()) - processor
    for what, was, is_here, fits in (
        ("device", built.get("AOTI_DEVICE_KEY"), kind, None),
        ("system", built.get("AOTI_PLATFORM"), sys.platform, None),
        ("machine", built.get("AOTI_MACHINE"), platform.machine(), None),
        (
            "processor's instructions",
            built.get("AOTI_CPU_ISA"),
            "a processor without " + " ".join(sorted(lacking)),
            not lacking,
        ),
        ("compute capability", built.get("AOTI_COMPUTE_CAPABILITY"), capability, None),
    ):
        if not (was == is_here if fits is None else fits):
            raise LoadFailed(
                f"{path} was compiled for the {what} {was}, and here is {is_here or 'none'}: "
                "compile it on a machine like this one, or serve it on one like that"
            )


def _instructions() -> set[str]:
    """As AOTInductor calls them: AVX2, AVX-512 and some of its parts, NEON, SVE."""
    try:
        told = Path("/proc/cpuinfo").read_text()
    except OSError:
        return set()
    flags = set(re.findall(r"[\w]+", told.lower()))
    here = {flag for flag in ("avx2", "avx512_vnni", "amx_tile", "asimd", "sve") if flag in flags}
    if {"avx512f", "avx512dq", "avx512vl", "avx512bw"} <= flags:
        here.add("avx512")
    return here | {"neon"} if "asimd" in here else here


def _load_library(path: str, library: Library, device: str) -> Module:
    """The loader wants a file: it lies in a folder that only this user may enter, for as long."""
    from torch._inductor import aoti_load_package

    index = int(device.partition(":")[2] or 0) if device != "cpu" else -1
    try:
        with tempfile.TemporaryDirectory(prefix="mlplatform-") as folder:
            file = Path(folder) / "model.pt2"
            file.write_bytes(library.archive)
            package = aoti_load_package(str(file), run_single_threaded=True, device_index=index)
    except Exception as error:  # its errors share no base
        raise LoadFailed(f"{path}: PyTorch refuses it: {_first_line(error)}") from error
    return lambda tensors: _flat(package(*tensors))


def _closed(_: Tensors) -> Tensors:
    raise RuntimeError("the model is closed")


# --- both ----------------------------------------------------------------------------------------


class TorchModel:
    """A graph or a package on one device. It is used by one thread at a time."""

    def __init__(
        self, torch: Any, signature: Signature, module: Module, parameters: Parameters
    ) -> None:
        specs = (*signature.inputs, *signature.outputs)
        if any(spec.datatype == BYTES for spec in specs):
            raise LoadFailed(f"{CONFIGURATION}: PyTorch has no tensors of BYTES")
        self.signature = signature
        self._torch = torch
        self._device = parameters.device
        self._module = module
        if parameters.cuda_graph_batch_sizes:
            with torch.inference_mode(), self._on_device():
                self._module = CudaGraphs(
                    torch, module, self._blank, parameters.cuda_graph_batch_sizes
                )

    def infer(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """See the port."""
        with self._torch.inference_mode(), self._on_device():
            tensors = [self._tensor(inputs[spec.name]) for spec in self.signature.inputs]
            answers = self._module(tensors)
            return {
                spec.name: self._array(answer)
                for spec, answer in zip(self.signature.outputs, answers, strict=True)
            }

    def close(self) -> None:
        """See the port."""
        self._module = _closed
        if self._device != "cpu":
            self._torch.cuda.empty_cache()

    def _on_device(self) -> AbstractContextManager[None]:
        """Streams and graphs are the current GPU's, which each thread has for itself."""
        if self._device == "cpu":
            return nullcontext()
        device: AbstractContextManager[None] = self._torch.cuda.device(self._device)
        return device

    def _tensor(self, array: Array) -> Any:
        # What came over the wire is read-only, for which PyTorch has no tensors: a graph may write
        # to its inputs.
        held = np.ascontiguousarray(array)
        if not held.flags.writeable:
            held = held.copy()
        if held.dtype == _BF16:
            tensor = self._torch.from_numpy(held.view(np.int16)).view(self._torch.bfloat16)
        else:
            tensor = self._torch.from_numpy(held)
        return tensor if self._device == "cpu" else tensor.to(self._device)

    def _array(self, tensor: Any) -> Array:
        held = tensor.detach().cpu().contiguous()
        if held.dtype == self._torch.bfloat16:
            bits: Array = held.view(self._torch.int16).numpy()
            return bits.view(_BF16)
        array: Array = held.numpy()
        return array

    def _blank(self, items: int) -> Tensors:
        """Inputs of so many items, all zero, on the GPU."""
        return [self._blank_of(spec, items) for spec in self.signature.inputs]

    def _blank_of(self, spec: TensorSpec, items: int) -> Any:
        shape: Sequence[int] = spec.shape
        if not shape or shape[0] != -1 or -1 in shape[1:]:
            raise LoadFailed(
                f"{CONFIGURATION}: CUDA graphs have fixed shapes, and {spec.name} has "
                f"{list(shape)}: only its first size may be −1"
            )
        array = np.zeros((items, *shape[1:]), DTYPES[spec.datatype])
        return self._tensor(array)
