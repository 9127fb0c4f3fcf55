"""An actuator under the one retry policy.

A write whose answer was lost may have taken effect. Trying again blindly would take our own work
for a rival's, so it is settled by reading back: our weights under our epoch and name are success; a
higher epoch means that we are fenced; what was expected is still there, so try again; anything else
is somebody else's, and `ConditionFailed`.
"""

from __future__ import annotations

import logging

from mlplatform.control.retry import Retry, Settling
from mlplatform.core.errors import ConditionFailed, Unavailable
from mlplatform.ports.traffic import RouteState, Traffic, TrafficFeatures, Weights, check_epoch

log = logging.getLogger(__name__)


class RetryingTraffic:
    """Any actuator, every verb of it under the policy."""

    def __init__(self, traffic: Traffic, retry: Retry) -> None:
        self._traffic = traffic
        self._retry = retry

    @property
    def url(self) -> str:
        return self._traffic.url

    @property
    def features(self) -> TrafficFeatures:
        return self._traffic.features

    def read(self) -> RouteState:
        return self._retry.call(self._traffic.read, what=f"read {self.url}")

    def write(
        self, weights: Weights, *, epoch: int, writer: str, expected: RouteState
    ) -> RouteState:
        attempt = Settling(
            "write",
            lambda: self._traffic.write(weights, epoch=epoch, writer=writer, expected=expected),
            lambda: self._look_for(weights, epoch, writer, expected),
        )
        return self._retry.call(attempt, what=f"write {self.url}")

    def in_force(self, state: RouteState) -> bool:
        return self._retry.call(lambda: self._traffic.in_force(state), what=f"in_force {self.url}")

    def _look_for(
        self, weights: Weights, epoch: int, writer: str, expected: RouteState
    ) -> RouteState | None:
        """The state if it is ours, None if it is still the one that was expected."""
        found = self._traffic.read()
        if sum(found.weights.values()) != 100:
            raise Unavailable(
                f"answered with {dict(found.weights) or 'nothing'}, and weights total 100",
                store=self.url,
            )
        check_epoch(found, epoch, where=self.url)
        if found.tag == expected.tag:
            return None  # also where the write was to change nothing: then it is to prove itself
        if (found.weights, found.epoch, found.writer) == (weights, epoch, writer):
            log.info("%s: the answer was lost, the write was not", self.url)
            return found
        raise ConditionFailed(
            f"another writer came first{f', {found.writer}' if found.writer else ''}: "
            f"{dict(found.weights)} is there under epoch {found.epoch}",
            store=self.url,
        )
