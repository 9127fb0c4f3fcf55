"""PyTorch on the CPU: graphs of torch.export and packages of AOTInductor, as PyTorch writes them.
Not run: a GPU, and CUDA graphs with it."""

from __future__ import annotations

import io
import json
import os
import pickle
import platform
import shutil
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from mlplatform_serving.backends.formats import open_backend
from mlplatform_serving.backends.port import Backend
from mlplatform_serving.backends.pt2 import read_archive
from mlplatform_serving.errors import LoadFailed
from mlplatform_serving.models.manifest import ModelFiles
from mlplatform_serving.protocol.specs import TensorSpec
from tests.serving.backends.archives import WEIGHT, archive, graph, members
from tests.serving.rig import publish, running, tensor

X = np.array([[1, 2, 3, 4], [-1, 0, 0, 1], [0.5, 0, 0, 0]], np.float32)
# PyTorch's own warnings, of its compiler and of what it is built on, are its own business.
pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("default")]


def saved(torch: Any, module: Any, *inputs: Any, dynamic: bool = True, **more: Any) -> bytes:
    """The archive of a module whose inputs' first size is any."""
    shapes = tuple({0: torch.export.Dim("n", min=1, max=64)} for _ in inputs) if dynamic else None
    exported = torch.export.export(module.eval(), inputs, dynamic_shapes=shapes, **more)
    body = io.BytesIO()
    torch.export.save(exported, body)
    return body.getvalue()


def opened(
    tmp_path: Path,
    body: bytes,
    configuration: Mapping[str, Any] | None = None,
    **requirements: str,
) -> Backend:
    files = {"m.pt2": body}
    if configuration is not None:
        files["model-config.json"] = json.dumps(configuration).encode()
    publish(tmp_path, "m", "v1", files, requirements=requirements)
    name, backend = open_backend(ModelFiles(tmp_path / "m" / "v1"))
    assert name == "pytorch"
    return backend


def network(torch: Any) -> Any:
    """A little of all that archives hold: parameters, a buffer, a constant."""

    class Network(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.first = torch.nn.Linear(4, 8)
            self.norm = torch.nn.BatchNorm1d(8)
            self.last = torch.nn.Linear(8, 2)

        def forward(self, x: Any) -> Any:
            hidden = torch.relu(self.norm(self.first(x)))
            return torch.softmax(self.last(hidden) + torch.tensor([1.0, -1.0]), dim=-1)

    torch.manual_seed(1)
    return Network()


def expected(torch: Any, module: Any, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    with torch.inference_mode():
        answer: np.ndarray[Any, Any] = module.eval()(torch.from_numpy(x)).numpy()
    return answer


def test_a_graph_answers_as_its_module(torch: Any, tmp_path: Path) -> None:
    module = network(torch)
    backend = opened(tmp_path, saved(torch, module, torch.from_numpy(X)))
    (given,) = backend.signature.inputs
    (answer,) = backend.signature.outputs
    assert given == TensorSpec("x", "FP32", (-1, 4))
    assert (answer.datatype, answer.shape) == ("FP32", (-1, 2))
    for items in (1, 2, 3):
        told = backend.infer({"x": X[:items]})[answer.name]
        np.testing.assert_allclose(told, expected(torch, module, X[:items]), rtol=1e-5)
    backend.close()
    with pytest.raises(RuntimeError, match="closed"):
        backend.infer({"x": X})


def test_a_tensor_that_must_not_be_written_is_not(torch: Any, tmp_path: Path) -> None:
    class Writes(torch.nn.Module):  # type: ignore[misc]
        def forward(self, x: Any) -> Any:
            return torch.relu_(x) * 1

    given = X.copy()
    given.flags.writeable = False
    backend = opened(tmp_path, saved(torch, Writes(), torch.from_numpy(X.copy())))
    (name,) = backend.infer({"x": given})
    assert name
    np.testing.assert_array_equal(given, X)


def test_the_archive_by_hand_is_as_pytorch_writes_them(torch: Any, tmp_path: Path) -> None:
    """So that what is refused without torch, is refused of what torch would have loaded."""
    backend = opened(tmp_path, archive(members()))
    np.testing.assert_array_equal(backend.infer({"x": X})["relu"], np.maximum(X @ WEIGHT.T, 0))


def convolutions(torch: Any) -> Any:
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, stride=2, padding=1),
        torch.nn.BatchNorm2d(8),
        torch.nn.GELU(),
        torch.nn.MaxPool2d(2),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(8, 5),
    )


