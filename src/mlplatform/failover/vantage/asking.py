"""The questions of a vantage, put through its ports: each is asked once, in a bounded time."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable

from mlplatform.control.golden_library import GoldenLibrary, NotPublished, Requests
from mlplatform.core.errors import UsageError
from mlplatform.core.placement import ModelVersion
from mlplatform.core.seen import Unknown
from mlplatform.failover.evidence.record import GoldenAnswer
from mlplatform.failover.vantage.rounds import (
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

    def golden(self, target: Target, wanted: ModelVersion, turn: int) -> GoldenAnswer | None:
        """One golden request for a model, of the version that the region says it serves. None where
        there is nothing to ask: a question that cannot be judged says nothing of a region."""
        deadline = self._elapsed() + self._timeout_seconds
        model_url = f"{target.url}/v2/models/{wanted.model}"
        metadata = self._get(model_url, self._timeout_seconds)
        version, digest = served_version(metadata.body) if metadata.good else (None, None)
        subject, requests = self._requests(wanted, version, deadline)
        if not requests:
            return None
        golden = requests[turn % len(requests)]
        if metadata.status is None:
            return golden_answer(target.region, subject, golden, metadata, digest=None)
        left = deadline - self._elapsed()
        if left <= 0:
            return None  # the stores took the time, not the region
        body = json.dumps(golden.request).encode()
        answer = self._probe.ask(
            Question(f"{model_url}/infer", "POST", body, _JSON), timeout_seconds=left
        )
        found = golden_answer(target.region, subject, golden, answer, digest=digest)
        if found.ok or found.version in {None, subject.version}:
            return found
        # Another version answered, one on trial perhaps: it is judged by what it should say.
        other, theirs = self._requests(wanted, found.version, deadline)
        same = [each for each in theirs if each.request == golden.request]
        if other == subject:
            return found
        return golden_answer(target.region, other, same[0], answer, digest=None) if same else None

    def _requests(
        self, wanted: ModelVersion, version: str | None, deadline: float
    ) -> tuple[ModelVersion, Requests]:
        """The requests of what a region says it serves, and whose they are. A name that was never
        published is taken for the server's own way of counting what is meant to be there."""
        for subject in (_version_of(wanted, version), wanted):
            left = max(0.0, deadline - self._elapsed())
            requests = self._golden.of(subject, wait_seconds=left)
            if not isinstance(requests, Unknown):
                return subject, requests
            if not isinstance(requests, NotPublished):
                log.info("no golden request", extra={"why": requests.reason})
                break
        return wanted, ()

    def _get(self, url: str, timeout_seconds: float) -> Answer:
        return self._probe.ask(Question(url), timeout_seconds=timeout_seconds)


def _version_of(wanted: ModelVersion, version: str | None) -> ModelVersion:
    try:
        return ModelVersion(wanted.model, version) if version else wanted
    except UsageError:
        return wanted
