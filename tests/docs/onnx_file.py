"""The stage of the page that begins with an ONNX file: magika and its golden requests, a port that
is free, and an end for the server that the page leaves running."""

from __future__ import annotations

import os
import shutil
import signal
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from mlplatform.cli.demo.models import magika


@contextmanager
def with_onnx_file(folder: Path, environment: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """Prepare the folder; the environment of the page's commands."""
    copy = magika(folder)
    (folder / "magika").mkdir()
    for name in ("model.onnx", "golden.ndjson"):
        shutil.move(copy / name, folder / "magika" / name)
    shutil.rmtree(copy)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    try:
        yield {**environment, "HOST": "127.0.0.1", "PORT": str(port)}
    finally:
        with suppress(FileNotFoundError, ProcessLookupError, ValueError):
            number = int((folder / "server.pid").read_text())
            # The page has ended it itself, if all went well, and the number may be another's.
            if b"mlplatform_serving" in Path(f"/proc/{number}/cmdline").read_bytes():
                os.kill(number, signal.SIGKILL)
