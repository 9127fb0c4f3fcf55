"""What is written of a version in a region's store: the receipt and the manifest, by which it
becomes visible, and the withdrawal, by which it is taken back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime

from mlplatform.core.digest import Evidence
from mlplatform.core.errors import (
    ConditionFailed,
    DigestMismatch,
    IntegrityError,
    NotFound,
    VersionConflict,
)
from mlplatform.core.manifest import MANIFEST_BYTES_MAX, Manifest, ObjectReceipt, Receipt
from mlplatform.core.placement import ModelVersion
from mlplatform.core.replica import Withdrawal
from mlplatform.ports.store import (
    ABSENT,
    ALWAYS,
    Condition,
    Matches,
    ObjectStore,
    Stat,
    read_bytes,
)

_RECORD_ATTEMPTS = 3


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
        store.put(subject.withdrawal_key, withdrawal.encoded, when=ABSENT)
    except ConditionFailed:
        return
