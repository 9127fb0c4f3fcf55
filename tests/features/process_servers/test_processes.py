"""Processes: what they are given, how they end, who sees it, and what is left of them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mlplatform.adapters import process_table
from mlplatform.adapters.process_record import ModelRecord, Told
from mlplatform.adapters.processes import open_servers
from mlplatform.core.errors import (
    ContainerMissing,
    Fenced,
    IntegrityError,
    NotFound,
    Unavailable,
    Unsupported,
    UsageError,
)
from mlplatform.core.store_url import StoreURL
from mlplatform.ports.servers import Stuck

from .conftest import Folder, Until, scale


def test_environment(folder: Folder, until: Until) -> None:
    """A server gets what the file says and what is passed, and none of the controller's secrets."""
    folder.writes(
        "env; echo THAT=all; exec sleep 60",
        more='pass = ["GIVEN"]\n[environment]\nREGION = "eu"\nMAX_BATCH_SIZE = 8\nWARMUP = true',
    )
    scale(folder.open(GIVEN="yes", SECRET="no"), 1)
    until(lambda: "THAT=all\n" in folder.log())
    found = dict(line.split("=", 1) for line in folder.log().splitlines())
    found = {name: value for name, value in found.items() if name not in ("PWD", "_", "OLDPWD")}
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    port = str(folder.processes()[0].port)
    assert found == kept | {
        "THAT": "all", "GIVEN": "yes", "REGION": "eu", "MAX_BATCH_SIZE": "8", "WARMUP": "true",
        "MODELS": "m@v1", "HOST": "127.0.0.1", "PORT": port,
    }  # fmt: skip
    assert "yes" not in (folder.path / "servers.json").read_text()


def test_python_is_this_interpreter(folder: Folder, until: Until) -> None:
    text = (folder.path / "server.toml").read_text()
    line = 'command = ["python", "-c", "import sys; print(sys.executable)"]'
    (folder.path / "server.toml").write_text("\n".join([line, *text.splitlines()[1:]]))
    scale(folder.open(), 1)
    until(lambda: folder.log() == f"{sys.executable}\n")


def test_crash_is_told_by_its_controller(folder: Folder, until: Until) -> None:
    """Exit status and last words; it is started again only when it is asked for."""
    folder.writes("echo no such model; exit 7")
    keeper = folder.open()
    scale(keeper, 1)
    until(lambda: keeper.read().groups["v1"].crashes == 1)
    group = keeper.read().groups["v1"]
    assert [(each.state, each.reason) for each in group.ailing] == [
        (Stuck.CRASH, "ended with exit status 7; it said: no such model")
    ]
    scale(keeper, 1)
    until(lambda: keeper.read().groups["v1"].crashes == 2)


def test_exit_status_of_another_controllers_server(until: Until) -> None:
    """While its parent has not asked, the system still knows it; after that nobody does."""
    gone = subprocess.Popen(["sleep", "60"])
    try:
        began = process_table._look(gone.pid)
        assert began is not None
        assert process_table.ended(gone.pid, began.began) is None
        gone.kill()
        until(lambda: process_table.ended(gone.pid, began.began) is not None)
        assert process_table.ended(gone.pid, began.began) == process_table.Ended(-9)
    finally:
        gone.wait()
    assert process_table.ended(gone.pid, began.began) == process_table.Ended(None)


def test_pid_of_somebody_else(folder: Folder) -> None:
    """A number that came back is not our server, and is left alone."""
    keeper = folder.open()
    scale(keeper, 1)
    process = folder.processes()[0]
    assert process_table.ended(process.pid, process.began) is None
    assert process_table.ended(process.pid, "another/1") == process_table.Ended(None)
    process_table.tell(process.pid, "another/1", signal.SIGKILL, "it")
    assert process_table.ended(process.pid, process.began) is None


def test_ps_says_the_same(monkeypatch: pytest.MonkeyPatch, until: Until) -> None:
    """Where there is no /proc."""
    monkeypatch.setattr(process_table, "boot", lambda: "")
    child = subprocess.Popen(["sleep", "60"])
    try:
        seen = process_table._look(child.pid)
        assert seen is not None
        assert seen.began[:3] in ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
        assert process_table.ended(child.pid, seen.began) is None
        child.kill()
        until(lambda: process_table.ended(child.pid, seen.began) is not None)
    finally:
        child.wait()
    assert process_table._look(child.pid) is None


