"""The `traffic` section of `topology.yaml`, owned by failover: the routes between regions, how the
health of regions is known, and what bounds every act."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Annotated, Literal

from pydantic import Field, StrictInt

from mlplatform.core.section import ModelName, OneOrMore, RegionName, Section, WebURL


class Capacity(Section):
    """A declared figure, used where none is measured, until it expires."""

    requests_per_second: Annotated[float, Field(gt=0)]
    """Of one warm server within the objective; of a route, all that enters it at its peak."""
    measured_on: date
    expires_on: date


class Route(Section):
    """A route of the world's traffic: its actuator, and the weights that are wanted."""

    actuator: str
    """Where the weights lie: caddy://, rfc2136://, httproute://, route53://."""
    second: str | None = None
    """Another actuator, on a path that clients already use, for when the first cannot be reached;
    never the same name twice."""
    models: Annotated[tuple[ModelName, ...], OneOrMore] = ()
    """What is served over it."""
    weights: Mapping[str, Annotated[StrictInt, Field(ge=0, le=100)]] = Field(default_factory=dict)
    """Per cent of the traffic by region, 100 in all, when nothing is wrong."""
    targets: Mapping[str, Annotated[tuple[str, ...], OneOrMore]] = Field(default_factory=dict)
    """What the actuator points at for a region, in its own words: upstreams, addresses, the name of
    a Service. By default the host and port of the region's endpoint."""
    front_door: WebURL | None = None
    """Where clients enter, for probes through it."""
    mode: Literal["advise", "auto"] = "advise"
    """Whether `failover watch` may act by itself."""
    overload: Annotated[float, Field(gt=0)] = 1.2
    """In an unplanned failover a target may be given this times what it has room for."""
    peak: Capacity | None = None
    """What enters the route at its peak, for where no load is measured."""
    rto_seconds: Annotated[float, Field(gt=0)] | None = None
    """Within this of a decision clients are to be served elsewhere; a plan warns where the record's
    TTL does not let it."""


class Vantage(Section):
    """A place from which regions are probed."""

    region: RegionName | None = None
    """The region that it stands in, on which it has no vote."""
    domain: str = ""
    """What fails together with it; votes are counted by domain. Its region, else its own name."""
    references: Annotated[tuple[WebURL, ...], OneOrMore] = ()
    """Places elsewhere that it must be able to reach; when it reaches none, it is blind."""

    def domain_of(self, name: str) -> str:
        """What the vantage of that name fails together with."""
        return self.domain or self.region or name


class Probing(Section):
    """How regions are probed, and how much it takes to change one's mind."""

    interval_seconds: Annotated[float, Field(gt=0)] = 10.0
    timeout_seconds: Annotated[float, Field(gt=0)] = 5.0
    slow_seconds: Annotated[float, Field(gt=0)] = 0.5
    """Slower than that is slow: the 500 ms of runbooks."""
    fall: Annotated[StrictInt, Field(ge=1)] = 3
    """Failures in a row before a vantage calls a region down."""
    rise: Annotated[StrictInt, Field(ge=1)] = 5
    """Successes in a row before it calls it up again."""
    golden_per_round: Annotated[StrictInt, Field(ge=0)] = 4
    """Golden requests to each region in a round; the models take turns, the busiest first."""


class Objective(Section):
    """What callers are owed, as Prometheus sees it from outside. A query has `$window`, and gives a
    sample for each region."""

    success_ratio: Annotated[float, Field(gt=0, le=1)] = 0.99
    latency_seconds: Annotated[float, Field(gt=0)] = 0.5
    window_seconds: Annotated[float, Field(gt=0)] = 60.0
    success_query: str | None = None
    latency_query: str | None = None
    load_query: str | None = None
    """Requests a second that enter."""
    lag_query: str | None = None
    """Seconds by which a region's data is behind."""


class Safety(Section):
    """What bounds every act."""

    domains: Annotated[StrictInt, Field(ge=1)] = 3
    """Failure domains that must vote before anything is done by itself."""
    golden_seconds: Annotated[float, Field(gt=0)] = 1.0
    """A target answers a golden request within this."""
    lag_seconds: Annotated[float, Field(gt=0)] | None = None
    """A target's data is behind by no more; None where models serve without data."""
    retry_factor: Annotated[float, Field(ge=1)] = 1.5
    """Clients that fail ask again: the load that moves, times this."""
    together_seconds: Annotated[float, Field(gt=0)] = 120.0
    """Regions that turn sick within this of each other are taken to have one cause."""
    window_seconds: Annotated[float, Field(gt=0)] = 3600.0
    moved_per_window: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Share of all capacity that may be taken out of service in a window, by cascades; the first
    region is never held back by it."""
    cooldown_seconds: Annotated[float, Field(ge=0)] = 600.0
    """Rest after a recovery has ended."""
    hold_off_seconds: Annotated[float, Field(ge=0)] = 1800.0
    """A region is well for this long before traffic goes back to it; doubled after each relapse."""
    hold_off_seconds_max: Annotated[float, Field(ge=0)] = 86_400.0
    failback_steps: Annotated[
        tuple[Annotated[StrictInt, Field(ge=1, le=100)], ...], Field(min_length=1)
    ] = (1, 5, 25, 50, 100)
    """Per cent of what a region is to have in the end."""
    step_seconds: Annotated[float, Field(ge=0)] = 60.0
    """How long each step must hold."""
    drill_percent: Annotated[StrictInt, Field(ge=1, le=50)] = 1
    drill_days: Annotated[float, Field(gt=0)] = 30.0
    """A route acts by itself only if a drill was passed within this."""


class Notice(Section):
    """Somebody to tell. What is secret in it comes from the environment."""

    kind: Literal["webhook", "slack", "pagerduty"]
    variable: str = Field(pattern=r"^[A-Z][A-Z0-9_]*$")
    """Name of the environment variable that holds the URL, or PagerDuty's routing key."""


class Traffic(Section):
    """Owned by failover: the routes between regions, and how their health is known."""

    routes: Mapping[str, Route] = Field(default_factory=dict)
    vantages: Mapping[str, Vantage] = Field(default_factory=dict)
    probe: Probing = Probing()
    objective: Objective = Objective()
    safety: Safety = Safety()
    resolvers: Annotated[tuple[str, ...], OneOrMore] = ()
    """Addresses of resolvers that clients use, asked for the front doors' names while clients
    move."""
    capacity: Mapping[str, Mapping[str, Capacity]] = Field(default_factory=dict)
    """By region, then by model."""
    notify: Mapping[str, Notice] = Field(default_factory=dict)

    @property
    def domains(self) -> frozenset[str]:
        """The failure domains of all vantages."""
        return frozenset(vantage.domain_of(name) for name, vantage in self.vantages.items())
