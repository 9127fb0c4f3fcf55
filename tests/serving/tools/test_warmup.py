"""`warmup` on the real server."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlplatform_serving.models.golden import GoldenRequest
from mlplatform_serving.tools.questions import Served
from mlplatform_serving.tools.warmup import SLOW, WARM, WRONG, main, warm
from tests.serving.rig import ServerProcess, environment, identity, layers, publish, running
from tests.serving.tools.test_warming import RIGHT, golden

SCRIPT = Path(__file__).parents[3] / "serving" / "scripts" / "warmup-models.py"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    publish(folder, "layers", "v1", {**layers(scale=10), "golden.ndjson": golden(*RIGHT)})
    publish(folder, "plain", "v1", identity("FP32"))
    return folder


@pytest.fixture(scope="module")
def cold(models: Path) -> Iterator[ServerProcess]:
    with running(models) as server:
        yield server


def test_the_runbook_s_line_in_the_server_s_own_pod(cold: ServerProcess, models: Path) -> None:
    pod = environment(PORT=cold.port, MODEL_CACHE_DIR=models, WARMUP_TARGET_MS=10_000)
    done = subprocess.run(
        [sys.executable, SCRIPT], env=pod, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first.startswith("layers@v1: warm: the slowest golden request took ")
    assert second == "plain@v1: without golden requests: nothing was asked of it"


@pytest.mark.parametrize(
    ("line", "code", "result"),
    [
        (["--model", "layers"], 0, "warm"),
        (["--model", "layers@v1", "--golden", "wrong.ndjson"], 3, "wrong"),
        (["--model", "plain", "--golden", "wrong.ndjson"], 3, "wrong"),
        (["--model", "layers", "--target-ms", "1e-6", "--timeout", "0.2"], 6, "slow"),
    ],
)
def test_what_comes_of_it(
    cold: ServerProcess,
    models: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    line: list[str],
    code: int,
    result: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("wrong.ndjson").write_bytes(golden(100, 2))
    common = ["--url", cold.url, "--models", str(models), "--output", "json"]
    assert main([*common, *line]) == code
    (told,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert told["result"] == result


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        (["--model", "resnet50"], 1, "resnet50 is not loaded there"),
        (["--url", "http://127.0.0.1:1", "--timeout", "0.1"], 6, "and the time is over"),
        (["--url", "127.0.0.1"], 2, "no http(s) URL"),
        (["--token-file", "/nowhere"], 2, "the token file cannot be read"),
    ],
)
def test_what_cannot_be_warmed(
    cold: ServerProcess,
    capsys: pytest.CaptureFixture[str],
    line: list[str],
    code: int,
    said: str,
) -> None:
    assert main(["--url", cold.url, *line]) == code
    assert said in capsys.readouterr().err


ASK = GoldenRequest({"inputs": []}, ({"data": []},))


@pytest.mark.parametrize(
    ("milliseconds", "wrong", "target_ms", "result", "rounds"),
    [
        ([9, 5, 3], "", 4, WARM, 3),
        ([9, 5, 3], "", None, WARM, 1),
        ([9, 5, 4.5, 4.5], "", 4, SLOW, 4),
        ([9], "value 1 is 2", 4, WRONG, 0),
    ],
)
def test_rounds(
    milliseconds: list[float], wrong: str, target_ms: float | None, result: str, rounds: int
) -> None:
    """Each reading of the clock is followed by one so much later; a third asks for the time."""
    readings, now = [], 0.0
    for each in milliseconds:
        readings += [now, now + each / 1000, now + each / 1000]
        now += each / 1000
    clock = iter(readings)
    told = warm(
        lambda _: wrong,
        Served("m", "v1"),
        [ASK],
        target_ms,
        until=0.0225,
        clock=lambda: next(clock),
    )
    assert (told.result, told.rounds) == (result, rounds)
