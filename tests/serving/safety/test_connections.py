"""Clients that stand still, and more of them than there is room for."""

from __future__ import annotations

import json
import re
import resource
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest

from mlplatform_serving.http import descriptors
from tests.serving.rig import ServerProcess, identity, publish, running

HEALTH = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
GIVEN = {"name": "in_FP32", "datatype": "FP32", "shape": [1, 1], "data": [7]}
IDLE = 10_000


@contextmanager
def connected(server: ServerProcess) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        yield connection


def heard(connection: socket.socket) -> bytes:
    """All that comes until the server ends the connection."""
    told = b""
    try:
        while piece := connection.recv(65_536):
            told += piece
    except ConnectionResetError:
        pass
    return told


def answered(connection: socket.socket) -> bytes:
    """One answer to `HEALTH`."""
    connection.sendall(HEALTH)
    told = connection.recv(65_536)
    while not told.endswith(b"}"):
        piece = connection.recv(65_536)
        assert piece, f"the server ended the connection after {told!r}"
        told += piece
    return told


def ended(server: ServerProcess, reason: str) -> float:
    """How many connections the server has ended for that."""
    text = server.ask("GET", "/metrics").body.decode()
    name = "model_serving_connections_ended_total"
    found = re.search(rf'^{name}{{reason="{reason}"}} (\S+)$', text, re.MULTILINE)
    return float(found[1]) if found else 0.0


STALLED = {
    "in the path": b"GET /heal",
    "in a header": HEALTH[:-10],
    "before the empty line": HEALTH[:-2],
}


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("impatient")
    publish(folder, "echo", "v1", identity("FP32"))
    with running(folder, HEADER_TIMEOUT_SECONDS=0.5, KEEP_ALIVE_SECONDS=2) as server:
        yield server


@pytest.mark.parametrize("sent", STALLED.values(), ids=STALLED)
def test_a_head_that_never_ends(impatient: ServerProcess, sent: bytes) -> None:
    with connected(impatient) as connection:
        connection.sendall(sent)
        told = heard(connection)
    assert b"HTTP/1.1 408 Request Timeout\r\n" in told
    assert told.endswith(b'{"error":"the head of the request took too long"}')
    assert ended(impatient, "header") >= 1


@pytest.mark.parametrize("sent", [b"GET /health HTTP/1.1\r\nX:", b"\r\n"])
def test_a_second_head_that_never_ends(impatient: ServerProcess, sent: bytes) -> None:
    with connected(impatient) as connection:
        assert b"200 OK" in answered(connection)
        connection.sendall(sent)
        assert heard(connection).startswith(b"HTTP/1.1 408 ")
    with connected(impatient) as connection:
        connection.sendall(HEALTH + sent)  # and where it comes with the first
        told = heard(connection)
    assert told.startswith(b"HTTP/1.1 200 ")
    # An empty line is no beginning; where it comes alone, it is at least a sign of one.
    assert (b"HTTP/1.1 408 " in told) == (sent != b"\r\n")


def test_a_head_that_drips(impatient: ServerProcess) -> None:
    """A byte now and then is no progress: what counts is when the head began."""
    with connected(impatient) as connection:
        connection.settimeout(0.1)
        connection.sendall(b"GET /health HTTP/1.1\r\nX-Drip: ")
        told = b""
        for _ in range(600):
            try:
                told = connection.recv(4096)
                break
            except TimeoutError:
                connection.sendall(b"x")
    assert told.startswith(b"HTTP/1.1 408 ")


def test_one_that_never_says_a_word(impatient: ServerProcess) -> None:
    before = ended(impatient, "first")
    with connected(impatient) as connection:
        assert heard(connection) == b""
    assert ended(impatient, "first") == before + 1


def test_one_that_is_kept_for_its_next_request_and_has_none(impatient: ServerProcess) -> None:
    with connected(impatient) as connection:
        assert b"200 OK" in answered(connection)
        assert b"200 OK" in answered(connection)
        assert heard(connection) == b""


def test_who_ends_a_connection_that_is_malformed_is_counted_and_not_logged(
    impatient: ServerProcess,
) -> None:
    with connected(impatient) as connection:
        connection.sendall(b"what is this\r\n\r\n")
        assert heard(connection).startswith(b"HTTP/1.1 400 ")
    assert ended(impatient, "malformed") >= 1
    assert not [line for line in impatient.lines if "Invalid HTTP" in line["message"]]


def test_where_there_is_no_room_an_idle_one_makes_it(tmp_path: Path) -> None:
    publish(tmp_path, "echo", "v1", identity("FP32"))
    with running(tmp_path, MAX_CONNECTIONS=3) as server, ExitStack() as stack:
        first, *others = [stack.enter_context(connected(server)) for _ in range(3)]
        for each in (first, *others):
            assert b"200 OK" in answered(each)
        assert server.ask("GET", "/health/live").status == 200
        assert heard(first) == b""
        for each in others[1:]:
            assert b"200 OK" in answered(each)
        assert ended(server, "idle_for_room") >= 1


