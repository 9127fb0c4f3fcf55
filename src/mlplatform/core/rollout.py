"""The `rollout` section of `topology.yaml`, owned by rollout: how a version goes through a region,
in what order regions take their turn, what is asked of a canary, and how it is undone."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from itertools import pairwise
from typing import Annotated, Literal, Self, get_args

from pydantic import AfterValidator, Field, StrictBool, StrictInt, model_validator
from pydantic_core import PydanticCustomError

from mlplatform.core.errors import UsageError
from mlplatform.core.identity import Believed
from mlplatform.core.section import ModelName, OneOrMore, RegionName, Section
from mlplatform.core.store_url import StoreURL


def _actuator(text: str) -> str:
    try:
        StoreURL.parse(text, noun="actuator")
    except UsageError as error:
        said = f"{error}; {error.hint}" if error.hint else str(error)
        raise PydanticCustomError("actuator", "{said}", {"said": said}) from error
    return text


Actuator = Annotated[str, AfterValidator(_actuator)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
AboveZero = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0, lt=1)]


StrategyKind = Literal["canary", "blue_green", "in_place"]
STRATEGIES: tuple[str, ...] = get_args(StrategyKind)


class Strategy(Section):
    """How servers of a region change from one version to the next."""

    kind: StrategyKind = "canary"
    """`canary`: both versions serve, and weight moves by steps. `blue_green`: as many servers again
    are started, and all weight moves at once. `in_place`: servers take the new version by turns,
    and weight follows them."""
    weights: tuple[Annotated[StrictInt, Field(ge=1, le=99)], ...] = (1, 5, 25, 50)
    """Of a canary: per cent of the region's requests, step by step, before it has all of them."""
    step_seconds: Seconds = 300.0
    """The least that each step is looked at; the verdict may ask for more."""
    surge_servers: Annotated[StrictInt, Field(ge=0)] = 1
    """How many servers there may be beside those that serve now. 0: old ones go first. Blue/green
    takes as many again as there are, whatever this says."""
    hand_over: StrictBool = False
    """Where old servers go first and the load leaves none to spare: whether failover is asked to
    let other regions bear a part of it meanwhile."""

    @property
    def old_go_first(self) -> bool:
        """Whether old servers go before new ones come."""
        return self.kind == "in_place" or (self.kind == "canary" and not self.surge_servers)

    @model_validator(mode="after")
    def _belongs_together(self) -> Self:
        if self.hand_over and not self.old_go_first:
            raise PydanticCustomError(
                "hand_over",
                "hand_over is for where old servers go first; give surge_servers: 0, or kind: "
                "in_place, or leave it out",
            )
        if any(after <= before for before, after in pairwise(self.weights)):
            raise PydanticCustomError(
                "weights", "weights do not rise: {said}", {"said": _listed(self.weights)}
            )
        if self.kind == "canary" and not self.weights:
            raise PydanticCustomError(
                "weights",
                "a canary without weights has nothing to be judged by; give [1, 5, 25, 50], or "
                "kind: blue_green",
            )
        if self.kind != "canary" and "weights" in self.model_fields_set:
            raise PydanticCustomError(
                "weights",
                "weights belong to a canary; leave them out of {kind}",
                {"kind": self.kind},
            )
        return self


class RolledModel(Section):
    """What is particular to one model. What is said of a region outranks what is said of the model,
    and that outranks `rollout.strategy`: the whole of it, not key by key."""

    strategy: Strategy | None = None
    regions: Mapping[RegionName, Strategy] = Field(default_factory=dict)
    actuators: Mapping[RegionName, Actuator] = Field(default_factory=dict)
    """By region: where the weights between versions lie, `caddy://127.0.0.1:2019/m-us`. Never the
    object that holds the weights between regions."""
    servers: Mapping[RegionName, Actuator] = Field(default_factory=dict)
    """By region: who starts and stops the model's servers by version, `processes:///srv/us/magika`,
    `deployments://context/namespace`."""
    load_seconds: AboveZero | None = None
    """From the start of a server until its golden requests are right, as measured. By it the time
    to undo is reckoned; None: nobody has measured it."""
    first_servers: Annotated[StrictInt, Field(ge=1)] | None = None
    """How many servers to start in a region where none serves. None: a rollout there is refused,
    for there is nothing to compare with or to go back to."""
    start_seconds: AboveZero = 900.0
    """How long that may take before the step has failed."""


class Waves(Section):
    """In what order regions take their turn."""

    order: tuple[Annotated[tuple[RegionName, ...], OneOrMore], ...] = ()
    """Regions, or lists of them that may go together. Who is not named comes after them, the region
    with the least share of the world's traffic first."""
    concurrency: Annotated[StrictInt, Field(ge=1)] = 1
    """How many regions are in a wave at most."""
    bake_seconds: Seconds = 1800.0
    """How long a wave is watched, promoted, before old servers go and the next begins."""
    approval: Literal["none", "first", "every"] = "none"
    """Before which waves somebody has to say yes."""
    approvers: Annotated[tuple[str, ...], OneOrMore] = ()
    """Who may. Empty: anybody."""
    identity: Believed = Believed()
    """By whose word it is they."""
    spare_region: StrictBool = True
    """Whether, while a wave is under way, any one region may still be lost. False: for platforms
    that cannot lose one anyway."""

    @model_validator(mode="after")
    def _approvers_are_asked(self) -> Self:
        if self.approvers and self.approval == "none":
            raise PydanticCustomError(
                "approvers", "approvers are named, and never asked; add approval: first, or every"
            )
        return self


