"""A version onto a local disk: resumed, verified, visible only when it is whole."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mlplatform.adapters.local import LocalStore
from mlplatform.core.errors import DigestMismatch, Interrupted, MlplatformError, UsageError
from mlplatform.core.manifest import Manifest
from mlplatform.ports.progress import SilentProgress
from mlplatform.ports.store import ObjectStore
from mlplatform.replication.pull import Pulled, pull
from mlplatform.replication.transfer import Settings

from .world import (
    BLOCK,
    INLINE,
    NOW,
    SUBJECT,
    THREADS,
    Call,
    InstantClock,
    Model,
    Watched,
    mixed,
    noise,
)


class Killed(BaseException):
    pass


def fetch(
    model: Model,
    folder: Path,
    *,
    opens: Callable[[Path], ObjectStore] = LocalStore,
    settings: Settings = INLINE,
    stop: Callable[[], bool] = lambda: False,
) -> Pulled:
    return pull(
        model.manifest,
        model,
        folder,
        opens,
        clock=InstantClock(),
        progress=SilentProgress(),
        writer="test",
        now=NOW,
        nonce="local",
        stop=stop,
        settings=settings,
    )


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def expected(model: Model) -> dict[str, bytes]:
    return {**model.bodies, "manifest.json": model.manifest.encoded}


@pytest.mark.parametrize("settings", [INLINE, THREADS], ids=["inline", "threads"])
def test_the_folder_holds_the_files_and_the_manifest_and_nothing_else(
    tmp_path: Path, settings: Settings
) -> None:
    model = mixed()
    pulled = fetch(model, tmp_path / "there" / "model", settings=settings)
    assert content(pulled.folder) == expected(model)
    assert pulled.received_bytes == model.size_bytes
    assert pulled.digest == model.manifest.digest
    assert names(tmp_path / "there") == ["model"]


def test_a_second_pull_reads_nothing(tmp_path: Path) -> None:
    model = mixed()
    fetch(model, tmp_path / "model")
    model.reads.clear()
    again = fetch(model, tmp_path / "model")
    assert again.already_there
    assert again.received_bytes == 0
    assert model.reads == []


def test_an_empty_folder_may_be_there(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    assert content(fetch(mixed(), tmp_path / "model").folder) == expected(mixed())


def something(folder: Path) -> None:
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")


def a_file(folder: Path) -> None:
    folder.write_text("mine")


def a_broken_link(folder: Path) -> None:
    folder.symlink_to("gone")


def another_version(folder: Path) -> None:
    fetch(Model({"a.bin": b"other"}), folder)


def another_model(folder: Path) -> None:
    from mlplatform.core.placement import ModelVersion

    fetch(Model(mixed().bodies, subject=ModelVersion("vgg", "v1")), folder)


def a_damaged_manifest(folder: Path) -> None:
    something(folder)
    (folder / "manifest.json").write_text("{")


def a_file_short(folder: Path) -> None:
    fetch(mixed(), folder)
    (folder / "config.json").unlink()


def a_file_shorter(folder: Path) -> None:
    fetch(mixed(), folder)
    os.truncate(folder / "weights/large.bin", 5)


IN_THE_WAY: list[Callable[[Path], None]] = [
    something,
    a_file,
    a_broken_link,
    another_version,
    another_model,
    a_damaged_manifest,
    a_file_short,
    a_file_shorter,
]


@pytest.mark.parametrize("make", IN_THE_WAY, ids=lambda make: make.__name__)
def test_what_is_in_the_way_is_left_alone(tmp_path: Path, make: Callable[[Path], None]) -> None:
    folder = tmp_path / "model"
    make(folder)
    before = content(tmp_path)
    with pytest.raises(UsageError) as raised:
        fetch(mixed(), folder)
    assert str(folder) in str(raised.value)
    assert raised.value.hint
    assert content(tmp_path) == before


def test_a_place_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="cannot pull there"):
        fetch(mixed(), tmp_path / "file" / "below" / "model")


@pytest.mark.parametrize("died_at", range(1, 45, 3))
def test_killed_at_any_call_of_the_store_then_pulled_again(tmp_path: Path, died_at: int) -> None:
    model, folder, calls = mixed(), tmp_path / "model", 0

    def kill(call: Call) -> None:
        nonlocal calls
        calls += 1
        if calls == died_at:
            raise Killed

    try:
        fetch(model, folder, opens=lambda root: Watched(LocalStore(root), before=kill))
    except Killed:
        assert not folder.exists()
    else:
        assert calls < died_at
    fetch(model, folder)
    assert content(folder) == expected(model)
    assert names(tmp_path) == ["model"]


def test_what_was_received_before_a_kill_is_not_read_again(tmp_path: Path) -> None:
    model, parts = Model({"a.bin": noise(40 * BLOCK), "b.bin": noise(5)}), 0

    def kill(call: Call) -> None:
        nonlocal parts
        parts += call.verb == "part"
        if parts == 21:
            raise Killed

    with pytest.raises(Killed):
        fetch(
            model,
            tmp_path / "model",
            opens=lambda root: Watched(LocalStore(root), before=kill),
        )
    model.reads.clear()
    pulled = fetch(model, tmp_path / "model")
    assert len(model.reads) == 21  # 20 of 41 are there
    assert pulled.received_bytes == 20 * BLOCK + 5


def test_bytes_that_rotted_between_two_runs_are_read_again(tmp_path: Path) -> None:
    model = Model({"a.bin": noise(10 * BLOCK), "b.bin": noise(100)})
    parts = 0

    def kill(call: Call) -> None:
        nonlocal parts
        parts += call.verb == "part"
        if parts == 8:
            raise Killed

    with pytest.raises(Killed):
        fetch(
            model,
            tmp_path / "model",
            opens=lambda root: Watched(LocalStore(root), before=kill),
        )
    (data,) = tmp_path.rglob("data")
    body = bytearray(data.read_bytes())
    body[3 * BLOCK] ^= 1
    data.write_bytes(body)
    fetch(model, tmp_path / "model")
    assert content(tmp_path / "model") == expected(model)


def test_interrupted_and_again(tmp_path: Path) -> None:
    model = mixed()
    with pytest.raises(Interrupted):
        fetch(model, tmp_path / "model", stop=lambda: len(model.reads) >= 3)
    assert not (tmp_path / "model").exists()
    fetch(model, tmp_path / "model")
    assert content(tmp_path / "model") == expected(model)


def test_killed_after_the_folder_appeared(tmp_path: Path) -> None:
    model = mixed()
    fetch(model, tmp_path / "model")
    left = tmp_path / f".model.{SUBJECT.version}.partial" / "models"
    left.mkdir(parents=True)
    assert fetch(model, tmp_path / "model").already_there
    assert names(tmp_path) == ["model"]


def test_what_another_manifest_left_behind_does_not_appear(tmp_path: Path) -> None:
    """The version was taken back and published anew while a pull lay unfinished."""
    old, new = Model({"a.bin": noise(99), "old.bin": b"x"}), Model({"a.bin": noise(99, 1)})

    def kill(call: Call) -> None:
        if call.verb == "put" and call.key == SUBJECT.manifest_key:
            raise Killed

    for after in (False, True):
        watch = (lambda root: Watched(LocalStore(root), after=kill)) if after else (
            lambda root: Watched(LocalStore(root), before=kill)
        )  # fmt: skip
        folder = tmp_path / str(after)
        with pytest.raises(Killed):
            fetch(old, folder, opens=watch)
        fetch(new, folder)
        assert content(folder) == expected(new)


def test_a_rotten_source_makes_nothing_appear(tmp_path: Path) -> None:
    model = mixed()
    model.rotten["weights/large.bin"] = noise(453, 77)
    with pytest.raises(DigestMismatch, match=r"weights/large\.bin"):
        fetch(model, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_an_adopted_object_lies_under_its_name(tmp_path: Path) -> None:
    model = Model(
        {"resnet50-v1.2.0.pth": noise(300)},
        keys={"resnet50-v1.2.0.pth": "models/resnet50-v1.2.0.pth"},
    )
    fetch(model, tmp_path / "model")
    assert content(tmp_path / "model") == expected(model)
    assert names(tmp_path) == ["model"]
    stated = Manifest.parse((tmp_path / "model/manifest.json").read_bytes(), where="x")
    assert stated == model.manifest


def test_something_that_appears_meanwhile_is_left_alone(tmp_path: Path) -> None:
    model, folder = mixed(), tmp_path / "model"

    def meddle(call: Call) -> None:
        if call.verb == "put" and call.key == SUBJECT.manifest_key:
            something(folder)

    with pytest.raises(MlplatformError, match="cannot be made"):
        fetch(model, folder, opens=lambda root: Watched(LocalStore(root), before=meddle))
    assert content(folder) == {"notes.txt": b"mine"}
    for path in folder.iterdir():
        path.unlink()
    model.reads.clear()
    fetch(model, folder)
    assert content(folder) == expected(model)
    assert model.reads == []  # it was all there
