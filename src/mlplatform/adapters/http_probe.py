"""One HTTP request over plain sockets, so that each phase is timed by itself and the whole has one
deadline: a server that sends a byte now and then is told from one that answers.

TLS is verified: the chain, the name and the dates, against the system's authorities, or those that
`SSL_CERT_FILE` names. Where a name has several addresses they race as RFC 8305 ("Happy Eyeballs")
has it, so that a broken path over IPv6 costs a client as much as it costs a browser.
"""

from __future__ import annotations

import errno
import http.client
import io
import ipaddress
import logging
import os
import selectors
import socket
import ssl
import threading
import time
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import closing, suppress
from datetime import UTC, datetime
from itertools import chain, zip_longest
from typing import Any
from urllib.parse import SplitResult, urlsplit

from mlplatform.ports.probe import Answer, Probe, Question

log = logging.getLogger(__name__)

ANSWER_BYTES_MAX = 8 * 1024**2
_ATTEMPT_DELAY_SECONDS = 0.25
"""RFC 8305, section 5: how long the next address waits for the one before."""
_HEADERS = {
    "User-Agent": "mlplatform-probe",
    "Accept": "*/*",
    "Accept-Encoding": "identity",
    "Cache-Control": "no-store",
    "Connection": "close",
}

Address = tuple[int, Any]
"""Family, and what `connect` takes."""


def open_probe() -> Probe:
    """A probe that trusts whom the system trusts."""
    return HttpProbe()


class _Failed(Exception):
    """A phase failed; `error` is one of the port's words."""

    def __init__(self, error: str, detail: str) -> None:
        super().__init__(detail)
        self.error = error
        self.detail = detail


class _Attempt:
    """One question under way: what is known of it so far, and how long it still has."""

    def __init__(self, timeout_seconds: float) -> None:
        self.timeout_seconds = timeout_seconds
        self.began = self.mark = time.perf_counter()
        self.deadline = self.began + timeout_seconds
        self.phase = "dns"
        self.known: dict[str, Any] = {}

    def left(self) -> float:
        """Seconds that are left; `_Failed` when none are."""
        left = self.deadline - time.perf_counter()
        if left <= 0:
            raise self.timed_out()
        return left

    def timed_out(self) -> _Failed:
        return _Failed("timeout", f"{self.timeout_seconds:g} s passed in {self.phase}")

    def done(self, phase: str, then: str) -> None:
        """`phase` has ended well, and `then` begins."""
        now = time.perf_counter()
        self.known[f"{phase}_seconds"] = now - self.mark
        self.mark, self.phase = now, then

    def answer(self, error: str = "", detail: str = "") -> Answer:
        seconds = time.perf_counter() - self.began
        return Answer(seconds=seconds, error=error, detail=detail, **self.known)


