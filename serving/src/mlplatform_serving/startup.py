"""How far the start of a server is: each milestone is logged, and told by `/health/startup`."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

log = logging.getLogger("mlplatform_serving")

MILESTONES = ("starting", "preloading", "loading", "ready")
"""In their order. `ready` is the end of the start, also where a model could not be loaded."""


class Startup:
    """Where the start is, and when it came there, in seconds since it began."""

    def __init__(self, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._began = monotonic()
        self.reached: dict[str, float] = {"starting": 0.0}

    @property
    def milestone(self) -> str:
        """The last that was reached."""
        return next(reversed(self.reached))

    @property
    def over(self) -> bool:
        """Whether it has started."""
        return self.milestone == MILESTONES[-1]

    def reach(self, milestone: str) -> None:
        """It is there now. One that is left out was not needed."""
        if milestone in self.reached:
            return
        seconds = round(self._monotonic() - self._began, 3)
        self.reached[milestone] = seconds
        log.info(
            "startup: %s after %.3f s",
            milestone,
            seconds,
            extra={"milestone": milestone, "seconds": seconds},
        )
