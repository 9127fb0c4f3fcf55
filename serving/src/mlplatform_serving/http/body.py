"""A request's body, under limits: its size as it comes and once it is unpacked, and the time that
it may take."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from mlplatform_serving.errors import BadRequest, ClientGone, ServingError, TooLarge

Receive = Callable[[], Awaitable[Any]]
_IN_A_THREAD_BYTES = 64 * 1024
"""What is packed or unpacked beyond this size would hold up the event loop."""
_LINGER = 16
_CLOSE = ((b"connection", b"close"),)
_WINDOWS = {b"gzip": 31, b"deflate": 15}
"""zlib's word for the form: gzip's, and its own, which HTTP calls deflate (RFC 9110, 8.4.1.2)."""


class BodyTimeout(ServingError):
    """The client has stalled."""

    status = 408


class BodyReader:
    """Reads bodies; one for each server.

    A timer for each body would cost more than most bodies take to read. One watches over all that
    are being read, and looks now and then.
    """

    def __init__(self, *, bytes_max: int, seconds_max: float) -> None:
        self._bytes_max = bytes_max
        self._seconds_max = seconds_max
        self._look_seconds = min(seconds_max / 4, 1.0)
        self._began: dict[asyncio.Task[Any], float] = {}
        self._late: set[asyncio.Task[Any]] = set()
        self._watching = False

    async def read(self, receive: Receive, headers: Mapping[bytes, bytes]) -> bytes:
        """The whole body, unpacked. `TooLarge`, `BadRequest`, `BodyTimeout` or `ClientGone`."""
        stated = int(headers.get(b"content-length", b"0"))
        if stated > self._bytes_max:
            # What was announced is let in and dropped, so that the client reads this answer before
            # its connection breaks; up to what is decent.
            raise _too_large(self._bytes_max, close=stated > _LINGER * self._bytes_max)
        body = await self._in_time(receive)
        encoding = headers.get(b"content-encoding", b"identity").lower()
        return body if encoding == b"identity" else await _unpacked(body, encoding, self._bytes_max)

    async def _in_time(self, receive: Receive) -> bytes:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a body is read in a task")
        loop = task.get_loop()
        self._began[task] = loop.time()
        if not self._watching:
            self._watching = True
            loop.call_later(self._look_seconds, self._look, loop)
        try:
            return await _received(receive, self._bytes_max)
        except asyncio.CancelledError:
            if task not in self._late:
                raise
            task.uncancel()
            raise BodyTimeout(
                f"the body took longer than {self._seconds_max:g} s", headers=_CLOSE
            ) from None
        finally:
            del self._began[task]
            self._late.discard(task)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        for task, began in self._began.items():
            if now - began >= self._seconds_max and task not in self._late:
                self._late.add(task)
                task.cancel()
        self._watching = bool(self._began)
        if self._watching:
            loop.call_later(self._look_seconds, self._look, loop)


async def _received(receive: Receive, bytes_max: int) -> bytes:
    message = await receive()
    body: bytes = message.get("body", b"")
    if not message.get("more_body"):
        if message["type"] == "http.disconnect":
            raise ClientGone
        return body
    pieces, size = [body], len(body)
    while message.get("more_body"):
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        pieces.append(message.get("body", b""))
        size += len(pieces[-1])
        if size > bytes_max:
            raise _too_large(bytes_max, close=True)
    return b"".join(pieces)


def _too_large(bytes_max: int, *, close: bool = False) -> TooLarge:
    return TooLarge(
        f"the body is larger than {bytes_max} bytes, which MAX_INPUT_SIZE_MB sets",
        headers=_CLOSE if close else (),
    )


async def _unpacked(body: bytes, encoding: bytes, bytes_max: int) -> bytes:
    window = _WINDOWS.get(encoding)
    if window is None:
        raise BadRequest("the Content-Encoding is none of gzip, deflate and identity")
    return await asyncio.to_thread(_unpack, body, window, bytes_max)


def _unpack(body: bytes, window: int, bytes_max: int) -> bytes:
    """Never more than `bytes_max`, whatever the body would become."""
    unpacker = zlib.decompressobj(window)
    try:
        unpacked = unpacker.decompress(body, bytes_max + 1)
    except zlib.error:
        raise BadRequest("the body is not what its Content-Encoding says") from None
    if len(unpacked) > bytes_max:
        raise _too_large(bytes_max)
    if not unpacker.eof or unpacker.unused_data:
        raise BadRequest("the body is cut short, or goes on after its end")
    return unpacked


def accepted_encoding(accept: bytes) -> bytes | None:
    """The one of gzip and deflate that the client names and does not refuse; gzip first."""
    wanted = {}
    for part in accept.lower().split(b","):
        name, _, quality = part.partition(b";")
        wanted[name.strip()] = quality.replace(b" ", b"") not in {b"q=0", b"q=0.0", b"q=0.00"}
    return next((name for name in _WINDOWS if wanted.get(name)), None)


async def packed(body: bytes, encoding: bytes) -> bytes:
    """The body in gzip or deflate; quickly rather than tightly."""
    if len(body) < _IN_A_THREAD_BYTES:
        return _pack(body, encoding)
    return await asyncio.to_thread(_pack, body, encoding)


def _pack(body: bytes, encoding: bytes) -> bytes:
    packer = zlib.compressobj(1, zlib.DEFLATED, _WINDOWS[encoding])
    return packer.compress(body) + packer.flush()
