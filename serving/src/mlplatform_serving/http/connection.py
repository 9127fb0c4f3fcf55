"""HTTP/1.1 as uvicorn and httptools speak it, with the limits that they leave open: the number of
chunks, and the size of the headers."""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

CHUNKS_MAX = 65_536
"""As Triton since CVE-2025-23310: each chunk costs, however little is in it."""
HEADER_BYTES_MAX = 64 * 1024


class _TooMany(Exception):
    """Ends the parsing, and with it the connection."""


class LimitedProtocol(HttpToolsProtocol):
    """One connection. What breaks a limit is answered by 400, and the connection ends."""

    _chunks = 0
    _header_bytes = 0

    def on_message_begin(self) -> None:
        """A new request."""
        super().on_message_begin()
        self._chunks = self._header_bytes = 0

    def on_url(self, url: bytes) -> None:
        """Part of the path."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header."""
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def on_chunk_header(self) -> None:
        """A chunk begins."""
        self._chunks += 1
        if self._chunks > CHUNKS_MAX:
            raise _TooMany

    def _count(self, size: int) -> None:
        self._header_bytes += size
        if self._header_bytes > HEADER_BYTES_MAX:
            raise _TooMany

    def send_400_response(self, msg: str) -> None:
        """The protocol's form of an error; uvicorn's own is plain text."""
        body = b'{"error":"this is no HTTP request that the server takes"}'
        head: list[Any] = [
            b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\nconnection: close\r\n",
            b"content-length: %d\r\n\r\n" % len(body),
            body,
        ]
        if not self.transport.is_closing():
            self.transport.write(b"".join(head))
            self.transport.close()
