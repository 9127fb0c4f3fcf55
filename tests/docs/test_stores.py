"""`docs/stores.md` against the adapters, and the policies of `infra/iam/` against a server."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from botocore.session import Session

from mlplatform import wiring
from mlplatform.adapters import s3
from mlplatform.core.digest import digest_of
from mlplatform.core.errors import Denied, UsageError
from mlplatform.core.store_url import StoreURL
from tests.docs.pages import ROOT
from tests.real.servers.launch import Endpoint

PAGE = (ROOT / "docs/stores.md").read_text()
IAM = ROOT / "infra/iam"
OTHERS = ("route53-", "cost-")
"""How the names of policies begin that are not for stores; they have pages and tests of their own.
"""
EXAMPLES = {
    "file": "file:///srv/models",
    "memory": "memory://scratch",
    "s3": "s3://bucket",
    "gs": "gs://bucket",
    "az": "az://account/container",
}
AZURE = "Microsoft.Storage/storageAccounts/blobServices/containers/"


def tables(heading: str) -> Iterator[list[list[str]]]:
    """The tables below a heading, each as rows of cells, the head first."""
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    assert section, f"the page has no section {heading}"
    for is_table, lines in itertools.groupby(section.splitlines(), lambda line: line[:1] == "|"):
        if is_table:
            rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
            yield [row for row in rows if set(row[0]) != {"-"}]


def rights() -> dict[str, dict[str, set[str]]]:
    """What each of our rights is called by each provider, as the page has it."""
    head, *rows = list(tables("Rights"))[1]
    return {
        row[0]: {
            provider: set(re.findall(r"`([\w:./]+)`", cell))
            for provider, cell in zip(head[1:], row[1:], strict=True)
        }
        for row in rows
    }


def four(provider: str) -> set[str]:
    """All that a replicator can need."""
    return set().union(*(rights()[right][provider] for right in ("list", "get", "put", "delete")))


# ---------------------------------------------------------------------------------- the page


def test_every_scheme_has_a_section() -> None:
    assert set(re.findall(r"^## (\w+)://$", PAGE, re.MULTILINE)) == set(wiring.ADAPTERS)


@pytest.mark.parametrize("scheme", wiring.ADAPTERS)
def test_the_options_are_those_of_the_adapter(scheme: str) -> None:
    with pytest.raises(UsageError) as refused:
        wiring.open_store(StoreURL.parse(f"{EXAMPLES[scheme]}?no-such-option=1"))
    known = str(refused.value.hint).removeprefix("known here: ")
    told = [
        row[0].strip("`")
        for head, *rows in tables(f"{scheme}://")
        for row in rows
        if head[0] == "option"
    ]
    assert sorted(told) == ([] if known == "none" else known.split(", "))


def test_the_dialects_are_those_of_the_adapter() -> None:
    (meaning,) = re.findall(r"^\| `dialect` \|([^|]+)\|", PAGE, re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", meaning)) == set(s3.DIALECTS)


def test_what_validate_shows_of_each_dialect() -> None:
    _, *rows = next(tables("validate"))
    shown = {
        name.strip(" `").lower().removeprefix("dialect="): [cell.split(" ")[0] for cell in cells]
        for names, *cells in rows
        for name in names.split(",")
    }
    for name in ("aws", "minio", "versitygw", "r2", "other"):
        has = s3.DIALECTS[name].features
        found = (has.conditional_put, has.conditional_complete, has.conditional_delete)
        assert shown[name] == ["ok" if holds else "no" for holds in found], name


def test_lifecycle_rules_are_json() -> None:
    blocks = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    assert [sorted(json.loads(block)) for block in blocks] == [["Rules"], ["rule"]]


# ------------------------------------------------------------------------------ the policies


def test_every_policy_is_linked_and_tried() -> None:
    files = {path.name for path in IAM.iterdir() if not path.name.startswith(OTHERS)}
    assert files == set(re.findall(r"\(\.\./infra/iam/([\w.-]+)\)", PAGE))
    assert files == {
        "s3-replicator.json",
        "s3-reader.json",
        "gcs-replicator.yaml",
        "azure-replicator.json",
    }


def test_the_google_role_names_what_the_adapter_needs() -> None:
    role = yaml.safe_load((IAM / "gcs-replicator.yaml").read_text())
    assert set(role) == {"title", "description", "stage", "includedPermissions"}
    assert set(role["includedPermissions"]) == four("GCS")


def test_the_azure_role_names_what_the_adapter_needs() -> None:
    role = json.loads((IAM / "azure-replicator.json").read_text())
    assert set(role["DataActions"]) == {AZURE + action for action in four("Azure")}
    assert role["Actions"] == role["NotActions"] == role["NotDataActions"] == []


@pytest.mark.parametrize(
    ("name", "needed"),
    [("s3-replicator.json", "list get put delete"), ("s3-reader.json", "list get")],
)
def test_the_amazon_policies_name_what_the_adapter_needs(name: str, needed: str) -> None:
    policy = json.loads((IAM / name).read_text())
    named = [action for part in policy["Statement"] for action in _several(part["Action"])]
    assert set(named) == set().union(*(rights()[right]["S3"] for right in needed.split()))
    assert {part["Effect"] for part in policy["Statement"]} == {"Allow"}


def _several(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


# ------------------------------------------------------------------- the policies on a server

Identity = Mapping[str, str]
_worlds = itertools.count(1)
HOME, TARGET = "us-east-1", "eu-west-1"


class Platform:
    """A control bucket and two regions on MinIO, and who may do what there."""

    def __init__(self, server: Endpoint, folder: Path) -> None:
        self.server, self.folder = server, folder
        self.id = f"iam-{os.getpid()}-{next(_worlds)}"
        for place in ("control", HOME, TARGET):
            self.client("s3").create_bucket(Bucket=self.bucket(place))
        (folder / "topology.yaml").write_text(
            f'control: "{self.url("control")}"\n'
            f'regions: {{{HOME}: {{store: "{self.url(HOME)}"}}, '
            f'{TARGET}: {{store: "{self.url(TARGET)}"}}}}\n'
            f"models: {{resnet50: {{version: v1, home: {HOME}, replicate_to: [{TARGET}]}}}}\n"
        )
        (folder / "resnet50").mkdir()
        (folder / "resnet50/labels.json").write_text('["cat", "dog"]')
        (folder / "resnet50/model.onnx").write_bytes(bytes(24 * 1024 * 1024))  # in parts

    def client(self, service: str) -> Any:
        """As the server's root."""
        session = Session()
        session.set_credentials(self.server.user, self.server.secret)
        return session.create_client(service, region_name="us-east-1", endpoint_url=self.server.url)

    def bucket(self, place: str) -> str:
        return f"{self.id}-{place}"

    def url(self, place: str) -> str:
        return f"s3://{self.bucket(place)}?endpoint={self.server.url}"

    def identity(self, policy: str) -> Identity:
        """Credentials that may do what `policy` says, and nothing else."""
        found = self.client("sts").assume_role(
            RoleArn="arn:aws:iam::000000000000:role/mlplatform",
            RoleSessionName="mlplatform",
            Policy=json.dumps(json.loads(policy), separators=(",", ":")),
        )["Credentials"]
        return {
            "AWS_ACCESS_KEY_ID": found["AccessKeyId"],
            "AWS_SECRET_ACCESS_KEY": found["SecretAccessKey"],
            "AWS_SESSION_TOKEN": found["SessionToken"],
        }

    def by(self, name: str, *, source: str = HOME, target: str = TARGET) -> Identity:
        """The identity of a policy in `infra/iam`, with the names of our buckets in it."""
        text = (IAM / name).read_text()
        places = {"us-east-1": source, "eu-west-1": target}
        for region, place in places.items():
            text = text.replace(f"ml-models-{region}", self.bucket(place))
        return self.identity(text.replace("ml-control", self.bucket("control")))

    def store(self, identity: Identity, place: str) -> s3.S3Store:
        session = Session()
        session.set_credentials(*identity.values())
        return s3.open_store(StoreURL.parse(self.url(place)), session=session)

    def run(self, identity: Identity, *arguments: str) -> subprocess.CompletedProcess[str]:
        kept = {name: value for name, value in os.environ.items() if name[:4] != "AWS_"}
        return subprocess.run(
            [sys.executable, "-m", "mlplatform.cli.app", *arguments],
            cwd=self.folder,
            env={**kept, **identity},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )


