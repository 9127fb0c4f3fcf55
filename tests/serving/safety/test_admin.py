"""The admin door and the description of everything: what is answered is described, and what is
described is answered."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from mlplatform_serving.http import routes
from mlplatform_serving.http.admin import told_settings
from mlplatform_serving.http.auth import Scope
from mlplatform_serving.http.openapi import ROUTES, SCHEMAS, describe, page
from mlplatform_serving.protocol import messages
from mlplatform_serving.protocol.predict import PredictRequest
from mlplatform_serving.settings import Settings
from tests.serving.rig import ServerProcess, layers, publish, running

BEARER = {"Authorization": "Bearer admin-token"}


@pytest.fixture(scope="module")
def administered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("administered")
    publish(folder / "models", "layers", "v1", layers())
    publish(folder / "models", "layers", "v2", layers(scale=2))
    (folder / "token").write_text("admin-token\n")
    with running(folder / "models", ADMIN_TOKEN_FILE=folder / "token") as server:
        yield server


REFUSED: dict[str, tuple[str, str, Any, int, str]] = {
    "no version": ("POST", "/admin/models/layers/load", {"version": "v9"}, 400, "failed to"),
    "no name": ("POST", "/admin/models/-/load", {}, 400, "model: "),
    "no model": ("POST", "/admin/models/nobody/unload", {}, 404, "Request for unknown model"),
    "another form": ("POST", "/admin/models/layers/load", [], 400, "the body: "),
    "another type": ("POST", "/admin/models/layers/load", {"version": 7}, 400, "version: "),
    "what it does not know": ("POST", "/admin", {"lame": True}, 400, "lame: "),
    "no truth": ("POST", "/admin", {"lame_duck": "yes"}, 400, "lame_duck: "),
    "no JSON": ("POST", "/admin", b"{", 400, "JSON"),
    "no path": ("GET", "/admin/passwords", None, 404, "there is no such path"),
    "a slash too many": ("GET", "/admin/settings/", None, 404, "there is no such path"),
    "another method": ("DELETE", "/admin", None, 405, "use GET, POST"),
    "too large": ("POST", "/admin", bytes(65 * 1024**2), 413, "larger than"),
}


class TestDoor:
    def test_the_settings_that_hold(self, administered: ServerProcess) -> None:
        told = administered.ask("GET", "/admin/settings", None, BEARER).json
        assert (told["HOST"], told["MAX_QUEUE_SIZE"]) == ("127.0.0.1", 256)
        assert "admin-token" not in json.dumps(told)

    def test_who_stands_in_an_address_is_left_out(self) -> None:
        settings = Settings(REGION="s3://user:password@host/path")
        assert told_settings(settings)["REGION"] == "s3://host/path"

    def test_loading_and_unloading(self, administered: ServerProcess) -> None:
        def ask(action: str, body: Any) -> Any:
            return administered.ask("POST", f"/admin/models/layers/{action}", body, BEARER)

        loaded = ask("load", {"version": "v1"})
        assert (loaded.status, loaded.json["version"]) == (200, "v1")
        assert loaded.json["digest"].startswith("blake3:")
        states = {
            each["version"]: each["state"]
            for each in administered.ask("GET", "/admin/index", None, BEARER).json
        }
        assert states == {"v1": "READY", "v2": "READY"}
        counted = administered.ask("GET", "/admin/stats", None, BEARER).json
        assert {each["version"] for each in counted} == {"v1", "v2"}
        assert ask("unload", {"version": "v1"}).json == {"name": "layers"}
        assert ask("load", {}).json["version"] == "v2"
        assert ask("load", None).json["version"] == "v2"

    @pytest.mark.parametrize(
        ("method", "path", "body", "status", "said"), REFUSED.values(), ids=REFUSED
    )
    def test_what_is_refused(
        self,
        administered: ServerProcess,
        method: str,
        path: str,
        body: Any,
        status: int,
        said: str,
    ) -> None:
        answer = administered.ask(method, path, body, BEARER)
        assert (answer.status, list(answer.json)) == (status, ["error"])
        assert said in answer.json["error"]

    PATHS = ("/admin", "/admin/", "/admin/settings", "/admin/x/../settings", "/admin/%73ettings")

    @pytest.mark.parametrize("path", PATHS)
    @pytest.mark.parametrize("method", ["GET", "POST", "PUT", "OPTIONS", "HEAD"])
    def test_whoever_comes_is_asked_first(
        self, administered: ServerProcess, method: str, path: str
    ) -> None:
        assert administered.ask(method, path).status == 401
        assert administered.ask(method, path, None, {"Authorization": "Bearer x"}).status == 401

    def test_without_a_token_file_it_is_shut(self, server: ServerProcess) -> None:
        assert server.ask("GET", "/admin/settings", None, BEARER).status == 403


class TestDescription:
    def test_every_route_is_described_and_none_besides(self) -> None:
        answered = {
            (path, method.lower()) for path, methods in routes.FIXED.items() for method in methods
        }
        for base, below in (
            ("/v2/models/{model}", routes.OF_MODEL),
            ("/v2/models/{model}/versions/{version}", routes.OF_MODEL),
            ("/v2/repository/models/{model}", routes.REPOSITORY),
            ("/v1/models/{model}", routes.RUNBOOK),
        ):
            answered |= {
                (f"{base}/{action}".rstrip("/"), method.lower())
                for action, methods in below.items()
                for method in methods
            }
        assert {(each.path, each.method) for each in ROUTES} == answered

    def test_a_route_is_described_with_its_scope(self) -> None:
        for each in ROUTES:
            path = each.path.replace("{model}", "m").replace("{version}", "v")
            assert routes.find(each.method.upper(), path).route.scope is each.scope, each.path

    @pytest.mark.parametrize(
        "kind",
        [
            messages.InferRequest,
            messages.InputTensor,
            messages.RequestedOutput,
            messages.InferResponse,
            messages.OutputTensor,
            messages.LoadRequest,
            messages.IndexRequest,
            PredictRequest,
        ],
    )
    def test_a_body_is_described_as_it_is_read(self, kind: type[msgspec.Struct]) -> None:
        fields = msgspec.structs.fields(kind)
        told = SCHEMAS[kind.__name__]
        assert set(told["properties"]) == {field.encode_name for field in fields}
        assert set(told["required"]) == {field.encode_name for field in fields if field.required}

    def test_what_is_described_is_answered(self, administered: ServerProcess) -> None:
        told = administered.ask("GET", "/openapi.json").json
        assert told["openapi"].startswith("3.1")
        assert "/admin/settings" in told["paths"]
        for path, methods in told["paths"].items():
            for method in methods:
                where = path.replace("{model}", "layers").replace("{version}", "v2")
                answer = administered.ask(method.upper(), where, None, {})
                assert str(answer.status) in methods[method]["responses"], (method, path)

    def test_a_token_is_named_only_where_one_is_asked_for(self) -> None:
        told = describe({}, guarded=frozenset({Scope.ADMIN}))
        assert "security" not in told["paths"]["/metrics"]["get"]
        assert told["paths"]["/v1/models/{model}/load"]["post"]["security"] == [{"admin": []}]
        told = describe({}, guarded=frozenset({Scope.ADMIN, Scope.METRICS}))
        assert told["paths"]["/metrics"]["get"]["security"] == [{"metrics": []}]

    def test_the_page_names_every_path_and_runs_nothing(self, administered: ServerProcess) -> None:
        answer = administered.ask("GET", "/docs")
        assert answer.headers["content-type"].startswith("text/html")
        assert answer.headers["content-security-policy"].startswith("default-src 'none'")
        text = answer.body.decode()
        assert "<script" not in text
        assert "src=" not in text
        for path in administered.ask("GET", "/openapi.json").json["paths"]:
            assert f"<code>{path}</code>" in text

    def test_what_stands_in_the_page_is_text(self) -> None:
        told = {
            "info": {"title": "<b>"},
            "paths": {"/<i>": {"get": {"summary": "<u>", "responses": {}}}},
        }
        text = page(told)
        assert b"<b>" not in text
        assert b"<i>" not in text
        assert b"<u>" not in text


def test_no_server_starts_with_the_framework() -> None:
    """FastAPI is imported when somebody comes to the door, and not before."""
    program = (
        "import sys, mlplatform_serving.server, mlplatform_serving.http.app;"
        "sys.exit('fastapi' in sys.modules or 'opentelemetry' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
