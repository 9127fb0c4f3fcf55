"""A version comes from a region's store whole and verified, or not at all; and what was interrupted
goes on from where it was."""

from __future__ import annotations

import json
import logging
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mlplatform_serving.errors import LoadFailed
from mlplatform_serving.models.manifest import ModelFiles
from mlplatform_serving.models.progress import Progress
from mlplatform_serving.stores.fetch import JUDGED_BYTES_MIN, STAGING, Fetched
from mlplatform_serving.stores.source import Damaged, DiskFull, NotInStore, StoreDenied, StoreFailed
from tests.real.servers.launch import Endpoint
from tests.real.servers.toxics import between
from tests.serving.rig import environment, publish, running
from tests.serving.stores.shelf import (
    BLOCK_BYTES,
    PIECES,
    Shelf,
    contents,
    credentials,
    local_shelf,
    open_shelf,
    version,
    weights,
)

SCRIPT = Path(__file__).parents[3] / "serving" / "scripts" / "preload-models.sh"
TOOL = (sys.executable, "-m", "mlplatform_serving.tools.preload")


@pytest.fixture
def published(tmp_path: Path) -> Path:
    return version(tmp_path / "published", "net", "v1")


@pytest.fixture
def shelf(tmp_path: Path, published: Path) -> Shelf:
    shelf = local_shelf(tmp_path / "store")
    shelf.put(published)
    return shelf


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def staging(cache: Path) -> Path:
    return cache / STAGING / "net" / "v1"


def size(folder: Path) -> int:
    return sum(len(body) for name, body in contents(folder).items() if name != "manifest.json")


@pytest.mark.parametrize(
    "server",
    [
        "file",
        *(
            pytest.param(name, marks=pytest.mark.real(name))
            for name in ("minio", "fake-gcs-server", "azurite")
        ),
    ],
)
def test_from_every_store(
    server: str,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    published: Path,
    tmp_path: Path,
    cache: Path,
) -> None:
    if server == "file":
        shelf = local_shelf(tmp_path / "store")
    else:
        shelf = open_shelf(server, request.getfixturevalue(server.replace("-", "_")), monkeypatch)
    shelf.put(published)
    source = shelf.source()
    assert source.models() == ["net"]
    assert source.versions("net") == ["v1"]
    assert source.versions("nobody") == []
    first = shelf.preload(cache)
    assert first.fetched_bytes == first.size_bytes == size(published)
    assert contents(cache / "net" / "v1") == contents(published)
    ModelFiles(cache / "net" / "v1").verify()
    assert not staging(cache).exists()
    again = shelf.preload(cache)
    assert (again.there_already, again.fetched_bytes) == (True, 0)
    with pytest.raises(NotInStore, match="Model file not found"):
        shelf.preload(cache, "net", "v9")


# --- what is not kept ----------------------------------------------------------------------------


def rewrite(shelf: Shelf, published: Path, path: str, change: Callable[[bytes], bytes]) -> None:
    shelf.put_object(f"models/net/v1/{path}", change((published / path).read_bytes()))


def flipped(at: int) -> Callable[[bytes], bytes]:
    return lambda body: body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]


def manifest_with(**changed: Any) -> Callable[[bytes], bytes]:
    return lambda body: json.dumps(json.loads(body) | changed).encode()


def entry_with(of: str, **changed: Any) -> Callable[[bytes], bytes]:
    def change(body: bytes) -> bytes:
        told = json.loads(body)
        files = [{**each, **changed} if each["path"] == of else each for each in told["files"]]
        return json.dumps({**told, "files": files}).encode()

    return change


