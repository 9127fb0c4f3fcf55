"""Stores, servers and orders, as a rollout needs to see them before it begins; and what it is
carried out with. Nothing is changed here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from random import Random
from typing import Protocol

from mlplatform.control.catalogue import Catalogue
from mlplatform.control.journal import Journal
from mlplatform.control.lease import Background
from mlplatform.control.orders import EVERYTHING, Kind, Order, StandingOrders
from mlplatform.control.pins import Pins
from mlplatform.control.quorum import ControlStore
from mlplatform.control.regions import each_region
from mlplatform.core.errors import UsageError
from mlplatform.core.golden import GoldenRequest
from mlplatform.core.manifest import Requirements
from mlplatform.core.placement import Integrity, ModelVersion
from mlplatform.core.replica import RegionSeen, Remembered, placement_of
from mlplatform.core.seen import Unknown
from mlplatform.core.topology import Topology
from mlplatform.ports.clock import Clock
from mlplatform.ports.fleet import Fleet, Served
from mlplatform.ports.ground import Ground, Offer
from mlplatform.ports.probe import Probe
from mlplatform.ports.servers import Servers
from mlplatform.ports.split import Split
from mlplatform.ports.traffic import Weights
from mlplatform.rollout.plan.room import gpus_free
from mlplatform.rollout.plan.seen import Copy, RegionStands, Request, Rule, Seen, Standing
from mlplatform.rollout.records import Records

Golden = tuple[GoldenRequest, ...]
Standings = Mapping[str, Standing | Unknown]
"""By region."""
Lent = Mapping[str, Weights]
"""By route: its weights between regions while one has handed over a part of its share."""


class Failover(Protocol):
    """What is asked of failover. It judges for itself, by its own gates, under its own lease."""

    def standings(self, model: str, lent: Lent) -> Standings:
        """How regions stand with it, for a model. Weights that are as they were `lent` are no
        failover."""
        ...

    def hand_over(self, region: str, route: str, keep: int, *, reason: str) -> Weights:
        """Leave a region so many points of a route, others the rest; the weights that came of it.
        Asked again, by the same rollout as the `reason` names it before a comma, it goes on, or
        finds it done. `CheckFailed` where a gate is closed, `Unavailable` where that cannot be
        known yet, `LeaseHeld` or `Fenced` while another hand is there."""
        ...

    def take_back(self, region: str, route: str, *, reason: str) -> str:
        """Bring a region back what it handed over on a route; what is still missing, or empty: then
        it is back, or others have left the region since. Likewise."""
        ...


_Holds = Mapping[str, Served | Unknown]
"""What a region's servers hold, by model."""


