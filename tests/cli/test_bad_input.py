"""What people get wrong, and what the world does to them: typed as commands.

Each ends with its exit code, names the object and the cause, says what to try, and loses nothing.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from mlplatform.control.pins import Pin, Pins
from mlplatform.control.quorum import ControlStore
from mlplatform.core.manifest import Manifest
from mlplatform.core.placement import ModelVersion
from mlplatform.core.plan import canonical
from mlplatform.core.store_url import StoreURL
from mlplatform.core.topology import Topology
from mlplatform.ports.clock import SystemClock
from mlplatform.replication import operations
from mlplatform.replication.model_replicator import open_replicas
from mlplatform.wiring import open_store
from tests.cli.estate import (
    PUBLISH,
    Estate,
    Ran,
    require,
    somebody_at_work,
    without_privilege,
    wrapped,
)
from tests.real.servers.launch import Endpoint
from tests.real.weather.sites import credentials, fresh, unmade

MANIFEST = "eu/models/m/v1/manifest.json"


@pytest.fixture
def estate(tmp_path: Path) -> Estate:
    """Three regions on this disk; nothing is published yet."""
    return Estate(tmp_path)


@pytest.fixture
def published(estate: Estate) -> Estate:
    """`m@v1` is in its home region, `us`."""
    estate.good(*PUBLISH)
    return estate


@pytest.fixture
def everywhere(published: Estate) -> Estate:
    """And in `eu` and `ap`."""
    published.good("replicate", "m")
    return published


# -------------------------------------------------------------------------------- what is published


def nothing_there(model: Path) -> None:
    shutil.rmtree(model)


def empty(model: Path) -> None:
    nothing_there(model)
    model.mkdir()


def all_ignored(model: Path) -> None:
    (model / ".mlplatformignore").write_text("*\n")


def ignore_rules_of_bytes(model: Path) -> None:
    (model / ".mlplatformignore").write_bytes(b"\xff\xfe*\n")


def link_out(model: Path) -> None:
    (model / "link").symlink_to("/etc/passwd")


def link_to_nowhere(model: Path) -> None:
    (model / "link").symlink_to("nowhere")


def link_to_folder(model: Path) -> None:
    (model.parent / "other").mkdir()
    (model / "link").symlink_to("../other")


def fifo(model: Path) -> None:
    os.mkfifo(model / "pipe")


def a_socket(model: Path) -> None:
    folder = Path.cwd()
    os.chdir(model)  # the whole path may be too long for a socket's name
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("socket")
    finally:
        os.chdir(folder)


def named(name: str | bytes) -> Callable[[Path], None]:
    def make(model: Path) -> None:
        path = model / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")

    return make


def cut_safetensors(model: Path) -> None:
    (model / "weights.safetensors").write_bytes(b"\x40\0\0\0\0\0\0\0{}")


BAD_MODELS = {
    "missing": (nothing_there, "model: no such file or folder"),
    "empty": (empty, "model: there is nothing to publish"),
    "all of it ignored": (all_ignored, "model: there is nothing to publish"),
    "ignore rules that are no text": (ignore_rules_of_bytes, ".mlplatformignore: is not UTF-8"),
    "a link out": (link_out, "model/link: is a symlink"),
    "a link to nowhere": (link_to_nowhere, "model/link: is a symlink"),
    "a link to a folder": (link_to_folder, "model/link: is a symlink"),
    "a fifo": (fifo, "model/pipe: is neither a file nor a folder"),
    "a socket": (a_socket, "model/socket: is neither a file nor a folder"),
    "a newline in a name": (named("a\nb"), "a control character"),
    "an escape in a name": (named("a\x1b[31mb"), "a control character"),
    "a name that is no text": (named(b"a\xffb"), "an invalid one"),
    "a backslash": (named("a\\b"), "not a relative path"),
    "a last dot": (named("a./b"), "ends with a dot"),
    "the manifest's name": (named("manifest.json"), "the manifest's own"),
    "the platform's folder": (named(".mlplatform/x"), "the platform's own"),
    "half a safetensors file": (cut_safetensors, "is not a whole safetensors file"),
}


@pytest.mark.parametrize(("spoil", "told"), BAD_MODELS.values(), ids=BAD_MODELS)
def test_a_model_that_cannot_be_published(
    published: Estate, spoil: Callable[[Path], None], told: str
) -> None:
    spoil(published.model)
    before = published.snapshot()
    require(published.run(*PUBLISH[:-1], "v2"), 2, "error: ", told)
    assert published.snapshot() == before


def test_a_link_that_is_followed_in_a_circle(estate: Estate) -> None:
    (estate.model / "again").symlink_to(".")
    require(estate.run(*PUBLISH, "--follow-symlinks"), 2, "again: is a symlink to a folder that")
    assert estate.snapshot() == {}


def test_links_that_are_followed(estate: Estate) -> None:
    (estate.folder / "elsewhere.bin").write_bytes(b"linked")
    (estate.model / "link.bin").symlink_to("../elsewhere.bin")
    estate.good(*PUBLISH, "--follow-symlinks")
    assert (estate.folder / "us/models/m/v1/link.bin").read_bytes() == b"linked"


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("model/weights.bin", "error: model/weights.bin: cannot be read: Permission denied"),
        ("model/sub", "error: model/sub: cannot be read: Permission denied"),
        ("model", "path 'model' is not readable"),
    ],
    ids=["a file", "a folder inside", "the folder"],
)
def test_a_model_that_may_not_be_read(estate: Estate, path: str, told: str) -> None:
    (estate.model / "sub").mkdir()
    (estate.model / "sub" / "a").write_bytes(b"1")
    (estate.folder / path).chmod(0)
    try:
        ran = estate.process(*PUBLISH, preexec_fn=without_privilege)
    finally:
        (estate.folder / path).chmod(0o755)
    require(ran, 2, told)
    assert estate.snapshot() == {}


@contextmanager
def touched(path: Path) -> Iterator[None]:
    """Something goes on writing to the file."""
    over = threading.Event()

    def run() -> None:
        while not over.is_set():
            os.utime(path)
            time.sleep(0.0002)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_a_file_that_changes_while_it_is_read(estate: Estate) -> None:
    os.truncate(estate.model / "weights.bin", 256 << 20)  # which takes a while to read
    with touched(estate.model / "weights.bin"):
        ran = estate.run(*PUBLISH)
    os.truncate(estate.model / "weights.bin", 1 << 20)
    require(ran, 3, "error: model/weights.bin: the file changed while it was being published")
    assert estate.snapshot() == {}
    estate.good(*PUBLISH)


def test_a_file_that_changes_after_it_was_read(estate: Estate) -> None:
    """Each part is compared with what was digested."""
    replicas = open_replicas(Topology.load(estate.folder / "topology.yaml"))
    controller = operations.publisher(replicas, estate.model, ModelVersion("m", "v1"), None)
    (estate.model / "weights.bin").write_bytes(bytes(1 << 20))
    report = operations.publish(replicas, controller)
    (outcome,) = report.outcomes
    assert (report.exit_code, outcome.error) == (3, "SourceChanged")
    assert "weights.bin: the file changed" in outcome.detail
    assert "publish again" in outcome.hint
    assert not (estate.folder / "us/models/m/v1/manifest.json").exists()
    require(estate.run("status"), 0, "m@v1 ", hint=False)
    estate.good(*PUBLISH)
    assert estate.run("verify", "m", "--deep", "--region", "us").code == 0


BAD_NAMES = {
    "..": (("--model", "..", "--version", "v1"), "model name '..'"),
    "a path": (("--model", "a/b", "--version", "v1"), "model name 'a/b'"),
    "an empty one": (("--model", "m", "--version", ""), "--version is missing"),
    "a version that leads out": (("--model", "m", "--version", "../v1"), "version name '../v1'"),
    "a newline": (("--model", "m\n", "--version", "v1"), r"model name 'm\n'"),
    "spaces": (("--model", "my model", "--version", "v1"), "model name 'my model'"),
}


@pytest.mark.parametrize(("names", "told"), BAD_NAMES.values(), ids=BAD_NAMES)
def test_a_name_that_cannot_be(estate: Estate, names: tuple[str, ...], told: str) -> None:
    require(estate.run("publish", "model", *names), 2, "error: ", told)
    assert estate.snapshot() == {}


@pytest.mark.parametrize("key", ["models/../../secret", "/etc/passwd", "models//x", "models/x\n"])
def test_a_key_to_adopt_that_leads_out(estate: Estate, key: str) -> None:
    (estate.folder / "secret").write_text("s")
    ran = estate.run("publish", "--adopt", key, "--region", "us", "--model", "m", "--version", "v1")
    require(ran, 2, "error: key ")
    assert estate.snapshot() == {}


def test_a_key_to_adopt_that_is_not_there(estate: Estate) -> None:
    ran = estate.run("publish", "--adopt", "models/x-v1.0.0.pth", "--region", "us")
    require(ran, 2, "error: us: models/x-v1.0.0.pth: there is no such object to adopt")


# ----------------------------------------------------------------------------- versions and regions


def other_bytes(estate: Estate) -> None:
    (estate.model / "config.json").write_text('{"layers": 4}\n')


def test_a_version_that_exists_with_other_bytes(published: Estate) -> None:
    before = published.snapshot()
    other_bytes(published)
    ran = published.run(*PUBLISH)
    require(
        ran, 3, "error: m@v1: already published in us with other bytes (blake3:", "yours blake3:"
    )
    assert "new version" in ran.err
    assert published.snapshot() == before
    published.good(*PUBLISH[:-1], "v2")


def test_a_version_that_exists_elsewhere_with_other_bytes(published: Estate) -> None:
    """Its home region lost it; the name is taken all the same."""
    published.good("replicate", "m")
    shutil.rmtree(published.folder / "us")
    other_bytes(published)
    before = published.snapshot()
    require(published.run(*PUBLISH), 3, "error: m@v1: ", "with other bytes")
    assert published.snapshot() == before


def test_a_version_that_was_withdrawn(published: Estate) -> None:
    published.good("withdraw", "m@v1", "--reason", "it bites")
    before = published.snapshot()
    require(published.run(*PUBLISH), 3, "error: m@v1: withdrawn: it bites")
    require(
        published.run("replicate", "m"), 3, "held: m@v1 in eu", "withdrawn: it bites", hint=False
    )
    assert published.snapshot() == before
    require(published.run("status"), 0, "withdrawn", hint=False)


def test_a_version_that_a_rollout_may_go_back_to(published: Estate) -> None:
    control = ControlStore([open_store(StoreURL.parse(published.here("control")))], SystemClock())
    at = SystemClock().now()
    pin = Pin(model="m", version="v1", digest="", region="us", operation="op-1", at=at)
    assert "PINNED" not in published.good("versions").out
    Pins(control).put(pin)
    assert re.search(r"PINNED.*\nm +v1 +us +yes +us +", published.good("versions").out)
    ran = published.run("withdraw", "m@v1", "--reason", "it bites")
    require(
        ran,
        0,
        "warning: m@v1 is what rollout op-1 goes back to in us; ",
        "promote op-1",
        hint=False,
    )


def test_a_version_that_is_withdrawn_while_two_control_stores_of_three_are_away(
    published: Estate,
) -> None:
    """It is withdrawn all the same, and that is told."""
    topology = published.folder / "topology.yaml"
    here, broken = published.here("control"), published.folder / "broken"
    broken.write_text("no folder")
    stores = f"control: [{here}, file://{broken}/1, file://{broken}/2]"
    topology.write_text(re.sub(r"control: \S+", stores, topology.read_text(), count=1))
    ran = published.run("withdraw", "m@v1", "--reason", "it bites")
    require(ran, 5, "warning: what rollouts go back to is not known: ", hint=False)
    assert re.search(r"\nus +withdrawn", ran.out)


UNKNOWN = {
    "publish": ((*PUBLISH, "--region", "uss"), "uss: no such region", "did you mean 'us'?"),
    "replicate to": (("replicate", "m", "--to", "eu,epu"), "epu: no such region", "mean 'eu'?"),
    "replicate from": (("replicate", "m", "--from", "mars"), "mars: no such region", "us, eu, ap"),
    "verify": (("verify", "m", "--region", "app"), "app: no such region", "did you mean 'ap'?"),
    "pull": (("pull", "m", "here", "--from", "euu"), "euu: no such region", "did you mean 'eu'?"),
    "adopt": (
        ("publish", "--adopt", "models/a-v1.0.0.pth", "--region", "eeu"),
        "eeu: no such region",
        "did you mean 'eu'?",
    ),
    "a model": (("replicate", "mm"), "mm: no version is published", "mm@VERSION"),
    "a command": (("replicat",), "no such command: 'replicat'", "did you mean 'replicate'?"),
    "an operation": (("history", "--operation", "x1"), "there is no operation x1", "history"),
    "one to resume": (("resume", "x1"), "there is no operation x1", "history"),
    "a version to withdraw": (
        ("withdraw", "m", "--reason", "x"),
        "m: name the version",
        "m@VERSION",
    ),
}


@pytest.mark.parametrize(("line", "told", "meant"), UNKNOWN.values(), ids=UNKNOWN)
def test_something_that_is_not_known(
    published: Estate, line: tuple[str, ...], told: str, meant: str
) -> None:
    before = published.snapshot()
    require(published.run(*line), 2, f"error: {told}", meant)
    assert published.snapshot() == before


def test_what_is_nowhere(published: Estate) -> None:
    ran = published.run("replicate", "m@v9")
    require(ran, 3, "held: m@v9 in ", "no region holds it verified; publish it in us", hint=False)
    require(published.run("verify", "m@v9"), 3, "absent", hint=False)
    require(published.run("pull", "m@v9", "here"), 3, "error: m@v9: no region holds it verified")
    ran = published.run("replicate", "m", "--from", "eu", "--to", "ap")
    require(ran, 3, "held: m@v1 in ap: the source eu does not hold it", hint=False)
    assert not (published.folder / "here").exists()


BAD_TOPOLOGIES = {
    "a scheme": ("file://{here}/eu", "s4://bucket", "eu: store URL s4://bucket: unknown scheme"),
    "a key": (
        "home:",
        "hoem:",
        "topology.yaml:7: models.m.hoem: unknown key; did you mean 'home'?",
    ),
    "a section": ("models:", "modles:", "unknown key; did you mean 'models'?"),
    "a home that is no region": (
        "home: us",
        "home: sa",
        "topology.yaml:7: models.m.home: no region",
    ),
    "a target": ("[eu,", "[eeu,", "models.m.replicate_to[0]: no region 'eeu'; did you mean 'eu'?"),
    "no store": ('eu: {{store: "file://{here}/eu"}}', "eu: {{}}", "regions.eu.store: is missing"),
    "a secret": ("file://{here}/eu", "s3://k:s@bucket", "carries credentials"),
    "not YAML": ("regions:", "regions: [", "topology.yaml:"),
}


@pytest.mark.parametrize(("old", "new", "told"), BAD_TOPOLOGIES.values(), ids=BAD_TOPOLOGIES)
def test_a_topology_that_is_wrong(published: Estate, old: str, new: str, told: str) -> None:
    """Every command says so, where, and touches nothing."""
    before = published.snapshot()
    file = published.folder / "topology.yaml"
    text = file.read_text()
    where = {"here": published.folder}
    assert old.format(**where) in text
    file.write_text(text.replace(old.format(**where), new.format(**where)))
    for line in (("status",), ("replicate",), PUBLISH, ("verify", "m")):
        ran = published.run(*line)
        require(ran, 2, "error: ", told, hint=False)
    assert published.snapshot() == before


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("s3://bucket?endpoint=http://example.com", "is plain HTTP"),
        ("s3://bucket?endpont=https://example.com", "unknown option 'endpont'"),
        ("s3://bucket?profile=nobody", "there is no profile 'nobody'"),
        ("gs://b", "names no bucket"),
        ("az://account", "does not name an account and a container"),
    ],
)
def test_a_store_that_cannot_be_opened(published: Estate, url: str, told: str) -> None:
    """The region is unknown, and why; validate takes it for what it is."""
    published.write(eu=url)
    require(published.run("status"), 5, "unknown", told)
    require(published.run("replicate", "m"), 5, "held: m@v1 in eu: ", told)
    require(published.run("validate"), 2, "error: eu: ", told)
    assert published.run("verify", "m", "--region", "ap").code == 0, "the others are served"


def test_no_topology_at_all(estate: Estate) -> None:
    (estate.folder / "topology.yaml").unlink()
    require(estate.run("status"), 2, "error: no topology.yaml in ", "mlplatform init")
    require(estate.run("status", "--topology", "x.yaml"), 2, "x.yaml: no such file", "--topology")


def test_the_first_command_after_init(tmp_path: Path) -> None:
    """Folders that the first write makes are no error, and no region is unknown."""
    estate = Estate(tmp_path)
    (tmp_path / "topology.yaml").unlink()
    estate.good("init")
    require(estate.run("status"), 0, "absent", hint=False)
    estate.good("publish", "model", "--model", "resnet50", "--version", "v1.0.0")
    estate.good("replicate")
    require(estate.run("replicate"), 0, "nothing to do", hint=False)


# ---------------------------------------------------------------------------------------- manifests


def truncated(body: bytes) -> bytes:
    return body[: len(body) // 2]


def rewritten(body: bytes) -> bytes:
    return json.dumps(json.loads(body), indent=2).encode()


def renamed(body: bytes) -> bytes:
    return body.replace(b'"version":"v1"', b'"version":"v7"')


def with_other_blocks(body: bytes) -> bytes:
    manifest = json.loads(body)
    manifest["files"][0]["blocks"] = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
    return canonical(manifest)


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "truncated": truncated,
    "empty": lambda body: b"",
    "foreign": lambda body: b'{"schemaVersion": 2, "mediaType": "application/vnd.oci.image"}',
    "no text": lambda body: os.urandom(200),
    "very deep": lambda body: b"[" * 100_000,
    "written anew": rewritten,
    "of another version": renamed,
    "digests that do not fit": with_other_blocks,
}


@pytest.mark.parametrize("spoil", DAMAGE.values(), ids=DAMAGE)
def test_a_manifest_that_is_damaged(everywhere: Estate, spoil: Callable[[bytes], bytes]) -> None:
    """It is told, never used, and repaired from a good replica without sending what is there."""
    file = everywhere.folder / MANIFEST
    good = file.read_bytes()
    file.write_bytes(spoil(good))
    before = everywhere.snapshot("us", "ap")

    require(everywhere.run("status"), 0, "MISMATCH", "warning: m@v1 in eu:", hint=False)
    require(everywhere.run("verify", "m"), 3, "mismatch", "manifest.json", "demoted", hint=False)
    ran = everywhere.run("pull", "m", "here", "--from", "eu")
    require(ran, 3, "error: m@v1: the source eu ")
    ran = everywhere.run("replicate", "m", "--from", "eu", "--to", "ap")
    assert ran.code in (0, 3), ran.said
    require(everywhere.run("replicate", "m", "--plan"), 0, "repair: ", hint=False)
    require(everywhere.run("replicate", "m"), 0, "all bytes were there already", hint=False)
    assert file.read_bytes() == good
    assert everywhere.run("verify", "m", "--deep").code == 0
    assert everywhere.snapshot("us", "ap") == before


def test_a_manifest_that_was_tampered_with(everywhere: Estate) -> None:
    """It is consistent with itself; record and receipt speak against it, so it may be repaired."""
    file = everywhere.folder / MANIFEST
    good = file.read_bytes()
    manifest = json.loads(good)
    manifest["files"][0]["crc32c"] = "00000000"
    file.write_bytes(canonical(manifest))
    require(everywhere.run("status"), 0, "unproven", hint=False)
    require(everywhere.run("verify", "m"), 3, "mismatch", "manifest.json", "demoted", hint=False)
    require(everywhere.run("pull", "m", "here", "--from", "eu"), 3, "error: m@v1: the source eu ")
    require(everywhere.run("replicate", "m"), 0, "repair: ", hint=False)
    assert file.read_bytes() == good
    assert everywhere.run("verify", "m", "--deep").code == 0


def test_a_manifest_of_other_bytes(everywhere: Estate) -> None:
    """Somebody else published another model under the name, in full: nobody's copy is touched."""
    other = Estate(everywhere.folder / "other")
    other_bytes(other)
    other.good(*PUBLISH)
    for part in ("models", ".mlplatform/receipts"):
        shutil.rmtree(everywhere.folder / "eu" / part)
        shutil.copytree(other.folder / "us" / part, everywhere.folder / "eu" / part)
    receipt = everywhere.folder / "eu/.mlplatform/receipts/m/v1.json"
    receipt.write_text(receipt.read_text().replace('"region":"us"', '"region":"eu"'))
    before = everywhere.snapshot()

    ran = everywhere.run("replicate", "m")
    require(ran, 3, "held: m@v1 in eu: it holds other bytes under this version", hint=False)
    require(everywhere.run("verify", "m"), 3, "mismatch", "Checksum mismatch", hint=False)
    require(everywhere.run("pull", "m", "here", "--from", "eu"), 3, "error: m@v1: the source eu ")
    other_bytes(everywhere)
    require(everywhere.run(*PUBLISH), 3, "with other bytes")
    assert everywhere.snapshot() == before
    everywhere.good("pull", "m", "here")
    found = Manifest.parse((everywhere.folder / "here/manifest.json").read_bytes(), where="here")
    assert found.encoded == (everywhere.folder / "us/models/m/v1/manifest.json").read_bytes()


