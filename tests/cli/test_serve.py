"""`mlplatform serve` is the model server's own process."""

from __future__ import annotations

import http.client
import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import CLEAN, PROGRAM, Run
from tests.serving.rig import layers, publish
from tests.serving.tools.models import dense, golden_line

SETTINGS = {**CLEAN, "HOST": "127.0.0.1", "PORT": "0", "WARMUP": "true"}


def answered(process: subprocess.Popen[str], path: str, body: Any = None) -> Any:
    """What the server says that this process has become, once it has started."""
    assert process.stderr is not None
    port = 0
    for line in process.stderr:
        message = json.loads(line)["message"]
        if found := re.search(r"running on http://127.0.0.1:(\d+)", message):
            port = int(found[1])
        if message == "Server startup complete":
            break
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET" if body is None else "POST", path, body and json.dumps(body))
    told = json.loads(connection.getresponse().read())
    connection.close()
    return told


@pytest.mark.parametrize("how", ["a file", "a published version"])
def test_it_serves_what_is_named_until_it_is_told_to_stop(tmp_path: Path, how: str) -> None:
    (tmp_path / "dense net.onnx").write_bytes(dense())
    (tmp_path / "golden.ndjson").write_bytes(golden_line([0, 0, 0, 0], [0, 0, 0]))
    publish(tmp_path / "models", "layers", "v1", layers())
    publish(tmp_path / "models", "layers", "v2", layers(scale=2))
    named = "dense net.onnx" if how == "a file" else "layers@v1"
    with subprocess.Popen(
        [*PROGRAM, "serve", "--model", named],
        cwd=tmp_path,
        env={**SETTINGS, "MODEL_CACHE_DIR": "models"},
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        index = answered(process, "/v2/repository/index", {"ready": True})
        served = [(each["name"], each["version"]) for each in index]
        assert served == [("dense-net", "local") if how == "a file" else ("layers", "v1")]
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def test_a_file_and_a_published_version_at_once(tmp_path: Path, mlplatform: Run) -> None:
    (tmp_path / "dense.onnx").write_bytes(dense())
    ran = mlplatform("serve", "--model", "dense.onnx", "--model", "layers")
    assert ran.returncode == 2
    assert "files, or published models, but not both" in ran.stderr


@pytest.mark.parametrize(
    ("line", "said"), [(["--model", "no/file.onnx"], "MODELS"), ([], "PORT: ")]
)
def test_the_server_s_own_words_and_exit_code(mlplatform: Run, line: list[str], said: str) -> None:
    ran = mlplatform("serve", *line, env={"PORT": "http"} if not line else {})
    assert ran.returncode == 2
    assert ran.stderr.startswith(f"error: {said}")


def test_where_the_server_is_not_installed(tmp_path: Path) -> None:
    program = (
        "import importlib.util as util\nfind = util.find_spec\n"
        "util.find_spec = lambda name, *more: (\n"
        "    None if name == 'mlplatform_serving' else find(name, *more))\n"
        "from mlplatform.cli import app\napp.main()\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program, "serve"],
        cwd=tmp_path,
        env=CLEAN,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 2
    assert ran.stderr.splitlines() == [
        "error: the model server is not installed here; it is a distribution of its own",
        "hint: pip install 'mlplatform-serving[onnx,stores]'",
    ]
