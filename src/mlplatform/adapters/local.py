"""A store in a folder, `file:///srv/models`: a disk, or a file system that several machines mount.

Objects are plain files under their key, so that every tool reads them. What the store needs for
itself lies in `.mlplatform/{locks,tmp,uploads}`, which is no part of any listing.

**Writes.** Bytes go to a temporary file, are synced, and appear by one system call: `link(2)` for
`ABSENT`, which fails if the name is taken; `rename(2)` for the rest, under an exclusive `flock` on
one of 64 lock files that are never unlinked. Every write that replaces or removes takes that lock,
not the conditional ones alone, else one of them could slip between another's look and its rename.
Other tools are not bound by it.

**Tags** are size, mtime and inode. An object's mtime is always later than that of the one it
replaces, whatever the clock says, so a tag never comes back.

**Uploads.** `.mlplatform/uploads/<hash of the key>/<id>/` holds `data`, sparse and of the final
size, where parts are written in place, and an empty marker for each finished part, whose name says
index, size and both CRCs. Nothing is believed on resume: `parts` reads each part again, and leaves
out what is not what its marker says. `complete` moves `data` to its place, without copying.

**Evidence** is `READ_BACK`: a file system states no digest, so what was written is read again by
whoever wants to know. Copied ranges are read again here, and thus stated.

**The folder** itself is made by the first write, but only if its parent is there; until then it
reads as empty. Where the parent is missing too, a disk is not mounted: everything says so, instead
of filling the disk below. All of it has to be one file system.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import itertools
import json
import os
import re
import secrets
import stat as modes
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import NoReturn, Self

from mlplatform.core.digest import (
    UNKNOWN_DIGESTS,
    Buffer,
    Digests,
    Evidence,
    combine,
    digest_of,
    extend,
)
from mlplatform.core.errors import (
    ConditionFailed,
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
from mlplatform.ports.store import (
    ALWAYS,
    Absent,
    Body,
    Condition,
    Matches,
    Part,
    RangeCopy,
    Span,
    Stat,
    StoreFeatures,
    Upload,
    check_key,
)

FEATURES = StoreFeatures(
    evidence=Evidence.READ_BACK, range_copy=RangeCopy.STATED, parts_max=100_000
)

LOCK_WAIT_SECONDS = 30.0
"""A lock is held for a rename, or for parts in flight: one held longer has a stuck owner."""

_OWN = ".mlplatform/"
_RESERVED = ("locks", "tmp", "uploads")
_STRIPES = 64
_ORPHANED_AFTER_SECONDS = 3600.0
_TRIES = 100
_CHUNK_BYTES = 4 * 1024 * 1024
_WRITE_BYTES_MAX = 1024**3
_MARKER = re.compile(r"part-(\d{6})-(\d+)-([0-9a-f]{16})-([0-9a-f]{8})")

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ELOOP}
_IMPOSSIBLE_NAME = {errno.ENAMETOOLONG, errno.EILSEQ}
_PASSING = {
    errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EBUSY, errno.EMFILE,
    errno.ENFILE, errno.ENOMEM, errno.ENODEV, errno.ENXIO, errno.ENOTCONN, errno.ECONNRESET,
    errno.EHOSTDOWN, errno.EHOSTUNREACH,
}  # fmt: skip
_NO_COPY = {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM}
_NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


def open_store(url: StoreURL) -> LocalStore:
    """The store in the folder that a `file://` URL names. Nothing is touched yet."""
    url.reject_unknown(frozenset())
    if url.authority not in ("", "localhost") or not url.path.startswith("/"):
        raise UsageError(
            f"store URL {url.text!r} names no folder of this machine",
            hint="write an absolute path after three slashes: file:///srv/models",
        )
    if "\0" in url.path or os.path.normpath(url.path) == "/":
        raise UsageError(f"store URL {url.text!r} names no folder to keep a store in")
    return LocalStore(os.path.normpath(url.path))


class LocalStore:
    """One folder. Any number of processes may use it at once."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self._root = os.path.abspath(root)
        self._names = itertools.count()
        self._swept = False

    def __repr__(self) -> str:
        return f"<LocalStore {self.url}>"

    @property
    def url(self) -> str:
        return f"file://{self._root}"

    @property
    def features(self) -> StoreFeatures:
        return FEATURES

    def put(
        self,
        key: str,
        body: Buffer,
        *,
        digests: Digests = UNKNOWN_DIGESTS,
        when: Condition = ALWAYS,
    ) -> Stat:
        self._check(key)
        view = memoryview(body).cast("B")
        if view.nbytes > FEATURES.put_bytes_max:
            raise UsageError(
                f"{self.url}/{key}: a put takes at most {FEATURES.put_bytes_max} bytes"
            )
        if digests != UNKNOWN_DIGESTS:
            self._refuse_mismatch(key, digest_of(view), digests)
        with self._translated("put", key):
            self._require_inside(key, last=False)
            self._make_root()
            self._refuse(key, when, self._peek(key))
            with self._temporary() as (temp, fd):
                _write(fd, view, 0)
                return self._publish(temp, fd, key, when)

    def get(
        self, key: str, span: Span | None = None, *, when: Condition = ALWAYS
    ) -> AbstractContextManager[Body]:
        return self._body(key, span, when)

    def _body(self, key: str, span: Span | None, when: Condition) -> _LocalBody:
        self._check(key)
        with self._translated("get", key):
            self._require_inside(key)
            fd = self._open(key)
            try:
                stat = self._stat_of(key, os.fstat(fd))
                self._refuse(key, when, stat)
                if span is None:
                    span = Span(0, stat.size_bytes)
                elif span.stop > stat.size_bytes:
                    raise Unavailable(
                        f"bytes {span.start} to {span.stop} of {stat.size_bytes}",
                        store=self.url,
                        key=key,
                    )
            except BaseException:
                os.close(fd)
                raise
        return _LocalBody(self, fd, stat, span)

    def stat(self, key: str) -> Stat:
        self._check(key)
        with self._translated("get", key):
            self._require_inside(key)
            found = self._peek(key)
            if found is None:
                raise FileNotFoundError(errno.ENOENT, "no such object")
            return found

    def list(self, prefix: str, *, shallow: bool = False, after: str = "") -> Iterator[Stat]:
        folder = prefix[: prefix.rfind("/") + 1]
        with self._translated("list", prefix):
            if self._is_unmade():
                return
            self._require_root()
            if any(segment in ("", ".", "..") for segment in folder.split("/")[:-1]):
                return  # no key is like that, and the path would lead elsewhere
            if "\0" not in folder and not _is_own(folder):
                if folder:
                    self._require_inside(folder[:-1])
                yield from self._walk(folder, prefix, after, shallow=shallow)

    def delete(self, key: str, *, when: Condition = ALWAYS) -> None:
        self._check(key)
        path = self._path(key)
        with self._translated("delete", key):
            if self._is_unmade():
                return
            self._require_root()
            self._require_inside(key, last=False)
            if not _is_object(path):
                return
            with self._locked(key):
                found = self._peek(key)
                if found is not None:
                    self._refuse(key, when, found)
                try:
                    os.unlink(path)
                except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                    return
            _sync_folder(os.path.dirname(path))
            self._remove_empty_above(path)

    def begin(self, key: str, *, size_bytes: int, part_bytes: int) -> Upload:
        self._check(key)
        if size_bytes < 1 or part_bytes < 1:
            raise UsageError(f"{self.url}/{key}: an upload needs a size and a part size")
        if part_bytes > FEATURES.part_bytes_max:
            raise UsageError(f"{self.url}/{key}: parts over {FEATURES.part_bytes_max} bytes")
        if -(-size_bytes // part_bytes) > FEATURES.parts_max:
            raise UsageError(f"{self.url}/{key}: more than {FEATURES.parts_max} parts")
        with self._translated("put", key):
            self._require_inside(key, last=False)
            self._make_root()
            self._refuse_without_room(key, size_bytes)
            return self._begin(key, size_bytes, part_bytes)

    def uploads(self, prefix: str) -> Iterator[Upload]:
        with self._translated("list", prefix):
            if self._is_unmade():
                return iter(())
            self._require_root()
            found = []
            for name in _names_in(self._own("uploads")):
                folder = self._own("uploads", name)
                for upload_id in _names_in(folder):
                    upload = self._find_upload(f"{folder}/{upload_id}")
                    if upload is not None and upload.key.startswith(prefix):
                        found.append(upload)
                with contextlib.suppress(OSError):
                    os.rmdir(folder)  # if it is empty
        found.sort(key=lambda upload: upload.id, reverse=True)
        found.sort(key=lambda upload: upload.key)
        return iter(found)

    # Paths.

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}"

    def _own(self, *names: str) -> str:
        return "/".join((self._root, _OWN[:-1], *names))

    def _check(self, key: str) -> None:
        check_key(key)
        if _is_own(key):
            raise UsageError(f"key {key!r} lies where {self.url} keeps its own files")

    def _require_inside(self, key: str, *, last: bool = True) -> None:
        """Refuse a key whose path leaves the root through a symbolic link. Links that stay inside
        are followed. Without `last` the object's own name may be a link: it will be replaced."""
        path = self._root
        segments = key.split("/")
        for segment in segments if last else segments[:-1]:
            path = f"{path}/{segment}"
            try:
                if not modes.S_ISLNK(os.lstat(path).st_mode):
                    continue
            except (FileNotFoundError, NotADirectoryError):
                return
            self._require_link_inside(path)

    def _require_link_inside(self, path: str) -> str:
        """Where a link leads, which must be inside the root."""
        real, root = os.path.realpath(path), os.path.realpath(self._root)
        if not f"{real}/".startswith(f"{root}/"):
            raise Denied(
                f"{os.path.relpath(path, self._root)!r} is a symbolic link that leads out of the "
                f"store's folder, to {real}; it is not followed",
                store=self.url,
                hint="put the files themselves into the folder, or give the store a URL that "
                "holds both",
            )
        return real

    def _require_root(self) -> None:
        if not os.path.isdir(self._root):
            self._raise_container_missing()

    def _is_unmade(self) -> bool:
        """Whether there is nothing where the folder will be, so that the first write makes it."""
        return not os.path.lexists(self._root) and os.path.isdir(os.path.dirname(self._root))

    def _raise_container_missing(self) -> NoReturn:
        try:
            os.stat(self._root)
        except FileNotFoundError:
            raise ContainerMissing(
                "there is no such folder",
                store=self.url,
                hint=f"{os.path.dirname(self._root)} is not there either: is the disk mounted?",
            ) from None
        raise ContainerMissing("is not a folder", store=self.url)

    def _make_root(self) -> None:
        if os.path.isdir(self._root):
            return
        try:
            os.mkdir(self._root)
        except (FileExistsError, FileNotFoundError, NotADirectoryError):
            self._require_root()
        else:
            _sync_folder(os.path.dirname(self._root))

    def _make_folder(self, folder: str) -> None:
        """Make a folder below the root, durably, with those above it."""
        if os.path.isdir(folder):
            return
        if folder == self._root:
            self._make_root()
            return
        parent = os.path.dirname(folder)
        self._make_folder(parent)
        try:
            os.mkdir(folder)
        except FileExistsError:
            if not os.path.isdir(folder):
                raise NotADirectoryError(errno.ENOTDIR, "not a folder", folder) from None
        else:
            _sync_folder(parent)

    def _remove_empty_above(self, path: str) -> None:
        """Remove folders that a deletion left empty, so that their names are free for objects."""
        folder = os.path.dirname(path)
        while len(folder) > len(self._root):
            try:
                os.rmdir(folder)
            except OSError:
                return  # not empty, or somebody else was quicker
            folder = os.path.dirname(folder)

    # Reading.

    def _peek(self, key: str) -> Stat | None:
        """The object as it is, or None. Folders and devices are no objects."""
        try:
            found = os.stat(self._path(key))
        except (FileNotFoundError, NotADirectoryError):
            return None
        return self._stat_of(key, found) if modes.S_ISREG(found.st_mode) else None

    def _open(self, key: str) -> int:
        # Without O_NONBLOCK, opening a fifo would wait for ever.
        fd = os.open(self._path(key), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        if not modes.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise FileNotFoundError(errno.ENOENT, "no such object")
        return fd

    def _stat_of(self, key: str, found: os.stat_result) -> Stat:
        return Stat(
            key,
            found.st_size,
            _tag(found),
            datetime.fromtimestamp(found.st_mtime_ns // 1000 / 1e6, UTC),
        )

    def _refuse(self, key: str, when: Condition, found: Stat | None) -> None:
        """Raise `ConditionFailed` unless `when` holds of what was found."""
        if isinstance(when, Absent):
            if found is not None:
                raise ConditionFailed(f"exists, with tag {found.tag}", store=self.url, key=key)
        elif isinstance(when, Matches):
            if found is None:
                raise ConditionFailed(
                    f"is not there, tag {when.tag} was expected", store=self.url, key=key
                )
            if found.tag != when.tag:
                raise ConditionFailed(
                    f"has tag {found.tag}, not {when.tag}", store=self.url, key=key
                )

    def _refuse_mismatch(self, key: str, found: Digests, given: Digests) -> None:
        if given.contradicts(found):
            raise DigestMismatch(f"{self.url}/{key}: got {found}, was to be {given}")

    def _walk(self, folder: str, prefix: str, after: str, *, shallow: bool) -> Iterator[Stat]:
        """The objects below a folder ("" or "a/b/") by key. One folder's names are held at a time
        for each level, sorted as their keys sort: a folder is "a/", which "a-b" precedes."""
        for name in self._sorted_names(folder):
            key = folder + name
            if name.endswith("/"):
                if not key.startswith(prefix) and not prefix.startswith(key):
                    continue
                if key < after and not after.startswith(key):
                    continue  # all of it comes before `after`
                inside = self._walk(key, prefix, after, shallow=False)
                if not shallow or len(key) <= len(prefix):
                    yield from inside
                elif key > after and next(inside, None) is not None:
                    yield Stat(key, 0, "")
            elif key.startswith(prefix) and key > after:
                found = self._peek(key)
                if found is not None:  # it may have gone since
                    yield found

    def _sorted_names(self, folder: str) -> Sequence[str]:
        """The names in a folder, those of folders with a "/", without what is the store's own."""
        names = []
        try:
            with os.scandir(self._path(folder)) as entries:
                for entry in entries:
                    name = entry.name
                    if folder == _OWN and name in _RESERVED:
                        continue
                    if not folder and name == "lost+found":
                        continue  # the file system's own, for root's eyes only
                    if not _is_text(name):
                        raise StoreError(
                            f"{os.fsencode(name)!r} is not UTF-8: no key can name that file",
                            store=self.url,
                            key=folder,
                            hint="rename it, or move it out of the store's folder",
                        )
                    if entry.is_symlink():
                        self._refuse_loop(entry.path)
                    names.append(f"{name}/" if entry.is_dir() else name)
        except (FileNotFoundError, NotADirectoryError):
            return ()
        names.sort()
        return names

    def _refuse_loop(self, path: str) -> None:
        real = self._require_link_inside(path)
        here = os.path.realpath(os.path.dirname(path))
        if f"{here}/".startswith(f"{real}/"):
            raise Denied(
                f"{os.path.relpath(path, self._root)!r} is a symbolic link to a folder above it; "
                "it is not followed",
                store=self.url,
                hint="remove the link",
            )

    # Writing.

    @contextlib.contextmanager
    def _temporary(self) -> Iterator[tuple[str, int]]:
        """A temporary file that is gone afterwards, unless it was moved into place."""
        folder = self._own("tmp")
        self._make_folder(folder)
        self._sweep(folder)
        path = f"{folder}/{os.getpid()}-{next(self._names)}-{secrets.token_hex(8)}"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            with contextlib.suppress(OSError):
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)  # for `_sweep`: in use
            yield path, fd
        finally:
            os.close(fd)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)

    def _sweep(self, folder: str) -> None:
        """Once for each store object, remove temporary files whose writers have died: old ones
        that nobody has locked."""
        if self._swept:
            return
        self._swept = True
        for name in _names_in(folder):
            path = f"{folder}/{name}"
            with contextlib.suppress(OSError):
                if time.time() - os.stat(path).st_mtime < _ORPHANED_AFTER_SECONDS:
                    continue
                with _opened(path, os.O_RDONLY) as fd:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    os.unlink(path)

    def _publish(self, temp: str, fd: int, key: str, when: Condition) -> Stat:
        """Make the file `temp`, open as `fd`, the object, if `when` holds. For `ABSENT` it keeps
        its first name too."""
        path = self._path(key)
        _stamp(fd, time.time_ns())
        os.fsync(fd)
        move = self._link if isinstance(when, Absent) else self._replace
        for _ in range(_TRIES):
            try:
                self._make_folder(os.path.dirname(path))
                move(temp, fd, key, when)
                break
            except FileNotFoundError:
                # A deletion has just removed the folder as empty: make it again.
                if not os.path.exists(temp):
                    raise
            except (IsADirectoryError, FileExistsError):
                # A crash may have left empty folders of that name.
                if os.path.isdir(path) and not _remove_empty_below(path):
                    raise Unsupported(
                        "there are objects below this key, and a file cannot be a folder",
                        store=self.url,
                        key=key,
                    ) from None
        else:
            raise Unavailable("its folder comes and goes", store=self.url, key=key)
        stat = self._stat_of(key, os.fstat(fd))
        _sync_folder(os.path.dirname(path))
        return stat

    def _link(self, temp: str, fd: int, key: str, when: Condition) -> None:
        path = self._path(key)
        try:
            os.link(temp, path)
        except FileExistsError:
            if os.path.isdir(path) and not os.path.islink(path):
                raise
            raise ConditionFailed("exists", store=self.url, key=key) from None
        except OSError as error:
            if error.errno in _NO_LINKS:
                raise Unsupported(
                    "this file system has no hard links, which create-only writes need",
                    store=self.url,
                    key=key,
                ) from error
            raise

    def _replace(self, temp: str, fd: int, key: str, when: Condition) -> None:
        with self._locked(key):
            found = self._peek(key)
            self._refuse(key, when, found)
            if found is not None:
                _stamp_later(fd, os.stat(self._path(key)).st_mtime_ns)
            os.replace(temp, self._path(key))

    @contextlib.contextmanager
    def _locked(self, key: str) -> Iterator[None]:
        """Hold the lock that all who replace or remove `key` take."""
        self._make_folder(self._own("locks"))
        path = self._own("locks", f"{_hash(key)[0] % _STRIPES:02}")
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except PermissionError:
            # Another user's; a lock needs no right to write, except on NFS.
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._wait(fd, fcntl.LOCK_EX, key)
            yield
        finally:
            os.close(fd)

    def _wait(self, fd: int, kind: int, key: str) -> None:
        """Take a lock, or say who does not let go."""
        deadline = time.monotonic() + LOCK_WAIT_SECONDS
        pause = 0.0005
        while True:
            try:
                fcntl.flock(fd, kind | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise Unavailable(
                        f"another process has held a lock for {LOCK_WAIT_SECONDS:.0f} s",
                        store=self.url,
                        key=key,
                        hint=f"look for a stopped process with files open in {self._own()}",
                    ) from None
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
                raise Unsupported(
                    "this file system has no locks, which a store needs",
                    store=self.url,
                    key=key,
                    hint="mount it with locking, or keep the store elsewhere",
                ) from error
            time.sleep(pause)
            pause = min(pause * 1.5, 0.02)

    # Uploads.

    def _refuse_without_room(self, key: str, size_bytes: int) -> None:
        """Before hours of sending, not after. Files that grow meanwhile are not foreseen."""
        room = os.statvfs(self._root)
        free_bytes = room.f_bavail * room.f_frsize
        if size_bytes > free_bytes:
            raise StoreFull(
                f"{size_bytes} bytes do not fit into the {free_bytes} that are free",
                store=self.url,
                key=key,
                hint="make room, then run again",
            )

    def _begin(self, key: str, size_bytes: int, part_bytes: int) -> _LocalUpload:
        started = time.time_ns()
        # Ids sort by age.
        upload_id = f"{started:020}-{secrets.token_hex(4)}"
        folder = self._own("uploads", _hash(key).hex(), upload_id)
        for _ in range(_TRIES):
            self._make_folder(os.path.dirname(folder))
            try:
                os.mkdir(folder)
                break
            except FileNotFoundError:
                continue  # the end of the key's last upload has just removed it
        record = _Record(key, size_bytes, part_bytes, datetime.fromtimestamp(started / 1e9, UTC))
        try:
            with _opened(f"{folder}/data", os.O_RDWR | os.O_CREAT | os.O_EXCL) as fd:
                os.ftruncate(fd, size_bytes)
            with _opened(f"{folder}/upload.new", os.O_WRONLY | os.O_CREAT | os.O_EXCL) as fd:
                _write(fd, memoryview(record.written()), 0)
                os.fsync(fd)
            # Without its record it is no upload yet.
            os.rename(f"{folder}/upload.new", f"{folder}/upload.json")
        except OSError:
            with contextlib.suppress(OSError):
                _remove_upload(folder)
            raise
        _sync_folder(folder)
        _sync_folder(os.path.dirname(folder))
        return _LocalUpload(self, folder, record)

    def _find_upload(self, folder: str) -> _LocalUpload | None:
        """The upload kept in a folder, if it is whole and unfinished. What a crash left of one that
        is finished, dropped or never quite begun is removed by the way."""
        try:
            with open(f"{folder}/upload.json", "rb") as file:
                record = _Record.read(file.read())
        except (FileNotFoundError, NotADirectoryError, ValueError):
            with contextlib.suppress(OSError):
                if time.time() - os.stat(folder).st_mtime > _ORPHANED_AFTER_SECONDS:
                    _remove_upload(folder)
            return None
        with contextlib.suppress(FileNotFoundError):
            # With a second name it is an object already.
            if os.stat(f"{folder}/data").st_nlink == 1:
                return _LocalUpload(self, folder, record)
        with contextlib.suppress(OSError):
            _remove_upload(folder)
        return None

    # Errors.

    @contextlib.contextmanager
    def _translated(self, right: str, key: str) -> Iterator[None]:
        """The one place where the system's errors become ours."""
        try:
            yield
        except Denied as error:
            error.right = error.right or right
            raise
        except OSError as error:
            raise self._translate(error, right, key) from error

    def _translate(self, error: OSError, right: str, key: str) -> MlplatformError:
        where = {"store": self.url, "key": key}
        text = error.strerror or str(error)
        code = error.errno
        if (
            code in (errno.ENOENT, errno.ENOTDIR)
            and not os.path.isdir(self._root)
            and not self._is_unmade()
        ):
            try:
                self._raise_container_missing()
            except (StoreError, OSError) as missing:
                if isinstance(missing, StoreError):
                    return missing
        if code == errno.ENOTDIR and right == "put":
            return Unsupported(
                "a part of this key is an object itself, and a file cannot be a folder",
                store=self.url,
                key=key,
            )
        if code == errno.ENOENT and right == "put":
            return Unavailable("a file vanished while it was written", **where)
        if code in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR):
            return NotFound("no such object", **where)
        if code in _DENIED:
            return Denied(
                f"Access Denied: no right to {right}: {text}",
                right=right,
                hint="the file system is mounted read-only"
                if code == errno.EROFS
                else f"this process runs as user {os.geteuid()}; look at the folder's permissions",
                **where,
            )
        if code in _FULL:
            return StoreFull(
                text,
                hint="make room, then run again: what was sent is kept",
                **where,
            )
        if code in _IMPOSSIBLE_NAME:
            return UsageError(f"key {key!r} cannot be a file's name here: {text}")
        if code == errno.EXDEV:
            return Unsupported(
                "the folder holds more than one file system, so nothing can be moved into place",
                hint="give each file system a store of its own",
                **where,
            )
        if code in _PASSING:
            return Unavailable(text, **where)
        return StoreError(text, **where)


