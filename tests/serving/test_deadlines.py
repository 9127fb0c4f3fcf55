"""Deadlines, priorities, batches and clients that leave, as a client of the server sees them."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.serving.rig import ServerProcess, identity, publish, running

GIVEN = {"name": "in_FP32", "datatype": "FP32", "shape": [1, 1], "data": [7]}
PATH = "/v2/models/{}/infer"


def stats(server: ServerProcess, model: str) -> Any:
    return server.ask("GET", f"/v2/models/{model}/stats").json["model_stats"][0]


def depth(server: ServerProcess, model: str) -> int:
    lines = server.ask("GET", "/metrics").body.decode().splitlines()
    found = [line for line in lines if line.startswith("inference_queue_depth{")]
    return next(int(float(line.split()[-1])) for line in found if f'"{model}"' in line)


def until_depth(server: ServerProcess, model: str, wanted: int) -> None:
    server.until(lambda: depth(server, model) == wanted)


RUNS_MS = 4000
"""Of a batch: all that a test does meanwhile is done by then, on a busy machine, too."""


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    models = tmp_path_factory.mktemp("models")
    for name in ("slow", "left", "crowd"):
        publish(models, name, "v1", identity("FP32", delay_ms=RUNS_MS))
    capped = json.loads(identity("FP32")["model-config.json"])
    for size in (0, 2):
        told = json.dumps({**capped, "max_batch_size": size}).encode()
        publish(models, f"max-{size}", "v1", {"model-config.json": told})
    with running(models) as server:
        yield server


@pytest.mark.parametrize("wrong", ["soon", "0", "-1", "nan", ""])
def test_a_header_that_is_no_time(slow: ServerProcess, wrong: str) -> None:
    headers = {"X-Mlplatform-Timeout-Ms": wrong}
    answer = slow.ask("POST", PATH.format("slow"), {"inputs": [GIVEN]}, headers)
    assert (answer.status, answer.json) == (
        400,
        {"error": "x-mlplatform-timeout-ms is no number of milliseconds above 0"},
    )


@pytest.mark.parametrize("name", ["timeout", "priority"])
@pytest.mark.parametrize("wrong", ["1", -1, 1.5, True, None])
def test_parameters_that_are_no_numbers(slow: ServerProcess, name: str, wrong: object) -> None:
    answer = slow.infer("slow", GIVEN, parameters={name: wrong})
    assert (answer.status, answer.json) == (
        400,
        {"error": f"the parameter {name} is no integer from 0"},
    )


def test_the_shorter_of_header_and_parameter_holds_and_is_kept_while_a_batch_runs(
    slow: ServerProcess,
) -> None:
    body = {"inputs": [GIVEN], "parameters": {"timeout": 500_000, "priority": 1}}
    with ThreadPoolExecutor(1) as pool:
        begun = pool.submit(slow.infer, "slow", GIVEN)
        until_depth(slow, "slow", 1)
        headers = {"X-Mlplatform-Timeout-Ms": "60000"}
        by_parameter = slow.ask("POST", PATH.format("slow"), body, headers)
        headers = {"X-Mlplatform-Timeout-Ms": "500.5"}
        by_header = slow.ask("POST", "/v1/models/slow/predict", {"instances": [[7]]}, headers)
        assert not begun.done()
        assert begun.result().status == 200
    for refused in (by_parameter, by_header):
        assert refused.status == 503
        assert refused.json["error"].startswith("Request timeout expired: model slow")
        assert refused.headers["x-mlplatform-refused"] in {"hopeless", "predicted_late"}


def test_priorities_that_triton_does_not_have_are_the_default(slow: ServerProcess) -> None:
    for priority in (0, 1, 9, 10, 2**40):
        assert slow.infer("max-2", GIVEN, parameters={"priority": priority}).status == 200


def test_a_client_that_goes_away_while_it_waits_is_not_computed(slow: ServerProcess) -> None:
    body = json.dumps({"inputs": [GIVEN]}).encode()
    head = b"POST /v2/models/left/infer HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
    with ThreadPoolExecutor(1) as pool:
        begun = pool.submit(slow.infer, "left", GIVEN)
        until_depth(slow, "left", 1)
        with socket.create_connection(("127.0.0.1", slow.port)) as client:
            client.sendall(head % len(body) + body)
            until_depth(slow, "left", 2)
        until_depth(slow, "left", 1)
        assert not begun.done()
        assert begun.result().status == 200
    told = stats(slow, "left")
    assert (told["gone"], told["inference_count"], told["execution_count"]) == (1, 1, 1)


def test_why_batches_were_formed_is_told(slow: ServerProcess) -> None:
    with ThreadPoolExecutor(9) as pool:
        begun = [pool.submit(slow.infer, "crowd", GIVEN)]
        until_depth(slow, "crowd", 1)
        begun += [
            pool.submit(slow.infer, "crowd", {**GIVEN, "data": [n]}, id=str(n)) for n in range(8)
        ]
        until_depth(slow, "crowd", 9)
        answers = [each.result().json for each in begun]
    for number, answer in enumerate(answers[1:]):
        assert (answer["id"], answer["outputs"][0]["data"]) == (str(number), [number])
    told = stats(slow, "crowd")
    assert (told["inference_count"], told["execution_count"]) == (9, 2)
    assert [each["batch_size"] for each in told["batch_stats"]] == [1, 8]
    assert told["batches"] == {"all": 2}
    metrics = slow.ask("GET", "/metrics").body.decode()
    labels = 'model="crowd",region="",version="v1"'
    assert f'model_serving_batches_total{{because="all",{labels}}} 2.0' in metrics
    assert f"model_serving_batch_size_sum{{{labels}}} 9.0" in metrics


def test_a_size_that_the_model_states_is_enforced(slow: ServerProcess) -> None:
    three = {**GIVEN, "shape": [3, 1], "data": [1, 2, 3]}
    refused = slow.infer("max-2", three)
    assert (refused.status, refused.json) == (
        400,
        {"error": "inference request batch-size must be <= 2 for 'max-2'"},
    )
    assert slow.infer("max-0", three).status == 200
    config = slow.ask("GET", "/v2/models/max-2/config").json
    assert (config["max_batch_size"], config["input"][0]["dims"]) == (2, [-1])
    assert config["dynamic_batching"]["default_queue_policy"]["max_queue_size"] == 256
    config = slow.ask("GET", "/v2/models/max-0/config").json
    assert (config["max_batch_size"], config["input"][0]["dims"]) == (0, [-1, -1])


def test_a_model_that_hangs_is_unready_and_another_answers(tmp_path: Path) -> None:
    publish(tmp_path, "stuck", "v1", identity("FP32", delay_ms=60_000))
    publish(tmp_path, "well", "v1", identity("FP32"))
    with running(tmp_path, BATCH_SECONDS_MAX=1, SHUTDOWN_TIMEOUT_SECONDS=0) as server:
        for _ in range(2):
            refused = server.infer("stuck", GIVEN)
            assert (refused.status, refused.headers["x-mlplatform-refused"]) == (503, "hung")
        assert server.ask("GET", "/health/ready").status == 503
        assert server.ask("GET", "/v2/models/stuck/ready").status == 400
        assert server.ask("GET", "/health/live").status == 200
        assert server.infer("well", GIVEN).status == 200
        assert server.wait_for("model stuck hangs")["level"] == "ERROR"
        assert server.end() == 0


def test_a_fixed_window_is_warned_of_once(tmp_path: Path) -> None:
    publish(tmp_path, "echo", "v1", identity("FP32"))
    with running(tmp_path, BATCH_TIMEOUT_MS=5, MAX_BATCH_SIZE=16) as server:
        assert server.infer("echo", GIVEN).status == 200
        assert stats(server, "echo")["batches"] == {"window": 1}
        server.wait_for("DynamicBatchProcessor initialized: max_batch_size=16, timeout_ms=5")
        warned = [line["message"] for line in server.lines if line["level"] == "WARNING"]
        assert len(warned) == 1
        assert warned[0].startswith("BATCH_TIMEOUT_MS holds answers back")
