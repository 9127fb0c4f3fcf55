"""The model server's Deployment against the server: its variables, its paths and its times. That a
cluster takes it is tested with the other manifests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from mlplatform_serving.http import routes
from mlplatform_serving.http.auth import Scope
from mlplatform_serving.settings import Settings, without_effect
from tests.serving.rig import environment, identity, publish, running
from tests.serving.safety.test_tls import write_pair

MANIFEST = Path(__file__).parents[3] / "infra/kubernetes/model-server.yaml"
DOCUMENTS = {each["kind"]: each for each in yaml.safe_load_all(MANIFEST.read_text())}
POD: dict[str, Any] = DOCUMENTS["Deployment"]["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]
VARIABLES: dict[str, str] = {each["name"]: each["value"] for each in CONTAINER["env"]}


def test_every_variable_is_a_setting_and_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert settings.region == "us-east-1"
    told = {each.upper() for each in Settings.model_fields} | {"REGION", "ENV"}
    assert set(VARIABLES) <= told
    assert list(without_effect(VARIABLES)) == []
    assert (settings.admin_token_file, settings.prometheus_port) == (
        Path("/etc/mlplatform/tokens/admin"),
        9466,
    )


def test_it_ends_within_its_grace() -> None:
    needed = sum(float(VARIABLES[f"SHUTDOWN_{each}_SECONDS"]) for each in ("DELAY", "TIMEOUT"))
    assert needed + 10 <= POD["terminationGracePeriodSeconds"]


def test_each_probe_asks_what_is_answered_to_everybody() -> None:
    for each in ("startup", "readiness", "liveness"):
        asked = CONTAINER[f"{each}Probe"]["httpGet"]
        route = routes.find("GET", asked["path"]).route
        assert (route.handler, route.scope) == (
            {"startup": "startup", "readiness": "ready", "liveness": "live"}[each],
            Scope.OPEN,
        )
        assert asked["port"] in {port["name"] for port in CONTAINER["ports"]}


def test_what_it_mounts_it_writes_only_where_it_must() -> None:
    read_only = {each["mountPath"] for each in CONTAINER["volumeMounts"] if each.get("readOnly")}
    assert {each["mountPath"] for each in CONTAINER["volumeMounts"]} - read_only == {
        "/models",
        "/tmp",
    }
    assert DOCUMENTS["Service"]["spec"]["selector"].items() <= (
        DOCUMENTS["Deployment"]["spec"]["template"]["metadata"]["labels"].items()
    )


COMMAND = [sys.executable, *CONTAINER["lifecycle"]["preStop"]["exec"]["command"][1:]]


def duck(*more: str, **settings: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *more],
        env=environment(**settings),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("secure", [False, True])
def test_the_pre_stop_makes_a_lame_duck(tmp_path: Path, secure: bool) -> None:
    publish(tmp_path / "models", "echo", "v1", identity("FP32"))
    (tmp_path / "admin").write_text("# of the pod\nsecret\n")
    settings: dict[str, object] = {"ADMIN_TOKEN_FILE": tmp_path / "admin"}
    if secure:
        certificate, key = write_pair(tmp_path, "pod")
        settings |= {"TLS_CERT_FILE": certificate, "TLS_KEY_FILE": key}
    with running(tmp_path / "models", **settings) as server:
        done = duck(PORT=server.port, **settings)
        assert (done.returncode, done.stderr) == (0, "")
        server.wait_for("lame duck: on")
        assert duck("--off", PORT=server.port, **settings).returncode == 0
        server.wait_for("lame duck: off")
        without = {**settings, "ADMIN_TOKEN_FILE": ""}
        assert "401" in duck(PORT=server.port, **without).stderr
        if secure:
            (other := tmp_path / "other").mkdir()
            foreign = {**settings, "TLS_CERT_FILE": write_pair(other, "other")[0]}
            done = duck(PORT=server.port, **foreign)
            assert done.returncode == 1
            assert "another certificate" in done.stderr


def test_without_a_server_it_says_so(tmp_path: Path) -> None:
    done = duck(PORT=9)
    assert done.returncode == 1
    assert done.stderr.startswith("error: the server could not be asked: ")