class Thresholds(Section):
    """The simple mode: fixed limits on the canary alone. It has no control of false alarms."""

    success_least: Share = 0.99
    slow_most: Share = 0.01
    failed_checks: Annotated[StrictInt, Field(ge=1)] = 5


class Scatter(Section):
    """How much more errors scatter than independent ones do, measured before on what serves: see
    `mlplatform.rollout.verdict.dispersion`. Used where none is measured, until it expires."""

    phi: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 1.0
    sigma: Seconds = 0.0
    measured_on: date
    expires_on: date


class Judging(Section):
    """What is asked of a canary before it is promoted, and what returns it; the meaning of each
    number is in `mlplatform.rollout.verdict.policy`."""

    metrics: tuple[Literal["errors", "latency"], ...] = ("errors", "latency")
    alpha: Share = 0.05
    """The chance that a canary which is no worse is returned, over metrics, regions and looks."""
    delta: Seconds = 0.10
    delta_promote: AboveZero = 1.0
    epsilon: AboveZero = 0.005
    bake_seconds: AboveZero = 1800.0
    """Of windows that count, before promotion on time."""
    soak_seconds: Seconds = 0.0
    promote_on_time: StrictBool = False
    dispersion: Mapping[Literal["errors", "latency"], Scatter] = Field(default_factory=dict)
    """By metric. Where it is not known, a canary that is not surely worse is held."""
    window_seconds: AboveZero = 60.0
    """How long is counted before it is looked at."""
    slow_seconds: AboveZero = 0.5
    """Slower than that is slow: the 500 ms of runbooks."""
    thresholds: Thresholds | None = None
    """Given, `thresholds: {}` too: these alone decide."""

    @model_validator(mode="after")
    def _is_meant(self) -> Self:
        if self.delta >= self.delta_promote:
            raise PydanticCustomError(
                "delta",
                "delta {delta} is not below delta_promote {promote}; what would be promoted must "
                "not be what is called worse",
                {"delta": self.delta, "promote": self.delta_promote},
            )
        if not self.metrics or len(set(self.metrics)) != len(self.metrics):
            raise PydanticCustomError(
                "metrics",
                "metrics are {said}; name at least one, each once",
                {"said": _listed(self.metrics) or "none"},
            )
        return self


class Undo(Section):
    """What a plan must be able to go back from."""

    floor_percent: Annotated[StrictInt, Field(ge=0, le=100)] = 50
    """Of a region's servers, so many serve at every moment of a rollout and of its undoing."""
    within_seconds: AboveZero = 900.0
    """A plan that needs longer to bring back the last good version is refused."""
    earlier_waves: Literal["keep", "return"] = "keep"
    """What becomes of the waves before one that failed."""


class Rollout(Section):
    """Owned by rollout."""

    strategy: Strategy = Strategy()
    models: Mapping[ModelName, RolledModel] = Field(default_factory=dict)
    waves: Waves = Waves()
    verdict: Judging = Judging()
    undo: Undo = Undo()

    def strategy_of(self, model: str, region: str) -> Strategy:
        """How a model's servers change in a region."""
        own = self.models.get(model)
        if own is None:
            return self.strategy
        return own.regions.get(region) or own.strategy or self.strategy

    def actuator_of(self, model: str, region: str) -> str | None:
        """Where the weights between a model's versions lie in a region, if anybody has said so."""
        own = self.models.get(model)
        return own.actuators.get(region) if own is not None else None

    def servers_of(self, model: str, region: str) -> str | None:
        """Who starts and stops a model's servers in a region, if anybody has said so."""
        own = self.models.get(model)
        return own.servers.get(region) if own is not None else None

    def first_servers_of(self, model: str) -> int | None:
        """How many servers of a model to start where none serves, if anybody has said so."""
        own = self.models.get(model)
        return own.first_servers if own is not None else None

    def start_seconds_of(self, model: str) -> float:
        """How long a server may take until it answers right, before that has failed."""
        own = self.models.get(model)
        return (own or RolledModel()).start_seconds

    def load_seconds_of(self, model: str) -> float | None:
        """How long one server takes from its start until it answers right, if that is known."""
        own = self.models.get(model)
        return own.load_seconds if own is not None else None


def with_strategy(section: Rollout, model: str, kind: str) -> Rollout:
    """The section, with every region of a model rolled out in that way, by its other defaults.
    `UsageError` for a kind that there is not."""
    if kind not in STRATEGIES:
        raise UsageError(f"strategy {kind}: no such one", hint=f"one of: {', '.join(STRATEGIES)}")
    own = section.models.get(model, RolledModel())
    strategy = Strategy.model_validate({"kind": kind})
    changed = own.model_copy(update={"strategy": strategy, "regions": {}})
    return section.model_copy(update={"models": {**section.models, model: changed}})


def _listed(values: tuple[object, ...]) -> str:
    return ", ".join(str(value) for value in values)
