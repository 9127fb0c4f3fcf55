"""The suite can fail: for each thing that a keeper may get wrong, a clause that notices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest

from mlplatform.core.errors import MlplatformError
from mlplatform.ports.servers import Group, Servers, ServersState

from . import acts, test_ailing, test_fence, test_numbers
from .memory_site import Keeper, MemorySite


class HasNoFence(Keeper):
    """Whoever writes last."""

    def scale(
        self, version: str, servers: int, *, digest: str, epoch: int, writer: str
    ) -> ServersState:
        held = max(epoch, self.read().epoch)
        return super().scale(version, servers, digest=digest, epoch=held, writer=writer)


class LowersTheEpoch(Keeper):
    """It forgets the fence with the last server."""

    def read(self) -> ServersState:
        state = super().read()
        return state if state.groups else replace(state, epoch=0, writer="")


class AddsToWhatIsThere(Keeper):
    """So many more, not so many."""

    def scale(
        self, version: str, servers: int, *, digest: str, epoch: int, writer: str
    ) -> ServersState:
        group = self.read().groups.get(version)
        more = servers + (group.wanted if group and servers else 0)
        return super().scale(version, more, digest=digest, epoch=epoch, writer=writer)


class LetsTheFirstGo(Keeper):
    """Who has served longest has earned it."""

    def scale(
        self, version: str, servers: int, *, digest: str, epoch: int, writer: str
    ) -> ServersState:
        with self._lock:
            if version in self._groups:
                self._groups[version].servers.reverse()
        return super().scale(version, servers, digest=digest, epoch=epoch, writer=writer)


class KillsAtOnce(Keeper):
    """Nobody is ever leaving."""

    def __init__(self) -> None:
        super().__init__()
        self.grace_seconds = 0.0


class StartsAllAnew(Keeper):
    """One version's number is everybody's business."""

    def scale(
        self, version: str, servers: int, *, digest: str, epoch: int, writer: str
    ) -> ServersState:
        with self._lock:
            for other in set(self._groups) - {version}:
                self._groups[other].servers.clear()
        return super().scale(version, servers, digest=digest, epoch=epoch, writer=writer)


class KeepsEmptyGroups(Keeper):
    """A version that has gone is listed for ever."""

    def read(self) -> ServersState:
        state = super().read()
        gone = Group("v2") if self._started > 1 else None
        return replace(state, groups={**({"v2": gone} if gone else {}), **state.groups})


class MendsInSilence(Keeper):
    """A crash that was made good never was."""

    def scale(
        self, version: str, servers: int, *, digest: str, epoch: int, writer: str
    ) -> ServersState:
        with self._lock:
            if version in self._groups:
                self._groups[version].crashes = 0
        return super().scale(version, servers, digest=digest, epoch=epoch, writer=writer)


class CountsWhoWasTold(Keeper):
    """Each that goes is a crash."""

    def read(self) -> ServersState:
        state = super().read()
        groups = {
            version: replace(group, crashes=self._started - len(group.ready))
            for version, group in state.groups.items()
        }
        return replace(state, groups=groups)


class TakesAnyBytes(Keeper):
    """The version's name is enough for it."""

    def scale(
        self, version: str, servers: int, *, digest: str, epoch: int, writer: str
    ) -> ServersState:
        return super().scale(version, servers, digest="", epoch=epoch, writer=writer)


@dataclass(frozen=True)
class Gremlin:
    kind: type[Keeper]
    clause: Callable[[MemorySite, Servers], None]

    def __str__(self) -> str:
        return f"{self.kind.__name__}-{self.clause.__name__}"


GREMLINS = [
    Gremlin(HasNoFence, test_fence.test_deposed_writer),
    Gremlin(HasNoFence, test_fence.test_epoch_outlives_the_last_server),
    Gremlin(LowersTheEpoch, test_fence.test_epoch_outlives_the_last_server),
    Gremlin(AddsToWhatIsThere, test_numbers.test_asked_again),
    Gremlin(AddsToWhatIsThere, test_numbers.test_asked_again_before_they_are_ready),
    Gremlin(AddsToWhatIsThere, test_fence.test_race_of_equals),
    Gremlin(LetsTheFirstGo, test_numbers.test_who_goes_and_who_stays),
    Gremlin(KillsAtOnce, test_numbers.test_who_goes_and_who_stays),
    Gremlin(StartsAllAnew, test_numbers.test_versions_beside_each_other),
    Gremlin(KeepsEmptyGroups, test_numbers.test_versions_beside_each_other),
    Gremlin(MendsInSilence, test_ailing.test_crash),
    Gremlin(CountsWhoWasTold, test_numbers.test_who_goes_and_who_stays),
    Gremlin(TakesAnyBytes, test_ailing.test_other_bytes),
]


@pytest.mark.parametrize("gremlin", GREMLINS, ids=str)
def test_a_gremlin_is_caught(gremlin: Gremlin, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = MemorySite()
    gremlin.clause(honest, honest.open())
    monkeypatch.setattr(acts, "WITHIN_SECONDS", 1.0)
    site = MemorySite(gremlin.kind())
    with pytest.raises((AssertionError, pytest.fail.Exception, MlplatformError)):
        gremlin.clause(site, site.open())
