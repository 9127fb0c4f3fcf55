"""Versions are loaded as they were published, or not at all, and the index says why not."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from safetensors.numpy import save

from mlplatform.core.errors import MlplatformError
from mlplatform.core.manifest import Manifest
from mlplatform_serving.backends.formats import open_backend
from mlplatform_serving.errors import LoadFailed
from mlplatform_serving.models.manifest import ModelFiles, parse_manifest
from mlplatform_serving.names import by_number
from tests.serving.rig import identity, layers, publish, running, tensor

X = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}


def rewritten(folder: Path, **changed: Any) -> None:
    path = folder / "manifest.json"
    path.write_bytes(json.dumps(json.loads(path.read_bytes()) | changed).encode())


def with_path(folder: Path, path: str) -> None:
    entries = json.loads((folder / "manifest.json").read_bytes())["files"]
    rewritten(folder, files=[{**entries[0], "path": path}])


def elsewhere(folder: Path) -> None:
    weights = folder / "model.safetensors"
    outside = folder.parent.parent / "outside"
    weights.rename(outside)
    weights.symlink_to(outside)


SPOILS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no manifest": (lambda it: (it / "manifest.json").unlink(), "Model file not found: manifest"),
    "a manifest that is none": (
        lambda it: (it / "manifest.json").write_text("[]"),
        "not a manifest that can be trusted",
    ),
    "a manifest with more": (lambda it: rewritten(it, surprise=1), "unknown field `surprise`"),
    "another schema": (lambda it: rewritten(it, schema="mlplatform/manifest/2"), "manifest/2"),
    "another model's": (lambda it: rewritten(it, model="other"), "Model version mismatch"),
    "another version's": (lambda it: rewritten(it, version="v2"), "Model version mismatch"),
    "weights that are gone": (
        lambda it: (it / "model.safetensors").unlink(),
        "Model file not found: model.safetensors",
    ),
    "weights cut short": (
        lambda it: os.truncate(it / "model.safetensors", 40),
        "model.safetensors is cut short",
    ),
    "weights with a tail": (
        lambda it: os.truncate(it / "model.safetensors", 4096),
        "longer than it was",
    ),
    "one bit": (
        lambda it: (it / "model.safetensors").write_bytes(
            (it / "model.safetensors").read_bytes()[:-1] + b"\1"
        ),
        "Checksum mismatch: model.safetensors",
    ),
    "a link out of the folder": (elsewhere, "is a symbolic link"),
    "a path out of the folder": (lambda it: with_path(it, "../../outside"), "lie outside"),
    "a path from the root": (lambda it: with_path(it, "/etc/passwd"), "lie outside"),
    "a path with a zero byte": (lambda it: with_path(it, "a\0b"), "lie outside"),
}


@pytest.fixture
def version(tmp_path: Path) -> Path:
    publish(tmp_path, "layers", "v1", layers())
    return tmp_path / "layers" / "v1"


@pytest.mark.parametrize(("spoil", "said"), SPOILS.values(), ids=SPOILS)
def test_what_is_not_as_published_is_not_loaded(
    version: Path, spoil: Callable[[Path], Any], said: str
) -> None:
    open_backend(ModelFiles(version))
    spoil(version)
    with pytest.raises(LoadFailed, match=r".+") as refused:
        open_backend(ModelFiles(version))
    assert said in refused.value.message
    assert str(version) not in refused.value.message


CONFIGURATIONS: dict[str, tuple[dict[str, Any], str]] = {
    "no backend": ({"backend": None}, "which backend serves it is not said"),
    "a backend of nobody's": ({"backend": "os"}, "no backend is called so"),
    "a word too many": ({"trust_remote_code": True}, "unknown field `trust_remote_code`"),
    "a datatype of nobody's": ({"inputs": [tensor("x", "FLOAT", 4)]}, "unknown datatype"),
    "no inputs": ({"inputs": []}, "have a name each"),
    "an output twice": ({"outputs": [tensor("y", "FP32", 2)] * 2}, "have a name each"),
    "another width": ({"inputs": [tensor("x", "FP32", -1, 5)]}, "does not fit the weights: 4"),
    "two inputs": (
        {"inputs": [tensor("x", "FP32", -1, 4), tensor("z", "FP32", -1, 4)]},
        "one input and one output",
    ),
    "no such tensor": ({"parameters": {"layers": [{"weight": "z"}]}}, "no tensor z"),
    "no layers": ({"parameters": {"layers": []}}, "length >= 1"),
    "a bias for a weight": ({"parameters": {"layers": [{"weight": "b"}]}}, "are no layer"),
    "layers that do not meet": (
        {"parameters": {"layers": [{"weight": "w"}, {"weight": "w"}]}},
        "another width than the one before",
    ),
    "no such file": (
        {"parameters": {"layers": [{"weight": "w"}], "weights": "other"}},
        "names no file other",
    ),
    "weights that are none": (
        {"parameters": {"layers": [{"weight": "w"}], "weights": "model-config.json"}},
        "not safetensors",
    ),
}


@pytest.mark.parametrize(("changed", "said"), CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def test_a_configuration_that_cannot_be(tmp_path: Path, changed: dict[str, Any], said: str) -> None:
    model = layers()
    told = json.loads(model["model-config.json"]) | changed
    publish(tmp_path, "layers", "v1", {**model, "model-config.json": json.dumps(told).encode()})
    with pytest.raises(LoadFailed, match=r".+") as refused:
        open_backend(ModelFiles(tmp_path / "layers" / "v1"))
    assert said in refused.value.message


@pytest.mark.parametrize("activation", ["none", "relu", "sigmoid", "softmax", "tanh"])
def test_layers_are_what_the_formula_says(tmp_path: Path, activation: str) -> None:
    chance = np.random.default_rng(7)
    first, bias, second = (
        chance.normal(size=size).astype(np.float32) for size in ((5, 4), (5,), (3, 5))
    )
    configuration = {
        "backend": "numpy",
        "inputs": [tensor("x", "FP32", -1, 4)],
        "outputs": [tensor("y", "FP64", -1, 3)],
        "parameters": {
            "layers": [
                {"weight": "first", "bias": "bias", "activation": "relu"},
                {"weight": "second", "activation": activation},
            ]
        },
    }
    publish(
        tmp_path,
        "net",
        "v1",
        {
            "model-config.json": json.dumps(configuration).encode(),
            "model.safetensors": save({"first": first, "bias": bias, "second": second}),
        },
    )
    _, backend = open_backend(ModelFiles(tmp_path / "net" / "v1"))
    x = chance.normal(size=(6, 4)).astype(np.float32)
    hidden = np.maximum(np.einsum("oi,ni->no", first, x) + bias, 0)
    raw = np.einsum("oi,ni->no", second, hidden)
    expected = {
        "none": raw,
        "relu": np.where(raw > 0, raw, 0),
        "sigmoid": 1 / (1 + np.exp(-raw)),
        "softmax": np.exp(raw) / np.exp(raw).sum(axis=1, keepdims=True),
        "tanh": np.tanh(raw),
    }[activation]
    given = backend.infer({"x": x})["y"]
    assert given.dtype == np.float64
    assert np.allclose(given, expected, atol=1e-5)


# --- the manifest, from both sides ---------------------------------------------------------------

CHANGES: dict[str, dict[str, Any]] = {
    "as it is": {},
    "golden": {"golden": "model-config.json"},
    "another schema": {"schema": "mlplatform/manifest/2"},
    "no files": {"files": []},
    "no block": {"block_bytes": 0},
    "a block too large": {"block_bytes": 2**30 + 1},
    "one more": {"surprise": 1},
    "no model": {"model": None},
    "a number": {"version": 7},
    "a requirement": {"requirements": {"format": "onnx", "runtime": None}},
    "a requirement of nobody's": {"requirements": {"format": "onnx", "magic": "yes"}},
}


@pytest.mark.parametrize("changed", CHANGES.values(), ids=CHANGES)
def test_server_schema_and_control_plane_agree(version: Path, changed: dict[str, Any]) -> None:
    told = json.loads((version / "manifest.json").read_bytes()) | changed
    schema = json.loads(files("mlplatform_serving").joinpath("manifest.schema.json").read_text())
    verdicts = []
    for judge in (
        lambda: parse_manifest(json.dumps(told).encode()),
        lambda: jsonschema.validate(told, schema),
        lambda: Manifest.model_validate(told),
    ):
        try:
            judge()
        except (LoadFailed, jsonschema.ValidationError, ValueError, MlplatformError):
            verdicts.append(False)
        else:
            verdicts.append(True)
    assert len(set(verdicts)) == 1, verdicts


def test_the_digest_is_the_control_planes(version: Path) -> None:
    body = (version / "manifest.json").read_bytes()
    assert ModelFiles(version).digest == Manifest.parse(body, where="here").digest


def test_versions_are_ordered_as_people_do() -> None:
    ordered = ["v1", "v1.2.0-rc2", "v1.2.0-rc10", "v1.2.0", "v1.9.0", "v1.10.0", "v2"]
    assert sorted(set(ordered), key=by_number) == ordered
    assert max(["2026-11-09", "2026-11-10", "2026-9-30"], key=by_number) == "2026-11-10"


# --- while it serves -----------------------------------------------------------------------------


def test_load_unload_and_versions_side_by_side(tmp_path: Path) -> None:
    models, token = tmp_path / "models", tmp_path / "token"
    token.write_text("secret")
    digests = {each: publish(models, "layers", each, layers(n)) for n, each in enumerate("abc")}
    publish(models, "broken", "v1", {"model.bin": b"?"})
    admin = {"Authorization": "Bearer secret"}
    with running(models, ADMIN_TOKEN_FILE=token, MODELS="layers@a") as server:

        def told(method: str, path: str, **parameters: Any) -> tuple[int, Any]:
            body = {"parameters": parameters} if method == "POST" else None
            answer = server.ask(method, path, body, admin)
            return answer.status, answer.json

        def answers() -> float:
            return float(server.infer("layers", X).json["outputs"][0]["data"][0])

        assert answers() == 0
        load, unload = (f"/v2/repository/models/layers/{each}" for each in ("load", "unload"))
        # The newest, where none is named.
        assert told("POST", load) == (
            200,
            {"name": "layers", "version": "c", "digest": digests["c"]},
        )
        assert answers() == 20
        assert told("POST", load, version="b")[0] == 200
        assert answers() == 10
        assert told("GET", "/v2/models/layers")[1]["versions"] == ["a", "b", "c"]
        old = server.ask("POST", "/v2/models/layers/versions/c/infer", {"inputs": [X]})
        assert old.json["outputs"][0]["data"][0] == 20
        # The one that answers is unloaded: the newest that is left answers.
        assert told("POST", unload, version="b")[0] == 200
        assert answers() == 20
        assert server.ask("POST", "/v1/models/layers/unload", None, admin).status == 200
        assert server.infer("layers", X).status == 404
        assert told("POST", unload)[0] == 200
        assert server.ask("GET", "/health/ready").status == 200

        status, said = told("POST", "/v1/models/broken/load")
        assert status == 400
        assert said["error"].startswith("failed to load 'broken', version v1: which backend")
        assert server.infer("broken", X).status == 503
        index = {each["name"]: each for each in server.ask("GET", "/v2/repository/index").json}
        assert index["broken"]["state"] == "UNAVAILABLE"
        assert "which backend" in index["broken"]["reason"]
        # What fails later does not take the server from those it serves.
        assert server.ask("GET", "/health/ready").status == 200
        assert told("POST", "/v2/repository/models/nobody/load")[0] == 400
        assert told("POST", "/v2/repository/models/nobody/unload")[0] == 404
        assert told("POST", load, version="../a")[0] == 400
        assert told("POST", load, config="{}")[0] == 400
        assert told("POST", load, **{"file:1/model.onnx": "AAAA"})[0] == 400


def test_a_start_without_its_model_is_not_ready(tmp_path: Path) -> None:
    publish(tmp_path, "good", "v1", identity("FP32"))
    publish(tmp_path, "bad", "v1", identity("FP32"))
    (tmp_path / "bad" / "v1" / "model-config.json").write_text("{}")
    with running(tmp_path) as server:
        assert server.ask("GET", "/health/ready").status == 503
        assert server.ask("GET", "/health").status == 200
        assert server.ask("GET", "/health/startup").status == 200
        line = server.wait_for("Model failed to load: bad@v1")
        assert line["level"] == "ERROR"
        assert server.ask("GET", "/v2/models/good/ready").status == 200
        assert server.ask("GET", "/v2/models/bad/ready").status == 503


def test_model_version_says_which(tmp_path: Path) -> None:
    publish(tmp_path, "layers", "v1", layers(1))
    publish(tmp_path, "layers", "v2", layers(2))
    with running(tmp_path, MODEL_VERSION="v1") as server:
        assert server.infer("layers", X).json["model_version"] == "v1"