@pytest.fixture
def platform(minio: Endpoint, tmp_path: Path) -> Platform:
    return Platform(minio, tmp_path)


def test_the_amazon_policies_are_enough_and_delete_no_model(platform: Platform) -> None:
    publisher = platform.by("s3-replicator.json", source=TARGET, target=HOME)
    replicator = platform.by("s3-replicator.json")
    reader = platform.by("s3-reader.json")
    replicator_target = platform.store(replicator, TARGET)
    replicator_target.begin("models/resnet50/v0/model.onnx", size_bytes=1, part_bytes=1)
    publish = ("publish", "resnet50", "--model", "resnet50", "--version", "v1")
    for identity, command in (
        (publisher, publish),
        (replicator, ("replicate",)),
        (replicator, ("verify", "resnet50", "--deep")),
        (replicator, ("clean", "--region", TARGET, "--older-than", "0", "--yes")),
        (reader, ("pull", "resnet50", "here", "--from", TARGET)),
    ):
        ran = platform.run(identity, *command)
        assert ran.returncode == 0, f"{command}: {ran.stderr}"
    assert list(replicator_target.uploads("")) == []
    # What the mark of an unfinished operation is deleted for.
    assert list(platform.store(replicator, "control").list("unfinished/")) == []

    model = "models/resnet50/v1/model.onnx"
    for identity in (publisher, replicator, reader):
        for place in (HOME, TARGET):
            with pytest.raises(Denied, match="no right to delete"):
                platform.store(identity, place).delete(model)
    for identity, place in ((replicator, HOME), (publisher, TARGET), (reader, TARGET)):
        with pytest.raises(Denied, match="no right to put"):
            platform.store(identity, place).put(model, b"x")
    assert platform.run(replicator, "replicate").stderr.endswith("nothing to do\n")


