"""The fixtures of the servers suite, and what makes its table binding."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from mlplatform.ports.servers import Servers
from tests.conformance.conftest import cases_of, judge, server_marks

from .matrix import ROWS, TABLE, Row
from .site import Site


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "keeper" in metafunc.fixturenames:
        metafunc.parametrize(
            "keeper",
            [pytest.param(row, id=row.server, marks=server_marks(row.fixture)) for row in ROWS],
            scope="session",
        )


@pytest.fixture
def site(keeper: Row, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    """A fresh site on the row's keeper."""
    server = request.getfixturevalue(keeper.fixture) if keeper.fixture else tmp_path
    with keeper.site(server) as made:
        yield made


@pytest.fixture
def servers(site: Site) -> Servers:
    """An adapter on it."""
    return site.open()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, Any, None]:
    outcome = yield
    cases = cases_of(item)
    row = cases.pop("keeper", None)
    if isinstance(row, Row):
        judge(item, call, outcome.get_result(), row, f"servers, {row.scheme}", cases, TABLE)