def attention(torch: Any) -> Any:
    return torch.nn.TransformerEncoderLayer(16, 2, dim_feedforward=32, batch_first=True)


def branches(torch: Any) -> Any:
    class Branches(torch.nn.Module):  # type: ignore[misc]
        def forward(self, x: Any) -> Any:
            with torch.no_grad():
                return torch.cond(x.sum() > 0, lambda x: x + 1, lambda x: x - 1, (x,))

    return Branches()


@pytest.mark.parametrize(
    ("make", "shape"),
    [(convolutions, (3, 3, 40, 50)), (attention, (3, 7, 16)), (branches, (3, 4))],
)
def test_what_people_export_passes_the_check(
    torch: Any, tmp_path: Path, make: Callable[[Any], Any], shape: tuple[int, ...]
) -> None:
    module = make(torch)
    given = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    backend = opened(tmp_path, saved(torch, module, torch.from_numpy(given)))
    (told,) = backend.infer({backend.signature.inputs[0].name: given[:2]}).values()
    np.testing.assert_allclose(told, expected(torch, module, given[:2]), rtol=1e-4, atol=1e-5)


def test_several_inputs_by_position_and_keyword_and_outputs_by_key(
    torch: Any, tmp_path: Path
) -> None:
    class Two(torch.nn.Module):  # type: ignore[misc]
        def forward(self, a: Any, *, b: Any) -> Any:
            return {"sum": a + b, "larger": a > b}

    dim = torch.export.Dim("n", min=1, max=64)
    exported = torch.export.export(
        Two(),
        (torch.from_numpy(X),),
        {"b": torch.from_numpy(X)},
        dynamic_shapes={"a": {0: dim}, "b": {0: dim}},
    )
    body = io.BytesIO()
    torch.export.save(exported, body)
    backend = opened(tmp_path, body.getvalue())
    assert [spec.name for spec in backend.signature.inputs] == ["a", "b"]
    told = backend.infer({"b": X * 2, "a": X})
    np.testing.assert_array_equal(told["sum"], X * 3)
    np.testing.assert_array_equal(told["larger"], X * 2 < X)
    assert told["larger"].dtype == np.bool_


@pytest.mark.parametrize(
    ("dtype", "datatype"),
    [
        ("float16", "FP16"), ("bfloat16", "BF16"), ("float64", "FP64"), ("int8", "INT8"),
        ("int64", "INT64"), ("uint8", "UINT8"), ("bool", "BOOL"),
    ],
)  # fmt: skip
def test_every_datatype_goes_through(torch: Any, tmp_path: Path, dtype: str, datatype: str) -> None:
    class Flip(torch.nn.Module):  # type: ignore[misc]
        def forward(self, x: Any) -> Any:
            return torch.flip(x, [0])

    sample = torch.ones(3, 4, dtype=getattr(torch, dtype))
    backend = opened(tmp_path, saved(torch, Flip(), sample))
    assert backend.signature.inputs[0].datatype == datatype
    numbers = np.arange(12).reshape(3, 4)
    given = numbers.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    (told,) = backend.infer({"x": given}).values()
    assert told.dtype == given.dtype
    np.testing.assert_array_equal(told, given[::-1])


