"""Many requests on one connection, sent before the first is answered: each gets its own answer, in
its turn, whichever way it was answered."""

from __future__ import annotations

import json
import random
import re
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.serving.rig import ServerProcess, identity, publish, running

SLOW_MS = 2000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("pipelining")
    publish(folder, "echo", "v1", identity("FP32"))
    publish(folder, "slow", "v1", identity("FP32", delay_ms=SLOW_MS))
    with running(folder) as started:
        yield started


def question(number: int, *, values: int = 1, more: str = "", model: str = "echo") -> bytes:
    """An inference whose answer can be told from all others."""
    tensor = {
        "name": "in_FP32",
        "datatype": "FP32",
        "shape": [1, values],
        "data": [number] * values,
    }
    body = json.dumps({"id": str(number), "inputs": [tensor]}).encode()
    return (
        f"POST /v2/models/{model}/infer HTTP/1.1\r\nHost: x\r\n{more}"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode() + body


REFUSED = (
    b"POST /v2/models/echo/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}",
    b"POST /v2/models/nobody/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}",
    b"POST /v2/models/echo/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n{]}",
)


class Answers:
    """What comes on a connection, answer by answer."""

    def __init__(self, connection: socket.socket) -> None:
        self._file = connection.makefile("rb")

    def next(self) -> tuple[int, Any]:
        """Status and body of one; EOFError at the end."""
        line = self._file.readline()
        if not line:
            raise EOFError
        length = 0
        while (header := self._file.readline()) != b"\r\n":
            name, _, value = header.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        return int(line.split()[1]), json.loads(self._file.read(length))


def connect(server: ServerProcess) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=60)


def is_own(answer: tuple[int, Any], number: int, values: int = 1) -> bool:
    status, told = answer
    return (
        status == 200
        and told["id"] == str(number)
        and told["outputs"][0]["data"] == [float(number)] * values
    )


def test_thousands_at_once_are_answered_in_their_order(server: ServerProcess) -> None:
    with connect(server) as connection:
        sent = b"".join(question(number) for number in range(2000))
        writer = threading.Thread(target=connection.sendall, args=(sent,))
        writer.start()
        answers = Answers(connection)
        assert all(is_own(answers.next(), number) for number in range(2000))
        writer.join()


def test_thousands_that_are_refused_at_once(server: ServerProcess) -> None:
    with connect(server) as connection:
        writer = threading.Thread(target=connection.sendall, args=(REFUSED[0] * 3000,))
        writer.start()
        answers = Answers(connection)
        assert {answers.next()[0] for _ in range(3000)} == {400}
        writer.join()
        connection.sendall(question(7))
        assert is_own(answers.next(), 7)


def test_connections_never_hear_what_is_anothers(server: ServerProcess) -> None:
    """Answers of every size, some of them sent by the model's thread and some by the loop, among
    refusals and packed ones, on connections that come and go."""
    wrong: list[str] = []

    def talk(seed: int) -> None:
        rng = random.Random(seed)
        number = seed * 1_000_000
        for _ in range(6):
            with connect(server) as connection:
                answers = Answers(connection)
                for _ in range(rng.randrange(1, 12)):
                    asked: list[tuple[int, int]] = []
                    sent = b""
                    for _ in range(rng.choice([1, 1, 1, 2, 5])):
                        if rng.random() < 0.1:
                            sent += rng.choice(REFUSED)
                            asked.append((0, 0))
                            continue
                        number += 1
                        values = rng.choice([1, 1, 3, 100, 20_000])
                        # FP32 holds whole numbers exactly up to 2**24.
                        small = number % 16_000_000
                        sent += question(small, values=values)
                        asked.append((small, values))
                    connection.sendall(sent)
                    if rng.random() < 0.05:
                        break  # gone before it is answered
                    for expected, values in asked:
                        answer = answers.next()
                        if not values and answer[0] in {400, 404}:
                            continue
                        if not is_own(answer, expected, values):
                            wrong.append(f"{expected} of {values}: {str(answer)[:200]}")

    threads = [threading.Thread(target=talk, args=(seed,)) for seed in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_who_reads_slowly_gets_all_of_it(server: ServerProcess) -> None:
    """More than the connection's buffers hold, in answers that are small each."""
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(60)
        connection.connect(("127.0.0.1", server.port))
        count, values = 150, 4000
        sent = b"".join(question(number, values=values) for number in range(count))
        writer = threading.Thread(target=connection.sendall, args=(sent,))
        writer.start()
        answers = Answers(connection)
        assert all(is_own(answers.next(), number, values) for number in range(count))
        writer.join()


@pytest.mark.parametrize("last", ["Connection: close\r\n", ""])
def test_a_connection_ends_when_it_was_asked_to(server: ServerProcess, last: str) -> None:
    asked = question(3, more=last)
    if not last:
        asked = asked.replace(b"HTTP/1.1", b"HTTP/1.0")
    with connect(server) as connection:
        connection.sendall(question(1) + question(2) + asked)
        answers = Answers(connection)
        assert [is_own(answers.next(), number) for number in (1, 2, 3)] == [True] * 3
        with pytest.raises(EOFError):
            answers.next()


def test_who_goes_away_while_it_waits_is_forgotten(server: ServerProcess) -> None:
    def gone() -> int:
        told = server.ask("GET", "/v2/models/slow/stats").json["model_stats"][0]
        return int(told["gone"])

    def runs() -> bool:
        text = server.ask("GET", "/metrics").body.decode()
        return (
            re.search(r'^inference_queue_depth{[^}]*model="slow"[^}]*} 1.0$', text, re.MULTILINE)
            is not None
        )

    before = gone()
    with connect(server) as first:
        first.sendall(question(1, model="slow"))
        server.until(runs)
        with connect(server) as second:
            second.sendall(question(2, model="slow"))
        server.until(lambda: gone() > before)
        assert is_own(Answers(first).next(), 1)
    assert gone() == before + 1
