"""What holds for the executor of every model, as the settings have it."""

from __future__ import annotations

from mlplatform_serving.models.instance import QUEUE_BYTES, Limits, log
from mlplatform_serving.settings import Settings


def instance_limits(settings: Settings) -> Limits:
    """Logged, in a line that runbooks look for."""
    log.info(
        "DynamicBatchProcessor initialized: max_batch_size=%d, timeout_ms=%g",
        settings.max_batch_size,
        settings.batch_timeout_ms,
    )
    return Limits(
        batch_size_max=settings.max_batch_size,
        batch_size_enforced=settings.enforce_batch_size,
        window_seconds=settings.batch_timeout_ms / 1000,
        queue_requests=settings.max_queue_size,
        queue_bytes=max(QUEUE_BYTES, 2 * settings.body_bytes_max),
        answer_seconds=settings.request_timeout_sec,
        batch_seconds_max=settings.batch_seconds_max,
    )
