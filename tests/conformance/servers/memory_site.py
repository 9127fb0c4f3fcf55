"""Sites of the memory keeper."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlplatform.adapters.memory_servers import MemoryServers
from mlplatform.core.errors import Unavailable
from mlplatform.ports.servers import Ailing, Servers, ServersFeatures, ServersState, Stuck

from .site import Site

_START_SECONDS, _GRACE_SECONDS = 0.02, 0.3


class Keeper(MemoryServers):
    """One whose servers state what was published, and may be made to crash one by one."""

    def __init__(self) -> None:
        super().__init__(start_seconds=_START_SECONDS, grace_seconds=_GRACE_SECONDS)

    def crash_at(self, address: str) -> None:
        with self._lock:
            for held in self._groups.values():
                for server in held.servers:
                    if server.address == address:
                        server.ill = Ailing(address, Stuck.CRASH, "it was told to")
                        held.crashes += 1

    def scale(
        self, version: str, servers: int, *, digest: str, epoch: int, writer: str
    ) -> ServersState:
        stated = digest_of(version)
        if digest not in ("", stated):
            reason = f"it states {stated}, not {digest}"
            self.broken[version] = Ailing("memory", Stuck.CONFIGURATION, reason)
        return super().scale(version, servers, digest=digest, epoch=epoch, writer=writer)


def digest_of(version: str) -> str:
    return f"blake3:{version.encode().hex():0>64}"


class _Line:
    """A client of the keeper, with a line that can be cut."""

    def __init__(self, site: MemorySite) -> None:
        self._site = site

    @property
    def url(self) -> str:
        return self._site.keeper.url

    @property
    def features(self) -> ServersFeatures:
        return self._site.keeper.features

    def read(self) -> ServersState:
        self._pass()
        return self._site.keeper.read()

    def scale(
        self, version: str, servers: int, *, digest: str, epoch: int, writer: str
    ) -> ServersState:
        self._pass()
        return self._site.keeper.scale(version, servers, digest=digest, epoch=epoch, writer=writer)

    def _pass(self) -> None:
        if self._site.cut:
            raise Unavailable("connection refused", store=self.url)


class MemorySite(Site):
    """The memory keeper itself, and lines to it."""

    def __init__(self, keeper: Keeper | None = None) -> None:
        self.keeper = keeper or Keeper()
        self.cut = False

    def open(self) -> Servers:
        return _Line(self)

    def digest(self, version: str) -> str:
        return digest_of(version)

    def answers(self, address: str) -> str:
        groups = self.keeper.read().groups.values()
        return next(group.version for group in groups if address in group.ready)

    def crash(self, address: str) -> None:
        self.keeper.crash_at(address)

    @contextmanager
    def unreachable(self) -> Iterator[None]:
        self.cut = True
        yield
        self.cut = False


@contextmanager
def memory(_: Path) -> Iterator[Site]:
    yield MemorySite()
