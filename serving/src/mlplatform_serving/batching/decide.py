"""Which requests run next, together, and which are told at once that they will not.

Whenever the executor is free and somebody waits, a batch leaves: no timer, no poll. Who leads it is
the one with the earliest deadline of the highest priority; who may be mixed with it and can still
make it goes along, up to the cap.

When the leader's deadline is too near for a batch of all who wait, there are two ways. The batch is
**cut** to what the leader can bear: nobody is lost now, but a launch is spent on few. Or those who
are in the way are **refused**, and the batch is as full as it can be. Cutting always ends in many
small batches under load (Clockwork's choice, without its admission); refusing always loses answers
that a quiet executor had time for (Nexus, SOSP 2019, drops early like this). Here a cut must cost
nobody anything, by the model: all who are left out still make it in full batches behind it. The
profile thereby chooses: where launching is most of a batch, a second launch seldom fits.

A request is refused when it comes if, behind all who go before it, it would be late.

Everything here is a function of its arguments: who waits, the time, the latency model, the rule.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import inf, isfinite, nextafter

from mlplatform_serving.batching.backlog import Backlog, Lane
from mlplatform_serving.batching.latency import Latency
from mlplatform_serving.batching.request import Key, Request

CROWD = 3
"""With so many full batches waiting in a lane, there is more than can be served, and only full
batches are worth their launch: the deadlines of those who wait say nothing of those who will come
and go before them. (In virtual time 3 to 5 make no difference; without it, half short and half long
deadlines at 1.3 times the capacity end in batches of one.)"""


@dataclass(frozen=True, slots=True)
class Rule:
    """What an operator sets."""

    cap: int = 32
    """Items in a batch, at most."""
    queue_requests: int = 1024
    """Requests that wait, at most."""
    queue_bytes: int = 256 * 1024 * 1024
    turn: int = 8
    """A lane that so many batches left without is led by next: with L lanes, whoever waits in the
    least of them and can still make it sees at most `turn + L - 1` batches leave without its lane.
    So the lowest priority has one batch in `turn + 1` under any flood of higher ones."""
    probe: int = 32
    """After so many refusals by prediction while the executor had nothing to do, one request runs
    whatever is predicted: a model that is wrong would refuse everything and never learn."""
    window_seconds: float = 0.0
    """Compatibility with fixed windows (`BATCH_TIMEOUT_MS`): a batch that is not full waits until
    its oldest request is so old, unless somebody would be late by it. It never helps a busy
    executor."""


class Because(StrEnum):
    """Why a batch was formed as it was. Statistics count them."""

    FULL = "full"
    """The cap was reached, or the next one's own size does not fit in the rest."""
    ALL = "all"
    """Everybody who could be mixed: the executor was free."""
    SHRUNK = "shrunk"
    """Cut to what its tightest deadline allows; others wait."""
    WINDOW = "window"
    """The fixed window was over, or a deadline did not allow for it."""
    TURN = "turn"
    """Led by those whom batches had passed over."""
    PROBE = "probe"
    """Predicted late, and run to learn whether that is still so."""


class Refusal(StrEnum):
    """Why a request was not run. The first five are told when it comes, the others later."""

    TOO_LARGE = "too_large"
    """More items than a batch may have: no retry helps."""
    EXPIRED = "expired"
    """Its deadline was over when it came."""
    QUEUE_REQUESTS = "queue_requests"
    QUEUE_BYTES = "queue_bytes"
    PREDICTED_LATE = "predicted_late"
    """Behind those before it, and in a full batch, it would be late."""
    DISPLACED = "displaced"
    """The queue was full, and a higher priority came."""
    HOPELESS = "hopeless"
    """Late even if it ran now and alone."""
    YIELDED = "yielded"
    """It could have run in a small batch, at the price of more than itself."""


