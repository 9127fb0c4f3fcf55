"""Processes of this machine: started so that none runs unrecorded, and told from others that get
the same number later.

**Who is who.** A process is its pid and when it began, which no later process of that pid shares:
`/proc/PID/stat` (proc(5), fields 3, 22 and 52) beside the boot's id; where there is no `/proc`,
what POSIX `ps` says. One that has ended and waits for its parent to ask is a process no more.

**The gate.** A process begins as a shell that waits for one line on its standard input and then
becomes the program, same pid and beginning. Whoever starts it writes down who it is, and opens the
gate after that; who dies in between closes the gate by dying, and the shell ends.

Each is a session of its own, so that neither Ctrl-C in a terminal nor the end of whoever started it
reaches it. A thread waits for each, so that none stays behind as a zombie.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import BinaryIO

from mlplatform.core.errors import Denied, Unavailable

_PROC = Path("/proc")
_GATE = (
    'read -r go || { echo "$$ never began: whoever started it ended first"; exit 1; }; '
    'exec "$@" < /dev/null'
)
_STATUS_SECONDS = 5.0
"""How long the thread that waits for a child may need to say how it ended."""


@dataclass(frozen=True, slots=True)
class Ended:
    """It is a process no more."""

    status: int | None = None
    """Its exit status; −N: ended by signal N. None: only its parent could have seen it."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """A process with some pid."""

    began: str
    ended: Ended | None = None


@dataclass(frozen=True, slots=True)
class _Child:
    began: str
    process: subprocess.Popen[bytes]
    waiting: threading.Thread


_children: dict[int, _Child] = {}
"""Ours, by pid. They stay here when they have ended, for whoever asks how."""


@cache
def boot() -> str:
    """Which start of this machine it is; empty where the system does not say."""
    try:
        return (_PROC / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def ended(pid: int, began: str) -> Ended | None:
    """How a process ended; None while it runs."""
    seen = _look(pid)
    if seen is not None and seen.began == began and seen.ended is None:
        return None
    child = _children.get(pid)
    if child is not None and child.began == began:
        child.waiting.join(_STATUS_SECONDS)
        return Ended(child.process.returncode)
    return seen.ended if seen is not None and seen.began == began and seen.ended else Ended()


def check_ours(pid: int, what: str) -> None:
    """`Denied` where this user may not signal it."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        pass
    except PermissionError as error:
        raise Denied(
            f"no right to signal process {pid} ({what})",
            right="signal",
            hint="it was started by another user: run as that one",
        ) from error


def tell(pid: int, began: str, number: signal.Signals, what: str) -> None:
    """Signal it and what it has started; nothing where it has ended. `Denied` as above."""
    if ended(pid, began) is not None:
        return
    check_ours(pid, what)
    with suppress(ProcessLookupError):
        os.killpg(pid, number)


class Gated:
    """A process that waits at its gate."""

    def __init__(
        self, argv: Sequence[str], *, environment: Mapping[str, str], folder: Path, log: BinaryIO
    ) -> None:
        """`argv[0]` is a path. `Unavailable` where the machine has no room for one more."""
        try:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", _GATE, "sh", *argv],
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=dict(environment),
                cwd=folder,
                start_new_session=True,
            )
        except OSError as error:
            raise Unavailable(f"no process can be started: {error}", store=str(folder)) from error
        self.pid = self._process.pid
        waiting = threading.Thread(
            target=self._process.wait, name=f"mlplatform-waits-for-{self.pid}", daemon=True
        )
        seen = _look(self.pid)
        waiting.start()
        if seen is None:
            self.abandon()
            raise Unavailable(f"process {self.pid} is not to be seen", store=str(folder))
        self.began = seen.began
        _children[self.pid] = _Child(self.began, self._process, waiting)

    def open(self) -> None:
        """Let it be the program."""
        with suppress(BrokenPipeError):  # it was ended meanwhile, which whoever reads will see
            self._gate.write(b"\n")
        self._gate.close()

    def abandon(self) -> None:
        """Let it end."""
        self._gate.close()

    @property
    def _gate(self) -> BinaryIO:
        gate = self._process.stdin
        assert gate is not None  # noqa: S101 - it is a pipe
        return gate  # type: ignore[return-value]


def never_began(pid: int, said: str) -> bool:
    """Whether what a process said is that its gate was never opened."""
    return any(line.startswith(f"{pid} never began") for line in said.splitlines())


def _look(pid: int) -> _Seen | None:
    """Whoever has that pid."""
    return _look_in_proc(pid) if boot() else _look_by_ps(pid)


def _look_in_proc(pid: int) -> _Seen | None:
    try:
        text = (_PROC / str(pid) / "stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The second field is the program's name in parentheses, which may hold anything.
    fields = text.rpartition(b")")[2].split()
    state, ticks, code = fields[0], fields[19], int(fields[49])
    gone = Ended(os.waitstatus_to_exitcode(code)) if state in (b"Z", b"X") else None
    return _Seen(f"{boot()}/{ticks.decode()}", gone)


def _look_by_ps(pid: int) -> _Seen | None:
    # In a language and a zone that do not change between two who look.
    fixed = {**os.environ, "LC_ALL": "C", "TZ": "UTC0"}
    argv = ["ps", "-o", "stat=,lstart=", "-p", str(pid)]
    said = subprocess.run(argv, env=fixed, capture_output=True, text=True, check=False).stdout
    state, *began = said.split()[:6] or [""]
    if not began:
        return None
    return _Seen(" ".join(began), Ended() if state.startswith("Z") else None)
