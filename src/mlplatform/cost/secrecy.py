"""Which values of a bill may be secrets: people put all kinds of things into tags."""

from __future__ import annotations

import math
import re
from collections import Counter

from mlplatform.core.redact import redact

_OPAQUE = re.compile(r"[A-Za-z0-9+/_=.~-]{20,}")
_NAMES = re.compile(r"^(?:arn:|/subscriptions/|projects/|//)|://")
"""How the names of resources begin, which are long and no secrets."""
_UUID = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}", re.IGNORECASE)
_MASKED = "…"
_BITS_A_CHARACTER = 4.0
"""Words and names of things have fewer; what a generator of keys makes has more."""


def looks_secret(value: str) -> bool:
    """Whether a value may be a secret: by the shapes that `core/redact` knows, or by being one long
    word of letters and digits mixed as only chance mixes them."""
    if redact(value) != value:
        return True
    if _NAMES.search(value) or _UUID.search(value):
        return False
    return any(_is_random(word) for word in _OPAQUE.findall(value))


def masked(value: str) -> str:
    """A name out of a bill, or its beginning where it may be a secret."""
    return f"{value[:4]}{_MASKED}({len(value)} characters)" if looks_secret(value) else value


def _is_random(word: str) -> bool:
    kinds = (str.isdigit, str.islower, str.isupper)
    if not all(any(is_kind(char) for char in word) for is_kind in kinds):
        return False
    counts = Counter(word).values()
    entropy = -sum(count / len(word) * math.log2(count / len(word)) for count in counts)
    # The most that a word of its length could have is what a short one is measured by.
    return entropy >= min(_BITS_A_CHARACTER, 0.9 * math.log2(len(word)))