@dataclass(frozen=True, slots=True)
class Dispatch:
    """These run now."""

    batch: tuple[Request, ...]
    because: Because
    seconds: float
    """How long, by the model; 0: unknown."""

    @property
    def size(self) -> int:
        return sum(request.size for request in self.batch)


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do until the executor frees, somebody comes, or the instant, if one is given."""

    until: float | None = None


@dataclass(frozen=True, slots=True)
class Shed:
    """These are refused now; then decide again."""

    requests: tuple[Request, ...]
    because: Refusal


@dataclass(frozen=True, slots=True)
class Admit:
    """It may wait, once those displaced are refused."""

    displaced: tuple[Request, ...] = ()


@dataclass(frozen=True, slots=True)
class Refuse:
    """It may not."""

    because: Refusal
    finish: float | None = None
    """When it would have been answered, by the model."""


def admit(
    request: Request,
    backlog: Backlog,
    now: float,
    latency: Latency,
    rule: Rule,
    busy_until: float | None = None,
) -> Admit | Refuse:
    """Whether a request that comes now may wait. `busy_until`: when the running batch is over, by
    the model; None: the executor is free.

    `ValueError`: a size below 1, or a deadline that is not finite."""
    if request.size < 1 or not isfinite(request.deadline):
        raise ValueError("a request has at least one item and a finite deadline")
    if request.size > rule.cap:
        return Refuse(Refusal.TOO_LARGE)
    if request.deadline <= now:
        return Refuse(Refusal.EXPIRED)
    finish = predicted_finish(request, backlog, now, latency, rule, busy_until)
    if finish > request.deadline and (busy_until is not None or not _probes(backlog, rule)):
        return Refuse(Refusal.PREDICTED_LATE, finish)
    requests = len(backlog) + 1 - rule.queue_requests
    size_bytes = backlog.bytes + request.bytes - rule.queue_bytes
    if requests <= 0 and size_bytes <= 0:
        return Admit()
    displaced: list[Request] = []
    for lane in sorted(backlog.lanes, key=lambda lane: -lane.priority):
        if lane.priority <= request.priority:
            break
        for waiting in reversed(lane.requests):
            displaced.append(waiting)
            requests -= 1
            size_bytes -= waiting.bytes
            if requests <= 0 and size_bytes <= 0:
                return Admit(tuple(displaced))
    return Refuse(Refusal.QUEUE_REQUESTS if requests > 0 else Refusal.QUEUE_BYTES)


def predicted_finish(
    request: Request,
    backlog: Backlog,
    now: float,
    latency: Latency,
    rule: Rule,
    busy_until: float | None = None,
) -> float:
    """When a request that comes now is answered, if none of those before it is refused: they leave
    in full batches, and it goes with the last of them. Those who come later may fill its batch up,
    or not; counting them in would refuse some whom a cut batch serves (it costs 2 % of the rate at
    which 99 % are in time), and `decide` sees to it when they have come."""
    start = now if busy_until is None else max(now, busy_until)
    size = request.size
    cap = rule.cap
    if not backlog.items:
        return start + latency.seconds(size, request.key)
    if lane := backlog.only_lane(request):
        full, rest = divmod(lane.items_before(request.deadline), cap)
        start += full * latency.seconds(cap, request.key)
        if rest and rest + size > cap:
            start += latency.seconds(rest, request.key)
            rest = 0
        return start + latency.seconds(rest + size, request.key)
    for key, items in backlog.ahead(request).items():
        full, rest = divmod(items, cap)
        start += full * latency.seconds(cap, key)
        if key == request.key and rest + request.size <= cap:
            size = rest + request.size
        elif rest:
            start += latency.seconds(rest, key)
    return start + latency.seconds(size, request.key)


def decide(
    backlog: Backlog,
    now: float,
    latency: Latency,
    rule: Rule,
    busy_until: float | None = None,
) -> Dispatch | Wait | Shed:
    """What is to be done now. `busy_until` as in `admit`."""
    if not backlog.items:
        return Wait()
    if (
        busy_until is None
        and rule.window_seconds <= 0
        and (simple := _simple(backlog, now, latency, rule))
    ):
        return simple
    probes = busy_until is None and _probes(backlog, rule)
    hopeless, next_hopeless = _hopeless(backlog.lanes, now, latency, rule)
    if hopeless and not probes:
        return Shed(hopeless, Refusal.HOPELESS)
    if busy_until is not None:
        return Wait(next_hopeless)
    if hopeless:
        probe = min(hopeless, key=lambda request: (request.priority, request.deadline, request.id))
        return Dispatch((probe,), Because.PROBE, latency.seconds(probe.size, probe.key))
    leading, in_turn = _leader(backlog.lanes, rule)
    others = [lane for lane in backlog.lanes if lane.key == leading.key and lane is not leading]
    lanes = [leading, *sorted(others, key=lambda lane: lane.priority)]
    because = Because.TURN if in_turn else None
    if rule.window_seconds > 0 and sum(lane.items for lane in lanes) < rule.cap:
        oldest = min(request.arrival for lane in lanes for request in lane.requests)
        until = oldest + rule.window_seconds
        first = min(lane.requests[0].deadline for lane in lanes)
        if now < until and first - until >= latency.seconds(rule.cap, leading.key):
            return Wait(until)
        because = because or Because.WINDOW
    refused, limit = _cut(leading, now, latency, rule)
    if refused:
        return Shed(tuple(leading.requests[:refused]), Refusal.YIELDED)
    return _batch(lanes, limit, now, latency, rule, because)


def _simple(backlog: Backlog, now: float, latency: Latency, rule: Rule) -> Dispatch | None:
    """What all of the below comes to where all who wait could be mixed and the first of them bears
    the batch, as most of the time; at a quarter of the price."""
    if len(backlog.lanes) != 1:
        return None
    (lane,) = backlog.lanes
    items, cap = lane.items, rule.cap
    seconds = latency.seconds(min(items, cap), lane.key)
    if lane.requests[0].deadline - now < seconds:
        return None
    if items <= cap:
        because = Because.ALL if items < cap else Because.FULL
        return Dispatch(tuple(lane.requests), because, seconds)
    batch: list[Request] = []
    size = 0
    for request in lane.requests:
        if size + request.size <= cap:
            batch.append(request)
            size += request.size
            if size == cap:
                break
    return Dispatch(tuple(batch), Because.FULL, latency.seconds(size, lane.key))


def _probes(backlog: Backlog, rule: Rule) -> bool:
    return backlog.refused_in_a_row >= rule.probe


def _hopeless(
    lanes: Iterable[Lane], now: float, latency: Latency, rule: Rule
) -> tuple[tuple[Request, ...], float | None]:
    """Who would be late even alone and now; and when the next one will be."""
    hopeless: list[Request] = []
    soonest = inf
    for lane in lanes:
        longest = latency.seconds(rule.cap, lane.key)
        for request in lane.requests:
            seconds = latency.seconds(request.size, lane.key)
            if request.deadline - now < seconds:
                hopeless.append(request)
                continue
            soonest = min(soonest, request.deadline - seconds)
            if request.deadline - now >= longest:
                break
    return tuple(hopeless), None if soonest == inf else nextafter(max(soonest, now), inf)


def _leader(lanes: Iterable[Lane], rule: Rule) -> tuple[Lane, bool]:
    """Whose turn it is; and whether because it was passed over."""
    passed_over = max(lanes, key=lambda lane: (lane.passed, -lane.priority))
    first = min(lanes, key=lambda lane: (lane.priority, lane.requests[0].deadline))
    if passed_over.passed >= rule.turn and passed_over is not first:
        return passed_over, True
    return first, False


def _cut(lane: Lane, now: float, latency: Latency, rule: Rule) -> tuple[int, int]:
    """How many at the head are refused, and to what size the batch is cut (the cap: not at all)."""
    requests, key, cap = lane.requests, lane.key, rule.cap
    waiting = lane.items
    limit = largest(requests[0].deadline - now, key, latency, min(cap, waiting))
    if limit == min(cap, waiting):
        return 0, cap
    if waiting < CROWD * cap and _nobody_loses(lane, limit, now, latency, cap):
        return 0, limit
    # The last one bears a batch of itself, or it would be hopeless: the loop ends before it.
    refused = 0
    while requests[refused].deadline - now < latency.seconds(min(cap, waiting), key):
        waiting -= requests[refused].size
        refused += 1
    return refused, cap


def _nobody_loses(lane: Lane, limit: int, now: float, latency: Latency, cap: int) -> bool:
    """Whether all make it after a batch cut to the limit, in full ones as far as they go. While a
    full batch waits, those who come meanwhile need room as well: one more full batch must fit."""
    key = lane.key
    at = now
    waiting = lane.items
    room = min(limit, waiting)
    ends = at + latency.seconds(room, key)
    for request in lane.requests:
        if request.size > room:
            at = ends
            room = min(cap, waiting)
            ends = at + latency.seconds(room, key)
        if ends > request.deadline:
            return False
        room -= request.size
        waiting -= request.size
    return lane.items < cap or ends + latency.seconds(cap, key) <= lane.requests[-1].deadline


def largest(seconds: float, key: Key, latency: Latency, cap: int) -> int:
    """The most items, up to the cap, that take no longer than this."""
    if latency.seconds(cap, key) <= seconds:
        return cap
    fits, too_many = 0, cap
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        if latency.seconds(middle, key) <= seconds:
            fits = middle
        else:
            too_many = middle
    return fits


def _batch(
    lanes: Sequence[Lane],
    limit: int,
    now: float,
    latency: Latency,
    rule: Rule,
    because: Because | None,
) -> Dispatch:
    """The leader's lane in its order, then the others by priority: whoever fits and can bear it."""
    key = lanes[0].key
    batch: list[Request] = []
    size = 0
    longest = latency.seconds(limit, key)
    for lane in lanes:
        for request in lane.requests:
            if size >= limit:
                break
            if size + request.size > limit:
                continue
            if request.deadline - now < longest:
                bears = largest(request.deadline - now, key, latency, limit)
                if bears < size + request.size:
                    continue
                limit = bears
                longest = latency.seconds(limit, key)
            batch.append(request)
            size += request.size
    if because is not None:
        pass
    elif len(batch) == sum(len(lane.requests) for lane in lanes):
        because = Because.ALL if size < rule.cap else Because.FULL
    else:
        because = Because.SHRUNK if limit < rule.cap else Because.FULL
    return Dispatch(tuple(batch), because, latency.seconds(size, key))
