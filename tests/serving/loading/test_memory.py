"""A server's memory, as the system states it: given back when a model is unloaded, refused before
it is full, and told to whoever restarts pods."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from mlplatform_serving.memory import host
from tests.serving.rig import ServerProcess, identity, publish, running, tensor

MIB = 2**20
REPOSITORY = Path(__file__).parents[3]
GIVEN = {"name": "in_FP32", "datatype": "FP32", "shape": [1, 1], "data": [7]}
pytestmark = pytest.mark.skipif(host.resident_bytes() is None, reason="no /proc here")


def large(mib: int) -> dict[str, bytes]:
    """A layer of so many MiB."""
    rows = mib * MIB // 4 // 1024
    told = {
        "backend": "numpy",
        "inputs": [tensor("x", "FP32", -1, 1024)],
        "outputs": [tensor("y", "FP32", -1, rows)],
        "parameters": {"layers": [{"weight": "w"}]},
    }
    weight = np.ones((rows, 1024), np.float32)
    return {
        "model-config.json": json.dumps(told).encode(),
        "model.safetensors": save({"w": weight}),
    }


def metric(server: ServerProcess, name: str) -> float:
    lines = server.ask("GET", "/metrics").body.decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


class Admin:
    """Who may load and unload."""

    def __init__(self, folder: Path) -> None:
        self.token = folder / "token"
        self.token.write_text("secret")

    def post(self, server: ServerProcess, path: str, **parameters: Any) -> int:
        headers = {"Authorization": "Bearer secret"}
        return server.ask("POST", path, {"parameters": parameters}, headers).status


def test_unloading_gives_memory_back_and_says_how_much(tmp_path: Path) -> None:
    admin = Admin(tmp_path)
    publish(tmp_path / "models", "large", "v1", large(96))
    with running(tmp_path / "models", ADMIN_TOKEN_FILE=admin.token) as server:
        loaded = metric(server, "process_resident_memory_bytes")
        assert metric(server, 'model_serving_model_memory_bytes{memory="host"') >= 96 * MIB
        assert admin.post(server, "/v1/models/large/unload") == 200
        line = server.wait_for("model_unload: large@v1")
        assert line["freed_bytes"] > 90 * MIB
        assert loaded - metric(server, "process_resident_memory_bytes") > 90 * MIB
        assert metric(server, "model_unload_freed_bytes_total") > 90 * MIB
        assert metric(server, "model_serving_model_memory_bytes") == 0


def test_a_budget_pins_and_loading_again(tmp_path: Path) -> None:
    admin = Admin(tmp_path)
    for name in ("one", "two", "three"):
        publish(tmp_path / "models", name, "v1", large(32))
    settings = {
        "ADMIN_TOKEN_FILE": admin.token,
        "MODEL_MEMORY_MB": 85,
        "EVICT_AFTER_IDLE_SECONDS": 0,
        "PINNED_MODELS": "one",
        "MODELS": "one,two",
    }
    given = {"name": "x", "datatype": "FP32", "shape": [1, 1024], "data": [0] * 1024}
    with running(tmp_path / "models", **settings) as server:
        assert admin.post(server, "/v2/repository/models/three/load") == 200
        index = {each["name"]: each for each in server.ask("GET", "/v2/repository/index").json}
        assert [index[name]["state"] for name in ("one", "two", "three")] == [
            "READY",
            "UNAVAILABLE",
            "READY",
        ]
        assert index["two"]["reason"].startswith("evicted: to make room for three@v1")
        assert server.ask("GET", "/health/ready").status == 200
        assert server.infer("two", given).status == 200
        assert server.infer("three", given).status == 200
        assert metric(server, "model_evictions_total") == 3
        assert admin.post(server, "/v2/repository/models/three/pin") == 200
        refused = server.infer("two", given)
        assert refused.status == 503
        assert "2 pinned stay" in refused.json["error"]
        assert int(refused.headers["retry-after"]) > 0
        assert admin.post(server, "/v2/repository/models/one/unpin") == 200
        assert admin.post(server, "/v2/repository/models/nobody/pin") == 404


def test_what_would_fill_memory_is_not_loaded(tmp_path: Path) -> None:
    admin = Admin(tmp_path)
    models = tmp_path / "models"
    publish(models, "echo", "v1", identity("FP32"))
    publish(models, "large", "v1", large(128))
    with running(models, MODELS="echo") as server:
        alone = metric(server, "process_resident_memory_bytes") / MIB
    settings = {
        "ADMIN_TOKEN_FILE": admin.token,
        "MODELS": "echo",
        "MEMORY_LIMIT_MB": int(alone + 128),  # of which 95 % may be used
    }
    with running(models, **settings) as server:
        assert admin.post(server, "/v2/repository/models/large/load") == 503
        assert "are lacking" in server.wait_for("Model failed to load: large@v1")["message"]
        assert server.infer("echo", GIVEN).status == 200
        assert server.ask("GET", "/health/live").status == 200


def test_above_its_limit_it_is_not_alive_and_does_no_work(tmp_path: Path) -> None:
    publish(tmp_path, "echo", "v1", identity("FP32"))
    with running(tmp_path, MEMORY_LIMIT_MB=8, MODELS="echo") as server:
        for path in ("/health/live", "/v2/health/live", "/health"):
            dead = server.ask("GET", path)
            assert (dead.status, "MEMORY_LIMIT_MB is 8" in dead.json["status"]) == (503, True)
        refused = server.infer("echo", GIVEN)
        assert refused.status == 503
        assert metric(server, 'model_serving_memory_breaker_open{memory="host"}') == 1


@pytest.mark.slow
def test_loading_and_unloading_leaves_nothing_behind() -> None:
    """Two thousand are the benchmark `serving_memory`; a leak of 20 KB a cycle shows in these."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.serving.loading.cycles", "400"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=600,
        check=True,
    )
    told = json.loads(done.stdout)
    assert told["after_last_bytes"] <= told["after_base_bytes"] + 5e6
