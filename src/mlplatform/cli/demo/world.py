"""What stands in for the world on one machine: ports, a router with a route, and model servers."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from mlplatform.adapters.caddy import caddy_route
from mlplatform.core.placement import ModelVersion
from mlplatform.ports.traffic import Weights

ROUTE = "api"


@dataclass(frozen=True, slots=True)
class Ports:
    """Free ones on loopback."""

    regions: Mapping[str, int]
    """Of the servers there."""
    admin: int
    """The router's admin endpoint."""
    front: int
    """The front door."""
    elsewhere: int
    """What vantages can reach though every region be lost."""

    @classmethod
    def found(cls, names: Sequence[str]) -> Self:
        """As many as are needed, all held open until all are found, so that none comes twice."""
        sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(len(names) + 3)]
        numbers = [each.getsockname()[1] for each in sockets]
        for each in sockets:
            each.close()
        *regions, admin, front, elsewhere = numbers
        return cls(dict(zip(names, regions, strict=True)), admin, front, elsewhere)


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


def _door(port: int, route: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "listen": [f"127.0.0.1:{port}"],
        "automatic_https": {"disable": True},
        "routes": [route],
    }


def server_line(subject: ModelVersion, region: str, port: int, store: Path) -> str:
    """How a server of a version that is in the region's store is started."""
    return (
        f"REGION={region} HOST=127.0.0.1 PORT={port} MODEL_CACHE_DIR={store}/models "
        f"MODELS={subject} python -m mlplatform_serving"
    )
