"""The suite can fail: for each thing that an actuator may get wrong, a clause that notices."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from mlplatform.adapters.memory_traffic import FEATURES, MemoryTraffic
from mlplatform.core.errors import ConditionFailed, Fenced, MlplatformError
from mlplatform.ports.traffic import RouteState, TrafficFeatures, Weights, check_epoch, expressible

from . import test_fence, test_weather, test_weights
from .memory_site import MemorySite
from .site import REGIONS


class Honest(MemoryTraffic):
    """What the gremlins are made of."""

    def force(self, weights: Weights, epoch: int, writer: str) -> RouteState:
        """Past every check."""
        self.restore(RouteState(dict(weights), epoch, writer))
        return self.read()


class TrustsTheTagAlone(Honest):
    """Compare-and-set, and no epoch."""

    def write(
        self, weights: Weights, *, epoch: int, writer: str, expected: RouteState
    ) -> RouteState:
        if expected.tag != self.read().tag:
            raise ConditionFailed("changed")
        return self.force(weights, epoch, writer)


class TrustsWhatItIsTold(Honest):
    """The epoch, as the writer says that it was."""

    def write(
        self, weights: Weights, *, epoch: int, writer: str, expected: RouteState
    ) -> RouteState:
        check_epoch(expected, epoch, where=self.url)
        if expected.tag != self.read().tag:
            raise ConditionFailed("changed")
        return self.force(weights, epoch, writer)


class TrustsTheEpochAlone(Honest):
    """A fence, and no compare-and-set."""

    def write(
        self, weights: Weights, *, epoch: int, writer: str, expected: RouteState
    ) -> RouteState:
        check_epoch(self.read(), epoch, where=self.url)
        return self.force(weights, epoch, writer)


class ComparesTheWeights(Honest):
    """They come back."""

    def write(
        self, weights: Weights, *, epoch: int, writer: str, expected: RouteState
    ) -> RouteState:
        if expected.weights != self.read().weights:
            raise ConditionFailed("changed")
        return self.force(weights, epoch, writer)


class FailsHalfway(Honest):
    """The epoch first, then the weights."""

    def write(
        self, weights: Weights, *, epoch: int, writer: str, expected: RouteState
    ) -> RouteState:
        try:
            return super().write(weights, epoch=epoch, writer=writer, expected=expected)
        except ConditionFailed:
            held = self.read()
            self.force(held.weights, max(epoch, held.epoch), held.writer)
            raise


class FailsAClaimHalfway(Honest):
    """So that the deposed writer is not even told."""

    def write(
        self, weights: Weights, *, epoch: int, writer: str, expected: RouteState
    ) -> RouteState:
        try:
            return super().write(weights, epoch=epoch, writer=writer, expected=expected)
        except Fenced:
            return self.read()


class FillsIn(Honest):
    """A region that is not named keeps what it has, and the rest is stretched."""

    def write(
        self, weights: Weights, *, epoch: int, writer: str, expected: RouteState
    ) -> RouteState:
        filled = dict.fromkeys(REGIONS, 0) | {r: w for r, w in weights.items() if r in REGIONS}
        total = sum(filled.values()) or 1
        filled = {region: 100 * weight // total for region, weight in filled.items()}
        filled["a"] += 100 - sum(filled.values())
        return super().write(filled, epoch=epoch, writer=writer, expected=expected)


class Rounds(Honest):
    """In or out, in silence."""

    def write(
        self, weights: Weights, *, epoch: int, writer: str, expected: RouteState
    ) -> RouteState:
        held = expressible(weights, self.features)
        return super().write(held, epoch=epoch, writer=writer, expected=expected)


class ForgetsWithTheHand(Honest):
    """The epoch goes with the weights that somebody else wrote."""

    def change_by_hand(self, weights: Weights) -> None:
        self.force(weights, 0, "")


class SignsForOthers(Honest):
    """A change by hand looks like ours."""

    def change_by_hand(self, weights: Weights) -> None:
        held = self.read()
        self.force(weights, held.epoch, held.writer)


class AlwaysInForce(Honest):
    def in_force(self, state: RouteState) -> bool:
        return True


class LooksAtWeightsAlone(Honest):
    def in_force(self, state: RouteState) -> bool:
        return self.read().weights == state.weights


class LosesTheWriter(Honest):
    def read(self) -> RouteState:
        return replace(super().read(), writer="somebody")


IN_OR_OUT = TrafficFeatures(zero="left out of the answer", all_or_nothing=True)


@dataclass(frozen=True)
class Gremlin:
    kind: type[Honest]
    clause: Callable[..., None]
    features: TrafficFeatures = FEATURES

    def __str__(self) -> str:
        return f"{self.kind.__name__}-{self.clause.__name__}"


GREMLINS = [
    Gremlin(TrustsTheTagAlone, test_fence.test_stale_epoch),
    Gremlin(TrustsTheTagAlone, test_fence.test_deposed_writer_reads_again),
    Gremlin(TrustsTheTagAlone, test_weights.test_change_by_hand_is_no_way_past_the_fence),
    Gremlin(TrustsTheTagAlone, test_weather.test_restart),
    Gremlin(TrustsWhatItIsTold, test_fence.test_fence_does_not_rest_on_what_the_writer_says),
    Gremlin(TrustsTheEpochAlone, test_fence.test_newer_writer_with_an_old_view),
    Gremlin(TrustsTheEpochAlone, test_fence.test_claim_that_overtakes_a_change),
    Gremlin(TrustsTheEpochAlone, test_weights.test_change_by_hand),
    Gremlin(TrustsTheEpochAlone, test_weights.test_refused_write),
    Gremlin(ComparesTheWeights, test_fence.test_weights_that_come_back),
    Gremlin(FailsHalfway, test_weights.test_refused_write),
    Gremlin(FailsAClaimHalfway, test_fence.test_stale_epoch),
    Gremlin(FillsIn, test_weights.test_wrong_weights),
    Gremlin(Rounds, test_weights.test_what_it_cannot_hold, IN_OR_OUT),
    Gremlin(ForgetsWithTheHand, test_weights.test_change_by_hand),
    Gremlin(ForgetsWithTheHand, test_weights.test_change_by_hand_is_no_way_past_the_fence),
    Gremlin(SignsForOthers, test_weights.test_change_by_hand),
    Gremlin(AlwaysInForce, test_weights.test_in_force),
    Gremlin(LooksAtWeightsAlone, test_weights.test_in_force_after_a_claim),
    Gremlin(LosesTheWriter, test_fence.test_claim),
]


class Surviving(MemorySite):
    """A memory that a restart does not harm."""

    def restart(self) -> None:
        """Nothing is lost."""


def run(clause: Callable[..., None], route: MemoryTraffic) -> None:
    """A clause on a site of that route, as the suite would run it."""
    site = Surviving(route)
    offered: dict[str, Any] = {
        "site": site,
        "traffic": site.open(),
        "settled": lambda traffic, state: traffic.in_force(state),
        "weights": {"a": 50, "b": 50},
        "said": "c",
    }
    clause(**{name: offered[name] for name in inspect.signature(clause).parameters})


@pytest.mark.parametrize("gremlin", GREMLINS, ids=str)
def test_a_gremlin_is_caught(gremlin: Gremlin) -> None:
    run(gremlin.clause, Honest(REGIONS, features=gremlin.features))
    with pytest.raises((AssertionError, pytest.fail.Exception, MlplatformError)):
        run(gremlin.clause, gremlin.kind(REGIONS, features=gremlin.features))
