"""A small platform to type commands at: a folder with a topology, regions on this disk or anywhere,
and a model. Commands run in this process, which is quicker, or as processes of their own."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlplatform import wiring
from mlplatform.cli import app, frame
from mlplatform.control.lease import Lease
from mlplatform.core.topology import Topology
from mlplatform.ports.clock import SystemClock
from tests.cli.conftest import CLEAN, PROGRAM
from tests.real.weather.sites import topology_text

Snapshot = dict[str, bytes]
PUBLISH = ("publish", "model", "--model", "m", "--version", "v1")


@dataclass(frozen=True)
class Ran:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def said(self) -> str:
        """All of it, for assertions that fail."""
        return f"[exit {self.code}]\n{self.out}\n--\n{self.err}"

    def json(self) -> Any:
        """Stdout, which is one document."""
        return json.loads(self.out)

    def lines(self) -> list[Any]:
        """Stdout, which is ndjson."""
        return [json.loads(line) for line in self.out.splitlines()]


@dataclass
class Estate:
    """Three regions in a folder, unless told otherwise, and the model `m@v1`, not published yet."""

    folder: Path
    regions: dict[str, str] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)
    home: str = "us"

    def __post_init__(self) -> None:
        if not self.regions:
            self.regions = {name: self.here(name) for name in ("us", "eu", "ap")}
        self.model.mkdir(parents=True, exist_ok=True)
        (self.model / "config.json").write_text('{"layers": 3}\n')
        (self.model / "weights.bin").write_bytes(bytes(range(256)) * 4096)
        self.write()

    @property
    def model(self) -> Path:
        return self.folder / "model"

    def here(self, name: str) -> str:
        """A store URL in this folder."""
        return f"file://{self.folder}/{name}"

    def write(self, **regions: str) -> None:
        """Write the topology, with these regions besides."""
        self.regions |= regions
        text = topology_text(self.folder / "control", self.regions, home=self.home)
        (self.folder / "topology.yaml").write_text(text)

    def run(self, *arguments: str) -> Ran:
        """Type a command, in this process."""
        out, err = io.StringIO(), io.StringIO()
        with (
            self._standing_there(),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            code = frame.run(app.build(), arguments, prog="mlplatform")
        return Ran(code, out.getvalue(), err.getvalue())

    def good(self, *arguments: str) -> Ran:
        """Type a command that has to work."""
        ran = self.run(*arguments)
        assert ran.code == 0, ran.said
        return ran

    def start(self, *arguments: str, **named: Any) -> subprocess.Popen[str]:
        """Start a command as a process."""
        settings: dict[str, Any] = {
            "cwd": self.folder,
            "env": {**CLEAN, **self.env, **named.pop("env", {})},
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "text": True,
            "start_new_session": True,
            **named,
        }
        return subprocess.Popen([*settings.pop("program", PROGRAM), *arguments], **settings)

    def process(self, *arguments: str, **named: Any) -> Ran:
        """Type a command, as a process."""
        with self.start(*arguments, **named) as process:
            try:
                out, err = process.communicate(timeout=90)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        return Ran(process.returncode, out or "", err or "")

    @contextlib.contextmanager
    def _standing_there(self) -> Iterator[None]:
        before, folder = dict(os.environ), Path.cwd()
        for name in [name for name in os.environ if name.startswith(("MLPLATFORM_", "AWS_"))]:
            del os.environ[name]
        os.environ.update(self.env)
        os.chdir(self.folder)
        try:
            yield
        finally:
            os.chdir(folder)
            os.environ.clear()
            os.environ.update(before)

    def snapshot(self, *regions: str) -> Snapshot:
        """Every file of the regions on this disk but for locks, to show that nothing was lost."""
        found: Snapshot = {}
        for region in regions or self.regions:
            for path in sorted((self.folder / region).rglob("*")):
                if path.is_file() and ".mlplatform/locks" not in str(path):
                    found[str(path.relative_to(self.folder))] = path.read_bytes()
        return found


PYTHON = (sys.executable, "-c")


def wrapped(preparation: str) -> tuple[str, ...]:
    """`mlplatform`, as a process in which something is not as usual."""
    return (*PYTHON, f"{preparation}\nfrom mlplatform.cli.app import main\nmain()")


def without_privilege() -> None:
    """For a process about to start: files' permissions hold for it even if it is root's."""
    if os.geteuid() != 0:
        return
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        if libc.prctl(24, capability, 0, 0, 0):  # PR_CAPBSET_DROP
            raise OSError(ctypes.get_errno(), "a capability could not be dropped")


def environment(*, home: Path, **more: str) -> Mapping[str, str]:
    """Another machine's: another home."""
    return {"HOME": str(home), **more}


def require(ran: Ran, code: int, *texts: str, hint: bool = True) -> None:
    """The exit code, what is said, and what to try. Nothing that only developers read."""
    assert ran.code == code, ran.said
    words = " ".join((ran.out + ran.err).split())
    for text in texts:
        assert text in words, f"{text!r} is not said: {ran.said}"
    assert ("\nhint: " in f"\n{ran.err}") or not hint, f"no hint: {ran.said}"
    assert "Traceback" not in ran.err, ran.said
    assert "internal error" not in ran.err, ran.said


@contextlib.contextmanager
def somebody_at_work(estate: Estate, *, alive: bool = True, clock: Any = None) -> Iterator[Lease]:
    """Another process holds the version's lease."""
    topology = Topology.load(estate.folder / "topology.yaml")
    clock = clock or SystemClock()
    lease = Lease(
        wiring.open_control(topology, clock, random.Random()),
        "replication/m/v1",
        holder="alice@laptop:42",
        clock=clock,
        random=random.Random(),
        term_seconds=20.0 if alive else 2.0,  # however busy the machine, it is renewed in time
    )
    lease.acquire()
    if not alive:
        yield lease
        return
    with lease.keep():
        yield lease
    lease.release()
