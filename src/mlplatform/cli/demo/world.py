"""What stands in for the world on one machine: ports, routers with their routes, and what model
servers are started from."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from mlplatform.adapters.caddy import caddy_route
from mlplatform.adapters.caddy_versions import version_route
from mlplatform.core.placement import ModelVersion
from mlplatform.ports.traffic import Weights

ROUTE = "api"


@dataclass(frozen=True, slots=True)
class Ports:
    """Free ones on loopback."""

    regions: Mapping[str, int]
    """Where a region's requests enter."""
    entries: Mapping[str, int]
    """The admin endpoint of each region's own router."""
    servers: Mapping[str, int]
    """The first of those that its servers may have."""
    admin: int
    """The router's admin endpoint."""
    front: int
    """The front door."""
    elsewhere: int
    """What vantages can reach though every region be lost."""

    @classmethod
    def found(cls, names: Sequence[str]) -> Self:
        """As many as are needed, all held open until all are found, so that none comes twice."""
        sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(3 * len(names) + 3)]
        numbers = [each.getsockname()[1] for each in sockets]
        for each in sockets:
            each.close()
        count = len(names)
        regions, entries, servers = (
            dict(zip(names, numbers[start : start + count], strict=True))
            for start in range(0, 3 * count, count)
        )
        return cls(regions, entries, servers, *numbers[3 * count :])


def caddy_config(ports: Ports, weights: Weights) -> dict[str, Any]:
    """A Caddy whose front door is one route to all regions."""
    targets = {region: (f"127.0.0.1:{port}",) for region, port in ports.regions.items()}
    doors = {
        "front": _door(ports.front, caddy_route(ROUTE, targets, weights)),
        "elsewhere": _door(ports.elsewhere, {"handle": [{"handler": "static_response"}]}),
    }
    return {
        "admin": {"listen": f"127.0.0.1:{ports.admin}"},
        "apps": {"http": {"servers": doors}},
    }


def entry_config(ports: Ports, region: str, subject: ModelVersion) -> dict[str, Any]:
    """The Caddy of one region: what enters there is divided between versions of the model, and
    counted. It has no server yet."""
    # Region and process in the name: sockets in the abstract are one set on the whole machine.
    route = version_route(entry_id(ports, region), [subject.version])
    return {
        "admin": {"listen": f"127.0.0.1:{ports.entries[region]}"},
        "apps": {
            "http": {"metrics": {}, "servers": {"entry": _door(ports.regions[region], route)}}
        },
    }


def entry_id(ports: Ports, region: str) -> str:
    """The `@id` of a region's route between versions."""
    return f"{region}-{ports.entries[region]}"


def server_settings(ports: Ports, region: str, store: Path) -> str:
    """`server.toml`: what the region's servers are started by, from its own store."""
    first = ports.servers[region]
    return (
        'command = ["python", "-m", "mlplatform_serving"]\n'
        f"ports = [{first}, {first + 19}]\n"
        "grace_seconds = 5\n\n"
        "[environment]\n"
        f'REGION = "{region}"\n'
        f'MODEL_CACHE_DIR = "{store}/models"\n'
    )


def _door(port: int, route: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "listen": [f"127.0.0.1:{port}"],
        "automatic_https": {"disable": True},
        "routes": [route],
    }
