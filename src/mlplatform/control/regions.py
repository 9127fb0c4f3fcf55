"""All regions at once: what befalls one is not the others'."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor, Future, wait
from typing import TypeVar

from mlplatform.core.errors import MlplatformError, StoreError
from mlplatform.core.seen import Unknown

log = logging.getLogger(__name__)

T = TypeVar("T")


def each_region(
    regions: Iterable[str],
    read: Callable[[str], T],
    *,
    executor: Executor,
    timeout_seconds: float | None,
) -> dict[str, T | Unknown]:
    """`read` of every region at once. What fails or does not answer in time is `Unknown`."""
    return gathered({r: executor.submit(read, r) for r in regions}, timeout_seconds)


def gathered(
    futures: Mapping[str, Future[T]], timeout_seconds: float | None
) -> dict[str, T | Unknown]:
    """What was asked, as far as it is answered in time; the rest goes on."""
    answered, _ = wait(futures.values(), timeout=timeout_seconds)
    results: dict[str, T | Unknown] = {}
    for region, future in futures.items():
        try:
            if future in answered:
                results[region] = future.result()
            else:
                results[region] = Unknown(f"{region}: no answer within {timeout_seconds:g} s")
        except MlplatformError as error:
            results[region] = Unknown(describe(region, error))
        except Exception as error:  # one region's must not become the others'
            log.error("%s: internal error", region, exc_info=error)
            name = type(error).__name__
            results[region] = Unknown(f"{region}: internal error: {name}: {error}")
    return results


def describe(region: str, error: MlplatformError) -> str:
    """An error of a region in one line."""
    text = str(error)
    named = text if region in text else f"{region}: {text}"
    return named if not error.hint or isinstance(error, StoreError) else f"{named} ({error.hint})"
