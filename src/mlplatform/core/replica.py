"""The replica: what one region shows of one model version, what is on record of it, and the
placement that follows."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from mlplatform.core.manifest import Manifest, Receipt
from mlplatform.core.placement import Integrity, ModelVersion, Placement, Rung
from mlplatform.core.plan import Record
from mlplatform.core.seen import Unknown


class Finding(Record):
    """One thing that is wrong with a replica."""

    path: str
    problem: Literal["missing", "size", "digest", "changed", "manifest"]
    detail: str
    ranges: tuple[str, ...] = ()
    """Byte ranges `start-stop`, half open."""

    def __str__(self) -> str:
        return f"{self.path}: {self.detail}"


class Check(Record):
    """What the last check of a replica found. It speaks of one receipt: when a repair, or a deep
    check that proves the bytes anew, replaces the receipt, what was said of the old one lapses."""

    model: str
    version: str
    region: str
    receipt_nonce: str | None
    depth: Literal["quick", "deep"]
    findings: tuple[Finding, ...] = ()
    """What is wrong; a check without findings found the replica good."""
    at: datetime
    writer: str


class Withdrawal(Record):
    """An operator took a version back: no new placements. Nothing is deleted."""

    model: str
    version: str
    reason: str
    by: str
    at: datetime


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


class Published(Record):
    """Which bytes a version's name means, for ever. It says nothing else, so that whoever brings
    the same bytes writes the same record."""

    model: str
    version: str
    digest: str


@dataclass(frozen=True, slots=True)
class Remembered:
    """What the control store says of versions. Without a majority it says nothing, and why."""

    checks: tuple[Check, ...] = ()
    published: tuple[Published, ...] = ()
    settled: frozenset[ModelVersion] = frozenset()
    """Versions whose record a majority holds, by what could be read."""
    withdrawals: tuple[Withdrawal, ...] = ()
    problem: str | None = None

    def digest_of(self, subject: ModelVersion) -> str | None:
        """The recorded digest, if all records agree on one."""
        found = {
            record.digest
            for record in self.published
            if (record.model, record.version) == (subject.model, subject.version)
        }
        return found.pop() if len(found) == 1 else None

    def is_bound(self, subject: ModelVersion, digest: str) -> bool:
        """Whether the version's name is taken for these bytes, for ever."""
        return subject in self.settled and self.digest_of(subject) == digest

    def withdrawal_of(self, subject: ModelVersion) -> Withdrawal | None:
        for record in self.withdrawals:
            if (record.model, record.version) == (subject.model, subject.version):
                return record
        return None


@dataclass(frozen=True, slots=True)
class RegionSeen:
    """What was read of one version in one region that answered."""

    region: str
    manifest: Manifest | None = None
    manifest_tag: str | None = None
    """Set also when the manifest is damaged, so that a repair can replace exactly that one."""
    manifest_stored_at: datetime | None = None
    damaged: str | None = None
    """Why the manifest there cannot be trusted."""
    receipt: Receipt | None = None
    checks: tuple[Check, ...] = ()
    """Checks that speak of the receipt that is there now."""
    withdrawal: Withdrawal | None = None
    present_bytes: int = 0
    """Bytes of objects under the version's prefix, proven or not."""

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What checks found wrong with what is there."""
        return tuple(finding for check in self.checks for finding in check.findings)

    @property
    def demoted(self) -> bool:
        """Whether a check found it wrong, and nothing has repaired it since."""
        return bool(self.findings)

    @property
    def verified_at(self) -> datetime | None:
        """When its bytes were last found right, by a check or when they were stored; None when
        that says nothing of what is there now."""
        good = [check.at for check in self.checks if not check.findings]
        if self.receipt is not None:
            good.append(self.receipt.stored_at)
        return max(good) if good and self.stored else None

    @property
    def stored(self) -> bool:
        """Rung STORED: manifest and receipt are there, of the same bytes, and nothing speaks
        against them."""
        return self._attested and not self.demoted

    def misstates(self, digest: str) -> bool:
        """Whether its manifest is not `digest`'s, and its own receipt does not speak for it: then
        it was damaged, in a way that it can still be read. Only to be asked of the digest on
        record."""
        return self.manifest is not None and self.manifest.digest != digest and not self._attested

    @property
    def _attested(self) -> bool:
        return (
            self.manifest is not None
            and self.receipt is not None
            and self.receipt.manifest_digest == self.manifest.digest
        )

    @property
    def fingerprint(self) -> str:
        """Changes when anything does that a plan could rest on."""
        return " ".join(
            (
                f"manifest={self.manifest.digest if self.manifest else self.damaged or 'absent'}",
                f"receipt={self.receipt.nonce if self.receipt else 'absent'}",
                f"demoted={self.demoted}",
                f"withdrawn={self.withdrawal is not None}",
            )
        )


Regions = dict[str, RegionSeen | Unknown]
"""By region; every region that was asked is there."""


def placement_of(
    subject: ModelVersion, region: str, seen: RegionSeen | Unknown, *, wanted: bool
) -> Placement:
    """The cell of the grid."""
    if isinstance(seen, Unknown):
        return Placement(
            subject, region, seen, Integrity.UNKNOWN, wanted=wanted, detail=seen.reason
        )
    digest = seen.manifest.digest if seen.manifest else None
    rung, integrity, detail = _stand(seen)
    return Placement(
        subject,
        region,
        rung,
        integrity,
        digest=digest,
        size_bytes=seen.manifest.size_bytes if seen.manifest else seen.present_bytes or None,
        stored_at=seen.receipt.stored_at if seen.receipt else seen.manifest_stored_at,
        verified_at=seen.verified_at,
        wanted=wanted,
        withdrawn=seen.withdrawal is not None,
        detail=detail,
    )


def _stand(seen: RegionSeen) -> tuple[Rung, Integrity, str]:
    if seen.damaged is not None:
        return Rung.ABSENT, Integrity.MISMATCH, seen.damaged
    if seen.demoted:
        return Rung.ABSENT, Integrity.MISMATCH, str(seen.findings[0])
    if seen.stored:
        return Rung.STORED, Integrity.VERIFIED, ""
    if seen.manifest is not None:
        missing = "no receipt" if seen.receipt is None else "a receipt of other bytes"
        return (
            Rung.ABSENT,
            Integrity.UNKNOWN,
            f"a manifest with {missing}: `verify --deep` reads the bytes and settles it",
        )
    if seen.present_bytes:
        return Rung.ABSENT, Integrity.PARTIAL, "unfinished: bytes without a manifest"
    return Rung.ABSENT, Integrity.ABSENT, ""
