"""The settings of loading and of memory, beside the server's own."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_settings import BaseSettings, NoDecode

from mlplatform_serving.names import is_name
from mlplatform_serving.stores.url import StoreURL, StoreURLWrong

MIB = 1024 * 1024


def _split(value: object) -> object:
    if isinstance(value, str):
        return tuple(each.strip() for each in value.split(",") if each.strip())
    return value


def _named(value: tuple[str, ...]) -> tuple[str, ...]:
    for each in value:
        name, at, version = each.partition("@")
        if not is_name(name) or (at and not is_name(version)):
            raise ValueError(f"{each!r} is not NAME or NAME@VERSION")
    return value


def _store(value: str) -> str:
    try:
        StoreURL.parse(value)
    except StoreURLWrong as error:
        raise ValueError(str(error)) from None
    return value


class LoadingSettings(BaseSettings):
    """One field a variable, as in `Settings`, which has these too."""

    model_source: Annotated[str, AfterValidator(_store)] | None = Field(
        default=None,
        description="The store from which a version that is not in the folder is fetched: "
        "`file://`, `s3://`, `gs://` or `az://`.",
    )
    model_load_timeout: float = Field(
        default=30.0, gt=0, le=86_400, description="How long one load may take, in seconds."
    )
    max_concurrent_loads: int = Field(
        default=2, ge=1, le=64, description="Loads at once; another waits."
    )
    warmup: bool = Field(
        default=False,
        description="A version answers when its golden requests were answered rightly, not before.",
    )
    warmup_target_ms: float | None = Field(
        default=None,
        gt=0,
        le=3_600_000,
        description="With WARMUP: and when each of them took no longer than this.",
    )
    warmup_seconds_max: float = Field(
        default=10.0,
        gt=0,
        le=86_400,
        description="With WARMUP_TARGET_MS: by when; else the version is not loaded.",
    )
    load_on_demand: bool = Field(
        default=True,
        description="Whether an inference of an evicted model loads it again, and waits for it; "
        "else it gets 503.",
    )
    pinned_models: Annotated[
        tuple[str, ...], NoDecode, BeforeValidator(_split), AfterValidator(_named)
    ] = Field(default=(), description="What is never evicted: NAME or NAME@VERSION, with commas.")
    model_memory_mb: int | None = Field(
        default=None,
        ge=1,
        le=2**30,
        description="What all models together may take, in MiB; else what the host has free.",
    )
    evict_after_idle_seconds: float = Field(
        default=5.0,
        ge=0,
        le=86_400,
        description="A model that was used less long ago is not evicted for another.",
    )
    memory_limit_mb: int | None = Field(
        default=None,
        ge=1,
        le=2**30,
        description="Above this, in resident MiB, liveness fails, and the pod is started anew.",
    )
    host_memory_fraction: float = Field(
        default=0.95,
        ge=0.2,
        le=1,
        description="Of the limit, the control group's and the host's memory; above it inferences "
        "get 503, and 0.05 below it idle models leave.",
    )
    gpu_memory_fraction: float = Field(
        default=0.95, ge=0.2, le=1, description="The same of each GPU's, where NVML tells it."
    )

    @property
    def model_memory_bytes(self) -> int | None:
        """What all models together may take."""
        return None if self.model_memory_mb is None else self.model_memory_mb * MIB

    @property
    def memory_limit_bytes(self) -> int | None:
        """Above this liveness fails."""
        return None if self.memory_limit_mb is None else self.memory_limit_mb * MIB
