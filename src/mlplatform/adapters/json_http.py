"""HTTP services that speak JSON, over the standard library: for adapters that ask seldom.

TLS is verified; redirects are refused, since a credential must not follow one; proxies are taken
from the environment, as everybody's are, except on the way to this machine itself. One deadline
holds for the whole of a call, names and handshakes included, so that a service which sends a byte
now and then is told from one that answers. Answers and failures become our errors here, once.
"""

from __future__ import annotations

import http.client
import io
import json
import socket
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from mlplatform.core.errors import (
    ConditionFailed,
    Denied,
    NotFound,
    StoreError,
    Throttled,
    Unavailable,
)
from mlplatform.core.store_url import is_loopback

ANSWER_BYTES_MAX = 64 * 1024 * 1024
_TOLD_CHARACTERS = 300


@dataclass(frozen=True, slots=True)
class Answer:
    """What a service said. Names of headers are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self, *, where: str) -> Any:
        """The body. `Unavailable` if it is not JSON: whoever answered is not the service."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError) as error:
            raise Unavailable(f"the answer is not JSON: {self.body[:80]!r}", store=where) from error


class JSONService:
    """One service. `name` is what errors call it, the URL without its secrets unless given;
    `headers` go with every request; each call has `timeout_seconds` in all."""

    def __init__(
        self,
        base_url: str,
        *,
        timeout_seconds: float = 10.0,
        headers: Mapping[str, str] | None = None,
        name: str | None = None,
        context: ssl.SSLContext | None = None,
    ) -> None:
        parts = urlsplit(base_url)
        self._base = base_url.rstrip("/")
        self.name = name or f"{parts.scheme}://{parts.hostname}:{parts.port or ''}".rstrip(":")
        self._timeout_seconds = timeout_seconds
        self._headers = dict(headers or {})
        # A proxy's "this machine" is the proxy, and not everybody lists loopback in no_proxy.
        direct = [urllib.request.ProxyHandler({})] if is_loopback(parts.hostname or "") else []
        self._opener = urllib.request.build_opener(
            _Http(), _Https(context), _NoRedirects(), *direct
        )

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        headers: Mapping[str, str] | None = None,
        what: str = "",
    ) -> Answer:
        """One request; `body` is sent as JSON. `what` names the object in errors.

        `Denied` (401, 403), `NotFound` (404, 410), `ConditionFailed` (409, 412), `Throttled` (429,
        and 503 with Retry-After), `Unavailable` (5xx, time-outs, resets, answers cut short or
        beyond `ANSWER_BYTES_MAX`),
        `StoreError` for any other refusal.
        """
        data = None if body is None else json.dumps(body).encode()
        sent = {"Accept": "application/json", **self._headers, **(headers or {})}
        if data is not None:
            sent.setdefault("Content-Type", "application/json")
        request = urllib.request.Request(  # noqa: S310 - the topology allows http and https alone
            f"{self._base}{path}", data=data, headers=sent, method=method
        )
        try:
            answer = self._within(request)
        except urllib.error.URLError as error:
            raise Unavailable(_told(error.reason), store=self.name, key=what) from error
        except (http.client.HTTPException, OSError, ValueError) as error:
            raise Unavailable(_told(error), store=self.name, key=what) from error
        if not 200 <= answer.status < 300:
            raise self.refusal(answer, what)
        return answer

    def json(self, method: str, path: str, body: Any = None, **rest: Any) -> Any:
        """`ask`, and the JSON of the answer."""
        return self.ask(method, path, body, **rest).json(where=self.name)

    def _within(self, request: urllib.request.Request) -> Answer:
        """The answer, or `TimeoutError`. In a thread of its own: the system's resolver has no time
        limit. All that comes after it has the same deadline there, so that the thread ends."""
        future: Future[Answer] = Future()

        def ask() -> None:
            try:
                future.set_result(self._answer(request))
            except BaseException as error:
                future.set_exception(error)

        threading.Thread(target=ask, name="mlplatform-ask", daemon=True).start()
        try:
            return future.result(timeout=self._timeout_seconds)
        except FutureTimeout as late:
            raise TimeoutError from late

    def _answer(self, request: urllib.request.Request) -> Answer:
        try:
            response = self._opener.open(request, timeout=self._timeout_seconds)
        except urllib.error.HTTPError as refusal:
            response = refusal
        with response:
            body = response.read(ANSWER_BYTES_MAX + 1)
            if len(body) > ANSWER_BYTES_MAX:
                raise ValueError(f"an answer of more than {ANSWER_BYTES_MAX // 2**20} MiB")
            # A read with a limit does not mind. A refusal is one, whatever is left of its words.
            if response.length and response.status < 400:
                raise http.client.IncompleteRead(body, response.length)
            headers = {name.lower(): value for name, value in response.headers.items()}
            return Answer(response.status, headers, body)

    def refusal(self, answer: Answer, what: str) -> StoreError:
        """What an answer other than 2xx means; a service that has ways of its own overrides it."""
        said = answer.body[:_TOLD_CHARACTERS].decode(errors="replace").strip()
        text = f"HTTP {answer.status}{f': {said}' if said else ''}"
        wait = _retry_after_seconds(answer.headers.get("retry-after"))
        where = {"store": self.name, "key": what}
        if answer.status in (401, 403):
            return Denied(text, **where)
        if answer.status in (404, 410):
            return NotFound(text, **where)
        if answer.status in (409, 412):
            return ConditionFailed(text, **where)
        if answer.status == 429 or (answer.status == 503 and wait is not None):
            return Throttled(text, retry_after_seconds=wait, **where)
        if answer.status >= 500 or answer.status == 408:
            return Unavailable(text, **where)
        return StoreError(text, **where)


