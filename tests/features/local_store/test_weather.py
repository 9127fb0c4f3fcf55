"""Full, read-only and broken file systems, and folders that hold what no store put there."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mlplatform.adapters import local
from mlplatform.adapters.local import LocalStore, open_store
from mlplatform.core.digest import Digests, digest_of
from mlplatform.core.errors import (
    ContainerMissing,
    Denied,
    DigestMismatch,
    MlplatformError,
    NotFound,
    StoreError,
    StoreFull,
    Unavailable,
    Unsupported,
    UsageError,
)
from mlplatform.core.store_url import StoreURL
from mlplatform.ports.store import ABSENT, ALWAYS, Span, exists, read_bytes

NOBODY = 65534


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path)


def keys(store: LocalStore, prefix: str = "") -> list[str]:
    return [stat.key for stat in store.list(prefix)]


class FailingOs:
    """The module `os`, whose call `name` fails with `code`."""

    def __init__(self, name: str, code: int) -> None:
        self._name = name
        self._code = code

    def __getattr__(self, name: str) -> Any:
        return self._fail if name == self._name else getattr(os, name)

    def _fail(self, *args: Any, **options: Any) -> Any:
        raise OSError(self._code, os.strerror(self._code))


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (errno.ENOSPC, StoreFull),
        (errno.EDQUOT, StoreFull),
        (errno.EFBIG, StoreFull),
        (errno.EROFS, Denied),
        (errno.EACCES, Denied),
        (errno.EIO, Unavailable),
        (errno.ESTALE, Unavailable),
        (errno.EMFILE, Unavailable),
        (errno.EINVAL, StoreError),
    ],
    ids=lambda value: errno.errorcode.get(value) if isinstance(value, int) else value.__name__,
)
def test_a_write_that_fails_says_why_and_leaves_nothing(
    store: LocalStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    code: int,
    expected: type[MlplatformError],
) -> None:
    before = store.put("k", b"before")
    with monkeypatch.context() as patch:
        patch.setattr(local, "os", FailingOs("pwrite", code))
        with pytest.raises(expected, match="/k: ") as raised:
            store.put("k", b"after")
        with pytest.raises(expected):
            store.put("fresh", b"after", when=ABSENT)
    assert isinstance(raised.value.__cause__, OSError)
    assert raised.value.retryable is (expected is Unavailable)
    assert list((tmp_path / ".mlplatform/tmp").iterdir()) == []
    assert keys(store) == ["k"]
    assert store.stat("k") == before


@pytest.mark.parametrize("verb", ["put", "get", "delete", "list"])
def test_denied_names_the_right(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    store.put("k", b"1")
    call = {"put": "pwrite", "get": "open", "delete": "unlink", "list": "scandir"}[verb]
    monkeypatch.setattr(local, "os", FailingOs(call, errno.EACCES))
    calls: dict[str, Callable[[], object]] = {
        "put": lambda: store.put("k", b"2"),
        "get": lambda: store.get("k"),
        "delete": lambda: store.delete("k"),
        "list": lambda: keys(store),
    }
    with pytest.raises(Denied) as raised:
        calls[verb]()
    assert raised.value.right == verb
    assert raised.value.exit_code == 4
    assert raised.value.hint


def test_a_part_that_does_not_fit_leaves_the_upload_to_go_on_with(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = b"x" * 3000
    upload = store.begin("k", size_bytes=3000, part_bytes=1000)
    upload.part(0, body[:1000], digests=digest_of(body[:1000]))
    with monkeypatch.context() as patch:
        patch.setattr(local, "os", FailingOs("pwrite", errno.ENOSPC))
        with pytest.raises(StoreFull):
            upload.part(1, body[1000:2000], digests=digest_of(body[1000:2000]))
    assert [part.index for part in upload.parts()] == [0]
    upload.part(1, body[1000:2000], digests=digest_of(body[1000:2000]))
    upload.part(2, body[2000:], digests=digest_of(body[2000:]))
    upload.complete(upload.parts(), digests=digest_of(body), when=ABSENT)
    assert read_bytes(store, "k")[0] == body


def test_an_upload_that_cannot_fit_is_refused_before_it_begins(
    store: LocalStore, tmp_path: Path
) -> None:
    with pytest.raises(StoreFull, match="do not fit"):
        store.begin("k", size_bytes=1 << 48, part_bytes=1 << 32)
    assert not (tmp_path / ".mlplatform").exists()


def test_an_upload_that_cannot_begin_leaves_nothing(
    store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "os", FailingOs("ftruncate", errno.EFBIG))
    with pytest.raises(StoreFull):
        store.begin("k", size_bytes=1000, part_bytes=1000)
    assert list((tmp_path / ".mlplatform/uploads").iterdir()) == []


def test_a_real_limit_of_the_system(tmp_path: Path) -> None:
    """The kernel's own refusal in the middle of a write, in a process that may write 1 MiB."""
    program = (
        "import sys\n"
        "from mlplatform.adapters.local import LocalStore\n"
        "from mlplatform.core.errors import StoreFull\n"
        "store = LocalStore(sys.argv[1])\n"
        "store.put('small', b'x' * 1000)\n"
        "try:\n"
        "    store.put('large', b'x' * 3_000_000)\n"
        "except StoreFull as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20)),
        capture_output=True,
        text=True,
        check=True,
    )
    assert "large: File too large" in done.stdout
    assert keys(LocalStore(tmp_path)) == ["small"]
    assert list((tmp_path / ".mlplatform/tmp").iterdir()) == []