@pytest.mark.parametrize("spoil", [truncated, lambda body: b"{}"], ids=["truncated", "foreign"])
def test_a_receipt_that_is_damaged(everywhere: Estate, spoil: Callable[[bytes], bytes]) -> None:
    """The bytes are unproven, until a deep check proves them."""
    file = everywhere.folder / "eu/.mlplatform/receipts/m/v1.json"
    file.write_bytes(spoil(file.read_bytes()))
    require(everywhere.run("status"), 0, "unproven", hint=False)
    require(everywhere.run("verify", "m"), 5, "no receipt to compare with; --deep", hint=False)
    require(everywhere.run("verify", "m", "--deep"), 0, "good", hint=False)
    ran = everywhere.good("status", "-o", "json").json()
    assert {row["verified"] for row in ran["placements"]} == {True}


# ------------------------------------------------------------------------------- stores that refuse


@pytest.mark.parametrize(
    "server",
    [
        pytest.param(name, marks=[pytest.mark.real(name), pytest.mark.xdist_group(name)])
        for name in ("minio", "fake-gcs-server", "azurite")
    ],
)
def test_a_bucket_that_does_not_exist(
    estate: Estate, server: str, request: pytest.FixtureRequest
) -> None:
    """It is unknown, not absent; the other regions get theirs; validate says what is wrong."""
    endpoint: Endpoint = request.getfixturevalue(server.replace("-", "_"))
    site = unmade(endpoint)
    estate.env = dict(credentials(estate.folder, [endpoint]))
    estate.write(far=site.url())
    estate.good(*PUBLISH)
    missing = "no such container" if site.scheme == "az" else "no such bucket"
    ran = estate.run("replicate", "m")
    require(ran, 5, f"held: m@v1 in far: far: {site.scheme}://", site.container, missing)
    require(estate.run("status"), 5, "unknown", site.container, missing)
    require(estate.run("status", "m"), 5, "unknown", missing)
    require(estate.run("verify", "m"), 5, "unknown", missing)
    require(estate.run(*PUBLISH, "--region", "far"), 5, "held: m@v1 in far", missing)
    require(estate.run("validate"), 2, "error: far: ", missing, hint=False)
    require(estate.run("pull", "m", "here", "--from", "far"), 5, "far", missing)
    for row in estate.run("status", "-o", "json").json()["placements"]:
        assert row["integrity"] == ("unknown" if row["region"] == "far" else "verified")


