"""A page that somebody asked for, as a file."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path

from mlplatform.core.errors import UsageError


def write_page(path: Path, text: str, *, option: str = "--html") -> int:
    """Write a file whole or not at all; its size in bytes. `UsageError` if it cannot be written."""
    body = text.encode("utf-8", "replace")
    try:
        handle, temporary = tempfile.mkstemp(prefix=".page-", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(body)
            Path(temporary).chmod(0o644)
            Path(temporary).replace(path)
        except BaseException:
            with suppress(OSError):
                Path(temporary).unlink()
            raise
    except OSError as error:
        raise UsageError(
            f"{option} {path}: {error.strerror}",
            hint="name a file in a folder that can be written to",
        ) from error
    return len(body)
