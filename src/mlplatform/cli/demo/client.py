"""A client of the platform that sends requests all along, and counts what became of them."""

from __future__ import annotations

import http.client
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from urllib.parse import urlsplit

SLOW_SECONDS = 0.5
"""The 500 ms of runbooks."""
_AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class Request:
    """One request. Times are monotonic."""

    at: float
    seconds: float
    answer: str
    """The region that answered, else what came instead: a status, or the name of an error."""
    ok: bool


@dataclass(frozen=True, slots=True)
class Tally:
    """What became of some requests."""

    requests: tuple[Request, ...]

    @property
    def failed(self) -> list[Request]:
        return [each for each in self.requests if not each.ok]

    @property
    def slow(self) -> list[Request]:
        """Those that were answered, and too slowly."""
        return [each for each in self.requests if each.ok and each.seconds > SLOW_SECONDS]

    @property
    def answers(self) -> Counter[str]:
        return Counter(each.answer for each in self.requests)

    def __str__(self) -> str:
        listed = ", ".join(f"{count} by {who}" for who, count in self.answers.most_common())
        return (
            f"{len(self.requests)} requests, {len(self.failed)} failed, "
            f"{len(self.slow)} slow (over {SLOW_SECONDS * 1000:.0f} ms); {listed}"
        )


@dataclass(slots=True)
class Client:
    """Several connections to one door, so many requests a second together."""

    url: str
    bodies: Sequence[bytes]
    """Sent in any order: one that is regular falls in step with a router's turns."""
    per_second: float = 40.0
    timeout_seconds: float = 2.0
    """After so long a request has failed."""
    _requests: list[Request] = field(default_factory=list)
    _chance: Random = field(default_factory=lambda: Random(0))  # noqa: S311 - the same story each time
    _stop: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        """Send until `stop`."""
        for number in range(_AT_ONCE):
            threading.Thread(
                target=self._send_all,
                args=(number / self.per_second,),
                name=f"mlplatform-demo-client-{number}",
                daemon=True,
            ).start()

    def stop(self) -> None:
        """Send no more."""
        self._stop.set()

    def since(self, began: float, until: float | None = None) -> Tally:
        """What became of the requests sent since then, by the monotonic clock."""
        ended = float("inf") if until is None else until
        return Tally(tuple(each for each in list(self._requests) if began <= each.at < ended))

    def _send_all(self, first: float) -> None:
        parts = urlsplit(self.url)
        pause = _AT_ONCE / self.per_second
        due = time.monotonic() + first
        while not self._stop.wait(max(0.0, due - time.monotonic())):
            self._requests.append(self._send(parts.hostname or "", parts.port, parts.path))
            due += pause

    def _send(self, host: str, port: int | None, path: str) -> Request:
        at = time.monotonic()
        connection = http.client.HTTPConnection(host, port, timeout=self.timeout_seconds)
        try:
            headers = {"Content-Type": "application/json"}
            connection.request("POST", path, self._chance.choice(self.bodies), headers)
            answer = connection.getresponse()
            answer.read()
            ok = answer.status == 200
            who = answer.headers.get("X-Mlplatform-Region", "") if ok else f"HTTP {answer.status}"
        except (OSError, http.client.HTTPException) as error:
            ok, who = False, type(error).__name__
        finally:
            connection.close()
        return Request(at, time.monotonic() - at, who, ok)
