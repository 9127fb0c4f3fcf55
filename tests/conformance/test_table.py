"""The table of broken clauses is binding: no dead entries, and a mended server is noticed."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import pytest

from mlplatform.core.errors import ConditionFailed

from . import test_conditions, test_listing, test_objects, test_uploads
from .conftest import turn_round
from .matrix import ROWS, Row, memory_row
from .report import Verdict, unproven

CLAUSES: dict[str, Callable[..., None]] = {
    name.removeprefix("test_"): function
    for module in (test_objects, test_listing, test_conditions, test_uploads)
    for name, function in inspect.getmembers(module, inspect.isfunction)
    if name.startswith("test_")
}


@pytest.mark.parametrize("row_at", range(len(ROWS)), ids=lambda at: ROWS[at].server)
def test_each_entry_names_a_clause_and_a_reason(row_at: int) -> None:
    for entry, reason in ROWS[row_at].breaks.items():
        name, bracket, _ = entry.partition("[")
        assert name in CLAUSES, f"{ROWS[row_at]}: no clause is called {name}"
        assert not bracket or hasattr(CLAUSES[name], "pytestmark"), f"{name} has no cases"
        assert reason


def test_servers_have_names_of_their_own() -> None:
    assert len({row.server for row in ROWS}) == len(ROWS)


def judged(answer: Callable[[], None]) -> pytest.TestReport:
    """What becomes of a clause in the table when its test does `answer`."""
    row: Row = memory_row("gremlin", breaks={"clause": "it is a gremlin"})
    call = pytest.CallInfo.from_call(answer, "call", reraise=())
    outcome = "passed"
    if call.excinfo is not None:
        outcome = "skipped" if call.excinfo.errisinstance(pytest.skip.Exception) else "failed"
    report = pytest.TestReport("node", ("file", 1, "test"), {}, outcome, None, "call")  # type: ignore[arg-type]
    turn_round(report, call, row, "clause", row.breaks["clause"])
    return report


def refuse() -> None:
    raise ConditionFailed("as the table says")


def contradict() -> None:
    raise AssertionError("as the table says")


def not_raise() -> None:
    with pytest.raises(ConditionFailed):
        pass


def stumble() -> None:
    raise TypeError("a mistake in the test")


@pytest.mark.parametrize("answer", [refuse, contradict, not_raise])
def test_a_server_that_still_breaks_it_is_as_expected(answer: Callable[[], None]) -> None:
    report = judged(answer)
    assert report.skipped
    assert report.wasxfail == "it is a gremlin"


def test_a_mended_server_fails_the_run() -> None:
    report = judged(lambda: None)
    assert report.failed
    assert "gremlin now upholds clause: remove it from the table" in str(report.longrepr)


def test_a_clause_that_does_not_apply_is_not_in_the_table() -> None:
    report = judged(lambda: pytest.skip("not declared"))
    assert report.failed
    assert "does not declare clause" in str(report.longrepr)


def test_a_mistake_in_a_test_is_no_broken_clause() -> None:
    assert judged(stumble).failed
    assert not hasattr(judged(stumble), "wasxfail")


def test_unproven_is_what_none_upholds_and_some_break() -> None:
    servers = {
        "one": {
            "both": (Verdict.BROKEN, "why one"),
            "other": (Verdict.BROKEN, "why"),
            "failed": (Verdict.FAILED, ""),
        },
        "two": {
            "both": (Verdict.BROKEN, "why two"),
            "other": (Verdict.UPHELD, ""),
            "silent": (Verdict.NOT_RUN, ""),
        },
    }
    assert unproven(servers) == [("both", "one: why one; two: why two")]
