"""Every vantage's record, by name, and how old it is; and what Prometheus says beside them.

How old a record is, the reader knows by its own clock once it has seen the record change. Before
that there are only two wall clocks to go by, and one that is an hour off makes a record look old
or not yet written: then it is stale until it changes, and nothing is done meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace

from mlplatform.control.executors import InlineExecutor
from mlplatform.control.quorum import ControlStore
from mlplatform.core.errors import MlplatformError
from mlplatform.core.seen import Unknown
from mlplatform.failover.evidence.outside import OutsideView
from mlplatform.failover.evidence.record import Evidence, Sighting, VantageRecord, vantage_key
from mlplatform.failover.vantage.rounds import newest
from mlplatform.ports.clock import Clock

_ROUNDS = 16
_PATIENCE_SECONDS = 3.0
"""How long Prometheus is waited for. In the night in which it matters it may well be away."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """A record as it was met first."""

    round: int
    at: float
    """When, by the reader's monotonic clock."""
    age_seconds: float
    """How old it was then."""
    looked_at: float
    """When it was read last."""
    rounds: tuple[int, ...] = ()
    """Those met of late, newest first. One met before is no sign of life: stores that do not hold
    the same answer in turn."""


class EvidenceReader:
    """Reads what there is, time and again. One reader remembers what it saw: keep it."""

    def __init__(
        self,
        control: ControlStore,
        vantages: Sequence[str],
        clock: Clock,
        outside: OutsideView | None = None,
        executor: Executor | None = None,
    ) -> None:
        """`executor`: where monitoring is asked beside the vantages' records."""
        self._control = control
        self._keys = {name: vantage_key(name) for name in vantages}
        self._clock = clock
        self._outside = outside
        self._executor = executor or InlineExecutor()
        self._seen: dict[str, _Seen] = {}

    def read(self) -> Evidence:
        """All of it. What cannot be read in time is `Unknown`; raises nothing of its own."""
        if self._outside is None:
            return Evidence(self.sightings(), {})
        asked = self._executor.submit(self._outside.outside)
        sightings = self.sightings()
        try:
            outside = asked.result(timeout=_PATIENCE_SECONDS)
        except TimeoutError:
            outside = self._outside.late()
        return Evidence(sightings, outside)

    def sightings(self) -> dict[str, Sighting]:
        """Every declared vantage's record."""
        if not self._keys:
            return {}
        try:
            readings = self._control.read_many(self._keys.values())
        except MlplatformError as error:
            return {name: Sighting(Unknown(str(error))) for name in self._keys}
        found = {}
        for name, key in self._keys.items():
            try:
                record = newest(readings[key].bodies())
            except ValueError as error:
                reason = str(error).splitlines()[0]
                found[name] = Sighting(Unknown(f"{name}: its record is broken: {reason}"))
                continue
            if record is None:
                found[name] = Sighting(Unknown(f"{name} has never written a record"))
            elif record.vantage != name:
                reason = f"{name}: this is the record of {record.vantage}"
                found[name] = Sighting(Unknown(reason))
            else:
                found[name] = Sighting(record, self._age(name, record))
        return found

    def _age(self, name: str, record: VantageRecord) -> float:
        now = self._clock.monotonic()
        by_wall = (self._clock.now() - record.at).total_seconds()
        before = self._seen.get(name)
        if before is None:
            seen = _Seen(record.round, now, by_wall, now, (record.round,))
        elif record.round not in before.rounds:
            # It was written since we looked last: the wall clocks may say when, within that. Where
            # they put it outside, one is wrong, and it may have been written right after.
            gap = now - before.looked_at
            age = by_wall if 0 <= by_wall <= gap else gap
            rounds = (record.round, *before.rounds[: _ROUNDS - 1])
            seen = _Seen(record.round, now, age, now, rounds)
        else:
            seen = replace(before, looked_at=now)
        self._seen[name] = seen
        return seen.age_seconds + (now - seen.at)
