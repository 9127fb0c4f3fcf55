"""So many servers of a version, whichever there were."""

from __future__ import annotations

import pytest

from mlplatform.core.errors import UsageError
from mlplatform.ports.servers import Servers, ServersState, Stuck

from .acts import ask, have, until
from .site import Site


def test_nothing_runs_yet(servers: Servers) -> None:
    """No group, and nobody has written."""
    assert servers.read() == ServersState()


def test_what_is_asked_for_comes(site: Site, servers: Servers) -> None:
    """At once as a number, then as servers that answer, each with an address of its own; everybody
    sees the same."""
    asked = ask(site, servers, "v1", 2).groups["v1"]
    assert (asked.wanted, asked.digest, asked.crashes) == (2, site.digest("v1"), 0)
    assert {each.state for each in asked.ailing} <= {Stuck.STARTING}
    state = until(servers, lambda state: len(state.groups["v1"].ready) == 2)
    group = state.groups["v1"]
    assert len(set(group.ready)) == 2
    assert (group.wanted, group.ailing, group.leaving, group.crashes) == (2, (), 0, 0)
    assert [site.answers(address) for address in group.ready] == ["v1", "v1"]
    assert site.open().read() == state


def test_asked_again(site: Site, servers: Servers) -> None:
    """What is there stays, and nothing comes: for the same adapter and for another."""
    before = have(site, servers, "v1", 2)
    assert ask(site, servers, "v1", 2) == before
    assert ask(site, site.open(), "v1", 2) == before
    assert servers.read() == before


def test_asked_again_before_they_are_ready(site: Site, servers: Servers) -> None:
    """Those that start are counted."""
    ask(site, servers, "v1", 1)
    ask(site, servers, "v1", 1)
    state = until(servers, lambda state: bool(state.groups["v1"].ready))
    assert len(state.groups["v1"].ready) == 1
    assert (state.groups["v1"].ailing, state.groups["v1"].leaving) == ((), 0)


def test_versions_beside_each_other(site: Site, servers: Servers) -> None:
    """Neither touches the other; one that goes takes its group with it, once it has gone."""
    old = have(site, servers, "v1", 1).groups["v1"]
    both = have(site, servers, "v2", 1)
    assert both.groups["v1"] == old
    assert [site.answers(each) for each in both.groups["v2"].ready] == ["v2"]
    told = ask(site, servers, "v2", 0)
    if servers.features.picks_itself:  # and takes a moment to do so
        told = until(servers, lambda state: not serves(state, "v2"))
    if "v2" in told.groups:
        assert (told.groups["v2"].wanted, told.groups["v2"].ready) == (0, ())
        assert told.groups["v2"].leaving == 1
    left = until(servers, lambda state: "v2" not in state.groups)
    assert left.groups == {"v1": old}


def serves(state: ServersState, version: str) -> bool:
    """Whether anybody of a version is ready."""
    return version in state.groups and bool(state.groups[version].ready)


def test_who_goes_and_who_stays(site: Site, servers: Servers) -> None:
    """The first of `ready` stays; those that go are counted until they have gone, as no crash. More
    come after those that are there."""
    before = have(site, servers, "v1", 3).groups["v1"].ready
    told = ask(site, servers, "v1", 1).groups["v1"]
    assert told.wanted == 1
    if servers.features.picks_itself:  # and takes a moment to do so
        told = until(servers, lambda state: state.groups["v1"].leaving == 2).groups["v1"]
    assert (len(told.ready), told.leaving) == (1, 2)
    left = until(servers, lambda state: state.groups["v1"].leaving == 0).groups["v1"]
    assert (len(left.ready), left.ailing, left.crashes) == (1, (), 0)
    if not servers.features.picks_itself:
        assert left.ready == before[:1]
    again = have(site, servers, "v1", 2).groups["v1"]
    if not servers.features.picks_itself:
        assert again.ready[:1] == left.ready
    assert set(left.ready) < set(again.ready)


def test_none_of_what_never_was(site: Site, servers: Servers) -> None:
    """There is nothing to do, and it makes no group."""
    assert ask(site, servers, "v2", 0).groups == {}
    assert servers.read().groups == {}


def test_fewer_than_none(site: Site, servers: Servers) -> None:
    """Refused, and nothing is changed."""
    with pytest.raises(UsageError):
        ask(site, servers, "v1", -1)
    assert servers.read() == ServersState()
