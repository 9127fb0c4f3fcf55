"""Sites of the DNS actuator: a zone of its own for each, on a server of its own."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import dns.update

from mlplatform.adapters.rfc2136 import Rfc2136Traffic, open_traffic
from mlplatform.core.store_url import StoreURL
from mlplatform.ports.traffic import Weights
from tests.real.servers.catalogue import ALLOWED_KEY, ZONE
from tests.real.servers.names import Authority, Kind, authority, detour, pair

from .site import REGIONS, Site

TARGETS = {region: (f"192.0.2.{number}",) for number, region in enumerate(REGIONS, start=1)}
_REGION_OF = {addresses[0]: region for region, addresses in TARGETS.items()}


class DnsSite(Site):
    """`api` in the zone, with the addresses of a and b. Every server is reached by a detour."""

    def __init__(self, stack: ExitStack, *servers: Authority) -> None:
        self._servers = servers
        self._ways = [stack.enter_context(detour(server)) for server in servers]

    def open(self) -> Rfc2136Traffic:
        primary, *others = (way.address for way in self._ways)
        text = f"rfc2136://{primary}/{ZONE}/api?key={ALLOWED_KEY}&servers={','.join(others)}"
        return open_traffic(
            StoreURL.parse(text, noun="actuator"),
            TARGETS,
            environ={"MLPLATFORM_TSIG_SECRET_FAILOVER": self._servers[0].endpoint.secret},
        )

    def change_by_hand(self, weights: Weights) -> None:
        addresses = [TARGETS[region][0] for region, weight in weights.items() if weight]
        self._servers[0].change(lambda update: update.replace("api", 300, "A", *addresses))

    def remove(self) -> None:
        for name in ("api", "_epoch.api"):
            self._servers[0].change(partial(dns.update.UpdateMessage.delete, name=name))

    @contextmanager
    def unreachable(self) -> Iterator[None]:
        for way in self._ways:
            way.cut = True
        yield
        for way in self._ways:
            way.cut = False

    @contextmanager
    def answers_lost(self) -> Iterator[None]:
        self._ways[0].loses_answers = True
        yield
        self._ways[0].loses_answers = False

    def restart(self) -> None:
        self._servers[0].kill_and_start()

    def requests(self, count: int) -> Counter[str]:
        """A client takes one of the addresses that some server of the zone gives it."""
        chance = Random(count)
        return Counter(
            _REGION_OF[chance.choice(sorted(server.ask("api", "A")))]
            for server in chance.choices(self._servers, k=count)
        )


@contextmanager
def _alone(kind: Kind) -> Iterator[Site]:
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        yield DnsSite(stack, stack.enter_context(authority(kind, Path(folder))))


@contextmanager
def bind_pair(_: Any) -> Iterator[Site]:
    """BIND, and a secondary that follows it."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        yield DnsSite(stack, *stack.enter_context(pair(Path(folder))))


@contextmanager
def powerdns(_: Any) -> Iterator[Site]:
    with _alone("powerdns") as site:
        yield site