def test_where_all_are_at_work_a_new_one_is_refused(tmp_path: Path) -> None:
    publish(tmp_path, "stuck", "v1", identity("FP32", delay_ms=60_000))
    body = json.dumps({"inputs": [GIVEN]}).encode()
    head = b"POST /v2/models/stuck/infer HTTP/1.1\r\nContent-Length: %d\r\n" % len(body)
    settings = {"MAX_CONNECTIONS": 2, "SHUTDOWN_TIMEOUT_SECONDS": 0}
    with running(tmp_path, **settings) as server, ExitStack() as stack:
        for _ in range(2):
            connection = stack.enter_context(connected(server))
            # One whose head the server has not read yet would be an idle one.
            connection.sendall(head + b"Expect: 100-continue\r\n\r\n")
            awaited = b"HTTP/1.1 100 Continue\r\n\r\n"
            assert connection.recv(len(awaited), socket.MSG_WAITALL) == awaited
            connection.sendall(body)
        with connected(server) as refused:
            told = heard(refused)
    assert told.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert told.endswith(b'{"error":"too many connections"}')


def test_ten_thousand_idle_connections(tmp_path: Path) -> None:
    """Each has asked once and keeps its connection; the server answers others meanwhile."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < IDLE + 1_000:
        pytest.skip(f"this system allows {hard} open files")
    publish(tmp_path, "echo", "v1", identity("FP32"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, IDLE + 1_000), hard))
    try:
        with running(tmp_path, KEEP_ALIVE_SECONDS=3600) as server, ExitStack() as stack:
            before = _resident_bytes(server)
            idle = [stack.enter_context(connected(server)) for _ in range(IDLE)]
            for each in idle:
                assert b"200 OK" in answered(each)
            assert server.ask("GET", "/health/live").status == 200
            assert server.infer("echo", GIVEN).status == 200
            assert _open(server) >= IDLE
            assert b"200 OK" in answered(idle[0])
            grown = (_resident_bytes(server) - before) / IDLE
            assert grown < 32 * 1024, f"{grown:.0f} bytes a connection"
            assert server.end() == 0
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _open(server: ServerProcess) -> int:
    found = re.search(
        rb"^process_open_fds (\S+)$", server.ask("GET", "/metrics").body, re.MULTILINE
    )
    assert found is not None
    return int(float(found[1]))


def _resident_bytes(server: ServerProcess) -> int:
    text = Path(f"/proc/{server.process.pid}/status").read_text()
    found = re.search(r"^VmRSS:\s+(\d+) kB", text, re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


class TestDescriptors:
    TABLE = (
        # wanted, soft and hard limit, room, soft limit after
        (1_000, 65_536, 65_536, 1_000, 65_536),
        (16_384, 1_024, 65_536, 16_384, 17_664),
        (16_384, 1_024, 8_192, 6_912, 8_192),
        (16_384, 1_024, resource.RLIM_INFINITY, 16_384, 17_664),
        (16_384, resource.RLIM_INFINITY, resource.RLIM_INFINITY, 16_384, -1),
        (100, 64, 64, 1, 64),
    )

    @pytest.mark.parametrize(("wanted", "soft", "hard", "room", "after"), TABLE)
    def test_as_many_as_the_system_allows(
        self,
        monkeypatch: pytest.MonkeyPatch,
        wanted: int,
        soft: int,
        hard: int,
        room: int,
        after: int,
    ) -> None:
        limits = [(soft, hard)]
        monkeypatch.setattr(resource, "getrlimit", lambda _: limits[-1])
        monkeypatch.setattr(resource, "setrlimit", lambda _, both: limits.append(both))
        assert descriptors.room_for(wanted) == room
        assert limits[-1][0] == after


def test_a_client_that_takes_nothing_of_its_answer(tmp_path: Path) -> None:
    """32 MiB are more than buffers hold; whoever reads none of it is not waited for."""
    publish(tmp_path, "echo", "v1", identity("FP32"))
    with running(tmp_path, REQUEST_TIMEOUT_SEC=10) as server:
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.settimeout(60)
            connection.connect(("127.0.0.1", server.port))
            sender = threading.Thread(target=connection.sendall, args=(_large(),))
            sender.start()
            sender.join(60)
            server.until(lambda: ended(server, "answer"))
        assert server.infer("echo", GIVEN).status == 200


def _large() -> bytes:
    data = np.zeros((1, 8 * 1024**2), np.float32).tobytes()
    tensor = {"name": "in_FP32", "datatype": "FP32", "shape": [1, 8 * 1024**2]}
    told = {
        "inputs": [{**tensor, "parameters": {"binary_data_size": len(data)}}],
        "parameters": {"binary_data_output": True},
    }
    head = json.dumps(told).encode()
    return (
        b"POST /v2/models/echo/infer HTTP/1.1\r\nContent-Length: %d\r\n" % (len(head) + len(data))
        + b"Inference-Header-Content-Length: %d\r\n\r\n" % len(head)
        + head
        + data
    )


def test_a_client_that_breaks_off(tmp_path: Path) -> None:
    """Reset, and not closed, in the middle of its body and while its inference runs."""
    publish(tmp_path, "slow", "v1", identity("FP32", delay_ms=200))
    body = json.dumps({"inputs": [GIVEN]}).encode()
    head = b"POST /v2/models/slow/infer HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body)
    with running(tmp_path) as server:
        for sent in (head, head + body[:9], head + body):
            with connected(server) as connection:
                linger = struct.pack("ii", 1, 0)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                connection.sendall(sent)
        assert server.infer("slow", GIVEN).status == 200
        assert server.end() == 0
        assert not [line for line in server.lines if line["level"] == "ERROR"]
