"""An issuer of OpenID Connect tokens on this machine, served over TLS by a certificate of the
tests' own: its discovery document, its keys, and a runner's door at which jobs ask for tokens."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from tests.features.failover.authority import Authority

SUBJECT = "repo:acme/platform:environment:production"
BEARER = "the-runner-s-own-secret"
DISCOVERY = "/.well-known/openid-configuration"


@cache
def rsa_key(name: str) -> rsa.RSAPrivateKey:
    """A key by a name; the same name has the same key."""
    del name
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@cache
def ec_key() -> ec.EllipticCurvePrivateKey:
    """A key of the other kind."""
    return ec.generate_private_key(ec.SECP256R1())


@dataclass
class LocalIssuer:
    """What it serves; a case changes what it names."""

    authority: Authority
    url: str = ""
    documents: dict[str, Any] = field(default_factory=dict)
    """By path."""
    asked: list[str] = field(default_factory=list)
    token: str = ""
    """What a runner gives to who asks with its secret."""

    def begin(self, url: str) -> None:
        self.url = url
        ours = json.loads(RSAAlgorithm.to_jwk(rsa_key("ours").public_key()))
        other = json.loads(ECAlgorithm.to_jwk(ec_key().public_key()))
        self.documents[DISCOVERY] = {"issuer": url, "jwks_uri": f"{url}/keys"}
        self.documents["/keys"] = {
            "keys": [
                {**other, "kid": "curve", "use": "sig", "alg": "ES256"},
                {**ours, "kid": "one", "use": "sig", "alg": "RS256"},
                {**ours, "kid": "to-encrypt-with", "use": "enc"},
                {"kty": "oct", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0", "kid": "shared"},
                {"kty": "of a later day", "kid": "unknown"},
            ]
        }

    def claims(self, **changed: Any) -> dict[str, Any]:
        """Of a token that is right, but for what is changed; None leaves one out."""
        now = datetime.now(UTC)
        told = {
            "iss": self.url,
            "sub": SUBJECT,
            "aud": "mlplatform",
            "iat": now,
            "nbf": now,
            "exp": now + timedelta(minutes=5),
            "repository": "acme/platform",
            "actor": "alice",
            **changed,
        }
        return {name: value for name, value in told.items() if value is not None}

    def signed(
        self, key: Any = None, algorithm: str = "RS256", kid: str | None = "one", **changed: Any
    ) -> str:
        """A token."""
        headers = {"kid": kid} if kid is not None else None
        return jwt.encode(
            self.claims(**changed), key or rsa_key("ours"), algorithm, headers=headers
        )


@contextmanager
def issuing(folder: Path) -> Iterator[LocalIssuer]:
    """It listens as long as this lasts."""
    authority = Authority(folder)
    issuer = LocalIssuer(authority)

    class Door(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            issuer.asked.append(self.path)
            parts = urlsplit(self.path)
            found = issuer.documents.get(parts.path)
            if parts.path == "/runner/token":
                if self.headers.get("Authorization") != f"Bearer {BEARER}":
                    self.send_error(403)
                    return
                found = {"value": issuer.token, "for": parse_qs(parts.query)["audience"]}
            if found is None:
                self.send_error(404)
                return
            body = json.dumps(found).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
            del format, arguments

    server = ThreadingHTTPServer(("127.0.0.1", 0), Door)
    context = authority.identity("127.0.0.1").server()
    server.socket = context.wrap_socket(server.socket, server_side=True)
    issuer.begin(f"https://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield issuer
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
