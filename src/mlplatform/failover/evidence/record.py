"""What was seen of regions from outside, and how old it is.

A vantage writes one record each round, over the one before it, and it is read by name. Everything
in a record is relative to the vantage's own clock; how old the record is, the reader knows by its
own: how long ago it saw it change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from pydantic import Field

from mlplatform.core.plan import Record
from mlplatform.core.seen import Unknown

SAMPLES_KEPT = 32
"""Of each series, newest last: enough for rise, fall and the spread of intervals."""
GOLDEN_KEPT = 64
"""Golden answers of each region."""


class Path(StrEnum):
    """Which way a probe went."""

    DIRECT = "direct"
    """To the region's own endpoint."""
    FRONT_DOOR = "front-door"
    """Through the route, as clients go; the region that answered is in the sample."""


class Sample(Record):
    """One probe. Seconds are None for what was not reached."""

    seconds_ago: float
    """Before the record was written."""
    ok: bool
    region: str | None = None
    """Which region answered, through the front door; None where the answer does not say."""
    seconds: float | None = None
    """From the first packet, that of DNS, to the last byte."""
    dns_seconds: float | None = None
    connect_seconds: float | None = None
    tls_seconds: float | None = None
    first_byte_seconds: float | None = None
    status: int | None = None
    error: str = ""
    """What went wrong: `dns`, `refused` (or no way there), `timeout`, `reset`, `tls`, `certificate`
    (chain, name or date), `status` (not 2xx), `answer` (no HTTP, cut short, or too large)."""
    detail: str = ""


class Series(Record):
    """Probes of one region along one path, oldest first. Only those of rounds in which the vantage
    could see: what a blind one met says nothing of regions."""

    region: str
    """Empty through the front door: each sample says who answered."""
    path: Path
    route: str | None = None
    """Through the front door of which route."""
    samples: tuple[Sample, ...] = ()
    up: bool | None = None
    """The vantage's opinion before the oldest sample; None while it has none."""
    up_seconds_ago: float | None = None
    """When it came to that opinion, before the record was written: a hold-off outlasts the
    samples that are kept."""
    run: int = 0
    """How many alike in a row came right before the oldest sample: successes above 0, failures
    below. `opinion.Opinion` reckons all three."""
    certificate_expires_at: datetime | None = None
    """As of the last certificate that was in order."""


class GoldenAnswer(Record):
    """A golden request that was answered, or not."""

    region: str
    model: str
    version: str | None
    """As the server said."""
    digest: str | None = None
    seconds_ago: float
    ok: bool
    """The answer was the one that the version's golden requests expect."""
    seconds: float | None = None
    detail: str = ""
    """What was wrong with it."""


class VantageRecord(Record):
    """All that one vantage saw, as of its last round."""

    vantage: str
    round: int
    """Counts up for ever, also over restarts: the wall clock's second at the start, then on."""
    at: datetime
    """Wall time, for people."""
    interval_seconds: float
    writer: str = ""
    """Who probes under that name, for people: `user@host:pid`."""
    blind: str = ""
    """Why it does not trust its own eyes: no reference could be reached."""
    series: tuple[Series, ...] = ()
    golden: tuple[GoldenAnswer, ...] = ()
    """Oldest first."""
    turns: Mapping[str, str] = Field(default_factory=dict)
    """By region: the model whose turn it was last."""


def vantage_key(name: str) -> str:
    """Where a vantage's record lies in the control store."""
    return f"observations/vantages/{name}.json"


@dataclass(frozen=True, slots=True)
class Sighting:
    """A vantage's record, as somebody saw it."""

    record: VantageRecord | Unknown
    age_seconds: float = 0.0
    """Since it was written, by the reader's own clock where it saw it change, else by the two wall
    clocks, of which one may be wrong: then it may be negative."""

    @property
    def stale(self) -> bool:
        """Whether three rounds passed without a word."""
        if isinstance(self.record, Unknown):
            return True
        return not -5.0 <= self.age_seconds <= 3 * self.record.interval_seconds + 5.0

    @property
    def why_stale(self) -> str:
        """What to think of a record that is stale, in one line."""
        if self.age_seconds < 0:
            return (
                f"its record is {-self.age_seconds:.0f} s ahead of this machine's clock: one of "
                "the two clocks is wrong"
            )
        return (
            f"its record is {self.age_seconds:.0f} s old: it has stopped, or cannot write, or one "
            "of the two clocks is wrong"
        )


@dataclass(frozen=True, slots=True)
class Outside:
    """What Prometheus says of one region, as callers met it. None: it has no sample, or NaN."""

    success_ratio: float | None = None
    latency_seconds: float | None = None
    requests_per_second: float | None = None


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything a verdict is made of. Every declared vantage and every region is there."""

    vantages: Mapping[str, Sighting] = field(default_factory=dict)
    outside: Mapping[str, Outside | Unknown] = field(default_factory=dict)
    """By region; empty where no Prometheus is configured."""
