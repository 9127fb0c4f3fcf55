"""The key and the clock, on real servers: what each of them says when it will not have us."""

from __future__ import annotations

import re
import time
from types import SimpleNamespace

import dns.message
import pytest

from mlplatform.core.errors import ContainerMissing, Denied, MlplatformError
from mlplatform.ports.traffic import RouteState, Traffic
from tests.real.servers.catalogue import KNOWN_KEY
from tests.real.servers.names import Authority

from .conftest import SECRET, on

WEST = {"east": 0, "west": 100, "north": 0}


def refusals(traffic: Traffic, seen: RouteState) -> list[MlplatformError]:
    """What reading and writing raise."""
    raised = []
    for act in (
        traffic.read,
        lambda: traffic.write(WEST, epoch=1, writer="us", expected=seen),
    ):
        with pytest.raises(MlplatformError) as caught:
            act()
        raised.append(caught.value)
    return raised


def said(error: MlplatformError) -> str:
    return f"{error} | {error.hint}"


def changed_nothing(server: Authority) -> bool:
    return server.ask("api", "A") == {"192.0.2.1", "192.0.2.2"} and not server.ask(
        "_epoch.api", "TXT"
    )


def test_a_secret_that_is_not_the_servers(server: Authority) -> None:
    seen = on(server).read()
    for error in refusals(on(server, secret=SECRET), seen):
        assert isinstance(error, Denied)
        assert error.exit_code == 4
        assert "failover" in said(error)
        assert "secret" in said(error)
        assert SECRET not in said(error)
    assert changed_nothing(server)


def test_a_key_that_the_server_does_not_know(server: Authority) -> None:
    seen = on(server).read()
    for error in refusals(on(server, key="nobody"), seen):
        assert isinstance(error, Denied)
        assert "nobody" in said(error)
    assert changed_nothing(server)


def test_an_algorithm_that_is_not_the_keys(server: Authority) -> None:
    seen = on(server).read()
    for error in refusals(on(server, "algorithm=hmac-sha512"), seen):
        assert isinstance(error, Denied)
        assert "algorithm" in said(error)
    assert changed_nothing(server)


def test_a_key_that_may_read_and_not_write(server: Authority) -> None:
    """It is good, and the zone is not its to change: the hint says which line allows it."""
    traffic = on(server, key=KNOWN_KEY)
    seen = traffic.read()
    assert seen.serving == {"east", "west"}
    with pytest.raises(Denied) as raised:
        traffic.write(WEST, epoch=1, writer="us", expected=seen)
    assert "key bystander may not change api.failover.test." in str(raised.value)
    assert "grant bystander zonesub ANY" in str(raised.value.hint)
    assert changed_nothing(server)


@pytest.mark.parametrize("seconds", [-3600, 3600])
def test_a_clock_that_is_an_hour_off(
    server: Authority, monkeypatch: pytest.MonkeyPatch, seconds: int
) -> None:
    """BIND says by how much; PowerDNS does not say what it dislikes, so that clocks are named."""
    seen = on(server).read()
    wrong = SimpleNamespace(time=lambda: time.time() + seconds)
    monkeypatch.setattr(dns.message, "time", wrong)  # the clock that signatures are made by
    for error in refusals(on(server), seen):
        assert isinstance(error, Denied)
        assert "clock" in said(error)
        if server.endpoint.name == "bind":
            assert "BADTIME" in str(error)
            assert f"ours is {'behind' if seconds < 0 else 'ahead'}" in str(error)
            off = re.search(r"by (\d+) s", str(error))
            assert off is not None
            assert abs(int(off[1]) - 3600) < 60, "and what it took to ask"
    monkeypatch.undo()
    assert changed_nothing(server)


def test_a_zone_that_is_not_there(server: Authority) -> None:
    seen = on(server).read()
    for error in refusals(on(server, zone="elsewhere.test"), seen):
        assert isinstance(error, ContainerMissing)
        assert "not authoritative for the zone elsewhere.test." in str(error)
        assert error.exit_code == 2
