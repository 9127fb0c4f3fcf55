"""ONNX Runtime on the CPU, with a real model and its golden requests."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlplatform.cli.demo.models import magika
from mlplatform.core.golden import parse_golden
from mlplatform_serving.backends.formats import open_backend
from mlplatform_serving.errors import LoadFailed
from mlplatform_serving.models.manifest import ModelFiles
from tests.serving.rig import ServerProcess, publish, running


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = magika(tmp_path_factory.mktemp("magika"))
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def magika_server(
    model: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    models = tmp_path_factory.mktemp("models")
    publish(models, "magika", "v3.3.0", model)
    with running(models) as server:
        yield server


def test_every_golden_request_is_right(
    magika_server: ServerProcess, model: dict[str, bytes]
) -> None:
    golden = parse_golden(model["golden.ndjson"], where="golden.ndjson")
    for each in golden:
        answer = magika_server.ask("POST", "/v2/models/magika/infer", each.request)
        assert answer.status == 200
        assert each.difference(answer.json) == ""


def test_what_it_says_of_itself(magika_server: ServerProcess) -> None:
    told = magika_server.ask("GET", "/v2/models/magika").json
    assert told["platform"] == "onnxruntime"
    assert told["inputs"] == [{"name": "bytes", "datatype": "INT32", "shape": [-1, 2048]}]
    assert told["outputs"] == [{"name": "target_label", "datatype": "FP32", "shape": [-1, 214]}]


@pytest.mark.parametrize(
    ("body", "said"),
    [(b"", "ONNX Runtime refuses it"), (b"\x08\x07junk", "ONNX Runtime refuses it")],
)
def test_a_model_that_is_none(tmp_path: Path, body: bytes, said: str) -> None:
    publish(tmp_path, "none", "v1", {"model.onnx": body})
    with pytest.raises(LoadFailed, match=said):
        open_backend(ModelFiles(tmp_path / "none" / "v1"))


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"provider": "cuda"}, "compiled without CUDA: install mlplatform-serving"),
        ({"provider": "tpu"}, "parameters: Invalid enum value 'tpu'"),
        ({"provider": "cuda", "device": -1}, "parameters: Expected `int` >= 0"),
    ],
)
def test_a_provider_that_is_not_here(
    tmp_path: Path, model: dict[str, bytes], parameters: dict[str, object], said: str
) -> None:
    """It never goes back to the CPU by itself."""
    told = json.dumps({"parameters": parameters}).encode()
    publish(tmp_path, "m", "v1", {"m.onnx": model["model.onnx"], "model-config.json": told})
    with pytest.raises(LoadFailed, match=said):
        open_backend(ModelFiles(tmp_path / "m" / "v1"))


def test_which_of_two_files_must_be_said(tmp_path: Path, model: dict[str, bytes]) -> None:
    two = {"a.onnx": model["model.onnx"], "b.onnx": model["model.onnx"]}
    publish(tmp_path, "two", "v1", two)
    with pytest.raises(LoadFailed, match="must say which of 2 files"):
        open_backend(ModelFiles(tmp_path / "two" / "v1"))
    told = json.dumps({"parameters": {"file": "b.onnx", "intra_op_threads": 1}}).encode()
    publish(tmp_path, "two", "v2", {**two, "model-config.json": told})
    name, _ = open_backend(ModelFiles(tmp_path / "two" / "v2"))
    assert name == "onnxruntime"
