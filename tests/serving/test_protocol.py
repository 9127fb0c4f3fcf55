"""The Open Inference Protocol as it is spoken on the wire, and the paths that runbooks call."""

from __future__ import annotations

import gzip
import json
import struct
import zlib
from typing import Any

import numpy as np
import pytest

from tests.serving.rig import DATATYPES, Reply, ServerProcess

X = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4.5]}
Y = {"name": "y", "datatype": "FP32", "shape": [1, 2], "data": [105.0, 1.0]}


def test_an_inference_in_json(server: ServerProcess) -> None:
    answer = server.infer("layers", X, id="seven")
    assert answer.status == 200
    assert answer.json == {
        "model_name": "layers",
        "model_version": "v1.10.0",
        "id": "seven",
        "outputs": [Y],
    }
    assert answer.headers["x-mlplatform-region"] == "us-east-1"


def test_nested_data_is_the_same(server: ServerProcess) -> None:
    rows = {**X, "shape": [2, 4], "data": [[1, 2, 3, 4], [-5, -6, -7, -8]]}
    assert server.infer("layers", rows).json["outputs"][0]["data"] == [100, 1, 0, 0]


JSON_VALUES: dict[str, list[Any]] = {
    "BOOL": [True, False],
    "UINT64": [0, 2**64 - 1],
    "INT64": [-(2**63), 2**63 - 1],
    "FP16": [0.5, -65504.0],
    "BF16": [1.5, -2.0],
    "FP64": [1e300, -0.1],
    "BYTES": ["", 'quo"te, [bracket] \\ ü'],
}


@pytest.mark.parametrize("datatype", DATATYPES)
def test_every_datatype_in_json(server: ServerProcess, datatype: str) -> None:
    values = JSON_VALUES.get(datatype, [0, 127])
    given = {"name": f"in_{datatype}", "datatype": datatype, "shape": [1, 2], "data": values}
    for data in (values, [values]):
        answer = server.infer(f"echo-{datatype.lower()}", {**given, "data": data})
        assert answer.json["outputs"] == [{**given, "name": f"out_{datatype}", "data": values}]


def binary(model: str, tensors: list[tuple[dict[str, Any], bytes]], **more: Any) -> Any:
    head = json.dumps(
        {
            "inputs": [
                {**tensor, "parameters": {"binary_data_size": len(data)}}
                for tensor, data in tensors
            ],
            **more,
        }
    ).encode()
    body = head + b"".join(data for _, data in tensors)
    return f"/v2/models/{model}/infer", body, {"Inference-Header-Content-Length": str(len(head))}


def taken_apart(answer: Reply) -> tuple[list[dict[str, Any]], list[bytes]]:
    """The outputs as the JSON has them, and the bytes of each."""
    size = int(answer.headers["inference-header-content-length"])
    outputs = json.loads(answer.body[:size])["outputs"]
    found, at = [], size
    for output in outputs:
        length = output["parameters"]["binary_data_size"]
        found.append(answer.body[at : at + length])
        at += length
    assert at == len(answer.body)
    return outputs, found


def test_every_datatype_in_one_binary_request(server: ServerProcess) -> None:
    sizes = {"BOOL": 1, "FP16": 2, "BF16": 2, "FP32": 4, "FP64": 8}
    tensors = []
    for datatype in DATATYPES:
        size = sizes.get(datatype) or int(datatype.lstrip("UINTBYES") or 0) // 8
        data = (
            struct.pack("<I3sI", 3, b"\0\xff\n", 0)
            if datatype == "BYTES"
            else bytes(range(2)) * size
        )
        tensors.append(({"name": f"in_{datatype}", "datatype": datatype, "shape": [2, 1]}, data))
    path, body, headers = binary("every", tensors, parameters={"binary_data_output": True})
    answer = server.ask("POST", path, body, headers)
    outputs, found = taken_apart(answer)
    assert [each["name"] for each in outputs] == [f"out_{each}" for each in DATATYPES]
    assert found == [data for _, data in tensors]
    assert answer.headers["content-type"] == "application/octet-stream"


def test_outputs_are_chosen_one_by_one(server: ServerProcess) -> None:
    tensors = [
        ({"name": f"in_{each}", "datatype": each, "shape": [1, 1]}, b"\1" * size)
        for each, size in {"INT8": 1, "INT16": 2, "FP64": 8}.items()
    ]
    full = [({"name": f"in_{each}", "datatype": each, "shape": [0, 0]}, b"") for each in DATATYPES]
    named = {tensor["name"] for tensor, _ in tensors}
    path, body, headers = binary(
        "every",
        [*tensors, *(each for each in full if each[0]["name"] not in named)],
        outputs=[
            {"name": "out_INT16"},
            {"name": "out_INT8", "parameters": {"binary_data": True}},
        ],
    )
    answer = server.ask("POST", path, body, headers)
    size = int(answer.headers["inference-header-content-length"])
    outputs = json.loads(answer.body[:size])["outputs"]
    assert outputs[0] == {"name": "out_INT16", "datatype": "INT16", "shape": [1, 1], "data": [257]}
    assert outputs[1]["parameters"] == {"binary_data_size": 1}
    assert answer.body[size:] == b"\1"


def test_a_body_that_is_the_one_input(server: ServerProcess) -> None:
    body = np.array([[1, 2, 3, 4], [5, 6, 7, 8]], "<f4").tobytes()
    answer = server.ask(
        "POST", "/v2/models/layers/infer", body, {"Inference-Header-Content-Length": "0"}
    )
    assert answer.json["outputs"][0]["data"] == [100, 1, 260, 5]


