"""Controllers that die, and keepers that cannot be asked."""

from __future__ import annotations

import pytest

from mlplatform.core.errors import MlplatformError
from mlplatform.ports.servers import Servers

from .acts import ask, have, until
from .site import Site


def test_controller_dies(site: Site, servers: Servers) -> None:
    """Its servers come, stay and answer; whoever comes next goes on, crashes and all."""
    site.scale_by_one_who_dies("v1", 2, digest=site.digest("v1"), epoch=3, writer="late")
    found = until(servers, lambda state: len(state.groups["v1"].ready) == 2)
    assert (found.epoch, found.writer) == (3, "late")
    stays, falls = found.groups["v1"].ready
    site.crash(falls)
    until(servers, lambda state: state.groups["v1"].crashes == 1)
    whole = have(site, servers, "v1", 2, epoch=4).groups["v1"]
    assert stays in whole.ready
    assert have(site, servers, "v1", 0, epoch=4).groups == {}


def test_unreachable(site: Site, servers: Servers) -> None:
    """Everything says so: no answer is not an empty one. Nobody is lost by it."""
    before = have(site, servers, "v1", 1)
    with site.unreachable():
        with pytest.raises(MlplatformError):
            servers.read()
        with pytest.raises(MlplatformError):
            ask(site, servers, "v1", 2)
        with pytest.raises(MlplatformError):
            site.open().read()
    assert servers.read() == before


def test_record_that_is_lost(site: Site, servers: Servers) -> None:
    """Servers run that nobody knows of: no state is empty then, and nothing is started beside
    them."""
    have(site, servers, "v1", 1)
    site.lose_record()
    with pytest.raises(MlplatformError):
        servers.read()
    with pytest.raises(MlplatformError):
        ask(site, servers, "v1", 1)
