"""Two MinIO servers, a model in one of them, and the two clients that bring it to the other.

**Ours** is what a user runs: the command `mlplatform replicate` in a process of its own, its
start-up included, a topology in a temporary folder, the control store on `file://`. It verifies:
each part against the manifest when it is read, and by the store's own CRC64NVME when it is
written; the manifest comes last.

**The peer** is `rclone copy`, with its defaults unless a benchmark says otherwise: four transfers,
four streams for each large file, parts of 5 MiB or what it chooses, each with its MD5, and
afterwards a comparison of size and of what hash there is. The two servers are two remotes with
different credentials, and `--server-side-across-configs` stays off (the default), so that the
bytes go through rclone as they go through us.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import struct
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.measure import MIB, ClientFailed, Usage, run
from tests.real.servers.catalogue import BY_NAME
from tests.real.servers.launch import Endpoint, ServerMissing, running

MODEL, VERSION = "bench", "v1.0.0"
PREFIX = f"models/{MODEL}/{VERSION}"
MLPLATFORM = (str(Path(sys.executable).with_name("mlplatform")),)


@dataclass(slots=True)
class Rig:
    """The servers, a folder for everything, and how to run the clients."""

    folder: Path
    home: Endpoint
    away: Endpoint
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    @property
    def env(self) -> dict[str, str]:
        """Both clients' whole environment."""
        found = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "TMPDIR": str(self.folder),
            "AWS_CONFIG_FILE": str(self.folder / "aws"),
            "AWS_EC2_METADATA_DISABLED": "true",
            "RCLONE_CONFIG": str(self.folder / "no-rclone.conf"),
        }
        for name, server in (("HOME", self.home), ("AWAY", self.away)):
            found |= {
                f"RCLONE_CONFIG_{name}_TYPE": "s3",
                f"RCLONE_CONFIG_{name}_PROVIDER": "Minio",
                f"RCLONE_CONFIG_{name}_ENDPOINT": server.url,
                f"RCLONE_CONFIG_{name}_ACCESS_KEY_ID": server.user,
                f"RCLONE_CONFIG_{name}_SECRET_ACCESS_KEY": server.secret,
            }
        return found

    def rclone(self, *args: str) -> Usage:
        """One run of rclone."""
        return run([BY_NAME["rclone"].path, *args], self.env)

    def mlplatform(self, *args: str, program: Sequence[str] = MLPLATFORM) -> Usage:
        """One run of our command."""
        argv = [*program, *args, "--topology", str(self.topology), "--output", "json"]
        return run(argv, self.env)

    @property
    def topology(self) -> Path:
        """The file that `use` writes."""
        return self.folder / "topology.yaml"

    def new_buckets(self, count: int, *, at: str = "away") -> list[str]:
        """Empty buckets in the other server; their names."""
        names = [f"bucket-{next(self._numbers)}" for _ in range(count)]
        for name in names:
            self.rclone("mkdir", f"{at}:{name}")
        return names

    def drop(self, buckets: Sequence[str]) -> None:
        """Remove buckets and what is in them."""
        for name in buckets:
            self.rclone("purge", f"away:{name}")

    def use(self, source: str, **targets: str) -> None:
        """Make a topology of a source region and target regions, by store URL, with a control
        store of its own."""
        control = self.folder / f"control-{next(self._numbers)}"
        control.mkdir()
        regions = {"home": source, **targets}
        document = {
            "control": control.as_uri(),
            "regions": {name: {"store": url} for name, url in regions.items()},
            "models": {MODEL: {"version": VERSION, "home": "home", "replicate_to": list(targets)}},
        }
        self.topology.write_text(json.dumps(document))  # JSON is YAML

    def url(self, bucket: str, *, at: str = "away") -> str:
        """The store URL of a bucket."""
        return f"s3://{bucket}?endpoint={getattr(self, at).url}&profile={at}"

    def publish(self, artefact: Path) -> str:
        """Publish a file or folder in a bucket of the home server; its store URL."""
        (bucket,) = self.new_buckets(1, at="home")
        source = self.url(bucket, at="home")
        self.use(source)
        self.mlplatform("publish", str(artefact), "--model", MODEL, "--version", VERSION)
        self.rclone("lsf", f"home:{bucket}/{PREFIX}")
        return source


@contextlib.contextmanager
def rig() -> Iterator[Rig]:
    """Two servers and an empty folder, for as long as the block lasts."""
    if not BY_NAME["rclone"].built:
        raise ServerMissing(BY_NAME["rclone"])
    with (
        tempfile.TemporaryDirectory(prefix="mlplatform-bench-") as folder,
        running("minio") as home,
        running("minio") as away,
    ):
        found = Rig(Path(folder), home, away)
        lines = []
        for name, server in (("home", home), ("away", away)):
            lines += [
                f"[profile {name}]",
                f"aws_access_key_id = {server.user}",
                f"aws_secret_access_key = {server.secret}",
            ]
        (found.folder / "aws").write_text("\n".join(lines) + "\n")
        yield found


def outcomes(usage: Usage) -> list[dict[str, Any]]:
    """What our command says it did, all of it done and verified."""
    found: list[dict[str, Any]] = json.loads(usage.output)["outcomes"]
    if not found or any(outcome["result"] != "done" for outcome in found):
        raise ClientFailed(f"not all was done: {usage.output}")
    return found


def write_safetensors(path: Path, size_bytes: int, *, tensor_bytes: int = 16 * MIB) -> None:
    """A safetensors file of random bytes, `size_bytes` in all but for its header."""
    header: dict[str, Any] = {}
    for index, start in enumerate(range(0, size_bytes, tensor_bytes)):
        stop = min(start + tensor_bytes, size_bytes)
        header[f"layers.{index}.weight"] = {
            "dtype": "U8",
            "shape": [stop - start],
            "data_offsets": [start, stop],
        }
    encoded = json.dumps(header).encode()
    with path.open("wb") as stream:
        stream.write(struct.pack("<Q", len(encoded)) + encoded)
        for start in range(0, size_bytes, MIB):
            stream.write(os.urandom(min(MIB, size_bytes - start)))