def test_the_configuration_names_tensors_and_must_fit(torch: Any, tmp_path: Path) -> None:
    body = archive(members())
    renamed = {
        "inputs": [tensor("features", "FP32", -1, 4)],
        "outputs": [tensor("scores", "FP32", -1, 2)],
        "max_batch_size": 8,
    }
    backend = opened(tmp_path, body, renamed)
    np.testing.assert_array_equal(
        backend.infer({"features": X})["scores"], np.maximum(X @ WEIGHT.T, 0)
    )
    assert backend.signature.batch_size_max == 8
    wrong = {**renamed, "inputs": [tensor("features", "FP32", -1, 5)]}
    with pytest.raises(LoadFailed, match=r"are not the graph's, which are x FP32 \[-1, 4\]"):
        opened(tmp_path / "wrong", body, wrong)


# --- never a pickle ------------------------------------------------------------------------------


class Payload:
    """What would make a file, were it unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_what_pytorch_would_run_is_never_run(torch: Any, tmp_path: Path) -> None:
    """PyTorch's own loader runs this archive's sample inputs; that shows what is kept from it."""
    made = tmp_path / "made"
    held = members()
    held["data/sample_inputs/model.pt"] = pickle.dumps(Payload(made), protocol=2)
    body = archive(held)
    backend = opened(tmp_path, body)
    assert backend.infer({"x": X})["relu"].shape == (3, 2)
    assert not made.exists()
    with pytest.raises(Exception):  # noqa: B017, PT011 - whatever it says after running it
        torch.export.load(io.BytesIO(body))
    assert made.exists()


def test_a_size_that_pytorch_would_evaluate(torch: Any, tmp_path: Path) -> None:
    made = tmp_path / "made"
    described = graph()
    size = described["graph_module"]["graph"]["tensor_values"]["x"]["sizes"][0]["as_expr"]
    size["expr_str"] = f"__import__('os').mkdir({str(made)!r})"
    body = archive(members(described))
    with pytest.raises(LoadFailed, match="is no size of a tensor"):
        opened(tmp_path, body)
    assert not made.exists()
    held = members(described)
    held["data/sample_inputs/model.pt"] = b""
    with pytest.raises(Exception):  # noqa: B017, PT011 - whatever it says after running it
        torch.export.load(io.BytesIO(archive(held)))
    assert made.exists()


def test_old_checkpoints_are_no_archives(torch: Any, tmp_path: Path) -> None:
    body = io.BytesIO()
    torch.save(network(torch).state_dict(), body)
    with pytest.raises(LoadFailed, match="no pt2 archive"):
        opened(tmp_path, body.getvalue())


def test_weights_cut_short(torch: Any, tmp_path: Path) -> None:
    held = members()
    held["data/weights/weight_0"] = WEIGHT.tobytes()[:-4]
    with pytest.raises(LoadFailed, match="PyTorch refuses it"):
        opened(tmp_path, archive(held))


# --- what is not here ----------------------------------------------------------------------------


def test_a_gpu_that_is_not_here(torch: Any, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    body = archive(members())
    with pytest.raises(LoadFailed, match="GPU not available"):
        opened(tmp_path, body, {"parameters": {"device": "cuda:0"}})
    with pytest.raises(LoadFailed, match="CUDA graphs need a GPU"):
        opened(tmp_path / "graphs", body, {"parameters": {"cuda_graph_batch_sizes": [1, 4]}})


# --- AOTInductor ---------------------------------------------------------------------------------

INTERFACE = {
    "inputs": [tensor("x", "FP32", -1, 4)],
    "outputs": [tensor("y", "FP32", -1, 2)],
}


@pytest.fixture(scope="module")
def package(torch: Any, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    if shutil.which("g++") is None:
        pytest.skip("AOTInductor compiles with g++, which is not here")
    folder = tmp_path_factory.mktemp("package")
    dim = torch.export.Dim("n", min=1, max=64)
    exported = torch.export.export(
        network(torch).eval(), (torch.from_numpy(X),), dynamic_shapes=({0: dim},)
    )
    path = torch._inductor.aoti_compile_and_package(exported, package_path=str(folder / "m.pt2"))
    return Path(path).read_bytes()


def runtime(torch: Any) -> str:
    return f"torch {torch.__version__.partition('+')[0]}"


def test_a_package_answers_as_its_module(torch: Any, package: bytes, tmp_path: Path) -> None:
    backend = opened(tmp_path, package, INTERFACE, runtime=runtime(torch))
    for items in (1, 3):
        told = backend.infer({"x": X[:items]})["y"]
        np.testing.assert_allclose(told, expected(torch, network(torch), X[:items]), rtol=1e-4)


def test_a_package_that_was_compiled_for_something_else(
    torch: Any, package: bytes, tmp_path: Path
) -> None:
    with pytest.raises(LoadFailed, match="native code for one PyTorch, and the manifest does not"):
        opened(tmp_path / "unknown", package, INTERFACE)
    with pytest.raises(
        LoadFailed, match=r"PyTorch version mismatch: m\.pt2 was compiled with torch"
    ):
        opened(tmp_path / "older", package, INTERFACE, runtime="torch 2.9.1")
    for number, (name, value, said) in enumerate(
        (
            ("AOTI_MACHINE", "riscv64", f"machine riscv64, and here is {platform.machine()}"),
            ("AOTI_CPU_ISA", "AVX2 AVX9000", "and here is a processor without avx9000"),
            ("AOTI_DEVICE_KEY", "cuda", "for the device cuda, and here is cpu"),
            ("AOTI_COMPUTE_CAPABILITY", "90", "compute capability 90, and here is none"),
        )
    ):
        body = described(package, name, value)
        with pytest.raises(LoadFailed, match=said):
            opened(tmp_path / str(number), body, INTERFACE, runtime=runtime(torch))


def described(package: bytes, name: str, value: str) -> bytes:
    """The package with another word in what it says of itself."""
    held = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(package)) as old, zipfile.ZipFile(held, "w") as new:
        for each in old.namelist():
            body = old.read(each)
            if each.endswith("metadata.json"):
                body = json.dumps({**json.loads(body), name: value}).encode()
            new.writestr(each, body)
    return held.getvalue()


def test_a_package_leaves_nothing_behind(
    torch: Any, package: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = tmp_path / "room"
    room.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(room))
    opened(tmp_path, package, INTERFACE, runtime=runtime(torch)).close()
    assert list(room.iterdir()) == []


# --- through the server --------------------------------------------------------------------------


def test_the_server_serves_both(torch: Any, package: bytes, tmp_path: Path) -> None:
    module = network(torch)
    publish(tmp_path, "graph", "v1", {"m.pt2": saved(torch, module, torch.from_numpy(X))})
    publish(
        tmp_path,
        "package",
        "v1",
        {"m.pt2": package, "model-config.json": json.dumps(INTERFACE).encode()},
        requirements={"runtime": runtime(torch)},
    )
    right = expected(torch, module, X)
    with running(tmp_path) as server:
        for name in ("graph", "package"):
            data = {**tensor("x", "FP32", *X.shape), "data": X.tolist()}
            answer = server.infer(name, data)
            assert answer.status == 200, answer.json
            (output,) = answer.json["outputs"]
            np.testing.assert_allclose(
                np.reshape(output["data"], output["shape"]), right, rtol=1e-4
            )
            told = server.ask("GET", f"/v2/models/{name}").json
            assert told["platform"] == "pytorch"


def test_what_the_checker_makes_is_what_pytorch_reads(torch: Any) -> None:
    """Weights that share memory, and a size of several symbols."""

    class Tied(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.first = torch.nn.Linear(4, 4, bias=False)
            self.last = torch.nn.Linear(4, 4, bias=False)
            self.last.weight = self.first.weight

        def forward(self, x: Any) -> Any:
            both = torch.cat([self.first(x), self.last(x)], dim=0)
            return both.reshape(-1, 2)

    body = saved(torch, Tied(), torch.from_numpy(X))
    held = read_archive("m.pt2", body)
    module = torch.export.load(io.BytesIO(held.archive)).module(check_guards=False)
    with torch.inference_mode():
        assert module(torch.from_numpy(X[:2])).shape == (8, 2)
