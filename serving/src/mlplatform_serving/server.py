"""A server's life: it listens at once, so that probes are answered, loads its models beside that,
and on SIGTERM ends what it has begun."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Iterator
from typing import Any

import uvicorn

from mlplatform_serving.errors import NotFound
from mlplatform_serving.http.answers import json_answer
from mlplatform_serving.http.app import Application
from mlplatform_serving.http.auth import Gate, Scope
from mlplatform_serving.http.body import Receive
from mlplatform_serving.http.connection import LimitedProtocol
from mlplatform_serving.logs import RequestLog
from mlplatform_serving.metrics import Metrics
from mlplatform_serving.models.repository import Repository
from mlplatform_serving.settings import Settings

log = logging.getLogger("mlplatform_serving")

_KEEP_ALIVE_SECONDS = 75
"""Longer than balancers keep theirs (AWS: 60 s), so that it is they who end an idle connection: one
that the server ends as a request is on its way is an error to the client."""


def open_gate(settings: Settings) -> Gate:
    """`TokensUnreadable` unless every token file can be read."""
    return Gate(
        {
            Scope.INFER: settings.infer_token_file,
            Scope.ADMIN: settings.admin_token_file,
            Scope.METRICS: settings.metrics_token_file,
        }
    )


class _Server(uvicorn.Server):
    """uvicorn's server, with signals as ours: it must not raise them again when it has ended."""

    async def startup(self, sockets: Any = None) -> None:
        """A port that is taken ends this server, and not the process without a word of ours."""
        try:
            await super().startup(sockets)
        except SystemExit:
            self.should_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(settings: Settings, gate: Gate) -> bool:
    """Serve until told to stop; whether it could at all."""
    metrics = Metrics(settings.region)
    request_log = RequestLog(
        enabled=log.isEnabledFor(logging.INFO), environment=settings.environment
    )
    repository = Repository(
        settings.model_cache_dir, queue_size=settings.max_queue_size, metrics=metrics
    )
    application = Application(
        repository,
        gate,
        metrics,
        request_log,
        region=settings.region,
        body_bytes_max=settings.body_bytes_max,
        body_seconds_max=settings.request_timeout_sec,
    )
    servers = [_listening(application, settings, settings.port)]
    if settings.prometheus_port not in (None, settings.port):
        servers.append(_listening(_only_metrics(application), settings, settings.prometheus_port))
    _on_signals(application, servers, settings.shutdown_delay_seconds)
    loading = asyncio.create_task(_load(repository, settings))
    await asyncio.gather(*(_until_it_ends(each, servers) for each in servers))
    loading.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await loading
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(settings.shutdown_timeout_seconds):
            await repository.close()
    request_log.flush()
    log.info("Server shutdown complete")
    return all(each.started for each in servers)


async def _until_it_ends(server: _Server, servers: list[_Server]) -> None:
    """One that ends takes the others with it."""
    try:
        await server.serve()
    finally:
        for each in servers:
            each.should_exit = True


async def _load(repository: Repository, settings: Settings) -> None:
    await repository.load_all(settings.models, settings.model_version)
    log.info("Server startup complete", extra={"ready": repository.well})


def _listening(application: Any, settings: Settings, port: int | None) -> _Server:
    config = uvicorn.Config(
        application,
        host=settings.host,
        port=port or 0,
        http=LimitedProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=settings.shutdown_timeout_seconds,
    )
    return _Server(config)


def _only_metrics(application: Application) -> Any:
    """What PROMETHEUS_PORT answers."""

    async def answer(scope: Any, receive: Receive, send: Any) -> None:
        if scope["raw_path"] == b"/metrics":
            await application(scope, receive, send)
            return
        refused = json_answer({"error": "only /metrics is here"}, NotFound.status)
        refused.headers.append((b"content-length", b"%d" % len(refused.body)))
        await send(
            {"type": "http.response.start", "status": refused.status, "headers": refused.headers}
        )
        await send({"type": "http.response.body", "body": refused.body})

    return answer


def _on_signals(application: Application, servers: list[_Server], delay_seconds: float) -> None:
    """SIGTERM: unready at once, and no more connections after the delay. SIGINT: without it. A
    second one ends it now."""
    loop = asyncio.get_running_loop()

    def stop(delay_seconds: float) -> None:
        if application.lame_duck and any(each.should_exit for each in servers):
            for each in servers:
                each.force_exit = True
        application.lame_duck = True
        log.info("shutting down", extra={"delay_seconds": delay_seconds})
        loop.call_later(delay_seconds, leave)

    def leave() -> None:
        for each in servers:
            each.should_exit = True

    loop.add_signal_handler(signal.SIGTERM, stop, delay_seconds)
    loop.add_signal_handler(signal.SIGINT, stop, 0.0)
