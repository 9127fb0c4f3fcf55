"""How votes become a verdict, and which change of votes would change it. Pure.

The rule looks at counts alone, so that it can be read in one breath, and so that what would change
a verdict is found by trying the changes on the same rule, never by describing it a second time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache
from itertools import product


class Health(StrEnum):
    """A region's verdict. Only `unhealthy` moves traffic by itself; only `healthy` receives it."""

    HEALTHY = "healthy"
    SUSPECT = "suspect"
    UNHEALTHY = "unhealthy"
    UNKNOWN = "unknown"
    """Too little is known, or what is known is old. Hold."""


class Outlook(StrEnum):
    """What callers met, as Prometheus has it."""

    GOOD = "good"
    """Requests were made, and as many succeeded as the objective wants."""
    BAD = "bad"
    NONE = "none"
    """No sample, NaN, no requests, no answer: no evidence of anything."""


class Ground(StrEnum):
    """Which part of the rule decided."""

    BLIND = "blind"
    TOO_QUIET = "too-quiet"
    DOWN = "down"
    TOO_FEW = "too-few"
    CONTRADICTED = "contradicted"
    NOT_UNANIMOUS = "not-unanimous"
    DISSENT = "dissent"
    OUTSIDE = "outside"
    WEAK = "weak"
    MODELS = "models"
    SLOW_OUTSIDE = "slow-outside"
    WELL = "well"


@dataclass(frozen=True, slots=True)
class Tally:
    """Failure domains by what they hold of a region, and what else counts."""

    eligible: int = 0
    """Those that could vote on it, had they something to say."""
    up: int = 0
    weak: int = 0
    """Of `up`: those that find it slow, or whose silence arouses suspicion."""
    divided: int = 0
    down: int = 0
    outside: Outlook = Outlook.NONE
    slow_outside: bool = False
    """Callers met a latency above the objective."""
    models_fail: bool = False
    """At least half of the models that were asked fail their golden requests in this region, and
    not elsewhere."""

    @property
    def voting(self) -> int:
        return self.up + self.divided + self.down


def rule(tally: Tally, domains: int) -> tuple[Health, Ground]:
    """The verdict, and what decided it. `domains`: how many must vote for the worst one.

    Two domains that dissent from a majority are a gray failure; one is outvoted, or else a single
    lying vantage could keep every region of the world from receiving traffic.
    """
    voting = tally.voting
    if not voting:
        return Health.UNKNOWN, Ground.BLIND
    if 2 * tally.down > voting:
        if voting < domains:
            return Health.SUSPECT, Ground.TOO_FEW
        if tally.outside is Outlook.GOOD:
            return Health.SUSPECT, Ground.CONTRADICTED
        if tally.outside is Outlook.NONE and tally.down < voting:
            return Health.SUSPECT, Ground.NOT_UNANIMOUS
        return Health.UNHEALTHY, Ground.DOWN
    if 2 * tally.up <= tally.eligible:
        if tally.down or tally.divided:
            return Health.SUSPECT, Ground.DISSENT
        return Health.UNKNOWN, Ground.TOO_QUIET
    dissent = tally.down + tally.divided
    if dissent > 1:
        return Health.SUSPECT, Ground.DISSENT
    if tally.outside is Outlook.BAD:
        return Health.SUSPECT, Ground.OUTSIDE
    if 2 * (tally.weak + dissent) > voting:
        return Health.SUSPECT, Ground.WEAK
    if tally.models_fail:
        return Health.SUSPECT, Ground.MODELS
    if tally.slow_outside:
        return Health.SUSPECT, Ground.SLOW_OUTSIDE
    return Health.HEALTHY, Ground.WELL


class Standing(StrEnum):
    """What one domain holds, as it is counted."""

    SILENT = "silent"
    DOWN = "down"
    DIVIDED = "divided"
    WEAK = "weak"
    UP = "up"


@dataclass(frozen=True, slots=True)
class Change:
    """Something that need only be seen for the verdict to be `health`."""

    health: Health
    standing: Standing = Standing.UP
    domains: tuple[str, ...] = ()
    """Those that would hold `standing`."""
    outside: Outlook | None = None
    """What Prometheus would say; None: what it says now."""
    models_right: bool = False
    """Whether the golden requests that fail here would be answered right."""

    @property
    def cost(self) -> int:
        """How many things would have to be different."""
        return len(self.domains) + (self.outside is not None) + self.models_right

    @property
    def by_votes_alone(self) -> bool:
        return self.outside is None and not self.models_right


def changes(
    standings: Sequence[tuple[str, Standing]], tally: Tally, domains: int, *, metrics: bool
) -> Sequence[Change]:
    """The smallest changes that lead to each other verdict; each is tried on `rule`. `metrics`:
    whether Prometheus is asked at all."""
    return _changes(tuple(standings), tally, domains, metrics)


