"""What the clauses do over and over."""

from __future__ import annotations

from collections.abc import Callable

from mlplatform.ports.servers import Servers, ServersState
from tests.waiting import becomes

from .site import Site

WITHIN_SECONDS = 60.0


def until(servers: Servers, so: Callable[[ServersState], bool]) -> ServersState:
    """Read again and again until it is so."""
    return becomes(servers.read, so, within_seconds=WITHIN_SECONDS, every_seconds=0.03)


def have(site: Site, servers: Servers, version: str, count: int, epoch: int = 1) -> ServersState:
    """So many of a version, and all of them ready, with nobody else of it there."""
    ask(site, servers, version, count, epoch)

    def so(state: ServersState) -> bool:
        group = state.groups.get(version)
        if group is None:
            return count == 0
        return len(group.ready) == count and not group.ailing and not group.leaving

    return until(servers, so)


def ask(
    site: Site,
    servers: Servers,
    version: str,
    count: int,
    epoch: int = 1,
    writer: str = "controller-1",
) -> ServersState:
    """So many of a version, by its own digest."""
    return servers.scale(version, count, digest=site.digest(version), epoch=epoch, writer=writer)
