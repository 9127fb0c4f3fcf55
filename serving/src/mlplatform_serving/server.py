"""A server's life: it listens at once, so that probes are answered, loads its models beside that,
and on SIGTERM ends what it has begun."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Iterator
from functools import partial
from typing import Any

import uvicorn

from mlplatform_serving.errors import NotFound
from mlplatform_serving.gpu import open_gpus
from mlplatform_serving.http.answers import json_answer
from mlplatform_serving.http.app import Application
from mlplatform_serving.http.auth import Gate, Scope
from mlplatform_serving.http.body import Receive
from mlplatform_serving.http.connection import Guard, LimitedProtocol, Patience, guarded
from mlplatform_serving.http.descriptors import room_for
from mlplatform_serving.http.tls import Certificate
from mlplatform_serving.logs import RequestLog
from mlplatform_serving.metrics import Metrics
from mlplatform_serving.models.opened import open_repository
from mlplatform_serving.models.repository import Repository
from mlplatform_serving.settings import Settings
from mlplatform_serving.tracing import open_tracing

log = logging.getLogger("mlplatform_serving")


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


def open_certificate(settings: Settings) -> Certificate | None:
    """`CertificateUnusable` unless the two files are one; None for plain HTTP."""
    if settings.tls_cert_file is None or settings.tls_key_file is None:
        return None
    return Certificate(settings.tls_cert_file, settings.tls_key_file)


def _open_guard(settings: Settings, metrics: Metrics) -> Guard:
    patience = Patience(
        first_seconds=settings.keep_alive_seconds,
        idle_seconds=settings.keep_alive_seconds,
        header_seconds=settings.header_timeout_seconds,
        answer_seconds=settings.request_timeout_sec,
    )
    return Guard(
        connections_max=room_for(settings.max_connections), patience=patience, metrics=metrics
    )


async def serve(settings: Settings, gate: Gate, certificate: Certificate | None = None) -> bool:
    """Serve until told to stop; whether it could at all."""
    metrics = Metrics(settings.region)
    guard = _open_guard(settings, metrics)
    tracing = open_tracing(settings.trace_sample_rate, os.environ)
    gpus = open_gpus(metrics, os.environ)
    request_log = RequestLog(level=log.getEffectiveLevel(), environment=settings.environment)
    repository = open_repository(settings, metrics)
    application = Application(
        repository,
        gate,
        metrics,
        request_log,
        region=settings.region,
        body_bytes_max=settings.body_bytes_max,
        body_seconds_max=settings.request_timeout_sec,
        settings=settings,
        tracing=tracing,
    )
    listen = partial(_listening, settings, certificate)
    servers = [listen(guarded(guard, application.take), application, settings.port)]
    if settings.prometheus_port not in (None, settings.port):
        servers.append(listen(guarded(guard), _only_metrics(application), settings.prometheus_port))
    ending = _Ending()
    _on_signals(application, servers, settings.shutdown_delay_seconds, ending)
    watches = [asyncio.create_task(guard.watch())]
    if certificate is not None:
        watches.append(asyncio.create_task(certificate.watch()))
    repository.watch()
    loading = asyncio.create_task(_load(repository, settings))
    await asyncio.gather(*(_until_it_ends(each, servers) for each in servers))
    guard.give_up()
    await asyncio.sleep(0)  # what is said goes out with the loop's next turn
    for task in (loading, *watches):
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    with contextlib.suppress(TimeoutError):
        # What is left of the one time that it has: answers have had their part of it.
        async with asyncio.timeout(settings.shutdown_timeout_seconds - ending.seconds()):
            await repository.close()
    if gpus is not None:
        gpus.stop()
    if tracing is not None:
        tracing.close()
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


def _listening(
    settings: Settings,
    certificate: Certificate | None,
    protocol: type[LimitedProtocol],
    application: Any,
    port: int | None,
) -> _Server:
    config = uvicorn.Config(
        application,
        host=settings.host,
        port=port or 0,
        http=protocol,
        proxy_headers=False,
        ssl_context_factory=None if certificate is None else lambda *_: certificate.context,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
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


class _Ending:
    """Since when the server takes no more."""

    def __init__(self) -> None:
        self.began: float | None = None

    def seconds(self) -> float:
        """How long ago that is; 0 if it never was told to."""
        if self.began is None:
            return 0.0
        return asyncio.get_running_loop().time() - self.began


def _on_signals(
    application: Application, servers: list[_Server], delay_seconds: float, ending: _Ending
) -> None:
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
        ending.began = ending.began or loop.time()
        for each in servers:
            each.should_exit = True

    loop.add_signal_handler(signal.SIGTERM, stop, delay_seconds)
    loop.add_signal_handler(signal.SIGINT, stop, 0.0)
