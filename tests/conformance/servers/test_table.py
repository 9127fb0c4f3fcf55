"""The table of broken clauses has no dead entries."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import pytest

from . import test_ailing, test_fence, test_numbers, test_weather
from .matrix import ROWS

CLAUSES: dict[str, Callable[..., None]] = {
    name.removeprefix("test_"): function
    for module in (test_ailing, test_fence, test_numbers, test_weather)
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


def test_keepers_have_names_of_their_own() -> None:
    assert len({row.server for row in ROWS}) == len(ROWS)
