"""Two stores that hold nothing: a source that makes up its bytes, and a sink that drops them.

`python -m benchmarks.stores …` is the command `mlplatform` with both registered, so that a plan of
400 GB can be carried out on any machine. All that lies between the two is the product's own.

`synthetic://anything?bytes=N` holds one published version, a file of N bytes in which every block
is the same. `discard://anything?bytes=N&held=0.95&seconds=0.05` takes each part in that time, says
that it has what it was told, and starts with a share of the parts, as if an earlier run had been
killed there: that is how a fraction of a large plan is run.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache

from benchmarks.measure import MIB
from mlplatform import wiring
from mlplatform.core.digest import (
    BLOCK_BYTES,
    UNKNOWN_DIGESTS,
    BlockDigests,
    Buffer,
    Digests,
    Evidence,
    block_count,
    combine,
    digest_of,
)
from mlplatform.core.errors import NotFound, Unsupported
from mlplatform.core.manifest import FileEntry, Manifest, ObjectReceipt, Receipt, Requirements
from mlplatform.core.placement import ModelVersion
from mlplatform.core.store_url import StoreURL
from mlplatform.ports.store import (
    ALWAYS,
    Body,
    Condition,
    Part,
    Span,
    Stat,
    StoreFeatures,
    Upload,
)
from mlplatform.replication.parts import part_bytes_for, parts_of

SUBJECT = ModelVersion("bench", "v1.0.0")
FEATURES = StoreFeatures(evidence=Evidence.STORE_WHOLE, part_bytes_min=5 * MIB)
"""Those of S3 that decide how a file is cut."""
_NOW = datetime(2026, 1, 1, tzinfo=UTC)


@cache
def _block() -> bytes:
    return hashlib.shake_128(b"mlplatform").digest(MIB) * (BLOCK_BYTES // MIB)


@cache
def manifest_of(size_bytes: int) -> Manifest:
    """The one version that a synthetic store holds."""
    whole = digest_of(_block())
    last = size_bytes - (block_count(size_bytes, BLOCK_BYTES) - 1) * BLOCK_BYTES
    count = block_count(size_bytes, BLOCK_BYTES)
    blocks = BlockDigests(
        BLOCK_BYTES,
        size_bytes,
        (*(whole,) * (count - 1), digest_of(memoryview(_block())[:last])),
    )
    total = blocks.whole()
    entry = FileEntry(
        path="model.bin",
        size_bytes=size_bytes,
        blake3="0" * 64,  # of bytes that were never there in order; replication does not read it
        crc64nvme=f"{total.crc64nvme:016x}",
        crc32c=f"{total.crc32c:08x}",
        blocks=blocks.packed(),
    )
    return Manifest.build(
        SUBJECT, [entry], block_bytes=BLOCK_BYTES, requirements=Requirements(), golden=None
    )


class _Records:
    """What both stores share: small objects in memory."""

    features = FEATURES

    def __init__(self, url: StoreURL) -> None:
        self.url = str(url)
        self.size_bytes = int(url.options["bytes"])
        self._records: dict[str, bytes] = {}

    def put(
        self,
        key: str,
        body: Buffer,
        *,
        digests: Digests = UNKNOWN_DIGESTS,
        when: Condition = ALWAYS,
    ) -> Stat:
        self._records[key] = bytes(body)
        return self.stat(key)

    @contextmanager
    def get(
        self, key: str, span: Span | None = None, *, when: Condition = ALWAYS
    ) -> Iterator[Body]:
        stat = self.stat(key)
        span = span or Span(0, stat.size_bytes)
        yield _Bytes(stat, self._records.get(key), span)

    def stat(self, key: str) -> Stat:
        if key not in self._records:
            raise NotFound("no such object", store=self.url, key=key)
        body = self._records[key]
        return Stat(key, len(body), "a", _NOW, digest_of(body), Evidence.STORE_WHOLE)

    def list(self, prefix: str, *, shallow: bool = False, after: str = "") -> Iterator[Stat]:
        return (self.stat(key) for key in sorted(self._records) if key.startswith(prefix))

    def delete(self, key: str, *, when: Condition = ALWAYS) -> None:
        self._records.pop(key, None)

    def begin(self, key: str, *, size_bytes: int, part_bytes: int) -> Upload:
        raise Unsupported("uploads", store=self.url, key=key)

    def uploads(self, prefix: str) -> Iterator[Upload]:
        return iter(())


class _Bytes:
    """A record, or without one the made-up file."""

    def __init__(self, stat: Stat, record: bytes | None, span: Span) -> None:
        self.stat = stat
        self._record = record
        self._at, self._stop = span.start, span.stop

    def readinto(self, buffer: memoryview) -> int:
        offset = self._at if self._record is not None else self._at % BLOCK_BYTES
        source = _block() if self._record is None else self._record
        count = min(len(buffer), self._stop - self._at, len(source) - offset)
        buffer[:count] = memoryview(source)[offset : offset + count]
        self._at += count
        return count


class Synthetic(_Records):
    """The source."""

    def __init__(self, url: StoreURL) -> None:
        super().__init__(url)
        manifest = manifest_of(self.size_bytes)
        self._key = manifest.key_of(manifest.files[0])
        receipt = Receipt(
            schema="mlplatform/receipt/1",
            model=SUBJECT.model,
            version=SUBJECT.version,
            region="home",
            manifest_digest=manifest.digest,
            objects=(ObjectReceipt(path="model.bin", tag="a", evidence=Evidence.STORE_WHOLE),),
            stored_at=_NOW,
            writer="benchmarks",
            nonce="0",
        )
        self._records[SUBJECT.manifest_key] = manifest.encoded
        self._records[SUBJECT.receipt_key] = receipt.encoded

    def stat(self, key: str) -> Stat:
        return Stat(key, self.size_bytes, "a", _NOW) if key == self._key else super().stat(key)


class Discard(_Records):
    """The sink."""

    def __init__(self, url: StoreURL) -> None:
        super().__init__(url)
        self.seconds = url.seconds("seconds", default=0.05)
        self._held = float(url.options.get("held", "0"))
        self._files: dict[str, Stat] = {}

    def stat(self, key: str) -> Stat:
        return self._files.get(key) or super().stat(key)

    def list(self, prefix: str, *, shallow: bool = False, after: str = "") -> Iterator[Stat]:
        found = self._files | {key: self.stat(key) for key in self._records}
        return (found[key] for key in sorted(found) if key.startswith(prefix))

    def begin(self, key: str, *, size_bytes: int, part_bytes: int) -> Upload:
        return _Dropped(self, key, ())

    def uploads(self, prefix: str) -> Iterator[Upload]:
        manifest = manifest_of(self.size_bytes)
        entry = manifest.files[0]
        if self._held and not self._files and prefix == manifest.key_of(entry):
            part_bytes = part_bytes_for(self.size_bytes, BLOCK_BYTES, [FEATURES])
            plan = list(parts_of(manifest, entry, part_bytes))
            held = [
                Part(part.index, part.span.size_bytes, "a", part.digests)
                for part in plan[: int(len(plan) * self._held)]
            ]
            yield _Dropped(self, prefix, held)


class _Dropped:
    """An upload: all that is left of a part is that it was there."""

    id = "1"
    started = None

    def __init__(self, store: Discard, key: str, held: Sequence[Part]) -> None:
        self._store = store
        self.key = key
        self._parts = {part.index: part for part in held}
        self._lock = threading.Lock()

    def part(self, index: int, body: Buffer, *, digests: Digests) -> Part:
        time.sleep(self._store.seconds)
        part = Part(index, memoryview(body).nbytes, "a", digests)
        with self._lock:
            self._parts[index] = part
        return part

    def copy_range(self, index: int, source_key: str, span: Span, *, when: Condition) -> Part:
        raise Unsupported("range copies", store=self._store.url, key=self.key)

    def parts(self) -> Sequence[Part]:
        with self._lock:
            return [self._parts[index] for index in sorted(self._parts)]

    def complete(self, parts: Sequence[Part], *, digests: Digests, when: Condition) -> Stat:
        size_bytes = sum(part.size_bytes for part in parts)
        whole = combine((part.digests, part.size_bytes) for part in parts)
        stat = Stat(self.key, size_bytes, "a", _NOW, whole, Evidence.STORE_WHOLE)
        self._store._files[self.key] = stat
        return stat

    def abort(self) -> None:
        self._parts.clear()


def open_store(url: StoreURL) -> Synthetic | Discard:
    """Either, by the URL's scheme."""
    return (Synthetic if url.scheme == "synthetic" else Discard)(url)


def main() -> None:
    """`mlplatform`, with the two schemes."""
    from mlplatform.cli.app import main as mlplatform

    for scheme in ("synthetic", "discard"):
        wiring.ADAPTERS[scheme] = wiring.Adapter("benchmarks.stores")
    mlplatform()


if __name__ == "__main__":
    main()
