"""Which requests run next. A batch of n takes 4 ms + 1 ms × n and holds four, unless a case says
otherwise; it is 0 ms now, and deadlines are in milliseconds."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from mlplatform_serving.batching.decide import Rule, decide

from .known import Known, Waiting, backlog_of, ms, told

FOUR = Rule(cap=4)
PRICED = Known()
W = Waiting


@dataclass(frozen=True)
class Case:
    name: str
    waiting: tuple[Waiting, ...]
    expected: str
    latency: Known = PRICED
    rule: Rule = FOUR
    busy_until_ms: float | None = None
    now_ms: float = 0


CASES = [
    Case("nobody waits", (), "wait"),
    Case("whoever comes to a free executor runs at once", (W(1, 100),), "run 1: all"),
    Case(
        "the earliest deadline goes first",
        (W(1, 60), W(2, 20), W(3, 40)),
        "run 2 3 1: all",
    ),
    Case(
        "of equal deadlines, whoever came first",
        (W(1, 60), W(2, 60), W(3, 60), W(4, 60), W(5, 60)),
        "run 1 2 3 4: full",
    ),
    Case(
        "a higher priority goes before an earlier deadline",
        (W(1, 20, priority=1), W(2, 90), W(3, 91), W(4, 92), W(5, 93)),
        "run 2 3 4 5: full",
    ),
    Case(
        "what room is left, a lower priority gets",
        (W(1, 90), W(2, 20, priority=1), W(3, 40, priority=1), W(4, 95), W(5, 30, priority=1)),
        "run 1 4 2 5: full",
    ),
    Case(
        "a lower priority with little time does not cut a higher one's batch",
        (W(1, 90), W(2, 91), W(3, 92), W(4, 6, priority=1)),
        "run 1 2 3: full",
    ),
    Case(
        "shapes are not mixed: the earliest deadline's goes",
        (W(1, 40, shape="a"), W(2, 30, shape="b"), W(3, 50, shape="b")),
        "run 2 3: all",
    ),
    Case(
        "a request's own batch counts against the cap",
        (W(1, 40, size=3), W(2, 50, size=2), W(3, 60)),
        "run 1 3: full",
    ),
    Case("late even alone", (W(1, 4.9), W(2, 50)), "refuse 1: hopeless"),
    Case("just in time alone", (W(1, 5),), "run 1: all"),
    Case(
        "a larger request is late sooner",
        (W(1, 6.5, size=3), W(2, 6.5)),
        "refuse 1: hopeless",
    ),
    Case(
        "the first can bear two, and nobody loses by it",
        (W(1, 6), W(2, 50), W(3, 50)),
        "run 1 2: shrunk",
    ),
    Case(
        "the first can bear two, and the third would be late behind them",
        (W(1, 6), W(2, 9), W(3, 9)),
        "refuse 1: yielded",
    ),
    Case(
        "the same, where items have their price and a launch is cheap: cut",
        (W(1, 6), W(2, 9), W(3, 9)),
        "run 1 2: shrunk",
        Known(0.5, 2.5),
    ),
    Case(
        "the same, where launching is all: a second launch has no room",
        (W(1, 6), W(2, 9), W(3, 9)),
        "refuse 1: yielded",
        Known(5.7, 0.15),
    ),
    Case(
        "a full batch waits, and there is room for those who will come",
        (W(1, 6), *(W(n, 21) for n in (2, 3, 4, 5))),
        "run 1 2: shrunk",
    ),
    Case(
        "a full batch waits, and whoever comes would be late",
        (W(1, 6), *(W(n, 20) for n in (2, 3, 4, 5))),
        "refuse 1: yielded",
    ),
    Case(
        "fewer than three full batches: time enough for all",
        (W(1, 6), *(W(n, 900) for n in range(2, 12))),
        "run 1 2: shrunk",
    ),
    Case(
        "three full batches: more than can be served, and only full ones are worth it",
        (W(1, 6), *(W(n, 900) for n in range(2, 13))),
        "refuse 1: yielded",
    ),
    Case(
        "while a batch runs, nothing happens until somebody would be late even alone",
        (W(1, 80), W(2, 20)),
        "wait until 15",
        busy_until_ms=50,
    ),
    Case(
        "a batch that hangs: those who cannot make it any more are told, not left waiting",
        (W(1, 80), W(2, 20)),
        "refuse 2: hopeless",
        busy_until_ms=10,
        now_ms=16,
    ),
    Case(
        "nothing is known of the model yet: nobody is refused for it",
        (W(1, 1), W(2, 0.5)),
        "run 2 1: all",
        Known(0, 0),
    ),
    Case(
        "compatibility: a fixed window waits for more",
        (W(1, 80, arrival_ms=-3),),
        "wait until 2",
        rule=Rule(cap=4, window_seconds=0.005),
    ),
    Case(
        "compatibility: the window is over",
        (W(1, 80, arrival_ms=-5),),
        "run 1: window",
        rule=Rule(cap=4, window_seconds=0.005),
    ),
    Case(
        "compatibility: full before the window is over",
        tuple(W(n, 80) for n in (1, 2, 3, 4)),
        "run 1 2 3 4: full",
        rule=Rule(cap=4, window_seconds=0.005),
    ),
    Case(
        "compatibility: no window for whoever would be late by it",
        (W(1, 12.9),),
        "run 1: window",
        rule=Rule(cap=4, window_seconds=0.005),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_runs_next(case: Case) -> None:
    busy_until = None if case.busy_until_ms is None else ms(case.busy_until_ms)
    answer = decide(backlog_of(*case.waiting), ms(case.now_ms), case.latency, case.rule, busy_until)
    assert told(answer) == case.expected


def test_whoever_was_passed_over_leads_in_turn() -> None:
    backlog = backlog_of(W(1, 900, priority=1), *(W(n, 900) for n in range(2, 50)))
    led = []
    for _ in range(10):
        answer = decide(backlog, 0.0, Known(), Rule(cap=4, turn=3))
        led.append(told(answer))
        backlog.dispatched(answer.batch)  # type: ignore[union-attr]
    assert led[:4] == [
        "run 2 3 4 5: full",
        "run 6 7 8 9: full",
        "run 10 11 12 13: full",
        "run 1 14 15 16: turn",
    ]


def test_deciding_changes_nothing() -> None:
    backlog = backlog_of(W(1, 6), W(2, 9), W(3, 9))
    first = decide(backlog, 0.0, Known(), FOUR)
    assert decide(backlog, 0.0, Known(), FOUR) == first
    assert [request.id for request in backlog] == [1, 2, 3]


def test_a_wrong_model_does_not_refuse_for_ever() -> None:
    backlog = backlog_of(W(1, 20), W(2, 30))
    slow = Known(fixed_ms=1000)
    assert told(decide(backlog, 0.0, slow, FOUR)) == "refuse 1 2: hopeless"
    backlog.refused_in_a_row = FOUR.probe
    assert told(decide(backlog, 0.0, slow, FOUR)) == "run 1: probe"
