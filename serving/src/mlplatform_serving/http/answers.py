"""What is answered: a status, a body, and headers."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from mlplatform_serving.errors import ServingError

log = logging.getLogger("mlplatform_serving")

Header = tuple[bytes, bytes]
_encoder = msgspec.json.Encoder()
_JSON: Header = (b"content-type", b"application/json")
_BINARY: Header = (b"content-type", b"application/octet-stream")
JSON_LENGTH = b"inference-header-content-length"


@dataclass(slots=True)
class Answer:
    """One answer; its length is stated by who sends it."""

    status: int
    body: bytes
    headers: list[Header]


def json_answer(told: Any, status: int = 200, headers: Sequence[Header] = ()) -> Answer:
    """`told` as JSON."""
    return Answer(status, _encoder.encode(told), [_JSON, *headers])


def error_answer(error: Exception) -> Answer:
    """What a client is told of an error; of one that nobody foresaw, nothing but that."""
    if isinstance(error, ServingError):
        return json_answer({"error": error.message}, error.status, error.headers)
    log.error("an answer failed in a way it should not", exc_info=error)
    return json_answer({"error": "internal error; the server's log has it"}, 500)


def inference_answer(pieces: Sequence[bytes | memoryview], json_bytes: int | None) -> Answer:
    """An inference's answer; `json_bytes` where binary data follow the JSON."""
    if json_bytes is None:
        return Answer(200, bytes(pieces[0]), [_JSON])
    return Answer(200, b"".join(pieces), [_BINARY, (JSON_LENGTH, b"%d" % json_bytes)])
