"""How a file is cut, and that the digests of parts follow from those of blocks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlplatform.core.digest import BLOCK_BYTES, Evidence, digest_of
from mlplatform.core.errors import Unsupported
from mlplatform.ports.store import StoreFeatures
from mlplatform.replication.parts import part_bytes_for, parts_of

from .world import Model, noise

MIB = 1024**2
GIB = 1024**3
ANY = StoreFeatures(evidence=Evidence.STORE_WHOLE)
S3 = StoreFeatures(evidence=Evidence.STORE_WHOLE, part_bytes_min=5 * MIB)
AZURE = StoreFeatures(evidence=Evidence.STORE_PARTS, parts_max=50_000, part_bytes_max=4000 * MIB)
FEW = StoreFeatures(evidence=Evidence.STORE_WHOLE, parts_max=100)
COARSE = StoreFeatures(evidence=Evidence.STORE_WHOLE, part_bytes_min=40 * MIB)


@pytest.mark.parametrize(
    ("size", "stores", "expected"),
    [
        (0, [S3], 16 * MIB),
        (1, [S3], 16 * MIB),
        (16 * MIB, [S3], 16 * MIB),
        (10_000 * 16 * MIB, [S3], 16 * MIB),
        (10_000 * 16 * MIB + 1, [S3], 32 * MIB),
        (400 * 10**9, [S3], 48 * MIB),
        (400 * 10**9, [AZURE], 48 * MIB),  # as fine as every cloud can take, wherever it goes
        (400 * 10**9, [S3, AZURE], 48 * MIB),
        (400 * 10**9, [], 48 * MIB),
        (5 * 1024 * GIB, [S3], 528 * MIB),
        (GIB, [FEW], 16 * MIB),
        (2 * GIB, [FEW], 32 * MIB),
        (2 * GIB, [S3, FEW], 32 * MIB),
        (GIB, [COARSE], 48 * MIB),  # a whole number of blocks
    ],
)
def test_part_size(size: int, stores: list[StoreFeatures], expected: int) -> None:
    assert part_bytes_for(size, BLOCK_BYTES, stores) == expected


@pytest.mark.parametrize(
    ("size", "features"),
    [
        (GIB, StoreFeatures(evidence=Evidence.READ_BACK, parts_max=2, part_bytes_max=16 * MIB)),
        (GIB, StoreFeatures(evidence=Evidence.READ_BACK, part_bytes_max=MIB)),
        (15 * MIB, StoreFeatures(evidence=Evidence.READ_BACK, put_bytes_max=MIB)),
    ],
    ids=["too few parts", "parts smaller than a block", "no room for a whole"],
)
def test_what_a_store_cannot_hold(size: int, features: StoreFeatures) -> None:
    with pytest.raises(Unsupported):
        part_bytes_for(size, BLOCK_BYTES, [features])


@given(
    size=st.integers(0, 20 * 64 + 1),
    blocks_per_part=st.integers(1, 7),
    seed=st.integers(0, 3),
)
def test_parts_cover_the_file_and_their_digests_are_those_of_their_bytes(
    size: int, blocks_per_part: int, seed: int
) -> None:
    body = noise(size, seed)
    model = Model({"a.bin": body})
    entry = model.manifest.files[0]
    parts = list(parts_of(model.manifest, entry, blocks_per_part * 64))
    assert b"".join(body[part.span.start : part.span.stop] for part in parts) == body
    assert [part.index for part in parts] == list(range(len(parts)))
    assert all(part.span.size_bytes == blocks_per_part * 64 for part in parts[:-1])
    for part in parts:
        assert part.digests == digest_of(body[part.span.start : part.span.stop])
        assert part.whole is (len(parts) == 1)
        assert part.key == model.key("a.bin")


def test_an_empty_file_is_one_empty_part() -> None:
    model = Model({"empty": b""})
    (part,) = parts_of(model.manifest, model.manifest.files[0], 64)
    assert part.whole
    assert part.span.size_bytes == 0
    assert part.digests == digest_of(b"")
