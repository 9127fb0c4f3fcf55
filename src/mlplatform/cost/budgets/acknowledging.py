"""Who knows that a budget does not hold: kept beside the deliveries, in the ledger's store.

    budgets/<name>/<period>/<id>.json

Records are only added. One holds for its budget's amount, its period, and what was the matter then:
who has acknowledged a forecast is told again when the budget is exceeded.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from datetime import UTC, datetime
from decimal import Decimal

from pydantic import BaseModel, ConfigDict, ValidationError

from mlplatform.core.errors import IntegrityError
from mlplatform.cost.budgets.judging import Judgement, State
from mlplatform.ports.store import ABSENT, ObjectStore, read_bytes

_PREFIX = "budgets/"


class Acknowledgement(BaseModel):
    """That somebody knows."""

    model_config = ConfigDict(frozen=True)

    schema_version: int = 1
    budget: str
    period: str
    amount: Decimal
    state: State
    at: datetime
    by: str
    note: str = ""


class Acknowledgements:
    """What was acknowledged, in a ledger's store."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def of(self, judgement: Judgement) -> Acknowledgement | None:
        """The last one that holds for a budget as it is now."""
        return holding(judgement, self._all(judgement.name, judgement.period))

    def add(self, judgement: Judgement, at: datetime, by: str, note: str) -> Acknowledgement:
        """Acknowledge a budget as it is now."""
        said = Acknowledgement(
            budget=judgement.name,
            period=judgement.period,
            amount=judgement.budget.amount,
            state=judgement.state,
            at=at,
            by=by,
            note=note,
        )
        name = f"{at.astimezone(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"
        key = f"{_PREFIX}{said.budget}/{said.period}/{name}.json"
        self._store.put(key, said.model_dump_json(indent=1).encode(), when=ABSENT)
        return said

    def _all(self, name: str, period: str) -> list[Acknowledgement]:
        keys = sorted(stat.key for stat in self._store.list(f"{_PREFIX}{name}/{period}/"))
        return [self._read(key) for key in keys]

    def _read(self, key: str) -> Acknowledgement:
        body, _ = read_bytes(self._store, key)
        try:
            return Acknowledgement.model_validate_json(body)
        except ValidationError as error:
            raise IntegrityError(
                f"{self._store.url}/{key}: no acknowledgement of a budget: "
                f"{error.errors(include_url=False)[0]['msg']}",
                hint="move it away; then the budget is told again",
            ) from error


def holding(judgement: Judgement, said: Iterable[Acknowledgement]) -> Acknowledgement | None:
    """The last acknowledgement that covers a budget as it is now."""
    found = None
    for each in said:
        if (
            each.state >= judgement.state
            and each.period == judgement.period
            and each.amount == judgement.budget.amount
        ):
            found = each
    return found
