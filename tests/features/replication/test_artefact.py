"""A model on a disk: which files belong to it, their digests, and all that can be wrong with it."""

from __future__ import annotations

import json
import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from mlplatform.core.digest import digest_of
from mlplatform.core.errors import MlplatformError, SourceChanged, UsageError
from mlplatform.core.manifest import Manifest, Requirements
from mlplatform.ports.clock import SystemClock
from mlplatform.ports.progress import SilentProgress
from mlplatform.replication.artefact import (
    FolderSource,
    adopt_object,
    digest_file,
    find_files,
    read_artefact,
)
from mlplatform.replication.transfer import TargetRequest, Transfer

from .world import BLOCK, INLINE, SUBJECT, Watched, memory, noise, patient


def write(root: Path, files: dict[str, bytes | str]) -> Path:
    for path, body in files.items():
        location = root / path
        location.parent.mkdir(parents=True, exist_ok=True)
        location.write_bytes(body if isinstance(body, bytes) else body.encode())
    return root


def read(root: Path, **options: Any) -> tuple[Manifest, FolderSource]:
    return read_artefact(root, SUBJECT, block_bytes=BLOCK, **options)


def paths(root: Path, **options: Any) -> list[str]:
    return [file.path for file in find_files(root, **options)]


# --- digests -------------------------------------------------------------------------------------


def crc_by_bits(body: bytes, polynomial: int, bits: int) -> int:
    """The definition of a reflected CRC, bit by bit: slow, and nobody else's code."""
    ones = (1 << bits) - 1
    crc = ones
    for byte in body:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (polynomial if crc & 1 else 0)
    return crc ^ ones


def crc64nvme(body: bytes) -> int:
    return crc_by_bits(body, 0x9A6C9329AC4BC9B5, 64)


def crc32c(body: bytes) -> int:
    return crc_by_bits(body, 0x82F63B78, 32)


def test_the_independent_crcs_are_right() -> None:
    # The check values of the CRC catalogue.
    assert crc64nvme(b"123456789") == 0xAE8B14860A799888
    assert crc32c(b"123456789") == 0xE3069283


@pytest.mark.parametrize("size", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK, 5 * BLOCK + 7])
def test_digests_are_those_of_the_bytes(tmp_path: Path, size: int) -> None:
    body = noise(size, size)
    manifest, _ = read(write(tmp_path, {"model.bin": body}))
    (entry,) = manifest.files
    assert entry.size_bytes == size
    assert entry.blake3 == blake3(body).hexdigest()
    assert entry.crc64nvme == f"{crc64nvme(body):016x}"
    assert entry.crc32c == f"{crc32c(body):08x}"
    blocks = [body[at : at + BLOCK] for at in range(0, size, BLOCK)]
    assert [(b.crc64nvme, b.crc32c) for b in entry.block_digests(BLOCK).blocks] == [
        (crc64nvme(block), crc32c(block)) for block in blocks
    ]


def test_the_same_bytes_give_the_same_manifest(tmp_path: Path) -> None:
    files: dict[str, bytes | str] = {"b/c.bin": noise(200), "a.json": "{}", "z": b""}
    first, _ = read(write(tmp_path / "here", files))
    second, _ = read(write(tmp_path / "there", dict(reversed(files.items()))))
    for path in files:
        os.utime(tmp_path / "there" / path, (0, 0))
    third, _ = read(tmp_path / "there")
    assert first.encoded == second.encoded == third.encoded
    other, _ = read(write(tmp_path / "there", {"a.json": "{ }"}))
    assert other.digest != first.digest


# --- which files ---------------------------------------------------------------------------------


def test_a_single_file(tmp_path: Path) -> None:
    write(tmp_path, {"model.onnx": b"onnx", "other.bin": b"no part of it"})
    manifest, _ = read(tmp_path / "model.onnx")
    assert [entry.path for entry in manifest.files] == ["model.onnx"]
    assert manifest.requirements.format == "onnx"


