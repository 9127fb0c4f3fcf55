"""Store URLs: `scheme://container/prefix?option=value`, and actuators', which have the same form.
They select; they never carry a secret."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote, urlsplit

from mlplatform.core.errors import UsageError

_EXAMPLES = {
    "store URL": "write e.g. file:///srv/models, s3://bucket, gs://bucket, az://account/container",
    "actuator": "write e.g. caddy://127.0.0.1:2019/api, rfc2136://server/zone/name",
}
_SECRET_WORDS = (
    "secret",
    "password",
    "token",
    "signature",
    "sig",
    "key_id",
    "access_key",
)


@dataclass(frozen=True, slots=True)
class StoreURL:
    """One region's store, a control store or a route's actuator, split but not yet interpreted:
    what authority and path mean is the adapter's business."""

    text: str
    scheme: str
    authority: str
    path: str
    options: dict[str, str]
    noun: str = "store URL"
    """What errors call it."""

    @classmethod
    def parse(cls, text: str, *, noun: str = "store URL") -> StoreURL:
        """Read a URL; `UsageError` names what is wrong with it, without repeating secrets."""
        parts = urlsplit(text)
        if not parts.scheme or "://" not in text:
            raise UsageError(
                f"{noun} {text!r} has no scheme",
                hint=_EXAMPLES.get(noun),
            )
        if parts.username or parts.password:
            raise UsageError(
                f"{noun} {parts.scheme}://…@{parts.hostname} carries credentials",
                hint="name a profile, file or role instead; secrets come from the environment",
            )
        options: dict[str, str] = {}
        for name, value in parse_qsl(parts.query, keep_blank_values=True):
            if name != "kms_key_id" and any(word in name.lower() for word in _SECRET_WORDS):
                raise UsageError(
                    f"{noun} {parts.scheme}://{parts.netloc}{parts.path}: option {name!r} "
                    "looks like a secret",
                    hint="secrets come from the environment or the SDK's own credential chain",
                )
            if name in options:
                raise UsageError(f"{noun} {text!r} gives {name!r} twice")
            options[name] = value
        return cls(text, parts.scheme, parts.netloc, unquote(parts.path), options, noun)

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.path}".rstrip("/")

    def reject_unknown(self, known: frozenset[str]) -> None:
        """`UsageError` for an option that the adapter does not have."""
        for name in self.options:
            if name not in known:
                raise UsageError(
                    f"{self.noun} {self}: unknown option {name!r}",
                    hint=f"known here: {', '.join(sorted(known)) or 'none'}",
                )

    def flag(self, name: str, *, default: bool = False) -> bool:
        """A yes/no option."""
        value = self.options.get(name)
        if value is None:
            return default
        if value.lower() in ("true", "1", "yes", ""):
            return True
        if value.lower() in ("false", "0", "no"):
            return False
        raise UsageError(f"{self.noun} {self}: {name}={value!r} is neither true nor false")

    def seconds(self, name: str, *, default: float) -> float:
        """A duration option in seconds."""
        value = self.options.get(name)
        if value is None:
            return default
        try:
            seconds = float(value)
        except ValueError:
            seconds = 0.0
        if not 0 < seconds < 86_400:
            raise UsageError(f"{self.noun} {self}: {name}={value!r} is not a number of seconds")
        return seconds

    def endpoint(self) -> str | None:
        """The endpoint to talk to, if one is given. Plain HTTP needs loopback or asking."""
        endpoint = self.options.get("endpoint")
        if endpoint is None:
            return None
        parts = urlsplit(endpoint)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(f"{self.noun} {self}: endpoint {endpoint!r} is not an http(s) URL")
        if parts.scheme == "http" and not (is_loopback(parts.hostname) or self.flag("insecure")):
            raise UsageError(
                f"{self.noun} {self}: endpoint {endpoint!r} is plain HTTP",
                hint="use https, or add insecure=true if the network between is trusted",
            )
        return endpoint.rstrip("/")


def is_loopback(host: str) -> bool:
    """Whether `host` can only be this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
