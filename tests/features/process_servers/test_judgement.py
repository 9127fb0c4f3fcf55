"""What is judged from the record and from what servers say: tables, no process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from mlplatform.adapters.process_record import (
    End,
    ModelRecord,
    Process,
    Record,
    Settings,
    Told,
    VersionRecord,
    last_words,
    overdue,
    parted,
    ports_from,
    state_of,
    swept,
)
from mlplatform.core.errors import Fenced, IntegrityError
from mlplatform.ports.servers import Ailing, Stuck

NOW = 1000.0
SETTINGS = Settings(command=("serve",), ports=(9100, 9103), ready_seconds=60.0, grace_seconds=30.0)
RUNS = Process("127.0.0.1", 9100, 1, "b/1", "2026-01-01", NOW - 10, "logs/m-v1-9100.log")
SECOND = replace(RUNS, port=9101, pid=2, began="b/2")
THIRD = replace(RUNS, port=9102, pid=3, began="b/3")
CRASHED = replace(RUNS, ended="ended with exit status 1")
LEAVES = replace(RUNS, told_seconds=NOW - 5)


def of(*servers: Process, wanted: int = 1, crashes: int = 0) -> ModelRecord:
    group = VersionRecord(wanted, "blake3:1", crashes, servers=servers)
    return ModelRecord(3, "w", {"v1": group})


@pytest.mark.parametrize(
    ("model", "ends", "left"),
    [
        (of(RUNS), {}, of(RUNS)),
        (
            of(RUNS, SECOND, wanted=2),
            {1: End(1, "no such model")},
            of(
                replace(RUNS, ended="ended with exit status 1; it said: no such model"),
                SECOND,
                wanted=2,
                crashes=1,
            ),
        ),
        (of(LEAVES, SECOND), {1: End(0, "")}, of(SECOND)),
        (of(LEAVES, SECOND), {1: End(1, "")}, of(SECOND)),
        (of(RUNS), {1: End(1, "1 never began", never_began=True)}, of()),
        (of(LEAVES, wanted=0, crashes=4), {1: End(0, "")}, ModelRecord(3, "w", {})),
        (of(LEAVES, wanted=0), {}, of(LEAVES, wanted=0)),
        (of(wanted=2), {}, of(wanted=2)),
        (of(CRASHED, crashes=1), {1: End(0, "")}, of(CRASHED, crashes=1)),
    ],
    ids=[
        "all run",
        "one ended by itself: a crash",
        "one ended that was told to",
        "whatever its exit status",
        "one that was never let loose is no crash",
        "the last that was told to: no group",
        "the last still leaves: still a group",
        "none where some are wanted: still a group",
        "a crash is counted once, whoever has its pid now",
    ],
)
def test_swept(model: ModelRecord, ends: Mapping[int, End], left: ModelRecord) -> None:
    assert swept(model, ends) == left


@pytest.mark.parametrize(
    ("count", "ready", "stay", "go"),
    [
        (3, {1, 2, 3}, [1, 2, 3], []),
        (5, {1, 2, 3}, [1, 2, 3], []),
        (1, {1, 2, 3}, [1], [3, 2]),
        (0, {1, 2, 3}, [], [3, 2, 1]),
        (2, {2, 3}, [2, 3], [1]),
        (1, {3}, [3], [2, 1]),
        (1, set(), [1], [3, 2]),
    ],
    ids=[
        "as many as there are",
        "more",
        "the last that was started goes first",
        "none stays",
        "who does not answer goes before who does",
        "the only one that answers stays",
        "nobody answers",
    ],
)
def test_parted(count: int, ready: set[int], stay: list[int], go: list[int]) -> None:
    kept, gone = parted([RUNS, SECOND, THIRD], count, ready)
    assert ([each.pid for each in kept], [each.pid for each in gone]) == (stay, go)


@pytest.mark.parametrize(
    ("last", "taken", "tried"),
    [
        (0, set(), [9100, 9101, 9102, 9103]),
        (9101, set(), [9102, 9103, 9100, 9101]),
        (9103, set(), [9100, 9101, 9102, 9103]),
        (9101, {9102, 9100}, [9103, 9101]),
        (7000, {9100}, [9101, 9102, 9103]),
        (9100, {9100, 9101, 9102, 9103}, []),
    ],
    ids=["the first", "in turn", "round", "not those in use", "another range before", "none"],
)
def test_ports(last: int, taken: set[int], tried: list[int]) -> None:
    assert list(ports_from(SETTINGS, last, taken)) == tried


@pytest.mark.parametrize(
    ("process", "told", "state", "said"),
    [
        (RUNS, None, Stuck.STARTING, "just now"),
        (RUNS, Told({"v1": "blake3:1"}), None, ""),
        (RUNS, Told({"v1": "blake3:2"}), Stuck.CONFIGURATION, "states blake3:2 for m@v1, not bl"),
        (RUNS, Told({"v1": ""}), Stuck.CONFIGURATION, "states no digest"),
        (RUNS, Told({"v2": "blake3:1"}), Stuck.CONFIGURATION, "serves m v2, not v1"),
        (RUNS, Told(reason="refused"), Stuck.STARTING, "10 s ago: refused"),
        (replace(RUNS, started_seconds=NOW - 60), Told(), Stuck.NOT_READY, "60 s ago or more"),
        (RUNS, Told(started=True, reason="no such file"), Stuck.NOT_READY, "start is over"),
        (replace(RUNS, answered=True), Told(reason="hung"), Stuck.NOT_READY, "it was ready"),
        (CRASHED, None, Stuck.CRASH, "exit status 1"),
    ],
    ids=[
        "not asked yet",
        "ready",
        "other bytes",
        "bytes that nobody states",
        "another version",
        "it has time yet",
        "it had time enough",
        "it says itself that it is not coming",
        "it was ready",
        "a crash",
    ],
)
def test_what_a_server_is(
    process: Process, told: Told | None, state: Stuck | None, said: str
) -> None:
    answers = {} if told is None else {process.pid: told}
    group = state_of("m", of(process), answers, SETTINGS, NOW).groups["v1"]
    if state is None:
        assert (group.ready, group.ailing) == (("127.0.0.1:9100",), ())
    else:
        assert group.ready == ()
        assert [(each.server, each.state) for each in group.ailing] == [("m-v1-9100", state)]
        assert said in group.ailing[0].reason


def test_state_of_all() -> None:
    model = of(RUNS, SECOND, replace(LEAVES, pid=4), wanted=3)
    told = {1: Told({"v1": "blake3:1"}), 2: Told({"v1": "blake3:1"})}
    state = state_of("m", model, told, SETTINGS, NOW)
    group = state.groups["v1"]
    assert (state.epoch, state.writer, group.wanted, group.leaving) == (3, "w", 3, 1)
    assert group.ready == ("127.0.0.1:9100", "127.0.0.1:9101")
    assert [each.state for each in group.ailing] == [Stuck.CRASH], "one never began"


def test_no_port_is_no_capacity() -> None:
    model = ModelRecord(1, "w", {"v1": VersionRecord(2, lacking="no port of 1 to 2 is free")})
    group = state_of("m", model, {}, SETTINGS, NOW).groups["v1"]
    assert group.ailing == (Ailing("m@v1", Stuck.NO_CAPACITY, "no port of 1 to 2 is free"),) * 2


def test_address_of_ipv6() -> None:
    assert replace(RUNS, host="::1").address == "[::1]:9100"


def test_overdue() -> None:
    model = of(RUNS, LEAVES, replace(LEAVES, pid=9, told_seconds=NOW - 30))
    assert [each.pid for each in overdue(model, NOW, 30.0)] == [9]


@pytest.mark.parametrize(
    ("end", "said"),
    [
        (End(2, "error: PORT"), "ended with exit status 2; it said: error: PORT"),
        (End(0, ""), "ended with exit status 0, without a word"),
        (End(-15, ""), "ended by SIGTERM, without a word"),
        (End(-9, ""), "ended by SIGKILL: by hand, or by the system for want of memory, without"),
        (End(-77, ""), "ended by signal 77"),
        (End(None, "x"), "ended, and nobody was there to see its exit status; it said: x"),
    ],
    ids=["status", "in silence", "signal", "killed", "no name", "unseen"],
)
def test_ends_in_words(end: End, said: str) -> None:
    assert str(end).startswith(said)


@pytest.mark.parametrize(
    ("tail", "said"),
    [
        ("", ""),
        ("one\ntwo\n\n", "two"),
        ('{"level": "INFO", "message": "bye"}\n', "bye"),
        (
            '{"level": "ERROR", "message": "port in use"}\n{"level": "INFO", "message": "bye"}\n',
            "port in use",
        ),
        ("error: PORT: no number\nhint: --help\n", "error: PORT: no number"),
        ("Traceback (most recent call last):\nValueError: no\n", "ValueError: no"),
        ('[1]\n{"a": 1}\n', '{"a": 1}'),
        ("a\x1b[31mb\x00c", "a [31mb c"),
        ("x" * 999, "x" * 300),
    ],
    ids=["nothing", "last", "json", "error", "usage", "traceback", "other", "controls", "long"],
)
def test_last_words(tail: str, said: str) -> None:
    assert last_words(tail) == said


def test_record_there_and_back() -> None:
    record = Record(host="h", boot="b", port_last=9, models={"m": of(RUNS, LEAVES, CRASHED)})
    assert Record.parse(record.body, where="x") == record


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b'{"schema_version": 2}', b'{"models": {"m": {"epoch": "3"}}}',
     b'{"models": {"m": {"groups": {"v1": {"servers": [{"port": 1}]}}}}}'],
    ids=["empty", "cut", "list", "newer", "text for a number", "half a server"],
)  # fmt: skip
def test_record_that_is_none(body: bytes) -> None:
    with pytest.raises(IntegrityError, match=r"servers\.json is no record of servers"):
        Record.parse(body, where="servers.json")


def test_fence() -> None:
    model = ModelRecord(3, "other")
    model.check_epoch(3, where="x")
    with pytest.raises(Fenced, match="under epoch 3 by other, ours is 2"):
        model.check_epoch(2, where="x")


@pytest.mark.parametrize(
    ("epoch", "wanted", "writer"), [(3, 1, "w"), (4, 1, "new"), (3, 2, "new")],
    ids=["nothing new", "a claim", "another number"],
)  # fmt: skip
def test_writer_is_who_changed_it(epoch: int, wanted: int, writer: str) -> None:
    group = replace(of(RUNS).groups["v1"], wanted=wanted)
    assert of(RUNS).written("v1", group, epoch=epoch, writer="new").writer == writer
