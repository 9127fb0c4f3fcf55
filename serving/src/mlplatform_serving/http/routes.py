"""Every path that is answered, the method, and who may. A path is compared as it came, never
decoded: no name has a `%` in it, so that no two spellings of a path differ in what they are allowed
(Starlette CVE-2026-48710 and its kin). What is not here is 404.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from mlplatform_serving.errors import MethodNotAllowed, NotFound
from mlplatform_serving.http.auth import Scope
from mlplatform_serving.names import is_name


@dataclass(frozen=True, slots=True)
class Route:
    """What is done, by the name of its handler, and for whom."""

    handler: str
    scope: Scope


@dataclass(frozen=True, slots=True)
class Found:
    """A route, and the names in its path."""

    route: Route
    model: str = ""
    version: str | None = None


Methods = Mapping[str, Route]


def _get(handler: str, scope: Scope = Scope.OPEN) -> Methods:
    return {"GET": Route(handler, scope)}


def _post(handler: str, scope: Scope) -> Methods:
    return {"POST": Route(handler, scope)}


FIXED: Mapping[str, Methods] = {
    "/health": _get("health"),
    "/health/live": _get("live"),
    "/health/ready": _get("ready"),
    "/health/startup": _get("startup"),
    "/ready": _get("ready"),
    "/metrics": _get("metrics", Scope.METRICS),
    "/docs": _get("docs"),
    "/openapi.json": _get("openapi"),
    "/v2": _get("server_metadata"),
    "/v2/health/live": _get("live"),
    "/v2/health/ready": _get("ready"),
    "/v2/models/stats": _get("statistics", Scope.METRICS),
    # GET is ours, and the control plane's; the protocol has POST.
    "/v2/repository/index": {
        "GET": Route("index", Scope.OPEN),
        "POST": Route("index", Scope.OPEN),
    },
}

OF_MODEL: Mapping[str, Methods] = {
    "": _get("model_metadata"),
    "ready": _get("model_ready"),
    "infer": _post("infer", Scope.INFER),
    "config": _get("model_config"),
    "stats": _get("statistics", Scope.METRICS),
}
"""Below `/v2/models/{model}` and `/v2/models/{model}/versions/{version}`."""

REPOSITORY: Mapping[str, Methods] = {
    "load": _post("load", Scope.ADMIN),
    "unload": _post("unload", Scope.ADMIN),
    "pin": _post("pin", Scope.ADMIN),
    "unpin": _post("unpin", Scope.ADMIN),
}
"""Below `/v2/repository/models/{model}`."""

RUNBOOK: Mapping[str, Methods] = {**REPOSITORY, "predict": _post("predict", Scope.INFER)}
"""Below `/v1/models/{model}`."""

_ADMIN = Found(Route("admin", Scope.ADMIN))
"""`/admin` and all below: who comes there is asked first, and told what is there after."""


_REMEMBERED_LENGTH = 256
"""What is longer is nobody's model, and would fill the memory."""


def find(method: str, path: str) -> Found:
    """`NotFound` or `MethodNotAllowed` if there is none. HEAD is as GET."""
    return _remembered(method, path) if len(path) <= _REMEMBERED_LENGTH else _find(method, path)


def _find(method: str, path: str) -> Found:
    parts = path.split("/")
    model, version = "", None
    methods: Methods | None
    if len(parts) == 5 and parts[1] == "v2" and parts[2] == "models" and parts[4] == "infer":
        methods, model = OF_MODEL["infer"], parts[3]
    elif (fixed := FIXED.get(path)) is not None:
        methods = fixed
    elif parts[1:2] == ["admin"]:
        return _ADMIN
    else:
        methods, model, version = _below(parts)
    if methods is None or (model and not is_name(model)):
        raise NotFound("there is no such path")
    route = methods.get("GET" if method == "HEAD" else method)
    if route is None:
        raise MethodNotAllowed(", ".join(methods))
    return Found(route, model, version)


_remembered = lru_cache(maxsize=1024)(_find)


def _below(parts: list[str]) -> tuple[Methods | None, str, str | None]:
    match parts[1:]:
        case ["v2", "models", model, "versions", version, *rest] if is_name(version):
            return OF_MODEL.get("/".join(rest)) if rest != [""] else None, model, version
        case ["v2", "models", model, *rest] if model and rest != [""]:
            return OF_MODEL.get("/".join(rest)), model, None
        case ["v2", "repository", "models", model, action] if model:
            return REPOSITORY.get(action), model, None
        case ["v1", "models", model, action] if model:
            return RUNBOOK.get(action), model, None
    return None, "", None
