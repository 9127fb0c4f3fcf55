"""Digests: what is computed, in which pass, and how block digests combine.

Two CRCs in one read pass cover every pair of stores: CRC64NVME is what S3 and Azure check
(Azure's `x-ms-content-crc64` is the same polynomial), CRC32C is what S3 and GCS check. Both
combine, so the digest of any run of whole blocks follows from the blocks' own without reading
a byte. BLAKE3 is the identity of a file; it needs the bytes in order.
"""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from awscrt import checksums as _crt

Buffer = bytes | bytearray | memoryview

BLOCK_BYTES = 16 * 1024 * 1024
_PACKED = struct.Struct(">QI")


class Evidence(StrEnum):
    """By what an object's bytes are known to be right, without trusting the sender."""

    STORE_WHOLE = "store-whole"
    """The store computed a digest of the whole object and checked or states it."""
    STORE_PARTS = "store-parts"
    """The store checked each part when it was put; the parts combine to the whole."""
    READ_BACK = "read-back"
    """The bytes were read again from the store after they were written."""


@dataclass(frozen=True, slots=True)
class Digests:
    """CRCs of a run of bytes. `None` means not known, never zero."""

    crc64nvme: int | None = None
    crc32c: int | None = None

    def contradicts(self, other: Digests) -> bool:
        """Whether some digest is known on both sides and differs."""
        return any(a is not None and b is not None and a != b for a, b in self._pairs(other))

    def confirms(self, other: Digests) -> bool:
        """Whether at least one digest is known on both sides, and none differs."""
        return not self.contradicts(other) and any(
            a is not None and b is not None for a, b in self._pairs(other)
        )

    def _pairs(self, other: Digests) -> tuple[tuple[int | None, int | None], ...]:
        return ((self.crc64nvme, other.crc64nvme), (self.crc32c, other.crc32c))

    def __str__(self) -> str:
        parts = []
        if self.crc64nvme is not None:
            parts.append(f"crc64nvme:{self.crc64nvme:016x}")
        if self.crc32c is not None:
            parts.append(f"crc32c:{self.crc32c:08x}")
        return " ".join(parts) or "no digest"


UNKNOWN_DIGESTS = Digests()


def digest_of(body: Buffer) -> Digests:
    """Both CRCs of `body`. Releases the GIL."""
    view = memoryview(body)
    if not view.nbytes:
        return Digests(0, 0)
    return Digests(_crt.crc64nvme(view), _crt.crc32c(view))


def extend(digests: Digests, body: Buffer) -> Digests:
    """The digests of what `digests` covers, followed by `body`."""
    view = memoryview(body)
    if not view.nbytes:
        return digests
    return Digests(
        None if digests.crc64nvme is None else _crt.crc64nvme(view, digests.crc64nvme),
        None if digests.crc32c is None else _crt.crc32c(view, digests.crc32c),
    )


def combine(parts: Iterable[tuple[Digests, int]]) -> Digests:
    """The digests of the concatenation of `(digests, size_bytes)` runs, without their bytes."""
    crc64: int | None = 0
    crc32: int | None = 0
    for digests, size_bytes in parts:
        if crc64 is not None:
            crc64 = (
                None
                if digests.crc64nvme is None
                else _crt.combine_crc64nvme(crc64, digests.crc64nvme, size_bytes)
            )
        if crc32 is not None:
            crc32 = (
                None
                if digests.crc32c is None
                else _crt.combine_crc32c(crc32, digests.crc32c, size_bytes)
            )
    return Digests(crc64, crc32)


@dataclass(frozen=True, slots=True)
class BlockDigests:
    """CRC64NVME and CRC32C of each block of a file, in order; the last block may be short."""

    block_bytes: int
    size_bytes: int
    blocks: tuple[Digests, ...]

    def __post_init__(self) -> None:
        expected = block_count(self.size_bytes, self.block_bytes)
        if len(self.blocks) != expected:
            raise ValueError(f"{len(self.blocks)} block digests for {expected} blocks")

    def span_bytes(self, index: int) -> int:
        """Size of block `index`."""
        return min(self.block_bytes, self.size_bytes - index * self.block_bytes)

    def of(self, start_block: int, stop_block: int) -> Digests:
        """Digests of the blocks `[start_block, stop_block)` together."""
        stop_block = min(stop_block, len(self.blocks))
        return combine(
            (self.blocks[index], self.span_bytes(index)) for index in range(start_block, stop_block)
        )

    def whole(self) -> Digests:
        """Digests of the whole file."""
        return self.of(0, len(self.blocks))

    def packed(self) -> str:
        """Base64 of twelve bytes a block: CRC64NVME, then CRC32C, big-endian."""
        raw = b"".join(_PACKED.pack(b.crc64nvme or 0, b.crc32c or 0) for b in self.blocks)
        return base64.b64encode(raw).decode()

    @classmethod
    def unpack(cls, text: str, *, block_bytes: int, size_bytes: int) -> BlockDigests:
        """Read what `packed` wrote; `ValueError` if it is not that."""
        try:
            raw = base64.b64decode(text, validate=True)
        except binascii.Error as error:
            raise ValueError(f"block digests are not base64: {error}") from error
        if len(raw) % _PACKED.size:
            raise ValueError("block digests are truncated")
        blocks = tuple(Digests(crc64, crc32) for crc64, crc32 in _PACKED.iter_unpack(raw))
        return cls(block_bytes=block_bytes, size_bytes=size_bytes, blocks=blocks)


def block_count(size_bytes: int, block_bytes: int) -> int:
    """How many blocks a file of `size_bytes` has; an empty file has none."""
    return -(-size_bytes // block_bytes)


def digest_blocks(body: Buffer, block_bytes: int) -> Iterator[Digests]:
    """The digests of each block of `body`, which starts on a block boundary."""
    view = memoryview(body)
    for start in range(0, view.nbytes, block_bytes):
        yield digest_of(view[start : start + block_bytes])


def blake3_hex(body: Buffer) -> str:
    """`blake3:<hex>` of `body`, the form that manifests and servers state."""
    from blake3 import blake3

    return f"blake3:{blake3(body).hexdigest()}"