@lru_cache(1024)  # most regions stand alike, round after round
def _changes(
    standings: tuple[tuple[str, Standing], ...],
    tally: Tally,
    domains: int,
    metrics: bool,  # noqa: FBT001
) -> Sequence[Change]:
    now, _ = rule(tally, domains)
    wanted = {
        Health.HEALTHY: (
            (Health.SUSPECT, Standing.DOWN),
            (Health.UNHEALTHY, Standing.DOWN),
            (Health.UNKNOWN, Standing.SILENT),
        ),
        Health.SUSPECT: ((Health.UNHEALTHY, Standing.DOWN), (Health.HEALTHY, Standing.UP)),
        Health.UNHEALTHY: ((Health.SUSPECT, Standing.UP), (Health.HEALTHY, Standing.UP)),
        Health.UNKNOWN: (
            (Health.HEALTHY, Standing.UP),
            (Health.SUSPECT, Standing.DOWN),
            (Health.UNHEALTHY, Standing.DOWN),
        ),
    }
    found: list[Change] = []
    for health, standing in wanted[now]:
        every = sorted(
            _candidates(standings, tally, domains, health, standing, metrics=metrics),
            key=lambda change: change.cost,
        )
        plain = next((change for change in every if change.by_votes_alone), None)
        other = next((change for change in every if not change.by_votes_alone), None)
        if plain is not None:
            found.append(plain)
        if other is not None and (plain is None or len(other.domains) < len(plain.domains)):
            found.append(other)
    return tuple(found)


def _candidates(
    standings: Sequence[tuple[str, Standing]],
    tally: Tally,
    domains: int,
    health: Health,
    standing: Standing,
    *,
    metrics: bool,
) -> Iterator[Change]:
    """For each thing that could be different besides the votes: the fewest votes that it takes."""
    outsides: tuple[Outlook | None, ...] = (None,)
    if metrics and standing is Standing.DOWN and tally.outside is not Outlook.BAD:
        outsides = (None, Outlook.BAD)
    if (
        metrics
        and standing is Standing.UP
        and (tally.outside is not Outlook.GOOD or tally.slow_outside)
    ):
        outsides = (None, Outlook.GOOD)
    # Right answers may turn votes as well: only where they could not do too much are they proposed.
    mendings = (False, True) if tally.models_fail and health is Health.HEALTHY else (False,)
    for outside, models_right, silent_first in product(outsides, mendings, (True, False)):
        start = tally
        if outside is not None:
            start = replace(start, outside=outside, slow_outside=False)
        if models_right:
            start = replace(start, models_fail=False)
        order = _order(standings, standing, silent_first=silent_first)
        counted = start
        for number in range(len(order) + 1):
            if number:
                counted = _moved(counted, order[number - 1][1], standing)
            if _surely(counted, domains, health, standing) and (
                number or outside is not None or models_right
            ):
                names = tuple(sorted(name for name, _ in order[:number]))
                yield Change(health, standing, names, outside, models_right)
                break


def _surely(tally: Tally, domains: int, health: Health, standing: Standing) -> bool:
    """Whether the rule gives `health`. A domain that calls a region up again may do so because its
    models are right again: then it must hold either way."""
    if rule(tally, domains)[0] is not health:
        return False
    if not (tally.models_fail and standing is Standing.UP):
        return True
    return rule(replace(tally, models_fail=False), domains)[0] is health


def _order(
    standings: Sequence[tuple[str, Standing]], standing: Standing, *, silent_first: bool
) -> list[tuple[str, Standing]]:
    """Who is moved to `standing`, in order: those nearest to it first."""
    path = {
        Standing.DOWN: (Standing.DIVIDED, Standing.WEAK, Standing.UP),
        Standing.UP: (Standing.DOWN, Standing.DIVIDED, Standing.WEAK),
        Standing.SILENT: (Standing.UP, Standing.WEAK, Standing.DIVIDED, Standing.DOWN),
    }[standing]
    voting = [entry for held in path for entry in standings if entry[1] is held]
    silent = [
        entry
        for entry in standings
        if entry[1] is Standing.SILENT and standing is not Standing.SILENT
    ]
    return [*silent, *voting] if silent_first else [*voting, *silent]


def _moved(tally: Tally, old: Standing, new: Standing) -> Tally:
    def change(*which: Standing) -> int:
        return (new in which) - (old in which)

    return replace(
        tally,
        up=tally.up + change(Standing.UP, Standing.WEAK),
        weak=tally.weak + change(Standing.WEAK),
        divided=tally.divided + change(Standing.DIVIDED),
        down=tally.down + change(Standing.DOWN),
    )
