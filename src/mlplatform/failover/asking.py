"""The questions of a vantage, put through its ports: each is asked once, in a bounded time."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable

from mlplatform.core.placement import ModelVersion
from mlplatform.core.seen import Unknown
from mlplatform.failover.evidence import GoldenAnswer
from mlplatform.failover.golden import GoldenLibrary
from mlplatform.failover.rounds import (
    HEALTH_PATHS,
    NOT_THERE,
    Target,
    golden_answer,
    served_version,
)
from mlplatform.ports.probe import Answer, Probe, Question

log = logging.getLogger(__name__)

_JSON = {"Content-Type": "application/json"}


class Asker:
    """Asks regions, front doors and references. Safe to share between threads."""

    def __init__(
        self,
        probe: Probe,
        golden: GoldenLibrary,
        timeout_seconds: float,
        *,
        elapsed: Callable[[], float] = time.monotonic,
    ) -> None:
        self._probe = probe
        self._golden = golden
        self._timeout_seconds = timeout_seconds
        self._elapsed = elapsed
        self._paths: dict[str, str] = {}
        """By which path an endpoint answers for its health."""

    def reference(self, url: str) -> Answer:
        """Whether somebody elsewhere answers at all."""
        return self._probe.ask(Question(url, "HEAD"), timeout_seconds=self._timeout_seconds)

    def health(self, target: Target) -> Answer:
        """What the target says of its health, by the first path that it knows."""
        deadline = self._elapsed() + self._timeout_seconds
        known = self._paths.get(target.url)
        paths = sorted(HEALTH_PATHS, key=lambda path: path != known)
        answer = self._get(target.url + paths[0], self._timeout_seconds)
        left = deadline - self._elapsed()
        if answer.status in NOT_THERE and left > 0:
            answer = self._get(target.url + paths[1], left)
            if answer.status is not None and answer.status not in NOT_THERE:
                self._paths[target.url] = paths[1]
        return answer

    def golden(self, target: Target, subject: ModelVersion, turn: int) -> GoldenAnswer | None:
        """One golden request for the version that the region serves, by preference the one that is
        meant to be there. None where there is nothing to ask: no such requests are known, and a
        question that cannot be judged says nothing of a region."""
        deadline = self._elapsed() + self._timeout_seconds
        model_url = f"{target.url}/v2/models/{subject.model}"
        metadata = self._get(model_url, self._timeout_seconds)
        version, digest = served_version(metadata.body) if metadata.good else (None, None)
        if version is not None and version != subject.version:
            subject = ModelVersion(subject.model, version)
        requests = self._golden.of(subject, wait_seconds=max(0.0, deadline - self._elapsed()))
        if isinstance(requests, Unknown):
            log.info("no golden request", extra={"region": target.region, "why": requests.reason})
            return None
        if not requests:
            return None
        golden = requests[turn % len(requests)]
        if metadata.status is None:
            return golden_answer(target.region, subject, golden, metadata, digest=None)
        body = json.dumps(golden.request).encode()
        left = deadline - self._elapsed()
        if left <= 0:
            return None  # the stores took the time, not the region
        answer = self._probe.ask(
            Question(f"{model_url}/infer", "POST", body, _JSON), timeout_seconds=left
        )
        return golden_answer(target.region, subject, golden, answer, digest=digest)

    def _get(self, url: str, timeout_seconds: float) -> Answer:
        return self._probe.ask(Question(url), timeout_seconds=timeout_seconds)