def read_only(minio: Endpoint, *actions: str) -> dict[str, str]:
    """Credentials of the server's, by which only this may be done."""
    import boto3

    client = boto3.client(
        "sts",
        endpoint_url=minio.url,
        aws_access_key_id=minio.user,
        aws_secret_access_key=minio.secret,
        region_name="us-east-1",
    )
    policy = {
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Action": actions, "Resource": ["arn:aws:s3:::*"]}],
    }
    made: dict[str, Any] = client.assume_role(
        RoleArn="arn:aws:iam::000000000000:role/reader",
        RoleSessionName="reader",
        Policy=json.dumps(policy),
        DurationSeconds=900,
    )["Credentials"]
    client.close()
    return made


def with_credentials(estate: Estate, minio: Endpoint, made: dict[str, str]) -> None:
    """From now on the estate signs with these."""
    Path(estate.env["AWS_SHARED_CREDENTIALS_FILE"]).write_text(
        f"[{minio.name}]\naws_access_key_id = {made['AccessKeyId']}\n"
        f"aws_secret_access_key = {made['SecretAccessKey']}\n"
        f"aws_session_token = {made['SessionToken']}\n"
    )


@pytest.mark.xdist_group("minio")
def test_no_right_to_write(estate: Estate, minio: Endpoint) -> None:
    """Said with the right and the place; the others get theirs (8), and with the right it goes
    on from there."""
    site = fresh(minio, "rights")
    estate.env = dict(credentials(estate.folder, [minio]))
    estate.write(far=site.url())
    estate.good(*PUBLISH)
    made = read_only(minio, "s3:GetObject", "s3:ListBucket")
    with_credentials(estate, minio, made)
    ran = estate.run("replicate", "m")
    require(
        ran,
        8,
        f"ReplicationStatus: FAILED m@v1 in far: s3://{site.container}/models/m/v1/",
        "Access Denied: no right to put (403 AccessDenied",
        "mlplatform validate says which rights are missing",
    )
    for secret in (made["SecretAccessKey"], made["SessionToken"]):
        assert secret not in ran.out + ran.err
    require(estate.run("replicate", "m"), 4, "Access Denied: no right to put")
    ran = estate.run("validate")
    require(ran, 4, "error: far: put", "no right to put")
    assert re.search(r"far .* ok +ok +denied", ran.out), ran.said
    estate.env = dict(credentials(estate.folder, [minio]))
    rest = estate.good("replicate", "m", "-o", "json").json()
    assert [row["region"] for row in rest["outcomes"]] == ["far"]


