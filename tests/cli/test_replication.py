"""Replication as it is typed: over every kind of store, killed, interrupted, resumed, cleaned."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from mlplatform.core.digest import digest_of
from mlplatform.core.store_url import StoreURL
from mlplatform.ports.store import ObjectStore, Upload
from mlplatform.wiring import open_store
from tests.cli.estate import PUBLISH, Estate, Ran, environment, require, somebody_at_work
from tests.real.servers.launch import Endpoint
from tests.real.weather.meddler import Asked, Meddler, Reply, meddling
from tests.real.weather.sites import credentials, fresh
from tests.waiting import wait_until

MIB = 1024 * 1024
PART_BYTES = 16 * MIB
ODD_NAMES = (
    "with space.txt",
    "per%20cent%.txt",
    "hash#1?.txt",
    "a+b&c=d;e,f@g!.txt",
    "quote'\"`$(x).txt",
    "über/Модель/模型-🙂.txt",
    "deep/er/and/deeper/.hidden",
    "~tilde",
    "[brackets]{braces}",
    "a" * 200,
)


@pytest.fixture
def estate(tmp_path: Path) -> Estate:
    return Estate(tmp_path)


@pytest.fixture
def published(estate: Estate) -> Estate:
    estate.good(*PUBLISH)
    return estate


def files_below(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


# ------------------------------------------------------------------------------ every kind of store


@pytest.mark.xdist_group("minio")
def test_from_s3_to_azure_to_gcs_to_files_in_one_run(
    tmp_path: Path,
    minio: Endpoint,
    versitygw: Endpoint,
    azurite: Endpoint,
    fake_gcs_server: Endpoint,
) -> None:
    """Published on MinIO, a file of three parts, an empty one and names that no store likes;
    brought everywhere by one read of the source; every byte right everywhere."""
    servers = (minio, versitygw, azurite, fake_gcs_server)
    regions = {server.name: fresh(server, "matrix").url(stall_seconds=10) for server in servers}
    estate = Estate(
        tmp_path,
        regions={**regions, "disk": f"file://{tmp_path}/disk"},
        env=dict(credentials(tmp_path, servers)),
        home="minio",
    )
    (estate.model / "weights.bin").write_bytes(os.urandom(2 * PART_BYTES + 12_345))
    (estate.model / "empty").write_bytes(b"")
    for name in ODD_NAMES:
        (estate.model / name).parent.mkdir(parents=True, exist_ok=True)
        (estate.model / name).write_text(name)
    size_bytes = sum(map(len, files_below(estate.model).values()))

    told = estate.good(*PUBLISH, "-o", "json").json()
    assert told["outcomes"][0]["sent_bytes"] == size_bytes
    told = estate.good("replicate", "m", "-o", "json").json()
    assert {row["region"]: row["sent_bytes"] for row in told["outcomes"]} == dict.fromkeys(
        ("versitygw", "azurite", "fake-gcs-server", "disk"), size_bytes
    )
    assert {row["measured"]["reads_per_source_byte"] for row in told["outcomes"]} == {1.0}
    require(estate.run("replicate", "m"), 0, "nothing to do", hint=False)

    for depth in ((), ("--deep",)):
        rows = estate.good("verify", "m", *depth, "-o", "json").json()["verifications"]
        assert {row["region"]: row["verdict"] for row in rows} == dict.fromkeys(
            estate.regions, "good"
        )
    placements = estate.good("status", "-o", "json").json()["placements"]
    assert {row["integrity"] for row in placements} == {"verified"}
    assert len({row["digest"] for row in placements}) == 1
    for region in ("fake-gcs-server", "azurite", "disk"):
        estate.good("pull", "m", f"from-{region}", "--from", region)
        pulled = files_below(tmp_path / f"from-{region}")
        del pulled["manifest.json"]
        assert pulled == files_below(estate.model)
    require(estate.run("clean", "--older-than", "0"), 0, "nothing to do", hint=False)


# --------------------------------------------------------------------------- killed and interrupted


class Gate:
    """Before a source: lets so many large reads through, and holds the others until it is
    opened."""

    def __init__(self, proxy: Meddler, reads: int) -> None:
        self.opened = threading.Event()
        self.held = threading.Semaphore(0)
        self._left = reads
        self._lock = threading.Lock()
        proxy.refuse = self._hold

    def _hold(self, asked: Asked) -> Reply | None:
        if asked.method == "GET" and "weights.bin" in asked.target:
            with self._lock:
                self._left -= 1
                passes = self._left >= 0
            if not passes:
                self.held.release()
                self.opened.wait(120)
        return None


@pytest.fixture
def source(tmp_path: Path, minio: Endpoint) -> Iterator[tuple[Estate, Meddler]]:
    """A version of five parts in MinIO, read through a proxy; one more region, on this disk."""
    with meddling(minio) as proxy:
        site = fresh(minio, "source")
        estate = Estate(
            tmp_path,
            regions={
                "home": site.url(proxy.url, stall_seconds=20),
                "disk": f"file://{tmp_path}/disk",
            },
            env=dict(credentials(tmp_path, [minio])),
            home="home",
        )
        with (estate.model / "weights.bin").open("wb") as stream:
            stream.write(os.urandom(4 * PART_BYTES + 999))
        estate.good(*PUBLISH)
        yield estate, proxy
        proxy.calm()


def parts_on_disk(estate: Estate) -> int:
    return len(list((estate.folder / "disk/.mlplatform/uploads").glob("*/*/part-*")))


@contextmanager
def running(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    """Never left behind."""
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.xdist_group("minio")
def test_killed_at_half_and_resumed_on_another_machine(
    source: tuple[Estate, Meddler],
    minio: Endpoint,
    azurite: Endpoint,
    fake_gcs_server: Endpoint,
) -> None:
    """`kill -9` with a part of the file in each of four kinds of targets. Another home, another
    folder: it goes on from what they hold, and nothing is sent twice."""
    estate, proxy = source
    estate.env |= credentials(estate.folder, [minio, azurite, fake_gcs_server])
    size_bytes = sum(path.stat().st_size for path in estate.model.iterdir())
    with ExitStack() as stack:
        targets = {
            server.name: stack.enter_context(meddling(server))
            for server in (minio, azurite, fake_gcs_server)
        }
        estate.write(
            **{
                server.name: fresh(server, "target").url(targets[server.name].url, stall_seconds=20)
                for server in (minio, azurite, fake_gcs_server)
            }
        )
        gate = Gate(proxy, 3)
        with running(estate.start("replicate", "m")) as process:
            wait_until(
                lambda: (
                    parts_on_disk(estate) == 3
                    and all(each.taken_bytes >= 3 * PART_BYTES for each in targets.values())
                )
            )
            process.send_signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL
        proxy.calm()
        gate.opened.set()
        placements = estate.good("status", "-o", "json").json()["placements"]
        assert {row["region"] for row in placements if row["verified"]} == {"home"}

        elsewhere = estate.folder / "another-machine"
        elsewhere.mkdir()
        (elsewhere / "topology.yaml").write_text((estate.folder / "topology.yaml").read_text())
        ran = estate.process(
            "resume", "-o", "json", cwd=elsewhere, env=dict(environment(home=elsewhere))
        )
        assert ran.code == 0, ran.said
        assert "waiting for a sign of life" in ran.err
        rows = {row["region"]: row for row in ran.json()["outcomes"]}
        assert rows.keys() == {"disk", "minio", "azurite", "fake-gcs-server"}
        for row in rows.values():
            assert row["result"] == "done"
            assert row["measured"]["resumed_parts"] == 3
            assert row["sent_bytes"] <= size_bytes - 3 * PART_BYTES
        sent = {name: each.large_bytes for name, each in targets.items()}
        head_and_tail = 4096  # of the protocol's own
        for name, sent_bytes in sent.items():
            assert sent_bytes <= size_bytes + head_and_tail, f"{name} was sent more than there is"
        assert estate.run("verify", "m", "--deep").code == 0
        require(estate.run("clean", "--older-than", "0", "--plan"), 0, "nothing to do", hint=False)
        require(estate.run("resume"), 0, "nothing is unfinished", hint=False)


@pytest.mark.xdist_group("minio")
def test_a_publication_that_is_killed(tmp_path: Path, minio: Endpoint) -> None:
    """With a part on its way. Without the files nobody can finish it, and is told so; with them,
    wherever they lie by now, it goes on from what the region holds."""
    with meddling(minio) as proxy:
        estate = Estate(
            tmp_path,
            regions={"home": fresh(minio, "home").url(proxy.url, stall_seconds=20)},
            env=dict(credentials(tmp_path, [minio])),
            home="home",
        )
        (estate.model / "weights.bin").write_bytes(os.urandom(4 * PART_BYTES + 999))
        size_bytes = sum(path.stat().st_size for path in estate.model.iterdir())
        on_its_way = threading.Event()
        opened = threading.Event()

        def hold(asked: Asked) -> Reply | None:
            if asked.is_large and proxy.large_bytes >= 2 * PART_BYTES:
                on_its_way.set()
                opened.wait(120)
                return Reply(503)
            return None

        proxy.refuse = hold
        with running(estate.start(*PUBLISH)) as process:
            wait_until(lambda: on_its_way.is_set() and proxy.taken_bytes >= 2 * PART_BYTES)
            process.send_signal(signal.SIGKILL)
            process.wait()
        proxy.calm()
        opened.set()
        rows = estate.good("status", "-o", "json").json()["placements"]
        assert not any(row["verified"] for row in rows)

        estate.model.rename(tmp_path / "moved")
        ran = estate.run("resume")
        require(
            ran, 2, "publishes m@v1 from ", "which is not on this machine", "run `mlplatform pub"
        )
        ran = estate.good("publish", "moved", *PUBLISH[2:], "-o", "json")
        (row,) = [row for row in ran.json()["outcomes"] if row["sent_bytes"]]
        assert row["measured"]["resumed_parts"] >= 2
        # Only what was on its way has gone twice.
        assert proxy.large_bytes <= size_bytes
        assert estate.run("verify", "m", "--deep").code == 0
        require(estate.run("resume"), 0, "nothing is unfinished", hint=False)


@pytest.mark.xdist_group("minio")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_interrupted_once(source: tuple[Estate, Meddler], number: signal.Signals) -> None:
    """It finishes what is under way, says so, and gives its lease back: the next run goes on at
    once, and sends only the rest."""
    estate, proxy = source
    gate = Gate(proxy, 2)
    with running(estate.start("replicate", "m")) as process:
        wait_until(lambda: parts_on_disk(estate) == 2 and gate.held.acquire(blocking=False))
        process.send_signal(number)
        assert process.stderr is not None
        said = next(line for line in process.stderr if line.startswith("stopping: "))
        assert process.poll() is None
        gate.opened.set()
        out, err = process.communicate(timeout=60)
        err = said + err
    assert process.returncode == 130, out + err
    require(
        Ran(130, out, err),
        130,
        "stopping: finishing what is under way; once more to leave at once",
        "error: m@v1: stopped; what was sent is kept",
        "hint: run the same command again",
    )
    assert "interrupted twice" not in err
    entries = estate.good("history", "-o", "ndjson").lines()
    assert [entry["kind"] for entry in entries][-2:] == ["plan", "intent"]

    proxy.calm()
    ran = estate.good("replicate", "m", "-o", "json")
    assert "sign of life" not in ran.err, "there was no lease to wait for"
    (row,) = ran.json()["outcomes"]
    assert (row["region"], row["result"]) == ("disk", "done")
    assert row["measured"]["resumed_parts"] >= 2
    assert row["sent_bytes"] <= (5 - 2) * PART_BYTES
    assert estate.run("verify", "m", "--deep").code == 0


@pytest.mark.xdist_group("minio")
def test_interrupted_twice(source: tuple[Estate, Meddler]) -> None:
    """It leaves at once, whatever hangs; nothing shows that is not whole."""
    estate, proxy = source
    gate = Gate(proxy, 1)
    with running(estate.start("replicate", "m")) as process:
        wait_until(lambda: gate.held.acquire(blocking=False))
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        assert any(line.startswith("stopping: ") for line in process.stderr)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    gate.opened.set()
    assert process.returncode == 130
    assert "interrupted twice: leaving at once" in err
    rows = {row["region"]: row for row in estate.good("status", "-o", "json").json()["placements"]}
    assert rows["disk"]["rung"] == "ABSENT"
    assert not (estate.folder / "disk/models/m/v1/manifest.json").exists()


@pytest.mark.xdist_group("minio")
def test_a_pull_that_is_killed_and_resumed(source: tuple[Estate, Meddler]) -> None:
    """The folder appears when it is whole, and what was received is not received again."""
    estate, proxy = source
    gate = Gate(proxy, 2)
    partial = estate.folder / ".here.v1.partial"
    with running(estate.start("pull", "m", "here")) as process:
        wait_until(lambda: len(list(partial.glob(".mlplatform/uploads/*/*/part-*"))) == 2)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (estate.folder / "here").exists()
    proxy.calm()
    gate.opened.set()
    (row,) = estate.good("pull", "m", "here", "-o", "json").json()["pulled"]
    assert row["result"] == "done"
    assert row["received_bytes"] <= 3 * PART_BYTES
    assert not partial.exists()
    pulled = files_below(estate.folder / "here")
    del pulled["manifest.json"]
    assert pulled == files_below(estate.model)
    require(estate.run("pull", "m", "here"), 0, "nothing-to-do", hint=False)
    (estate.folder / "here" / "config.json").unlink()
    ran = estate.run("pull", "m", "here")
    require(ran, 2, "here: m@v1 was pulled here, but config.json is gone or changed")


# ------------------------------------------------------------------------------- what programs read


OUTCOME = {"operation", "subject", "region", "result", "detail", "error", "hint", "sent_bytes"}
OUTCOME |= {"seconds", "measured"}
PLACEMENT = {"model", "version", "region", "rung", "verified", "integrity", "digest", "size_bytes"}
PLACEMENT |= {"stored_at", "verified_at", "wanted", "withdrawn", "shares", "detail"}
VERIFICATION = {"model", "version", "region", "verdict", "depth", "checked_files"}
VERIFICATION |= {"checked_bytes", "findings", "unknown", "detail"}
ENTRY = {"at", "operation", "number", "kind", "text", "writer", "fence", "payload"}
UPLOAD = {"region", "key", "version", "started", "age_seconds", "parts", "size_bytes"}
UPLOAD |= {"result", "detail"}
ACTION = {"key", "kind", "subject", "region", "reason", "severity", "batch", "parameters"}
ACTION |= {"carries_on", "figures", "consumes", "from", "transfer_bytes", "cost"}

SHAPES: dict[str, tuple[tuple[str, ...], str, set[str], set[str]]] = {
    "plan": (
        ("replicate", "m", "--plan"),
        "actions",
        ACTION,
        {"holds", "noop", "digest", "cost"},
    ),
    "replicate": (("replicate", "m"), "outcomes", OUTCOME, {"operations", "holds"}),
    "verify": (("verify", "m"), "verifications", VERIFICATION, set()),
    "status": (("status",), "placements", PLACEMENT, {"unreadable"}),
    "versions": (
        ("versions",),
        "versions",
        {"model", "version", "regions", "unfinished", "wanted", "pinned", "withdrawn", "digest"},
        {"unreadable"},
    ),
    "pull": (
        ("pull", "m", "here"),
        "pulled",
        {"model", "version", "folder", "digest", "received_bytes", "result"},
        set(),
    ),
    "history": (("history",), "entries", ENTRY, set()),
    "clean": (("clean", "--plan"), "uploads", UPLOAD, {"unreadable", "operations"}),
    "withdraw": (
        ("withdraw", "m@v1", "--reason", "x"),
        "withdrawals",
        {"region", "result", "detail"},
        set(),
    ),
    "publish": (
        ("publish", "model", "--model", "m", "--version", "v2"),
        "outcomes",
        OUTCOME,
        {"operations", "holds", "digest"},
    ),
}


@pytest.mark.parametrize("name", SHAPES)
def test_the_shape_of_answers(published: Estate, name: str) -> None:
    """Fields are added, never changed: programs read them."""
    line, rows_name, row_fields, extra = SHAPES[name]
    begin_upload(open_store(StoreURL.parse(published.here("eu"))), "models/m/v1/weights.bin")
    as_json = published.run(*line, "-o", "json")
    assert as_json.code == 0, as_json.said
    told = as_json.json()
    assert told.keys() == {"schema_version", rows_name} | extra
    assert told["schema_version"] == 1
    assert told[rows_name], "there is something to look at"
    for row in told[rows_name]:
        assert row.keys() == row_fields
    lines = published.run(*line, "-o", "ndjson").lines()
    for each in lines:
        assert each.pop("schema_version") == 1
        assert each.keys() in (row_fields, {"summary"})
    assert [each["summary"].keys() for each in lines if "summary" in each] == [extra] * bool(extra)


def test_the_shape_of_errors(published: Estate) -> None:
    """On stderr; stdout stays empty, so that nothing takes them for an answer."""
    for output in ("json", "ndjson"):
        ran = published.run("publish", "nowhere", "--model", "m", "--version", "v9", "-o", output)
        assert (ran.code, ran.out) == (2, "")
        error = json.loads(ran.err.splitlines()[-1])
        assert error.keys() == {
            *("schema_version", "code", "message", "hint", "region", "object"),
            *("retryable", "exit_code"),
        }
        assert (error["code"], error["exit_code"]) == ("UsageError", 2)


# --------------------------------------------------------------------- withdraw, history and resume


def test_a_version_that_is_withdrawn(published: Estate) -> None:
    """Nothing is deleted, nothing new is placed, and the first reason stays."""
    published.good("replicate", "m", "--to", "eu")
    before = published.snapshot()
    published.good("withdraw", "m@v1", "--reason", "it bites")
    published.good("withdraw", "m@v1", "--reason", "another day")
    kept = {path: body for path, body in published.snapshot().items() if path in before}
    assert kept == before
    require(published.run("replicate", "m"), 3, "held: ", "withdrawn: it bites", hint=False)
    (row,) = published.good("versions", "-o", "json").json()["versions"]
    assert (row["withdrawn"], row["regions"]) == (True, ["us", "eu"])
    assert published.run("verify", "m", "--region", "us", "--region", "eu").code == 0
    published.good("pull", "m", "here")


def test_the_withdrawal_outlives_the_control_store(published: Estate) -> None:
    import shutil

    published.good("withdraw", "m@v1", "--reason", "it bites")
    shutil.rmtree(published.folder / "control")
    require(published.run("replicate", "m"), 3, "withdrawn: it bites", hint=False)


def test_history_tells_what_was_done(published: Estate) -> None:
    published.good("replicate", "m")
    entries = published.good("history", "-o", "json").json()["entries"]
    operations = list(dict.fromkeys(entry["operation"] for entry in entries))
    assert [name.split("-")[1] for name in operations] == ["publish", "replicate"]
    for operation in operations:
        whole = published.good("history", "--operation", operation, "-o", "json").json()["entries"]
        kinds = [entry["kind"] for entry in whole]
        assert kinds[:2] == ["plan", "intent"]
        assert kinds[-1] == "closed"
        assert {"outcome"} == set(kinds[2:-1])
        assert [entry["number"] for entry in whole] == list(range(1, len(whole) + 1))
    newest = published.good("history", "--limit", "1", "-o", "json").json()["entries"]
    assert {entry["operation"] for entry in newest} == {operations[-1]}


def test_one_broken_stream_of_a_journal_is_named_and_the_rest_is_imported(
    published: Estate,
) -> None:
    published.good("replicate", "m")
    (published.folder / "control").rename(published.folder / "kept")
    broken, whole = sorted((published.folder / "kept" / "journal").iterdir())
    (broken / "00000001.json").write_text("{}")
    ran = published.run("history", "import", str(published.folder / "kept"))
    require(ran, 8, f"{broken.name} was not imported: entry 1", "restore it from its backup")
    assert f"imported {whole.name}" in ran.err
    told = published.good("history", "-o", "json").json()["entries"]
    assert {entry["operation"] for entry in told} == {whole.name}
    again = published.run("history", "import", str(published.folder / "kept"))
    require(again, 3, f"{broken.name} was not imported")


def test_resuming_what_is_finished_is_nothing_to_do(published: Estate) -> None:
    operation = published.good("history", "-o", "json").json()["entries"][0]["operation"]
    require(published.run("resume", operation), 0, "nothing is unfinished", hint=False)
    require(published.run("resume"), 0, "nothing is unfinished", hint=False)


# -------------------------------------------------------------------------------------------- clean


def begin_upload(store: ObjectStore, key: str, *, part_bytes: int = 5 * MIB) -> Upload:
    """As a transfer leaves it that was killed: one part of two."""
    body = bytes(part_bytes)
    upload = store.begin(key, size_bytes=part_bytes + 1, part_bytes=part_bytes)
    upload.part(0, body, digests=digest_of(body))
    return upload


def age(estate: Estate, region: str, *, days: float) -> None:
    """Make every unfinished upload of a region on this disk so old."""
    then = datetime.fromtimestamp(time.time() - days * 86_400, UTC)
    for file in (estate.folder / region).glob(".mlplatform/uploads/*/*/upload.json"):
        record = json.loads(file.read_text())
        file.write_text(json.dumps({**record, "started": then.isoformat()}))


def left_in(estate: Estate, region: str) -> list[str]:
    url = StoreURL.parse(estate.regions[region])
    return [upload.key for upload in open_store(url).uploads("models/")]


class TestClean:
    KEY = "models/m/v1/weights.bin"
    FOREIGN = "models/scratch.bin"

    @pytest.fixture
    def littered(self, published: Estate) -> Estate:
        """Two uploads in `eu`, eight days old: a version's, and one that is not."""
        store = open_store(StoreURL.parse(published.here("eu")))
        begin_upload(store, self.KEY)
        begin_upload(store, self.FOREIGN)
        age(published, "eu", days=8)
        return published

    def test_it_has_to_be_told(self, littered: Estate) -> None:
        before = littered.snapshot()
        require(
            littered.run("clean"), 2, "error: eu: not confirmed", "1 unfinished", "--confirm eu"
        )
        require(littered.run("clean", "--confirm", "us"), 2, "--confirm names us", hint=False)
        told = littered.good("clean", "--plan", "-o", "json").json()
        rows = {row["key"]: row for row in told["uploads"]}
        assert (rows[self.KEY]["result"], rows[self.KEY]["parts"]) == ("drop", 1)
        assert rows[self.KEY]["size_bytes"] == 5 * MIB
        assert rows[self.KEY]["age_seconds"] == pytest.approx(8 * 86_400, abs=120)
        assert rows[self.FOREIGN]["result"] == "kept"
        assert littered.snapshot() == before

    @pytest.mark.parametrize("how", [("--yes",), ("--confirm", "eu")])
    def test_what_is_old_is_dropped_and_nothing_else(
        self, littered: Estate, how: tuple[str, ...]
    ) -> None:
        begin_upload(open_store(StoreURL.parse(littered.here("ap"))), self.KEY)
        objects = littered.snapshot("us")
        require(littered.run("clean", *how), 0, "clean m@v1 in eu: 1 unfinished", hint=False)
        assert left_in(littered, "eu") == [self.FOREIGN]
        assert left_in(littered, "ap") == [self.KEY], "it is young"
        assert littered.snapshot("us") == objects
        require(littered.run("clean", *how), 0, "nothing to do", hint=False)
        entries = littered.good("history", "-o", "json").json()["entries"]
        assert entries[-2]["text"].startswith("clean m@v1 (eu): done, dropped 1 unfinished upload")
        littered.good("replicate", "m")

    def test_what_is_in_use_is_left_alone(self, littered: Estate) -> None:
        """However old it is: a transfer may have gone on with an old upload."""
        with somebody_at_work(littered):
            ran = littered.run("clean", "--yes")
            require(ran, 0, "kept", "in use: replication/m/v1 is held by alice", hint=False)
            assert left_in(littered, "eu") == [self.KEY, self.FOREIGN]
        littered.good("clean", "--yes")
        assert left_in(littered, "eu") == [self.FOREIGN]

    def test_only_where_it_is_told(self, littered: Estate) -> None:
        begin_upload(open_store(StoreURL.parse(littered.here("ap"))), self.KEY)
        littered.good("clean", "--older-than", "0", "--region", "ap", "--yes")
        assert left_in(littered, "ap") == []
        assert self.KEY in left_in(littered, "eu")
        require(littered.run("clean", "--region", "app"), 2, "app: no such region", "'ap'")
        require(littered.run("clean", "--older-than", "-1"), 2, "--older-than")

    def test_a_region_that_cannot_be_read(self, littered: Estate) -> None:
        littered.write(far=f"file://{littered.folder}/not/there")
        ran = littered.run("clean", "--yes")
        require(ran, 5, "dropped", "warning: ", "not/there", "mlplatform validate")
        assert left_in(littered, "eu") == [self.FOREIGN]

    @pytest.mark.parametrize(
        "server",
        [
            pytest.param(name, marks=[pytest.mark.real(name), pytest.mark.xdist_group(name)])
            for name in ("minio", "versitygw", "fake-gcs-server", "azurite")
        ],
    )
    def test_on_real_stores(
        self,
        estate: Estate,
        server: str,
        request: pytest.FixtureRequest,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        endpoint: Endpoint = request.getfixturevalue(server.replace("-", "_"))
        site = fresh(endpoint, "clean")
        estate.env = dict(credentials(estate.folder, [endpoint]))
        for name, value in estate.env.items():
            monkeypatch.setenv(name, value)
        estate.write(far=site.url())
        begin_upload(open_store(StoreURL.parse(site.url())), self.KEY)
        kept = estate.good("clean", "--yes", "-o", "json").json()["uploads"]
        assert [(row["key"], row["result"]) for row in kept] == [(self.KEY, "kept")]
        (row,) = estate.good("clean", "--older-than", "0", "--yes", "-o", "json").json()["uploads"]
        if site.scheme == "az":
            assert row["result"] == "kept"
            assert "drops it by itself" in row["detail"]
            return
        assert (row["result"], row["parts"], row["size_bytes"]) == ("dropped", 1, 5 * MIB)
        require(estate.run("clean", "--older-than", "0"), 0, "nothing to do", hint=False)
        assert left_in(estate, "far") == []


def test_a_model_that_was_only_half_sent_is_whole_after_a_clean(published: Estate) -> None:
    """Dropping what was sent costs sending it again, and nothing else."""
    store = open_store(StoreURL.parse(published.here("eu")))
    begin_upload(store, "models/m/v1/weights.bin")
    published.good("clean", "--older-than", "0", "--yes")
    told: Any = published.good("replicate", "m", "-o", "json").json()
    assert {row["region"] for row in told["outcomes"]} == {"eu", "ap"}
    assert published.run("verify", "m", "--deep").code == 0
