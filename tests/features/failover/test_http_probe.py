"""One probe over real sockets: phases, deadlines, certificates, and servers that misbehave."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mlplatform.adapters import http_probe
from mlplatform.adapters.http_probe import HttpProbe
from mlplatform.ports.probe import Answer, Question
from tests.features.failover import peers
from tests.features.failover.authority import DAY, Authority
from tests.features.failover.peers import Peer
from tests.real.servers.launch import free_port

LONG, SHORT = 20.0, 1.5


def ask(url: str, probe: HttpProbe | None = None, *, seconds: float = LONG) -> Answer:
    return (probe or HttpProbe()).ask(Question(url), timeout_seconds=seconds)


def phases(answer: Answer) -> set[str]:
    """The phases that were reached to their end."""
    names = ("dns", "connect", "tls", "first_byte")
    return {name for name in names if getattr(answer, f"{name}_seconds") is not None}


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def probe(authority: Authority) -> HttpProbe:
    return HttpProbe(context=authority.client())


def test_plain_http() -> None:
    with Peer(peers.answers(body=b"well", headers="X-Mlplatform-Region: us\r\n")) as peer:
        answer = ask(f"{peer.url}/health?deep=1")
    assert answer.good
    assert (answer.status, answer.body, answer.error) == (200, b"well", "")
    assert answer.headers["x-mlplatform-region"] == "us"
    assert phases(answer) == {"dns", "connect", "first_byte"}
    (request,) = peer.requests
    assert request.startswith(b"GET /health?deep=1 HTTP/1.1\r\n")
    assert b"\r\nHost: 127.0.0.1:%d\r\n" % peer.port in request


def test_what_is_sent_arrives() -> None:
    with Peer(peers.answers()) as peer:
        question = Question(f"{peer.url}/infer", "POST", b'{"a": 1}', {"Content-Type": "x/y"})
        HttpProbe().ask(question, timeout_seconds=LONG)
    (request,) = peer.requests
    head, _, body = request.partition(b"\r\n\r\n")
    assert head.startswith(b"POST /infer HTTP/1.1\r\n")
    assert {b"Content-Type: x/y", b"Content-Length: 8"} <= set(head.split(b"\r\n"))
    assert body == b'{"a": 1}'


def test_ipv6() -> None:
    try:
        peer = Peer(peers.answers(), host="::1")
    except OSError:
        pytest.skip("this machine has no IPv6")
    with peer:
        assert ask(peer.url).good
    assert b"Host: [::1]:" in peer.requests[0]


def test_a_name_whose_first_address_is_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one is tried, as a browser would."""
    with Peer(peers.answers()) as peer:
        found = [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.2", 1)),
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", peer.port)),
        ]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        assert ask(f"http://region.test:{peer.port}").good


def test_the_environment_s_proxies_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with Peer(peers.answers()) as peer:
        assert ask(peer.url).good


# --- certificates -------------------------------------------------------------------------------


def test_a_certificate_in_order(authority: Authority, probe: HttpProbe) -> None:
    identity = authority.identity("localhost", "127.0.0.1")
    with Peer(peers.answers(), tls=identity.server()) as peer:
        answer = ask(peer.url.replace("127.0.0.1", "localhost"), probe)
    assert answer.good
    assert answer.certificate_expires_at == identity.expires_at
    assert phases(answer) == {"dns", "connect", "tls", "first_byte"}
    assert peer.names == ["localhost"]


def test_one_that_ends_soon_is_in_order_and_says_when(
    authority: Authority, probe: HttpProbe
) -> None:
    identity = authority.identity("127.0.0.1", ends=timedelta(hours=2))
    with Peer(peers.answers(), tls=identity.server()) as peer:
        answer = ask(peer.url, probe)
    assert answer.good
    assert answer.certificate_expires_at is not None
    assert answer.certificate_expires_at - datetime.now(UTC) < 3 * timedelta(hours=1)


@pytest.mark.parametrize(
    ("names", "begins", "ends", "detail"),
    [
        (("127.0.0.1",), -90 * DAY, -DAY, "expired"),
        (("127.0.0.1",), DAY, 90 * DAY, "not yet valid"),
        (("api.example.com",), -DAY, 90 * DAY, "IP address mismatch"),
    ],
    ids=["expired", "not yet valid", "another name"],
)
def test_certificates_that_are_not_in_order(
    authority: Authority,
    probe: HttpProbe,
    names: tuple[str, ...],
    begins: timedelta,
    ends: timedelta,
    detail: str,
) -> None:
    identity = authority.identity(*names, begins=begins, ends=ends)
    with Peer(peers.answers(), tls=identity.server()) as peer:
        answer = ask(peer.url, probe)
    assert (answer.error, answer.status) == ("certificate", None)
    assert detail in answer.detail
    assert phases(answer) == {"dns", "connect"}


def test_an_authority_that_nobody_knows(tmp_path: Path, probe: HttpProbe) -> None:
    stranger = Authority(tmp_path, "somebody").identity("127.0.0.1")
    with Peer(peers.answers(), tls=stranger.server()) as peer:
        answer = ask(peer.url, probe)
    assert answer.error == "certificate"
    assert "unable to get local issuer" in answer.detail


