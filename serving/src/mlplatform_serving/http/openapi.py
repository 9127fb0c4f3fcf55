"""All that is answered, as OpenAPI 3.1 has it: `/openapi.json`, and `/docs` for people.

The admin routes are described by FastAPI from their types. The others are answered by hand and so
described by hand; tests hold both lists, and real answers, against each other. `/docs` is a page
without a script: those of Swagger's and of ReDoc's come from elsewhere, into a page where
administrators type tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from mlplatform_serving.http.auth import Scope
from mlplatform_serving.names import NAME_PATTERN
from mlplatform_serving.protocol.datatypes import DTYPES

Schema = Mapping[str, Any]

_STRING: Schema = {"type": "string"}
_INTEGER: Schema = {"type": "integer"}
_BOOLEAN: Schema = {"type": "boolean"}
_PARAMETERS: Schema = {
    "type": ["object", "null"],
    "additionalProperties": {"type": ["string", "number", "boolean", "null"]},
}


def _array(of: Schema) -> Schema:
    return {"type": "array", "items": of}


def _object(required: Mapping[str, Schema], optional: Mapping[str, Schema] | None = None) -> Schema:
    return {
        "type": "object",
        "properties": {**required, **(optional or {})},
        "required": list(required),
    }


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


_SPEC = _object({"name": _STRING, "datatype": _STRING, "shape": _array(_INTEGER)})
_SPENT = _object({"count": _INTEGER, "ns": _INTEGER})
_LOAD = _object(
    {"name": _STRING, "version": _STRING, "state": _STRING, "stage": _STRING, "bytes": _INTEGER},
    {
        "bytes_total": {"type": ["integer", "null"]},
        "bytes_per_second": {"type": ["number", "null"]},
    },
)

SCHEMAS: Mapping[str, Schema] = {
    "Refusal": _object({"error": _STRING}),
    "InputTensor": _object(
        {
            "name": _STRING,
            "shape": _array({"type": "integer", "minimum": 0}),
            "datatype": {"type": "string", "enum": list(DTYPES)},
        },
        {
            "parameters": _PARAMETERS,
            "data": {"type": "array", "description": "Nested as the shape is, or flat."},
        },
    ),
    "RequestedOutput": _object({"name": _STRING}, {"parameters": _PARAMETERS}),
    "InferRequest": _object(
        {"inputs": _array(_ref("InputTensor"))},
        {
            "id": _STRING,
            "parameters": _PARAMETERS,
            "outputs": {"type": ["array", "null"], "items": _ref("RequestedOutput")},
        },
    ),
    "OutputTensor": _object(
        {"name": _STRING, "datatype": _STRING, "shape": _array(_INTEGER)},
        {"parameters": {"type": "object"}, "data": {"type": "array"}},
    ),
    "InferResponse": _object(
        {
            "model_name": _STRING,
            "model_version": _STRING,
            "outputs": _array(_ref("OutputTensor")),
        },
        {"id": _STRING},
    ),
    "PredictRequest": _object({"instances": _array({})}),
    "PredictResponse": _object({"predictions": _array({})}),
    "LoadRequest": _object({}, {"parameters": {"type": ["object", "null"]}}),
    "IndexRequest": _object({}, {"ready": _BOOLEAN}),
    "Index": _array(
        _object(
            {"name": _STRING, "version": _STRING, "state": _STRING, "reason": _STRING},
            {"digest": _STRING},
        )
    ),
    "ServerMetadata": _object({"name": _STRING, "version": _STRING, "extensions": _array(_STRING)}),
    "ModelMetadata": _object(
        {
            "name": _STRING,
            "versions": _array(_STRING),
            "version": _STRING,
            "digest": _STRING,
            "platform": _STRING,
            "inputs": _array(_SPEC),
            "outputs": _array(_SPEC),
        }
    ),
    "ModelConfiguration": _object(
        {"name": _STRING, "platform": _STRING, "backend": _STRING, "max_batch_size": _INTEGER},
        {"input": _array({"type": "object"}), "output": _array({"type": "object"})},
    ),
    "ModelReady": _object({"name": _STRING, "ready": _BOOLEAN}),
    "Statistics": _object(
        {
            "model_stats": _array(
                _object(
                    {
                        "name": _STRING,
                        "version": _STRING,
                        "last_inference": _INTEGER,
                        "inference_count": _INTEGER,
                        "execution_count": _INTEGER,
                        "inference_stats": {"type": "object", "additionalProperties": _SPENT},
                        "batch_stats": _array({"type": "object"}),
                    }
                )
            )
        },
        {"loads": _array(_LOAD)},
    ),
    "Live": _object({"live": _BOOLEAN}),
    "Ready": _object({"ready": _BOOLEAN, "live": _BOOLEAN, "lame_duck": _BOOLEAN}),
    "Health": _object({"status": _STRING}),
    "Startup": _object(
        {
            "started": _BOOLEAN,
            "milestone": _STRING,
            "milestones": {"type": "object", "additionalProperties": {"type": "number"}},
            "loads": _array(_LOAD),
        }
    ),
    "Pinned": _object({"name": _STRING, "pinned": _BOOLEAN}),
    "Loaded": _object({"name": _STRING}, {"version": _STRING, "digest": _STRING}),
}


@dataclass(frozen=True, slots=True)
class Described:
    """One route that is answered by hand."""

    path: str
    method: str
    summary: str
    answer: str
    scope: Scope = Scope.OPEN
    body: str = ""
    also: Mapping[int, str] | None = None
    """Answers beside 200 that are no refusals, by schema."""

    @property
    def parameters(self) -> list[str]:
        """The names in the path."""
        return [part[1:-1] for part in self.path.split("/") if part.startswith("{")]


_READY = {503: "Ready"}
_MODEL_READY = {400: "ModelReady"}
_OF_MODEL = (
    ("get", "", "What a model takes and gives", "ModelMetadata", Scope.OPEN, "", None),
    ("get", "/ready", "Whether it answers", "ModelReady", Scope.OPEN, "", _MODEL_READY),
    ("post", "/infer", "Inference", "InferResponse", Scope.INFER, "InferRequest", None),
    ("get", "/config", "Triton's configuration of it", "ModelConfiguration", Scope.OPEN, "", None),
    ("get", "/stats", "What it has done", "Statistics", Scope.METRICS, "", None),
)
ROUTES: tuple[Described, ...] = (
    *(
        Described(base + path, method, summary, answer, scope, body, also)
        for base in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}")
        for method, path, summary, answer, scope, body, also in _OF_MODEL
    ),
    Described("/v2", "get", "What this server is", "ServerMetadata"),
    Described("/v2/health/live", "get", "Whether it lives", "Live", also={503: "Live"}),
    Described("/v2/health/ready", "get", "Whether it is ready", "Ready", also=_READY),
    Described("/v2/models/stats", "get", "What all have done", "Statistics", Scope.METRICS),
    Described("/v2/repository/index", "get", "Every version", "Index"),
    Described("/v2/repository/index", "post", "Every version", "Index", body="IndexRequest"),
    *(
        Described(base + action, "post", summary, "Loaded", Scope.ADMIN, "LoadRequest")
        for base in ("/v2/repository/models/{model}", "/v1/models/{model}")
        for action, summary in (("/load", "Load a version"), ("/unload", "Unload one, or all"))
    ),
    *(
        Described(base + action, "post", summary, "Pinned", Scope.ADMIN, "LoadRequest")
        for base in ("/v2/repository/models/{model}", "/v1/models/{model}")
        for action, summary in (("/pin", "Never evict it"), ("/unpin", "Evict it as the others"))
    ),
    Described(
        *("/v1/models/{model}/predict", "post", "Inference, a row an instance"),
        *("PredictResponse", Scope.INFER, "PredictRequest"),
    ),
    Described("/health", "get", "Whether it lives", "Health", also={503: "Health"}),
    Described("/health/live", "get", "Whether it lives", "Live", also={503: "Live"}),
    Described("/health/ready", "get", "Whether it is ready", "Ready", also=_READY),
    Described("/health/startup", "get", "Whether it has started", "Startup", also={503: "Startup"}),
    Described("/ready", "get", "Whether it is ready", "Ready", also=_READY),
    Described("/metrics", "get", "For Prometheus", "", Scope.METRICS),
    Described("/openapi.json", "get", "This", "OpenAPI"),
    Described("/docs", "get", "This, for people", ""),
)
_TEXT = {"/metrics": "text/plain", "/docs": "text/html"}
_REFUSALS: Mapping[int, str] = {
    400: "What was sent cannot be right.",
    401: "No token, or one that nobody has given.",
    403: "The token is for something else, or nobody may.",
    404: "There is no such model or version.",
    408: "The body took too long.",
    413: "The body is too large.",
    500: "The model failed; the log has why.",
    503: "Not now: not loaded, stopping, or too much to do.",
}
_WHICH = {"model": "A model's name.", "version": "One of its versions."}


def describe(admin: Mapping[str, Any], *, guarded: frozenset[Scope]) -> dict[str, Any]:
    """The whole document: what FastAPI says of the admin routes, and all the others. `guarded` are
    the scopes for which a token is asked."""
    paths: dict[str, Any] = {}
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.method] = _operation(route, guarded)
    for path, methods in admin.get("paths", {}).items():
        paths[path] = {
            method: {**told, "security": [{Scope.ADMIN.value: []}]}
            for method, told in methods.items()
        }
    components = admin.get("components", {})
    return {
        **admin,
        "paths": paths,
        "components": {
            **components,
            "schemas": {**components.get("schemas", {}), **SCHEMAS, "OpenAPI": {"type": "object"}},
            "securitySchemes": {
                each.value: {"type": "http", "scheme": "bearer"}
                for each in Scope
                if each in guarded
            },
        },
    }


def _operation(route: Described, guarded: frozenset[Scope]) -> dict[str, Any]:
    told: dict[str, Any] = {
        "summary": route.summary,
        "tags": [route.path.split("/")[1]],
        "operationId": f"{route.method}_{route.path.strip('/').replace('/', '_')}",
        "responses": {str(status): each for status, each in _responses(route)},
    }
    if route.parameters:
        told["parameters"] = [
            {
                "name": name,
                "in": "path",
                "required": True,
                "description": _WHICH[name],
                "schema": {"type": "string", "pattern": f"^{NAME_PATTERN}$"},
            }
            for name in route.parameters
        ]
    if route.body:
        told["requestBody"] = {
            "required": route.scope is Scope.INFER,
            "content": {"application/json": {"schema": _ref(route.body)}},
        }
    if route.scope in guarded:
        told["security"] = [{route.scope.value: []}]
    return told


def _responses(route: Described) -> Iterator[tuple[int, dict[str, Any]]]:
    told: Schema = _ref(route.answer) if route.answer else _STRING
    content: dict[str, Any] = {_TEXT.get(route.path, "application/json"): {"schema": told}}
    if route.answer == "InferResponse":
        content["application/octet-stream"] = {"schema": {}}
    yield 200, {"description": "So it is.", "content": content}
    statuses: list[int] = [400]
    if route.body:
        statuses += [408, 413, 500]
    if route.scope is not Scope.OPEN:
        statuses += [401, 403]
    if route.parameters:
        statuses += [404, 503]
    also = route.also or {}
    for status in sorted({*statuses, *also}):
        schemas = [_ref("Refusal")] if status in statuses else []
        schemas += [_ref(also[status])] if status in also else []
        schema = schemas[0] if len(schemas) == 1 else {"anyOf": schemas}
        yield (
            status,
            {"description": _REFUSALS[status], "content": {"application/json": {"schema": schema}}},
        )


_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "code,pre{font-family:ui-monospace,monospace}pre{background:#8881;padding:.5rem;overflow:auto}"
    "summary{cursor:pointer}.m{display:inline-block;min-width:3.5rem;font-weight:600}"
)


def page(document: Mapping[str, Any]) -> bytes:
    """`/docs`: every route, what it wants, and who may."""
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8>",
        "<meta name=viewport content='width=device-width'>",
        f"<title>{escape(document['info']['title'])}</title><style>{_STYLE}</style>",
        f"<h1>{escape(document['info']['title'])}</h1>",
        "<p>The same for programs: <a href=/openapi.json><code>/openapi.json</code></a>.</p>",
    ]
    for path, methods in document["paths"].items():
        parts += [_section(path, method, told) for method, told in methods.items()]
    return "\n".join(parts).encode()


def _section(path: str, method: str, told: Mapping[str, Any]) -> str:
    scopes = [name for each in told.get("security", ()) for name in each]
    who = f"a token for {scopes[0]}" if scopes else "nobody is asked for a token"
    body = _names(told.get("requestBody", {}).get("content", {}))
    rows = "".join(
        f"<li><code>{escape(status)}</code> {escape(each['description'])} "
        f"{_names(each.get('content', {}))}"
        for status, each in told["responses"].items()
    )
    return (
        f"<details><summary><span class=m>{method.upper()}</span> <code>{escape(path)}</code> "
        f"{escape(told['summary'])}</summary><p>{who}{'; body: ' + body if body else ''}</p>"
        f"<ul>{rows}</ul></details>"
    )


def _names(content: Mapping[str, Any]) -> str:
    found: Sequence[str] = [
        each["schema"].get("$ref", "").rpartition("/")[2] for each in content.values()
    ]
    return ", ".join(f"<code>{escape(each)}</code>" for each in found if each)
