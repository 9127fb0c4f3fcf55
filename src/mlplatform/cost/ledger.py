"""The ledger: every delivery of every bill, kept apart.

    deliveries/<bill>/<period>/<part>/<number>.json     what was delivered, written last
    partitions/<bill>/<period>/<part>/<id>/<day>.parquet   the cube of each day
    periods/<issuer>/<period>/<id>.json                 what an issuer said of a billing period
    files/<digest>.json                                 which deliveries a file has gone into

A bill is a provider's, to one billing account. A delivery holds a billing period of it whole, and
replaces the one before it: never row by row, since providers' line items have no stable names
(AWS: "Identity details" of the Cost and Usage Report). Taking the next number with a create-only
put is what makes two imports at once harmless; the one that comes second is told so.

Nothing is ever changed in place or removed, so that what a day was thought to cost at any time can
be told: the completeness curve of a day is its totals over the deliveries.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from mmap import ACCESS_READ, mmap
from pathlib import Path

from blake3 import blake3
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mlplatform.core.errors import ConditionFailed, IntegrityError, LeaseHeld, NotFound
from mlplatform.cost.cube import Measure
from mlplatform.cost.focus.validator import Finding
from mlplatform.cost.readers.shape import ACTUAL, AMORTISED, WHOLE
from mlplatform.ports.store import ABSENT, ObjectStore, Stat, read_bytes

SCHEMA_VERSION = 1
_DELIVERIES = "deliveries/"
_PARTITIONS = "partitions/"
_PERIODS = "periods/"
_CHUNK_BYTES = 4 << 20
_DELIVERY_BYTES_MAX = 64 << 20
_PARTS = {WHOLE: (WHOLE,), ACTUAL: (ACTUAL, AMORTISED), AMORTISED: (ACTUAL, AMORTISED)}
"""With which parts a part makes up a bill."""

Stream = tuple[str, str, str]
"""What a delivery replaces another one in: bill, period and part."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True)


class Bill(_Record):
    """Whose bill: the provider, and the account that pays."""

    provider: str
    account: str

    @property
    def slug(self) -> str:
        """A name for keys, readable and unique."""
        digest = blake3(f"{self.provider}\0{self.account}".encode()).hexdigest(length=4)
        words = re.sub(r"[^a-z0-9]+", "-", f"{self.provider} {self.account}".lower()).strip("-")
        return f"{words[:60].strip('-')}-{digest}"

    def __str__(self) -> str:
        return f"{self.provider} {self.account}"


class SourceFile(_Record):
    """A file that a delivery was read from."""

    url: str
    key: str
    tag: str
    """The store's, by which a file that has not changed is known without reading it."""
    size_bytes: int
    digest: str
    shape: str
    rows: int
    rejected: int = 0
    modified: datetime | None = None


class Day(_Record):
    """One day of a delivery."""

    key: str
    size_bytes: int
    charges: int
    usage_charges: int
    invoiced_charges: int
    """With the number of an invoice: these are final."""
    totals: Mapping[str, Mapping[Measure, Decimal]]
    """By currency, then by measure. A measure that no charge states is not there."""
    fingerprint: str
    """Equal for equal cubes of the day, after the version of the engine that made it."""

    def same_as(self, other: Day) -> bool:
        """Whether two cubes of a day are equal. Where different versions of the engine have made
        them, their fingerprints tell nothing, and the totals decide."""
        if self.fingerprint.partition(":")[0] == other.fingerprint.partition(":")[0]:
            return self.fingerprint == other.fingerprint
        return (self.charges, self.totals) == (other.charges, other.totals)


class PeriodStatus(_Record):
    """What the issuer of invoices says of a billing period (FOCUS 1.4, dataset Billing Period)."""

    issuer: str
    period: str
    status: str
    """`Open`, or `Closed`: then all invoices are issued and the charges are final."""
    updated: datetime | None
    imported: datetime

    @property
    def closed(self) -> bool:
        """Whether the charges are said to be final."""
        return self.status.casefold() == "closed"


class Change(_Record):
    """What a day was before a delivery and is after it, in BilledCost and EffectiveCost."""

    day: date
    currency: str
    measure: Measure
    before: Decimal | None
    after: Decimal | None


