"""The server as an ASGI application, by hand: on the way of an inference there is a table, a parser
and a queue, and no framework (one of Starlette's routes costs a third of it)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, TypeVar

import msgspec

from mlplatform_serving.errors import BadRequest, ClientGone, ServingError
from mlplatform_serving.http import openapi
from mlplatform_serving.http.answers import Answer, error_answer, json_answer
from mlplatform_serving.http.auth import Gate, Scope
from mlplatform_serving.http.body import (
    BodyReader,
    Receive,
    accepted_encoding,
    packed,
)
from mlplatform_serving.http.described import configuration, metadata, server_metadata
from mlplatform_serving.http.inference import Headers, Inferences, Reply
from mlplatform_serving.http.routes import Found, find
from mlplatform_serving.logs import RequestLog
from mlplatform_serving.metrics import CONTENT_TYPE, Metrics
from mlplatform_serving.models.repository import Repository, asked_version
from mlplatform_serving.protocol.messages import IndexRequest, LoadRequest
from mlplatform_serving.settings import Settings
from mlplatform_serving.tracing import Tracing

log = logging.getLogger("mlplatform_serving")

Send = Callable[[Any], Awaitable[None]]
T = TypeVar("T")
_NO_SCRIPTS = ((b"content-security-policy", b"default-src 'none'; style-src 'unsafe-inline'"),)


@dataclass(slots=True)
class Request:
    """What came, but for the body."""

    found: Found
    headers: Headers
    receive: Receive
    scope: Any


class Application:
    """Everything that is answered. One for each server."""

    def __init__(
        self,
        repository: Repository,
        gate: Gate,
        metrics: Metrics,
        request_log: RequestLog,
        *,
        region: str = "",
        body_bytes_max: int,
        body_seconds_max: float,
        settings: Settings,
        tracing: Tracing | None = None,
    ) -> None:
        self.lame_duck = False
        """It answers, but says that it is not ready, and ends each connection."""
        self._repository = repository
        self._gate = gate
        self._metrics = metrics
        self._settings = settings
        self._admin: Any = None
        self._region = (
            [(b"x-mlplatform-region", region.encode("latin-1", "replace"))] if region else []
        )
        self._body_bytes_max = body_bytes_max
        self._bodies = BodyReader(bytes_max=body_bytes_max, seconds_max=body_seconds_max)
        self._inferences = Inferences(repository, request_log, self._bodies, tracing)
        self._handlers: dict[str, Callable[[Request], Awaitable[Answer]]] = {
            name.removeprefix("_on_"): getattr(self, name)
            for name in dir(self)
            if name.startswith("_on_")
        }

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            raise NotImplementedError(scope["type"])
        headers: Headers = dict(scope["headers"])
        try:
            answer = await self._answer(scope, headers, receive)
            encoding = headers.get(b"accept-encoding")
            if encoding is not None and answer.status == 200:
                await self._pack(answer, encoding)
        except ClientGone:
            return
        except Exception as error:
            answer = error_answer(error)
        self.seal(answer)
        self.count(answer)
        await send(
            {"type": "http.response.start", "status": answer.status, "headers": answer.headers}
        )
        await send({"type": "http.response.body", "body": answer.body})

    def take(self, scope: Any, body: bytes, send: Reply) -> bool:
        """An inference that is wholly there, without a task: whether it is taken. `send` is then
        called once, later, unless the client goes away. All else, and whatever is wrong with it, is
        for ASGI."""
        headers: Headers = dict(scope["headers"])
        accept = headers.get(b"accept-encoding")
        if (
            len(body) > self._body_bytes_max
            or (accept is not None and accepted_encoding(accept) is not None)
            or b"content-encoding" in headers
        ):
            return False  # large, or to be packed or unpacked: that is not for the loop
        try:
            found = find(scope["method"], scope["raw_path"].decode("latin-1"))
            if found.route.scope is not Scope.INFER:
                return False
            self._gate.check(Scope.INFER, headers)
        except ServingError:
            return False

        return self._inferences.take(found, headers, scope, body, _Sealed(self, send))

    async def _answer(self, scope: Any, headers: Headers, receive: Receive) -> Answer:
        found = find(scope["method"], scope["raw_path"].decode("latin-1"))
        self._gate.check(found.route.scope, headers)
        if found.route.scope is Scope.INFER:
            return await self._inferences.answer(found, headers, scope, receive)
        return await self._handlers[found.route.handler](Request(found, headers, receive, scope))

    def count(self, answer: Answer) -> None:
        """One answer more."""
        self._metrics.answers[answer.status] += 1

    def seal(self, answer: Answer) -> None:
        """Add what stands on every answer."""
        answer.headers += ((b"content-length", b"%d" % len(answer.body)), *self._region)
        if self.lame_duck:
            answer.headers.append((b"connection", b"close"))

    @staticmethod
    async def _pack(answer: Answer, accept: bytes) -> None:
        encoding = accepted_encoding(accept)
        if encoding is not None:
            answer.body = await packed(answer.body, encoding)
            answer.headers += ((b"content-encoding", encoding), (b"vary", b"accept-encoding"))

    async def _body(self, request: Request) -> bytes:
        return await self._bodies.read(request.receive, request.headers)

    async def _told(self, request: Request, kind: type[T]) -> T:
        """The body as JSON of this kind; an empty body is an empty object."""
        body = await self._body(request)
        try:
            return msgspec.json.decode(body or b"{}", type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            said = (
                str(error) if isinstance(error, msgspec.DecodeError) else "too deep, or not UTF-8"
            )
            raise BadRequest(f"the JSON cannot be read: {said}") from None

    # --- health ----------------------------------------------------------------------------------

    @property
    def _ready(self) -> bool:
        return self._repository.well and not self.lame_duck

    async def _on_health(self, request: Request) -> Answer:
        return await self._on_live(request)

    async def _on_live(self, request: Request) -> Answer:
        """Not, above `MEMORY_LIMIT_MB`: it is to be started anew before the system kills it."""
        why = self._repository.memory.over_limit()
        if why is not None:
            return json_answer({"live": False, "status": f"memory: {why}"}, 503)
        return json_answer({"live": True, "status": "ok"})

    async def _on_ready(self, request: Request) -> Answer:
        """The protocol's text calls the key `live`, its servers `ready`."""
        ready = self._ready
        models = [
            {"name": each.name, "version": each.version} for each in self._repository.loaded()
        ]
        told = {"ready": ready, "live": ready, "lame_duck": self.lame_duck, "models": models}
        return json_answer(told, 200 if ready else 503)

    async def _on_startup(self, request: Request) -> Answer:
        startup = self._repository.startup
        told = {
            "started": startup.over,
            "milestone": startup.milestone,
            "milestones": startup.reached,
            "loads": self._repository.loads(),
        }
        return json_answer(told, 200 if startup.over else 503)

    # --- what is here ----------------------------------------------------------------------------

    async def _on_server_metadata(self, request: Request) -> Answer:
        return json_answer(server_metadata())

    async def _on_model_metadata(self, request: Request) -> Answer:
        loaded = self._repository.find(request.found.model, request.found.version)
        return json_answer(metadata(loaded, self._repository.versions(loaded.name)))

    async def _on_model_ready(self, request: Request) -> Answer:
        """Triton answers 400 for a model that is known and not ready."""
        loaded = self._repository.find(request.found.model, request.found.version)
        ready = not self.lame_duck and not loaded.instance.hung
        return json_answer({"name": loaded.name, "ready": ready}, 200 if ready else 400)

    async def _on_model_config(self, request: Request) -> Answer:
        return json_answer(
            configuration(self._repository.find(request.found.model, request.found.version))
        )

    async def _on_statistics(self, request: Request) -> Answer:
        name, version = request.found.model, request.found.version
        if name:
            self._repository.find(name, version)
        await self._repository.settled()
        told: dict[str, Any] = {"model_stats": self._statistics(name, version)}
        if not name:
            told["loads"] = self._repository.loads()
        return json_answer(told)

    def _statistics(self, name: str = "", version: str | None = None) -> list[dict[str, Any]]:
        return [
            each.statistics.as_json(each.name, each.version)
            for each in self._repository.loaded()
            if name in ("", each.name) and version in (None, each.version)
        ]

    async def _on_index(self, request: Request) -> Answer:
        told = await self._told(request, IndexRequest)
        entries = await self._index()
        return json_answer([each for each in entries if each["state"] == "READY" or not told.ready])

    async def _index(self) -> list[dict[str, Any]]:
        return [
            {
                "name": each.name,
                "version": each.version,
                "state": "UNAVAILABLE" if self.lame_duck else each.state,
                "reason": "lame duck" if self.lame_duck else each.reason,
                **({"digest": each.digest} if each.digest else {}),
            }
            for each in await self._repository.index()
        ]

    async def _on_metrics(self, request: Request) -> Answer:
        await self._repository.settled()
        self._metrics.ready.set(self._ready)
        return Answer(200, self._metrics.encoded(), [(b"content-type", CONTENT_TYPE)])

    # --- for administrators ----------------------------------------------------------------------

    async def _on_load(self, request: Request) -> Answer:
        told = await self._told(request, LoadRequest)
        return json_answer(await self._load(request.found.model, asked_version(told.parameters)))

    async def _on_unload(self, request: Request) -> Answer:
        told = await self._told(request, LoadRequest)
        await self._unload(request.found.model, asked_version(told.parameters))
        return json_answer({"name": request.found.model})

    def duck(self, wanted: bool | None) -> bool:  # noqa: FBT001 - on, off or as it is
        """Make it a lame duck or one no more; whether it is one."""
        if wanted is not None and wanted != self.lame_duck:
            self.lame_duck = wanted
            log.warning("lame duck: %s", "on" if wanted else "off")
        return self.lame_duck

    async def _on_pin(self, request: Request) -> Answer:
        return await self._pin(request, pinned=True)

    async def _on_unpin(self, request: Request) -> Answer:
        return await self._pin(request, pinned=False)

    async def _pin(self, request: Request, *, pinned: bool) -> Answer:
        told = await self._told(request, LoadRequest)
        name = request.found.model
        await self._repository.pin(name, asked_version(told.parameters), pinned=pinned)
        return json_answer({"name": name, "pinned": pinned})

    async def _on_admin(self, request: Request) -> Answer:
        body = await self._body(request)
        application = await self._administration()
        admin = import_module("mlplatform_serving.http.admin")
        answer: Answer = await admin.ask(application, request.scope, body)
        return answer

    async def _on_openapi(self, request: Request) -> Answer:
        return json_answer(await self._document())

    async def _on_docs(self, request: Request) -> Answer:
        page = await asyncio.to_thread(openapi.page, await self._document())
        return Answer(200, page, [(b"content-type", b"text/html; charset=utf-8"), *_NO_SCRIPTS])

    async def _document(self) -> dict[str, Any]:
        application = await self._administration()
        return openapi.describe(application.openapi(), guarded=self._gate.guarded)

    async def _administration(self) -> Any:
        if self._admin is None:
            # When it is first wanted, in a thread: FastAPI takes longer than many models do.
            admin = await asyncio.to_thread(import_module, "mlplatform_serving.http.admin")
            doing = admin.Doing(self._load, self._unload, self._index, self._statistics)
            self._admin = admin.build(doing, self, self._settings)
        return self._admin

    async def _load(self, name: str, version: str | None) -> dict[str, str]:
        loaded = await self._repository.load(name, version)
        return {"name": loaded.name, "version": loaded.version, "digest": loaded.digest}

    async def _unload(self, name: str, version: str | None) -> None:
        await self._repository.unload(name, version)


class _Sealed:
    """A reply whose answers are sealed and counted."""

    __slots__ = ("_application", "_sealed", "_send")

    def __init__(self, application: Application, send: Reply) -> None:
        self._application = application
        self._send = send
        self._sealed = False

    def at_once(self, answer: Answer) -> None:
        self._application.seal(answer)
        self._sealed = True
        self._send.at_once(answer)

    def __call__(self, answer: Answer) -> None:
        if not self._sealed:
            self._application.seal(answer)
        self._application.count(answer)
        self._send(answer)