def test_ignored_files(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            ".mlplatformignore": "# scratch\n*.tmp\n/logs/\n!keep.tmp\ncache/\n",
            "model.bin": b"1",
            "a.tmp": b"1",
            "keep.tmp": b"1",
            "sub/b.tmp": b"1",
            "logs/x": b"1",
            "sub/logs/y": b"1",
            "sub/cache/deep/z": b"1",
            "sub/.mlplatformignore": b"an ordinary file",
        },
    )
    (tmp_path / "logs" / "link").symlink_to("/")
    os.mkfifo(tmp_path / "sub" / "cache" / "pipe")
    assert paths(tmp_path) == [
        "keep.tmp",
        "model.bin",
        "sub/.mlplatformignore",
        "sub/logs/y",
    ]


@pytest.mark.parametrize(
    ("body", "says"), [(b"\xff\xfe", "not UTF-8"), (b"ok\n!\n", "mlplatformignore")]
)
def test_an_ignore_file_that_is_none(tmp_path: Path, body: bytes, says: str) -> None:
    write(tmp_path, {".mlplatformignore": body, "a": b"1"})
    with pytest.raises(UsageError, match=says):
        find_files(tmp_path)


def make_fifo(root: Path) -> None:
    os.mkfifo(root / "pipe")


def make_socket(root: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(root / "s"))


def make_undecodable(root: Path) -> None:
    (root / os.fsdecode(b"caf\xe9.bin")).write_bytes(b"1")


def make_deep(root: Path) -> None:
    folder = root
    for _ in range(200):
        folder /= "nested"
    folder.mkdir(parents=True)
    (folder / "a").write_bytes(b"1")


ODD: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty folder": (lambda root: None, "nothing to publish"),
    "only an empty folder in it": (lambda root: (root / "sub").mkdir(), "nothing to publish"),
    "only an ignore file": (
        lambda root: write(root, {".mlplatformignore": "x"}),
        "nothing to publish",
    ),
    "everything ignored": (
        lambda root: write(root, {".mlplatformignore": "*", "a": b"1"}),
        "nothing to publish",
    ),
    "fifo": (make_fifo, "neither a file nor a folder"),
    "socket": (make_socket, "neither a file nor a folder"),
    "symlink to a file": (lambda root: (root / "l").symlink_to("/etc/hostname"), "symlink"),
    "symlink to a folder": (lambda root: (root / "l").symlink_to("/etc"), "symlink"),
    "symlink to nothing": (lambda root: (root / "l").symlink_to("gone"), "symlink"),
    "the manifest's name": (lambda root: write(root, {"manifest.json": "{}"}), "manifest's own"),
    "the platform's folder": (
        lambda root: write(root, {".mlplatform/x": "1"}),
        "platform's own",
    ),
    "a line break in a name": (lambda root: write(root, {"a\nb": "1"}), "control character"),
    "a name that is no Unicode": (make_undecodable, "invalid one"),
    "a backslash": (lambda root: write(root, {"a\\b": "1"}), "relative path"),
    "nested too deep": (make_deep, "longer than 700"),
    "a truncated safetensors": (
        lambda root: write(root, {"m.safetensors": b"\x10"}),
        "whole safetensors",
    ),
}


