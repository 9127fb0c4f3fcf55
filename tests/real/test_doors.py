"""Doors divide requests by weight, lose nobody while the division changes, and count each once."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from tests.real.servers.doors import Door, Doors
from tests.real.servers.gateway import answering

pytestmark = pytest.mark.real("caddy")

_CHANGES, _CLIENTS = 40, 8


@contextlib.contextmanager
def doors_to(*names: str) -> Iterator[tuple[Doors, dict[str, str]]]:
    """Doors, and where a server of each name answers with it."""
    with contextlib.ExitStack() as stack:
        ports = {name: stack.enter_context(answering(name)) for name in names}
        yield (
            stack.enter_context(Doors()),
            {name: f"127.0.0.1:{port}" for name, port in ports.items()},
        )


def asked(doors: Doors) -> str:
    """What a client is answered that comes anew: a name, a status, or the name of an error."""
    line = http.client.HTTPConnection("127.0.0.1", doors.port, timeout=60)
    try:
        line.request("POST", "/", b"{}")
        answer = line.getresponse()
        said = answer.read().decode()
    except (OSError, http.client.HTTPException) as error:
        return type(error).__name__
    finally:
        line.close()
    return said if answer.status == 200 else str(answer.status)


def test_nobody_is_lost_while_the_division_changes() -> None:
    """Straight to one Caddy that changes as often, every hundredth line breaks."""
    said: list[str] = []
    over = threading.Event()

    def ask_all_along() -> None:
        while not over.is_set():
            said.append(asked(doors))

    with doors_to("old", "new") as (doors, at):
        doors.divide([Door("a", 1, [at["old"]]), Door("b", 0, [at["new"]])])
        clients = [threading.Thread(target=ask_all_along) for _ in range(_CLIENTS)]
        for each in clients:
            each.start()
        try:
            for change in range(_CHANGES):
                old, new = (1, 2) if change % 2 else (2, 1)
                doors.divide([Door("a", old, [at["old"]]), Door("b", new, [at["new"]])])
        finally:
            over.set()
            for each in clients:
                each.join()
        answered = Counter(said)
        assert answered.keys() == {"old", "new"}, answered
        counted = doors.counted()
    assert {"old": counted["a", "code", "200"], "new": counted["b", "code", "200"]} == answered


def test_requests_are_divided_by_weight() -> None:
    with doors_to("old", "new") as (doors, at):
        doors.divide([Door("a", 75, [at["old"]]), Door("b", 25, [at["new"]])])
        assert Counter(asked(doors) for _ in range(40)) == {"old": 30, "new": 10}


@pytest.mark.parametrize(
    "doors_of",
    [
        pytest.param(lambda at: [Door("a", 1, [])], id="no_server"),
        pytest.param(lambda at: [Door("a", 0, [at])], id="no_weight"),
        pytest.param(lambda at: [], id="no_door"),
    ],
)
def test_where_nobody_is_there_to_answer_a_request_fails(
    doors_of: Callable[[str], list[Door]],
) -> None:
    with doors_to("old") as (doors, at):
        doors.divide(doors_of(at["old"]))
        assert asked(doors) == "503"


def test_a_request_that_no_server_answers_has_failed_and_is_counted() -> None:
    """It is not sent again: who lost it is to be seen."""
    with doors_to("old") as (doors, at), socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        doors.divide([Door("a", 1, [f"127.0.0.1:{port}", at["old"]])])

        def hang_up() -> None:
            silent.accept()[0].close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        assert Counter(asked(doors) for _ in range(2)) == {"502": 1, "old": 1}
        thread.join()
        assert doors.counted()["a", "code", "502"] == 1
