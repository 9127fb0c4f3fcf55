"""Reading old checkpoints: what the reading process can no longer do, what is taken for weights,
and what becomes of a reader that a checkpoint has turned. PyTorch itself reads in
test_checkpoints_torch.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save

from mlplatform_serving.tools.checkpoints import to_safetensors
from mlplatform_serving.tools.errors import TooLate, ToolError
from mlplatform_serving.tools.weights import NotWeights, find_weights

FORBIDDEN: dict[str, str] = {
    "a file": "open('{folder}/new', 'w')",
    "a file that is there": "open('{folder}/there', 'r+')",
    "adding to a file": "open('{folder}/there', 'a')",
    "emptying a file": "os.truncate('{folder}/there', 0)",
    "removing a file": "os.unlink('{folder}/there')",
    "renaming a file": "os.rename('{folder}/there', '{folder}/elsewhere')",
    "a link": "os.symlink('{folder}/there', '{folder}/link')",
    "a folder": "os.mkdir('{folder}/folder')",
    "a file's mode": "os.chmod('{folder}/there', 0o777)",
    "a file's time": "os.utime('{folder}/there')",
    "a program": "os.execv('/bin/sh', ['sh', '-c', 'echo out > {folder}/new'])",
    "a shell": "subprocess.run(['/bin/sh', '-c', 'true'])",
    "a process": "os.fork()",
    "a TCP connection": "socket.create_connection(('127.0.0.1', 9), 1)",
    "a datagram": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
    "a local socket": "socket.socket(socket.AF_UNIX)",
    "a pair of sockets": "socket.socketpair()",
    "a listener": "socket.create_server(('127.0.0.1', 0))",
    "a signal to its parent": "os.kill(os.getppid(), 0)",
    "another process's memory": "ctypes.CDLL(None, use_errno=True).ptrace(16, os.getppid()) and "
    "(_ for _ in ()).throw(OSError(ctypes.get_errno(), 'ptrace'))",
    "from another thread": "in_a_thread(lambda: open('{folder}/new', 'w'))",
}
PROGRAM = """\
import ctypes, os, socket, subprocess, threading
from mlplatform_serving.tools.confined import confine

def in_a_thread(work):
    failed = []
    def run():
        try:
            work()
        except OSError as error:
            failed.append(error)
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    raise failed[0]

confine()
try:
    {attempt}
except PermissionError as error:
    print("refused")
