"""The fixtures of the store suite, and what makes the table of broken clauses binding."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any, Protocol

import pytest

from mlplatform.core.errors import MlplatformError
from mlplatform.ports.store import ObjectStore

from . import report
from .matrix import ROWS, Row

TABLE = "tests/conformance/matrix.py"

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
                    marks=server_marks(row.fixture),
                )
                for row in ROWS
            ],
            scope="session",
        )


def server_marks(fixture: str | None) -> list[pytest.MarkDecorator]:
    """The marks of a test on the real server that a session fixture gives."""
    if fixture is None:
        return []
    return [pytest.mark.xdist_group(fixture), pytest.mark.real(fixture.replace("_", "-"))]


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
    cases = cases_of(item)
    row = cases.pop("row", None)
    if isinstance(row, Row):
        judge(item, call, outcome.get_result(), row, row.scheme, cases)


def cases_of(item: pytest.Item) -> dict[str, Any]:
    """What a test is parametrised with."""
    callspec = getattr(item, "callspec", None)
    return {} if callspec is None else dict(callspec.params)


class Judged(Protocol):
    """A row of a suite's table."""

    @property
    def server(self) -> str: ...

    @property
    def breaks(self) -> Mapping[str, str]: ...


def judge(
    item: pytest.Item,
    call: pytest.CallInfo[None],
    result: pytest.TestReport,
    row: Judged,
    group: str,
    cases: Mapping[str, object],
    table: str = TABLE,
) -> None:
    """Hold a clause's result against the row, and write it down for the summary."""
    clause = item.originalname.removeprefix("test_")  # type: ignore[attr-defined]
    variant = clause + "".join(f"[{value}]" for _, value in sorted(cases.items()))
    variant = variant.encode(errors="backslashreplace").decode()  # it has to reach a summary
    reason = row.breaks.get(variant) or row.breaks.get(clause, "")
    if result.when == "call" and reason:
        turn_round(result, call, row, variant, reason, table)
    if result.when == "call" and result.skipped and not hasattr(result, "wasxfail"):
        # There is nothing to uphold, so it is upheld: only a test that could not run is skipped.
        reason = report.Verdict.NOT_DECLARED.value
        result.outcome, result.longrepr = "passed", None
    if result.when == "call" or result.skipped:
        result.user_properties.append((report.PROPERTY, [group, row.server, variant, reason]))


def turn_round(
    result: pytest.TestReport,
    call: pytest.CallInfo[None],
    row: Judged,
    clause: str,
    reason: str,
    table: str = TABLE,
) -> None:
    """Judge a clause that the server is said to break: it has to be broken still, and by an answer
    of the server, not by a mistake in the test."""
    if not result.failed:
        what = "now upholds" if result.passed else "does not declare"
        result.outcome = "failed"
        result.longrepr = (
            f"{row.server} {what} {clause}: remove it from the table in {table} (it says: {reason})"
        )
    elif call.excinfo is not None and call.excinfo.errisinstance(
        (AssertionError, pytest.fail.Exception, MlplatformError)
    ):
        result.outcome = "skipped"
        result.wasxfail = reason
        result.longrepr = None
