"""A server that is to be warm before it answers, and golden requests as it reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mlplatform.core.errors import IntegrityError
from mlplatform.core.golden import parse_golden as parsed_by_the_control_plane
from mlplatform_serving.errors import LoadFailed
from mlplatform_serving.models.golden import GoldenRequest, NotGolden, parse_golden, write_golden
from mlplatform_serving.models.manifest import ModelFiles
from mlplatform_serving.models.progress import Progress
from mlplatform_serving.models.warming import WarmUp, open_warm
from tests.serving.rig import identity, layers, publish, running, started

RIGHT: list[float] = [100, 1]


def golden(*expected: float, tolerance: float = 0.0) -> bytes:
    x = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}
    y = {"name": "y", "datatype": "FP32", "shape": [1, 2], "data": list(expected)}
    line = {"request": {"inputs": [x]}, "expect": {"outputs": [y]}, "tolerance": tolerance}
    return json.dumps(line).encode() + b"\n"


def folder_with(models: Path, body: bytes, **files: bytes) -> Path:
    publish(models, "layers", "v1", {**layers(scale=10), "golden.ndjson": body, **files})
    return models / "layers" / "v1"


# ------------------------------------------------------------------------------------ the server


def test_it_is_ready_when_its_golden_requests_are_right(tmp_path: Path) -> None:
    folder_with(tmp_path, golden(*RIGHT))
    with running(tmp_path, WARMUP="true", WARMUP_TARGET_MS=10_000) as server:
        told = server.wait_for("model_warmup: layers@v1: 1 golden requests are right")
        assert told["rounds"] == 1
        assert server.ask("GET", "/v2/health/ready").status == 200


@pytest.mark.parametrize(
    ("body", "settings", "said"),
    [
        (golden(100, 2), {}, "value 1 is 1.0 instead of 2, within 0"),
        (golden(*RIGHT)[:-4], {}, "golden.ndjson: line 1 is no golden request"),
        (
            golden(*RIGHT),
            {"WARMUP_TARGET_MS": 1e-7, "WARMUP_SECONDS_MAX": 1e-6},
            "1e-07 ms (WARMUP_TARGET_MS) are wanted",
        ),
        (golden(*RIGHT), {"WARMUP_TARGET_MS": 1e-7, "MODEL_LOAD_TIMEOUT": 0.5}, "warming up"),
    ],
    ids=["wrong answer", "no golden requests", "never as quick as that", "the load's time is over"],
)
def test_it_is_not_ready_as_long_as_they_are_not(
    tmp_path: Path, body: bytes, settings: dict[str, object], said: str
) -> None:
    folder_with(tmp_path, body)
    with running(tmp_path, WARMUP="true", **settings) as server:
        assert server.ask("GET", "/v2/health/ready").status == 503
        assert server.ask("GET", "/v2/models/layers/ready").status == 503
        (entry,) = server.ask("GET", "/v2/repository/index").json
        assert (entry["state"], said in entry["reason"]) == ("UNAVAILABLE", True), entry
        server.wait_for("Model failed to load: layers@v1")


def test_the_version_before_goes_on_answering(tmp_path: Path) -> None:
    publish(tmp_path, "layers", "v0", layers())
    folder_with(tmp_path, golden(100, 2))
    (tmp_path / "token").write_text("s3cret\n")
    settings = {"WARMUP": "yes", "MODELS": "layers@v0", "ADMIN_TOKEN_FILE": tmp_path / "token"}
    with running(tmp_path, **settings) as server:
        server.wait_for("layers@v0 has no golden requests, and is not warmed")
        load, may = "/v2/repository/models/layers/load", {"Authorization": "Bearer s3cret"}
        refused = server.ask("POST", load, {"parameters": {"version": "v1"}}, may)
        assert (refused.status, "instead of 2" in refused.json["error"]) == (400, True)
        x = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}
        assert server.infer("layers", x).json["model_version"] == "v0"


def test_without_being_asked_it_asks_nothing(tmp_path: Path) -> None:
    folder_with(tmp_path, golden(100, 2))
    with started(tmp_path, WARMUP_TARGET_MS=5) as server:
        server.wait_for("WARMUP_TARGET_MS has no effect without WARMUP=true")
        server.wait_for("Server startup complete")
        assert server.ask("GET", "/v2/health/ready").status == 200


# ---------------------------------------------------------------------------- rounds and their time


def test_rounds_go_on_until_one_is_quick_enough(tmp_path: Path) -> None:
    files = ModelFiles(folder_with(tmp_path, golden(*RIGHT) * 2))
    # Two readings a request, two requests a round, one reading after it.
    readings = iter([0, 0, 0.009, 0.009, 0.011, 0.1, 0.1, 0.104, 0.104, 0.109])
    _, backend = open_warm(
        files, WarmUp(target_ms=6, seconds_max=9), Progress(), clock=lambda: next(readings)
    )
    backend.close()
    assert not list(readings)


def test_a_request_that_the_model_does_not_take(tmp_path: Path) -> None:
    publish(tmp_path, "echo", "v1", {**identity("INT8"), "golden.ndjson": golden(1, 2)})
    with pytest.raises(LoadFailed, match="request 1: unexpected inference input"):
        open_warm(ModelFiles(tmp_path / "echo" / "v1"), WarmUp(), Progress())


# ------------------------------------------------------ one rule, here and in the control plane

LINES: dict[str, bytes] = {
    "right": golden(1, 2),
    "tolerant": golden(1, 2, tolerance=0.25),
    "two": golden(1, 2) + b"\n" + golden(3),
    "none": b"\n",
    "no JSON": b"{",
    "a list": b"[]",
    "no outputs": b'{"request": {"inputs": []}, "expect": {"outputs": []}}',
    "no data": b'{"request": {"inputs": []}, "expect": {"outputs": [{"name": "y"}]}}',
    "no inputs": b'{"request": {}, "expect": {"outputs": [{"data": []}]}}',
    "negative": golden(1, tolerance=-1),
    "endless": golden(1).replace(b"0.0", b"1e999"),
    "deep": b"[" * 100_000,
}
ANSWERS: dict[str, Any] = {
    "the same": {"outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]},
    "nested": {"outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 2], "data": [[1.2, 2]]}]},
    "off": {"outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 2], "data": [1, 2.5]}]},
    "null": {"outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 2], "data": [1, None]}]},
    "short": {"outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 2], "data": [1]}]},
    "another type": {
        "outputs": [{"name": "y", "datatype": "FP64", "shape": [1, 2], "data": [1, 2]}]
    },
    "huge": {"outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 2], "data": [1, 10**400]}]},
    "missing": {"outputs": [{"name": "z", "data": []}]},
    "an error": {"error": "no"},
    "nothing": None,
}


@pytest.mark.parametrize("body", LINES.values(), ids=LINES)
def test_what_is_a_golden_request_is_the_same_here_and_there(body: bytes) -> None:
    try:
        theirs = parsed_by_the_control_plane(body, where="golden.ndjson")
    except IntegrityError:
        with pytest.raises(NotGolden):
            parse_golden(body)
        return
    ours = parse_golden(body)
    assert [(each.request, each.outputs, each.tolerance) for each in ours] == [
        (each.request, each.outputs, each.tolerance) for each in theirs
    ]
    assert parse_golden(write_golden(ours)) == ours
    for ask, asked in zip(ours, theirs, strict=True):
        for answer in ANSWERS.values():
            assert ask.difference(answer) == asked.difference(answer)


def test_the_cases_are_both_right_and_wrong() -> None:
    (ask,) = parse_golden(LINES["tolerant"])
    said = {name: ask.difference(answer) for name, answer in ANSWERS.items()}
    assert {name for name, told in said.items() if not told} == {"the same", "nested"}


def test_a_request_is_sent_as_it_was_written() -> None:
    ask = GoldenRequest({"inputs": [{"name": "x", "data": [0.1]}]}, ({"data": [1]},))
    assert json.loads(ask.body) == ask.request
