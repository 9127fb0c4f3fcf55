"""What a tool asks a running server: the golden requests of its models, or requests that fit what a
model says of itself."""

from __future__ import annotations

import http.client
import json
import os
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlplatform_serving.models.golden import GOLDEN_FILE, GoldenRequest
from mlplatform_serving.names import is_name
from mlplatform_serving.protocol.specs import Signature, TensorSpec
from mlplatform_serving.tools.compared import made_requests
from mlplatform_serving.tools.errors import ToolError, Unreachable, Usage
from mlplatform_serving.tools.load.client import Target
from mlplatform_serving.tools.sources import read_golden

_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Served:
    """A version that a server has loaded."""

    model: str
    version: str

    @property
    def path(self) -> str:
        """Where it is asked."""
        return f"/v2/models/{self.model}/versions/{self.version}/infer"

    def __str__(self) -> str:
        return f"{self.model}@{self.version}"


class Server:
    """A server as an operator's tool speaks to it: one request after the other."""

    def __init__(self, url: str, token: str = "", *, timeout_seconds: float = _SECONDS) -> None:
        """`Usage` if it is no URL."""
        self.target = Target.parse(url)
        self.headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._url = url
        self._timeout_seconds = timeout_seconds
        self._connection: http.client.HTTPConnection | None = None

    def ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, Any]:
        """Status and JSON. `Unreachable` if there is no answer, or none in JSON."""
        try:
            if self._connection is None:
                self._connection = self._connected()
            self._connection.request(method, self.target.path + path, body, self.headers)
            answer = self._connection.getresponse()
            told = answer.read()
        except (OSError, http.client.HTTPException) as error:
            self.close()
            said = error.strerror if isinstance(error, OSError) else None
            raise Unreachable(f"{self._url}: {said or type(error).__name__}") from error
        try:
            return answer.status, json.loads(told or b"null")
        except ValueError:
            raise Unreachable(f"{self._url}{path}: {answer.status}, and no JSON") from None

    def _connected(self) -> http.client.HTTPConnection:
        target = self.target
        if not target.tls:
            return http.client.HTTPConnection(
                target.host, target.port, timeout=self._timeout_seconds
            )
        return http.client.HTTPSConnection(
            target.host,
            target.port,
            timeout=self._timeout_seconds,
            context=ssl.create_default_context(),
        )

    def close(self) -> None:
        """The connection; the next request opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def served(self, wanted: Sequence[str]) -> list[Served]:
        """The versions that are loaded: those wanted, as NAME or NAME@VERSION, or all of them.
        `ToolError` names one that is not."""
        status, told = self.ask("GET", "/v2/repository/index")
        if status != 200 or not isinstance(told, list):
            raise Unreachable(f"{self._url}: {said_by(told, status)}")
        ready = [
            Served(str(each.get("name")), str(each.get("version")))
            for each in told
            if isinstance(each, dict) and each.get("state") == "READY"
        ]
        ready = [each for each in ready if is_name(each.model) and is_name(each.version)]
        for name in wanted:
            if not any(name in (each.model, str(each)) for each in ready):
                raise ToolError(f"{name} is not loaded there", hint=_loaded(ready))
        found = [each for each in ready if not wanted or {each.model, str(each)} & set(wanted)]
        if not found:
            raise ToolError(f"{self._url} has no model loaded")
        return found

    def signature(self, served: Served) -> Signature:
        """What a version says of itself."""
        path = served.path.removesuffix("/infer")
        status, told = self.ask("GET", path)
        if status != 200:
            raise Unreachable(f"{self._url}{path}: {said_by(told, status)}")
        try:
            return Signature(_specs(told["inputs"]), _specs(told["outputs"]))
        except (KeyError, TypeError, ValueError):
            raise Unreachable(f"{self._url}{path}: that is no model's metadata") from None


def _specs(told: list[dict[str, Any]]) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(str(each["name"]), str(each["datatype"]), tuple(map(int, each["shape"])))
        for each in told
    )


def _loaded(ready: Sequence[Served]) -> str:
    return "loaded are: " + (", ".join(map(str, ready)) or "none")


def said_by(told: object, status: int) -> str:
    """What a server's error says."""
    if isinstance(told, dict) and isinstance(told.get("error"), str):
        return f"{status}: {told['error'][:300]}"
    return str(status)


def default_url(environ: Mapping[str, str] = os.environ) -> str:
    """The server of this pod."""
    return f"http://127.0.0.1:{environ.get('PORT') or 8000}"


def default_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Where its models lie."""
    return Path(environ.get("MODEL_CACHE_DIR") or "model_cache")


def read_token(path: Path | None) -> str:
    """The first token of a file; `Usage` if it cannot be read."""
    if path is None:
        return ""
    try:
        lines = path.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError):
        raise Usage(f"{path}: the token file cannot be read") from None
    if not lines:
        raise Usage(f"{path}: the token file is empty")
    return lines[0]


def golden_for(served: Served, given: Path | None, folder: Path) -> tuple[GoldenRequest, ...]:
    """The golden requests of a version: those of the file that was given, else those that lie with
    it in `folder`; none where there are none."""
    path = given or folder / served.model / served.version / GOLDEN_FILE
    return read_golden(path) if given is not None or path.is_file() else ()


def made_for(server: Server, served: Served, seed: int, number: int = 8) -> list[bytes]:
    """Requests that fit what the version says of itself, by seeded chance."""
    requests = made_requests(server.signature(served), number, seed)
    return [json.dumps(each).encode() for each in requests]
