"""A route that is names: failover over a real BIND, whose answers get lost and whose keys are
wrong; and over Route 53, as far as our strict stand-in goes, which throttles."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from botocore.session import Session

from mlplatform.adapters.route53 import open_traffic
from mlplatform.core.store_url import StoreURL
from mlplatform.failover.watch import Watch
from tests.cli.estate import Ran, require
from tests.conformance.traffic.route53_site import HEALTH_CHECK, NAME, weighted
from tests.features.failover.estate import World
from tests.features.failover.test_operations import drilled
from tests.features.failover.test_watch import Heard
from tests.features.route53_traffic.strict_route53 import (
    ZONE_ID,
    Refused,
    StrictRoute53,
    strict_route53,
)
from tests.real.failover.platform import Platform, platform
from tests.real.servers.catalogue import ALLOWED_KEY, KNOWN_KEY, ZONE
from tests.real.servers.names import Authority, Detour, authority, detour

AWAY = ("failover", "run", "--from", "us", "--confirm", "us")
ADDRESSES = {"us": "192.0.2.1", "eu": "192.0.2.2", "ap": "192.0.2.3"}
TSIG = "MLPLATFORM_TSIG_SECRET_FAILOVER"


class Named:
    """us is dead; the zone still sends half of the clients there."""

    def __init__(self, world: Platform, server: Authority, way: Detour) -> None:
        self.world = world
        self.server = server
        self.way = way

    def run(self, *arguments: str) -> Ran:
        return self.world.process(*AWAY, *arguments)

    @property
    def addresses(self) -> frozenset[str]:
        return self.server.ask("api", "A")


@contextmanager
def named(folder: Path, *, key: str = ALLOWED_KEY) -> Iterator[Named]:
    with ExitStack() as stack:
        (zone := folder / "zone").mkdir()
        server = stack.enter_context(authority("bind", zone))
        server.change(
            lambda update: update.replace("api", 1, "A", ADDRESSES["us"], ADDRESSES["eu"])
        )
        way = stack.enter_context(detour(server))
        actuator = f"rfc2136://{way.address}/{ZONE}/api?key={key}&ttl=1&timeout_seconds=1"
        (home := folder / "home").mkdir()
        world = stack.enter_context(
            platform(home, route={"actuator": actuator, "targets": ADDRESSES})
        )
        world.env = {TSIG: server.endpoint.secret}
        world.servers["us"].kill()
        world.look()
        yield Named(world, server, way)


@pytest.mark.usefixtures("caddy", "bind")
def test_a_name_server_that_applies_and_does_not_answer(tmp_path: Path) -> None:
    """Each answer to an update is lost, the claim's and the shift's; both are settled by asking
    what is there, and nothing is written twice."""
    with named(tmp_path) as there:
        there.way.loses_answers = True
        serial = there.server.ask("@", "SOA")
        ran = there.run("--output", "json")
        assert ran.code == 0, ran.said
        assert there.addresses == {ADDRESSES["eu"]}
        (epoch,) = there.server.ask("_epoch.api", "TXT")
        assert "1" in epoch
        updates = _serial(there.server.ask("@", "SOA")) - _serial(serial)
        assert updates == 2, "one to claim, one to move"
        shift = ran.json()["outcomes"][0]
        assert shift["measured"]["ttl_seconds"] == 1.0


def _serial(soa: frozenset[str]) -> int:
    (text,) = soa
    return int(text.split()[2])


@pytest.mark.usefixtures("caddy", "bind")
@pytest.mark.parametrize(
    ("key", "secret", "code", "said"),
    [
        (ALLOWED_KEY, "d3JvbmctYnV0LWJhc2U2NA==", 5, "BADSIG"),
        (KNOWN_KEY, None, 7, "REFUSED"),
        ("nobody", None, 5, "BADKEY"),
    ],
    ids=["a wrong secret", "a key without the right", "a key that the server does not know"],
)
def test_a_wrong_key_is_told_before_anything_is_done(
    tmp_path: Path, key: str, secret: str | None, code: int, said: str
) -> None:
    with named(tmp_path, key=key) as there:
        right = there.server.endpoint.secret
        there.world.env = {f"MLPLATFORM_TSIG_SECRET_{key.upper()}": secret or right}
        before = there.addresses
        ran = there.run()
        assert ran.code == code, ran.said
        assert said.lower() in ran.err.lower(), ran.said
        assert "Traceback" not in ran.err
        assert there.addresses == before
        for word in (right, secret or right):
            assert word not in ran.out + ran.err
        there.world.env = {}
        said = f"no secret for key {key} in MLPLATFORM_TSIG_SECRET_{key.upper()}"
        require(there.run(), 5, "its weights are unknown, and stay as they are", said, hint=False)
        assert there.addresses == before


# ---------------------------------------------------------------------------------------- throttled

THROTTLED = Refused(400, "Throttling", "Rate exceeded")
CHANGE = "ChangeResourceRecordSets"


@pytest.fixture
def service() -> Iterator[StrictRoute53]:
    with strict_route53() as found:
        found.health_checks.add(HEALTH_CHECK)
        yield found


@pytest.mark.usefixtures("caddy")
def test_a_few_refusals_for_haste_are_waited_out(tmp_path: Path, service: StrictRoute53) -> None:
    with platform(tmp_path) as world:
        service.put(
            *(
                weighted(name, weight, ResourceRecords=[{"Value": ADDRESSES[name]}], TTL=1)
                for name, weight in (("us", 50), ("eu", 50), ("ap", 0))
            )
        )
        world.route |= {
            "actuator": f"route53://{ZONE_ID}/{NAME}?endpoint={service.url}&stall_seconds=5",
            "targets": ADDRESSES,
        }
        world.env = {
            "AWS_ACCESS_KEY_ID": service.access_key,
            "AWS_SECRET_ACCESS_KEY": service.secret_key,
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        world.write()
        world.servers["us"].kill()
        world.look()
        service.refusals += [(CHANGE, THROTTLED)] * 2
        before = len(service.batches)
        ran = world.process(*AWAY)
        assert ran.code == 0, ran.said
        assert service.weights(NAME)["us"] == 0
        assert len(service.batches) - before == 2, "one to claim, one to move"
        assert service.secret_key not in ran.out + ran.err


def test_a_minute_of_throttling_delays_and_does_no_harm(service: StrictRoute53) -> None:
    """Longer than the retry policy waits: the watch tries again, less often each time, until it
    may; its longest pause is a minute."""
    world = World(route={"mode": "auto"})
    for name, weight in world.weights.items():
        service.put(weighted(name, weight, ResourceRecords=[{"Value": ADDRESSES[name]}]))
    world.traffic = opened(service, {name: (ADDRESSES[name],) for name in world.regions})
    drilled(world)
    applied = len(service.batches)
    world.kill("us", ago=60)
    heard = Heard(world)
    watch = Watch(world.estate("watch@host:1"), heard, in_background=False)
    began = world.time.monotonic()
    while world.time.monotonic() - began < 60:
        service.refusals = [(CHANGE, THROTTLED)] * 1000
        watch.one_round()
        world.time.sleep(5)
    assert service.weights(NAME) == {"us": 100, "eu": 0}
    assert len(service.batches) == applied, "nothing was half done"
    service.refusals = []
    ended = world.time.monotonic()
    while service.weights(NAME)["us"] and world.time.monotonic() - ended <= 60:
        watch.one_round()
        world.time.sleep(5)
    assert service.weights(NAME) == {"us": 0, "eu": 100}
    moved = [notice for notice in heard.notices if notice.title == "api: unplanned is over"]
    assert len(moved) == 1


def opened(service: StrictRoute53, targets: dict[str, tuple[str, ...]]) -> Any:
    """The adapter, in the place of the route in memory."""
    session = Session()
    session.set_credentials(service.access_key, service.secret_key)
    text = f"route53://{ZONE_ID}/{NAME}?endpoint={service.url}&stall_seconds=5"
    return open_traffic(StoreURL.parse(text, noun="actuator"), targets, session=session)
