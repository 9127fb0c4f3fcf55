"""OpenCost's API over real HTTP: what is asked, and what becomes of the answer."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest

from mlplatform.adapters.opencost import open_billing
from mlplatform.core.errors import MlplatformError, Unavailable, UsageError
from mlplatform.core.store_url import StoreURL

TODAY = date(2026, 11, 3)


class Answering(ThreadingHTTPServer):
    """Answers every request with `body`, and keeps what was asked."""

    body = b'{"code":200,"data":[{"a":{"cpuCost":1.10}}]}'
    status = 200
    asked: list[str]


class Handler(BaseHTTPRequestHandler):
    server: Answering

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(self.server.body)))
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def server() -> Iterator[Answering]:
    with Answering(("127.0.0.1", 0), Handler) as answering:
        answering.asked = []
        thread = threading.Thread(target=answering.serve_forever)
        thread.start()
        yield answering
        answering.shutdown()
        thread.join()


def url_of(server: Answering, options: str = "") -> StoreURL:
    place = f"opencost+http://127.0.0.1:{server.server_port}{options}"
    return StoreURL.parse(place, noun="billing API")


def test_whole_months_by_days(server: Answering) -> None:
    api = open_billing(url_of(server, "/model?currency=EUR"))
    got: dict[str, bytes] = {}
    assert api.requests(TODAY) == api.fetch(TODAY, got.__setitem__) == 2
    assert api.charged is None
    assert list(got) == ["2026-10/allocation.json", "2026-11/allocation.json"]
    asked = [urlsplit(path) for path in server.asked]
    assert {each.path for each in asked} == {"/model/allocation"}
    questions = [parse_qs(each.query) for each in asked]
    assert [each["window"] for each in questions] == [
        ["2026-10-01T00:00:00Z,2026-11-01T00:00:00Z"],
        ["2026-11-01T00:00:00Z,2026-11-03T00:00:00Z"],
    ]
    assert {(*each["step"], *each["accumulate"], *each["includeIdle"]) for each in questions} == {
        ("1d", "false", "true")
    }
    told = got["2026-11/allocation.json"]
    assert json.loads(told)["currency"] == "EUR"
    assert b"1.10" in told, "not a digit is lost"


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (200, b"<html>", Unavailable),
        (200, b'{"code":500,"message":"no prometheus"}', Unavailable),
        (200, b"[]", Unavailable),
        (503, b"", Unavailable),
        (404, b"", MlplatformError),
    ],
)
def test_answers_that_are_none(
    server: Answering, status: int, body: bytes, kind: type[MlplatformError]
) -> None:
    server.status, server.body = status, body
    with pytest.raises(kind):
        open_billing(url_of(server)).fetch(TODAY, lambda name, told: None)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("opencost+https://", "names no host"),
        ("opencost+http://opencost.example:9003", "plain HTTP"),
        ("opencost+https://h?currency=euro", "currency='euro'"),
        ("opencost+https://h?months=14", "months='14'"),
        ("opencost+https://h?window=7d", "unknown option 'window'"),
    ],
)
def test_urls_that_cannot_be_right(url: str, said: str) -> None:
    with pytest.raises(UsageError, match=re.escape(said)):
        open_billing(StoreURL.parse(url, noun="billing API"))