class Delivery(_Record):
    """A billing period of a bill, as it was delivered at one time."""

    schema_version: int = SCHEMA_VERSION
    bill: Bill
    period: str
    """`YYYY-MM`."""
    part: str = WHOLE
    number: int = Field(ge=1)
    id: str
    imported: datetime
    delivered: datetime | None = None
    """When the newest of its files was written, where the store says it."""
    shape: str
    focus_version: str | None = None
    files: tuple[SourceFile, ...]
    tags: Mapping[str, tuple[str, ...]]
    days: Mapping[date, Day]
    findings: tuple[Finding, ...] = ()
    changes: tuple[Change, ...] = ()
    """Against the delivery before it; all days, if it is the first."""
    changed_days: tuple[date, ...] = ()
    """Days whose cube is another than before, also where the totals are the same."""

    @property
    def stream(self) -> Stream:
        """What it replaces another one in."""
        return (self.bill.slug, self.period, self.part)

    @property
    def charges(self) -> int:
        """How many charges it holds."""
        return sum(day.charges for day in self.days.values())


@dataclass(frozen=True, slots=True)
class Partition:
    """A day of a delivery that stands, and the measures that it speaks for."""

    delivery: Delivery
    day: date
    measures: tuple[Measure, ...]


def changes_between(before: Delivery | None, after: Mapping[date, Day]) -> list[Change]:
    """The days and amounts that differ between two deliveries."""
    old = before.days if before is not None else {}
    found = []
    for day in sorted({*old, *after}):
        then, now = old.get(day), after.get(day)
        currencies = {*(then.totals if then else ()), *(now.totals if now else ())}
        for currency in sorted(currencies):
            for measure in (Measure.BILLED, Measure.EFFECTIVE):
                was = then.totals.get(currency, {}).get(measure) if then else None
                is_now = now.totals.get(currency, {}).get(measure) if now else None
                if was != is_now:
                    found.append(
                        Change(
                            day=day, currency=currency, measure=measure, before=was, after=is_now
                        )
                    )
    return found


def changed_days(before: Delivery | None, after: Mapping[date, Day]) -> list[date]:
    """The days whose cubes differ between two deliveries."""
    old = before.days if before is not None else {}
    return [
        day
        for day in sorted({*old, *after})
        if day not in old or day not in after or not old[day].same_as(after[day])
    ]


class Ledger:
    """Deliveries in a store."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    @property
    def url(self) -> str:
        """For people."""
        return self._store.url

    @property
    def store(self) -> ObjectStore:
        """Where it is, for what else is kept there: alarms, and what was said of them."""
        return self._store

    def current(self) -> list[Delivery]:
        """The newest delivery of each period and part of each bill."""
        newest: dict[str, str] = {}
        for stat in self._store.list(_DELIVERIES):
            stream, _, _ = stat.key.rpartition("/")
            newest[stream] = max(stat.key, newest.get(stream, ""))
        return [self._read(key) for key in sorted(newest.values())]

    def history(self, bill: Bill, period: str, part: str = WHOLE) -> list[Delivery]:
        """Every delivery of a period, the oldest first."""
        prefix = _stream_key(bill, period, part)
        return [self._read(stat.key) for stat in self._store.list(prefix)]

    def new_id(self, now: datetime) -> str:
        """A name for a delivery's partitions that no other has."""
        return f"{now.astimezone(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"

    def put_day(self, bill: Bill, period: str, part: str, id: str, day: date, path: Path) -> str:  # noqa: A002 - a delivery's own word
        """Keep the cube of a day; its key. It is seen once its delivery is."""
        key = f"{_PARTITIONS}{bill.slug}/{period}/{part}/{id}/{day.isoformat()}.parquet"
        with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as body:
            self._store.put(key, memoryview(body), when=ABSENT)
        return key

    def add(self, delivery: Delivery) -> None:
        """Make a delivery the newest of its period. `LeaseHeld` if another import was quicker."""
        key = (
            f"{_stream_key(delivery.bill, delivery.period, delivery.part)}{delivery.number:06}.json"
        )
        body = delivery.model_dump_json(indent=1).encode()
        try:
            self._store.put(key, body, when=ABSENT)
        except ConditionFailed as error:
            raise LeaseHeld(
                f"{delivery.bill} {delivery.period}: another import delivered it meanwhile",
                hint="run it again: it then sees what the other one brought",
            ) from error

    def add_status(self, status: PeriodStatus) -> None:
        """Keep what an issuer said of a period."""
        bill = Bill(provider=status.issuer, account="")
        key = f"{_PERIODS}{bill.slug}/{status.period}/{self.new_id(status.imported)}.json"
        self._store.put(key, status.model_dump_json(indent=1).encode(), when=ABSENT)

    def statuses(self) -> dict[tuple[str, str], PeriodStatus]:
        """By issuer and period: what was said last."""
        found: dict[tuple[str, str], PeriodStatus] = {}
        for stat in self._store.list(_PERIODS):
            body, _ = read_bytes(self._store, stat.key)
            told = PeriodStatus.model_validate_json(body)
            before = found.get((told.issuer, told.period))
            if before is None or before.imported <= told.imported:
                found[told.issuer, told.period] = told
        return found

    def streams_of(self, url: str, stat: Stat) -> frozenset[Stream] | None:
        """What a file of an export went into when it was imported; None if it never was. Told by
        what its store says of it, so that it need not be read."""
        try:
            body, _ = read_bytes(self._store, _file_key(url, stat))
        except NotFound:
            return None
        return frozenset(tuple(each) for each in json.loads(body)["streams"])

    def remember(self, url: str, stat: Stat, streams: Iterable[Stream]) -> None:
        """Keep what a file went into."""
        body = json.dumps({"schema_version": SCHEMA_VERSION, "streams": sorted(streams)}).encode()
        self._store.put(_file_key(url, stat), body)

    def fetch(self, key: str, target: Path) -> Path:
        """Bring a partition to a file."""
        copy_object(self._store, key, target)
        return target

    def _read(self, key: str) -> Delivery:
        body, _ = read_bytes(self._store, key, limit_bytes=_DELIVERY_BYTES_MAX)
        try:
            return Delivery.model_validate_json(body)
        except ValidationError as error:
            raise IntegrityError(
                f"{self._store.url}/{key}: no record of a delivery: "
                f"{error.errors(include_url=False)[0]['msg']}",
                hint="move it away and import the period again",
            ) from error


