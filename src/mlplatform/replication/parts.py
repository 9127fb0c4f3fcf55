"""How a file is cut into parts: a pure function of its size and of what the stores can take.

Every machine cuts the same file the same way, so what one left in a target another can use.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from mlplatform.core.digest import Digests, block_count
from mlplatform.core.errors import Unsupported
from mlplatform.core.manifest import FileEntry, Manifest
from mlplatform.ports.store import Span, StoreFeatures

PARTS_MAX = 10_000
"""The smallest limit among the clouds (S3's); finer cuts would not survive a change of target."""


@dataclass(frozen=True, slots=True)
class PartPlan:
    """One part of one file: what is read, checked and sent as a unit."""

    entry: FileEntry
    key: str
    index: int
    span: Span
    digests: Digests
    whole: bool
    """The file is this one part: it is put in one request, without an upload."""


def part_bytes_for(size_bytes: int, block_bytes: int, stores: Iterable[StoreFeatures] = ()) -> int:
    """The part size of a file: a whole number of blocks, as few as the stores' limits allow.

    400 GB in 16 MiB blocks gives parts of 48 MiB on S3. `Unsupported` when a store can hold
    no such object.
    """
    part_bytes = block_bytes
    parts_max = PARTS_MAX
    for features in stores:
        parts_max = min(parts_max, features.parts_max)
        part_bytes = max(part_bytes, _round_up(features.part_bytes_min, block_bytes))
    part_bytes = max(part_bytes, _round_up(-(-size_bytes // parts_max), block_bytes))
    for features in stores:
        if part_bytes > features.part_bytes_max:
            raise Unsupported(
                f"an object of {size_bytes} bytes needs parts of {part_bytes}, "
                f"and the store takes {features.part_bytes_max} at most"
            )
        if size_bytes <= part_bytes and size_bytes > features.put_bytes_max:
            raise Unsupported(
                f"an object of {size_bytes} bytes would be put as a whole, "
                f"and the store takes {features.put_bytes_max} at most"
            )
    return part_bytes


def parts_of(manifest: Manifest, entry: FileEntry, part_bytes: int) -> Iterator[PartPlan]:
    """The parts of a file, in order. An empty file is one empty part."""
    key = manifest.key_of(entry)
    if entry.size_bytes <= part_bytes:
        yield PartPlan(entry, key, 0, Span(0, entry.size_bytes), entry.digests, whole=True)
        return
    blocks = entry.block_digests(manifest.block_bytes)
    blocks_per_part = part_bytes // manifest.block_bytes
    for index in range(block_count(entry.size_bytes, part_bytes)):
        start = index * part_bytes
        yield PartPlan(
            entry,
            key,
            index,
            Span(start, min(start + part_bytes, entry.size_bytes)),
            blocks.of(index * blocks_per_part, (index + 1) * blocks_per_part),
            whole=False,
        )


def _round_up(value: int, multiple: int) -> int:
    return max(multiple, -(-value // multiple) * multiple)
