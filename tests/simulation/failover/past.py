"""A drill that was passed before a world begins: as the journal of a process that is long gone."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from functools import cache
from random import Random

from mlplatform.adapters.memory import MemoryStore
from mlplatform.control.executors import InlineExecutor
from mlplatform.control.journal import Journal, Kind
from mlplatform.control.quorum import ControlStore
from mlplatform.core.plan import Action, Outcome, Plan, Result
from mlplatform.failover.decision.decide import FEATURE
from mlplatform.failover.decision.seen import Mode
from mlplatform.ports.traffic import Weights
from tests.simulation.schedule import EPOCH

EPOCH_OF_THE_DRILL = 1


class _Yesterday:
    """A clock that stands still."""

    def now(self) -> datetime:
        return EPOCH - timedelta(days=1)

    def monotonic(self) -> float:
        return 0.0

    def sleep(self, seconds: float) -> None:
        raise AssertionError("nothing of the past waits")


def drilled(route: str, weights: Weights) -> Mapping[str, bytes]:
    """By key, what the control stores hold of it."""
    return _drilled(route, tuple(weights.items()))


@cache
def _drilled(route: str, shares: tuple[tuple[str, int], ...]) -> Mapping[str, bytes]:
    store, clock = MemoryStore("past"), _Yesterday()
    control = ControlStore([store], clock, executor=InlineExecutor())
    journal = Journal(control, clock, Random(route), "drill-of-yesterday")
    weights = dict(shares)
    source = max(weights, key=lambda region: weights[region])
    target = next(region for region in weights if region != source)
    trickle = {**weights, source: weights[source] - 1, target: weights[target] + 1}
    parameters = {"mode": Mode.DRILL.value, "source": source, "targets": [target], "broken": []}
    back = _shift(route, source, {**parameters, "before": trickle, "after": weights})
    stream = journal.start(
        journal.new_operation(FEATURE),
        Plan(feature=FEATURE, actions=(back,)),
        lease=f"{FEATURE}/{route}",
        fence=EPOCH_OF_THE_DRILL,
    )
    outcome = Outcome(action=back.key, result=Result.DONE)
    stream.append(Kind.OUTCOME, outcome.model_dump(mode="json"), fence=EPOCH_OF_THE_DRILL)
    stream.append(Kind.CLOSED, {"text": "it went well"}, fence=EPOCH_OF_THE_DRILL)
    return {key: store._objects[key].body for key in store._keys}


def _shift(route: str, region: str, parameters: dict[str, object]) -> Action:
    return Action(
        key=f"{FEATURE}/{route}/shift/back-of-yesterday",
        kind="shift",
        subject=route,
        region=region,
        reason="yesterday",
        parameters=parameters,
    )
