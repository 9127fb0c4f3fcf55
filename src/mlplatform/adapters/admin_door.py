"""The model servers' admin door: `POST /admin` with what is to change, such as
`{"lame_duck": true}`, and a token where a server wants one.

The token comes from the environment or, better, from a file that the environment names. It goes as
a bearer token, and never in clear to another machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mlplatform.core.errors import UsageError

PATH = "/admin"
TOKEN, TOKEN_FILE = "MLPLATFORM_ADMIN_TOKEN", "MLPLATFORM_ADMIN_TOKEN_FILE"
HEADER = "X-Mlplatform-Admin-Token"
"""Says the same as a bearer token, where `Authorization` is needed for somebody on the way."""
HINT = f"name the file of the servers' token in {TOKEN_FILE}, or give it in {TOKEN}"


def admin_token(environ: Mapping[str, str]) -> str:
    """What lets us in; empty where nobody has given us any. Read anew each time, since files are
    renewed."""
    if path := environ.get(TOKEN_FILE):
        try:
            token = Path(path).read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{TOKEN_FILE}={path}: cannot be read: {error}") from error
    else:
        token = environ.get(TOKEN, "").strip()
    if not token.isascii() or not token.isprintable():
        raise UsageError(f"the token in {TOKEN_FILE} or {TOKEN} is no token: it cannot be sent")
    return token