@pytest.mark.parametrize("what", ODD)
def test_what_cannot_be_published(tmp_path: Path, what: str) -> None:
    make, says = ODD[what]
    make(tmp_path)
    with pytest.raises(UsageError, match=says) as raised:
        read(tmp_path)
    assert str(tmp_path) in str(raised.value) or raised.value.hint


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        find_files(tmp_path / "gone")
    with pytest.raises(UsageError):
        find_files(write(tmp_path, {"file": b"1"}) / "file" / "below")
    make_fifo(tmp_path)
    with pytest.raises(UsageError, match="regular"):
        find_files(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(UsageError):
        find_files(tmp_path / "loop")


def test_symlinks_are_followed_when_asked(tmp_path: Path) -> None:
    write(tmp_path / "blobs", {"abc": b"weights", "sub/x": b"1"})
    root = write(tmp_path / "model", {"config.json": "{}"})
    (root / "model.bin").symlink_to("../blobs/abc")
    (root / "folder").symlink_to("../blobs/sub")
    manifest, source = read(root, follow_symlinks=True)
    assert [e.path for e in manifest.files] == ["config.json", "folder/x", "model.bin"]
    assert manifest.files[2].digests == digest_of(b"weights")
    assert source.files["model.bin"].size_bytes == 7


@pytest.mark.parametrize("target", [".", "..", "../../model", "../sub"])
def test_a_symlink_to_a_folder_that_holds_it(tmp_path: Path, target: str) -> None:
    root = write(tmp_path / "model", {"a": b"1", "sub/b": b"1"})
    (root / "sub" / "loop").symlink_to(target)
    with pytest.raises(UsageError, match="holds it"):
        find_files(root, follow_symlinks=True)


def test_a_followed_symlink_to_nothing(tmp_path: Path) -> None:
    (tmp_path / "l").symlink_to("gone")
    with pytest.raises(UsageError, match="leads nowhere"):
        find_files(tmp_path, follow_symlinks=True)


@pytest.mark.parametrize("now", ["gone", "a folder"])
def test_a_file_that_cannot_be_read(tmp_path: Path, now: str) -> None:
    (file,) = find_files(write(tmp_path, {"a": b"1"}))
    file.location.unlink()
    if now == "a folder":
        file.location.mkdir()
    with pytest.raises(UsageError, match="cannot be read"):
        digest_file(file)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["model.onnx", "config.json"], "onnx"),
        (["a.safetensors.bak", "model.gguf"], "gguf"),
        (["a.onnx", "b.onnx"], "onnx"),
        (["a.onnx", "b.gguf"], None),  # unknown is better than a guess
        (["config.json"], None),
        (["MODEL.ONNX"], None),
    ],
)
def test_format(tmp_path: Path, files: list[str], expected: str | None) -> None:
    manifest, _ = read(write(tmp_path, dict.fromkeys(files, b"1")))
    assert manifest.requirements.format == expected
    stated, _ = read(tmp_path, requirements=Requirements(format="mine", cuda="12.4"))
    assert stated.requirements == Requirements(format="mine", cuda="12.4")


@pytest.mark.parametrize(
    ("path", "golden"), [("golden.ndjson", "golden.ndjson"), ("sub/golden.ndjson", None)]
)
def test_golden_requests(tmp_path: Path, path: str, golden: str | None) -> None:
    manifest, _ = read(write(tmp_path, {path: "{}\n", "model.bin": b"1"}))
    assert manifest.golden == golden


# --- files that change ---------------------------------------------------------------------------


def grow(file: Path) -> None:
    with file.open("ab") as stream:
        stream.write(b"more")


def shrink(file: Path) -> None:
    os.truncate(file, 3)


def rewrite(file: Path) -> None:
    file.write_bytes(noise(file.stat().st_size, 99))
    os.utime(file, ns=(1, file.stat().st_mtime_ns + 1))


def replace(file: Path) -> None:
    """As an atomic save does, with size and time of the old one."""
    status = file.stat()
    other = file.with_name("other")
    other.write_bytes(noise(status.st_size, 99))
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.rename(file)


CHANGES = {"grows": grow, "shrinks": shrink, "is rewritten": rewrite, "is replaced": replace}


@pytest.mark.parametrize("how", [how for how in CHANGES if how != "is replaced"])
def test_a_file_that_changes_while_it_is_digested(tmp_path: Path, how: str) -> None:
    write(tmp_path, {"model.bin": noise(5 * BLOCK)})
    seen = 0

    def change(count: int) -> None:
        nonlocal seen
        seen += count
        if seen == 2 * BLOCK:
            CHANGES[how](tmp_path / "model.bin")

    with pytest.raises(SourceChanged, match=r"model\.bin") as raised:
        read(tmp_path, on_bytes=change)
    assert raised.value.hint


