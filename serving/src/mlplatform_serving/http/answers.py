"""What is answered: a status, a body, and headers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

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


def inference_answer(pieces: Sequence[bytes | memoryview], json_bytes: int | None) -> Answer:
    """An inference's answer; `json_bytes` where binary data follow the JSON."""
    if json_bytes is None:
        return Answer(200, bytes(pieces[0]), [_JSON])
    return Answer(200, b"".join(pieces), [_BINARY, (JSON_LENGTH, b"%d" % json_bytes)])
