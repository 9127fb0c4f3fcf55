"""Builds TensorRT engines of ONNX models, for `convert`; the port is `tools/plans.py`.

Precision is the model's own: TensorRT 11 has no flags for it, and a model in half precision makes
an engine in half precision. Run with TensorRT for RTX 1.7, which builds for a GPU that is not
there. Not run: TensorRT itself, which needs the GPU that it builds for.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

from mlplatform_serving.backends import engines
from mlplatform_serving.backends.driver import Capability, Driver, probe_driver
from mlplatform_serving.backends.tensorrt import cuda_major, open_logger
from mlplatform_serving.errors import LoadFailed
from mlplatform_serving.protocol.specs import TensorSpec
from mlplatform_serving.tools.errors import ToolError, Usage
from mlplatform_serving.tools.plans import Plan


def installed_builder() -> Builder:
    """By TensorRT, or else TensorRT for RTX, for this machine's GPU. `ImportError` if neither is
    installed, `ToolError` where there is no GPU."""
    try:
        module = import_module(engines.TENSORRT)
    except ImportError:
        module = import_module(engines.TENSORRT_RTX)
    try:
        driver = probe_driver()
    except LoadFailed as error:
        raise ToolError(
            f"no engine can be built: {error.message}",
            hint="run it on a machine with the GPU that the engine is for",
        ) from None
    return Builder(module, driver.capabilities[0], driver)


class Builder:
    """Builds for one kind of GPU."""

    def __init__(self, module: Any, capability: Capability, driver: Driver | None = None) -> None:
        """Without a driver only TensorRT for RTX can build."""
        self._module = module
        self._capability = capability
        self._driver = driver

    def build(self, model: bytes, inputs: Sequence[TensorSpec], batch_max: int) -> Plan:
        """See the port."""
        module, logger = self._module, open_logger(self._module)
        builder = module.Builder(logger)
        network = builder.create_network(_strongly_typed(module))
        parser = module.OnnxParser(network, logger)
        if not parser.parse(model):
            said = [parser.get_error(index).desc() for index in range(parser.num_errors)]
            raise ToolError(
                f"{self._title} does not take the model: {'; '.join(said)[:400]}",
                hint="leave out what it has no operator for, or serve it as ONNX",
            )
        config = builder.create_builder_config()
        profile = builder.create_optimization_profile()
        for spec in inputs:
            smallest, largest = _shapes(spec, batch_max)
            profile.set_shape(spec.name, smallest, largest, largest)
        config.add_optimization_profile(profile)
        if module.__name__ == engines.TENSORRT_RTX:
            config.num_compute_capabilities = 1
            config.set_compute_capability(self._target(), 0)
        body = builder.build_serialized_network(network, config)
        if body is None:
            raise ToolError(
                f"{self._title} could not build the engine: {'; '.join(logger.said)[:400]}",
                hint="it says why above; its log has the rest",
            )
        major = cuda_major(module.__name__)
        return Plan(
            body=bytes(body),
            tensorrt=".".join(str(module.__version__).split(".")[:3]),
            cuda=str(major) if major is not None else self._driver_cuda(),
            compute_capability=".".join(map(str, self._capability)),
            runtime=engines.EXTRAS[module.__name__],
        )

    @property
    def _title(self) -> str:
        return engines.TITLES[self._module.__name__]

    def _target(self) -> Any:
        known = self._module.ComputeCapability.__members__
        name = "SM" + "".join(map(str, self._capability))
        if name not in known:
            raise Usage(
                f"{self._title} builds for no GPU of compute capability "
                f"{'.'.join(map(str, self._capability))}",
                hint=f"it builds for {', '.join(each for each in known if each.startswith('SM'))}",
            )
        return known[name]

    def _driver_cuda(self) -> str:
        if self._driver is None:
            raise ToolError("which CUDA the engine is for is not known: there is no driver")
        return ".".join(map(str, self._driver.cuda))


def _strongly_typed(module: Any) -> int:
    """TensorRT 10 has to be told so; 11 knows nothing else."""
    flag = getattr(module.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _shapes(spec: TensorSpec, batch_max: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The smallest and the largest."""
    first, *rest = spec.shape or (1,)
    if -1 in rest:
        raise Usage(
            f"{spec.name} has the shape {list(spec.shape)}, and an engine needs all but the first",
            hint="fix the model's other sizes, or serve it as ONNX",
        )
    if not spec.shape or first != -1:
        return spec.shape, spec.shape
    return (1, *rest), (batch_max, *rest)
