"""Model versions as mlplatform publishes them, and the server as a process of its own."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from blake3 import blake3
from safetensors.numpy import save

from mlplatform.core.digest import BLOCK_BYTES, BlockDigests, digest_blocks, digest_of
from mlplatform.core.manifest import FileEntry, Manifest, Requirements
from mlplatform.core.placement import ModelVersion

DATATYPES = (
    *("BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64"),
    *("FP16", "FP32", "FP64", "BF16", "BYTES"),
)
_DEADLINE_SECONDS = 60


def publish(
    models: Path,
    name: str,
    version: str,
    files: Mapping[str, bytes],
    *,
    form: str | None = None,
    requirements: Mapping[str, str] | None = None,
    block_bytes: int = BLOCK_BYTES,
) -> str:
    """Write a version's files and its manifest, by the control plane's own code; its digest."""
    folder = models / name / version
    entries = []
    for path, body in files.items():
        where = folder / path
        where.parent.mkdir(parents=True, exist_ok=True)
        where.write_bytes(body)
        digests = digest_of(body)
        blocks = tuple(digest_blocks(body, block_bytes))
        entries.append(
            FileEntry(
                path=path,
                size_bytes=len(body),
                blake3=blake3(body).hexdigest(),
                crc64nvme=f"{digests.crc64nvme:016x}",
                crc32c=f"{digests.crc32c:08x}",
                blocks=BlockDigests(block_bytes, len(body), blocks).packed()
                if len(blocks) > 1
                else "",
            )
        )
    manifest = Manifest.build(
        ModelVersion(name, version),
        entries,
        block_bytes=block_bytes,
        requirements=Requirements(format=form, **(requirements or {})),
        golden="golden.ndjson" if "golden.ndjson" in files else None,
    )
    (folder / "manifest.json").write_bytes(manifest.encoded)
    return manifest.digest


def tensor(name: str, datatype: str, *shape: int) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": list(shape)}


def identity(*datatypes: str, delay_ms: float = 0) -> dict[str, bytes]:
    """A model that gives back one tensor of each datatype, of any two sizes."""
    configuration = {
        "backend": "identity",
        "inputs": [tensor(f"in_{each}", each, -1, -1) for each in datatypes],
        "outputs": [tensor(f"out_{each}", each, -1, -1) for each in datatypes],
        "parameters": {"execute_delay_ms": delay_ms},
    }
    return {"model-config.json": json.dumps(configuration).encode()}


def layers(scale: float = 1.0) -> dict[str, bytes]:
    """Four numbers in, `scale` times their sum and the first of them out, neither below zero."""
    weight = np.array([[scale] * 4, [1, 0, 0, 0]], np.float32)
    configuration = {
        "backend": "numpy",
        "inputs": [tensor("x", "FP32", -1, 4)],
        "outputs": [tensor("y", "FP32", -1, 2)],
        "parameters": {"layers": [{"weight": "w", "bias": "b", "activation": "relu"}]},
    }
    return {
        "model-config.json": json.dumps(configuration).encode(),
        "model.safetensors": save({"w": weight, "b": np.zeros(2, np.float32)}),
    }


@dataclass
class Reply:
    """What was answered."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class ServerProcess:
    """A running server, and what it has logged."""

    process: subprocess.Popen[bytes]
    port: int = 0
    lines: list[dict[str, Any]] = field(default_factory=list)
    read_out: bool = False
    """It has ended, and all that it logged is in `lines`."""
    logged: threading.Condition = field(default_factory=threading.Condition)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        *,
        port: int | None = None,
    ) -> Reply:
        """One request on a connection of its own; what is no bytes goes as JSON."""
        sent = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        connection = http.client.HTTPConnection(
            "127.0.0.1", port or self.port, timeout=_DEADLINE_SECONDS
        )
        try:
            connection.request(method, path, sent, dict(headers or {}))
            answer = connection.getresponse()
            told = {name.lower(): value for name, value in answer.getheaders()}
            return Reply(answer.status, told, answer.read())
        finally:
            connection.close()

    def infer(self, model: str, *inputs: dict[str, Any], **more: Any) -> Reply:
        return self.ask("POST", f"/v2/models/{model}/infer", {"inputs": list(inputs), **more})

    def wait_for(self, message: str) -> dict[str, Any]:
        """The first line of the log whose message has this in it."""

        def found() -> dict[str, Any] | None:
            return next((line for line in self.lines if message in line["message"]), None)

        with self.logged:
            assert self.logged.wait_for(lambda: found() or self.read_out, _DEADLINE_SECONDS), (
                f"never logged: {message}"
            )
        line = found()
        assert line is not None, f"ended with {self.process.returncode}: {self.lines}"
        return line

    def until(self, holds: Callable[[], object]) -> None:
        """Until what the server is asked by `holds` is so."""
        ends = time.monotonic() + _DEADLINE_SECONDS
        while not holds():
            assert self.process.poll() is None, f"ended with {self.process.returncode}"
            assert time.monotonic() < ends, f"never so: {holds}"

    def end(self, how: int = signal.SIGTERM) -> int:
        """Tell it to stop; its exit code."""
        self.process.send_signal(how)
        return self.process.wait(_DEADLINE_SECONDS)

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self.logged:
                self.lines.append(json.loads(line))
                self.logged.notify_all()
        self.process.wait()
        with self.logged:
            self.read_out = True
            self.logged.notify_all()


def environment(**settings: object) -> dict[str, str]:
    """Nothing but what a server needs, and these."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return {**kept, **{name: str(value) for name, value in settings.items()}}


COMMAND = (sys.executable, "-m", "mlplatform_serving")


@contextmanager
def started(models: Path, **settings: object) -> Iterator[ServerProcess]:
    """A server of these models, listening; it may still be loading."""
    settings = {"HOST": "127.0.0.1", "PORT": 0, "MODEL_CACHE_DIR": models, **settings}
    process = subprocess.Popen(
        COMMAND, env=environment(**settings), stdin=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    server = ServerProcess(process)
    reader = threading.Thread(target=server._read)
    reader.start()
    try:
        told = server.wait_for("Uvicorn running on")["message"]
        found = re.search(r":(\d+) ", told)
        assert found is not None
        server.port = int(found[1])
        yield server
    finally:
        process.kill()
        process.wait()
        reader.join()
        assert process.stderr is not None
        process.stderr.close()


@contextmanager
def running(models: Path, **settings: object) -> Iterator[ServerProcess]:
    """A server that has loaded what it could."""
    with started(models, **settings) as server:
        server.wait_for("Server startup complete")
        yield server
