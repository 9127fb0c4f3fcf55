"""The stand-in for a model server speaks the protocol, and fails as it is told to."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.responder import RESPONDER, Responder, open_server

REQUEST = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [2], "data": [1, 2]}]}
OUTPUT = {"name": "y", "datatype": "FP32", "shape": [1], "data": [0.5]}


class Client:
    """Asks, and tells what came."""

    def __init__(self, port: int) -> None:
        self.port = port

    def ask(self, method: str, path: str, told: object = None) -> tuple[int, dict[str, str], Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request(method, path, json.dumps(told) if told is not None else None)
            answer = connection.getresponse()
            headers = {name.lower(): value for name, value in answer.getheaders()}
            body = answer.read()
            kind = headers.get("content-type")
            return (
                answer.status,
                headers,
                json.loads(body) if kind == "application/json" and body else body,
            )
        finally:
            connection.close()

    def infer(self, told: object = REQUEST) -> tuple[int, Any]:
        status, _, body = self.ask("POST", "/v2/models/m/infer", told)
        return status, body


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    folder = tmp_path / "models/m/v1"
    folder.mkdir(parents=True)
    golden = {"request": REQUEST, "expect": {"outputs": [OUTPUT]}}
    (folder / "golden.ndjson").write_text(json.dumps(golden) + "\n")
    responder = Responder({"m": ("v1", "blake3:aa")}, region="us", store=tmp_path)
    server = open_server(responder)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield Client(server.server_port)
    server.shutdown()
    server.server_close()
    thread.join()


def test_it_speaks_the_protocol(client: Client) -> None:
    for path in ("/health", "/v2/health/live", "/v2/health/ready"):
        status, headers, _ = client.ask("GET", path)
        assert (status, headers["x-mlplatform-region"]) == (200, "us")
    assert client.ask("HEAD", "/health")[0] == 200
    assert client.ask("GET", "/v2/models/m")[2] == {
        "name": "m",
        "versions": ["v1"],
        "digest": "blake3:aa",
    }
    index = {"name": "m", "version": "v1", "digest": "blake3:aa", "state": "READY"}
    assert client.ask("POST", "/v2/repository/index")[2] == {"models": [index]}
    assert client.ask("GET", "/v2/models/other")[0] == 404
    assert client.ask("GET", "/elsewhere")[0] == 404


def test_golden_requests_get_what_they_expect_and_others_a_sum(client: Client) -> None:
    assert client.infer() == (
        200,
        {"model_name": "m", "model_version": "v1", "outputs": [OUTPUT]},
    )
    status, body = client.infer({"inputs": [{"name": "x", "data": [1, 2, 4]}]})
    assert (status, body["outputs"][0]["data"]) == (200, [7.0])
    assert (
        b'model_serving_requests_total{region="us",model="m",version="v1"} 2'
        in client.ask("GET", "/metrics")[2]
    )


def test_it_fails_as_it_is_told_to(client: Client) -> None:
    client.ask("POST", "/admin", {"models": {"m": "wrong"}})
    assert client.infer()[1]["outputs"][0]["data"] == [0.0]
    client.ask("POST", "/admin", {"models": {"m": "error"}})
    assert client.infer()[0] == 500
    client.ask("POST", "/admin", {"models": {"m": "ok"}, "status": 503})
    assert client.infer()[0] == client.ask("GET", "/health")[0] == 503
    client.ask("POST", "/admin", {"status": 0})
    assert client.infer()[0] == 200
    client.ask("POST", "/admin", {"versions": {"m": ["v2", "blake3:bb"]}})
    assert client.infer()[1]["model_version"] == "v2"


def test_a_lame_duck_answers_and_sends_clients_away(client: Client) -> None:
    assert "connection" not in client.ask("GET", "/health")[1]
    client.ask("POST", "/admin", {"lame_duck": True})
    assert client.infer()[0] == 200
    assert client.ask("GET", "/health")[:2][1]["connection"] == "close"
    assert client.ask("GET", "/v2/health/ready")[0] == 503
    assert client.ask("GET", "/v2/health/live")[0] == 200
    client.ask("POST", "/admin", {"lame_duck": False})
    assert client.ask("GET", "/v2/health/ready")[0] == 200


@pytest.mark.parametrize(
    "told", [{"nonsense": 1}, {"delay_seconds": "long"}, {"versions": {"m": ["v2"]}}]
)
def test_it_does_not_guess(client: Client, told: object) -> None:
    assert client.ask("POST", "/admin", told)[0] == 400


def test_as_a_program_it_needs_nothing_and_says_where_it_listens() -> None:
    line = [*(sys.executable, "-I", "-X", "importtime", RESPONDER)]
    with subprocess.Popen(
        [*line, "--port", "0", "--model", "m=v1=blake3:aa"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as program:
        assert program.stdout is not None
        ready, url = program.stdout.readline().split()
        assert ready == "ready"
        assert Client(int(url.rpartition(":")[2])).infer()[0] == 200
        program.terminate()
        _, imported = program.communicate(timeout=20)
    assert program.returncode == 0
    assert "pydantic" not in imported
