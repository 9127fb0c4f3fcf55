"""The admin door, on FastAPI: what it takes and gives is declared once, as types, and described
from these. No inference passes here. Who comes this far has been let in by the gate, for the scope
admin; the body has been read under the limits of all bodies.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Protocol

from fastapi import Body, FastAPI, Request
from fastapi import Path as PathParameter
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException
from starlette.routing import Route

from mlplatform_serving.errors import MethodNotAllowed, NotFound
from mlplatform_serving.http.answers import Answer
from mlplatform_serving.names import NAME_PATTERN
from mlplatform_serving.settings import Settings

_USER = re.compile(r"(?<=://)[^/@\s]*@")
"""Who stands in an address, with a password perhaps."""

Name = Annotated[str, PathParameter(pattern=f"^{NAME_PATTERN}$", description="A model's name.")]


class LameDuck(BaseModel):
    """Whether the server answers, but is not ready, and ends each connection."""

    model_config = ConfigDict(extra="forbid", strict=True)

    lame_duck: bool | None = None
    """Nothing changes without it."""


class Which(BaseModel):
    """One version of a model, or the newest, or all of them."""

    model_config = ConfigDict(extra="forbid", strict=True)

    version: Annotated[str, Body(pattern=f"^{NAME_PATTERN}$")] | None = None


_AS_IT_IS, _ANY = LameDuck(), Which()
"""An empty body."""


class LoadedVersion(BaseModel):
    """What answers now."""

    name: str
    version: str
    digest: str


class Refusal(BaseModel):
    """Every answer that is an error."""

    error: str


@dataclass(frozen=True, slots=True)
class Doing:
    """What an administrator can have done."""

    load: Callable[[str, str | None], Awaitable[dict[str, str]]]
    unload: Callable[[str, str | None], Awaitable[None]]
    index: Callable[[], Awaitable[list[dict[str, Any]]]]
    statistics: Callable[[], list[dict[str, Any]]]


class Ducking(Protocol):
    """Who can be made a lame duck."""

    def duck(self, wanted: bool | None) -> bool:  # noqa: FBT001 - on, off or as it is
        """Whether it is one now."""
        ...


def told_settings(settings: Settings) -> dict[str, Any]:
    """Every setting under its variable, as it holds; secrets and who stands in an address left out.
    Tokens are in files, which are named and not read."""
    told = settings.model_dump(mode="json")
    return {
        name.upper(): _USER.sub("", value) if isinstance(value, str) else value
        for name, value in told.items()
    }


_REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": Refusal, "description": told}
    for status, told in {
        400: "What was sent cannot be right, or a version cannot be loaded.",
        401: "No token, or one that nobody has given.",
        403: "The token is for something else, or nobody may.",
        404: "There is no such model, version or path.",
        408: "The body took too long.",
        413: "The body is too large.",
        500: "It failed; the log has why.",
        503: "Not now.",
    }.items()
}


def build(doing: Doing, ducking: Ducking, settings: Settings) -> FastAPI:
    """The application, and the description of its routes."""
    app = FastAPI(
        title="mlplatform-serving",
        # curl says nothing of a body's type, and runbooks are typed in curl. Nothing is lost: what
        # a page of someone else's could send has no token.
        strict_content_type=False,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,  # to where the client's Host header says
        responses=_REFUSALS,
    )

    @app.exception_handler(RequestValidationError)
    async def _malformed(_: Request, error: RequestValidationError) -> JSONResponse:
        return JSONResponse({"error": _said(error.errors())}, 400)

    @app.exception_handler(HTTPException)
    async def _refused(request: Request, error: HTTPException) -> JSONResponse:
        if error.status_code == MethodNotAllowed.status:
            # Starlette names the methods of the first route of that path, and there may be two.
            allowed = ", ".join(
                sorted(
                    method
                    for route in app.routes
                    if isinstance(route, Route) and route.path_regex.match(request.url.path)
                    for method in route.methods or ()
                )
            )
            return JSONResponse({"error": f"use {allowed}"}, 405, headers={"allow": allowed})
        said = "there is no such path" if error.status_code == NotFound.status else error.detail
        return JSONResponse({"error": said}, error.status_code, headers=error.headers)

    @app.get("/admin", tags=["admin"], summary="Whether it is a lame duck")
    async def _duck() -> LameDuck:
        return LameDuck(lame_duck=ducking.duck(None))

    @app.post("/admin", tags=["admin"], summary="Make it a lame duck, or one no more")
    async def _set_duck(wanted: Annotated[LameDuck, Body()] = _AS_IT_IS) -> LameDuck:
        return LameDuck(lame_duck=ducking.duck(wanted.lame_duck))

    @app.get("/admin/settings", tags=["admin"], summary="The settings that hold, without secrets")
    async def _settings() -> dict[str, Any]:
        return told_settings(settings)

    @app.get("/admin/index", tags=["admin"], summary="Every version, and whether it is loaded")
    async def _index() -> list[dict[str, Any]]:
        return await doing.index()

    @app.get("/admin/stats", tags=["admin"], summary="What each loaded version has done")
    async def _statistics() -> list[dict[str, Any]]:
        return doing.statistics()

    @app.post("/admin/models/{model}/load", tags=["admin"], summary="Load a version")
    async def _load(model: Name, which: Annotated[Which, Body()] = _ANY) -> LoadedVersion:
        return LoadedVersion(**await doing.load(model, which.version))

    @app.post("/admin/models/{model}/unload", tags=["admin"], summary="Unload a version, or all")
    async def _unload(model: Name, which: Annotated[Which, Body()] = _ANY) -> dict[str, str]:
        await doing.unload(model, which.version)
        return {"name": model}

    return app


def _said(errors: Sequence[Any]) -> str:
    """What is wrong, and where; not what was sent."""
    first = errors[0]
    where = ".".join(str(part) for part in first["loc"] if part != "body") or "the body"
    return f"{where}: {first['msg']}"


async def ask(app: FastAPI, scope: Any, body: bytes) -> Answer:
    """What the application answers to a request whose body has been read. What it raises is raised
    here."""
    told: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        told.append(message)

    await app(scope, receive, send)
    start, *rest = told
    headers = [each for each in start["headers"] if each[0] != b"content-length"]
    return Answer(start["status"], b"".join(each.get("body", b"") for each in rest), headers)
