"""The traffic port: the weights of one route between regions, where they really lie. (Rollout's
`Split` is one whose weights are by version: what is said of regions holds there of versions.)

An actuator holds the weights and, in the same object, the *epoch*: the generation of the lease
under which they were written. Both are read together and written together, by compare-and-set, so
that a deposed writer is refused by the target itself: with a wrong clock, after reading again, and
when the weights have come back to an old value.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from mlplatform.core.errors import Fenced, UsageError

Weights = Mapping[str, int]
"""Per cent by region. Every region of the route is named; a region that gets nothing has 0."""


@dataclass(frozen=True, slots=True)
class TrafficFeatures:
    """What an actuator can do, declared as data."""

    zero: str
    """What a weight of zero means there, for people: "no request is sent"."""
    all_or_nothing: bool = False
    """Regions are in, with equal shares, or out: plain DNS. `expressible` rounds to that."""
    ttl: bool = False
    """Whether clients keep an answer for a time, so that they move late."""
    exercised: str = "a real server"
    """What it was proven on."""


@dataclass(frozen=True, slots=True)
class RouteState:
    """What an actuator holds."""

    weights: Weights
    epoch: int = 0
    """0: nobody has claimed it yet. One that is lower than an epoch which was written there before
    means that the target forgot: it was restarted from an old file, or somebody loaded one. Its
    weights were changed behind our back then, and the route is to be claimed again before anything
    is decided; until it is, the fence has a gap."""
    writer: str = ""
    """Who wrote it, for people; empty where the weights are somebody else's, who wrote no epoch."""
    tag: str = ""
    """What the next write is conditional on. Opaque; not a fence, for it may repeat."""
    ttl_seconds: float | None = None
    """How long clients may keep what they were told; None where they are not told to keep it."""
    detail: Mapping[str, str] = field(default_factory=dict)
    """More for people: what each region's target is."""

    @property
    def serving(self) -> frozenset[str]:
        """The regions that get anything."""
        return frozenset(region for region, weight in self.weights.items() if weight)


class Traffic(Protocol):
    """One route's actuator. The same errors as a store's: `NotFound` (no such route, zone, object),
    `Denied`, `Throttled`, `Unavailable`, `ConditionFailed`, `Unsupported` (what is there cannot
    carry weights); and `IntegrityError` where the epoch that is there is none: never taken for
    0."""

    @property
    def url(self) -> str:
        """Without secrets."""
        ...

    @property
    def features(self) -> TrafficFeatures: ...

    def read(self) -> RouteState:
        """What it holds now, from where it is authoritative, past any cache."""
        ...

    def write(
        self, weights: Weights, *, epoch: int, writer: str, expected: RouteState
    ) -> RouteState:
        """Replace weights and epoch together, if the target still is as `expected`; what it holds
        then. A claim writes the weights that are there, with a new epoch.

        `Fenced` if the target holds a higher epoch, checked by the target in the same write;
        `ConditionFailed` if anything else has changed. A refused write changes nothing. An error
        after which the write may have happened is `Unavailable`: the caller settles by reading.
        """
        ...

    def in_force(self, state: RouteState) -> bool:
        """Whether whoever answers clients answers with `state` already: the data plane, every
        authoritative server, the provider's own propagation state."""
        ...


def check_weights(
    weights: Weights,
    *,
    where: str,
    regions: Collection[str] | None = None,
    features: TrafficFeatures | None = None,
) -> Weights:
    """`weights`, if they total 100, name exactly the `regions` of the route, and are what an
    actuator of those `features` can hold; else `UsageError`. Each adapter calls it before it sends
    anything: no actuator is ever told to send nothing anywhere, or to guess what was left out."""
    if any(weight < 0 for weight in weights.values()) or sum(weights.values()) != 100:
        raise UsageError(f"{where}: weights must total 100: {dict(weights)}")
    if regions is not None and weights.keys() != set(regions):
        unknown = sorted(weights.keys() - set(regions))
        unnamed = sorted(set(regions) - weights.keys())
        said = [f"{', '.join(unknown)}: no such region on this route"] if unknown else []
        said += [f"{', '.join(unnamed)}: not named"] if unnamed else []
        raise UsageError(
            f"{where}: {'; '.join(said)}",
            hint=f"give every region its weight, 0 where nothing goes: {', '.join(regions)}",
        )
    if features is not None and expressible(weights, features) != weights:
        raise UsageError(
            f"{where}: regions are in or out there, with equal shares: {dict(weights)}",
            hint=f"it can hold {dict(expressible(weights, features))}",
        )
    return weights


def check_epoch(state: RouteState, epoch: int, *, where: str) -> None:
    """`Fenced` if the target was written under a higher epoch than `epoch`."""
    if state.epoch > epoch:
        raise Fenced(
            f"{where} was written under epoch {state.epoch}"
            f"{f' by {state.writer}' if state.writer else ''}, ours is {epoch}",
            hint="another controller has taken over; `mlplatform failover status` shows it",
        )


def expressible(weights: Weights, features: TrafficFeatures) -> Weights:
    """`weights` as the actuator can hold them. In and out: each region that was to get anything
    gets an equal share."""
    if not features.all_or_nothing:
        return dict(weights)
    shares = equal_shares([region for region, weight in weights.items() if weight])
    return {region: shares.get(region, 0) for region in weights}


def equal_shares(regions: Collection[str]) -> dict[str, int]:
    """100 among `regions`; what is left over goes to the first by name."""
    share, rest = divmod(100, len(regions))
    return {region: share + (n < rest) for n, region in enumerate(sorted(regions))}


def per_cent(relative: Weights) -> dict[str, int]:
    """Weights in an actuator's own scale as per cent, 100 in all, by largest remainder; whatever
    gets anything keeps 1 at least. All zero stays all zero: what that means differs."""
    total = sum(relative.values())
    if not total:
        return dict.fromkeys(relative, 0)
    exact = {region: 100 * weight / total for region, weight in relative.items()}
    shares = {region: max(int(exact[region]), int(relative[region] > 0)) for region in relative}
    while (left := 100 - sum(shares.values())) != 0:
        step = 1 if left > 0 else -1
        candidates = [region for region in sorted(shares) if step > 0 or shares[region] > 1]
        shares[max(candidates, key=lambda region: step * (exact[region] - shares[region]))] += step
    return shares
