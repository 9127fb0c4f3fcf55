"""A model small enough to simulate: a few files of a few blocks, in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from random import Random

from blake3 import blake3

from mlplatform.core.digest import BlockDigests, digest_blocks
from mlplatform.core.manifest import FileEntry, Manifest, Requirements
from mlplatform.core.placement import ModelVersion
from mlplatform.replication.parts import PartPlan

BLOCK_BYTES = 64
SUBJECT = ModelVersion("m", "v1")


@dataclass(frozen=True)
class Contents:
    """What somebody publishes. Also a `Source`: parts are read from here."""

    name: str
    files: Mapping[str, bytes]

    @classmethod
    def make(cls, name: str, random: Random) -> Contents:
        files = {}
        for path in random.sample(("a.bin", "b/c.bin", "d.bin"), random.choice((1, 1, 2, 3))):
            blocks = random.choice((0, 1, 1, 2, 2, 3, 4, 6))
            odd = random.choice((0, 0, 17)) if blocks else 0
            files[path] = random.randbytes(max(blocks * BLOCK_BYTES - odd, 0))
        return cls(name, files)

    def rival(self, random: Random) -> Contents:
        """Other bytes of the same sizes, under the same paths."""
        files = {path: random.randbytes(len(body)) for path, body in self.files.items()}
        files["only-the-rival-s.bin"] = b"rival"
        return Contents("rival", files)

    @cached_property
    def manifest(self) -> Manifest:
        return Manifest.build(
            SUBJECT,
            [_entry(path, body) for path, body in self.files.items()],
            block_bytes=BLOCK_BYTES,
            requirements=Requirements(),
            golden=None,
        )

    @cached_property
    def objects(self) -> Mapping[str, bytes]:
        """By key, without the manifest."""
        return {self.manifest.key_of(e): self.files[e.path] for e in self.manifest.files}

    def read(self, part: PartPlan, buffer: memoryview) -> None:
        buffer[:] = self.files[part.entry.path][part.span.start : part.span.stop]


def _entry(path: str, body: bytes) -> FileEntry:
    blocks = BlockDigests(BLOCK_BYTES, len(body), tuple(digest_blocks(body, BLOCK_BYTES)))
    whole = blocks.whole()
    return FileEntry(
        path=path,
        size_bytes=len(body),
        blake3=blake3(body).hexdigest(),
        crc64nvme=f"{whole.crc64nvme or 0:016x}",
        crc32c=f"{whole.crc32c or 0:08x}",
        blocks=blocks.packed() if len(blocks.blocks) > 1 else "",
    )
