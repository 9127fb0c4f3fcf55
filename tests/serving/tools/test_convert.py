"""`convert`: what it writes is what the control plane publishes and a server serves, and a model
that is another after it is refused."""

from __future__ import annotations

import json
import math
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from onnx import TensorProto

from mlplatform.cli.demo.models import magika
from mlplatform.core.manifest import Manifest, Requirements
from mlplatform.core.placement import ModelVersion
from mlplatform.replication.artefact import read_artefact
from mlplatform_serving.models.golden import parse_golden
from mlplatform_serving.models.manifest import Requirements as ServedRequirements
from mlplatform_serving.protocol.specs import TensorSpec
from mlplatform_serving.tools import plans
from mlplatform_serving.tools.compared import difference
from mlplatform_serving.tools.convert import main
from mlplatform_serving.tools.plans import Plan, plan_name
from mlplatform_serving.tools.versions import build_manifest, publish_line
from tests.serving.rig import layers, publish, running
from tests.serving.tools.models import dense, golden_line, initializers, lookup

SCRIPT = Path(__file__).parents[3] / "serving" / "scripts" / "convert_model.py"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MODEL_CACHE_DIR", raising=False)
    return tmp_path


def published(folder: Path, model: str, version: str) -> bytes:
    """The manifest that `mlplatform publish` writes of a folder, or a file."""
    manifest, _ = read_artefact(folder, ModelVersion(model, version))
    return manifest.encoded


