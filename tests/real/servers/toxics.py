"""Bad weather between a client and a server, by toxiproxy's API.

    with between(toxiproxy, minio) as line:
        client = connect(line.url)
        line.add("latency", latency=200)            # towards the client
        line.add("limit_data", "upstream", bytes=1_000_000)
        line.cut()                                  # refuse and drop all connections
        line.calm()                                 # as if nothing had been

Toxics: ``latency``, ``bandwidth``, ``slow_close``, ``timeout`` (0: stalls without closing),
``reset_peer``, ``slicer``, ``limit_data``; their attributes are toxiproxy's.
"""

import contextlib
import json
import secrets
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from .launch import Endpoint

_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def _call(method: str, url: str, body: object = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    with _DIRECT.open(urllib.request.Request(url, data, method=method), timeout=10) as answer:
        return json.loads(answer.read() or b"null")


@dataclass(frozen=True)
class Line:
    """One proxied line to a server."""

    api: str  # of this proxy
    host: str
    port: int
    url: str  # the server's own URL, by way of the proxy

    def add(
        self,
        toxic: str,
        stream: Literal["upstream", "downstream"] = "downstream",
        toxicity: float = 1.0,
        **attributes: int,
    ) -> None:
        """Begin one kind of weather; it holds for connections that are open, too."""
        wanted = {"type": toxic, "stream": stream, "toxicity": toxicity, "attributes": attributes}
        _call("POST", f"{self.api}/toxics", {"name": f"{toxic}-{stream}", **wanted})

    def remove(self, toxic: str, stream: Literal["upstream", "downstream"] = "downstream") -> None:
        """End it."""
        _call("DELETE", f"{self.api}/toxics/{toxic}-{stream}")

    def cut(self) -> None:
        """Drop every connection, and refuse new ones."""
        _call("POST", self.api, {"enabled": False})

    def calm(self) -> None:
        """End all weather, and let connections through."""
        for toxic in _call("GET", f"{self.api}/toxics"):
            _call("DELETE", f"{self.api}/toxics/{toxic['name']}")
        _call("POST", self.api, {"enabled": True})


@contextlib.contextmanager
def between(toxiproxy: Endpoint, server: Endpoint) -> Iterator[Line]:
    """A line of its own to the server, for as long as the block lasts."""
    upstream = f"{server.host}:{server.port}"
    made = _call(
        "POST",
        f"{toxiproxy.url}/proxies",
        {
            "name": f"{server.name}-{secrets.token_hex(6)}",
            "listen": "127.0.0.1:0",  # the answer states the port
            "upstream": upstream,
        },
    )
    host, _, port = made["listen"].rpartition(":")
    api = f"{toxiproxy.url}/proxies/{made['name']}"
    try:
        yield Line(api, host, int(port), server.url.replace(upstream, f"{host}:{port}"))
    finally:
        _call("DELETE", api)
