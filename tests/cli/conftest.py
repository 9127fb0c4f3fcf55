"""Running command lines as processes, with and without a terminal."""

from __future__ import annotations

import codecs
import os
import pty
import select
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from botocore.session import Session

if TYPE_CHECKING:
    from tests.cli.estate import Estate
    from tests.real.servers.launch import Endpoint

ROOT = Path(__file__).parents[2]
CLEAN = {
    name: value
    for name, value in os.environ.items()
    if name in {"PATH", "HOME", "LANG", "LC_ALL", "VIRTUAL_ENV", "PYTHONDONTWRITEBYTECODE"}
} | {"PYTHONPATH": str(ROOT), "COLUMNS": "100", "TERM": "xterm", "PYTHONFAULTHANDLER": "1"}
PROGRAM = (sys.executable, "-m", "mlplatform.cli.app")
SAMPLE = (sys.executable, "-m", "tests.cli.sample")

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def _run(program: tuple[str, ...], cwd: Path) -> Run:
    def run(
        *arguments: str, env: Mapping[str, str] | None = None, **named: Any
    ) -> subprocess.CompletedProcess[str]:
        settings: dict[str, Any] = {
            "cwd": cwd,
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            **named,
        }
        return subprocess.run(
            [*program, *arguments],
            env={**CLEAN, **(env or {})},
            text=True,
            timeout=60,
            check=False,
            **settings,
        )

    return run


@pytest.fixture
def mlplatform(tmp_path: Path) -> Run:
    """Run `mlplatform` in an empty folder, with no terminal."""
    return _run(PROGRAM, tmp_path)


@pytest.fixture
def sample(tmp_path: Path) -> Run:
    """Run the sample program."""
    return _run(SAMPLE, tmp_path)


@dataclass
class Terminal:
    """A process on a pseudo-terminal; `stdout` apart, if it is not to be the terminal."""

    process: subprocess.Popen[str]
    screen: int
    shown: str = ""
    out: str = field(default="")
    _decoder: codecs.IncrementalDecoder = field(
        default_factory=lambda: codecs.getincrementaldecoder("utf-8")(errors="replace")
    )

    def until(self, text: str, *, seconds: float = 60.0) -> str:
        """Read until `text` is shown."""
        end = time.monotonic() + seconds
        while text not in self.shown:
            if time.monotonic() > end or not self._read():
                raise AssertionError(f"{text!r} was not shown, but {self.shown!r}")
        return self.shown

    def type(self, text: str) -> None:
        os.write(self.screen, text.encode())

    def end(self, *, seconds: float = 60.0) -> int:
        """Read to the end; the exit code."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and self._read():
            pass
        if self.process.stdout is not None:
            self.out = self.process.stdout.read()
        return self.process.wait(timeout=seconds)

    def _read(self) -> bool:
        ended = self.process.poll() is not None  # asked first: what it shows last is read as well
        ready, _, _ = select.select([self.screen], [], [], 0.0 if ended else 0.2)
        if not ready:
            return not ended
        with suppress(OSError):  # how Linux says that the other side is closed
            if chunk := os.read(self.screen, 65536):
                self.shown += self._decoder.decode(chunk)
                return True
        return False


OnTerminal = Callable[..., Terminal]


@pytest.fixture
def on_terminal(tmp_path: Path) -> Iterator[OnTerminal]:
    """Start a program with stdin and stderr on a terminal, and stdout too unless it is piped."""
    started: list[Terminal] = []

    def start(
        *arguments: str,
        program: tuple[str, ...] = SAMPLE,
        env: Mapping[str, str] | None = None,
        pipe_stdout: bool = False,
    ) -> Terminal:
        screen, other = pty.openpty()
        process = subprocess.Popen(
            [*program, *arguments],
            stdin=other,
            stdout=subprocess.PIPE if pipe_stdout else other,
            stderr=other,
            env={**CLEAN, **(env or {})},
            cwd=tmp_path,
            text=True,
            start_new_session=True,
        )
        os.close(other)
        started.append(Terminal(process, screen))
        return started[-1]

    yield start
    for terminal in started:
        terminal.process.kill()
        terminal.process.wait()
        if terminal.process.stdout is not None:
            terminal.process.stdout.close()
        os.close(terminal.screen)


@pytest.fixture
def account(
    estate: Estate, moto: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], Any]:
    """An AWS account that holds nothing yet, as commands find it: its clients by service."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
        estate.env[name] = "test"
    reset = urllib.request.Request(f"{moto.url}/moto-api/reset", method="POST")
    urllib.request.urlopen(reset, timeout=10).close()
    return lambda service: Session().create_client(
        service, region_name="us-east-1", endpoint_url=moto.url
    )
