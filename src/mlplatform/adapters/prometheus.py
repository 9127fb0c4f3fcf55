"""Prometheus and what speaks its query API (Thanos, Mimir, VictoriaMetrics, the clouds' own).

Queries are put as forms (POST /api/v1/query, /api/v1/query_range), under one deadline for the whole
request:
https://prometheus.io/docs/prometheus/latest/querying/api/. A bearer token is taken from
`MLPLATFORM_PROMETHEUS_TOKEN`.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import urlencode

from mlplatform.adapters.http_probe import HttpProbe
from mlplatform.core.errors import Denied, MlplatformError, Throttled, Unavailable, UsageError
from mlplatform.ports.measurements import History, Line, Measured, Measurements
from mlplatform.ports.probe import Answer, Probe, Question

log = logging.getLogger(__name__)

Read = TypeVar("Read")

VARIABLE = "MLPLATFORM_PROMETHEUS_TOKEN"
_TIMEOUT_SECONDS = 5.0
_HISTORY_TIMEOUT_SECONDS = 30.0


def open_measurements(url: str, environ: Mapping[str, str] | None = None) -> Measurements:
    """The Prometheus at `url`. Nothing is asked of it yet."""
    return Prometheus(url, token=(os.environ if environ is None else environ).get(VARIABLE))


def open_history(url: str, environ: Mapping[str, str] | None = None) -> History:
    """The same, asked for what it remembers, which takes longer."""
    token = (os.environ if environ is None else environ).get(VARIABLE)
    return Prometheus(url, token=token, timeout_seconds=_HISTORY_TIMEOUT_SECONDS)


class Prometheus:
    """The query API of one server."""

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        probe: Probe | None = None,
        timeout_seconds: float = _TIMEOUT_SECONDS,
    ) -> None:
        self._url = url.rstrip("/")
        self._token = token
        self._probe = probe or HttpProbe()
        self._timeout_seconds = timeout_seconds

    @property
    def url(self) -> str:
        return self._url

    def instant(self, query: str) -> tuple[Measured, ...]:
        """See the port."""
        return _told(self._url, _samples, self._asked("query", query, {}))

    def range(
        self, query: str, *, since: float, until: float, step_seconds: float
    ) -> tuple[Line, ...]:
        """See the port."""
        form = {"start": f"{since:.3f}", "end": f"{until:.3f}", "step": f"{step_seconds:g}"}
        return _told(self._url, _lines, self._asked("query_range", query, form))

    def _asked(self, what: str, query: str, form: Mapping[str, str]) -> dict[str, Any]:
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        timeout = {"timeout": f"{self._timeout_seconds:g}s"}
        answer = self._probe.ask(
            Question(
                f"{self._url}/api/v1/{what}",
                "POST",
                urlencode({"query": query, **form, **timeout}).encode(),
                headers,
            ),
            timeout_seconds=self._timeout_seconds,
        )
        if answer.error:
            raise Unavailable(
                f"{answer.error}: {answer.detail}",
                store=self._url,
                hint="see that prometheus.url in the topology is right and that it runs",
            )
        told = _object(answer)
        if told.get("status") != "success":
            raise self._refusal(answer, told, query)
        for warning in told.get("warnings") or ():
            log.warning("%s: %s", self._url, warning)
        return told

    def _refusal(self, answer: Answer, told: dict[str, Any], query: str) -> MlplatformError:
        said = str(told.get("error") or f"HTTP {answer.status}")
        if answer.status in {401, 403}:
            return Denied(
                said, right="query", store=self._url, hint=f"its token is taken from {VARIABLE}"
            )
        if answer.status == 429:
            return Throttled(said, store=self._url)
        if told.get("errorType") == "bad_data":
            return UsageError(
                f"{self._url}: {said}: {query}", hint="see to the query in the topology"
            )
        return Unavailable(said, store=self._url)


def _object(answer: Answer) -> dict[str, Any]:
    try:
        told = json.loads(answer.body)
    except (ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}


def _told(url: str, read: Callable[[dict[str, Any]], Read], told: dict[str, Any]) -> Read:
    try:
        return read(told["data"])
    except (KeyError, TypeError, ValueError) as error:
        raise Unavailable(
            f"answers a query in a form that is not Prometheus's: {error}", store=url
        ) from error


def _lines(data: dict[str, Any]) -> tuple[Line, ...]:
    if data["resultType"] != "matrix":
        raise ValueError(f"a {data['resultType']} is no range")
    return tuple(
        Line(
            {str(k): str(v) for k, v in each["metric"].items()},
            tuple((float(pair[0]), _number(pair)) for pair in each["values"]),
        )
        for each in data["result"]
        # A native histogram has no values.
        if "values" in each
    )


def _samples(data: dict[str, Any]) -> tuple[Measured, ...]:
    if data["resultType"] == "scalar":
        return (Measured({}, _number(data["result"])),)
    if data["resultType"] != "vector":
        raise ValueError(f"a {data['resultType']} is no instant vector")
    return tuple(
        Measured({str(k): str(v) for k, v in each["metric"].items()}, _number(each["value"]))
        # A native histogram has no value.
        for each in data["result"]
        if "value" in each
    )


def _number(pair: Any) -> float:
    """Of `[time, "value"]`. Prometheus writes NaN and +Inf, as Python reads them."""
    _, text = pair
    return float(text)
