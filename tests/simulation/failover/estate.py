"""The estate as one process of the world has it: all real, but for what it calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mlplatform.core.errors import MlplatformError
from mlplatform.core.seen import Unknown
from mlplatform.failover.decision.seen import Seen, Standby
from mlplatform.failover.effects import Estate
from mlplatform.failover.evidence.record import Evidence
from mlplatform.failover.standby.offers import golden_answers, standby_of
from mlplatform.failover.watch import Watch
from mlplatform.ports.fleet import Fleet
from tests.simulation.failover.ground import MODEL, Region
from tests.simulation.schedule import Process

if TYPE_CHECKING:
    from tests.simulation.failover.judge import FailoverJudge


@dataclass(slots=True)
class SimEstate(Estate):
    """The real one, overheard: the judge knows when a process looked."""

    process: Process | None = None
    judge: FailoverJudge | None = None

    def observe(
        self, routes: Sequence[str] | None = None, *, epochs: Mapping[str, int] | None = None
    ) -> Seen:
        process, judge = self.process, self.judge
        assert process is not None
        assert judge is not None
        began = judge.scheduler.now
        # By its name: a dataclass with slots is made anew, and `super()` would mean the old one.
        seen = Estate.observe(self, routes, epochs=epochs)
        judge.looked(process, began, seen)
        return seen


@dataclass(slots=True)
class SimWatch(Watch):
    """The real one; what it survives of errors that nobody foresaw, the world does not."""

    judge: FailoverJudge | None = None

    def _cannot_act(self, error: MlplatformError) -> None:
        self._foresee(error)
        Watch._cannot_act(self, error)

    def _failed(self, route: str, error: MlplatformError) -> None:
        self._foresee(error)
        Watch._failed(self, route, error)

    def _foresee(self, error: MlplatformError) -> None:
        assert self.judge is not None
        self.judge.trace(None, self.estate.writer, "holds", error=error)
        if "internal error" in str(error):
            raise self.judge.fail(f"{self.estate.writer}: {error}")


@dataclass
class Stand:
    """What regions offer: their servers are asked, and the answers joined as the product does."""

    regions: Mapping[str, Region]
    fleets: Mapping[str, Fleet]
    process: Process

    def __call__(
        self, evidence: Evidence, routes: Sequence[str]
    ) -> dict[str, dict[str, Standby | Unknown]]:
        golden = golden_answers(evidence)
        found: dict[str, dict[str, Standby | Unknown]] = {}
        for name, region in self.regions.items():
            try:
                served = self.fleets[name].served(frozenset((MODEL,)))[MODEL]
            except Exception as error:
                found[name] = {MODEL: Unknown(f"{name}: {error}")}
                continue
            assert not isinstance(served, Unknown)
            answers = golden if isinstance(golden, Unknown) else golden.get((name, MODEL), [])
            found[name] = {MODEL: standby_of(replace(region.offer(served), golden=answers))}
        return found
