"""The stage of pages that move traffic: servers in three regions behind a real Caddy, three
vantages that look twice a second, and a prop in the path:

    region lose NAME      kill -9 its servers
    region return NAME    start them again
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from mlplatform.cli.demo.stage import argv_of, wait_for
from mlplatform.cli.demo.world import Ports, caddy_config
from mlplatform.core.manifest import Manifest
from mlplatform.core.placement import ModelVersion
from tests.responder import RESPONDER

WEIGHTS = {"us-east-1": 50, "eu-west-1": 50, "ap-southeast-1": 0}
VANTAGES = ("frankfurt", "ashburn", "singapore")
RESNET50 = ModelVersion("resnet50", "v1.2.0")

_REGION = """\
#!/bin/sh
set -e
cd {folder}
case $1 in
  lose) kill -9 $(cat $2.pid) ;;
  return) setsid sh $2.server > $2.log 2>&1 < /dev/null & ;;
esac
"""


@contextmanager
def served(folder: Path, environment: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """Prepare a folder that has the three regions and the model of every page; the environment of
    the page's commands."""
    inside = {
        **environment,
        "XDG_CACHE_HOME": str(folder / "cache"),
        "XDG_CONFIG_HOME": str(folder / "config"),
        "XDG_DATA_HOME": str(folder / "data"),
        "PATH": f"{folder / 'bin'}{os.pathsep}{environment['PATH']}",
    }
    ports = Ports.found(list(WEIGHTS))
    _write_topology(folder, ports)
    _write_golden(folder / "resnet50")
    for line in ("publish resnet50 --model resnet50 --version v1.2.0", "replicate resnet50"):
        _run(f"mlplatform {line}", folder, inside, check=True)
    for region, port in ports.regions.items():
        line = _responder(region, port, folder / region)
        (folder / f"{region}.server").write_text(f"echo $$ > {region}.pid\nexec {line}\n")
    (folder / "bin").mkdir()
    (folder / "bin" / "region").write_text(_REGION.format(folder=shlex.quote(str(folder))))
    (folder / "bin" / "region").chmod(0o755)
    (folder / "caddy.json").write_text(json.dumps(caddy_config(ports, WEIGHTS)))
    beside = ["caddy run --config caddy.json --resume"]
    beside += [f"mlplatform probe --vantage {name}" for name in VANTAGES]
    running = []
    try:
        for region in WEIGHTS:
            _run(f"region return {region}", folder, inside, check=True)
        for number, line in enumerate(beside):
            with (folder / f"beside-{number}.log").open("w") as log:
                running.append(
                    subprocess.Popen(argv_of(line), cwd=folder, env=inside, stdout=log, stderr=log)
                )
        if not wait_for(lambda: _is_ready(folder, inside), 60):
            raise TimeoutError("not every region could take every other's traffic in a minute")
        yield inside
    finally:
        for process in running:
            process.kill()
            process.wait()
        for region in WEIGHTS:
            with suppress(OSError, ValueError):
                os.kill(int((folder / f"{region}.pid").read_text()), signal.SIGKILL)


def _run(
    line: str, folder: Path, environment: Mapping[str, str], *, check: bool = False
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", line],
        cwd=folder,
        env=dict(environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=check,
    )


def _is_ready(folder: Path, environment: Mapping[str, str]) -> bool:
    ran = _run("mlplatform failover ready --output json 2> /dev/null", folder, environment)
    time.sleep(0.2)
    return ran.returncode == 0 and all(each["ready"] for each in json.loads(ran.stdout)["ready"])


def _responder(region: str, port: int, store: Path) -> str:
    """A server in the region: its model is made up, which no runtime would load."""
    body = (store / RESNET50.manifest_key).read_bytes()
    digest = Manifest.parse(body, where=region, subject=RESNET50).digest
    model = f"{RESNET50.model}={RESNET50.version}={digest}"
    what = ["--region", region, "--store", str(store), "--model", model]
    return shlex.join([sys.executable, RESPONDER, "--port", str(port), *what])


def _write_topology(folder: Path, ports: Ports) -> None:
    today = datetime.now(UTC).date()
    figure = {
        "measured_on": str(today),
        "expires_on": str(today + timedelta(days=90)),
    }
    door = f"http://127.0.0.1:{ports.front}"
    elsewhere = f"http://127.0.0.1:{ports.elsewhere}"
    topology = {
        "control": [f"file://{folder}/control/{name}" for name in "abc"],
        "regions": {
            region: {"store": f"file://{folder}/{region}", "endpoint": f"http://127.0.0.1:{port}"}
            for region, port in ports.regions.items()
        },
        "models": {
            "resnet50": {
                "version": "v1.2.0",
                "home": "us-east-1",
                "replicate_to": ["eu-west-1", "ap-southeast-1"],
            }
        },
        "traffic": {
            "routes": {
                "api": {
                    "actuator": f"caddy://127.0.0.1:{ports.admin}/api",
                    "front_door": door,
                    "models": ["resnet50"],
                    "weights": WEIGHTS,
                    "peak": {"requests_per_second": 40, **figure},
                }
            },
            "vantages": {name: {"references": elsewhere} for name in VANTAGES},
            "capacity": {
                region: {"resnet50": {"requests_per_second": 60, **figure}} for region in WEIGHTS
            },
            "probe": {
                "interval_seconds": 0.5,
                "timeout_seconds": 3,
                "slow_seconds": 2,  # the machine may have other things to do
                "fall": 3,
                "rise": 3,
            },
            "safety": {
                "hold_off_seconds": 5,
                "cooldown_seconds": 0,
                "step_seconds": 0,
                "failback_steps": [5, 100],
            },
        },
    }
    (folder / "topology.yaml").write_text(json.dumps(topology, indent=2))


def _write_golden(model: Path) -> None:
    inputs = [{"name": "x", "datatype": "FP32", "shape": [2], "data": [1.0, 2.0]}]
    outputs = [{"name": "y", "datatype": "FP32", "shape": [1], "data": [0.5]}]
    golden = {"request": {"inputs": inputs}, "expect": {"outputs": outputs}, "tolerance": 0.001}
    (model / "golden.ndjson").write_text(json.dumps(golden) + "\n")