@contextmanager
def unprivileged() -> Iterator[Path]:
    """A folder of an ordinary user's, as that user: root may do anything."""
    folder = Path(tempfile.mkdtemp())
    mine = os.geteuid()
    if mine == 0:
        os.chown(folder, NOBODY, -1)
        os.seteuid(NOBODY)
    try:
        yield folder
    finally:
        os.seteuid(mine)
        for path in (folder, *folder.rglob("*")):
            if path.is_dir():
                path.chmod(0o755)
        shutil.rmtree(folder)


def test_a_read_only_folder() -> None:
    with unprivileged() as folder:
        store = LocalStore(folder / "store")
        store.put("a/k", b"1")
        for path in (folder / "store/.mlplatform/tmp", folder / "store/a"):
            path.chmod(0o555)
        with pytest.raises(Denied, match="no right to put") as raised:
            store.put("a/k", b"2")
        assert raised.value.right == "put"
        with pytest.raises(Denied, match="no right to delete"):
            store.delete("a/k")
        assert read_bytes(store, "a/k")[0] == b"1"
        assert keys(store) == ["a/k"]


def test_unreadable_is_not_absent() -> None:
    with unprivileged() as folder:
        store = LocalStore(folder / "store")
        store.put("a/k", b"1")
        (folder / "store/a/k").chmod(0)
        with pytest.raises(Denied, match="no right to get"):
            store.get("a/k")
        (folder / "store/a").chmod(0)
        with pytest.raises(Denied, match="no right to get"):
            store.stat("a/k")
        with pytest.raises(Denied, match="no right to list"):
            keys(store)
        (folder / "store").chmod(0)
        with pytest.raises(Denied):
            store.stat("a/k")
        with pytest.raises(Denied):
            keys(store)


def test_the_first_write_makes_the_folder_if_its_parent_is_there(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    assert keys(store) == []
    assert list(store.uploads("")) == []
    assert not exists(store, "k")
    store.delete("k")
    assert not (tmp_path / "store").exists()
    store.put("k", b"1")
    assert keys(store) == ["k"]


def test_an_unmounted_disk_is_not_filled_below(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "mnt/store")
    for call in (
        lambda: store.put("k", b"1"),
        lambda: store.begin("k", size_bytes=1, part_bytes=1),
        lambda: store.stat("k"),
        lambda: keys(store),
    ):
        with pytest.raises(ContainerMissing) as raised:
            call()
        assert "is the disk mounted" in str(raised.value.hint)
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "store").write_bytes(b"")
    store = LocalStore(tmp_path / "store")
    with pytest.raises(ContainerMissing, match="not a folder"):
        store.put("k", b"1")
    with pytest.raises(ContainerMissing, match="not a folder"):
        store.stat("k")


@pytest.mark.parametrize(
    "text",
    ["file://relative/path", "file:///", "file:///..", "file:///a?fsync=no", "file://host/srv"],
)
def test_urls_that_name_no_folder(text: str) -> None:
    with pytest.raises(UsageError):
        open_store(StoreURL.parse(text))


def test_a_url_names_a_folder(tmp_path: Path) -> None:
    store = open_store(StoreURL.parse(f"file://{tmp_path}/a%20b/"))
    assert store.url == f"file://{tmp_path}/a b"


