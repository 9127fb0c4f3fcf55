"""Sites of processes of this machine: a folder, and real model servers of small models."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlplatform.adapters import process_table
from mlplatform.adapters.process_record import Process, Record
from mlplatform.adapters.processes import ProcessServers, open_servers
from mlplatform.core.store_url import StoreURL
from tests.serving.rig import layers, publish

from .site import Site

MODEL = "layers"
SCALES = {"v1": 2.0, "v2": 3.0}
_PORTS_EACH = 40
_SETTINGS = """\
command = ["python", "-m", "mlplatform_serving"]
ports = [{first}, {last}]
ready_seconds = 60
grace_seconds = 20

[environment]
MODEL_CACHE_DIR = "models"
REGION = "us-east-1"
"""
_DIES = """
import os, signal, sys
from pathlib import Path
from mlplatform.adapters.processes import ProcessServers
folder, model, version, servers, digest, epoch, writer = sys.argv[1:]
keeper = ProcessServers(Path(folder), model)
keeper.scale(version, int(servers), digest=digest, epoch=int(epoch), writer=writer)
os.kill(os.getpid(), signal.SIGKILL)
"""


def ports_of_this_worker() -> tuple[int, int]:
    """Which no other worker tries, below those that the system gives by itself."""
    first = 20_000 + os.getpid() % 250 * _PORTS_EACH
    return first, first + _PORTS_EACH - 1


class ProcessesSite(Site):
    """A folder with its `server.toml`, and what runs by it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._digests = {
            version: publish(folder / "models", MODEL, version, layers(scale))
            for version, scale in SCALES.items()
        }
        first, last = ports_of_this_worker()
        (folder / "server.toml").write_text(_SETTINGS.format(first=first, last=last))
        self._lost: list[Process] = []

    def open(self) -> ProcessServers:
        # However busy the machine is, who answers is heard.
        text = f"processes://{self.folder}?timeout_seconds=30"
        return open_servers(StoreURL.parse(text, noun="servers"), MODEL)

    def digest(self, version: str) -> str:
        return self._digests[version]

    def answers(self, address: str) -> str:
        sent = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 1, 1, 1]}
        client = http.client.HTTPConnection(address, timeout=10)
        try:
            client.request("POST", f"/v2/models/{MODEL}/infer", json.dumps({"inputs": [sent]}))
            answer = json.loads(client.getresponse().read())
        finally:
            client.close()
        scale = answer["outputs"][0]["data"][0] / 4
        return next(version for version, its in SCALES.items() if its == scale)

    def crash(self, address: str) -> None:
        found = next(each for each in self._processes() if each.address == address)
        os.kill(found.pid, signal.SIGKILL)

    def scale_by_one_who_dies(
        self, version: str, servers: int, *, digest: str, epoch: int, writer: str
    ) -> None:
        said = [str(self.folder), MODEL, version, str(servers), digest, str(epoch), writer]
        ran = subprocess.run([sys.executable, "-c", _DIES, *said], check=False)
        assert ran.returncode == -signal.SIGKILL

    @contextmanager
    def unreachable(self) -> Iterator[None]:
        away = self.folder.with_name(f"{self.folder.name}-away")
        self.folder.rename(away)
        yield
        away.rename(self.folder)

    def lose_record(self) -> None:
        self._lost = self._processes()
        (self.folder / "servers.json").unlink()

    def end(self) -> None:
        """All that still run."""
        running = [*self._lost, *self._processes()]
        for each in running:
            process_table.tell(each.pid, each.began, signal.SIGKILL, each.log)
        for each in running:
            while process_table.ended(each.pid, each.began) is None:
                time.sleep(0.01)

    def _processes(self) -> list[Process]:
        try:
            body = (self.folder / "servers.json").read_bytes()
        except FileNotFoundError:
            return []
        return list(Record.parse(body, where="servers.json").processes)


@contextmanager
def processes(folder: Path) -> Iterator[ProcessesSite]:
    """A fresh site in a folder."""
    site = ProcessesSite(folder)
    try:
        yield site
    finally:
        site.end()
