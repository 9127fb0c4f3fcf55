"""The guards of failover."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

from mlplatform.adapters import memory_traffic
from mlplatform.adapters.memory_traffic import MemoryTraffic
from mlplatform.control import claims, reconcile, retry_traffic
from mlplatform.control.journal import Stream
from mlplatform.control.lease import Lease, Process, lease_for
from mlplatform.control.reconcile import _Loop
from mlplatform.control.retry_traffic import RetryingTraffic
from mlplatform.core.plan import Action, Plan
from mlplatform.core.traffic import Route
from mlplatform.failover import effects, operations
from mlplatform.failover.decision import back, decide, leave, rules
from mlplatform.failover.decision.case import Case
from mlplatform.failover.effects import Estate
from mlplatform.failover.evidence.reader import EvidenceReader
from mlplatform.failover.verdict import judge
from mlplatform.failover.verdict.ballot import Ground, Health, Tally, rule
from mlplatform.failover.verdict.testimony import Witness
from mlplatform.ports.traffic import RouteState, Weights
from tests.simulation.guards import CONTROL_GUARDS, Guards

GUARDS = Guards(CONTROL_GUARDS)


def _nothing(*_: Any, **__: Any) -> None:
    return None


def _without_rule(removed: Callable[..., object]) -> Any:
    return patch.object(rules, "_RULES", tuple(r for r in rules._RULES if r is not removed))


# Who may write.


@GUARDS.removes
def epoch_check() -> Iterator[None]:
    """Nobody compares epochs: not the target, nor who reads it."""
    with ExitStack() as stack:
        for module in (effects, claims, retry_traffic, memory_traffic):
            stack.enter_context(patch.object(module, "check_epoch", _nothing))
        yield


@GUARDS.removes
def claim_before_deciding() -> Iterator[None]:
    """The epoch gets to the target with the first change, and not before anything is decided."""

    def unclaimed(self: Estate, route: str, epoch: int | None) -> RouteState:
        return self.open_traffic(route).read()

    with patch.object(Estate, "_state", unclaimed):
        yield


@GUARDS.removes
def epoch_above_the_targets() -> Iterator[None]:
    """A generation is counted on from what the control stores remember, and nothing else."""

    def lease(process: Process, name: str, *, floor: object) -> Lease:
        return lease_for(process, name)

    with patch.object(operations, "lease_for", lease):
        yield


@GUARDS.removes
def compare_and_set_of_weights() -> Iterator[None]:
    """Weights are written whatever is there."""
    write = MemoryTraffic.write

    def careless(
        self: MemoryTraffic, weights: Weights, *, epoch: int, writer: str, expected: RouteState
    ) -> RouteState:
        return write(self, weights, epoch=epoch, writer=writer, expected=self.read())

    with patch.object(MemoryTraffic, "write", careless):
        yield


@GUARDS.removes
def guard_before_the_shift() -> Iterator[None]:
    """Nobody asks for the lease before acting."""
    with patch.object(Lease, "guard", _nothing):
        yield


@GUARDS.removes
def settle_by_reading() -> Iterator[None]:
    """A write whose answer was lost is sent again, without looking what became of it."""

    def blind(
        self: RetryingTraffic, weights: Weights, *, epoch: int, writer: str, expected: RouteState
    ) -> RouteState:
        return self._retry.call(
            lambda: self._traffic.write(weights, epoch=epoch, writer=writer, expected=expected),
            what=f"write {self.url}",
        )

    with patch.object(RetryingTraffic, "write", blind):
        yield


# What is known.


@GUARDS.removes
def staleness_of_evidence() -> Iterator[None]:
    """Every record is taken to be new."""
    with patch.object(EvidenceReader, "_age", lambda self, name, record: 0.0):
        yield


@GUARDS.removes
def own_vantage_has_no_vote() -> Iterator[None]:
    """A vantage votes on the region that it stands in."""
    with patch.object(Witness, "stands_in", lambda self, region: False):
        yield


@GUARDS.removes
def three_domains() -> Iterator[None]:
    """One domain is enough for the worst verdict."""

    def hasty(tally: Tally, domains: int) -> tuple[Health, Ground]:
        return rule(tally, 1)

    with patch.object(judge, "rule", hasty):
        yield


@GUARDS.removes
def gates_at_the_target() -> Iterator[None]:
    """Weight is put wherever there is room."""

    def open_(case: Case, region: str) -> tuple[()]:
        return ()

    with patch.object(leave, "closed_gates", open_), patch.object(back, "closed_gates", open_):
        yield


@GUARDS.removes
def gates_rechecked_at_commit() -> Iterator[None]:
    """What somebody agreed to is done, whatever has become of the world."""
    with patch.object(reconcile, "_require_unchanged", _nothing):
        yield


@GUARDS.removes
def revalidation_before_each_step() -> Iterator[None]:
    """What was planned at the start is done to its end."""

    def as_planned(
        self: _Loop[Any], stream: Stream, left: Sequence[Action], fresh: Plan
    ) -> Sequence[Action]:
        return left

    with patch.object(_Loop, "_still_wanted", as_planned):
        yield


# What bounds an act.


@GUARDS.removes
def cap() -> Iterator[None]:
    """Cascades take as much as they want."""
    with patch.object(leave, "over_the_cap", _nothing):
        yield


@GUARDS.removes
def panic() -> Iterator[None]:
    """Regions that turn sick together are left one after the other."""
    with _without_rule(rules._panic):
        yield


@GUARDS.removes
def hold_off() -> Iterator[None]:
    """A region gets its traffic back as soon as it answers."""
    with patch.object(back, "hold_off", _nothing), patch.object(decide, "hold_off", _nothing):
        yield


@GUARDS.removes
def lock() -> Iterator[None]:
    """A lock is a word."""
    with _without_rule(rules._lock):
        yield


@GUARDS.removes
def one_recovery() -> Iterator[None]:
    """What was left is left, and the next operation begins beside it."""
    unfinished = patch.object(_Loop, "finish_left", lambda self, journal, finisher: iter(()))
    with unfinished, _without_rule(rules._one_recovery):
        yield


@GUARDS.removes
def consent() -> Iterator[None]:
    """Weights that somebody changed by hand are overwritten."""
    with _without_rule(rules._consent):
        yield


@GUARDS.removes
def advise() -> Iterator[None]:
    """Every route acts by itself."""

    def auto(self: Case) -> Route:
        return self.topology.traffic.routes[self.name].model_copy(update={"mode": "auto"})

    with patch.object(Case, "route", property(auto)):
        yield


@GUARDS.removes
def drilled() -> Iterator[None]:
    """A standby that nobody has tried is as good as any."""
    with _without_rule(rules._drilled):
        yield
