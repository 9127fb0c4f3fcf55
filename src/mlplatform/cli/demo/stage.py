"""Where the story plays: a folder with three regions, the processes in it, and how it is told."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from types import TracebackType
from typing import Self

from mlplatform.cli.session import Session
from mlplatform.core.errors import MlplatformError, UsageError

REGIONS = ("us-east-1", "eu-west-1", "ap-southeast-1")

TOPOLOGY = """\
# Three regions on this disk. In earnest the stores are s3://, gs:// or az://.
control: [
  {control}]
regions:
{regions}
models:
  # tells a file's type from its bytes (Apache-2.0); a server of it takes no GPU
  magika: {{version: v3.3.0, home: us-east-1, replicate_to: [eu-west-1, ap-southeast-1],
    gpus: {{}}}}
  # sentence embeddings, all-MiniLM-L6-v2 (Apache-2.0)
  minilm: {{version: v1.0.0, home: us-east-1, replicate_to: [eu-west-1, ap-southeast-1]}}
"""

START = "start.sh"
_GRACE_SECONDS = 2.0
"""How long a process may take to end when it is told to."""


@dataclass(slots=True)
class Process:
    """A process of the story: as it is typed, and what it has said."""

    line: str
    running: subprocess.Popen[str]
    heard: Callable[[str], None] | None = None
    """Gets what it says, line by line."""
    said: list[str] = field(default_factory=list)

    def has_said(self, text: str) -> bool:
        """Whether a line of it holds the text."""
        return any(text in line for line in list(self.said))

    def kill(self) -> None:
        """`kill -9`."""
        self.running.kill()
        self.running.wait()


@dataclass(slots=True)
class Stage:
    """Where the story plays, and how it is told. Its processes end with it."""

    session: Session
    folder: Path
    step: int = 0
    front_door: str = ""
    """Where clients infer, once servers are there."""
    processes: dict[str, Process] = field(default_factory=dict)
    """By name, those that go on beside the story."""
    _running: list[subprocess.Popen[str]] = field(default_factory=list)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end_processes()

    # What is told.

    def tell(self, text: str) -> None:
        """A paragraph of the story."""
        self.session.console.data(f"\n{text}\n")

    def heading(self, text: str) -> None:
        """The next step."""
        self.step += 1
        self.tell(f"── {self.step}. {text}")

    def run(self, line: str, *, expect: int = 0) -> str:
        """One command, printed as it would be typed, and what it says."""
        console = self.session.console
        console.data(f"\n$ {line}\n")
        code, said = self._ran(line)
        console.data(said)
        if expect:
            console.data(f"(exit code {code})\n")
        if code != expect:
            raise MlplatformError(
                f"demo: `{line}` ended with exit code {code}, expected was {expect}",
                hint="this is a bug; the output above says more",
            )
        return said

    def until(self, line: str, so: Callable[[int, str], bool], *, seconds: float = 60) -> None:
        """Ask in silence, again and again, until its exit code and what it says are so."""
        code, said = -1, ""

        def asked() -> bool:
            nonlocal code, said
            code, said = self._ran(line)
            return so(code, said)

        if not wait_for(asked, seconds):
            raise MlplatformError(f"demo: after {seconds:g} s `{line}` still said:\n{said}")

    def kill_when(self, line: str, reached: Callable[[], bool]) -> bool:
        """Start a command and `kill -9` it once `reached`; False when it finished before."""
        process = subprocess.Popen(
            argv_of(line),
            cwd=self.folder,
            env=self.environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            while process.poll() is None:
                if reached():
                    process.send_signal(signal.SIGKILL)
                    break
                time.sleep(0.0005)
        finally:
            process.wait()
        return process.returncode == -signal.SIGKILL

    def _ran(self, line: str) -> tuple[int, str]:
        ran = self._opened(line)
        said, _ = ran.communicate()
        return ran.returncode, said

    def _opened(self, line: str) -> subprocess.Popen[str]:
        """A process that says everything on one pipe. Ctrl-C reaches it by way of us."""
        with _undisturbed():  # else there may be a process that nobody knows of
            opened = subprocess.Popen(
                argv_of(line),
                cwd=self.folder,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
            self._running = [*(each for each in self._running if each.poll() is None), opened]
        return opened

    # What is there.

    def set_up(self) -> bool:
        """The folders and the topology; False if an earlier chapter has made them."""
        if (self.folder / "topology.yaml").exists():
            return False
        for name in REGIONS:
            (self.folder / name / "store").mkdir(parents=True)
            (self.folder / name / "control").mkdir()
        (self.folder / "topology.yaml").write_text(self.topology())
        return True

    def topology(self, *, endpoints: dict[str, str] | None = None) -> str:
        """What is in `topology.yaml`, but for the traffic."""
        there = endpoints or {}
        regions = []
        for name in REGIONS:
            endpoint = f', endpoint: "{there[name]}"' if name in there else ""
            regions.append(f'  {name}: {{store: "file://{self.store(name)}"{endpoint}}}')
        control = ",\n  ".join(f'"file://{self.folder}/{name}/control"' for name in REGIONS)
        return TOPOLOGY.format(control=control, regions="\n".join(regions))

    def store(self, region: str) -> Path:
        """Where a region keeps its models."""
        return self.folder / region / "store"

    def start(self, name: str, line: str, *, heard: Callable[[str], None] | None = None) -> Process:
        """A process that goes on beside the story."""
        running = self._opened(line)
        process = self.processes[name] = Process(line, running, heard)

        def listen() -> None:
            assert running.stdout is not None  # noqa: S101 - it is a pipe
            for each in running.stdout:
                process.said.append(each.rstrip("\n"))
                if process.heard is not None:
                    process.heard(process.said[-1])

        threading.Thread(target=listen, name=f"mlplatform-demo-{name}", daemon=True).start()
        return process

    def end_processes(self) -> None:
        """End all that still run; a second Ctrl-C does not keep us from it."""
        for pid in self.servers():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for each in self.processes.values():
            each.heard = None
        running = [each for each in self._running if each.poll() is None]
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            for process in running:
                process.terminate()
            deadline = time.monotonic() + _GRACE_SECONDS
            for process in running:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.0, deadline - time.monotonic()))
                if process.poll() is None:
                    process.kill()
                    process.wait()
        finally:
            signal.signal(signal.SIGINT, before)

    def servers(self, region: str = "") -> list[int]:
        """Model servers, which belong to nobody: they run in a folder of ours, of all regions or of
        one."""
        root = (self.folder / region).resolve()
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                folder = (process / "cwd").readlink()
                if folder.name == "servers" and folder.is_relative_to(root):
                    found.append(int(process.name))
        return found

    def how_to_go_on(self) -> str:
        """For `--keep`: what to type, and a script that starts the processes again."""
        lines = [f"cd {self.folder}"]
        if self.processes:
            ours = self.environment().items() - os.environ.items()
            script = [
                "# Everything that ran in the story, until Ctrl-C.",
                *(
                    f"export {name}={shlex.quote(value)}"
                    for name, value in sorted(ours)
                    if name.startswith(("MLPLATFORM_", "XDG_"))
                ),
                f'export PATH="{Path(sys.executable).parent}:$PATH"',
                "trap 'trap - EXIT INT TERM; kill 0' EXIT INT TERM",
                *(f"{process.line} &" for process in self.processes.values()),
                "wait",
            ]
            (self.folder / START).write_text("\n".join(script) + "\n")
            lines += [f"sh {START}    # in a terminal of its own", "mlplatform failover status"]
        lines += ["mlplatform status", "mlplatform --help"]
        return "\n".join(f"    {line}" for line in lines)

    def environment(self) -> dict[str, str]:
        """Of the commands: this topology, caches in this folder, and this screen."""
        environment = {
            **os.environ,
            "MLPLATFORM_TOPOLOGY": str(self.folder / "topology.yaml"),
            "XDG_CACHE_HOME": str(self.folder / "cache"),
            "XDG_CONFIG_HOME": str(self.folder / "config"),
            "XDG_DATA_HOME": str(self.folder / "data"),
        }
        if width := self.session.console.width:
            # What the commands print goes to this screen, by way of us.
            environment |= {"TTY_COMPATIBLE": "1", "COLUMNS": str(width)}
        if self.session.console.colour_out:
            environment["FORCE_COLOR"] = "1"
        return environment


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Ctrl-C and SIGTERM wait until this is over. It must be short."""
    came: list[int] = []
    before = {
        number: signal.signal(number, lambda it, _: came.append(it))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    for each in came:
        signal.raise_signal(each)


def wait_for(so: Callable[[], bool], seconds: float) -> bool:
    """Ask until it is so, at most that long."""
    deadline = time.monotonic() + seconds
    while not so():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def argv_of(line: str) -> list[str]:
    """A line as it is typed, as this machine runs it: our own commands by this interpreter, what
    is set before the program as a shell does it."""
    words = shlex.split(line)
    set_before = list(takewhile(lambda word: "=" in word, words))
    if set_before:
        return [program_named("env"), *set_before, *argv_of(shlex.join(words[len(set_before) :]))]
    program, *rest = words
    if program == "mlplatform":
        return [sys.executable, "-m", "mlplatform.cli.app", *rest]
    if program == "python":
        return [sys.executable, *rest]
    return [program_named(program), *rest]


def program_named(program: str) -> str:
    """Where a program is: beside this interpreter, where packages put theirs, or on the path."""
    beside = Path(sys.executable).parent
    found = shutil.which(program, path=str(beside)) or shutil.which(program)
    if found is None:
        raise UsageError(
            f"the demo needs {program}, and it is not installed",
            hint="make setup, or: pip install 'mlplatform[demo]'",
        )
    return found