class _Incoming(io.RawIOBase):
    """What the other side sends, until a time."""

    def __init__(self, connected: socket.socket, until: float) -> None:
        super().__init__()
        self._connected = connected
        # A reference of its own: urllib closes the socket once the answer has begun.
        self._received = connected.makefile("rb", buffering=0)
        self._until = until

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._connected.settimeout(left)
        return self._received.readinto(buffer)

    def close(self) -> None:
        self._received.close()
        super().close()

    def makefile(self, *_: Any) -> io.BufferedReader:
        """What `HTTPResponse` asks of a socket."""
        return io.BufferedReader(self)


class _Connection(http.client.HTTPConnection):
    """One whose time-out is that of all that it does."""

    def __init__(self, host: str, *, timeout: float, **rest: Any) -> None:
        super().__init__(host, timeout=timeout, **rest)
        self._until = until = time.monotonic() + timeout

        def response(connected: socket.socket, *about: Any, **more: Any) -> Any:
            incoming: Any = _Incoming(connected, until)
            return http.client.HTTPResponse(incoming, *about, **more)

        self.response_class: Any = response

    def connect(self) -> None:
        """Nothing is sent once the time is over: whoever asked believes that it was not."""
        super().connect()
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self.sock.settimeout(left)


class _SecureConnection(_Connection, http.client.HTTPSConnection):
    """The same, over TLS."""


class _Http(urllib.request.HTTPHandler):
    def http_open(self, request: urllib.request.Request) -> Any:
        connection: Any = _Connection
        return self.do_open(connection, request)


class _Https(urllib.request.HTTPSHandler):
    """Who is trusted is read when TLS is spoken for the first time: that takes longer than most
    questions do, and one who asks hundreds of servers by plain HTTP does not need it."""

    def __init__(self, context: ssl.SSLContext | None) -> None:
        # Without one, the base class would read it.
        super().__init__(context=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
        self._trust = context

    def https_open(self, request: urllib.request.Request) -> Any:
        if self._trust is None:
            self._trust = ssl.create_default_context()
        connection: Any = _SecureConnection
        return self.do_open(connection, request, context=self._trust)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def _retry_after_seconds(value: str | None) -> float | None:
    """RFC 9110, 10.2.3: seconds, or a date."""
    if not value:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        at = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (at - datetime.now(UTC)).total_seconds()) if at.tzinfo else None


def _told(error: object) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not to be trusted: {error.verify_message}"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return str(error) or type(error).__name__
