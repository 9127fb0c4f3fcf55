"""What holds of every batcher, whoever comes and when: drawn worlds in virtual time, and a latency
model that is right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from mlplatform_serving.batching.batcher import Batcher
from mlplatform_serving.batching.decide import Admit, Because, Dispatch, Rule, Shed
from mlplatform_serving.batching.request import Request

from .known import Known, Waiting, ms

RULE = Rule(cap=8, queue_requests=8, queue_bytes=400, turn=3)
FLOAT = 1e-9
"""Sums of floats differ by their order."""


@dataclass
class Told:
    """What a world came to."""

    answers: Counter[int] = field(default_factory=Counter)
    ran: list[tuple[float, Dispatch]] = field(default_factory=list)
    log: list[str] = field(default_factory=list)


def live(
    requests: Sequence[Request], latency: Known, rule: Rule = RULE, *, offered: bool = False
) -> Told:
    """All of them through one executor, with what must hold after each step."""
    told = Told()
    batcher = Batcher(rule, latency)
    lanes_most = 1
    coming = sorted(requests, key=lambda request: request.arrival)
    ends: float | None = None
    wake: float | None = None
    now = 0.0
    while coming or ends is not None or wake is not None:
        next_at = min(
            at for at in (coming[0].arrival if coming else None, ends, wake) if at is not None
        )
        assert next_at >= now
        now = next_at
        if ends == now:
            ends = None
            batcher.finished(None)
        elif coming and coming[0].arrival == now:
            request = coming.pop(0)
            answer = batcher.offer(request, now) if offered else batcher.arrive(request, now)
            if isinstance(answer, Dispatch):
                ends = now + latency.seconds(answer.size, request.key)
                told.answers[request.id] += 1
                told.ran.append((now, answer))
            elif isinstance(answer, Admit):
                told.answers.update(gone.id for gone in answer.displaced)
            else:
                told.answers[request.id] += 1
            told.log.append(f"{now} {answer}")
        while isinstance(step := batcher.next(now), Shed):
            told.answers.update(request.id for request in step.requests)
            told.log.append(f"{now} {step}")
        lanes_most = max(lanes_most, len(batcher.backlog.lanes) + 1)
        if isinstance(step, Dispatch):
            ends = now + latency.seconds(step.size, step.batch[0].key)
            told.answers.update(request.id for request in step.batch)
            told.ran.append((now, step))
            told.log.append(f"{now} {step}")
            _batch_holds(step, ends, batcher, rule)
            wake = None
        else:
            wake = step.until
            assert wake is None or wake > now
            assert ends is not None or not batcher.backlog.items or rule.window_seconds
        assert 0 <= len(batcher.backlog) <= rule.queue_requests
        assert len(batcher.backlog) == len(list(batcher.backlog))
        assert 0 <= batcher.backlog.bytes <= rule.queue_bytes
        for lane in batcher.backlog.lanes:
            assert lane.passed <= rule.turn + lanes_most - 1
    assert not batcher.backlog.items
    assert sum(batcher.dispatched.values()) == len(told.ran)
    return told


def _batch_holds(step: Dispatch, ends: float, batcher: Batcher, rule: Rule) -> None:
    assert step.batch
    assert step.size <= rule.cap
    assert len({request.key for request in step.batch}) == 1
    if step.because is not Because.PROBE:
        assert all(ends <= request.deadline + FLOAT for request in step.batch)
    lanes = {(request.priority, request.key) for request in step.batch}
    leading = step.batch[0]
    for lane in batcher.backlog.lanes:
        for left in lane.requests:
            if (lane.priority, lane.key) == (leading.priority, leading.key):
                # Whoever stays behind with less time was too large for the rest.
                assert left.deadline >= leading.deadline
                if all(request.size == 1 for request in step.batch) and left.size == 1:
                    ours = [r for r in step.batch if r.priority == lane.priority]
                    assert left.deadline >= max(request.deadline for request in ours)
        if step.because not in {Because.TURN, Because.PROBE} and lanes:
            assert lane.priority >= leading.priority


waiting = st.builds(
    Waiting,
    id=st.just(0),
    arrival_ms=st.floats(0, 200),
    deadline_ms=st.floats(0, 60),
    size=st.integers(1, 9),
    priority=st.integers(0, 2),
    shape=st.sampled_from("ab"),
    bytes=st.integers(0, 90),
)
alike = st.builds(
    Waiting,
    id=st.just(0),
    arrival_ms=st.floats(0, 40),
    deadline_ms=st.sampled_from([8.0, 15.0, 60.0]),
)
models = st.sampled_from([Known(4, 1), Known(6, 0.1), Known(0.5, 2), Known(0, 0)])


def requests_of(drawn: Sequence[Waiting]) -> list[Request]:
    """Numbered, the deadline counted from the arrival."""
    return [
        Waiting(
            number,
            one.arrival_ms + one.deadline_ms,
            one.size,
            one.priority,
            one.shape,
            one.arrival_ms,
            one.bytes,
        ).request
        for number, one in enumerate(drawn)
    ]


@given(st.lists(waiting, max_size=60), models)
def test_every_request_is_answered_once_and_every_batch_keeps_the_rules(
    drawn: list[Waiting], latency: Known
) -> None:
    requests = requests_of(drawn)
    told = live(requests, latency)
    assert told.answers == Counter(request.id for request in requests)


@given(st.lists(alike, max_size=60), models)
def test_crowds_of_equals(drawn: list[Waiting], latency: Known) -> None:
    requests = requests_of(drawn)
    told = live(requests, latency)
    assert told.answers == Counter(request.id for request in requests)


@given(st.lists(waiting, max_size=40), st.floats(0.1, 30))
def test_a_fixed_window_breaks_none_of_it(drawn: list[Waiting], window_ms: float) -> None:
    rule = Rule(cap=8, queue_requests=8, queue_bytes=400, turn=3, window_seconds=ms(window_ms))
    requests = requests_of(drawn)
    told = live(requests, Known(), rule)
    assert told.answers == Counter(request.id for request in requests)


@given(st.lists(waiting, max_size=40), models)
def test_the_same_again_is_the_same(drawn: list[Waiting], latency: Known) -> None:
    requests = requests_of(drawn)
    assert live(requests, latency).log == live(requests, latency).log


@given(st.lists(waiting, max_size=60), models)
def test_an_offer_is_an_arrival_and_a_decision(drawn: list[Waiting], latency: Known) -> None:
    requests = requests_of(drawn)
    offered, told = live(requests, latency, offered=True), live(requests, latency)
    assert (offered.ran, offered.answers) == (told.ran, told.answers)


def test_a_flood_of_higher_priority_leaves_the_lowest_its_turn() -> None:
    rule = Rule(cap=8, queue_requests=10_000, queue_bytes=400, turn=3)
    flood = [Waiting(0, 60, arrival_ms=at * 0.5) for at in range(4000)]
    low = [Waiting(0, 400, priority=1, arrival_ms=at * 20) for at in range(100)]
    requests = requests_of([*flood, *low])
    told = live(requests, Known(), rule)
    ran = [request.priority for _, step in told.ran for request in step.batch]
    # A batch of 8 takes 12 ms, the flood brings 24 in that time. One batch in four is led by the
    # lowest, of whom 2 or 3 have come by then.
    assert ran.count(1) == len(low)
    led = [step.because is Because.TURN for _, step in told.ran]
    assert sum(led) / len(led) <= 1 / (rule.turn + 1) + 0.01
