"""A death at any moment leaves the old object or the new one, and nothing in anyone's way."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mlplatform.adapters import local
from mlplatform.adapters.local import LocalStore
from mlplatform.core.digest import digest_of
from mlplatform.core.errors import NotFound
from mlplatform.ports.store import ABSENT, ALWAYS, Condition, Matches, exists, read_bytes
from tests.features.local_store import writers
from tests.features.local_store.dying import DyingOs, crashes

OLD, NEW = b"old " * 1000, b"new " * 1500
PART_BYTES = 4000


def keys(store: LocalStore) -> list[str]:
    return [stat.key for stat in store.list("")]


def content(store: LocalStore, key: str) -> bytes | None:
    return read_bytes(store, key)[0] if exists(store, key) else None


def files_of_its_own(root: Path) -> list[str]:
    return sorted(
        str(path.relative_to(root))
        for name in ("tmp", "uploads")
        for path in (root / ".mlplatform" / name).rglob("*")
    )


@pytest.fixture
def fresh(tmp_path: Path) -> Callable[[int], LocalStore]:
    """A store in an empty folder, one for each number."""

    def make(number: int) -> LocalStore:
        (tmp_path / str(number)).mkdir()
        return LocalStore(tmp_path / str(number))

    return make


@pytest.fixture
def with_old(fresh: Callable[[int], LocalStore]) -> Callable[[int], LocalStore]:
    """A store that holds the old object, written by the same program."""

    def make(number: int) -> LocalStore:
        store = fresh(number)
        store.put("a/k", OLD)
        return store

    return make


def send_all(store: LocalStore, when: Condition) -> None:
    upload = store.begin("a/k", size_bytes=len(NEW), part_bytes=PART_BYTES)
    parts = []
    for index in range(2):
        piece = NEW[index * PART_BYTES : (index + 1) * PART_BYTES]
        parts.append(upload.part(index, piece, digests=digest_of(piece)))
    upload.complete(parts, digests=digest_of(NEW), when=when)


def finish(store: LocalStore, when: Condition) -> None:
    """What a replicator does after a crash: go on with the upload that is there, or begin anew."""
    upload = next(store.uploads("a/k"), None)
    if upload is None:
        upload = store.begin("a/k", size_bytes=len(NEW), part_bytes=PART_BYTES)
    there = {part.index for part in upload.parts()}
    for index in {0, 1} - there:
        piece = NEW[index * PART_BYTES : (index + 1) * PART_BYTES]
        upload.part(index, piece, digests=digest_of(piece))
    upload.complete(upload.parts(), digests=digest_of(NEW), when=when)


def test_a_death_while_an_object_is_created(
    monkeypatch: pytest.MonkeyPatch, fresh: Callable[[int], LocalStore]
) -> None:
    outcomes = set()
    for store, done in crashes(monkeypatch, fresh, lambda s: s.put("a/b/k", NEW, when=ABSENT)):
        found = content(store, "a/b/k")
        outcomes.add(found)
        assert found in (None, NEW), done
        assert keys(store) == ([] if found is None else ["a/b/k"]), done
        if found is None:
            LocalStore(store.url[7:]).put("a/b/k", NEW, when=ABSENT)
        assert content(store, "a/b/k") == NEW, done
    assert outcomes == {None, NEW}


@pytest.mark.parametrize("conditional", [False, True])
def test_a_death_while_an_object_is_replaced(
    monkeypatch: pytest.MonkeyPatch, with_old: Callable[[int], LocalStore], conditional: bool
) -> None:
    def replace(store: LocalStore) -> None:
        store.put("a/k", NEW, when=Matches(store.stat("a/k").tag) if conditional else ALWAYS)

    outcomes = set()
    for store, done in crashes(monkeypatch, with_old, replace):
        found = content(store, "a/k")
        outcomes.add(found)
        assert found in (OLD, NEW), done
        assert keys(store) == ["a/k"], done
        replace(LocalStore(store.url[7:]))
        assert content(store, "a/k") == NEW, done
    assert outcomes == {OLD, NEW}


def test_a_death_while_an_object_is_deleted(
    monkeypatch: pytest.MonkeyPatch, fresh: Callable[[int], LocalStore]
) -> None:
    def prepare(number: int) -> LocalStore:
        store = fresh(number)
        store.put("a/b/c/k", OLD)
        return store

    for store, done in crashes(monkeypatch, prepare, lambda s: s.delete("a/b/c/k")):
        assert content(store, "a/b/c/k") in (OLD, None), done
        store.delete("a/b/c/k")
        assert keys(store) == [], done
        assert list(store.list("", shallow=True)) == [], done
        # Empty folders that the death left are not in the way of an object of that name.
        store.put("a", NEW)
        assert content(store, "a") == NEW, done


@pytest.mark.parametrize("how", ["create", "replace", "compare"])
def test_a_death_during_an_upload(
    monkeypatch: pytest.MonkeyPatch, fresh: Callable[[int], LocalStore], how: str
) -> None:
    old = None if how == "create" else OLD

    def prepare(number: int) -> LocalStore:
        store = fresh(number)
        if old is not None:
            store.put("a/k", old)
        return store

    def when(store: LocalStore) -> Condition:
        if how == "compare":
            return Matches(store.stat("a/k").tag)
        return ABSENT if how == "create" else ALWAYS

    outcomes = set()
    for store, done in crashes(monkeypatch, prepare, lambda s: send_all(s, when(s))):
        found = content(store, "a/k")
        outcomes.add(found)
        assert found in (old, NEW), done
        assert keys(store) == ([] if found is None else ["a/k"]), done
        other = LocalStore(store.url[7:])
        if found == old:
            finish(other, when(other))
            assert content(other, "a/k") == NEW, done
        else:
            assert list(other.uploads("")) == [], done
        with monkeypatch.context() as patch:
            patch.setattr(local, "_ORPHANED_AFTER_SECONDS", -1.0)
            assert list(other.uploads("")) == [], done
            LocalStore(store.url[7:]).put("sweeps", b"")
        assert files_of_its_own(Path(store.url[7:])) == [], done
    assert outcomes == {old, NEW}


def test_no_part_that_was_answered_is_lost(
    monkeypatch: pytest.MonkeyPatch, fresh: Callable[[int], LocalStore]
) -> None:
    answered: list[int] = []

    def send(store: LocalStore) -> None:
        answered.clear()
        upload = store.begin("a/k", size_bytes=5 * 1000, part_bytes=1000)
        for index in range(5):
            part = upload.part(index, NEW[:1000], digests=digest_of(NEW[:1000]))
            answered.append(part.index)

    for store, done in crashes(monkeypatch, fresh, send):
        upload = next(LocalStore(store.url[7:]).uploads("a/k"), None)
        held = [part.index for part in upload.parts()] if upload else []
        assert held[: len(answered)] == answered, done
        assert len(held) <= len(answered) + 1, done


def test_a_death_while_an_upload_is_aborted(
    monkeypatch: pytest.MonkeyPatch, with_old: Callable[[int], LocalStore]
) -> None:
    def prepare(number: int) -> LocalStore:
        store = with_old(number)
        upload = store.begin("a/k", size_bytes=len(NEW), part_bytes=PART_BYTES)
        upload.part(0, NEW[:PART_BYTES], digests=digest_of(NEW[:PART_BYTES]))
        return store

    for store, done in crashes(monkeypatch, prepare, lambda s: next(s.uploads("")).abort()):
        assert content(store, "a/k") == OLD, done
        for upload in store.uploads(""):
            upload.abort()
        with monkeypatch.context() as patch:
            patch.setattr(local, "_ORPHANED_AFTER_SECONDS", -1.0)
            assert list(store.uploads("")) == [], done
        assert files_of_its_own(Path(store.url[7:])) == [], done


@pytest.mark.parametrize(("when", "name"), [(ABSENT, "link"), (ALWAYS, "replace")])
def test_bytes_are_durable_before_their_name_and_the_name_before_the_answer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, when: Condition, name: str
) -> None:
    store = LocalStore(tmp_path)
    store.put("a/other", b"makes the folders")
    watching = DyingOs(1000, after=True)
    monkeypatch.setattr(local, "os", watching)
    store.put("a/k", NEW, when=when)
    done = watching.done
    shown = done.index(name)
    assert "fsync" in done[done.index("pwrite") : shown], done
    assert "pwrite" not in done[shown:], done
    assert "fsync" in done[shown:], done


def test_temporary_files_of_the_living_are_not_swept(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    with store._temporary() as (path, fd):
        os.pwrite(fd, b"in use", 0)
        os.utime(path, (0, 0))
        orphan = tmp_path / ".mlplatform/tmp/orphan"
        orphan.write_bytes(b"left by a death")
        os.utime(orphan, (0, 0))
        LocalStore(tmp_path).put("k", b"1")
        assert Path(path).exists()
        assert not orphan.exists()


@contextmanager
def running(what: str, root: Path, argument: str = "") -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, writers.__file__, what, str(root), argument],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        with process:
            yield process
    finally:
        process.kill()


def kill_after_lines(process: subprocess.Popen[str], lines: int, pause: float) -> list[int]:
    """Kill it some time after its line number `lines`; all the numbers that it had printed."""
    assert process.stdout is not None
    seen = [int(process.stdout.readline()) for _ in range(lines)]
    time.sleep(pause)
    process.kill()
    return seen + [int(line) for line in process.stdout if line.endswith("\n")]


@pytest.mark.parametrize("what", ["replace_for_ever", "upload_for_ever"])
def test_kill_9_while_objects_are_replaced(tmp_path: Path, what: str) -> None:
    for turn in range(4):
        with running(what, tmp_path) as process:
            printed = kill_after_lines(process, 3, turn * 0.003)
        store = LocalStore(tmp_path)
        body, _ = read_bytes(store, "k")
        number = int(body[:9])
        assert body == writers.body_of(number)
        assert number in (printed[-1], printed[-1] + 1)
        assert keys(store) == ["k"]


def test_kill_9_while_a_journal_grows(tmp_path: Path) -> None:
    with running("append_for_ever", tmp_path) as process:
        printed = kill_after_lines(process, 5, 0.004)
    store = LocalStore(tmp_path)
    numbers = [int(stat.key[2:]) for stat in store.list("j/")]
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) - printed[-1] in (0, 1)
    for number in numbers:
        assert content(store, f"j/{number:06}") == writers.body_of(number)


def test_kill_9_during_an_upload(tmp_path: Path) -> None:
    with running("upload_slowly", tmp_path) as process:
        printed = kill_after_lines(process, 5, 0.002)
    store = LocalStore(tmp_path)
    assert keys(store) == []
    upload = next(store.uploads("large"))
    held = upload.parts()
    assert [part.index for part in held][: len(printed)] == printed
    assert len(held) <= len(printed) + 1
    assert all(part.digests == digest_of(writers.part_of(part.index)) for part in held)
    for index in set(range(writers.PARTS)) - {part.index for part in held}:
        body = writers.part_of(index)
        upload.part(index, body, digests=digest_of(body))
    whole = b"".join(map(writers.part_of, range(writers.PARTS)))
    upload.complete(upload.parts(), digests=digest_of(whole), when=ABSENT)
    assert content(store, "large") == whole
    assert files_of_its_own(tmp_path) == []
    with pytest.raises(NotFound):
        upload.parts()
