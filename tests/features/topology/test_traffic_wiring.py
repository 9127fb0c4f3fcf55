"""Routes of the topology become actuators, each told what its regions are."""

from __future__ import annotations

from typing import Any

import pytest

from mlplatform import wiring
from mlplatform.adapters.caddy import CaddyTraffic
from mlplatform.adapters.memory_traffic import MemoryTraffic
from mlplatform.core.errors import TopologyError, UsageError
from mlplatform.core.topology import Topology


def topology(**routes: dict[str, Any]) -> Topology:
    return Topology.model_validate(
        {
            "control": "memory://control",
            "regions": {
                "us": {"store": "memory://us", "endpoint": "http://us.example.com:8101"},
                "eu": {"store": "memory://eu", "endpoint": "https://eu.example.com"},
                "ap": {"store": "memory://ap", "endpoint": "http://[::1]/v2"},
                "sa": {"store": "memory://sa"},
            },
            "traffic": {"routes": routes},
        }
    )


def test_a_region_is_its_endpoint_unless_the_route_says_otherwise() -> None:
    found = wiring.targets_of(
        topology(
            api={
                "actuator": "memory://x",
                "weights": {"us": 50, "eu": 50, "ap": 0},
                "targets": {"sa": ["10.0.0.1:80", "10.0.0.2:80"], "eu": "lb.example.com:8443"},
            }
        ),
        "api",
    )
    assert found == {
        "us": ("us.example.com:8101",),
        "eu": ("lb.example.com:8443",),
        "ap": ("[::1]:80",),
        "sa": ("10.0.0.1:80", "10.0.0.2:80"),
    }


def test_https_has_its_own_port() -> None:
    route = {"actuator": "memory://x", "weights": {"eu": 100}}
    assert wiring.targets_of(topology(api=route), "api") == {"eu": ("eu.example.com:443",)}


def test_a_region_that_nobody_can_point_at() -> None:
    route = {"actuator": "memory://x", "weights": {"us": 100, "sa": 0}}
    with pytest.raises(TopologyError, match=r"routes.api: nothing says where sa is") as raised:
        wiring.open_traffic(topology(api=route), "api")
    assert raised.value.hint == "give regions.sa.endpoint, or traffic.routes.api.targets.sa"


def test_the_scheme_selects_the_adapter() -> None:
    route = {"actuator": "caddy://127.0.0.1:2019/api", "second": "memory://second"}
    made = topology(api={**route, "weights": {"us": 100}})
    first, second = wiring.open_traffic(made, "api"), wiring.open_traffic(made, "api", second=True)
    assert isinstance(first, CaddyTraffic)
    assert isinstance(second, MemoryTraffic)
    assert (first.url, second.url) == ("caddy://127.0.0.1:2019/api", "memory://second")


@pytest.mark.parametrize(
    ("name", "second", "actuator", "words", "hint"),
    [
        ("apj", False, "memory://x", "apj: no such route; did you mean api?", "there are: api"),
        ("zzz", False, "memory://x", "zzz: no such route", "there are: api"),
        ("api", True, "memory://x", "route api has no second actuator", "`second:`"),
        ("api", False, "cady://h/x", "did you mean caddy://", "known here: memory://, caddy://"),
        ("api", False, "nginx://h/x", "actuator nginx://h/x: unknown scheme", "known here:"),
        ("api", False, "just-a-name", "actuator 'just-a-name' has no scheme", "caddy://"),
    ],
)
def test_mistakes(name: str, second: bool, actuator: str, words: str, hint: str) -> None:
    made = topology(api={"actuator": actuator, "weights": {"us": 100}})
    with pytest.raises(UsageError) as raised:
        wiring.open_traffic(made, name, second=second)
    assert words in str(raised.value)
    assert hint in str(raised.value.hint)
