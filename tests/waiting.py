"""How tests wait: for what they assert, never for a time. Limits only end what would hang."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

WITHIN_SECONDS = 60.0
T = TypeVar("T")


def becomes(
    look: Callable[[], T],
    holds: Callable[[T], object],
    *,
    within_seconds: float = WITHIN_SECONDS,
    every_seconds: float = 0.1,
) -> T:
    """What `look` gives, once that is true of it; `AssertionError` with the last of it if it never
    is."""
    deadline = time.monotonic() + within_seconds
    while not holds(found := look()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within_seconds:g} s: {found!r}")
        time.sleep(every_seconds)
    return found


def eventually(holds: Callable[[], Any], *, within_seconds: float = WITHIN_SECONDS) -> Any:
    """What `holds` gives, once it is true. The first that is: who needs one of several waits for it
    with `becomes`."""
    return becomes(holds, bool, within_seconds=within_seconds)


def wait_until(
    true: Callable[[], object],
    why: Callable[[], str] = lambda: "",
    *,
    seconds: float = WITHIN_SECONDS,
) -> None:
    """Wait for it; `why` tells what there is to know if it never comes."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"it did not come to pass: {why()}"
        time.sleep(0.02)
