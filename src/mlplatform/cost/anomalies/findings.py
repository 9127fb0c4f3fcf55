"""From what leaves cost to incidents, in each currency by itself. Pure.

What is provisional is scored as what it is likely to become, by the completeness it has; and it is
an alarm only if it is one too where more of it is there already than of nine in ten such days.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from mlplatform.cost.detect.alarms import Alarms, Reason, Rules, alarms_of, day_over_day, words
from mlplatform.cost.detect.calendar import Calendar, calendar_of
from mlplatform.cost.detect.incidents import Incident, Tree, Word, incidents_of, told_of, tree_of
from mlplatform.cost.detect.scoring import Scores, Told, score

Numbers = npt.NDArray[np.float64]
Where = tuple[str, ...]
Leaf = tuple[str, Where]
"""Currency, and the values of the levels."""


class Rule(StrEnum):
    """By which rule days are judged."""

    MODEL = "model"
    DAY_OVER_DAY = "day-over-day"


@dataclass(frozen=True, slots=True)
class Said:
    """What somebody said of a node and all below it, in days."""

    currency: str
    where: Where
    since: date
    until: date
    told: Told


@dataclass(frozen=True, slots=True)
class Costs:
    """What leaves cost on the days of a ledger. NaN: nothing is known; 0: it cost nothing."""

    first: date
    likely: Mapping[Leaf, Numbers]
    """What each day is likely to come to."""
    cautious: Mapping[Leaf, Numbers]
    """The same where more of it is there already than usual."""

    @property
    def days(self) -> int:
        """How many there are."""
        return max((len(each) for each in self.likely.values()), default=0)


@dataclass(frozen=True, slots=True)
class Found:
    """An incident, in days and money. Floats: they come from the detector."""

    currency: str
    where: Where
    since: date
    until: date
    likely: float
    """What the node is likely to have cost over those days."""
    expected: float
    score: float | None
    """None where the rule has none."""
    reason: str
    young: bool
    """Less than two weeks are known: low confidence."""
    members: tuple[Where, ...]
    masked_by: tuple[Where, ...]
    held_back: bool
    told: Told

    @property
    def excess(self) -> float:
        """Beyond what was expected."""
        return self.likely - self.expected


@dataclass(frozen=True, slots=True)
class Node:
    """What a node is likely to have cost over some days, and what was expected."""

    likely: float
    expected: float


class Judged:
    """The trees of a ledger, judged."""

    def __init__(
        self, costs: Costs, said: Iterable[Said] = (), *, rule: Rule, rules: Rules | None = None
    ) -> None:
        self._first = costs.first
        self._trees: dict[str, tuple[Tree, Scores]] = {}
        self.found: list[Found] = []
        for currency in sorted({coin for coin, _ in costs.likely}):
            self._judge(currency, costs, list(said), rule, rules or Rules())
        self.found.sort(key=lambda each: (-each.excess, each.currency, each.where, each.since))

    def node(self, currency: str, where: Where, since: date, until: date) -> Node | None:
        """What a node cost over some days, and was expected to; None where that is not known."""
        if currency not in self._trees:
            return None
        tree, scores = self._trees[currency]
        if where not in tree.paths:
            return None
        place = tree.paths.index(where)
        steps = slice((since - self._first).days, (until - self._first).days + 1)
        likely = float(tree.values[place, steps].sum())
        expected = float(scores.expected[place, steps].sum())
        return Node(likely, expected) if np.isfinite([likely, expected]).all() else None

    def nodes(self, currency: str) -> Sequence[Where]:
        """All nodes of a currency's tree."""
        return self._trees[currency][0].paths if currency in self._trees else ()

    def _judge(
        self, currency: str, costs: Costs, said: Sequence[Said], rule: Rule, rules: Rules
    ) -> None:
        tree = tree_of(
            {where: row for (coin, where), row in costs.likely.items() if coin == currency}
        )
        calendar = calendar_of(np.datetime64(costs.first) + np.arange(costs.days))
        spoken = _words([each for each in said if each.currency == currency], costs)
        told = told_of(tree, spoken)
        cautious = tree_of(
            {where: row for (coin, where), row in costs.cautious.items() if coin == currency}
        )
        both = [_scored(each, calendar, told, rule, rules) for each in (tree, cautious)][
            : 1 if np.array_equal(tree.values, cautious.values, equal_nan=True) else 2
        ]
        scores, alarms = both[0]
        if len(both) > 1:
            sure = alarms.alarm & both[1][1].alarm
            alarms = replace(alarms, alarm=sure, by_own_test=alarms.by_own_test & sure)
        self._trees[currency] = (tree, scores)
        for incident in incidents_of(tree, scores, alarms, words=spoken):
            self.found.append(self._in_days(currency, tree, scores, alarms, incident, rule))

    def _in_days(
        self,
        currency: str,
        tree: Tree,
        scores: Scores,
        alarms: Alarms,
        incident: Incident,
        rule: Rule,
    ) -> Found:
        place = tree.paths.index(incident.path)
        steps = np.arange(incident.since, incident.until + 1)
        known = np.isfinite(tree.values[place, steps]) & np.isfinite(scores.expected[place, steps])
        likely = float(tree.values[place, steps][known].sum())
        expected = float(scores.expected[place, steps][known].sum())
        at = _telling(alarms.alarm[place, steps], tree.values[place, steps], scores, place, steps)
        young = bool(alarms.young[place, at])
        return Found(
            currency=currency,
            where=incident.path,
            since=self._first + timedelta(days=incident.since),
            until=self._first + timedelta(days=incident.until),
            likely=likely,
            expected=expected,
            score=None if rule is Rule.DAY_OVER_DAY else incident.score,
            reason=words(
                int(alarms.reason[place, at]),
                float(tree.values[place, at]),
                float(scores.expected[place, at]),
                young=young,
                alarm=True,
            ),
            young=young,
            members=incident.members,
            masked_by=incident.masked_by,
            held_back=incident.held_back,
            told=incident.told,
        )


