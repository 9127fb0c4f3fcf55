"""A repository as the settings have it."""

from __future__ import annotations

from mlplatform_serving.gpu import NoGPU, Read, open_nvml
from mlplatform_serving.memory import host
from mlplatform_serving.memory.watch import MemoryWatch, marks
from mlplatform_serving.metrics import Metrics
from mlplatform_serving.models.limits import instance_limits
from mlplatform_serving.models.repository import LoadLimits, Repository
from mlplatform_serving.models.warming import WarmUp
from mlplatform_serving.settings import Settings
from mlplatform_serving.stores.fetch import StoreSource


def open_repository(settings: Settings, metrics: Metrics) -> Repository:
    """To be used on the event loop. `ServingError` where `MODEL_SOURCE` cannot be a store."""
    host.settle()
    memory = MemoryWatch(
        marks(settings.host_memory_fraction, settings.gpu_memory_fraction),
        limit_bytes=settings.memory_limit_bytes,
        read_gpus=_gpus(),
    )
    limits = LoadLimits(
        concurrent=settings.max_concurrent_loads,
        timeout_seconds=settings.model_load_timeout,
        budget_bytes=settings.model_memory_bytes,
        idle_seconds_min=settings.evict_after_idle_seconds,
        on_demand=settings.load_on_demand,
        warm_up=(
            WarmUp(settings.warmup_target_ms, settings.warmup_seconds_max)
            if settings.warmup
            else None
        ),
    )
    return Repository(
        settings.model_cache_dir,
        metrics=metrics,
        instance_limits=instance_limits(settings),
        memory=memory,
        limits=limits,
        source=None if settings.model_source is None else StoreSource(settings.model_source),
        pinned=settings.pinned_models,
    )


def _gpus() -> Read | None:
    try:
        return open_nvml()
    except NoGPU:
        return None