def test_a_file_cannot_be_a_folder(store: LocalStore) -> None:
    store.put("a/b", b"1")
    with pytest.raises(Unsupported, match="a file cannot be a folder"):
        store.put("a/b/c", b"2")
    with pytest.raises(Unsupported, match="a file cannot be a folder"):
        store.put("a", b"2")
    with pytest.raises(Unsupported, match="a file cannot be a folder"):
        store.put("a", b"2", when=ABSENT)
    with pytest.raises(NotFound):
        store.stat("a/b/c")
    assert keys(store) == ["a/b"]


def test_a_name_that_is_too_long_for_a_file(store: LocalStore) -> None:
    with pytest.raises(UsageError, match="cannot be a file's name"):
        store.put("x" * 300, b"1")


def test_what_the_store_keeps_for_itself_is_no_object(store: LocalStore) -> None:
    store.put(".mlplatform/journal/1", b"visible")
    store.begin("k", size_bytes=1, part_bytes=1)
    assert keys(store) == [".mlplatform/journal/1"]
    assert keys(store, ".mlplatform/") == [".mlplatform/journal/1"]
    for prefix in (".mlplatform/uploads/", ".mlplatform/tmp/", ".mlplatform/locks/"):
        assert keys(store, prefix) == []
        with pytest.raises(UsageError, match="own files"):
            store.put(f"{prefix}k", b"1")
        with pytest.raises(UsageError, match="own files"):
            store.delete(f"{prefix}k")


@pytest.mark.parametrize("prefix", ["../", "/", "a//", "./", "a/../", "\0/"])
def test_a_prefix_cannot_lead_out(tmp_path: Path, prefix: str) -> None:
    (tmp_path / "secret").write_bytes(b"")
    store = LocalStore(tmp_path / "store")
    store.put("a/k", b"1")
    assert keys(store, prefix) == []


def test_a_link_that_leads_out_is_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "k").write_bytes(b"secret")
    store = LocalStore(tmp_path / "store")
    store.put("models/k", b"1")
    (tmp_path / "store/models/folder").symlink_to(outside)
    (tmp_path / "store/models/file").symlink_to("../../outside/k")
    message = "leads out of the store's folder"
    for key in ("models/folder/k", "models/file"):
        with pytest.raises(Denied, match=message):
            store.stat(key)
        with pytest.raises(Denied, match=message):
            store.get(key)
    with pytest.raises(Denied, match=message):
        store.put("models/folder/new", b"1")
    with pytest.raises(Denied, match=message):
        store.delete("models/folder/k")
    for prefix in ("", "models/folder/"):
        with pytest.raises(Denied, match=message) as raised:
            keys(store, prefix)
        assert raised.value.right == "list"
    store.put("models/file", b"replaces the link")
    assert (outside / "k").read_bytes() == b"secret"
    assert read_bytes(store, "models/file")[0] == b"replaces the link"


def test_links_inside_are_followed(store: LocalStore, tmp_path: Path) -> None:
    store.put("models/v1/k", b"1")
    (tmp_path / "models/latest").symlink_to("v1")
    (tmp_path / "models/k").symlink_to("v1/k")
    assert read_bytes(store, "models/latest/k")[0] == b"1"
    assert keys(store) == ["models/k", "models/latest/k", "models/v1/k"]


def test_a_loop_of_links_ends(store: LocalStore, tmp_path: Path) -> None:
    store.put("a/k", b"1")
    (tmp_path / "a/loop").symlink_to("..")
    with pytest.raises(Denied, match="a folder above it"):
        keys(store)
    (tmp_path / "a/loop").unlink()
    (tmp_path / "a/loop").symlink_to("loop")
    with pytest.raises(Denied):
        store.stat("a/loop")


def test_the_root_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    store = LocalStore(tmp_path / "link")
    store.put("a/k", b"1")
    (tmp_path / "real/a/also").symlink_to("k")
    assert keys(store) == ["a/also", "a/k"]


def test_what_is_no_file_is_no_object(store: LocalStore, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "lost+found").mkdir()
    with pytest.raises(NotFound):
        store.stat("pipe")
    with pytest.raises(NotFound):
        store.get("pipe")
    assert keys(store) == []
    assert list(store.list("", shallow=True)) == []


def test_a_name_that_is_not_utf8_is_said(store: LocalStore, tmp_path: Path) -> None:
    os.close(os.open(os.fsencode(tmp_path) + b"/caf\xe9", os.O_CREAT))
    with pytest.raises(StoreError, match=r"b'caf\\xe9' is not UTF-8"):
        keys(store)