class HttpProbe:
    """Asks over TCP and TLS. Safe to share between threads."""

    def __init__(self, *, context: ssl.SSLContext | None = None) -> None:
        self._context = context
        self._lock = threading.Lock()
        self._lookups: dict[tuple[str, int], Future[list[Address]]] = {}

    def ask(self, question: Question, *, timeout_seconds: float) -> Answer:
        """See the port."""
        attempt = _Attempt(timeout_seconds)
        try:
            self._ask(question, attempt)
        except _Failed as failed:
            return attempt.answer(failed.error, failed.detail)
        except Exception as error:  # a measurement that breaks is still one
            log.exception("a probe failed in a way it should not")
            return attempt.answer("answer", f"internal error: {type(error).__name__}: {error}")
        return attempt.answer()

    def _ask(self, question: Question, attempt: _Attempt) -> None:
        try:
            url = urlsplit(question.url)
            host = _ascii(url.hostname or "")
            port = url.port or (443 if url.scheme == "https" else 80)
            request = _request(question, url, host)
        except ValueError as error:  # UnicodeError is one
            raise _Failed("dns", f"{question.url}: {error}") from error
        addresses = self._addresses(host, port, attempt)
        attempt.done("dns", "connect")
        connected = _connect(addresses, attempt)
        attempt.done("connect", "tls" if url.scheme == "https" else "first byte")
        with closing(connected):
            if url.scheme == "https":
                with closing(self._secured(connected, host, attempt)) as secured:
                    attempt.done("tls", "first byte")
                    _exchange(secured, question, request, attempt)
            else:
                _exchange(connected, question, request, attempt)

    # --- DNS ------------------------------------------------------------------------------------

    def _addresses(self, host: str, port: int, attempt: _Attempt) -> list[Address]:
        with suppress(ValueError):
            literal = ipaddress.ip_address(host)
            family = socket.AF_INET6 if literal.version == 6 else socket.AF_INET
            return [(family, (host, port))]
        try:
            return self._lookup(host, port).result(timeout=attempt.left())
        except FutureTimeout as late:
            raise attempt.timed_out() from late
        except (OSError, UnicodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise _Failed("dns", f"{host}: {reason}") from error

    def _lookup(self, host: str, port: int) -> Future[list[Address]]:
        """The system's resolver has no time limit, so that it is asked in a thread of its own, of
        which there is one a name: a resolver that hangs does not fill the process with threads."""
        with self._lock:
            under_way = self._lookups.get((host, port))
            if under_way is not None:
                return under_way
            future: Future[list[Address]] = Future()
            self._lookups[host, port] = future

        def resolve() -> None:
            try:
                found = _resolve(host, port)
            except BaseException as error:
                self._ended(host, port)
                future.set_exception(error)
            else:
                self._ended(host, port)
                future.set_result(found)

        threading.Thread(target=resolve, name="mlplatform-resolve", daemon=True).start()
        return future

    def _ended(self, host: str, port: int) -> None:
        with self._lock:
            del self._lookups[host, port]

    # --- TLS ------------------------------------------------------------------------------------

    def _secured(self, connected: socket.socket, host: str, attempt: _Attempt) -> ssl.SSLSocket:
        try:
            connected.settimeout(attempt.left())
            # One deadline holds for the whole handshake, however many packets it takes.
            secured = self._tls().wrap_socket(connected, server_hostname=host)
        except ssl.SSLCertVerificationError as error:
            raise _Failed("certificate", error.verify_message or str(error)) from error
        except TimeoutError as error:
            raise attempt.timed_out() from error
        except ssl.SSLError as error:
            raise _Failed("tls", error.reason or str(error)) from error
        except OSError as error:
            raise _lost(error, attempt) from error
        shown: Any = secured.getpeercert() or {}
        if "notAfter" in shown:
            expires = datetime.fromtimestamp(ssl.cert_time_to_seconds(shown["notAfter"]), UTC)
            attempt.known["certificate_expires_at"] = expires
        return secured

    def _tls(self) -> ssl.SSLContext:
        with self._lock:
            if self._context is None:
                self._context = ssl.create_default_context()
                self._context.set_alpn_protocols(["http/1.1"])
            return self._context


def _ascii(host: str) -> str:
    """The name as DNS and certificates have it."""
    return host if host.isascii() else host.encode("idna").decode()


def _resolve(host: str, port: int) -> list[Address]:
    """The addresses of a name, the families by turns, the system's favourite first."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    first = [(family, address) for family, *_, address in found if family == found[0][0]]
    others = [(family, address) for family, *_, address in found if family != found[0][0]]
    turns = chain.from_iterable(zip_longest(first, others))
    return [address for address in turns if address is not None]


# --- connecting ---------------------------------------------------------------------------------


def _connect(addresses: list[Address], attempt: _Attempt) -> socket.socket:
    """The first connection that comes about. The next address is tried when the one before has
    failed, or has not answered for a quarter of a second."""
    waiting = list(addresses)
    errors: list[OSError] = []
    with selectors.DefaultSelector() as selector:
        try:
            while waiting or selector.get_map():
                if waiting:
                    _begin(waiting.pop(0), selector, errors)
                    if not selector.get_map():
                        continue
                patience = _ATTEMPT_DELAY_SECONDS if waiting else attempt.left()
                for key, _ in selector.select(min(patience, attempt.left())):
                    connected: socket.socket = selector.unregister(key.fileobj).data
                    code = connected.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                    if not code:
                        return connected
                    connected.close()
                    errors.append(OSError(code, os.strerror(code)))
        finally:
            for key in list(selector.get_map().values()):
                key.data.close()
    raise _no_way(errors[-1] if errors else OSError(0, "it has no address"), attempt)


def _begin(address: Address, selector: selectors.BaseSelector, errors: list[OSError]) -> None:
    family, where = address
    try:
        started = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        errors.append(error)
        return
    started.settimeout(0)
    code = started.connect_ex(where)
    if code in (0, errno.EINPROGRESS, errno.EWOULDBLOCK):
        selector.register(started, selectors.EVENT_WRITE, started)
        return
    started.close()
    errors.append(OSError(code, os.strerror(code)))


def _no_way(error: OSError, attempt: _Attempt) -> _Failed:
    if error.errno == errno.ETIMEDOUT:
        return _Failed("timeout", f"{error.strerror} in {attempt.phase}")
    return _Failed("refused", error.strerror or str(error))


def _lost(error: OSError, attempt: _Attempt) -> _Failed:
    """What an error on an open connection means."""
    if isinstance(error, TimeoutError):
        return attempt.timed_out()
    if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError):
        return _Failed("tls", error.reason or str(error))
    return _Failed("reset", f"{error.strerror or error} in {attempt.phase}")


# --- HTTP ---------------------------------------------------------------------------------------


class _Incoming(io.RawIOBase):
    """What the other side sends, under the deadline and up to a size."""

    def __init__(self, connected: socket.socket, attempt: _Attempt) -> None:
        super().__init__()
        self._connected = connected
        self._attempt = attempt
        self.received_bytes = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._connected.settimeout(self._attempt.left())
        try:
            count = self._connected.recv_into(buffer)
        except OSError as error:
            raise _lost(error, self._attempt) from error
        if count and not self.received_bytes:
            self._attempt.done("first_byte", "reading")
        self.received_bytes += count
        if self.received_bytes > ANSWER_BYTES_MAX:
            raise _Failed("answer", f"more than {ANSWER_BYTES_MAX} bytes")
        return count

    def makefile(self, *_: Any) -> io.BufferedReader:
        """What `HTTPResponse` asks of a socket."""
        return io.BufferedReader(self)


def _request(question: Question, url: SplitResult, host: str) -> bytes:
    target = (url.path or "/") + (f"?{url.query}" if url.query else "")
    name = f"[{host}]" if ":" in host else host
    headers = {"Host": f"{name}:{url.port}" if url.port else name, **_HEADERS, **question.headers}
    if question.body:
        headers |= {"Content-Length": str(len(question.body))}
    lines = [
        f"{question.method} {target} HTTP/1.1",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    if any(character in line for line in lines for character in "\r\n"):
        raise ValueError("holds a line break")
    return "\r\n".join([*lines, "", ""]).encode("ascii") + question.body


def _exchange(
    connected: socket.socket, question: Question, request: bytes, attempt: _Attempt
) -> None:
    _send(connected, request, attempt)
    incoming: Any = _Incoming(connected, attempt)
    with closing(http.client.HTTPResponse(incoming, method=question.method)) as response:
        try:
            response.begin()
            attempt.known["status"] = response.status
            attempt.known["headers"] = {
                name.lower(): value for name, value in response.getheaders()
            }
            body = response.read()
        except http.client.RemoteDisconnected as error:
            raise _Failed("reset", "closed without an answer") from error
        except http.client.HTTPException as error:
            detail = str(error) or type(error).__name__
            raise _Failed("answer", f"{type(error).__name__}: {detail[:100]!r}") from error
        except ValueError as error:  # lengths and chunks that are no numbers
            raise _Failed("answer", str(error)) from error
        attempt.known["body"] = body


def _send(connected: socket.socket, request: bytes, attempt: _Attempt) -> None:
    unsent = memoryview(request)
    while unsent:
        connected.settimeout(attempt.left())
        try:
            unsent = unsent[connected.send(unsent) :]
        except OSError as error:
            raise _lost(error, attempt) from error
