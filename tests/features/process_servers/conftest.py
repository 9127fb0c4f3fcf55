"""A folder of servers that are small scripts, for what model servers do not do."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mlplatform.adapters import process_table
from mlplatform.adapters.process_record import Process, Record
from mlplatform.adapters.processes import ProcessServers
from mlplatform.ports.servers import ServersState
from tests.conformance.servers.processes_site import ports_of_this_worker
from tests.waiting import wait_until

Until = Callable[[Callable[[], bool]], None]


class Folder:
    """Where they run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.first, self.last = ports_of_this_worker()
        self.writes("sleep 60")

    def writes(self, script: str, *, more: str = "", ports: int = 20) -> None:
        """`server.toml`, of servers that are this line of shell."""
        (self.path / "server.toml").write_text(
            f'command = ["sh", "-c", {script!r}]\n'
            f"ports = [{self.first}, {self.first + ports - 1}]\n{more}\n"
        )

    def open(self, model: str = "m", **environ: str) -> ProcessServers:
        return ProcessServers(self.path, model, environ={**os.environ, **environ})

    def record(self) -> Record:
        return Record.parse((self.path / "servers.json").read_bytes(), where="servers.json")

    def processes(self) -> list[Process]:
        return list(self.record().processes)

    def log(self, number: int = 0) -> str:
        return (self.path / self.processes()[number].log).read_text()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    made = Folder(tmp_path)
    yield made
    if (tmp_path / "servers.json").exists():
        for each in made.processes():
            process_table.tell(each.pid, each.began, signal.SIGKILL, each.log)


@pytest.fixture
def until() -> Until:
    """Wait until it is so."""

    return wait_until


def scale(
    keeper: ProcessServers, servers: int, version: str = "v1", epoch: int = 1
) -> ServersState:
    return keeper.scale(version, servers, digest="", epoch=epoch, writer="w")