def test_a_file_that_is_written_while_it_is_read(store: LocalStore, tmp_path: Path) -> None:
    """Our own writers replace; other tools do not."""
    store.put("k", b"x" * 1000)
    buffer = memoryview(bytearray(1000))
    with store.get("k") as body:
        body.readinto(buffer[:500])
        (tmp_path / "k").write_bytes(b"y" * 1000)
        with pytest.raises(Unavailable, match="changed while it was read"):
            body.readinto(buffer[500:])
    with store.get("k") as body:
        (tmp_path / "k").write_bytes(b"")
        with pytest.raises(Unavailable, match="changed while it was read"):
            body.readinto(buffer)


def test_a_corrupt_part_is_left_out_and_sent_again(store: LocalStore, tmp_path: Path) -> None:
    body = b"abc" * 1000
    upload = store.begin("k", size_bytes=3000, part_bytes=1000)
    pieces = [body[start : start + 1000] for start in range(0, 3000, 1000)]
    for index, piece in enumerate(pieces):
        upload.part(index, piece, digests=digest_of(piece))
    (data,) = (tmp_path / ".mlplatform/uploads").glob("*/*/data")
    with data.open("r+b") as file:
        file.seek(1500)
        file.write(b"!")
    assert [part.index for part in upload.parts()] == [0, 2]
    os.truncate(data, 2500)
    assert [part.index for part in upload.parts()] == [0]
    for index in (1, 2):
        upload.part(index, pieces[index], digests=digest_of(pieces[index]))
    upload.complete(upload.parts(), digests=digest_of(body), when=ABSENT)
    assert read_bytes(store, "k")[0] == body


def test_a_part_of_another_size_is_refused(store: LocalStore) -> None:
    upload = store.begin("k", size_bytes=2500, part_bytes=1000)
    for index, size in ((0, 999), (2, 1000), (3, 1), (-1, 1000)):
        with pytest.raises(UsageError):
            upload.part(index, b"x" * size, digests=Digests())


def test_the_bytes_of_an_upload_are_not_copied_to_their_place(
    store: LocalStore, tmp_path: Path
) -> None:
    upload = store.begin("k", size_bytes=1000, part_bytes=1000)
    (data,) = (tmp_path / ".mlplatform/uploads").glob("*/*/data")
    inode = data.stat().st_ino
    part = upload.part(0, b"x" * 1000, digests=Digests())
    upload.complete([part], digests=Digests(), when=ABSENT)
    assert (tmp_path / "k").stat().st_ino == inode


@pytest.mark.parametrize("code", [0, errno.EXDEV, errno.EINVAL])
def test_a_range_is_copied_where_the_kernel_can_and_where_it_cannot(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    source = bytes(range(256)) * 40_000
    store.put("source", source)
    upload = store.begin("k", size_bytes=9_000_000, part_bytes=9_000_000)
    if code:
        monkeypatch.setattr(local, "os", FailingOs("copy_file_range", code))
    part = upload.copy_range(0, "source", Span(77, 9_000_077), when=ALWAYS)
    assert part.digests == digest_of(source[77:9_000_077])
    upload.complete([part], digests=digest_of(source[77:9_000_077]), when=ABSENT)
    assert read_bytes(store, "k")[0] == source[77:9_000_077]


def test_a_file_system_without_hard_links_is_said(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "os", FailingOs("link", errno.EOPNOTSUPP))
    with pytest.raises(Unsupported, match="no hard links"):
        store.put("k", b"1", when=ABSENT)
    monkeypatch.setattr(local, "os", FailingOs("replace", errno.EXDEV))
    with pytest.raises(Unsupported, match="more than one file system"):
        store.put("k", b"1")
    assert keys(store) == []


def test_a_file_system_without_locks_is_said(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(fd: int, kind: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", no_locks)
    with pytest.raises(Unsupported, match="no locks"):
        store.put("k", b"1")
    assert keys(store) == []


def test_wrong_digests_touch_nothing(store: LocalStore, tmp_path: Path) -> None:
    with pytest.raises(DigestMismatch):
        store.put("k", b"abc", digests=Digests(1, 2))
    assert list(tmp_path.iterdir()) == []


def test_a_reader_that_is_never_closed_is_closed_with_its_last_reference(
    store: LocalStore,
) -> None:
    store.put("k", b"1")
    body = store.get("k")
    assert isinstance(body, local._LocalBody)
    fd = body._fd
    os.fstat(fd)
    del body
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
