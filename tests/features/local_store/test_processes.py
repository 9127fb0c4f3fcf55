"""Several processes on one folder."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from pathlib import Path

import pytest

from mlplatform.adapters import local
from mlplatform.adapters.local import LocalStore
from mlplatform.core.digest import digest_of
from mlplatform.core.errors import ConditionFailed, DigestMismatch, NotFound, Unavailable
from mlplatform.ports.store import ABSENT, ALWAYS, Matches, read_bytes
from tests.features.local_store import writers


def run_at_once(what: str, root: Path, arguments: list[str]) -> list[str]:
    """Run one process for each argument; what they print."""
    processes = [
        subprocess.Popen(
            [sys.executable, writers.__file__, what, str(root), argument],
            stdout=subprocess.PIPE,
            text=True,
        )
        for argument in arguments
    ]
    printed = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes)
    return printed


def test_no_update_is_lost_between_processes(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.put("counter", b"0 start")
    run_at_once("count_up", tmp_path, ["one", "two"])
    assert read_bytes(store, "counter")[0].split()[0] == b"100"


def test_each_object_is_created_by_one_process(tmp_path: Path) -> None:
    printed = run_at_once("claim_all", tmp_path, ["one", "two"])
    assert sum(map(int, printed)) == 100
    store = LocalStore(tmp_path)
    owners = [read_bytes(store, stat.key)[0] for stat in store.list("claims/")]
    assert [owners.count(b"one"), owners.count(b"two")] == list(map(int, printed))


def test_folders_that_come_and_go_are_in_nobodys_way(tmp_path: Path) -> None:
    run_at_once("come_and_go", tmp_path, ["one", "two"])
    assert list(LocalStore(tmp_path).list("")) == []
    assert not (tmp_path / "a").exists()


def test_a_stuck_process_is_an_error_and_not_a_wait_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LocalStore(tmp_path)
    tag = store.put("k", b"1").tag
    monkeypatch.setattr(local, "LOCK_WAIT_SECONDS", 0.05)
    (lock,) = (tmp_path / ".mlplatform/locks").iterdir()
    with lock.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(Unavailable, match="held a lock"):
            store.put("k", b"2", when=Matches(tag))
        with pytest.raises(Unavailable, match="held a lock"):
            store.delete("k")
        store.put("created/without/the/lock", b"1", when=ABSENT)
    store.put("k", b"2", when=Matches(tag))


def test_tags_do_not_come_back_when_the_clock_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LocalStore(tmp_path)
    monkeypatch.setattr("time.time_ns", lambda: 1_700_000_000_000_000_000)
    tags = [store.put("k", b"same size").tag for _ in range(20)]
    assert len(set(tags)) == 20
    times = [int(tag.split("-")[1]) for tag in tags]
    assert times == sorted(set(times))
    with pytest.raises(ConditionFailed):
        store.put("k", b"refused", when=Matches(tags[-2]))


def test_a_part_cannot_change_an_object_that_was_completed_meanwhile(tmp_path: Path) -> None:
    body = b"x" * 1000
    store = LocalStore(tmp_path)
    upload = store.begin("k", size_bytes=1000, part_bytes=1000)
    late = next(LocalStore(tmp_path).uploads("k"))
    part = upload.part(0, body, digests=digest_of(body))
    upload.complete([part], digests=digest_of(body), when=ABSENT)
    with pytest.raises(NotFound):
        late.part(0, b"y" * 1000, digests=digest_of(b"y" * 1000))
    assert read_bytes(store, "k")[0] == body


def test_a_part_cannot_change_an_object_whose_upload_was_not_tidied(tmp_path: Path) -> None:
    body = b"x" * 1000
    store = LocalStore(tmp_path)
    upload = store.begin("k", size_bytes=1000, part_bytes=1000)
    upload.part(0, body, digests=digest_of(body))
    (data,) = (tmp_path / ".mlplatform/uploads").glob("*/*/data")
    (tmp_path / "k").hardlink_to(data)  # completed, and dead before the rest
    with pytest.raises(NotFound):
        upload.part(0, b"y" * 1000, digests=digest_of(b"y" * 1000))
    assert list(store.uploads("k")) == []
    assert not data.exists()
    assert read_bytes(store, "k")[0] == body


def test_two_writers_of_one_part_never_mix(tmp_path: Path) -> None:
    ours, theirs = b"o" * 1000, b"t" * 1000
    upload = LocalStore(tmp_path).begin("k", size_bytes=1000, part_bytes=1000)
    other = next(LocalStore(tmp_path).uploads("k"))
    part = upload.part(0, ours, digests=digest_of(ours))
    other.part(0, theirs, digests=digest_of(theirs))
    with pytest.raises(DigestMismatch):
        upload.complete([part], digests=digest_of(ours), when=ALWAYS)
    assert [part.digests for part in other.parts()] == [digest_of(theirs)]
