"""Those who wait, in the order in which they are served: earliest deadline first within a lane, and
a lane for each priority of each key. Bounded by items and by bytes."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Collection, Iterable, Iterator, Mapping
from operator import attrgetter

from mlplatform_serving.batching.request import Key, Request

_DEADLINE = attrgetter("deadline")


class Lane:
    """Requests of one priority and key, earliest deadline first; of equal deadlines, who came first
    goes first."""

    __slots__ = ("items", "key", "passed", "priority", "requests")

    def __init__(self, priority: int, key: Key) -> None:
        self.priority = priority
        self.key = key
        self.requests: list[Request] = []
        self.items = 0
        """The sizes of all of them."""
        self.passed = 0
        """How many batches left, one after the other, with nobody of this lane."""

    def items_before(self, deadline: float) -> int:
        """How many items go before a request that comes now with this deadline."""
        if self.requests[-1].deadline <= deadline:
            return self.items
        place = bisect_right(self.requests, deadline, key=_DEADLINE)
        return sum(request.size for request in self.requests[:place])


class Backlog:
    """All who wait for one executor. Deciding only reads it; `add` and `remove` change it."""

    def __init__(self) -> None:
        self._lanes: dict[tuple[int, Key], Lane] = {}
        self._count = 0
        self.items = 0
        self.bytes = 0
        self.refused_in_a_row = 0
        """Refused by prediction while nothing ran, since something last did; the batcher counts."""

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Request]:
        for lane in self.lanes:
            yield from lane.requests

    def only_lane(self, request: Request) -> Lane | None:
        """Its own, where nobody else waits in another: as most of the time."""
        if len(self._lanes) != 1:
            return None
        return self._lanes.get((request.priority, request.key))

    @property
    def lanes(self) -> Collection[Lane]:
        """Those in which somebody waits."""
        return self._lanes.values()

    def add(self, request: Request) -> None:
        """It waits from now on."""
        place = (request.priority, request.key)
        lane = self._lanes.get(place)
        if lane is None:
            lane = self._lanes[place] = Lane(*place)
        requests = lane.requests
        if not requests or requests[-1].deadline <= request.deadline:
            requests.append(request)
        else:
            insort(requests, request, key=_DEADLINE)
        lane.items += request.size
        self._count += 1
        self.items += request.size
        self.bytes += request.bytes

    def remove(self, requests: Iterable[Request]) -> None:
        """They wait no longer: dispatched, refused, or their clients went away. `KeyError` for one
        that does not wait here."""
        leaving: dict[tuple[int, Key], set[int]] = {}
        for request in requests:
            leaving.setdefault((request.priority, request.key), set()).add(request.id)
        for place, ids in leaving.items():
            lane = self._lanes[place]
            gone = [request for request in lane.requests if request.id in ids]
            if len(gone) != len(ids):
                raise KeyError(f"{sorted(ids - {request.id for request in gone})} do not wait here")
            items = sum(request.size for request in gone)
            lane.items -= items
            self._count -= len(gone)
            self.items -= items
            self.bytes -= sum(request.bytes for request in gone)
            if len(gone) == len(lane.requests):
                del self._lanes[place]
            else:
                lane.requests = [request for request in lane.requests if request.id not in ids]

    def remove_all(self) -> None:
        """Nobody waits any longer."""
        self._lanes.clear()
        self._count = self.items = self.bytes = 0

    def dispatched(self, batch: Iterable[Request]) -> None:
        """They leave as one batch: whose lane had no part in it was passed over."""
        batch = tuple(batch)
        if len(self._lanes) == 1 and len(batch) == self._count:
            self.remove_all()
            return
        self.remove(batch)
        present = {(request.priority, request.key) for request in batch}
        for place, lane in self._lanes.items():
            lane.passed = 0 if place in present else lane.passed + 1

    def ahead(self, request: Request) -> Mapping[Key, int]:
        """How many items of each key would be served before this one, were it to come now."""
        ahead: dict[Key, int] = {}
        for lane in self._lanes.values():
            if lane.priority > request.priority:
                continue
            items = (
                lane.items
                if lane.priority < request.priority
                else lane.items_before(request.deadline)
            )
            if items:
                ahead[lane.key] = ahead.get(lane.key, 0) + items
        return ahead
