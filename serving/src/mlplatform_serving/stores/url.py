"""Store URLs as the control plane's topology writes them: `file:///srv/models`, `s3://bucket/prefix`,
`gs://bucket`, `az://account/container`, each with `?option=value`. They select a store and never
carry a secret: those come from the environment, or from the machine's own identity."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote, urlsplit

SCHEMES = ("file", "s3", "gs", "az")
_OURS = frozenset({"endpoint", "region", "insecure", "ca_bundle", "stall_seconds"})
_WRITERS = frozenset(
    {
        *("dialect", "checksum", "storage_class", "tags", "encryption_scope", "kms_key"),
        *("kms_key_id", "sse", "acl"),
    }
)
"""What concerns whoever writes. A topology's URL can be given as it is."""
_SECRET_WORDS = ("secret", "password", "token", "signature", "sig", "key_id", "access_key")


class StoreURLWrong(Exception):
    """It names no store; the message says why and repeats no secret."""


@dataclass(frozen=True, slots=True)
class StoreURL:
    """A store, split but not yet interpreted."""

    scheme: str
    authority: str
    path: str
    options: dict[str, str]

    @classmethod
    def parse(cls, text: str) -> StoreURL:
        """`StoreURLWrong` says what is wrong with it."""
        parts = urlsplit(text)
        if "://" not in text or parts.scheme not in SCHEMES:
            schemes = ", ".join(f"{scheme}://" for scheme in SCHEMES)
            raise StoreURLWrong(f"a store's URL begins with one of {schemes}")
        if parts.username or parts.password:
            raise StoreURLWrong("it carries credentials; these come from the environment")
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        for name in options:
            if name not in _WRITERS and any(word in name.lower() for word in _SECRET_WORDS):
                raise StoreURLWrong(
                    f"option {name} looks like a secret; these come from the environment"
                )
            if name not in _OURS | _WRITERS:
                raise StoreURLWrong(f"unknown option {name}; there are {', '.join(sorted(_OURS))}")
        url = cls(parts.scheme, parts.netloc, unquote(parts.path), options)
        url._check()
        return url

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.path}".rstrip("/")

    def _check(self) -> None:
        if self.scheme == "file":
            if self.authority not in ("", "localhost") or not self.path.strip("/"):
                raise StoreURLWrong("a folder is file:///and/its/path")
        elif not self.authority:
            raise StoreURLWrong(f"{self.scheme}:// wants a bucket or an account after it")
        if self.scheme == "az" and not self.path.strip("/"):
            raise StoreURLWrong("write az://account/container")
        _ = self.endpoint, self.stall_seconds

    @property
    def endpoint(self) -> str | None:
        """Another server than the provider's own. Plain HTTP needs loopback, or asking."""
        endpoint = self.options.get("endpoint")
        if endpoint is None:
            return None
        parts = urlsplit(endpoint)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
            raise StoreURLWrong("endpoint is no http(s) URL without credentials")
        if parts.scheme == "http" and not (self.on_this_machine or self._insecure):
            raise StoreURLWrong("endpoint is plain HTTP: use https, or add insecure=true")
        return endpoint.rstrip("/")

    @property
    def _insecure(self) -> bool:
        return self.options.get("insecure", "false").lower() in ("true", "1", "yes", "")

    @property
    def on_this_machine(self) -> bool:
        """Whether the endpoint can only be here."""
        host = urlsplit(self.options.get("endpoint", "")).hostname or ""
        try:
            return host == "localhost" or ipaddress.ip_address(host).is_loopback
        except ValueError:
            return False

    @property
    def stall_seconds(self) -> int:
        """How long one read may take."""
        text = self.options.get("stall_seconds", "60")
        if not text.isdigit() or not 0 < int(text) < 86_400:
            raise StoreURLWrong("stall_seconds is no number of seconds")
        return int(text)
