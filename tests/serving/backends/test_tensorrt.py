"""The way of a TensorRT engine from its file to the GPU, with TensorRT for RTX and real engines, as
far as it goes without one. Not run: loading into a GPU, and inference."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from onnx import TensorProto
from onnx.helper import (
    make_graph,
    make_model,
    make_node,
    make_opsetid,
    make_tensor_value_info,
)

from mlplatform_serving.backends.driver import Driver
from mlplatform_serving.backends.engines import (
    Runtime,
    check_driver,
    check_manifest,
    check_runtime,
    read_head,
)
from mlplatform_serving.backends.formats import open_backend
from mlplatform_serving.backends.plan_builder import Builder
from mlplatform_serving.errors import LoadFailed
from mlplatform_serving.models.manifest import ModelFiles
from mlplatform_serving.protocol.specs import TensorSpec
from mlplatform_serving.tools.errors import ToolError
from mlplatform_serving.tools.plans import open_builder
from tests.serving.rig import environment, publish, running

SCRIPT = Path(__file__).with_name("engine_script.py")


def gpu_here() -> bool:
    return Path("/proc/driver/nvidia/version").exists()


@pytest.fixture(scope="module")
def engine(tensorrt_rtx: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("engine") / "m.engine"
    subprocess.run([tensorrt_rtx, SCRIPT, "SM86", path], check=True, timeout=300, env=environment())
    return path.read_bytes()


@pytest.fixture
def installed(tensorrt_rtx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorRT for RTX, beside what is installed here."""
    (packages,) = tensorrt_rtx.parents[1].glob("lib/python*/site-packages")
    monkeypatch.syspath_prepend(packages)


def load(tmp_path: Path, body: bytes, **told: str) -> None:
    publish(tmp_path, "m", "v1", {"m.engine": body}, requirements=told)
    _, backend = open_backend(ModelFiles(tmp_path / "m" / "v1"))
    backend.close()


def test_the_head_of_a_real_engine(engine: bytes) -> None:
    head = read_head("m.engine", engine)
    assert (head.runtime, head.version, head.size_bytes) == ("tensorrt_rtx", (1, 7, 1), len(engine))


VERSION = slice(24, 28)
REFUSED: dict[str, tuple[bytes | None, int | None, dict[str, str], str]] = {
    "cut short": (None, -100, {}, "m.engine is cut short: the engine says"),
    "cut within its head": (None, 20, {}, "m.engine is cut short: 20 bytes are no engine"),
    "built by an older one": (
        bytes((1, 6, 0, 0)),
        None,
        {},
        (
            "TensorRT version mismatch: engine built with 1.6.0, runtime is 1.7.1.116 (m.engine, "
            "TensorRT-RTX)"
        ),
    ),
    "of another than the manifest says": (
        None,
        None,
        {"runtime": "tensorrt 10.13.0"},
        "m.engine was built with TensorRT-RTX 1.7.1, and its manifest says tensorrt 10.13.0",
    ),
    "of another CUDA": (
        None,
        None,
        {"cuda": "12.4"},
        "m.engine and TensorRT-RTX are compiled with different CUDA versions: 12.4, and 13",
    ),
}


@pytest.mark.parametrize(("version", "end", "told", "said"), REFUSED.values(), ids=list(REFUSED))
def test_what_is_refused_before_the_driver_is_asked(
    installed: None,
    engine: bytes,
    tmp_path: Path,
    version: bytes | None,
    end: int | None,
    told: dict[str, str],
    said: str,
) -> None:
    body = bytearray(engine)
    body[VERSION] = version or body[VERSION]
    with pytest.raises(LoadFailed) as refused:
        load(tmp_path, bytes(body[:end]), **told)
    assert said in str(refused.value)


