"""Servers and the split between their versions in this process's memory: `memory://name`. For
simulations and tests.

Both keep the whole contract of their ports. Servers start by a clock and may be told to crash or
never to start; the split counts what a test sends through it, by the weights that it holds.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from mlplatform.adapters.memory_traffic import MemoryTraffic
from mlplatform.core.errors import Fenced, UsageError
from mlplatform.core.seen import Unknown
from mlplatform.core.store_url import StoreURL
from mlplatform.ports.clock import Clock, SystemClock
from mlplatform.ports.servers import Ailing, Group, ServersFeatures, ServersState, Stuck
from mlplatform.ports.split import Counts
from mlplatform.ports.traffic import check_epoch

FEATURES = ServersFeatures(exercised="itself")


@dataclass(slots=True)
class _Server:
    address: str
    ready_at: float
    gone_at: float | None = None
    """When it will have gone, once it is told to end."""
    ill: Ailing | None = None


@dataclass(slots=True)
class _Held:
    digest: str
    wanted: int = 0
    crashes: int = 0
    servers: list[_Server] = field(default_factory=list)


class MemoryServers:
    """The servers of one model in one region. Whoever shares the object shares the servers."""

    def __init__(
        self,
        name: str = "memory",
        *,
        clock: Clock | None = None,
        start_seconds: float = 0.0,
        grace_seconds: float = 0.0,
    ) -> None:
        self._url = f"memory://{name}"
        self._clock: Clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._groups: dict[str, _Held] = {}
        self._epoch, self._writer, self._started = 0, "", 0
        self.start_seconds = start_seconds
        self.grace_seconds = grace_seconds
        self.broken: dict[str, Ailing] = {}
        """By version: what befalls each of its servers instead of getting ready."""

    def __repr__(self) -> str:
        return f"<MemoryServers {self._url}: {self.read()}>"

    @property
    def url(self) -> str:
        return self._url

    @property
    def features(self) -> ServersFeatures:
        return FEATURES

    def read(self) -> ServersState:
        with self._lock:
            return self._state()

    def scale(
        self, version: str, servers: int, *, digest: str, epoch: int, writer: str
    ) -> ServersState:
        if servers < 0:
            raise UsageError(f"{self._url}: {servers} servers of {version}")
        with self._lock:
            if self._epoch > epoch:
                raise Fenced(
                    f"{self._url} was written under epoch {self._epoch} by {self._writer}, ours is "
                    f"{epoch}",
                    hint="another controller has taken over",
                )
            self._epoch, self._writer = epoch, writer
            held = self._groups.get(version)
            if held is None:
                if not servers:
                    return self._state()
                held = self._groups[version] = _Held(digest)
            held.digest, held.wanted = digest or held.digest, servers
            now = self._clock.monotonic()
            for server in list(held.servers):
                if server.ill is not None and server.ill.state is Stuck.CRASH:
                    held.servers.remove(server)
            staying = [each for each in held.servers if each.gone_at is None]
            for server in staying[servers:]:
                server.gone_at = now + self.grace_seconds
            for _ in range(servers - len(staying)):
                self._started += 1
                ill = self.broken.get(version)
                held.crashes += ill is not None and ill.state is Stuck.CRASH
                held.servers.append(
                    _Server(f"memory-{self._started}:1", now + self.start_seconds, ill=ill)
                )
            return self._state()

    # What happens to servers beside the port.

    def crash(self, version: str, servers: int = 1) -> None:
        """So many of them end by themselves."""
        with self._lock:
            held = self._groups[version]
            for server in [s for s in held.servers if s.ill is None][:servers]:
                server.ill = Ailing(server.address, Stuck.CRASH, "it was told to")
                held.crashes += 1

    def _state(self) -> ServersState:
        now = self._clock.monotonic()
        groups: dict[str, Group] = {}
        for version, held in list(self._groups.items()):
            held.servers = [s for s in held.servers if s.gone_at is None or s.gone_at > now]
            if not held.wanted and not held.servers:
                del self._groups[version]
                continue
            staying = [each for each in held.servers if each.gone_at is None]
            starting = [s for s in staying if s.ill is None and s.ready_at > now]
            groups[version] = Group(
                version,
                held.digest,
                held.wanted,
                tuple(s.address for s in staying if s.ill is None and s.ready_at <= now),
                (
                    *(s.ill for s in staying if s.ill is not None),
                    *(Ailing(s.address, Stuck.STARTING) for s in starting),
                ),
                held.crashes,
                len(held.servers) - len(staying),
            )
        return ServersState(groups, self._epoch, self._writer)


class MemorySplit(MemoryTraffic):
    """What divides the requests of one model in one region. A test sends them."""

    def __init__(
        self, versions: Sequence[str], *, name: str = "memory", clock: Clock | None = None
    ) -> None:
        first = {version: 100 * (not place) for place, version in enumerate(versions)}
        super().__init__(tuple(versions), name=name, weights=first, clock=clock)
        self._admitted: dict[str, tuple[str, ...]] = {}
        self._counts: dict[str, Counts] = {}
        self.unread: str = ""
        """Why its counters cannot be read."""

    @property
    def admitted(self) -> Mapping[str, tuple[str, ...]]:
        """By version: the servers behind its door."""
        return dict(self._admitted)

    def know(self, versions: Sequence[str]) -> None:
        """Versions that there may be shares of; new ones have none."""
        with self._lock:
            held = self._require()
            new = [each for each in versions if each not in self._regions]
            if not new:
                return
            kept = [each for each in self._regions if held.weights[each] or each in versions]
            self._regions = (*kept, *new)
            weights = {each: held.weights.get(each, 0) for each in self._regions}
            self._held = replace(self._state(weights, held.epoch, held.writer))

    def admit(self, version: str, addresses: Sequence[str], *, epoch: int, writer: str) -> None:
        with self._lock:
            held = self._require()
            check_epoch(held, epoch, where=self._url)
            if addresses:
                self._admitted[version] = tuple(addresses)
            elif held.weights.get(version, 0):
                raise UsageError(f"{self._url}: {version} has weight, and would have no server")
            else:
                self._admitted.pop(version, None)

    def counts(self, slow_seconds: float) -> Mapping[str, Counts | Unknown]:
        with self._lock:
            if self.unread:
                return {version: Unknown(self.unread) for version in self._admitted}
            none = Counts(0.0, 0.0, 0.0, 0.0, slow_seconds=slow_seconds)
            return {v: self._counts.get(v, none) for v in {*self._admitted, *self._counts}}

    # What happens beside the port.

    def send(
        self,
        requests: float,
        errors: Mapping[str, float] | None = None,
        slow: Mapping[str, float] | None = None,
    ) -> None:
        """So many requests, divided as the weights say; `errors` and `slow` are shares of them by
        version."""
        with self._lock:
            for version, weight in self._require().weights.items():
                if not weight:
                    continue
                sent = requests * weight / 100
                before = self._counts.get(version, Counts(0.0, 0.0, 0.0, 0.0))
                self._counts[version] = Counts(
                    before.requests + sent,
                    before.errors + sent * (errors or {}).get(version, 0.0),
                    (before.timed or 0.0) + sent,
                    (before.slow or 0.0) + sent * (slow or {}).get(version, 0.0),
                )

    def begin_again(self) -> None:
        """Counters at zero, as after a restart."""
        with self._lock:
            self._counts = dict.fromkeys(self._counts, Counts(0.0, 0.0, 0.0, 0.0))


_splits: dict[str, MemorySplit] = {}
_servers: dict[str, MemoryServers] = {}
_lock = threading.Lock()


def open_split(url: StoreURL, model: str, versions: Sequence[str]) -> MemorySplit:
    """The split of that name, which lives as long as this process: the same for every caller."""
    name = f"{_name_of(url)}/{model}"
    with _lock:
        split = _splits.setdefault(name, MemorySplit(versions, name=name))
    split.know(versions)
    return split


def open_servers(url: StoreURL, model: str) -> MemoryServers:
    """The servers of that name, likewise."""
    name = f"{_name_of(url)}/{model}"
    with _lock:
        return _servers.setdefault(name, MemoryServers(name))


def _name_of(url: StoreURL) -> str:
    url.reject_unknown(frozenset())
    name = f"{url.authority}{url.path}".rstrip("/")
    if not name:
        raise UsageError(f"{url.noun} {url} has no name", hint="write e.g. memory://m-us")
    return name
