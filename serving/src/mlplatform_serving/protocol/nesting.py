"""How deeply JSON nests, before anything parses it (Triton CVE-2025-23310 and its kin)."""

from __future__ import annotations

import numpy as np

from mlplatform_serving.errors import BadRequest
from mlplatform_serving.protocol.tensors import STRINGS, Buffer

DEPTH_MAX = 100
"""Triton's own limit since those."""
_PIECE_BYTES = 1 << 20
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def check_depth(body: Buffer) -> None:
    """`BadRequest` if JSON nests deeper than 100. Most bodies have fewer brackets than that."""
    text = bytes(body)
    if text.count(b"[") + text.count(b"{") <= DEPTH_MAX:
        return
    brackets = STRINGS.sub(b"", text).translate(None, _NOT_BRACKETS)
    depth = 0
    for start in range(0, len(brackets), _PIECE_BYTES):
        codes = np.frombuffer(brackets, np.uint8)[start : start + _PIECE_BYTES]
        # "[" and "{" have bit 1 set and bit 2 clear (5b, 7b); their closing ones (5d, 7d) not.
        depths = depth + np.cumsum(np.where(codes & 0b10, 1, -1), dtype=np.int64)
        if depths.max() > DEPTH_MAX:
            raise BadRequest(f"the JSON nests deeper than {DEPTH_MAX}")
        depth = int(depths[-1])