@pytest.mark.parametrize("how", CHANGES)
@pytest.mark.parametrize("size", [40, 5 * BLOCK])
def test_a_file_that_changes_before_it_is_sent(tmp_path: Path, how: str, size: int) -> None:
    write(tmp_path, {"model.bin": noise(size), "z.bin": b"1"})
    manifest, source = read(tmp_path)
    CHANGES[how](tmp_path / "model.bin")
    error = send(manifest, source)
    assert isinstance(error, SourceChanged), error


def test_a_file_that_changes_without_a_trace_is_still_not_published(tmp_path: Path) -> None:
    file = write(tmp_path, {"model.bin": noise(5 * BLOCK)}) / "model.bin"
    manifest, source = read(tmp_path)
    status = file.stat()
    with file.open("r+b") as stream:
        stream.seek(2 * BLOCK + 1)
        stream.write(b"?")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    error = send(manifest, source)
    assert error is not None
    assert "model.bin bytes 128-192" in str(error)


def test_a_pipe_in_the_place_of_a_file_blocks_nobody(tmp_path: Path) -> None:
    write(tmp_path, {"model.bin": noise(100)})
    manifest, source = read(tmp_path)
    (file,) = find_files(tmp_path)
    (tmp_path / "model.bin").unlink()
    os.mkfifo(tmp_path / "model.bin")
    assert isinstance(send(manifest, source), MlplatformError)
    with pytest.raises(MlplatformError):
        digest_file(file)


def send(manifest: Manifest, source: FolderSource) -> MlplatformError | None:
    report = Transfer(
        manifest, source, [TargetRequest("eu", memory())],
        clock=SystemClock(), progress=SilentProgress(), settings=INLINE,
    ).run()  # fmt: skip
    return report.targets["eu"].error


def test_a_folder_is_sent_as_it_was_digested(tmp_path: Path) -> None:
    files = {"a": b"", "b/large": noise(9 * BLOCK + 1), "c": noise(BLOCK)}
    manifest, source = read(write(tmp_path, dict(files)))
    assert send(manifest, source) is None


# --- safetensors ---------------------------------------------------------------------------------


def tensors(
    header: object, data: bytes = b"", *, length: int | None = None, pad: bytes = b""
) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text += pad
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(start: int, stop: int, shape: object = None, dtype: object = "U8") -> dict[str, object]:
    return {
        "dtype": dtype,
        "shape": [stop - start] if shape is None else shape,
        "data_offsets": [start, stop],
    }


def test_every_tensor_has_its_place_and_digest(tmp_path: Path) -> None:
    data = noise(300)
    header = {
        "__metadata__": {"format": "pt"},
        "late": tensor(200, 300),
        "empty": tensor(200, 200, [0, 7], "F32"),
        "whole": tensor(0, 8, [2, 1], "F32"),
        "wide": tensor(8, 200),  # over several blocks
        "scalar": tensor(300, 300, [0]),
    }
    body = tensors(header, data, pad=b"   ")
    manifest, _ = read(write(tmp_path, {"m.safetensors": body}))
    (entry,) = manifest.files
    base = len(body) - 300
    assert [(t.name, t.start - base, t.stop - base) for t in entry.tensors] == [
        ("whole", 0, 8),
        ("wide", 8, 200),
        ("empty", 200, 200),
        ("late", 200, 300),
        ("scalar", 300, 300),
    ]
    for found in entry.tensors:
        assert found.blake3 == blake3(body[found.start : found.stop]).hexdigest()
    assert entry.tensors[0].dtype == "F32"
    assert entry.tensors[0].shape == (2, 1)
    assert Manifest.parse(manifest.encoded, where="here") == manifest


def test_no_tensors_at_all(tmp_path: Path) -> None:
    manifest, _ = read(write(tmp_path, {"m.safetensors": tensors({})}))
    assert manifest.files[0].tensors == ()


