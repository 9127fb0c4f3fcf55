"""Alarms as they are kept: append-only, beside the deliveries, in the ledger's store.

    alarms/<what is asked>/<number>.json    what was judged after an import, and every alarm then
    feedback/<id>.json                      what somebody said of one, or of what is planned
    told/<receiver>/<alarm>-<verdict>.json  what somebody was told, so that it is told once

A record holds all alarms of the last year with their stories, so that the newest says all there is
to say; the older ones are how one can tell what was said when. Nothing is changed in place, and
taking the next number with a create-only put is what makes two at once harmless.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mlplatform.core.errors import ConditionFailed, IntegrityError, LeaseHeld
from mlplatform.ports.store import ABSENT, ObjectStore, read_bytes

SCHEMA_VERSION = 1
_ALARMS = "alarms/"
_FEEDBACK = "feedback/"
_TOLD = "told/"
_BYTES_MAX = 64 << 20


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True)


class State(StrEnum):
    """What an alarm is."""

    OPEN = "open"
    """Raised on days that are not final yet."""
    CONFIRMED = "confirmed"
    """Its days are final, and it stands."""
    RETRACTED = "retracted"
    """The bill was restated, and it is none."""
    JOINED = "joined"
    """It turned out to be part of another one."""

    @property
    def stands(self) -> bool:
        """Whether somebody should look."""
        return self in {State.OPEN, State.CONFIRMED}


class Answer(StrEnum):
    """What somebody says of an alarm: AWS Cost Anomaly Detection asks the same three."""

    YES = "yes"
    """It is one."""
    NO = "no"
    """It is none."""
    PLANNED = "planned"
    """It was meant."""


class Verdict(_Record):
    """What an alarm was, after an import."""

    at: datetime
    """When that import was."""
    deliveries: tuple[str, ...]
    """What it brought of those days."""
    state: State
    cost: Decimal | None
    """What the days had cost by then."""
    expected: Decimal
    likely: Decimal
    """What they were likely to come to; as `cost`, where all of it is there."""
    because: str

    @property
    def excess(self) -> Decimal:
        """Beyond what was expected."""
        return self.likely - self.expected


class Alarm(_Record):
    """An incident that somebody was told of, and what became of it."""

    id: str
    currency: str
    where: Mapping[str, str]
    """Values by level; those below it are left out. Nothing: the total."""
    since: date
    until: date
    reason: str
    score: float | None = None
    low_confidence: bool = False
    held_back: bool = False
    """Over the alarm budget."""
    masked_by: tuple[Mapping[str, str], ...] = ()
    story: tuple[Verdict, ...] = Field(min_length=1)
    """Every verdict that said something new, the oldest first."""

    @property
    def state(self) -> State:
        """What it is now."""
        return self.story[-1].state

    @property
    def now(self) -> Verdict:
        """The last that was said."""
        return self.story[-1]

    @property
    def days(self) -> int:
        """How many it covers."""
        return (self.until - self.since).days + 1


class Judgement(_Record):
    """All alarms after an import."""

    schema_version: int = SCHEMA_VERSION
    number: int = Field(ge=1)
    state_at: datetime
    """When the last delivery of what was judged was imported."""
    judged: datetime
    deliveries: tuple[str, ...]
    """The newest of each period, by id."""
    levels: tuple[str, ...]
    measure: str
    rule: str
    alarms: tuple[Alarm, ...] = ()


class Word(_Record):
    """What somebody said."""

    schema_version: int = SCHEMA_VERSION
    id: str
    at: datetime
    by: str
    answer: Answer
    incident: str = ""
    """The alarm's id; empty for what was said beforehand."""
    currency: str = ""
    """Empty: whichever."""
    where: Mapping[str, str]
    since: date
    until: date
    note: str = ""


class AlarmBook:
    """Alarms and what was said of them, in a ledger's store."""

    def __init__(self, store: ObjectStore, asked: str) -> None:
        """`asked` names tree, cost and rule: alarms of different ones are kept apart."""
        self._store, self._prefix = store, f"{_ALARMS}{asked}/"

    def newest(self) -> Judgement | None:
        """The last that was judged."""
        last = max((stat.key for stat in self._store.list(self._prefix)), default=None)
        return None if last is None else _read(self._store, last)

    def add(self, judgement: Judgement) -> None:
        """Keep a record. `LeaseHeld` if another process was quicker."""
        body = judgement.model_dump_json(indent=1).encode()
        try:
            self._store.put(f"{self._prefix}{judgement.number:06}.json", body, when=ABSENT)
        except ConditionFailed as error:
            raise LeaseHeld(
                "alarms: another process judged the same ledger meanwhile",
                hint="run it again: it then sees what the other one found",
            ) from error


def newest_of_all(store: ObjectStore) -> list[Judgement]:
    """The last that was judged of each tree, cost and rule."""
    newest: dict[str, str] = {}
    for stat in store.list(_ALARMS):
        asked, _, _ = stat.key.rpartition("/")
        newest[asked] = max(stat.key, newest.get(asked, ""))
    return [_read(store, key) for key in newest.values()]


def _read(store: ObjectStore, key: str) -> Judgement:
    body, _ = read_bytes(store, key, limit_bytes=_BYTES_MAX)
    try:
        return Judgement.model_validate_json(body)
    except ValidationError as error:
        raise IntegrityError(
            f"{store.url}/{key}: no record of alarms: {error.errors(include_url=False)[0]['msg']}",
            hint="move it away; the record before it stands then",
        ) from error


class Words:
    """What was said, in a ledger's store."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def all(self) -> list[Word]:
        """The oldest first."""
        words = []
        for stat in self._store.list(_FEEDBACK):
            body, _ = read_bytes(self._store, stat.key)
            words.append(Word.model_validate_json(body))
        return sorted(words, key=lambda word: (word.at, word.id))

    def add(self, word: Word) -> None:
        """Keep it."""
        self._store.put(
            f"{_FEEDBACK}{word.id}.json", word.model_dump_json(indent=1).encode(), when=ABSENT
        )


class Tellings:
    """What one receiver of notices has been told, in a ledger's store."""

    def __init__(self, store: ObjectStore, receiver: str) -> None:
        self._store, self._prefix = store, f"{_TOLD}{receiver}/"

    def all(self) -> set[tuple[str, int]]:
        """Alarms by id, and the number of the verdict."""
        found = set()
        for stat in self._store.list(self._prefix):
            name, _, verdict = stat.key.removeprefix(self._prefix).partition(".")[0].rpartition("-")
            found.add((name, int(verdict)))
        return found

    def add(self, alarm: Alarm) -> None:
        """It was told of the last verdict."""
        key = f"{self._prefix}{alarm.id}-{len(alarm.story)}.json"
        with suppress(ConditionFailed):  # by two at once: it was told twice
            self._store.put(key, alarm.now.model_dump_json(indent=1).encode(), when=ABSENT)


def new_word_id(at: datetime) -> str:
    """A name that no other word has, and that sorts by time."""
    return f"{at.astimezone(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"
