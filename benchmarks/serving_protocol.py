"""What the model server's protocol costs: the same small inference in JSON, asked of the server and
of bare peers by turns; and what a picture costs to decode, in binary.

The server has all that it has in production: a queue and a thread before the model (which gives
back its input), metrics, statistics, and a line of the log for each request. The client is a few
lines on plain sockets, sends bytes that were made once, and has a core to itself: where the system
may put a server beside it, that one is twice as quick in one round as in the next.
"""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.measure import ClientFailed, Result, Row
from mlplatform_serving.protocol.infer import parse_inference
from mlplatform_serving.protocol.specs import Signature, TensorSpec
from tests.serving.rig import environment, publish

ROUNDS = 9
ALONE_LIMIT, TOGETHER_LIMIT, DECODE_LIMIT_US = 1.7, 0.5, 200
_ALONE_REQUESTS = 1000
_TOGETHER_REQUESTS = 4000
_CONNECTIONS = 32
_START_SECONDS = 60
_BODY = json.dumps(
    {
        "id": "7",
        "inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3.5, 4]}],
    }
).encode()
_REQUEST = (
    b"POST /v2/models/echo/infer HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n%s" % (len(_BODY), _BODY)
)


def measure(rounds: int) -> Result:
    """Rounds of the server and its two peers, the order turned round each time."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        publish(Path(folder), "echo", "v1", {"model-config.json": _CONFIGURATION})
        client_core, *server_cores = sorted(stack.enter_context(_cores_kept()))
        os.sched_setaffinity(0, server_cores or {client_core})
        ours = stack.enter_context(_serving(Path(folder)))
        starlette, fastapi = (stack.enter_context(_peer(name)) for name in ("starlette", "fastapi"))
        os.sched_setaffinity(0, {client_core})
        alone = _by_turns(rounds, lambda it: it.p50_us(_ALONE_REQUESTS), ours, starlette, fastapi)
        together = _by_turns(
            rounds, lambda it: it.cpu_us(_TOGETHER_REQUESTS), ours, starlette, fastapi
        )
    result = Result(
        "serving_protocol",
        f"a small inference in JSON; medians of {rounds} interleaved rounds of "
        f"{_ALONE_REQUESTS} and {_TOGETHER_REQUESTS} requests",
        peer="starlette: bare, with msgspec; fastapi: with pydantic models; each an echo",
    )
    p50, cpu = "p50, 1 connection", f"server CPU a request, {_CONNECTIONS} connections"
    result.rows += [
        Row(f"{p50} / starlette", "µs", alone[0], alone[1], ALONE_LIMIT),
        Row(f"{p50} / fastapi", "µs", alone[0], alone[2]),
        Row(f"{cpu} / starlette", "µs", together[0], together[1]),
        Row(f"{cpu} / fastapi", "µs", together[0], together[2], TOGETHER_LIMIT),
        Row("decode 3×224×224 FP32, binary", "µs", _decoding(rounds), limit=DECODE_LIMIT_US),
    ]
    return result


@contextmanager
def _cores_kept() -> Iterator[set[int]]:
    """The cores that this process may use, and may again at the end."""
    cores = os.sched_getaffinity(0)
    try:
        yield cores
    finally:
        os.sched_setaffinity(0, cores)


_CONFIGURATION = json.dumps(
    {
        "backend": "identity",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 4]}],
    }
).encode()


class _Side:
    """One server under test."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self._process = process
        self._port = port

    def p50_us(self, requests: int) -> float:
        """The median time of a request, one after the other on one connection."""
        with self._connected() as connection:
            taken = []
            for _ in range(requests):
                began = time.perf_counter_ns()
                connection.sendall(_REQUEST)
                _receive(connection)
                taken.append(time.perf_counter_ns() - began)
        return median(taken) / 1000

    def cpu_us(self, requests: int) -> float:
        """What the server's threads used for a request, with 32 of them under way."""
        with ExitStack() as stack, select.epoll() as poll:
            connections = {}
            for _ in range(_CONNECTIONS):
                connection = stack.enter_context(self._connected())
                connections[connection.fileno()] = connection
                poll.register(connection, select.EPOLLIN)
            before = self._cpu_ns()
            for connection in connections.values():
                connection.sendall(_REQUEST)
            sent, answered = len(connections), 0
            while answered < requests:
                for number, _ in poll.poll(_START_SECONDS):
                    _receive(connections[number])
                    answered += 1
                    if sent < requests:
                        connections[number].sendall(_REQUEST)
                        sent += 1
            return (self._cpu_ns() - before) / requests / 1000

    @contextmanager
    def _connected(self) -> Iterator[socket.socket]:
        with socket.create_connection(("127.0.0.1", self._port), _START_SECONDS) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            yield connection

    def _cpu_ns(self) -> int:
        """All threads', as the scheduler counts them."""
        tasks = Path(f"/proc/{self._process.pid}/task").glob("*/schedstat")
        return sum(int(task.read_text().split()[0]) for task in tasks)

    def wait(self) -> None:
        """Until it answers as it should."""
        deadline = time.monotonic() + _START_SECONDS
        while True:
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise ClientFailed(f"a server did not start: {self._process.args!r}")
            try:
                with self._connected() as connection:
                    connection.sendall(_REQUEST)
                    _receive(connection)
                return
            except (ConnectionError, ClientFailed):
                time.sleep(0.05)