@pytest.mark.xdist_group("minio")
def test_no_right_to_read(estate: Estate, minio: Endpoint) -> None:
    """What may not be looked at is unknown."""
    site = fresh(minio, "rights")
    estate.env = dict(credentials(estate.folder, [minio]))
    estate.write(far=site.url())
    estate.good(*PUBLISH)
    estate.good("replicate", "m")
    with_credentials(estate, minio, read_only(minio, "s3:ListBucket"))
    require(estate.run("status"), 5, "unknown", "Access Denied: no right to get")
    require(estate.run("replicate", "m"), 5, "held: m@v1 in far", "no right to get")
    require(estate.run("verify", "m"), 5, "far", "no right to get")
    ran = estate.run("pull", "m", "here", "--from", "far")
    require(ran, 5, "the source far could not be read", "no right to get")
    require(estate.run("validate"), 4, "error: far: get", "no right to get")


@pytest.mark.xdist_group("azurite")
def test_no_right_to_write_on_azure(estate: Estate, azurite: Endpoint) -> None:
    from datetime import UTC, datetime

    from azure.storage.blob import ContainerSasPermissions, generate_container_sas

    site = fresh(azurite, "rights")
    estate.write(far=site.url())
    estate.good(*PUBLISH, "--region", "us")
    sas = generate_container_sas(
        azurite.user,
        site.container,
        account_key=azurite.secret,
        permission=ContainerSasPermissions.from_string("rl"),
        expiry=datetime.now(UTC) + timedelta(hours=1),
        protocol="https,http",
    )
    estate.env = {"AZURE_STORAGE_SAS_TOKEN": sas}
    ran = estate.run("replicate", "m")
    require(ran, 8, "FAILED m@v1 in far: az://", site.container, "Access Denied: no right to put")
    assert sas.partition("sig=")[2].partition("&")[0] not in ran.out + ran.err
    estate.env = dict(credentials(estate.folder, [azurite]))
    estate.good("replicate", "m")


