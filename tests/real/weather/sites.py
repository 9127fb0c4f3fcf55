"""Containers on real servers as regions of a topology, and the credentials for all of them."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from tests.conformance.matrix import ROWS
from tests.real.servers.launch import Endpoint

_ROWS = {row.server: row for row in ROWS}
_numbers = itertools.count(1)

STALL_SECONDS = 1.0
"""Short, so that a line that stalls is given up soon."""


@dataclass(frozen=True)
class Site:
    """One container."""

    server: Endpoint
    container: str

    @property
    def scheme(self) -> str:
        return _ROWS[self.server.name].scheme

    def url(self, at: str = "", *, stall_seconds: float = STALL_SECONDS) -> str:
        """The store's URL; `at` is the server's own URL by way of some proxy."""
        where = f"{self.server.user}/{self.container}" if self.scheme == "az" else self.container
        text = f"{self.scheme}://{where}?endpoint={at or self.server.url}"
        if self.scheme == "s3":
            text += f"&profile={self.server.name}&region=us-east-1"
        return f"{text}&stall_seconds={stall_seconds:g}"


def fresh(server: Endpoint, name: str = "site") -> Site:
    """A new, empty container there."""
    container = f"{name}-{os.getpid()}-{next(_numbers)}"
    _ROWS[server.name].create(server, container)
    return Site(server, container)


def unmade(server: Endpoint) -> Site:
    """A container that does not exist."""
    return Site(server, f"missing-{os.getpid()}-{next(_numbers)}")


def credentials(folder: Path, servers: Iterable[Endpoint]) -> Mapping[str, str]:
    """The environment in which each of them lets us in: S3 by a profile of its name."""
    lines, environment = [], {"AWS_EC2_METADATA_DISABLED": "true"}
    for server in servers:
        if server.name == "azurite":
            environment[f"AZURE_STORAGE_KEY_{server.user.upper()}"] = server.secret
        elif _ROWS[server.name].scheme == "s3":
            lines += [
                f"[{server.name}]",
                f"aws_access_key_id = {server.user}",
                f"aws_secret_access_key = {server.secret}",
            ]
    file = folder / "aws-credentials"
    file.write_text("\n".join(lines) + "\n")
    return environment | {
        "AWS_SHARED_CREDENTIALS_FILE": str(file),
        "AWS_CONFIG_FILE": str(folder / "no-aws-config"),
    }


def topology_text(
    control: Path, regions: Mapping[str, str], *, home: str, targets: Iterable[str] | None = None
) -> str:
    """A topology with one model, `m@v1`."""
    wanted = [name for name in regions if name != home] if targets is None else list(targets)
    stores = "".join(f'  {name}: {{store: "{url}"}}\n' for name, url in regions.items())
    return (
        f'control: "file://{quote(str(control))}"\nregions:\n{stores}'
        f"models:\n  m: {{version: v1, home: {home}, replicate_to: [{', '.join(wanted)}]}}\n"
    )