class _LocalBody:
    """A span of an open file. The file keeps its bytes when its name gets others."""

    def __init__(self, store: LocalStore, fd: int, stat: Stat, span: Span) -> None:
        self._store = store
        self._fd = fd
        self._stat = stat
        self._at = span.start
        self._stop = span.stop

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    @property
    def stat(self) -> Stat:
        return self._stat

    def readinto(self, buffer: memoryview) -> int:
        wanted = min(len(buffer), self._stop - self._at)
        if not wanted:
            return 0
        store, key = self._store, self._stat.key
        with store._translated("get", key):
            count = os.preadv(self._fd, [buffer[:wanted]], self._at)
            self._at += count
            # Our own writers replace files; other tools may write into them, or cut them off.
            if not count or (self._at == self._stop and self._changed()):
                raise Unavailable("changed while it was read", store=store.url, key=key)
        return count

    def _changed(self) -> bool:
        return _tag(os.fstat(self._fd)) != self._stat.tag


@dataclass(frozen=True, slots=True)
class _Record:
    """What `upload.json` says."""

    key: str
    size_bytes: int
    part_bytes: int
    started: datetime

    def written(self) -> bytes:
        return json.dumps(
            {
                "key": self.key,
                "size": self.size_bytes,
                "part_bytes": self.part_bytes,
                "started": self.started.isoformat(),
            }
        ).encode()

    @classmethod
    def read(cls, text: bytes) -> _Record:
        """`ValueError` if it is not a record."""
        try:
            fields = json.loads(text)
            record = cls(
                str(fields["key"]),
                int(fields["size"]),
                int(fields["part_bytes"]),
                datetime.fromisoformat(fields["started"]),
            )
            check_key(record.key)
        except (KeyError, TypeError, UsageError) as error:
            raise ValueError(f"not the record of an upload: {error}") from error
        return record


