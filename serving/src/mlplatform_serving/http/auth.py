"""Who may do what: bearer tokens, read from one file a scope.

Three scopes: infer, admin, metrics. Without a file the first and the last are open, and admin is
shut. A token that is known, but for another scope, is 403; one that nobody has given is 401. Health
and what is loaded are open: balancers and the control plane ask without a token.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path

from mlplatform_serving.errors import Forbidden, Unauthenticated

_REREAD_SECONDS = 1.0
ADMIN_HEADER = b"x-mlplatform-admin-token"
"""Says the same as a bearer token, where a proxy keeps `Authorization` to itself."""


class Scope(Enum):
    """What a token is for."""

    OPEN = "open"
    INFER = "infer"
    ADMIN = "admin"
    METRICS = "metrics"


class TokensUnreadable(Exception):
    """A token file is missing, unreadable, or has no token in it."""


def _digest(token: bytes) -> bytes:
    # Of equal length, so that comparing tells nothing of a token's own.
    return hashlib.sha256(token).digest()


class TokenFile:
    """The tokens of one scope, one a line; `#` begins a comment. Read anew when the file changes,
    since secrets are renewed under a running pod; while it cannot be read, the last ones hold."""

    def __init__(self, path: Path, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._monotonic = monotonic
        self._looked = monotonic()
        self._seen = self._stamp()
        self._digests = self._read()

    def has(self, token: bytes) -> bool:
        """Whether it is one of them. The time this takes does not depend on which."""
        now = self._monotonic()
        if now - self._looked >= _REREAD_SECONDS:
            self._looked = now
            self._renew()
        given = _digest(token)
        found = False
        for digest in self._digests:
            found |= hmac.compare_digest(digest, given)
        return found

    def _renew(self) -> None:
        try:
            seen = self._stamp()
            if seen != self._seen:
                self._digests, self._seen = self._read(), seen
        except TokensUnreadable:
            pass

    def _stamp(self) -> tuple[int, int, int]:
        try:
            status = self._path.stat()
        except OSError as error:
            raise TokensUnreadable(f"{self._path}: {error.strerror}") from error
        return status.st_mtime_ns, status.st_size, status.st_ino

    def _read(self) -> list[bytes]:
        try:
            lines = self._path.read_bytes().splitlines()
        except OSError as error:
            raise TokensUnreadable(f"{self._path}: {error.strerror}") from error
        tokens = [line.strip() for line in lines]
        digests = [_digest(token) for token in tokens if token and not token.startswith(b"#")]
        if not digests:
            raise TokensUnreadable(f"{self._path}: there is no token in it")
        return digests


class Gate:
    """Lets a request in, or says why not."""

    def __init__(self, files: Mapping[Scope, Path | None]) -> None:
        """`TokensUnreadable` unless every file that is named can be read."""
        self._files = {scope: TokenFile(path) for scope, path in files.items() if path is not None}

    @property
    def guarded(self) -> frozenset[Scope]:
        """The scopes for which a token is asked; or for which none would do."""
        return frozenset({*self._files, Scope.ADMIN})

    def check(self, scope: Scope, headers: Mapping[bytes, bytes]) -> None:
        """`Unauthenticated` or `Forbidden` unless the request may."""
        if scope is Scope.OPEN:
            return
        tokens = self._files.get(scope)
        if tokens is None:
            if scope is Scope.ADMIN:
                raise Forbidden("the admin door is shut: the server was given no ADMIN_TOKEN_FILE")
            return
        token = _token(scope, headers)
        if token is None:
            raise Unauthenticated("401 Unauthorized: this wants a bearer token")
        if tokens.has(token):
            return
        if any(other.has(token) for other in self._files.values()):
            raise Forbidden(f"403 Forbidden: the token is not one for {scope.value}")
        raise Unauthenticated("401 Unauthorized: nobody has been given this token")


def _token(scope: Scope, headers: Mapping[bytes, bytes]) -> bytes | None:
    kind, _, token = headers.get(b"authorization", b"").partition(b" ")
    if kind.lower() == b"bearer" and token.strip():
        return token.strip()
    if scope is Scope.ADMIN and (token := headers.get(ADMIN_HEADER, b"").strip()):
        return token
    return None
