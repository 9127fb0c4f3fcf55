"""Why a request, or a load, was refused: one small tree, with the status that HTTP gives each.

The statuses are Triton's (400, 404, 500, 501, 503) and, where HTTP has a word of its own, that one:
401 who are you, 403 not you, 405, 413. A message is for clients: it names the model, the tensor and
the cause, and nothing of the inside.
"""

from __future__ import annotations


class ServingError(Exception):
    """What a client is told as `{"error": message}`."""

    status = 500

    def __init__(self, message: str, *, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.headers = headers


class BadRequest(ServingError):
    """What was sent cannot be right."""

    status = 400


class LoadFailed(BadRequest):
    """A model version cannot be loaded as it lies there. Triton answers 400."""


class Unauthenticated(ServingError):
    """No token, or one that nobody has given."""

    status = 401

    def __init__(self, message: str) -> None:
        super().__init__(message, headers=((b"www-authenticate", b"Bearer"),))


class Forbidden(ServingError):
    """The token is known, and is for something else; or nobody may."""

    status = 403


class NotFound(ServingError):
    """There is no such model, version or path."""

    status = 404


class MethodNotAllowed(ServingError):
    """The path is right and the method is not."""

    status = 405

    def __init__(self, allowed: str) -> None:
        super().__init__(f"use {allowed}", headers=((b"allow", allowed.encode()),))


class TooLarge(ServingError):
    """The body is larger than the server takes."""

    status = 413


class Unavailable(ServingError):
    """Not now: not loaded yet, stopping, or a full queue."""

    status = 503


class ClientGone(Exception):
    """Nobody is there to be answered."""


class InferenceFailed(ServingError):
    """The model failed; the log has why."""
