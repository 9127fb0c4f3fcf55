"""Plans are values: printed, compared, stored, re-checked before they are carried out."""

from __future__ import annotations

import json
from datetime import datetime
from enum import StrEnum
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field

from mlplatform.core.digest import blake3_hex
from mlplatform.core.errors import MlplatformError

JSON = dict[str, Any]


class Record(BaseModel):
    """A frozen value with a JSON form; unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @property
    def encoded(self) -> bytes:
        """Its one byte form: what is stored of it, and what a digest of it is of."""
        return canonical(self.model_dump(mode="json", by_alias=True))


class Severity(StrEnum):
    """How much an action asks of whoever starts it."""

    MILD = "mild"
    """Applies at once: publish, replicate, verify."""
    SEVERE = "severe"
    """Asks, or needs `--yes` / `--confirm REGION`: delete, gc, failover, overwriting good bytes."""


class Consumption(Record):
    """What an action uses up. Priced by `core.money` through `Prices`; unknown stays unknown."""

    resource: str
    """`transfer` (bytes between regions), `storage` (bytes kept), `requests` (to a store; the
    product is `read` or `write`), `gpu` (seconds of a product), `server` (servers of a model, which
    is the product, kept running)."""
    amount: float
    unit: str
    source_region: str | None = None
    region: str
    product: str | None = None


class Action(Record):
    """One idempotent step, coarse: a version in a region, a change of weights."""

    key: str
    """Idempotency key: the same key is the same effect, whoever performs it."""
    kind: str
    subject: str
    """What it is about: `model@version`, or a route."""
    region: str
    reason: str
    severity: Severity = Severity.MILD
    batch: str = ""
    """Actions of one batch are handed to `act` together, so that they can share work (one read
    of the source for many targets). Empty: on its own."""
    carries_on: bool = False
    """Done whatever is decided by the time it is due, and whatever failed before it, once anything
    of the operation was begun: it watches, or puts back, what actions before it did."""
    parameters: JSON = Field(default_factory=dict)
    """What is done. A plan that was agreed to is stale when one of these has changed."""
    figures: JSON = Field(default_factory=dict)
    """What was measured when it was decided, and who decided: shown and kept. It moves all the
    time, and makes no plan stale; what matters of it shows in `parameters` or in the basis."""
    consumes: tuple[Consumption, ...] = ()


class Hold(Record):
    """Something that is not done, and why. Silence is never an answer."""

    subject: str
    region: str
    reason: str
    unknown: bool = False
    """Held because something could not be read (exit 5), not because nothing is wanted."""
    aside: bool = False
    """Told, and of no weight: a way that was not taken, where all that was asked is done another
    way."""


class Plan(Record):
    """What to do, from what it was computed, and what is held."""

    feature: str
    actions: tuple[Action, ...] = ()
    holds: tuple[Hold, ...] = ()
    basis: dict[str, str] = Field(default_factory=dict)
    """Fingerprint of each thing it was computed from. When one differs, the plan is stale."""

    @property
    def digest(self) -> str:
        """Names the plan: equal plans have equal digests."""
        return blake3_hex(self.encoded)

    @property
    def noop(self) -> bool:
        return not self.actions


class Result(StrEnum):
    DONE = "done"
    NOTHING = "nothing-to-do"
    FAILED = "failed"
    UNKNOWN = "unknown"
    """It may or may not have taken effect: observe again before anything else."""


class Outcome(Record):
    """What became of an action."""

    action: str
    """The action's key."""
    result: Result
    detail: str = ""
    error: str | None = None
    """Class name of the error, for machines."""
    exit_code: int = 0
    hint: str = ""
    """What to try, if it failed."""
    measured: JSON = Field(default_factory=dict)
    """Numbers worth keeping: bytes sent, reads per source byte, seconds."""
    finished_at: datetime | None = None

    @property
    def ok(self) -> bool:
        return self.result in (Result.DONE, Result.NOTHING)

    @classmethod
    def of_error(
        cls,
        action: Action,
        error: MlplatformError,
        result: Result = Result.FAILED,
        *,
        finished_at: datetime | None = None,
    ) -> Self:
        """What became of an action that ended with one of our errors."""
        return cls(
            action=action.key,
            result=result,
            detail=str(error),
            error=type(error).__name__,
            exit_code=error.exit_code,
            hint=error.hint or "",
            finished_at=finished_at,
        )


def canonical(value: Any) -> bytes:
    """The one byte form of a JSON value: sorted keys, no spaces, UTF-8, a final newline."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode() + b"\n"
