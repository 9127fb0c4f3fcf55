"""What regions hold of model versions, read for whoever needs to know.

A region is read by name, never by guess: manifest, receipt, withdrawal. What does not answer is
`Unknown` with the reason; a dead region costs its own time-out, not one for each version. Nothing
is written here: what is written, replication writes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import TypeVar

from mlplatform.control.executors import DaemonThreads
from mlplatform.control.quorum import ControlStore, records_of
from mlplatform.control.regions import each_region
from mlplatform.control.retry import Retry, RetryingStore
from mlplatform.core.errors import (
    ContainerMissing,
    IntegrityError,
    NoMajority,
    NotFound,
    UsageError,
)
from mlplatform.core.manifest import MANIFEST_BYTES_MAX, Manifest, Receipt
from mlplatform.core.placement import Grid, ModelVersion
from mlplatform.core.replica import (
    Check,
    Published,
    Regions,
    RegionSeen,
    Remembered,
    Withdrawal,
    parse_withdrawal,
    placement_of,
)
from mlplatform.core.seen import Unknown
from mlplatform.core.topology import Topology
from mlplatform.ports.store import ObjectStore, Stat, read_bytes

T = TypeVar("T")

# Where the control store keeps what is on record of versions.
CHECKS = "observations/checks/"
VERSIONS = "versions/"
WITHDRAWALS = "observations/withdrawals/"


def check_key(check: Check) -> str:
    """Where the last check of its kind is kept. What was found wrong is apart from what was found
    good, so that a check that began earlier and ends later, or sees less, takes no mismatch back:
    only a new receipt does."""
    found = f"{_WRONG}{check.depth}" if check.findings else "good"
    return f"{CHECKS}{check.model}/{check.version}/{check.region}/{found}.json"


_WRONG = "wrong-"


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Every region's store and the control store, as far as they are read."""

    topology: Topology
    open_store: Callable[[str], ObjectStore]
    """By region, opened on first use; raises our errors."""
    control: ControlStore
    retry: Retry
    executor: Executor = field(default_factory=DaemonThreads)
    region_timeout_seconds: float | None = 30.0

    def store(self, region: str) -> RetryingStore:
        """The region's store, under the retry policy."""
        return RetryingStore(self.open_store(region), self.retry)

    def each(
        self, read: Callable[[str], T], regions: Iterable[str] | None = None
    ) -> dict[str, T | Unknown]:
        """`read` of the regions named, or of all, at once."""
        return each_region(
            regions if regions is not None else self.topology.regions,
            read,
            executor=self.executor,
            timeout_seconds=self.region_timeout_seconds,
        )

    def remember(self, subject: ModelVersion | None = None) -> Remembered:
        """What the control store says, of one version or of all."""
        below = f"{subject.model}/{subject.version}" if subject else ""
        try:
            published, settled = self._published(f"{VERSIONS}{below}")
            return Remembered(
                checks=tuple(self.control.read_observations(f"{CHECKS}{below}").of(Check)),
                published=published,
                settled=settled,
                withdrawals=tuple(
                    parse_withdrawal(body, _subject_of(key))
                    for key, body in self.control.read_observations(f"{WITHDRAWALS}{below}").records
                ),
            )
        except NoMajority as error:
            return Remembered(problem=str(error))

    def doubts(self, subject: ModelVersion) -> Remembered:
        """`remember` of one version, without the checks that found it good: few requests, however
        many regions hold it, for those who ask time and again."""
        key = f"{subject.model}/{subject.version}.json"
        try:
            checks = self.control.list(f"{CHECKS}{subject.model}/{subject.version}/")
            wrong = [each for each in checks if each.rpartition("/")[2].startswith(_WRONG)]
            records = self.control.read_many([*wrong, f"{WITHDRAWALS}{key}"])
            published, settled = self._published_at([f"{VERSIONS}{key}"])
        except NoMajority as error:
            return Remembered(problem=str(error))
        withdrawals = records.pop(f"{WITHDRAWALS}{key}").bodies()
        return Remembered(
            checks=tuple(
                records_of(
                    Check,
                    ((k, body) for k, each in records.items() for body in sorted(each.bodies())),
                )
            ),
            published=published,
            settled=settled,
            withdrawals=tuple(parse_withdrawal(body, subject) for body in sorted(withdrawals)),
        )

    def published_versions(self, model: str) -> list[str]:
        """Every version whose name was ever taken, by the control store. `NoMajority` if too few
        members can be read."""
        keys = self.control.list(f"{VERSIONS}{model}/")
        return [key.rpartition("/")[2].removesuffix(".json") for key in keys]

    def recall(self, subject: ModelVersion) -> Remembered:
        """`remember`, for those who act on it: `NoMajority` rather than to forget a demotion."""
        remembered = self.remember(subject)
        if remembered.problem is not None:
            raise NoMajority(remembered.problem, hint="see to the control stores, then run again")
        return remembered

    def _published(self, prefix: str) -> tuple[tuple[Published, ...], frozenset[ModelVersion]]:
        return self._published_at(self.control.list(prefix))

    def _published_at(
        self, keys: Iterable[str]
    ) -> tuple[tuple[Published, ...], frozenset[ModelVersion]]:
        """Records of versions, and which of them a majority holds; those speak alone."""
        published: list[Published] = []
        settled: set[ModelVersion] = set()
        for key, reading in self.control.read_many(keys).items():
            bodies = reading.bodies()
            taken = [b for b, copies in bodies.items() if copies >= self.control.majority]
            found = [(key, body) for body in taken or sorted(bodies)]
            for record in records_of(Published, found):
                published.append(record)
                if taken:
                    settled.add(ModelVersion(record.model, record.version))
        return tuple(published), frozenset(settled)

    def see(
        self,
        subject: ModelVersion,
        regions: Iterable[str] | None = None,
        *,
        measure_partial: bool = False,
        remembered: Remembered | None = None,
    ) -> Regions:
        """One version in the regions named, or in all."""
        known = remembered or self.remember(subject)
        withdrawal = known.withdrawal_of(subject)

        def read(region: str) -> RegionSeen:
            checks = [
                check
                for check in known.checks
                if (check.model, check.version, check.region)
                == (subject.model, subject.version, region)
            ]
            return read_region(
                self.store(region),
                region,
                subject,
                checks=checks,
                withdrawal=withdrawal,
                measure_partial=measure_partial,
            )

        return self.each(read, regions)

    def versions(self) -> tuple[dict[str, dict[str, list[str]]], dict[str, str]]:
        """Published versions by model, then version, with the regions that have a folder of it;
        and the regions that could not be read, with the reason."""
        answers = self.each(lambda region: list_versions(self.store(region)))
        found: dict[str, dict[str, list[str]]] = {}
        unreadable: dict[str, str] = {}
        for region, answer in answers.items():
            if isinstance(answer, Unknown):
                unreadable[region] = answer.reason
                continue
            for model, versions in answer.items():
                for version in versions:
                    found.setdefault(model, {}).setdefault(version, []).append(region)
        return found, unreadable

    def grid(self, subjects: Iterable[ModelVersion] | None = None) -> Grid:
        """Every placement that exists or is wanted."""
        remembered = self.remember()
        unreadable: dict[str, str] = {}
        wanted: dict[ModelVersion, set[str]] = {}
        for name, model in self.topology.models.items():
            if model.version is not None:
                wanted[ModelVersion(name, model.version)] = set(model.regions)
        if subjects is None:
            found, unreadable = self.versions()
            subjects = {
                ModelVersion(model, version)
                for model, versions in found.items()
                for version in versions
            } | wanted.keys()
        readable = [region for region in self.topology.regions if region not in unreadable]
        placements = []
        for subject in sorted(subjects):
            seen = self.see(subject, readable, measure_partial=True, remembered=remembered)
            for region in self.topology.regions:
                state = seen.get(region) or Unknown(unreadable[region])
                if isinstance(state, Unknown):
                    unreadable.setdefault(region, state.reason)
                placements.append(
                    placement_of(subject, region, state, wanted=region in wanted.get(subject, ()))
                )
        return Grid(tuple(placements), unreadable)


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


def _subject_of(key: str) -> ModelVersion:
    model, _, version = key.removeprefix(WITHDRAWALS).removesuffix(".json").partition("/")
    return ModelVersion(model, version)
