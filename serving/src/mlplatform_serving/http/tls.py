"""TLS from files, renewed as they change: a certificate lives for weeks, a pod for months."""

from __future__ import annotations

import asyncio
import logging
import ssl
from pathlib import Path

log = logging.getLogger(__name__)

LOOK_SECONDS = 2.0
_Stamp = tuple[tuple[int, int, int], ...]


class CertificateUnusable(Exception):
    """A file is missing or unreadable, or the two do not belong together."""


class Certificate:
    """A certificate chain and its key, and the context that presents them. Connections keep what
    they began with; a new one gets what the files hold. While these cannot be used, as between the
    writing of one and of the other, the last ones hold."""

    def __init__(self, certificate: Path, key: Path) -> None:
        self._files = (certificate, key)
        self._seen = self._stamp()
        self.context = _context()
        self._load(self.context)

    def renew(self) -> bool:
        """Look at the files; whether there are others now."""
        try:
            seen = self._stamp()
            if seen == self._seen:
                return False
            self._load(_context())  # tried, before the one in use is changed
            self._load(self.context)
        except CertificateUnusable as error:
            log.error("the certificate is not renewed: %s", error)
            return False
        self._seen = seen
        log.info("the certificate is renewed")
        return True

    async def watch(self) -> None:
        """Renew, now and then, until cancelled. On the loop, which makes no connection meanwhile:
        OpenSSL lets nobody change a context that another thread takes connections by."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self.renew()

    def _stamp(self) -> _Stamp:
        try:
            found = [path.stat() for path in self._files]
        except OSError as error:
            raise CertificateUnusable(f"{error.filename}: {error.strerror}") from error
        return tuple((each.st_mtime_ns, each.st_size, each.st_ino) for each in found)

    def _load(self, context: ssl.SSLContext) -> None:
        certificate, key = self._files
        try:
            # An encrypted key would make OpenSSL ask the terminal; it is refused instead.
            context.load_cert_chain(certificate, key, password=lambda: b"")
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            raise CertificateUnusable(
                f"{certificate} and {key} are no certificate and its key: "
                f"{getattr(error, 'strerror', None) or error}"
            ) from error


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context