def test_validate_shows_what_a_policy_leaves_out(platform: Platform) -> None:
    ran = platform.run(platform.by("s3-replicator.json"), "validate", "-o", "json")
    assert ran.returncode == 4
    missing = {row["place"]: row["missing_rights"] for row in json.loads(ran.stdout)["stores"]}
    assert missing == {"control": [], HOME: ["put", "delete"], TARGET: []}


def _part(store: s3.S3Store) -> None:
    body = bytes(1024)
    upload = store.begin("k", size_bytes=1024, part_bytes=1024)
    upload.part(0, body, digests=digest_of(body))
    upload.parts()


NEEDED: Mapping[str, Callable[[s3.S3Store], object]] = {
    "s3:ListBucket": lambda store: list(store.list("")),
    "s3:ListBucketMultipartUploads": lambda store: list(store.uploads("k")),
    "s3:GetObject": lambda store: store.stat("k"),
    "s3:PutObject": lambda store: store.put("k", b"x"),
    "s3:ListMultipartUploadParts": _part,
    "s3:AbortMultipartUpload": lambda store: store.begin("k", size_bytes=1, part_bytes=1).abort(),
    "s3:DeleteObject": lambda store: store.delete("k"),
}


def test_each_of_amazon_s_actions_is_needed_by_something(platform: Platform) -> None:
    assert set(NEEDED) == four("S3")
    platform.client("s3").put_object(Bucket=platform.bucket(HOME), Key="k", Body=b"x")
    for action, verb in NEEDED.items():
        for allowed in (set(NEEDED), set(NEEDED) - {action}):
            store = platform.store(platform.identity(_allowing(allowed)), HOME)
            if action in allowed:
                verb(store)
                store.put("k", b"x")
            else:
                with pytest.raises(Denied):
                    verb(store)


def _allowing(actions: set[str]) -> str:
    statement = {"Effect": "Allow", "Action": sorted(actions), "Resource": "arn:aws:s3:::*"}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})
