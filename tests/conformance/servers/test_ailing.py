"""Servers that do not answer, or not with what they were started for."""

from __future__ import annotations

from mlplatform.ports.servers import Servers, ServersState, Stuck

from .acts import ask, have, until
from .site import OTHER_DIGEST, Site


def test_crash(site: Site, servers: Servers) -> None:
    """It is counted, with a reason, and for everybody once; the number asked for again is whole
    again, and the count stays."""
    stays, falls = have(site, servers, "v1", 2).groups["v1"].ready
    site.crash(falls)
    fallen = until(servers, lambda state: state.groups["v1"].crashes > 0).groups["v1"]
    assert (fallen.wanted, fallen.crashes, fallen.leaving) == (2, 1, 0)
    assert falls not in fallen.ready
    assert stays in fallen.ready
    for each in fallen.ailing:
        assert each.state in (Stuck.CRASH, Stuck.STARTING), each
        assert each.server
        assert each.reason
    assert site.open().read().groups["v1"].crashes == 1
    ask(site, servers, "v1", 2)
    whole = until(servers, lambda state: len(state.groups["v1"].ready) == 2).groups["v1"]
    assert (whole.crashes, whole.ailing) == (1, ())
    assert whole.ready[0] == stays or servers.features.picks_itself


def test_crash_of_the_first(site: Site, servers: Servers) -> None:
    """Who is to be one fewer after a crash keeps those that answer."""
    falls, *stay = have(site, servers, "v1", 2).groups["v1"].ready
    site.crash(falls)
    until(servers, lambda state: state.groups["v1"].crashes > 0)
    left = have(site, servers, "v1", 1).groups["v1"]
    assert (list(left.ready), left.crashes) == (stay, 1)


def test_other_bytes(site: Site, servers: Servers) -> None:
    """A server that states another digest than it was started for is never ready, and says which
    two they are; waiting does not mend it."""
    servers.scale("v1", 1, digest=OTHER_DIGEST, epoch=1, writer="controller-1")

    def judged(state: ServersState) -> bool:
        group = state.groups["v1"]
        assert group.ready == ()
        return [each.state for each in group.ailing] == [Stuck.CONFIGURATION]

    group = until(servers, judged).groups["v1"]
    assert group.digest == OTHER_DIGEST
    assert site.digest("v1") in group.ailing[0].reason
    assert OTHER_DIGEST in group.ailing[0].reason


def test_digest_that_nobody_recorded(site: Site, servers: Servers) -> None:
    """Then the version is all that is asked of it."""
    servers.scale("v1", 1, digest="", epoch=1, writer="controller-1")
    state = until(servers, lambda state: bool(state.groups["v1"].ready))
    assert state.groups["v1"].digest == ""
