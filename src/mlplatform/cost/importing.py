"""Import: what an export holds becomes deliveries in the ledger.

Files are taken a folder at a time, since that is how exports deliver: the files of a folder are
parts of one delivery, and two folders that hold one billing period are two deliveries of it, the
one written later standing. Folders named `key=value` divide one delivery. A file that has not
changed since it was imported is not read again, unless another of its period has.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

from blake3 import blake3

from mlplatform.core.errors import Interrupted, MlplatformError, UsageError
from mlplatform.cost.cube import DAY, DIMENSIONS, TAG_PREFIX, Measure, cube_of
from mlplatform.cost.engine import name_of, one_thread, text_of, told
from mlplatform.cost.focus.validator import Finding, focus_version, validate
from mlplatform.cost.ledger import (
    Bill,
    Day,
    Delivery,
    Ledger,
    PeriodStatus,
    SourceFile,
    Stream,
    changed_days,
    changes_between,
    copy_object,
)
from mlplatform.cost.readers.dates import local_forms
from mlplatform.cost.readers.files import OpenFile, is_bill, open_file, rejects_of
from mlplatform.cost.readers.recognise import recognise, supporting
from mlplatform.cost.readers.shape import UNUSABLE, WHOLE, Columns, TagNames
from mlplatform.ports.store import ObjectStore, Stat

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_CHARGES_AT_ONCE = 150_000
"""Days with so many charges between them are summed up together, so that memory is bounded by the
groups of these and not by those of the month."""
_ROW_GROUP = 30_720
"""Rows of a file are written so many at a time, in a month's order of days mostly: fewer are held,
and those of other days are passed over when some days are read."""
_CHUNK_BYTES = 4 << 20
_SAMPLE = 2000
_ALIKE = 0.5
"""Two files of one delivery of which so large a share of charges is the same are one bill twice."""
_UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Source:
    """Somewhere that bills are delivered to."""

    url: str
    store: ObjectStore
    folder: Path | None = None
    """Where its files lie on this machine; None: they have to be brought."""
    key: str = ""
    """The one file that is meant; empty: all of them."""


@dataclass(frozen=True, slots=True)
class Imported:
    """What became of one billing period of a bill."""

    delivery: Delivery
    before: Delivery | None
    new: bool
    """False: the bill is as it was, and so is the ledger."""


@dataclass(slots=True)
class Outcome:
    """What an import has done."""

    imported: list[Imported] = field(default_factory=list)
    unchanged_files: int = 0
    duplicates: list[tuple[str, str]] = field(default_factory=list)
    """Files that are left out, each with the one whose bytes it has."""
    several: list[tuple[str, int]] = field(default_factory=list)
    """Periods that were delivered more than once, and how often."""
    errors: list[tuple[str, MlplatformError]] = field(default_factory=list)
    """Files that could not be read; the rest of their folder was left alone with them."""
    supporting: list[tuple[str, str]] = field(default_factory=list)
    """Files that are no charges but another of FOCUS's datasets, and which."""


@dataclass(frozen=True, slots=True)
class _File:
    source: Source
    stat: Stat

    @property
    def called(self) -> str:
        return f"{self.source.url.rstrip('/')}/{self.stat.key}"


@dataclass(frozen=True, slots=True)
class _Staged:
    """A file's charges, cleaned and cast."""

    file: _File
    rows: Path
    part: str
    version: str | None
    findings: tuple[Finding, ...]
    record: SourceFile
    streams: Mapping[Stream, tuple[Bill, str]]


