"""Is a replica what its manifest says? Quick asks the store, deep reads the bytes.

Quick compares each object's tag with the receipt's, and the digests that the store states with
the manifest's. It moves no data, so it cannot see bytes that rot below a store which keeps
stating the old digest: a store that lies about its own digests is found by deep only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial

from blake3 import blake3

from mlplatform.control.retry import Retry
from mlplatform.core.digest import Evidence, digest_of
from mlplatform.core.errors import (
    ConditionFailed,
    ContainerMissing,
    Denied,
    Interrupted,
    MlplatformError,
    NotFound,
)
from mlplatform.core.manifest import FileEntry, Manifest, ObjectReceipt
from mlplatform.core.replica import Finding, RegionSeen
from mlplatform.core.seen import Unknown
from mlplatform.ports.progress import Progress
from mlplatform.ports.store import Matches, ObjectStore, Span, Stat, read_into


class Depth(StrEnum):
    QUICK = "quick"
    DEEP = "deep"


class Verdict(StrEnum):
    GOOD = "good"
    MISMATCH = "mismatch"
    UNKNOWN = "unknown"
    ABSENT = "absent"


@dataclass(slots=True)
class Verification:
    """What a check of one replica found."""

    region: str
    depth: Depth
    checked_files: int = 0
    checked_bytes: int = 0
    findings: list[Finding] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    objects: dict[str, ObjectReceipt] = field(default_factory=dict)
    """What was proven, as receipts: a deep check of a replica without receipts yields them."""
    absent: bool = False

    @property
    def verdict(self) -> Verdict:
        """A mismatch outranks what could not be read."""
        if self.findings:
            return Verdict.MISMATCH
        if self.unknown:
            return Verdict.UNKNOWN
        return Verdict.ABSENT if self.absent else Verdict.GOOD


def verify(
    store: ObjectStore,
    seen: RegionSeen | Unknown,
    region: str,
    depth: Depth,
    *,
    retry: Retry,
    executor: Executor,
    progress: Progress,
    expected_digest: str | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Verification:
    """Check one replica. `expected_digest` is what the version's digest is known to be: a
    manifest of other bytes is a mismatch, however consistent with itself."""
    result = Verification(region, depth)
    if isinstance(seen, Unknown):
        result.unknown.append(seen.reason)
        return result
    if seen.damaged is not None:
        result.findings.append(
            Finding(path="manifest.json", problem="manifest", detail=seen.damaged)
        )
        return result
    manifest = seen.manifest
    if manifest is None:
        result.absent = True
        return result
    if expected_digest is not None and manifest.digest != expected_digest:
        result.findings.append(
            Finding(
                path="manifest.json",
                problem="manifest",
                detail=f"Checksum mismatch: its digest is {manifest.digest}, "
                f"the version's is {expected_digest}",
            )
        )
    receipt = seen.receipt
    # A receipt of another manifest speaks of other bytes, whatever its tags are.
    proven = receipt is not None and receipt.manifest_digest == manifest.digest
    receipts = receipt.by_path if receipt is not None and proven else {}
    progress.total(region, manifest.size_bytes if depth is Depth.DEEP else 0)

    def go_on() -> None:
        if stop():
            raise Interrupted(f"{manifest.subject}: verification stopped")

    def check(entry: FileEntry) -> tuple[Finding | str | ObjectReceipt, FileEntry]:
        go_on()
        receipt = receipts.get(entry.path)
        key = manifest.key_of(entry)
        try:
            stat = store.stat(key)
            if depth is Depth.DEEP and stat.size_bytes == entry.size_bytes:
                read = partial(_deep, store, manifest, entry, stat, retry, progress, region, go_on)
                return read(), entry
            return _quick(entry, stat, receipt), entry
        except ContainerMissing as error:
            return f"{entry.path}: {error}", entry
        except NotFound:
            return Finding(path=entry.path, problem="missing", detail="the object is gone"), entry
        except ConditionFailed:
            return f"{entry.path}: it was overwritten while it was read; check again", entry
        except Denied as error:
            named = "" if "Access Denied" in str(error) else "Access Denied: "
            return f"{entry.path}: {named}{error}", entry
        except Interrupted:
            raise
        except MlplatformError as error:
            return f"{entry.path}: {error}", entry

    futures = [executor.submit(check, entry) for entry in manifest.files]
    for future in futures:
        outcome, entry = future.result()
        if isinstance(outcome, Finding):
            result.findings.append(outcome)
            result.checked_files += 1
            if outcome.problem == "digest":  # else there was nothing to read
                result.checked_bytes += entry.size_bytes
        elif isinstance(outcome, str):
            result.unknown.append(outcome)
        else:
            result.objects[entry.path] = outcome
            result.checked_files += 1
            result.checked_bytes += entry.size_bytes
    return result


def _quick(
    entry: FileEntry, stat: Stat, receipt: ObjectReceipt | None
) -> Finding | str | ObjectReceipt:
    if stat.size_bytes != entry.size_bytes:
        return _wrong_size(entry, stat)
    if entry.digests.contradicts(stat.digests):
        return Finding(
            path=entry.path,
            problem="digest",
            detail=f"Checksum mismatch: the store states {stat.digests}, "
            f"the manifest {entry.digests}",
            ranges=(f"0-{entry.size_bytes}",),
        )
    if stat.evidence is not None and entry.digests.confirms(stat.digests):
        return ObjectReceipt(path=entry.path, tag=stat.tag, evidence=stat.evidence)
    if receipt is not None and receipt.tag == stat.tag:
        return receipt
    if receipt is None:
        return f"{entry.path}: no receipt to compare with; --deep reads the bytes"
    return (
        f"{entry.path}: the object was touched since it was verified "
        f"(tag {stat.tag}, receipt {receipt.tag}); --deep reads the bytes"
    )


def _deep(
    store: ObjectStore,
    manifest: Manifest,
    entry: FileEntry,
    stat: Stat,
    retry: Retry,
    progress: Progress,
    region: str,
    go_on: Callable[[], None],
) -> Finding | ObjectReceipt:
    blocks = entry.block_digests(manifest.block_bytes)
    whole = blake3()
    buffer = memoryview(bytearray(min(manifest.block_bytes, max(entry.size_bytes, 1))))
    bad: list[Span] = []
    for index, expected in enumerate(blocks.blocks):
        go_on()
        start = index * manifest.block_bytes
        span = Span(start, start + blocks.span_bytes(index))
        read = partial(read_into, store, stat.key, span, buffer, when=Matches(stat.tag))
        for _ in range(2):
            # A second read tells bytes that are wrong from bytes that were read wrong.
            retry.call(read, what=f"read {region} {entry.path}")
            if digest_of(buffer[: span.size_bytes]) == expected:
                break
        else:
            bad.append(span)
        whole.update(buffer[: span.size_bytes])
        progress.add(region, span.size_bytes)
    if not bad and whole.hexdigest() != entry.blake3:
        bad.append(Span(0, entry.size_bytes))
    if bad:
        ranges = _merged(bad)
        return Finding(
            path=entry.path,
            problem="digest",
            detail=f"Checksum mismatch: bytes {_joined(ranges)} differ",
            ranges=ranges,
        )
    return ObjectReceipt(path=entry.path, tag=stat.tag, evidence=Evidence.READ_BACK)


def _wrong_size(entry: FileEntry, stat: Stat) -> Finding:
    return Finding(
        path=entry.path,
        problem="size",
        detail=f"Checksum mismatch: it has {stat.size_bytes} bytes, "
        f"the manifest {entry.size_bytes}",
        ranges=(
            f"{min(stat.size_bytes, entry.size_bytes)}-{max(stat.size_bytes, entry.size_bytes)}",
        ),
    )


def _merged(spans: Sequence[Span]) -> tuple[str, ...]:
    """Blocks that follow one another as one range; a file may have tens of thousands of blocks."""
    merged: list[Span] = []
    for span in spans:
        if merged and merged[-1].stop == span.start:
            merged[-1] = Span(merged[-1].start, span.stop)
        else:
            merged.append(span)
    return tuple(f"{span.start}-{span.stop}" for span in merged)


def _joined(ranges: Sequence[str]) -> str:
    shown = ", ".join(ranges[:8])
    return shown if len(ranges) <= 8 else f"{shown} and {len(ranges) - 8} more"


def exit_code(results: Iterable[Verification]) -> int:
    """0 all good, 3 a mismatch (or nothing there at all), 5 when something was not readable."""
    verdicts = {result.verdict for result in results}
    if Verdict.MISMATCH in verdicts:
        return 3
    if Verdict.UNKNOWN in verdicts:
        return 5
    return 0 if Verdict.GOOD in verdicts else 3