def test_no_zombie_is_left(folder: Folder, until: Until) -> None:
    """Also when nobody reads any more."""
    folder.writes("exit 3")
    scale(folder.open(), 1)
    pid = folder.processes()[0].pid
    until(lambda: not Path(f"/proc/{pid}").exists())


def test_deaf_server(folder: Folder, until: Until) -> None:
    """SIGTERM first; after the grace whoever reads next kills it, also another controller."""
    folder.writes("trap '' TERM; echo up; while :; do sleep 0.05; done", more="grace_seconds = 0.3")
    scale(folder.open(), 1)
    until(lambda: "up" in folder.log())
    told = scale(folder.open(), 0).groups["v1"]
    assert (told.leaving, told.crashes) == (1, 0)
    other = folder.open()
    until(lambda: not other.read().groups)


def test_what_a_server_started_ends_with_it(folder: Folder, until: Until) -> None:
    """A signal reaches its whole session."""
    folder.writes("sleep 60 & echo $!; wait")
    keeper = folder.open()
    scale(keeper, 1)
    until(lambda: folder.log().strip().isdecimal())
    child = int(folder.log())
    scale(keeper, 0)
    until(lambda: not keeper.read().groups)
    until(lambda: (seen := process_table._look(child)) is None or seen.ended is not None)


_DIES_AT_THE_GATE = """
import os, signal, sys
from pathlib import Path
from mlplatform.adapters import process_table
from mlplatform.adapters.local import LocalStore
from mlplatform.adapters.processes import ProcessServers

def die(*args, **options):
    os.kill(os.getpid(), signal.SIGKILL)

put = LocalStore.put
def put_or_die(self, key, body, **options):
    if b'"pid"' in bytes(body) and sys.argv[2] == "before":
        die()
    return put(self, key, body, **options)

LocalStore.put = put_or_die
process_table.Gated.open = die
ProcessServers(Path(sys.argv[1]), "m").scale("v1", 1, digest="", epoch=1, writer="dies")
"""


@pytest.mark.parametrize("when", ["before", "after"])
def test_controller_dies_at_the_gate(folder: Folder, until: Until, when: str) -> None:
    """Between the start and the record, or between the record and the gate: no server runs, none
    is counted as a crash, and the number asked for again is whole."""
    folder.writes("echo up; exec sleep 60")
    dies = [sys.executable, "-c", _DIES_AT_THE_GATE, str(folder.path), when]
    ran = subprocess.run(dies, check=False, capture_output=True, text=True)
    assert ran.returncode == -signal.SIGKILL, ran.stderr
    keeper = folder.open()
    log = folder.path / f"logs/m-v1-{folder.first}.log"
    until(lambda: "never began" in log.read_text())
    assert "up" not in log.read_text()
    if when == "before":
        assert folder.processes() == []
        assert keeper.read().groups == {}
    else:
        until(lambda: keeper.read().groups["v1"].ailing[0].state is Stuck.CRASH)
        assert folder.processes() == []
        group = keeper.read().groups["v1"]
        assert (group.wanted, group.crashes, group.ready) == (1, 0, ())
        assert [each.state for each in group.ailing] == [Stuck.CRASH]
    group = scale(keeper, 1).groups["v1"]
    assert (group.crashes, [each.state for each in group.ailing]) == (0, [Stuck.STARTING])
    until(lambda: "up" in folder.log())


def test_fenced_starts_nothing(folder: Folder) -> None:
    keeper = folder.open()
    scale(keeper, 0, epoch=5)
    with pytest.raises(Fenced):
        scale(keeper, 1, epoch=4)
    assert folder.processes() == []
    assert not (folder.path / "logs").exists()


