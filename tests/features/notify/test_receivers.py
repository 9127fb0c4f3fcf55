"""What each receiver is sent, seen by a real HTTP server; and that telling holds nothing up."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random
from typing import Any

import pytest

from mlplatform.adapters import pagerduty, slack, webhook
from mlplatform.control.notices import Notices, send
from mlplatform.control.retry import Retry
from mlplatform.core.errors import Denied, StoreError, Throttled, Unavailable
from mlplatform.ports.clock import SystemClock
from mlplatform.ports.notify import Notice, Severity

NOTICE = Notice(
    title="us-east-1 is unhealthy: api moves to eu-west-1",
    severity=Severity.CRITICAL,
    at=datetime(2026, 3, 1, 12, tzinfo=UTC),
    source="mlplatform failover on ops@host",
    thread="20260301T120000Z-failover-00beef",
    lines=("3 of 4 domains see no answer", "<b> & co"),
    fields={"route": "api"},
)


class Listener(ThreadingHTTPServer):
    """Keeps what it is sent; answers as it is told."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.heard: list[Any] = []
        self.answers: list[tuple[int, dict[str, str]]] = []
        self.gate = threading.Event()
        self.gate.set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/hook?token=s3cret"


class _Handler(BaseHTTPRequestHandler):
    server: Listener

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.gate.wait(20)
        self.server.heard.append(body)
        status, headers = self.server.answers.pop(0) if self.server.answers else (200, {})
        self.send_response(status)
        for name, value in {"Content-Length": "2", **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_: Any) -> None:
        return


@pytest.fixture
def listener() -> Iterator[Listener]:
    with serving() as server:
        yield server


@contextmanager
def serving() -> Iterator[Listener]:
    with Listener() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.gate.set()
        server.shutdown()


def retry(attempts: int = 3) -> Retry:
    return Retry(SystemClock(), Random(1), attempts=attempts, base_seconds=0.01)


def test_a_webhook_gets_all_of_it(listener: Listener) -> None:
    webhook.open_receiver("ops", listener.url).send(NOTICE)
    assert listener.heard == [
        {
            "schema": "mlplatform/notice/1",
            "title": NOTICE.title,
            "severity": "critical",
            "at": "2026-03-01T12:00:00+00:00",
            "source": NOTICE.source,
            "thread": NOTICE.thread,
            "lines": ["3 of 4 domains see no answer", "<b> & co"],
            "over": False,
            "fields": {"route": "api"},
        }
    ]


def test_slack_gets_a_text_and_blocks_with_markup_escaped(listener: Listener) -> None:
    slack.open_receiver("ops", listener.url).send(NOTICE)
    (said,) = listener.heard
    assert said["text"] == NOTICE.title
    text = said["blocks"][0]["text"]["text"]
    assert text.startswith(":rotating_light: *us-east-1 is unhealthy")
    assert text.endswith("&lt;b&gt; &amp; co")
    assert "ops@host" in said["blocks"][1]["elements"][0]["text"]


def test_pagerduty_opens_an_incident_a_thread_and_resolves_it(listener: Listener) -> None:
    receiver = pagerduty.open_receiver("ops", f"R0UT1NG@{listener.url}")
    receiver.send(NOTICE)
    receiver.send(
        Notice("over", Severity.INFO, NOTICE.at, NOTICE.source, thread=NOTICE.thread, over=True)
    )
    opened, resolved = listener.heard
    assert opened["routing_key"] == "R0UT1NG"
    assert (opened["event_action"], opened["payload"]["severity"]) == ("trigger", "critical")
    assert opened["payload"]["custom_details"]["route"] == "api"
    assert resolved["event_action"] == "resolve"
    assert opened["dedup_key"] == resolved["dedup_key"] == NOTICE.thread


@pytest.mark.parametrize(
    ("status", "error"),
    [(400, StoreError), (403, Denied), (429, Throttled), (302, StoreError), (502, Unavailable)],
)
def test_a_refusal_is_an_error_without_the_url(
    listener: Listener, status: int, error: type[Exception]
) -> None:
    elsewhere = {"Location": "http://127.0.0.1:1/"} if status == 302 else {}
    listener.answers = [(status, elsewhere)]
    with pytest.raises(error) as raised:
        webhook.open_receiver("ops", listener.url).send(NOTICE)
    assert "webhook ops" in str(raised.value)
    assert "s3cret" not in str(raised.value)


def test_nobody_there() -> None:
    with pytest.raises(Unavailable, match=r"webhook ops: .*refused"):
        webhook.open_receiver("ops", "http://127.0.0.1:1/").send(NOTICE)


def test_a_passing_failure_is_tried_again(listener: Listener) -> None:
    listener.answers = [(503, {}), (429, {"Retry-After": "0"})]
    send(webhook.open_receiver("ops", listener.url), NOTICE, retry())
    assert len(listener.heard) == 3


def test_a_receiver_that_hangs_delays_neither_who_tells_nor_the_others(listener: Listener) -> None:
    with serving() as slow:
        slow.gate.clear()
        notices = Notices(
            [webhook.open_receiver("slow", slow.url), webhook.open_receiver("ops", listener.url)],
            retry(),
        )
        for _ in range(3):
            notices.tell(NOTICE)
        while len(listener.heard) < 3:
            time.sleep(0.01)
        assert not slow.heard
        assert not notices.close(timeout_seconds=0.05)
        slow.gate.set()
        assert notices.close(timeout_seconds=20)
        assert len(slow.heard) == 3


def test_when_too_many_wait_the_oldest_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    with serving() as slow:
        slow.gate.clear()
        notices = Notices([webhook.open_receiver("slow", slow.url)], retry())
        for number in range(300):
            notices.tell(Notice(str(number), Severity.INFO, NOTICE.at, "x"))
        slow.gate.set()
        assert notices.close(timeout_seconds=30)
        told = [int(said["title"]) for said in slow.heard]
    assert told[-200:] == list(range(100, 300))
    assert "too many wait" in caplog.text


def test_what_cannot_be_told_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    notices = Notices([webhook.open_receiver("gone", "http://127.0.0.1:1/")], retry(attempts=2))
    notices.tell(NOTICE)
    assert notices.close(timeout_seconds=20)
    assert "gone was not told: us-east-1 is unhealthy" in caplog.text
