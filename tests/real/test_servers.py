"""Each real server starts, answers a real request through its SDK, and ends with its owner."""

import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import boto3
import pytest
from azure.storage.blob import BlobServiceClient
from botocore.config import Config
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage

from tests.real.servers import catalogue
from tests.real.servers.control_plane import ControlPlane
from tests.real.servers.launch import Endpoint, running
from tests.real.servers.toxics import between
from tests.waiting import becomes

BYTES = b"some bytes of a model"


def _each(*servers: str) -> pytest.MarkDecorator:
    rows = [
        pytest.param(name.replace("-", "_"), marks=pytest.mark.real(name), id=name)
        for name in servers
    ]
    return pytest.mark.parametrize("fixture", rows)


@_each("minio", "versitygw", "moto")
def test_an_s3_server_keeps_an_object(request: pytest.FixtureRequest, fixture: str) -> None:
    server: Endpoint = request.getfixturevalue(fixture)
    client = boto3.client(
        "s3",
        endpoint_url=server.url,
        aws_access_key_id=server.user,
        aws_secret_access_key=server.secret,
        region_name="us-east-1",
        config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}),
    )
    client.create_bucket(Bucket="models")
    client.put_object(Bucket="models", Key="a/b", Body=BYTES)
    assert client.get_object(Bucket="models", Key="a/b")["Body"].read() == BYTES
    client.close()


@_each("fake-gcs-server", "gcp-storage-emulator", "gcsemulator")
def test_a_gcs_emulator_keeps_an_object(request: pytest.FixtureRequest, fixture: str) -> None:
    server: Endpoint = request.getfixturevalue(fixture)
    client = storage.Client(
        project="test",
        credentials=AnonymousCredentials(),  # type: ignore[no-untyped-call]
        client_options={"api_endpoint": server.url},
    )
    bucket = client.create_bucket("models")
    bucket.blob("a/b").upload_from_string(BYTES)
    found = client.bucket("models").get_blob("a/b")
    assert (found.size, found.generation > 0) == (len(BYTES), True)
    client.close()


def test_azurite_keeps_a_blob(azurite: Endpoint) -> None:
    with BlobServiceClient(
        azurite.url, credential={"account_name": azurite.user, "account_key": azurite.secret}
    ) as client:
        blob = client.create_container("models").get_blob_client("a/b")
        blob.upload_blob(BYTES)
        assert blob.download_blob().readall() == BYTES


def test_toxiproxy_makes_weather_between(toxiproxy: Endpoint, minio: Endpoint) -> None:
    def ready() -> float:
        """After how many seconds it says so."""
        started = time.monotonic()
        with urllib.request.urlopen(f"{line.url}/minio/health/ready", timeout=60) as answer:
            assert answer.status == 200
        return time.monotonic() - started

    with between(toxiproxy, minio) as line:
        ready()
        line.add("latency", latency=2000)
        assert ready() >= 2
        line.cut()
        with pytest.raises(OSError, match="refused"):
            ready()
        line.calm()
        becomes(ready, lambda seconds: seconds < 2)


def test_promtool_checks_rules(promtool: Path, tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text("groups: [{name: g, rules: [{alert: A, expr: 'up == 0'}]}]\n")
    said = subprocess.run(
        [promtool, "check", "rules", rules], capture_output=True, text=True, check=True
    )
    assert "SUCCESS: 1 rules found" in said.stdout


def test_rclone_is_the_locked_version(rclone: Path) -> None:
    said = subprocess.run([rclone, "version"], capture_output=True, text=True, check=True)
    assert said.stdout.startswith(f"rclone v{catalogue.BY_NAME['rclone'].version}")


def test_kubernetes_keeps_what_it_was_told_over_a_restart(kubernetes: ControlPlane) -> None:
    assert (
        kubernetes.ask("GET", "/version")["gitVersion"] == catalogue.BY_NAME["kubernetes"].version
    )
    # Its own: `default` is made a moment after the API server says that it is ready.
    kubernetes.ask("POST", "/api/v1/namespaces", {"metadata": {"name": "kept"}})
    settings = {"metadata": {"name": "settings"}, "data": {"a": "1"}}
    kubernetes.ask("POST", "/api/v1/namespaces/kept/configmaps", settings)
    kubernetes.restart()
    found = kubernetes.ask("GET", "/api/v1/namespaces/kept/configmaps/settings")
    assert found["data"] == {"a": "1"}
    for program in ("kube-controller-manager", "kube-scheduler"):
        path = catalogue.BY_NAME["kubernetes"].home / program
        said = subprocess.run([path, "--version"], capture_output=True, text=True, check=True)
        assert said.stdout.strip() == "Kubernetes v1.34.4"


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _gone_within(pid: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while _alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not _alive(pid)


def test_a_server_ends_with_its_block(toxiproxy: Endpoint) -> None:
    with running("toxiproxy") as second:
        assert second.port != toxiproxy.port
        assert _alive(second.pid)
    assert _gone_within(second.pid, 60)


def test_a_server_ends_when_its_owner_is_killed(toxiproxy: Endpoint) -> None:
    """``kill -9`` runs no clean-up; the guard sees its standard input close."""
    program = (
        "import time\nfrom tests.real.servers.launch import running\n"
        "with running('toxiproxy') as server:\n"
        "    print(server.pid, flush=True)\n    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        assert _alive(pid)
        owner.send_signal(signal.SIGKILL)
    assert _gone_within(pid, 60)


def test_the_locks_carry_no_address() -> None:
    """Whoever installs from them decides where packages come from."""
    address = re.compile(
        r"^\s*(--\S*(index|links)|.*https?://\S*(\.whl|\.t(ar\.)?gz)|\.|/)", re.MULTILINE
    )
    for lock in catalogue.REQUIREMENTS.glob("*.txt"):
        assert not address.search(lock.read_text()), lock.name
    assert '"resolved"' not in (catalogue.HERE / "azurite/package-lock.json").read_text()