"""


@pytest.mark.parametrize("attempt", FORBIDDEN.values(), ids=FORBIDDEN)
def test_a_confined_process_cannot(tmp_path: Path, attempt: str) -> None:
    (tmp_path / "there").write_text("it")
    program = PROGRAM.format(attempt=attempt.format(folder=tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.returncode) == ("refused\n", 0), done.stderr
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"there": "it"}


def test_a_confined_process_can_still_compute_read_and_answer(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("it")
    program = (
        "import threading\nfrom mlplatform_serving.tools.confined import confine\n"
        "used = confine()\nimport numpy\nassert (numpy.ones((99, 99)) @ numpy.ones(99)).sum()\n"
        "thread = threading.Thread(target=print, args=[used])\nthread.start()\nthread.join()\n"
        f"print(open('{tmp_path}/there').read())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert "'seccomp']" in done.stdout, done.stderr
    assert done.stdout.endswith("it\n")


def test_what_was_not_refused_is_found_out() -> None:
    program = (
        "from mlplatform_serving.tools.confined import NotConfined, prove\n"
        "try:\n    prove()\nexcept NotConfined as error:\n    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "sending over the network was not refused\n"


# --------------------------------------------------------------------------------- what are weights

ONE, TWO = np.ones(1), np.ones(2)


@pytest.mark.parametrize(
    ("loaded", "names", "left_out"),
    [
        ({"fc.weight": ONE, "fc.bias": TWO}, {"fc.weight", "fc.bias"}, ()),
        ({"state_dict": {"w": ONE}, "epoch": 3, "optimizer": {}}, {"w"}, ("epoch", "optimizer")),
        ({"model": {"w": ONE}, "args": object()}, {"w"}, ("args",)),
        ({"model": ONE, "net": TWO}, {"model", "net"}, ()),
    ],
)
def test_weights(loaded: Any, names: set[str], left_out: tuple[str, ...]) -> None:
    found = find_weights(loaded, lambda each: isinstance(each, np.ndarray))
    assert (set(found.tensors), found.left_out) == (names, left_out)


@pytest.mark.parametrize(
    ("loaded", "said"),
    [
        ([ONE], "it is a list, not tensors by name"),
        (ONE, "it is a ndarray, not tensors by name"),
        ({}, "it is empty"),
        ({"state_dict": {}}, "its state_dict is empty"),
        ({"epoch": 3}, "it has 'epoch', which is a int, no tensor"),
        ({"model": {"w": ONE, "n": 1}}, "its model has 'n', which is a int, no tensor"),
        ({1: ONE}, "it has a int for a name"),
    ],
)
def test_no_weights(loaded: object, said: str) -> None:
    with pytest.raises(NotWeights) as refused:
        find_weights(loaded, lambda each: isinstance(each, np.ndarray))
    assert str(refused.value) == said


# ------------------------------------------------------------------------- a reader that was turned

HEAD = (
    "import json, struct, sys, time\n"
    "def head(**told):\n"
    "    body = json.dumps(told).encode()\n"
    "    sys.stdout.buffer.write(struct.pack('<Q', len(body)) + body)\n"
    "    sys.stdout.flush()\n"
)
TURNED: dict[str, tuple[str, type[ToolError], str]] = {
    "says nothing": ("", ToolError, "died of it"),
    "dies": ("sys.exit(9)", ToolError, "died of it"),
    "is killed": ("import os; os.kill(os.getpid(), 11)", ToolError, "died of it"),
    "babbles": ("sys.stdout.write('x' * 4096)", ToolError, "died of it"),
    "heads no object": ("sys.stdout.buffer.write(struct.pack('<Q', 2) + b'[]')", ToolError, "died"),
    "refuses": ("head(error='no')", ToolError, "refused: no"),
    "refuses at length": ("head(error='no' * 9999)", ToolError, "refused: nono"),
    "sends no safetensors": ("head(); sys.stdout.write('junk')", ToolError, "no safetensors file"),
    "sends nothing more": ("head()", ToolError, "no safetensors file"),
    "sends without end": (
        "head()\nwhile True: sys.stdout.buffer.write(bytes(2**20))",
        ToolError,
        "which no weights are",
    ),
    "dies in the middle": ("head(); sys.exit(1)", ToolError, "died of it"),
    "hangs before": ("time.sleep(600)", TooLate, "was not read in 1 s"),
    "hangs after": ("head(); time.sleep(600)", TooLate, "was not read in 1 s"),
}


@pytest.mark.parametrize(("program", "kind", "said"), TURNED.values(), ids=TURNED)
def test_a_reader_that_does_what_it_should_not(
    tmp_path: Path, program: str, kind: type[ToolError], said: str
) -> None:
    (tmp_path / "m.pth").write_bytes(b"what it reads")
    child = [sys.executable, "-c", HEAD + program]
    seconds = 1.0 if kind is TooLate else 60.0
    with pytest.raises(kind, match=said) as refused:
        to_safetensors(
            tmp_path / "m.pth", tmp_path / "w.safetensors", seconds_max=seconds, child=child
        )
    assert len(refused.value.message) < 1000
    assert [path.name for path in tmp_path.iterdir()] == ["m.pth"]


def test_a_reader_that_is_as_it_should_be(tmp_path: Path) -> None:
    (tmp_path / "m.pth").write_bytes(save({"w": np.arange(3.0)}))
    program = (
        "head(left_out=['epoch'], confined_by=['x'])\n"
        "sys.stdout.buffer.write(sys.stdin.buffer.read())"
    )
    target = tmp_path / "w.safetensors"
    found = to_safetensors(tmp_path / "m.pth", target, child=[sys.executable, "-c", HEAD + program])
    assert (found.tensors, found.left_out, found.confined_by) == (1, ("epoch",), ("x",))
    assert load_file(target)["w"].tolist() == [0, 1, 2]