def test_deposed_while_it_asked(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fence is where the state lies, not where the writer began."""
    keeper, newer = folder.open(), folder.open()
    asked = keeper._ask

    def overtaken(model: ModelRecord) -> dict[int, Told]:
        scale(newer, 1, epoch=2)
        return asked(model)

    monkeypatch.setattr(keeper, "_ask", overtaken)
    with pytest.raises(Fenced):
        scale(keeper, 3, epoch=1)
    assert len(folder.processes()) == 1
    assert newer.read().groups["v1"].wanted == 1


def test_somebody_else_is_quicker(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, until: Until
) -> None:
    """Between our look and our write: what we had at the gate ends there, and we begin again, on
    other ports."""
    folder.writes("echo up; exec sleep 60")
    keeper, other = folder.open(), folder.open()
    scale(keeper, 0)
    put = keeper._store.put

    def late(*args: Any, **options: Any) -> Any:
        monkeypatch.undo()
        scale(other, 1, "v2")
        return put(*args, **options)

    monkeypatch.setattr(keeper._store, "put", late)
    groups = scale(keeper, 1).groups
    assert {version: group.wanted for version, group in groups.items()} == {"v1": 1, "v2": 1}
    by_port = {each.port: each.log for each in folder.processes()}
    assert by_port == {
        folder.first: f"logs/m-v2-{folder.first}.log",
        folder.first + 1: f"logs/m-v1-{folder.first + 1}.log",
    }
    until(lambda: all("up" in (folder.path / log).read_text() for log in by_port.values()))
    until(lambda: "never began" in (folder.path / f"logs/m-v1-{folder.first}.log").read_text())


def test_ports_are_given_in_turn(folder: Folder) -> None:
    """A port that is free again is the last to be used again; one that is taken is left out."""
    folder.writes("sleep 60", ports=4)
    keeper = folder.open()
    first = folder.first
    with socket.create_server(("127.0.0.1", first + 1)):
        scale(keeper, 1)
        scale(keeper, 1, "v2")
        assert [each.port for each in folder.processes()] == [first, first + 2]
        for version, count in (("v1", 0), ("v1", 1)):
            scale(keeper, count, version)
        group = scale(keeper, 3, "v2").groups["v2"]
    ports = {each.port for each in folder.processes() if each.told_seconds is None}
    assert first + 3 in ports
    assert first + 1 not in ports
    assert Stuck.NO_CAPACITY in [each.state for each in group.ailing]
    assert f"no port of {first} to {first + 3} is free" in group.ailing[-1].reason


def test_models_share_a_folder(folder: Folder) -> None:
    """Each has an epoch of its own; no port is given twice."""
    one, other = folder.open("one"), folder.open("other")
    scale(one, 2, epoch=9)
    scale(other, 2, epoch=1)
    assert len({each.port for each in folder.processes()}) == 4
    assert (one.read().epoch, other.read().epoch) == (9, 1)
    assert list(folder.record().models) == ["one", "other"]


def test_old_logs_go(folder: Folder, until: Until) -> None:
    """The newest are kept, and those of servers that are on record."""
    folder.writes("exit 1", more="logs = 2")
    keeper = folder.open()
    for _ in range(6):
        scale(keeper, 1)
        until(lambda: bool(folder.processes()[0].ended or keeper.read().groups["v1"].crashes))
    logs = {path.name for path in (folder.path / "logs").iterdir()}
    assert len(logs) == 3
    assert Path(folder.processes()[0].log).name in logs


def test_servers_of_another_machine(folder: Folder) -> None:
    """They are not ours to judge, nor to start again."""
    keeper = folder.open()
    scale(keeper, 1)
    ours = folder.record()
    path = folder.path / "servers.json"
    path.write_bytes(replace(ours, host="elsewhere", boot="of another").body)
    with pytest.raises(Unsupported, match="run on elsewhere"):
        keeper.read()
    path.write_bytes(replace(ours, boot="of another").body)
    assert keeper.read().groups["v1"].wanted == 1, "this machine, started anew"
    path.write_bytes(ours.body)


def test_server_that_hangs(folder: Folder, until: Until) -> None:
    """It is asked once, with a time-out, and is told from one that is not there."""
    folder.writes("sleep 60", more="ready_seconds = 0.01")
    keeper = open_servers(
        StoreURL.parse(f"processes://{folder.path}?timeout_seconds=1.5", noun="servers"), "m"
    )
    scale(keeper, 1)
    with socket.create_server(("127.0.0.1", folder.processes()[0].port)):
        ailing = keeper.read().groups["v1"].ailing
    assert [each.state for each in ailing] == [Stuck.NOT_READY]
    assert "no answer in time" in ailing[0].reason
    assert "refused" in keeper.read().groups["v1"].ailing[0].reason


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("command = [", "server.toml"),
        ("ports = [1, 2]", "command: Field required"),
        ("command = []\nports = [1, 2]", "command"),
        ('command = ["x"]\nports = [9, 8]', r"ports: \[9, 8\] ends before it begins"),
        ('command = ["x"]\nports = [0, 8]', "ports.0"),
        ('command = ["x"]\nports = [1, 2]\ncomand = 1', "comand"),
        ('command = ["x"]\nports = [1, 2]\nhost = "0.0.0.0"', "every address"),
        ('command = ["x"]\nports = [1, 2]\ngrace_seconds = 0', "grace_seconds"),
        ('command = ["x"]\nports = [1, 2]\n[environment]\nPORT = 1', "PORT is set for each"),
        ('command = ["x"]\nports = [1, 2]\npass = ["MODELS"]', "MODELS is set for each"),
    ],
    ids=["cut", "no command", "empty", "backwards", "port 0", "typo", "wildcard", "no grace",
         "ours", "ours passed"],
)  # fmt: skip
def test_settings_that_cannot_be(folder: Folder, text: str, said: str) -> None:
    (folder.path / "server.toml").write_text(text)
    with pytest.raises(UsageError, match=said):
        folder.open().read()


@pytest.mark.parametrize(
    ("script", "more", "said"),
    [
        ('command = ["no-such-program"]', "", "no-such-program is no program here"),
        ('command = ["./no-such-program"]', "", "no-such-program is no program here"),
        ('command = ["sleep", "60"]', 'pass = ["NOT_SET_ANYWHERE"]', "NOT_SET_ANYWHERE: not set"),
        ('command = ["sleep", "60"]', 'host = "no.such.host.invalid"', "is no address"),
    ],
    ids=["program", "program there", "variable", "host"],
)
def test_what_cannot_be_started(folder: Folder, script: str, more: str, said: str) -> None:
    """Refused by name before anything is started or written."""
    ports = f"ports = [{folder.first}, {folder.last}]"
    (folder.path / "server.toml").write_text(f"{script}\n{ports}\n{more}\n")
    keeper = folder.open()
    with pytest.raises(UsageError, match=said):
        scale(keeper, 1)
    assert keeper.read().groups == {}
    assert keeper.read().epoch == 0


def test_no_folder(tmp_path: Path) -> None:
    gone = Folder(tmp_path)
    (tmp_path / "server.toml").unlink()
    with pytest.raises(NotFound, match=r"no server\.toml") as raised:
        gone.open().read()
    assert "ports = [" in str(raised.value.hint)
    gone.path = tmp_path / "gone"
    with pytest.raises(ContainerMissing, match="no such folder"):
        scale(gone.open(), 1)


def test_record_that_is_damaged(folder: Folder) -> None:
    scale(folder.open(), 1)
    ours = folder.record().body
    (folder.path / "servers.json").write_bytes(ours[:-40])
    with pytest.raises(IntegrityError):
        folder.open().read()
    with pytest.raises(IntegrityError):
        scale(folder.open(), 1)
    (folder.path / "servers.json").write_bytes(ours)


def test_disk_that_refuses(folder: Folder, monkeypatch: pytest.MonkeyPatch, until: Until) -> None:
    """What could not be written down does not run."""
    folder.writes("echo up; exec sleep 60")
    keeper = folder.open()
    scale(keeper, 0)

    def full(*args: object, **options: object) -> None:
        raise Unavailable("no space left")

    monkeypatch.setattr(keeper._store, "put", full)
    with pytest.raises(Unavailable):
        scale(keeper, 1)
    log = folder.path / f"logs/m-v1-{folder.first}.log"
    until(lambda: "never began" in log.read_text())
    assert "up" not in log.read_text()
    assert folder.processes() == []


@pytest.mark.parametrize("text", ["processes://host/folder", "processes:///", "processes://"])
def test_url_of_no_folder(text: str) -> None:
    with pytest.raises(UsageError, match="names no folder"):
        open_servers(StoreURL.parse(text, noun="servers"), "m")


def test_url_option() -> None:
    with pytest.raises(UsageError, match="unknown option"):
        open_servers(StoreURL.parse("processes:///srv?ports=1", noun="servers"), "m")