@dataclass(slots=True)
class Importer:
    """Brings what is new in exports into a ledger."""

    connection: DuckDBPyConnection
    ledger: Ledger
    tags: TagNames
    scratch: Path
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    resources: bool = True
    """Whether resources are kept apart; without them the ledger is a fraction of its size."""
    say: Callable[[str], None] = lambda text: None
    stop: Callable[[], bool] = lambda: False
    _staged: int = 0
    _hashed_by: str = ""

    def run(self, sources: Iterable[Source]) -> Outcome:
        """Import them. What cannot be read is in the outcome; the rest goes on."""
        outcome = Outcome()
        ((self._hashed_by,),) = self.connection.execute("SELECT version()").fetchall()
        current = {each.stream: each for each in self.ledger.current()}
        groups = [group for source in sources for group in _groups(source)]
        for group in sorted(groups, key=_age):
            if self.stop():
                raise Interrupted("stopped between deliveries", hint="run it again to go on")
            try:
                self._import_group(group, current, outcome)
            except UsageError as error:
                outcome.errors.append((group[0].source.url, error))
            finally:
                shutil.rmtree(self.scratch / "rows", ignore_errors=True)
        return outcome

    def _import_group(
        self, group: Sequence[_File], current: dict[Stream, Delivery], outcome: Outcome
    ) -> None:
        before = {file: self.ledger.streams_of(file.source.url, file.stat) for file in group}
        wanted = self._tags_kept()
        stale = {stream for stream, each in current.items() if each.tags != wanted}
        fresh = [file for file in group if _is_new(before[file], stale)]
        outcome.unchanged_files += len(group) - len(fresh)
        if not fresh:
            return
        digests: dict[str, str] = {}
        staged = [each for file in fresh for each in self._stage(file, digests, outcome)]
        touched = {stream for each in staged for stream in each.streams}
        for file in group:
            if file not in fresh and touched & (before[file] or frozenset()):
                outcome.unchanged_files -= 1
                staged += self._stage(file, digests, outcome)
        self._refuse_overlaps(staged)
        added = [self._deliver(stream, staged, current) for stream in sorted(touched)]
        for done in added:
            again = [
                each for each in outcome.imported if each.delivery.stream == done.delivery.stream
            ]
            if again:
                outcome.several.append(
                    (f"{done.delivery.bill} {done.delivery.period}", len(again) + 1)
                )
        outcome.imported += added
        for each in staged:
            self.ledger.remember(each.file.source.url, each.file.stat, each.streams)
        for file in fresh:
            if not any(each.file is file for each in staged):
                self.ledger.remember(file.source.url, file.stat, ())

    def _tags_kept(self) -> dict[str, tuple[str, ...]]:
        kept = {name: tuple(keys) for name, keys in self.tags.items()}
        return kept if self.resources else kept | {"": ("without resources",)}

    def _stage(self, file: _File, digests: dict[str, str], outcome: Outcome) -> Iterator[_Staged]:
        path = self._at_hand(file)
        digest = _digest_of(path)
        if (first := digests.setdefault(digest, file.called)) != file.called:
            outcome.duplicates.append((file.called, first))
            return
        self.say(f"reading {file.called}")
        opened = open_file(self.connection, path, called=file.called, scratch=self.scratch / "rows")
        columns = _columns_of(opened, file.called)
        other = supporting(columns)
        if other is not None:
            outcome.supporting.append((file.called, other))
            self._keep_statuses(file, opened, columns)
            return
        self._staged += 1
        target = self.scratch / "rows" / f"{self._staged}.parquet"
        target.parent.mkdir(parents=True, exist_ok=True)
        yield self._read(file, opened, columns, digest, target)

    def _keep_statuses(self, file: _File, opened: OpenFile, columns: Columns) -> None:
        """Keep what a file of billing periods says of them; of another dataset, nothing."""
        if not columns.has("BillingPeriodStatus", "BillingPeriodStart"):
            return
        with told(file.called):
            rows = self.connection.execute(
                f"SELECT {columns.text('InvoiceIssuerName')}, "
                f"strftime({columns.time('BillingPeriodStart')}, '%Y-%m'), "
                f"{columns.text('BillingPeriodStatus')}, "
                f"{columns.time('BillingPeriodLastUpdated')} "
                f"FROM {opened.relation}"
            ).fetchall()
        known = self.ledger.statuses()
        for issuer, period, status, updated in rows:
            before = known.get((issuer or _UNKNOWN, period))
            if period is None or status is None or (before and before.status == status):
                continue
            self.ledger.add_status(
                PeriodStatus(
                    issuer=issuer or _UNKNOWN,
                    period=period,
                    status=status,
                    updated=updated and updated.replace(tzinfo=UTC),
                    imported=self.now(),
                )
            )

    def _at_hand(self, file: _File) -> Path:
        if file.source.folder is not None:
            return file.source.folder / file.stat.key
        target = self.scratch / "rows" / "brought" / file.stat.key
        copy_object(file.source.store, file.stat.key, target)
        return target

    def _read(
        self, file: _File, opened: OpenFile, columns: Columns, digest: str, target: Path
    ) -> _Staged:
        reader = recognise(file.called, columns)
        with told(file.called):
            forms = local_forms(self.connection, opened.relation, columns, reader, file.called)
            columns = replace(columns, date_forms=forms)
            told_part = reader.part(opened.relation, columns)
            part = WHOLE
            if told_part is not None:
                part = str(self.connection.execute(told_part).fetchall()[0][0])
            charges = reader.select(opened.relation, columns, self.tags, part)
            self.connection.execute(
                f"COPY ({charges}) TO {text_of(str(target))} "
                f"(FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE {_ROW_GROUP})"
            ).fetchall()
            findings: list[Finding] = []
            version = None
            if reader.name == "focus":
                version = focus_version(columns)
                findings = validate(self.connection, opened.relation, columns)
            rejected, rejects = rejects_of(self.connection, opened)
        if rejected:
            lines = "; ".join(f"line {each.line}: {each.what}" for each in rejects)
            findings.append(
                Finding(
                    rule="line-broken",
                    said=f"cannot be read as CSV: {lines}",
                    rows=rejected,
                    first_rows=tuple(each.line for each in rejects),
                    left_out=True,
                )
            )
        findings += self._unusable(target)
        streams = {
            (bill.slug, period, part): (bill, period) for bill, period in self._periods(target)
        }
        ((rows,),) = self.connection.execute(
            f"SELECT count(*) FROM read_parquet({text_of(str(target))})"
        ).fetchall()
        record = SourceFile(
            url=file.source.url,
            key=file.stat.key,
            tag=file.stat.tag,
            size_bytes=file.stat.size_bytes,
            digest=digest,
            shape=reader.name,
            rows=rows,
            rejected=sum(each.rows for each in findings if each.left_out),
            modified=file.stat.modified,
        )
        named = tuple(
            each.model_copy(update={"said": f"{file.stat.key}: {each.said}"}) for each in findings
        )
        return _Staged(file, target, part, version, named, record, streams)

    def _unusable(self, rows: Path) -> Iterator[Finding]:
        counted = ", ".join(
            f"count(*) FILTER (WHERE {column} IS NULL), "
            f"min(file_row_number + 1, 5) FILTER (WHERE {column} IS NULL)"
            for _, column, _ in UNUSABLE
        )
        (found,) = self.connection.execute(
            f"SELECT {counted} FROM read_parquet({text_of(str(rows))}, file_row_number = true)"
        ).fetchall()
        for place, (rule, _, said) in enumerate(UNUSABLE):
            count, first = found[2 * place], found[2 * place + 1]
            if count:
                yield Finding(
                    rule=f"unusable-{rule}",
                    said=said,
                    rows=count,
                    first_rows=tuple(first),
                    left_out=True,
                )

    def _periods(self, rows: Path) -> list[tuple[Bill, str]]:
        found = self.connection.execute(
            f"SELECT DISTINCT {_PROVIDER}, {_ACCOUNT}, {_PERIOD} "
            f"FROM read_parquet({text_of(str(rows))}) WHERE {_USABLE} ORDER BY ALL"
        ).fetchall()
        return [
            (Bill(provider=provider, account=account), period)
            for provider, account, period in found
        ]

    def _refuse_overlaps(self, staged: Sequence[_Staged]) -> None:
        """`UsageError` where two files of one delivery hold the same charges: a bill twice."""
        for place, one in enumerate(staged):
            for other in staged[:place]:
                if not set(one.streams) & set(other.streams):
                    continue
                few = min(one.record.rows, other.record.rows)
                each = max(1, few // _SAMPLE)
                same = self._alike(one.rows, other.rows, each)
                if few >= 2 and same > _ALIKE * (few / each):
                    raise UsageError(
                        f"{one.file.called} holds the charges of {other.file.called}: added up, "
                        "they would be billed twice",
                        hint="deliveries of one period belong into folders of their own; or import "
                        "the two files one after the other: the later one stands",
                    )

    def _alike(self, one: Path, other: Path, each: int) -> int:
        def sample(path: Path) -> str:
            rows = f"read_parquet({text_of(str(path))})"
            return f"SELECT DISTINCT hash(c) AS h FROM {rows} c WHERE hash(c) % {each} = 0"

        ((same,),) = self.connection.execute(
            f"SELECT count(*) FROM ({sample(one)}) JOIN ({sample(other)}) USING (h)"
        ).fetchall()
        return int(same)

    def _deliver(
        self, stream: Stream, staged: Sequence[_Staged], current: dict[Stream, Delivery]
    ) -> Imported:
        members = [each for each in staged if stream in each.streams]
        bill, period = members[0].streams[stream]
        part = stream[2]
        before = current.get(stream)
        now = self.now()
        name = self.ledger.new_id(now)
        with told(f"{bill} {period}"):
            days = dict(self._days(bill, period, part, name, [each.rows for each in members]))
        versions = [each.version for each in members if each.version is not None]
        modified = [each.record.modified for each in members if each.record.modified]
        delivery = Delivery(
            bill=bill,
            period=period,
            part=part,
            number=before.number + 1 if before is not None else 1,
            id=name,
            imported=now,
            delivered=max(modified, default=None),
            shape=", ".join(sorted({each.record.shape for each in members})),
            focus_version=max(versions, default=None),
            files=tuple(each.record for each in members),
            tags=self._tags_kept(),
            days=days,
            findings=tuple(finding for each in members for finding in each.findings),
            changes=tuple(changes_between(before, days)),
            changed_days=tuple(changed_days(before, days)),
        )
        if (
            before is not None
            and not delivery.changed_days
            and before.tags == delivery.tags
            and not _is_later(delivery, before)
        ):
            return Imported(before, before, new=False)
        self.ledger.add(delivery)
        current[stream] = delivery
        return Imported(delivery, before, new=True)

    def _days(
        self, bill: Bill, period: str, part: str, name: str, rows: Sequence[Path]
    ) -> Iterator[tuple[date, Day]]:
        files = ", ".join(text_of(str(each)) for each in rows)
        relation = f"read_parquet([{files}])"
        mine = (
            f"{_USABLE} AND {_PROVIDER} = {text_of(bill.provider)} "
            f"AND {_ACCOUNT} = {text_of(bill.account)} AND {_PERIOD} = {text_of(period)}"
        )
        counts = self.connection.execute(
            f"SELECT {DAY}, count(*) FROM {relation} WHERE {mine} GROUP BY ALL ORDER BY ALL"
        ).fetchall()
        dimensions = [each for each in DIMENSIONS if self.resources or each != "resource"]
        order = ", ".join(
            [
                "day",
                *map(name_of, dimensions),
                *(name_of(f"{TAG_PREFIX}{each}") for each in self.tags),
            ]
        )
        for since, until in _batches(counts):
            # Said of the column itself, of which each group of rows knows the least and greatest.
            between = (
                f"ChargePeriodStart >= DATE '{since}' "
                f"AND ChargePeriodStart < DATE '{until}' + INTERVAL 1 DAY"
            )
            query = cube_of(
                relation, dimensions=dimensions, tags=self.tags, where=f"{mine} AND {between}"
            )
            # To replace a table takes the memory of both.
            self.connection.execute("DROP TABLE IF EXISTS cube")
            self.connection.execute(
                f"CREATE TEMP TABLE cube AS {query} ORDER BY {order}"
            ).fetchall()
            yield from self._keep(bill, period, part, name)
        self.connection.execute("DROP TABLE IF EXISTS cube")

    def _keep(self, bill: Bill, period: str, part: str, name: str) -> Iterator[tuple[date, Day]]:
        """Put the days of the table `cube` into the ledger, in its order."""
        days: dict[date, dict[str, dict[Measure, Decimal]]] = {}
        facts: dict[date, tuple[int, int, int, str]] = {}
        told_sums = ", ".join(f"sum({name_of(each)})" for each in Measure)
        for day, currency, *values in self.connection.execute(
            f"SELECT day, currency, {told_sums} FROM cube GROUP BY ALL ORDER BY ALL"
        ).fetchall():
            days.setdefault(day, {})[currency] = {
                measure: value
                for measure, value in zip(Measure, values, strict=True)
                if value is not None
            }
        for day, *told_facts in self.connection.execute(
            "SELECT day, sum(charges)::BIGINT, "
            "coalesce(sum(charges) FILTER (WHERE category = 'Usage'), 0)::BIGINT, "
            "sum(invoiced_rows)::BIGINT, bit_xor(hash(c))::VARCHAR "
            "FROM cube c GROUP BY day"
        ).fetchall():
            facts[day] = (told_facts[0], told_facts[1], told_facts[2], told_facts[3])
        target = self.scratch / "rows" / "day.parquet"
        for day, totals in sorted(days.items()):
            with one_thread(self.connection):
                self.connection.execute(
                    f"COPY (SELECT * FROM cube WHERE day = DATE '{day}') "
                    f"TO {text_of(str(target))} "
                    f"(FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE {_ROW_GROUP})"
                ).fetchall()
            charges, usage, invoiced, fingerprint = facts[day]
            yield (
                day,
                Day(
                    key=self.ledger.put_day(bill, period, part, name, day, target),
                    size_bytes=target.stat().st_size,
                    charges=charges,
                    usage_charges=usage,
                    invoiced_charges=invoiced,
                    totals=totals,
                    fingerprint=f"{self._hashed_by}:{fingerprint}",
                ),
            )


_PROVIDER = f"coalesce(ServiceProviderName, '{_UNKNOWN}')"
_ACCOUNT = f"coalesce(nullif(regexp_extract(BillingAccountId, '[^/]+$'), ''), '{_UNKNOWN}')"
"""Some exports of one bill have the account's whole path where others have its number."""
_PERIOD = "strftime(coalesce(BillingPeriodStart, ChargePeriodStart), '%Y-%m')"
_USABLE = " AND ".join(f"{column} IS NOT NULL" for _, column, _ in UNUSABLE)


def _columns_of(opened: OpenFile, called: str) -> Columns:
    try:
        return Columns(opened.types, is_clean=opened.is_clean)
    except UsageError as error:
        raise UsageError(f"{called}: {error}", hint=error.hint) from error


def _is_later(delivery: Delivery, before: Delivery) -> bool:
    """Whether it was written after the one before it: to say the same again is news, for what was
    provisional is so no longer."""
    if delivery.delivered is None or before.delivered is None:
        return False
    return delivery.delivered > before.delivered


def _is_new(streams: frozenset[Stream] | None, stale: set[Stream]) -> bool:
    return streams is None or bool(streams & stale)


def _groups(source: Source) -> list[list[_File]]:
    """The files of a source, by the folder that delivered them."""
    if source.key:
        return [[_File(source, source.store.stat(source.key))]]
    groups: dict[str, list[_File]] = {}
    for stat in source.store.list(""):
        if is_bill(stat.key):
            folders = stat.key.split("/")[:-1]
            group = "/".join(each for each in folders if "=" not in each)
            groups.setdefault(group, []).append(_File(source, stat))
    return list(groups.values())


def _age(group: Sequence[_File]) -> tuple[datetime, str]:
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    return max(file.stat.modified or epoch for file in group), group[0].called


def _digest_of(path: Path) -> str:
    digest = blake3()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return f"blake3:{digest.hexdigest()}"


def _batches(counts: Sequence[tuple[date, int]]) -> Iterator[tuple[date, date]]:
    """Days, in order, so many at a time as have few enough charges between them."""
    since = until = None
    charges = 0
    for day, count in counts:
        if since is not None and until is not None and charges + count > _CHARGES_AT_ONCE:
            yield since, until
            since, charges = None, 0
        since, until, charges = since or day, day, charges + count
    if since is not None and until is not None:
        yield since, until