def _file_key(url: str, stat: Stat) -> str:
    told = f"{url}\0{stat.key}\0{stat.tag}\0{stat.size_bytes}"
    return f"files/{blake3(told.encode()).hexdigest()[:32]}.json"


def _stream_key(bill: Bill, period: str, part: str) -> str:
    return f"{_DELIVERIES}{bill.slug}/{period}/{part}/"


def copy_object(store: ObjectStore, key: str, target: Path) -> str:
    """Bring an object to a file; the digest of what came."""
    digest = blake3()
    target.parent.mkdir(parents=True, exist_ok=True)
    buffer = memoryview(bytearray(_CHUNK_BYTES))
    with store.get(key) as body, target.open("wb") as file:
        while count := body.readinto(buffer):
            digest.update(buffer[:count])
            file.write(buffer[:count])
    return f"blake3:{digest.hexdigest()}"


def standing(deliveries: Sequence[Delivery]) -> list[Delivery]:
    """The deliveries that count: where a period of a bill was delivered in several forms, those of
    the form that came last. What is actual and what is amortised stand beside each other."""
    by_period: dict[tuple[str, str], list[Delivery]] = {}
    for delivery in deliveries:
        by_period.setdefault((delivery.bill.slug, delivery.period), []).append(delivery)
    found = []
    for several in by_period.values():
        last = max(several, key=lambda each: (each.imported, each.id))
        found += [each for each in several if each.part in _PARTS[last.part]]
    return found


def partitions(deliveries: Sequence[Delivery], since: date, until: date) -> Iterator[Partition]:
    """The days of deliveries that stand, from `since` to `until`, both included."""
    parts: dict[tuple[str, str], set[str]] = {}
    for delivery in deliveries:
        parts.setdefault((delivery.bill.slug, delivery.period), set()).add(delivery.part)
    for delivery in deliveries:
        both = {ACTUAL, AMORTISED} <= parts[delivery.bill.slug, delivery.period]
        measures = tuple(Measure)
        if both and delivery.part == AMORTISED:
            measures = (Measure.EFFECTIVE,)
        elif both:
            measures = tuple(each for each in Measure if each is not Measure.EFFECTIVE)
        for day in sorted(delivery.days):
            if since <= day <= until:
                yield Partition(delivery, day, measures)
