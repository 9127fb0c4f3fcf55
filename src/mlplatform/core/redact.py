"""Secrets never print: what error texts, log lines and tracebacks pass through on their way out.

Two nets, because each has holes. `redact` knows the shapes in which secrets travel: a telling name
beside a value, headers, userinfo in URLs, keys by their own prefix. `secrets_of` knows this
process's own secrets by value, wherever and however they are quoted. Ordinary words ("token:
expired", "signature does not match") and digests stay readable.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from urllib.parse import quote, quote_plus

REDACTED = "[redacted]"

_NAMED = re.compile(r"""(?<![\w.-])([A-Za-z][\w.-]*)(["']?\s{0,4}[:=]\s{0,4})""")
"""A name and the sign after it, as in queries, headers, environments, printed dicts, JSON."""

_TELLING = (
    *("secret", "password", "passwd", "pwd", "passphrase", "token", "credential", "signature"),
    *("secretkey", "accesskey", "accesskeyid", "accountkey", "apikey", "privatekey", "storagekey"),
    *("encryptionkey", "customerkey", "sharedkey", "googleaccessid", "uploadid", "assertion"),
    *("cookie", "authorization"),
)
"""How a name ends, without its punctuation, whose value is a secret. `uploadid`: the URI of a
resumable session at GCS is all that is needed to write to it."""

_QUOTED = re.compile(r"""b?"(?:[^"\\]|\\.)*"?|b?'(?:[^'\\]|\\.)*'?""", re.DOTALL)
_BARE = re.compile(r"""[^\s&;,"'<>)\]}]+""")
_LINE = re.compile(r"[^\r\n]+")
_PROSE = re.compile(r"[A-Za-z()]{1,19}[.!?]?|\S{1,5}")
"""A bare value that may follow a colon in a sentence."""

_SHAPES: tuple[tuple[re.Pattern[str], str], ...] = (
    # PEM blocks, with real or escaped line ends; a truncated one to its end
    (
        re.compile(
            r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----.*?"
            r"(?:-----END [A-Z ]{0,30}PRIVATE KEY-----|\Z)",
            re.DOTALL,
        ),
        REDACTED,
    ),
    (re.compile(r"\b(Bearer|Basic|SharedKey) (?=\S*[0-9=])[\w+/.~:-]{8,}=*"), rf"\1 {REDACTED}"),
    (re.compile(r"(://)(?!\[redacted\])[^\s/?#\"'<>@]+@"), rf"\1{REDACTED}@"),
    (re.compile(r"(hooks\.slack\.com/services/)[\w/-]+"), rf"\1{REDACTED}"),
    # by their own prefix: AWS key ids; Google, GitHub, Hugging Face and Slack tokens; JWTs
    (re.compile(r"\b(?:AKIA|ASIA|AROA|AIDA)[A-Z0-9]{12,}\b"), REDACTED),
    (re.compile(r"\b(?:ya29\.|AIza|gh[pousr]_|github_pat_|hf_|xox[abprs]-)[\w.-]{10,}"), REDACTED),
    (re.compile(r"\beyJ[\w-]{6,}\.[\w-]{6,}(?:\.[\w-]*)?"), REDACTED),
)

_SECRET_VARIABLE = re.compile(
    r"(?:^|_)(?:SECRET|PASSWORD|PASSWD|TOKEN|CREDENTIALS?_JSON|CONNECTION_STRING|SAS)(?:$|_)"
    r"|(?:ACCESS|ACCOUNT|API|STORAGE|PRIVATE|ENCRYPTION)_?KEY(?:$|_)"
)
_NO_SECRET = re.compile(r"_(?:FILE|PATH|DIR|URL|URI|ENDPOINT|NAME)$")
_SHORTEST_SECRET = 8
"""Shorter values would blot out ordinary words."""


def redact(text: str, known: Iterable[str] = ()) -> str:
    """`text` without what looks like a secret, and without the `known` ones."""
    for secret in known:
        text = text.replace(secret, REDACTED)
    for pattern, replacement in _SHAPES:
        text = pattern.sub(replacement, text)
    return _without_named_values(text)


def secrets_of(environ: Mapping[str, str]) -> tuple[str, ...]:
    """The values of the environment's secret variables, as they are and as URLs and JSON quote
    them; longest first, so that none is left half."""
    found: set[str] = set()
    for name, value in environ.items():
        upper = name.upper()
        if len(value) < _SHORTEST_SECRET or _NO_SECRET.search(upper):
            continue
        if _SECRET_VARIABLE.search(upper):
            found.update((value, quote(value, safe=""), quote_plus(value), json.dumps(value)[1:-1]))
    return tuple(sorted(found, key=lambda secret: (-len(secret), secret)))


def _without_named_values(text: str) -> str:
    """Values beside a telling name. The name is found first and the value taken only then, since
    a harmless value may itself hold names (`url=https://host/?sig=…`)."""
    kept: list[str] = []
    done = 0
    for named in _NAMED.finditer(text):
        if named.start() < done or not _is_telling(named[1]):
            continue
        start, stop = named.end(), _value_end(text, named)
        if stop > start and not text.startswith(REDACTED, start):
            kept += (text[done:start], REDACTED)
            done = stop
    kept.append(text[done:])
    return "".join(kept)


def _is_telling(name: str) -> bool:
    words = name.lower().replace("-", "_").replace(".", "_")
    return words.rpartition("_")[2] == "sig" or words.replace("_", "").endswith(_TELLING)


def _value_end(text: str, named: re.Match[str]) -> int:
    """Where the value after a telling name ends; where it starts, if it is no value."""
    start = named.end()
    if quoted := _QUOTED.match(text, start):
        return quoted.end()
    is_header = ":" in named[2]
    if is_header and named[1].lower().endswith(("authorization", "cookie")):
        line = _LINE.match(text, start)  # a scheme and several fields
        return line.end() if line else start
    bare = _BARE.match(text, start)
    if bare is None or (is_header and _PROSE.fullmatch(bare[0])):
        return start
    return bare.end()