class TestPermissionsOfFolders:
    """The region is a disk that this user may not do everything on."""

    def run(self, estate: Estate, *line: str) -> Ran:
        return estate.process(*line, preexec_fn=without_privilege)

    def test_no_right_to_write(self, published: Estate) -> None:
        (published.folder / "eu").mkdir()
        (published.folder / "eu").chmod(0o555)
        ran = self.run(published, "replicate", "m")
        (published.folder / "eu").chmod(0o755)
        require(
            ran,
            8,
            f"FAILED m@v1 in eu: file://{published.folder}/eu/models/m/v1/",
            "Access Denied: no right to put: Permission denied",
            "look at the folder's permissions",
        )
        rest = published.good("replicate", "m", "-o", "json").json()
        assert [row["region"] for row in rest["outcomes"]] == ["eu"]

    def test_no_right_to_read(self, everywhere: Estate) -> None:
        (everywhere.folder / "us").chmod(0)
        try:
            told = "Access Denied: no right to get: Permission denied"
            require(self.run(everywhere, "replicate", "m"), 5, "held: m@v1 in us", told)
            require(self.run(everywhere, "status"), 5, "Access Denied: no right to list")
            ran = self.run(everywhere, "pull", "m", "here", "--from", "us")
            require(ran, 5, "the source us could not be read", told)
            assert self.run(everywhere, "pull", "m", "here").code == 0, "from another region"
        finally:
            (everywhere.folder / "us").chmod(0o755)

    def test_no_right_to_write_the_journal(self, published: Estate) -> None:
        """Nothing is done that nobody could be told of."""
        before = published.snapshot("us", "eu", "ap")
        for folder in (published.folder / "control").rglob("*"):
            folder.chmod(0o555 if folder.is_dir() else 0o444)
        (published.folder / "control").chmod(0o555)
        ran = self.run(published, "replicate", "m")
        require(ran, 4, f"error: file://{published.folder}/control/", "no right to put")
        assert published.snapshot("us", "eu", "ap") == before

    def test_no_right_to_pull_there(self, published: Estate) -> None:
        (published.folder / "shelf").mkdir()
        (published.folder / "shelf").chmod(0o555)
        ran = self.run(published, "pull", "m", "shelf/m")
        require(ran, 2, "shelf/m: cannot pull there: Permission denied")


