"""Who may do what: 401 is who are you, 403 is not you."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mlplatform.adapters.admin_door import TOKEN_FILE
from mlplatform.adapters.http_fleet import open_fleet
from mlplatform.core.errors import Denied
from mlplatform_serving.http.auth import Gate, Scope, TokenFile, TokensUnreadable
from tests.serving.rig import ServerProcess, layers, publish, running

INFER = ("POST", "/v2/models/layers/infer")
LOAD = ("POST", "/v2/repository/models/layers/load")
METRICS = ("GET", "/metrics")
OPEN = ("GET", "/v2/repository/index")
X = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}
BODIES = {INFER: {"inputs": [X]}, LOAD: {}}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("guarded")
    publish(folder / "models", "layers", "v1", layers())
    files = {}
    for scope in ("infer", "admin", "metrics"):
        path = folder / scope
        path.write_text(f"# {scope}\n{scope}-old\n{scope}-token\n")
        files[f"{scope.upper()}_TOKEN_FILE"] = path
    with running(folder / "models", **files) as server:
        yield server


TABLE = [
    *((question, None, 401) for question in (INFER, LOAD, METRICS)),
    *((question, "Bearer nobody", 401) for question in (INFER, LOAD, METRICS)),
    (INFER, "Bearer infer-token", 200),
    (INFER, "bearer  infer-old", 200),
    (INFER, "Bearer admin-token", 403),
    (INFER, "Basic infer-token", 401),
    (INFER, "Bearer", 401),
    (INFER, "Bearer infer-toke", 401),
    (LOAD, "Bearer admin-token", 200),
    (LOAD, "Bearer infer-token", 403),
    (METRICS, "Bearer metrics-token", 200),
    (METRICS, "Bearer admin-token", 403),
    (OPEN, None, 200),
    (OPEN, "Bearer nobody", 200),
    (("GET", "/health/ready"), None, 200),
    (("GET", "/v2/models/stats"), None, 401),
    (("POST", "/v1/models/layers/predict"), None, 401),
    (("POST", "/v1/models/layers/unload"), "Bearer infer-token", 403),
    (("POST", "/admin"), None, 401),
]


@pytest.mark.parametrize(("question", "token", "status"), TABLE)
def test_who_may(
    guarded: ServerProcess, question: tuple[str, str], token: str | None, status: int
) -> None:
    headers = {} if token is None else {"Authorization": token}
    answer = guarded.ask(*question, BODIES.get(question), headers)
    assert answer.status == status
    if status == 401:
        assert answer.headers["www-authenticate"] == "Bearer"
    if status >= 400:
        assert list(answer.json) == ["error"]
        assert "nobody" not in answer.json["error"].replace("nobody has been", "")


def test_without_files_all_may_infer_and_nobody_may_load(server: ServerProcess) -> None:
    assert server.ask(*INFER, BODIES[INFER]).status == 200
    assert server.ask(*METRICS).status == 200
    for path in (LOAD[1], "/v2/repository/models/layers/unload", "/v1/models/layers/unload"):
        answer = server.ask("POST", path, {}, {"Authorization": "Bearer anything"})
        assert answer.status == 403
        assert "ADMIN_TOKEN_FILE" in answer.json["error"]
    assert server.ask("POST", "/admin", {"lame_duck": True}).status == 403
    assert server.ask("GET", "/health/ready").status == 200


def test_the_control_planes_adapter_makes_a_lame_duck(
    guarded: ServerProcess, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text("admin-token\n")
    with pytest.raises(Denied):
        open_fleet(guarded.url, environ={}).lame_duck(enter=True)
    fleet = open_fleet(guarded.url, environ={TOKEN_FILE: str(token)})
    models = frozenset({"layers"})
    before = fleet.served(models)
    digest = guarded.ask("GET", "/v2/models/layers").json["digest"]
    assert before["layers"].versions == {"v1": digest}  # type: ignore[union-attr]
    fleet.lame_duck(enter=True)
    try:
        assert fleet.served(models)["layers"].versions == {}  # type: ignore[union-attr]
        bearer = {"Authorization": "Bearer infer-token"}
        answer = guarded.ask(*INFER, BODIES[INFER], bearer)
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert guarded.ask("GET", "/ready").status == 503
        assert guarded.ask("GET", "/v2/models/layers/ready").status == 400
        assert guarded.ask("GET", "/health").status == 200
        assert guarded.ask(*OPEN).json[0]["reason"] == "lame duck"
    finally:
        fleet.lame_duck(enter=False)
    assert fleet.served(models) == before


def test_the_door_behind_a_proxy_that_keeps_authorization(guarded: ServerProcess) -> None:
    """As `kubernetes_fleet` sends it through the API server."""
    answer = guarded.ask("POST", "/admin", {}, {"X-Mlplatform-Admin-Token": "admin-token"})
    assert answer.json == {"lame_duck": False}
    assert guarded.ask("POST", "/admin", {"lame": 1}, _admin()).status == 400
    # It opens that door only.
    answer = guarded.ask(*METRICS, None, {"X-Mlplatform-Admin-Token": "metrics-token"})
    assert answer.status == 401


def _admin() -> dict[str, str]:
    return {"Authorization": "Bearer admin-token"}


class TestFiles:
    def test_a_file_is_read_again_when_it_changes(self, tmp_path: Path) -> None:
        path, now = tmp_path / "tokens", 0.0
        path.write_text("one\n")
        tokens = TokenFile(path, monotonic=lambda: now)
        path.write_text("two, longer\n")
        assert tokens.has(b"one")
        now = 1.0
        assert not tokens.has(b"one")
        assert tokens.has(b"two, longer")

    def test_while_it_cannot_be_read_the_last_ones_hold(self, tmp_path: Path) -> None:
        path, now = tmp_path / "tokens", 0.0
        path.write_text("one\n")
        tokens = TokenFile(path, monotonic=lambda: now)
        path.unlink()
        now = 5.0
        assert tokens.has(b"one")
        path.write_text("\n# none\n")
        now = 10.0
        assert tokens.has(b"one")

    @pytest.mark.parametrize("text", [None, "", "# only this\n"])
    def test_a_file_without_a_token(self, tmp_path: Path, text: str | None) -> None:
        path = tmp_path / "tokens"
        if text is not None:
            path.write_text(text)
        with pytest.raises(TokensUnreadable):
            Gate({Scope.ADMIN: path})