PAD = "weights/pad.bin"
DAMAGE: dict[str, tuple[str, Callable[[bytes], bytes], str]] = {
    "one bit of one block": (PAD, flipped(BLOCK_BYTES * 3 + 5), "Checksum mismatch"),
    "one bit of the last": (PAD, flipped(-1 + BLOCK_BYTES * PIECES + 77), "Checksum mismatch"),
    "cut short": (PAD, lambda body: body[: BLOCK_BYTES * 3 + 5], "is cut short"),
    "cut between blocks": (PAD, lambda body: body[: BLOCK_BYTES * 3], "weights/pad.bin"),
    "empty": (PAD, lambda _: b"", "weights/pad.bin"),
    "a digest that blocks cannot tell": (
        "manifest.json",
        entry_with(PAD, blake3="0" * 64),
        "Checksum mismatch: weights/pad.bin",
    ),
    "blocks that are none": ("manifest.json", entry_with(PAD, blocks="?"), "cannot be read"),
    "too few blocks": ("manifest.json", entry_with(PAD, blocks="A" * 16), "number of blocks"),
    "another model's manifest": ("manifest.json", manifest_with(model="x"), "version mismatch"),
    "no manifest": ("manifest.json", lambda _: b"[]", "cannot be trusted|not a manifest"),
    "a path out of the folder": (
        "manifest.json",
        entry_with("empty", path="../../outside"),
        "lie outside",
    ),
}


@pytest.mark.parametrize(("path", "change", "said"), DAMAGE.values(), ids=DAMAGE)
def test_what_is_damaged_is_not_kept(
    shelf: Shelf,
    published: Path,
    cache: Path,
    path: str,
    change: Callable[[bytes], bytes],
    said: str,
) -> None:
    rewrite(shelf, published, path, change)
    with pytest.raises(LoadFailed, match=said):
        shelf.preload(cache)
    assert contents(cache).keys() <= {f"{STAGING}/net@v1.lock"}
    assert not (cache.parent / "outside").exists()


def test_a_withdrawn_version_is_not_fetched(shelf: Shelf, cache: Path) -> None:
    shelf.put_object(".mlplatform/withdrawn/net/v1.json", b"{}")
    with pytest.raises(LoadFailed, match="withdrawn"):
        shelf.preload(cache)
    assert shelf.source().versions("net") == []


def test_an_object_that_vanishes_while_it_is_fetched(
    tmp_path: Path, shelf: Shelf, cache: Path
) -> None:
    (tmp_path / "store/models/net/v1" / PAD).unlink()
    with pytest.raises(NotInStore, match=r"Model file not found: .*weights/pad\.bin"):
        shelf.preload(cache)
    assert contents(cache).keys() == {f"{STAGING}/net@v1.lock"}


def test_a_disk_without_room_is_not_begun_to_be_filled(
    shelf: Shelf, published: Path, cache: Path
) -> None:
    rewrite(shelf, published, "manifest.json", entry_with(PAD, size_bytes=2**50))
    with pytest.raises(DiskFull, match=r"has \d+ left"):
        shelf.preload(cache)
    assert contents(cache).keys() == {f"{STAGING}/net@v1.lock"}


