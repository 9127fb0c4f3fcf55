"""What a rollout is planned from, under the one retry policy: what a region's servers hold, and
what they stand on. One lost answer is no reason to hold a plan."""

from __future__ import annotations

from collections.abc import Mapping

from mlplatform.control.retry import Retry
from mlplatform.core.seen import Unknown
from mlplatform.ports.fleet import Fleet, Served
from mlplatform.ports.ground import Ground, Offer


class RetryingGround:
    """Any ground, asked anew as a whole: what it offers is of one moment."""

    def __init__(self, ground: Ground, retry: Retry) -> None:
        self._ground = ground
        self._retry = retry

    @property
    def url(self) -> str:
        return self._ground.url

    def offers(self, version: str) -> Offer:
        return self._retry.call(
            lambda: self._ground.offers(version), what=f"look at what {self.url} offers {version}"
        )


class RetryingFleet:
    """Any fleet, whose reading is under the policy. What is asked of it is not: who asks has to
    know whether it was done."""

    def __init__(self, fleet: Fleet, retry: Retry) -> None:
        self._fleet = fleet
        self._retry = retry

    @property
    def url(self) -> str:
        return self._fleet.url

    def served(self, models: frozenset[str]) -> Mapping[str, Served | Unknown]:
        return self._retry.call(
            lambda: self._fleet.served(models), what=f"ask what {self.url} holds"
        )

    def ask_capacity(self, model: str, servers: int) -> str:
        return self._fleet.ask_capacity(model, servers)

    def lame_duck(self, *, enter: bool) -> None:
        self._fleet.lame_duck(enter=enter)