@dataclass(frozen=True, slots=True)
class Sites:
    """Every region, as far as it is looked at before a rollout."""

    topology: Topology
    catalogue: Catalogue
    open_fleet: Callable[[str], Fleet]
    orders: StandingOrders
    failover: Failover
    clock: Clock
    executor: Executor
    control: ControlStore
    random: Random
    writer: str
    open_servers: Callable[[str, str], Servers]
    """By model and region: who starts and stops its servers there. `UsageError` where nobody has
    said who."""
    open_split: Callable[[str, str, Sequence[str]], Split]
    """By model and region: what divides its requests between those versions; likewise."""
    probe: Probe
    golden: Callable[[str, str], Golden | Unknown]
    """By model and version: its golden requests; empty where it was published without any."""
    open_ground: Callable[[str, str], Ground | None] = lambda model, region: None
    """By model and region: what its servers stand on; None where nothing can be asked of it."""
    stop: Callable[[], bool] = lambda: False
    background: Background | None = None
    """Where the lease is renewed; by default in a thread."""
    timeout_seconds: float = 10.0

    @property
    def journal(self) -> Journal:
        return Journal(self.control, self.clock, self.random, self.writer)

    @property
    def records(self) -> Records:
        return Records(self.control, self.clock, self.writer)

    @property
    def pins(self) -> Pins:
        return Pins(self.control)

    def observe(self, request: Request) -> Seen:
        """One round of looking. `NoMajority` when the control stores cannot say what was ordered,
        or which bytes a version is."""
        topology, subject = self.topology, request.subject
        regions = list(topology.regions)
        models = frozenset(topology.models)
        standing = self.executor.submit(self.failover.standings, subject.model, {})
        holding = self.executor.submit(
            each_region,
            regions,
            lambda region: self.open_fleet(region).served(models),
            executor=self.executor,
            timeout_seconds=self.timeout_seconds,
        )
        offers = self.executor.submit(
            each_region,
            request.regions,
            lambda region: self._offer(subject, region),
            executor=self.executor,
            timeout_seconds=self.timeout_seconds,
        )
        remembered = self.catalogue.recall(subject)
        stored = self.catalogue.see(subject, regions, remembered=remembered)
        orders = self.orders.read()
        held = {name: _by_model(found, models) for name, found in holding.result().items()}
        copies = self._copies(subject.model, held)
        for region, found in stored.items():
            copies.setdefault(region, {})[subject.version] = _copy(subject, region, found)
        standings, offered = standing.result(), offers.result()
        return Seen(
            request,
            {
                region: RegionStands(
                    copies=copies.get(region, {}),
                    served=held[region][subject.model],
                    gpus_free=gpus_free(topology, subject.model, region, held[region]),
                    standing=_with_orders(
                        standings.get(region, Unknown(f"{region} was not looked at")),
                        region,
                        orders,
                    ),
                    offer=offered.get(region),
                )
                for region in regions
            },
            recorded_digest=remembered.digest_of(subject),
            withdrawn=_withdrawn(subject, remembered, stored),
            locked=next(
                (o.reason for o in orders if o.kind is Kind.LOCK and o.scope == EVERYTHING), None
            ),
        )

    def _offer(self, subject: ModelVersion, region: str) -> Offer | None:
        ground = self.open_ground(subject.model, region)
        return ground.offers(subject.version) if ground is not None else None

    def _copies(
        self, model: str, held: Mapping[str, _Holds]
    ) -> dict[str, dict[str, Copy | Unknown]]:
        """By region, then by version that serves there: its copy in the region's store."""
        where: dict[str, list[str]] = {}
        for region, models in held.items():
            if isinstance(served := models[model], Served):
                for version in served.versions:
                    where.setdefault(version, []).append(region)
        found: dict[str, dict[str, Copy | Unknown]] = {}
        for version, regions in where.items():
            try:
                subject = ModelVersion(model, version)
            except UsageError:
                copies: dict[str, Copy | Unknown] = dict.fromkeys(regions, Copy())
            else:
                copies = {r: _copy(subject, r, each) for r, each in self._see(subject, regions)}
            for region, copy in copies.items():
                found.setdefault(region, {})[version] = copy
        return found

    def _see(
        self, subject: ModelVersion, regions: list[str]
    ) -> list[tuple[str, RegionSeen | Unknown]]:
        remembered = self.catalogue.recall(subject)
        return list(self.catalogue.see(subject, regions, remembered=remembered).items())


def _by_model(found: _Holds | Unknown, models: frozenset[str]) -> dict[str, Served | Unknown]:
    if isinstance(found, Unknown):
        return dict.fromkeys(models, found)
    return {model: found.get(model, Unknown(f"{model} was not told of")) for model in models}


def _copy(subject: ModelVersion, region: str, seen: RegionSeen | Unknown) -> Copy | Unknown:
    if isinstance(seen, Unknown):
        return seen
    placement = placement_of(subject, region, seen, wanted=True)
    return Copy(
        digest=placement.digest,
        verified=placement.integrity is Integrity.VERIFIED,
        detail=placement.detail,
        requirements=seen.manifest.requirements if seen.manifest is not None else Requirements(),
    )


def _withdrawn(
    subject: ModelVersion, remembered: Remembered, stored: Mapping[str, RegionSeen | Unknown]
) -> str | None:
    found = [remembered.withdrawal_of(subject)]
    found += [each.withdrawal for each in stored.values() if isinstance(each, RegionSeen)]
    return next((each.reason or "no reason was given" for each in found if each is not None), None)


def _with_orders(
    standing: Standing | Unknown, region: str, orders: tuple[Order, ...]
) -> Standing | Unknown:
    if isinstance(standing, Unknown):
        return standing
    for order in orders:
        if order.kind is Kind.MAINTENANCE and order.scope == region:
            reason = order.reason or "no reason was given"
            standing = replace(standing, closed={**standing.closed, Rule.MAINTENANCE: reason})
    return standing
