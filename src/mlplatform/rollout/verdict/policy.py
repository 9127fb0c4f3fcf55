"""What is asked of a canary before it is promoted, and what returns it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from mlplatform.core.errors import UsageError
from mlplatform.rollout.verdict.dispersion import Dispersion

_CEILING = Dispersion(phi=50.0, sigma=1.0)


class Metric(StrEnum):
    """What is compared between the arms."""

    ERRORS = "errors"
    """Requests that fail, counted where they enter."""
    LATENCY = "latency"
    """Requests slower than the objective's bucket."""


@dataclass(frozen=True, slots=True)
class Thresholds:
    """The simple mode: fixed limits on the canary alone, and a count of failed checks that no
    success resets, as Flagger has it. It has no error control; figures are in docs/adr/0013."""

    success_least: float = 0.99
    """Flagger's request-success-rate, min 99 (system A)."""
    slow_most: float = 0.01
    """The share of requests above the latency bucket. Flagger's request-duration, max 500 (system
    A), is the 99th percentile in ms: the same where the bucket ends at 500 ms."""
    failed_checks: int = 5
    """Flagger's threshold (system A)."""


@dataclass(frozen=True, slots=True)
class Policy:
    """How a verdict is reached. `UsageError` where a number cannot be meant."""

    regions: tuple[str, ...]
    metrics: tuple[Metric, ...] = (Metric.ERRORS, Metric.LATENCY)
    alpha: float = 0.05
    """The chance of returning a canary that is no worse than (1 + delta) times the fleet, over all
    metrics, regions and looks; and of promoting one that is beyond both bars."""
    delta: float = 0.10
    """What is not called worse."""
    delta_promote: float = 1.0
    """Promoted when surely below (1 + delta_promote) times the fleet, …"""
    epsilon: float = 0.005
    """… or below the fleet plus this share of requests; part of the error budget."""
    bake_seconds: float = 1800.0
    """Of windows that count, in every region and metric, before promotion on time."""
    soak_seconds: float = 0.0
    """Of windows that count, before promotion by the bound: for what comes slowly, as leaks do."""
    promote_on_time: bool = False
    """Whether the end of the bake without evidence against the canary is enough. The bound that was
    reached is told."""
    load_tolerance: float = 0.15
    """Latency is compared while requests per warm GPU differ by no more (the reference, section 3:
    queues make an emptier GPU faster, whatever its version)."""
    windows_least: int = 2
    """Windows with errors of the canary, before it is returned."""
    sources_least: int = 3
    """Clients or requests that failed, before it is returned: one client may retry for ever."""
    crashes: int = 2
    """Windows with a crash or without a ready endpoint, after which the canary is returned."""
    ceiling: Dispersion = _CEILING
    """No fleet scatters more. Where dispersion is not known, what is evidence even so is."""
    thresholds: Thresholds | None = None
    """Set, these alone decide."""

    def __post_init__(self) -> None:
        shares = {"alpha": self.alpha}
        above = {
            "delta_promote": self.delta_promote,
            "epsilon": self.epsilon,
            "bake_seconds": self.bake_seconds,
            "windows_least": self.windows_least,
            "sources_least": self.sources_least,
            "crashes": self.crashes,
        }
        least = {
            "delta": self.delta,
            "soak_seconds": self.soak_seconds,
            "load_tolerance": self.load_tolerance,
        }
        if self.thresholds is not None:
            shares["thresholds.success_least"] = self.thresholds.success_least
            shares["thresholds.slow_most"] = self.thresholds.slow_most
            above["thresholds.failed_checks"] = self.thresholds.failed_checks
        for name, value in shares.items():
            if not 0 < value < 1:
                raise UsageError(f"rollout verdict: {name} is {value}", hint="a share in (0, 1)")
        for name, value in above.items():
            if not 0 < value < float("inf"):
                raise UsageError(f"rollout verdict: {name} is {value}", hint="a number above 0")
        for name, value in least.items():
            if not 0 <= value < float("inf"):
                raise UsageError(f"rollout verdict: {name} is {value}", hint="0 or more")
        if self.delta >= self.delta_promote:
            raise UsageError(
                f"rollout verdict: delta {self.delta} is not below delta_promote "
                f"{self.delta_promote}",
                hint="what would be promoted must not be what is called worse",
            )
        for name, values in (("regions", self.regions), ("metrics", self.metrics)):
            if not values or len(set(values)) != len(values):
                raise UsageError(
                    f"rollout verdict: {name} are {', '.join(values) or 'none'}",
                    hint="name at least one, each once",
                )

    @property
    def alpha_each(self) -> float:
        """The part of alpha that each metric of each region has for returning the canary."""
        return self.alpha / (len(self.regions) * len(self.metrics))