GOOD = tensors({"a": tensor(0, 100), "b": tensor(100, 200)}, noise(200))
BAD_TENSORS: dict[str, bytes] = {
    "empty": b"",
    "shorter than its length": b"\0\0\0",
    "a length and nothing more": struct.pack("<Q", 8),
    "cut in the header": GOOD[:20],
    "cut in the data": GOOD[:-1],
    "more than the tensors": GOOD + b"x",
    "a header longer than the file": tensors({}, length=2**40),
    "a header of 2**63 bytes": tensors({}, length=2**63),
    "a header that is not JSON": tensors(b"{nope"),
    "a header that is not UTF-8": tensors(b'{"\xff": 1}'),
    "a header that is a list": tensors([]),
    "a header nested without end": tensors(b"[" * 100_000),
    "a tensor that is a number": tensors({"a": 1}),
    "a tensor without offsets": tensors({"a": {"dtype": "U8", "shape": [1]}}),
    "three offsets": tensors({"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1, 2]}}),
    "overlapping": tensors({"a": tensor(0, 100), "b": tensor(50, 150)}, noise(150)),
    "a gap": tensors({"a": tensor(0, 100), "b": tensor(101, 200)}, noise(200)),
    "not from the start": tensors({"a": tensor(1, 100)}, noise(100)),
    "the same bytes twice": tensors({"a": tensor(0, 100), "b": tensor(0, 100)}, noise(100)),
    "backwards": tensors({"a": tensor(100, 0, [0])}, noise(100)),
    "before the data": tensors({"a": tensor(-8, 100)}, noise(100)),
    "offsets as text": tensors(
        {"a": {"dtype": "U8", "shape": [1], "data_offsets": ["0", "1"]}}, b"1"
    ),
    "offsets that are no whole numbers": tensors(
        {"a": {"dtype": "U8", "shape": [1], "data_offsets": [0.0, 1.0]}}, b"1"
    ),
    "a shape that does not fit": tensors({"a": tensor(0, 100, [5, 5], "F32")}, noise(104)),
    "a dtype that does not fit": tensors({"a": tensor(0, 100, [100], "F16")}, noise(100)),
    "a negative shape": tensors({"a": tensor(0, 4, [-2, -2])}, noise(4)),
    "a shape of text": tensors({"a": tensor(0, 4, "four")}, noise(4)),
    "a shape of truths": tensors({"a": tensor(0, 1, [True])}, noise(1)),
    "a dtype that is a number": tensors({"a": tensor(0, 4, [4], 8)}, noise(4)),
    "a name that is half a character": tensors(b'{"\\ud800": %s}' % (
        json.dumps(tensor(0, 4)).encode()), noise(4)),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD_TENSORS)
def test_a_safetensors_file_that_is_none(tmp_path: Path, what: str) -> None:
    write(tmp_path, {"model.safetensors": BAD_TENSORS[what]})
    with pytest.raises(UsageError, match=r"model\.safetensors.*whole safetensors") as raised:
        read(tmp_path)
    assert raised.value.hint


def test_a_dtype_of_tomorrow_is_taken_at_its_word(tmp_path: Path) -> None:
    write(tmp_path, {"m.safetensors": tensors({"a": tensor(0, 3, [16], "F1_5")}, b"123")})
    assert read(tmp_path)[0].files[0].tensors[0].dtype == "F1_5"


# --- objects adopted in place --------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 10, 5 * BLOCK + 3])
def test_an_adopted_object_is_read_once(size: int) -> None:
    body, key = noise(size), "models/resnet50-v1.2.0.pth"
    store = Watched(memory())
    stat = store.put(key, body)
    entry = adopt_object(store, stat, retry=patient(), block_bytes=BLOCK)
    assert (entry.path, entry.key) == ("resnet50-v1.2.0.pth", key)
    assert entry.blake3 == blake3(body).hexdigest()
    assert entry.digests == digest_of(body)
    read_bytes = sum(c.span.size_bytes for c in store.called("get") if c.span)
    assert read_bytes == size


def test_an_adopted_object_that_is_overwritten_meanwhile() -> None:
    store = memory()
    stat = store.put("models/a-v1.0.0.pth", noise(200))
    store.put("models/a-v1.0.0.pth", noise(200, 1))
    with pytest.raises(MlplatformError, match="tag"):
        adopt_object(store, stat, retry=patient(), block_bytes=BLOCK)
