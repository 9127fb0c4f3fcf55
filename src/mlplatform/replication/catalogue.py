"""Reading what regions hold, and making a version visible in one.

A region is read by name, never by guess: manifest, receipt, withdrawal. What does not answer is
`Unknown` with the reason; a dead region costs its own time-out, not one for each version.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor, Future, wait
from datetime import UTC, datetime
from typing import TypeVar

from mlplatform.core.digest import Evidence
from mlplatform.core.errors import (
    ConditionFailed,
    ContainerMissing,
    DigestMismatch,
    IntegrityError,
    MlplatformError,
    NotFound,
    StoreError,
    UsageError,
    VersionConflict,
)
from mlplatform.core.manifest import MANIFEST_BYTES_MAX, Manifest, ObjectReceipt, Receipt
from mlplatform.core.placement import ModelVersion
from mlplatform.core.plan import canonical
from mlplatform.core.seen import Unknown
from mlplatform.ports.store import (
    ABSENT,
    ALWAYS,
    Condition,
    Matches,
    ObjectStore,
    Stat,
    read_bytes,
)
from mlplatform.replication.seen import Check, RegionSeen, Withdrawal

log = logging.getLogger(__name__)

T = TypeVar("T")

_RECORD_ATTEMPTS = 3


def read_region(
    store: ObjectStore,
    region: str,
    subject: ModelVersion,
    *,
    checks: Sequence[Check] = (),
    withdrawal: Withdrawal | None = None,
    measure_partial: bool = False,
) -> RegionSeen:
    """What the region shows of one version. Raises `StoreError` when it cannot be read.

    `checks` are what is on record for the region; those that speak of another receipt lapse, but
    not because the receipt was lost.
    `measure_partial` also counts the bytes under the version's prefix when no manifest is there,
    which costs a listing.
    """
    _ = store.features  # a store that has to be asked fails here, alone, and not in a transfer
    manifest, stat, damaged = _read_manifest(store, region, subject)
    receipt = _read_receipt(store, region, subject)
    if damaged or (manifest and (not receipt or receipt.manifest_digest != manifest.digest)):
        # A second read tells records that are wrong from records that were read wrong.
        again = _read_manifest(store, region, subject)
        if manifest is None or again[0] is not None:
            manifest, stat, damaged = again
        receipt = _read_receipt(store, region, subject) or receipt
    present_bytes = 0
    if manifest is None and measure_partial:
        present_bytes = sum(
            found.size_bytes
            for found in store.list(subject.prefix)
            if found.key != subject.manifest_key
        )
    nonce = receipt.nonce if receipt else None
    lost = receipt is None and stat is not None
    return RegionSeen(
        region=region,
        manifest=manifest,
        manifest_tag=stat.tag if stat else None,
        manifest_stored_at=stat.modified if stat else None,
        damaged=damaged,
        receipt=receipt,
        checks=tuple(check for check in checks if lost or check.receipt_nonce == nonce),
        withdrawal=_read_withdrawal(store, subject) or withdrawal,
        present_bytes=present_bytes,
    )


def _read_manifest(
    store: ObjectStore, region: str, subject: ModelVersion
) -> tuple[Manifest | None, Stat | None, str | None]:
    """The manifest, its stat, and why it cannot be trusted, if it cannot."""
    stat: Stat | None = None
    try:
        body, stat = read_bytes(store, subject.manifest_key, limit_bytes=MANIFEST_BYTES_MAX)
        where = f"{region}: {subject.manifest_key}"
        return Manifest.parse(body, where=where, subject=subject), stat, None
    except ContainerMissing:
        raise  # a bucket that is not there is not an empty one
    except NotFound:
        return None, None, None
    except IntegrityError as error:
        return None, stat, error.message


def _read_receipt(store: ObjectStore, region: str, subject: ModelVersion) -> Receipt | None:
    try:
        body, _ = read_bytes(store, subject.receipt_key, limit_bytes=MANIFEST_BYTES_MAX)
        receipt = Receipt.parse(body, where=f"{region}: {subject.receipt_key}")
    except (NotFound, IntegrityError):
        # Without a receipt that can be read the bytes are unproven; a deep check settles it.
        return None
    return receipt if receipt.region == region else None


def _read_withdrawal(store: ObjectStore, subject: ModelVersion) -> Withdrawal | None:
    try:
        body, _ = read_bytes(store, subject.withdrawal_key, limit_bytes=65_536)
    except NotFound:
        return None
    return parse_withdrawal(body, subject)


def parse_withdrawal(body: bytes, subject: ModelVersion) -> Withdrawal:
    """A withdrawal that cannot be read is still one: the careful reading."""
    try:
        return Withdrawal.model_validate(json.loads(body))
    except (ValueError, RecursionError):
        return Withdrawal(
            model=subject.model,
            version=subject.version,
            reason="(its record is damaged)",
            by="unknown",
            at=datetime(1970, 1, 1, tzinfo=UTC),
        )


def list_versions(store: ObjectStore) -> dict[str, list[str]]:
    """Every model and version that has a folder in the store."""
    found: dict[str, list[str]] = {}
    for model in store.list("models/", shallow=True):
        if not model.key.endswith("/"):
            continue
        name = model.key.split("/")[1]
        for version in store.list(model.key, shallow=True):
            if not version.key.endswith("/"):
                continue
            try:
                subject = ModelVersion(name, version.key.split("/")[2])
            except UsageError:
                continue
            found.setdefault(subject.model, []).append(subject.version)
    return found


def each_region(
    regions: Iterable[str],
    read: Callable[[str], T],
    *,
    executor: Executor,
    timeout_seconds: float | None,
) -> dict[str, T | Unknown]:
    """`read` of every region at once. What fails or does not answer in time is `Unknown`."""
    futures: dict[str, Future[T]] = {region: executor.submit(read, region) for region in regions}
    answered, _ = wait(futures.values(), timeout=timeout_seconds)
    results: dict[str, T | Unknown] = {}
    for region, future in futures.items():
        try:
            if future in answered:
                results[region] = future.result()
            else:
                results[region] = Unknown(f"{region}: no answer within {timeout_seconds:g} s")
        except MlplatformError as error:
            results[region] = Unknown(describe(region, error))
        except Exception as error:  # one region's must not become the others'
            log.error("%s: internal error", region, exc_info=error)
            name = type(error).__name__
            results[region] = Unknown(f"{region}: internal error: {name}: {error}")
    return results


def describe(region: str, error: MlplatformError) -> str:
    """An error of a region in one line."""
    text = str(error)
    named = text if region in text else f"{region}: {text}"
    return named if not error.hint or isinstance(error, StoreError) else f"{named} ({error.hint})"


def make_visible(
    store: ObjectStore,
    region: str,
    manifest: Manifest,
    objects: Mapping[str, ObjectReceipt],
    *,
    replaces_tag: str | None,
    now: datetime,
    writer: str,
    nonce: str,
    guard: Callable[[], None] = lambda: None,
) -> Receipt:
    """Write the receipt, then the manifest, last. Every object must have been proven, and still be
    the one that was: proving may have taken hours.

    `replaces_tag` is the tag of a damaged manifest, which only a repair may replace.
    `guard` is called before each of the two is written, and raises when nothing may be any more.
    `VersionConflict` when another manifest is there, `ConditionFailed` when an object changed.
    """
    unproven = [entry.path for entry in manifest.files if entry.path not in objects]
    if unproven:
        raise IntegrityError(
            f"{region}: {manifest.subject}: {len(unproven)} files are not verified, "
            f"the first is {unproven[0]}; the version stays invisible"
        )
    key = manifest.subject.manifest_key
    # Asked first: the loser of two publishers must leave the winner's receipt alone.
    there = _manifest_there(store, key)
    if there is not None and there[1].tag != replaces_tag and there[0] != manifest.encoded:
        raise _other_manifest(region, manifest)
    _require_unchanged(store, region, manifest, objects)
    receipt = Receipt(
        schema="mlplatform/receipt/1",
        model=manifest.model,
        version=manifest.version,
        region=region,
        manifest_digest=manifest.digest,
        objects=tuple(objects[entry.path] for entry in manifest.files),
        stored_at=now,
        writer=writer,
        nonce=nonce,
    )
    guard()
    write_receipt(store, manifest.subject, receipt)
    if there is not None and there[0] == manifest.encoded:
        return receipt
    when: Condition = Matches(replaces_tag) if replaces_tag else ABSENT
    if not store.features.conditional_put:
        when = ALWAYS  # then the lease alone keeps publishers apart
    guard()
    try:
        _put_proven(store, key, manifest.encoded, when)
    except ConditionFailed as refused:
        there = _manifest_there(store, key)
        if there is None or there[0] != manifest.encoded:
            raise _other_manifest(region, manifest) from refused
    return receipt


def _manifest_there(store: ObjectStore, key: str) -> tuple[bytes, Stat] | None:
    try:
        return read_bytes(store, key, limit_bytes=MANIFEST_BYTES_MAX)
    except NotFound:
        return None


def _other_manifest(region: str, manifest: Manifest) -> VersionConflict:
    return VersionConflict(
        f"{region}: {manifest.subject}: another manifest is there",
        hint="two publishers chose one version; publish under a new one",
    )


def _require_unchanged(
    store: ObjectStore, region: str, manifest: Manifest, objects: Mapping[str, ObjectReceipt]
) -> None:
    tags = {found.key: found.tag for found in store.list(manifest.subject.prefix)}
    for entry in manifest.files:
        key = manifest.key_of(entry)
        if entry.key is not None:
            tags[key] = store.stat(key).tag
        if tags.get(key) != objects[entry.path].tag:
            raise ConditionFailed(
                "changed after it was verified; the version stays invisible",
                store=store.url,
                key=key,
                hint=f"find out who else writes {manifest.subject} in {region}, then run again",
            )


def write_receipt(store: ObjectStore, subject: ModelVersion, receipt: Receipt) -> None:
    """Replace the region's receipt. The last writer wins: each has proven what it states."""
    _put_proven(store, subject.receipt_key, receipt.encoded, ALWAYS)


def _put_proven(store: ObjectStore, key: str, body: bytes, when: Condition) -> None:
    """Put a record, and read it back where the store itself does not see to it that these bytes
    arrive. `DigestMismatch` if they do not, time and again."""
    for _ in range(_RECORD_ATTEMPTS):
        tag = store.put(key, body, when=when).tag
        if store.features.evidence is not Evidence.READ_BACK:
            return
        for _ in range(2):  # once more, if it was only read wrongly
            held, stat = read_bytes(store, key, limit_bytes=MANIFEST_BYTES_MAX)
            if held == body or stat.tag != tag:
                return  # as it should be, or another's by now
        when = Matches(tag) if store.features.conditional_put else ALWAYS
    raise DigestMismatch(
        f"Checksum mismatch: {store.url}/{key} is stored with other bytes than were sent",
        hint="the store or the path to it is faulty",
    )


def write_withdrawal(store: ObjectStore, withdrawal: Withdrawal) -> None:
    """Withdraw in one region. The first withdrawal stays."""
    subject = ModelVersion(withdrawal.model, withdrawal.version)
    try:
        store.put(
            subject.withdrawal_key, canonical(withdrawal.model_dump(mode="json")), when=ABSENT
        )
    except ConditionFailed:
        return