@pytest.mark.parametrize(("encoding", "window"), [("gzip", 31), ("deflate", 15)])
def test_packed_both_ways(server: ServerProcess, encoding: str, window: int) -> None:
    pack = zlib.compressobj(wbits=window)
    body = pack.compress(json.dumps({"inputs": [X]}).encode()) + pack.flush()
    headers = {"Content-Encoding": encoding, "Accept-Encoding": f"br, {encoding};q=0.5"}
    answer = server.ask("POST", "/v2/models/layers/infer", body, headers)
    assert answer.headers["content-encoding"] == encoding
    assert json.loads(zlib.decompress(answer.body, window))["outputs"] == [Y]


def test_what_is_refused_is_not_packed(server: ServerProcess) -> None:
    answer = server.ask("GET", "/v2/models/layers", headers={"Accept-Encoding": "gzip;q=0, br"})
    assert "content-encoding" not in answer.headers
    assert answer.json["name"] == "layers"


def test_a_version_is_named(server: ServerProcess) -> None:
    answer = server.ask("POST", "/v2/models/layers/versions/v1.10.0/infer", {"inputs": [X]})
    assert answer.json["model_version"] == "v1.10.0"
    answer = server.ask("POST", "/v2/models/layers/versions/v1.9.0/infer", {"inputs": [X]})
    assert answer.status == 404
    assert answer.json == {"error": "Request for unknown model: layers has no such version loaded"}


def test_what_the_server_says_of_itself(server: ServerProcess) -> None:
    assert server.ask("GET", "/v2").json["extensions"] == [
        "binary_tensor_data",
        "model_configuration",
        "model_repository",
        "schedule_policy",
        "statistics",
    ]
    told = server.ask("GET", "/v2/models/layers").json
    assert told.pop("digest").startswith("blake3:")
    assert told == {
        "name": "layers",
        "versions": ["v1.10.0"],
        "version": "v1.10.0",
        "platform": "numpy",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 2]}],
    }
    config = server.ask("GET", "/v2/models/layers/versions/v1.10.0/config").json
    assert config["input"] == [{"name": "x", "data_type": "TYPE_FP32", "dims": [4]}]


def test_statistics_count(server: ServerProcess) -> None:
    def successes() -> int:
        (told,) = server.ask("GET", "/v2/models/echo-bool/stats").json["model_stats"]
        return int(told["inference_stats"]["success"]["count"])

    before = successes()
    given = {"name": "in_BOOL", "datatype": "BOOL", "shape": [1, 1], "data": [True]}
    assert server.infer("echo-bool", given).status == 200
    assert successes() == before + 1
    everything = server.ask("GET", "/v2/models/stats").json["model_stats"]
    assert {"every", "layers", "echo-bool"} <= {each["name"] for each in everything}


def test_the_index(server: ServerProcess) -> None:
    for method in ("GET", "POST"):
        entries = server.ask(method, "/v2/repository/index").json
        of_layers = [each for each in entries if each["name"] == "layers"]
        assert [(each["version"], each["state"]) for each in of_layers] == [
            ("v1.9.0", "UNAVAILABLE"),
            ("v1.10.0", "READY"),
        ]
        assert "digest" not in of_layers[0]
        assert of_layers[1]["digest"] == server.ask("GET", "/v2/models/layers").json["digest"]
    ready = server.ask("POST", "/v2/repository/index", {"ready": True}).json
    assert {each["state"] for each in ready} == {"READY"}


@pytest.mark.parametrize(
    "path",
    [
        *("/health", "/health/live", "/health/ready", "/health/startup", "/ready"),
        *("/v2/health/live", "/v2/health/ready", "/v2/models/layers/ready"),
        "/v2/models/layers/versions/v1.10.0/ready",
    ],
)
def test_health(server: ServerProcess, path: str) -> None:
    answer = server.ask("GET", path)
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    head = server.ask("HEAD", path)
    assert (head.status, head.body) == (200, b"")
    assert server.ask("POST", path).status == 405


def test_readiness_carries_models_and_versions(server: ServerProcess) -> None:
    told = server.ask("GET", "/health/ready").json
    assert told["ready"] is told["live"] is True
    assert {"name": "layers", "version": "v1.10.0"} in told["models"]


def test_predict(server: ServerProcess) -> None:
    path = "/v1/models/layers/predict"
    answer = server.ask("POST", path, {"instances": [[1, 2, 3, 4], [0, 0, 0, 1]]})
    assert answer.json == {"predictions": [[100, 1], [10, 0]]}
    answer = server.ask("POST", path, {"instances": [{"x": [1, 2, 3, 4]}]})
    assert answer.json == {"predictions": [[100, 1]]}
    answer = server.ask("POST", path, {"instances": [[1, 2, 3]]})
    assert answer.status == 400
    words = server.ask("POST", "/v1/models/echo-bytes/predict", {"instances": [["a", "bc"]]})
    assert words.json == {"predictions": [["a", "bc"]]}


def test_metrics_carry_region_model_and_version(server: ServerProcess) -> None:
    server.infer("layers", X)
    told = server.ask("GET", "/metrics").body.decode()
    labels = 'model="layers",region="us-east-1",version="v1.10.0"'
    for name in (
        f"model_serving_requests_total{{{labels}}}",
        f"model_serving_request_duration_seconds_count{{{labels}}}",
        f"inference_queue_depth{{{labels}}} 0.0",
        'model_load_duration_seconds_count{model="layers",version="v1.10.0"} 1.0',
    ):
        assert name in told


def test_packed_by_python_itself(server: ServerProcess) -> None:
    """What gzip adds of its own, a name and a time, is no trouble."""
    body = gzip.compress(json.dumps({"inputs": [X]}).encode())
    answer = server.ask("POST", "/v2/models/layers/infer", body, {"Content-Encoding": "gzip"})
    assert answer.json["outputs"] == [Y]