# --------------------------------------------------------------------------------------- full disks


def test_a_file_that_is_larger_than_may_be(published: Estate) -> None:
    """A quota, as the shell's `ulimit -f` sets one."""
    (published.model / "weights.bin").write_bytes(os.urandom(1 << 20) * 3)
    published.good(*PUBLISH[:-1], "v2")
    limit = 2 << 20
    ran = published.process(
        "replicate",
        "m@v2",
        "--to",
        "eu",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    require(ran, 1, "FAILED m@v2 in eu: file://", "weights.bin: File too large", "make room")
    assert "eu/models/m/v2/manifest.json" not in published.snapshot("eu")
    published.good("replicate", "m@v2", "--to", "eu")
    assert published.run("verify", "m@v2", "--deep", "--region", "eu").code == 0


FULL_DISK = """
set -e
mkdir -p eu && mount -t tmpfs -o size=3m none eu
head -c 2500000 /dev/zero > eu/other-data
{program} replicate m --to eu,ap > first 2>&1 && exit 90 || echo $? > first.code
ls eu/models/m/v1/manifest.json 2> /dev/null && exit 91
rm eu/other-data
{program} replicate m > second 2>&1 || exit 92
{program} verify m --deep > third 2>&1 || exit 93
"""


def test_a_disk_that_is_full(published: Estate) -> None:
    """In a name space of its own, where a small file system can be mounted."""
    if shutil.which("unshare") is None:
        pytest.skip("there is no unshare(1) here")
    enter = ["unshare", "--mount"] + ([] if os.geteuid() == 0 else ["--map-root-user"])
    probe = subprocess.run(
        [*enter, "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, check=False
    )
    if probe.returncode:
        pytest.skip("no file system can be mounted here")
    program = " ".join(wrapped("")[:1]) + " -m mlplatform.cli.app"
    ran = published.process(FULL_DISK.format(program=program), program=[*enter, "sh", "-c"])
    assert ran.code == 0, (ran.said, [p.read_text() for p in published.folder.glob("[fst]*")])
    first = (published.folder / "first").read_text()
    assert (published.folder / "first.code").read_text() == "8\n", first
    assert "FAILED m@v1 in eu: file://" in first
    assert "No space left on device" in first or "do not fit" in first
    assert "hint: make room" in first
    second = " ".join((published.folder / "second").read_text().split())
    assert "m@v1 eu done" in second
    assert "m@v1 ap" not in second


# ----------------------------------------------------------------------------- two hands, one wheel


def test_two_replicators_at_once(published: Estate) -> None:
    """The second is refused, with the name of the first; when that one is done it may."""
    before = published.snapshot()
    with somebody_at_work(published):
        ran = published.run("replicate", "m")
        require(ran, 7, "error: replication/m/v1 is held by alice@laptop:42 until ", "--wait")
        require(published.run(*PUBLISH), 7, "is held by alice@laptop:42")
        assert published.snapshot() == before
        assert published.run("verify", "m", "--region", "us").code == 0, "looking is free"
        assert published.run("replicate", "m", "--plan").code == 0
    published.good("replicate", "m")


def test_a_second_replicator_that_waits(published: Estate) -> None:
    with somebody_at_work(published):
        process = published.start("replicate", "m", "--wait")
        assert process.stderr is not None
        assert any("waiting for a sign of life" in line for line in process.stderr)
        assert process.poll() is None
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, out + err


class OffByAnHour(SystemClock):
    """Whose wall clock is wrong, as a machine's may be. Monotonic time is always right."""

    def __init__(self, hours: int) -> None:
        self.off = timedelta(hours=hours)

    def now(self) -> Any:
        return super().now() + self.off


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_holder_whose_clock_is_an_hour_off(published: Estate, hours: int) -> None:
    """Its expiry lies an hour away from ours. Alive it is respected; dead it is not waited for
    any longer than others."""
    clock = OffByAnHour(hours)
    with somebody_at_work(published, clock=clock):
        require(published.run("replicate", "m"), 7, "is held by alice@laptop:42")
    with somebody_at_work(published, alive=False, clock=clock):
        began = time.monotonic()
        published.good("replicate", "m")
        assert time.monotonic() - began < 60


WRONG_CLOCK = """
from datetime import timedelta
from mlplatform.ports.clock import SystemClock
right = SystemClock.now
SystemClock.now = lambda self: right(self) + timedelta(hours={hours})
"""


def test_commands_on_machines_whose_clocks_are_an_hour_off(estate: Estate) -> None:
    """One is ahead, one is behind, and they take turns: the outcome is the same."""
    ahead, behind = (wrapped(WRONG_CLOCK.format(hours=hours)) for hours in (1, -1))
    assert estate.process(*PUBLISH, program=ahead).code == 0
    ran = estate.process("replicate", "m", program=behind)
    assert ran.code == 0, ran.said
    assert estate.process("verify", "m", "--deep", program=ahead).code == 0
    require(estate.run("status"), 0, "STORED verified", hint=False)
    file = estate.folder / "ap/models/m/v1/weights.bin"
    file.write_bytes(b"\1" + file.read_bytes()[1:])
    assert estate.process("verify", "m", "--deep", program=behind).code == 3
    require(estate.run("status"), 0, "MISMATCH", hint=False)
    assert estate.process("replicate", "m", program=ahead).code == 0
    assert estate.process("verify", "m", "--deep", program=behind).code == 0
    require(estate.process("replicate", program=behind), 0, "nothing to do", hint=False)


@pytest.mark.xdist_group("minio")
def test_a_store_that_refuses_a_wrong_clock(estate: Estate, minio: Endpoint) -> None:
    """S3 signs with the time: what it says of it is told."""
    site = fresh(minio, "clock")
    estate.env = dict(credentials(estate.folder, [minio]))
    estate.write(far=site.url())
    estate.good(*PUBLISH)
    program = wrapped(
        "import datetime, botocore.auth as auth\n"
        "right = auth.get_current_datetime\n"
        "auth.get_current_datetime = lambda *a, **n: right(*a, **n) + datetime.timedelta(hours=1)"
    )
    ran = estate.process("replicate", "m", program=program)
    require(ran, 5, "held: m@v1 in far", "Access Denied: this machine's clock is wrong")
    require(estate.process("validate", program=program), 4, "clock is wrong", "timedatectl")
    estate.good("replicate", "m")


# ------------------------------------------------------------------------------------- closed pipes


@pytest.mark.parametrize(
    "line",
    [
        ("status",),
        ("status", "-o", "json"),
        ("verify", "m", "--deep", "-o", "ndjson"),
        ("replicate", "m", "-o", "ndjson"),
        ("history",),
        ("--help",),
    ],
    ids=" ".join,
)
def test_a_reader_that_has_gone(published: Estate, line: tuple[str, ...]) -> None:
    """`| true`: the work is done, its exit code stands, and nobody complains."""
    reader, writer = os.pipe()
    os.close(reader)
    ran = published.process(*line, stdout=writer)
    os.close(writer)
    assert ran.code == 0, ran.said
    assert "Broken" not in ran.err
    assert "Traceback" not in ran.err
    if line[0] == "replicate":
        assert published.run("verify", "m", "--deep").code == 0


def test_a_disk_too_full_for_the_answer(published: Estate) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full here")
    with open("/dev/full", "w") as full:
        ran = published.process("status", stdout=full)
    assert ran.code == 1
    assert "error: stdout: No space left on device" in ran.err
