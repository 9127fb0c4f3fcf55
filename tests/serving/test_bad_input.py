"""What no client should send, and what it is told. The server goes on."""

from __future__ import annotations

import json
import socket
import zlib
from pathlib import Path
from typing import Any

import pytest

from tests.serving.rig import ServerProcess, identity, layers, publish, running

X: dict[str, Any] = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}
INFER = "/v2/models/layers/infer"


def inputs(**changed: Any) -> dict[str, Any]:
    return {"inputs": [{key: value for key, value in {**X, **changed}.items() if value is not ...}]}


def sized(size: Any) -> dict[str, Any]:
    return inputs(data=..., parameters={"binary_data_size": size})


DEEP = b'{"inputs":' + b"[" * 101 + b"]" * 101 + b"}"

TABLE: dict[str, tuple[Any, str]] = {
    "nothing": (b"", "truncated"),
    "no JSON": (b"\xff\xfe", "JSON"),
    "cut short": (b'{"inputs":[{"name":"x"', "truncated"),
    "another form": ([], "Expected `object`, got `array`"),
    "no inputs": ({}, "missing required field `inputs`"),
    "an empty list of inputs": ({"inputs": []}, "missing inference input: x"),
    "nested too deep": (DEEP, "nests deeper than 100"),
    "nested too deep where nobody looks": (b'{"inputs":[],"z":' + DEEP + b"}", "nests deeper"),
    "an input of another name": (inputs(name="z"), "unexpected inference input; the model takes x"),
    "an input twice": ({"inputs": [X, X]}, "input x stands twice"),
    "another datatype": (inputs(datatype="FP64"), "input x is FP32"),
    "no datatype of the protocol": (inputs(datatype="FLOAT"), "input x is FP32"),
    "another rank": (inputs(shape=[4]), "has the shape [-1, 4]"),
    "another width": (inputs(shape=[2, 2]), "has the shape [-1, 4]"),
    "a negative size": (inputs(shape=[-1, 4]), "Expected `int` >= 0"),
    "a fraction of a size": (inputs(shape=[1.5, 4]), "Expected `int`"),
    "a size past all memory": (inputs(shape=[2**62, 4]), "more than 2147483648 elements"),
    "a size past 64 bits": (inputs(shape=[2**64, 4]), "more than 2147483648 elements"),
    "too few elements": (inputs(data=[1, 2, 3]), "not 4 elements"),
    "too many elements": (inputs(data=[1, 2, 3, 4, 5]), "not 4 elements"),
    "ragged rows": (inputs(shape=[2, 4], data=[[1, 2, 3], [4, 5, 6, 7, 8]]), "not 8 elements"),
    "rows too deep": (inputs(data=[[[1, 2, 3, 4]]]), "not 4 elements"),
    "no list": (inputs(data=7), "not 4 elements"),
    "a hole": (inputs(data=[1, None, 3, 4]), "Expected `float`, got `null`"),
    "a word": (inputs(data=[1, "2", 3, 4]), "Expected `float`, got `str`"),
    "an object": (inputs(data=[1, {}, 3, 4]), "Expected `float`, got `object`"),
    "NaN, which JSON has not": (inputs(data=[1, float("nan"), 3, 4]), "JSON"),
    "past the largest FP32": (inputs(data=[1, 1e39, 3, 4]), "out of range"),
    "neither data nor size": (inputs(data=...), "neither data nor binary_data_size"),
    "data and size": (inputs(parameters={"binary_data_size": 16}), "both data and"),
    "a size of nothing that follows": (sized(16), "there are 0 bytes left"),
    "a negative number of bytes": (sized(-16), "binary_data_size is not what follows"),
    "a number of bytes that is true": (sized(True), "binary_data_size is not what follows"),
    "an output of another name": ({**inputs(), "outputs": [{"name": "z"}]}, "the model gives y"),
    "an output twice": ({**inputs(), "outputs": [{"name": "y"}] * 2}, "asked for twice"),
    "shared memory": (
        inputs(parameters={"shared_memory_region": "/dev/shm/secret"}),
        "shared_memory_region is not supported",
    ),
    "a sequence": (
        {**inputs(), "parameters": {"sequence_id": 7}},
        "sequence_id is not supported",
    ),
    "classes": (
        {**inputs(), "outputs": [{"name": "y", "parameters": {"classification": 3}}]},
        "classification is not supported",
    ),
}


@pytest.mark.parametrize(("body", "said"), TABLE.values(), ids=TABLE)
def test_a_body_that_cannot_be_right(server: ServerProcess, body: Any, said: str) -> None:
    answer = server.ask("POST", INFER, body)
    assert answer.status == 400
    assert list(answer.json) == ["error"]
    assert said in answer.json["error"]
    assert "/dev/shm" not in answer.json["error"]
    assert server.ask("POST", INFER, inputs()).status == 200


