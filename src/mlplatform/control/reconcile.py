"""The loop that every feature runs: observe → decide → act → record."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, TypeVar

from mlplatform.control.journal import Journal
from mlplatform.control.lease import Background, Lease
from mlplatform.core.plan import Action, Outcome, Plan
from mlplatform.ports.clock import Clock

Seen = TypeVar("Seen")


class Controller(Protocol[Seen]):
    """What a feature is. `observe` reads the world; `decide` judges it, purely; `act` performs the
    actions of one batch and yields each outcome as it is known."""

    @property
    def feature(self) -> str:
        """For operation ids: `replicate`, `failover`."""
        ...

    def observe(self) -> Seen: ...

    def decide(self, seen: Seen, now: datetime) -> Plan: ...

    def act(self, actions: Sequence[Action], operation: str) -> Iterator[Outcome]:
        """An action that fails is an `Outcome`. What is raised stops the operation: `Fenced`,
        `Interrupted`; any other error of ours makes what has no outcome yet `UNKNOWN`."""
        ...


@dataclass(frozen=True, slots=True)
class Report:
    """What a run did."""

    plan: Plan
    """What was decided now; after a resume only, what the operation's remainder was."""
    operation: str | None = None
    """None when there was nothing to do, and nothing was written."""
    outcomes: tuple[Outcome, ...] = ()
    resumed: tuple[Report, ...] = ()
    """Operations that a crash had left, finished first."""

    @property
    def exit_code(self) -> int:
        raise NotImplementedError


def propose(controller: Controller[Seen], clock: Clock) -> Plan:
    """`--plan`: observe and decide, and touch nothing."""
    raise NotImplementedError


def run(
    controller: Controller[Seen],
    journal: Journal,
    lease: Lease,
    *,
    clock: Clock,
    wait: bool = False,
    approved: Plan | None = None,
    revalidate: bool = False,
    independent: bool = True,
    stop: Callable[[], bool] | None = None,
    on_plan: Callable[[Plan, str], None] | None = None,
    on_outcome: Callable[[Outcome], None] | None = None,
    background: Background | None = None,
) -> Report:
    """Acquire the lease, finish what a crash left, then observe, decide, act and record.

    `approved`: the plan that somebody agreed to; `StalePlan` if its basis has changed since.
    `revalidate`: before each batch after the first, observe again; `StalePlan` unless the batch
    would still be decided. `independent`: a batch that fails does not stop the next.
    """
    raise NotImplementedError


def resume(
    operation: str,
    controller: Controller[Seen],
    journal: Journal,
    lease: Lease,
    *,
    clock: Clock,
    wait: bool = False,
    stop: Callable[[], bool] | None = None,
    on_outcome: Callable[[Outcome], None] | None = None,
    background: Background | None = None,
) -> Report:
    """Finish one operation that was left unfinished, by whomever."""
    raise NotImplementedError
