"""Sites of the split in Caddy: the versions a, b and c of one model behind their doors."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from mlplatform.adapters.caddy_versions import (
    CaddyVersions,
    open_split,
    version_doors,
    version_route,
)
from mlplatform.core.store_url import StoreURL
from mlplatform.ports.traffic import equal_shares
from tests.real.servers.regions import Regions, regions

from .caddy_site import CaddySite, World
from .site import REGIONS, Site


class Entry(World):
    """A Caddy whose file has one route between versions, `behind.targets` by version, and their
    doors. Its `@id` is its own: sockets without a folder have one name on the whole machine."""

    def __init__(
        self,
        stack: ExitStack,
        behind: Regions,
        *,
        route: Mapping[str, Any] | None = None,
        doors: Mapping[str, Sequence[str]] | None = None,
        sockets: str | None = None,
        metrics: bool = True,
    ) -> None:
        name = f"m-{secrets.token_hex(4)}"
        there = version_doors(name, behind.targets if doors is None else doors, sockets=sockets)
        http = {"servers": there, **({"metrics": {}} if metrics else {})}
        self._sockets = sockets
        super().__init__(
            stack,
            behind,
            {"@id": name, **route} if route is not None else self._route_of(name, behind),
            apps=lambda admin: {"http": http},
        )

    def _route_of(self, name: str, behind: Regions) -> dict[str, Any]:
        shares = equal_shares(behind.targets)
        return version_route(name, list(behind.targets), shares, sockets=self._sockets)

    def split(
        self, *versions: str, route_id: str | None = None, timeout_seconds: float = 10.0
    ) -> CaddyVersions:
        """An adapter, by way of the detour."""
        here = f"{self.endpoint.host}:{self.endpoint.port}"
        detour = self.way.url.removeprefix("http://")
        sockets = f"&sockets={self._sockets}" if self._sockets else ""
        text = (
            f"caddy://{detour}/{route_id or self.route_id}?host={here}"
            f"&timeout_seconds={timeout_seconds:g}{sockets}"
        )
        url = StoreURL.parse(text, noun="actuator")
        return open_split(url, "magika", versions or tuple(self.behind.targets))


class VersionsSite(CaddySite):
    """The same route, of versions."""

    def __init__(self, entry: Entry) -> None:
        super().__init__(entry)
        self._entry = entry

    def open(self) -> CaddyVersions:
        return self._entry.split()


@contextmanager
def caddy_versions(_: Any) -> Iterator[Site]:
    with ExitStack() as stack:
        yield VersionsSite(Entry(stack, stack.enter_context(regions(REGIONS))))