HEADERS: dict[str, tuple[bytes, dict[str, str], int, str]] = {
    "more JSON than body": (b"{}", {"Inference-Header-Content-Length": "3"}, 400, "more than the"),
    "no number": (b"{}", {"Inference-Header-Content-Length": "-1"}, 400, "no number of bytes"),
    "a number past all": (b"{}", {"Inference-Header-Content-Length": "9" * 30}, 400, "no number"),
    "raw, and too few": (b"\0" * 15, {"Inference-Header-Content-Length": "0"}, 400, "15 bytes"),
    "bytes that are nobody's": (
        json.dumps(inputs()).encode() + b"more",
        {"Inference-Header-Content-Length": str(len(json.dumps(inputs())))},
        400,
        "4 bytes of binary data belong to no input",
    ),
    "an unknown encoding": (b"{}", {"Content-Encoding": "br"}, 400, "none of gzip, deflate"),
    "not gzip": (b"{}", {"Content-Encoding": "gzip"}, 400, "not what its Content-Encoding says"),
    "gzip cut short": (
        zlib.compress(b"{}" * 99, wbits=31)[:-9],
        {"Content-Encoding": "gzip"},
        400,
        "cut short",
    ),
    "a bomb": (zlib.compress(bytes(64 << 20)), {"Content-Encoding": "deflate"}, 413, "larger than"),
    "too large": (bytes(1024**2 + 1), {}, 413, "larger than 1048576 bytes"),
}


@pytest.mark.parametrize(("body", "headers", "status", "said"), HEADERS.values(), ids=HEADERS)
def test_a_body_that_is_not_as_announced(
    server: ServerProcess, body: bytes, headers: dict[str, str], status: int, said: str
) -> None:
    answer = server.ask("POST", INFER, body, headers)
    assert (answer.status, list(answer.json)) == (status, ["error"])
    assert said in answer.json["error"]


PATHS: dict[str, tuple[str, str, int]] = {
    "nothing": ("GET", "/", 404),
    "an unknown model": ("GET", "/v2/models/nobody", 404),
    "an unknown model's inference": ("POST", "/v2/models/nobody/infer", 404),
    "an unknown version": ("GET", "/v2/models/layers/versions/v7", 404),
    "out of the folder": ("GET", "/v2/models/..", 404),
    "out of the folder, spelt out": ("GET", "/v2/models/%2e%2e%2fetc", 404),
    "a path spelt otherwise": ("GET", "/v2/models/%6cayers", 404),
    "a name that is none": ("POST", "/v2/models/a b/infer".replace(" ", "%20"), 404),
    "an empty name": ("GET", "/v2/models//ready", 404),
    "a slash too many": ("GET", "/v2/models/layers/", 404),
    "another method": ("GET", INFER, 405),
    "a method that nobody knows": ("DELETE", "/v2/models/layers", 405),
}


@pytest.mark.parametrize(("method", "path", "status"), PATHS.values(), ids=PATHS)
def test_a_path_that_is_not_there(
    server: ServerProcess, method: str, path: str, status: int
) -> None:
    body = json.dumps(inputs()).encode() if method == "POST" else None
    answer = server.ask(method, path, body)
    assert answer.status == status
    assert list(answer.json) == ["error"]
    if "unknown model" in answer.json["error"]:
        assert answer.json["error"].startswith("Request for unknown model")
        assert "nobody" not in answer.json["error"]


@pytest.mark.parametrize(
    "sent",
    [
        b"what is this\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"x" * 70_000 + b"\r\n\r\n",
        b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST /v2/models/layers/infer HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
        + b"1\r\n \r\n" * 65_537,
    ],
    ids=["no HTTP", "a header too long", "a path too long", "two lengths", "too many chunks"],
)
def test_what_is_no_request(server: ServerProcess, sent: bytes) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(sent)
        answer = connection.recv(4096)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert server.ask("GET", "/health").status == 200


def test_as_many_chunks_as_are_allowed(server: ServerProcess) -> None:
    body = json.dumps(inputs()).encode()
    pieces = [body[at : at + 1] for at in range(len(body))] + [b" "] * (60_000 - len(body))
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(
            b"POST /v2/models/layers/infer HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
            + b"".join(b"1\r\n" + piece + b"\r\n" for piece in pieces)
            + b"0\r\n\r\n"
        )
        assert connection.recv(4096).startswith(b"HTTP/1.1 200 ")


def test_a_client_that_stalls_and_one_that_goes_away(tmp_path: Path) -> None:
    publish(tmp_path, "echo", "v1", identity("FP32"))
    head = b"POST /v2/models/echo/infer HTTP/1.1\r\nContent-Length: 9\r\n\r\n{"
    with running(tmp_path, REQUEST_TIMEOUT_SEC=0.2) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
            connection.sendall(head)
            answer = connection.recv(4096)
            assert answer.startswith(b"HTTP/1.1 408 ")
            assert b"connection: close" in answer
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
            connection.sendall(head)
        assert server.ask("GET", "/health").status == 200
        assert not [line for line in server.lines if line["level"] == "ERROR"]


def test_a_model_that_breaks_its_word_says_so_only_in_the_log(tmp_path: Path) -> None:
    files = layers()
    told = json.loads(files["model-config.json"])
    told["outputs"][0]["shape"] = [7, 2]
    publish(tmp_path, "liar", "v1", {**files, "model-config.json": json.dumps(told).encode()})
    with running(tmp_path) as server:
        answer = server.infer("liar", X)
        assert (answer.status, answer.json) == (500, {"error": "model liar failed"})
        assert server.ask("GET", "/health/ready").status == 200
        line = server.wait_for("Prediction failed")
        assert "output y is float32 of shape (1, 2)" in line["exception"]
        (told,) = server.ask("GET", "/v2/models/liar/stats").json["model_stats"]
        assert told["inference_stats"]["fail"]["count"] == 1
