"""`tritonclient[http]`, as it comes, in its own environment."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from tests.serving.rig import DATATYPES, environment, running


def test_tritonclient_unchanged(tritonclient: Path, models: Path, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("secret")
    with running(models, ADMIN_TOKEN_FILE=token) as server:
        done = subprocess.run(
            [
                *(
                    str(tritonclient),
                    "-W",
                    "ignore",
                    str(Path(__file__).with_name("triton_script.py")),
                ),
                *(server.url.removeprefix("http://"), "secret"),
            ],
            env=environment(),
            input=" ".join(DATATYPES),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for datatype in DATATYPES:
        assert found.pop(datatype) is True, datatype
    assert found == {
        "live": True,
        "ready": True,
        "model ready": [True, False],
        "server": "mlplatform-serving",
        "metadata": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}],
        "config": [{"name": "y", "data_type": "TYPE_FP32", "dims": [2]}],
        "index": True,
        "stats": "layers",
        "all stats": True,
        "gzip": [[100, 1]],
        "deflate": [[100, 1]],
        "async": [[100, 1]],
        "unknown": ["404", "Request for unknown model: none of that name is loaded"],
        "load refused": [
            "401",
            "401 Unauthorized: this wants a bearer token",
        ],
        "load failed": [
            "400",
            "failed to load 'nobody': Model file not found: the repository has no version of it",
        ],
        "load with files": [
            "400",
            "a model is loaded as it was published: no config and no files",
        ],
        "unloaded": False,
        "loaded": True,
    }