# ------------------------------------------------------------------------------------ what it makes


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Magika in half precision and in eight bits, by its golden requests."""
    folder = tmp_path_factory.mktemp("converted")
    model = magika(folder) / "model.onnx"
    for precision in ("fp16", "int8"):
        subprocess.run(
            [
                *(sys.executable, SCRIPT, "--model", model, "--name", "magika"),
                *("--precision", precision, "--output", folder / "models"),
            ],
            check=True,
        )
    return folder / "models"


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_it_is_what_publish_would_write_to_the_byte(converted: Path, precision: str) -> None:
    version = f"v1.0.0-{precision}"
    folder = converted / "magika" / version
    manifest = (folder / "manifest.json").read_bytes()
    assert manifest == published(folder, "magika", version)
    assert Manifest.parse(manifest, where="here").golden == "golden.ndjson"


def test_it_is_served_as_it_lies_there_and_its_golden_requests_are_right(converted: Path) -> None:
    models = {"MODELS": "magika@v1.0.0-fp16,magika@v1.0.0-int8", "WARMUP": "true"}
    with running(converted, **models) as server:
        for version in ("v1.0.0-fp16", "v1.0.0-int8"):
            server.wait_for(f"model_warmup: magika@{version}: 3 golden requests are right")
        told = server.ask("GET", "/v2/models/magika").json
        assert told["inputs"] == [{"name": "bytes", "datatype": "INT32", "shape": [-1, 2048]}]
        assert told["outputs"][0]["datatype"] == "FP32"


def test_half_precision_is_the_weights_own(here: Path) -> None:
    (here / "dense.onnx").write_bytes(dense())
    assert main(["--model", "dense.onnx", "--precision", "fp16", "--output", "out"]) == 0
    made = here / "out" / "dense" / "v1.0.0-fp16" / "dense-fp16.onnx"
    assert initializers(made) == {TensorProto.FLOAT16}


def test_eight_bits_by_golden_requests(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "dense.onnx").write_bytes(dense())
    row = [1.0, 0.0, 0.0, 0.0]
    want = [0.0, 0.0, 0.0]
    (here / "golden.ndjson").write_bytes(golden_line(row, want, tolerance=0.001))
    line = ["--model", "dense.onnx", "--precision", "int8", "--output", "out", "--json"]
    assert main(line) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["golden_requests"] == 1
    folder = Path(told["path"])
    assert TensorProto.INT8 in initializers(folder / told["file"])
    (golden,) = parse_golden((folder / "golden.ndjson").read_bytes())
    assert golden.tolerance == pytest.approx(0.05)  # of two the larger: what was allowed
    assert list(golden.outputs[0]["data"]) == want


def test_without_golden_requests_some_are_made_by_seeded_chance(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "dense.onnx").write_bytes(dense())
    for output, seed in (("a", "7"), ("b", "7"), ("c", "8")):
        more = ["--precision", "fp16", "--output", output, "--seed", seed]
        assert main(["--model", "dense.onnx", *more]) == 0
    assert "8 are made by chance (seed 7)" in capsys.readouterr().out
    made = [(here / each / "dense/v1.0.0-fp16/golden.ndjson").read_bytes() for each in "abc"]
    assert made[0] == made[1] != made[2]
    assert len(parse_golden(made[0])) == 8


def test_what_belongs_to_a_published_version_goes_with_it(here: Path) -> None:
    configuration = {"max_batch_size": 8, "parameters": {"file": "net/dense.onnx"}}
    files = {
        "net/dense.onnx": dense(),
        "labels.json": b"[]",
        "model-config.json": json.dumps(configuration).encode(),
        "golden.ndjson": golden_line([0, 0, 0, 0], [0, 0, 0]),
    }
    publish(here / "model_cache", "dense", "v1.9.0", {"dense.onnx": dense()})
    publish(here / "model_cache", "dense", "v1.10.0", files)
    assert main(["--model", "dense", "--precision", "fp16"]) == 0
    made = here / "model_cache" / "dense" / "v1.10.0-fp16"
    told = json.loads((made / "model-config.json").read_bytes())
    assert told == {"max_batch_size": 8, "parameters": {"file": "dense-fp16.onnx"}}
    assert {path.name for path in made.iterdir()} == {
        *("labels.json", "model-config.json", "golden.ndjson", "dense-fp16.onnx"),
        *("manifest.json", ".mlplatformignore"),
    }
    with running(here / "model_cache", WARMUP="1", MODELS="dense@v1.10.0-fp16") as server:
        assert server.ask("GET", "/v2/models/dense").json["versions"] == ["v1.10.0-fp16"]
        assert server.ask("GET", "/v2/health/ready").status == 200


def test_a_file_gets_its_manifest_beside_it(here: Path) -> None:
    (here / "dense.onnx").write_bytes(dense())
    assert main(["--model", "dense.onnx", "--precision", "fp16", "--output", "m/d.onnx"]) == 0
    beside = (here / "m" / "d.onnx.manifest.json").read_bytes()
    assert beside == published(here / "m" / "d.onnx", "dense", "v1.0.0-fp16")
    assert main(["--model", "dense.onnx", "--precision", "fp16", "--output", "m/d.onnx"]) == 0


def test_the_same_again_is_nothing_to_do_and_another_is_refused(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["--model", "dense.onnx", "--precision", "fp16", "--output", "out"]
    (here / "dense.onnx").write_bytes(dense())
    assert [main(line), main(line)] == [0, 0]
    (here / "dense.onnx").write_bytes(dense(scale=2))
    assert main(line) == 3
    assert "is there already, with other bytes" in capsys.readouterr().err
    assert [path.name for path in (here / "out" / "dense").iterdir()] == ["v1.0.0-fp16"]


# ---------------------------------------------------------------------------------- what it refuses


WRONG: dict[str, tuple[list[str], int, str]] = {
    "a URL": (["--model", "https://x.example/m.onnx"], 2, "nothing is fetched"),
    "no such model": (["--model", "resnet50"], 2, "no version of it in model_cache"),
    "no such file": (["--model", "no such.onnx"], 2, "no such file, and no model"),
    "a plan": (["--model", "engine.trt"], 2, "cannot be converted"),
    "a program": (["--model", "program.pt2"], 2, "cannot be converted"),
    "something else": (["--model", "notes.txt"], 2, "is nothing that is read here"),
    "junk": (["--model", "junk.onnx"], 1, "no ONNX model"),
    "too different": (
        ["--model", "dense.onnx", "--precision", "int8", "--tolerance", "0"],
        3,
        "it is not the same model: output y",
    ),
    "golden requests of another": (
        ["--model", "dense.onnx", "--golden", "others.ndjson"],
        3,
        "the original itself gives something else",
    ),
    "golden requests it does not take": (
        ["--model", "lookup.onnx", "--golden", "others.ndjson"],
        1,
        "golden request 1: unexpected inference input",
    ),
    "no golden requests": (["--model", "dense.onnx", "--golden", "notes.txt"], 1, "notes.txt: "),
    "weights alone": (["--model", "w.safetensors", "--precision", "fp16"], 2, "have no graph"),
    "weights as they are": (["--model", "w.safetensors"], 2, "is safetensors already"),
    "a module without torch's word": (
        ["--model", "w.safetensors", "--module", "net"],
        2,
        "--module net: no module's name",
    ),
    "a name that is none": (["--model", "dense.onnx", "--name", "../x"], 2, "no name of a model"),
    "another ending": (["--model", "dense.onnx", "--output", "x.safetensors"], 2, "not that"),
}


@pytest.mark.parametrize(("line", "code", "said"), WRONG.values(), ids=WRONG)
def test_refused(
    here: Path, capsys: pytest.CaptureFixture[str], line: list[str], code: int, said: str
) -> None:
    for name, body in {
        "dense.onnx": dense(),
        "lookup.onnx": lookup(),
        "junk.onnx": b"\xff\xff\xff",
        "others.ndjson": golden_line([1, 2, 3, 4], [9, 9, 9]),
        **dict.fromkeys(("engine.trt", "program.pt2", "notes.txt", "w.safetensors"), b"x"),
    }.items():
        (here / name).write_bytes(body)
    before = sorted(here.rglob("*"))
    assert main(line) == code
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert said in told
    assert sorted(here.rglob("*")) == before


def test_a_damaged_version_is_not_converted(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    publish(here / "m", "dense", "v1", {"dense.onnx": dense()})
    (here / "m" / "dense" / "v1" / "dense.onnx").write_bytes(dense(scale=2))
    assert main(["--model", "dense@v1", "--models", "m", "--precision", "fp16"]) == 3
    assert "Checksum mismatch: dense.onnx" in capsys.readouterr().err


def test_which_of_two_artefacts_must_be_said(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(here / "m", "dense", "v1", {"a.onnx": dense(), "b.onnx": dense()})
    assert main(["--model", "dense@v1", "--models", "m"]) == 2
    assert "has 2 files that could be meant" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------- the plans

BUILT = Plan(b"ftrt, say", "8.6.1", "12.1", "8.0", "NVIDIA A100")


@pytest.mark.parametrize(
    ("plan", "name"),
    [
        (BUILT, "resnet50-fp16-trt86-cuda121-sm80.trt"),
        (Plan(b"", "10.13.0", "12.9", "9.0"), "resnet50-fp16-trt1013-cuda129-sm90.trt"),
        (Plan(b"", "11.4.0.106", "13.2", "12.0"), "resnet50-fp16-trt114-cuda132-sm120.trt"),
    ],
)
def test_a_plan_s_file_says_what_it_needs(plan: Plan, name: str) -> None:
    assert plan_name("resnet50", "fp16", plan) == name


def test_the_runbook_s_line_without_tensorrt_says_what_is_missing(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(here / "model_cache", "resnet50", "v1", {"model.onnx": dense()})
    line = shlex.split("--model resnet50 --precision fp16 --output models/resnet50-fp16-new.trt")
    monkeypatch.setattr(plans, "BUILDER", "mlplatform_serving.backends.nobody_s")
    assert main(line) == 2
    assert "builds no TensorRT plans" in capsys.readouterr().err
    (here / "needs_it.py").write_text("def open_builder():\n    import tensorrt_of_nobody\n")
    monkeypatch.syspath_prepend(here)
    monkeypatch.setattr(plans, "BUILDER", "needs_it")
    assert main(line) == 2
    said = capsys.readouterr().err
    assert "tensorrt_of_nobody is not installed" in said
    assert "hint: pip install 'mlplatform-serving[tensorrt]'" in said
    assert not (here / "models").exists()


class Builder:
    """A builder that only says what it was asked."""

    asked: list[tuple[tuple[int, ...], int]]

    def build(self, model: bytes, inputs: Sequence[TensorSpec], batch_max: int) -> Plan:
        self.asked.append((inputs[0].shape, batch_max))
        return BUILT


def test_a_plan_is_built_of_the_converted_model_and_its_manifest_says_the_rest(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module, Builder.asked = ModuleType("builders"), []
    module.__dict__.update(open_builder=Builder, __spec__=plans.__spec__)
    monkeypatch.setitem(sys.modules, "builders", module)
    monkeypatch.setattr(plans, "BUILDER", "builders")
    publish(here / "model_cache", "resnet50", "v1", {"model.onnx": dense()})
    line = ["--model", "resnet50", "--precision", "fp16"]
    assert main([*line, "--output", "models/resnet50-fp16-new.trt"]) == 0
    assert (here / "models" / "resnet50-fp16-new.trt").read_bytes() == BUILT.body
    told = json.loads((here / "models" / "resnet50-fp16-new.trt.manifest.json").read_bytes())
    assert told["requirements"] == {
        "format": "tensorrt",
        "runtime": "tensorrt 8.6.1",
        "accelerator": "NVIDIA A100",
        "compute_capability": "8.0",
        "cuda": "12.1",
    }
    out = capsys.readouterr().out
    assert "if it were called resnet50-fp16-trt86-cuda121-sm80.trt" in out
    assert "--requires runtime='tensorrt 8.6.1'" in out
    assert Builder.asked == [((-1, 4), 32)]
    assert main([*line, "--to", "tensorrt", "--output", "out", "--batch-max", "4"]) == 0
    made = here / "out" / "resnet50" / "v1-fp16"
    assert (made / "resnet50-fp16-trt86-cuda121-sm80.trt").exists()
    assert (made / "golden.ndjson").exists()


def test_the_other_runbook_s_line(here: Path) -> None:
    """With no more flags: the newest published version, and beside it what comes of it."""
    publish(here / "models", "resnet50", "v1.2.0", {"model.onnx": dense()})
    line = "convert_model.py --model resnet50 --precision int8"
    done = subprocess.run(
        ["bash", "-c", f"python scripts/{line}"],
        cwd=SCRIPT.parents[1],
        env={
            "PATH": f"{Path(sys.executable).parent}:{os.defpath}",
            "MODEL_CACHE_DIR": str(here / "models"),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    made = here / "models" / "resnet50" / "v1.2.0-int8"
    assert (made / "resnet50-int8.onnx").is_file()
    with running(here / "models") as server:  # the original is still the newest
        assert server.ask("GET", "/v2/models/resnet50").json["versions"] == ["v1.2.0"]


# ---------------------------------------------------------------------------------- manifests, sums


def test_a_manifest_of_many_blocks_and_tensors(tmp_path: Path) -> None:
    files = {
        "model.safetensors": layers()["model.safetensors"],
        "big.bin": np.random.default_rng(1).bytes(40 * 1024**2),
        "empty": b"",
        "größe/a": b"1",
    }
    for name, body in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(body)
    manifest, _ = read_artefact(
        tmp_path, ModelVersion("m", "v1"), requirements=Requirements(cuda="12.9")
    )
    paths = {name: tmp_path / name for name in files}
    given = ServedRequirements(cuda="12.9")
    assert build_manifest("m", "v1", paths, given) == manifest.encoded
    assert publish_line(tmp_path, "m", "v1", given).endswith("--version v1 --requires cuda=12.9")


NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("want", "have", "absolute", "relative"),
    [
        ([1.0, -4.0], [1.0, -4.0], 0, 0),
        ([1.0, -4.0], [1.5, -3.0], 1, 0.25),
        ([0.0], [0.5], 0.5, 0.5),
        ([NAN, INF], [NAN, INF], 0, 0),
        ([1.0, INF], [1.0, 7.0], INF, INF),
        ([], [], 0, 0),
    ],
)
def test_differences(
    want: list[float], have: list[float], absolute: float, relative: float
) -> None:
    found = difference("y", np.array(want), np.array(have), 1)
    assert (found.absolute, found.relative) == (absolute, relative)


def test_a_number_that_became_none_is_never_near() -> None:
    found = difference("y", np.array([1.0]), np.array([NAN]), 1)
    assert not found.absolute <= 1e300
