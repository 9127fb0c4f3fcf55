"""What a manifest is, and all that is not one."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlplatform.core.digest import BLOCK_BYTES, digest_of
from mlplatform.core.errors import IntegrityError, UsageError
from mlplatform.core.manifest import (
    FileEntry,
    Manifest,
    Receipt,
    Requirements,
    check_path,
)
from mlplatform.core.placement import ModelVersion
from mlplatform.core.plan import canonical

from .test_scale import same_everywhere
from .world import BLOCK, NOW, SUBJECT, entry_of, memory, mixed, noise, stored


def build(*entries: FileEntry, **changes: Any) -> Manifest:
    arguments: dict[str, Any] = {
        "block_bytes": BLOCK,
        "requirements": Requirements(),
        "golden": None,
    }
    return Manifest.build(SUBJECT, entries, **{**arguments, **changes})


def edited(change: Callable[[dict[str, Any]], object], manifest: Manifest | None = None) -> bytes:
    """The manifest with something else in it, in the one byte form."""
    value = json.loads((manifest or mixed().manifest).encoded)
    change(value)
    return canonical(value)


def parse(body: bytes) -> Manifest:
    return Manifest.parse(body, where="eu: manifest.json", subject=SUBJECT)


# --- round trip ----------------------------------------------------------------------------------

names = st.text("abcXYZ 0189._-äß漢🙂", min_size=1, max_size=12).filter(
    lambda name: not name.endswith(".") and name.strip(".")
)


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(names, st.binary(max_size=5 * BLOCK), min_size=1, max_size=6),
    st.sampled_from([1, 7, BLOCK, BLOCK_BYTES]),
)
def test_what_is_written_is_read(bodies: dict[str, bytes], block: int) -> None:
    entries = [entry_of(path, body, block=block) for path, body in bodies.items()]
    manifest = build(*entries, block_bytes=block)
    again = parse(manifest.encoded)
    assert again == manifest
    assert again.encoded == manifest.encoded
    assert again.digest == manifest.digest
    assert again.size_bytes == sum(map(len, bodies.values()))
    for entry in again.files:
        body = bodies[entry.path]
        assert entry.digests == digest_of(body)
        blocks = [digest_of(body[at : at + block]) for at in range(0, len(body), block)]
        assert list(entry.block_digests(block).blocks) == blocks


def test_it_is_the_same_whatever_the_order_of_its_files() -> None:
    entries = [entry_of(name, noise(10, n)) for n, name in enumerate("cab")]
    assert build(*entries).encoded == build(*reversed(entries)).encoded


def test_400_gb_take_290_kb_of_digests() -> None:
    manifest, _ = same_everywhere(400 * 10**9)
    raw = base64.b64decode(manifest.files[0].blocks)
    assert len(raw) == 12 * 23_842
    assert 280_000 < len(raw) < 290_000
    assert len(manifest.encoded) < 390_000
    assert parse_huge(manifest) == manifest


def parse_huge(manifest: Manifest) -> Manifest:
    return Manifest.parse(manifest.encoded, where="here", subject=ModelVersion("huge", "v1"))


# --- what is refused -----------------------------------------------------------------------------

GOOD = mixed().manifest.encoded
LARGE = next(i for i, e in enumerate(mixed().manifest.files) if e.path == "weights/large.bin")


def blocks_of(value: dict[str, Any]) -> bytes:
    return base64.b64decode(value["files"][LARGE]["blocks"])


def set_blocks(value: dict[str, Any], raw: bytes) -> None:
    value["files"][LARGE]["blocks"] = base64.b64encode(raw).decode()


def flip_block(value: dict[str, Any]) -> None:
    raw = bytearray(blocks_of(value))
    raw[5] ^= 1
    set_blocks(value, bytes(raw))


def swap_blocks(value: dict[str, Any]) -> None:
    raw = blocks_of(value)
    set_blocks(value, raw[12:24] + raw[:12] + raw[24:])


BROKEN: dict[str, bytes] = {
    "empty": b"",
    "half of it": GOOD[: len(GOOD) // 2],
    "one byte short": GOOD[:-1],
    "one byte more": GOOD + b" ",
    "not JSON": b"<html>503</html>",
    "not UTF-8": b"\xff\xfe\x00",
    "UTF-16": GOOD.decode().encode("utf-16"),
    "with a byte order mark": b"\xef\xbb\xbf" + GOOD,
    "a list": b"[]\n",
    "null": b"null\n",
    "nested without end": b"[" * 100_000,
    "a number of a million digits": b'{"block_bytes": ' + b"9" * 10_000 + b"}",
    "pretty-printed": json.dumps(json.loads(GOOD), indent=2).encode(),
    "keys in another order": json.dumps(json.loads(GOOD)).encode(),
    "a key twice": GOOD.replace(b'"golden":null', b'"golden":null,"golden":null'),
    "a field more": edited(lambda v: v.update(note="hello")),
    "a field less": edited(lambda v: v.pop("files")),
    "another schema": edited(lambda v: v.update(schema="mlplatform/manifest/2")),
    "of another model": edited(lambda v: v.update(model="vgg")),
    "of another version": edited(lambda v: v.update(version="v9")),
    "a version that is no name": edited(lambda v: v.update(version="../v1")),
    "no files": edited(lambda v: v.update(files=[])),
    "files not sorted": edited(lambda v: v["files"].reverse()),
    "a file twice": edited(lambda v: v["files"].insert(0, v["files"][0])),
    "golden that is not there": edited(lambda v: v.update(golden="golden.ndjson")),
    "blocks of no bytes": edited(lambda v: v.update(block_bytes=0)),
    "blocks of another size": edited(lambda v: v.update(block_bytes=32)),
    "blocks of a size that no memory holds": edited(lambda v: v.update(block_bytes=2**62)),
    "a size below zero": edited(lambda v: v["files"][0].update(size_bytes=-1)),
    "a size above all": edited(lambda v: v["files"][0].update(size_bytes=10**30)),
    "a size of one byte more": edited(lambda v: v["files"][LARGE].update(size_bytes=454)),
    "a size as text": edited(lambda v: v["files"][0].update(size_bytes="30")),
    "a size with a point": edited(lambda v: v["files"][0].update(size_bytes=30.0)),
    "a digest in capitals": edited(lambda v: v["files"][0].update(crc32c="ABCDEF01")),
    "a digest too short": edited(lambda v: v["files"][0].update(blake3="ab")),
    "another whole digest": edited(lambda v: v["files"][LARGE].update(crc32c="00000000")),
    "one bit of one block": edited(flip_block),
    "two blocks exchanged": edited(swap_blocks),
    "a block less": edited(lambda v: set_blocks(v, blocks_of(v)[:-12])),
    "half a block": edited(lambda v: set_blocks(v, blocks_of(v)[:-6])),
    "blocks that are not base64": edited(lambda v: v["files"][LARGE].update(blocks="!!")),
    "no blocks": edited(lambda v: v["files"][LARGE].update(blocks="")),
    "blocks where one is enough": edited(lambda v: v["files"][0].update(blocks="AAAAAAAAAAAAAAAA")),
    "tensors beyond the end": edited(
        lambda v: v["files"][0].update(
            tensors=[
                {"name": "w", "dtype": "F32", "shape": [], "start": 0, "stop": 31,
                 "blake3": "0" * 64}
            ]
        )
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_no_manifest_is_refused_with_the_place(what: str) -> None:
    with pytest.raises(IntegrityError, match=r"eu: manifest\.json"):
        parse(BROKEN[what])


@pytest.mark.parametrize(
    "path",
    [
        "../up", "a/../../up", "/etc/passwd", "a//b", "a/./b", "a/", "", ".", "..", "a\\b", "C:\\a",
        "manifest.json", ".mlplatform/x", "a\nb", "a\x00b", "a\x7fb", "a\x85b", "a\ud800b",
        "x" * 701, "ä" * 351, "ends.",
    ],
)  # fmt: skip
def test_paths_that_no_file_may_have(path: str) -> None:
    with pytest.raises(UsageError, match=r"cannot be published"):
        check_path(path)
    if "\ud800" in path:
        return  # no JSON in UTF-8 can hold it
    with pytest.raises(IntegrityError):
        parse(edited(lambda v: v["files"][0].update(path=path), single("a.bin")))
    if path not in {"", "manifest.json"}:  # no key of its own; another folder than the version's
        with pytest.raises(IntegrityError):
            parse(edited(lambda v: v["files"][0].update(key=path), single("a.bin")))


@pytest.mark.parametrize(
    "path",
    [
        "a", "a b", "-rf", "~", "$HOME", "a%2e%2e", "naïve/模型.bin", "🙂", "...a", ".hidden",
        "a/manifest.json", "A" * 700, "con", "x.mlplatform/y", "sub/.mlplatform/y", "a:b", "a?b#c",
    ],
)  # fmt: skip
def test_paths_that_are_only_odd(path: str) -> None:
    manifest = build(entry_of(path, b"1"))
    assert parse(manifest.encoded).files[0].path == path


def single(path: str) -> Manifest:
    return build(entry_of(path, noise(10)))


@pytest.mark.parametrize(
    ("why", "entries"),
    [
        ("two files at one key", [("a", "models/x.pth"), ("b", "models/x.pth")]),
        ("at another's own place", [("a", None), ("b", f"{SUBJECT.prefix}a")]),
        ("at the manifest's place", [("a", SUBJECT.manifest_key)]),
        ("at another manifest's place", [("a", "models/vgg/v1/manifest.json")]),
        ("among the platform's own", [("a", ".mlplatform/receipts/x.json")]),
        ("a file that is a folder too", [("a", None), ("a/b/c", None)]),
        ("the same, with names between", [("a", None), ("a-b", None), ("a/b", None)]),
    ],
)
def test_files_that_cannot_be_together(why: str, entries: list[tuple[str, str | None]]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        build(*(entry_of(path, noise(10), key=key) for path, key in entries))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_byte_changed_anywhere_is_refused_or_changes_the_digest(data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(GOOD) - 1))
    other = data.draw(st.integers(1, 255))
    body = bytearray(GOOD)
    body[at] ^= other
    try:
        manifest = parse(bytes(body))
    except IntegrityError:
        return
    assert manifest.digest != mixed().manifest.digest


# --- receipts ------------------------------------------------------------------------------------


def test_receipts_round_trip() -> None:
    model, store = mixed(), memory()
    receipt = stored(model, "eu", store)
    assert Receipt.parse(receipt.encoded, where="here") == receipt
    assert set(receipt.by_path) == set(model.bodies)
    assert receipt.stored_at == NOW


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"{}", b"[" * 100_000, b"\xff"])
def test_what_is_no_receipt(body: bytes) -> None:
    with pytest.raises(IntegrityError, match="here"):
        Receipt.parse(body, where="here")
