"""The stage of the page that rolls a model out: two regions with real model servers as processes,
each behind a Caddy of its own, and three versions of a real model: one that serves, a good one and
a bad one. A prop in the path:

    clients start     they infer at both regions, fifty times a second each, until the page ends
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from mlplatform.cli.demo.client import Client
from mlplatform.cli.demo.models import (
    beyond_ascii,
    magika,
    magika_again,
    magika_for_ascii,
    requests,
)
from mlplatform.cli.demo.stage import argv_of, wait_for
from mlplatform.cli.demo.world import Ports, entry_config, entry_id, server_settings
from mlplatform.core.placement import ModelVersion

REGIONS = ("eu-west-1", "us-east-1")
SERVES, GOOD, BAD = "v3.3.0", "v3.3.1", "v3.4.0"

_CLIENTS = """\
#!/bin/sh
cd {folder}
setsid {python} -m tests.docs.rolled {urls} > clients.log 2>&1 < /dev/null &
echo $! > clients.pid
"""


@contextmanager
def rolled(folder: Path, environment: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """Prepare a folder in which `magika@v3.3.0` serves in two regions, and the other two versions
    are stored and verified; the environment of the page's commands."""
    root = Path(__file__).parents[2]
    inside = {
        **environment,
        "PATH": f"{folder / 'bin'}{os.pathsep}{environment['PATH']}",
        "PYTHONPATH": str(root),
    }
    ports = Ports.found(REGIONS)
    (folder / "topology.yaml").write_text(json.dumps(_topology(folder, ports), indent=2))
    for version, model in (
        (SERVES, magika(folder)),
        (GOOD, magika_again(folder, GOOD)),
        (BAD, magika_for_ascii(folder, BAD)),
    ):
        _run(f"mlplatform publish {model} --model magika --version {version}", folder, inside)
        _run(f"mlplatform replicate magika@{version}", folder, inside)
    urls = [f"http://127.0.0.1:{port}/v2/models/magika/infer" for port in ports.regions.values()]
    (folder / "bin").mkdir()
    (folder / "bin" / "clients").write_text(
        _CLIENTS.format(
            folder=shlex.quote(str(folder)), python=sys.executable, urls=shlex.join(urls)
        )
    )
    (folder / "bin" / "clients").chmod(0o755)
    running = []
    try:
        for region in REGIONS:
            config = entry_config(ports, region, ModelVersion("magika", SERVES))
            (folder / f"{region}.json").write_text(json.dumps(config))
            (folder / "servers" / region).mkdir(parents=True)
            (folder / "servers" / region / "server.toml").write_text(
                server_settings(ports, region, folder / region)
            )
            line = f"XDG_CONFIG_HOME=caddy/{region} caddy run --config {region}.json --resume"
            with (folder / f"{region}.caddy.log").open("w") as log:
                running.append(
                    subprocess.Popen(argv_of(line), cwd=folder, env=inside, stdout=log, stderr=log)
                )
        _run(f"mlplatform rollout apply magika@{SERVES} --yes", folder, inside)
        yield inside
    finally:
        for process in running:
            process.kill()
            process.wait()
        with suppress(OSError, ValueError):
            os.killpg(int((folder / "clients.pid").read_text()), signal.SIGKILL)
        for path in Path("/proc").glob("[0-9]*/cwd"):
            with suppress(OSError):
                if path.readlink().is_relative_to((folder / "servers").resolve()):
                    os.kill(int(path.parent.name), signal.SIGKILL)


def _topology(folder: Path, ports: Ports) -> dict[str, Any]:
    today = datetime.now(UTC).date()
    known = {"measured_on": str(today), "expires_on": str(today + timedelta(days=90))}
    return {
        "control": f"file://{folder}/control",
        "regions": {
            region: {
                "store": f"file://{folder}/{region}",
                "endpoint": f"http://127.0.0.1:{ports.regions[region]}",
            }
            for region in REGIONS
        },
        "models": {
            "magika": {
                "version": SERVES,
                "home": "us-east-1",
                "replicate_to": ["eu-west-1"],
                "gpus": {},
            }
        },
        "rollout": {
            "strategy": {"weights": [20, 50], "step_seconds": 1},
            "waves": {"bake_seconds": 1},
            "verdict": {
                "metrics": ["errors"],
                "window_seconds": 0.5,
                "slow_seconds": 3,  # a machine that is busy with other tests is no slow model
                "epsilon": 0.05,
                "dispersion": {"errors": {"phi": 1, **known}},
            },
            "models": {
                "magika": {
                    "first_servers": 1,
                    "servers": {r: f"processes://{folder}/servers/{r}" for r in REGIONS},
                    "actuators": {
                        r: f"caddy://127.0.0.1:{ports.entries[r]}/{entry_id(ports, r)}"
                        for r in REGIONS
                    },
                }
            },
        },
    }


def _run(line: str, folder: Path, environment: Mapping[str, str]) -> None:
    ran = subprocess.run(
        ["bash", "-c", line],
        cwd=folder,
        env=dict(environment),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if ran.returncode:
        raise RuntimeError(f"{line}: exit {ran.returncode}:\n{ran.stdout}{ran.stderr}")


def main(urls: list[str]) -> None:
    """Infer at each URL, until killed."""
    asked = requests("magika")
    bodies = [json.dumps(each).encode() for each in (*asked, beyond_ascii(asked[0]))]
    for url in urls:
        Client(url, bodies, 50.0).start()
    wait_for(lambda: False, 3600)


if __name__ == "__main__":
    main(sys.argv[1:])
