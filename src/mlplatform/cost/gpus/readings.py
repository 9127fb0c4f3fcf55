"""What monitoring says of GPUs, asked for a day at a time, so that answers stay small.

Who does not answer is `Unknown`, with the key of the topology and the reason, and is not asked
again: thirty days of a query that takes too long would take too long thirty times.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, date, datetime, timedelta
from string import Template

from mlplatform.core.cost import Gpus
from mlplatform.core.errors import MlplatformError
from mlplatform.core.seen import Unknown
from mlplatform.ports.measurements import History, Line

STEP_SECONDS = 300.0
"""As far as Prometheus looks back for a sample by default, so that none is missed for long."""
DAY_SECONDS = 86_400.0

Read = Sequence[Line] | Unknown


def lines_of(read: Read) -> Sequence[Line]:
    """What was answered; nothing where nobody did."""
    return () if isinstance(read, Unknown) else read


@dataclass(frozen=True, slots=True)
class Readings:
    """The samples of some hours, by query; see `core.cost.Gpus`."""

    allocatable: Read = ()
    requested: Read = ()
    utilisation: Read = ()
    servers: Read = ()
    weights: Read = ()
    labels: Read = ()


@dataclass(slots=True)
class Asker:
    """Asks one monitoring system."""

    history: History
    gpus: Gpus
    region_label: str
    refused: dict[str, Unknown] = field(default_factory=dict)
    """By query: why it is not asked again."""

    def days(self, days: Sequence[date]) -> Iterator[Readings]:
        """Of each of some days, in UTC: a sample every five minutes, each speaking for these. Where
        no node is known, nothing else is asked."""
        for day in days:
            start = datetime(day.year, day.month, day.day, tzinfo=UTC)
            nodes = self._of_day("allocatable", start)
            others = [each.name for each in fields(Readings) if each.name != "allocatable"]
            yield Readings(
                nodes,
                **{name: self._of_day(name, start) for name in others} if lines_of(nodes) else {},
            )

    def _of_day(self, name: str, start: datetime) -> Read:
        return self.read(
            name,
            since=start.timestamp() + STEP_SECONDS,
            until=(start + timedelta(days=1)).timestamp(),
            step_seconds=STEP_SECONDS,
            window_seconds=STEP_SECONDS,
        )

    def read(
        self, name: str, *, since: float, until: float, step_seconds: float, window_seconds: float
    ) -> Read:
        """The samples of one query."""
        if name in self.refused:
            return self.refused[name]
        query = self.query(name, window_seconds)
        try:
            return self.history.range(query, since=since, until=until, step_seconds=step_seconds)
        except MlplatformError as error:
            text = str(error)
            where = "" if self.history.url in text else f"{self.history.url}: "
            self.refused[name] = Unknown(f"cost.gpus.{name}: {where}{text}")
            return self.refused[name]

    def query(self, name: str, window_seconds: float) -> str:
        """In the words of the topology, with what stands in for them."""
        words = {"window": f"{window_seconds:.0f}s", "region": self.region_label}
        told: str = getattr(self.gpus, name)
        return Template(told).safe_substitute(words)
