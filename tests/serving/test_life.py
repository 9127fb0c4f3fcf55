"""How a server starts, what it says, and how it ends."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mlplatform_serving.settings import Settings, contradictions, without_effect
from tests.real.servers.launch import free_port
from tests.serving.rig import (
    COMMAND,
    ServerProcess,
    environment,
    identity,
    layers,
    publish,
    running,
    started,
)

GIVEN = {"name": "in_FP32", "datatype": "FP32", "shape": [1, 1], "data": [7]}

IMPOSSIBLE: dict[str, dict[str, object]] = {
    "PORT": {"PORT": "http"},
    "PORT too high": {"PORT": 65_536},
    "LOG_LEVEL": {"LOG_LEVEL": "loud"},
    "MODEL_VERSION": {"MODEL_VERSION": "../v1"},
    "MODELS": {"MODELS": "resnet50@"},
    "MAX_INPUT_SIZE_MB": {"MAX_INPUT_SIZE_MB": 0},
    "REQUEST_TIMEOUT_SEC": {"REQUEST_TIMEOUT_SEC": -1},
    "ADMIN_TOKEN_FILE": {"ADMIN_TOKEN_FILE": "/nowhere/token"},
    "HEADER_TIMEOUT_SECONDS": {"HEADER_TIMEOUT_SECONDS": 0},
    "KEEP_ALIVE_SECONDS": {"KEEP_ALIVE_SECONDS": "forever"},
    "MAX_CONNECTIONS": {"MAX_CONNECTIONS": 0},
    "TRACE_SAMPLE_RATE": {"TRACE_SAMPLE_RATE": 1.5},
    "TRACE_SAMPLE_RATE, not a number": {"TRACE_SAMPLE_RATE": "nan"},
    "TLS_KEY_FILE": {"TLS_KEY_FILE": "/nowhere/key"},
    "SHUTDOWN_DELAY_SECONDS": {"SHUTDOWN_DELAY_SECONDS": "inf"},
}


@pytest.mark.parametrize("settings", IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_what_cannot_be_is_refused(settings: dict[str, object]) -> None:
    done = subprocess.run(
        COMMAND,
        env=environment(**settings),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    said = done.stderr.splitlines()[-2:] if "hint:" in done.stderr else done.stderr.splitlines()
    (name,) = settings
    assert said[0].startswith("error: ")
    assert name in said[0] or str(settings[name]) in said[0]


USELESS: dict[str, tuple[dict[str, str], list[str]]] = {
    "nothing": ({"PORT": "8000", "HOME": "/root"}, []),
    "workers": ({"UVICORN_WORKERS": "4", "WEB_CONCURRENCY": "4"}, ["UVICORN", "WEB_CONC"]),
    "another server's": ({"VLLM_GPU_MEMORY_UTILIZATION": "0.85"}, ["VLLM_GPU"]),
    "seeds of hashes": ({"PYTHONHASHSEED": "0"}, ["PYTHONHASHSEED"]),
    "a database": ({"DB_POOL_SIZE": "50"}, ["DB_POOL_SIZE"]),
    "set to nothing": ({"UVICORN_WORKERS": ""}, []),
    "two names of one, that agree": ({"ENV": "staging", "ENVIRONMENT": "staging"}, []),
    "two names of one, that do not": ({"ENV": "a", "ENVIRONMENT": "b"}, ["ENV has no effect"]),
    "two names of a region": ({"REGION": "a", "MLPLATFORM_REGION": "b"}, ["REGION has no effect"]),
    "a sampler of its own": ({"OTEL_TRACES_SAMPLER": "always_on"}, ["OTEL_TRACES_SAMPLER"]),
}


@pytest.mark.parametrize(("environ", "warned"), USELESS.values(), ids=USELESS)
def test_what_no_longer_helps_is_told_once(environ: dict[str, str], warned: list[str]) -> None:
    lines = list(without_effect(environ))
    assert len(lines) == len(warned)
    for line, name in zip(sorted(lines), sorted(warned), strict=True):
        assert line.startswith(name)
        assert " has no effect: " in line


def test_a_version_for_no_model_is_told() -> None:
    (line,) = contradictions(Settings(MODELS="a@v1,b@v2", MODEL_VERSION="v3"))
    assert line.startswith("MODEL_VERSION has no effect")
    assert list(contradictions(Settings(MODELS="a@v1,b", MODEL_VERSION="v3"))) == []


def test_help_names_every_variable() -> None:
    done = subprocess.run(
        [*COMMAND, "--help"], env=environment(), capture_output=True, text=True, check=True
    )
    for name in ("PORT", "ENVIRONMENT, ENV", "MODEL_VERSION", "LOG_LEVEL", "ADMIN_TOKEN_FILE"):
        assert f"  {name}" in done.stdout


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = subprocess.run(
            COMMAND,
            env=environment(
                HOST="127.0.0.1", PORT=taken.getsockname()[1], MODEL_CACHE_DIR=tmp_path
            ),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 1
    assert "address already in use" in done.stderr
    assert "Traceback" not in done.stderr


def test_what_it_says(tmp_path: Path) -> None:
    publish(tmp_path, "layers", "v1", layers())
    told = {"LOG_LEVEL": "info", "ENV": "staging", "UVICORN_WORKERS": 4, "VLLM_USE_V1": 1}
    with running(tmp_path, **told) as server:
        x = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}
        trace = "0af7651916cd43dd8448eb211c80319c"
        body = {"inputs": [x]}
        traced = {"traceparent": f"00-{trace}-b7ad6b7169203331-01"}
        assert server.ask("POST", "/v2/models/layers/infer", body, traced).status == 200
        line = server.wait_for("Request completed")
        assert {"timestamp", "inference_time", "latency_ms"} <= line.keys()
        assert (line["level"], line["model"], line["status"]) == ("INFO", "layers", "success")
        assert line["trace_id"] == trace
        assert {each["environment"] for each in server.lines} == {"staging"}
        for message in (
            "Starting Model Serving Server",
            f"ModelLoader initialized with cache_dir={tmp_path}",
            "model_load: layers@v1 by numpy",
            f"Uvicorn running on http://127.0.0.1:{server.port}",
            "Server startup complete",
            "UVICORN_WORKERS has no effect: one process owns each model",
            "VLLM_USE_V1 has no effect",
        ):
            server.wait_for(message)
        warnings = [each for each in server.lines if each["level"] == "WARNING"]
        assert len(warnings) == 2


def test_a_level_that_says_less(tmp_path: Path) -> None:
    """With WARNING nothing is said of a good day; so its port is given, not read."""
    publish(tmp_path, "echo", "v1", identity("FP32"))
    port = free_port()
    process = subprocess.Popen(
        COMMAND,
        env=environment(HOST="127.0.0.1", PORT=port, MODEL_CACHE_DIR=tmp_path, LOG_LEVEL="Warning"),
        stderr=subprocess.PIPE,
    )
    server = ServerProcess(process, port)
    try:
        _until_it_answers(server)
        assert server.infer("echo", GIVEN).status == 200
        process.terminate()
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert said == b""


def _until_it_answers(server: ServerProcess) -> None:
    def answers() -> bool:
        try:
            return server.ask("GET", "/health/ready").status == 200
        except ConnectionRefusedError:
            return False

    server.until(answers)


def test_metrics_on_a_port_of_their_own(tmp_path: Path) -> None:
    publish(tmp_path, "echo", "v1", identity("FP32"))
    port = free_port()
    with running(tmp_path, PROMETHEUS_PORT=port) as server:
        server.wait_for(f"Uvicorn running on http://127.0.0.1:{port} ")
        assert b"inference_queue_depth" in server.ask("GET", "/metrics", port=port).body
        refused = server.ask("POST", "/v2/models/echo/infer", {"inputs": [GIVEN]}, port=port)
        assert (refused.status, refused.json) == (404, {"error": "only /metrics is here"})


def test_sigterm_ends_what_was_begun(tmp_path: Path) -> None:
    publish(tmp_path, "slow", "v1", identity("FP32", delay_ms=2000))
    with running(tmp_path) as server, ThreadPoolExecutor(3) as pool:
        begun = [pool.submit(server.infer, "slow", GIVEN) for _ in range(3)]
        _until_depth(server, 3)
        assert server.end() == 0
        assert [each.result().status for each in begun] == [200] * 3
        assert {each.result().headers["connection"] for each in begun} == {"close"}
        server.wait_for("Server shutdown complete")
        assert not [line for line in server.lines if line["level"] == "ERROR"]


def test_sigterm_answers_unready_for_as_long_as_it_is_told(tmp_path: Path) -> None:
    publish(tmp_path, "echo", "v1", identity("FP32"))
    with running(tmp_path, SHUTDOWN_DELAY_SECONDS=5) as server:
        server.process.terminate()
        server.wait_for("shutting down")
        assert server.ask("GET", "/health/ready").status == 503
        assert server.infer("echo", GIVEN).status == 200
        assert server.process.wait(60) == 0


def test_a_model_that_hangs_does_not_hold_the_process(tmp_path: Path) -> None:
    publish(tmp_path, "stuck", "v1", identity("FP32", delay_ms=60_000))
    with running(tmp_path, SHUTDOWN_TIMEOUT_SECONDS=0) as server, ThreadPoolExecutor(1) as pool:
        begun = pool.submit(_outcome, server)
        _until_depth(server, 1)
        assert server.end() == 0
        assert begun.result() != 200


def _outcome(server: ServerProcess) -> int:
    try:
        return server.infer("stuck", GIVEN).status
    except OSError:
        return 0


def _until_depth(server: ServerProcess, depth: int) -> None:
    """Until so many inferences wait or run; the metrics say it."""
    server.until(lambda: f" {depth}.0\n" in _depths(server))


def _depths(server: ServerProcess) -> str:
    lines = server.ask("GET", "/metrics").body.decode().splitlines(keepends=True)
    return "".join(line for line in lines if line.startswith("inference_queue_depth{"))


def test_a_full_queue_refuses_and_the_loop_goes_on(tmp_path: Path) -> None:
    publish(tmp_path, "slow", "v1", identity("FP32", delay_ms=2000))
    with running(tmp_path, MAX_QUEUE_SIZE=1) as server, ThreadPoolExecutor(2) as pool:
        begun = [pool.submit(server.infer, "slow", GIVEN) for _ in range(2)]
        _until_depth(server, 2)
        refused = server.infer("slow", GIVEN)
        assert server.ask("GET", "/health").status == 200
        assert [each.result().status for each in begun] == [200, 200]
    assert refused.status == 503
    assert refused.headers["x-mlplatform-refused"] == "queue_requests"
    assert refused.json["error"].startswith("Exceeds maximum queue size: model slow")


def test_replies_go_to_whoever_asked(tmp_path: Path) -> None:
    publish(tmp_path, "echo", "v1", identity("FP32", delay_ms=1))
    wrong: list[Any] = []
    with running(tmp_path) as server:

        def ask(client: int) -> None:
            for number in range(25):
                value = float(client * 1000 + number)
                answer = server.infer("echo", {**GIVEN, "data": [value]}, id=str(value)).json
                if (answer["id"], answer["outputs"][0]["data"]) != (str(value), [value]):
                    wrong.append(answer)

        threads = [threading.Thread(target=ask, args=(client,)) for client in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_probes_are_answered_while_it_starts(tmp_path: Path) -> None:
    """It listens before it has loaded: what it then says is startup's to say, not a refusal."""
    publish(tmp_path, "echo", "v1", identity("FP32"))
    with started(tmp_path) as server:
        assert server.ask("GET", "/health/live").status == 200
        assert server.ask("GET", "/health/startup").status in {200, 503}
        server.wait_for("Server startup complete")
        told = server.ask("GET", "/health/startup").json
        assert (told["started"], told["milestone"], told["loads"]) == (True, "ready", [])
        assert list(told["milestones"]) == ["starting", "loading", "ready"]
        assert server.wait_for("startup: loading after")["milestone"] == "loading"


def test_logs_are_json_when_all_goes_wrong(tmp_path: Path) -> None:
    """Every line is parsed as it is read; here is one with an exception in it."""
    files = layers()
    told = json.loads(files["model-config.json"])
    told["outputs"][0]["shape"] = [7, 2]
    publish(tmp_path, "liar", "v1", {**files, "model-config.json": json.dumps(told).encode()})
    with running(tmp_path) as server:
        server.infer("liar", {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [0] * 4})
        line = server.wait_for("Prediction failed")
        assert line["logger"] == "batch_processor"
        assert line["exception"].startswith("Traceback")
