"""Who may wait, and who is told at once that it would be in vain. A batch of n takes
4 ms + 1 ms × n and holds four; it is 0 ms now, and deadlines are in milliseconds."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, nan

import pytest

from mlplatform_serving.batching.decide import Admit, Rule, admit

from .known import Known, Waiting, backlog_of, ms

FOUR = Rule(cap=4, queue_requests=5, queue_bytes=1000)
W = Waiting


@dataclass(frozen=True)
class Case:
    name: str
    comes: Waiting
    expected: str
    waiting: tuple[Waiting, ...] = ()
    busy_until_ms: float | None = None


CASES = [
    Case("nobody is there, and the time is just enough", W(0, 5), "admitted"),
    Case("nobody is there, and the time is too short", W(0, 4.9), "predicted_late at 5"),
    Case("the running batch must end first", W(0, 14.9), "predicted_late at 15", (), 10),
    Case("time enough behind the running batch", W(0, 15), "admitted", (), 10),
    Case(
        "it joins the batch of those before it",
        W(0, 17),
        "admitted",
        (W(1, 17), W(2, 17)),
        10,
    ),
    Case(
        "a full batch goes before it",
        W(0, 22),
        "predicted_late at 23",
        tuple(W(n, 22) for n in (1, 2, 3, 4)),
        10,
    ),
    Case(
        "those with later deadlines do not go before it",
        W(0, 22),
        "admitted",
        tuple(W(n, 23) for n in (1, 2, 3, 4)),
        10,
    ),
    Case(
        "nor does a lower priority",
        W(0, 22),
        "admitted",
        tuple(W(n, 22, priority=1) for n in (1, 2, 3, 4)),
        10,
    ),
    Case(
        "a higher priority does, whatever its deadline",
        W(0, 22, priority=1),
        "predicted_late at 23",
        tuple(W(n, 900) for n in (1, 2, 3, 4)),
        10,
    ),
    Case(
        "another shape is another batch",
        W(0, 20, shape="a"),
        "predicted_late at 21",
        (W(1, 19, shape="b"), W(2, 19, shape="b")),
        10,
    ),
    Case(
        "it does not fit in the rest of the batch before it, and goes with the next",
        W(0, 22, size=2),
        "predicted_late at 23",
        (W(1, 19, size=3),),
        10,
    ),
    Case("larger than a batch may be", W(0, 900, size=5), "too_large"),
    Case("its deadline is over", W(0, 0), "expired"),
    Case(
        "the queue is full",
        W(0, 900),
        "queue_requests",
        tuple(W(n, 900, size=4) for n in range(1, 6)),
        10,
    ),
    Case(
        "the queue is full by bytes",
        W(0, 900, bytes=300),
        "queue_bytes",
        (W(1, 900, bytes=701),),
        10,
    ),
    Case(
        "the queue is full, of a lower priority: its latest deadline makes room",
        W(0, 900),
        "admitted instead of 4",
        (
            *(W(n, 800 + n, size=4) for n in (1, 2, 5)),
            *(W(n, 500 + n, size=4, priority=1) for n in (3, 4)),
        ),
        10,
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_who_may_wait(case: Case) -> None:
    busy_until = None if case.busy_until_ms is None else ms(case.busy_until_ms)
    backlog = backlog_of(*case.waiting)
    answer = admit(case.comes.request, backlog, 0.0, Known(), FOUR, busy_until)
    if isinstance(answer, Admit):
        told = "admitted"
        if answer.displaced:
            told += f" instead of {' '.join(str(request.id) for request in answer.displaced)}"
    else:
        told = str(answer.because)
        if answer.finish is not None:
            told += f" at {answer.finish * 1000:.6g}"
    assert told == case.expected


@pytest.mark.parametrize("wrong", [W(0, inf), W(0, nan), W(0, 50, size=0)], ids=str)
def test_what_would_wait_for_ever_or_bring_nothing_is_no_request(wrong: Waiting) -> None:
    with pytest.raises(ValueError, match="at least one item and a finite deadline"):
        admit(wrong.request, backlog_of(), 0.0, Known(), FOUR)
