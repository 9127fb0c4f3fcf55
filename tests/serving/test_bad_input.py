"""What no client should send, and what it is told. The server goes on."""

from __future__ import annotations

import json
import socket
import zlib
from pathlib import Path
from typing import Any

import numpy as np
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
    "NaN and the infinities by name": (
        inputs(data=["NaN", 2, 3, 4]),
        "Expected `float`, got `str`",
    ),
    "a number past all": (
        b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,4],"data":[1e999,2,3,4]}]}',
        "out of range",
    ),
    "minus nothing": (
        b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,4],"data":[-,2,3,4]}]}',
        "JSON",
    ),
    "rows of an empty batch": (inputs(shape=[0, 4], data=[[]]), "not 0 elements"),
    "something in an empty batch": (inputs(shape=[0, 4], data=[1]), "not 0 elements"),
    "a shape of no dimensions": (inputs(shape=[], data=[1]), "has the shape [-1, 4]"),
    "a shape of many dimensions": (inputs(shape=[1] * 33), "has the shape [-1, 4]"),
    "a shape that is a word": (inputs(shape="1,4"), "Expected `array`"),
    "no shape": (inputs(shape=...), "missing required field `shape`"),
    "no datatype": (inputs(datatype=...), "missing required field `datatype`"),
    "a datatype that is nothing": (inputs(datatype=None), "Expected `str`"),
    "an input that is a list": ({"inputs": [[X]]}, "Expected `object`"),
    "an id that is a number": ({**inputs(), "id": 7}, "Expected `str`"),
    "parameters that nest": ({**inputs(), "parameters": {"a": {"b": 1}}}, "Expected"),
    "two documents": (json.dumps(inputs()).encode() * 2, "trailing characters"),
    "a byte order mark": (b"\xef\xbb\xbf" + json.dumps(inputs()).encode(), "JSON"),
    "not UTF-8 in a name": (b'{"inputs":[{"name":"\xff"}]}', "JSON"),
    "half of a pair": (b'{"inputs":[{"name":"\\ud800"}]}', "JSON"),
    "a key twice, the last of them wrong": (
        b'{"inputs":[{"name":"x","name":"z","datatype":"FP32","shape":[1,4],"data":[1,2,3,4]}]}',
        "unexpected inference input",
    ),
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
    "one byte too few": (
        json.dumps(sized(16)).encode() + bytes(15),
        {"Inference-Header-Content-Length": str(len(json.dumps(sized(16))))},
        400,
        "there are 15 bytes left",
    ),
    "a size that the shape has not": (
        json.dumps(sized(12)).encode() + bytes(12),
        {"Inference-Header-Content-Length": str(len(json.dumps(sized(12))))},
        400,
        "takes 16",
    ),
    "JSON that ends before its length": (
        json.dumps(sized(16)).encode() + bytes(16),
        {"Inference-Header-Content-Length": str(len(json.dumps(sized(16))) + 1)},
        400,
        "JSON",
    ),
    "two encodings": (b"{}", {"Content-Encoding": "gzip, gzip"}, 400, "none of gzip, deflate"),
    "gzip and more behind it": (
        zlib.compress(b"{}", wbits=31) * 2,
        {"Content-Encoding": "gzip"},
        400,
        "goes on after its end",
    ),
    "deflate without its frame": (
        zlib.compress(b"{}", wbits=-15),
        {"Content-Encoding": "deflate"},
        400,
        "not what its Content-Encoding says",
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


BINARY: dict[str, tuple[str, list[int], bytes, str]] = {
    "a BOOL of 2": ("BOOL", [1, 1], b"\x02", "a BOOL is one byte, 0 or 1"),
    "a BYTES without its length": ("BYTES", [1, 1], b"\x01\0\0", "cannot hold 1 BYTES"),
    "a BYTES past the end": ("BYTES", [1, 1], b"\xff\xff\xff\xff", "longer than what was sent"),
    "a BYTES too many": ("BYTES", [1, 1], b"\0\0\0\0" * 2, "4 bytes after the last of 1"),
    "a BYTES too few": ("BYTES", [1, 2], b"\x04\0\0\0abcd", "cut short"),
    "half a BF16": ("BF16", [1, 1], b"\0", "takes 2"),
    "an FP16 too many": ("FP16", [1, 1], bytes(4), "takes 2"),
    "bytes in an empty batch": ("INT64", [0, 7], bytes(8), "takes 0"),
}


@pytest.mark.parametrize(("datatype", "shape", "data", "said"), BINARY.values(), ids=BINARY)
def test_bytes_that_do_not_fill_their_shape(
    server: ServerProcess, datatype: str, shape: list[int], data: bytes, said: str
) -> None:
    told = {"name": f"in_{datatype}", "datatype": datatype, "shape": shape}
    body = json.dumps({"inputs": [{**told, "parameters": {"binary_data_size": len(data)}}]})
    headers = {"Inference-Header-Content-Length": str(len(body))}
    answer = server.ask(
        "POST", f"/v2/models/echo-{datatype.lower()}/infer", body.encode() + data, headers
    )
    assert (answer.status, list(answer.json)) == (400, ["error"])
    assert said in answer.json["error"]


def test_nothing_is_an_answer_too(server: ServerProcess) -> None:
    """An empty batch is none that is wrong."""
    answer = server.ask("POST", INFER, inputs(shape=[0, 4], data=[]))
    assert (answer.status, answer.json["outputs"][0]["shape"]) == (200, [0, 2])


def test_what_json_has_no_number_for(server: ServerProcess) -> None:
    """NaN and the infinities come in as bytes; they go out as they came, and are null in JSON."""
    data = np.array([[np.nan, np.inf, -np.inf, 1]], np.float32).tobytes()
    told = {"name": "in_FP32", "datatype": "FP32", "shape": [1, 4]}
    given = {**told, "parameters": {"binary_data_size": 16}}
    for binary in (False, True):
        body = {"inputs": [given], "parameters": {"binary_data_output": binary}}
        head = json.dumps(body).encode()
        headers = {"Inference-Header-Content-Length": str(len(head))}
        answer = server.ask("POST", "/v2/models/echo-fp32/infer", head + data, headers)
        assert answer.status == 200
        if binary:
            assert answer.body.endswith(data)
        else:
            assert answer.json["outputs"][0]["data"] == [None, None, None, 1.0]


PREDICT: dict[str, tuple[Any, str]] = {
    "nothing": (b"", "truncated"),
    "no instances": ({}, "missing required field `instances`"),
    "no list": ({"instances": 7}, "Expected `array`"),
    "nested too deep": (b'{"instances":' + b"[" * 101 + b"]" * 101 + b"}", "nests deeper"),
    "another width": ({"instances": [[1, 2, 3]]}, "has the shape [-1, 4]"),
    "ragged": ({"instances": [[1, 2, 3, 4], [1]]}, "no FP32 tensor for x"),
    "words": ({"instances": [["1", "2", "3", "4"]]}, "no FP32 tensor for x"),
    "a hole": ({"instances": [[1, None, 3, 4]]}, "no FP32 tensor for x"),
    "truth": ({"instances": [[True, False, True, True]]}, "no FP32 tensor for x"),
    "an object of another name": ({"instances": [{"z": [1, 2, 3, 4]}]}, "an instance has no x"),
    "past the largest FP32": ({"instances": [[1e39, 0, 0, 0]]}, "no FP32 tensor for x"),
    "past 64 bits": ({"instances": [[2**70, 0, 0, 0]]}, "no FP32 tensor for x"),
}


@pytest.mark.parametrize(("body", "said"), PREDICT.values(), ids=PREDICT)
def test_instances_that_cannot_be_right(server: ServerProcess, body: Any, said: str) -> None:
    answer = server.ask("POST", "/v1/models/layers/predict", body)
    assert (answer.status, list(answer.json)) == (400, ["error"])
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
        b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
        b"GET / HTTP/1.1\r\nX : 1\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: a\0b\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03",
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 40_000 + b"\r\n",
        b"POST /v2/models/layers/infer HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
        + b"1\r\n \r\n" * 65_537,
    ],
    ids=[
        *("no HTTP", "a header too long", "a path too long", "a length and chunks", "two lengths"),
        *("a negative length", "a length past all", "a chunk of no size", "a chunk past all"),
        *("a blank before the colon", "a zero byte", "another HTTP", "TLS", "too many headers"),
        "too many chunks",
    ],
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
