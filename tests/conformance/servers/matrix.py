"""Which keepers of servers the suite runs on, and which clauses each of them does not uphold.

A row for a new one is one `Row`: how a site is made on it (see `site.py`), and the session fixture
that gives the server, if it needs one. `breaks` is as binding as the store suite's: a clause in it
still runs, and has to fail.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from . import deployments_site, memory_site, processes_site
from .site import Site

TABLE = "tests/conformance/servers/matrix.py"


@dataclass(frozen=True)
class Row:
    """One keeper: an adapter, and what it runs servers on."""

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
    Row("memory", "memory", memory_site.memory),
    Row("processes", "processes", processes_site.processes),
    Row("kubernetes", "deployments", deployments_site.deployments, "kubernetes_cluster"),
)
