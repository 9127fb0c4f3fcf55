"""Which actuators the traffic suite runs on, and which clauses each of them does not uphold.

A row for a new one is one `Row`: how a site is made on it (see `site.py`), and the session fixture
that gives the server, if it is a real one. `breaks` is as binding as the store suite's: a clause
in it still runs, and has to fail.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from . import (
    caddy_site,
    caddy_versions_site,
    dns_site,
    gateway_api_site,
    gateway_versions_site,
    memory_site,
    route53_site,
)
from .site import Site

TABLE = "tests/conformance/traffic/matrix.py"


@dataclass(frozen=True)
class Row:
    """One actuator: an adapter on a server, or on a dialect of one."""

    server: str
    scheme: str
    site: Callable[[Any], AbstractContextManager[Site]]
    """A fresh site. It is given the server, or a fresh folder where there is no `fixture`."""
    fixture: str | None = None
    """The session fixture that gives the server."""
    breaks: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.server


ROWS: tuple[Row, ...] = (
    Row("memory", "memory", memory_site.weighted),
    Row("memory-like-dns", "memory", memory_site.in_or_out),
    Row("caddy", "caddy", caddy_site.caddy, "caddy"),
    Row("caddy-versions", "caddy", caddy_versions_site.caddy_versions, "caddy"),
    Row("bind", "rfc2136", dns_site.bind_pair, "bind"),
    Row("powerdns", "rfc2136", dns_site.powerdns, "powerdns"),
    Row("kubernetes", "httproute", gateway_api_site.gateway_api, "kubernetes"),
    Row(
        "kubernetes-versions",
        "httproute",
        gateway_versions_site.gateway_versions,
        "kubernetes",
    ),
    Row("strict-fake", "route53", route53_site.route53),
)
