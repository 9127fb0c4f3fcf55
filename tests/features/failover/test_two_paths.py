"""A route over two actuators: one frozen, one stranded, both found in line again."""

from __future__ import annotations

import pytest

from mlplatform.adapters.memory_traffic import MemoryTraffic
from mlplatform.control.two_paths import FROZEN, STRANDED, TwoPaths
from mlplatform.core.errors import ConditionFailed, Fenced, Unavailable
from mlplatform.ports.traffic import RouteState, TrafficFeatures, Weights
from tests.features.control.weather import VirtualClock

REGIONS = ("us", "eu")
BOTH = {"us": 50, "eu": 50}
AWAY = {"us": 0, "eu": 100}


class Line:
    """An actuator, and a line to it that can be cut; what was sent may arrive late."""

    def __init__(self, name: str, **settings: object) -> None:
        self.there = MemoryTraffic(REGIONS, name=name, weights=BOTH, **settings)  # type: ignore[arg-type]
        self.cut = False
        self.asked = 0

    @property
    def url(self) -> str:
        return self.there.url

    @property
    def features(self) -> TrafficFeatures:
        return self.there.features

    def read(self) -> RouteState:
        self._pass()
        return self.there.read()

    def write(
        self, weights: Weights, *, epoch: int, writer: str, expected: RouteState
    ) -> RouteState:
        self._pass()
        return self.there.write(weights, epoch=epoch, writer=writer, expected=expected)

    def in_force(self, state: RouteState) -> bool:
        self._pass()
        return self.there.in_force(state)

    def _pass(self) -> None:
        self.asked += 1
        if self.cut:
            raise Unavailable("no answer", store=self.url)


@pytest.fixture
def edge() -> Line:
    return Line("edge")


@pytest.fixture
def dns() -> Line:
    plain = TrafficFeatures(zero="left out", all_or_nothing=True, ttl=True)
    return Line("dns", features=plain, ttl_seconds=30.0)


@pytest.fixture
def time() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def route(edge: Line, dns: Line, time: VirtualClock) -> TwoPaths:
    return TwoPaths(edge, dns, time)


def claim(route: TwoPaths, epoch: int) -> RouteState:
    state = route.read()
    return route.write(state.weights, epoch=epoch, writer="w", expected=state)


def test_both_get_the_weights_each_as_it_can(route: TwoPaths, edge: Line, dns: Line) -> None:
    state = claim(route, 1)
    state = route.write({"us": 1, "eu": 99}, epoch=1, writer="w", expected=state)
    assert (dict(state.weights), state.epoch, state.ttl_seconds) == ({"us": 1, "eu": 99}, 1, 30.0)
    assert dict(edge.there.read().weights) == {"us": 1, "eu": 99}
    assert dict(dns.there.read().weights) == BOTH, "in, with an equal share"
    assert not {FROZEN, STRANDED} & state.detail.keys()
    assert route.in_force(state)


@pytest.mark.parametrize("frozen", [0, 1])
def test_one_is_frozen_and_the_other_goes_on(
    edge: Line, dns: Line, time: VirtualClock, frozen: int
) -> None:
    lines = (edge, dns)
    route = TwoPaths(*lines, time)
    lines[frozen].cut = True
    state = route.write(AWAY, epoch=1, writer="w", expected=claim(route, 1))
    assert dict(state.weights) == AWAY
    assert lines[frozen].url in state.detail[FROZEN]
    assert dict(lines[1 - frozen].there.read().weights) == AWAY
    assert dict(lines[frozen].there.read().weights) == BOTH
    assert route.in_force(state)


@pytest.mark.parametrize("frozen", [0, 1])
def test_what_was_frozen_is_brought_in_line_by_the_next_claim(
    edge: Line, dns: Line, time: VirtualClock, frozen: int
) -> None:
    lines = (edge, dns)
    route = TwoPaths(*lines, time)
    lines[frozen].cut = True
    route.write(AWAY, epoch=1, writer="w", expected=claim(route, 1))
    lines[frozen].cut = False
    time.sleep(61)
    state = route.read()
    assert dict(state.weights) == AWAY, "the newer epoch is believed"
    assert lines[frozen].url in state.detail[STRANDED]
    state = claim(route, 2)
    assert STRANDED not in state.detail
    assert [dict(line.there.read().weights) for line in lines] == [AWAY, AWAY]
    assert [line.there.read().epoch for line in lines] == [2, 2]


def test_a_write_that_comes_true_late_is_a_riddle_and_spreads_nowhere(
    route: TwoPaths, edge: Line, dns: Line
) -> None:
    claimed = claim(route, 1)
    stranded = edge.there.read()
    edge.cut = True
    route.write(AWAY, epoch=1, writer="w", expected=claimed)
    edge.cut = False
    edge.there.write({"us": 100, "eu": 0}, epoch=1, writer="w", expected=stranded)
    with pytest.raises(ConditionFailed, match="under one epoch, 1"):
        route.read()
    assert dict(dns.there.read().weights) == AWAY
    edge.there.change_by_hand(AWAY)
    assert dict(claim(route, 2).weights) == AWAY


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_shares_are_believed_of_the_one_that_can_hold_them(
    edge: Line, dns: Line, time: VirtualClock, order: tuple[int, int]
) -> None:
    lines = (edge, dns)
    route = TwoPaths(lines[order[0]], lines[order[1]], time)
    claim(route, 1)
    state = edge.there.read()
    edge.there.write({"us": 1, "eu": 99}, epoch=1, writer="w", expected=state)
    assert dict(route.read().weights) == {"us": 1, "eu": 99}


def test_neither_can_be_reached(route: TwoPaths, edge: Line, dns: Line) -> None:
    state = claim(route, 1)
    edge.cut = dns.cut = True
    with pytest.raises(Unavailable):
        route.read()
    with pytest.raises(Unavailable):
        route.write(AWAY, epoch=1, writer="w", expected=state)


def test_a_newer_controller_on_either_path_fences(
    route: TwoPaths, edge: Line, dns: Line, time: VirtualClock
) -> None:
    state = claim(route, 1)
    rival = TwoPaths(edge, dns, time)
    edge.cut = True
    claim(rival, 2)
    edge.cut = False
    with pytest.raises(Fenced):
        route.write(AWAY, epoch=1, writer="w", expected=state)
    assert route.read().epoch == 2


def test_a_rival_who_came_first_changes_nothing_of_ours(
    route: TwoPaths, edge: Line, dns: Line
) -> None:
    state = claim(route, 1)
    edge.there.change_by_hand({"us": 10, "eu": 90})
    with pytest.raises(ConditionFailed):
        route.write(AWAY, epoch=1, writer="w", expected=state)
    assert dict(dns.there.read().weights) == BOTH


def test_what_was_never_read_is_not_written_over(route: TwoPaths) -> None:
    with pytest.raises(ConditionFailed):
        route.write(AWAY, epoch=1, writer="w", expected=RouteState(BOTH, tag="x"))


def test_one_that_hangs_is_not_asked_at_each_step(
    route: TwoPaths, edge: Line, time: VirtualClock
) -> None:
    edge.cut = True
    for epoch in range(1, 6):
        claim(route, epoch)
    assert edge.asked == 1
    time.sleep(61)
    route.read()
    assert edge.asked == 2


def test_when_both_are_away_both_are_asked_each_time(
    route: TwoPaths, edge: Line, dns: Line
) -> None:
    edge.cut = dns.cut = True
    for _ in range(3):
        with pytest.raises(Unavailable):
            route.read()
    assert edge.asked == dns.asked == 3
    dns.cut = False
    assert route.read().detail[FROZEN]