def _telling(
    alarm: npt.NDArray[np.bool_],
    values: Numbers,
    scores: Scores,
    place: int,
    steps: npt.NDArray[np.int64],
) -> int:
    """The day whose reason is told: of the alarms, the one with most beyond what was expected."""
    above = np.nan_to_num(values - scores.expected[place, steps], nan=-np.inf)
    above = np.where(alarm, above, -np.inf) if alarm.any() else above
    return int(steps[int(np.argmax(above))])


def _words(said: Sequence[Said], costs: Costs) -> list[Word]:
    steps = costs.days
    found = []
    for each in said:
        since, until = (each.since - costs.first).days, (each.until - costs.first).days
        if until < 0 or since >= steps:
            continue
        found.append(Word(each.where, max(since, 0), min(until, steps - 1), each.told))
    return found


def _scored(
    tree: Tree, calendar: Calendar, told: npt.NDArray[np.int8], rule: Rule, rules: Rules
) -> tuple[Scores, Alarms]:
    planned = told == Told.PLANNED
    if rule is Rule.MODEL:
        scores = score(tree.values, calendar, told=told)
        return scores, alarms_of(tree.values, scores, calendar, rules, planned)
    change, alarm = day_over_day(tree.values, calendar, rules)
    alarm &= ~planned
    before = np.full(tree.values.shape, np.nan)
    before[:, 1:] = tree.values[:, :-1]
    history = np.cumsum(np.isfinite(tree.values), axis=1, dtype=np.int32)
    shape = tree.values.shape
    scores = Scores(
        expected=before,
        usual=before,
        evidence=np.nan_to_num(change, posinf=1e6, neginf=0.0),
        deviations=np.full(shape, np.nan),
        noise=np.full(shape, np.nan),
        cleaned=tree.values,
        history=history,
        why=np.zeros(shape, np.int8),
    )
    reason = np.where(alarm, Reason.DAY_OVER_DAY, Reason.USUAL).astype(np.int8)
    # By its own test: a rule without a score keeps no budget.
    return scores, Alarms(alarm, reason, np.zeros(shape, bool), alarm)