def test_the_system_s_authorities_can_be_named(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = authority.identity("127.0.0.1")
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.path))
    with Peer(peers.answers(), tls=identity.server()) as peer:
        assert ask(peer.url).good


def test_no_tls_where_tls_should_be(probe: HttpProbe) -> None:
    with Peer(peers.sends(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as peer:
        answer = ask(peer.url.replace("http:", "https:"), probe)
    assert answer.error in {"tls", "reset"}
    assert answer.status is None


def test_a_handshake_that_never_ends(probe: HttpProbe) -> None:
    with Peer(peers.never_speaks) as peer:
        answer = ask(peer.url.replace("http:", "https:"), probe, seconds=SHORT)
    assert (answer.error, answer.detail) == ("timeout", f"{SHORT} s passed in tls")


# --- servers that misbehave ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("behaviour", "detail"),
    [
        (peers.never_answers, "first byte"),
        (peers.drips, "reading"),
    ],
    ids=["accepts and never answers", "drips"],
)
def test_the_deadline_holds_for_the_whole(behaviour: peers.Behaviour, detail: str) -> None:
    with Peer(behaviour) as peer:
        answer = ask(peer.url, seconds=SHORT)
    assert answer.error == "timeout"
    assert answer.detail == f"{SHORT} s passed in {detail}"
    assert answer.seconds >= SHORT
    assert answer.connect_seconds is not None


@pytest.mark.parametrize(
    ("behaviour", "error", "status"),
    [
        (peers.resets, "reset", None),
        (peers.sends(b""), "reset", None),
        (peers.sends(b"\x00\xffgarbage\r\n\r\n"), "answer", None),
        (peers.sends(b"SSH-2.0-OpenSSH_9.2\r\n"), "answer", None),
        (peers.sends(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"), "answer", 200),
        (
            peers.sends(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
            "answer",
            200,
        ),
        (peers.sends(b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 200 + b"\r\n"), "answer", None),
        (peers.sends(b"HTTP/1.1 200 " + b"x" * 70_000), "answer", None),
        (peers.pours, "answer", 200),
        (peers.answers(503), "", 503),
        (peers.answers(302, headers="Location: http://127.0.0.1:1/\r\n"), "", 302),
    ],
    ids=[
        *("resets", "hangs up", "garbage", "another protocol", "cut short", "bad chunks"),
        *("headers without end", "a line without end", "a body without end", "503", "a redirect"),
    ],
)
def test_answers_that_are_none(behaviour: peers.Behaviour, error: str, status: int | None) -> None:
    with Peer(behaviour) as peer:
        answer = ask(peer.url)
    assert (answer.error, answer.status) == (error, status), answer.detail
    assert not answer.good
    assert bool(answer.detail) == bool(error)


def test_600_ms_is_slow_and_an_answer_all_the_same() -> None:
    with Peer(peers.answers(delay_seconds=0.6)) as peer:
        answer = ask(peer.url)
    assert answer.good
    assert answer.first_byte_seconds is not None
    assert answer.first_byte_seconds >= 0.59
    assert answer.seconds >= answer.first_byte_seconds


def test_nobody_listens() -> None:
    answer = ask(f"http://127.0.0.1:{free_port()}")
    assert (answer.error, answer.detail) == ("refused", "Connection refused")
    assert phases(answer) == {"dns"}


def test_a_name_that_does_not_exist() -> None:
    answer = ask("http://nowhere.invalid/health")
    assert answer.error == "dns"
    assert answer.detail.startswith("nowhere.invalid: ")
    assert phases(answer) == set()


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:99999/", f"http://{'a' * 70}.test/", "http:///x"]
)
def test_urls_that_lead_nowhere(url: str) -> None:
    assert ask(url).error == "dns"


def test_nothing_can_be_smuggled_into_the_request() -> None:
    with Peer(peers.answers()) as peer:
        question = Question(peer.url, headers={"X-A": "b\r\nX-C: d"})
        assert HttpProbe().ask(question, timeout_seconds=LONG).error == "dns"
    assert peer.requests == []


@pytest.fixture
def hanging_resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A resolver that takes questions and answers none until the test ends."""
    asked: list[str] = []
    ended = threading.Event()

    def getaddrinfo(host: str, *_: object, **__: object) -> list[object]:
        asked.append(host)
        ended.wait()
        return []

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    yield asked
    ended.set()


def test_a_resolver_that_hangs_costs_one_thread(hanging_resolver: list[str]) -> None:
    probe = HttpProbe()
    for _ in range(3):
        answer = ask("http://region.test/", probe, seconds=0.05)
        assert (answer.error, answer.detail) == ("timeout", "0.05 s passed in dns")
    assert hanging_resolver == ["region.test"]


def test_a_probe_that_breaks_is_an_answer(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("what nobody thought of")

    monkeypatch.setattr(http_probe, "_connect", broken)
    answer = ask("http://127.0.0.1:1/")
    assert answer.error == "answer"
    assert "what nobody thought of" in answer.detail