def test_a_disk_that_fills_on_the_way(shelf: Shelf, cache: Path) -> None:
    """A limit of this process's files is met where a full disk is: in a write."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (BLOCK_BYTES * 4, hard))
    try:
        with pytest.raises(DiskFull, match="disk of MODEL_CACHE_DIR is full"):
            shelf.preload(cache)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert contents(cache).keys() == {f"{STAGING}/net@v1.lock"}
    assert shelf.preload(cache).fetched_bytes > 0


def test_a_folder_that_cannot_be_written(shelf: Shelf, cache: Path) -> None:
    cache.mkdir()
    (cache / STAGING).write_text("a file where a folder should be")
    with pytest.raises(LoadFailed, match="cannot be written") as refused:
        shelf.preload(cache)
    assert str(cache) not in refused.value.message


# --- what goes on --------------------------------------------------------------------------------


def test_good_blocks_are_not_fetched_again(shelf: Shelf, published: Path, cache: Path) -> None:
    """As a crash leaves them: the right size, and some blocks in it right."""
    left = staging(cache) / PAD
    left.parent.mkdir(parents=True)
    body = bytearray(weights(2))
    good = {0, 1, 7, PIECES}
    for index in range(PIECES + 1):
        if index not in good:
            body[index * BLOCK_BYTES] ^= 1
    left.write_bytes(body)
    (staging(cache) / "of-another-time").write_text("?")
    done = shelf.preload(cache)
    kept = 3 * BLOCK_BYTES + 77
    assert done.fetched_bytes == done.size_bytes - kept
    assert contents(cache / "net" / "v1") == contents(published)


def test_what_lies_there_damaged_is_repaired(shelf: Shelf, published: Path, cache: Path) -> None:
    shelf.preload(cache)
    path = cache / "net" / "v1" / PAD
    path.write_bytes(flipped(BLOCK_BYTES * 5)(path.read_bytes()))
    (cache / "net" / "v1" / "empty").unlink()
    done = shelf.preload(cache)
    assert done.fetched_bytes == BLOCK_BYTES
    assert contents(cache / "net" / "v1") == contents(published)


def test_another_manifest_there_is_for_a_person_to_judge(
    shelf: Shelf, cache: Path, tmp_path: Path
) -> None:
    version(cache, "net", "v1", {"more": b"another"})
    before = contents(cache)
    with pytest.raises(Damaged, match="with another manifest"):
        shelf.preload(cache)
    after = contents(cache)
    assert {name: after[name] for name in before} == before


def test_a_link_in_the_staging_folder_is_not_followed(
    shelf: Shelf, cache: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.write_text("precious")
    staging(cache).mkdir(parents=True)
    (staging(cache) / "model-config.json").symlink_to(outside)
    with pytest.raises(LoadFailed, match="cannot be written"):
        shelf.preload(cache)
    assert outside.read_text() == "precious"


def test_two_at_once_fetch_it_once(shelf: Shelf, cache: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda _: shelf.preload(cache), range(4)))
    assert sorted(each.fetched_bytes > 0 for each in done) == [False, False, False, True]


def test_told_to_stop_it_stops_and_what_it_has_stays(
    minio: Endpoint,
    toxiproxy: Endpoint,
    monkeypatch: pytest.MonkeyPatch,
    published: Path,
    cache: Path,
) -> None:
    with between(toxiproxy, minio) as line:
        shelf = open_shelf("minio", minio, monkeypatch, at=line.url)
        shelf.put(published)
        line.add("bandwidth", rate=1000)
        progress = Progress()
        with ThreadPoolExecutor(1) as pool:
            fetching = pool.submit(shelf.source().preload, "net", "v1", cache, progress)
            while progress.stage != "fetching" or progress.done_bytes < 4 * BLOCK_BYTES:
                assert not fetching.done()
            progress.stop("the server is stopping")
            with pytest.raises(LoadFailed, match="the server is stopping"):
                fetching.result()
        assert not (cache / "net" / "v1").exists()
        line.calm()
        done = shelf.preload(cache)
    assert done.fetched_bytes <= done.size_bytes - 4 * BLOCK_BYTES
    assert contents(cache / "net" / "v1") == contents(published)


def test_killed_on_the_way_nothing_is_half_visible_and_it_goes_on(
    minio: Endpoint,
    toxiproxy: Endpoint,
    monkeypatch: pytest.MonkeyPatch,
    published: Path,
    cache: Path,
) -> None:
    with between(toxiproxy, minio) as line:
        shelf = open_shelf("minio", minio, monkeypatch, at=line.url)
        shelf.put(published)
        line.add("bandwidth", rate=1000)
        settings = environment(
            MODEL_SOURCE=shelf.url, MODEL_CACHE_DIR=cache, **credentials("minio", minio)
        )
        first = weights(2)[:BLOCK_BYTES]
        with subprocess.Popen(TOOL, env=settings, stderr=subprocess.DEVNULL) as killed:
            while not _begins_with(staging(cache) / PAD, first):
                assert killed.poll() is None
            killed.send_signal(signal.SIGKILL)
        assert not list(cache.glob("*/*/manifest.json"))
        with running(cache) as server:
            assert server.ask("GET", "/v2/repository/index").json == []
        line.calm()
        done = shelf.preload(cache)
    assert done.fetched_bytes <= done.size_bytes - BLOCK_BYTES
    assert contents(cache / "net" / "v1") == contents(published)


def _begins_with(path: Path, first: bytes) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(first)) == first
    except FileNotFoundError:
        return False


# --- weather -------------------------------------------------------------------------------------


def test_a_store_that_drops_the_line_now_and_then(
    minio: Endpoint,
    toxiproxy: Endpoint,
    monkeypatch: pytest.MonkeyPatch,
    published: Path,
    cache: Path,
) -> None:
    with between(toxiproxy, minio) as line:
        shelf = open_shelf("minio", minio, monkeypatch, at=line.url)
        shelf.put(published)
        line.add("limit_data", bytes=BLOCK_BYTES * 3)
        done = shelf.preload(cache)
    assert done.fetched_bytes == done.size_bytes
    assert contents(cache / "net" / "v1") == contents(published)


def test_wrong_credentials_are_denied_and_not_repeated(
    minio: Endpoint, monkeypatch: pytest.MonkeyPatch, published: Path, cache: Path
) -> None:
    shelf = open_shelf("minio", minio, monkeypatch)
    shelf.put(published)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret")
    with pytest.raises(StoreDenied, match="Access Denied") as refused:
        shelf.preload(cache)
    assert "not-the-secret" not in refused.value.message
    assert "Signature=" not in refused.value.message


def test_nobody_is_there(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    shelf = Shelf("s3://bucket?endpoint=http://127.0.0.1:9&region=us-east-1", None)  # type: ignore[arg-type]
    with pytest.raises(StoreFailed, match="s3://bucket"):
        shelf.preload(cache)


def test_slowness_is_told_once(
    minio: Endpoint,
    toxiproxy: Endpoint,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    cache: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with between(toxiproxy, minio) as line:
        shelf = open_shelf("minio", minio, monkeypatch, at=line.url)
        for name in ("net", "other"):
            publish(tmp_path / "p", name, "v1", {"x.bin": weights(1, JUDGED_BYTES_MIN)})
            shelf.put(tmp_path / "p" / name / "v1")
        line.add("bandwidth", rate=40_000)
        source = shelf.source(concurrent=1)
        with caplog.at_level(logging.INFO, "model_loader"):
            for name in ("net", "other"):
                source.fetch(name, "v1", cache, Progress())
    messages = [record.getMessage() for record in caplog.records]
    assert len([each for each in messages if "preloading is slow" in each]) == 1
    assert len([each for each in messages if each.startswith("model_preload: ")]) == 2


@pytest.mark.parametrize(
    ("fetched", "seconds", "slow"),
    [
        (JUDGED_BYTES_MIN, 1.0, True),
        (JUDGED_BYTES_MIN, 0.01, False),
        (JUDGED_BYTES_MIN - 1, 100.0, False),
        (10**9, 10.0, False),
        (10**9, 10.01, True),
        (0, 0.0, False),
    ],
)
def test_what_counts_as_slow(fetched: int, seconds: float, slow: bool) -> None:
    assert Fetched(fetched, fetched, seconds).slow is slow


# --- the tool ------------------------------------------------------------------------------------


def run(*flags: str, **settings: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*TOOL, *flags],
        env=environment(**settings),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("shell", ["sh", sys.executable, ""], ids=["sh", "python", "itself"])
def test_the_script_is_for_a_shell_and_for_python(
    shell: str, shelf: Shelf, published: Path, cache: Path
) -> None:
    settings = environment(MODEL_SOURCE=shelf.url, MODEL_CACHE_DIR=cache)
    settings["PATH"] = f"{Path(sys.executable).parent}:{settings['PATH']}"
    command = [*([shell] if shell else []), str(SCRIPT), "--output", "json"]
    done = subprocess.run(
        command, env=settings, capture_output=True, text=True, timeout=60, check=True
    )
    told = json.loads(done.stdout)
    assert (told["model"], told["version"], told["fetched_bytes"]) == (
        "net",
        "v1",
        size(published),
    )
    assert any("model_preload: net@v1" in line for line in done.stderr.splitlines())
    assert contents(cache / "net" / "v1") == contents(published)


def test_what_the_tool_is_told(shelf: Shelf, tmp_path: Path, cache: Path) -> None:
    for number in ("v2", "v10"):
        shelf.put(version(tmp_path / "published", "net", number))
    shelf.put(version(tmp_path / "published", "other", "v1"))
    flags = ("--source", shelf.url, "--cache-dir", str(cache))

    def there() -> set[str]:
        return {f"{p.parent.parent.name}@{p.parent.name}" for p in cache.glob("*/*/manifest.json")}

    assert run(*flags, "--model", "net").returncode == 0
    assert there() == {"net@v10"}
    assert run(*flags, "--model", "net@v2", "--model", "other").returncode == 0
    assert there() == {"net@v10", "net@v2", "other@v1"}
    done = run(MODEL_SOURCE=shelf.url, MODEL_CACHE_DIR=cache, MODELS="net", MODEL_VERSION="v1")
    assert (done.returncode, done.stdout.split(":")[0]) == (0, "net@v1")
    assert run(MODEL_SOURCE=shelf.url, MODEL_CACHE_DIR=cache).stdout.count("verified") == 2


def test_how_the_tool_ends(shelf: Shelf, published: Path, cache: Path) -> None:
    flags = ("--source", shelf.url, "--cache-dir", str(cache))
    assert run(*flags, "--model", "nobody").returncode == 5
    assert run(*flags, "--model", "../net").returncode == 2
    assert run(*flags, "--concurrent", "0").returncode == 2
    assert run("--source", "ftp://x").returncode == 2
    told = run("--source", "s3://key:secret@bucket")
    assert (told.returncode, "secret@" in told.stderr) == (2, False)
    none = run()
    assert (none.returncode, "hint: --source URL" in none.stderr) == (2, True)
    rewrite(shelf, published, PAD, flipped(9))
    damaged = run(*flags)
    assert damaged.returncode == 3
    assert "Checksum mismatch" in damaged.stdout


# --- the server ----------------------------------------------------------------------------------


def test_a_server_fetches_what_it_serves(shelf: Shelf, tmp_path: Path, cache: Path) -> None:
    token = tmp_path / "token"
    token.write_text("secret")
    admin = {"Authorization": "Bearer secret"}
    with running(cache, MODEL_SOURCE=shelf.url, ADMIN_TOKEN_FILE=token) as server:
        assert server.ask("GET", "/health/ready").status == 200
        milestones = server.ask("GET", "/health/startup").json["milestones"]
        assert list(milestones) == ["starting", "preloading", "loading", "ready"]
        assert server.wait_for("model_preload: net@v1")["fetched_bytes"] > BLOCK_BYTES
        # A version that is published later is fetched when it is to be loaded.
        shelf.put(version(tmp_path / "published", "net", "v2"))
        load = "/v2/repository/models/net/load"
        wanted = {"parameters": {"version": "v2"}}
        assert server.ask("POST", load, wanted, admin).status == 200
        assert server.ask("GET", "/v2/models/net").json["version"] == "v2"
        shutil.rmtree(tmp_path / "store/models/net/v1")
        gone = server.ask("POST", load, {"parameters": {"version": "v9"}}, admin)
        assert gone.status == 400
        assert "Model file not found" in gone.json["error"]


def test_a_server_that_is_given_no_store_ends_at_once(cache: Path) -> None:
    command = [sys.executable, "-m", "mlplatform_serving"]
    for source, said in (
        ("ftp://x", "MODEL_SOURCE: Value error, a store's URL begins with one of"),
        ("s3://b?ca_bundle=/nowhere", "MODEL_SOURCE: ca_bundle: /nowhere: No such file"),
    ):
        settings = environment(MODEL_SOURCE=source, MODEL_CACHE_DIR=cache, PORT=0)
        done = subprocess.run(
            command, env=settings, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 2
        assert f"error: {said}" in done.stderr
        assert "Traceback" not in done.stderr


def test_a_server_whose_store_is_away_serves_what_it_has(
    shelf: Shelf, tmp_path: Path, cache: Path
) -> None:
    shelf.preload(cache)
    away = {"MODEL_SOURCE": "s3://b?endpoint=http://127.0.0.1:9&region=us-east-1"}
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    with running(cache, MODELS="net@v1", **away, **keys) as server:
        assert server.ask("GET", "/health/ready").status == 200
