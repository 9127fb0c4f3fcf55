"""The server's settings: environment variables, under the names that runbooks set them by. A value
that cannot be is refused at start; one that no longer does anything is told, once."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Self

from pydantic import AliasChoices, Field, field_validator, model_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from mlplatform_serving.models.settings import LoadingSettings
from mlplatform_serving.names import is_name

MIB = 1024 * 1024
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


class Settings(LoadingSettings):
    """One field a variable; the variable is the field's name in capitals, or the one given."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True)

    host: str = Field(default="0.0.0.0", description="The address to listen on.")  # noqa: S104 - a pod's
    port: int = Field(default=8000, ge=0, le=65535, description="The port; 0 is any that is free.")
    prometheus_port: int | None = Field(
        default=None,
        ge=0,
        le=65535,
        description="A port for `/metrics` alone, beside the other; the same one needs nothing.",
    )
    environment: str = Field(
        default="production",
        validation_alias=AliasChoices("ENVIRONMENT", "ENV"),
        description="Stated in each line of the log.",
    )
    log_level: str = Field(default="INFO", description="In any case: debug, INFO, Warning …")
    region: str = Field(
        default="",
        validation_alias=AliasChoices("MLPLATFORM_REGION", "REGION"),
        description="Stated in metrics and in each answer's X-Mlplatform-Region.",
    )
    model_cache_dir: Path = Field(
        default=Path("model_cache"),
        description="The folder of models: `<folder>/<model>/<version>/manifest.json`.",
    )
    models: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="What to load at start: NAME or NAME@VERSION, with commas; empty: every model.",
    )
    model_version: str | None = Field(
        default=None, description="The version to load where MODELS names none; else the newest."
    )
    max_input_size_mb: int = Field(
        default=64, ge=1, le=2048, description="The largest body in MiB, also once it is unpacked."
    )
    max_queue_size: int = Field(
        default=256, ge=1, le=1_000_000, description="Inferences of a model that wait, at most."
    )
    max_batch_size: int = Field(
        default=32,
        ge=0,
        le=65_536,
        description="Items in a batch where the model does not say; 0 or 1: one request at a time.",
    )
    enforce_batch_size: bool = Field(
        default=False,
        description="Refuse a request with more items than a batch has; else it runs alone.",
    )
    batch_timeout_ms: float = Field(
        default=0.0,
        ge=0,
        le=60_000,
        description="Compatibility: hold a batch that is not full back for so long. Best left 0.",
    )
    batch_seconds_max: float = Field(
        default=60.0,
        gt=0,
        le=86_400,
        description="A batch that runs for longer hangs: its model refuses, the server is unready.",
    )
    request_timeout_sec: float = Field(
        default=60.0,
        gt=0,
        le=86_400,
        description="How long a body may take to arrive, and when an answer must be there.",
    )
    header_timeout_seconds: float = Field(
        default=10.0,
        gt=0,
        le=3600,
        description="How long the head of a request may take to arrive.",
    )
    keep_alive_seconds: int = Field(
        default=75,
        ge=1,
        le=86_400,
        description="How long an idle connection is kept: longer than your balancer keeps it.",
    )
    max_connections: int = Field(
        default=16_384,
        ge=1,
        le=1_000_000,
        description="Open connections; beyond it an idle one makes room, or a new one gets 503.",
    )
    tls_cert_file: Path | None = Field(
        default=None, description="The certificate chain, PEM; read again when it changes."
    )
    tls_key_file: Path | None = Field(
        default=None, description="Its key, PEM, not encrypted. Both, or neither: plain HTTP."
    )
    trace_sample_rate: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Share of inferences traced whose caller has not decided; OTEL_… says whereto.",
    )
    shutdown_delay_seconds: float = Field(
        default=0.0,
        ge=0,
        le=3600,
        description="How long after SIGTERM it still answers, unready, before it takes no more.",
    )
    shutdown_timeout_seconds: int = Field(
        default=25,
        ge=0,
        le=3600,
        description="How long what was begun may take then; a pod has 30 s by default.",
    )
    infer_token_file: Path | None = Field(
        default=None, description="Who may infer: a token a line. Without it, everybody."
    )
    admin_token_file: Path | None = Field(
        default=None, description="Who may load, unload and lame-duck. Without it, nobody."
    )
    metrics_token_file: Path | None = Field(
        default=None, description="Who may read metrics and statistics. Without it, everybody."
    )

    @field_validator("log_level")
    @classmethod
    def _level(cls, value: str) -> str:
        level = {"WARN": "WARNING"}.get(value.upper(), value.upper())
        if level not in LEVELS:
            raise ValueError(f"is none of {', '.join(LEVELS)}")
        return level

    @field_validator("models", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(each.strip() for each in value.split(",") if each.strip())
        return value

    @field_validator("models")
    @classmethod
    def _names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for each in value:
            name, at, version = each.partition("@")
            if not is_name(name) or (at and not is_name(version)):
                raise ValueError(f"{each!r} is not NAME or NAME@VERSION")
        return value

    @field_validator("model_version")
    @classmethod
    def _version(cls, value: str | None) -> str | None:
        if value is not None and not is_name(value):
            raise ValueError("is no version's name")
        return value

    @model_validator(mode="after")
    def _tls(self) -> Self:
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            raise ValueError("TLS_CERT_FILE and TLS_KEY_FILE go together")
        return self

    @property
    def body_bytes_max(self) -> int:
        """The largest body."""
        return self.max_input_size_mb * MIB


_INSTEAD = {
    "UVICORN_WORKERS": "one process owns each model; run more pods for more",
    "WEB_CONCURRENCY": "one process owns each model; run more pods for more",
    "GUNICORN_CMD_ARGS": "the server runs without gunicorn; its settings are variables of its own",
    "PYTHONHASHSEED": "nothing here depends on the order of hashes",
    "DB_POOL_SIZE": "the server has no database",
    "OTEL_TRACES_SAMPLER": "TRACE_SAMPLE_RATE says who is sampled, and a caller's decision holds",
    "OTEL_TRACES_EXPORTER": "traces go out by OTLP over HTTP",
    "OTEL_EXPORTER_OTLP_PROTOCOL": "traces go out by OTLP over HTTP, in protobuf",
}
_SAME = (("ENVIRONMENT", "ENV"), ("MLPLATFORM_REGION", "REGION"))


def without_effect(environ: Mapping[str, str] = os.environ) -> Iterator[str]:
    """A line for each variable that is set and does nothing, saying what is done instead. Empty is
    not set."""
    for name in sorted(name for name in environ if environ[name]):
        if name in _INSTEAD:
            yield f"{name} has no effect: {_INSTEAD[name]}"
        elif name.startswith("VLLM_"):
            yield f"{name} has no effect: this server has no vLLM"
    if float(environ.get("BATCH_TIMEOUT_MS") or 0) > 0:
        yield (
            "BATCH_TIMEOUT_MS holds answers back while the executor is free, and helps no busy "
            "one: batches form by themselves while another runs; leave it unset"
        )
    for first, second in _SAME:
        if environ.get(first) and environ.get(second, environ[first]) not in ("", environ[first]):
            yield f"{second} has no effect: {first} says otherwise, and comes first"


def contradictions(settings: Settings) -> Iterator[str]:
    """A line for each setting that another one makes useless, saying what is done instead."""
    if settings.model_version and settings.models and all("@" in each for each in settings.models):
        yield "MODEL_VERSION has no effect: MODELS names the version of every model"
    if settings.warmup_target_ms is not None and not settings.warmup:
        yield "WARMUP_TARGET_MS has no effect without WARMUP=true: nothing is asked before clients"


def log_level(settings: Settings) -> int:
    """As `logging` has it."""
    return logging.getLevelNamesMapping()[settings.log_level]
