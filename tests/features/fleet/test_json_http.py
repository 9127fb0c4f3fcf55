"""One JSON service over HTTP: each call has one deadline, its answer one bound. On real sockets."""

from __future__ import annotations

import socket
import ssl
import threading
from pathlib import Path
from typing import Any

import pytest

from mlplatform.adapters import json_http
from mlplatform.adapters.json_http import JSONService
from mlplatform.core.errors import Unavailable
from tests.features.failover import peers
from tests.features.failover.authority import Authority
from tests.features.failover.peers import Behaviour, Peer

DRIPS = {"a header": peers.drips, "a body": peers.drips_a_body, "nothing": peers.never_answers}


@pytest.mark.parametrize("what", DRIPS)
def test_who_drips_has_no_more_time_than_who_is_silent(what: str) -> None:
    """Each byte comes well within any time-out of a socket, and the answer never ends."""
    with Peer(DRIPS[what]) as peer:
        service = JSONService(peer.url, timeout_seconds=0.3)
        with pytest.raises(Unavailable, match="no answer in time"):
            service.ask("GET", "/", what="index")
        for thread in threading.enumerate():
            if thread.name == "mlplatform-ask":
                thread.join(timeout=30)
                assert not thread.is_alive(), "it would listen for ever"


def test_who_drips_over_tls(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with Peer(peers.drips_a_body, tls=authority.identity("127.0.0.1").server()) as peer:
        service = JSONService(peer.url, timeout_seconds=1.0, context=authority.client())
        with pytest.raises(Unavailable, match="no answer in time"):
            service.ask("GET", "/")


def test_a_name_that_takes_for_ever_to_look_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """And when it is there at last, nothing is sent any more."""
    answer, sent = threading.Event(), threading.Event()
    lookup = socket.create_connection

    def late(*where: Any, **more: Any) -> socket.socket:
        answer.wait(30)
        return lookup(*where, **more)

    def heard(peer: Peer, connection: socket.socket) -> None:
        if connection.recv(10):
            sent.set()

    monkeypatch.setattr(socket, "create_connection", late)
    with Peer(heard) as peer:
        with pytest.raises(Unavailable, match="no answer in time"):
            JSONService(peer.url, timeout_seconds=0.2).ask("POST", "/", {"do": "it"})
        answer.set()
        for thread in threading.enumerate():
            if thread.name == "mlplatform-ask":
                thread.join(timeout=30)
        assert not sent.is_set()


POURS: dict[str, Behaviour] = {
    "without end": peers.pours,
    "as announced": peers.answers(200, bytes(2**20 + 1)),
    "of an error": peers.answers(500, bytes(2**20 + 1)),
}


@pytest.mark.parametrize("what", POURS)
def test_an_answer_that_is_too_large(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_http, "ANSWER_BYTES_MAX", 2**20)
    with Peer(POURS[what]) as peer, pytest.raises(Unavailable, match="more than 1 MiB"):
        JSONService(peer.url, timeout_seconds=30).ask("GET", "/")


def test_an_answer_as_large_as_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_http, "ANSWER_BYTES_MAX", 2**20)
    with Peer(peers.answers(200, bytes(2**20))) as peer:
        assert len(JSONService(peer.url).ask("GET", "/").body) == 2**20


def test_an_answer_that_is_cut_short() -> None:
    cut = peers.sends(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}")
    with Peer(cut) as peer, pytest.raises(Unavailable, match="IncompleteRead"):
        JSONService(peer.url, timeout_seconds=30).ask("GET", "/")


def test_who_is_asked_by_plain_http_needs_no_trust(monkeypatch: pytest.MonkeyPatch) -> None:
    """To read it takes longer than the question: with hundreds of servers, too long."""

    def read() -> None:
        raise AssertionError("whom to trust was read")

    monkeypatch.setattr(ssl, "create_default_context", read)
    with Peer(peers.answers(200, b"{}")) as peer:
        assert JSONService(peer.url).json("GET", "/") == {}


def test_who_is_not_trusted(tmp_path: Path) -> None:
    """By default those are who the system trusts."""
    stranger = Authority(tmp_path).identity("127.0.0.1").server()
    said = "its certificate is not to be trusted"
    with (
        Peer(peers.answers(200, b"{}"), tls=stranger) as peer,
        pytest.raises(Unavailable, match=said),
    ):
        JSONService(peer.url).ask("GET", "/")
