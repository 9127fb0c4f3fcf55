"""Golden requests to one server of one version."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from mlplatform.core.golden import GoldenRequest
from mlplatform.ports.probe import Probe, Question

_JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True, slots=True)
class Answered:
    """What came of all golden requests, or of the first that was not answered as it must be."""

    slowest_seconds: float = 0.0
    problem: str = ""
    """Which request, and what was wrong with its answer; empty where nothing was."""
    wrong: bool = False
    """It answered, and with something else: time does not mend that."""


def ask_golden(
    probe: Probe,
    golden: Sequence[GoldenRequest],
    address: str,
    model: str,
    version: str,
    *,
    slow_seconds: float,
) -> Answered:
    """Every golden request, one after the other, at `host:port`: each is to be answered as it must
    be, within `slow_seconds`."""
    url = f"http://{address}/v2/models/{model}/versions/{version}/infer"
    slowest = 0.0
    for number, each in enumerate(golden, start=1):
        answer = probe.ask(
            Question(url, "POST", json.dumps(each.request).encode(), _JSON),
            timeout_seconds=max(1.0, 4 * slow_seconds),
        )
        said = f"{address}: golden request {number}"
        if not answer.good:
            return Answered(slowest, f"{said}: {answer.error or f'HTTP {answer.status}'}")
        if problem := each.difference(_parsed(answer.body)):
            return Answered(slowest, f"{said}: {problem}", wrong=True)
        slowest = max(slowest, answer.seconds)
        if answer.seconds > slow_seconds:
            return Answered(slowest, f"{said} took {answer.seconds:.3f} s")
    return Answered(slowest)


def _parsed(body: bytes) -> object:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None
