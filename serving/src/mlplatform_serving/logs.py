"""The log: one JSON object a line on stderr, with the fields that runbooks grep for."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import traceback
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import msgspec

_OWN = frozenset(vars(logging.makeLogRecord({}))) | {
    "message",
    "asctime",
    "taskName",
    "color_message",
}
_encoder = msgspec.json.Encoder(enc_hook=str)
_FLUSH_SECONDS = 0.1
_LINES_MAX = 4096
_OF_CLIENTS = frozenset({"Invalid HTTP request received.", "Unsupported upgrade request."})


@lru_cache(maxsize=4)
def _to_the_second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _timestamp(seconds: float) -> str:
    return f"{_to_the_second(int(seconds))}.{int(seconds * 1000) % 1000:03d}+00:00"


class JSONFormatter(logging.Formatter):
    """`timestamp`, `level`, `logger`, `message`, what was given as `extra`, and `exception`."""

    def __init__(self, **every_line: str) -> None:
        super().__init__()
        self._every_line = every_line

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        line: dict[str, Any] = {
            "timestamp": _timestamp(record.created),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **self._every_line,
            **{key: value for key, value in vars(record).items() if key not in _OWN},
        }
        if record.exc_info and record.exc_info[1] is not None:
            line["exception"] = "".join(traceback.format_exception(record.exc_info[1])).rstrip()
        return _encoder.encode(line).decode()


class NotOfClients(logging.Filter):
    """Keeps out of the log what any stranger could fill it with, a line a request; it is counted
    among the connections that were ended."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether it is said."""
        return record.getMessage() not in _OF_CLIENTS


def set_up(level: int, **every_line: str) -> None:
    """All loggers, uvicorn's too, write so; `every_line` stands in each line."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JSONFormatter(**every_line))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.getLogger("uvicorn.error").addFilter(NotOfClients())
    logging.getLogger("asyncio").setLevel(max(level, logging.WARNING))


class RequestLog:
    """One line an inference: INFO where it was answered or the client was wrong, WARNING where it
    was shed, ERROR where it failed. At some thousand a second the logging module itself would be
    the load: lines are encoded here and written together, ten times a second."""

    def __init__(self, *, level: int, **every_line: str) -> None:
        self._level = level
        self._every_line = every_line
        # Bytes: what the garbage collector would look through again and again costs more.
        self._lines: list[bytes] = []
        self._dropped = 0
        self._timer: asyncio.TimerHandle | None = None

    def completed(
        self, at: float, model: str, version: str, trace_id: str, total_ns: int, compute_ns: int
    ) -> None:
        """An inference was answered; `at` in seconds since the epoch."""
        if self._level <= logging.INFO:
            self._add(
                {
                    "timestamp": _timestamp(at),
                    "level": "INFO",
                    "logger": "mlplatform_serving",
                    "message": "Request completed",
                    **self._every_line,
                    "model": model,
                    "version": version,
                    "trace_id": trace_id,
                    "status": "success",
                    "latency_ms": total_ns / 1e6,
                    "inference_time": compute_ns / 1e6,
                }
            )

    def failed(
        self, at: float, model: str, error: str, code: int, *, trace_id: str, total_ns: int
    ) -> None:
        """An inference was answered by an error, with this HTTP status."""
        level = logging.INFO if code < 500 else logging.WARNING if code == 503 else logging.ERROR
        if self._level <= level:
            self._add(
                {
                    "timestamp": _timestamp(at),
                    "level": logging.getLevelName(level),
                    "logger": "mlplatform_serving",
                    "message": f"Prediction failed: {error}",
                    **self._every_line,
                    "model": model,
                    "trace_id": trace_id,
                    "status": "error",
                    "code": code,
                    "latency_ms": total_ns / 1e6,
                }
            )

    def _add(self, line: dict[str, Any]) -> None:
        if len(self._lines) >= _LINES_MAX:
            self._dropped += 1
            return
        self._lines.append(_encoder.encode(line))
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_FLUSH_SECONDS, self.flush)

    def flush(self) -> None:
        """Write what has come together."""
        self._timer = None
        if self._dropped:
            logging.getLogger(__name__).warning("%d lines of the log were dropped", self._dropped)
            self._dropped = 0
        if self._lines:
            body = b"\n".join(self._lines) + b"\n"
            self._lines.clear()
            sys.stderr.flush()
            os.write(sys.stderr.fileno(), body)
