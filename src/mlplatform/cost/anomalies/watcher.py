"""Anomalies of a ledger: every import since the last time is judged as it was then, and what was
said before is confirmed or taken back. The shell around the pure parts."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mlplatform.core.errors import Denied, UsageError
from mlplatform.cost.anomalies.cells import Cells, Where
from mlplatform.cost.anomalies.comparing import Comparer, Comparison, reference_of
from mlplatform.cost.anomalies.findings import Judged, Rule, Said
from mlplatform.cost.anomalies.records import (
    Alarm,
    AlarmBook,
    Answer,
    Judgement,
    Word,
    Words,
    new_word_id,
    newest_of_all,
)
from mlplatform.cost.anomalies.seen import Seen, see
from mlplatform.cost.anomalies.verdicts import Scope, after, path_of
from mlplatform.cost.cube import TAG_PREFIX, Measure, dimension
from mlplatform.cost.detect.scoring import Told
from mlplatform.cost.ledger import Delivery, Ledger
from mlplatform.cost.restatement.knowledge import Histories, days_between, histories_of
from mlplatform.cost.restatement.states import states

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

JUDGED_DAYS = 100
"""Alarms that ended before are left as they are: their bills are final, and the edge of what the
detector remembers moves over them."""
REPLAYED_MOST = 31
"""So many imports are judged each by itself; of more, the last ones."""
_COSTS_AT_MOST = 4_000_000
"""And so many daily costs of leaves in all, about ten seconds of CPU; always the last import."""
LOW_CONFIDENCE_DAYS = 14
_DEFAULT_LEVELS = ("provider", "region", "service")
_DEFAULT_TAGS = ("model", "team")
_TOLD = {Answer.YES: Told.YES, Answer.NO: Told.NO, Answer.PLANNED: Told.PLANNED}


@dataclass(frozen=True, slots=True)
class Asked:
    """What is judged."""

    by: tuple[str, ...] = ()
    """Levels of the tree below the total; empty: provider, region, service, and the tags model and
    team where the topology has them."""
    measure: Measure = Measure.EFFECTIVE
    rule: Rule = Rule.MODEL


@dataclass(frozen=True, slots=True)
class Outlook:
    """What is known after judging."""

    asked: Asked
    levels: tuple[str, ...]
    seen: Seen
    cells: Cells
    judged: Judged
    alarms: tuple[Alarm, ...]
    words: tuple[Word, ...]
    skipped: int
    """Imports that were too many to be judged each by itself."""
    kept: bool
    """Whether what was found could be kept."""

    def answer(self, alarm: Alarm) -> Word | None:
        """What was said of an alarm last."""
        about = [word for word in self.words if word.incident == alarm.id]
        return about[-1] if about else None

    def unacknowledged(self, alarm: Alarm) -> bool:
        """Whether somebody has yet to look."""
        return alarm.state.stands and not alarm.held_back and self.answer(alarm) is None


@dataclass(frozen=True, slots=True)
class Watcher:
    """Judges a ledger."""

    ledger: Ledger
    connection: DuckDBPyConnection
    at_hand: Callable[[str], Path]
    regions: Mapping[str, str]
    tags: Sequence[str]
    now: Callable[[], datetime] = lambda: datetime.now(UTC)

    def look(self, asked: Asked) -> Outlook | None:
        """Judge what was imported since the last time; None if the ledger holds no usage.

        `UsageError` for a dimension that there is not; `LeaseHeld` where another process judges the
        same ledger meanwhile.
        """
        current = self.ledger.current()
        histories = histories_of(self.ledger, current)
        steps = states({each.id: each for each in [*current, *_all(histories)]}.values())
        if not steps:
            return None
        columns = self._columns(asked, current)
        levels = tuple(column.removeprefix(TAG_PREFIX) for column in columns)
        book = AlarmBook(self.ledger.store, _slug(asked, levels))
        before = book.newest()
        fresh = [step for step in steps if before is None or step.at > before.state_at]
        statuses = self.ledger.statuses()
        looked = [
            found
            for step in (fresh[-REPLAYED_MOST:] or steps[-1:])
            if (found := see(step, histories, statuses, asked.measure)) is not None
        ]
        if not looked or not any(found.chosen for found in looked):
            return None
        cells = Cells(self.connection, self.at_hand, columns, asked.measure, self.regions)
        cells.read(each for found in looked for each in found.chosen)
        costs = max(1, len(cells.leaves) * ((looked[-1].until - looked[-1].first).days + 1))
        looked = looked[-max(1, _COSTS_AT_MOST // costs) :]
        words = tuple(Words(self.ledger.store).all())
        alarms = before.alarms if before else ()
        number = before.number if before else 0
        said = self._said(words, levels, cells)
        kept, judged = True, None
        for seen in looked:
            judged = Judged(seen.costs(cells), said, rule=asked.rule)
            scope = Scope(levels, seen.until - timedelta(days=JUDGED_DAYS), seen.state.at)
            told = after(alarms, judged.found, scope, partial(seen.amounts, cells, judged))
            if kept and (fresh or told != alarms):
                number += 1
                kept = self._keep(
                    book,
                    Judgement(
                        number=number,
                        state_at=seen.state.at,
                        judged=self.now(),
                        deliveries=tuple(each.id for each in seen.state.current),
                        levels=levels,
                        measure=asked.measure.value,
                        rule=asked.rule.value,
                        alarms=told,
                    ),
                )
            alarms = told
        if judged is None:
            return None
        return Outlook(
            asked,
            levels,
            looked[-1],
            cells,
            judged,
            alarms,
            words,
            skipped=max(0, len(fresh) - len(looked)),
            kept=kept,
        )

    def alarm(self, name: str) -> tuple[Asked, Alarm]:
        """An alarm that was found before, by its id or by how it begins, and what had been asked.
        `UsageError` names those there are."""
        known = [
            (Asked(each.levels, Measure(each.measure), Rule(each.rule)), alarm)
            for each in newest_of_all(self.ledger.store)
            for alarm in each.alarms
        ]
        begins = name.strip().lower()
        found = [(asked, alarm) for asked, alarm in known if alarm.id.startswith(begins)]
        if begins and len({alarm.id for _, alarm in found}) == 1:
            return found[0]
        what = "several incidents begin like that" if begins and found else "no such incident"
        listed = ", ".join(dict.fromkeys(alarm.id for _, alarm in (found or known)[:12]))
        raise UsageError(
            f"{name}: {what}",
            hint=f"there are: {listed}" if listed else "`mlplatform cost anomalies` looks for some",
        )

    def compare(self, outlook: Outlook, alarm: Alarm, unused: Iterable[str] = ()) -> Comparison:
        """An incident's days beside those that they are compared with. `unused`: the last parts of
        the names of resources that nobody uses; each is a leaf of its own."""
        seen = outlook.seen
        path = path_of(alarm.where, outlook.levels)
        others = [
            each
            for each in outlook.alarms
            if each.state.stands
            and each.currency == alarm.currency
            and _related(path_of(each.where, outlook.levels), path)
        ]
        bills = seen.bills_of(alarm.currency, path)

        def known(day: date) -> bool:
            return day >= seen.first and all(seen.covers(slug, day) for slug in bills)

        def unusual(day: date) -> bool:
            return any(each.since <= day <= each.until for each in others)

        kept = {name for each in seen.chosen for name in each.delivery.tags}
        tags = [name for name in self.tags if name in kept]
        comparer = Comparer(self.connection, self.at_hand, outlook.asked.measure, self.regions)
        return comparer.compare(
            seen.chosen,
            alarm.currency,
            alarm.where,
            days_between(alarm.since, alarm.until),
            reference_of(alarm.since, alarm.until, known, unusual),
            tags=tags,
            resources="" not in kept,
            unused=unused,
        )

    def say(
        self,
        answer: Answer,
        where: Mapping[str, str],
        since: date,
        until: date,
        *,
        by: str,
        note: str = "",
        incident: str = "",
        currency: str = "",
    ) -> Word:
        """Keep what somebody said of a node's days; as it was kept."""
        now = self.now()
        word = Word(
            id=new_word_id(now),
            at=now,
            by=by,
            answer=answer,
            incident=incident,
            currency=currency,
            where=where,
            since=since,
            until=until,
            note=note,
        )
        Words(self.ledger.store).add(word)
        return word

    def _keep(self, book: AlarmBook, judgement: Judgement) -> bool:
        try:
            book.add(judgement)
        except Denied:
            return False
        return True

    def _columns(self, asked: Asked, current: Sequence[Delivery]) -> list[str]:
        known = {name for each in current for name in each.tags}
        if asked.by:
            columns = list(dict.fromkeys(dimension(name, self.tags) for name in asked.by))
            if "day" in columns or "currency" in columns:
                raise UsageError(
                    "--by day, --by currency: every day and currency is judged by itself",
                    hint="--by provider,region,service, for one",
                )
        else:
            columns = [*_DEFAULT_LEVELS]
            columns += [f"{TAG_PREFIX}{name}" for name in _DEFAULT_TAGS if name in self.tags]
        return [
            each
            for each in columns
            if not each.startswith(TAG_PREFIX) or each.removeprefix(TAG_PREFIX) in known
        ]

    def _said(self, words: Sequence[Word], levels: tuple[str, ...], cells: Cells) -> list[Said]:
        said = []
        for word in words:
            for currency, path in _paths(word, levels, cells):
                said.append(Said(currency, path, word.since, word.until, _TOLD[word.answer]))
        return said


def _paths(word: Word, levels: tuple[str, ...], cells: Cells) -> set[tuple[str, Where]]:
    """The nodes that somebody meant. Who spoke of a level that this tree does not have meant less
    than any node of it."""
    if not set(word.where) <= set(levels):
        return set()
    depth = max((levels.index(name) + 1 for name in word.where), default=0)
    return {
        (currency, values[:depth])
        for currency, values in cells.leaves
        if word.currency in {"", currency}
        and all(values[levels.index(name)] == value for name, value in word.where.items())
    }


def _related(one: Where, other: Where) -> bool:
    short = min(len(one), len(other))
    return one[:short] == other[:short]


def _all(histories: Histories) -> list[Delivery]:
    return [each for several in histories.values() for each in several]


def _slug(asked: Asked, levels: Sequence[str]) -> str:
    text = "-".join([asked.measure.value, asked.rule.value, *levels])
    return re.sub(r"[^a-z0-9_-]+", "_", text.lower())
