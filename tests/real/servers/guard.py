"""Keeps one server while its owner lives: ``python guard.py SCRATCH PROGRAM ARGUMENT…``.

The owner holds the other end of this process's standard input. When that closes, because the
owner let go, or was killed with nothing left to run its clean-up, the server's whole process group
is ended and its scratch folder removed. Standard library only, to start in a few milliseconds.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading

_MERCY_S = 5.0


def main(scratch: str, argv: list[str]) -> int:
    """Run the server until it ends by itself or the owner is gone; its exit status."""
    server = subprocess.Popen(argv, stdin=subprocess.DEVNULL, process_group=0)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # only after the start: a child inherits it

    def end_with_the_owner() -> None:
        while os.read(0, 1):
            pass
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
                os.killpg(server.pid, number)
                server.wait(_MERCY_S)

    threading.Thread(target=end_with_the_owner, daemon=True).start()
    status = server.wait()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)  # whatever it left behind
    shutil.rmtree(scratch, ignore_errors=True)
    return abs(status)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
