"""Inferences that are answered without a task, some by the model's thread: what they leave behind,
and who is told when it ends otherwise."""

from __future__ import annotations

import resource
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.serving.rig import ServerProcess, identity, publish, running
from tests.serving.safety.test_connections import HEALTH, heard
from tests.serving.safety.test_pipelining import Answers, connect, is_own, question

SLOW_MS = 2000


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("at_once")
    publish(folder, "echo", "v1", identity("FP32"))
    publish(folder, "slow", "v1", identity("FP32", delay_ms=SLOW_MS))
    publish(folder, "stuck", "v1", identity("FP32", delay_ms=60_000))
    return folder


@pytest.fixture(scope="module")
def server(models: Path) -> Iterator[ServerProcess]:
    with running(models, KEEP_ALIVE_SECONDS=600) as started:
        yield started


def descriptors(server: ServerProcess) -> set[int]:
    return {int(each.name) for each in Path(f"/proc/{server.process.pid}/fd").iterdir()}


def memory(server: ServerProcess, which: str) -> int:
    """`VmRSS` or `VmHWM`, in bytes."""
    text = Path(f"/proc/{server.process.pid}/status").read_text()
    return next(int(line.split()[1]) for line in text.splitlines() if which in line) * 1024


def gone(server: ServerProcess) -> int:
    told = server.ask("GET", "/v2/models/slow/stats").json["model_stats"][0]
    return int(told["gone"])


def test_the_end_of_a_connection_is_seen_by_its_client(models: Path) -> None:
    """Of the last one that the model answered, above all: whoever does not see it asks there again,
    and nobody reads it."""
    with running(models, KEEP_ALIVE_SECONDS=1) as server, connect(server) as connection:
        connection.settimeout(20)
        answers = Answers(connection)
        for number in range(3):
            connection.sendall(question(number))
            assert is_own(answers.next(), number)
        assert connection.recv(1) == b""


def test_who_goes_away_leaves_no_descriptor(server: ServerProcess) -> None:
    with connect(server) as first:
        first.sendall(question(1, model="slow"))
        before, was = gone(server), len(descriptors(server))
        for _ in range(30):
            with connect(server) as second:
                second.sendall(question(2, model="slow"))
        assert is_own(Answers(first).next(), 1)
    server.until(lambda: gone(server) > before)
    # The last of them ends with the loop's next turn, and the one that asks comes and goes.
    server.until(lambda: len(descriptors(server)) <= was)


def whole(connection: socket.socket, number: int, values: int) -> None:
    connection.sendall(question(number, values=values))


def in_pieces(connection: socket.socket, number: int, values: int) -> None:
    sent = question(number, values=values, more="Expect: 100-continue\r\n")
    head, end, body = sent.partition(b"\r\n\r\n")
    connection.sendall(head + end)
    awaited = b"HTTP/1.1 100 Continue\r\n\r\n"
    assert connection.recv(len(awaited), socket.MSG_WAITALL) == awaited
    connection.sendall(body)


@pytest.mark.parametrize("send", [whole, in_pieces])
def test_who_rests_keeps_nothing_of_its_last_request(
    server: ServerProcess, send: Callable[[socket.socket, int, int], None]
) -> None:
    with ExitStack() as stack:
        connections = [stack.enter_context(connect(server)) for _ in range(200)]
        resident = []
        for values in (1, 20_000):
            for each in connections:
                send(each, 1, values)
                assert is_own(Answers(each).next(), 1, values)
            resident.append(memory(server, "VmRSS"))
        grown = (resident[1] - resident[0]) / len(connections)
    assert grown < 16 * 1024, f"{grown:.0f} bytes a connection"


def test_what_is_sent_ahead_waits_outside(server: ServerProcess) -> None:
    """Requests are not read by the thousand while those before them are answered."""
    count = 60_000
    before = memory(server, "VmRSS")
    with connect(server) as connection:
        sender = threading.Thread(target=connection.sendall, args=(HEALTH * count,))
        sender.start()
        answers = Answers(connection)
        assert all(answers.next()[0] == 200 for _ in range(count))
        sender.join()
    assert memory(server, "VmHWM") - before < 40 * 2**20


def test_where_no_descriptor_is_left_it_is_answered_all_the_same(models: Path) -> None:
    with running(models) as server, connect(server) as connection:
        connection.sendall(HEALTH)
        answers = Answers(connection)
        assert answers.next()[0] == 200
        limits = resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE)
        full = max(descriptors(server)) + 1
        assert set(range(full)) == descriptors(server)
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (full, limits[1]))
        for number in range(3):
            connection.sendall(question(number))
            assert is_own(answers.next(), number)


def test_who_still_waits_when_the_server_ends_is_told(models: Path) -> None:
    with running(models, SHUTDOWN_TIMEOUT_SECONDS=1) as server:
        with connect(server) as connection:
            connection.sendall(question(1, model="stuck"))
            server.until(lambda: b"inference_queue_depth{" in server.ask("GET", "/metrics").body)
            server.process.send_signal(signal.SIGINT)
            told = heard(connection)
        assert told.startswith(b"HTTP/1.1 503 ")
        assert told.endswith(b'{"error":"the server ends before the model does"}')
        assert server.process.wait(60) == 0
