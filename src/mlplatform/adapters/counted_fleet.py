"""A region's servers as whoever starts them counts them. An endpoint does not say how many servers
are behind it, and of two versions shows the one that happens to answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mlplatform.core.errors import MlplatformError
from mlplatform.core.seen import Unknown
from mlplatform.ports.fleet import Fleet, Served
from mlplatform.ports.servers import Servers


@dataclass(frozen=True, slots=True)
class CountedFleet:
    """Another fleet, with numbers and versions of some models from elsewhere."""

    asked: Fleet
    counted: Mapping[str, Callable[[], Servers]]
    """By model: who starts and stops its servers."""

    @property
    def url(self) -> str:
        return self.asked.url

    def served(self, models: frozenset[str]) -> Mapping[str, Served | Unknown]:
        """See the port. What a server can do is known by who asks it, how many there are by who
        starts them."""
        told: dict[str, Served | Unknown]
        try:
            told = dict(self.asked.served(models))
        except MlplatformError as error:
            if not models & self.counted.keys():
                raise
            # Whoever starts them may be reached where those that answer clients are not.
            told = dict.fromkeys(models, Unknown(str(error)))
        for model in models & self.counted.keys():
            told[model] = _as_counted(self.counted[model], told.get(model))
        return told

    def ask_capacity(self, model: str, servers: int) -> str:
        return self.asked.ask_capacity(model, servers)

    def lame_duck(self, *, enter: bool) -> None:
        self.asked.lame_duck(enter=enter)


def _as_counted(
    open_servers: Callable[[], Servers], told: Served | Unknown | None
) -> Served | Unknown:
    try:
        groups = open_servers().read().groups
    except MlplatformError as error:
        return Unknown(str(error))
    ready = {version: group for version, group in groups.items() if group.ready}
    return Served(
        versions={version: group.digest for version, group in ready.items()},
        servers=sum(len(group.ready) for group in ready.values()),
        requests_per_second=told.requests_per_second if isinstance(told, Served) else None,
    )
