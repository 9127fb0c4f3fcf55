"""The epoch: once it is raised, nobody below it changes anything."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mlplatform.core.errors import Fenced
from mlplatform.ports.servers import Servers, ServersState
from tests.conformance.acts import at_once

from .acts import ask, until
from .site import Site

WRITERS = 6


def test_deposed_writer(site: Site, servers: Servers) -> None:
    """Refused whatever it asks for, also after it has read, and nothing is changed."""
    ask(site, servers, "v1", 1, 1, "old")
    newer = ask(site, site.open(), "v1", 1, 2, "new")
    assert (newer.epoch, newer.writer) == (2, "new")
    servers.read()
    for version, count in (("v1", 0), ("v1", 2), ("v1", 1), ("v2", 1)):
        with pytest.raises(Fenced) as raised:
            ask(site, servers, version, count, 1, "old")
        assert raised.value.exit_code == 7
    state = servers.read()
    assert (state.epoch, state.writer, list(state.groups)) == (2, "new", ["v1"])
    assert (state.groups["v1"].wanted, state.groups["v1"].leaving) == (1, 0)


def test_same_epoch(site: Site, servers: Servers) -> None:
    """The holder may, as often as it likes."""
    assert ask(site, servers, "v1", 1, 7).epoch == 7
    assert ask(site, site.open(), "v1", 0, 7).epoch == 7


def test_epoch_outlives_the_last_server(site: Site, servers: Servers) -> None:
    """Nothing is there any more, and the fence stands."""
    ask(site, servers, "v1", 1, 9, "new")
    ask(site, servers, "v1", 0, 9, "new")
    left = until(servers, lambda state: not state.groups)
    assert (left.epoch, left.writer) == (9, "new")
    with pytest.raises(Fenced):
        ask(site, site.open(), "v1", 1, 8, "old")
    assert servers.read() == left


def test_race_of_epochs(site: Site, servers: Servers) -> None:
    """The newest writer has what it asked for, whoever else wrote in the same moment; those who
    came too late were told."""

    def contender(number: int) -> Callable[[], ServersState]:
        own = site.open()
        count = 1 if number == WRITERS else 2
        return lambda: ask(site, own, "v1", count, number, f"writer-{number}")

    won, lost = at_once([contender(1 + number) for number in range(WRITERS)])
    assert all(isinstance(error, Fenced) for error in lost), lost
    assert max(state.epoch for state in won) == WRITERS
    state = until(servers, lambda state: not state.groups["v1"].leaving)
    assert (state.epoch, state.writer) == (WRITERS, f"writer-{WRITERS}")
    state = until(servers, lambda state: not state.groups["v1"].ailing)
    assert (state.groups["v1"].wanted, len(state.groups["v1"].ready)) == (1, 1)


def test_race_of_equals(site: Site, servers: Servers) -> None:
    """The same asked for by several at once comes once."""

    def contender() -> Callable[[], ServersState]:
        own = site.open()
        return lambda: ask(site, own, "v1", 2)

    won, lost = at_once([contender() for _ in range(WRITERS)])
    assert (len(won), lost) == (WRITERS, [])
    state = until(servers, lambda state: not state.groups["v1"].ailing)
    assert (len(state.groups["v1"].ready), state.groups["v1"].leaving) == (2, 0)