class _LocalUpload:
    """A handle on a folder of parts; others may hold some too, here or elsewhere.

    Whoever writes a part shares the lock on `data`; whoever completes or aborts holds it alone.
    Thus no byte changes once `data` is an object. One lock for each index keeps two writers of the
    same part apart.
    """

    def __init__(self, store: LocalStore, folder: str, record: _Record) -> None:
        self._store = store
        self._folder = folder
        self._record = record

    def __repr__(self) -> str:
        return f"<upload {self.id} of {self._store.url}/{self.key}>"

    @property
    def key(self) -> str:
        return self._record.key

    @property
    def id(self) -> str:
        return os.path.basename(self._folder)

    @property
    def started(self) -> datetime | None:
        return self._record.started

    def part(self, index: int, body: Buffer, *, digests: Digests) -> Part:
        view = memoryview(body).cast("B")
        self._require_size(index, view.nbytes)
        found = digest_of(view)
        self._store._refuse_mismatch(self.key, found, digests)
        with self._store._translated("put", self.key):

            def write(fd: int, start: int) -> Digests:
                _write(fd, view, start)
                return found

            return self._write_part(index, view.nbytes, write)

    def copy_range(self, index: int, source_key: str, span: Span, *, when: Condition) -> Part:
        store = self._store
        self._require_size(index, span.size_bytes)
        with store._body(source_key, span, when) as source:

            def copy(fd: int, start: int) -> Digests:
                _copy(source._fd, span, fd, start)
                return _read_digests(fd, start, span.size_bytes)

            with store._translated("put", self.key):
                return self._write_part(index, span.size_bytes, copy)

    def parts(self) -> Sequence[Part]:
        held: dict[int, Part] = {}
        with self._store._translated("get", self.key), self._data(None) as fd:
            for part in self._marked():
                start = part.index * self._record.part_bytes
                if _read_digests(fd, start, part.size_bytes) == part.digests:
                    held[part.index] = part
        return [held[index] for index in sorted(held)]

    def complete(self, parts: Sequence[Part], *, digests: Digests, when: Condition) -> Stat:
        store, record = self._store, self._record
        with store._translated("put", self.key), self._data(fcntl.LOCK_EX) as fd:
            marked = {part.tag: part for part in self._marked()}
            held = [marked[part.tag] for part in parts if part.tag in marked]
            size_bytes = sum(part.size_bytes for part in held)
            indices = [part.index for part in held]
            if indices != list(range(len(parts))) or size_bytes != record.size_bytes:
                raise DigestMismatch(
                    f"{store.url}/{self.key}: {size_bytes} of {record.size_bytes} bytes are held "
                    "as listed; other parts are missing, or were replaced"
                )
            whole = combine((part.digests, part.size_bytes) for part in held)
            store._refuse_mismatch(self.key, whole, digests)
            store._require_inside(self.key, last=False)
            stat = store._publish(f"{self._folder}/data", fd, self.key, when)
            _remove_upload(self._folder)
            return stat

    def abort(self) -> None:
        store = self._store
        with store._translated("put", self.key):
            if not store._is_unmade():
                store._require_root()
            with contextlib.suppress(NotFound), self._data(fcntl.LOCK_EX):
                _remove_upload(self._folder)

    def _require_size(self, index: int, size_bytes: int) -> None:
        record = self._record
        expected = min(record.part_bytes, record.size_bytes - index * record.part_bytes)
        if index < 0 or size_bytes != expected:
            raise UsageError(
                f"{self._store.url}/{self.key}: part {index} has {size_bytes} bytes, not {expected}"
            )

    @contextlib.contextmanager
    def _data(self, lock: int | None) -> Iterator[int]:
        """`data`, open and locked; `NotFound` if the upload is over."""
        store = self._store
        try:
            fd = os.open(f"{self._folder}/data", os.O_RDWR | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            if not store._is_unmade():
                store._require_root()
            raise self._gone() from None
        try:
            if lock is not None:
                store._wait(fd, lock, self.key)
            # Somebody may have finished it while we waited. With two names it is an object already;
            # with none it was dropped; under another it has moved.
            if os.fstat(fd).st_nlink != 1 or not os.path.exists(f"{self._folder}/data"):
                raise self._gone()
            yield fd
        finally:
            os.close(fd)

    def _gone(self) -> NotFound:
        return NotFound(
            f"upload {self.id} was completed or aborted", store=self._store.url, key=self.key
        )

    def _write_part(
        self, index: int, size_bytes: int, write: Callable[[int, int], Digests]
    ) -> Part:
        """Let `write` fill the part's place, and mark it finished with the digests it returns."""
        with self._data(fcntl.LOCK_SH) as fd, self._index_lock(index):
            for name in _names_in(self._folder):
                if name.startswith(f"part-{index:06}-"):
                    os.unlink(f"{self._folder}/{name}")
            found = write(fd, index * self._record.part_bytes)
            getattr(os, "fdatasync", os.fsync)(fd)
            name = f"part-{index:06}-{size_bytes}-{found.crc64nvme:016x}-{found.crc32c:08x}"
            with _opened(f"{self._folder}/{name}", os.O_WRONLY | os.O_CREAT):
                return Part(index, size_bytes, name, found)

    @contextlib.contextmanager
    def _index_lock(self, index: int) -> Iterator[None]:
        try:
            opened = _opened(f"{self._folder}/lock-{index % _STRIPES:02}", os.O_RDWR | os.O_CREAT)
            with opened as fd:
                self._store._wait(fd, fcntl.LOCK_EX, self.key)
                yield
        except FileNotFoundError:
            raise self._gone() from None

    def _marked(self) -> list[Part]:
        """The parts as their markers have them."""
        found = []
        for match in filter(None, map(_MARKER.fullmatch, _names_in(self._folder))):
            index, size, crc64nvme, crc32c = match.groups()
            digests = Digests(int(crc64nvme, 16), int(crc32c, 16))
            found.append(Part(int(index), int(size), match.group(), digests))
        return found


def _remove_upload(folder: str) -> None:
    """Drop an upload's folder: its record first, without which it is no upload."""
    for _ in range(_TRIES):
        for name in sorted(_names_in(folder), key=lambda name: name != "upload.json"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{folder}/{name}")
        try:
            os.rmdir(folder)
            break
        except FileNotFoundError:
            break
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:
                raise
    with contextlib.suppress(OSError):
        os.rmdir(os.path.dirname(folder))


def _is_own(key: str) -> bool:
    return key.startswith(_OWN) and key.split("/")[1] in _RESERVED


def _hash(key: str) -> bytes:
    return hashlib.blake2b(key.encode(), digest_size=16).digest()


def _tag(found: os.stat_result) -> str:
    return f"{found.st_size}-{found.st_mtime_ns}-{found.st_ino}"


def _is_object(path: str) -> bool:
    """Whether a file, or a link to whatever, is there under that name."""
    try:
        mode = os.lstat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return False
    return modes.S_ISREG(mode) or modes.S_ISLNK(mode)


def _is_text(name: str) -> bool:
    """Whether a name is UTF-8 on disk: what is not arrives with lone surrogates."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _names_in(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []


@contextlib.contextmanager
def _opened(path: str, flags: int) -> Iterator[int]:
    fd = os.open(path, flags | os.O_CLOEXEC, 0o666)
    try:
        yield fd
    finally:
        os.close(fd)


def _sync_folder(folder: str) -> None:
    """Make the names in a folder durable. One that is gone is a name less in that above it."""
    try:
        with _opened(folder, os.O_RDONLY | os.O_DIRECTORY) as fd:
            os.fsync(fd)
    except FileNotFoundError:
        _sync_folder(os.path.dirname(folder))


def _write(fd: int, view: memoryview, start: int) -> None:
    done = 0
    while done < view.nbytes:
        done += os.pwrite(fd, view[done : done + _WRITE_BYTES_MAX], start + done)


def _copy(source_fd: int, span: Span, fd: int, start: int) -> None:
    """Copy inside the kernel, by reference where the file system can, else through a buffer."""
    at, end = span.start, span.stop
    try:
        while at < end and hasattr(os, "copy_file_range"):
            count = os.copy_file_range(source_fd, fd, end - at, at, start + at - span.start)
            if not count:
                raise OSError(errno.ESTALE, "the source was cut off while it was copied")
            at += count
    except OSError as error:
        if error.errno not in _NO_COPY:
            raise
    buffer = memoryview(bytearray(min(_CHUNK_BYTES, end - at)))
    while at < end:
        count = os.preadv(source_fd, [buffer[: end - at]], at)
        if not count:
            raise OSError(errno.ESTALE, "the source was cut off while it was copied")
        _write(fd, buffer[:count], start + at - span.start)
        at += count


def _read_digests(fd: int, start: int, size_bytes: int) -> Digests:
    """The digests of bytes as they are in the file now, as far as they go."""
    found = Digests(0, 0)
    buffer = memoryview(bytearray(min(_CHUNK_BYTES, size_bytes)))
    done = 0
    while done < size_bytes:
        count = os.preadv(fd, [buffer[: size_bytes - done]], start + done)
        if not count:
            break
        found = extend(found, buffer[:count])
        done += count
    return found


def _stamp(fd: int, mtime_ns: int) -> None:
    # The kernel's own stamps are as coarse as its tick: two writes in one tick would share theirs.
    os.utime(fd, ns=(mtime_ns, mtime_ns))


def _stamp_later(fd: int, than_ns: int) -> None:
    """Make the file's mtime later than another's, in the steps that the file system keeps."""
    for step_ns in (0, 1, 1_000, 1_000_000, 1_000_000_000, 2_000_000_000):
        if step_ns:
            _stamp(fd, than_ns + step_ns)
            os.fsync(fd)
        if os.fstat(fd).st_mtime_ns > than_ns:
            return


def _remove_empty_below(folder: str) -> bool:
    """Remove a folder that holds nothing but folders; whether it is gone."""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not entry.is_dir(follow_symlinks=False) or not _remove_empty_below(entry.path):
                    return False
        os.rmdir(folder)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
