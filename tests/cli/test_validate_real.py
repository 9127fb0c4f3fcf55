"""`mlplatform validate` against real servers: which right is missing, and that nothing leaks."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Run
from tests.real.servers.launch import Endpoint

pytest.importorskip("azure.storage.blob")


def write(folder: Path, store: str) -> None:
    """A topology of one region."""
    (folder / "topology.yaml").write_text(
        f'control: "memory://control"\nregions: {{eu: {{store: "{store}"}}}}\n'
    )


def row_of(told: str) -> dict[str, Any]:
    row: dict[str, Any] = json.loads(told)["stores"][1]
    return row


@pytest.fixture
def container(azurite: Endpoint) -> str:
    """A fresh container on Azurite."""
    from azure.storage.blob import BlobServiceClient

    name = f"validate-{os.getpid()}-{datetime.now(UTC):%H%M%S%f}"
    with BlobServiceClient(azurite.url, credential=azurite.secret) as client:
        client.create_container(name)
    return name


def sas_of(azurite: Endpoint, container: str, rights: str) -> str:
    from azure.storage.blob import ContainerSasPermissions, generate_container_sas

    return generate_container_sas(
        azurite.user,
        container,
        account_key=azurite.secret,
        permission=ContainerSasPermissions.from_string(rights),
        expiry=datetime.now(UTC) + timedelta(hours=1),
        protocol="https,http",
    )


@pytest.mark.parametrize(
    ("rights", "missing"),
    [
        ("racwdl", []),
        ("rl", ["put", "delete"]),
        ("rcwl", ["delete"]),
        ("rcwd", ["list"]),
        ("cwdl", ["get"]),
    ],
)
def test_the_missing_right_is_named(
    mlplatform: Run,
    tmp_path: Path,
    azurite: Endpoint,
    container: str,
    rights: str,
    missing: list[str],
) -> None:
    write(tmp_path, f"az://{azurite.user}/{container}?endpoint={azurite.url}")
    sas = sas_of(azurite, container, rights)
    env = {"AZURE_STORAGE_SAS_TOKEN": sas}
    ran = mlplatform("validate", "-o", "json", env=env)
    assert row_of(ran.stdout)["missing_rights"] == missing, ran.stderr
    assert ran.returncode == (4 if missing else 0)
    signature = sas.partition("sig=")[2].partition("&")[0]
    assert signature not in ran.stdout + ran.stderr
    for right in missing:
        assert f"{right}" in ran.stderr
    assert mlplatform("validate", "-vvv", "--debug", env=env).stderr.count(signature) == 0


def test_a_container_that_is_not_there(mlplatform: Run, tmp_path: Path, azurite: Endpoint) -> None:
    write(tmp_path, f"az://{azurite.user}/no-such-container?endpoint={azurite.url}")
    ran = mlplatform("validate", env={"AZURE_STORAGE_KEY": azurite.secret})
    assert ran.returncode == 2
    assert ran.stderr.count("error: ") == 1


def test_a_wrong_key(mlplatform: Run, tmp_path: Path, azurite: Endpoint, container: str) -> None:
    write(tmp_path, f"az://{azurite.user}/{container}?endpoint={azurite.url}")
    ran = mlplatform("validate", "-o", "json", env={"AZURE_STORAGE_KEY": "d3Jvbmd3cm9uZ3dyb25n"})
    assert ran.returncode == 4
    assert row_of(ran.stdout)["missing_rights"] == ["list", "get", "put", "delete"]


def test_a_dialect_that_does_not_do_it_all(
    mlplatform: Run, tmp_path: Path, minio: Endpoint
) -> None:
    boto3 = pytest.importorskip("boto3")
    client = boto3.client(
        "s3",
        endpoint_url=minio.url,
        aws_access_key_id=minio.user,
        aws_secret_access_key=minio.secret,
        region_name="us-east-1",
    )
    bucket = f"validate-{os.getpid()}"
    client.create_bucket(Bucket=bucket)
    write(tmp_path, f"s3://{bucket}?endpoint={minio.url}&region=us-east-1")
    env = {"AWS_ACCESS_KEY_ID": minio.user, "AWS_SECRET_ACCESS_KEY": minio.secret}
    ran = mlplatform("validate", "-o", "json", env=env)
    row = row_of(ran.stdout)
    assert (ran.returncode, row["conditional_put"], row["conditional_delete"]) == (0, "ok", "no")
    assert "warning: eu: conditional delete: no: " in ran.stderr
    assert row["features"]["conditional_delete"] is False

    wrong = mlplatform(
        "validate", "-o", "json", env={**env, "AWS_SECRET_ACCESS_KEY": "wrong-secret-key"}
    )
    assert wrong.returncode == 4, wrong.stderr
    assert "wrong-secret-key" not in wrong.stderr

    write(tmp_path, f"s3://no-such-bucket?endpoint={minio.url}&region=us-east-1")
    assert mlplatform("validate", env=env).returncode == 2
