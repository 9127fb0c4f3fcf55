"""What operators deploy, on what it is deployed on: an API server that enforces the restricted
profile, and systemd's own judgement."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from mlplatform.cli import app, frame
from tests.real.servers.control_plane import ControlPlane

INFRA = Path(__file__).parents[3] / "infra"
MANIFESTS = sorted((INFRA / "kubernetes").glob("*.yaml"))
UNITS = sorted((INFRA / "systemd").glob("*.service"))
SERVER = "model-server.yaml"
"""Runs another program than ours; tests/serving has what is said of it."""
NAMESPACE = "mlplatform"
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}
_PLURALS = {
    "Deployment": "deployments",
    "PodDisruptionBudget": "poddisruptionbudgets",
    "Service": "services",
    "ServiceAccount": "serviceaccounts",
}


def documents(path: Path) -> list[Any]:
    return [each for each in yaml.safe_load_all(path.read_text()) if each]


@pytest.fixture(scope="module")
def restricted(kubernetes: ControlPlane) -> ControlPlane:
    """A namespace in which no pod may be more than it must."""
    body = {"metadata": {"name": NAMESPACE, "labels": RESTRICTED}}
    kubernetes.ask("POST", "/api/v1/namespaces", body)
    return kubernetes


@pytest.mark.real("kubernetes")
@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_a_cluster_takes_what_is_deployed(restricted: ControlPlane, path: Path) -> None:
    for document in documents(path):
        version = document["apiVersion"]
        base = f"/api/{version}" if "/" not in version else f"/apis/{version}"
        where = f"{base}/namespaces/{NAMESPACE}/{_PLURALS[document['kind']]}"
        strict = "?dryRun=All&fieldValidation=Strict"
        assert restricted.ask("POST", where + strict, document)["kind"] == document["kind"]
        if document["kind"] != "Deployment":
            continue
        template = document["spec"]["template"]
        template["spec"].pop("serviceAccountName", None)  # no controller makes tokens here
        pod = {"apiVersion": "v1", "kind": "Pod", **template}
        pod["metadata"] = {**template["metadata"], "name": "tried"}
        pods = f"/api/v1/namespaces/{NAMESPACE}/pods{strict}"
        assert restricted.ask("POST", pods, pod)["kind"] == "Pod"
        loose = json.loads(json.dumps(pod))
        loose["spec"]["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = True
        with pytest.raises(RuntimeError, match="violates PodSecurity"):
            restricted.ask("POST", pods, loose)


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_a_pod_has_no_right_in_the_cluster_and_writes_nowhere(path: Path) -> None:
    for document in documents(path):
        if document["kind"] != "Deployment":
            continue
        pod = document["spec"]["template"]["spec"]
        assert pod["automountServiceAccountToken"] is False
        (container,) = pod["containers"]
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["resources"]["limits"]["memory"]
        if path.name != SERVER:
            assert all("value" not in each or "/" in each["value"] for each in container["env"])


def lines() -> dict[str, list[str]]:
    """What is run, by the file that says so."""
    found = {
        path.name: document["spec"]["template"]["spec"]["containers"][0]["command"]
        for path in MANIFESTS
        for document in documents(path)
        if document["kind"] == "Deployment" and path.name != SERVER
    }
    for path in UNITS:
        (line,) = re.findall(r"^ExecStart=(.+)$", path.read_text(), re.MULTILINE)
        found[path.name] = shlex.split(line)
    return found


@pytest.mark.parametrize("name", lines())
def test_the_command_that_is_run_has_these_options(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    program, *arguments = lines()[name]
    assert Path(program).name == "mlplatform"
    assert frame.run(app.build(), [*arguments, "--help"], prog="mlplatform") == 0
    assert "--metrics" in capsys.readouterr().out


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd here")
@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_systemd_understands_the_unit_and_calls_it_safe(tmp_path: Path, path: Path) -> None:
    text = path.read_text().replace("/opt/mlplatform/bin/mlplatform", sys.executable)
    unit = tmp_path / path.name.replace("@.", "@frankfurt.")
    unit.write_text(text)
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--recursive-errors=no", str(unit)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert unit.name not in verified.stderr, verified.stderr
    judged = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=20", str(unit)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert judged.returncode == 0, judged.stdout