def _receive(connection: socket.socket) -> None:
    """One whole answer, which must be a good one."""
    data = connection.recv(65536)
    while b"\r\n\r\n" not in data:
        data += _more(connection)
    head, _, body = data.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    while len(body) < length:
        body += _more(connection)
    if not head.startswith(b"HTTP/1.1 200") or b"[1.0,2.0,3.5,4.0]" not in body:
        raise ClientFailed(f"a server answered {data[:500]!r}")


def _more(connection: socket.socket) -> bytes:
    data = connection.recv(65536)
    if not data:
        raise ClientFailed("a server ended the connection")
    return data


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return port


@contextmanager
def _serving(models: Path) -> Iterator[_Side]:
    port = _free_port()
    settings = environment(HOST="127.0.0.1", PORT=port, MODEL_CACHE_DIR=models)
    with _running([sys.executable, "-m", "mlplatform_serving"], settings, port) as side:
        yield side


@contextmanager
def _peer(name: str) -> Iterator[_Side]:
    port = _free_port()
    program = f"from benchmarks.serving_peers import main; main({name!r}, {port})"
    with _running([sys.executable, "-c", program], dict(os.environ), port) as side:
        yield side


@contextmanager
def _running(argv: list[str], env: dict[str, str], port: int) -> Iterator[_Side]:
    process = subprocess.Popen(argv, env=env, stderr=subprocess.DEVNULL)
    try:
        side = _Side(process, port)
        side.wait()
        yield side
    finally:
        process.terminate()
        process.wait()


def _by_turns(rounds: int, of: Callable[[_Side], float], *sides: _Side) -> list[list[float]]:
    """The figure of each side in each round; a round before them warms all up."""
    found: list[list[float]] = [[] for _ in sides]
    for number in range(rounds + 1):
        order = list(range(len(sides)))
        for place in order if number % 2 else order[::-1]:
            figure = of(sides[place])
            if number:
                found[place].append(figure)
    return found


def _decoding(rounds: int) -> list[float]:
    """Microseconds from a request's body to the array, the median of a hundred, in each round."""
    picture = np.random.default_rng(7).random((1, 3, 224, 224), np.float32).tobytes()
    head = json.dumps(
        {
            "inputs": [
                {
                    "name": "x",
                    "datatype": "FP32",
                    "shape": [1, 3, 224, 224],
                    "parameters": {"binary_data_size": len(picture)},
                }
            ]
        }
    ).encode()
    spec = TensorSpec("x", "FP32", (-1, 3, 224, 224))
    signature, body = Signature((spec,), ()), head + picture
    found = []
    for _ in range(rounds):
        taken = []
        for _ in range(100):
            began = time.perf_counter_ns()
            parse_inference(body, len(head), signature)
            taken.append(time.perf_counter_ns() - began)
        found.append(median(taken) / 1e3)
    return found
