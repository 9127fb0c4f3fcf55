"""Heads of answers are read as the standard library reads them, only sooner, and whole."""

from __future__ import annotations

import socket
from http.client import BadStatusLine, HTTPException, HTTPResponse, LineTooLong, RemoteDisconnected

import pytest

from mlplatform.adapters.s3_wire import _Response

HEADS = {
    "plain": b'HTTP/1.1 200 OK\r\nContent-Length: 5\r\nETag: "a"\r\n\r\nhello',
    "names in any case": b'HTTP/1.1 206 Partial\r\ncontent-length:5\r\nETAG:  "a" \r\n\r\nhello',
    "continued first": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "chunked and a length": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n"
    b"Content-Length: 99\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "no length": b"HTTP/1.1 200 OK\r\n\r\nhello",
    "a length that is none": b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nhello",
    "closing": b"HTTP/1.1 503 Slow Down\r\nConnection: Close\r\nContent-Length: 5\r\n\r\nhello",
    "old": b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    "old but kept": b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 5\r\n\r\nhello",
    "no content": b"HTTP/1.1 204 No Content\r\n\r\n",
    "no reason": b"HTTP/1.1 404\r\nContent-Length: 0\r\n\r\n",
    "a header twice": b"HTTP/1.1 200 OK\r\nX: 1\r\nX: 2\r\nContent-Length: 0\r\n\r\n",
    "bare newlines": b"HTTP/1.1 200 OK\nContent-Length: 5\n\nhello",
    "bytes over 127": b"HTTP/1.1 200 OK\r\nX-Name: \xfc\r\nContent-Length: 0\r\n\r\n",
}


def read(kind: type[HTTPResponse], raw: bytes, method: str = "GET") -> HTTPResponse:
    near, far = socket.socketpair()
    with near, far:
        far.sendall(raw)
        far.shutdown(socket.SHUT_WR)
        response = kind(near, method=method)
        response.begin()
        return response


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("name", HEADS)
def test_what_is_understood(name: str, method: str) -> None:
    ours, theirs = (read(kind, HEADS[name], method) for kind in (_Response, HTTPResponse))
    for what in ("status", "version", "chunked", "length", "will_close"):
        assert getattr(ours, what) == getattr(theirs, what), what
    assert [(name, value.strip()) for name, value in theirs.headers.items()] == ours.headers.items()
    assert ours.read() == theirs.read()


@pytest.mark.parametrize(
    ("raw", "error"),
    [
        (b"", RemoteDisconnected),
        (b"SSH-2.0-OpenSSH\r\n", BadStatusLine),
        (b"HTTP/1.1 abc OK\r\n\r\n", BadStatusLine),
        (b"HTTP/2 200\r\n\r\n", BadStatusLine),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n", HTTPException),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000 + b"\r\n\r\n", LineTooLong),
    ],
)
def test_what_is_not(raw: bytes, error: type[HTTPException]) -> None:
    with pytest.raises(error):
        read(_Response, raw)


def test_a_head_that_is_cut_off_anywhere() -> None:
    """The standard library takes what came for all there is."""
    whole = b'HTTP/1.1 200 OK\r\nContent-Length: 5\r\nETag: "a"\r\n\r\n'
    for size_bytes in range(len(whole)):
        with pytest.raises(RemoteDisconnected):
            read(_Response, whole[:size_bytes])
