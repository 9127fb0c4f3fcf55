"""The fixtures of the store suite, and what makes the table of broken clauses binding."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from mlplatform.core.errors import MlplatformError
from mlplatform.ports.store import ObjectStore

from . import report
from .matrix import ROWS, Row

_containers = itertools.count(1)


def pytest_configure(config: pytest.Config) -> None:
    # Under xdist the summary is written by a process that collects nothing, so the plugin should be
    # named in the top conftest; this is for runs of this folder alone.
    if not config.pluginmanager.has_plugin(report.__name__):
        config.pluginmanager.register(report, report.__name__)
    config.addinivalue_line("markers", "xdist_group(name): tests that share one real server")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "row" in metafunc.fixturenames:
        metafunc.parametrize(
            "row",
            [
                pytest.param(
                    row,
                    id=row.server,
                    marks=_marks(row),
                )
                for row in ROWS
            ],
            scope="session",
        )


def _marks(row: Row) -> list[pytest.MarkDecorator]:
    if row.fixture is None:
        return []
    return [
        pytest.mark.xdist_group(row.fixture),
        pytest.mark.real(row.fixture.replace("_", "-")),
    ]


@pytest.fixture
def server(row: Row, request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """What the row's `open` and `create` get."""
    return request.getfixturevalue(row.fixture) if row.fixture else tmp_path


@pytest.fixture
def container(row: Row, server: Any) -> str:
    """The name of a fresh, empty container."""
    name = f"conformance-{os.getpid()}-{next(_containers)}"
    row.create(server, name)
    return name


@pytest.fixture
def store(row: Row, server: Any, container: str) -> ObjectStore:
    """A store on a fresh, empty container."""
    return row.open(server, container)


@pytest.fixture
def again(row: Row, server: Any, container: str) -> Callable[[], ObjectStore]:
    """Opens the same container anew, as another process would."""
    return lambda: row.open(server, container)


@pytest.fixture
def missing(row: Row, server: Any) -> ObjectStore:
    """A store on a container that does not exist."""
    return row.open(server, f"conformance-{os.getpid()}-{next(_containers)}-missing")


@pytest.fixture
def part_bytes(store: ObjectStore) -> int:
    """A part size that is legal there and no larger than need be."""
    return max(64 * 1024, store.features.part_bytes_min)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, Any, None]:
    outcome = yield
    row = getattr(item, "callspec", None) and item.callspec.params.get("row")  # type: ignore[attr-defined]
    if not isinstance(row, Row):
        return
    result: pytest.TestReport = outcome.get_result()
    clause = item.originalname.removeprefix("test_")  # type: ignore[attr-defined]
    variant = clause + "".join(
        f"[{value}]"
        for name, value in sorted(item.callspec.params.items())  # type: ignore[attr-defined]
        if name != "row"
    )
    variant = variant.encode(errors="backslashreplace").decode()  # it has to reach a summary
    reason = row.breaks.get(variant) or row.breaks.get(clause, "")
    if result.when == "call" and reason:
        turn_round(result, call, row, variant, reason)
    if result.when == "call" and result.skipped and not hasattr(result, "wasxfail"):
        # There is nothing to uphold, so it is upheld: only a test that could not run is skipped.
        reason = report.Verdict.NOT_DECLARED.value
        result.outcome, result.longrepr = "passed", None
    if result.when == "call" or result.skipped:
        result.user_properties.append((report.PROPERTY, [row.scheme, row.server, variant, reason]))


def turn_round(
    result: pytest.TestReport, call: pytest.CallInfo[None], row: Row, clause: str, reason: str
) -> None:
    """Judge a clause that the server is said to break: it has to be broken still, and by an answer
    of the server, not by a mistake in the test."""
    if not result.failed:
        what = "now upholds" if result.passed else "does not declare"
        result.outcome = "failed"
        result.longrepr = (
            f"{row.server} {what} {clause}: remove it from the table in "
            f"tests/conformance/matrix.py (it says: {reason})"
        )
    elif call.excinfo is not None and call.excinfo.errisinstance(
        (AssertionError, pytest.fail.Exception, MlplatformError)
    ):
        result.outcome = "skipped"
        result.wasxfail = reason
        result.longrepr = None
