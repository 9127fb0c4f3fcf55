"""What a rollout writes through, where answers are lost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest

from mlplatform.adapters.memory_servers import MemoryServers, MemorySplit
from mlplatform.control.retry import Retry
from mlplatform.control.retry_split import BriefRetry, RetryingServers, RetryingSplit
from mlplatform.core.errors import Fenced, Unavailable
from tests.features.control.weather import VirtualClock


@dataclass
class Link:
    """Something behind a line that loses the first answers: of a call that was made, or not."""

    target: Any
    lost: list[str] = field(default_factory=list)
    """`before` or `after` the call, for each call that comes."""
    calls: int = 0

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.target, name)
        return self._lossy(found) if callable(found) else found

    def _lossy(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def one(*given: Any, **named: Any) -> Any:
            self.calls += 1
            when = self.lost.pop(0) if self.lost else ""
            if when == "before":
                raise Unavailable("no answer")
            found = call(*given, **named)
            if when == "after":
                raise Unavailable("no answer")
            return found

        return one


def retry() -> Retry:
    return Retry(VirtualClock(), Random(0), attempts=4, base_seconds=0.1, deadline_seconds=60)


@pytest.mark.parametrize("lost", [["before"], ["after"], ["after", "before", "after"]])
def test_servers_are_as_many_as_were_asked_for(lost: Sequence[str]) -> None:
    memory = MemoryServers()
    servers = RetryingServers(Link(memory, list(lost)), retry())
    servers.scale("v2", 3, digest="blake3:2", epoch=4, writer="one")
    assert len(memory.read().groups["v2"].ready) == 3
    assert servers.read().epoch == 4


@pytest.mark.parametrize("lost", [["before"], ["after"], ["after", "before", "after"]])
def test_a_version_is_admitted_whatever_is_lost(lost: Sequence[str]) -> None:
    memory = MemorySplit(("v1", "v2"))
    split = RetryingSplit(Link(memory, list(lost)), retry())
    split.admit("v2", ["a:1"], epoch=2, writer="one")
    assert memory.admitted == {"v2": ("a:1",)}
    assert set(split.counts(0.5)) == {"v2"}


def test_a_newer_hand_is_no_weather() -> None:
    memory = MemorySplit(("v1", "v2"))
    memory.write({"v1": 100, "v2": 0}, epoch=9, writer="newer", expected=memory.read())
    link = Link(memory)
    with pytest.raises(Fenced):
        RetryingSplit(link, retry()).admit("v2", ["a:1"], epoch=2, writer="one")
    assert link.calls == 1


def test_what_never_answers_is_given_up() -> None:
    link = Link(MemoryServers(), ["before"] * 10)
    with pytest.raises(Unavailable):
        RetryingServers(link, retry()).scale("v2", 3, digest="", epoch=1, writer="one")
    assert link.calls == 4


def test_who_can_wait_longer_hears_that_it_is_worth_it() -> None:
    """An API server that is away for longer than the policy has is away, and no failure."""
    clock = VirtualClock()

    def away() -> None:
        clock.sleep(4.0)
        raise Unavailable("no answer")

    brief = BriefRetry(clock, Random(0), attempts=9, deadline_seconds=10.0)
    with pytest.raises(Unavailable) as raised:
        brief.call(away, what="read servers")
    assert raised.value.retryable
    assert clock.monotonic() < 15.0