def test_an_engine_that_fits_but_for_the_gpu(
    installed: None, engine: bytes, tmp_path: Path
) -> None:
    """No object of TensorRT's is made: its own words for this would be of CUDA error 35."""
    if gpu_here():
        pytest.skip("there is a GPU here")
    with pytest.raises(LoadFailed, match=r"GPU not available .*give the pod a GPU"):
        load(tmp_path, engine, runtime="tensorrt-rtx 1.7.1", cuda="13.2", compute_capability="8.6")


def test_a_runtime_that_is_not_installed(
    engine: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "tensorrt_rtx", raising=False)
    with pytest.raises(LoadFailed, match=r"which is not installed: mlplatform-serving\[tensorrt-"):
        load(tmp_path, engine)
    other = b"ftrt" + engine[4:]
    with pytest.raises(
        LoadFailed, match=r"an engine of TensorRT, .* mlplatform-serving\[tensorrt\]"
    ):
        load(tmp_path / "other", other)


def test_a_server_says_why_and_serves_the_rest(
    tensorrt_rtx: Path, engine: bytes, models: Path, tmp_path: Path
) -> None:
    if gpu_here():
        pytest.skip("there is a GPU here")
    (packages,) = tensorrt_rtx.parents[1].glob("lib/python*/site-packages")
    publish(tmp_path, "m", "v1", {"m.engine": engine})
    (tmp_path / "layers").symlink_to(models / "layers")
    with running(tmp_path, PYTHONPATH=packages) as server:
        answer = server.ask("POST", "/v2/repository/index").json
        told = {each["name"]: each for each in answer}
        assert told["layers"]["state"] == "READY"
        assert "GPU not available" in told["m"]["reason"]


# --- building, for convert -----------------------------------------------------------------------


def onnx_model(*shape: int | str) -> bytes:
    x, y = (make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "xy")
    graph = make_graph([make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    model = make_model(graph, opset_imports=[make_opsetid("", 17)], ir_version=9)
    body: bytes = model.SerializeToString()
    return body


@pytest.fixture
def builder(installed: None) -> Builder:
    import tensorrt_rtx

    return Builder(tensorrt_rtx, (8, 6))


def test_what_is_built_says_of_itself_what_it_is(builder: Builder) -> None:
    plan = builder.build(onnx_model("n", 4), [TensorSpec("x", "FP32", (-1, 4))], 16)
    told = plan.requirements()
    assert (told.runtime, told.cuda, told.compute_capability) == ("tensorrt-rtx 1.7.1", "13", "8.6")
    head = read_head("m.engine", plan.body)
    check_manifest("m.engine", head, told)
    check_runtime("m.engine", head, told, Runtime("1.7.1.116", 13))
    check_driver("m.engine", told, Driver("580.65", (13, 0), ((8, 6),)))
    with pytest.raises(LoadFailed, match=r"compute capability 8\.6, and here is 9\.0"):
        check_driver("m.engine", told, Driver("580.65", (13, 0), ((9, 0),)))


@pytest.mark.parametrize(
    ("body", "shape", "said"),
    [
        (b"junk", (-1, 4), "TensorRT-RTX does not take the model"),
        (onnx_model("n", "m"), (-1, -1), "an engine needs all but the first"),
    ],
)
def test_what_cannot_be_built(
    builder: Builder, body: bytes, shape: tuple[int, ...], said: str
) -> None:
    with pytest.raises(ToolError, match=said):
        builder.build(body, [TensorSpec("x", "FP32", shape)], 16)


def test_a_gpu_for_which_none_can_be_built(builder: Builder) -> None:
    import tensorrt_rtx

    with pytest.raises(ToolError, match=r"no GPU of compute capability 9\.0") as refused:
        Builder(tensorrt_rtx, (9, 0)).build(
            onnx_model("n", 4), [TensorSpec("x", "FP32", (-1, 4))], 16
        )
    assert "SM86" in str(refused.value.hint)


def test_convert_without_a_gpu(installed: None) -> None:
    if gpu_here():
        pytest.skip("there is a GPU here")
    with pytest.raises(ToolError, match="no engine can be built: GPU not available"):
        open_builder()
